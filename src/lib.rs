//! Live audio over DNS: a server publishes sound as TXT records, a listener fetches them through any
//! resolver and plays them about a second later.
//!
//! [`server::Server`] and [`client::Client`] are the whole of it for a program that embeds them:
//!
//! ```no_run
//! use aodns::audio::{ProgrammeSource, WavSink};
//! use aodns::client::{Client, ClientConfig};
//! use aodns::server::{Server, ServerConfig};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let root: aodns::wire::Name = "music.example.com".parse()?;
//! let config = ServerConfig::new(root.clone(), vec![([127, 0, 0, 1], 5053).into()]);
//! let server = Server::start(config, Box::new(ProgrammeSource::new()))?;
//!
//! let config = ClientConfig::new(root, server.local_addrs());
//! let client = Client::start(config, Box::new(WavSink::new("out.wav")))?;
//! std::thread::sleep(std::time::Duration::from_secs(10));
//! println!("{} gaps", client.stop()?.play.playout.gaps);
//! server.stop()?;
//! # Ok(())
//! # }
//! ```
//!
//! The modules, from the bottom up; a module imports only from lines above its own, and below the
//! line of threads nothing knows a socket, a clock or chance (`tests/tidy.rs` checks it):
//!
//! | | modules |
//! | --- | --- |
//! | units of sound and time | [`units`] |
//! | octets and samples | [`wire`], [`ascii`], [`codec`], [`resample`] |
//! | what records carry; sound in and out | [`segment`], [`audio`] |
//! | state machines that take the time as an argument | [`window`], [`zone`], [`publication`]; [`lookup`], [`upstream`], [`follow`], [`fetch`], [`playout`] |
//! | threads joined by bounded channels | [`pipeline`] |
//! | sockets | [`responder`], [`server`], [`client`] |
//!
//! The library prints nothing, exits nowhere and reads no environment. What strangers send is
//! counted and never an error; [`error::Error`] tells what the machine would not do.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod ascii;
pub mod audio;
pub mod client;
pub mod codec;
pub mod error;
pub mod fetch;
pub mod follow;
pub mod lookup;
pub mod pipeline;
pub mod playout;
pub mod publication;
pub mod resample;
pub mod responder;
pub mod segment;
pub mod server;
pub mod units;
pub mod upstream;
pub mod window;
pub mod wire;
pub mod zone;

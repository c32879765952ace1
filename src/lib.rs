//! Live audio over DNS.
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

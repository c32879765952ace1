//! A server embedded in a program: publishes the built-in programme at 127.0.0.1:5053 for half a
//! minute.
//!
//! `cargo run --example broadcast`, and meanwhile
//! `dig @127.0.0.1 -p 5053 config.music.example.com TXT`.

use aodns::audio::ProgrammeSource;
use aodns::server::{Server, ServerConfig};
use std::time::Duration;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = "music.example.com".parse()?;
    let mut config = ServerConfig::new(root, vec![([127, 0, 0, 1], 5053).into()]);
    config.title = "Embedded".into();
    let server = Server::start(config, Box::new(ProgrammeSource::new()))?;
    std::thread::sleep(Duration::from_secs(30));
    let stats = server.stop()?;
    println!("{} segments, {} queries", stats.segments, stats.responder.queries());
    Ok(())
}

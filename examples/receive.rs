//! A listener embedded in a program: takes ten seconds of a stream into memory.
//!
//! `cargo run --example receive`, while the example `broadcast` runs.

use aodns::audio::MemorySink;
use aodns::client::{Client, ClientConfig};
use std::time::Duration;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = "music.example.com".parse()?;
    let config = ClientConfig::new(root, vec![([127, 0, 0, 1], 5053).into()]);
    let sink = MemorySink::new();
    let client = Client::start(config, Box::new(sink.clone()))?;
    std::thread::sleep(Duration::from_secs(10));
    let stats = client.stop()?;
    let peak = sink.to_vec().iter().map(|sample| sample.unsigned_abs()).max();
    println!(
        "{} segments, {} gaps, peak {}, latency {:?}",
        stats.follow.segments,
        stats.play.playout.gaps,
        peak.unwrap_or(0),
        stats.play.latency
    );
    Ok(())
}

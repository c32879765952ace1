//! What decoding alone costs, to be held against what listening costs.
//!
//! `cargo run --release --example decoding -- SECONDS`: encodes that much of the built-in programme
//! as `aodns serve` does by default, then decodes it at a stretch, a packet each 60 ms, and a segment
//! each 720 ms, and prints the CPU time of each in microseconds per second of sound; and the same of
//! playing the decoded sound a little faster, a segment each 720 ms, as a listener does whose sound card
//! has another clock than the server.

use aodns::ascii::AsciiKind;
use aodns::audio::programme::Programme;
use aodns::codec::{CodecKind, EncoderSettings, build_decoder, build_encoder};
use aodns::resample::Resampler;
use std::time::{Duration, Instant};

/// Characters of a string that the packet's text may take by default (docs/protocol.md).
const TEXT_CHARS: usize = 244;
/// Packets of a segment by default.
const SEGMENT_PACKETS: u32 = 12;
/// How much faster the sound is played.
const CORRECTION_PPM: f64 = 400.0;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let seconds: u32 = std::env::args().nth(1).ok_or("usage: decoding SECONDS")?.parse()?;
    let settings = EncoderSettings::new(CodecKind::Opus);
    let mut encoder = build_encoder(&settings)?;
    let format = settings.format;
    let samples = encoder.frame_samples();
    let frame = format.rate.duration(samples as u64);
    let programme = Programme::new(format);
    let mut pcm = vec![0; samples * format.channels.count()];
    let mut packet = vec![0; AsciiKind::default().build().packet_octets_max(TEXT_CHARS)];
    let mut packets = Vec::new();
    for n in 0..u64::from(seconds) * u64::from(format.rate.hz()) / samples as u64 {
        programme.render(n * samples as u64, &mut pcm);
        let length = encoder.encode(&pcm, &mut packet)?;
        packets.push(packet[..length].to_vec());
    }
    let tell = |manner: &str, used: Duration| {
        println!("{manner} {:.0}", used.as_secs_f64() * 1e6 / f64::from(seconds));
    };
    for (manner, together) in [("alone", u32::MAX), ("packets", 1), ("segments", SEGMENT_PACKETS)] {
        let mut decoder = build_decoder(CodecKind::Opus, format, Some(samples), format.rate)?;
        let (began, used) = (Instant::now(), cpu()?);
        for (packet, n) in packets.iter().zip(0u32..) {
            if n % together == 0 {
                std::thread::sleep((frame * n).saturating_sub(began.elapsed()));
            }
            decoder.decode(Some(packet), &mut pcm)?;
        }
        tell(manner, cpu()? - used);
    }
    let mut resampler = Resampler::new(format.channels, format.rate, format.rate);
    resampler.set_correction(CORRECTION_PPM);
    let mut resampled = Vec::new();
    let (began, used) = (Instant::now(), cpu()?);
    for n in 0..packets.len() as u32 {
        if n % SEGMENT_PACKETS == 0 {
            std::thread::sleep((frame * n).saturating_sub(began.elapsed()));
        }
        resampled.clear();
        resampler.process(&pcm, &mut resampled);
    }
    tell("corrected", cpu()? - used);
    Ok(())
}

/// CPU time of this thread so far.
fn cpu() -> Result<Duration, Box<dyn std::error::Error>> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Ok(Duration::try_from(time)?)
}

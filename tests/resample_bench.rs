//! What sample rate conversion costs. Prints, never asserts; run it on the machine in question:
//! `cargo test --release --test resample_bench -- --ignored --nocapture`

use aodns::resample::Resampler;
use aodns::units::{Channels, SampleRate};
use std::time::Instant;

const PAIRS: [(u32, u32); 8] = [
    (44_100, 16_000),
    (48_000, 16_000),
    (16_000, 16_000),
    (8_000, 48_000),
    (16_000, 48_000),
    (48_000, 48_000),
    (11_025, 24_000),
    (96_000, 16_000),
];

#[test]
#[ignore = "prints times"]
fn nanoseconds_per_output_sample() {
    for (from, to) in PAIRS {
        for ppm in [0.0, 100.0] {
            let rate = |hz| SampleRate::new(hz).expect("a rate");
            let input: Vec<i16> = (0..from).map(|n| (n * 7919 % 20_000) as i16 - 10_000).collect();
            let began = Instant::now();
            let mut resampler = Resampler::new(Channels::MONO, rate(from), rate(to));
            resampler.set_correction(ppm);
            let built = began.elapsed();
            let mut out = Vec::with_capacity(to as usize * 11);
            let began = Instant::now();
            for _ in 0..10 {
                for piece in input.chunks(from as usize * 6 / 100) {
                    resampler.process(piece, &mut out);
                }
            }
            let nanos = began.elapsed().as_nanos() as f64 / out.len() as f64;
            println!(
                "{from:>6} to {to:>6} Hz mono, {ppm:>3} ppm: {nanos:6.1} ns per output sample, \
                 {:.2} % of real time; table made in {built:?}",
                nanos * f64::from(to) / 1e7,
            );
        }
    }
}

//! What the listener does to the sound, by numbers: exact while nothing is corrected, better than
//! 60 dB while drift is, no click at a gap, a restart or a correction.
#![cfg(feature = "opus")]

use aodns::codec::{self, Application, CodecKind, EncoderSettings};
use aodns::follow::StreamParameters;
use aodns::pipeline::render::Renderer;
use aodns::playout::Play;
use aodns::resample::Resampler;
use aodns::units::{Channels, Format, SampleRate};
use std::f64::consts::PI;

const RATE: usize = 16_000;
const FRAME: usize = 960;

fn format() -> Format {
    Format::new(SampleRate::HZ_16000, Channels::MONO)
}

fn stream() -> StreamParameters {
    StreamParameters { frame_samples: Some(FRAME as u32), ..StreamParameters::default() }
}

fn tone(hz: f64, amplitude: f64, samples: usize) -> Vec<i16> {
    let step = 2.0 * PI * hz / RATE as f64;
    (0..samples).map(|n| (amplitude * (step * n as f64).sin()).round() as i16).collect()
}

/// Packets of a tone, as a server makes them.
fn packets(hz: f64, count: usize) -> Vec<Vec<u8>> {
    let settings = EncoderSettings {
        application: Application::Audio,
        ..EncoderSettings::new(CodecKind::Opus)
    };
    let mut encoder = codec::build_encoder(&settings).expect("an encoder");
    let pcm = tone(hz, 8_000.0, FRAME * count);
    let encode = |frame: &[i16]| {
        let mut packet = vec![0; 198];
        let length = encoder.encode(frame, &mut packet).expect("a packet");
        packet.truncate(length);
        packet
    };
    pcm.chunks(FRAME).map(encode).collect()
}

/// The packets decoded, and nothing else.
fn reference(packets: &[Vec<u8>]) -> Vec<i16> {
    let rate = SampleRate::HZ_16000;
    let mut decoder =
        codec::build_decoder(CodecKind::Opus, format(), Some(FRAME), rate).expect("a decoder");
    let mut pcm = vec![0; FRAME];
    let mut all = Vec::new();
    for packet in packets {
        decoder.decode(Some(packet), &mut pcm).expect("a good packet");
        all.extend_from_slice(&pcm);
    }
    all
}

fn renderer() -> Renderer {
    Renderer::new(&stream(), format()).expect("a renderer")
}

/// The greatest step between two samples.
fn step_max(pcm: &[i16]) -> i32 {
    let steps = pcm.windows(2).map(|two| (i32::from(two[1]) - i32::from(two[0])).abs());
    steps.max().unwrap_or(0)
}

/// The greatest bend: what a click is, where a step may be just loud.
fn bend_max(pcm: &[i16]) -> i32 {
    let at = |sample: i16| i32::from(sample);
    let bends = pcm.windows(3).map(|w| (at(w[0]) - 2 * at(w[1]) + at(w[2])).abs());
    bends.max().unwrap_or(0)
}

/// How far everything but a sine of this frequency is below it, in dB (least squares).
fn snr_db(pcm: &[i16], hz: f64) -> f64 {
    let step = 2.0 * PI * hz / RATE as f64;
    let (mut ss, mut cc, mut sc, mut ys, mut yc) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for (n, &sample) in pcm.iter().enumerate() {
        let (s, c) = (step * n as f64).sin_cos();
        let y = f64::from(sample);
        (ss, cc, sc) = (ss + s * s, cc + c * c, sc + s * c);
        (ys, yc) = (ys + y * s, yc + y * c);
    }
    let determinant = ss * cc - sc * sc;
    let (a, b) = ((ys * cc - yc * sc) / determinant, (yc * ss - ys * sc) / determinant);
    let residue: f64 = pcm
        .iter()
        .enumerate()
        .map(|(n, &sample)| {
            let (s, c) = (step * n as f64).sin_cos();
            (f64::from(sample) - a * s - b * c).powi(2)
        })
        .sum();
    10.0 * ((a * a + b * b) / 2.0 * pcm.len() as f64 / residue).log10()
}

#[test]
fn without_a_correction_the_sound_is_that_of_the_decoder_bit_by_bit() {
    let packets = packets(440.0, 50);
    let expected = reference(&packets);
    let mut renderer = renderer();
    let mut heard = Vec::new();
    for packet in &packets {
        let (pcm, wrong) = renderer.render(&Play::Packet(packet.clone()));
        assert_eq!(wrong, None);
        heard.extend_from_slice(pcm);
    }
    assert_eq!(heard.len(), expected.len());
    // It fades in over 20 ms.
    assert_eq!(heard[RATE / 50..], expected[RATE / 50..]);
}

#[test]
fn who_begins_midway_hears_it_faded_in() {
    let packets = packets(440.0, 4);
    let expected = reference(&packets);
    let mut renderer = renderer();
    for packet in &packets[..2] {
        // For the decoder to have a past; nobody hears it.
        renderer.render(&Play::Prime(packet.clone()));
    }
    let heard = renderer.render(&Play::Packet(packets[2].clone())).0.to_vec();
    let expected = &expected[2 * FRAME..3 * FRAME];
    let peak = |pcm: &[i16]| pcm.iter().map(|sample| sample.unsigned_abs()).max().unwrap_or(0);
    assert!(peak(&expected[..RATE / 500]) > 1000, "it would begin loud");
    assert!(peak(&heard[..RATE / 500]) < peak(expected) / 8, "{}", peak(&heard[..RATE / 500]));
    assert_eq!(heard[RATE / 50..], expected[RATE / 50..]);
}

#[test]
fn after_a_correction_it_is_exact_again() {
    let packets = packets(440.0, 400);
    let expected = reference(&packets);
    let mut renderer = renderer();
    let mut heard = Vec::new();
    for (n, packet) in packets.iter().enumerate() {
        renderer.set_correction(if (20..300).contains(&n) { 100.0 } else { 0.0 });
        let (pcm, _) = renderer.render(&Play::Packet(packet.clone()));
        heard.extend_from_slice(pcm);
    }
    assert_eq!(renderer.correction_ppm(), 0.0);
    let tail = 80 * FRAME;
    assert_eq!(heard[heard.len() - tail..], expected[expected.len() - tail..]);
    // 280 frames of 60 ms at 100 ppm: 26.9 samples less.
    let shorter = expected.len() - heard.len();
    assert!((25..=29).contains(&shorter), "{shorter}");
    assert!(step_max(&heard) <= step_max(&expected) + 2);
    assert!(bend_max(&heard) <= bend_max(&expected) + 4);
}

#[test]
fn a_tone_of_1_khz_keeps_60_db_while_drift_of_100_ppm_is_corrected() {
    for ppm in [100.0, -100.0, 500.0, 10_000.0] {
        let rate = SampleRate::HZ_16000;
        let mut resampler = Resampler::new(Channels::MONO, rate, rate);
        let input = tone(1_000.0, 8_000.0, 24 * RATE);
        let mut heard = Vec::new();
        for piece in input.chunks(FRAME) {
            resampler.set_correction(ppm);
            resampler.process(piece, &mut heard);
        }
        // The largest is reached after 10 s.
        let settled = &heard[11 * RATE..21 * RATE];
        let snr = snr_db(settled, 1_000.0 * (1.0 + ppm * 1e-6));
        println!("{ppm:+} ppm: {snr:.1} dB");
        assert!(snr > 60.0, "{ppm}: {snr}");
        // From the first sample to the last, the change of pace included.
        assert!(bend_max(&heard) <= bend_max(&input) * 103 / 100 + 2, "{ppm}");
    }
}

#[test]
fn a_gap_fades_out_within_120_ms_and_back_in_without_a_click() {
    let packets = packets(300.0, 60);
    let expected = reference(&packets);
    let mut renderer = renderer();
    let mut heard = Vec::new();
    for (n, packet) in packets.iter().enumerate() {
        let play = match n {
            20 | 21 | 40 => Play::Conceal,
            22..=31 => Play::Silence,
            _ => Play::Packet(packet.clone()),
        };
        heard.extend_from_slice(renderer.render(&play).0);
    }
    let silence = &heard[22 * FRAME..32 * FRAME];
    assert!(silence.iter().all(|&sample| sample == 0), "silent after 120 ms");
    let (most, most_expected) = (step_max(&heard), step_max(&expected));
    println!("steps: {most} heard, {most_expected} in the source");
    assert!(most <= most_expected * 11 / 10, "{most} beyond {most_expected}");
    let peak = |pcm: &[i16]| pcm.iter().map(|&sample| i32::from(sample).abs()).max().unwrap_or(0);
    assert!(peak(&heard) <= peak(&expected) * 11 / 10);
    // What follows a gap is as loud as ever once the decoder has settled.
    let power = |pcm: &[i16]| pcm.iter().map(|&sample| f64::from(sample).powi(2)).sum::<f64>();
    let settled = 36 * FRAME..40 * FRAME;
    let ratio = power(&heard[settled.clone()]) / power(&expected[settled]);
    assert!((0.7..1.4).contains(&ratio), "{ratio}");
}

#[test]
fn a_restart_is_no_burst() {
    let (first, second) = (packets(300.0, 20), packets(700.0, 20));
    let mut renderer = renderer();
    let mut heard = Vec::new();
    for packet in &first {
        heard.extend_from_slice(renderer.render(&Play::Packet(packet.clone())).0);
    }
    for play in [Play::Conceal, Play::Conceal, Play::Silence, Play::Silence] {
        heard.extend_from_slice(renderer.render(&play).0);
    }
    renderer.renew().expect("a decoder");
    for packet in &second {
        heard.extend_from_slice(renderer.render(&Play::Packet(packet.clone())).0);
    }
    let (a, b) = (reference(&first), reference(&second));
    let most_expected = step_max(&a).max(step_max(&b));
    let most = step_max(&heard);
    println!("steps: {most} heard, {most_expected} in the source");
    assert!(most <= most_expected * 11 / 10);
    // The new run is decoded from its beginning, without the old one in the decoder.
    let tail = 18 * FRAME;
    assert_eq!(heard[heard.len() - tail..], b[b.len() - tail..]);
}

#[test]
fn a_packet_of_another_duration_is_concealed_and_told_apart() {
    let settings = EncoderSettings {
        frame: Some(std::time::Duration::from_millis(20)),
        ..EncoderSettings::new(CodecKind::Opus)
    };
    let mut encoder = codec::build_encoder(&settings).expect("an encoder");
    let mut packet = vec![0; 198];
    let length = encoder.encode(&tone(440.0, 8_000.0, FRAME / 3), &mut packet).expect("a packet");
    packet.truncate(length);
    let mut renderer = renderer();
    let (pcm, wrong) = renderer.render(&Play::Packet(packet));
    assert_eq!(pcm.len(), FRAME, "time goes on at its pace");
    assert!(matches!(wrong, Some(codec::CodecError::WrongDuration { .. })), "{wrong:?}");
}

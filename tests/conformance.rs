//! What every text encoding and every codec promises, over all kinds there are.
//!
//! A new kind is tested here before its author has written a test.

use aodns::ascii::{AsciiKind, fuzz_ascii};
use aodns::codec::{
    Application, CodecError, CodecKind, Decoder, Encoder, EncoderSettings, build_decoder,
    build_encoder, fuzz_codec,
};
use aodns::units::{Channels, Format, SampleRate};
use std::time::{Duration, Instant};

#[path = "support/stamp.rs"]
mod stamp;
use stamp::{Stamp, StampDecoder, StampEncoder, stamp_of};

/// The base layer's default: 250 characters a string, 6 of them the prefix.
const TEXT_CHARS_MAX: usize = 244;

/// xorshift64*: the same on every machine.
struct Noise(u64);

impl Noise {
    fn new(seed: u64) -> Noise {
        Noise(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn sample(&mut self) -> i16 {
        (self.next() >> 48) as i16
    }

    fn octets(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| (self.next() >> 56) as u8).collect()
    }
}

/// What is fed to the encoders. The last two are what limits are broken with.
#[derive(Clone, Copy, Debug)]
enum Signal {
    Silence,
    Tone,
    Noise,
    Square,
}

impl Signal {
    const ALL: [Signal; 4] = [Signal::Silence, Signal::Tone, Signal::Noise, Signal::Square];

    /// `samples` per channel in `format`, interleaved; the channels differ but for silence.
    fn pcm(self, format: Format, samples: usize) -> Vec<i16> {
        let mut noise = Noise::new(samples as u64);
        let rate = format.rate.hz() as usize;
        let sample = |at: usize, channel: usize| match self {
            Signal::Silence => 0,
            Signal::Tone => {
                let hz = [440.0, 660.0][channel];
                let phase = std::f64::consts::TAU * hz * at as f64 / rate as f64;
                (phase.sin() * 8_000.0) as i16
            }
            Signal::Noise => noise.sample(),
            Signal::Square => {
                // 1,000 Hz at full scale, the right channel inverted.
                let high = (at * 2_000 / rate) % 2 == channel;
                if high { i16::MAX } else { i16::MIN }
            }
        };
        let places = (0..samples).flat_map(|at| (0..format.channels.count()).map(move |c| (at, c)));
        let mut sample = sample;
        places.map(|(at, channel)| sample(at, channel)).collect()
    }
}

fn built() -> impl Iterator<Item = CodecKind> {
    CodecKind::ALL.into_iter().filter(|kind| kind.is_built())
}

/// Every setting that an encoder of `kind` takes, but for bit rate and complexity.
fn settings(kind: CodecKind) -> Vec<EncoderSettings> {
    let mut all = Vec::new();
    for &rate in kind.rates() {
        for channels in [Channels::MONO, Channels::STEREO] {
            for &frame in kind.frames() {
                for application in Application::ALL {
                    let mut settings = EncoderSettings::new(kind);
                    settings.format = Format::new(rate, channels);
                    settings.frame = Some(frame);
                    settings.application = application;
                    if settings.frame_samples().is_ok() {
                        all.push(settings);
                    }
                }
            }
        }
    }
    all
}

fn encoder(settings: &EncoderSettings) -> Box<dyn Encoder> {
    build_encoder(settings).unwrap_or_else(|error| panic!("{settings:?}: {error}"))
}

fn decoder(settings: &EncoderSettings) -> Box<dyn Decoder> {
    let samples = settings.frame_samples().expect("settings that an encoder takes");
    build_decoder(settings.kind, settings.format, Some(samples), settings.format.rate)
        .unwrap_or_else(|error| panic!("{settings:?}: {error}"))
}

#[test]
fn texts_return_their_packets_at_every_length() {
    let mut noise = Noise::new(1);
    for octets in 0..300 {
        fuzz_ascii(&noise.octets(octets));
        fuzz_ascii(&vec![0x00; octets]);
        fuzz_ascii(&vec![0xff; octets]);
    }
}

#[test]
fn texts_are_strings_of_a_txt_record() {
    for kind in AsciiKind::ALL {
        let ascii = kind.build();
        let octets_max = ascii.packet_octets_max(TEXT_CHARS_MAX);
        // Less than hexadecimal leaves would be no use; more than 8 bits a character cannot be.
        assert!((TEXT_CHARS_MAX / 2..TEXT_CHARS_MAX).contains(&octets_max), "{kind}");
        for octets in 0..=octets_max {
            let mut text = Vec::new();
            ascii.encode(&vec![0xff; octets], &mut text);
            assert!(text.len() <= TEXT_CHARS_MAX, "{kind}: {octets}");
            assert!(!text.contains(&b'\'') && text.is_ascii(), "{kind}: {octets}");
        }
    }
}

#[test]
fn packets_fit_decode_and_last_a_frame() {
    for kind in built() {
        let all = settings(kind);
        let formats = if kind == CodecKind::Opus { 5 * 2 * 4 * 3 } else { 1 };
        assert_eq!(all.len(), formats, "{kind}");
        for settings in all {
            let format = settings.format;
            let min = kind.packet_octets_min();
            for signal in Signal::ALL {
                for cap in [198, 60, 20, min] {
                    let mut encoder = encoder(&settings);
                    let mut decoder = decoder(&settings);
                    let samples = encoder.frame_samples();
                    assert_eq!(Ok(samples), settings.frame_samples());
                    assert_eq!(decoder.frame_samples(), samples);
                    assert_eq!(decoder.format(), format);
                    let len = samples * format.channels.count();
                    let frames = 4;
                    let pcm = signal.pcm(format, samples * frames);
                    let mut out = vec![0; len];
                    for pcm in pcm.chunks(len) {
                        let what = || format!("{settings:?} {signal:?} {cap}");
                        let mut packet = vec![0; cap];
                        let octets = encoder.encode(pcm, &mut packet);
                        let octets = octets.unwrap_or_else(|error| panic!("{}: {error}", what()));
                        assert!((1..=cap).contains(&octets), "{}: {octets}", what());
                        let decoded = decoder.decode(Some(&packet[..octets]), &mut out);
                        assert_eq!(decoded, Ok(samples), "{}", what());
                    }
                }
            }
        }
    }
}

#[test]
fn a_tone_is_heard_and_silence_is_silent() {
    for kind in built() {
        for settings in settings(kind) {
            let mut loudness = [0.0, 0.0];
            for (signal, loudness) in [Signal::Silence, Signal::Tone].into_iter().zip(&mut loudness)
            {
                let mut encoder = encoder(&settings);
                let mut decoder = decoder(&settings);
                let len = encoder.frame_samples() * settings.format.channels.count();
                let frames = settings.format.rate.hz() as usize / encoder.frame_samples();
                let pcm = signal.pcm(settings.format, encoder.frame_samples() * frames);
                let mut out = vec![0; len];
                let mut energy = 0.0;
                for pcm in pcm.chunks(len) {
                    let mut packet = [0; 198];
                    let octets = encoder.encode(pcm, &mut packet).expect("a packet");
                    decoder.decode(Some(&packet[..octets]), &mut out).expect("a frame");
                    energy += out.iter().map(|&sample| f64::from(sample).powi(2)).sum::<f64>();
                }
                *loudness = (energy / (frames * len) as f64).sqrt();
            }
            let [silence, tone] = loudness;
            // The tone's own root mean square is 5,657. Codec2 is for voices.
            let least = if kind == CodecKind::Opus { 3_000.0 } else { 200.0 };
            assert!(silence < 40.0, "{settings:?}: silence is {silence}");
            assert!((least..12_000.0).contains(&tone), "{settings:?}: the tone is {tone}");
        }
    }
}

#[test]
fn lost_frames_are_concealed_and_then_fade() {
    for kind in built() {
        for settings in settings(kind) {
            let mut encoder = encoder(&settings);
            let mut decoder = decoder(&settings);
            let samples = encoder.frame_samples();
            let len = samples * settings.format.channels.count();
            let mut out = vec![1; len];
            // Before the first packet there is nothing to go on with.
            assert_eq!(decoder.decode(None, &mut out), Ok(samples), "{settings:?}");
            assert!(out.iter().all(|sample| sample.unsigned_abs() < 20), "{settings:?}");

            let frames = settings.format.rate.hz() as usize / samples;
            let pcm = Signal::Tone.pcm(settings.format, samples * frames);
            let mut packet = [0; 198];
            let mut octets = 0;
            for pcm in pcm.chunks(len) {
                octets = encoder.encode(pcm, &mut packet).expect("a packet");
                decoder.decode(Some(&packet[..octets]), &mut out).expect("a frame");
            }
            let energy = |pcm: &[i16]| pcm.iter().map(|&s| f64::from(s).powi(2)).sum::<f64>();
            assert_eq!(decoder.decode(None, &mut out), Ok(samples), "{settings:?}");
            assert!(energy(&out) > 0.0, "{settings:?}: one lost frame is heard");
            // A second without packets: after steady sound, libopus would go on for ever.
            for _ in 1..frames {
                assert_eq!(decoder.decode(None, &mut out), Ok(samples), "{settings:?}");
            }
            assert_eq!(energy(&out), 0.0, "{settings:?}: sound without packets");
            // And it plays on, from silence.
            let decoded = decoder.decode(Some(&packet[..octets]), &mut out);
            assert_eq!(decoded, Ok(samples), "{settings:?}");
            assert_eq!(out[0], 0, "{settings:?}: a click");
            assert!(energy(&out) > 0.0, "{settings:?}");
        }
    }
}

#[test]
fn hostile_packets_are_values_and_do_no_harm() {
    for kind in built() {
        for settings in settings(kind) {
            let mut noise = Noise::new(7);
            let mut encoder = encoder(&settings);
            let mut decoder = decoder(&settings);
            let samples = encoder.frame_samples();
            let len = samples * settings.format.channels.count();
            let pcm = Signal::Tone.pcm(settings.format, samples);
            let mut out = vec![0; len];
            for round in 0..40 {
                let octets = noise.next() as usize % 199;
                let hostile = noise.octets(octets);
                match decoder.decode(Some(&hostile), &mut out) {
                    Ok(decoded) => assert_eq!(decoded, samples),
                    Err(CodecError::Damaged) => {}
                    Err(CodecError::WrongDuration { samples: other }) => assert_ne!(other, samples),
                    Err(error) => panic!("{settings:?}: {error}"),
                }
                let mut packet = [0; 198];
                let octets = encoder.encode(&pcm, &mut packet).expect("a packet");
                let decoded = decoder.decode(Some(&packet[..octets]), &mut out);
                assert_eq!(decoded, Ok(samples), "{settings:?} in round {round}");
                // Cut, it is refused or sounds wrong, but lasts as long.
                let cut = decoder.decode(Some(&packet[..octets / 2]), &mut out);
                assert!(cut.is_err() || cut == Ok(samples), "{settings:?} in round {round}");
                assert_eq!(decoder.frame_samples(), samples);
            }
            assert_eq!(decoder.decode(Some(&[]), &mut out), Err(CodecError::Damaged));
        }
    }
}

#[test]
fn wrong_lengths_are_errors() {
    for kind in built() {
        for settings in settings(kind) {
            let mut encoder = encoder(&settings);
            let mut decoder = decoder(&settings);
            let needed = encoder.frame_samples() * settings.format.channels.count();
            let mut packet = [0; 198];
            for len in [0, 1, needed - 1, needed + 1, 2 * needed] {
                let encoded = encoder.encode(&vec![0; len], &mut packet);
                assert_eq!(encoded, Err(CodecError::FrameLength { len, needed }));
            }
            let pcm = vec![0; needed];
            let refused = encoder.encode(&pcm, &mut []);
            assert!(matches!(refused, Err(CodecError::PacketCap { octets: 0, .. })), "{refused:?}");
            let octets = encoder.encode(&pcm, &mut packet).expect("a packet");
            for len in [0, needed - 1] {
                let error = Err(CodecError::OutputLength { len, needed });
                let mut out = vec![0; len];
                assert_eq!(decoder.decode(Some(&packet[..octets]), &mut out), error);
                assert_eq!(decoder.decode(None, &mut out), error);
            }
        }
    }
}

#[test]
fn fuzzing_bodies_run_on_noise() {
    let mut noise = Noise::new(11);
    for select in 0..=255 {
        let mut octets = noise.octets(2_000);
        octets[0] = select;
        fuzz_codec(&octets);
        fuzz_ascii(&octets[..usize::from(select)]);
    }
}

#[test]
fn the_test_codec_numbers_frames() {
    let format = Format::new(SampleRate::HZ_8000, Channels::MONO);
    let mut encoder = StampEncoder::new(format, 480, 126);
    let mut decoder = StampDecoder::new(format, 480);
    let mut pcm = vec![0; 480];
    assert_eq!(stamp_of(&pcm), Stamp::Foreign);
    for number in 0..70_000 {
        let mut packet = [0; 198];
        assert_eq!(encoder.encode(&pcm, &mut packet), Ok(126));
        assert_eq!(decoder.decode(Some(&packet[..126]), &mut pcm), Ok(480));
        assert_eq!(stamp_of(&pcm), Stamp::Frame(number));
    }
    assert_eq!(decoder.decode(None, &mut pcm), Ok(480));
    assert_eq!(stamp_of(&pcm), Stamp::Concealed);
    assert_eq!(decoder.decode(Some(&[0; 7]), &mut pcm), Err(CodecError::Damaged));
    assert_eq!(decoder.decode(Some(b"12345678x"), &mut pcm), Err(CodecError::Damaged));
}

/// Cost of each stage on this machine; `cargo test --release --test conformance -- --ignored
/// --nocapture`.
#[test]
#[ignore = "prints timings"]
fn benchmark() {
    println!("{:<9} {:>10} {:>10}", "text", "encode", "decode");
    let packet = Noise::new(3).octets(198);
    for kind in AsciiKind::ALL {
        let ascii = kind.build();
        let mut text = Vec::new();
        ascii.encode(&packet, &mut text);
        let mut buffer = Vec::new();
        let encode = time(|| {
            buffer.clear();
            ascii.encode(&packet, &mut buffer);
        });
        let decode = time(|| {
            buffer.clear();
            assert!(ascii.decode(&text, &mut buffer).is_ok());
        });
        let rate = |time: Duration| packet.len() as f64 / time.as_secs_f64() / 1e6;
        println!("{kind:<9} {:>5.0} MB/s {:>5.0} MB/s", rate(encode), rate(decode));
    }
    println!("\n{:<44} {:>7} {:>11} {:>11}", "codec, µs a frame", "octets", "encode", "decode");
    for kind in built() {
        for settings in settings(kind) {
            let longest = settings.frame.as_ref() == kind.frames().last();
            if !longest || settings.application == Application::LowDelay {
                continue;
            }
            let complexities: &[Option<u8>] =
                if kind == CodecKind::Opus { &[Some(0), Some(5), None, Some(10)] } else { &[None] };
            for &complexity in complexities {
                let settings = EncoderSettings { complexity, ..settings };
                let mut encoder = encoder(&settings);
                let mut decoder = decoder(&settings);
                let len = encoder.frame_samples() * settings.format.channels.count();
                // Something between speech and music: a tone in soft noise.
                let tone = Signal::Tone.pcm(settings.format, encoder.frame_samples() * 50);
                let noise = Signal::Noise.pcm(settings.format, encoder.frame_samples() * 50);
                let pcm: Vec<i16> = tone.iter().zip(noise).map(|(a, b)| a + b / 16).collect();
                let mut packets = Vec::new();
                let start = Instant::now();
                for pcm in pcm.chunks(len) {
                    let mut packet = [0; 198];
                    let octets = encoder.encode(pcm, &mut packet).expect("a packet");
                    packets.push(packet[..octets].to_vec());
                }
                let encode = start.elapsed() / 50;
                let mut out = vec![0; len];
                let start = Instant::now();
                for packet in &packets {
                    decoder.decode(Some(packet), &mut out).expect("a frame");
                }
                let decode = start.elapsed() / 50;
                let octets = packets.iter().map(Vec::len).sum::<usize>() / packets.len();
                let effort =
                    complexity.map_or(String::from("default"), |effort| effort.to_string());
                println!(
                    "{kind:<12} {:<16} {:<6} {effort:<7} {octets:>7} {:>8} µs {:>8} µs",
                    settings.format.to_string(),
                    settings.application.name(),
                    encode.as_micros(),
                    decode.as_micros(),
                );
            }
        }
    }
}

/// The mean time of one call.
fn time(mut call: impl FnMut()) -> Duration {
    const CALLS: u32 = 50_000;
    let start = Instant::now();
    for _ in 0..CALLS {
        call();
    }
    start.elapsed() / CALLS
}

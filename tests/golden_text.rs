//! Golden vectors of texts and packets: what a program of the base layer wrote, byte for byte.
//!
//! Sources: `base91.json` and `responses.json` are described in `tests/vectors/README.md`;
//! `seed_listing.txt` is the `dig` listing in the description that the project starts from.

use aodns::ascii::AsciiKind;

#[path = "support/json.rs"]
mod json;
use json::Json;

#[path = "support/listing.rs"]
mod seed;

const BASE91: &str = include_str!("vectors/base91.json");
const RESPONSES: &str = include_str!("vectors/responses.json");
const SEED_LISTING: &str = include_str!("vectors/seed_listing.txt");

fn decode(text: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    let decoded = AsciiKind::Base91.build().decode(text, &mut packet);
    assert_eq!(decoded, Ok(()), "{}", text.escape_ascii());
    packet
}

fn encode(packet: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    AsciiKind::Base91.build().encode(packet, &mut text);
    text
}

fn unhex(hex: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    AsciiKind::Hex.build().decode(hex.as_bytes(), &mut octets).expect("a vector's octets");
    octets
}

#[test]
fn base91_pairs_both_ways() {
    let pairs = Json::read(BASE91);
    assert_eq!(pairs.array().len(), 53);
    for pair in pairs.array() {
        let (octets, text) = (unhex(pair["hex"].str()), pair["text"].str());
        assert_eq!(encode(&octets), text.as_bytes(), "{text}");
        assert_eq!(decode(text.as_bytes()), octets, "{text}");
    }
}

/// An exchange that carries frames.
struct Exchange {
    setting: String,
    /// Samples per channel in each packet, at the setting's rate.
    samples: usize,
    /// Text and packet of each frame.
    frames: Vec<(String, Vec<u8>)>,
}

fn exchanges() -> Vec<Exchange> {
    let mut found = Vec::new();
    for exchange in Json::read(RESPONSES).array() {
        let decoded = &exchange["decoded"];
        let Some(frames) = decoded.get("frames") else { continue };
        let frames = frames.array().iter().map(|frame| {
            let [_, text, packet] = frame.array() else { panic!("{frame:?}") };
            (text.str().to_owned(), unhex(packet.str()))
        });
        found.push(Exchange {
            setting: exchange["setting"].str().to_owned(),
            samples: decoded["samples_per_channel_per_packet"].number() as usize,
            frames: frames.collect(),
        });
    }
    found
}

#[test]
fn every_published_text_is_its_packet() {
    let exchanges = exchanges();
    assert_eq!(exchanges.len(), 14);
    let mut count = 0;
    for Exchange { setting, samples, frames } in exchanges {
        // 60 ms at 8 and at 16 kHz.
        assert!([480, 960].contains(&samples), "{setting}: {samples}");
        for (text, packet) in frames {
            assert_eq!(decode(text.as_bytes()), packet, "{setting}: {text}");
            assert_eq!(encode(&packet), text.as_bytes(), "{setting}: {text}");
            count += 1;
        }
    }
    assert_eq!(count, 212);
}

/// The strings of the listing with index and text, in the order of the listing.
fn listing() -> Vec<(usize, Vec<u8>)> {
    let strings = seed::strings(SEED_LISTING).into_iter().map(|string| {
        let (index, rest) = string.split_at(3);
        let text = rest.strip_prefix(b"'''").expect("three quotes after the index");
        let index = std::str::from_utf8(index).expect("digits").parse().expect("digits");
        (index, text.to_vec())
    });
    strings.collect()
}

#[test]
fn the_seed_listing_is_nineteen_packets_in_any_order() {
    let mut strings = listing();
    assert_eq!(strings.len(), 19);
    assert!(!strings.is_sorted(), "the listing is printed as a resolver shuffled it");
    strings.sort();
    for (place, (index, text)) in strings.iter().enumerate() {
        assert_eq!(*index, place);
        let packet = decode(text);
        assert!((71..=87).contains(&packet.len()), "{index}: {} octets", packet.len());
        assert_eq!(encode(&packet), *text, "{index}");
    }
    let octets: Vec<usize> = strings.iter().map(|(_, text)| decode(text).len()).collect();
    assert_eq!((octets.iter().min(), octets.iter().max()), (Some(&71), Some(&87)));
}

#[test]
fn backslashes_of_a_listing_are_undone() {
    assert_eq!(seed::unescape(r#"a\"b\\c\0009\255"#), b"a\"b\\c\x009\xff");
}

#[cfg(feature = "opus")]
mod sound {
    use super::{Exchange, decode, exchanges, listing};
    use aodns::codec::{CodecKind, FRAME_SAMPLES_MAX, build_decoder};
    use aodns::units::{Channels, Format, SampleRate};

    /// Reads "16000 Hz, 2 channels, ...".
    fn format(setting: &str) -> Format {
        let mut words = setting.split(' ');
        let mut number = || words.find_map(|word| word.parse::<u32>().ok());
        let rate = number().and_then(SampleRate::new).expect("a rate");
        let channels = number().and_then(|count| Channels::new(count as u16)).expect("channels");
        Format::new(rate, channels)
    }

    #[test]
    fn every_published_packet_decodes_at_every_rate() {
        let mut formats = std::collections::BTreeSet::new();
        for Exchange { setting, samples, frames } in exchanges() {
            let stream = format(&setting);
            formats.insert((stream.rate, stream.channels));
            for told in [Some(samples), None] {
                for rate in SampleRate::STREAM_RATES {
                    let mut decoder =
                        build_decoder(CodecKind::Opus, stream, told, rate).expect("a decoder");
                    let wanted = samples * rate.hz() as usize / stream.rate.hz() as usize;
                    let mut pcm = vec![0; 2 * FRAME_SAMPLES_MAX];
                    for (text, packet) in &frames {
                        let decoded = decoder.decode(Some(packet), &mut pcm);
                        assert_eq!(decoded, Ok(wanted), "{setting} at {rate}: {text}");
                        assert_eq!(decoder.frame_samples(), wanted);
                        assert_eq!(decoder.format(), Format::new(rate, stream.channels));
                    }
                }
            }
        }
        assert_eq!(formats.len(), 4, "8 and 16 kHz, mono and stereo");
    }

    #[test]
    fn the_seed_listing_is_1140_ms_of_sound() {
        let stream = CodecKind::Opus.format_default();
        let mut decoder =
            build_decoder(CodecKind::Opus, stream, Some(960), stream.rate).expect("a decoder");
        let mut strings = listing();
        strings.sort();
        let mut pcm = vec![0; 960];
        let mut samples = 0;
        let mut loudest = 0;
        for (_, text) in strings {
            samples += decoder.decode(Some(&decode(&text)), &mut pcm).expect("a good packet");
            loudest = pcm.iter().fold(loudest, |most, sample| sample.unsigned_abs().max(most));
        }
        assert_eq!(samples, 18_240);
        assert_eq!(stream.rate.duration(samples as u64).as_millis(), 1_140);
        // A quiet room. Opus decoders may differ in the last bits.
        assert!((35..=55).contains(&loudest), "{loudest}");
    }
}

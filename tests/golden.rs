//! Golden vectors through the reader: whole messages of an existing server, the lists that it
//! publishes, and the listing in the description that the project starts from.
//!
//! `tests/golden_text.rs` has the texts and packets by themselves. Sources as there.

use aodns::ascii::AsciiKind;
use aodns::segment::{Reassembled, decode_list, encode_list};
use aodns::wire::{Answer, Name, ParseError, Query, QueryTemplate, Rcode, Reading, Rtype};

#[path = "support/json.rs"]
mod json;
use json::Json;

#[path = "support/listing.rs"]
mod seed;

const RESPONSES: &str = include_str!("vectors/responses.json");
const SEQUENCE: &str = include_str!("vectors/sequence.json");
const SEED_LISTING: &str = include_str!("vectors/seed_listing.txt");

fn unhex(hex: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    AsciiKind::Hex.build().decode(hex.as_bytes(), &mut octets).expect("a vector's octets");
    octets
}

fn reassemble(strings: &[Vec<u8>]) -> Reassembled {
    Reassembled::from_strings(strings, &*AsciiKind::Base91.build())
}

/// The query as the server's side reads it, and as the template that we would ask with.
fn asked(request: &[u8]) -> (u16, QueryTemplate) {
    let Reading::Query(query) = Query::read(request) else { panic!("a good request") };
    let question = query.question.expect("a question");
    let (name, _) = Name::read(request, 12).expect("a name");
    let edns = query.edns.is_some();
    (query.id, QueryTemplate { name, qtype: question.qtype, edns, cookie: Vec::new() })
}

/// The numbers of an array.
fn numbers(list: &Json) -> Vec<u64> {
    list.array().iter().map(|number| number.number() as u64).collect()
}

#[test]
fn every_response_is_read_as_the_answer_to_its_request() {
    let exchanges = Json::read(RESPONSES);
    let (mut segments, mut packets, mut lists, mut empty) = (0, 0, 0, 0);
    for exchange in exchanges.array() {
        let (qname, decoded) = (exchange["qname"].str(), &exchange["decoded"]);
        let response = unhex(exchange["response_hex"].str());
        assert_eq!(response.len() as i64, decoded["response_bytes"].number());
        let (id, asked) = asked(&unhex(exchange["request_hex"].str()));
        assert!(asked.name.to_string().eq_ignore_ascii_case(qname));
        let types = [("TXT", Rtype::TXT), ("A", Rtype::A), ("SOA", Rtype::SOA), ("NS", Rtype::NS)];
        assert!(types.contains(&(exchange["qtype"].str(), asked.qtype)));

        let answer = Answer::read(&response, id, &asked).unwrap_or_else(|e| panic!("{qname}: {e}"));
        assert_eq!(i64::from(answer.rcode.0), decoded["flags"]["rcode"].number());
        assert_eq!(i64::from(answer.authoritative), decoded["flags"]["aa"].number());
        assert_eq!((answer.rcode, answer.truncated, answer.edns), (Rcode::NOERROR, false, false));
        assert_eq!(answer.negative_ttl.is_some(), decoded["counts"]["ns"].number() == 1);
        // Nobody else's answer will do.
        assert_eq!(Answer::read(&response, id ^ 1, &asked), Err(ParseError::Foreign));

        let text = asked.qtype == Rtype::TXT;
        let expected = if text { decoded["counts"]["an"].number() } else { 0 };
        assert_eq!(answer.texts.len() as i64, expected, "{qname}");
        if let Some(frames) = decoded.get("frames") {
            assert_eq!(i64::from(answer.ttl), decoded["ttl"].number());
            let segment = reassemble(&answer.texts);
            assert_eq!((segment.packets.len(), segment.damaged), (frames.array().len(), 0));
            for frame in frames.array() {
                let [index, _, packet] = frame.array() else { panic!("{frame:?}") };
                let ours = segment.packets[index.number() as usize].as_deref();
                assert_eq!(ours, Some(&unhex(packet.str())[..]), "{qname}");
                packets += 1;
            }
            segments += 1;
        } else if let Some(list) = decoded.get("list") {
            assert_eq!(answer.ttl, 10, "{qname}");
            assert_eq!(answer.texts, [decoded["text"].str().as_bytes()]);
            assert_eq!(decode_list(&answer.texts[0]), Ok(numbers(list)));
            lists += 1;
        } else {
            assert_eq!((answer.texts.len(), answer.ttl), (0, 0));
            empty += 1;
        }
    }
    assert_eq!((segments, packets, lists, empty), (14, 212, 4, 6));
}

#[test]
fn every_response_cut_short_or_shuffled_is_survived() {
    for exchange in Json::read(RESPONSES).array() {
        let response = unhex(exchange["response_hex"].str());
        let (id, asked) = asked(&unhex(exchange["request_hex"].str()));
        let whole = Answer::read(&response, id, &asked).unwrap();
        for length in 0..response.len() {
            let cut = Answer::read(&response[..length], id, &asked);
            assert!(cut.is_err(), "{}: cut to {length} octets", asked.name);
        }
        let backward: Vec<_> = whole.texts.iter().rev().cloned().collect();
        if whole.texts.len() > 1 {
            assert_eq!(reassemble(&backward), reassemble(&whole.texts));
        }
    }
}

#[test]
fn every_list_is_read_and_those_that_fit_are_written_to_the_same_length() {
    let lists = Json::read(SEQUENCE);
    assert_eq!(lists.array().len(), 20);
    for entry in lists.array() {
        let (list, text) = (numbers(&entry["list"]), entry["text"].str());
        assert_eq!(text.len() as i64, entry["text_length"].number());
        assert_eq!(decode_list(text.as_bytes()), Ok(list.clone()));

        // Ours may compress otherwise, and leaves out the oldest where the other would not fit.
        let (oldest, newest) = (list[0], list[list.len() - 1]);
        assert_eq!(newest - oldest + 1, list.len() as u64, "the vectors have no gaps");
        let (ours, left_out) = encode_list(oldest, newest);
        let fits = entry["fits_one_string"] == Json::Bool(true);
        assert_eq!(left_out == 0, fits, "{oldest} to {newest}");
        assert!(ours.len() <= 255);
        assert!(decode_list(&ours).unwrap().into_iter().eq(oldest + left_out..=newest));
        if fits {
            // Never longer than what zlib makes of it, as measured; another release may differ.
            assert!(ours.len() <= text.len() + 2, "{} for {}", ours.len(), text.len());
        }
    }
}

#[test]
fn the_seed_listing_reassembles_as_it_is_printed() {
    let strings = seed::strings(SEED_LISTING);
    assert_eq!(strings.len(), 19);
    assert!(!strings.is_sorted(), "a resolver shuffled it");
    let segment = reassemble(&strings);
    assert_eq!((segment.packets.len(), segment.damaged), (19, 0));
    let octets = segment.packets.iter().map(|packet| packet.as_ref().map_or(0, Vec::len));
    let octets: Vec<_> = octets.collect();
    assert_eq!((octets.iter().min(), octets.iter().max()), (Some(&71), Some(&87)));
}

#[cfg(feature = "opus")]
#[test]
fn the_reassembled_seed_listing_is_18_240_samples_of_sound() {
    use aodns::codec::{CodecKind, build_decoder};
    let segment = reassemble(&seed::strings(SEED_LISTING));
    let stream = CodecKind::Opus.format_default();
    assert_eq!((stream.rate.hz(), stream.channels.count()), (16_000, 1));
    let mut decoder = build_decoder(CodecKind::Opus, stream, Some(960), stream.rate).unwrap();
    let mut pcm = vec![0; 960];
    let packets = segment.packets.iter().flatten();
    let samples: usize = packets.map(|p| decoder.decode(Some(p), &mut pcm).unwrap()).sum();
    assert_eq!(samples, 18_240);
}

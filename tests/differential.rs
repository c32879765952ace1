//! Our reader of DNS messages against `dns-parser`, an independent one: generated queries, mutated
//! ones, the golden responses, and what our own zone answers.
//!
//! What is compared and where the two may differ is in `tests/support/differential.rs`.

use aodns::units::Moment;
use aodns::wire::{Name, QueryTemplate, Rtype};
use aodns::zone::{Request, Transport, tests_support};
use std::collections::HashMap;
use std::time::Instant;

#[path = "support/json.rs"]
mod json;
use json::Json;

#[path = "support/differential.rs"]
mod differential;
use differential::{Found, Rule, compare_answer, compare_query};

const RESPONSES: &str = include_str!("vectors/responses.json");

/// xorshift64: the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }

    fn below(&mut self, count: u64) -> u64 {
        self.next() % count
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// A label of any ASCII, dots and NUL included, now and then of the greatest length.
    fn label(&mut self) -> Vec<u8> {
        let length = if self.below(8) == 0 { 63 } else { 1 + self.below(12) };
        let mut octet = || match self.below(10) {
            0 => self.below(128) as u8,
            _ => b'a' + self.below(26) as u8,
        };
        (0..length).map(|_| octet()).collect()
    }
}

/// A query, mostly good, with everything in it that a query may have.
fn query(random: &mut Random) -> Vec<u8> {
    let word = |octets: &mut Vec<u8>, word: u16| octets.extend_from_slice(&word.to_be_bytes());
    let mut body = Vec::new();
    let questions = random.pick(&[1, 1, 1, 1, 1, 1, 1, 1, 0, 2]);
    for _ in 0..questions {
        for _ in 0..random.below(6) {
            let label = random.label();
            body.push(label.len() as u8);
            body.extend_from_slice(&label);
        }
        match random.below(24) {
            0 => body.extend_from_slice(&[0xC0, 5]),
            _ => body.push(0),
        }
        let qtype = random.pick(&[1, 2, 5, 6, 15, 16, 16, 16, 28, 33, 47, 252, 253, 254, 255, 65]);
        word(&mut body, qtype);
        let qclass = random.pick(&[1, 1, 1, 1, 1, 2, 3, 4, 255, 0x8001, 0x80FF, 0, 254]);
        word(&mut body, qclass);
    }
    let answers = random.below(40) / 39;
    let additional = random.pick(&[0, 0, 0, 1, 1, 1, 2, 3]);
    for _ in 0..answers + additional {
        match random.below(3) {
            0 => {
                let owner = random.pick(&[&[1u8, b'x', 0][..], &[0xC0, 12], &[0]]);
                body.extend_from_slice(owner);
                let octets = random.pick(&[
                    &[0, 1, 0, 1, 0, 0, 0, 9, 0, 4][..],
                    &[0, 41, 4, 208, 0, 0, 0, 0, 0, 4],
                ]);
                body.extend_from_slice(octets);
                body.extend_from_slice(&[0, 9, 0, 0]);
            }
            _ => {
                body.push(0);
                word(&mut body, 41);
                word(&mut body, random.below(65536) as u16);
                let version = u8::from(random.below(8) == 0);
                body.extend_from_slice(&[0, version, (random.below(2) << 7) as u8, 0]);
                let options = random.pick(&[
                    &[][..],
                    &[0, 3, 0, 0],
                    &[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8],
                    &[0, 10, 0, 9, 1],
                    &[0],
                ]);
                word(&mut body, options.len() as u16);
                body.extend_from_slice(options);
            }
        }
    }
    let flags = match random.below(8) {
        0 => random.below(65536) as u16,
        _ => random.pick(&[0, 0x0100, 0x0110, 0x0780]),
    };
    let mut message = Vec::new();
    word(&mut message, random.below(65536) as u16);
    for count in [flags, questions, answers as u16, 0, additional as u16] {
        word(&mut message, count);
    }
    message.extend_from_slice(&body);
    message
}

#[test]
fn generated_queries_are_read_alike() {
    let mut random = Random(0x0a0d_0501);
    let mut found: HashMap<Found, u32> = HashMap::new();
    for _ in 0..200_000 {
        *found.entry(compare_query(&query(&mut random))).or_default() += 1;
    }
    // The generator reaches every rule, and agreement is what it mostly finds.
    let count = |what| found.get(&what).copied().unwrap_or(0);
    assert!(count(Found::Agreed) > 50_000, "{found:?}");
    for rule in [
        Rule::Response,
        Rule::Opcode,
        Rule::Questions,
        Rule::Records,
        Rule::Compressed,
        Rule::LongName,
        Rule::Additional,
        Rule::Opt,
    ] {
        assert!(count(Found::Refused(rule)) > 20, "{rule:?}: {found:?}");
    }
}

#[test]
fn mutated_queries_are_read_alike() {
    let mut random = Random(0x0a0d_0502);
    let mut agreed = 0;
    for _ in 0..200_000 {
        let mut message = query(&mut random);
        for _ in 0..=random.below(3) {
            let at = random.below(message.len() as u64) as usize;
            match random.below(4) {
                0 => message.truncate(at),
                1 => message.insert(at, random.next() as u8),
                _ => message[at] = random.pick(&[0, 1, 63, 64, 0xC0, 0xFF, random.0 as u8]),
            }
            if message.is_empty() {
                break;
            }
        }
        agreed += u32::from(compare_query(&message) == Found::Agreed);
    }
    assert!(agreed > 5_000, "{agreed}");
}

#[test]
fn golden_responses_are_read_alike() {
    let exchanges = Json::read(RESPONSES);
    for exchange in exchanges.array() {
        let unhex = |key: &str| -> Vec<u8> {
            let hex = exchange[key].str().as_bytes();
            let digit = |c: u8| (c as char).to_digit(16).unwrap() as u8;
            hex.chunks(2).map(|two| digit(two[0]) << 4 | digit(two[1])).collect()
        };
        let (request, response) = (unhex("request_hex"), unhex("response_hex"));
        assert_eq!(compare_query(&request), Found::Agreed);
        assert_eq!(compare_query(&response), Found::Refused(Rule::Response));
        let (name, end) = Name::read(&request, 12).unwrap();
        let qtype = Rtype(u16::from_be_bytes([request[end], request[end + 1]]));
        let asked = QueryTemplate { name, qtype, edns: false, cookie: Vec::new() };
        let answer = compare_answer(&response, &asked).expect("dns-parser reads it");
        let texts = answer.expect("and so do we").texts;
        let expected = exchange["decoded"]["counts"]["an"].number();
        assert_eq!(texts.len() as i64, if qtype == Rtype::TXT { expected } else { 0 });
    }
    assert_eq!(exchanges.array().len(), 24);
}

#[test]
fn what_our_zone_answers_is_read_alike() {
    let now = Moment { instant: Instant::now(), unix_ms: 1_700_000_000_000 };
    let (zone, snapshot) = tests_support::zone_and_snapshot(now);
    let labels = ["sequence", "seq_102", "seq_1", "seq_99999", "config", "now_abc", "foo", "ns"];
    let mut texts = 0;
    for label in labels {
        for qtype in [Rtype::TXT, Rtype::A, Rtype::NS, Rtype::SOA, Rtype::ANY] {
            for (edns, transport) in [
                (false, Transport::Udp { payload_max: 1232 }),
                (true, Transport::Udp { payload_max: 1232 }),
                (true, Transport::Tcp),
            ] {
                let name = zone.root.child(label.as_bytes()).unwrap();
                let asked = QueryTemplate { name, qtype, edns, cookie: vec![7; 8] };
                let mut query = Vec::new();
                asked.write(7, &mut query);
                assert_eq!(compare_query(&query), Found::Agreed);
                let client = [127, 0, 0, 1].into();
                let request = Request {
                    message: &query,
                    transport,
                    client,
                    now,
                    may_hold: false,
                    limited: false,
                };
                let mut out = Vec::new();
                zone.respond(&snapshot, &request, &mut out);
                let answer = compare_answer(&out, &asked).expect("dns-parser reads it");
                texts += answer.expect("and so do we").texts.len();
            }
        }
    }
    // List, config and now thrice each, and 12 strings over TCP.
    assert_eq!(texts, 3 * 3 + 12);
}

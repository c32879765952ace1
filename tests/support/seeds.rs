//! Seeds for the fuzz targets: small files that lead into every part of a parser or state machine.

use super::json::Json;
use aodns::ascii::AsciiKind;
use aodns::segment::{ConfigRecord, NowRecord, encode_list};
use aodns::units::{Channels, Format, Moment, SampleRate};
use aodns::wire::{Name, QueryTemplate, Rtype, write_txt_record};
use aodns::zone::{Request, Transport, tests_support};
use std::time::{Duration, Instant};

const RESPONSES: &str = include_str!("../vectors/responses.json");
const SEQUENCE: &str = include_str!("../vectors/sequence.json");
const BASE91: &str = include_str!("../vectors/base91.json");

/// A file of the corpus: the target, the name, the content.
pub type Seed = (&'static str, String, Vec<u8>);

/// All of them.
pub fn all() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for (name, message) in queries() {
        seeds.push(("query", name.clone(), message.clone()));
        seeds.push(("respond", name, message));
    }
    add(&mut seeds, "response", responses());
    add(&mut seeds, "segment", segments());
    add(&mut seeds, "list", lists());
    add(&mut seeds, "records", records());
    add(&mut seeds, "wav", waves());
    add(&mut seeds, "ascii", texts());
    add(&mut seeds, "codec", packets());
    add(&mut seeds, "resampler", conversions());
    add(&mut seeds, "follower", followed());
    for target in ["follower", "window", "jitter_buffer", "lookup"] {
        let random = (1..9).map(|n| (format!("random-{n}"), noise(n, 150 * n as usize)));
        add(&mut seeds, target, random.collect());
    }
    add(&mut seeds, "lookup", looked_up());
    seeds
}

fn add(seeds: &mut Vec<Seed>, target: &'static str, found: Vec<(String, Vec<u8>)>) {
    seeds.extend(found.into_iter().map(|(name, octets)| (target, name, octets)));
}

fn unhex(hex: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    AsciiKind::Hex.build().decode(hex.as_bytes(), &mut octets).expect("a vector's octets");
    octets
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let octets = std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    });
    octets.take(length).collect()
}

/// A message of the header's five words behind the id, and what follows.
fn message(words: [u16; 5], parts: &[&[u8]]) -> Vec<u8> {
    let mut octets = vec![0x12, 0x34];
    words.iter().for_each(|word| octets.extend_from_slice(&word.to_be_bytes()));
    octets.extend_from_slice(&parts.concat());
    octets
}

fn question(name: &str, qtype: u16, qclass: u16) -> Vec<u8> {
    let name: Name = name.parse().expect("a valid name");
    [name.wire(), &qtype.to_be_bytes(), &qclass.to_be_bytes()].concat()
}

/// An OPT record of this payload size, version and these options.
fn opt(payload: u16, version: u8, options: &[u8]) -> Vec<u8> {
    let length = (options.len() as u16).to_be_bytes();
    [&[0, 0, 41][..], &payload.to_be_bytes(), &[0, version, 0x80, 0], &length, options].concat()
}

/// Queries of the behaviour matrix, by row, and those of the golden exchanges.
fn queries() -> Vec<(String, Vec<u8>)> {
    let list = question("sequence.music.example.com", 16, 1);
    let plain = |words| message(words, &[&list]);
    let with = |extra: &[u8]| message([0x0100, 1, 0, 0, 1], &[&list, extra]);
    let two = |extra: &[u8]| message([0x0100, 1, 0, 0, 2], &[&list, extra, extra]);
    let ask = |name, qtype, qclass| message([0, 1, 0, 0, 0], &[&question(name, qtype, qclass)]);
    let label = [&[63u8][..], &[b'a'; 63]].concat();
    let long = [label.clone(), label.clone(), label, vec![43], vec![b'b'; 43]].concat();
    let root = question("music.example.com", 16, 1);
    let cookie = [&[0, 10, 0, 8][..], &[7; 8]].concat();
    let server_cookie = [&[0, 10, 0, 24][..], &[7; 24]].concat();
    let address = [&[0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4][..], &[192, 0, 2, 1]].concat();
    let tsig = [&[0, 0, 250, 0, 255, 0, 0, 0, 0, 0, 16][..], &[0; 16]].concat();
    let soa = [&[0xC0, 12, 0, 6, 0, 1, 0, 0, 0, 1, 0, 22][..], &[0; 22]].concat();
    let mut found = vec![
        ("h02", plain([0x8000, 1, 0, 0, 0])),
        ("h04", plain([0x07F0, 1, 0, 0, 0])),
        ("h06", plain([0x2800, 1, 0, 0, 0])),
        ("h10", plain([0, 65535, 65535, 65535, 65535])),
        ("q02", message([0, 0, 0, 0, 1], &[&opt(1232, 0, &cookie)])),
        ("q03", message([0, 2, 0, 0, 0], &[&list, &list])),
        ("q05", message([0, 1, 0, 0, 0], &[&[3, b'a', b'b', b'c', 0xC0, 12, 0, 16, 0, 1]])),
        ("q07", message([0, 1, 0, 0, 0], &[&long, b"\x01c", &root])),
        ("q08", message([0, 1, 0, 0, 0], &[&long[..long.len() - 2], &root])),
        ("q09", message([0, 1, 0, 0, 0], &[b"\x05a.b*\0", &root])),
        ("q11", message([0, 1, 0, 1, 0], &[&question("music.example.com", 251, 1), &soa])),
        ("q13", two(&address)),
        ("q14", message([0, 1, 0, 0, 0], &[&list.to_ascii_uppercase()])),
        ("n02", ask("seq_102.music.example.com", 16, 1)),
        ("n03", ask("seq_102.music.example.com", 65, 1)),
        ("n07", ask("seq_103.music.example.com", 16, 1)),
        ("n09", ask("seq_18446744073709551615.music.example.com", 16, 1)),
        ("n10", ask("seq_007.music.example.com", 16, 1)),
        ("n11", ask("music.example.com", 2, 1)),
        ("n13", ask("example.com", 255, 1)),
        ("n14", ask("ns.music.example.com", 255, 1)),
        ("n15", ask("music.example.com", 252, 1)),
        ("n18", ask("version.bind", 16, 3)),
        ("n19", ask("sequence.music.example.com", 16, 0x8001)),
        ("now", ask("now_abc123.music.example.com", 16, 1)),
        ("e02", with(&opt(4096, 0, &[]))),
        ("e05", with(&opt(512, 0, &[0xFF, 0xFF, 0, 2, 1, 2, 0, 3, 0, 0, 0, 11, 0, 0]))),
        ("e06", with(&opt(1232, 1, &[]))),
        ("e07", two(&opt(1232, 0, &[]))),
        ("e08", with(&opt(1232, 0, &[0, 10, 0, 200, 1]))),
        ("e11", with(&opt(1232, 0, &cookie))),
        ("e13", with(&opt(1232, 0, &server_cookie))),
        ("k01", with(&tsig)),
    ];
    found.push(("s01", with(&address)));
    let mut found: Vec<_> = found.into_iter().map(|(name, m)| (name.to_string(), m)).collect();
    for (index, exchange) in Json::read(RESPONSES).array().iter().enumerate() {
        if [0, 1, 6, 9, 11].contains(&index) {
            found.push((format!("golden-{index:02}"), unhex(exchange["request_hex"].str())));
        }
    }
    found
}

fn responses() -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for (index, exchange) in Json::read(RESPONSES).array().iter().enumerate() {
        if exchange["qname"].str() == "seq_2.music.example.com" || [0, 7].contains(&index) {
            found.push((format!("golden-{index:02}"), unhex(exchange["response_hex"].str())));
        }
    }
    // Our own server's denial, with OPT and a cookie.
    let now = Moment { instant: Instant::now(), unix_ms: 1_700_000_000_000 };
    let (zone, snapshot) = tests_support::zone_and_snapshot(now);
    let name = "seq_2.music.example.com".parse().expect("a valid name");
    let asked = QueryTemplate { name, qtype: Rtype::TXT, edns: true, cookie: vec![7; 8] };
    let (mut query, mut denial) = (Vec::new(), Vec::new());
    asked.write(0x1234, &mut query);
    let request = Request {
        message: &query,
        transport: Transport::Tcp,
        client: [127, 0, 0, 1].into(),
        now,
        may_hold: false,
        limited: false,
    };
    zone.respond(&snapshot, &request, &mut denial);
    found.push(("c08-denied".into(), denial));

    let question = question("seq_2.music.example.com", 16, 1);
    let target = b"\x05cache\x07example\0";
    let alias = [&[0xC0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 15][..], target].concat();
    let mut text = Vec::new();
    write_txt_record(&mut text, 43, b"000'''AA");
    let aliased = [target, &text[2..]].concat();
    let circle = [&[0xC0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 2, 0xC0, 12][..]].concat();
    let strings = [0xC0, 12, 0, 16, 0, 1, 0xFF, 0, 0, 0, 0, 5, 1, b'a', 2, b'b', b'c'];
    let signature = [&[0xC0, 12, 0, 46, 0, 1, 0, 0, 0, 9, 0, 20][..], &[1; 20]].concat();
    let answer = |count, parts: &[&[u8]]| {
        message([0x8180, 1, count, 0, 0], &[&[&question[..]], parts].concat())
    };
    for (name, octets) in [
        ("c03-truncated", message([0x8380, 1, 0, 0, 0], &[&question])),
        ("c04-unread", message([0x8181, 0, 0, 0, 0], &[])),
        ("c05-chain", answer(2, &[&alias, &aliased])),
        ("c05-circle", answer(1, &[&circle])),
        ("c06-strings", answer(3, &[&strings, &text, &text])),
        ("c14-unknown", answer(2, &[&signature, &text])),
    ] {
        found.push((name.into(), octets));
    }
    found
}

/// The strings of published segments, one a line.
fn segments() -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for (index, exchange) in Json::read(RESPONSES).array().iter().enumerate() {
        let Some(frames) = exchange["decoded"].get("frames") else { continue };
        let strings: Vec<String> = frames
            .array()
            .iter()
            .map(|frame| {
                let [number, text, _] = frame.array() else { panic!("{frame:?}") };
                format!("{:03}'''{}", number.number(), text.str())
            })
            .collect();
        if [1, 14, 18, 22].contains(&index) {
            found.push((format!("golden-{index:02}"), strings.join("\n").into_bytes()));
        }
    }
    for (name, strings) in [
        ("gap", "000'''AA\n003'''nB"),
        ("clash", "000'''AA\n000'''nB\n000'''AA"),
        ("foreign", "001'''A-\n001''AA\n1'''AA\nx01'''AA\n999'''AA\n9999999'''AA\n"),
        ("empty", ""),
        ("no-text", "000'''\n001'''"),
    ] {
        found.push((name.into(), strings.into()));
    }
    found
}

fn lists() -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for (index, list) in Json::read(SEQUENCE).array().iter().enumerate() {
        found.push((format!("golden-{index:02}"), list["text"].str().into()));
    }
    for (name, oldest) in [("now", 17_000_000_000u64), ("half", 1 << 63), ("last", u64::MAX - 9)] {
        found.push((format!("ours-{name}"), encode_list(oldest, oldest.saturating_add(74)).0));
        let mut numbers = oldest.to_be_bytes().to_vec();
        numbers.push(200);
        found.push((format!("numbers-{name}"), numbers));
    }
    found
}

fn records() -> Vec<(String, Vec<u8>)> {
    let config = ConfigRecord {
        id: 0x0012_ABCD,
        codec: "opus".into(),
        format: Format::new(SampleRate::HZ_16000, Channels::MONO),
        frame_samples: 960,
        ascii: "base91".into(),
        packets_max: 12,
        ttl: 60,
        window: 75,
        title: "Nachts; 100 % Jazz – live".into(),
    };
    let mut found = vec![("config".into(), config.encode())];
    let format = Format::new(SampleRate::HZ_48000, Channels::STEREO);
    let other = ConfigRecord { title: String::new(), format, frame_samples: 5760, ..config };
    found.push(("config-48000".into(), other.encode()));
    found.push(("config-later".into(), b"v=1;later=x;id=00000001;later".to_vec()));
    for (name, age, ended) in [
        ("now", Some(Duration::from_millis(312)), false),
        ("now-empty", None, false),
        ("now-ended", Some(Duration::from_millis(u64::MAX)), true),
    ] {
        let record = NowRecord {
            id: 1,
            first: 17_000_000_000,
            next: 17_000_000_075,
            age,
            clock_ms: 1_700_000_000_000,
            ended,
        };
        let mut value = Vec::new();
        record.write(&mut value);
        found.push((name.into(), value));
    }
    found
}

/// WAV files of every kind, each a few samples long.
fn waves() -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for (channels, hz, bits, format) in [
        (1, 16_000, 8, hound::SampleFormat::Int),
        (2, 44_100, 16, hound::SampleFormat::Int),
        (6, 48_000, 24, hound::SampleFormat::Int),
        (1, 8_000, 32, hound::SampleFormat::Int),
        (2, 96_000, 32, hound::SampleFormat::Float),
    ] {
        let spec = hound::WavSpec {
            channels,
            sample_rate: hz,
            bits_per_sample: bits,
            sample_format: format,
        };
        let mut octets = std::io::Cursor::new(Vec::new());
        let mut writer = hound::WavWriter::new(&mut octets, spec).expect("a header");
        for at in 0..i32::from(channels) * 40 {
            match format {
                hound::SampleFormat::Int => writer.write_sample(at % 100).expect("fits"),
                hound::SampleFormat::Float => writer.write_sample(at as f32 / 300.0).expect("fits"),
            }
        }
        writer.finalize().expect("lengths");
        found.push((format!("{channels}-{hz}-{bits}-{format:?}"), octets.into_inner()));
    }
    let mut plain = b"RIFF\xFF\xFF\xFF\xFFWAVEfmt \x10\0\0\0\x01\0\x01\0".to_vec();
    plain.extend_from_slice(&16_000u32.to_le_bytes());
    plain.extend_from_slice(&32_000u32.to_le_bytes());
    plain.extend_from_slice(&[2, 0, 16, 0]);
    let sound = [1u8, 0, 2, 0, 3, 0, 4, 0];
    let streamed = [&plain[..], b"data\xFF\xFF\xFF\xFF", &sound].concat();
    let list = [&plain[..], b"LIST\x05\0\0\0abcde\0data\x08\0\0\0", &sound].concat();
    let (mut law, mut silence) = (streamed.clone(), streamed.clone());
    law[20] = 7;
    law[34] = 8;
    silence[24..28].copy_from_slice(&1u32.to_le_bytes());
    found.push(("streamed".into(), streamed.clone()));
    found.push(("listed".into(), list));
    found.push(("mu-law".into(), law));
    found.push(("one-hertz".into(), silence));
    found.push(("cut".into(), streamed[..41].to_vec()));
    found
}

fn texts() -> Vec<(String, Vec<u8>)> {
    let pairs = Json::read(BASE91);
    let mut found = Vec::new();
    for (index, pair) in pairs.array().iter().enumerate().filter(|(index, _)| index % 9 == 0) {
        found.push((format!("golden-{index:02}"), pair["text"].str().into()));
    }
    for kind in AsciiKind::ALL {
        for length in [1, 7, 40] {
            let mut text = Vec::new();
            kind.build().encode(&noise(length as u64, length), &mut text);
            found.push((format!("{kind}-{length}"), text));
        }
    }
    found
}

/// Packets of the golden exchanges; the first octet is as [`aodns::codec::fuzz_codec`] reads it.
fn packets() -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    // 7 kinds; of Opus, rates by the quotient, 0x40 stereo, 0x80 without being told the frame.
    let responses = Json::read(RESPONSES);
    for (index, select) in [(1, 14u8), (14, 0), (18, 77), (22, 70), (2, 140)] {
        let exchange = &responses.array()[index];
        let mut octets = vec![select];
        for (at, frame) in exchange["decoded"]["frames"].array().iter().enumerate() {
            let packet = unhex(frame.array()[2].str());
            let lost = at % 5 == 3;
            octets.push(if lost { 255 } else { packet.len() as u8 });
            octets.extend_from_slice(if lost { &[] } else { &packet });
        }
        found.push((format!("golden-{index:02}"), octets));
    }
    for kind in 1..7 {
        let octets = [&[kind, 6][..], &noise(7, 6), &[255, 8], &noise(8, 8), &[7]].concat();
        found.push((format!("codec2-{kind}"), octets));
    }
    found
}

fn conversions() -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for (name, from, to) in [
        ("copy", 48_000u32, 48_000u32),
        ("up", 16_000, 48_000),
        ("down", 44_100, 16_000),
        ("odd", 22_051, 47_999),
        ("far-down", 768_000, 8_000),
        ("far-up", 1, 768_000),
    ] {
        let mut octets = from.to_be_bytes()[1..].to_vec();
        octets.extend_from_slice(&to.to_be_bytes()[1..]);
        octets.push(u8::from(name == "up"));
        octets.extend_from_slice(&[2, 100, 3, 7, 1, 0, 2, 50, 0, 200, 2, 255, 2, 1, 1, 0]);
        found.push((name.into(), octets));
    }
    found
}

/// By schedule and by list, with everything that goes right and some that goes wrong.
fn followed() -> Vec<(String, Vec<u8>)> {
    // 16 kHz, mono, 960 samples, base91, 12 packets; of run 0.
    let config = [10, 0, 0, 0, 2, 0, 3, 0x98, 0, 0, 11];
    // 50 segments from 17,000,000,000 on, the newest 300 ms old.
    let now = [10, 0, 2, 0, 30, 50, 0, 0];
    let segment = [0, 10, 0, 12];
    let silence = [0, 6, 0];
    let miss = [0, 8, 0, 1, 2];
    let schedule = [&[0][..], &config, &now, &segment.repeat(20)].concat();
    let troubled = [&schedule[..], &miss, &silence.repeat(9), &[5, 9], &now, &segment.repeat(8)];
    // A minute later the server is another one, 60 segments ahead.
    let restart = [&[5, 60][..], &silence.repeat(8), &[10, 1, 2, 60, 30, 50, 1, 0]].concat();
    let restarted = [&schedule[..], &restart, &segment.repeat(8)].concat();
    let no_config = [8, 0, 0, 3];
    let list = |first: u8| [0, 10, 0, 1, first, 74];
    let listed = [&[1][..], &no_config, &[6, 0], &list(0), &segment.repeat(12), &list(6)].concat();
    let back = [&listed[..], &segment.repeat(9), &list(0), &list(1), &segment.repeat(9)].concat();
    vec![
        ("schedule".into(), schedule.clone()),
        ("schedule-troubled".into(), troubled.concat()),
        ("schedule-restarted".into(), restarted),
        ("list".into(), listed.clone()),
        ("list-went-back".into(), back),
    ]
}

fn looked_up() -> Vec<(String, Vec<u8>)> {
    let truncated = [4, 2, 0, 0, 0, 0, 0];
    vec![
        ("silence".into(), vec![0; 24]),
        ("truncated".into(), [&truncated[..], &[0, 0, 2, 0, 2, 0, 0, 0]].concat()),
        ("answered".into(), vec![1, 10, 4, 0, 0, 0, 0, 0, 0, 1, 10, 4, 0, 3, 0, 0, 0, 0]),
        ("edns-unknown".into(), [4, 0, 1, 0, 0, 0, 0].repeat(3)),
    ]
}

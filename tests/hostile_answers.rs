//! What strangers send to a listener is counted, each kind by itself, and changes nothing else: no
//! panic, no growth, and the right answer still counts when it comes.

use aodns::ascii;
use aodns::fetch::{Fetcher, Route, Transmit};
use aodns::follow::{Event, Follower, Manner, StreamParameters};
use aodns::lookup::RetryPolicy;
use aodns::wire::{self, Rcode, Rtype};
use std::io::Write;
use std::time::{Duration, Instant};

const MS: Duration = Duration::from_millis(1);
const CONFIG: &str = "v=1;id=00000007;codec=opus;rate=16000;channels=1;frame=960;ascii=base91;frames=12;ttl=60;window=75";

/// A listener without sockets, and the questions that it has asked.
struct Listener {
    fetcher: Fetcher,
    now: Instant,
    asked: Vec<Transmit>,
    next_random: u64,
}

impl Listener {
    fn new() -> Listener {
        Listener::behind(None)
    }

    /// One that is to play so far behind.
    fn behind(latency: Option<Duration>) -> Listener {
        let now = Instant::now();
        let fallback = StreamParameters::default();
        let root = "music.example.com".parse().expect("a valid name");
        let follower = Follower::new(fallback, latency, 1, now);
        let fetcher = Fetcher::new(root, RetryPolicy::default(), follower, vec![[1; 8]]);
        let mut listener = Listener { fetcher, now, asked: Vec::new(), next_random: 0x4142 };
        listener.step(Duration::ZERO);
        listener
    }

    /// Lets time pass, and collects what is asked.
    fn step(&mut self, time: Duration) {
        self.now += time;
        self.fetcher.handle_timeout(self.now);
        let random = &mut self.next_random;
        let mut random = || {
            *random += 0x0101;
            *random
        };
        while let Some(transmit) = self.fetcher.poll_transmit(self.now, &mut random) {
            self.asked.push(transmit);
        }
    }

    /// The newest question for a name that begins with `label`.
    fn question(&self, label: &str) -> Transmit {
        let is = |transmit: &&Transmit| transmit.message()[13..].starts_with(label.as_bytes());
        self.asked.iter().rev().find(is).expect("it was asked").clone()
    }

    fn answer(&mut self, question: &Transmit, message: &[u8]) {
        match question.route {
            Route::Datagram { lookup } => self.fetcher.handle_datagram(self.now, lookup, message),
            Route::Stream { link, .. } => self.fetcher.handle_stream(self.now, 0, link, message),
        }
        self.step(Duration::ZERO);
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.fetcher.poll_event()).collect()
    }

    /// A listener that follows by schedule, with segment 102 just published.
    fn following() -> Listener {
        Listener::new().followed()
    }

    /// This listener, once it was told what the stream is and where it stands.
    fn followed(mut self) -> Listener {
        let config = self.question("config");
        self.answer(&config, &texts(&config, &[CONFIG.as_bytes()]));
        let now = self.question("now_");
        let edge = b"v=1;id=00000007;first=100;next=103;age=100;clock=1700000000000";
        self.answer(&now, &texts(&now, &[edge]));
        assert_eq!(self.fetcher.follower().manner(), Manner::Schedule);
        self
    }
}

/// Header and question of a response to `question`.
fn head(question: &Transmit, rcode: Rcode, answers: u16) -> Vec<u8> {
    let message = question.message();
    let end = 12 + message[12..].iter().position(|&octet| octet == 0).expect("a name ends") + 5;
    let mut out = message[..end].to_vec();
    out[2..4].copy_from_slice(&(0x8400 | rcode.0).to_be_bytes());
    out[6..8].copy_from_slice(&answers.to_be_bytes());
    out[8..12].copy_from_slice(&[0; 4]);
    out
}

fn texts(question: &Transmit, texts: &[&[u8]]) -> Vec<u8> {
    let mut out = head(question, Rcode::NOERROR, texts.len() as u16);
    texts.iter().for_each(|text| wire::write_txt_record(&mut out, 60, text));
    out
}

/// A record of one long text, in as many strings as it takes.
fn long_text(question: &Transmit, text: &[u8]) -> Vec<u8> {
    let mut out = head(question, Rcode::NOERROR, 1);
    let strings: Vec<_> = text.chunks(255).collect();
    let octets = text.len() + strings.len();
    wire::write_record_head(&mut out, &wire::QUESTION_POINTER, Rtype::TXT, 60, octets);
    for string in strings {
        out.push(string.len() as u8);
        out.extend_from_slice(string);
    }
    out
}

#[test]
fn c02_forged_answers_are_counted_and_the_right_one_counts() {
    let mut listener = Listener::new();
    let config = listener.question("config");
    let good = texts(&config, &[CONFIG.as_bytes()]);
    let mut other_id = good.clone();
    other_id[1] ^= 1;
    let mut other_question = good.clone();
    other_question[14] ^= 1;
    for forged in [&other_id, &other_question] {
        listener.answer(&config, forged);
    }
    assert_eq!(listener.fetcher.stats().foreign, 2);
    listener.answer(&config, &good[..good.len() - 3]);
    listener.answer(&config, b"\0");
    let stats = listener.fetcher.stats();
    assert_eq!((stats.foreign, stats.malformed, stats.ignored), (3, 1, 4));
    listener.answer(&config, &good);
    assert!(!listener.events().iter().any(|event| matches!(event, Event::Trouble(_))));
    // And once more, from nobody knows where.
    listener.answer(&config, &good);
    assert_eq!(listener.fetcher.stats().stale, 1);
}

#[test]
fn a_cookie_that_is_never_right_is_a_failure_soon() {
    let mut listener = Listener::new();
    let questions = |listener: &Listener| {
        let is = |transmit: &&Transmit| transmit.message()[13..].starts_with(b"config");
        listener.asked.iter().filter(is).count()
    };
    for round in 0..100u8 {
        let config = listener.question("config");
        let mut answer = head(&config, Rcode(7), 0);
        answer[10..12].copy_from_slice(&[0, 1]);
        // OPT with the upper bits of BADCOOKIE, and a cookie option: ours, and a new one.
        answer.extend_from_slice(&[0, 0, 41, 4, 208, 1, 0, 0, 0, 0, 28, 0, 10, 0, 24]);
        answer.extend_from_slice(&[1, 1, 1, 1, 1, 1, 1, 0x81]);
        answer.extend_from_slice(&[round; 16]);
        listener.answer(&config, &answer);
    }
    let asked = questions(&listener);
    assert!((2..10).contains(&asked), "{asked} questions");
    assert!(listener.fetcher.stats().failures >= 1);
}

#[test]
fn c05_endless_cnames_are_counted() {
    let mut listener = Listener::new();
    let config = listener.question("config");
    let mut message = head(&config, Rcode::NOERROR, 1);
    wire::write_record_head(&mut message, &wire::QUESTION_POINTER, Rtype::CNAME, 60, 2);
    message.extend_from_slice(&wire::QUESTION_POINTER);
    listener.answer(&config, &message);
    assert_eq!(listener.fetcher.stats().cname_chains, 1);
}

#[test]
fn config_out_of_range_is_counted_and_asked_for_again() {
    for bad in ["rate=16000", "frame=960", "frames=12", "channels=1"] {
        let (key, _) = bad.split_once('=').expect("it has a value");
        let mut listener = Listener::new();
        let config = listener.question("config");
        let record = CONFIG.replace(bad, &format!("{key}=4000000000"));
        listener.answer(&config, &texts(&config, &[record.as_bytes()]));
        let stats = listener.fetcher.follower().stats();
        assert_eq!((stats.unreadable, stats.out_of_range), (1, 1), "{key}");
    }
}

#[test]
fn a_list_that_grows_when_decompressed_is_counted() {
    let mut listener = Listener::new();
    let config = listener.question("config");
    listener.answer(&config, &head(&config, Rcode::NXDOMAIN, 0));
    assert_eq!(listener.fetcher.follower().manner(), Manner::List);
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&vec![b'7'; 20_000_000]).expect("memory takes it");
    let bomb = encoder.finish().expect("memory takes it");
    let mut text = Vec::new();
    ascii::base91_encode(&bomb, &mut text);
    assert!(text.len() < 60_000, "20 MB in one answer");
    let list = listener.question("\u{73}equence");
    listener.answer(&list, &long_text(&list, &text));
    let stats = listener.fetcher.follower().stats();
    assert_eq!((stats.unreadable, stats.oversized_records), (1, 1));
    // Not asked for more often than every 4 s.
    listener.step(3900 * MS);
    let asked = listener.asked.len();
    listener.step(200 * MS);
    assert!(listener.asked.len() > asked);
}

#[test]
fn a_segment_of_65_kb_is_cut_down_and_counted() {
    // Far enough behind to play the oldest.
    let mut listener = Listener::behind(Some(20_000 * MS)).followed();
    let question = listener.question("seq_102");
    let strings: Vec<Vec<u8>> =
        (0..220).map(|n| format!("{n:03}'''{}", "A".repeat(240)).into()).collect();
    let strings: Vec<&[u8]> = strings.iter().map(Vec::as_slice).collect();
    let message = texts(&question, &strings);
    assert!(message.len() > 55_000 && message.len() < 65_536);
    listener.answer(&question, &message);
    assert_eq!(listener.fetcher.follower().stats().oversized_segments, 1);
    // One text of 60 kB, where a packet has 200 octets.
    let question = listener.question("seq_101");
    let text = [b"000'''", &b"A".repeat(60_000)[..]].concat();
    listener.answer(&question, &long_text(&question, &text));
    let stats = listener.fetcher.follower().stats();
    assert_eq!((stats.oversized_segments, stats.unreadable), (2, 1));
    let question = listener.question("seq_100");
    let packets: [&[u8]; 2] = [b"000'''AAAA", b"001'''BBBB"];
    listener.answer(&question, &texts(&question, &packets));
    // Waiting for segment 101 ends, and what came is handed on.
    listener.step(6000 * MS);
    let held: Vec<usize> = listener
        .events()
        .iter()
        .filter_map(|event| match event {
            Event::Segment { segment, .. } => Some(segment.packets.len()),
            _ => None,
        })
        .collect();
    assert!(!held.is_empty() && held.iter().all(|&packets| packets <= 100), "{held:?}");
}

#[test]
fn a_flood_of_nonsense_leaves_nothing_behind() {
    let mut listener = Listener::following();
    let question = listener.question("seq_102");
    let mut seed = 7u64;
    for round in 0..20_000 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let mut message = texts(&question, &[b"000'''AAAA"]);
        let at = (seed >> 33) as usize % message.len();
        message[at] = message[at].wrapping_add((seed >> 20) as u8 | 1);
        // The answer section with a hole in it is still an answer; keep to what is none.
        if at > 12 + 20 {
            message[0] ^= 0x55;
        }
        match question.route {
            Route::Datagram { lookup } => {
                listener.fetcher.handle_datagram(listener.now, lookup, &message)
            }
            Route::Stream { .. } => panic!("the first question goes by datagram"),
        }
        assert!(round == 0 || listener.fetcher.poll_timeout().is_some());
    }
    let stats = listener.fetcher.stats();
    assert!(stats.ignored > 19_000, "{stats:?}");
    assert!(listener.events().len() < 10, "nothing piles up");
}

//! The follower alone, in simulated time, against a source that ends, a server that fails and a listener
//! that slept.

use aodns::ascii;
use aodns::follow::{Ask, Event, Follower, Outcome, Path, StreamParameters};
use aodns::segment::ListEncoder;
use aodns::units::Sequence;
use aodns::wire::{Answer, Rcode};
use std::time::{Duration, Instant};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const PACKET_MS: u64 = 60;
/// Packets of a segment, unless it closes earlier by its size.
const PACKETS: u64 = 12;
const CONFIG: &str = "v=1;id=00000007;codec=opus;rate=16000;channels=1;frame=960;ascii=base91;\
                      frames=12;ttl=60;window=75";
/// Number of the segment that is published as the simulation begins.
const FIRST: Sequence = 100;

fn answer(texts: Vec<Vec<u8>>) -> Answer {
    Answer {
        rcode: Rcode::NOERROR,
        authoritative: true,
        truncated: false,
        texts,
        ttl: 10,
        negative_ttl: None,
        edns: true,
        cookie: None,
    }
}

/// Packets, or as many strings that cannot be read.
fn segment(packets: u64, readable: bool) -> Answer {
    let texts = (0..packets).map(|index| {
        let mut text = format!("{index:03}'''").into_bytes();
        match readable {
            true => ascii::base91_encode(&[0x08, 1, 2, 3], &mut text),
            false => text.push(b'-'),
        }
        text
    });
    answer(texts.collect())
}

/// A server of segments from [`FIRST`] to before `end`.
struct Source {
    end: Sequence,
    /// Of each segment.
    packets: u64,
    /// One that cannot be read.
    damaged: Option<Sequence>,
}

impl Source {
    fn new(end: Sequence) -> Source {
        Source { end, packets: PACKETS, damaged: None }
    }

    /// Between two publications.
    fn segment_ms(&self) -> u64 {
        self.packets * PACKET_MS
    }

    fn reply(&self, elapsed: Duration, ask: Ask) -> Answer {
        let elapsed = elapsed.as_millis() as u64;
        let next = (FIRST + 1 + elapsed / self.segment_ms()).min(self.end);
        match ask {
            Ask::Config => answer(vec![CONFIG.into()]),
            Ask::Now => {
                let age = elapsed - (next - 1 - FIRST) * self.segment_ms();
                let end = if next == self.end { ";end=1" } else { "" };
                let clock = 1_700_000_000_000 + elapsed;
                answer(vec![
                    format!(
                        "v=1;id=00000007;first={FIRST};next={next};age={age};clock={clock}{end}"
                    )
                    .into(),
                ])
            }
            Ask::Segment(n) if (FIRST..next).contains(&n) => {
                segment(self.packets, self.damaged != Some(n))
            }
            Ask::Segment(_) | Ask::List => answer(vec![]),
        }
    }
}

/// A follower in simulated time, and all that it asked and told.
struct World {
    follower: Follower,
    now: Instant,
    began: Instant,
    round_trip: Duration,
    asked: Vec<(Duration, Ask)>,
    told: Vec<(Duration, Event)>,
}

impl World {
    fn new(round_trip: Duration) -> World {
        let now = Instant::now();
        let fallback = StreamParameters::default();
        let mut world = World {
            follower: Follower::new(fallback, None, 1, now),
            now,
            began: now,
            round_trip,
            asked: Vec::new(),
            told: Vec::new(),
        };
        world.is_unsure(false);
        world
    }

    fn is_unsure(&mut self, is_unsure: bool) {
        self.follower.handle_path(Path {
            round_trip: self.round_trip,
            allowance: 300 * MS,
            is_clogged: false,
            is_surely_clogged: false,
            is_unsure,
        });
    }

    /// Goes on until `end` after the beginning, or until the stream has ended.
    fn run(&mut self, end: Duration, reply: impl Fn(Duration, Ask) -> Answer) {
        let mut under_way: Vec<(Instant, Ask, Instant)> = Vec::new();
        while self.now < self.began + end && self.ended().is_none() {
            while let Some(ask) = self.follower.poll_ask(self.now) {
                self.asked.push((self.now - self.began, ask));
                under_way.push((self.now + self.round_trip, ask, self.now));
            }
            while let Some(event) = self.follower.poll_event() {
                self.told.push((self.now - self.began, event));
            }
            under_way.sort();
            let answered = under_way.first().map(|answer| answer.0);
            let next = self.follower.poll_timeout().into_iter().chain(answered).min();
            self.now = next.map_or(self.began + end, |next| next.max(self.now + MS / 10));
            while under_way.first().is_some_and(|answer| answer.0 <= self.now) {
                let (_, ask, sent) = under_way.remove(0);
                let answer = reply(self.now - self.began - self.round_trip / 2, ask);
                self.follower.handle_result(self.now, ask, Outcome::Answered { answer, sent });
            }
        }
    }

    fn ended(&self) -> Option<Duration> {
        self.told.iter().find(|told| matches!(told.1, Event::Ended)).map(|told| told.0)
    }

    fn segments(&self) -> Vec<Sequence> {
        let number = |event: &Event| match event {
            Event::Segment { sequence, .. } => Some(*sequence),
            _ => None,
        };
        let mut segments: Vec<_> = self.told.iter().filter_map(|told| number(&told.1)).collect();
        segments.sort_unstable();
        segments
    }

    fn asked(&self, what: Ask) -> Vec<Duration> {
        self.asked.iter().filter(|asked| asked.1 == what).map(|asked| asked.0).collect()
    }
}

#[test]
fn who_joins_is_as_far_behind_whatever_closes_segments() {
    for packets in [PACKETS, 11, 6, 2] {
        let source = Source { packets, ..Source::new(Sequence::MAX) };
        for joined_ms in [10_000, 10_200, 10_400, 10_600] {
            let began = Duration::from_millis(joined_ms);
            let mut world = World::new(MS);
            world.run(SECOND, |elapsed, ask| source.reply(began + elapsed, ask));
            let start = world.told.iter().find_map(|told| match told.1 {
                Event::Start { sequence, play_at, .. } => Some((sequence, play_at)),
                _ => None,
            });
            let (sequence, play_at) = start.expect("a start");
            // What closes by its size is published when the next packet is there.
            let late = if packets < PACKETS { PACKET_MS } else { 0 };
            let published = (sequence - FIRST) * source.segment_ms();
            let captured = Duration::from_millis(published - source.segment_ms() - late);
            let latency = play_at - (world.began - (began - captured));
            // A segment of full length may come next, and attempts may be lost.
            assert!(latency >= 720 * MS + 300 * MS, "{packets} packets: {latency:?}");
            assert!(latency < 1100 * MS, "{packets} packets: {latency:?}");
        }
    }
}

/// A server without any segment so far.
fn unborn(elapsed: Duration, ask: Ask) -> Answer {
    let clock = 1_700_000_000_000 + elapsed.as_millis();
    match ask {
        Ask::Config => answer(vec![CONFIG.into()]),
        Ask::Now => {
            answer(vec![format!("v=1;id=00000007;first={FIRST};next={FIRST};clock={clock}").into()])
        }
        Ask::Segment(_) | Ask::List => answer(vec![]),
    }
}

#[test]
fn who_comes_before_the_first_segment_is_no_further_behind() {
    let source = Source::new(Sequence::MAX);
    for (direct, published_ms) in (10..720).step_by(71).flat_map(|ms| [(true, ms), (false, ms)]) {
        let published = Duration::from_millis(published_ms);
        let mut world = World::new(MS);
        let denied = std::cell::Cell::new(0);
        world.run(2 * SECOND, |elapsed, ask| {
            let mut answer = match elapsed.checked_sub(published) {
                Some(elapsed) => source.reply(elapsed, ask),
                None => unborn(elapsed, ask),
            };
            denied.set(denied.get() + u32::from(answer.texts.is_empty()));
            answer.authoritative = direct;
            answer
        });
        let play_at = world.told.iter().find_map(|told| match told.1 {
            Event::Start { sequence: FIRST, play_at, .. } => Some(play_at - world.began),
            _ => None,
        });
        let play_at = play_at.expect("a start with the first segment");
        let latency = play_at + 720 * MS - published;
        assert!(latency < 1200 * MS, "{latency:?} at {published:?}, {direct}");
        // Direct questions are held by a server; this one has denied those that came early.
        assert!(direct || denied.get() == 0, "{} at {published:?}", denied.get());
    }
}

#[test]
fn the_end_of_a_stream_is_told_to_who_follows_it() {
    let source = Source::new(110);
    for round_trip in [1, 20, 80] {
        let mut world = World::new(round_trip * MS);
        world.run(60 * SECOND, |elapsed, ask| source.reply(elapsed, ask));
        // The last segment is published after 6.48 s, and the next is due 0.72 s later.
        let ended = world.ended().expect("the end is told");
        assert!(ended < 12 * SECOND, "{ended:?} at {round_trip} ms");
        assert_eq!(world.segments().last(), Some(&109));
    }
}

#[test]
fn the_end_of_a_stream_is_told_to_who_comes_too_late() {
    let source = Source::new(103);
    for (round_trip, is_unsure) in [(1, false), (80, false), (80, true)] {
        let mut world = World::new(round_trip * MS);
        world.is_unsure(is_unsure);
        let later = |elapsed: Duration, ask| source.reply(elapsed + 5 * SECOND, ask);
        world.run(400 * MS, later);
        world.is_unsure(false);
        world.run(60 * SECOND, later);
        let ended = world.ended().expect("the end is told");
        assert!(ended < 5 * SECOND, "{ended:?} at {round_trip} ms");
    }
}

#[test]
fn the_end_of_a_stream_is_told_although_its_last_segment_cannot_be_read() {
    let source = Source { damaged: Some(109), ..Source::new(110) };
    let mut world = World::new(MS);
    world.run(120 * SECOND, |elapsed, ask| source.reply(elapsed, ask));
    let ended = world.ended().expect("the end is told");
    assert!(ended < 30 * SECOND, "{ended:?}");
    assert_eq!((world.segments().last(), world.follower.stats().lost), (Some(&108), 1));
}

#[test]
fn c08_a_server_that_refuses_is_asked_for_the_same_again_after_5_s() {
    let mut world = World::new(5 * MS);
    let refusal = |_, _| Answer { rcode: Rcode::SERVFAIL, ..answer(vec![]) };
    world.run(31 * SECOND, refusal);
    let config = world.asked(Ask::Config);
    assert!(config.len() >= 6, "{config:?}");
    assert!(config.windows(2).all(|pair| pair[1] - pair[0] >= 5 * SECOND), "{config:?}");
}

/// The base layer's server of which a listener missed `missed` segments in its sleep, through which its
/// clock stood still.
fn sleep(missed: u64) -> World {
    let mut world = World::new(5 * MS);
    world.run(40 * SECOND, |elapsed, ask| match ask {
        Ask::Config | Ask::Now => Answer { rcode: Rcode::NXDOMAIN, ..answer(vec![]) },
        Ask::List => {
            let slept = if elapsed > 6 * SECOND { missed } else { 0 };
            let newest = 1000 + elapsed.as_millis() as u64 / (PACKETS * PACKET_MS) + slept;
            answer(vec![ListEncoder::default().encode(newest - 74, newest).0])
        }
        Ask::Segment(_) => segment(PACKETS, true),
    });
    world
}

#[test]
fn who_slept_does_not_stay_behind_by_as_much() {
    // Little enough is in store: nothing is left out.
    let world = sleep(6);
    assert_eq!(world.follower.stats().jumps, 0);
    assert!(world.segments().windows(2).all(|pair| pair[1] == pair[0] + 1), "nothing is missing");
    for missed in [30, 40, 75, 500] {
        let world = sleep(missed);
        assert_eq!(world.follower.stats().jumps, 1, "{missed} were missed");
        let segments = world.segments();
        let holes = segments.windows(2).filter(|pair| pair[1] != pair[0] + 1).count();
        assert!(holes <= 1, "{missed} were missed: {segments:?}");
    }
}

#[test]
fn a_cache_that_keeps_the_list_for_30_s_is_no_sleep() {
    const KEPT_MS: u64 = 30_000;
    for joined_ms in [0, 15_000, 29_500] {
        let mut world = World::new(5 * MS);
        world.run(300 * SECOND, |elapsed, ask| {
            let elapsed = elapsed.as_millis() as u64 + joined_ms;
            let cached = |answer| Answer { authoritative: false, ..answer };
            match ask {
                Ask::Config | Ask::Now => Answer { rcode: Rcode::NXDOMAIN, ..answer(vec![]) },
                Ask::List => {
                    let made = elapsed / KEPT_MS * KEPT_MS;
                    let newest = 1000 + made / (PACKETS * PACKET_MS);
                    let list = ListEncoder::default().encode(newest - 74, newest).0;
                    let ttl = ((made + KEPT_MS - elapsed) / 1000) as u32;
                    Answer { ttl, ..cached(answer(vec![list])) }
                }
                Ask::Segment(_) => cached(segment(PACKETS, true)),
            }
        });
        assert_eq!(world.follower.stats().jumps, 0, "joined after {joined_ms} ms");
        let segments = world.segments();
        assert!(segments.len() > 300, "{} segments", segments.len());
        assert!(segments.windows(2).all(|pair| pair[1] == pair[0] + 1), "nothing is missing");
    }
}

#[test]
fn a_list_that_leaps_is_another_server_that_may_have_more() {
    let mut world = World::new(5 * MS);
    world.run(20 * SECOND, |elapsed, ask| match ask {
        Ask::Config | Ask::Now => Answer { rcode: Rcode::NXDOMAIN, ..answer(vec![]) },
        Ask::List => {
            // Numbers by the clock take the place of those counted from 0.
            let base = if elapsed > 9 * SECOND { 17_000_000_000 } else { 100 };
            let newest = base + elapsed.as_millis() as u64 / (PACKETS * PACKET_MS);
            answer(vec![ListEncoder::default().encode(newest - 74, newest).0])
        }
        Ask::Segment(_) => segment(PACKETS, true),
    });
    let asked = world.asked(Ask::Config);
    assert!(asked.iter().any(|at| (9 * SECOND..14 * SECOND).contains(at)), "{asked:?}");
}

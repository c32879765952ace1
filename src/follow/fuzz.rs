//! Body of the fuzz target `follower`: a server, a network and a clock made of octets, against the
//! follower's public interface alone.

use super::{Ask, Event, Follower, Outcome, StreamParameters};
use crate::segment::{ConfigRecord, ListEncoder, NowRecord};
use crate::units::{Channels, Format, SampleRate, Sequence};
use crate::wire::{Answer, Rcode};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// The longest that a lookup goes without a result, TCP and all retries.
const LOOKUP_MAX: Duration = Duration::from_secs(17);
/// Longer lists of operations find nothing that several short ones do not.
const OPERATIONS_MAX: usize = 400;
/// What the socket loop has room for.
const LOOKUPS_MAX: usize = 64;
/// No single operation may tell the listener more than this.
const EVENTS_MAX: usize = 256;
/// No record, whatever it claims, may put the beginning off for longer.
const PLAY_AHEAD_MAX: Duration = Duration::from_secs(300);

/// Where runs of servers begin.
const BASES: [Sequence; 6] = [0, 50, 17_000_000_000, 1 << 63, u64::MAX - 40, u64::MAX];

/// Octets as they are asked for; zeros after the last one.
struct Input<'a> {
    octets: &'a [u8],
    lists: ListEncoder,
}

impl Input<'_> {
    fn next(&mut self) -> u8 {
        let (first, rest) =
            self.octets.split_first().map_or((0, self.octets), |(&first, rest)| (first, rest));
        self.octets = rest;
        first
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.next()) % from.len()]
    }

    fn number(&mut self, min: u32, max: u32) -> u32 {
        let number = u32::from(self.next()) << 8 | u32::from(self.next());
        min + number % (max - min + 1)
    }
}

/// Each octet is an operation, its arguments behind it.
#[doc(hidden)]
pub fn fuzz_follower(operations: &[u8]) {
    let mut input = Input { octets: operations, lists: ListEncoder::default() };
    let fallback = StreamParameters::default();
    let seconds = u64::from(input.next());
    let latency = (seconds % 2 == 1).then(|| Duration::from_millis(seconds * 100));
    let now = Instant::now();
    let mut listener = Listener {
        follower: Follower::new(fallback, latency, seconds, now),
        now,
        asked: Vec::new(),
        told_stream: false,
        delivered: None,
    };
    listener.settle();
    let mut operations = 0;
    while !input.octets.is_empty() && operations < OPERATIONS_MAX {
        operations += 1;
        match input.next() % 16 {
            // To when the follower wants to be asked again; results may come before that.
            0..=3 => {
                let at = listener.follower.poll_timeout();
                let result = listener.asked.iter().map(|(_, sent)| *sent + LOOKUP_MAX).min();
                if let Some(at) = at.into_iter().chain(result).min() {
                    listener.now = listener.now.max(at);
                }
            }
            4 => listener.now += Duration::from_millis(u64::from(input.next()) * 4),
            5 => {
                let seconds = u64::from(input.next());
                listener.now += Duration::from_secs(seconds);
                // Nothing happened for a while, or the listener slept.
                if seconds % 2 == 1 {
                    listener.follower.handle_sleep(listener.now);
                }
            }
            6 => listener.answer(&mut input, |_, _| None),
            7 => listener.answer(&mut input, |input, _| {
                Some(Answer { rcode: input.pick(&[Rcode::SERVFAIL, Rcode::REFUSED]), ..nothing() })
            }),
            8 => listener.answer(&mut input, |input, _| {
                let rcode = input.pick(&[Rcode::NXDOMAIN, Rcode::NOERROR]);
                let negative_ttl = input.pick(&[None, Some(0), Some(1), Some(9), Some(u32::MAX)]);
                Some(Answer { rcode, negative_ttl, ..nothing() })
            }),
            9 => listener.answer(&mut input, |input, _| {
                let length = usize::from(input.next());
                Some(text((0..length).map(|_| input.next()).collect()))
            }),
            _ => listener.answer(&mut input, |input, ask| Some(fitting(input, ask))),
        }
        listener.settle();
    }
}

fn nothing() -> Answer {
    Answer {
        rcode: Rcode::NOERROR,
        authoritative: true,
        truncated: false,
        texts: Vec::new(),
        ttl: 0,
        negative_ttl: None,
        edns: true,
        cookie: None,
    }
}

fn text(text: Vec<u8>) -> Answer {
    Answer { texts: vec![text], ttl: 10, ..nothing() }
}

/// An answer of the right form, whatever it says.
fn fitting(input: &mut Input<'_>, ask: Ask) -> Answer {
    match ask {
        Ask::Config => {
            let rate = input.pick(&SampleRate::STREAM_RATES);
            let config = ConfigRecord {
                id: u32::from(input.next() % 3),
                codec: input.pick(&["opus", "codec2", "speex"]).to_string(),
                format: Format::new(rate, input.pick(&[Channels::MONO, Channels::STEREO])),
                frame_samples: input.number(rate.hz() / 400, rate.hz() * 120 / 1000),
                ascii: input.pick(&["base91", "base64", "base62"]).to_string(),
                packets_max: input.number(1, 1000),
                ttl: 60,
                window: 75,
                title: String::new(),
            };
            text(config.encode())
        }
        Ask::Now => {
            let base = input.pick(&BASES);
            let first = base.saturating_add(u64::from(input.next()));
            let age = u64::from(input.next());
            let now = NowRecord {
                first,
                next: first.saturating_add(u64::from(input.next())),
                id: u32::from(input.next() % 3),
                age: match age {
                    0 => None,
                    255 => Some(Duration::from_millis(u64::MAX)),
                    age => Some(Duration::from_millis(age * 10)),
                },
                clock_ms: 0,
                ended: input.next() > 250,
            };
            let mut value = Vec::new();
            now.write(&mut value);
            text(value)
        }
        Ask::List => {
            let oldest = input.pick(&BASES).saturating_add(u64::from(input.next()));
            let newest = oldest.saturating_add(u64::from(input.next()));
            text(input.lists.encode(oldest, newest).0)
        }
        Ask::Segment(_) => {
            let packets = usize::from(input.next());
            let strings = (0..packets).map(|index| format!("{index:03}'''AA").into_bytes());
            Answer { texts: strings.collect(), ttl: 43, ..nothing() }
        }
    }
}

struct Listener {
    follower: Follower,
    now: Instant,
    /// What is being looked up, and since when.
    asked: Vec<(Ask, Instant)>,
    told_stream: bool,
    /// What came or was lost since playing began the last time, if ever.
    delivered: Option<BTreeSet<Sequence>>,
}

impl Listener {
    /// Answers one of the open questions with what `make` makes; `None` is silence.
    fn answer(
        &mut self,
        input: &mut Input<'_>,
        make: impl FnOnce(&mut Input<'_>, Ask) -> Option<Answer>,
    ) {
        if self.asked.is_empty() {
            return;
        }
        let which = input.next();
        let (ask, sent) = self.asked.swap_remove(usize::from(which >> 1) % self.asked.len());
        let outcome = match make(input, ask) {
            Some(mut answer) => {
                answer.authoritative = which & 1 == 0;
                Outcome::Answered { answer, sent }
            }
            None => Outcome::Silence,
        };
        self.follower.handle_result(self.now, ask, outcome);
    }

    /// Does what the socket loop does between two waits, and checks what is promised.
    fn settle(&mut self) {
        let old = self.asked.iter().filter(|(_, sent)| *sent + LOOKUP_MAX <= self.now);
        let old: Vec<_> = old.copied().collect();
        self.asked.retain(|(_, sent)| *sent + LOOKUP_MAX > self.now);
        for (ask, _) in old {
            self.follower.handle_result(self.now, ask, Outcome::Silence);
        }
        while let Some(ask) = self.follower.poll_ask(self.now) {
            let twice = self.asked.iter().any(|(other, _)| *other == ask);
            assert!(!twice || matches!(ask, Ask::Segment(_)), "{ask:?} is asked once at a time");
            self.asked.push((ask, self.now));
            assert!(self.asked.len() <= LOOKUPS_MAX, "no more than the socket loop has room for");
        }
        if let Some(at) = self.follower.poll_timeout() {
            assert!(at > self.now, "time moves on");
        }
        let mut events = 0;
        while let Some(event) = self.follower.poll_event() {
            events += 1;
            assert!(events <= EVENTS_MAX, "what the listener is told is bounded");
            self.hear(event);
        }
        assert!(!self.asked.is_empty() || self.follower.poll_timeout().is_some(), "it goes on");
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Stream(_) => self.told_stream = true,
            Event::Start { play_at, .. } => {
                assert!(self.told_stream, "the stream is told first");
                assert!(play_at <= self.now + PLAY_AHEAD_MAX, "playing begins soon");
                self.delivered = Some(BTreeSet::new());
            }
            Event::Segment { sequence, segment, .. } => {
                assert!(self.told_stream, "the stream is told first");
                assert!(!segment.packets.is_empty());
                self.deliver(sequence);
            }
            Event::Lost(sequence, _) => self.deliver(sequence),
            Event::Ended | Event::Trouble(_) => {}
        }
    }

    fn deliver(&mut self, sequence: Sequence) {
        if let Some(delivered) = &mut self.delivered {
            assert!(delivered.insert(sequence), "{sequence} comes or is lost, once");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Found by fuzzing: with `now` denied before `config` came, nothing was ever asked again.
    #[test]
    fn config_after_a_denied_now_leads_to_the_list() {
        let config = [10, 0, 0, 0, 2, 0, 3, 0x98, 0, 0, 11];
        let deny_now = [8, 2, 0, 0];
        fuzz_follower(&[&[0][..], &deny_now, &config, &[0, 8, 0, 0, 0, 0]].concat());
    }
}

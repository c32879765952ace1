//! Which question to ask when, so that every segment is fetched as soon as it can be had and no
//! question comes too early: the listener's [`Follower`].
//!
//! It begins with `config` and `now_<nonce>`. Where both exist it *follows by schedule*: publish
//! times follow from the age that `now` tells and from the lengths of the segments, each question
//! is asked when its segment is due, and nothing is polled (protocol 2.3). Where `config` does not
//! exist it *follows by list* (protocol 1.6).
//!
//! No socket, clock or randomness. The caller asks what [`Follower::poll_ask`] says, hands every
//! result to [`Follower::handle_result`], drains [`Follower::poll_event`], and sleeps until
//! [`Follower::poll_timeout`]. What strangers sent is counted, never fatal.
//!
//! Words: a segment's *publish time* is when the server made it visible; its *capture time* is when
//! the first of its samples was captured, by the listener's clock.

mod fuzz;
mod list;
mod schedule;

#[doc(hidden)]
pub use fuzz::fuzz_follower;

use crate::ascii::AsciiKind;
use crate::codec::CodecKind;
use crate::segment::{ConfigRecord, NowRecord, PACKETS_MAX, Reassembled};
use crate::units::{Format, Sequence};
use crate::wire::{Answer, Rcode};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use list::Listing;
use schedule::Schedule;

/// Lookups for segments at the same time: what is under way while one of them takes so long, and at least
/// and at most so many.
const IN_FLIGHT: Duration = Duration::from_secs(5);
const IN_FLIGHT_BOUNDS: [u64; 2] = [8, 24];
/// `now` is asked again after this time (protocol 2.2).
const RESYNC: Duration = Duration::from_secs(300);
/// Shortest and longest time that a negative answer is respected (C08).
const MISS_WAIT: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(6)];
/// A server that failed is asked the same again after this time (C08).
const FAILED_WAIT: Duration = Duration::from_secs(5);
/// Failed or empty tries after which a segment is given up.
const TRIES_MAX: u32 = 3;
/// Once so many segments in a row could not be had, they are asked for one by one,
const FAILED_MAX: u32 = 4;
/// and where they are refused, this far apart; after as many more twice as far, then four times.
const REFUSED_WAIT: Duration = Duration::from_millis(500);
/// Questions in a row that failed after which the network is taken to be gone: until something
/// answers, only the live edge is asked for.
const FAILURES_MAX: u32 = 4;
/// What the way of a segment and lost attempts may take together, unless the path is clogged: with
/// what real sockets and the buffer add, a listener stays within a segment + 2 s (tests/faults.rs).
const BEHIND_BOUNDED: Duration = Duration::from_millis(1880);
/// Octets of the longest packet that any codec makes (RFC 6716 §3.4 [R2]).
const PACKET_OCTETS_MAX: usize = 1275;
/// Frame duration of the base layer, where nobody tells it.
const FRAME_DEFAULT: Duration = Duration::from_millis(60);

/// What the listener must know to decode the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamParameters {
    /// The codec.
    pub codec: CodecKind,
    /// Sample rate and channels of the stream.
    pub format: Format,
    /// Samples per channel in a packet; `None` when the first packet has to tell.
    pub frame_samples: Option<u32>,
    /// How packets are written as text.
    pub ascii: AsciiKind,
    /// What the stream is called; may be empty.
    pub title: String,
}

impl Default for StreamParameters {
    /// What a stream of the base layer is made of, if nobody says otherwise.
    fn default() -> StreamParameters {
        let codec = CodecKind::default();
        StreamParameters {
            codec,
            format: codec.format_default(),
            frame_samples: None,
            ascii: AsciiKind::default(),
            title: String::new(),
        }
    }
}

impl StreamParameters {
    /// Whether nothing but the title differs.
    pub fn sounds_like(&self, other: &StreamParameters) -> bool {
        *other == StreamParameters { title: other.title.clone(), ..self.clone() }
    }
}

/// A question to be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ask {
    /// `config`.
    Config,
    /// `now_<nonce>`, with a fresh nonce.
    Now,
    /// `sequence`.
    List,
    /// `seq_<n>`.
    Segment(Sequence),
}

/// What came of a question.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// An answer, whatever it says.
    Answered {
        /// What it says.
        answer: Answer,
        /// When the attempt that it answers was sent.
        sent: Instant,
    },
    /// No answer at all.
    Silence,
}

/// What the way to the server is like, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Path {
    /// Smoothed round-trip time.
    pub round_trip: Duration,
    /// How much later than usual a segment may come because attempts were lost.
    pub allowance: Duration,
    /// Whether so much is lost that being close behind is not worth a try.
    pub is_clogged: bool,
    /// Whether that is beyond doubt, so that playing may begin as far behind as that takes.
    pub is_surely_clogged: bool,
    /// Whether it is about to become known better.
    pub is_unsure: bool,
}

/// Whether an answer was of any use; a server whose answers are not is better left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// It said something, if only that there is nothing.
    Useful,
    /// It could not be read, or is not from this time.
    Useless,
}

/// Why a segment did not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossCause {
    /// Nobody answered.
    NoAnswer,
    /// The answers said that it is not there.
    Negative,
    /// The server or resolver answered with an error.
    Refused,
    /// What came cannot be read.
    Damaged,
    /// It was gone before it could be asked for.
    Behind,
}

/// What the listener is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// What the packets from now on are made of. Comes first, and again when it changes.
    Stream(StreamParameters),
    /// Playing begins, or begins anew, with this segment, the first of its samples at `play_at`.
    Start {
        /// The segment.
        sequence: Sequence,
        /// When its first sample is to be heard; may be past, when the segment is joined midway.
        play_at: Instant,
        /// Whether the segments belong to another run of the server than those before.
        fresh: bool,
    },
    /// A segment is here. They come in any order.
    Segment {
        /// Its number.
        sequence: Sequence,
        /// Its packets.
        segment: Reassembled,
        /// Its capture time, if the schedule knows it.
        captured: Option<Instant>,
        /// From capture to arrival, if it was asked for when it was due: what the listener has to
        /// be behind for this segment to be heard in time.
        need: Option<Duration>,
        /// How much longer that may take when attempts are lost.
        allowance: Duration,
    },
    /// A segment will not come.
    Lost(Sequence, LossCause),
    /// The server said that its source has ended, and everything before that was delivered.
    Ended,
    /// Something stands in the way; the listener may say so.
    Trouble(Trouble),
}

/// Why nothing is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trouble {
    /// No answer.
    Silence,
    /// The server answers with this code.
    Refusal(Rcode),
    /// The stream's codec or text encoding is not known here.
    UnknownStream,
    /// Nothing is published yet, or nothing new.
    NothingNew,
    /// There is no such name.
    NoStream,
    /// The records of the stream cannot be read.
    Unreadable,
}

/// What was counted so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FollowStats {
    /// Segments delivered.
    pub segments: u64,
    /// Segments given up.
    pub lost: u64,
    /// Packets damaged or missing in segments delivered.
    pub damaged: u64,
    /// Questions for segments that were answered with nothing.
    pub misses: u64,
    /// Lookups without any answer.
    pub silences: u64,
    /// Lookups answered with an error.
    pub refusals: u64,
    /// Records that could not be read.
    pub unreadable: u64,
    /// Those of them that were too long, or a list that grows too long when it is decompressed.
    pub oversized_records: u64,
    /// Those of them that lack a value or have one that is out of its range.
    pub out_of_range: u64,
    /// Segments with more packets or longer ones than any server sends; cut down.
    pub oversized_segments: u64,
    /// Lists that told nothing new for longer than any cache may keep them.
    pub stale_lists: u64,
    /// Times that nothing answered any more.
    pub outages: u64,
    /// Times that the server was seen to have restarted.
    pub restarts: u64,
    /// Times that playing began anew at the live edge.
    pub jumps: u64,
}

/// How the live edge is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Not known yet.
    Joining,
    /// By the schedule of the extension layer.
    Schedule,
    /// By the list of the base layer.
    List,
}

/// A segment that is to be fetched.
#[derive(Debug)]
struct Want {
    not_before: Instant,
    tries: u32,
    in_flight: bool,
    /// Whether it is asked for when it is due: not in haste, and not late.
    timely: bool,
    /// When the newest question was sent that was answered with nothing.
    denied: Option<Instant>,
}

impl Want {
    fn new(not_before: Instant, timely: bool) -> Want {
        Want { not_before, tries: 0, in_flight: false, timely, denied: None }
    }
}

/// How a segment was asked for that is here now.
#[derive(Clone, Copy, Debug)]
struct Asked {
    /// When the question was sent that brought it.
    sent: Instant,
    /// See [`Want`].
    timely: bool,
    /// When it was not there yet, if it was missed.
    missed: Option<Instant>,
}

/// One of the three records that are asked for by themselves.
#[derive(Debug, Default)]
struct Poll {
    at: Option<Instant>,
    in_flight: bool,
}

impl Poll {
    fn due(&self, now: Instant) -> bool {
        !self.in_flight && self.at.is_some_and(|at| at <= now)
    }

    /// Asks at `at`, or earlier if that was planned.
    fn plan(&mut self, at: Instant) {
        self.at = Some(self.at.map_or(at, |planned| planned.min(at)));
    }
}

#[derive(Debug)]
enum Mode {
    Joining,
    Schedule(Schedule),
    List(Listing),
}

/// The next of a row of random numbers (xorshift): asking at different times needs no better ones.
fn next_random(random: &mut u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random
}

/// Decides what to ask and when.
#[derive(Debug)]
pub struct Follower {
    fallback: StreamParameters,
    /// From capture to play; `None` chooses by the path.
    latency: Option<Duration>,
    random: u64,
    mode: Mode,
    stream: Option<StreamParameters>,
    config: Option<ConfigRecord>,
    no_config: bool,
    polls: [Poll; 3],
    edge: Option<(NowRecord, Instant)>,
    /// Whether the last `now` came from the server itself.
    direct: bool,
    wants: BTreeMap<Sequence, Want>,
    /// Everything below was delivered, lost or never wanted.
    cursor: Sequence,
    /// Lookups in a row that failed.
    failures: u32,
    /// Segments in a row that could not be had.
    segments_failed: u32,
    /// Until when none is asked for, as they are refused.
    refused_until: Option<Instant>,
    path: Path,
    events: VecDeque<Event>,
    stats: FollowStats,
}

const CONFIG: usize = 0;
const NOW: usize = 1;
const LIST: usize = 2;

impl Follower {
    /// A follower that begins now. `fallback` is used where the server does not tell; `latency` is
    /// the time from capture to play, `None` for the least that the path allows; `seed` spreads
    /// questions of many listeners in time.
    pub fn new(
        fallback: StreamParameters,
        latency: Option<Duration>,
        seed: u64,
        now: Instant,
    ) -> Follower {
        let asked_now = || Poll { at: Some(now), in_flight: false };
        Follower {
            fallback,
            latency,
            random: seed | 1,
            mode: Mode::Joining,
            stream: None,
            config: None,
            no_config: false,
            polls: [asked_now(), asked_now(), Poll::default()],
            edge: None,
            direct: false,
            wants: BTreeMap::new(),
            cursor: 0,
            failures: 0,
            segments_failed: 0,
            refused_until: None,
            path: Path::default(),
            events: VecDeque::new(),
            stats: FollowStats::default(),
        }
    }

    /// How the stream is followed.
    pub fn manner(&self) -> Manner {
        match self.mode {
            Mode::Joining => Manner::Joining,
            Mode::Schedule(_) => Manner::Schedule,
            Mode::List(_) => Manner::List,
        }
    }

    /// What was counted.
    pub fn stats(&self) -> FollowStats {
        self.stats
    }

    /// Whether the network is taken to be gone.
    pub fn is_out(&self) -> bool {
        self.failures >= FAILURES_MAX
    }

    /// Whether answers come from the stream's own server, without a resolver between.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Learns what the path is like.
    pub fn handle_path(&mut self, path: Path) {
        self.path = path;
        if !path.is_clogged {
            let most = BEHIND_BOUNDED.saturating_sub(self.way());
            self.path.allowance = path.allowance.min(most);
        }
    }

    /// The next thing to tell the listener.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next question to be asked now; to be called until there is none.
    pub fn poll_ask(&mut self, now: Instant) -> Option<Ask> {
        for (poll, ask) in self.polls.iter_mut().zip([Ask::Config, Ask::Now, Ask::List]) {
            if poll.due(now) {
                *poll = Poll { at: None, in_flight: true };
                return Some(ask);
            }
        }
        self.want_upcoming(now);
        let in_flight = self.in_flight();
        let refused = self.refused_until.is_some_and(|until| now < until);
        if in_flight >= self.in_flight_max() || self.is_out() || refused {
            return None;
        }
        let mut ready =
            self.wants.iter_mut().filter(|(_, want)| !want.in_flight && want.not_before <= now);
        let (&sequence, want) = ready.next()?;
        want.in_flight = true;
        Some(Ask::Segment(sequence))
    }

    /// When to call [`Follower::poll_ask`] again, if nothing happens before; `None` while that
    /// depends on results alone.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let polls = self.polls.iter().filter(|poll| !poll.in_flight).filter_map(|poll| poll.at);
        let in_flight = self.in_flight();
        let waiting = self.wants.values().filter(|want| !want.in_flight);
        let free = in_flight < self.in_flight_max() && !self.is_out();
        let refused = self.refused_until;
        let at = |want: &Want| refused.map_or(want.not_before, |until| until.max(want.not_before));
        let wants = waiting.map(at).filter(|_| free);
        polls.chain(wants).chain(self.schedule_timeout()).min()
    }

    /// Hears that nothing at all was answered for a while: how long what was asked for meanwhile takes
    /// does not tell how long the next segments will.
    pub fn handle_interruption(&mut self) {
        self.wants.values_mut().for_each(|want| want.timely = false);
    }

    /// Takes the result of the question `ask`, and tells what it was worth.
    pub fn handle_result(&mut self, now: Instant, ask: Ask, outcome: Outcome) -> Use {
        let index = match ask {
            Ask::Config => Some(CONFIG),
            Ask::Now => Some(NOW),
            Ask::List => Some(LIST),
            Ask::Segment(_) => None,
        };
        if let Some(index) = index {
            self.polls[index].in_flight = false;
        }
        let (answer, sent) = match outcome {
            Outcome::Answered { answer, sent }
                if matches!(answer.rcode, Rcode::NOERROR | Rcode::NXDOMAIN) =>
            {
                if self.is_out() && !self.path.is_clogged {
                    // Nothing was heard for so long that there is nothing to go on from.
                    self.handle_sleep(sent);
                    if ask == Ask::Now {
                        // This is the look at the edge.
                        self.polls[NOW] = Poll::default();
                    }
                }
                self.failures = 0;
                if matches!(ask, Ask::Segment(_)) {
                    (self.segments_failed, self.refused_until) = (0, None);
                }
                (answer, sent)
            }
            Outcome::Answered { answer, .. } => {
                self.stats.refusals += 1;
                self.handle_failure(now, ask, Trouble::Refusal(answer.rcode));
                return Use::Useful;
            }
            Outcome::Silence => {
                self.stats.silences += 1;
                self.handle_failure(now, ask, Trouble::Silence);
                return Use::Useful;
            }
        };
        match ask {
            Ask::Config => self.handle_config(now, &answer),
            Ask::Now => self.handle_now(now, sent, &answer),
            Ask::List => self.handle_list(now, &answer),
            Ask::Segment(sequence) => self.handle_segment(now, sent, sequence, &answer),
        }
    }

    /// No answer, or none that says anything about the name.
    fn handle_failure(&mut self, now: Instant, ask: Ask, trouble: Trouble) {
        self.failures = self.failures.saturating_add(1);
        self.stats.outages += u64::from(self.failures == FAILURES_MAX);
        if let (true, Mode::List(listing)) = (self.failures >= FAILURES_MAX, &mut self.mode) {
            listing.interrupted = true;
        }
        if self.failures > 1 {
            self.events.push_back(Event::Trouble(trouble));
        }
        // A lookup without an answer took its seconds; a refusal comes at once.
        let (wait, cause) = match trouble {
            Trouble::Silence => (Duration::ZERO, LossCause::NoAnswer),
            _ => (FAILED_WAIT, LossCause::Refused),
        };
        match ask {
            Ask::Config => self.polls[CONFIG].plan(now + wait),
            // It shows sooner than the others when that is over: no cache remembers its name.
            Ask::Now => self.polls[NOW].plan(now + wait.min(MISS_WAIT[0])),
            Ask::List => self.polls[LIST].plan(now + wait),
            Ask::Segment(sequence) => {
                // Unless much is lost always, this was an interruption.
                if let (Some(want), false) = (self.wants.get_mut(&sequence), self.path.is_clogged) {
                    want.timely = false;
                }
                self.try_again(sequence, now + wait, cause);
                self.handle_segment_failure(now, cause);
                if matches!(self.mode, Mode::Schedule(_)) {
                    self.polls[NOW].plan(self.refused_until.map_or(now, |until| until.max(now)));
                }
            }
        }
    }

    /// A segment could not be had. After some in a row one does not go on as if they could: looks at the
    /// edge may be answered all the same, so they do not tell.
    fn handle_segment_failure(&mut self, now: Instant, cause: LossCause) {
        self.segments_failed = self.segments_failed.saturating_add(1);
        let more = self.segments_failed.checked_sub(FAILED_MAX);
        // A lookup without an answer took its seconds; a refusal comes at once.
        if let Some(more) = more.filter(|_| cause == LossCause::Refused) {
            let wait = REFUSED_WAIT * (1 << (more / FAILED_MAX).min(2));
            self.refused_until = Some(now + wait);
        }
    }

    /// Segments that are being asked for.
    fn in_flight(&self) -> u64 {
        self.wants.values().filter(|want| want.in_flight).count() as u64
    }

    /// How many there may be.
    fn in_flight_max(&self) -> u64 {
        if self.segments_failed >= FAILED_MAX {
            return 1;
        }
        let [least, most] = IN_FLIGHT_BOUNDS;
        match &self.mode {
            Mode::Schedule(schedule) => schedule.segments_in(IN_FLIGHT).clamp(least, most),
            Mode::Joining | Mode::List(_) => least,
        }
    }

    /// Puts a segment off, or gives it up after too many tries.
    fn try_again(&mut self, sequence: Sequence, not_before: Instant, cause: LossCause) {
        let Some(want) = self.wants.get_mut(&sequence) else { return };
        want.in_flight = false;
        want.not_before = not_before;
        want.tries += 1;
        if want.tries >= TRIES_MAX {
            self.give_up(sequence, cause);
        }
    }

    fn give_up(&mut self, sequence: Sequence, cause: LossCause) {
        if self.wants.remove(&sequence).is_some() {
            self.stats.lost += 1;
            self.advance_cursor();
            // Nobody waits for a probe, and the next list may name it again.
            let probe = matches!(&self.mode, Mode::List(list) if list.probe == Some(sequence));
            if !probe {
                self.tell(Event::Lost(sequence, cause));
            }
            self.end_if_over();
        }
        if let Mode::List(listing) = &mut self.mode {
            if listing.probe == Some(sequence) {
                // Begin anew with the next list.
                (listing.probe, listing.newest) = (None, None);
            }
        }
    }

    fn advance_cursor(&mut self) {
        let upcoming = match &self.mode {
            Mode::Schedule(schedule) => schedule.upcoming,
            Mode::List(listing) => listing.newest.map_or(0, |newest| newest.saturating_add(1)),
            Mode::Joining => return,
        };
        self.cursor = self.wants.first_key_value().map_or(upcoming, |(&sequence, _)| sequence);
    }

    fn want(&mut self, sequence: Sequence, not_before: Instant, timely: bool) {
        self.wants.entry(sequence).or_insert(Want::new(not_before, timely));
    }

    fn random(&mut self) -> u64 {
        next_random(&mut self.random)
    }

    // ---- config -------------------------------------------------------------------------------

    fn handle_config(&mut self, now: Instant, answer: &Answer) -> Use {
        let config = match answer.texts.first().map(|text| ConfigRecord::parse(text)) {
            Some(Ok(config)) => config,
            parsed => {
                if let Some(Err(error)) = parsed {
                    self.count_unreadable(error);
                }
                self.no_config = self.config.is_none();
                self.polls[CONFIG].plan(now + RESYNC);
                self.settle(now);
                return if parsed.is_some() { Use::Useless } else { Use::Useful };
            }
        };
        let known =
            config.codec.parse::<CodecKind>().ok().zip(config.ascii.parse::<AsciiKind>().ok());
        if known.is_none() {
            self.events.push_back(Event::Trouble(Trouble::UnknownStream));
            self.polls[CONFIG].plan(now + self.cache_wait(answer));
            return Use::Useful;
        }
        // A cache may still hold the record of the run before.
        let stale = match &self.mode {
            Mode::Schedule(schedule) => schedule.id != config.id,
            _ => self.edge.is_some_and(|(edge, _)| edge.id != config.id),
        };
        if stale {
            self.polls[CONFIG].plan(now + self.cache_wait(answer));
        }
        self.no_config = false;
        if let Mode::Schedule(schedule) = &mut self.mode {
            let rate = config.format.rate;
            schedule.frame = rate.duration(u64::from(config.frame_samples));
            schedule.packets_max = config.packets_max as usize;
        }
        self.config = Some(config);
        match self.mode {
            Mode::Joining => {}
            Mode::Schedule(_) => self.change_stream(now),
            // The edge decides whether to change over to the schedule.
            Mode::List(_) => self.polls[NOW].plan(now),
        }
        self.settle(now);
        Use::Useful
    }

    /// How long a cache will hold on to this answer.
    fn cache_wait(&self, answer: &Answer) -> Duration {
        Duration::from_secs(u64::from(answer.ttl)).clamp(MISS_WAIT[0], Duration::from_secs(60))
    }

    /// Chooses the manner of following, once there is enough to choose by.
    fn settle(&mut self, now: Instant) {
        match self.mode {
            Mode::Joining if self.no_config => self.begin_list(now),
            Mode::Joining if self.config.is_some() && self.edge.is_some() => {
                self.begin_schedule(now);
            }
            Mode::List(_) if self.config.is_some() && self.edge.is_some() => {
                self.begin_schedule(now);
            }
            _ => {}
        }
    }

    /// Tells what the stream is made of, if that is new.
    fn tell_stream(&mut self) {
        let parameters = match &self.config {
            Some(config) => StreamParameters {
                codec: config.codec.parse().unwrap_or(self.fallback.codec),
                format: config.format,
                frame_samples: Some(config.frame_samples),
                ascii: config.ascii.parse().unwrap_or(self.fallback.ascii),
                title: config.title.clone(),
            },
            None => self.fallback.clone(),
        };
        if self.stream.as_ref() != Some(&parameters) {
            self.stream = Some(parameters.clone());
            self.events.push_back(Event::Stream(parameters));
        }
    }

    // ---- segments -----------------------------------------------------------------------------

    fn handle_segment(
        &mut self,
        now: Instant,
        sent: Instant,
        sequence: Sequence,
        answer: &Answer,
    ) -> Use {
        let Some(want) = self.wants.get(&sequence) else { return Use::Useful };
        let (timely, denied) = (want.timely, want.denied);
        if answer.texts.is_empty() {
            self.handle_miss(now, sent, sequence, answer);
            return Use::Useful;
        }
        let ascii = self.stream.as_ref().unwrap_or(&self.fallback).ascii;
        let mut segment = Reassembled::from_strings(&answer.texts, &*ascii.build());
        self.cut_down(&mut segment);
        if segment.packets.iter().all(Option::is_none) {
            self.stats.unreadable += 1;
            self.events.push_back(Event::Trouble(Trouble::Unreadable));
            self.try_again(sequence, now + MISS_WAIT[0], LossCause::Damaged);
            // Where nothing ever could be read, the wrong encoding was asked for, by the user perhaps.
            return if self.stats.segments == 0 { Use::Useful } else { Use::Useless };
        }
        self.stats.damaged += segment.damaged as u64;
        self.wants.remove(&sequence);
        self.stats.segments += 1;
        let packets = segment.packets.len();
        let asked = Asked { sent, timely, missed: denied };
        let (captured, need) = self.learn_schedule(now, sequence, packets, asked);
        self.learn_list(now, sequence, packets);
        self.advance_cursor();
        let allowance = self.path.allowance;
        self.deliver(now, Event::Segment { sequence, segment, captured, need, allowance });
        self.end_if_over();
        Use::Useful
    }

    /// No segment takes more room than a server's could.
    fn cut_down(&mut self, segment: &mut Reassembled) {
        let mut over = segment.packets.len() > PACKETS_MAX;
        segment.packets.truncate(PACKETS_MAX);
        for packet in &mut segment.packets {
            let long = packet.as_ref().is_some_and(|packet| packet.len() > PACKET_OCTETS_MAX);
            if long {
                *packet = None;
                segment.damaged += 1;
            }
            over |= long;
        }
        self.stats.oversized_segments += u64::from(over);
    }
}

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

#[doc(hidden)]
pub use fuzz::fuzz_follower;

use crate::ascii::AsciiKind;
use crate::codec::CodecKind;
use crate::segment::{ConfigRecord, NowRecord, Reassembled, decode_list};
use crate::units::{Format, Sequence};
use crate::wire::{Answer, Rcode};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Lookups for segments at the same time.
const IN_FLIGHT_MAX: usize = 4;
/// Segments wanted at the same time; beyond it the network is gone, and the edge is looked up anew.
const WANTS_MAX: usize = 64;
/// `now` is asked again after this time (protocol 2.2).
const RESYNC: Duration = Duration::from_secs(300);
/// A question to the authoritative server itself comes this much before the segment is due; the
/// server holds it (dns-behaviour D8: 20 to 80 ms of waiting).
const EARLY: Duration = Duration::from_millis(60);
/// A question through a resolver comes this long after the segment is due, and up to
/// [`GUARD_RANDOM`] later, so that not all listeners ask at once (C13).
const GUARD: Duration = Duration::from_millis(30);
/// See [`GUARD`].
const GUARD_RANDOM: Duration = Duration::from_millis(50);
/// The guard grows by this with each question that came too early.
const GUARD_STEP: Duration = Duration::from_millis(20);
/// And not beyond this.
const GUARD_MAX: Duration = Duration::from_millis(500);
/// The list is not asked for more often (protocol 1.6).
const LIST_INTERVAL: Duration = Duration::from_secs(4);
/// TTL of the list, and so how old it may be in a cache (protocol 1.4).
const LIST_TTL: Duration = Duration::from_secs(10);
/// How much older than its TTL a list may be, through chains of caches, before numbers that went
/// back can only mean another run of the server.
const LIST_STALE_MAX: Duration = Duration::from_secs(15);
/// Shortest and longest time that a negative answer is respected (C08).
const MISS_WAIT: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(6)];
/// A server that failed is asked the same again after this time (C08).
const FAILED_WAIT: Duration = Duration::from_secs(5);
/// Failed or empty tries after which a segment is given up.
const TRIES_MAX: u32 = 3;
/// A listener that is further behind its place than this goes back to it.
const BEHIND_MAX: Duration = Duration::from_secs(4);
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
    },
    /// A segment will not come.
    Lost(Sequence),
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
    /// The records of the stream cannot be read.
    Unreadable,
}

/// What was counted so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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

/// The extension layer's schedule.
#[derive(Debug)]
struct Schedule {
    /// Run of the server.
    id: u32,
    /// The next segment to be wanted, and the latest that it is published.
    upcoming: Sequence,
    due: Instant,
    /// Publish times of the newest segments, and whether they closed by size, one frame late.
    published: BTreeMap<Sequence, (Instant, bool)>,
    frame: Duration,
    packets_max: usize,
    /// Grows with questions that came too early.
    guard: Duration,
    /// Whether the server itself is asked, without a resolver between.
    direct: bool,
    /// Whether the source has ended.
    ended: bool,
}

impl Schedule {
    fn segment_duration_max(&self) -> Duration {
        self.frame * self.packets_max as u32
    }

    /// When to ask for the upcoming segment.
    fn ask_at(&self, random: u64) -> Instant {
        if self.direct {
            return self.due.checked_sub(EARLY).unwrap_or(self.due) + (self.guard - GUARD);
        }
        self.due + self.guard + GUARD_RANDOM.mul_f64(random as f64 / u64::MAX as f64)
    }

    /// Learns the publish time of a segment of `packets` that answered a question sent at `sent`;
    /// returns its capture time.
    fn learn(
        &mut self,
        sequence: Sequence,
        packets: usize,
        sent: Instant,
        now: Instant,
    ) -> Instant {
        let by_size = packets < self.packets_max;
        let late = |by_size: bool| if by_size { self.frame } else { Duration::ZERO };
        let before = sequence.checked_sub(1).and_then(|n| self.published.get(&n));
        let reckoned = match before {
            // It began when the one before was full, and was published when it was full itself.
            Some(&(at, size)) => {
                let earlier = at.checked_sub(late(size)).unwrap_or(at);
                earlier + self.frame * packets as u32 + late(by_size)
            }
            None => now,
        };
        // A question that came before that time was held until the segment was published: its
        // answer tells the exact time. Any answer bounds the time from above.
        let one_way = Duration::from_millis(2).min(now.saturating_duration_since(sent) / 2);
        let arrived = now.checked_sub(one_way).unwrap_or(now);
        let held = before.is_some() && sent < reckoned && self.direct;
        let at = if held { arrived } else { reckoned.min(arrived) };
        self.published.insert(sequence, (at, by_size));
        while self.published.len() > 64 {
            self.published.pop_first();
        }
        if sequence + 1 == self.upcoming {
            self.due = at + self.segment_duration_max();
        }
        let length = self.frame * packets as u32 + late(by_size);
        at.checked_sub(length).unwrap_or(at)
    }
}

/// The base layer's list.
#[derive(Debug)]
struct Listing {
    /// The oldest number of the newest list.
    oldest: Sequence,
    /// The newest number seen in a list.
    newest: Option<Sequence>,
    /// Whether lists come from the server itself.
    direct: bool,
    /// Fetched first, to learn how long a segment lasts.
    probe: Option<Sequence>,
    /// Longest segment seen, once there is one.
    segment: Option<Duration>,
    /// The newest number of a list that went back; a second one that went on from there proves
    /// that the server restarted.
    went_back: Option<Sequence>,
    /// When the list last told something new.
    news: Instant,
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
        let in_flight = self.wants.values().filter(|want| want.in_flight).count();
        if in_flight >= IN_FLIGHT_MAX {
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
        let in_flight = self.wants.values().filter(|want| want.in_flight).count();
        let waiting = self.wants.values().filter(|want| !want.in_flight);
        let wants = waiting.map(|want| want.not_before).filter(|_| in_flight < IN_FLIGHT_MAX);
        let upcoming = match &self.mode {
            Mode::Schedule(schedule) if !schedule.ended && self.wants.len() < WANTS_MAX => {
                Some(schedule.ask_at(self.random))
            }
            _ => None,
        };
        polls.chain(wants).chain(upcoming).min()
    }

    /// Takes the result of the question `ask`.
    pub fn handle_result(&mut self, now: Instant, ask: Ask, outcome: Outcome) {
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
                self.failures = 0;
                (answer, sent)
            }
            Outcome::Answered { answer, .. } => {
                self.stats.refusals += 1;
                self.handle_failure(now, ask, Trouble::Refusal(answer.rcode));
                return;
            }
            Outcome::Silence => {
                self.stats.silences += 1;
                self.handle_failure(now, ask, Trouble::Silence);
                return;
            }
        };
        match ask {
            Ask::Config => self.handle_config(now, &answer),
            Ask::Now => self.handle_now(now, sent, &answer),
            Ask::List => self.handle_list(now, &answer),
            Ask::Segment(sequence) => self.handle_segment(now, sent, sequence, answer),
        }
    }

    /// No answer, or none that says anything about the name.
    fn handle_failure(&mut self, now: Instant, ask: Ask, trouble: Trouble) {
        self.failures = self.failures.saturating_add(1);
        if self.failures > 1 {
            self.events.push_back(Event::Trouble(trouble));
        }
        // A lookup without an answer took its seconds; a refusal comes at once.
        let wait = if trouble == Trouble::Silence { Duration::ZERO } else { MISS_WAIT[0] };
        match ask {
            Ask::Config => self.polls[CONFIG].plan(now + wait),
            Ask::Now => self.polls[NOW].plan(now + wait),
            Ask::List => self.polls[LIST].plan(now + wait),
            Ask::Segment(sequence) => {
                let wait = if trouble == Trouble::Silence { Duration::ZERO } else { FAILED_WAIT };
                self.try_again(sequence, now + wait);
                if matches!(self.mode, Mode::Schedule(_)) {
                    self.polls[NOW].plan(now);
                }
            }
        }
    }

    /// Puts a segment off, or gives it up after too many tries.
    fn try_again(&mut self, sequence: Sequence, not_before: Instant) {
        let Some(want) = self.wants.get_mut(&sequence) else { return };
        want.in_flight = false;
        want.not_before = not_before;
        want.tries += 1;
        if want.tries >= TRIES_MAX {
            self.give_up(sequence);
        }
    }

    fn give_up(&mut self, sequence: Sequence) {
        if self.wants.remove(&sequence).is_some() {
            self.stats.lost += 1;
            self.events.push_back(Event::Lost(sequence));
            self.advance_cursor();
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

    fn want(&mut self, sequence: Sequence, not_before: Instant) {
        let want = Want { not_before, tries: 0, in_flight: false };
        self.wants.entry(sequence).or_insert(want);
    }

    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    // ---- config -------------------------------------------------------------------------------

    fn handle_config(&mut self, now: Instant, answer: &Answer) {
        let parsed = answer.texts.first().map(|text| ConfigRecord::parse(text));
        let Some(Ok(config)) = parsed else {
            if parsed.is_some() {
                self.stats.unreadable += 1;
                self.events.push_back(Event::Trouble(Trouble::Unreadable));
            }
            self.no_config = self.config.is_none();
            self.polls[CONFIG].plan(now + RESYNC);
            self.settle(now);
            return;
        };
        let known =
            config.codec.parse::<CodecKind>().ok().zip(config.ascii.parse::<AsciiKind>().ok());
        if known.is_none() {
            self.events.push_back(Event::Trouble(Trouble::UnknownStream));
            self.polls[CONFIG].plan(now + self.cache_wait(answer));
            return;
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
            Mode::Schedule(_) => self.tell_stream(),
            // The edge decides whether to change over to the schedule.
            Mode::List(_) => self.polls[NOW].plan(now),
        }
        self.settle(now);
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

    // ---- by schedule --------------------------------------------------------------------------

    fn handle_now(&mut self, now: Instant, sent: Instant, answer: &Answer) {
        let record = answer.texts.first().and_then(|text| NowRecord::parse(text).ok());
        let Some(record) = record else {
            if matches!(self.mode, Mode::Schedule(_)) {
                self.stats.unreadable += u64::from(!answer.texts.is_empty());
                self.polls[NOW].plan(now + MISS_WAIT[1]);
            } else if matches!(self.mode, Mode::Joining) && self.config.is_some() {
                // `config` without `now`: something between us keeps it. The list will do.
                self.begin_list(now);
            } else if matches!(self.mode, Mode::Joining) {
                // Should `config` come after all, this is asked again.
                self.polls[NOW].plan(now + MISS_WAIT[0]);
            }
            return;
        };
        // The answer was made half-way, to within half a round trip.
        let made = sent + now.saturating_duration_since(sent) / 2;
        self.edge = Some((record, made));
        self.direct = answer.authoritative;
        if let Mode::Schedule(schedule) = &mut self.mode {
            schedule.direct = answer.authoritative;
            self.sync(now, record, made);
        } else {
            self.settle(now);
        }
        self.polls[NOW].plan(now + RESYNC);
    }

    fn begin_schedule(&mut self, now: Instant) {
        let (Some(config), Some((edge, made))) = (&self.config, self.edge) else { return };
        self.mode = Mode::Schedule(Schedule {
            id: edge.id,
            upcoming: edge.next,
            due: made,
            published: BTreeMap::new(),
            frame: config.format.rate.duration(u64::from(config.frame_samples)),
            packets_max: config.packets_max as usize,
            guard: GUARD,
            direct: self.direct,
            ended: edge.ended,
        });
        if config.id != edge.id {
            self.polls[CONFIG].plan(now + MISS_WAIT[0]);
        }
        self.polls[LIST] = Poll::default();
        self.tell_stream();
        self.jump(now, edge, made, true);
    }

    /// Publish time of the newest segment by `edge`, which was made at `made`.
    fn edge_published(edge: &NowRecord, made: Instant) -> Instant {
        edge.age.and_then(|age| made.checked_sub(age)).unwrap_or(made)
    }

    /// Begins to play anew at the live edge.
    fn jump(&mut self, now: Instant, edge: NowRecord, made: Instant, fresh: bool) {
        let Mode::Schedule(schedule) = &mut self.mode else { return };
        let longest = schedule.segment_duration_max();
        let published = Self::edge_published(&edge, made);
        // From capture to play: a whole segment must be there, and some time to fetch it.
        let guard = if schedule.direct { 250 } else { 350 };
        let latency = self.latency.unwrap_or(longest + Duration::from_millis(guard)).max(longest);
        // The segment that is to be heard now, were it here already.
        let back = (published + latency).saturating_duration_since(made + longest);
        let segments = back.as_nanos().div_ceil(longest.as_nanos().max(1)) as u64;
        let newest = edge.next.saturating_sub(1);
        let start = newest.saturating_sub(segments).max(edge.first).min(edge.next);
        let captured = published
            .checked_sub(longest * (edge.next - start).min(1 << 20) as u32)
            .unwrap_or(published);
        schedule.upcoming = edge.next;
        schedule.due = published + longest;
        schedule.ended = edge.ended;
        schedule.published.clear();
        if edge.next > 0 {
            schedule.published.insert(edge.next - 1, (published, false));
        }
        self.wants.clear();
        self.cursor = start;
        self.events.push_back(Event::Start { sequence: start, play_at: captured + latency, fresh });
        for sequence in start..edge.next {
            self.want(sequence, now);
        }
        self.end_if_over();
    }

    /// Compares the schedule with a fresh look at the live edge.
    fn sync(&mut self, now: Instant, edge: NowRecord, made: Instant) {
        let Mode::Schedule(schedule) = &mut self.mode else { return };
        let longest = schedule.segment_duration_max();
        if edge.id != schedule.id {
            schedule.id = edge.id;
            self.stats.restarts += 1;
            self.polls[CONFIG].plan(now);
            self.jump(now, edge, made, true);
            return;
        }
        let published = Self::edge_published(&edge, made);
        // A closing by size is published one frame later: unknown here, and within the guard.
        if edge.next > 0 && edge.age.is_some() {
            let by_size = schedule.published.get(&(edge.next - 1)).is_some_and(|known| known.1);
            schedule.published.insert(edge.next - 1, (published, by_size));
        }
        let behind = edge.next.saturating_sub(self.cursor);
        let latency = self.latency.unwrap_or(longest);
        if longest * behind.min(1 << 20) as u32 > latency + BEHIND_MAX + longest {
            self.stats.jumps += 1;
            let jumped_over = self.wants.len() as u64;
            self.stats.lost += jumped_over;
            self.jump(now, edge, made, false);
            return;
        }
        for sequence in schedule.upcoming..edge.next {
            let want = Want { not_before: now, tries: 0, in_flight: false };
            self.wants.entry(sequence).or_insert(want);
        }
        let ahead = schedule.upcoming.saturating_sub(edge.next);
        schedule.upcoming = schedule.upcoming.max(edge.next);
        schedule.due = published + longest * (ahead.min(1 << 20) as u32 + 1);
        schedule.ended = edge.ended;
        let early = schedule.guard;
        for (&sequence, want) in self.wants.range_mut(edge.next..) {
            let due = published + longest * ((sequence - edge.next).min(1 << 20) as u32 + 1);
            want.not_before = want.not_before.max(due + early);
            // It could not be there yet: not its fault.
            want.tries = want.tries.saturating_sub(1);
        }
        let gone: Vec<_> = self.wants.range(..edge.first).map(|(&sequence, _)| sequence).collect();
        gone.into_iter().for_each(|sequence| self.give_up(sequence));
        self.end_if_over();
    }

    /// Wants the segments whose time has come.
    fn want_upcoming(&mut self, now: Instant) {
        loop {
            let random = self.random;
            let Mode::Schedule(schedule) = &mut self.mode else { return };
            if schedule.ended || self.wants.len() >= WANTS_MAX || schedule.ask_at(random) > now {
                return;
            }
            let sequence = schedule.upcoming;
            schedule.upcoming += 1;
            schedule.due += schedule.segment_duration_max();
            self.want(sequence, now);
            self.random();
        }
    }

    fn end_if_over(&mut self) {
        let Mode::Schedule(schedule) = &self.mode else { return };
        if schedule.ended && self.wants.is_empty() {
            self.events.push_back(Event::Ended);
        }
    }

    fn handle_segment(&mut self, now: Instant, sent: Instant, sequence: Sequence, answer: Answer) {
        if !self.wants.contains_key(&sequence) {
            return;
        }
        if answer.texts.is_empty() {
            self.handle_miss(now, sequence, &answer);
            return;
        }
        let ascii = self.stream.as_ref().unwrap_or(&self.fallback).ascii;
        let segment = Reassembled::from_strings(&answer.texts, &*ascii.build());
        self.stats.damaged += segment.damaged as u64;
        if segment.packets.is_empty() {
            self.stats.unreadable += 1;
            self.give_up(sequence);
            return;
        }
        self.wants.remove(&sequence);
        self.stats.segments += 1;
        let mut captured = None;
        match &mut self.mode {
            Mode::Schedule(schedule) => {
                captured = Some(schedule.learn(sequence, segment.packets.len(), sent, now));
            }
            Mode::List(listing) => {
                let frame = self.config.as_ref().map_or(FRAME_DEFAULT, |config| {
                    config.format.rate.duration(u64::from(config.frame_samples))
                });
                let length = frame * segment.packets.len() as u32;
                listing.segment = Some(listing.segment.map_or(length, |known| known.max(length)));
                if listing.probe == Some(sequence) {
                    self.start_list(now, sequence, length);
                    if let Mode::List(listing) = &mut self.mode {
                        listing.probe = None;
                    }
                }
            }
            Mode::Joining => {}
        }
        self.advance_cursor();
        self.events.push_back(Event::Segment { sequence, segment, captured });
        self.end_if_over();
    }

    /// The segment is not there, or not any more.
    fn handle_miss(&mut self, now: Instant, sequence: Sequence, answer: &Answer) {
        self.stats.misses += 1;
        let negative = Duration::from_secs(u64::from(answer.negative_ttl.unwrap_or(1)));
        let wait = negative.clamp(MISS_WAIT[0], MISS_WAIT[1]);
        self.try_again(sequence, now + wait);
        if let Mode::Schedule(schedule) = &mut self.mode {
            schedule.guard = (schedule.guard + GUARD_STEP).min(GUARD_MAX);
            self.polls[NOW].plan(now);
        }
    }

    // ---- by list ------------------------------------------------------------------------------

    fn begin_list(&mut self, now: Instant) {
        self.edge = None;
        self.mode = Mode::List(Listing {
            oldest: 0,
            newest: None,
            direct: false,
            probe: None,
            segment: None,
            went_back: None,
            news: now,
        });
        self.wants.clear();
        self.polls[LIST].plan(now);
        self.tell_stream();
    }

    fn handle_list(&mut self, now: Instant, answer: &Answer) {
        let Mode::List(listing) = &mut self.mode else { return };
        listing.direct = answer.authoritative;
        // A cached list changes when it expires, and not before.
        let age_left = Duration::from_secs(u64::from(answer.ttl));
        let wait = if answer.authoritative { LIST_INTERVAL } else { age_left.max(LIST_INTERVAL) };
        let Some(text) = answer.texts.first() else {
            self.events.push_back(Event::Trouble(Trouble::NothingNew));
            self.polls[LIST].plan(now + MISS_WAIT[0]);
            return;
        };
        self.polls[LIST].plan(now + wait + Duration::from_millis(20));
        let numbers = match decode_list(text) {
            Ok(numbers) => numbers,
            Err(_) => {
                self.stats.unreadable += 1;
                self.events.push_back(Event::Trouble(Trouble::Unreadable));
                return;
            }
        };
        let (Some(&oldest), Some(&newest)) = (numbers.first(), numbers.last()) else { return };

        if listing.newest.is_none_or(|seen| newest >= seen) {
            listing.oldest = oldest;
        }
        match listing.newest {
            None => {
                listing.newest = Some(newest);
                listing.probe = Some(newest);
                self.want(newest, now);
            }
            Some(seen) if newest < seen => {
                self.handle_list_back(now, oldest, newest, seen);
            }
            Some(seen) => {
                listing.went_back = None;
                if newest > seen {
                    listing.news = now;
                } else if now.saturating_duration_since(listing.news) > LIST_STALE_MAX {
                    self.events.push_back(Event::Trouble(Trouble::NothingNew));
                }
                listing.newest = Some(newest);
                // While the probe is out there is nothing to go on from.
                if listing.probe.is_none() {
                    let fresh = numbers.into_iter().filter(|&number| number > seen);
                    let room = WANTS_MAX.saturating_sub(self.wants.len());
                    let fresh: Vec<_> = fresh.take(room).collect();
                    fresh.into_iter().for_each(|number| self.want(number, now));
                }
            }
        }
    }

    /// The list went back: it is stale, or the server restarted from 0.
    fn handle_list_back(
        &mut self,
        now: Instant,
        oldest: Sequence,
        newest: Sequence,
        seen: Sequence,
    ) {
        let Mode::List(listing) = &mut self.mode else { return };
        let segment = listing.segment.unwrap_or(FRAME_DEFAULT).max(FRAME_DEFAULT);
        let stale_max = (LIST_STALE_MAX.as_nanos() / segment.as_nanos()) as u64 + 1;
        let went_on = listing.went_back.is_some_and(|before| newest > before);
        // The server itself is never stale, and no cache is that stale.
        if !listing.direct && seen - newest <= stale_max && !went_on {
            listing.went_back = Some(newest);
            return;
        }
        self.stats.restarts += 1;
        *listing = Listing {
            oldest,
            newest: Some(newest),
            direct: listing.direct,
            probe: None,
            segment: listing.segment,
            went_back: None,
            news: now,
        };
        self.wants.clear();
        self.cursor = oldest;
        self.start_list(now, newest, segment);
        // A restarted server may be one that has `config` now.
        self.polls[CONFIG].plan(now);
    }

    /// How far behind the newest number to play: until the next list is here, there must be sound.
    fn list_delay(&self, segment: Duration) -> Duration {
        let direct = matches!(&self.mode, Mode::List(listing) if listing.direct);
        let interval = if direct { LIST_INTERVAL } else { LIST_TTL };
        let least = interval + segment + Duration::from_millis(1500);
        self.latency.map_or(least, |latency| latency.max(least))
    }

    /// Begins to play a list whose newest number is `newest`, at the right distance behind it.
    fn start_list(&mut self, now: Instant, newest: Sequence, segment: Duration) {
        let segment = segment.max(FRAME_DEFAULT);
        let delay = self.list_delay(segment);
        let back = delay.as_nanos().div_ceil(segment.as_nanos()).min(WANTS_MAX as u128 / 2) as u64;
        let Mode::List(listing) = &self.mode else { return };
        let start = newest.saturating_sub(back).max(listing.oldest).min(newest);
        // A young run has less to play than the delay takes: wait for some of it, not for all.
        let there = segment * (newest - start + 1) as u32;
        let wait = delay.saturating_sub(there).min(Duration::from_secs(1));
        let play_at = now + wait.max(Duration::from_millis(300));
        self.cursor = start;
        self.events.push_back(Event::Start { sequence: start, play_at, fresh: true });
        let until = listing.newest.unwrap_or(newest).min(newest + WANTS_MAX as u64 / 2);
        for number in start..=until {
            if number != newest || !self.probed(number) {
                self.want(number, now);
            }
        }
    }

    /// Whether the probe brought this number already.
    fn probed(&self, sequence: Sequence) -> bool {
        matches!(&self.mode, Mode::List(listing) if listing.probe == Some(sequence))
    }
}

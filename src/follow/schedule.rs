//! Following by the schedule of the extension layer (protocol 2.3).

use super::{
    Asked, BEHIND_BOUNDED, CONFIG, Event, Follower, LIST, LossCause, MISS_WAIT, Mode, NOW, Poll,
    RESYNC, Trouble, Use, Want,
};
use crate::segment::{NowRecord, RecordError};
use crate::units::Sequence;
use crate::wire::Answer;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// While the source pauses, a segment is asked for again after this time.
const PAUSE_WAIT: Duration = Duration::from_secs(2);
/// Denials of the live edge in a row, with no segment between, after which the stream is joined anew.
const DENIALS_MAX: u32 = 3;
/// Segments wanted at the same time; beyond it the network is gone, and the edge is looked up anew.
const WANTS_MAX: usize = 64;
/// A question to the authoritative server itself comes there this much before the segment is due;
/// the server holds it (D8: 20 to 80 ms of waiting).
const EARLY: Duration = Duration::from_millis(60);
/// And is sent up to this much before that, for the way there (protocol 2.3: up to 150 ms early).
const EARLY_WAY_MAX: Duration = Duration::from_millis(90);
/// A question through a resolver comes this long after the segment is due, and up to
/// [`GUARD_RANDOM`] later, so that not all listeners ask at once (C13).
const GUARD: Duration = Duration::from_millis(30);
/// See [`GUARD`].
const GUARD_RANDOM: Duration = Duration::from_millis(50);
/// How the latter is drawn: all of it is equally likely, but for this share at its beginning, over
/// which the likelihood rises by e to the power of [`GUARD_RISE`] (as that of the timers of multicast
/// feedback does, RFC 5401). So one of many listeners is alone for a while, and the others find in the
/// cache what it asked for: some resolvers look up anew for each that asks meanwhile.
const GUARD_HEAD: f64 = 0.12;
/// See [`GUARD_HEAD`].
const GUARD_RISE: f64 = 3.0;
/// The mean of all that.
const GUARD_MEAN: f64 = 0.541;
/// The guard grows by this with each question that came too early, and shrinks with those that
/// did not.
const GUARD_STEP: Duration = Duration::from_millis(20);
/// And not beyond this.
const GUARD_MAX: Duration = Duration::from_millis(500);
/// What a cold resolver takes to ask the server itself, until it was seen.
const RESOLVER_WAY: Duration = Duration::from_millis(60);
/// An allowance up to this one says that no attempt was lost so far.
const CALM: Duration = Duration::from_millis(550);
/// Between the arrival of a segment and its first sound.
const MARGIN: Duration = Duration::from_millis(20);
/// Sound that is fetched before it is decided how far behind to play: what that takes tells how
/// the path is.
const BACKLOG: Duration = Duration::from_secs(3);
/// Segments of it, at most.
const BACKLOG_MAX: u32 = 4;
/// Nobody begins further back, in segments.
const START_PLACES_MAX: usize = 1024;
/// How long that may take on a path without a delay.
const START_PATIENCE: Duration = Duration::from_millis(600);
/// And how much longer on one that loses much: what is not there when sound begins is a gap soon.
const START_PATIENCE_LOSSY: Duration = Duration::from_secs(3);
/// How much further behind than lost attempts may ever ask for nobody begins, unless the path is
/// clogged: while connections are made, segments take longer.
const START_BEYOND: Duration = Duration::from_millis(800);
/// Further behind than this nobody begins.
const START_BEHIND_MAX: Duration = Duration::from_secs(9);
/// A listener that is further behind its place than this goes back to it; the buffer is never
/// longer.
const BEHIND_MAX: Duration = Duration::from_secs(15);
/// Nor by more segments than this, however short they claim to be.
const BEHIND_SEGMENTS_MAX: u64 = 128;
/// Faster or slower than the listener's clock the server's is not, in parts of one.
const RATE_MAX: f64 = 1e-3;
/// Who awoke asks for nothing else until the edge was looked at, but for no longer than this.
const AWAKE: Duration = Duration::from_secs(2);
/// Two looks at the edge closer together than this say nothing about the clocks.
const RATE_SPAN: Duration = Duration::from_secs(100);

/// The extension layer's schedule.
#[derive(Debug)]
pub(super) struct Schedule {
    /// Run of the server.
    pub(super) id: u32,
    /// The next segment to be wanted, and the latest that it is published.
    pub(super) upcoming: Sequence,
    due: Instant,
    /// Publish times of the newest segments.
    published: BTreeMap<Sequence, Published>,
    pub(super) frame: Duration,
    pub(super) packets_max: usize,
    /// Grows with questions that came too early.
    guard: Duration,
    /// Whether the server itself is asked, without a resolver between.
    pub(super) direct: bool,
    /// Whether the source has ended.
    ended: bool,
    /// How much longer the server's second is than the listener's, in parts of one.
    rate: f64,
    /// When the live edge was looked up last.
    looked: Instant,
    /// Whether the stream changed after it was decided where to begin, so that everything must.
    changed: bool,
    /// Times in a row that the live edge was answered with nothing.
    denials: u32,
    /// When the listener awoke, until it is known what was published meanwhile.
    slept: Option<Instant>,
    /// Since when the run's first segment is waited for, as nothing tells when that will be there.
    unborn: Option<Instant>,
    /// While it is not decided yet where to begin.
    start: Option<Start>,
}

/// What is known of the publication of a segment.
#[derive(Clone, Copy, Debug)]
struct Published {
    at: Instant,
    /// How much earlier it was full: what closes by size is published with the first packet of the one
    /// behind it.
    late: Duration,
    /// From the first of its samples to its publication.
    length: Duration,
    /// Whether a look at the edge told the time: it does not depend on what is known of those before.
    told: bool,
}

impl Published {
    /// As a look at the edge told it, of a segment that is not here.
    fn told(at: Instant) -> Published {
        Published { at, late: Duration::ZERO, length: Duration::ZERO, told: true }
    }

    /// When it was full, and the next one began.
    fn full(&self) -> Instant {
        self.at.checked_sub(self.late).unwrap_or(self.at)
    }
}

/// Where playing is about to begin.
#[derive(Debug)]
struct Start {
    /// When to decide, whatever is there.
    until: Instant,
    /// The segment published next, and the time when the one before it was.
    next: Sequence,
    published: Instant,
    /// Oldest segment that the server has, and that is being fetched.
    first: Sequence,
    oldest: Sequence,
    fresh: bool,
    /// Segments that are there.
    fetched: Vec<Event>,
}

impl Start {
    /// When segments were captured, newest first. Those that are here tell how long they are; others are
    /// taken to be as long as those, or else `longest`.
    fn capture_times(&self, schedule: &Schedule, longest: Duration) -> Vec<(Sequence, Instant)> {
        let packets: BTreeMap<Sequence, usize> = self
            .fetched
            .iter()
            .filter_map(|event| match event {
                Event::Segment { sequence, segment, .. } if *sequence < self.next => {
                    Some((*sequence, segment.packets.len()))
                }
                _ => None,
            })
            .collect();
        let lasting = |packets: usize| schedule.stretch(schedule.frame * packets as u32);
        let sum: usize = packets.values().sum();
        let usual = match packets.len() {
            0 => longest,
            count => lasting(sum).div_f64(count as f64).min(longest),
        };
        // What closes by size is published with the first packet of the one behind it.
        let newest = self.next.checked_sub(1).and_then(|newest| packets.get(&newest));
        let by_size = newest.is_some_and(|&packets| packets < schedule.packets_max);
        let late = if by_size { lasting(1) } else { Duration::ZERO };
        let mut at = self.published.checked_sub(late).unwrap_or(self.published);
        let begun = (self.first.min(self.oldest)..self.next).rev().take(START_PLACES_MAX);
        begun
            .map(|sequence| {
                let length = packets.get(&sequence).map_or(usual, |&packets| lasting(packets));
                at = at.checked_sub(length).unwrap_or(at);
                (sequence, at)
            })
            .collect()
    }
}

/// How many segments begin in this time, each of them `longest`.
fn segments_in(time: Duration, longest: Duration) -> u64 {
    time.as_nanos().div_ceil(longest.as_nanos().max(1)) as u64
}

/// How long so many segments last, each of them `longest`; bounded, whatever numbers a server tells.
fn lasting(longest: Duration, segments: u64) -> Duration {
    longest * segments.min(1 << 20) as u32
}

/// From evenly distributed in 0 to 1 to distributed as [`GUARD_HEAD`] says.
fn spread(even: f64) -> f64 {
    let least = (-GUARD_RISE).exp();
    let weight = GUARD_HEAD / GUARD_RISE;
    let density = 1.0 / (weight * (1.0 - least) + 1.0 - GUARD_HEAD);
    let head = 1.0 - density * (1.0 - GUARD_HEAD);
    if even < head {
        return GUARD_HEAD * (1.0 + (even / (density * weight) + least).ln() / GUARD_RISE);
    }
    GUARD_HEAD + (even - head) / density
}

impl Schedule {
    fn segment_duration_max(&self) -> Duration {
        self.stretch(self.frame * self.packets_max as u32)
    }

    /// How many of the longest segments begin in this time.
    pub(super) fn segments_in(&self, time: Duration) -> u64 {
        segments_in(time, self.segment_duration_max())
    }

    /// A time by the server's clock, in the listener's.
    fn stretch(&self, time: Duration) -> Duration {
        time.mul_f64(1.0 + self.rate)
    }

    /// When to ask for the upcoming segment, on a path with this round trip.
    fn ask_at(&self, round_trip: Duration, random: u64) -> Instant {
        if self.direct {
            let early = EARLY + (round_trip / 2).min(EARLY_WAY_MAX);
            return self.due.checked_sub(early).unwrap_or(self.due) + (self.guard - GUARD);
        }
        self.due + self.guard + GUARD_RANDOM.mul_f64(spread(random as f64 / u64::MAX as f64))
    }

    /// Learns the publish time of a segment of `packets`; returns its capture time, and whether the
    /// source had paused before it. `edge` is the number that was next when the edge was looked at last,
    /// and the time of that.
    fn learn(
        &mut self,
        sequence: Sequence,
        packets: usize,
        asked: Asked,
        now: Instant,
        round_trip: Duration,
        edge: Option<(Sequence, Instant)>,
    ) -> (Instant, bool) {
        let sent = asked.sent;
        let by_size = packets < self.packets_max;
        let late = if by_size { self.frame } else { Duration::ZERO };
        let length = self.stretch(self.frame * packets as u32 + late);
        let known = self.published.get(&sequence).copied();
        let before = self.published.range(..sequence).next_back();
        let after = self.published.range(sequence + 1..).next();
        let longest = self.segment_duration_max();
        // Of what came out of order, or before the listener did, the length is taken for the full.
        let between = |from: Sequence, to: Sequence| lasting(longest, to - from);
        let time = now.saturating_duration_since(sent);
        let one_way = if self.direct { (round_trip / 2).min(time / 2) } else { Duration::ZERO };
        // No answer can come before there is something to answer.
        let latest = now.checked_sub(one_way).unwrap_or(now);
        let at = match before {
            _ if known.is_some() => known.map_or(latest, |known| known.at).min(latest),
            // It began when the one before was full, and was published when it was full itself.
            Some((&n, before)) => {
                let reckoned = before.full() + between(n, sequence - 1) + length;
                let held = self.direct && sent + one_way < reckoned;
                // A question that the server held is answered at the time of publication. It may
                // have been held up on the way as well, so this pulls gently.
                let later = latest.saturating_duration_since(reckoned) / 8;
                let pull = if held { later.min(Duration::from_millis(20)) } else { Duration::ZERO };
                (reckoned + pull).min(latest)
            }
            None => match after {
                Some((&n, after)) => after.at.checked_sub(between(sequence, n)).unwrap_or(after.at),
                None => latest,
            },
        };
        let denied = asked.missed.is_some_and(|missed| missed > at + longest);
        let at = if denied { latest } else { at };
        // The same, where a look at the edge told it first.
        let overdue = before.is_some_and(|(&n, before)| {
            asked.missed.is_some() && at > before.at + between(n, sequence) + longest
        });
        let resumed = denied || overdue;
        let told = known.is_some_and(|known| known.told) && !denied;
        self.published.insert(sequence, Published { at, late, length, told });
        while self.published.len() > 64 {
            self.published.pop_first();
        }
        self.reckon_behind(sequence);
        self.reckon_due(edge);
        (at.checked_sub(length).unwrap_or(at), resumed)
    }

    /// Segments that came before `sequence` did were reckoned to be as late as they could be. No more is
    /// known of those behind a look at the edge.
    fn reckon_behind(&mut self, sequence: Sequence) {
        let longest = self.segment_duration_max();
        let mut before: Option<(Sequence, Instant)> = None;
        for (&n, this) in self.published.range_mut(sequence..) {
            if let Some((last, full)) = before {
                if this.told {
                    return;
                }
                this.at = this.at.min(full + lasting(longest, n - last - 1) + this.length);
            }
            before = Some((n, this.full()));
        }
    }

    /// The latest that the upcoming segment is published, by the newest that is known of: on a long way,
    /// several are asked for by the time that one is here. What was not there when the edge was looked at
    /// is not there earlier.
    fn reckon_due(&mut self, edge: Option<(Sequence, Instant)>) {
        let longest = self.segment_duration_max();
        let Some((&newest, known)) = self.published.last_key_value() else { return };
        if newest >= self.upcoming {
            return;
        }
        self.due = known.full() + lasting(longest, self.upcoming - newest);
        if let Some((next, made)) = edge.filter(|&(next, _)| newest < next) {
            self.due = self.due.max(made + lasting(longest, self.upcoming.saturating_sub(next)));
        }
    }

    /// Two looks at the edge, of which the first, at `made`, was below `first` and the second, of `newest`,
    /// whose time is known, was not. If the source paused before `first`, when that was published is
    /// reckoned back from `newest`, so that those between are not taken for older than the pause.
    fn learn_pause(&mut self, first: Sequence, made: Instant, newest: Sequence) {
        let known = |n: Sequence| self.published.get(&n).map(|known| known.at);
        let (Some(end), true) = (known(newest), first < newest) else { return };
        let before = self.published.range(..first).next_back();
        let longest = self.segment_duration_max();
        let lasted = lasting(longest, newest - first);
        let at = end.checked_sub(lasted).map_or(made, |at| at.max(made)).min(end);
        let paused =
            before.is_some_and(|(&n, known)| at > known.at + lasting(longest, first - n + 1));
        if paused && known(first).is_none() {
            self.published.insert(first, Published::told(at));
        }
    }
}

impl Follower {
    pub(super) fn handle_now(&mut self, now: Instant, sent: Instant, answer: &Answer) -> Use {
        let record = match answer.texts.first().map(|text| NowRecord::parse(text)) {
            Some(Ok(record)) => record,
            parsed => {
                if let Some(Err(error)) = parsed {
                    self.count_unreadable(error);
                }
                if let Mode::Schedule(schedule) = &mut self.mode {
                    schedule.denials += u32::from(parsed.is_none());
                    let gone = schedule.denials >= DENIALS_MAX;
                    self.polls[NOW].plan(now + MISS_WAIT[1]);
                    if gone {
                        self.rejoin(now);
                    }
                } else if matches!(self.mode, Mode::Joining) && self.config.is_some() {
                    // `config` without `now`: something between us keeps it. The list will do.
                    self.begin_list(now);
                } else if matches!(self.mode, Mode::Joining) {
                    // Should `config` come after all, this is asked again.
                    self.polls[NOW].plan(now + MISS_WAIT[0]);
                }
                return if parsed.is_some() { Use::Useless } else { Use::Useful };
            }
        };
        // The answer was made half-way, to within half a round trip.
        let made = sent + now.saturating_duration_since(sent) / 2;
        let before = self.edge.replace((record, made));
        self.direct = answer.authoritative;
        if let Mode::Schedule(schedule) = &mut self.mode {
            if schedule.slept.is_some_and(|awoke| sent < awoke) {
                // From before the sleep, as the edge was then.
                self.polls[NOW].plan(now);
                return Use::Useful;
            }
            schedule.direct = answer.authoritative;
            schedule.denials = 0;
            self.sync(now, record, made, before);
        } else {
            self.settle(now);
        }
        self.polls[NOW].plan(now + RESYNC);
        Use::Useful
    }

    pub(super) fn begin_schedule(&mut self, now: Instant) {
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
            rate: 0.0,
            looked: made,
            changed: false,
            denials: 0,
            slept: None,
            unborn: None,
            start: None,
        });
        if config.id != edge.id {
            self.polls[CONFIG].plan(now + MISS_WAIT[0]);
        }
        self.polls[LIST] = Poll::default();
        self.tell_stream();
        self.jump(now, edge, made, true);
    }

    /// There is no live edge any more: another server, perhaps one without this layer, has the zone.
    fn rejoin(&mut self, now: Instant) {
        self.stats.restarts += 1;
        self.stats.lost += self.wants.len() as u64;
        self.wants.clear();
        (self.config, self.edge, self.no_config) = (None, None, false);
        self.mode = Mode::Joining;
        self.polls[CONFIG].plan(now);
        self.polls[NOW].plan(now);
    }

    /// The stream is made of something else now, which may become known only after playing began
    /// with it: then everything begins anew at the live edge.
    pub(super) fn change_stream(&mut self, now: Instant) {
        let before = self.stream.clone();
        self.tell_stream();
        let alike = before.zip(self.stream.as_ref()).is_some_and(|(one, two)| one.sounds_like(two));
        if let Mode::Schedule(schedule) = &mut self.mode {
            if !alike && schedule.start.is_none() {
                schedule.changed = true;
                self.polls[NOW].plan(now);
            }
        }
    }

    /// Publish time of the newest segment by `edge`, which was made at `made`.
    fn edge_published(edge: &NowRecord, made: Instant) -> Instant {
        edge.age.and_then(|age| made.checked_sub(age)).unwrap_or(made)
    }

    /// When the newest segment was due, as far as the next ones are reckoned from it: what was not
    /// there when the edge was looked at will not be there earlier.
    fn last_due(published: Instant, made: Instant, longest: Duration) -> Instant {
        published.max(made.checked_sub(longest).unwrap_or(published))
    }

    /// Goes to the live edge: fetches the newest segments, and begins to play once they are there.
    fn jump(&mut self, now: Instant, edge: NowRecord, made: Instant, fresh: bool) {
        let round_trip = self.path.round_trip;
        let Mode::Schedule(schedule) = &mut self.mode else { return };
        let longest = schedule.segment_duration_max().max(Duration::from_millis(1));
        let published = Self::edge_published(&edge, made);
        let there = edge.next - edge.first;
        let backlog = (BACKLOG.as_nanos() / longest.as_nanos()).clamp(1, BACKLOG_MAX.into()) as u64;
        let oldest = edge.next - backlog.min(there);
        schedule.upcoming = edge.next;
        schedule.due = Self::last_due(published, made, longest) + longest;
        schedule.ended = edge.ended;
        schedule.looked = made;
        schedule.changed = false;
        schedule.guard = GUARD;
        schedule.published.clear();
        let unborn = there == 0 && edge.age.is_none() && !edge.ended;
        schedule.unborn = unborn.then(|| schedule.unborn.unwrap_or(made));
        if let Some(since) = schedule.unborn {
            // What is asked for now would be denied, or come at a time that says nothing of when it
            // was published: the edge will tell, soon after.
            let wait = made.saturating_duration_since(since) / 2;
            self.polls[NOW].plan(now + wait.max(longest / 4).min(MISS_WAIT[1]));
        } else if edge.next > 0 {
            schedule.published.insert(edge.next - 1, Published::told(published));
        }
        // A start that did not come about is made up for by this one.
        let fresh = fresh || schedule.start.as_ref().is_some_and(|start| start.fresh);
        schedule.start = Some(Start {
            until: now + START_PATIENCE + round_trip * 4,
            next: edge.next,
            published,
            first: edge.first,
            oldest,
            fresh,
            fetched: Vec::new(),
        });
        self.wants.clear();
        self.cursor = oldest;
        for sequence in oldest..edge.next {
            self.want(sequence, now, false);
        }
        self.start_if_ready(now);
    }

    /// Whether it is about to be decided where to begin.
    pub fn is_starting(&self) -> bool {
        matches!(&self.mode, Mode::Schedule(Schedule { start: Some(_), unborn: None, .. }))
    }

    /// Decides where to begin, once the newest segments have shown how the path is.
    fn start_if_ready(&mut self, now: Instant) {
        let Mode::Schedule(Schedule { start: Some(start), unborn: None, .. }) = &self.mode else {
            return;
        };
        let fetching = self.wants.range(..start.next).next().is_some();
        if (fetching || self.path.is_unsure) && now < self.start_until(start) {
            return;
        }
        let Mode::Schedule(schedule) = &mut self.mode else { return };
        let Some(start) = schedule.start.take() else { return };
        let longest = schedule.segment_duration_max().max(Duration::from_millis(1));
        let upcoming = schedule.upcoming;
        let times = start.capture_times(schedule, longest);
        let latency = self.start_latency(now, &start, longest);
        let (sequence, captured) =
            self.start_place(now, &start, &times, longest, upcoming, latency);
        let fetched = |n: Sequence| {
            start
                .fetched
                .iter()
                .any(|event| matches!(event, Event::Segment { sequence, .. } if *sequence == n))
        };
        let missing: Vec<_> = (sequence..start.next).filter(|&n| !fetched(n)).collect();
        self.wants = self.wants.split_off(&sequence);
        self.cursor = self.cursor.min(sequence);
        let play_at = captured + latency;
        self.events.push_back(Event::Start { sequence, play_at, fresh: start.fresh });
        // Segments before the first one are of no use, and those of the newest that were lost so far
        // are asked for again.
        let told = |event: &Event| match event {
            Event::Segment { sequence: n, .. } => *n >= sequence,
            Event::Lost(n, _) => *n >= start.next.max(sequence),
            _ => true,
        };
        let fetched = start.fetched.into_iter().filter(told).map(|event| match event {
            Event::Segment { sequence, segment, captured, need, allowance } => {
                let known = times.iter().find(|time| time.0 == sequence).map(|time| time.1);
                let captured = known.or(captured);
                Event::Segment { sequence, segment, captured, need, allowance }
            }
            event => event,
        });
        self.events.extend(fetched);
        missing.into_iter().for_each(|n| self.want(n, now, false));
        self.advance_cursor();
        self.end_if_over();
    }

    /// How far behind the capture to play.
    fn start_latency(&self, now: Instant, start: &Start, longest: Duration) -> Duration {
        // From capture to play: a whole segment must be there and come here, some attempts lost.
        // The connections have to be made first, and what was seen so far may have been luck.
        let cold = match self.path.allowance {
            calm if calm <= CALM => self.path.round_trip,
            lossy => self.path.round_trip + (lossy - CALM) / 2,
        };
        let least = longest + self.way() + self.path.allowance + cold + MARGIN;
        // Segments that came due meanwhile and are not here yet show what it takes as well.
        let under_way = self.wants.range(start.next..).next().map(|(&sequence, _)| {
            let ahead = lasting(longest, sequence - start.next);
            now.saturating_duration_since(start.published + ahead)
        });
        let least = least.max(under_way.map_or(Duration::ZERO, |so_far| {
            so_far + self.path.round_trip + self.path.allowance / 2
        }));
        // It took longer than others are behind: then the path is as bad as it seems.
        let usual = BEHIND_BOUNDED + START_BEYOND;
        let late = now.saturating_duration_since(start.published) > longest + usual;
        let clogged = self.path.is_surely_clogged || (self.path.is_clogged && late);
        let most = if clogged { START_BEHIND_MAX } else { usual };
        self.latency.unwrap_or(least.min(longest + most)).max(longest)
    }

    /// The segment that is to be heard now, and when it was captured.
    fn start_place(
        &self,
        now: Instant,
        start: &Start,
        times: &[(Sequence, Instant)],
        longest: Duration,
        upcoming: Sequence,
        latency: Duration,
    ) -> (Sequence, Instant) {
        let edge = now.saturating_duration_since(start.published);
        let ahead = segments_in(edge.saturating_sub(latency), longest);
        let newer = |event: &Event| matches!(event, Event::Segment { sequence, .. } if *sequence >= start.next);
        // It took so long that newer ones are there, and the time to play the newest of then is over.
        // While the source paused, no more became due than is known of.
        let due = upcoming.saturating_sub(start.next);
        if ahead > 0 && ahead <= due && start.fetched.iter().any(newer) {
            return (start.next + ahead, start.published + lasting(longest, ahead));
        }
        // Only a listener who asked for it waits for segments older than those.
        let oldest = if self.latency.is_some() { start.first } else { start.oldest };
        let heard = now.checked_sub(latency).unwrap_or(now);
        let here = (start.next, start.published);
        let mut times = std::iter::once(&here).chain(times).take_while(|time| time.0 >= oldest);
        let oldest = times.clone().last().copied().unwrap_or(here);
        let (sequence, captured) = times.find(|time| time.1 <= heard).copied().unwrap_or(oldest);
        // While the source pauses, nothing is captured: what comes next is not older than it lasts.
        let fresh = now.checked_sub(longest).filter(|_| sequence == start.next);
        (sequence, fresh.map_or(captured, |fresh| fresh.max(captured)))
    }

    /// How long a segment takes from its publication to here, when nothing is lost.
    pub(super) fn way(&self) -> Duration {
        match self.direct {
            true => self.path.round_trip / 2,
            false => GUARD + GUARD_RANDOM.mul_f64(GUARD_MEAN) + self.path.round_trip + RESOLVER_WAY,
        }
    }

    /// When to decide where to begin, whatever is there.
    fn start_until(&self, start: &Start) -> Instant {
        let lossy = self.path.allowance > CALM;
        start.until + if lossy { START_PATIENCE_LOSSY } else { Duration::ZERO }
    }

    /// Tells of a segment that came or is lost, or keeps that until it is decided where to begin:
    /// before, the number may mean a segment of another run to whoever hears of it.
    pub(super) fn tell(&mut self, event: Event) {
        match &mut self.mode {
            Mode::Schedule(Schedule { start: Some(start), .. }) => start.fetched.push(event),
            _ => self.events.push_back(event),
        }
    }

    /// Hands a segment on, which may be the one that was waited for to begin.
    pub(super) fn deliver(&mut self, now: Instant, event: Event) {
        self.tell(event);
        self.start_if_ready(now);
    }

    /// Compares the schedule with a fresh look at the live edge, and with the one before.
    fn sync(
        &mut self,
        now: Instant,
        edge: NowRecord,
        made: Instant,
        before: Option<(NowRecord, Instant)>,
    ) {
        let Mode::Schedule(schedule) = &mut self.mode else { return };
        let longest = schedule.segment_duration_max();
        let slept = schedule.slept.take().is_some();
        if edge.id != schedule.id {
            schedule.id = edge.id;
            schedule.rate = 0.0;
            self.stats.restarts += 1;
            // What was due after the last that is known of may never have been there.
            let known = schedule.published.last_key_value().map_or(0, |(&newest, _)| newest);
            self.stats.lost += self.wants.range(..=known).count() as u64;
            self.polls[CONFIG].plan(now);
            self.jump(now, edge, made, true);
            return;
        }
        if schedule.changed || schedule.unborn.is_some() {
            self.jump(now, edge, made, true);
            return;
        }
        let published = Self::edge_published(&edge, made);
        if edge.next > 0 && edge.age.is_some() {
            let known = schedule.published.get(&(edge.next - 1)).copied();
            let span = made.saturating_duration_since(schedule.looked);
            if let (Some(Published { at: reckoned, .. }), false) =
                (known, schedule.direct || slept || span < RATE_SPAN)
            {
                let late = published.saturating_duration_since(reckoned).as_secs_f64();
                let early = reckoned.saturating_duration_since(published).as_secs_f64();
                let rate = schedule.rate + (late - early) / span.as_secs_f64();
                schedule.rate = rate.clamp(-RATE_MAX, RATE_MAX);
            }
            let told = Published::told(published);
            let newest =
                known.map_or(told, |known| Published { at: published, told: true, ..known });
            schedule.published.insert(edge.next - 1, newest);
            schedule.looked = made;
            if let Some((before, made)) = before {
                schedule.learn_pause(before.next, made, edge.next - 1);
            }
        }
        let behind = edge.next.saturating_sub(self.cursor);
        let latency = self.latency.unwrap_or(longest + self.path.allowance);
        let most = latency + BEHIND_MAX + longest;
        // Who slept was not heard meanwhile, and has nothing to go on from.
        let missed = slept && behind >= 2;
        if missed || behind > BEHIND_SEGMENTS_MAX || lasting(longest, behind) > most {
            self.stats.jumps += 1;
            self.stats.lost += self.wants.len() as u64;
            self.jump(now, edge, made, false);
            return;
        }
        for sequence in schedule.upcoming..edge.next {
            let want = Want::new(now, false);
            self.wants.entry(sequence).or_insert(want);
        }
        let ahead = schedule.upcoming.saturating_sub(edge.next);
        schedule.upcoming = schedule.upcoming.max(edge.next);
        let last_due = Self::last_due(published, made, longest);
        schedule.due = last_due + lasting(longest, ahead + 1);
        schedule.ended = edge.ended;
        if edge.ended {
            // What was asked for ahead of its time will never be there. The next number stays: what came
            // already is not to come again, should an old answer say this.
            self.wants.retain(|&sequence, _| sequence < edge.next);
        }
        let early = schedule.guard;
        for (&sequence, want) in self.wants.range_mut(edge.next..) {
            let due = last_due + lasting(longest, sequence - edge.next + 1);
            want.not_before = want.not_before.max(due + early);
            // It could not be there yet: not its fault.
            want.tries = want.tries.saturating_sub(1);
        }
        if self.pauses() {
            let wait = made.saturating_duration_since(published) / 4;
            self.polls[NOW].plan(made + wait.clamp(longest.min(MISS_WAIT[1]), MISS_WAIT[1]));
            self.events.push_back(Event::Trouble(Trouble::NothingNew));
        }
        let gone: Vec<_> = self.wants.range(..edge.first).map(|(&sequence, _)| sequence).collect();
        gone.into_iter().for_each(|sequence| self.give_up(sequence, LossCause::Behind));
        self.end_if_over();
    }

    /// Hears that the listener stood still until now: its process was stopped, or its machine slept,
    /// whether the clock went on or not. What was published meanwhile is unknown. The list shows by
    /// itself how far it went on.
    pub fn handle_sleep(&mut self, now: Instant) {
        let Mode::Schedule(schedule) = &mut self.mode else { return };
        schedule.slept = Some(now);
        self.polls[NOW].plan(now);
        self.handle_interruption();
    }

    /// Wants the segments whose time has come.
    pub(super) fn want_upcoming(&mut self, now: Instant) {
        self.start_if_ready(now);
        loop {
            let (random, round_trip) = (self.random, self.path.round_trip);
            let pauses = self.pauses();
            if self.is_out() {
                return;
            }
            let Mode::Schedule(schedule) = &mut self.mode else { return };
            let full = self.wants.len() >= WANTS_MAX;
            let awoke = schedule.slept.is_some_and(|awoke| now < awoke + AWAKE);
            let idle = schedule.ended || schedule.unborn.is_some() || awoke;
            if idle || full || pauses || schedule.ask_at(round_trip, random) > now {
                return;
            }
            let sequence = schedule.upcoming;
            schedule.upcoming += 1;
            schedule.due += schedule.segment_duration_max();
            self.want(sequence, now, true);
            self.random();
        }
    }

    /// Whether the source may pause: a segment that was due was not there when the edge was looked
    /// at last, so that those behind it are not asked for.
    fn pauses(&self) -> bool {
        let (Mode::Schedule(schedule), Some((edge, _))) = (&self.mode, self.edge) else {
            return false;
        };
        let denied = self.wants.range(edge.next..).find(|(_, want)| want.denied.is_some());
        denied.is_some_and(|(&sequence, _)| schedule.upcoming > sequence)
    }

    /// When [`Follower::want_upcoming`] has something to do.
    pub(super) fn schedule_timeout(&self) -> Option<Instant> {
        let Mode::Schedule(schedule) = &self.mode else { return None };
        if schedule.unborn.is_some() {
            return None;
        }
        let until = schedule.start.as_ref().map(|start| self.start_until(start));
        let waiting =
            !schedule.ended && self.wants.len() < WANTS_MAX && !self.is_out() && !self.pauses();
        let awake = schedule.slept.map(|awoke| awoke + AWAKE);
        let ask = waiting.then(|| {
            let at = schedule.ask_at(self.path.round_trip, self.random);
            awake.map_or(at, |awake| at.max(awake))
        });
        until.into_iter().chain(ask).min()
    }

    pub(super) fn end_if_over(&mut self) {
        let Mode::Schedule(schedule) = &self.mode else { return };
        if schedule.ended && self.wants.is_empty() && schedule.start.is_none() {
            self.events.push_back(Event::Ended);
        }
    }

    /// A segment came: its capture time, and how long after that it was here, where that shows how
    /// the path is.
    pub(super) fn learn_schedule(
        &mut self,
        now: Instant,
        sequence: Sequence,
        packets: usize,
        asked: Asked,
    ) -> (Option<Instant>, Option<Duration>) {
        let round_trip = self.path.round_trip;
        let Mode::Schedule(schedule) = &mut self.mode else { return (None, None) };
        // It was not there when it was denied, or a resolver asked not long before that; nor when the
        // edge was looked at that is below it.
        let kept = if schedule.direct { Duration::ZERO } else { MISS_WAIT[0] };
        let denied = asked.missed.and_then(|denied| denied.checked_sub(kept));
        let edge = self.edge.filter(|(edge, _)| edge.next <= sequence).map(|(_, made)| made);
        let asked = Asked { missed: asked.missed.and(denied.max(edge)), ..asked };
        let edge = self.edge.map(|(edge, made)| (edge.next, made));
        let (captured, resumed) = schedule.learn(sequence, packets, asked, now, round_trip, edge);
        schedule.guard -= (schedule.guard - GUARD) / 64;
        schedule.denials = 0;
        if resumed {
            // Those behind it were put off as long as this one was; a look at the edge tells when
            // they are due.
            self.polls[NOW].plan(now);
            for (_, want) in self.wants.range_mut(sequence + 1..) {
                want.not_before = now + round_trip * 2 + MISS_WAIT[0] / 4;
                (want.timely, want.denied, want.tries) = (false, None, 0);
            }
        }
        let tells = asked.timely && !resumed;
        (Some(captured), tells.then(|| now.saturating_duration_since(captured)))
    }

    /// The segment is not there, or not any more.
    pub(super) fn handle_miss(
        &mut self,
        now: Instant,
        sent: Instant,
        sequence: Sequence,
        answer: &Answer,
    ) {
        self.stats.misses += 1;
        let negative = Duration::from_secs(u64::from(answer.negative_ttl.unwrap_or(1)));
        let wait = negative.clamp(MISS_WAIT[0], MISS_WAIT[1]);
        let edge = self.edge.map_or(now, |(edge, made)| Self::edge_published(&edge, made));
        let ahead = self.edge.map_or(0, |(edge, _)| sequence.saturating_sub(edge.next));
        let Mode::Schedule(schedule) = &mut self.mode else {
            self.try_again(sequence, now + wait, LossCause::Negative);
            return;
        };
        let due = edge + lasting(schedule.segment_duration_max(), ahead.saturating_add(1));
        let overdue = now.saturating_duration_since(due);
        if overdue < schedule.segment_duration_max() {
            // It was asked for too early. Else the source pauses.
            schedule.guard = (schedule.guard + GUARD_STEP).min(GUARD_MAX);
        }
        // The longer it is overdue, the less haste there is.
        let overdue = overdue / 4;
        let wait = wait.max(overdue.min(PAUSE_WAIT));
        let looked = self.edge.map_or(now, |(_, made)| made + overdue.min(MISS_WAIT[1]));
        self.polls[NOW].plan(looked.max(now));
        let is_published = self.edge.is_some_and(|(edge, _)| sequence < edge.next);
        if let Some(want) = self.wants.get_mut(&sequence) {
            want.denied = Some(sent);
            // What nobody says is there is not given up.
            want.tries = want.tries.saturating_sub(u32::from(!is_published));
        }
        self.try_again(sequence, now + wait, LossCause::Negative);
    }

    /// Counts a record that is of no use.
    pub(super) fn count_unreadable(&mut self, error: RecordError) {
        self.stats.unreadable += 1;
        match error {
            RecordError::TooLong => self.stats.oversized_records += 1,
            RecordError::Value(_) | RecordError::Missing(_) => self.stats.out_of_range += 1,
            _ => {}
        }
        self.events.push_back(Event::Trouble(Trouble::Unreadable));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::follow::next_random;

    /// Segment 10 was published at `begun`, and 14 is the next to be asked for.
    fn schedule(begun: Instant) -> Schedule {
        Schedule {
            id: 1,
            upcoming: 14,
            due: begun,
            published: [(10, Published::told(begun))].into_iter().collect(),
            frame: Duration::from_millis(20),
            packets_max: 36,
            guard: GUARD,
            direct: true,
            ended: false,
            rate: 0.0,
            looked: begun,
            changed: false,
            denials: 0,
            slept: None,
            unborn: None,
            start: None,
        }
    }

    #[test]
    fn what_is_due_follows_from_the_newest_that_is_here_and_the_length_of_all() {
        let ms = Duration::from_millis;
        let begun = Instant::now();
        let mut schedule = schedule(begun);
        schedule.direct = false;
        let mut learn = |sequence, packets, edge| {
            let now = begun + ms(60_000);
            let asked = Asked { sent: now - ms(20), missed: None, timely: false };
            let (captured, _) = schedule.learn(sequence, packets, asked, now, ms(20), edge);
            (captured - begun, schedule.due - begun)
        };
        // Three are under way. The next begins when this was full, a frame before it was published.
        assert_eq!(learn(11, 30, None), (ms(0), ms(600 + 3 * 720)));
        // The one between is reckoned to be as long as it can be, until it is here.
        assert_eq!(learn(13, 36, None), (ms(600 + 720), ms(600 + 3 * 720)));
        assert_eq!(learn(12, 20, None), (ms(600), ms(600 + 400 + 2 * 720)));
        // What was not there at a look at the edge was published later than that.
        assert_eq!(learn(12, 20, Some((14, begun + ms(9_000)))).1, ms(9_000));
        assert_eq!(learn(12, 20, Some((13, begun + ms(9_000)))).1, ms(600 + 400 + 2 * 720));
        // A look at the edge is what counts for what is behind it.
        schedule.published.insert(13, Published::told(begun + ms(3_000)));
        schedule.reckon_behind(11);
        schedule.reckon_due(None);
        assert_eq!(schedule.due - begun, ms(3_720));
    }

    #[test]
    fn what_a_paused_source_published_since_a_look_at_the_edge_is_not_older_than_that() {
        let ms = Duration::from_millis;
        let begun = Instant::now();
        let longest = ms(720);
        let schedule = || schedule(begun);
        let captured = |schedule: &mut Schedule, sequence| {
            let now = begun + ms(90_000);
            let sent = now - ms(20);
            let asked = Asked { sent, missed: None, timely: false };
            schedule.learn(sequence, 36, asked, now, ms(20), None).0
        };
        // Two looks, of which the second shows 11, 12 and 13; 12 comes first.
        let looked = begun + ms(85_000);
        let mut paused = schedule();
        paused.published.insert(13, Published::told(begun + ms(89_900)));
        paused.learn_pause(11, looked, 13);
        assert_eq!(captured(&mut paused, 12), begun + ms(89_900) - 2 * longest);
        assert_eq!(captured(&mut paused, 11), begun + ms(89_900) - 3 * longest);
        // Not before the first look, which was below it.
        let mut held_up = schedule();
        held_up.published.insert(13, Published::told(begun + ms(86_000)));
        held_up.learn_pause(11, looked, 13);
        assert_eq!(captured(&mut held_up, 11), looked - longest);
        // Without a pause, each follows from the one before.
        let mut usual = schedule();
        let edge = begun + 3 * longest + ms(50);
        usual.published.insert(13, Published::told(edge));
        usual.learn_pause(11, begun + ms(100), 13);
        assert_eq!(captured(&mut usual, 11), begun);
    }

    #[test]
    fn c13_of_many_one_asks_well_before_the_others() {
        let within = Duration::from_millis(1);
        // How many ask within a millisecond of the first, for so many listeners.
        for (listeners, most) in [(2, 0.05), (150, 1.0), (2000, 6.0)] {
            let mut random = 0x9E37_79B9_7F4A_7C15;
            let mut draw = || {
                let random = next_random(&mut random);
                GUARD_RANDOM.mul_f64(spread(random as f64 / u64::MAX as f64))
            };
            let mut sum = 0;
            for _ in 0..200 {
                let mut times: Vec<_> = (0..listeners).map(|_| draw()).collect();
                times.sort();
                assert!(times[listeners - 1] < GUARD_RANDOM + Duration::from_nanos(9));
                sum += times[1..].iter().filter(|&&time| time < times[0] + within).count();
            }
            let mean = sum as f64 / 200.0;
            assert!(mean < most, "{mean} of {listeners}");
        }
        assert!(spread(0.0).abs() < 1e-9 && (spread(1.0) - 1.0).abs() < 1e-9);
        let mean = (0..1000).map(|n| spread((n as f64 + 0.5) / 1000.0)).sum::<f64>() / 1000.0;
        assert!((mean - GUARD_MEAN).abs() < 1e-3, "{mean}");
    }
}

//! What is heard next: segments in any order go into the [`JitterBuffer`], frames in order come
//! out, with concealment where something is missing.
//!
//! Time goes on here whatever happens: once playing has begun, every call of [`JitterBuffer::pull`]
//! yields one frame's worth of sound or silence. A damaged packet is concealed at its place. A lost
//! segment is concealed for 120 ms and silent for the rest of its time, so that what follows stays
//! where it belongs. A late segment is waited for, and what comes after it is heard later by the
//! wait; when segments behind it are here, it is given up after a while. How far behind the live
//! edge all this happens is chosen by [`Steering`].
//!
//! No clock: `now` is an argument. No codec: packets come out as they came in.

mod steer;

pub use steer::Steering;

use crate::follow::LossCause;
use crate::units::Sequence;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

/// Segments held at the same time: a minute of the shortest.
const SEGMENTS_MAX: usize = 640;
/// Octets of packets held at the same time: a minute at 500 kbit/s.
const OCTETS_MAX: usize = 4 << 20;
/// Concealment is faded out within this time.
const CONCEAL: Duration = Duration::from_millis(120);
/// A return from silence is faded in within this time.
const FADE_IN: Duration = Duration::from_millis(20);
/// A late segment is given up after this time, when one behind it is here.
const PATIENCE: Duration = Duration::from_millis(1500);
/// The same where the latency is fixed, and so must be made up for.
const PATIENCE_FIXED: Duration = Duration::from_millis(500);
/// Who goes on after a wait for what never came waits until it is as far behind as the path asks for, if
/// that takes no longer than this: nearer, the next late segment would be another interruption.
const HOLD_BACK: Duration = Duration::from_secs(2);
/// The first few segments after an interruption tell how far behind it left the listener.
const RETURNED: usize = 4;
/// Packets decoded unheard before a segment that is joined midway, so that the decoder has a past.
const PRIMING_PACKETS: usize = 2;
/// Numbers that go further back than that belong to other sound.
const BACK_MAX: u64 = 32;

/// What became of a segment handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insertion {
    /// It will be played.
    Inserted,
    /// It was there already.
    Duplicate,
    /// Its time is over.
    Late,
    /// Nothing that far ahead is held.
    BeyondLimit,
}

/// The next frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Play {
    /// Playing has not begun: nothing is to be written.
    Idle,
    /// To be decoded and not heard; ask again for the frame.
    Prime(Vec<u8>),
    /// To be decoded and heard.
    Packet(Vec<u8>),
    /// To be concealed by the decoder.
    Conceal,
    /// Silence.
    Silence,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlayoutStats {
    /// Frames played from packets.
    pub played: u64,
    /// Frames concealed or silent in place of packets that were damaged or lost.
    pub missing: u64,
    /// Frames of waiting for a segment that was late.
    pub stalled: u64,
    /// Times that sound was interrupted: a lost segment, or a wait for a late one.
    pub gaps: u64,
    /// Segments that came when their time was over.
    pub late: u64,
    /// Segments that came more than once.
    pub duplicates: u64,
    /// Segments left out to bring the latency back.
    pub skipped: u64,
    /// Segments for which there was no room.
    pub crowded: u64,
}

/// Why the sound stopped where it should have gone on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GapCause {
    /// The segment could not be fetched: nobody answered.
    Lost,
    /// The segment is not here yet.
    Late,
    /// The answers said that the segment is not there.
    Negative,
    /// The server or resolver answered with an error.
    Refused,
    /// What came cannot be read.
    Damaged,
    /// The server began anew.
    Restart,
    /// The listener was too far behind and went back to the live edge.
    Behind,
}

impl GapCause {
    /// The cause in a few words, to be said of the segment.
    pub fn text(self) -> &'static str {
        match self {
            GapCause::Lost => "could not be fetched",
            GapCause::Late => "came late",
            GapCause::Negative => "was denied",
            GapCause::Refused => "was refused",
            GapCause::Damaged => "cannot be read",
            GapCause::Restart => "is of another run of the server",
            GapCause::Behind => "was too far behind",
        }
    }
}

impl From<LossCause> for GapCause {
    fn from(cause: LossCause) -> GapCause {
        match cause {
            LossCause::NoAnswer => GapCause::Lost,
            LossCause::Negative => GapCause::Negative,
            LossCause::Refused => GapCause::Refused,
            LossCause::Damaged => GapCause::Damaged,
            LossCause::Behind => GapCause::Behind,
        }
    }
}

/// An interruption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The segment that is missing.
    pub sequence: Sequence,
    /// Why.
    pub cause: GapCause,
    /// Whether it is the one told of last, of which more is known now.
    pub again: bool,
}

#[derive(Debug)]
struct Buffered {
    packets: Vec<Option<Vec<u8>>>,
    captured: Option<Instant>,
}

impl Buffered {
    fn octets(&self) -> usize {
        self.packets.iter().flatten().map(Vec::len).sum()
    }
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Nothing to play is known.
    Idle,
    /// Playing begins at `at` with `sequence`, `skip` into it.
    Waiting { sequence: Sequence, at: Instant, skip: Duration },
    /// Frame `index` of `sequence` is next.
    Playing { sequence: Sequence, index: usize },
    /// `sequence` is late since `since`.
    Stalled { sequence: Sequence, since: Instant },
    /// `sequence` is lost; `left` frames stand in for it.
    Missing { sequence: Sequence, left: usize },
}

/// Puts segments in order and tells what is heard next.
#[derive(Debug)]
pub struct JitterBuffer {
    frame: Duration,
    state: State,
    buffered: BTreeMap<Sequence, Buffered>,
    lost: BTreeMap<Sequence, GapCause>,
    /// Packets to be decoded unheard, last first.
    priming: Vec<Vec<u8>>,
    /// Whether anything was ever played.
    begun: bool,
    /// Behind the packet heard last: its segment's number and the next index, or the next number.
    heard: Option<(Sequence, usize)>,
    /// Segments that were heard already when playing began anew.
    repeated: Range<Sequence>,
    /// Length of the segment played last, in frames.
    typical: usize,
    /// Frames since the last packet was heard.
    silent_for: usize,
    /// From capture to play.
    latency: Option<Duration>,
    fixed: bool,
    /// Segments to go until the return from an interruption is over.
    returned: usize,
    /// Whether nothing comes behind what is here.
    ended: bool,
    steering: Steering,
    gap: Option<Gap>,
    stats: PlayoutStats,
}

impl JitterBuffer {
    /// An empty buffer for frames that last `frame`.
    ///
    /// # Panics
    /// When `frame` is zero.
    pub fn new(frame: Duration) -> JitterBuffer {
        assert!(!frame.is_zero());
        JitterBuffer {
            frame,
            state: State::Idle,
            buffered: BTreeMap::new(),
            lost: BTreeMap::new(),
            priming: Vec::new(),
            begun: false,
            heard: None,
            repeated: 0..0,
            typical: 1,
            silent_for: usize::MAX / 2,
            latency: None,
            fixed: false,
            returned: 0,
            ended: false,
            steering: Steering::new(None),
            gap: None,
            stats: PlayoutStats::default(),
        }
    }

    /// Keeps to this time from capture to play, instead of the least that the path allows.
    pub fn fix_latency(&mut self, latency: Duration) {
        self.fixed = true;
        self.steering = Steering::new(Some(latency));
    }

    /// What was counted.
    pub fn stats(&self) -> PlayoutStats {
        self.stats
    }

    /// The latency aimed at, the correction of the playing rate that leads there, and the drift.
    pub fn steering(&self) -> &Steering {
        &self.steering
    }

    /// Learns how long after its capture a segment was here, and how much longer that may take.
    pub fn handle_need(&mut self, now: Instant, need: Duration, allowance: Duration) {
        self.steering.handle_need(now, need, allowance);
    }

    /// Time from capture to [`JitterBuffer::pull`] of the segment that is playing, if known.
    pub fn latency(&self) -> Option<Duration> {
        self.latency
    }

    /// Whether sound has begun.
    pub fn begun(&self) -> bool {
        self.begun
    }

    /// When playing begins, if there is anything to play; `None` otherwise, and once it has begun.
    pub fn begins_at(&self) -> Option<Instant> {
        let State::Waiting { sequence, at, .. } = self.state else { return None };
        let ready = self.buffered.contains_key(&sequence) || self.lost.contains_key(&sequence);
        // The first segment is not waited for for ever, when those behind it are here.
        let later = !ready && !self.buffered.is_empty();
        if later { Some(at + PATIENCE) } else { ready.then_some(at) }
    }

    /// Learns how long a frame lasts, where the first packet had to tell.
    ///
    /// # Panics
    /// When `frame` is zero.
    pub fn set_frame(&mut self, frame: Duration) {
        assert!(!frame.is_zero());
        self.frame = frame;
    }

    /// Sound that is here and not yet played.
    pub fn level(&self) -> Duration {
        let frames: usize = self.buffered.values().map(|segment| segment.packets.len()).sum();
        let played = match self.state {
            State::Playing { index, .. } => index,
            _ => 0,
        };
        self.frame * frames.saturating_sub(played) as u32
    }

    /// Frames of the segment that is playing that [`JitterBuffer::pull`] yields whatever comes and
    /// whenever it is asked: they may be decoded ahead.
    pub fn frames_certain(&self) -> usize {
        let State::Playing { sequence, index: index @ 1.. } = self.state else { return 0 };
        self.buffered
            .get(&sequence)
            .map_or(0, |segment| segment.packets.len().saturating_sub(index))
    }

    /// Whether everything that came was played, and nothing is being waited for.
    pub fn is_drained(&self) -> bool {
        self.buffered.is_empty() && !matches!(self.state, State::Missing { .. })
    }

    /// The interruption that began since the last call, if any.
    pub fn take_gap(&mut self) -> Option<Gap> {
        self.gap.take()
    }

    /// Changes the frame duration, with a new stream; what was buffered is gone. Who hears the one before
    /// is interrupted by that.
    pub fn restart(&mut self, frame: Duration) {
        assert!(!frame.is_zero());
        self.interrupt(self.next(), GapCause::Restart);
        self.frame = frame;
        self.buffered.clear();
        self.lost.clear();
        self.priming.clear();
        self.heard = None;
        self.state = State::Idle;
    }

    /// Begins, or begins anew, with `sequence`, whose first sample is to be heard at `play_at`. What
    /// is buffered below it is dropped; with `fresh`, everything is, as numbers begin anew. What was heard
    /// already is not heard again: its time is waited for in silence.
    pub fn start(&mut self, now: Instant, sequence: Sequence, play_at: Instant, fresh: bool) {
        self.heard = self.heard.filter(|_| !fresh);
        let back = |next: Sequence| next.checked_sub(sequence).filter(|&back| back <= BACK_MAX);
        let heard = self.heard.and_then(|(next, index)| Some((next, index, back(next)?)));
        let (first, index, back) = heard.unwrap_or((sequence, 0, 0));
        self.repeated = sequence..first;
        let play_at = play_at + self.frame * (back as u32 * self.typical as u32);
        let (sequence, unheard) = (first, play_at + self.frame * index as u32);
        self.buffered = if fresh { BTreeMap::new() } else { self.buffered.split_off(&sequence) };
        self.lost.clear();
        self.priming.clear();
        self.interrupt(sequence, if fresh { GapCause::Restart } else { GapCause::Behind });
        self.ended = false;
        let at = now.max(unheard);
        let skip = at.saturating_duration_since(play_at);
        // The frame whose time it is has begun already. Who has heard nothing yet waits for the next one,
        // and hears that in time; who is interrupted does not.
        let over = Duration::from_nanos((skip.as_nanos() % self.frame.as_nanos()) as u64);
        let rest = match self.begun || over.is_zero() {
            true => Duration::ZERO,
            false => self.frame - over,
        };
        self.state = State::Waiting { sequence, at: at + rest, skip: skip + rest };
    }

    /// What is heard ends in front of `sequence`, if anything is.
    fn interrupt(&mut self, sequence: Sequence, cause: GapCause) {
        if !self.begun || matches!(self.state, State::Idle | State::Waiting { .. }) {
            return;
        }
        // Who waits has been interrupted already.
        let again = matches!(self.state, State::Stalled { .. });
        self.stats.gaps += u64::from(!again);
        // What nobody was told of yet is told of once.
        let again = again && self.gap.is_none();
        self.gap = Some(Gap { sequence, cause, again });
    }

    /// Hears that nothing comes any more. Who waits for more by now was interrupted by nothing: returns the
    /// number that the [`Gap`] told of meanwhile has, which is none.
    pub fn end(&mut self) -> Option<Sequence> {
        self.ended = true;
        match self.state {
            State::Stalled { sequence, .. }
                if self.buffered.is_empty() && self.lost.range(sequence..).next().is_none() =>
            {
                self.state = State::Idle;
                self.stats.gaps -= 1;
                self.gap = self.gap.take().filter(|gap| gap.sequence != sequence);
                Some(sequence)
            }
            _ => None,
        }
    }

    /// Hands in a segment: its packets, `None` where one is damaged, and its capture time.
    pub fn insert(
        &mut self,
        sequence: Sequence,
        packets: Vec<Option<Vec<u8>>>,
        captured: Option<Instant>,
    ) -> Insertion {
        let segment = Buffered { packets, captured };
        let again = self.repeated.contains(&sequence) || self.buffered.contains_key(&sequence);
        let insertion = if sequence < self.next() && !again || segment.packets.is_empty() {
            self.stats.late += 1;
            Insertion::Late
        } else if again {
            self.stats.duplicates += 1;
            Insertion::Duplicate
        } else if self.is_full_for(&segment) {
            self.stats.crowded += 1;
            Insertion::BeyondLimit
        } else {
            self.lost.remove(&sequence);
            self.buffered.insert(sequence, segment);
            Insertion::Inserted
        };
        debug_assert!(self.buffered.len() <= SEGMENTS_MAX);
        insertion
    }

    /// The first segment that is of use.
    fn next(&self) -> Sequence {
        match self.state {
            State::Idle => 0,
            State::Waiting { sequence, .. }
            | State::Stalled { sequence, .. }
            | State::Playing { sequence, .. } => sequence,
            State::Missing { sequence, .. } => sequence + 1,
        }
    }

    fn is_full_for(&self, segment: &Buffered) -> bool {
        let held = || self.buffered.values().map(Buffered::octets).sum::<usize>();
        self.buffered.len() >= SEGMENTS_MAX || held() + segment.octets() > OCTETS_MAX
    }

    /// Hears that a segment will not come, and why.
    pub fn lose(&mut self, sequence: Sequence, cause: impl Into<GapCause>) {
        // What was given up before, and heard of later, is over.
        let next = self.next();
        self.lost = self.lost.split_off(&next);
        let late = sequence < next || self.buffered.contains_key(&sequence);
        if !late && self.lost.len() < SEGMENTS_MAX {
            self.lost.insert(sequence, cause.into());
        }
    }

    /// The next frame.
    pub fn pull(&mut self, now: Instant) -> Play {
        if let Some(packet) = self.priming.pop() {
            return Play::Prime(packet);
        }
        loop {
            match self.state {
                State::Idle => return self.nothing(),
                State::Waiting { sequence, at, skip } => {
                    match self.begin(now, sequence, at, skip) {
                        Some(play) => return play,
                        None => continue,
                    }
                }
                State::Playing { sequence, index } => {
                    if let Some(play) = self.play(now, sequence, index) {
                        return play;
                    }
                }
                State::Stalled { sequence, since } => {
                    let here = self.buffered.contains_key(&sequence);
                    let patience = if self.fixed { PATIENCE_FIXED } else { PATIENCE };
                    let overdue = now.saturating_duration_since(since) >= patience
                        && self
                            .buffered
                            .first_key_value()
                            .is_some_and(|(_, next)| !self.is_held_back(now, next));
                    if here || overdue {
                        self.steering.handle_jump(now);
                        self.returned = RETURNED;
                        // Its time was spent waiting: go on with what comes next.
                        let first = self.buffered.keys().next().copied();
                        let next = if here { sequence } else { first.unwrap_or(sequence + 1) };
                        self.state = match self.returns(now, next, since) {
                            Some((at, skip)) => State::Waiting { sequence: next, at, skip },
                            None => State::Playing { sequence: next, index: 0 },
                        };
                        continue;
                    }
                    if self.lost.remove(&sequence).is_some() {
                        let waited = now.saturating_duration_since(since);
                        let waited = (waited.as_nanos() / self.frame.as_nanos()) as usize;
                        let left = self.typical.saturating_sub(waited);
                        self.state = State::Missing { sequence, left };
                        continue;
                    }
                    self.stats.stalled += 1;
                    return self.conceal();
                }
                State::Missing { sequence, left } => {
                    if left == 0 {
                        self.steering.handle_jump(now);
                        self.state = State::Playing { sequence: sequence + 1, index: 0 };
                        continue;
                    }
                    self.state = State::Missing { sequence, left: left - 1 };
                    self.stats.missing += 1;
                    return self.conceal();
                }
            }
        }
    }

    /// When and how far from its beginning the segment is to be heard that was waited for, if it is here
    /// and not to be heard at once: too old, as something else than the path held it up, or, where the
    /// latency is fixed, too early.
    fn returns(
        &self,
        now: Instant,
        sequence: Sequence,
        since: Instant,
    ) -> Option<(Instant, Duration)> {
        let captured = self.buffered.get(&sequence)?.captured?;
        let latency = now.saturating_duration_since(captured);
        if let (true, Some(target)) = (self.fixed, self.steering.target()) {
            return (latency < target).then(|| (captured + target, Duration::ZERO));
        }
        let silent = now.saturating_duration_since(since) >= CONCEAL;
        self.steering.excess_at_return(latency).filter(|_| silent).map(|excess| (now, excess))
    }

    /// When a segment is to be heard by its own time, if that and the target are known.
    fn due(&self, segment: &Buffered) -> Option<Instant> {
        segment.captured.zip(self.steering.target()).map(|(captured, target)| captured + target)
    }

    /// Whether a segment comes so early that the next ones may be late.
    fn is_held_back(&self, now: Instant, segment: &Buffered) -> bool {
        let due = self.due(segment);
        due.is_some_and(|due| now < due && due.duration_since(now) <= HOLD_BACK)
    }

    /// Waiting for the start: `None` when the state has moved on.
    fn begin(
        &mut self,
        now: Instant,
        sequence: Sequence,
        at: Instant,
        skip: Duration,
    ) -> Option<Play> {
        if self.lost.remove(&sequence).is_some() {
            let length = self.frame * self.typical as u32;
            let (at, skip) = (at + length.saturating_sub(skip), skip.saturating_sub(length));
            self.state = State::Waiting { sequence: sequence + 1, at, skip };
            return None;
        }
        if !self.buffered.contains_key(&sequence) && now.saturating_duration_since(at) >= PATIENCE {
            // It was waited for long enough; begin with what is here.
            if let Some((&next, segment)) = self.buffered.iter().next() {
                let due = self.due(segment);
                let skip = due.map_or(Duration::ZERO, |due| now.saturating_duration_since(due));
                self.state = State::Waiting { sequence: next, at: now, skip };
                return None;
            }
        }
        let Some(segment) = self.buffered.get(&sequence) else { return Some(self.nothing()) };
        let length = self.frame * segment.packets.len() as u32;
        // Its own time tells whether it is too late, should that of the one before have been wrong.
        let late = self.due(segment).map(|due| now.max(at).saturating_duration_since(due));
        let skip = late.filter(|&late| skip >= length && late < length).unwrap_or(skip);
        let frames = (skip.as_nanos() / self.frame.as_nanos()) as usize;
        let heard = self.heard.filter(|(next, _)| *next == sequence).map_or(0, |(_, index)| index);
        let frames = frames.max(heard);
        if frames >= segment.packets.len() {
            self.buffered.remove(&sequence);
            let skip = skip.saturating_sub(length);
            self.state = State::Waiting { sequence: sequence + 1, at, skip };
            return None;
        }
        // What was heard before fades out first: this has nothing to do with it.
        if now < at || self.begun && self.silent_for < self.conceal_frames() {
            return Some(self.nothing());
        }
        let past = frames.saturating_sub(PRIMING_PACKETS)..frames;
        self.priming = segment.packets[past].iter().rev().flatten().cloned().collect();
        // Later than planned when the segment was late: that is the path, so it stays like this.
        self.latency = segment
            .captured
            .map(|captured| now.saturating_duration_since(captured + self.frame * frames as u32));
        self.steering.handle_start(now, self.latency);
        self.state = State::Playing { sequence, index: frames };
        // The priming is part of it: whoever asks when to go on is told that it is now.
        self.begun = true;
        self.priming.pop().map(Play::Prime)
    }

    /// A frame of the segment that is playing; `None` when the state has moved on.
    fn play(&mut self, now: Instant, sequence: Sequence, index: usize) -> Option<Play> {
        let Some(segment) = self.buffered.get_mut(&sequence) else {
            let lost = self.lost.remove(&sequence);
            if lost.is_none() && self.ended && self.buffered.is_empty() {
                self.state = State::Idle;
                return None;
            }
            self.stats.gaps += 1;
            let cause = lost.unwrap_or(GapCause::Late);
            self.gap = Some(Gap { sequence, cause, again: false });
            self.state = match lost {
                Some(_) => State::Missing { sequence, left: self.typical },
                None => State::Stalled { sequence, since: now },
            };
            return None;
        };
        if index == 0 {
            let segment_latency = segment.captured.map(|at| now.saturating_duration_since(at));
            self.latency = segment_latency;
            let excess = segment_latency.and_then(|latency| match self.returned {
                // When it was captured may be known better than it was.
                1.. => self.steering.excess_at_return(latency),
                0 => self.steering.excess(latency),
            });
            self.returned = self.returned.saturating_sub(1);
            if excess.is_some_and(|excess| self.skip(now, sequence, excess)) {
                return None;
            }
            match segment_latency {
                Some(latency) => self.steering.handle_latency(now, latency),
                None => {
                    let level = self.level();
                    self.steering.handle_level(now, level);
                }
            }
        }
        let segment = self.buffered.get_mut(&sequence)?;
        let Some(packet) = segment.packets.get_mut(index) else {
            self.typical = segment.packets.len();
            self.buffered.remove(&sequence);
            self.state = State::Playing { sequence: sequence + 1, index: 0 };
            return None;
        };
        let packet = packet.take();
        self.begun = true;
        self.state = State::Playing { sequence, index: index + 1 };
        let Some(packet) = packet else {
            self.stats.missing += 1;
            return Some(self.conceal());
        };
        self.heard = match index + 1 < segment.packets.len() {
            true => Some((sequence, index + 1)),
            false => Some((sequence + 1, 0)),
        };
        self.stats.played += 1;
        self.silent_for = 0;
        Some(Play::Packet(packet))
    }

    /// Leaves out as many segments as make up for `excess`, if those behind them are here: what was
    /// heard before fades out, and what comes then fades in.
    fn skip(&mut self, now: Instant, sequence: Sequence, mut excess: Duration) -> bool {
        let mut next = sequence;
        while self.buffered.contains_key(&(next + 1)) {
            let Some(segment) = self.buffered.get(&next) else { break };
            let length = self.frame * segment.packets.len() as u32;
            if length > excess {
                break;
            }
            excess -= length;
            self.buffered.remove(&next);
            self.stats.skipped += 1;
            next += 1;
        }
        if next == sequence {
            return false;
        }
        self.stats.gaps += 1;
        self.gap = Some(Gap { sequence, cause: GapCause::Behind, again: false });
        self.steering.handle_jump(now);
        let fade = self.conceal_frames().saturating_sub(self.silent_for);
        self.state = State::Missing { sequence: next - 1, left: fade };
        true
    }

    /// Frames after which concealment has faded out.
    fn conceal_frames(&self) -> usize {
        CONCEAL.as_nanos().div_ceil(self.frame.as_nanos()) as usize
    }

    /// Nothing to play: silence, if there was sound before.
    fn nothing(&mut self) -> Play {
        if !self.begun {
            return Play::Idle;
        }
        self.stats.stalled += u64::from(!self.ended);
        self.conceal()
    }

    /// Concealment while it can be heard, silence after.
    fn conceal(&mut self) -> Play {
        self.silent_for = self.silent_for.saturating_add(1);
        if self.silent_for <= self.conceal_frames() { Play::Conceal } else { Play::Silence }
    }
}

/// Fades concealment out and the return from silence in, sample by sample, so that no gap begins
/// or ends with a click.
#[derive(Debug)]
pub struct Fader {
    /// 0 to 1.
    gain: f32,
    fade_out_step: f32,
    fade_in_step: f32,
    channels: usize,
}

impl Fader {
    /// A fader for PCM at `samples_per_second`, silent at first.
    pub fn new(samples_per_second: u32, channels: usize) -> Fader {
        let step = |time: Duration| 1.0 / (time.as_secs_f32() * samples_per_second as f32).max(1.0);
        Fader { gain: 0.0, fade_out_step: step(CONCEAL), fade_in_step: step(FADE_IN), channels }
    }

    /// Shapes decoded sound (interleaved); exact once it has faded in.
    pub fn sound(&mut self, pcm: &mut [i16]) {
        if self.gain >= 1.0 {
            return;
        }
        for samples in pcm.chunks_mut(self.channels) {
            self.gain = (self.gain + self.fade_in_step).min(1.0);
            samples.iter_mut().for_each(|sample| *sample = (f32::from(*sample) * self.gain) as i16);
        }
    }

    /// Shapes concealment (interleaved).
    pub fn concealment(&mut self, pcm: &mut [i16]) {
        for samples in pcm.chunks_mut(self.channels) {
            self.gain = (self.gain - self.fade_out_step).max(0.0);
            samples.iter_mut().for_each(|sample| *sample = (f32::from(*sample) * self.gain) as i16);
        }
    }

    /// Hears that silence follows.
    pub fn silence(&mut self) {
        self.gain = 0.0;
    }
}

/// Body of the fuzz target `jitter_buffer`: each pair of octets is an operation.
#[doc(hidden)]
pub fn fuzz_jitter_buffer(operations: &[u8]) {
    let frame = Duration::from_millis(60);
    let mut buffer = JitterBuffer::new(frame);
    let mut now = Instant::now();
    let mut newest = None;
    for operation in operations.chunks_exact(2).take(4000) {
        let sequence = u64::from(operation[1]);
        match operation[0] % 8 {
            0 => {
                let packet = |index| Some([operation[1], index].to_vec());
                buffer.insert(sequence, (0..operation[0]).map(packet).collect(), Some(now));
            }
            1 => buffer.lose(sequence, GapCause::Negative),
            2 => {
                let fresh = operation[0] > 127;
                // Nothing is heard twice, unless the numbers begin anew or go back far.
                let back = |newest: &[u8; 2]| u64::from(newest[0]).saturating_sub(sequence);
                newest = newest.filter(|newest| !fresh && back(newest) < BACK_MAX);
                let at = now + frame * u32::from(operation[0]);
                buffer.start(now, sequence, at - Duration::from_secs(2), fresh);
            }
            3 => now += frame * u32::from(operation[1]),
            4 => {
                newest = None;
                buffer.restart(frame);
            }
            _ => {
                let mut plays = 0;
                loop {
                    let play = buffer.pull(now);
                    plays += 1;
                    assert!(plays <= PRIMING_PACKETS + 1, "a frame comes after the priming");
                    if let Play::Packet(packet) = &play {
                        let place: [u8; 2] = packet[..].try_into().expect("number and index");
                        assert!(newest.is_none_or(|newest| newest < place), "in order, once");
                        newest = Some(place);
                    }
                    if !matches!(play, Play::Prime(_)) {
                        break;
                    }
                }
                now += frame;
            }
        }
        assert!(buffer.buffered.len() <= SEGMENTS_MAX && buffer.lost.len() <= SEGMENTS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Duration = Duration::from_millis(60);

    /// Three packets, named by sequence and index.
    fn packets(sequence: u64) -> Vec<Option<Vec<u8>>> {
        (0..3).map(|index| Some(vec![sequence as u8, index])).collect()
    }

    struct Listener {
        buffer: JitterBuffer,
        now: Instant,
    }

    impl Listener {
        fn new() -> Listener {
            Listener { buffer: JitterBuffer::new(FRAME), now: Instant::now() }
        }

        fn insert(&mut self, sequence: u64) -> Insertion {
            self.buffer.insert(sequence, packets(sequence), None)
        }

        /// Pulls `frames` frames: `a0` for the first packet of segment 10, `~` for concealment, `_`
        /// for silence, `.` for nothing, `(a0)` for priming.
        fn hear(&mut self, frames: usize) -> String {
            let mut heard = String::new();
            let name =
                |packet: Vec<u8>| format!("{}{}", (b'a' + packet[0] - 10) as char, packet[1]);
            for _ in 0..frames {
                loop {
                    match self.buffer.pull(self.now) {
                        Play::Prime(packet) => {
                            heard.push_str(&format!("({})", name(packet)));
                            continue;
                        }
                        Play::Packet(packet) => heard.push_str(&name(packet)),
                        Play::Conceal => heard.push('~'),
                        Play::Silence => heard.push('_'),
                        Play::Idle => heard.push('.'),
                    }
                    break;
                }
                self.now += FRAME;
            }
            heard
        }
    }

    #[test]
    fn the_end_is_no_gap_and_a_loss_before_it_is_one() {
        for (lost, gaps) in [(false, 0), (true, 1)] {
            let mut listener = Listener::new();
            listener.buffer.start(listener.now, 10, listener.now, true);
            listener.insert(10);
            listener.hear(4);
            assert_eq!(listener.buffer.stats().gaps, 1, "more is waited for");
            if lost {
                listener.buffer.lose(11, GapCause::Lost);
            }
            assert_eq!(listener.buffer.end(), (!lost).then_some(11));
            assert_eq!(listener.buffer.stats().gaps, gaps);
            assert_eq!(listener.buffer.take_gap().is_some(), lost);
            // Who knows it in time waits for nothing.
            listener.buffer.start(listener.now, 20, listener.now, true);
            listener.insert(20);
            listener.hear(1);
            let before = listener.buffer.stats();
            assert_eq!(listener.buffer.end(), None);
            listener.hear(6);
            let after = listener.buffer.stats();
            assert_eq!((after.gaps, after.stalled), (before.gaps, before.stalled));
        }
    }

    #[test]
    fn a_wait_that_ends_in_a_restart_is_one_gap() {
        for told in [false, true] {
            let mut listener = Listener::new();
            listener.buffer.start(listener.now, 10, listener.now, true);
            listener.insert(10);
            listener.hear(5);
            if told {
                let late = Gap { sequence: 11, cause: GapCause::Late, again: false };
                assert_eq!(listener.buffer.take_gap(), Some(late));
            }
            listener.buffer.start(listener.now, 70, listener.now, true);
            let restart = Gap { sequence: 70, cause: GapCause::Restart, again: told };
            assert_eq!(listener.buffer.take_gap(), Some(restart));
            assert_eq!(listener.buffer.stats().gaps, 1);
        }
    }

    #[test]
    fn losses_heard_of_too_late_do_not_keep_others_from_being_heard_of() {
        let mut listener = Listener::new();
        listener.buffer.start(listener.now, 10, listener.now, true);
        listener.insert(10);
        listener.hear(3);
        // Each time a segment is given up for the one behind it before it is known to be lost.
        let lost = |n: usize| 11 + 2 * n as u64;
        for n in 0..SEGMENTS_MAX {
            listener.buffer.insert(lost(n) + 1, packets(10), None);
            listener.hear(28);
            listener.buffer.lose(lost(n), GapCause::Lost);
        }
        let before = listener.buffer.stats();
        listener.buffer.lose(lost(SEGMENTS_MAX), GapCause::Lost);
        listener.buffer.insert(lost(SEGMENTS_MAX) + 1, packets(10), None);
        listener.hear(6);
        let after = listener.buffer.stats();
        assert_eq!((after.missing - before.missing, after.stalled - before.stalled), (3, 0));
    }

    #[test]
    fn segments_in_any_order_are_played_in_order_from_the_start_time() {
        let mut listener = Listener::new();
        let start = listener.now + 2 * FRAME;
        listener.buffer.start(listener.now, 10, start, true);
        assert_eq!(listener.insert(11), Insertion::Inserted);
        assert_eq!(listener.insert(10), Insertion::Inserted);
        assert_eq!(listener.insert(10), Insertion::Duplicate);
        assert_eq!(listener.insert(9), Insertion::Late);
        assert_eq!(listener.hear(8), "..a0a1a2b0b1b2");
        assert_eq!(listener.insert(10), Insertion::Late);
    }

    #[test]
    fn a_start_in_the_past_joins_midway_with_a_primed_decoder() {
        let mut listener = Listener::new();
        let start = listener.now - 5 * FRAME;
        listener.buffer.start(listener.now, 10, start, true);
        (10..13).for_each(|sequence| assert_eq!(listener.insert(sequence), Insertion::Inserted));
        assert_eq!(listener.hear(4), "(b0)(b1)b2c0c1c2");
    }

    #[test]
    fn what_was_heard_is_not_heard_again_when_playing_begins_anew() {
        // To be heard two frames later than it is, with what is there and what comes again.
        for again in [10, 11] {
            let mut listener = Listener::new();
            listener.buffer.start(listener.now, 10, listener.now, true);
            listener.insert(10);
            listener.insert(11);
            listener.insert(12);
            assert_eq!(listener.hear(4), "a0a1a2b0");
            let played = 4 - 3 * (again as u32 - 10);
            let play_at = listener.now + 2 * FRAME - played * FRAME;
            listener.buffer.start(listener.now, again, play_at, false);
            assert_eq!(listener.insert(again), Insertion::Duplicate);
            assert_eq!(listener.hear(7), "~~b1b2c0c1c2", "from {again}");
            assert_eq!((listener.buffer.stats().gaps, listener.buffer.stats().late), (1, 0));
        }
        // Another run has other sound under the same numbers.
        let mut listener = Listener::new();
        listener.buffer.start(listener.now, 10, listener.now, true);
        listener.insert(10);
        assert_eq!(listener.hear(2), "a0a1");
        listener.buffer.start(listener.now, 10, listener.now, true);
        assert_eq!(listener.insert(10), Insertion::Inserted);
        assert_eq!(listener.hear(5), "~~a0a1a2");
    }

    #[test]
    fn a_start_between_two_frames_waits_for_the_next_and_is_not_late_by_the_rest() {
        // Within a segment, at its end, and where segments are left out.
        for frames in [1, 2, 5, 6] {
            let mut listener = Listener::new();
            let play_at = listener.now - FRAME * frames - FRAME / 4;
            listener.buffer.start(listener.now, 10, play_at, true);
            for sequence in 10..13 {
                let captured = Some(play_at + FRAME * 3 * (sequence - 10) as u32);
                listener.buffer.insert(sequence, packets(sequence), captured);
            }
            assert_eq!(listener.buffer.pull(listener.now), Play::Idle, "{frames}");
            let at = listener.buffer.begins_at().expect("it is known");
            assert_eq!(at, listener.now + FRAME * 3 / 4);
            listener.now = at;
            listener.hear(1);
            // It was to be played when it was captured.
            assert_eq!(listener.buffer.latency(), Some(Duration::ZERO), "{frames}");
        }
    }

    #[test]
    fn only_the_rest_of_the_segment_that_plays_is_certain() {
        let mut listener = Listener::new();
        listener.buffer.start(listener.now, 10, listener.now, true);
        assert_eq!(listener.buffer.frames_certain(), 0);
        (10..12).for_each(|sequence| assert_eq!(listener.insert(sequence), Insertion::Inserted));
        let mut certain = || {
            listener.hear(1);
            listener.buffer.frames_certain()
        };
        assert_eq!([certain(), certain(), certain()], [2, 1, 0], "the next segment may be skipped");
        assert_eq!([certain(), certain(), certain(), certain()], [2, 1, 0, 0], "or be late");
    }

    #[test]
    fn a_damaged_packet_is_concealed_at_its_place() {
        let mut listener = Listener::new();
        listener.buffer.start(listener.now, 10, listener.now, true);
        let mut damaged = packets(10);
        damaged[1] = None;
        listener.buffer.insert(10, damaged, None);
        listener.insert(11);
        assert_eq!(listener.hear(6), "a0~a2b0b1b2");
        assert_eq!((listener.buffer.stats().missing, listener.buffer.stats().gaps), (1, 0));
    }

    #[test]
    fn a_lost_segment_keeps_its_time() {
        let mut listener = Listener::new();
        listener.buffer.start(listener.now, 10, listener.now, true);
        listener.insert(10);
        listener.insert(12);
        listener.buffer.lose(11, GapCause::Lost);
        assert_eq!(listener.hear(9), "a0a1a2~~_c0c1c2");
        let gap = Gap { sequence: 11, cause: GapCause::Lost, again: false };
        assert_eq!(listener.buffer.take_gap(), Some(gap));
        assert_eq!(listener.buffer.take_gap(), None);
    }

    #[test]
    fn a_late_segment_is_waited_for_and_played_whole() {
        let mut listener = Listener::new();
        listener.buffer.start(listener.now, 10, listener.now, true);
        listener.insert(10);
        assert_eq!(listener.hear(7), "a0a1a2~~__");
        listener.insert(11);
        assert_eq!(listener.hear(4), "b0b1b2~");
        let stats = listener.buffer.stats();
        assert_eq!((stats.stalled, stats.gaps, stats.played), (5, 2, 6));
    }

    #[test]
    fn after_a_segment_is_given_up_the_next_is_not_played_nearer_than_the_target() {
        let ms = Duration::from_millis;
        // With a target of 1 s, what is there 600 ms after its capture is held for 400 ms.
        for (latency, held) in [(600, 400), (1200, 0), (0, 1000)] {
            let mut listener = Listener::new();
            listener.buffer.start(listener.now, 10, listener.now, true);
            let captured = Some(listener.now - ms(500));
            listener.buffer.insert(10, packets(10), captured);
            listener.hear(3);
            (0..9).for_each(|_| listener.buffer.handle_need(listener.now, ms(740), ms(240)));
            let stalled = listener.hear(30);
            assert!(!stalled.contains('c'), "{stalled}");
            let captured = Some(listener.now - ms(latency));
            listener.buffer.insert(12, packets(12), captured);
            let heard = listener.hear(20);
            let silent = heard.find('c').expect("it is played") as u64 * 60;
            assert!(silent.abs_diff(held) < 60, "{latency}: {heard}");
        }
    }

    /// A listener with a target of 1 s who has played segment 10 and waits for the next, and whose path
    /// allows for this much.
    fn interrupted(allowance: Duration) -> Listener {
        let ms = Duration::from_millis;
        let mut listener = Listener::new();
        listener.buffer.start(listener.now, 10, listener.now, true);
        listener.buffer.insert(10, packets(10), Some(listener.now - ms(900)));
        listener.hear(3);
        let need = ms(980) - allowance.min(ms(500));
        (0..9).for_each(|_| listener.buffer.handle_need(listener.now, need, allowance));
        assert_eq!(listener.hear(20).replace('_', ""), "~~");
        listener
    }

    #[test]
    fn a_wrong_time_of_one_segment_costs_no_more_than_that_segment() {
        let ms = Duration::from_millis;
        let mut listener = interrupted(ms(500));
        let captured = |age: u64| listener.now.checked_sub(ms(age));
        let ages = [120_000, 1000, 820, 640].map(captured);
        for (sequence, captured) in (11..15).zip(ages) {
            listener.buffer.insert(sequence, packets(sequence), captured);
        }
        assert_eq!(listener.hear(4), "c0c1c2d0");
        let latency = listener.buffer.latency().expect("known");
        assert!(latency < ms(1200), "{latency:?}");
    }

    #[test]
    fn what_is_too_old_after_an_interruption_is_left_out() {
        let ms = Duration::from_millis;
        let mut listener = interrupted(ms(500));
        // Four segments of 180 ms each, the first of them 500 ms too old.
        for sequence in 11..15 {
            let age = ms(1500 - 180 * (sequence - 11));
            listener.buffer.insert(sequence, packets(sequence), Some(listener.now - age));
        }
        // Eight packets of 60 ms are left out.
        assert_eq!(listener.hear(2), "(d0)(d1)d2e0");
        let latency = listener.buffer.latency().expect("known");
        assert!(latency.abs_diff(ms(1000)) <= FRAME, "{latency:?}");
        assert_eq!(listener.buffer.stats().gaps, 1);
    }

    #[test]
    fn on_a_path_that_loses_much_it_is_played() {
        let ms = Duration::from_millis;
        // It aims at 2.5 s.
        let mut listener = interrupted(ms(2000));
        listener.buffer.insert(11, packets(11), Some(listener.now - ms(3400)));
        assert_eq!(listener.hear(3), "b0b1b2");
        // Attempts that were lost do not explain this.
        let mut listener = interrupted(ms(2000));
        listener.buffer.insert(11, packets(11), Some(listener.now - ms(4000)));
        listener.buffer.insert(12, packets(12), Some(listener.now - ms(2500)));
        assert_eq!(listener.hear(3), "c0c1c2");
    }

    #[test]
    fn a_fixed_latency_is_kept_over_an_interruption() {
        let ms = Duration::from_millis;
        let mut listener = Listener::new();
        listener.buffer.fix_latency(ms(2000));
        listener.buffer.start(listener.now, 10, listener.now, true);
        listener.buffer.insert(10, packets(10), Some(listener.now - ms(2000)));
        assert_eq!(listener.hear(10), "a0a1a2~~_____");
        // Captured after a pause.
        listener.buffer.insert(11, packets(11), Some(listener.now - ms(1200)));
        let heard = listener.hear(20);
        assert_eq!(heard.find('b').map(|at| at * 60), Some(840), "{heard}");
        assert_eq!(listener.buffer.stats().gaps, 2, "the other one is that after the last");
    }

    #[test]
    fn a_late_segment_is_given_up_when_there_is_something_behind_it() {
        let mut listener = Listener::new();
        listener.buffer.fix_latency(Duration::from_secs(1));
        listener.buffer.start(listener.now, 10, listener.now, true);
        listener.insert(10);
        listener.insert(12);
        // 500 ms of patience are 9 frames of 60 ms.
        assert_eq!(listener.hear(14), "a0a1a2~~_______c0c1");
        assert_eq!(listener.insert(11), Insertion::Late);
    }

    #[test]
    fn a_jump_leaves_out_what_is_below_it() {
        let mut listener = Listener::new();
        listener.buffer.start(listener.now, 10, listener.now, true);
        listener.insert(10);
        assert_eq!(listener.hear(1), "a0");
        listener.insert(15);
        listener.buffer.start(listener.now, 14, listener.now + FRAME, false);
        assert_eq!(listener.hear(1), "~");
        listener.insert(14);
        assert_eq!(listener.hear(7), "~e0e1e2f0f1f2");
        // Another run, with numbers below all those before.
        listener.buffer.start(listener.now, 10, listener.now, true);
        listener.insert(10);
        assert_eq!(listener.hear(4), "~~a0a1");
        assert_eq!(listener.buffer.take_gap().map(|gap| gap.cause), Some(GapCause::Restart));
    }

    #[test]
    fn far_beyond_its_target_the_latency_is_brought_back() {
        let mut listener = Listener::new();
        let begin = listener.now;
        listener.buffer.start(begin, 10, begin, true);
        listener.buffer.insert(10, packets(10), Some(begin));
        assert_eq!(listener.hear(3), "a0a1a2");
        assert_eq!(listener.buffer.latency(), Some(Duration::ZERO));
        listener.now += Duration::from_secs(4);
        listener.buffer.insert(11, packets(11), Some(begin + 3 * FRAME));
        listener.buffer.insert(12, packets(12), Some(begin + Duration::from_secs(4)));
        assert_eq!(listener.hear(3), "~~c0");
        assert_eq!(listener.buffer.stats().skipped, 1);
    }

    #[test]
    fn no_more_is_held_than_the_limit() {
        let mut listener = Listener::new();
        listener.buffer.start(listener.now, 10, listener.now, true);
        for sequence in 10..10 + SEGMENTS_MAX as u64 {
            assert_eq!(listener.insert(sequence), Insertion::Inserted);
        }
        assert_eq!(listener.insert(1000), Insertion::BeyondLimit);
    }

    #[test]
    fn fades_are_smooth_and_sound_is_exact_between_them() {
        let mut fader = Fader::new(16_000, 1);
        let mut pcm = vec![10_000i16; 960];
        fader.sound(&mut pcm);
        assert!(pcm[0] < 100 && pcm.is_sorted() && pcm[400] == 10_000);
        let mut exact = vec![12_345i16; 960];
        fader.sound(&mut exact);
        assert!(exact.iter().all(|&sample| sample == 12_345));
        let mut concealed = vec![10_000i16; 1920];
        fader.concealment(&mut concealed);
        assert!(concealed.is_sorted_by(|a, b| a >= b) && concealed[1919] == 0);
    }
}

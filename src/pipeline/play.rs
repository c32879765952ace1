//! The listener's last stage, `play`: events from the follower into the jitter buffer, frames out
//! of it through the decoder and the resampler that steers the pace into the sink.
//!
//! A segment is decoded when its first frame is due, and its frames are kept until each is due in
//! turn: twelve packets one after the other take a third of the time of twelve packets that each
//! find the caches cold, and what is in the segment is known by then. Until then nothing wakes this
//! stage: a segment that arrives meanwhile waits in the channel.

use super::Supervision;
use super::bell::Bell;
use super::render::Renderer;
use crate::audio::{AudioError, Sink};
use crate::codec::CodecError;
use crate::error::Error;
use crate::follow::{Event, StreamParameters, Trouble};
use crate::playout::{Gap, JitterBuffer, Play, PlayoutStats};
use crate::units::SampleRate;
use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Between two flushes of the sink, at least; it is to be flushed once a second.
const FLUSH_INTERVAL: Duration = Duration::from_millis(250);
/// Between two looks at whether to stop, at most; the end of the events is noticed at once.
const TICK: Duration = Duration::from_secs(1);
/// Concealment that fades out what is heard before a stream of another kind begins.
const FAREWELL: Duration = Duration::from_millis(120);
/// Gaps that are remembered for the report.
const GAPS_MAX: usize = 1000;
/// A clock of the sound that fell this far behind is set anew.
const BEHIND_MAX: Duration = Duration::from_millis(500);

/// What this stage is told by the one before it.
#[derive(Debug)]
pub struct Incoming {
    /// What happens.
    pub events: Receiver<Event>,
    /// Closed after the events: to be told of their end without being woken by each.
    pub end: Receiver<Infallible>,
}

/// An interruption, with its place in the sound written.
#[derive(Clone, Copy, Debug)]
pub struct GapReport {
    /// What is missing and why.
    pub gap: Gap,
    /// Where in the sound written it begins.
    pub at: Duration,
}

/// What is playing, for the status line and the report.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct PlayStatus {
    /// Counts of the jitter buffer.
    pub playout: PlayoutStats,
    /// Packets that the codec could not decode.
    pub undecodable: u64,
    /// Those of them that last longer or shorter than the stream's.
    pub wrong_duration: u64,
    /// The latency that is aimed at.
    pub target: Option<Duration>,
    /// How much faster this side plays than the server captures, in parts per million, once it was
    /// measured.
    pub drift_ppm: Option<f64>,
    /// By how much playing is sped up now, in parts per million; 0 while the sound is exactly what
    /// was decoded.
    pub correction_ppm: f64,
    /// Times that the sink had nothing to play.
    pub underruns: u64,
    /// When the last sound was written that was no concealment.
    pub last_sound: Option<Instant>,
    /// From capture to the sink's output, if the server tells enough to know.
    pub latency: Option<Duration>,
    /// Sound fetched and not yet written. [`PlayStatus::level`] counts what is not yet played.
    pub unwritten: Duration,
    /// Packets of sound taken over, and how long one lasts: others may have been handed over since.
    pub taken: (u64, Duration),
    /// Of a sink without a clock: until when the sound that was written lasts.
    pub written_until: Option<Instant>,
    /// When the first sound was written.
    pub first_sound: Option<Instant>,
    /// What was written, as time.
    pub written: Duration,
    /// What the stream is made of.
    pub stream: Option<StreamParameters>,
    /// What stood in the way last, and when.
    pub trouble: Option<(Trouble, Instant)>,
    /// The newest interruptions, oldest first.
    pub gaps: VecDeque<GapReport>,
    /// Whether the server said that its source has ended.
    pub ended: bool,
}

impl PlayStatus {
    /// Sound fetched and not yet played at `now`, when `handed` packets were handed over: to a sink
    /// without a clock it is written before it is due.
    pub fn level(&self, now: Instant, handed: u64) -> Duration {
        let (taken, frame) = self.taken;
        let waiting = u32::try_from(handed.saturating_sub(taken)).unwrap_or(u32::MAX);
        let until = self.written_until.unwrap_or(now);
        let written = until.saturating_duration_since(now);
        frame.saturating_mul(waiting).saturating_add(self.unwritten + written)
    }
}

/// Where this stage says what it does.
#[derive(Debug)]
pub struct Board {
    status: Mutex<PlayStatus>,
    /// Whether sound is being written: a sink may block for as long as it likes.
    writing: AtomicBool,
    /// Rung when the stream, or what stands in the way, is another one than before.
    pub news: Bell,
}

impl Board {
    /// Nothing is said yet.
    ///
    /// # Errors
    /// When the system gives no pipe.
    pub fn new() -> Result<Board, Error> {
        Ok(Board { status: Mutex::default(), writing: AtomicBool::new(false), news: Bell::new()? })
    }

    /// Whether the sink is taking sound, or does not.
    pub fn is_writing(&self) -> bool {
        self.writing.load(Ordering::Relaxed)
    }

    /// What is playing.
    pub fn status(&self) -> MutexGuard<'_, PlayStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sound of the segment that is playing, decoded and not yet due.
#[derive(Default)]
struct Ahead {
    pcm: Vec<i16>,
    /// Where the next frame begins in `pcm`.
    start: usize,
    /// Length of each frame in `pcm`, and whether it is a packet's sound.
    frames: VecDeque<(usize, bool)>,
}

impl Ahead {
    fn push(&mut self, pcm: &[i16], sound: bool) {
        if self.frames.is_empty() {
            self.pcm.clear();
            self.start = 0;
        }
        self.pcm.extend_from_slice(pcm);
        self.frames.push_back((pcm.len(), sound));
    }

    fn pop(&mut self) -> Option<(&[i16], bool)> {
        let (length, sound) = self.frames.pop_front()?;
        let start = self.start;
        self.start += length;
        Some((&self.pcm[start..self.start], sound))
    }

    /// While a filter fills, a frame may have no samples.
    fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Samples of all channels.
    fn len(&self) -> usize {
        self.pcm.len() - self.start
    }
}

/// The stage's state.
struct Player<'a> {
    sink: Box<dyn Sink>,
    buffer: JitterBuffer,
    chain: Option<Renderer>,
    ahead: Ahead,
    stream: Option<StreamParameters>,
    board: &'a Board,
    /// Of a sink without a clock: when it was set, and the samples written since.
    clock: Option<(Instant, u64)>,
    /// Samples written at this rate, and the sound written at others before.
    written_samples: u64,
    written_before: Duration,
    rate: SampleRate,
    /// Packets of sound taken over.
    taken: u64,
    undecodable: u64,
    wrong_duration: u64,
    /// Whether the next packet is of another run of the server than those before.
    renewing: bool,
    last_sound: Option<Instant>,
    first_sound: Option<Instant>,
    flushed: Instant,
    ended: bool,
    gone: bool,
}

/// Plays what `incoming` brings until it ends, the stream ends, or the sink is closed; `latency` after
/// it was captured, or as soon as the path allows.
///
/// # Errors
/// When the sink fails, or the codec cannot be set up.
pub fn play(
    sink: Box<dyn Sink>,
    incoming: Incoming,
    supervision: &Supervision,
    board: &Board,
    latency: Option<Duration>,
) -> Result<(), Error> {
    let mut buffer = JitterBuffer::new(Duration::from_millis(60));
    if let Some(latency) = latency {
        buffer.fix_latency(latency);
    }
    let mut player = Player {
        sink,
        buffer,
        chain: None,
        ahead: Ahead::default(),
        stream: None,
        board,
        clock: None,
        written_samples: 0,
        written_before: Duration::ZERO,
        rate: SampleRate::HZ_16000,
        taken: 0,
        undecodable: 0,
        wrong_duration: 0,
        renewing: false,
        last_sound: None,
        first_sound: None,
        flushed: Instant::now(),
        ended: false,
        gone: false,
    };
    let result = player.run(&incoming, supervision);
    // Whatever happened, what was written is to be kept.
    let flushed = match player.chain {
        Some(_) => player.sink.flush().map_err(Error::from),
        None => Ok(()),
    };
    supervision.finish();
    match result {
        Err(Error::Audio(AudioError::Closed)) => Ok(()),
        result => result.and(match flushed {
            Err(Error::Audio(AudioError::Closed)) => Ok(()),
            flushed => flushed,
        }),
    }
}

impl Player<'_> {
    fn run(&mut self, incoming: &Incoming, supervision: &Supervision) -> Result<(), Error> {
        while !supervision.is_stopping() {
            self.drain(&incoming.events)?;
            let drained = self.buffer.is_drained() && self.ahead.is_empty();
            if (self.ended && drained) || self.gone {
                return Ok(());
            }
            let due = self.due();
            if due.is_none_or(|due| due > Instant::now()) {
                let tick = Instant::now() + TICK;
                self.wait(incoming, due.map_or(tick, |due| due.min(tick)))?;
                continue;
            }
            self.write_frame()?;
        }
        Ok(())
    }

    /// When the next frame is to be written; `None` while nothing is playing.
    fn due(&self) -> Option<Instant> {
        if !self.buffer.begun() {
            return self.buffer.begins_at();
        }
        let Some((anchor, _)) = self.clock else { return Some(Instant::now()) };
        // What is decoded will be played whatever happens; the rest is decided on when it is due.
        if !self.ahead.is_empty() && self.sink.takes_ahead() {
            return Some(anchor);
        }
        self.written_until()
    }

    /// Of a sink without a clock: until when what was written lasts.
    fn written_until(&self) -> Option<Instant> {
        self.clock.map(|(anchor, samples)| anchor + self.rate.duration(samples))
    }

    /// Sound written so far.
    fn written(&self) -> Duration {
        self.written_before + self.rate.duration(self.written_samples)
    }

    fn drain(&mut self, events: &Receiver<Event>) -> Result<(), Error> {
        loop {
            match events.try_recv() {
                Ok(event) => self.handle(event)?,
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => {
                    self.gone = true;
                    return Ok(());
                }
            }
        }
    }

    /// Waits until the next frame is due; before there is one, for the next event.
    fn wait(&mut self, incoming: &Incoming, until: Instant) -> Result<(), Error> {
        if self.buffer.begun() {
            // What may have come by the end of everything is seen to at the next turn.
            let Err(_timeout_or_end) = incoming.end.recv_deadline(until);
            return Ok(());
        }
        match incoming.events.recv_deadline(until) {
            Ok(event) => self.handle(event),
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => {
                self.gone = true;
                Ok(())
            }
        }
    }

    fn handle(&mut self, event: Event) -> Result<(), Error> {
        let now = Instant::now();
        match event {
            Event::Stream(stream)
                if self.stream.as_ref().is_some_and(|s| s.sounds_like(&stream)) =>
            {
                self.tell_stream(stream);
            }
            Event::Stream(stream) => {
                self.fade_out()?;
                self.ahead = Ahead::default();
                let output = self.sink.open(stream.format)?;
                let chain = Renderer::new(&stream, output)?;
                self.buffer.restart(chain.frame());
                if self.clock.is_none() && !self.sink.has_clock() {
                    self.clock = Some((now, 0));
                }
                if self.rate != chain.output().rate {
                    self.written_before = self.written();
                    self.written_samples = 0;
                    self.rate = chain.output().rate;
                    self.clock = self.clock.map(|_| (now, 0));
                }
                self.chain = Some(chain);
                self.stream = Some(stream.clone());
                self.tell_stream(stream);
            }
            Event::Start { sequence, play_at, fresh } => {
                self.buffer.start(now, sequence, play_at, fresh);
                self.renewing |= fresh;
                self.ended = false;
            }
            Event::Segment { sequence, segment, captured, need, allowance } => {
                self.taken += segment.packets.len() as u64;
                self.buffer.insert(sequence, segment.packets, captured);
                if let Some(need) = need {
                    self.buffer.handle_need(now, need, allowance);
                }
                self.tell_trouble(None);
                self.report();
            }
            Event::Lost(sequence, cause) => self.buffer.lose(sequence, cause),
            Event::Ended => {
                self.ended = true;
                let none = self.buffer.end();
                let mut status = self.board.status();
                status.ended = true;
                status.gaps.retain(|report| Some(report.gap.sequence) != none);
            }
            Event::Trouble(trouble) => self.tell_trouble(Some((trouble, now))),
        }
        Ok(())
    }

    /// Plays what is decoded already and fades it out, before the chain is replaced.
    fn fade_out(&mut self) -> Result<(), Error> {
        if self.chain.is_none() || !self.buffer.begun() {
            return Ok(());
        }
        let frame = self.chain.as_ref().map_or(FAREWELL, Renderer::frame);
        for _ in 0..FAREWELL.as_nanos().div_ceil(frame.as_nanos()) {
            self.decode(&Play::Conceal);
        }
        while !self.ahead.is_empty() {
            self.write_frame()?;
        }
        Ok(())
    }

    fn write_frame(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        if let Some(until) = self.written_until() {
            let behind = now.saturating_duration_since(until);
            if behind > BEHIND_MAX || self.written().is_zero() {
                self.clock = Some((now, 0));
            }
        }
        if self.ahead.is_empty() {
            self.pull(now)?;
        }
        let heard = self.written_until().unwrap_or(now);
        let Some(chain) = &self.chain else { return Ok(()) };
        let Some((pcm, sound)) = self.ahead.pop() else { return Ok(()) };
        self.board.writing.store(true, Ordering::Relaxed);
        let written = self.sink.write(pcm);
        self.board.writing.store(false, Ordering::Relaxed);
        written?;
        let samples = (pcm.len() / chain.output().channels.count()) as u64;
        self.written_samples += samples;
        self.clock = self.clock.map(|(anchor, before)| (anchor, before + samples));
        if sound {
            self.first_sound = self.first_sound.or(Some(now));
            self.last_sound = Some(heard);
        }
        if now.saturating_duration_since(self.flushed) >= FLUSH_INTERVAL {
            self.sink.flush()?;
            self.flushed = now;
        }
        self.report();
        Ok(())
    }

    /// Decodes the next frame, and those that follow it with certainty; none while there is nothing
    /// to play.
    fn pull(&mut self, now: Instant) -> Result<(), Error> {
        loop {
            let play = self.buffer.pull(now);
            let Some(chain) = &mut self.chain else { return Ok(()) };
            if self.renewing && matches!(play, Play::Packet(_) | Play::Prime(_)) {
                chain.renew()?;
                self.renewing = false;
            }
            chain.set_correction(self.buffer.steering().correction_ppm());
            if play == Play::Idle {
                return Ok(());
            }
            self.decode(&play);
            if self.buffer.frames_certain() == 0 && !matches!(play, Play::Prime(_)) {
                return Ok(());
            }
        }
    }

    fn decode(&mut self, play: &Play) {
        let Some(chain) = &mut self.chain else { return };
        let (pcm, wrong) = chain.render(play);
        self.undecodable += u64::from(wrong.is_some());
        self.wrong_duration += u64::from(matches!(wrong, Some(CodecError::WrongDuration { .. })));
        if !matches!(play, Play::Prime(_)) {
            self.ahead.push(pcm, matches!(play, Play::Packet(_)) && wrong.is_none());
            self.buffer.set_frame(chain.frame());
        }
    }

    fn tell_stream(&self, stream: StreamParameters) {
        let before = self.board.status().stream.replace(stream.clone());
        if before.as_ref() != Some(&stream) {
            self.board.news.ring();
        }
    }

    fn tell_trouble(&self, trouble: Option<(Trouble, Instant)>) {
        let before = std::mem::replace(&mut self.board.status().trouble, trouble);
        if before.map(|(trouble, _)| trouble) != trouble.map(|(trouble, _)| trouble) {
            self.board.news.ring();
        }
    }

    fn report(&mut self) {
        let Some(chain) = &self.chain else { return };
        let (correction_ppm, channels) = (chain.correction_ppm(), chain.output().channels.count());
        let ahead = self.rate.duration((self.ahead.len() / channels) as u64);
        let gap = self.buffer.take_gap();
        let queued = self.sink.queued();
        let written_until = self.written_until();
        let underruns = self.sink.underruns();
        let written = self.written();
        let mut status = self.board.status();
        status.playout = self.buffer.stats();
        status.undecodable = self.undecodable;
        status.underruns = underruns;
        status.wrong_duration = self.wrong_duration;
        status.target = self.buffer.steering().target();
        status.drift_ppm = self.buffer.steering().drift_ppm();
        status.correction_ppm = correction_ppm;
        status.last_sound = self.last_sound;
        status.latency = self.buffer.latency().map(|latency| latency + queued);
        status.unwritten = self.buffer.level() + ahead + queued;
        status.taken = (self.taken, chain.frame());
        status.written_until = written_until;
        status.first_sound = self.first_sound;
        status.written = written;
        status.ended = self.ended;
        if let Some(gap) = gap {
            let before = if gap.again { status.gaps.pop_back() } else { None };
            let at = before.map_or(written, |before| before.at);
            if status.gaps.len() == GAPS_MAX {
                status.gaps.pop_front();
            }
            status.gaps.push_back(GapReport { gap, at });
        }
    }
}

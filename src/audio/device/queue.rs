//! The queue between a device's callback and its user, and both sides' bookkeeping.
//!
//! Sound moves in chunks of 10 ms: a callback fills or empties them at its own pace. Spent chunks
//! go back through a second channel, so that callbacks never allocate. A callback copies, calls
//! `try_send` or `try_recv`, bumps an atomic, returns.
//!
//! Either side finds out that the other is gone by its channel being disconnected.

use crate::units::SampleRate;
use cpal::{I24, Sample, SizedSample, U24};
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The sound in one chunk.
const CHUNK: Duration = Duration::from_millis(10);
/// Chunks in the input queue: 480 ms. When it is full, the newest sound is dropped.
const INPUT_BOUND: usize = 48;
/// Chunks in the output queue: 130 ms. When it is full, the writer blocks. As much again is in the
/// device at most.
const OUTPUT_BOUND: usize = 13;

/// What a device runs at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) rate: SampleRate,
    /// Channels of the device: at least 1, with no upper limit.
    pub(super) channels: usize,
}

impl Shape {
    /// Length of a chunk, interleaved.
    pub(super) fn chunk_len(self) -> usize {
        self.rate.samples(CHUNK).max(1) as usize * self.channels
    }

    /// The time that interleaved sound of length `len` lasts.
    fn duration_of(self, len: usize) -> Duration {
        self.rate.duration((len / self.channels) as u64)
    }
}

/// The end of the queue that is filled.
pub(super) struct Producer {
    pub(super) filled: Sender<Vec<i16>>,
    spares: Receiver<Vec<i16>>,
}

/// The end of the queue that is emptied.
pub(super) struct Consumer {
    pub(super) filled: Receiver<Vec<i16>>,
    spares: Sender<Vec<i16>>,
}

impl Consumer {
    /// Returns a spent chunk; to be done before the next one is taken.
    pub(super) fn give_back(&self, mut chunk: Vec<i16>) {
        chunk.clear();
        // Fails when the other side is gone, which then needs no chunks any more.
        let _ = self.spares.try_send(chunk);
    }
}

/// A queue of `bound` chunks. There are two more of them: one in the hands of either side.
fn queue(shape: Shape, bound: usize) -> (Producer, Consumer) {
    let (filled_in, filled_out) = bounded(bound);
    let (spare_in, spare_out) = bounded(bound + 2);
    let consumer = Consumer { filled: filled_out, spares: spare_in };
    for _ in 0..bound + 2 {
        consumer.give_back(Vec::with_capacity(shape.chunk_len()));
    }
    (Producer { filled: filled_in, spares: spare_out }, consumer)
}

/// The reader's side of an input.
pub(super) struct InputLine {
    pub(super) shape: Shape,
    pub(super) consumer: Consumer,
}

/// The callback's side of an input.
pub(super) struct InputFeed {
    shape: Shape,
    producer: Producer,
    /// The chunk being filled; `None` when there was no spare one.
    chunk: Option<Vec<i16>>,
    lost_ns: Arc<AtomicU64>,
}

/// An input of this shape that counts nanoseconds of dropped sound in `lost_ns`.
pub(super) fn input(shape: Shape, lost_ns: Arc<AtomicU64>) -> (InputFeed, InputLine) {
    let (producer, consumer) = queue(shape, INPUT_BOUND);
    let feed = InputFeed { shape, producer, chunk: None, lost_ns };
    (feed, InputLine { shape, consumer })
}

impl InputFeed {
    /// Takes what the device has recorded, interleaved over its channels.
    pub(super) fn take<T: PcmSample>(&mut self, mut data: &[T]) {
        while !data.is_empty() {
            let spare = || self.producer.spares.try_recv().ok();
            let Some(mut chunk) = self.chunk.take().or_else(spare) else {
                return self.lose(data.len());
            };
            let room = self.shape.chunk_len() - chunk.len();
            let (now, later) = data.split_at(room.min(data.len()));
            chunk.extend(now.iter().map(|&sample| sample.to_pcm()));
            data = later;
            if chunk.len() < self.shape.chunk_len() {
                self.chunk = Some(chunk);
                return;
            }
            match self.producer.filled.try_send(chunk) {
                Ok(()) => {}
                Err(TrySendError::Full(mut chunk)) => {
                    self.lose(chunk.len());
                    chunk.clear();
                    self.chunk = Some(chunk);
                }
                // The reader is gone, and the device is about to be closed.
                Err(TrySendError::Disconnected(_)) => return,
            }
        }
    }

    fn lose(&self, len: usize) {
        let lost = self.shape.duration_of(len).as_nanos() as u64;
        self.lost_ns.fetch_add(lost, Ordering::Relaxed);
    }
}

/// The writer's side of an output.
pub(super) struct OutputLine {
    pub(super) shape: Shape,
    pub(super) producer: Producer,
    pub(super) gauge: Arc<Gauge>,
    /// Never used; it tells whether the callback is still there.
    alive: Receiver<()>,
}

impl OutputLine {
    /// An empty chunk.
    pub(super) fn spare(&self) -> Vec<i16> {
        let fresh = |_none| Vec::with_capacity(self.shape.chunk_len());
        self.producer.spares.try_recv().unwrap_or_else(fresh)
    }

    /// Whether the callback is gone.
    pub(super) fn is_dead(&self) -> bool {
        self.alive.try_recv() == Err(crossbeam_channel::TryRecvError::Disconnected)
    }
}

/// How far an output is, told by its callback and read by its writer.
pub(super) struct Gauge {
    rate: SampleRate,
    opened: Instant,
    /// Samples (per channel) that the callback has taken.
    taken_samples: AtomicU64,
    /// When the first sample written would have been heard, had all since been heard without a
    /// break, in nanoseconds since `opened`: one number, so that reading it needs no lock.
    origin_ns: AtomicI64,
}

impl Gauge {
    /// Before the callback has taken any sound.
    const NO_ORIGIN: i64 = i64::MIN;

    /// The time until the last of `sent_samples` is heard.
    pub(super) fn queued(&self, sent_samples: u64, now: Instant) -> Duration {
        // Both bounds hold; the second also while the device stands still.
        let taken = self.taken_samples.load(Ordering::Acquire);
        let waiting = self.rate.duration(sent_samples.saturating_sub(taken));
        let origin = self.origin_ns.load(Ordering::Acquire);
        if origin == Self::NO_ORIGIN {
            return waiting;
        }
        let heard = i128::from(origin) + self.rate.duration(sent_samples).as_nanos() as i128;
        let left = heard - now.saturating_duration_since(self.opened).as_nanos() as i128;
        waiting.max(Duration::from_nanos(u64::try_from(left).unwrap_or(0)))
    }

    /// The callback has taken up to `taken_samples`, the last of which is heard `ahead` after `now`.
    fn set(&self, taken_samples: u64, now: Instant, ahead: Duration) {
        let heard = now.saturating_duration_since(self.opened) + ahead;
        let origin =
            heard.as_nanos() as i128 - self.rate.duration(taken_samples).as_nanos() as i128;
        self.origin_ns.store(origin as i64, Ordering::Release);
        self.taken_samples.store(taken_samples, Ordering::Release);
    }
}

/// The callback's side of an output.
pub(super) struct OutputFeed {
    shape: Shape,
    consumer: Consumer,
    /// The chunk being played, and how much of it is.
    chunk: Option<(Vec<i16>, usize)>,
    taken_samples: u64,
    /// Whether silence was played since the last sound.
    silent: bool,
    gauge: Arc<Gauge>,
    underruns: Arc<AtomicU64>,
    _alive: Sender<()>,
}

/// An output of this shape that counts in `underruns` how often silence came between two sounds.
pub(super) fn output(
    shape: Shape,
    underruns: Arc<AtomicU64>,
    now: Instant,
) -> (OutputFeed, OutputLine) {
    let (producer, consumer) = queue(shape, OUTPUT_BOUND);
    let gauge = Arc::new(Gauge {
        rate: shape.rate,
        opened: now,
        taken_samples: AtomicU64::new(0),
        origin_ns: AtomicI64::new(Gauge::NO_ORIGIN),
    });
    // Nothing is ever sent here.
    let (alive_in, alive_out) = bounded(0);
    let feed = OutputFeed {
        shape,
        consumer,
        chunk: None,
        taken_samples: 0,
        silent: false,
        gauge: Arc::clone(&gauge),
        underruns,
        _alive: alive_in,
    };
    (feed, OutputLine { shape, producer, gauge, alive: alive_out })
}

/// Counts interruptions that the device tells of.
pub(super) struct Interruptions {
    gauge: Arc<Gauge>,
    underruns: Arc<AtomicU64>,
}

impl Interruptions {
    /// One more; before there was any sound, it is none.
    pub(super) fn add(&self) {
        if self.gauge.taken_samples.load(Ordering::Relaxed) > 0 {
            self.underruns.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl OutputFeed {
    /// What counts interruptions that this side does not see.
    pub(super) fn interruptions(&self) -> Interruptions {
        Interruptions { gauge: Arc::clone(&self.gauge), underruns: Arc::clone(&self.underruns) }
    }

    /// Gives the device what it is to play next. The first of it is heard `delay` after `now`.
    pub(super) fn give<T: PcmSample>(&mut self, data: &mut [T], now: Instant, delay: Duration) {
        let mut filled = 0;
        while filled < data.len() {
            let fresh = || self.consumer.filled.try_recv().ok().map(|chunk| (chunk, 0));
            let Some((chunk, played)) = self.chunk.take().or_else(fresh) else { break };
            let count = (chunk.len() - played).min(data.len() - filled);
            for (to, from) in data[filled..].iter_mut().zip(&chunk[played..played + count]) {
                *to = T::from_pcm(*from);
            }
            filled += count;
            if played + count < chunk.len() {
                self.chunk = Some((chunk, played + count));
            } else {
                self.consumer.give_back(chunk);
            }
        }
        data[filled..].fill(T::EQUILIBRIUM);
        if filled > 0 {
            let first = self.taken_samples == 0;
            self.taken_samples += (filled / self.shape.channels) as u64;
            if self.silent && !first {
                self.underruns.fetch_add(1, Ordering::Relaxed);
            }
            self.gauge.set(self.taken_samples, now, delay + self.shape.duration_of(filled));
        }
        self.silent = filled < data.len();
    }
}

/// A sample as devices have it.
pub(super) trait PcmSample: SizedSample + Send + 'static {
    /// The sample in 16 bits.
    fn to_pcm(self) -> i16;
    /// The sample from 16 bits.
    fn from_pcm(pcm: i16) -> Self;
}

macro_rules! integers {
    ($($sample:ty)*) => {$(
        impl PcmSample for $sample {
            fn to_pcm(self) -> i16 {
                self.to_sample()
            }
            fn from_pcm(pcm: i16) -> $sample {
                pcm.to_sample()
            }
        }
    )*};
}

integers!(i8 i16 I24 i32 i64 u8 u16 U24 u32 u64);

macro_rules! floats {
    ($($sample:ty)*) => {$(
        impl PcmSample for $sample {
            /// Rounds, which cpal's own conversion does not, and clips.
            fn to_pcm(self) -> i16 {
                let value = self * 32_768.0;
                (value + (0.5 as $sample).copysign(value)) as i16
            }
            fn from_pcm(pcm: i16) -> $sample {
                <$sample>::from(pcm) / 32_768.0
            }
        }
    )*};
}

floats!(f32 f64);

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { rate: SampleRate::HZ_48000, channels: 2 };
    const CHUNK_LEN: usize = 960;

    fn opposite<T: PcmSample>() {
        for pcm in [i16::MIN, -12_288, -256, 0, 256, 12_288, 32_512] {
            assert_eq!(T::from_pcm(pcm).to_pcm(), pcm);
        }
        assert_eq!(T::EQUILIBRIUM.to_pcm(), 0);
    }

    #[test]
    fn every_sample_type_goes_there_and_back() {
        opposite::<i8>();
        opposite::<i16>();
        opposite::<I24>();
        opposite::<i32>();
        opposite::<i64>();
        opposite::<u8>();
        opposite::<u16>();
        opposite::<U24>();
        opposite::<u32>();
        opposite::<u64>();
        opposite::<f32>();
        opposite::<f64>();
        for pcm in i16::MIN..=i16::MAX {
            assert_eq!(f32::from_pcm(pcm).to_pcm(), pcm);
            assert_eq!(u16::from_pcm(pcm).to_pcm(), pcm);
        }
        assert_eq!([1.5f32, -1.5, f32::NAN].map(f32::to_pcm), [i16::MAX, i16::MIN, 0]);
    }

    #[test]
    fn input_arrives_in_order_whatever_the_callback_takes() {
        let (mut feed, line) = input(SHAPE, Arc::default());
        let sound: Vec<i16> = (0..CHUNK_LEN as i16 * 20).collect();
        let mut heard = Vec::new();
        let mut rest = &sound[..];
        for len in [2, 958, 960, 1, 4_097].iter().cycle() {
            let (now, later) = rest.split_at((*len).min(rest.len()));
            feed.take(now);
            rest = later;
            while let Ok(chunk) = line.consumer.filled.try_recv() {
                heard.extend_from_slice(&chunk);
                line.consumer.give_back(chunk);
            }
            if rest.is_empty() {
                break;
            }
        }
        assert_eq!(heard, sound);
        assert_eq!(feed.lost_ns.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_full_input_drops_the_newest_and_counts_it() {
        let (mut feed, line) = input(SHAPE, Arc::default());
        for value in 0..60 {
            feed.take(&vec![value as i16; CHUNK_LEN]);
        }
        assert_eq!(feed.lost_ns.load(Ordering::Relaxed), 120_000_000);
        let heard: Vec<i16> = std::iter::from_fn(|| line.consumer.filled.try_recv().ok())
            .map(|chunk| chunk[0])
            .collect();
        assert_eq!(heard, (0..48).collect::<Vec<i16>>());
        // The reader kept all the chunks: without a spare one the sound is dropped as well.
        feed.take(&vec![0i16; CHUNK_LEN * 3]);
        assert_eq!(feed.lost_ns.load(Ordering::Relaxed), 130_000_000);
    }

    #[test]
    fn output_is_played_in_order_and_filled_up_with_silence() {
        let now = Instant::now();
        let (mut feed, line) = output(SHAPE, Arc::default(), now);
        let mut data = [9i16; 6];
        feed.give(&mut data, now, Duration::ZERO);
        assert_eq!(data, [0; 6], "nothing was written yet");
        feed.interruptions().add();
        assert_eq!(feed.underruns.load(Ordering::Relaxed), 0, "there was nothing to interrupt");
        for chunk in [vec![1, 2, 3, 4], vec![5, 6, 7, 8]] {
            line.producer.filled.try_send(chunk).expect("there is room");
        }
        feed.give(&mut data, now, Duration::ZERO);
        assert_eq!(data, [1, 2, 3, 4, 5, 6]);
        let mut data = [9u16; 4];
        feed.give(&mut data, now, Duration::ZERO);
        assert_eq!(data, [32_775, 32_776, 32_768, 32_768]);
        assert_eq!(feed.underruns.load(Ordering::Relaxed), 0, "it may be the end");
        line.producer.filled.try_send(vec![1, 1]).expect("there is room");
        feed.give(&mut data, now, Duration::ZERO);
        assert_eq!(feed.underruns.load(Ordering::Relaxed), 1);
        feed.interruptions().add();
        assert_eq!(feed.underruns.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn output_is_bounded_and_its_chunks_come_back() {
        let now = Instant::now();
        let (mut feed, line) = output(SHAPE, Arc::default(), now);
        for round in 0..3 {
            let mut sent = 0;
            loop {
                let mut chunk = line.spare();
                assert_eq!(chunk.capacity(), CHUNK_LEN);
                chunk.resize(CHUNK_LEN, 1);
                if line.producer.filled.try_send(chunk).is_err() {
                    break;
                }
                sent += 1;
            }
            assert_eq!(sent, OUTPUT_BOUND, "round {round}");
            feed.give(&mut vec![0f32; CHUNK_LEN * OUTPUT_BOUND], now, Duration::ZERO);
        }
        assert!(!line.is_dead());
        drop(feed);
        assert!(line.is_dead());
        assert!(line.producer.filled.try_send(Vec::new()).is_err());
    }

    #[test]
    fn queued_sound_is_what_waits_and_what_the_device_holds() {
        let ms = Duration::from_millis;
        let opened = Instant::now();
        let (mut feed, line) = output(SHAPE, Arc::default(), opened);
        let mut sent_samples = 0;
        let mut send = |chunks: u64| {
            for _ in 0..chunks {
                line.producer.filled.try_send(vec![1; CHUNK_LEN]).expect("there is room");
            }
            sent_samples += chunks * 480;
            sent_samples
        };
        let sent = send(10);
        assert_eq!(line.gauge.queued(sent, opened + ms(5)), ms(100), "no callback yet");
        // 20 ms are taken, and are heard after the 30 ms that the device holds already.
        feed.give(&mut [0i16; CHUNK_LEN * 2], opened + ms(10), ms(30));
        assert_eq!(line.gauge.queued(sent, opened + ms(10)), ms(130));
        assert_eq!(line.gauge.queued(sent, opened + ms(25)), ms(115));
        // A device that stands still does not play what waits.
        assert_eq!(line.gauge.queued(sent, opened + ms(1_000)), ms(80));
        feed.give(&mut [0i16; CHUNK_LEN * 8], opened + ms(1_000), ms(30));
        assert_eq!(line.gauge.queued(sent, opened + ms(1_010)), ms(100));
        assert_eq!(line.gauge.queued(sent, opened + ms(2_000)), ms(0));
        // After a pause the count goes on from there.
        let sent = send(1);
        assert_eq!(line.gauge.queued(sent, opened + ms(2_000)), ms(10));
        feed.give(&mut [0i16; CHUNK_LEN * 2], opened + ms(2_000), ms(40));
        assert_eq!(line.gauge.queued(sent, opened + ms(2_000)), ms(50));
    }
}

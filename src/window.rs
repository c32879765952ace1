//! The server's window: which segments are published now, and the snapshots that are answered from.
//!
//! [`Window`] takes closed segments and yields immutable [`Snapshot`]s, each a whole generation of
//! the zone's changing part: a reader that holds one can never see a number listed whose data is
//! missing, nor a half-built zone. Answers are prebuilt octets, owner names as pointers to the
//! question, so that answering is copying. No clock, no socket: `now` is an argument.

use crate::segment::{ListEncoder, Segment};
use crate::units::{Moment, SampleRate, Sequence};
use crate::wire;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// TTL of `sequence`, in seconds (protocol 1.4).
pub const LIST_TTL: u32 = 10;
/// Shortest TTL of a segment, in seconds (protocol 1.3).
pub const SEGMENT_TTL_MIN: u64 = 5;
/// How long a number is still answered after it left the list: the list's TTL, a listener's cache
/// of 4 s, and 10 retries, rounded up.
pub const RETENTION: Duration = Duration::from_secs(20);

/// One published segment: the answer section of `seq_<n>` TXT. Never changes.
#[derive(Debug)]
pub struct PublishedSegment {
    /// Its number.
    pub sequence: Sequence,
    /// The records, owner names pointing to the question.
    pub records: Box<[u8]>,
    /// How many records there are.
    pub record_count: u16,
    /// The TTL of each, in seconds.
    pub ttl: u32,
    /// Samples per channel.
    pub samples: u64,
    /// When it was published.
    pub published: Instant,
}

/// The changing part of the zone, at one instant.
#[derive(Debug)]
pub struct Snapshot {
    /// Every segment that is answered, without a gap in the numbers, oldest first: those listed,
    /// and behind them those that left the window less than [`RETENTION`] ago.
    segments: Box<[Arc<PublishedSegment>]>,
    /// Number of the oldest segment of the window; equals `next` while there is none.
    first: Sequence,
    /// Number of the segment that is published next.
    next: Sequence,
    /// The record of `sequence`; `None` before the first publication.
    list: Option<Box<[u8]>>,
    /// Numbers that the list had no room for.
    left_out: u64,
    /// Serial number of the zone (RFC 1982): ten steps a second.
    serial: u32,
    /// When the newest segment was published, or the stream began.
    changed: Instant,
    /// The longest that a segment lasts: `next` is due that much after `changed`.
    segment_duration_max: Duration,
    /// Whether `next` will never come.
    ended: bool,
}

impl Snapshot {
    /// Number of the oldest segment in the window.
    pub fn first(&self) -> Sequence {
        self.first
    }

    /// Number of the segment that is published next.
    pub fn next(&self) -> Sequence {
        self.next
    }

    /// The records of `sequence`, if anything was published yet.
    pub fn list(&self) -> Option<&[u8]> {
        self.list.as_deref()
    }

    /// How many numbers of the window the list had no room for.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// SOA serial.
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// When the newest segment was published; `None` before the first one.
    pub fn newest_published(&self) -> Option<Instant> {
        self.segments.last().map(|segment| segment.published)
    }

    /// The newest segment.
    pub fn newest(&self) -> Option<&PublishedSegment> {
        self.segments.last().map(|segment| &**segment)
    }

    /// Whether the source has ended.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// The segment with this number, if it is answered.
    pub fn segment(&self, sequence: Sequence) -> Option<&PublishedSegment> {
        let oldest = self.next - self.segments.len() as u64;
        let index = usize::try_from(sequence.checked_sub(oldest)?).ok()?;
        let segment = self.segments.get(index)?;
        debug_assert_eq!(segment.sequence, sequence);
        Some(segment)
    }

    /// The latest that the unpublished `sequence` is published; `None` when it is past, or never
    /// comes.
    pub fn due(&self, sequence: Sequence) -> Option<Instant> {
        let ahead = sequence.checked_sub(self.next)?;
        // A day ahead is as good as never, and keeps the product small.
        let ahead = u32::try_from(ahead).ok().filter(|&ahead| ahead < 864_000 && !self.ended)?;
        self.changed.checked_add(self.segment_duration_max.checked_mul(ahead + 1)?)
    }
}

/// The segments that are published now. Rotates: a new one in, the oldest out.
#[derive(Debug)]
pub struct Window {
    rate: SampleRate,
    capacity: usize,
    segment_duration_max: Duration,
    /// Those of the window, oldest first.
    listed: VecDeque<Arc<PublishedSegment>>,
    /// Those that left it, with the time when they did, oldest first.
    leaving: VecDeque<(Instant, Arc<PublishedSegment>)>,
    next: Sequence,
    /// The record of `sequence`; `None` before the first publication.
    list: Option<Box<[u8]>>,
    /// Numbers that the list had no room for.
    left_out: u64,
    list_encoder: ListEncoder,
    changed: Instant,
    serial: u32,
    ended: bool,
}

impl Window {
    /// An empty window of `capacity` segments, each of at most `segment_duration_max`, whose first
    /// segment has the number `first`.
    ///
    /// # Panics
    /// When `capacity` is 0.
    pub fn new(
        capacity: usize,
        rate: SampleRate,
        segment_duration_max: Duration,
        first: Sequence,
        now: Moment,
    ) -> Window {
        assert!(capacity > 0);
        Window {
            rate,
            capacity,
            segment_duration_max,
            listed: VecDeque::with_capacity(capacity + 1),
            leaving: VecDeque::new(),
            next: first,
            list: None,
            left_out: 0,
            list_encoder: ListEncoder::default(),
            changed: now.instant,
            serial: serial(now.unix_ms),
            ended: false,
        }
    }

    /// Publishes a segment of `samples` samples per channel under the next number, and returns it.
    pub fn publish(&mut self, segment: &Segment, samples: u64, now: Moment) -> Sequence {
        let sequence = self.next;
        let ttl = self.ttl_with(samples);
        let mut records = Vec::new();
        for string in &segment.strings {
            wire::write_txt_record(&mut records, ttl, string);
        }
        self.listed.push_back(Arc::new(PublishedSegment {
            sequence,
            records: records.into(),
            record_count: segment.strings.len() as u16,
            ttl,
            samples,
            published: now.instant,
        }));
        if self.listed.len() > self.capacity {
            self.leaving.extend(self.listed.pop_front().map(|oldest| (now.instant, oldest)));
        }
        while self.leaving.front().is_some_and(|(left, _)| now.instant - *left >= RETENTION) {
            self.leaving.pop_front();
        }
        self.next += 1;
        let (list, left_out) = self.list_encoder.encode(self.first(), sequence);
        let mut records = Vec::new();
        wire::write_txt_record(&mut records, LIST_TTL, &list);
        (self.list, self.left_out) = (Some(records.into()), left_out);
        self.changed = now.instant;
        // Never backward, whatever the wall clock does (RFC 1982 §3.2).
        let step = serial(now.unix_ms).wrapping_sub(self.serial);
        self.serial = self.serial.wrapping_add(if step < 1 << 31 { step.max(1) } else { 1 });
        sequence
    }

    /// Says that the source has ended: nothing more will be published.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Number of the oldest segment in the window; equals the next one's while there is none.
    fn first(&self) -> Sequence {
        self.next - self.listed.len() as u64
    }

    /// The real time that the window's sound lasts.
    pub fn duration(&self) -> Duration {
        self.rate.duration(self.listed.iter().map(|segment| segment.samples).sum())
    }

    /// The zone as it is now.
    pub fn snapshot(&self) -> Snapshot {
        let leaving = self.leaving.iter().map(|(_, segment)| segment);
        let segments: Box<[_]> = leaving.chain(&self.listed).cloned().collect();
        Snapshot {
            segments,
            first: self.first(),
            next: self.next,
            list: self.list.clone(),
            left_out: self.left_out,
            serial: self.serial,
            changed: self.changed,
            segment_duration_max: self.segment_duration_max,
            ended: self.ended,
        }
    }

    /// The TTL of a segment of `samples`, in seconds: 80 % of what the window will last at its full
    /// length, judged by the mean of the segments in it and this one.
    fn ttl_with(&self, samples: u64) -> u32 {
        let sum: u64 = samples + self.listed.iter().map(|segment| segment.samples).sum::<u64>();
        let segments = self.listed.len() as u128 + 1;
        let window = u128::from(sum) * self.capacity as u128 * 4;
        let seconds = window / (segments * 5 * u128::from(self.rate.hz()));
        // RFC 2181 §8: a TTL has 31 bits.
        seconds.clamp(SEGMENT_TTL_MIN.into(), i32::MAX as u128) as u32
    }
}

/// The SOA serial at a wall-clock time: ten steps a second, modulo 2^32.
fn serial(unix_ms: u64) -> u32 {
    (unix_ms / 100) as u32
}

/// The first number of a run: the wall clock in units of 100 ms, and above `last`, the last number
/// of the run before, where that is known (protocol 1.5).
pub fn first_sequence(unix_ms: u64, last: Option<Sequence>) -> Sequence {
    (unix_ms / 100).max(last.map_or(0, |last| last.saturating_add(1)))
}

/// Body of the fuzz target `window`: each octet is one publication or a step of the clocks.
#[doc(hidden)]
pub fn fuzz_window(operations: &[u8]) {
    let capacity = operations.first().map_or(1, |&octet| usize::from(octet) % 80 + 1);
    let mut now = Moment { instant: Instant::now(), unix_ms: 1 << 40 };
    let longest = Duration::from_millis(720);
    let mut window = Window::new(capacity, SampleRate::HZ_16000, longest, 7, now);
    for &operation in operations.iter().skip(1).take(400) {
        let before = window.snapshot();
        match operation % 4 {
            0 => now.instant += Duration::from_millis(u64::from(operation) * 40),
            1 => now.unix_ms = now.unix_ms.wrapping_mul(u64::from(operation)) % (1 << 50),
            _ => {
                let strings = vec![b"000'''AA".to_vec(); usize::from(operation) % 100 + 1];
                window.publish(&Segment { strings }, u64::from(operation) * 960, now);
                now.instant += Duration::from_millis(u64::from(operation));
            }
        }
        let after = window.snapshot();
        assert!(after.serial().wrapping_sub(before.serial()) < 1 << 31);
        assert!(after.next() >= before.next() && after.next() - after.first() <= capacity as u64);
        for number in after.first()..after.next() {
            let segment = after.segment(number).expect("what is listed is there");
            assert!(u64::from(segment.ttl) >= SEGMENT_TTL_MIN);
        }
        assert!(after.segment(after.next()).is_none() && after.due(after.next()).is_some());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Moment {
        Moment { instant: Instant::now(), unix_ms: 1_700_000_000_000 }
    }

    fn window(capacity: usize, now: Moment) -> Window {
        let first = first_sequence(now.unix_ms, None);
        Window::new(capacity, SampleRate::HZ_16000, Duration::from_millis(720), first, now)
    }

    fn segment(packets: usize) -> Segment {
        Segment { strings: (0..packets).map(|n| format!("{n:03}'''AA").into_bytes()).collect() }
    }

    #[test]
    fn the_ttl_is_four_fifths_of_a_full_window() {
        // Default settings: 75 segments of 12 frames of 60 ms last 54 s.
        let mut window = window(75, start());
        window.publish(&segment(12), 12 * 960, start());
        assert_eq!(window.snapshot().newest().unwrap().ttl, 43);
    }

    #[test]
    fn the_ttl_is_at_least_five_seconds_and_fits_31_bits() {
        let mut short = window(2, start());
        short.publish(&segment(1), 960, start());
        assert_eq!(short.snapshot().newest().unwrap().ttl, 5);
        let mut long = window(1_000_000, start());
        long.publish(&segment(1), u64::MAX / 2_000_000, start());
        assert_eq!(long.snapshot().newest().unwrap().ttl, i32::MAX as u32);
    }

    #[test]
    fn what_is_listed_is_there_and_what_left_stays_for_20_s() {
        let mut now = start();
        let mut window = window(3, now);
        let first = window.snapshot().next();
        for _ in 0..40 {
            window.publish(&segment(12), 12 * 960, now);
            now = now.after(Duration::from_millis(720));
        }
        let snapshot = window.snapshot();
        assert_eq!((snapshot.first(), snapshot.next()), (first + 37, first + 40));
        // 20 s are 27.8 segments: the last 28 that left are still answered, and 3 are listed.
        assert_eq!(snapshot.segments.len(), 31);
        assert!(snapshot.segment(first + 8).is_none());
        for number in first + 9..first + 40 {
            assert_eq!(snapshot.segment(number).unwrap().sequence, number);
        }
        assert!(snapshot.segment(first + 40).is_none());
    }

    #[test]
    fn a_published_segment_never_changes() {
        let mut now = start();
        let mut window = window(5, now);
        let number = window.publish(&segment(12), 12 * 960, now);
        let before = window.snapshot();
        for packets in 1..5 {
            now = now.after(Duration::from_millis(60));
            window.publish(&segment(packets), packets as u64 * 960, now);
            let after = window.snapshot();
            let (old, new) = (before.segment(number).unwrap(), after.segment(number).unwrap());
            assert_eq!((&old.records, old.ttl), (&new.records, new.ttl));
        }
    }

    #[test]
    fn numbers_and_serials_never_go_back() {
        assert_eq!(first_sequence(1_700_000_000_000, None), 17_000_000_000);
        assert_eq!(first_sequence(1_700_000_000_000, Some(17_000_000_500)), 17_000_000_501);
        assert_eq!(first_sequence(1_700_000_000_000, Some(3)), 17_000_000_000);
        let mut now = start();
        let mut window = window(5, now);
        let before = window.snapshot();
        now.unix_ms -= 3_600_000;
        window.publish(&segment(1), 960, now);
        let after = window.snapshot();
        assert_eq!(after.next(), before.next() + 1);
        assert_eq!(after.serial(), before.serial().wrapping_add(1));
    }

    #[test]
    fn the_next_segment_is_due_at_the_end_of_the_longest() {
        let now = start();
        let mut window = window(5, now);
        let number = window.publish(&segment(12), 12 * 960, now);
        let snapshot = window.snapshot();
        assert_eq!(snapshot.due(number), None);
        assert_eq!(snapshot.due(number + 1), Some(now.instant + Duration::from_millis(720)));
        assert_eq!(snapshot.due(number + 2), Some(now.instant + Duration::from_millis(1440)));
        assert_eq!(snapshot.due(u64::MAX), None);
        window.end();
        assert_eq!(window.snapshot().due(number + 1), None);
    }

    #[test]
    fn windows_of_a_thousand_list_what_fits() {
        let now = start();
        let mut window = window(1000, now);
        for _ in 0..1000 {
            window.publish(&segment(1), 960, now);
        }
        let snapshot = window.snapshot();
        assert!(snapshot.left_out() > 0 && snapshot.left_out() < 925);
        assert!(snapshot.list().unwrap().len() <= 12 + 256);
        assert!(snapshot.segment(snapshot.first()).is_some());
    }
}

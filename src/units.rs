//! Units of sound and of the stream: rates, channel counts, formats, sequence numbers, lifetimes.
//!
//! Every conversion between a count of samples and real time is here, and nowhere else. The rule
//! that holds everywhere: *samples* are counted per channel; a slice of PCM is interleaved, so its
//! length is samples × channels.

use std::fmt;
use std::time::{Duration, Instant};

/// Number of a segment (protocol: unsigned 64 bit, +1 per segment, never reused).
///
/// Not an SOA serial: it does not wrap in practice, so there is no wrap arithmetic.
pub type Sequence = u64;

/// The present, by both clocks; state machines take it as an argument and never ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The monotonic clock: what all durations are measured with.
    pub instant: Instant,
    /// The wall clock, in milliseconds since 1970; it may jump.
    pub unix_ms: u64,
}

impl Moment {
    /// The moment `time` after this one, by both clocks.
    pub fn after(self, time: Duration) -> Moment {
        let unix_ms = self.unix_ms.saturating_add(time.as_millis() as u64);
        Moment { instant: self.instant + time, unix_ms }
    }
}

/// A sample rate in hertz, 1 to 768,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SampleRate(u32);

impl SampleRate {
    /// The highest rate that any converter on the market runs at, in hertz.
    pub const HZ_MAX: u32 = 768_000;
    /// 8 kHz, telephone speech.
    pub const HZ_8000: SampleRate = SampleRate(8_000);
    /// 16 kHz, the base layer's default.
    pub const HZ_16000: SampleRate = SampleRate(16_000);
    /// 48 kHz, what sound devices like best.
    pub const HZ_48000: SampleRate = SampleRate(48_000);
    /// The rates that a stream may have (those that Opus codes), in ascending order.
    pub const STREAM_RATES: [SampleRate; 5] = [
        SampleRate(8_000),
        SampleRate(12_000),
        SampleRate(16_000),
        SampleRate(24_000),
        SampleRate(48_000),
    ];

    /// A rate of `hz` hertz, or `None` outside 1 to [`SampleRate::HZ_MAX`].
    pub fn new(hz: u32) -> Option<SampleRate> {
        (1..=Self::HZ_MAX).contains(&hz).then_some(SampleRate(hz))
    }

    /// The rate in hertz.
    pub fn hz(self) -> u32 {
        self.0
    }

    /// Whether a stream may have this rate.
    pub fn is_stream_rate(self) -> bool {
        Self::STREAM_RATES.contains(&self)
    }

    /// The real time that `samples` (per channel) last, rounded down to the nanosecond.
    pub fn duration(self, samples: u64) -> Duration {
        let hz = u64::from(self.0);
        let nanos = samples % hz * 1_000_000_000 / hz;
        Duration::new(samples / hz, nanos as u32)
    }

    /// The samples (per channel) that `time` lasts, rounded down; saturates.
    pub fn samples(self, time: Duration) -> u64 {
        let samples = time.as_nanos().saturating_mul(u128::from(self.0)) / 1_000_000_000;
        u64::try_from(samples).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for SampleRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} Hz", self.0)
    }
}

/// A stream's number of channels: 1 or 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Channels(u8);

impl Channels {
    /// One channel.
    pub const MONO: Channels = Channels(1);
    /// Two channels, left first.
    pub const STEREO: Channels = Channels(2);

    /// `count` channels, or `None` when that is neither 1 nor 2.
    pub fn new(count: u16) -> Option<Channels> {
        match count {
            1 => Some(Self::MONO),
            2 => Some(Self::STEREO),
            _ => None,
        }
    }

    /// The number of channels.
    pub fn count(self) -> usize {
        usize::from(self.0)
    }
}

/// The shape of PCM: 16-bit signed samples at a rate, interleaved over channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Format {
    /// Samples per second and channel.
    pub rate: SampleRate,
    /// Channels, interleaved.
    pub channels: Channels,
}

impl Format {
    /// A format of `rate` and `channels`.
    pub fn new(rate: SampleRate, channels: Channels) -> Format {
        Format { rate, channels }
    }

    /// The real time that interleaved PCM of length `len` lasts.
    pub fn duration_of(self, len: usize) -> Duration {
        self.rate.duration((len / self.channels.count()) as u64)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let channels = if self.channels == Channels::MONO { "mono" } else { "stereo" };
        write!(f, "{} {channels}", self.rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_bounded_on_both_sides() {
        assert_eq!(SampleRate::new(0), None);
        assert_eq!(SampleRate::new(1).map(SampleRate::hz), Some(1));
        assert_eq!(SampleRate::new(768_000).map(SampleRate::hz), Some(768_000));
        assert_eq!(SampleRate::new(768_001), None);
        assert!(!SampleRate(44_100).is_stream_rate());
        assert!(SampleRate(12_000).is_stream_rate());
    }

    #[test]
    fn a_frame_of_960_samples_at_16_khz_lasts_60_ms() {
        assert_eq!(SampleRate::HZ_16000.duration(960), Duration::from_millis(60));
        assert_eq!(SampleRate::HZ_16000.samples(Duration::from_millis(60)), 960);
    }

    #[test]
    fn long_runs_neither_overflow_nor_drift() {
        // 100 years at 48 kHz, where a product of samples and nanoseconds would overflow 64 bits.
        let samples = 48_000u64 * 60 * 60 * 24 * 36_500;
        let time = SampleRate::HZ_48000.duration(samples);
        assert_eq!(time, Duration::from_secs(60 * 60 * 24 * 36_500));
        assert_eq!(SampleRate::HZ_48000.samples(time), samples);
        assert_eq!(SampleRate::HZ_48000.samples(Duration::MAX), u64::MAX);
    }

    #[test]
    fn channels_are_one_or_two() {
        assert_eq!(Channels::new(0), None);
        assert_eq!(Channels::new(1), Some(Channels::MONO));
        assert_eq!(Channels::new(2).map(Channels::count), Some(2));
        assert_eq!(Channels::new(3), None);
    }

    #[test]
    fn interleaved_length_counts_both_channels() {
        let format = Format::new(SampleRate::HZ_8000, Channels::STEREO);
        assert_eq!(format.duration_of(16_000), Duration::from_secs(1));
    }
}

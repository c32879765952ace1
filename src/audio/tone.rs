//! A sine tone, 12 dB below full scale, that keeps its phase for as long as it runs.
//!
//! The phase is the integer *hz* × *n* modulo the rate, so that sample *n* is the same after a week
//! as after a second.

use super::{AudioError, Source};
use crate::units::Format;
use std::f64::consts::TAU;
use std::time::Duration;

/// −12 dBFS: 32,768 × 10^(−12 ÷ 20).
const AMPLITUDE: f64 = 8_231.0;

/// The time over which the tone rises from silence, so that it does not click.
const FADE_IN: Duration = Duration::from_millis(20);

/// An endless sine tone on all channels.
#[derive(Clone, Debug)]
pub struct ToneSource {
    hz: u32,
    rate_hz: u32,
    channels: usize,
    /// hz × n modulo rate.
    phase: u32,
    faded_in_samples: u64,
    fade_in_samples: u64,
}

impl ToneSource {
    /// The lowest tone, in hertz.
    pub const HZ_MIN: u32 = 1;
    /// The highest tone, in hertz: half of the highest rate that a stream may have.
    pub const HZ_MAX: u32 = 24_000;

    /// A tone of `hz` hertz; whether the stream's rate can carry it is found out by opening.
    pub fn new(hz: u32) -> ToneSource {
        ToneSource {
            hz,
            rate_hz: 0,
            channels: 1,
            phase: 0,
            faded_in_samples: 0,
            fade_in_samples: 0,
        }
    }
}

impl Source for ToneSource {
    fn open(&mut self, format: Format, _frame_samples: usize) -> Result<(), AudioError> {
        let rate_hz = format.rate.hz();
        if self.hz < Self::HZ_MIN || u64::from(self.hz) * 2 >= u64::from(rate_hz) {
            return Err(AudioError::failed(
                format!("play a tone of {} Hz", self.hz),
                format_args!(
                    "a stream at {} carries tones of {} to {} Hz",
                    format.rate,
                    Self::HZ_MIN,
                    rate_hz.saturating_sub(1) / 2
                ),
            ));
        }
        self.rate_hz = rate_hz;
        self.channels = format.channels.count();
        (self.phase, self.faded_in_samples) = (0, 0);
        self.fade_in_samples = format.rate.samples(FADE_IN);
        Ok(())
    }

    fn read(&mut self, pcm: &mut [i16]) -> Result<usize, AudioError> {
        debug_assert!(self.rate_hz > 0, "read comes after open");
        for sample in pcm.chunks_mut(self.channels) {
            let turn = f64::from(self.phase) / f64::from(self.rate_hz);
            let mut value = AMPLITUDE * (TAU * turn).sin();
            if self.faded_in_samples < self.fade_in_samples {
                value *= self.faded_in_samples as f64 / self.fade_in_samples as f64;
                self.faded_in_samples += 1;
            }
            sample.fill(value.round() as i16);
            // Both are below 768,000, so the sum fits.
            self.phase = (self.phase + self.hz) % self.rate_hz;
        }
        Ok(pcm.len())
    }

    fn has_clock(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{Channels, SampleRate};

    fn open(hz: u32, format: Format) -> ToneSource {
        let mut source = ToneSource::new(hz);
        source.open(format, 960).expect("the rate carries the tone");
        source
    }

    const FORMAT: Format = Format { rate: SampleRate::HZ_16000, channels: Channels::STEREO };

    #[test]
    fn the_tone_has_its_frequency_level_and_no_click() {
        let mut source = open(1_000, FORMAT);
        let mut pcm = vec![0; 32_000];
        assert_eq!(source.read(&mut pcm).expect("reads"), 32_000);
        assert!(pcm.chunks(2).all(|pair| pair[0] == pair[1]));
        let left: Vec<i16> = pcm.iter().step_by(2).copied().collect();
        let rises = left.windows(2).filter(|w| w[0] < 0 && w[1] >= 0).count();
        assert!((998..=1_000).contains(&rises), "{rises}");
        assert_eq!(left.iter().max(), Some(&8_231));
        assert!(left[..16].iter().all(|s| s.abs() < 600));
        assert!(!source.has_clock());
    }

    #[test]
    fn the_phase_is_exact_for_ever() {
        let mut source = open(7_999, FORMAT);
        let mut second = vec![0; 32_000];
        source.read(&mut second).expect("reads");
        let phase = source.phase;
        source.read(&mut second).expect("reads");
        let earlier = second.clone();
        source.read(&mut second).expect("reads");
        assert_eq!(source.phase, phase);
        assert_eq!(second, earlier);
    }

    #[test]
    fn a_rate_that_cannot_carry_the_tone_is_refused() {
        let error = ToneSource::new(8_000).open(FORMAT, 960).expect_err("at Nyquist");
        assert_eq!(
            error.to_string(),
            "cannot play a tone of 8000 Hz: a stream at 16000 Hz carries tones of 1 to 7999 Hz"
        );
        assert!(ToneSource::new(0).open(FORMAT, 960).is_err());
        assert!(ToneSource::new(u32::MAX).open(FORMAT, 960).is_err());
    }
}

//! Sample rate conversion of interleaved `i16` PCM, with a ratio that can be steered while it runs.
//!
//! A windowed-sinc filter (Kaiser window, stop band 90 dB down) is tabulated at a number of phases;
//! between two of them it is interpolated linearly. The pass band reaches to 0.9 of the lower of
//! the two Nyquist frequencies, the stop band begins at that frequency. Where both rates are the same
//! it begins as far beyond: mirror images of the highest tenth lie in it again, where they cannot be
//! told from it, and the filter is half as long and at whole samples a copy. The position in the input
//! is a fraction of integers, so a conversion that runs for years is as exact as one of a second.
//! No clock, no I/O; the filter works in `f32` and rounds once, at the end.
//!
//! Output sample *k* stands for the same instant as input sample *k* × from ÷ to: nothing is
//! shifted, but the filter has to see [`Resampler::delay_samples`] samples of the future first.
//!
//! Sources: J. O. Smith, "Digital Audio Resampling", ccrma.stanford.edu/~jos/resample; J. F. Kaiser's
//! formulas for the window's shape and length.

use crate::units::{Channels, SampleRate};
use std::f64::consts::PI;

/// The largest correction of the ratio, in parts per million, either way: 17 hundredths of a semitone.
pub const CORRECTION_PPM_MAX: f64 = 10_000.0;

/// How fast a new correction is approached, in parts per million per second of output.
const CORRECTION_PPM_PER_SECOND: f64 = 1_000.0;

/// Output samples between two steps of a correction on its way.
const CORRECTION_STEP_SAMPLES: u32 = 64;

/// How long it takes to fade between the copy and the filter, in seconds.
const BLEND_SECONDS: f32 = 0.02;

/// How long it takes at most to bring the output back to whole input samples, in seconds.
const HOMING_SECONDS: f64 = 0.5;

/// Converts interleaved PCM from one sample rate to another.
///
/// While both rates are equal and there is no correction, it copies, bit by bit and without delay.
/// A correction fades over from the copy to the filter, and fades back once it has ended and the
/// output lies on whole input samples again: neither is heard. With the filter the output lags by
/// [`Resampler::delay_samples`], which come at once when it is left.
#[derive(Clone, Debug)]
pub struct Resampler {
    channels: usize,
    to: SampleRate,
    phase: Phase,
    /// `None` until there is anything to filter.
    filter: Option<Filter>,
    /// Whether the input is copied.
    copying: bool,
    /// How much of the copy is in the output while filtering, 0 to 1; more than none only while the
    /// output lies on whole input samples.
    blend: f32,
    /// The recent input by channel. While filtering, the next output's window begins at `start`;
    /// while copying, it holds just what a filter that begins now would need of the past.
    history: [Vec<f32>; 2],
    start: usize,
    correction_ppm: f64,
    correction_ppm_target: f64,
    /// Output samples until the correction takes its next step.
    correction_countdown: u32,
}

impl Resampler {
    /// A resampler of `channels` from rate `from` to rate `to`.
    ///
    /// Beyond a ratio of 128 to 1 downwards the filter stays as long as for 128, and lets through
    /// part of what it should stop.
    pub fn new(channels: Channels, from: SampleRate, to: SampleRate) -> Resampler {
        let phase = Phase::new(from, to);
        let filter = (from != to).then(|| Filter::new(&phase));
        let mut resampler = Resampler {
            channels: channels.count(),
            to,
            phase,
            copying: filter.is_none(),
            filter,
            blend: 0.0,
            history: [Vec::new(), Vec::new()],
            start: 0,
            correction_ppm: 0.0,
            correction_ppm_target: 0.0,
            correction_countdown: CORRECTION_STEP_SAMPLES,
        };
        resampler.forget();
        resampler
    }

    /// Changes the ratio by `ppm` parts per million: positive takes the input faster, so that less
    /// comes out; negative takes it slower. Clamped to [`CORRECTION_PPM_MAX`]; approached by
    /// 1000 ppm per second of output, so that no step of pitch is heard.
    pub fn set_correction(&mut self, ppm: f64) {
        let ppm = if ppm.is_nan() { 0.0 } else { ppm };
        self.correction_ppm_target = ppm.clamp(-CORRECTION_PPM_MAX, CORRECTION_PPM_MAX);
        if self.copying && self.correction_ppm_target != 0.0 {
            // What was copied so far ends at the instant where the filter goes on, and the history
            // holds its past: the first filtered sample continues the last copied one.
            self.filter.get_or_insert_with(|| Filter::new(&self.phase));
            self.copying = false;
            self.blend = 1.0;
            self.start = 0;
        }
    }

    /// The correction that is in effect now, in parts per million.
    pub fn correction_ppm(&self) -> f64 {
        self.correction_ppm
    }

    /// Whether the output is a plain copy of the input.
    pub fn is_bypass(&self) -> bool {
        self.copying
    }

    /// Input samples (per channel) that the filter must have seen beyond the instant it puts out;
    /// 0 while it copies.
    pub fn delay_samples(&self) -> usize {
        self.filter.as_ref().filter(|_| !self.copying).map_or(0, |filter| filter.half)
    }

    /// Takes `input` (interleaved, whole samples) and appends what can be told of the output to
    /// `out` (interleaved).
    ///
    /// # Panics
    /// When `input` is not a whole number of samples of all channels.
    pub fn process(&mut self, input: &[i16], out: &mut Vec<i16>) {
        assert_eq!(input.len() % self.channels, 0, "input must be whole samples");
        if self.copying {
            let keep = past_samples(Filter::SAME_RATE_HALF_TAPS);
            let recent = input.len().min(keep * self.channels);
            self.remember(&input[input.len() - recent..]);
            self.keep_past();
            out.extend_from_slice(input);
        } else {
            self.remember(input);
            self.filter_history(out);
        }
    }

    /// Appends what the end of the input leaves to tell to `out` and begins anew, with silence for
    /// a past. All in all, *n* input samples make ⌈*n* × to ÷ from⌉ output samples when there is no
    /// correction.
    pub fn flush(&mut self, out: &mut Vec<i16>) {
        if let Some(filter) = self.filter.as_ref().filter(|_| !self.copying) {
            for history in &mut self.history[..self.channels] {
                history.resize(history.len() + filter.half, 0.0);
            }
            self.filter_history(out);
        }
        self.forget();
    }

    /// Drops all of the history but what a filter that begins now needs of the past.
    fn keep_past(&mut self) {
        let keep = past_samples(Filter::SAME_RATE_HALF_TAPS);
        for history in &mut self.history[..self.channels] {
            history.drain(..history.len() - keep);
        }
    }

    fn remember(&mut self, input: &[i16]) {
        if self.channels == 1 {
            self.history[0].extend(input.iter().map(|&sample| f32::from(sample)));
        } else {
            let [left, right] = &mut self.history;
            left.extend(input.chunks_exact(2).map(|pair| f32::from(pair[0])));
            right.extend(input.chunks_exact(2).map(|pair| f32::from(pair[1])));
        }
    }

    fn forget(&mut self) {
        let half = self.filter.as_ref().map_or(Filter::SAME_RATE_HALF_TAPS, |filter| filter.half);
        for history in &mut self.history[..self.channels] {
            history.clear();
            history.resize(past_samples(half), 0.0);
        }
        self.start = 0;
        self.phase.part = 0;
        // Nothing is left that the next sound would have to be continued from.
        self.copying = self.phase.ratio == (1, 1) && self.correction_ppm_target == 0.0;
        self.blend = 0.0;
        if self.copying {
            self.correction_ppm = 0.0;
            self.phase.correct(0.0);
        }
    }

    fn filter_history(&mut self, out: &mut Vec<i16>) {
        let Some(width) = self.filter.as_ref().map(|filter| filter.half * 2) else { return };
        let available = self.history[0].len();
        while self.start + width <= available {
            let Some(filter) = &self.filter else { return };
            let (row, weight) = filter.locate(self.phase.part);
            let window = self.start..self.start + width;
            for history in &self.history[..self.channels] {
                let mut value = if weight == 0.0 {
                    dot(filter.row(row), &history[window.clone()])
                } else {
                    let rows = [filter.row(row), filter.row(row + 1)];
                    dot_between(rows, weight, &history[window.clone()])
                };
                if self.blend > 0.0 {
                    value +=
                        self.blend * (history[window.start + past_samples(filter.half)] - value);
                }
                out.push(round(value));
            }
            self.start += self.phase.advance();
            if self.correction_ppm == 0.0 && self.phase.ratio == (1, 1) && self.fade_over(out) {
                return;
            }
            self.correct();
        }
        // The next window may begin beyond what has arrived, when many inputs make one output.
        let spent = self.start.min(available);
        for history in &mut self.history[..self.channels] {
            history.drain(..spent);
        }
        self.start -= spent;
    }
}

impl Resampler {
    /// Between two output samples without a correction: fades between the copy and the filter.
    /// Returns whether the rest of the history was copied to `out`, and the filter is left.
    fn fade_over(&mut self, out: &mut Vec<i16>) -> bool {
        let step = 1.0 / (BLEND_SECONDS * self.to.hz() as f32).max(1.0);
        if self.correction_ppm_target != 0.0 {
            self.blend = (self.blend - step).max(0.0);
            return false;
        }
        if self.phase.part != 0 {
            self.start += self.phase.home((HOMING_SECONDS * f64::from(self.to.hz())) as u64);
            return false;
        }
        self.blend += step;
        let half = self.filter.as_ref().map_or(0, |filter| filter.half);
        if self.blend < 1.0 || self.start + past_samples(half) > self.history[0].len() {
            return false;
        }
        let from = self.start + past_samples(half);
        for index in from..self.history[0].len() {
            out.extend(self.history[..self.channels].iter().map(|history| round(history[index])));
        }
        (self.copying, self.blend, self.start) = (true, 0.0, 0);
        self.keep_past();
        true
    }

    /// Between two output samples: brings the correction nearer to what was asked for.
    fn correct(&mut self) {
        self.correction_countdown -= 1;
        if self.correction_countdown > 0 {
            return;
        }
        self.correction_countdown = CORRECTION_STEP_SAMPLES;
        if self.correction_ppm == self.correction_ppm_target || self.blend > 0.0 {
            return;
        }
        let step_max = CORRECTION_PPM_PER_SECOND * f64::from(CORRECTION_STEP_SAMPLES)
            / f64::from(self.to.hz());
        let missing = self.correction_ppm_target - self.correction_ppm;
        self.correction_ppm = if missing.abs() <= step_max {
            self.correction_ppm_target
        } else {
            self.correction_ppm + step_max.copysign(missing)
        };
        self.phase.correct(self.correction_ppm);
    }
}

/// Samples before the current one that a window of `half` taps on either side needs.
fn past_samples(half: usize) -> usize {
    half - 1
}

/// Rounds to the nearest `i16`, halves away from zero, and clips.
fn round(value: f32) -> i16 {
    (value + 0.5f32.copysign(value)) as i16
}

/// The sum of products of a window and taps that lie between two rows, by `weight` towards the second.
/// Both rows at once, as each addition waits for the one before it; four running sums each, which
/// compilers turn into vector instructions everywhere.
fn dot_between(rows: [&[f32]; 2], weight: f32, window: &[f32]) -> f32 {
    let (mut below, mut above) = ([0.0f32; 4], [0.0f32; 4]);
    let taps = rows[0].chunks_exact(4).zip(rows[1].chunks_exact(4));
    for ((low, high), window) in taps.zip(window.chunks_exact(4)) {
        for i in 0..4 {
            below[i] += low[i] * window[i];
        }
        for i in 0..4 {
            above[i] += high[i] * window[i];
        }
    }
    for i in 0..4 {
        below[i] += weight * (above[i] - below[i]);
    }
    below.iter().sum()
}

/// The sum of products of one row: as [`dot_between`], with twice as many running sums.
fn dot(taps: &[f32], window: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    for (taps, window) in taps.chunks_exact(8).zip(window.chunks_exact(8)) {
        for i in 0..8 {
            sums[i] += taps[i] * window[i];
        }
    }
    sums.iter().sum()
}

/// Where between two input samples the next output lies, as an exact fraction.
///
/// One input sample is divided into `unit` = L × 2⁴⁰ parts, where from ÷ to = M ÷ L in lowest
/// terms. Without correction a step is exactly M × 2⁴⁰ parts, and the sum of any number of steps
/// is exact; a correction changes it by whole parts, that is by less than 10⁻⁹ ppm at a time.
#[derive(Clone, Debug)]
struct Phase {
    /// M and L.
    ratio: (u64, u64),
    unit: u64,
    part: u64,
    step_whole: usize,
    step_part: u64,
}

impl Phase {
    /// L is at most 768,000 < 2²⁰, so L × 2⁴⁰ and M × 2⁴⁰ stay below 2⁶⁰.
    const PART_BITS: u32 = 40;

    fn new(from: SampleRate, to: SampleRate) -> Phase {
        let (from, to) = (u64::from(from.hz()), u64::from(to.hz()));
        let divisor = gcd(from, to);
        let ratio = (from / divisor, to / divisor);
        let unit = ratio.1 << Self::PART_BITS;
        let mut phase = Phase { ratio, unit, part: 0, step_whole: 0, step_part: 0 };
        phase.correct(0.0);
        phase
    }

    fn correct(&mut self, ppm: f64) {
        let step = self.ratio.0 << Self::PART_BITS;
        let step = step.saturating_add_signed((step as f64 * ppm * 1e-6) as i64);
        self.step_whole = (step / self.unit) as usize;
        self.step_part = step % self.unit;
    }

    /// Moves towards the nearest whole input sample, by as much as brings it there within `samples`
    /// steps from wherever it may be; returns the whole input samples that were passed.
    fn home(&mut self, samples: u64) -> usize {
        let step = (self.unit / (2 * samples).max(1)).max(1);
        if self.part > self.unit / 2 {
            self.part += step.min(self.unit - self.part);
            if self.part == self.unit {
                self.part = 0;
                return 1;
            }
        } else {
            self.part -= step.min(self.part);
        }
        0
    }

    /// Moves on by one output sample and returns the whole input samples that were passed.
    fn advance(&mut self) -> usize {
        self.part += self.step_part;
        if self.part < self.unit {
            return self.step_whole;
        }
        self.part -= self.unit;
        self.step_whole + 1
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The filter's table: `rows` + 1 rows of 2 × `half` taps, for the phases 0 to 1 of a sample.
#[derive(Clone, Debug)]
struct Filter {
    half: usize,
    rows: usize,
    /// Rows per part of [`Phase`]; exact wherever the phases of the uncorrected ratio are rows.
    rows_per_part: f64,
    taps: Vec<f32>,
}

impl Filter {
    /// Taps on either side of the current sample at a ratio of 1, from Kaiser's formula for 90 dB
    /// over a transition from 0.9 to 1.0 of Nyquist: (90 − 7.95) ÷ (2.285 × 0.1 π) ÷ 2, rounded up.
    const HALF_TAPS: f64 = 58.0;
    /// The same over a transition twice as wide, from 0.9 to 1.1 of Nyquist, as a multiple of 4.
    const SAME_RATE_HALF_TAPS: usize = 32;
    /// Kaiser's formula for 90 dB: 0.1102 × (90 − 8.7).
    const BETA: f64 = 8.96;
    /// Middle of the transition, in Nyquist frequencies.
    const CUTOFF: f64 = 0.95;
    /// Linear interpolation between phases 1/256 apart errs by (π ÷ 256)² ÷ 8, 94 dB down.
    const ROWS: f64 = 256.0;
    /// Downward ratio at which the filter stops growing.
    const RATIO_MAX: f64 = 128.0;
    /// Taps of a table that holds every phase of the ratio, 1 MiB; beyond it, interpolate.
    const EXACT_TAPS_MAX: u64 = 1 << 18;

    fn half_taps(ratio: f64) -> usize {
        ((Self::HALF_TAPS * ratio).ceil() as usize).next_multiple_of(4)
    }

    fn new(phase: &Phase) -> Filter {
        let (m, l) = phase.ratio;
        let ratio = (m as f64 / l as f64).clamp(1.0, Self::RATIO_MAX);
        let same = phase.ratio == (1, 1);
        let half = if same { Self::SAME_RATE_HALF_TAPS } else { Self::half_taps(ratio) };
        let rows_min = (Self::ROWS / ratio).ceil() as u64;
        let rows = rows_min.next_multiple_of(l);
        let (rows, rows_per_part) = if rows * 2 * half as u64 <= Self::EXACT_TAPS_MAX {
            // A power of two times a small integer: on the grid, the product is an exact integer.
            (rows as usize, (rows / l) as f64 / (1u64 << Phase::PART_BITS) as f64)
        } else {
            (rows_min as usize, rows_min as f64 / phase.unit as f64)
        };
        let mut taps = Vec::with_capacity((rows + 1) * 2 * half);
        let mut row_taps = Vec::with_capacity(2 * half);
        let cutoff = if same { 1.0 } else { Self::CUTOFF / ratio };
        for row in 0..=rows {
            let fraction = row as f64 / rows as f64;
            row_taps.clear();
            row_taps.extend((0..2 * half).map(|tap| {
                let distance = fraction + past_samples(half) as f64 - tap as f64;
                sinc(cutoff * distance) * kaiser(distance / half as f64, Self::BETA)
            }));
            // Each phase passes silence and a constant alike: otherwise a constant would hum.
            let sum: f64 = row_taps.iter().sum();
            taps.extend(row_taps.iter().map(|tap| (tap / sum) as f32));
        }
        Filter { half, rows, rows_per_part, taps }
    }

    /// The row at or below a phase, and the weight of the row above it.
    fn locate(&self, part: u64) -> (usize, f32) {
        // Both are below 2⁶³: processors convert signed numbers in one instruction.
        let position = part as i64 as f64 * self.rows_per_part;
        let row = position as i64 as usize;
        // A phase just below 1 can round up to it; the last row has none above.
        if row >= self.rows { (self.rows, 0.0) } else { (row, (position - row as f64) as f32) }
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.taps[row * 2 * self.half..(row + 1) * 2 * self.half]
    }
}

fn sinc(x: f64) -> f64 {
    if x.abs() < 1e-9 { 1.0 } else { (PI * x).sin() / (PI * x) }
}

/// The Kaiser window over −1 to 1.
fn kaiser(x: f64, beta: f64) -> f64 {
    let inside = 1.0 - x * x;
    if inside < 0.0 { 0.0 } else { bessel_i0(beta * inside.sqrt()) / bessel_i0(beta) }
}

/// The modified Bessel function of the first kind and order 0, by its power series.
fn bessel_i0(x: f64) -> f64 {
    let (mut sum, mut term) = (1.0, 1.0);
    for k in 1..60 {
        term *= (x / 2.0 / f64::from(k)).powi(2);
        sum += term;
        if term < sum * 1e-12 {
            break;
        }
    }
    sum
}

/// Samples by which a corrected sound may be longer than it was: the filter's length.
const FUZZ_TAIL: u64 = 128;

/// Exercises a resampler with operations: rates and channels first, then pieces of input,
/// corrections and ends. The body of a fuzz target.
///
/// # Panics
/// When more or less comes out than the rates allow, or a copy is not one.
#[doc(hidden)]
pub fn fuzz_resampler(octets: &[u8]) {
    let Some((head, operations)) = octets.split_first_chunk::<7>() else { return };
    let rate = |three: &[u8]| {
        let number = three.iter().fold(0, |sum, &octet| sum << 8 | u32::from(octet));
        SampleRate::new(number).unwrap_or(SampleRate::HZ_48000)
    };
    let channels = if head[6] % 2 == 0 { Channels::MONO } else { Channels::STEREO };
    let (from, to) = (rate(&head[..3]), rate(&head[3..6]));
    let mut resampler = Resampler::new(channels, from, to);
    let (mut taken, mut given, mut exact) = (0u64, 0u64, true);
    let mut out = Vec::new();
    for operation in operations.chunks_exact(2).take(32) {
        let [what, argument] = [operation[0], operation[1]];
        out.clear();
        match what % 4 {
            0 => {
                resampler.set_correction((f64::from(argument) - 128.0) * 100.0);
                exact = false;
            }
            1 => {
                resampler.flush(&mut out);
                given += (out.len() / channels.count()) as u64;
                let expected = (u128::from(taken) * u128::from(to.hz()))
                    .div_ceil(u128::from(from.hz())) as u64;
                // One in a hundred is the largest correction; and what begins or ends while the
                // filter goes in or out of the way has some of its tail.
                let off = if exact { 0 } else { expected / 99 + 2 + FUZZ_TAIL };
                assert!(given.abs_diff(expected) <= off, "{taken} made {given}, not {expected}");
                (taken, given) = (0, 0);
                exact = resampler.correction_ppm() == 0.0 && exact;
            }
            _ => {
                // A piece makes at most some thousands of samples, as the callers see to.
                let most = 4_000 * u64::from(from.hz()) / u64::from(to.hz()) + 1;
                let samples = (u64::from(argument) * 16).min(most) as usize * channels.count();
                let value = i16::from_be_bytes([what, argument]);
                let input: Vec<i16> = (0..samples)
                    .map(|at| if at % 3 == 0 { value } else { i16::MIN + at as i16 })
                    .collect();
                let copies = resampler.is_bypass();
                resampler.process(&input, &mut out);
                assert!(!copies || out == input, "a copy is exact");
                assert_eq!(out.len() % channels.count(), 0, "whole samples");
                taken += (samples / channels.count()) as u64;
                given += (out.len() / channels.count()) as u64;
            }
        }
        assert!(resampler.correction_ppm().abs() <= CORRECTION_PPM_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(hz: u32) -> SampleRate {
        SampleRate::new(hz).expect("a rate")
    }

    fn tone(hz: f64, rate_hz: u32, amplitude: f64, samples: usize) -> Vec<i16> {
        let step = 2.0 * PI * hz / f64::from(rate_hz);
        (0..samples).map(|n| (amplitude * (step * n as f64).sin()).round() as i16).collect()
    }

    fn convert(from: u32, to: u32, input: &[i16]) -> Vec<i16> {
        let mut resampler = Resampler::new(Channels::MONO, rate(from), rate(to));
        let mut out = Vec::new();
        resampler.process(input, &mut out);
        resampler.flush(&mut out);
        out
    }

    /// Least-squares fit of a sine of known frequency; returns (amplitude, residue in dB below it).
    fn fit(pcm: &[i16], hz: f64, rate_hz: u32) -> (f64, f64) {
        let step = 2.0 * PI * hz / f64::from(rate_hz);
        let (mut ss, mut cc, mut sc, mut ys, mut yc) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for (n, &sample) in pcm.iter().enumerate() {
            let (s, c) = (step * n as f64).sin_cos();
            let y = f64::from(sample);
            ss += s * s;
            cc += c * c;
            sc += s * c;
            ys += y * s;
            yc += y * c;
        }
        let determinant = ss * cc - sc * sc;
        let a = (ys * cc - yc * sc) / determinant;
        let b = (yc * ss - ys * sc) / determinant;
        let mut residue = 0.0;
        for (n, &sample) in pcm.iter().enumerate() {
            let (s, c) = (step * n as f64).sin_cos();
            residue += (f64::from(sample) - a * s - b * c).powi(2);
        }
        let amplitude = a.hypot(b);
        let signal = amplitude * amplitude / 2.0 * pcm.len() as f64;
        (amplitude, 10.0 * (signal / residue).log10())
    }

    fn middle(pcm: &[i16]) -> &[i16] {
        &pcm[pcm.len() / 10..pcm.len() * 9 / 10]
    }

    const PAIRS: [(u32, u32); 9] = [
        (44_100, 16_000),
        (48_000, 16_000),
        (8_000, 48_000),
        (11_025, 24_000),
        (96_000, 16_000),
        (44_100, 48_000),
        (48_000, 44_100),
        (22_050, 8_000),
        (44_101, 16_000),
    ];

    #[test]
    fn a_tone_of_1_khz_keeps_80_db() {
        for (from, to) in PAIRS {
            let out = convert(from, to, &tone(1_000.0, from, 16_000.0, from as usize / 2));
            let (amplitude, snr_db) = fit(middle(&out), 1_000.0, to);
            assert!((amplitude / 16_000.0 - 1.0).abs() < 1e-3, "{from} to {to}: {amplitude}");
            assert!(snr_db > 85.0, "{from} to {to}: {snr_db} dB");
        }
    }

    #[test]
    fn the_pass_band_reaches_0_9_of_nyquist() {
        for (from, to) in PAIRS {
            let hz = f64::from(from.min(to)) / 2.0 * 0.9;
            let out = convert(from, to, &tone(hz, from, 16_000.0, from as usize / 2));
            let (amplitude, snr_db) = fit(middle(&out), hz, to);
            assert!((20.0 * (amplitude / 16_000.0).log10()).abs() < 0.05, "{from} to {to}");
            assert!(snr_db > 80.0, "{from} to {to}: {snr_db} dB");
        }
    }

    #[test]
    fn a_tone_above_nyquist_is_80_db_down() {
        for (from, to) in PAIRS.into_iter().filter(|(from, to)| from > to) {
            for over_nyquist in [1.005, 1.05, 1.2] {
                let hz = f64::from(to) / 2.0 * over_nyquist;
                if hz >= f64::from(from) / 2.0 {
                    continue;
                }
                let out = convert(from, to, &tone(hz, from, 32_000.0, from as usize / 2));
                let peak = middle(&out).iter().map(|s| s.unsigned_abs()).max().unwrap_or(0);
                assert!(peak <= 3, "{from} to {to}, {hz} Hz: {peak}");
            }
        }
    }

    #[test]
    fn equal_rates_copy_without_delay() {
        let mut resampler = Resampler::new(Channels::STEREO, rate(16_000), rate(16_000));
        let input: Vec<i16> = (0..2_000).map(|n| (n * 37 % 65_536 - 32_768) as i16).collect();
        let mut out = Vec::new();
        resampler.set_correction(0.0);
        resampler.process(&input[..2], &mut out);
        resampler.process(&[], &mut out);
        resampler.process(&input[2..], &mut out);
        resampler.flush(&mut out);
        assert_eq!(out, input);
        assert!(resampler.is_bypass());
        assert_eq!(resampler.delay_samples(), 0);
    }

    #[test]
    fn pieces_of_any_size_make_the_same_output() {
        let input = tone(700.0, 44_100, 20_000.0, 10_000);
        let whole = convert(44_100, 16_000, &input);
        assert_eq!(whole.len(), (10_000 * 16_000usize).div_ceil(44_100));
        let mut resampler = Resampler::new(Channels::MONO, rate(44_100), rate(16_000));
        let (mut out, mut rest, mut size) = (Vec::new(), &input[..], 1);
        while !rest.is_empty() {
            let (piece, later) = rest.split_at(size.min(rest.len()));
            resampler.process(piece, &mut out);
            rest = later;
            size = size * 7 % 411;
        }
        resampler.flush(&mut out);
        assert_eq!(out, whole);
        // After a flush it begins anew.
        let mut again = Vec::new();
        resampler.process(&input, &mut again);
        resampler.flush(&mut again);
        assert_eq!(again, whole);
    }

    #[test]
    fn channels_stay_apart() {
        let left = tone(500.0, 48_000, 9_000.0, 4_800);
        let stereo: Vec<i16> = left.iter().flat_map(|&sample| [sample, -sample]).collect();
        let mut resampler = Resampler::new(Channels::STEREO, rate(48_000), rate(16_000));
        let mut out = Vec::new();
        resampler.process(&stereo, &mut out);
        resampler.flush(&mut out);
        let mono = convert(48_000, 16_000, &left);
        assert_eq!(out.len(), mono.len() * 2);
        assert!(out.chunks(2).zip(&mono).all(|(pair, &mono)| pair[0] == mono && pair[1] == -mono));
    }

    #[test]
    fn full_scale_clips_instead_of_wrapping() {
        let square: Vec<i16> =
            (0..4_000).map(|n| if n / 40 % 2 == 0 { i16::MAX } else { i16::MIN }).collect();
        let out = convert(16_000, 48_000, &square);
        assert!(out.contains(&i16::MAX) && out.contains(&i16::MIN));
        let steps = out.windows(2).map(|w| (i32::from(w[1]) - i32::from(w[0])).abs());
        assert!(steps.max().unwrap_or(0) < 40_000, "wrapping would step by 65,535");
    }

    #[test]
    fn a_day_of_positions_is_exact() {
        for (from, to) in PAIRS {
            let mut phase = Phase::new(rate(from), rate(to));
            let mut whole = 0u64;
            let count = 1_000_000u64;
            for _ in 0..count {
                whole += phase.advance() as u64;
            }
            assert_eq!(whole, count * u64::from(from) / u64::from(to));
            // One more second, n seconds later: `to` steps pass exactly `from` samples and end on
            // the same phase, so a day of them is exact as well.
            let part = phase.part;
            for _ in 0..2 {
                let second: u64 = (0..to).map(|_| phase.advance() as u64).sum();
                assert_eq!((second, phase.part), (u64::from(from), part));
            }
        }
    }

    #[test]
    fn a_day_without_input_and_output_left_over() {
        // 24 h of position arithmetic at 44.1 to 16 kHz, in one product: no part is left.
        let phase = Phase::new(rate(44_100), rate(16_000));
        let outputs = 86_400u128 * 16_000;
        let step = phase.step_whole as u128 * u128::from(phase.unit) + u128::from(phase.step_part);
        let parts = outputs * step;
        assert_eq!(parts % u128::from(phase.unit), 0);
        assert_eq!(parts / u128::from(phase.unit), 86_400 * 44_100);
    }

    #[test]
    fn a_correction_changes_the_length_by_as_much() {
        for ppm in [10_000.0, -5_000.0, 37.5] {
            let mut resampler = Resampler::new(Channels::MONO, rate(16_000), rate(16_000));
            resampler.set_correction(ppm);
            let (second, mut out) = (vec![0i16; 16_000], Vec::new());
            for _ in 0..11 {
                resampler.process(&second, &mut out);
            }
            assert_eq!(resampler.correction_ppm(), ppm);
            out.clear();
            for _ in 0..100 {
                resampler.process(&second, &mut out);
            }
            let expected = 1_600_000.0 / (1.0 + ppm * 1e-6);
            assert!((out.len() as f64 - expected).abs() <= 2.0, "{ppm}: {}", out.len());
        }
    }

    #[test]
    fn corrections_never_click() {
        // A click is a break in the second difference, which is small for a slow sine.
        let input = tone(200.0, 16_000, 16_000.0, 80_000);
        let mut resampler = Resampler::new(Channels::MONO, rate(16_000), rate(16_000));
        let mut out = Vec::new();
        for (n, piece) in input.chunks(8_000).enumerate() {
            let ppm = [0.0, 1_000.0, -1_000.0, 250.0, 0.0, f64::NAN, -400.0, 0.0][n.min(7)];
            resampler.set_correction(ppm);
            resampler.process(piece, &mut out);
        }
        assert!(resampler.is_bypass(), "the last correction has ended");
        let bend = out.windows(3).map(|w| i32::from(w[0]) - 2 * i32::from(w[1]) + i32::from(w[2]));
        let bend_max = bend.map(i32::abs).max().unwrap_or(0);
        // 16,000 × (2 π 200 ÷ 16,000)² = 99, and rounding adds at most 2.
        assert!(bend_max <= 103, "{bend_max}");
    }

    #[test]
    fn after_a_correction_the_output_is_the_input_again() {
        let input: Vec<i16> = tone(3_000.0, 16_000, 9_000.0, 80_000);
        let mut resampler = Resampler::new(Channels::MONO, rate(16_000), rate(16_000));
        let mut out = Vec::new();
        for (n, piece) in input.chunks(960).enumerate() {
            resampler.set_correction(if (10..20).contains(&n) { 300.0 } else { 0.0 });
            let before = out.len();
            resampler.process(piece, &mut out);
            if !(10..40).contains(&n) {
                assert!(resampler.is_bypass(), "piece {n}");
                assert_eq!(&out[before..], piece, "piece {n}");
            }
        }
        // All that was asked for: 10 pieces of 60 ms at up to 300 ppm, to the nearest sample.
        let shorter = input.len() - out.len();
        assert!((1..=4).contains(&shorter), "{shorter} samples");
    }

    #[test]
    fn the_filter_holds_its_quality_between_rows() {
        for (hz, ppm) in [(1_000.0, 100.0), (7_000.0, 500.0), (7_200.0, 500.0), (7_200.0, -900.0)] {
            let input = tone(hz, 16_000, 16_000.0, 32_000);
            let mut resampler = Resampler::new(Channels::MONO, rate(16_000), rate(16_000));
            resampler.set_correction(ppm);
            let mut out = Vec::new();
            resampler.process(&input, &mut out);
            let settled = &out[16_000..30_000];
            let (amplitude, snr_db) = fit(settled, hz * (1.0 + ppm * 1e-6), 16_000);
            assert!((20.0 * (amplitude / 16_000.0).log10()).abs() < 0.01, "{hz} Hz: {amplitude}");
            assert!(snr_db > 80.0, "{hz} Hz, {ppm} ppm: {snr_db} dB");
        }
    }

    #[test]
    fn extreme_rates_do_not_panic() {
        let rates = [1, 2, 7, 8_000, 44_100, 767_999, 768_000];
        for from in rates {
            for to in rates {
                let mut resampler = Resampler::new(Channels::STEREO, rate(from), rate(to));
                let mut out = Vec::new();
                resampler.process(&[i16::MAX, i16::MIN], &mut out);
                resampler.set_correction(-1_000.0);
                resampler.process(&[0, 1], &mut out);
                if to <= from.saturating_mul(1_000) {
                    resampler.process(&[100; 64], &mut out);
                    resampler.flush(&mut out);
                }
                assert_eq!(out.len() % 2, 0);
            }
        }
    }
}

//! The built-in programme: gentle music without end, that knows its place.
//!
//! Bars of 3.2 s: a soft chord, a bass note and a plucked pentatonic melody. What is played in a
//! bar follows from the bar's number alone (a seeded generator draws chord, notes, phases and small
//! delays), so any stretch can be computed anew at any time, and a recording of a second or two can
//! be found again in the programme: no two bars of a week sound the same. Positions are samples (per
//! channel) from the programme's beginning. Attacks are soft and everything of weight lies below
//! 4 kHz, which suits a codec at 16 kbit/s.
//!
//! It is the same music at every rate; at the stream's rates, all notes begin on whole samples.

use super::{AudioError, Source};
use crate::units::{Channels, Format};
use std::f32::consts::PI;

/// Musical time: ticks of 0.25 ms, a whole number of samples at every rate of a stream.
const TICKS_PER_SECOND: u64 = 4_000;
/// An eighth note: 0.4 s.
const SLOT_TICKS: u64 = 1_600;
const SLOTS: u64 = 8;
const BAR_TICKS: u64 = SLOT_TICKS * SLOTS;
/// No note lasts longer than this beyond its bar's beginning.
const NOTE_END_TICKS: u64 = BAR_TICKS + 6_400;

/// Chords that follow one another well, as MIDI notes of the pad, with the bass below; one row is
/// chosen from for each of four bars.
const CHORDS: [[[u8; 4]; 3]; 4] = [
    [[48, 55, 60, 64], [45, 57, 60, 64], [48, 52, 55, 62]],
    [[45, 52, 60, 64], [40, 55, 59, 64], [41, 57, 60, 65]],
    [[41, 53, 57, 60], [38, 53, 57, 65], [41, 55, 57, 60]],
    [[43, 55, 60, 62], [43, 55, 59, 62], [38, 57, 60, 62]],
];

/// Two octaves of C major pentatonic: C, D, E, G, A.
const MELODY: [u8; 11] = [60, 62, 64, 67, 69, 72, 74, 76, 79, 81, 84];

/// The PCM (interleaved) of `samples` samples of the programme in `format`, from `start_samples`.
pub fn reference(format: Format, start_samples: u64, samples: usize) -> Vec<i16> {
    let mut pcm = vec![0; samples * format.channels.count()];
    Programme::new(format).render(start_samples, &mut pcm);
    pcm
}

/// The programme in one format.
#[derive(Clone, Debug)]
pub struct Programme {
    format: Format,
    /// One turn of a sine and the value after it.
    sine: Vec<f32>,
    /// e^−x for x from 0 to [`DECAY_END`] and the value after it.
    decay: Vec<f32>,
}

const SINE_STEPS_BITS: u32 = 11;
const DECAY_STEPS: usize = 512;
const DECAY_END: f32 = 6.0;

impl Programme {
    /// The programme in `format`.
    pub fn new(format: Format) -> Programme {
        let steps = 1 << SINE_STEPS_BITS;
        let sine = (0..=steps).map(|n| (n as f32 * 2.0 * PI / steps as f32).sin()).collect();
        let step = DECAY_END / DECAY_STEPS as f32;
        // Lowered by its last value, so that it ends in silence.
        let last = (-DECAY_END).exp();
        let decay = (0..=DECAY_STEPS).map(|n| (-(n as f32) * step).exp() - last).collect();
        Programme { format, sine, decay }
    }

    /// Computes `pcm` (interleaved, whole samples) as it sounds from position `start_samples`. The
    /// same position always gives the same samples, however the programme is cut into pieces.
    pub fn render(&self, start_samples: u64, pcm: &mut [i16]) {
        let channels = self.format.channels.count();
        let samples = pcm.len() / channels;
        let mut sound = vec![[0.0f32; 2]; samples];
        let end_samples = start_samples + samples as u64;
        let bar_samples = self.samples(BAR_TICKS).max(1);
        let tail_samples = self.samples(NOTE_END_TICKS - BAR_TICKS);
        let first_bar = start_samples.saturating_sub(tail_samples) / bar_samples;
        let mut notes = Vec::with_capacity(16);
        for bar in first_bar..=end_samples / bar_samples {
            notes.clear();
            compose(bar, &mut notes);
            for note in &notes {
                self.add(note, bar * bar_samples, start_samples, &mut sound);
            }
        }
        for (out, sound) in pcm.chunks_exact_mut(channels).zip(&sound) {
            if self.format.channels == Channels::MONO {
                out[0] = to_i16((sound[0] + sound[1]) / 2.0);
            } else {
                (out[0], out[1]) = (to_i16(sound[0]), to_i16(sound[1]));
            }
        }
    }

    fn samples(&self, ticks: u64) -> u64 {
        ticks * u64::from(self.format.rate.hz()) / TICKS_PER_SECOND
    }

    /// Adds the part of `note` that falls on `sound`, which begins at `start_samples`.
    fn add(&self, note: &Note, bar_start: u64, start_samples: u64, sound: &mut [[f32; 2]]) {
        let begin = bar_start + self.samples(note.at_ticks);
        let length = self.samples(note.ticks).max(1);
        let from = begin.max(start_samples);
        let to = (begin + length).min(start_samples + sound.len() as u64);
        if from >= to {
            return;
        }
        let rate = self.format.rate.hz() as f32;
        // Turns per sample, as a fraction of 2³²: the phase of any sample is one multiplication.
        let turns = f64::from(note.hz) / f64::from(self.format.rate.hz());
        let increment = (turns * 4_294_967_296.0).round() as u64;
        let partials = note.voice.partials();
        let audible = partials.iter().enumerate();
        let audible = audible.take_while(|(n, _)| note.hz * (*n as f32 + 1.0) < rate * 0.45);
        let partials = &partials[..audible.count()];
        let attack = self.samples(note.voice.attack_ticks()).max(1) as f32;
        for (position, out) in (from..to).zip(&mut sound[(from - start_samples) as usize..]) {
            let age = position - begin;
            let rise = (age as f32 / attack).min(1.0);
            let rise = rise * rise * (3.0 - 2.0 * rise);
            let passed = age as f32 / length as f32;
            let fall = match note.voice {
                Voice::Pad => {
                    let left = ((1.0 - passed) * 3.0).min(1.0);
                    left * left * (3.0 - 2.0 * left)
                }
                Voice::Bass | Voice::Pluck => self.decay_at(passed),
            };
            let mut value = 0.0;
            let mut level = rise * fall;
            for (n, strength) in partials.iter().enumerate() {
                let turn = increment.wrapping_mul(age).wrapping_mul(n as u64 + 1);
                let phase = (turn as u32).wrapping_add(note.phase.rotate_left(n as u32 * 7));
                value += strength * level * self.sine_at(phase);
                // Higher partials die sooner.
                level *= fall;
            }
            out[0] += value * note.gains[0];
            out[1] += value * note.gains[1];
        }
    }

    fn sine_at(&self, phase: u32) -> f32 {
        let step = (phase >> (32 - SINE_STEPS_BITS)) as usize;
        let between = (phase << SINE_STEPS_BITS >> 8) as f32 / (1 << 24) as f32;
        self.sine[step] + between * (self.sine[step + 1] - self.sine[step])
    }

    fn decay_at(&self, passed: f32) -> f32 {
        let position = passed * DECAY_STEPS as f32;
        let step = (position as usize).min(DECAY_STEPS - 1);
        let between = position - step as f32;
        self.decay[step] + between * (self.decay[step + 1] - self.decay[step])
    }
}

fn to_i16(value: f32) -> i16 {
    (value * 32_767.0).round() as i16
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Voice {
    Pad,
    Bass,
    Pluck,
}

impl Voice {
    /// Strengths of the fundamental and the partials above it.
    fn partials(self) -> &'static [f32] {
        match self {
            Voice::Pad => &[1.0, 0.35, 0.15, 0.06],
            Voice::Bass => &[1.0, 0.5, 0.2],
            Voice::Pluck => &[1.0, 0.45, 0.25, 0.12, 0.05],
        }
    }

    fn attack_ticks(self) -> u64 {
        match self {
            Voice::Pad => 3_200,
            Voice::Bass => 120,
            Voice::Pluck => 32,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Note {
    voice: Voice,
    /// Beginning within the bar.
    at_ticks: u64,
    ticks: u64,
    hz: f32,
    /// Left and right.
    gains: [f32; 2],
    phase: u32,
}

/// Writes the notes of a bar.
fn compose(bar: u64, notes: &mut Vec<Note>) {
    let mut dice = Dice(bar.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x616f_646e_7321);
    let chord = CHORDS[(bar % 4) as usize][dice.below(3) as usize];
    let mut push = |voice, at_ticks, ticks, midi: f32, gain: f32, side: f32, phase| {
        debug_assert!(at_ticks + ticks <= NOTE_END_TICKS, "render looks no further back");
        let hz = 440.0 * ((midi - 69.0) / 12.0).exp2();
        let gains = [gain * (1.0 - side), gain * (1.0 + side)];
        notes.push(Note { voice, at_ticks, ticks, hz, gains, phase });
    };
    for (n, &midi) in chord.iter().enumerate() {
        if n == 0 {
            push(Voice::Bass, dice.below(40), 9_600, f32::from(midi), 0.16, 0.0, dice.word());
        }
        // A few cents out of tune, each bar anew, as a choir is.
        let midi = f32::from(midi) + (dice.unit() - 0.5) * 0.1;
        let side = (n as f32 - 1.5) * 0.3;
        let gain = 0.045 + 0.02 * dice.unit();
        push(Voice::Pad, dice.below(400), BAR_TICKS + 4_800, midi, gain, side, dice.word());
    }
    let mut degree = 2 + dice.below(7) as i64;
    for slot in 0..SLOTS {
        let rests = slot > 0 && dice.below(100) < 22;
        degree = (degree + dice.below(5) as i64 - 2).clamp(0, MELODY.len() as i64 - 1);
        // Up to 10 ms late, as a hand is.
        let at_ticks = slot * SLOT_TICKS + dice.below(41);
        let gain = if slot % 4 == 0 { 0.2 } else { 0.13 } + 0.05 * dice.unit();
        let side = (dice.unit() - 0.5) * 0.6;
        let phase = dice.word();
        if !rests {
            push(
                Voice::Pluck,
                at_ticks,
                6_000,
                f32::from(MELODY[degree as usize]),
                gain,
                side,
                phase,
            );
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn word(&mut self) -> u32 {
        self.next() as u32
    }

    /// 0 to 1.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 24) as f32
    }
}

/// The programme as a source.
#[derive(Clone, Debug, Default)]
pub struct ProgrammeSource {
    start_samples: u64,
    position_samples: u64,
    programme: Option<Programme>,
}

impl ProgrammeSource {
    /// The programme from its beginning.
    pub fn new() -> ProgrammeSource {
        ProgrammeSource::default()
    }

    /// The programme from a position on (samples per channel, at the stream's rate).
    pub fn starting_at(start_samples: u64) -> ProgrammeSource {
        ProgrammeSource { start_samples, ..ProgrammeSource::default() }
    }
}

impl Source for ProgrammeSource {
    fn open(&mut self, format: Format, _frame_samples: usize) -> Result<(), AudioError> {
        self.programme = Some(Programme::new(format));
        self.position_samples = self.start_samples;
        Ok(())
    }

    fn read(&mut self, pcm: &mut [i16]) -> Result<usize, AudioError> {
        let Some(programme) = &self.programme else { return Ok(0) };
        programme.render(self.position_samples, pcm);
        self.position_samples += (pcm.len() / programme.format.channels.count()) as u64;
        Ok(pcm.len())
    }

    fn has_clock(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::SampleRate;

    const MONO: Format = Format { rate: SampleRate::HZ_16000, channels: Channels::MONO };

    #[test]
    fn any_stretch_can_be_computed_anew() {
        for channels in [Channels::MONO, Channels::STEREO] {
            let format = Format::new(SampleRate::HZ_16000, channels);
            let whole = reference(format, 0, 16_000 * 8);
            let mut source = ProgrammeSource::new();
            source.open(format, 960).expect("opens");
            let mut pcm = vec![0; 777 * channels.count()];
            for (n, expected) in whole.chunks_exact(pcm.len()).enumerate() {
                assert_eq!(source.read(&mut pcm).expect("reads"), pcm.len());
                assert_eq!(pcm, expected);
                assert_eq!(reference(format, n as u64 * 777, 777), expected);
            }
        }
        let week = 16_000 * 86_400 * 7;
        let mut source = ProgrammeSource::starting_at(week);
        source.open(MONO, 960).expect("opens");
        let mut pcm = [0; 960];
        source.read(&mut pcm).expect("reads");
        assert_eq!(pcm[..], reference(MONO, week, 960));
    }

    #[test]
    fn it_is_neither_loud_nor_silent() {
        for minute in [0, 7, 1_439] {
            let pcm = reference(MONO, minute * 60 * 16_000, 16_000 * 60);
            let peak = pcm.iter().map(|s| s.unsigned_abs()).max().unwrap_or(0);
            assert!((8_000..29_000).contains(&peak), "{peak}");
            for second in pcm.chunks(16_000).skip(1) {
                let energy: f64 = second.iter().map(|&s| f64::from(s).powi(2)).sum();
                let rms = (energy / 16_000.0).sqrt();
                assert!((600.0..6_000.0).contains(&rms), "{rms}");
            }
        }
    }

    #[test]
    fn it_begins_softly_and_never_clicks() {
        let step_max = |hz: u32| {
            let format = Format::new(SampleRate::new(hz).expect("a rate"), Channels::MONO);
            let pcm = reference(format, 0, hz as usize * 60);
            assert!(pcm[..4].iter().all(|s| s.abs() < 200));
            let steps = pcm.windows(2).map(|w| (i32::from(w[1]) - i32::from(w[0])).abs());
            steps.max().unwrap_or(0)
        };
        // Steps of smooth sound shrink with the time between samples; a click's do not.
        let (coarse, fine) = (step_max(16_000), step_max(48_000));
        assert!(fine * 5 < coarse * 2, "{fine} {coarse}");
    }

    #[test]
    fn no_bar_of_a_week_repeats() {
        let mut seen = std::collections::HashSet::new();
        let mut notes = Vec::new();
        for bar in 0..86_400 * 7 * 10 / 32 {
            notes.clear();
            compose(bar, &mut notes);
            // The melody and the phases of the chord: what a recording is recognised by.
            let melody = notes.iter().filter(|note| note.voice == Voice::Pluck);
            let melody: Vec<_> = melody.map(|note| (note.at_ticks, note.hz.to_bits())).collect();
            assert!(seen.insert(melody), "bar {bar}");
        }
    }

    #[test]
    fn it_is_the_same_music_at_every_rate() {
        let narrow = reference(Format::new(SampleRate::HZ_8000, Channels::MONO), 0, 8_000 * 4);
        let wide = reference(Format::new(SampleRate::HZ_48000, Channels::MONO), 0, 48_000 * 4);
        let same = narrow.iter().zip(wide.iter().step_by(6));
        let (mut signal, mut noise) = (0.0, 0.0);
        for (&a, &b) in same {
            signal += f64::from(a).powi(2);
            noise += (f64::from(a) - f64::from(b)).powi(2);
        }
        assert!(noise < signal * 1e-3, "{}", noise / signal);
    }

    #[test]
    fn odd_rates_and_ends_of_time_do_not_panic() {
        for hz in [1, 7, 44_100, 768_000] {
            let format = Format::new(SampleRate::new(hz).expect("a rate"), Channels::STEREO);
            assert_eq!(reference(format, 1_000_000, 10).len(), 20);
        }
        reference(MONO, 1 << 50, 10);
    }
}

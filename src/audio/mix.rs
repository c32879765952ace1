//! Channels to channels: any number of them down to one or two, and one or two out to any number.
//!
//! Nothing here can clip: the weights of what is mixed into one channel add up to 1. PCM is
//! interleaved `i16`. The order of more than two channels is that of WAV files (Microsoft's
//! `WAVEFORMATEXTENSIBLE` without a mask), which sound devices use as well: front left, front
//! right, centre, low frequencies, then what is behind and beside.

use crate::units::Channels;

/// 3 dB less, for a channel that is heard on both sides.
const HALF_POWER: f32 = std::f32::consts::FRAC_1_SQRT_2;

/// Mixes interleaved PCM of any number of channels to one or two.
#[derive(Clone, Debug)]
pub(crate) struct Downmix {
    from: usize,
    to: usize,
    /// Weight of each input channel in the left (or only) and right output channel.
    weights: Vec<[f32; 2]>,
}

impl Downmix {
    /// A mix from `from` channels (at least 1) to `to`.
    pub(crate) fn new(from: usize, to: Channels) -> Downmix {
        debug_assert!(from >= 1, "there is no sound without channels");
        const LEFT: [f32; 2] = [1.0, 0.0];
        const RIGHT: [f32; 2] = [0.0, 1.0];
        const CENTRE: [f32; 2] = [HALF_POWER, HALF_POWER];
        const BACK_LEFT: [f32; 2] = [HALF_POWER, 0.0];
        const BACK_RIGHT: [f32; 2] = [0.0, HALF_POWER];
        const BACK: [f32; 2] = [0.5, 0.5];
        // Low frequencies are left out, as ITU-R BS.775 has it.
        const LOW: [f32; 2] = [0.0, 0.0];
        let mut weights = match from {
            1 => vec![[1.0, 1.0]],
            2 => vec![LEFT, RIGHT],
            3 => vec![LEFT, RIGHT, CENTRE],
            4 => vec![LEFT, RIGHT, BACK_LEFT, BACK_RIGHT],
            5 => vec![LEFT, RIGHT, CENTRE, BACK_LEFT, BACK_RIGHT],
            6 => vec![LEFT, RIGHT, CENTRE, LOW, BACK_LEFT, BACK_RIGHT],
            7 => vec![LEFT, RIGHT, CENTRE, LOW, BACK, BACK_LEFT, BACK_RIGHT],
            8 => vec![LEFT, RIGHT, CENTRE, LOW, BACK_LEFT, BACK_RIGHT, BACK_LEFT, BACK_RIGHT],
            // More channels than any layout has: those of a mixing desk, as pairs.
            _ => (0..from).map(|n| if n % 2 == 0 { LEFT } else { RIGHT }).collect(),
        };
        if to == Channels::MONO {
            for weight in &mut weights {
                weight[0] = (weight[0] + weight[1]) / 2.0;
            }
        }
        for side in 0..to.count() {
            let sum: f32 = weights.iter().map(|weight| weight[side]).sum();
            weights.iter_mut().for_each(|weight| weight[side] /= sum);
        }
        Downmix { from, to: to.count(), weights }
    }

    /// Appends the mix of `input` (interleaved over the input's channels) to `out`; what is left
    /// of an incomplete last sample is dropped.
    pub(crate) fn process(&self, input: &[i16], out: &mut Vec<i16>) {
        let samples = input.chunks_exact(self.from);
        match (self.from, self.to) {
            (from, to) if from == to => out.extend_from_slice(&input[..samples.len() * from]),
            (1, _) => out.extend(input.iter().flat_map(|&sample| [sample, sample])),
            (2, _) => out.extend(samples.map(|s| ((i32::from(s[0]) + i32::from(s[1])) / 2) as i16)),
            _ => {
                for sample in samples {
                    for side in 0..self.to {
                        let pairs = sample.iter().zip(&self.weights);
                        let sum: f32 = pairs.map(|(&s, weight)| f32::from(s) * weight[side]).sum();
                        out.push(sum.round() as i16);
                    }
                }
            }
        }
    }
}

/// Spreads one sample of one or two channels over a device's sample of any number of channels:
/// front left and right carry the sound, the others are silent.
#[cfg_attr(not(feature = "device"), allow(dead_code))]
pub(crate) fn spread(sample: &[i16], device: &mut [i16]) {
    match (sample, device) {
        ([mono], [only]) => *only = *mono,
        ([left, right], [only]) => *only = ((i32::from(*left) + i32::from(*right)) / 2) as i16,
        ([mono], [front_left, front_right, rest @ ..]) => {
            (*front_left, *front_right) = (*mono, *mono);
            rest.fill(0);
        }
        ([left, right], [front_left, front_right, rest @ ..]) => {
            (*front_left, *front_right) = (*left, *right);
            rest.fill(0);
        }
        (_, device) => device.fill(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mix(from: usize, to: Channels, input: &[i16]) -> Vec<i16> {
        let mut out = Vec::new();
        Downmix::new(from, to).process(input, &mut out);
        out
    }

    #[test]
    fn one_and_two_channels_are_copied_or_averaged() {
        assert_eq!(mix(1, Channels::MONO, &[1, -2]), [1, -2]);
        assert_eq!(mix(1, Channels::STEREO, &[1, -2]), [1, 1, -2, -2]);
        assert_eq!(mix(2, Channels::STEREO, &[1, -2]), [1, -2]);
        assert_eq!(mix(2, Channels::MONO, &[i16::MIN, i16::MIN, 10, 20]), [i16::MIN, 15]);
    }

    #[test]
    fn no_number_of_channels_clips_or_loses_a_common_sound() {
        for from in 1..=64 {
            for to in [Channels::MONO, Channels::STEREO] {
                for value in [i16::MAX, i16::MIN, 1_000] {
                    let out = mix(from, to, &vec![value; from * 2]);
                    assert_eq!(out.len(), to.count() * 2);
                    assert!(out.iter().all(|&s| (i32::from(s) - i32::from(value)).abs() <= 1));
                }
            }
        }
    }

    #[test]
    fn surround_keeps_its_sides_and_leaves_out_the_low_channel() {
        let left = mix(6, Channels::STEREO, &[10_000, 0, 0, 0, 10_000, 0]);
        assert!(left[0] > 7_000 && left[1] == 0, "{left:?}");
        let centre = mix(6, Channels::STEREO, &[0, 0, 10_000, 0, 0, 0]);
        assert_eq!(centre[0], centre[1]);
        assert_eq!(mix(6, Channels::MONO, &[0, 0, 0, 30_000, 0, 0]), [0]);
    }

    #[test]
    fn an_incomplete_last_sample_is_dropped() {
        assert_eq!(mix(2, Channels::STEREO, &[1, 2, 3]), [1, 2]);
        assert_eq!(mix(3, Channels::MONO, &[1, 1]), []);
    }

    #[test]
    fn sound_spreads_to_the_front() {
        let mut device = [9; 4];
        spread(&[5], &mut device);
        assert_eq!(device, [5, 5, 0, 0]);
        spread(&[5, 6], &mut device);
        assert_eq!(device, [5, 6, 0, 0]);
        spread(&[5, 6], &mut device[..1]);
        assert_eq!(device[0], 5);
        spread(&[7], &mut device[..1]);
        assert_eq!(device[0], 7);
        spread(&[], &mut device);
        assert_eq!(device, [0; 4]);
    }
}

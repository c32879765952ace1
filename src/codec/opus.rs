//! [`CodecKind::Opus`], through libopus.

use super::{
    Application, Channels, CodecError, CodecKind, Decoder, Encoder, EncoderSettings, Fade, Format,
    SampleRate, check_encode, output,
};

/// Longest packet of one frame (RFC 6716 §3.4).
const PACKET_OCTETS_MAX: usize = 1_275;
/// A second encoder that begins anew has nothing to say under a cap below this, in octets; the first
/// one obeys such caps itself.
const SMALL_CAP: usize = 48;
/// Below about 2400 bit/s libopus sends nothing but the header.
const LEAST_RATE: f64 = 3_000.0;

/// Two encoders, of which the second is needed seldom.
///
/// libopus obeys a cap on a packet's length at a price: where SILK (RFC 6716 §4.2) would take more
/// bits, it raises its gains until the rest fits, and an onset may come out 12 dB too loud for a
/// tenth of a second. It does so long before a packet is as long as the cap, since each third of 60
/// ms has a share of it. So the first encoder has no cap, but an average rate below it. Should one
/// of its packets not fit, the second takes its place for that frame: it has heard the frames
/// before, and obeys the cap.
struct OpusEncoder {
    encoder: opus::Encoder,
    rescue: opus::Encoder,
    /// The frames that came last, oldest first: what the second encoder has to have heard.
    past: [Vec<i16>; 2],
    /// Whether the second encoder heard the frame before this one.
    rescued: bool,
    /// Average rate that was asked for, or that libopus chooses, in bit/s; and the cap, in octets,
    /// that it was fitted to.
    bitrate: i32,
    fitted: usize,
    packet: Vec<u8>,
    channels: Channels,
    rate: SampleRate,
    frame_samples: usize,
}

pub(super) fn opus_encoder(
    settings: &EncoderSettings,
    frame_samples: usize,
) -> Result<Box<dyn Encoder>, CodecError> {
    let Format { rate, channels } = settings.format;
    let mut rescue = libopus_encoder(settings)?;
    // What it encodes follows upon what the first one made, which it has not seen.
    rescue.set_prediction_disabled(true).map_err(refused)?;
    // What libopus takes when it is not told (opus_encoder.c, user_bitrate_to_bitrate).
    let hz = rate.hz() as usize;
    let own = 60 * hz / frame_samples + hz * channels.count();
    let bitrate = settings.bitrate.map_or(own as i32, |bitrate| bitrate as i32);
    let silence = vec![0; frame_samples * channels.count()];
    Ok(Box::new(OpusEncoder {
        encoder: libopus_encoder(settings)?,
        rescue,
        past: [silence.clone(), silence],
        rescued: false,
        bitrate,
        fitted: 0,
        packet: vec![0; PACKET_OCTETS_MAX],
        channels,
        rate,
        frame_samples,
    }))
}

fn libopus_encoder(settings: &EncoderSettings) -> Result<opus::Encoder, CodecError> {
    let application = match settings.application {
        Application::Voip => opus::Application::Voip,
        Application::Audio => opus::Application::Audio,
        Application::LowDelay => opus::Application::LowDelay,
    };
    let Format { rate, channels } = settings.format;
    let mut encoder =
        opus::Encoder::new(rate.hz(), opus_channels(channels), application).map_err(refused)?;
    if let Some(bitrate) = settings.bitrate {
        // At most 512,000, as has been checked.
        encoder.set_bitrate(opus::Bitrate::Bits(bitrate as i32)).map_err(refused)?;
    }
    if let Some(complexity) = settings.complexity {
        encoder.set_complexity(i32::from(complexity)).map_err(refused)?;
    }
    Ok(encoder)
}

impl OpusEncoder {
    /// Fits the average rate to a cap of `octets` a packet.
    fn fit(&mut self, octets: usize) -> Result<(), CodecError> {
        if self.fitted == octets {
            return Ok(());
        }
        let frame = self.rate.duration(self.frame_samples as u64);
        let fitting = f64::from(EncoderSettings::bitrate_within(octets, frame));
        let fitting = fitting.clamp(LEAST_RATE, 512_000.0) as i32;
        if fitting < self.bitrate {
            for encoder in [&mut self.encoder, &mut self.rescue] {
                encoder.set_bitrate(opus::Bitrate::Bits(fitting)).map_err(refused)?;
            }
        }
        self.fitted = octets;
        Ok(())
    }

    /// Encodes a frame whose packet did not fit, under the cap.
    fn rescue(&mut self, pcm: &[i16], out: &mut [u8]) -> Result<usize, CodecError> {
        if !self.rescued {
            self.rescue.reset_state().map_err(refused)?;
            for past in &self.past {
                self.rescue.encode(past, &mut self.packet).map_err(refused)?;
            }
        }
        self.rescue.encode(pcm, out).map_err(refused)
    }
}

impl Encoder for OpusEncoder {
    fn frame_samples(&self) -> usize {
        self.frame_samples
    }

    fn encode(&mut self, pcm: &[i16], out: &mut [u8]) -> Result<usize, CodecError> {
        check_encode(pcm, self.frame_samples * self.channels.count(), out, 1)?;
        if out.len() < SMALL_CAP {
            return self.encoder.encode(pcm, out).map_err(refused);
        }
        self.fit(out.len())?;
        if self.rescued {
            // The listener did not get what this encoder would predict from.
            self.encoder.set_prediction_disabled(true).map_err(refused)?;
        }
        let octets = self.encoder.encode(pcm, &mut self.packet).map_err(refused)?;
        if self.rescued {
            self.encoder.set_prediction_disabled(false).map_err(refused)?;
        }
        let fits = octets <= out.len();
        let octets = match fits {
            true => {
                out[..octets].copy_from_slice(&self.packet[..octets]);
                octets
            }
            false => self.rescue(pcm, out)?,
        };
        self.rescued = !fits;
        self.past.swap(0, 1);
        self.past[1].copy_from_slice(pcm);
        Ok(octets)
    }
}

struct OpusDecoder {
    decoder: opus::Decoder,
    format: Format,
    /// Samples per channel at the decoder's rate; `None` until the first good packet.
    frame_samples: Option<usize>,
    fade: Fade,
}

pub(super) fn opus_decoder(
    stream: Format,
    frame_samples: Option<usize>,
    output_rate: SampleRate,
) -> Result<Box<dyn Decoder>, CodecError> {
    let rates = CodecKind::Opus.rates();
    let rate = rates.iter().find(|&&rate| rate >= output_rate).unwrap_or(&SampleRate::HZ_48000);
    let format = Format::new(*rate, stream.channels);
    let decoder = opus::Decoder::new(rate.hz(), opus_channels(stream.channels)).map_err(refused)?;
    // Exact: the frame is a multiple of 2.5 ms, and that is a whole number of samples at every
    // rate.
    let convert = |samples| samples * rate.hz() as usize / stream.rate.hz() as usize;
    let frame_samples = frame_samples.map(convert);
    Ok(Box::new(OpusDecoder { decoder, format, frame_samples, fade: Fade::new(format) }))
}

impl Decoder for OpusDecoder {
    fn format(&self) -> Format {
        self.format
    }

    fn frame_samples(&self) -> usize {
        // 60 ms, as the base layer has it.
        self.frame_samples.unwrap_or(self.format.rate.hz() as usize * 60 / 1_000)
    }

    fn decode(&mut self, packet: Option<&[u8]>, out: &mut [i16]) -> Result<usize, CodecError> {
        let (packet, samples) = match packet {
            // An empty packet is what libopus calls a lost one.
            Some([]) => return Err(CodecError::Damaged),
            Some(packet) => {
                let samples = opus::packet::get_nb_samples(packet, self.format.rate.hz());
                (packet, samples.map_err(|_| CodecError::Damaged)?)
            }
            None => (&[][..], self.frame_samples()),
        };
        if self.frame_samples.is_some_and(|frame_samples| frame_samples != samples) {
            return Err(CodecError::WrongDuration { samples });
        }
        let out = output(out, samples * self.format.channels.count())?;
        let decoded = self.decoder.decode(packet, out, false).map_err(|_| CodecError::Damaged)?;
        if decoded != samples {
            return Err(CodecError::WrongDuration { samples: decoded });
        }
        if packet.is_empty() {
            self.fade.conceal(out);
        } else {
            self.fade.receive(out);
            self.frame_samples = Some(samples);
        }
        Ok(samples)
    }
}

fn opus_channels(channels: Channels) -> opus::Channels {
    if channels == Channels::STEREO { opus::Channels::Stereo } else { opus::Channels::Mono }
}

fn refused(error: opus::Error) -> CodecError {
    CodecError::Refused { reason: error.description() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::build_decoder;
    use std::f64::consts::TAU;

    const RATE: usize = 16_000;
    const FRAME: usize = 960;
    const BLOCK: usize = RATE / 50;

    /// Voices that glide and begin abruptly, over chords: half a minute.
    fn voices(seed: u64) -> Vec<i16> {
        let mut state = seed;
        let mut uniform = |low: f64, high: f64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            low + (high - low) * (state >> 11) as f64 / (1u64 << 53) as f64
        };
        let mut sound = vec![0.0; 30 * RATE];
        let mut start = 0;
        while start < sound.len() {
            let length = (uniform(0.12, 0.3) * RATE as f64) as usize;
            let (begin, slope) = (uniform(90.0, 220.0), uniform(0.67, 1.5) - 1.0);
            let formants = [uniform(250.0, 800.0), uniform(900.0, 2600.0)];
            for (n, sample) in sound[start..].iter_mut().take(length).enumerate() {
                let part = n as f64 / length as f64;
                let phase = TAU * begin * (n as f64 / RATE as f64) * (1.0 + slope * part / 2.0);
                let loud = (part * TAU / 2.0).sin().sqrt();
                let harmonics = (1..20).map(|k| {
                    let hz = f64::from(k) * begin;
                    let near = formants.map(|formant| (hz - formant).abs());
                    (-near[0].min(near[1]) / 200.0).exp() * (f64::from(k) * phase).sin()
                });
                *sample += 3_000.0 * loud * harmonics.sum::<f64>();
            }
            // A consonant before the next.
            for sample in sound[start..].iter_mut().take(RATE / 30) {
                *sample += uniform(-4_000.0, 4_000.0);
            }
            start += length;
        }
        sound.iter().map(|&sample: &f64| sample.clamp(-30_000.0, 30_000.0) as i16).collect()
    }

    fn decibels(pcm: &[i16]) -> f64 {
        let power: f64 = pcm.iter().map(|&sample| f64::from(sample).powi(2)).sum();
        10.0 * (power / pcm.len() as f64 + 1.0).log10()
    }

    /// Blocks of 20 ms that come out more than 8 dB louder than anything near them went in.
    fn loud_blocks(
        pcm: &[i16],
        mut encode: impl FnMut(&[i16], &mut [u8]) -> usize,
        cap: usize,
    ) -> usize {
        let format = Format::new(SampleRate::HZ_16000, Channels::MONO);
        let mut decoder = build_decoder(CodecKind::Opus, format, Some(FRAME), format.rate).unwrap();
        let (mut packet, mut out) = (vec![0; cap], Vec::new());
        for frame in pcm.chunks_exact(FRAME) {
            let octets = encode(frame, &mut packet);
            let mut decoded = [0; FRAME];
            decoder.decode(Some(&packet[..octets]), &mut decoded).unwrap();
            out.extend_from_slice(&decoded);
        }
        // Opus is 104 samples late at this rate.
        let levels = |pcm: &[i16]| pcm.chunks_exact(BLOCK).map(decibels).collect::<Vec<_>>();
        let (before, after) = (levels(pcm), levels(&out[104..]));
        let loudest = |n: usize| before[n - 1..=n + 1].iter().copied().fold(0.0, f64::max);
        let blocks = 1..after.len().min(before.len() - 1);
        blocks.filter(|&n| after[n] > loudest(n) + 8.0 && after[n] > 40.0).count()
    }

    #[test]
    fn a_cap_makes_nothing_louder_than_it_was() {
        // What 200 characters hold.
        const CAP: usize = 160;
        let settings = EncoderSettings::new(CodecKind::Opus);
        let (mut ours, mut plain, mut free) = (0, 0, 0);
        for seed in 1..=4 {
            let pcm = voices(seed * 0x9E37_79B9);
            let mut encoder = opus_encoder(&settings, FRAME).unwrap();
            ours += loud_blocks(&pcm, |pcm, out| encoder.encode(pcm, out).unwrap(), CAP);
            // What the cap alone does, and what Opus does without any.
            let mut alone = libopus_encoder(&settings).unwrap();
            plain += loud_blocks(&pcm, |pcm, out| alone.encode(pcm, out).unwrap(), CAP);
            let mut alone = libopus_encoder(&settings).unwrap();
            free += loud_blocks(&pcm, |pcm, out| alone.encode(pcm, out).unwrap(), 1275);
        }
        assert!(3 * ours <= plain, "{ours} blocks, {free} without a cap, {plain} by it alone");
        assert!(plain > free, "libopus has learned it; the second encoder is not needed any more");
    }
}

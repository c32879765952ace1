//! From packets to the sink's format: decoder, fades at the edges of gaps, and the resampler that
//! steers the pace.

use crate::codec::{self, CodecError, Decoder};
use crate::follow::StreamParameters;
use crate::playout::{Fader, Play};
use crate::resample::Resampler;
use crate::units::{Channels, Format};
use std::time::Duration;

/// Makes sound of packets.
pub struct Renderer {
    decoder: Box<dyn Decoder>,
    stream: StreamParameters,
    resampler: Resampler,
    fader: Fader,
    output: Format,
    decoded: Vec<i16>,
    resampled: Vec<i16>,
    out: Vec<i16>,
}

impl Renderer {
    /// A renderer of `stream` into the format `output`.
    ///
    /// # Errors
    /// When the codec cannot be set up.
    pub fn new(stream: &StreamParameters, output: Format) -> Result<Renderer, CodecError> {
        let decoder = decoder(stream, output)?;
        let format = decoder.format();
        let resampler = Resampler::new(format.channels, format.rate, output.rate);
        let room = codec::FRAME_SAMPLES_MAX.max(decoder.frame_samples());
        Ok(Renderer {
            fader: Fader::new(format.rate.hz(), format.channels.count()),
            decoded: vec![0; room * format.channels.count()],
            resampled: Vec::new(),
            out: Vec::new(),
            decoder,
            stream: stream.clone(),
            resampler,
            output,
        })
    }

    /// The format of the sound.
    pub fn output(&self) -> Format {
        self.output
    }

    /// Plays faster (or, where negative, slower) by `ppm` parts per million from now on.
    pub fn set_correction(&mut self, ppm: f64) {
        self.resampler.set_correction(ppm);
    }

    /// By how much it plays faster now; 0 while the sound is exactly what was decoded.
    pub fn correction_ppm(&self) -> f64 {
        if self.resampler.is_bypass() { 0.0 } else { self.resampler.correction_ppm() }
    }

    /// Forgets the past: what comes has nothing to do with it.
    ///
    /// # Errors
    /// When the codec cannot be set up.
    pub fn renew(&mut self) -> Result<(), CodecError> {
        self.decoder = decoder(&self.stream, self.output)?;
        Ok(())
    }

    /// How long a packet lasts.
    pub fn frame(&self) -> Duration {
        self.decoder.format().rate.duration(self.decoder.frame_samples() as u64)
    }

    /// Decodes, and shapes the edge of a gap; the sound for the sink, interleaved. What was wrong
    /// with the packet goes along.
    pub fn render(&mut self, play: &Play) -> (&[i16], Option<CodecError>) {
        let channels = self.decoder.format().channels.count();
        let mut wrong = None;
        let conceal = |decoder: &mut dyn Decoder, pcm: &mut [i16]| match decoder.decode(None, pcm) {
            Ok(samples) => samples * channels,
            Err(_) => {
                let length = decoder.frame_samples() * channels;
                pcm[..length].fill(0);
                length
            }
        };
        let length = match play {
            // Not heard, so that what comes next is still to be faded in.
            Play::Prime(packet) => match self.decoder.decode(Some(packet), &mut self.decoded) {
                Ok(samples) => samples * channels,
                Err(error) => {
                    wrong = Some(error);
                    0
                }
            },
            Play::Packet(packet) => match self.decoder.decode(Some(packet), &mut self.decoded) {
                Ok(samples) => {
                    let length = samples * channels;
                    self.fader.sound(&mut self.decoded[..length]);
                    length
                }
                Err(error) => {
                    wrong = Some(error);
                    let length = conceal(&mut *self.decoder, &mut self.decoded);
                    self.fader.concealment(&mut self.decoded[..length]);
                    length
                }
            },
            Play::Conceal => {
                let length = conceal(&mut *self.decoder, &mut self.decoded);
                self.fader.concealment(&mut self.decoded[..length]);
                length
            }
            Play::Silence | Play::Idle => {
                self.fader.silence();
                let length = self.decoder.frame_samples() * channels;
                self.decoded[..length].fill(0);
                length
            }
        };
        let pcm = &self.decoded[..length];
        let pcm = if let Play::Prime(_) = play {
            // Not heard, so it is no part of what goes through the filter.
            pcm
        } else {
            self.resampled.clear();
            self.resampler.process(pcm, &mut self.resampled);
            &self.resampled[..]
        };
        let pcm = match (self.decoder.format().channels, self.output.channels) {
            (Channels::MONO, Channels::STEREO) => {
                self.out.clear();
                self.out.extend(pcm.iter().flat_map(|&sample| [sample, sample]));
                &self.out[..]
            }
            (Channels::STEREO, Channels::MONO) => {
                self.out.clear();
                let halves = pcm.chunks_exact(2);
                self.out
                    .extend(halves.map(|two| ((i32::from(two[0]) + i32::from(two[1])) / 2) as i16));
                &self.out[..]
            }
            _ => pcm,
        };
        (pcm, wrong)
    }
}

fn decoder(stream: &StreamParameters, output: Format) -> Result<Box<dyn Decoder>, CodecError> {
    let frame_samples = stream.frame_samples.map(|samples| samples as usize);
    codec::build_decoder(stream.codec, stream.format, frame_samples, output.rate)
}

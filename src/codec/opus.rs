//! [`CodecKind::Opus`], through libopus.

use super::{
    Application, Channels, CodecError, CodecKind, Decoder, Encoder, EncoderSettings, Fade, Format,
    SampleRate, check_encode, output,
};

struct OpusEncoder {
    encoder: opus::Encoder,
    channels: Channels,
    frame_samples: usize,
}

pub(super) fn opus_encoder(
    settings: &EncoderSettings,
    frame_samples: usize,
) -> Result<Box<dyn Encoder>, CodecError> {
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
    Ok(Box::new(OpusEncoder { encoder, channels, frame_samples }))
}

impl Encoder for OpusEncoder {
    fn frame_samples(&self) -> usize {
        self.frame_samples
    }

    fn encode(&mut self, pcm: &[i16], out: &mut [u8]) -> Result<usize, CodecError> {
        check_encode(pcm, self.frame_samples * self.channels.count(), out, 1)?;
        self.encoder.encode(pcm, out).map_err(refused)
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

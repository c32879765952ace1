//! The kinds named after Codec2, through the crate of that name.

use super::{
    Channels, CodecError, CodecKind, Decoder, Encoder, Fade, Format, SampleRate, check_encode,
    output,
};
use ::codec2::{Codec2, Codec2Mode};

fn codec2(kind: CodecKind) -> Result<Codec2, CodecError> {
    let mode = match kind {
        CodecKind::Opus => return Err(CodecError::NotBuilt),
        CodecKind::Codec2At1200 => Codec2Mode::MODE_1200,
        CodecKind::Codec2At1300 => Codec2Mode::MODE_1300,
        CodecKind::Codec2At1400 => Codec2Mode::MODE_1400,
        CodecKind::Codec2At1600 => Codec2Mode::MODE_1600,
        CodecKind::Codec2At2400 => Codec2Mode::MODE_2400,
        CodecKind::Codec2At3200 => Codec2Mode::MODE_3200,
    };
    Ok(Codec2::new(mode))
}

struct Codec2Encoder(Codec2);

pub(super) fn codec2_encoder(kind: CodecKind) -> Result<Box<dyn Encoder>, CodecError> {
    Ok(Box::new(Codec2Encoder(codec2(kind)?)))
}

impl Encoder for Codec2Encoder {
    fn frame_samples(&self) -> usize {
        self.0.samples_per_frame()
    }

    fn encode(&mut self, pcm: &[i16], out: &mut [u8]) -> Result<usize, CodecError> {
        let octets = self.0.bits_per_frame().div_ceil(8);
        check_encode(pcm, self.0.samples_per_frame(), out, octets)?;
        self.0.encode(&mut out[..octets], pcm);
        Ok(octets)
    }
}

/// Codec2 knows no other.
const FORMAT: Format = Format { rate: SampleRate::HZ_8000, channels: Channels::MONO };

struct Codec2Decoder {
    codec: Codec2,
    /// The last good packet; the first `packet_octets` of it.
    last: [u8; 8],
    packet_octets: usize,
    fade: Fade,
}

pub(super) fn codec2_decoder(kind: CodecKind) -> Result<Box<dyn Decoder>, CodecError> {
    let codec = codec2(kind)?;
    let packet_octets = codec.bits_per_frame().div_ceil(8);
    Ok(Box::new(Codec2Decoder { codec, last: [0; 8], packet_octets, fade: Fade::new(FORMAT) }))
}

impl Decoder for Codec2Decoder {
    fn format(&self) -> Format {
        FORMAT
    }

    fn frame_samples(&self) -> usize {
        self.codec.samples_per_frame()
    }

    fn decode(&mut self, packet: Option<&[u8]>, out: &mut [i16]) -> Result<usize, CodecError> {
        let samples = self.frame_samples();
        let out = output(out, samples)?;
        match packet {
            Some(packet) => {
                if packet.len() != self.packet_octets {
                    return Err(CodecError::Damaged);
                }
                self.last[..packet.len()].copy_from_slice(packet);
                self.codec.decode(out, packet);
                self.fade.receive(out);
            }
            None if self.fade.is_silent() => out.fill(0),
            // A voice stays what it was for a while: the last packet again.
            None => {
                self.codec.decode(out, &self.last[..self.packet_octets]);
                self.fade.conceal(out);
            }
        }
        Ok(samples)
    }
}

//! The kinds named after Codec2, through the crate of that name.

use super::{
    Channels, CodecError, CodecKind, Decoder, Encoder, Format, SampleRate, check_encode, output,
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

struct Codec2Decoder {
    codec: Codec2,
    /// The last good packet; the first `packet_octets` of it.
    last: [u8; 8],
    packet_octets: usize,
    /// How loud the end of the last frame was: 1 for a good packet, less with each frame
    /// concealed, 0 before the first packet.
    gain: f32,
}

pub(super) fn codec2_decoder(kind: CodecKind) -> Result<Box<dyn Decoder>, CodecError> {
    let codec = codec2(kind)?;
    let packet_octets = codec.bits_per_frame().div_ceil(8);
    Ok(Box::new(Codec2Decoder { codec, last: [0; 8], packet_octets, gain: 0.0 }))
}

impl Decoder for Codec2Decoder {
    fn format(&self) -> Format {
        Format::new(SampleRate::HZ_8000, Channels::MONO)
    }

    fn frame_samples(&self) -> usize {
        self.codec.samples_per_frame()
    }

    fn decode(&mut self, packet: Option<&[u8]>, out: &mut [i16]) -> Result<usize, CodecError> {
        let samples = self.frame_samples();
        let out = output(out, samples)?;
        match packet {
            Some(packet) => {
                let last = self.last.get_mut(..packet.len());
                match last {
                    Some(last) if packet.len() == self.packet_octets => {
                        last.copy_from_slice(packet)
                    }
                    _ => return Err(CodecError::Damaged),
                }
                self.codec.decode(out, packet);
                self.gain = 1.0;
            }
            // A vocoder's sound stays what it was for a while: the last packet again, half as loud
            // each time, and silence when it has become a sixteenth.
            None if self.gain > 1.0 / 16.0 => {
                self.codec.decode(out, &self.last[..self.packet_octets]);
                let step = self.gain / 2.0 / samples as f32;
                for sample in &mut *out {
                    self.gain -= step;
                    *sample = (f32::from(*sample) * self.gain) as i16;
                }
            }
            None => {
                self.gain = 0.0;
                out.fill(0);
            }
        }
        Ok(samples)
    }
}

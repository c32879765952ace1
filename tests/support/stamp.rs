//! A codec for simulations, whose packets are numbers instead of sound: the encoder stamps each
//! packet with the number of its frame, the decoder writes that number into the PCM, and
//! [`stamp_of`] reads it there. Order, gaps and repeats at the loudspeaker can then be asserted
//! frame by frame.

#![allow(dead_code)] // every test binary uses a part of this

use aodns::codec::{CodecError, Decoder, Encoder};
use aodns::units::Format;

/// Octets of the number in front of each packet.
const STAMP_OCTETS: usize = 8;
/// Samples in front of each frame: a mark, then four with 16 bits of the number each.
const STAMP_SAMPLES: usize = 5;
const MARK: i16 = 0x5354;
const CONCEALED: i16 = 0x4c4f;

/// Numbers frames from 0 on; the PCM does not matter.
pub struct StampEncoder {
    format: Format,
    frame_samples: usize,
    packet_octets: usize,
    next: u64,
}

impl StampEncoder {
    /// An encoder whose packets have `packet_octets` octets (at least 8), or as many as the cap
    /// allows if that is less.
    pub fn new(format: Format, frame_samples: usize, packet_octets: usize) -> StampEncoder {
        assert!(packet_octets >= STAMP_OCTETS);
        StampEncoder { format, frame_samples, packet_octets, next: 0 }
    }

    /// Goes on with the frame of this number.
    pub fn skip_to(&mut self, frame: u64) {
        self.next = frame;
    }
}

impl Encoder for StampEncoder {
    fn frame_samples(&self) -> usize {
        self.frame_samples
    }

    fn encode(&mut self, pcm: &[i16], out: &mut [u8]) -> Result<usize, CodecError> {
        let needed = self.frame_samples * self.format.channels.count();
        if pcm.len() != needed {
            return Err(CodecError::FrameLength { len: pcm.len(), needed });
        }
        if out.len() < STAMP_OCTETS {
            return Err(CodecError::PacketCap { octets: out.len(), needed: STAMP_OCTETS });
        }
        let octets = self.packet_octets.min(out.len());
        let stamp = self.next.to_be_bytes();
        self.next += 1;
        // The rest repeats the number, so that packets look different from each other all over.
        for (octet, stamp) in out[..octets].iter_mut().zip(stamp.iter().cycle()) {
            *octet = *stamp;
        }
        Ok(octets)
    }
}

/// Writes the packets' numbers into the PCM.
pub struct StampDecoder {
    format: Format,
    frame_samples: usize,
}

impl StampDecoder {
    /// A decoder of what a [`StampEncoder`] with the same settings made.
    pub fn new(format: Format, frame_samples: usize) -> StampDecoder {
        assert!(frame_samples * format.channels.count() >= STAMP_SAMPLES);
        StampDecoder { format, frame_samples }
    }
}

impl Decoder for StampDecoder {
    fn format(&self) -> Format {
        self.format
    }

    fn frame_samples(&self) -> usize {
        self.frame_samples
    }

    fn decode(&mut self, packet: Option<&[u8]>, out: &mut [i16]) -> Result<usize, CodecError> {
        let needed = self.frame_samples * self.format.channels.count();
        let len = out.len();
        let out = out.get_mut(..needed).ok_or(CodecError::OutputLength { len, needed })?;
        let stamp = match packet {
            None => None,
            Some(packet) => {
                let (stamp, rest) =
                    packet.split_first_chunk::<STAMP_OCTETS>().ok_or(CodecError::Damaged)?;
                if rest.iter().zip(stamp.iter().cycle()).any(|(octet, stamp)| octet != stamp) {
                    return Err(CodecError::Damaged);
                }
                Some(u64::from_be_bytes(*stamp))
            }
        };
        out.fill(0);
        out[0] = if stamp.is_some() { MARK } else { CONCEALED };
        for (index, sample) in out[1..STAMP_SAMPLES].iter_mut().enumerate() {
            *sample = (stamp.unwrap_or(0) >> (16 * index)) as i16;
        }
        Ok(self.frame_samples)
    }
}

/// What a frame of PCM from a [`StampDecoder`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamp {
    /// The frame with this number.
    Frame(u64),
    /// A frame that was lost and concealed.
    Concealed,
    /// Nothing that the decoder wrote: silence from elsewhere, or not the start of a frame.
    Foreign,
}

/// Reads the number of a frame back from its PCM.
pub fn stamp_of(pcm: &[i16]) -> Stamp {
    match pcm {
        [MARK, a, b, c, d, ..] => {
            let part = |sample: i16, index: u32| u64::from(sample as u16) << (16 * index);
            Stamp::Frame(part(*a, 0) | part(*b, 1) | part(*c, 2) | part(*d, 3))
        }
        [CONCEALED, ..] => Stamp::Concealed,
        _ => Stamp::Foreign,
    }
}

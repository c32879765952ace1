//! Codecs: PCM frames to packets and back.

use crate::units::Format;
use std::fmt;

/// Compresses frames of PCM.
pub trait Encoder: Send {
    /// Samples per channel in a frame; constant.
    fn frame_samples(&self) -> usize;

    /// Compresses one frame (`pcm`: interleaved, length = frame samples × channels) into `out` and
    /// returns the packet's length in octets. The slice is the cap: the packet always fits it.
    ///
    /// # Errors
    /// When the codec refuses; the frame is then lost.
    fn encode(&mut self, pcm: &[i16], out: &mut [u8]) -> Result<usize, CodecError>;
}

/// Decompresses packets to PCM.
pub trait Decoder: Send {
    /// The format of the PCM that comes out. The rate may differ from the stream's.
    fn format(&self) -> Format;

    /// Samples per channel in a decoded frame, at the rate of [`Decoder::format`].
    fn frame_samples(&self) -> usize;

    /// Decompresses one packet into `out` (interleaved, length at least frame samples × channels),
    /// or conceals one lost frame when `packet` is `None`; returns samples per channel, always
    /// [`Decoder::frame_samples`].
    ///
    /// # Errors
    /// When the packet is damaged or of another duration; the frame counts as lost.
    fn decode(&mut self, packet: Option<&[u8]>, out: &mut [i16]) -> Result<usize, CodecError>;
}

/// Why a codec failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CodecError {
    /// The codec was left out of this build.
    NotBuilt,
    /// The codec cannot do this rate, channel count, frame duration or bit rate.
    Unsupported,
    /// The packet is no packet of this codec.
    Damaged,
    /// The packet decodes to another number of samples per channel than a frame of this stream.
    WrongDuration {
        /// What it decodes to, at the decoder's rate.
        samples: usize,
    },
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CodecError::NotBuilt => write!(f, "this codec is not part of this build"),
            CodecError::Unsupported => write!(f, "the codec does not support these settings"),
            CodecError::Damaged => write!(f, "damaged packet"),
            CodecError::WrongDuration { samples } => write!(f, "packet of {samples} samples"),
        }
    }
}

impl std::error::Error for CodecError {}

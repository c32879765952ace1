//! Sound in and sound out: the blocking [`Source`] and [`Sink`] traits, and what stands behind them.
//!
//! A source or sink moves one frame per call and blocks while it must. A device hides its callback
//! and its queue behind them. Whoever has no clock of his own (a file, a tone) says so, and the
//! pipeline paces him against deadlines. PCM is interleaved `i16`, length = samples × channels.

#[cfg(feature = "device")]
pub mod device;
mod kind;
mod memory;
mod mix;
pub mod programme;
mod raw;
mod tone;
mod wav;
mod wav_header;
mod wav_sink;

pub use kind::{SinkKind, SourceKind, SpecError, default_output_works};
pub use memory::{MemorySink, NullSink};
pub use programme::ProgrammeSource;
pub use raw::{RawSink, RawSource};
pub use tone::ToneSource;
pub use wav::{WavSource, fuzz_wav};
pub use wav_sink::WavSink;

use crate::units::Format;
use std::fmt;
use std::time::Duration;

/// Where sound comes from.
pub trait Source: Send {
    /// Prepares to serve `frame_samples` samples per channel per read in `format`. Called once,
    /// before the first read.
    ///
    /// # Errors
    /// When the source cannot be opened or cannot be converted to `format`.
    fn open(&mut self, format: Format, frame_samples: usize) -> Result<(), AudioError>;

    /// Fills `pcm` (interleaved, length = frame samples × channels) and returns how much of it was
    /// filled; less than all of it only at the end of the sound, and 0 after that.
    ///
    /// # Errors
    /// When the sound cannot be read any more.
    fn read(&mut self, pcm: &mut [i16]) -> Result<usize, AudioError>;

    /// Whether [`Source::read`] blocks until the sound is due by the source's own clock.
    fn has_clock(&self) -> bool;

    /// Samples per channel that were lost because nobody read in time.
    fn overrun_samples(&self) -> u64 {
        0
    }
}

/// Where sound goes.
pub trait Sink: Send {
    /// Prepares to take the stream `stream`, and answers with the format that it wants to be
    /// given. Called before the first write, and again when the stream changes its format.
    ///
    /// # Errors
    /// When the sink cannot be opened.
    fn open(&mut self, stream: Format) -> Result<Format, AudioError>;

    /// Takes `pcm` (interleaved, in the format answered by [`Sink::open`]); blocks while its queue
    /// is full.
    ///
    /// # Errors
    /// When the sound cannot be taken any more. [`AudioError::Closed`] when nobody wants it any
    /// more, as with a closed pipe.
    fn write(&mut self, pcm: &[i16]) -> Result<(), AudioError>;

    /// Whether [`Sink::write`] blocks at the pace of a clock of the sink's own.
    fn has_clock(&self) -> bool;

    /// Whether sound may be written before it is due, to a sink without a clock. Where nobody hears
    /// it as it comes, writing a segment at once saves waking for each frame.
    fn takes_ahead(&self) -> bool {
        false
    }

    /// Sound that was written and is not yet heard.
    fn queued(&self) -> Duration {
        Duration::ZERO
    }

    /// How often the sound was interrupted because nothing was written in time.
    fn underruns(&self) -> u64 {
        0
    }

    /// Makes what was written durable (a valid WAV header, an empty pipe buffer). Called at least
    /// once a second, and at the end.
    ///
    /// # Errors
    /// When that fails.
    fn flush(&mut self) -> Result<(), AudioError>;
}

/// Why sound could not be read or written.
#[derive(Debug)]
#[non_exhaustive]
pub enum AudioError {
    /// The other end is closed; not a failure.
    Closed,
    /// An operation on something named failed.
    Failed {
        /// What was attempted, with the name of the object: `open wav file "x.wav"`.
        what: String,
        /// Why it failed.
        cause: String,
    },
}

impl AudioError {
    /// The operation `what` failed because of `cause`.
    pub(crate) fn failed(what: impl Into<String>, cause: impl fmt::Display) -> AudioError {
        AudioError::Failed { what: what.into(), cause: cause.to_string() }
    }

    /// An I/O operation failed.
    pub(crate) fn io(what: impl Into<String>, error: &std::io::Error) -> AudioError {
        AudioError::failed(what, system_words(error))
    }
}

/// The system's words for an error, to follow a colon: without its number, and without the capital
/// letter in front.
pub fn system_words(error: &std::io::Error) -> String {
    let text = error.to_string();
    let mut letters = text.split(" (os error").next().unwrap_or_default().chars();
    let first = letters.next().map(|letter| letter.to_ascii_lowercase());
    first.into_iter().chain(letters).collect()
}

impl fmt::Display for AudioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AudioError::Closed => write!(f, "closed by the other end"),
            AudioError::Failed { what, cause } => write!(f, "cannot {what}: {cause}"),
        }
    }
}

impl std::error::Error for AudioError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_one_lower_case_line() {
        let missing = std::io::Error::from_raw_os_error(2);
        let error = AudioError::io("open wav file \"x.wav\"", &missing);
        assert_eq!(error.to_string(), "cannot open wav file \"x.wav\": no such file or directory");
        assert_eq!(AudioError::Closed.to_string(), "closed by the other end");
    }
}

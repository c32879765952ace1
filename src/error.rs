//! The crate's error: what was attempted, and why it failed.

use crate::audio::AudioError;
use crate::codec::CodecError;
use crate::responder::ResponderError;
use std::fmt;
use std::io;

/// Why a server or client could not start, or had to stop.
///
/// Hostile input never is an error here: it is counted.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The settings do not fit together; the text says which, and what would be right.
    Settings(String),
    /// The sound cannot be read or written.
    Audio(AudioError),
    /// The codec cannot be set up.
    Codec(CodecError),
    /// The responder cannot listen or failed.
    Responder(ResponderError),
    /// An operation of the system failed.
    System {
        /// What was attempted, with the name of the object: `bind udp 0.0.0.0:53`.
        what: String,
        /// Why it failed.
        cause: io::Error,
    },
    /// A thread panicked; a bug.
    Panicked(&'static str),
}

impl Error {
    /// An operation of the system failed.
    pub fn system(what: impl Into<String>, cause: io::Error) -> Error {
        Error::System { what: what.into(), cause }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Settings(text) => f.write_str(text),
            Error::Audio(error) => error.fmt(f),
            Error::Codec(error) => error.fmt(f),
            Error::Responder(error) => error.fmt(f),
            Error::System { what, cause } => {
                write!(f, "cannot {what}: {}", system_words(cause))
            }
            Error::Panicked(thread) => write!(f, "thread {thread} panicked; this is a bug"),
        }
    }
}

/// The system's words for an error, lower case, without its number.
pub(crate) fn system_words(cause: &io::Error) -> String {
    cause.to_string().split(" (os error").next().unwrap_or_default().to_lowercase()
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Audio(error) => Some(error),
            Error::Codec(error) => Some(error),
            Error::Responder(error) => Some(error),
            Error::System { cause, .. } => Some(cause),
            Error::Settings(_) | Error::Panicked(_) => None,
        }
    }
}

impl From<AudioError> for Error {
    fn from(error: AudioError) -> Error {
        Error::Audio(error)
    }
}

impl From<CodecError> for Error {
    fn from(error: CodecError) -> Error {
        Error::Codec(error)
    }
}

//! The crate's error: what was attempted, and why it failed.

use crate::audio::{AudioError, system_words};
use crate::codec::CodecError;
use std::fmt;
use std::io;
use std::net::SocketAddr;

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

/// Why the responder could not start, or had to stop.
#[derive(Debug)]
#[non_exhaustive]
pub enum ResponderError {
    /// There is no address to listen on.
    NoAddress,
    /// An address is not to be had.
    Bind {
        /// `udp` or `tcp`.
        transport: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        cause: io::Error,
    },
    /// This address is taken by another one of the list.
    Overlap(SocketAddr),
    /// A thread or what it needs is not to be had.
    Start(io::Error),
    /// A thread panicked; a bug.
    Panicked(&'static str),
}

impl fmt::Display for ResponderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ResponderError::NoAddress => f.write_str("no address to listen on"),
            ResponderError::Bind { transport, address, cause } => {
                write!(f, "cannot bind {transport} {address}: ")?;
                match cause.kind() {
                    io::ErrorKind::AddrInUse if address.port() == 53 => f.write_str(
                        "another DNS service (systemd-resolved, dnsmasq, unbound, named, ...) has \
                         this port; stop it, listen on another address, or take another port",
                    ),
                    io::ErrorKind::AddrInUse => f.write_str("another program has this port"),
                    io::ErrorKind::PermissionDenied if address.port() < 1024 => f.write_str(
                        "ports below 1024 need root or the capability cap_net_bind_service; take \
                         one or the other, or a higher port",
                    ),
                    io::ErrorKind::AddrNotAvailable => {
                        f.write_str("no interface of this machine has this address")
                    }
                    _ => f.write_str(&system_words(cause)),
                }
            }
            ResponderError::Overlap(address) => write!(
                f,
                "{address} is to be listened on twice: it is named twice, or beside the wildcard that \
                 takes it; name one of them"
            ),
            ResponderError::Start(cause) => {
                write!(f, "cannot start the responder: {}", system_words(cause))
            }
            ResponderError::Panicked(name) => write!(f, "thread {name} panicked; this is a bug"),
        }
    }
}

impl std::error::Error for ResponderError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ResponderError::Bind { cause, .. } | ResponderError::Start(cause) => Some(cause),
            ResponderError::NoAddress
            | ResponderError::Overlap(_)
            | ResponderError::Panicked(_) => None,
        }
    }
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

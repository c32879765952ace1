//! Sources and sinks as the command line names them: what can be seen to be wrong before anything
//! starts, and what to do when one does not open.

use super::failure::Failure;
use aodns::audio::{AudioError, Sink, SinkKind, Source, SourceKind, default_output_works};
use aodns::error::Error;
use aodns::responder::ResponderError;
use std::io::{ErrorKind, IsTerminal};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// Makes the source.
///
/// # Errors
/// When this build cannot do it.
pub fn source(kind: &SourceKind, looping: bool) -> Result<Box<dyn Source>, Failure> {
    kind.build(looping).map_err(|error| source_failure(kind, &error.into()))
}

/// What is waited for until the source is open, where that may take long.
pub fn wait(kind: &SourceKind) -> Option<String> {
    match kind {
        SourceKind::Wav(path) if path.metadata().is_ok_and(|file| file.file_type().is_fifo()) => {
            Some(format!("waiting for a program that writes to {path:?}"))
        }
        _ => None,
    }
}

/// Makes the sink. It is opened when the stream is known; what would fail then and can be seen now
/// fails now.
///
/// # Errors
/// When this build cannot do it, or it could not be opened.
pub fn sink(kind: &SinkKind) -> Result<Box<dyn Sink>, Failure> {
    let failed = |error: AudioError| sink_failure(kind, &error.into());
    let sink = kind.build().map_err(failed)?;
    let refuse = |text: String| Err(Failure::Runtime(format!("{text}; {}", sink_cure(kind))));
    match kind {
        SinkKind::Default if !default_output_works() => {
            refuse("cannot open sound output default: there is none, or it is taken".into())
        }
        SinkKind::Raw if std::io::stdout().is_terminal() => {
            refuse("cannot play to standard output: it is a terminal".into())
        }
        SinkKind::Wav(path) if path.is_dir() => {
            refuse(format!("cannot write wav file {path:?}: it is a directory"))
        }
        SinkKind::Wav(path) if path.exists() && !path.is_file() => {
            refuse(format!("cannot write wav file {path:?}: it is no regular file"))
        }
        SinkKind::Wav(path) if !directory(path).is_dir() => {
            refuse(format!("cannot write wav file {path:?}: there is no such directory"))
        }
        _ => Ok(sink),
    }
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A failure of a server whose sound comes from `kind`.
pub fn source_failure(kind: &SourceKind, error: &Error) -> Failure {
    let cure = match (error, kind) {
        (Error::Audio(_), SourceKind::Default | SourceKind::Device(_)) => {
            Some("`--input demo` needs no device, and `--input FILE.wav` takes a file")
        }
        (Error::Audio(_), SourceKind::Wav(_)) => Some("`--input` takes a WAV file of PCM"),
        (Error::Responder(ResponderError::Bind { cause, address, .. }), _) => match cause.kind() {
            ErrorKind::AddrInUse if address.port() != 53 => {
                Some("choose another with --dns-port, or 0 for a free one")
            }
            _ => None,
        },
        _ => None,
    };
    // What the device says may name the cure already.
    let told = error.to_string().contains("--input");
    Failure::from_library(error, cure.filter(|_| !told))
}

/// A failure of a listener whose sound goes to `kind`.
pub fn sink_failure(kind: &SinkKind, error: &Error) -> Failure {
    let told = error.to_string().contains("--output");
    let cure = matches!(error, Error::Audio(_)).then(|| sink_cure(kind));
    Failure::from_library(error, cure.filter(|_| !told))
}

fn sink_cure(kind: &SinkKind) -> &'static str {
    match kind {
        SinkKind::Default | SinkKind::Device(_) => {
            "`--output FILE.wav` needs no device, and `--output -` plays to another program"
        }
        SinkKind::Raw => "append `| aplay -t raw -f S16_LE -r 16000`, or choose another --output",
        _ => "choose another --output",
    }
}

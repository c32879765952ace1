//! Why a command did not do what it was asked to, in words for people.

use aodns::error::Error;
use std::fmt;

/// Why a command ended early.
#[derive(Debug)]
pub enum Failure {
    /// The command line cannot be understood or does not fit together.
    Usage {
        /// What is wrong, and what would be right.
        text: String,
        /// The valid form.
        form: String,
        /// The command whose help says more; empty for the program's.
        command: &'static str,
    },
    /// Something failed on the way.
    Runtime(String),
    /// Something failed on the way, and was told already.
    Told,
    /// Nobody reads standard output any more; no reason to complain.
    Closed,
}

impl Failure {
    /// A runtime failure of the library, with what can be done about it, if that is known.
    pub fn from_library(error: &Error, cure: Option<&str>) -> Failure {
        match cure {
            Some(cure) => Failure::Runtime(format!("{error}; {cure}")),
            None => Failure::Runtime(error.to_string()),
        }
    }
}

/// The text to follow `aodns: ` on standard error.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Usage { text, form, command } => {
                let space = if command.is_empty() { "" } else { " " };
                write!(f, "{text}\nusage: {form}\n`aodns{space}{command} --help` says more")
            }
            Failure::Runtime(text) => f.write_str(text),
            Failure::Told => f.write_str("it failed"),
            Failure::Closed => f.write_str("standard output is closed"),
        }
    }
}

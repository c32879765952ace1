//! Where words go: standard error for people, standard output for data. A status line on a terminal
//! is rewritten in place; a reader that went away is noticed, never a panic.

use super::failure::Failure;
use aodns::audio::system_words;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};

/// Columns of a status line that is rewritten in place.
const STATUS_COLUMNS: usize = 79;

/// So many octets fit a pipe that takes any (PIPE_BUF).
const CHUNK_OCTETS: usize = 4096;
/// A reader that takes nothing is waited for this long, in milliseconds: what it misses then is lost, as
/// the program has more to do than to be read.
const READER_WAIT_MS: u16 = 200;

/// Where JSON lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Json {
    /// There are none.
    Off,
    /// To standard output.
    Stdout,
    /// To standard error, as standard output carries sound.
    Stderr,
}

/// What is said to whom.
#[derive(Debug)]
pub struct Console {
    json: Json,
    quiet: bool,
    terminal: bool,
    /// A status line stands where the next line is to go.
    status_shown: bool,
}

impl Console {
    /// A console that says nothing but errors when `quiet`.
    pub fn new(json: Json, quiet: bool) -> Console {
        let terminal = io::stderr().is_terminal() && json == Json::Off && !quiet;
        Console { json, quiet, terminal, status_shown: false }
    }

    /// Whether there are JSON lines.
    pub fn is_json(&self) -> bool {
        self.json != Json::Off
    }

    /// Whether a status line can be rewritten in place.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// A line, or several, for people.
    pub fn say(&mut self, text: &str) {
        // JSON lines are not to be mixed with others.
        if self.quiet || self.json == Json::Stderr {
            return;
        }
        let clear = if std::mem::take(&mut self.status_shown) { "\r\x1b[K" } else { "" };
        complain(&format!("{clear}{text}\n"));
    }

    /// The status line on a terminal.
    pub fn status(&mut self, line: &str) {
        if !self.terminal {
            return;
        }
        let line: String = line.chars().take(STATUS_COLUMNS).collect();
        complain(&format!("\r{line}\x1b[K"));
        self.status_shown = true;
    }

    /// A JSON object, when they are wanted.
    ///
    /// # Errors
    /// When standard output is closed or broken.
    pub fn json(&self, object: &str) -> Result<(), Failure> {
        match self.json {
            Json::Off => {}
            Json::Stdout => {
                let line = format!("{object}\n");
                if is_read(io::stdout().as_fd()) {
                    print(&line)?;
                }
            }
            Json::Stderr => complain(&format!("{object}\n")),
        }
        Ok(())
    }
}

impl Console {
    /// A JSON object, when they are wanted, of a program that has more to do than to be read: when nobody
    /// takes them any more, that is told once.
    pub fn json_or_warn(&mut self, object: &str) {
        if let Err(failure) = self.json(object) {
            self.json = Json::Off;
            self.say(&format!(
                "warning: {failure}; there are no more JSON lines, the rest goes on"
            ));
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        if self.status_shown {
            complain("\n");
        }
    }
}

/// Writes data to standard output.
///
/// # Errors
/// [`Failure::Closed`] when nobody reads it, and what else went wrong.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::Closed),
        Err(error) => {
            Err(Failure::Runtime(format!("cannot write standard output: {}", system_words(&error))))
        }
    }
}

/// Writes to standard error.
pub fn complain(text: &str) {
    let mut err = io::stderr().lock();
    for chunk in text.as_bytes().chunks(CHUNK_OCTETS) {
        if !is_read(err.as_fd()) {
            return;
        }
        // There is nobody left to be told that nobody listens.
        let _unheard = err.write_all(chunk);
    }
}

/// Whether somebody takes what is written, or will never: then writing tells.
fn is_read(out: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(out, PollFlags::POLLOUT)];
    !matches!(poll(&mut fds, PollTimeout::from(READER_WAIT_MS)), Ok(0))
}

/// Text from strangers, fit for a line of a terminal or a log: what does not print, or turns the
/// direction of writing, is written as its code.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        let unfit = character.is_control()
            || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
        if unfit {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_written_as_its_code() {
        assert_eq!(escape("a\u{1b}[2J\r\nb"), "a\\u{1b}[2J\\r\\nb");
        assert_eq!(escape("\u{9b}31m"), "\\u{9b}31m");
        assert_eq!(escape("a\u{202e}b"), "a\\u{202e}b");
        assert_eq!(escape("Grüße, 世界"), "Grüße, 世界");
    }
}

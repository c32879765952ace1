//! SIGINT, SIGTERM and SIGHUP as a wish to stop in order, and waiting without turns in vain.

use super::failure::Failure;
use aodns::audio::system_words;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{flag, low_level::pipe};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Where Linux tells what becomes of this process's signals.
const STATUS: &str = "/proc/self/status";

/// SIGHUP, unless it is ignored on purpose, as nohup does, or that cannot be known.
fn hangup() -> Option<i32> {
    let status = std::fs::read_to_string(STATUS).ok()?;
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    let ignored = u64::from_str_radix(ignored.trim(), 16).ok()?;
    (ignored >> (SIGHUP - 1) & 1 == 0).then_some(SIGHUP)
}

/// Whether somebody wants the program to stop.
#[derive(Debug)]
pub struct Signals {
    wanted: Arc<AtomicBool>,
    /// One end of a pipe: readable once a signal came.
    came: OwnedFd,
}

impl Signals {
    /// From now on the first signal is a wish; a second one, should the first not be heeded, ends
    /// the program on the spot.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn install() -> Result<Signals, Failure> {
        let refused = |cause: std::io::Error| {
            Failure::Runtime(format!("cannot handle signals: {}", system_words(&cause)))
        };
        let wanted = Arc::new(AtomicBool::new(false));
        let (came, tell) =
            aodns::pipeline::pipe().map_err(|error| Failure::Runtime(error.to_string()))?;
        for signal in [SIGINT, SIGTERM].into_iter().chain(hangup()) {
            let tell = tell.try_clone().map_err(refused)?;
            // In this order: the first one looks at the flag before the second one sets it, and
            // whoever is woken finds it set.
            flag::register_conditional_default(signal, Arc::clone(&wanted))
                .and_then(|_| flag::register(signal, Arc::clone(&wanted)))
                .and_then(|_| pipe::register(signal, tell))
                .map_err(refused)?;
        }
        Ok(Signals { wanted, came })
    }

    /// Whether a signal came.
    pub fn stop_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire)
    }

    /// Waits until `until`, if ever, for a signal, or for one of `others` to become readable.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn wait(&self, until: Option<Instant>, others: &[BorrowedFd<'_>]) -> Result<(), Failure> {
        let timeout = until.map_or(PollTimeout::NONE, |until| {
            let left = until.saturating_duration_since(Instant::now());
            // Rounded up: a millisecond late is better than a turn without anything to do.
            let left = (left + Duration::from_micros(999)).as_millis().min(60_000) as i32;
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        let mut fds = vec![PollFd::new(self.came.as_fd(), PollFlags::POLLIN)];
        fds.extend(others.iter().map(|&fd| PollFd::new(fd, PollFlags::POLLIN)));
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(Failure::Runtime(format!("cannot wait: {errno}"))),
        }
    }
}

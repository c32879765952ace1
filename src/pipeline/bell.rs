//! Waking a thread that waits in `poll`.

use super::pipe;
use crate::error::Error;
use nix::unistd;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Wakes a thread that waits for it in `poll`, once for however often it is rung meanwhile.
#[derive(Debug)]
pub struct Bell {
    /// Whether there is an octet in the pipe, or about to be.
    rung: AtomicBool,
    heard: OwnedFd,
    pulled: OwnedFd,
}

impl Bell {
    /// A bell that was not rung yet.
    ///
    /// # Errors
    /// When the system gives no pipe.
    pub fn new() -> Result<Bell, Error> {
        let (heard, pulled) = pipe()?;
        Ok(Bell { rung: AtomicBool::new(false), heard, pulled })
    }

    /// Rings. What is to be seen by the thread that is woken is to be done before.
    pub fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            // An empty pipe takes an octet, and its reader lives as long as it does.
            let _always = unistd::write(&self.pulled, &[0]);
        }
    }

    /// For a `poll`: readable while it was rung and [`Bell::hear`] was not called since.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.heard.as_fd()
    }

    /// Whether it was rung since the last call. Only one thread may call this; what it looks at is to be
    /// looked at afterwards.
    pub fn hear(&self) -> bool {
        if !self.rung.load(Ordering::Acquire) {
            return false;
        }
        // The octet is there, or will be in no time.
        let _always = unistd::read(&self.heard, &mut [0]);
        self.rung.store(false, Ordering::Release);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    fn is_readable(bell: &Bell) -> bool {
        let mut fds = [PollFd::new(bell.fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
    }

    #[test]
    fn many_rings_are_heard_once() {
        let bell = Bell::new().unwrap();
        assert!(!is_readable(&bell) && !bell.hear());
        for _ in 0..100_000 {
            bell.ring();
        }
        assert!(is_readable(&bell) && bell.hear());
        assert!(!is_readable(&bell) && !bell.hear());
        bell.ring();
        assert!(is_readable(&bell) && bell.hear());
    }

    #[test]
    fn nothing_done_before_a_ring_is_missed() {
        const TURNS: u64 = 20_000;
        let bell = Bell::new().unwrap();
        let done = std::sync::atomic::AtomicU64::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..TURNS {
                    done.fetch_add(1, Ordering::AcqRel);
                    bell.ring();
                }
            });
            while done.load(Ordering::Acquire) < TURNS || bell.rung.load(Ordering::Acquire) {
                let mut fds = [PollFd::new(bell.fd(), PollFlags::POLLIN)];
                assert_eq!(poll(&mut fds, PollTimeout::from(30_000u16)), Ok(1), "a ring was lost");
                bell.hear();
            }
        });
        assert!(!is_readable(&bell));
    }
}

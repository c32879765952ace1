//! The stages between a sound source and the zone, and between the network and a sound sink, each
//! a thread with a name that owns its state, joined by bounded channels.
//!
//! ```text
//! capture ─pcm (4)─▶ encode ─texts (32)─▶ sequence ─▶ Publication ─▶ responder
//! fetch ─events (256)─▶ play
//! ```
//!
//! A full channel blocks the stage before it; the pressure ends at the source, which may drop what
//! a device delivers meanwhile, and counts it. A stage that fails or panics ends the others; the
//! first error is what stopping returns.

pub mod bell;
pub mod play;
pub mod produce;
pub mod render;

use crate::error::Error;
use crate::units::Moment;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The present by both clocks. The one place where the library asks.
pub fn moment() -> Moment {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let unix_ms = u64::try_from(unix.as_millis()).unwrap_or(u64::MAX);
    Moment { instant: Instant::now(), unix_ms }
}

/// What the stages of one pipeline share: whether to stop, and why.
#[derive(Debug)]
pub struct Supervision {
    stop: AtomicBool,
    finished: AtomicBool,
    error: Mutex<Option<Error>>,
    /// One end of a pipe, closed once everything is finished: whoever polls the other end is told.
    open: Mutex<Option<OwnedFd>>,
    end: OwnedFd,
}

impl Supervision {
    /// Of a pipeline that is about to start.
    ///
    /// # Errors
    /// When the system gives no pipe.
    pub fn new() -> Result<Supervision, Error> {
        let (end, open) = pipe()?;
        Ok(Supervision {
            stop: AtomicBool::new(false),
            finished: AtomicBool::new(false),
            error: Mutex::new(None),
            open: Mutex::new(Some(open)),
            end,
        })
    }

    /// Whether the stages are to end.
    pub fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Tells the stages to end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Whether everything there was to do is done, or failed.
    pub fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Acquire)
    }

    /// Says that everything there was to do is done.
    pub fn finish(&self) {
        self.finished.store(true, Ordering::Release);
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Readable (at its end) once [`Supervision::is_finished`]; nothing is to be read from it.
    pub fn finished_fd(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }

    /// Ends the pipeline with an error; the first one counts.
    pub fn fail(&self, error: Error) {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.stop();
        self.finish();
    }

    /// The error that ended the pipeline, if one did.
    pub fn take_error(&self) -> Option<Error> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The reading and the writing end of a pipe, which programs that are run meanwhile do not inherit:
/// they would keep it open.
///
/// # Errors
/// When the system gives none.
pub fn pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    let failed = |errno: nix::errno::Errno| Error::system("make a pipe", errno.into());
    let ends = nix::unistd::pipe().map_err(failed)?;
    for end in [&ends.0, &ends.1] {
        fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(failed)?;
    }
    Ok(ends)
}

/// A thread of a pipeline.
#[derive(Debug)]
pub struct Stage {
    name: &'static str,
    thread: JoinHandle<()>,
}

impl Stage {
    /// Starts `run` on a thread called `name`. Its error, or its panic, ends the pipeline.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn spawn(
        name: &'static str,
        supervision: &Arc<Supervision>,
        run: impl FnOnce() -> Result<(), Error> + Send + 'static,
    ) -> Result<Stage, Error> {
        let shared = Arc::clone(supervision);
        let body = move || {
            let guard = PanicGuard { name, supervision: &shared };
            let result = run();
            std::mem::forget(guard);
            if let Err(error) = result {
                shared.fail(error);
            }
        };
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(body)
            .map_err(|cause| Error::system(format!("start thread {name}"), cause))?;
        Ok(Stage { name, thread })
    }

    /// Waits for the thread to end. A thread that does not within `patience` is left behind: it is
    /// blocked in a read that it does not control, such as standard input.
    pub fn join(self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while !self.thread.is_finished() {
            if Instant::now() >= deadline {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        // A panic was reported by the guard already.
        let _reported = self.thread.join();
    }

    /// The thread's name.
    pub fn name(&self) -> &'static str {
        self.name
    }
}

/// Reports a panic while it unwinds.
struct PanicGuard<'a> {
    name: &'static str,
    supervision: &'a Supervision,
}

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        self.supervision.fail(Error::Panicked(self.name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    #[test]
    fn a_panicked_stage_stops_the_others_and_is_named() {
        let supervision = Arc::new(Supervision::new().unwrap());
        let stage = Stage::spawn("brittle", &supervision, || panic!("on purpose")).unwrap();
        stage.join(Duration::from_secs(10));
        assert!(supervision.is_stopping() && supervision.is_finished());
        let error = supervision.take_error().unwrap();
        assert_eq!(error.to_string(), "thread brittle panicked; this is a bug");
    }

    #[test]
    fn the_end_is_told_even_while_another_program_runs() {
        let supervision = Supervision::new().unwrap();
        // It runs until its standard input, which is ours, ends.
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let readable = |within: PollTimeout| {
            let mut fds = [PollFd::new(supervision.finished_fd(), PollFlags::POLLIN)];
            poll(&mut fds, within).unwrap() == 1
        };
        assert!(!readable(PollTimeout::ZERO));
        supervision.finish();
        // Its copies are closed when it is loaded, which may be a moment after it was started.
        assert!(readable(PollTimeout::from(10_000u16)));
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn the_first_error_counts() {
        let supervision = Supervision::new().unwrap();
        supervision.fail(Error::Settings("first".into()));
        supervision.fail(Error::Settings("second".into()));
        assert_eq!(supervision.take_error().unwrap().to_string(), "first");
    }
}

//! The thread that owns a device's stream: opens it, watches it, and opens it again when it fails.
//!
//! The user of a device gets a *line*, his end of the queue to the callback, and another one
//! whenever the device was opened again. The sound system is called on this thread alone, as it may
//! take its time or hang; so whoever waits for it can stop waiting. Reports from the callbacks come
//! through a channel of one place: that is all there is to see of a flood of errors.

use super::host::{self, Direction};
use super::queue::{InputLine, OutputLine};
use crate::audio::AudioError;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, select};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The keeper's times.
#[derive(Clone, Copy, Debug)]
struct Times {
    /// Between two looks at whether the callback is still being called.
    tick: Duration,
    /// A stream whose callback is not called for this long has failed.
    stall: Duration,
    /// A stream that has run this long is well again, whatever was before.
    well: Duration,
    /// How long to try to have a lost device back.
    give_up: Duration,
    /// Pause before the first attempt to reopen; it doubles each time, up to `pause_max`.
    pause: Duration,
    pause_max: Duration,
}

/// Sound servers take up to two seconds to start, hence `stall`.
const TIMES: Times = Times {
    tick: Duration::from_millis(500),
    stall: Duration::from_secs(4),
    well: Duration::from_secs(1),
    give_up: Duration::from_secs(5),
    pause: Duration::from_millis(100),
    pause_max: Duration::from_millis(800),
};
/// A stream that goes on after an error has failed nevertheless when that comes again so often,
const LAPSES_MAX: u64 = 3;
/// each time within so many calls of its callback since the last,
const CLEAN_CALLS: u64 = 32;
/// but for the first calls of a stream that begins, or begins anew; or when so many errors come
const FIRST_CALLS: u64 = 8;
/// without any call between: about half a second.
const ERRORS_MAX: u64 = 250;
/// How long closing may take.
const CLOSE_PATIENCE: Duration = Duration::from_millis(500);

/// What the thread has to say; the newest counts.
type Event<L> = Result<L, AudioError>;

/// A handle to the thread. Dropping it closes the device.
pub(super) struct Keeper<L> {
    direction: Direction,
    name: Option<String>,
    /// The next line whenever the device was opened again, or why it could not be. The line before
    /// is dead then, though its other end may be left in the hands of a stream that hangs.
    pub(super) events: Receiver<Event<L>>,
    /// Disconnected to end the thread. An `Option` so that it can be dropped first.
    close: Option<Sender<()>>,
}

impl Keeper<InputLine> {
    /// Keeps an input open; `lost_ns` counts what it drops, in nanoseconds.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn input(
        name: Option<&str>,
        lost_ns: Arc<AtomicU64>,
    ) -> Result<Keeper<InputLine>, AudioError> {
        let open = move |name: Option<&str>, watch| host::open_input(name, watch, &lost_ns);
        Keeper::start("device-in", Direction::Input, name, open)
    }
}

impl Keeper<OutputLine> {
    /// Keeps an output open; `underruns` counts interruptions.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn output(
        name: Option<&str>,
        underruns: Arc<AtomicU64>,
    ) -> Result<Keeper<OutputLine>, AudioError> {
        let open = move |name: Option<&str>, watch| host::open_output(name, watch, &underruns);
        Keeper::start("device-out", Direction::Output, name, open)
    }
}

impl<L: Send + 'static> Keeper<L> {
    fn start<S, O>(
        thread: &str,
        direction: Direction,
        name: Option<&str>,
        open: O,
    ) -> Result<Keeper<L>, AudioError>
    where
        S: Send + 'static,
        O: Fn(Option<&str>, Watch) -> Result<(S, L), AudioError> + Send + 'static,
    {
        // One place; a line that nobody took is worth nothing once there is a newer one.
        let (events_in, events) = bounded(1);
        let (close, closed) = bounded(0);
        let stale = events.clone();
        let owned = name.map(str::to_owned);
        let body = move || {
            let post = |event| {
                let _stale = stale.try_recv();
                // Fails when the user is gone, who closes the device with that.
                let _ = events_in.try_send(event);
            };
            let name = owned.as_deref();
            let lost = |cause: &str| host::failed(direction, name, cause);
            keep(TIMES, |watch| open(name, watch), lost, post, &closed);
        };
        std::thread::Builder::new()
            .name(thread.to_owned())
            .spawn(body)
            .map_err(|error| AudioError::io(host::attempt(direction, name), &error))?;
        Ok(Keeper { direction, name: name.map(str::to_owned), events, close: Some(close) })
    }

    /// Waits for the device to be open, or open again.
    ///
    /// # Errors
    /// When it cannot be opened, or not within `patience`.
    pub(super) fn next_line(&self, patience: Duration) -> Result<L, AudioError> {
        match self.events.recv_timeout(patience) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => Err(self.silent()),
            Err(RecvTimeoutError::Disconnected) => Err(self.lost()),
        }
    }

    /// The error for a device that was given up before.
    pub(super) fn lost(&self) -> AudioError {
        host::failed(self.direction, self.name.as_deref(), "it was lost")
    }

    /// The error for a device that does nothing at all.
    pub(super) fn silent(&self) -> AudioError {
        host::failed(self.direction, self.name.as_deref(), "the sound system does not answer")
    }
}

impl<L> Drop for Keeper<L> {
    fn drop(&mut self) {
        drop(self.close.take());
        // Nothing that comes meanwhile is of use; the end of the thread disconnects the channel.
        let deadline = Instant::now() + CLOSE_PATIENCE * 2;
        while self.events.recv_deadline(deadline).is_ok() {}
    }
}

/// Closes a stream by dropping it, on a thread of its own: the sound system may be stuck so badly
/// that this never returns (libpulse does that when its server is killed during a recording). The
/// thread is left alone then, and ends with the process.
fn close<S: Send + 'static>(stream: S) {
    let (done_in, done) = bounded::<()>(0);
    let body = move || {
        host::hush();
        drop(stream);
        drop(done_in);
    };
    // Without a thread, the stream is dropped here and now with `body`.
    if std::thread::Builder::new().name("device-close".into()).spawn(body).is_ok() {
        // Disconnected when it is done, timed out when it is stuck; nothing else is to be done.
        let _ = done.recv_timeout(CLOSE_PATIENCE);
    }
}

/// The thread's body. `S` is the stream; dropping it closes it.
fn keep<S: Send + 'static, L>(
    times: Times,
    open: impl Fn(Watch) -> Result<(S, L), AudioError>,
    lost: impl Fn(&str) -> AudioError,
    post: impl Fn(Event<L>),
    closed: &Receiver<()>,
) {
    let mut failing = None;
    let mut opened_once = false;
    loop {
        let (watch, watcher) = watch();
        let trouble = match open(watch) {
            Ok((stream, line)) => {
                opened_once = true;
                post(Ok(line));
                let ended = watcher.wait(times, closed);
                watcher.broken.store(true, Ordering::Relaxed);
                close(stream);
                let Some((cause, ran)) = ended else { return };
                if ran >= times.well {
                    failing = None;
                }
                lost(&cause)
            }
            // Who names a device that is not there is told at once.
            Err(error) if !opened_once => return post(Err(error)),
            Err(error) => error,
        };
        let (since, pause) = *failing.get_or_insert((Instant::now(), times.pause));
        if since.elapsed() + pause >= times.give_up {
            return post(Err(trouble));
        }
        if closed.recv_timeout(pause) == Err(RecvTimeoutError::Disconnected) {
            return;
        }
        failing = Some((since, (pause * 2).min(times.pause_max)));
    }
}

/// What a stream's callbacks tell the keeper through.
#[derive(Clone)]
pub(super) struct Watch {
    errors: Sender<cpal::Error>,
    calls: Arc<AtomicU64>,
    lapses: Arc<Lapses>,
    broken: Arc<AtomicBool>,
}

/// Errors that a stream went on after. They come one at a time, on the thread that calls back.
#[derive(Default)]
struct Lapses {
    /// Calls before the stream began anew last.
    began: AtomicU64,
    /// Calls before the last error,
    calls: AtomicU64,
    /// errors since then,
    errors: AtomicU64,
    /// and how often there were errors of late.
    count: AtomicU64,
}

impl Lapses {
    /// Notes an error after `calls` calls. Whether it begins a lapse, of a stream that was well
    /// before; and whether the stream has failed.
    fn note(&self, calls: u64) -> (bool, bool) {
        let clean = calls - self.calls.swap(calls, Ordering::Relaxed);
        if clean == 0 {
            let errors = self.errors.fetch_add(1, Ordering::Relaxed) + 1;
            return (false, errors >= ERRORS_MAX);
        }
        self.errors.store(1, Ordering::Relaxed);
        if calls - self.began.load(Ordering::Relaxed) < FIRST_CALLS {
            return (false, false);
        }
        if clean >= CLEAN_CALLS {
            self.count.store(0, Ordering::Relaxed);
        }
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        (clean >= CLEAN_CALLS, count > LAPSES_MAX)
    }
}

/// The keeper's side of a [`Watch`].
struct Watcher {
    errors: Receiver<cpal::Error>,
    calls: Arc<AtomicU64>,
    broken: Arc<AtomicBool>,
}

fn watch() -> (Watch, Watcher) {
    // One place: of several errors at once, one is as good as the others.
    let (errors_in, errors) = bounded(1);
    let (calls, broken) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let watcher = Watcher { errors, calls: Arc::clone(&calls), broken: Arc::clone(&broken) };
    (Watch { errors: errors_in, calls, lapses: Arc::default(), broken }, watcher)
}

impl Watch {
    /// Notes a call of the data callback, and says whether the stream is sound: a broken one may
    /// go on calling, for nothing.
    pub(super) fn called(&self) -> bool {
        self.calls.fetch_add(1, Ordering::Relaxed);
        !self.broken.load(Ordering::Relaxed)
    }

    /// Notes an error that ends the stream.
    pub(super) fn fail(&self, error: cpal::Error) {
        self.broken.store(true, Ordering::Relaxed);
        // Full when there was an error before.
        let _ = self.errors.try_send(error);
    }

    /// Notes an error that the stream may go on after. Says whether sound is interrupted by it that
    /// was not before.
    pub(super) fn lapse(&self, error: cpal::Error) -> bool {
        let (begins, failed) = self.lapses.note(self.calls.load(Ordering::Relaxed));
        if failed {
            self.fail(error);
        }
        begins
    }

    /// Notes that the stream has begun anew by itself.
    pub(super) fn restarted(&self) {
        let calls = self.calls.load(Ordering::Relaxed);
        self.lapses.began.store(calls, Ordering::Relaxed);
        self.lapses.calls.store(calls, Ordering::Relaxed);
        self.lapses.errors.store(0, Ordering::Relaxed);
    }
}

impl Watcher {
    /// Waits until the stream fails, and returns why and how long it ran; `None` when the user has
    /// closed the device.
    fn wait(&self, times: Times, closed: &Receiver<()>) -> Option<(String, Duration)> {
        let opened = Instant::now();
        let (mut calls, mut called) = (0, opened);
        loop {
            let error = select! {
                recv(closed) -> _ => return None,
                recv(self.errors) -> error => Some(error),
                default(times.tick) => None,
            };
            let count = self.calls.load(Ordering::Relaxed);
            if count != calls {
                (calls, called) = (count, Instant::now());
            }
            let ran = called - opened;
            match error {
                Some(Ok(error)) => return Some((host::cause(&error), ran)),
                Some(Err(_gone)) => return Some(("its callback is gone".into(), ran)),
                None if called.elapsed() >= times.stall => {
                    return Some(("it stands still".into(), ran));
                }
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpal::ErrorKind;
    use std::cell::RefCell;

    const FAST: Times = Times {
        tick: Duration::from_millis(1),
        stall: Duration::from_millis(20),
        well: Duration::from_millis(60_000),
        give_up: Duration::from_millis(100),
        pause: Duration::from_millis(1),
        pause_max: Duration::from_millis(16),
    };

    /// Runs a keeper over streams that fail as `open` makes them; what it posted, in order.
    fn events(open: impl Fn(usize, Watch) -> Result<(), AudioError>) -> Vec<Result<usize, String>> {
        let posted = RefCell::new(Vec::new());
        let opened = RefCell::new(0);
        let (close, closed) = bounded(0);
        let close = RefCell::new(Some(close));
        keep(
            FAST,
            |watch| {
                *opened.borrow_mut() += 1;
                let number = *opened.borrow();
                if number == 5 {
                    close.take();
                }
                open(number, watch.clone()).map(|()| (watch, number))
            },
            |cause| AudioError::failed("lose", cause),
            |event| posted.borrow_mut().push(event.map_err(|error| error.to_string())),
            &closed,
        );
        posted.into_inner()
    }

    #[test]
    fn what_cannot_be_opened_at_first_is_an_error_at_once() {
        let events = events(|number, _| Err(AudioError::failed("open", number)));
        assert_eq!(events, [Err("cannot open: 1".to_owned())]);
    }

    #[test]
    fn a_stream_that_fails_is_opened_again_until_it_is_closed() {
        let events = events(|number, watch| {
            if number == 3 {
                return Err(AudioError::failed("open", "busy"));
            }
            for _ in 0..1_000 {
                watch.fail(ErrorKind::BackendError.into());
            }
            assert!(!watch.called());
            Ok(())
        });
        assert_eq!(events, [Ok(1), Ok(2), Ok(4), Ok(5)]);
    }

    /// Whether a stream is sound after so many errors, with `calls` calls before each.
    fn survives(errors: u64, calls: u64) -> bool {
        let lapses = Lapses { calls: FIRST_CALLS.into(), ..Lapses::default() };
        !(1..=errors).any(|number| lapses.note(FIRST_CALLS + number * calls).1)
    }

    #[test]
    fn errors_that_pass_do_not_end_a_stream() {
        assert!(survives(ERRORS_MAX - 1, 0) && !survives(ERRORS_MAX, 0));
        // Sound is lost each time, and without a pause if all goes wrong.
        assert!(survives(LAPSES_MAX, 1) && !survives(LAPSES_MAX + 1, 1));
        assert!(!survives(LAPSES_MAX + 1, CLEAN_CALLS - 1) && survives(1_000, CLEAN_CALLS));
    }

    #[test]
    fn an_error_interrupts_a_stream_that_was_well() {
        let (watch, watcher) = watch();
        let call = || (0..CLEAN_CALLS).for_each(|_| assert!(watch.called()));
        let lapse = || watch.lapse(ErrorKind::BackendError.into());
        assert!(watch.called() && watch.called() && !lapse() && !lapse(), "it begins");
        call();
        assert!(lapse() && !lapse());
        call();
        watch.restarted();
        assert!(!lapse(), "that is one with the restart");
        for _ in 0..ERRORS_MAX {
            watch.restarted();
            assert!(!lapse() && watch.called() && watch.called() && !lapse());
        }
        assert!(watch.called() && watcher.errors.is_empty(), "however often it begins anew");
    }

    #[test]
    fn a_device_that_does_not_come_back_is_an_error_after_a_while() {
        let started = Instant::now();
        let events = events(|number, watch| match number {
            1 => {
                watch.fail(ErrorKind::DeviceNotAvailable.into());
                Ok(())
            }
            // Five attempts end it; take four.
            _ if started.elapsed() < FAST.give_up => {
                std::thread::sleep(FAST.give_up);
                Err(AudioError::failed("open", "gone"))
            }
            _ => Err(AudioError::failed("open", "gone")),
        });
        assert_eq!(events, [Ok(1), Err("cannot open: gone".to_owned())]);
    }

    #[test]
    fn a_stream_that_is_never_called_has_failed() {
        let events = events(|_, _| Ok(()));
        assert!(matches!(&events[..], [Ok(1), Ok(2), ..]), "{events:?}");
    }
}

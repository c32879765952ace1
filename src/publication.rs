//! The one place where the sequencer's newest [`Snapshot`] meets the threads that answer from it.
//!
//! Not a queue: readers want the newest generation, not each. The lock is held for one clone of an
//! `Arc`; a reader that keeps its snapshot looks at the generation, without any lock, to see
//! whether there is a newer one.

use crate::window::Snapshot;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// The newest snapshot, swapped whole.
#[derive(Debug)]
pub struct Publication {
    newest: Mutex<Arc<Snapshot>>,
    changed: Condvar,
    generation: AtomicU64,
}

impl Publication {
    /// Begins with generation 0.
    pub fn new(snapshot: Snapshot) -> Publication {
        Publication {
            newest: Mutex::new(Arc::new(snapshot)),
            changed: Condvar::new(),
            generation: AtomicU64::new(0),
        }
    }

    /// Replaces the snapshot and wakes everybody in [`Publication::wait_newer`].
    pub fn publish(&self, snapshot: Snapshot) {
        let snapshot = Arc::new(snapshot);
        // A thread that panicked while it held the lock left a whole Arc behind: go on with it.
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *newest, snapshot);
        self.generation.fetch_add(1, Ordering::Release);
        drop(newest);
        self.changed.notify_all();
        // Freed outside the lock.
        drop(old);
    }

    /// The newest snapshot.
    pub fn load(&self) -> Arc<Snapshot> {
        Arc::clone(&self.newest.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How often [`Publication::publish`] was called.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Blocks until the generation differs from `seen`, at most for `timeout`; returns it.
    pub fn wait_newer(&self, seen: u64, timeout: Duration) -> u64 {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let waited =
            self.changed.wait_timeout_while(newest, timeout, |_| self.generation() == seen);
        drop(waited);
        self.generation()
    }

    /// Wakes everybody in [`Publication::wait_newer`] early, for stopping; spurious to them.
    pub fn wake(&self) {
        self.generation.fetch_add(1, Ordering::Release);
        let _newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        self.changed.notify_all();
    }
}

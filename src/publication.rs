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
    wakes: AtomicU64,
}

impl Publication {
    /// Begins with generation 0.
    pub fn new(snapshot: Snapshot) -> Publication {
        Publication {
            newest: Mutex::new(Arc::new(snapshot)),
            changed: Condvar::new(),
            generation: AtomicU64::new(0),
            wakes: AtomicU64::new(0),
        }
    }

    /// Replaces the snapshot and wakes everybody in [`Publication::wait_turn`].
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

    /// A number that every [`Publication::publish`] and every [`Publication::wake`] changes.
    pub fn turn(&self) -> u64 {
        self.generation().wrapping_add(self.wakes.load(Ordering::Acquire))
    }

    /// Blocks until [`Publication::turn`] differs from `seen`, at most for `timeout`. Who looks
    /// around between asking for the turn and waiting misses nothing.
    pub fn wait_turn(&self, seen: u64, timeout: Duration) {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(newest, timeout, |_| self.turn() == seen);
        drop(waited);
    }

    /// Wakes everybody in [`Publication::wait_turn`] although nothing was published. The generation
    /// stays: what was judged by the newest snapshot is not out of date.
    pub fn wake(&self) {
        self.wakes.fetch_add(1, Ordering::Release);
        let _newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::moment;
    use crate::zone::tests_support::zone_and_snapshot;

    #[test]
    fn a_wake_is_no_publication() {
        let publication = Publication::new(zone_and_snapshot(moment()).1);
        let (generation, turn) = (publication.generation(), publication.turn());
        publication.wake();
        assert_eq!(publication.generation(), generation);
        // Would block for ever if the wake before it were missed.
        publication.wait_turn(turn, Duration::MAX);
        let turn = publication.turn();
        publication.publish(zone_and_snapshot(moment()).1);
        assert_eq!(publication.generation(), generation + 1);
        publication.wait_turn(turn, Duration::MAX);
    }
}

//! Questions that are answered when their segment is published (dns-behaviour 5.4, D5 to D8).
//!
//! A slot holds what is needed to answer later: where the question came from, its octets, and until
//! when to wait. No thread waits for a question of its own, and there is a fixed number of slots.

use super::limit::Prefix;
use super::udp::Local;
use crate::units::Sequence;
use crate::window::Snapshot;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Longest question that is held, in octets.
const MESSAGE_OCTETS_MAX: usize = 400;

/// How a question came, and so how its answer goes.
#[derive(Clone, Copy, Debug)]
pub enum Origin {
    /// A datagram.
    Udp {
        /// Index of the socket.
        socket: usize,
        /// The address it was sent to.
        local: Local,
    },
    /// A connection.
    Tcp {
        /// Its slot.
        slot: usize,
        /// Which of the connections that had this slot.
        serial: u64,
    },
}

/// A held question.
#[derive(Clone, Debug)]
pub struct Held {
    /// How it came.
    pub origin: Origin,
    /// Who asked.
    pub peer: SocketAddr,
    /// The segment that is waited for.
    pub sequence: Sequence,
    until: Instant,
    octets: [u8; MESSAGE_OCTETS_MAX],
    length: u16,
}

impl Held {
    /// A question to be held until `until`; `None` when it is too long.
    pub fn new(
        origin: Origin,
        peer: SocketAddr,
        sequence: Sequence,
        until: Instant,
        message: &[u8],
    ) -> Option<Held> {
        let mut octets = [0; MESSAGE_OCTETS_MAX];
        octets.get_mut(..message.len())?.copy_from_slice(message);
        Some(Held { origin, peer, sequence, until, octets, length: message.len() as u16 })
    }

    /// The question, octet for octet.
    pub fn message(&self) -> &[u8] {
        &self.octets[..usize::from(self.length)]
    }

    /// What it is compared by.
    fn key(&self) -> Key {
        Key {
            peer: self.peer,
            prefix: Prefix::of_client(self.peer.ip()),
            sequence: self.sequence,
            id: [self.octets[0], self.octets[1]],
            asked: match self.origin {
                Origin::Udp { local, .. } => Place::Address(local),
                Origin::Tcp { serial, .. } => Place::Connection(serial),
            },
        }
    }
}

/// What tells a question from the same one asked again: source, id, name, and where it was asked. Kept
/// apart from the questions, so that looking through all of them touches little memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    peer: SocketAddr,
    prefix: Prefix,
    sequence: Sequence,
    id: [u8; 2],
    asked: Place,
}

/// Where a question was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Address(Local),
    Connection(u64),
}

/// What became of a question handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insertion {
    /// It is held; `first` when no other was.
    Held {
        /// Whether it is the only one.
        first: bool,
    },
    /// The same question is held already.
    Duplicate,
    /// A newer snapshot was looked at meanwhile: ask that one.
    Stale,
    /// There is no slot for this client.
    Full,
}

/// The slots.
#[derive(Debug)]
pub struct Holds {
    slots: usize,
    slots_per_prefix: usize,
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    /// Generation of the snapshot that was swept with last.
    swept: u64,
    held: Vec<Held>,
    /// One for each of `held`, at the same place.
    keys: Vec<Key>,
}

impl Holds {
    /// `slots` free slots, of which one client prefix may take `slots_per_prefix`.
    pub fn new(slots: usize, slots_per_prefix: usize) -> Holds {
        let (held, keys) = (Vec::with_capacity(slots), Vec::with_capacity(slots));
        let table = Table { swept: 0, held, keys };
        Holds { slots, slots_per_prefix, table: Mutex::new(table) }
    }

    /// Holds a question that was asked of the snapshot of `generation`. `exempt` clients may take
    /// all slots.
    pub fn insert(&self, held: Held, generation: u64, exempt: bool) -> Insertion {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody would look at it again before the next segment.
        if table.swept > generation {
            return Insertion::Stale;
        }
        let key = held.key();
        let mut of_prefix = 0;
        for other in &table.keys {
            if *other == key {
                return Insertion::Duplicate;
            }
            of_prefix += usize::from(other.prefix == key.prefix);
        }
        let crowded = !exempt && of_prefix >= self.slots_per_prefix;
        if crowded || table.held.len() >= self.slots {
            return Insertion::Full;
        }
        table.keys.push(key);
        table.held.push(held);
        Insertion::Held { first: table.held.len() == 1 }
    }

    /// Moves what can be answered from `snapshot`, or has waited long enough, to `due`; returns
    /// whether nothing is left.
    pub fn sweep(
        &self,
        snapshot: &Snapshot,
        generation: u64,
        now: Instant,
        due: &mut Vec<Held>,
    ) -> bool {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.swept = generation;
        let over = snapshot.ended();
        let mut index = 0;
        while index < table.held.len() {
            let held = &table.held[index];
            if held.sequence < snapshot.next() || now >= held.until || over {
                due.push(table.held.swap_remove(index));
                table.keys.swap_remove(index);
            } else {
                index += 1;
            }
        }
        table.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Moment;
    use crate::zone::tests_support::zone_and_snapshot;
    use std::time::Duration;

    fn held(last: u8, id: u8, sequence: Sequence, now: Instant) -> Held {
        let peer = SocketAddr::from(([192, 0, 2, last], 5000));
        let origin = Origin::Tcp { slot: 0, serial: 0 };
        Held::new(origin, peer, sequence, now + Duration::from_secs(1), &[0, id, 3]).unwrap()
    }

    #[test]
    fn d7_slots_are_bounded_in_all_and_per_prefix() {
        let now = Instant::now();
        let holds = Holds::new(4, 2);
        assert_eq!(holds.insert(held(1, 1, 9, now), 0, false), Insertion::Held { first: true });
        assert_eq!(holds.insert(held(1, 1, 9, now), 0, false), Insertion::Duplicate);
        assert_eq!(holds.insert(held(2, 1, 9, now), 0, false), Insertion::Held { first: false });
        assert_eq!(holds.insert(held(3, 1, 9, now), 0, false), Insertion::Full);
        // An exempt client is bounded by all slots alone.
        assert_eq!(holds.insert(held(3, 1, 9, now), 0, true), Insertion::Held { first: false });
        assert_eq!(holds.insert(held(3, 2, 9, now), 0, true), Insertion::Held { first: false });
        assert_eq!(holds.insert(held(3, 3, 9, now), 0, true), Insertion::Full);
        let (origin, peer) = (Origin::Tcp { slot: 0, serial: 0 }, ([127, 0, 0, 1], 1).into());
        assert!(Held::new(origin, peer, 1, now, &[0; MESSAGE_OCTETS_MAX]).is_some());
        assert!(Held::new(origin, peer, 1, now, &[0; MESSAGE_OCTETS_MAX + 1]).is_none());
    }

    #[test]
    fn u01_a_question_asked_at_two_addresses_is_held_for_both() {
        let now = Instant::now();
        let holds = Holds::new(4, 4);
        let peer = ([127, 0, 0, 1], 1).into();
        let insert = |address: [u8; 4]| {
            let origin = Origin::Udp { socket: 0, local: Local::V4(address.into()) };
            let held = Held::new(origin, peer, 9, now, &[0; 40]).expect("short enough");
            holds.insert(held, 0, false)
        };
        assert_eq!(insert([127, 0, 0, 1]), Insertion::Held { first: true });
        assert_eq!(insert([127, 0, 0, 2]), Insertion::Held { first: false });
        assert_eq!(insert([127, 0, 0, 2]), Insertion::Duplicate);
    }

    #[test]
    fn what_is_published_or_overdue_is_swept_and_late_comers_are_sent_back() {
        let now = Instant::now();
        // Segments 100 to 102 are published.
        let (_, snapshot) = zone_and_snapshot(Moment { instant: now, unix_ms: 0 });
        let holds = Holds::new(8, 8);
        holds.insert(held(1, 1, 102, now), 5, false);
        holds.insert(held(1, 2, 103, now), 5, false);
        let mut due = Vec::new();
        assert!(!holds.sweep(&snapshot, 6, now, &mut due));
        assert_eq!(due.iter().map(|held| held.sequence).collect::<Vec<_>>(), [102]);
        assert_eq!(holds.insert(held(2, 1, 104, now), 5, false), Insertion::Stale);
        assert!(holds.sweep(&snapshot, 6, now + Duration::from_secs(1), &mut due));
        assert_eq!(due.len(), 2);
    }
}

//! Sounding the way to a server while playing begins: how much it loses decides how far behind the
//! live edge to play, and to go back later takes minutes. So `config` is asked for four dozen times
//! more, which any cache answers; two dozen times of a near server, unless one of those is lost; and as
//! often once more where most are. Nothing is made of the answers but that they came.
//!
//! Later the way to a near server is sounded whenever a segment is late, one question at a time, to
//! tell a path that loses from a server that has too much to do.

use super::{Fetcher, Route, Server, Transmit, attempt, message_id};
use crate::lookup::{Lookup, Pace, Progress, RetryPolicy, Transport};
use crate::upstream::NEAR;
use std::time::{Duration, Instant};

/// Questions. A path that loses a fifth of the packets each way loses 54 % of four dozen one time in a
/// hundred; one that loses two fifths, less than that six times in a hundred.
const SOUNDINGS: u32 = 48;
/// Those that a near server is spared if all before them are answered: where a twentieth of the
/// packets is lost each way, that happens one time in twelve.
const SOUNDINGS_SPARED: u32 = 24;
/// And of a server that has not answered anything yet.
const SOUNDINGS_UNHEARD: u32 = 16;
/// So many of those are not all lost where there is somebody to answer them.
const NOBODY: usize = 8;
/// They start this far apart.
const INTERVAL: Duration = Duration::from_millis(3);
/// All listeners of a crowd may come to a near server at once. So it is asked the next when the one
/// before is answered, or one more for each such part of the shortest round trip before that.
const INTERVAL_NEAR: Duration = Duration::from_millis(4);
/// Or when that may be lost: it is later than twice the usual by this.
const PATIENCE_NEAR: Duration = Duration::from_millis(10);
/// An answer that is not later than this is no surprise.
const JITTER: Duration = Duration::from_millis(250);
/// An answer may come this late; that it does is not waited for.
const WAIT: Duration = Duration::from_secs(2);

/// One question.
#[derive(Debug)]
struct Sounding {
    key: u64,
    server: usize,
    lookup: Lookup,
    sent: Instant,
    /// Whether it counts as lost, until it is known better.
    overdue: bool,
    /// Whether it is one of those that playing begins with.
    first: bool,
}

/// The questions still to be asked and those not answered yet.
#[derive(Debug)]
pub(super) struct Soundings {
    left: u32,
    /// Those that are asked only if one was lost.
    spared: u32,
    /// The one of a near server that was lost and does not count.
    excused: Option<u64>,
    /// Whether there were as many once more.
    doubted: bool,
    /// The shortest round trip to a near server.
    shortest: Duration,
    next: Option<Instant>,
    /// Whether one is to be asked at once, as an answer is late.
    more: bool,
    out: Vec<Sounding>,
}

impl Soundings {
    pub(super) fn new() -> Soundings {
        Soundings {
            left: SOUNDINGS,
            spared: 0,
            excused: None,
            doubted: false,
            shortest: NEAR,
            next: None,
            more: false,
            out: Vec::new(),
        }
    }

    /// No more are needed: how many are left out.
    pub(super) fn leave_out(&mut self) -> usize {
        self.spared = 0;
        std::mem::take(&mut self.left) as usize
    }

    /// Hears that the server is near: it is asked for fewer, from now on.
    pub(super) fn handle_near(&mut self, now: Instant) {
        if self.left == SOUNDINGS {
            self.left -= SOUNDINGS_SPARED;
            self.spared = SOUNDINGS_SPARED;
            self.next = Some(now);
        }
    }

    /// Hears that one to a near server was lost. Returns whether that is let pass: beginning half a
    /// second further behind takes more than one in four dozen.
    fn excuse(&mut self, key: u64) -> bool {
        self.excused.get_or_insert(key) == &key
    }

    /// So many are lost that what follows from it is worth being surer of. Returns whether there are
    /// more to be asked now.
    fn ask_again(&mut self) -> bool {
        let ask = !self.doubted && !self.is_open();
        if ask {
            self.doubted = true;
            self.left = SOUNDINGS;
        }
        ask
    }

    /// One is lost, or seems to be: how much is lost is worth knowing.
    fn ask_spared(&mut self) {
        self.left += std::mem::take(&mut self.spared);
    }

    /// Hears that a question sent at `sent` is the first one to be answered. Returns whether so much was
    /// sent before it that there was nobody to answer it; then that is asked again.
    pub(super) fn handle_first_answer(&mut self, sent: Instant) -> bool {
        let is_before = |sounding: &&Sounding| sounding.first && sounding.sent < sent;
        let before = self.out.iter().filter(is_before).count();
        if before < NOBODY {
            return false;
        }
        self.out.retain(|sounding| !is_before(&sounding));
        self.left += before as u32;
        true
    }

    /// Whether there is more to be learned.
    pub(super) fn is_open(&self) -> bool {
        self.left > 0 || self.out.iter().any(|sounding| sounding.first && !sounding.overdue)
    }

    /// One more is needed, if none is under way.
    pub(super) fn ask_one(&mut self) {
        self.more |= !self.out.iter().any(|sounding| !sounding.first && !sounding.overdue);
    }

    /// Whether one of the first ones is to be asked, of a server that was heard of or was not.
    fn has_next(&self, heard: bool) -> bool {
        self.left > if heard { 0 } else { SOUNDINGS - SOUNDINGS_UNHEARD }
    }

    pub(super) fn contains(&self, lookup: u64) -> bool {
        self.out.iter().any(|sounding| sounding.key == lookup)
    }
}

impl Fetcher {
    /// The next question, if one is due.
    pub(super) fn transmit_sounding(
        &mut self,
        now: Instant,
        random: &mut dyn FnMut() -> u64,
    ) -> Option<Transmit> {
        // A near server has answered before the first is due.
        self.soundings.next.get_or_insert(now + NEAR);
        let more = self.soundings.more;
        if !more && self.next_sounding().is_none_or(|at| at > now) {
            return None;
        }
        let server = self.current;
        let name = self.root.child(b"config").expect("checked by is_root");
        let query = self.servers[server].upstream.query(name, now);
        let policy = RetryPolicy { retries: 0, ..self.policy };
        let pace = Pace { first: WAIT, then: WAIT, last: WAIT };
        let mut lookup = Lookup::new(query, Transport::Udp, policy, [pace; 2], now);
        let (_, framed) = attempt(&mut lookup, now, message_id(random), &mut self.stats)?;
        let key = self.next_key;
        self.next_key += 1;
        if more {
            self.soundings.more = false;
        } else {
            self.soundings.left -= 1;
            self.soundings.next = Some(now + INTERVAL);
        }
        let sounding = Sounding { key, server, lookup, sent: now, overdue: false, first: !more };
        self.soundings.out.push(sounding);
        Some(Transmit { server, route: Route::Datagram { lookup: key }, framed })
    }

    /// When the next of the first ones may be asked, if there is one. A server that may not be there is
    /// not asked so much.
    fn next_sounding(&self) -> Option<Instant> {
        let heard = self.servers[self.current].upstream.rtt().is_some();
        let may = self.soundings.has_next(heard) && !self.is_too_soon();
        let next = self.soundings.next.filter(|_| may)?;
        Some(self.room_at().map_or(next, |room| room.max(next)))
    }

    /// A near server that does not know `config` yet would let all of it wait, and a resolver whose clients
    /// all come at once does not even answer each of those that wait (BIND's clients-per-query).
    pub(super) fn is_too_soon(&self) -> bool {
        let server = &self.servers[self.current];
        server.upstream.is_near() && server.has_config.is_none()
    }

    /// When a near server may be asked the next, if it is not at once.
    fn room_at(&self) -> Option<Instant> {
        let upstream = &self.servers[self.current].upstream;
        let rtt = upstream.rtt().filter(|_| upstream.is_near())?;
        let room =
            (self.soundings.shortest.min(rtt).as_nanos() / INTERVAL_NEAR.as_nanos()) as usize;
        let last = self.soundings.out.iter().rev().filter(|sounding| sounding.first).nth(room)?;
        Some(last.sent + rtt * 2 + PATIENCE_NEAR)
    }

    /// When an answer to this one is late.
    fn sounding_due(&self, sounding: &Sounding) -> Instant {
        match self.servers[sounding.server].upstream.rtt() {
            Some(rtt) if !sounding.overdue => {
                sounding.sent + (rtt * 5 / 4 + Duration::from_millis(30)).max(JITTER)
            }
            _ => sounding.lookup.poll_timeout(),
        }
    }

    pub(super) fn sounding_timeout(&self) -> Option<Instant> {
        let due = self.soundings.out.iter().map(|sounding| self.sounding_due(sounding)).min();
        due.into_iter().chain(self.next_sounding()).min()
    }

    /// Counts what is late, and forgets what will not come any more.
    pub(super) fn handle_sounding_timeout(&mut self, now: Instant) {
        for index in 0..self.soundings.out.len() {
            let sounding = &self.soundings.out[index];
            if sounding.overdue || self.sounding_due(sounding) > now {
                continue;
            }
            let &Sounding { key, server, first, .. } = sounding;
            self.soundings.out[index].overdue = true;
            let upstream = &mut self.servers[server].upstream;
            let excused = first && upstream.is_near() && self.soundings.excuse(key);
            // Where nothing is answered at all, nothing is learned.
            if upstream.rtt().is_some() && !excused {
                upstream.handle_soundings(now, first, 1, 0);
            }
            if first {
                self.soundings.ask_spared();
            }
        }
        let clogged = self.servers[self.current].upstream.is_surely_clogged();
        if clogged && self.follower.is_starting() && self.soundings.ask_again() {
            self.soundings.next = Some(now);
        }
        self.soundings.out.retain(|sounding| sounding.lookup.poll_timeout() > now);
    }

    /// Takes a datagram, if it came for one of these.
    pub(super) fn handle_sounding(&mut self, now: Instant, lookup: u64, message: &[u8]) -> bool {
        let asked = self.soundings.out.iter().position(|sounding| sounding.key == lookup);
        let Some(index) = asked else { return false };
        let sounding = &mut self.soundings.out[index];
        let progress = sounding.lookup.handle_message(now, message, Transport::Udp);
        let denied =
            matches!(&progress, Progress::Answered { answer, .. } if answer.texts.is_empty());
        match progress {
            Progress::Answered { .. } | Progress::Truncated => {
                let sounding = self.soundings.out.remove(index);
                let Server { upstream, has_config, .. } = &mut self.servers[sounding.server];
                match sounding.overdue && self.soundings.excused != Some(lookup) {
                    true => upstream.handle_late_sounding(now, sounding.first),
                    false => upstream.handle_soundings(now, sounding.first, 0, 1),
                }
                if !denied {
                    has_config.get_or_insert(now);
                }
                // Before that it may have waited for another server, with all the others.
                if has_config.is_some_and(|since| since <= sounding.sent) {
                    let round_trip = now.saturating_duration_since(sounding.sent);
                    upstream.handle_round_trip(round_trip);
                    self.soundings.shortest = self.soundings.shortest.min(round_trip);
                }
                let is_passed = |s: &Sounding| s.first && s.sent + NEAR <= sounding.sent;
                if self.soundings.out.iter().any(is_passed) {
                    self.soundings.ask_spared();
                }
            }
            Progress::Ignored(error) => self.count_ignored(error),
            Progress::Pending | Progress::Failed => {}
        }
        true
    }
}

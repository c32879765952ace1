//! Sounding the way to a server while playing begins: how much it loses decides how far behind the
//! live edge to play, and to go back later takes minutes. So `config` is asked for four dozen times
//! more, which any cache answers. Nothing is made of the answers but that they came.
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
/// And of a server that has not answered anything yet.
const SOUNDINGS_UNHEARD: u32 = 16;
/// So many of those are not all lost where there is somebody to answer them.
const NOBODY: usize = 8;
/// They start this far apart.
const INTERVAL: Duration = Duration::from_millis(3);
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
    next: Option<Instant>,
    /// Whether one is to be asked at once, as an answer is late.
    more: bool,
    out: Vec<Sounding>,
}

impl Soundings {
    pub(super) fn new() -> Soundings {
        Soundings { left: SOUNDINGS, next: None, more: false, out: Vec::new() }
    }

    /// No more are needed: how many are left out, to be taken for answered.
    pub(super) fn leave_out(&mut self) -> usize {
        std::mem::take(&mut self.left) as usize
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
        // A near server, which is not sounded, has answered before the first is due. One that may not
        // be there is not asked so much.
        let next = *self.soundings.next.get_or_insert(now + NEAR);
        let heard = self.servers[self.current].upstream.rtt().is_some();
        let more = self.soundings.more;
        if !more && (!self.soundings.has_next(heard) || next > now) {
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
        let heard = self.servers[self.current].upstream.rtt().is_some();
        let next = self.soundings.next.filter(|_| self.soundings.has_next(heard));
        due.into_iter().chain(next).min()
    }

    /// Counts what is late, and forgets what will not come any more.
    pub(super) fn handle_sounding_timeout(&mut self, now: Instant) {
        for index in 0..self.soundings.out.len() {
            let sounding = &self.soundings.out[index];
            if !sounding.overdue && self.sounding_due(sounding) <= now {
                let upstream = &mut self.servers[sounding.server].upstream;
                // Where nothing is answered at all, nothing is learned.
                if upstream.rtt().is_some() {
                    upstream.handle_soundings(now, sounding.first, 1, 0);
                }
                self.soundings.out[index].overdue = true;
            }
        }
        self.soundings.out.retain(|sounding| sounding.lookup.poll_timeout() > now);
    }

    /// Takes a datagram, if it came for one of these.
    pub(super) fn handle_sounding(&mut self, now: Instant, lookup: u64, message: &[u8]) -> bool {
        let asked = self.soundings.out.iter().position(|sounding| sounding.key == lookup);
        let Some(index) = asked else { return false };
        let sounding = &mut self.soundings.out[index];
        match sounding.lookup.handle_message(now, message, Transport::Udp) {
            Progress::Answered { .. } | Progress::Truncated => {
                let sounding = self.soundings.out.swap_remove(index);
                let Server { upstream, has_config, .. } = &mut self.servers[sounding.server];
                match sounding.overdue {
                    true => upstream.handle_late_sounding(now, sounding.first),
                    false => upstream.handle_soundings(now, sounding.first, 0, 1),
                }
                // Before that it may have waited for another server, with all the others.
                if *has_config.get_or_insert(now) <= sounding.sent {
                    upstream.handle_round_trip(now.saturating_duration_since(sounding.sent));
                }
            }
            Progress::Ignored(error) => self.count_ignored(error),
            Progress::Pending | Progress::Failed => {}
        }
        true
    }
}

//! Following by the list of the base layer (protocol 1.6).

use super::{CONFIG, Event, FRAME_DEFAULT, Follower, LIST, MISS_WAIT, Mode, Trouble, Use};
use crate::segment::decode_list;
use crate::units::Sequence;
use crate::wire::{Answer, Rcode};
use std::time::{Duration, Instant};

/// No server counts on as far as this between two lists.
const NUMBERS_LEAP: u64 = 100_000;
/// Segments wanted at the same time.
const WANTS_MAX: usize = 64;
/// The list is not asked for more often (protocol 1.6).
const LIST_INTERVAL: Duration = Duration::from_secs(4);
/// How old the list may be in a cache: its TTL (protocol 1.4), and a second for rounding (C12).
const LIST_AGE_MAX: Duration = Duration::from_secs(11);
/// TTLs of caches are cut down to whole seconds.
const TTL_ROUNDING: Duration = Duration::from_secs(1);
/// How much older than its TTL a list may be, through chains of caches, before numbers that went
/// back can only mean another run of the server.
const LIST_STALE_MAX: Duration = Duration::from_secs(15);
/// A run that began anew is heard when it is this old, even if the next list may come too late for
/// what is there by then: 5 s after a restart there is to be sound.
const RESTART_AGE: Duration = Duration::from_millis(4850);
/// Through a cache, which may keep a list for half a minute whatever its TTL says, no more than this comes
/// new with one beyond what was published since the one before.
const LIST_LEAP_MAX: Duration = Duration::from_secs(45);
/// Numbers that went back and stay there this long are those of another run (C12).
const BACK_MAX: Duration = Duration::from_secs(60);

/// The base layer's list.
#[derive(Debug)]
pub(super) struct Listing {
    /// The oldest number of the newest list.
    oldest: Sequence,
    /// The newest number seen in a list.
    pub(super) newest: Option<Sequence>,
    /// Whether lists come from the server itself.
    direct: bool,
    /// Fetched first, to learn how long a segment lasts.
    pub(super) probe: Option<Sequence>,
    /// Longest segment seen, once there is one.
    segment: Option<Duration>,
    /// The newest number of a list that went back, and when; a second one that went on from there
    /// proves that the server restarted.
    went_back: Option<(Sequence, Instant)>,
    /// When the list last told something new.
    news: Instant,
    /// Whether nothing answered since the last list.
    pub(super) interrupted: bool,
}

impl Follower {
    pub(super) fn begin_list(&mut self, now: Instant) {
        self.edge = None;
        self.mode = Mode::List(Listing {
            oldest: 0,
            newest: None,
            direct: false,
            probe: None,
            segment: None,
            went_back: None,
            news: now,
            interrupted: false,
        });
        self.wants.clear();
        self.polls[LIST].plan(now);
    }

    pub(super) fn handle_list(&mut self, now: Instant, answer: &Answer) -> Use {
        let Mode::List(listing) = &mut self.mode else { return Use::Useful };
        listing.direct = answer.authoritative;
        // A cached list changes when it expires, and not before.
        let age_left = Duration::from_secs(u64::from(answer.ttl));
        let wait = match answer.authoritative {
            true => LIST_INTERVAL,
            false => (age_left + TTL_ROUNDING).max(LIST_INTERVAL),
        };
        let Some(text) = answer.texts.first() else {
            let unknown = listing.newest.is_none() && answer.rcode == Rcode::NXDOMAIN;
            let trouble = if unknown { Trouble::NoStream } else { Trouble::NothingNew };
            self.events.push_back(Event::Trouble(trouble));
            let negative = Duration::from_secs(u64::from(answer.negative_ttl.unwrap_or(1)));
            self.polls[LIST].plan(now + negative.clamp(MISS_WAIT[0], MISS_WAIT[1]));
            return Use::Useful;
        };
        self.polls[LIST].plan(now + wait + Duration::from_millis(20));
        let numbers = match decode_list(text) {
            Ok(numbers) => numbers,
            Err(error) => {
                self.count_unreadable(error);
                return Use::Useless;
            }
        };
        let (Some(&oldest), Some(&newest)) = (numbers.first(), numbers.last()) else {
            return Use::Useful;
        };

        if listing.newest.is_none_or(|seen| newest >= seen) {
            listing.oldest = oldest;
        }
        match listing.newest {
            None => {
                listing.newest = Some(newest);
                listing.probe = Some(newest);
                self.tell_stream();
                self.want(newest, now, false);
            }
            Some(seen) if newest < seen => {
                self.handle_list_back(now, oldest, newest, seen);
            }
            Some(seen) => return self.handle_list_on(now, &numbers, newest, seen),
        }
        Use::Useful
    }

    /// The list went on from the number seen last, or stayed there.
    fn handle_list_on(
        &mut self,
        now: Instant,
        numbers: &[Sequence],
        newest: Sequence,
        seen: Sequence,
    ) -> Use {
        let Mode::List(listing) = &mut self.mode else { return Use::Useful };
        listing.went_back = None;
        let since = now.saturating_duration_since(listing.news);
        if newest > seen {
            listing.news = now;
        } else if since > LIST_STALE_MAX {
            // Serve-stale (RFC 8767), or a server that has stopped.
            self.stats.stale_lists += 1;
            self.events.push_back(Event::Trouble(Trouble::NothingNew));
            return Use::Useless;
        }
        if newest - seen > NUMBERS_LEAP {
            // Another server, which may be one that has `config`.
            self.polls[CONFIG].plan(now);
        }
        listing.newest = Some(newest);
        let interrupted = std::mem::take(&mut listing.interrupted);
        if listing.probe.is_some() {
            // While the probe is out there is nothing to go on from.
            return Use::Useful;
        }
        let segment = listing.segment.unwrap_or(FRAME_DEFAULT).max(FRAME_DEFAULT);
        let direct = listing.direct;
        let fresh = numbers.iter().copied().filter(|&number| number > seen);
        let missed = segment * fresh.clone().count() as u32;
        // More than is held back was published in no time: the system slept.
        let held = self.list_delay(segment) + LIST_INTERVAL;
        let most = match (interrupted, direct) {
            (true, _) => LIST_INTERVAL * 2,
            (false, true) => since + held,
            (false, false) => since + held.max(LIST_LEAP_MAX),
        };
        if missed > most {
            // Whoever plays all of that is later by as much from now on.
            self.stats.jumps += 1;
            self.stats.lost += self.wants.len() as u64;
            self.wants.clear();
            self.start_list(now, newest, segment, Duration::MAX, false);
            return Use::Useful;
        }
        let room = WANTS_MAX.saturating_sub(self.wants.len());
        let wanted: Vec<_> = fresh.take(room).collect();
        // What there is no room for is new in the next list as well.
        if let Mode::List(listing) = &mut self.mode {
            listing.newest = Some(wanted.last().copied().unwrap_or(seen));
        }
        wanted.into_iter().for_each(|number| self.want(number, now, false));
        Use::Useful
    }

    /// The list went back: it is stale, or the server restarted from 0.
    fn handle_list_back(
        &mut self,
        now: Instant,
        oldest: Sequence,
        newest: Sequence,
        seen: Sequence,
    ) {
        let Mode::List(listing) = &mut self.mode else { return };
        let segment = listing.segment.unwrap_or(FRAME_DEFAULT).max(FRAME_DEFAULT);
        let stale_max = (LIST_STALE_MAX.as_nanos() / segment.as_nanos()) as u64 + 1;
        let went_on = listing.went_back.is_some_and(|(before, since)| {
            newest > before || now.saturating_duration_since(since) >= BACK_MAX
        });
        // The server itself is never stale, and no cache is that stale.
        if !listing.direct && seen - newest <= stale_max && !went_on {
            listing.went_back.get_or_insert((newest, now));
            return;
        }
        self.stats.restarts += 1;
        *listing = Listing {
            oldest,
            newest: Some(newest),
            direct: listing.direct,
            probe: None,
            segment: listing.segment,
            went_back: None,
            news: now,
            interrupted: false,
        };
        self.wants.clear();
        self.cursor = oldest;
        // What the list names was published one after the other, and the next is under way.
        let age = segment * (newest - oldest + 2).min(1 << 20) as u32;
        self.start_list(now, newest, segment, RESTART_AGE.saturating_sub(age), true);
        // A restarted server may be one that has `config` now.
        self.polls[CONFIG].plan(now);
    }

    /// How far behind the newest number to play: until the next list is here, there must be sound.
    fn list_delay(&self, segment: Duration) -> Duration {
        let direct = matches!(&self.mode, Mode::List(listing) if listing.direct);
        let interval = if direct { LIST_INTERVAL } else { LIST_AGE_MAX };
        // Segments that close by size may last longer than the one that was seen.
        let least = interval + segment * 3 / 2 + Duration::from_millis(1500);
        self.latency.map_or(least, |latency| latency.max(least))
    }

    /// Begins to play a list whose newest number is `newest`, at the right distance behind it. A
    /// young run has less to play than the distance takes: `patience` is how long to wait for it. With
    /// `fresh`, the numbers are those of another run than before.
    fn start_list(
        &mut self,
        now: Instant,
        newest: Sequence,
        segment: Duration,
        patience: Duration,
        fresh: bool,
    ) {
        let segment = segment.max(FRAME_DEFAULT);
        let delay = self.list_delay(segment);
        let back = delay.as_nanos().div_ceil(segment.as_nanos()).min(WANTS_MAX as u128 / 2) as u64;
        let Mode::List(listing) = &self.mode else { return };
        let start = newest.saturating_sub(back).max(listing.oldest).min(newest);
        let there = segment * (newest - start + 1) as u32;
        let wait = delay.saturating_sub(there).min(patience);
        let play_at = now + wait.max(Duration::from_millis(300));
        self.cursor = start;
        self.events.push_back(Event::Start { sequence: start, play_at, fresh });
        let until = listing.newest.unwrap_or(newest).min(newest + WANTS_MAX as u64 / 2);
        for number in start..=until {
            if number != newest || !self.probed(number) {
                self.want(number, now, false);
            }
        }
    }

    /// Whether the probe brought this number already.
    fn probed(&self, sequence: Sequence) -> bool {
        matches!(&self.mode, Mode::List(listing) if listing.probe == Some(sequence))
    }

    /// A segment came: learns how long one lasts, and begins with the first.
    pub(super) fn learn_list(&mut self, now: Instant, sequence: Sequence, packets: usize) {
        let frame = self.config.as_ref().map_or(FRAME_DEFAULT, |config| {
            config.format.rate.duration(u64::from(config.frame_samples))
        });
        let Mode::List(listing) = &mut self.mode else { return };
        let length = frame * packets as u32;
        listing.segment = Some(listing.segment.map_or(length, |known| known.max(length)));
        if listing.probe == Some(sequence) {
            self.start_list(now, sequence, length, Duration::MAX, true);
            if let Mode::List(listing) = &mut self.mode {
                listing.probe = None;
            }
        }
    }
}

//! Connections to a server: which one an attempt goes over, when one is opened ahead of need, closed, or
//! given up because an answer on it is late.

use super::{Fetcher, Server};
use std::time::{Duration, Instant};

/// Connections to one server at the same time. On a path so bad that a question takes seconds, more of
/// them are what makes one that is quick likely. A near server that does not answer has too much to do,
/// and gets no more of them.
pub const LINKS_MAX: usize = 16;
/// And how many of them are kept in use.
pub(super) const LINKS_WARM: usize = 12;
/// The same on any other path.
const LINKS_MAX_USUAL: usize = 8;
/// See [`LINKS_MAX_USUAL`].
pub(super) const LINKS_WARM_USUAL: usize = 6;
/// The same to a server that has few for all its clients. unbound has ten, and waits 300 ms instead of 30 s
/// for a question once fewer than half are free, and 200 ms below 35 % (unbound.conf, tcp-idle-timeout):
/// less than one takes that has to be sent again.
pub(super) const LINKS_SHORT: usize = 4;
/// A resolver that closes a connection this soon after a question is short of them. The stream's own server
/// closes one whose first question takes too long to arrive, however many it has to spare.
pub(super) const SHORT_AFTER: Duration = Duration::from_millis(1500);
/// It is taken to be so for this long.
pub(super) const SHORT_FOR: Duration = Duration::from_secs(300);
/// A connection that was not used for this long may be closed by now.
pub(super) const LINK_FRESH: Duration = Duration::from_millis(4500);
/// A connection on which an answer is this late is better made anew: its timers have doubled and
/// doubled again (RFC 6298 §5.5).
pub(super) const STUCK_AFTER: Duration = Duration::from_secs(4);

/// How long a handshake may take where nothing is known of the way.
const HANDSHAKE: Duration = Duration::from_secs(1);

/// What goes on on a connection.
#[derive(Debug, Default)]
pub(super) struct LinkUse {
    pub(super) used: Option<Instant>,
    pub(super) waiting: Vec<Waiting>,
}

/// An attempt without an answer on a connection. It is remembered beyond the end of its lookup, as
/// what comes behind it has to wait for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) lookup: u64,
    pub(super) id: u16,
    pub(super) sent: Instant,
}

impl LinkUse {
    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.used.is_some_and(|used| now.saturating_duration_since(used) < LINK_FRESH)
    }

    /// When an answer on it is so late that nothing will come any more.
    pub(super) fn stuck_at(&self) -> Option<Instant> {
        self.waiting.first().map(|waiting| waiting.sent + STUCK_AFTER)
    }

    pub(super) fn is_stuck(&self, now: Instant) -> bool {
        self.stuck_at().is_some_and(|at| at <= now)
    }
}

impl Fetcher {
    /// A connection to be opened ahead of need: server and number. To be called after
    /// [`Fetcher::poll_transmit`], until there is none. On a path that loses much, a second way must
    /// not begin with a handshake.
    pub fn poll_open(&mut self, now: Instant) -> Option<(usize, usize)> {
        let current = self.current;
        let [most, warm] = self.links(now, current);
        let server = &mut self.servers[current];
        if !server.upstream.is_large() || !server.upstream.has_bad_path() {
            return None;
        }
        let open = server.links.iter().filter(|link| link.is_open(now)).count();
        let link = server.links[..most].iter().position(|link| !link.is_open(now))?;
        if open >= warm || self.follower.is_out() {
            return None;
        }
        server.links[link].used = Some(now);
        Some((current, link))
    }

    /// A connection to be closed: server and number. To be called after [`Fetcher::poll_open`],
    /// until there is none. A resolver has few connections for all its clients (unbound ten), so
    /// one that is near gets each back as soon as nothing is awaited on it; to a far one a
    /// handshake for each segment would cost too much, and the server itself has plenty.
    pub fn poll_close(&mut self, now: Instant) -> Option<(usize, usize)> {
        let current = self.current;
        if self.follower.is_direct() {
            return None;
        }
        let server = &self.servers[current];
        if !server.upstream.is_near() || server.upstream.has_bad_path() {
            return None;
        }
        let awaited = |waiting: &Waiting| self.find(waiting.lookup).is_some();
        let spent = |link: &LinkUse| link.is_open(now) && !link.waiting.iter().any(awaited);
        let link = server.links.iter().position(spent)?;
        self.servers[current].links[link] = LinkUse::default();
        Some((current, link))
    }

    /// How long a handshake with a server may take before it is begun anew: three round trips, as an
    /// attempt over UDP, but not less than one however long that is; a second where it is not known
    /// (RFC 6298 §2.1). A resolver whose queue of new connections is full says nothing (BIND's has room
    /// for ten).
    pub fn handshake_patience(&self, server: usize) -> Duration {
        let known = self.servers[server].upstream.rtt();
        known.map_or(HANDSHAKE, |rtt| (rtt * 3).max(self.policy.timeout))
    }

    /// Hears that a connection is gone, and whether it had been established.
    pub fn handle_closed(&mut self, now: Instant, server: usize, link: usize, connected: bool) {
        let gone = &mut self.servers[server];
        if !connected {
            gone.upstream.handle_connection_failed();
        } else if !gone.links[link].waiting.is_empty() {
            gone.upstream.handle_connection_closed();
        }
        let recent = |waiting: &Waiting| now.saturating_duration_since(waiting.sent) < SHORT_AFTER;
        let early = gone.links[link].waiting.iter().any(recent);
        if connected && early && !self.follower.is_direct() {
            gone.short_until = Some(now + SHORT_FOR);
        }
        self.leave_link(now, server, link);
    }

    /// Nothing comes on a connection any more.
    pub(super) fn leave_link(&mut self, now: Instant, server: usize, link: usize) {
        let left = std::mem::take(&mut self.servers[server].links[link]);
        let wait = self.servers[server].upstream.connection_wait();
        for waiting in left.waiting {
            let lookups = self.tasks.iter_mut().flat_map(|task| &mut task.asked);
            for asked in lookups.filter(|asked| asked.key == waiting.lookup) {
                // Opened anew, it is a way that was not tried yet.
                asked.links.retain(|&tried| tried != link);
                asked.lookup.handle_connection_lost(now, waiting.id, wait);
            }
        }
    }

    /// How many connections to a server there may be, and how many are kept in use where the path
    /// loses much.
    pub(super) fn links(&self, now: Instant, server: usize) -> [usize; 2] {
        let server = &self.servers[server];
        if server.short_until.is_some_and(|until| now < until) {
            [LINKS_SHORT, LINKS_SHORT]
        } else if server.upstream.may_be_clogged() && !server.upstream.is_near() {
            [LINKS_MAX, LINKS_WARM]
        } else {
            [LINKS_MAX_USUAL, LINKS_WARM_USUAL]
        }
    }
}

impl Server {
    /// The connection, one of the first `most`, for the next attempt of a lookup that went over `used`
    /// already. One is enough while nothing is late on it; where the path loses much, several are kept
    /// in use, as to open one takes longest just there.
    pub(super) fn choose_link(&self, now: Instant, used: &[usize], most: usize) -> Option<usize> {
        let stuck = |link: usize| self.links[link].is_stuck(now);
        let free = |&link: &usize| !used.contains(&link) || stuck(link);
        let open = |&link: &usize| self.links[link].is_open(now);
        let idle = |&link: &usize| self.links[link].waiting.is_empty();
        let load = |&link: &usize| (self.links[link].waiting.len(), self.links[link].used);
        let all = || (0..most).filter(free);
        if used.is_empty() && !self.upstream.has_bad_path() {
            return all().find(|link| open(link) && !stuck(*link)).or(Some(0));
        }
        let spare = all().filter(open).filter(idle).min_by_key(load);
        let fresh = || all().find(|link| !open(link));
        let anew = || all().find(|&link| stuck(link));
        let busy = || all().min_by_key(load);
        spare.or_else(fresh).or_else(anew).or_else(busy)
    }
}

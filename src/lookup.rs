//! One question asked of one server until it is answered: attempts, timeouts, what counts as the
//! answer, truncation. [`Upstream`] is what is remembered of a server between lookups.
//!
//! No socket, clock or randomness: the caller sends what [`Lookup::poll_transmit`] writes, sleeps
//! until [`Lookup::poll_timeout`], and hands in what arrives. Forged and foreign messages are
//! ignored and waiting goes on (RFC 5452 §9.1); an answer to any attempt counts until the lookup
//! ends. Each attempt has an id of its own, as there are servers that never answer some ids.

mod fuzz;

#[doc(hidden)]
pub use fuzz::fuzz_lookup;

use crate::wire::{Answer, Name, ParseError, QueryTemplate, Rcode, Rtype};
use std::time::{Duration, Instant};

/// Longest wait for one attempt on a slow path.
const TIMEOUT_MAX: Duration = Duration::from_millis(800);
/// Wait for an attempt over TCP: a handshake and a held answer go into it.
const TCP_TIMEOUT: Duration = Duration::from_millis(1500);
/// How long a server that does not know EDNS is asked without it.
const PLAIN_FOR: Duration = Duration::from_secs(15 * 60);
/// Truncated answers in a row after which segments are asked for over TCP directly.
const TRUNCATED_IN_ROW: u32 = 3;

/// When to ask again (protocol 1.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// An attempt is unanswered after this time, counted from its start. On a path that is known
    /// to be slower it follows the measured round trip, up to 800 ms.
    pub timeout: Duration,
    /// Attempts after the first one.
    pub retries: u32,
    /// Time between the starts of two attempts.
    pub interval: Duration,
}

impl Default for RetryPolicy {
    fn default() -> RetryPolicy {
        RetryPolicy {
            timeout: Duration::from_millis(100),
            retries: 10,
            interval: Duration::from_millis(250),
        }
    }
}

/// How a query travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// One datagram.
    Udp,
    /// A connection.
    Tcp,
}

/// What came of handing something to a [`Lookup`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Waiting goes on.
    Pending,
    /// The message was not for this lookup, or unreadable; waiting goes on.
    Ignored(ParseError),
    /// The answer is here.
    Answered {
        /// What it says.
        answer: Answer,
        /// When the attempt that it answers was sent.
        sent: Instant,
    },
    /// Every attempt is unanswered.
    Failed,
}

/// One question being asked.
#[derive(Debug)]
pub struct Lookup {
    query: QueryTemplate,
    policy: RetryPolicy,
    timeout: Duration,
    transport: Transport,
    /// Id and start of every attempt so far.
    attempts: Vec<(u16, Instant)>,
    /// When the next attempt starts; `None` when there are no more.
    next: Option<Instant>,
    /// When the last attempt counts as unanswered; meaningful when `next` is `None`.
    end: Instant,
    /// Whether a lost connection was made up for already.
    reconnected: bool,
}

impl Lookup {
    /// A lookup whose first attempt starts now. `timeout` is the wait for one attempt over UDP.
    pub fn new(
        query: QueryTemplate,
        transport: Transport,
        policy: RetryPolicy,
        timeout: Duration,
        now: Instant,
    ) -> Lookup {
        Lookup {
            reconnected: false,
            query,
            policy,
            timeout,
            transport,
            attempts: Vec::new(),
            next: Some(now),
            end: now,
        }
    }

    /// What is asked.
    pub fn query(&self) -> &QueryTemplate {
        &self.query
    }

    /// How the next attempt travels.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// If an attempt starts now, appends its message to `out`, under the message id `id`.
    pub fn poll_transmit(&mut self, now: Instant, id: u16, out: &mut Vec<u8>) -> Option<Transport> {
        if self.next? > now {
            return None;
        }
        self.attempts.push((id, now));
        let timeout = match self.transport {
            Transport::Udp => self.timeout,
            Transport::Tcp => TCP_TIMEOUT.max(self.timeout),
        };
        let left = self.attempts.len() as u32 <= self.policy.retries;
        self.next = left.then_some(now + self.policy.interval.max(timeout));
        self.end = now + timeout;
        self.query.write(id, out);
        Some(self.transport)
    }

    /// When to call [`Lookup::poll_transmit`] or [`Lookup::handle_timeout`] next.
    pub fn poll_timeout(&self) -> Instant {
        self.next.unwrap_or(self.end)
    }

    /// Takes a message that arrived, over whichever transport.
    pub fn handle_message(&mut self, now: Instant, octets: &[u8], via: Transport) -> Progress {
        let id = octets.first_chunk().map_or(0, |id| u16::from_be_bytes(*id));
        let Some(&(_, sent)) = self.attempts.iter().find(|attempt| attempt.0 == id) else {
            return Progress::Ignored(ParseError::Foreign);
        };
        match Answer::read(octets, id, &self.query) {
            Err(error) => Progress::Ignored(error),
            Ok(answer) if answer.truncated && via == Transport::Udp => {
                // Everything in it is worthless; ask the same server over TCP at once.
                if self.transport == Transport::Udp {
                    self.transport = Transport::Tcp;
                    self.next = Some(now);
                }
                Progress::Pending
            }
            // Truncated over TCP: nothing better will come.
            Ok(answer) => Progress::Answered { answer, sent },
        }
    }

    /// Hears that the connection failed before it answered: the next attempt starts as soon as the
    /// interval allows. The first loss costs no wait, as servers close connections when they like.
    pub fn handle_connection_lost(&mut self, now: Instant) {
        let Some(&(_, last)) = self.attempts.last() else { return };
        if self.attempts.len() as u32 <= self.policy.retries {
            let wait = if self.reconnected { self.policy.interval } else { Duration::ZERO };
            self.reconnected = true;
            self.next = Some((last + wait).max(now));
        } else {
            self.next = None;
            self.end = now;
        }
    }

    /// Hears that time has passed.
    pub fn handle_timeout(&mut self, now: Instant) -> Progress {
        let over = self.next.is_none() && now >= self.end;
        if over { Progress::Failed } else { Progress::Pending }
    }
}

/// What to do with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It counts.
    Use,
    /// The server did not like how it was asked, and was remembered for it: ask again.
    AskAgain,
}

/// What is remembered of a server.
#[derive(Debug)]
pub struct Upstream {
    /// Eight octets that only this server sees (RFC 7873 §4.1).
    client_cookie: [u8; 8],
    /// What the server sent along with them, to be sent back; proves that our address is ours.
    server_cookie: Vec<u8>,
    /// Until when the server is asked without EDNS.
    plain_until: Option<Instant>,
    /// Smoothed round-trip time.
    rtt: Option<Duration>,
    truncated_in_row: u32,
}

impl Upstream {
    /// A server that nothing is known of. `client_cookie` is random.
    pub fn new(mut client_cookie: [u8; 8]) -> Upstream {
        // There are servers that strip white space off the end of a message: leave none there.
        client_cookie[7] |= 0x80;
        Upstream {
            client_cookie,
            server_cookie: Vec::new(),
            plain_until: None,
            rtt: None,
            truncated_in_row: 0,
        }
    }

    /// A query for the TXT records of `name`, as this server is asked.
    pub fn query(&self, name: Name, now: Instant) -> QueryTemplate {
        let edns = self.plain_until.is_none_or(|until| now >= until);
        let cookie = [&self.client_cookie[..], &self.server_cookie].concat();
        QueryTemplate { name, qtype: Rtype::TXT, edns, cookie }
    }

    /// How long to wait for one attempt: three times the smoothed round trip, within limits.
    pub fn timeout(&self, policy: &RetryPolicy) -> Duration {
        let slow = self.rtt.map_or(Duration::ZERO, |rtt| rtt * 3).min(TIMEOUT_MAX);
        policy.timeout.max(slow)
    }

    /// Smoothed round-trip time, once it was measured.
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// How a large answer is best asked for.
    pub fn transport(&self) -> Transport {
        let large = self.truncated_in_row >= TRUNCATED_IN_ROW;
        if large { Transport::Tcp } else { Transport::Udp }
    }

    /// Hears that a datagram brought a truncated answer, or, with `false`, a whole one.
    pub fn handle_truncation(&mut self, truncated: bool) {
        self.truncated_in_row = if truncated { self.truncated_in_row + 1 } else { 0 };
    }

    /// Hears that no connection can be had: back to datagrams.
    pub fn handle_connection_failed(&mut self) {
        self.truncated_in_row = 0;
    }

    /// Learns from a round trip that was not held up by the server (RFC 6298 §2).
    pub fn handle_round_trip(&mut self, time: Duration) {
        self.rtt = Some(self.rtt.map_or(time, |rtt| (rtt * 7 + time) / 8));
    }

    /// Judges an answer to `asked`.
    pub fn handle_answer(
        &mut self,
        now: Instant,
        asked: &QueryTemplate,
        answer: &Answer,
    ) -> Verdict {
        let cookie = answer.cookie.as_deref().and_then(<[u8]>::split_first_chunk::<8>);
        let mut fresh = false;
        if let Some((ours, theirs)) = cookie {
            if *ours == self.client_cookie && (8..=32).contains(&theirs.len()) {
                fresh = self.server_cookie != theirs;
                self.server_cookie = theirs.to_vec();
            }
        }
        let unread = matches!(answer.rcode, Rcode::FORMERR | Rcode::NOTIMP) && !answer.edns;
        if asked.edns && (unread || answer.rcode == Rcode::BADVERS) {
            self.plain_until = Some(now + PLAIN_FOR);
            return Verdict::AskAgain;
        }
        // Only with a new cookie in hand, so that this cannot go on for ever.
        if answer.rcode == Rcode::BADCOOKIE && fresh {
            return Verdict::AskAgain;
        }
        Verdict::Use
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{FLAG_QR, FLAG_TC};

    const MS: Duration = Duration::from_millis(1);

    fn query() -> QueryTemplate {
        Upstream::new([9; 8]).query("seq_1.example".parse().unwrap(), Instant::now())
    }

    fn lookup(now: Instant) -> Lookup {
        Lookup::new(query(), Transport::Udp, RetryPolicy::default(), 100 * MS, now)
    }

    /// A response without records to the query in `octets`.
    fn response(octets: &[u8], flags: u16) -> Vec<u8> {
        let mut message = octets[..octets.len() - 11 - 4 - 8].to_vec();
        message[2..4].copy_from_slice(&(FLAG_QR | flags).to_be_bytes());
        message[10..12].copy_from_slice(&[0, 0]);
        message
    }

    #[test]
    fn eleven_attempts_start_250_ms_apart_and_the_last_waits_100() {
        let start = Instant::now();
        let mut lookup = lookup(start);
        let mut now = start;
        let mut starts = Vec::new();
        loop {
            let mut out = Vec::new();
            if lookup.poll_transmit(now, starts.len() as u16, &mut out).is_some() {
                starts.push(now - start);
            }
            if lookup.handle_timeout(now) == Progress::Failed {
                break;
            }
            assert!(lookup.poll_timeout() > now, "time moves on");
            now = lookup.poll_timeout();
        }
        assert!(starts.iter().enumerate().all(|(n, at)| *at == 250 * MS * n as u32));
        assert_eq!((starts.len(), now - start), (11, 2600 * MS));
    }

    #[test]
    fn a_late_answer_to_an_earlier_attempt_counts() {
        let start = Instant::now();
        let mut lookup = lookup(start);
        let (mut first, mut second) = (Vec::new(), Vec::new());
        lookup.poll_transmit(start, 1, &mut first);
        lookup.poll_transmit(start + 250 * MS, 2, &mut second);
        let late = start + 300 * MS;
        let progress = lookup.handle_message(late, &response(&first, 0), Transport::Udp);
        assert!(matches!(progress, Progress::Answered { sent, .. } if sent == start));
    }

    #[test]
    fn foreign_messages_are_ignored_and_waiting_goes_on() {
        let start = Instant::now();
        let mut lookup = lookup(start);
        let mut sent = Vec::new();
        lookup.poll_transmit(start, 1, &mut sent);
        let mut forged = response(&sent, 0);
        forged[1] = 2;
        let mut other_name = response(&sent, 0);
        other_name[13] ^= 1;
        for message in [&forged[..], &other_name, &sent, b"", b"\0\x01"] {
            let progress = lookup.handle_message(start, message, Transport::Udp);
            assert!(matches!(progress, Progress::Ignored(_)), "{progress:?}");
        }
        let good = lookup.handle_message(start, &response(&sent, 0), Transport::Udp);
        assert!(matches!(good, Progress::Answered { .. }));
    }

    #[test]
    fn c03_truncation_leads_to_tcp_at_once() {
        let start = Instant::now();
        let mut lookup = lookup(start);
        let mut sent = Vec::new();
        lookup.poll_transmit(start, 1, &mut sent);
        let now = start + 5 * MS;
        let cut = response(&sent, FLAG_TC);
        assert_eq!(lookup.handle_message(now, &cut, Transport::Udp), Progress::Pending);
        let mut again = Vec::new();
        assert_eq!(lookup.poll_transmit(now, 2, &mut again), Some(Transport::Tcp));
        // A second copy of the truncated answer changes nothing.
        assert_eq!(lookup.handle_message(now, &cut, Transport::Udp), Progress::Pending);
        assert_eq!(lookup.poll_transmit(now, 3, &mut again), None);
        lookup.handle_connection_lost(now + 10 * MS);
        assert_eq!(lookup.poll_timeout(), now + 10 * MS);
        lookup.poll_transmit(now + 10 * MS, 4, &mut again);
        lookup.handle_connection_lost(now + 20 * MS);
        assert_eq!(lookup.poll_timeout(), now + 260 * MS);
    }

    #[test]
    fn c04_a_server_without_edns_is_asked_without_it_for_a_while() {
        let now = Instant::now();
        let mut upstream = Upstream::new([9; 8]);
        let asked = query();
        let mut sent = Vec::new();
        asked.write(1, &mut sent);
        for (rcode, verdict) in [(1, Verdict::AskAgain), (4, Verdict::AskAgain), (2, Verdict::Use)]
        {
            let answer = Answer::read(&response(&sent, rcode), 1, &asked).unwrap();
            assert_eq!(upstream.handle_answer(now, &asked, &answer), verdict);
        }
        let name = asked.name.clone();
        assert!(!upstream.query(name.clone(), now).edns);
        assert!(upstream.query(name, now + PLAIN_FOR).edns);
    }

    #[test]
    fn a_cookie_is_kept_only_when_it_belongs_to_ours() {
        let now = Instant::now();
        let mut upstream = Upstream::new([9; 8]);
        let asked = query();
        let mut sent = Vec::new();
        asked.write(1, &mut sent);
        let mut answer = Answer::read(&response(&sent, 0), 1, &asked).unwrap();
        answer.edns = true;
        answer.cookie = Some([[1; 8], [2; 8], [3; 8]].concat());
        upstream.handle_answer(now, &asked, &answer);
        assert_eq!(upstream.query(asked.name.clone(), now).cookie.len(), 8);
        let ours = upstream.client_cookie;
        answer.cookie = Some([ours, [2; 8], [3; 8]].concat());
        answer.rcode = Rcode::BADCOOKIE;
        assert_eq!(upstream.handle_answer(now, &asked, &answer), Verdict::AskAgain);
        assert_eq!(upstream.query(asked.name.clone(), now).cookie.len(), 24);
        assert_eq!(upstream.handle_answer(now, &asked, &answer), Verdict::Use);
    }

    #[test]
    fn the_timeout_follows_a_slow_path() {
        let policy = RetryPolicy::default();
        let mut upstream = Upstream::new([9; 8]);
        assert_eq!(upstream.timeout(&policy), 100 * MS);
        upstream.handle_round_trip(20 * MS);
        assert_eq!(upstream.timeout(&policy), 100 * MS);
        (0..100).for_each(|_| upstream.handle_round_trip(200 * MS));
        assert!(upstream.timeout(&policy) > 580 * MS);
        (0..100).for_each(|_| upstream.handle_round_trip(2000 * MS));
        assert_eq!(upstream.timeout(&policy), TIMEOUT_MAX);
    }
}

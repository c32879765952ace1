//! One question asked of one server until it is answered: attempts, timeouts, what counts as the
//! answer, truncation. What is remembered of a server between lookups is
//! [`Upstream`](crate::upstream::Upstream).
//!
//! No socket, clock or randomness: the caller sends what [`Lookup::poll_transmit`] writes, sleeps
//! until [`Lookup::poll_timeout`], and hands in what arrives. Forged and foreign messages are
//! ignored and waiting goes on (RFC 5452 §9.1); an answer to any attempt counts until the lookup
//! ends. Each attempt has an id of its own, as there are servers that never answer some ids.

mod fuzz;

#[doc(hidden)]
pub use fuzz::fuzz_lookup;

use crate::wire::{Answer, ParseError, QueryTemplate};
use std::time::{Duration, Instant};

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

/// The times between the attempts of one lookup over one transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// From the start of the first attempt to that of the second.
    pub first: Duration,
    /// Between the starts of later ones.
    pub then: Duration,
    /// From the start of the last attempt to the end of the lookup.
    pub last: Duration,
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
    /// The datagram was truncated: the lookup goes over to TCP.
    Truncated,
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

/// One query that was sent.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    id: u16,
    sent: Instant,
    via: Transport,
    /// Whether an answer to it may still come: its connection stands, if it has one.
    alive: bool,
}

/// One question being asked.
#[derive(Debug)]
pub struct Lookup {
    query: QueryTemplate,
    policy: RetryPolicy,
    udp: Pace,
    tcp: Pace,
    transport: Transport,
    attempts: Vec<Attempt>,
    /// When the next attempt starts; `None` when there are no more.
    next: Option<Instant>,
    /// When the last attempt counts as unanswered; meaningful when `next` is `None`.
    end: Instant,
    /// Whether a lost connection was made up for already.
    reconnected: bool,
    /// See [`Lookup::excuse`].
    excused_until: Option<Instant>,
}

impl Lookup {
    /// A lookup whose first attempt starts now. `udp` and `tcp` are the times between attempts over
    /// either transport.
    pub fn new(
        query: QueryTemplate,
        transport: Transport,
        policy: RetryPolicy,
        [udp, tcp]: [Pace; 2],
        now: Instant,
    ) -> Lookup {
        Lookup {
            query,
            policy,
            udp,
            tcp,
            transport,
            attempts: Vec::new(),
            next: Some(now),
            end: now,
            reconnected: false,
            excused_until: None,
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

    /// When the first attempt was sent.
    pub fn began(&self) -> Option<Instant> {
        self.attempts.first().map(|attempt| attempt.sent)
    }

    /// Attempts so far.
    pub fn attempts(&self) -> usize {
        self.attempts.len()
    }

    /// Attempts over the transport in use.
    pub fn tried(&self) -> usize {
        self.attempts.iter().filter(|attempt| attempt.via == self.transport).count()
    }

    /// Whether there is another attempt to come.
    pub fn has_next(&self) -> bool {
        self.next.is_some()
    }

    /// Puts the next attempt off until `at`.
    pub fn postpone(&mut self, at: Instant) {
        self.next = self.next.map(|next| next.max(at));
    }

    /// Attempts over the transport in use that were sent before `sent`. When the attempt sent then
    /// was answered, those before it were lost, or are slower by more than their distance.
    pub fn overtaken(&self, sent: Instant) -> usize {
        let before = |attempt: &&Attempt| attempt.sent < sent && attempt.via == self.transport;
        self.attempts.iter().filter(before).filter(|attempt| self.counts(attempt)).count()
    }

    /// Attempts over the transport in use that should have been answered by now: that began as long
    /// ago as the second attempt comes after the first. Those of a lookup that joins another are counted
    /// sooner: it joins where more than half is lost, and to expect too little there costs more.
    pub fn overdue(&self, now: Instant) -> usize {
        let usual = if self.transport == Transport::Udp { self.udp.first } else { self.tcp.first };
        let late =
            |attempt: &&Attempt| attempt.sent + usual <= now && attempt.via == self.transport;
        self.attempts.iter().filter(late).filter(|attempt| self.counts(attempt)).count()
    }

    /// Attempts before `until` went to nobody, and count neither as overtaken nor as overdue.
    pub fn excuse(&mut self, until: Instant) {
        self.excused_until = Some(until);
    }

    fn counts(&self, attempt: &Attempt) -> bool {
        self.excused_until.is_none_or(|until| attempt.sent >= until)
    }

    /// If an attempt starts now, appends its message to `out`, under the message id `id`.
    pub fn poll_transmit(&mut self, now: Instant, id: u16, out: &mut Vec<u8>) -> Option<Transport> {
        if self.next? > now {
            return None;
        }
        let via = self.transport;
        let pace = if via == Transport::Udp { self.udp } else { self.tcp };
        let earlier = self.attempts.iter().filter(|attempt| attempt.via == via).count();
        self.attempts.push(Attempt { id, sent: now, via, alive: true });
        let left = self.attempts.len() as u32 <= self.policy.retries;
        self.next = left.then_some(now + if earlier == 0 { pace.first } else { pace.then });
        self.end = now + pace.last;
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
        let asked = |attempt: &&Attempt| attempt.id == id && attempt.via == via;
        let Some(&Attempt { sent, .. }) = self.attempts.iter().find(asked) else {
            return Progress::Ignored(ParseError::Foreign);
        };
        match Answer::read(octets, id, &self.query) {
            Err(error) => Progress::Ignored(error),
            Ok(answer) if answer.truncated && via == Transport::Udp => {
                // Everything in it is worthless; ask the same server over TCP at once.
                if self.transport == Transport::Tcp {
                    return Progress::Pending;
                }
                self.transport = Transport::Tcp;
                self.next = Some(now);
                Progress::Truncated
            }
            // Truncated over TCP: nothing better will come.
            Ok(answer) => Progress::Answered { answer, sent },
        }
    }

    /// Hears that the connection on which the attempt `id` went was lost before it answered. When
    /// no other attempt can be answered, the next one starts as soon as the interval allows. The
    /// first loss costs no wait, as servers close connections when they like, unless none can be had:
    /// then the next one is tried after `wait`.
    pub fn handle_connection_lost(&mut self, now: Instant, id: u16, wait: Option<Duration>) {
        for attempt in &mut self.attempts {
            attempt.alive &= attempt.id != id || attempt.via == Transport::Udp;
        }
        let Some(&Attempt { sent, .. }) = self.attempts.last() else { return };
        let waiting = |attempt: &Attempt| attempt.alive && attempt.via == Transport::Tcp;
        if self.transport == Transport::Udp || self.attempts.iter().any(waiting) {
            return;
        }
        let usual = if self.reconnected { self.policy.interval } else { Duration::ZERO };
        let next = (sent + wait.map_or(usual, |wait| wait.max(self.policy.interval))).max(now);
        let began = self.began().unwrap_or(now);
        // Where no connection is to be had, it is over when it would have been if nothing had come.
        let whole = began + self.policy.interval * self.policy.retries.max(1);
        if self.attempts.len() as u32 <= self.policy.retries && (wait.is_none() || next <= whole) {
            self.reconnected = true;
            self.next = Some(next);
        } else {
            // Who fails is asked again: not sooner than if nothing had come.
            let least = if wait.is_none() { began + self.policy.interval } else { whole };
            self.next = None;
            self.end = now.max(least);
        }
    }

    /// Hears that time has passed.
    pub fn handle_timeout(&mut self, now: Instant) -> Progress {
        let over = self.next.is_none() && now >= self.end;
        if over { Progress::Failed } else { Progress::Pending }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{FLAG_QR, FLAG_TC, Rtype};

    const MS: Duration = Duration::from_millis(1);

    fn lookup(now: Instant) -> Lookup {
        let name = "seq_1.example".parse().unwrap();
        let query = QueryTemplate { name, qtype: Rtype::TXT, edns: true, cookie: vec![9; 8] };
        let pace = Pace { first: 250 * MS, then: 250 * MS, last: 100 * MS };
        Lookup::new(query, Transport::Udp, RetryPolicy::default(), [pace; 2], now)
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
        assert_eq!(lookup.handle_message(now, &cut, Transport::Udp), Progress::Truncated);
        let mut again = Vec::new();
        assert_eq!(lookup.poll_transmit(now, 2, &mut again), Some(Transport::Tcp));
        // A second copy of the truncated answer changes nothing.
        assert_eq!(lookup.handle_message(now, &cut, Transport::Udp), Progress::Pending);
        assert_eq!(lookup.poll_transmit(now, 3, &mut again), None);
        lookup.handle_connection_lost(now + 10 * MS, 2, None);
        assert_eq!(lookup.poll_timeout(), now + 10 * MS);
        lookup.poll_transmit(now + 10 * MS, 4, &mut again);
        lookup.handle_connection_lost(now + 20 * MS, 4, None);
        assert_eq!(lookup.poll_timeout(), now + 260 * MS);
    }

    #[test]
    fn without_a_connection_a_lookup_does_not_fail_at_once() {
        let start = Instant::now();
        for (retries, wait, attempts, end) in [
            // A connection that is gone is made up for at once, then as the interval allows.
            (3, None, 3, 250),
            (0, None, 1, 250),
            // Where there is none to be had, fewer are tried, for the same time.
            (10, Some(1000 * MS), 3, 2500),
            (0, Some(1000 * MS), 1, 250),
        ] {
            let policy = RetryPolicy { retries, ..RetryPolicy::default() };
            let pace = Pace { first: 250 * MS, then: 250 * MS, last: 100 * MS };
            let query = lookup(start).query().clone();
            let mut lookup = Lookup::new(query, Transport::Udp, policy, [pace; 2], start);
            let mut sent = Vec::new();
            lookup.poll_transmit(start, 0, &mut sent);
            let cut = response(&sent, FLAG_TC);
            assert_eq!(lookup.handle_message(start, &cut, Transport::Udp), Progress::Truncated);
            let mut now = start;
            let mut tried = 0;
            while lookup.handle_timeout(now) != Progress::Failed {
                if lookup.poll_transmit(now, tried + 1, &mut sent).is_some() {
                    tried += 1;
                    lookup.handle_connection_lost(now, tried, wait);
                }
                now = now.max(lookup.poll_timeout());
            }
            assert_eq!((tried, now - start), (attempts, end * MS), "{retries} {wait:?}");
        }
    }

    #[test]
    fn a_lost_connection_matters_only_to_the_attempts_on_it() {
        let start = Instant::now();
        let mut lookup = lookup(start);
        let mut sent = Vec::new();
        lookup.poll_transmit(start, 1, &mut sent);
        lookup.handle_message(start, &response(&sent, FLAG_TC), Transport::Udp);
        lookup.poll_transmit(start, 2, &mut sent);
        lookup.poll_transmit(start + 250 * MS, 3, &mut sent);
        lookup.handle_connection_lost(start + 260 * MS, 3, None);
        assert_eq!(lookup.poll_timeout(), start + 500 * MS, "attempt 2 may still be answered");
        lookup.handle_connection_lost(start + 270 * MS, 2, None);
        assert_eq!(lookup.poll_timeout(), start + 270 * MS);
    }
}

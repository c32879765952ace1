//! What is remembered of a server between lookups: its cookie, whether it knows EDNS, how long it
//! takes, how much the path to it loses, whether it can be relied on.
//!
//! From these follow the times between attempts ([`Upstream::paces`]), when a second server is asked
//! as well ([`Upstream::hedge_after`]), and how much later than usual an answer may be because
//! attempts were lost ([`Upstream::retry_allowance`]), which the listener keeps in its buffer. No
//! clock, socket or randomness.

use crate::lookup::{Pace, RetryPolicy, Transport};
use crate::wire::{Answer, Name, QueryTemplate, Rcode, Rtype};
use std::time::{Duration, Instant};

/// Longest wait for one attempt over UDP on a slow path.
const TIMEOUT_MAX: Duration = Duration::from_millis(800);
/// Wait for the last attempt over TCP: a handshake and a held answer go into it.
const TCP_TIMEOUT: Duration = Duration::from_millis(1500);
/// A question over TCP is not repeated later than this.
const TCP_PACE_MAX: Duration = Duration::from_millis(1200);
/// How long a server that does not know EDNS is asked without it.
const PLAIN_FOR: Duration = Duration::from_secs(15 * 60);
/// Truncated answers in a row after which segments are asked for over TCP directly.
const TRUNCATED_IN_ROW: u32 = 3;
/// A server that failed is left for this long, doubled with each failure in a row (C08).
const DOWN_FOR: Duration = Duration::from_secs(5);
/// And not for longer.
const DOWN_FOR_MAX: Duration = Duration::from_secs(60);
/// Attempts that the estimate of loss looks back on.
const LOSS_MEMORY: f64 = 300.0;
/// A server whose round trip is shorter is near.
pub(crate) const NEAR: Duration = Duration::from_millis(30);
/// Soundings of the way to a near server that the estimate of lost datagrams looks back on.
const SOUNDING_MEMORY: f64 = 24.0;
/// Loss beyond which attempts for segments start at half the interval.
const LOSSY: f64 = 0.03;
/// Attempts over UDP after which a segment on a path that loses much is asked for by a second lookup
/// as well: few come to that, and those are close to being late.
pub(crate) const JOINED_AFTER: usize = 4;
/// Loss beyond which connections are always waiting for something, and after how many attempts
/// that is believed.
const CLOGGED: f64 = 0.5;
const CLOGGED_PROOF: f64 = 40.0;
/// The same, where more connections are all that comes of it.
const MAYBE: f64 = 0.4;
const MAYBE_PROOF: f64 = 12.0;
/// Doubt in that: half the standard deviation of how many of so many soundings are lost is this times
/// the square root of their number.
const CLOGGED_DOUBT: f64 = 0.25;
/// Nothing answered for this long is an interruption.
const OUTAGE: Duration = Duration::from_millis(1500);
/// No more is allowed for beforehand; beyond it, the listener goes by what was seen.
const ALLOWANCE_MAX: Duration = Duration::from_secs(10);
/// What the listener's buffer leaves to chance: one segment in a million, that is one in 8 days.
const CHANCE: f64 = 1e-6;

/// What to do with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It counts.
    Use,
    /// The server did not like how it was asked, and was remembered for it: ask again.
    AskAgain,
}

/// How many questions were lost, of those whose fate is known; both fade as more are counted.
#[derive(Debug)]
struct Tally {
    known: f64,
    lost: f64,
    /// Of one question to the next.
    fade: f64,
}

impl Tally {
    /// Looks back on about `memory` questions.
    fn new(memory: f64) -> Tally {
        Tally { known: 0.0, lost: 0.0, fade: 1.0 - 1.0 / memory }
    }

    fn count(&mut self, lost: usize, answered: usize) {
        let fate = (lost + answered) as f64;
        let fade = self.fade.powf(fate);
        self.known = self.known * fade + fate;
        self.lost = self.lost * fade + lost as f64;
    }

    /// Takes back that questions were lost.
    fn forgive(&mut self, questions: f64) {
        self.known = (self.known - questions).max(0.0);
        self.lost = (self.lost - questions).max(0.0);
    }
}

/// The newest few of a series of times.
#[derive(Debug, Default)]
struct Recent {
    times: Vec<Duration>,
    next: usize,
    /// The same in order: what is asked of them is asked more often than they change.
    sorted: Vec<Duration>,
}

impl Recent {
    const LENGTH: usize = 48;

    fn push(&mut self, time: Duration) {
        if self.times.len() < Self::LENGTH {
            self.times.push(time);
        } else {
            let oldest = std::mem::replace(&mut self.times[self.next], time);
            self.sorted.remove(self.sorted.partition_point(|&other| other < oldest));
        }
        self.sorted.insert(self.sorted.partition_point(|&other| other < time), time);
        self.next = (self.next + 1) % Self::LENGTH;
    }

    /// The time below which `part` of all lie; `None` without any.
    fn quantile(&self, part: f64) -> Option<Duration> {
        let last = self.sorted.len().checked_sub(1)?;
        Some(self.sorted[(last as f64 * part).round() as usize])
    }
}

/// After so many connections that were not to be had, it takes so long until the next one is tried: a
/// firewall that lets no TCP through will not do so soon.
const UNCONNECTED: [(u32, Duration); 2] =
    [(12, Duration::from_millis(2500)), (3, Duration::from_secs(1))];

/// So many that are closed at once count for one that is not to be had.
const CLOSED_FOR_ONE: u32 = 4;

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
    /// From attempt to answer, by transport: UDP, TCP. Held answers count with their wait.
    responses: [Recent; 2],
    /// What became of attempts.
    attempts: Tally,
    /// How many of them were lost when a segment came last.
    lost_before: f64,
    /// While nothing is answered: since when, and how many were lost before.
    unanswered: Option<(Instant, f64)>,
    /// Soundings when listening began, and later, of the way to a near server.
    first_soundings: Tally,
    soundings: Tally,
    truncated_in_row: u32,
    /// Connections in a row that were not to be had.
    unconnected: u32,
    /// Connections in a row that were closed before anything came over them.
    closed_in_row: u32,
    failures: u32,
    down_until: Option<Instant>,
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
            responses: [Recent::default(), Recent::default()],
            attempts: Tally::new(LOSS_MEMORY),
            lost_before: 0.0,
            unanswered: None,
            first_soundings: Tally::new(f64::INFINITY),
            soundings: Tally::new(SOUNDING_MEMORY),
            truncated_in_row: 0,
            unconnected: 0,
            closed_in_row: 0,
            failures: 0,
            down_until: None,
        }
    }

    /// A query for the TXT records of `name`, as this server is asked.
    pub fn query(&self, name: Name, now: Instant) -> QueryTemplate {
        let edns = self.plain_until.is_none_or(|until| now >= until);
        let cookie = [&self.client_cookie[..], &self.server_cookie].concat();
        QueryTemplate { name, qtype: Rtype::TXT, edns, cookie }
    }

    /// How long to wait for one attempt over UDP: three times the smoothed round trip, within
    /// limits (C09).
    pub fn timeout(&self, policy: &RetryPolicy) -> Duration {
        let slow = self.rtt.map_or(Duration::ZERO, |rtt| rtt * 3).min(TIMEOUT_MAX);
        policy.timeout.max(slow)
    }

    /// The times between attempts, over UDP and over TCP. The second attempt waits until the first
    /// could well have been answered; later ones keep to the policy's interval. On a path that loses
    /// much, a `pressing` question is repeated at half of that: the interval of C09 would leave only
    /// seven attempts in the time that a listener is behind.
    pub fn paces(&self, policy: &RetryPolicy, pressing: bool) -> [Pace; 2] {
        let then =
            if pressing && self.has_bad_path() { policy.interval / 2 } else { policy.interval };
        let usual = |recent: &Recent| recent.quantile(0.25);
        let after = |time: Duration| time * 5 / 4 + Duration::from_millis(30);
        let udp = usual(&self.responses[0]).or(self.rtt).map_or(Duration::ZERO, after);
        // A connection that must be made first takes a round trip more, and so does its answer.
        let unknown = self.rtt.unwrap_or(Duration::ZERO) * 3 + Duration::from_millis(50);
        let tcp = usual(&self.responses[1]).map_or(unknown, after);
        let timeout = self.timeout(policy);
        let first = policy.interval.max(udp.min(TIMEOUT_MAX));
        [
            // Another lookup follows where this one fails; it need not wait for longer than that.
            Pace { first, then, last: timeout.min(first) },
            Pace {
                first: policy.interval.max(tcp.min(TCP_PACE_MAX)),
                then: if self.is_clogged() { then.max(tcp / 2) } else { then },
                last: timeout.max(TCP_TIMEOUT),
            },
        ]
    }

    /// Smoothed round-trip time, once it was measured.
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// The part of attempts that go unanswered, 0 to 1. Few attempts prove little: without any loss
    /// the estimate begins at 1 % and goes down as they add up.
    pub fn loss(&self) -> f64 {
        (self.attempts.lost + 0.02) / (self.attempts.known + 2.0)
    }

    /// Whether the path loses so much that connections are always waiting for something.
    pub fn is_clogged(&self) -> bool {
        self.attempts.known >= CLOGGED_PROOF && self.loss() > CLOGGED
    }

    /// Whether it may be so: enough to do what costs little.
    pub fn may_be_clogged(&self) -> bool {
        self.attempts.known >= MAYBE_PROOF && self.loss() > MAYBE
    }

    /// Whether that is beyond doubt: beginning far behind for nothing is worse than finding out
    /// later. So the soundings say so as well, which are not repeated and therefore not biased: on a
    /// path that loses 20 % each way hardly ever more than half of them are lost.
    pub fn is_surely_clogged(&self) -> bool {
        let Tally { known, lost, .. } = self.first_soundings;
        self.is_clogged() && lost > known * CLOGGED + known.sqrt() * CLOGGED_DOUBT
    }

    /// Whether the path seems to lose much.
    pub fn is_lossy(&self) -> bool {
        self.attempts.lost >= 1.0 && self.loss() > LOSSY
    }

    /// Whether the server is near.
    pub fn is_near(&self) -> bool {
        self.rtt.is_some_and(|rtt| rtt < NEAR)
    }

    /// Whether it is the path that loses much. A near server whose answers over TCP are late while
    /// soundings are answered has too much to do, or no connection to spare: asking it more, or
    /// keeping connections open, would make that worse for all who ask it.
    pub fn has_bad_path(&self) -> bool {
        let Tally { known, lost, .. } = self.soundings;
        let unheard = lost >= 0.5 && lost > known * LOSSY;
        self.is_lossy() && (!self.is_near() || unheard)
    }

    /// Learns the fate of questions that were asked only to learn it: when listening began, where
    /// they tell as much as any others, or later.
    pub fn handle_soundings(&mut self, now: Instant, first: bool, lost: usize, answered: usize) {
        if first {
            self.handle_attempts(now, lost, answered);
            self.first_soundings.count(lost, answered);
        } else {
            self.soundings.count(lost, answered);
        }
    }

    /// One of those that counted as lost is answered after all.
    pub fn handle_late_sounding(&mut self, now: Instant, first: bool) {
        if first {
            self.handle_doubt(1);
            self.first_soundings.forgive(1.0);
        } else {
            self.soundings.forgive(1.0);
        }
        self.handle_soundings(now, first, 0, 1);
    }

    /// Hears that nothing at all is answered: what was sounded meanwhile tells nothing.
    pub fn forget_soundings(&mut self) {
        self.soundings = Tally::new(SOUNDING_MEMORY);
    }

    /// How much later than usual a segment may come because attempts for it were lost, but for one
    /// in a million. Never less than one lost attempt takes.
    pub fn retry_allowance(&self, policy: &RetryPolicy) -> Duration {
        let loss = self.loss().clamp(1e-9, 0.95);
        // Beyond that, waiting for the least likely costs more than it gives.
        let attempts_max = if self.transport() == Transport::Udp { 18.0 } else { 13.0 };
        let attempts_max =
            attempts_max + if self.is_clogged() { (loss - 0.5) * 120.0 } else { 0.0 };
        // Attempts on a path that loses much are not independent of each other.
        let bad = ((loss - LOSSY) / LOSSY).clamp(0.0, 1.0);
        let more = if self.has_bad_path() { 2.0 * bad } else { 0.0 };
        // There is no half an attempt.
        let attempts = (CHANCE.ln() / loss.ln() + more - 1e-6).ceil().clamp(2.0, attempts_max);
        let [udp, tcp] = self.paces(policy, true);
        let is_udp = self.transport() == Transport::Udp;
        let pace = if is_udp { udp } else { tcp };
        // Late ones are asked twice as often.
        let joined = attempts - JOINED_AFTER as f64;
        let joined = if is_udp && self.is_lossy() { joined.max(0.0) } else { 0.0 };
        let steps = attempts - 2.0 - joined / 2.0;
        (pace.first + pace.then.mul_f64(steps)).min(ALLOWANCE_MAX)
    }

    /// The time after which a second server is asked as well: the 95th percentile of what segments
    /// took lately (C10); `None` while too little is known.
    pub fn hedge_after(&self, transport: Transport) -> Option<Duration> {
        let recent = &self.responses[transport as usize];
        let known = recent.times.len() >= 8;
        recent.quantile(0.95).filter(|_| known).map(|time| time.max(Duration::from_millis(20)))
    }

    /// How a large answer is best asked for.
    pub fn transport(&self) -> Transport {
        let large = self.truncated_in_row >= TRUNCATED_IN_ROW;
        if large { Transport::Tcp } else { Transport::Udp }
    }

    /// Whether connections will be needed.
    pub fn is_large(&self) -> bool {
        self.truncated_in_row > 0
    }

    /// Hears that a datagram brought a truncated answer, or, with `false`, a whole one.
    pub fn handle_truncation(&mut self, truncated: bool) {
        self.truncated_in_row = if truncated { self.truncated_in_row.saturating_add(1) } else { 0 };
    }

    /// Hears that no connection can be had: back to datagrams.
    pub fn handle_connection_failed(&mut self) {
        self.truncated_in_row = 0;
        self.unconnected = self.unconnected.saturating_add(1);
    }

    /// Hears that a connection was closed before anything came over it: for a while that may be because
    /// the server is short of them.
    pub fn handle_connection_closed(&mut self) {
        self.closed_in_row = self.closed_in_row.saturating_add(1);
    }

    /// Hears that something came over a connection.
    pub fn handle_connection(&mut self) {
        (self.unconnected, self.closed_in_row) = (0, 0);
    }

    /// How long to wait before the next connection is tried, where none was to be had lately.
    pub fn connection_wait(&self) -> Option<Duration> {
        let failures = self.unconnected.max(self.closed_in_row / CLOSED_FOR_ONE);
        let wait = |&(least, _): &(u32, Duration)| failures >= least;
        UNCONNECTED.iter().find(|step| wait(step)).map(|&(_, wait)| wait)
    }

    /// Learns from a round trip that was not held up by the server (RFC 6298 §2).
    pub fn handle_round_trip(&mut self, time: Duration) {
        self.rtt = Some(self.rtt.map_or(time, |rtt| (rtt * 7 + time) / 8));
    }

    /// Learns how long a segment took, from the attempt that was answered.
    pub fn handle_response(&mut self, via: Transport, time: Duration) {
        self.responses[via as usize].push(time);
        // It took a round trip at least, so one that is far longer was an exception.
        self.rtt = self.rtt.map(|rtt| rtt.min(time * 2));
    }

    /// Of attempts that counted as lost, this many may yet be answered, or tell nothing.
    pub fn handle_doubt(&mut self, attempts: usize) {
        self.attempts.forgive(attempts as f64);
    }

    /// Learns the fate of attempts. Those of a time when nothing at all was answered, on a path that
    /// loses little else, tell of an interruption, and nothing of how much is lost when there is none.
    /// Returns whether such a time is over.
    pub fn handle_attempts(&mut self, now: Instant, lost: usize, answered: usize) -> bool {
        if answered == 0 && lost > 0 && !self.is_lossy() && self.unanswered.is_none() {
            self.unanswered = Some((now, self.attempts.lost));
        }
        self.attempts.count(lost, answered);
        if answered == 0 {
            return false;
        }
        let Some((since, before)) = self.unanswered.take() else { return false };
        let over = now.saturating_duration_since(since) >= OUTAGE;
        if over {
            self.attempts.forgive((self.attempts.lost - before).max(0.0));
        }
        over
    }

    /// Hears that a segment came.
    pub fn handle_segment(&mut self) {
        self.lost_before = self.attempts.lost;
    }

    /// Hears that the server was not there, or another run of it has begun: what was not answered since
    /// the last segment came, the path did not lose.
    pub fn handle_restart(&mut self) {
        self.attempts.forgive((self.attempts.lost - self.lost_before).max(0.0));
    }

    /// Whether the server may be asked; one that failed is left for a while.
    pub fn is_up(&self, now: Instant) -> bool {
        self.down_until.is_none_or(|until| now >= until)
    }

    /// Hears that the server failed: silence, an error, or answers that are of no use.
    pub fn handle_failure(&mut self, now: Instant) {
        let wait = DOWN_FOR * (1 << self.failures.min(4));
        self.failures = self.failures.saturating_add(1);
        self.down_until = Some(now + wait.min(DOWN_FOR_MAX));
    }

    /// Hears that the server was of use.
    pub fn handle_success(&mut self) {
        self.failures = 0;
        self.down_until = None;
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
        // Only with a new cookie in hand. How often is for the caller to bound.
        if answer.rcode == Rcode::BADCOOKIE && fresh {
            return Verdict::AskAgain;
        }
        Verdict::Use
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::FLAG_QR;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_latest_times_are_kept_in_order() {
        let mut recent = Recent::default();
        assert_eq!(recent.quantile(0.5), None);
        let times: Vec<_> = (0..500u32).map(|n| MS * (n * 37 % 101)).collect();
        for (n, &time) in times.iter().enumerate() {
            recent.push(time);
            let mut latest = times[(n + 1).saturating_sub(Recent::LENGTH)..=n].to_vec();
            latest.sort();
            assert_eq!(recent.sorted, latest);
            assert_eq!(
                (recent.quantile(0.0), recent.quantile(1.0)),
                (Some(latest[0]), latest.last().copied())
            );
        }
    }

    fn query() -> QueryTemplate {
        Upstream::new([9; 8]).query("seq_1.example".parse().unwrap(), Instant::now())
    }

    /// A response without records to the query in `octets`.
    fn response(octets: &[u8], flags: u16) -> Vec<u8> {
        let mut message = octets[..octets.len() - 11 - 4 - 8].to_vec();
        message[2..4].copy_from_slice(&(FLAG_QR | flags).to_be_bytes());
        message[10..12].copy_from_slice(&[0, 0]);
        message
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
    fn c09_the_timeout_follows_a_slow_path() {
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

    #[test]
    fn c09_attempts_keep_250_ms_apart_but_for_pressing_ones_on_a_lossy_path() {
        let policy = RetryPolicy::default();
        let mut upstream = Upstream::new([9; 8]);
        let pace = |upstream: &Upstream, pressing| upstream.paces(&policy, pressing)[0];
        assert_eq!(pace(&upstream, true).first, 250 * MS);
        assert_eq!(pace(&upstream, true).then, 250 * MS);
        (0..30).for_each(|_| upstream.handle_response(Transport::Udp, 300 * MS));
        assert_eq!(pace(&upstream, true).first, 405 * MS);
        upstream.handle_attempts(Instant::now(), 10, 50);
        assert_eq!(pace(&upstream, false).then, 250 * MS);
        assert_eq!(pace(&upstream, true).then, 125 * MS);
    }

    #[test]
    fn the_allowance_follows_what_the_path_loses() {
        let policy = RetryPolicy::default();
        let mut upstream = Upstream::new([9; 8]);
        let fresh = upstream.retry_allowance(&policy);
        upstream.handle_attempts(Instant::now(), 0, 100);
        assert_eq!(upstream.retry_allowance(&policy), 250 * MS, "one lost attempt");
        assert_eq!(fresh, 500 * MS, "nothing is known: two lost attempts");
        upstream.handle_attempts(Instant::now(), 100, 200);
        let lossy = upstream.retry_allowance(&policy);
        assert!(lossy > 1000 * MS && lossy < 1700 * MS, "{lossy:?}");
        upstream.handle_attempts(Instant::now(), 1_000_000, 0);
        assert!(upstream.retry_allowance(&policy) <= ALLOWANCE_MAX);
    }

    #[test]
    fn an_interruption_is_no_loss_and_one_slow_answer_no_round_trip() {
        let mut now = Instant::now();
        let mut upstream = Upstream::new([9; 8]);
        upstream.handle_attempts(now, 0, 100);
        let loss = upstream.loss();
        let lose = |upstream: &mut Upstream, now: &mut Instant, times| {
            for _ in 0..times {
                upstream.handle_attempts(*now, 1, 0);
                *now += 250 * MS;
            }
            upstream.handle_attempts(*now, 0, 1)
        };
        assert!(lose(&mut upstream, &mut now, 8), "two seconds");
        assert!((upstream.loss() - loss).abs() < 1e-4, "{} and {loss}", upstream.loss());
        assert!(!lose(&mut upstream, &mut now, 3), "less than a second and a half");
        assert!(upstream.loss() > 0.02, "{}", upstream.loss());
        upstream.handle_round_trip(1000 * MS);
        upstream.handle_response(Transport::Tcp, 10 * MS);
        assert_eq!(upstream.rtt(), Some(20 * MS));
    }

    #[test]
    fn c08_a_server_that_failed_is_left_for_a_while_and_tried_again() {
        let now = Instant::now();
        let mut upstream = Upstream::new([9; 8]);
        assert!(upstream.is_up(now));
        upstream.handle_failure(now);
        assert!(!upstream.is_up(now + 4999 * MS) && upstream.is_up(now + DOWN_FOR));
        (0..100).for_each(|_| upstream.handle_failure(now));
        assert!(!upstream.is_up(now + 59 * 1000 * MS) && upstream.is_up(now + DOWN_FOR_MAX));
        upstream.handle_success();
        assert!(upstream.is_up(now));
    }

    #[test]
    fn c10_the_95th_percentile_is_known_after_a_few_answers() {
        let mut upstream = Upstream::new([9; 8]);
        (1..=7).for_each(|_| upstream.handle_response(Transport::Tcp, 100 * MS));
        assert_eq!(upstream.hedge_after(Transport::Tcp), None);
        (1..=100).for_each(|n| upstream.handle_response(Transport::Tcp, n * MS));
        // The newest 48 are 53 to 100 ms.
        assert_eq!(upstream.hedge_after(Transport::Tcp), Some(98 * MS));
        assert_eq!(upstream.hedge_after(Transport::Udp), None);
    }

    #[test]
    fn the_more_is_known_of_a_path_the_less_it_takes_to_be_sure_that_it_is_clogged() {
        let clogged = |lost, answered| {
            let mut upstream = Upstream::new([0; 8]);
            upstream.handle_soundings(Instant::now(), true, lost, answered);
            (upstream.is_clogged(), upstream.is_surely_clogged())
        };
        assert_eq!(clogged(24, 8), (false, false), "little is known");
        assert_eq!(clogged(27, 24), (true, false), "bad luck at 36 %");
        assert_eq!(clogged(34, 19), (true, true), "64 %");
        assert_eq!(clogged(165, 135), (true, true), "55 % of many");
    }
}

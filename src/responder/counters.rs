//! What the responder counts: one [`Counters`] per thread, on cache lines of its own, summed into a
//! [`ResponderStats`] on demand.
//!
//! Each counter has one writer, so that counting is a load and a store, not a locked addition.

use crate::zone::Outcome;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Kinds of answers.
const OUTCOMES: usize = Outcome::ALL.len();

/// A counter with one writer.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds `more`. To be called by the owning thread alone.
    pub fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one thread counts.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Counters {
    /// Messages that arrived.
    pub queries: Count,
    /// Of those, messages that nothing may be answered to.
    pub ignored: Count,
    /// Answers by [`Outcome::ALL`].
    pub answers: [Count; OUTCOMES],
    /// Octets of messages that arrived.
    pub octets_in: Count,
    /// Octets of answers.
    pub octets_out: Count,
    /// Answers to clients that proved their address by a cookie.
    pub verified: Count,
    /// Questions held.
    pub held: Count,
    /// Held questions answered with their segment.
    pub released: Count,
    /// Held questions answered without it, as it came too late.
    pub hold_expired: Count,
    /// Questions that were not held for want of a slot.
    pub hold_refused: Count,
    /// Answers cut short by the budget of a prefix (rule A3).
    pub limited_budget: Count,
    /// Answers cut short by the budget of the whole server (rule A5).
    pub limited_total: Count,
    /// Answers left out by the budget of a prefix (rule A3, every second one).
    pub dropped_budget: Count,
    /// Answers left out by the count of a prefix (rule A4).
    pub dropped_rate: Count,
    /// Errors left out by their count (rule A4).
    pub dropped_errors: Count,
    /// Receiving failed.
    pub receive_errors: Count,
    /// Sending failed.
    pub send_errors: Count,
    /// Connections accepted.
    pub tcp_accepted: Count,
    /// Connections closed at once, as there were too many.
    pub tcp_refused: Count,
    /// Connections closed at a deadline.
    pub tcp_timed_out: Count,
    /// Idle connections closed to make room.
    pub tcp_evicted: Count,
    /// Time from taking a message to having sent its answer.
    pub times: Histogram,
}

/// Durations in steps of a quarter of an octave, from 4 ns to an hour.
#[derive(Debug)]
pub struct Histogram([Count; STEPS]);

const STEPS: usize = 4 * 42;

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram(std::array::from_fn(|_| Count::default()))
    }
}

impl Histogram {
    /// Counts `count` times the duration `time`.
    pub fn record(&self, time: Duration, count: u64) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(4);
        let octave = nanos.ilog2() as usize;
        let quarter = (nanos >> (octave - 2)) as usize & 3;
        self.0[(4 * octave + quarter).min(STEPS - 1)].add(count);
    }
}

/// A snapshot of everything that was counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponderStats {
    /// Datagrams that arrived.
    pub udp_queries: u64,
    /// Messages that arrived over connections.
    pub tcp_queries: u64,
    /// Messages that nothing may be answered to: too short, or responses.
    pub ignored: u64,
    /// Answers by [`Outcome::ALL`].
    pub answers: [u64; OUTCOMES],
    /// Octets of DNS messages that arrived.
    pub octets_in: u64,
    /// Octets of DNS messages sent.
    pub octets_out: u64,
    /// Answers to datagrams from clients that proved their address by a cookie.
    pub verified: u64,
    /// Questions held until their segment was published.
    pub held: u64,
    /// Of those, answered with the segment.
    pub released: u64,
    /// Of those, answered without it, as it came too late.
    pub hold_expired: u64,
    /// Questions not held for want of a slot.
    pub hold_refused: u64,
    /// Answers cut short by the budget of the client's prefix (rule A3).
    pub limited_budget: u64,
    /// Answers cut short by the budget of the whole server (rule A5).
    pub limited_total: u64,
    /// Answers left out by the budget of the client's prefix (rule A3).
    pub dropped_budget: u64,
    /// Answers left out by the count of the client's prefix (rule A4).
    pub dropped_rate: u64,
    /// Errors left out by their count (rule A4).
    pub dropped_errors: u64,
    /// Times that receiving failed.
    pub receive_errors: u64,
    /// Times that sending failed.
    pub send_errors: u64,
    /// Connections open now.
    pub tcp_open: u64,
    /// Octets of answers that wait for their clients now.
    pub tcp_waiting: u64,
    /// Connections accepted.
    pub tcp_accepted: u64,
    /// Connections closed at once, as there were too many.
    pub tcp_refused: u64,
    /// Connections closed at a deadline.
    pub tcp_timed_out: u64,
    /// Idle connections closed to make room.
    pub tcp_evicted: u64,
    times: [u64; STEPS],
}

impl Default for ResponderStats {
    fn default() -> ResponderStats {
        ResponderStats::sum(&[], &Counters::default(), &Counters::default(), 0)
    }
}

impl ResponderStats {
    /// Adds up the counters of the threads for datagrams, of the one for connections, and of the
    /// one that answers held questions.
    pub fn sum(udp: &[Counters], tcp: &Counters, hold: &Counters, tcp_open: u64) -> ResponderStats {
        let all = || udp.iter().chain([tcp, hold]);
        let sum = |field: fn(&Counters) -> &Count| all().map(|c| field(c).get()).sum::<u64>();
        ResponderStats {
            udp_queries: udp.iter().map(|counters| counters.queries.get()).sum(),
            tcp_queries: tcp.queries.get(),
            ignored: sum(|c| &c.ignored),
            answers: std::array::from_fn(|kind| all().map(|c| c.answers[kind].get()).sum()),
            octets_in: sum(|c| &c.octets_in),
            octets_out: sum(|c| &c.octets_out),
            verified: sum(|c| &c.verified),
            held: sum(|c| &c.held),
            released: sum(|c| &c.released),
            hold_expired: sum(|c| &c.hold_expired),
            hold_refused: sum(|c| &c.hold_refused),
            limited_budget: sum(|c| &c.limited_budget),
            limited_total: sum(|c| &c.limited_total),
            dropped_budget: sum(|c| &c.dropped_budget),
            dropped_rate: sum(|c| &c.dropped_rate),
            dropped_errors: sum(|c| &c.dropped_errors),
            receive_errors: sum(|c| &c.receive_errors),
            send_errors: sum(|c| &c.send_errors),
            tcp_open,
            tcp_waiting: 0,
            tcp_accepted: sum(|c| &c.tcp_accepted),
            tcp_refused: sum(|c| &c.tcp_refused),
            tcp_timed_out: sum(|c| &c.tcp_timed_out),
            tcp_evicted: sum(|c| &c.tcp_evicted),
            times: std::array::from_fn(|step| all().map(|c| c.times.0[step].get()).sum()),
        }
    }

    /// Answers of one kind.
    pub fn answers_of(&self, outcome: Outcome) -> u64 {
        let kind = Outcome::ALL.iter().position(|&other| other == outcome);
        kind.map_or(0, |kind| self.answers[kind])
    }

    /// Messages that arrived.
    pub fn queries(&self) -> u64 {
        self.udp_queries + self.tcp_queries
    }

    /// The time within which the share `quantile` (0 to 1) of all answers was sent, counted from
    /// taking the message from the system, held ones not among them; exact to a fifth. `None`
    /// before the first answer.
    pub fn answer_time(&self, quantile: f64) -> Option<Duration> {
        let total: u64 = self.times.iter().sum();
        let rank = (total as f64 * quantile).ceil().max(1.0) as u64;
        let mut seen = 0;
        let step = self.times.iter().position(|&count| {
            seen += count;
            seen >= rank
        })?;
        // The upper end of the step.
        let (octave, quarter) = (step / 4, step as u64 % 4);
        Some(Duration::from_nanos((5 + quarter) << octave.saturating_sub(2)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_threads_add_up() {
        let udp = [Counters::default(), Counters::default()];
        let (tcp, hold) = (Counters::default(), Counters::default());
        udp[0].queries.add(3);
        udp[1].queries.add(4);
        tcp.queries.add(5);
        udp[0].answers[1].add(2);
        hold.answers[1].add(1);
        let stats = ResponderStats::sum(&udp, &tcp, &hold, 6);
        assert_eq!((stats.udp_queries, stats.tcp_queries, stats.queries()), (7, 5, 12));
        assert_eq!((stats.answers_of(Outcome::Segment), stats.tcp_open), (3, 6));
        assert_eq!(ResponderStats::default().answer_time(0.5), None);
    }

    #[test]
    fn quantiles_are_right_to_a_quarter() {
        let counters = Counters::default();
        for micros in 1..=1000 {
            counters.times.record(Duration::from_micros(micros), 1);
        }
        counters.times.record(Duration::MAX, 1);
        counters.times.record(Duration::ZERO, 1);
        let stats = ResponderStats::sum(&[], &counters, &Counters::default(), 0);
        for (quantile, micros) in [(0.5, 500.0), (0.9, 900.0), (0.1, 100.0)] {
            let told = stats.answer_time(quantile).unwrap().as_secs_f64() * 1e6;
            assert!(told >= micros && told <= 1.25 * micros, "{quantile}: {told} us");
        }
    }
}

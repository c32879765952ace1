//! Body of the fuzz target `lookup`: a socket loop made of octets.

use super::{Lookup, Progress, RetryPolicy, Transport};
use crate::upstream::{Upstream, Verdict};
use crate::wire::{self, Name, Rcode};
use std::time::{Duration, Instant};

/// No attempt is waited for longer.
const WAIT_MAX: Duration = Duration::from_millis(1500);
/// Unless no connection is to be had: then a lookup lasts no longer than this.
const UNCONNECTED_MAX: Duration = Duration::from_millis(2500);

/// Body of the fuzz target `lookup`: a list of operations, each an octet with its arguments behind
/// it, drives lookups one after the other, as a socket loop would.
#[doc(hidden)]
pub fn fuzz_lookup(operations: &[u8]) {
    let mut input = operations.iter().copied();
    let policy = RetryPolicy::default();
    let name: Name = "seq_2.music.example.com".parse().expect("a valid name");
    let mut upstream = Upstream::new([9; 8]);
    let mut now = Instant::now();
    let begin = |upstream: &Upstream, now| {
        let query = upstream.query(name.clone(), now);
        Lookup::new(query, upstream.transport(), policy, upstream.paces(&policy, true), now)
    };
    let mut lookup = begin(&upstream, now);
    let mut attempts = Vec::new();
    while let Some(operation) = input.next() {
        let mut next = || input.next().unwrap_or(0);
        // Whatever is due goes out before anything else happens.
        loop {
            let mut message = Vec::new();
            let id = attempts.len() as u16;
            let Some(via) = lookup.poll_transmit(now, id, &mut message) else { break };
            let wire::Reading::Query(query) = wire::Query::read(&message) else {
                panic!("our own query is read");
            };
            assert!(query.question.is_some_and(|question| name.is(question.name())));
            let cookie = query.edns.and_then(|edns| edns.cookie).map_or(0, <[u8]>::len);
            assert!(cookie <= 40, "RFC 7873 §4");
            attempts.push((via, message));
        }
        // One more than planned when a truncated answer comes to the last attempt.
        assert!(attempts.len() <= policy.retries as usize + 2);
        if lookup.handle_timeout(now) == Progress::Failed {
            lookup = begin(&upstream, now);
            attempts.clear();
            continue;
        }
        let wait = lookup.poll_timeout().checked_duration_since(now);
        let most = upstream.connection_wait().map_or(WAIT_MAX, |_| UNCONNECTED_MAX);
        assert!(wait.is_some_and(|wait| !wait.is_zero() && wait <= most), "{wait:?}");
        let octets = match operation % 8 {
            0 => {
                now = lookup.poll_timeout();
                continue;
            }
            1 => {
                now += Duration::from_millis(u64::from(next()) * 4);
                continue;
            }
            2 => {
                if attempts.last().is_some_and(|(via, _)| *via == Transport::Tcp) {
                    lookup.handle_connection_lost(
                        now,
                        (attempts.len() - 1) as u16,
                        upstream.connection_wait(),
                    );
                    upstream.handle_connection_failed();
                }
                continue;
            }
            3 => {
                let length = usize::from(next());
                (0..length).map(|_| next()).collect()
            }
            // A response to one of the attempts, with records as they come.
            _ => {
                let (_, asked) = &attempts[usize::from(operation >> 3) % attempts.len()];
                let question = asked.len().min(wire::HEADER_OCTETS + name.wire().len() + 4);
                let mut octets = asked[..question].to_vec();
                octets[2] = 0x80 | next() & 0x07;
                octets[3] = next();
                octets[6..12].copy_from_slice(&[0, next() % 4, 0, next() % 4, 0, next() % 4]);
                let length = usize::from(next());
                octets.extend((0..length).map(|_| next()));
                octets
            }
        };
        let via = attempts.last().map_or(Transport::Udp, |(via, _)| *via);
        match lookup.handle_message(now, &octets, via) {
            Progress::Pending => {}
            Progress::Truncated => upstream.handle_truncation(true),
            Progress::Ignored(_) => {}
            Progress::Failed => panic!("no message fails a lookup"),
            Progress::Answered { answer, sent } => {
                let asked = lookup.query().clone();
                upstream.handle_truncation(answer.truncated);
                upstream.handle_round_trip(now.saturating_duration_since(sent));
                let verdict = upstream.handle_answer(now, &asked, &answer);
                assert!(verdict == Verdict::Use || answer.rcode != Rcode::NOERROR);
                lookup = begin(&upstream, now);
                attempts.clear();
            }
        }
    }
}

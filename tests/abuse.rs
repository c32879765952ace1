//! The abuse policy on the wire (docs/dns.md): what goes out to addresses that may be
//! forged, counted in octets at the receiving sockets.
//!
//! The tests take turns, as each of them counts on the speed of one machine for its own pace; what
//! they assert holds at any speed.

#![allow(clippy::unwrap_used)] // a test may end anywhere

#[path = "support/dns.rs"]
mod dns;

use aodns::responder::limit::LimitSettings;
use dns::*;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A stream that treats loopback as it treats everybody.
fn lab(change: impl Fn(&mut LimitSettings)) -> Lab {
    let mut plan = Plan::new().with_sections(&[300, 1000, 2200]);
    plan.settings.limits.exempt.clear();
    change(&mut plan.settings.limits);
    plan.start()
}

fn client(lab: &Lab, source: [u8; 4]) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::from(source), 0)).unwrap();
    socket.connect(lab.addr).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// What was sent and what came back.
#[derive(Debug, Default)]
struct Tally {
    queries: u64,
    octets_asked: u64,
    answers: u64,
    octets_answered: u64,
    /// Octets by which answers exceeded their queries.
    excess: u64,
    truncated: u64,
    bad_cookies: u64,
    elapsed: Duration,
}

impl Tally {
    fn take(&mut self, socket: &UdpSocket, asked: usize) {
        let mut buffer = [0; 4096];
        while let Ok(length) = socket.recv(&mut buffer) {
            self.answers += 1;
            self.octets_answered += length as u64;
            self.excess += length.saturating_sub(asked) as u64;
            self.truncated += u64::from(buffer[2] & 2 != 0);
            self.bad_cookies += u64::from(buffer[3] & 15 == 7);
        }
    }

    /// What one prefix may be sent in this time: whole answers from the budget, and of others the
    /// 16 octets that a cookie grows by.
    fn check(&self, limits: &LimitSettings) {
        let seconds = self.elapsed.as_secs_f64();
        let budget = f64::from(limits.excess_burst) + f64::from(limits.excess_per_second) * seconds;
        let cookies = 16.0 * self.bad_cookies as f64;
        assert!(self.excess as f64 <= budget + cookies, "{self:?}");
        // Seconds are counted from the first answer of each on, so that one more begins and ends.
        let answers = f64::from(limits.responses_per_second) * (seconds + 2.0);
        assert!(self.answers as f64 <= answers, "{self:?}");
    }
}

/// Sends `query` 10,000 times a second for `time` from eight addresses of one /24, and counts what
/// comes back. `between` is called 100 times a second.
fn flood(lab: &Lab, query: &[u8], time: Duration, mut between: impl FnMut()) -> Tally {
    let clients: Vec<UdpSocket> = (1..9).map(|last| client(lab, [127, 7, 7, last])).collect();
    let mut tally = Tally::default();
    let before = lab.responder.stats().udp_queries;
    let begun = Instant::now();
    for step in 1.. {
        for number in 0..100 {
            clients[number % 8].send(query).unwrap();
            tally.queries += 1;
        }
        clients.iter().for_each(|client| tally.take(client, query.len()));
        between();
        let due = Duration::from_millis(10) * step;
        if due >= time {
            break;
        }
        // Pace, not synchronisation: a machine that is too slow sends fewer.
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
    }
    lab.wait_until("all taken", |stats| stats.udp_queries - before >= tally.queries);
    tally.elapsed = begun.elapsed();
    clients.iter().for_each(|client| tally.take(client, query.len()));
    tally.octets_asked = tally.queries * query.len() as u64;
    println!(
        "{} queries in {:.1} s, {} octets: {} answers, {} octets, factor {:.2}; {} truncated, {} \
         BADCOOKIE",
        tally.queries,
        tally.elapsed.as_secs_f64(),
        tally.octets_asked,
        tally.answers,
        tally.octets_answered,
        tally.octets_answered as f64 / tally.octets_asked as f64,
        tally.truncated,
        tally.bad_cookies,
    );
    tally
}

#[test]
fn a8_ten_thousand_queries_a_second_from_one_prefix() {
    let _turn = turn();
    let limits = LimitSettings::default();
    let lab = lab(|_| ());
    // Somebody else, and somebody in the same prefix who has a cookie, are served all along.
    let (other, known) = (client(&lab, [127, 8, 8, 1]), client(&lab, [127, 7, 7, 99]));
    for socket in [&other, &known] {
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    let address = Ipv4Addr::new(127, 7, 7, 99);
    let cookie = option(10, &server_cookie(b"clientck", unix_seconds(), address));
    let list = edns(&below("sequence"), TXT, &opt(1232, 0, &[]));
    let with_cookie = edns(&seq(FIRST + 1), TXT, &opt(1232, 0, &cookie));
    let mut steps = 0;
    let tally = flood(
        &lab,
        &edns(&seq(FIRST + 1), TXT, &opt(1232, 0, &[])),
        Duration::from_secs(5),
        || {
            steps += 1;
            if steps % 10 == 0 {
                other.send(&list).unwrap();
                parse(&receive(&other)).expect(QR | AA, [1, 1, 0, 1]);
                known.send(&with_cookie).unwrap();
                parse(&receive(&known)).expect(QR | AA, [1, 4, 0, 1]);
            }
        },
    );
    tally.check(&limits);
    // The policy had something to do, and did it.
    assert!(tally.truncated > 0 && tally.answers > tally.truncated, "{tally:?}");
    let stats = lab.responder.stats();
    assert!(stats.limited_budget > 0 && stats.dropped_budget > 0, "{stats:?}");
    let named = lab.responder.take_limited();
    assert_eq!(named.len(), 1, "one line for one prefix: {named:?}");
    assert_eq!(named[0].prefix.to_string(), "127.7.7.0/24");
    assert_eq!(lab.responder.take_limited().len(), 0);
}

#[test]
fn a2_a3_what_goes_out_when_the_budget_is_spent() {
    let _turn = turn();
    let spent = |limits: &mut LimitSettings| {
        limits.excess_burst = 0;
        limits.excess_per_second = 0;
    };
    let lab = lab(spent);
    let asked = std::cell::Cell::new(0);
    let ask = |query: &[u8]| {
        let socket = client(&lab, [127, 7, 7, 1]);
        socket.set_nonblocking(false).unwrap();
        // Every second one is not answered: the next one is.
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send(query).unwrap();
        socket.send(query).unwrap();
        let answer = parse(&receive(&socket));
        // Another thread may have taken the second one, and must not be overtaken by the next pair.
        asked.set(asked.get() + 2);
        lab.wait_until("both judged", |stats| {
            stats.answers.iter().sum::<u64>() + stats.dropped_budget == asked.get()
        });
        answer
    };
    let before = lab.responder.stats();
    let plain_list = plain(&below("sequence"), TXT);
    let answer = ask(&plain_list);
    answer.expect(QR | AA | TC, [1, 0, 0, 0]);
    assert_eq!(answer.octets.len(), plain_list.len(), "factor 1.0");
    let list = edns(&below("sequence"), TXT, &opt(1232, 0, &[]));
    let answer = ask(&list);
    answer.expect(QR | AA | TC, [1, 0, 0, 1]);
    assert_eq!(answer.octets.len(), list.len(), "factor 1.0");
    let known = edns(&below("sequence"), TXT, &opt(1232, 0, &option(10, b"clientck")));
    let answer = ask(&known);
    answer.expect(QR | 7, [1, 0, 0, 1]);
    assert_eq!((answer.rcode(), answer.octets.len()), (23, known.len() + 16));
    assert!(answer.octets.len() as f64 <= 1.25 * known.len() as f64);
    // What costs nothing is answered as ever: errors, and what is truncated anyway.
    for (query, flags) in [
        (plain(&seq(FIRST + 2), TXT), QR | AA | TC),
        (plain(&name("org"), TXT), QR | 5),
        (message(1, 4 << 11, [0; 4], &[]), QR | 4 << 11 | 4),
    ] {
        assert_eq!(ask(&query).flags, flags);
    }
    lab.wait_until("counted", |stats| {
        stats.limited_budget == before.limited_budget + 3 && stats.dropped_budget == 3
    });
    // TCP is not limited.
    lab.tcp(&list).expect(QR | AA, [1, 1, 0, 1]);
}

#[test]
fn a4_errors_are_counted() {
    let _turn = turn();
    let lab = lab(|_| ());
    let tally = flood(&lab, &plain(&name("example.org"), TXT), Duration::from_secs(1), || ());
    let seconds = tally.elapsed.as_secs_f64() + 2.0;
    assert!(tally.answers as f64 <= 100.0 * seconds, "{tally:?}");
    assert!(lab.responder.stats().dropped_errors > 0);
}

#[test]
fn a5_the_whole_server_has_a_budget() {
    let _turn = turn();
    let lab = lab(|limits| limits.excess_per_second_total = 10_000);
    let query = edns(&below("config"), TXT, &opt(1232, 0, &[]));
    let begun = Instant::now();
    let mut tally = Tally::default();
    let sockets: Vec<UdpSocket> = (0..200).map(|third| client(&lab, [127, 9, third, 1])).collect();
    for round in 1..=20 {
        for socket in &sockets {
            socket.send(&query).unwrap();
        }
        lab.wait_until("all taken", |stats| stats.udp_queries == 200 * round);
    }
    let answered = |stats: &aodns::responder::ResponderStats| stats.answers.iter().sum::<u64>();
    lab.wait_until("all answered", |stats| answered(stats) == 4000);
    let seconds = begun.elapsed().as_secs_f64();
    sockets.iter().for_each(|socket| tally.take(socket, query.len()));
    assert_eq!(tally.answers, 4000, "truncated, not dropped");
    assert!(tally.excess as f64 <= 10_000.0 * (seconds + 2.0), "{tally:?} in {seconds} s");
    assert_eq!(tally.truncated, lab.responder.stats().limited_total);
    assert!(tally.truncated > 0);
}

#[test]
fn a7_a8_a_dry_run_counts_and_limits_nothing() {
    let _turn = turn();
    let lab = lab(|limits| {
        limits.dry_run = true;
        limits.excess_burst = 10_000;
        limits.excess_per_second = 1000;
    });
    let query = edns(&below("sequence"), TXT, &opt(1232, 0, &option(10, b"clientck")));
    let tally = flood(&lab, &query, Duration::from_secs(1), || ());
    lab.wait_until("all answered", |stats| stats.answers.iter().sum::<u64>() == tally.queries);
    assert_eq!((tally.truncated, tally.bad_cookies), (0, 0));
    let stats = lab.responder.stats();
    assert!(stats.limited_budget > 0 && stats.dropped_budget > 0, "{stats:?}");
    assert_eq!(lab.responder.take_limited().len(), 1);
}

#[test]
fn a9_only_trusted_clients_get_large_datagrams() {
    let _turn = turn();
    let mut plan = Plan::new().with_sections(&[2200]);
    plan.settings.trusted = vec!["127.6.0.0/16".parse().unwrap()];
    plan.settings.trusted_payload_max = 4096;
    let lab = plan.start();
    let query = edns(&seq(FIRST), TXT, &opt(4096, 0, &[]));
    for (source, whole) in [([127, 6, 1, 1], true), ([127, 7, 1, 1], false)] {
        let socket = client(&lab, source);
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send(&query).unwrap();
        let answer = parse(&receive(&socket));
        assert_eq!((answer.flags & TC == 0, answer.octets.len() > 2200), (whole, whole));
    }
}

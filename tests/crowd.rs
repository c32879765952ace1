//! Crowds behind one resolver: real sockets, real decoders, nothing heard. What reaches the server
//! must not grow with the crowd by more than the questions that no cache may answer.
//!
//! `cargo test --release --test crowd -- --ignored --nocapture --test-threads=1`; AODNS_CROWD_SECONDS is
//! how long each listens, 120 by default. Crowds of 10 and of 150 listen one after the other, and are
//! compared.

#[path = "support/process.rs"]
mod process;
#[path = "support/resolver.rs"]
mod resolver;

use aodns::audio::{NullSink, ProgrammeSource};
use aodns::client::{Client, ClientConfig};
use aodns::server::{Server, ServerConfig};
use aodns::zone::Outcome;
use process::skip;
use resolver::{NotStarted, Resolver, ResolverKind};
use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

const ROOT: &str = "music.example.com";
/// How many listen, to see what more of them cost.
const CROWDS: [u64; 2] = [10, 150];
/// `now` is asked for at joining, and every so often.
const RESYNC_SECONDS: u64 = 300;

/// What a crowd heard and what its server was asked.
#[derive(Default)]
struct Seen {
    gaps: u64,
    lost: u64,
    misses: u64,
    retries: u64,
    asked: u64,
    /// Seconds of sound, of all together.
    played: f64,
    latencies: Vec<f64>,
    segments: u64,
    /// What reached the server, by datagram and by connection.
    queries: u64,
    now: u64,
    /// For segments: those answered with one, and those sent on to TCP.
    cached: u64,
    config: u64,
    /// For another type than TXT.
    denied: u64,
}

/// How long each crowd listens unless it is told otherwise.
const SECONDS: u64 = 120;

fn seconds() -> u64 {
    let seconds = std::env::var("AODNS_CROWD_SECONDS").ok();
    seconds.map_or(SECONDS, |text| text.parse().expect("a number of seconds"))
}

/// Lets `listeners` listen for a while.
fn crowd(kind: ResolverKind, listeners: u64) -> Result<Seen, NotStarted> {
    let listen = vec![(Ipv4Addr::LOCALHOST, 0).into()];
    let config = ServerConfig::new(ROOT.parse().expect("a name"), listen);
    let server =
        Server::start(config, Box::new(ProgrammeSource::new())).expect("the server starts");
    let resolver = Resolver::start(kind, ROOT, server.local_addrs()[0])?;
    thread::sleep(Duration::from_secs(2));
    let clients: Vec<_> = (0..listeners)
        .map(|_| {
            let root = ROOT.parse().expect("a name");
            let config = ClientConfig::new(root, vec![resolver.addr()]);
            Client::start(config, Box::new(NullSink::new())).expect("the listener starts")
        })
        .collect();
    thread::sleep(Duration::from_secs(seconds()));
    let mut seen = Seen::default();
    for client in clients {
        let stats = client.stop().expect("the listener goes on to the end");
        seen.gaps += stats.play.playout.gaps;
        seen.lost += stats.follow.lost;
        seen.misses += stats.follow.misses;
        seen.retries += stats.fetch.retries;
        seen.asked += stats.fetch.queries;
        seen.played += stats.play.written.as_secs_f64();
        seen.latencies.extend(stats.play.latency.map(|latency| latency.as_secs_f64()));
    }
    seen.latencies.sort_by(f64::total_cmp);
    let stats = server.stop().expect("the server goes on to the end");
    let answers = |outcome| stats.responder.answers_of(outcome);
    seen.segments = stats.segments;
    seen.queries = stats.responder.queries();
    seen.now = answers(Outcome::Now);
    seen.cached = answers(Outcome::Segment) + answers(Outcome::Truncated);
    seen.config = answers(Outcome::Config);
    seen.denied = answers(Outcome::NoData);
    Ok(seen)
}

fn crowds(kind: ResolverKind, crowds: &[u64]) {
    let mut heard = Vec::new();
    for &listeners in crowds {
        match crowd(kind, listeners) {
            Ok(seen) => heard.push(seen),
            Err(NotStarted::NotInstalled(package)) => return skip(kind.name(), package),
            Err(error) => panic!("{error}"),
        }
    }
    println!(
        "| {}, {} s: listeners | gaps | latency, median and most | they asked | repeated | the server \
         was asked | for now | for config | for each segment | for another type |",
        kind.name(),
        seconds()
    );
    for (listeners, seen) in crowds.iter().zip(&heard) {
        println!(
            "| {listeners} | {} | {:.2} s, {:.2} s | {} | {} | {} | {} | {} | {:.2} | {} |",
            seen.gaps,
            seen.latencies[seen.latencies.len() / 2],
            seen.latencies[seen.latencies.len() - 1],
            seen.asked,
            seen.retries,
            seen.queries,
            seen.now,
            seen.config,
            seen.cached as f64 / seen.segments as f64,
            seen.denied,
        );
    }
    // unbound as it is packaged looks up once for each client that asks before the first answer is
    // there: how many do depends on the speed of the machine, and shows in a short run.
    let counted = kind != ResolverKind::Unbound || seconds() >= SECONDS;
    for (&listeners, seen) in crowds.iter().zip(&heard) {
        assert_eq!((seen.gaps, seen.lost, seen.misses), (0, 0, 0), "{listeners}");
        // Nobody is late so often that it is for want of what the others keep.
        assert!(seen.retries < 4 * listeners, "{} repetitions", seen.retries);
        assert!(seen.played > (listeners * (seconds() - 6)) as f64, "{} s", seen.played);
        // Joining, every five minutes, and some again, as nothing was heard in time.
        let joins = listeners * (1 + seconds() / RESYNC_SECONDS);
        assert!(seen.now <= joins + joins / 5 + 3, "{} questions for now", seen.now);
        // Each segment once by UDP and once by TCP, some twice that were asked for both ways at the
        // beginning.
        let most = 2 * seen.segments + seen.segments / 10 + 12;
        assert!(!counted || seen.cached <= most, "{} for {} segments", seen.cached, seen.segments);
        // A TTL of 60 s, and some that come together.
        assert!(seen.config <= 2 * (2 + seconds() / 60), "{} for config", seen.config);
        // unbound asks for an address first, once for each name (RFC 9156).
        let names = seen.now + seen.segments + seen.config;
        let most = names + names / 10;
        assert!(!counted || seen.denied <= most, "{} for {names} names", seen.denied);
        let known = seen.now + seen.cached + seen.config + seen.denied;
        assert_eq!(seen.queries, known, "there were other questions");
    }
    // Fifteen times as many listeners do not ask the server for more than a few segments more.
    if let [few, many] = &heard[..] {
        let more = many.cached.saturating_sub(few.cached);
        assert!(!counted || more <= 12 + few.segments / 20, "{more} more questions for segments");
    }
}

#[test]
#[ignore = "takes four minutes"]
fn crowds_behind_unbound() {
    crowds(ResolverKind::Unbound, &CROWDS);
}

#[test]
#[ignore = "takes four minutes"]
fn crowds_behind_unbound_without_subnets() {
    crowds(ResolverKind::UnboundWithoutSubnets, &CROWDS);
}

#[test]
#[ignore = "takes four minutes"]
fn crowds_behind_bind() {
    crowds(ResolverKind::Bind, &CROWDS);
}

#[test]
#[ignore = "takes two minutes"]
fn a_crowd_that_waits_for_connections_does_not_ask_for_more_of_them() {
    crowds(ResolverKind::BindWithFewConnections, &CROWDS[1..]);
}

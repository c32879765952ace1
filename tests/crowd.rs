//! A crowd behind one resolver: real sockets, real decoders, nothing heard. What reaches the server
//! must not grow with the crowd by more than the questions that no cache may answer.
//!
//! `cargo test --release --test crowd -- --ignored --nocapture`; AODNS_CROWD_SECONDS is how long it
//! listens, 120 by default.

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
const LISTENERS: usize = 150;

fn crowd(kind: ResolverKind) {
    let seconds: u64 = std::env::var("AODNS_CROWD_SECONDS")
        .ok()
        .map_or(120, |text| text.parse().expect("a number of seconds"));
    let listen = vec![(Ipv4Addr::LOCALHOST, 0).into()];
    let config = ServerConfig::new(ROOT.parse().expect("a name"), listen);
    let server =
        Server::start(config, Box::new(ProgrammeSource::new())).expect("the server starts");
    let resolver = match Resolver::start(kind, ROOT, server.local_addrs()[0]) {
        Ok(resolver) => resolver,
        Err(NotStarted::NotInstalled(package)) => return skip(kind.name(), package),
        Err(error) => panic!("{error}"),
    };
    thread::sleep(Duration::from_secs(2));
    let listeners: Vec<_> = (0..LISTENERS)
        .map(|_| {
            let root = ROOT.parse().expect("a name");
            let config = ClientConfig::new(root, vec![resolver.addr()]);
            Client::start(config, Box::new(NullSink::new())).expect("the listener starts")
        })
        .collect();
    thread::sleep(Duration::from_secs(seconds));
    let mut latencies = Vec::new();
    let (mut gaps, mut lost, mut misses, mut played, mut asked) = (0, 0, 0, 0.0, 0);
    for listener in listeners {
        let stats = listener.stop().expect("the listener goes on to the end");
        gaps += stats.play.playout.gaps;
        lost += stats.follow.lost;
        misses += stats.follow.misses;
        asked += stats.fetch.queries;
        played += stats.play.written.as_secs_f64();
        latencies.extend(stats.play.latency.map(|latency| latency.as_secs_f64()));
    }
    latencies.sort_by(f64::total_cmp);
    let stats = server.stop().expect("the server goes on to the end");
    let answers = |outcome| stats.responder.answers_of(outcome);
    let now = answers(Outcome::Now);
    let others = stats.responder.queries() - now;
    println!(
        "{} listeners behind {}, {seconds} s: {gaps} gaps, {lost} lost, {misses} misses; latency \
         {:.2} s, at most {:.2} s; they asked {asked} times; the server was asked {now} times for \
         now, {others} times for the rest: {:.2} for each of {} segments",
        LISTENERS,
        kind.name(),
        latencies[latencies.len() / 2],
        latencies[latencies.len() - 1],
        others as f64 / stats.segments as f64,
        stats.segments,
    );
    assert_eq!((gaps, lost), (0, 0));
    assert!(played > (LISTENERS as u64 * (seconds - 6)) as f64, "{played} s were heard");
    // Joining, every five minutes, and where something disagreed.
    assert!(now <= 2 * LISTENERS as u64, "{now} questions for now");
    // A segment is asked for once by UDP and once by TCP, a few times more where names are
    // minimised or clients meet.
    assert!(
        others <= 8 * stats.segments + LISTENERS as u64,
        "{others} questions for {} segments",
        stats.segments
    );
}

#[test]
#[ignore = "takes two minutes"]
fn a_crowd_behind_unbound() {
    crowd(ResolverKind::Unbound);
}

#[test]
#[ignore = "takes two minutes"]
fn a_crowd_behind_bind() {
    crowd(ResolverKind::Bind);
}

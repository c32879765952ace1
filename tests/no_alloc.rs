//! Once everything has been asked for a few times, answering allocates nothing: over UDP, from a
//! socket of one address and from one of all, over TCP, for held questions and under the limits.
//!
//! One test in a process of its own, as the allocator counts what all threads do. The clients here
//! allocate nothing either while it counts.

#![allow(clippy::unwrap_used)] // a test may end anywhere

#[path = "support/dns.rs"]
mod dns;

use aodns::pipeline::moment;
use aodns::publication::Publication;
use aodns::responder::Responder;
use aodns::segment::Segment;
use aodns::units::SampleRate;
use aodns::window::Window;
use dns::*;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Asserts that `run` makes `expected` allocations, the test's own.
fn allocates(what: &str, expected: usize, run: impl FnOnce()) {
    let region = Region::new(ALLOCATOR);
    run();
    let made = region.change();
    println!("{what}: {} allocations, {} growths", made.allocations, made.reallocations);
    assert_eq!((made.allocations, made.reallocations), (expected, 0), "{what}");
}

/// One query of every kind, with and without EDNS, NSID and cookies, good and bad ones.
fn queries() -> Vec<Vec<u8>> {
    let names = [
        below("sequence"),
        seq(FIRST),
        seq(FIRST + 1),
        seq(FIRST + 2),
        below("config"),
        below("now_abc"),
        name("music.example.com"),
        below("ns"),
        below("foo"),
        seq(1),
        name("org"),
    ];
    let cookie = server_cookie(b"clientck", unix_seconds(), Ipv4Addr::LOCALHOST);
    let options = [option(3, &[]), option(10, b"clientck"), option(10, &cookie), option(10, b"no")];
    let mut queries = Vec::new();
    for name in names {
        for qtype in [TXT, SOA, NS, A, 255, 252] {
            queries.push(plain(&name, qtype));
            queries.push(edns(&name, qtype, &opt(4096, 0x8000, &[])));
        }
        queries.extend(options.iter().map(|option| edns(&name, TXT, &opt(1232, 0, option))));
        queries.push(edns(&name, TXT, &opt(1232, 1 << 16, &[])));
    }
    queries.push(message(1, 5 << 11, [1, 0, 0, 0], &[]));
    queries.push(message(1, 0, [2, 0, 0, 0], &[]));
    queries
}

/// Asks everything `rounds` times over UDP, some queries at once so that batches form.
fn ask_datagrams(clients: &[UdpSocket], queries: &[Vec<u8>], rounds: usize) {
    let mut buffer = [0; 4096];
    for _ in 0..rounds {
        for some in queries.chunks(8) {
            for client in clients {
                for query in some {
                    client.send(query).unwrap();
                }
            }
            for client in clients {
                for _ in some {
                    client.recv(&mut buffer).unwrap();
                }
            }
        }
    }
}

fn read_answer(client: &mut TcpStream, buffer: &mut [u8]) {
    client.read_exact(&mut buffer[..2]).unwrap();
    let length = usize::from(u16::from_be_bytes([buffer[0], buffer[1]]));
    client.read_exact(&mut buffer[..length]).unwrap();
}

/// Asks everything on one connection: each in one piece, each in two, and some together.
fn ask_stream(client: &mut TcpStream, framed: &[Vec<u8>], together: &[u8], rounds: usize) {
    let mut buffer = [0; 65_535];
    for _ in 0..rounds {
        for query in framed {
            client.write_all(query).unwrap();
            read_answer(client, &mut buffer);
            client.write_all(&query[..9]).unwrap();
            client.write_all(&query[9..]).unwrap();
            read_answer(client, &mut buffer);
        }
        client.write_all(together).unwrap();
        framed.iter().take(20).for_each(|_| read_answer(client, &mut buffer));
    }
}

#[test]
fn answering_allocates_nothing_in_steady_state() {
    datagrams();
    connections();
    held_questions();
    limited_answers();
}

fn datagrams() {
    let queries = queries();
    for listen in [
        IpAddr::from(Ipv4Addr::LOCALHOST),
        Ipv4Addr::UNSPECIFIED.into(),
        Ipv6Addr::LOCALHOST.into(),
        Ipv6Addr::UNSPECIFIED.into(),
    ] {
        if listen.is_ipv6() && UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
            println!("no IPv6 on this machine");
            continue;
        }
        let mut plan = Plan::new().with_sections(&[300, 1100, 2200]);
        plan.settings.listen = vec![(listen, 0).into()];
        plan.zone.server_id = Some("node-7".into());
        let lab = plan.start();
        let target: IpAddr = match listen {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        let target = SocketAddr::new(target, lab.addr.port());
        let clients: Vec<UdpSocket> = (0..8).map(|_| udp_client(target)).collect();
        ask_datagrams(&clients, &queries, 3);
        allocates(&format!("UDP at {listen}"), 0, || ask_datagrams(&clients, &queries, 10));
    }
}

fn connections() {
    let lab = Plan::new().with_sections(&[300, 1100, 2200]).start();
    let framed: Vec<Vec<u8>> = queries().iter().map(|query| dns::framed(query)).collect();
    let together = framed[..20].concat();
    let mut client = tcp_client(lab.addr);
    ask_stream(&mut client, &framed, &together, 2);
    allocates("TCP, one connection", 0, || ask_stream(&mut client, &framed, &together, 5));
    let each = || {
        let mut buffer = [0; 65_535];
        for query in &framed {
            let mut client = TcpStream::connect(lab.addr).unwrap();
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            client.write_all(query).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            read_answer(&mut client, &mut buffer);
            assert_eq!(client.read(&mut buffer).unwrap(), 0);
        }
    };
    each();
    allocates("TCP, a connection for each", 0, each);
}

/// Holds questions over UDP and TCP, and has them answered by a publication.
fn held_questions() {
    let mut plan = Plan::new();
    // A stream whose next segment is always due in a moment: its segments last 650 ms at most, and
    // a question is held from 50 ms before the last one on.
    plan.longest = Duration::from_millis(650);
    let now = moment();
    let mut window = Window::new(75, SampleRate::HZ_16000, plan.longest, FIRST, now);
    let publication = Arc::new(Publication::new(window.snapshot()));
    let responder =
        Responder::start(plan.settings, Arc::new(plan.zone), Arc::clone(&publication)).unwrap();
    let addr = responder.local_addrs()[0];
    let clients: Vec<UdpSocket> = (0..20).map(|_| udp_client(addr)).collect();
    let mut stream = tcp_client(addr);
    let mut buffer = vec![0; 65_535];
    let mut whole_rounds = 0;
    for round in 0..40 {
        let next = FIRST + round;
        let query = plain(&seq(next), TXT);
        let mut streamed = Vec::new();
        for id in 0..10u16 {
            let question = question(&seq(next), TXT, IN);
            streamed.extend(dns::framed(&message(id, 0, [1, 0, 0, 0], &[&question])));
        }
        window.publish(&Segment { strings: strings(280) }, 11_520, moment());
        let snapshot = window.snapshot();
        let held_before = responder.stats().held;
        let released_before = responder.stats().released;
        let stats_allocate = Region::new(ALLOCATOR);
        std::hint::black_box(responder.stats());
        // In the first rounds the threads may still be setting themselves up.
        if round >= 10 {
            let made = stats_allocate.change().allocations;
            assert_eq!(made, 0, "looking at the counters is free");
        }
        let exchange = || {
            for client in &clients {
                client.send(&query).unwrap();
            }
            stream.write_all(&streamed).unwrap();
            let begun = std::time::Instant::now();
            while responder.stats().held < held_before + 30 {
                // A machine that is too slow for this round has them denied instead.
                if begun.elapsed() > Duration::from_secs(2) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            publication.publish(snapshot);
            for client in &clients {
                client.recv(&mut buffer).unwrap();
            }
            (0..10).for_each(|_| read_answer(&mut stream, &mut buffer));
        };
        match round {
            0..10 => exchange(),
            // The publication itself is one.
            _ => allocates("30 held questions", 1, exchange),
        }
        let stats = responder.stats();
        whole_rounds += u32::from(round >= 10 && stats.released == released_before + 30);
    }
    assert!(whole_rounds > 0, "no round was fast enough to be held: {:?}", responder.stats());
}

fn limited_answers() {
    let mut plan = Plan::new().with_sections(&[300, 1100, 2200]);
    plan.settings.limits.exempt.clear();
    plan.settings.limits.excess_burst = 2000;
    plan.settings.limits.excess_per_second = 1000;
    let lab = plan.start();
    let queries = queries();
    let clients: Vec<UdpSocket> = (0..8).map(|_| udp_client(lab.addr)).collect();
    clients.iter().for_each(|client| client.set_nonblocking(true).unwrap());
    let ask = |rounds: usize| {
        let mut buffer = [0; 4096];
        for _ in 0..rounds {
            for query in &queries {
                for client in &clients {
                    client.send(query).unwrap();
                    // Most are not answered; what is, is taken now or later.
                    while client.recv(&mut buffer).is_ok() {}
                }
            }
            let sent = lab.responder.stats().udp_queries;
            std::hint::black_box(sent);
        }
    };
    ask(3);
    lab.wait_until("all taken", |stats| stats.udp_queries > 0);
    allocates("limited answers", 0, || ask(10));
    let stats = lab.responder.stats();
    let [slipped, dropped] =
        [stats.limited_budget, stats.dropped_budget + stats.dropped_rate + stats.dropped_errors];
    assert!(slipped > 0 && dropped > 0, "{stats:?}");
    println!("{slipped} cut short, {dropped} left out");
}

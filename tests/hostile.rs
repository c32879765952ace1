//! Mutated packets at a running responder, over UDP and TCP: it neither panics nor grows, and sends
//! no answer that the abuse policy forbids.
//!
//! `AODNS_HOSTILE_PACKETS` says how many (200,000 by default), `AODNS_HOSTILE_SEED` which. Every
//! datagram comes from one of 64 addresses in eight /24 prefixes, none of them exempt.

#![allow(clippy::unwrap_used)] // a test may end anywhere

#[path = "support/dns.rs"]
mod dns;

use aodns::pipeline::moment;
use dns::*;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// xorshift64.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() >> 16) as usize % end
    }
}

/// A client with what it knows of its own.
struct Client {
    socket: UdpSocket,
    /// Octets of the query with each message id; the last one where ids come round again.
    asked: Vec<u16>,
    id: u16,
    /// Octets by which whole answers exceeded their queries.
    excess: u64,
    answers: u64,
    errors: u64,
}

impl Client {
    fn new(lab: &Lab, number: usize) -> Client {
        let source = Ipv4Addr::new(127, 0, (number / 8) as u8, 1 + (number % 8) as u8);
        let socket = UdpSocket::bind((source, 0)).unwrap();
        socket.connect(lab.addr).unwrap();
        socket.set_nonblocking(true).unwrap();
        Client { socket, asked: vec![1; 65_536], id: 0, excess: 0, answers: 0, errors: 0 }
    }

    /// Takes what has come, and checks each answer by itself.
    fn take(&mut self, buffer: &mut [u8]) {
        while let Ok(length) = self.socket.recv(buffer) {
            let answer = &buffer[..length];
            assert!((12..=1232).contains(&length), "{length} octets");
            assert!(answer[2] & 0x80 != 0 && answer[3] & 0x80 == 0, "QR set, RA clear");
            let asked =
                usize::from(self.asked[usize::from(u16::from_be_bytes([answer[0], answer[1]]))]);
            assert!(asked >= 12, "nothing was asked with this id");
            let truncated = answer[2] & 2 != 0;
            let no_records = answer[6..10] == [0; 4];
            // BADCOOKIE has the lower bits of YXRRSET.
            if truncated || no_records {
                assert!(length <= asked + 11 + 28, "{length} octets without content for {asked}");
            } else {
                // Without OPT it may be as large as 512 octets.
                assert!(answer[10..12] != [0, 0] || length <= 512);
                self.excess += length.saturating_sub(asked) as u64;
            }
            self.answers += 1;
            self.errors += u64::from(is_error(answer));
        }
    }
}

/// Whether an answer is one of the errors that are counted: FORMERR, NOTIMP, REFUSED, NOTAUTH, and
/// BADVERS, whose upper bits stand in an OPT record without options at the end.
fn is_error(answer: &[u8]) -> bool {
    let truncated = answer[2] & 2 != 0;
    match answer[3] & 15 {
        1 | 4 | 5 | 9 => !truncated,
        0 if answer.len() >= 12 + 5 + 11 => {
            let opt = &answer[answer.len() - 11..];
            opt[..3] == [0, 0, 41] && opt[5] == 1
        }
        _ => false,
    }
}

/// Queries to begin with: every row of the matrix has one that is near.
fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let options = [
        option(3, &[]),
        option(10, b"clientck"),
        option(10, &[7; 24]),
        option(11, &[]),
        option(8, &[0, 1, 24, 0, 192, 0, 2]),
        option(12, &[0; 40]),
    ];
    for label in
        ["sequence", "config", "now_abc123", &format!("seq_{}", FIRST + 1), "seq_1", "ns", "x.y"]
    {
        for qtype in [TXT, A, 255, SOA] {
            seeds.push(plain(&below(label), qtype));
            seeds.push(edns(&below(label), qtype, &opt(4096, 0, &[])));
        }
        seeds.push(edns(&below(label), TXT, &opt(1232, 0x8000, &options.concat())));
        options
            .iter()
            .for_each(|option| seeds.push(edns(&below(label), TXT, &opt(512, 0, option))));
    }
    for qtype in [SOA, NS, 251, 252, 48] {
        seeds.push(plain(&name("music.example.com"), qtype));
    }
    seeds.push(message(0, 0, [1, 0, 0, 0], &[&question(&name("version.bind"), TXT, CH)]));
    seeds.push(message(
        0,
        4 << 11,
        [1, 0, 0, 0],
        &[&question(&name("music.example.com"), SOA, IN)],
    ));
    seeds.push(plain(&name("example.org"), A));
    seeds
}

/// Changes a message at a few places; its id stays.
fn mutate(noise: &mut Noise, seeds: &[Vec<u8>], next: u64, message: &mut Vec<u8>) {
    message.clear();
    match noise.below(8) {
        // What is due next, which is held.
        0 => message.extend_from_slice(&edns(&seq(next), TXT, &opt(1232, 0, &[]))),
        _ => message.extend_from_slice(&seeds[noise.below(seeds.len())]),
    }
    for _ in 0..noise.below(6) {
        let at = 2 + noise.below(message.len().max(3) - 2);
        match noise.below(10) {
            0 => message.truncate(at),
            1 => message.insert(at.min(message.len()), noise.next() as u8),
            2 if at < message.len() => drop(message.remove(at)),
            3 => {
                let other = &seeds[noise.below(seeds.len())];
                message.truncate(at);
                message.extend_from_slice(&other[noise.below(other.len())..]);
            }
            4 => message.resize(message.len() + noise.below(600), noise.next() as u8),
            // Within the header, where flags and counts are.
            5 if message.len() >= 12 => message[2 + noise.below(10)] = noise.next() as u8,
            6 if message.len() >= 12 => message[2] &= 0x07,
            7 if at < message.len() => message[at] = [0, 0xC0, 0xFF, 63, 64, 1][noise.below(6)],
            _ if at < message.len() => message[at] ^= 1 << noise.below(8),
            _ => {}
        }
    }
    message.truncate(4000);
}

/// Octets of this process in memory.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

/// Sends some mutated messages over one connection, and a good one behind them, which is answered
/// unless the connection was closed for one before it.
fn over_tcp(lab: &Lab, messages: &[Vec<u8>], noise: &mut Noise, buffer: &mut [u8]) {
    let mut client = TcpStream::connect(lab.addr).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.set_write_timeout(Some(PATIENCE)).unwrap();
    let mut octets: Vec<u8> = messages.iter().flat_map(|message| framed(message)).collect();
    if noise.below(4) == 0 {
        let at = noise.below(octets.len());
        octets[at] ^= 1 << noise.below(8);
    }
    let end = message(0xFFFF, 0, [1, 0, 0, 0], &[&question(&below("config"), TXT, IN)]);
    octets.extend_from_slice(&framed(&end));
    if client.write_all(&octets).is_err() || client.shutdown(std::net::Shutdown::Write).is_err() {
        return;
    }
    loop {
        match client.read(buffer) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => {
                assert!(closed(error.kind()), "neither answered nor closed: {error}");
                return;
            }
        }
    }
}

#[test]
fn u06_mutated_packets_neither_break_nor_swell_nor_misuse_the_server() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
    };
    let packets = number("AODNS_HOSTILE_PACKETS", 200_000);
    let seed = number("AODNS_HOSTILE_SEED", 1);
    println!("seed {seed}");
    let mut noise = Noise(seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let mut plan = Plan::new().with_sections(&[300, 2200, 1000]);
    plan.longest = Duration::from_millis(150);
    plan.settings.limits.exempt.clear();
    // Little enough for the budget to be spent by what is left of good queries.
    plan.settings.limits.excess_burst = 5_000;
    plan.settings.limits.excess_per_second = 2_000;
    let limits = plan.settings.limits.clone();
    let lab = plan.start();
    let begun = Instant::now();
    let mut clients: Vec<Client> = (0..64).map(|number| Client::new(&lab, number)).collect();
    let seeds = seeds();
    let mut message = Vec::with_capacity(8192);
    let mut buffer = vec![0; 65_535];
    let (mut sent, mut over_stream, mut warm) = (0u64, 0u64, 0);
    let mut next = FIRST + 3;
    let mut published = Instant::now();
    while sent + over_stream < packets {
        for _ in 0..256 {
            let client = &mut clients[noise.below(64)];
            mutate(&mut noise, &seeds, next, &mut message);
            client.id = client.id.wrapping_add(1);
            if message.len() >= 2 {
                message[..2].copy_from_slice(&client.id.to_be_bytes());
            }
            client.asked[usize::from(client.id)] = message.len() as u16;
            client.socket.send(&message).unwrap();
            sent += 1;
        }
        // No more under way than the socket's buffer holds.
        lab.wait_until("all taken", |stats| stats.udp_queries + 512 >= sent);
        clients.iter_mut().for_each(|client| client.take(&mut buffer));
        if noise.below(16) == 0 {
            let messages: Vec<Vec<u8>> = (0..64)
                .map(|_| {
                    mutate(&mut noise, &seeds, next, &mut message);
                    message.clone()
                })
                .collect();
            over_tcp(&lab, &messages, &mut noise, &mut buffer);
            over_stream += 64;
        }
        if published.elapsed() > Duration::from_millis(100) {
            published = Instant::now();
            next = 1 + lab.publish(strings(300 + noise.below(2000)), moment());
        }
        if warm == 0 && sent + over_stream >= packets / 10 {
            warm = resident();
        }
    }
    lab.wait_until("all taken", |stats| stats.udp_queries == sent);
    lab.publish(strings(300), moment());
    let grown = resident().saturating_sub(warm);
    clients.iter_mut().for_each(|client| client.take(&mut buffer));
    assert_eq!(lab.responder.failed_thread(), None, "a thread panicked");
    assert!(grown < 4 << 20, "{grown} octets more than after a tenth of it");

    let seconds = begun.elapsed().as_secs() + 2;
    let total: u64 = clients.iter().map(|client| client.excess).sum();
    let errors: u64 = clients.iter().map(|client| client.errors).sum();
    let answers: u64 = clients.iter().map(|client| client.answers).sum();
    for prefix in clients.chunks(8) {
        let sum = |field: fn(&Client) -> u64| prefix.iter().map(field).sum::<u64>();
        let (excess, answers, errors) = (sum(|c| c.excess), sum(|c| c.answers), sum(|c| c.errors));
        let most = u64::from(limits.excess_burst) + u64::from(limits.excess_per_second) * seconds;
        assert!(excess <= most, "{} octets too many to one prefix", excess - most);
        assert!(answers <= u64::from(limits.responses_per_second) * seconds);
        assert!(errors <= u64::from(limits.errors_per_second) * seconds);
    }
    assert!(errors <= u64::from(limits.errors_per_second_total) * seconds);
    assert!(total <= u64::from(limits.excess_per_second_total) * seconds);
    let stats = lab.responder.stats();
    println!(
        "{sent} datagrams and {over_stream} messages over TCP in {:.1} s: {answers} answers over UDP, \
         {errors} of them errors, {total} octets more than was asked with; {} held, {} cut short, \
         {} left out; memory grew by {} kB",
        begun.elapsed().as_secs_f64(),
        stats.held,
        stats.limited_budget + stats.limited_total,
        stats.dropped_budget + stats.dropped_rate + stats.dropped_errors,
        grown / 1024,
    );
    assert!(answers > 0 && stats.held > 0 && stats.limited_budget > 0 && stats.dropped_errors > 0);
    // It serves as before.
    lab.tcp(&plain(&below("sequence"), TXT)).expect(QR | AA, [1, 1, 0, 0]);
    lab.responder.stop().unwrap();
}

//! How much larger answers are than their queries, by kind of query, measured on the wire: for this
//! server and, with the same records and their default settings, for NSD and Knot DNS.
//!
//! Prints the tables of docs/dns.md:
//! `cargo test --release --test amplification -- --ignored --nocapture`

#![allow(clippy::unwrap_used)] // a test may end anywhere

#[path = "support/dns.rs"]
mod dns;
#[path = "support/process.rs"]
mod process;

use dns::*;
use process::{Process, TempDir, find_program, free_port, skip};
use std::fmt::Write;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// IPv4 and UDP headers.
const HEADERS: usize = 28;

/// A segment packed for one datagram, and one as the base layer has it by default.
fn small() -> Vec<u8> {
    seq(FIRST + 73)
}

fn large() -> Vec<u8> {
    seq(FIRST + 74)
}

/// What is asked, and its name in the tables.
fn kinds() -> Vec<(&'static str, Vec<u8>)> {
    let apex = name("music.example.com");
    let cookie = option(10, b"clientck");
    let with = |name: &[u8], qtype, size| edns(name, qtype, &opt(size, 0, &[]));
    let chaos = question(&name("version.bind"), TXT, CH);
    vec![
        ("`sequence`, no EDNS", plain(&below("sequence"), TXT)),
        ("`sequence`, EDNS 1232", with(&below("sequence"), TXT, 1232)),
        ("`sequence`, client cookie", edns(&below("sequence"), TXT, &opt(1232, 0, &cookie))),
        ("`seq_<n>` of 2.2 kB, no EDNS", plain(&large(), TXT)),
        ("`seq_<n>` of 2.2 kB, EDNS 1232", with(&large(), TXT, 1232)),
        ("`seq_<n>` of 2.2 kB, EDNS 4096", with(&large(), TXT, 4096)),
        ("`seq_<n>` of 2.2 kB, client cookie", edns(&large(), TXT, &opt(1232, 0, &cookie))),
        ("`seq_<n>` of 2.2 kB, ANY, EDNS 4096", with(&large(), 255, 4096)),
        ("`seq_<n>` of 1.2 kB, no EDNS", plain(&small(), TXT)),
        ("`seq_<n>` of 1.2 kB, EDNS 1232", with(&small(), TXT, 1232)),
        ("`config`, EDNS 1232", with(&below("config"), TXT, 1232)),
        ("`now_<nonce>`, EDNS 1232", with(&below("now_abc"), TXT, 1232)),
        ("apex SOA", plain(&apex, SOA)),
        ("apex NS", plain(&apex, NS)),
        ("apex ANY, EDNS 4096", with(&apex, 255, 4096)),
        ("no such type", plain(&below("sequence"), A)),
        ("no such name", plain(&below("foo"), TXT)),
        ("no such name, DO", edns(&below("foo"), TXT, &opt(4096, 0x8000, &[]))),
        ("outside the zone", plain(&name("example.org"), TXT)),
        ("`version.bind`", message(1, 0, [1, 0, 0, 0], &[&chaos])),
        ("NOTIFY", message(1, 4 << 11, [1, 0, 0, 0], &[&question(&apex, SOA, IN)])),
        ("malformed", plain(&[0xC0, 12], TXT)),
        ("EDNS version 1", edns(&below("sequence"), TXT, &opt(1232, 1 << 16, &[]))),
    ]
}

/// The records of our server as a zone file, taken from its answers.
fn zone_file(lab: &Lab) -> String {
    let mut text = String::from(
        "$ORIGIN music.example.com.\n\
         @ 1 IN SOA ns hostmaster 1 5 2 3600 1\n\
         @ 3600 IN NS ns\n@ 3600 IN NS a.deep\n@ 3600 IN NS ns.example.net.\n\
         ns 3600 IN A 192.0.2.1\nns 3600 IN AAAA 2001:db8::1\na.deep 3600 IN A 192.0.2.2\n",
    );
    let numbers = (FIRST..FIRST + 75).map(|number| format!("seq_{number}"));
    for label in ["sequence", "config", "now_abc"].map(String::from).into_iter().chain(numbers) {
        for record in lab.tcp(&plain(&below(&label), TXT)).answer {
            write!(text, "{label} {} IN TXT \"", record.ttl).unwrap();
            record.rdata[1..].iter().for_each(|octet| write!(text, "\\{octet:03}").unwrap());
            text.push_str("\"\n");
        }
    }
    text
}

fn nsd(directory: &Path, port: u16) -> Option<Command> {
    let place = directory.display();
    let text = format!(
        "server:\n ip-address: 127.0.0.1\n port: {port}\n username: \"\"\n chroot: \"\"\n \
         zonesdir: \"{place}\"\n pidfile: \"\"\n xfrdfile: \"{place}/xfrd\"\n xfrdir: \"{place}\"\n \
         zonelistfile: \"{place}/zones\"\n\
         remote-control:\n control-enable: no\n\
         zone:\n name: music.example.com\n zonefile: zone\n"
    );
    std::fs::write(directory.join("nsd.conf"), text).unwrap();
    let mut command = Command::new(find_program("nsd")?);
    command.arg("-d").arg("-c").arg(directory.join("nsd.conf"));
    Some(command)
}

fn knot(directory: &Path, port: u16) -> Option<Command> {
    let place = directory.display();
    let text = format!(
        "server:\n  rundir: {place}\n  listen: 127.0.0.1@{port}\n\
         database:\n  storage: {place}\n\
         zone:\n  - domain: music.example.com\n    storage: {place}\n    file: zone\n    \
         zonefile-sync: -1\n    journal-content: none\n"
    );
    std::fs::write(directory.join("knot.conf"), text).unwrap();
    let mut command = Command::new(find_program("knotd")?);
    command.arg("-c").arg(directory.join("knot.conf"));
    Some(command)
}

/// Another server, serving `zone`.
struct Other {
    name: &'static str,
    addr: SocketAddr,
    _process: Process,
    _directory: TempDir,
}

fn start(
    name: &'static str,
    package: &str,
    zone: &str,
    prepare: fn(&Path, u16) -> Option<Command>,
) -> Option<Other> {
    let directory = TempDir::new(package).unwrap();
    std::fs::write(directory.path().join("zone"), zone).unwrap();
    let port = free_port().unwrap();
    let Some(mut command) = prepare(directory.path(), port) else {
        skip("amplification", package);
        return None;
    };
    let process = Process::spawn(&mut command, directory.path()).unwrap();
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let deadline = Instant::now() + PATIENCE;
    while ask(addr, &plain(&large(), TXT), Duration::from_millis(100)).is_none() {
        assert!(Instant::now() < deadline, "{name} does not start: {}", process.stderr());
        std::thread::sleep(Duration::from_millis(50));
    }
    Some(Other { name, addr, _process: process, _directory: directory })
}

/// The answer, if one comes.
fn ask(addr: SocketAddr, query: &[u8], patience: Duration) -> Option<Vec<u8>> {
    let client = udp_client(addr);
    client.set_read_timeout(Some(patience)).unwrap();
    client.send(query).unwrap();
    let mut buffer = [0; 65_535];
    let length = client.recv(&mut buffer).ok()?;
    Some(buffer[..length].to_vec())
}

/// 10,000 queries a second for 3 s from one prefix: octets answered, octets asked with.
fn sustained(addr: SocketAddr, query: &[u8]) -> (usize, usize) {
    let client = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    client.connect(addr).unwrap();
    client.set_nonblocking(true).unwrap();
    let mut buffer = [0; 65_535];
    let (mut asked, mut answered) = (0, 0);
    let begun = Instant::now();
    for step in 1..=300 {
        for _ in 0..100 {
            match client.send(query) {
                Ok(length) => asked += length + HEADERS,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            while let Ok(length) = client.recv(&mut buffer) {
                answered += length + HEADERS;
            }
        }
        let due = Duration::from_millis(10) * step;
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
    }
    client.set_nonblocking(false).unwrap();
    client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    while let Ok(length) = client.recv(&mut buffer) {
        answered += length + HEADERS;
    }
    (answered, asked)
}

#[test]
#[ignore = "prints a table"]
fn amplification_by_kind_of_query() {
    let mut sections = vec![2200; 75];
    sections[73] = 1100;
    let mut plan = Plan::new().with_sections(&sections);
    plan.settings.limits.exempt.clear();
    let lab = plan.start();
    let zone = zone_file(&lab);
    let others: Vec<Other> =
        [start("NSD", "nsd", &zone, nsd), start("Knot DNS", "knot", &zone, knot)]
            .into_iter()
            .flatten()
            .collect();
    let mut servers = vec![("aodns", lab.addr)];
    servers.extend(others.iter().map(|other| (other.name, other.addr)));
    let names = servers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" | ");
    println!("\n| query | octets | {names} |\n|---|---|{}", "---|".repeat(servers.len()));
    for (kind, query) in kinds() {
        let mut line = format!("| {kind} | {} |", query.len());
        for (_, addr) in &servers {
            match ask(*addr, &query, Duration::from_secs(1)) {
                Some(answer) => {
                    let factor = answer.len() as f64 / query.len() as f64;
                    let on_wire = (answer.len() + HEADERS) as f64 / (query.len() + HEADERS) as f64;
                    let tc = if answer[2] & 2 != 0 { " TC" } else { "" };
                    write!(line, " {}{tc}: {factor:.1} ({on_wire:.1}) |", answer.len()).unwrap();
                }
                None => line.push_str(" no answer |"),
            }
        }
        println!("{line}");
    }
    println!("\n10,000 queries a second for 3 s from one prefix, headers of IP and UDP counted:\n");
    println!("| query | {names} |\n|---|{}", "---|".repeat(servers.len()));
    for (kind, query) in kinds() {
        let chosen = [
            "`sequence`, EDNS 1232",
            "`seq_<n>` of 1.2 kB, EDNS 1232",
            "`seq_<n>` of 2.2 kB, EDNS 4096",
            "no such name",
        ];
        if !chosen.contains(&kind) {
            continue;
        }
        let mut line = format!("| {kind} |");
        for (_, addr) in &servers {
            let (answered, asked) = sustained(*addr, &query);
            write!(line, " {:.2} |", answered as f64 / asked as f64).unwrap();
        }
        println!("{line}");
        // So that the next kind finds full budgets.
        std::thread::sleep(Duration::from_secs(3));
    }
}

//! Idle, slow and reset connections by the thousand, while datagrams are timed: nothing leaks, and
//! what it costs the others is printed.
//!
//! The server runs in a process of its own, so that its descriptors, threads and memory can be told
//! from those of the clients. Times are printed and not asserted: they are the machine's.

#![cfg(target_os = "linux")] // what a process holds is read from /proc
#![allow(clippy::unwrap_used)] // a test may end anywhere

#[path = "support/dns.rs"]
mod dns;
#[path = "support/process.rs"]
mod process;

use aodns::pipeline::moment;
use dns::*;
use process::{Process, TempDir};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Set for the process that is the server.
const CHILD: &str = "AODNS_FLOOD_CHILD";
const IDLE: usize = 500;
const SLOW: usize = 200;
const RESETS: usize = 10_000;
/// What memory may grow by: 64 KiB of answers and a question or two for each slow client, and the
/// buffers that are kept for later.
const GROWTH_OCTETS_MAX: u64 = 48 << 20;

/// What the peak of memory may differ by from one flood to the next; all buffers of the slow clients
/// are three times that.
const LEFT_OCTETS_MAX: u64 = 6 << 20;

/// Not a test: the body of the server's process, which runs until it is killed.
#[test]
#[ignore = "the server's process of the other test"]
fn serve_until_killed() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let lab = Plan::new().with_sections(&[300, 900, 2200]).start();
    println!("\nport {}", lab.addr.port());
    loop {
        std::thread::sleep(Duration::from_millis(500));
        lab.publish(strings(2200), moment());
    }
}

/// The server's process and where it answers.
struct Server {
    process: Process,
    addr: SocketAddr,
    _directory: TempDir,
}

impl Server {
    fn start() -> Server {
        let directory = TempDir::new("flood").unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "serve_until_killed", "--nocapture"]).env(CHILD, "1");
        let process = Process::spawn(&mut command, directory.path()).unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = String::from_utf8(process.stdout()).unwrap();
            let port = text.split("\nport ").nth(1).and_then(|rest| rest.split_once('\n'));
            if let Some((port, _)) = port {
                let addr = (Ipv4Addr::LOCALHOST, port.parse().unwrap()).into();
                return Server { process, addr, _directory: directory };
            }
            assert!(Instant::now() < deadline, "no port in {text:?} {}", process.stderr());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn count(&self, what: &str) -> usize {
        std::fs::read_dir(format!("/proc/{}/{what}", self.process.id())).unwrap().count()
    }

    fn descriptors(&self) -> usize {
        self.count("fd")
    }

    fn threads(&self) -> usize {
        self.count("task")
    }

    /// Octets in memory, now and at most so far.
    fn resident(&self) -> (u64, u64) {
        let path = format!("/proc/{}/status", self.process.id());
        let text = std::fs::read_to_string(path).unwrap();
        let octets = |name| {
            let kilo = text.lines().find_map(|line| line.strip_prefix(name)?.strip_suffix("kB"));
            kilo.unwrap().trim().parse::<u64>().unwrap() * 1024
        };
        (octets("VmRSS:"), octets("VmHWM:"))
    }
}

/// Asks over UDP, one question after the other, until `enough`; sorted times.
fn times(addr: SocketAddr, enough: impl Fn(usize) -> bool) -> Vec<Duration> {
    let client = udp_client(addr);
    let query = edns(&below("sequence"), TXT, &opt(1232, 0, &[]));
    let mut times = Vec::new();
    let mut buffer = [0; 2048];
    while !enough(times.len()) {
        let begun = Instant::now();
        client.send(&query).unwrap();
        client.recv(&mut buffer).expect("every datagram is answered");
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    times
}

fn quantile(times: &[Duration], quantile: f64) -> Duration {
    times[((times.len() - 1) as f64 * quantile) as usize]
}

fn reset(client: &TcpStream) {
    SockRef::from(client).set_linger(Some(Duration::ZERO)).unwrap();
}

/// What a flood did: times of the others meanwhile, and the most that the server had.
struct Flooded {
    times: Vec<Duration>,
    threads: usize,
    descriptors: usize,
}

/// Floods the server, and waits until it holds as many descriptors as before.
fn flood(server: &Server) -> Flooded {
    let addr = server.addr;
    let before = server.descriptors();
    let query = framed(&plain(&seq(FIRST + 2), TXT));
    let idle: Vec<TcpStream> = (0..IDLE).map(|_| tcp_client(addr)).collect();
    let slow: Vec<TcpStream> = (0..SLOW)
        .map(|_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
            socket.set_recv_buffer_size(4096).unwrap();
            socket.connect(&addr.into()).unwrap();
            let mut client: TcpStream = socket.into();
            client.set_nonblocking(true).unwrap();
            // As many questions as the system takes; none of the answers is read.
            let _taken = client.write(&query.repeat(500));
            client
        })
        .collect();
    let over = AtomicBool::new(false);
    let most = Cell::new((0, 0));
    let times = std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..RESETS {
                let mut client = tcp_client(addr);
                reset(&client);
                match round % 4 {
                    0 => {}
                    1 => client.write_all(&query[..round % query.len()]).unwrap(),
                    2 => client.write_all(&query.repeat(5)).unwrap(),
                    _ => {
                        client.write_all(&query).unwrap();
                        client.read_exact(&mut [0; 100]).unwrap();
                    }
                }
            }
            over.store(true, Ordering::Release);
        });
        times(addr, |count| {
            if count % 500 == 0 {
                let (threads, descriptors) = most.get();
                most.set((server.threads().max(threads), server.descriptors().max(descriptors)));
            }
            over.load(Ordering::Acquire)
        })
    });
    drop((idle, slow));
    let deadline = Instant::now() + PATIENCE;
    while server.descriptors() != before {
        let now = server.descriptors();
        assert!(Instant::now() < deadline, "{now} descriptors, {before} before");
        std::thread::sleep(Duration::from_millis(10));
    }
    let (threads, descriptors) = most.get();
    Flooded { times, threads, descriptors }
}

#[test]
fn t13_idle_slow_and_reset_connections_leave_nothing_behind() {
    let server = Server::start();
    times(server.addr, |count| count >= 500);
    let quiet = times(server.addr, |count| count >= 5000);
    let (descriptors, threads) = (server.descriptors(), server.threads());
    let (before, _) = server.resident();
    let flooded = flood(&server);
    let (after, once) = server.resident();
    // Whether the first flood's buffers went back to the system or wait for the next one is the
    // allocator's to decide. Either way, the next one needs no more than the first.
    let again = flood(&server);
    let (after_again, twice) = server.resident();
    let micros = |times: &[Duration], q| quantile(times, q).as_secs_f64() * 1e6;
    println!("{IDLE} idle, {SLOW} slow, {RESETS} reset connections");
    for (what, times) in [("quiet", &quiet), ("flooded", &flooded.times), ("again", &again.times)] {
        println!(
            "UDP {what}: p50 {:.0} us, p99 {:.0} us of {}",
            micros(times, 0.5),
            micros(times, 0.99),
            times.len()
        );
    }
    println!(
        "descriptors: {descriptors}, {} at most, {} after; threads: {threads}, {} at most\n\
         memory: {} kB, {} kB at most, {} kB after; again: {} kB at most, {} kB after",
        flooded.descriptors,
        server.descriptors(),
        flooded.threads.max(again.threads),
        before / 1024,
        once / 1024,
        after / 1024,
        twice / 1024,
        after_again / 1024,
    );
    assert_eq!((server.threads(), flooded.threads, again.threads), (threads, threads, threads));
    assert!(flooded.descriptors >= descriptors + IDLE, "the flood arrived");
    assert!(twice < before + GROWTH_OCTETS_MAX);
    assert!(twice < once + LEFT_OCTETS_MAX, "the first flood left {} octets", twice - once);
    assert_eq!(times(server.addr, |count| count >= 10).len(), 10);
}

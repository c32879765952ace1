//! The listener behind a bad network, with real sockets: a proxy of our own loses, delays and forges
//! datagrams and chunks of connections between it and the server.
//!
//! Run by `scripts/interop.sh` in release mode; AODNS_FAULT_SECONDS is the length of each, 20 by
//! default. The same targets as in simulation (tests/sim.rs), where an hour takes no time.

use aodns::audio::{NullSink, ProgrammeSource};
use aodns::client::{Client, ClientConfig, ClientStats};
use aodns::server::{Server, ServerConfig};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

const ROOT: &str = "music.example.com";

/// What the proxy does.
#[derive(Clone, Copy, Default)]
struct Faults {
    /// Of datagrams each way, and of chunks of connections, which then come later by a
    /// retransmission instead.
    loss_percent: u64,
    round_trip: Duration,
    /// Of answers, which come with another id before the right ones.
    forged_percent: u64,
}

/// Random numbers, the same in each run.
struct Dice(u64);

impl Dice {
    fn falls(&mut self, percent: u64) -> bool {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) % 100 < percent
    }
}

/// Does things at their time, in order.
#[derive(Clone)]
struct Later(mpsc::Sender<(Instant, Box<dyn FnOnce() + Send>)>);

impl Later {
    fn new() -> Later {
        let (sender, jobs) = mpsc::channel::<(Instant, Box<dyn FnOnce() + Send>)>();
        thread::spawn(move || {
            let mut waiting = BTreeMap::new();
            let mut number = 0u64;
            loop {
                let now = Instant::now();
                let next = waiting.first_key_value().map(|(&(at, _), _): (&(Instant, u64), _)| at);
                if next.is_some_and(|at| at <= now) {
                    if let Some((_, job)) = waiting.pop_first() {
                        let job: Box<dyn FnOnce() + Send> = job;
                        job();
                    }
                    continue;
                }
                let pause = next.map_or(Duration::from_secs(1), |at| at - now);
                match jobs.recv_timeout(pause) {
                    Ok((at, job)) => {
                        number += 1;
                        waiting.insert((at, number), job);
                    }
                    Err(mpsc::RecvTimeoutError::Timeout) => {}
                    Err(mpsc::RecvTimeoutError::Disconnected) => return,
                }
            }
        });
        Later(sender)
    }

    fn after(&self, delay: Duration, job: impl FnOnce() + Send + 'static) {
        // A proxy that is going away does nothing more.
        let _gone = self.0.send((Instant::now() + delay, Box::new(job)));
    }
}

/// Stands between listener and server until it is dropped.
struct Proxy {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Proxy {
    fn start(server: SocketAddr, faults: Faults) -> Proxy {
        let (udp, tcp) = loop {
            let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().expect("an address")) {
                break (udp, tcp);
            }
        };
        let address = tcp.local_addr().expect("an address");
        let stop = Arc::new(AtomicBool::new(false));
        let later = Later::new();
        let (stopped, scheduled) = (Arc::clone(&stop), later.clone());
        thread::spawn(move || datagrams(&udp, server, faults, &scheduled, &stopped));
        let stopped = Arc::clone(&stop);
        tcp.set_nonblocking(true).expect("a listener");
        thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((stream, _)) = tcp.accept() {
                    connection(stream, server, faults, &later);
                }
                thread::sleep(Duration::from_millis(1));
            }
        });
        Proxy { address, stop }
    }
}

fn datagrams(
    udp: &UdpSocket,
    server: SocketAddr,
    faults: Faults,
    later: &Later,
    stop: &AtomicBool,
) {
    let dice = Arc::new(Mutex::new(Dice(0x1234_5678_9ABC_DEF1)));
    udp.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    let mut buffer = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, client)) = udp.recv_from(&mut buffer) else { continue };
        if dice.lock().expect("whole dice").falls(faults.loss_percent) {
            continue;
        }
        let (query, back) = (buffer[..length].to_vec(), udp.try_clone().expect("a socket"));
        let (dice, answers) = (Arc::clone(&dice), later.clone());
        later.after(faults.round_trip / 2, move || {
            thread::spawn(move || {
                let ask = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
                ask.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
                let mut answer = [0; 4096];
                let asked = ask.send_to(&query, server).and_then(|_| ask.recv(&mut answer));
                let Ok(length) = asked else { return };
                let answer = answer[..length].to_vec();
                let (lost, forged) = {
                    let mut dice = dice.lock().expect("whole dice");
                    (dice.falls(faults.loss_percent), dice.falls(faults.forged_percent))
                };
                let mut forgery = answer.clone();
                forgery[0] ^= 0x55;
                answers.after(faults.round_trip / 2, move || {
                    if forged {
                        let _unsent = back.send_to(&forgery, client);
                    }
                    if !lost {
                        let _unsent = back.send_to(&answer, client);
                    }
                });
            });
        });
    }
}

fn connection(client: TcpStream, server: SocketAddr, faults: Faults, later: &Later) {
    client.set_nonblocking(false).expect("a stream");
    let Ok(upstream) = TcpStream::connect(server) else { return };
    let pairs = [(&client, &upstream), (&upstream, &client)];
    for (seed, (from, to)) in pairs.into_iter().enumerate() {
        let (mut from, to) =
            (from.try_clone().expect("a stream"), Arc::new(to.try_clone().expect("a stream")));
        let later = later.clone();
        thread::spawn(move || {
            let mut dice = Dice(0xABCD_EF01_2345_6789 ^ seed as u64);
            let mut buffer = [0; 16_384];
            // In order: what was delayed delays what comes behind it.
            let mut ready = Instant::now();
            while let Ok(length @ 1..) = from.read(&mut buffer) {
                let chunk = buffer[..length].to_vec();
                let mut delay = faults.round_trip / 2;
                // Each loss costs a retransmission, after 200 ms and a round trip.
                while dice.falls(faults.loss_percent) {
                    delay += Duration::from_millis(200) + faults.round_trip;
                }
                ready = ready.max(Instant::now() + delay);
                let to = Arc::clone(&to);
                later.after(ready.saturating_duration_since(Instant::now()), move || {
                    let _gone = (&*to).write_all(&chunk);
                });
            }
            later.after(ready.saturating_duration_since(Instant::now()), move || {
                let _gone = to.shutdown(std::net::Shutdown::Write);
            });
        });
    }
}

fn seconds() -> u64 {
    let seconds = std::env::var("AODNS_FAULT_SECONDS").ok();
    seconds.map_or(20, |text| text.parse().expect("a number of seconds"))
}

fn serve(address: SocketAddr) -> Server {
    let config = ServerConfig::new(ROOT.parse().expect("a name"), vec![address]);
    Server::start(config, Box::new(ProgrammeSource::new())).expect("the server starts")
}

fn listen_through(faults: Faults) -> ClientStats {
    let server = serve((Ipv4Addr::LOCALHOST, 0).into());
    let proxy = Proxy::start(server.local_addrs()[0], faults);
    thread::sleep(Duration::from_secs(3));
    let config = ClientConfig::new(ROOT.parse().expect("a name"), vec![proxy.address]);
    let client = Client::start(config, Box::new(NullSink::new())).expect("the listener starts");
    thread::sleep(Duration::from_secs(seconds()));
    let stats = client.stop().expect("the listener goes on");
    let play = &stats.play;
    println!(
        "loss {:2} %, round trip {:3} ms, forged {:2} %: {} gaps, {} lost, latency {:.2} s, heard {:.1} s, \
         {} foreign",
        faults.loss_percent,
        faults.round_trip.as_millis(),
        faults.forged_percent,
        play.playout.gaps,
        stats.follow.lost,
        play.latency.unwrap_or_default().as_secs_f64(),
        play.written.as_secs_f64(),
        stats.fetch.ignored,
    );
    assert!(play.written.as_secs_f64() > seconds() as f64 - 6.0, "little was heard");
    stats
}

/// Loss in percent and round trip in milliseconds, with what is forged, where nothing may be missed.
const UNHEARD: [(u64, u64, u64); 6] =
    [(0, 80, 0), (5, 80, 0), (5, 200, 30), (20, 80, 0), (20, 200, 0), (0, 0, 30)];

#[test]
#[ignore = "takes half a minute"]
fn up_to_20_percent_loss_is_not_heard() {
    let all: Vec<_> = thread::scope(|scope| {
        let listeners: Vec<_> = UNHEARD
            .iter()
            .map(|&(loss_percent, ms, forged_percent)| {
                let round_trip = Duration::from_millis(ms);
                let faults = Faults { loss_percent, round_trip, forged_percent };
                scope.spawn(move || listen_through(faults))
            })
            .collect();
        listeners.into_iter().map(|listener| listener.join().expect("no panic")).collect()
    });
    for stats in all {
        assert_eq!((stats.play.playout.gaps, stats.follow.lost), (0, 0));
    }
}

#[test]
#[ignore = "takes half a minute"]
fn forty_percent_loss_is_hardly_heard() {
    let round_trip = Duration::from_millis(80);
    let stats = listen_through(Faults { loss_percent: 40, round_trip, forged_percent: 0 });
    let playout = stats.play.playout;
    let silent = (playout.missing + playout.stalled) as f64;
    let share = silent / (silent + playout.played as f64);
    // Half a percent over an hour; a few frames are more than that of a few seconds.
    assert!(share < 0.05, "{:.1} % of the time", 100.0 * share);
}

//! A bad network between real sockets: stands between a listener and a server, and loses, delays and
//! forges what passes.
//!
//! Datagrams are lost each way by themselves. What is lost on a connection comes later by the
//! retransmissions, as in the simulation (tests/sim/net.rs), and delays what is behind it. A handshake
//! over loopback cannot be delayed, so its round trips and losses delay the first question instead; to
//! the server, the connection comes when the last SYN does.

use std::collections::BTreeMap;
use std::collections::btree_map::OccupiedEntry;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// Octets of a packet on a connection.
const PACKET_OCTETS: usize = 1400;
/// How often one packet is lost at most.
const LOSSES_MAX: u32 = 6;
/// How long the server may take to answer a datagram.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the network does.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Of packets, each way.
    pub loss_percent: u64,
    /// Half of it each way.
    pub round_trip: Duration,
    /// How much later than that answers come.
    pub late: Duration,
    /// How many of them are late, in percent.
    pub late_percent: u64,
    /// Of answers by datagram, before which forgeries come: one with another id, one to another
    /// question, one from another port. All deny what was asked for.
    pub forged_percent: u64,
    /// From when to when nothing passes, counted from the start.
    pub gone: Option<(Duration, Duration)>,
    /// Whether the extension layer is denied, as a server of the base layer would.
    pub base_layer: bool,
}

/// Random numbers (splitmix64).
struct Dice(u64);

impl Dice {
    fn falls(&mut self, percent: u64) -> bool {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % 100 < percent
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// Does things at their time, and what has the same time in the order of the calls.
#[derive(Clone)]
struct Later(mpsc::Sender<(Instant, Job)>);

impl Later {
    fn new() -> Later {
        let (sender, jobs) = mpsc::channel::<(Instant, Job)>();
        thread::spawn(move || {
            let mut waiting: BTreeMap<(Instant, u64), Job> = BTreeMap::new();
            let mut number = 0;
            loop {
                let next = waiting.first_key_value().map(|(&(at, _), _)| at);
                let pause = next.map_or(Duration::from_secs(1), |at| {
                    at.saturating_duration_since(Instant::now())
                });
                match jobs.recv_timeout(pause) {
                    Ok((at, job)) => {
                        number += 1;
                        waiting.insert((at, number), job);
                        continue;
                    }
                    Err(mpsc::RecvTimeoutError::Timeout) => {}
                    Err(mpsc::RecvTimeoutError::Disconnected) => return,
                }
                let due = waiting.first_entry().filter(|job| job.key().0 <= Instant::now());
                if let Some(job) = due.map(OccupiedEntry::remove) {
                    job();
                }
            }
        });
        Later(sender)
    }

    fn at(&self, at: Instant, job: impl FnOnce() + Send + 'static) {
        // A proxy that is going away does nothing more.
        let _gone = self.0.send((at, Box::new(job)));
    }
}

/// The network, as all threads see it.
struct Network {
    faults: Faults,
    server: SocketAddr,
    began: Instant,
    dice: Mutex<Dice>,
    later: Later,
    stop: AtomicBool,
}

impl Network {
    fn falls(&self, percent: u64) -> bool {
        self.dice.lock().expect("whole dice").falls(percent)
    }

    /// Whether a packet that is sent at `at` is lost.
    fn loses(&self, at: Instant) -> bool {
        let since = at.saturating_duration_since(self.began);
        let gone = self.faults.gone.is_some_and(|(from, to)| since >= from && since < to);
        gone || self.falls(self.faults.loss_percent)
    }

    /// How long an answer takes.
    fn way_back(&self) -> Duration {
        let late = self.falls(self.faults.late_percent);
        self.faults.round_trip / 2 + if late { self.faults.late } else { Duration::ZERO }
    }

    /// How much later a chunk arrives on a connection because packets of it were lost.
    fn repeated(&self, octets: usize) -> Duration {
        let packets = octets.div_ceil(PACKET_OCTETS);
        let now = Instant::now();
        let delay = |packet: usize| {
            let mut delay = Duration::ZERO;
            let mut timer = self.faults.round_trip + Duration::from_millis(200);
            let mut lost = 0;
            while lost < LOSSES_MAX && self.loses(now + delay) {
                // The first time, a packet behind it shows that it is missing (RFC 8985).
                let seen = lost == 0 && packet + 1 < packets && !self.loses(now + delay);
                delay += if seen { self.faults.round_trip * 5 / 4 } else { timer };
                timer *= if seen { 1 } else { 2 };
                lost += 1;
            }
            delay
        };
        (0..packets).map(delay).max().unwrap_or_default()
    }

    /// How long it takes until a connection can be written to: SYN and its answer, sent again after
    /// 1 s, 2 s, 4 s.
    fn handshake(&self) -> Duration {
        let now = Instant::now();
        let mut delay = Duration::ZERO;
        let mut timer = Duration::from_secs(1);
        while timer < Duration::from_secs(16)
            && (self.loses(now + delay) || self.loses(now + delay))
        {
            delay += timer;
            timer *= 2;
        }
        delay + self.faults.round_trip
    }
}

/// Stands between listener and server until it is dropped.
pub struct Proxy {
    address: SocketAddr,
    network: Arc<Network>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.network.stop.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts; where it is gone already there is nothing to wake.
        let _woken = TcpStream::connect(self.address);
    }
}

impl Proxy {
    /// A bad network in front of `server`; `seed` is what its dice are rolled with.
    pub fn start(server: SocketAddr, faults: Faults, seed: u64) -> Proxy {
        let (udp, tcp) = loop {
            let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().expect("an address")) {
                break (udp, tcp);
            }
        };
        let address = tcp.local_addr().expect("an address");
        let network = Arc::new(Network {
            faults,
            server,
            began: Instant::now(),
            dice: Mutex::new(Dice(seed << 32)),
            later: Later::new(),
            stop: AtomicBool::new(false),
        });
        let datagrams = Arc::clone(&network);
        thread::spawn(move || carry_datagrams(&datagrams, &udp));
        let connections = Arc::clone(&network);
        thread::spawn(move || {
            while let Ok((stream, _)) = tcp.accept() {
                if connections.stop.load(Ordering::Relaxed) {
                    return;
                }
                carry_connection(&connections, stream);
            }
        });
        Proxy { address, network }
    }

    /// Where the listener finds what it takes for the server.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn carry_datagrams(network: &Arc<Network>, udp: &UdpSocket) {
    udp.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    let mut buffer = [0; 4096];
    while !network.stop.load(Ordering::Relaxed) {
        let Ok((length, client)) = udp.recv_from(&mut buffer) else { continue };
        let now = Instant::now();
        if network.loses(now) {
            continue;
        }
        let (query, back) = (buffer[..length].to_vec(), udp.try_clone().expect("a socket"));
        let carrier = Arc::clone(network);
        network.later.at(now + network.faults.round_trip / 2, move || {
            thread::spawn(move || carry_answer(&carrier, query, &back, client));
        });
    }
}

/// Asks the server, and brings its answer, as the network lets it.
fn carry_answer(network: &Network, mut query: Vec<u8>, back: &UdpSocket, client: SocketAddr) {
    let letter = query.get(13).copied();
    let extension = [&b"config"[..], b"now_"].iter().any(|label| {
        query.get(13..13 + label.len()).is_some_and(|name| name.eq_ignore_ascii_case(label))
    });
    if extension && network.faults.base_layer {
        query[13] = b'x';
    }
    let ask = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    ask.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut buffer = [0; 4096];
    let asked = ask.connect(network.server).and_then(|()| ask.send(&query));
    // Where no server listens there is no answer.
    let Ok(length) = asked.and_then(|_| ask.recv(&mut buffer)) else { return };
    let mut answer = buffer[..length].to_vec();
    if let (Some(letter), Some(octet)) = (letter, answer.get_mut(13)) {
        *octet = letter;
    }
    let now = Instant::now();
    let lost = network.loses(now);
    let forged = network.falls(network.faults.forged_percent);
    let back = back.try_clone().expect("a socket");
    network.later.at(now + network.way_back(), move || {
        if forged {
            send_forgeries(&answer, &back, client);
        }
        if !lost {
            let _unsent = back.send_to(&answer, client);
        }
    });
}

/// Three denials that a listener must not believe.
fn send_forgeries(answer: &[u8], back: &UdpSocket, client: SocketAddr) {
    // The question alone, whose name ends with a zero octet, and NXDOMAIN.
    let Some(end) = answer[12..].iter().position(|&octet| octet == 0) else { return };
    let mut denial = answer[..12 + end + 5].to_vec();
    denial[2] = 0x84;
    denial[3] = 3;
    denial[4..12].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
    let mut other_id = denial.clone();
    other_id[0] ^= 0x55;
    let mut other_question = denial.clone();
    other_question[13] ^= 1;
    let _unsent = back.send_to(&other_id, client);
    let _unsent = back.send_to(&other_question, client);
    let elsewhere = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    let _unsent = elsewhere.send_to(&denial, client);
}

/// Connects to the server when the listener's last SYN comes there, and carries what follows.
fn carry_connection(network: &Arc<Network>, client: TcpStream) {
    let up = Instant::now() + network.handshake();
    let carrier = Arc::clone(network);
    network.later.at(up - network.faults.round_trip / 2, move || {
        // Where no server listens, the listener is told by the end of its connection.
        let Ok(upstream) = TcpStream::connect(carrier.server) else { return };
        carry_octets(&carrier, &client, &upstream, up);
    });
}

/// Carries what is sent on a connection that can be written to from `up` on.
fn carry_octets(network: &Arc<Network>, client: &TcpStream, upstream: &TcpStream, up: Instant) {
    for (from, to, forth) in [(client, upstream, true), (upstream, client, false)] {
        // One that is closed already needs nothing carried.
        let (Ok(mut from), Ok(to)) = (from.try_clone(), to.try_clone()) else { return };
        let (network, to) = (Arc::clone(network), Arc::new(to));
        to.set_nodelay(true).expect("a stream");
        thread::spawn(move || {
            let mut buffer = [0; 16_384];
            // In order: what was delayed delays what comes behind it.
            let mut ready = up;
            while let Ok(length @ 1..) = from.read(&mut buffer) {
                let chunk = buffer[..length].to_vec();
                let way = if forth { network.faults.round_trip / 2 } else { network.way_back() };
                let sent = Instant::now().max(up);
                ready = ready.max(sent + way + network.repeated(length));
                let to = Arc::clone(&to);
                network.later.at(ready, move || {
                    let _gone = (&*to).write_all(&chunk);
                });
            }
            network.later.at(ready.max(Instant::now()), move || {
                let _gone = to.shutdown(Shutdown::Write);
            });
        });
    }
}

//! The listener: a socket loop around [`Follower`] and [`Lookup`], and the playing stage behind it.
//!
//! The thread `fetch` owns the sockets: each attempt over UDP goes out from a connected socket of
//! its own, so that id, port and address must all fit for an answer to count (RFC 5452 §9.2), and
//! there is one TCP connection per server, reused and pipelined (RFC 7766). It waits in `poll` until
//! something arrives or the follower's next time has come; nothing spins and nothing blocks it.

mod link;

use crate::audio::Sink;
use crate::error::Error;
use crate::follow::{self, Ask, Event, FollowStats, Follower, Manner, StreamParameters};
use crate::lookup::{Lookup, Progress, RetryPolicy, Transport, Upstream, Verdict};
use crate::pipeline::play::{self, PlayStatus};
use crate::pipeline::{Stage, Supervision};
use crate::wire::{MESSAGE_OCTETS_MAX, Name, Rcode};
use crossbeam_channel::{Sender, TrySendError};
use link::{Link, LinkEvent};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Events waiting for the playing stage; it takes them at least every 60 ms.
const EVENTS_MAX: usize = 64;
/// Lookups at the same time; the follower keeps to fewer.
const LOOKUPS_MAX: usize = 64;
/// How long a thread may take to end.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a listener needs.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The stream's domain.
    pub root: Name,
    /// Resolvers, or the server itself; the next one is taken when one fails.
    pub servers: Vec<SocketAddr>,
    /// When to ask again.
    pub policy: RetryPolicy,
    /// From capture to play; `None` takes the least that the path allows.
    pub latency: Option<Duration>,
    /// What the stream is made of, for servers without `config`.
    pub fallback: StreamParameters,
}

impl ClientConfig {
    /// The defaults for a stream and servers.
    pub fn new(root: Name, servers: Vec<SocketAddr>) -> ClientConfig {
        let codec = crate::codec::CodecKind::default();
        let fallback = StreamParameters {
            codec,
            format: codec.format_default(),
            frame_samples: None,
            ascii: crate::ascii::AsciiKind::default(),
            title: String::new(),
        };
        ClientConfig { root, servers, policy: RetryPolicy::default(), latency: None, fallback }
    }
}

/// What the network side counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct FetchStats {
    /// Messages sent, over UDP and TCP.
    pub queries: u64,
    /// Octets of DNS messages sent.
    pub octets_out: u64,
    /// Octets of DNS messages received.
    pub octets_in: u64,
    /// Messages that were no answer to anything asked.
    pub ignored: u64,
    /// Truncated answers.
    pub truncated: u64,
    /// Connections opened.
    pub connections: u64,
    /// Operations on sockets that failed.
    pub socket_errors: u64,
    /// Events that the playing stage did not take in time.
    pub overflow: u64,
}

/// What a listener is doing.
#[derive(Clone, Debug)]
pub struct ClientStats {
    /// How the stream is followed.
    pub manner: Manner,
    /// Segments.
    pub follow: FollowStats,
    /// The network.
    pub fetch: FetchStats,
    /// Smoothed round-trip time to the server in use.
    pub rtt: Option<Duration>,
    /// The server in use.
    pub server: SocketAddr,
    /// The sound.
    pub play: PlayStatus,
    /// Since the start.
    pub elapsed: Duration,
    /// From the start to the first sound.
    pub first_sound: Option<Duration>,
}

#[derive(Debug)]
struct Fetched {
    manner: Manner,
    follow: FollowStats,
    fetch: FetchStats,
    rtt: Option<Duration>,
    server: usize,
}

/// A running listener. Dropping it stops it.
#[derive(Debug)]
pub struct Client {
    supervision: Arc<Supervision>,
    stages: Vec<Stage>,
    waker: UnixStream,
    fetched: Arc<Mutex<Fetched>>,
    status: Arc<Mutex<PlayStatus>>,
    servers: Vec<SocketAddr>,
    started: Instant,
}

impl Client {
    /// Starts to listen to the stream of `config` and to play it to `sink`, on threads of its own.
    ///
    /// # Errors
    /// When there is no server, or the system gives no thread or socket.
    pub fn start(config: ClientConfig, sink: Box<dyn Sink>) -> Result<Client, Error> {
        if config.servers.is_empty() {
            return Err(Error::Settings("no server to ask".into()));
        }
        let seed = random_u64()?;
        let now = Instant::now();
        let supervision = Arc::new(Supervision::default());
        let status = Arc::new(Mutex::new(PlayStatus::default()));
        let (waker, woken) = UnixStream::pair()
            .and_then(|pair| pair.1.set_nonblocking(true).map(|()| pair))
            .map_err(|cause| Error::system("make a pair of sockets", cause))?;
        let fetched = Arc::new(Mutex::new(Fetched {
            manner: Manner::Joining,
            follow: FollowStats::default(),
            fetch: FetchStats::default(),
            rtt: None,
            server: 0,
        }));
        let (events, incoming) = crossbeam_channel::bounded(EVENTS_MAX);
        let follower = Follower::new(config.fallback.clone(), config.latency, seed, now);
        let mut servers = Vec::new();
        for &address in &config.servers {
            let upstream = Upstream::new(random_u64()?.to_ne_bytes());
            servers.push(Server { address, upstream, link: Link::new(address) });
        }
        let fetch = Fetch {
            root: config.root,
            policy: config.policy,
            follower,
            servers,
            current: 0,
            lookups: Vec::new(),
            events: Some(events),
            buffer: vec![0; MESSAGE_OCTETS_MAX],
            stats: FetchStats::default(),
            report: Arc::clone(&fetched),
        };
        let (for_play, shown) = (Arc::clone(&supervision), Arc::clone(&status));
        let play = Stage::spawn("play", &supervision, move || {
            play::play(sink, incoming, &for_play, &shown)
        })?;
        let for_fetch = Arc::clone(&supervision);
        let fetch = match Stage::spawn("fetch", &supervision, move || fetch.run(&for_fetch, &woken))
        {
            Ok(stage) => stage,
            Err(error) => {
                supervision.stop();
                play.join(PATIENCE);
                return Err(error);
            }
        };
        Ok(Client {
            supervision,
            stages: vec![fetch, play],
            waker,
            fetched,
            status,
            servers: config.servers,
            started: now,
        })
    }

    /// What the listener is doing.
    pub fn stats(&self) -> ClientStats {
        let play = self.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        ClientStats {
            manner: fetched.manner,
            follow: fetched.follow,
            fetch: fetched.fetch,
            rtt: fetched.rtt,
            server: self.servers[fetched.server],
            first_sound: play.first_sound.map(|at| at.saturating_duration_since(self.started)),
            elapsed: self.started.elapsed(),
            play,
        }
    }

    /// Whether it ended by itself: the stream is over, the sink is closed, or something failed.
    pub fn is_finished(&self) -> bool {
        self.supervision.is_finished()
    }

    /// Stops, and returns the last state.
    ///
    /// # Errors
    /// The first error that ended a stage.
    pub fn stop(mut self) -> Result<ClientStats, Error> {
        self.end();
        match self.supervision.take_error() {
            Some(error) => Err(error),
            None => Ok(self.stats()),
        }
    }

    fn end(&mut self) {
        self.supervision.stop();
        // A full pipe wakes as well as an empty one.
        let _full = self.waker.write(&[0]);
        self.stages.drain(..).for_each(|stage| stage.join(PATIENCE));
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.end();
    }
}

/// Sixty-four bits from the operating system.
fn random_u64() -> Result<u64, Error> {
    getrandom::u64().map_err(|cause| {
        Error::system("draw random numbers", std::io::Error::other(cause.to_string()))
    })
}

/// A server with what is remembered of it and the connection to it.
struct Server {
    address: SocketAddr,
    upstream: Upstream,
    link: Link,
}

/// A lookup with its sockets.
struct Running {
    ask: Ask,
    server: usize,
    lookup: Lookup,
    sockets: Vec<UdpSocket>,
    /// Whether an answer is awaited on the server's connection.
    on_link: bool,
}

/// The thread `fetch`.
struct Fetch {
    root: Name,
    policy: RetryPolicy,
    follower: Follower,
    servers: Vec<Server>,
    current: usize,
    lookups: Vec<Running>,
    /// `None` once the playing stage is gone.
    events: Option<Sender<Event>>,
    buffer: Vec<u8>,
    stats: FetchStats,
    report: Arc<Mutex<Fetched>>,
}

impl Fetch {
    fn run(mut self, supervision: &Supervision, woken: &UnixStream) -> Result<(), Error> {
        while !supervision.is_stopping() && self.events.is_some() {
            let now = Instant::now();
            self.ask(now)?;
            self.transmit(now)?;
            self.time_out(now);
            self.tell();
            self.show();
            let wake = self.wait(woken, supervision)?;
            if wake {
                let _drained = (&mut &*woken).read(&mut [0; 64]);
            }
        }
        Ok(())
    }

    /// Begins the lookups that the follower wants.
    fn ask(&mut self, now: Instant) -> Result<(), Error> {
        while self.lookups.len() < LOOKUPS_MAX {
            let Some(ask) = self.follower.poll_ask(now) else { return Ok(()) };
            self.begin(ask, now)?;
        }
        Ok(())
    }

    fn begin(&mut self, ask: Ask, now: Instant) -> Result<(), Error> {
        let label = match ask {
            Ask::Config => "config".to_string(),
            Ask::List => "sequence".to_string(),
            Ask::Now => format!("now_{}", nonce(random_u64()?)),
            Ask::Segment(sequence) => format!("seq_{sequence}"),
        };
        let server = &self.servers[self.current];
        let Some(name) = self.root.child(label.as_bytes()) else {
            return Err(Error::Settings(format!("{} is too long for a stream's root", self.root)));
        };
        let transport = match ask {
            Ask::Segment(_) => server.upstream.transport(),
            _ => Transport::Udp,
        };
        let query = server.upstream.query(name, now);
        let timeout = server.upstream.timeout(&self.policy);
        self.lookups.push(Running {
            ask,
            server: self.current,
            lookup: Lookup::new(query, transport, self.policy, timeout, now),
            sockets: Vec::new(),
            on_link: false,
        });
        Ok(())
    }

    /// Sends the attempts that are due.
    fn transmit(&mut self, now: Instant) -> Result<(), Error> {
        for running in &mut self.lookups {
            let server = &mut self.servers[running.server];
            loop {
                // Two octets for the length prefix of TCP.
                let mut message = vec![0, 0];
                let id = random_id()?;
                let Some(transport) = running.lookup.poll_transmit(now, id, &mut message) else {
                    break;
                };
                let length = (message.len() - 2) as u16;
                message[..2].copy_from_slice(&length.to_be_bytes());
                self.stats.queries += 1;
                self.stats.octets_out += u64::from(length);
                match transport {
                    Transport::Udp => match send_from_fresh_socket(server.address, &message[2..]) {
                        Ok(socket) => running.sockets.push(socket),
                        Err(_) => self.stats.socket_errors += 1,
                    },
                    Transport::Tcp => {
                        running.on_link = true;
                        if server.link.send(&message, now) {
                            self.stats.connections += 1;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn time_out(&mut self, now: Instant) {
        for index in (0..self.lookups.len()).rev() {
            if self.lookups[index].lookup.handle_timeout(now) == Progress::Failed {
                let running = self.lookups.swap_remove(index);
                self.next_server(running.server);
                self.follower.handle_result(now, running.ask, follow::Outcome::Silence);
            }
        }
        for server in &mut self.servers {
            server.link.handle_timeout(now);
        }
    }

    /// Leaves a server that failed, unless that was done already.
    fn next_server(&mut self, failed: usize) {
        if failed == self.current {
            self.current = (self.current + 1) % self.servers.len();
        }
    }

    /// Hands the follower's events to the playing stage.
    fn tell(&mut self) {
        while let Some(event) = self.follower.poll_event() {
            let Some(events) = &self.events else { return };
            match events.try_send(event) {
                Ok(()) => {}
                // The sink is stuck; what it does not take is lost, and the network goes on.
                Err(TrySendError::Full(_)) => self.stats.overflow += 1,
                Err(TrySendError::Disconnected(_)) => self.events = None,
            }
        }
    }

    fn show(&self) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.manner = self.follower.manner();
        report.follow = self.follower.stats();
        report.fetch = self.stats;
        report.server = self.current;
        report.rtt = self.servers[self.current].upstream.rtt();
    }

    /// When something is to be done even if nothing arrives.
    fn deadline(&self) -> Option<Instant> {
        let lookups = self.lookups.iter().map(|running| running.lookup.poll_timeout());
        let links = self.servers.iter().filter_map(|server| server.link.poll_timeout());
        let room = self.lookups.len() < LOOKUPS_MAX;
        let follower = if room { self.follower.poll_timeout() } else { None };
        lookups.chain(links).chain(follower).min()
    }

    /// Waits for messages or the deadline, and takes what arrived. Returns whether it was woken.
    fn wait(&mut self, woken: &UnixStream, supervision: &Supervision) -> Result<bool, Error> {
        let now = Instant::now();
        let timeout = match self.deadline() {
            // Rounded up: a millisecond late is better than a turn without anything to do.
            Some(at) => {
                let left = at.saturating_duration_since(now).as_micros().div_ceil(1000);
                PollTimeout::try_from(left.min(60_000) as i32).unwrap_or(PollTimeout::MAX)
            }
            None => PollTimeout::NONE,
        };
        let mut fds = vec![PollFd::new(woken.as_fd(), PollFlags::POLLIN)];
        for running in &self.lookups {
            let sockets = running.sockets.iter();
            fds.extend(sockets.map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)));
        }
        let links_at = fds.len();
        for server in &self.servers {
            if let Some((stream, flags)) = server.link.interest() {
                fds.push(PollFd::new(stream.as_fd(), flags));
            }
        }
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(Error::system("wait for answers", errno.into())),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        drop(fds);
        if supervision.is_stopping() {
            return Ok(true);
        }
        self.receive_datagrams(&ready[1..links_at]);
        self.receive_from_links(&ready[links_at..]);
        Ok(ready[0])
    }

    /// Takes datagrams from the sockets that are ready, in the order in which they were polled.
    fn receive_datagrams(&mut self, ready: &[bool]) {
        let mut ready = ready.iter().copied();
        let mut done = Vec::new();
        for (index, running) in self.lookups.iter_mut().enumerate() {
            for socket in &running.sockets {
                if !ready.next().unwrap_or(false) {
                    continue;
                }
                // A refused port is heard of here as an error; waiting goes on.
                let Ok(length) = socket.recv(&mut self.buffer) else {
                    self.stats.socket_errors += 1;
                    continue;
                };
                let now = Instant::now();
                let message = &self.buffer[..length];
                self.stats.octets_in += length as u64;
                let truncated_before = running.lookup.transport() == Transport::Tcp;
                let progress = running.lookup.handle_message(now, message, Transport::Udp);
                let upstream = &mut self.servers[running.server].upstream;
                let large = matches!(running.ask, Ask::Segment(_));
                match progress {
                    Progress::Answered { .. } => {
                        if large {
                            upstream.handle_truncation(false);
                        }
                        done.push((index, progress, Transport::Udp));
                        break;
                    }
                    Progress::Ignored(_) => self.stats.ignored += 1,
                    Progress::Pending if !truncated_before => {
                        self.stats.truncated += 1;
                        if large {
                            upstream.handle_truncation(true);
                        }
                    }
                    Progress::Pending | Progress::Failed => {}
                }
            }
        }
        self.complete(done);
    }

    fn receive_from_links(&mut self, ready: &[bool]) {
        let mut ready = ready.iter().copied();
        for server in 0..self.servers.len() {
            if self.servers[server].link.interest().is_none() || !ready.next().unwrap_or(false) {
                continue;
            }
            let now = Instant::now();
            loop {
                let event = self.servers[server].link.handle_ready(now, &mut self.buffer);
                match event {
                    LinkEvent::Nothing => break,
                    LinkEvent::Message(length) => {
                        self.stats.octets_in += length as u64;
                        self.handle_link_message(server, length, now);
                    }
                    LinkEvent::Closed { connected } => {
                        if !connected {
                            self.servers[server].upstream.handle_connection_failed();
                        }
                        for running in &mut self.lookups {
                            if running.server == server && running.on_link {
                                running.on_link = false;
                                running.lookup.handle_connection_lost(now);
                            }
                        }
                        break;
                    }
                }
            }
        }
    }

    fn handle_link_message(&mut self, server: usize, length: usize, now: Instant) {
        let message = &self.buffer[..length];
        for (index, running) in self.lookups.iter_mut().enumerate() {
            if running.server != server {
                continue;
            }
            let progress = running.lookup.handle_message(now, message, Transport::Tcp);
            if matches!(progress, Progress::Answered { .. }) {
                self.complete(vec![(index, progress, Transport::Tcp)]);
                return;
            }
        }
        self.stats.ignored += 1;
    }

    /// Ends the lookups (ascending by index) that were answered.
    fn complete(&mut self, done: Vec<(usize, Progress, Transport)>) {
        for (index, progress, via) in done.into_iter().rev() {
            let running = self.lookups.swap_remove(index);
            let Progress::Answered { answer, sent } = progress else { continue };
            let now = Instant::now();
            let upstream = &mut self.servers[running.server].upstream;
            if upstream.handle_answer(now, running.lookup.query(), &answer) == Verdict::AskAgain {
                let name = running.lookup.query().name.clone();
                let query = upstream.query(name, now);
                let timeout = upstream.timeout(&self.policy);
                let lookup = Lookup::new(query, via, self.policy, timeout, now);
                let fresh = Running { lookup, sockets: Vec::new(), on_link: false, ..running };
                self.lookups.push(fresh);
                continue;
            }
            if via == Transport::Udp && !matches!(running.ask, Ask::Segment(_)) {
                upstream.handle_round_trip(now.saturating_duration_since(sent));
            }
            if !matches!(answer.rcode, Rcode::NOERROR | Rcode::NXDOMAIN) {
                self.next_server(running.server);
            }
            let outcome = follow::Outcome::Answered { answer, sent };
            self.follower.handle_result(now, running.ask, outcome);
        }
    }
}

/// Sends a datagram from a connected socket with a port of its own.
fn send_from_fresh_socket(address: SocketAddr, message: &[u8]) -> std::io::Result<UdpSocket> {
    let local: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(local)?;
    socket.connect(address)?;
    socket.set_nonblocking(true)?;
    socket.send(message)?;
    Ok(socket)
}

/// A message id. Not one that begins with white space: there are servers that strip it off.
fn random_id() -> Result<u16, Error> {
    loop {
        let id = random_u64()? as u16;
        let first = (id >> 8) as u8;
        if !first.is_ascii_whitespace() && first != 0x0B {
            return Ok(id);
        }
    }
}

/// Twelve letters and digits.
fn nonce(mut random: u64) -> String {
    let alphabet = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut letters = String::with_capacity(12);
    for _ in 0..12 {
        letters.push(alphabet[(random % 36) as usize] as char);
        random /= 36;
    }
    letters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonces_are_short_names_of_letters_and_digits() {
        for random in [0, 1, u64::MAX, 0x0123_4567_89AB_CDEF] {
            let nonce = nonce(random);
            assert!(nonce.len() == 12 && nonce.bytes().all(|c| c.is_ascii_alphanumeric()));
        }
        assert_ne!(nonce(1), nonce(2));
    }
}

//! The sockets around [`Zone::respond`]: UDP and TCP, held questions, limits and counters.
//!
//! Threads: one per core for datagrams, each with a socket of its own per address, which look after
//! each other's; one for all connections; one that answers held questions when a segment is
//! published. Their number does not grow with clients. Nothing on the answer path allocates, logs, or
//! takes a lock that is held across a system call.

pub mod counters;
mod hold;
pub mod limit;
mod tcp;
mod udp;

pub use crate::error::ResponderError;
use crate::pipeline::moment;
use crate::publication::Publication;
use crate::units::Sequence;
use crate::window::Snapshot;
use crate::zone::{Disposition, Reply, Request, Transport, Zone};
use counters::Counters;
pub use counters::ResponderStats;
use hold::{Held, Holds, Insertion, Origin};
use limit::{LimitSettings, Limited, Limiter, Prefix, Rule, Verdict};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Where and under which limits queries are answered.
#[derive(Clone, Debug)]
pub struct ResponderSettings {
    /// Addresses to listen on, over UDP and TCP; a port of 0 takes a free one, the same for all.
    pub listen: Vec<SocketAddr>,
    /// Threads that answer datagrams; 0 for one per core.
    pub udp_threads: usize,
    /// Limits on connections.
    pub tcp: TcpLimits,
    /// Held questions at the same time, over all clients; 0 holds none.
    pub hold_slots: usize,
    /// Held questions at the same time from one client prefix (/24 or /56).
    pub hold_slots_per_prefix: usize,
    /// Limits on what unverified datagrams may cause.
    pub limits: LimitSettings,
    /// Clients that may be sent datagrams larger than 1232 octets, up to `trusted_payload_max`.
    pub trusted: Vec<Prefix>,
    /// Largest payload for [`ResponderSettings::trusted`] clients, in octets.
    pub trusted_payload_max: usize,
}

impl ResponderSettings {
    /// The defaults (dns-behaviour sections 2 and 3) for `listen`.
    pub fn new(listen: Vec<SocketAddr>) -> ResponderSettings {
        ResponderSettings {
            listen,
            udp_threads: 0,
            tcp: TcpLimits::default(),
            hold_slots: 1024,
            hold_slots_per_prefix: 32,
            limits: LimitSettings::default(),
            trusted: Vec::new(),
            trusted_payload_max: crate::wire::UDP_PAYLOAD_MAX,
        }
    }
}

/// Limits on connections (RFC 7766 §6, RFC 9210).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpLimits {
    /// Connections at the same time.
    pub connections: usize,
    /// Connections at the same time from one /32 or /64.
    pub connections_per_client: usize,
    /// From the connection to the first octet of a query.
    pub first_query: Duration,
    /// From the first octet of a message to its last.
    pub frame: Duration,
    /// From when answers begin to wait for the client until it has taken all of those.
    pub write: Duration,
    /// From the last answer to the next query; a fifth of it above 80 % of the connections.
    pub idle: Duration,
    /// Questions held at the same time for one connection; beyond it reading stops.
    pub in_progress: usize,
}

impl Default for TcpLimits {
    fn default() -> TcpLimits {
        TcpLimits {
            connections: 1024,
            connections_per_client: 16,
            first_query: Duration::from_secs(3),
            frame: Duration::from_secs(2),
            write: Duration::from_secs(2),
            idle: Duration::from_secs(10),
            in_progress: 32,
        }
    }
}

/// What all threads share.
struct Shared {
    zone: Arc<Zone>,
    publication: Arc<Publication>,
    settings: ResponderSettings,
    limiter: Limiter,
    holds: Holds,
    sockets: Vec<udp::Socket>,
    started: Instant,
    stop: AtomicBool,
    failed: Mutex<Option<&'static str>>,
    tcp_open: AtomicU64,
    tcp_waiting: AtomicU64,
    /// One for the thread of each of `sockets`.
    udp: Vec<Counters>,
    tcp: Counters,
    hold: Counters,
}

/// The zone's changing part, as a thread last saw it.
struct View {
    generation: u64,
    snapshot: Arc<Snapshot>,
}

impl View {
    fn new(publication: &Publication) -> View {
        // In this order: a snapshot that is newer than its number is only looked at once more.
        View { generation: publication.generation(), snapshot: publication.load() }
    }

    fn refresh(&mut self, publication: &Publication) {
        if publication.generation() != self.generation {
            *self = View::new(publication);
        }
    }
}

/// What to do about a datagram.
enum Answering {
    /// The answer is in the buffer.
    Send,
    /// There is nothing to send.
    Nothing,
    /// To be held.
    Hold { sequence: Sequence, until: Instant },
}

impl Shared {
    fn new(
        settings: ResponderSettings,
        sockets: Vec<udp::Socket>,
        zone: Arc<Zone>,
        publication: Arc<Publication>,
    ) -> Result<Shared, ResponderError> {
        let mut key = [0; 16];
        getrandom::fill(&mut key).map_err(|cause| ResponderError::Start(cause.into()))?;
        Ok(Shared {
            zone,
            publication,
            limiter: Limiter::new(settings.limits.clone(), key),
            holds: Holds::new(settings.hold_slots, settings.hold_slots_per_prefix),
            started: Instant::now(),
            stop: AtomicBool::new(false),
            failed: Mutex::new(None),
            tcp_open: AtomicU64::new(0),
            tcp_waiting: AtomicU64::new(0),
            udp: sockets.iter().map(|_| Counters::default()).collect(),
            tcp: Counters::default(),
            hold: Counters::default(),
            sockets,
            settings,
        })
    }

    fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Answers a datagram under the abuse policy.
    fn answer_datagram(
        &self,
        view: &View,
        counters: &Counters,
        request: &Request<'_>,
        out: &mut Vec<u8>,
    ) -> Answering {
        let reply = match self.zone.respond(&view.snapshot, request, out) {
            Disposition::Drop => {
                counters.ignored.add(1);
                return Answering::Nothing;
            }
            Disposition::Hold { sequence, until } => return Answering::Hold { sequence, until },
            Disposition::Reply(reply) => reply,
        };
        let limits = !self.limiter.is_off() && !self.limiter.is_exempt(request.client);
        let reply = if reply.verified || !limits {
            counters.verified.add(u64::from(reply.verified));
            reply
        } else {
            match self.limit(view, counters, request, reply, out) {
                Some(reply) => reply,
                None => return Answering::Nothing,
            }
        };
        counters.answers[reply.outcome as usize].add(1);
        counters.octets_out.add(out.len() as u64);
        Answering::Send
    }

    /// Applies section 3 to an unverified answer; `None` when nothing may be sent.
    fn limit(
        &self,
        view: &View,
        counters: &Counters,
        request: &Request<'_>,
        reply: Reply,
        out: &mut Vec<u8>,
    ) -> Option<Reply> {
        let now_ms = request.now.instant.saturating_duration_since(self.started).as_millis() as u64;
        let error = reply.outcome.is_error();
        let (asked, answered) = (request.message.len(), out.len());
        let verdict = self.limiter.check(now_ms, request.client, asked, answered, error);
        match verdict {
            Verdict::Send => return Some(reply),
            Verdict::Slip(Rule::Total) => counters.limited_total.add(1),
            Verdict::Slip(_) => counters.limited_budget.add(1),
            Verdict::Drop(Rule::Rate) => counters.dropped_rate.add(1),
            Verdict::Drop(Rule::Errors) => counters.dropped_errors.add(1),
            Verdict::Drop(_) => counters.dropped_budget.add(1),
        }
        if self.limiter.is_dry_run() {
            return Some(reply);
        }
        let Verdict::Slip(_) = verdict else { return None };
        let request = Request { limited: true, may_hold: false, ..*request };
        match self.zone.respond(&view.snapshot, &request, out) {
            Disposition::Reply(reply) => Some(reply),
            // The same query was answered a moment ago.
            Disposition::Drop | Disposition::Hold { .. } => None,
        }
    }

    /// Holds a question, or answers it at once when it cannot be held.
    fn hold_datagram(
        &self,
        view: &mut View,
        counters: &Counters,
        request: &Request<'_>,
        place: (usize, SocketAddr, udp::Local),
        (sequence, until): (Sequence, Instant),
        out: &mut Vec<u8>,
    ) -> Answering {
        let (socket, peer, local) = place;
        let origin = Origin::Udp { socket, local };
        let held = Held::new(origin, peer, sequence, until, request.message);
        let exempt = self.limiter.is_exempt(request.client);
        match held.map(|held| self.holds.insert(held, view.generation, exempt)) {
            Some(Insertion::Held { first }) => {
                counters.held.add(1);
                if first {
                    self.publication.wake();
                }
                return Answering::Nothing;
            }
            // The answer to the first copy will do for both.
            Some(Insertion::Duplicate) => return Answering::Nothing,
            // Published meanwhile.
            Some(Insertion::Stale) => view.refresh(&self.publication),
            Some(Insertion::Full) | None => counters.hold_refused.add(1),
        }
        let request = Request { may_hold: false, ..*request };
        self.answer_datagram(view, counters, &request, out)
    }

    /// Largest datagram for a client.
    fn payload_max(&self, client: IpAddr) -> usize {
        let trusted = self.settings.trusted.iter().any(|prefix| prefix.contains(client));
        if trusted { self.settings.trusted_payload_max } else { crate::wire::UDP_PAYLOAD_MAX }
    }

    /// Body of the thread `hold`: answers held questions when their segment is there, or when it is
    /// too late for it.
    fn release_held(&self, tcp: &tcp::Mailbox) {
        let mut view = View::new(&self.publication);
        let mut sender = udp::Sender::new();
        let mut due = Vec::with_capacity(self.settings.hold_slots);
        let mut out = Vec::with_capacity(udp::DATAGRAM_OCTETS_MAX);
        while !self.is_stopping() {
            let turn = self.publication.turn();
            view.refresh(&self.publication);
            let now = moment();
            let empty = self.holds.sweep(&view.snapshot, view.generation, now.instant, &mut due);
            for held in due.drain(..) {
                let Origin::Udp { socket, local } = held.origin else {
                    tcp.deliver(held);
                    continue;
                };
                let published = view.snapshot.segment(held.sequence).is_some();
                match published {
                    true => self.hold.released.add(1),
                    false => self.hold.hold_expired.add(1),
                }
                let client = held.peer.ip().to_canonical();
                let request = Request {
                    message: held.message(),
                    transport: Transport::Udp { payload_max: self.payload_max(client) },
                    client,
                    now,
                    may_hold: false,
                    limited: false,
                };
                let answering = self.answer_datagram(&view, &self.hold, &request, &mut out);
                if let Answering::Send = answering {
                    let socket = &self.sockets[socket];
                    if sender.send_one(socket, held.peer, local, &out).is_err() {
                        self.hold.send_errors.add(1);
                    }
                }
            }
            // New entries wake it through the publication; expiry is looked at in between.
            let pause = if empty { IDLE_PAUSE } else { HOLD_PAUSE };
            self.publication.wait_turn(turn, pause);
        }
    }
}

/// Between two looks at held questions that may expire.
const HOLD_PAUSE: Duration = Duration::from_millis(20);
/// Between two looks at whether to stop.
const IDLE_PAUSE: Duration = Duration::from_millis(500);

/// Answers queries until it is stopped. Dropping it stops it.
pub struct Responder {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    mailbox: Arc<tcp::Mailbox>,
    addresses: Vec<SocketAddr>,
}

impl fmt::Debug for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responder").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl Responder {
    /// Listens on all addresses and starts the threads.
    ///
    /// # Errors
    /// When an address or a thread is not to be had. `[::]` is left out in silence on a system
    /// without IPv6 when there is another address.
    pub fn start(
        settings: ResponderSettings,
        zone: Arc<Zone>,
        publication: Arc<Publication>,
    ) -> Result<Responder, ResponderError> {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let udp_threads = if settings.udp_threads == 0 { cores() } else { settings.udp_threads };
        let listening = listen(&settings.listen, udp_threads)?;
        let engine = tcp::Engine::new(listening.tcp, &settings).map_err(ResponderError::Start)?;
        let mailbox = engine.mailbox();
        let shared = Arc::new(Shared::new(settings, listening.udp, zone, publication)?);
        let mut responder = Responder {
            shared: Arc::clone(&shared),
            threads: Vec::new(),
            mailbox: Arc::clone(&mailbox),
            addresses: listening.addresses,
        };
        for index in 0..shared.sockets.len() {
            responder.spawn("udp", move |shared| udp::serve(shared, index))?;
        }
        responder.spawn("tcp", move |shared| engine.serve(shared))?;
        if shared.settings.hold_slots > 0 {
            responder.spawn("hold", move |shared| shared.release_held(&mailbox))?;
        }
        Ok(responder)
    }

    fn spawn(
        &mut self,
        name: &'static str,
        body: impl FnOnce(&Shared) + Send + 'static,
    ) -> Result<(), ResponderError> {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            let guard = PanicGuard { name, shared: &shared };
            body(&shared);
            std::mem::forget(guard);
        });
        self.threads.push(thread.map_err(ResponderError::Start)?);
        Ok(())
    }

    /// The addresses answered at, over UDP and TCP.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.addresses.clone()
    }

    /// What was counted so far.
    pub fn stats(&self) -> ResponderStats {
        let shared = &self.shared;
        let open = shared.tcp_open.load(Ordering::Relaxed);
        let mut stats = ResponderStats::sum(&shared.udp, &shared.tcp, &shared.hold, open);
        stats.tcp_waiting = shared.tcp_waiting.load(Ordering::Relaxed);
        stats
    }

    /// The client prefixes that were limited since the last call, each at most once in 30 s.
    pub fn take_limited(&self) -> Vec<Limited> {
        self.shared.limiter.take_limited()
    }

    /// The thread that panicked, if one did.
    pub fn failed_thread(&self) -> Option<&'static str> {
        *self.shared.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops answering.
    ///
    /// # Errors
    /// When a thread had panicked.
    pub fn stop(mut self) -> Result<(), ResponderError> {
        self.end();
        match self.failed_thread() {
            Some(name) => Err(ResponderError::Panicked(name)),
            None => Ok(()),
        }
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.mailbox.wake();
        self.shared.publication.wake();
        self.shared.sockets.iter().for_each(udp::Socket::wake);
        for thread in self.threads.drain(..) {
            // A panic was noted by the guard already.
            let _noted = thread.join();
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.end();
    }
}

/// Notes a panic while it unwinds.
struct PanicGuard<'a> {
    name: &'static str,
    shared: &'a Shared,
}

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        let failed = &self.shared.failed;
        failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(self.name);
    }
}

/// The sockets, one for datagrams per thread and address, one for connections per address.
struct Listening {
    udp: Vec<udp::Socket>,
    tcp: Vec<std::net::TcpListener>,
    addresses: Vec<SocketAddr>,
}

/// Free ports are taken by others now and then between the two transports.
const PORT_TRIES: usize = 16;

fn listen(listen: &[SocketAddr], udp_threads: usize) -> Result<Listening, ResponderError> {
    let Some(first) = listen.first() else { return Err(ResponderError::NoAddress) };
    let mut tries = 1;
    loop {
        match listen_once(listen, udp_threads) {
            Err(ResponderError::Bind { cause, .. })
                if first.port() == 0
                    && cause.kind() == io::ErrorKind::AddrInUse
                    && tries < PORT_TRIES =>
            {
                tries += 1;
            }
            result => return result,
        }
    }
}

/// An address that another one of the list takes already: it is named twice, or beside the wildcard
/// of its family.
fn overlapping(listen: &[SocketAddr]) -> Option<SocketAddr> {
    let takes = |one: &SocketAddr, other: &SocketAddr| {
        let port = one.port() == other.port() && one.port() != 0;
        let family = one.is_ipv4() == other.is_ipv4();
        port && (one.ip() == other.ip() || one.ip().is_unspecified() && family)
    };
    let others = |index| listen.iter().enumerate().filter(move |&(other, _)| other != index);
    let mut all = listen.iter().enumerate();
    let taken = all.find(|(index, one)| others(*index).any(|(_, other)| takes(other, one)));
    taken.map(|(_, &address)| address)
}

fn listen_once(listen: &[SocketAddr], udp_threads: usize) -> Result<Listening, ResponderError> {
    if let Some(address) = overlapping(listen) {
        return Err(ResponderError::Overlap(address));
    }
    let mut listening = Listening { udp: Vec::new(), tcp: Vec::new(), addresses: Vec::new() };
    let mut free_port = 0;
    for &address in listen {
        let wanted = match address.port() {
            0 => SocketAddr::new(address.ip(), free_port),
            _ => address,
        };
        let failed =
            |transport| move |cause| ResponderError::Bind { transport, address: wanted, cause };
        // Sockets that share a port share it with those of strangers too: see first whether it is
        // free.
        let probe = match udp::bind(wanted, false) {
            Err(cause) if is_missing_ipv6(wanted, &cause) && listen.len() > 1 => continue,
            result => result.map_err(failed("udp"))?,
        };
        let address = probe.local_addr().map_err(failed("udp"))?;
        if wanted.port() == 0 {
            free_port = address.port();
        }
        let tcp = tcp::bind(address).map_err(failed("tcp"))?;
        if udp_threads == 1 {
            listening.udp.push(udp::Socket::new(probe).map_err(failed("udp"))?);
        } else {
            drop(probe);
            for _ in 0..udp_threads {
                let socket = udp::bind(address, true).map_err(failed("udp"))?;
                listening.udp.push(udp::Socket::new(socket).map_err(failed("udp"))?);
            }
        }
        listening.tcp.push(tcp);
        listening.addresses.push(address);
    }
    match listening.addresses.is_empty() {
        true => Err(ResponderError::NoAddress),
        false => Ok(listening),
    }
}

/// Whether the system has no IPv6, and any address of it will do.
fn is_missing_ipv6(address: SocketAddr, cause: &io::Error) -> bool {
    let any = address.is_ipv6() && address.ip().is_unspecified();
    let missing = [nix::libc::EAFNOSUPPORT, nix::libc::EADDRNOTAVAIL];
    any && cause.raw_os_error().is_some_and(|code| missing.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_do_not_wait_for_a_thread_that_is_kept_from_running() {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut listening = listen(&[loopback], 2).unwrap();
        let (zone, snapshot) = crate::zone::tests_support::zone_and_snapshot(moment());
        let mut settings = ResponderSettings::new(vec![loopback]);
        settings.limits.off = true;
        let publication = Arc::new(Publication::new(snapshot));
        let sockets = std::mem::take(&mut listening.udp);
        let shared = Shared::new(settings, sockets, Arc::new(zone), publication).unwrap();
        // Sockets of 24 clients: it is as good as certain that some are heard by either socket.
        let clients = (0..24).map(|_| {
            let client = std::net::UdpSocket::bind(loopback).unwrap();
            client.connect(listening.addresses[0]).unwrap();
            client.set_nonblocking(true).unwrap();
            client
        });
        let clients: Vec<_> = clients.collect();
        let mut answered = vec![false; clients.len()];
        let deadline = Instant::now() + Duration::from_secs(20);
        std::thread::scope(|scope| {
            // The second one's thread never runs.
            scope.spawn(|| udp::serve(&shared, 0));
            while !answered.iter().all(|&answered| answered) && Instant::now() < deadline {
                for (client, answered) in clients.iter().zip(&mut answered) {
                    // One for what it does not answer for is enough.
                    client.send(b"\0\x01\0\0\0\x01\0\0\0\0\0\0\x01x\0\0\x01\0\x01").unwrap();
                    *answered |= client.recv(&mut [0; 512]).is_ok();
                }
            }
            shared.stop.store(true, Ordering::Release);
            shared.sockets.iter().for_each(udp::Socket::wake);
        });
        assert_eq!(answered.iter().filter(|&&answered| !answered).count(), 0);
    }

    #[test]
    fn u01_one_thread_answers_at_sockets_of_all_kinds() {
        let any = |text: &str| text.parse::<SocketAddr>().unwrap();
        let asked = [
            ("127.0.0.1:0", "127.0.0.1"),
            ("[::1]:0", "::1"),
            ("0.0.0.0:0", "127.0.0.5"),
            ("[::]:0", "::1"),
            ("0.0.0.0:0", "127.0.0.6"),
        ];
        let bound = asked.map(|(at, _)| listen_once(&[any(at)], 1).unwrap());
        let addresses = bound.each_ref().map(|listening| listening.addresses[0]);
        let sockets = bound.into_iter().flat_map(|listening| listening.udp).collect();
        let (zone, snapshot) = crate::zone::tests_support::zone_and_snapshot(moment());
        let mut settings = ResponderSettings::new(addresses.to_vec());
        settings.limits.off = true;
        let publication = Arc::new(Publication::new(snapshot));
        let shared = Shared::new(settings, sockets, Arc::new(zone), publication).unwrap();
        let mut worker = udp::Worker::new(&shared, 0);
        // Each kind after each other one, twice.
        for index in [0, 1, 2, 3, 4, 3, 1, 4, 0, 2, 1, 3, 0, 4, 2, 0, 3, 2, 4, 1] {
            let to = SocketAddr::new(asked[index].1.parse().unwrap(), addresses[index].port());
            let here = if to.is_ipv4() { any("127.0.0.1:0") } else { any("[::1]:0") };
            let client = std::net::UdpSocket::bind(here).unwrap();
            // It hears nobody but whom it asked.
            client.connect(to).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            client.send(b"\0\x01\0\0\0\x01\0\0\0\0\0\0\x01x\0\0\x01\0\x01").unwrap();
            worker.answer(index, nix::sys::socket::MsgFlags::MSG_WAITFORONE).unwrap();
            client
                .recv(&mut [0; 512])
                .unwrap_or_else(|error| panic!("no answer from {to}: {error}"));
        }
    }

    #[test]
    fn addresses_that_take_each_other_are_told_before_they_are_bound() {
        let overlap = |listen: &[&str]| {
            let listen: Vec<_> = listen.iter().map(|text| text.parse().unwrap()).collect();
            overlapping(&listen).map(|address| address.to_string())
        };
        assert_eq!(overlap(&["0.0.0.0:53", "[::]:53"]), None);
        assert_eq!(overlap(&["192.0.2.1:53", "192.0.2.2:53", "192.0.2.1:5353"]), None);
        assert_eq!(overlap(&["127.0.0.1:0", "127.0.0.1:0"]), None);
        assert_eq!(overlap(&["192.0.2.1:53", "192.0.2.1:53"]).unwrap(), "192.0.2.1:53");
        assert_eq!(overlap(&["0.0.0.0:53", "[::1]:53", "192.0.2.1:53"]).unwrap(), "192.0.2.1:53");
    }

    #[test]
    fn u04_a_system_without_ipv6_is_told_from_one_that_lacks_an_address() {
        let error = io::Error::from_raw_os_error;
        let any = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 53));
        let one = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 53));
        for code in [nix::libc::EAFNOSUPPORT, nix::libc::EADDRNOTAVAIL] {
            assert!(is_missing_ipv6(any, &error(code)));
            // An address that was asked for by name is not left out in silence.
            assert!(!is_missing_ipv6(one, &error(code)));
        }
        assert!(!is_missing_ipv6(any, &error(nix::libc::EADDRINUSE)));
        assert!(!is_missing_ipv6(([0, 0, 0, 0], 53).into(), &error(nix::libc::EADDRNOTAVAIL)));
    }
}

//! The thread `fetch`: the sockets around the [`Fetcher`], and nothing else.
//!
//! Each attempt over UDP goes out from a connected socket of its own, so that id, port and address
//! must all fit for an answer to count (RFC 5452 §9.2); connections are reused and pipelined
//! (RFC 7766). The thread waits in `poll` until something arrives or the fetcher's next time has
//! come; nothing spins and nothing blocks it.

use super::link::{Link, LinkEvent};
use super::{Fetched, Random};
use crate::error::Error;
use crate::fetch::{Fetcher, LINKS_MAX, Route};
use crate::follow::Event;
use crate::pipeline::Supervision;
use crate::pipeline::bell::Bell;
use crate::wire::MESSAGE_OCTETS_MAX;
use crossbeam_channel::{Sender, TrySendError};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// A datagram socket and the lookup that it belongs to.
struct Datagrams {
    lookup: u64,
    socket: UdpSocket,
}

/// A connection and whose it is.
struct Stream {
    server: usize,
    number: usize,
    link: Link,
}

/// Messages taken from a connection at once; no listener has that many questions open.
const TURN_MESSAGES_MAX: usize = 256;

/// What the playing stage had no room for is offered again after this time.
const UNTOLD_WAIT: Duration = Duration::from_millis(250);

/// Who wakes up later than this after it was to be woken stood still.
const ASLEEP: Duration = Duration::from_secs(2);

/// The fetcher with its sockets.
pub struct Sockets {
    fetcher: Fetcher,
    addresses: Vec<SocketAddr>,
    datagrams: Vec<Datagrams>,
    streams: Vec<Stream>,
    /// `None` once the playing stage is gone.
    events: Option<Sender<Event>>,
    /// By its end, after that of the events, the playing stage is told that this one has ended.
    _open: Sender<Infallible>,
    /// Packets of sound that were handed to the playing stage.
    handed: u64,
    /// What the playing stage must hear and had no room for, oldest first: the newest of each kind.
    untold: Vec<Event>,
    buffer: Vec<u8>,
    random: Random,
    report: Arc<Mutex<Fetched>>,
}

impl Sockets {
    /// The sockets of a fetcher whose servers have these addresses.
    pub fn new(
        fetcher: Fetcher,
        addresses: &[SocketAddr],
        random: Random,
        (events, open): (Sender<Event>, Sender<Infallible>),
        report: Arc<Mutex<Fetched>>,
    ) -> Sockets {
        let links = |(server, &address)| {
            (0..LINKS_MAX).map(move |number| Stream { server, number, link: Link::new(address) })
        };
        Sockets {
            fetcher,
            addresses: addresses.to_vec(),
            datagrams: Vec::new(),
            streams: addresses.iter().enumerate().flat_map(links).collect(),
            events: Some(events),
            _open: open,
            handed: 0,
            untold: Vec::new(),
            buffer: vec![0; MESSAGE_OCTETS_MAX],
            random,
            report,
        }
    }

    /// Runs until the listener stops or the playing stage is gone.
    pub fn run(mut self, supervision: &Supervision, woken: &Bell) -> Result<(), Error> {
        while !supervision.is_stopping() && self.events.is_some() {
            let now = Instant::now();
            self.fetcher.handle_timeout(now);
            self.close_idle(now);
            self.transmit(now)?;
            self.tell();
            self.show();
            self.wait(woken, supervision)?;
        }
        Ok(())
    }

    /// Sends what is due.
    fn transmit(&mut self, now: Instant) -> Result<(), Error> {
        let mut failed = None;
        let mut random = || {
            self.random.u64().unwrap_or_else(|error| {
                failed = Some(error);
                0
            })
        };
        while let Some(transmit) = self.fetcher.poll_transmit(now, &mut random) {
            match transmit.route {
                Route::Datagram { lookup } => {
                    let address = self.addresses[transmit.server];
                    match send_from_fresh_socket(address, transmit.message()) {
                        Ok(socket) => self.datagrams.push(Datagrams { lookup, socket }),
                        Err(_) => self.fetcher.stats_mut().socket_errors += 1,
                    }
                }
                Route::Stream { link, anew } => {
                    let stream = &mut self.streams[transmit.server * LINKS_MAX + link];
                    if anew {
                        stream.link.close();
                    }
                    if !stream.link.is_open() {
                        open(&mut stream.link, &mut self.fetcher, transmit.server, now, random());
                    }
                    stream.link.send(&transmit.framed, now);
                }
            }
        }
        while let Some((server, link)) = self.fetcher.poll_open(now) {
            let link = &mut self.streams[server * LINKS_MAX + link].link;
            if !link.is_open() {
                open(link, &mut self.fetcher, server, now, random());
            }
        }
        while let Some((server, link)) = self.fetcher.poll_close(now) {
            self.streams[server * LINKS_MAX + link].link.close();
        }
        let fetcher = &self.fetcher;
        self.datagrams.retain(|datagrams| fetcher.is_waiting(datagrams.lookup));
        failed.map_or(Ok(()), Err)
    }

    /// Closes connections that are idle or do not come up.
    fn close_idle(&mut self, now: Instant) {
        for stream in &mut self.streams {
            match stream.link.handle_timeout(now) {
                LinkEvent::Renewed => self.fetcher.stats_mut().renewed_handshakes += 1,
                LinkEvent::Closed { connected } => {
                    self.fetcher.handle_closed(now, stream.server, stream.number, connected);
                }
                LinkEvent::Nothing | LinkEvent::Message(_) => {}
            }
        }
    }

    /// Hands the follower's events to the playing stage.
    fn tell(&mut self) {
        while !self.untold.is_empty() {
            let event = self.untold.remove(0);
            if let Some(event) = self.tell_event(event) {
                self.untold.insert(0, event);
                break;
            }
        }
        while let Some(event) = self.fetcher.poll_event() {
            // Nothing passes by what is still to be told.
            let full = !self.untold.is_empty();
            let Some(event) = (if full { Some(event) } else { self.tell_event(event) }) else {
                continue;
            };
            // The sink is stuck; what it does not take is lost, and the network goes on. But where
            // the stream begins, what it is made of and that it has ended is told later.
            match event {
                Event::Segment { .. } | Event::Lost(..) | Event::Trouble(_) => {
                    self.fetcher.stats_mut().overflow += 1;
                }
                Event::Stream(_) | Event::Start { .. } | Event::Ended => {
                    let kind = std::mem::discriminant(&event);
                    self.untold.retain(|older| std::mem::discriminant(older) != kind);
                    self.untold.push(event);
                }
            }
        }
    }

    /// Hands over one event, if there is room; returns it if there is not.
    fn tell_event(&mut self, event: Event) -> Option<Event> {
        let events = self.events.as_ref()?;
        let packets = match &event {
            Event::Segment { segment, .. } => segment.packets.len() as u64,
            _ => 0,
        };
        match events.try_send(event) {
            Ok(()) => {
                self.handed += packets;
                None
            }
            Err(TrySendError::Full(event)) => Some(event),
            Err(TrySendError::Disconnected(_)) => {
                self.events = None;
                None
            }
        }
    }

    fn show(&self) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        let upstream = self.fetcher.upstream(self.fetcher.current());
        report.manner = self.fetcher.follower().manner();
        report.direct = self.fetcher.follower().is_direct();
        report.out = self.fetcher.follower().is_out();
        report.follow = self.fetcher.follower().stats();
        report.fetch = self.fetcher.stats();
        report.server = self.fetcher.current();
        report.rtt = upstream.rtt();
        report.loss = upstream.loss();
        report.handed = self.handed;
    }

    /// Waits for messages or the next time that something is due, and takes what arrived.
    fn wait(&mut self, woken: &Bell, supervision: &Supervision) -> Result<(), Error> {
        let now = Instant::now();
        let links = self.streams.iter().filter_map(|stream| stream.link.poll_timeout());
        let untold = (!self.untold.is_empty()).then_some(now + UNTOLD_WAIT);
        let timeout = match links.chain(self.fetcher.poll_timeout()).chain(untold).min() {
            // Rounded up: a millisecond late is better than a turn without anything to do.
            Some(at) => {
                let left = at.saturating_duration_since(now).as_micros().div_ceil(1000);
                PollTimeout::try_from(left.min(60_000) as i32).unwrap_or(PollTimeout::MAX)
            }
            None => PollTimeout::NONE,
        };
        let mut fds = vec![PollFd::new(woken.fd(), PollFlags::POLLIN)];
        let sockets = self.datagrams.iter().map(|datagrams| datagrams.socket.as_fd());
        fds.extend(sockets.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        let links_at = fds.len();
        let mut polled = Vec::new();
        for (index, stream) in self.streams.iter().enumerate() {
            if let Some((socket, flags)) = stream.link.interest() {
                fds.push(PollFd::new(socket.as_fd(), flags));
                polled.push(index);
            }
        }
        let clock = SystemTime::now();
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(Error::system("wait for answers", errno.into())),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        drop(fds);
        if supervision.is_stopping() {
            return Ok(());
        }
        let (awoke, clock_awoke) = (Instant::now(), SystemTime::now());
        let passed = awoke.saturating_duration_since(now);
        let planned = timeout.as_millis().map_or(passed, |wait| Duration::from_millis(wait.into()));
        // By the one clock the process was stopped; the other one goes on while the machine sleeps.
        let stopped = passed.saturating_sub(planned);
        let stood = clock_awoke.duration_since(clock).unwrap_or_default().saturating_sub(passed);
        if stopped.max(stood) > ASLEEP {
            self.fetcher.handle_sleep(awoke);
        }
        self.receive_datagrams(&ready[1..links_at]);
        for (index, _) in polled.into_iter().zip(&ready[links_at..]).filter(|(_, ready)| **ready) {
            self.receive_stream(index);
        }
        woken.hear();
        Ok(())
    }

    /// Takes datagrams from the sockets that are ready, in the order in which they were polled.
    fn receive_datagrams(&mut self, ready: &[bool]) {
        for (datagrams, _) in self.datagrams.iter().zip(ready).filter(|(_, ready)| **ready) {
            // A refused port is heard of here as an error; waiting goes on.
            match datagrams.socket.recv(&mut self.buffer) {
                Ok(length) => {
                    let message = &self.buffer[..length];
                    self.fetcher.handle_datagram(Instant::now(), datagrams.lookup, message);
                }
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    self.fetcher.stats_mut().refused += 1;
                }
                Err(_) => self.fetcher.stats_mut().socket_errors += 1,
            }
        }
    }

    /// Takes everything from a connection that is ready.
    fn receive_stream(&mut self, index: usize) {
        let Stream { server, number, link } = &mut self.streams[index];
        let now = Instant::now();
        for _ in 0..TURN_MESSAGES_MAX {
            match link.handle_ready(now, &mut self.buffer) {
                LinkEvent::Nothing | LinkEvent::Renewed => return,
                LinkEvent::Message(length) => {
                    let message = &self.buffer[..length];
                    self.fetcher.handle_stream(now, *server, *number, message);
                }
                LinkEvent::Closed { connected } => {
                    self.fetcher.handle_closed(now, *server, *number, connected);
                    return;
                }
            }
        }
        // Nobody asked that much: it would keep the others from being heard.
        link.close();
        self.fetcher.handle_closed(now, *server, *number, true);
    }
}

/// Opens a connection to `server`. One that cannot even begin counts as an error; what was to go over it is
/// repeated in time, over another one.
fn open(link: &mut Link, fetcher: &mut Fetcher, server: usize, now: Instant, random: u64) {
    let begun = link.open(now, scatter(fetcher.handshake_patience(server), random));
    let stats = fetcher.stats_mut();
    stats.connections += u64::from(begun);
    stats.socket_errors += u64::from(!begun);
}

/// A time from three quarters to five quarters of `time`: those who were turned away together are not to
/// come back together.
fn scatter(time: Duration, random: u64) -> Duration {
    let part = f64::from(random as u32) / f64::from(u32::MAX);
    time.mul_f64(0.75 + part / 2.0)
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

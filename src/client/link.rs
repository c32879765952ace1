//! One TCP connection to a server, opened when it is needed, reused while it lasts, with queries
//! pipelined on it (RFC 7766 §6.2.1). Never blocks: the caller polls and calls.

use crate::wire::{HEADER_OCTETS, MESSAGE_OCTETS_MAX};
use nix::poll::PollFlags;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// A connection that nobody used for this long is closed.
const IDLE: Duration = Duration::from_secs(5);
/// A handshake that takes longer has failed, however often it was begun anew.
const CONNECT: Duration = Duration::from_secs(4);
/// Queries waiting to be sent, in octets; more means that nothing goes out.
const PENDING_MAX: usize = 64 * 1024;

/// What [`Link::handle_ready`] and [`Link::handle_timeout`] met.
pub enum LinkEvent {
    /// Nothing more for now.
    Nothing,
    /// The handshake was begun anew.
    Renewed,
    /// A message of this length is at the beginning of the buffer.
    Message(usize),
    /// The connection is gone.
    Closed {
        /// Whether it had been established.
        connected: bool,
    },
}

/// The connection, if there is one.
pub struct Link {
    address: SocketAddr,
    stream: Option<TcpStream>,
    connected: bool,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    /// Octets of `incoming` that were taken already.
    taken: usize,
    /// Whether the system gave all it had when it was read from last.
    drained: bool,
    used: Instant,
    opened: Instant,
    /// When the handshake is begun anew, and after how long it is the next time.
    anew: (Instant, Duration),
    broken: bool,
}

impl Link {
    /// No connection to `address` yet.
    pub fn new(address: SocketAddr) -> Link {
        Link {
            address,
            stream: None,
            connected: false,
            outgoing: Vec::new(),
            incoming: Vec::new(),
            taken: 0,
            drained: false,
            used: Instant::now(),
            opened: Instant::now(),
            anew: (Instant::now(), Duration::ZERO),
            broken: false,
        }
    }

    /// Whether there is a connection, or one is on its way.
    pub fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    /// Opens the connection, instead of the one that there may be. A handshake that is not over after
    /// `patience` is begun anew, from another port, then after twice that time, and so on: the system
    /// waits a whole second, as it does not know the way (RFC 6298 §2.1). That it failed is told by
    /// [`Link::handle_ready`] or [`Link::handle_timeout`]; false means that it could not even begin.
    pub fn open(&mut self, now: Instant, patience: Duration) -> bool {
        self.used = now;
        self.connected = false;
        self.broken = false;
        self.incoming.clear();
        self.taken = 0;
        self.drained = false;
        self.outgoing.clear();
        self.opened = now;
        self.anew = (now + patience, patience * 2);
        self.stream = connect(self.address).ok();
        self.is_open()
    }

    /// Sends a message with its length prefix on the connection that there is, soon.
    pub fn send(&mut self, message: &[u8], now: Instant) {
        self.used = now;
        if self.outgoing.len() + message.len() <= PENDING_MAX {
            self.outgoing.extend_from_slice(message);
        }
        if self.connected {
            self.flush();
        }
    }

    /// Closes the connection, if there is one.
    pub fn close(&mut self) {
        self.stream = None;
    }

    /// The socket and what it is polled for.
    pub fn interest(&self) -> Option<(&TcpStream, PollFlags)> {
        let stream = self.stream.as_ref()?;
        let writing = !self.connected || !self.outgoing.is_empty() || self.broken;
        let write = if writing { PollFlags::POLLOUT } else { PollFlags::empty() };
        Some((stream, PollFlags::POLLIN | write))
    }

    /// When [`Link::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let up = || (self.opened + CONNECT).min(self.anew.0);
        let at = if self.connected { self.used + IDLE } else { up() };
        self.stream.as_ref().map(|_| at)
    }

    /// Begins a handshake anew that takes too long; closes a connection that is idle or does not come
    /// up, and tells of it.
    pub fn handle_timeout(&mut self, now: Instant) -> LinkEvent {
        if self.poll_timeout().is_none_or(|at| now < at) {
            return LinkEvent::Nothing;
        }
        let waits = !self.connected && now < self.opened + CONNECT;
        self.stream = if waits { connect(self.address).ok() } else { None };
        if self.stream.is_some() {
            let patience = self.anew.1;
            self.anew = (now + patience, patience * 2);
            return LinkEvent::Renewed;
        }
        LinkEvent::Closed { connected: self.connected }
    }

    /// The socket is ready: writes, reads, and takes one message apart into `buffer`. To be called
    /// until there is nothing more.
    pub fn handle_ready(&mut self, now: Instant, buffer: &mut [u8]) -> LinkEvent {
        let Some(stream) = &mut self.stream else { return LinkEvent::Nothing };
        if !self.connected {
            match stream.take_error() {
                Ok(None) if stream.peer_addr().is_ok() => self.connected = true,
                Ok(None) => return LinkEvent::Nothing,
                _ => self.broken = true,
            }
        }
        self.flush();
        if let Some(event) = self.take_message(now, buffer) {
            return event;
        }
        let Some(stream) = &mut self.stream else { return LinkEvent::Nothing };
        // What came meanwhile makes the socket ready again.
        if std::mem::take(&mut self.drained) {
            return LinkEvent::Nothing;
        }
        match stream.read(&mut buffer[..MESSAGE_OCTETS_MAX]) {
            Ok(length) if length > 0 => {
                self.drained = length < MESSAGE_OCTETS_MAX;
                self.incoming.drain(..std::mem::take(&mut self.taken));
                self.incoming.extend_from_slice(&buffer[..length]);
            }
            Err(error) if would_wait(&error) && !self.broken => return LinkEvent::Nothing,
            _ => {
                self.stream = None;
                return LinkEvent::Closed { connected: self.connected };
            }
        }
        let event = self.take_message(now, buffer);
        self.drained &= event.is_some();
        event.unwrap_or(LinkEvent::Nothing)
    }

    /// Copies the first whole message to the beginning of `buffer`. What is shorter than a header is
    /// no message, and what follows it cannot be trusted to be one.
    fn take_message(&mut self, now: Instant, buffer: &mut [u8]) -> Option<LinkEvent> {
        let (prefix, rest) = self.incoming[self.taken..].split_first_chunk()?;
        let length = usize::from(u16::from_be_bytes(*prefix));
        if length < HEADER_OCTETS {
            self.stream = None;
            return Some(LinkEvent::Closed { connected: self.connected });
        }
        let message = rest.get(..length)?;
        buffer[..length].copy_from_slice(message);
        self.taken += 2 + length;
        self.used = now;
        Some(LinkEvent::Message(length))
    }

    fn flush(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        while !self.outgoing.is_empty() && !self.broken {
            match stream.write(&self.outgoing) {
                Ok(length) => drop(self.outgoing.drain(..length)),
                Err(error) if would_wait(&error) => return,
                Err(_) => self.broken = true,
            }
        }
    }
}

fn would_wait(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// Begins to connect, without waiting for it.
fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(nix::libc::EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener};

    const PATIENCE: Duration = Duration::from_secs(30);

    /// A link and its other end.
    fn pair() -> (Link, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut link = Link::new(listener.local_addr().unwrap());
        assert!(link.open(Instant::now(), PATIENCE));
        (link, listener.accept().unwrap().0)
    }

    /// What comes first of something, if not nothing.
    fn event(link: &mut Link, buffer: &mut [u8]) -> LinkEvent {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match link.handle_ready(Instant::now(), buffer) {
                LinkEvent::Nothing => assert!(Instant::now() < deadline, "nothing comes"),
                event => return event,
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn messages_come_whole_and_in_order() {
        let (mut link, mut server) = pair();
        let mut buffer = vec![0; MESSAGE_OCTETS_MAX];
        let messages: Vec<_> = (12..200u8).map(|length| vec![length; length.into()]).collect();
        for message in &messages {
            server.write_all(&[0, message[0]]).unwrap();
            server.write_all(message).unwrap();
        }
        for message in &messages {
            let LinkEvent::Message(length) = event(&mut link, &mut buffer) else {
                panic!("closed")
            };
            assert_eq!(buffer[..length], message[..]);
        }
        drop(server);
        assert!(matches!(event(&mut link, &mut buffer), LinkEvent::Closed { connected: true }));
    }

    #[test]
    fn what_comes_behind_a_message_is_not_missed() {
        let (mut link, mut server) = pair();
        let mut buffer = vec![0; MESSAGE_OCTETS_MAX];
        let is_message = |event| matches!(event, LinkEvent::Message(12));
        // Half a message, its rest with a whole one, and the end.
        server.write_all(&[&[0, 12][..], &[1; 5]].concat()).unwrap();
        while link.incoming.len() < 7 {
            assert!(matches!(link.handle_ready(Instant::now(), &mut buffer), LinkEvent::Nothing));
        }
        server.write_all(&[&[1; 7][..], &[0, 12], &[2; 12]].concat()).unwrap();
        drop(server);
        assert!(is_message(event(&mut link, &mut buffer)));
        assert!(is_message(event(&mut link, &mut buffer)));
        assert!(matches!(event(&mut link, &mut buffer), LinkEvent::Closed { connected: true }));
    }

    #[test]
    fn a_handshake_that_nobody_answers_is_begun_anew() {
        // Room for one new connection, and that is taken: SYNs are dropped.
        let listener = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let listener = TcpListener::from(listener);
        let address = listener.local_addr().unwrap();
        let _first = TcpStream::connect(address).unwrap();
        let patience = Duration::from_millis(100);
        let mut link = Link::new(address);
        let began = Instant::now();
        assert!(link.open(began, patience));
        link.send(&[0, 1, b'a'], began);
        let port = |link: &Link| link.interest().unwrap().0.local_addr().unwrap().port();
        let turned_away = port(&link);
        assert_eq!(link.poll_timeout(), Some(began + patience));
        assert!(matches!(link.handle_timeout(began + patience / 2), LinkEvent::Nothing));
        assert_eq!(port(&link), turned_away);
        // There is room again when the time has come.
        let _taken = listener.accept().unwrap();
        assert!(matches!(link.handle_timeout(began + patience), LinkEvent::Renewed));
        assert_ne!(port(&link), turned_away);
        assert_eq!(link.poll_timeout(), Some(began + 3 * patience));
        let (mut server, peer) = listener.accept().unwrap();
        assert_eq!(peer.port(), port(&link));
        assert!(matches!(link.handle_ready(began + patience, &mut [0; 70000]), LinkEvent::Nothing));
        let mut message = [0; 3];
        server.read_exact(&mut message).unwrap();
        assert_eq!(message, [0, 1, b'a']);
        assert_eq!(link.poll_timeout(), Some(began + IDLE));
    }

    #[test]
    fn a_handshake_is_given_up_in_the_end() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut link = Link::new(listener.local_addr().unwrap());
        let began = Instant::now();
        let mut anew = 0;
        assert!(link.open(began, Duration::from_millis(100)));
        while let Some(at) = link.poll_timeout() {
            match link.handle_timeout(at) {
                LinkEvent::Renewed => anew += 1,
                event => assert!(matches!(event, LinkEvent::Closed { connected: false })),
            }
        }
        // After 100, 300, 700, 1500 and 3100 ms.
        assert_eq!(anew, 5);
    }

    #[test]
    fn what_is_shorter_than_a_header_ends_the_connection() {
        let (mut link, mut server) = pair();
        let mut buffer = vec![0; MESSAGE_OCTETS_MAX];
        server.write_all(&[0; 1000]).unwrap();
        assert!(matches!(event(&mut link, &mut buffer), LinkEvent::Closed { connected: true }));
        assert!(link.interest().is_none());
    }
}

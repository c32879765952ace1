//! One connection: what is known of it between two turns.

use mio::net::TcpStream;
use std::io::{self, ErrorKind, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Instant;

/// What a connection is waiting for, and since when; decides its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The first octet of its first query.
    First(Instant),
    /// The rest of a query that has begun.
    Frame(Instant),
    /// The next query.
    Idle(Instant),
    /// Its client, who is to take an answer.
    Write(Instant),
    /// The end of what the client sends, behind the last answer it gets.
    Linger(Instant),
}

/// A connection.
pub struct Connection {
    /// The socket.
    pub stream: TcpStream,
    /// Who is at the other end.
    pub peer: SocketAddr,
    /// Which of the connections that had its slot.
    pub serial: u64,
    /// What is waited for.
    pub phase: Phase,
    /// Octets of a query that is not whole yet, and of those behind it that wait their turn.
    pub incoming: Vec<u8>,
    /// Answers that the client has not taken yet, from `sent` on.
    pub outgoing: Vec<u8>,
    /// Octets of `outgoing` that the client has taken.
    pub sent: usize,
    /// How far `sent` must come for the deadline of [`Phase::Write`] to be met.
    pub write_mark: usize,
    /// Questions held.
    pub in_progress: usize,
    /// Whether there may be something to read.
    pub readable: bool,
    /// Whether there may be room to write.
    pub writable: bool,
    /// The end of what the client sends has arrived, behind what was not read yet.
    pub read_closed: bool,
    /// The client will send no more.
    pub finished: bool,
    /// Nothing more is taken from the client; closed once all is written.
    pub closing: bool,
    /// Octets thrown away while closing.
    pub discarded: usize,
    /// Whether it waits for another turn already.
    pub queued: bool,
    /// The system says that it is lost.
    pub broken: bool,
}

impl Connection {
    /// A connection that was accepted just `now`.
    pub fn new(stream: TcpStream, peer: SocketAddr, serial: u64, now: Instant) -> Connection {
        Connection {
            stream,
            peer,
            serial,
            phase: Phase::First(now),
            incoming: Vec::new(),
            outgoing: Vec::new(),
            sent: 0,
            write_mark: 0,
            in_progress: 0,
            readable: true,
            writable: true,
            read_closed: false,
            finished: false,
            closing: false,
            discarded: 0,
            queued: false,
            broken: false,
        }
    }

    /// Writes what the socket takes of `octets`.
    pub fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let written = write(&mut self.stream, octets)?;
        self.writable = written == octets.len();
        Ok(written)
    }

    /// Writes what the socket takes of the answers that wait.
    pub fn write_outgoing(&mut self) -> io::Result<usize> {
        let octets = &self.outgoing[self.sent..];
        let written = write(&mut self.stream, octets)?;
        self.writable = written == octets.len();
        Ok(written)
    }
}

fn write(stream: &mut TcpStream, octets: &[u8]) -> io::Result<usize> {
    loop {
        match stream.write(octets) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
            result => return result,
        }
    }
}

/// What is to become of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It stays.
    Stays,
    /// There is more to do for it after the others.
    Again,
    /// It is closed.
    Closes,
}

/// Connections are counted by /32 and /64.
pub fn client_key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

//! Connections (RFC 7766, RFC 9210): one thread serves them all, whatever they do.
//!
//! Readiness comes from mio (epoll, kqueue) and not from `poll`, whose cost grows with the idle
//! connections that an attacker opens. A connection is a socket, two deadlines and, only while
//! something is half done, a buffer: what is read goes through buffers of the thread, and what is
//! left over is kept with the connection. Whatever a client does, it is cut off at a deadline, its
//! buffers have limits, and it gets no more than its share of a turn.

mod connection;

use super::hold::{Held, Insertion, Origin};
use super::{ResponderSettings, Shared, View};
use crate::pipeline::moment;
use crate::units::Moment;
use crate::wire::HEADER_OCTETS;
use crate::zone::{Disposition, Request, Transport};
use connection::{Connection, Fate, Phase, client_key};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use socket2::{Domain, Protocol, Socket as RawSocket, Type};
use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Connections waiting to be accepted (dns-behaviour 2.2).
const BACKLOG: i32 = 256;
/// Longest query, in octets; a longer one is FORMERR and the end of its connection (row T07).
const QUERY_OCTETS_MAX: usize = 4096;
/// Octets of answers that wait for their client; beyond it no question is taken (row T10).
const OUTGOING_OCTETS_MAX: usize = 64 * 1024;
/// The same for all clients together; beyond it, who waits for anything is asked nothing more.
const OUTGOING_OCTETS_TOTAL: usize = 16 << 20;
/// Octets of answers that the system keeps for a client, or twice that, as it counts.
const SEND_BUFFER_OCTETS: usize = 128 * 1024;
/// Octets read at once.
const READ_OCTETS: usize = 16 * 1024;
/// Questions answered before the next connection has its turn.
const TURN_QUESTIONS: usize = 64;
/// Connections accepted at an address before those that are open have their turn.
const TURN_ACCEPTS: usize = 64;
/// Octets thrown away behind a message that ended its connection, before the client has seen why.
const LINGER_OCTETS_MAX: usize = 128 * 1024;
/// Between two looks at the deadlines.
const TICK: Duration = Duration::from_millis(100);
/// Empty buffers that are kept for the next connection in need of one.
const SPARES_MAX: usize = 64;
/// How many of them there are from the start.
const SPARES_FIRST: usize = 4;
/// Least capacity of such a buffer, in octets: a query that arrives in pieces fits as it is, whatever
/// the buffer held before.
const SPARE_OCTETS: usize = 512;

/// Token of the waker; connections and listeners have their slots as tokens, from below and above.
const WAKER: Token = Token(usize::MAX);
const LISTENERS: usize = usize::MAX / 2;

/// Binds a listener to `address`.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = RawSocket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A port whose connections are in TIME_WAIT is free.
    socket.set_reuse_address(true)?;
    // Inherited by the connections: what the system keeps for a client that does not read is bounded
    // as well, and what it has room for again is told of in time for the deadline.
    socket.set_send_buffer_size(SEND_BUFFER_OCTETS)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Where other threads leave what is for the connections.
pub struct Mailbox {
    waker: Waker,
    due: Mutex<Vec<Held>>,
}

impl Mailbox {
    /// Makes the thread look around.
    pub fn wake(&self) {
        // It looks at its deadlines, and at whether to stop, every tick anyway.
        let _looks_anyway = self.waker.wake();
    }

    /// Hands over a held question whose time has come.
    pub fn deliver(&self, held: Held) {
        self.due.lock().unwrap_or_else(PoisonError::into_inner).push(held);
        self.wake();
    }
}

/// The listeners, and how readiness is learned of.
pub struct Engine {
    poll: Poll,
    listeners: Vec<TcpListener>,
    mailbox: Arc<Mailbox>,
}

impl Engine {
    /// Watches `listeners`.
    ///
    /// # Errors
    /// When the system has no poll for them.
    pub fn new(
        listeners: Vec<std::net::TcpListener>,
        settings: &ResponderSettings,
    ) -> io::Result<Engine> {
        let poll = Poll::new()?;
        let mut watched = Vec::new();
        for (index, listener) in listeners.into_iter().enumerate() {
            let mut listener = TcpListener::from_std(listener);
            let token = Token(LISTENERS + index);
            poll.registry().register(&mut listener, token, Interest::READABLE)?;
            watched.push(listener);
        }
        let waker = Waker::new(poll.registry(), WAKER)?;
        let due = Vec::with_capacity(settings.hold_slots);
        let mailbox = Arc::new(Mailbox { waker, due: Mutex::new(due) });
        Ok(Engine { poll, listeners: watched, mailbox })
    }

    /// Where to reach the thread.
    pub fn mailbox(&self) -> Arc<Mailbox> {
        Arc::clone(&self.mailbox)
    }

    /// Body of the thread `tcp`.
    pub fn serve(mut self, shared: &Shared) {
        let mut events = Events::with_capacity(256);
        // Room for as many as may be open: nothing is allocated for them while serving.
        let most = shared.settings.tcp.connections.min(1 << 16);
        let mut spares = Vec::with_capacity(SPARES_MAX);
        spares.extend((0..SPARES_FIRST).map(|_| Vec::with_capacity(SPARE_OCTETS)));
        let mut server = Server {
            shared,
            view: View::new(&shared.publication),
            now: moment(),
            connections: Vec::with_capacity(most),
            free: Vec::with_capacity(most),
            open: 0,
            waiting: 0,
            serial: 0,
            again: Vec::with_capacity(most),
            spares,
            read: vec![0; READ_OCTETS].into(),
            answers: Vec::with_capacity(2 * OUTGOING_OCTETS_MAX),
            answer: Vec::with_capacity(4096),
        };
        let mut ticked = Instant::now();
        let mut due = Vec::with_capacity(shared.settings.hold_slots);
        let mut turn = Vec::with_capacity(most);
        let mut accepted = Accepted::All;
        while !shared.is_stopping() {
            let timeout = match accepted {
                _ if !server.again.is_empty() => Some(Duration::ZERO),
                Accepted::Some => Some(Duration::ZERO),
                Accepted::All if server.open == 0 => None,
                Accepted::All | Accepted::NoRoom => Some(TICK),
            };
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => shared.tcp.receive_errors.add(1),
            }
            server.now = moment();
            server.view.refresh(&shared.publication);
            std::mem::swap(&mut turn, &mut server.again);
            for slot in turn.drain(..) {
                if let Some(connection) = server.connection(slot) {
                    connection.queued = false;
                }
                server.advance(slot);
            }
            let mut accept = accepted != Accepted::All;
            for event in &events {
                match event.token() {
                    WAKER => {
                        due.append(&mut lock(&self.mailbox.due));
                        // What was handed over a moment ago may be newer than the last look.
                        server.view.refresh(&shared.publication);
                        due.drain(..).for_each(|held| server.release(&held));
                    }
                    Token(token) if token >= LISTENERS => accept = true,
                    Token(slot) => {
                        if let Some(connection) = server.connection(slot) {
                            connection.read_closed |= event.is_read_closed();
                            connection.readable |= event.is_readable() || event.is_read_closed();
                            connection.writable |= event.is_writable();
                            connection.broken |= event.is_error();
                        }
                        server.advance(slot);
                    }
                }
            }
            if accept {
                accepted = server.accept(&self.poll, &self.listeners);
            }
            if server.now.instant.saturating_duration_since(ticked) >= TICK {
                ticked = server.now.instant;
                server.enforce_deadlines();
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How far accepting came.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Accepted {
    /// Nobody waits.
    All,
    /// More may wait.
    Some,
    /// The system has no room for more now.
    NoRoom,
}

struct Server<'a> {
    shared: &'a Shared,
    view: View,
    now: Moment,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    open: usize,
    /// Octets of answers that wait for all clients together.
    waiting: usize,
    serial: u64,
    /// Slots whose turn was over before they were done.
    again: Vec<usize>,
    /// Empty buffers.
    spares: Vec<Vec<u8>>,
    read: Box<[u8]>,
    /// Answers of one turn, each behind its length.
    answers: Vec<u8>,
    answer: Vec<u8>,
}

impl Server<'_> {
    fn connection(&mut self, slot: usize) -> Option<&mut Connection> {
        self.connections.get_mut(slot)?.as_mut()
    }

    // ---- opening and closing ------------------------------------------------------------------

    /// Accepts what waits, at each address so many at most.
    fn accept(&mut self, poll: &Poll, listeners: &[TcpListener]) -> Accepted {
        let mut accepted = Accepted::All;
        for listener in listeners {
            for tried in 1.. {
                match listener.accept() {
                    Ok((stream, peer)) => self.open(poll, stream, peer),
                    Err(error) => match error.kind() {
                        ErrorKind::WouldBlock => break,
                        // The client is gone already.
                        ErrorKind::ConnectionAborted | ErrorKind::Interrupted => {}
                        // No descriptors or no memory: the others go on, and this is tried again.
                        _ => {
                            self.shared.tcp.receive_errors.add(1);
                            return Accepted::NoRoom;
                        }
                    },
                }
                if tried == TURN_ACCEPTS {
                    accepted = Accepted::Some;
                    break;
                }
            }
        }
        accepted
    }

    fn open(&mut self, poll: &Poll, mut stream: TcpStream, peer: SocketAddr) {
        let counters = &self.shared.tcp;
        let limits = &self.shared.settings.tcp;
        let client = client_key(peer.ip());
        let exempt = self.shared.limiter.is_exempt(peer.ip());
        let of_client = || {
            let all = self.connections.iter().enumerate();
            all.filter_map(|(slot, connection)| Some((slot, connection.as_ref()?)))
                .filter(|(_, connection)| client_key(connection.peer.ip()) == client)
        };
        let crowded = !exempt && of_client().count() >= limits.connections_per_client;
        if crowded || self.open >= limits.connections {
            let idle = |(slot, connection): (usize, &Connection)| match connection.phase {
                Phase::Idle(since) | Phase::First(since) | Phase::Linger(since)
                    if connection.in_progress == 0 =>
                {
                    Some((since, slot))
                }
                _ => None,
            };
            let oldest = of_client().filter_map(idle).min();
            match oldest {
                Some((_, slot)) => {
                    counters.tcp_evicted.add(1);
                    self.close(slot);
                }
                None => {
                    counters.tcp_refused.add(1);
                    return;
                }
            }
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        let both = Interest::READABLE | Interest::WRITABLE;
        let ready = stream
            .set_nodelay(true)
            .and_then(|()| poll.registry().register(&mut stream, Token(slot), both));
        if ready.is_err() {
            counters.receive_errors.add(1);
            self.free.push(slot);
            return;
        }
        counters.tcp_accepted.add(1);
        self.serial += 1;
        self.open += 1;
        self.shared.tcp_open.store(self.open as u64, Ordering::Relaxed);
        let now = self.now.instant;
        self.connections[slot] = Some(Connection::new(stream, peer, self.serial, now));
        // The first query often came along with the handshake.
        self.advance(slot);
    }

    /// Closes a connection, which takes it out of the poll as well.
    fn close(&mut self, slot: usize) {
        let Some(connection) = self.connections.get_mut(slot).and_then(Option::take) else {
            return;
        };
        self.open -= 1;
        self.shared.tcp_open.store(self.open as u64, Ordering::Relaxed);
        self.free.push(slot);
        self.count_waiting(0, connection.outgoing.len() - connection.sent);
        self.keep(connection.incoming);
        self.keep(connection.outgoing);
    }

    /// Keeps a buffer for the next connection in need.
    fn keep(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() > 0 && self.spares.len() < SPARES_MAX {
            buffer.clear();
            self.spares.push(buffer);
        }
    }

    /// An empty buffer.
    fn spare(&mut self) -> Vec<u8> {
        let mut buffer = self.spares.pop().unwrap_or_default();
        buffer.reserve(SPARE_OCTETS);
        buffer
    }

    fn enforce_deadlines(&mut self) {
        let limits = self.shared.settings.tcp;
        let crowded = self.open * 5 > limits.connections * 4;
        let idle = if crowded { limits.idle / 5 } else { limits.idle };
        for slot in 0..self.connections.len() {
            let Some(connection) = &self.connections[slot] else { continue };
            let (since, most) = match connection.phase {
                Phase::Write(since) => (since, limits.write),
                // What is held has a deadline of its own, and may keep the rest from being read.
                _ if connection.in_progress > 0 => continue,
                Phase::First(since) => (since, limits.first_query),
                Phase::Frame(since) | Phase::Linger(since) => (since, limits.frame),
                Phase::Idle(since) => (since, idle),
            };
            if self.now.instant.saturating_duration_since(since) >= most {
                self.shared.tcp.tcp_timed_out.add(1);
                self.close(slot);
            }
        }
    }

    // ---- serving ------------------------------------------------------------------------------

    /// Does what can be done for a connection in one turn.
    fn advance(&mut self, slot: usize) {
        let Some(mut connection) = self.connections.get_mut(slot).and_then(Option::take) else {
            return;
        };
        let fate = self.turn(slot, &mut connection);
        if fate == Fate::Again && !connection.queued {
            connection.queued = true;
            self.again.push(slot);
        }
        self.connections[slot] = Some(connection);
        if fate == Fate::Closes {
            self.close(slot);
        }
    }

    fn turn(&mut self, slot: usize, connection: &mut Connection) -> Fate {
        if connection.broken || !self.flush(connection) {
            return Fate::Closes;
        }
        if matches!(connection.phase, Phase::Linger(_)) {
            return self.linger(connection);
        }
        let mut questions = TURN_QUESTIONS;
        loop {
            // What was read before and had to wait, or is not whole.
            let mut octets = std::mem::take(&mut connection.incoming);
            let taken = self.answer_all(slot, connection, &octets, &mut questions);
            if taken > 0 && !self.send_answers(connection) {
                return Fate::Closes;
            }
            octets.drain(..taken);
            match octets.is_empty() {
                true => self.keep(octets),
                false => connection.incoming = octets,
            }
            if self.is_blocked(connection) {
                break;
            }
            if questions == 0 {
                return Fate::Again;
            }
            // It was the room for answers that ended this, and it is free again.
            if taken > 0 && !connection.incoming.is_empty() {
                continue;
            }
            if !connection.readable || connection.finished {
                break;
            }
            let mut read = std::mem::take(&mut self.read);
            let got = connection.stream.read(&mut read);
            let fate = self.take(slot, connection, got, &read, &mut questions);
            self.read = read;
            if let Some(fate) = fate {
                return fate;
            }
        }
        self.settle(connection)
    }

    /// Takes what was read; a fate where there is nothing more to do.
    fn take(
        &mut self,
        slot: usize,
        connection: &mut Connection,
        got: io::Result<usize>,
        read: &[u8],
        questions: &mut usize,
    ) -> Option<Fate> {
        match got {
            Ok(0) => {
                connection.finished = true;
                connection.readable = false;
            }
            Ok(length) => {
                // Readiness is told once for each arrival, and a read that did not fill the buffer
                // has met the last of it.
                connection.readable = length == read.len() || connection.read_closed;
                let fresh = connection.incoming.is_empty();
                if !fresh {
                    connection.incoming.extend_from_slice(&read[..length]);
                    return None;
                }
                let taken = self.answer_all(slot, connection, &read[..length], questions);
                if taken > 0 && !self.send_answers(connection) {
                    return Some(Fate::Closes);
                }
                if taken < length && !connection.closing {
                    let mut buffer = self.spare();
                    buffer.extend_from_slice(&read[taken..length]);
                    connection.incoming = buffer;
                    // While answers wait for the client, only that counts.
                    if !matches!(connection.phase, Phase::Write(_)) {
                        connection.phase = Phase::Frame(self.now.instant);
                    }
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => connection.readable = false,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Some(Fate::Closes),
        }
        None
    }

    /// Octets of answers that wait for a client before no question is taken from it.
    fn outgoing_max(&self) -> usize {
        if self.waiting < OUTGOING_OCTETS_TOTAL { OUTGOING_OCTETS_MAX } else { 1 }
    }

    /// Counts what waits for all clients.
    fn count_waiting(&mut self, more: usize, less: usize) {
        self.waiting = self.waiting + more - less;
        self.shared.tcp_waiting.store(self.waiting as u64, Ordering::Relaxed);
    }

    /// Whether nothing more may be taken from the client now.
    fn is_blocked(&self, connection: &Connection) -> bool {
        connection.closing
            || connection.outgoing.len() - connection.sent >= self.outgoing_max()
            || connection.in_progress >= self.shared.settings.tcp.in_progress
    }

    /// What becomes of a connection for which all was done.
    fn settle(&mut self, connection: &mut Connection) -> Fate {
        if !connection.outgoing.is_empty() || connection.in_progress > 0 {
            return Fate::Stays;
        }
        if connection.finished {
            return Fate::Closes;
        }
        if !connection.closing {
            return Fate::Stays;
        }
        // Closing while something is unread would reset the connection, and the client might lose
        // the answer that says why.
        if connection.stream.shutdown(Shutdown::Write).is_err() {
            return Fate::Closes;
        }
        connection.phase = Phase::Linger(self.now.instant);
        let incoming = std::mem::take(&mut connection.incoming);
        self.keep(incoming);
        self.linger(connection)
    }

    /// Throws away what still comes, until the client has closed as well.
    fn linger(&mut self, connection: &mut Connection) -> Fate {
        while connection.readable {
            match connection.stream.read(&mut self.read) {
                Ok(0) => return Fate::Closes,
                Ok(length) => {
                    connection.readable = length == self.read.len() || connection.read_closed;
                    connection.discarded += length;
                    if connection.discarded > LINGER_OCTETS_MAX {
                        return Fate::Closes;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => connection.readable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Fate::Closes,
            }
        }
        Fate::Stays
    }

    /// Answers every whole message in `octets`, into the buffer of the turn; returns how many
    /// octets were taken.
    fn answer_all(
        &mut self,
        slot: usize,
        connection: &mut Connection,
        octets: &[u8],
        questions: &mut usize,
    ) -> usize {
        self.answers.clear();
        let mut taken = 0;
        while *questions > 0 && !self.is_blocked(connection) {
            let waiting = connection.outgoing.len() - connection.sent + self.answers.len();
            let Some((prefix, rest)) = octets[taken..].split_first_chunk() else { break };
            if waiting >= self.outgoing_max() {
                break;
            }
            let length = usize::from(u16::from_be_bytes(*prefix));
            if length < HEADER_OCTETS {
                connection.closing = true;
                break;
            }
            if length > QUERY_OCTETS_MAX {
                // Its header is enough to say what is wrong with it.
                if let Some(header) = rest.first_chunk::<HEADER_OCTETS>() {
                    self.shared.tcp.queries.add(1);
                    self.refuse_long(header);
                    connection.closing = true;
                    taken = octets.len();
                }
                break;
            }
            let Some(message) = rest.get(..length) else { break };
            taken += 2 + length;
            *questions -= 1;
            self.shared.tcp.queries.add(1);
            self.shared.tcp.octets_in.add(length as u64);
            self.answer(slot, connection, message);
            // While answers wait for the client, only that counts.
            if connection.outgoing.is_empty() {
                let now = self.now.instant;
                let whole = taken == octets.len();
                connection.phase = if whole { Phase::Idle(now) } else { Phase::Frame(now) };
            }
        }
        taken
    }

    /// FORMERR for a message that is longer than any query.
    fn refuse_long(&mut self, header: &[u8; HEADER_OCTETS]) {
        let mut message = *header;
        // A header that promises a question and brings none: no client's header is trusted further.
        message[4..].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
        let request = self.request(&message, IpAddr::V6(Ipv6Addr::UNSPECIFIED), false);
        if let Disposition::Reply(reply) =
            self.shared.zone.respond(&self.view.snapshot, &request, &mut self.answer)
        {
            self.push_answer();
            self.shared.tcp.answers[reply.outcome as usize].add(1);
        }
    }

    fn request<'m>(&self, message: &'m [u8], client: IpAddr, may_hold: bool) -> Request<'m> {
        let transport = Transport::Tcp;
        Request { message, transport, client, now: self.now, may_hold, limited: false }
    }

    /// Answers one message, or holds it.
    fn answer(&mut self, slot: usize, connection: &mut Connection, message: &[u8]) {
        let counters = &self.shared.tcp;
        let client = connection.peer.ip().to_canonical();
        let may_hold = self.shared.settings.hold_slots > 0;
        let request = self.request(message, client, may_hold);
        let zone = &self.shared.zone;
        let mut disposition = zone.respond(&self.view.snapshot, &request, &mut self.answer);
        if let Disposition::Hold { sequence, until } = disposition {
            let origin = Origin::Tcp { slot, serial: connection.serial };
            let held = Held::new(origin, connection.peer, sequence, until, message);
            let exempt = self.shared.limiter.is_exempt(client);
            let holds = &self.shared.holds;
            match held.map(|held| holds.insert(held, self.view.generation, exempt)) {
                Some(Insertion::Held { first }) => {
                    counters.held.add(1);
                    connection.in_progress += 1;
                    if first {
                        self.shared.publication.wake();
                    }
                    return;
                }
                // Over a connection nothing is repeated: it is a question of its own.
                Some(Insertion::Duplicate) => {}
                Some(Insertion::Stale) => self.view.refresh(&self.shared.publication),
                Some(Insertion::Full) | None => counters.hold_refused.add(1),
            }
            let request = Request { may_hold: false, ..request };
            disposition = zone.respond(&self.view.snapshot, &request, &mut self.answer);
        }
        match disposition {
            Disposition::Reply(reply) => {
                counters.answers[reply.outcome as usize].add(1);
                self.push_answer();
                counters.times.record(self.now.instant.elapsed(), 1);
            }
            // A response, which is not answered; nothing is held the second time.
            Disposition::Drop | Disposition::Hold { .. } => counters.ignored.add(1),
        }
    }

    /// Adds the answer to those of the turn, behind its length.
    fn push_answer(&mut self) {
        let length = self.answer.len() as u16;
        self.shared.tcp.octets_out.add(u64::from(length));
        self.answers.extend_from_slice(&length.to_be_bytes());
        self.answers.extend_from_slice(&self.answer);
    }

    /// Answers a held question whose time has come.
    fn release(&mut self, held: &Held) {
        let Origin::Tcp { slot, serial } = held.origin else { return };
        let Some(mut connection) = self.connections.get_mut(slot).and_then(Option::take) else {
            return;
        };
        // The slot may belong to another by now.
        if connection.serial != serial {
            self.connections[slot] = Some(connection);
            return;
        }
        connection.in_progress -= 1;
        let counters = &self.shared.tcp;
        match self.view.snapshot.segment(held.sequence) {
            Some(_) => counters.released.add(1),
            None => counters.hold_expired.add(1),
        }
        let request = self.request(held.message(), held.peer.ip().to_canonical(), false);
        let zone = &self.shared.zone;
        self.answers.clear();
        if let Disposition::Reply(reply) =
            zone.respond(&self.view.snapshot, &request, &mut self.answer)
        {
            counters.answers[reply.outcome as usize].add(1);
            self.push_answer();
        }
        if matches!(connection.phase, Phase::Idle(_)) {
            connection.phase = Phase::Idle(self.now.instant);
        }
        let alive = self.send_answers(&mut connection);
        self.connections[slot] = Some(connection);
        match alive {
            // It may have waited for room to take more.
            true => self.advance(slot),
            false => self.close(slot),
        }
    }

    /// Sends the answers of the turn with one write; keeps what the client does not take. `false`
    /// when the connection is lost.
    fn send_answers(&mut self, connection: &mut Connection) -> bool {
        if self.answers.is_empty() {
            return true;
        }
        let mut written = 0;
        if connection.outgoing.is_empty() {
            match connection.write(&self.answers) {
                Ok(length) => written = length,
                Err(_) => return false,
            }
        }
        if written < self.answers.len() {
            let first = connection.outgoing.is_empty();
            if first {
                connection.outgoing = self.spare();
            }
            connection.outgoing.extend_from_slice(&self.answers[written..]);
            self.count_waiting(self.answers.len() - written, 0);
            if first {
                connection.phase = Phase::Write(self.now.instant);
                connection.write_mark = connection.outgoing.len();
            }
        }
        true
    }

    /// Sends what waits; `false` when the connection is lost.
    fn flush(&mut self, connection: &mut Connection) -> bool {
        while connection.writable && connection.sent < connection.outgoing.len() {
            match connection.write_outgoing() {
                Ok(length) => {
                    connection.sent += length;
                    self.count_waiting(0, length);
                }
                Err(_) => return false,
            }
        }
        if connection.sent == 0 {
            return true;
        }
        if connection.sent == connection.outgoing.len() {
            connection.sent = 0;
            let outgoing = std::mem::take(&mut connection.outgoing);
            self.keep(outgoing);
            let now = self.now.instant;
            let begun = !connection.incoming.is_empty();
            connection.phase = if begun { Phase::Frame(now) } else { Phase::Idle(now) };
            return true;
        }
        if connection.sent >= connection.write_mark {
            // All that waited when the deadline began is taken: one begins for what came since.
            connection.phase = Phase::Write(self.now.instant);
            connection.write_mark = connection.outgoing.len();
        }
        if connection.sent >= OUTGOING_OCTETS_MAX {
            // A client that always leaves something must not make the buffer grow.
            connection.outgoing.drain(..connection.sent);
            connection.write_mark -= connection.sent;
            connection.sent = 0;
        }
        true
    }
}

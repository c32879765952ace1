//! Datagrams: a batch in with one system call, its answers out with another.
//!
//! A socket that is bound to all addresses answers from the address that a query was sent to (RFC
//! 2181 §4.1): the system tells it with each datagram. One that is bound to an address needs not.

use super::counters::Counters;
use super::{Answering, Shared, View};
use crate::pipeline::moment;
use crate::wire;
use crate::zone::{Request, Transport};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg,
    sendmmsg, setsockopt, sockopt,
};
use socket2::{Domain, Protocol, SockRef, Socket as RawSocket, Type};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// Datagrams taken with one system call.
const BATCH: usize = 32;
/// Longest query that is read; what is longer is cut and so FORMERR.
const QUERY_OCTETS_MAX: usize = 4096;
/// Room for the largest answer to trusted clients, but for absurd settings.
pub const DATAGRAM_OCTETS_MAX: usize = 4096;
/// A thread that answers looks so often whether another one's socket is waiting for it.
const LOOK_INTERVAL: Duration = Duration::from_micros(100);
/// Between two looks at whether to stop.
const RECEIVE_TIMEOUT: Duration = Duration::from_millis(500);
/// Room for datagrams that wait (dns-behaviour 2.1).
const RECEIVE_BUFFER_OCTETS: usize = 1 << 20;

/// The address that a query was sent to, where the socket does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Local {
    /// The socket has only one.
    #[default]
    Bound,
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 address, and the interface it was received on.
    V6(Ipv6Addr, u32),
}

/// A bound socket.
#[derive(Debug)]
pub struct Socket {
    socket: UdpSocket,
    address: SocketAddr,
}

impl Socket {
    /// Makes a bound socket ready to serve.
    pub fn new(socket: UdpSocket) -> io::Result<Socket> {
        let address = socket.local_addr()?;
        match address.ip() {
            IpAddr::V4(any) if any.is_unspecified() => {
                setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
            }
            IpAddr::V6(any) if any.is_unspecified() => {
                setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
            }
            _ => {}
        }
        #[cfg(target_os = "linux")]
        if address.is_ipv4() {
            // Forged news of a small path MTU must not make fragments of answers (row U05).
            let omit = rustix::net::sockopt::Ipv4PathMtuDiscovery::OMIT;
            rustix::net::sockopt::set_ip_mtu_discover(&socket, omit)?;
        }
        socket.set_read_timeout(Some(RECEIVE_TIMEOUT))?;
        Ok(Socket { socket, address })
    }

    /// Makes the thread that waits for datagrams look around.
    pub fn wake(&self) {
        // The system says that the socket is not connected, and wakes who waits all the same; where
        // it does not, the thread looks around at its timeout.
        let _wakes_anyway = SockRef::from(&self.socket).shutdown(Shutdown::Both);
    }

    /// Which of [`KINDS`] it is.
    fn kind(&self) -> usize {
        2 * usize::from(self.address.is_ipv6()) + usize::from(self.tells_local())
    }

    /// Whether the system tells where each datagram was sent to.
    fn tells_local(&self) -> bool {
        self.address.ip().is_unspecified()
    }

    /// Whether `peer` can be answered: a datagram from nowhere, or from the very address it was sent
    /// to, is forged (row U02).
    fn may_answer(&self, peer: SocketAddr, local: Local) -> bool {
        let own = match local {
            Local::Bound => self.address.ip(),
            Local::V4(address) => address.into(),
            Local::V6(address, _) => address.into(),
        };
        peer.port() != 0 && peer != SocketAddr::new(own, self.address.port())
    }
}

/// Binds a socket to `address`; with `shared`, several may share it.
pub fn bind(address: SocketAddr, shared: bool) -> io::Result<UdpSocket> {
    let socket = RawSocket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if shared {
        socket.set_reuse_port(true)?;
    }
    // As much of it as the system permits.
    socket.set_recv_buffer_size(RECEIVE_BUFFER_OCTETS)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Kinds of sockets: of either family, bound to an address or to all.
const KINDS: usize = 4;

/// One datagram of a batch.
#[derive(Clone, Copy)]
struct Arrival {
    length: usize,
    from: Option<SockaddrStorage>,
    /// `None` where the system should have told and did not.
    local: Option<Local>,
}

const NO_ARRIVAL: Arrival = Arrival { length: 0, from: None, local: None };

/// Body of a thread `udp`: answers what comes in at a socket. At times it looks at another one, whose
/// thread may be kept from running by whoever else wants its core: a query must not wait while there
/// is a thread that runs.
pub fn serve(shared: &Shared, index: usize) {
    let mut worker = Worker::new(shared, index);
    let others = shared.sockets.len() - 1;
    let (mut looked, mut other) = (Instant::now(), 0);
    while !shared.is_stopping() {
        let Some(done) = worker.answer(index, MsgFlags::MSG_WAITFORONE) else { continue };
        if others > 0 && done.saturating_duration_since(looked) >= LOOK_INTERVAL {
            looked = done;
            other = other % others + 1;
            worker.answer((index + other) % (others + 1), MsgFlags::MSG_DONTWAIT);
        }
    }
}

/// What a thread needs to answer, with room that is used again and again.
pub struct Worker<'a> {
    shared: &'a Shared,
    counters: &'a Counters,
    view: View,
    receiver: Receiver,
    outs: Vec<Vec<u8>>,
    outgoing: Outgoing,
    sender: Sender,
}

impl<'a> Worker<'a> {
    /// A worker that belongs to the socket of this index, and counts there.
    pub fn new(shared: &'a Shared, index: usize) -> Worker<'a> {
        Worker {
            shared,
            counters: &shared.udp[index],
            view: View::new(&shared.publication),
            receiver: Receiver::new(),
            outs: (0..BATCH).map(|_| Vec::with_capacity(DATAGRAM_OCTETS_MAX)).collect(),
            outgoing: Outgoing::default(),
            sender: Sender::new(),
        }
    }

    /// Answers a batch that came in at a socket; returns when that was done, if there was any.
    pub fn answer(&mut self, index: usize, flags: MsgFlags) -> Option<Instant> {
        let Worker { shared, counters, view, receiver, outs, outgoing, sender } = self;
        let socket = &shared.sockets[index];
        let count = match receiver.receive(socket, flags) {
            Ok(count) => count,
            Err(Errno::EAGAIN | Errno::EINTR) => return None,
            // Heard of an earlier answer that nobody took, or of memory running out: never the end.
            Err(_) => {
                counters.receive_errors.add(1);
                return None;
            }
        };
        let now = moment();
        view.refresh(&shared.publication);
        outgoing.count = 0;
        for slot in 0..count {
            let Arrival { length, from, local } = receiver.arrivals[slot];
            let Some(peer) = from.as_ref().and_then(to_std) else { continue };
            let message = &receiver.buffer[slot * QUERY_OCTETS_MAX..][..length];
            counters.queries.add(1);
            counters.octets_in.add(length as u64);
            let Some(local) = local else {
                counters.receive_errors.add(1);
                continue;
            };
            if !socket.may_answer(peer, local) {
                counters.ignored.add(1);
                continue;
            }
            let client = peer.ip();
            let request = Request {
                message,
                transport: Transport::Udp { payload_max: shared.payload_max(client) },
                client,
                now,
                may_hold: shared.settings.hold_slots > 0,
                limited: false,
            };
            let out = &mut outs[outgoing.count];
            let mut answering = shared.answer_datagram(view, counters, &request, out);
            if let Answering::Hold { sequence, until } = answering {
                let place = (index, peer, local);
                let what = (sequence, until);
                answering = shared.hold_datagram(view, counters, &request, place, what, out);
            }
            if let Answering::Send = answering {
                outgoing.peers[outgoing.count] = from;
                outgoing.locals[outgoing.count] = local;
                outgoing.count += 1;
            }
        }
        let failed = sender.send(socket, outs, outgoing);
        counters.send_errors.add(failed);
        let done = Instant::now();
        let took = done.saturating_duration_since(now.instant);
        counters.times.record(took, outgoing.count as u64);
        Some(done)
    }
}

/// Addresses of the answers of a batch.
struct Outgoing {
    count: usize,
    peers: [Option<SockaddrStorage>; BATCH],
    locals: [Local; BATCH],
}

impl Default for Outgoing {
    fn default() -> Outgoing {
        Outgoing { count: 0, peers: [None; BATCH], locals: [Local::Bound; BATCH] }
    }
}

/// Takes datagrams, with room that is used again and again.
struct Receiver {
    /// For each kind of socket its own: the system shortens the lengths in them to those of the address and
    /// the news that it has, and nobody sets them back.
    headers: [MultiHeaders<SockaddrStorage>; KINDS],
    buffer: Vec<u8>,
    arrivals: [Arrival; BATCH],
}

impl Receiver {
    fn new() -> Receiver {
        let headers = |_| {
            let room = cmsg_space!(libc::in_pktinfo, libc::in6_pktinfo);
            MultiHeaders::preallocate(BATCH, Some(room))
        };
        Receiver {
            headers: std::array::from_fn(headers),
            buffer: vec![0; BATCH * QUERY_OCTETS_MAX],
            arrivals: [NO_ARRIVAL; BATCH],
        }
    }

    /// Takes the datagrams that are there, after waiting for one where the flags say so.
    fn receive(&mut self, socket: &Socket, flags: MsgFlags) -> Result<usize, Errno> {
        let mut chunks = self.buffer.chunks_exact_mut(QUERY_OCTETS_MAX);
        let mut slices: [[IoSliceMut<'_>; 1]; BATCH] =
            std::array::from_fn(|_| [IoSliceMut::new(chunks.next().unwrap_or_default())]);
        let fd = socket.socket.as_raw_fd();
        let headers = &mut self.headers[socket.kind()];
        let results = recvmmsg(fd, headers, &mut slices, flags, None)?;
        let mut count = 0;
        for (message, arrival) in results.zip(&mut self.arrivals) {
            let local = match socket.tells_local() {
                true => message.cmsgs().ok().and_then(|mut cmsgs| cmsgs.find_map(local_of)),
                false => Some(Local::Bound),
            };
            *arrival = Arrival { length: message.bytes, from: message.address, local };
            count += 1;
        }
        Ok(count)
    }
}

fn local_of(cmsg: ControlMessageOwned) -> Option<Local> {
    match cmsg {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            Some(Local::V4(Ipv4Addr::from_bits(u32::from_be(info.ipi_spec_dst.s_addr))))
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => {
            Some(Local::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr), info.ipi6_ifindex))
        }
        _ => None,
    }
}

fn to_std(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::new(v4.ip().into(), v4.port()));
    }
    let v6 = address.as_sockaddr_in6()?;
    Some(std::net::SocketAddrV6::from(*v6).into())
}

/// Sends datagrams, with room that is used again and again.
pub struct Sender {
    plain: MultiHeaders<SockaddrStorage>,
    v4: MultiHeaders<SockaddrStorage>,
    v6: MultiHeaders<SockaddrStorage>,
}

impl Sender {
    /// Room for a batch.
    pub fn new() -> Sender {
        Sender {
            plain: MultiHeaders::preallocate(BATCH, None),
            v4: MultiHeaders::preallocate(BATCH, Some(cmsg_space!(libc::in_pktinfo))),
            v6: MultiHeaders::preallocate(BATCH, Some(cmsg_space!(libc::in6_pktinfo))),
        }
    }

    /// Sends one datagram from the address that its query was sent to.
    pub fn send_one(
        &mut self,
        socket: &Socket,
        peer: SocketAddr,
        local: Local,
        octets: &[u8],
    ) -> Result<(), Errno> {
        let peer = Some(peer.into());
        let result = self.send_run(socket, &[[IoSlice::new(octets)]], &[peer], local);
        if result == Err(Errno::EMSGSIZE) {
            self.send_short(socket, peer, local, octets);
        }
        result.map(drop)
    }

    /// Sends the truncated form of an answer that the path does not take (row U03).
    fn send_short(
        &mut self,
        socket: &Socket,
        peer: Option<SockaddrStorage>,
        local: Local,
        octets: &[u8],
    ) {
        if let Some(short) = wire::truncated(octets) {
            // That the answer did not go out as it was is counted by the caller already.
            let _counted = self.send_run(socket, &[[IoSlice::new(&short)]], &[peer], local);
        }
    }

    /// Sends a batch; returns how many could not be sent.
    fn send(&mut self, socket: &Socket, outs: &[Vec<u8>], outgoing: &Outgoing) -> u64 {
        let slices: [[IoSlice<'_>; 1]; BATCH] =
            std::array::from_fn(|slot| [IoSlice::new(&outs[slot])]);
        let mut failed = 0;
        let mut begin = 0;
        while begin < outgoing.count {
            let local = outgoing.locals[begin];
            let run = outgoing.locals[begin..outgoing.count].iter().take_while(|l| **l == local);
            let end = begin + run.count();
            match self.send_run(socket, &slices[begin..end], &outgoing.peers[begin..end], local) {
                Ok(sent) => begin += sent.max(1),
                Err(Errno::EINTR) => {}
                // The first one; the others may well pass.
                Err(error) => {
                    if error == Errno::EMSGSIZE {
                        self.send_short(socket, outgoing.peers[begin], local, &outs[begin]);
                    }
                    failed += 1;
                    begin += 1;
                }
            }
        }
        failed
    }

    /// Sends datagrams from one address; returns how many went out before one that failed.
    fn send_run(
        &mut self,
        socket: &Socket,
        slices: &[[IoSlice<'_>; 1]],
        peers: &[Option<SockaddrStorage>],
        local: Local,
    ) -> Result<usize, Errno> {
        let fd = socket.socket.as_raw_fd();
        let none = MsgFlags::empty();
        match local {
            Local::Bound => Ok(sendmmsg(fd, &mut self.plain, slices, peers, [], none)?.count()),
            Local::V4(address) => {
                let source = libc::in_addr { s_addr: address.to_bits().to_be() };
                let info =
                    libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: source, ipi_addr: source };
                let cmsgs = [ControlMessage::Ipv4PacketInfo(&info)];
                Ok(sendmmsg(fd, &mut self.v4, slices, peers, cmsgs, none)?.count())
            }
            Local::V6(address, interface) => {
                let source = libc::in6_addr { s6_addr: address.octets() };
                // Only a link-local address needs its interface.
                let interface = if address.is_unicast_link_local() { interface } else { 0 };
                let info = libc::in6_pktinfo { ipi6_addr: source, ipi6_ifindex: interface };
                let cmsgs = [ControlMessage::Ipv6PacketInfo(&info)];
                Ok(sendmmsg(fd, &mut self.v6, slices, peers, cmsgs, none)?.count())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Socket, UdpSocket) {
        let server = Socket::new(bind(([127, 0, 0, 1], 0).into(), false).unwrap()).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        (server, client)
    }

    #[test]
    fn u02_forged_sources_are_not_answered() {
        let (server, _) = pair();
        let own = server.address;
        let other = SocketAddr::new([127, 0, 0, 2].into(), own.port());
        assert!(!server.may_answer(own, Local::Bound));
        assert!(!server.may_answer(([192, 0, 2, 1], 0).into(), Local::Bound));
        assert!(server.may_answer(other, Local::Bound));
        // On a socket for all addresses it is the one that the query was sent to that counts.
        assert!(!server.may_answer(other, Local::V4([127, 0, 0, 2].into())));
    }

    #[test]
    fn u03_what_is_too_large_for_the_path_goes_truncated() {
        let (server, client) = pair();
        let mut answer = vec![0xAB, 0xCD, 0x84, 0, 0, 1, 1, 1, 0, 0, 0, 0];
        answer.extend_from_slice(&[1, b'x', 0, 0, 16, 0, 1]);
        (0..257).for_each(|_| wire::write_txt_record(&mut answer, 5, &[b'A'; 250]));
        // No datagram holds more than 65,507 octets.
        assert!(answer.len() > 65_507);
        let peer = client.local_addr().unwrap();
        let mut sender = Sender::new();
        let sent = sender.send_one(&server, peer, Local::Bound, &answer);
        assert_eq!(sent, Err(Errno::EMSGSIZE));
        let mut outgoing = Outgoing { count: 3, ..Outgoing::default() };
        outgoing.peers[..3].fill(Some(peer.into()));
        let mut outs = vec![Vec::new(); BATCH];
        (outs[0], outs[1], outs[2]) = (b"before".to_vec(), answer, b"behind".to_vec());
        assert_eq!(sender.send(&server, &outs, &outgoing), 1);
        let short = [0xAB, 0xCD, 0x86, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'x', 0, 0, 16, 0, 1];
        for expected in [&short[..], b"before", &short, b"behind"] {
            let mut received = [0; 100];
            let length = client.recv(&mut received).unwrap();
            assert_eq!(&received[..length], expected);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn u05_the_path_mtu_is_not_listened_to() {
        use rustix::net::sockopt::{Ipv4PathMtuDiscovery, ip_mtu_discover};
        assert_eq!(ip_mtu_discover(&pair().0.socket).unwrap(), Ipv4PathMtuDiscovery::OMIT);
    }
}

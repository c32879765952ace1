//! Rows of section 1.8: UDP sockets.

use super::dns::*;
use super::{Bench, Row};
use aodns::pipeline::moment;
use aodns::responder::{Responder, ResponderError};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

pub const ROWS: &[Row] = &[
    ("U01", u01_answers_leave_from_where_they_were_asked),
    ("U02", u02_forged_sources),
    ("U03", u03_errors_of_the_network),
    ("U04", u04_both_families),
    ("U05", u05_path_mtu),
    ("U06", u06_random_data),
];

/// A stream at all addresses of both families, one port, whose next segment is due soon.
fn everywhere(due: Duration) -> Lab {
    let mut plan = Plan::new().with_sections(&[300, 2200]);
    plan.settings.listen =
        vec![(Ipv4Addr::UNSPECIFIED, 0).into(), (Ipv6Addr::UNSPECIFIED, 0).into()];
    plan.longest = due;
    plan.start()
}

fn u01_answers_leave_from_where_they_were_asked(_: &Bench) {
    let lab = everywhere(Duration::from_secs(3600));
    let addresses = lab.responder.local_addrs();
    let port = addresses[0].port();
    assert!(addresses.iter().all(|address| address.port() == port));
    let mut targets: Vec<IpAddr> =
        (1..9).map(|last| Ipv4Addr::new(127, 0, 0, last).into()).collect();
    targets.extend(["127.1.2.3", "127.255.255.254"].map(|text| text.parse::<IpAddr>().unwrap()));
    if addresses.len() == 2 {
        targets.push(Ipv6Addr::LOCALHOST.into());
    } else {
        println!("U01: no IPv6 on this machine");
    }
    // One socket of each family asks them all in one go, so that batches hold several addresses.
    let v4 = UdpSocket::bind("127.0.0.1:0").unwrap();
    v4.set_read_timeout(Some(PATIENCE)).unwrap();
    for round in 0..20u16 {
        for (index, target) in targets.iter().enumerate().filter(|(_, target)| target.is_ipv4()) {
            let id = round << 8 | index as u16;
            let query = message(id, 0, [1, 0, 0, 0], &[&question(&below("sequence"), TXT, IN)]);
            v4.send_to(&query, (*target, port)).unwrap();
        }
        for _ in targets.iter().filter(|target| target.is_ipv4()) {
            let mut buffer = [0; 512];
            let (length, from) = v4.recv_from(&mut buffer).unwrap();
            let answer = parse(&buffer[..length]);
            assert_eq!(from, SocketAddr::new(targets[usize::from(answer.id & 0xFF)], port));
        }
    }
    for target in &targets {
        // A connected socket gets nothing from any other address.
        let client = udp_client((*target, port).into());
        client.send(&plain(&below("sequence"), TXT)).unwrap();
        parse(&receive(&client)).expect(QR | AA, [1, 1, 0, 0]);
        let mut client = tcp_client((*target, port).into());
        send_framed(&mut client, &plain(&seq(FIRST + 1), TXT));
        assert_eq!(parse(&receive_framed(&mut client).unwrap()).flags, QR | AA);
    }
    // Held questions are answered from the same address, whether in time or not.
    let lab = everywhere(Duration::from_millis(400));
    let port = lab.addr.port();
    let clients: Vec<UdpSocket> =
        targets.iter().map(|target| udp_client(SocketAddr::new(*target, port))).collect();
    for client in &clients {
        client.send(&edns(&seq(FIRST + 2), TXT, &opt(1232, 0, &[]))).unwrap();
    }
    lab.publish(strings(500), moment());
    for client in &clients {
        let answer = parse(&receive(client));
        assert!(answer.flags & 15 == 0, "answered from the address that was asked");
    }
}

fn u02_forged_sources(_: &Bench) {
    // A socket that shares the server's own address and port speaks in its name. Which socket of
    // a group hears it is a matter of a hash that differs from port to port.
    let heard = (0..40).any(|_| {
        let mut plan = Plan::new();
        plan.settings.udp_threads = 8;
        let lab = plan.start();
        let forger = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
        forger.set_reuse_port(true).unwrap();
        if forger.bind(&lab.addr.into()).is_err() {
            return false;
        }
        let forger: UdpSocket = forger.into();
        forger.send_to(&plain(&below("sequence"), TXT), lab.addr).unwrap();
        // Either it came back to the forger, or the server has it.
        forger.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let stats = lab.responder.stats();
            if stats.udp_queries == 1 {
                lab.wait_until("ignored", |stats| stats.ignored == 1);
                let stats = lab.responder.stats();
                assert_eq!(stats.answers.iter().sum::<u64>(), 0);
                return true;
            }
            let mut buffer = [0; 512];
            if forger.recv(&mut buffer).is_ok() {
                assert_eq!(buffer[2] & 0x80, 0, "its own query, and no answer");
                return false;
            }
            assert!(std::time::Instant::now() < deadline, "neither has it");
        }
    });
    assert!(heard, "no server heard the forger");
    u02_from_port_0();
}

/// A datagram from port 0 needs a raw socket; without the right to one this part is left to the
/// test beside the code.
fn u02_from_port_0() {
    let raw = match Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP)) {
        Ok(raw) => raw,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            println!("U02: no raw sockets here; port 0 is proved by a unit test alone");
            return;
        }
    };
    let lab = Plan::new().start();
    let query = plain(&below("sequence"), TXT);
    for port in [0u16, 1] {
        let length = 8 + query.len() as u16;
        let words = [port, lab.addr.port(), length, 0].map(u16::to_be_bytes).concat();
        let datagram = [words, query.clone()].concat();
        raw.send_to(&datagram, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    }
    // Two came, of which one is answered.
    lab.wait_until("both", |stats| {
        stats.udp_queries == 2 && stats.answers.iter().sum::<u64>() == 1
    });
    assert_eq!(lab.responder.stats().ignored, 1);
}

fn u03_errors_of_the_network(bench: &Bench) {
    // Clients that are gone when their answer comes: the system reports their ports as closed.
    for _ in 0..200 {
        udp_client(bench.lab.addr).send(&plain(&below("sequence"), TXT)).unwrap();
    }
    for _ in 0..20 {
        bench.lab.udp(&plain(&below("sequence"), TXT)).expect(QR | AA, [1, 1, 0, 0]);
    }
    // EMSGSIZE: `u03_what_is_too_large_for_the_path_goes_truncated` in src/responder/udp.rs.
}

fn u04_both_families(_: &Bench) {
    // The default is both families at one port, each on a socket of its own.
    let lab = everywhere(Duration::from_secs(3600));
    let addresses = lab.responder.local_addrs();
    let no_ipv6 = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_err();
    if no_ipv6 {
        println!("U04: no IPv6 on this machine");
        return;
    }
    assert_eq!(addresses.len(), 2);
    let port = addresses[0].port();
    for target in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let client = udp_client((target, port).into());
        client.send(&plain(&below("sequence"), TXT)).unwrap();
        parse(&receive(&client)).expect(QR | AA, [1, 1, 0, 0]);
        let mut client = tcp_client((target, port).into());
        send_framed(&mut client, &plain(&below("sequence"), TXT));
        parse(&receive_framed(&mut client).unwrap()).expect(QR | AA, [1, 1, 0, 0]);
    }
    // An IPv6 socket alone leaves the IPv4 port to others.
    let mut plan = Plan::new();
    plan.settings.listen = vec![(Ipv6Addr::UNSPECIFIED, 0).into()];
    let lab = plan.start();
    assert!(UdpSocket::bind((Ipv4Addr::LOCALHOST, lab.addr.port())).is_ok(), "IPV6_V6ONLY");

    ports_in_use_are_noticed();
}

/// Starting fails where a port is taken, also by a program that would share it.
fn ports_in_use_are_noticed() {
    let start = |address: SocketAddr| {
        let mut plan = Plan::new();
        plan.settings.listen = vec![address];
        let publication = Arc::new(aodns::publication::Publication::new(empty()));
        Responder::start(plan.settings, Arc::new(plan.zone), publication)
    };
    let expect = |address: SocketAddr, expected: &str| match start(address) {
        Err(ResponderError::Bind { transport, address: told, cause }) => {
            assert_eq!((transport, told, cause.kind()), (expected, address, ErrorKind::AddrInUse));
        }
        other => panic!("{other:?}"),
    };
    let lab = Plan::new().start();
    expect(lab.addr, "udp");
    drop(lab);
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let taken = socket.local_addr().unwrap().as_socket().unwrap();
    expect(taken, "udp");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    expect(listener.local_addr().unwrap(), "tcp");
}

fn empty() -> aodns::window::Snapshot {
    let longest = Duration::from_secs(1);
    let rate = aodns::units::SampleRate::HZ_16000;
    aodns::window::Window::new(75, rate, longest, FIRST, moment()).snapshot()
}

fn u05_path_mtu(_: &Bench) {
    // IPv6: 1232 octets of payload and no more, whatever the client can take. IPv4's socket option
    // is looked at in src/responder/udp.rs.
    if UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        println!("U05: no IPv6 on this machine");
        return;
    }
    let head = plain(&seq(FIRST), TXT).len();
    let mut plan = Plan::new().with_sections(&[1221 - head, 1222 - head]);
    plan.settings.listen = vec![(Ipv6Addr::LOCALHOST, 0).into()];
    let lab = plan.start();
    let whole = lab.udp(&edns(&seq(FIRST), TXT, &opt(65_535, 0, &[])));
    assert_eq!((whole.flags, whole.octets.len()), (QR | AA, 1232));
    lab.udp(&edns(&seq(FIRST + 1), TXT, &opt(65_535, 0, &[]))).expect(QR | AA | TC, [1, 0, 0, 1]);
}

fn u06_random_data(bench: &Bench) {
    let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
    let mut noise = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let client = udp_client(bench.lab.addr);
    client.set_nonblocking(true).unwrap();
    let mut buffer = vec![0; 65_535];
    for round in 0..400 {
        let length = [65_507, 4096, 4097, 600, 100, 13, 12, 11][round % 8];
        let mut datagram: Vec<u8> = (0..length).map(|_| noise() as u8).collect();
        if round % 3 == 0 && length > 12 {
            // A query as far as its header goes.
            datagram[2] = 0;
            datagram[4..12].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 1]);
        }
        // A full buffer is as good as a lost datagram.
        let _lost = client.send(&datagram);
        while let Ok(length) = client.recv(&mut buffer) {
            assert!(length <= 1232);
        }
    }
    bench.lab.udp(&plain(&below("sequence"), TXT)).expect(QR | AA, [1, 1, 0, 0]);
    // Ten million mutated ones: tests/hostile.rs.
}

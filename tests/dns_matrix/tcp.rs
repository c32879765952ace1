//! Rows of section 1.7: TCP.

use super::dns::*;
use super::{Bench, Row, SECTIONS};
use aodns::pipeline::moment;
use aodns::responder::TcpLimits;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

pub const ROWS: &[Row] = &[
    ("T01", t01_one_write),
    ("T02", t02_in_pieces),
    ("T03", t03_several_in_one_segment),
    ("T04", t04_held_questions_do_not_block),
    ("T05", t05_half_closed),
    ("T06", t06_no_message),
    ("T07", t07_too_long),
    ("T08", t08_half_a_message_and_silence),
    ("T09", t09_silence),
    ("T10", t10_never_reads),
    ("T11", t11_errors_leave_the_connection_open),
    ("T12", t12_too_many),
    ("T13", t13_ten_thousand_resets),
];

/// Asserts that the server closes the connection without another octet, and says how long it took.
fn expect_close(client: &mut TcpStream) {
    let mut rest = [0; 16];
    match client.read(&mut rest) {
        Ok(0) => {}
        Err(error) if closed(error.kind()) => {}
        other => panic!("not closed: {other:?} {rest:02x?}"),
    }
}

/// A stream with deadlines that a test can wait for.
fn impatient(change: impl Fn(&mut TcpLimits)) -> Lab {
    let mut plan = Plan::new().with_sections(&[&SECTIONS[..], &[26_000]].concat());
    change(&mut plan.settings.tcp);
    plan.start()
}

fn t01_one_write(bench: &Bench) {
    for _ in 0..100 {
        let mut client = tcp_client(bench.lab.addr);
        send_framed(&mut client, &plain(&seq(FIRST + 2), TXT));
        // What one write sent arrives at once; the prefix alone would be read first otherwise.
        let mut buffer = [0; 4096];
        let length = client.read(&mut buffer).unwrap();
        let told = usize::from(u16::from_be_bytes([buffer[0], buffer[1]]));
        assert_eq!(length, 2 + told);
        assert_eq!(parse(&buffer[2..length]).flags, QR | AA);
    }
}

fn t02_in_pieces(bench: &Bench) {
    let query = framed(&plain(&below("sequence"), TXT));
    for cut in [1, 2, 3, 14, query.len() - 1] {
        let mut client = tcp_client(bench.lab.addr);
        client.write_all(&query[..cut]).unwrap();
        // The rest follows in a segment of its own, as Nagle's algorithm is off.
        client.write_all(&query[cut..]).unwrap();
        parse(&receive_framed(&mut client).unwrap()).expect(QR | AA, [1, 1, 0, 0]);
    }
    let mut client = tcp_client(bench.lab.addr);
    for _ in 0..3 {
        query.iter().for_each(|octet| client.write_all(&[*octet]).unwrap());
        parse(&receive_framed(&mut client).unwrap()).expect(QR | AA, [1, 1, 0, 0]);
    }
    // A piece of the next one comes along with the last of this.
    client.write_all(&[&query[..], &query[..7]].concat()).unwrap();
    parse(&receive_framed(&mut client).unwrap()).expect(QR | AA, [1, 1, 0, 0]);
    client.write_all(&query[7..]).unwrap();
    parse(&receive_framed(&mut client).unwrap()).expect(QR | AA, [1, 1, 0, 0]);
}

fn t03_several_in_one_segment(bench: &Bench) {
    let ask = |id: u16| {
        let name = [below("sequence"), seq(FIRST + 2), below("foo")][usize::from(id) % 3].clone();
        framed(&message(id, 0, [1, 0, 0, 0], &[&question(&name, TXT, IN)]))
    };
    // More than one turn's worth, and more than fits the buffer of answers.
    for count in [2, 30, 500] {
        let mut client = tcp_client(bench.lab.addr);
        let all: Vec<u8> = (0..count).flat_map(ask).collect();
        client.write_all(&all).unwrap();
        let mut ids = BTreeSet::new();
        for _ in 0..count {
            let answer = parse(&receive_framed(&mut client).unwrap());
            assert!(ids.insert(answer.id));
            let expected = [QR | AA, QR | AA, QR | AA | 3][usize::from(answer.id) % 3];
            assert_eq!(answer.flags, expected);
        }
        assert_eq!(ids.len(), usize::from(count));
    }
}

fn t04_held_questions_do_not_block(_: &Bench) {
    let attempt = || {
        let mut plan = Plan::new().with_sections(&[300]);
        plan.longest = Duration::from_millis(650);
        let lab = plan.start();
        let begun = Instant::now();
        let mut client = tcp_client(lab.addr);
        let ask =
            |id, name: &[u8]| framed(&message(id, 0, [1, 0, 0, 0], &[&question(name, TXT, IN)]));
        let both = [ask(1, &seq(FIRST + 1)), ask(2, &below("sequence"))].concat();
        client.write_all(&[&both[..], &ask(1, &seq(FIRST + 1))].concat()).unwrap();
        let first = parse(&receive_framed(&mut client).unwrap());
        if lab.responder.stats().held == 0 {
            assert!(begun.elapsed() > Duration::from_millis(900));
            return false;
        }
        assert_eq!(first.id, 2, "the ordinary one comes first");
        // The same question with the same id is one of its own: nothing is repeated over TCP.
        let again = parse(&receive_framed(&mut client).unwrap());
        assert_eq!((again.id, again.flags, again.answer.len()), (1, QR | AA, 0));
        lab.publish(strings(2000), moment());
        let second = parse(&receive_framed(&mut client).unwrap());
        assert_eq!(second.id, 1);
        if second.answer.is_empty() {
            assert!(begun.elapsed() > Duration::from_millis(900), "given up too early");
            return false;
        }
        assert_eq!(second.answer.len(), strings(2000).len());
        // Half closed meanwhile, it still gets its answer, and the end behind it.
        client.shutdown(Shutdown::Write).unwrap();
        expect_close(&mut client);
        true
    };
    assert!((0..20).any(|_| attempt()), "the machine is too slow, 20 times in a row");
}

fn t05_half_closed(bench: &Bench) {
    for count in [1, 200] {
        let mut client = tcp_client(bench.lab.addr);
        let queries = framed(&plain(&seq(FIRST + 2), TXT)).repeat(count);
        client.write_all(&queries).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        for _ in 0..count {
            assert_eq!(parse(&receive_framed(&mut client).unwrap()).flags, QR | AA);
        }
        expect_close(&mut client);
    }
}

fn t06_no_message(bench: &Bench) {
    for length in [0u16, 1, 11] {
        let mut client = tcp_client(bench.lab.addr);
        let junk = [&length.to_be_bytes()[..], &vec![0; usize::from(length)]].concat();
        client.write_all(&junk).unwrap();
        expect_close(&mut client);
        // What stood in front of it is answered.
        let mut client = tcp_client(bench.lab.addr);
        client.write_all(&[framed(&plain(&below("sequence"), TXT)), junk].concat()).unwrap();
        parse(&receive_framed(&mut client).unwrap()).expect(QR | AA, [1, 1, 0, 0]);
        expect_close(&mut client);
    }
}

fn t07_too_long(_: &Bench) {
    let lab = Plan::new().start();
    let header = message(0x4321, RD, [1, 0, 0, 0], &[]);
    for (length, sent) in [(4097usize, 4097usize), (4097, 12), (65_535, 12), (65_535, 65_535)] {
        let mut client = tcp_client(lab.addr);
        let mut octets = (length as u16).to_be_bytes().to_vec();
        octets.extend_from_slice(&header);
        octets.resize(2 + sent, 7);
        client.write_all(&octets).unwrap();
        let answer = parse(&receive_framed(&mut client).unwrap());
        answer.expect(QR | RD | 1, [0; 4]);
        assert_eq!(answer.id, 0x4321);
        // An orderly end, and the server stays until the client has closed as well: a reset for
        // what was not read might overtake the answer.
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
        let mut other = tcp_client(lab.addr);
        send_framed(&mut other, &plain(&below("config"), TXT));
        receive_framed(&mut other).unwrap();
        let stats = lab.responder.stats();
        assert!(stats.tcp_open == 2 || stats.tcp_timed_out > 0, "{stats:?}");
        drop((client, other));
        lab.wait_until("both gone", |stats| stats.tcp_open == 0);
    }
    // The longest that is taken.
    let mut query = plain(&below("config"), TXT);
    query.resize(4096, 0);
    lab.tcp(&query).expect(QR | AA, [1, 1, 0, 0]);
}

fn t08_half_a_message_and_silence(_: &Bench) {
    let most = Duration::from_millis(300);
    let lab = impatient(|limits| limits.frame = most);
    let query = framed(&plain(&below("sequence"), TXT));
    for begin in [&query[..1], &query[..2], &query[..20], &[0xFF]] {
        let begun = Instant::now();
        let mut client = tcp_client(lab.addr);
        client.write_all(begin).unwrap();
        // The others are served meanwhile.
        lab.tcp(&plain(&below("sequence"), TXT)).expect(QR | AA, [1, 1, 0, 0]);
        expect_close(&mut client);
        assert!(begun.elapsed() >= most);
    }
    // A drop now and then does not move the deadline.
    let mut client = tcp_client(lab.addr);
    client.write_all(&query[..1]).unwrap();
    client.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let deadline = Instant::now() + PATIENCE;
    for octet in query[1..].iter().chain(std::iter::repeat(&0)) {
        assert!(Instant::now() < deadline, "a dripping client is never cut off");
        if client.write_all(&[*octet]).is_err() {
            break;
        }
        match client.read(&mut [0; 1]) {
            Ok(0) => break,
            Ok(_) => panic!("a query this slow is not answered"),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => {
                assert!(closed(error.kind()));
                break;
            }
        }
    }
    lab.wait_until("all timed out", |stats| stats.tcp_timed_out == 5 && stats.tcp_open == 0);
    let defaults = TcpLimits::default();
    let seconds = [defaults.first_query, defaults.frame, defaults.write, defaults.idle];
    assert_eq!(seconds.map(|limit| limit.as_secs()), [3, 2, 2, 10]);
    let counts = [defaults.connections, defaults.connections_per_client, defaults.in_progress];
    assert_eq!(counts, [1024, 16, 32]);
}

fn t09_silence(_: &Bench) {
    let most = Duration::from_millis(300);
    let lab = impatient(|limits| (limits.first_query, limits.idle) = (most, 2 * most));
    let begun = Instant::now();
    let mut client = tcp_client(lab.addr);
    expect_close(&mut client);
    assert!(begun.elapsed() >= most);
    // Behind an answer it is the idle timeout.
    let mut client = tcp_client(lab.addr);
    let begun = Instant::now();
    send_framed(&mut client, &plain(&below("sequence"), TXT));
    receive_framed(&mut client).unwrap();
    expect_close(&mut client);
    assert!(begun.elapsed() >= 2 * most);
    assert_eq!(lab.responder.stats().tcp_timed_out, 2);
}

/// A connection whose client can take only a few octets at a time.
pub fn narrow_client(lab: &Lab) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&lab.addr.into()).unwrap();
    socket.into()
}

fn t10_never_reads(_: &Bench) {
    let most = Duration::from_millis(300);
    let lab = impatient(|limits| (limits.write, limits.idle) = (most, Duration::from_secs(3600)));
    let mut client = narrow_client(&lab);
    client.set_nonblocking(true).unwrap();
    let begun = Instant::now();
    let queries = framed(&plain(&seq(FIRST + 2), TXT)).repeat(100);
    let mut sent = 0;
    while lab.responder.stats().tcp_timed_out == 0 {
        assert!(begun.elapsed() < PATIENCE, "{:?}", lab.responder.stats());
        match client.write(&queries[sent % queries.len()..]) {
            Ok(length) => sent += length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(error) => assert!(closed(error.kind()), "{error}"),
        }
    }
    assert!(begun.elapsed() >= most);
    // Not much more was made than the system's buffers, its own and ours, and 64 KiB hold.
    let made = lab.responder.stats().octets_out;
    assert!(made < 1 << 20, "{made} octets for a client that reads none");
    lab.tcp(&plain(&below("sequence"), TXT)).expect(QR | AA, [1, 1, 0, 0]);

    // However many do not read, what waits for them all is bounded; who reads is answered.
    let lab = impatient(|limits| limits.write = Duration::from_secs(3600));
    let mut clients: Vec<TcpStream> = (0..400).map(|_| narrow_client(&lab)).collect();
    for client in &mut clients {
        client.set_nonblocking(true).unwrap();
        let _taken = client.write(&framed(&plain(&seq(FIRST + 2), TXT)).repeat(500));
    }
    lab.wait_until("the bound is reached", |stats| stats.tcp_waiting >= 16 << 20);
    // By then each of the others had its turn.
    for _ in 0..20 {
        lab.tcp(&plain(&seq(FIRST + 2), TXT)).expect(QR | AA, [1, 9, 0, 0]);
    }
    let waiting = lab.responder.stats().tcp_waiting;
    assert!(waiting < (16 << 20) + 400 * 2_400, "{waiting} octets wait");
    drop(clients);
    lab.wait_until("nothing waits", |stats| stats.tcp_open == 0 && stats.tcp_waiting == 0);

    // A client that reads on, however much waits for it, is not cut off: there is always something
    // left over for it here, for much longer than the deadline.
    let mut client = narrow_client(&lab);
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut writer = client.try_clone().unwrap();
    let count = 1200;
    let before = resident();
    let large = plain(&seq(FIRST + 3), TXT);
    let queries = framed(&large).repeat(50);
    let writing = std::thread::spawn(move || {
        (0..count / 50).try_for_each(|_| writer.write_all(&queries)).map(drop)
    });
    let begun = Instant::now();
    for answered in 0..count {
        let answer = receive_framed(&mut client);
        let answer = answer.unwrap_or_else(|| panic!("cut off after {answered} answers"));
        assert_eq!(answer.len(), 26_000 + large.len());
        // Reading is spread over three deadlines at least.
        while begun.elapsed() < most * 3 * answered / count {
            std::thread::yield_now();
        }
    }
    writing.join().unwrap().unwrap();
    let grown = resident().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} octets for 31 million that went by");
}

fn t11_errors_leave_the_connection_open(bench: &Bench) {
    let mut client = tcp_client(bench.lab.addr);
    let bad = [
        message(9, RD, [2, 0, 0, 0], &[]),
        message(9, 15 << 11, [0; 4], &[]),
        plain(&[0xC0, 12], TXT),
        plain(&name("org"), TXT),
        edns(&below("sequence"), TXT, &opt(1232, 1 << 16, &[])),
        edns(&below("sequence"), TXT, &opt(1232, 0, &option(10, b"short"))),
    ];
    for query in bad {
        send_framed(&mut client, &query);
        let answer = receive_framed(&mut client).unwrap();
        assert_eq!(answer, bench.lab.udp(&query).octets, "the same as over UDP");
    }
    send_framed(&mut client, &plain(&below("sequence"), TXT));
    parse(&receive_framed(&mut client).unwrap()).expect(QR | AA, [1, 1, 0, 0]);
}

fn t12_too_many(_: &Bench) {
    let mut plan = Plan::new().with_sections(&SECTIONS);
    plan.settings.tcp.connections_per_client = 4;
    // Loopback is one client among others here.
    plan.settings.limits.exempt.clear();
    let lab = plan.start();
    let query = plain(&below("sequence"), TXT);
    let mut clients: Vec<TcpStream> = (0..4).map(|_| tcp_client(lab.addr)).collect();
    for client in &mut clients {
        send_framed(client, &query);
        receive_framed(client).unwrap();
    }
    // The oldest idle one makes room for a fifth.
    let mut fifth = tcp_client(lab.addr);
    send_framed(&mut fifth, &query);
    receive_framed(&mut fifth).unwrap();
    expect_close(&mut clients[0]);
    assert_eq!(lab.responder.stats().tcp_evicted, 1);
    // None is idle now, as each has begun to say something: the sixth is closed.
    for client in clients[1..].iter_mut().chain([&mut fifth]) {
        send_framed(client, &query);
        client.write_all(&[0]).unwrap();
        receive_framed(client).unwrap();
    }
    // The octet behind may be read a moment after the query that it follows.
    let refused = (0..100).any(|_| {
        let mut sixth = tcp_client(lab.addr);
        expect_close(&mut sixth);
        let stats = lab.responder.stats();
        stats.tcp_evicted == 1 && stats.tcp_refused >= 1
    });
    assert!(refused, "{:?}", lab.responder.stats());
    assert!(lab.responder.stats().tcp_open <= 4);

    // In all, whoever they are.
    let mut plan = Plan::new().with_sections(&SECTIONS);
    plan.settings.tcp.connections = 3;
    let lab = plan.start();
    let mut clients: Vec<TcpStream> = (0..3).map(|_| tcp_client(lab.addr)).collect();
    for client in &mut clients {
        // With the beginning of another question behind it, it is not idle.
        client.write_all(&[&framed(&query)[..], &[0]].concat()).unwrap();
        receive_framed(client).unwrap();
    }
    let mut fourth = tcp_client(lab.addr);
    expect_close(&mut fourth);
    let stats = lab.responder.stats();
    assert_eq!((stats.tcp_open, stats.tcp_refused, stats.tcp_evicted), (3, 1, 0));
    lab.udp(&query).expect(QR | AA, [1, 1, 0, 0]);
    drop(clients);
    lab.wait_until("all gone", |stats| stats.tcp_open == 0);
    lab.tcp(&query).expect(QR | AA, [1, 1, 0, 0]);
}

/// Octets of this process in memory.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

/// Descriptors and threads of this process, once they are the same for a while: the system still counts
/// a thread for a moment after it was joined.
fn held_by_the_process(lab: &Lab) -> [usize; 2] {
    let count = || {
        ["/proc/self/fd", "/proc/self/task"]
            .map(|path| std::fs::read_dir(path).map_or(0, Iterator::count))
    };
    let looks = Cell::new((count(), 0));
    lab.wait_until("descriptors and threads stand still", |_| {
        let (held, same) = looks.get();
        let now = count();
        looks.set((now, if now == held { same + 1 } else { 0 }));
        same >= 100
    });
    looks.get().0
}

fn t13_ten_thousand_resets(bench: &Bench) {
    let lab = &bench.lab;
    lab.wait_until("quiet", |stats| stats.tcp_open == 0);
    let before = held_by_the_process(lab);
    let query = framed(&plain(&seq(FIRST + 2), TXT));
    for round in 0..10_000 {
        let mut client = tcp_client(lab.addr);
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        // At any moment: at once, within a query, behind one, amid an answer, behind it.
        match round % 5 {
            0 => {}
            1 => client.write_all(&query[..round % query.len()]).unwrap(),
            2 => client.write_all(&query).unwrap(),
            3 => {
                client.write_all(&query.repeat(10)).unwrap();
                client.read_exact(&mut [0; 100]).unwrap();
            }
            _ => {
                client.write_all(&query).unwrap();
                receive_framed(&mut client).unwrap();
            }
        }
    }
    lab.wait_until("quiet", |stats| stats.tcp_open == 0);
    assert_eq!(held_by_the_process(lab), before, "descriptors and threads");
    lab.tcp(&plain(&below("sequence"), TXT)).expect(QR | AA, [1, 1, 0, 0]);
}

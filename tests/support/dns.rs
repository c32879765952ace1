//! DNS messages by hand, and a responder to send them to.
//!
//! Nothing here uses the program's own reader or writer of messages: queries are put together octet
//! by octet, and answers are taken apart by a walker that ends the test at the first octet out of
//! place.

#![allow(dead_code)] // every test binary uses a part of this
#![allow(clippy::unwrap_used)] // a test may end here

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aodns::pipeline::moment;
use aodns::publication::Publication;
use aodns::responder::{Responder, ResponderSettings};
use aodns::segment::Segment;
use aodns::units::{Moment, SampleRate, Sequence};
use aodns::window::Window;
use aodns::zone::{CookieSecrets, NameServer, Zone};

/// How long an answer that must come may take, however slow the machine.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Number of the first segment of every [`Lab`].
pub const FIRST: Sequence = 17_000_000_000;
/// Secret of the server's cookies in every [`Lab`].
pub const SECRET: [u8; 16] = *b"sixteen octets..";

pub const QR: u16 = 0x8000;
pub const AA: u16 = 0x0400;
pub const TC: u16 = 0x0200;
pub const RD: u16 = 0x0100;

pub const A: u16 = 1;
pub const NS: u16 = 2;
pub const SOA: u16 = 6;
pub const TXT: u16 = 16;
pub const AAAA: u16 = 28;
pub const OPT: u16 = 41;
pub const IN: u16 = 1;
pub const CH: u16 = 3;

/// A name on the wire from labels joined by dots; `.` alone is the root.
pub fn name(text: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in text.split('.').filter(|label| !label.is_empty()) {
        wire.push(label.len() as u8);
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
    wire
}

/// A name below the root of every [`Lab`].
pub fn below(label: &str) -> Vec<u8> {
    name(&format!("{label}.music.example.com"))
}

/// The name of a segment.
pub fn seq(number: Sequence) -> Vec<u8> {
    below(&format!("seq_{number}"))
}

/// A message of a header and whatever comes behind it.
pub fn message(id: u16, flags: u16, counts: [u16; 4], body: &[&[u8]]) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend_from_slice(&flags.to_be_bytes());
    counts.iter().for_each(|count| message.extend_from_slice(&count.to_be_bytes()));
    body.iter().for_each(|part| message.extend_from_slice(part));
    message
}

/// Name, type and class.
pub fn question(name: &[u8], qtype: u16, qclass: u16) -> Vec<u8> {
    [name, &qtype.to_be_bytes(), &qclass.to_be_bytes()].concat()
}

/// A query without EDNS.
pub fn plain(name: &[u8], qtype: u16) -> Vec<u8> {
    message(0x1234, 0, [1, 0, 0, 0], &[&question(name, qtype, IN)])
}

/// A query with one OPT record.
pub fn edns(name: &[u8], qtype: u16, opt: &[u8]) -> Vec<u8> {
    message(0x1234, 0, [1, 0, 0, 1], &[&question(name, qtype, IN), opt])
}

/// An OPT record: payload size, the word of extended rcode, version and flags, options.
pub fn opt(size: u16, word: u32, options: &[u8]) -> Vec<u8> {
    let length = options.len() as u16;
    let head = [&[0][..], &OPT.to_be_bytes(), &size.to_be_bytes(), &word.to_be_bytes()].concat();
    [&head[..], &length.to_be_bytes(), options].concat()
}

/// An EDNS option.
pub fn option(code: u16, value: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes()[..], &(value.len() as u16).to_be_bytes(), value].concat()
}

/// A record.
pub fn record(owner: &[u8], rtype: u16, ttl: u32, rdata: &[u8]) -> Vec<u8> {
    let head = [owner, &rtype.to_be_bytes(), &IN.to_be_bytes(), &ttl.to_be_bytes()].concat();
    [&head[..], &(rdata.len() as u16).to_be_bytes(), rdata].concat()
}

/// A record of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its owner, decompressed.
    pub owner: Vec<u8>,
    /// The owner's first octets as they stand in the message.
    pub owner_raw: [u8; 2],
    pub rtype: u16,
    pub class: u16,
    pub ttl: u32,
    pub rdata: Vec<u8>,
    /// Where its rdata begins.
    pub rdata_at: usize,
}

/// An answer taken apart.
#[derive(Clone, Debug)]
pub struct Parsed {
    pub id: u16,
    pub flags: u16,
    pub counts: [u16; 4],
    /// The question section, octet for octet.
    pub question: Vec<u8>,
    pub answer: Vec<Record>,
    pub authority: Vec<Record>,
    pub additional: Vec<Record>,
    pub octets: Vec<u8>,
}

/// Takes an answer apart; every octet must have its place.
pub fn parse(octets: &[u8]) -> Parsed {
    assert!(octets.len() >= 12, "an answer has a header");
    let word = |at: usize| u16::from_be_bytes([octets[at], octets[at + 1]]);
    let counts = [word(4), word(6), word(8), word(10)];
    assert!(counts[0] <= 1, "one question at most");
    let mut at = 12;
    if counts[0] == 1 {
        let (_, end) = read_name(octets, at);
        at = end + 4;
    }
    let question = octets[12..at].to_vec();
    let mut sections = counts[1..].iter().map(|&count| {
        let mut records = Vec::new();
        for _ in 0..count {
            let (owner, end) = read_name(octets, at);
            let length = usize::from(word(end + 8));
            let rdata = octets[end + 10..end + 10 + length].to_vec();
            let ttl = u32::from(word(end + 4)) << 16 | u32::from(word(end + 6));
            records.push(Record {
                owner,
                owner_raw: [octets[at], octets[at + 1]],
                rtype: word(end),
                class: word(end + 2),
                ttl,
                rdata,
                rdata_at: end + 10,
            });
            at = end + 10 + length;
        }
        records
    });
    let [answer, authority, additional] = std::array::from_fn(|_| sections.next().unwrap());
    drop(sections);
    assert_eq!(at, octets.len(), "nothing stands behind the last record");
    let octets = octets.to_vec();
    Parsed { id: word(0), flags: word(2), counts, question, answer, authority, additional, octets }
}

/// Reads a name, which may be compressed strictly backward.
pub fn read_name(octets: &[u8], at: usize) -> (Vec<u8>, usize) {
    let (mut name, mut position, mut end) = (Vec::new(), at, None);
    loop {
        let length = usize::from(octets[position]);
        match length {
            0 => {
                name.push(0);
                assert!(name.len() <= 255);
                return (name, end.unwrap_or(position + 1));
            }
            1..=63 => {
                name.extend_from_slice(&octets[position..position + 1 + length]);
                position += 1 + length;
            }
            _ => {
                assert!(length >= 0xC0, "label type at {position}");
                let target = (length & 0x3F) << 8 | usize::from(octets[position + 1]);
                assert!(target < position, "pointers go backward");
                end.get_or_insert(position + 2);
                position = target;
            }
        }
    }
}

impl Parsed {
    /// Flags and counts, word for word.
    pub fn expect(&self, flags: u16, counts: [u16; 4]) -> &Parsed {
        assert_eq!(
            (format!("{:04x}", self.flags), self.counts),
            (format!("{flags:04x}"), counts),
            "flags and counts of {:02x?}",
            self.octets
        );
        self
    }

    /// The OPT record, if there is one.
    pub fn opt(&self) -> Option<&Record> {
        self.additional.iter().find(|record| record.rtype == OPT)
    }

    /// The response code with the upper bits of EDNS.
    pub fn rcode(&self) -> u16 {
        self.flags & 15 | self.opt().map_or(0, |opt| (opt.ttl >> 24 << 4) as u16)
    }

    /// The options of the OPT record.
    pub fn options(&self) -> Vec<(u16, Vec<u8>)> {
        let mut rest = self.opt().map_or(&[][..], |opt| &opt.rdata);
        let mut options = Vec::new();
        while !rest.is_empty() {
            let word = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
            let length = usize::from(word(2));
            options.push((word(0), rest[4..4 + length].to_vec()));
            rest = &rest[4 + length..];
        }
        options
    }

    /// The value of the only option, which has this code.
    pub fn only_option(&self, code: u16) -> Vec<u8> {
        let mut options = self.options();
        assert_eq!(options.len(), 1, "one option in {options:?}");
        assert_eq!(options[0].0, code);
        options.remove(0).1
    }

    /// Checks for the SOA of a negative answer with this TTL (SOA-neg of the matrix).
    pub fn soa(&self, ttl: u32) -> &Parsed {
        assert_eq!(self.authority.len(), 1);
        let soa = &self.authority[0];
        assert_eq!((soa.rtype, soa.class, soa.ttl), (SOA, IN, ttl));
        self.check_soa(soa);
        self
    }

    /// Checks owner and rdata of an SOA.
    pub fn check_soa(&self, soa: &Record) {
        assert!(soa.owner.eq_ignore_ascii_case(&name("music.example.com")));
        assert!(soa.owner_raw[0] >= 0xC0, "the owner is a pointer into the question");
        let (mname, end) = read_name(&self.octets, soa.rdata_at);
        let (rname, end) = read_name(&self.octets, end);
        assert!(mname.eq_ignore_ascii_case(&below("ns")));
        assert!(rname.eq_ignore_ascii_case(&below("hostmaster")));
        let timers = &self.octets[end + 4..end + 20];
        let expected = [5u32, 2, 3600, 1].map(u32::to_be_bytes).concat();
        assert_eq!(timers, expected);
        assert_eq!(end + 20, soa.rdata_at + soa.rdata.len());
    }
}

/// A responder with a zone of the test's own.
pub struct Lab {
    pub responder: Responder,
    pub publication: Arc<Publication>,
    pub addr: SocketAddr,
    window: Mutex<Window>,
}

/// What a [`Lab`] begins with.
pub struct Plan {
    pub settings: ResponderSettings,
    pub zone: Zone,
    /// How long a segment lasts at most: the next one is due that much after the last.
    pub longest: Duration,
    /// Strings of the segments published at the start.
    pub segments: Vec<Vec<Vec<u8>>>,
}

impl Plan {
    /// One address on loopback, two threads for datagrams, no segments, and none due for an hour.
    pub fn new() -> Plan {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut settings = ResponderSettings::new(vec![loopback]);
        settings.udp_threads = 2;
        Plan { settings, zone: zone(), longest: Duration::from_secs(3600), segments: Vec::new() }
    }

    /// With one segment for each of `octets`, whose answer section has so many octets.
    pub fn with_sections(mut self, octets: &[usize]) -> Plan {
        self.segments = octets.iter().map(|&octets| strings(octets)).collect();
        self
    }

    /// Starts the responder.
    pub fn start(self) -> Lab {
        let now = moment();
        let mut window = Window::new(75, SampleRate::HZ_16000, self.longest, FIRST, now);
        for strings in self.segments {
            window.publish(&Segment { strings }, 11_520, now);
        }
        let publication = Arc::new(Publication::new(window.snapshot()));
        let answering = Arc::clone(&publication);
        let responder = Responder::start(self.settings, Arc::new(self.zone), answering).unwrap();
        let addr = responder.local_addrs()[0];
        Lab { responder, publication, addr, window: Mutex::new(window) }
    }
}

/// `music.example.com` with a name server inside, one far inside, and one outside.
pub fn zone() -> Zone {
    let server = |name: &str, addresses: &[&str]| NameServer {
        name: name.parse().unwrap(),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
    };
    let config = b"v=1;id=00000007;codec=opus;rate=16000;channels=1";
    let owner = [0xC0, 12];
    let rdata = [&[config.len() as u8][..], config].concat();
    Zone {
        root: "music.example.com".parse().unwrap(),
        name_servers: vec![
            server("ns.music.example.com", &["192.0.2.1", "2001:db8::1"]),
            server("a.deep.music.example.com", &["192.0.2.2"]),
            server("ns.example.net", &[]),
        ],
        id: 7,
        config: record(&owner, TXT, 60, &rdata).into(),
        cookies: Some(CookieSecrets { current: SECRET, previous: None }),
        server_id: None,
        version: None,
        keepalive: Duration::from_secs(10),
    }
}

/// Strings whose TXT records measure `octets` together, each with an index in front.
pub fn strings(octets: usize) -> Vec<Vec<u8>> {
    // Owner, type, class, TTL, length, length of the string.
    const HEAD: usize = 13;
    let count = octets.div_ceil(HEAD + 250);
    let mut left = octets;
    let strings = (0..count).map(|index| {
        let length = (left / (count - index)) - HEAD;
        left -= HEAD + length;
        let mut string = format!("{index:03}'''").into_bytes();
        string.resize(length, b'A' + (index % 26) as u8);
        string
    });
    strings.collect()
}

impl Lab {
    /// Publishes another segment.
    pub fn publish(&self, strings: Vec<Vec<u8>>, now: Moment) -> Sequence {
        let mut window = self.window.lock().unwrap();
        let number = window.publish(&Segment { strings }, 11_520, now);
        self.publication.publish(window.snapshot());
        number
    }

    /// Asks over UDP from a socket of its own.
    pub fn udp(&self, query: &[u8]) -> Parsed {
        let client = udp_client(self.addr);
        client.send(query).unwrap();
        parse(&receive(&client))
    }

    /// Asks over TCP on a connection of its own.
    pub fn tcp(&self, query: &[u8]) -> Parsed {
        let mut client = tcp_client(self.addr);
        send_framed(&mut client, query);
        parse(&receive_framed(&mut client).expect("an answer"))
    }

    /// Asks over both, and passes the answers on.
    pub fn both(&self, query: &[u8], check: impl Fn(&Parsed)) {
        check(&self.udp(query));
        check(&self.tcp(query));
    }

    /// Asserts that `query` is not answered: what comes back from the same socket is the answer to
    /// the next query, and nothing else.
    pub fn dropped(&self, query: &[u8]) {
        let client = udp_client(self.addr);
        client.send(query).unwrap();
        client
            .send(&message(0x7777, 0, [1, 0, 0, 0], &[&question(&below("config"), TXT, IN)]))
            .unwrap();
        assert_eq!(parse(&receive(&client)).id, 0x7777, "no answer to {query:02x?}");
    }

    /// Waits until `ready` says so of the counters.
    pub fn wait_until(
        &self,
        what: &str,
        ready: impl Fn(&aodns::responder::ResponderStats) -> bool,
    ) {
        let deadline = Instant::now() + PATIENCE;
        while !ready(&self.responder.stats()) {
            assert!(Instant::now() < deadline, "{what}: {:?}", self.responder.stats());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A socket that talks to `server` alone.
pub fn udp_client(server: SocketAddr) -> UdpSocket {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let client = UdpSocket::bind((any, 0)).unwrap();
    client.connect(server).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

/// The next datagram.
pub fn receive(client: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 65_535];
    let length = client.recv(&mut buffer).expect("an answer");
    buffer[..length].to_vec()
}

/// A connection to `server`.
pub fn tcp_client(server: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(server).unwrap();
    client.set_nodelay(true).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.set_write_timeout(Some(PATIENCE)).unwrap();
    client
}

/// A message behind its length.
pub fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes()[..], message].concat()
}

/// Sends a message behind its length.
pub fn send_framed(client: &mut TcpStream, message: &[u8]) {
    client.write_all(&framed(message)).unwrap();
}

/// The next message, or `None` when the server has closed the connection.
pub fn receive_framed(client: &mut TcpStream) -> Option<Vec<u8>> {
    let mut prefix = [0; 2];
    match client.read_exact(&mut prefix) {
        Ok(()) => {}
        Err(error) if closed(error.kind()) => return None,
        Err(error) => panic!("no answer: {error}"),
    }
    let mut message = vec![0; usize::from(u16::from_be_bytes(prefix))];
    client.read_exact(&mut message).unwrap();
    Some(message)
}

/// Whether an error of reading says that the other side has closed.
pub fn closed(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

/// A server cookie for `client`, made as RFC 9018 says, at `time` in seconds.
pub fn server_cookie(client: &[u8; 8], time: u32, address: Ipv4Addr) -> Vec<u8> {
    use std::hash::Hasher;
    let head = [&[1, 0, 0, 0][..], &time.to_be_bytes()].concat();
    let mut hasher = siphasher::sip::SipHasher24::new_with_key(&SECRET);
    hasher.write(&[&client[..], &head, &address.octets()].concat());
    [&client[..], &head, &hasher.finish().to_le_bytes()].concat()
}

/// Seconds since 1970.
pub fn unix_seconds() -> u32 {
    (moment().unix_ms / 1000) as u32
}

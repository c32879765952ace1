//! The zone: what is answered to a query. `respond` is the whole server but for its sockets.
//!
//! One [`Zone`] holds what does not change during a run (root, name servers, `config`, cookie
//! secrets), a [`Snapshot`] what does. [`Zone::respond`] reads one message and writes one response,
//! or says that the query is to be held until a segment is published; UDP, TCP, tests and fuzzing
//! all call it. It copies prebuilt records, allocates nothing once its buffer has grown, takes no
//! lock and asks no clock.
//!
//! Sources: RFC 1035, 2181, 2308 (negative answers), 4343 (case), 4592 (empty non-terminals), 6891
//! (EDNS), 7873 and 9018 (cookies), 8482 (ANY), 8906, 9619.

mod cookie;

use crate::segment::{NowRecord, parse_number};
use crate::units::{Moment, Sequence};
use crate::window::Snapshot;
use crate::wire::{
    self, CLASS_CH, CLASS_IN, Edns, FLAG_AA, FLAG_QR, FLAG_RD, FLAG_TC, FLAGS_OPCODE, Name, Query,
    Question, Rcode, Reading, Rtype,
};
use cookie::{CLIENT_COOKIE_OCTETS, SERVER_COOKIE_OCTETS, Validity};
pub use cookie::{CookieSecrets, SecretsError};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// TTL of the apex SOA and of every negative answer, in seconds.
const SOA_TTL: u32 = 1;
/// TTL of NS records and of the name servers' addresses, in seconds.
const NS_TTL: u32 = 3600;
/// TTL of `config`, in seconds (protocol 2.1).
pub const CONFIG_TTL: u32 = 60;
/// SOA refresh, retry, expire and minimum, in seconds.
const SOA_TIMERS: [u32; 4] = [5, 2, 3600, 1];
/// A question for a segment that is due within this time is held. BIND retransmits after 800 ms.
pub const HOLD_AHEAD: Duration = Duration::from_millis(700);
/// How long after the due time a held question is given up.
pub const HOLD_LATE: Duration = Duration::from_millis(300);
/// Names due within this time are denied with a TTL of 0.
const SOON: Duration = Duration::from_secs(2);
/// Longest nonce of `now_<nonce>`.
const NONCE_CHARS_MAX: usize = 16;

/// A name server of the zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameServer {
    /// Its name.
    pub name: Name,
    /// Its addresses; needed when the name is inside the zone.
    pub addresses: Vec<IpAddr>,
}

/// What does not change during a run of the server.
pub struct Zone {
    /// The stream's domain.
    pub root: Name,
    /// The servers of the zone, at least one; the first is the SOA's MNAME.
    pub name_servers: Vec<NameServer>,
    /// Drawn anew for each run; the `id` of `config` and `now`.
    pub id: u32,
    /// The record of `config`, owner as a pointer to the question.
    pub config: Box<[u8]>,
    /// Secrets for cookies; `None` switches cookies off.
    pub cookies: Option<CookieSecrets>,
    /// Answer to NSID and to `id.server`, if any (RFC 5001).
    pub server_id: Option<String>,
    /// Answer to `version.bind` and `version.server`, if any.
    pub version: Option<String>,
    /// Idle timeout told to TCP clients that ask (RFC 7828).
    pub keepalive: Duration,
}

/// How a query came, which bounds what may go back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A datagram; an answer larger than `payload_max` octets, or than the client can take, is
    /// truncated.
    Udp {
        /// Largest payload sent, in octets: 1232 but for trusted clients.
        payload_max: usize,
    },
    /// A message with a length prefix; any answer fits.
    Tcp,
}

/// A query with what is known about it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The message, without the length prefix of TCP.
    pub message: &'a [u8],
    /// How it came.
    pub transport: Transport,
    /// Where it came from.
    pub client: IpAddr,
    /// The present.
    pub now: Moment,
    /// Whether a question for the next segment may be held.
    pub may_hold: bool,
    /// Whether the client's prefix has spent its budget: nothing larger than the query goes out
    /// then, unless the client is verified.
    pub limited: bool,
}

/// What is to be done about a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Nothing: not even a header may be answered.
    Drop,
    /// The response is in the buffer.
    Reply(Reply),
    /// The question is for a segment that is about to be published: answer then, or when `until`
    /// has passed.
    Hold {
        /// The segment.
        sequence: Sequence,
        /// When to give up.
        until: Instant,
    },
}

/// What was replied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// What kind of response it is.
    pub outcome: Outcome,
    /// Whether the client has shown that the address is its own (TCP, or a valid cookie).
    pub verified: bool,
}

/// Kinds of responses, as they are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The sequence list.
    List,
    /// A segment.
    Segment,
    /// `config`.
    Config,
    /// `now_<nonce>`.
    Now,
    /// SOA, NS, addresses of name servers, and what the server says about itself.
    Apex,
    /// NOERROR without the type that was asked for.
    NoData,
    /// The name does not exist.
    NxDomain,
    /// Not ours to answer.
    Refused,
    /// The query could not be read.
    FormErr,
    /// An opcode or transfer that is not implemented.
    NotImp,
    /// EDNS of a version that is not known.
    BadVers,
    /// Signed with a key that is not known.
    NotAuth,
    /// To be asked again with the cookie that goes along.
    BadCookie,
    /// To be asked again over TCP.
    Truncated,
}

impl Outcome {
    /// Every kind, in the order of declaration.
    pub const ALL: [Outcome; 14] = [
        Outcome::List,
        Outcome::Segment,
        Outcome::Config,
        Outcome::Now,
        Outcome::Apex,
        Outcome::NoData,
        Outcome::NxDomain,
        Outcome::Refused,
        Outcome::FormErr,
        Outcome::NotImp,
        Outcome::BadVers,
        Outcome::NotAuth,
        Outcome::BadCookie,
        Outcome::Truncated,
    ];

    /// Whether nothing but an error was answered, as is counted against those who provoke it.
    pub fn is_error(self) -> bool {
        matches!(
            self,
            Outcome::Refused
                | Outcome::FormErr
                | Outcome::NotImp
                | Outcome::BadVers
                | Outcome::NotAuth
        )
    }

    /// The kind's name in reports and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::List => "list",
            Outcome::Segment => "segment",
            Outcome::Config => "config",
            Outcome::Now => "now",
            Outcome::Apex => "apex",
            Outcome::NoData => "nodata",
            Outcome::NxDomain => "nxdomain",
            Outcome::Refused => "refused",
            Outcome::FormErr => "formerr",
            Outcome::NotImp => "notimp",
            Outcome::BadVers => "badvers",
            Outcome::NotAuth => "notauth",
            Outcome::BadCookie => "badcookie",
            Outcome::Truncated => "truncated",
        }
    }
}

/// What a name below the root stands for.
#[derive(Clone, Copy)]
enum Node<'a> {
    Apex,
    List,
    Config,
    Now,
    Segment(Sequence),
    NameServer(&'a NameServer),
    /// Only names below it have data (RFC 4592 §2.2.2).
    Empty,
    Missing,
}

impl Zone {
    /// Reads `request` and writes the response to `out`, whose content is replaced.
    pub fn respond(
        &self,
        snapshot: &Snapshot,
        request: &Request<'_>,
        out: &mut Vec<u8>,
    ) -> Disposition {
        out.clear();
        let message = request.message;
        let tcp = request.transport == Transport::Tcp;
        match Query::read(message) {
            Reading::Drop => Disposition::Drop,
            Reading::Header(rcode) => {
                let flags = u16::from_be_bytes([message[2], message[3]]);
                // RD is kept where the opcode is QUERY; of other opcodes nothing is known.
                let kept = if rcode == Rcode::NOTIMP { FLAGS_OPCODE } else { FLAG_RD };
                out.extend_from_slice(&message[..2]);
                out.extend_from_slice(&(FLAG_QR | flags & kept | rcode.0).to_be_bytes());
                out.extend_from_slice(&[0; 8]);
                let not_read = rcode != Rcode::NOTIMP;
                let outcome = if not_read { Outcome::FormErr } else { Outcome::NotImp };
                Disposition::Reply(Reply { outcome, verified: tcp })
            }
            Reading::FormErr(question) => {
                out.extend_from_slice(&message[..2]);
                let rd = u16::from_be_bytes([message[2], message[3]]) & FLAG_RD;
                out.extend_from_slice(&(FLAG_QR | rd | Rcode::FORMERR.0).to_be_bytes());
                out.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
                out.extend_from_slice(question.octets);
                Disposition::Reply(Reply { outcome: Outcome::FormErr, verified: tcp })
            }
            Reading::Query(query) => {
                let mut answer = Response::begin(self, request, query, out);
                match answer.fill(snapshot) {
                    Filled::Done(outcome) => {
                        let verified = answer.verified;
                        let outcome = answer.finish(outcome);
                        Disposition::Reply(Reply { outcome, verified })
                    }
                    Filled::Hold { sequence, until } => {
                        out.clear();
                        Disposition::Hold { sequence, until }
                    }
                }
            }
        }
    }

    /// Whether `name` is one of the stream's own below `root`, so that no host can have it.
    pub fn is_stream_name(root: &Name, name: &Name) -> bool {
        let Some(above) = name.octets_above(root).filter(|&above| above > 0) else { return false };
        let wire = name.wire();
        let label = &wire[1..1 + usize::from(wire[0])];
        1 + label.len() == above && stream_node(label).is_some()
    }

    /// What the question's name, with `above` octets of labels above the root, stands for.
    fn node(&self, name: &[u8], above: usize) -> Node<'_> {
        if above == 0 {
            return Node::Apex;
        }
        if 1 + usize::from(name[0]) == above {
            if let Some(node) = stream_node(&name[1..above]) {
                return node;
            }
        }
        if let Some(server) = self.name_servers.iter().find(|server| server.name.is(name)) {
            return Node::NameServer(server);
        }
        let leads_to = |server: &NameServer| {
            let wire = server.name.wire();
            let mut position = 0;
            while position + name.len() < wire.len() {
                position += 1 + usize::from(wire[position]);
            }
            wire[position..].eq_ignore_ascii_case(name)
        };
        if self.name_servers.iter().any(leads_to) { Node::Empty } else { Node::Missing }
    }
}

/// What a label just below the root stands for, if the stream has it for itself.
fn stream_node(label: &[u8]) -> Option<Node<'static>> {
    if label.eq_ignore_ascii_case(b"sequence") {
        return Some(Node::List);
    }
    if label.eq_ignore_ascii_case(b"config") {
        return Some(Node::Config);
    }
    if let Some(number) = strip_prefix_ignore_case(label, b"seq_").and_then(parse_number) {
        return Some(Node::Segment(number));
    }
    let nonce = strip_prefix_ignore_case(label, b"now_")?;
    let fine =
        (1..=NONCE_CHARS_MAX).contains(&nonce.len()) && nonce.iter().all(u8::is_ascii_alphanumeric);
    Some(if fine { Node::Now } else { Node::Missing })
}

fn strip_prefix_ignore_case<'a>(label: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let (head, tail) = label.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(tail)
}

/// What the sections were filled with.
enum Filled {
    Done(Outcome),
    Hold { sequence: Sequence, until: Instant },
}

/// A response being written: header and question are there, the counts are patched at the end.
struct Response<'a, 'b> {
    zone: &'a Zone,
    request: &'a Request<'a>,
    query: Query<'a>,
    out: &'b mut Vec<u8>,
    rcode: Rcode,
    authoritative: bool,
    /// Records in answer, authority and additional sections.
    counts: [u16; 3],
    verified: bool,
    /// Cookie to give back, made or kept.
    cookie: Option<[u8; CLIENT_COOKIE_OCTETS + SERVER_COOKIE_OCTETS]>,
    /// Whether OPT carries options; a response to another EDNS version has none.
    options: bool,
    /// Whether nothing is carried but what must be.
    brief: bool,
}

impl<'a, 'b> Response<'a, 'b> {
    fn begin(
        zone: &'a Zone,
        request: &'a Request<'a>,
        query: Query<'a>,
        out: &'b mut Vec<u8>,
    ) -> Response<'a, 'b> {
        out.extend_from_slice(&query.id.to_be_bytes());
        out.extend_from_slice(&[0; wire::HEADER_OCTETS - 2]);
        out.extend_from_slice(query.question.map_or(&[][..], |question| question.octets));
        Response {
            zone,
            request,
            query,
            out,
            rcode: Rcode::NOERROR,
            authoritative: false,
            counts: [0; 3],
            verified: request.transport == Transport::Tcp,
            cookie: None,
            options: true,
            brief: false,
        }
    }

    /// Decides, row by row, what the query gets.
    fn fill(&mut self, snapshot: &Snapshot) -> Filled {
        let edns = self.query.edns.unwrap_or_default();
        if edns.version != 0 {
            self.options = false;
            return self.fail(Rcode::BADVERS, Outcome::BadVers);
        }
        if !self.take_cookie(&edns) {
            return self.fail(Rcode::FORMERR, Outcome::FormErr);
        }
        if self.query.signed {
            return self.fail(Rcode::NOTAUTH, Outcome::NotAuth);
        }
        let Some(question) = self.query.question else {
            // Asked for nothing but a cookie.
            return match self.cookie {
                Some(_) => Filled::Done(Outcome::Apex),
                None => self.fail(Rcode::FORMERR, Outcome::FormErr),
            };
        };
        if question.qclass == CLASS_CH {
            return self.fill_chaos(&question);
        }
        let above = match question.octets_above(&self.zone.root) {
            Some(above) if question.qclass == CLASS_IN => above,
            _ => return self.fail(Rcode::REFUSED, Outcome::Refused),
        };
        match (question.qtype, self.request.transport) {
            (Rtype::AXFR, Transport::Udp { .. }) => {
                return self.fail(Rcode::NOTIMP, Outcome::NotImp);
            }
            (Rtype::AXFR | Rtype::IXFR, _) => return self.fail(Rcode::REFUSED, Outcome::Refused),
            _ => {}
        }
        self.authoritative = true;
        self.fill_from_zone(snapshot, &question, above)
    }

    /// The answer to a question for a name at or below the root.
    fn fill_from_zone(
        &mut self,
        snapshot: &Snapshot,
        question: &Question<'_>,
        above: usize,
    ) -> Filled {
        let text = matches!(question.qtype, Rtype::TXT | Rtype::ANY);
        let apex = wire::HEADER_OCTETS + above;
        let now = self.request.now;
        match self.zone.node(question.name(), above) {
            Node::Apex => self.fill_apex(snapshot, question, apex),
            Node::List => match snapshot.list() {
                Some(list) if text => self.copy(list, 1, Outcome::List),
                _ => {
                    let soon = soon(snapshot, snapshot.next(), now.instant) && text;
                    self.deny(snapshot, apex, if soon { 0 } else { SOA_TTL }, Outcome::NoData)
                }
            },
            Node::Config if text => self.copy(&self.zone.config, 1, Outcome::Config),
            Node::Now if text => self.fill_now(snapshot),
            Node::Segment(sequence) => self.fill_segment(snapshot, question, apex, sequence),
            Node::NameServer(server)
                if matches!(question.qtype, Rtype::A | Rtype::AAAA | Rtype::ANY) =>
            {
                self.fill_addresses(snapshot, question, apex, server)
            }
            Node::Config | Node::Now | Node::NameServer(_) | Node::Empty => {
                self.deny(snapshot, apex, SOA_TTL, Outcome::NoData)
            }
            Node::Missing => {
                self.rcode = Rcode::NXDOMAIN;
                self.deny(snapshot, apex, SOA_TTL, Outcome::NxDomain)
            }
        }
    }

    fn fill_apex(&mut self, snapshot: &Snapshot, question: &Question<'_>, apex: usize) -> Filled {
        match question.qtype {
            Rtype::SOA | Rtype::ANY => {
                self.push_soa(snapshot, apex, SOA_TTL);
                self.counts[0] = 1;
            }
            Rtype::NS => {
                let servers = &self.zone.name_servers;
                for server in servers {
                    let at = self.begin_record(&pointer(apex), Rtype::NS, NS_TTL);
                    self.push_name(&server.name, apex);
                    self.end_record(at);
                    self.counts[0] += 1;
                }
                for server in servers {
                    if server.name.octets_above(&self.zone.root).is_some() {
                        for address in &server.addresses {
                            let before = self.out.len();
                            self.push_address(&server.name, apex, address);
                            if !self.fits(0) {
                                // Nobody asked for it: it is no reason to truncate (RFC 2181 §9).
                                self.out.truncate(before);
                                break;
                            }
                            self.counts[2] += 1;
                        }
                    }
                }
            }
            Rtype::A | Rtype::AAAA => {
                // The root may be the name of its own server.
                let root = &self.zone.root;
                match self.zone.name_servers.iter().find(|server| server.name == *root) {
                    Some(server) => {
                        return self.fill_addresses(snapshot, question, apex, server);
                    }
                    None => return self.deny(snapshot, apex, SOA_TTL, Outcome::NoData),
                }
            }
            _ => return self.deny(snapshot, apex, SOA_TTL, Outcome::NoData),
        }
        Filled::Done(Outcome::Apex)
    }

    fn fill_addresses(
        &mut self,
        snapshot: &Snapshot,
        question: &Question<'_>,
        apex: usize,
        server: &NameServer,
    ) -> Filled {
        // ANY gets one RRset (RFC 8482 §4.1): the first family there is.
        let has_v4 = server.addresses.iter().any(IpAddr::is_ipv4);
        let wants_v4 = match question.qtype {
            Rtype::ANY => has_v4,
            qtype => qtype == Rtype::A,
        };
        for address in server.addresses.iter().filter(|address| address.is_ipv4() == wants_v4) {
            self.push_address(&server.name, apex, address);
            self.counts[0] += 1;
        }
        match self.counts[0] {
            0 => self.deny(snapshot, apex, SOA_TTL, Outcome::NoData),
            _ => Filled::Done(Outcome::Apex),
        }
    }

    fn fill_now(&mut self, snapshot: &Snapshot) -> Filled {
        let now = self.request.now;
        let record = NowRecord {
            id: self.zone.id,
            first: snapshot.first(),
            next: snapshot.next(),
            age: snapshot.newest_published().map(|at| now.instant.saturating_duration_since(at)),
            clock_ms: now.unix_ms,
            ended: snapshot.ended(),
        };
        let at = self.begin_record(&wire::QUESTION_POINTER, Rtype::TXT, 0);
        self.out.push(0);
        let string = self.out.len();
        record.write(self.out);
        self.out[string - 1] = (self.out.len() - string) as u8;
        self.end_record(at);
        self.counts[0] = 1;
        Filled::Done(Outcome::Now)
    }

    fn fill_segment(
        &mut self,
        snapshot: &Snapshot,
        question: &Question<'_>,
        apex: usize,
        sequence: Sequence,
    ) -> Filled {
        let now = self.request.now.instant;
        let text = matches!(question.qtype, Rtype::TXT | Rtype::ANY);
        if let Some(segment) = snapshot.segment(sequence) {
            return match text {
                true => self.copy(&segment.records, segment.record_count, Outcome::Segment),
                false => self.deny(snapshot, apex, SOA_TTL, Outcome::NoData),
            };
        }
        let due = snapshot.due(sequence);
        let until = due.map(|due| due + HOLD_LATE);
        if let (Some(due), Some(until)) = (due, until) {
            let near = due.saturating_duration_since(now) <= HOLD_AHEAD && now < until;
            if near && self.request.may_hold && question.qtype == Rtype::TXT {
                // What is coming is about as large as what came last.
                let likely = snapshot.newest().map_or(0, |newest| newest.records.len());
                if self.fits(likely) {
                    return Filled::Hold { sequence, until };
                }
                return Filled::Done(Outcome::Truncated);
            }
        }
        let ttl = if soon(snapshot, sequence, now) { 0 } else { SOA_TTL };
        self.deny(snapshot, apex, ttl, Outcome::NoData)
    }

    /// Questions about the server itself (RFC 4892); refused unless it was told what to say.
    fn fill_chaos(&mut self, question: &Question<'_>) -> Filled {
        let name = question.name();
        let is = |text: &[u8]| name.eq_ignore_ascii_case(text);
        let value = if is(b"\x07version\x04bind\0") || is(b"\x07version\x06server\0") {
            self.zone.version.as_deref()
        } else if is(b"\x02id\x06server\0") || is(b"\x08hostname\x04bind\0") {
            self.zone.server_id.as_deref()
        } else {
            None
        };
        match value {
            Some(value) if matches!(question.qtype, Rtype::TXT | Rtype::ANY) => {
                let string = &value.as_bytes()[..value.len().min(wire::STRING_OCTETS_MAX)];
                let at = self.begin_record(&wire::QUESTION_POINTER, Rtype::TXT, 0);
                self.out[at - 8..at - 6].copy_from_slice(&CLASS_CH.to_be_bytes());
                self.out.push(string.len() as u8);
                self.out.extend_from_slice(string);
                self.end_record(at);
                self.counts[0] = 1;
                Filled::Done(Outcome::Apex)
            }
            _ => self.fail(Rcode::REFUSED, Outcome::Refused),
        }
    }

    /// Looks at the client's cookie; `false` when it has a length that no cookie has.
    fn take_cookie(&mut self, edns: &Edns<'_>) -> bool {
        let (Some(secrets), Some(cookie)) = (&self.zone.cookies, edns.cookie) else {
            return true;
        };
        let Some((client, server)) = cookie.split_first_chunk::<CLIENT_COOKIE_OCTETS>() else {
            return false;
        };
        if !matches!(server.len(), 0 | 8..=32) {
            return false;
        }
        let now = (self.request.now.unix_ms / 1000) as u32;
        let address = self.request.client;
        let mut kept = [0; CLIENT_COOKIE_OCTETS + SERVER_COOKIE_OCTETS];
        match secrets.check(client, server, address, now) {
            Some(Validity::Fresh) => kept.copy_from_slice(cookie),
            validity => {
                kept[..CLIENT_COOKIE_OCTETS].copy_from_slice(client);
                let made = CookieSecrets::make(&secrets.current, client, now, address);
                kept[CLIENT_COOKIE_OCTETS..].copy_from_slice(&made);
                self.cookie = Some(kept);
                self.verified |= validity.is_some();
                return true;
            }
        }
        self.cookie = Some(kept);
        self.verified = true;
        true
    }

    /// An error without records.
    fn fail(&mut self, rcode: Rcode, outcome: Outcome) -> Filled {
        self.rcode = rcode;
        self.authoritative = false;
        Filled::Done(outcome)
    }

    /// A negative answer: the SOA in the authority section says how long it holds.
    fn deny(&mut self, snapshot: &Snapshot, apex: usize, ttl: u32, outcome: Outcome) -> Filled {
        self.push_soa(snapshot, apex, ttl);
        self.counts[1] = 1;
        Filled::Done(outcome)
    }

    /// Prebuilt records, or a truncated response when they do not fit.
    fn copy(&mut self, records: &[u8], count: u16, outcome: Outcome) -> Filled {
        if !self.fits(records.len()) {
            return Filled::Done(Outcome::Truncated);
        }
        self.out.extend_from_slice(records);
        self.counts[0] = count;
        Filled::Done(outcome)
    }

    /// Whether `octets` more fit the response, with OPT counted.
    fn fits(&self, octets: usize) -> bool {
        self.out.len() + octets + self.opt_octets() <= self.limit()
    }

    /// Largest response, in octets (RFC 1035 §4.2.1, RFC 6891 §6.2.3).
    fn limit(&self) -> usize {
        match (self.request.transport, self.query.edns) {
            (Transport::Tcp, _) => wire::MESSAGE_OCTETS_MAX,
            (Transport::Udp { .. }, None) => wire::UDP_PAYLOAD_PLAIN,
            (Transport::Udp { payload_max }, Some(edns)) => {
                usize::from(edns.payload).clamp(wire::UDP_PAYLOAD_PLAIN, payload_max)
            }
        }
    }

    /// Writes OPT, the counts and the flags; returns the outcome as it went out.
    fn finish(mut self, outcome: Outcome) -> Outcome {
        let mut outcome = outcome;
        let head = wire::HEADER_OCTETS + self.query.question.map_or(0, |q| q.octets.len());
        let whole = self.out.len() + self.opt_octets();
        let too_long = whole > self.limit();
        let unpaid = self.request.limited && !self.verified && whole > self.request.message.len();
        let mut flags = FLAG_QR | self.query.flags & FLAG_RD;
        if outcome == Outcome::Truncated || too_long || unpaid {
            self.out.truncate(head);
            self.counts = [0; 3];
            // An identifier of any length has no place where every octet counts (row S06).
            self.brief = true;
            if unpaid && self.cookie.is_some() {
                self.rcode = Rcode::BADCOOKIE;
                self.authoritative = false;
                outcome = Outcome::BadCookie;
            } else {
                flags |= FLAG_TC;
                outcome = Outcome::Truncated;
            }
        }
        if self.query.edns.is_some() {
            self.push_opt();
            self.counts[2] += 1;
        }
        if self.authoritative {
            flags |= FLAG_AA;
        }
        flags |= self.rcode.0 & 0x000F;
        let [answers, authorities, additionals] = self.counts;
        let questions = u16::from(self.query.question.is_some());
        let words = [flags, questions, answers, authorities, additionals];
        for (index, word) in words.into_iter().enumerate() {
            self.out[2 + 2 * index..4 + 2 * index].copy_from_slice(&word.to_be_bytes());
        }
        debug_assert!(self.out.len() <= self.limit());
        outcome
    }

    /// Octets that [`Response::push_opt`] writes.
    fn opt_octets(&self) -> usize {
        if self.query.edns.is_none() {
            return 0;
        }
        let cookie = self.cookie.map_or(0, |cookie| 4 + cookie.len());
        let nsid = self.nsid().map_or(0, |id| 4 + id.len());
        11 + cookie + nsid + if self.keepalive() { 6 } else { 0 }
    }

    fn nsid(&self) -> Option<&'a str> {
        let wanted = self.options && !self.brief;
        let asked = wanted && self.query.edns.is_some_and(|edns| edns.nsid);
        self.zone.server_id.as_deref().filter(|_| asked)
    }

    fn keepalive(&self) -> bool {
        let asked = self.options && self.query.edns.is_some_and(|edns| edns.keepalive);
        asked && self.request.transport == Transport::Tcp
    }

    fn push_opt(&mut self) {
        let dnssec_ok = self.query.edns.is_some_and(|edns| edns.dnssec_ok);
        let rdata = self.opt_octets() - 11;
        self.out.push(0);
        self.out.extend_from_slice(&Rtype::OPT.0.to_be_bytes());
        self.out.extend_from_slice(&(wire::UDP_PAYLOAD_MAX as u16).to_be_bytes());
        let extended = u32::from(self.rcode.0 >> 4) << 24;
        let ttl = extended | if dnssec_ok { 0x8000 } else { 0 };
        self.out.extend_from_slice(&ttl.to_be_bytes());
        self.out.extend_from_slice(&(rdata as u16).to_be_bytes());
        if let Some(id) = self.nsid() {
            self.push_option(wire::OPTION_NSID, id.as_bytes());
        }
        if let Some(cookie) = self.cookie {
            self.push_option(wire::OPTION_COOKIE, &cookie);
        }
        if self.keepalive() {
            let tenths = (self.zone.keepalive.as_millis() / 100).min(u16::MAX.into()) as u16;
            self.push_option(wire::OPTION_KEEPALIVE, &tenths.to_be_bytes());
        }
    }

    fn push_option(&mut self, code: u16, value: &[u8]) {
        self.out.extend_from_slice(&code.to_be_bytes());
        self.out.extend_from_slice(&(value.len() as u16).to_be_bytes());
        self.out.extend_from_slice(value);
    }

    /// Begins a record and returns the offset of its rdata.
    fn begin_record(&mut self, owner: &[u8], rtype: Rtype, ttl: u32) -> usize {
        wire::write_record_head(self.out, owner, rtype, ttl, 0);
        self.out.len()
    }

    /// Patches the rdata length of the record whose rdata begins at `at`.
    fn end_record(&mut self, at: usize) {
        let octets = (self.out.len() - at) as u16;
        self.out[at - 2..at].copy_from_slice(&octets.to_be_bytes());
    }

    fn push_soa(&mut self, snapshot: &Snapshot, apex: usize, ttl: u32) {
        let zone = self.zone;
        let at = self.begin_record(&pointer(apex), Rtype::SOA, ttl);
        self.push_name(&zone.name_servers[0].name, apex);
        self.out.extend_from_slice(b"\x0ahostmaster");
        self.out.extend_from_slice(&pointer(apex));
        self.out.extend_from_slice(&snapshot.serial().to_be_bytes());
        SOA_TIMERS.iter().for_each(|timer| self.out.extend_from_slice(&timer.to_be_bytes()));
        self.end_record(at);
    }

    fn push_address(&mut self, owner: &Name, apex: usize, address: &IpAddr) {
        self.push_name(owner, apex);
        let rtype = if address.is_ipv4() { Rtype::A } else { Rtype::AAAA };
        let at = self.begin_record(&[], rtype, NS_TTL);
        match address {
            IpAddr::V4(v4) => self.out.extend_from_slice(&v4.octets()),
            IpAddr::V6(v6) => self.out.extend_from_slice(&v6.octets()),
        }
        self.end_record(at);
    }

    /// A name, its tail a pointer to the root's place in the question where it is in the zone.
    fn push_name(&mut self, name: &Name, apex: usize) {
        match name.octets_above(&self.zone.root) {
            Some(above) => {
                self.out.extend_from_slice(&name.wire()[..above]);
                self.out.extend_from_slice(&pointer(apex));
            }
            None => self.out.extend_from_slice(name.wire()),
        }
    }
}

/// A compression pointer. Offsets within the question are far below 16,384.
fn pointer(offset: usize) -> [u8; 2] {
    debug_assert!(offset < 0x4000);
    (0xC000 | offset as u16).to_be_bytes()
}

/// Whether `sequence` is to be published within two seconds.
fn soon(snapshot: &Snapshot, sequence: Sequence, now: Instant) -> bool {
    snapshot.due(sequence).is_some_and(|due| due.saturating_duration_since(now) <= SOON)
}

/// Body of the fuzz target `respond`: any octets, asked over UDP and TCP, get what they may get.
#[doc(hidden)]
pub fn fuzz_respond(message: &[u8]) {
    let text = String::from_utf8_lossy(message).to_ascii_lowercase();
    if let Ok(CookieSecrets { current, previous }) = text.parse() {
        for secret in std::iter::once(current).chain(previous) {
            let digits = format!("{:032x}", u128::from_be_bytes(secret));
            assert!(text.contains(&digits), "a secret from nowhere");
        }
    }
    let now = Moment { instant: Instant::now(), unix_ms: 1_700_000_000_000 };
    let (zone, snapshot) = tests_support::zone_and_snapshot(now);
    let mut out = Vec::new();
    for (transport, limited) in [
        (Transport::Udp { payload_max: wire::UDP_PAYLOAD_MAX }, false),
        (Transport::Udp { payload_max: wire::UDP_PAYLOAD_MAX }, true),
        (Transport::Tcp, false),
    ] {
        let client = IpAddr::from([127, 0, 0, 1]);
        let request = Request { message, transport, client, now, may_hold: !limited, limited };
        match zone.respond(&snapshot, &request, &mut out) {
            Disposition::Drop | Disposition::Hold { .. } => assert!(out.is_empty()),
            Disposition::Reply(reply) => {
                assert!(out.len() >= wire::HEADER_OCTETS && out[..2] == message[..2]);
                assert!(out[2] & 0x80 != 0, "a response says so");
                if let Transport::Udp { payload_max } = transport {
                    assert!(out.len() <= payload_max);
                    if limited && !reply.verified {
                        // Truncated, or an error: the question again, OPT and a cookie at most.
                        assert!(out.len() <= message.len() + 11 + 28);
                    }
                }
            }
        }
    }
}

/// A small zone for tests and fuzzing.
#[doc(hidden)]
pub mod tests_support {
    use super::*;
    use crate::segment::Segment;
    use crate::units::SampleRate;
    use crate::window::Window;

    /// `music.example.com` with one name server inside, cookies on, and three segments published:
    /// 12 packets of 100 octets of text, the newest now.
    pub fn zone_and_snapshot(now: Moment) -> (Zone, Snapshot) {
        let root: Name = "music.example.com".parse().expect("a valid name");
        let mut config = Vec::new();
        wire::write_txt_record(&mut config, CONFIG_TTL, b"v=1;id=00000007");
        let name = root.child(b"ns").expect("a valid name");
        let zone = Zone {
            name_servers: vec![NameServer { name, addresses: vec![[192, 0, 2, 1].into()] }],
            root,
            id: 7,
            config: config.into(),
            cookies: Some(CookieSecrets { current: [3; 16], previous: None }),
            server_id: None,
            version: None,
            keepalive: Duration::from_secs(10),
        };
        let longest = Duration::from_millis(720);
        let mut window = Window::new(75, SampleRate::HZ_16000, longest, 100, now);
        for _ in 0..3 {
            let text = "A".repeat(100);
            let strings = (0..12).map(|n| format!("{n:03}'''{text}").into_bytes()).collect();
            window.publish(&Segment { strings }, 12 * 960, now);
        }
        (zone, window.snapshot())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Answer, QueryTemplate};

    struct Asked {
        disposition: Disposition,
        message: Vec<u8>,
    }

    impl Asked {
        fn outcome(&self) -> Outcome {
            match self.disposition {
                Disposition::Reply(reply) => reply.outcome,
                other => panic!("no reply but {other:?}"),
            }
        }

        fn counts(&self) -> [u8; 4] {
            [self.message[5], self.message[7], self.message[9], self.message[11]]
        }
    }

    fn template(name: &str, qtype: Rtype) -> QueryTemplate {
        QueryTemplate { name: name.parse().unwrap(), qtype, edns: true, cookie: Vec::new() }
    }

    fn ask_with(template: &QueryTemplate, transport: Transport, after: Duration) -> Asked {
        let start = Moment { instant: Instant::now(), unix_ms: 1_700_000_000_000 };
        let (zone, snapshot) = tests_support::zone_and_snapshot(start);
        let mut message = Vec::new();
        template.write(0x1234, &mut message);
        let request = Request {
            message: &message,
            transport,
            client: [127, 0, 0, 1].into(),
            now: start.after(after),
            may_hold: true,
            limited: false,
        };
        let mut out = Vec::new();
        let disposition = zone.respond(&snapshot, &request, &mut out);
        Asked { disposition, message: out }
    }

    fn ask(name: &str, qtype: Rtype) -> Asked {
        ask_with(&template(name, qtype), Transport::Tcp, Duration::ZERO)
    }

    const UDP: Transport = Transport::Udp { payload_max: wire::UDP_PAYLOAD_MAX };

    #[test]
    fn n01_n02_records_are_answered_whole() {
        for (name, records, outcome) in [
            ("sequence.music.example.com", 1, Outcome::List),
            ("seq_102.MUSIC.example.com", 12, Outcome::Segment),
            ("config.music.example.com", 1, Outcome::Config),
            ("now_abc9.music.example.com", 1, Outcome::Now),
        ] {
            let asked = ask(name, Rtype::TXT);
            assert_eq!((asked.outcome(), asked.counts()), (outcome, [1, records, 0, 1]), "{name}");
            let answer = Answer::read(&asked.message, 0x1234, &template(name, Rtype::TXT)).unwrap();
            assert!(answer.authoritative && answer.rcode == Rcode::NOERROR);
        }
    }

    #[test]
    fn n03_n08_other_types_have_no_data() {
        for qtype in [1, 28, 65, 64, 257, 43, 48, 46, 666, 65280, 0, 250] {
            for name in ["sequence", "seq_102", "seq_103", "seq_1", "config", "now_1"] {
                let asked = ask(&format!("{name}.music.example.com"), Rtype(qtype));
                // TSIG as a question type is as good as any other.
                assert_eq!(asked.outcome(), Outcome::NoData, "{name} {qtype}");
                assert_eq!(asked.counts(), [1, 0, 1, 1]);
            }
        }
    }

    #[test]
    fn n04_n10_other_names_do_not_exist() {
        for name in [
            "foo",
            "x.sequence",
            "seq_abc",
            "seq_",
            "seq_-1",
            "_dmarc",
            "seq_007",
            "seq_+7",
            "seq_18446744073709551616",
            "now_",
            "now_12345678901234567",
            "now_a-b",
        ] {
            // A plus sign is no letter of a host name: build the name by its labels.
            let root: Name = "music.example.com".parse().unwrap();
            let name = name.rsplit('.').fold(root, |n, label| n.child(label.as_bytes()).unwrap());
            let query = QueryTemplate { name, qtype: Rtype::TXT, edns: false, cookie: Vec::new() };
            let asked = ask_with(&query, UDP, Duration::ZERO);
            assert_eq!(asked.outcome(), Outcome::NxDomain, "{}", query.name);
            let answer = Answer::read(&asked.message, 0x1234, &query).unwrap();
            assert_eq!((answer.rcode, answer.negative_ttl), (Rcode::NXDOMAIN, Some(1)));
        }
    }

    #[test]
    fn n06_n09_any_number_exists() {
        let far = "seq_18446744073709551615.music.example.com";
        for (name, ttl) in [("seq_1.music.example.com", 1), (far, 1)] {
            let asked = ask(name, Rtype::TXT);
            let answer = Answer::read(&asked.message, 0x1234, &template(name, Rtype::TXT)).unwrap();
            assert_eq!((answer.rcode, answer.negative_ttl), (Rcode::NOERROR, Some(ttl)));
            assert!(answer.texts.is_empty());
        }
        // Due in 1440 ms: denied without being remembered.
        let asked = ask("seq_104.music.example.com", Rtype::TXT);
        let query = template("seq_104.music.example.com", Rtype::TXT);
        assert_eq!(Answer::read(&asked.message, 0x1234, &query).unwrap().negative_ttl, Some(0));
    }

    #[test]
    fn n07_d5_the_next_segment_is_held_within_700_ms() {
        let query = template("seq_103.music.example.com", Rtype::TXT);
        for (after, held) in [(19, false), (20, true), (720, true), (1019, true), (1020, false)] {
            let asked = ask_with(&query, Transport::Tcp, Duration::from_millis(after));
            let is_held = matches!(asked.disposition, Disposition::Hold { sequence: 103, .. });
            assert_eq!(is_held, held, "after {after} ms");
        }
        // D6: over UDP the answer will not fit, which is said at once.
        let asked = ask_with(&query, UDP, Duration::from_millis(100));
        assert_eq!(asked.outcome(), Outcome::Truncated);
    }

    #[test]
    fn n11_n12_the_apex_has_soa_and_ns() {
        assert_eq!(ask("music.example.com", Rtype::SOA).counts(), [1, 1, 0, 1]);
        assert_eq!(ask("music.example.com", Rtype::NS).counts(), [1, 1, 0, 2]);
        assert_eq!(ask("ns.music.example.com", Rtype::A).counts(), [1, 1, 0, 1]);
        assert_eq!(ask("ns.music.example.com", Rtype::AAAA).counts(), [1, 0, 1, 1]);
        for qtype in [Rtype::A, Rtype(15), Rtype(43), Rtype(48)] {
            assert_eq!(ask("music.example.com", qtype).outcome(), Outcome::NoData);
        }
    }

    #[test]
    fn n13_names_outside_are_refused() {
        for name in ["example.com", "other.example.com", "xmusic.example.com", "com"] {
            let asked = ask(name, Rtype::TXT);
            assert_eq!((asked.outcome(), asked.counts()), (Outcome::Refused, [1, 0, 0, 1]));
            assert_eq!(asked.message[2] & 0x04, 0, "AA is clear");
        }
    }

    /// Asks a zone that was changed for the purpose.
    fn ask_changed(change: fn(&mut Zone), message: &[u8], transport: Transport) -> Asked {
        let now = Moment { instant: Instant::now(), unix_ms: 1_700_000_000_000 };
        let (mut zone, snapshot) = tests_support::zone_and_snapshot(now);
        change(&mut zone);
        let client = [127, 0, 0, 1].into();
        let request = Request { message, transport, client, now, may_hold: false, limited: false };
        let mut out = Vec::new();
        let disposition = zone.respond(&snapshot, &request, &mut out);
        Asked { disposition, message: out }
    }

    #[test]
    fn n11_the_root_may_be_its_own_name_server() {
        let mut message = Vec::new();
        template("music.example.com", Rtype::A).write(1, &mut message);
        let own = |zone: &mut Zone| zone.name_servers[0].name = zone.root.clone();
        assert_eq!(ask_changed(own, &message, UDP).counts(), [1, 1, 0, 1]);
        assert_eq!(ask_changed(|_| (), &message, UDP).counts(), [1, 0, 1, 1]);
    }

    #[test]
    fn s06_a_truncated_answer_carries_no_identifier() {
        let mut message = Vec::new();
        template("seq_102.music.example.com", Rtype::TXT).write(1, &mut message);
        let options = message.len() - 2;
        message[options..].copy_from_slice(&[0, 4]);
        message.extend_from_slice(&[0, 3, 0, 0]);
        let named = |zone: &mut Zone| zone.server_id = Some("n".repeat(300));
        let truncated = ask_changed(named, &message, UDP);
        assert_eq!(truncated.outcome(), Outcome::Truncated);
        assert!(truncated.message.len() <= message.len());
        let whole = ask_changed(named, &message, Transport::Tcp);
        assert_eq!(whole.outcome(), Outcome::Segment);
        assert_eq!(whole.message[whole.message.len() - 300..], [b'n'; 300]);
    }

    #[test]
    fn q02_nothing_is_asked_for_where_cookies_are_off() {
        let mut message = vec![0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        message.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 12, 0, 10, 0, 8]);
        message.extend_from_slice(&[7; 8]);
        assert_eq!(ask_changed(|_| (), &message, UDP).outcome(), Outcome::Apex);
        let off = ask_changed(|zone| zone.cookies = None, &message, UDP);
        assert_eq!((off.outcome(), off.counts()), (Outcome::FormErr, [0, 0, 0, 1]));
    }

    #[test]
    fn s02_s03_what_does_not_fit_is_truncated_to_nothing() {
        let query = template("seq_102.music.example.com", Rtype::TXT);
        let asked = ask_with(&query, UDP, Duration::ZERO);
        assert_eq!((asked.outcome(), asked.counts()), (Outcome::Truncated, [1, 0, 0, 1]));
        assert_eq!(asked.message[2] & 0x02, 0x02);
        let plain = QueryTemplate { edns: false, ..query.clone() };
        let asked = ask_with(&plain, UDP, Duration::ZERO);
        assert_eq!(asked.counts(), [1, 0, 0, 0]);
        let mut length = Vec::new();
        plain.write(0, &mut length);
        assert_eq!(asked.message.len(), length.len());
    }

    #[test]
    fn e11_e12_a_cookie_verifies_its_client() {
        let mut query = template("sequence.music.example.com", Rtype::TXT);
        query.cookie = vec![1; 8];
        let first = ask_with(&query, UDP, Duration::ZERO);
        let Disposition::Reply(reply) = first.disposition else { panic!() };
        assert!(!reply.verified);
        let cookie = Answer::read(&first.message, 0x1234, &query).unwrap().cookie.unwrap();
        assert_eq!(cookie.len(), 24);
        let late = Duration::from_secs(1801);
        for (after, verified, kept) in
            [(Duration::ZERO, true, true), (late, true, false), (2 * late, false, false)]
        {
            query.cookie = cookie.clone();
            let asked = ask_with(&query, UDP, after);
            let Disposition::Reply(reply) = asked.disposition else { panic!() };
            assert_eq!(reply.verified, verified, "after {after:?}");
            let again = Answer::read(&asked.message, 0x1234, &query).unwrap().cookie.unwrap();
            assert_eq!(again == cookie, kept, "after {after:?}");
        }
        for length in [0, 7, 9, 15, 41] {
            query.cookie = vec![1; length];
            if length > 0 {
                assert_eq!(ask_with(&query, UDP, Duration::ZERO).outcome(), Outcome::FormErr);
            }
        }
    }

    #[test]
    fn messages_at_random_get_what_they_may_get() {
        let mut query = Vec::new();
        template("seq_102.music.example.com", Rtype::TXT).write(1, &mut query);
        let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
        for _ in 0..20_000 {
            let mut message = query.clone();
            for _ in 0..seed % 4 + 1 {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                let at = (seed >> 8) as usize % message.len();
                message[at] = seed as u8;
            }
            fuzz_respond(&message);
        }
    }
}

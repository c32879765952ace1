//! DNS messages: octets to values and back, for both ends.
//!
//! The server's side is [`Query::read`], which decides everything about a query that can be decided
//! from its octets alone; the client's side is [`QueryTemplate`] and [`Answer::read`]. Nothing here
//! knows about audio, sockets or time. Every walk is bounded by the octets present; nothing is
//! allocated by a count that a message claims. Names are compared as wire labels, never as text.
//!
//! Sources: RFC 1035 §4 (format), RFC 6891 (EDNS), RFC 7873 (cookies), RFC 9619 (QDCOUNT).
//!
//! Why the `dns-parser` crate is not used here: version 0.8 rejects a whole message for one type
//! that it does not know (HTTPS, DS, RRSIG, …) or for the Z bit, takes names of over 255 octets,
//! hides the labels, and recurses once per compression pointer. It serves as an independent
//! reader in `tests/differential.rs` instead.

use std::fmt;
use std::str::FromStr;

/// RFC 1035 §4.1.1.
pub const HEADER_OCTETS: usize = 12;
/// RFC 1035 §2.3.4.
pub const NAME_OCTETS_MAX: usize = 255;
/// RFC 1035 §2.3.4.
pub const LABEL_OCTETS_MAX: usize = 63;
/// RFC 1035 §3.3.
pub const STRING_OCTETS_MAX: usize = 255;
/// RFC 1035 §4.2.2: the length prefix over TCP has 16 bits.
pub const MESSAGE_OCTETS_MAX: usize = 65_535;
/// RFC 1035 §4.2.1: what a query without EDNS can take over UDP.
pub const UDP_PAYLOAD_PLAIN: usize = 512;
/// What passes every path unfragmented: 1280 octets of IPv6 less its headers (RFC 9715).
pub const UDP_PAYLOAD_MAX: usize = 1232;
/// Compression pointers followed in one name; no real message has more than a few.
const POINTERS_MAX: usize = 16;
/// Links followed in a chain of CNAMEs.
const CNAME_LINKS_MAX: usize = 8;

/// Header flag QR: this is a response.
pub const FLAG_QR: u16 = 0x8000;
/// Header flag AA: the answer comes from the zone's own server.
pub const FLAG_AA: u16 = 0x0400;
/// Header flag TC: the answer did not fit.
pub const FLAG_TC: u16 = 0x0200;
/// Header flag RD: recursion is desired.
pub const FLAG_RD: u16 = 0x0100;
/// The four bits of the opcode.
pub const FLAGS_OPCODE: u16 = 0x7800;

/// The type of a resource record (RFC 1035 §3.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rtype(pub u16);

impl Rtype {
    /// IPv4 address.
    pub const A: Rtype = Rtype(1);
    /// Name server.
    pub const NS: Rtype = Rtype(2);
    /// Another name for the same.
    pub const CNAME: Rtype = Rtype(5);
    /// Start of authority.
    pub const SOA: Rtype = Rtype(6);
    /// Text.
    pub const TXT: Rtype = Rtype(16);
    /// SIG(0) signature of a message (RFC 2931).
    pub const SIG: Rtype = Rtype(24);
    /// IPv6 address.
    pub const AAAA: Rtype = Rtype(28);
    /// EDNS pseudo-record (RFC 6891).
    pub const OPT: Rtype = Rtype(41);
    /// Signature of a message (RFC 8945).
    pub const TSIG: Rtype = Rtype(250);
    /// Incremental zone transfer (RFC 1995).
    pub const IXFR: Rtype = Rtype(251);
    /// Zone transfer (RFC 5936).
    pub const AXFR: Rtype = Rtype(252);
    /// Any one type (RFC 8482).
    pub const ANY: Rtype = Rtype(255);
}

/// Class IN, the internet.
pub const CLASS_IN: u16 = 1;
/// Class CH, where servers tell about themselves.
pub const CLASS_CH: u16 = 3;

/// A response code, with the upper bits that EDNS adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rcode(pub u16);

impl Rcode {
    /// No error.
    pub const NOERROR: Rcode = Rcode(0);
    /// The query could not be read.
    pub const FORMERR: Rcode = Rcode(1);
    /// The server failed.
    pub const SERVFAIL: Rcode = Rcode(2);
    /// The name does not exist.
    pub const NXDOMAIN: Rcode = Rcode(3);
    /// The server does not do this kind of query.
    pub const NOTIMP: Rcode = Rcode(4);
    /// The server will not answer this.
    pub const REFUSED: Rcode = Rcode(5);
    /// The signature's key is not known here.
    pub const NOTAUTH: Rcode = Rcode(9);
    /// EDNS of a version that is not known (RFC 6891 §9).
    pub const BADVERS: Rcode = Rcode(16);
    /// Ask again with the cookie in this answer (RFC 7873 §8).
    pub const BADCOOKIE: Rcode = Rcode(23);
}

impl fmt::Display for Rcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Rcode::NOERROR => f.write_str("NOERROR"),
            Rcode::FORMERR => f.write_str("FORMERR"),
            Rcode::SERVFAIL => f.write_str("SERVFAIL"),
            Rcode::NXDOMAIN => f.write_str("NXDOMAIN"),
            Rcode::NOTIMP => f.write_str("NOTIMP"),
            Rcode::REFUSED => f.write_str("REFUSED"),
            Rcode::NOTAUTH => f.write_str("NOTAUTH"),
            Rcode::BADVERS => f.write_str("BADVERS"),
            Rcode::BADCOOKIE => f.write_str("BADCOOKIE"),
            Rcode(other) => write!(f, "RCODE{other}"),
        }
    }
}

/// Why octets are no DNS message that can be used, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseError {
    /// The message ends too early.
    ShortInput {
        /// Offset of the first octet that is missing.
        at: usize,
    },
    /// A label of type 01 or 10 (RFC 6891 §5).
    BadLabel {
        /// Its offset.
        at: usize,
    },
    /// A compression pointer that does not point strictly backward, or one too many.
    BadPointer {
        /// Its offset.
        at: usize,
    },
    /// A name of more than 255 octets.
    LongName {
        /// Where it begins.
        at: usize,
    },
    /// Not an answer to the question that was asked.
    Foreign,
    /// A chain of CNAMEs that is too long or leads back to itself.
    CnameChain,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ParseError::ShortInput { at } => write!(f, "message ends at octet {at}"),
            ParseError::BadLabel { at } => write!(f, "unknown label type at octet {at}"),
            ParseError::BadPointer { at } => write!(f, "bad compression pointer at octet {at}"),
            ParseError::LongName { at } => write!(f, "name of over 255 octets at octet {at}"),
            ParseError::Foreign => write!(f, "not an answer to this question"),
            ParseError::CnameChain => write!(f, "endless chain of CNAMEs"),
        }
    }
}

impl std::error::Error for ParseError {}

/// The 16 bits at `at`, big endian.
fn u16_at(octets: &[u8], at: usize) -> Result<u16, ParseError> {
    match octets.get(at..at + 2) {
        Some(two) => Ok(u16::from_be_bytes([two[0], two[1]])),
        None => Err(ParseError::ShortInput { at: octets.len() }),
    }
}

/// The 32 bits at `at`, big endian.
fn u32_at(octets: &[u8], at: usize) -> Result<u32, ParseError> {
    match octets.get(at..at + 4) {
        Some(four) => Ok(u32::from_be_bytes([four[0], four[1], four[2], four[3]])),
        None => Err(ParseError::ShortInput { at: octets.len() }),
    }
}

/// A domain name in wire form: length-prefixed labels and the closing zero, at most 255 octets.
///
/// Two names are equal when their labels are, ASCII letters in either case (RFC 4343).
#[derive(Clone)]
pub struct Name(Box<[u8]>);

impl Name {
    /// The name's octets on the wire, uncompressed.
    pub fn wire(&self) -> &[u8] {
        &self.0
    }

    /// Whether `wire`, an uncompressed name, equals this one.
    pub fn is(&self, wire: &[u8]) -> bool {
        self.0.eq_ignore_ascii_case(wire)
    }

    /// The name one level below, or `None` when `label` is empty or too long or the name would be.
    pub fn child(&self, label: &[u8]) -> Option<Name> {
        let fits = (1..=LABEL_OCTETS_MAX).contains(&label.len())
            && self.0.len() + 1 + label.len() <= NAME_OCTETS_MAX;
        fits.then(|| {
            let mut wire = Vec::with_capacity(self.0.len() + 1 + label.len());
            wire.push(label.len() as u8);
            wire.extend_from_slice(label);
            wire.extend_from_slice(&self.0);
            Name(wire.into())
        })
    }

    /// The length in octets of this name's labels above `zone`, or `None` when it is not `zone` or
    /// below it.
    pub fn octets_above(&self, zone: &Name) -> Option<usize> {
        octets_above(&self.0, &zone.0)
    }

    /// Reads the possibly compressed name at `at`, and the offset of what follows it. Pointers go
    /// strictly backward, at most 16 in a name.
    ///
    /// # Errors
    /// When the name is cut short, too long, or badly compressed.
    pub fn read(message: &[u8], at: usize) -> Result<(Name, usize), ParseError> {
        let mut wire = Vec::with_capacity(64);
        let end = walk_name(message, at, |label| wire.extend_from_slice(label))?;
        Ok((Name(wire.into()), end))
    }

    /// Whether the possibly compressed name at `at` equals this one. False as well when it cannot be read.
    fn is_at(&self, message: &[u8], at: usize) -> bool {
        let mut rest = Some(self.wire());
        let walked = walk_name(message, at, |label| {
            let same = rest.and_then(|rest| rest.split_at_checked(label.len()));
            rest = same.filter(|(own, _)| own.eq_ignore_ascii_case(label)).map(|(_, rest)| rest);
        });
        walked.is_ok() && rest == Some(&[])
    }
}

/// Calls `visit` with each label of the possibly compressed name at `at`, its length in front, and with the
/// closing zero; the offset of what follows the name. Errors as [`Name::read`].
fn walk_name<'a>(
    message: &'a [u8],
    at: usize,
    mut visit: impl FnMut(&'a [u8]),
) -> Result<usize, ParseError> {
    let mut octets = 0;
    let mut end = None;
    let mut position = at;
    let mut pointers = 0;
    loop {
        let short = ParseError::ShortInput { at: message.len() };
        let length = usize::from(*message.get(position).ok_or(short)?);
        match length {
            0 => {
                visit(&message[position..=position]);
                return Ok(end.unwrap_or(position + 1));
            }
            1..=LABEL_OCTETS_MAX => {
                let label = message.get(position..position + 1 + length).ok_or(short)?;
                octets += label.len();
                if octets + 1 > NAME_OCTETS_MAX {
                    return Err(ParseError::LongName { at });
                }
                visit(label);
                position += 1 + length;
            }
            0xC0..=0xFF => {
                let target = usize::from(u16_at(message, position)? & 0x3FFF);
                pointers += 1;
                if target >= position || pointers > POINTERS_MAX {
                    return Err(ParseError::BadPointer { at: position });
                }
                end.get_or_insert(position + 2);
                position = target;
            }
            _ => return Err(ParseError::BadLabel { at: position }),
        }
    }
}

/// How many octets of labels the uncompressed name `wire` has above `zone`; `None` when it is
/// neither `zone` nor below it.
fn octets_above(wire: &[u8], zone: &[u8]) -> Option<usize> {
    let above = wire.len().checked_sub(zone.len())?;
    if !wire[above..].eq_ignore_ascii_case(zone) {
        return None;
    }
    // The tail may begin inside a label: walk the labels to see.
    let mut position = 0;
    while position < above {
        position += 1 + usize::from(wire[position]);
    }
    (position == above).then_some(above)
}

/// The offset after the name at `at`, whose compression is stepped over and not followed.
fn skip_name(message: &[u8], at: usize) -> Result<usize, ParseError> {
    let mut position = at;
    loop {
        let short = ParseError::ShortInput { at: message.len() };
        match *message.get(position).ok_or(short)? {
            0 => return Ok(position + 1),
            length @ 1..=63 => position += 1 + usize::from(length),
            0xC0..=0xFF => {
                u16_at(message, position)?;
                return Ok(position + 2);
            }
            _ => return Err(ParseError::BadLabel { at: position }),
        }
        if position - at > NAME_OCTETS_MAX {
            return Err(ParseError::LongName { at });
        }
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Name) -> bool {
        self.is(&other.0)
    }
}

impl Eq for Name {}

/// Writes a wire-form name for people: labels joined by dots, everything that is not a letter,
/// digit, hyphen or underscore escaped, so that no name can forge a log line (RFC 1035 §5.1).
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest: &[u8] = &self.0;
        if rest == [0] {
            return f.write_str(".");
        }
        let mut first = true;
        while let Some((&length, tail)) = rest.split_first() {
            if length == 0 {
                break;
            }
            if !first {
                f.write_str(".")?;
            }
            first = false;
            let (label, after) = tail.split_at(usize::from(length));
            for &octet in label {
                match octet {
                    b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => {
                        write!(f, "{}", octet as char)?
                    }
                    0x21..=0x7E => write!(f, "\\{}", octet as char)?,
                    _ => write!(f, "\\{octet:03}")?,
                }
            }
            rest = after;
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({self})")
    }
}

/// Why text is no domain name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NameError {
    /// No label at all, or two dots in a row, or a dot in front.
    EmptyLabel,
    /// A label of more than 63 octets.
    LongLabel,
    /// More than 255 octets on the wire.
    LongName,
    /// A character that no host or service name holds.
    BadCharacter(char),
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NameError::EmptyLabel => write!(f, "it has an empty label"),
            NameError::LongLabel => write!(f, "a label is longer than 63 octets"),
            NameError::LongName => write!(f, "it is longer than 255 octets"),
            NameError::BadCharacter(character) => {
                write!(f, "{character:?} is none of a-z, 0-9, '-' and '_'")
            }
        }
    }
}

impl std::error::Error for NameError {}

/// Reads `music.example.com`, with or without a closing dot: letters, digits, hyphens and
/// underscores in labels of 1 to 63.
impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Name, NameError> {
        let mut wire = Vec::with_capacity(text.len() + 2);
        for label in text.strip_suffix('.').unwrap_or(text).split('.') {
            let fine = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            match label.len() {
                0 => return Err(NameError::EmptyLabel),
                _ if !label.chars().all(fine) => {
                    let bad = label.chars().find(|&c| !fine(c)).unwrap_or('?');
                    return Err(NameError::BadCharacter(bad));
                }
                1..=LABEL_OCTETS_MAX => {}
                _ => return Err(NameError::LongLabel),
            }
            wire.push(label.len() as u8);
            wire.extend_from_slice(label.as_bytes());
        }
        wire.push(0);
        if wire.len() > NAME_OCTETS_MAX {
            return Err(NameError::LongName);
        }
        Ok(Name(wire.into()))
    }
}

/// A question as it stands in a query: one uncompressed name, a type and a class.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Name, type and class, octet for octet.
    pub octets: &'a [u8],
    /// The type asked for.
    pub qtype: Rtype,
    /// The class asked for.
    pub qclass: u16,
}

impl<'a> Question<'a> {
    /// The name in wire form, case as asked.
    pub fn name(&self) -> &'a [u8] {
        &self.octets[..self.octets.len() - 4]
    }

    /// How many octets of labels the name has above `zone`; `None` when it is outside.
    pub fn octets_above(&self, zone: &Name) -> Option<usize> {
        octets_above(self.name(), zone.wire())
    }

    /// Reads the question behind the header. A compression pointer is an error: nothing that it
    /// could point to precedes it.
    fn read(message: &'a [u8]) -> Result<Question<'a>, ParseError> {
        let at = HEADER_OCTETS;
        let mut position = at;
        loop {
            let short = ParseError::ShortInput { at: message.len() };
            match *message.get(position).ok_or(short)? {
                0 => break,
                length @ 1..=63 => position += 1 + usize::from(length),
                0xC0..=0xFF => return Err(ParseError::BadPointer { at: position }),
                _ => return Err(ParseError::BadLabel { at: position }),
            }
            if position - at >= NAME_OCTETS_MAX {
                return Err(ParseError::LongName { at });
            }
        }
        let qtype = Rtype(u16_at(message, position + 1)?);
        let qclass = u16_at(message, position + 3)?;
        let octets = &message[at..position + 5];
        Ok(Question { octets, qtype, qclass })
    }
}

/// What the OPT record of a query says (RFC 6891 §6.1).
#[derive(Clone, Copy, Debug, Default)]
pub struct Edns<'a> {
    /// The UDP payload that the client can take, in octets, as it says.
    pub payload: u16,
    /// EDNS version; only 0 is known.
    pub version: u8,
    /// DNSSEC OK; copied to the response, without other effect.
    pub dnssec_ok: bool,
    /// Octets of the COOKIE option, whatever their number (RFC 7873).
    pub cookie: Option<&'a [u8]>,
    /// Whether the name server's identifier is asked for (RFC 5001).
    pub nsid: bool,
    /// Whether the edns-tcp-keepalive option is there (RFC 7828).
    pub keepalive: bool,
}

/// Option code of NSID.
pub const OPTION_NSID: u16 = 3;
/// Option code of COOKIE.
pub const OPTION_COOKIE: u16 = 10;
/// Option code of edns-tcp-keepalive.
pub const OPTION_KEEPALIVE: u16 = 11;

impl<'a> Edns<'a> {
    /// Reads the OPT record whose type is at `at` (its owner, the root, precedes it). Of options
    /// that appear twice the first counts; unknown ones are passed over.
    fn read(message: &'a [u8], at: usize) -> Result<(Edns<'a>, usize), ParseError> {
        let ttl = u32_at(message, at + 4)?;
        let mut edns = Edns {
            payload: u16_at(message, at + 2)?,
            version: (ttl >> 16) as u8,
            dnssec_ok: ttl & 0x8000 != 0,
            ..Edns::default()
        };
        let short = ParseError::ShortInput { at: message.len() };
        let end = at + 10 + usize::from(u16_at(message, at + 8)?);
        let rdata = message.get(at + 10..end).ok_or(short)?;
        let mut rest = rdata;
        while !rest.is_empty() {
            let code = u16_at(rest, 0)?;
            let value = rest.get(4..4 + usize::from(u16_at(rest, 2)?)).ok_or(short)?;
            match code {
                OPTION_NSID => edns.nsid = true,
                OPTION_COOKIE => edns.cookie = edns.cookie.or(Some(value)),
                OPTION_KEEPALIVE => edns.keepalive = true,
                _ => {}
            }
            rest = &rest[4 + value.len()..];
        }
        Ok((edns, end))
    }
}

/// A query that is well formed as far as its sections go.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// Message id.
    pub id: u16,
    /// The header's flags as they came.
    pub flags: u16,
    /// What is asked; `None` only in a query for nothing but a cookie (RFC 7873 §5.4).
    pub question: Option<Question<'a>>,
    /// What the OPT record says, if there is one.
    pub edns: Option<Edns<'a>>,
    /// Whether the query is signed with TSIG.
    pub signed: bool,
}

/// What [`Query::read`] makes of a message.
#[derive(Clone, Copy, Debug)]
pub enum Reading<'a> {
    /// Nothing may be answered: too short for a header, or a response (which could loop for ever).
    Drop,
    /// Answered with a bare header of this response code.
    Header(Rcode),
    /// FORMERR with the question and without OPT.
    FormErr(Question<'a>),
    /// To be answered from the zone.
    Query(Query<'a>),
}

impl<'a> Query<'a> {
    /// Reads a message that came in at the server. Opcode is looked at before the counts.
    pub fn read(message: &'a [u8]) -> Reading<'a> {
        if message.len() < HEADER_OCTETS {
            return Reading::Drop;
        }
        let word = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
        let flags = word(2);
        if flags & FLAG_QR != 0 {
            return Reading::Drop;
        }
        if flags & FLAGS_OPCODE != 0 {
            return Reading::Header(Rcode::NOTIMP);
        }
        let [questions, answers, authorities, additionals] = [word(4), word(6), word(8), word(10)];
        let mut query = Query { id: word(0), flags, question: None, edns: None, signed: false };
        let formerr = Reading::Header(Rcode::FORMERR);
        if questions > 1 || answers != 0 || authorities > 1 {
            return formerr;
        }
        let mut position = HEADER_OCTETS;
        if questions == 1 {
            let Ok(question) = Question::read(message) else { return formerr };
            position += question.octets.len();
            query.question = Some(question);
        }
        if authorities == 1 {
            // The client's own SOA in an IXFR query (RFC 1995 §3), and nothing else.
            if query.question.is_none_or(|question| question.qtype != Rtype::IXFR) {
                return formerr;
            }
            match skip_record(message, position) {
                Ok((Rtype::SOA, end)) => position = end,
                _ => return formerr,
            }
        }
        match query.read_additional(message, position, additionals) {
            Ok(()) => {}
            Err(()) => {
                return match query.question {
                    Some(question) => Reading::FormErr(question),
                    None => formerr,
                };
            }
        }
        if query.question.is_none() && query.edns.is_none_or(|edns| edns.cookie.is_none()) {
            return formerr;
        }
        Reading::Query(query)
    }

    /// Reads `count` additional records: one OPT, one TSIG or SIG(0) at the very end, and at most
    /// two others, which mean nothing here.
    fn read_additional(
        &mut self,
        message: &'a [u8],
        mut position: usize,
        count: u16,
    ) -> Result<(), ()> {
        let mut others = 0;
        for left in (0..count).rev() {
            let owner = position;
            let after_owner = skip_name(message, owner).map_err(drop)?;
            let rtype = Rtype(u16_at(message, after_owner).map_err(drop)?);
            if rtype == Rtype::OPT {
                if self.edns.is_some() || message[owner] != 0 {
                    return Err(());
                }
                let (edns, end) = Edns::read(message, after_owner).map_err(drop)?;
                self.edns = Some(edns);
                position = end;
                continue;
            }
            (_, position) = skip_record(message, owner).map_err(drop)?;
            match rtype {
                // RFC 8945 §5.1: the last record, and so the only one.
                Rtype::TSIG | Rtype::SIG if left == 0 => self.signed = rtype == Rtype::TSIG,
                Rtype::TSIG | Rtype::SIG => return Err(()),
                _ => others += 1,
            }
            if others > 2 {
                return Err(());
            }
        }
        Ok(())
    }
}

/// The truncated form of a response: header, question and OPT, with TC set; `None` when it cannot be
/// read.
pub fn truncated(response: &[u8]) -> Option<Vec<u8>> {
    let question = Question::read(response).ok()?;
    let mut position = HEADER_OCTETS + question.octets.len();
    let mut out = response[..position].to_vec();
    out[2..4].copy_from_slice(&(u16_at(response, 2).ok()? | FLAG_TC).to_be_bytes());
    out[6..12].fill(0);
    for section in 0..3 {
        for _ in 0..u16_at(response, 6 + 2 * section).ok()? {
            let (rtype, end) = skip_record(response, position).ok()?;
            if rtype == Rtype::OPT {
                out.extend_from_slice(&response[position..end]);
                out[11] = 1;
            }
            position = end;
        }
    }
    Some(out)
}

/// The type of the record at `at`, and the offset of what follows it.
fn skip_record(message: &[u8], at: usize) -> Result<(Rtype, usize), ParseError> {
    let position = skip_name(message, at)?;
    let end = position + 10 + usize::from(u16_at(message, position + 8)?);
    if end > message.len() {
        return Err(ParseError::ShortInput { at: message.len() });
    }
    Ok((Rtype(u16_at(message, position)?), end))
}

/// A query of ours: one question for TXT in class IN, recursion desired, EDNS unless the server
/// does not take it.
#[derive(Clone, Debug)]
pub struct QueryTemplate {
    /// The name asked for.
    pub name: Name,
    /// The type asked for.
    pub qtype: Rtype,
    /// Whether an OPT record goes along.
    pub edns: bool,
    /// Cookie to send: 8 octets of ours, and 8 to 32 of the server's when it gave any.
    pub cookie: Vec<u8>,
}

impl QueryTemplate {
    /// Appends the query with message id `id` to `out`.
    pub fn write(&self, id: u16, out: &mut Vec<u8>) {
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&FLAG_RD.to_be_bytes());
        out.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, u8::from(self.edns)]);
        out.extend_from_slice(self.name.wire());
        out.extend_from_slice(&self.qtype.0.to_be_bytes());
        out.extend_from_slice(&CLASS_IN.to_be_bytes());
        if self.edns {
            let options = if self.cookie.is_empty() { 0 } else { 4 + self.cookie.len() };
            out.push(0);
            out.extend_from_slice(&Rtype::OPT.0.to_be_bytes());
            out.extend_from_slice(&(UDP_PAYLOAD_MAX as u16).to_be_bytes());
            out.extend_from_slice(&[0; 4]);
            out.extend_from_slice(&(options as u16).to_be_bytes());
            if options > 0 {
                out.extend_from_slice(&OPTION_COOKIE.to_be_bytes());
                out.extend_from_slice(&(self.cookie.len() as u16).to_be_bytes());
                out.extend_from_slice(&self.cookie);
            }
        }
    }
}

/// Octets of a record of [`write_txt_record`] beside its string: owner, type, class, TTL, rdata
/// length, string length.
pub const TXT_RECORD_OCTETS: usize = 2 + 2 + 2 + 4 + 2 + 1;

/// Appends a TXT record of one string to `out`, its owner a pointer to the question (RFC 1035
/// §4.1.4), ready to be copied behind any question for it.
///
/// # Panics
/// When the string is longer than 255 octets.
pub fn write_txt_record(out: &mut Vec<u8>, ttl: u32, string: &[u8]) {
    assert!(string.len() <= STRING_OCTETS_MAX, "a character-string holds at most 255 octets");
    write_record_head(out, &QUESTION_POINTER, Rtype::TXT, ttl, 1 + string.len());
    out.push(string.len() as u8);
    out.extend_from_slice(string);
}

/// A compressed name that stands for the name in the question.
pub const QUESTION_POINTER: [u8; 2] = [0xC0, HEADER_OCTETS as u8];

/// Appends everything of a record of class IN but its rdata, whose length is given.
pub fn write_record_head(
    out: &mut Vec<u8>,
    owner: &[u8],
    rtype: Rtype,
    ttl: u32,
    rdata_octets: usize,
) {
    out.extend_from_slice(owner);
    out.extend_from_slice(&rtype.0.to_be_bytes());
    out.extend_from_slice(&CLASS_IN.to_be_bytes());
    out.extend_from_slice(&ttl.to_be_bytes());
    out.extend_from_slice(&(rdata_octets as u16).to_be_bytes());
}

/// A response to a query of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Response code, with the upper bits of EDNS.
    pub rcode: Rcode,
    /// Whether the zone's own server speaks.
    pub authoritative: bool,
    /// Whether the content is to be fetched over TCP; nothing else is filled in then.
    pub truncated: bool,
    /// The TXT records at the end of the CNAME chain, each with its strings joined. Their order
    /// means nothing; duplicates are gone.
    pub texts: Vec<Vec<u8>>,
    /// The smallest TTL along the chain, in seconds; 0 without records.
    pub ttl: u32,
    /// How long a negative answer holds, in seconds: the smaller of the SOA's TTL and its minimum
    /// (RFC 2308 §5). `None` without an SOA.
    pub negative_ttl: Option<u32>,
    /// Whether there was an OPT record.
    pub edns: bool,
    /// The COOKIE option: the server's cookie behind ours (RFC 7873 §4.2).
    pub cookie: Option<Vec<u8>>,
}

impl Answer {
    /// Reads the response to the query `asked` with id `id`. With `exact_case` the question must
    /// come back with the case of every letter kept.
    ///
    /// # Errors
    /// [`ParseError::Foreign`] when the message answers something else (waiting goes on then);
    /// others when it cannot be read.
    pub fn read(message: &[u8], id: u16, asked: &QueryTemplate) -> Result<Answer, ParseError> {
        if message.len() < HEADER_OCTETS {
            return Err(ParseError::ShortInput { at: message.len() });
        }
        let flags = u16_at(message, 2)?;
        if u16_at(message, 0)? != id || flags & FLAG_QR == 0 || flags & FLAGS_OPCODE != 0 {
            return Err(ParseError::Foreign);
        }
        let mut answer = Answer {
            rcode: Rcode(flags & 0x000F),
            authoritative: flags & FLAG_AA != 0,
            truncated: flags & FLAG_TC != 0,
            texts: Vec::new(),
            ttl: 0,
            negative_ttl: None,
            edns: false,
            cookie: None,
        };
        if u16_at(message, 4)? != 1 {
            // Servers may leave the question out only when they could not read it.
            let unread = matches!(answer.rcode, Rcode::FORMERR | Rcode::NOTIMP);
            let bare = u16_at(message, 4)? == 0 && unread;
            return if bare { Ok(answer) } else { Err(ParseError::Foreign) };
        }
        let question = Question::read(message)?;
        let ours = asked.name.is(question.name());
        if !ours || question.qtype != asked.qtype || question.qclass != CLASS_IN {
            return Err(ParseError::Foreign);
        }
        if answer.truncated {
            return Ok(answer);
        }
        answer.read_sections(message, HEADER_OCTETS + question.octets.len(), asked)?;
        Ok(answer)
    }

    /// Reads answer, authority and additional sections from `position` on.
    fn read_sections(
        &mut self,
        message: &[u8],
        mut position: usize,
        asked: &QueryTemplate,
    ) -> Result<(), ParseError> {
        let mut links = Vec::new();
        let mut records = Vec::new();
        for section in 0..3 {
            for _ in 0..u16_at(message, 6 + 2 * section)? {
                let record = Record::read(message, position)?;
                position = record.end;
                match (section, record.rtype) {
                    (0, Rtype::CNAME) if record.class == CLASS_IN => {
                        let (owner, _) = Name::read(message, record.at)?;
                        let (target, _) = Name::read(message, record.rdata_at)?;
                        links.push((owner, target, record.ttl));
                    }
                    (0, Rtype::TXT) if asked.qtype == Rtype::TXT && record.class == CLASS_IN => {
                        records.push(record);
                    }
                    (1, Rtype::SOA) if record.class == CLASS_IN => {
                        let minimum = record.soa_minimum(message)?;
                        self.negative_ttl = Some(record.ttl.min(minimum));
                    }
                    (2, Rtype::OPT) if message[record.at] == 0 => {
                        let (edns, _) = Edns::read(message, record.rdata_at - 10)?;
                        self.edns = true;
                        self.cookie = edns.cookie.map(<[u8]>::to_vec);
                        self.rcode.0 |= (record.ttl >> 24 << 4) as u16;
                    }
                    _ => {}
                }
            }
        }
        let mut owner = &asked.name;
        let mut ttl = u32::MAX;
        let mut followed = 0;
        while let Some((_, target, link_ttl)) = links.iter().find(|(from, _, _)| from == owner) {
            followed += 1;
            if followed > CNAME_LINKS_MAX {
                return Err(ParseError::CnameChain);
            }
            owner = target;
            ttl = ttl.min(*link_ttl);
        }
        for record in records.iter().filter(|record| owner.is_at(message, record.at)) {
            self.texts.push(record.text(message)?);
            ttl = ttl.min(record.ttl);
        }
        self.texts.sort_unstable();
        self.texts.dedup();
        if !self.texts.is_empty() {
            self.ttl = ttl;
        }
        Ok(())
    }
}

/// A record met while walking a response.
struct Record {
    /// Where it begins, with its owner.
    at: usize,
    rtype: Rtype,
    class: u16,
    ttl: u32,
    rdata_at: usize,
    end: usize,
}

impl Record {
    fn read(message: &[u8], at: usize) -> Result<Record, ParseError> {
        let position = walk_name(message, at, |_| ())?;
        let end = position + 10 + usize::from(u16_at(message, position + 8)?);
        if end > message.len() {
            return Err(ParseError::ShortInput { at: message.len() });
        }
        // RFC 2181 §8: a TTL with the top bit set counts as zero. OPT keeps its flags there.
        let rtype = Rtype(u16_at(message, position)?);
        let ttl = u32_at(message, position + 4)?;
        let ttl = if ttl > i32::MAX as u32 && rtype != Rtype::OPT { 0 } else { ttl };
        let class = u16_at(message, position + 2)?;
        Ok(Record { at, rtype, class, ttl, rdata_at: position + 10, end })
    }

    /// The strings of a TXT record, joined.
    fn text(&self, message: &[u8]) -> Result<Vec<u8>, ParseError> {
        let mut rest = &message[self.rdata_at..self.end];
        let mut text = Vec::with_capacity(rest.len());
        while let Some((&length, tail)) = rest.split_first() {
            let short = ParseError::ShortInput { at: self.end };
            text.extend_from_slice(tail.get(..usize::from(length)).ok_or(short)?);
            rest = &tail[usize::from(length)..];
        }
        Ok(text)
    }

    /// The last field of an SOA record.
    fn soa_minimum(&self, message: &[u8]) -> Result<u32, ParseError> {
        let (_, position) = Name::read(message, self.rdata_at)?;
        let (_, position) = Name::read(message, position)?;
        if position + 20 > self.end {
            return Err(ParseError::ShortInput { at: self.end });
        }
        u32_at(message, position + 16)
    }
}

/// Body of the fuzz target `query`: any octets, read as a query, keep the reader's promises.
#[doc(hidden)]
pub fn fuzz_query(message: &[u8]) {
    match Query::read(message) {
        Reading::Drop => assert!(message.len() < HEADER_OCTETS || message[2] & 0x80 != 0),
        Reading::Header(_) => assert!(message.len() >= HEADER_OCTETS),
        Reading::FormErr(question) => check_question(&question, message),
        Reading::Query(query) => {
            if let Some(question) = query.question {
                check_question(&question, message);
            }
            if let Some(cookie) = query.edns.and_then(|edns| edns.cookie) {
                assert!(cookie.len() < message.len());
            }
        }
    }
}

fn check_question(question: &Question<'_>, message: &[u8]) {
    assert!(question.name().len() <= NAME_OCTETS_MAX);
    assert!(message[HEADER_OCTETS..].starts_with(question.octets));
    let (name, end) = Name::read(message, HEADER_OCTETS).expect("a question's name reads again");
    assert!(name.wire() == question.name() && end + 4 == HEADER_OCTETS + question.octets.len());
}

/// Body of the fuzz target `response`: any octets, read as the response to a fixed question.
#[doc(hidden)]
pub fn fuzz_response(message: &[u8]) {
    let asked = QueryTemplate {
        name: "seq_2.music.example.com".parse().expect("a valid name"),
        qtype: Rtype::TXT,
        edns: true,
        cookie: Vec::new(),
    };
    let id = message.get(..2).map_or(0, |id| u16::from_be_bytes([id[0], id[1]]));
    if let Ok(answer) = Answer::read(message, id, &asked) {
        assert!(answer.texts.iter().map(Vec::len).sum::<usize>() <= message.len());
        assert!(!answer.truncated || answer.texts.is_empty());
        assert!(answer.texts.is_sorted());
    }
    for at in 0..message.len().min(64) {
        let read = Name::read(message, at);
        assert_eq!(asked.name.is_at(message, at), read.is_ok_and(|(name, _)| name == asked.name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn txt_query(text: &str) -> QueryTemplate {
        QueryTemplate { name: name(text), qtype: Rtype::TXT, edns: true, cookie: vec![7; 8] }
    }

    #[test]
    fn a_name_is_known_where_it_stands() {
        let asked = name("seq_2.example.com");
        // The zone, the name behind it, and the same in other case: in full, and with pointers.
        let message = b"\x07example\x03com\0\x05SEQ_2\xC0\0\x05seq_2\x07EXAMPLE\xC0\x08\x05seq_2\0";
        let known = [(0, false), (13, true), (21, true), (37, false), (8, false), (99, false)];
        for (at, is) in known {
            assert_eq!(asked.is_at(message, at), is, "{at}");
        }
        assert!(name("example.com").is_at(message, 0) && !name("example.co").is_at(message, 0));
        assert!(!name("a.example.com").is_at(message, 0));
    }

    fn header(flags: u16, counts: [u16; 4]) -> Vec<u8> {
        let mut message = vec![0xAB, 0xCD];
        message.extend_from_slice(&flags.to_be_bytes());
        counts.iter().for_each(|count| message.extend_from_slice(&count.to_be_bytes()));
        message
    }

    fn record(message: &mut Vec<u8>, owner: &[u8], rtype: Rtype, ttl: u32, rdata: &[u8]) {
        message.extend_from_slice(owner);
        message.extend_from_slice(&rtype.0.to_be_bytes());
        message.extend_from_slice(&CLASS_IN.to_be_bytes());
        message.extend_from_slice(&ttl.to_be_bytes());
        message.extend_from_slice(&(rdata.len() as u16).to_be_bytes());
        message.extend_from_slice(rdata);
    }

    fn response(counts: [u16; 4]) -> Vec<u8> {
        let mut message = header(FLAG_QR, counts);
        message.extend_from_slice(name("x.example").wire());
        message.extend_from_slice(&[0, 16, 0, 1]);
        message
    }

    #[test]
    fn names_are_read_from_text_within_their_limits() {
        assert_eq!(name("Music.Example.COM."), name("music.example.com"));
        let label = "a".repeat(63);
        assert!(label.parse::<Name>().is_ok());
        assert_eq!(format!("{label}a").parse::<Name>(), Err(NameError::LongLabel));
        // 3 × 64 + 62 + 1 = 255.
        let longest = format!("{label}.{label}.{label}.{}", "b".repeat(61));
        assert_eq!(name(&longest).wire().len(), NAME_OCTETS_MAX);
        assert_eq!(format!("{longest}b").parse::<Name>(), Err(NameError::LongName));
        for bad in ["", ".", "a..b", ".a"] {
            assert_eq!(bad.parse::<Name>(), Err(NameError::EmptyLabel), "{bad:?}");
        }
        assert_eq!("a b".parse::<Name>(), Err(NameError::BadCharacter(' ')));
    }

    #[test]
    fn a_name_that_merely_ends_alike_is_outside() {
        let zone = name("music.example.com");
        assert_eq!(name("seq.music.example.com").octets_above(&zone), Some(4));
        assert_eq!(name("MUSIC.example.com").octets_above(&zone), Some(0));
        assert_eq!(name("xmusic.example.com").octets_above(&zone), None);
        assert_eq!(name("example.com").octets_above(&zone), None);
        // A label whose content looks like the zone's wire form: the tail is equal, its place not.
        let sly = [&[19u8, b'x'][..], zone.wire()].concat();
        assert_eq!(octets_above(&sly, zone.wire()), None);
    }

    #[test]
    fn names_are_escaped_for_people() {
        let odd = name("example").child(b"a.b\n\\\xff*").unwrap();
        assert_eq!(odd.to_string(), "a\\.b\\010\\\\\\255\\*.example");
        assert_eq!(Name([0].into()).to_string(), ".");
    }

    #[test]
    fn our_query_is_read_back() {
        let mut message = Vec::new();
        txt_query("sequence.music.example.com").write(0x1234, &mut message);
        let Reading::Query(query) = Query::read(&message) else { panic!("not read") };
        assert_eq!((query.id, query.flags), (0x1234, FLAG_RD));
        let question = query.question.unwrap();
        assert_eq!(question.octets_above(&name("music.example.com")), Some(9));
        assert_eq!((question.qtype, question.qclass), (Rtype::TXT, CLASS_IN));
        let edns = query.edns.unwrap();
        assert_eq!((edns.payload, edns.version, edns.dnssec_ok), (1232, 0, false));
        assert_eq!(edns.cookie, Some(&[7u8; 8][..]));
        for length in 0..message.len() {
            let reading = Query::read(&message[..length]);
            assert!(!matches!(reading, Reading::Query(_)), "cut to {length} octets");
        }
    }

    #[test]
    fn compression_in_a_question_is_refused_and_never_followed() {
        for pointer in [[0xC0, 12], [0xC0, 0], [0xC0, 14], [0xFF, 0xFF]] {
            let mut message = header(0, [1, 0, 0, 0]);
            message.extend_from_slice(&pointer);
            message.extend_from_slice(&[0, 16, 0, 1]);
            assert!(matches!(Query::read(&message), Reading::Header(Rcode::FORMERR)));
        }
    }

    #[test]
    fn a_name_in_an_answer_points_strictly_backward() {
        let mut message = response([1, 1, 0, 0]);
        let here = message.len() as u8;
        message.extend_from_slice(&[0xC0, here]);
        assert!(Name::read(&message, usize::from(here)).is_err());
        // A chain of 17 pointers, each to the one before.
        let mut chain = vec![0u8];
        chain.extend_from_slice(&[0xC0, 0]);
        (0..16).for_each(|link| chain.extend_from_slice(&[0xC0, 1 + 2 * link]));
        assert!(Name::read(&chain, 1 + 2 * 15).is_ok());
        let error = Name::read(&chain, 1 + 2 * 16);
        assert_eq!(error.err(), Some(ParseError::BadPointer { at: 1 }));
    }

    #[test]
    fn a_response_is_truncated_to_question_and_opt() {
        let mut message = header(FLAG_QR | FLAG_AA, [1, 2, 0, 1]);
        message.extend_from_slice(name("x.example").wire());
        message.extend_from_slice(&[0, 16, 0, 1]);
        let mut short = message.clone();
        record(&mut message, &[0xC0, 12], Rtype::TXT, 30, b"\x01a");
        record(&mut message, &[0xC0, 12], Rtype::TXT, 30, b"\x01b");
        record(&mut message, &[0], Rtype::OPT, 0, b"options");
        record(&mut short, &[0], Rtype::OPT, 0, b"options");
        short[2..4].copy_from_slice(&(FLAG_QR | FLAG_AA | FLAG_TC).to_be_bytes());
        short[7] = 0;
        assert_eq!(truncated(&message).unwrap(), short);
        assert_eq!(truncated(&message[..message.len() - 1]), None);
    }

    #[test]
    fn texts_come_from_the_end_of_the_cname_chain_in_any_order() {
        let asked = txt_query("x.example");
        let mut message = response([1, 5, 0, 0]);
        record(&mut message, name("z.example").wire(), Rtype::TXT, 30, b"\x01b");
        record(&mut message, &[0xC0, 12], Rtype::CNAME, 9, name("y.example").wire());
        record(&mut message, name("z.example").wire(), Rtype::TXT, 30, b"\x01a\x02cd");
        record(&mut message, name("y.EXAMPLE").wire(), Rtype::CNAME, 12, name("z.example").wire());
        record(&mut message, &[0xC0, 12], Rtype::TXT, 30, b"\x05wrong");
        let answer = Answer::read(&message, 0xABCD, &asked).unwrap();
        assert_eq!(answer.texts, [b"acd".to_vec(), b"b".to_vec()]);
        assert_eq!(answer.ttl, 9);
    }

    #[test]
    fn a_cname_loop_ends() {
        let asked = txt_query("x.example");
        let mut message = response([1, 1, 0, 0]);
        record(&mut message, &[0xC0, 12], Rtype::CNAME, 9, &[0xC0, 12]);
        assert_eq!(Answer::read(&message, 0xABCD, &asked), Err(ParseError::CnameChain));
    }

    #[test]
    fn unknown_records_are_stepped_over() {
        let asked = txt_query("x.example");
        let mut message = response([1, 2, 0, 1]);
        record(&mut message, &[0xC0, 12], Rtype(46), 30, &[1; 40]);
        record(&mut message, &[0xC0, 12], Rtype::TXT, 30, b"\x01a");
        record(&mut message, &[0], Rtype::OPT, 0x0100_8000, b"");
        let answer = Answer::read(&message, 0xABCD, &asked).unwrap();
        assert_eq!(answer.texts, [b"a".to_vec()]);
        assert_eq!((answer.edns, answer.rcode), (true, Rcode(16)));
    }

    #[test]
    fn an_answer_to_something_else_is_foreign() {
        let asked = txt_query("x.example");
        let message = response([1, 0, 0, 0]);
        assert!(Answer::read(&message, 0xABCD, &asked).is_ok());
        assert_eq!(Answer::read(&message, 0xABCE, &asked), Err(ParseError::Foreign));
        let other = txt_query("y.example");
        assert_eq!(Answer::read(&message, 0xABCD, &other), Err(ParseError::Foreign));
        let mut no_response = message.clone();
        no_response[2] = 0;
        assert_eq!(Answer::read(&no_response, 0xABCD, &asked), Err(ParseError::Foreign));
    }

    #[test]
    fn a_negative_answer_holds_for_the_smaller_of_two() {
        let asked = txt_query("x.example");
        for (ttl, minimum) in [(60, 1), (1, 3600)] {
            let mut message = response([1, 0, 1, 0]);
            let mut rdata = vec![0, 0];
            rdata.extend_from_slice(&[0; 16]);
            rdata.extend_from_slice(&u32::to_be_bytes(minimum));
            record(&mut message, name("example").wire(), Rtype::SOA, ttl, &rdata);
            let answer = Answer::read(&message, 0xABCD, &asked).unwrap();
            assert_eq!(answer.negative_ttl, Some(1));
        }
    }
}

//! Our reader of DNS messages against the `dns-parser` crate, which shares no code with it.
//!
//! Whatever `dns-parser` accepts is compared. It refuses much that is legal (types that it does not
//! know, the Z bit, labels that are not ASCII) and overlooks rules that a server must keep; where
//! ours refuses what it accepts, the rule is one of [`Rule`] and is checked to apply.

use aodns::wire::{
    Answer, FLAG_AA, FLAG_QR, FLAG_RD, FLAG_TC, Name, ParseError, Query, QueryTemplate, Question,
    Rcode, Reading, Rtype,
};
use dns_parser::{Class, Opcode, Packet, RData};

/// What a comparison of a query came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Found {
    /// `dns-parser` refuses the message: nothing to compare.
    Unread,
    /// Both read the same.
    Agreed,
    /// Ours refuses it, by this rule.
    Refused(Rule),
}

/// Why ours refuses what `dns-parser` accepts (row ids of the behaviour matrix).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// H02: a response.
    Response,
    /// H06: another opcode than QUERY.
    Opcode,
    /// Q01, Q03: not exactly one question.
    Questions,
    /// Q11: records in the answer or authority section. (IXFR may have one, and is a type that
    /// `dns-parser` refuses.)
    Records,
    /// Q05: a compressed name in the question.
    Compressed,
    /// Q07: a name of more than 255 octets.
    LongName,
    /// Q13: more than two additional records that mean nothing.
    Additional,
    /// E08: an OPT record whose owner is not the root, or options that overrun it. `dns-parser`
    /// does not look into options.
    Opt,
}

/// Reads `message` as a query with both.
///
/// # Panics
/// When they disagree.
pub fn compare_query(message: &[u8]) -> Found {
    let Ok(theirs) = Packet::parse(message) else { return Found::Unread };
    let header = &theirs.header;
    let refused = match Query::read(message) {
        Reading::Drop => {
            assert!(!header.query, "only responses are dropped");
            Rule::Response
        }
        Reading::Header(Rcode::NOTIMP) => {
            assert_ne!(header.opcode, Opcode::StandardQuery);
            Rule::Opcode
        }
        Reading::Header(rcode) => {
            assert_eq!(rcode, Rcode::FORMERR);
            refused_by(&theirs, message)
        }
        Reading::FormErr(question) => {
            compare_question(&question, &theirs);
            refused_by_additional(&theirs, message, &question)
        }
        Reading::Query(query) => {
            assert!(header.query && header.opcode == Opcode::StandardQuery);
            assert_eq!((query.id, query.flags & FLAG_QR), (header.id, 0));
            assert_eq!(query.flags & FLAG_AA != 0, header.authoritative);
            assert_eq!(query.flags & FLAG_TC != 0, header.truncated);
            assert_eq!(query.flags & FLAG_RD != 0, header.recursion_desired);
            assert_eq!((theirs.answers.len(), theirs.nameservers.len()), (0, 0));
            assert!(!query.signed, "TSIG is a type that dns-parser refuses");
            match &query.question {
                Some(question) => compare_question(question, &theirs),
                None => {
                    assert!(theirs.questions.is_empty());
                    assert!(query.edns.is_some_and(|edns| edns.cookie.is_some()), "Q02");
                }
            }
            assert_eq!(query.edns.is_some(), theirs.opt.is_some());
            if let Some((ours, theirs)) = query.edns.zip(theirs.opt.as_ref()) {
                assert_eq!((ours.payload, ours.version), (theirs.udp, theirs.version));
                assert_eq!(ours.dnssec_ok, theirs.flags & 0x8000 != 0);
            }
            return Found::Agreed;
        }
    };
    Found::Refused(refused)
}

/// The rule by which nothing but a header is answered.
fn refused_by(theirs: &Packet<'_>, message: &[u8]) -> Rule {
    let [question] = &theirs.questions[..] else { return Rule::Questions };
    if !theirs.answers.is_empty() || !theirs.nameservers.is_empty() {
        return Rule::Records;
    }
    // Our own walk of the name: it ends in a pointer, or it is too long.
    let octets = question.qname.byte_len();
    if octets >= 2 && message[12 + octets - 2] & 0xC0 == 0xC0 && !ends_in_zero(&message[12..]) {
        return Rule::Compressed;
    }
    assert!(octets > 255, "a good question is refused");
    Rule::LongName
}

/// Whether the name at the start of `octets` is uncompressed.
fn ends_in_zero(octets: &[u8]) -> bool {
    let mut at = 0;
    while (1..64).contains(&octets[at]) {
        at += 1 + usize::from(octets[at]);
    }
    octets[at] == 0
}

/// The rule by which the question comes back with FORMERR.
fn refused_by_additional(theirs: &Packet<'_>, message: &[u8], question: &Question<'_>) -> Rule {
    let mut at = 12 + question.octets.len();
    for _ in 0..theirs.header.additional {
        let owner = at;
        while (1..64).contains(&message[at]) {
            at += 1 + usize::from(message[at]);
        }
        at += if message[at] == 0 { 1 } else { 2 };
        let word = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
        let rdata = &message[at + 10..at + 10 + usize::from(word(at + 8))];
        if word(at) == Rtype::OPT.0 && (message[owner] != 0 || !options_fit(rdata)) {
            return Rule::Opt;
        }
        if at - owner > 255 {
            return Rule::LongName;
        }
        at += 10 + rdata.len();
    }
    assert!(theirs.additional.len() > 2, "good additional records are refused");
    Rule::Additional
}

fn options_fit(mut rdata: &[u8]) -> bool {
    while let [_, _, high, low, rest @ ..] = rdata {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let Some(after) = rest.get(length..) else { return false };
        rdata = after;
    }
    rdata.is_empty()
}

fn compare_question(ours: &Question<'_>, theirs: &Packet<'_>) {
    let [question] = &theirs.questions[..] else { panic!("one question") };
    assert_eq!(ours.qtype.0, question.qtype as u16);
    // It takes the top bit of the class off, as in multicast DNS (N19).
    let top = u16::from(question.prefer_unicast) << 15;
    assert_eq!(ours.qclass, question.qclass as u16 | top);
    // It prints labels as they are, dots and all; ours has no compression, so this cannot recurse.
    assert_eq!(dotted(ours.name()), question.qname.to_string());
}

/// The labels of an uncompressed name of ASCII, joined by dots, without any escapes.
fn dotted(wire: &[u8]) -> String {
    let mut labels = Vec::new();
    let mut rest = wire;
    while let [length @ 1..=63, tail @ ..] = rest {
        let (label, after) = tail.split_at(usize::from(*length));
        labels.push(std::str::from_utf8(label).expect("dns-parser takes ASCII only"));
        rest = after;
    }
    labels.join(".")
}

/// Reads `message` as the response to `asked` with both, and returns what ours made of it; `None`
/// when `dns-parser` refuses it. For messages whose names hold no dots inside labels.
///
/// # Panics
/// When they disagree.
pub fn compare_answer(message: &[u8], asked: &QueryTemplate) -> Option<Result<Answer, ParseError>> {
    let theirs = Packet::parse(message).ok()?;
    let header = &theirs.header;
    let ours = Answer::read(message, header.id, asked);
    let Ok(answer) = &ours else {
        // Ours refuses no more than what does not answer the question.
        let same = matches!(&theirs.questions[..], [question]
            if same_name(&question.qname.to_string(), &asked.name)
                && question.qtype as u16 == asked.qtype.0);
        assert!(header.query || header.opcode != Opcode::StandardQuery || !same, "{ours:?}");
        return Some(ours);
    };
    assert!(!header.query && header.opcode == Opcode::StandardQuery);
    let rcode: u8 = header.response_code.into();
    let extended = theirs.opt.as_ref().map_or(0, |opt| u16::from(opt.extrcode) << 4);
    assert_eq!(answer.rcode.0, u16::from(rcode) | if answer.truncated { 0 } else { extended });
    assert_eq!(answer.authoritative, header.authoritative);
    assert_eq!(answer.truncated, header.truncated);
    if answer.truncated {
        assert!(answer.texts.is_empty());
        return Some(ours);
    }
    assert_eq!(answer.edns, theirs.opt.is_some());

    let mut owner = asked.name.to_string();
    let mut ttl = u32::MAX;
    let same = |a: &dns_parser::Name<'_>, b: &str| a.to_string().eq_ignore_ascii_case(b);
    while let Some((target, link)) = theirs.answers.iter().find_map(|record| match &record.data {
        RData::CNAME(cname) if same(&record.name, &owner) => Some((cname.0, record.ttl)),
        _ => None,
    }) {
        owner = target.to_string();
        ttl = ttl.min(link);
    }
    let mut texts = Vec::new();
    for record in &theirs.answers {
        let RData::TXT(txt) = &record.data else { continue };
        let ours = record.cls == Class::IN && asked.qtype == Rtype::TXT;
        if ours && same(&record.name, &owner) {
            texts.push(txt.iter().flatten().copied().collect::<Vec<u8>>());
            ttl = ttl.min(record.ttl);
        }
    }
    texts.sort();
    texts.dedup();
    assert_eq!(answer.texts, texts);
    assert_eq!(answer.ttl, if texts.is_empty() { 0 } else { ttl });
    let soa = theirs.nameservers.iter().rev().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(record.ttl.min(soa.minimum_ttl)),
        _ => None,
    });
    assert_eq!(answer.negative_ttl, soa);
    Some(ours)
}

fn same_name(text: &str, name: &Name) -> bool {
    dotted(name.wire()).eq_ignore_ascii_case(text)
}

//! The list of the public DNS compliance tester (RFC 8906, section 8), over UDP and TCP.

use super::Bench;
use super::dns::*;
use super::edns::tsig;

/// Every type that the tester asks for at the apex, but those that are there.
const TYPES: &[(&str, u16)] = &[
    ("A", 1),
    ("MD", 3),
    ("MF", 4),
    ("CNAME", 5),
    ("MB", 7),
    ("MG", 8),
    ("MR", 9),
    ("NULL", 10),
    ("WKS", 11),
    ("PTR", 12),
    ("HINFO", 13),
    ("MINFO", 14),
    ("MX", 15),
    ("TXT", 16),
    ("RP", 17),
    ("AFSDB", 18),
    ("X25", 19),
    ("ISDN", 20),
    ("RT", 21),
    ("NSAP", 22),
    ("NSAP-PTR", 23),
    ("SIG", 24),
    ("KEY", 25),
    ("PX", 26),
    ("GPOS", 27),
    ("AAAA", 28),
    ("LOC", 29),
    ("NXT", 30),
    ("SRV", 33),
    ("NAPTR", 35),
    ("KX", 36),
    ("CERT", 37),
    ("A6", 38),
    ("DNAME", 39),
    ("APL", 42),
    ("DS", 43),
    ("SSHFP", 44),
    ("IPSECKEY", 45),
    ("RRSIG", 46),
    ("NSEC", 47),
    ("DNSKEY", 48),
    ("DHCID", 49),
    ("NSEC3", 50),
    ("NSEC3PARAM", 51),
    ("TLSA", 52),
    ("SMIMEA", 53),
    ("HIP", 55),
    ("CDS", 59),
    ("CDNSKEY", 60),
    ("OPENPGPKEY", 61),
    ("SPF", 99),
    ("NID", 104),
    ("L32", 105),
    ("L64", 106),
    ("LP", 107),
    ("EUI48", 108),
    ("EUI64", 109),
    ("URI", 256),
    ("CAA", 257),
    ("AVC", 258),
    ("DOA", 259),
    ("DLV", 32_769),
    ("TYPE1000", 1000),
    ("TYPE666", 666),
];

/// What is asked: name of the test, flags, EDNS; the tester asks for the apex SOA.
const NSID: &[u8] = &[0, 3, 0, 0];
const COOKIE: &[u8] = &[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8];
const EXPIRE: &[u8] = &[0, 9, 0, 0];
const SUBNET: &[u8] = &[0, 8, 0, 4, 0, 1, 0, 0];
const UNKNOWN: &[u8] = &[0, 100, 0, 0];

pub fn run(bench: &Bench) {
    let apex = name("music.example.com");
    let soa = question(&apex, SOA, IN);
    let mut passed = Vec::new();
    let lab = &bench.lab;

    let plain_tests = [
        ("dns", 0),
        ("aa", AA),
        ("ad", 0x20),
        ("cd", 0x10),
        ("ra", 0x80),
        ("rd", RD),
        ("tc", TC),
        ("zflag", 0x40),
    ];
    for (test, flags) in plain_tests {
        lab.both(&message(1, flags, [1, 0, 0, 0], &[&soa]), |answer| {
            answer.expect(QR | AA | flags & RD, [1, 1, 0, 0]);
            answer.check_soa(&answer.answer[0]);
        });
        passed.push(test);
    }
    passed.push("tcp");
    lab.both(&message(1, 15 << 11, [0; 4], &[]), |answer| {
        answer.expect(QR | 15 << 11 | 4, [0; 4]);
    });
    lab.both(&message(1, 15 << 11 | 0x7F0, [0; 4], &[]), |answer| {
        answer.expect(QR | 15 << 11 | 4, [0; 4]);
    });
    passed.extend(["opcode", "opcodeflg"]);
    for &(test, qtype) in TYPES {
        lab.both(&plain(&apex, qtype), |answer| {
            answer.expect(QR | AA, [1, 0, 1, 0]).soa(1);
        });
        passed.push(test);
    }
    for (test, qtype) in [("SOA", SOA), ("NS", NS)] {
        lab.both(&plain(&apex, qtype), |answer| assert_eq!(answer.answer[0].rtype, qtype));
        passed.push(test);
    }

    // With EDNS: size, word of version and flags, options; the flags that come back.
    let all = [NSID, SUBNET, EXPIRE, COOKIE].concat();
    let edns_tests: [(&str, u16, u32, &[u8], u32); 12] = [
        ("edns", 4096, 0, &[], 0),
        ("do", 4096, 0x8000, &[], 0x8000),
        ("ednsflags", 4096, 0x0080, &[], 0),
        ("ednsopt", 4096, 0, UNKNOWN, 0),
        ("ednsnsid", 4096, 0, NSID, 0),
        ("ednscookie", 4096, 0, COOKIE, 0),
        ("ednsexpire", 4096, 0, EXPIRE, 0),
        ("ednssubnet", 4096, 0, SUBNET, 0),
        ("optlist", 4096, 0, &all, 0),
        ("bind11", 4096, 0x8000, &all, 0x8000),
        ("dig11", 4096, 0, COOKIE, 0),
        ("signed", 4096, 0x8000, &[], 0x8000),
    ];
    for (test, size, word, options, back) in edns_tests {
        lab.both(&message(1, 0, [1, 0, 0, 1], &[&soa, &opt(size, word, options)]), |answer| {
            answer.expect(QR | AA, [1, 1, 0, 1]);
            let opt = answer.opt().unwrap();
            assert_eq!((opt.class, opt.ttl), (1232, back), "{test}");
            let codes: Vec<u16> = answer.options().iter().map(|(code, _)| *code).collect();
            let cookie = options.windows(4).any(|window| window == &COOKIE[..4]);
            assert_eq!(codes, if cookie { vec![10] } else { vec![] }, "{test}");
        });
        passed.push(test);
    }
    passed.push("ednstcp");
    lab.both(&message(1, 0x10, [1, 0, 0, 1], &[&soa, &opt(4096, 0x8000, &[])]), |answer| {
        answer.expect(QR | AA, [1, 1, 0, 1]);
        assert_eq!(answer.opt().unwrap().ttl, 0x8000);
    });
    passed.push("docd");
    // A large answer does not fit 512 octets: no error, and not more octets than that.
    let dnskey = question(&apex, 48, IN);
    let short = lab.udp(&message(1, 0, [1, 0, 0, 1], &[&dnskey, &opt(512, 0x8000, &[])]));
    short.expect(QR | AA, [1, 0, 1, 1]);
    assert!(short.octets.len() <= 512);
    passed.push("edns@512");

    let edns1_tests: [(&str, u32, &[u8]); 7] = [
        ("edns1", 0, &[]),
        ("edns1opt", 0, UNKNOWN),
        ("edns1do", 0x8000, &[]),
        ("edns1nsid", 0, NSID),
        ("edns1cookie", 0, COOKIE),
        ("edns1expire", 0, EXPIRE),
        ("edns1subnet", 0, SUBNET),
    ];
    for (test, flags, options) in edns1_tests {
        let opt = opt(4096, 1 << 16 | flags, options);
        lab.both(&message(1, 0, [1, 0, 0, 1], &[&soa, &opt]), |answer| {
            answer.expect(QR, [1, 0, 0, 1]);
            assert_eq!((answer.rcode(), answer.opt().unwrap().ttl), (16, 1 << 24 | flags));
            assert!(answer.options().is_empty());
        });
        passed.push(test);
    }
    // A TSIG record with a key that everybody knows.
    lab.both(&message(1, 0, [1, 0, 0, 1], &[&soa, &tsig(".")]), |answer| {
        answer.expect(QR | 9, [1, 0, 0, 0]);
    });
    passed.push("tsig");
    println!("compliance: {}", passed.join(" "));
}

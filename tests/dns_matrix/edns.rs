//! Rows of sections 1.4 (EDNS) and 1.6 (TSIG).

use super::dns::*;
use super::{Bench, Row};
use std::net::Ipv4Addr;

pub const ROWS: &[Row] = &[
    ("E01", e01_no_opt),
    ("E02", e02_version_0),
    ("E03", e03_dnssec_ok),
    ("E04", e04_unknown_flags),
    ("E05", e05_unknown_options),
    ("E06", e06_other_versions),
    ("E07", e07_two_opt),
    ("E08", e08_malformed_opt),
    ("E09", e09_small_sizes),
    ("E10", e10_nsid),
    ("E11", e11_client_cookie),
    ("E12", e12_valid_cookie),
    ("E13", e13_cookies_that_are_not_ours),
    ("E14", e14_cookies_of_no_length),
    ("E15", e15_client_subnet),
    ("E16", e16_expire),
    ("E17", e17_keepalive_over_udp),
    ("E18", e18_keepalive_over_tcp),
    ("E19", e19_padding),
    ("E20", e20_what_bind_sends),
    ("K01", k01_tsig),
    ("K02", k02_tsig_out_of_place),
];

/// OPT of an answer without options: version 0, 1232 octets.
fn expect_opt(answer: &Parsed, word: u32) {
    let opt = answer.opt().expect("an OPT record");
    assert_eq!(answer.additional.last(), Some(opt));
    assert_eq!((&opt.owner[..], opt.class, opt.ttl), (&[0][..], 1232, word));
}

/// A query for the list with one OPT record.
fn with_opt(size: u16, word: u32, options: &[u8]) -> Vec<u8> {
    edns(&below("sequence"), TXT, &opt(size, word, options))
}

/// Asserts that a query for the list is answered as if its options were not there.
fn ignored(bench: &Bench, options: &[u8]) {
    bench.lab.both(&with_opt(4096, 0, options), |answer| {
        answer.expect(QR | AA, [1, 1, 0, 1]);
        expect_opt(answer, 0);
        assert!(answer.options().is_empty());
    });
}

fn e01_no_opt(bench: &Bench) {
    for name in [below("sequence"), below("foo"), name("music.example.com"), name("org")] {
        for qtype in [TXT, NS, SOA] {
            bench.lab.both(&plain(&name, qtype), |answer| assert_eq!(answer.opt(), None));
        }
    }
}

fn e02_version_0(bench: &Bench) {
    for (name, qtype) in [(below("sequence"), TXT), (below("foo"), TXT), (name("org"), SOA)] {
        bench.lab.both(&edns(&name, qtype, &opt(1232, 0, &[])), |answer| {
            expect_opt(answer, 0);
            assert!(answer.options().is_empty());
        });
    }
}

fn e03_dnssec_ok(bench: &Bench) {
    bench.lab.both(&with_opt(1232, 0x8000, &[]), |answer| {
        answer.expect(QR | AA, [1, 1, 0, 1]);
        expect_opt(answer, 0x8000);
    });
    bench.lab.both(&edns(&below("foo"), TXT, &opt(1232, 0x8000, &[])), |answer| {
        answer.expect(QR | AA | 3, [1, 0, 1, 1]).soa(1);
        expect_opt(answer, 0x8000);
    });
}

fn e04_unknown_flags(bench: &Bench) {
    for bit in 0..15 {
        bench.lab.both(&with_opt(1232, 1 << bit, &[]), |answer| {
            answer.expect(QR | AA, [1, 1, 0, 1]);
            expect_opt(answer, 0);
        });
    }
    bench.lab.both(&with_opt(1232, 0xFF00_FFFF, &[]), |answer| {
        answer.expect(QR | AA, [1, 1, 0, 1]);
        expect_opt(answer, 0x8000);
    });
}

fn e05_unknown_options(bench: &Bench) {
    for code in [0, 1, 2, 4, 100, 65_001, 65_535] {
        ignored(bench, &option(code, &[]));
        ignored(bench, &option(code, &[0xAA; 300]));
        ignored(bench, &[option(code, b"one"), option(code, b"two"), option(1, b"")].concat());
    }
}

fn e06_other_versions(bench: &Bench) {
    let question = |name: &[u8]| question(name, TXT, IN);
    for version in 1..=255u32 {
        let query = with_opt(4096, version << 16, &[]);
        let answer = bench.lab.udp(&query);
        answer.expect(QR, [1, 0, 0, 1]);
        expect_opt(&answer, 1 << 24);
    }
    let options = [option(3, &[]), option(10, b"clientck"), option(65_001, &[1; 9])].concat();
    for name in [below("sequence"), below("foo"), name("org"), name("music.example.com")] {
        for dnssec_ok in [0, 0x8000] {
            for options in [&[][..], &options] {
                let opt = opt(512, 1 << 16 | dnssec_ok, options);
                let query = message(2, RD, [1, 0, 0, 1], &[&question(&name), &opt]);
                bench.named.both(&query, |answer| {
                    answer.expect(QR | RD, [1, 0, 0, 1]);
                    expect_opt(answer, 1 << 24 | dnssec_ok);
                    assert!(answer.options().is_empty());
                });
            }
        }
    }
}

fn e07_two_opt(bench: &Bench) {
    let text = question(&below("sequence"), TXT, IN);
    let opt = opt(1232, 0, &[]);
    let query = message(2, 0, [1, 0, 0, 2], &[&text, &opt, &opt]);
    bench.lab.both(&query, |answer| {
        answer.expect(QR | 1, [1, 0, 0, 0]);
        assert_eq!(answer.question, text);
    });
}

fn e08_malformed_opt(bench: &Bench) {
    let text = question(&below("sequence"), TXT, IN);
    let good = opt(1232, 0, &option(65_001, b"abc"));
    let owned = [b"\x01a", &good[..]].concat();
    let by_pointer = [&[0xC0, 12], &good[1..]].concat();
    let mut overrun = good.clone();
    overrun[10] += 1;
    let mut option_overrun = good.clone();
    option_overrun[14] += 1;
    let mut half_option = good.clone();
    half_option[10] = 3;
    for bad in [&owned, &by_pointer, &overrun, &option_overrun, &half_option] {
        let query = message(2, 0, [1, 0, 0, 1], &[&text, bad]);
        bench.lab.both(&query, |answer| {
            answer.expect(QR | 1, [1, 0, 0, 0]);
        });
    }
    for counts in [[1, 1, 0, 0], [1, 0, 1, 0]] {
        let query = message(2, 0, counts, &[&text, &good]);
        bench.lab.both(&query, |answer| assert_eq!((answer.rcode(), answer.opt()), (1, None)));
    }
}

fn e09_small_sizes(bench: &Bench) {
    // 300 octets of records fit 512 and would not fit the sizes that are told here.
    for size in [0, 1, 100, 511, 512] {
        bench.lab.both(&edns(&seq(FIRST), TXT, &opt(size, 0, &[])), |answer| {
            answer.expect(QR | AA, [1, strings(300).len() as u16, 0, 1]);
        });
        let large = bench.lab.udp(&edns(&seq(FIRST + 1), TXT, &opt(size, 0, &[])));
        large.expect(QR | AA | TC, [1, 0, 0, 1]);
    }
}

fn e10_nsid(bench: &Bench) {
    bench.named.both(&with_opt(1232, 0, &option(3, &[])), |answer| {
        answer.expect(QR | AA, [1, 1, 0, 1]);
        assert_eq!(answer.only_option(3), b"node-7");
    });
    bench.named.both(&with_opt(1232, 0, &[]), |answer| assert!(answer.options().is_empty()));
    ignored(bench, &option(3, &[]));
}

fn e11_client_cookie(bench: &Bench) {
    bench.lab.both(&with_opt(1232, 0, &option(10, b"clientck")), |answer| {
        answer.expect(QR | AA, [1, 1, 0, 1]);
        let cookie = answer.only_option(10);
        let time = u32::from_be_bytes(cookie[12..16].try_into().unwrap());
        assert!(unix_seconds() - time < 60);
        assert_eq!(cookie, server_cookie(b"clientck", time, Ipv4Addr::LOCALHOST));
    });
    // For errors as well.
    let query = edns(&name("org"), TXT, &opt(1232, 0, &option(10, b"clientck")));
    bench.lab.both(&query, |answer| {
        answer.expect(QR | 5, [1, 0, 0, 1]);
        assert_eq!(answer.only_option(10).len(), 24);
    });
}

fn e12_valid_cookie(bench: &Bench) {
    let now = unix_seconds();
    // What is younger than half an hour is kept, what is older is renewed; both are good.
    for (age, kept) in [(0, true), (1000, true), (1900, false), (3500, false)] {
        let cookie = server_cookie(b"clientck", now - age, Ipv4Addr::LOCALHOST);
        let before = bench.lab.responder.stats().verified;
        let answer = bench.lab.udp(&with_opt(1232, 0, &option(10, &cookie)));
        answer.expect(QR | AA, [1, 1, 0, 1]);
        assert_eq!(answer.only_option(10) == cookie, kept, "at an age of {age} s");
        assert_eq!(answer.only_option(10).len(), 24);
        bench.lab.wait_until("verified", |stats| stats.verified == before + 1);
    }
}

fn e13_cookies_that_are_not_ours(bench: &Bench) {
    let now = unix_seconds();
    let mut forged = server_cookie(b"clientck", now, Ipv4Addr::LOCALHOST);
    forged[23] ^= 1;
    let mut cookies = vec![
        forged,
        server_cookie(b"clientck", now - 3700, Ipv4Addr::LOCALHOST),
        server_cookie(b"clientck", now + 400, Ipv4Addr::LOCALHOST),
        server_cookie(b"clientck", now, Ipv4Addr::new(127, 0, 0, 9)),
        [b"clientcK", &server_cookie(b"clientck", now, Ipv4Addr::LOCALHOST)[8..]].concat(),
    ];
    cookies.extend((16..=40).map(|length| vec![7; length]));
    let before = bench.lab.responder.stats().verified;
    for cookie in cookies {
        bench.lab.both(&with_opt(1232, 0, &option(10, &cookie)), |answer| {
            answer.expect(QR | AA, [1, 1, 0, 1]);
            let fresh = answer.only_option(10);
            assert_eq!((fresh.len(), &fresh[..8]), (24, &cookie[..8]));
            assert_ne!(fresh, cookie);
        });
    }
    assert_eq!(bench.lab.responder.stats().verified, before);
    // While the budget is spent it is BADCOOKIE, and the fresh cookie in it makes good.
    let mut plan = Plan::new().with_sections(&[300]);
    plan.settings.limits.exempt.clear();
    plan.settings.limits.excess_burst = 0;
    let lab = plan.start();
    let answer = lab.udp(&with_opt(1232, 0, &option(10, &[7; 24])));
    answer.expect(QR | 7, [1, 0, 0, 1]);
    assert_eq!(answer.rcode(), 23);
    let cookie = answer.only_option(10);
    let answer = lab.udp(&with_opt(1232, 0, &option(10, &cookie)));
    answer.expect(QR | AA, [1, 1, 0, 1]);
}

fn e14_cookies_of_no_length(bench: &Bench) {
    for length in (0..8).chain(9..16).chain([41, 48, 100]) {
        bench.lab.both(&with_opt(1232, 0, &option(10, &vec![7; length])), |answer| {
            answer.expect(QR | 1, [1, 0, 0, 1]);
            expect_opt(answer, 0);
            assert!(answer.options().is_empty());
        });
    }
}

fn e15_client_subnet(bench: &Bench) {
    for value in [&[0, 1, 24, 0, 192, 0, 2][..], &[0, 2, 56, 0], &[], &[9; 50], &[0, 1, 255, 255]] {
        ignored(bench, &option(8, value));
    }
}

fn e16_expire(bench: &Bench) {
    ignored(bench, &option(9, &[]));
    bench.lab.both(
        &edns(&name("music.example.com"), SOA, &opt(1232, 0, &option(9, &[]))),
        |answer| {
            answer.expect(QR | AA, [1, 1, 0, 1]);
            assert!(answer.options().is_empty());
        },
    );
}

fn e17_keepalive_over_udp(bench: &Bench) {
    for value in [&[][..], &[0, 100]] {
        let answer = bench.lab.udp(&with_opt(1232, 0, &option(11, value)));
        answer.expect(QR | AA, [1, 1, 0, 1]);
        assert!(answer.options().is_empty());
    }
}

fn e18_keepalive_over_tcp(bench: &Bench) {
    let answer = bench.lab.tcp(&with_opt(1232, 0, &option(11, &[])));
    answer.expect(QR | AA, [1, 1, 0, 1]);
    // 10 s in units of 100 ms.
    assert_eq!(answer.only_option(11), [0, 100]);
    assert!(bench.lab.tcp(&with_opt(1232, 0, &[])).options().is_empty());
}

fn e19_padding(bench: &Bench) {
    for length in [0, 1, 128, 400] {
        ignored(bench, &option(12, &vec![0; length]));
    }
}

fn e20_what_bind_sends(bench: &Bench) {
    let options = [
        option(3, &[]),
        option(8, &[0, 1, 24, 0, 192, 0, 2]),
        option(9, &[]),
        option(10, b"clientck"),
    ]
    .concat();
    bench.lab.both(&with_opt(4096, 0, &options), |answer| {
        answer.expect(QR | AA, [1, 1, 0, 1]);
        assert_eq!(answer.only_option(10).len(), 24);
    });
    bench.named.both(&with_opt(4096, 0, &options), |answer| {
        answer.expect(QR | AA, [1, 1, 0, 1]);
        let codes: Vec<u16> = answer.options().iter().map(|(code, _)| *code).collect();
        assert_eq!(codes, [3, 10]);
    });
}

/// A TSIG record: `hmac-sha256`, a MAC of 32 octets, a key of this name.
pub fn tsig(key: &str) -> Vec<u8> {
    let mac = [0xAB; 32];
    let rdata = [
        &name("hmac-sha256")[..],
        &[0, 0],
        &unix_seconds().to_be_bytes(),
        &[1, 44, 0, 32],
        &mac,
        &[0x12, 0x34, 0, 0, 0, 0],
    ]
    .concat();
    let head = [&name(key)[..], &250u16.to_be_bytes(), &255u16.to_be_bytes(), &[0; 4]].concat();
    [&head[..], &(rdata.len() as u16).to_be_bytes(), &rdata].concat()
}

fn k01_tsig(bench: &Bench) {
    let text = question(&below("sequence"), TXT, IN);
    let query = message(2, 0, [1, 0, 0, 1], &[&text, &tsig("key.example")]);
    bench.lab.both(&query, |answer| {
        answer.expect(QR | 9, [1, 0, 0, 0]);
    });
    let query = message(2, 0, [1, 0, 0, 2], &[&text, &opt(1232, 0, &[]), &tsig("key.example")]);
    bench.lab.both(&query, |answer| {
        answer.expect(QR | 9, [1, 0, 0, 1]);
    });
}

fn k02_tsig_out_of_place(bench: &Bench) {
    let text = question(&below("sequence"), TXT, IN);
    let (tsig, opt) = (tsig("key.example"), opt(1232, 0, &[]));
    for body in [[&tsig, &opt], [&tsig, &tsig]] {
        let query = message(2, 0, [1, 0, 0, 2], &[&text, &body.map(|part| &part[..]).concat()]);
        bench.lab.both(&query, |answer| assert_eq!(answer.rcode(), 1));
    }
}

//! Rows of section 1.3: names, types and classes.

use super::dns::*;
use super::{Bench, Row, SECTIONS};
use aodns::pipeline::moment;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

pub const ROWS: &[Row] = &[
    ("N01", n01_the_list),
    ("N02", n02_a_segment),
    ("N03", n03_other_types_of_names_that_exist),
    ("N04", n04_names_that_do_not_exist),
    ("N05", n05_names_with_nothing_of_their_own),
    ("N06", n06_numbers_gone_by),
    ("N07", n07_the_next_segment_is_held),
    ("N08", n08_other_types_of_the_next_segment),
    ("N09", n09_numbers_to_come),
    ("N10", n10_numbers_are_canonical),
    ("N11", n11_the_apex),
    ("N12", n12_other_types_at_the_apex),
    ("N13", n13_names_outside),
    ("N14", n14_any),
    ("N15", n15_axfr_over_udp),
    ("N16", n16_transfers),
    ("N17", n17_types_that_are_no_types),
    ("N18", n18_class_chaos),
    ("N19", n19_other_classes),
    ("N20", n20_never_servfail),
];

fn n01_the_list(bench: &Bench) {
    bench.lab.both(&plain(&below("sequence"), TXT), |answer| {
        answer.expect(QR | AA, [1, 1, 0, 0]);
        let list = &answer.answer[0];
        assert_eq!((list.rtype, list.class, list.ttl, list.owner_raw), (TXT, IN, 10, [0xC0, 12]));
        assert_eq!(usize::from(list.rdata[0]), list.rdata.len() - 1, "one string");
        let numbers = aodns::segment::decode_list(&list.rdata[1..]).unwrap();
        assert_eq!(numbers, [FIRST, FIRST + 1, FIRST + 2]);
    });
}

fn n02_a_segment(bench: &Bench) {
    let number = FIRST + 1;
    let check = |answer: &Parsed| {
        let expected = strings(SECTIONS[1]);
        answer.expect(QR | AA, [1, expected.len() as u16, 0, 1]);
        assert!(answer.authority.is_empty());
        for (record, string) in answer.answer.iter().zip(&expected) {
            // 75 segments of 720 ms last 54 s, of which 80 % are 43.2 s.
            assert_eq!((record.rtype, record.class, record.ttl), (TXT, IN, 43));
            assert_eq!(record.rdata, [&[string.len() as u8], &string[..]].concat());
        }
    };
    bench.lab.both(&edns(&seq(number), TXT, &opt(1232, 0, &[])), check);
}

/// Types that a name of ours has not: unknown ones, DNSSEC's, and those that browsers ask for.
const OTHER_TYPES: [u16; 16] =
    [1, 2, 5, 6, 15, 28, 33, 43, 46, 48, 64, 65, 257, 666, 32_769, 65_280];

fn n03_other_types_of_names_that_exist(bench: &Bench) {
    for label in ["sequence", "config", "now_x", &format!("seq_{FIRST}"), "seq_1"] {
        for qtype in OTHER_TYPES {
            bench.lab.both(&plain(&below(label), qtype), |answer| {
                answer.expect(QR | AA, [1, 0, 1, 0]).soa(1);
            });
        }
    }
    bench.lab.both(&plain(&below("ns"), TXT), |answer| {
        answer.expect(QR | AA, [1, 0, 1, 0]).soa(1);
    });
}

fn n04_names_that_do_not_exist(bench: &Bench) {
    let labels = [
        "foo",
        "x.sequence",
        "seq_abc",
        "seq_",
        "seq_-1",
        "_dmarc",
        "sequence1",
        "seq",
        "xsequence",
        "seq_1.x",
        "now_",
        "now_12345678901234567",
        "now_a-b",
        "www.ns",
    ];
    for label in labels {
        for qtype in [TXT, A, 255] {
            bench.lab.both(&plain(&below(label), qtype), |answer| {
                answer.expect(QR | AA | 3, [1, 0, 1, 0]).soa(1);
            });
        }
    }
}

fn n05_names_with_nothing_of_their_own(bench: &Bench) {
    for qtype in [TXT, A, NS, 65, 255] {
        bench.lab.both(&plain(&below("deep"), qtype), |answer| {
            answer.expect(QR | AA, [1, 0, 1, 0]).soa(1);
        });
    }
    bench.lab.both(&plain(&below("a.deep"), A), |answer| {
        answer.expect(QR | AA, [1, 1, 0, 0]);
    });
    bench.lab.both(&plain(&below("b.deep"), A), |answer| {
        answer.expect(QR | AA | 3, [1, 0, 1, 0]).soa(1);
    });
}

fn n06_numbers_gone_by(bench: &Bench) {
    for number in [0, 1, FIRST - 1] {
        for qtype in [TXT, A, 255] {
            bench.lab.both(&plain(&seq(number), qtype), |answer| {
                answer.expect(QR | AA, [1, 0, 1, 0]).soa(1);
            });
        }
    }
}

/// A stream whose next segment is due `due` from now.
fn due_in(due: Duration) -> Lab {
    let mut plan = Plan::new().with_sections(&[300]);
    plan.longest = due;
    plan.start()
}

/// Tries until everything went as fast as the row needs it, which a loaded machine may not do.
fn in_time(what: &str, attempt: impl Fn() -> bool) {
    assert!((0..20).any(|_| attempt()), "{what}: the machine is too slow, 20 times in a row");
}

fn n07_the_next_segment_is_held(_: &Bench) {
    for over_tcp in [false, true] {
        in_time("N07", || {
            let begun = Instant::now();
            let lab = due_in(Duration::from_millis(650));
            let query = plain(&seq(FIRST + 1), TXT);
            let udp = udp_client(lab.addr);
            let mut tcp = tcp_client(lab.addr);
            match over_tcp {
                true => send_framed(&mut tcp, &query),
                false => drop(udp.send(&query).unwrap()),
            }
            lab.wait_until("held or answered", |stats| {
                stats.held + stats.answers.iter().sum::<u64>() > 0
            });
            if lab.responder.stats().held == 0 {
                assert!(begun.elapsed() > Duration::from_millis(900), "denied in time to be held");
                return false;
            }
            udp.set_nonblocking(true).unwrap();
            tcp.set_nonblocking(true).unwrap();
            let early = match over_tcp {
                true => tcp.peek(&mut [0]).map(drop),
                false => udp.peek(&mut [0]).map(drop),
            };
            let number = lab.publish(strings(280), moment());
            assert_eq!(number, FIRST + 1);
            udp.set_nonblocking(false).unwrap();
            tcp.set_nonblocking(false).unwrap();
            let answer = match over_tcp {
                true => parse(&receive_framed(&mut tcp).unwrap()),
                false => parse(&receive(&udp)),
            };
            if answer.answer.is_empty() {
                assert!(begun.elapsed() > Duration::from_millis(900), "given up too early");
                return false;
            }
            assert_eq!(early.unwrap_err().kind(), ErrorKind::WouldBlock, "nothing before its time");
            answer.expect(QR | AA, [1, 2, 0, 0]);
            assert_eq!(answer.answer[1].rdata[1..], strings(280)[1]);
            lab.wait_until("released", |stats| stats.released == 1);
            true
        });
    }
    // D7: what is more than 300 ms late is denied, as is what is asked for too late to be held.
    in_time("D7", || {
        let lab = due_in(Duration::from_millis(200));
        let begun = Instant::now();
        let answer = lab.udp(&plain(&seq(FIRST + 1), TXT));
        answer.expect(QR | AA, [1, 0, 1, 0]).soa(0);
        // The responder was started before `begun`, and its clock of the segment before that.
        let expired = lab.responder.stats().hold_expired == 1;
        assert!(expired || begun.elapsed() < Duration::from_millis(500));
        expired
    });
}

fn n08_other_types_of_the_next_segment(_: &Bench) {
    in_time("N08", || {
        let begun = Instant::now();
        let lab = due_in(Duration::from_millis(650));
        let answers: Vec<Parsed> = [A, AAAA, NS, 65, 255]
            .iter()
            .map(|&qtype| lab.udp(&plain(&seq(FIRST + 1), qtype)))
            .collect();
        if begun.elapsed() > Duration::from_millis(900) {
            return false;
        }
        for answer in answers {
            answer.expect(QR | AA, [1, 0, 1, 0]).soa(0);
        }
        assert_eq!(lab.responder.stats().held, 0);
        true
    });
}

fn n09_numbers_to_come(bench: &Bench) {
    in_time("N09", || {
        let begun = Instant::now();
        let lab = due_in(Duration::from_millis(1900));
        let soon = lab.udp(&plain(&seq(FIRST + 1), TXT));
        if begun.elapsed() > Duration::from_millis(1000) {
            return false;
        }
        // Beyond the hold window, within two seconds; and the one behind it, beyond both.
        soon.expect(QR | AA, [1, 0, 1, 0]).soa(0);
        lab.tcp(&plain(&seq(FIRST + 2), TXT)).expect(QR | AA, [1, 0, 1, 0]).soa(1);
        assert_eq!(lab.responder.stats().held, 0);
        true
    });
    for number in [FIRST + 3, FIRST + 1000, u64::MAX] {
        bench.lab.both(&plain(&seq(number), TXT), |answer| {
            answer.expect(QR | AA, [1, 0, 1, 0]).soa(1);
        });
    }
}

fn n10_numbers_are_canonical(bench: &Bench) {
    let padded = format!("seq_0{FIRST}");
    let labels = [
        "seq_007",
        "seq_+7",
        "seq_00",
        "seq_18446744073709551616",
        "seq_ 7",
        "seq_99999999999999999999999999",
        &padded,
        "seq_7a",
        "seq_0x7",
    ];
    for label in labels {
        bench.lab.both(&plain(&below(label), TXT), |answer| {
            answer.expect(QR | AA | 3, [1, 0, 1, 0]).soa(1);
        });
    }
    for label in ["SEQ_7", "seq_0", "Seq_18446744073709551615"] {
        bench.lab.both(&plain(&below(label), TXT), |answer| {
            answer.expect(QR | AA, [1, 0, 1, 0]).soa(1);
        });
    }
}

fn n11_the_apex(bench: &Bench) {
    let root = name("music.example.com");
    bench.lab.both(&plain(&root, SOA), |answer| {
        answer.expect(QR | AA, [1, 1, 0, 0]);
        assert_eq!((answer.answer[0].rtype, answer.answer[0].ttl), (SOA, 1));
        answer.check_soa(&answer.answer[0]);
    });
    bench.lab.both(&plain(&root, NS), |answer| {
        answer.expect(QR | AA, [1, 3, 0, 3]);
        let servers: Vec<Vec<u8>> = answer
            .answer
            .iter()
            .map(|record| {
                assert_eq!((record.rtype, record.ttl, record.owner_raw), (NS, 3600, [0xC0, 12]));
                read_name(&answer.octets, record.rdata_at).0
            })
            .collect();
        assert_eq!(servers, [below("ns"), below("a.deep"), name("ns.example.net")]);
        let addresses: Vec<_> = answer
            .additional
            .iter()
            .map(|r| (r.owner.clone(), r.rtype, r.ttl, &r.rdata[..]))
            .collect();
        let v6 = "2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets();
        let expected = [
            (below("ns"), A, 3600, &[192, 0, 2, 1][..]),
            (below("ns"), AAAA, 3600, &v6),
            (below("a.deep"), A, 3600, &[192, 0, 2, 2]),
        ];
        assert_eq!(addresses, expected);
    });
    for (label, qtype, count) in [("ns", A, 1), ("NS", AAAA, 1), ("a.deep", A, 1)] {
        bench.lab.both(&plain(&below(label), qtype), |answer| {
            answer.expect(QR | AA, [1, count, 0, 0]);
            assert_eq!((answer.answer[0].rtype, answer.answer[0].ttl), (qtype, 3600));
        });
    }
    bench.lab.both(&plain(&below("a.deep"), AAAA), |answer| {
        answer.expect(QR | AA, [1, 0, 1, 0]).soa(1);
    });
}

fn n12_other_types_at_the_apex(bench: &Bench) {
    let root = name("music.example.com");
    for qtype in [A, AAAA, 15, TXT, 43, 48, 46, 65] {
        bench.lab.both(&plain(&root, qtype), |answer| {
            answer.expect(QR | AA, [1, 0, 1, 0]).soa(1);
        });
        // DO changes nothing: the zone is not signed.
        bench.lab.both(&edns(&root, qtype, &opt(512, 0x8000, &[])), |answer| {
            answer.expect(QR | AA, [1, 0, 1, 1]).soa(1);
        });
    }
}

fn n13_names_outside(bench: &Bench) {
    for text in [
        "example.com",
        "com",
        ".",
        "other.example.com",
        "xmusic.example.com",
        "sequence.xmusic.example.com",
        "music.example.com.evil.org",
        "music.example.org",
        "ns.example.net",
    ] {
        for rd in [0, RD] {
            for qtype in [TXT, SOA, 255] {
                let query = message(1, rd, [1, 0, 0, 0], &[&question(&name(text), qtype, IN)]);
                bench.lab.both(&query, |answer| {
                    answer.expect(QR | rd | 5, [1, 0, 0, 0]);
                });
            }
        }
    }
}

fn n14_any(bench: &Bench) {
    let cases = [("sequence", TXT), ("config", TXT), ("now_7", TXT), ("ns", A), ("a.deep", A)];
    for (label, rtype) in cases {
        bench.lab.both(&plain(&below(label), 255), |answer| {
            answer.expect(QR | AA, [1, 1, 0, 0]);
            assert_eq!(answer.answer[0].rtype, rtype);
        });
    }
    bench.lab.both(&plain(&name("music.example.com"), 255), |answer| {
        answer.expect(QR | AA, [1, 1, 0, 0]);
        assert_eq!(answer.answer[0].rtype, SOA);
    });
    bench.lab.udp(&plain(&seq(FIRST + 2), 255)).expect(QR | AA | TC, [1, 0, 0, 0]);
    let whole = bench.lab.tcp(&plain(&seq(FIRST + 2), 255));
    assert_eq!(whole.answer.len(), strings(SECTIONS[2]).len());
    bench.lab.both(&plain(&below("foo"), 255), |answer| {
        answer.expect(QR | AA | 3, [1, 0, 1, 0]).soa(1);
    });
}

fn n15_axfr_over_udp(bench: &Bench) {
    bench.lab.udp(&plain(&name("music.example.com"), 252)).expect(QR | 4, [1, 0, 0, 0]);
}

fn n16_transfers(bench: &Bench) {
    let root = name("music.example.com");
    bench.lab.tcp(&plain(&root, 252)).expect(QR | 5, [1, 0, 0, 0]);
    bench.lab.both(&plain(&root, 251), |answer| {
        answer.expect(QR | 5, [1, 0, 0, 0]);
    });
    bench.lab.both(&plain(&name("example.org"), 252), |answer| {
        answer.expect(QR | 5, [1, 0, 0, 0]);
    });
}

fn n17_types_that_are_no_types(bench: &Bench) {
    for qtype in [0, OPT, 250, 253, 254] {
        bench.lab.both(&plain(&below("sequence"), qtype), |answer| {
            answer.expect(QR | AA, [1, 0, 1, 0]).soa(1);
        });
    }
}

fn n18_class_chaos(bench: &Bench) {
    let chaos = |text: &str| message(1, 0, [1, 0, 0, 0], &[&question(&name(text), TXT, CH)]);
    let names = ["version.bind", "version.server", "id.server", "hostname.bind"];
    for text in names {
        bench.lab.both(&chaos(text), |answer| {
            answer.expect(QR | 5, [1, 0, 0, 0]);
        });
    }
    for (text, value) in names.iter().zip(["aodns test", "aodns test", "node-7", "node-7"]) {
        bench.named.both(&chaos(text), |answer| {
            answer.expect(QR, [1, 1, 0, 0]);
            let record = &answer.answer[0];
            assert_eq!((record.rtype, record.class, record.ttl), (TXT, CH, 0));
            assert_eq!(record.rdata, [&[value.len() as u8], value.as_bytes()].concat());
        });
    }
    bench.named.both(&chaos("authors.bind"), |answer| {
        answer.expect(QR | 5, [1, 0, 0, 0]);
    });
}

fn n19_other_classes(bench: &Bench) {
    for qclass in [0, 2, CH, 4, 254, 255, 0x8001] {
        for text in ["sequence.music.example.com", "music.example.com", "foo.music.example.com"] {
            let query = message(1, 0, [1, 0, 0, 0], &[&question(&name(text), TXT, qclass)]);
            bench.lab.both(&query, |answer| {
                answer.expect(QR | 5, [1, 0, 0, 0]);
                assert_eq!(answer.question, question(&name(text), TXT, qclass));
            });
        }
    }
}

fn n20_never_servfail(_: &Bench) {
    // Nothing is published yet, and nothing is due for an hour; then as if the first were due now.
    let lab = Plan::new().start();
    for label in ["sequence", &format!("seq_{FIRST}"), "seq_1"] {
        lab.both(&plain(&below(label), TXT), |answer| {
            answer.expect(QR | AA, [1, 0, 1, 0]).soa(1);
        });
    }
    lab.both(&plain(&below("now_1"), TXT), |answer| {
        answer.expect(QR | AA, [1, 1, 0, 0]);
        let text = String::from_utf8(answer.answer[0].rdata[1..].to_vec()).unwrap();
        assert!(text.contains(&format!("next={FIRST}")), "{text}");
    });
    lab.both(&plain(&below("config"), TXT), |answer| {
        answer.expect(QR | AA, [1, 1, 0, 0]);
    });
    let mut plan = Plan::new();
    plan.longest = Duration::from_secs(1);
    let lab = plan.start();
    lab.both(&plain(&below("sequence"), TXT), |answer| {
        answer.expect(QR | AA, [1, 0, 1, 0]).soa(0);
    });
}

//! Rows of section 1.5: size and truncation.

use super::dns::*;
use super::header::long_name;
use super::{Bench, Row};

pub const ROWS: &[Row] = &[
    ("S01", s01_s02_without_edns),
    ("S02", s02_truncated_to_nothing),
    ("S03", s03_with_edns),
    ("S04", s04_at_the_limit_and_one_over),
    ("S05", s05_everything_counts),
    ("S06", s06_truncated_answers_are_small),
    ("S07", s07_over_tcp),
    ("S08", s08_negative_answers_are_whole),
    ("S09", s09_compression),
];

/// Octets of an answer's header and question for a segment.
fn head() -> usize {
    plain(&seq(FIRST), TXT).len()
}

/// A stream whose segments have answers of exactly so many octets, OPT not counted.
fn with_answers(octets: &[usize]) -> Lab {
    let sections: Vec<usize> = octets.iter().map(|octets| octets - head()).collect();
    Plan::new().with_sections(&sections).start()
}

fn s01_s02_without_edns(_: &Bench) {
    let lab = with_answers(&[100, 511, 512]);
    for (number, octets) in [(FIRST, 100), (FIRST + 1, 511), (FIRST + 2, 512)] {
        lab.both(&plain(&seq(number), TXT), |answer| {
            assert_eq!((answer.flags, answer.octets.len()), (QR | AA, octets));
        });
    }
}

fn s02_truncated_to_nothing(_: &Bench) {
    let lab = with_answers(&[513, 2000, 20_000]);
    for number in FIRST..FIRST + 3 {
        let query = plain(&seq(number), TXT);
        let answer = lab.udp(&query);
        answer.expect(QR | AA | TC, [1, 0, 0, 0]);
        assert_eq!(answer.octets.len(), query.len());
    }
}

fn s03_with_edns(_: &Bench) {
    let lab = with_answers(&[600, 1200, 1300]);
    for (size, whole) in [
        (0, [false, false, false]),
        (512, [false, false, false]),
        (610, [false, false, false]),
        (611, [true, false, false]),
        (1210, [true, false, false]),
        (1211, [true, true, false]),
        (1400, [true, true, false]),
        (4096, [true, true, false]),
        (65_535, [true, true, false]),
    ] {
        for (number, whole) in (FIRST..).zip(whole) {
            let answer = lab.udp(&edns(&seq(number), TXT, &opt(size, 0, &[])));
            match whole {
                true => assert_eq!(answer.flags, QR | AA),
                false => drop(answer.expect(QR | AA | TC, [1, 0, 0, 1])),
            }
            assert!(answer.opt().is_some() && answer.octets.len() <= 1232);
        }
    }
}

fn s04_at_the_limit_and_one_over(_: &Bench) {
    let lab = with_answers(&[512, 513, 1221, 1222]);
    let ask = |number, size: Option<u16>| match size {
        None => lab.udp(&plain(&seq(number), TXT)),
        Some(size) => lab.udp(&edns(&seq(number), TXT, &opt(size, 0, &[]))),
    };
    assert_eq!(ask(FIRST, None).octets.len(), 512);
    ask(FIRST + 1, None).expect(QR | AA | TC, [1, 0, 0, 0]);
    // OPT takes 11 octets.
    assert_eq!(ask(FIRST + 1, Some(524)).octets.len(), 524);
    ask(FIRST + 1, Some(523)).expect(QR | AA | TC, [1, 0, 0, 1]);
    assert_eq!(ask(FIRST + 2, Some(4096)).octets.len(), 1232);
    ask(FIRST + 3, Some(4096)).expect(QR | AA | TC, [1, 0, 0, 1]);
}

fn s05_everything_counts(_: &Bench) {
    // 1232 = 1193 + 11 of OPT + 28 of a cookie.
    let lab = with_answers(&[1193, 1194]);
    let cookie = option(10, b"clientck");
    let ask = |number| lab.udp(&edns(&seq(number), TXT, &opt(1232, 0, &cookie)));
    assert_eq!(ask(FIRST).octets.len(), 1232);
    let over = ask(FIRST + 1);
    over.expect(QR | AA | TC, [1, 0, 0, 1]);
    assert_eq!(over.only_option(10).len(), 24);
    // Without the cookie there is room.
    let whole = lab.udp(&edns(&seq(FIRST + 1), TXT, &opt(1232, 0, &[])));
    assert_eq!(whole.octets.len(), 1194 + 11);
}

fn s06_truncated_answers_are_small(bench: &Bench) {
    let mut plan = Plan::new().with_sections(&[2200]);
    plan.zone.server_id = Some("n".repeat(200));
    let wordy = plan.start();
    let number = FIRST + 2;
    let all = [option(3, &[]), option(10, b"clientck"), option(11, &[])].concat();
    for options in [&[][..], &option(10, b"clientck"), &option(3, &[]), &all] {
        let query = edns(&seq(number), TXT, &opt(4096, 0, options));
        let short = edns(&seq(FIRST), TXT, &opt(4096, 0, options));
        for (lab, query) in [(&bench.lab, &query), (&bench.named, &query), (&wordy, &short)] {
            let answer = lab.udp(query);
            answer.expect(QR | AA | TC, [1, 0, 0, 1]);
            assert!(answer.octets.len() <= query.len() + 11 + 28);
        }
    }
    let query = plain(&seq(number), TXT);
    assert_eq!(bench.lab.udp(&query).octets.len(), query.len());
}

fn s07_over_tcp(_: &Bench) {
    // 100 records of 263 octets: the largest segment there can be.
    let lab = with_answers(&[513, 1233, 2000, 26_300]);
    for (number, octets) in (FIRST..).zip([513, 1233, 2000, 26_300]) {
        for size in [0, 512, 1232] {
            let answer = lab.tcp(&edns(&seq(number), TXT, &opt(size, 0, &[])));
            assert_eq!((answer.flags, answer.octets.len()), (QR | AA, octets + 11));
        }
        let answer = lab.tcp(&plain(&seq(number), TXT));
        assert_eq!((answer.flags, answer.octets.len()), (QR | AA, octets));
    }
}

fn s08_negative_answers_are_whole(bench: &Bench) {
    let cookie = opt(512, 0, &option(10, b"clientck"));
    for name in [long_name(255), below("foo"), below("sequence"), seq(1)] {
        for query in [plain(&name, A), edns(&name, A, &cookie)] {
            bench.lab.both(&query, |answer| {
                assert_eq!(answer.flags & TC, 0);
                answer.soa(1);
            });
        }
    }
    let mut outside = long_name(255);
    let last = outside.len() - 2;
    outside[last] = b'n';
    for query in [plain(&outside, A), edns(&outside, A, &cookie)] {
        bench.lab.both(&query, |answer| assert_eq!(answer.flags, QR | 5));
    }
}

fn s09_compression(bench: &Bench) {
    let lab = with_answers(&[26_000]);
    let large = lab.tcp(&plain(&seq(FIRST), TXT));
    assert!(large.octets.len() > 16_384 && large.answer.len() > 60);
    assert!(large.answer.iter().all(|record| record.owner_raw == [0xC0, 12]));
    // The owner of the SOA is the root's place in the question.
    let denied = bench.lab.udp(&plain(&below("foo"), TXT));
    assert_eq!(denied.authority[0].owner_raw, [0xC0, 12 + 4]);
    assert_eq!(denied.octets.len(), plain(&below("foo"), TXT).len() + 12 + 5 + 13 + 20);
    let apex = bench.lab.udp(&plain(&name("music.example.com"), SOA));
    assert_eq!(apex.answer[0].owner_raw, [0xC0, 12]);
}

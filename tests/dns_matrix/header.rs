//! Rows of sections 1.1 (header) and 1.2 (question).

use super::dns::*;
use super::{Bench, Row};

pub const ROWS: &[Row] = &[
    ("H01", h01_too_short_for_a_header),
    ("H02", h02_responses_are_not_answered),
    ("H03", h03_recursion_desired_is_copied),
    ("H04", h04_flags_that_are_not_for_queries),
    ("H05", h05_rcode_in_a_query),
    ("H06", h06_other_opcodes),
    ("H07", h07_opcode_before_counts),
    ("H08", h08_opcode_with_every_flag),
    ("H09", h09_notify_and_update),
    ("H10", h10_counts_without_a_body),
    ("H11", h11_any_id),
    ("Q01", q01_no_question),
    ("Q02", q02_nothing_but_a_cookie),
    ("Q03", q03_several_questions),
    ("Q04", q04_questions_cut_short),
    ("Q05", q05_compression_in_the_question),
    ("Q06", q06_unknown_label_types),
    ("Q07", q07_names_that_are_too_long),
    ("Q08", q08_the_longest_name),
    ("Q09", q09_labels_are_octets),
    ("Q10", q10_octets_behind_the_message),
    ("Q11", q11_records_where_none_belong),
    ("Q12", q12_a_promised_record),
    ("Q13", q13_other_additional_records),
    ("Q14", q14_letter_case),
];

/// H of the matrix: a bare header.
pub fn bare(octets: &[u8], id: u16, flags: u16) {
    let expected = message(id, flags, [0; 4], &[]);
    assert_eq!(octets, expected, "a bare header");
}

fn h01_too_short_for_a_header(bench: &Bench) {
    let query = plain(&below("sequence"), TXT);
    for length in 0..12 {
        bench.lab.dropped(&query[..length]);
    }
}

fn h02_responses_are_not_answered(bench: &Bench) {
    let question = question(&below("sequence"), TXT, IN);
    let bodies: [(&[u8], [u16; 4]); 3] =
        [(&question, [1, 0, 0, 0]), (&[], [0; 4]), (&question, [9, 9, 9, 9])];
    for flags in [QR, QR | RD, QR | 4 << 11, QR | 5 << 11, QR | 3, 0xFFFF] {
        for (body, counts) in bodies {
            let response = message(0x1111, flags, counts, &[body]);
            bench.lab.dropped(&response);
            let mut client = tcp_client(bench.lab.addr);
            send_framed(&mut client, &response);
            send_framed(&mut client, &plain(&below("config"), TXT));
            let answer = receive_framed(&mut client);
            assert!(answer.is_none_or(|answer| parse(&answer).id == 0x1234));
        }
    }
}

fn h03_recursion_desired_is_copied(bench: &Bench) {
    let asked = |name: &[u8]| message(7, RD, [1, 0, 0, 0], &[&question(name, TXT, IN)]);
    bench.lab.both(&asked(&below("sequence")), |answer| {
        answer.expect(QR | AA | RD, [1, 1, 0, 0]);
    });
    bench.lab.both(&asked(&below("foo")), |answer| {
        answer.expect(QR | AA | RD | 3, [1, 0, 1, 0]).soa(1);
    });
    bench.lab.both(&asked(&name("example.org")), |answer| {
        answer.expect(QR | RD | 5, [1, 0, 0, 0]);
    });
    bench.lab.both(&plain(&below("sequence"), TXT), |answer| {
        answer.expect(QR | AA, [1, 1, 0, 0]);
    });
}

fn h04_flags_that_are_not_for_queries(bench: &Bench) {
    // AA, TC, RA, Z, AD, CD, and all of them.
    for flags in [0x0400, 0x0200, 0x0080, 0x0040, 0x0020, 0x0010, 0x06F0] {
        let text = message(7, flags, [1, 0, 0, 0], &[&question(&below("sequence"), TXT, IN)]);
        bench.lab.both(&text, |answer| {
            answer.expect(QR | AA, [1, 1, 0, 0]);
        });
        let outside = message(7, flags | RD, [1, 0, 0, 0], &[&question(&name("org"), SOA, IN)]);
        bench.lab.both(&outside, |answer| {
            answer.expect(QR | RD | 5, [1, 0, 0, 0]);
        });
    }
}

fn h05_rcode_in_a_query(bench: &Bench) {
    for rcode in 1..16 {
        let query = message(7, rcode, [1, 0, 0, 0], &[&question(&below("sequence"), TXT, IN)]);
        bench.lab.both(&query, |answer| {
            answer.expect(QR | AA, [1, 1, 0, 0]);
        });
    }
}

fn h06_other_opcodes(bench: &Bench) {
    let question = question(&below("sequence"), TXT, IN);
    for opcode in [1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15] {
        for (counts, body) in
            [([1, 0, 0, 0], &question[..]), ([1, 2, 3, 4], &[0xFF; 40]), ([0; 4], &[])]
        {
            let query = message(0xABCD, opcode << 11 | RD, counts, &[body]);
            bench.lab.both(&query, |answer| bare(&answer.octets, 0xABCD, QR | opcode << 11 | 4));
        }
    }
}

fn h07_opcode_before_counts(bench: &Bench) {
    for opcode in [3, 15] {
        let query = message(1, opcode << 11, [0; 4], &[]);
        bench.lab.both(&query, |answer| bare(&answer.octets, 1, QR | opcode << 11 | 4));
    }
}

fn h08_opcode_with_every_flag(bench: &Bench) {
    for opcode in [3, 6, 15] {
        let question = question(&below("sequence"), TXT, IN);
        let query = message(1, opcode << 11 | 0x07FF, [1, 0, 0, 0], &[&question]);
        bench.lab.both(&query, |answer| bare(&answer.octets, 1, QR | opcode << 11 | 4));
    }
}

fn h09_notify_and_update(bench: &Bench) {
    for opcode in [4, 5] {
        let question = question(&name("music.example.com"), SOA, IN);
        let query = message(1, opcode << 11 | AA, [1, 0, 0, 0], &[&question]);
        bench.lab.both(&query, |answer| bare(&answer.octets, 1, QR | opcode << 11 | 4));
    }
}

fn h10_counts_without_a_body(bench: &Bench) {
    const ALL: u16 = u16::MAX;
    let question = question(&below("sequence"), TXT, IN);
    let counts = [[ALL; 4], [ALL, 0, 0, 0], [1, ALL, 0, 0], [1, 0, ALL, 0], [0, 0, 0, ALL]];
    for counts in counts {
        for body in [&question[..], &question[..5], &[]] {
            let query = message(9, RD, counts, &[body]);
            bench.lab.both(&query, |answer| bare(&answer.octets, 9, QR | RD | 1));
        }
    }
    // The question is whole here, and so comes back; nothing else does.
    let query = message(9, 0, [1, 0, 0, ALL], &[&question]);
    bench.lab.both(&query, |answer| {
        answer.expect(QR | 1, [1, 0, 0, 0]);
    });
}

fn h11_any_id(bench: &Bench) {
    let question = question(&below("sequence"), TXT, IN);
    // White space and line ends as well: a message is no text.
    for id in [0, 0x2020, 0x0A0D, 0x0909, 0xFFFF] {
        let query = message(id, 0, [1, 0, 0, 0], &[&question]);
        bench.lab.both(&query, |answer| assert_eq!(answer.id, id));
    }
    let query = message(5, 0, [1, 0, 0, 0], &[&question]);
    let client = udp_client(bench.lab.addr);
    client.send(&query).unwrap();
    client.send(&query).unwrap();
    assert_eq!(receive(&client), receive(&client));
    let mut client = tcp_client(bench.lab.addr);
    send_framed(&mut client, &query);
    send_framed(&mut client, &query);
    let first = receive_framed(&mut client).unwrap();
    assert_eq!(receive_framed(&mut client).unwrap(), first);
}

fn q01_no_question(bench: &Bench) {
    bench.lab.both(&message(3, RD, [0; 4], &[]), |answer| bare(&answer.octets, 3, QR | RD | 1));
    let trailing = message(3, 0, [0; 4], &[&question(&below("sequence"), TXT, IN)]);
    bench.lab.both(&trailing, |answer| bare(&answer.octets, 3, QR | 1));
}

fn q02_nothing_but_a_cookie(bench: &Bench) {
    let cookie = option(10, b"clientck");
    let query = message(3, 0, [0, 0, 0, 1], &[&opt(1232, 0, &cookie)]);
    bench.lab.both(&query, |answer| {
        answer.expect(QR, [0, 0, 0, 1]);
        let cookie = answer.only_option(10);
        assert_eq!((cookie.len(), &cookie[..8]), (24, &b"clientck"[..]));
    });
}

fn q03_several_questions(bench: &Bench) {
    let question = question(&below("sequence"), TXT, IN);
    for (count, body) in [(2, question.repeat(2)), (2, question.clone()), (3, question.repeat(3))] {
        let query = message(3, 0, [count, 0, 0, 0], &[&body]);
        bench.lab.both(&query, |answer| bare(&answer.octets, 3, QR | 1));
    }
}

fn q04_questions_cut_short(bench: &Bench) {
    let query = plain(&below("sequence"), TXT);
    for length in 12..query.len() {
        bench.lab.both(&query[..length], |answer| bare(&answer.octets, 0x1234, QR | 1));
    }
}

fn q05_compression_in_the_question(bench: &Bench) {
    // Itself, forward, backward into the header, and behind a label.
    let names: [&[u8]; 6] =
        [&[0xC0, 12], &[0xC0, 14], &[0xC0, 0], &[0xFF, 0xFF], b"\x03seq\xC0\x0C", b"\x01a\xC0\x02"];
    for name in names {
        bench.lab.both(&plain(name, TXT), |answer| bare(&answer.octets, 0x1234, QR | 1));
    }
    // A chain of pointers, each to the next one.
    let chain: Vec<u8> = (0..1000u16).flat_map(|n| (0xC000 | (14 + 2 * n)).to_be_bytes()).collect();
    bench.lab.both(&plain(&chain, TXT), |answer| bare(&answer.octets, 0x1234, QR | 1));
}

fn q06_unknown_label_types(bench: &Bench) {
    for kind in [0x40, 0x41, 0x7F, 0x80, 0xBF] {
        let name = [&[kind][..], &[b'a'; 63], &[0]].concat();
        bench.lab.both(&plain(&name, TXT), |answer| bare(&answer.octets, 0x1234, QR | 1));
        let name = [&b"\x01a"[..], &[kind], &[b'a'; 63], &[0]].concat();
        bench.lab.both(&plain(&name, TXT), |answer| bare(&answer.octets, 0x1234, QR | 1));
    }
}

/// A name of `octets` below the root.
pub fn long_name(octets: usize) -> Vec<u8> {
    let root = name("music.example.com");
    let mut wire = Vec::new();
    while wire.len() + root.len() < octets {
        let mut room = (octets - wire.len() - root.len()).min(64);
        // One octet alone would be no label.
        if octets - wire.len() - root.len() - room == 1 {
            room -= 1;
        }
        wire.push(room as u8 - 1);
        wire.resize(wire.len() + room - 1, b'x');
    }
    wire.extend_from_slice(&root);
    assert_eq!(wire.len(), octets);
    wire
}

fn q07_names_that_are_too_long(bench: &Bench) {
    for octets in [256, 257, 300, 600, 2000] {
        let query = plain(&long_name(octets), TXT);
        bench.lab.both(&query, |answer| bare(&answer.octets, 0x1234, QR | 1));
    }
}

fn q08_the_longest_name(bench: &Bench) {
    for octets in [254, 255] {
        let name = long_name(octets);
        bench.lab.both(&plain(&name, TXT), |answer| {
            answer.expect(QR | AA | 3, [1, 0, 1, 0]).soa(1);
            assert_eq!(answer.question, question(&name, TXT, IN));
        });
    }
}

fn q09_labels_are_octets(bench: &Bench) {
    let root = name("music.example.com");
    let labels: [&[u8]; 8] =
        [b"\0", b"\xFF\xFE", b"seq.uence", b" ", b"*", b"sequence\0", b"seq_1 ", b"\\"];
    for label in labels {
        let name = [&[label.len() as u8], label, &root].concat();
        bench.lab.both(&plain(&name, TXT), |answer| {
            answer.expect(QR | AA | 3, [1, 0, 1, 0]).soa(1);
            assert_eq!(answer.question, question(&name, TXT, IN));
        });
    }
    // A dot inside a label does not separate.
    let sly = [&b"\x0esequence.music"[..], &name("example.com")].concat();
    let whole = [&[17u8][..], b"music.example.com", &[0]].concat();
    for name in [sly, whole] {
        bench.lab.both(&plain(&name, TXT), |answer| {
            answer.expect(QR | 5, [1, 0, 0, 0]);
        });
    }
}

fn q10_octets_behind_the_message(bench: &Bench) {
    for behind in [&b"\0"[..], b"trailing", &[0xFF; 500]] {
        let query = [plain(&below("sequence"), TXT), behind.to_vec()].concat();
        bench.lab.both(&query, |answer| {
            answer.expect(QR | AA, [1, 1, 0, 0]);
        });
        let query = [edns(&below("sequence"), TXT, &opt(1232, 0, &[])), behind.to_vec()].concat();
        bench.lab.both(&query, |answer| {
            answer.expect(QR | AA, [1, 1, 0, 1]);
        });
    }
}

fn q11_records_where_none_belong(bench: &Bench) {
    let text = question(&below("sequence"), TXT, IN);
    let address = record(&[0xC0, 12], A, 1, &[192, 0, 2, 1]);
    for counts in [[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 2, 0]] {
        let query = message(3, 0, counts, &[&text, &address, &address]);
        bench.lab.both(&query, |answer| bare(&answer.octets, 3, QR | 1));
    }
    // IXFR alone brings the client's SOA along.
    let ixfr = question(&name("music.example.com"), 251, IN);
    let soa = record(&[0xC0, 12], SOA, 0, &[&[0, 0][..], &[0; 20]].concat());
    let query = message(3, 0, [1, 0, 1, 0], &[&ixfr, &soa]);
    bench.lab.both(&query, |answer| {
        answer.expect(QR | 5, [1, 0, 0, 0]);
    });
    let query = message(3, 0, [1, 0, 1, 0], &[&text, &soa]);
    bench.lab.both(&query, |answer| bare(&answer.octets, 3, QR | 1));
}

fn q12_a_promised_record(bench: &Bench) {
    let text = question(&below("sequence"), TXT, IN);
    let opt = opt(1232, 0, &[]);
    for (count, behind) in [(1, &[][..]), (1, &opt[..5]), (2, &opt[..]), (1, &[0xC0])] {
        let query = message(3, 0, [1, 0, 0, count], &[&text, behind]);
        bench.lab.both(&query, |answer| {
            answer.expect(QR | 1, [1, 0, 0, 0]);
        });
    }
}

fn q13_other_additional_records(bench: &Bench) {
    let text = question(&below("sequence"), TXT, IN);
    let address = record(&[0xC0, 12], A, 1, &[192, 0, 2, 1]);
    let other = record(&name("x"), 65280, 1, &[1; 100]);
    let opt = opt(1232, 0, &[]);
    let bodies: [&[&[u8]]; 5] = [
        &[&address],
        &[&address, &other],
        &[&other, &opt],
        &[&opt, &other],
        &[&other, &opt, &other],
    ];
    for body in bodies {
        let additional = body.concat();
        let with_opt = u16::from(body.contains(&&opt[..]));
        let query = message(3, 0, [1, 0, 0, body.len() as u16], &[&text, &additional]);
        bench.lab.both(&query, |answer| {
            answer.expect(QR | AA, [1, 1, 0, with_opt]);
        });
    }
    let query = message(3, 0, [1, 0, 0, 3], &[&text, &address, &address, &address]);
    bench.lab.both(&query, |answer| {
        answer.expect(QR | 1, [1, 0, 0, 0]);
    });
    // SIG(0) at the end signs what nobody asks about.
    let sig = record(&[0], 24, 0, &[0; 30]);
    let query = message(3, 0, [1, 0, 0, 1], &[&text, &sig]);
    bench.lab.both(&query, |answer| {
        answer.expect(QR | AA, [1, 1, 0, 0]);
    });
}

fn q14_letter_case(bench: &Bench) {
    for text in
        ["sEqUeNcE.MuSiC.ExAmPlE.cOm", "CONFIG.MUSIC.EXAMPLE.COM", "Now_Ab9.music.example.com"]
    {
        let asked = name(text);
        bench.lab.both(&plain(&asked, TXT), |answer| {
            answer.expect(QR | AA, [1, 1, 0, 0]);
            assert_eq!(answer.question, question(&asked, TXT, IN));
            assert_eq!(answer.answer[0].owner_raw, [0xC0, 12]);
            assert_eq!(answer.answer[0].owner, asked);
        });
    }
    let mixed =
        [&b"\x0fSeQ_"[..], FIRST.to_string().as_bytes(), &name("MUSIC.example.COM")].concat();
    bench.lab.both(&plain(&mixed, TXT), |answer| {
        assert!(answer.answer.iter().all(|record| record.owner == mixed));
        assert_eq!((answer.flags, answer.question.len()), (QR | AA, mixed.len() + 4));
    });
    let denied = name("FoO.mUsIc.example.com");
    bench.lab.both(&plain(&denied, TXT), |answer| {
        answer.expect(QR | AA | 3, [1, 0, 1, 0]).soa(1);
        assert_eq!(answer.question, question(&denied, TXT, IN));
    });
}

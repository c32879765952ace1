//! An answer is of one generation (rows F4 and Z1 to Z4): while segments are published as
//! fast as it goes, readers check that each answer is whole, of one TTL, never changed afterwards,
//! and that what is listed is there.

#![allow(clippy::unwrap_used)] // a test may end anywhere

#[path = "support/dns.rs"]
mod dns;

use aodns::pipeline::moment;
use aodns::segment::decode_list;
use dns::*;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

const PUBLICATIONS: u64 = 1000;
const READERS: usize = 8;

/// Strings that say which segment they belong to, of a number that differs from one to the next.
fn tagged(number: u64) -> Vec<Vec<u8>> {
    let count = 1 + number % 12;
    (0..count).map(|index| format!("{index:03}'''{number}/{count}").into_bytes()).collect()
}

/// Asks for the list and for a segment of it until it is over.
fn read(lab: &Lab, over: &AtomicBool, answers: &AtomicU64, over_tcp: bool) {
    let udp = udp_client(lab.addr);
    let mut tcp = tcp_client(lab.addr);
    let mut ask = |query: &[u8]| match over_tcp {
        true => {
            send_framed(&mut tcp, query);
            parse(&receive_framed(&mut tcp).unwrap())
        }
        false => {
            udp.send(query).unwrap();
            parse(&receive(&udp))
        }
    };
    let mut seen = HashMap::new();
    let mut newest = 0;
    let mut serial = 0u32;
    for round in 0.. {
        if over.load(Ordering::Acquire) {
            break;
        }
        let list = ask(&edns(&below("sequence"), TXT, &opt(1232, 0, &[])));
        list.expect(QR | AA, [1, 1, 0, 1]);
        let numbers = decode_list(&list.answer[0].rdata[1..]).unwrap();
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1));
        let last = *numbers.last().unwrap();
        assert!(last >= newest, "the list never goes back");
        newest = last;
        // The oldest, the newest, and one in between: all that is listed is there.
        let number = numbers[[0, numbers.len() - 1, round % numbers.len()][round % 3]];
        let segment = ask(&edns(&seq(number), TXT, &opt(1232, 0, &[])));
        let expected = tagged(number);
        segment.expect(QR | AA, [1, expected.len() as u16, 0, 1]);
        let ttl = segment.answer[0].ttl;
        for (record, string) in segment.answer.iter().zip(&expected) {
            assert_eq!((&record.rdata[1..], record.ttl), (&string[..], ttl));
        }
        assert_eq!(*seen.entry(number).or_insert(ttl), ttl, "a published segment never changes");
        let soa = ask(&plain(&name("music.example.com"), SOA));
        let (_, end) = read_name(&soa.octets, soa.answer[0].rdata_at);
        let (_, end) = read_name(&soa.octets, end);
        let now = u32::from_be_bytes(soa.octets[end..end + 4].try_into().unwrap());
        assert!(serial == 0 || now.wrapping_sub(serial) < 1 << 31, "serials never go back");
        serial = now;
        answers.fetch_add(3, Ordering::Relaxed);
    }
}

#[test]
fn f4_an_answer_never_mixes_two_generations() {
    let lab = Plan::new().start();
    lab.publish(tagged(FIRST), moment());
    let (over, answers) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for reader in 0..READERS {
            let (lab, over, answers) = (&lab, &over, &answers);
            scope.spawn(move || read(lab, over, answers, reader % 2 == 1));
        }
        for count in 1..PUBLICATIONS {
            assert_eq!(lab.publish(tagged(FIRST + count), moment()), FIRST + count);
            // Readers come to see each of some generations, and some of all.
            if count % 10 == 0 {
                let before = answers.load(Ordering::Relaxed);
                let deadline = Instant::now() + PATIENCE;
                while answers.load(Ordering::Relaxed) < before + READERS as u64 {
                    // Then the readers have failed, and say so themselves.
                    if Instant::now() > deadline {
                        over.store(true, Ordering::Release);
                        return;
                    }
                    std::thread::yield_now();
                }
            }
        }
        over.store(true, Ordering::Release);
    });
    assert_eq!(lab.publish(tagged(FIRST), moment()), FIRST + PUBLICATIONS, "the readers failed");
    println!("{} answers of {PUBLICATIONS} generations", answers.load(Ordering::Relaxed));
}

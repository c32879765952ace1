//! The query-to-response matrix, row by row, over real sockets.
//!
//! Every row of the acceptance list (docs/dns.md names them) is a function here, and the list of
//! rows that must be proved is written out below: a row without a function, or one whose function
//! panics, fails the test. Queries are made of octets by hand, answers are taken apart by a walker
//! of the tests' own. One test function in one process: some rows count descriptors and threads.

#![allow(clippy::unwrap_used)] // a test may end anywhere

#[path = "../support/dns.rs"]
mod dns;

mod compliance;
mod edns;
mod header;
mod names;
mod size;
mod tcp;
mod udp;

use dns::{Lab, Plan};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The rows of sections 1.1 to 1.8 with priority P0 or P1.
const REQUIRED: &str = "
    H01 H02 H03 H04 H05 H06 H07 H08 H09 H10 H11
    Q01 Q02 Q03 Q04 Q05 Q06 Q07 Q08 Q09 Q10 Q11 Q12 Q13 Q14
    N01 N02 N03 N04 N05 N06 N07 N08 N09 N10 N11 N12 N13 N14 N15 N16 N17 N18 N19 N20
    E01 E02 E03 E04 E05 E06 E07 E08 E09 E10 E11 E12 E13 E14 E15 E17 E18 E19 E20
    S01 S02 S03 S04 S05 S06 S07 S08 S09
    K01 K02
    T01 T02 T03 T04 T05 T06 T07 T08 T09 T10 T11 T12 T13
    U01 U02 U03 U04 U05 U06
    compliance";
/// Rows of priority P2 that are implemented all the same.
const WANTED: &str = "E16";
/// Rows of priority P2 that are not: signed answers to TSIG.
const LEFT_OUT: &str = "K03";

/// Function of a row.
type Row = (&'static str, fn(&Bench));

/// What the rows have in common.
pub struct Bench {
    /// A stream with nothing due for an hour.
    pub lab: Lab,
    /// The same, and a server that says who it is.
    pub named: Lab,
}

/// Octets of the answer sections of the segments of both labs, in order.
pub const SECTIONS: [usize; 3] = [300, 900, 2_200];

impl Bench {
    fn new() -> Bench {
        let lab = Plan::new().with_sections(&SECTIONS).start();
        let mut plan = Plan::new().with_sections(&SECTIONS);
        plan.zone.server_id = Some("node-7".into());
        plan.zone.version = Some("aodns test".into());
        Bench { lab, named: plan.start() }
    }
}

#[test]
fn every_row_of_the_matrix_is_proved() {
    let rows: Vec<Row> = [header::ROWS, names::ROWS, edns::ROWS, size::ROWS, tcp::ROWS, udp::ROWS]
        .concat()
        .into_iter()
        .chain([("compliance", compliance::run as fn(&Bench))])
        .collect();
    let bench = Bench::new();
    let only = std::env::var("AODNS_ROW").ok();
    let mut proved = BTreeSet::new();
    let mut failed = BTreeMap::new();
    for (id, row) in rows {
        if only.as_deref().is_some_and(|only| only != id) {
            continue;
        }
        let begun = std::time::Instant::now();
        match catch_unwind(AssertUnwindSafe(|| row(&bench))) {
            Ok(()) => assert!(proved.insert(id), "row {id} is there twice"),
            Err(cause) => {
                let text = cause.downcast_ref::<String>().cloned();
                let text = text.or(cause.downcast_ref::<&str>().map(|text| text.to_string()));
                failed.insert(id, text.unwrap_or_default());
            }
        }
        if begun.elapsed().as_millis() > 500 {
            println!("{id} took {} ms", begun.elapsed().as_millis());
        }
    }
    let listed = |list: &'static str| list.split_whitespace().collect::<BTreeSet<_>>();
    // Past the harness's capture, so that every run says what it proved.
    let ids = proved.iter().copied().collect::<Vec<_>>().join(" ");
    writeln!(std::io::stdout(), "proved: {ids}\nleft out (P2): {LEFT_OUT}").unwrap();
    assert!(failed.is_empty(), "{failed:#?}");
    if only.is_none() {
        let all = &listed(REQUIRED) | &listed(WANTED);
        assert_eq!(proved, all, "the rows proved are those of the list");
    }
    assert_eq!(bench.lab.responder.failed_thread(), None);
    bench.lab.responder.stop().unwrap();
    bench.named.responder.stop().unwrap();
}

//! The same questions through the tools that people use: `dig` and `kdig`.
//!
//! What they print is what an operator sees; what they complain about is a bug of ours.

#![allow(clippy::unwrap_used)] // a test may end anywhere

#[path = "support/dns.rs"]
mod dns;
#[path = "support/process.rs"]
mod process;

use dns::{FIRST, Lab, Plan};
use process::{find_program, skip};
use std::process::Command;

/// Arguments, and what the output must hold; a word behind `!` must not be there.
type Case = (&'static str, &'static [&'static str]);

/// Understood by both tools alike.
const COMMON: &[Case] = &[
    (
        "sequence.music.example.com TXT",
        &["status: NOERROR", "flags: qr aa", "ANSWER: 1", "10\tIN\tTXT"],
    ),
    ("config.music.example.com TXT", &["status: NOERROR", "v=1", "60\tIN\tTXT"]),
    ("now_abc.music.example.com TXT", &["status: NOERROR", "next=17000000003", "0\tIN\tTXT"]),
    (
        "seq_17000000001.music.example.com TXT +bufsize=1232",
        &["status: NOERROR", "ANSWER: 4", "!TCP"],
    ),
    ("seq_17000000002.music.example.com TXT", &["status: NOERROR", "ANSWER: 9", "TCP"]),
    (
        "seq_17000000002.music.example.com TXT +ignore",
        &["status: NOERROR", "qr aa tc", "ANSWER: 0"],
    ),
    ("seq_17000000002.music.example.com TXT +tcp", &["status: NOERROR", "ANSWER: 9", "000'''"]),
    (
        "seq_1.music.example.com TXT",
        &["status: NOERROR", "ANSWER: 0", "AUTHORITY: 1", "1\tIN\tSOA"],
    ),
    ("foo.music.example.com TXT", &["status: NXDOMAIN", "qr aa", "AUTHORITY: 1", "1\tIN\tSOA"]),
    ("deep.music.example.com TXT", &["status: NOERROR", "AUTHORITY: 1"]),
    (
        "music.example.com SOA",
        &["status: NOERROR", "ns.music.example.com. hostmaster.music.example.com."],
    ),
    ("music.example.com NS", &["status: NOERROR", "ANSWER: 3", "ns.example.net.", "2001:db8::1"]),
    ("music.example.com DS", &["status: NOERROR", "ANSWER: 0", "AUTHORITY: 1"]),
    ("music.example.com HTTPS", &["status: NOERROR", "ANSWER: 0", "AUTHORITY: 1"]),
    ("music.example.com TYPE666", &["status: NOERROR", "ANSWER: 0", "AUTHORITY: 1"]),
    ("sequence.music.example.com A", &["status: NOERROR", "ANSWER: 0", "AUTHORITY: 1"]),
    ("sequence.music.example.com ANY +notcp", &["status: NOERROR", "ANSWER: 1", "TXT"]),
    ("example.com TXT", &["status: REFUSED", "!qr aa"]),
    ("xmusic.example.com TXT", &["status: REFUSED"]),
    ("version.bind TXT -c CH", &["status: REFUSED"]),
    ("sequence.music.example.com TXT +dnssec", &["status: NOERROR", "flags: do", "ANSWER: 1"]),
    ("sequence.music.example.com TXT +cookie", &["status: NOERROR", "COOKIE"]),
    ("sequence.music.example.com TXT +nsid", &["status: NOERROR", "node-7"]),
    ("sequence.music.example.com TXT +subnet=192.0.2.0/24", &["status: NOERROR", "ANSWER: 1"]),
    ("music.example.com AXFR", &["!17000000003"]),
];

/// In words that only `dig` knows.
const DIG: &[Case] = &[
    ("SeQuEnCe.MUSIC.example.com TXT", &["status: NOERROR", "SeQuEnCe.MUSIC.example.com."]),
    ("sequence.music.example.com TXT +nocookie +edns=1 +noednsneg", &["BADVERS"]),
    ("music.example.com SOA +opcode=15 +noedns +header-only", &["status: NOTIMP"]),
    ("music.example.com SOA +opcode=notify +noedns", &["status: NOTIMP"]),
    ("music.example.com SOA +opcode=update +noedns", &["status: NOTIMP"]),
    ("music.example.com SOA +zflag", &["status: NOERROR", "!MBZ"]),
    (
        "music.example.com SOA +noedns +adflag +cdflag +aaflag",
        &["status: NOERROR", "flags: qr aa;"],
    ),
    ("music.example.com SOA +noedns +tcflag +raflag", &["status: NOERROR", "flags: qr aa;"]),
    ("music.example.com SOA +ednsopt=100:abcd +nocookie", &["status: NOERROR", "!OPT="]),
    ("music.example.com SOA +ednsflags=0x80", &["status: NOERROR", "!MBZ"]),
    ("music.example.com SOA +expire +padding=128", &["status: NOERROR", "ANSWER: 1"]),
    ("music.example.com SOA +tcp +keepalive", &["status: NOERROR", "TCP KEEPALIVE: 10.0 secs"]),
    ("music.example.com SOA +keepopen +tcp music.example.com NS +keepopen +tcp", &["ANSWER: 3"]),
    ("sequence\\.music.example.com TXT", &["status: REFUSED"]),
    ("\\000\\255.music.example.com TXT", &["status: NXDOMAIN"]),
    ("-y hmac-sha256:key.example:c2VjcmV0c2VjcmV0 music.example.com SOA", &["NOTAUTH"]),
];

/// In words that only `kdig` knows.
const KDIG: &[Case] = &[
    ("sequence.music.example.com TXT +edns=1", &["BADVERS"]),
    (
        "music.example.com SOA +aaflag +tcflag +raflag +zflag +adflag +cdflag",
        &["status: NOERROR", "Flags: qr aa;"],
    ),
    ("music.example.com SOA +padding=64", &["status: NOERROR"]),
    ("music.example.com SOA +ednsopt=100:abcd", &["status: NOERROR"]),
    ("music.example.com NOTIFY=1", &["NOTIMPL"]),
];

fn lab() -> Lab {
    let mut plan = Plan::new().with_sections(&[300, 1000, 2200]);
    plan.zone.server_id = Some("node-7".into());
    plan.start()
}

/// Runs all cases, and fails with every one that was not as expected.
fn run(tool: &str, package: &str, fixed: &[&str], cases: &[&[Case]]) {
    let Some(program) = find_program(tool) else { return skip(tool, package) };
    assert_eq!(FIRST, 17_000_000_000, "the numbers in the cases");
    let lab = lab();
    let port = lab.addr.port().to_string();
    let mut wrong = Vec::new();
    for (arguments, expected) in cases.iter().copied().flatten() {
        let output = Command::new(&program)
            .args(["@127.0.0.1", "-p", &port])
            .args(fixed)
            .args(arguments.split(' '))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).replace(";; ->>HEADER<<- ", "");
        // Kdig writes flags in capitals, and aligns columns with tabs as dig does.
        let text = text.replace(";; Flags:", ";; flags:");
        let broken =
            ["WARNING", "malformed", "mismatch", "timed out", "no servers", "communications"];
        // That no key of ours signed the answer is what dig has to complain about there.
        let signed = arguments.starts_with("-y");
        let complaint = broken.iter().find(|word| text.contains(**word) && !signed);
        let missing = expected.iter().find(|word| match word.strip_prefix('!') {
            Some(unwanted) => text.contains(unwanted),
            None => !text.contains(&word.replace("Flags:", "flags:")),
        });
        if complaint.is_some() || missing.is_some() {
            wrong.push(format!("{tool} {arguments}: {complaint:?} {missing:?}\n{text}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n----\n"));
    lab.responder.stop().unwrap();
}

#[test]
fn dig_is_content() {
    let fixed = ["+norecurse", "+tries=1", "+time=20", "+nottlunits", "+nosplit"];
    run("dig", "bind9-dnsutils", &fixed, &[COMMON, DIG]);
}

#[test]
fn kdig_is_content() {
    let fixed = ["+norecurse", "+retry=0", "+time=20", "+edns"];
    run("kdig", "knot-dnsutils", &fixed, &[COMMON, KDIG]);
}

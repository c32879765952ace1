//! Capture and encoding go on undisturbed while every core answers queries: a stream is published while
//! clients ask as fast as they can, and how late each publication was is printed. Once with a paced
//! source, and once from a sound device, which has a clock of its own and loses what is not fetched in
//! time.
//!
//! `AODNS_SATURATION_SECONDS` says for how long (3 by default, 60 for the record). Lateness is the
//! machine's and is not asserted; that the stream went on without a gap is.

#![cfg(feature = "opus")]
#![allow(clippy::unwrap_used)] // a test may end anywhere

#[path = "support/dns.rs"]
mod dns;
#[cfg(all(feature = "device", target_os = "linux"))]
#[path = "support/json.rs"]
mod json;
#[cfg(all(feature = "device", target_os = "linux"))]
#[path = "support/process.rs"]
mod process;
#[cfg(all(feature = "device", target_os = "linux"))]
#[path = "support/pulse.rs"]
mod pulse;

use aodns::audio::programme::ProgrammeSource;
use aodns::segment::NowRecord;
use aodns::server::{Server, ServerConfig};
use dns::*;
use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Packets of a segment: few, so that there are many publications to time.
const PACKETS: usize = 4;
const SEGMENT_MS: i64 = 4 * 60;

/// Asks over UDP as fast as it goes.
fn flood_datagrams(addr: SocketAddr, over: &AtomicBool, answers: &AtomicU64) {
    let client = udp_client(addr);
    client.set_nonblocking(true).unwrap();
    let queries = [
        edns(&below("sequence"), TXT, &opt(1232, 0, &[])),
        plain(&seq(FIRST), TXT),
        plain(&below("x"), A),
    ];
    let mut buffer = [0; 2048];
    while !over.load(Ordering::Relaxed) {
        for query in queries.iter().cycle().take(96) {
            match client.send(query) {
                Ok(_) => {}
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
        }
        let mut taken = 0;
        while client.recv(&mut buffer).is_ok() {
            taken += 1;
        }
        answers.fetch_add(taken, Ordering::Relaxed);
    }
}

/// Asks over one connection, 50 questions at a time.
fn flood_stream(addr: SocketAddr, over: &AtomicBool, answers: &AtomicU64) {
    let mut client = tcp_client(addr);
    let queries = framed(&plain(&below("sequence"), TXT)).repeat(50);
    while !over.load(Ordering::Relaxed) {
        client.write_all(&queries).unwrap();
        for _ in 0..50 {
            receive_framed(&mut client).unwrap();
        }
        answers.fetch_add(50, Ordering::Relaxed);
    }
}

/// When each segment was published, in milliseconds of the server's own clock: how late this
/// question or its answer is does not matter.
fn watch(addr: SocketAddr, time: Duration) -> BTreeMap<u64, i64> {
    let mut client = tcp_client(addr);
    let mut published = BTreeMap::new();
    let begun = Instant::now();
    for count in 0.. {
        send_framed(&mut client, &plain(&below(&format!("now_{count}")), TXT));
        let answer = parse(&receive_framed(&mut client).unwrap());
        let now = NowRecord::parse(&answer.answer[0].rdata[1..]).unwrap();
        if let Some(age) = now.age {
            published.insert(now.next - 1, now.clock_ms as i64 - age.as_millis() as i64);
        }
        if begun.elapsed() >= time {
            break;
        }
        // Often enough to see each publication, seldom enough to be no flood of its own.
        std::thread::sleep(Duration::from_millis(60));
    }
    published
}

/// The most that a publication was late against the steady cadence of the earliest ones.
fn worst_lateness(published: &BTreeMap<u64, i64>) -> (i64, i64) {
    let drift: Vec<i64> =
        published.iter().map(|(&number, &at)| at - number as i64 * SEGMENT_MS).collect();
    let earliest = drift.iter().min().copied().unwrap_or(0);
    let mut late: Vec<i64> = drift.iter().map(|drift| drift - earliest).collect();
    late.sort_unstable();
    (late[late.len() / 2], late[late.len() - 1])
}

/// One flood at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// How long to flood.
fn length() -> Duration {
    let seconds = std::env::var("AODNS_SATURATION_SECONDS").map_or(3, |text| text.parse().unwrap());
    Duration::from_secs(seconds)
}

/// Floods `addr` meanwhile; when each segment was published, and answers a second.
fn flood(addr: SocketAddr, time: Duration) -> (BTreeMap<u64, i64>, f64) {
    let (over, answers) = (AtomicBool::new(false), AtomicU64::new(0));
    let begun = Instant::now();
    let published = std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| flood_datagrams(addr, &over, &answers));
            scope.spawn(|| flood_stream(addr, &over, &answers));
        }
        let published = watch(addr, time);
        over.store(true, Ordering::Relaxed);
        published
    });
    (published, answers.into_inner() as f64 / begun.elapsed().as_secs_f64())
}

fn print_lateness(what: &str, published: &BTreeMap<u64, i64>) {
    let (median, worst) = worst_lateness(published);
    println!(
        "{what}: {} publications, late by {median} ms (median), {worst} ms (worst)",
        published.len()
    );
}

#[test]
fn the_stream_goes_on_while_the_responder_is_saturated() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let root = "music.example.com".parse().unwrap();
    let mut config = ServerConfig::new(root, vec![(Ipv4Addr::LOCALHOST, 0).into()]);
    config.packets_max = PACKETS;
    let server = Server::start(config, Box::new(ProgrammeSource::new())).unwrap();
    let addr = server.local_addrs()[0];
    let quiet = watch(addr, Duration::from_secs(2));
    let before = server.stats();
    let begun = Instant::now();
    let (flooded, taken) = flood(addr, length());
    let elapsed = begun.elapsed().as_secs_f64();
    let after = server.stop().unwrap();
    let frames = (after.frames - before.frames) as f64 * 0.06;
    let sent =
        after.responder.answers.iter().sum::<u64>() - before.responder.answers.iter().sum::<u64>();
    print_lateness("quiet", &quiet);
    print_lateness("flooded", &flooded);
    println!(
        "{taken:.0} answers a second taken, {:.0} a second sent; {frames:.1} s of sound in \
         {elapsed:.1} s; {} samples overrun, {} frames refused",
        sent as f64 / elapsed,
        after.overrun_samples,
        after.encode_failures,
    );
    assert_eq!((after.overrun_samples, after.encode_failures), (0, 0));
    assert!(after.segments > before.segments && taken > 0.0);
    // Every number in between was published: none was skipped, whatever the load.
    assert_eq!(after.segments, after.next - (before.next - before.segments));
}

/// The sound device is a PulseAudio of its own; the server is the program, as it runs in its home.
#[cfg(all(feature = "device", target_os = "linux"))]
#[test]
fn a_sound_device_loses_nothing_while_the_responder_is_saturated() {
    use json::Json;
    use pulse::{PATIENCE, Pulse, set_home, until};
    use std::process::Command;

    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let test = "a_sound_device_loses_nothing_while_the_responder_is_saturated";
    let Some(pulse) = Pulse::start(test) else { return };
    // Something to record; a silent sink is recorded in the same way.
    assert!(pulse.pactl(&["load-module", "module-sine", "sink=src", "frequency=440"]));
    let mut command = Command::new(env!("CARGO_BIN_EXE_aodns"));
    command.args(["serve", "music.example.com", "--listen", "127.0.0.1:0", "--json"]);
    command.args(["--max-frames-per-segment", &PACKETS.to_string()]);
    set_home(&mut command, pulse.directory.path());
    let mut server = pulse.spawn(&mut command, "serve");
    let event = |server: &process::Process, name: &str| -> Option<Json> {
        let text = String::from_utf8(server.stdout()).unwrap();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let mut events = whole.lines().rev().map(Json::read);
        events.find(|event| event["event"].str() == name)
    };
    until("a first segment", || {
        event(&server, "status").is_some_and(|status| status["segments"].number() > 2)
    });
    let start = event(&server, "start").unwrap();
    let addr = start["listen"].array()[0].str().parse().unwrap();
    let before = event(&server, "status").unwrap();
    let (published, taken) = flood(addr, length());
    let id = server.id().to_string();
    assert!(Command::new("kill").args(["-s", "TERM", &id]).status().unwrap().success());
    assert!(server.wait(PATIENCE).unwrap().is_some_and(|status| status.success()));
    let after = event(&server, "report").unwrap();
    let number = |event: &Json, name: &str| event[name].float();
    let more = |name: &str| number(&after, name) - number(&before, name);
    print_lateness("from a device", &published);
    println!(
        "{taken:.0} answers a second taken; {:.2} s of sound in {:.2} s; {} samples overrun",
        more("captured_s"),
        more("elapsed_s"),
        after["overrun_samples"].number(),
    );
    assert_eq!(after["overrun_samples"].number(), 0);
    assert!(taken > 0.0 && more("segments") >= 3.0);
    // What the sound system itself left out would be missing here. It has buffers of its own, and waits
    // for a processor as everybody does.
    let missing = more("elapsed_s") - more("captured_s");
    assert!(missing < 1.5, "{missing} s of sound are missing");
}

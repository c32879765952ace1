//! One hour of listening in a second: the real follower, fetcher and jitter buffer against the real
//! server's zone, through models of resolvers and networks, on a virtual clock. The result is a
//! table, `tests/snapshots/sim.txt`; a change in it is to be reviewed like code.
//!
//! `AODNS_SIM_REGENERATE=1 cargo test --release --test sim` writes the table anew.

#[path = "sim/net.rs"]
mod net;
#[path = "sim/resolver.rs"]
mod resolver;
#[path = "sim/server.rs"]
mod server;
#[path = "support/stamp.rs"]
mod stamp;
#[path = "sim/world.rs"]
mod world;

use net::Path;
use resolver::Habits;
use server::{Kind, Run};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use world::{HopKind, Result, Setting, World};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

fn base() -> Instant {
    static BASE: OnceLock<Instant> = OnceLock::new();
    *BASE.get_or_init(|| Instant::now() + Duration::from_secs(1000))
}

/// The hour that most listeners share.
fn hour() -> Arc<Run> {
    static RUN: OnceLock<Arc<Run>> = OnceLock::new();
    Arc::clone(RUN.get_or_init(|| run(Kind::DEFAULT, Duration::ZERO, HOUR)))
}

fn run(kind: Kind, begins: Duration, ends: Duration) -> Arc<Run> {
    Arc::new(Run::new(kind, base(), begins, ends))
}

fn listen(setting: Setting, runs: &[Arc<Run>]) -> Result {
    World::new(setting, runs.to_vec(), base()).run()
}

fn probe_row(name: &str, result: &Result) {
    println!(
        "{name:28} silent {:.4}% gaps {} p50 {:.0} p95 {:.0} max {:.0} queries {} neg {} first {:?} {:?} drift {:?} level {:?} disorder {}",
        result.gap_ratio() * 100.0,
        result.gaps,
        result.latency(0.5),
        result.latency(0.95),
        result.latency(1.0),
        result.queries,
        result.fetch.negatives,
        result.first_sound,
        result.causes,
        result.drift_ppm,
        result.level_max,
        result.disorder,
    );
}

#[test]
fn probe() {
    let run = hour();
    for (name, resolver) in [
        ("direct", None),
        ("floor 0", Some(Habits::PLAIN)),
        ("floor 30", Some(Habits::with_floor(30))),
    ] {
        for (rtt, loss) in [(0, 0), (80, 0), (300, 0), (400, 0), (0, 5), (80, 5), (0, 20), (80, 20), (300, 20), (0, 40), (300, 40), (400, 40)] {
            let path = Path::new(rtt, loss);
            let hop = HopKind { resolver, ..HopKind::direct(path) };
            let began = Instant::now();
            let result = listen(Setting::new(vec![hop], HOUR, 7), &[Arc::clone(&run)]);
            probe_row(&format!("{name} {rtt} ms {loss}% {:?}", began.elapsed().as_millis()), &result);
        }
    }
    let _ = SECOND;
}

#[test]
#[ignore]
fn probe_one() {
    let run = hour();
    let path = Path::new(300, 0);
    let hop = HopKind { resolver: Some(Habits::PLAIN), ..HopKind::direct(path) };
    let mut setting = Setting::new(vec![hop], 120 * SECOND, 7);
    setting.trace = true;
    probe_row("one", &listen(setting, &[run]));
}

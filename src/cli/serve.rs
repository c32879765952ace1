//! `aodns serve`: a server until its source ends, its time is over, or somebody wants it to stop.

use super::console::{Console, Json};
use super::descriptors;
use super::failure::Failure;
use super::json::{self, Value};
use super::log::{Growth, Level, Throttle};
use super::metrics::Metrics;
use super::report;
use super::serve_args::SERVE;
use super::serve_job::ServeJob;
use super::signals::Signals;
use super::sound;
use aodns::audio::{SourceKind, system_words};
use aodns::codec::EncoderSettings;
use aodns::error::Error;
use aodns::responder::ResponderError;
use aodns::responder::limit::Limited;
use aodns::server::{Server, ServerConfig};
use aodns::zone::{CookieSecrets, SecretsError};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

/// Between two status lines.
const SECOND: Duration = Duration::from_secs(1);
/// Between two counter lines at level `info`.
const MINUTE: Duration = Duration::from_secs(60);
/// A source that has given no sound for this long is told of.
const NO_SOUND: Duration = Duration::from_secs(5);
/// Limited prefixes that are named in a line.
const NAMED_MAX: usize = 4;

/// Serves.
///
/// # Errors
/// What the library could not do, and a closed standard output.
pub fn run(job: ServeJob) -> Result<(), Failure> {
    let json = if job.json { Json::Stdout } else { Json::Off };
    let mut console = Console::new(json, job.level < Level::Warn);
    let failed = |error: Error| match &error {
        // Known only once `--dns-port` and `--listen` are put together.
        Error::Responder(ResponderError::Overlap(_)) => SERVE.wrong(error.to_string()),
        _ => sound::source_failure(&job.source, &error),
    };
    let source = sound::source(&job.source, job.looping)?;
    let metrics = job.metrics.map(Metrics::bind).transpose()?;
    let descriptors = descriptors::raise(job.config.responder.tcp.connections);
    let mut config = job.config.clone();
    config.cookies = job.cookie_secrets.as_deref().map(cookie_secrets).transpose()?;
    let waits = !job.looping && job.level >= Level::Info;
    if let Some(words) = sound::wait(&job.source).filter(|_| waits) {
        console.say(&words);
    }
    let server = Server::start(config, source).map_err(failed)?;
    // Until now there was nothing to be ended in order, and a source may take for ever to open.
    let signals = Signals::install()?;
    if let Some(warning) = descriptors.filter(|_| job.level >= Level::Warn) {
        console.say(&warning);
    }
    if let Some(metrics) = &metrics {
        if job.level >= Level::Info {
            console.say(&format!("counters at http://{}/metrics", metrics.address()));
        }
    }
    let ended = std::thread::scope(|scope| {
        let offered = metrics.as_ref().map(|metrics| metrics.offer(scope, &server));
        let ended = watch(&job, &server, &signals, &mut console, metrics.as_ref());
        drop(offered);
        ended
    });
    let last = server.stop().map_err(failed)?;
    ended?;
    if job.level >= Level::Info {
        console.say(&format!("served\n{}", report::server_report(&last)));
    }
    console.json_or_warn(&json::event("report", report::server_fields(&last)));
    let source = match &job.source {
        SourceKind::Raw => "standard input".to_string(),
        source => source.to_string(),
    };
    let silent = |what: String| Err(Failure::Runtime(format!("{source} {what}")));
    match last.frames {
        0 if last.ended => silent("ended without any sound".into()),
        0 if !signals.stop_wanted() && last.elapsed >= SECOND => {
            silent(format!("gave no sound in {}", report::short(last.elapsed)))
        }
        _ => Ok(()),
    }
}

/// Reads secrets for cookies.
fn cookie_secrets(path: &Path) -> Result<CookieSecrets, Failure> {
    let shown = super::console::escape(&path.display().to_string());
    let failed = |why: &dyn std::fmt::Display| {
        Failure::Runtime(format!(
            "cannot take secrets for cookies from {shown}: {why}; `openssl rand -hex 16` makes one"
        ))
    };
    let text = std::fs::read_to_string(path).map_err(|error| failed(&system_words(&error)))?;
    text.parse().map_err(|error: SecretsError| failed(&error))
}

/// Reports until the end.
fn watch(
    job: &ServeJob,
    server: &Server,
    signals: &Signals,
    console: &mut Console,
    metrics: Option<&Metrics>,
) -> Result<(), Failure> {
    let started = Instant::now();
    let over = job.duration.map(|duration| started + duration);
    let addresses = server.local_addrs();
    if job.level >= Level::Info {
        console.say(&opening(job, &addresses));
    } else if job.level >= Level::Warn {
        warnings(&job.config, &addresses).iter().for_each(|line| console.say(line));
    }
    console.json_or_warn(&start_object(job, &addresses, metrics));
    let interval = match job.level {
        Level::Debug => Some(SECOND),
        Level::Info => Some(MINUTE),
        Level::Warn | Level::Error => None,
    };
    let mut counted = (started, server.stats());
    let mut shown = (started, counted.1.clone());
    let (mut ended, mut silent) = (false, false);
    let mut warned = Throttle::default();
    let mut waiting: Vec<Limited> = Vec::new();
    let (mut failed, mut lost) = (Growth::default(), Growth::default());
    loop {
        let until = over.map_or(shown.0 + SECOND, |over| over.min(shown.0 + SECOND));
        signals.wait(Some(until), &[server.finished_fd()])?;
        let now = Instant::now();
        if signals.stop_wanted() || over.is_some_and(|over| now >= over) || server.is_finished() {
            return Ok(());
        }
        if now < shown.0 + SECOND {
            continue;
        }
        let stats = server.stats();
        if stats.ended && stats.frames == 0 {
            // There is nothing that anybody could still want to hear.
            return Ok(());
        }
        if console.is_json() {
            console.json_or_warn(&json::event("status", report::server_fields(&stats)));
        }
        console.status(&report::server_status(&stats, &shown.1, now - shown.0));
        if interval.is_some_and(|interval| now >= counted.0 + interval) {
            console.say(&report::server_line(&stats, &counted.1));
            counted = (now, stats.clone());
        }
        if stats.ended && !ended {
            ended = true;
            if job.level >= Level::Info {
                console.say("the source has ended; answering until everybody has heard the rest");
            }
        }
        waiting.extend(server.responder().map(|r| r.take_limited()).unwrap_or_default());
        if job.level < Level::Warn {
            waiting.clear();
        } else if !waiting.is_empty() && warned.pass(now).is_some() {
            console.say(&limited_line(&waiting, job.config.responder.limits.dry_run));
            waiting.clear();
        }
        if stats.frames == 0 && !silent && now >= started + NO_SOUND {
            silent = true;
            if job.level >= Level::Warn {
                console.say("warning: no sound has come from the source yet; it is waited for");
            }
        }
        if job.level >= Level::Warn {
            let failure = server.state_failure();
            if let Some(why) = failure.filter(|_| failed.pass(now, stats.state_failures).is_some())
            {
                console.say(&format!("warning: {why}; sound goes on, and this is tried again"));
            }
            if let Some(samples) = lost.pass(now, stats.overrun_samples) {
                console.say(&lost_line(job.config.encoder.format.rate.duration(samples)));
            }
        }
        shown = (now, stats);
    }
}

fn lost_line(lost: Duration) -> String {
    format!(
        "warning: {:.1} s of sound are lost: the sound system was away, or this machine is too slow to \
         encode (a lower --complexity costs it less)",
        lost.as_secs_f64()
    )
}

fn limited_line(limited: &[Limited], dry_run: bool) -> String {
    let named = limited.iter().take(NAMED_MAX);
    let named = named.map(|one| format!("{} ({})", one.prefix, report::rule_words(one.rule)));
    let named = named.collect::<Vec<_>>().join(", ");
    let more = match limited.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let verb = if dry_run { "would limit" } else { "limiting" };
    format!("warning: {verb} {named}{more}")
}

/// What is served, where, and what is still to be done.
fn opening(job: &ServeJob, addresses: &[SocketAddr]) -> String {
    let config = &job.config;
    let title = match config.title.as_str() {
        "" => String::new(),
        title => format!(" \"{}\"", super::console::escape(title)),
    };
    let mut text = format!("serving{title} {}", config.root);
    let encoder = &config.encoder;
    // The settings were checked when the command line was read.
    if let Ok(plan) = config.plan() {
        text += &format!(
            "\n  {} {}, {} ms a packet, in {}; segments of at most {} ms, {} in the window",
            encoder.kind,
            encoder.format,
            plan.frame.as_millis(),
            config.ascii,
            plan.segment_duration_max.as_millis(),
            config.window
        );
    }
    let at = addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ");
    text += &format!("\n  sound from {}, answers over UDP and TCP at {at}", job.source);
    if let Some(address) = reachable(addresses) {
        text += &format!("\nto listen on this machine:\n  aodns listen {} {address}", config.root);
    }
    text += "\nrecords for the zone above, to be heard through any resolver:";
    for line in config.delegation().lines {
        text += &format!("\n  {line}");
    }
    for line in warnings(config, addresses) {
        text += &format!("\n{line}");
    }
    text
}

fn warnings(config: &ServerConfig, addresses: &[SocketAddr]) -> Vec<String> {
    let mut lines = Vec::new();
    for name in config.delegation().missing {
        lines.push(format!(
            "warning: {name} has no address, so resolvers cannot find this server; add --ns \
             {name}=ADDRESS"
        ));
    }
    let fitting = config
        .plan()
        .ok()
        .map(|plan| EncoderSettings::bitrate_within(plan.packet_octets_max, plan.frame));
    if let Some((asked, fitting)) = config.encoder.bitrate.zip(fitting).filter(|(a, f)| a > f) {
        lines.push(format!(
            "warning: packets that fit a string hold {fitting} bit/s, not {asked}; shorter ones, \
             as of --frame-ms 10, hold more"
        ));
    }
    if addresses.iter().all(|address| address.port() != 53) {
        lines.push(
            "warning: resolvers ask at port 53 alone; without --dns-port 53 or a redirection \
             only `aodns listen` with this server's address finds it"
                .into(),
        );
    }
    lines
}

/// An address at which this machine reaches itself.
fn reachable(addresses: &[SocketAddr]) -> Option<SocketAddr> {
    addresses.first().map(|address| {
        let ip = match address.ip() {
            IpAddr::V4(v4) if v4.is_unspecified() => [127, 0, 0, 1].into(),
            IpAddr::V6(v6) if v6.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        SocketAddr::new(ip, address.port())
    })
}

fn start_object(job: &ServeJob, addresses: &[SocketAddr], metrics: Option<&Metrics>) -> String {
    let delegation = job.config.delegation();
    let texts = |list: &[SocketAddr]| list.iter().map(SocketAddr::to_string).collect();
    let fields = vec![
        ("root", Value::Text(Some(job.config.root.to_string()))),
        ("listen", Value::List(texts(addresses))),
        ("metrics", Value::Text(metrics.map(|metrics| metrics.address().to_string()))),
        ("delegation", Value::List(delegation.lines)),
        ("missing", Value::List(delegation.missing.iter().map(ToString::to_string).collect())),
    ];
    json::event("start", fields)
}

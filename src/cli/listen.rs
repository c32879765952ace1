//! `aodns listen`: a listener until the stream ends, its time is over, or somebody wants it to stop.

use super::console::{Console, Json};
use super::failure::Failure;
use super::json::{self, Value};
use super::listen_args::ListenJob;
use super::log::Throttle;
use super::report;
use super::signals::Signals;
use super::sound;
use super::values::Asked;
use aodns::audio::{SinkKind, system_words};
use aodns::client::{Client, ClientStats};
use aodns::error::Error;
use aodns::follow::{Manner, StreamParameters, Trouble};
use aodns::pipeline::play::GapReport;
use aodns::playout::GapCause;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

/// Between two status lines.
const SECOND: Duration = Duration::from_secs(1);
/// Gaps that are explained in a second.
const GAPS_MAX: usize = 3;
/// Where the system keeps the addresses of its resolvers.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Listens.
///
/// # Errors
/// What the library could not do, and a closed standard output.
pub fn run(job: ListenJob) -> Result<(), Failure> {
    let json = json_to(job.json, &job.sink);
    let mut console = Console::new(json, job.quiet);
    match (json, listen(&job, &mut console)) {
        // Where JSON lines go, nothing else goes.
        (Json::Stderr, Err(Failure::Runtime(text))) => {
            console.json(&json::event("failure", vec![("text", Value::Text(Some(text)))]))?;
            Err(Failure::Told)
        }
        (_, result) => result,
    }
}

fn listen(job: &ListenJob, console: &mut Console) -> Result<(), Failure> {
    let failed = |error: Error| sound::sink_failure(&job.sink, &error);
    let sink = sound::sink(&job.sink)?;
    let mut config = job.config.clone();
    let (servers, failures) = look_up(&job.servers, job.port)?;
    config.servers = servers;
    for failure in failures {
        console.say(&format!("warning: {failure}"));
    }
    let signals = Signals::install()?;
    let client = Client::start(config, sink).map_err(failed)?;
    let stopped = watch(job, &client, &signals, console);
    let last = client.stop().map_err(failed)?;
    if matches!(stopped, Err(Failure::Closed)) {
        console.say(&format!("listened\n{}", report::client_report(&last)));
        let why =
            "nobody reads the JSON lines on standard output any more; without --json this goes on";
        return Err(Failure::Runtime(why.into()));
    }
    let stopped = stopped?;
    console.say(&format!("listened\n{}", report::client_report(&last)));
    console.json(&json::event("report", report::client_fields(&last)))?;
    match (stopped, last.first_sound) {
        (Stopped::Over, None) => Err(Failure::Runtime(silence(job, &last))),
        (Stopped::Finished, None) if last.play.ended => Err(Failure::Runtime(silence(job, &last))),
        _ => Ok(()),
    }
}

/// JSON goes where the sound does not.
pub fn json_to(wanted: bool, sink: &SinkKind) -> Json {
    match (wanted, sink) {
        (false, _) => Json::Off,
        (true, SinkKind::Raw) => Json::Stderr,
        (true, _) => Json::Stdout,
    }
}

fn silence(job: &ListenJob, last: &ClientStats) -> String {
    let trouble = match last.play.trouble {
        _ if last.play.ended => "the stream has ended".into(),
        _ if last.play.undecodable > 0 => {
            "its packets cannot be decoded; `--codec` says what they are where the server does not"
                .into()
        }
        Some((trouble, _)) => report::trouble_words(trouble, last),
        None if last.fetch.answers == 0 => report::trouble_words(Trouble::Silence, last),
        None => "no sound yet".into(),
    };
    let elapsed = report::short(last.elapsed);
    format!("heard nothing of {} in {elapsed}: {trouble} ({})", job.config.root, last.server)
}

/// Why the listener stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopped {
    /// Somebody wants it.
    Wanted,
    /// `--duration` is over.
    Over,
    /// The stream ended, or the listener failed.
    Finished,
}

fn watch(
    job: &ListenJob,
    client: &Client,
    signals: &Signals,
    console: &mut Console,
) -> Result<Stopped, Failure> {
    let started = Instant::now();
    let over = job.duration.map(|duration| started + duration);
    let mut shown = started;
    let mut news = News::default();
    let lines = console.is_terminal() || console.is_json() || job.verbose;
    loop {
        // Nothing is to be done each second while nobody sees it.
        let next = (lines || news.is_watching(job)).then_some(shown + SECOND);
        let until = over.into_iter().chain(next).min();
        signals.wait(until, &[client.finished_fd(), client.news_fd()])?;
        let now = Instant::now();
        if signals.stop_wanted() {
            return Ok(Stopped::Wanted);
        }
        if client.is_finished() {
            return Ok(Stopped::Finished);
        }
        if over.is_some_and(|over| now >= over) {
            return Ok(Stopped::Over);
        }
        let second = now >= shown + SECOND;
        if !client.hear_news() && !second {
            continue;
        }
        let stats = client.stats();
        news.tell(&stats, now, job, console);
        if !second {
            continue;
        }
        shown = now;
        if console.is_terminal() {
            console.status(&report::client_line(&stats));
        } else if job.verbose {
            console.say(&report::client_line(&stats));
        }
        if console.is_json() {
            console.json(&json::event("status", report::client_fields(&stats)))?;
        }
    }
}

/// What was told already.
#[derive(Default)]
struct News {
    stream: Option<StreamParameters>,
    trouble: Option<Trouble>,
    troubles: Throttle,
    /// Where the last gap told of began, and why.
    gap: Option<(Duration, GapCause)>,
    /// Whether it was told that the latency asked for, or any, cannot be had.
    wish_told: bool,
    /// Whether something is to be told that was not, as too much was before.
    late: bool,
}

impl News {
    /// Whether something may be to be told of which [`Client::news_fd`] knows nothing.
    fn is_watching(&self, job: &ListenJob) -> bool {
        self.late || (job.config.latency.is_some() && !self.wish_told)
    }

    /// Tells what changed since the last time.
    fn tell(&mut self, stats: &ClientStats, now: Instant, job: &ListenJob, console: &mut Console) {
        if stats.play.stream != self.stream {
            self.stream.clone_from(&stats.play.stream);
            if let Some(stream) = &self.stream {
                let words = report::stream_words(stream);
                console.say(&format!("stream {words}, from {}", stats.server));
            }
        }
        let trouble = stats.play.trouble.map(|(trouble, _)| trouble);
        self.late = trouble != self.trouble && self.troubles.pass(now).is_none();
        if trouble != self.trouble && !self.late {
            match trouble {
                Some(trouble) => {
                    let words = report::trouble_words(trouble, stats);
                    console.say(&format!("waiting: {words} ({})", stats.server));
                }
                None => console.say("going on"),
            }
            self.trouble = trouble;
        }
        let least = stats.play.target.filter(|_| !self.wish_told);
        if let Some((wish, least)) = job.config.latency.zip(least) {
            if least > wish {
                self.wish_told = true;
                console.say(&format!(
                    "{} s behind cannot be had here, where segments take {:.2} s; that is aimed at \
                     instead",
                    wish.as_secs_f64(),
                    least.as_secs_f64()
                ));
            }
        }
        if job.config.latency.is_some() && stats.manner == Manner::List && !self.wish_told {
            self.wish_told = true;
            console.say(
                "warning: --latency does nothing here: this server does not tell when its sound was \
                 captured",
            );
        }
        if job.verbose {
            self.tell_gaps(stats, console);
        }
    }

    fn tell_gaps(&mut self, stats: &ClientStats, console: &mut Console) {
        let gaps = &stats.play.gaps;
        let is_fresh = |report: &&GapReport| {
            self.gap.is_none_or(|(at, cause)| {
                // What looked like a late segment may turn out to be more.
                report.at > at || report.at == at && report.gap.cause != cause
            })
        };
        let fresh: Vec<_> = gaps.iter().filter(is_fresh).collect();
        for report in fresh.iter().take(GAPS_MAX) {
            console.say(&report::gap_words(report));
        }
        if fresh.len() > GAPS_MAX {
            console.say(&format!("and {} gaps more", fresh.len() - GAPS_MAX));
        }
        self.gap = gaps.back().map(|report| (report.at, report.gap.cause)).or(self.gap);
    }
}

/// The addresses of all servers, in the order in which they were named, each once.
///
/// # Errors
/// When none has an address; beside those that have, what failed is told.
fn look_up(servers: &[Asked], port: u16) -> Result<(Vec<SocketAddr>, Vec<Failure>), Failure> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    let mut failures = Vec::new();
    for server in servers {
        let found = match server {
            Asked::System => system_servers(port),
            Asked::Host(host, own) => host_addresses(host, own.unwrap_or(port)),
        };
        match found {
            Ok(found) => {
                for address in found {
                    if !addresses.contains(&address) {
                        addresses.push(address);
                    }
                }
            }
            Err(failure) => failures.push(failure),
        }
    }
    match (addresses.is_empty(), failures.is_empty()) {
        (true, false) => Err(failures.remove(0)),
        _ => Ok((addresses, failures)),
    }
}

fn host_addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>, Failure> {
    let attempt = || format!("cannot look up server {}", super::console::escape(host));
    let found: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .map_err(|cause| {
            Failure::Runtime(format!("{}: {cause}; its address works without a look-up", attempt()))
        })?
        .collect();
    match found.is_empty() {
        true => Err(Failure::Runtime(format!("{}: it has no address", attempt()))),
        false => Ok(found),
    }
}

fn system_servers(port: u16) -> Result<Vec<SocketAddr>, Failure> {
    let text = std::fs::read_to_string(RESOLV_CONF).map_err(|cause| {
        let cause = system_words(&cause);
        Failure::Runtime(format!("cannot read {RESOLV_CONF}: {cause}; name a resolver instead"))
    })?;
    let mut addresses = Vec::new();
    for host in name_servers(&text) {
        // By way of the system, as a link-local address comes with the name of its link.
        addresses.extend(host_addresses(host, port)?);
    }
    match addresses.is_empty() {
        true => Err(Failure::Runtime(format!("{RESOLV_CONF} names no server; name one instead"))),
        false => Ok(addresses),
    }
}

/// The words after `nameserver` (resolv.conf(5)).
fn name_servers(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_found_among_the_rest() {
        let text = "# nameserver 192.0.2.9\nsearch x\n nameserver  192.0.2.1 # x\nnameserver\n\
                    nameserver fe80::1%1\noptions edns0\n";
        assert_eq!(name_servers(text).collect::<Vec<_>>(), ["192.0.2.1", "fe80::1%1"]);
    }

    #[test]
    fn addresses_are_asked_once_each() {
        let host = |host: &str, port| Asked::Host(host.into(), port);
        let asked = [host("192.0.2.1", None), host("::1", Some(54)), host("192.0.2.1", Some(53))];
        let (found, failures) = look_up(&asked, 53).unwrap();
        assert!(failures.is_empty());
        assert_eq!(found, ["192.0.2.1:53".parse().unwrap(), "[::1]:54".parse().unwrap()]);
    }
}

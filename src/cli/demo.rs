//! `aodns demo`: server, listener and the built-in programme in one process, over real sockets.

use super::console::Console;
use super::demo_args::DemoJob;
use super::failure::Failure;
use super::json::{self, Value};
use super::listen::json_to;
use super::report;
use super::signals::Signals;
use super::sound;
use aodns::audio::{ProgrammeSource, SinkKind, default_output_works};
use aodns::client::{Client, ClientConfig, ClientStats};
use aodns::error::Error;
use aodns::server::{Server, ServerConfig};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

/// Where the sound goes when there is no device.
const FILE: &str = "aodns-demo.wav";
/// The stream's domain; nobody but this process asks for it (RFC 2606).
const ROOT: &str = "demo.example.com";
/// Between two status lines.
const SECOND: Duration = Duration::from_secs(1);

/// Runs the demonstration.
///
/// # Errors
/// What the library could not do, a closed standard output, and a listener that heard nothing.
pub fn run(job: DemoJob) -> Result<(), Failure> {
    let chosen = || match default_output_works() {
        true => SinkKind::Default,
        false => SinkKind::Wav(FILE.into()),
    };
    let kind = job.sink.clone().unwrap_or_else(chosen);
    let mut console = Console::new(json_to(job.json, &kind), false);
    let failed = |error: Error| sound::sink_failure(&kind, &error);
    let sink = sound::sink(&kind)?;
    let root = ROOT.parse().map_err(|error| Failure::Runtime(format!("{ROOT}: {error}")))?;
    let signals = Signals::install()?;
    let local = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
    let mut config = ServerConfig::new(root, vec![local]);
    config.title = "aodns demo".into();
    let root = config.root.clone();
    let server = Server::start(config, Box::new(ProgrammeSource::new())).map_err(failed)?;
    let addresses = server.local_addrs();
    let words = addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ");
    console.say(&format!("a server at {words} and a listener that plays to {kind}"));
    let client = Client::start(ClientConfig::new(root, addresses), sink).map_err(failed)?;
    let watched = watch(&job, &server, &client, &signals, &mut console);
    let heard = client.stop().map_err(failed)?;
    let served = server.stop().map_err(failed)?;
    watched?;
    console.say(&format!("demonstrated\n{}", report::client_report(&heard)));
    if let SinkKind::Wav(path) = &kind {
        console.say(&format!("the sound is in {}", path.display()));
    }
    let fields = vec![
        ("output", Value::Text(Some(kind.to_string()))),
        ("listener", Value::Object(report::client_fields(&heard))),
        ("server", Value::Object(report::server_fields(&served))),
    ];
    console.json(&json::event("report", fields))?;
    match heard.first_sound {
        None if !signals.stop_wanted() => Err(Failure::Runtime(nothing(&heard))),
        _ => Ok(()),
    }
}

fn nothing(heard: &ClientStats) -> String {
    let trouble = heard.play.trouble.map(|(trouble, _)| report::trouble_words(trouble, heard));
    let trouble = trouble.unwrap_or_else(|| "no sound arrived".into());
    format!("the listener heard nothing in {}: {trouble}", report::short(heard.elapsed))
}

fn watch(
    job: &DemoJob,
    server: &Server,
    client: &Client,
    signals: &Signals,
    console: &mut Console,
) -> Result<(), Failure> {
    let mut shown = Instant::now();
    let over = shown + job.duration;
    loop {
        let finished = [client.finished_fd(), server.finished_fd()];
        signals.wait(Some(over.min(shown + SECOND)), &finished)?;
        let now = Instant::now();
        if now >= over || signals.stop_wanted() || client.is_finished() || server.is_finished() {
            return Ok(());
        }
        if now < shown + SECOND {
            continue;
        }
        shown = now;
        let stats = client.stats();
        console.status(&report::client_line(&stats));
        if console.is_json() {
            console.json(&json::event("status", report::client_fields(&stats)))?;
        }
    }
}

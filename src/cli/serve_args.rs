//! `aodns serve`: its command line, and the configuration that follows from it.

use super::failure::Failure;
use super::flags::{self, Command, Table};
use super::log::Level;
use super::values::{add, listen_address, name_server, number, prefix, put, root, seconds, word};
use aodns::ascii::AsciiKind;
use aodns::audio::SourceKind;
use aodns::codec::{Application, CodecKind, EncoderSettings};
use aodns::error::Error;
use aodns::responder::limit::Prefix;
use aodns::server::ServerConfig;
use aodns::units::{Channels, SampleRate};
use aodns::wire::UDP_PAYLOAD_MAX;
use aodns::zone::NameServer;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// The port when none is said: 53 needs rights that a first try does not have.
const DNS_PORT: u16 = 5053;
/// Largest datagram that a trusted client may be sent.
const UDP_PAYLOAD_TRUSTED_MAX: usize = 4096;
/// Port of [`ServeJob::metrics`] when none is said.
const METRICS_PORT: u16 = 9353;

/// The abuse policy as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rrl {
    /// Nothing is limited.
    Off,
    /// Limits are counted and not applied.
    DryRun,
    /// Limits are applied.
    On,
}

impl FromStr for Rrl {
    type Err = UnknownRrl;

    fn from_str(name: &str) -> Result<Rrl, UnknownRrl> {
        match name {
            "off" => Ok(Rrl::Off),
            "dry-run" => Ok(Rrl::DryRun),
            "on" => Ok(Rrl::On),
            _ => Err(UnknownRrl),
        }
    }
}

/// The text is no [`Rrl`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownRrl;

impl fmt::Display for UnknownRrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("off, dry-run or on is needed")
    }
}

/// The flags as they were given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServeArgs {
    pub dns_port: Option<u16>,
    pub listen: Vec<(IpAddr, Option<u16>)>,
    pub input: Option<SourceKind>,
    pub looping: bool,
    pub duration: Option<Duration>,
    pub codec: Option<CodecKind>,
    pub application: Option<Application>,
    pub complexity: Option<u8>,
    pub sample_rate: Option<u32>,
    pub channels: Option<Channels>,
    pub bitrate: Option<u32>,
    pub frame_ms: Option<u64>,
    pub encoding: Option<AsciiKind>,
    pub max_data_per_feed: Option<usize>,
    pub max_bytes_per_record: Option<usize>,
    pub max_sequences: Option<usize>,
    pub max_frames_per_segment: Option<usize>,
    pub single_datagram: bool,
    pub title: Option<String>,
    pub state: Option<PathBuf>,
    pub ns: Vec<NameServer>,
    pub server_id: Option<String>,
    pub udp_max_payload: Option<usize>,
    pub trust: Vec<Prefix>,
    pub rrl: Option<Rrl>,
    pub rrl_bytes: Option<u32>,
    pub rrl_burst: Option<u32>,
    pub rrl_responses: Option<u16>,
    pub rrl_errors: Option<u16>,
    pub rrl_total_bytes: Option<u32>,
    pub rrl_total_errors: Option<u32>,
    pub rrl_entries: Option<usize>,
    pub rrl_exempt: Vec<Exempt>,
    pub hold_slots: Option<usize>,
    pub udp_threads: Option<usize>,
    pub tcp_connections: Option<usize>,
    pub small: bool,
    pub json: bool,
    pub log_level: Option<Level>,
    pub metrics: Option<SocketAddr>,
    pub metrics_anywhere: bool,
}

/// Who is not limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exempt {
    /// These clients.
    Prefix(Prefix),
    /// Nobody but those that are named, not even this machine.
    Nobody,
}

fn exempt(word: &str) -> Result<Exempt, String> {
    match word {
        "none" => Ok(Exempt::Nobody),
        _ => prefix(word).map(Exempt::Prefix).map_err(|text| format!("{text}, or none")),
    }
}

fn metrics_address(word: &str) -> Result<SocketAddr, String> {
    let (address, port) = match word.parse::<u16>() {
        Ok(port) => (Ipv4Addr::LOCALHOST.into(), Some(port)),
        Err(_) => listen_address(word).map_err(|text| format!("{text}; a port alone will do"))?,
    };
    Ok(SocketAddr::new(address, port.unwrap_or(METRICS_PORT)))
}

fn channels(word: &str) -> Result<Channels, String> {
    let count = word.parse().ok().and_then(Channels::new);
    count.ok_or_else(|| "a stream has 1 or 2 channels".into())
}

fn short_text(word: &str, octets_max: usize) -> Result<String, String> {
    match word.len() > octets_max {
        true => Err(format!("at most {octets_max} octets of text are allowed")),
        false => Ok(word.to_owned()),
    }
}

/// Octets of a title; more would not fit the configuration record beside the rest.
const TITLE_OCTETS_MAX: usize = 100;
/// Octets of a server's name for itself.
const SERVER_ID_OCTETS_MAX: usize = 64;

/// A flag of this command.
type Flag = flags::Flag<ServeArgs>;

/// The command.
pub static SERVE: Command<ServeArgs> = Command {
    name: "serve",
    about: "Publishes live sound as a stream under a domain, and answers for it.",
    form: "aodns serve <root>",
    operands: &[("<root>", "the stream's domain, such as music.example.com")],
    sections: &[
        (
            "Sound",
            &[
                Flag::value(
                    "input",
                    "SPEC",
                    |a, w| put(&mut a.input, word(w)),
                    "where the sound comes from, see below (default: default)",
                )
                .or('i'),
                Flag::switch("loop", |a| a.looping = true, "begin a WAV file again at its end"),
                Flag::value(
                    "duration",
                    "SECONDS",
                    |a, w| put(&mut a.duration, seconds(w, 0.1..=1e9)),
                    "stop after this time",
                ),
            ],
        ),
        (
            "Coding",
            &[
                Flag::value(
                    "codec",
                    "NAME",
                    |a, w| put(&mut a.codec, word(w)),
                    "see below (default: opus)",
                ),
                Flag::value(
                    "application",
                    "voip|audio|lowdelay",
                    |a, w| put(&mut a.application, word(w)),
                    "what Opus is to be best at (default: voip)",
                ),
                Flag::value(
                    "complexity",
                    "0..10",
                    |a, w| put(&mut a.complexity, number(w, 0..=10)),
                    "how hard Opus tries (default: its own, 9)",
                ),
                Flag::value(
                    "sample-rate",
                    "HZ",
                    |a, w| put(&mut a.sample_rate, number(w, 1..=SampleRate::HZ_MAX)),
                    "8000, 12000, 16000, 24000 or 48000 (default: 16000; codec2: 8000)",
                ),
                Flag::value(
                    "channels",
                    "1|2",
                    |a, w| put(&mut a.channels, channels(w)),
                    "mono or stereo (default: 1)",
                ),
                Flag::value(
                    "bitrate",
                    "BITS",
                    |a, w| put(&mut a.bitrate, number(w, EncoderSettings::BITRATES)),
                    "average bits a second of Opus, 500 to 512000 (default: its own, about 17000 \
                     at 16 kHz mono)",
                ),
                Flag::value(
                    "frame-ms",
                    "10|20|40|60",
                    |a, w| put(&mut a.frame_ms, number(w, 1..=1000)),
                    "how long an Opus packet lasts (default: 60)",
                ),
                Flag::value(
                    "encoding",
                    "NAME",
                    |a, w| put(&mut a.encoding, word(w)),
                    "how packets are written as text, see below (default: base91)",
                ),
            ],
        ),
        (
            "Segments",
            &[
                Flag::value(
                    "max-data-per-feed",
                    "N",
                    |a, w| put(&mut a.max_data_per_feed, number(w, 0..=65_535)),
                    "most octets in one TXT string, index included (default: 250)",
                ),
                Flag::value(
                    "max-bytes-per-record",
                    "N",
                    |a, w| put(&mut a.max_bytes_per_record, number(w, 0..=65_535)),
                    "most octets of text in a segment (default: 2000)",
                ),
                Flag::value(
                    "max-sequences",
                    "N",
                    |a, w| put(&mut a.max_sequences, number(w, 0..=1_000_000)),
                    "segments published at the same time, 2 to 10000 (default: 75)",
                ),
                Flag::value(
                    "max-frames-per-segment",
                    "N",
                    |a, w| put(&mut a.max_frames_per_segment, number(w, 0..=1_000_000)),
                    "most packets in a segment, up to 100; fewer are less delay, and 0 leaves it \
                     to the octets (default: 12)",
                ),
                Flag::switch(
                    "single-datagram",
                    |a| a.single_datagram = true,
                    "make segments whose answer fits one datagram of 1232 octets, so that no \
                     resolver has to ask again over TCP",
                ),
                Flag::value(
                    "title",
                    "TEXT",
                    |a, w| put(&mut a.title, short_text(w, TITLE_OCTETS_MAX)),
                    "what the stream is called",
                ),
                Flag::value(
                    "state",
                    "FILE",
                    |a, w| put(&mut a.state, Ok(w.into())),
                    "keep the last segment number here, for machines whose clock may go back",
                ),
            ],
        ),
        (
            "Server",
            &[
                Flag::value(
                    "dns-port",
                    "N",
                    |a, w| put(&mut a.dns_port, number(w, 0..=u16::MAX)),
                    "UDP and TCP port; 0 takes a free one (default: 5053)",
                ),
                Flag::value(
                    "listen",
                    "ADDR[:PORT]",
                    |a, w| add(&mut a.listen, listen_address(w)),
                    "address to answer at (default: 0.0.0.0 and [::])",
                )
                .repeatable(),
                Flag::value(
                    "ns",
                    "NAME[=ADDR]",
                    |a, w| add(&mut a.ns, name_server(w)),
                    "a name server of the zone and its address; the same name again adds an \
                     address (default: ns.<root>)",
                )
                .repeatable(),
                Flag::value(
                    "server-id",
                    "TEXT",
                    |a, w| put(&mut a.server_id, short_text(w, SERVER_ID_OCTETS_MAX)),
                    "what the server calls itself when asked (NSID, id.server)",
                ),
                Flag::value(
                    "hold-slots",
                    "N",
                    |a, w| put(&mut a.hold_slots, number(w, 0..=65_536)),
                    "questions for the next segment that may wait for it; 0 lets none wait \
                     (default: 1024)",
                ),
                Flag::value(
                    "udp-threads",
                    "N",
                    |a, w| put(&mut a.udp_threads, number(w, 0..=256)),
                    "threads that answer datagrams (default: one for each core)",
                ),
                Flag::value(
                    "tcp-connections",
                    "N",
                    |a, w| put(&mut a.tcp_connections, number(w, 1..=65_536)),
                    "connections at the same time (default: 1024)",
                ),
                Flag::switch(
                    "small",
                    |a| a.small = true,
                    "the limits for small devices: 64 connections, 64 held questions, 4096 \
                     client prefixes, one UDP thread",
                ),
            ],
        ),
        (
            "Abuse policy, for datagrams from clients that may be forged",
            &[
                Flag::value(
                    "rrl",
                    "off|dry-run|on",
                    |a, w| put(&mut a.rrl, word(w)),
                    "apply the limits, only count, or have none (default: on)",
                ),
                Flag::value(
                    "rrl-bytes",
                    "N",
                    |a, w| put(&mut a.rrl_bytes, number(w, 1..=u32::MAX)),
                    "octets a second by which answers to one prefix (/24, /56) may exceed their \
                     questions (default: 100000)",
                ),
                Flag::value(
                    "rrl-burst",
                    "N",
                    |a, w| put(&mut a.rrl_burst, number(w, 1..=u32::MAX)),
                    "octets of that which a prefix may save up (default: 200000)",
                ),
                Flag::value(
                    "rrl-responses",
                    "N",
                    |a, w| put(&mut a.rrl_responses, number(w, 1..=u16::MAX)),
                    "answers a second to one prefix (default: 1000)",
                ),
                Flag::value(
                    "rrl-errors",
                    "N",
                    |a, w| put(&mut a.rrl_errors, number(w, 1..=u16::MAX)),
                    "error answers a second to one prefix (default: 100)",
                ),
                Flag::value(
                    "rrl-total-bytes",
                    "N",
                    |a, w| put(&mut a.rrl_total_bytes, number(w, 1..=u32::MAX)),
                    "octets a second by which answers to everybody may exceed their questions \
                     (default: 2000000)",
                ),
                Flag::value(
                    "rrl-total-errors",
                    "N",
                    |a, w| put(&mut a.rrl_total_errors, number(w, 1..=u32::MAX)),
                    "error answers a second to everybody (default: 2000)",
                ),
                Flag::value(
                    "rrl-entries",
                    "N",
                    |a, w| put(&mut a.rrl_entries, number(w, 8..=16_777_216)),
                    "prefixes remembered (default: 65536)",
                ),
                Flag::value(
                    "rrl-exempt",
                    "PREFIX|none",
                    |a, w| add(&mut a.rrl_exempt, exempt(w)),
                    "clients that are not limited, beside this machine; none limits this machine \
                     as well",
                )
                .repeatable(),
                Flag::value(
                    "trust",
                    "PREFIX",
                    |a, w| add(&mut a.trust, prefix(w)),
                    "clients that may be sent datagrams of --udp-max-payload octets",
                )
                .repeatable(),
                Flag::value(
                    "udp-max-payload",
                    "N",
                    |a, w| {
                        let range = UDP_PAYLOAD_MAX..=UDP_PAYLOAD_TRUSTED_MAX;
                        put(&mut a.udp_max_payload, number(w, range))
                    },
                    "largest datagram for --trust clients, up to 4096 (default: 1232)",
                ),
            ],
        ),
        (
            "Reports",
            &[
                Flag::switch("json", |a| a.json = true, "JSON lines on standard output"),
                Flag::value(
                    "log-level",
                    "error|warn|info|debug",
                    |a, w| put(&mut a.log_level, word(w)),
                    "info: counters every minute; debug: every second (default: info)",
                ),
                Flag::value(
                    "metrics",
                    "ADDR[:PORT]",
                    |a, w| put(&mut a.metrics, metrics_address(w)),
                    "offer the counters to Prometheus over HTTP at this address, or at this port \
                     of 127.0.0.1 (default port: 9353)",
                ),
                Flag::switch(
                    "metrics-anywhere",
                    |a| a.metrics_anywhere = true,
                    "allow a --metrics address that other machines can reach",
                ),
            ],
        ),
    ],
    tables: || {
        let codecs = CodecKind::ALL.map(|kind| {
            let built = if kind.is_built() { "" } else { " (not in this build)" };
            (kind.name().to_owned(), format!("{}{built}", about_codec(kind)))
        });
        let encodings = AsciiKind::ALL.map(AsciiKind::name).join(", ");
        vec![
            Table { title: "Sound (SPEC)", rows: super::rows(SourceKind::ALL) },
            Table { title: "Codecs", rows: codecs.into() },
            Table { title: "Encodings", rows: vec![(encodings, String::new())] },
        ]
    },
    examples: &[
        ("aodns serve music.example.com -i demo", "the built-in programme on port 5053"),
        (
            "aodns serve fm.example.com --dns-port 53 --ns ns.fm.example.com=192.0.2.1",
            "the default microphone, for the whole internet",
        ),
        (
            "arecord -t raw -f S16_LE -r 16000 | aodns serve music.example.com -i -",
            "what another program records",
        ),
    ],
};

fn about_codec(kind: CodecKind) -> String {
    match kind {
        CodecKind::Opus => "speech and music, 6 to 510 kbit/s".into(),
        _ => {
            let frame = kind.frames()[0].as_millis();
            format!("speech, 8 kHz mono, {frame} ms in {} octets", kind.packet_octets_min())
        }
    }
}

/// What `serve` is to do.
#[derive(Clone, Debug)]
pub struct ServeJob {
    /// The server.
    pub config: ServerConfig,
    /// Where its sound comes from.
    pub source: SourceKind,
    /// Whether that begins again at its end.
    pub looping: bool,
    /// When to stop.
    pub duration: Option<Duration>,
    /// Whether to write JSON lines.
    pub json: bool,
    /// How much to say.
    pub level: Level,
    /// Where to offer counters.
    pub metrics: Option<SocketAddr>,
}

impl ServeJob {
    /// What follows from a command line. Opens nothing.
    ///
    /// # Errors
    /// [`Failure::Usage`] for what does not fit together.
    pub fn new(args: ServeArgs, operands: &[String]) -> Result<ServeJob, Failure> {
        let root = match operands {
            [name] => root(name).map_err(|text| SERVE.wrong(text))?,
            [] => return Err(SERVE.wrong("the stream's domain is missing")),
            [_, more, ..] => {
                let shown = super::console::escape(more);
                return Err(SERVE.wrong(format!("one domain is enough; what is {shown}?")));
            }
        };
        let source = args.input.clone().unwrap_or(SourceKind::Default);
        if args.looping && !matches!(source, SourceKind::Wav(_)) {
            return Err(SERVE.wrong(format!("--loop is for WAV files, and {source} is none")));
        }
        let mut config = ServerConfig::new(root, listen(&args));
        encoder(&args, &mut config)?;
        segments(&args, &mut config);
        config.name_servers = name_servers(&args.ns);
        config.server_id = args.server_id.clone();
        responder(&args, &mut config)?;
        config.plan().map_err(|error| SERVE.wrong(plan_words(&error)))?;
        let metrics = args.metrics;
        if let Some(address) = metrics.filter(|address| !address.ip().to_canonical().is_loopback())
        {
            if !args.metrics_anywhere {
                return Err(SERVE.wrong(format!(
                    "--metrics {address}: other machines could read the counters there; choose an \
                     address of 127.0.0.0/8 or [::1], or add --metrics-anywhere"
                )));
            }
        }
        if metrics.is_none() && args.metrics_anywhere {
            return Err(SERVE.wrong("--metrics-anywhere needs --metrics ADDR"));
        }
        Ok(ServeJob {
            config,
            source,
            looping: args.looping,
            duration: args.duration,
            json: args.json,
            level: args.log_level.unwrap_or_default(),
            metrics,
        })
    }
}

/// The library names settings as their flags are called, without the hyphens in front.
fn plan_words(error: &Error) -> String {
    const NAMES: [&str; 4] =
        ["max-data-per-feed", "max-bytes-per-record", "max-sequences", "max-frames-per-segment"];
    let text = error.to_string();
    NAMES.iter().fold(text, |text, name| text.replace(name, &format!("--{name}")))
}

fn listen(args: &ServeArgs) -> Vec<SocketAddr> {
    let port = args.dns_port.unwrap_or(DNS_PORT);
    if args.listen.is_empty() {
        let any = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        return any.map(|address| SocketAddr::new(address, port)).into();
    }
    let address =
        |&(address, own): &(IpAddr, Option<u16>)| SocketAddr::new(address, own.unwrap_or(port));
    args.listen.iter().map(address).collect()
}

fn encoder(args: &ServeArgs, config: &mut ServerConfig) -> Result<(), Failure> {
    let kind = args.codec.unwrap_or_default();
    if !kind.is_built() {
        let feature = if kind == CodecKind::Opus { "opus" } else { "codec2" };
        return Err(SERVE.wrong(format!(
            "--codec {kind}: this build cannot do that; build it with `--features {feature}`"
        )));
    }
    let encoder = &mut config.encoder;
    *encoder = EncoderSettings::new(kind);
    if let Some(hz) = args.sample_rate {
        let rate = SampleRate::new(hz).filter(|rate| kind.rates().contains(rate));
        let rates = kind.rates().iter().map(|rate| rate.hz().to_string()).collect::<Vec<_>>();
        encoder.format.rate = rate.ok_or_else(|| {
            SERVE.wrong(format!(
                "--sample-rate {hz}: {kind} has {} Hz; sound of any other rate is converted to it",
                rates.join(", ")
            ))
        })?;
    }
    if let Some(channels) = args.channels {
        encoder.format.channels = channels;
    }
    encoder.application = args.application.unwrap_or_default();
    encoder.bitrate = args.bitrate;
    encoder.complexity = args.complexity;
    encoder.frame = args.frame_ms.map(Duration::from_millis);
    encoder.frame_samples().map_err(|error| SERVE.wrong(error.to_string()))?;
    Ok(())
}

fn segments(args: &ServeArgs, config: &mut ServerConfig) {
    config.ascii = args.encoding.unwrap_or_default();
    let set = |place: &mut usize, value: Option<usize>| *place = value.unwrap_or(*place);
    set(&mut config.string_octets_max, args.max_data_per_feed);
    set(&mut config.segment_octets_max, args.max_bytes_per_record);
    set(&mut config.window, args.max_sequences);
    set(&mut config.packets_max, args.max_frames_per_segment);
    config.single_datagram = args.single_datagram;
    config.title = args.title.clone().unwrap_or_default();
    config.state = args.state.clone();
}

/// Servers in the order in which they were named, each once, with all its addresses.
fn name_servers(given: &[NameServer]) -> Vec<NameServer> {
    let mut servers: Vec<NameServer> = Vec::new();
    for server in given {
        match servers.iter_mut().find(|other| other.name.is(server.name.wire())) {
            Some(other) => other.addresses.extend(&server.addresses),
            None => servers.push(server.clone()),
        }
    }
    servers
}

fn responder(args: &ServeArgs, config: &mut ServerConfig) -> Result<(), Failure> {
    let responder = &mut config.responder;
    if args.small {
        responder.udp_threads = 1;
        responder.tcp.connections = 64;
        responder.tcp.connections_per_client = 8;
        responder.tcp.idle = Duration::from_secs(5);
        responder.tcp.in_progress = 8;
        responder.hold_slots = 64;
        responder.limits.entries = 4096;
    }
    let set = |place: &mut usize, value: Option<usize>| *place = value.unwrap_or(*place);
    set(&mut responder.hold_slots, args.hold_slots);
    set(&mut responder.udp_threads, args.udp_threads);
    set(&mut responder.tcp.connections, args.tcp_connections);
    set(&mut responder.trusted_payload_max, args.udp_max_payload);
    if args.udp_max_payload.is_some_and(|octets| octets > UDP_PAYLOAD_MAX) && args.trust.is_empty()
    {
        return Err(SERVE.wrong(
            "--udp-max-payload is for clients whose address is not forged: name them with --trust \
             PREFIX, such as --trust 192.0.2.0/24",
        ));
    }
    responder.trusted = args.trust.clone();
    let limits = &mut responder.limits;
    set(&mut limits.entries, args.rrl_entries);
    limits.excess_per_second = args.rrl_bytes.unwrap_or(limits.excess_per_second);
    limits.excess_burst = args.rrl_burst.unwrap_or(limits.excess_burst);
    limits.responses_per_second = args.rrl_responses.unwrap_or(limits.responses_per_second);
    limits.errors_per_second = args.rrl_errors.unwrap_or(limits.errors_per_second);
    let total = &mut limits.excess_per_second_total;
    *total = args.rrl_total_bytes.unwrap_or(*total);
    let total = &mut limits.errors_per_second_total;
    *total = args.rrl_total_errors.unwrap_or(*total);
    if args.rrl_exempt.contains(&Exempt::Nobody) {
        limits.exempt.clear();
    }
    limits.exempt.extend(args.rrl_exempt.iter().filter_map(|exempt| match exempt {
        Exempt::Prefix(prefix) => Some(*prefix),
        Exempt::Nobody => None,
    }));
    limits.dry_run = args.rrl == Some(Rrl::DryRun);
    if args.rrl == Some(Rrl::Off) {
        let any = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        limits.exempt.extend(any.iter().filter_map(|&address| Prefix::new(address, 0)));
    }
    Ok(())
}

// Most of them begin with the default codec.
#[cfg(all(test, feature = "opus"))]
mod tests {
    use super::super::flags::tests::{check_each, check_help, flags_of};
    use super::*;

    fn job(words: &[&str]) -> Result<ServeJob, String> {
        let (args, operands) = flags_of(&SERVE, words);
        ServeJob::new(args, &operands).map_err(|failure| failure.to_string())
    }

    fn with(change: impl FnOnce(&mut ServeArgs)) -> ServeArgs {
        let mut args = ServeArgs::default();
        change(&mut args);
        args
    }

    #[test]
    fn each_flag_sets_its_field() {
        let prefix: Prefix = "192.0.2.0/24".parse().unwrap();
        let second = Duration::from_secs(1);
        let any6 = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let cases: Vec<(&[&str], ServeArgs)> = vec![
            (&["--dns-port", "53"], with(|a| a.dns_port = Some(53))),
            (
                &["--listen", "127.0.0.1", "--listen", "[::]:54"],
                with(|a| a.listen = vec![([127, 0, 0, 1].into(), None), (any6, Some(54))]),
            ),
            (&["--input", "demo"], with(|a| a.input = Some(SourceKind::Programme))),
            (&["-i", "-"], with(|a| a.input = Some(SourceKind::Raw))),
            (&["--loop"], with(|a| a.looping = true)),
            (&["--duration", "1"], with(|a| a.duration = Some(second))),
            (&["--codec", "codec2"], with(|a| a.codec = Some(CodecKind::Codec2At1200))),
            (&["--application", "audio"], with(|a| a.application = Some(Application::Audio))),
            (&["--complexity", "10"], with(|a| a.complexity = Some(10))),
            (&["--sample-rate", "48000"], with(|a| a.sample_rate = Some(48_000))),
            (&["--channels", "2"], with(|a| a.channels = Some(Channels::STEREO))),
            (&["--bitrate", "24000"], with(|a| a.bitrate = Some(24_000))),
            (&["--frame-ms", "20"], with(|a| a.frame_ms = Some(20))),
            (&["--encoding", "hex"], with(|a| a.encoding = Some(AsciiKind::Hex))),
            (&["--max-data-per-feed", "200"], with(|a| a.max_data_per_feed = Some(200))),
            (&["--max-bytes-per-record", "900"], with(|a| a.max_bytes_per_record = Some(900))),
            (&["--max-sequences", "10"], with(|a| a.max_sequences = Some(10))),
            (&["--max-frames-per-segment", "0"], with(|a| a.max_frames_per_segment = Some(0))),
            (&["--single-datagram"], with(|a| a.single_datagram = true)),
            (&["--title", "Night jazz"], with(|a| a.title = Some("Night jazz".into()))),
            (&["--state", "a/b"], with(|a| a.state = Some("a/b".into()))),
            (
                &["--ns", "ns.a=192.0.2.1"],
                with(|a| {
                    let addresses = vec![[192, 0, 2, 1].into()];
                    a.ns = vec![NameServer { name: "ns.a".parse().unwrap(), addresses }];
                }),
            ),
            (&["--server-id", "x"], with(|a| a.server_id = Some("x".into()))),
            (&["--hold-slots", "0"], with(|a| a.hold_slots = Some(0))),
            (&["--udp-threads", "2"], with(|a| a.udp_threads = Some(2))),
            (&["--tcp-connections", "5"], with(|a| a.tcp_connections = Some(5))),
            (&["--small"], with(|a| a.small = true)),
            (&["--rrl", "dry-run"], with(|a| a.rrl = Some(Rrl::DryRun))),
            (&["--rrl-bytes", "1"], with(|a| a.rrl_bytes = Some(1))),
            (&["--rrl-burst", "2"], with(|a| a.rrl_burst = Some(2))),
            (&["--rrl-responses", "3"], with(|a| a.rrl_responses = Some(3))),
            (&["--rrl-errors", "4"], with(|a| a.rrl_errors = Some(4))),
            (&["--rrl-total-bytes", "5"], with(|a| a.rrl_total_bytes = Some(5))),
            (&["--rrl-total-errors", "6"], with(|a| a.rrl_total_errors = Some(6))),
            (&["--rrl-entries", "64"], with(|a| a.rrl_entries = Some(64))),
            (
                &["--rrl-exempt", "192.0.2.0/24"],
                with(|a| a.rrl_exempt = vec![Exempt::Prefix(prefix)]),
            ),
            (&["--rrl-exempt", "none"], with(|a| a.rrl_exempt = vec![Exempt::Nobody])),
            (&["--trust", "192.0.2.0/24"], with(|a| a.trust = vec![prefix])),
            (&["--udp-max-payload", "4096"], with(|a| a.udp_max_payload = Some(4096))),
            (&["--json"], with(|a| a.json = true)),
            (&["--log-level", "debug"], with(|a| a.log_level = Some(Level::Debug))),
            (
                &["--metrics", "9000"],
                with(|a| a.metrics = Some(SocketAddr::from(([127, 0, 0, 1], 9000)))),
            ),
            (
                &["--metrics", "[::1]"],
                with(|a| a.metrics = Some(SocketAddr::from((Ipv6Addr::LOCALHOST, 9353)))),
            ),
            (&["--metrics-anywhere"], with(|a| a.metrics_anywhere = true)),
        ];
        check_each(&SERVE, &cases);
    }

    #[test]
    fn the_help_text_is_complete_and_narrow() {
        check_help(&SERVE);
    }

    #[test]
    fn defaults_are_those_of_the_library() {
        let job = job(&["music.example.com"]).unwrap();
        let listen = ["0.0.0.0:5053", "[::]:5053"].map(|address| address.parse().unwrap());
        let default = ServerConfig::new("music.example.com".parse().unwrap(), listen.into());
        assert_eq!(format!("{:?}", job.config), format!("{default:?}"));
        assert_eq!(job.source, SourceKind::Default);
        assert!(job.metrics.is_none() && !job.json && job.duration.is_none());
    }

    #[test]
    fn flags_reach_the_configuration() {
        let job = job(&[
            "a.example",
            "--sample-rate=48000",
            "--channels=2",
            "--frame-ms=20",
            "--bitrate=64000",
            "--complexity=3",
            "--application=audio",
            "--encoding=base64",
            "--max-data-per-feed=240",
            "--max-bytes-per-record=1900",
            "--max-sequences=20",
            "--max-frames-per-segment=30",
            "--single-datagram",
            "--title=x",
            "--state=y",
            "--server-id=z",
            "--hold-slots=7",
            "--udp-threads=3",
            "--tcp-connections=9",
            "--trust=192.0.2.0/24",
            "--udp-max-payload=4096",
            "--rrl=dry-run",
            "--rrl-bytes=1",
            "--rrl-burst=2",
            "--rrl-responses=3",
            "--rrl-errors=4",
            "--rrl-total-bytes=5",
            "--rrl-total-errors=6",
            "--rrl-entries=64",
            "--rrl-exempt=198.51.100.0/24",
            "--listen=127.0.0.1",
            "--listen=[::1]:54",
            "--dns-port=53",
        ])
        .unwrap();
        let config = job.config;
        let encoder = &config.encoder;
        assert_eq!(encoder.format.to_string(), "48000 Hz stereo");
        assert_eq!(encoder.frame, Some(Duration::from_millis(20)));
        assert_eq!((encoder.bitrate, encoder.complexity), (Some(64_000), Some(3)));
        assert_eq!((encoder.application, config.ascii), (Application::Audio, AsciiKind::Base64));
        assert_eq!((config.string_octets_max, config.segment_octets_max), (240, 1900));
        assert_eq!((config.window, config.packets_max), (20, 30));
        assert!(config.single_datagram);
        assert_eq!((config.title.as_str(), config.server_id.as_deref()), ("x", Some("z")));
        assert_eq!(config.state, Some("y".into()));
        let responder = &config.responder;
        assert_eq!(responder.listen, ["127.0.0.1:53", "[::1]:54"].map(|a| a.parse().unwrap()));
        assert_eq!((responder.hold_slots, responder.udp_threads), (7, 3));
        assert_eq!((responder.tcp.connections, responder.trusted_payload_max), (9, 4096));
        assert_eq!(responder.trusted, ["192.0.2.0/24".parse().unwrap()]);
        let limits = &responder.limits;
        assert!(limits.dry_run && limits.entries == 64);
        assert_eq!((limits.excess_per_second, limits.excess_burst), (1, 2));
        assert_eq!((limits.responses_per_second, limits.errors_per_second), (3, 4));
        assert_eq!((limits.excess_per_second_total, limits.errors_per_second_total), (5, 6));
        assert!(limits.exempt.iter().any(|p| p.contains([198, 51, 100, 9].into())));
    }

    #[test]
    fn small_devices_get_small_limits_unless_told_otherwise() {
        let small = job(&["a", "--small", "--tcp-connections", "100"]).unwrap().config.responder;
        assert_eq!((small.tcp.connections, small.tcp.connections_per_client), (100, 8));
        assert_eq!((small.tcp.idle, small.tcp.in_progress), (Duration::from_secs(5), 8));
        assert_eq!((small.hold_slots, small.limits.entries), (64, 4096));
    }

    #[test]
    fn without_limits_everybody_is_exempt() {
        let limits = job(&["a", "--rrl", "off"]).unwrap().config.responder.limits;
        for address in ["192.0.2.1", "2001:db8::1"] {
            let address: IpAddr = address.parse().unwrap();
            assert!(limits.exempt.iter().any(|prefix| prefix.contains(address)));
            let default = job(&["a"]).unwrap().config.responder.limits;
            assert!(!default.exempt.iter().any(|prefix| prefix.contains(address)));
        }
    }

    #[test]
    fn exemptions_add_to_this_machine_or_replace_it() {
        let loopback: IpAddr = Ipv4Addr::LOCALHOST.into();
        let named: IpAddr = [192, 0, 2, 9].into();
        let words = ["a", "--rrl-exempt", "192.0.2.0/24", "--rrl-exempt", "none"];
        for (words, expected) in [(&words[..3], [true, true]), (&words[..], [false, true])] {
            let exempt = job(words).unwrap().config.responder.limits.exempt;
            let is = |address| exempt.iter().any(|prefix| prefix.contains(address));
            assert_eq!([is(loopback), is(named)], expected, "{words:?}");
        }
    }

    #[test]
    fn name_servers_gather_their_addresses() {
        let words = ["a", "--ns", "n.a=192.0.2.1", "--ns", "m.b", "--ns", "N.a=2001:db8::1"];
        let servers = job(&words).unwrap().config.name_servers;
        let addresses: Vec<_> = servers.iter().map(|server| server.addresses.len()).collect();
        assert_eq!(addresses, [2, 0]);
    }

    #[test]
    fn what_does_not_fit_together_is_said_with_what_would() {
        let cases: [(&[&str], &str); 14] = [
            (&[], "the stream's domain is missing\nusage: aodns serve <root> [flags]"),
            (&["a..b"], "\"a..b\" is no domain name such as music.example.com"),
            (&["ä.de"], "write it in its xn-- form"),
            (&["a", "b"], "one domain is enough; what is b?"),
            (&["a", "--loop", "-i", "demo"], "--loop is for WAV files, and demo is none"),
            (&["a", "--sample-rate", "44100"], "opus has 8000, 12000, 16000, 24000, 48000 Hz"),
            (&["a", "--frame-ms", "30"], "last 10, 20, 40 or 60 ms"),
            (&["a", "--max-frames-per-segment", "1"], "set --max-frames-per-segment to 2 or more"),
            (&["a", "--max-sequences", "1"], "--max-sequences of 1 does not work: it may be 2"),
            (&["a", "--max-data-per-feed", "256"], "at most 255 octets"),
            (&["a", "--udp-max-payload", "4096"], "--trust 192.0.2.0/24"),
            (&["a", "--metrics", "192.0.2.1"], "add --metrics-anywhere"),
            (&["a", "--metrics-anywhere"], "needs --metrics ADDR"),
            (&["a", "--metrics", "0.0.0.0:1"], "choose an address of 127.0.0.0/8"),
        ];
        for (words, expected) in cases {
            let text = job(words).unwrap_err();
            assert!(text.contains(expected), "{words:?}: {text}");
        }
        assert!(job(&["a", "--metrics", "192.0.2.1", "--metrics-anywhere"]).is_ok());
        let text = job(&["a", "--max-sequences", "1"]).unwrap_err();
        assert!(text.contains("\nusage: aodns serve <root> --max-sequences N\n"), "{text}");
    }

    #[cfg(not(feature = "codec2"))]
    #[test]
    fn a_codec_that_was_left_out_is_named_with_its_feature() {
        let text = job(&["a", "--codec", "codec2"]).unwrap_err();
        assert!(text.contains("build it with `--features codec2`"), "{text}");
    }

    #[cfg(feature = "codec2")]
    #[test]
    fn codec2_has_one_rate_and_one_channel() {
        assert!(job(&["a", "--codec", "codec2-3200"]).is_ok());
        for words in [["--sample-rate", "16000"], ["--channels", "2"], ["--bitrate", "1200"]] {
            let words = [&["a", "--codec", "codec2"], &words[..]].concat();
            assert!(job(&words).is_err(), "{words:?}");
        }
    }
}

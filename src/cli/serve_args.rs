//! `aodns serve`: its command line.

use super::flags::{self, Command, Table};
use super::log::Level;
use super::values::{add, listen_address, name_server, number, prefix, put, seconds, word};
use aodns::ascii::AsciiKind;
use aodns::audio::SourceKind;
use aodns::codec::{Application, CodecKind, EncoderSettings};
use aodns::responder::limit::Prefix;
use aodns::units::{Channels, SampleRate};
use aodns::wire::UDP_PAYLOAD_MAX;
use aodns::zone::NameServer;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Largest datagram that a trusted client may be sent.
const UDP_PAYLOAD_TRUSTED_MAX: usize = 4096;
/// Port of `--metrics` when none is said.
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
    pub version_text: Option<String>,
    pub cookie_secrets: Option<PathBuf>,
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
/// Octets of what a server says of itself.
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
                    "average bits a second of Opus, 2400 to 512000 (default: its own, about 17000 \
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
                    "most packets in a segment, up to 100; fewer are less delay; listeners \
                     stay behind by as many as there may be, so 0, which is 100, is 6 s behind \
                     (default: 12)",
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
                    "version-text",
                    "TEXT",
                    |a, w| put(&mut a.version_text, short_text(w, SERVER_ID_OCTETS_MAX)),
                    "what it says to questions for version.bind (default: REFUSED)",
                ),
                Flag::value(
                    "cookie-secrets",
                    "FILE",
                    |a, w| put(&mut a.cookie_secrets, Ok(w.into())),
                    "file with the secret for DNS cookies as 32 hexadecimal digits, and on a second \
                     line the previous one, for cookies that outlive a restart (default: a fresh \
                     one at each start)",
                ),
                Flag::value(
                    "hold-slots",
                    "N",
                    |a, w| put(&mut a.hold_slots, number(w, 0..=65_536)),
                    "questions for the next segment that may wait for it; 0 lets none wait, \
                     and costs who asks this server itself half a second of sound as it begins \
                     (default: 1024)",
                ),
                Flag::value(
                    "udp-threads",
                    "N",
                    |a, w| put(&mut a.udp_threads, number(w, 0..=256)),
                    "threads that answer datagrams; 0 is one for each core (default: 0)",
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

#[cfg(test)]
mod tests {
    use super::super::flags::tests::{check_each, check_help};
    use super::*;
    use std::net::Ipv6Addr;

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
            (&["--version-text", "x"], with(|a| a.version_text = Some("x".into()))),
            (&["--cookie-secrets", "a/b"], with(|a| a.cookie_secrets = Some("a/b".into()))),
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
}

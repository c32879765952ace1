//! What `aodns serve` is to do: the configuration that follows from its command line.

use super::failure::Failure;
use super::log::Level;
use super::serve_args::{Exempt, Rrl, SERVE, ServeArgs};
use super::values::root;
use aodns::audio::SourceKind;
use aodns::codec::EncoderSettings;
use aodns::error::Error;
use aodns::server::ServerConfig;
use aodns::units::SampleRate;
use aodns::wire::UDP_PAYLOAD_MAX;
use aodns::zone::NameServer;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// The port when none is said: 53 needs rights that a first try does not have.
const DNS_PORT: u16 = 5053;

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
    /// Where secrets for cookies are kept, if anywhere.
    pub cookie_secrets: Option<PathBuf>,
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
        config.version = args.version_text.clone();
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
            cookie_secrets: args.cookie_secrets,
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
    if let Some(wrong) = super::values::codec_missing(kind) {
        return Err(SERVE.wrong(wrong));
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
            Some(other) => {
                let known = other.addresses.clone();
                other.addresses.extend(server.addresses.iter().filter(|a| !known.contains(a)));
            }
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
    limits.off = args.rrl == Some(Rrl::Off);
    Ok(())
}

// Most of them begin with the default codec.
#[cfg(all(test, feature = "opus"))]
mod tests {
    use super::super::flags::tests::flags_of;
    use super::*;
    use aodns::ascii::AsciiKind;
    use aodns::codec::Application;

    fn job(words: &[&str]) -> Result<ServeJob, String> {
        let (args, operands) = flags_of(&SERVE, words);
        ServeJob::new(args, &operands).map_err(|failure| failure.to_string())
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
    fn limits_are_on_unless_they_are_turned_off() {
        let limits = |words| job(words).unwrap().config.responder.limits;
        assert!(limits(&["a", "--rrl", "off"]).off && !limits(&["a"]).off);
        assert_eq!(limits(&["a", "--rrl", "off"]).exempt, limits(&["a"]).exempt);
    }

    #[test]
    fn z6_addresses_of_a_name_server_count_once() {
        let words =
            ["a", "--ns", "n.a=192.0.2.1", "--ns", "n.a=192.0.2.1", "--ns", "n.a=192.0.2.2"];
        let servers = job(&words).unwrap().config.name_servers;
        assert_eq!((servers.len(), servers[0].addresses.len()), (1, 2));
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
        let cases: [(&[&str], &str); 15] = [
            (&[], "the stream's domain is missing\nusage: aodns serve <root> [flags]"),
            (&["a..b"], "\"a..b\" is no domain name such as music.example.com"),
            (&["ä.de"], "write it in its xn-- form"),
            (&["a", "b"], "one domain is enough; what is b?"),
            (&["a", "--loop", "-i", "demo"], "--loop is for WAV files, and demo is none"),
            (&["a", "--sample-rate", "44100"], "opus has 8000, 12000, 16000, 24000, 48000 Hz"),
            (&["a", "--frame-ms", "30"], "last 10, 20, 40 or 60 ms"),
            (&["a", "--max-frames-per-segment", "1"], "set --max-frames-per-segment to 2 or more"),
            (&["a", "--max-sequences", "1"], "--max-sequences of 1 does not work: it may be 2"),
            (&["a", "--ns", "Seq_1.a=192.0.2.1"], "Seq_1.a cannot be a name server: the stream"),
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

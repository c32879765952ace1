//! `aodns listen`: its command line, and the configuration that follows from it.

use super::failure::Failure;
use super::flags::{self, Command, Table};
use super::values::{Asked, number, put, root, seconds, server, word};
use aodns::ascii::AsciiKind;
use aodns::audio::SinkKind;
use aodns::client::ClientConfig;
use aodns::codec::CodecKind;
use aodns::lookup::RetryPolicy;
use aodns::units::{Channels, SampleRate};
use aodns::wire::Name;
use std::time::Duration;

/// The port of DNS (RFC 1035 §4.2).
const DNS_PORT: u16 = 53;
/// Servers that are asked; beyond it somebody pasted a list.
const SERVERS_MAX: usize = 16;

/// How far behind the live edge to play.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Latency {
    /// As little as the path allows.
    Auto,
    /// This much, from capture to play.
    Fixed(Duration),
}

fn latency(word: &str) -> Result<Latency, String> {
    match word {
        "auto" => Ok(Latency::Auto),
        _ => match seconds(word, 0.1..=60.0) {
            Ok(time) => Ok(Latency::Fixed(time)),
            Err(text) => Err(format!("{text}, or auto")),
        },
    }
}

/// The flags as they were given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ListenArgs {
    pub dns_port: Option<u16>,
    pub output: Option<SinkKind>,
    pub latency: Option<Latency>,
    pub duration: Option<Duration>,
    pub codec: Option<CodecKind>,
    pub sample_rate: Option<u32>,
    pub channels: Option<Channels>,
    pub encoding: Option<AsciiKind>,
    pub timeout: Option<Duration>,
    pub retries: Option<u32>,
    pub retry_interval: Option<Duration>,
    pub json: bool,
    pub verbose: bool,
    pub quiet: bool,
}

/// A flag of this command.
type Flag = flags::Flag<ListenArgs>;

/// The command.
pub static LISTEN: Command<ListenArgs> = Command {
    name: "listen",
    about: "Plays a stream, as close to live as the way to it allows.",
    form: "aodns listen <root> <server[:port]>...",
    operands: &[
        ("<root>", "the stream's domain, such as music.example.com"),
        (
            "<server[:port]>...",
            "a resolver, or the stream's own server: 192.0.2.1, [2001:db8::1]:5053, \
             ns.example.com, or system for those of /etc/resolv.conf; of several, the next one is \
             asked when one fails",
        ),
    ],
    sections: &[
        (
            "Sound",
            &[
                Flag::value(
                    "output",
                    "SPEC",
                    |a, w| put(&mut a.output, word(w)),
                    "where the sound goes, see below (default: default)",
                )
                .or('o'),
                Flag::value(
                    "latency",
                    "auto|SECONDS",
                    |a, w| put(&mut a.latency, latency(w)),
                    "from capture to play, 0.1 to 60 s (default: auto, the least that plays \
                     without gaps)",
                ),
                Flag::value(
                    "duration",
                    "SECONDS",
                    |a, w| put(&mut a.duration, seconds(w, 0.1..=1e9)),
                    "stop after this time; a failure if nothing was heard by then",
                ),
            ],
        ),
        (
            "Questions",
            &[
                Flag::value(
                    "dns-port",
                    "N",
                    |a, w| put(&mut a.dns_port, number(w, 1..=u16::MAX)),
                    "port of servers that come without one (default: 53)",
                ),
                Flag::value(
                    "timeout",
                    "SECONDS",
                    |a, w| put(&mut a.timeout, seconds(w, 0.01..=10.0)),
                    "how long an answer may take; follows the measured round trip where that is \
                     longer (default: 0.1)",
                ),
                Flag::value(
                    "retries",
                    "N",
                    |a, w| put(&mut a.retries, number(w, 0..=100)),
                    "how often a question is asked again (default: 10)",
                ),
                Flag::value(
                    "retry-interval",
                    "SECONDS",
                    |a, w| put(&mut a.retry_interval, seconds(w, 0.01..=10.0)),
                    "from one try to the next (default: 0.25)",
                ),
            ],
        ),
        (
            "Stream, for servers that do not describe it themselves",
            &[
                Flag::value(
                    "codec",
                    "NAME",
                    |a, w| put(&mut a.codec, word(w)),
                    "see below (default: opus)",
                ),
                Flag::value(
                    "sample-rate",
                    "HZ",
                    |a, w| put(&mut a.sample_rate, number(w, 1..=SampleRate::HZ_MAX)),
                    "the stream's sample rate (default: 16000; codec2: 8000)",
                ),
                Flag::value(
                    "channels",
                    "1|2",
                    |a, w| {
                        let count = w.parse().ok().and_then(Channels::new);
                        put(&mut a.channels, count.ok_or("a stream has 1 or 2 channels".into()))
                    },
                    "mono or stereo (default: 1)",
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
            "Reports",
            &[
                Flag::switch(
                    "json",
                    |a| a.json = true,
                    "JSON lines, one a second, on standard output; on standard error when that \
                     carries the sound",
                ),
                Flag::switch(
                    "verbose",
                    |a| a.verbose = true,
                    "a status line every second, and the cause of each gap",
                )
                .or('v'),
                Flag::switch("quiet", |a| a.quiet = true, "nothing but errors").or('q'),
            ],
        ),
    ],
    tables: || {
        let encodings = AsciiKind::ALL.map(AsciiKind::name).join(", ");
        let codecs = CodecKind::ALL.map(CodecKind::name).join(", ");
        vec![
            Table { title: "Sound (SPEC)", rows: super::rows(SinkKind::ALL) },
            Table { title: "Codecs", rows: vec![(codecs, String::new())] },
            Table { title: "Encodings", rows: vec![(encodings, String::new())] },
        ]
    },
    examples: &[
        ("aodns listen music.example.com system", "through the system's resolvers"),
        ("aodns listen music.example.com 127.0.0.1:5053", "straight from a server on this machine"),
        (
            "aodns listen music.example.com 9.9.9.9 -o - | aplay -t raw -f S16_LE -r 16000",
            "to another program",
        ),
    ],
};

/// What `listen` is to do.
#[derive(Clone, Debug)]
pub struct ListenJob {
    /// The listener, but for the servers, whose names are still to be looked up.
    pub config: ClientConfig,
    /// Whom to ask.
    pub servers: Vec<Asked>,
    /// Port of those that come without one.
    pub port: u16,
    /// Where the sound goes.
    pub sink: SinkKind,
    /// When to stop.
    pub duration: Option<Duration>,
    /// Whether to write JSON lines.
    pub json: bool,
    /// Whether to say more.
    pub verbose: bool,
    /// Whether to say nothing.
    pub quiet: bool,
}

impl ListenJob {
    /// What follows from a command line. Opens nothing.
    ///
    /// # Errors
    /// [`Failure::Usage`] for what does not fit together.
    pub fn new(args: ListenArgs, operands: &[String]) -> Result<ListenJob, Failure> {
        let [name, servers @ ..] = operands else {
            return Err(LISTEN.wrong("the stream's domain and a server are missing"));
        };
        let root = root(name).map_err(|text| LISTEN.wrong(text))?;
        if servers.is_empty() {
            return Err(LISTEN.wrong("a server is missing; system means those of this machine"));
        }
        if servers.len() > SERVERS_MAX {
            return Err(LISTEN.wrong(format!("more than {SERVERS_MAX} servers")));
        }
        let servers = servers.iter().map(|word| server(word)).collect::<Result<_, _>>();
        let servers = servers.map_err(|text| LISTEN.wrong(text))?;
        if args.quiet && args.verbose {
            return Err(LISTEN.wrong("--quiet and --verbose contradict each other"));
        }
        let config = config(&args, root)?;
        Ok(ListenJob {
            config,
            servers,
            port: args.dns_port.unwrap_or(DNS_PORT),
            sink: args.output.unwrap_or(SinkKind::Default),
            duration: args.duration,
            json: args.json,
            verbose: args.verbose,
            quiet: args.quiet,
        })
    }
}

fn config(args: &ListenArgs, root: Name) -> Result<ClientConfig, Failure> {
    let mut config = ClientConfig::new(root, Vec::new());
    let default = RetryPolicy::default();
    config.policy = RetryPolicy {
        timeout: args.timeout.unwrap_or(default.timeout),
        retries: args.retries.unwrap_or(default.retries),
        interval: args.retry_interval.unwrap_or(default.interval),
    };
    config.latency = match args.latency {
        None | Some(Latency::Auto) => None,
        Some(Latency::Fixed(time)) => Some(time),
    };
    let stream = &mut config.fallback;
    stream.codec = args.codec.unwrap_or_default();
    stream.format = stream.codec.format_default();
    if let Some(hz) = args.sample_rate {
        let rates = stream.codec.rates();
        let rate = SampleRate::new(hz).filter(|rate| rates.contains(rate));
        let rates = rates.iter().map(|rate| rate.hz().to_string()).collect::<Vec<_>>();
        stream.format.rate = rate.ok_or_else(|| {
            LISTEN.wrong(format!(
                "--sample-rate {hz}: {} has {} Hz",
                stream.codec,
                rates.join(", ")
            ))
        })?;
    }
    if let Some(channels) = args.channels {
        if stream.codec != CodecKind::Opus && channels != Channels::MONO {
            return Err(LISTEN.wrong(format!("--channels 2: {} has 1 channel", stream.codec)));
        }
        stream.format.channels = channels;
    }
    if let Some(wrong) = args.codec.and_then(super::values::codec_missing) {
        return Err(LISTEN.wrong(wrong));
    }
    stream.ascii = args.encoding.unwrap_or_default();
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::super::flags::tests::{check_each, check_help, flags_of};
    use super::*;

    fn job(words: &[&str]) -> Result<ListenJob, String> {
        let (args, operands) = flags_of(&LISTEN, words);
        ListenJob::new(args, &operands).map_err(|failure| failure.to_string())
    }

    fn with(change: impl FnOnce(&mut ListenArgs)) -> ListenArgs {
        let mut args = ListenArgs::default();
        change(&mut args);
        args
    }

    #[test]
    fn each_flag_sets_its_field() {
        let half = Duration::from_millis(500);
        let cases: Vec<(&[&str], ListenArgs)> = vec![
            (&["--dns-port", "5053"], with(|a| a.dns_port = Some(5053))),
            (&["--output", "null"], with(|a| a.output = Some(SinkKind::Null))),
            (&["-o", "-"], with(|a| a.output = Some(SinkKind::Raw))),
            (&["--latency", "auto"], with(|a| a.latency = Some(Latency::Auto))),
            (&["--latency", "0.5"], with(|a| a.latency = Some(Latency::Fixed(half)))),
            (&["--duration", "0.5"], with(|a| a.duration = Some(half))),
            (&["--codec", "opus"], with(|a| a.codec = Some(CodecKind::Opus))),
            (&["--sample-rate", "8000"], with(|a| a.sample_rate = Some(8000))),
            (&["--channels", "2"], with(|a| a.channels = Some(Channels::STEREO))),
            (&["--encoding", "base64"], with(|a| a.encoding = Some(AsciiKind::Base64))),
            (&["--timeout", "0.5"], with(|a| a.timeout = Some(half))),
            (&["--retries", "3"], with(|a| a.retries = Some(3))),
            (&["--retry-interval", "0.5"], with(|a| a.retry_interval = Some(half))),
            (&["--json"], with(|a| a.json = true)),
            (&["--verbose"], with(|a| a.verbose = true)),
            (&["--quiet"], with(|a| a.quiet = true)),
        ];
        check_each(&LISTEN, &cases);
    }

    #[test]
    fn the_help_text_is_complete_and_narrow() {
        check_help(&LISTEN);
    }

    #[test]
    fn defaults_are_those_of_the_base_layer() {
        let job = job(&["music.example.com", "192.0.2.1"]).unwrap();
        assert_eq!(job.port, 53);
        assert_eq!(job.servers, [Asked::Host("192.0.2.1".into(), None)]);
        assert_eq!(job.sink, SinkKind::Default);
        assert_eq!(job.config.policy, RetryPolicy::default());
        assert_eq!(job.config.latency, None);
        let stream = &job.config.fallback;
        assert_eq!((stream.codec, stream.ascii), (CodecKind::Opus, AsciiKind::Base91));
        assert_eq!(stream.format.to_string(), "16000 Hz mono");
    }

    #[test]
    fn flags_reach_the_configuration() {
        let words =
            ["a", "system", "--latency=2", "--timeout=1", "--retries=0", "--retry-interval=3"];
        let stream = ["--sample-rate=48000", "--channels=2", "--encoding=base85"];
        let config = job(&[&words[..], &stream].concat()).unwrap().config;
        let seconds = Duration::from_secs;
        assert_eq!(config.latency, Some(seconds(2)));
        let policy = RetryPolicy { timeout: seconds(1), retries: 0, interval: seconds(3) };
        assert_eq!(config.policy, policy);
        assert_eq!(config.fallback.format.to_string(), "48000 Hz stereo");
        assert_eq!(config.fallback.ascii, AsciiKind::Base85);
    }

    #[test]
    fn what_is_wrong_is_said_with_what_would_be_right() {
        let cases: [(&[&str], &str); 8] = [
            (&[], "the stream's domain and a server are missing"),
            (&["a"], "a server is missing; system means those of this machine"),
            (&["a..b", "system"], "no domain name"),
            (&["a", "::1"], "in brackets: [::1]"),
            (&["a", "1.2.3"], "four numbers of 0 to 255"),
            (&["a", "system", "-q", "-v"], "contradict each other"),
            (&["a", "system", "--sample-rate", "44100"], "opus has 8000, 12000, 16000"),
            (&["a", "system", "--codec=codec2", "--channels=2"], "codec2 has 1 channel"),
        ];
        for (words, expected) in cases {
            let text = job(words).unwrap_err();
            assert!(text.contains(expected), "{words:?}: {text}");
        }
        let many = vec!["a"; 18];
        assert!(job(&many).unwrap_err().contains("more than 16 servers"));
    }
}

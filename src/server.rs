//! The server: a source, the stages that make segments of it, and the responder that answers for
//! them.

use crate::ascii::AsciiKind;
use crate::audio::Source;
use crate::codec::{self, CodecKind, EncoderSettings};
use crate::error::Error;
use crate::pipeline::produce::{self, ProduceCounters, Sequencer, StateFile};
use crate::pipeline::{Stage, Supervision, moment};
use crate::publication::Publication;
use crate::responder::{Responder, ResponderError, ResponderSettings, ResponderStats};
use crate::segment::{ConfigRecord, PACKETS_MAX, PREFIX_CHARS, PackLimits};
use crate::units::Sequence;
use crate::window::{self, Window};
use crate::wire::{self, Name, STRING_OCTETS_MAX, TXT_RECORD_OCTETS};
use crate::zone::{CONFIG_TTL, CookieSecrets, NameServer, Zone};
use std::fmt;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// Numbers are steps of 100 ms of the clock: a shorter segment would outrun it (protocol 1.5).
const SEGMENT_MIN: Duration = Duration::from_millis(100);
/// Records of one name and type, at most: BIND answers SERVFAIL for more.
const RECORDS_MAX: usize = 100;
/// Fewest and most segments in a window.
const WINDOW: std::ops::RangeInclusive<usize> = 2..=10_000;
/// Octets on the wire of the longest label in front of the root: `seq_18446744073709551615`.
const LABEL_ROOM: usize = 25;
/// An OPT record with client and server cookie (RFC 6891 §6.1.2, RFC 9018 §4).
const OPT_OCTETS: usize = 11 + 4 + 8 + 16;
/// How long a stage may take to end.
const PATIENCE: Duration = Duration::from_millis(300);

/// What a server needs.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The stream's domain.
    pub root: Name,
    /// Codec, sample rate, channels, frame, bit rate.
    pub encoder: EncoderSettings,
    /// How packets become text.
    pub ascii: AsciiKind,
    /// Most octets in one string, index prefix included; at most 255.
    pub string_octets_max: usize,
    /// Most octets of texts in one segment.
    pub segment_octets_max: usize,
    /// Most packets in one segment; 0 for no other limit than 100.
    pub packets_max: usize,
    /// Whether segments are so small that the whole answer for one, with question and an OPT record
    /// with a cookie, fits a datagram of 1232 octets (dns-behaviour Z7).
    pub single_datagram: bool,
    /// Segments published at the same time.
    pub window: usize,
    /// What the stream is called; may be empty.
    pub title: String,
    /// Where the last number is kept over restarts, if anywhere.
    pub state: Option<PathBuf>,
    /// Name servers of the zone; `ns.<root>` without an address when there are none.
    pub name_servers: Vec<NameServer>,
    /// What the server calls itself when asked (NSID, `id.server`).
    pub server_id: Option<String>,
    /// What it says to questions for its version (`version.bind`); `None` refuses them.
    pub version: Option<String>,
    /// Secrets for cookies that outlive a restart and hold at every server of an anycast address
    /// (RFC 9018 §5); `None` for a fresh one at each start.
    pub cookies: Option<CookieSecrets>,
    /// Addresses and limits of the responder.
    pub responder: ResponderSettings,
}

impl ServerConfig {
    /// The base layer's defaults for a stream that is answered for at `listen`.
    pub fn new(root: Name, listen: Vec<SocketAddr>) -> ServerConfig {
        ServerConfig {
            root,
            encoder: EncoderSettings::new(CodecKind::default()),
            ascii: AsciiKind::default(),
            string_octets_max: 250,
            segment_octets_max: 2000,
            packets_max: 12,
            single_datagram: false,
            window: 75,
            title: String::new(),
            state: None,
            name_servers: Vec::new(),
            server_id: None,
            version: None,
            cookies: None,
            responder: ResponderSettings::new(listen),
        }
    }

    /// Derives every limit, once: what a packet may measure follows from what a string holds.
    ///
    /// # Errors
    /// Names the setting that does not fit, and what would.
    pub fn plan(&self) -> Result<Plan, Error> {
        let settings = |text: String| Err(Error::Settings(text));
        let frame_samples = self.encoder.frame_samples()?;
        let rate = self.encoder.format.rate;
        let frame = rate.duration(frame_samples as u64);
        if self.root.wire().len() + LABEL_ROOM > wire::NAME_OCTETS_MAX {
            return settings(format!(
                "root {} is too long: at most {} characters leave room for segment names",
                self.root,
                // In wire form there is one octet more in front, and one at the end.
                wire::NAME_OCTETS_MAX - LABEL_ROOM - 2
            ));
        }
        if !(PREFIX_CHARS + 1..=STRING_OCTETS_MAX).contains(&self.string_octets_max) {
            return settings(format!(
                "max-data-per-feed of {} does not work: a TXT string holds at most 255 octets, {} \
                 of which are the index",
                self.string_octets_max, PREFIX_CHARS
            ));
        }
        if self.packets_max > PACKETS_MAX {
            return settings(format!(
                "max-frames-per-segment of {} is too many: resolvers refuse more than {PACKETS_MAX} \
                 records under one name",
                self.packets_max
            ));
        }
        let packets_max = if self.packets_max == 0 { PACKETS_MAX } else { self.packets_max };
        let packets_min = SEGMENT_MIN.as_nanos().div_ceil(frame.as_nanos().max(1)) as usize;
        if packets_max < packets_min {
            return settings(format!(
                "a segment of {packets_max} frames of {} ms is shorter than 100 ms: set \
                 max-frames-per-segment to {packets_min} or more",
                frame.as_millis()
            ));
        }
        // However large the packets, a segment holds 100 ms of them.
        let string_room = self.string_octets_max - PREFIX_CHARS;
        let segment_room = self.segment_octets_max.saturating_sub(PREFIX_CHARS) / packets_min;
        let records_octets_max = self.records_octets_max();
        let record_room =
            (records_octets_max / packets_min).saturating_sub(TXT_RECORD_OCTETS + PREFIX_CHARS);
        let text_chars_max = string_room.min(segment_room).min(record_room);
        let packet_octets_max = self.ascii.build().packet_octets_max(text_chars_max);
        let needed = self.encoder.kind.packet_octets_min();
        if packet_octets_max < needed {
            return settings(format!(
                "{} needs packets of {needed} octets, and {} characters of {} hold {packet_octets_max}: \
                 raise max-data-per-feed or max-bytes-per-record",
                self.encoder.kind, text_chars_max, self.ascii
            ));
        }
        if !WINDOW.contains(&self.window) {
            return settings(format!(
                "max-sequences of {} does not work: it may be {} to {}",
                self.window,
                WINDOW.start(),
                WINDOW.end()
            ));
        }
        let ours = |server: &&NameServer| Zone::is_stream_name(&self.root, &server.name);
        if let Some(server) = self.name_servers.iter().find(ours) {
            return settings(format!(
                "{} cannot be a name server: the stream itself has that name; take another for it",
                server.name
            ));
        }
        let per_name = |server: &NameServer| {
            let v4 = server.addresses.iter().filter(|address| address.is_ipv4()).count();
            v4.max(server.addresses.len() - v4)
        };
        let most = self.name_servers.iter().map(per_name).max().unwrap_or(0);
        if most.max(self.name_servers.len()) > RECORDS_MAX {
            return settings(format!(
                "more than {RECORDS_MAX} name servers, or addresses of one, are too many: resolvers \
                 refuse so many records of one name"
            ));
        }
        let limits = PackLimits {
            string_octets_max: text_chars_max + PREFIX_CHARS,
            segment_octets_max: self.segment_octets_max,
            packets_max,
            records_octets_max,
        };
        let segment_duration_max = frame * packets_max as u32;
        let plan = Plan { frame_samples, frame, limits, segment_duration_max, packet_octets_max };
        let fits = ConfigRecord::parse(&self.record(&plan, 0).encode()).map(|record| record.title);
        match fits {
            Ok(fits) if fits.chars().count() < self.title.chars().count() => settings(format!(
                "the title is too long: of {:?} no more than {fits:?} fits beside the rest of the \
                 configuration record",
                self.title
            )),
            _ => Ok(plan),
        }
    }

    /// The configuration record of the run `id`.
    fn record(&self, plan: &Plan, id: u32) -> ConfigRecord {
        ConfigRecord {
            id,
            codec: self.encoder.kind.name().into(),
            format: self.encoder.format,
            frame_samples: plan.frame_samples as u32,
            ascii: self.ascii.name().into(),
            packets_max: plan.limits.packets_max as u32,
            ttl: CONFIG_TTL,
            window: self.window as u32,
            title: self.title.clone(),
        }
    }

    /// What the records of a segment may measure: all that a datagram holds beside header, question
    /// for the longest number, and OPT record, or anything.
    fn records_octets_max(&self) -> usize {
        if !self.single_datagram {
            return usize::MAX;
        }
        let question = LABEL_ROOM + self.root.wire().len() + 4;
        // What the server calls itself goes along when asked for (RFC 5001 §2.3).
        let nsid = self.server_id.as_ref().map_or(0, |id| 4 + id.len());
        wire::UDP_PAYLOAD_MAX - wire::HEADER_OCTETS - question - OPT_OCTETS - nsid
    }

    /// The records that the zone's parent needs, as lines of a zone file, and what is missing.
    pub fn delegation(&self) -> Delegation {
        let servers = self.servers();
        let mut lines = Vec::new();
        let mut missing = Vec::new();
        for server in &servers {
            lines.push(format!("{}. 3600 IN NS {}.", self.root, server.name));
        }
        for server in &servers {
            let inside = server.name.octets_above(&self.root).is_some();
            // Those of a name outside belong into the zone of that name, wherever that is.
            for address in &server.addresses {
                let rtype = if address.is_ipv4() { "A" } else { "AAAA" };
                lines.push(format!("{}. 3600 IN {rtype} {address}", server.name));
            }
            if inside && server.addresses.is_empty() {
                missing.push(server.name.clone());
            }
        }
        Delegation { lines, missing }
    }

    fn servers(&self) -> Vec<NameServer> {
        if !self.name_servers.is_empty() {
            return self.name_servers.clone();
        }
        let name = self.root.child(b"ns").unwrap_or_else(|| self.root.clone());
        vec![NameServer { name, addresses: Vec::new() }]
    }
}

/// What follows from the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Samples per channel in a packet.
    pub frame_samples: usize,
    /// How long a packet lasts.
    pub frame: Duration,
    /// When segments are full.
    pub limits: PackLimits,
    /// The longest that a segment lasts.
    pub segment_duration_max: Duration,
    /// The most octets of a packet, as its text must fit a string.
    pub packet_octets_max: usize,
}

/// What makes the zone reachable from its parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delegation {
    /// Lines of a zone file.
    pub lines: Vec<String>,
    /// Name servers inside the zone without an address.
    pub missing: Vec<Name>,
}

/// What a server did so far.
#[derive(Clone, Debug, Default)]
pub struct ServerStats {
    /// Frames captured.
    pub frames: u64,
    /// Samples per channel that a device delivered and nobody took in time.
    pub overrun_samples: u64,
    /// Frames that the codec refused.
    pub encode_failures: u64,
    /// Octets of packets.
    pub packet_octets: u64,
    /// Octets of segments as answered, without header and question.
    pub record_octets: u64,
    /// Segments published.
    pub segments: u64,
    /// Numbers of the window that the list has no room for.
    pub left_out: u64,
    /// Times that the state file could not be written.
    pub state_failures: u64,
    /// Number of the oldest segment in the window.
    pub first: Sequence,
    /// Number of the segment that comes next.
    pub next: Sequence,
    /// Whether the source has ended.
    pub ended: bool,
    /// Real time of sound captured.
    pub captured: Duration,
    /// Since the start.
    pub elapsed: Duration,
    /// Queries and answers.
    pub responder: ResponderStats,
}

/// A running server. Dropping it stops it.
pub struct Server {
    supervision: Arc<Supervision>,
    stages: Vec<Stage>,
    counters: Arc<ProduceCounters>,
    publication: Arc<Publication>,
    responder: Option<Responder>,
    /// What was answered, once the responder has ended.
    answered: ResponderStats,
    plan: Plan,
    started: Instant,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("addresses", &self.local_addrs()).finish_non_exhaustive()
    }
}

impl Server {
    /// Opens the source, listens, and starts to publish and to answer, on threads of its own.
    ///
    /// # Errors
    /// When the settings do not fit together, the source does not open, or a port is not to be had.
    pub fn start(config: ServerConfig, mut source: Box<dyn Source>) -> Result<Server, Error> {
        let plan = config.plan()?;
        let encoder = codec::build_encoder(&config.encoder)?;
        let format = config.encoder.format;
        let (state, last) = match &config.state {
            Some(path) => {
                let (state, last) = StateFile::open(path.clone())?;
                (Some(state), last)
            }
            None => (None, None),
        };
        let now = moment();
        let first = window::first_sequence(now.unix_ms, last);
        let window = Window::new(config.window, format.rate, plan.segment_duration_max, first, now);
        let publication = Arc::new(Publication::new(window.snapshot()));
        let zone = Arc::new(zone(&config, &plan)?);
        let answering = Arc::clone(&publication);
        let responder =
            Responder::start(config.responder.clone(), zone, answering).map_err(responder_error)?;
        // The port first: a source may already be running when it is opened.
        source.open(format, plan.frame_samples)?;
        let mut server = Server {
            supervision: Arc::new(Supervision::new()?),
            stages: Vec::new(),
            counters: Arc::new(ProduceCounters::default()),
            publication: Arc::clone(&publication),
            responder: Some(responder),
            answered: ResponderStats::default(),
            plan: plan.clone(),
            started: now.instant,
        };
        let sequencer = Sequencer {
            limits: plan.limits,
            frame_samples: plan.frame_samples as u64,
            window,
            publication,
            state,
        };
        let (frames, to_encode) = crossbeam_channel::bounded(4);
        let (texts, to_sequence) = crossbeam_channel::bounded(32);
        let text_chars_max = plan.limits.text_chars_max();
        let asciializer = config.ascii.build();
        let shared = || (Arc::clone(&server.supervision), Arc::clone(&server.counters));
        let (supervision, counters) = shared();
        let sequence = Stage::spawn("sequence", &server.supervision, move || {
            produce::sequence(sequencer, to_sequence, &supervision, &counters)
        })?;
        let (supervision, counters) = shared();
        let encode = Stage::spawn("encode", &server.supervision, move || {
            let (input, output) = (to_encode, texts);
            let settings = (encoder, asciializer, text_chars_max);
            let (encoder, asciializer, chars) = settings;
            produce::encode(encoder, asciializer, chars, input, output, &supervision, &counters)
        })?;
        let (supervision, counters) = shared();
        let samples = plan.frame_samples;
        let capture = Stage::spawn("capture", &server.supervision, move || {
            produce::capture(source, format, samples, frames, &supervision, &counters)
        })?;
        server.stages = vec![capture, encode, sequence];
        Ok(server)
    }

    /// The addresses answered at, over UDP and TCP.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.responder.as_ref().map(Responder::local_addrs).unwrap_or_default()
    }

    /// What follows from the settings.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Why the state file could not be written the last time that it could not.
    pub fn state_failure(&self) -> Option<String> {
        self.counters.state_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was done so far.
    pub fn stats(&self) -> ServerStats {
        let get = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let snapshot = self.publication.load();
        let frames = get(&self.counters.frames);
        ServerStats {
            frames,
            overrun_samples: get(&self.counters.overrun_samples),
            encode_failures: get(&self.counters.encode_failures),
            packet_octets: get(&self.counters.packet_octets),
            record_octets: get(&self.counters.record_octets),
            segments: get(&self.counters.segments),
            left_out: get(&self.counters.left_out),
            state_failures: get(&self.counters.state_failures),
            first: snapshot.first(),
            next: snapshot.next(),
            ended: snapshot.ended(),
            captured: self.plan.frame * u32::try_from(frames).unwrap_or(u32::MAX),
            elapsed: self.started.elapsed(),
            responder: match &self.responder {
                Some(responder) => responder.stats(),
                None => self.answered.clone(),
            },
        }
    }

    /// The responder, for its reports.
    pub fn responder(&self) -> Option<&Responder> {
        self.responder.as_ref()
    }

    /// Whether there is nothing more to do: the source has ended and listeners have had the time to
    /// hear the last of it, or something failed.
    pub fn is_finished(&self) -> bool {
        let failed = self.responder.as_ref().is_some_and(|r| r.failed_thread().is_some());
        self.supervision.is_finished() || failed
    }

    /// For a `poll` together with other things to wait for: readable once it is finished by itself.
    /// Nothing is to be read from it.
    pub fn finished_fd(&self) -> BorrowedFd<'_> {
        self.supervision.finished_fd()
    }

    /// Stops, and returns the last counts.
    ///
    /// # Errors
    /// The first error that ended a stage.
    pub fn stop(mut self) -> Result<ServerStats, Error> {
        let ended = self.end();
        match self.supervision.take_error() {
            Some(error) => Err(error),
            None => ended.map(|()| self.stats()),
        }
    }

    fn end(&mut self) -> Result<(), Error> {
        self.supervision.stop();
        self.stages.drain(..).for_each(|stage| stage.join(PATIENCE));
        match self.responder.take() {
            Some(responder) => {
                self.answered = responder.stats();
                responder.stop().map_err(responder_error)
            }
            None => Ok(()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nobody is left to be told; what failed was told by `stop`, or never asked for.
        let _unasked = self.end();
    }
}

fn responder_error(error: ResponderError) -> Error {
    Error::Responder(error)
}

/// The zone's constant part, with a fresh run id and, unless they are given, fresh secrets.
fn zone(config: &ServerConfig, plan: &Plan) -> Result<Zone, Error> {
    let random = |octets: &mut [u8]| {
        getrandom::fill(octets)
            .map_err(|cause| Error::system("draw random numbers", std::io::Error::from(cause)))
    };
    let (mut id, mut secret) = ([0; 4], [0; 16]);
    random(&mut id)?;
    random(&mut secret)?;
    let id = u32::from_ne_bytes(id);
    let fresh = CookieSecrets { current: secret, previous: None };
    let cookies = config.cookies.clone().unwrap_or(fresh);
    let mut records = Vec::new();
    wire::write_txt_record(&mut records, CONFIG_TTL, &config.record(plan, id).encode());
    Ok(Zone {
        root: config.root.clone(),
        name_servers: config.servers(),
        id,
        config: records.into(),
        cookies: Some(cookies),
        server_id: config.server_id.clone(),
        version: config.version.clone(),
        keepalive: config.responder.tcp.idle,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> ServerConfig {
        ServerConfig::new("music.example.com".parse().unwrap(), Vec::new())
    }

    #[test]
    fn the_limits_follow_from_the_string() {
        let plan = config().plan().unwrap();
        assert_eq!(plan.limits.text_chars_max(), 244);
        assert_eq!(plan.segment_duration_max, Duration::from_millis(720));
        assert_eq!(AsciiKind::default().build().packet_octets_max(244), 198);
    }

    #[test]
    fn short_frames_leave_room_for_100_ms_in_a_segment() {
        let mut config = config();
        config.encoder.frame = Some(Duration::from_millis(10));
        // Ten packets of 10 ms: (2000 - 6) / 10.
        assert_eq!(config.plan().unwrap().limits.text_chars_max(), 199);
    }

    #[test]
    fn z7_a_datagram_holds_the_whole_answer_for_a_segment() {
        let long = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(36)].join(".");
        let kinds = [("music.example.com", 60), (&long, 60), ("a", 10), (&long, 10)];
        // What the server calls itself goes along, for those who ask.
        let names = [None, Some("x".repeat(64))];
        for ((root, frame_ms), server_id) in
            kinds.into_iter().flat_map(|kind| names.clone().map(|name| (kind, name)))
        {
            let nsid = server_id.as_ref().map_or(0, |id| 4 + id.len());
            let mut config = ServerConfig { single_datagram: true, server_id, ..config() };
            config.root = root.parse().unwrap();
            config.encoder.frame = Some(Duration::from_millis(frame_ms));
            let limits = config.plan().unwrap().limits;
            // From the shortest texts to the longest there are.
            for chars in 1..=limits.text_chars_max() {
                let mut packer = crate::segment::Packer::new(limits);
                let text = vec![b'x'; chars];
                let segment = std::iter::repeat_with(|| packer.push(&text)).flatten().next();
                let segment = segment.unwrap();
                let mut answer = vec![0; 12];
                let name = config.root.child(format!("seq_{}", u64::MAX).as_bytes()).unwrap();
                answer.extend_from_slice(name.wire());
                answer.extend_from_slice(&vec![0; 4 + 39 + nsid]);
                for string in &segment.strings {
                    wire::write_txt_record(&mut answer, 10, string);
                }
                assert!(answer.len() <= 1232, "{} octets", answer.len());
                let another = answer.len() + 13 + 6 + chars;
                let counted = segment.strings.len() == limits.packets_max;
                let full = (segment.strings.len() + 1) * chars + 6 > limits.segment_octets_max;
                assert!(another > 1232 || counted || full, "{another} octets would fit as well");
                assert!(segment.strings.len() as u64 * frame_ms >= 100);
            }
        }
    }

    #[test]
    fn settings_that_do_not_fit_are_named_with_what_would() {
        let mut cases: Vec<(ServerConfig, &str)> = Vec::new();
        let mut case = |change: fn(&mut ServerConfig), text| {
            let mut config = config();
            change(&mut config);
            cases.push((config, text));
        };
        case(|c| c.title = "ж".repeat(50), "the title is too long: of \"жж");
        case(
            |c| {
                let name: Name = "ns.music.example.com".parse().unwrap();
                let addresses = (0..=100).map(|n| [192, 0, 2, n].into()).collect();
                c.name_servers = vec![NameServer { name, addresses }];
            },
            "more than 100 name servers, or addresses of one",
        );
        case(|c| c.packets_max = 1, "set max-frames-per-segment to 2 or more");
        case(|c| c.packets_max = 101, "more than 100 records");
        case(|c| c.window = 1, "it may be 2 to 10000");
        case(|c| c.window = 10_001, "it may be 2 to 10000");
        case(|c| c.string_octets_max = 256, "at most 255 octets");
        case(|c| c.string_octets_max = 6, "at most 255 octets");
        case(|c| c.segment_octets_max = 20, "raise max-data-per-feed or max-bytes-per-record");
        case(|c| c.string_octets_max = 20, "raise max-data-per-feed or max-bytes-per-record");
        let long = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(50)].join(".");
        let mut config = config();
        config.root = long.parse().unwrap();
        cases.push((config, "too long: at most 228 characters"));
        for (config, text) in cases {
            let error = config.plan().unwrap_err().to_string();
            assert!(error.contains(text), "{error:?} does not say {text:?}");
        }
    }

    #[test]
    fn no_limit_by_count_is_a_limit_of_100() {
        let config = ServerConfig { packets_max: 0, ..config() };
        assert_eq!(config.plan().unwrap().limits.packets_max, 100);
    }

    #[test]
    fn z9_the_delegation_names_servers_and_addresses() {
        let mut config = config();
        let delegation = config.delegation();
        let ns = "music.example.com. 3600 IN NS ns.music.example.com.";
        assert_eq!(delegation.lines, [ns]);
        assert_eq!(delegation.missing, ["ns.music.example.com".parse().unwrap()]);
        config.name_servers = vec![
            NameServer {
                name: "ns.music.example.com".parse().unwrap(),
                addresses: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            },
            NameServer { name: "ns.example.net".parse().unwrap(), addresses: Vec::new() },
        ];
        let delegation = config.delegation();
        assert_eq!(delegation.lines.len(), 4);
        assert_eq!(delegation.lines[3], "ns.music.example.com. 3600 IN AAAA 2001:db8::1");
        assert!(delegation.missing.is_empty());
    }
}

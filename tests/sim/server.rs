//! The server of the simulation: the real Packer, Window and Zone over a codec of stamps, its whole
//! run reckoned beforehand, so that many listeners can share it.

use super::stamp::StampEncoder;
use aodns::ascii::AsciiKind;
use aodns::codec::{CodecKind, Encoder};
use aodns::segment::{ConfigRecord, PackLimits, Packer};
use aodns::units::{Channels, Format, Moment, SampleRate, Sequence};
use aodns::window::{Snapshot, Window, first_sequence};
use aodns::wire::{self, Name};
use aodns::zone::{Disposition, NameServer, Request, Transport, Zone};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub const ROOT: &str = "music.example.com";
pub const UNIX_MS: u64 = 1_700_000_000_000;

/// What a run of the server is like.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Octets of a packet: from, to.
    pub packet_octets: (usize, usize),
    pub frames: usize,
    pub frame_ms: u64,
    /// How much slower than true the server's sample clock is, in parts per million.
    pub slow_ppm: f64,
    /// Without the extension layer, and with numbers that begin at 0.
    pub base_layer: bool,
    /// While the source brings nothing, in seconds since the beginning of the simulation.
    pub pause: (u64, u64),
    pub seed: u64,
}

impl Kind {
    pub const DEFAULT: Kind = Kind {
        packet_octets: (120, 130),
        frames: 12,
        frame_ms: 60,
        slow_ppm: 0.0,
        base_layer: false,
        pause: (u64::MAX, u64::MAX),
        seed: 1,
    };
}

/// One run of the server.
pub struct Run {
    zone: Zone,
    /// When it begins to capture, since the beginning of the simulation.
    pub begins: Duration,
    /// When nothing more comes from it.
    pub ends: Duration,
    frame: Duration,
    pause: (Duration, Duration),
    base_layer: bool,
    first: Sequence,
    /// Before the first publication.
    empty: Arc<Snapshot>,
    published: Vec<(Duration, Arc<Snapshot>)>,
}

impl Run {
    /// A run of `kind` from `begins` to `ends`.
    pub fn new(kind: Kind, base: Instant, begins: Duration, ends: Duration) -> Run {
        let rate = SampleRate::HZ_16000;
        let format = Format::new(rate, Channels::MONO);
        let frame_samples = kind.frame_ms as usize * 16;
        let root: Name = ROOT.parse().expect("a valid name");
        let id = kind.seed as u32;
        let record = ConfigRecord {
            id,
            codec: CodecKind::Opus.name().into(),
            format,
            frame_samples: frame_samples as u32,
            ascii: AsciiKind::Base91.name().into(),
            packets_max: kind.frames as u32,
            ttl: aodns::zone::CONFIG_TTL,
            window: 75,
            title: String::new(),
        };
        let mut config = Vec::new();
        wire::write_txt_record(&mut config, aodns::zone::CONFIG_TTL, &record.encode());
        let name = "ns.example.net".parse().expect("a valid name");
        let zone = Zone {
            name_servers: vec![NameServer { name, addresses: Vec::new() }],
            root,
            id,
            config: config.into(),
            cookies: None,
            server_id: None,
            version: None,
            keepalive: Duration::from_secs(10),
        };
        let at = |time: Duration| Moment { instant: base, unix_ms: UNIX_MS }.after(time);
        let first = match kind.base_layer {
            true => 0,
            false => first_sequence(at(begins).unix_ms, None),
        };
        let longest = Duration::from_millis(kind.frame_ms * kind.frames as u64);
        let mut window = Window::new(75, rate, longest, first, at(begins));
        let empty = Arc::new(window.snapshot());
        let limits = PackLimits { packets_max: kind.frames, ..limits() };
        let mut packer = Packer::new(limits);
        let frame = Duration::from_millis(kind.frame_ms).mul_f64(1.0 + kind.slow_ppm * 1e-6);
        let mut dice = super::net::Dice::new(kind.seed);
        let ascii = AsciiKind::Base91.build();
        let pcm = vec![0; frame_samples];
        let mut published = Vec::new();
        let mut encoder = Stamps { format, frame_samples, next: 0 };
        let pause = (Duration::from_secs(kind.pause.0), Duration::from_secs(kind.pause.1));
        for frames in 1.. {
            let time = captured(begins, frame, pause, frames - 1) + frame;
            if time >= ends + frame {
                break;
            }
            let (least, most) = kind.packet_octets;
            let packet = encoder.packet(&pcm, least + dice.below(most - least + 1));
            let mut text = Vec::new();
            ascii.encode(&packet, &mut text);
            if let Some(segment) = packer.push(&text) {
                let samples = (segment.strings.len() * frame_samples) as u64;
                window.publish(&segment, samples, at(time));
                published.push((time, Arc::new(window.snapshot())));
            }
        }
        Run {
            zone,
            begins,
            ends,
            frame,
            pause,
            base_layer: kind.base_layer,
            first,
            empty,
            published,
        }
    }

    /// When the first sample of a frame was captured.
    pub fn captured(&self, frame: u64) -> Duration {
        captured(self.begins, self.frame, self.pause, frame)
    }

    fn snapshot(&self, time: Duration) -> &Snapshot {
        match self.published.partition_point(|(at, _)| *at <= time) {
            0 => &self.empty,
            count => &self.published[count - 1].1,
        }
    }

    /// Answers a message, or says when to do so.
    pub fn respond(
        &self,
        base: Instant,
        time: Duration,
        message: &[u8],
        tcp: bool,
        may_hold: bool,
    ) -> Answer {
        if self.base_layer && (is_for(message, b"config") || is_for(message, b"now_")) {
            return Answer::Now(nxdomain(message));
        }
        let transport = if tcp {
            Transport::Tcp
        } else {
            Transport::Udp { payload_max: wire::UDP_PAYLOAD_MAX }
        };
        let request = Request {
            message,
            transport,
            client: [192, 0, 2, 1].into(),
            now: Moment { instant: base, unix_ms: UNIX_MS }.after(time),
            may_hold: may_hold && !self.base_layer,
            limited: false,
        };
        let mut out = Vec::new();
        match self.zone.respond(self.snapshot(time), &request, &mut out) {
            Disposition::Drop => Answer::Never,
            Disposition::Reply(_) => Answer::Now(out),
            Disposition::Hold { sequence, until } => {
                let until = until.saturating_duration_since(base);
                let index = sequence.saturating_sub(self.first) as usize;
                let published = self.published.get(index).map_or(until, |(at, _)| *at);
                Answer::At(published.min(until))
            }
        }
    }
}

/// When the first sample of a frame is captured.
fn captured(
    begins: Duration,
    frame: Duration,
    pause: (Duration, Duration),
    number: u64,
) -> Duration {
    let time = begins + frame.mul_f64(number as f64);
    if time < pause.0 { time } else { time + (pause.1 - pause.0) }
}

/// What becomes of a query.
pub enum Answer {
    Now(Vec<u8>),
    At(Duration),
    Never,
}

fn limits() -> PackLimits {
    PackLimits {
        string_octets_max: 250,
        segment_octets_max: 2000,
        packets_max: 12,
        records_octets_max: usize::MAX,
    }
}

/// Stamped packets of changing length.
struct Stamps {
    format: Format,
    frame_samples: usize,
    next: u64,
}

impl Stamps {
    fn packet(&mut self, pcm: &[i16], octets: usize) -> Vec<u8> {
        let mut encoder = StampEncoder::new(self.format, self.frame_samples, octets);
        encoder.skip_to(self.next);
        self.next += 1;
        let mut packet = vec![0; octets];
        let length = encoder.encode(pcm, &mut packet).expect("a whole frame");
        packet.truncate(length);
        packet
    }
}

fn is_for(message: &[u8], label: &[u8]) -> bool {
    message.get(13..13 + label.len()).is_some_and(|name| name.eq_ignore_ascii_case(label))
}

/// The bare denial of a base-layer server.
fn nxdomain(message: &[u8]) -> Vec<u8> {
    let question = message[12..].iter().position(|&octet| octet == 0).map_or(0, |at| at + 5);
    let mut out = message[..12 + question].to_vec();
    out[2..4].copy_from_slice(&0x8503u16.to_be_bytes());
    out[4..12].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
    out
}

//! Codecs: PCM frames to packets and back.
//!
//! A *frame* is a fixed count of samples per channel, a *packet* what the codec makes of one frame.
//! PCM is interleaved `i16`, so its length is samples × channels. An encoder is handed the slice
//! that the packet must fit: that is the only limit on a packet's length, and nothing behind it can
//! overflow. A decoder meets whatever the network brings: damaged packets are values, never panics,
//! and a packet of another duration than the stream's is refused before it touches the decoder,
//! because a damaged Opus packet often decodes to something, only longer or shorter.
//!
//! | kind | rates | channels | frames | packet |
//! | --- | --- | --- | --- | --- |
//! | `opus` | 8, 12, 16, 24, 48 kHz | 1, 2 | 10, 20, 40, 60 ms | any length, VBR |
//! | `codec2` (mode 1200) | 8 kHz | 1 | 40 ms | 6 octets |
//! | `codec2-1300`, `-1400`, `-1600` | 8 kHz | 1 | 40 ms | 7, 7, 8 octets |
//! | `codec2-2400`, `-3200` | 8 kHz | 1 | 20 ms | 6, 8 octets |
//!
//! Opus runs without DTX, so that the stream has a packet for every frame and its own clock, and
//! without in-band FEC, which protects against the loss of one packet; here whole segments are
//! lost.
//!
//! Sources: RFC 6716 (Opus; §3.1 for the durations of packets), libopus `opus_encoder.c` for what
//! small caps do, David Rowe's Codec2.

#[cfg(feature = "codec2")]
mod codec2;
#[cfg(feature = "opus")]
mod opus;

use crate::units::{Channels, Format, SampleRate};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Samples per channel of the longest packet of any codec: 120 ms at 48 kHz (RFC 6716 §2.1.4).
///
/// A buffer of twice this length takes any packet of any stream.
pub const FRAME_SAMPLES_MAX: usize = 5_760;

/// Compresses frames of PCM.
pub trait Encoder: Send {
    /// Samples per channel in a frame; constant.
    fn frame_samples(&self) -> usize;

    /// Compresses one frame (`pcm`: interleaved, length = frame samples × channels) into `out` and
    /// returns the packet's length in octets. The slice is the cap: the packet always fits it.
    ///
    /// # Errors
    /// When the codec refuses; the frame is then lost.
    fn encode(&mut self, pcm: &[i16], out: &mut [u8]) -> Result<usize, CodecError>;
}

/// Decompresses packets to PCM.
pub trait Decoder: Send {
    /// The format of the PCM that comes out. The rate may differ from the stream's.
    fn format(&self) -> Format;

    /// Samples per channel in a decoded frame, at the rate of [`Decoder::format`]. Constant, but
    /// for a decoder that was not told and learns it from its first good packet
    /// ([`build_decoder`]).
    fn frame_samples(&self) -> usize;

    /// Decompresses one packet into `out` (interleaved, length at least frame samples × channels),
    /// or conceals one lost frame when `packet` is `None`; returns samples per channel, always
    /// [`Decoder::frame_samples`].
    ///
    /// # Errors
    /// When the packet is damaged or of another duration; the frame counts as lost, and is to be
    /// concealed with `None`.
    fn decode(&mut self, packet: Option<&[u8]>, out: &mut [i16]) -> Result<usize, CodecError>;
}

/// The codecs that a stream may use, by the names of the command line and of the stream's
/// configuration record. All have names in every build; [`CodecKind::is_built`] tells which work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CodecKind {
    /// Opus, the default of the base layer.
    #[default]
    Opus,
    /// Codec2 at 1200 bit/s, the second codec of the base layer.
    Codec2At1200,
    /// Codec2 at 1300 bit/s.
    Codec2At1300,
    /// Codec2 at 1400 bit/s.
    Codec2At1400,
    /// Codec2 at 1600 bit/s.
    Codec2At1600,
    /// Codec2 at 2400 bit/s.
    Codec2At2400,
    /// Codec2 at 3200 bit/s.
    Codec2At3200,
}

impl CodecKind {
    /// Every kind.
    pub const ALL: [CodecKind; 7] = [
        CodecKind::Opus,
        CodecKind::Codec2At1200,
        CodecKind::Codec2At1300,
        CodecKind::Codec2At1400,
        CodecKind::Codec2At1600,
        CodecKind::Codec2At2400,
        CodecKind::Codec2At3200,
    ];

    /// The kind's name, as it is written on the command line and in the configuration record.
    /// `codec2-1200` is understood for `codec2` as well.
    pub fn name(self) -> &'static str {
        match self {
            CodecKind::Opus => "opus",
            CodecKind::Codec2At1200 => "codec2",
            CodecKind::Codec2At1300 => "codec2-1300",
            CodecKind::Codec2At1400 => "codec2-1400",
            CodecKind::Codec2At1600 => "codec2-1600",
            CodecKind::Codec2At2400 => "codec2-2400",
            CodecKind::Codec2At3200 => "codec2-3200",
        }
    }

    /// Whether this build contains the codec.
    pub fn is_built(self) -> bool {
        const OPUS: bool = cfg!(feature = "opus");
        const CODEC2: bool = cfg!(feature = "codec2");
        if self == CodecKind::Opus { OPUS } else { CODEC2 }
    }

    /// The sample rates that a stream of this kind may have, ascending.
    pub fn rates(self) -> &'static [SampleRate] {
        match self {
            CodecKind::Opus => &SampleRate::STREAM_RATES,
            _ => &[SampleRate::HZ_8000],
        }
    }

    /// The durations that an encoder's frames may have, ascending; the last is the default.
    ///
    /// Opus has shorter ones too, at which a stream over DNS is mostly index prefixes.
    pub fn frames(self) -> &'static [Duration] {
        const MS: [Duration; 4] = [
            Duration::from_millis(10),
            Duration::from_millis(20),
            Duration::from_millis(40),
            Duration::from_millis(60),
        ];
        match self {
            CodecKind::Opus => &MS,
            CodecKind::Codec2At2400 | CodecKind::Codec2At3200 => &MS[1..2],
            _ => &MS[2..3],
        }
    }

    /// The format of a stream of which nothing is said: 16 kHz mono for Opus, as in the base layer,
    /// and the only one there is for Codec2.
    pub fn format_default(self) -> Format {
        match self {
            CodecKind::Opus => Format::new(SampleRate::HZ_16000, Channels::MONO),
            _ => Format::new(SampleRate::HZ_8000, Channels::MONO),
        }
    }

    /// The least cap in octets ([`Encoder::encode`]) that the codec can do anything with. Every
    /// packet of Codec2 has this length. Opus obeys lower caps too, but fills 60 ms with nothing
    /// then.
    pub fn packet_octets_min(self) -> usize {
        match self {
            // libopus gives up below 300 octets a second, counting whole frames a second: 16 at 60
            // ms.
            CodecKind::Opus => 19,
            CodecKind::Codec2At1200 | CodecKind::Codec2At2400 => 6,
            CodecKind::Codec2At1300 | CodecKind::Codec2At1400 => 7,
            CodecKind::Codec2At1600 | CodecKind::Codec2At3200 => 8,
        }
    }

    fn check_format(self, format: Format) -> Result<(), CodecError> {
        if !self.rates().contains(&format.rate) {
            return self.refuse(Setting::Rate(format.rate));
        }
        if self != CodecKind::Opus && format.channels != Channels::MONO {
            return self.refuse(Setting::Channels(format.channels));
        }
        Ok(())
    }

    fn refuse<T>(self, setting: Setting) -> Result<T, CodecError> {
        Err(CodecError::Unsupported { kind: self, setting })
    }
}

impl fmt::Display for CodecKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for CodecKind {
    type Err = UnknownCodec;

    fn from_str(name: &str) -> Result<CodecKind, UnknownCodec> {
        let name = if name == "codec2-1200" { "codec2" } else { name };
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or(UnknownCodec)
    }
}

/// The name is that of no [`CodecKind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnknownCodec;

impl fmt::Display for UnknownCodec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown codec; there are {}", CodecKind::ALL.map(CodecKind::name).join(", "))
    }
}

impl std::error::Error for UnknownCodec {}

/// What Opus optimises for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Application {
    /// Intelligible speech at low bit rates; the default of the base layer.
    #[default]
    Voip,
    /// Music and everything else: as close to the input as possible.
    Audio,
    /// The shortest algorithmic delay, at the cost of quality.
    LowDelay,
}

impl Application {
    /// Every application.
    pub const ALL: [Application; 3] =
        [Application::Voip, Application::Audio, Application::LowDelay];

    /// The name, as it is written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Application::Voip => "voip",
            Application::Audio => "audio",
            Application::LowDelay => "lowdelay",
        }
    }
}

impl fmt::Display for Application {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Application {
    type Err = UnknownApplication;

    fn from_str(name: &str) -> Result<Application, UnknownApplication> {
        Self::ALL
            .into_iter()
            .find(|application| application.name() == name)
            .ok_or(UnknownApplication)
    }
}

/// The name is that of no [`Application`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnknownApplication;

impl fmt::Display for UnknownApplication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "unknown application; there are {}",
            Application::ALL.map(Application::name).join(", ")
        )
    }
}

impl std::error::Error for UnknownApplication {}

/// What an encoder is to do. `None` leaves a setting to the codec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncoderSettings {
    /// The codec.
    pub kind: CodecKind,
    /// The stream's format, which is also that of the PCM that goes in.
    pub format: Format,
    /// How long a frame lasts: one of [`CodecKind::frames`], by default the longest.
    pub frame: Option<Duration>,
    /// What Opus optimises for.
    pub application: Application,
    /// Average bit/s, [`EncoderSettings::BITRATES`]. Left to itself, Opus takes about 17 kbit/s for
    /// 16 kHz mono. The cap on packets comes first. Codec2 has one bit rate a mode.
    pub bitrate: Option<u32>,
    /// Opus's effort, 0 to [`EncoderSettings::COMPLEXITY_MAX`].
    pub complexity: Option<u8>,
}

impl EncoderSettings {
    /// The bit rates that Opus takes, in bit/s (libopus `OPUS_SET_BITRATE`).
    pub const BITRATES: std::ops::RangeInclusive<u32> = 500..=512_000;
    /// The highest complexity of Opus (libopus `OPUS_SET_COMPLEXITY`).
    pub const COMPLEXITY_MAX: u8 = 10;

    /// The base layer's settings for `kind`.
    pub fn new(kind: CodecKind) -> EncoderSettings {
        EncoderSettings {
            kind,
            format: kind.format_default(),
            frame: None,
            application: Application::Voip,
            bitrate: None,
            complexity: None,
        }
    }

    /// Checks all settings, and returns the samples per channel in a frame. Works in every build.
    ///
    /// # Errors
    /// [`CodecError::Unsupported`] names the first setting that the codec cannot do, and what it
    /// can.
    pub fn frame_samples(&self) -> Result<usize, CodecError> {
        let kind = self.kind;
        kind.check_format(self.format)?;
        let frames = kind.frames();
        let frame = match self.frame {
            Some(frame) if !frames.contains(&frame) => return kind.refuse(Setting::Frame(frame)),
            Some(frame) => frame,
            None => frames[frames.len() - 1],
        };
        let opus = kind == CodecKind::Opus;
        match self.bitrate {
            Some(bitrate) if !opus || !Self::BITRATES.contains(&bitrate) => {
                return kind.refuse(Setting::Bitrate(bitrate));
            }
            _ => {}
        }
        match self.complexity {
            Some(complexity) if !opus || complexity > Self::COMPLEXITY_MAX => {
                return kind.refuse(Setting::Complexity(complexity));
            }
            _ => {}
        }
        if !opus && self.application != Application::Voip {
            return kind.refuse(Setting::Application(self.application));
        }
        Ok(self.format.rate.samples(frame) as usize)
    }
}

/// Makes an encoder.
///
/// # Errors
/// [`CodecError::NotBuilt`], [`CodecError::Unsupported`] with the setting, or
/// [`CodecError::Refused`] when the codec fails (of memory).
pub fn build_encoder(settings: &EncoderSettings) -> Result<Box<dyn Encoder>, CodecError> {
    let frame_samples = settings.frame_samples()?;
    match settings.kind {
        CodecKind::Opus => opus_encoder(settings, frame_samples),
        kind => codec2_encoder(kind),
    }
}

/// Makes a decoder for a stream of `kind` and `stream` format, to play at `output_rate`.
///
/// Opus decodes at `output_rate` itself if Opus has that rate, else at its next higher rate, or 48
/// kHz when there is none; Codec2 always decodes at 8 kHz. [`Decoder::format`] tells; the rest of
/// the way is the caller's. Channels are the stream's, whatever the packets' own headers say: a
/// stereo stream may carry packets coded as mono.
///
/// `frame_samples` is the length of a packet in samples per channel *at the stream's rate*, any
/// whole number of 2.5 ms up to 120 ms for Opus. With `None`, the first good packet decides for all
/// that follow; until then [`Decoder::frame_samples`] is the base layer's 60 ms, and a caller
/// should hand out room for [`FRAME_SAMPLES_MAX`]. Should packets then be refused for their
/// duration one after the other, the first was not of this stream: build a new decoder.
///
/// # Errors
/// As [`build_encoder`].
pub fn build_decoder(
    kind: CodecKind,
    stream: Format,
    frame_samples: Option<usize>,
    output_rate: SampleRate,
) -> Result<Box<dyn Decoder>, CodecError> {
    kind.check_format(stream)?;
    if let Some(samples) = frame_samples {
        let step = match kind {
            CodecKind::Opus => stream.rate.hz() as usize / 400,
            _ => stream.rate.samples(kind.frames()[0]) as usize,
        };
        let steps_max = if kind == CodecKind::Opus { 48 } else { 1 };
        if samples % step != 0 || !(1..=steps_max).contains(&(samples / step)) {
            return kind.refuse(Setting::Packet(stream.rate.duration(samples as u64)));
        }
    }
    match kind {
        CodecKind::Opus => opus_decoder(stream, frame_samples, output_rate),
        kind => codec2_decoder(kind),
    }
}

/// Why a codec failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CodecError {
    /// The codec was left out of this build.
    NotBuilt,
    /// The codec cannot do this.
    Unsupported {
        /// The codec.
        kind: CodecKind,
        /// What was asked of it.
        setting: Setting,
    },
    /// The codec itself refuses.
    Refused {
        /// What it says.
        reason: &'static str,
    },
    /// The PCM to encode has another length than a frame.
    FrameLength {
        /// Its length, interleaved.
        len: usize,
        /// A frame's length, interleaved.
        needed: usize,
    },
    /// The slice is shorter than any packet of this codec.
    PacketCap {
        /// Its length in octets.
        octets: usize,
        /// The least length that does, in octets.
        needed: usize,
    },
    /// The slice to decode to is shorter than the frame. The decoder's state is untouched.
    OutputLength {
        /// Its length, interleaved.
        len: usize,
        /// The frame's length, interleaved.
        needed: usize,
    },
    /// The packet is no packet of this codec.
    Damaged,
    /// The packet decodes to another number of samples per channel than a frame of this stream. The
    /// decoder's state is untouched.
    WrongDuration {
        /// What it decodes to, at the decoder's rate.
        samples: usize,
    },
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            CodecError::NotBuilt => write!(f, "this codec is not part of this build"),
            CodecError::Unsupported { kind, setting } => setting.explain(kind, f),
            CodecError::Refused { reason } => write!(f, "the codec refuses: {reason}"),
            CodecError::FrameLength { len, needed } => {
                write!(f, "frame of {len} interleaved samples instead of {needed}")
            }
            CodecError::PacketCap { octets, needed } => {
                write!(f, "a packet needs {needed} octets, the limit is {octets}")
            }
            CodecError::OutputLength { len, needed } => {
                write!(f, "room for {len} interleaved samples, the frame has {needed}")
            }
            CodecError::Damaged => write!(f, "damaged packet"),
            CodecError::WrongDuration { samples } => write!(f, "packet of {samples} samples"),
        }
    }
}

impl std::error::Error for CodecError {}

/// A setting that a codec cannot do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Setting {
    /// The stream's sample rate.
    Rate(SampleRate),
    /// The stream's channels.
    Channels(Channels),
    /// The duration of an encoder's frame.
    Frame(Duration),
    /// The duration of a stream's packets.
    Packet(Duration),
    /// The bit rate in bit/s.
    Bitrate(u32),
    /// The effort.
    Complexity(u8),
    /// What to optimise for.
    Application(Application),
}

impl Setting {
    /// Says what is wrong with the setting, and what would be right.
    fn explain(self, kind: CodecKind, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let opus = kind == CodecKind::Opus;
        let rates = &EncoderSettings::BITRATES;
        match self {
            Setting::Rate(rate) => {
                let hz = Alternatives(kind.rates().iter().map(|rate| f64::from(rate.hz())));
                write!(f, "{kind} takes {hz} Hz, not {rate}")
            }
            Setting::Channels(channels) => {
                write!(f, "{kind} takes 1 channel, not {}", channels.count())
            }
            Setting::Frame(frame) => {
                let frames = Alternatives(kind.frames().iter().map(|&frame| ms(frame)));
                write!(f, "frames of {kind} last {frames} ms, not {} ms", ms(frame))
            }
            Setting::Packet(packet) if opus => {
                let packet = ms(packet);
                write!(
                    f,
                    "packets of {kind} last a multiple of 2.5 ms up to 120 ms, not {packet} ms"
                )
            }
            Setting::Packet(packet) => Setting::Frame(packet).explain(kind, f),
            Setting::Bitrate(bitrate) if opus => {
                write!(
                    f,
                    "{kind} takes {} to {} bit/s, not {bitrate} bit/s",
                    rates.start(),
                    rates.end()
                )
            }
            Setting::Complexity(complexity) if opus => {
                let most = EncoderSettings::COMPLEXITY_MAX;
                write!(f, "{kind} takes a complexity of 0 to {most}, not {complexity}")
            }
            Setting::Bitrate(_) => write!(f, "the bit rate of {kind} is fixed"),
            Setting::Complexity(_) => write!(f, "the complexity of {kind} is fixed"),
            Setting::Application(_) => write!(f, "{kind} knows no application but voip"),
        }
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

/// Numbers as `8000, 12000 or 16000`.
struct Alternatives<I>(I);

impl<I: Iterator<Item = f64> + Clone> fmt::Display for Alternatives<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.clone().count();
        for (index, number) in self.0.clone().enumerate() {
            let before = match index {
                0 => "",
                _ if index + 1 == count => " or ",
                _ => ", ",
            };
            write!(f, "{before}{number}")?;
        }
        Ok(())
    }
}

/// Checks the lengths that an encoder is called with.
#[cfg(any(feature = "opus", feature = "codec2"))]
fn check_encode(
    pcm: &[i16],
    needed: usize,
    out: &[u8],
    octets_min: usize,
) -> Result<(), CodecError> {
    if pcm.len() != needed {
        return Err(CodecError::FrameLength { len: pcm.len(), needed });
    }
    if out.len() < octets_min {
        return Err(CodecError::PacketCap { octets: out.len(), needed: octets_min });
    }
    Ok(())
}

/// The part of `out` that a frame of `needed` interleaved samples fills.
#[cfg(any(feature = "opus", feature = "codec2"))]
fn output(out: &mut [i16], needed: usize) -> Result<&mut [i16], CodecError> {
    let len = out.len();
    out.get_mut(..needed).ok_or(CodecError::OutputLength { len, needed })
}

#[cfg(not(feature = "opus"))]
fn opus_encoder(_: &EncoderSettings, _: usize) -> Result<Box<dyn Encoder>, CodecError> {
    Err(CodecError::NotBuilt)
}

#[cfg(not(feature = "opus"))]
fn opus_decoder(
    _: Format,
    _: Option<usize>,
    _: SampleRate,
) -> Result<Box<dyn Decoder>, CodecError> {
    Err(CodecError::NotBuilt)
}

#[cfg(feature = "opus")]
use self::opus::{opus_decoder, opus_encoder};

#[cfg(not(feature = "codec2"))]
fn codec2_encoder(_: CodecKind) -> Result<Box<dyn Encoder>, CodecError> {
    Err(CodecError::NotBuilt)
}

#[cfg(not(feature = "codec2"))]
fn codec2_decoder(_: CodecKind) -> Result<Box<dyn Decoder>, CodecError> {
    Err(CodecError::NotBuilt)
}

#[cfg(feature = "codec2")]
use self::codec2::{codec2_decoder, codec2_encoder};

/// Decodes `octets` as a stream, concealing what is refused. The body of a fuzz target.
///
/// The first octet selects codec and format; then packets follow, each after an octet with its
/// length, where 255 is a lost one.
///
/// # Panics
/// When a decoder breaks its contract.
pub fn fuzz_codec(octets: &[u8]) {
    let Some((&select, mut octets)) = octets.split_first() else { return };
    let kind = CodecKind::ALL[usize::from(select) % CodecKind::ALL.len()];
    let mut format = kind.format_default();
    let mut frame_samples = None;
    if kind == CodecKind::Opus {
        format.rate = kind.rates()[usize::from(select / 7) % kind.rates().len()];
        format.channels = if select & 0x40 == 0 { Channels::MONO } else { Channels::STEREO };
        frame_samples = (select & 0x80 == 0).then_some(format.rate.hz() as usize * 60 / 1_000);
    }
    let Ok(mut decoder) = build_decoder(kind, format, frame_samples, format.rate) else {
        assert!(!kind.is_built(), "{kind}: no decoder for {format}");
        return;
    };
    let mut out = vec![0; 2 * FRAME_SAMPLES_MAX];
    while let Some((&len, rest)) = octets.split_first() {
        let lost = len == u8::MAX;
        let len = if lost { 0 } else { usize::from(len).min(rest.len()) };
        let (packet, rest) = rest.split_at(len);
        let packet = (!lost).then_some(packet);
        octets = rest;
        let decoded = decoder.decode(packet, &mut out);
        let decoded = match decoded {
            Err(CodecError::Damaged | CodecError::WrongDuration { .. }) if packet.is_some() => {
                decoder.decode(None, &mut out)
            }
            decoded => decoded,
        };
        assert_eq!(decoded, Ok(decoder.frame_samples()), "{kind}: {len} octets");
        assert_eq!(decoder.format().channels, format.channels);
    }
}

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
    /// [`Decoder::frame_samples`]. Concealment that goes on grows silent.
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
    /// The bit rates at which Opus makes sound of frames of 10 to 60 ms, in bit/s. It takes 500 and more
    /// (`OPUS_SET_BITRATE`), and makes silence of what is too little for the least packet of sound.
    pub const BITRATES: std::ops::RangeInclusive<u32> = 2_400..=512_000;
    /// The share of what packets can hold that the average rate may take, so that they are seldom cut.
    const RATE_SHARE: f64 = 0.7;

    /// The highest average bit rate of Opus whose packets of `frame` have at most so many octets, in
    /// bit/s.
    pub fn bitrate_within(packet_octets_max: usize, frame: Duration) -> u32 {
        (packet_octets_max as f64 * 8.0 / frame.as_secs_f64() * Self::RATE_SHARE) as u32
    }

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

/// Makes concealment grow silent, and what comes after it begin without a click.
///
/// libopus does not: after a steady tone it goes on with noise as loud as the tone, for ever; and
/// here it is not one frame that is lost but a segment of many.
#[cfg(any(feature = "opus", feature = "codec2"))]
struct Fade {
    format: Format,
    /// Samples per channel since the last good packet, up to [`Fade::SILENT`].
    lost_samples: u64,
}

#[cfg(any(feature = "opus", feature = "codec2"))]
impl Fade {
    /// How long concealment is as loud as it comes.
    const FULL: Duration = Duration::from_millis(60);
    /// From when on it is silent.
    const SILENT: Duration = Duration::from_millis(240);
    /// How long it takes to come back.
    const RETURN: Duration = Duration::from_millis(5);

    /// In front of the first packet, there is silence.
    fn new(format: Format) -> Fade {
        Fade { format, lost_samples: format.rate.samples(Self::SILENT) }
    }

    fn is_silent(&self) -> bool {
        self.lost_samples >= self.format.rate.samples(Self::SILENT)
    }

    /// How loud concealment is now, 0 to 1.
    fn gain(&self) -> f32 {
        let [full, silent] = [Self::FULL, Self::SILENT].map(|time| self.format.rate.samples(time));
        let left = silent.saturating_sub(self.lost_samples);
        (left as f32 / (silent - full) as f32).min(1.0)
    }

    /// Adjusts a frame that the codec invented.
    fn conceal(&mut self, pcm: &mut [i16]) {
        for samples in pcm.chunks_mut(self.format.channels.count()) {
            scale(samples, self.gain());
            self.lost_samples += u64::from(!self.is_silent());
        }
    }

    /// Adjusts a frame that was received.
    fn receive(&mut self, pcm: &mut [i16]) {
        let gain = self.gain();
        self.lost_samples = 0;
        if gain < 1.0 {
            let ramp = self.format.rate.samples(Self::RETURN) as usize;
            let frames = pcm.chunks_mut(self.format.channels.count());
            for (index, samples) in frames.take(ramp).enumerate() {
                scale(samples, gain + (1.0 - gain) * index as f32 / ramp as f32);
            }
        }
    }
}

#[cfg(any(feature = "opus", feature = "codec2"))]
fn scale(samples: &mut [i16], gain: f32) {
    for sample in samples {
        *sample = (f32::from(*sample) * gain) as i16;
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn format(hz: u32, channels: u16) -> Format {
        let rate = SampleRate::new(hz).expect("a rate");
        Format::new(rate, Channels::new(channels).expect("a channel count"))
    }

    #[test]
    fn names_lead_to_kinds_and_back() {
        for kind in CodecKind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
            assert_eq!(kind.to_string(), kind.name());
            assert!(UnknownCodec.to_string().contains(kind.name()));
        }
        assert_eq!("codec2-1200".parse(), Ok(CodecKind::Codec2At1200));
        for name in ["", "Opus", "codec2-", "codec2-700"] {
            assert_eq!(name.parse::<CodecKind>(), Err(UnknownCodec));
        }
        for application in Application::ALL {
            assert_eq!(application.name().parse(), Ok(application));
            assert!(UnknownApplication.to_string().contains(application.name()));
        }
        assert_eq!("music".parse::<Application>(), Err(UnknownApplication));
    }

    #[test]
    fn defaults_are_those_of_the_base_layer() {
        let opus = EncoderSettings::new(CodecKind::default());
        assert_eq!(opus.kind, CodecKind::Opus);
        assert_eq!(opus.format, format(16_000, 1));
        assert_eq!(opus.application, Application::Voip);
        assert_eq!(opus.frame_samples(), Ok(960));
        let codec2 = EncoderSettings::new(CodecKind::Codec2At1200);
        assert_eq!(codec2.frame_samples(), Ok(320));
        assert_eq!(CodecKind::Codec2At1200.packet_octets_min(), 6);
        assert_eq!(EncoderSettings::new(CodecKind::Codec2At3200).frame_samples(), Ok(160));
    }

    /// What is said about settings, which are those of the base layer but for one change.
    fn complaint(kind: CodecKind, change: impl Fn(&mut EncoderSettings)) -> String {
        let mut settings = EncoderSettings::new(kind);
        change(&mut settings);
        let error = match (settings.frame_samples(), build_encoder(&settings)) {
            (Err(error), Err(same)) if error == same => error,
            (Ok(_), Ok(_)) => return String::new(),
            (Ok(_), Err(CodecError::NotBuilt)) if !kind.is_built() => return String::new(),
            (checked, built) => panic!("{checked:?}, {:?}", built.map(|_| "built")),
        };
        assert!(matches!(error, CodecError::Unsupported { .. }), "{error:?}");
        error.to_string()
    }

    #[test]
    fn settings_are_refused_with_what_would_be_right() {
        use CodecKind::{Codec2At1200, Codec2At3200, Opus};
        let ms = |ms| Some(Duration::from_millis(ms));
        let rates = "opus takes 8000, 12000, 16000, 24000 or 48000 Hz, not 44100 Hz";
        assert_eq!(complaint(Opus, |s| s.format = format(44_100, 2)), rates);
        assert_eq!(complaint(Opus, |s| s.format = format(48_000, 2)), "");
        let frames = "frames of opus last 10, 20, 40 or 60 ms, not 30 ms";
        assert_eq!(complaint(Opus, |s| s.frame = ms(30)), frames);
        assert!(!complaint(Opus, |s| s.frame = ms(0)).is_empty());
        assert!(!complaint(Opus, |s| s.frame = Some(Duration::MAX)).is_empty());
        assert_eq!(complaint(Opus, |s| s.frame = ms(10)), "");
        let bitrates = "opus takes 2400 to 512000 bit/s, not 2399 bit/s";
        assert_eq!(complaint(Opus, |s| s.bitrate = Some(2_399)), bitrates);
        assert_eq!(complaint(Opus, |s| s.bitrate = Some(2_400)), "");
        assert_eq!(complaint(Opus, |s| s.bitrate = Some(512_000)), "");
        assert!(!complaint(Opus, |s| s.bitrate = Some(512_001)).is_empty());
        assert_eq!(complaint(Opus, |s| s.complexity = Some(10)), "");
        let complexities = "opus takes a complexity of 0 to 10, not 11";
        assert_eq!(complaint(Opus, |s| s.complexity = Some(11)), complexities);

        let rate = "codec2 takes 8000 Hz, not 16000 Hz";
        assert_eq!(complaint(Codec2At1200, |s| s.format = format(16_000, 1)), rate);
        let channels = "codec2 takes 1 channel, not 2";
        assert_eq!(complaint(Codec2At1200, |s| s.format = format(8_000, 2)), channels);
        let frame = "frames of codec2 last 40 ms, not 60 ms";
        assert_eq!(complaint(Codec2At1200, |s| s.frame = ms(60)), frame);
        assert_eq!(complaint(Codec2At1200, |s| s.frame = ms(40)), "");
        assert_eq!(complaint(Codec2At3200, |s| s.frame = ms(20)), "");
        let bitrate = "the bit rate of codec2-3200 is fixed";
        assert_eq!(complaint(Codec2At3200, |s| s.bitrate = Some(3_200)), bitrate);
        let complexity = "the complexity of codec2 is fixed";
        assert_eq!(complaint(Codec2At1200, |s| s.complexity = Some(5)), complexity);
        let application = "codec2 knows no application but voip";
        let audio = |s: &mut EncoderSettings| s.application = Application::Audio;
        assert_eq!(complaint(Codec2At1200, audio), application);
    }

    #[test]
    fn a_decoder_is_refused_what_no_packet_lasts() {
        let refused = |kind, stream, samples| {
            let decoder = build_decoder(kind, stream, Some(samples), SampleRate::HZ_48000);
            let error = decoder.err().filter(|error| *error != CodecError::NotBuilt);
            error.map(|error| error.to_string()).unwrap_or_default()
        };
        let stream = format(16_000, 2);
        let opus = "packets of opus last a multiple of 2.5 ms up to 120 ms, not ";
        assert_eq!(refused(CodecKind::Opus, stream, 0), format!("{opus}0 ms"));
        assert_eq!(refused(CodecKind::Opus, stream, 968), format!("{opus}60.5 ms"));
        assert_eq!(refused(CodecKind::Opus, stream, 1_960), format!("{opus}122.5 ms"));
        assert!(!refused(CodecKind::Opus, stream, usize::MAX).is_empty());
        for samples in [40, 80, 960, 1_920] {
            assert_eq!(refused(CodecKind::Opus, stream, samples), "");
        }
        let codec2 = "frames of codec2 last 40 ms, not 60 ms";
        assert_eq!(refused(CodecKind::Codec2At1200, format(8_000, 1), 480), codec2);
        assert_eq!(refused(CodecKind::Codec2At1200, format(8_000, 1), 320), "");
        assert!(!refused(CodecKind::Codec2At1200, stream, 320).is_empty());
        assert!(!refused(CodecKind::Opus, format(44_100, 1), 960).is_empty());
    }

    #[test]
    fn what_is_left_out_says_so() {
        for kind in CodecKind::ALL {
            let encoder = build_encoder(&EncoderSettings::new(kind));
            let decoder = build_decoder(kind, kind.format_default(), None, SampleRate::HZ_8000);
            assert_eq!(encoder.is_ok(), kind.is_built(), "{kind}");
            assert_eq!(decoder.is_ok(), kind.is_built(), "{kind}");
            if !kind.is_built() {
                assert_eq!(encoder.err(), Some(CodecError::NotBuilt));
                assert_eq!(decoder.err(), Some(CodecError::NotBuilt));
            }
        }
    }

    #[cfg(feature = "opus")]
    mod opus {
        use super::*;

        /// Packets of a loud tone that begins abruptly.
        fn packets(settings: &EncoderSettings, count: usize, cap: usize) -> Vec<Vec<u8>> {
            let mut encoder = build_encoder(settings).expect("an encoder");
            let len = encoder.frame_samples() * settings.format.channels.count();
            let tone = |at: usize| ((at / 20 % 2) as i16 * 2 - 1) * 9_000;
            let packets = (0..count).map(|_| {
                let pcm: Vec<i16> = (0..len).map(tone).collect();
                let mut packet = vec![0; cap];
                let octets = encoder.encode(&pcm, &mut packet).expect("a packet");
                packet.truncate(octets);
                packet
            });
            packets.collect()
        }

        fn with_frame(ms: u64) -> EncoderSettings {
            let frame = Some(Duration::from_millis(ms));
            EncoderSettings { frame, ..EncoderSettings::new(CodecKind::Opus) }
        }

        #[test]
        fn the_default_bit_rate_fits_the_cap_with_room() {
            let packets = packets(&with_frame(60), 50, 198);
            let octets = packets.iter().map(Vec::len).sum::<usize>() / packets.len();
            assert!((100..150).contains(&octets), "{octets} octets a packet");
        }

        #[test]
        fn the_least_bit_rate_makes_sound() {
            for ms in [10, 20, 40, 60] {
                let bitrate = Some(*EncoderSettings::BITRATES.start());
                let settings = EncoderSettings { bitrate, ..with_frame(ms) };
                let packets = packets(&settings, 20, 198);
                // The least packet says nothing but that the sound goes on.
                assert!(packets.iter().skip(2).all(|packet| packet.len() > 2), "{ms} ms");
            }
        }

        #[test]
        fn settings_reach_the_encoder() {
            let octets = |bitrate| {
                let settings = EncoderSettings { bitrate, ..with_frame(60) };
                // A cap that binds none of them.
                packets(&settings, 20, 800).iter().map(Vec::len).sum::<usize>()
            };
            let [low, default, high] = [Some(6_000), None, Some(64_000)].map(octets);
            assert!(low < default && default < high, "{low} {default} {high}");
            let low = EncoderSettings { complexity: Some(0), ..with_frame(60) };
            let high = EncoderSettings { complexity: Some(10), ..with_frame(60) };
            assert_ne!(packets(&low, 5, 198), packets(&high, 5, 198));
            // The application shows in the packets' configuration number (RFC 6716 §3.1).
            let lowdelay = EncoderSettings { application: Application::LowDelay, ..low };
            assert!(packets(&lowdelay, 5, 198)[4][0] >> 3 >= 16, "low delay is CELT only");
            assert!(packets(&low, 5, 198)[4][0] >> 3 < 16, "16 kbit/s of VOIP is not");
        }

        #[test]
        fn below_the_least_cap_a_packet_is_empty_but_lasts() {
            let min = CodecKind::Opus.packet_octets_min();
            for (cap, sounds) in [(min, true), (min - 1, false), (2, false), (1, false)] {
                let mut decoder =
                    build_decoder(CodecKind::Opus, format(16_000, 1), None, SampleRate::HZ_16000)
                        .expect("a decoder");
                let mut out = [0; 960];
                for packet in packets(&with_frame(60), 10, cap) {
                    assert_eq!(packet.len() > 2, sounds, "{cap}");
                    assert_eq!(decoder.decode(Some(&packet), &mut out), Ok(960), "{cap}");
                }
                assert_eq!(out.iter().any(|sample| sample.abs() > 500), sounds, "{cap}");
            }
        }

        #[test]
        fn decoding_at_the_rate_of_the_output_or_above() {
            let mono = format(16_000, 1);
            let packet = &packets(&with_frame(60), 1, 198)[0];
            for (output, decoded) in [
                (1, 8_000),
                (8_000, 8_000),
                (8_001, 12_000),
                (11_025, 12_000),
                (16_000, 16_000),
                (22_050, 24_000),
                (44_100, 48_000),
                (48_000, 48_000),
                (96_000, 48_000),
            ] {
                let output = SampleRate::new(output).expect("a rate");
                let mut decoder =
                    build_decoder(CodecKind::Opus, mono, Some(960), output).expect("a decoder");
                assert_eq!(decoder.format(), format(decoded, 1));
                let samples = decoded as usize * 60 / 1_000;
                assert_eq!(decoder.frame_samples(), samples);
                let mut out = vec![0; samples];
                assert_eq!(decoder.decode(Some(packet), &mut out), Ok(samples));
                assert_eq!(decoder.decode(None, &mut out), Ok(samples));
            }
        }

        #[test]
        fn the_first_good_packet_decides_when_nothing_was_said() {
            let mono = format(16_000, 1);
            let mut decoder = build_decoder(CodecKind::Opus, mono, None, mono.rate).expect("one");
            let mut out = vec![0; FRAME_SAMPLES_MAX];
            assert_eq!(decoder.frame_samples(), 960);
            // Neither a loss, nor a damaged packet, nor a buffer too short decides anything.
            assert_eq!(decoder.decode(None, &mut out), Ok(960));
            assert_eq!(decoder.decode(Some(&[]), &mut out), Err(CodecError::Damaged));
            // Configuration 3 (60 ms), code 3, 63 frames: more than 120 ms (RFC 6716 §3.2.5).
            assert_eq!(decoder.decode(Some(&[0x1b, 63]), &mut out), Err(CodecError::Damaged));
            // 20 ms, code 1, which takes an even number of octets.
            assert_eq!(decoder.decode(Some(&[0x09, 1, 2, 3]), &mut out), Err(CodecError::Damaged));
            let twenty = &packets(&with_frame(20), 1, 198)[0];
            let short = CodecError::OutputLength { len: 319, needed: 320 };
            assert_eq!(decoder.decode(Some(twenty), &mut out[..319]), Err(short));
            assert_eq!(decoder.frame_samples(), 960);
            assert_eq!(decoder.decode(Some(twenty), &mut out), Ok(320));
            assert_eq!(decoder.frame_samples(), 320);
            assert_eq!(decoder.decode(None, &mut out), Ok(320));
            let sixty = &packets(&with_frame(60), 1, 198)[0];
            let wrong = CodecError::WrongDuration { samples: 960 };
            assert_eq!(decoder.decode(Some(sixty), &mut out), Err(wrong));
            assert_eq!(decoder.frame_samples(), 320);
        }

        #[test]
        fn packets_of_several_frames_count_as_a_whole() {
            // CELT has no frames above 20 ms, so these hold three (code 3).
            let mut settings = with_frame(60);
            settings.format = format(48_000, 2);
            settings.application = Application::Audio;
            settings.bitrate = Some(128_000);
            let packet = &packets(&settings, 1, 1_000)[0];
            assert_eq!((packet[0] & 3, packet[1] & 0x3f), (3, 3));
            for told in [Some(2_880), None] {
                let decoder =
                    build_decoder(CodecKind::Opus, settings.format, told, SampleRate::HZ_16000);
                let mut out = [0; 1_920];
                assert_eq!(decoder.expect("one").decode(Some(packet), &mut out), Ok(960));
            }
        }

        #[test]
        fn a_stereo_stream_of_mono_packets_is_stereo() {
            let stereo = format(16_000, 2);
            let packet = &packets(&with_frame(60), 1, 198)[0];
            assert_eq!(packet[0] & 4, 0, "the packet itself says mono");
            let mut decoder =
                build_decoder(CodecKind::Opus, stereo, Some(960), stereo.rate).expect("a decoder");
            let mut out = [0; 1_920];
            assert_eq!(decoder.decode(Some(packet), &mut out), Ok(960));
            assert!(out.chunks(2).all(|pair| pair[0] == pair[1]) && out.iter().any(|&s| s != 0));
        }

        #[test]
        fn a_packet_of_another_duration_leaves_no_trace() {
            let mono = format(16_000, 1);
            let new = || build_decoder(CodecKind::Opus, mono, Some(960), mono.rate).expect("one");
            let (mut disturbed, mut calm) = (new(), new());
            let other = &packets(&with_frame(20), 1, 198)[0];
            for packet in packets(&with_frame(60), 10, 198) {
                let [mut a, mut b] = [[0; 960]; 2];
                let wrong = CodecError::WrongDuration { samples: 320 };
                assert_eq!(disturbed.decode(Some(other), &mut a), Err(wrong));
                assert_eq!(disturbed.decode(Some(&[]), &mut a), Err(CodecError::Damaged));
                assert_eq!(disturbed.decode(Some(&packet), &mut a), Ok(960));
                assert_eq!(calm.decode(Some(&packet), &mut b), Ok(960));
                assert!(a == b);
            }
        }
    }

    #[cfg(any(feature = "opus", feature = "codec2"))]
    #[test]
    fn concealment_grows_silent_and_sound_returns() {
        let mut fade = Fade::new(format(8_000, 2));
        let mut frame = |lost: bool| {
            let mut pcm = [10_000; 2 * 480];
            if lost {
                fade.conceal(&mut pcm)
            } else {
                fade.receive(&mut pcm)
            }
            assert!(pcm.chunks(2).all(|pair| pair[0] == pair[1]));
            assert!(if lost { pcm.is_sorted_by(|a, b| a >= b) } else { pcm.is_sorted() });
            (pcm[0], pcm[2 * 480 - 1])
        };
        // The stream begins without a click.
        assert_eq!(frame(true), (0, 0));
        assert_eq!(frame(false), (0, 10_000));
        assert_eq!(frame(false), (10_000, 10_000));
        // One frame is concealed as well as it can be, the following ones less and less.
        assert_eq!(frame(true), (10_000, 10_000));
        let (first, last) = frame(true);
        assert_eq!((first, last / 100), (10_000, 66));
        let (first, last) = frame(false);
        assert_eq!((first / 100, last), (66, 10_000));
        for _ in 0..4 {
            frame(true);
        }
        assert_eq!(frame(true), (0, 0));
        assert_eq!(frame(false), (0, 10_000));
    }
}

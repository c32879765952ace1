//! The header of a WAV file: from any octets to where the sound is and how to read it.
//!
//! Tolerant where files in the wild are sloppy (lengths that were never filled in, unknown chunks,
//! odd chunks without padding left out, RF64 with 64-bit lengths), strict where going on would mean
//! noise. Never allocates by what the file says. Reads forward only, so that a pipe will do.
//!
//! Sources: Microsoft's "Multiple channel audio data and WAVE files" and `mmreg.h`; EBU Tech 3306
//! (RF64).

use crate::units::SampleRate;
use std::fmt;
use std::io::{self, Read};

/// Channels that a file may have; more than any desk records into one file.
pub(super) const CHANNELS_MAX: u16 = 64;

/// Octets of chunks before the sound; pictures and notes are a few megabytes at most.
const HEADER_OCTETS_MAX: u64 = 1 << 26;

/// A length that was never filled in, or that stands in a 64-bit field elsewhere.
const LENGTH_UNKNOWN: u32 = u32::MAX;

/// Where the sound is in a WAV file, and how to read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) rate: SampleRate,
    /// 1 to [`CHANNELS_MAX`].
    pub(super) channels: usize,
    pub(super) encoding: Encoding,
    /// Offset of the first octet of sound.
    pub(super) data_start: u64,
    /// Octets of sound; `None`: up to the end of the file.
    pub(super) data_octets: Option<u64>,
}

/// How one sample of one channel is written; all are little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// Unsigned, 128 is silence.
    U8,
    I16,
    I24,
    I32,
    F32,
    F64,
}

impl Encoding {
    /// Octets of one sample of one channel.
    pub(super) fn octets(self) -> usize {
        match self {
            Encoding::U8 => 1,
            Encoding::I16 => 2,
            Encoding::I24 => 3,
            Encoding::I32 | Encoding::F32 => 4,
            Encoding::F64 => 8,
        }
    }

    /// Appends the samples in `octets` to `pcm`, rounded to 16 bits and clipped; not-a-number is
    /// silence.
    pub(super) fn decode(self, octets: &[u8], pcm: &mut Vec<i16>) {
        let samples = octets.chunks_exact(self.octets());
        match self {
            Encoding::U8 => pcm.extend(samples.map(|o| (i16::from(o[0]) - 128) << 8)),
            Encoding::I16 => pcm.extend(samples.map(|o| i16::from_le_bytes([o[0], o[1]]))),
            Encoding::I24 => {
                pcm.extend(samples.map(|o| narrow(i32::from_le_bytes([0, o[0], o[1], o[2]]))));
            }
            Encoding::I32 => {
                pcm.extend(samples.map(|o| narrow(i32::from_le_bytes([o[0], o[1], o[2], o[3]]))));
            }
            // Casts from floats saturate, and make zero of not-a-number.
            Encoding::F32 => pcm.extend(samples.map(|o| {
                let value = f32::from_le_bytes([o[0], o[1], o[2], o[3]]);
                (value * 32_768.0).round() as i16
            })),
            Encoding::F64 => pcm.extend(samples.map(|o| {
                let value = f64::from_le_bytes([o[0], o[1], o[2], o[3], o[4], o[5], o[6], o[7]]);
                (value * 32_768.0).round() as i16
            })),
        }
    }
}

/// The upper 16 of 32 bits, rounded.
fn narrow(value: i32) -> i16 {
    (value.saturating_add(1 << 15) >> 16) as i16
}

/// Why a file's beginning is no header that can be played.
#[derive(Debug)]
pub(super) enum HeaderError {
    /// Reading failed.
    Io(io::Error),
    /// The file does not begin as WAV files do.
    NotRiff,
    /// A RIFF file, but of another type.
    NotWave,
    /// The file ends, or goes on for too long, before any sound.
    NoSound,
    /// The sound comes before its description.
    NoFormat,
    /// A coding other than plain samples, by its number in `mmreg.h`.
    Compressed(u16),
    /// A number of channels outside 1 to [`CHANNELS_MAX`].
    Channels(u16),
    /// A rate outside 1 to [`SampleRate::HZ_MAX`].
    Rate(u32),
    /// Octets of one sample of all channels that do not fit their number and width.
    Block {
        /// As the file has them.
        octets: u16,
        /// Channels.
        channels: u16,
        /// Bits of a sample.
        bits: u16,
    },
    /// A sample width that is none of the usual ones.
    Width {
        /// Bits of a sample.
        bits: u16,
        /// Whether the samples are floats.
        float: bool,
    },
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HeaderError::Io(error) => write!(f, "{error}"),
            HeaderError::NotRiff => write!(f, "not a WAV file (no RIFF header)"),
            HeaderError::NotWave => write!(f, "not a WAV file (RIFF of another type)"),
            HeaderError::NoSound => write!(f, "damaged WAV file (no sound in it)"),
            HeaderError::NoFormat => write!(f, "damaged WAV file (no format before the sound)"),
            HeaderError::Compressed(tag) => write!(f, "compressed WAV file (coding {tag:#06x})"),
            HeaderError::Channels(count) => {
                write!(f, "WAV file of {count} channels, and 1 to {CHANNELS_MAX} can be read")
            }
            HeaderError::Rate(hz) => {
                write!(f, "WAV file at {hz} Hz, and 1 to {} Hz can be read", SampleRate::HZ_MAX)
            }
            HeaderError::Block { octets, channels, bits } => write!(
                f,
                "damaged WAV file ({channels} channels of {bits} bits in blocks of {octets} octets)"
            ),
            HeaderError::Width { bits, float: true } => {
                write!(f, "WAV file of {bits}-bit floats, and 32 or 64 bits can be read")
            }
            HeaderError::Width { bits, float: false } => {
                write!(f, "WAV file of {bits}-bit samples, and 8, 16, 24 or 32 bits can be read")
            }
        }
    }
}

impl From<io::Error> for HeaderError {
    fn from(error: io::Error) -> HeaderError {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => HeaderError::NoSound,
            _ => HeaderError::Io(error),
        }
    }
}

impl Header {
    /// Reads up to the first octet of sound.
    pub(super) fn parse(input: &mut impl Read) -> Result<Header, HeaderError> {
        let mut input = Counted { input: input.take(HEADER_OCTETS_MAX), position: 0 };
        let mut riff = [0; 12];
        if let Err(error) = input.read_exact(&mut riff) {
            let ended = error.kind() == io::ErrorKind::UnexpectedEof;
            return Err(if ended { HeaderError::NotRiff } else { HeaderError::Io(error) });
        }
        // RF64 and BW64 are RIFF with lengths of 64 bits.
        if !matches!(&riff[..4], b"RIFF" | b"RF64" | b"BW64") {
            return Err(HeaderError::NotRiff);
        }
        if &riff[8..] != b"WAVE" {
            return Err(HeaderError::NotWave);
        }
        let riff_octets = u32_at(&riff, 4);
        let mut format = None;
        let mut long_data_octets = None;
        loop {
            let mut chunk = [0; 8];
            input.read_exact(&mut chunk)?;
            let octets = u32_at(&chunk, 4);
            let padded_octets = u64::from(octets) + u64::from(octets % 2);
            match &chunk[..4] {
                b"fmt " => {
                    let mut start = [0; 40];
                    let known = padded_octets.min(40);
                    input.read_exact(&mut start[..known as usize])?;
                    input.skip(padded_octets - known)?;
                    format = Some(parse_format(&start)?);
                }
                b"ds64" => {
                    let mut start = [0; 16];
                    let known = padded_octets.min(16);
                    input.read_exact(&mut start[..known as usize])?;
                    input.skip(padded_octets - known)?;
                    let (low, high) = (u32_at(&start, 8), u32_at(&start, 12));
                    long_data_octets = Some(u64::from(high) << 32 | u64::from(low));
                }
                b"data" => {
                    let (rate, channels, encoding) = format.ok_or(HeaderError::NoFormat)?;
                    let data_start = input.position;
                    // A recorder that was killed, or writes to a pipe, leaves the lengths unset. A
                    // file without sound that goes on with other chunks states how far.
                    let unset =
                        riff_octets == LENGTH_UNKNOWN || u64::from(riff_octets) + 8 <= data_start;
                    let data_octets = match octets {
                        LENGTH_UNKNOWN => long_data_octets.filter(|&octets| octets > 0),
                        0 if unset => None,
                        octets => Some(u64::from(octets)),
                    };
                    return Ok(Header { rate, channels, encoding, data_start, data_octets });
                }
                _ => input.skip(padded_octets)?,
            }
        }
    }

    /// Octets of one sample of all channels.
    pub(super) fn sample_octets(&self) -> usize {
        self.encoding.octets() * self.channels
    }
}

/// Reads the beginning of a `fmt ` chunk; what the chunk did not have is zero.
fn parse_format(chunk: &[u8; 40]) -> Result<(SampleRate, usize, Encoding), HeaderError> {
    const PCM: u16 = 1;
    const FLOAT: u16 = 3;
    const EXTENSIBLE: u16 = 0xfffe;
    let mut tag = u16_at(chunk, 0);
    if tag == EXTENSIBLE {
        // The first two octets of the sub-format's GUID are such a number again.
        tag = u16_at(chunk, 24);
    }
    let float = match tag {
        PCM => false,
        FLOAT => true,
        _ => return Err(HeaderError::Compressed(tag)),
    };
    let channels = u16_at(chunk, 2);
    if channels == 0 || channels > CHANNELS_MAX {
        return Err(HeaderError::Channels(channels));
    }
    let hz = u32_at(chunk, 4);
    let rate = SampleRate::new(hz).ok_or(HeaderError::Rate(hz))?;
    let block_octets = u16_at(chunk, 12);
    let bits = u16_at(chunk, 14);
    let needed_octets = bits.div_ceil(8);
    // The width of what is stored; the bits may be fewer, and are then the upper ones of it. Where
    // the two do not fit together one of them is wrong, and the wrong one would make noise.
    let stored_octets = match block_octets {
        0 => needed_octets,
        _ if block_octets == needed_octets.saturating_mul(channels) => needed_octets,
        _ if needed_octets == 3 && block_octets == 4 * channels => 4,
        _ => return Err(HeaderError::Block { octets: block_octets, channels, bits }),
    };
    let encoding = match (float, stored_octets) {
        (false, 1) => Encoding::U8,
        (false, 2) => Encoding::I16,
        (false, 3) => Encoding::I24,
        (false, 4) => Encoding::I32,
        (true, 4) => Encoding::F32,
        (true, 8) => Encoding::F64,
        _ => return Err(HeaderError::Width { bits: stored_octets.saturating_mul(8), float }),
    };
    Ok((rate, usize::from(channels), encoding))
}

fn u16_at(octets: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([octets[at], octets[at + 1]])
}

fn u32_at(octets: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]])
}

/// A reader that knows how far it is.
struct Counted<R> {
    input: R,
    position: u64,
}

impl<R: Read> Counted<R> {
    fn read_exact(&mut self, out: &mut [u8]) -> io::Result<()> {
        self.input.read_exact(out)?;
        self.position += out.len() as u64;
        Ok(())
    }

    fn skip(&mut self, octets: u64) -> io::Result<()> {
        let skipped = io::copy(&mut (&mut self.input).take(octets), &mut io::sink())?;
        self.position += skipped;
        if skipped < octets { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(id: &[u8; 4], octets: u32, content: &[u8]) -> Vec<u8> {
        [&id[..], &octets.to_le_bytes(), content].concat()
    }

    fn format_chunk(tag: u16, channels: u16, hz: u32, bits: u16) -> Vec<u8> {
        let block = channels.wrapping_mul(bits / 8);
        let mut content = Vec::new();
        content.extend(tag.to_le_bytes());
        content.extend(channels.to_le_bytes());
        content.extend(hz.to_le_bytes());
        content.extend(hz.wrapping_mul(u32::from(block)).to_le_bytes());
        content.extend(block.to_le_bytes());
        content.extend(bits.to_le_bytes());
        chunk(b"fmt ", 16, &content)
    }

    fn parse(chunks: &[Vec<u8>]) -> Result<Header, HeaderError> {
        let body = chunks.concat();
        parse_riff(b"RIFF", body.len() as u32 + 4, &body)
    }

    fn parse_riff(id: &[u8; 4], octets: u32, body: &[u8]) -> Result<Header, HeaderError> {
        let file = [&id[..], &octets.to_le_bytes(), b"WAVE", body].concat();
        Header::parse(&mut &file[..])
    }

    #[test]
    fn the_usual_encodings_are_known() {
        for (tag, bits, encoding) in [
            (1, 8, Encoding::U8),
            (1, 16, Encoding::I16),
            (1, 24, Encoding::I24),
            (1, 32, Encoding::I32),
            (3, 32, Encoding::F32),
            (3, 64, Encoding::F64),
        ] {
            let header = parse(&[
                chunk(b"LIST", 3, &[1, 2, 3, 0]),
                format_chunk(tag, 2, 44_100, bits),
                chunk(b"data", 8, &[0; 8]),
            ])
            .expect("a header");
            assert_eq!(header.encoding, encoding);
            assert_eq!((header.rate.hz(), header.channels), (44_100, 2));
            assert_eq!((header.data_start, header.data_octets), (12 + 12 + 24 + 8, Some(8)));
            assert_eq!(header.sample_octets(), usize::from(bits) / 4);
        }
    }

    #[test]
    fn lengths_that_were_never_filled_in_mean_up_to_the_end() {
        for (riff, data) in [(0, 0), (36, 0), (u32::MAX, u32::MAX), (u32::MAX, 0), (0, u32::MAX)] {
            let body = [format_chunk(1, 1, 8_000, 16), chunk(b"data", data, &[0; 4])].concat();
            let header = parse_riff(b"RIFF", riff, &body).expect("a header");
            assert_eq!(header.data_octets, None, "{riff} {data}");
        }
        let chunks =
            [format_chunk(1, 1, 8_000, 16), chunk(b"data", 0, &[]), chunk(b"LIST", 0, &[])];
        assert_eq!(parse(&chunks).expect("a header").data_octets, Some(0));
    }

    #[test]
    fn long_files_have_long_lengths() {
        let mut ds64 = vec![0; 28];
        ds64[8..16].copy_from_slice(&(5u64 << 32).to_le_bytes());
        let body = [
            chunk(b"ds64", 28, &ds64),
            format_chunk(1, 1, 8_000, 16),
            chunk(b"data", u32::MAX, &[0; 4]),
        ];
        let header = parse_riff(b"RF64", u32::MAX, &body.concat()).expect("a header");
        assert_eq!(header.data_octets, Some(5 << 32));
    }

    #[test]
    fn each_fault_has_its_message() {
        let error = |chunks: &[Vec<u8>]| parse(chunks).expect_err("a fault").to_string();
        let data = || chunk(b"data", 4, &[0; 4]);
        assert!(error(&[format_chunk(1, 0, 8_000, 16), data()]).contains("of 0 channels"));
        assert!(error(&[format_chunk(1, 65_535, 8_000, 16), data()]).contains("65535 channels"));
        assert!(error(&[format_chunk(1, 1, 0, 16), data()]).contains("at 0 Hz"));
        assert!(error(&[format_chunk(1, 1, 768_001, 16), data()]).contains("at 768001 Hz"));
        assert!(error(&[format_chunk(1, 1, 8_000, 40), data()]).contains("40-bit samples"));
        assert!(error(&[format_chunk(3, 1, 8_000, 16), data()]).contains("16-bit floats"));
        for block in [6, 3, 8] {
            // Stereo of 16 bits, as if of 24, cut short, and as if of 32.
            let mut format = format_chunk(1, 2, 8_000, 16);
            format[8 + 12] = block;
            assert!(error(&[format, data()]).contains(&format!("blocks of {block} octets")));
        }
        assert!(error(&[format_chunk(0x55, 1, 8_000, 16), data()]).contains("coding 0x0055"));
        assert!(error(&[data()]).contains("no format"));
        assert!(error(&[format_chunk(1, 1, 8_000, 16)]).contains("no sound"));
        assert!(error(&[chunk(b"JUNK", u32::MAX, &[])]).contains("no sound"));
        assert!(parse_riff(b"OggS", 0, &[]).expect_err("a fault").to_string().contains("no RIFF"));
        let other = Header::parse(&mut &b"RIFF\0\0\0\0AVI "[..]).expect_err("a fault");
        assert!(other.to_string().contains("another type"));
        let short = Header::parse(&mut &b"RI"[..]).expect_err("a fault");
        assert!(short.to_string().contains("no RIFF"));
    }

    #[test]
    fn samples_of_every_width_meet_16_bits() {
        let decode = |encoding: Encoding, octets: &[u8]| {
            let mut pcm = Vec::new();
            encoding.decode(octets, &mut pcm);
            pcm
        };
        assert_eq!(decode(Encoding::U8, &[0, 128, 255]), [-32_768, 0, 32_512]);
        assert_eq!(decode(Encoding::I16, &[0x34, 0x12, 0xff]), [0x1234]);
        assert_eq!(decode(Encoding::I24, &[0x80, 0x34, 0x12]), [0x1235]);
        assert_eq!(decode(Encoding::I24, &[0xff, 0xff, 0x7f]), [i16::MAX]);
        assert_eq!(decode(Encoding::I32, &[0, 0, 0, 0x80]), [i16::MIN]);
        let floats = [0.5f32, -2.0, f32::NAN, f32::INFINITY].map(f32::to_le_bytes).concat();
        assert_eq!(decode(Encoding::F32, &floats), [16_384, i16::MIN, 0, i16::MAX]);
        let floats = [0.5f64, f64::NEG_INFINITY].map(f64::to_le_bytes).concat();
        assert_eq!(decode(Encoding::F64, &floats), [16_384, i16::MIN]);
    }
}

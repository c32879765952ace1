//! What the TXT records carry: indexed texts, the sequence list, `config` and `now`.
//!
//! The server packs texts into segments with [`Packer`] and encodes the records; the listener takes
//! them apart with [`Reassembled`], [`decode_list`], [`ConfigRecord::parse`] and
//! [`NowRecord::parse`]. Everything that is parsed here came from strangers: lengths and counts are
//! bounded before anything is allocated, and what is wrong is a value, not a panic.
//!
//! A *text* is one asciialized packet; a *string* is a text behind its index prefix.

use crate::ascii::{self, Asciializer};
use crate::units::{Channels, Format, SampleRate, Sequence};
use crate::wire::{STRING_OCTETS_MAX, TXT_RECORD_OCTETS};
use flate2::read::ZlibDecoder;
use flate2::{Compress, Compression, FlushCompress, Status};
use std::fmt;
use std::io::Read;
use std::time::Duration;

/// What separates index and text: a character that basE91 never produces, three times.
const SEPARATOR: &[u8] = b"'''";
/// Characters in front of a text: three digits and the separator.
pub const PREFIX_CHARS: usize = 3 + SEPARATOR.len();
/// Most packets in a segment of ours. BIND answers SERVFAIL for an RRset of over 100 records.
pub const PACKETS_MAX: usize = 100;
/// Highest index that is believed; beyond three digits no peer was ever seen.
const INDEX_MAX: usize = 999;
/// Highest number that is believed of a server, so that a listener can reckon ahead of it. From
/// 1970 on, ten numbers a second take fifty billion years to get there.
pub const SEQUENCE_MAX: Sequence = u64::MAX - (1 << 32);
/// Numbers that are tried to be listed; not half of them ever fit one string.
const LIST_NUMBERS_MAX: u64 = 256;
/// Longest list that is read, in octets after decompression: 2,500 numbers of 20 digits.
const LIST_OCTETS_MAX: usize = 52_500;

/// When a segment is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackLimits {
    /// Most octets in one string, prefix included; at most 255.
    pub string_octets_max: usize,
    /// Most octets of texts in one segment.
    pub segment_octets_max: usize,
    /// Most packets in one segment, 1 to [`PACKETS_MAX`].
    pub packets_max: usize,
    /// Most octets of one segment's records in an answer; `usize::MAX` for no limit.
    pub records_octets_max: usize,
}

impl PackLimits {
    /// Most characters in one text.
    pub fn text_chars_max(&self) -> usize {
        self.string_octets_max - PREFIX_CHARS
    }
}

/// The strings published under one sequence number, in index order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// One string for each packet.
    pub strings: Vec<Vec<u8>>,
}

/// Collects texts into segments (protocol 1.3).
#[derive(Debug)]
pub struct Packer {
    limits: PackLimits,
    open: Segment,
    /// Sum of the open segment's texts, prefixes not counted.
    text_octets: usize,
    /// Octets of the open segment's records in an answer.
    records_octets: usize,
}

impl Packer {
    /// A packer without an open segment.
    ///
    /// # Panics
    /// When a limit is outside its documented range.
    pub fn new(limits: PackLimits) -> Packer {
        assert!((PREFIX_CHARS + 1..=STRING_OCTETS_MAX).contains(&limits.string_octets_max));
        assert!((1..=PACKETS_MAX).contains(&limits.packets_max));
        Packer { limits, open: Segment::default(), text_octets: 0, records_octets: 0 }
    }

    /// Adds a text, and returns the segment that this closed: the one before, when the text does
    /// not fit it any more; else the one that the text completes by count.
    ///
    /// # Panics
    /// When the text is longer than [`PackLimits::text_chars_max`]; the encoder's cap excludes it.
    pub fn push(&mut self, text: &[u8]) -> Option<Segment> {
        assert!(text.len() <= self.limits.text_chars_max(), "a text fits its string");
        let octets = self.text_octets + PREFIX_CHARS + text.len();
        let record_octets = TXT_RECORD_OCTETS + PREFIX_CHARS + text.len();
        let full = octets > self.limits.segment_octets_max
            || self.records_octets + record_octets > self.limits.records_octets_max;
        let closed = if full { self.take() } else { None };
        let mut string = format!("{:03}", self.open.strings.len()).into_bytes();
        string.extend_from_slice(SEPARATOR);
        string.extend_from_slice(text);
        self.open.strings.push(string);
        self.text_octets += text.len();
        self.records_octets += record_octets;
        if self.open.strings.len() < self.limits.packets_max {
            return closed;
        }
        debug_assert!(closed.is_none(), "a segment of one packet never closes by size");
        self.take()
    }

    /// The open segment, if it holds anything; for the end of the stream.
    pub fn take(&mut self) -> Option<Segment> {
        self.text_octets = 0;
        self.records_octets = 0;
        let segment = std::mem::take(&mut self.open);
        (!segment.strings.is_empty()).then_some(segment)
    }
}

/// A segment taken apart: its packets in order, the damaged ones missing at their place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reassembled {
    /// The packets from index 0 on; `None` is to be concealed.
    pub packets: Vec<Option<Vec<u8>>>,
    /// Strings without a readable index or text, double ones, and indices that nobody sent.
    pub damaged: usize,
}

impl Reassembled {
    /// Sorts `strings` by their index and decodes each text. Order means nothing. The number of
    /// missing packets that one segment may claim is bounded, so that no single string with a high
    /// index stands for a minute of silence.
    pub fn from_strings(strings: &[Vec<u8>], asciializer: &dyn Asciializer) -> Reassembled {
        let mut damaged = 0;
        let mut texts: Vec<Option<&[u8]>> = Vec::with_capacity(strings.len());
        let index_max = INDEX_MAX.min(2 * strings.len() + 16);
        let mut clashes = Vec::new();
        for string in strings {
            let Some((index, text)) = split_string(string).filter(|(index, _)| *index <= index_max)
            else {
                damaged += 1;
                continue;
            };
            if texts.len() <= index {
                texts.resize(index + 1, None);
            }
            match texts[index] {
                Some(other) if other != text => clashes.push(index),
                _ => texts[index] = Some(text),
            }
        }
        clashes.into_iter().for_each(|index| texts[index] = None);
        let packets: Vec<_> = texts
            .into_iter()
            .map(|text| {
                let mut packet = Vec::new();
                asciializer.decode(text?, &mut packet).ok()?;
                Some(packet)
            })
            .collect();
        // A string without an index leaves a gap where it belongs: count it once.
        let missing = packets.iter().filter(|packet| packet.is_none()).count();
        Reassembled { packets, damaged: damaged.max(missing) }
    }
}

/// The index and the text of a string, or `None` when it has no such form.
fn split_string(string: &[u8]) -> Option<(usize, &[u8])> {
    let digits = string.iter().take_while(|octet| octet.is_ascii_digit()).count();
    // Three or more digits; more than six cannot be an index that is believed.
    if !(3..=6).contains(&digits) {
        return None;
    }
    let text = string[digits..].strip_prefix(SEPARATOR)?;
    let index = string[..digits].iter().fold(0, |sum, digit| 10 * sum + usize::from(digit - b'0'));
    Some((index, text))
}

/// Writes sequence lists (protocol 1.4). It is kept, because the compressor's tables are a third of
/// a megabyte, and to fetch and clear them takes longer than to compress a list.
#[derive(Debug)]
pub struct ListEncoder(Compress);

impl Default for ListEncoder {
    fn default() -> ListEncoder {
        ListEncoder(Compress::new(Compression::best(), true))
    }
}

impl ListEncoder {
    /// Encodes the numbers `oldest` to `newest` as the one string of `sequence`, and counts how
    /// many of the oldest had to be left out to fit it.
    ///
    /// # Panics
    /// When `oldest` is after `newest`.
    pub fn encode(&mut self, oldest: Sequence, newest: Sequence) -> (Vec<u8>, u64) {
        assert!(oldest <= newest);
        let tried = oldest.max(newest.saturating_sub(LIST_NUMBERS_MAX - 1));
        let whole = encode_numbers(&mut self.0, tried, newest);
        if whole.len() <= STRING_OCTETS_MAX {
            return (whole, tried - oldest);
        }
        // The length grows with the count, but for single octets: halve, then creep to what fits.
        let (mut fits, mut over) = (newest, tried);
        while fits - over > 1 {
            let middle = over + (fits - over) / 2;
            if encode_numbers(&mut self.0, middle, newest).len() <= STRING_OCTETS_MAX {
                fits = middle;
            } else {
                over = middle;
            }
        }
        (encode_numbers(&mut self.0, fits, newest), fits - oldest)
    }
}

/// Encodes one list; see [`ListEncoder::encode`].
///
/// # Panics
/// When `oldest` is after `newest`.
pub fn encode_list(oldest: Sequence, newest: Sequence) -> (Vec<u8>, u64) {
    ListEncoder::default().encode(oldest, newest)
}

fn encode_numbers(compress: &mut Compress, oldest: Sequence, newest: Sequence) -> Vec<u8> {
    let mut list = String::new();
    for number in oldest..=newest {
        if !list.is_empty() {
            list.push(',');
        }
        list.push_str(&number.to_string());
    }
    compress.reset();
    // Digits never grow; the header and checksum of zlib are six octets.
    let mut compressed = Vec::with_capacity(list.len() + 64);
    let status = compress.compress_vec(list.as_bytes(), &mut compressed, FlushCompress::Finish);
    assert_eq!(status.ok(), Some(Status::StreamEnd), "there is room for all of it");
    let mut text = Vec::new();
    ascii::base91_encode(&compressed, &mut text);
    text
}

/// Why a record's value is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecordError {
    /// A character outside the text encoding's alphabet.
    Text,
    /// Not zlib, or cut short.
    Compression,
    /// Larger than anything a server sends.
    TooLong,
    /// Not a list of decimal numbers.
    Number,
    /// Not version 1 of the record.
    Version,
    /// A key that must be there is not.
    Missing(&'static str),
    /// A value out of its range.
    Value(&'static str),
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordError::Text => write!(f, "character outside the alphabet"),
            RecordError::Compression => write!(f, "not zlib data"),
            RecordError::TooLong => write!(f, "too long"),
            RecordError::Number => write!(f, "not a list of numbers"),
            RecordError::Version => write!(f, "not version 1"),
            RecordError::Missing(key) => write!(f, "{key} is missing"),
            RecordError::Value(key) => write!(f, "{key} is out of range"),
        }
    }
}

impl std::error::Error for RecordError {}

/// Reads the string of `sequence`: the numbers listed, ascending, each once.
///
/// # Errors
/// When it is no compressed list of decimal numbers, or an absurdly long one.
pub fn decode_list(string: &[u8]) -> Result<Vec<Sequence>, RecordError> {
    let mut compressed = Vec::new();
    ascii::base91_decode(string, &mut compressed).map_err(|_| RecordError::Text)?;
    let mut list = Vec::new();
    ZlibDecoder::new(&*compressed)
        .take(LIST_OCTETS_MAX as u64 + 1)
        .read_to_end(&mut list)
        .map_err(|_| RecordError::Compression)?;
    if list.len() > LIST_OCTETS_MAX {
        return Err(RecordError::TooLong);
    }
    if list.is_empty() {
        return Ok(Vec::new());
    }
    let mut numbers = Vec::with_capacity(list.len() / 2);
    for digits in list.split(|&octet| octet == b',') {
        let number = parse_number(digits).filter(|&number| number <= SEQUENCE_MAX);
        numbers.push(number.ok_or(RecordError::Number)?);
    }
    numbers.sort_unstable();
    numbers.dedup();
    Ok(numbers)
}

/// Reads a canonical decimal number: no sign, no leading zero, within 64 bits.
pub fn parse_number(digits: &[u8]) -> Option<Sequence> {
    let canonical = matches!(digits, [b'0'] | [b'1'..=b'9', ..]);
    if !canonical || digits.len() > 20 {
        return None;
    }
    digits.iter().try_fold(0u64, |sum, &octet| {
        let digit = octet.is_ascii_digit().then(|| u64::from(octet - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

/// What `config` says (protocol 2.1): whatever does not change during a run of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigRecord {
    /// Drawn anew for each run of the server.
    pub id: u32,
    /// Name of the codec.
    pub codec: String,
    /// Sample rate and channels of the stream.
    pub format: Format,
    /// Samples per channel in a packet.
    pub frame_samples: u32,
    /// Name of the text encoding.
    pub ascii: String,
    /// Most packets in a segment.
    pub packets_max: u32,
    /// The record's own TTL as published, in seconds.
    pub ttl: u32,
    /// Segments in a full window.
    pub window: u32,
    /// What the stream is called; may be empty.
    pub title: String,
}

impl ConfigRecord {
    /// The longest that a segment lasts.
    pub fn segment_duration_max(&self) -> Duration {
        let samples = u64::from(self.frame_samples) * u64::from(self.packets_max);
        self.format.rate.duration(samples)
    }

    /// The record's value. The title is cut where it would no longer fit one string.
    pub fn encode(&self) -> Vec<u8> {
        let mut value = format!(
            "v=1;id={:08x};codec={};rate={};channels={};frame={};ascii={};frames={};ttl={};window={}",
            self.id,
            self.codec,
            self.format.rate.hz(),
            self.format.channels.count(),
            self.frame_samples,
            self.ascii,
            self.packets_max,
            self.ttl,
            self.window,
        )
        .into_bytes();
        if self.title.is_empty() {
            return value;
        }
        value.extend_from_slice(b";title=");
        for character in self.title.chars() {
            let escaped = percent_encode(character);
            if value.len() + escaped.len() > STRING_OCTETS_MAX {
                break;
            }
            value.extend_from_slice(&escaped);
        }
        value
    }

    /// Reads the record's value.
    ///
    /// # Errors
    /// When it is not version 1, lacks a key or holds an impossible value. An unknown codec or
    /// encoding is not an error here.
    pub fn parse(value: &[u8]) -> Result<ConfigRecord, RecordError> {
        let pairs = Pairs::new(value)?;
        let rate = SampleRate::new(pairs.number("rate", 1, 768_000)? as u32)
            .filter(|rate| rate.is_stream_rate())
            .ok_or(RecordError::Value("rate"))?;
        let channels = Channels::new(pairs.number("channels", 1, 2)? as u16);
        let channels = channels.ok_or(RecordError::Value("channels"))?;
        // 120 ms is the longest packet of Opus (RFC 6716 §3.1), 2.5 ms the shortest.
        let longest = u64::from(rate.hz()) * 120 / 1000;
        Ok(ConfigRecord {
            id: pairs.id()?,
            codec: pairs.word("codec")?,
            format: Format::new(rate, channels),
            frame_samples: pairs.number("frame", u64::from(rate.hz()) / 400, longest)? as u32,
            ascii: pairs.word("ascii")?,
            packets_max: pairs.number("frames", 1, INDEX_MAX as u64 + 1)? as u32,
            ttl: pairs.number("ttl", 0, i32::MAX as u64)? as u32,
            window: pairs.number("window", 1, 1_000_000)? as u32,
            title: percent_decode(pairs.get("title").unwrap_or_default()),
        })
    }
}

/// What `now_<nonce>` says (protocol 2.2): where the live edge is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NowRecord {
    /// The run of the server, as in `config`.
    pub id: u32,
    /// Oldest segment that is still published.
    pub first: Sequence,
    /// The segment that is published next.
    pub next: Sequence,
    /// How long ago the newest segment was published; `None` before the first one.
    pub age: Option<Duration>,
    /// The server's wall clock, in milliseconds since 1970.
    pub clock_ms: u64,
    /// Whether the source has ended, so that `next` will never come.
    pub ended: bool,
}

impl NowRecord {
    /// Longest value that [`NowRecord::write`] makes.
    pub const OCTETS_MAX: usize = 160;

    /// Appends the record's value to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        use std::io::Write;
        let written = (|| {
            write!(out, "v=1;id={:08x};first={};next={}", self.id, self.first, self.next)?;
            if let Some(age) = self.age {
                write!(out, ";age={}", age.as_millis())?;
            }
            write!(out, ";clock={}", self.clock_ms)?;
            if self.ended { out.write_all(b";end=1") } else { Ok(()) }
        })();
        written.expect("writing to memory does not fail");
    }

    /// Reads the record's value.
    ///
    /// # Errors
    /// As [`ConfigRecord::parse`].
    pub fn parse(value: &[u8]) -> Result<NowRecord, RecordError> {
        let pairs = Pairs::new(value)?;
        let next = pairs.number("next", 0, SEQUENCE_MAX)?;
        let age = match pairs.get("age") {
            Some(_) => Some(Duration::from_millis(pairs.number("age", 0, u64::MAX)?)),
            None => None,
        };
        Ok(NowRecord {
            id: pairs.id()?,
            first: pairs.number("first", 0, next).map_err(|_| RecordError::Value("first"))?,
            next,
            age,
            clock_ms: pairs.number("clock", 0, u64::MAX)?,
            ended: pairs.get("end") == Some(b"1"),
        })
    }
}

/// The `key=value` pairs of a record of version 1.
struct Pairs<'a>(&'a [u8]);

impl<'a> Pairs<'a> {
    fn new(value: &'a [u8]) -> Result<Pairs<'a>, RecordError> {
        if value.len() > 8 * STRING_OCTETS_MAX {
            return Err(RecordError::TooLong);
        }
        let version = value.split(|&octet| octet == b';').next();
        if version != Some(b"v=1") {
            return Err(RecordError::Version);
        }
        Ok(Pairs(value))
    }

    /// The value of the first pair with this key.
    fn get(&self, key: &str) -> Option<&'a [u8]> {
        let pairs = self.0.split(|&octet| octet == b';');
        let mut values = pairs.filter_map(|pair| {
            let (found, value) = pair.split_at_checked(key.len())?;
            value.strip_prefix(b"=").filter(|_| found == key.as_bytes())
        });
        values.next()
    }

    fn need(&self, key: &'static str) -> Result<&'a [u8], RecordError> {
        self.get(key).ok_or(RecordError::Missing(key))
    }

    fn number(&self, key: &'static str, min: u64, max: u64) -> Result<u64, RecordError> {
        let number = parse_number(self.need(key)?).ok_or(RecordError::Value(key))?;
        if (min..=max).contains(&number) { Ok(number) } else { Err(RecordError::Value(key)) }
    }

    /// A name of at most 32 letters, digits and hyphens.
    fn word(&self, key: &'static str) -> Result<String, RecordError> {
        let word = self.need(key)?;
        let fine = |octet: &u8| octet.is_ascii_alphanumeric() || *octet == b'-';
        if !(1..=32).contains(&word.len()) || !word.iter().all(fine) {
            return Err(RecordError::Value(key));
        }
        Ok(String::from_utf8_lossy(word).into_owned())
    }

    /// Eight hexadecimal digits.
    fn id(&self) -> Result<u32, RecordError> {
        let digits = std::str::from_utf8(self.need("id")?).unwrap_or_default();
        if digits.len() != 8 || !digits.bytes().all(|octet| octet.is_ascii_hexdigit()) {
            return Err(RecordError::Value("id"));
        }
        u32::from_str_radix(digits, 16).map_err(|_| RecordError::Value("id"))
    }
}

/// A character as it stands in a record: itself when it is printable ASCII and no `;` or `%`, else
/// its UTF-8 octets, percent-encoded (RFC 3986 §2.1).
fn percent_encode(character: char) -> Vec<u8> {
    if matches!(character, ' '..='~') && character != ';' && character != '%' {
        return vec![character as u8];
    }
    let mut utf8 = [0; 4];
    let octets = character.encode_utf8(&mut utf8).bytes();
    octets.flat_map(|octet| format!("%{octet:02X}").into_bytes()).collect()
}

/// Undoes [`percent_encode`]; what is no UTF-8 or a control character becomes U+FFFD, so that a
/// title can be written to a terminal.
fn percent_decode(value: &[u8]) -> String {
    let mut octets = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((&octet, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match hex.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(decoded) if octet == b'%' => {
                octets.push(decoded);
                rest = &tail[2..];
            }
            _ => {
                octets.push(octet);
                rest = tail;
            }
        }
    }
    let text = String::from_utf8_lossy(&octets);
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Body of the fuzz target `segment`: strings cut from `octets` at newlines, reassembled.
#[doc(hidden)]
pub fn fuzz_segment(octets: &[u8]) {
    let strings: Vec<Vec<u8>> = octets.split(|&octet| octet == b'\n').map(<[u8]>::to_vec).collect();
    let segment = Reassembled::from_strings(&strings, &*ascii::AsciiKind::Base91.build());
    assert!(segment.packets.len() <= 2 * strings.len() + 17);
    let missing = segment.packets.iter().filter(|packet| packet.is_none()).count();
    assert!(segment.damaged >= missing);
}

/// Body of the fuzz target `announcement`: the sequence list.
#[doc(hidden)]
pub fn fuzz_list(octets: &[u8]) {
    if let Ok(numbers) = decode_list(octets) {
        assert!(numbers.is_sorted() && numbers.len() <= LIST_OCTETS_MAX);
    }
    // Compressing is slow: only what looks like a number and a count is listed.
    if let ([first @ .., count], 9) = (octets, octets.len()) {
        let count = *count;
        let oldest = first.iter().fold(0, |sum, &octet| sum << 8 | u64::from(octet));
        let oldest = oldest.min(SEQUENCE_MAX - u64::from(count));
        let newest = oldest + u64::from(count);
        let (text, left_out) = encode_list(oldest, newest);
        assert!(text.len() <= STRING_OCTETS_MAX);
        let numbers = decode_list(&text).expect("our own list is read");
        assert!(numbers.into_iter().eq(oldest + left_out..=newest));
    }
}

/// Body of the fuzz target `records`: `config` and `now`.
#[doc(hidden)]
pub fn fuzz_records(octets: &[u8]) {
    if let Ok(config) = ConfigRecord::parse(octets) {
        let value = config.encode();
        assert!(value.len() <= STRING_OCTETS_MAX);
        let again = ConfigRecord::parse(&value).expect("our own record is read");
        assert!(config.title.starts_with(&again.title));
        assert_eq!(
            ConfigRecord { title: String::new(), ..again },
            ConfigRecord { title: String::new(), ..config }
        );
    }
    if let Ok(now) = NowRecord::parse(octets) {
        let mut value = Vec::new();
        now.write(&mut value);
        assert!(value.len() <= NowRecord::OCTETS_MAX);
        assert_eq!(NowRecord::parse(&value), Ok(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PackLimits = PackLimits {
        string_octets_max: 250,
        segment_octets_max: 2000,
        packets_max: 12,
        records_octets_max: usize::MAX,
    };

    fn base91() -> Box<dyn Asciializer> {
        ascii::AsciiKind::Base91.build()
    }

    fn strings(strings: &[&str]) -> Vec<Vec<u8>> {
        strings.iter().map(|string| string.as_bytes().to_vec()).collect()
    }

    fn config() -> ConfigRecord {
        ConfigRecord {
            id: 0x0012_ABCD,
            codec: "opus".into(),
            format: Format::new(SampleRate::HZ_16000, Channels::MONO),
            frame_samples: 960,
            ascii: "base91".into(),
            packets_max: 12,
            ttl: 60,
            window: 75,
            title: "Nachts; 100 % Jazz – live".into(),
        }
    }

    #[test]
    fn a_segment_closes_by_count_with_its_last_text() {
        let mut packer = Packer::new(LIMITS);
        for _ in 0..11 {
            assert_eq!(packer.push(b"text"), None);
        }
        let segment = packer.push(b"last").unwrap();
        assert_eq!(segment.strings.len(), 12);
        assert_eq!(segment.strings[0], b"000'''text");
        assert_eq!(segment.strings[11], b"011'''last");
        assert_eq!(packer.take(), None);
    }

    #[test]
    fn a_segment_closes_by_size_when_the_next_text_does_not_fit() {
        // 244 × 7 = 1708; 1708 + 6 + 244 = 1958 fits, 1952 + 6 + 42 = 2000 still does, 43 not.
        for (last, closes) in [(42, false), (43, true)] {
            let mut packer = Packer::new(LIMITS);
            for _ in 0..8 {
                assert_eq!(packer.push(&[b'x'; 244]), None);
            }
            let closed = packer.push(&vec![b'y'; last]);
            assert_eq!(closed.map(|segment| segment.strings.len()), closes.then_some(8));
            assert_eq!(packer.take().unwrap().strings.len(), if closes { 1 } else { 9 });
        }
    }

    #[test]
    fn z7_a_segment_closes_when_its_records_would_outgrow_the_answer() {
        // Three records of 13 + 6 + 100 octets.
        for (room, in_segment) in [(3 * 119 - 1, 2), (3 * 119, 3), (4 * 119 - 1, 3)] {
            let mut packer = Packer::new(PackLimits { records_octets_max: room, ..LIMITS });
            for _ in 0..in_segment {
                assert_eq!(packer.push(&[b'x'; 100]), None);
            }
            let closed = packer.push(&[b'y'; 100]).unwrap();
            assert_eq!(closed.strings.len(), in_segment);
            let mut records = Vec::new();
            for string in &closed.strings {
                crate::wire::write_txt_record(&mut records, 10, string);
            }
            assert_eq!(records.len(), in_segment * 119);
        }
    }

    #[test]
    fn a_text_larger_than_a_segment_stands_alone() {
        let mut packer = Packer::new(PackLimits { segment_octets_max: 100, ..LIMITS });
        assert_eq!(packer.push(&[b'x'; 244]), None);
        assert_eq!(packer.push(&[b'y'; 244]).unwrap().strings.len(), 1);
    }

    #[test]
    fn segments_are_reassembled_from_any_order() {
        let shuffled = strings(&["002'''AAA", "000'''AA", "001'''nB", "002'''AAA"]);
        let segment = Reassembled::from_strings(&shuffled, &*base91());
        assert_eq!(segment.packets, [Some(vec![0]), Some(vec![0x82]), Some(vec![0, 0])]);
        assert_eq!(segment.damaged, 0);
    }

    #[test]
    fn damage_stays_at_its_place() {
        for (damaged, bad) in [
            ("001'''A-", "a character outside the alphabet"),
            ("001''AA", "a short separator"),
            ("1'''AA", "an index of one digit"),
            ("x01'''AA", "an index that is no number"),
            ("000'''nB", "a second text with index 0"),
            ("999'''AA", "an index out of reach"),
            ("99999999999999999999'''AA", "an index beyond all integers"),
            ("", "nothing"),
        ] {
            let segment =
                Reassembled::from_strings(&strings(&["000'''AA", damaged, "002'''AA"]), &*base91());
            assert_eq!(segment.packets.len(), 3, "{bad}");
            assert!(segment.damaged >= 1, "{bad}");
            assert_eq!(segment.packets[1], None, "{bad}");
            assert_eq!(segment.packets[2], Some(vec![0]), "{bad}");
        }
    }

    #[test]
    fn lists_are_read_back_and_never_too_long() {
        for (oldest, count) in [
            (0, 1),
            (17_000_000_000, 2),
            (17_000_000_000, 75),
            (17_000_000_000, 1000),
            ((1 << 63) - 500, 1000),
            (SEQUENCE_MAX - 999, 1000),
        ] {
            let (text, left_out) = encode_list(oldest, oldest + (count - 1));
            assert!(text.len() <= STRING_OCTETS_MAX, "{count} from {oldest}: {}", text.len());
            let numbers = decode_list(&text).unwrap();
            assert!(numbers.iter().copied().eq(oldest + left_out..=oldest + (count - 1)));
            assert_eq!(left_out > 0, count == 1000);
            assert!(numbers.len() >= count.min(75) as usize);
        }
        // However large the window is, no more is tried than could fit.
        for oldest in [0, 900, 17_000_000_000, 1 << 63] {
            let (text, left_out) = encode_list(oldest, oldest + 1_000_000);
            let listed = 1_000_001 - left_out;
            assert!((75..LIST_NUMBERS_MAX * 2 / 3).contains(&listed), "{listed} from {oldest}");
            assert_eq!(decode_list(&text).unwrap().len() as u64, listed);
        }
        let (beyond, _) = encode_list(SEQUENCE_MAX, SEQUENCE_MAX + 1);
        assert_eq!(decode_list(&beyond), Err(RecordError::Number));
    }

    #[test]
    fn a_bomb_in_a_list_is_cut_off() {
        let mut compressed = Vec::new();
        let zeros = vec![b'1'; 10_000_000];
        flate2::read::ZlibEncoder::new(&*zeros, Compression::best())
            .read_to_end(&mut compressed)
            .unwrap();
        let mut text = Vec::new();
        base91().encode(&compressed, &mut text);
        assert_eq!(decode_list(&text), Err(RecordError::TooLong));
        assert_eq!(decode_list(b"-"), Err(RecordError::Text));
        assert_eq!(decode_list(b"AAAA"), Err(RecordError::Compression));
    }

    #[test]
    fn numbers_are_canonical() {
        assert_eq!(parse_number(b"18446744073709551615"), Some(u64::MAX));
        for bad in ["18446744073709551616", "007", "+7", "-1", "", " 7", "7a", "00"] {
            assert_eq!(parse_number(bad.as_bytes()), None, "{bad:?}");
        }
        assert_eq!(parse_number(b"0"), Some(0));
    }

    #[test]
    fn config_is_read_back() {
        let value = config().encode();
        assert!(value.is_ascii() && value.starts_with(b"v=1;id=0012abcd;codec=opus;rate=16000;"));
        assert_eq!(ConfigRecord::parse(&value), Ok(config()));
        assert_eq!(config().segment_duration_max(), Duration::from_millis(720));
        let long = ConfigRecord { title: "é".repeat(500), ..config() };
        assert!(long.encode().len() <= STRING_OCTETS_MAX);
    }

    #[test]
    fn config_out_of_range_is_refused() {
        let good = String::from_utf8(config().encode()).unwrap();
        for (from, to, error) in [
            ("v=1", "v=2", RecordError::Version),
            ("rate=16000", "rate=44100", RecordError::Value("rate")),
            ("channels=1", "channels=3", RecordError::Value("channels")),
            ("frame=960", "frame=1921", RecordError::Value("frame")),
            ("frame=960", "frame=39", RecordError::Value("frame")),
            ("frames=12", "frames=0", RecordError::Value("frames")),
            ("id=0012abcd", "id=+012abcd", RecordError::Value("id")),
            ("codec=opus", "codex=opus", RecordError::Missing("codec")),
            ("codec=opus", "codec=op\x1b[2J", RecordError::Value("codec")),
        ] {
            let bad = good.replace(from, to);
            assert_eq!(ConfigRecord::parse(bad.as_bytes()), Err(error), "{to}");
        }
        let reordered = good.replace("v=1;", "v=1;later=x;ttl=7;");
        assert_eq!(ConfigRecord::parse(reordered.as_bytes()).unwrap().ttl, 7);
        let title = percent_decode(b"a%1B%5B2J%zz%");
        assert_eq!(title, "a\u{FFFD}[2J%zz%");
    }

    #[test]
    fn now_is_read_back() {
        let mut now = NowRecord {
            id: u32::MAX,
            first: SEQUENCE_MAX - 1,
            next: SEQUENCE_MAX,
            age: Some(Duration::from_millis(u64::MAX)),
            clock_ms: u64::MAX,
            ended: true,
        };
        for age in [now.age, None] {
            now.age = age;
            let mut value = Vec::new();
            now.write(&mut value);
            assert!(value.len() <= NowRecord::OCTETS_MAX);
            assert_eq!(NowRecord::parse(&value), Ok(now));
        }
        // Found by fuzzing: the listener's next number overflowed.
        now.next = SEQUENCE_MAX + 1;
        let mut value = Vec::new();
        now.write(&mut value);
        assert_eq!(NowRecord::parse(&value), Err(RecordError::Value("next")));
        let backward = b"v=1;id=00000000;first=9;next=8;clock=0";
        assert_eq!(NowRecord::parse(backward), Err(RecordError::Value("first")));
    }
}

//! Packets as ASCII text and back.
//!
//! A TXT record could hold octets, but many a server, resolver and tool on the way handles text
//! only, so each packet travels as printable ASCII, encoded by itself. The default is basE91, the
//! densest; none of the encodings here uses `'`, which ends the index in front of the text.
//!
//! Decoding is strict. Whatever [`Asciializer::decode`] accepts, [`Asciializer::encode`] gives back
//! character for character; so two different texts never stand for one packet, and a text that was
//! cut or changed on its way is noticed wherever the encoding has redundancy to notice it by.
//!
//! | kind | characters for n octets | source |
//! | --- | --- | --- |
//! | `base91` | at most ⌈16 n / 13⌉, at least ⌈8 n / 7⌉ | Joachim Henke, basE91 |
//! | `base85` | ⌈5 n / 4⌉ | alphabet of RFC 1924, padding as in Python's `base64.b85encode` |
//! | `base64` | 4 ⌈n / 3⌉ | RFC 4648 §4, padded |
//! | `base32` | 8 ⌈n / 5⌉ | RFC 4648 §6, padded |
//! | `base16` | 2 n, upper case | RFC 4648 §8 |
//! | `hex` | 2 n, lower case | RFC 4648 §8 |

use base91::{DecodeIterator, EncodeIterator};
use data_encoding::{BASE32, BASE64, DecodeError, DecodeKind, Encoding, HEXLOWER, HEXUPPER};
use std::fmt;
use std::str::FromStr;

/// Turns packets into text and back.
///
/// Both directions append: what the destination holds already stays as it is. Texts are ASCII
/// without `'`.
pub trait Asciializer: Send + Sync {
    /// Appends `packet` as text to `text`. Every packet, the empty one too, has exactly one text.
    fn encode(&self, packet: &[u8], text: &mut Vec<u8>);

    /// Appends the packet that `text` stands for to `packet`.
    ///
    /// # Errors
    /// When no packet is encoded as `text`; `packet` is then as it was.
    fn decode(&self, text: &[u8], packet: &mut Vec<u8>) -> Result<(), AsciiError>;

    /// The largest number n such that every packet of up to n octets is encoded as at most
    /// `text_chars_max` characters.
    fn packet_octets_max(&self, text_chars_max: usize) -> usize;
}

/// The text encodings that a stream may use, by the names of the command line and of the stream's
/// configuration record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AsciiKind {
    /// basE91, the default of the base layer.
    #[default]
    Base91,
    /// base85 with the alphabet of RFC 1924.
    Base85,
    /// base64 of RFC 4648, padded.
    Base64,
    /// base32 of RFC 4648, padded.
    Base32,
    /// base16 of RFC 4648: upper-case hexadecimal.
    Base16,
    /// Lower-case hexadecimal.
    Hex,
}

impl AsciiKind {
    /// Every kind, densest first.
    pub const ALL: [AsciiKind; 6] = [
        AsciiKind::Base91,
        AsciiKind::Base85,
        AsciiKind::Base64,
        AsciiKind::Base32,
        AsciiKind::Base16,
        AsciiKind::Hex,
    ];

    /// The kind's name, as it is written on the command line and in the configuration record.
    pub fn name(self) -> &'static str {
        match self {
            AsciiKind::Base91 => "base91",
            AsciiKind::Base85 => "base85",
            AsciiKind::Base64 => "base64",
            AsciiKind::Base32 => "base32",
            AsciiKind::Base16 => "base16",
            AsciiKind::Hex => "hex",
        }
    }

    /// The encoding itself, which has no state.
    pub fn build(self) -> Box<dyn Asciializer> {
        match self {
            AsciiKind::Base91 => Box::new(Base91),
            AsciiKind::Base85 => Box::new(Base85),
            AsciiKind::Base64 => Box::new(Rfc4648::<3, 4>(BASE64)),
            AsciiKind::Base32 => Box::new(Rfc4648::<5, 8>(BASE32)),
            AsciiKind::Base16 => Box::new(Rfc4648::<1, 2>(HEXUPPER)),
            AsciiKind::Hex => Box::new(Rfc4648::<1, 2>(HEXLOWER)),
        }
    }
}

impl fmt::Display for AsciiKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for AsciiKind {
    type Err = UnknownAscii;

    fn from_str(name: &str) -> Result<AsciiKind, UnknownAscii> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or(UnknownAscii)
    }
}

/// The name is that of no [`AsciiKind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnknownAscii;

impl fmt::Display for UnknownAscii {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "unknown text encoding; there are {}",
            AsciiKind::ALL.map(AsciiKind::name).join(", ")
        )
    }
}

impl std::error::Error for UnknownAscii {}

/// Why a text stands for no packet. `at` counts characters from 0, the text's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AsciiError {
    /// A character that the alphabet lacks.
    Character {
        /// Its place.
        at: usize,
    },
    /// No packet has a text of this length.
    Length {
        /// Where the last group, too short or too long, starts.
        at: usize,
    },
    /// Padding that is missing, of a wrong length, or not at the end.
    Padding {
        /// Where the wrong padding or the group with the wrong padding starts.
        at: usize,
    },
    /// A group of characters that stands for a number beyond the group's octets (base85).
    Overflow {
        /// Where the group starts.
        at: usize,
    },
    /// The octets that this stands for are encoded otherwise: bits beyond the last octet are set,
    /// or a character is missing or too many.
    NonCanonical {
        /// The first character that the encoder would have written otherwise.
        at: usize,
    },
}

impl fmt::Display for AsciiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AsciiError::Character { at } => write!(f, "character outside the alphabet at {at}"),
            AsciiError::Length { at } => write!(f, "wrong length of the text's last group at {at}"),
            AsciiError::Padding { at } => write!(f, "wrong padding at {at}"),
            AsciiError::Overflow { at } => write!(f, "group out of range at {at}"),
            AsciiError::NonCanonical { at } => write!(f, "not as an encoder writes it at {at}"),
        }
    }
}

impl std::error::Error for AsciiError {}

/// Appends `octets` as basE91 to `text`: what the sequence list needs, whatever the packets' own
/// encoding is.
pub fn base91_encode(octets: &[u8], text: &mut Vec<u8>) {
    text.reserve(octets.len() + octets.len() / 13 * 3 + 4);
    EncodeIterator::new(octets.iter().copied()).for_each(|c| text.push(c));
}

/// Appends the octets that the basE91 `text` stands for to `octets`.
///
/// # Errors
/// As [`Asciializer::decode`]; `octets` is then as it was.
pub fn base91_decode(text: &[u8], octets: &mut Vec<u8>) -> Result<(), AsciiError> {
    // The crate skips in silence what the alphabet lacks.
    if let Some(at) = text.iter().position(|&c| BASE91_DIGITS[usize::from(c)] == NO_DIGIT) {
        return Err(AsciiError::Character { at });
    }
    let start = octets.len();
    octets.reserve(text.len());
    DecodeIterator::new(text.iter().copied()).for_each(|octet| octets.push(octet));
    // In front of the last one or two characters, every pair stands for 13 or 14 bits and no other
    // pair for the same. At the end, bits beyond the last octet can be set, or a whole character
    // too many can follow. The encoder itself is the judge, so nothing that it writes can ever be
    // rejected.
    let mut again = EncodeIterator::new(octets[start..].iter().copied());
    let differs = text.iter().position(|&c| again.next() != Some(c));
    let differs = differs.or_else(|| again.next().map(|_| text.len()));
    match differs {
        None => Ok(()),
        Some(at) => {
            octets.truncate(start);
            Err(AsciiError::NonCanonical { at })
        }
    }
}

/// Exercises every encoding with `octets`, as a packet and as a text. The body of a fuzz target.
///
/// # Panics
/// When a packet does not survive being text, when an accepted text is not the one text of its
/// packet, when a text is longer than promised, or when a destination loses what it held.
pub fn fuzz_ascii(octets: &[u8]) {
    const HELD: &[u8] = b"held";
    for kind in AsciiKind::ALL {
        let ascii = kind.build();

        let mut text = HELD.to_vec();
        ascii.encode(octets, &mut text);
        let text = text.strip_prefix(HELD).unwrap_or_else(|| panic!("{kind}: encode overwrote"));
        assert!(text.iter().all(|c| c.is_ascii_graphic() && *c != b'\''), "{kind}: not plain text");
        if let Some(chars) = text.len().checked_sub(1) {
            assert!(ascii.packet_octets_max(chars) < octets.len(), "{kind}: longer than promised");
        }
        let mut packet = HELD.to_vec();
        assert_eq!(ascii.decode(text, &mut packet), Ok(()), "{kind}: own text rejected");
        assert_eq!(packet.strip_prefix(HELD), Some(octets), "{kind}: packet changed");

        let mut packet = HELD.to_vec();
        match ascii.decode(octets, &mut packet) {
            Ok(()) => {
                let packet =
                    packet.strip_prefix(HELD).unwrap_or_else(|| panic!("{kind}: decode overwrote"));
                let mut text = Vec::new();
                ascii.encode(packet, &mut text);
                assert_eq!(text, octets, "{kind}: two texts for one packet");
            }
            Err(_) => assert_eq!(packet, HELD, "{kind}: a rejected text left octets behind"),
        }
    }
}

/// [`AsciiKind::Base91`].
struct Base91;

/// Henke's alphabet: printable ASCII without `'`, `-` and `\`.
const BASE91_ALPHABET: &[u8; 91] =
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$%&()*+,./:;<=>?@[]^_`{|}~\"";
const BASE91_DIGITS: [u8; 256] = digits(BASE91_ALPHABET);

impl Asciializer for Base91 {
    fn encode(&self, packet: &[u8], text: &mut Vec<u8>) {
        base91_encode(packet, text);
    }

    fn decode(&self, text: &[u8], packet: &mut Vec<u8>) -> Result<(), AsciiError> {
        base91_decode(text, packet)
    }

    fn packet_octets_max(&self, text_chars_max: usize) -> usize {
        // Two characters hold 13 bits at least, so ⌈16 n / 13⌉ characters always do for n octets;
        // octets of 0xff need as many. The inverse is ⌊13 chars / 16⌋, here without overflow.
        text_chars_max / 16 * 13 + text_chars_max % 16 * 13 / 16
    }
}

/// [`AsciiKind::Base85`]: five digits, most significant first, for four octets; a shorter last
/// group is filled up with zero octets to encode and with the highest digit to decode, and the
/// filling cut off again, so that r octets have r + 1 characters.
struct Base85;

/// RFC 1924 §4.2, in the order of digits.
const BASE85_ALPHABET: &[u8; 85] =
    b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~";
const BASE85_DIGITS: [u8; 256] = digits(BASE85_ALPHABET);

/// The five characters of up to four octets, most significant first.
fn base85_group(octets: &[u8]) -> [u8; 5] {
    let mut padded = [0; 4];
    padded[..octets.len()].copy_from_slice(octets);
    let mut value = u32::from_be_bytes(padded);
    let mut group = [0; 5];
    for c in group.iter_mut().rev() {
        *c = BASE85_ALPHABET[(value % 85) as usize];
        value /= 85;
    }
    group
}

impl Asciializer for Base85 {
    fn encode(&self, packet: &[u8], text: &mut Vec<u8>) {
        text.reserve(packet.len().div_ceil(4) * 5);
        for octets in packet.chunks(4) {
            text.extend_from_slice(&base85_group(octets)[..octets.len() + 1]);
        }
    }

    fn decode(&self, text: &[u8], packet: &mut Vec<u8>) -> Result<(), AsciiError> {
        let start = packet.len();
        packet.reserve(text.len().div_ceil(5) * 4);
        let decoded = text.chunks(5).enumerate().try_for_each(|(group, chars)| {
            let at = group * 5;
            let mut value = 0u64;
            for index in 0..5 {
                let digit = match chars.get(index) {
                    Some(&c) if BASE85_DIGITS[usize::from(c)] == NO_DIGIT => {
                        return Err(AsciiError::Character { at: at + index });
                    }
                    Some(&c) => BASE85_DIGITS[usize::from(c)],
                    None => 84,
                };
                value = value * 85 + u64::from(digit);
            }
            if chars.len() == 1 {
                return Err(AsciiError::Length { at });
            }
            let value = u32::try_from(value).map_err(|_| AsciiError::Overflow { at })?;
            let octets = &value.to_be_bytes()[..chars.len() - 1];
            // Only a short group can stand for its octets in more than one way.
            let group = base85_group(octets);
            if let Some(index) = chars.iter().zip(group).position(|(&c, canonical)| c != canonical)
            {
                return Err(AsciiError::NonCanonical { at: at + index });
            }
            packet.extend_from_slice(octets);
            Ok(())
        });
        if decoded.is_err() {
            packet.truncate(start);
        }
        decoded
    }

    fn packet_octets_max(&self, text_chars_max: usize) -> usize {
        text_chars_max / 5 * 4 + (text_chars_max % 5).saturating_sub(1)
    }
}

/// The padded encodings of RFC 4648: `OCTETS` octets are `CHARS` characters.
struct Rfc4648<const OCTETS: usize, const CHARS: usize>(Encoding);

impl<const OCTETS: usize, const CHARS: usize> Asciializer for Rfc4648<OCTETS, CHARS> {
    fn encode(&self, packet: &[u8], text: &mut Vec<u8>) {
        let start = text.len();
        text.resize(start + self.0.encode_len(packet.len()), 0);
        self.0.encode_mut(packet, &mut text[start..]);
    }

    fn decode(&self, text: &[u8], packet: &mut Vec<u8>) -> Result<(), AsciiError> {
        // `at` is where the failed group starts or the wrong character is.
        let error = |DecodeError { position: at, kind }| match kind {
            DecodeKind::Length => AsciiError::Length { at },
            DecodeKind::Symbol => AsciiError::Character { at },
            DecodeKind::Trailing => AsciiError::NonCanonical { at },
            DecodeKind::Padding => AsciiError::Padding { at },
        };
        let octets = self.0.decode_len(text.len()).map_err(error)?;
        // The crate takes padded texts one after the other for one text; we do not.
        let padding = text.iter().position(|&c| c == b'=');
        if let Some(at) = padding.filter(|at| CHARS > 2 && at / CHARS + 1 < text.len() / CHARS) {
            return Err(AsciiError::Padding { at });
        }
        let start = packet.len();
        packet.resize(start + octets, 0);
        match self.0.decode_mut(text, &mut packet[start..]) {
            Ok(octets) => {
                packet.truncate(start + octets);
                Ok(())
            }
            Err(partial) => {
                packet.truncate(start);
                Err(error(partial.error))
            }
        }
    }

    fn packet_octets_max(&self, text_chars_max: usize) -> usize {
        text_chars_max / CHARS * OCTETS
    }
}

/// Marks a character outside the alphabet in a table made by [`digits`].
const NO_DIGIT: u8 = u8::MAX;

/// The value of every character as a digit of `alphabet`.
const fn digits(alphabet: &[u8]) -> [u8; 256] {
    let mut digits = [NO_DIGIT; 256];
    let mut digit = 0;
    while digit < alphabet.len() {
        digits[alphabet[digit] as usize] = digit as u8;
        digit += 1;
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(kind: AsciiKind, packet: &[u8]) -> String {
        let mut text = Vec::new();
        kind.build().encode(packet, &mut text);
        String::from_utf8(text).expect("texts are ASCII")
    }

    fn decode(kind: AsciiKind, text: &str) -> Result<Vec<u8>, AsciiError> {
        let mut packet = Vec::new();
        kind.build().decode(text.as_bytes(), &mut packet).map(|()| packet)
    }

    /// xorshift64*, as good as a test needs.
    fn noise(seed: u64, octets: usize) -> Vec<u8> {
        let mut state = seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut next = || {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56) as u8
        };
        (0..octets).map(|_| next()).collect()
    }

    #[test]
    fn names_lead_to_kinds_and_back() {
        for kind in AsciiKind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
            assert_eq!(kind.to_string(), kind.name());
            assert!(UnknownAscii.to_string().contains(kind.name()));
        }
        assert_eq!(AsciiKind::default(), AsciiKind::Base91);
        assert_eq!("Base91".parse::<AsciiKind>(), Err(UnknownAscii));
        assert_eq!("base92".parse::<AsciiKind>(), Err(UnknownAscii));
    }

    #[test]
    fn known_texts() {
        // RFC 4648 §10; Python 3.11 base64.b85encode; the base91 crate's and PyPI base91's own
        // example.
        let pairs: [(AsciiKind, &[u8], &str); 20] = [
            (AsciiKind::Base91, b"", ""),
            (AsciiKind::Base91, b"test", "fPNKd"),
            (AsciiKind::Base91, b"\xff\xff", "B\"H"),
            (AsciiKind::Base85, b"", ""),
            (AsciiKind::Base85, b"f", "W&"),
            (AsciiKind::Base85, b"foo", "W^Zo"),
            (AsciiKind::Base85, b"foob", "W^Zp|"),
            (AsciiKind::Base85, b"foobar", "W^Zp|VR8"),
            (AsciiKind::Base85, b"\xff\xff\xff\xff\xff", "|NsC0{{"),
            (AsciiKind::Base85, b"\0\0\0\0\0", "0000000"),
            (AsciiKind::Base64, b"", ""),
            (AsciiKind::Base64, b"f", "Zg=="),
            (AsciiKind::Base64, b"fo", "Zm8="),
            (AsciiKind::Base64, b"foobar", "Zm9vYmFy"),
            (AsciiKind::Base32, b"f", "MY======"),
            (AsciiKind::Base32, b"foob", "MZXW6YQ="),
            (AsciiKind::Base32, b"foobar", "MZXW6YTBOI======"),
            (AsciiKind::Base16, b"foo\xff", "666F6FFF"),
            (AsciiKind::Hex, b"foo\xff", "666f6fff"),
            (AsciiKind::Hex, b"", ""),
        ];
        for (kind, packet, text) in pairs {
            assert_eq!(encode(kind, packet), text, "{kind}");
            assert_eq!(decode(kind, text).as_deref(), Ok(packet), "{kind}");
        }
    }

    #[test]
    fn wrong_texts_are_refused_at_their_place() {
        use AsciiError::{Character, Length, NonCanonical, Overflow, Padding};
        let wrong = [
            (AsciiKind::Base91, "fPN'd", Character { at: 3 }),
            (AsciiKind::Base91, "-", Character { at: 0 }),
            (AsciiKind::Base91, "fPNK\\", Character { at: 4 }),
            (AsciiKind::Base91, "fPNK\u{e9}", Character { at: 4 }),
            // An octet with a bit beyond it ("RB" is 108, this 108 + 256), and one cut short.
            (AsciiKind::Base91, "AE", NonCanonical { at: 0 }),
            (AsciiKind::Base91, "B", NonCanonical { at: 1 }),
            (AsciiKind::Base85, "W^Z p", Character { at: 3 }),
            (AsciiKind::Base85, "W^Zp{\"", Character { at: 5 }),
            (AsciiKind::Base85, "W", Length { at: 0 }),
            (AsciiKind::Base85, "W^Zp{W", Length { at: 5 }),
            (AsciiKind::Base85, "|NsC1", Overflow { at: 0 }),
            (AsciiKind::Base85, "W^Zp{~~~~", Overflow { at: 5 }),
            (AsciiKind::Base85, "W^Zp{W'", Character { at: 6 }),
            (AsciiKind::Base85, "W^Zp{W(", NonCanonical { at: 6 }),
            (AsciiKind::Base64, "Zg=", Length { at: 0 }),
            (AsciiKind::Base64, "Zm9vZ", Length { at: 4 }),
            (AsciiKind::Base64, "Zm9-", Character { at: 3 }),
            (AsciiKind::Base64, "Zh==", NonCanonical { at: 1 }),
            (AsciiKind::Base64, "Z===", Padding { at: 1 }),
            (AsciiKind::Base64, "====", Padding { at: 0 }),
            (AsciiKind::Base64, "Zg==Zg==", Padding { at: 2 }),
            (AsciiKind::Base64, "Zg==Zm9v", Padding { at: 2 }),
            (AsciiKind::Base32, "MY", Length { at: 0 }),
            (AsciiKind::Base32, "MZ======", NonCanonical { at: 1 }),
            (AsciiKind::Base32, "my======", Character { at: 0 }),
            (AsciiKind::Base32, "MYA=====", Padding { at: 3 }),
            (AsciiKind::Base16, "666", Length { at: 2 }),
            (AsciiKind::Base16, "6f", Character { at: 1 }),
            (AsciiKind::Base16, "6=", Character { at: 1 }),
            (AsciiKind::Hex, "6F", Character { at: 1 }),
            (AsciiKind::Hex, "==66", Character { at: 0 }),
        ];
        for (kind, text, error) in wrong {
            assert_eq!(decode(kind, text), Err(error), "{kind} {text}");
            let mut held = b"held".to_vec();
            assert_eq!(kind.build().decode(text.as_bytes(), &mut held), Err(error));
            assert_eq!(held, b"held", "{kind} {text}");
        }
    }

    #[test]
    fn packet_octets_max_is_exact() {
        for kind in AsciiKind::ALL {
            let ascii = kind.build();
            let mut worst = Vec::new();
            for octets in 0..1_000 {
                // Octets of 0xff are the worst that basE91 can meet; elsewhere only the length
                // counts.
                worst.clear();
                ascii.encode(&vec![0xff; octets], &mut worst);
                assert!(ascii.packet_octets_max(worst.len()) >= octets, "{kind} {octets}");
                if let Some(shorter) = worst.len().checked_sub(1) {
                    assert!(ascii.packet_octets_max(shorter) < octets, "{kind} {octets}");
                }
                let chars = worst.len();
                for seed in 0..3 {
                    assert!(
                        encode(kind, &noise(seed * 1_000 + octets as u64, octets)).len() <= chars
                    );
                }
            }
            assert_eq!(ascii.packet_octets_max(0), 0);
            assert!(ascii.packet_octets_max(usize::MAX) >= usize::MAX / 2);
        }
        // The sum that the server's default limits rest on.
        assert_eq!(AsciiKind::Base91.build().packet_octets_max(244), 198);
        assert_eq!(AsciiKind::Base85.build().packet_octets_max(244), 195);
        assert_eq!(AsciiKind::Base64.build().packet_octets_max(244), 183);
        assert_eq!(AsciiKind::Base32.build().packet_octets_max(244), 150);
        assert_eq!(AsciiKind::Hex.build().packet_octets_max(244), 122);
    }

    #[test]
    fn every_text_of_up_to_two_characters() {
        fuzz_ascii(&[]);
        for a in 0..=255 {
            fuzz_ascii(&[a]);
            for b in 0..=255 {
                fuzz_ascii(&[a, b]);
            }
        }
    }

    #[test]
    fn noise_and_texts_of_noise() {
        for seed in 0..400 {
            let packet = noise(seed, seed as usize);
            fuzz_ascii(&packet);
            for kind in AsciiKind::ALL {
                // The text itself, cut, longer, and with one character changed.
                let mut text = encode(kind, &packet).into_bytes();
                fuzz_ascii(&text);
                text.push(text.first().copied().unwrap_or(b'A'));
                fuzz_ascii(&text);
                text.truncate(seed as usize / 2);
                fuzz_ascii(&text);
                if let Some(c) = text.last_mut() {
                    *c = seed as u8;
                }
                fuzz_ascii(&text);
            }
        }
    }
}

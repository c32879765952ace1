//! Server cookies: proof that a client receives what is sent to its address (RFC 7873, RFC 9018).

use siphasher::sip::SipHasher24;
use std::fmt;
use std::hash::Hasher;
use std::net::IpAddr;
use std::str::FromStr;

/// Octets of a server cookie behind the client's eight (RFC 9018 §4).
pub const SERVER_COOKIE_OCTETS: usize = 16;
/// Octets of a client cookie (RFC 7873 §4).
pub const CLIENT_COOKIE_OCTETS: usize = 8;

/// Secrets for server cookies (RFC 9018 §4.4): a current one, and the one before it while clients
/// may still hold cookies made with it.
#[derive(Clone, PartialEq, Eq)]
pub struct CookieSecrets {
    /// Makes and checks cookies.
    pub current: [u8; 16],
    /// Checks cookies.
    pub previous: Option<[u8; 16]>,
}

/// As far as a log may go.
impl fmt::Debug for CookieSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let previous = if self.previous.is_some() { " and a previous one" } else { "" };
        write!(f, "CookieSecrets(a current one{previous})")
    }
}

/// Why a text holds no secrets for cookies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretsError {
    /// The line of this number is no secret.
    Line(usize),
    /// There is none.
    None,
    /// There are more than two.
    More,
}

impl fmt::Display for SecretsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretsError::Line(line) => write!(f, "line {line} is not 32 hexadecimal digits"),
            SecretsError::None => f.write_str("no secret of 32 hexadecimal digits in it"),
            SecretsError::More => {
                f.write_str("more than two secrets, the current and the previous")
            }
        }
    }
}

impl std::error::Error for SecretsError {}

/// The current secret and, on a second line, the previous one, each as 32 hexadecimal digits. Empty
/// lines and those that begin with `#` do not count.
impl FromStr for CookieSecrets {
    type Err = SecretsError;

    fn from_str(text: &str) -> Result<CookieSecrets, SecretsError> {
        let lines = text.lines().map(str::trim).zip(1..);
        let lines = lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#'));
        let mut secrets = lines.map(|(line, number)| {
            let digits = line.len() == 32 && line.bytes().all(|octet| octet.is_ascii_hexdigit());
            let secret = u128::from_str_radix(line, 16).ok().filter(|_| digits);
            secret.map(u128::to_be_bytes).ok_or(SecretsError::Line(number))
        });
        let current = secrets.next().ok_or(SecretsError::None)??;
        let previous = secrets.next().transpose()?;
        match secrets.next() {
            Some(_) => Err(SecretsError::More),
            None => Ok(CookieSecrets { current, previous }),
        }
    }
}

/// What is known of a valid server cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// Young enough to be kept.
    Fresh,
    /// Valid, but old enough to be replaced.
    Old,
}

impl CookieSecrets {
    /// The server cookie for `client` at `address` (RFC 9018 §4): version, reserved, time, hash.
    pub(super) fn make(
        secret: &[u8; 16],
        client: &[u8; CLIENT_COOKIE_OCTETS],
        time: u32,
        address: IpAddr,
    ) -> [u8; SERVER_COOKIE_OCTETS] {
        let mut cookie = [0; SERVER_COOKIE_OCTETS];
        cookie[0] = 1;
        cookie[4..8].copy_from_slice(&time.to_be_bytes());
        let mut hasher = SipHasher24::new_with_key(secret);
        hasher.write(client);
        hasher.write(&cookie[..8]);
        match address {
            IpAddr::V4(v4) => hasher.write(&v4.octets()),
            IpAddr::V6(v6) => hasher.write(&v6.octets()),
        }
        cookie[8..].copy_from_slice(&hasher.finish().to_le_bytes());
        cookie
    }

    /// Whether `server` is a cookie of ours for this client, made within the last hour. Times are
    /// compared in serial arithmetic (RFC 9018 §4.3).
    pub(super) fn check(
        &self,
        client: &[u8; CLIENT_COOKIE_OCTETS],
        server: &[u8],
        address: IpAddr,
        now: u32,
    ) -> Option<Validity> {
        let server: &[u8; SERVER_COOKIE_OCTETS] = server.try_into().ok()?;
        let time = u32::from_be_bytes([server[4], server[5], server[6], server[7]]);
        let age = now.wrapping_sub(time) as i32;
        if server[..4] != [1, 0, 0, 0] || !(-300..=3600).contains(&age) {
            return None;
        }
        let secrets = std::iter::once(&self.current).chain(&self.previous);
        let ours = secrets.map(|secret| Self::make(secret, client, time, address));
        // The hash is compared whole, without an early end.
        let equal = |made: [u8; SERVER_COOKIE_OCTETS]| {
            made.iter().zip(server).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
        };
        let mut valid = false;
        ours.for_each(|made| valid |= equal(made));
        valid.then_some(if age <= 1800 { Validity::Fresh } else { Validity::Old })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cookie_of_rfc_9018_appendix_a1_is_made() {
        let secret = u128::from_str_radix("e5e973e5a6b2a43f48e7dc849e37bfcf", 16).unwrap();
        let client = u64::from_str_radix("2464c4abcf10c957", 16).unwrap().to_be_bytes();
        let address = IpAddr::from([198, 51, 100, 100]);
        let made = CookieSecrets::make(&secret.to_be_bytes(), &client, 1_559_731_985, address);
        let expected = u128::from_str_radix("010000005cf79f111f8130c3eee29480", 16).unwrap();
        assert_eq!(made, expected.to_be_bytes());
    }

    #[test]
    fn secrets_are_read_from_lines_of_digits() {
        let (one, two) = ("e5e973e5a6b2a43f48e7dc849e37bfcf", "00000000000000000000000000000001");
        let read = |text: &str| text.parse::<CookieSecrets>();
        let (first, second) =
            (u128::from_str_radix(one, 16).unwrap().to_be_bytes(), 1u128.to_be_bytes());
        let alone = CookieSecrets { current: first, previous: None };
        assert_eq!(read(&format!("# ours\r\n\n  {}\n", one.to_uppercase())), Ok(alone));
        let both = CookieSecrets { current: first, previous: Some(second) };
        assert_eq!(read(&format!("{one}\n{two}")), Ok(both.clone()));
        for (text, error) in [
            ("", SecretsError::None),
            ("# nothing\n", SecretsError::None),
            (&one[1..], SecretsError::Line(1)),
            (&format!("+{}", &one[1..]), SecretsError::Line(1)),
            (&format!("{one}\n\n{two}0"), SecretsError::Line(3)),
            (&format!("{one}\n{two}\n{one}"), SecretsError::More),
        ] {
            assert_eq!(read(text), Err(error), "{text}");
        }
        let shown = format!("{both:?}");
        assert!(!shown.contains("229") && !shown.contains("e5"), "{shown}");
    }
}

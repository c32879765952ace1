//! Words of the command line as values: numbers, times, addresses. Each says what would be right.

use aodns::codec::CodecKind;
use aodns::responder::limit::Prefix;
use aodns::wire::Name;
use aodns::zone::NameServer;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

/// Puts a value into its place, or passes on why it is none.
pub fn put<T>(place: &mut Option<T>, value: Result<T, String>) -> Result<(), String> {
    *place = Some(value?);
    Ok(())
}

/// Adds a value to others, or passes on why it is none.
pub fn add<T>(place: &mut Vec<T>, value: Result<T, String>) -> Result<(), String> {
    place.push(value?);
    Ok(())
}

/// A whole number in a range.
pub fn number<T>(word: &str, range: RangeInclusive<T>) -> Result<T, String>
where
    T: FromStr + PartialOrd + Display,
{
    let wrong = || format!("a whole number of {} to {} is needed", range.start(), range.end());
    if !word.bytes().all(|octet| octet.is_ascii_digit()) {
        return Err(wrong());
    }
    word.parse().ok().filter(|number| range.contains(number)).ok_or_else(wrong)
}

/// What reads itself and says itself what would be right.
pub fn word<T>(word: &str) -> Result<T, String>
where
    T: FromStr<Err: Display>,
{
    word.parse().map_err(|error: T::Err| error.to_string())
}

/// A time in seconds, whole or decimal.
pub fn seconds(word: &str, range: RangeInclusive<f64>) -> Result<Duration, String> {
    let plain = word.bytes().all(|octet| octet.is_ascii_digit() || octet == b'.');
    let value = word.parse().ok().filter(|value: &f64| plain && range.contains(value));
    value.map(Duration::from_secs_f64).ok_or_else(|| {
        format!("a time of {} to {} seconds is needed, such as 1.5", range.start(), range.end())
    })
}

/// A name server of the zone with at most one address: `NAME` or `NAME=ADDR`.
pub fn name_server(word: &str) -> Result<NameServer, String> {
    let (name, address) = match word.split_once('=') {
        Some((name, address)) => (name, Some(address)),
        None => (word, None),
    };
    let name = name.parse().map_err(|error| format!("{name:?} is no domain name: {error}"))?;
    let address = address.map(|address| {
        address.parse().map_err(|_| format!("{address:?} is no address such as 192.0.2.1"))
    });
    let addresses = address.transpose()?.into_iter().collect();
    Ok(NameServer { name, addresses })
}

/// The domain of a stream.
pub fn root(word: &str) -> Result<Name, String> {
    word.parse().map_err(|error| {
        let shown = super::console::escape(word);
        let other = if word.is_ascii() { "" } else { "; write it in its xn-- form" };
        format!("\"{shown}\" is no domain name such as music.example.com: {error}{other}")
    })
}

/// An address prefix.
pub fn prefix(text: &str) -> Result<Prefix, String> {
    word(text)
}

/// An address to listen on, with a port of its own or without.
pub fn listen_address(word: &str) -> Result<(IpAddr, Option<u16>), String> {
    if let Some(address) = plain_address(word)? {
        return Ok((address, None));
    }
    match word.parse::<SocketAddr>() {
        Ok(address) => Ok((address.ip(), Some(address.port()))),
        Err(_) => {
            Err("an address is needed, such as 192.0.2.1, 192.0.2.1:5053, [::] or [::]:5053".into())
        }
    }
}

/// An address without a port; an error for one of IPv6 without brackets, of which nobody can tell
/// where it ends.
fn plain_address(word: &str) -> Result<Option<IpAddr>, String> {
    let inner = word.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if let Some(Ok(v6)) = inner.map(|inner| inner.parse()) {
        return Ok(Some(IpAddr::V6(v6)));
    }
    match word.parse() {
        Ok(IpAddr::V6(v6)) => {
            Err(format!("an IPv6 address goes in brackets: [{v6}], or [{v6}]:53 with a port"))
        }
        Ok(v4) => Ok(Some(v4)),
        Err(_) => Ok(None),
    }
}

/// A server to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The name servers of /etc/resolv.conf.
    System,
    /// A host by name or address, with a port of its own or without.
    Host(String, Option<u16>),
}

/// `192.0.2.1`, `192.0.2.1:5353`, `[2001:db8::1]`, `[2001:db8::1]:5353`, `ns.example.com`,
/// `ns.example.com:5353` or `system`.
pub fn server(word: &str) -> Result<Asked, String> {
    let shown = super::console::escape(word);
    let wrong = |why: &str| {
        format!(
            "\"{shown}\" is no server: {why}; write 192.0.2.1, ns.example.com:5053, [2001:db8::1]:53 \
             or system"
        )
    };
    if word == "system" {
        return Ok(Asked::System);
    }
    if let Some(address) = plain_address(word).map_err(|why| wrong(&why))? {
        return Ok(Asked::Host(address.to_string(), None));
    }
    if let Ok(address) = word.parse::<SocketAddr>() {
        return match address.port() {
            0 => Err(wrong("there is no port 0")),
            port => Ok(Asked::Host(address.ip().to_string(), Some(port))),
        };
    }
    let (host, port) = match word.rsplit_once(':') {
        Some((host, port)) => {
            let port = number::<u16>(port, 1..=u16::MAX);
            (host, Some(port.map_err(|_| wrong("a port is a number of 1 to 65535"))?))
        }
        None => (word, None),
    };
    let dotted = host.bytes().all(|octet| octet.is_ascii_digit() || octet == b'.');
    match host.parse::<Name>() {
        // What consists of digits is a mistyped address, not a name.
        Ok(_) if !dotted => Ok(Asked::Host(host.to_owned(), port)),
        Ok(_) => Err(wrong("an IPv4 address has four numbers of 0 to 255")),
        Err(error) => Err(wrong(&error.to_string())),
    }
}

/// What is wrong with choosing this codec, if it is not part of this build.
pub fn codec_missing(kind: CodecKind) -> Option<String> {
    let feature = if kind == CodecKind::Opus { "opus" } else { "codec2" };
    (!kind.is_built()).then(|| {
        format!("--codec {kind}: this build cannot do that; build it with `--features {feature}`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_held_to_their_range() {
        assert_eq!(number("10", 1..=10u8), Ok(10));
        for wrong in ["0", "11", "256", "-1", "+1", "", "1.0", "x"] {
            let error = number(wrong, 1..=10u8).unwrap_err();
            assert_eq!(error, "a whole number of 1 to 10 is needed", "{wrong}");
        }
    }

    #[test]
    fn times_are_finite() {
        assert_eq!(seconds("1.5", 0.1..=60.0), Ok(Duration::from_millis(1500)));
        for wrong in ["nan", "inf", "-1", "1e3", "", ".", "0", "61", "soon"] {
            assert!(seconds(wrong, 0.1..=60.0).is_err(), "{wrong}");
        }
    }

    #[test]
    fn servers_are_hosts_with_or_without_ports() {
        let host = |host: &str, port| Ok(Asked::Host(host.into(), port));
        assert_eq!(server("system"), Ok(Asked::System));
        assert_eq!(server("192.0.2.1"), host("192.0.2.1", None));
        assert_eq!(server("192.0.2.1:5053"), host("192.0.2.1", Some(5053)));
        assert_eq!(server("[2001:db8::1]"), host("2001:db8::1", None));
        assert_eq!(server("[2001:db8::1]:54"), host("2001:db8::1", Some(54)));
        assert_eq!(server("ns.example.com"), host("ns.example.com", None));
        assert_eq!(server("ns.example.com:54"), host("ns.example.com", Some(54)));
        assert_eq!(server("localhost"), host("localhost", None));
        for wrong in ["", ":53", "a:b", "1.2.3", "1.2.3.4:0", "x:0", "x:70000", "a..b", "[::1"] {
            assert!(server(wrong).unwrap_err().contains("or system"), "{wrong}");
        }
        assert!(server("::1").unwrap_err().contains("in brackets: [::1]"));
    }

    #[test]
    fn listening_takes_addresses_alone() {
        let any6: IpAddr = "::".parse().unwrap();
        assert_eq!(listen_address("[::]"), Ok((any6, None)));
        assert_eq!(listen_address("[::]:0"), Ok((any6, Some(0))));
        assert_eq!(listen_address("127.0.0.1"), Ok(([127, 0, 0, 1].into(), None)));
        assert!(listen_address("localhost").is_err());
        assert!(listen_address("::").unwrap_err().contains("brackets"));
    }

    #[test]
    fn name_servers_come_with_or_without_an_address() {
        let server = name_server("ns.example.com=192.0.2.1").unwrap();
        assert_eq!(server.addresses, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
        assert!(name_server("ns.example.com").unwrap().addresses.is_empty());
        assert!(name_server("ns.example.com=x").unwrap_err().contains("such as 192.0.2.1"));
        assert!(name_server("n s").unwrap_err().contains("no domain name"));
    }
}

//! The `dig` listing in the description that the project starts from, as strings.

/// The TXT strings of a listing, in its order.
pub fn strings(listing: &str) -> Vec<Vec<u8>> {
    let answers = listing.lines().filter(|line| line.contains(" IN TXT "));
    let strings = answers.map(|line| {
        let (_, quoted) = line.split_once("TXT").expect("a TXT record");
        let quoted = quoted.trim().strip_prefix('"').and_then(|quoted| quoted.strip_suffix('"'));
        unescape(quoted.expect("one string in quotes"))
    });
    strings.collect()
}

/// Undoes RFC 1035 §5.1: `\DDD` and `\X`.
pub fn unescape(text: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        match (first, rest) {
            (b'\\', [a @ b'0'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', after @ ..]) => {
                octets.push((a - b'0') * 100 + (b - b'0') * 10 + (c - b'0'));
                rest = after;
            }
            (b'\\', [literal, after @ ..]) => {
                octets.push(*literal);
                rest = after;
            }
            _ => octets.push(*first),
        }
    }
    octets
}

//! Whatever a server answers, a listener does not flood it: questions a second in simulated time, with
//! answers that come at once and are of no use, to all questions or to those for segments alone.

use aodns::fetch::{Fetcher, Route};
use aodns::follow::{Follower, StreamParameters};
use aodns::lookup::RetryPolicy;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const SEGMENT: Duration = Duration::from_millis(720);

/// What comes back for a question over UDP.
#[derive(Clone, Copy, Debug)]
enum Reply {
    /// This response code, and the authority section of a denial with a TTL of 0.
    Rcode(u16),
    /// A truncated response.
    Truncated,
    /// A TXT record with these octets.
    Text(&'static [u8]),
    /// Octets that are no message.
    Garbage,
    /// The question itself.
    Echo,
    /// Nothing.
    Silence,
}

/// What comes of a connection.
#[derive(Clone, Copy, Debug)]
enum Tcp {
    Refused,
    /// It is closed as soon as something is asked.
    Closed,
    Silent,
    /// It is answered like UDP.
    Answered,
}

/// What happens next.
enum Happening {
    Datagram { lookup: u64, message: Vec<u8> },
    Stream { server: usize, link: usize, message: Vec<u8> },
    Closed { server: usize, link: usize, connected: bool },
}

struct Server {
    reply: Reply,
    tcp: Tcp,
    /// Whether `config` and `now_` are answered properly.
    describes: bool,
    begun: Instant,
}

impl Server {
    fn answer(&self, message: &[u8], now: Instant) -> Option<Vec<u8>> {
        let length = usize::from(message[12]);
        let label = String::from_utf8_lossy(&message[13..13 + length]).to_lowercase();
        let name = message[12..].iter().position(|&octet| octet == 0).expect("a name");
        let end = 12 + name + 1 + 4;
        let respond = |flags: u16, text: Option<&[u8]>, denied: bool| {
            let mut out = message[..end].to_vec();
            out[2..4].copy_from_slice(&flags.to_be_bytes());
            out[6..12].copy_from_slice(&[0, u8::from(text.is_some()), 0, u8::from(denied), 0, 0]);
            if let Some(text) = text {
                out.extend([0xC0, 12, 0, 16, 0, 1, 0, 0, 0, 0, 0, text.len() as u8 + 1]);
                out.push(text.len() as u8);
                out.extend(text);
            }
            if denied {
                out.extend([0xC0, 12, 0, 6, 0, 1, 0, 0, 0, 0, 0, 22, 0, 0]);
                out.extend([0; 20]);
            }
            Some(out)
        };
        let passed = now - self.begun;
        if self.describes && label == "config" {
            let text = "v=1;id=56a36e64;codec=opus;rate=16000;channels=1;frame=960;ascii=base91;frames=12;\
                        ttl=60;window=75";
            return respond(0x8400, Some(text.as_bytes()), false);
        }
        if self.describes && label.starts_with("now_") {
            let next = 1000 + passed.as_millis() / SEGMENT.as_millis();
            let age = passed.as_millis() % SEGMENT.as_millis();
            let text =
                format!("v=1;id=56a36e64;first=900;next={next};age={age};clock=1795881495315");
            return respond(0x8400, Some(text.as_bytes()), false);
        }
        match self.reply {
            Reply::Rcode(rcode) => respond(0x8400 | rcode, None, matches!(rcode, 0 | 3)),
            Reply::Truncated => respond(0x8600, None, false),
            Reply::Text(text) => respond(0x8400, Some(text), false),
            Reply::Garbage => Some(vec![0xFF; 40]),
            Reply::Echo => Some(message.to_vec()),
            Reply::Silence => None,
        }
    }
}

/// Messages that are sent in the first ten seconds and in the fifty after that to `servers` like this one.
fn asked(server: &Server, servers: usize) -> (usize, usize) {
    let begun = server.begun;
    let follower = Follower::new(StreamParameters::default(), None, 7, begun);
    let root = "a.example".parse().expect("a name");
    let mut fetcher = Fetcher::new(root, RetryPolicy::default(), follower, vec![[1; 8]; servers]);
    let mut coming: BTreeMap<(Instant, u64), Happening> = BTreeMap::new();
    let (mut now, mut number, mut turns) = (begun, 0x9E37_79B9_7F4A_7C15_u64, 0);
    let mut sent = Vec::new();
    while now < begun + 60 * SECOND {
        turns += 1;
        assert!(turns < 200_000, "it turns and turns at {:?}", now - begun);
        while let Some(entry) = coming.first_entry().filter(|entry| entry.key().0 <= now) {
            match entry.remove() {
                Happening::Datagram { lookup, message } => {
                    if fetcher.is_waiting(lookup) {
                        fetcher.handle_datagram(now, lookup, &message);
                    }
                }
                Happening::Stream { server, link, message } => {
                    fetcher.handle_stream(now, server, link, &message);
                }
                Happening::Closed { server, link, connected } => {
                    fetcher.handle_closed(now, server, link, connected);
                }
            }
        }
        fetcher.handle_timeout(now);
        let mut next = || {
            number ^= number << 13;
            number ^= number >> 7;
            number ^= number << 17;
            number
        };
        let mut key = 0;
        let mut add = |after: Duration, happening| {
            key += 1;
            coming.insert((now + after, turns << 20 | key), happening);
        };
        while let Some(transmit) = fetcher.poll_transmit(now, &mut next) {
            sent.push(now - begun);
            let answer = server.answer(transmit.message(), now);
            let asked = transmit.server;
            match (transmit.route, server.tcp) {
                (Route::Datagram { lookup }, _) => {
                    if let Some(message) = answer {
                        add(MS, Happening::Datagram { lookup, message });
                    }
                }
                (Route::Stream { link, .. }, Tcp::Refused) => {
                    add(MS, Happening::Closed { server: asked, link, connected: false });
                }
                (Route::Stream { link, .. }, Tcp::Closed) => {
                    add(2 * MS, Happening::Closed { server: asked, link, connected: true });
                }
                (Route::Stream { .. }, Tcp::Silent) => {}
                (Route::Stream { link, .. }, Tcp::Answered) => {
                    if let Some(message) = answer {
                        add(2 * MS, Happening::Stream { server: asked, link, message });
                    }
                }
            }
        }
        while let Some((asked, link)) = fetcher.poll_open(now) {
            if matches!(server.tcp, Tcp::Refused) {
                add(MS, Happening::Closed { server: asked, link, connected: false });
            }
        }
        while fetcher.poll_close(now).is_some() {}
        while fetcher.poll_event().is_some() {}
        let happens = coming.keys().next().map(|(at, _)| *at);
        let at = fetcher.poll_timeout().into_iter().chain(happens).min();
        // The time stands still for no more than a moment.
        now = at.unwrap_or(now + SECOND).max(now);
    }
    assert_eq!(fetcher.stats().withheld, 0, "the last resort is not needed");
    let soon = sent.iter().filter(|&&at| at < 10 * SECOND).count();
    (soon, sent.len() - soon)
}

#[test]
fn no_answer_makes_a_listener_flood() {
    let replies = [
        Reply::Rcode(0),
        Reply::Rcode(1),
        Reply::Rcode(2),
        Reply::Rcode(3),
        Reply::Rcode(4),
        Reply::Rcode(5),
        Reply::Rcode(9),
        Reply::Truncated,
        Reply::Text(b""),
        Reply::Text(b"\xFF\x00junk"),
        Reply::Text(b"000~AA"),
        Reply::Garbage,
        Reply::Echo,
        Reply::Silence,
    ];
    let mut worst = (0, 0);
    for reply in replies {
        for tcp in [Tcp::Refused, Tcp::Closed, Tcp::Silent, Tcp::Answered] {
            for (describes, servers) in [(false, 1), (true, 1), (false, 2), (true, 2)] {
                let server = Server { reply, tcp, describes, begun: Instant::now() };
                let (soon, later) = asked(&server, servers);
                println!(
                    "{reply:?}, TCP {tcp:?}, described {describes}, {servers}: {soon}, then {later}"
                );
                worst = (worst.0.max(soon), worst.1.max(later));
            }
        }
    }
    println!("at most {} in the first 10 s, {} in the next 50 s", worst.0, worst.1);
    assert!(worst.0 < 10 * 45 && worst.1 < 50 * 15, "{worst:?}");
}

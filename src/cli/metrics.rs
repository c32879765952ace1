//! The server's counters in Prometheus's text format, version 0.0.4, over plain HTTP/1.1.
//!
//! One thread, one request a connection, a deadline for each: meant for a scraper on the same
//! machine, not for the internet.

use super::failure::Failure;
use super::report;
use aodns::audio::system_words;
use aodns::server::{Server, ServerStats};
use aodns::zone::Outcome;
use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

/// A request takes no longer than this.
const DEADLINE: Duration = Duration::from_millis(500);
/// Between two looks at whether to stop.
const PAUSE: Duration = Duration::from_millis(100);
/// Octets of a request's head.
const HEAD_OCTETS_MAX: usize = 8192;

/// Where counters are offered.
#[derive(Debug)]
pub struct Metrics {
    listener: TcpListener,
    address: SocketAddr,
    stop: AtomicBool,
}

impl Metrics {
    /// Listens at `address`.
    ///
    /// # Errors
    /// When that address is not to be had.
    pub fn bind(address: SocketAddr) -> Result<Metrics, Failure> {
        let bound = TcpListener::bind(address)
            .and_then(|listener| listener.local_addr().map(|address| (listener, address)));
        match bound {
            Ok((listener, address)) => {
                Ok(Metrics { listener, address, stop: AtomicBool::new(false) })
            }
            Err(cause) => {
                let cause = match cause.kind() {
                    ErrorKind::AddrInUse => {
                        "another program has this port; name another with --metrics".into()
                    }
                    _ => system_words(&cause),
                };
                Err(Failure::Runtime(format!("cannot bind metrics tcp {address}: {cause}")))
            }
        }
    }

    /// The address that was bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers on a thread of its own until the guard is dropped.
    pub fn offer<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        server: &'scope Server,
    ) -> Offering<'scope> {
        let thread = scope.spawn(move || {
            while !self.is_stopping() {
                match self.listener.accept() {
                    // A scraper that went away comes again.
                    Ok((stream, _)) => drop(self.answer(&stream, server)),
                    // No descriptor is left, or the scraper went away before it was accepted.
                    Err(_) => std::thread::sleep(PAUSE),
                }
            }
        });
        Offering { metrics: self, thread: Some(thread) }
    }
}

impl Metrics {
    fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn answer(&self, stream: &TcpStream, server: &Server) -> std::io::Result<()> {
        let head = self.read_head(stream)?;
        let is_head = head.as_ref().is_some_and(|head| head.starts_with(b"HEAD "));
        let (status, kind, body) = match head {
            Some(head) => reply(&head, &server.stats()),
            None => ("431 Request Header Fields Too Large", TEXT, String::new()),
        };
        // The answer is far smaller than what the system takes at once.
        stream.set_write_timeout(Some(PAUSE))?;
        let allow = if status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" };
        let head = format!(
            "HTTP/1.1 {status}\r\n{allow}Content-Type: {kind}\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n",
            body.len()
        );
        let body = if is_head { "" } else { &body };
        (&mut &*stream).write_all((head + body).as_bytes())?;
        // Closing while something is unread, such as a body, would reset the connection, and the
        // answer might be lost with it.
        stream.shutdown(Shutdown::Write)?;
        let until = Instant::now() + PAUSE;
        let mut chunk = [0; 1024];
        while Instant::now() < until && (&mut &*stream).read(&mut chunk)? > 0 {}
        Ok(())
    }

    /// The head of a request; `None` when it is too long.
    fn read_head(&self, mut stream: &TcpStream) -> std::io::Result<Option<Vec<u8>>> {
        let until = Instant::now() + DEADLINE;
        let mut head = Vec::new();
        let mut chunk = [0; 1024];
        stream.set_read_timeout(Some(PAUSE))?;
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            match stream.read(&mut chunk) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(octets) => head.extend_from_slice(&chunk[..octets]),
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(error),
            }
            if self.is_stopping() || Instant::now() >= until {
                return Err(ErrorKind::TimedOut.into());
            }
            if head.len() > HEAD_OCTETS_MAX {
                return Ok(None);
            }
        }
        Ok(Some(head))
    }
}

/// Counters are offered while it lives.
pub struct Offering<'scope> {
    metrics: &'scope Metrics,
    thread: Option<ScopedJoinHandle<'scope, ()>>,
}

impl Drop for Offering<'_> {
    fn drop(&mut self) {
        self.metrics.stop.store(true, Ordering::Release);
        let mut address = self.metrics.address;
        match address.ip() {
            IpAddr::V4(v4) if v4.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(v6) if v6.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        // Wakes the thread; when it does not, the end of the process ends it.
        let _woken = TcpStream::connect_timeout(&address, PAUSE);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Status, content type and body for a request's head.
fn reply(head: &[u8], stats: &ServerStats) -> (&'static str, &'static str, String) {
    let line = head.split(|&octet| octet == b'\r').next().unwrap_or_default();
    let mut words = line.split(|&octet| octet == b' ');
    let (method, path, version) = (words.next(), words.next(), words.next());
    let path = path.map(|path| path.split(|&octet| octet == b'?').next().unwrap_or_default());
    // The absolute form, as a proxy asks (RFC 9112 §3.2.2).
    let path = path.map(|path| match path.strip_prefix(b"http://") {
        Some(rest) => &rest[rest.iter().position(|&octet| octet == b'/').unwrap_or(rest.len())..],
        None => path,
    });
    match (method, path, version) {
        (Some(b"GET" | b"HEAD"), Some(b"/metrics"), Some(v)) if v.starts_with(b"HTTP/1.") => {
            ("200 OK", TEXT, exposition(stats))
        }
        (Some(b"GET" | b"HEAD"), Some(_), Some(v)) if v.starts_with(b"HTTP/1.") => {
            ("404 Not Found", TEXT, "the counters are at /metrics\n".into())
        }
        (Some(_), Some(_), Some(v)) if v.starts_with(b"HTTP/1.") => {
            ("405 Method Not Allowed", TEXT, "GET /metrics\n".into())
        }
        _ => ("400 Bad Request", TEXT, "GET /metrics HTTP/1.1\n".into()),
    }
}

/// The counters.
pub fn exposition(stats: &ServerStats) -> String {
    let answers = &stats.responder;
    let mut out = String::new();
    let mut family = |name: &str, kind: &str, help: &str, samples: &[(&str, f64)]| {
        let _infallible = write!(out, "# HELP aodns_{name} {help}\n# TYPE aodns_{name} {kind}\n");
        for (labels, value) in samples {
            let _infallible = writeln!(out, "aodns_{name}{labels} {value}");
        }
    };
    let one = |count: u64| [("", count as f64)];
    family("segments_total", "counter", "Segments published.", &one(stats.segments));
    family("frames_total", "counter", "Frames captured.", &one(stats.frames));
    family("next_sequence", "gauge", "Number of the next segment.", &one(stats.next));
    family("source_ended", "gauge", "Whether the source has ended.", &one(stats.ended.into()));
    let overruns = one(stats.overrun_samples);
    family("overrun_samples_total", "counter", "Samples lost at capture.", &overruns);
    let failures = one(stats.encode_failures);
    family("encode_failures_total", "counter", "Frames that the codec refused.", &failures);
    let failures = one(stats.state_failures);
    let help = "Times that the state file could not be written.";
    family("state_failures_total", "counter", help, &failures);
    let octets = one(stats.packet_octets);
    family("packet_octets_total", "counter", "Octets of packets before encoding.", &octets);
    let transports = [
        ("{transport=\"udp\"}", answers.udp_queries as f64),
        ("{transport=\"tcp\"}", answers.tcp_queries as f64),
    ];
    family("queries_total", "counter", "Messages that arrived.", &transports);
    let ignored = one(answers.ignored);
    family("ignored_total", "counter", "Messages that nothing may be answered to.", &ignored);
    let labels = Outcome::ALL.map(|outcome| format!("{{outcome=\"{}\"}}", outcome.name()));
    let counts = Outcome::ALL.map(|outcome| answers.answers_of(outcome) as f64);
    let samples: Vec<_> = labels.iter().map(String::as_str).zip(counts).collect();
    family("answers_total", "counter", "Answers by what they say.", &samples);
    let octets = [
        ("{direction=\"in\"}", answers.octets_in as f64),
        ("{direction=\"out\"}", answers.octets_out as f64),
    ];
    family("octets_total", "counter", "Octets of DNS messages.", &octets);
    let verified = one(answers.verified);
    family("verified_total", "counter", "Answers to clients with a valid cookie.", &verified);
    let held = [
        ("{result=\"held\"}", answers.held as f64),
        ("{result=\"released\"}", answers.released as f64),
        ("{result=\"expired\"}", answers.hold_expired as f64),
        ("{result=\"refused\"}", answers.hold_refused as f64),
    ];
    family("held_total", "counter", "Questions that waited for their segment.", &held);
    let limited = [
        ("{rule=\"budget\",action=\"truncate\"}", answers.limited_budget as f64),
        ("{rule=\"total\",action=\"truncate\"}", answers.limited_total as f64),
        ("{rule=\"budget\",action=\"drop\"}", answers.dropped_budget as f64),
        ("{rule=\"rate\",action=\"drop\"}", answers.dropped_rate as f64),
        ("{rule=\"errors\",action=\"drop\"}", answers.dropped_errors as f64),
    ];
    debug_assert_eq!(limited.iter().map(|(_, n)| n).sum::<f64>(), report::limited(answers) as f64);
    family("limited_total", "counter", "Answers limited by the abuse policy.", &limited);
    let errors = [
        ("{operation=\"receive\"}", answers.receive_errors as f64),
        ("{operation=\"send\"}", answers.send_errors as f64),
    ];
    family("socket_errors_total", "counter", "Operations on sockets that failed.", &errors);
    family("tcp_open", "gauge", "Connections open now.", &one(answers.tcp_open));
    let waiting = one(answers.tcp_waiting);
    family("tcp_waiting_octets", "gauge", "Answers that wait for their clients now.", &waiting);
    let connections = [
        ("{result=\"accepted\"}", answers.tcp_accepted as f64),
        ("{result=\"refused\"}", answers.tcp_refused as f64),
        ("{result=\"timed_out\"}", answers.tcp_timed_out as f64),
        ("{result=\"evicted\"}", answers.tcp_evicted as f64),
    ];
    family("tcp_connections_total", "counter", "Connections by what became of them.", &connections);
    let time = |quantile| answers.answer_time(quantile).map_or(f64::NAN, |t| t.as_secs_f64());
    let times = [("{quantile=\"0.5\"}", time(0.5)), ("{quantile=\"0.99\"}", time(0.99))];
    family("answer_seconds", "gauge", "Time from a message to its answer.", &times);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(head: &str) -> &'static str {
        reply(head.as_bytes(), &ServerStats::default()).0
    }

    #[test]
    fn requests_are_told_apart() {
        assert_eq!(status("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"), "200 OK");
        assert_eq!(status("GET /metrics?x=1 HTTP/1.0\r\n\r\n"), "200 OK");
        assert_eq!(status("GET / HTTP/1.1\r\n\r\n"), "404 Not Found");
        assert_eq!(status("POST /metrics HTTP/1.1\r\n\r\n"), "405 Method Not Allowed");
        for junk in ["", "\r\n\r\n", "GET /metrics\r\n\r\n", "GET /metrics HTTPS\r\n\r\n", "\u{0}"]
        {
            assert_eq!(status(junk), "400 Bad Request", "{junk:?}");
        }
    }

    #[test]
    fn every_sample_has_a_family_and_a_value() {
        let text = exposition(&ServerStats::default());
        let mut families = Vec::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                families.push(rest.split(' ').next().unwrap());
            } else if !line.starts_with("# HELP ") {
                let (sample, value) = line.rsplit_once(' ').unwrap();
                assert_eq!(sample.split('{').next(), families.last().copied(), "{line}");
                assert!(value.parse::<f64>().is_ok(), "{line}");
            }
        }
        let count = families.len();
        families.sort_unstable();
        families.dedup();
        assert_eq!(families.len(), count, "a family is there twice");
        for outcome in Outcome::ALL {
            assert!(
                text.contains(&format!(
                    "aodns_answers_total{{outcome=\"{}\"}} 0\n",
                    outcome.name()
                ))
            );
        }
    }
}

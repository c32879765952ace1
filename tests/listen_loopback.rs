//! The listener with real sockets: against a server of this test's own on 127.0.0.1, over UDP, TC
//! and TCP with held answers, and through a restart of that server.
#![cfg(feature = "opus")]
#![allow(clippy::unwrap_used)] // a step that fails here is a test that fails

use aodns::audio::{MemorySink, Source, ToneSource};
use aodns::client::{Client, ClientConfig, ClientStats, State};
use aodns::codec::{self, CodecKind, EncoderSettings};
use aodns::follow::Manner;
use aodns::pipeline::moment;
use aodns::publication::Publication;
use aodns::segment::{ConfigRecord, PackLimits, Packer};
use aodns::units::{Format, SampleRate};
use aodns::window::{Window, first_sequence};
use aodns::wire::{self, Name};
use aodns::zone::{CONFIG_TTL, Disposition, NameServer, Request, Transport, Zone};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const ROOT: &str = "music.example.com";
const FRAME: Duration = Duration::from_millis(20);
const FRAMES: usize = 12;

/// A run of a server, without the care of a real one.
struct Server {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Server {
    fn start(address: SocketAddr, id: u32) -> Server {
        let stop = Arc::new(AtomicBool::new(false));
        let root: Name = ROOT.parse().unwrap();
        let format = CodecKind::Opus.format_default();
        let record = ConfigRecord {
            id,
            codec: "opus".into(),
            format,
            frame_samples: 320,
            ascii: "base91".into(),
            packets_max: FRAMES as u32,
            ttl: CONFIG_TTL,
            window: 75,
            title: "loopback".into(),
        };
        let mut config = Vec::new();
        wire::write_txt_record(&mut config, CONFIG_TTL, &record.encode());
        let zone = Arc::new(Zone {
            name_servers: vec![NameServer {
                name: "ns.example.net".parse().unwrap(),
                addresses: vec![],
            }],
            root,
            id,
            config: config.into(),
            cookies: None,
            server_id: None,
            version: None,
            keepalive: Duration::from_secs(10),
        });
        let now = moment();
        let longest = FRAME * FRAMES as u32;
        let first = first_sequence(now.unix_ms, None);
        let window = Window::new(75, SampleRate::HZ_16000, longest, first, now);
        let publication = Arc::new(Publication::new(window.snapshot()));
        let udp = UdpSocket::bind(address).unwrap();
        udp.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let tcp = TcpListener::bind(address).unwrap();
        tcp.set_nonblocking(true).unwrap();
        let (a, b, c) = (Arc::clone(&stop), Arc::clone(&stop), Arc::clone(&stop));
        let (p, q) = (Arc::clone(&publication), Arc::clone(&publication));
        let z = Arc::clone(&zone);
        let threads = vec![
            thread::spawn(move || produce(format, window, &publication, &a)),
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while !b.load(Ordering::Relaxed) {
                    let Ok((length, client)) = udp.recv_from(&mut buffer) else { continue };
                    if let Some(answer) = respond(&zone, &p, &buffer[..length], false) {
                        let _gone = udp.send_to(&answer, client);
                    }
                }
            }),
            thread::spawn(move || {
                while !c.load(Ordering::Relaxed) {
                    match tcp.accept() {
                        Ok((stream, _)) => {
                            let (z, q, c) = (Arc::clone(&z), Arc::clone(&q), Arc::clone(&c));
                            thread::spawn(move || serve(stream, &z, &q, &c));
                        }
                        Err(_) => thread::sleep(Duration::from_millis(2)),
                    }
                }
            }),
        ];
        Server { stop, threads }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

fn produce(format: Format, mut window: Window, publication: &Publication, stop: &AtomicBool) {
    let settings = EncoderSettings {
        frame: Some(FRAME),
        bitrate: Some(64_000),
        ..EncoderSettings::new(CodecKind::Opus)
    };
    let mut encoder = codec::build_encoder(&settings).unwrap();
    let mut source = ToneSource::new(440);
    source.open(format, 320).unwrap();
    let limits =
        PackLimits { string_octets_max: 250, segment_octets_max: 4000, packets_max: FRAMES };
    let mut packer = Packer::new(limits);
    let ascii = aodns::ascii::AsciiKind::Base91.build();
    let (mut pcm, mut packet) = ([0; 320], [0; 198]);
    let began = Instant::now();
    for frame in 1.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        thread::sleep((began + FRAME * frame).saturating_duration_since(Instant::now()));
        source.read(&mut pcm).unwrap();
        let length = encoder.encode(&pcm, &mut packet).unwrap();
        let mut text = Vec::new();
        ascii.encode(&packet[..length], &mut text);
        if let Some(segment) = packer.push(&text) {
            window.publish(&segment, segment.strings.len() as u64 * 320, moment());
            publication.publish(window.snapshot());
        }
    }
}

/// The answer to a message; waits where it is to be held.
fn respond(zone: &Zone, publication: &Publication, message: &[u8], tcp: bool) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut may_hold = true;
    loop {
        let seen = publication.generation();
        let transport = if tcp {
            Transport::Tcp
        } else {
            Transport::Udp { payload_max: wire::UDP_PAYLOAD_MAX }
        };
        let client = IpAddr::from([127, 0, 0, 1]);
        let request =
            Request { message, transport, client, now: moment(), may_hold, limited: false };
        match zone.respond(&publication.load(), &request, &mut out) {
            Disposition::Drop => return None,
            Disposition::Reply(_) => return Some(out),
            Disposition::Hold { until, .. } => {
                let left = until.saturating_duration_since(Instant::now());
                may_hold = !left.is_zero();
                publication.wait_newer(seen, left);
            }
        }
    }
}

fn serve(mut stream: TcpStream, zone: &Zone, publication: &Publication, stop: &AtomicBool) {
    stream.set_nonblocking(false).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut prefix = [0; 2];
    while !stop.load(Ordering::Relaxed) && stream.read_exact(&mut prefix).is_ok() {
        let mut message = vec![0; usize::from(u16::from_be_bytes(prefix))];
        if stream.read_exact(&mut message).is_err() || stop.load(Ordering::Relaxed) {
            return;
        }
        let Some(answer) = respond(zone, publication, &message, true) else { return };
        let framed = [&(answer.len() as u16).to_be_bytes()[..], &answer].concat();
        if stream.write_all(&framed).is_err() {
            return;
        }
    }
}

/// Waits until the listener does something; the limit only ends a test that has failed.
fn until(client: &Client, what: &str, holds: impl Fn(&ClientStats) -> bool) -> ClientStats {
    let limit = Instant::now() + Duration::from_secs(30);
    loop {
        let stats = client.stats();
        if holds(&stats) {
            return stats;
        }
        assert!(Instant::now() < limit, "{what}: {stats:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_stream_is_heard_and_a_restart_survived() {
    let address = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = Server::start(address, 1);
    let sink = MemorySink::new();
    let config = ClientConfig::new(ROOT.parse().unwrap(), vec![address]);
    let client = Client::start(config, Box::new(sink.clone())).unwrap();
    let played = |stats: &ClientStats, seconds| stats.play.written >= Duration::from_secs(seconds);
    let stats = until(&client, "3 s of sound", |stats| played(stats, 3));
    println!("{stats:#?}");
    assert_eq!((stats.state, stats.manner, stats.direct), (State::Playing, Manner::Schedule, true));
    assert!(
        stats.fetch.truncated >= 3 && stats.fetch.connections >= 1,
        "over TCP: {:?}",
        stats.fetch
    );
    assert_eq!((stats.fetch.negatives, stats.fetch.ignored), (0, 0));
    assert!(stats.play.latency.is_some() && stats.play.target.is_some() && stats.rtt.is_some());
    assert_eq!(stats.play.stream.as_ref().map(|stream| &stream.title[..]), Some("loopback"));
    server.stop();
    let server = Server::start(address, 2);
    let restarts = |stats: &ClientStats| stats.follow.restarts == 1;
    let stats = until(&client, "the restart is noticed", restarts);
    let written = stats.play.written.as_secs() + 2;
    let stats = until(&client, "sound goes on", |stats| played(stats, written));
    assert_eq!(stats.state, State::Playing);
    let causes: Vec<_> = stats.play.gaps.iter().map(|gap| gap.gap.cause.text()).collect();
    println!("gaps: {causes:?}");
    let pcm = sink.to_vec();
    assert!(pcm.iter().any(|&sample| sample > 4_000), "a tone is heard");
    client.stop().unwrap();
    server.stop();
}

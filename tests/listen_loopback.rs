//! The listener with real sockets against the real server on 127.0.0.1: over UDP, truncation and TCP
//! with held answers, and through a restart of the server.
#![cfg(feature = "opus")]
#![allow(clippy::unwrap_used)] // a step that fails here is a test that fails

#[path = "support/dns.rs"]
mod dns;
#[path = "support/process.rs"]
mod process;

use aodns::ascii;
use aodns::audio::{AudioError, MemorySink, NullSink, Sink, ToneSource};
use aodns::client::{Client, ClientConfig, ClientStats, State};
use aodns::follow::Manner;
use aodns::server::{Server, ServerConfig};
use aodns::units::{Format, SampleRate};
use aodns::wire::write_txt_record;
use crossbeam_channel::Receiver;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

const ROOT: &str = "music.example.com";

/// A run of the server whose segments of 240 ms do not fit a datagram.
fn serve(address: SocketAddr) -> Server {
    let mut config = ServerConfig::new(ROOT.parse().unwrap(), vec![address]);
    config.title = "loopback".into();
    config.encoder.frame = Some(Duration::from_millis(20));
    config.encoder.bitrate = Some(64_000);
    config.segment_octets_max = 4000;
    Server::start(config, Box::new(ToneSource::new(440))).unwrap()
}

/// A run of the server whose sound has this rate.
fn serve_at(address: SocketAddr, hz: u32) -> Server {
    let mut config = ServerConfig::new(ROOT.parse().unwrap(), vec![address]);
    config.encoder.format.rate = SampleRate::new(hz).unwrap();
    config.packets_max = 4;
    Server::start(config, Box::new(ToneSource::new(440))).unwrap()
}

/// A server of ten segments, of packets that Opus cannot decode.
fn serve_garbage() -> dns::Lab {
    // Of any number of frames, of which there are none (RFC 6716 section 3.2.5).
    let mut packet = Vec::new();
    ascii::base91_encode(&[0x0B, 0x00, 1, 2], &mut packet);
    let string = |index: usize| [format!("{index:03}'''").as_bytes(), &packet].concat();
    let segment: Vec<_> = (0..12).map(string).collect();
    let longest = Duration::from_millis(720);
    let mut plan = dns::Plan { longest, segments: vec![segment; 10], ..dns::Plan::new() };
    let mut config = Vec::new();
    let parameters = b"v=1;id=00000007;codec=opus;rate=16000;channels=1;frame=960;ascii=base91;\
                       frames=12;ttl=60;window=75";
    write_txt_record(&mut config, 60, parameters);
    plan.zone.config = config.into();
    plan.start()
}

/// A listener to the server at this address.
fn listen(address: SocketAddr, sink: impl Sink + 'static) -> Client {
    let config = ClientConfig::new(ROOT.parse().unwrap(), vec![address]);
    Client::start(config, Box::new(sink)).unwrap()
}

/// Waits until the listener does something; the limit only ends a test that has failed.
fn until(client: &Client, what: &str, mut holds: impl FnMut(&ClientStats) -> bool) -> ClientStats {
    let limit = Instant::now() + Duration::from_secs(30);
    loop {
        let stats = client.stats();
        if holds(&stats) {
            return stats;
        }
        assert!(Instant::now() < limit, "{what}: {stats:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_stream_is_heard_and_a_restart_survived() {
    // Free for TCP as well: a connection that ended keeps its port for a minute.
    let address = (Ipv4Addr::LOCALHOST, process::free_port().unwrap()).into();
    let server = serve(address);
    let sink = MemorySink::new();
    let client = listen(address, sink.clone());
    let played = |stats: &ClientStats, seconds| stats.play.written >= Duration::from_secs(seconds);
    let stats = until(&client, "3 s of sound", |stats| played(stats, 3));
    println!("{stats:#?}");
    assert_eq!((stats.state, stats.manner, stats.direct), (State::Playing, Manner::Schedule, true));
    let fetch = &stats.fetch;
    assert!(fetch.truncated >= 3 && fetch.connections >= 1, "over TCP: {fetch:?}");
    assert_eq!((fetch.negatives, fetch.ignored), (0, 0));
    assert!(stats.play.latency.is_some() && stats.play.target.is_some() && stats.rtt.is_some());
    let title = stats.play.stream.as_ref().map(|stream| &stream.title[..]);
    assert_eq!(title, Some("loopback"));
    server.stop().unwrap();
    let server = serve(address);
    let stats = until(&client, "the restart is noticed", |stats| stats.follow.restarts == 1);
    let written = stats.play.written.as_secs() + 2;
    let stats = until(&client, "sound goes on", |stats| played(stats, written));
    assert_eq!(stats.state, State::Playing);
    let causes: Vec<_> = stats.play.gaps.iter().map(|gap| gap.gap.cause.text()).collect();
    println!("gaps: {causes:?}");
    assert!(sink.to_vec().iter().any(|&sample| sample > 4_000), "a tone is heard");
    client.stop().unwrap();
    server.stop().unwrap();
}

/// Takes sound while somebody is on the other side of the channel, one permission a frame.
struct Gate(Receiver<()>);

impl Sink for Gate {
    fn open(&mut self, stream: Format) -> Result<Format, AudioError> {
        Ok(stream)
    }

    fn write(&mut self, _pcm: &[i16]) -> Result<(), AudioError> {
        self.0.recv().map_err(|_| AudioError::Closed)
    }

    fn has_clock(&self) -> bool {
        false
    }

    fn flush(&mut self) -> Result<(), AudioError> {
        Ok(())
    }
}

#[test]
fn a_sink_that_takes_no_sound_is_told_of() {
    let address = (Ipv4Addr::LOCALHOST, process::free_port().unwrap()).into();
    let server = serve(address);
    let (allow, allowed) = crossbeam_channel::bounded(0);
    let client = listen(address, Gate(allowed));
    until(&client, "nothing is taken", |stats| stats.state == State::Blocked);
    let granting = std::thread::spawn(move || {
        for _ in 0..150 {
            allow.send(()).unwrap();
        }
        allow
    });
    until(&client, "sound is taken", |stats| stats.state == State::Playing);
    let allow = granting.join().unwrap();
    until(&client, "no more is", |stats| stats.state == State::Blocked);
    // Or it would not end.
    drop(allow);
    until(&client, "the end", |_| client.is_finished());
    client.stop().unwrap();
    server.stop().unwrap();
}

#[test]
fn sound_that_is_written_before_it_is_due_is_not_played_yet() {
    let address = (Ipv4Addr::LOCALHOST, process::free_port().unwrap()).into();
    let server = serve(address);
    let client = listen(address, NullSink::new());
    let (mut looks, mut falls, mut before) = (0, 0, Duration::ZERO);
    until(&client, "3 s of sound", |stats| {
        if stats.state == State::Playing {
            looks += 1;
            falls += u32::from(stats.level < before);
        }
        before = stats.level;
        stats.play.written >= Duration::from_secs(3)
    });
    assert!(2 * falls > looks, "less was left at {falls} of {looks} looks only");
    client.stop().unwrap();
    server.stop().unwrap();
}

#[test]
fn the_time_written_goes_on_where_the_rate_changes() {
    let address = (Ipv4Addr::LOCALHOST, process::free_port().unwrap()).into();
    let server = serve_at(address, 8000);
    let client = listen(address, NullSink::new());
    let mut before = Duration::ZERO;
    let mut written = |stats: &ClientStats| {
        assert!(stats.play.written >= before, "{:?} after {before:?}", stats.play.written);
        before = stats.play.written;
        before
    };
    let most = Duration::from_secs(3);
    until(&client, "3 s of sound", |stats| written(stats) >= most);
    server.stop().unwrap();
    let server = serve_at(address, 48_000);
    let rate = |stats: &ClientStats| stats.play.stream.as_ref().unwrap().format.rate.hz();
    until(&client, "sound of another rate", |stats| {
        written(stats) >= 2 * most && rate(stats) == 48_000
    });
    client.stop().unwrap();
    server.stop().unwrap();
}

#[test]
fn packets_that_cannot_be_decoded_are_no_sound() {
    let lab = serve_garbage();
    let client = listen(lab.addr, NullSink::new());
    let stats = until(&client, "a segment's packets", |stats| stats.play.undecodable >= 12);
    assert_eq!(stats.first_sound, None, "{stats:#?}");
    assert_eq!(stats.state, State::Joining);
    client.stop().unwrap();
    lab.responder.stop().unwrap();
}

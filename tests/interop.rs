//! The built program against the world: real streams, directly and through real resolvers, and to
//! and from independent peers of the base layer. What was heard is held against what was sent by
//! cross-correlation (tests/interop/align.py), not by counters alone.
//!
//! These tests take their time in seconds of sound, so they are run by `scripts/interop.sh`, which
//! makes the Python environment first:
//! `cargo test --release --test interop -- --ignored --nocapture --test-threads=16`
//!
//! AODNS_INTEROP_SECONDS is the length of the long direct stream (300 by default).

#[path = "support/process.rs"]
mod process;
#[path = "support/resolver.rs"]
mod resolver;

use process::{Process, TempDir, free_port, skip};
use resolver::{NotStarted, Resolver, ResolverKind};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

const ROOT: &str = "music.example.com";
/// Default settings: twelve frames of 60 ms.
const SEGMENT: f64 = 0.72;

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_aodns"))
}

/// A script of the Python environment.
fn python(script: &str) -> Command {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop");
    let python = here.join(".venv/bin/python");
    assert!(python.exists(), "no Python environment: run tests/interop/setup.sh");
    let mut command = Command::new(python);
    command.arg("-W").arg("ignore").arg(here.join(script));
    command
}

/// Runs a command to its end; what it wrote to standard output.
fn run(command: &mut Command) -> String {
    let output = command.output().expect("the program starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} ended with {}: {errors}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A server of ours that has begun to answer.
fn serve(directory: &Path, port: u16, arguments: &[&str]) -> Process {
    fs::create_dir_all(directory).expect("a directory");
    let mut command = program();
    command.args(["serve", ROOT, "--listen", "127.0.0.1", "--dns-port", &port.to_string()]);
    let mut server = Process::spawn(command.args(arguments), directory).expect("aodns starts");
    wait_for_answer(port, || match server.wait(Duration::ZERO) {
        Ok(None) => None,
        _ => Some(server.stderr()),
    });
    server
}

/// Waits until something answers at a port; `ended` tells why it never will.
fn wait_for_answer(port: u16, mut ended: impl FnMut() -> Option<String>) {
    let query = b"\x12\x34\x00\x00\x00\x01\0\0\0\0\0\0\x05music\x07example\x03com\0\0\x06\0\x01";
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    socket.connect((Ipv4Addr::LOCALHOST, port)).expect("an address");
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        if let Some(errors) = ended() {
            panic!("the server ended: {errors}");
        }
        if socket.send(query).is_ok() && socket.recv(&mut [0; 512]).is_ok() {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("the server at port {port} does not answer");
}

/// Ends a child in any case.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Writes 16-bit PCM as WAV.
fn write_wav(path: &Path, rate: u32, pcm: &[u8]) {
    let mut file = Vec::with_capacity(44 + pcm.len());
    file.extend_from_slice(b"RIFF");
    file.extend_from_slice(&(36 + pcm.len() as u32).to_le_bytes());
    file.extend_from_slice(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    file.extend_from_slice(&rate.to_le_bytes());
    file.extend_from_slice(&(2 * rate).to_le_bytes());
    file.extend_from_slice(b"\x02\0\x10\0data");
    file.extend_from_slice(&(pcm.len() as u32).to_le_bytes());
    file.extend_from_slice(pcm);
    fs::write(path, file).expect("a file");
}

/// The number behind `"key":` in JSON.
fn number(json: &str, key: &str) -> f64 {
    let quoted = format!("\"{key}\":");
    let rest = json.split(&quoted).nth(1).unwrap_or_else(|| panic!("no {key} in {json}"));
    let digits = |c: char| !(c.is_ascii_digit() || ".-+eE".contains(c));
    rest.trim_start().split(digits).next().unwrap_or("").parse().unwrap_or(f64::NAN)
}

/// What the alignment says: whether it is one stretch, and lines that describe it.
struct Aligned {
    continuous: bool,
    text: String,
    /// Seconds by which the recording's beginning lies after the reference's.
    lag: f64,
}

fn align(reference: &Path, recording: &Path) -> Aligned {
    let output = python("align.py").arg(reference).arg(recording).output().expect("Python");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lag = text.split("lag ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    let continuous = text.trim_end().ends_with("\ncontinuous");
    Aligned { continuous, lag: lag.unwrap_or(f64::NAN), text }
}

/// A source that is fed in real time through a pipe, and a listener whose output is read as it
/// comes: both ends by one clock.
struct Heard {
    aligned: Aligned,
    /// From feeding a sample to reading it again, in seconds, median and 95 %.
    latency: (f64, f64),
    seconds: f64,
    log: String,
}

/// Feeds a server with `flags`, listens at the address that `path` makes of the server's, and
/// compares.
fn stream(
    name: &str,
    seconds: u64,
    flags: &[&str],
    path: impl FnOnce(SocketAddr) -> SocketAddr,
) -> Heard {
    const RATE: u32 = 16_000;
    let directory = TempDir::new(name).expect("a directory");
    let at = |file: &str| directory.path().join(file);
    let reference = at("in.wav");
    run(python("testsignal.py").arg(&reference).args(["--seconds", &(seconds + 20).to_string()]));
    let sound = fs::read(&reference).expect("the signal")[44..].to_vec();

    let port = free_port().expect("a port");
    let mut server = Ended(
        program()
            .args(["serve", ROOT, "--listen", "127.0.0.1", "--dns-port", &port.to_string()])
            .args(["-i", "-"])
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(fs::File::create(at("serve.log")).expect("a file"))
            .spawn()
            .expect("aodns starts"),
    );
    let mut input = server.0.stdin.take().expect("a pipe");
    let fed = Instant::now();
    let feeder = thread::spawn(move || {
        // Twenty milliseconds at a time, by the clock; ends when the server does.
        for (n, chunk) in sound.chunks(640).enumerate() {
            let due = fed + Duration::from_millis(20) * n as u32;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if input.write_all(chunk).is_err() {
                return;
            }
        }
    });
    wait_for_answer(port, || None);
    thread::sleep(Duration::from_secs(3));

    let address = path(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let mut listener = Ended(
        program()
            .args(["listen", ROOT, &address.to_string(), "-o", "-", "--verbose"])
            .args(["--duration", &seconds.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(at("listen.log")).expect("a file"))
            .spawn()
            .expect("aodns starts"),
    );
    let mut output = listener.0.stdout.take().expect("a pipe");
    let (mut recording, mut arrivals) = (Vec::new(), Vec::new());
    let mut buffer = [0; 4096];
    loop {
        match output.read(&mut buffer).expect("the pipe can be read") {
            0 => break,
            length => {
                recording.extend_from_slice(&buffer[..length]);
                arrivals.push((recording.len() / 2, fed.elapsed().as_secs_f64()));
            }
        }
    }
    let status = listener.0.wait().expect("a status");
    let log = fs::read_to_string(at("listen.log")).unwrap_or_default();
    assert!(status.success(), "{name}: aodns listen ended with {status}:\n{log}");
    drop(server);
    feeder.join().expect("the feeder does not panic");

    let recorded = at("out.wav");
    write_wav(&recorded, RATE, &recording);
    let aligned = align(&reference, &recorded);
    // Sample k of the recording was fed at (k / rate + lag), and read when its chunk came.
    let mut latencies: Vec<f64> = arrivals
        .iter()
        .map(|&(samples, at)| at - (samples as f64 / f64::from(RATE) + aligned.lag))
        .collect();
    latencies.sort_by(f64::total_cmp);
    let quantile = |q: f64| latencies[((latencies.len() - 1) as f64 * q) as usize];
    let seconds = recording.len() as f64 / 2.0 / f64::from(RATE);
    Heard { latency: (quantile(0.5), quantile(0.95)), seconds, aligned, log }
}

fn report(name: &str, heard: &Heard, latency_max: f64) {
    let first = heard.aligned.text.lines().next().unwrap_or_default();
    println!("{name:20} latency {:.2} s, 95 % {:.2} s; {first}", heard.latency.0, heard.latency.1);
    assert!(heard.aligned.continuous, "{name}: {}\n{}", heard.aligned.text, heard.log);
    assert!(heard.latency.0 <= latency_max, "{name}: latency {:?}", heard.latency);
}

/// How long a stream through a resolver is listened to.
const RESOLVER_SECONDS: u64 = 60;

/// A stream with `flags` through one kind of resolver.
fn through_with(kind: ResolverKind, flags: &[&str], seconds: u64, latency_max: f64) {
    let mut running = None;
    let mut missing = None;
    let label = if flags.is_empty() { "" } else { "-low-delay" };
    let name = format!("{}{label}", kind.name());
    let heard = stream(&name, seconds, flags, |server| match Resolver::start(kind, ROOT, server) {
        Ok(resolver) => running.insert(resolver).addr(),
        Err(NotStarted::NotInstalled(package)) => {
            missing = Some(package);
            server
        }
        Err(error) => panic!("{error}"),
    });
    if let Some(package) = missing {
        return skip(&name, package);
    }
    assert!(heard.seconds > seconds as f64 - 5.0, "only {} s were heard", heard.seconds);
    report(&name, &heard, latency_max);
}

/// At default settings, with the latency that is promised for any resolver.
fn through(kind: ResolverKind) {
    through_with(kind, &[], RESOLVER_SECONDS, SEGMENT + 0.5);
}

/// The low-delay setting of the README: segments of 120 ms that fit one datagram.
const LOW_DELAY: [&str; 7] = [
    "--frame-ms",
    "40",
    "--max-frames-per-segment",
    "3",
    "--max-sequences",
    "30",
    "--single-datagram",
];

/// How long the low-delay streams are listened to.
fn low_delay_seconds() -> u64 {
    long_seconds().min(300)
}

/// Length of the long streams.
fn long_seconds() -> u64 {
    std::env::var("AODNS_INTEROP_SECONDS")
        .ok()
        .map_or(300, |text| text.parse().expect("a number of seconds"))
}

#[test]
#[ignore = "takes five minutes"]
fn low_delay_directly() {
    let seconds = low_delay_seconds();
    let heard = stream("directly-low-delay", seconds, &LOW_DELAY, |server| server);
    assert!(heard.seconds > seconds as f64 - 3.0, "only {} s were heard", heard.seconds);
    report("directly-low-delay", &heard, 0.6);
}

#[test]
#[ignore = "takes five minutes"]
fn low_delay_through_unbound() {
    through_with(ResolverKind::Unbound, &LOW_DELAY, low_delay_seconds(), 0.9);
}

#[test]
#[ignore = "takes a minute"]
fn through_unbound() {
    through(ResolverKind::Unbound);
}

#[test]
#[ignore = "takes a minute"]
fn through_bind() {
    through(ResolverKind::Bind);
}

#[test]
#[ignore = "takes a minute"]
fn through_knot_resolver() {
    through(ResolverKind::Knot);
}

#[test]
#[ignore = "takes a minute"]
fn through_powerdns() {
    through(ResolverKind::PowerDns);
}

#[test]
#[ignore = "takes a minute"]
fn through_dnsmasq() {
    through(ResolverKind::Dnsmasq);
}

#[test]
#[ignore = "takes a minute"]
fn through_dnsmasq_to_unbound() {
    through(ResolverKind::DnsmasqToUnbound);
}

#[test]
#[ignore = "takes half a minute"]
fn directly_by_one_clock() {
    let heard = stream("directly", 30, &[], |server| server);
    assert!(heard.seconds > 27.0, "only {} s were heard", heard.seconds);
    report("directly", &heard, SEGMENT + 0.5);
}

#[test]
#[ignore = "takes five minutes"]
fn five_minutes_of_speech_and_music_from_file_to_file() {
    let seconds = long_seconds();
    let directory = TempDir::new("five-minutes").expect("a directory");
    let at = |file: &str| directory.path().join(file);
    let (input, reference, recorded) = (at("in.wav"), at("ref.wav"), at("out.wav"));
    let length = (seconds + 15).to_string();
    run(python("speechfile.py").arg(&input).arg(&reference).arg(length));
    let port = free_port().expect("a port");
    let _server = serve(&at("serve"), port, &["-i", input.to_str().expect("a path")]);
    let address = format!("127.0.0.1:{port}");
    let mut command = program();
    command.args(["listen", ROOT, &address, "--json", "--duration", &seconds.to_string()]);
    let json = run(command.arg("-o").arg(&recorded));
    let last = json.lines().last().unwrap_or_default();
    let aligned = align(&reference, &recorded);
    println!("five minutes: {}{last}", aligned.text);
    assert!(aligned.continuous, "{}", aligned.text);
    assert_eq!(number(last, "gaps"), 0.0);
    let latency = number(last, "latency_s");
    assert!(latency <= 3.0, "latency of {latency} s");
    let recorded = fs::metadata(&recorded).expect("a file").len();
    assert!(recorded > (seconds - 4) * 32_000, "only {recorded} octets were recorded");
}

/// Sample rates and channels of the forms that peers are tried with.
const FORMS: [(u32, u32); 4] = [(16_000, 1), (8_000, 1), (16_000, 2), (8_000, 2)];
/// How long each peer listens.
const PEER_SECONDS: u64 = 40;

/// The test signal in one form.
fn signal(directory: &Path, rate: u32, channels: u32, seconds: u64) -> PathBuf {
    let path = directory.join(format!("in-{rate}-{channels}.wav"));
    let (rate, channels) = (rate.to_string(), channels.to_string());
    let mut command = python("testsignal.py");
    command.arg(&path).args(["--rate", &rate, "--channels", &channels]);
    run(command.args(["--seconds", &seconds.to_string()]));
    path
}

#[test]
#[ignore = "takes a minute"]
fn an_independent_listener_plays_our_stream() {
    thread::scope(|scope| {
        for (rate, channels) in FORMS {
            scope.spawn(move || independent_listener(rate, channels));
        }
    });
}

fn independent_listener(rate: u32, channels: u32) {
    let directory = TempDir::new("their-listener").expect("a directory");
    let input = signal(directory.path(), rate, channels, PEER_SECONDS + 10);
    let port = free_port().expect("a port");
    let (rate, channels) = (rate.to_string(), channels.to_string());
    let form = ["--sample-rate", &rate, "--channels", &channels];
    let input_path = input.to_str().expect("a path");
    let arguments = [&["-i", input_path][..], &form].concat();
    let server = serve(&directory.path().join("serve"), port, &arguments);
    let (recorded, report) = (directory.path().join("out.wav"), directory.path().join("report"));
    let mut client = python("base_client.py");
    client.args([ROOT, "127.0.0.1", "--dns-port", &port.to_string()]);
    client.args(["--rate", &rate, "--channels", &channels]);
    client.args(["--duration", &PEER_SECONDS.to_string()]);
    run(client.arg("--output").arg(&recorded).arg("--report").arg(&report));
    let report = fs::read_to_string(report).expect("a report");
    let aligned = align(&input, &recorded);
    let first = aligned.text.lines().next().unwrap_or_default();
    println!("their listener, {rate} Hz, {channels} ch: {first}");
    assert!(aligned.continuous, "{}\n{report}", aligned.text);
    assert!(report.contains("\"missing\": []") && report.contains("\"errors\": []"), "{report}");
    // What is not played within the time is what the list of up to 10 s does not name yet.
    assert!(number(&report, "seconds") > PEER_SECONDS as f64 - 8.0, "{report}");
    drop(server);
}

#[test]
#[ignore = "takes a minute"]
fn we_play_the_stream_of_an_independent_server() {
    thread::scope(|scope| {
        for (rate, channels) in FORMS {
            scope.spawn(move || independent_server(rate, channels));
        }
    });
}

fn independent_server(rate: u32, channels: u32) {
    let directory = TempDir::new("their-server").expect("a directory");
    let input = signal(directory.path(), rate, channels, PEER_SECONDS + 20);
    let port = free_port().expect("a port");
    let (rate, channels) = (rate.to_string(), channels.to_string());
    let place = directory.path().join("serve");
    fs::create_dir_all(&place).expect("a directory");
    let mut command = python("base_server.py");
    command.args([ROOT, "--port", &port.to_string(), "--rate", &rate, "--channels", &channels]);
    let mut server = Process::spawn(command.arg("--input").arg(&input), &place).expect("Python");
    wait_for_answer(port, || match server.wait(Duration::ZERO) {
        Ok(None) => None,
        _ => Some(server.stderr()),
    });
    let recorded = directory.path().join("out.wav");
    let mut client = program();
    client.args(["listen", ROOT, &format!("127.0.0.1:{port}"), "--json"]);
    client.args(["--sample-rate", &rate, "--channels", &channels]);
    client.args(["--duration", &PEER_SECONDS.to_string()]);
    let json = run(client.arg("-o").arg(&recorded));
    let last = json.lines().last().unwrap_or_default();
    let aligned = align(&input, &recorded);
    let first = aligned.text.lines().next().unwrap_or_default();
    println!("their server, {rate} Hz, {channels} ch: {first}");
    assert!(aligned.continuous, "{}\n{last}", aligned.text);
    // The listener begins when it has what it takes until the next list: 4 s, and some segments.
    assert!(number(last, "written_s") > PEER_SECONDS as f64 - 12.0, "{last}");
    assert_eq!(number(last, "gaps"), 0.0, "{last}");
    drop(server);
}

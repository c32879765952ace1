//! The built program: what it prints where, and how it ends, flag by flag and mistake by mistake.

// Every stream here is Opus.
#![cfg(feature = "opus")]
#![allow(clippy::unwrap_used)] // what fails here fails the test

mod support {
    pub mod json;
    pub mod process;
}

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use support::json::Json;
use support::process::{Process, TempDir};

/// A machine under load may be slow to start, but not this slow.
const PATIENCE: Duration = Duration::from_secs(20);
/// It is to stop within a second; the rest is for a machine under load.
const STOP_MAX: Duration = Duration::from_millis(1500);

fn aodns(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aodns"));
    command.args(words).stdin(Stdio::null());
    command
}

fn run(words: &[&str]) -> Output {
    aodns(words).output().unwrap()
}

fn text(octets: &[u8]) -> String {
    String::from_utf8(octets.to_vec()).unwrap()
}

/// Runs to the end; standard error when the status is `status` and standard output is empty.
fn fails(words: &[&str], status: i32) -> String {
    let output = run(words);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{words:?}: {stderr}");
    assert_eq!(text(&output.stdout), "", "{words:?}");
    assert!(stderr.starts_with("aodns: "), "{words:?}: {stderr}");
    stderr
}

/// The JSON lines of a report, each checked to be JSON.
fn lines(octets: &[u8]) -> Vec<Json> {
    // The last line may be half written while the program runs.
    let text = text(octets);
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(Json::read).collect()
}

fn event(lines: &[Json], name: &str) -> Option<Json> {
    lines.iter().rfind(|line| line["event"].str() == name).cloned()
}

fn signal(process: &Process, name: &str) {
    let id = process.id().to_string();
    assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
}

/// Waits for something that a running process brings about.
fn wait_for<T>(what: &str, process: &Process, mut look: impl FnMut(&Process) -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look(process) {
            return found;
        }
        assert!(Instant::now() < deadline, "no {what}: {}", process.stderr());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A running `aodns serve` on a free port of 127.0.0.1.
struct Served {
    process: Process,
    directory: TempDir,
    address: String,
    start: Json,
}

fn serve(words: &[&str]) -> Served {
    let directory = TempDir::new("cli").unwrap();
    let always = ["serve", "music.example.com", "--listen", "127.0.0.1:0", "--json"];
    let mut command = aodns(&[&always[..], words].concat());
    command.current_dir(directory.path());
    let process = Process::spawn(&mut command, directory.path()).unwrap();
    let start = wait_for("start", &process, |p| event(&lines(&p.stdout()), "start"));
    let address = start["listen"].array()[0].str().to_owned();
    Served { process, directory, address, start }
}

impl Served {
    /// Stops it as a service manager does, and returns its report.
    fn stop(mut self) -> Json {
        signal(&self.process, "TERM");
        let status = self.process.wait(PATIENCE).unwrap().expect("an end");
        assert_eq!(status.code(), Some(0), "{}", self.process.stderr());
        event(&lines(&self.process.stdout()), "report").expect("a report")
    }
}

#[test]
fn help_and_version_go_to_standard_output() {
    for words in [&["--help"][..], &["-h"], &["help"], &["serve", "--help"], &["serve", "a", "-h"]]
        .into_iter()
        .chain([&["help", "listen"][..], &["listen", "--help"], &["demo", "--help"]])
    {
        let output = run(words);
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        let stdout = text(&output.stdout);
        assert!(stdout.contains("Usage:") && stdout.contains("--version"), "{words:?}: {stdout}");
        assert!(stdout.lines().all(|line| line.chars().count() < 80), "{words:?}");
        assert!(output.stderr.is_empty(), "{words:?}");
    }
    for words in [&["--version"][..], &["-V"], &["serve", "--version"]] {
        let output = run(words);
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        let sign = |yes| if yes { '+' } else { '-' };
        let expected = format!(
            "aodns {} {}device {}opus {}codec2\n",
            env!("CARGO_PKG_VERSION"),
            sign(cfg!(feature = "device")),
            sign(cfg!(feature = "opus")),
            sign(cfg!(feature = "codec2"))
        );
        assert_eq!(text(&output.stdout), expected);
    }
}

#[test]
fn a_wrong_command_line_is_status_2_and_says_what_is_right() {
    let cases: [(&[&str], &str); 33] = [
        (&[], "a command is missing\nusage: aodns serve|listen|demo"),
        (&["serv"], "unknown command serv; did you mean serve?"),
        (&["\u{1b}[2J"], "unknown command \\u{1b}[2J"),
        (&["--json", "serve"], "flags go behind the command, and --json is before it"),
        (&["serve"], "the stream's domain is missing\nusage: aodns serve <root> [flags]"),
        (&["serve", "a..b"], "no domain name such as music.example.com: it has an empty label"),
        (&["serve", "a b"], "' ' is none of a-z, 0-9, '-' and '_'"),
        (&["serve", "a", "b"], "one domain is enough"),
        (
            &["serve", "a", "--bitrat", "1"],
            "did you mean --bitrate?\nusage: aodns serve <root> --b",
        ),
        (&["serve", "a", "--title"], "--title needs a value: TEXT\nusage: aodns serve <root> --ti"),
        (&["serve", "a", "--title", "--json"], "--title needs a value: TEXT"),
        (&["serve", "a", "--title", "x", "--title=y"], "--title is given twice; once is enough"),
        (&["serve", "a", "--json=yes"], "--json takes no value"),
        (&["serve", "a", "--sample-rate", "0"], "a whole number of 1 to 768000 is needed"),
        (&["serve", "a", "--sample-rate", "44100"], "8000, 12000, 16000, 24000, 48000 Hz"),
        (&["serve", "a", "--channels", "3"], "a stream has 1 or 2 channels"),
        (&["serve", "a", "--frame-ms", "30"], "10, 20, 40 or 60 ms, not 30 ms"),
        (&["serve", "a", "--max-frames-per-segment", "1"], "shorter than 100 ms: set"),
        (&["serve", "a", "--max-sequences", "1"], "it may be 2 to 10000"),
        (&["serve", "a", "--max-sequences", "99999"], "it may be 2 to 10000"),
        (&["serve", "a", "--max-data-per-feed", "256"], "holds at most 255 octets"),
        (&["serve", "a", "--max-bytes-per-record", "20"], "raise --max-data-per-feed or"),
        (&["serve", "a", "--codec", "mp3"], "unknown codec; there are opus, codec2"),
        (&["serve", "a", "--encoding", "rot13"], "there are base91, base85, base64"),
        (&["serve", "a", "-i", "tone:0"], "a frequency of 1 to 24000 Hz, as in tone:440"),
        (&["serve", "a", "--metrics", "192.0.2.1"], "or add --metrics-anywhere"),
        (&["serve", "a", "--dns-port", "65536"], "a whole number of 0 to 65535 is needed"),
        (&["listen", "a"], "a server is missing"),
        (&["listen", "a", "::1"], "an IPv6 address goes in brackets: [::1]"),
        (
            &["listen", "a", "system", "--latency", "soon"],
            "0.1 to 60 seconds is needed, such as 1.5, or auto\nusage: aodns listen <root> <server[:port]>... --latency auto|SECONDS",
        ),
        (&["listen", "a", "system", "--latency", "-1"], "--latency -1: a time"),
        (&["listen", "a", "system", "--latency", "nan"], "--latency nan: a time"),
        (&["demo", "--seconds", "1"], "a time of 3 to 86400 seconds is needed"),
    ];
    for (words, expected) in cases {
        let stderr = fails(words, 2);
        assert!(stderr.contains(expected), "{words:?}: {stderr}");
        assert!(stderr.contains("\nusage: aodns ") && stderr.ends_with(" --help` says more\n"));
    }
}

#[cfg(unix)]
#[test]
fn arguments_that_are_no_text_are_refused() {
    use std::os::unix::ffi::OsStrExt;
    let junk = std::ffi::OsStr::from_bytes(b"\xff\xfe");
    for words in [&["serve"][..], &["serve", "a", "--title"], &["serve", "a", "-i"]] {
        let output = aodns(words).arg(junk).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(text(&output.stderr).contains("is not valid UTF-8"), "{words:?}");
    }
}

#[test]
fn a_source_that_does_not_open_is_status_1_and_named() {
    let directory = TempDir::new("cli").unwrap();
    let text_file = directory.path().join("notes.wav");
    std::fs::write(&text_file, "this is no sound").unwrap();
    let missing = directory.path().join("missing.wav");
    let local = ["serve", "a.example", "--listen", "127.0.0.1:0", "-i"];
    for (path, expected) in [
        (&*text_file, "notes.wav"),
        (&*missing, "missing.wav\": no such file or directory"),
        (directory.path(), "is a directory"),
    ] {
        let stderr = fails(&[&local[..], &[path.to_str().unwrap()]].concat(), 1);
        assert!(stderr.contains(expected), "{stderr}");
        assert!(stderr.ends_with("; `--input` takes a WAV file of PCM\n"), "{stderr}");
    }
}

#[test]
fn a_port_that_is_taken_is_named_with_a_cure() {
    let taken = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let stderr = fails(&["serve", "a.example", "-i", "demo", "--listen", &address], 1);
    assert_eq!(
        stderr,
        format!(
            "aodns: cannot bind udp {address}: another program has this port; choose another with \
             --dns-port, or 0 for a free one\n"
        )
    );
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let listen = ["serve", "a.example", "-i", "demo", "--listen", "127.0.0.1:0"];
    let stderr = fails(&[&listen[..], &["--metrics", &address]].concat(), 1);
    assert!(stderr.contains(&format!("cannot bind metrics tcp {address}")), "{stderr}");
    assert!(stderr.contains("; name another with --metrics"), "{stderr}");
    // Named twice is a matter of the command line.
    let twice = ["--listen", "127.0.0.1", "--listen", "127.0.0.1:5053"];
    let stderr = fails(&[&["serve", "a.example", "-i", "demo"], &twice[..]].concat(), 2);
    assert!(stderr.contains("127.0.0.1:5053 is to be listened on twice"), "{stderr}");
    // An address of the documentation range, which no machine has (RFC 5737).
    let stderr = fails(&["serve", "a.example", "-i", "demo", "--listen", "192.0.2.1:0"], 1);
    assert!(stderr.contains("no interface of this machine has this address"), "{stderr}");
}

#[test]
fn a_state_file_without_a_number_is_named() {
    let directory = TempDir::new("cli").unwrap();
    let path = directory.path().join("state");
    let listen = ["serve", "a.example", "-i", "demo", "--listen", "127.0.0.1:0", "--state"];
    let listen = [&listen[..], &[path.to_str().unwrap()]].concat();
    for (held, wrong) in [
        ("many", "it holds no number; delete it"),
        ("18446744073709551615", "that number is too high; delete it"),
    ] {
        std::fs::write(&path, held).unwrap();
        let stderr = fails(&listen, 1);
        assert!(stderr.contains(wrong), "{stderr}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), held);
    }
    // A power cut may leave it empty. A link stays a link.
    std::fs::write(&path, "").unwrap();
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let words = [&listen[..7], &[link.to_str().unwrap(), "--duration", "1"]].concat();
    assert_eq!(run(&words).status.code(), Some(0));
    assert!(std::fs::read_to_string(&path).unwrap().trim().parse::<u64>().is_ok());
    assert!(link.is_symlink());
    let words = [&listen[..7], &["/dev/zero"]].concat();
    assert!(fails(&words, 1).contains("it holds no number"));
    let words = [&listen[..7], &[directory.path().to_str().unwrap()]].concat();
    let stderr = fails(&words, 1);
    assert!(stderr.ends_with("it is a directory; name a file in it\n"), "{stderr}");
}

#[test]
fn a_source_without_any_sound_is_a_failure() {
    let directory = TempDir::new("cli").unwrap();
    let path = directory.path().join("empty.wav");
    write_wav(&path, 0);
    let path = path.to_str().unwrap();
    let output = run(&["serve", "a.example", "-i", path, "--listen", "127.0.0.1:0"]);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("ended without any sound"), "{stderr}");
}

#[test]
fn one_server_without_an_address_is_left_for_the_next() {
    let served = serve(&["-i", "demo"]);
    let servers = ["a.invalid", &served.address];
    let words = ["-o", "null", "--duration", "3"];
    let output = run(&[&["listen", "music.example.com"][..], &servers, &words].concat());
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("warning: cannot look up server a.invalid"), "{stderr}");
    served.stop();
}

#[test]
fn a_stream_that_does_not_exist_is_not_shown_as_one() {
    let served = serve(&["-i", "demo"]);
    let words = ["listen", "other.music.example.com", &served.address, "-o", "null"];
    let output = run(&[&words[..], &["--duration", "3"]].concat());
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("there is no stream of this name"), "{stderr}");
    assert!(!stderr.contains("stream opus"), "{stderr}");
    served.stop();
}

#[test]
fn n11_addresses_of_name_servers_are_no_reason_to_truncate() {
    let servers: Vec<_> = (1..9)
        .map(|n| format!("ns{n}.music.example.com=192.0.2.{n}"))
        .chain((1..9).map(|n| format!("ns{n}.music.example.com=2001:db8::{n}")))
        .collect();
    let words = servers.iter().flat_map(|server| ["--ns", server]);
    let served = serve(&["-i", "demo"].into_iter().chain(words).collect::<Vec<_>>());
    let mut message = query(b"\x05music\x07example\x03com\x00", None);
    let qtype = message.len() - 3;
    message[qtype] = 2;
    let answer = exchange(&served.address, &message);
    assert!(answer.len() <= 512 && answer[2] & 2 == 0, "{} octets", answer.len());
    assert!(answer[7] == 8 && answer[11] > 0, "eight, with the addresses that fit");
    served.stop();
}

#[test]
fn a_file_without_secrets_for_cookies_is_named() {
    let directory = TempDir::new("cli").unwrap();
    let path = directory.path().join("secrets");
    let words = ["serve", "a.example", "-i", "demo", "--listen", "127.0.0.1:0", "--cookie-secrets"];
    let words = [&words[..], &[path.to_str().unwrap()]].concat();
    let expect = |expected: &str| {
        let stderr = fails(&words, 1);
        let named = stderr.contains("secrets for cookies") && stderr.contains(words[7]);
        assert!(named && stderr.contains(expected) && stderr.contains("openssl rand"), "{stderr}");
    };
    expect("no such file or directory;");
    std::fs::write(&path, "# ours\nsecret").unwrap();
    expect("line 2 is not 32 hexadecimal digits");
}

#[test]
fn a_sink_that_cannot_open_is_named_before_anything_is_asked() {
    let directory = TempDir::new("cli").unwrap();
    let inside = directory.path().join("no/such.wav");
    let pipe = directory.path().join("pipe.wav");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for (path, expected) in [
        (inside.as_path(), "there is no such directory; choose another --output"),
        (directory.path(), "it is a directory; choose another --output"),
        // Opening it would wait for somebody who reads.
        (&pipe, "it is no regular file; choose another --output"),
    ] {
        let words = ["listen", "a.example", "127.0.0.1:9", "-o", path.to_str().unwrap()];
        let stderr = fails(&words, 1);
        assert!(stderr.contains(expected), "{stderr}");
    }
}

#[test]
fn a_reader_that_hangs_keeps_no_server_from_ending() {
    let words = ["serve", "a.example", "-i", "demo", "--listen", "127.0.0.1:0"];
    let words = [&words[..], &["--json", "--log-level", "debug", "--duration", "1"]].concat();
    let (unread, out) = aodns::pipeline::pipe().unwrap();
    // Full, as after minutes of lines that nobody reads.
    std::fs::File::from(out.try_clone().unwrap()).write_all(&[b'\n'; 65_536]).unwrap();
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", "20", env!("CARGO_BIN_EXE_aodns")]).args(&words);
    command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
    let status = command.status().unwrap();
    assert!(status.success(), "{status}: killed, as it went on");
    drop(unread);
}

#[test]
fn a_bit_rate_that_packets_cannot_hold_is_warned_of() {
    let words = ["serve", "a.example", "-i", "demo", "--listen", "127.0.0.1:0"];
    let words = [&words[..], &["--duration", "0.5", "--bitrate"]].concat();
    for (bitrate, warned) in [("16000", false), ("64000", true)] {
        let output = run(&[&words[..], &[bitrate]].concat());
        let stderr = text(&output.stderr);
        let warning = stderr.contains("warning: packets that fit a string hold 18480 bit/s");
        assert_eq!(warning, warned, "{stderr}");
    }
}

#[test]
fn questions_that_cannot_be_sent_are_named_as_such() {
    // How many descriptors are just enough to begin with, so that none is left for a question, depends on
    // what is inherited; fewer are named as well.
    let found = (8..32).any(|limit| {
        let words = "exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-; ulimit -n $0; exec \"$@\"";
        let mut command = Command::new("sh");
        command.args(["-c", words, &limit.to_string(), env!("CARGO_BIN_EXE_aodns")]);
        command.args(["listen", "a.example", "127.0.0.1:9", "-o", "null", "--duration", "2"]);
        let output = command.output().unwrap();
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{limit}: {stderr}");
        let begun = stderr.contains("listened\n");
        assert!(begun || stderr.contains("too many open files"), "{limit}: {stderr}");
        if begun {
            let named = "questions could not be sent; is there a network,";
            assert!(stderr.contains(named), "{limit}: {stderr}");
        }
        begun
    });
    assert!(found, "it never begins");
}

#[test]
fn without_a_sound_device_the_cure_is_named() {
    // Nothing is found without a home and a configuration; a machine with sound passes as well.
    if aodns::audio::default_output_works() {
        return;
    }
    let stderr = fails(&["listen", "a.example", "127.0.0.1:9"], 1);
    assert!(stderr.contains("`--output FILE.wav` needs no device"), "{stderr}");
    // There may be an input all the same: then it serves, and ends in time.
    let words = ["serve", "a.example", "--listen", "127.0.0.1:0", "--duration", "0.3"];
    let output = run(&words);
    let stderr = text(&output.stderr);
    match output.status.code() {
        Some(0) => {}
        status => {
            assert_eq!(status, Some(1), "{stderr}");
            assert_eq!(stderr.matches("--input demo").count(), 1, "{stderr}");
            assert!(stderr.contains("--input FILE.wav"), "{stderr}");
        }
    }
}

#[test]
fn a_server_name_that_does_not_exist_is_named() {
    // Reserved never to exist (RFC 2606); a machine without any resolver says so as well.
    let stderr = fails(&["listen", "a.example", "no.such.invalid", "-o", "null"], 1);
    assert!(stderr.contains("cannot look up server no.such.invalid: "), "{stderr}");
    assert!(stderr.contains("its address works without a look-up"), "{stderr}");
}

#[test]
fn the_start_tells_what_is_served_where_and_what_is_missing() {
    let served = serve(&["-i", "demo", "--title", "Night\u{1b}[2J", "--dns-port", "7"]);
    let delegation = served.start["delegation"].array();
    assert_eq!(delegation[0].str(), "music.example.com. 3600 IN NS ns.music.example.com.");
    assert_eq!(served.start["missing"].array()[0].str(), "ns.music.example.com");
    let stderr = served.process.stderr();
    for expected in [
        "serving \"Night\\u{1b}[2J\" music.example.com\n",
        "opus 16000 Hz mono, 60 ms a packet, in base91; segments of at most 720 ms, 75 in",
        &format!("aodns listen music.example.com {}\n", served.address),
        "  music.example.com. 3600 IN NS ns.music.example.com.\n",
        "warning: ns.music.example.com has no address",
        "warning: resolvers ask at port 53 alone",
    ] {
        assert!(stderr.contains(expected), "{expected:?} is not in {stderr}");
    }
    served.stop();
    let served = serve(&["-i", "demo", "--ns", "ns.music.example.com=192.0.2.1"]);
    assert!(served.start["missing"].array().is_empty());
    assert!(!served.process.stderr().contains("has no address"));
    served.stop();
}

#[test]
fn a_signal_ends_it_within_a_second_with_a_report() {
    for name in ["INT", "TERM"] {
        let mut served = serve(&["-i", "demo", "--metrics", "0"]);
        // A scraper that says nothing must not keep it.
        let _silent = TcpStream::connect(served.start["metrics"].str()).unwrap();
        wait_for("status", &served.process, |p| event(&lines(&p.stdout()), "status"));
        let begun = Instant::now();
        signal(&served.process, name);
        let status = served.process.wait(PATIENCE).unwrap().expect("an end");
        let took = begun.elapsed();
        assert_eq!(status.code(), Some(0));
        assert!(took < STOP_MAX, "it took {took:?}");
        let report = event(&lines(&served.process.stdout()), "report").unwrap();
        assert!(report["segments"].number() >= 1);
        assert!(
            served.process.stderr().contains("served\n  sound "),
            "{}",
            served.process.stderr()
        );
    }
}

#[test]
fn a_source_blocked_in_a_read_does_not_keep_it() {
    let directory = TempDir::new("cli").unwrap();
    let state = directory.path().join("state");
    let words = ["serve", "a.example", "--listen", "127.0.0.1:0", "-i", "-", "--json", "--state"];
    let mut child = aodns(&[&words[..], &[state.to_str().unwrap()]].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Once it tells its start it heeds signals; its standard input stays open and silent.
    let mut first = [0; 1];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    let begun = Instant::now();
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-s", "TERM", &id]).status().unwrap().success());
    assert_eq!(wait(&mut child), Some(0));
    let took = begun.elapsed();
    assert!(took < STOP_MAX, "it took {took:?}");
    assert!(state.is_file(), "the last number is kept");
}

fn wait(child: &mut Child) -> Option<i32> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    panic!("it does not end");
}

/// Waits for the end of a program, with this status; what it wrote to standard error.
fn ends(child: &mut Child, status: i32) -> String {
    assert_eq!(wait(child), Some(status));
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    stderr
}

#[test]
fn a_server_whose_json_nobody_reads_any_more_goes_on() {
    let words = ["serve", "a.example", "--listen", "127.0.0.1:0", "-i", "demo", "--json"];
    let words = [&words[..], &["--duration", "3"]].concat();
    let began = Instant::now();
    let mut child = aodns(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let stderr = ends(&mut child, 0);
    assert!(began.elapsed() >= Duration::from_secs(3), "it ended after {:?}", began.elapsed());
    let warning =
        "warning: standard output is closed; there are no more JSON lines, the rest goes on\n";
    assert_eq!(stderr.matches(warning).count(), 1, "{stderr}");
    assert!(stderr.contains("served\n") && !stderr.contains("panicked"), "{stderr}");
}

#[test]
fn a_listener_whose_json_nobody_reads_any_more_ends_and_says_why() {
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let words = ["listen", "a.example", &address, "-o", "null", "--json"];
    let mut child = aodns(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let stderr = ends(&mut child, 1);
    assert!(
        stderr.contains("aodns: nobody reads the JSON lines on standard output any more"),
        "{stderr}"
    );
    assert!(stderr.contains("listened\n"), "{stderr}");
}

#[test]
fn where_json_lines_go_nothing_else_goes() {
    let address = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let words = ["listen", "a.example", &address, "-o", "-", "--json", "--duration", "2"];
    let output = run(&words);
    assert_eq!(output.status.code(), Some(1));
    let stderr = text(&output.stderr);
    let lines: Vec<_> = stderr.lines().map(Json::read).collect();
    let last = lines.last().and_then(|line| line.get("event")).map(Json::str);
    assert_eq!(last, Some("failure"), "{stderr}");
}

#[test]
fn a_source_that_gives_no_sound_is_a_failure() {
    let words = ["serve", "a.example", "--listen", "127.0.0.1:0", "-i", "-", "--duration", "6"];
    let mut child = aodns(&words).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let stderr = ends(&mut child, 1);
    assert!(stderr.contains("warning: no sound has come from the source yet"), "{stderr}");
    assert!(stderr.contains("aodns: standard input gave no sound in 6."), "{stderr}");
}

#[test]
fn what_fits_no_datagram_where_nothing_answers_over_tcp_is_named() {
    // Everything is truncated, and nobody has the port for TCP.
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let end = 12 + buffer[12..length].iter().position(|&octet| octet == 0).unwrap() + 5;
            buffer[2..4].copy_from_slice(&[0x86, 0x00]);
            buffer[6..12].fill(0);
            socket.send_to(&buffer[..end], from).unwrap();
        }
    });
    let words = ["listen", "a.example", &address, "-o", "null", "--duration", "6"];
    let output = run(&words);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("as nothing answers over TCP; is TCP let through"), "{stderr}");
    // Whoever is behind that address is not to suffer for it.
    let questions = stderr.split(" questions").next().unwrap().rsplit(' ').next().unwrap();
    assert!(questions.parse::<u32>().unwrap() < 150, "{stderr}");
}

#[test]
fn a_closed_standard_output_is_a_quiet_end() {
    for words in [&["--help"][..], &["serve", "--help"], &["--version"]] {
        let mut child = aodns(words).stdout(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        assert_eq!(wait(&mut child), Some(0), "{words:?}");
    }
}

#[test]
fn a_stream_is_heard_and_reported() {
    let served = serve(&["-i", "tone:440", "--title", "A", "--log-level", "debug"]);
    let wav = served.directory.path().join("out.wav");
    let output = run(&[
        "listen",
        "music.example.com",
        &served.address,
        "-o",
        wav.to_str().unwrap(),
        "--duration",
        "4",
        "--json",
        "--verbose",
    ]);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let lines = lines(&output.stdout);
    assert!(lines.len() >= 4, "a line a second: {lines:?}");
    let report = event(&lines, "report").unwrap();
    assert!(report["segments"].number() >= 2);
    assert!(report["written_s"].float() > 1.0);
    assert!(report["first_sound_s"].float() < 3.0);
    assert_eq!(report["server"].str(), served.address);
    assert_eq!(report["manner"].str(), "schedule");
    assert_eq!(report["stream"]["title"].str(), "A");
    assert!(
        stderr.contains("stream \"A\", opus 16000 Hz mono in base91, from 127.0.0.1:"),
        "{stderr}"
    );
    assert!(stderr.contains("listened\n  time to first sound  "), "{stderr}");
    assert!(stderr.contains("playing 0:0"), "a status line with --verbose: {stderr}");
    assert_eq!(&std::fs::read(&wav).unwrap()[..4], b"RIFF");
    let stderr = served.process.stderr();
    assert!(stderr.contains(" queries (") && stderr.contains("(p99)"), "{stderr}");
    let report = served.stop();
    assert!(report["answers"]["segment"].number() >= 2);
    assert!(report["answer_p99_s"].float() > 0.0);
}

#[test]
fn sound_on_standard_output_is_sound_alone() {
    let served = serve(&["-i", "tone:440"]);
    let words =
        ["listen", "music.example.com", &served.address, "-o", "-", "--duration", "3", "--json"];
    let output = run(&words);
    assert_eq!(output.status.code(), Some(0));
    // A second of 16 kHz mono at least, in whole samples, and a tone.
    assert!(output.stdout.len() > 32_000 && output.stdout.len() % 2 == 0);
    let samples = output.stdout.chunks_exact(2).map(|two| i16::from_le_bytes([two[0], two[1]]));
    assert!(samples.map(i16::unsigned_abs).max() > Some(1000));
    let lines = lines(&output.stderr);
    assert!(event(&lines, "report").is_some() && event(&lines, "status").is_some());
    // A player that ends is no failure.
    let words = ["listen", "music.example.com", &served.address, "-o", "-"];
    let mut child = aodns(&words).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut first = [0; 100];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    drop(child.stdout.take());
    assert_eq!(wait(&mut child), Some(0));
    served.stop();
}

#[test]
fn quiet_is_quiet() {
    let served = serve(&["-i", "demo"]);
    let words = ["listen", "music.example.com", &served.address];
    let output = run(&[&words[..], &["-o", "null", "--duration", "2", "--quiet"]].concat());
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{}", text(&output.stderr));
    served.stop();
}

#[test]
fn hearing_nothing_for_the_whole_duration_is_a_failure() {
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let output = run(&[
        "listen",
        "a.example",
        &address,
        "-o",
        "null",
        "--duration",
        "2",
        "--timeout",
        "0.05",
        "--retries",
        "1",
        "--retry-interval",
        "0.05",
    ]);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("aodns: heard nothing of a.example in 2."), "{stderr}");
    assert!(stderr.contains(&format!("no answer ({address})\n")), "{stderr}");
}

#[test]
fn who_stops_before_the_last_attempt_is_told_that_nothing_answered() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let output = run(&["listen", "a.example", &address, "-o", "null", "--duration", "1"]);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(&format!("no answer ({address})\n")), "{stderr}");
}

#[test]
fn a_server_that_waits_for_its_source_says_so_and_can_be_ended() {
    let directory = TempDir::new("cli").unwrap();
    let pipe = directory.path().join("pipe.wav");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut command = Command::new(env!("CARGO_BIN_EXE_aodns"));
    command.args(["serve", "a.example", "--listen", "127.0.0.1:0", "-i"]).arg(&pipe);
    let mut process = Process::spawn(&mut command, directory.path()).unwrap();
    let waits = |process: &Process| {
        process.stderr().contains("waiting for a program that writes to ").then_some(())
    };
    wait_for("word of the wait", &process, waits);
    signal(&process, "TERM");
    assert!(process.wait(PATIENCE).unwrap().is_some(), "it goes on");
    // What comes out of it is no WAV file, and ffmpeg is not the cure.
    let mut writer = Command::new("sh").args(["-c", "printf %0100d 0 >\"$0\""]).arg(&pipe).spawn();
    let path = pipe.to_str().unwrap();
    let words =
        ["serve", "a.example", "--listen", "127.0.0.1:0", "--log-level", "error", "-i", path];
    let stderr = fails(&words, 1);
    assert!(stderr.contains(&format!("standard input, with --input - <{path}")), "{stderr}");
    writer.as_mut().unwrap().wait().unwrap();
    // Nobody writes to it now: what cannot be done is said before that is waited for.
    let stderr = fails(&[&words[..], &["--loop"]].concat(), 1);
    assert!(stderr.contains("it is a pipe, which cannot be begun again"), "{stderr}");
}

#[test]
fn a_terminal_that_hangs_up_ends_a_listener_in_order_unless_it_was_told_not_to_mind() {
    // Whatever these tests were started with.
    for (option, seconds) in [("--default-signal=HUP", "600"), ("--ignore-signal=HUP", "3")] {
        let directory = TempDir::new("cli").unwrap();
        let mut command = Command::new("env");
        command.args([option, env!("CARGO_BIN_EXE_aodns"), "demo", "--output", "x.wav"]);
        command.args(["--seconds", seconds]);
        let mut process = Process::spawn(&mut command, directory.path()).unwrap();
        let begun =
            |process: &Process| process.stderr().contains("a listener that plays to").then_some(());
        wait_for("word of the start", &process, begun);
        signal(&process, "HUP");
        let status = process.wait(PATIENCE).unwrap().expect("it goes on");
        let stderr = process.stderr();
        assert_eq!(status.code(), Some(0), "{stderr}");
        // Who does not mind hears the three seconds to their end.
        let whole = stderr.contains("sound                0:03") || stderr.contains("0:02");
        assert!(seconds == "600" || whole, "{stderr}");
        assert!(stderr.contains("time to first sound"), "no report: {stderr}");
    }
}

#[test]
fn who_asks_where_no_server_listens_is_told_so() {
    // Bound and closed: nobody else has this port now.
    let address = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let output = run(&["listen", "a.example", &address, "-o", "null", "--duration", "1"]);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let cause = format!("no answer; no server listens at this address and port ({address})\n");
    assert!(stderr.contains(&cause), "{stderr}");
}

#[test]
fn the_demo_works_without_a_device_and_reports() {
    let directory = TempDir::new("cli").unwrap();
    let output = aodns(&["demo", "--seconds", "4", "--output", "x.wav", "--json"])
        .current_dir(directory.path())
        .output()
        .unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    for row in ["time to first sound", "latency", "segments", "gaps", "on the wire"] {
        assert!(stderr.contains(&format!("\n  {row} ")), "{row}: {stderr}");
    }
    assert!(stderr.ends_with("the sound is in x.wav\n"), "{stderr}");
    let report = event(&lines(&output.stdout), "report").unwrap();
    assert_eq!(report["output"].str(), "x.wav");
    assert!(report["listener"]["written_s"].float() > 1.0);
    assert_eq!(report["listener"]["lost"].number(), 0);
    assert!(report["server"]["segments"].number() >= 3);
    assert!(std::fs::metadata(directory.path().join("x.wav")).unwrap().len() > 32_000);
}

#[test]
fn the_demo_chooses_a_file_where_there_is_no_device() {
    if aodns::audio::default_output_works() {
        return;
    }
    let directory = TempDir::new("cli").unwrap();
    let output = aodns(&["demo", "--seconds", "3"]).current_dir(directory.path()).output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("the sound is in aodns-demo.wav"), "{stderr}");
    assert!(directory.path().join("aodns-demo.wav").is_file());
}

/// What a scraper is answered.
fn http(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn counters_are_offered_to_prometheus() {
    let served = serve(&["-i", "demo", "--metrics", "0"]);
    let address = served.start["metrics"].str().to_owned();
    assert!(address.starts_with("127.0.0.1:"));
    exchange(&served.address, &query(b"\x06config\x05music\x07example\x03com\x00", None));
    let samples = [
        "aodns_queries_total{transport=\"udp\"} 1\n",
        "aodns_answers_total{outcome=\"config\"} 1\n",
        "# TYPE aodns_segments_total counter\n",
        "aodns_answer_seconds{quantile=\"0.99\"} 0.",
    ];
    // An answer is counted once it is sent.
    let limit = Instant::now() + PATIENCE;
    loop {
        let answer = http(&address, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4"),
            "{head}"
        );
        assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
        if samples.iter().all(|sample| body.contains(sample)) {
            break;
        }
        assert!(Instant::now() < limit, "{body}");
    }
    assert!(http(&address, "GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
    let refused = http(&address, "PUT /metrics HTTP/1.1\r\n\r\n");
    assert!(refused.starts_with("HTTP/1.1 405 ") && refused.contains("\r\nAllow: GET, HEAD\r\n"));
    let head = http(&address, "HEAD /metrics HTTP/1.1\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
    let absolute = http(&address, "GET http://127.0.0.1/metrics HTTP/1.1\r\n\r\n");
    assert!(absolute.starts_with("HTTP/1.1 200 "), "{absolute}");
    assert!(http(&address, "\r\n\r\n").starts_with("HTTP/1.1 400 "));
    // With a body, that is not waited for but must not lose the answer either.
    let body = format!("PUT / HTTP/1.1\r\nContent-Length: 60000\r\n\r\n{}", "x".repeat(60_000));
    assert!(http(&address, &body).starts_with("HTTP/1.1 405 "));
    let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(9000));
    assert!(http(&address, &long).starts_with("HTTP/1.1 431 "));
    served.stop();
}

/// A query for TXT in class IN; with an OPT record of 1232 octets and a client cookie.
fn query(name: &[u8], cookie: Option<[u8; 8]>) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 0, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(cookie.is_some())];
    message.extend_from_slice(name);
    message.extend_from_slice(&[0, 16, 0, 1]);
    if let Some(cookie) = cookie {
        message.extend_from_slice(&[0, 0, 41, 0x04, 0xD0, 0, 0, 0, 0, 0, 12, 0, 10, 0, 8]);
        message.extend_from_slice(&cookie);
    }
    message
}

fn exchange(address: &str, message: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send(message).unwrap();
    let mut answer = vec![0; 65_535];
    let octets = socket.recv(&mut answer).unwrap();
    answer.truncate(octets);
    answer
}

#[test]
fn n18_e12_a_server_says_its_version_and_takes_the_cookies_of_another_with_the_same_secret() {
    let directory = TempDir::new("cli").unwrap();
    let (ours, other) = ("0123456789abcdef0123456789ABCDEF", "00112233445566778899aabbccddeeff");
    let serve_with = |secrets: &str| {
        let path = directory.path().join("secrets");
        std::fs::write(&path, secrets).unwrap();
        let path = path.to_str().unwrap();
        serve(&["-i", "demo", "--version-text", "a few words", "--cookie-secrets", path])
    };
    let name = b"\x05music\x07example\x03com\x00";
    // The cookie is at the end of an answer, as it is at the end of a query.
    let cookie = |answer: &[u8]| answer[answer.len() - 24..].to_vec();
    let with = |cookie: &[u8]| {
        let mut message = query(name, Some([7; 8]));
        let length = message.len();
        message.truncate(length - 8);
        message[length - 12 - 2..length - 12].copy_from_slice(&[0, 4 + cookie.len() as u8]);
        message[length - 10..length - 8].copy_from_slice(&[0, cookie.len() as u8]);
        message.extend_from_slice(cookie);
        message
    };
    let first = serve_with(ours);
    let made = cookie(&exchange(&first.address, &query(name, Some([7; 8]))));
    for (secrets, taken) in [
        (ours.to_owned(), true),
        (format!("{other}\n{ours}\n"), true),
        (format!("{other}\n"), false),
    ] {
        let second = serve_with(&secrets);
        let told = cookie(&exchange(&second.address, &with(&made)));
        assert_eq!(told[..8], [7; 8]);
        assert_eq!(told == made, taken, "{secrets}");
        second.stop();
    }
    let mut message = query(b"\x07version\x04bind\x00", None);
    let length = message.len();
    message[length - 1] = 3;
    let answer = exchange(&first.address, &message);
    assert!(answer[3] & 15 == 0 && answer.ends_with(b"\x0Ba few words"), "{answer:?}");
    first.stop();
}

#[test]
fn z7_a_segment_in_a_single_datagram_is_not_truncated() {
    for (words, truncated) in [(&["--single-datagram"][..], false), (&[], true)] {
        let loud =
            ["-i", "demo", "--sample-rate", "48000", "--channels", "2", "--bitrate", "64000"];
        let served = serve(&[&loud[..], words].concat());
        let first = wait_for("segments", &served.process, |p| {
            let status = event(&lines(&p.stdout()), "status")?;
            (status["segments"].number() >= 3).then(|| status["first_sequence"].number())
        });
        for sequence in first..first + 3 {
            let label = format!("seq_{sequence}");
            let mut name = vec![label.len() as u8];
            name.extend_from_slice(label.as_bytes());
            name.extend_from_slice(b"\x05music\x07example\x03com\x00");
            let answer = exchange(&served.address, &query(&name, Some([7; 8])));
            assert!(answer.len() <= 1232);
            assert_eq!(answer[2] & 2 != 0, truncated, "TC of {} octets", answer.len());
            assert_eq!(answer[6..8] == [0, 0], truncated, "answers");
            // Packets are as large as they may be at this rate: no room is given away.
            assert!(truncated || answer.len() > 900, "{} octets", answer.len());
        }
        served.stop();
    }
}

#[test]
fn a_finite_source_ends_with_status_0_when_listeners_had_their_time() {
    let directory = TempDir::new("cli").unwrap();
    let path = directory.path().join("short.wav");
    write_wav(&path, 8000);
    let path = path.to_str().unwrap();
    let mut served = serve(&["-i", path, "--max-sequences", "2"]);
    wait_for("end of the source", &served.process, |p| {
        let status = event(&lines(&p.stdout()), "status")?;
        (status["ended"] == Json::Bool(true)).then_some(())
    });
    // Listeners have 20 s to hear the rest; the server goes on answering meanwhile.
    let status = served.process.wait(Duration::from_secs(40)).unwrap().expect("an end");
    assert_eq!(status.code(), Some(0));
    let report = event(&lines(&served.process.stdout()), "report").unwrap();
    // Half a second is nine frames of 60 ms, the last one partial.
    assert_eq!((report["frames"].number(), report["segments"].number()), (9, 1));
    assert!(
        served.process.stderr().contains("the source has ended"),
        "{}",
        served.process.stderr()
    );
}

#[test]
fn a_listener_ends_with_the_stream() {
    let directory = TempDir::new("cli").unwrap();
    let path = directory.path().join("short.wav");
    write_wav(&path, 64_000);
    let served = serve(&["-i", path.to_str().unwrap()]);
    // However few attempts are made.
    for retries in ["10", "0"] {
        let listen = ["listen", "music.example.com", &served.address, "-o", "null", "--json"];
        let limits = ["--retries", retries, "--duration", "20"];
        let output = run(&[&listen[..], &limits].concat());
        let stderr = text(&output.stderr);
        let report = event(&lines(&output.stdout), "report").unwrap();
        assert_eq!(report["state"].str(), "ended", "{report:?}");
        assert!(report["elapsed_s"].float() < 15.0, "{report:?}");
        assert_eq!(report["gaps"].number(), 0, "{report:?}");
        if retries == "10" {
            assert_eq!(output.status.code(), Some(0), "{stderr}");
            assert!(report["written_s"].float() > 3.0, "{report:?}");
        } else {
            // It comes when everything is over.
            assert_eq!(output.status.code(), Some(1), "{stderr}");
            assert!(stderr.contains(": the stream has ended (127.0.0.1:"), "{stderr}");
        }
    }
    served.stop();
}

/// A WAV file of so many samples at 16 kHz mono.
fn write_wav(path: &Path, samples: u32) {
    let mut file = Vec::new();
    file.extend_from_slice(b"RIFF");
    file.extend_from_slice(&(36 + samples * 2).to_le_bytes());
    file.extend_from_slice(b"WAVEfmt ");
    file.extend_from_slice(&16u32.to_le_bytes());
    file.extend_from_slice(&[1, 0, 1, 0]);
    file.extend_from_slice(&16_000u32.to_le_bytes());
    file.extend_from_slice(&32_000u32.to_le_bytes());
    file.extend_from_slice(&[2, 0, 16, 0]);
    file.extend_from_slice(b"data");
    file.extend_from_slice(&(samples * 2).to_le_bytes());
    file.extend((0..samples).flat_map(|n| ((n % 100) as i16 * 100).to_le_bytes()));
    std::fs::write(path, file).unwrap();
}

#[test]
fn a_looped_file_does_not_end() {
    let directory = TempDir::new("cli").unwrap();
    let path = directory.path().join("short.wav");
    write_wav(&path, 8000);
    let served = serve(&["-i", path.to_str().unwrap(), "--loop", "--state", "state"]);
    wait_for("a second of sound", &served.process, |p| {
        let status = event(&lines(&p.stdout()), "status")?;
        (status["captured_s"].float() > 1.0).then_some(())
    });
    let state = served.directory.path().join("state");
    let ahead: i64 = std::fs::read_to_string(&state).unwrap().trim().parse().unwrap();
    assert!(ahead > 10_000_000_000, "a number of the clock: {ahead}");
    served.stop();
}

#[test]
fn a8_limited_clients_are_named_and_a_dry_run_limits_nobody() {
    let config = query(b"\x06config\x05music\x07example\x03com\x00", None);
    for (words, verb) in [(&[][..], "limiting"), (&["--rrl", "dry-run"], "would limit")] {
        let strict = ["-i", "demo", "--rrl-exempt", "none", "--rrl-responses", "5"];
        let served = serve(&[&strict[..], words].concat());
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.connect(&served.address).unwrap();
        (0..100).for_each(|_| assert!(socket.send(&config).is_ok()));
        let line = format!("warning: {verb} 127.0.0.0/24 (too many answers a second)\n");
        wait_for("warning", &served.process, |p| p.stderr().contains(&line).then_some(()));
        let process = &served.process;
        wait_for("all queries", process, |p| {
            let status = event(&lines(&p.stdout()), "status")?;
            (status["udp_queries"].number() == 100).then_some(())
        });
        assert_eq!(served.process.stderr().matches("127.0.0.0/24").count(), 1, "once in 30 s");
        let report = served.stop();
        let (answers, dropped) = (&report["answers"]["config"], &report["dropped_rate"]);
        match words {
            [] => assert_eq!(answers.number() + dropped.number(), 100),
            _ => assert_eq!(answers.number(), 100),
        }
        assert!(dropped.number() > 0);
    }
}

#[test]
fn counters_are_told_once_a_second_at_most() {
    let begun = Instant::now();
    let served = serve(&["-i", "demo", "--log-level", "debug"]);
    let counters = |p: &Process| p.stderr().matches(" tcp open, answered in ").count();
    wait_for("counters", &served.process, |p| (counters(p) >= 3).then_some(()));
    assert!(counters(&served.process) <= begun.elapsed().as_secs() as usize);
    served.stop();
    let served = serve(&["-i", "demo", "--log-level", "error"]);
    wait_for("status", &served.process, |p| event(&lines(&p.stdout()), "status"));
    assert_eq!(served.process.stderr(), "");
    served.stop();
}

#[test]
fn on_a_terminal_the_status_line_is_rewritten_in_place() {
    let Some(script) = support::process::find_program("script") else {
        return support::process::skip("the status line", "bsdutils");
    };
    let program = env!("CARGO_BIN_EXE_aodns");
    let command = format!("{program} demo --seconds 4 -o null");
    // `script` runs it on a terminal of its own and writes what that shows.
    let output = Command::new(script)
        .args(["-q", "-e", "-c", &command, "/dev/null"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{shown}");
    assert!(shown.matches("\rplaying 0:0").count() >= 2, "{shown}");
    assert!(shown.contains("\x1b[Kdemonstrated\r\n"), "a line of its own: {shown}");
    let widest = shown.split(['\r', '\n']).map(|line| line.chars().count()).max();
    assert!(widest < Some(90), "{shown}");
}

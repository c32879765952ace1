//! Real sound devices, through a private PulseAudio without hardware.
//!
//! cpal's ALSA host reads the environment (`HOME` for `.asoundrc`), so everything that uses it runs
//! in a child process: this test binary again, as the ignored test `child`, told by its environment
//! what to do. It reports through files. Nothing is heard, and no sound system of the machine is
//! touched.
#![cfg(all(feature = "device", target_os = "linux"))]

#[path = "support/process.rs"]
mod process;
#[path = "support/pulse.rs"]
mod pulse;

use aodns::audio::device::{DeviceSink, DeviceSource, default_input_works, default_output_works};
use aodns::audio::{Sink, Source, WavSink};
use aodns::units::{Channels, Format, SampleRate};
use process::{Process, TempDir};
use pulse::{PATIENCE, Pulse, make_home, set_home, spawn, until};
use std::f64::consts::TAU;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Seven periods in 10 ms, at every rate in use.
const TONE_HZ: u32 = 700;
const AMPLITUDE: f64 = 10_000.0;

const MONO_16000: Format = Format { rate: SampleRate::HZ_16000, channels: Channels::MONO };
const MONO_48000: Format = Format { rate: SampleRate::HZ_48000, channels: Channels::MONO };

/// This test binary again, as the test `child`, in another environment.
struct Child {
    process: Process,
    directory: PathBuf,
}

impl Child {
    fn start(home: &Path, role: &str) -> Child {
        let directory = home.join(role);
        let mut command = Command::new(std::env::current_exe().expect("it runs"));
        command.args(["--exact", "child", "--ignored", "--nocapture"]);
        set_home(&mut command, home);
        command.env("AODNS_DEVICE_CHILD", role);
        command.env("AODNS_DEVICE_CHILD_DIRECTORY", &directory);
        Child { process: spawn(&mut command, &directory), directory }
    }

    /// What the child has reported under this name.
    fn report(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.directory.join(name)).ok()
    }

    fn number(&self, name: &str) -> f64 {
        let report = self.report(name).unwrap_or_else(|| panic!("no {name}: {}", self.log()));
        report.parse().expect("a number")
    }

    fn log(&self) -> String {
        let stdout = String::from_utf8_lossy(&self.process.stdout()).into_owned();
        format!("{stdout}{}", self.process.stderr())
    }

    fn wait(&mut self) {
        let status = self.process.wait(PATIENCE).expect("it is ours");
        assert!(status.is_some_and(|status| status.success()), "{status:?}: {}", self.log());
    }
}

/// The child's side: reports are written beside and moved into place, so that none is read half.
struct Reporter(PathBuf);

impl Reporter {
    fn report(&self, name: &str, value: impl std::fmt::Display) {
        let beside = self.0.join(format!("{name}.new"));
        fs::write(&beside, value.to_string()).expect("it is ours");
        fs::rename(beside, self.0.join(name)).expect("it is ours");
    }

    fn told(&self, name: &str) -> bool {
        self.0.join(name).exists()
    }
}

#[test]
#[ignore = "started by the other tests, in a child process"]
fn child() {
    let (Ok(role), Some(directory)) =
        (std::env::var("AODNS_DEVICE_CHILD"), std::env::var_os("AODNS_DEVICE_CHILD_DIRECTORY"))
    else {
        return;
    };
    let reporter = Reporter(directory.into());
    match role.as_str() {
        "play" => play(&reporter, None),
        "play-second" => play(&reporter, Some("second")),
        "record" => record(&reporter),
        "loop" => loop_back(&reporter),
        "lose" => lose(&reporter),
        "nothing" => nothing(&reporter),
        role => panic!("what is {role}?"),
    }
}

/// An endless tone.
struct Oscillator {
    rate: f64,
    samples: u64,
}

impl Oscillator {
    fn new(format: Format) -> Oscillator {
        Oscillator { rate: f64::from(format.rate.hz()), samples: 0 }
    }

    fn frame(&mut self, format: Format, time: Duration) -> Vec<i16> {
        let mut pcm = Vec::new();
        for _ in 0..format.rate.samples(time) {
            let phase = self.samples as f64 * f64::from(TONE_HZ) / self.rate;
            let value = (AMPLITUDE * (TAU * phase).sin()).round() as i16;
            pcm.extend(std::iter::repeat_n(value, format.channels.count()));
            self.samples += 1;
        }
        pcm
    }
}

/// Silence before a tone: where a stream begins, PulseAudio rewrites what a sink has rendered ahead
/// already, which those who record the sink do not get.
fn lead_in(format: Format) -> Vec<i16> {
    vec![0; format.rate.samples(Duration::from_millis(500)) as usize * format.channels.count()]
}

const FRAME: Duration = Duration::from_millis(60);

fn play(reporter: &Reporter, name: Option<&str>) {
    assert!(default_output_works() && default_input_works());
    let mut sink = DeviceSink::new(name);
    let opened = Instant::now();
    let format = sink.open(MONO_16000).expect("it opens");
    reporter.report("open_ms", opened.elapsed().as_millis());
    reporter.report("format", format);
    let started = Instant::now();
    sink.write(&lead_in(format)).expect("it plays");
    let mut tone = Oscillator::new(format);
    let mut most = Duration::ZERO;
    for _ in 0..50 {
        sink.write(&tone.frame(format, FRAME)).expect("it plays");
        most = most.max(sink.queued());
    }
    let written = started.elapsed();
    reporter.report("written_ms", written.as_millis());
    reporter.report("queued_most_ms", most.as_millis());
    reporter.report("queued_ms", sink.queued().as_millis());
    reporter.report("underruns", sink.underruns());
    let started = Instant::now();
    drop(sink);
    reporter.report("drop_ms", started.elapsed().as_millis());
}

fn record(reporter: &Reporter) {
    let mut source = DeviceSource::new(None);
    source.open(MONO_16000, 960).expect("it opens");
    let mut sound = Vec::new();
    while !reporter.told("stop") {
        let mut frame = [0i16; 960];
        assert_eq!(source.read(&mut frame).expect("it records"), frame.len());
        sound.extend_from_slice(&frame);
        reporter.report("recorded_ms", sound.len() / 16);
    }
    let octets: Vec<u8> = sound.iter().flat_map(|sample| sample.to_le_bytes()).collect();
    fs::write(reporter.0.join("sound"), octets).expect("it is ours");
    reporter.report("overrun_samples", source.overrun_samples());
}

/// Plays silence, then a tone, and waits for it at the input.
fn loop_back(reporter: &Reporter) {
    let heard_ms = AtomicU64::new(0);
    let started = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut source = DeviceSource::new(None);
            source.open(MONO_48000, 480).expect("it opens");
            let mut frame = [0i16; 480];
            while frame.iter().all(|sample| sample.unsigned_abs() < 1_000) {
                source.read(&mut frame).expect("it records");
                reporter.report("listening", 1);
            }
            heard_ms.store(started.elapsed().as_millis() as u64, Ordering::Relaxed);
        });
        until("the input runs", || reporter.told("listening"));
        let mut sink = DeviceSink::new(None);
        let format = sink.open(MONO_48000).expect("it opens");
        let mut tone = Oscillator::new(format);
        let frame = tone.frame(format, FRAME);
        for _ in 0..25 {
            sink.write(&vec![0; frame.len()]).expect("it plays");
        }
        let written_ms = started.elapsed().as_millis() as u64;
        reporter.report("queued_ms", sink.queued().as_millis());
        let deadline = Instant::now() + PATIENCE;
        while heard_ms.load(Ordering::Relaxed) == 0 {
            assert!(Instant::now() < deadline, "nothing is heard");
            sink.write(&tone.frame(format, FRAME)).expect("it plays");
        }
        reporter.report("delay_ms", heard_ms.load(Ordering::Relaxed) - written_ms);
        reporter.report("underruns", sink.underruns());
    });
}

/// Plays and records until the devices are lost for good.
fn lose(reporter: &Reporter) {
    let record = || {
        let mut source = DeviceSource::new(None);
        source.open(MONO_16000, 960).expect("it opens");
        let mut frame = [0i16; 960];
        let mut read = 0;
        let lost = loop {
            if let Err(error) = source.read(&mut frame) {
                break error;
            }
            read += 1;
            reporter.report("lost_samples", source.overrun_samples());
            reporter.report("read", read);
        };
        assert!(source.read(&mut frame).is_err());
        reporter.report("input_error", lost);
    };
    let play = || {
        let mut sink = DeviceSink::new(None);
        let format = sink.open(MONO_16000).expect("it opens");
        let mut tone = Oscillator::new(format);
        let (mut written, mut longest) = (0, Duration::ZERO);
        let lost = loop {
            let started = Instant::now();
            if let Err(error) = sink.write(&tone.frame(format, FRAME)) {
                break error;
            }
            longest = longest.max(started.elapsed());
            reporter.report("longest_write_ms", longest.as_millis());
            written += 1;
            reporter.report("interruptions", sink.underruns());
            reporter.report("written", written);
        };
        assert!(sink.write(&[0; 4_800]).is_err());
        reporter.report("output_error", lost);
    };
    std::thread::scope(|scope| (scope.spawn(record), play()).1);
}

fn nothing(reporter: &Reporter) {
    let started = Instant::now();
    let mut text = String::new();
    for name in [None, Some("nowhere")] {
        let error = DeviceSink::new(name).open(MONO_16000).expect_err("no output");
        writeln!(text, "{error}").expect("memory");
        let error = DeviceSource::new(name).open(MONO_16000, 960).expect_err("no input");
        writeln!(text, "{error}").expect("memory");
    }
    assert!(!default_output_works() && !default_input_works());
    reporter.report("errors", text);
    reporter.report("took_ms", started.elapsed().as_millis());
}

/// What is known of a recorded tone.
#[derive(Debug)]
struct Tone {
    /// From the first block with sound to the last.
    seconds: f64,
    hz: f64,
    amplitude: f64,
    /// Blocks of 10 ms that do not continue the one before.
    breaks: usize,
}

impl Tone {
    /// Looks at mono sound in blocks of 10 ms, each a whole number of the tone's periods: the phase
    /// of an undisturbed tone is the same in each.
    fn measure(pcm: &[i16], rate: u32) -> Tone {
        let block = rate as usize / 100;
        let vectors: Vec<(f64, f64)> = pcm
            .chunks_exact(block)
            .map(|block| {
                let mut sums = (0.0, 0.0);
                for (n, &sample) in block.iter().enumerate() {
                    let angle = TAU * f64::from(TONE_HZ) * n as f64 / f64::from(rate);
                    sums.0 += f64::from(sample) * angle.cos();
                    sums.1 += f64::from(sample) * angle.sin();
                }
                (sums.0 * 2.0 / block.len() as f64, sums.1 * 2.0 / block.len() as f64)
            })
            .collect();
        let amplitude = |v: (f64, f64)| v.0.hypot(v.1);
        let loud = |v: &(f64, f64)| amplitude(*v) > AMPLITUDE / 20.0;
        let first = vectors.iter().position(loud).expect("there is a tone");
        let last = vectors.iter().rposition(loud).expect("there is a tone");
        // The blocks at the edges are cut by the tone's beginning and end.
        let inner = &vectors[first + 1..last];
        let mut amplitudes: Vec<f64> = inner.iter().map(|v| amplitude(*v)).collect();
        amplitudes.sort_by(f64::total_cmp);
        let median = amplitudes[amplitudes.len() / 2];
        let turn = |from: (f64, f64), to: (f64, f64)| {
            let (sin, cos) = (to.0 * from.1 - to.1 * from.0, to.0 * from.0 + to.1 * from.1);
            sin.atan2(cos)
        };
        let mut breaks = 0;
        let mut turns = Vec::new();
        for pair in inner.windows(2) {
            let angle = turn(pair[0], pair[1]);
            let level = amplitude(pair[1]) / median;
            if angle.abs() > 0.05 || !(0.97..1.03).contains(&level) {
                breaks += 1;
            } else {
                turns.push(angle);
            }
        }
        let drift = turns.iter().sum::<f64>() / turns.len() as f64;
        Tone {
            seconds: (last + 1 - first) as f64 / 100.0,
            hz: f64::from(TONE_HZ) + drift / TAU * 100.0,
            amplitude: median,
            breaks,
        }
    }

    /// That the tone is whole: so long, as loud and high as it was made, and unbroken. PulseAudio
    /// itself breaks a tone where a busy machine keeps it waiting, and does not tell; a sound that
    /// loses or repeats anything by itself is broken many times a second.
    fn is_whole(&self, seconds: f64) -> bool {
        (self.hz - f64::from(TONE_HZ)).abs() < 0.5
            && (self.amplitude / AMPLITUDE - 1.0).abs() < 0.02
            && self.seconds > seconds - 0.05
            && self.breaks <= 4
    }
}

fn pcm_of(octets: &[u8]) -> Vec<i16> {
    octets.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
}

#[test]
fn a_tone_measures_what_it_is() {
    let mut sound = vec![0; 4_800];
    sound.extend(Oscillator::new(MONO_48000).frame(MONO_48000, Duration::from_millis(2_000)));
    sound.extend([0; 4_800]);
    let whole = Tone::measure(&sound, 48_000);
    assert!(whole.is_whole(2.0) && whole.breaks == 0, "{whole:?}");
    sound.drain(50_000..50_030);
    let cut = Tone::measure(&sound, 48_000);
    assert!(cut.breaks >= 1, "{cut:?}");
    let doubled = sound.iter().flat_map(|&sample| [sample, sample]).collect::<Vec<_>>();
    assert!(Tone::measure(&doubled, 96_000).breaks >= 1);
    assert!(!Tone::measure(&doubled, 48_000).is_whole(2.0), "an octave lower");
}

fn plays(test: &str, role: &str, sink: &str) {
    let Some(pulse) = Pulse::start(test) else { return };
    let parec = pulse.record(sink, "parec");
    let mut child = Child::start(pulse.directory.path(), role);
    child.wait();
    // What records may lag behind on a busy machine: a second more of silence, and the tone is in.
    let octets = parec.stdout().len() + 2 * 48_000;
    until("the end is recorded", || parec.stdout().len() > octets);
    let tone = Tone::measure(&pcm_of(&parec.stdout()), 48_000);
    eprintln!(
        "{role}: opened in {} ms, 3500 ms written in {} ms, queued {} ms (at most {} ms), \
         drained in {} ms, {} underruns, {tone:?}",
        child.number("open_ms"),
        child.number("written_ms"),
        child.number("queued_ms"),
        child.number("queued_most_ms"),
        child.number("drop_ms"),
        child.number("underruns"),
    );
    assert_eq!(child.report("format").as_deref(), Some("48000 Hz mono"));
    assert!(tone.is_whole(3.0), "{tone:?}");
    // The queue makes the writer wait for the device, which took nothing without playing it, and the
    // end of the sound is waited for.
    assert!(child.number("written_ms") + child.number("queued_ms") > 3_400.0);
    assert!((200.0..600.0).contains(&child.number("queued_most_ms")));
    assert!(child.number("queued_ms") > 100.0);
    assert!(child.number("drop_ms") > 100.0);
    assert!(!child.process.stderr().contains("ALSA lib"), "{}", child.process.stderr());
}

#[test]
fn a_device_plays_what_is_written() {
    plays("a_device_plays_what_is_written", "play", "dst");
}

#[test]
fn a_device_is_found_by_its_name() {
    plays("a_device_is_found_by_its_name", "play-second", "src");
}

#[test]
fn a_device_records_what_is_played_to_it() {
    let Some(pulse) = Pulse::start("a_device_records_what_is_played_to_it") else { return };
    let wav = pulse.directory.path().join("tone.wav");
    let mut sink = WavSink::new(&wav);
    sink.open(MONO_48000).expect("it opens");
    sink.write(&lead_in(MONO_48000)).expect("it is written");
    let sound = Oscillator::new(MONO_48000).frame(MONO_48000, Duration::from_secs(3));
    sink.write(&sound).expect("it is written");
    drop(sink);

    let mut child = Child::start(pulse.directory.path(), "record");
    until("the child records", || child.report("recorded_ms").is_some());
    let mut command = pulse.command("paplay");
    command.args(["-d", "src"]).arg(&wav);
    let mut paplay = pulse.spawn(&mut command, "paplay");
    assert!(paplay.wait(PATIENCE).expect("it is ours").is_some_and(|status| status.success()));
    let so_far = child.number("recorded_ms");
    until("the end is recorded", || child.number("recorded_ms") > so_far + 1_000.0);
    fs::write(child.directory.join("stop"), "").expect("it is ours");
    child.wait();

    let sound = fs::read(child.directory.join("sound")).expect("the child wrote it");
    let tone = Tone::measure(&pcm_of(&sound), 16_000);
    eprintln!("record: {} samples lost, {tone:?}", child.number("overrun_samples"));
    assert!(tone.is_whole(3.0), "{tone:?}");
}

#[test]
fn the_delay_from_output_to_input_is_known() {
    let Some(pulse) = Pulse::start("the_delay_from_output_to_input_is_known") else { return };
    assert!(pulse.pactl(&["set-default-source", "dst.monitor"]));
    let mut child = Child::start(pulse.directory.path(), "loop");
    child.wait();
    let (delay, queued) = (child.number("delay_ms"), child.number("queued_ms"));
    eprintln!(
        "loop: {delay} ms from write to read, {queued} ms of them queued at the output, {} underruns",
        child.number("underruns")
    );
    assert!(queued >= 100.0, "{queued} ms queued");
    assert!(delay >= queued - 60.0, "heard after {delay} ms, but {queued} ms were queued");
}

#[test]
fn a_lost_device_is_taken_up_again_and_given_up_in_the_end() {
    let test = "a_lost_device_is_taken_up_again_and_given_up_in_the_end";
    let Some(mut pulse) = Pulse::start(test) else { return };
    let mut child = Child::start(pulse.directory.path(), "lose");
    let mut command = Command::new(env!("CARGO_BIN_EXE_aodns"));
    command.args(["serve", "music.example.com", "--listen", "127.0.0.1:0"]);
    set_home(&mut command, pulse.directory.path());
    let server = pulse.spawn(&mut command, "server");
    let said = |what: &str| server.stderr().contains(what);
    let count = |name| child.report(name).map_or(0.0, |_| child.number(name));
    until("the child plays and records", || count("written") > 20.0 && count("read") > 20.0);
    until("the server serves", || said("serving"));
    assert!(!said("sound are lost"), "{}", server.stderr());
    let (lost_before, interruptions_before) = (count("lost_samples"), count("interruptions"));
    let away = Instant::now();
    pulse.restart();
    let parec = pulse.record("dst", "parec-again");
    let failed = || child.report("output_error").or_else(|| child.report("input_error"));
    until("a second is heard again", || {
        let heard = pcm_of(&parec.stdout());
        let heard = heard.iter().filter(|sample| sample.unsigned_abs() > 1_000).count();
        heard > 40_000 || failed().is_some()
    });
    let read = count("read");
    until("a second is recorded again", || count("read") > read + 16.0 || failed().is_some());
    assert_eq!(failed(), None);
    // Nobody is left to wonder where the sound was.
    let lost = (count("lost_samples") - lost_before) / 16_000.0;
    let interruptions = count("interruptions") - interruptions_before;
    eprintln!("lose: {lost} s were not recorded, {interruptions} interruptions");
    assert!(lost > 0.1 && lost < away.elapsed().as_secs_f64(), "{lost} s");
    assert!(interruptions >= 1.0, "{interruptions}");
    until("the server tells", || said("s of sound are lost: the sound system was away"));
    eprintln!("lose: the longest write took {} ms", child.number("longest_write_ms"));
    pulse.stop();
    child.wait();
    for (direction, cure) in [("output", "--output FILE.wav"), ("input", "--input FILE.wav")] {
        let error = child.report(&format!("{direction}_error")).expect("the child wrote it");
        eprintln!("lose: {error}\n{}", child.process.stderr());
        assert!(!error.contains("does not answer"), "{error}");
        assert!(error.contains(&format!("sound {direction} default")), "{error}");
        assert!(error.contains(cure), "{error}");
    }
}

#[test]
fn without_a_sound_system_the_error_names_the_thing_and_the_cure() {
    let directory = TempDir::new("device").expect("a directory");
    // A card that no machine has; found out without any plug-in, and silent on every machine.
    make_home(directory.path(), "pcm.!default {type hw card 31}\n");
    let mut child = Child::start(directory.path(), "nothing");
    child.wait();
    let errors = child.report("errors").expect("the child wrote it");
    eprintln!("nothing: in {} ms\n{errors}", child.number("took_ms"));
    let lines: Vec<&str> = errors.lines().collect();
    assert_eq!(lines.len(), 4, "{errors}");
    for (line, [thing, cure]) in lines.iter().zip([
        ["sound output default: ", "--output FILE.wav"],
        ["sound input default: ", "--input FILE.wav"],
        ["sound output \"nowhere\": there is no device of this name (known: ", "--output"],
        ["sound input \"nowhere\": there is no device of this name (known: ", "--input"],
    ]) {
        assert!(line.contains(thing) && line.contains(cure), "{line}");
    }
    assert_eq!(child.process.stderr(), "", "alsa-lib is to be silent");
}

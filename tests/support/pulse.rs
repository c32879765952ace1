//! A private PulseAudio without hardware, for what uses sound devices: in a process of its own, told
//! by its environment where to find them ([`set_home`]).

#![allow(dead_code)] // every test binary uses a part of this

use crate::process::{Process, TempDir, find_program, skip};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Patience with a slow machine; nothing is expected to take this long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A PulseAudio of its own with the null sinks `src` and `dst`.
pub struct Pulse {
    /// Its home, and that of those who use it.
    pub directory: TempDir,
    server: Option<Process>,
}

impl Pulse {
    /// Starts it; `None` when it is not installed.
    pub fn start(test: &str) -> Option<Pulse> {
        for (program, package) in [
            ("pulseaudio", "pulseaudio"),
            ("pactl", "pulseaudio-utils"),
            ("parec", "pulseaudio-utils"),
            ("paplay", "pulseaudio-utils"),
        ] {
            if find_program(program).is_none() {
                skip(test, package);
                return None;
            }
        }
        let plugin = "alsa-lib/libasound_module_pcm_pulse.so";
        let roots = ["/usr/lib", "/usr/lib64", "/usr/local/lib"].map(PathBuf::from);
        let subdirectories = roots.iter().filter_map(|root| fs::read_dir(root).ok()).flatten();
        let mut places = subdirectories.flatten().map(|entry| entry.path()).chain(roots.clone());
        if !places.any(|place| place.join(plugin).is_file()) {
            skip(test, "libasound2-plugins");
            return None;
        }
        let directory = TempDir::new("device").expect("a directory");
        let asoundrc = "pcm.!default {type pulse}\nctl.!default {type pulse}\n\
                        pcm.second {type pulse device src hint {show on description \"Second\"}}\n";
        make_home(directory.path(), asoundrc);
        let mut pulse = Pulse { directory, server: None };
        pulse.restart();
        Some(pulse)
    }

    /// Starts the server, again if it ran before.
    pub fn restart(&mut self) {
        self.stop();
        let mut command = self.command("pulseaudio");
        command.args(["-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no"]);
        command.args(["--disallow-exit", "-L", "module-native-protocol-unix"]);
        for sink in ["src", "dst"] {
            command.arg("-L");
            command.arg(format!(
                "module-null-sink sink_name={sink} rate=48000 channels=2 format=float32le norewinds=1"
            ));
        }
        self.server = Some(self.spawn(&mut command, "pulseaudio"));
        let deadline = Instant::now() + PATIENCE;
        while !self.pactl(&["set-default-sink", "dst"]) {
            assert!(Instant::now() < deadline, "pulseaudio does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(self.pactl(&["set-default-source", "src.monitor"]));
    }

    pub fn stop(&mut self) {
        self.server = None;
        let socket = self.directory.path().join("run/pulse/native");
        if socket.exists() {
            fs::remove_file(socket).expect("the socket of a server that is gone");
        }
    }

    pub fn pactl(&self, arguments: &[&str]) -> bool {
        let output = self.command("pactl").args(arguments).output().expect("pactl runs");
        output.status.success()
    }

    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(find_program(program).expect("it was found before"));
        set_home(&mut command, self.directory.path());
        command
    }

    pub fn spawn(&self, command: &mut Command, label: &str) -> Process {
        spawn(command, &self.directory.path().join(label))
    }

    /// Records a sink; what comes is in the process's standard output.
    pub fn record(&self, sink: &str, label: &str) -> Process {
        let mut command = self.command("parec");
        command.arg("-d").arg(format!("{sink}.monitor"));
        command.args(["--rate=48000", "--channels=1", "--format=s16le", "--raw"]);
        command.arg("--latency-msec=50");
        let parec = self.spawn(&mut command, label);
        until("parec records", || !parec.stdout().is_empty());
        parec
    }
}

pub fn make_home(directory: &Path, asoundrc: &str) {
    use std::os::unix::fs::PermissionsExt;
    for name in ["home", "run", "run/pulse"] {
        let path = directory.join(name);
        fs::create_dir(&path).expect("a directory");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("it is ours");
    }
    fs::write(directory.join("home/.asoundrc"), asoundrc).expect("it is ours");
}

pub fn set_home(command: &mut Command, directory: &Path) {
    for name in ["PULSE_SERVER", "PULSE_LATENCY_MSEC", "XDG_CONFIG_HOME", "ALSA_CONFIG_PATH"] {
        command.env_remove(name);
    }
    command.env("HOME", directory.join("home"));
    command.env("XDG_RUNTIME_DIR", directory.join("run"));
    command.env("PULSE_RUNTIME_PATH", directory.join("run/pulse"));
}

pub fn spawn(command: &mut Command, directory: &Path) -> Process {
    fs::create_dir_all(directory).expect("a directory");
    Process::spawn(command, directory).expect("a process")
}

pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "it never happened: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

//! Child processes for tests: where programs are, free ports, temporary directories, and children
//! that never outlive the test.
//!
//! Not a process library: Unix only, nothing but the standard library. Output goes to files, so
//! that no pipe can fill up and no thread is needed to read it.
//!
//! Invariant: a [`Process`] and everything it forks are one process group, led by a `sh` that waits
//! on a pipe whose other end only this process holds. When that end closes, on drop or because the
//! test was killed, the shell kills its own group. The group exists as long as its leader, so no
//! process id is ever used after it may have been given to a stranger.

#![allow(dead_code)] // every test binary uses a part of this

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

/// A child process with its output in files; dropping it kills it and all that it forked.
#[derive(Debug)]
pub struct Process {
    child: Child,
    guard: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Starts `command` with standard input empty and output in the files `stdout` and `stderr` of
    /// `directory`, which is to be of one process alone.
    ///
    /// # Errors
    ///
    /// Fails if the files cannot be made or the program cannot be started.
    pub fn spawn(command: &mut Command, directory: &Path) -> io::Result<Process> {
        let stdout = directory.join("stdout");
        let stderr = directory.join("stderr");
        command
            .stdin(Stdio::null())
            .stdout(fs::File::create(&stdout)?)
            .stderr(fs::File::create(&stderr)?);

        let mut guard = Command::new("sh")
            .args(["-c", "read -r line; kill -s KILL 0"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let group = i32::try_from(guard.id()).expect("process ids are positive i32");
        match command.process_group(group).spawn() {
            Ok(child) => Ok(Process { child, guard, stdout, stderr }),
            Err(error) => {
                drop(guard.stdin.take());
                guard.wait()?;
                Err(error)
            }
        }
    }

    /// Returns the process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns the exit status, or `None` if the process has not ended after `timeout`.
    ///
    /// # Errors
    ///
    /// Fails if the operating system cannot tell.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + timeout;
        loop {
            let status = self.child.try_wait()?;
            if status.is_some() || Instant::now() >= deadline {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Returns what the process has written to standard output so far.
    pub fn stdout(&self) -> Vec<u8> {
        fs::read(&self.stdout).unwrap_or_default()
    }

    /// Returns what the process has written to standard error so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stderr).unwrap_or_default()).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Closing the pipe ends the group. The second kill is for a guard that somebody else
        // killed; a failure of any of these means that the process has ended already.
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A directory of its own, removed with all its content on drop.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    /// Makes the directory below the system's temporary directory; `label` becomes part of its
    /// name.
    ///
    /// # Errors
    ///
    /// Fails if the directory cannot be made.
    pub fn new(label: &str) -> io::Result<TempDir> {
        static COUNTER: AtomicUsize = AtomicUsize::new(0);
        loop {
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let name = format!("aodns-{label}-{}-{number}", std::process::id());
            let path = env::temp_dir().join(name);
            match fs::create_dir(&path) {
                Ok(()) => return Ok(TempDir(path)),
                // Left behind by a killed test whose process id has come round again.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns the path of the directory.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Returns a port of 127.0.0.1 that is free for both UDP and TCP, and never the same one twice.
///
/// Another process may still take it before the caller does, so a caller must be ready to retry.
///
/// # Errors
///
/// Fails if no port can be bound.
pub fn free_port() -> io::Result<u16> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    for _ in 0..100 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        if UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_err() {
            continue;
        }
        // A set of numbers is valid whatever happened to the thread that last changed it.
        let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
        if given.insert(port) {
            return Ok(port);
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, "no port is free for both UDP and TCP"))
}

/// Returns the path of an installed program.
///
/// Looks where daemons are as well, which are not in `PATH` for ordinary users.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|program| program.is_file())
}

static SKIPPED: AtomicUsize = AtomicUsize::new(0);

/// Says, past the test harness's capture, that `test` did not run, and counts it.
///
/// # Panics
///
/// Panics if `AODNS_NO_SKIP=1` is in the environment, as it is where everything is installed.
pub fn skip(test: &str, package: &str) {
    let message = format!("{test}: program from Debian package {package} is not installed");
    assert!(
        env::var_os("AODNS_NO_SKIP").is_none_or(|value| value != "1"),
        "AODNS_NO_SKIP=1 forbids to skip {message}"
    );
    SKIPPED.fetch_add(1, Ordering::Relaxed);
    // Nothing is lost with a closed standard error but this line.
    let _ = writeln!(io::stderr(), "SKIPPED {message}");
}

/// Returns how many tests of this process were skipped.
pub fn skipped() -> usize {
    SKIPPED.load(Ordering::Relaxed)
}

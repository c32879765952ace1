//! The server's stages: `capture`, `encode`, `sequence`.

use super::{Supervision, moment};
use crate::ascii::Asciializer;
use crate::audio::Source;
use crate::codec::Encoder;
use crate::error::Error;
use crate::publication::Publication;
use crate::segment::{PackLimits, Packer};
use crate::units::{Format, Sequence};
use crate::window::{RETENTION, Window};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A source that fell behind its clock by more than this (a suspended machine, a slow pipe) is not
/// made to catch up.
const BEHIND_MAX: Duration = Duration::from_millis(500);
/// Numbers written to the state file ahead of time, so that it is not written for each segment.
const STATE_AHEAD: u64 = 500;
/// Octets of the state file that are looked at: more than any number has.
const STATE_OCTETS_MAX: u64 = 64;
/// No run has come to a higher number: that of the clock will take a million years.
const STATE_MAX: Sequence = 1 << 48;

/// One packet as text, with the samples per channel that it stands for.
#[derive(Debug)]
pub struct TimedText {
    /// The text.
    pub text: Vec<u8>,
    /// Octets of the packet before it became text.
    pub packet_octets: usize,
}

/// What the stages count.
#[derive(Debug, Default)]
pub struct ProduceCounters {
    /// Frames captured.
    pub frames: AtomicU64,
    /// Samples per channel that a device delivered and nobody took in time.
    pub overrun_samples: AtomicU64,
    /// Frames that the codec refused; silence stands in for them.
    pub encode_failures: AtomicU64,
    /// Octets of packets.
    pub packet_octets: AtomicU64,
    /// Octets of segment records as answered.
    pub record_octets: AtomicU64,
    /// Segments published.
    pub segments: AtomicU64,
    /// Numbers of the window that the newest list had no room for.
    pub left_out: AtomicU64,
    /// Times that the state file could not be written.
    pub state_failures: AtomicU64,
    /// Why it could not be, the last time.
    pub state_failure: Mutex<Option<String>>,
}

/// Between two looks at whether to stop, while nothing comes.
const TICK: Duration = Duration::from_millis(100);

/// The next item; `None` when there are no more, or the stages are to end. A stage before this one
/// may be blocked in a read that it does not control, and still hold the other end.
fn receive<T>(items: &Receiver<T>, supervision: &Supervision) -> Option<T> {
    loop {
        let item = items.recv_timeout(TICK);
        if supervision.is_stopping() {
            return None;
        }
        match item {
            Ok(item) => return Some(item),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

/// Reads frames from `source` and sends them on. A source without a clock is paced against
/// deadlines reckoned from the samples sent, so that it does not drift. The last, partial frame is
/// filled up with silence.
///
/// # Errors
/// When the source fails.
pub fn capture(
    mut source: Box<dyn Source>,
    format: Format,
    frame_samples: usize,
    frames: Sender<Vec<i16>>,
    supervision: &Supervision,
    counters: &ProduceCounters,
) -> Result<(), Error> {
    let length = frame_samples * format.channels.count();
    let mut anchor = Instant::now();
    let mut sent = 0u64;
    while !supervision.is_stopping() {
        let mut frame = vec![0; length];
        let filled = source.read(&mut frame)?;
        counters.overrun_samples.store(source.overrun_samples(), Ordering::Relaxed);
        if filled == 0 {
            return Ok(());
        }
        sent += frame_samples as u64;
        if !source.has_clock() {
            let due = anchor + format.rate.duration(sent);
            let now = Instant::now();
            if now > due + BEHIND_MAX {
                (anchor, sent) = (now, 0);
            }
            std::thread::sleep(due.saturating_duration_since(now));
        }
        add(&counters.frames, 1);
        // Fails only when the encoder is gone, which says why itself.
        if frames.send(frame).is_err() || filled < length {
            return Ok(());
        }
    }
    Ok(())
}

/// Compresses frames and writes them as text. A frame that the codec refuses is encoded as silence,
/// so that time goes on.
///
/// # Errors
/// When the codec refuses even that.
pub fn encode(
    mut encoder: Box<dyn Encoder>,
    asciializer: Box<dyn Asciializer>,
    text_chars_max: usize,
    frames: Receiver<Vec<i16>>,
    texts: Sender<TimedText>,
    supervision: &Supervision,
    counters: &ProduceCounters,
) -> Result<(), Error> {
    let mut packet = vec![0; asciializer.packet_octets_max(text_chars_max)];
    while let Some(mut frame) = receive(&frames, supervision) {
        let octets = match encoder.encode(&frame, &mut packet) {
            Ok(octets) => octets,
            Err(_) => {
                add(&counters.encode_failures, 1);
                frame.fill(0);
                encoder.encode(&frame, &mut packet)?
            }
        };
        add(&counters.packet_octets, octets as u64);
        let mut text = Vec::new();
        asciializer.encode(&packet[..octets], &mut text);
        if texts.send(TimedText { text, packet_octets: octets }).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Keeps the last number in a file (protocol 1.5).
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    /// Numbers up to this one may be used without writing again.
    reserved: Sequence,
}

impl StateFile {
    /// The state at `path`, and the last number it holds; `None` when there is no such file.
    ///
    /// # Errors
    /// When it cannot be read, or holds no number.
    pub fn open(path: PathBuf) -> Result<(StateFile, Option<Sequence>), Error> {
        // A link stays one.
        let path = std::fs::canonicalize(&path).unwrap_or(path);
        let attempt = || format!("read state file {}", path.display());
        let mut content = Vec::new();
        let read = File::open(&path)
            .and_then(|file| file.take(STATE_OCTETS_MAX).read_to_end(&mut content));
        let last = match read {
            // A power cut may leave it empty: as if it were not there.
            Ok(0) => None,
            Ok(_) => {
                let number = crate::segment::parse_number(content.trim_ascii());
                let wrong = match number {
                    Some(last) if last <= STATE_MAX => None,
                    Some(_) => Some("that number is too high"),
                    None => Some("it holds no number"),
                };
                if let Some(wrong) = wrong {
                    return Err(Error::Settings(format!(
                        "cannot {}: {wrong}; delete it to begin with the clock",
                        attempt()
                    )));
                }
                number
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) if error.kind() == std::io::ErrorKind::IsADirectory => {
                return Err(Error::Settings(format!(
                    "cannot {}: it is a directory; name a file in it",
                    attempt()
                )));
            }
            Err(error) => return Err(Error::system(attempt(), error)),
        };
        Ok((StateFile { path, reserved: last.unwrap_or(0) }, last))
    }

    /// Makes sure that the file holds a number that is not below `sequence`, some time before it must.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn reserve(&mut self, sequence: Sequence) -> Result<(), Error> {
        if sequence.saturating_add(STATE_AHEAD / 2) <= self.reserved {
            return Ok(());
        }
        self.write(sequence.saturating_add(STATE_AHEAD))
    }

    /// Writes the last number used, when the run ends in order.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn close(&mut self, last: Sequence) -> Result<(), Error> {
        self.write(last)
    }

    /// Replaces the file in one step, so that a power cut leaves the old number or the new.
    fn write(&mut self, number: Sequence) -> Result<(), Error> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let fresh = self.path.with_file_name(format!(".{name}.new"));
        File::create(&fresh)
            .and_then(|mut file| {
                file.write_all(format!("{number}\n").as_bytes())?;
                file.sync_all()
            })
            .and_then(|()| std::fs::rename(&fresh, &self.path))
            .map_err(|cause| {
                Error::system(format!("write state file {}", self.path.display()), cause)
            })?;
        self.reserved = number;
        Ok(())
    }
}

/// What the sequencer needs.
#[derive(Debug)]
pub struct Sequencer {
    /// When segments are full.
    pub limits: PackLimits,
    /// Samples per channel in a packet.
    pub frame_samples: u64,
    /// Where segments go.
    pub window: Window,
    /// Where snapshots go.
    pub publication: Arc<Publication>,
    /// Where the last number is kept, if anywhere.
    pub state: Option<StateFile>,
}

/// Packs texts into segments and publishes them. At the end of the texts, the last segment is
/// published, and what is in the window stays there until listeners have had time to hear it.
///
/// # Errors
/// When the state file cannot be written before the first segment, or at the end.
pub fn sequence(
    mut sequencer: Sequencer,
    texts: Receiver<TimedText>,
    supervision: &Supervision,
    counters: &ProduceCounters,
) -> Result<(), Error> {
    let mut packer = Packer::new(sequencer.limits);
    while let Some(text) = receive(&texts, supervision) {
        if let Some(segment) = packer.push(&text.text) {
            sequencer.publish(&segment, counters)?;
        }
    }
    if !supervision.is_stopping() {
        if let Some(segment) = packer.take() {
            sequencer.publish(&segment, counters)?;
        }
        sequencer.window.end();
        sequencer.publication.publish(sequencer.window.snapshot());
        let until = Instant::now() + sequencer.window.duration().max(RETENTION);
        while !supervision.is_stopping() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            std::thread::sleep(left.min(Duration::from_millis(100)));
        }
    }
    let last = sequencer.publication.load().next().saturating_sub(1);
    if let Some(state) = &mut sequencer.state {
        state.close(last)?;
    }
    supervision.finish();
    Ok(())
}

impl Sequencer {
    fn publish(
        &mut self,
        segment: &crate::segment::Segment,
        counters: &ProduceCounters,
    ) -> Result<(), Error> {
        let samples = self.frame_samples * segment.strings.len() as u64;
        let sequence = self.window.publish(segment, samples, moment());
        // Before anybody can see the number: a crash must not bring it back.
        if let Some(state) = &mut self.state {
            match state.reserve(sequence) {
                Ok(()) => {}
                // Later, a full disk is no reason to end the sound: numbers begin with the clock, and
                // the file is needed only where that goes back.
                Err(error) if counters.segments.load(Ordering::Relaxed) > 0 => {
                    add(&counters.state_failures, 1);
                    let mut why =
                        counters.state_failure.lock().unwrap_or_else(PoisonError::into_inner);
                    *why = Some(error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        let snapshot = self.window.snapshot();
        add(&counters.segments, 1);
        add(&counters.record_octets, snapshot.newest().map_or(0, |s| s.records.len() as u64));
        counters.left_out.store(snapshot.left_out(), Ordering::Relaxed);
        self.publication.publish(snapshot);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_file_is_ahead_while_running_and_exact_after() {
        let directory = std::env::temp_dir().join(format!("aodns-state-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("state");
        let (mut state, last) = StateFile::open(path.clone()).unwrap();
        assert_eq!(last, None);
        state.reserve(100).unwrap();
        assert_eq!(StateFile::open(path.clone()).unwrap().1, Some(600));
        state.reserve(350).unwrap();
        assert_eq!(StateFile::open(path.clone()).unwrap().1, Some(600));
        // Half of them are left when the next are reserved, so that there is time to try again.
        state.reserve(351).unwrap();
        assert_eq!(StateFile::open(path.clone()).unwrap().1, Some(851));
        state.close(650).unwrap();
        assert_eq!(StateFile::open(path.clone()).unwrap().1, Some(650));
        std::fs::write(&path, "many").unwrap();
        let error = StateFile::open(path).unwrap_err().to_string();
        assert!(error.contains("holds no number"), "{error}");
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_state_file_that_cannot_be_written_ends_the_sound_only_at_its_start() {
        let directory = std::env::temp_dir().join(format!("aodns-full-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let rate = crate::units::SampleRate::HZ_16000;
        let window = Window::new(75, rate, Duration::from_millis(720), 1000, moment());
        let mut sequencer = Sequencer {
            limits: PackLimits {
                string_octets_max: 250,
                segment_octets_max: 2000,
                packets_max: 12,
                records_octets_max: usize::MAX,
            },
            frame_samples: 960,
            publication: Arc::new(Publication::new(window.snapshot())),
            window,
            state: Some(StateFile::open(directory.join("state")).unwrap().0),
        };
        let segment = crate::segment::Segment { strings: vec![b"00A".to_vec()] };
        let counters = ProduceCounters::default();
        sequencer.publish(&segment, &counters).unwrap();
        std::fs::remove_dir_all(directory).unwrap();
        sequencer.state.as_mut().unwrap().reserved = 0;
        sequencer.publish(&segment, &counters).unwrap();
        assert_eq!(counters.segments.load(Ordering::Relaxed), 2);
        assert_eq!(counters.state_failures.load(Ordering::Relaxed), 1);
        let why = counters.state_failure.lock().unwrap().clone().unwrap();
        assert!(why.contains("write state file"), "{why}");
        assert!(sequencer.publish(&segment, &ProduceCounters::default()).is_err(), "at the start");
    }
}

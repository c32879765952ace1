//! Sound devices, through cpal.
//!
//! A device calls back on a thread of its own whenever it has sound or wants some; a bounded queue
//! joins that callback to the blocking [`Source`] or [`Sink`] in front of it:
//!
//! | queue | bound | when full | when empty |
//! | --- | --- | --- | --- |
//! | input | 480 ms | the newest sound is dropped and counted | `read` blocks |
//! | output | 130 ms | `write` blocks, and so runs at the device's pace | silence is played |
//!
//! A device that fails, or goes quiet, is opened again; one that cannot be had back within five
//! seconds becomes an error. What it was opened with may change then: the sound is converted to
//! whatever the device runs at now.
//!
//! Exception to the rule that only stages and sockets have threads: `keeper` runs one per device,
//! since opening a device may hang, and a stream must be opened anew while its user is blocked.

mod host;
mod keeper;
mod queue;

use super::mix::{Downmix, spread};
use super::{AudioError, Sink, Source};
use crate::resample::Resampler;
use crate::units::{Channels, Format, SampleRate};
use crossbeam_channel::{after, never, select};
use host::Direction;
use keeper::Keeper;
use queue::{InputLine, OutputLine};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long a device may take to open.
const OPEN_PATIENCE: Duration = Duration::from_secs(5);
/// How long the default device may take to open when it is only tried.
const TRY_PATIENCE: Duration = Duration::from_secs(2);
/// How long to wait for a device that does nothing. The keeper gives up earlier; this is for the
/// case that it is itself stuck in a call to the sound system.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long the end of the sound may take beyond what is in the queue.
const DRAIN_PATIENCE: Duration = Duration::from_millis(500);
/// What is waited for beyond the end of the sound: by so much, sound systems misjudge their delay.
const DRAIN_MARGIN: Duration = Duration::from_millis(50);

/// A sound input.
pub struct DeviceSource {
    name: Option<String>,
    format: Format,
    open: Option<OpenSource>,
    /// Nanoseconds of sound that were dropped, or that a lost device did not record.
    lost_ns: Arc<AtomicU64>,
}

struct OpenSource {
    keeper: Keeper<InputLine>,
    line: InputLine,
    converter: InputConverter,
    /// When the device brought something last.
    heard: Instant,
}

/// From the device's shape to the stream's format.
struct InputConverter {
    downmix: Downmix,
    resampler: Resampler,
    mixed: Vec<i16>,
    /// Sound in the stream's format that is not yet read.
    ready: Vec<i16>,
}

impl InputConverter {
    fn new(rate: SampleRate, channels: usize, format: Format) -> InputConverter {
        InputConverter {
            downmix: Downmix::new(channels, format.channels),
            resampler: Resampler::new(format.channels, rate, format.rate),
            mixed: Vec::new(),
            ready: Vec::new(),
        }
    }

    fn process(&mut self, chunk: &[i16]) {
        self.mixed.clear();
        self.downmix.process(chunk, &mut self.mixed);
        self.resampler.process(&self.mixed, &mut self.ready);
    }
}

/// What an input brings next.
enum Next {
    Chunk(Vec<i16>),
    /// The device was opened again.
    Line(InputLine),
}

impl OpenSource {
    fn next(&self, deadline: Instant) -> Result<Next, AudioError> {
        let gone = never();
        let mut filled = &self.line.consumer.filled;
        loop {
            select! {
                recv(filled) -> chunk => match chunk {
                    Ok(chunk) => return Ok(Next::Chunk(chunk)),
                    // The callback is gone, so there is a new line to come.
                    Err(_) => filled = &gone,
                },
                recv(self.keeper.events) -> event => {
                    let line = event.unwrap_or_else(|_ended| Err(self.keeper.lost()))?;
                    return Ok(Next::Line(line));
                }
                default(deadline.saturating_duration_since(Instant::now())) => {
                    return Err(self.keeper.silent());
                }
            }
        }
    }

    fn take(&mut self, chunk: Vec<i16>) {
        self.heard = Instant::now();
        self.converter.process(&chunk);
        self.line.consumer.give_back(chunk);
    }

    fn switch(&mut self, line: InputLine, format: Format) {
        if line.shape != self.line.shape {
            let ready = std::mem::take(&mut self.converter.ready);
            self.converter = InputConverter::new(line.shape.rate, line.shape.channels, format);
            self.converter.ready = ready;
        }
        self.line = line;
    }
}

impl DeviceSource {
    /// The named or default input; opened later.
    pub fn new(name: Option<&str>) -> DeviceSource {
        DeviceSource {
            name: name.map(str::to_owned),
            format: Format::new(SampleRate::HZ_48000, Channels::MONO),
            open: None,
            lost_ns: Arc::default(),
        }
    }
}

impl Source for DeviceSource {
    fn open(&mut self, format: Format, _frame_samples: usize) -> Result<(), AudioError> {
        self.open = None;
        self.format = format;
        let keeper = Keeper::input(self.name.as_deref(), Arc::clone(&self.lost_ns))?;
        let line = keeper.next_line(OPEN_PATIENCE)?;
        let converter = InputConverter::new(line.shape.rate, line.shape.channels, format);
        self.open = Some(OpenSource { keeper, line, converter, heard: Instant::now() });
        Ok(())
    }

    fn read(&mut self, pcm: &mut [i16]) -> Result<usize, AudioError> {
        let Some(open) = &mut self.open else {
            return Err(host::not_open(Direction::Input, self.name.as_deref()));
        };
        let deadline = Instant::now() + PATIENCE;
        while open.converter.ready.len() < pcm.len() {
            match open.next(deadline)? {
                Next::Chunk(chunk) => open.take(chunk),
                Next::Line(line) => {
                    // What it did not record while it was gone, and what it did before.
                    let gone = open.heard.elapsed();
                    while let Ok(chunk) = open.line.consumer.filled.try_recv() {
                        open.take(chunk);
                    }
                    let gone = u64::try_from(gone.as_nanos()).unwrap_or(u64::MAX);
                    self.lost_ns.fetch_add(gone, Ordering::Relaxed);
                    open.switch(line, self.format);
                }
            }
        }
        pcm.copy_from_slice(&open.converter.ready[..pcm.len()]);
        open.converter.ready.drain(..pcm.len());
        Ok(pcm.len())
    }

    fn has_clock(&self) -> bool {
        true
    }

    fn overrun_samples(&self) -> u64 {
        self.format.rate.samples(Duration::from_nanos(self.lost_ns.load(Ordering::Relaxed)))
    }
}

/// A sound output.
pub struct DeviceSink {
    name: Option<String>,
    open: Option<OpenSink>,
    underruns: Arc<AtomicU64>,
}

struct OpenSink {
    /// How often the sound was interrupted; the callback counts as well.
    interrupted: Arc<AtomicU64>,
    keeper: Keeper<OutputLine>,
    line: OutputLine,
    /// What the writer was told to write.
    format: Format,
    resampler: Option<Resampler>,
    resampled: Vec<i16>,
    /// The chunk that is being filled, in the device's shape.
    chunk: Vec<i16>,
    /// Samples (per channel, at the device's rate) put into the line, and into the chunk.
    sent_samples: u64,
}

impl DeviceSink {
    /// The named or default output; opened later.
    pub fn new(name: Option<&str>) -> DeviceSink {
        DeviceSink { name: name.map(str::to_owned), open: None, underruns: Arc::default() }
    }
}

impl OpenSink {
    /// Takes up `line`, whatever its shape is.
    fn switch(&mut self, line: OutputLine) {
        self.interrupted.fetch_add(1, Ordering::Relaxed);
        self.line = line;
        self.chunk = self.line.spare();
        self.sent_samples = 0;
        self.convert_from(self.format);
    }

    fn convert_from(&mut self, format: Format) {
        self.format = format;
        let rate = self.line.shape.rate;
        self.resampler =
            (format.rate != rate).then(|| Resampler::new(format.channels, format.rate, rate));
    }

    /// Fills chunks and sends the full ones. The rest of `pcm` is dropped when the device is lost
    /// meanwhile: it is late by then, and the device that comes back may have another shape.
    fn write(&mut self, pcm: &[i16]) -> Result<(), AudioError> {
        let mut resampled = std::mem::take(&mut self.resampled);
        let pcm = match &mut self.resampler {
            Some(resampler) => {
                resampled.clear();
                resampler.process(pcm, &mut resampled);
                &resampled[..]
            }
            None => pcm,
        };
        let mut kept = true;
        for sample in pcm.chunks_exact(self.format.channels.count()) {
            let start = self.chunk.len();
            self.chunk.resize(start + self.line.shape.channels, 0);
            spread(sample, &mut self.chunk[start..]);
            self.sent_samples += 1;
            if self.chunk.len() >= self.line.shape.chunk_len() {
                kept = self.send()?;
            }
            if !kept {
                break;
            }
        }
        self.resampled = resampled;
        Ok(())
    }

    /// Sends the chunk as it is; blocks while the queue is full. Returns false when the device was
    /// lost and is back again: the chunk is gone then.
    fn send(&mut self) -> Result<bool, AudioError> {
        let timeout = after(PATIENCE);
        let chunk = std::mem::take(&mut self.chunk);
        let event = select! {
            send(self.line.producer.filled, chunk) -> sent => match sent {
                Ok(()) => {
                    self.chunk = self.line.spare();
                    return Ok(true);
                }
                // The callback is gone, so there is a new line to come.
                Err(_) => Ok(self.keeper.next_line(PATIENCE)),
            },
            recv(self.keeper.events) -> event => event,
            recv(timeout) -> _ => return Err(self.keeper.silent()),
        };
        self.switch(event.unwrap_or_else(|_ended| Err(self.keeper.lost()))?);
        Ok(false)
    }

    fn queued(&self) -> Duration {
        self.line.gauge.queued(self.sent_samples, Instant::now())
    }

    /// Waits until what was written is heard, so that closing does not cut off the end.
    fn drain(&mut self) {
        let last = std::mem::take(&mut self.chunk);
        // A queue that is full for long belongs to a device that plays nothing more.
        if self.line.producer.filled.send_timeout(last, DRAIN_PATIENCE).is_err() {
            return;
        }
        let deadline = Instant::now() + self.queued() + DRAIN_PATIENCE;
        while !self.line.is_dead() && !self.queued().is_zero() && Instant::now() < deadline {
            std::thread::sleep(self.queued().min(Duration::from_millis(20)));
        }
        std::thread::sleep(DRAIN_MARGIN);
    }
}

impl Sink for DeviceSink {
    fn open(&mut self, stream: Format) -> Result<Format, AudioError> {
        let open = match &mut self.open {
            Some(open) => open,
            None => {
                let keeper = Keeper::output(self.name.as_deref(), Arc::clone(&self.underruns))?;
                let line = keeper.next_line(OPEN_PATIENCE)?;
                let chunk = line.spare();
                self.open.insert(OpenSink {
                    interrupted: Arc::clone(&self.underruns),
                    keeper,
                    line,
                    format: stream,
                    resampler: None,
                    resampled: Vec::new(),
                    chunk,
                    sent_samples: 0,
                })
            }
        };
        // Mono is spread over a device's channels here, which costs less than decoding it twice.
        let channels = match open.line.shape.channels {
            1 => Channels::MONO,
            _ => stream.channels,
        };
        let format = Format::new(open.line.shape.rate, channels);
        open.convert_from(format);
        Ok(format)
    }

    fn write(&mut self, pcm: &[i16]) -> Result<(), AudioError> {
        match &mut self.open {
            Some(open) => open.write(pcm),
            None => Err(host::not_open(Direction::Output, self.name.as_deref())),
        }
    }

    fn has_clock(&self) -> bool {
        true
    }

    fn queued(&self) -> Duration {
        self.open.as_ref().map_or(Duration::ZERO, OpenSink::queued)
    }

    fn underruns(&self) -> u64 {
        self.underruns.load(Ordering::Relaxed)
    }

    fn flush(&mut self) -> Result<(), AudioError> {
        match &mut self.open {
            Some(open) if !open.chunk.is_empty() => open.send().map(|_kept| ()),
            _ => Ok(()),
        }
    }
}

impl Drop for DeviceSink {
    fn drop(&mut self) {
        if let Some(open) = &mut self.open {
            open.drain();
        }
    }
}

/// Whether the default output device can be opened. It is opened and closed again; a sound system
/// that does not answer within two seconds counts as none.
pub fn default_output_works() -> bool {
    Keeper::output(None, Arc::default()).is_ok_and(|keeper| keeper.next_line(TRY_PATIENCE).is_ok())
}

/// Whether the default input device can be opened; see [`default_output_works`].
pub fn default_input_works() -> bool {
    Keeper::input(None, Arc::default()).is_ok_and(|keeper| keeper.next_line(TRY_PATIENCE).is_ok())
}

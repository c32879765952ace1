//! Sinks without a device or file: one that counts, one that remembers.
//!
//! Both are paced by the caller, and both are for embedders and tests as much as for the program.

use super::{AudioError, Sink};
use crate::units::Format;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Takes sound and counts it.
#[derive(Clone, Debug, Default)]
pub struct NullSink {
    channels: u64,
    samples: Arc<AtomicU64>,
}

impl NullSink {
    /// A sink that has taken nothing yet.
    pub fn new() -> NullSink {
        NullSink::default()
    }

    /// The samples (per channel) taken so far; shared, so that it can be watched from outside.
    pub fn samples(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.samples)
    }
}

impl Sink for NullSink {
    fn open(&mut self, stream: Format) -> Result<Format, AudioError> {
        self.channels = stream.channels.count() as u64;
        Ok(stream)
    }

    fn write(&mut self, pcm: &[i16]) -> Result<(), AudioError> {
        let samples = pcm.len() as u64 / self.channels.max(1);
        self.samples.fetch_add(samples, Ordering::Relaxed);
        Ok(())
    }

    fn has_clock(&self) -> bool {
        false
    }

    fn takes_ahead(&self) -> bool {
        true
    }

    fn flush(&mut self) -> Result<(), AudioError> {
        Ok(())
    }
}

/// Keeps all sound in memory, without a limit: 32 kB a second at 16 kHz mono.
///
/// A clone shares the memory. The format is that of the first opening, and stays.
#[derive(Clone, Debug, Default)]
pub struct MemorySink {
    format: Option<Format>,
    pcm: Arc<Mutex<Vec<i16>>>,
}

impl MemorySink {
    /// An empty sink that takes the stream's format.
    pub fn new() -> MemorySink {
        MemorySink::default()
    }

    /// An empty sink that asks for `format`, whatever the stream's is.
    pub fn with_format(format: Format) -> MemorySink {
        MemorySink { format: Some(format), ..MemorySink::default() }
    }

    /// The sound taken so far (interleaved); shared.
    pub fn pcm(&self) -> Arc<Mutex<Vec<i16>>> {
        Arc::clone(&self.pcm)
    }

    /// A copy of the sound taken so far (interleaved).
    pub fn to_vec(&self) -> Vec<i16> {
        self.pcm.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Sink for MemorySink {
    fn open(&mut self, stream: Format) -> Result<Format, AudioError> {
        Ok(*self.format.get_or_insert(stream))
    }

    fn write(&mut self, pcm: &[i16]) -> Result<(), AudioError> {
        self.pcm.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(pcm);
        Ok(())
    }

    fn has_clock(&self) -> bool {
        false
    }

    fn flush(&mut self) -> Result<(), AudioError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{Channels, SampleRate};

    const STEREO: Format = Format { rate: SampleRate::HZ_16000, channels: Channels::STEREO };
    const MONO: Format = Format { rate: SampleRate::HZ_8000, channels: Channels::MONO };

    #[test]
    fn null_counts_samples_per_channel() {
        let mut sink = NullSink::new();
        let samples = sink.samples();
        assert_eq!(sink.open(STEREO).expect("opens"), STEREO);
        sink.write(&[0; 20]).expect("writes");
        sink.flush().expect("flushes");
        assert_eq!(samples.load(Ordering::Relaxed), 10);
    }

    #[test]
    fn memory_remembers_and_shares() {
        let mut sink = MemorySink::new();
        let watcher = sink.clone();
        assert_eq!(sink.open(STEREO).expect("opens"), STEREO);
        sink.write(&[1, 2]).expect("writes");
        assert_eq!(sink.open(MONO).expect("opens"), STEREO);
        sink.write(&[3, 4]).expect("writes");
        sink.flush().expect("flushes");
        assert_eq!(watcher.to_vec(), [1, 2, 3, 4]);
        assert_eq!(*sink.pcm().lock().expect("not poisoned"), [1, 2, 3, 4]);
        assert!(!sink.has_clock());
        assert_eq!(MemorySink::with_format(MONO).open(STEREO).expect("opens"), MONO);
    }
}

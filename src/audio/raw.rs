//! Raw PCM without a header, `s16le` as most tools call it: from and to any octet stream.
//!
//! Two octets per sample, low octet first, interleaved; there is nothing that states rate and
//! channels, so it is taken to be in the stream's format, and given in the format of the first
//! opening. Neither direction has a clock: a pipe from a recorder is paced by the pipe as well, but
//! a file on standard input is not, and the two look alike.

use super::{AudioError, Sink, Source};
use crate::units::Format;
use std::io::{self, Read, Write};

/// Octets of a sample of one channel.
const SAMPLE_OCTETS: usize = 2;

/// Raw PCM from an octet stream.
pub struct RawSource<R> {
    name: String,
    input: R,
    channels: usize,
    octets: Vec<u8>,
    ended: bool,
}

impl RawSource<io::Stdin> {
    /// Raw PCM from standard input.
    pub fn stdin() -> RawSource<io::Stdin> {
        RawSource::new("standard input", io::stdin())
    }
}

impl<R: Read + Send> RawSource<R> {
    /// Raw PCM from `input`, called `name` in messages.
    pub fn new(name: &str, input: R) -> RawSource<R> {
        RawSource { name: name.to_owned(), input, channels: 1, octets: Vec::new(), ended: false }
    }
}

impl<R: Read + Send> Source for RawSource<R> {
    fn open(&mut self, format: Format, _frame_samples: usize) -> Result<(), AudioError> {
        self.channels = format.channels.count();
        Ok(())
    }

    fn read(&mut self, pcm: &mut [i16]) -> Result<usize, AudioError> {
        self.octets.resize(pcm.len() * SAMPLE_OCTETS, 0);
        let mut filled = 0;
        while filled < self.octets.len() && !self.ended {
            match self.input.read(&mut self.octets[filled..]) {
                Ok(0) => self.ended = true,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(AudioError::io(format!("read {}", self.name), &error)),
            }
        }
        // At the end, an incomplete last sample is no sound.
        filled -= filled % (SAMPLE_OCTETS * self.channels);
        for (sample, octets) in pcm.iter_mut().zip(self.octets[..filled].chunks_exact(2)) {
            *sample = i16::from_le_bytes([octets[0], octets[1]]);
        }
        Ok(filled / SAMPLE_OCTETS)
    }

    fn has_clock(&self) -> bool {
        false
    }
}

/// Raw PCM to an octet stream.
///
/// When the stream changes its format, this keeps asking for the first one: whoever reads raw PCM
/// would not learn of the change.
pub struct RawSink<W> {
    name: String,
    output: W,
    format: Option<Format>,
    octets: Vec<u8>,
}

impl RawSink<io::Stdout> {
    /// Raw PCM to standard output.
    pub fn stdout() -> RawSink<io::Stdout> {
        RawSink::new("standard output", io::stdout())
    }
}

impl<W: Write + Send> RawSink<W> {
    /// Raw PCM to `output`, called `name` in messages.
    pub fn new(name: &str, output: W) -> RawSink<W> {
        RawSink { name: name.to_owned(), output, format: None, octets: Vec::new() }
    }

    fn result(&self, result: io::Result<()>) -> Result<(), AudioError> {
        result.map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => AudioError::Closed,
            _ => AudioError::io(format!("write {}", self.name), &error),
        })
    }
}

impl<W: Write + Send> Sink for RawSink<W> {
    fn open(&mut self, stream: Format) -> Result<Format, AudioError> {
        Ok(*self.format.get_or_insert(stream))
    }

    fn write(&mut self, pcm: &[i16]) -> Result<(), AudioError> {
        self.octets.clear();
        self.octets.extend(pcm.iter().flat_map(|sample| sample.to_le_bytes()));
        let written = self.output.write_all(&self.octets);
        // Standard output holds back what follows the last octet that looks like a line's end.
        let written = written.and_then(|()| self.output.flush());
        self.result(written)
    }

    fn has_clock(&self) -> bool {
        false
    }

    fn flush(&mut self) -> Result<(), AudioError> {
        let flushed = self.output.flush();
        self.result(flushed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{Channels, SampleRate};
    use std::io::Cursor;

    /// Gives what it has in pieces of the stated lengths; fails once with an interruption first.
    struct Pieces(Vec<u8>, Vec<usize>, bool);

    impl Read for Pieces {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            if !std::mem::replace(&mut self.2, true) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let size = self.1.pop().unwrap_or(1).min(out.len()).min(self.0.len());
            out[..size].copy_from_slice(&self.0[..size]);
            self.0.drain(..size);
            Ok(size)
        }
    }

    struct Failing(io::ErrorKind);

    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(self.0.into())
        }
    }

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const MONO: Format = Format { rate: SampleRate::HZ_16000, channels: Channels::MONO };
    const STEREO: Format = Format { rate: SampleRate::HZ_48000, channels: Channels::STEREO };

    #[test]
    fn partial_reads_are_joined_and_the_odd_octet_dropped() {
        let octets = vec![1, 0, 2, 0, 3, 0, 0xff, 0xff, 9];
        let mut source = RawSource::new("test", Pieces(octets, vec![3, 1, 3, 1], false));
        source.open(MONO, 3).expect("opens");
        let mut pcm = [0; 3];
        assert_eq!(source.read(&mut pcm).expect("reads"), 3);
        assert_eq!(pcm, [1, 2, 3]);
        assert_eq!(source.read(&mut pcm).expect("reads"), 1);
        assert_eq!(pcm[0], -1);
        assert_eq!(source.read(&mut pcm).expect("stays at the end"), 0);
        assert!(!source.has_clock());
    }

    #[test]
    fn stereo_ends_on_a_whole_sample() {
        let mut source = RawSource::new("test", Cursor::new(vec![1, 0, 2, 0, 3, 0, 4]));
        source.open(STEREO, 4).expect("opens");
        assert_eq!(source.read(&mut [0; 8]).expect("reads"), 2);
    }

    #[test]
    fn a_failing_input_is_named() {
        let mut source = RawSource::new("pipe", Failing(io::ErrorKind::NotConnected));
        source.open(MONO, 3).expect("opens");
        let error = source.read(&mut [0; 3]).expect_err("fails");
        assert!(error.to_string().starts_with("cannot read pipe: "), "{error}");
    }

    #[test]
    fn output_is_little_endian_and_keeps_its_format() {
        let mut sink = RawSink::new("test", Vec::new());
        assert_eq!(sink.open(MONO).expect("opens"), MONO);
        sink.write(&[1, -2]).expect("writes");
        sink.flush().expect("flushes");
        assert_eq!(sink.output, [1, 0, 0xfe, 0xff]);
        assert_eq!(sink.open(STEREO).expect("opens"), MONO);
        assert!(!sink.has_clock() && sink.queued().is_zero());
    }

    #[test]
    fn a_closed_pipe_is_no_failure_and_a_full_disk_is() {
        let mut sink = RawSink::new("test", Failing(io::ErrorKind::BrokenPipe));
        assert!(matches!(sink.write(&[1]), Err(AudioError::Closed)));
        let mut sink = RawSink::new("test", Failing(io::ErrorKind::StorageFull));
        assert!(matches!(sink.write(&[1]), Err(AudioError::Failed { .. })));
    }
}

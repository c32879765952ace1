//! A WAV file as a sink, 16 bits per sample, that is valid at any time.
//!
//! The lengths in the header are brought up to date once per second of sound, so that a file whose
//! writer was killed or cut off from power still plays. Lengths have 32 bits: before a file passes
//! 4 GiB (37 hours at 16 kHz mono), and where the stream changes its format, `name.wav` is
//! continued in `name-2.wav`. The file that is named is overwritten, those after it overwrite none.

use super::{AudioError, Sink};
use crate::units::Format;
use std::fs::File;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

/// Octets of sound in one file: all that 32-bit lengths can say, less the header and a margin.
const DATA_OCTETS_MAX: u64 = (1 << 32) - (1 << 16);

/// Writes WAV files.
pub struct WavSink {
    path: PathBuf,
    /// Number of the current file, from 1.
    part: u32,
    open: Option<Part>,
    data_octets_max: u64,
}

struct Part {
    format: Format,
    writer: hound::WavWriter<BufWriter<File>>,
    data_octets: u64,
    /// Samples (per channel) since the header was brought up to date.
    unflushed_samples: u64,
}

impl WavSink {
    /// A sink that writes to `path`, which is created or emptied by opening.
    pub fn new(path: impl Into<PathBuf>) -> WavSink {
        WavSink { path: path.into(), part: 0, open: None, data_octets_max: DATA_OCTETS_MAX }
    }

    /// The file that is being written, or will be.
    pub fn path(&self) -> PathBuf {
        part_path(&self.path, self.part.max(1))
    }

    fn next_part(&mut self, format: Format) -> Result<(), AudioError> {
        self.finish()?;
        self.part += 1;
        // The file that was asked for is replaced; those that go on from it replace nothing.
        while self.part > 1 && self.path().exists() {
            self.part += 1;
        }
        let path = self.path();
        let what = || format!("open wav file {path:?}");
        // Before it is opened: opening a pipe that nobody reads would wait for a reader.
        if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
            let cause = "not a regular file; raw sound can go to a pipe, as with \"-\"";
            return Err(AudioError::failed(what(), cause));
        }
        let file = File::create(&path).map_err(|error| AudioError::io(what(), &error))?;
        let spec = hound::WavSpec {
            channels: format.channels.count() as u16,
            sample_rate: format.rate.hz(),
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let mut writer = hound::WavWriter::new(BufWriter::new(file), spec)
            .map_err(|error| failed(what(), error))?;
        writer.flush().map_err(|error| failed(what(), error))?;
        self.open = Some(Part { format, writer, data_octets: 0, unflushed_samples: 0 });
        Ok(())
    }

    fn finish(&mut self) -> Result<(), AudioError> {
        let path = self.path();
        self.open.take().map_or(Ok(()), |part| {
            let finished = part.writer.finalize();
            finished.map_err(|error| failed(format!("write wav file {path:?}"), error))
        })
    }
}

/// `name.wav`, `name-2.wav`, `name-3.wav`, …
fn part_path(path: &Path, part: u32) -> PathBuf {
    if part == 1 {
        return path.to_owned();
    }
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(format!("-{part}"));
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

fn failed(what: String, error: hound::Error) -> AudioError {
    match error {
        hound::Error::IoError(error) => AudioError::io(what, &error),
        error => AudioError::failed(what, error),
    }
}

impl Part {
    fn write(&mut self, pcm: &[i16]) -> Result<(), hound::Error> {
        for &sample in pcm {
            self.writer.write_sample(sample)?;
        }
        self.data_octets += pcm.len() as u64 * 2;
        self.unflushed_samples += (pcm.len() / self.format.channels.count()) as u64;
        if self.unflushed_samples >= u64::from(self.format.rate.hz()) {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), hound::Error> {
        self.unflushed_samples = 0;
        self.writer.flush()
    }
}

impl Sink for WavSink {
    fn open(&mut self, stream: Format) -> Result<Format, AudioError> {
        if self.open.as_ref().is_none_or(|part| part.format != stream) {
            self.next_part(stream)?;
        }
        Ok(stream)
    }

    fn write(&mut self, pcm: &[i16]) -> Result<(), AudioError> {
        let full = |part: &Part, max| part.data_octets + pcm.len() as u64 * 2 > max;
        if let Some(part) = self.open.as_ref().filter(|part| full(part, self.data_octets_max)) {
            let format = part.format;
            self.next_part(format)?;
        }
        let path = self.path();
        let what = || format!("write wav file {path:?}");
        let Some(part) = &mut self.open else {
            return Err(AudioError::failed(what(), io::Error::other("it is not open")));
        };
        part.write(pcm).map_err(|error| failed(what(), error))
    }

    fn has_clock(&self) -> bool {
        false
    }

    fn takes_ahead(&self) -> bool {
        true
    }

    fn flush(&mut self) -> Result<(), AudioError> {
        let path = self.path();
        self.open.as_mut().map_or(Ok(()), |part| {
            part.flush().map_err(|error| failed(format!("write wav file {path:?}"), error))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{Channels, SampleRate};
    use std::fs;

    const MONO: Format = Format { rate: SampleRate::HZ_8000, channels: Channels::MONO };
    const STEREO: Format = Format { rate: SampleRate::HZ_16000, channels: Channels::STEREO };

    /// An empty directory of this test's own, removed when dropped.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Directory {
            let name = format!("aodns-wav-sink-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir_all(&path).expect("a directory");
            Directory(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).expect("removes");
        }
    }

    /// The whole sound of a file, as an independent reader sees it.
    fn read(path: &Path) -> (hound::WavSpec, Vec<i16>) {
        let mut reader = hound::WavReader::open(path).expect("a valid file");
        let samples = reader.samples().collect::<Result<_, _>>().expect("all of it");
        (reader.spec(), samples)
    }

    #[test]
    fn what_is_written_can_be_read() {
        let directory = Directory::new("plain");
        let path = directory.0.join("x.wav");
        fs::write(&path, vec![9; 1_000]).expect("something to overwrite");
        let mut sink = WavSink::new(&path);
        assert_eq!(sink.open(STEREO).expect("opens"), STEREO);
        assert_eq!(read(&path).1, [], "valid from the beginning");
        sink.write(&[1, -1, 2, -2]).expect("writes");
        sink.flush().expect("flushes");
        let (spec, samples) = read(&path);
        assert_eq!((spec.channels, spec.sample_rate, spec.bits_per_sample), (2, 16_000, 16));
        assert_eq!(samples, [1, -1, 2, -2]);
        sink.open(STEREO).expect("the same format goes on");
        sink.write(&[3, -3]).expect("writes");
        drop(sink);
        assert_eq!(read(&path).1, [1, -1, 2, -2, 3, -3]);
    }

    #[test]
    fn a_killed_writer_leaves_a_valid_file_that_lacks_less_than_a_second() {
        let directory = Directory::new("killed");
        let path = directory.0.join("x.wav");
        let mut sink = WavSink::new(&path);
        sink.open(MONO).expect("opens");
        for frame in 0..200 {
            sink.write(&[frame; 480]).expect("writes");
            let written = (frame as usize + 1) * 480;
            let copy = directory.0.join("copy.wav");
            fs::copy(&path, &copy).expect("copies");
            let samples = read(&copy).1;
            assert!(samples.len() + 8_000 > written && samples.len() <= written);
        }
    }

    #[test]
    fn a_full_file_and_a_new_format_go_on_in_the_next() {
        let directory = Directory::new("parts");
        let path = directory.0.join("x.wav");
        let mut sink = WavSink::new(&path);
        sink.data_octets_max = 100;
        sink.open(MONO).expect("opens");
        for sample in 0..12 {
            sink.write(&[sample; 10]).expect("writes");
        }
        sink.open(STEREO).expect("opens");
        assert_eq!(sink.path(), directory.0.join("x-4.wav"));
        sink.write(&[1; 10]).expect("writes");
        drop(sink);
        assert_eq!(read(&path).1.len(), 50);
        assert_eq!(read(&directory.0.join("x-2.wav")).1[0], 5);
        assert_eq!(read(&directory.0.join("x-3.wav")).1, [[10; 10], [11; 10]].concat());
        assert_eq!(read(&directory.0.join("x-4.wav")).0.channels, 2);
    }

    #[test]
    fn a_file_that_goes_on_in_the_next_replaces_none() {
        let directory = Directory::new("precious");
        let precious = directory.0.join("x-2.wav");
        fs::write(&precious, "precious").expect("something to keep");
        let mut sink = WavSink::new(directory.0.join("x.wav"));
        sink.open(MONO).expect("opens");
        sink.open(STEREO).expect("opens");
        assert_eq!(sink.path(), directory.0.join("x-3.wav"));
        assert_eq!(fs::read(&precious).expect("it is there"), b"precious");
    }

    #[test]
    fn parts_keep_the_extension() {
        assert_eq!(part_path(Path::new("a/b.wav"), 1), Path::new("a/b.wav"));
        assert_eq!(part_path(Path::new("a/b.wav"), 2), Path::new("a/b-2.wav"));
        assert_eq!(part_path(Path::new("b"), 3), Path::new("b-3"));
    }

    #[test]
    fn what_cannot_be_opened_is_named() {
        let directory = Directory::new("errors");
        let error =
            WavSink::new(directory.0.join("no/x.wav")).open(MONO).expect_err("no directory");
        let text = error.to_string();
        assert!(text.starts_with("cannot open wav file \"") && text.ends_with("directory"));
        assert!(WavSink::new("x.wav").write(&[0]).is_err(), "write comes after open");
        if cfg!(unix) {
            let error = WavSink::new("/dev/null").open(MONO).expect_err("no file");
            assert!(error.to_string().contains("not a regular file"));
        }
    }
}

//! A WAV file as a source: any rate, any number of channels, converted to the stream's format.
//!
//! A file that was cut off, or is still being written, ends where it ends; that is no error. Memory
//! is bounded whatever the header claims: one block of octets, and about a second of sound.

use super::mix::Downmix;
use super::wav_header::{Header, HeaderError};
use super::{AudioError, Source};
use crate::resample::Resampler;
use crate::units::Format;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// A WAV file, played once or for ever.
pub struct WavSource {
    path: PathBuf,
    looping: bool,
    stream: Option<WavStream<BufReader<File>>>,
}

impl WavSource {
    /// The file at `path`; when `looping`, its end is followed by its beginning without a gap.
    pub fn new(path: impl Into<PathBuf>, looping: bool) -> WavSource {
        WavSource { path: path.into(), looping, stream: None }
    }

    fn what(&self, operation: &str) -> String {
        format!("{operation} wav file {:?}", self.path)
    }
}

impl Source for WavSource {
    fn open(&mut self, format: Format, _frame_samples: usize) -> Result<(), AudioError> {
        let failed = |error: &io::Error| AudioError::io(self.what("open"), error);
        // To open a pipe may take for ever.
        if self.looping && self.path.metadata().is_ok_and(|file| file.file_type().is_fifo()) {
            let cause = "it is a pipe, which cannot be begun again";
            return Err(AudioError::failed(self.what("loop"), cause));
        }
        let file = File::open(&self.path).map_err(|error| failed(&error))?;
        if file.metadata().is_ok_and(|file| file.is_file() && file.len() == 0) {
            return Err(AudioError::failed(self.what("open"), "it is empty"));
        }
        let stream = WavStream::open(BufReader::new(file), format, self.looping);
        self.stream = Some(stream.map_err(|error| match error {
            HeaderError::Io(error) => failed(&error),
            _ => AudioError::failed(
                self.what("open"),
                format_args!("{error}; {}", conversion_hint(&self.path)),
            ),
        })?);
        Ok(())
    }

    fn read(&mut self, pcm: &mut [i16]) -> Result<usize, AudioError> {
        let Some(stream) = &mut self.stream else { return Ok(0) };
        stream.read(pcm).map_err(|error| AudioError::io(self.what("read"), &error))
    }

    fn has_clock(&self) -> bool {
        false
    }
}

/// How to make a file of `path` that can be read.
fn conversion_hint(path: &Path) -> String {
    if path.metadata().is_ok_and(|file| !file.is_file()) {
        return format!("raw PCM is taken from standard input, with --input - <{}", path.display());
    }
    let mut target = path.with_extension("wav");
    if target == path {
        target = path.with_extension("pcm.wav");
    }
    let (path, target) = (path.display(), target.display());
    format!("convert it first, e.g. with ffmpeg -i {path} {target}")
}

/// The sound of a WAV file in the stream's format, from any octets.
struct WavStream<R> {
    input: R,
    header: Header,
    looping: bool,
    /// Octets of sound not yet read; `None`: up to the end of the file.
    left_octets: Option<u64>,
    /// Whether this pass over the file had any sound: otherwise looping would never return.
    sounded: bool,
    ended: bool,
    downmix: Downmix,
    resampler: Resampler,
    block: Vec<u8>,
    decoded: Vec<i16>,
    mixed: Vec<i16>,
    /// Sound in the stream's format; what lies before `taken` was given away.
    ready: Vec<i16>,
    taken: usize,
}

/// Samples (per channel) that are read at once, at the lower of the two rates.
const BLOCK_SAMPLES: u64 = 4_096;

impl<R: Read + Seek> WavStream<R> {
    fn open(mut input: R, format: Format, looping: bool) -> Result<WavStream<R>, HeaderError> {
        let header = Header::parse(&mut input)?;
        // A file at 1 Hz makes 48,000 samples of one.
        let (from, to) = (u64::from(header.rate.hz()), u64::from(format.rate.hz()));
        let samples = (BLOCK_SAMPLES * from / to).clamp(1, BLOCK_SAMPLES) as usize;
        Ok(WavStream {
            input,
            looping,
            left_octets: header.data_octets,
            sounded: false,
            ended: false,
            downmix: Downmix::new(header.channels, format.channels),
            resampler: Resampler::new(format.channels, header.rate, format.rate),
            block: vec![0; samples * header.sample_octets()],
            decoded: Vec::new(),
            mixed: Vec::new(),
            ready: Vec::new(),
            taken: 0,
            header,
        })
    }

    fn read(&mut self, pcm: &mut [i16]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < pcm.len() {
            if self.taken == self.ready.len() {
                self.ready.clear();
                self.taken = 0;
                if self.ended {
                    break;
                }
                self.read_block()?;
            }
            let count = (pcm.len() - filled).min(self.ready.len() - self.taken);
            let ready = &self.ready[self.taken..self.taken + count];
            pcm[filled..filled + count].copy_from_slice(ready);
            filled += count;
            self.taken += count;
        }
        Ok(filled)
    }

    /// Reads one block, or begins the next pass, or ends.
    fn read_block(&mut self) -> io::Result<()> {
        let wanted = self.left_octets.unwrap_or(u64::MAX).min(self.block.len() as u64) as usize;
        let mut filled = 0;
        while filled < wanted {
            match self.input.read(&mut self.block[filled..wanted]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        // Where the file is cut, what is left of the last sample is no sound.
        let whole = filled - filled % self.header.sample_octets();
        self.decoded.clear();
        self.header.encoding.decode(&self.block[..whole], &mut self.decoded);
        self.mixed.clear();
        self.downmix.process(&self.decoded, &mut self.mixed);
        self.resampler.process(&self.mixed, &mut self.ready);
        self.sounded |= whole > 0;
        if let Some(left) = &mut self.left_octets {
            *left -= filled as u64;
        }
        if filled < self.block.len() {
            if self.looping && self.sounded {
                // The resampler goes on across the seam, as if the file were endless.
                self.input.seek(SeekFrom::Start(self.header.data_start))?;
                self.left_octets = self.header.data_octets;
                self.sounded = false;
            } else {
                self.resampler.flush(&mut self.ready);
                self.ended = true;
            }
        }
        Ok(())
    }
}

/// Plays any octets as a WAV file for a while: must neither panic nor take much memory or time.
/// The body of a fuzz target.
pub fn fuzz_wav(octets: &[u8]) {
    use crate::units::{Channels, SampleRate};
    for (format, looping) in [
        (Format::new(SampleRate::HZ_16000, Channels::MONO), false),
        (Format::new(SampleRate::HZ_48000, Channels::STEREO), true),
    ] {
        let Ok(mut stream) = WavStream::open(io::Cursor::new(octets), format, looping) else {
            continue;
        };
        assert!(stream.block.len() <= 1 << 22, "a block is bounded");
        let mut pcm = vec![0; 960 * format.channels.count()];
        let mut ended = false;
        for _ in 0..8 {
            let filled = stream.read(&mut pcm).unwrap_or(0);
            assert!(filled <= pcm.len(), "no more than was asked for");
            assert_eq!(filled % format.channels.count(), 0, "whole samples");
            assert!(!ended || filled == 0, "the end is final");
            ended |= filled < pcm.len();
            assert!(stream.ready.capacity() <= 1 << 20, "what is ready is bounded");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{Channels, SampleRate};
    use std::io::Cursor;

    const MONO: Format = Format { rate: SampleRate::HZ_16000, channels: Channels::MONO };
    const STEREO: Format = Format { rate: SampleRate::HZ_16000, channels: Channels::STEREO };

    /// A WAV file as the `hound` crate writes it.
    fn file(channels: u16, hz: u32, bits: u16, samples: &[i32]) -> Vec<u8> {
        let spec = hound::WavSpec {
            channels,
            sample_rate: hz,
            bits_per_sample: bits,
            sample_format: hound::SampleFormat::Int,
        };
        let mut octets = Cursor::new(Vec::new());
        let mut writer = hound::WavWriter::new(&mut octets, spec).expect("a header");
        for &sample in samples {
            writer.write_sample(sample).expect("fits");
        }
        writer.finalize().expect("lengths");
        octets.into_inner()
    }

    fn read_all(octets: &[u8], format: Format) -> Vec<i16> {
        let mut stream = WavStream::open(Cursor::new(octets), format, false).expect("opens");
        let (mut all, mut pcm) = (Vec::new(), [0; 77 * 2]);
        loop {
            let filled = stream.read(&mut pcm).expect("reads");
            all.extend_from_slice(&pcm[..filled]);
            if filled < pcm.len() {
                assert_eq!(stream.read(&mut pcm).expect("stays at its end"), 0);
                return all;
            }
        }
    }

    #[test]
    fn every_width_and_channel_count_is_read() {
        let samples: Vec<i32> = (0..10_000).map(|n| n * 13 % 200 - 100).collect();
        let expected: Vec<i16> = samples.iter().map(|&s| (s << 8) as i16).collect();
        for (bits, shift) in [(8, 0), (16, 8), (24, 16), (32, 24)] {
            let shifted: Vec<i32> = samples.iter().map(|s| s << shift).collect();
            assert_eq!(read_all(&file(1, 16_000, bits, &shifted), MONO), expected, "{bits}");
            assert_eq!(read_all(&file(2, 16_000, bits, &shifted), STEREO), expected, "{bits}");
        }
        assert_eq!(read_all(&file(6, 16_000, 16, &[500; 60]), STEREO), [500; 20]);
        assert_eq!(read_all(&file(1, 16_000, 16, &[1, 2]), STEREO), [1, 1, 2, 2]);
    }

    #[test]
    fn rates_are_converted_to_the_right_length() {
        let octets = file(1, 44_100, 16, &vec![1_000; 44_100]);
        let pcm = read_all(&octets, MONO);
        assert_eq!(pcm.len(), 16_000);
        assert!(pcm[100..15_900].iter().all(|&sample| (999..=1_001).contains(&sample)));
        assert_eq!(read_all(&file(1, 8_000, 16, &[0; 100]), STEREO).len(), 400);
    }

    #[test]
    fn a_cut_file_ends_where_it_is_cut() {
        let octets = file(2, 16_000, 16, &[7; 1_000]);
        assert_eq!(read_all(&octets[..44 + 401], STEREO), [7; 200]);
        assert_eq!(read_all(&octets[..44], STEREO), []);
    }

    #[test]
    fn a_streaming_header_reads_to_the_end() {
        for length in [0, u32::MAX] {
            let mut octets = file(1, 16_000, 16, &[7; 100]);
            octets[4..8].copy_from_slice(&length.to_le_bytes());
            octets[40..44].copy_from_slice(&length.to_le_bytes());
            assert_eq!(read_all(&octets, MONO), [7; 100]);
        }
    }

    #[test]
    fn what_follows_the_sound_is_not_played() {
        let mut octets = file(1, 16_000, 16, &[7; 100]);
        octets.extend(b"LIST\x04\0\0\0abcd");
        assert_eq!(read_all(&octets, MONO), [7; 100]);
    }

    #[test]
    fn a_loop_has_no_seam() {
        // 100 periods of a sine at 44.1 kHz: converted and looped, its bend never breaks.
        let sine = |n: i32| (8_000.0 * (f64::from(n) * std::f64::consts::TAU / 441.0).sin()) as i32;
        let octets = file(1, 44_100, 16, &(0..44_100).map(sine).collect::<Vec<_>>());
        let mut stream = WavStream::open(Cursor::new(octets), MONO, true).expect("opens");
        let mut pcm = vec![0; 16_000 * 3];
        assert_eq!(stream.read(&mut pcm).expect("reads"), pcm.len());
        let bend = pcm.windows(3).map(|w| i32::from(w[0]) - 2 * i32::from(w[1]) + i32::from(w[2]));
        // At the beginning the filter rings: silence is followed by the sine.
        assert!(bend.skip(200).map(i32::abs).max() <= Some(18));
        assert_eq!(pcm[16_200..31_800], pcm[32_200..47_800]);
    }

    #[test]
    fn an_empty_file_does_not_loop_for_ever() {
        let mut stream =
            WavStream::open(Cursor::new(file(1, 16_000, 16, &[])), MONO, true).expect("opens");
        assert_eq!(stream.read(&mut [0; 10]).expect("reads"), 0);
        // A loop whose pass is shorter than a block, and one of exactly a block.
        for samples in [1, BLOCK_SAMPLES as usize, BLOCK_SAMPLES as usize + 1] {
            let octets = file(1, 16_000, 16, &vec![3; samples]);
            let mut stream = WavStream::open(Cursor::new(octets), MONO, true).expect("opens");
            let mut pcm = vec![0; 20_000];
            assert_eq!(stream.read(&mut pcm).expect("reads"), 20_000);
            assert!(pcm.iter().all(|&sample| sample == 3));
        }
    }

    #[test]
    fn messages_say_what_would_be_right() {
        let directory = std::env::temp_dir().join(format!("aodns-wav-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let path = directory.join("x.mp3");
        std::fs::write(&path, b"ID3\x04 and so on, longer than a header").expect("writes");
        let error = WavSource::new(&path, false).open(MONO, 960).expect_err("no WAV file");
        assert_eq!(
            error.to_string(),
            format!(
                "cannot open wav file {path:?}: not a WAV file (no RIFF header); convert it first, \
                 e.g. with ffmpeg -i {} {}",
                path.display(),
                directory.join("x.wav").display()
            )
        );
        assert!(conversion_hint(Path::new("x.wav")).ends_with("ffmpeg -i x.wav x.pcm.wav"));
        let error = WavSource::new(directory.join("no"), false).open(MONO, 960);
        assert!(error.expect_err("no file").to_string().ends_with("no such file or directory"));
        let error = WavSource::new(&directory, false).open(MONO, 960).expect_err("no file");
        assert!(error.to_string().ends_with("is a directory"), "{error}");
        std::fs::write(&path, "").expect("writes");
        let error = WavSource::new(&path, false).open(MONO, 960).expect_err("no sound");
        assert!(error.to_string().ends_with("it is empty"), "{error}");
        std::fs::write(&path, file(1, 16_000, 16, &[1, 2, 3])).expect("writes");
        let mut source = WavSource::new(&path, false);
        source.open(MONO, 960).expect("the name does not matter");
        assert_eq!(source.read(&mut [0; 960]).expect("reads"), 3);
        assert!(!source.has_clock());
        std::fs::remove_dir_all(&directory).expect("removes");
    }

    #[test]
    fn mutated_files_are_survived() {
        let good = file(2, 44_100, 24, &[1_000; 600]);
        let mut state = 1u32;
        let mut random = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as usize
        };
        fuzz_wav(&good);
        for _ in 0..300 {
            let mut octets = good[..random() % good.len()].to_vec();
            for _ in 0..random() % 4 {
                let at = random() % octets.len().clamp(1, 100);
                if let Some(octet) = octets.get_mut(at) {
                    *octet = [0, 1, 0x7f, 0xff, random() as u8][random() % 5];
                }
            }
            fuzz_wav(&octets);
        }
    }
}

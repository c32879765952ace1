//! What the command line may name as a source or a sink, and how to make it.

use super::{
    AudioError, NullSink, ProgrammeSource, RawSink, RawSource, Sink, Source, ToneSource, WavSink,
    WavSource,
};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// A form of the command line, and what it means.
pub type Form = (&'static str, &'static str);

/// A source of sound that can be named in words.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SourceKind {
    /// The system's default input device.
    Default,
    /// The input device of this name.
    Device(String),
    /// Raw PCM on standard input.
    Raw,
    /// A sine tone of so many hertz.
    Tone(u32),
    /// The built-in programme.
    Programme,
    /// A WAV file.
    Wav(PathBuf),
}

impl SourceKind {
    /// Every form, in the order of help texts.
    pub const ALL: &'static [Form] = &[
        ("default", "the default sound input"),
        ("device:NAME", "the sound input of that name"),
        ("-", "raw PCM on standard input (s16le, in the stream's rate and channels)"),
        ("tone:HZ", "a sine tone of 1 to 24000 Hz"),
        ("demo", "a built-in endless programme"),
        ("FILE", "a WAV file; write ./demo for a file that is named like a word above"),
    ];

    /// The kind's name, without what is special to this one.
    pub fn name(&self) -> &'static str {
        match self {
            SourceKind::Default => "default",
            SourceKind::Device(_) => "device",
            SourceKind::Raw => "-",
            SourceKind::Tone(_) => "tone",
            SourceKind::Programme => "demo",
            SourceKind::Wav(_) => "wav",
        }
    }

    /// Help on every form, one line each.
    pub fn help() -> String {
        help(Self::ALL)
    }

    /// Makes the source, which is opened later; `looping` repeats a file for ever and means nothing
    /// to the others.
    ///
    /// # Errors
    /// When this build cannot do it.
    pub fn build(&self, looping: bool) -> Result<Box<dyn Source>, AudioError> {
        Ok(match self {
            SourceKind::Default => device_source(None)?,
            SourceKind::Device(name) => device_source(Some(name))?,
            SourceKind::Raw => Box::new(RawSource::stdin()),
            SourceKind::Tone(hz) => Box::new(ToneSource::new(*hz)),
            SourceKind::Programme => Box::new(ProgrammeSource::new()),
            SourceKind::Wav(path) => Box::new(WavSource::new(path, looping)),
        })
    }
}

impl FromStr for SourceKind {
    type Err = SpecError;

    fn from_str(spec: &str) -> Result<SourceKind, SpecError> {
        Ok(match (spec, spec.split_once(':')) {
            ("", _) => return Err(SpecError::Empty),
            ("default", _) => SourceKind::Default,
            ("-", _) => SourceKind::Raw,
            ("demo", _) => SourceKind::Programme,
            (_, Some(("device", ""))) => return Err(SpecError::DeviceName),
            (_, Some(("device", name))) => SourceKind::Device(name.to_owned()),
            (_, Some(("tone", hz))) => {
                let hz = hz.parse().map_err(|_| SpecError::Tone)?;
                if !(ToneSource::HZ_MIN..=ToneSource::HZ_MAX).contains(&hz) {
                    return Err(SpecError::Tone);
                }
                SourceKind::Tone(hz)
            }
            _ => SourceKind::Wav(PathBuf::from(spec)),
        })
    }
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SourceKind::Device(name) => write!(f, "device:{name}"),
            SourceKind::Tone(hz) => write!(f, "tone:{hz}"),
            SourceKind::Wav(path) => write!(f, "{}", path.display()),
            _ => write!(f, "{}", self.name()),
        }
    }
}

/// A sink for sound that can be named in words.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SinkKind {
    /// The system's default output device.
    Default,
    /// The output device of this name.
    Device(String),
    /// Raw PCM on standard output.
    Raw,
    /// Nothing: sound is counted and dropped.
    Null,
    /// A WAV file.
    Wav(PathBuf),
}

impl SinkKind {
    /// Every form, in the order of help texts.
    pub const ALL: &'static [Form] = &[
        ("default", "the default sound output"),
        ("device:NAME", "the sound output of that name"),
        ("-", "raw PCM on standard output (s16le, in the stream's rate and channels)"),
        ("null", "nothing; the sound is dropped"),
        (
            "FILE",
            "a WAV file to write; where the format changes, out.wav goes on in out-2.wav; write \
             ./null for a file that is named like a word above",
        ),
    ];

    /// The kind's name, without what is special to this one.
    pub fn name(&self) -> &'static str {
        match self {
            SinkKind::Default => "default",
            SinkKind::Device(_) => "device",
            SinkKind::Raw => "-",
            SinkKind::Null => "null",
            SinkKind::Wav(_) => "wav",
        }
    }

    /// Help on every form, one line each.
    pub fn help() -> String {
        help(Self::ALL)
    }

    /// Makes the sink, which is opened later.
    ///
    /// # Errors
    /// When this build cannot do it.
    pub fn build(&self) -> Result<Box<dyn Sink>, AudioError> {
        Ok(match self {
            SinkKind::Default => device_sink(None)?,
            SinkKind::Device(name) => device_sink(Some(name))?,
            SinkKind::Raw => Box::new(RawSink::stdout()),
            SinkKind::Null => Box::new(NullSink::new()),
            SinkKind::Wav(path) => Box::new(WavSink::new(path)),
        })
    }
}

impl FromStr for SinkKind {
    type Err = SpecError;

    fn from_str(spec: &str) -> Result<SinkKind, SpecError> {
        Ok(match (spec, spec.split_once(':')) {
            ("", _) => return Err(SpecError::Empty),
            ("default", _) => SinkKind::Default,
            ("-", _) => SinkKind::Raw,
            ("null", _) => SinkKind::Null,
            (_, Some(("device", ""))) => return Err(SpecError::DeviceName),
            (_, Some(("device", name))) => SinkKind::Device(name.to_owned()),
            _ => SinkKind::Wav(PathBuf::from(spec)),
        })
    }
}

impl fmt::Display for SinkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SinkKind::Device(name) => write!(f, "device:{name}"),
            SinkKind::Wav(path) => write!(f, "{}", path.display()),
            _ => write!(f, "{}", self.name()),
        }
    }
}

fn help(forms: &[Form]) -> String {
    let width = forms.iter().map(|(form, _)| form.len()).max().unwrap_or(0);
    forms.iter().map(|(form, meaning)| format!("{form:width$}  {meaning}\n")).collect()
}

/// Why a word of the command line names no source or sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpecError {
    /// Nothing at all.
    Empty,
    /// `device:` without a name.
    DeviceName,
    /// `tone:` without a frequency that can be played.
    Tone,
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SpecError::Empty => write!(f, "an empty name is neither a device nor a file"),
            SpecError::DeviceName => {
                write!(f, "a device needs a name, as in device:NAME, or default")
            }
            SpecError::Tone => write!(
                f,
                "a tone needs a frequency of {} to {} Hz, as in tone:440",
                ToneSource::HZ_MIN,
                ToneSource::HZ_MAX
            ),
        }
    }
}

impl std::error::Error for SpecError {}

#[cfg(feature = "device")]
fn device_source(name: Option<&str>) -> Result<Box<dyn Source>, AudioError> {
    Ok(Box::new(super::device::DeviceSource::new(name)))
}

#[cfg(feature = "device")]
fn device_sink(name: Option<&str>) -> Result<Box<dyn Sink>, AudioError> {
    Ok(Box::new(super::device::DeviceSink::new(name)))
}

#[cfg(not(feature = "device"))]
fn device_source(name: Option<&str>) -> Result<Box<dyn Source>, AudioError> {
    Err(no_device("input", name))
}

#[cfg(not(feature = "device"))]
fn device_sink(name: Option<&str>) -> Result<Box<dyn Sink>, AudioError> {
    Err(no_device("output", name))
}

#[cfg(not(feature = "device"))]
fn no_device(direction: &str, name: Option<&str>) -> AudioError {
    let name = name.map_or("default".to_owned(), |name| format!("{name:?}"));
    let cause = "this build has no sound device support (feature `device`)";
    AudioError::failed(format!("open sound {direction} {name}"), cause)
}

/// Whether the default output device can be opened; found out quickly, and without sound or a word
/// on standard error where there is none.
pub fn default_output_works() -> bool {
    #[cfg(feature = "device")]
    {
        super::device::default_output_works()
    }
    #[cfg(not(feature = "device"))]
    {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_is_read_and_shown_alike() {
        for spec in ["default", "device:USB: 2", "-", "tone:1", "tone:24000", "demo", "a/b:c.wav"] {
            let kind: SourceKind = spec.parse().expect("a source");
            assert_eq!(kind.to_string(), spec);
        }
        for spec in ["default", "device:x", "-", "null", "out.wav", "./null"] {
            let kind: SinkKind = spec.parse().expect("a sink");
            assert_eq!(kind.to_string(), spec);
        }
        assert_eq!("./demo".parse(), Ok(SourceKind::Wav("./demo".into())));
        assert_eq!("null".parse(), Ok(SourceKind::Wav("null".into())));
    }

    #[test]
    fn what_names_nothing_is_refused_with_the_right_form() {
        for spec in ["tone:", "tone:0", "tone:24001", "tone:-5", "tone:440Hz", "tone:4294967297"] {
            let error = spec.parse::<SourceKind>().expect_err("no tone");
            assert!(error.to_string().ends_with("as in tone:440"), "{spec}");
        }
        assert_eq!("".parse::<SourceKind>(), Err(SpecError::Empty));
        assert_eq!("".parse::<SinkKind>(), Err(SpecError::Empty));
        assert_eq!("device:".parse::<SourceKind>(), Err(SpecError::DeviceName));
        assert_eq!("device:".parse::<SinkKind>(), Err(SpecError::DeviceName));
        assert!(SpecError::Empty.to_string().contains("empty"));
        assert!(SpecError::DeviceName.to_string().contains("device:NAME"));
    }

    #[test]
    fn every_kind_is_built_and_listed() {
        for (form, _) in SourceKind::ALL {
            let kind: SourceKind = form.replace("HZ", "440").parse().expect("a source");
            assert_eq!(kind.build(true).is_ok(), cfg!(feature = "device") || !is_device(form));
            assert!(SourceKind::help().contains(form));
        }
        for (form, _) in SinkKind::ALL {
            let kind: SinkKind = form.parse().expect("a sink");
            assert_eq!(kind.build().is_ok(), cfg!(feature = "device") || !is_device(form));
            assert!(SinkKind::help().contains(form));
        }
    }

    fn is_device(form: &str) -> bool {
        form.starts_with("de") && form != "demo"
    }

    #[cfg(not(feature = "device"))]
    #[test]
    fn a_build_without_devices_says_so() {
        let error = SourceKind::Default.build(false).err().expect("no devices");
        assert_eq!(
            error.to_string(),
            "cannot open sound input default: this build has no sound device support (feature `device`)"
        );
        assert!(SinkKind::Device("x".into()).build().is_err());
        assert!(!default_output_works());
    }
}

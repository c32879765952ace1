//! The system's devices: found by name, opened in the format that they like best, and the words
//! for what goes wrong.

use super::keeper::Watch;
use super::queue::{self, InputFeed, InputLine, OutputFeed, OutputLine, PcmSample, Shape};
use crate::audio::AudioError;
use crate::units::SampleRate;
use cpal::traits::{DeviceTrait, HostTrait, StreamTrait};
use cpal::{BufferSize, ErrorKind, SampleFormat, StreamConfig, SupportedBufferSize};
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

/// How much sound a device is asked to move per callback; it holds about two of these. A busy
/// machine lets an output wait for longer than an input, whose latency comes on top of a stream's.
const fn period(direction: Direction) -> Duration {
    Duration::from_millis(match direction {
        Direction::Input => 20,
        Direction::Output => 60,
    })
}

/// Between two attempts of a device's thread to go on.
const ERROR_PAUSE: Duration = Duration::from_millis(2);
/// Devices that are listed in an error.
const LISTED_MAX: usize = 12;

/// What ALSA lists as well, though there is no device behind it: converters, and nothing at all.
const NO_DEVICES: [&str; 7] =
    ["null", "lavrate", "samplerate", "speexrate", "speex", "upmix", "vdownmix"];

/// Which way sound flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Input,
    Output,
}

impl Direction {
    fn name(self) -> &'static str {
        match self {
            Direction::Input => "input",
            Direction::Output => "output",
        }
    }

    /// What works without any device.
    fn cure(self) -> &'static str {
        match self {
            Direction::Input => "--input FILE.wav or --input demo needs no device",
            Direction::Output => "--output FILE.wav or --output null needs no device",
        }
    }
}

/// What is attempted, for an error.
pub(super) fn attempt(direction: Direction, name: Option<&str>) -> String {
    let name = name.map_or("default".to_owned(), |name| format!("{name:?}"));
    format!("use sound {} {name}", direction.name())
}

/// The error for a device that cannot be used, with the cure.
pub(super) fn failed(direction: Direction, name: Option<&str>, cause: &str) -> AudioError {
    AudioError::failed(attempt(direction, name), format!("{cause}; {}", direction.cure()))
}

/// The error for a device that is used without having been opened.
pub(super) fn not_open(direction: Direction, name: Option<&str>) -> AudioError {
    AudioError::failed(attempt(direction, name), "it is not open")
}

/// Why it failed, in one lower-case line.
pub(super) fn cause(error: &cpal::Error) -> String {
    let known = match error.kind() {
        ErrorKind::DeviceBusy => "another program is using it",
        ErrorKind::DeviceNotAvailable => "there is no such device",
        ErrorKind::HostUnavailable => "there is no sound system",
        ErrorKind::PermissionDenied => "permission denied",
        ErrorKind::UnsupportedConfig => "it refuses every format it could be used with",
        ErrorKind::StreamInvalidated => "its format has changed",
        _ => "",
    };
    match (known, error.message()) {
        ("", message) => {
            let text = message.map_or(error.kind().to_string(), str::to_owned);
            // "ALSA function 'snd_pcm_open' failed with error 'Connection refused (111)'"
            let text = text.rsplit("failed with error '").next().unwrap_or_default();
            let text = text.split(" (").next().unwrap_or_default();
            let mut letters = text.trim_end_matches(['.', '\'']).chars();
            let first = letters.next().map(|c| c.to_ascii_lowercase());
            first.into_iter().chain(letters).collect()
        }
        (known, _) => known.to_owned(),
    }
}

/// Keeps alsa-lib from writing to standard error what goes wrong on this thread: it is in the
/// errors, and is nobody's business where the default device is only tried. Replaces what an
/// earlier call has collected.
pub(super) fn hush() {
    #[cfg(any(
        target_os = "linux",
        target_os = "dragonfly",
        target_os = "freebsd",
        target_os = "netbsd"
    ))]
    {
        // Fails without memory only; then alsa-lib is heard.
        let _ = alsa::Output::local_error_handler();
    }
}

/// Opens and starts an input.
///
/// # Errors
/// When there is none, or it refuses.
pub(super) fn open_input(
    name: Option<&str>,
    watch: Watch,
    lost_ns: &Arc<AtomicU64>,
) -> Result<(cpal::Stream, InputLine), AudioError> {
    let direction = Direction::Input;
    open(direction, name, |device| {
        let config = device.default_input_config()?;
        let shape = shape(&config)?;
        with_period(direction, &config, |config, format| {
            let (feed, line) = queue::input(shape, Arc::clone(lost_ns));
            let stream = build_input(device, config, format, feed, watch.clone())?;
            stream.play()?;
            Ok((stream, line))
        })
    })
}

/// Opens and starts an output.
///
/// # Errors
/// When there is none, or it refuses.
pub(super) fn open_output(
    name: Option<&str>,
    watch: Watch,
    underruns: &Arc<AtomicU64>,
) -> Result<(cpal::Stream, OutputLine), AudioError> {
    let direction = Direction::Output;
    open(direction, name, |device| {
        let config = device.default_output_config()?;
        let shape = shape(&config)?;
        with_period(direction, &config, |config, format| {
            let (feed, line) = queue::output(shape, Arc::clone(underruns), Instant::now());
            let stream = build_output(device, config, format, feed, watch.clone())?;
            stream.play()?;
            Ok((stream, line))
        })
    })
}

/// Finds the device and opens it with `build`. An error tells what there is instead.
fn open<T>(
    direction: Direction,
    name: Option<&str>,
    build: impl FnOnce(&cpal::Device) -> Result<T, cpal::Error>,
) -> Result<T, AudioError> {
    hush();
    let host = cpal::default_host();
    let built = match find(&host, direction, name) {
        Ok(Some(device)) => build(&device).map_err(|error| cause(&error)),
        Ok(None) if name.is_some() => Err("there is no device of this name".to_owned()),
        Ok(None) => Err("there is no default device".to_owned()),
        Err(error) => Err(cause(&error)),
    };
    built.map_err(|cause| failed(direction, name, &format!("{cause} ({})", list(&host, direction))))
}

fn find(
    host: &cpal::Host,
    direction: Direction,
    name: Option<&str>,
) -> Result<Option<cpal::Device>, cpal::Error> {
    let Some(name) = name else {
        return Ok(match direction {
            Direction::Input => host.default_input_device(),
            Direction::Output => host.default_output_device(),
        });
    };
    let devices = devices(host, direction)?;
    let index = pick(devices.iter().map(names), name);
    Ok(index.and_then(|index| devices.into_iter().nth(index)))
}

fn devices(host: &cpal::Host, direction: Direction) -> Result<Vec<cpal::Device>, cpal::Error> {
    Ok(match direction {
        Direction::Input => host.input_devices()?.collect(),
        Direction::Output => host.output_devices()?.collect(),
    })
}

/// What a device may be called by: first what is shown in lists, then what is accepted as well.
/// With ALSA, the former is the name of a PCM, as `aplay -L` shows; elsewhere that of the device.
fn names(device: &cpal::Device) -> [String; 2] {
    let id = device.id().ok();
    let spoken = device.description().map_or(String::new(), |about| about.name().to_owned());
    match id {
        Some(id) if id.host().name() == "ALSA" => [id.id().to_owned(), spoken],
        Some(id) => [spoken, id.id().to_owned()],
        None => [spoken.clone(), spoken],
    }
}

/// The device meant by `name`: one of exactly this name, or the only one whose name contains it,
/// whatever the case.
fn pick(devices: impl Iterator<Item = [String; 2]> + Clone, name: &str) -> Option<usize> {
    for kind in 0..2 {
        if let Some(index) = devices.clone().position(|names| names[kind] == name) {
            return Some(index);
        }
    }
    let part = name.to_lowercase();
    let contains = |names: &[String; 2]| names.iter().any(|n| n.to_lowercase().contains(&part));
    let mut found = devices.enumerate().filter(|(_, names)| contains(names));
    match (found.next(), found.next()) {
        (Some((index, _)), None) => Some(index),
        _ => None,
    }
}

/// What there is to choose from.
fn list(host: &cpal::Host, direction: Direction) -> String {
    let devices = devices(host, direction).unwrap_or_default();
    let mut names: Vec<String> = devices.iter().map(|device| names(device)[0].clone()).collect();
    names.retain(|name| !NO_DEVICES.contains(&name.as_str()));
    listed(direction, &names)
}

fn listed(direction: Direction, names: &[String]) -> String {
    if names.is_empty() {
        return format!("no sound {} is known here", direction.name());
    }
    let mut text = "known: ".to_owned();
    for (index, name) in names.iter().take(LISTED_MAX).enumerate() {
        let comma = if index > 0 { ", " } else { "" };
        // Writing to a string cannot fail.
        let _ = write!(text, "{comma}device:{name}");
    }
    if names.len() > LISTED_MAX {
        let _ = write!(text, " and {} more", names.len() - LISTED_MAX);
    }
    text
}

fn shape(config: &cpal::SupportedStreamConfig) -> Result<Shape, cpal::Error> {
    match (SampleRate::new(config.sample_rate()), config.channels()) {
        (Some(rate), channels @ 1..) => Ok(Shape { rate, channels: channels.into() }),
        _ => Err(ErrorKind::UnsupportedConfig.into()),
    }
}

/// Builds with the period that we like, or with the device's own if it refuses.
fn with_period<T>(
    direction: Direction,
    supported: &cpal::SupportedStreamConfig,
    build: impl Fn(StreamConfig, SampleFormat) -> Result<T, cpal::Error>,
) -> Result<T, cpal::Error> {
    let mut config = supported.config();
    if let SupportedBufferSize::Range { min, max } = *supported.buffer_size() {
        let period = period(direction).as_millis() as u32 * config.sample_rate / 1_000;
        let period = period.max(min).min(max);
        config.buffer_size = BufferSize::Fixed(period);
        match build(config, supported.sample_format()) {
            Err(error) if error.kind() == ErrorKind::UnsupportedConfig => {}
            result => return result,
        }
        config.buffer_size = BufferSize::Default;
    }
    build(config, supported.sample_format())
}

/// Calls a function of one type parameter, a sample's, with the type that a format stands for.
macro_rules! by_format {
    ($format:expr, $function:ident $arguments:tt) => {
        match $format {
            SampleFormat::I8 => $function::<i8> $arguments,
            SampleFormat::I16 => $function::<i16> $arguments,
            SampleFormat::I24 => $function::<cpal::I24> $arguments,
            SampleFormat::I32 => $function::<i32> $arguments,
            SampleFormat::I64 => $function::<i64> $arguments,
            SampleFormat::U8 => $function::<u8> $arguments,
            SampleFormat::U16 => $function::<u16> $arguments,
            SampleFormat::U24 => $function::<cpal::U24> $arguments,
            SampleFormat::U32 => $function::<u32> $arguments,
            SampleFormat::U64 => $function::<u64> $arguments,
            SampleFormat::F32 => $function::<f32> $arguments,
            SampleFormat::F64 => $function::<f64> $arguments,
            // One bit per sample, which only players of such files have a use for.
            _ => Err(ErrorKind::UnsupportedConfig.into()),
        }
    };
}

fn build_input(
    device: &cpal::Device,
    config: StreamConfig,
    format: SampleFormat,
    feed: InputFeed,
    watch: Watch,
) -> Result<cpal::Stream, cpal::Error> {
    by_format!(format, build_input_of(device, config, feed, watch))
}

fn build_input_of<T: PcmSample>(
    device: &cpal::Device,
    config: StreamConfig,
    mut feed: InputFeed,
    watch: Watch,
) -> Result<cpal::Stream, cpal::Error> {
    let errors = watch.clone();
    let take = move |data: &[T], _: &cpal::InputCallbackInfo| {
        if watch.called() {
            feed.take(data);
        }
    };
    let fail = move |error: cpal::Error| {
        report(&errors, error);
    };
    device.build_input_stream(config, take, fail, None)
}

fn build_output(
    device: &cpal::Device,
    config: StreamConfig,
    format: SampleFormat,
    feed: OutputFeed,
    watch: Watch,
) -> Result<cpal::Stream, cpal::Error> {
    by_format!(format, build_output_of(device, config, feed, watch))
}

fn build_output_of<T: PcmSample>(
    device: &cpal::Device,
    config: StreamConfig,
    mut feed: OutputFeed,
    watch: Watch,
) -> Result<cpal::Stream, cpal::Error> {
    let errors = watch.clone();
    let interruptions = feed.interruptions();
    let give = move |data: &mut [T], info: &cpal::OutputCallbackInfo| {
        if watch.called() {
            let time = info.timestamp();
            let delay = time.playback.saturating_duration_since(time.callback);
            feed.give(data, Instant::now(), delay);
        } else {
            data.fill(T::EQUILIBRIUM);
        }
    };
    let fail = move |error: cpal::Error| {
        if report(&errors, error) {
            interruptions.add();
        }
    };
    device.build_output_stream(config, give, fail, None)
}

/// Passes on what is wrong with a stream, unless it goes on by itself. Says whether it was
/// interrupted.
fn report(watch: &Watch, error: cpal::Error) -> bool {
    match error.kind() {
        ErrorKind::Xrun => {
            watch.restarted();
            true
        }
        ErrorKind::DeviceChanged | ErrorKind::RealtimeDenied => false,
        // PulseAudio's plug-in for ALSA takes it for an I/O error that PulseAudio has not told yet
        // how far a stream is that begins (alsa-plugins issue 65): now and then, for some
        // milliseconds. Whoever calls this tries again without a pause.
        ErrorKind::BackendError => {
            let interrupted = watch.lapse(error);
            std::thread::sleep(ERROR_PAUSE);
            interrupted
        }
        _ => {
            watch.fail(error);
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_device_the_cause_and_the_cure() {
        let error = failed(Direction::Output, Some("x"), "why (known: device:y)");
        assert_eq!(
            error.to_string(),
            "cannot use sound output \"x\": why (known: device:y); \
             --output FILE.wav or --output null needs no device"
        );
        let error = not_open(Direction::Input, None);
        assert_eq!(error.to_string(), "cannot use sound input default: it is not open");
    }

    #[test]
    fn causes_are_lower_case_lines() {
        for kind in [ErrorKind::DeviceBusy, ErrorKind::BackendError, ErrorKind::Other] {
            let text = cause(&kind.into());
            assert!(text.starts_with(|c: char| c.is_lowercase()), "{text}");
            assert!(!text.ends_with('.') && !text.contains('\n'), "{text}");
        }
        for message in [
            "Connection refused.",
            "ALSA function 'snd_pcm_open' failed with error 'Connection refused (111)'",
        ] {
            let error = cpal::Error::with_message(ErrorKind::BackendError, message);
            assert_eq!(cause(&error), "connection refused");
        }
    }

    #[test]
    fn a_device_is_picked_by_its_name_or_a_part_that_only_it_has() {
        let devices = [["hw:0", "USB Mic"], ["plughw:0", "USB Mic"], ["pulse", "Pulse Server"]];
        let devices = || devices.iter().map(|names| names.map(str::to_owned));
        assert_eq!(pick(devices(), "hw:0"), Some(0));
        assert_eq!(pick(devices(), "USB Mic"), Some(0));
        assert_eq!(pick(devices(), "plug"), Some(1));
        assert_eq!(pick(devices(), "server"), Some(2));
        assert_eq!(pick(devices(), "usb"), None);
        assert_eq!(pick(devices(), "speaker"), None);
    }

    #[test]
    fn lists_of_devices_are_short() {
        assert_eq!(listed(Direction::Input, &[]), "no sound input is known here");
        let names: Vec<String> = (0..14).map(|n| n.to_string()).collect();
        assert_eq!(listed(Direction::Output, &names[..2]), "known: device:0, device:1");
        assert!(listed(Direction::Output, &names).ends_with("device:11 and 2 more"));
    }
}

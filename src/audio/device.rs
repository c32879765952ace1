//! Sound devices (to come).

use super::{AudioError, Sink, Source};
use crate::units::Format;

/// A sound input.
pub struct DeviceSource;

/// A sound output.
pub struct DeviceSink;

fn missing() -> AudioError {
    AudioError::failed("open sound device", "not yet written")
}

impl DeviceSource {
    /// The named or default input.
    pub fn new(_name: Option<&str>) -> DeviceSource {
        DeviceSource
    }
}

impl DeviceSink {
    /// The named or default output.
    pub fn new(_name: Option<&str>) -> DeviceSink {
        DeviceSink
    }
}

impl Source for DeviceSource {
    fn open(&mut self, _: Format, _: usize) -> Result<(), AudioError> {
        Err(missing())
    }
    fn read(&mut self, _: &mut [i16]) -> Result<usize, AudioError> {
        Err(missing())
    }
    fn has_clock(&self) -> bool {
        true
    }
}

impl Sink for DeviceSink {
    fn open(&mut self, _: Format) -> Result<Format, AudioError> {
        Err(missing())
    }
    fn write(&mut self, _: &[i16]) -> Result<(), AudioError> {
        Err(missing())
    }
    fn has_clock(&self) -> bool {
        true
    }
    fn flush(&mut self) -> Result<(), AudioError> {
        Ok(())
    }
}

/// Whether the default output can be opened.
pub fn default_output_works() -> bool {
    false
}

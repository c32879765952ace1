//! Live audio over DNS.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod ascii;
pub mod audio;
pub mod codec;
pub mod resample;
pub mod units;
pub mod wire;

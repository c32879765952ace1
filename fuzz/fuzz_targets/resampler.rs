//! Rates, and a list of operations: input, corrections, ends.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| aodns::resample::fuzz_resampler(octets));

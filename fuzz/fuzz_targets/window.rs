//! A list of operations: publications and clocks.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| aodns::window::fuzz_window(octets));

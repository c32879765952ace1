//! A list of operations: segments, losses, starts and time.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| aodns::playout::fuzz_jitter_buffer(octets));

//! Strings of a segment, reassembled.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| aodns::segment::fuzz_segment(octets));

//! The sequence list, read; and numbers, listed.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| aodns::segment::fuzz_list(octets));

//! The records `config` and `now`.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| aodns::segment::fuzz_records(octets));

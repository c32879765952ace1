//! Any octets, answered from a small zone.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| aodns::zone::fuzz_respond(octets));

//! Any octets, read as the response to a fixed question.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| aodns::wire::fuzz_response(octets));

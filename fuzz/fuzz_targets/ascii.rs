//! Any octets, as a packet and as a text of every encoding.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| aodns::ascii::fuzz_ascii(octets));

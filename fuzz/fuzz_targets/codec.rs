//! A stream of packets, decoded.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| aodns::codec::fuzz_codec(octets));

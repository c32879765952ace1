//! A list of operations: server, network and clock around a follower.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| aodns::follow::fuzz_follower(octets));

//! A list of operations: attempts, messages, lost connections and time.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| aodns::lookup::fuzz_lookup(octets));

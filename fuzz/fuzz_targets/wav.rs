//! Any octets, played as a WAV file.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| aodns::audio::fuzz_wav(octets));

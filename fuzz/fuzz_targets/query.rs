//! Any octets, read as a query, by our reader and by an independent one.
#![no_main]

#[path = "../../tests/support/differential.rs"]
#[allow(dead_code)]
mod differential;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| {
    aodns::wire::fuzz_query(octets);
    differential::compare_query(octets);
});

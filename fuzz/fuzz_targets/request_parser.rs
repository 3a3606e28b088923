//! See `fuzz_bodies::request_parser`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let _ = fuzz_bodies::request_parser::run(input);
});

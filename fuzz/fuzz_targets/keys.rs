//! See `fuzz_bodies::keys`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let _ = fuzz_bodies::keys::run(input);
});

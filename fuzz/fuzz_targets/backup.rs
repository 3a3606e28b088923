//! See `fuzz_bodies::backup`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let _ = fuzz_bodies::backup::run(input);
});

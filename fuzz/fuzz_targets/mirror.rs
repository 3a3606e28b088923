//! See `fuzz_bodies::mirror`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let _ = fuzz_bodies::mirror::run(input);
});

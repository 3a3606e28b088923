//! See `fuzz_bodies::fsck`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let _ = fuzz_bodies::fsck::run(input);
});

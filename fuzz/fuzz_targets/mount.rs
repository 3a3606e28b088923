//! See `fuzz_bodies::mount`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let _ = fuzz_bodies::mount::run(input);
});

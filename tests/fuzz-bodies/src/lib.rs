//! What the fuzz targets do with their input.
//!
//! Each body is an ordinary function that panics when an invariant breaks; its module opens with the
//! invariants. `fuzz/fuzz_targets` hands it to libFuzzer, and the tests of this crate run it over the
//! committed corpus and seeded mutations of it, without libFuzzer and without a nightly compiler.
#![forbid(unsafe_code)]
#![allow(clippy::missing_panics_doc, reason = "a panic is how a body reports")]

pub mod backup;
pub mod fsck;
pub mod keys;
pub mod mirror;
pub mod mount;
pub mod request_parser;
mod resp;
mod store;

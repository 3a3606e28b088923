//! End to end: the image in QEMU, on both architectures, and the hosted server where no machine is needed.
//!
//! `make test` builds what these tests start and installs the tools they use. A missing tool is a
//! failure. See DEVELOPING.md for how to run one of them and how to replay a seed.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "tests"
)]

/// Makes of each test function a module with a test for each target.
macro_rules! on {
    ($targets:tt { $($test:ident),+ $(,)? }) => { $( on!(@ $test $targets); )+ };
    (@ $test:ident [$($target:ident)+]) => {
        mod $test {
            $( #[test] fn $target() { super::$test(tests::machine::Target::$target); } )+
        }
    };
}

mod backup;
mod boot;
mod clients;
mod cost;
mod damaged;
mod durability;
mod encryption;
mod faults;
mod files;
mod grow;
mod hostile;
mod isolation;
mod limits;
mod mirror;
mod power_cut;

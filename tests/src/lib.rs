//! End-to-end harness of Siltstone.
//!
//! It starts the real thing (the image in QEMU through `make run`, or the hosted binary), talks to it
//! with real clients, cuts its power and looks again. The layers, bottom up:
//!
//! | module | holds |
//! |---|---|
//! | [`process`] | a child process whose console is kept and that never outlives its guard |
//! | [`seed`] | one seed per random test, printed, and replayed from one variable |
//! | [`qmp`] | QEMU's monitor: what the disk was asked to do |
//! | [`nbd`] | a network disk that forgets unflushed writes at a power cut, and fails on request |
//! | [`machine`] | Siltstone on a disk: boot, power cut, orderly end |
//! | [`client`] | redis-cli, redis-benchmark, scripts, redis-rs, and raw sockets |
//! | [`ledger`] | what a client was promised, and whether a rebooted machine keeps it |
//! | [`workload`] | concurrent writers that keep a ledger each |
//! | [`measure`] | what a benchmark run costs: requests, flushes, device bytes, processor time |
//! | [`figures`] | what benchmarks found out, as lines of JSON |
//! | [`report`] | the same as tables, and which figures are reached |
//! | [`history`] | whether what clients saw could come from a strictly serializable store |
//!
//! A harness reports by panicking: the message says what was expected, and the guards print the
//! consoles and end every process while the panic unwinds. Every wait has a limit. Nothing here
//! skips: a tool that is missing is a failure that names it.
#![forbid(unsafe_code)]
#![allow(
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a harness reports by panicking"
)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "its numbers are counts and figures of a test, far inside every range"
)]

pub mod client;
pub mod figures;
pub mod history;
pub mod ledger;
pub mod machine;
pub mod measure;
pub mod nbd;
pub mod process;
pub mod qmp;
pub mod replay;
pub mod report;
pub mod seed;
pub mod workload;

use std::path::{Path, PathBuf};

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests live in a directory of the repository")
        .to_path_buf()
}

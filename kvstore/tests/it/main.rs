//! The store as its users see it, on a simulated disk. One program for all, so that it is compiled once.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::large_stack_arrays,
    reason = "a test may panic, and its numbers are small"
)]

mod backup;
mod cached;
mod common;
mod crash;
mod files;
mod history;
mod incremental;
mod limits;
mod memory;
mod misses;
mod model;
mod regressions;
mod transactions;
mod walks;

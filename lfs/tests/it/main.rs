//! The file system as its users see it, on a simulated disk.
//!
//! One program for all: what every test uses of the file system is compiled once.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::large_stack_arrays,
    reason = "a test may panic, and its numbers are small"
)]

mod backup;
mod check;
mod cleaner;
mod common;
mod compression;
mod costs;
mod crash;
#[path = "../../examples/dump/main.rs"]
mod dump;
mod encryption;
mod faults;
mod files_crash;
mod files_faults;
mod files_full;
mod files_full_steps;
mod files_model;
mod files_recovery;
mod forged;
mod golden;
mod golden_files;
mod growth;
mod large_directory;
mod mirror;
mod mount_cost;
mod namespace_data;
mod namespace_golden;
mod namespace_model;
mod namespace_names;
mod objects;
mod read_steps;
mod scrub;
mod spec;
mod transactions;
mod transactions_model;
mod values;
mod waits;
mod wiped;

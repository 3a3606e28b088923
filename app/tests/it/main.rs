//! The service as its clients see it, on a simulated disk. One program for all, so that it is compiled once.
#![allow(
    missing_docs,
    clippy::missing_docs_in_private_items,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test may panic, and its numbers are small"
)]

mod damaged;
mod durability;
mod every_command;
mod files;
mod files_full;
mod limits;
mod misses;
mod scripts;
mod support;

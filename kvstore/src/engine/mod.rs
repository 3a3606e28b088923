//! The parts of the engine that holds more than memory (`ENGINE.md`, section 10): each stands by itself, and nothing
//! uses them yet.
//!
//! - `types`, `varint`: what they share;
//! - `pool`: memory in pieces of one size;
//! - `range_set`: range deletes;
//! - `memtable`: the newest commits;
//! - `block`: some sorted versions, as a table stores them;
//! - `filter`: what is certainly not among some keys;
//! - `table`: all of a sorted, immutable object;
//! - `merge`: several of them as one; `tree`: all there are;
//! - `keep`: which versions are needed; `rewrite`: sources become tables that have just these;
//! - `cache`: what was read, by one of three policies; `budget`: who has how much memory;
//! - `manifest`, `timeline`: what a checkpoint keeps; `payload`: what a commit says in the log;
//! - `pick`: what compaction does next.

pub mod block;
pub mod budget;
pub mod cache;
pub mod filter;
pub mod keep;
pub mod manifest;
pub mod memtable;
pub mod merge;
pub mod payload;
pub mod pick;
pub mod pool;
pub mod range_set;
pub mod rewrite;
pub mod table;
pub mod timeline;
pub mod tree;
pub mod types;
mod varint;

#[cfg(test)]
pub(crate) mod testing;

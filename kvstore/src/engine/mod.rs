//! The engine that holds more than memory (`ENGINE.md`).
//!
//! - `state`: all that is in memory of what is stored; `apply`: how a commit gets there; `counts`: how many keys there are;
//!   `recount`, `shares`: how that is found out where nobody knows;
//! - `look_up`: what a key has; `loads`: how readers get what is not in memory; `cached`: what the cache holds;
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

pub(crate) mod apply;
pub mod block;
pub mod budget;
pub mod cache;
pub(crate) mod cached;
pub(crate) mod counts;
pub mod filter;
pub mod keep;
pub(crate) mod loads;
pub(crate) mod look_up;
pub mod manifest;
pub mod memtable;
pub mod merge;
pub mod payload;
pub mod pick;
pub mod pool;
pub mod range_set;
pub mod recount;
pub mod rewrite;
pub mod shares;
pub(crate) mod state;
pub mod table;
pub mod timeline;
pub mod tree;
pub mod types;
mod varint;

#[cfg(test)]
pub(crate) mod testing;

//! The multi-version key-value layer of Siltstone.
//!
//! - [`Key`], [`Value`], [`Timestamp`]: what there is; every commit has a timestamp, its place in the log;
//! - [`Store`]: all of it, over one device; `recovery`: how it is opened;
//! - [`Transaction`], `write_set`: reads and writes that commit as one; `files`: files in the same commit;
//! - `transactions`, [`OpenTransaction`]: those that stay open while others commit, what they conflict on, locks;
//! - [`Fault`], [`Loaded`]: what has to be loaded before a transaction can be run; `values`: large values among it; `misses`: as if it had, for tests;
//! - `engine`: memtables, tables and their manifest, the cache, what a commit says in the log; which versions are needed, and what to merge next;
//! - `maintenance`: flushes, compaction, sweeps of large values, and the room and pace they have;
//! - [`Snapshot`], `view`: pins a timestamp, and with it the versions it sees; [`Walk`]: the keys that it, or an open transaction, shows, in steps;
//! - `expiry`, `scan_cursors`, [`Watch`]: what expires soonest, where scans go on, who wants to know that a key was written;
//! - `backup`, `record`: keys and files of one commit as a stream, and back;
//! - [`Damage`]: what a scrub found and could not repair.
//!
//! Data may be far larger than memory: memtables hold the newest commits, a cache what was read, all else is on the disk. What does not fit into memory or on
//! the disk is refused ([`CommitError::OutOfMemory`], [`CommitError::DiskFull`]), and deletes go on. `DESIGN.md` says why it is so, `SPEC.md` what is on the disk.
//!
//! Not here: the network, RESP, ArceOS. Time comes in as a value, and so does what is random.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod backup;
mod damage;
#[doc(hidden)]
pub mod engine;
mod error;
#[doc(hidden)]
pub mod expiry;
mod fault;
mod files;
mod maintenance;
mod memory;
mod misses;
mod record;
mod recovery;
#[doc(hidden)]
pub mod scan_cursors;
mod snapshot;
mod store;
#[cfg(test)]
mod testing;
mod transaction;
#[doc(hidden)]
pub mod transactions;
mod value;
mod values;
mod view;
mod walk;
#[doc(hidden)]
pub mod watch;
mod write_set;

pub use backup::{BackupReadError, BackupSource, RestoreError};
pub use damage::Damage;
pub use engine::budget::{MEMORY_BYTES_MIN, MemoryUse};
pub use engine::cache::{Asked, CacheStats, PolicyKind as CachePolicy};
pub use engine::types::OutOfMemory;
pub use error::{CommitError, DurabilityLost, OpenError};
pub use fault::{
    FAULTS_MAX, Fault, KeysFault, LOADED_KEY_BYTES_MAX, LoadError, Loaded, Missing, TransactError,
};
pub use snapshot::Snapshot;
pub use store::{FileStats, Limits, Options, Stats, Store};
pub use transaction::Transaction;
pub use transactions::locks::{Cycle, Ticket};
pub use transactions::{
    BeginError, BeginOptions, CommitStop, Committed, Conflict, Ended, Isolation, LockStop,
    OpenTransaction, OpenTransactions, SavepointError, TOKEN_BYTES_MAX, TransactionLimits,
};
pub use value::{Entry, Key, Value};
pub use walk::{View, Walk, WalkError};
pub use watch::Watch;

/// A place in the log: the number of a commit. 0 is "before everything".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub u64);

/// One of the [`DATABASE_COUNT`] key spaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct DatabaseIndex(pub u8);

/// Number of key spaces.
pub const DATABASE_COUNT: usize = 16;

/// Longest key in bytes.
pub const KEY_BYTES_MAX: usize = 65_535;

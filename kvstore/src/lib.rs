//! The multi-version key-value layer of Siltstone. (API sketch; bodies follow.)
#![no_std]
#![forbid(unsafe_code)]
#![allow(missing_docs, clippy::all, clippy::pedantic, unused_variables)]

extern crate alloc;

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::ops::Deref;

use lfs::{BlockDevice, Clock};

/// A place in the log: the number of a commit. Commit timestamps are such places; 0 is "before everything".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub u64);

/// One of the [`DATABASE_COUNT`] key spaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct DatabaseIndex(pub u8);

pub const DATABASE_COUNT: usize = 16;

/// Longest key in bytes.
pub const KEY_BYTES_MAX: usize = 65_535;

/// An immutable value; cloning is cheap (a reference count).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value(Rc<Vec<u8>>);
impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Rc::new(bytes))
    }
}
impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Self {
        Self(Rc::new(bytes.to_vec()))
    }
}
impl Deref for Value {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// A key; cloning is cheap.
pub type Key = Rc<[u8]>;

/// What a read finds: a live (not expired) value and when it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub value: Value,
    /// Unix milliseconds; `None` lives for ever.
    pub expires_at_ms: Option<i64>,
}

/// Why a commit was refused. Nothing of it happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CommitError {
    /// The memory limit is reached and the transaction would grow the data. Deletes still commit.
    OutOfMemory,
    /// The disk has no room for it. Deletes still commit.
    DiskFull,
    /// The transaction is larger than [`Limits::commit_bytes_max`].
    TooLarge,
    /// A write or flush failed earlier; the log takes no more until the next mount.
    ReadOnly,
}

/// Why durability cannot be had: a write or flush failed. What was not durable by then is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DurabilityLost;

/// What the store was opened over can hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Largest encoded transaction in bytes; a single SET of key and value needs at most 64 bytes more than both.
    pub commit_bytes_max: usize,
}

#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Stats {
    pub keys: [u64; DATABASE_COUNT],
    pub keys_with_expiry: [u64; DATABASE_COUNT],
    /// Memory of keys, values and index as the store counts it.
    pub memory_bytes: usize,
    pub memory_bytes_max: usize,
    /// Room on the disk for live data, and how much of it is taken.
    pub disk_bytes_max: u64,
    pub disk_bytes: u64,
    pub commits: u64,
    pub committed: Timestamp,
    pub durable: Timestamp,
    pub read_only: bool,
    pub flushes: u64,
    pub device_bytes_written: u64,
    pub device_bytes_read: u64,
    pub groups: u64,
    pub checkpoints: u64,
    pub replayed_commits: u64,
    pub runs: u64,
    pub snapshots: u64,
    /// Keys removed because their time had come.
    pub expired_keys: u64,
}

/// One consistent view of the past; pins the versions it sees while it lives.
pub struct Snapshot { /* holds an Rc of the registry; Drop unpins */ }
impl Snapshot {
    pub fn timestamp(&self) -> Timestamp {
        unimplemented!()
    }
}

pub struct Store<D: BlockDevice> {
    _device: D,
}

impl<D: BlockDevice> Store<D> {
    pub fn limits(&self) -> Limits {
        unimplemented!()
    }
    pub fn stats(&self) -> Stats {
        unimplemented!()
    }
    /// Sets the memory limit in bytes (`maxmemory`).
    pub fn set_memory_bytes_max(&self, bytes: usize) {
        unimplemented!()
    }

    /// Waits until the log has room for another commit. Call before every transaction that writes:
    /// this is the back-pressure that bounds the memory of commits in flight. Returns at once when there is room.
    pub async fn admit(&self) {
        unimplemented!()
    }
    /// Like `admit`, without waiting: whether there is room right now.
    pub fn has_room(&self) -> bool {
        unimplemented!()
    }

    /// Starts a transaction at `now_ms` (decides what is expired). Everything until `commit` happens
    /// without an await, so a transaction sees the newest committed state and nothing runs in between.
    pub fn transaction(&self, now_ms: i64) -> Transaction<'_, D> {
        unimplemented!()
    }

    /// The last commit.
    pub fn committed(&self) -> Timestamp {
        unimplemented!()
    }
    /// Everything up to here survives a power cut.
    pub fn durable(&self) -> Timestamp {
        unimplemented!()
    }
    /// Waits until `timestamp` is durable, and makes the log hurry: without a waiter it gathers longer.
    pub async fn wait_durable(&self, timestamp: Timestamp) -> Result<(), DurabilityLost> {
        unimplemented!()
    }

    pub fn snapshot(&self) -> Snapshot {
        unimplemented!()
    }
    /// Whether `key` was written, deleted, or lost with its whole database, after `snapshot` (WATCH).
    pub fn changed_since(&self, snapshot: &Snapshot, db: DatabaseIndex, key: &[u8]) -> bool {
        unimplemented!()
    }
    /// Up to `limit` live keys in order, after `after`, as of `snapshot`; appended to `keys`. For chunked walks (KEYS).
    pub fn keys_after(
        &self,
        snapshot: &Snapshot,
        db: DatabaseIndex,
        after: Option<&[u8]>,
        limit: usize,
        now_ms: i64,
        keys: &mut Vec<Key>,
    ) {
        unimplemented!()
    }

    /// Deletes up to `limit` keys whose time has come, as one commit. Returns how many it deleted.
    pub fn reclaim_expired(&self, now_ms: i64, limit: usize) -> Result<usize, CommitError> {
        unimplemented!()
    }

    /// Log writer and maintenance; runs until `shutdown` has finished. Spawn exactly once.
    pub async fn run(&self, clock: &impl Clock) {
        unimplemented!()
    }
    /// Makes everything durable, writes a clean checkpoint and ends `run`. Later commits get `ReadOnly`.
    pub async fn shutdown(&self) -> Result<(), DurabilityLost> {
        unimplemented!()
    }
}

/// A set of reads and writes that becomes one commit, or nothing when dropped.
pub struct Transaction<'s, D: BlockDevice> {
    _store: &'s Store<D>,
}

impl<D: BlockDevice> Transaction<'_, D> {
    pub fn now_ms(&self) -> i64 {
        unimplemented!()
    }
    /// The live value, own writes included.
    pub fn get(&mut self, db: DatabaseIndex, key: &[u8]) -> Option<Entry> {
        unimplemented!()
    }
    /// Overwrites value and expiry. An expiry in the past deletes. `key` ≤ KEY_BYTES_MAX.
    pub fn put(
        &mut self,
        db: DatabaseIndex,
        key: &[u8],
        value: impl Into<Value>,
        expires_at_ms: Option<i64>,
    ) {
        unimplemented!()
    }
    /// Appends to a live value (keeping its expiry) or creates it; returns the new length. Logs only the tail.
    pub fn append(&mut self, db: DatabaseIndex, key: &[u8], tail: &[u8]) -> usize {
        unimplemented!()
    }
    /// Whether there was a live value to delete.
    pub fn delete(&mut self, db: DatabaseIndex, key: &[u8]) -> bool {
        unimplemented!()
    }
    /// Changes only the expiry; false when there is no live value. In the past: deletes.
    pub fn set_expiry(&mut self, db: DatabaseIndex, key: &[u8], expires_at_ms: Option<i64>) -> bool {
        unimplemented!()
    }
    /// Empties one database, in constant time.
    pub fn clear(&mut self, db: DatabaseIndex) {
        unimplemented!()
    }
    /// Number of keys (expired ones not yet reclaimed count, as in Redis).
    pub fn count(&mut self, db: DatabaseIndex) -> u64 {
        unimplemented!()
    }
    /// Visits about `count` keys from `cursor` (0 starts) and returns the next cursor (0 ends) — SCAN's guarantee:
    /// a key that is there from start to end of an iteration is returned. Expired keys are left out.
    pub fn scan(
        &mut self,
        db: DatabaseIndex,
        cursor: u64,
        count: usize,
        keys: &mut Vec<Key>,
    ) -> u64 {
        unimplemented!()
    }
    /// Up to `limit` live keys in order, after `after`, own writes included. For KEYS inside MULTI.
    pub fn keys_after(
        &mut self,
        db: DatabaseIndex,
        after: Option<&[u8]>,
        limit: usize,
        keys: &mut Vec<Key>,
    ) {
        unimplemented!()
    }
    /// A live key, about uniformly at random, from a random number.
    pub fn random_key(&mut self, db: DatabaseIndex, random: u64) -> Option<Key> {
        unimplemented!()
    }
    /// Whether anything was written so far.
    pub fn is_read_only(&self) -> bool {
        unimplemented!()
    }
    /// Commits. On `Ok` the writes are visible to everyone and the result says what a reply about this
    /// transaction depends on: it may leave once that is durable. A read-only transaction depends on
    /// the newest commit among what it read.
    pub fn commit(self) -> Result<Timestamp, CommitError> {
        unimplemented!()
    }
}

//! The store: opens over a file system, has the engine, hands out transactions and snapshots.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use lfs::{
    AppendError, BlockDevice, Clock, CommitNumber, Compression, FileSystem, MirrorStatus, Notify,
    Queue, Recovery, ScrubStatus, Unlock,
};

use crate::engine::apply::databases;
use crate::engine::budget::{Budget, MemoryUse};
use crate::engine::cache::{CacheStats, PolicyKind as CachePolicy};
use crate::engine::memtable::Memtable;
use crate::engine::state::Engine;
use crate::engine::types::SLOT_BYTES;
use crate::fault::{Fault, Loaded, TransactError};
use crate::maintenance::{self, GARBAGE_PERCENT};
use crate::misses::Misses;
use crate::recovery::replay;
use crate::snapshot::Snapshot;
use crate::transaction::Transaction;
use crate::transactions::OpenTransactions;
use crate::watch::Watch;
use crate::{CommitError, DATABASE_COUNT, Damage, DurabilityLost, Key, OpenError, Timestamp};

/// Values of so many bytes and more are kept where their commit wrote them, unless it is set otherwise.
pub const LARGE_VALUE_BYTES: usize = 512;

/// The least that this can be set to, and the most.
pub(crate) const LARGE_VALUE_BYTES_MIN: usize = 256;
const LARGE_VALUE_BYTES_MAX: usize = 4096;

/// How long a key whose time has come is left alone when it cannot be read.
const EXPIRY_RETRY_MS: i64 = 60_000;

/// How a store is opened.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Memory limit in bytes (`maxmemory`): see [`Store::set_memory_bytes_max`]; can be changed later.
    pub memory_bytes_max: usize,
    /// Opening is refused when what is in the log needs more than this.
    pub open_memory_bytes_max: usize,
    /// A random number, nobody's to guess, so that nobody can choose keys that collide.
    pub hash_seed: u64,
    /// For how long what was overwritten or deleted is kept: see [`Store::set_history_retention`]; can be changed later. What there is of it is there from the
    /// start, if this is not 0.
    pub history_ms: i64,
}

/// What a store can take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Largest encoded transaction in bytes. Each write needs 16 bytes at most beyond key and value.
    pub commit_bytes_max: usize,
}

/// A store over one device.
///
/// One task runs [`run`](Self::run); everything else may be called from any task of the same thread.
pub struct Store<D: BlockDevice> {
    pub(crate) filesystem: FileSystem<D>,
    pub(crate) engine: Engine,
    /// All commits up to here are in runs.
    pub(crate) horizon: Cell<Timestamp>,
    /// Somebody wants a flush, though the log does not.
    pub(crate) flush_due: Cell<bool>,
    /// Memtables that were flushed, to be taken apart.
    pub(crate) retired: RefCell<Vec<Rc<Memtable>>>,
    /// One of them is being taken apart.
    pub(crate) dismantling: Cell<bool>,
    /// A commit found no room in memtables: others wait until a flushed one has been taken apart.
    pub(crate) memory_wanted: Cell<bool>,
    /// Commits that wait for room.
    admissions: Queue,
    pub(crate) checkpointing: Cell<bool>,
    /// A flush found no room or memory: until one succeeds the log cannot move on, and writers are refused.
    pub(crate) stuck: Cell<bool>,
    /// It is only read, and never run.
    pub(crate) only_read: bool,
    pub(crate) closing: Cell<bool>,
    pub(crate) ended: Cell<bool>,
    /// Something in this struct changed that somebody may wait for.
    pub(crate) changed: Notify,
    /// What compaction does, and owes.
    pub(crate) compaction: maintenance::Compaction,
    /// The newest time that the store was told, in Unix milliseconds.
    pub(crate) now_ms: Cell<i64>,
    /// What memory there is.
    pub(crate) budget: Cell<Budget>,
    /// What nodes of the file system's trees may take of it.
    pub(crate) node_bytes_max: Cell<usize>,
    /// What of it the layer above has for its clients.
    pub(crate) connection_bytes: Cell<usize>,
    /// What all but the cache had when it was last shared out.
    pub(crate) shared_bytes: Cell<usize>,
    /// Values from this size on go to the value file.
    pub(crate) large_value_bytes: Cell<usize>,
    pub(crate) garbage_percent_max: Cell<u32>,
    /// Memory for the payload of the commit at hand.
    pub(crate) payload: RefCell<Vec<u8>>,
    /// What the next transaction that is run until nothing is missing may take for what it loads.
    pub(crate) unused: Cell<Option<Box<Loaded>>>,
    /// Of the scrub under way, or of the last one.
    pub(crate) damage: RefCell<Damage>,
    pub(crate) misses: Misses,
}

impl<D: BlockDevice> Store<D> {
    /// Opens the store on `device`, which holds a file system: reads which tables there are, replays the log.
    ///
    /// # Errors
    /// When the device cannot be mounted, or what it holds is damaged or does not fit into memory.
    pub async fn open(device: D, options: Options) -> Result<Self, OpenError> {
        Self::open_with(device, options, None).await
    }

    /// As [`open`](Self::open), with what opens a file system that has a key. One without a key is refused then.
    ///
    /// # Errors
    /// As [`open`](Self::open); a wrong or missing key is a [`MountError::Key`](lfs::MountError::Key).
    pub async fn open_with(
        device: D,
        options: Options,
        key: Option<&Unlock<'_>>,
    ) -> Result<Self, OpenError> {
        let mut recovery = Recovery::open_with(device, key).await?;
        let (engine, horizon) = replay(&mut recovery, options, None).await?;
        let filesystem = recovery.finish().await?;
        Ok(Self::new(filesystem, options, engine, horizon))
    }

    /// Opens a store that a backup is to be restored to, on a file system that [`lfs::format_unfinished`] made.
    ///
    /// # Errors
    /// As [`open_with`](Self::open_with).
    pub async fn open_unfinished(
        device: D,
        options: Options,
        key: Option<&Unlock<'_>>,
    ) -> Result<Self, OpenError> {
        let mut recovery = Recovery::open_unfinished_with(device, key).await?;
        let (engine, horizon) = replay(&mut recovery, options, None).await?;
        let filesystem = recovery.finish().await?;
        Ok(Self::new(filesystem, options, engine, horizon))
    }

    /// Opens the store as it was after commit `at`, which the log still has. Only to be read: nothing may be committed or
    /// run, and nothing is written.
    ///
    /// # Errors
    /// [`OpenError::NotRetained`]; else as [`open_with`](Self::open_with).
    pub async fn open_at(
        device: D,
        options: Options,
        key: Option<&Unlock<'_>>,
        at: Timestamp,
    ) -> Result<Self, OpenError> {
        let mut recovery = Recovery::open_with(device, key).await?;
        let (engine, horizon) = replay(&mut recovery, options, Some(at)).await?;
        let filesystem = recovery.finish_without_writing();
        let mut store = Self::new(filesystem, options, engine, horizon);
        store.only_read = true;
        Ok(store)
    }

    fn new(
        filesystem: FileSystem<D>,
        options: Options,
        engine: Engine,
        horizon: Timestamp,
    ) -> Self {
        let store = Self {
            filesystem,
            engine,
            horizon: Cell::new(horizon),
            flush_due: Cell::new(false),
            retired: RefCell::default(),
            dismantling: Cell::new(false),
            memory_wanted: Cell::new(false),
            admissions: Queue::default(),
            checkpointing: Cell::new(false),
            stuck: Cell::new(false),
            only_read: false,
            closing: Cell::new(false),
            ended: Cell::new(false),
            changed: Notify::default(),
            compaction: maintenance::Compaction::default(),
            now_ms: Cell::new(i64::MIN),
            budget: Cell::new(Budget::new(options.memory_bytes_max)),
            node_bytes_max: Cell::new(0),
            connection_bytes: Cell::new(0),
            shared_bytes: Cell::new(0),
            large_value_bytes: Cell::new(LARGE_VALUE_BYTES),
            garbage_percent_max: Cell::new(GARBAGE_PERCENT),
            payload: RefCell::default(),
            unused: Cell::default(),
            damage: RefCell::default(),
            misses: Misses::default(),
        };
        store.set_memory_bytes_max(options.memory_bytes_max);
        store.share_space();
        store
    }

    /// What the store can take.
    pub fn limits(&self) -> Limits {
        Limits {
            commit_bytes_max: self.filesystem.commit_bytes_max(),
        }
    }

    /// Sets for how long what was overwritten or deleted is kept, in milliseconds; 0: not at all. What is gone does not come back: where nothing was kept,
    /// history begins now.
    pub fn set_history_retention(&self, ms: i64) {
        self.engine.set_history(ms, self.committed());
    }

    /// Sets how many bytes of the disk history may take: when it takes more, the oldest of it is let go of. 0: a quarter of what the disk can hold.
    pub fn set_history_bytes_max(&self, bytes: u64) {
        self.engine.history_bytes_max.set(bytes);
    }

    /// Sets how much of the disk may be garbage, in hundredths of what lives, before commits wait for the cleaner although there is room; 0: as much as there is room for. While nothing
    /// is committed it is two thirds of that.
    pub fn set_garbage_percent_max(&self, percent: u32) {
        self.garbage_percent_max.set(percent);
        self.bound_garbage();
    }

    /// Sets from which size on values are kept where their commit wrote them: 256 to 4096 bytes. What is there stays as it is.
    pub fn set_large_value_bytes(&self, bytes: usize) {
        self.large_value_bytes
            .set(bytes.clamp(LARGE_VALUE_BYTES_MIN, LARGE_VALUE_BYTES_MAX));
    }

    /// Waits until there is room for a commit of any size, in the log and in memory, behind those who wait already. Call before a transaction that writes:
    /// this is the back-pressure that bounds commits in flight. Returns at once when there is room and nobody waits,
    /// and when there never will be (the commit then says why). Who was admitted goes on as long as it [has room](Self::has_room): others may wait behind it.
    pub async fn admit(&self) {
        if !self.must_wait() {
            return;
        }
        // Otherwise those who have just been through would be there again before it.
        let _first = self.admissions.first().await;
        let haste = RefCell::new(None);
        // To be asked whenever something changes: what a flush or a sweep frees comes with a checkpoint.
        let hasten = || {
            if self.awaits_checkpoint() && haste.borrow().is_none() {
                haste.replace(Some(self.filesystem.hasten_checkpoints()));
            }
        };
        loop {
            let is_stuck = || {
                hasten();
                self.stuck.get()
            };
            self.filesystem.admit(is_stuck).await;
            if self.has_memory() || self.stuck.get() {
                return;
            }
            let may_go_on = || {
                hasten();
                self.has_memory() || self.stuck.get() || self.is_ending()
            };
            self.changed.until(|| may_go_on().then_some(())).await;
            if self.is_ending() {
                return;
            }
        }
    }

    /// Whether there is room for a commit of any size, or never will be.
    pub fn has_room(&self) -> bool {
        (self.filesystem.has_room() && self.has_memory()) || self.stuck.get()
    }

    /// Whether [`admit`](Self::admit) would not return at once: there is no room, or others wait for it.
    pub fn must_wait(&self) -> bool {
        !self.has_room() || !(self.admissions.is_empty() || self.stuck.get())
    }

    /// Whether commits wait for something that a checkpoint of the store's brings.
    fn awaits_checkpoint(&self) -> bool {
        self.engine.are_memtables_full()
            || self.memory_wanted.get()
            || self.compaction.is_room_wanted()
    }

    /// Whether memtables have room, and compaction is not so far behind that commits wait for it.
    fn has_memory(&self) -> bool {
        !self.engine.are_memtables_full() && !self.memory_wanted.get() && self.compaction_allows()
    }

    /// Begins a transaction; `now_ms` (Unix milliseconds) decides what is expired, `file_time_ns` (Unix nanoseconds) is the time of what it changes of files.
    /// `loaded` is kept from one attempt to the next.
    ///
    /// Begin, use and commit it without an await in between: otherwise another may commit first, and
    /// this one is refused.
    pub fn transaction<'s>(
        &'s self,
        now_ms: i64,
        file_time_ns: i64,
        loaded: &'s mut Loaded,
    ) -> Transaction<'s, D> {
        self.now_ms.set(self.now_ms.get().max(now_ms));
        Transaction::new(self, now_ms, file_time_ns, loaded, None)
    }

    /// From now on reads of keys in transactions miss at random, as if the keys were on the disk only. For tests of
    /// those who run transactions.
    #[cfg(feature = "sim")]
    pub fn miss_at_random(&self, seed: u64) {
        self.misses.begin(seed);
    }

    /// From now on memtables are written to the disk when they take so many bytes. For tests whose data would fit into one.
    #[cfg(feature = "sim")]
    pub fn set_memtable_bytes_max(&self, bytes: usize) {
        self.engine.memtable_bytes_max.set(bytes);
    }

    /// The last commit.
    pub fn committed(&self) -> Timestamp {
        Timestamp(self.filesystem.appended().0)
    }

    /// Everything up to here survives a power cut.
    pub fn durable(&self) -> Timestamp {
        Timestamp(self.filesystem.durable().0)
    }

    /// Waits until `timestamp` is durable, and makes the log hurry: without anybody waiting it
    /// gathers until a group is full.
    ///
    /// # Errors
    /// When it will not become durable; whether it is there after the next open is unknown.
    pub async fn wait_durable(&self, timestamp: Timestamp) -> Result<(), DurabilityLost> {
        let durable = self
            .filesystem
            .wait_durable(CommitNumber(timestamp.0))
            .await;
        durable.map_err(|_| DurabilityLost)
    }

    /// A view of what is committed now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(&self.engine.pins, self.committed())
    }

    /// A watch over keys, which has none yet.
    pub fn new_watch(&self) -> Watch {
        Watch::new(&self.engine.watches)
    }

    /// Deletes up to `limit` keys whose time has come, as one commit; how many were dealt with, those included that turned out to have been written since. As many as
    /// `limit`: there may be more. Where some of them cannot be read, the others are deleted one by one, and those are tried again some time later.
    ///
    /// # Errors
    /// As [`Transaction::commit`]. Where it went one by one some are deleted.
    pub async fn reclaim_expired(&self, now_ms: i64, limit: usize) -> Result<usize, TransactError> {
        let mut due = Vec::new();
        let delete = |transaction: &mut Transaction<'_, D>| {
            due = self.due(transaction.now_ms(), limit);
            transaction.delete_expired(&due)
        };
        match self.transact(now_ms, 0, delete).await {
            Ok((count, _)) => {
                self.note_expired(count, &due);
                Ok(due.len())
            }
            Err(TransactError::Load(_)) => self.reclaim_one_by_one(now_ms, limit).await,
            Err(error) => Err(error),
        }
    }

    async fn reclaim_one_by_one(&self, now_ms: i64, limit: usize) -> Result<usize, TransactError> {
        let due = self.due(now_ms, limit);
        for one in due.chunks(1) {
            let mut is_locked = false;
            let delete = |transaction: &mut Transaction<'_, D>| {
                let locks = self.engine.locks.borrow();
                is_locked = one.iter().any(|(_, key)| locks.is_held(key));
                drop(locks);
                transaction.delete_expired(if is_locked { &[] } else { one })
            };
            match self.transact(now_ms, 0, delete).await {
                Ok(_) if is_locked => {}
                Ok((count, _)) => self.note_expired(count, one),
                Err(TransactError::Load(_)) => {
                    let until_ms = now_ms.saturating_add(EXPIRY_RETRY_MS);
                    let mut expiries = self.engine.expiries.borrow_mut();
                    for (at_ms, key) in one {
                        expiries.postpone(*at_ms, key, until_ms);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(due.len())
    }

    /// Up to `limit` keys whose time has come, and when that was. Nobody waits for whoever has locked one.
    fn due(&self, now_ms: i64, limit: usize) -> Vec<(i64, Key)> {
        let expiries = self.engine.expiries.borrow();
        let locks = self.engine.locks.borrow();
        let due = expiries.due(now_ms);
        let due = due.filter(|(_, key)| !locks.is_held(key)).take(limit);
        due.map(|(at, key)| (at, Key::from(key))).collect()
    }

    /// Of these, which are not due any more, so many were deleted.
    fn note_expired(&self, count: usize, due: &[(i64, Key)]) {
        let mut expiries = self.engine.expiries.borrow_mut();
        for (at_ms, key) in due {
            expiries.forget(*at_ms, key);
        }
        let expired = &self.engine.expired_keys;
        expired.set(expired.get() + count as u64);
    }

    /// Writes the log and does everything that goes on in the background, until
    /// [`shutdown`](Self::shutdown) is through or the device failed. Run exactly once.
    pub async fn run(&self, clock: &impl Clock) {
        // It is the largest part of whatever it is run in, and there is one for each store.
        Box::pin(maintenance::run(self, clock)).await;
    }

    /// Makes everything durable, makes a last checkpoint, and ends [`run`](Self::run). Commits are
    /// refused from now on.
    ///
    /// # Errors
    /// When not all of what was committed became durable.
    pub async fn shutdown(&self) -> Result<(), DurabilityLost> {
        self.filesystem.close();
        self.closing.set(true);
        self.filesystem.nudge();
        self.changed.notify();
        let durable = self.wait_durable(self.committed()).await;
        self.changed.until(|| self.ended.get().then_some(())).await;
        durable
    }

    /// Figures about the store.
    pub fn stats(&self) -> Stats {
        let engine = &self.engine;
        let counters = self.filesystem.counters();
        let counts = engine.counts.borrow();
        let (mut keys, mut keys_with_expiry) = ([0; DATABASE_COUNT], [0; DATABASE_COUNT]);
        for ((db, keys), expiring) in databases().zip(&mut keys).zip(&mut keys_with_expiry) {
            (*keys, *expiring) = (counts.keys(db), counts.expiring(db));
        }
        let memory = self.memory();
        let tree = engine.tree.borrow();
        let tables = || tree.runs().iter().flat_map(|run| &run.tables);
        let cache = engine.cache.borrow();
        Stats {
            keys,
            keys_with_expiry,
            keys_estimated: engine.recounts.borrow().uncertain().count_ones(),
            memory_bytes: memory.total(),
            memory_bytes_max: self.budget.get().max(),
            memory,
            pool_chunks_in_use: engine.pool.in_use(),
            pool_chunks_free: engine.pool.kept(),
            cache: cache.stats(),
            cache_policy: cache.policy(),
            disk_bytes: self.disk_bytes(),
            disk_bytes_max: self.disk_bytes_max(),
            disk_bytes_taken: self.filesystem.usage().taken_bytes,
            commits: counters.commits,
            committed: self.committed(),
            durable: self.durable(),
            read_only: self.filesystem.is_failed(),
            flushes: counters.flushes,
            device_bytes_written: counters.bytes_written,
            device_bytes_read: counters.bytes_read,
            groups: counters.groups,
            checkpoints: counters.checkpoints,
            replayed_commits: counters.replayed_commits,
            runs: tree.runs().len() as u64,
            run_bytes: tables().map(|table| table.bytes).sum(),
            versions: tables().map(|table| table.stats.entries).sum(),
            tombstones: tables().map(|table| table.stats.tombstones).sum(),
            history_bytes: maintenance::history_bytes(self),
            history_bytes_max: maintenance::history_bytes_max(self),
            dropped_bytes: maintenance::pending_slots(self) * SLOT_BYTES,
            written_bytes: engine.written_bytes.get(),
            compaction_fails: self.compaction.failure().is_some(),
            snapshots: engine.pins.count() as u64,
            expired_keys: engine.expired_keys.get(),
            transactions: engine.open.stats(),
            floor: engine.oldest_retained(self.committed()),
            files: self.file_stats(),
            mirror: self.filesystem.device().mirror_status(),
            scrub: self.filesystem.scrub_status(),
        }
    }

    /// Takes the memory that a commit needs in memtables. Without any, what is in them is to be flushed first.
    pub(crate) fn reserve(&self, payload: &[u8]) -> Result<(), CommitError> {
        let engine = &self.engine;
        let before = engine.pool.memory_bytes();
        let reserved = engine.reserve(payload, engine.memtables_bytes_max.get());
        if engine.pool.memory_bytes() != before {
            self.share_memory();
        }
        if reserved.is_ok() {
            return Ok(());
        }
        let is_freed = || {
            let retired = self.retired.borrow();
            let is_frozen = engine.tree.borrow().frozen_count() > 0;
            is_frozen || !retired.is_empty() || self.dismantling.get()
        };
        if !is_freed() && !engine.tree.borrow().active().is_empty() {
            engine.freeze(self.committed());
        }
        if self.stuck.get() || self.is_ending() || !is_freed() {
            return Err(CommitError::OutOfMemory);
        }
        self.memory_wanted.set(true);
        self.flush_due.set(true);
        self.filesystem.nudge();
        Err(CommitError::Fault(alloc::vec![Fault::Room]))
    }

    /// What to say of a commit that found no room: `full`, unless something is freed now, for which it is to wait.
    pub(crate) fn no_room(&self, full: CommitError) -> CommitError {
        if self.make_room() {
            CommitError::Fault(alloc::vec![Fault::Room])
        } else {
            full
        }
    }

    /// A commit was made: everybody sees it from now on.
    pub(crate) fn committed_with(
        &self,
        timestamp: Timestamp,
        now_ms: i64,
        payload: &[u8],
        next_slot: u64,
    ) {
        self.engine.next_slot.set(next_slot);
        let uncertain = self.engine.recounts.borrow().uncertain();
        let written_before = self.engine.written_bytes.get();
        if self.engine.apply(timestamp, payload) {
            self.compaction.note_garbage();
        }
        if self.engine.recounts.borrow().uncertain() != uncertain {
            // There are keys to be counted, or none any more.
            self.changed.notify();
        }
        if now_ms != i64::MIN {
            // Without memory for it the second is taken for the one before.
            let _ = self.engine.timeline.borrow_mut().note(now_ms, timestamp);
        }
        // What is in the log's record is what memtables and runs get; large values are all that is not in it.
        let bytes = payload.len() as u64;
        let written = self.engine.written_bytes.get() - written_before;
        if self
            .compaction
            .committed(bytes, written.saturating_sub(bytes))
        {
            // Compaction may rest until there is more to do.
            self.changed.notify();
        }
        self.bound_garbage();
        if self.engine.freeze_if_full(timestamp) {
            // Once: all who wait for the log look again.
            self.flush_due.set(true);
            self.filesystem.nudge();
        }
    }

    /// Appends `payload` to the log.
    pub(crate) fn append(&self, payload: &[u8]) -> Result<Timestamp, CommitError> {
        match self.filesystem.append(payload) {
            Ok(number) => Ok(Timestamp(number.0)),
            Err(AppendError::TooLarge) => Err(CommitError::TooLarge),
            Err(AppendError::NoRoom) if self.stuck.get() => Err(CommitError::DiskFull),
            Err(AppendError::NoRoom) => Err(CommitError::Busy),
            Err(AppendError::OutOfMemory) => Err(CommitError::OutOfMemory),
            Err(_) => Err(CommitError::ReadOnly),
        }
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// Whether background work should come to its end.
    pub(crate) fn is_ending(&self) -> bool {
        self.closing.get() || self.filesystem.is_failed()
    }
}

/// Figures about a store; counts are since it was opened.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Keys in each database, expired ones not yet reclaimed included.
    pub keys: [u64; DATABASE_COUNT],
    /// Keys in each database that have an expiry.
    pub keys_with_expiry: [u64; DATABASE_COUNT],
    /// Databases whose number of keys is not known for now: what is said above is without what range deletes took away.
    pub keys_estimated: u32,
    /// Memory of all that shares the limit.
    pub memory_bytes: usize,
    /// The limit.
    pub memory_bytes_max: usize,
    /// Who uses how much of it.
    pub memory: MemoryUse,
    /// Chunks of 64 KiB that memtables have, ...
    pub pool_chunks_in_use: usize,
    /// ... and such as are held on to for the next ones.
    pub pool_chunks_free: usize,
    /// What became of what was read.
    pub cache: CacheStats,
    /// Who decides what of it goes.
    pub cache_policy: CachePolicy,
    /// Bytes that live data takes on the disk, once.
    pub disk_bytes: u64,
    /// What that may come to, of keys and files together. What has to stay free for runs (DESIGN.md, "Space") may refuse growth before.
    pub disk_bytes_max: u64,
    /// Bytes of the disk that something is in, needed or not.
    pub disk_bytes_taken: u64,
    /// Commits made.
    pub commits: u64,
    /// The last commit.
    pub committed: Timestamp,
    /// The last durable commit.
    pub durable: Timestamp,
    /// A write or flush failed; no more commits are taken.
    pub read_only: bool,
    /// Flushes sent to the device.
    pub flushes: u64,
    /// Bytes written to the device.
    pub device_bytes_written: u64,
    /// Bytes read to replay the log.
    pub device_bytes_read: u64,
    /// Commit groups written.
    pub groups: u64,
    /// Checkpoints made.
    pub checkpoints: u64,
    /// Commits replayed when the store was opened.
    pub replayed_commits: u64,
    /// Sorted runs.
    pub runs: u64,
    /// Bytes in sorted runs, what newer ones hide included.
    pub run_bytes: u64,
    /// Versions in them, tombstones and what newer ones hide included.
    pub versions: u64,
    /// Of these, such as say that there is nothing.
    pub tombstones: u64,
    /// Bytes of the disk that what only history has takes, large values with it, as far as merges have found it; some of it is let go of, and not dropped yet.
    pub history_bytes: u64,
    /// What it may come to before the oldest of it is let go of.
    pub history_bytes_max: u64,
    /// Bytes of large values that nobody sees and that are not free yet, as far as merges have found them.
    pub dropped_bytes: u64,
    /// Bytes of keys and values that were committed.
    pub written_bytes: u64,
    /// Compaction does not get on: it cannot read or write.
    pub compaction_fails: bool,
    /// Snapshots alive.
    pub snapshots: u64,
    /// Keys removed because their time had come.
    pub expired_keys: u64,
    /// Transactions between BEGIN and COMMIT.
    pub transactions: OpenTransactions,
    /// The oldest state that can be seen, beside those of snapshots: the newest, where no history is kept.
    pub floor: Timestamp,
    /// The file system below.
    pub files: FileStats,
    /// The disks below, where there are two.
    pub mirror: Option<MirrorStatus>,
    /// The scrub under way, or the last one.
    pub scrub: ScrubStatus,
}

/// Figures about the file system that holds both files and keys.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct FileStats {
    /// Bytes of the device that the file system takes, from its start.
    pub size_bytes: u64,
    /// What that may become when the device grows.
    pub size_bytes_max: u64,
    /// Bytes on the device that it may use.
    pub device_bytes: u64,
    /// What live bytes may come to.
    pub capacity_bytes: u64,
    /// Bytes that are meant: files, runs of keys, trees.
    pub live_bytes: u64,
    /// Snapshots of files.
    pub snapshots: u64,
    /// Segments that the cleaner went through.
    pub segments_cleaned: u64,
    /// Bytes that the cleaner read.
    pub cleaned_bytes_read: u64,
    /// Bytes that the cleaner wrote; part of what was written to the device.
    pub cleaned_bytes_written: u64,
    /// How what is written is compressed.
    pub compression: Compression,
    /// Bytes by which cold data became smaller when the cleaner moved them.
    pub cold_bytes_saved: u64,
}

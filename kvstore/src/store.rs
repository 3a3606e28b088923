//! The store: opens over a file system, holds the index, hands out transactions and snapshots.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use lfs::{
    AppendError, BlockDevice, Clock, CommitNumber, Compression, FileSystem, MirrorStatus, Notify,
    Recovery, ScrubStatus, Unlock,
};

use crate::backup::Pinned;
use crate::index::Index;
use crate::keyspace::Keyspace;
use crate::load::Loader;
use crate::maintenance::GARBAGE_PER_STEP;
use crate::misses::Misses;
use crate::record::records;
use crate::run::{Run, RunError, RunReader, decode_manifest};
use crate::snapshot::Snapshot;
use crate::transaction::{Growth, Transaction};
use crate::{
    CommitError, DATABASE_COUNT, Damage, DatabaseIndex, DurabilityLost, Key, Loaded, OpenError,
    Timestamp, TransactError,
};
use crate::{maintenance, space};

/// How a store is opened.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Memory limit in bytes for keys, values and index (`maxmemory`); can be changed later.
    pub memory_bytes_max: usize,
    /// Opening is refused when the data needs more than this.
    pub open_memory_bytes_max: usize,
    /// A random number, nobody's to guess, so that nobody can choose keys that collide.
    pub hash_seed: u64,
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
    pub(crate) index: RefCell<Index>,
    /// Sorted runs of the checkpoint in force, oldest first.
    pub(crate) runs: RefCell<Vec<Run>>,
    /// All commits up to here are in the runs.
    pub(crate) horizon: Cell<Timestamp>,
    /// Bytes of live data as of the horizon: what a merge of everything comes down to.
    pub(crate) flushed_live_bytes: Cell<u64>,
    /// The runs hold much that is gone, but no run says so yet.
    pub(crate) flush_due: Cell<bool>,
    /// A flush found that it would take the room a merge of everything needs.
    pub(crate) flush_waits: Cell<bool>,
    pub(crate) flushing: Cell<bool>,
    pub(crate) checkpointing: Cell<bool>,
    /// A flush found no room or memory: until one succeeds the log cannot move on, and writers are refused.
    pub(crate) stuck: Cell<bool>,
    pub(crate) closing: Cell<bool>,
    pub(crate) ended: Cell<bool>,
    /// Something in this struct or the garbage changed.
    pub(crate) changed: Notify,
    memory_bytes_max: Cell<usize>,
    /// What files leave to keys, as of the last look.
    live_run_bytes_max: Cell<u64>,
    /// Memory for the payload of the commit at hand.
    payload: RefCell<Vec<u8>>,
    /// Keys that backups have not read yet.
    pub(crate) pinned: Pinned,
    /// Of the scrub under way, or of the last one.
    pub(crate) damage: RefCell<Damage>,
    pub(crate) misses: Misses,
}

impl<D: BlockDevice> Store<D> {
    /// Opens the store on `device`, which holds a file system: loads the runs, replays the log.
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
        let replayed = replay(&mut recovery, options, None).await?;
        Ok(Self::new(recovery.finish().await?, options, replayed))
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
        let replayed = replay(&mut recovery, options, None).await?;
        Ok(Self::new(recovery.finish().await?, options, replayed))
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
        let replayed = replay(&mut recovery, options, Some(at)).await?;
        Ok(Self::new(
            recovery.finish_without_writing(),
            options,
            replayed,
        ))
    }

    fn new(filesystem: FileSystem<D>, options: Options, replayed: Replayed) -> Self {
        Self {
            live_run_bytes_max: Cell::new(space::live_bytes_max(&filesystem.usage())),
            filesystem,
            index: RefCell::new(replayed.index),
            runs: RefCell::new(replayed.runs),
            horizon: Cell::new(replayed.horizon),
            flushed_live_bytes: Cell::new(replayed.flushed_live_bytes),
            flush_due: Cell::new(false),
            flush_waits: Cell::new(false),
            flushing: Cell::new(false),
            checkpointing: Cell::new(false),
            stuck: Cell::new(false),
            closing: Cell::new(false),
            ended: Cell::new(false),
            changed: Notify::default(),
            memory_bytes_max: Cell::new(options.memory_bytes_max),
            payload: RefCell::default(),
            pinned: Pinned::default(),
            damage: RefCell::default(),
            misses: Misses::default(),
        }
    }

    /// What the store can take.
    pub fn limits(&self) -> Limits {
        Limits {
            commit_bytes_max: self.filesystem.commit_bytes_max(),
        }
    }

    /// Sets the memory limit in bytes (`maxmemory`). Below what is in use, only deletes commit.
    pub fn set_memory_bytes_max(&self, bytes: usize) {
        self.memory_bytes_max.set(bytes);
    }

    /// Waits until the log has room for a commit of any size. Call before a transaction that writes:
    /// this is the back-pressure that bounds commits in flight. Returns at once when there is room,
    /// and when there never will be (the commit then says why).
    pub async fn admit(&self) {
        self.filesystem.admit(|| self.stuck.get()).await;
    }

    /// Whether [`admit`](Self::admit) would return at once.
    pub fn has_room(&self) -> bool {
        self.filesystem.has_room() || self.stuck.get()
    }

    /// Begins a transaction over keys and files. `now_ms` (Unix milliseconds) decides what is expired; files that it
    /// changes get `file_time_ns` (Unix nanoseconds). `loaded` is kept from one attempt to the next.
    ///
    /// Begin, use and commit it without an await in between: otherwise another may commit first, and
    /// this one is refused.
    pub fn transaction<'s>(
        &'s self,
        now_ms: i64,
        file_time_ns: i64,
        loaded: &'s mut Loaded,
    ) -> Transaction<'s, D> {
        Transaction::new(self, now_ms, file_time_ns, loaded)
    }

    /// From now on reads of keys in transactions miss at random, as if the keys were on the disk only. For tests of
    /// those who run transactions.
    #[cfg(feature = "sim")]
    pub fn miss_at_random(&self, seed: u64) {
        self.misses.begin(seed);
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
        Snapshot::new(&self.index.borrow().pins, self.committed())
    }

    /// Whether `key` was written, deleted, or lost with its whole database, after `snapshot`.
    pub fn changed_since(&self, snapshot: &Snapshot, db: DatabaseIndex, key: &[u8]) -> bool {
        self.index.borrow().changed_since(snapshot, db, key)
    }

    /// Appends up to `limit` live keys after `after`, in order, as `snapshot` sees them, to `keys`.
    pub fn keys_after(
        &self,
        snapshot: &Snapshot,
        db: DatabaseIndex,
        after: Option<&[u8]>,
        limit: usize,
        now_ms: i64,
        keys: &mut Vec<Key>,
    ) {
        let index = self.index.borrow();
        let range = index
            .at(db, snapshot.timestamp())
            .range_at(after, snapshot.timestamp());
        let live = range.filter(|(_, version)| version.is_live_at(now_ms));
        keys.extend(live.take(limit).map(|(key, _)| Key::clone(key)));
    }

    /// Deletes up to `limit` keys whose time has come, as one commit; how many it deleted.
    ///
    /// # Errors
    /// As [`transact`](Self::transact).
    pub async fn reclaim_expired(&self, now_ms: i64, limit: usize) -> Result<usize, TransactError> {
        self.pinned.expire(now_ms);
        let delete = |transaction: &mut Transaction<'_, D>| transaction.delete_expired(limit);
        let (count, _) = self.transact(now_ms, 0, delete).await?;
        if count > 0 {
            let expired = &self.index.borrow().expired_keys;
            expired.set(expired.get() + count as u64);
        }
        Ok(count)
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
        let index = self.index.borrow();
        let counters = self.filesystem.counters();
        let databases = core::array::from_fn::<_, DATABASE_COUNT, _>(|db| {
            index.live(DatabaseIndex(u8::try_from(db).unwrap_or_default()))
        });
        Stats {
            keys: databases.map(Keyspace::live_count),
            keys_with_expiry: databases.map(Keyspace::expiring_count),
            memory_bytes: index.memory_bytes(),
            memory_bytes_max: self.memory_bytes_max.get(),
            disk_bytes: index.live_run_bytes(),
            disk_bytes_max: space::live_bytes_max(&self.filesystem.usage()),
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
            runs: self.runs.borrow().len() as u64,
            run_bytes: self.runs.borrow().iter().map(|run| run.len_bytes).sum(),
            snapshots: index.pins.count() as u64,
            expired_keys: index.expired_keys.get(),
            backups: self.pinned.count() as u64,
            files: self.file_stats(),
            mirror: self.filesystem.device().mirror_status(),
            scrub: self.filesystem.scrub_status(),
        }
    }

    /// Refuses what would grow the data past a limit. What snapshots still see of overwritten values may
    /// exceed the memory limit by a quarter: otherwise nothing could be overwritten at the limit while
    /// a flush, which is a snapshot, goes on.
    pub(crate) fn check_room(&self, index: &Index, growth: &Growth) -> Result<(), CommitError> {
        let exceeds = |used: u64, growth: i64, max: u64| {
            growth > 0 && used.saturating_add_signed(growth) > max
        };
        let memory = index.memory_bytes() as u64;
        let memory_max = self.memory_bytes_max.get() as u64;
        let with_kept = growth.memory.saturating_add(growth.kept);
        if exceeds(memory, growth.memory, memory_max)
            || (growth.kept > 0
                && exceeds(memory, with_kept, memory_max.saturating_add(memory_max / 4)))
        {
            return Err(CommitError::OutOfMemory);
        }
        let live = index.live_run_bytes();
        if exceeds(live, growth.run, self.live_run_bytes_max.get()) {
            // Files may have gone since.
            self.share_space(live);
            if exceeds(live, growth.run, self.live_run_bytes_max.get()) {
                return Err(CommitError::DiskFull);
            }
        }
        Ok(())
    }

    /// Keeps files out of the room that keys with `live_bytes` need, and finds out how many more keys there may be.
    pub(crate) fn share_space(&self, live_bytes: u64) {
        let usage = self.filesystem.usage();
        self.live_run_bytes_max.set(space::live_bytes_max(&usage));
        let reserve = space::reserve_bytes(&usage, live_bytes);
        self.filesystem.reserve_for_objects(reserve);
    }

    /// Appends the payload that `encode` writes, of at most `bytes_max` bytes, to the log.
    pub(crate) fn append(
        &self,
        bytes_max: usize,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Timestamp, CommitError> {
        if bytes_max > self.filesystem.commit_bytes_max() {
            return Err(CommitError::TooLarge);
        }
        let mut payload = self.payload.borrow_mut();
        payload.clear();
        payload
            .try_reserve(bytes_max)
            .map_err(|_| CommitError::OutOfMemory)?;
        encode(&mut payload);
        let appended = self.filesystem.append(&payload);
        // A large commit must not keep its memory for ever.
        payload.shrink_to(64 << 10);
        match appended {
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

/// Keeps opening a store within its memory, and lets others run.
struct Pace {
    memory_bytes_max: usize,
    /// Bytes of records since the last look.
    bytes: usize,
}

impl Pace {
    /// Bytes of records between two looks; the data cannot outgrow its memory by much more meanwhile.
    const STEP_BYTES: usize = 16 << 10;

    fn new(memory_bytes_max: usize) -> Self {
        Self {
            memory_bytes_max,
            bytes: Self::STEP_BYTES,
        }
    }

    /// Counts a record of `len` bytes that was applied.
    async fn step(
        &mut self,
        len: usize,
        memory_bytes: impl Fn() -> usize,
    ) -> Result<(), OpenError> {
        self.bytes += len;
        if self.bytes >= Self::STEP_BYTES {
            self.bytes = 0;
            let limit = self.memory_bytes_max;
            if memory_bytes() > limit {
                return Err(OpenError::OutOfMemory { limit });
            }
            embassy_futures::yield_now().await;
        }
        Ok(())
    }
}

/// What the runs and the log say.
struct Replayed {
    index: Index,
    runs: Vec<Run>,
    horizon: Timestamp,
    flushed_live_bytes: u64,
}

/// Loads the runs and replays the log, to its end or up to a commit.
async fn replay<D: BlockDevice>(
    recovery: &mut Recovery<D>,
    options: Options,
    up_to: Option<Timestamp>,
) -> Result<Replayed, OpenError> {
    let runs = decode_manifest(recovery.manifest()).map_err(|_| OpenError::DamagedManifest)?;
    let horizon = Timestamp(recovery.horizon().0);
    let oldest = Timestamp(recovery.oldest_state().0);
    let mut loader = Loader::new(options.hash_seed);
    let mut pace = Pace::new(options.open_memory_bytes_max);
    for run in runs.iter().rev() {
        loader.begin_run();
        load_run(recovery, run, &mut loader, &mut pace).await?;
    }
    let mut index = loader.finish();
    let flushed_live_bytes = index.live_run_bytes();
    let mut last = horizon;
    while up_to.is_none_or(|up_to| last < up_to) {
        let Some((number, payload)) = recovery.next_commit().await? else {
            break;
        };
        let timestamp = Timestamp(number.0);
        last = timestamp;
        let len = payload.len();
        for record in records(payload) {
            let record = record.map_err(|_| OpenError::DamagedCommit(timestamp))?;
            index.apply_record(timestamp, &record);
        }
        // Nobody sees what was emptied; it must not count.
        while index.collect_garbage(GARBAGE_PER_STEP) {
            embassy_futures::yield_now().await;
        }
        pace.step(len, || index.memory_bytes()).await?;
    }
    match up_to {
        Some(up_to) if last != up_to || up_to < oldest => {
            while recovery.next_commit().await?.is_some() {}
            let newest = Timestamp(recovery.last_commit().0);
            Err(OpenError::NotRetained { oldest, newest })
        }
        _ => Ok(Replayed {
            index,
            runs,
            horizon,
            flushed_live_bytes,
        }),
    }
}

/// Loads a run's records.
async fn load_run<D: BlockDevice>(
    recovery: &Recovery<D>,
    run: &Run,
    loader: &mut Loader,
    pace: &mut Pace,
) -> Result<(), OpenError> {
    let damaged = OpenError::DamagedRun(run.object);
    let failed = |error| match error {
        RunError::Read(error) => OpenError::Run(error),
        _ => damaged,
    };
    let mut reader = RunReader::new(recovery.scan_object(run.object)?);
    if recovery.object_len_bytes(run.object) != Some(run.len_bytes) {
        return Err(OpenError::DamagedManifest);
    }
    let mut len = 0;
    loop {
        reader
            .advance(recovery.device(), len)
            .await
            .map_err(failed)?;
        let Some((timestamp, record, record_len)) = reader.current().map_err(|_| damaged)? else {
            break;
        };
        loader.add(timestamp, &record).map_err(|_| damaged)?;
        len = record_len;
        pace.step(len, || loader.memory_bytes()).await?;
    }
    Ok(())
}

/// Figures about a store; counts are since it was opened.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Keys in each database, expired ones not yet reclaimed included.
    pub keys: [u64; DATABASE_COUNT],
    /// Keys in each database that have an expiry.
    pub keys_with_expiry: [u64; DATABASE_COUNT],
    /// Memory of keys, values and index, as the store estimates it.
    pub memory_bytes: usize,
    /// Its limit.
    pub memory_bytes_max: usize,
    /// Bytes that live data takes on the disk, once.
    pub disk_bytes: u64,
    /// Its limit: about a third of the disk (see DESIGN.md).
    pub disk_bytes_max: u64,
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
    /// Snapshots alive.
    pub snapshots: u64,
    /// Keys removed because their time had come.
    pub expired_keys: u64,
    /// Backups for which keys are held in memory.
    pub backups: u64,
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

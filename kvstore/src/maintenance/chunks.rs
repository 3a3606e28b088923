//! Chunks of tables for work in the background.
//!
//! It looks at the cache without disturbing it, and puts nothing in: a merge goes through everything once. What is not there is noted, loaded, and held: until the
//! step that missed it has been made, and after that for as long as there is no more than [`HELD_BYTES`] of it. Blocks are read through a scan of their table, in
//! requests of 128 KiB.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::mem;

use lfs::{BlockDevice, ObjectId, ObjectReadError, ObjectScan};

use super::{JobError, flush_goes_first};
use crate::Timestamp;
use crate::engine::cache::CacheKey;
use crate::engine::cached::CacheEntry;
use crate::engine::range_set::Covering;
use crate::engine::table::{Cached, ChunkKind, ChunkSource, ListedChunk, RunRanges};
use crate::engine::types::{BlockError, ChunkRef, Malformed, Missing};
use crate::store::Store;

/// Bytes of chunks that are held when no step needs them; twice as much where they are used again.
const HELD_BYTES: usize = 1 << 20;

/// Bytes that a single step may need.
const NEEDED_BYTES_MAX: usize = 32 << 20;

/// Tables that are scanned at once: what has to be read of others is read chunk by chunk.
const SCANS_MAX: usize = 32;

/// Chunks that are noted as missing at once.
const MISSING_MAX: usize = 1024;

/// A chunk, and what it is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wanted {
    table: ObjectId,
    at: ChunkRef,
    kind: ChunkKind,
}

/// A table whose parts contradict each other may ask for one thing as two.
type Place = (ObjectId, u64, u8);

impl Wanted {
    fn place(&self) -> Place {
        (self.table, self.at.offset, self.kind as u8)
    }
}

/// Chunks in two generations: what the younger one has when it is full becomes the older one, and what is used of that becomes young again.
#[derive(Default)]
struct Held {
    young: BTreeMap<Place, Cached>,
    young_bytes: usize,
    old: BTreeMap<Place, Cached>,
}

impl Held {
    fn get(&mut self, place: &Place) -> Option<Cached> {
        if let Some(chunk) = self.young.get(place) {
            return Some(chunk.clone());
        }
        let chunk = self.old.remove(place)?;
        self.insert(*place, chunk.clone());
        Some(chunk)
    }

    fn insert(&mut self, place: Place, chunk: Cached) {
        self.young_bytes += chunk.memory_bytes();
        self.young.insert(place, chunk);
    }

    fn settle(&mut self) {
        if self.young_bytes > HELD_BYTES {
            self.old = mem::take(&mut self.young);
            self.young_bytes = 0;
        }
    }
}

/// A table that is read from its start to its end; it is with whoever reads just now.
struct Scan {
    table: ObjectId,
    idle: Option<ObjectScan>,
    used: u64,
}

/// The chunks of tables, for one job.
pub(super) struct Chunks<'s, D: BlockDevice> {
    store: &'s Store<D>,
    /// It is a flush that reads, and waits for none.
    flushes: bool,
    held: RefCell<Held>,
    missing: RefCell<Vec<Wanted>>,
    scans: RefCell<Vec<Scan>>,
    reads: Cell<u64>,
    failed: Cell<Option<ObjectId>>,
}

impl<'s, D: BlockDevice> Chunks<'s, D> {
    pub(super) fn new(store: &'s Store<D>) -> Self {
        Self {
            store,
            flushes: false,
            held: RefCell::default(),
            missing: RefCell::default(),
            scans: RefCell::default(),
            reads: Cell::new(0),
            failed: Cell::new(None),
        }
    }

    /// The same, for a flush.
    pub(super) fn of_flush(store: &'s Store<D>) -> Self {
        Self {
            flushes: true,
            ..Self::new(store)
        }
    }

    /// Loads what was missing; a [flush goes first](flush_goes_first). To be called after each [`Missing`], until what missed it is through.
    pub(super) async fn load(&self) -> Result<(), JobError> {
        let missing = self.missing.take();
        if missing.is_empty() {
            // There was no memory to note it.
            return Err(JobError::OutOfMemory);
        }
        for wanted in missing {
            if !self.flushes {
                flush_goes_first(self.store).await;
            }
            self.failed.set(Some(wanted.table));
            let chunk = self.read(&wanted).await?;
            self.failed.set(None);
            let mut held = self.held.borrow_mut();
            held.insert(wanted.place(), chunk);
            if held.young_bytes > NEEDED_BYTES_MAX {
                return Err(JobError::OutOfMemory);
            }
        }
        Ok(())
    }

    /// The table that could not be read the last time that something was loaded.
    pub(super) fn failed(&self) -> Option<ObjectId> {
        self.failed.get()
    }

    /// The step is made that something was missing for.
    pub(super) fn settle(&self) {
        self.held.borrow_mut().settle();
    }

    /// What `ask` says when all it needs is loaded.
    pub(super) async fn loaded<T>(
        &self,
        mut ask: impl FnMut() -> Result<T, Missing>,
    ) -> Result<T, JobError> {
        loop {
            if let Ok(answer) = ask() {
                self.settle();
                return Ok(answer);
            }
            self.load().await?;
        }
    }

    /// A chunk, which is loaded if need be.
    pub(super) async fn get(
        &self,
        table: ObjectId,
        at: ChunkRef,
        kind: ChunkKind,
    ) -> Result<Cached, JobError> {
        self.loaded(|| self.chunk(table, &at.into(), kind, 0)).await
    }

    async fn read(&self, wanted: &Wanted) -> Result<Cached, JobError> {
        let bytes = match wanted.kind {
            ChunkKind::Block => self.read_block(wanted.table, wanted.at).await?,
            _ => self.read_one(wanted.table, wanted.at).await?,
        };
        Cached::parse(wanted.kind, bytes).map_err(|error| match error {
            BlockError::Malformed(Malformed) => JobError::DamagedTable(wanted.table),
            BlockError::OutOfMemory(_) => JobError::OutOfMemory,
        })
    }

    async fn read_one(&self, table: ObjectId, at: ChunkRef) -> Result<Vec<u8>, JobError> {
        let bytes = self.store.filesystem.read_chunk(table, at).await;
        bytes.map_err(read_error)
    }

    /// Reads a block, and with the same request those behind it, which will be asked for next.
    async fn read_block(&self, table: ObjectId, at: ChunkRef) -> Result<Vec<u8>, JobError> {
        let Some(mut scan) = self.take_scan(table)? else {
            return self.read_one(table, at).await;
        };
        scan.seek(at);
        let mut bytes = Vec::new();
        let found = scan.next(self.store.filesystem.device(), &mut bytes).await;
        self.give_scan(table, scan);
        if found.map_err(read_error)? == Some(at) {
            Ok(bytes)
        } else {
            Err(JobError::DamagedTable(table))
        }
    }

    fn take_scan(&self, table: ObjectId) -> Result<Option<ObjectScan>, JobError> {
        let mut scans = self.scans.borrow_mut();
        let reads = self.reads.get() + 1;
        self.reads.set(reads);
        if let Some(there) = scans.iter_mut().find(|scan| scan.table == table) {
            there.used = reads;
            return Ok(there.idle.take());
        }
        let scan = self
            .store
            .filesystem
            .scan_object(table)
            .map_err(read_error)?;
        let new = Scan {
            table,
            idle: None,
            used: reads,
        };
        if scans.len() < SCANS_MAX {
            scans.try_reserve(1).map_err(|_| JobError::OutOfMemory)?;
            scans.push(new);
        } else if let Some(oldest) = scans.iter_mut().min_by_key(|scan| scan.used) {
            *oldest = new;
        }
        Ok(Some(scan))
    }

    fn give_scan(&self, table: ObjectId, scan: ObjectScan) {
        let mut scans = self.scans.borrow_mut();
        if let Some(there) = scans.iter_mut().find(|scan| scan.table == table) {
            there.idle = Some(scan);
        }
    }
}

fn read_error(error: ObjectReadError) -> JobError {
    match error {
        ObjectReadError::OutOfMemory => JobError::OutOfMemory,
        error => JobError::Read(error),
    }
}

impl<D: BlockDevice> ChunkSource for Chunks<'_, D> {
    fn chunk(
        &self,
        table: ObjectId,
        chunk: &ListedChunk,
        kind: ChunkKind,
        _ahead: u32,
    ) -> Result<Cached, Missing> {
        let at = chunk.at();
        let wanted = Wanted { table, at, kind };
        if let Some(chunk) = self.held.borrow_mut().get(&wanted.place()) {
            return Ok(chunk);
        }
        let cache = self.store.engine.cache.borrow();
        if let Some(CacheEntry::Chunk(chunk)) = cache.peek(&CacheKey::Chunk(table, at.offset))
            && chunk.kind() == kind
        {
            return Ok(chunk.clone());
        }
        let mut missing = self.missing.borrow_mut();
        // One block of a table is what is needed; further ones are asked for ahead, and its scan has them.
        let is_noted = missing.iter().any(|noted| {
            let is_ahead = kind == ChunkKind::Block && noted.kind == kind && noted.table == table;
            is_ahead || *noted == wanted
        });
        if !is_noted && missing.len() < MISSING_MAX && missing.try_reserve(1).is_ok() {
            missing.push(wanted);
        }
        Err(Missing)
    }
}

/// What of a run of commits is hidden by all that is newer: memtables, also what is committed meanwhile, and runs, also new ones.
pub(super) struct Newer<'c, D: BlockDevice> {
    store: &'c Store<D>,
    chunks: &'c Chunks<'c, D>,
    /// The last commit that is not newer.
    than: Timestamp,
    known: RefCell<Known>,
}

/// An answer, and for what it holds.
#[derive(Default)]
struct Known {
    state: Option<State>,
    from: Vec<u8>,
    newest: Option<Timestamp>,
    until: Option<Vec<u8>>,
}

/// What an answer depends on.
#[derive(Clone, Copy, PartialEq, Eq)]
struct State {
    changes: u64,
    frozen: usize,
    active_ranges: usize,
}

impl Known {
    fn holds(&self, state: State, key: &[u8]) -> bool {
        let is_before_end = || self.until.as_ref().is_none_or(|until| *key < until[..]);
        self.state == Some(state) && *key >= self.from[..] && is_before_end()
    }
}

impl<'c, D: BlockDevice> Newer<'c, D> {
    /// All that is newer than commit `than`, boxed as it is needed.
    pub(super) fn than(
        store: &'c Store<D>,
        chunks: &'c Chunks<'c, D>,
        than: Timestamp,
    ) -> Vec<Box<dyn Covering + 'c>> {
        let newer = Self {
            store,
            chunks,
            than,
            known: RefCell::default(),
        };
        alloc::vec![Box::new(newer)]
    }

    fn find(&self, key: &[u8]) -> Result<(Option<Timestamp>, Option<Vec<u8>>), Missing> {
        let tree = self.store.engine.tree.borrow();
        let (mut newest, mut until) = (None, None::<Vec<u8>>);
        let mut add = |covering: Option<Timestamp>, end: Option<&[u8]>| {
            newest = newest.max(covering);
            if let Some(end) = end
                && until.as_ref().is_none_or(|until| *end < until[..])
            {
                until = Some(end.to_vec());
            }
        };
        let at = Timestamp(u64::MAX);
        for memtable in tree.memtables().filter(|table| table.first() >= self.than) {
            let (covering, end) = memtable.ranges().covering_until(key, at);
            add(covering, end);
        }
        let (mut end, mut result) = (Vec::new(), Ok(()));
        for run in tree.runs().iter().filter(|run| run.first > self.than) {
            let ranges = RunRanges {
                tables: &run.tables,
                source: self.chunks,
                since: None,
            };
            // Whatever is missing is noted at once.
            match ranges.covering_until(key, at, &mut end) {
                Ok((covering, is_bounded)) => add(covering, is_bounded.then_some(&end)),
                Err(Missing) => result = Err(Missing),
            }
        }
        result.map(|()| (newest, until))
    }
}

impl<D: BlockDevice> Covering for Newer<'_, D> {
    fn covering_until(
        &self,
        key: &[u8],
        _at: Timestamp,
        until: &mut Vec<u8>,
    ) -> Result<(Option<Timestamp>, bool), Missing> {
        let state = {
            let tree = self.store.engine.tree.borrow();
            State {
                changes: self.store.compaction.changes.get(),
                frozen: tree.frozen_count(),
                active_ranges: tree.active().ranges().len(),
            }
        };
        let mut known = self.known.borrow_mut();
        if !known.holds(state, key) {
            let (newest, until) = self.find(key)?;
            *known = Known {
                state: Some(state),
                from: key.to_vec(),
                newest,
                until,
            };
        }
        until.clear();
        until.extend_from_slice(known.until.as_deref().unwrap_or_default());
        Ok((known.newest, known.until.is_some()))
    }
}

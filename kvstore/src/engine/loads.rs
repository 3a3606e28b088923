//! Reading chunks of tables for those who can be run again: what is not in memory is noted, loaded, and held for them until they are through.
//!
//! A chunk is looked for in what was loaded for this reader, then in the cache. Two who miss one chunk make one request.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use lfs::{BlockDevice, Notify, ObjectId, ObjectReadError};

use super::cache::{Cache, CacheKey};
use super::cached::CacheEntry;
use super::state::Engine;
use super::table::{Cached, ChunkKind, ChunkSource, ListedChunk};
use super::types::{BlockError, ChunkRef, Missing};
use crate::fault::{FAULTS_MAX, LOADED_KEY_BYTES_MAX, LoadError};
use crate::store::Store;

/// Of [`LOADED_KEY_BYTES_MAX`], what may be of chunks that are only good to know.
const PROBED_BYTES_MAX: usize = LOADED_KEY_BYTES_MAX / 4;

/// Memory of a loaded chunk beyond its own.
const LOADED_BYTES: usize = 64;

/// A chunk that has to be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChunkFault {
    table: ObjectId,
    at: ChunkRef,
    kind: ChunkKind,
    /// It is only good to know: whoever writes goes on without it if it cannot be read.
    is_probe: bool,
}

/// Chunks that could not be read and are remembered, at most.
const UNREADABLE_MAX: usize = 1024;

/// Chunks that were loaded for one reader: [`LOADED_KEY_BYTES_MAX`] at most.
#[derive(Default)]
pub(crate) struct LoadedChunks {
    chunks: BTreeMap<(ObjectId, u64), Cached>,
    bytes: usize,
    /// There is no more room for what is only good to know.
    probed_enough: bool,
    /// What is there matters, and is not to be assumed.
    probes_all: bool,
}

impl LoadedChunks {
    /// Memory that they take.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.bytes
    }

    /// From now on all is read that can be to find out whether keys are there, for as long as there is room for it. Whether it was not before.
    pub(crate) fn probe_all(&mut self) -> bool {
        self.probed_enough = false;
        !core::mem::replace(&mut self.probes_all, true)
    }

    /// What is read to find out whether a key is there, where `usual` is.
    pub(crate) fn probed(&self, usual: Wanted) -> Wanted {
        if self.probes_all {
            Wanted::Readable
        } else {
            usual
        }
    }

    /// Keeps what `fault` asked for.
    pub(crate) fn insert(&mut self, fault: ChunkFault, chunk: Cached) -> Result<(), LoadError> {
        let ChunkFault {
            table,
            at,
            is_probe,
            ..
        } = fault;
        let bytes = self.bytes + LOADED_BYTES + chunk.memory_bytes();
        let probed_max = if self.probes_all {
            LOADED_KEY_BYTES_MAX
        } else {
            PROBED_BYTES_MAX
        };
        if is_probe && bytes > probed_max {
            self.probed_enough = true;
            return Ok(());
        }
        if bytes > LOADED_KEY_BYTES_MAX {
            return Err(LoadError::OutOfMemory);
        }
        let kind = chunk.kind();
        match self.chunks.insert((table, at.offset), chunk) {
            None => self.bytes = bytes,
            // One thing is asked for as two, and would be for ever.
            Some(before) if before.kind() != kind => return Err(LoadError::DamagedTable(table)),
            Some(_) => {}
        }
        Ok(())
    }
}

/// Which chunks a reader has loaded when they are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All.
    All,
    /// Those that can be read, ...
    Readable,
    /// ... or only of what tells in which block a key would be, and that it is in none.
    Filters,
    /// None.
    None,
}

impl Wanted {
    /// Whether chunks that hold such a thing are.
    pub(crate) fn has(self, kind: ChunkKind) -> bool {
        match self {
            Self::All | Self::Readable => true,
            Self::Filters => matches!(kind, ChunkKind::Head | ChunkKind::Filter),
            Self::None => false,
        }
    }
}

/// The chunks of tables, for one reader.
pub(crate) struct Reader<'r> {
    cache: &'r RefCell<Cache<CacheEntry>>,
    loaded: &'r LoadedChunks,
    faults: &'r RefCell<Vec<ChunkFault>>,
    loads: &'r Loads,
    wanted: Wanted,
}

impl<'r> Reader<'r> {
    /// What is missing is noted in `faults`.
    pub(crate) fn new(
        engine: &'r Engine,
        loaded: &'r LoadedChunks,
        faults: &'r RefCell<Vec<ChunkFault>>,
        wanted: Wanted,
    ) -> Self {
        Self {
            cache: &engine.cache,
            loaded,
            faults,
            loads: &engine.loads,
            wanted,
        }
    }

    fn find(&self, table: ObjectId, chunk: &ListedChunk) -> Option<Cached> {
        let offset = chunk.at().offset;
        if !self.loaded.chunks.is_empty()
            && let Some(loaded) = self.loaded.chunks.get(&(table, offset))
        {
            return Some(loaded.clone());
        }
        let key = CacheKey::Chunk(table, offset);
        match self.cache.borrow_mut().get_at(&key, chunk.hint()) {
            Some(CacheEntry::Chunk(cached)) => Some(cached.clone()),
            _ => None,
        }
    }
}

impl ChunkSource for Reader<'_> {
    fn chunk(
        &self,
        table: ObjectId,
        chunk: &ListedChunk,
        kind: ChunkKind,
        _ahead: u32,
    ) -> Result<Cached, Missing> {
        let at = chunk.at();
        if let Some(found) = self.find(table, chunk) {
            // A table whose parts contradict each other may ask for one thing as two.
            if found.kind() == kind {
                return Ok(found);
            }
        }
        let enough = self.wanted != Wanted::All && self.loaded.probed_enough;
        let is_wanted = !enough
            && self.wanted.has(kind)
            && (self.wanted == Wanted::All || !self.loads.is_unreadable(table, at));
        if is_wanted {
            let mut faults = self.faults.borrow_mut();
            let fault = ChunkFault {
                table,
                at,
                kind,
                is_probe: self.wanted != Wanted::All,
            };
            if faults.len() < FAULTS_MAX && !faults.contains(&fault) {
                faults.push(fault);
            }
        }
        Err(Missing)
    }
}

/// Chunks that are being loaded.
#[derive(Default)]
pub(crate) struct Loads {
    in_flight: RefCell<BTreeSet<(ObjectId, u64)>>,
    changed: Notify,
    /// Chunks that could not be read, newest last.
    unreadable: RefCell<Vec<(ObjectId, u64)>>,
    /// Requests made.
    pub(crate) requests: Cell<u64>,
}

/// The right to load a chunk.
struct Turn<'l>(&'l Loads, (ObjectId, u64));

impl Loads {
    fn is_unreadable(&self, table: ObjectId, at: ChunkRef) -> bool {
        let unreadable = self.unreadable.borrow();
        !unreadable.is_empty() && unreadable.contains(&(table, at.offset))
    }

    fn note_unreadable(&self, table: ObjectId, at: ChunkRef) {
        if self.is_unreadable(table, at) {
            return;
        }
        let mut unreadable = self.unreadable.borrow_mut();
        if unreadable.len() >= UNREADABLE_MAX {
            unreadable.remove(0);
        }
        unreadable.push((table, at.offset));
    }

    async fn turn(&self, table: ObjectId, at: ChunkRef) -> Turn<'_> {
        let place = (table, at.offset);
        let free = || self.in_flight.borrow_mut().insert(place).then_some(());
        self.changed.until(free).await;
        Turn(self, place)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.in_flight.borrow_mut().remove(&self.1);
        self.0.changed.notify();
    }
}

impl<D: BlockDevice> Store<D> {
    /// Loads a chunk, and puts it into the cache; `None` if it is not there any more, or is not needed and cannot be read.
    pub(crate) async fn load_chunk(&self, fault: ChunkFault) -> Result<Option<Cached>, LoadError> {
        let loaded = self.read_chunk(fault).await;
        if loaded.is_err() && fault.is_probe {
            self.engine.loads.note_unreadable(fault.table, fault.at);
            return Ok(None);
        }
        loaded
    }

    async fn read_chunk(&self, fault: ChunkFault) -> Result<Option<Cached>, LoadError> {
        let ChunkFault {
            table, at, kind, ..
        } = fault;
        let cache = &self.engine.cache;
        let _turn = self.engine.loads.turn(table, at).await;
        let key = CacheKey::Chunk(table, at.offset);
        if let Some(CacheEntry::Chunk(chunk)) = cache.borrow().peek(&key)
            && chunk.kind() == kind
        {
            // Somebody else has loaded it meanwhile.
            return Ok(Some(chunk.clone()));
        }
        let requests = &self.engine.loads.requests;
        requests.set(requests.get() + 1);
        let bytes = match self.filesystem.read_chunk(table, at).await {
            Ok(bytes) => bytes,
            // It was merged away meanwhile, or is just being: whoever missed it will ask for its successor.
            Err(ObjectReadError::NotFound)
                if !self.has_table(table) || self.checkpointing.get() =>
            {
                embassy_futures::yield_now().await;
                return Ok(None);
            }
            Err(error) => return Err(LoadError::Keys(error)),
        };
        let chunk = Cached::parse(kind, bytes).map_err(|error| match error {
            BlockError::Malformed(_) => LoadError::DamagedTable(table),
            BlockError::OutOfMemory(_) => LoadError::OutOfMemory,
        })?;
        let entry = CacheEntry::Chunk(chunk.clone());
        cache.borrow_mut().insert(&key, entry);
        Ok(Some(chunk))
    }

    fn has_table(&self, table: ObjectId) -> bool {
        let tree = self.engine.tree.borrow();
        let mut tables = tree.runs().iter().flat_map(|run| &run.tables);
        tables.any(|there| there.object == table)
    }
}

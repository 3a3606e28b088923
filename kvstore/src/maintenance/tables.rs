//! Sources become tables: what flushes and compaction have in common.
//!
//! It goes on in turns of up to [`VERSIONS_PER_TURN`] versions, or [`VERSIONS_PER_SHORT_TURN`], or [`BYTES_PER_TURN`]; between them full buffers are written, what is missing is read, and others are let go
//! first. What writers will look at of a table is in the cache from the start, so that a table which takes the place of others costs them no reads. Each table fills the segments that a table has, or what is left ends before.

use alloc::vec::Vec;
use core::mem;

use lfs::{BlockDevice, ObjectId, ObjectWriteError, ObjectWriter};

use super::JobError;
use super::chunks::Chunks;
use super::space::table_bytes;
use crate::Key;
use crate::engine::cache::CacheKey;
use crate::engine::cached::CacheEntry;
use crate::engine::rewrite::{Progress, Rewrite, StepError};
use crate::engine::table::{Cached, ChunkKind, ChunkSink, Dropped, TableRef};
use crate::engine::types::{ChunkRef, OutOfMemory};
use crate::store::Store;

/// Versions that are gone through before others get a turn.
const VERSIONS_PER_TURN: usize = 256;

/// The same while somebody waits for the device: a commit goes on as soon as the device lets it.
const VERSIONS_PER_SHORT_TURN: usize = 32;

/// Bytes of keys and values that are.
const BYTES_PER_TURN: u64 = 32 << 10;

/// How work goes on between turns.
pub(super) trait Turns {
    /// Whether it is to go on at all.
    fn goes_on(&self) -> bool;

    /// A turn was made, of so many bytes. Nobody waits for the next one: there may be none.
    fn made(&self, bytes: u64);

    /// Lets others go first, before the next turn; the one before it was of so many bytes.
    async fn next(&self, bytes: u64);
}

/// Tables that no checkpoint names yet: given up when dropped.
pub(super) struct NewTables<'s, D: BlockDevice> {
    store: &'s Store<D>,
    tables: Vec<TableRef>,
}

impl<'s, D: BlockDevice> NewTables<'s, D> {
    fn new(store: &'s Store<D>) -> Self {
        Self {
            store,
            tables: Vec::new(),
        }
    }

    /// The tables.
    pub(super) fn tables(&self) -> &[TableRef] {
        &self.tables
    }

    /// A checkpoint names them.
    pub(super) fn keep(mut self) {
        self.tables.clear();
    }
}

impl<D: BlockDevice> Drop for NewTables<'_, D> {
    fn drop(&mut self) {
        for table in &self.tables {
            self.store.filesystem.discard_object(table.object);
        }
    }
}

/// What was written.
pub(super) struct Written<'s, D: BlockDevice> {
    pub(super) tables: NewTables<'s, D>,
    /// Up to where it has everything; `None`: to the end.
    pub(super) end: Option<Key>,
}

/// Writes tables of what `rewrite` has, up to the key `to` where its sources end, or to the end of the table with which there are `step_bytes` of them.
pub(super) async fn write<'s, D: BlockDevice>(
    store: &'s Store<D>,
    rewrite: &mut Rewrite<'_>,
    chunks: &Chunks<'_, D>,
    to: Option<&Key>,
    step_bytes: u64,
    turns: &impl Turns,
) -> Result<Written<'s, D>, JobError> {
    let mut sink = Sink::new(store);
    let mut new = NewTables::new(store);
    let mut bytes = 0;
    let end = loop {
        turns.next(0).await;
        let progress = fill(rewrite, &mut sink, chunks, turns).await?;
        let is_done = progress == Progress::Done;
        let bound = to.filter(|_| is_done).map(|to| &to[..]);
        let ended = rewrite.end_table(&mut sink, bound);
        let ended = ended.map_err(|OutOfMemory| sink.error())?;
        let mut table_end = None;
        if let Some(ended) = ended {
            table_end.clone_from(&ended.to);
            new.tables
                .try_reserve(1)
                .map_err(|_| JobError::OutOfMemory)?;
            let (object, len_bytes) = sink.finish().await?;
            bytes += len_bytes;
            new.tables.push(TableRef {
                object,
                bytes: len_bytes,
                head: ended.table.head.into(),
                from: ended.from,
                to: ended.to,
                stats: ended.table.stats,
                dropped: Dropped::Pending,
            });
        }
        if is_done {
            break to.cloned();
        }
        if bytes >= step_bytes && table_end.is_some() {
            break table_end;
        }
    };
    Ok(Written { tables: new, end })
}

/// Goes on until a table is full, or all is done.
async fn fill<D: BlockDevice>(
    rewrite: &mut Rewrite<'_>,
    sink: &mut Sink<'_, D>,
    chunks: &Chunks<'_, D>,
    turns: &impl Turns,
) -> Result<Progress, JobError> {
    let store = sink.store;
    loop {
        if !turns.goes_on() {
            return Err(JobError::Closing);
        }
        let before = rewrite.met_bytes();
        let mut stepped = Ok(Progress::More);
        let versions = if store.filesystem.is_waited_for() {
            VERSIONS_PER_SHORT_TURN
        } else {
            VERSIONS_PER_TURN
        };
        for _ in 0..versions {
            stepped = rewrite.step(sink, 1);
            let is_enough = rewrite.met_bytes() - before >= BYTES_PER_TURN;
            if is_enough || stepped != Ok(Progress::More) {
                break;
            }
        }
        sink.write_full().await?;
        match stepped {
            Ok(_) => chunks.settle(),
            Err(StepError::Missing) => chunks.load().await?,
            Err(StepError::OutOfMemory) => return Err(sink.error()),
            Err(StepError::OutOfOrder) => return Err(JobError::KeysOutOfOrder),
        }
        let bytes = rewrite.met_bytes() - before;
        turns.made(bytes);
        if let Ok(progress @ (Progress::Full | Progress::Done)) = stepped {
            return Ok(progress);
        }
        turns.next(bytes).await;
    }
}

/// Where the chunks of one table after the other go.
struct Sink<'s, D: BlockDevice> {
    store: &'s Store<D>,
    /// Of the table at hand, if it has a chunk.
    writer: Option<ObjectWriter<'s, D>>,
    segment_bytes: u64,
    /// Segments that a table has.
    segments: u64,
    /// Why a chunk was not taken.
    error: Option<ObjectWriteError>,
}

impl<'s, D: BlockDevice> Sink<'s, D> {
    fn new(store: &'s Store<D>) -> Self {
        let usage = store.filesystem.usage();
        let segment_bytes = usage.segment_bytes.max(1);
        Self {
            store,
            writer: None,
            segment_bytes,
            segments: table_bytes(&usage) / segment_bytes,
            error: None,
        }
    }

    async fn write_full(&mut self) -> Result<(), JobError> {
        match &mut self.writer {
            Some(writer) => Ok(writer.write_full().await?),
            None => Ok(()),
        }
    }

    /// Ends the object of a table.
    async fn finish(&mut self) -> Result<(lfs::ObjectId, u64), JobError> {
        let writer = self.writer.take().ok_or(ObjectWriteError::Failed)?;
        let len_bytes = writer.len_bytes();
        Ok((writer.finish().await?, len_bytes))
    }

    /// Why something failed that puts chunks.
    fn error(&mut self) -> JobError {
        match mem::take(&mut self.error) {
            Some(ObjectWriteError::OutOfMemory) | None => JobError::OutOfMemory,
            Some(error) => JobError::Write(error),
        }
    }

    /// Whether writers look at such chunks to find out what there is.
    fn is_probed(&self, kind: ChunkKind) -> bool {
        kind != ChunkKind::Dropped && self.store.engine.probed.get().has(kind)
    }

    fn try_put(&mut self, bytes: &[u8]) -> Result<ChunkRef, ObjectWriteError> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => none.insert(self.store.filesystem.create_object()?),
        };
        writer.put(bytes)
    }
}

/// Puts a chunk into the cache that was just written, and that writers look at. Without memory for it, it is read when it is needed.
fn remember<D: BlockDevice>(
    store: &Store<D>,
    table: ObjectId,
    at: ChunkRef,
    kind: ChunkKind,
    bytes: &[u8],
) {
    let mut copy = Vec::new();
    if copy.try_reserve_exact(bytes.len()).is_err() {
        return;
    }
    copy.extend_from_slice(bytes);
    if let Ok(chunk) = Cached::parse(kind, copy) {
        let key = CacheKey::Chunk(table, at.offset);
        let entry = CacheEntry::Chunk(chunk);
        store.engine.cache.borrow_mut().insert_used(&key, entry);
    }
}

impl<D: BlockDevice> ChunkSink for Sink<'_, D> {
    fn put(&mut self, kind: ChunkKind, bytes: &[u8]) -> Result<ChunkRef, OutOfMemory> {
        let at = self.try_put(bytes).map_err(|error| {
            self.error = Some(error);
            OutOfMemory
        })?;
        if let Some(writer) = self.writer.as_ref().filter(|_| self.is_probed(kind)) {
            remember(self.store, writer.id(), at, kind, bytes);
        }
        Ok(at)
    }

    fn room(&self) -> u64 {
        let writer = self.writer.as_ref();
        let (begun, left) = writer.map_or((0, 0), |writer| {
            (writer.segments(), writer.room_in_segment())
        });
        self.segments.saturating_sub(begun) * self.segment_bytes + left
    }
}

//! Tables: immutable objects of sorted versions, made of chunks (`ENGINE.md`, section 2).
//!
//! Data blocks come first; up to [`PARTITION_BLOCKS`] of them are followed by the filter of their keys and the partition
//! that finds them; then range deletes and dropped slots; and last the head, which finds all of it. The index is made
//! of separators: a partition's entry is the place in the order of versions from which on what is sought is in its
//! block, so versions of one key that go on in another block are found as others are.
//!
//! Nothing here reads or writes: a [`ChunkSink`] takes chunks, a [`ChunkSource`] has them or says that they are missing.
//! Chunks are checked one by one when they are parsed. That they agree with each other is nobody's promise: what is
//! sought in a table whose chunks do not is found or not, but the search ends.

mod builder;
mod cursor;
mod head;
mod index;
mod listed;
mod run;

pub use builder::{Pushed, TableBuilder, TableSummary, separator};
pub use cursor::{Found, TableCursor, table_get, table_random_key};
pub use head::{DroppedSlots, Head, RangesRef, STATISTIC_MAX, TableStats};
pub use index::Index;
pub use listed::ListedChunk;
pub use run::{RunCursor, RunRanges, table_holding};

use index::{put_ref, take_ref};

use alloc::rc::Rc;
use alloc::vec::Vec;

use lfs::ObjectId;

use super::block::Block;
use super::range_set::{Covering, RangeSet};
use super::types::{BlockError, ChunkRef, Missing, OutOfMemory};
use crate::{DatabaseIndex, Key, Timestamp};

pub use lfs::CHUNK_BYTES_MAX;

/// Blocks of a partition, unless separators are long, or the head is.
pub const PARTITION_BLOCKS: usize = 64;

/// Takes the chunks of a table, one behind the other.
pub trait ChunkSink {
    /// Adds a chunk of at most [`CHUNK_BYTES_MAX`] that holds such a thing, and says where it is.
    ///
    /// # Errors
    /// There is no memory for it.
    fn put(&mut self, kind: ChunkKind, bytes: &[u8]) -> Result<ChunkRef, OutOfMemory>;

    /// Bytes to the end of the last segment that the table should have.
    fn room(&self) -> u64;
}

/// Has the chunks of tables, or not.
pub trait ChunkSource {
    /// A chunk of `table`, as what it was asked for; of `ahead` blocks behind it the caller will ask next.
    ///
    /// # Errors
    /// It is not in memory, which is noted.
    fn chunk(
        &self,
        table: ObjectId,
        chunk: &ListedChunk,
        kind: ChunkKind,
        ahead: u32,
    ) -> Result<Cached, Missing>;
}

/// What a chunk holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChunkKind {
    /// What finds all else.
    Head,
    /// What finds blocks.
    Partition,
    /// What is not in a partition.
    Filter,
    /// Versions.
    Block,
    /// Range deletes.
    Ranges,
    /// Slots of the value file that nobody needs.
    Dropped,
}

/// A chunk in memory, checked.
#[derive(Clone, Debug)]
pub enum Cached {
    /// A head.
    Head(Rc<Head>),
    /// A partition.
    Partition(Rc<Partition>),
    /// A filter.
    Filter(Rc<Vec<u8>>),
    /// Versions.
    Block(Rc<Block>),
    /// Range deletes.
    Ranges(Rc<RangeSet>),
    /// Dropped slots.
    Dropped(Rc<DroppedSlots>),
}

impl Cached {
    /// Takes in the bytes of a chunk.
    ///
    /// # Errors
    /// They are no such thing, or there is no memory for it.
    pub fn parse(kind: ChunkKind, bytes: Vec<u8>) -> Result<Self, BlockError> {
        Ok(match kind {
            ChunkKind::Head => Self::Head(Rc::new(Head::parse(&bytes)?)),
            ChunkKind::Partition => Self::Partition(Rc::new(Index::parse(&bytes)?)),
            ChunkKind::Filter => Self::Filter(Rc::new(bytes)),
            ChunkKind::Block => Self::Block(Rc::new(Block::parse(&bytes)?)),
            ChunkKind::Ranges => Self::Ranges(Rc::new(RangeSet::decode(&bytes)?)),
            ChunkKind::Dropped => Self::Dropped(Rc::new(DroppedSlots::parse(bytes)?)),
        })
    }

    /// What it was asked for as.
    pub fn kind(&self) -> ChunkKind {
        match self {
            Self::Head(_) => ChunkKind::Head,
            Self::Partition(_) => ChunkKind::Partition,
            Self::Filter(_) => ChunkKind::Filter,
            Self::Block(_) => ChunkKind::Block,
            Self::Ranges(_) => ChunkKind::Ranges,
            Self::Dropped(_) => ChunkKind::Dropped,
        }
    }

    /// Memory that it takes.
    pub fn memory_bytes(&self) -> usize {
        match self {
            Self::Head(head) => head.memory_bytes(),
            Self::Partition(partition) => partition.memory_bytes(),
            Self::Filter(filter) => filter.capacity(),
            Self::Block(block) => block.memory_bytes(),
            Self::Ranges(ranges) => ranges.memory_bytes(),
            Self::Dropped(dropped) => dropped.memory_bytes(),
        }
    }
}

/// A table, as the list of a run has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableRef {
    /// The object.
    pub object: ObjectId,
    /// Its length.
    pub bytes: u64,
    /// Its head.
    pub head: ListedChunk,
    /// What is before this has moved to another table.
    pub from: Key,
    /// What is at or behind this is not here.
    pub to: Option<Key>,
    /// What is in it.
    pub stats: TableStats,
    /// Its dropped slots.
    pub dropped: Dropped,
}

impl TableRef {
    /// Whether `key` would be here.
    pub fn has(&self, key: &[u8]) -> bool {
        *self.from <= *key && self.to.as_ref().is_none_or(|to| *key < **to)
    }

    /// Whether something in it may be newer than that.
    pub fn has_newer_than(&self, since: Option<Timestamp>) -> bool {
        since.is_none_or(|since| self.stats.greatest_timestamp > since)
    }

    /// Whether keys of `db` would be here.
    pub fn may_have_of(&self, db: DatabaseIndex) -> bool {
        let behind = self.to.as_ref().is_none_or(|to| **to > [db.0][..]);
        behind && self.from.first().is_none_or(|first| *first <= db.0)
    }
}

/// Whether the slots that a table lists as dropped are free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dropped {
    /// Not yet; or it lists none.
    Pending,
    /// They are.
    Swept,
}

/// Where the blocks of a part of a table are.
pub type Partition = Index<1>;

macro_rules! chunk_getters {
    ($($name:ident: $kind:ident -> $type:ty;)*) => {
        $(fn $name<S: ChunkSource>(
            source: &S,
            table: ObjectId,
            chunk: &ListedChunk,
            ahead: u32,
        ) -> Result<Rc<$type>, Missing> {
            match source.chunk(table, chunk, ChunkKind::$kind, ahead)? {
                Cached::$kind(chunk) => Ok(chunk),
                _ => unreachable!("a source has what it is asked for"),
            }
        })*
    };
}

chunk_getters! {
    get_head: Head -> Head;
    get_partition: Partition -> Partition;
    get_filter: Filter -> Vec<u8>;
    get_block: Block -> Block;
    get_ranges: Ranges -> RangeSet;
}

/// The range deletes of a table.
pub struct TableRanges<'t, S> {
    /// The table.
    pub table: &'t TableRef,
    /// What has its chunks.
    pub source: &'t S,
}

impl<S: ChunkSource> Covering for TableRanges<'_, S> {
    fn covering_until(
        &self,
        key: &[u8],
        at: Timestamp,
        until: &mut Vec<u8>,
    ) -> Result<(Option<Timestamp>, bool), Missing> {
        let table = self.table;
        let head = get_head(self.source, table.object, &table.head, 0)?;
        let mut newest = None;
        let mut bound: Option<Vec<u8>> = None;
        let mut shorten = |key: &[u8]| {
            if bound.as_ref().is_none_or(|bound| key < &bound[..]) {
                bound = Some(key.to_vec());
            }
        };
        for part in head.ranges() {
            if part.ends_before(key) {
                continue;
            }
            if part.from() > key {
                shorten(part.from());
                break;
            }
            let ranges = get_ranges(self.source, table.object, part.chunk(), 0)?;
            let (covering, until) = ranges.covering_until(key, at);
            newest = newest.max(covering);
            if let Some(until) = until {
                shorten(until);
            }
        }
        if let Some(to) = &table.to {
            shorten(to);
        }
        until.clear();
        until.extend_from_slice(bound.as_deref().unwrap_or_default());
        Ok((newest, bound.is_some()))
    }
}

#[cfg(test)]
pub(crate) mod tests;

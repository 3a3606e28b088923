//! Makes tables: versions go in, in order, and chunks come out.

use alloc::vec::Vec;
use core::ops::Range;

use lfs::CHUNK_HEAD_BYTES_MAX;

use super::head::{Head, RangesRef, TableStats, put_slots};
use super::{CHUNK_BYTES_MAX, ChunkKind, ChunkSink, PARTITION_BLOCKS, put_ref};
use crate::Timestamp;
use crate::engine::block::BlockBuilder;
use crate::engine::filter::{build_filter, key_hash};
use crate::engine::range_set::RangeSet;
use crate::engine::types::{
    ChunkRef, Content, NEVER, OutOfMemory, Piece, VersionRef, shared_bytes,
};

/// Bytes of a data block before compression, unless one entry has more.
const BLOCK_BYTES: usize = 4096;

/// Bytes of an index from which on it is full, whatever the number of its entries. One more entry always fits.
const INDEX_BYTES: usize = 48 << 10;

/// Bytes of the index of partitions from which on partitions are as large as they can be: a single key with very many
/// versions is one table.
const LARGE_HEAD_BYTES: usize = 32 << 10;

/// Bytes of the index of partitions, at most; the rest of the head is small.
const HEAD_INDEX_BYTES_MAX: usize = CHUNK_BYTES_MAX - (16 << 10);

/// Blocks in a row that compression does not make smaller, from which on only one of so many is tried: until one is smaller.
const IN_VAIN: u32 = 4;
const TRIED_OF: u32 = 8;

/// Bytes of a chunk of dropped slots from which on there is another one.
const DROPPED_CHUNK_BYTES: usize = 32 << 10;

/// Dropped ranges from which on a table is full: they are in memory until it is finished.
const DROPPED_MAX: usize = 65_536;

/// Bytes of a dropped range, about.
const DROPPED_RANGE_BYTES: usize = 6;

/// Bytes of a head without its lists.
const HEAD_BYTES: usize = 256;

/// What came of a version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pushed {
    /// It is in.
    Taken,
    /// It is not: this table is full, and to be finished first.
    Full,
}

/// What a finished table says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableSummary {
    /// Its head.
    pub head: ChunkRef,
    /// What is in it.
    pub stats: TableStats,
}

/// A table that is being made. After an error it is to be given up, with its object.
pub struct TableBuilder {
    compress: bool,
    /// Blocks in a row that compression has not made smaller.
    in_vain: u32,
    head: Head,
    block: BlockBuilder,
    /// From where on what is sought is in `block`.
    block_from: Position,
    partition: BlockBuilder,
    partition_from: Position,
    /// Blocks of `partition`.
    blocks: usize,
    hashes: Vec<u64>,
    partitions: BlockBuilder,
    last_key: Vec<u8>,
    dropped: Vec<Range<u64>>,
    reserved: usize,
    chunk: Vec<u8>,
}

/// A place in the order of versions.
struct Position {
    key: Vec<u8>,
    timestamp: Timestamp,
}

impl Position {
    fn set(&mut self, key: &[u8], timestamp: Timestamp) {
        self.key.clear();
        self.key.extend_from_slice(key);
        self.timestamp = timestamp;
    }
}

impl TableBuilder {
    /// An empty table. Nobody should be able to guess `hash_seed`.
    pub fn new(hash_seed: u64, compress: bool) -> Self {
        let from = || Position {
            key: Vec::new(),
            timestamp: Timestamp(u64::MAX),
        };
        Self {
            compress,
            in_vain: 0,
            head: Head {
                hash_seed,
                ..Head::default()
            },
            block: BlockBuilder::new(),
            block_from: from(),
            partition: BlockBuilder::new(),
            partition_from: from(),
            blocks: 0,
            hashes: Vec::new(),
            partitions: BlockBuilder::new(),
            last_key: Vec::new(),
            dropped: Vec::new(),
            reserved: 0,
            chunk: Vec::new(),
        }
    }

    /// Keeps so many bytes of the table's room free for range deletes.
    pub fn reserve_bytes(&mut self, bytes: usize) {
        self.reserved = bytes;
    }

    /// Adds a version, which comes behind those that are there. All versions of a key are in one table, so none but the
    /// first one of a key finds it full. The first of all never does.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn push(
        &mut self,
        sink: &mut impl ChunkSink,
        key: &[u8],
        version: &VersionRef<'_>,
    ) -> Result<Pushed, OutOfMemory> {
        let is_new = self.head.stats.entries == 0 || self.last_key != key;
        let entry_bytes = key.len() + version.content.bytes().len() + 24;
        if is_new && self.head.stats.entries > 0 && !self.has_room(sink, key, entry_bytes) {
            return Ok(Pushed::Full);
        }
        if !self.block.is_empty() && self.block.bytes() + entry_bytes > BLOCK_BYTES {
            self.end_block(sink)?;
            if is_new {
                let from = separator(&self.last_key, key);
                self.block_from.set(from, Timestamp(u64::MAX));
            } else {
                self.block_from.set(key, version.timestamp);
            }
        }
        self.block.push(key, version)?;
        if is_new || self.hashes.is_empty() {
            self.hashes.try_reserve(1)?;
            self.hashes.push(key_hash(self.head.hash_seed, key));
        }
        self.head.stats.note(key, version);
        if version.expires_at_ms != NEVER {
            self.note_expiring(key)?;
        }
        if is_new {
            self.last_key.clear();
            self.last_key.try_reserve(key.len())?;
            self.last_key.extend_from_slice(key);
        }
        Ok(Pushed::Taken)
    }

    /// The key of the last version.
    pub fn last_key(&self) -> &[u8] {
        &self.last_key
    }

    /// Whether there is nothing that a table would be needed for, but range deletes.
    pub fn is_empty(&self) -> bool {
        self.head.stats.entries == 0 && self.dropped.is_empty()
    }

    /// Lists pieces that were given up.
    ///
    /// # Errors
    /// There is no memory for them.
    pub fn drop_pieces(&mut self, pieces: &[Piece]) -> Result<(), OutOfMemory> {
        for piece in pieces {
            self.drop_slots(piece.slot..piece.slot + piece.slots())?;
        }
        Ok(())
    }

    /// Lists slots that a table that is merged away had listed, and that are not free yet.
    ///
    /// # Errors
    /// There is no memory for them.
    pub fn drop_slots(&mut self, slots: Range<u64>) -> Result<(), OutOfMemory> {
        self.dropped.try_reserve(1)?;
        self.dropped.push(slots);
        Ok(())
    }

    /// Whether it lists so many dropped slots that it is full.
    pub fn lists_many(&self) -> bool {
        self.dropped.len() > DROPPED_MAX
    }

    /// It is written with this floor.
    pub fn set_floor(&mut self, floor: Timestamp) {
        self.head.stats.floor = floor;
    }

    /// Counts bytes that are kept for history alone, and were followed by something at `ended`.
    pub fn note_history(&mut self, bytes: u64, ended: Timestamp) {
        let stats = &mut self.head.stats;
        stats.history_bytes += bytes;
        if ended > stats.floor {
            stats.retained_bytes += bytes;
        }
    }

    /// Ends the table, which has what is between `from` and `to`: of `ranges` it takes what is there.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn finish(
        mut self,
        sink: &mut impl ChunkSink,
        from: &[u8],
        to: Option<&[u8]>,
        ranges: &RangeSet,
    ) -> Result<TableSummary, OutOfMemory> {
        if !self.block.is_empty() {
            self.end_block(sink)?;
        }
        if !self.partition.is_empty() {
            self.end_partition(sink)?;
        }
        let head = &mut self.head;
        ranges.encode(from, to, |chunk| {
            let decoded = RangeSet::decode(chunk).map_err(|_| OutOfMemory)?;
            let at = sink.put(ChunkKind::Ranges, chunk)?;
            let start = decoded.iter().next().map_or(&[][..], |range| range.start);
            let end = decoded
                .iter()
                .map(|range| range.end)
                .max()
                .unwrap_or_default();
            for range in decoded.iter() {
                head.stats.note_time(range.timestamp);
            }
            head.stats.range_deletes += decoded.len() as u64;
            head.ranges.try_reserve(1)?;
            head.ranges.push(RangesRef::new(at, start, end));
            Ok::<_, OutOfMemory>(())
        })?;
        self.put_dropped(sink)?;
        let mut partitions = Vec::new();
        if !self.partitions.is_empty() {
            self.partitions.finish(self.compress, &mut partitions)?;
        }
        self.chunk.clear();
        self.head.encode(&partitions, &mut self.chunk)?;
        Ok(TableSummary {
            head: sink.put(ChunkKind::Head, &self.chunk)?,
            stats: self.head.stats,
        })
    }

    /// Whether an entry fits into the table, with all that is to come behind it.
    fn has_room(&self, sink: &impl ChunkSink, key: &[u8], entry_bytes: usize) -> bool {
        // Separators that may still become entries of the head.
        let separators = [&self.partition_from.key, &self.block_from.key, key];
        let index = self.partitions.bytes() + self.partitions.growth(&separators);
        if index > HEAD_INDEX_BYTES_MAX || self.lists_many() {
            return false;
        }
        let block = self.block.bytes() + entry_bytes;
        let filter = 64 + self.hashes.len() * 3 / 2;
        let partition = self.partition.bytes() + self.block_from.key.len() + 24;
        let head = HEAD_BYTES + index;
        let dropped = self.dropped.len() * DROPPED_RANGE_BYTES;
        // One of them may have to go on in the next segment, and leaves some of this one empty.
        let gap = block
            .max(filter)
            .max(partition)
            .max(head)
            .min(CHUNK_BYTES_MAX);
        let needed = block + filter + partition + head + dropped + self.reserved + gap;
        (needed + 8 * CHUNK_HEAD_BYTES_MAX) as u64 <= sink.room()
    }

    fn end_block(&mut self, sink: &mut impl ChunkSink) -> Result<(), OutOfMemory> {
        self.chunk.clear();
        let is_tried = self.in_vain < IN_VAIN || self.in_vain.is_multiple_of(TRIED_OF);
        let is_smaller = self
            .block
            .finish(self.compress && is_tried, &mut self.chunk)?;
        self.in_vain = if is_smaller {
            0
        } else {
            self.in_vain.saturating_add(1)
        };
        let at = sink.put(ChunkKind::Block, &self.chunk)?;
        if self.partition.is_empty() {
            core::mem::swap(&mut self.partition_from.key, &mut self.block_from.key);
            self.partition_from.timestamp = self.block_from.timestamp;
            push_refs(&mut self.partition, &self.partition_from, &[at])?;
        } else {
            push_refs(&mut self.partition, &self.block_from, &[at])?;
        }
        self.blocks += 1;
        let is_full = self.blocks >= PARTITION_BLOCKS && self.partitions.bytes() < LARGE_HEAD_BYTES;
        if is_full || self.partition.bytes() > INDEX_BYTES {
            self.end_partition(sink)?;
        }
        Ok(())
    }

    fn end_partition(&mut self, sink: &mut impl ChunkSink) -> Result<(), OutOfMemory> {
        self.chunk.clear();
        build_filter(&mut self.hashes, &mut self.chunk)?;
        let filter = sink.put(ChunkKind::Filter, &self.chunk)?;
        self.chunk.clear();
        self.partition.finish(self.compress, &mut self.chunk)?;
        let partition = sink.put(ChunkKind::Partition, &self.chunk)?;
        push_refs(
            &mut self.partitions,
            &self.partition_from,
            &[partition, filter],
        )?;
        self.hashes.clear();
        self.blocks = 0;
        Ok(())
    }

    fn put_dropped(&mut self, sink: &mut impl ChunkSink) -> Result<(), OutOfMemory> {
        self.dropped.sort_unstable_by_key(|slots| slots.start);
        self.chunk.clear();
        let (mut end, mut ranges) = (0, self.dropped.iter().cloned().peekable());
        while let Some(mut slots) = ranges.next() {
            // Those that meet are one.
            while let Some(next) = ranges.next_if(|next| next.start <= slots.end) {
                slots.end = slots.end.max(next.end);
            }
            self.chunk.try_reserve(20)?;
            put_slots(&mut self.chunk, end, &slots);
            end = slots.end;
            self.head.stats.dropped_slots += slots.end - slots.start;
            if self.chunk.len() >= DROPPED_CHUNK_BYTES || ranges.peek().is_none() {
                self.head.dropped.try_reserve(1)?;
                self.head
                    .dropped
                    .push(sink.put(ChunkKind::Dropped, &self.chunk)?);
                self.chunk.clear();
                end = 0;
            }
        }
        Ok(())
    }

    fn note_expiring(&mut self, key: &[u8]) -> Result<(), OutOfMemory> {
        let db = key.first().copied().unwrap_or_default();
        match self.head.expiring.last_mut() {
            Some((last, count)) if *last == db => *count += 1,
            _ => {
                self.head.expiring.try_reserve(1)?;
                self.head.expiring.push((db, 1));
            }
        }
        Ok(())
    }
}

fn push_refs(
    index: &mut BlockBuilder,
    from: &Position,
    refs: &[ChunkRef],
) -> Result<(), OutOfMemory> {
    let mut bytes = Vec::new();
    bytes.try_reserve(20 * refs.len())?;
    for chunk in refs {
        put_ref(&mut bytes, *chunk);
    }
    index.push(
        &from.key,
        &VersionRef {
            timestamp: from.timestamp,
            expires_at_ms: NEVER,
            below: false,
            content: Content::Inline(&bytes),
        },
    )
}

/// The shortest key that is behind `last` and not behind `next`: where a table ends whose next one begins with `next`.
pub fn separator<'k>(last: &[u8], next: &'k [u8]) -> &'k [u8] {
    next.get(..=shared_bytes(last, next)).unwrap_or(next)
}

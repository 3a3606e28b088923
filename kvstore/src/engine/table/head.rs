//! The head of a table: what is in it, and where.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::ops::Range;

use super::{CHUNK_BYTES_MAX, Index, ListedChunk, put_ref, take_ref};
use crate::Timestamp;
use crate::engine::types::{
    BlockError, ChunkRef, Content, Malformed, NEVER, OutOfMemory, SLOT_COUNT, VersionRef,
};
use crate::engine::varint::{
    put_varint, take_array, take_bytes, take_len, take_varint, unzigzag, zigzag,
};

const VERSION: u8 = 2;

/// Bytes of the bounds of a chunk of range deletes, at most: they may be too wide, but not too long.
pub(super) const BOUND_BYTES_MAX: usize = 32;

/// No number or sum of bytes of a table's statistics is greater: those of all tables can be added up. Who would have more says this.
pub const STATISTIC_MAX: u64 = 1 << 40;

/// What is in a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableStats {
    /// Versions, tombstones among them.
    pub entries: u64,
    /// Versions that say there is nothing.
    pub tombstones: u64,
    /// Values that expire.
    pub expiring: u64,
    /// Range deletes.
    pub range_deletes: u64,
    /// Bytes of keys, once for each version.
    pub key_bytes: u64,
    /// Bytes of inline values.
    pub inline_bytes: u64,
    /// Bytes of large values that versions name, whoever owns them.
    pub large_bytes: u64,
    /// Bytes of keys and values that are kept for history alone; of large values what the version owns.
    pub history_bytes: u64,
    /// Of these, bytes of what was followed behind the floor, so that not only pins keep it.
    pub retained_bytes: u64,
    /// The floor when the table was written.
    pub floor: Timestamp,
    /// Dropped slots that are listed.
    pub dropped_slots: u64,
    /// The oldest version or range delete.
    pub least_timestamp: Timestamp,
    /// The newest one.
    pub greatest_timestamp: Timestamp,
    /// The soonest expiry, or [`NEVER`].
    pub least_expiry_ms: i64,
    /// The latest expiry, or the least number there is.
    pub greatest_expiry_ms: i64,
}

impl Default for TableStats {
    fn default() -> Self {
        Self {
            entries: 0,
            tombstones: 0,
            expiring: 0,
            range_deletes: 0,
            key_bytes: 0,
            inline_bytes: 0,
            large_bytes: 0,
            history_bytes: 0,
            retained_bytes: 0,
            floor: Timestamp(0),
            dropped_slots: 0,
            least_timestamp: Timestamp(u64::MAX),
            greatest_timestamp: Timestamp(0),
            least_expiry_ms: NEVER,
            greatest_expiry_ms: i64::MIN,
        }
    }
}

impl TableStats {
    /// Counts a version in.
    pub(super) fn note(&mut self, key: &[u8], version: &VersionRef<'_>) {
        self.entries += 1;
        self.key_bytes += key.len() as u64;
        self.note_time(version.timestamp);
        match version.content {
            Content::Tombstone => self.tombstones += 1,
            Content::Inline(value) => self.inline_bytes += value.len() as u64,
            Content::Large(large) => self.large_bytes += u64::from(large.total()),
        }
        if version.expires_at_ms != NEVER {
            self.expiring += 1;
            self.least_expiry_ms = self.least_expiry_ms.min(version.expires_at_ms);
            self.greatest_expiry_ms = self.greatest_expiry_ms.max(version.expires_at_ms);
        }
    }

    pub(super) fn note_time(&mut self, timestamp: Timestamp) {
        self.least_timestamp = self.least_timestamp.min(timestamp);
        self.greatest_timestamp = self.greatest_timestamp.max(timestamp);
    }

    /// Appends them, as a head and a manifest have them.
    pub(in crate::engine) fn encode(&self, out: &mut Vec<u8>) {
        for number in self.numbers() {
            put_varint(out, number);
        }
    }

    fn numbers(&self) -> [u64; 15] {
        [
            self.entries.min(STATISTIC_MAX),
            self.tombstones.min(STATISTIC_MAX),
            self.expiring.min(STATISTIC_MAX),
            self.range_deletes.min(STATISTIC_MAX),
            self.key_bytes.min(STATISTIC_MAX),
            self.inline_bytes.min(STATISTIC_MAX),
            self.large_bytes.min(STATISTIC_MAX),
            self.history_bytes.min(STATISTIC_MAX),
            self.retained_bytes.min(STATISTIC_MAX),
            self.floor.0,
            self.dropped_slots.min(STATISTIC_MAX),
            self.least_timestamp.0,
            self.greatest_timestamp.0,
            zigzag(self.least_expiry_ms),
            zigzag(self.greatest_expiry_ms),
        ]
    }

    /// Takes them off the front of `bytes`.
    pub(in crate::engine) fn decode(bytes: &mut &[u8]) -> Option<Self> {
        fn take(bytes: &mut &[u8]) -> Option<u64> {
            take_varint(bytes).filter(|number| *number <= STATISTIC_MAX)
        }
        Some(Self {
            entries: take(bytes)?,
            tombstones: take(bytes)?,
            expiring: take(bytes)?,
            range_deletes: take(bytes)?,
            key_bytes: take(bytes)?,
            inline_bytes: take(bytes)?,
            large_bytes: take(bytes)?,
            history_bytes: take(bytes)?,
            retained_bytes: take(bytes)?,
            floor: Timestamp(take_varint(bytes)?),
            dropped_slots: take(bytes)?,
            least_timestamp: Timestamp(take_varint(bytes)?),
            greatest_timestamp: Timestamp(take_varint(bytes)?),
            least_expiry_ms: unzigzag(take_varint(bytes)?),
            greatest_expiry_ms: unzigzag(take_varint(bytes)?),
        })
    }
}

/// A chunk of range deletes, and bounds of what they cover, which may be too wide.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RangesRef {
    chunk: ListedChunk,
    from: Box<[u8]>,
    /// Empty: to the end.
    to: Box<[u8]>,
}

impl RangesRef {
    /// For ranges that begin at `start` or behind, and none of which ends behind `end`.
    pub(super) fn new(at: ChunkRef, start: &[u8], end: &[u8]) -> Self {
        let short = start.get(..BOUND_BYTES_MAX).unwrap_or(start);
        Self {
            chunk: at.into(),
            from: short.into(),
            to: short_bound_behind(end).into(),
        }
    }

    /// The chunk.
    pub fn chunk(&self) -> &ListedChunk {
        &self.chunk
    }

    /// None of them begins before this.
    pub fn from(&self) -> &[u8] {
        &self.from
    }

    /// Whether none of them covers `key` or what is behind it.
    pub fn ends_before(&self, key: &[u8]) -> bool {
        !self.to.is_empty() && *self.to <= *key
    }
}

/// A short key at or behind `key`; empty if there is none.
fn short_bound_behind(key: &[u8]) -> Vec<u8> {
    if key.len() <= BOUND_BYTES_MAX {
        return key.to_vec();
    }
    let mut bound = key
        .iter()
        .copied()
        .take(BOUND_BYTES_MAX)
        .collect::<Vec<_>>();
    while let Some(last) = bound.pop() {
        if let Some(next) = last.checked_add(1) {
            bound.push(next);
            break;
        }
    }
    bound
}

/// The head of a table, in memory.
#[derive(Debug, Default)]
pub struct Head {
    pub(super) hash_seed: u64,
    pub(super) stats: TableStats,
    /// How many values of each database expire.
    pub(super) expiring: Vec<(u8, u64)>,
    pub(super) ranges: Vec<RangesRef>,
    pub(super) dropped: Vec<ChunkRef>,
    /// Where partitions and their filters are. Without any, there are no entries.
    pub(super) partitions: Option<Rc<Index<2>>>,
}

impl Head {
    /// What is in the table.
    pub fn stats(&self) -> &TableStats {
        &self.stats
    }

    /// The seed of hashes in its filters.
    pub fn hash_seed(&self) -> u64 {
        self.hash_seed
    }

    /// The databases of which something here expires, and how many values.
    pub fn expiring(&self) -> &[(u8, u64)] {
        &self.expiring
    }

    /// Where its range deletes are, in the order of their starts.
    pub fn ranges(&self) -> &[RangesRef] {
        &self.ranges
    }

    /// Where its dropped slots are, in order.
    pub fn dropped(&self) -> &[ChunkRef] {
        &self.dropped
    }

    /// Memory that it takes.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.expiring.capacity() * size_of::<(u8, u64)>()
            + self.ranges.capacity() * (size_of::<RangesRef>() + 2 * BOUND_BYTES_MAX)
            + self.dropped.capacity() * size_of::<ChunkRef>()
            + self
                .partitions
                .as_ref()
                .map_or(0, |index| index.memory_bytes())
    }

    /// Appends the head to `out`; `partitions` is the block of its index as it is stored, or empty.
    pub(super) fn encode(&self, partitions: &[u8], out: &mut Vec<u8>) -> Result<(), OutOfMemory> {
        let ranges = self.ranges.len() * (20 + 2 * BOUND_BYTES_MAX);
        let lists = ranges + self.dropped.len() * 20 + self.expiring.len() * 11;
        out.try_reserve(200 + lists + partitions.len())?;
        out.push(VERSION);
        out.extend_from_slice(&self.hash_seed.to_le_bytes());
        self.stats.encode(out);
        put_varint(out, self.expiring.len() as u64);
        for (db, count) in &self.expiring {
            out.push(*db);
            put_varint(out, *count);
        }
        put_varint(out, self.ranges.len() as u64);
        for part in &self.ranges {
            put_ref(out, part.chunk.at());
            for bound in [&part.from, &part.to] {
                put_varint(out, bound.len() as u64);
                out.extend_from_slice(bound);
            }
        }
        put_varint(out, self.dropped.len() as u64);
        for chunk in &self.dropped {
            put_ref(out, *chunk);
        }
        out.extend_from_slice(partitions);
        Ok(())
    }

    /// Takes in what [`encode`](Self::encode) made.
    ///
    /// # Errors
    /// The bytes are no head, or there is no memory for it.
    pub fn parse(bytes: &[u8]) -> Result<Self, BlockError> {
        if bytes.len() > CHUNK_BYTES_MAX {
            return Err(Malformed.into());
        }
        let mut rest = bytes;
        let [version] = take_array(&mut rest).ok_or(Malformed)?;
        if version != VERSION {
            return Err(Malformed.into());
        }
        let mut head = Self {
            hash_seed: u64::from_le_bytes(take_array(&mut rest).ok_or(Malformed)?),
            stats: TableStats::decode(&mut rest).ok_or(Malformed)?,
            ..Self::default()
        };
        take_list(&mut rest, &mut head.expiring, 2, |rest| {
            let [db] = take_array(rest)?;
            Some((db, take_varint(rest)?))
        })?;
        take_list(&mut rest, &mut head.ranges, 4, |rest| {
            let chunk = take_ref(rest)?.into();
            let mut bound = || {
                let len = take_len(rest).filter(|len| *len <= BOUND_BYTES_MAX)?;
                take_bytes(rest, len)
            };
            let (from, to) = (bound()?, bound()?);
            Some(RangesRef {
                chunk,
                from: from.into(),
                to: to.into(),
            })
        })?;
        take_list(&mut rest, &mut head.dropped, 2, take_ref)?;
        if !rest.is_empty() {
            head.partitions = Some(Rc::new(Index::parse(rest)?));
        }
        Ok(head)
    }
}

/// Takes a count and so many items, each of at least `least` bytes, so no count reserves more than there can be.
fn take_list<T>(
    bytes: &mut &[u8],
    list: &mut Vec<T>,
    least: usize,
    take: impl Fn(&mut &[u8]) -> Option<T>,
) -> Result<(), BlockError> {
    let count = take_len(bytes).ok_or(Malformed)?;
    if count > bytes.len() / least {
        return Err(Malformed.into());
    }
    list.try_reserve_exact(count).map_err(OutOfMemory::from)?;
    for _ in 0..count {
        list.push(take(bytes).ok_or(Malformed)?);
    }
    Ok(())
}

/// Slots of the value file that nobody needs, as a table lists them: ranges in order that do not meet.
#[derive(Debug)]
pub struct DroppedSlots(Vec<u8>);

impl DroppedSlots {
    /// Takes in a chunk of them.
    ///
    /// # Errors
    /// The bytes are none.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, Malformed> {
        let (mut rest, mut end) = (&bytes[..], 0);
        while !rest.is_empty() {
            end = take_slots(&mut rest, end).ok_or(Malformed)?.end;
        }
        Ok(Self(bytes))
    }

    /// The ranges.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        let (mut rest, mut end) = (&self.0[..], 0);
        core::iter::from_fn(move || {
            let slots = take_slots(&mut rest, end)?;
            end = slots.end;
            Some(slots)
        })
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.0.capacity()
    }
}

/// Appends a range that lies behind `end`, where the one before ended.
pub(super) fn put_slots(out: &mut Vec<u8>, end: u64, slots: &Range<u64>) {
    put_varint(out, slots.start - end);
    put_varint(out, slots.end - slots.start);
}

fn take_slots(bytes: &mut &[u8], end: u64) -> Option<Range<u64>> {
    let start = end.checked_add(take_varint(bytes)?)?;
    let len = take_varint(bytes).filter(|len| *len > 0)?;
    let end = start.checked_add(len).filter(|end| *end <= SLOT_COUNT)?;
    Some(start..end)
}

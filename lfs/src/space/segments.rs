//! The segment table: what each segment holds, how much of it is still meant, and which are free.
//!
//! Invariants: `live_bytes` of a segment is the sum of what the trees' extents and nodes, or the object that
//! owns it, account for in it. A segment is only free again once a durable checkpoint refers to nothing in it:
//! until then the checkpoint before it, or the log after that, may still be read.
//!
//! It alone knows how many segments there are at the moment ([`Segments::count`]), which grows.
//!
//! Bound: 64 bytes of memory per segment.

use alloc::borrow::Cow;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use zerocopy::{FromBytes, IntoBytes};

use crate::disk::layout::{
    NUMBER_MAX, SEAL_AT, SEAL_BYTES, SegmentLayout, TABLE_MAGIC, TableLayout,
};
use crate::disk::superblock::{Reserves, SegmentId, Superblock, TABLE_ENTRIES};
use crate::seal::{Purpose, Vault};
use crate::{BlockIndex, Buffer};

/// What a segment holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum SegmentKind {
    Free = 0,
    /// Commit groups.
    Log = 1,
    /// Extents that the cleaner moved.
    Survivors = 2,
    /// Tree nodes.
    Nodes = 3,
    /// Chunks of an object.
    Object = 4,
}

impl SegmentKind {
    fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Free,
            1 => Self::Log,
            2 => Self::Survivors,
            3 => Self::Nodes,
            4 => Self::Object,
            _ => return None,
        })
    }
}

/// Losses by which is told how fast a segment loses: with fewer chance decides, more tell of times long gone.
const LOSSES: u64 = 8;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment {
    pub kind: SegmentKind,
    pub live_bytes: u32,
    /// When its content was new, in blocks of log.
    pub written_at: u64,
    /// Of survivors, how often they have survived, less one.
    pub generation: u8,
    /// Something is still being written to it, or the log needs it for replay: not to be cleaned or freed.
    pub pinned: bool,
    /// When something in it was last no longer meant, in blocks of log. Only in memory.
    lost_at: u64,
    /// How long its last few losses took, in blocks of log: of each, an older one counts less. Only in memory.
    losses_took: u64,
}

impl Segment {
    /// A segment with this content, of that age.
    pub(crate) fn new(kind: SegmentKind, written_at: u64) -> Self {
        Self {
            kind,
            written_at,
            lost_at: written_at,
            ..FREE
        }
    }

    /// How long it has taken for its last few losses by `now`: the longer, the less it loses. What it has lost in one group counts
    /// once.
    pub(crate) fn calm(&self, now: u64) -> u64 {
        self.losses_took + now.saturating_sub(self.lost_at)
    }

    fn note_loss(&mut self, now: u64) {
        if self.lost_at < now {
            self.losses_took = self.calm(now) - self.losses_took / LOSSES;
            self.lost_at = now;
        }
    }

    /// Whether nothing in it is meant and nobody holds it.
    fn is_emptied(&self) -> bool {
        !self.pinned
            && self.live_bytes == 0
            && !matches!(self.kind, SegmentKind::Free | SegmentKind::Object)
    }

    /// Whether nothing in it is meant but what replay may need.
    pub(crate) fn is_only_log(&self) -> bool {
        self.pinned && self.live_bytes == 0 && self.kind == SegmentKind::Log
    }

    fn is_objects(&self) -> bool {
        self.kind == SegmentKind::Object
    }

    /// Whether the cleaner could make it empty.
    pub(crate) fn is_cleanable(&self) -> bool {
        !self.pinned
            && self.live_bytes > 0
            && matches!(
                self.kind,
                SegmentKind::Log | SegmentKind::Survivors | SegmentKind::Nodes
            )
    }
}

const FREE: Segment = Segment {
    kind: SegmentKind::Free,
    live_bytes: 0,
    written_at: 0,
    generation: 0,
    pinned: false,
    lost_at: 0,
    losses_took: 0,
};

#[derive(Clone)]
pub(crate) struct Segments {
    table: Vec<Segment>,
    /// How often each segment was taken or given up since the mount.
    uses: Vec<u32>,
    segment_bytes: u64,
    reserves: Reserves,
    free: u32,
    /// The clock of segments: blocks of log ever written.
    clock: u64,
    /// Where the next search begins: allocation goes round the disk, which spreads wear.
    cursor: u32,
    /// Live bytes of all segments.
    live_bytes: u64,
    /// Segments that a checkpoint would free.
    emptied: u32,
    /// Segments of the log in which nothing is meant, which replay may need.
    only_log: u32,
    /// Segments of objects.
    of_objects: u32,
    /// Segments that the cleaner could make empty, and their live bytes.
    cleanable: u32,
    cleanable_live_bytes: u64,
    /// Blocks of the table that changed since they were last written, by index.
    changed: Vec<bool>,
    /// Which home of each table block is in force.
    homes: Vec<u8>,
    /// While a checkpoint is being written: by how much live bytes changed since it was frozen.
    since_freeze: Option<BTreeMap<SegmentId, i64>>,
}

/// A table block as a checkpoint will write it.
pub(crate) struct TableBlock {
    pub index: u32,
    pub block: BlockIndex,
    pub buffer: Buffer,
}

impl Segments {
    /// `count` segments, all free. `None` without enough memory: a disk may say what it likes about its size.
    pub(crate) fn new(superblock: &Superblock, count: u32) -> Option<Self> {
        let table_blocks = superblock.table_blocks as usize;
        let mut homes = Vec::new();
        homes.try_reserve_exact(table_blocks).ok()?;
        homes.resize(table_blocks, 0);
        let mut changed = Vec::new();
        changed.try_reserve_exact(table_blocks).ok()?;
        changed.resize(table_blocks, false);
        let mut segments = Self {
            table: Vec::new(),
            uses: Vec::new(),
            segment_bytes: superblock.segment_bytes() as u64,
            reserves: superblock.reserves(0),
            free: 0,
            clock: 0,
            cursor: 0,
            live_bytes: 0,
            emptied: 0,
            only_log: 0,
            of_objects: 0,
            cleanable: 0,
            cleanable_live_bytes: 0,
            changed,
            homes,
            since_freeze: None,
        };
        if !segments.make_room(count) {
            return None;
        }
        segments.prepare_growth(count);
        segments.grow(superblock, count);
        Some(segments)
    }

    /// Makes sure that [`grow`](Self::grow) to `count` segments needs no memory; false without.
    #[must_use]
    pub(crate) fn make_room(&mut self, count: u32) -> bool {
        let more = (count as usize).saturating_sub(self.table.len());
        self.table.try_reserve_exact(more).is_ok() && self.uses.try_reserve_exact(more).is_ok()
    }

    /// The checkpoint that is being written says that there are `count` segments: the blocks of the table which describe the
    /// new ones may never have been written. That they are free is what a block says where it says nothing.
    pub(crate) fn prepare_growth(&mut self, count: u32) {
        let (first, end) = (self.count() / TABLE_ENTRIES, count.div_ceil(TABLE_ENTRIES));
        self.mark_changed(first..end);
    }

    /// A durable checkpoint says that there are `count` segments: the new ones are free. Never fewer than before.
    pub(crate) fn grow(&mut self, superblock: &Superblock, count: u32) {
        let more = count.saturating_sub(self.count());
        if more > 0 {
            self.table.resize(count as usize, FREE);
            self.uses.resize(count as usize, 0);
            self.free += more;
            self.reserves = superblock.reserves(count);
        }
    }

    /// How free segments are divided, as many as there are.
    pub(crate) fn reserves(&self) -> Reserves {
        self.reserves
    }

    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.table.len()).unwrap_or(u32::MAX)
    }

    /// Free segments.
    pub(crate) fn free(&self) -> u32 {
        self.free
    }

    /// Bytes that are meant in all segments together.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    pub(crate) fn get(&self, segment: SegmentId) -> Option<&Segment> {
        self.table.get(segment.0 as usize)
    }

    /// All segments with their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (SegmentId, &Segment)> {
        (0..).map(SegmentId).zip(&self.table)
    }

    /// Which use of the segment with the byte at `address` this is. What was read while it was another one may
    /// be anything.
    pub(crate) fn use_of(&self, superblock: &Superblock, address: u64) -> u32 {
        let segment = superblock.segment_of(address);
        let number = segment.and_then(|segment| self.uses.get(segment.0 as usize));
        number.copied().unwrap_or(0)
    }

    /// Nothing is meant in a segment any more, and what it holds is about to be gone.
    pub(crate) fn end_use(&mut self, id: SegmentId) {
        if let Some(number) = self.uses.get_mut(id.0 as usize) {
            *number = number.wrapping_add(1);
        }
    }

    /// Takes a free segment, pinned.
    pub(crate) fn allocate(&mut self, kind: SegmentKind, written_at: u64) -> Option<SegmentId> {
        if self.free == 0 {
            return None;
        }
        let (cursor, end) = (self.cursor as usize, self.table.len());
        let found = (cursor..end).chain(0..cursor).find(|&at| {
            self.table
                .get(at)
                .is_some_and(|segment| segment.kind == SegmentKind::Free)
        })?;
        let segment = SegmentId(u32::try_from(found).ok()?);
        self.cursor = (segment.0 + 1) % self.count().max(1);
        self.claim(segment, kind, written_at).then_some(segment)
    }

    /// Takes this segment, pinned. False when it does not exist or is not free.
    #[must_use]
    pub(crate) fn claim(&mut self, id: SegmentId, kind: SegmentKind, written_at: u64) -> bool {
        if self
            .get(id)
            .is_none_or(|segment| segment.kind != SegmentKind::Free)
        {
            return false;
        }
        self.update(id, |segment| {
            *segment = Segment {
                pinned: true,
                ..Segment::new(kind, written_at)
            };
        });
        self.free -= 1;
        self.end_use(id);
        if kind == SegmentKind::Object {
            self.add_live(id, self.segment_bytes);
        }
        self.touch(id);
        true
    }

    /// Gives a segment back at once: nothing that is durable refers to it.
    pub(crate) fn release(&mut self, id: SegmentId) {
        let Some(segment) = self.get(id).filter(|s| s.kind != SegmentKind::Free) else {
            return;
        };
        self.live_bytes -= u64::from(segment.live_bytes);
        self.update(id, |segment| *segment = FREE);
        self.free += 1;
        self.touch(id);
        if let Some(since) = &mut self.since_freeze {
            // What it held is no part of what it will hold.
            since.remove(&id);
        }
    }

    /// Pins a segment or lets it go.
    pub(crate) fn set_pinned(&mut self, id: SegmentId, pinned: bool) {
        self.update(id, |segment| segment.pinned = pinned);
    }

    /// Moves the clock on that losses are noted by.
    pub(crate) fn set_clock(&mut self, log_blocks: u64) {
        self.clock = log_blocks;
    }

    /// Sets a segment's age and how often its content has survived.
    pub(crate) fn set_age(&mut self, id: SegmentId, written_at: u64, generation: u8) {
        self.update(id, |segment| {
            segment.written_at = written_at;
            (segment.lost_at, segment.losses_took) = (written_at, 0);
            segment.generation = generation;
        });
        self.touch(id);
    }

    fn update(&mut self, id: SegmentId, change: impl FnOnce(&mut Segment)) {
        if let Some(mut segment) = self.table.get(id.0 as usize).copied() {
            self.uncount(&segment);
            change(&mut segment);
            self.count_in(&segment);
            if let Some(place) = self.table.get_mut(id.0 as usize) {
                *place = segment;
            }
        }
    }

    fn count_in(&mut self, segment: &Segment) {
        self.emptied += u32::from(segment.is_emptied());
        self.only_log += u32::from(segment.is_only_log());
        self.of_objects += u32::from(segment.is_objects());
        if segment.is_cleanable() {
            self.cleanable += 1;
            self.cleanable_live_bytes += u64::from(segment.live_bytes);
        }
    }

    fn uncount(&mut self, segment: &Segment) {
        self.emptied -= u32::from(segment.is_emptied());
        self.only_log -= u32::from(segment.is_only_log());
        self.of_objects -= u32::from(segment.is_objects());
        if segment.is_cleanable() {
            self.cleanable -= 1;
            self.cleanable_live_bytes -= u64::from(segment.live_bytes);
        }
    }

    /// Counts `bytes` in a segment as meant.
    pub(crate) fn add_live(&mut self, id: SegmentId, bytes: u64) {
        self.set_live(id, |live| live.saturating_add(bytes));
    }

    /// Counts `bytes` in a segment as no longer meant.
    pub(crate) fn remove_live(&mut self, id: SegmentId, bytes: u64) {
        let clock = self.clock;
        if let Some(segment) = self.table.get_mut(id.0 as usize) {
            segment.note_loss(clock);
        }
        self.set_live(id, |live| live.saturating_sub(bytes));
    }

    fn set_live(&mut self, id: SegmentId, change: impl FnOnce(u64) -> u64) {
        let Some(before) = self.get(id).map(|segment| segment.live_bytes) else {
            return;
        };
        // More than there is room for is only counted where what is stored contradicts itself, and no table may say so.
        let after = change(u64::from(before)).min(self.segment_bytes);
        let after = u32::try_from(after).unwrap_or(u32::MAX);
        self.update(id, |segment| segment.live_bytes = after);
        self.live_bytes = self.live_bytes + u64::from(after) - u64::from(before);
        if let Some(since) = &mut self.since_freeze {
            *since.entry(id).or_default() += i64::from(after) - i64::from(before);
        }
        self.touch(id);
    }

    /// How many segments a checkpoint would free.
    pub(crate) fn emptied_count(&self) -> u32 {
        self.emptied
    }

    /// How many segments of the log hold nothing that is meant, those included that it has only decided on.
    pub(crate) fn only_log_count(&self) -> u32 {
        self.only_log
    }

    /// Bytes that nobody needs any more in segments which the cleaner could make empty.
    pub(crate) fn garbage_bytes(&self) -> u64 {
        (u64::from(self.cleanable) * self.segment_bytes).saturating_sub(self.cleanable_live_bytes)
    }

    /// How many segments objects take: also those being written, and those that nothing names any longer.
    pub(crate) fn of_objects(&self) -> u32 {
        self.of_objects
    }

    /// Segments in which nothing is meant and that nobody holds: free once a checkpoint that begins
    /// now is durable.
    pub(crate) fn emptied(&self) -> Vec<SegmentId> {
        self.iter()
            .filter_map(|(id, segment)| segment.is_emptied().then_some(id))
            .collect()
    }

    /// From here on until [`thaw`](Self::thaw), the table is written as it is now: what trees gain and lose
    /// meanwhile belongs to the next checkpoint.
    pub(crate) fn freeze(&mut self) {
        self.since_freeze = Some(BTreeMap::new());
    }

    /// The checkpoint is made, or given up.
    pub(crate) fn thaw(&mut self) {
        for (id, _) in self.since_freeze.take().unwrap_or_default() {
            self.touch(id);
        }
    }

    /// Counts bytes that the checkpoint being written puts into a segment itself, or takes back (negative).
    pub(crate) fn add_frozen(&mut self, id: SegmentId, bytes: i64) {
        let since = self.since_freeze.take();
        if bytes >= 0 {
            self.add_live(id, bytes.unsigned_abs());
        } else {
            self.remove_live(id, bytes.unsigned_abs());
        }
        self.since_freeze = since;
    }

    fn touch(&mut self, id: SegmentId) {
        if let Some(changed) = self.changed.get_mut((id.0 / TABLE_ENTRIES) as usize) {
            *changed = true;
        }
    }

    /// Which home of each block of the table is in force.
    pub(crate) fn homes(&self) -> &[u8] {
        &self.homes
    }

    /// The blocks of the table that changed, as they are now, each for its other home; `None` without
    /// memory for them. `as_free`: segments to be written as free. The blocks count as unchanged from here on:
    /// when they do not become durable, [`mark_changed`](Self::mark_changed) them.
    pub(crate) fn changed_blocks(
        &mut self,
        superblock: &Superblock,
        vault: &Vault,
        sequence: u64,
        as_free: &[SegmentId],
    ) -> Option<Vec<TableBlock>> {
        for &id in as_free {
            self.touch(id);
        }
        let mut blocks = Vec::new();
        let changed = (0..).zip(&self.changed).filter(|(_, changed)| **changed);
        for (index, _) in changed {
            let home = self.homes.get(index as usize).copied().unwrap_or(0) ^ 1;
            let block = superblock.table_block(index, home);
            let mut buffer = Buffer::zeroed(1).ok()?;
            self.encode_block(superblock, index, block, sequence, as_free, &mut buffer);
            vault.close(Purpose::SegmentTable, buffer.bytes_mut(), SEAL_AT);
            blocks.push(TableBlock {
                index,
                block,
                buffer,
            });
        }
        self.changed.fill(false);
        Some(blocks)
    }

    /// These blocks did not become durable.
    pub(crate) fn mark_changed(&mut self, indexes: impl Iterator<Item = u32>) {
        for index in indexes {
            if let Some(changed) = self.changed.get_mut(index as usize) {
                *changed = true;
            }
        }
    }

    /// The homes when the other one of each of `indexes` is in force.
    pub(crate) fn homes_with(&self, indexes: impl Iterator<Item = u32>) -> Vec<u8> {
        let mut homes = self.homes.clone();
        for index in indexes {
            if let Some(home) = homes.get_mut(index as usize) {
                *home ^= 1;
            }
        }
        homes
    }

    /// A checkpoint with these homes is durable.
    pub(crate) fn set_homes(&mut self, homes: Vec<u8>) {
        self.homes = homes;
    }

    /// Sets what the table says of a segment, whatever it said before. For repairs of a table that nobody uses.
    pub(crate) fn restore(&mut self, id: SegmentId, segment: Segment) {
        if let Some(place) = self.table.get_mut(id.0 as usize) {
            *place = segment;
        }
    }

    /// Block `index` as it is to be written at `own`; `None` without memory.
    pub(crate) fn encoded_block(
        &self,
        superblock: &Superblock,
        vault: &Vault,
        index: u32,
        own: BlockIndex,
        sequence: u64,
    ) -> Option<Buffer> {
        let mut buffer = Buffer::zeroed(1).ok()?;
        self.encode_block(superblock, index, own, sequence, &[], &mut buffer);
        vault.close(Purpose::SegmentTable, buffer.bytes_mut(), SEAL_AT);
        Some(buffer)
    }

    fn encode_block(
        &self,
        superblock: &Superblock,
        index: u32,
        own: BlockIndex,
        sequence: u64,
        as_free: &[SegmentId],
        buffer: &mut Buffer,
    ) {
        let layout = TableLayout {
            magic: TABLE_MAGIC,
            checksum: 0.into(),
            filesystem_id: superblock.id.0,
            own_block: own.0.into(),
            seal: [0; SEAL_BYTES],
            index: index.into(),
            reserved: [0; 4],
            sequence: sequence.into(),
            reserved_too: [0; 8],
        };
        let first = index * TABLE_ENTRIES;
        let entries = self
            .table
            .get(first as usize..)
            .unwrap_or_default()
            .iter()
            .take(TABLE_ENTRIES as usize);
        let bytes = buffer.bytes_mut();
        let (head, rest) = bytes.split_at_mut(size_of::<TableLayout>());
        head.copy_from_slice(layout.as_bytes());
        let places = rest.chunks_exact_mut(size_of::<SegmentLayout>());
        for ((id, segment), place) in (first..).map(SegmentId).zip(entries).zip(places) {
            let segment = if as_free.binary_search(&id).is_ok() {
                &FREE
            } else {
                segment
            };
            let since = self.since_freeze.as_ref().and_then(|since| since.get(&id));
            let live = i64::from(segment.live_bytes) - since.copied().unwrap_or(0);
            let live = match segment.kind {
                SegmentKind::Free => 0,
                _ => u32::try_from(live.max(0)).unwrap_or(u32::MAX),
            };
            let layout = SegmentLayout {
                kind: segment.kind as u8,
                generation: segment.generation,
                reserved: [0; 2],
                live_bytes: live.into(),
                written_at: segment.written_at.into(),
            };
            place.copy_from_slice(layout.as_bytes());
        }
    }

    /// Takes over block `index` of the table as read from its home in force; false when it is not valid. To be
    /// used on a table that is all free.
    #[must_use]
    pub(crate) fn load_block(
        &mut self,
        superblock: &Superblock,
        vault: &Vault,
        index: u32,
        home: u8,
        bytes: &[u8],
    ) -> bool {
        let Some(opened) = opened(superblock, vault, index, home, bytes) else {
            return false;
        };
        let rest = opened.get(size_of::<TableLayout>()..).unwrap_or_default();
        let first = index * TABLE_ENTRIES;
        let count = self.table.len().saturating_sub(first as usize);
        let entries = rest.chunks_exact(size_of::<SegmentLayout>());
        let entries = entries.take(count.min(TABLE_ENTRIES as usize));
        let segment_bytes = self.segment_bytes;
        let decode = |entry: &[u8]| {
            let entry = SegmentLayout::ref_from_bytes(entry).ok()?;
            let kind = SegmentKind::from_number(entry.kind)?;
            let (live_bytes, written_at) = (entry.live_bytes.get(), entry.written_at.get());
            let possible = u64::from(live_bytes) <= segment_bytes
                && (kind != SegmentKind::Free || live_bytes == 0)
                && written_at < NUMBER_MAX;
            possible.then(|| Segment {
                live_bytes,
                generation: entry.generation,
                ..Segment::new(kind, written_at)
            })
        };
        // All of them, or none: there may be another copy.
        if entries.clone().any(|entry| decode(entry).is_none()) {
            return false;
        }
        for (id, found) in (first..).zip(entries.filter_map(decode)) {
            self.update(SegmentId(id), |segment| *segment = found);
            self.live_bytes += u64::from(found.live_bytes);
            self.free -= u32::from(found.kind != SegmentKind::Free);
        }
        if let (Some(changed), Some(at)) = (
            self.changed.get_mut(index as usize),
            self.homes.get_mut(index as usize),
        ) {
            *changed = false;
            *at = home;
        }
        true
    }
}

/// Whether `bytes` are a valid block `index` of the table in home `home`.
pub(crate) fn is_table_block(
    superblock: &Superblock,
    vault: &Vault,
    index: u32,
    home: u8,
    bytes: &[u8],
) -> bool {
    opened(superblock, vault, index, home, bytes).is_some()
}

/// Block `index` of the table as read from home `home`, with its seal opened, if it is that.
fn opened<'b>(
    superblock: &Superblock,
    vault: &Vault,
    index: u32,
    home: u8,
    bytes: &'b [u8],
) -> Option<Cow<'b, [u8]>> {
    let own = superblock.table_block(index, home);
    let (layout, _) = TableLayout::ref_from_prefix(bytes).ok()?;
    if layout.magic != TABLE_MAGIC
        || layout.filesystem_id != superblock.id.0
        || layout.own_block.get() != own.0
    {
        return None;
    }
    let opened = vault.opened(Purpose::SegmentTable, bytes, SEAL_AT)?;
    let (layout, _) = TableLayout::ref_from_prefix(&opened).ok()?;
    (layout.index.get() == index).then_some(opened)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_the_calmer_the_longer_it_takes_to_lose_as_much() {
        let calm_after = |step: u64| {
            let mut segment = Segment::new(SegmentKind::Log, 1000);
            for loss in 1..=60 {
                segment.note_loss(1000 + loss * step);
                segment.note_loss(1000 + loss * step);
            }
            (segment, 1000 + 60 * step)
        };
        for step in [10, 1000] {
            let (segment, now) = calm_after(step);
            let calm = segment.calm(now);
            assert!(
                (step * (LOSSES - 1)..=step * (LOSSES + 1)).contains(&calm),
                "{calm}"
            );
            // One that loses nothing any more.
            assert_eq!(segment.calm(now + 500), calm + 500);
        }
        // As long as it has lost nothing, its age counts.
        assert_eq!(Segment::new(SegmentKind::Log, 1000).calm(1700), 700);
    }
    use crate::disk::superblock::tests::example;

    #[test]
    fn a_segment_is_claimed_once_and_must_exist() {
        let mut segments = Segments::new(&example(), 100).unwrap();
        assert!(segments.claim(SegmentId(1), SegmentKind::Log, 0));
        assert!(!segments.claim(SegmentId(1), SegmentKind::Log, 0));
        assert!(!segments.claim(SegmentId(100), SegmentKind::Log, 0));
        assert_eq!(segments.allocate(SegmentKind::Log, 0), Some(SegmentId(0)));
        assert_eq!(segments.allocate(SegmentKind::Log, 0), Some(SegmentId(2)));
        assert_eq!(segments.free(), 97);
    }

    #[test]
    fn the_table_survives_a_round_trip_and_no_flipped_bit() {
        let superblock = example();
        let vault = Vault::plain(superblock.id);
        let mut segments = Segments::new(&superblock, 100).unwrap();
        assert!(segments.claim(SegmentId(3), SegmentKind::Nodes, 77));
        segments.add_live(SegmentId(3), 4096);
        assert!(segments.claim(SegmentId(4), SegmentKind::Log, 78));
        let mut blocks = segments
            .changed_blocks(&superblock, &vault, 5, &[SegmentId(4)])
            .unwrap();
        assert!(
            segments
                .changed_blocks(&superblock, &vault, 6, &[])
                .unwrap()
                .is_empty()
        );
        let block = blocks.pop().unwrap();
        assert_eq!(block.block, superblock.table_block(0, 1));
        let mut read = Segments::new(&superblock, 100).unwrap();
        assert!(read.load_block(&superblock, &vault, 0, 1, block.buffer.bytes()));
        assert_eq!((read.free(), read.live_bytes()), (99, 4096));
        assert_eq!(read.get(SegmentId(3)).unwrap().written_at, 77);
        assert_eq!(read.homes(), [1]);
        let mut bytes = block.buffer.bytes().to_vec();
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            let mut read = Segments::new(&superblock, 100).unwrap();
            assert!(
                !read.load_block(&superblock, &vault, 0, 1, &bytes),
                "bit {bit}"
            );
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    /// Nodes that the checkpoint itself put there are in use, whatever was there since it was frozen.
    #[test]
    fn a_segment_given_up_and_taken_again_while_a_checkpoint_is_written_says_what_it_holds() {
        let superblock = example();
        let vault = Vault::plain(superblock.id);
        let mut segments = Segments::new(&superblock, 100).unwrap();
        assert!(segments.claim(SegmentId(1), SegmentKind::Object, 0));
        segments.freeze();
        assert!(segments.claim(SegmentId(2), SegmentKind::Object, 0));
        for id in [1, 2].map(SegmentId) {
            segments.release(id);
            assert!(segments.claim(id, SegmentKind::Nodes, 0));
            segments.add_frozen(id, 4096);
        }
        let mut blocks = segments
            .changed_blocks(&superblock, &vault, 5, &[])
            .unwrap();
        let block = blocks.pop().unwrap();
        let mut read = Segments::new(&superblock, 100).unwrap();
        assert!(read.load_block(&superblock, &vault, 0, 1, block.buffer.bytes()));
        for id in [1, 2].map(SegmentId) {
            assert_eq!(read.get(id).unwrap().live_bytes, 4096);
        }
        assert_eq!(read.emptied(), []);
    }

    #[test]
    fn no_segment_says_that_more_is_in_use_than_it_has() {
        let mut segments = Segments::new(&example(), 100).unwrap();
        assert!(segments.claim(SegmentId(1), SegmentKind::Log, 0));
        for _ in 0..3 {
            segments.add_live(SegmentId(1), 30_000);
        }
        let live = segments.get(SegmentId(1)).unwrap().live_bytes;
        assert_eq!(u64::from(live), segments.segment_bytes);
        assert_eq!(segments.live_bytes(), segments.segment_bytes);
    }

    #[test]
    fn what_is_empty_and_let_go_becomes_free_at_a_checkpoint() {
        let mut segments = Segments::new(&example(), 100).unwrap();
        for id in 0..3 {
            assert!(segments.claim(SegmentId(id), SegmentKind::Log, 0));
            segments.add_live(SegmentId(id), 100);
        }
        segments.set_pinned(SegmentId(0), false);
        segments.set_pinned(SegmentId(1), false);
        segments.remove_live(SegmentId(0), 100);
        segments.remove_live(SegmentId(2), 100);
        assert_eq!(segments.emptied(), [SegmentId(0)]);
    }
}

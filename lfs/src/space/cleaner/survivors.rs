//! Extents of victims that are still meant: how they are found, gathered, and moved to segments of survivors.
//!
//! Only what is meant moves: an extent that was overwritten here and there leaves as a survivor for each row of its units.
//! Of a compressed extent, of which rows cannot be cut, they are encoded anew when that saves at least an eighth.
//!
//! Bound: an extent at a time becomes survivors, at most one for each of its sixteen units; they are written when they
//! fill a group.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::ops::Range;

use crate::disk::read_checked;
use crate::disk::superblock::{SegmentId, Superblock};
use crate::extent::codec::{ExtentIdentity, UNIT, encode};
use crate::extent::{Algorithm, EXTENT_BYTES_MAX, Piece};
use crate::log::{
    Chain, ExtentRecord, FRAME_BYTES_MAX, GROUP_HEADER_BYTES, GroupHeader, GroupKind, OpenGroup,
    Part, RECORD_HEAD_BYTES_MAX, Record, capacity_bytes, framed_bytes, take_frame,
};
use crate::seal::Vault;
use crate::space::heads::{Head, SURVIVOR_HEADS};
use crate::space::segments::{Segment, SegmentKind};
use crate::transaction::{Loaded, after, extent_key};
use crate::tree::{Item, Key, TreeKind};
use crate::{
    BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, FileError, FileSystem, ItemKind, Structure,
};

const BLOCK: u64 = BLOCK_SIZE as u64;

/// Extents that are dealt with before others get a turn.
const EXTENTS_PER_TURN: usize = 16;

/// Blocks of a group of survivors, at most: what is written and named anew in one go, which commits may wait for.
const SURVIVOR_BLOCKS_MAX: u32 = 64;

/// An extent of a victim that is still meant, on its way.
pub(crate) struct Survivor {
    pub record: ExtentRecord,
    victim: SegmentId,
    /// See [`Piece::lasting`].
    lasting: bool,
    /// Where it was.
    pub from: u64,
    pub stored: Vec<u8>,
}

impl Survivor {
    /// Bytes it takes in a group at most.
    fn len_bytes(&self) -> usize {
        self.stored.len() + RECORD_HEAD_BYTES_MAX
    }
}

/// Blocks of a victim that were read, and begin at `start`: as many as the largest group has, since most are smaller.
#[derive(Default)]
struct ReadAhead {
    start: u64,
    blocks: Buffer,
}

impl ReadAhead {
    /// What there is of it from `block` on.
    fn from(&self, block: BlockIndex) -> &[u8] {
        let skipped = block.0.saturating_sub(self.start);
        let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
        let bytes = self.blocks.bytes();
        bytes
            .get(skipped.saturating_mul(BLOCK_SIZE)..)
            .unwrap_or_default()
    }
}

/// Survivors of one generation that wait for more of them.
#[derive(Default)]
pub(super) struct Pending {
    survivors: Vec<Survivor>,
    bytes: usize,
    /// The age of the youngest victim.
    written_at: u64,
}

/// A piece that names a stored extent.
struct Reference {
    tree: TreeKind,
    key: Key,
    birth: u64,
    piece: Piece,
}

impl<D: BlockDevice> FileSystem<D> {
    /// Copies what is still meant of the extents in a segment.
    pub(super) async fn clean_extents(
        &self,
        victim: SegmentId,
        segment: &Segment,
        dead: u64,
    ) -> Result<(), FileError> {
        let kind = match segment.kind {
            SegmentKind::Log => GroupKind::Commits,
            _ => GroupKind::Survivors,
        };
        let generation = match segment.kind {
            SegmentKind::Log => 0,
            _ => (usize::from(segment.generation) + 1).min(SURVIVOR_HEADS - 1),
        };
        let start = self.superblock.segment_start(victim).0;
        let end = start + u64::from(self.superblock.segment_blocks);
        let mut block = start;
        let mut ahead = ReadAhead::default();
        let (mut extents, mut bytes) = (0, 0);
        let mut credited = 0;
        // What is through counts at once: the largest group is what commits may be ahead by.
        let mut through_to = |block: u64| {
            let given = dead * (block - start) / (end - start);
            self.credit(given - credited);
            credited = given;
        };
        while block < end {
            self.checkpoint_first().await;
            let group = self.read_group(kind, BlockIndex(block), end, &mut ahead);
            let Some(group) = group.await? else {
                break;
            };
            let (header, buffer) = group;
            for (record, address) in extents_of(
                &self.superblock,
                &self.vault,
                &header,
                BlockIndex(block),
                buffer.bytes(),
            )? {
                let place = (victim, block);
                for mut survivor in self.survivors(place, &record, address, &buffer).await? {
                    // What replaces what had lasted goes to where such things are, and not to those that may be gone soon.
                    let lasting = segment.kind == SegmentKind::Log && survivor.lasting;
                    let generation = if lasting { 1 } else { generation };
                    if self.presses(generation) {
                        self.press(&mut survivor).await;
                    }
                    if self.keep(survivor, segment.written_at, generation) {
                        self.write_survivors(generation).await?;
                    }
                }
                extents += 1;
                bytes += u64::from(record.stored_len);
                if is_turn_over(extents) {
                    through_to(address / BLOCK);
                    self.take_turn_at_cleaning(core::mem::take(&mut bytes))
                        .await;
                }
            }
            block += u64::from(header.blocks());
            through_to(block);
            if self.is_ending() {
                return Err(FileError::ReadOnly);
            }
        }
        through_to(end);
        Ok(())
    }

    /// Keeps a survivor until it is written; true when there are enough for a group.
    fn keep(&self, survivor: Survivor, written_at: u64, generation: usize) -> bool {
        let state = &mut *self.cleaner.borrow_mut();
        let Some(pending) = state.pending.get_mut(generation) else {
            return false;
        };
        if let Some(left) = state.in_work.get_mut(&survivor.victim) {
            *left += 1;
        }
        pending.bytes += survivor.len_bytes();
        pending.written_at = pending.written_at.max(written_at);
        pending.survivors.push(survivor);
        pending.bytes >= capacity_bytes(self.survivor_blocks_max())
    }

    /// Blocks of a group of survivors, at most.
    fn survivor_blocks_max(&self) -> u32 {
        self.superblock.group_blocks_max().min(SURVIVOR_BLOCKS_MAX)
    }

    /// The group at `block`, whole; `None` where the segment's groups end.
    async fn read_group(
        &self,
        kind: GroupKind,
        block: BlockIndex,
        end: u64,
        ahead: &mut ReadAhead,
    ) -> Result<Option<(GroupHeader, Buffer)>, FileError> {
        if self.device.copies() > 1 {
            return self.read_group_alone(kind, block, end).await;
        }
        if ahead.from(block).is_empty() {
            let most = u64::from(self.superblock.group_blocks_max());
            let blocks = (end - block.0).min(most);
            let blocks = usize::try_from(blocks).unwrap_or(usize::MAX);
            match self.read_blocks(block, blocks).await {
                Ok(read) => (ahead.start, ahead.blocks) = (block.0, read),
                // It may be a block that nobody needs.
                Err(FileError::Device(_)) => return self.read_group_alone(kind, block, end).await,
                Err(error) => return Err(error),
            }
        }
        let there = ahead.from(block);
        let header = GroupHeader::decode(kind, self.superblock.id, block, there);
        let Some((header, _)) = header else {
            return Ok(None);
        };
        let blocks = header.blocks() as usize;
        if block.0 + blocks as u64 > end {
            return Ok(None);
        }
        let mut group = Buffer::zeroed(blocks).map_err(|_| FileError::OutOfMemory)?;
        let there = there.get(..blocks * BLOCK_SIZE).unwrap_or(there);
        let (first, rest) = group.bytes_mut().split_at_mut(there.len());
        first.copy_from_slice(there);
        if !rest.is_empty() {
            let start = block.0 + (there.len() / BLOCK_SIZE) as u64;
            let read = self.read_blocks(BlockIndex(start), rest.len() / BLOCK_SIZE);
            rest.copy_from_slice(read.await?.bytes());
        }
        Ok(Some((header, group)))
    }

    /// The same, and no other blocks; on a mirror, by a header that one copy has, with data from a copy that has them right, if there is one.
    async fn read_group_alone(
        &self,
        kind: GroupKind,
        block: BlockIndex,
        end: u64,
    ) -> Result<Option<(GroupHeader, Buffer)>, FileError> {
        let id = self.superblock.id;
        let decode = |bytes: &[u8]| GroupHeader::decode(kind, id, block, bytes).ok_or(());
        let first = Buffer::zeroed(1).map_err(|_| FileError::OutOfMemory)?;
        let (_, decoded) = read_checked(&self.device, block, first, decode).await;
        self.log
            .count(|counters| counters.bytes_cleaned_read += BLOCK_SIZE as u64);
        let Ok((header, _)) = decoded.map_err(FileError::Device)? else {
            return Ok(None);
        };
        if block.0 + u64::from(header.blocks()) > end {
            return Ok(None);
        }
        let buffer = self.read_blocks(block, header.blocks() as usize).await?;
        if self.device.copies() > 1 && !header.has_data(buffer.bytes()) {
            // Damage must not be moved while a copy has the data right.
            let again = Buffer::zeroed(buffer.len_blocks()).map_err(|_| FileError::OutOfMemory)?;
            let check = |bytes: &[u8]| header.has_data(bytes).then_some(()).ok_or(());
            if let (good, Ok(Ok(()))) = read_checked(&self.device, block, again, check).await {
                return Ok(Some((header, good)));
            }
        }
        Ok(Some((header, buffer)))
    }

    pub(super) async fn read_blocks(
        &self,
        start: BlockIndex,
        blocks: usize,
    ) -> Result<Buffer, FileError> {
        let buffer = Buffer::zeroed(blocks).map_err(|_| FileError::OutOfMemory)?;
        let (buffer, read) = self.device.read(start, buffer).await;
        self.log
            .count(|counters| counters.bytes_cleaned_read += (blocks * BLOCK_SIZE) as u64);
        read.map_err(FileError::Device)?;
        Ok(buffer)
    }

    /// What of a stored extent is still meant, cut out of the group that begins at `block`.
    async fn survivors(
        &self,
        (victim, block): (SegmentId, u64),
        record: &ExtentRecord,
        address: u64,
        group: &Buffer,
    ) -> Result<Vec<Survivor>, FileError> {
        let references = self.references_to(record, address).await?;
        let rows = rows_of(references.iter().map(|reference| &reference.piece));
        let start = usize::try_from(address - block * BLOCK).unwrap_or(usize::MAX);
        let stored = group
            .bytes()
            .get(start..start.saturating_add(record.stored_len as usize));
        let stored = stored.ok_or_else(|| damaged_at(address))?;
        let lasting = references.iter().all(|reference| reference.piece.lasting);
        let mut survivors = Vec::new();
        for (record, stored) in self.cut(record, address, stored, &rows)? {
            survivors.push(Survivor {
                record,
                victim,
                lasting,
                from: address,
                stored,
            });
        }
        Ok(survivors)
    }

    /// The rows of units `rows` of a stored extent, as extents of their own; all of it in one where that is no
    /// larger, or not to be had otherwise.
    fn cut(
        &self,
        record: &ExtentRecord,
        address: u64,
        stored: &[u8],
        rows: &[Range<u32>],
    ) -> Result<Vec<(ExtentRecord, Vec<u8>)>, FileError> {
        let whole = Piece::whole(record, address);
        let shape = whole.shape().ok_or_else(|| damaged_at(address))?;
        let units = rows.iter().map(|row| row.end - row.start).sum::<u32>();
        let spared = record.len.saturating_sub(units * UNIT);
        let compressed = shape.encoding().is_compressed();
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        if spared == 0 || compressed && spared < record.len / 8 {
            return Ok([(*record, stored.to_vec())].into());
        }
        let cut = |row: &Range<u32>| {
            let offset = record.offset + u64::from(row.start * UNIT);
            if compressed {
                return self.encode_row(record, &whole, stored, row);
            }
            let cut = shape.cut(row).ok_or_else(|| damaged_at(address))?;
            let moved = ExtentRecord {
                offset,
                len: cut.shape.len(),
                stored_len: cut.shape.stored_len(),
                unit_first: u32::from(cut.shape.first_unit()),
                ..*record
            };
            let bytes = cut.copy_from(stored).ok_or_else(|| damaged_at(address))?;
            Ok((moved, bytes))
        };
        rows.iter().map(cut).collect()
    }

    /// A row of units of a compressed extent, encoded as if it had been written by itself.
    fn encode_row(
        &self,
        record: &ExtentRecord,
        whole: &Piece,
        stored: &[u8],
        row: &Range<u32>,
    ) -> Result<(ExtentRecord, Vec<u8>), FileError> {
        let sealer = self.vault.sealer();
        let written = whole.identity(record.object, record.offset, record.birth);
        let bytes = u64::from(row.start * UNIT)..u64::from((row.end * UNIT).min(record.len));
        let offset = record.offset + bytes.start;
        let content = whole.read(sealer, written, stored, &bytes)?;
        let identity = ExtentIdentity { offset, ..written };
        let random = &mut |bytes: &mut [u8]| self.vault.draw(bytes);
        let encoded = encode(sealer, identity, &content, Algorithm::Lz4, random);
        let encoded = encoded.map_err(|_| FileError::OutOfMemory)?;
        let moved = ExtentRecord {
            offset,
            len: encoded.shape.len(),
            encoding: encoded.shape.encoding().number(),
            stored_len: encoded.shape.stored_len(),
            unit_first: 0,
            ..*record
        };
        Ok((moved, encoded.bytes))
    }

    /// The pieces that name the extent stored at `address`, or the part of it that `record` tells of.
    async fn references_to(
        &self,
        record: &ExtentRecord,
        address: u64,
    ) -> Result<Vec<Reference>, FileError> {
        let mut loaded = Loaded::default();
        loop {
            match self.find_references(record, address) {
                Ok(references) => return Ok(references),
                Err(FileError::Fault(fault)) => self.load(fault, &mut loaded).await?,
                Err(error) => return Err(error),
            }
        }
    }

    fn find_references(
        &self,
        record: &ExtentRecord,
        address: u64,
    ) -> Result<Vec<Reference>, FileError> {
        let volume = self.volume.borrow();
        let end = record.offset + u64::from(record.len);
        let mut references = Vec::new();
        let mut note = |tree, key: &Key, item: &Item| {
            if let Some(piece) = Piece::decode(&item.value)
                && piece.address == address
                && item.birth == record.birth
                && key.position >= record.offset
                && key.position.saturating_add(piece.len.into()) <= end
            {
                references.push(Reference {
                    tree,
                    key: *key,
                    birth: item.birth,
                    piece,
                });
            }
        };
        let mut next = volume.first_piece_over(record.object, record.offset)?;
        while let Some((key, item)) = next.filter(|(key, _)| key.position < end) {
            note(TreeKind::Live, &key, &item);
            next = volume.piece_from(&after(&key))?;
        }
        if volume.history.is_empty() {
            return Ok(references);
        }
        let reach = record.offset.saturating_sub(u64::from(EXTENT_BYTES_MAX));
        let mut from = extent_key(record.object, reach);
        while let Some((key, item)) = volume.history.first_from(&from)? {
            if key.object != record.object || key.kind != ItemKind::Extent || key.position >= end {
                break;
            }
            note(TreeKind::History, &key, &item);
            from = after(&key);
        }
        Ok(references)
    }

    /// Writes survivors as one group, as large as its segment has room for, and then lets the trees name them there;
    /// false when there were none.
    pub(super) async fn write_survivors(&self, generation: usize) -> Result<bool, FileError> {
        let (survivors, written_at) = self.take_pending(generation);
        if survivors.is_empty() {
            return Ok(false);
        }
        let (group, places) = self.gather_survivors(&survivors, written_at, generation)?;
        let blocks = group.len_blocks();
        let start = places.block;
        self.write(start, group)
            .await
            .map_err(|_| FileError::ReadOnly)?;
        self.log
            .count(|counters| counters.bytes_cleaned_written += (blocks * BLOCK_SIZE) as u64);
        self.cleaner.borrow_mut().spent_bytes += (blocks * BLOCK_SIZE) as u64;
        let mut bytes = 0;
        for (number, (survivor, address)) in survivors.iter().zip(places.addresses).enumerate() {
            bytes += u64::from(survivor.record.stored_len);
            if is_turn_over(number) {
                self.take_turn_at_cleaning(core::mem::take(&mut bytes))
                    .await;
            }
            // Of several victims: none of them is what could not be read.
            let moved = self.move_references(survivor, address).await;
            moved.map_err(|error| match error {
                FileError::Device(_) => FileError::ReadOnly,
                error => error,
            })?;
            self.done_with(survivor.victim);
        }
        Ok(true)
    }

    /// As many of the pending survivors as the next group takes.
    fn take_pending(&self, generation: usize) -> (Vec<Survivor>, u64) {
        let mut state = self.cleaner.borrow_mut();
        let heads = self.heads.borrow();
        let Some(pending) = state.pending.get_mut(generation) else {
            return (Vec::new(), 0);
        };
        let group_max = self.survivor_blocks_max();
        let left = match heads.survivors.get(generation) {
            Some(Some(head)) => self.superblock.segment_blocks - head.next_block,
            _ => group_max,
        };
        let fitting = |blocks: u32| {
            let room = capacity_bytes(blocks).saturating_sub(FRAME_BYTES_MAX);
            let mut bytes = 0;
            let fits = |survivor: &&Survivor| {
                bytes += survivor.len_bytes();
                bytes <= room
            };
            pending.survivors.iter().take_while(fits).count()
        };
        let count = match fitting(left.min(group_max)) {
            0 => fitting(group_max),
            count => count,
        };
        let taken = pending.survivors.drain(..count).collect::<Vec<_>>();
        pending.bytes -= taken.iter().map(Survivor::len_bytes).sum::<usize>();
        (taken, pending.written_at)
    }

    fn gather_survivors(
        &self,
        survivors: &[Survivor],
        written_at: u64,
        generation: usize,
    ) -> Result<(Buffer, Places), FileError> {
        let mut heads = Vec::new();
        let mut ends = Vec::new();
        for survivor in survivors {
            Record::Moved(survivor.record).encode_head(&mut heads);
            ends.push(heads.len());
        }
        let mut start = 0;
        let parts = ends
            .iter()
            .zip(survivors)
            .map(|(&end, survivor)| {
                let head = heads.get(start..end).unwrap_or_default();
                start = end;
                Part {
                    head,
                    body: &[],
                    data: &survivor.stored,
                }
            })
            .collect::<Vec<_>>();
        let blocks = (GROUP_HEADER_BYTES + framed_bytes(&parts)).div_ceil(BLOCK_SIZE);
        let blocks = u32::try_from(blocks).map_err(|_| FileError::OutOfMemory)?;
        let block = {
            let mut open = self.heads.borrow_mut();
            let head = open.survivors.get_mut(generation);
            let head = head.ok_or(FileError::Invalid)?;
            let fresh = head.is_none();
            let mut segments = self.segments.borrow_mut();
            let kind = (SegmentKind::Survivors, written_at);
            let before = head.map(|head| head.segment);
            let left = head.map_or(0, |head| self.superblock.segment_blocks - head.next_block);
            let leave = segments.reserves().segments_for_checkpoints();
            let taken = Head::take(head, &self.superblock, &mut segments, leave, kind, blocks);
            let (segment, block) = taken.ok_or(FileError::NoSpace)?;
            if fresh || before != Some(segment) {
                // What is left of the segment before is lost.
                self.cleaner.borrow_mut().spent_bytes += u64::from(left) * BLOCK;
                let generation = u8::try_from(generation).unwrap_or(u8::MAX);
                segments.set_age(segment, written_at, generation);
            }
            block
        };
        let out_of_memory = |_| FileError::OutOfMemory;
        let mut group =
            OpenGroup::new(block, blocks, Buffer::default(), 0, false).map_err(out_of_memory)?;
        group.reserve(&parts).map_err(out_of_memory)?;
        let mut addresses = Vec::new();
        group.add(&parts, |address| addresses.push(address));
        // Its place in the segment is taken already.
        group.keeps_length = true;
        let chain = Chain {
            sequence: 0,
            previous_checksum: 0,
            checkpoint: self.checkpoint_sequence.get(),
            next_segments: [None, None],
        };
        let (sealed, ..) = group.seal(GroupKind::Survivors, &self.vault, chain);
        Ok((sealed.buffer, Places { block, addresses }))
    }

    /// Lets every piece that names an extent name its copy at `address`.
    async fn move_references(&self, survivor: &Survivor, address: u64) -> Result<(), FileError> {
        let mut loaded = Loaded::default();
        loop {
            self.may_go_on().await;
            match self.try_move(survivor, address) {
                Ok(()) => return Ok(()),
                Err(FileError::Fault(fault)) => self.load(fault, &mut loaded).await?,
                Err(error) => return Err(error),
            }
        }
    }

    fn try_move(&self, survivor: &Survivor, address: u64) -> Result<(), FileError> {
        let record = &survivor.record;
        let references = self.find_references(record, survivor.from)?;
        let volume = &mut *self.volume.borrow_mut();
        for reference in &references {
            match reference.tree {
                TreeKind::Live => volume.live.prepare(&reference.key)?,
                TreeKind::History => volume.history.prepare(&reference.key)?,
            }
        }
        let segments = Rc::clone(&self.segments);
        let mut segments = segments.borrow_mut();
        for reference in references {
            let old = reference.piece;
            // A piece keeps its place in the file, whatever is stored of what surrounds it.
            let skip = reference.key.position.saturating_sub(record.offset);
            let moved = Piece {
                address,
                extent_len: record.len,
                stored_len: record.stored_len,
                encoding: record.encoding,
                unit_first: record.unit_first,
                skip: u32::try_from(skip).unwrap_or(u32::MAX),
                len: old.len,
                lasting: false,
            };
            for (piece, add) in [(&old, false), (&moved, true)] {
                let Some(segment) = self.superblock.segment_of(piece.address) else {
                    continue;
                };
                let share = u64::from(piece.stored_share());
                if add {
                    segments.add_live(segment, share);
                } else {
                    segments.remove_live(segment, share);
                }
            }
            let item = Item::new(reference.birth, &moved.encode());
            let tree = match reference.tree {
                TreeKind::Live => &mut volume.live,
                TreeKind::History => &mut volume.history,
            };
            let done = tree.put(reference.key, &item);
            debug_assert!(done.is_ok(), "prepared");
        }
        Ok(())
    }
}

/// Whether others go first after so many extents: the largest group has thousands of them.
fn is_turn_over(extents: usize) -> bool {
    extents.is_multiple_of(EXTENTS_PER_TURN)
}

/// The units of an extent that pieces of it show, as rows without gaps, in order.
fn rows_of<'p>(pieces: impl Iterator<Item = &'p Piece>) -> Vec<Range<u32>> {
    let units = |piece: &Piece| piece.skip / UNIT..(piece.skip + piece.len).div_ceil(UNIT);
    let mut shown = pieces.map(units).collect::<Vec<_>>();
    shown.sort_unstable_by_key(|units| units.start);
    let mut rows = Vec::<Range<u32>>::new();
    for units in shown {
        match rows.last_mut() {
            Some(row) if units.start <= row.end => row.end = row.end.max(units.end),
            _ => rows.push(units),
        }
    }
    rows
}

fn damaged_at(address: u64) -> FileError {
    FileError::Damaged {
        structure: Structure::Extent,
        block: BlockIndex(address / BLOCK),
    }
}

/// Where a group of survivors and its extents are.
struct Places {
    block: BlockIndex,
    addresses: Vec<u64>,
}

/// The stored extents that a group's records tell of, and where they are.
pub(crate) fn extents_of(
    superblock: &Superblock,
    vault: &Vault,
    header: &GroupHeader,
    block: BlockIndex,
    group: &[u8],
) -> Result<Vec<(ExtentRecord, u64)>, FileError> {
    let damaged = FileError::Damaged {
        structure: Structure::CommitGroup,
        block,
    };
    let parse = || {
        let opened = header.records(superblock, vault, block, group)?;
        let mut records = &opened[..];
        let mut extents = Vec::new();
        let mut start = block.0 * BLOCK + GROUP_HEADER_BYTES as u64;
        let data_end = start + u64::from(header.data_len);
        let mut commit = header.first_commit;
        while !records.is_empty() {
            let (mut own, data_len) = take_frame(&mut records)?;
            let mut address = start;
            while let Some(record) = Record::take(&mut own, commit).ok()? {
                let (Record::Write(extent) | Record::Moved(extent)) = record else {
                    continue;
                };
                extents.push((extent, address));
                address += u64::from(extent.stored_len);
            }
            start += data_len;
            if address > start || start > data_end {
                return None;
            }
            commit += 1;
        }
        Some(extents)
    };
    parse().ok_or(damaged)
}

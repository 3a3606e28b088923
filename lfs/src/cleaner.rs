//! The cleaner: makes segments empty that are mostly not meant any more (DESIGN.md, "Cleaner").
//!
//! A victim's extents that are still meant are copied to a segment of survivors, tree nodes are written anew by the next
//! checkpoint; after a checkpoint the victim is free. Copying needs no log record: until the checkpoint is
//! durable the old place holds, and replay of commits does not depend on where data are.
//!
//! Victims are chosen by what they bring and how old they are. What has survived more often goes to segments of
//! its own, so that old data are not copied along with young.
//!
//! Bounds: one group is in memory at a time, read and written. Whoever waits for space waits for at most four times as
//! many bytes to be freed as it writes, not for a victim to be done (see [`FileSystem::pace`]).

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::rc::Rc;
use alloc::vec::Vec;

use crate::copies::read_checked;
use crate::extent::{EXTENT_BYTES_MAX, Piece};
use crate::gather::{Chain, FRAME_BYTES_MAX, OpenGroup, Part, capacity_bytes, framed_bytes};
use crate::group::{GROUP_HEADER_BYTES, GroupHeader, GroupKind};
use crate::heads::{Head, SURVIVOR_HEADS};
use crate::record::{ExtentRecord, RECORD_HEAD_BYTES_MAX, Record};
use crate::replay::take_frame;
use crate::seal::Vault;
use crate::segments::{Segment, SegmentKind};
use crate::superblock::{SegmentId, Superblock};
use crate::tree::{Item, Key, NodeHeader, TreeKind, inspect};
use crate::volume::{after, extent_key};
use crate::write_set::Loaded;
use crate::{
    BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, Clock, Fault, FileError, FileSystem, ItemKind,
    Structure,
};

const BLOCK: u64 = BLOCK_SIZE as u64;

/// Blocks of a segment of nodes that are read at once.
const NODE_BLOCKS_AT_ONCE: u32 = 32;

/// A segment is worth cleaning when at least this part of it, one in so many, could be used better.
const WORTH_ONE_IN: u32 = 16;

/// Steps between segments that are few and hardly any.
const PACE_STEPS: u64 = 64;

/// What the cleaner remembers.
#[derive(Default)]
pub(crate) struct CleanerState {
    /// Segments that could not be cleaned: what is in them is damaged and stays where it is.
    refused: BTreeSet<SegmentId>,
    /// Segments of nodes whose nodes the next checkpoint writes elsewhere.
    awaiting: BTreeSet<SegmentId>,
    /// Victims, and what is left to do with each: survivors to be written, and one more while it is gone through.
    in_work: BTreeMap<SegmentId, usize>,
    /// Survivors to be written, by generation.
    pending: [Pending; SURVIVOR_HEADS],
    /// Bytes that were made free since the mount, credited as the cleaner goes through a victim.
    pub freed_bytes: u64,
    /// Bytes that commits took since segments became few, and more than that where they are very few.
    pub taken_bytes: u64,
    /// Bytes that the victims of this run gave.
    pub given_bytes: u64,
    /// Bytes that their survivors took.
    pub spent_bytes: u64,
    /// Whether it last found nothing to gain, or could not go on: then it is not worth waiting for.
    pub in_vain: bool,
}

/// An extent of a victim that is still meant, on its way.
pub(crate) struct Survivor {
    pub record: ExtentRecord,
    victim: SegmentId,
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

/// Survivors of one generation that wait for more of them.
#[derive(Default)]
struct Pending {
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
    pub(crate) async fn clean_loop(&self, clock: &impl Clock) {
        loop {
            self.changed
                .until(|| {
                    let wanted = self.wants_cleaning() || self.wants_room_for_objects();
                    (self.is_ending() || wanted).then_some(())
                })
                .await;
            if self.is_ending() {
                return;
            }
            let cleaned = self.clean_some().await;
            self.cleaner.borrow_mut().in_vain = cleaned != Ok(true);
            self.log.nudge();
            match cleaned {
                Ok(true) => {}
                // Nothing to gain before something changes.
                Ok(false) => {
                    let pressing = self.wants_cleaning();
                    self.pause(clock, if pressing { 50 } else { 1000 }).await;
                }
                Err(_) if self.is_ending() => return,
                Err(_) => self.pause(clock, 50).await,
            }
            self.log.nudge();
            embassy_futures::yield_now().await;
        }
    }

    /// Cleans until there are enough segments, and writes all survivors; false when there was nothing to gain.
    async fn clean_some(&self) -> Result<bool, FileError> {
        {
            let mut state = self.cleaner.borrow_mut();
            (state.given_bytes, state.spent_bytes) = (0, 0);
        }
        let cleaned = self.clean_victims().await;
        let mut state = self.cleaner.borrow_mut();
        // Survivors can take what their victims gave.
        let cleaned = cleaned.map(|()| state.given_bytes > state.spent_bytes);
        // Of those that something kept from being cleaned.
        for victim in core::mem::take(&mut state.in_work).into_keys() {
            self.segments.borrow_mut().set_pinned(victim, false);
        }
        state.pending = Default::default();
        cleaned
    }

    /// Of what is to be done with a victim, one thing is. When it was the last, the victim is let go.
    fn done_with(&self, victim: SegmentId) {
        let mut state = self.cleaner.borrow_mut();
        let Some(left) = state.in_work.get_mut(&victim) else {
            return;
        };
        *left -= 1;
        if *left > 0 {
            return;
        }
        state.in_work.remove(&victim);
        let mut segments = self.segments.borrow_mut();
        segments.set_pinned(victim, false);
        // All survivors are written: what is still meant is told of by no group there.
        let of_extents = |kind| matches!(kind, SegmentKind::Log | SegmentKind::Survivors);
        let left = segments.get(victim);
        if left.is_some_and(|s| of_extents(s.kind) && s.live_bytes > 0) {
            state.refused.insert(victim);
        }
    }

    async fn clean_victims(&self) -> Result<(), FileError> {
        while (self.wants_more_cleaning() || self.wants_room_for_objects()) && !self.is_ending() {
            let Some((victim, segment)) = self.pick_victim() else {
                break;
            };
            let dead = self.superblock.segment_bytes() as u64 - u64::from(segment.live_bytes);
            // It may become empty on the way, and must not be used anew under the cleaner's eyes.
            self.segments.borrow_mut().set_pinned(victim, true);
            self.cleaner.borrow_mut().in_work.insert(victim, 1);
            let cleaned = match segment.kind {
                SegmentKind::Nodes => self.clean_nodes(victim, dead).await,
                _ => self.clean_extents(victim, &segment, dead).await,
            };
            match cleaned {
                Ok(()) => {
                    self.log.count(|counters| counters.segments_cleaned += 1);
                    let nodes = segment.kind == SegmentKind::Nodes;
                    let live = if nodes { segment.live_bytes } else { 0 };
                    let given = self.superblock.segment_bytes() as u64 - u64::from(live);
                    self.cleaner.borrow_mut().given_bytes += given;
                }
                Err(FileError::Damaged { .. }) => {
                    self.cleaner.borrow_mut().refused.insert(victim);
                }
                Err(error) => return Err(error),
            }
            self.done_with(victim);
            self.log.nudge();
        }
        for generation in 0..SURVIVOR_HEADS {
            while self.write_survivors(generation).await? {}
        }
        Ok(())
    }

    /// Whether free segments, and those that the next checkpoint frees, are few.
    pub(crate) fn wants_cleaning(&self) -> bool {
        self.segments.borrow().free() + self.segments_coming() < self.reserves().segments_few()
    }

    /// Whether the cleaner goes on once it has begun: several victims at once fill the groups of their survivors.
    fn wants_more_cleaning(&self) -> bool {
        self.segments.borrow().free() + self.segments_coming() < self.reserves().segments_low()
    }

    /// Whether free segments are fewer than were promised to objects. Commits do not wait for these.
    pub(crate) fn wants_room_for_objects(&self) -> bool {
        let promised = self.segments_promised();
        let wanted = self.reserves().segments_low() + promised;
        promised > 0 && self.segments.borrow().free() + self.segments_coming() < wanted
    }

    /// Whether the cleaner last found nothing to gain.
    pub(crate) fn cleans_in_vain(&self) -> bool {
        self.cleaner.borrow().in_vain
    }

    /// Whether there is no room, and none will come by itself.
    pub(crate) fn is_full(&self) -> bool {
        self.cleans_in_vain()
            && self.wants_cleaning()
            && !self.log.has_room()
            && !self.log.wants_checkpoint()
            && self.segments_coming() == 0
    }

    /// Segments that the next checkpoint frees, or the one after it: of the log's, it lets go at the first.
    pub(crate) fn segments_coming(&self) -> u32 {
        let state = self.cleaner.borrow();
        let count = |count| u32::try_from(count).unwrap_or(u32::MAX);
        let in_work = count(state.in_work.len());
        // What the cleaner is at may be among the log's.
        let of_log = if self.layer_pins_log() {
            0
        } else {
            self.log.segments_only_log().saturating_sub(in_work)
        };
        let emptied = self.segments.borrow().emptied_count();
        emptied + of_log + count(state.awaiting.len()) + in_work
    }

    /// A checkpoint is in force that was frozen when these nodes were already on their way elsewhere.
    pub(crate) fn forget_awaiting(&self, moved: &BTreeSet<SegmentId>) {
        let mut state = self.cleaner.borrow_mut();
        state.awaiting.retain(|segment| !moved.contains(segment));
    }

    /// Segments of nodes that a checkpoint frozen now will empty.
    pub(crate) fn awaiting(&self) -> BTreeSet<SegmentId> {
        self.cleaner.borrow().awaiting.clone()
    }

    /// The segment that brings most for what it costs: (1 - u) · √age / (1 + u). The root keeps old segments that
    /// are nearly full from being copied again and again.
    fn pick_victim(&self) -> Option<(SegmentId, Segment)> {
        let scarce = self.scarcity() > PACE_STEPS / 2;
        let segments = self.segments.borrow();
        let state = self.cleaner.borrow();
        let now = self.log.log_blocks();
        let size = u64::try_from(self.superblock.segment_bytes()).unwrap_or(u64::MAX);
        let score = |segment: &Segment| {
            let live = u64::from(segment.live_bytes).min(size);
            // Where there is hardly room to work in, what brings most comes first.
            let age = if scarce {
                1
            } else {
                now.saturating_sub(segment.written_at) + 1
            };
            u128::from(size - live) * u128::from(age.isqrt()) * 1024 / u128::from(size + live)
        };
        let full = self.superblock.segment_capacity_bytes();
        let worth = |segment: &Segment| {
            u64::from(segment.live_bytes) + size / u64::from(WORTH_ONE_IN) <= full
        };
        segments
            .iter()
            .filter(|(id, segment)| {
                matches!(
                    segment.kind,
                    SegmentKind::Log | SegmentKind::Survivors | SegmentKind::Nodes
                ) && !segment.pinned
                    && segment.live_bytes > 0
                    && worth(segment)
                    && !state.refused.contains(id)
                    && !state.awaiting.contains(id)
                    && !state.in_work.contains_key(id)
            })
            .max_by_key(|(_, segment)| score(segment))
            .map(|(id, segment)| (id, *segment))
    }

    /// Makes the next checkpoint write the nodes in a segment elsewhere.
    async fn clean_nodes(&self, victim: SegmentId, dead: u64) -> Result<(), FileError> {
        let start = self.superblock.segment_start(victim).0;
        let count = self.superblock.segment_blocks;
        let mut loaded = Loaded::default();
        for first in (0..count).step_by(NODE_BLOCKS_AT_ONCE as usize) {
            let blocks = NODE_BLOCKS_AT_ONCE.min(count - first);
            let at = BlockIndex(start + u64::from(first));
            let buffer = self.read_blocks(at, blocks as usize).await?;
            for (bytes, block) in buffer.bytes().chunks_exact(BLOCK_SIZE).zip(at.0..) {
                let own = BlockIndex(block);
                let mut found = inspect(bytes, &self.vault, own);
                if found.is_none() && self.device.copies() > 1 {
                    found = self.inspect_copies(own).await?;
                }
                let Some((header, first_key)) = found else {
                    continue;
                };
                while let Err(fault) = self.redirty(&header, &first_key) {
                    self.load(fault, &mut loaded).await?;
                }
            }
            self.credit(dead * u64::from(blocks) / u64::from(count));
            // Changed nodes are bounded, and so is what a step holds on to.
            self.log.nudge();
            self.log
                .until(|| (self.may_dirty_more() || self.is_ending()).then_some(()))
                .await;
        }
        self.cleaner.borrow_mut().awaiting.insert(victim);
        Ok(())
    }

    /// The node at `own`, from whichever copy has one there.
    async fn inspect_copies(
        &self,
        own: BlockIndex,
    ) -> Result<Option<(NodeHeader, Key)>, FileError> {
        let buffer = Buffer::zeroed(1).map_err(|_| FileError::OutOfMemory)?;
        let look = |bytes: &[u8]| inspect(bytes, &self.vault, own).ok_or(());
        let (_, found) = read_checked(&self.device, own, buffer, look).await;
        Ok(found.map_err(FileError::Device)?.ok())
    }

    fn redirty(&self, header: &NodeHeader, first_key: &Key) -> Result<bool, Fault> {
        let volume = &mut *self.volume.borrow_mut();
        let tree = match header.tree {
            TreeKind::Live => &mut volume.live,
            TreeKind::History => &mut volume.history,
        };
        tree.redirty(header.block, header.level, first_key)
    }

    /// Copies what is still meant of the extents in a segment.
    async fn clean_extents(
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
        while block < end {
            let Some(group) = self.read_group(kind, BlockIndex(block), end).await? else {
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
                let survivor = self.survivor(place, &record, address, &buffer).await?;
                let Some(mut survivor) = survivor else {
                    continue;
                };
                if self.presses(generation) {
                    self.press(&mut survivor).await;
                }
                if self.keep(survivor, segment.written_at, generation) {
                    self.write_survivors(generation).await?;
                }
            }
            let blocks = u64::from(header.blocks());
            self.credit(dead * blocks / u64::from(self.superblock.segment_blocks));
            block += blocks;
            if self.is_ending() {
                return Err(FileError::ReadOnly);
            }
        }
        self.credit(dead * (end - block.min(end)) / u64::from(self.superblock.segment_blocks));
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
        pending.bytes >= capacity_bytes(self.superblock.group_blocks_max())
    }

    /// The group at `block`, whole; `None` where the segment's groups end.
    async fn read_group(
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

    async fn read_blocks(&self, start: BlockIndex, blocks: usize) -> Result<Buffer, FileError> {
        let buffer = Buffer::zeroed(blocks).map_err(|_| FileError::OutOfMemory)?;
        let (buffer, read) = self.device.read(start, buffer).await;
        self.log
            .count(|counters| counters.bytes_cleaned_read += (blocks * BLOCK_SIZE) as u64);
        read.map_err(FileError::Device)?;
        Ok(buffer)
    }

    /// What of a stored extent is still meant, cut out of the group that begins at `block`.
    async fn survivor(
        &self,
        (victim, block): (SegmentId, u64),
        record: &ExtentRecord,
        address: u64,
        group: &Buffer,
    ) -> Result<Option<Survivor>, FileError> {
        let references = self.references_to(record, address).await?;
        let (Some(first), Some(last)) = (
            references.iter().map(|r| r.piece.skip).min(),
            references.iter().map(|r| r.piece.skip + r.piece.len).max(),
        ) else {
            return Ok(None);
        };
        let start = usize::try_from(address - block * BLOCK).unwrap_or(usize::MAX);
        let stored = group
            .bytes()
            .get(start..start.saturating_add(record.stored_len as usize));
        let whole = Piece::whole(record, address);
        let damaged = FileError::Damaged {
            structure: Structure::Extent,
            block: BlockIndex(address / BLOCK),
        };
        let (Some(stored), Some(shape)) = (stored, whole.shape()) else {
            return Err(damaged);
        };
        let unit = u32::try_from(crate::UNIT_BYTES).unwrap_or(u32::MAX);
        let units = first / unit..last.div_ceil(unit);
        let mut record = *record;
        let cut = shape.cut(&units).filter(|cut| cut.shape.len() < record.len);
        let stored = match cut {
            Some(cut) => {
                record.offset += u64::from(units.start * unit);
                record.len = cut.shape.len();
                record.stored_len = cut.shape.stored_len();
                record.unit_first = u32::from(cut.shape.first_unit());
                cut.copy_from(stored).ok_or(damaged)?
            }
            None => stored.to_vec(),
        };
        Ok(Some(Survivor {
            record,
            victim,
            from: address,
            stored,
        }))
    }

    /// The pieces that name the extent stored at `address`.
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
    async fn write_survivors(&self, generation: usize) -> Result<bool, FileError> {
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
        for (survivor, address) in survivors.iter().zip(places.addresses) {
            self.move_references(survivor, address).await?;
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
        let group_max = self.superblock.group_blocks_max();
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

    /// Counts bytes as made free.
    fn credit(&self, bytes: u64) {
        self.cleaner.borrow_mut().freed_bytes += bytes;
        self.log.nudge();
    }

    /// Segments by which those that are free or coming are fewer than the cleaner keeps, up to `PACE_STEPS`
    /// where they are as few as commits may leave.
    fn scarcity(&self) -> u64 {
        let level = self.segments.borrow().free() + self.segments_coming();
        let low = self.reserves().segments_few();
        let span = low - self.reserves().segments_for_tidying();
        let short = low.saturating_sub(level).min(span);
        u64::from(short) * PACE_STEPS / u64::from(span.max(1))
    }

    /// Counts a commit of `bytes` bytes against what the cleaner frees: up to fourfold, so that segments become
    /// more again whatever trees and survivors take besides.
    pub(crate) fn charge(&self, bytes: u64) {
        let charged = bytes + bytes * 3 * self.scarcity() / PACE_STEPS;
        let few = self.wants_cleaning();
        let mut state = self.cleaner.borrow_mut();
        if few {
            state.taken_bytes += charged;
        } else {
            state.taken_bytes = state.freed_bytes;
        }
        drop(state);
        self.changed.notify();
    }

    /// Whether a commit may go ahead: while segments are few, commits take no more than the cleaner has freed, but for
    /// a group's worth. So each waits for the cleaning of at most four times what it writes, and of no segment as a whole.
    pub(crate) fn pace(&self) -> bool {
        let slack = u64::from(self.superblock.group_blocks_max()) * BLOCK;
        let credit = {
            let state = self.cleaner.borrow();
            state.in_vain || state.taken_bytes <= state.freed_bytes + slack
        };
        credit || !self.wants_cleaning() || self.is_ending()
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

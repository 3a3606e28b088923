//! Checkpoints (SPEC.md, "Checkpoints"): the roots of the trees, where replay starts, which copy of each block of
//! the segment table holds, the objects, and a manifest for the layer above.
//!
//! Two slots are written alternately. A slot's checksum covers all of it, so a torn write leaves the
//! other slot the newest valid one; nothing that slot names is reused before the new one is durable.
//!
//! - this file: what a slot says; `checkpointing`: making a checkpoint while commits go on.
//!
//! Not here: when one is made for the log's or the trees' sake (`mount::maintenance`), and what a mount does with it
//! (`mount::recovery`).

mod checkpointing;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use zerocopy::{FromBytes, IntoBytes};

pub use checkpointing::Haste;
pub(crate) use checkpointing::Turn;

use crate::disk::layout::{
    CHECKPOINT_MAGIC, CHECKPOINT_SEAL_AT, CheckpointLayout, RootLayout, SEAL_BYTES,
    checksum_after_head,
};
use crate::disk::superblock::{SegmentId, Superblock};
use crate::seal::{Purpose, Vault};
use crate::tree::TreeRoot;
use crate::{
    BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, CommitNumber, MountError, NodePointer, ObjectId,
};

const HEADER_BYTES: usize = size_of::<CheckpointLayout>();

/// The group that begins a log segment: replay can start there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReplayStart {
    /// Sequence number of the first group.
    pub group: u64,
    /// The commit its first payload byte belongs to.
    pub commit: u64,
    /// Whether it begins inside that commit.
    pub continued: bool,
    /// Checksum of the group before, which it chains to.
    pub previous_checksum: u32,
}

/// Where an object's bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ObjectInfo {
    /// Where its last chunk ends.
    pub len_bytes: u64,
    /// Its segments, in the order of its bytes.
    pub segments: Vec<SegmentId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub sequence: u64,
    /// Commits up to here are in the objects; the layer above replays what comes after.
    pub horizon: CommitNumber,
    /// Commits up to here are in the trees.
    pub tree_commit: CommitNumber,
    /// Groups up to this one were durable when the checkpoint was written: finding less is damage.
    pub durable_group: u64,
    pub start: ReplayStart,
    /// The segments of the log from the start on; the last `ahead_count` were decided on, not used.
    pub log_segments: Vec<SegmentId>,
    pub ahead_count: usize,
    /// Segments there are: the size of the file system.
    pub segment_count: u32,
    pub log_blocks: u64,
    pub live_root: Option<TreeRoot>,
    pub history_root: Option<TreeRoot>,
    /// The next number of an object of the trees.
    pub next_inode: u64,
    /// For each block of the segment table, which of its two homes holds.
    pub table_homes: Vec<u8>,
    pub next_object: u64,
    pub objects: BTreeMap<ObjectId, ObjectInfo>,
    pub manifest: Vec<u8>,
}

fn encode_root(root: Option<TreeRoot>) -> RootLayout {
    RootLayout {
        block: root.map_or(0, |root| root.pointer.block.0).into(),
        checksum: root.map_or(0, |root| root.pointer.checksum).into(),
        level: root.map_or(0, |root| u32::from(root.level)).into(),
    }
}

/// A root that no tree has.
struct NoRoot;

/// The root; `None` for an empty tree.
fn decode_root(layout: &RootLayout) -> Result<Option<TreeRoot>, NoRoot> {
    if layout.block.get() == 0 {
        return Ok(None);
    }
    let pointer = NodePointer {
        block: BlockIndex(layout.block.get()),
        checksum: layout.checksum.get(),
    };
    let level = u8::try_from(layout.level.get()).map_err(|_| NoRoot)?;
    Ok(Some(TreeRoot { pointer, level }))
}

/// What a checkpoint says in the clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CheckpointHead {
    pub sequence: u64,
    pub segment_count: u32,
}

/// The checkpoint does not fit into its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SlotFull;

impl Checkpoint {
    /// Slot size in blocks that holds every checkpoint of a file system of up to `segment_count` segments:
    /// all segments listed once, in the worst case each as a run of its own, and a manifest.
    pub(crate) fn slot_blocks(segment_count: u32) -> u32 {
        let bytes = 12_288_u64 + 12 * u64::from(segment_count);
        u32::try_from(bytes.div_ceil(BLOCK_SIZE as u64)).unwrap_or(u32::MAX)
    }

    /// The slot a checkpoint with this sequence number goes to.
    pub(crate) fn slot(sequence: u64) -> u8 {
        (sequence & 1) as u8
    }

    /// The bytes to write at `own`, the first block of a slot.
    pub(crate) fn encode(
        &self,
        superblock: &Superblock,
        vault: &Vault,
        own: BlockIndex,
    ) -> Result<Buffer, SlotFull> {
        let mut body = Vec::new();
        for segment in &self.log_segments {
            body.extend_from_slice(&segment.0.to_le_bytes());
        }
        body.extend_from_slice(&self.table_homes);
        for (id, object) in &self.objects {
            let runs = runs_of(&object.segments);
            body.extend_from_slice(&id.0.to_le_bytes());
            body.extend_from_slice(&object.len_bytes.to_le_bytes());
            body.extend_from_slice(&u32_len(runs.len())?.to_le_bytes());
            for (first, count) in runs {
                body.extend_from_slice(&first.0.to_le_bytes());
                body.extend_from_slice(&count.to_le_bytes());
            }
        }
        body.extend_from_slice(&self.manifest);
        let blocks = (HEADER_BYTES + body.len()).div_ceil(BLOCK_SIZE);
        if blocks > superblock.slot_blocks as usize {
            return Err(SlotFull);
        }
        let layout = CheckpointLayout {
            magic: CHECKPOINT_MAGIC,
            checksum: 0.into(),
            filesystem_id: superblock.id.0,
            own_block: own.0.into(),
            sequence: self.sequence.into(),
            body_len: u32_len(body.len())?.into(),
            segment_count: self.segment_count.into(),
            seal: [0; SEAL_BYTES],
            log_segment_count: u32_len(self.log_segments.len())?.into(),
            ahead_count: u32_len(self.ahead_count)?.into(),
            object_count: u32_len(self.objects.len())?.into(),
            manifest_len: u32_len(self.manifest.len())?.into(),
            start_flags: u32::from(self.start.continued).into(),
            horizon_commit: self.horizon.0.into(),
            tree_commit: self.tree_commit.0.into(),
            durable_group: self.durable_group.into(),
            start_group: self.start.group.into(),
            start_commit: self.start.commit.into(),
            start_previous_checksum: self.start.previous_checksum.into(),
            log_blocks: self.log_blocks.into(),
            next_object: self.next_object.into(),
            next_inode: self.next_inode.into(),
            live_root: encode_root(self.live_root),
            history_root: encode_root(self.history_root),
            reserved: [0; 32],
        };
        let mut buffer = Buffer::zeroed(blocks).map_err(|_| SlotFull)?;
        let bytes = buffer.bytes_mut();
        let end = HEADER_BYTES + body.len();
        if let Some(target) = bytes.get_mut(..HEADER_BYTES) {
            target.copy_from_slice(layout.as_bytes());
        }
        if let Some(target) = bytes.get_mut(HEADER_BYTES..end) {
            target.copy_from_slice(&body);
        }
        if let Some(whole) = bytes.get_mut(..end) {
            vault.close(Purpose::Slot, whole, CHECKPOINT_SEAL_AT);
        }
        Ok(buffer)
    }

    /// What an intact checkpoint in `slot` says in the clear.
    pub(crate) fn head_of(
        superblock: &Superblock,
        own: BlockIndex,
        slot: &[u8],
    ) -> Option<CheckpointHead> {
        let (layout, _) = CheckpointLayout::ref_from_prefix(slot).ok()?;
        let end = HEADER_BYTES.checked_add(layout.body_len.get() as usize)?;
        let intact = layout.magic == CHECKPOINT_MAGIC
            && layout.filesystem_id == superblock.id.0
            && layout.own_block.get() == own.0
            && layout.checksum.get() == checksum_after_head(slot.get(..end)?);
        intact.then_some(CheckpointHead {
            sequence: layout.sequence.get(),
            segment_count: layout.segment_count.get(),
        })
    }

    /// The sequence number that the beginning of the slot at `own` has, whatever became of the rest.
    pub(crate) fn claimed_sequence(
        superblock: &Superblock,
        own: BlockIndex,
        slot: &[u8],
    ) -> Option<u64> {
        let (layout, _) = CheckpointLayout::ref_from_prefix(slot).ok()?;
        let there = layout.magic == CHECKPOINT_MAGIC
            && layout.filesystem_id == superblock.id.0
            && layout.own_block.get() == own.0;
        there.then_some(layout.sequence.get())
    }

    /// How many blocks of a slot its checkpoint takes, as its first block says; all when that says nothing that can be.
    pub(crate) fn len_blocks(superblock: &Superblock, first: &[u8]) -> usize {
        let all = superblock.slot_blocks as usize;
        let Ok((layout, _)) = CheckpointLayout::ref_from_prefix(first) else {
            return all;
        };
        let bytes = HEADER_BYTES.saturating_add(layout.body_len.get() as usize);
        bytes.div_ceil(BLOCK_SIZE).min(all)
    }

    /// The checkpoint in `slot`, the whole content of the slot at `own`, or `None` when there is no
    /// valid one, or none that fits a device of `device_blocks` blocks. Everything it names exists; that nothing is named
    /// twice is the caller's to check.
    pub(crate) fn decode(
        superblock: &Superblock,
        vault: &Vault,
        own: BlockIndex,
        slot: &[u8],
        device_blocks: u64,
    ) -> Option<Self> {
        let (layout, _) = CheckpointLayout::ref_from_prefix(slot).ok()?;
        let end = HEADER_BYTES.checked_add(layout.body_len.get() as usize)?;
        let whole = slot.get(..end)?;
        if layout.magic != CHECKPOINT_MAGIC
            || layout.filesystem_id != superblock.id.0
            || layout.own_block.get() != own.0
        {
            return None;
        }
        let whole = vault.opened(Purpose::Slot, whole, CHECKPOINT_SEAL_AT)?;
        let (layout, _) = CheckpointLayout::ref_from_prefix(&whole).ok()?;
        let segment_count = layout.segment_count.get();
        if !superblock.allows(segment_count) || superblock.blocks_for(segment_count) > device_blocks
        {
            return None;
        }
        let mut body = Body {
            bytes: whole.get(HEADER_BYTES..)?,
            segment_count,
        };
        let log_segments = (0..layout.log_segment_count.get())
            .map(|_| body.segment())
            .collect::<Option<Vec<_>>>()?;
        let table_homes = body.take(superblock.table_blocks as usize)?.to_vec();
        if table_homes.iter().any(|&home| home > 1) {
            return None;
        }
        let mut objects = BTreeMap::new();
        let mut object_segments = 0;
        for _ in 0..layout.object_count.get() {
            let id = ObjectId(body.u64()?);
            let len_bytes = body.u64()?;
            let run_count = body.u32()?;
            let mut segments = Vec::new();
            for _ in 0..run_count {
                let (first, count) = (body.segment()?, body.u32()?);
                let end = first.0.checked_add(count).filter(|&e| e <= segment_count)?;
                segments.extend((first.0..end).map(SegmentId));
                // A segment belongs to one object once, so more than all of them is nonsense.
                if object_segments + segments.len() > segment_count as usize {
                    return None;
                }
            }
            object_segments += segments.len();
            objects.insert(
                id,
                ObjectInfo {
                    len_bytes,
                    segments,
                },
            );
        }
        let manifest = body.take(layout.manifest_len.get() as usize)?.to_vec();
        Some(Self {
            sequence: layout.sequence.get(),
            horizon: CommitNumber(layout.horizon_commit.get()),
            tree_commit: CommitNumber(layout.tree_commit.get()),
            durable_group: layout.durable_group.get(),
            start: ReplayStart {
                group: layout.start_group.get(),
                commit: layout.start_commit.get(),
                continued: layout.start_flags.get() & 1 != 0,
                previous_checksum: layout.start_previous_checksum.get(),
            },
            log_segments,
            ahead_count: usize::try_from(layout.ahead_count.get()).ok()?,
            segment_count,
            log_blocks: layout.log_blocks.get(),
            live_root: decode_root(&layout.live_root).ok()?,
            history_root: decode_root(&layout.history_root).ok()?,
            next_inode: layout.next_inode.get(),
            table_homes,
            next_object: layout.next_object.get(),
            objects,
            manifest,
        })
    }
}

/// Blocks of a slot that are read before it is known how many its checkpoint takes.
const SLOT_BLOCKS_AT_ONCE: usize = 16;

/// Reads copy `copy` of the slot at `own`, as far as its checkpoint goes.
///
/// # Errors
/// [`MountError::Device`] or [`MountError::OutOfMemory`].
pub(crate) async fn read_slot<D: BlockDevice>(
    device: &D,
    superblock: &Superblock,
    own: BlockIndex,
    copy: u8,
) -> Result<Buffer, MountError> {
    let mut blocks = SLOT_BLOCKS_AT_ONCE.min(superblock.slot_blocks as usize);
    let (buffer, read) = device.read_copy(copy, own, Buffer::zeroed(blocks)?).await;
    read?;
    let needed = Checkpoint::len_blocks(superblock, buffer.bytes());
    if needed <= blocks {
        return Ok(buffer);
    }
    blocks = needed;
    let (buffer, read) = device.read_copy(copy, own, Buffer::zeroed(blocks)?).await;
    read?;
    Ok(buffer)
}

/// Neighbouring segments as (first, count).
fn runs_of(segments: &[SegmentId]) -> Vec<(SegmentId, u32)> {
    let mut runs: Vec<(SegmentId, u32)> = Vec::new();
    for &segment in segments {
        match runs.last_mut() {
            Some((first, count)) if first.0 + *count == segment.0 => *count += 1,
            _ => runs.push((segment, 1)),
        }
    }
    runs
}

fn u32_len(len: usize) -> Result<u32, SlotFull> {
    u32::try_from(len).map_err(|_| SlotFull)
}

/// Takes a body apart; `None` when it ends early or names a segment that does not exist.
struct Body<'b> {
    bytes: &'b [u8],
    segment_count: u32,
}

impl<'b> Body<'b> {
    fn take(&mut self, len: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(len)?;
        self.bytes = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }

    fn segment(&mut self) -> Option<SegmentId> {
        self.u32()
            .filter(|&id| id < self.segment_count)
            .map(SegmentId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::superblock::tests::example;

    #[test]
    fn survives_a_round_trip_and_no_flipped_bit() {
        let superblock = example();
        let segments = |ids: &[u32]| ids.iter().copied().map(SegmentId).collect::<Vec<_>>();
        let objects = [
            (
                ObjectId(4),
                ObjectInfo {
                    len_bytes: 99,
                    segments: segments(&[7, 8, 9, 30]),
                },
            ),
            (
                ObjectId(6),
                ObjectInfo {
                    len_bytes: 0,
                    segments: segments(&[]),
                },
            ),
        ];
        let checkpoint = Checkpoint {
            sequence: 5,
            horizon: CommitNumber(77),
            durable_group: 12,
            start: ReplayStart {
                group: 10,
                commit: 70,
                continued: true,
                previous_checksum: 1,
            },
            tree_commit: CommitNumber(78),
            log_segments: segments(&[99, 0, 3]),
            ahead_count: 1,
            segment_count: 100,
            log_blocks: 1234,
            live_root: Some(TreeRoot {
                pointer: NodePointer {
                    block: BlockIndex(200),
                    checksum: 9,
                },
                level: 2,
            }),
            history_root: None,
            next_inode: 17,
            table_homes: [1].into(),
            next_object: 8,
            objects: objects.into(),
            manifest: b"manifest".to_vec(),
        };
        let own = superblock.slot_block(1);
        let vault = Vault::plain(superblock.id);
        let mut buffer = checkpoint.encode(&superblock, &vault, own).unwrap();
        assert_eq!(
            Checkpoint::decode(&superblock, &vault, own, buffer.bytes(), 1024),
            Some(checkpoint)
        );
        assert_eq!(
            Checkpoint::decode(
                &superblock,
                &vault,
                superblock.slot_block(0),
                buffer.bytes(),
                1024
            ),
            None
        );
        let end_block = superblock.blocks_for(100);
        let on = |blocks| Checkpoint::decode(&superblock, &vault, own, buffer.bytes(), blocks);
        assert!(on(end_block).is_some() && on(end_block - 1).is_none());
        let end = HEADER_BYTES + 12 + 1 + (20 + 16) + 20 + 8;
        for bit in 0..end * 8 {
            buffer.bytes_mut()[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                Checkpoint::decode(&superblock, &vault, own, buffer.bytes(), 1024),
                None,
                "bit {bit}"
            );
            buffer.bytes_mut()[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

//! The superblock: what the file system is and where its parts lie (SPEC.md, "Superblock").
//!
//! Two copies, each within one sector, so a copy is never torn. Nothing in it changes after format
//! but the state (`Formatting` to `Ready`) and feature flags. What can change while the file system is in use, how many
//! segments there are, is not here: the checkpoint in force says it, and in memory [`Segments`](crate::space::Segments).

use zerocopy::{FromBytes, IntoBytes};

use super::layout::{FORMAT_VERSION, SUPERBLOCK_MAGIC, SuperblockLayout, checksum};
use crate::seal::Suite;
use crate::{BLOCK_SIZE, BlockIndex, Buffer};

/// Identifies a file system; random, and no part of any reply to a client, so that nobody can put
/// a block into a value that passes for a block of this log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSystemId(pub [u8; 16]);

/// Number of a segment, from 0 at the start of the segment area.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SegmentId(pub u32);

/// Whether a format run got to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// A format was begun; there is nothing on the disk worth keeping.
    Formatting,
    /// A file system lives here.
    Ready,
}

/// The superblock's content, checked: every address that can be computed from it is in range for some device. Whether
/// the device at hand is as large as that, the checkpoint tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub id: FileSystemId,
    pub state: State,
    pub segment_blocks: u32,
    pub first_segment_block: u64,
    /// Blocks in each of the two checkpoint slots.
    pub slot_blocks: u32,
    /// Segments the log may go through between two checkpoints: the bound on replay.
    pub log_segments: u32,
    /// Blocks of one copy of the segment table.
    pub table_blocks: u32,
    /// Segments the table has room for: how far the file system can grow.
    pub segment_count_max: u32,
    /// The cipher of an encrypted file system.
    pub suite: Option<Suite>,
}

/// Where the second copy of the superblock is, whatever the size of the device.
pub(crate) const SECOND_COPY_BLOCK: BlockIndex = BlockIndex(15);
/// Where the two copies of the key slots are, in a file system that has a key.
pub(crate) const KEY_SLOT_BLOCKS: [BlockIndex; 2] = [BlockIndex(1), BlockIndex(14)];
/// Where the checkpoint slots begin.
const SLOTS_BLOCK: u64 = 16;

/// What is wrong with a superblock copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SuperblockFault {
    /// No superblock at all, or a damaged one.
    Invalid,
    /// A superblock of a version or with a feature this code does not know.
    Unknown { version: u32, features: u64 },
}

pub(crate) const SEGMENT_BLOCKS_MIN: u32 = 8;
pub(crate) const LOG_SEGMENTS_MIN: u32 = 16;
pub(crate) const LOG_SEGMENTS_MAX: u32 = 1024;

/// Blocks that no device has more of: byte addresses stay below 2⁶³.
const BLOCKS_MAX: u64 = 1 << 51;

/// Incompatible feature: there is a key.
const FEATURE_KEY: u64 = 1;

/// Entries of the segment table in a block.
pub(crate) const TABLE_ENTRIES: u32 = 250;

/// Blocks that the table of `segments` segments takes.
pub(crate) fn table_blocks_for(segments: u32) -> u32 {
    segments.div_ceil(TABLE_ENTRIES)
}

/// How free segments are divided (DESIGN.md, "A full disk"): what a file system with so many of them keeps for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reserves {
    segment_count: u32,
    segment_blocks: u32,
    log_segments: u32,
}

/// Segments that the largest commit can take.
fn commit_segments_max(log_segments: u32) -> usize {
    (log_segments / 8) as usize * 4 / 3 + 2
}

impl Superblock {
    /// The two places a copy is kept.
    pub(crate) fn copy_blocks() -> [BlockIndex; 2] {
        [BlockIndex(0), SECOND_COPY_BLOCK]
    }

    /// First block of checkpoint slot `slot` (0 or 1).
    pub(crate) fn slot_block(&self, slot: u8) -> BlockIndex {
        BlockIndex(SLOTS_BLOCK + u64::from(slot & 1) * u64::from(self.slot_blocks))
    }

    /// Where copy `home` (0 or 1) of block `index` of the segment table is.
    pub(crate) fn table_block(&self, index: u32, home: u8) -> BlockIndex {
        let slots_end = SLOTS_BLOCK + 2 * u64::from(self.slot_blocks);
        BlockIndex(slots_end + 2 * u64::from(index) + u64::from(home & 1))
    }

    /// The first block that slots and table leave to segments.
    pub(crate) fn head_blocks(&self) -> u64 {
        self.table_block(self.table_blocks, 0).0
    }

    pub(crate) fn segment_start(&self, segment: SegmentId) -> BlockIndex {
        BlockIndex(self.first_segment_block + u64::from(segment.0) * u64::from(self.segment_blocks))
    }

    /// The segment that holds the byte at `address`, if one does or will when the file system has grown.
    pub(crate) fn segment_of(&self, address: u64) -> Option<SegmentId> {
        let block = (address / BLOCK_SIZE as u64).checked_sub(self.first_segment_block)?;
        let segment = u32::try_from(block / u64::from(self.segment_blocks)).ok()?;
        (segment < self.segment_count_max).then_some(SegmentId(segment))
    }

    /// Blocks that a segment has left when its first ones, up to block `end` of the device, are used.
    pub(crate) fn blocks_left_behind(&self, end: u64) -> u64 {
        let segment_blocks = u64::from(self.segment_blocks);
        let used = end.saturating_sub(self.first_segment_block) % segment_blocks;
        (segment_blocks - used) % segment_blocks
    }

    /// Blocks that a device must have for the first `count` segments.
    pub(crate) fn blocks_for(&self, count: u32) -> u64 {
        self.segment_start(SegmentId(count)).0
    }

    /// The least that a file system with this superblock takes.
    pub(crate) fn blocks_min(&self) -> u64 {
        self.blocks_for(2 * self.log_segments)
    }

    /// Segments that a device of `device_blocks` blocks has room for, as far as the table goes.
    pub(crate) fn segments_on(&self, device_blocks: u64) -> u32 {
        let blocks = device_blocks.saturating_sub(self.first_segment_block);
        let count = blocks / u64::from(self.segment_blocks);
        u32::try_from(count)
            .unwrap_or(u32::MAX)
            .min(self.segment_count_max)
    }

    /// Whether a file system with this superblock can have `count` segments.
    pub(crate) fn allows(&self, count: u32) -> bool {
        (2 * self.log_segments..=self.segment_count_max).contains(&count)
    }

    /// How free segments are divided when there are `segment_count`.
    pub(crate) fn reserves(&self, segment_count: u32) -> Reserves {
        Reserves {
            segment_count,
            segment_blocks: self.segment_blocks,
            log_segments: self.log_segments,
        }
    }

    pub(crate) fn segment_bytes(&self) -> usize {
        self.segment_blocks as usize * BLOCK_SIZE
    }

    /// Blocks of the largest group: half a segment. So after any group that begins a segment another
    /// one still fits, and a damaged group's successor is never out of sight (DESIGN.md, "Damage").
    pub(crate) fn group_blocks_max(&self) -> u32 {
        self.segment_blocks / 2
    }

    /// Largest commit: an eighth of the replay window.
    pub(crate) fn commit_bytes_max(&self) -> usize {
        (self.log_segments / 8) as usize * self.segment_bytes()
    }

    /// Segments that the largest commit can take, however its parts fill them: a group is left when
    /// the next part does not fit, and a part is little more than an eighth of a group.
    pub(crate) fn commit_segments_max(&self) -> usize {
        commit_segments_max(self.log_segments)
    }

    /// Most bytes of a file in one extent: an eighth of a group, so that groups fill up.
    pub(crate) fn extent_bytes_max(&self) -> u32 {
        let eighth = self.group_blocks_max() / 8 * 4096;
        eighth.clamp(4096, crate::extent::EXTENT_BYTES_MAX)
    }

    /// Bytes of extents or nodes that a segment holds when it is full: each group gives up a block to its header, its
    /// records, and what does not fit.
    pub(crate) fn segment_capacity_bytes(&self) -> u64 {
        let group = u64::from(self.group_blocks_max());
        self.segment_bytes() as u64 / group * (group - 1)
    }

    /// Writes this copy into the one-block `buffer`.
    pub(crate) fn encode(&self, own_block: BlockIndex, buffer: &mut Buffer) {
        let mut layout = SuperblockLayout {
            magic: SUPERBLOCK_MAGIC,
            checksum: 0.into(),
            version: FORMAT_VERSION.into(),
            filesystem_id: self.id.0,
            own_block: own_block.0.into(),
            reserved_size: [0; 8],
            block_size: 4096.into(),
            state: match self.state {
                State::Formatting => 0,
                State::Ready => 1,
            }
            .into(),
            segment_blocks: self.segment_blocks.into(),
            reserved_count: [0; 4],
            first_segment_block: self.first_segment_block.into(),
            slot_blocks: self.slot_blocks.into(),
            log_segments: self.log_segments.into(),
            table_blocks: self.table_blocks.into(),
            segment_count_max: self.segment_count_max.into(),
            features_compatible: 0.into(),
            features_read_only: 0.into(),
            features_incompatible: self.suite.map_or(0, |_| FEATURE_KEY).into(),
            suite: self.suite.map_or(0, Suite::number),
            reserved: [0; 399],
        };
        layout.checksum = checksum(layout.as_bytes().get(12..).unwrap_or_default()).into();
        let bytes = buffer.bytes_mut();
        bytes.fill(0);
        if let Some(target) = bytes.get_mut(..size_of::<SuperblockLayout>()) {
            target.copy_from_slice(layout.as_bytes());
        }
    }

    /// Reads a copy found at `own_block`.
    pub(crate) fn decode(block: &[u8], own_block: BlockIndex) -> Result<Self, SuperblockFault> {
        let (layout, _) =
            SuperblockLayout::read_from_prefix(block).map_err(|_| SuperblockFault::Invalid)?;
        let sum = checksum(layout.as_bytes().get(12..).unwrap_or_default());
        if layout.magic != SUPERBLOCK_MAGIC
            || layout.checksum.get() != sum
            || layout.own_block.get() != own_block.0
        {
            return Err(SuperblockFault::Invalid);
        }
        let unknown = layout.features_incompatible.get() & !FEATURE_KEY;
        let features = unknown | layout.features_read_only.get();
        if layout.version.get() != FORMAT_VERSION || features != 0 {
            return Err(SuperblockFault::Unknown {
                version: layout.version.get(),
                features,
            });
        }
        let suite = match (layout.features_incompatible.get(), layout.suite) {
            (0, 0) => None,
            (FEATURE_KEY, number) => match Suite::from_number(number) {
                // Of a cipher that is not known, nothing can be read.
                None => {
                    return Err(SuperblockFault::Unknown {
                        version: layout.version.get(),
                        features: FEATURE_KEY,
                    });
                }
                suite => suite,
            },
            _ => return Err(SuperblockFault::Invalid),
        };
        let superblock = Self {
            id: FileSystemId(layout.filesystem_id),
            state: match layout.state.get() {
                0 => State::Formatting,
                1 => State::Ready,
                _ => return Err(SuperblockFault::Invalid),
            },
            segment_blocks: layout.segment_blocks.get(),
            first_segment_block: layout.first_segment_block.get(),
            slot_blocks: layout.slot_blocks.get(),
            log_segments: layout.log_segments.get(),
            table_blocks: layout.table_blocks.get(),
            segment_count_max: layout.segment_count_max.get(),
            suite,
        };
        if layout.block_size.get() as usize == BLOCK_SIZE && superblock.in_range() {
            Ok(superblock)
        } else {
            Err(SuperblockFault::Invalid)
        }
    }

    /// Whether no address that can be computed from this superblock is beyond what a device can have.
    fn in_range(&self) -> bool {
        let segments_end = u64::from(self.segment_count_max)
            .checked_mul(u64::from(self.segment_blocks))
            .and_then(|blocks| blocks.checked_add(self.first_segment_block));
        self.segment_blocks.is_power_of_two()
            && (SEGMENT_BLOCKS_MIN..=1 << 16).contains(&self.segment_blocks)
            && (LOG_SEGMENTS_MIN..=LOG_SEGMENTS_MAX).contains(&self.log_segments)
            && self.log_segments <= self.segment_count_max / 2
            && self.slot_blocks > 0
            && self.table_blocks == table_blocks_for(self.segment_count_max)
            && self.head_blocks() <= self.first_segment_block
            && segments_end.is_some_and(|end| end <= BLOCKS_MAX)
    }
}

impl Reserves {
    /// Segments that are not counted as capacity: those that are free, about to be, or on the way, and a few to
    /// clean in when everything else is full.
    pub(crate) fn segments_reserved(&self) -> u32 {
        let commit = u32::try_from(commit_segments_max(self.log_segments)).unwrap_or(u32::MAX);
        self.segments_needed(commit) + self.segment_count / 24 + 2 + self.segment_count / 12 + 2
    }

    /// Changed tree nodes at which commits wait for a checkpoint: more than there are leaves when the disk is full of
    /// files in pieces of a block, so that random overwrites do not make checkpoints for their sake; at most 8 MiB of nodes,
    /// which take up to five times that in memory.
    pub(crate) fn dirty_nodes_max(&self) -> usize {
        let segments = self.segment_count as usize / 256 + 4;
        (segments * self.segment_blocks as usize * 3 / 4).min(2048)
    }

    /// Changed tree nodes that there may ever be: more do not fit into what is left to a checkpoint, but for a segment, since what a
    /// commit comes to is only known about.
    pub(crate) fn dirty_nodes_limit(&self) -> usize {
        (self.segments_for_checkpoints() as usize - 1) * self.segment_blocks as usize
    }

    /// Free segments that everything else leaves to checkpoints, which bring free segments and so must always have some:
    /// for the changed nodes, what a commit adds to them at the last moment, and the open segment's rest.
    pub(crate) fn segments_for_checkpoints(&self) -> u32 {
        let nodes = u32::try_from(self.dirty_nodes_max()).unwrap_or(u32::MAX);
        nodes.div_ceil(self.segment_blocks) + 2
    }

    /// Free segments that commits leave which only free space: those for checkpoints, and for the cleaner an open segment
    /// for each kind of survivors and one to go on with.
    pub(crate) fn segments_for_cleaning(&self) -> u32 {
        self.segments_for_checkpoints() + 4
    }

    /// Free segments that all other commits leave: those for cleaning, and for commits that free space the two that
    /// groups announce and the one they are written to.
    pub(crate) fn segments_for_tidying(&self) -> u32 {
        self.segments_for_cleaning() + 3
    }

    /// Free segments that are not for objects: those that the file system keeps for itself, and those that commits leave.
    pub(crate) fn segments_kept_from_objects(&self) -> u32 {
        self.segments_reserved().max(self.segments_for_tidying())
    }

    /// Free segments at which a checkpoint is made for those that were emptied: what a commit of `commit` segments needs.
    pub(crate) fn segments_needed(&self, commit: u32) -> u32 {
        self.segments_for_tidying() + commit + 2
    }

    /// Segments that are free or emptied below which the cleaner begins.
    pub(crate) fn segments_few(&self, commit: u32) -> u32 {
        self.segments_low(commit) - self.segment_count / 48 - 1
    }

    /// Segments that are free or emptied at which the cleaner ends. The more are emptied before a checkpoint
    /// frees them, the fewer checkpoints there are.
    pub(crate) fn segments_low(&self, commit: u32) -> u32 {
        self.segments_needed(commit) + self.segment_count / 24 + 2
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn example() -> Superblock {
        Superblock {
            id: FileSystemId([7; 16]),
            state: State::Ready,
            segment_blocks: 8,
            first_segment_block: 24,
            slot_blocks: 2,
            log_segments: 16,
            table_blocks: 1,
            segment_count_max: 200,
            suite: None,
        }
    }

    #[test]
    fn survives_a_round_trip_and_no_flipped_bit() {
        let superblock = example();
        let mut buffer = Buffer::zeroed(1).unwrap();
        superblock.encode(BlockIndex(0), &mut buffer);
        assert_eq!(
            Superblock::decode(buffer.bytes(), BlockIndex(0)),
            Ok(superblock)
        );
        assert!(Superblock::decode(buffer.bytes(), BlockIndex(15)).is_err());
        for bit in 0..512 * 8 {
            buffer.bytes_mut()[bit / 8] ^= 1 << (bit % 8);
            assert!(
                Superblock::decode(buffer.bytes(), BlockIndex(0)).is_err(),
                "bit {bit} does not matter"
            );
            buffer.bytes_mut()[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

//! Every fixed structure on disk, in one place. `SPEC.md` holds the byte tables; the sizes asserted
//! here pin them.
//!
//! All integers are little-endian. Every structure carries a magic number, the file system's id and
//! its own block address inside what its checksum covers, so bytes that belong elsewhere (another
//! file system, another place, an earlier life of the disk) never pass for valid.

use core::mem::offset_of;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The version of the format this code writes, and the only one it reads.
pub(crate) const FORMAT_VERSION: u32 = 1;

pub(crate) const SUPERBLOCK_MAGIC: [u8; 8] = *b"SILTSTON";
pub(crate) const CHECKPOINT_MAGIC: [u8; 4] = *b"SiCp";
pub(crate) const GROUP_MAGIC: [u8; 4] = *b"SiGr";
pub(crate) const SURVIVORS_MAGIC: [u8; 4] = *b"SiSv";
pub(crate) const TABLE_MAGIC: [u8; 4] = *b"SiTb";

/// Numbers of commits, groups, checkpoints and objects, and clocks, stay below: nothing counts that far in the life of a disk. What is read and
/// is not below is damage, so that whoever adds to a number need not think of overflow.
pub(crate) const NUMBER_MAX: u64 = 1 << 62;

/// The object whose data are the value file: the highest number. Those that are given out stay below it.
pub(crate) const VALUE_OBJECT: u64 = NUMBER_MAX - 1;

/// Nonce and tag; zero without a key.
pub(crate) const SEAL_BYTES: usize = 40;
/// Where the seal is in nodes and blocks of the segment table: behind magic, checksum, id and own block.
pub(crate) const SEAL_AT: usize = 32;

/// A sector: what the disk writes whole or not at all.
pub(crate) const SECTOR_SIZE: usize = 512;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct SuperblockLayout {
    pub magic: [u8; 8],
    /// CRC-32 of everything after this field to the end of the structure.
    pub checksum: U32,
    pub version: U32,
    pub filesystem_id: [u8; 16],
    pub own_block: U64,
    pub reserved_size: [u8; 8],
    pub block_size: U32,
    pub state: U32,
    pub segment_blocks: U32,
    pub reserved_count: [u8; 4],
    pub first_segment_block: U64,
    pub slot_blocks: U32,
    pub log_segments: U32,
    pub table_blocks: U32,
    pub segment_count_max: U32,
    pub features_compatible: U64,
    pub features_read_only: U64,
    pub features_incompatible: U64,
    /// The cipher; 0 without a key.
    pub suite: u8,
    pub reserved: [u8; 399],
}
const _: () = assert!(size_of::<SuperblockLayout>() == SECTOR_SIZE);

/// Where the seal is in a checkpoint; what comes before it lies in the clear.
pub(crate) const CHECKPOINT_SEAL_AT: usize = 48;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct CheckpointLayout {
    pub magic: [u8; 4],
    /// CRC-32 of everything after this field to the end of the body.
    pub checksum: U32,
    pub filesystem_id: [u8; 16],
    pub own_block: U64,
    pub sequence: U64,
    /// Bytes of body after this header.
    pub body_len: U32,
    /// Segments there are: also for those who have no key.
    pub segment_count: U32,
    pub seal: [u8; SEAL_BYTES],
    pub log_segment_count: U32,
    /// Of these, how many the log had not come to.
    pub ahead_count: U32,
    pub object_count: U32,
    pub manifest_len: U32,
    pub start_flags: U32,
    pub start_previous_checksum: U32,
    /// The last commit that the layer above has in its objects.
    pub horizon_commit: U64,
    /// The last commit that the trees hold.
    pub tree_commit: U64,
    pub durable_group: U64,
    pub start_group: U64,
    pub start_commit: U64,
    /// Blocks the log had written when this was made: the clock of segments.
    pub log_blocks: U64,
    /// Next object of the layer above.
    pub next_object: U64,
    /// Next object of the trees.
    pub next_inode: U64,
    pub live_root: RootLayout,
    pub history_root: RootLayout,
    pub reserved: [u8; 32],
}
const _: () = assert!(size_of::<CheckpointLayout>() == 240);
const _: () = assert!(offset_of!(CheckpointLayout, seal) == CHECKPOINT_SEAL_AT);

/// A tree's root; `block` 0 when the tree is empty.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct RootLayout {
    pub block: U64,
    pub checksum: U32,
    pub level: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct GroupLayout {
    pub magic: [u8; 4],
    /// CRC-32 of the rest of this header. The checksums of data and records are part of it, so it covers all.
    pub checksum: U32,
    pub filesystem_id: [u8; 16],
    pub own_block: U64,
    pub sequence: U64,
    pub first_commit: U64,
    /// Sequence number of the checkpoint that was in force.
    pub checkpoint: U64,
    pub commits_ending: U32,
    pub flags: U32,
    pub previous_checksum: U32,
    pub data_len: U32,
    pub data_checksum: U32,
    /// Bytes of the records as stored, and after decompression.
    pub records_len: U32,
    pub records_raw_len: U32,
    pub records_checksum: U32,
    /// The segments that the log goes to next; all ones where that was not decided.
    pub next_segments: [U32; 2],
    /// Nonce and tag of the encrypted records; zero without a key.
    pub seal: [u8; SEAL_BYTES],
    pub reserved: [u8; 24],
}
const _: () = assert!(size_of::<GroupLayout>() == 160);

/// Header of a block of the segment table; entries follow.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct TableLayout {
    pub magic: [u8; 4],
    /// CRC-32 of everything after this field to the end of the block.
    pub checksum: U32,
    pub filesystem_id: [u8; 16],
    pub own_block: U64,
    pub seal: [u8; SEAL_BYTES],
    /// Which block of the table.
    pub index: U32,
    pub reserved: [u8; 4],
    /// The checkpoint it was written for.
    pub sequence: U64,
    pub reserved_too: [u8; 8],
}
const _: () = assert!(size_of::<TableLayout>() == 96);
const _: () = assert!(offset_of!(TableLayout, seal) == SEAL_AT);

/// A segment in the table.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct SegmentLayout {
    pub kind: u8,
    pub generation: u8,
    pub reserved: [u8; 2],
    pub live_bytes: U32,
    /// Age: the clock of segments when its content was new.
    pub written_at: U64,
}
const _: () = assert!(size_of::<SegmentLayout>() == 16);

/// CRC-32 (ISO-HDLC) of `bytes`, the checksum of every structure.
pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// The checksum of a structure whose first eight bytes are magic and checksum.
pub(crate) fn checksum_after_head(structure: &[u8]) -> u32 {
    checksum(structure.get(8..).unwrap_or_default())
}

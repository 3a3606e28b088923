//! Every fixed structure on disk, in one place. `SPEC.md` holds the byte tables; the sizes asserted
//! here pin them.
//!
//! All integers are little-endian. Every structure carries a magic number, the file system's id and
//! its own block address inside what its checksum covers, so bytes that belong elsewhere (another
//! file system, another place, an earlier life of the disk) never pass for valid.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The version of the format this code writes, and the only one it reads.
pub(crate) const FORMAT_VERSION: u32 = 0;

pub(crate) const SUPERBLOCK_MAGIC: [u8; 8] = *b"SILTSTON";
pub(crate) const CHECKPOINT_MAGIC: [u8; 4] = *b"SiCp";
pub(crate) const GROUP_MAGIC: [u8; 4] = *b"SiGr";
pub(crate) const FRAME_MAGIC: [u8; 4] = *b"SiOb";

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
    pub block_count: U64,
    pub block_size: U32,
    pub state: U32,
    pub segment_blocks: U32,
    pub segment_count: U32,
    pub first_segment_block: U64,
    pub slot_blocks: U32,
    pub log_segments: U32,
    pub features_compatible: U64,
    pub features_read_only: U64,
    pub features_incompatible: U64,
    pub reserved: [u8; 408],
}
const _: () = assert!(size_of::<SuperblockLayout>() == SECTOR_SIZE);

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
    pub log_segment_count: U32,
    pub object_count: U32,
    pub manifest_len: U32,
    pub horizon_commit: U64,
    pub durable_group: U64,
    pub start_group: U64,
    pub start_commit: U64,
    pub start_previous_checksum: U32,
    pub start_flags: U32,
    pub next_object: U64,
    pub reserved: [u8; 24],
}
const _: () = assert!(size_of::<CheckpointLayout>() == 128);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct GroupLayout {
    pub magic: [u8; 4],
    /// CRC-32 of the rest of this header. The payload's checksum is part of it, so it covers all.
    pub checksum: U32,
    pub filesystem_id: [u8; 16],
    pub own_block: U64,
    pub sequence: U64,
    pub first_commit: U64,
    pub commits_ending: U32,
    pub flags: U32,
    pub previous_checksum: U32,
    pub payload_len: U32,
    pub payload_checksum: U32,
    pub checkpoint: U64,
    pub reserved: [u8; 4],
}
const _: () = assert!(size_of::<GroupLayout>() == 80);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct FrameLayout {
    pub magic: [u8; 4],
    /// CRC-32 of everything after this field to the end of the payload.
    pub checksum: U32,
    pub filesystem_id: [u8; 16],
    pub own_block: U64,
    pub object: U64,
    pub frame: U32,
    pub payload_len: U32,
}
const _: () = assert!(size_of::<FrameLayout>() == 48);

/// CRC-32 (ISO-HDLC) of `bytes`, the checksum of every structure.
pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// The checksum of a structure whose first eight bytes are magic and checksum.
pub(crate) fn checksum_after_head(structure: &[u8]) -> u32 {
    checksum(structure.get(8..).unwrap_or_default())
}

//! Gathering commits into groups.
//!
//! A commit's place on the disk is decided when it is taken: groups have their block from the moment they are
//! begun, and data are copied straight to where they will be written. So the trees can name them at once, and
//! all that was taken can be written whatever happens to free space later.
//!
//! A group gets whole commits, as many as fit; only a commit that is larger than the largest group is split, at
//! records, into groups of its own.

use alloc::vec::Vec;

use super::group::{GROUP_HEADER_BYTES, GroupHeader, GroupKind};
use crate::disk::layout::{SEAL_BYTES, checksum};
use crate::seal::Vault;
use crate::varint::{VARINT_BYTES_MAX, put_varint, varint_len};
use crate::{BLOCK_SIZE, BlockIndex, Buffer, BufferAllocError};

/// A record of a commit, and the data it brings along: both are copied into the group.
#[derive(Clone, Copy)]
pub(crate) struct Part<'p> {
    /// The record's head, its body, and the stored extent it is about; the latter two may be empty.
    pub head: &'p [u8],
    pub body: &'p [u8],
    pub data: &'p [u8],
}

impl Part<'_> {
    pub(crate) fn len_bytes(&self) -> usize {
        self.head.len() + self.body.len() + self.data.len()
    }
}

/// Bytes that frame the parts of one commit in a group at most.
pub(crate) const FRAME_BYTES_MAX: usize = 2 * VARINT_BYTES_MAX;

/// Bytes of records, and bytes of data, in `parts`.
fn lengths(parts: &[Part<'_>]) -> (usize, usize) {
    let records = parts.iter().map(|p| p.head.len() + p.body.len()).sum();
    let data = parts.iter().map(|part| part.data.len()).sum();
    (records, data)
}

/// Bytes that `parts` of one commit take in a group: exactly what [`OpenGroup::add`] adds.
pub(crate) fn framed_bytes(parts: &[Part<'_>]) -> usize {
    let (records, data) = lengths(parts);
    varint_len(records as u64) + varint_len(data as u64) + records + data
}

/// Bytes that a group of `blocks` blocks has for commits.
pub(crate) fn capacity_bytes(blocks: u32) -> usize {
    (blocks as usize * BLOCK_SIZE).saturating_sub(GROUP_HEADER_BYTES)
}

/// A group that commits are still added to.
pub(crate) struct OpenGroup {
    block: BlockIndex,
    blocks_max: u32,
    /// Header, then the data.
    buffer: Buffer,
    data_len: usize,
    records: Vec<u8>,
    pub first_commit: u64,
    pub commits_ending: u32,
    pub continued: bool,
    pub continues: bool,
    /// The group behind it has its place already: this one must end where it would without compression.
    pub keeps_length: bool,
}

/// A group that is ready to be written.
pub(crate) struct SealedGroup {
    pub block: BlockIndex,
    pub buffer: Buffer,
    /// The last commit that is whole with this group, or 0.
    pub last_commit: u64,
    pub sequence: u64,
}

/// What the header says beside what the group holds.
#[derive(Clone, Copy)]
pub(crate) struct Chain {
    pub sequence: u64,
    pub previous_checksum: u32,
    pub checkpoint: u64,
    pub next_segments: [Option<crate::disk::superblock::SegmentId>; 2],
}

impl OpenGroup {
    /// A group at `block` that may take `blocks_max` blocks, in `buffer`'s memory, whose first record is one of
    /// `first_commit`.
    pub(crate) fn new(
        block: BlockIndex,
        blocks_max: u32,
        mut buffer: Buffer,
        first_commit: u64,
        continued: bool,
    ) -> Result<Self, BufferAllocError> {
        buffer.truncate(0);
        buffer.grow(1)?;
        Ok(Self {
            block,
            blocks_max,
            buffer,
            data_len: 0,
            records: Vec::new(),
            first_commit,
            commits_ending: 0,
            continued,
            continues: false,
            keeps_length: false,
        })
    }

    /// Bytes that can still be added.
    pub(crate) fn room_bytes(&self) -> usize {
        capacity_bytes(self.blocks_max).saturating_sub(self.data_len + self.records.len())
    }

    /// Bytes gathered so far.
    pub(crate) fn len_bytes(&self) -> usize {
        self.data_len + self.records.len()
    }

    pub(crate) fn block(&self) -> BlockIndex {
        self.block
    }

    /// Makes sure that [`add`](Self::add) of these parts finds memory.
    pub(crate) fn reserve(&mut self, parts: &[Part<'_>]) -> Result<(), BufferAllocError> {
        let (_, data) = lengths(parts);
        let records = framed_bytes(parts) - data;
        self.records
            .try_reserve(records)
            .map_err(|_| BufferAllocError)?;
        // The records go behind the data in the end.
        let bytes = GROUP_HEADER_BYTES + self.len_bytes() + data + records;
        let blocks = bytes.div_ceil(BLOCK_SIZE);
        let blocks_now = self.buffer.len_blocks();
        self.buffer.grow(blocks)?;
        debug_assert!(self.buffer.len_blocks() >= blocks_now);
        Ok(())
    }

    /// Adds parts of one commit, which fit and for which memory was reserved; `place` is told the address of
    /// each part that has data.
    pub(crate) fn add(&mut self, parts: &[Part<'_>], mut place: impl FnMut(u64)) {
        let record_bytes = parts
            .iter()
            .map(|p| p.head.len() + p.body.len())
            .sum::<usize>();
        let data_bytes = parts.iter().map(|part| part.data.len()).sum::<usize>();
        put_varint(&mut self.records, record_bytes as u64);
        put_varint(&mut self.records, data_bytes as u64);
        for part in parts {
            self.records.extend_from_slice(part.head);
            self.records.extend_from_slice(part.body);
            if part.data.is_empty() {
                continue;
            }
            let start = GROUP_HEADER_BYTES + self.data_len;
            let target = self
                .buffer
                .bytes_mut()
                .get_mut(start..start + part.data.len());
            if let Some(target) = target {
                target.copy_from_slice(part.data);
            }
            place(self.block.0 * BLOCK_SIZE as u64 + start as u64);
            self.data_len += part.data.len();
        }
    }

    /// Ends the group: returns it with its header's checksum and its length in blocks.
    pub(crate) fn seal(
        self,
        kind: GroupKind,
        vault: &Vault,
        chain: Chain,
    ) -> (SealedGroup, u32, u32) {
        let mut buffer = self.buffer;
        let data_end = GROUP_HEADER_BYTES + self.data_len;
        let data = buffer.bytes().get(GROUP_HEADER_BYTES..data_end);
        // A group is at most half a segment, far below 4 GiB.
        let len = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let mut header = GroupHeader {
            kind,
            sequence: chain.sequence,
            first_commit: self.first_commit,
            checkpoint: chain.checkpoint,
            commits_ending: self.commits_ending,
            continued: self.continued,
            continues: self.continues,
            compressed: false,
            encrypted: false,
            previous_checksum: chain.previous_checksum,
            data_len: len(self.data_len),
            data_checksum: checksum(data.unwrap_or_default()),
            records_len: 0,
            records_raw_len: 0,
            records_checksum: 0,
            next_segments: chain.next_segments,
            seal: [0; SEAL_BYTES],
        };
        let records = header.take_records(vault, self.block, self.records, !self.keeps_length);
        let end = data_end + records.len();
        let blocks = end.div_ceil(BLOCK_SIZE);
        buffer.truncate(blocks);
        let bytes = buffer.bytes_mut();
        if let Some(target) = bytes.get_mut(data_end..end) {
            target.copy_from_slice(&records);
        }
        bytes.get_mut(end..).unwrap_or_default().fill(0);
        let sum = header.encode(vault.id(), self.block, bytes);
        let group = SealedGroup {
            block: self.block,
            last_commit: (self.first_commit + u64::from(self.commits_ending)).saturating_sub(1),
            sequence: chain.sequence,
            buffer,
        };
        (group, sum, len(blocks))
    }

    /// Gathered data: `len` bytes from `address` on, if all of them lie in this group.
    pub(crate) fn get(&self, address: u64, len: usize) -> Option<&[u8]> {
        let end = GROUP_HEADER_BYTES + self.data_len;
        bytes_of(self.block, &self.buffer, end, address, len)
    }
}

impl SealedGroup {
    /// The `len` bytes from `address` on, if all of them lie in the group.
    pub(crate) fn get(&self, address: u64, len: usize) -> Option<&[u8]> {
        let end = self.buffer.bytes().len();
        bytes_of(self.block, &self.buffer, end, address, len)
    }
}

fn bytes_of(
    block: BlockIndex,
    buffer: &Buffer,
    end: usize,
    address: u64,
    len: usize,
) -> Option<&[u8]> {
    let start = address.checked_sub(block.0 * BLOCK_SIZE as u64)?;
    let start = usize::try_from(start).ok()?;
    buffer
        .bytes()
        .get(..end)?
        .get(start..start.checked_add(len)?)
}

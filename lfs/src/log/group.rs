//! Groups (SPEC.md, "Groups"): a header, data, and the records that say what the data are.
//!
//! A commit group belongs to the log and chains to the one before it. A group of survivors has the same form
//! and holds extents that the cleaner moved; it chains to nothing.

use alloc::borrow::Cow;
use alloc::vec::Vec;

use zerocopy::{FromBytes, IntoBytes};

use crate::disk::layout::{
    GROUP_MAGIC, GroupLayout, SEAL_BYTES, SURVIVORS_MAGIC, checksum, checksum_after_head,
};
use crate::disk::superblock::{FileSystemId, SegmentId, Superblock};
use crate::extent::{Algorithm, compress, decompress};
use crate::seal::{Purpose, Vault};
use crate::{BLOCK_SIZE, BlockIndex};

pub(crate) const GROUP_HEADER_BYTES: usize = size_of::<GroupLayout>();

const FLAG_CONTINUED: u32 = 1;
const FLAG_CONTINUES: u32 = 2;
const FLAG_COMPRESSED: u32 = 4;
const FLAG_ENCRYPTED: u32 = 8;
const FLAGS: u32 = FLAG_CONTINUED | FLAG_CONTINUES | FLAG_COMPRESSED | FLAG_ENCRYPTED;

/// In a header, a segment that was not decided on.
const NO_SEGMENT: u32 = u32::MAX;

/// What a group belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GroupKind {
    Commits,
    Survivors,
}

/// A group's header, as read or to be written.
#[expect(clippy::struct_excessive_bools, reason = "the flags of the format")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupHeader {
    pub kind: GroupKind,
    pub sequence: u64,
    /// The commit the first record belongs to.
    pub first_commit: u64,
    /// Sequence number of the checkpoint that was in force.
    pub checkpoint: u64,
    /// Commits whose last record is in this group.
    pub commits_ending: u32,
    /// The records begin inside a commit.
    pub continued: bool,
    /// The records end inside a commit.
    pub continues: bool,
    pub compressed: bool,
    pub encrypted: bool,
    pub previous_checksum: u32,
    pub data_len: u32,
    pub data_checksum: u32,
    pub records_len: u32,
    pub records_raw_len: u32,
    pub records_checksum: u32,
    /// The segments that the log goes to next.
    pub next_segments: [Option<SegmentId>; 2],
    /// Nonce and tag of encrypted records.
    pub seal: [u8; SEAL_BYTES],
}

impl GroupHeader {
    /// Bytes of the group without padding.
    pub(crate) fn len_bytes(&self) -> u64 {
        GROUP_HEADER_BYTES as u64 + u64::from(self.data_len) + u64::from(self.records_len)
    }

    /// Blocks of the group, header and padding included.
    pub(crate) fn blocks(&self) -> u32 {
        u32::try_from(self.len_bytes().div_ceil(BLOCK_SIZE as u64)).unwrap_or(u32::MAX)
    }

    /// Puts `records` into the form in which they are stored, compressed if that pays and `may_shrink`, and encrypted where
    /// there is a key, and notes all of that. Everything else in the header but its checksum must be there already.
    pub(crate) fn take_records(
        &mut self,
        vault: &Vault,
        own: BlockIndex,
        records: Vec<u8>,
        may_shrink: bool,
    ) -> Vec<u8> {
        // A group is at most half a segment, far below 4 GiB.
        let len = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        self.records_raw_len = len(records.len());
        let mut stored = records;
        let mut compressed = Vec::new();
        self.compressed = may_shrink && compress(vault.algorithm(), &stored, &mut compressed);
        if self.compressed {
            stored = compressed;
        }
        self.records_len = len(stored.len());
        self.encrypted = vault.sealer().is_keyed();
        let context = self.context(vault.id(), own);
        self.seal = vault.seal(Purpose::Group, &context, &mut stored);
        self.records_checksum = checksum(&stored);
        stored
    }

    /// What the seal of the records covers beside them: the header, but for what depends on the seal.
    fn context(&self, id: FileSystemId, own: BlockIndex) -> [u8; GROUP_HEADER_BYTES] {
        let mut context = [0; GROUP_HEADER_BYTES];
        let mut layout = self.layout(id, own);
        layout.records_checksum = 0.into();
        layout.seal = [0; SEAL_BYTES];
        context.copy_from_slice(layout.as_bytes());
        context
    }

    /// Writes the header to the start of `group`, whose data and records are in place behind it, and returns
    /// the header's checksum, to which the next group chains.
    pub(crate) fn encode(&self, id: FileSystemId, own: BlockIndex, group: &mut [u8]) -> u32 {
        let mut layout = self.layout(id, own);
        let sum = checksum_after_head(layout.as_bytes());
        layout.checksum = sum.into();
        if let Some(head) = group.get_mut(..GROUP_HEADER_BYTES) {
            head.copy_from_slice(layout.as_bytes());
        }
        sum
    }

    /// The header as it lies on the disk, without its checksum.
    fn layout(&self, id: FileSystemId, own: BlockIndex) -> GroupLayout {
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        let next = |segment: Option<SegmentId>| segment.map_or(NO_SEGMENT, |segment| segment.0);
        let [first, second] = self.next_segments;
        GroupLayout {
            magic: match self.kind {
                GroupKind::Commits => GROUP_MAGIC,
                GroupKind::Survivors => SURVIVORS_MAGIC,
            },
            checksum: 0.into(),
            filesystem_id: id.0,
            own_block: own.0.into(),
            sequence: self.sequence.into(),
            first_commit: self.first_commit.into(),
            checkpoint: self.checkpoint.into(),
            commits_ending: self.commits_ending.into(),
            flags: (flag(self.continued, FLAG_CONTINUED)
                | flag(self.continues, FLAG_CONTINUES)
                | flag(self.compressed, FLAG_COMPRESSED)
                | flag(self.encrypted, FLAG_ENCRYPTED))
            .into(),
            previous_checksum: self.previous_checksum.into(),
            data_len: self.data_len.into(),
            data_checksum: self.data_checksum.into(),
            records_len: self.records_len.into(),
            records_raw_len: self.records_raw_len.into(),
            records_checksum: self.records_checksum.into(),
            next_segments: [next(first).into(), next(second).into()],
            seal: self.seal,
            reserved: [0; 24],
        }
    }

    /// The header at the start of `block` and its checksum, if it is a valid one that belongs there.
    pub(crate) fn decode(
        kind: GroupKind,
        id: FileSystemId,
        own: BlockIndex,
        block: &[u8],
    ) -> Option<(Self, u32)> {
        let (layout, _) = GroupLayout::ref_from_prefix(block).ok()?;
        let magic = match kind {
            GroupKind::Commits => GROUP_MAGIC,
            GroupKind::Survivors => SURVIVORS_MAGIC,
        };
        let flags = layout.flags.get();
        // Cheap tests first: most candidates are not headers at all.
        if layout.magic != magic
            || layout.filesystem_id != id.0
            || layout.own_block.get() != own.0
            || layout.checksum.get() != checksum_after_head(layout.as_bytes())
            || flags & !FLAGS != 0
        {
            return None;
        }
        let next = |raw: u32| (raw != NO_SEGMENT).then_some(SegmentId(raw));
        let [first, second] = layout.next_segments;
        let header = Self {
            kind,
            sequence: layout.sequence.get(),
            first_commit: layout.first_commit.get(),
            checkpoint: layout.checkpoint.get(),
            commits_ending: layout.commits_ending.get(),
            continued: flags & FLAG_CONTINUED != 0,
            continues: flags & FLAG_CONTINUES != 0,
            compressed: flags & FLAG_COMPRESSED != 0,
            encrypted: flags & FLAG_ENCRYPTED != 0,
            previous_checksum: layout.previous_checksum.get(),
            data_len: layout.data_len.get(),
            data_checksum: layout.data_checksum.get(),
            records_len: layout.records_len.get(),
            records_raw_len: layout.records_raw_len.get(),
            records_checksum: layout.records_checksum.get(),
            next_segments: [next(first.get()), next(second.get())],
            seal: layout.seal,
        };
        Some((header, layout.checksum.get()))
    }

    /// The records as stored, if they are all in `group` (header included) and their checksum is right.
    fn stored_records<'g>(&self, group: &'g [u8]) -> Option<&'g [u8]> {
        let start = GROUP_HEADER_BYTES.checked_add(self.data_len as usize)?;
        let records = group.get(start..start.checked_add(self.records_len as usize)?)?;
        (checksum(records) == self.records_checksum).then_some(records)
    }

    /// Whether the records are all in `group` and their checksum is right.
    pub(crate) fn has_records(&self, group: &[u8]) -> bool {
        self.stored_records(group).is_some()
    }

    /// The records in `group`, which was read at `own`; `None` when they are not those that were written there.
    pub(crate) fn records<'g>(
        &self,
        superblock: &Superblock,
        vault: &Vault,
        own: BlockIndex,
        group: &'g [u8],
    ) -> Option<Cow<'g, [u8]>> {
        let stored = self.stored_records(group)?;
        // A file system with a key takes nothing that is merely checksummed: it may have been slipped in.
        if self.encrypted != vault.sealer().is_keyed() {
            return None;
        }
        let mut records = Cow::Borrowed(stored);
        if self.encrypted {
            let context = self.context(vault.id(), own);
            let body = records.to_mut();
            if !vault.open(Purpose::Group, &context, body, &self.seal) {
                return None;
            }
        } else if self.seal != [0; SEAL_BYTES] {
            return None;
        }
        let raw_len = self.records_raw_len as usize;
        if !self.compressed {
            return (raw_len == records.len()).then_some(records);
        }
        // Records gather as they are, so more than a group takes cannot have been compressed.
        let raw_max = superblock.group_blocks_max() as usize * BLOCK_SIZE;
        if raw_len > raw_max {
            return None;
        }
        let records = decompress(Algorithm::Lz4, &records, raw_len).ok()?;
        Some(Cow::Owned(records))
    }

    /// Whether the data are all in `group` and their checksum is right.
    pub(crate) fn has_data(&self, group: &[u8]) -> bool {
        let end = GROUP_HEADER_BYTES.saturating_add(self.data_len as usize);
        group
            .get(GROUP_HEADER_BYTES..end)
            .is_some_and(|data| checksum(data) == self.data_checksum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::superblock::tests::example;

    #[test]
    fn every_flipped_bit_of_header_data_or_records_shows() {
        let id = FileSystemId([3; 16]);
        let own = BlockIndex(42);
        let (data, records) = (b"some data", b"some records");
        let mut group = [0_u8; GROUP_HEADER_BYTES + 21];
        group[GROUP_HEADER_BYTES..GROUP_HEADER_BYTES + 9].copy_from_slice(data);
        group[GROUP_HEADER_BYTES + 9..].copy_from_slice(records);
        let header = GroupHeader {
            kind: GroupKind::Commits,
            sequence: 9,
            first_commit: 5,
            checkpoint: 8,
            commits_ending: 1,
            continued: true,
            continues: false,
            compressed: false,
            encrypted: false,
            previous_checksum: 77,
            data_len: 9,
            data_checksum: checksum(data),
            records_len: 12,
            records_raw_len: 12,
            records_checksum: checksum(records),
            next_segments: [Some(SegmentId(4)), None],
            seal: [0; SEAL_BYTES],
        };
        let sum = header.encode(id, own, &mut group);
        let decode = |kind, id, own, group: &[u8]| GroupHeader::decode(kind, id, own, group);
        assert_eq!(
            decode(GroupKind::Commits, id, own, &group),
            Some((header, sum))
        );
        let (superblock, vault) = (example(), Vault::plain(id));
        let found = header.records(&superblock, &vault, own, &group);
        assert_eq!(found.as_deref(), Some(&records[..]));
        assert!(header.has_data(&group));
        assert!(decode(GroupKind::Survivors, id, own, &group).is_none());
        assert!(decode(GroupKind::Commits, id, BlockIndex(43), &group).is_none());
        assert!(decode(GroupKind::Commits, FileSystemId([4; 16]), own, &group).is_none());
        for bit in 0..group.len() * 8 {
            group[bit / 8] ^= 1 << (bit % 8);
            let valid = decode(GroupKind::Commits, id, own, &group)
                .is_some_and(|(h, _)| h.has_records(&group) && h.has_data(&group));
            assert!(!valid, "bit {bit} does not matter");
            group[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

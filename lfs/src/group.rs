//! Commit groups on disk (SPEC.md, "Commit groups"): a header, then a slice of the commit stream.
//!
//! The commit stream is every commit in order, each framed by its length. A group holds whole
//! commits, unless one commit is larger than a group: then groups of their own carry its parts and
//! say so in their flags. A group's header names its sequence number and the checksum of the header
//! before it, so groups form one chain and bytes of a segment's earlier life never fit into it.

use zerocopy::{FromBytes, IntoBytes};

use crate::layout::{GROUP_MAGIC, GroupLayout, checksum, checksum_after_head};
use crate::superblock::FileSystemId;
use crate::{BLOCK_SIZE, BlockIndex};

pub(crate) const GROUP_HEADER_BYTES: usize = size_of::<GroupLayout>();

/// Bytes that frame a commit in the commit stream: its length.
pub(crate) const COMMIT_FRAME_BYTES: usize = 4;

const FLAG_CONTINUED: u32 = 1;
const FLAG_CONTINUES: u32 = 2;

/// A group's header, as read or to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupHeader {
    pub sequence: u64,
    /// The commit the first payload byte belongs to.
    pub first_commit: u64,
    /// Commits whose last byte is in this group.
    pub commits_ending: u32,
    /// The payload begins inside a commit.
    pub continued: bool,
    /// The payload ends inside a commit.
    pub continues: bool,
    pub previous_checksum: u32,
    pub payload_len: u32,
    pub payload_checksum: u32,
    /// Sequence number of the checkpoint that was in force.
    pub checkpoint: u64,
}

impl GroupHeader {
    /// Blocks of the group, header and padding included.
    pub(crate) fn blocks(&self) -> u32 {
        let bytes = GROUP_HEADER_BYTES as u64 + u64::from(self.payload_len);
        u32::try_from(bytes.div_ceil(BLOCK_SIZE as u64)).unwrap_or(u32::MAX)
    }

    /// Writes the header to the start of `group`, whose payload is in place behind it, and returns
    /// the header's checksum, to which the next group chains.
    pub(crate) fn encode(&self, id: FileSystemId, own: BlockIndex, group: &mut [u8]) -> u32 {
        let flags = if self.continued { FLAG_CONTINUED } else { 0 }
            | if self.continues { FLAG_CONTINUES } else { 0 };
        let mut layout = GroupLayout {
            magic: GROUP_MAGIC,
            checksum: 0.into(),
            filesystem_id: id.0,
            own_block: own.0.into(),
            sequence: self.sequence.into(),
            first_commit: self.first_commit.into(),
            commits_ending: self.commits_ending.into(),
            flags: flags.into(),
            previous_checksum: self.previous_checksum.into(),
            payload_len: self.payload_len.into(),
            payload_checksum: self.payload_checksum.into(),
            checkpoint: self.checkpoint.into(),
            reserved: [0; 4],
        };
        let sum = checksum_after_head(layout.as_bytes());
        layout.checksum = sum.into();
        if let Some(head) = group.get_mut(..GROUP_HEADER_BYTES) {
            head.copy_from_slice(layout.as_bytes());
        }
        sum
    }

    /// The header at the start of `block` and its checksum, if it is a valid one that belongs there.
    pub(crate) fn decode(id: FileSystemId, own: BlockIndex, block: &[u8]) -> Option<(Self, u32)> {
        let (layout, _) = GroupLayout::ref_from_prefix(block).ok()?;
        // Cheap tests first: most candidates are not headers at all.
        if layout.magic != GROUP_MAGIC
            || layout.filesystem_id != id.0
            || layout.own_block.get() != own.0
            || layout.checksum.get() != checksum_after_head(layout.as_bytes())
            || layout.flags.get() & !(FLAG_CONTINUED | FLAG_CONTINUES) != 0
        {
            return None;
        }
        let header = Self {
            sequence: layout.sequence.get(),
            first_commit: layout.first_commit.get(),
            commits_ending: layout.commits_ending.get(),
            continued: layout.flags.get() & FLAG_CONTINUED != 0,
            continues: layout.flags.get() & FLAG_CONTINUES != 0,
            previous_checksum: layout.previous_checksum.get(),
            payload_len: layout.payload_len.get(),
            payload_checksum: layout.payload_checksum.get(),
            checkpoint: layout.checkpoint.get(),
        };
        Some((header, layout.checksum.get()))
    }

    /// The payload in `group` (header included), if it is all there and its checksum is right.
    pub(crate) fn payload<'g>(&self, group: &'g [u8]) -> Option<&'g [u8]> {
        let end = GROUP_HEADER_BYTES.checked_add(self.payload_len as usize)?;
        let payload = group.get(GROUP_HEADER_BYTES..end)?;
        (checksum(payload) == self.payload_checksum).then_some(payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_of_header_or_payload_shows() {
        let id = FileSystemId([3; 16]);
        let own = BlockIndex(42);
        let payload = b"some commits";
        let mut group = [0_u8; GROUP_HEADER_BYTES + 12];
        group[GROUP_HEADER_BYTES..].copy_from_slice(payload);
        let header = GroupHeader {
            sequence: 9,
            first_commit: 5,
            commits_ending: 1,
            continued: true,
            continues: false,
            previous_checksum: 77,
            payload_len: 12,
            payload_checksum: checksum(payload),
            checkpoint: 8,
        };
        let sum = header.encode(id, own, &mut group);
        assert_eq!(GroupHeader::decode(id, own, &group), Some((header, sum)));
        assert_eq!(header.payload(&group), Some(&payload[..]));
        assert!(GroupHeader::decode(id, BlockIndex(43), &group).is_none());
        assert!(GroupHeader::decode(FileSystemId([4; 16]), own, &group).is_none());
        for bit in 0..group.len() * 8 {
            group[bit / 8] ^= 1 << (bit % 8);
            let valid = GroupHeader::decode(id, own, &group)
                .is_some_and(|(h, _)| h.payload(&group).is_some());
            assert!(!valid, "bit {bit} does not matter");
            group[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

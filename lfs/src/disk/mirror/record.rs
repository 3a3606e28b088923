//! The member record: what a disk of a mirror knows of itself and of the other (SPEC.md, "Member record").
//!
//! Two homes take turns, so that one is always whole. It is never copied from one disk to the other.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::regions::{Cut, Regions};
use crate::disk::layout::checksum_after_head;
use crate::{BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, DeviceError, FileSystemId};

/// The homes of the record.
pub(crate) const RECORD_BLOCKS: [BlockIndex; 2] = [BlockIndex(7), BlockIndex(8)];

const MAGIC: [u8; 4] = *b"SiMm";
/// Bytes of the bitmap: the rest of the block.
pub(super) const BITMAP_BYTES: usize = BLOCK_SIZE - HEAD_BYTES;
const HEAD_BYTES: usize = 128;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RecordLayout {
    magic: [u8; 4],
    /// CRC-32 of everything after this field to the end of the block.
    checksum: U32,
    filesystem_id: [u8; 16],
    own_block: U64,
    /// Of two valid ones the higher counts.
    generation: U64,
    id: [u8; 16],
    other_id: [u8; 16],
    epoch: U64,
    base: U64,
    other: u8,
    incomplete: u8,
    reserved: [u8; 2],
    region_blocks: U32,
    reserved_too: [u8; 32],
}
const _: () = assert!(size_of::<RecordLayout>() == HEAD_BYTES);

/// Which disk of all there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MemberId(pub [u8; 16]);

/// What a member says of the other one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Other {
    /// It has everything that was acknowledged.
    In,
    /// It lacks what the marked regions hold.
    Out,
    /// It has everything, and is in if its own record says the same epoch.
    Joining,
}

/// What a disk of a mirror knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub filesystem: FileSystemId,
    pub generation: u64,
    pub id: MemberId,
    pub other_id: MemberId,
    /// Counts who was in: one more whenever that changes, and whenever both start together.
    pub epoch: u64,
    /// Marks say what was written since this epoch.
    pub base: u64,
    pub other: Other,
    /// It is being brought up to date: its content is of no one moment.
    pub incomplete: bool,
    pub cut: Cut,
    /// What the other lacks.
    pub marks: Regions,
}

/// What can be read of a device's record.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub record: Option<Record>,
    /// Why a home could not be read: it may hold a newer record. The one after `record` goes there.
    pub unread: Option<DeviceError>,
}

impl Record {
    /// Where the next one is to be written.
    pub(super) fn home(&self) -> BlockIndex {
        let [even, odd] = RECORD_BLOCKS;
        if self.generation.is_multiple_of(2) {
            even
        } else {
            odd
        }
    }

    /// The block for [`home`](Self::home).
    pub(super) fn encode(&self) -> Option<Buffer> {
        let layout = RecordLayout {
            magic: MAGIC,
            checksum: 0.into(),
            filesystem_id: self.filesystem.0,
            own_block: self.home().0.into(),
            generation: self.generation.into(),
            id: self.id.0,
            other_id: self.other_id.0,
            epoch: self.epoch.into(),
            base: self.base.into(),
            other: match self.other {
                Other::In => 0,
                Other::Out => 1,
                Other::Joining => 2,
            },
            incomplete: u8::from(self.incomplete),
            reserved: [0; 2],
            region_blocks: self.cut.region_blocks.into(),
            reserved_too: [0; 32],
        };
        let mut buffer = Buffer::zeroed(1).ok()?;
        let (head, bitmap) = buffer.bytes_mut().split_at_mut_checked(HEAD_BYTES)?;
        head.copy_from_slice(layout.as_bytes());
        let bits = self.marks.bytes();
        bitmap.get_mut(..bits.len())?.copy_from_slice(bits);
        let sum = checksum_after_head(buffer.bytes());
        buffer
            .bytes_mut()
            .get_mut(4..8)?
            .copy_from_slice(&sum.to_le_bytes());
        Some(buffer)
    }

    /// The record found at `own`, of a disk that is cut as `cut` says now.
    fn decode(bytes: &[u8], own: BlockIndex, block_count: u64) -> Option<Self> {
        let (layout, bitmap) = RecordLayout::ref_from_prefix(bytes).ok()?;
        let region_blocks = layout.region_blocks.get();
        let epochs = [&layout.epoch, &layout.base, &layout.generation];
        let valid = layout.magic == MAGIC
            && layout.checksum.get() == checksum_after_head(bytes)
            && layout.own_block.get() == own.0
            && region_blocks.is_power_of_two()
            && epochs.iter().all(|number| number.get() < 1 << 62);
        if !valid {
            return None;
        }
        let cut = Cut::new(block_count, region_blocks);
        Some(Self {
            filesystem: FileSystemId(layout.filesystem_id),
            generation: layout.generation.get(),
            id: MemberId(layout.id),
            other_id: MemberId(layout.other_id),
            epoch: layout.epoch.get(),
            base: layout.base.get(),
            other: match layout.other {
                0 => Other::In,
                1 => Other::Out,
                2 => Other::Joining,
                _ => return None,
            },
            incomplete: layout.incomplete != 0,
            cut,
            marks: Regions::from_bytes(bitmap, region_blocks, cut),
        })
    }

    /// Reads what a device has.
    pub(super) async fn read<A: BlockDevice>(device: &A) -> Reading {
        let block_count = device.geometry().block_count;
        let mut reading = Reading::default();
        // A disk that ends before has none.
        for own in RECORD_BLOCKS.into_iter().filter(|own| own.0 < block_count) {
            let Ok(buffer) = Buffer::zeroed(1) else {
                reading.unread = Some(DeviceError::Io);
                continue;
            };
            let (buffer, read) = device.read(own, buffer).await;
            if let Err(error) = read {
                reading.unread = Some(error);
                continue;
            }
            let found = Self::decode(buffer.bytes(), own, block_count);
            let best = reading.record.as_ref().map(|best| best.generation);
            if let Some(found) = found
                && best.is_none_or(|best| found.generation > best)
            {
                reading.record = Some(found);
            }
        }
        reading
    }

    /// Writes the record over the older home. Durable on return.
    ///
    /// # Errors
    /// When the device fails; then it holds this one or the one before.
    pub(super) async fn write<A: BlockDevice>(&self, device: &A) -> Result<(), DeviceError> {
        let buffer = self.encode().ok_or(DeviceError::Io)?;
        device.write(self.home(), buffer).await.1?;
        device.flush().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_no_bit_of_it_is_without_effect() {
        let cut = Cut::new(65_536, 128);
        let mut marks = Regions::default();
        marks.insert(0);
        marks.insert(511);
        let record = Record {
            filesystem: FileSystemId([1; 16]),
            generation: 3,
            id: MemberId([2; 16]),
            other_id: MemberId([3; 16]),
            epoch: 9,
            base: 7,
            other: Other::Joining,
            incomplete: true,
            cut,
            marks,
        };
        let mut buffer = record.encode().expect("memory");
        let home = record.home();
        let read = |buffer: &Buffer| Record::decode(buffer.bytes(), home, 65_536);
        assert_eq!(read(&buffer), Some(record.clone()));
        assert_eq!(
            Record::decode(buffer.bytes(), RECORD_BLOCKS[0], 65_536),
            None
        );
        for bit in (0..BLOCK_SIZE * 8).step_by(7) {
            buffer.bytes_mut()[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&buffer), None, "bit {bit}");
            buffer.bytes_mut()[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

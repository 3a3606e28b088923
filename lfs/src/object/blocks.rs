//! An object's segments as one device: whoever reads or mends chunks need not know where a segment ends.

use crate::disk::superblock::{SegmentId, Superblock};
use crate::{BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, DeviceError, DeviceGeometry};

/// The blocks of an object, to be read and mended: block i holds its bytes from 4,096·i on.
pub(crate) struct ObjectBlocks<'d, D> {
    device: &'d D,
    superblock: Superblock,
    /// The number of the first of `segments` in the object; those before it are not asked for.
    first_segment: u64,
    segments: &'d [SegmentId],
}

impl<'d, D: BlockDevice> ObjectBlocks<'d, D> {
    pub(crate) fn new(
        device: &'d D,
        superblock: Superblock,
        first_segment: u64,
        segments: &'d [SegmentId],
    ) -> Self {
        Self {
            device,
            superblock,
            first_segment,
            segments,
        }
    }

    fn segment_blocks(&self) -> u64 {
        u64::from(self.superblock.segment_blocks)
    }

    /// Where a block is on the disk.
    pub(crate) fn place(&self, block: BlockIndex) -> Option<BlockIndex> {
        let segment = (block.0 / self.segment_blocks()).checked_sub(self.first_segment)?;
        let segment = self.segments.get(usize::try_from(segment).ok()?)?;
        let within = block.0 % self.segment_blocks();
        Some(BlockIndex(
            self.superblock.segment_start(*segment).0 + within,
        ))
    }

    /// Of `blocks` blocks from `start` on how many are in its segment.
    fn in_segment(&self, start: BlockIndex, blocks: usize) -> usize {
        let left = self.segment_blocks() - start.0 % self.segment_blocks();
        usize::try_from(left).map_or(blocks, |left| left.min(blocks))
    }

    async fn read_from(
        &self,
        copy: Option<u8>,
        start: BlockIndex,
        buffer: Buffer,
    ) -> (Buffer, Result<(), DeviceError>) {
        let Some(place) = self.place(start) else {
            return (buffer, Err(DeviceError::OutOfRange));
        };
        match copy {
            Some(copy) => self.device.read_copy(copy, place, buffer).await,
            None => self.device.read(place, buffer).await,
        }
    }

    /// Reads with a request for each segment.
    async fn read_all(
        &self,
        copy: Option<u8>,
        start: BlockIndex,
        mut buffer: Buffer,
    ) -> (Buffer, Result<(), DeviceError>) {
        let blocks = buffer.len_blocks();
        if self.in_segment(start, blocks) == blocks {
            return self.read_from(copy, start, buffer).await;
        }
        let mut done = 0;
        while done < blocks {
            let next = BlockIndex(start.0 + done as u64);
            let count = self.in_segment(next, blocks - done);
            let Ok(part) = Buffer::zeroed(count) else {
                return (buffer, Err(DeviceError::Io));
            };
            let (part, read) = self.read_from(copy, next, part).await;
            let target = buffer.bytes_mut();
            let target = target.get_mut(done * BLOCK_SIZE..(done + count) * BLOCK_SIZE);
            match (read, target) {
                (Ok(()), Some(target)) => target.copy_from_slice(part.bytes()),
                (Err(error), _) => return (buffer, Err(error)),
                (Ok(()), None) => return (buffer, Err(DeviceError::OutOfRange)),
            }
            done += count;
        }
        (buffer, Ok(()))
    }
}

impl<D: BlockDevice> BlockDevice for ObjectBlocks<'_, D> {
    fn geometry(&self) -> DeviceGeometry {
        let segments = self.first_segment + self.segments.len() as u64;
        DeviceGeometry {
            block_count: segments.saturating_mul(self.segment_blocks()),
            discard: false,
        }
    }

    async fn read(&self, start: BlockIndex, buffer: Buffer) -> (Buffer, Result<(), DeviceError>) {
        self.read_all(None, start, buffer).await
    }

    async fn write(&self, _: BlockIndex, buffer: Buffer) -> (Buffer, Result<(), DeviceError>) {
        (buffer, Err(DeviceError::Unsupported))
    }

    async fn flush(&self) -> Result<(), DeviceError> {
        self.device.flush().await
    }

    async fn discard(&self, _: BlockIndex, _: u64) -> Result<(), DeviceError> {
        Err(DeviceError::Unsupported)
    }

    fn copies(&self) -> u8 {
        self.device.copies()
    }

    async fn read_copy(
        &self,
        copy: u8,
        start: BlockIndex,
        buffer: Buffer,
    ) -> (Buffer, Result<(), DeviceError>) {
        self.read_all(Some(copy), start, buffer).await
    }

    async fn mend(&self, copy: u8, address: u64, good: &[u8]) -> Result<bool, DeviceError> {
        let block = BLOCK_SIZE as u64;
        let segment_bytes = self.segment_blocks() * block;
        let (mut address, mut rest) = (address, good);
        let mut mended = false;
        while !rest.is_empty() {
            let left = segment_bytes - address % segment_bytes;
            let left = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
            let (part, behind) = rest.split_at(left);
            let place = self.place(BlockIndex(address / block));
            let place = place.ok_or(DeviceError::OutOfRange)?.0 * block + address % block;
            mended |= self.device.mend(copy, place, part).await?;
            (address, rest) = (address + part.len() as u64, behind);
        }
        Ok(mended)
    }
}

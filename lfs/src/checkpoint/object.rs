//! Objects: immutable byte streams that own whole segments (SPEC.md, "Objects").
//!
//! An object is written once, front to back, and named by a checkpoint from then on. It is cut into
//! frames, each with its own header and checksum, so damage is found where it is and by whoever reads
//! it. Deleting an object frees its segments; there is never anything to copy.

use alloc::borrow::Cow;
use alloc::vec::Vec;

use zerocopy::{FromBytes, IntoBytes};

use super::ObjectInfo;
use crate::disk::layout::{FRAME_MAGIC, FrameLayout, SEAL_AT, SEAL_BYTES};
use crate::disk::read_checked;
use crate::disk::superblock::{SegmentId, Superblock};
use crate::mount::FileSystem;
use crate::seal::{Purpose, SharedVault};
use crate::{
    BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, DeviceError, ObjectId, ObjectReadError,
    ObjectWriteError,
};

const FRAME_HEADER_BYTES: usize = size_of::<FrameLayout>();

/// Payload bytes of a frame that is not the last.
fn frame_payload_bytes(superblock: &Superblock) -> usize {
    superblock.frame_blocks() as usize * BLOCK_SIZE - FRAME_HEADER_BYTES
}

/// Frames that a segment holds.
fn frames_per_segment(superblock: &Superblock) -> u32 {
    superblock.segment_blocks / superblock.frame_blocks()
}

/// Segments that `len_bytes` of an object take.
pub(crate) fn segments_for(superblock: &Superblock, len_bytes: u64) -> u64 {
    let per_segment =
        frame_payload_bytes(superblock) as u64 * u64::from(frames_per_segment(superblock));
    len_bytes.div_ceil(per_segment)
}

/// Where frame `frame` of an object with these segments begins.
fn frame_block(superblock: &Superblock, segments: &[SegmentId], frame: u32) -> Option<BlockIndex> {
    let per_segment = frames_per_segment(superblock);
    let segment = segments.get((frame / per_segment) as usize)?;
    let offset = u64::from(frame % per_segment) * u64::from(superblock.frame_blocks());
    Some(BlockIndex(superblock.segment_start(*segment).0 + offset))
}

/// Writes one object, front to back.
///
/// Dropped before [`finish`](Self::finish) it gives its segments back, unless a write is still under
/// way in them: then they stay unused until the next mount.
pub struct ObjectWriter<'f, D: BlockDevice> {
    filesystem: &'f FileSystem<D>,
    id: ObjectId,
    info: ObjectInfo,
    frame: u32,
    /// `None` while the device has it.
    buffer: Option<Buffer>,
    /// Payload bytes in `buffer`.
    filled: usize,
    finished: bool,
}

impl<'f, D: BlockDevice> ObjectWriter<'f, D> {
    pub(crate) fn new(
        filesystem: &'f FileSystem<D>,
        id: ObjectId,
    ) -> Result<Self, ObjectWriteError> {
        let blocks = filesystem.superblock().frame_blocks() as usize;
        let buffer = Buffer::zeroed(blocks).map_err(|_| ObjectWriteError::OutOfMemory)?;
        let info = ObjectInfo::default();
        Ok(Self {
            filesystem,
            id,
            info,
            frame: 0,
            buffer: Some(buffer),
            filled: 0,
            finished: false,
        })
    }

    /// Appends `bytes`. Waits for the device whenever a frame is full.
    ///
    /// # Errors
    /// After an error the object cannot be finished.
    pub async fn append(&mut self, mut bytes: &[u8]) -> Result<(), ObjectWriteError> {
        while !bytes.is_empty() {
            let room = frame_payload_bytes(self.filesystem.superblock()) - self.filled;
            let (head, rest) = bytes.split_at(room.min(bytes.len()));
            let start = FRAME_HEADER_BYTES + self.filled;
            let buffer = self.buffer.as_mut().ok_or(ObjectWriteError::Failed)?;
            let target = buffer.bytes_mut().get_mut(start..start + head.len());
            target
                .ok_or(ObjectWriteError::Failed)?
                .copy_from_slice(head);
            self.filled += head.len();
            bytes = rest;
            if head.len() == room {
                self.write_frame().await?;
            }
        }
        Ok(())
    }

    /// Bytes appended so far.
    pub fn len_bytes(&self) -> u64 {
        self.info.len_bytes + self.filled as u64
    }

    /// Writes what is left and ends the object. Durable, and there after the next mount, only once a
    /// checkpoint that adds it is.
    ///
    /// # Errors
    /// As [`append`](Self::append); the object is gone then.
    pub async fn finish(mut self) -> Result<ObjectId, ObjectWriteError> {
        if self.filled > 0 {
            self.write_frame().await?;
        }
        self.finished = true;
        self.filesystem
            .add_object(self.id, core::mem::take(&mut self.info));
        Ok(self.id)
    }

    async fn write_frame(&mut self) -> Result<(), ObjectWriteError> {
        let superblock = self.filesystem.superblock();
        if self.frame.is_multiple_of(frames_per_segment(superblock)) {
            let segment = self
                .filesystem
                .allocate_segment()
                .ok_or(ObjectWriteError::Full)?;
            self.info.segments.push(segment);
        }
        let block = frame_block(superblock, &self.info.segments, self.frame)
            .ok_or(ObjectWriteError::Failed)?;
        let mut buffer = self.buffer.take().ok_or(ObjectWriteError::Failed)?;
        let end = FRAME_HEADER_BYTES + self.filled;
        let layout = FrameLayout {
            magic: FRAME_MAGIC,
            checksum: 0.into(),
            filesystem_id: superblock.id.0,
            own_block: block.0.into(),
            seal: [0; SEAL_BYTES],
            object: self.id.0.into(),
            frame: self.frame.into(),
            payload_len: u32::try_from(self.filled)
                .map_err(|_| ObjectWriteError::Failed)?
                .into(),
        };
        let blocks = end.div_ceil(BLOCK_SIZE);
        buffer.truncate(blocks);
        buffer
            .bytes_mut()
            .get_mut(end..)
            .unwrap_or_default()
            .fill(0);
        let frame = buffer
            .bytes_mut()
            .get_mut(..end)
            .ok_or(ObjectWriteError::Failed)?;
        let (head, _) = frame.split_at_mut(FRAME_HEADER_BYTES);
        head.copy_from_slice(layout.as_bytes());
        self.filesystem.vault.close(Purpose::Object, frame, SEAL_AT);

        let (mut buffer, written) = self.filesystem.device().write(block, buffer).await;
        let grown = buffer.grow(superblock.frame_blocks() as usize);
        self.buffer = Some(buffer);
        self.filesystem.count_written(blocks);
        written.map_err(|error| self.filesystem.write_failed(error))?;
        grown.map_err(|_| ObjectWriteError::OutOfMemory)?;
        self.info.len_bytes += self.filled as u64;
        self.filled = 0;
        self.frame += 1;
        Ok(())
    }
}

impl<D: BlockDevice> Drop for ObjectWriter<'_, D> {
    fn drop(&mut self) {
        if !self.finished && self.buffer.is_some() {
            self.filesystem.release_segments(&self.info.segments);
        }
    }
}

/// Reads one object front to back, a frame at a time.
pub struct ObjectReader {
    superblock: Superblock,
    vault: SharedVault,
    id: ObjectId,
    info: ObjectInfo,
    /// Frames that one request asks the device for.
    frames_at_once: u32,
    /// The next frame.
    frame: u32,
    /// Bytes from the next frame on.
    left: u64,
    /// The frames from `buffered` on, as the device returned them.
    buffer: Buffer,
    buffered: u32,
}

impl ObjectReader {
    pub(crate) fn new(
        superblock: Superblock,
        vault: SharedVault,
        id: ObjectId,
        info: ObjectInfo,
    ) -> Self {
        Self {
            superblock,
            vault,
            id,
            left: info.len_bytes,
            info,
            frames_at_once: 1,
            frame: 0,
            buffer: Buffer::default(),
            buffered: 0,
        }
    }

    /// Reads a whole segment with each request: fewer waits, for a segment's size of memory.
    #[must_use]
    pub fn by_segment(mut self) -> Self {
        self.frames_at_once = frames_per_segment(&self.superblock);
        self
    }

    /// Appends the next frame's bytes to `bytes`; false at the end.
    ///
    /// # Errors
    /// [`ObjectReadError::Damaged`] when what the disk returns is not this frame.
    pub async fn next_frame(
        &mut self,
        device: &impl BlockDevice,
        bytes: &mut Vec<u8>,
    ) -> Result<bool, ObjectReadError> {
        if self.left == 0 {
            return Ok(false);
        }
        let object = self.id;
        let damaged = |block| ObjectReadError::Damaged { object, block };
        let block = frame_block(&self.superblock, &self.info.segments, self.frame)
            .ok_or(damaged(BlockIndex(0)))?;
        let payload = self.left.min(frame_payload_bytes(&self.superblock) as u64);
        let payload = usize::try_from(payload).map_err(|_| ObjectReadError::OutOfMemory)?;
        if self.frame_in_buffer(payload).is_none() {
            self.fill_buffer(device, block).await?;
        }
        let is_good = |reader: &Self| {
            let frame = reader.frame_in_buffer(payload);
            frame.is_some_and(|frame| reader.check(block, frame).is_some())
        };
        if device.copies() > 1 && !is_good(self) {
            self.read_other_copy(device, block, payload).await?;
        }
        let found = self.frame_in_buffer(payload);
        let found = found
            .and_then(|frame| self.check(block, frame))
            .ok_or(damaged(block))?;
        let found = found.get(FRAME_HEADER_BYTES..).unwrap_or_default();
        bytes
            .try_reserve(found.len())
            .map_err(|_| ObjectReadError::OutOfMemory)?;
        bytes.extend_from_slice(found);
        self.left -= payload as u64;
        self.frame += 1;
        Ok(true)
    }

    /// The next frame, of `payload` bytes, if it was read already.
    fn frame_in_buffer(&self, payload: usize) -> Option<&[u8]> {
        let frame = self.frame.checked_sub(self.buffered)? as usize;
        let start = frame * self.superblock.frame_blocks() as usize * BLOCK_SIZE;
        self.buffer
            .bytes()
            .get(start..start + FRAME_HEADER_BYTES + payload)
    }

    /// Reads the next frame, which begins at `block`, and those behind it that one request may read.
    async fn fill_buffer(
        &mut self,
        device: &impl BlockDevice,
        block: BlockIndex,
    ) -> Result<(), ObjectReadError> {
        let frame_blocks = self.superblock.frame_blocks() as usize;
        let full_bytes = frame_payload_bytes(&self.superblock) as u64;
        let in_segment = frames_per_segment(&self.superblock);
        let in_segment = in_segment - self.frame % in_segment;
        let frames =
            u64::from(in_segment.min(self.frames_at_once)).min(self.left.div_ceil(full_bytes));
        let last_bytes = (self.left - (frames - 1) * full_bytes).min(full_bytes);
        let last_blocks = (FRAME_HEADER_BYTES as u64 + last_bytes).div_ceil(BLOCK_SIZE as u64);
        let blocks = (frames - 1) * frame_blocks as u64 + last_blocks;
        let blocks = usize::try_from(blocks).map_err(|_| ObjectReadError::OutOfMemory)?;

        let mut buffer = core::mem::take(&mut self.buffer);
        buffer.truncate(blocks);
        buffer
            .grow(blocks)
            .map_err(|_| ObjectReadError::OutOfMemory)?;
        let (buffer, read) = device.read(block, buffer).await;
        read.map_err(ObjectReadError::Device)?;
        self.buffer = buffer;
        self.buffered = self.frame;
        Ok(())
    }

    /// Where the next frame is, and its bytes with its header; `None` at the end.
    pub(crate) fn place(&self) -> Option<(BlockIndex, usize)> {
        let payload = self.next_payload().filter(|payload| *payload > 0)?;
        let block = frame_block(&self.superblock, &self.info.segments, self.frame)?;
        Some((block, FRAME_HEADER_BYTES + payload))
    }

    /// Goes on behind a frame without reading it, and tells how much payload it has.
    pub(crate) fn skip_frame(&mut self) -> u64 {
        let payload = self.next_payload().map_or(0, |payload| payload as u64);
        self.left -= payload;
        self.frame += 1;
        payload
    }

    /// Whether `frame` is the next frame of this object, intact, and belongs at `block`.
    pub(crate) fn is_next(&self, block: BlockIndex, frame: &[u8]) -> bool {
        self.check(block, frame).is_some()
    }

    /// Payload bytes of the next frame.
    fn next_payload(&self) -> Option<usize> {
        let payload = self.left.min(frame_payload_bytes(&self.superblock) as u64);
        usize::try_from(payload).ok()
    }

    /// Reads the next frame, alone, from whichever copy has it intact.
    async fn read_other_copy(
        &mut self,
        device: &impl BlockDevice,
        block: BlockIndex,
        payload: usize,
    ) -> Result<(), ObjectReadError> {
        let len = FRAME_HEADER_BYTES + payload;
        let buffer = Buffer::zeroed(len.div_ceil(BLOCK_SIZE));
        let buffer = buffer.map_err(|_| ObjectReadError::OutOfMemory)?;
        let check = |bytes: &[u8]| {
            let frame = bytes.get(..len).unwrap_or_default();
            self.check(block, frame).map(|_| ()).ok_or(())
        };
        let (buffer, read) = read_checked(device, block, buffer, check).await;
        // Found damaged again, it is reported as that.
        let _ = read.map_err(ObjectReadError::Device)?;
        self.buffer = buffer;
        self.buffered = self.frame;
        Ok(())
    }

    /// `frame`, which was read at `block`, with its seal opened, if it is the one that belongs there.
    fn check<'b>(&self, block: BlockIndex, frame: &'b [u8]) -> Option<Cow<'b, [u8]>> {
        let (layout, _) = FrameLayout::ref_from_prefix(frame).ok()?;
        if layout.magic != FRAME_MAGIC
            || layout.filesystem_id != self.superblock.id.0
            || layout.own_block.get() != block.0
        {
            return None;
        }
        let opened = self.vault.opened(Purpose::Object, frame, SEAL_AT)?;
        let (layout, found) = FrameLayout::ref_from_prefix(&opened).ok()?;
        let valid = layout.object.get() == self.id.0
            && layout.frame.get() == self.frame
            && layout.payload_len.get() as usize == found.len();
        valid.then_some(opened)
    }
}

impl From<DeviceError> for ObjectReadError {
    fn from(error: DeviceError) -> Self {
        Self::Device(error)
    }
}

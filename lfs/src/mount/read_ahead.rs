//! Segments of the log for replay, read before they are asked for.
//!
//! The log takes free segments in the order of their numbers, so the next one is mostly a neighbour, or close. As
//! long as that proves true, twice as many segments are read in one request each time, up to [`READ_AHEAD_BYTES`]; one that is
//! larger than that is a large request by itself. Where it is not true, reading ahead begins anew. So what is read in
//! vain is no more than what was of use.
//!
//! Of a segment that a copy cannot give as a whole, blocks are read one by one; each has to come from one copy at least.
//!
//! Bound: two batches in memory, of each copy: the one that holds the segment at hand, and the one that holds the next. A batch
//! is [`READ_AHEAD_BYTES`] or one segment, whichever is more. Where a group of the segment at hand had to be put together, that segment
//! once more.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;

use crate::disk::read_in_part;
use crate::disk::superblock::{SegmentId, Superblock};
use crate::{BLOCK_SIZE, BlockDevice, Buffer, DeviceError, MountError};

/// Log that is read at once.
const READ_AHEAD_BYTES: usize = 1 << 20;

/// A segment in memory, as each copy of the device has it.
#[derive(Clone)]
pub(crate) struct LoadedSegment {
    id: SegmentId,
    copies: Vec<Part>,
    /// How many of them are of the device; others were put together.
    of_device: usize,
}

/// A segment's part of what one request read; zeros, where a block could not be.
#[derive(Clone)]
struct Part {
    batch: Rc<Buffer>,
    start: usize,
}

impl LoadedSegment {
    /// What each copy has, by their numbers.
    pub(crate) fn copies(&self, superblock: &Superblock) -> impl Iterator<Item = &[u8]> {
        let len = superblock.segment_bytes();
        self.copies.iter().map(move |part| {
            let bytes = part.batch.bytes().get(part.start..).unwrap_or_default();
            bytes.get(..len).unwrap_or_default()
        })
    }

    /// As [`copies`](Self::copies), of those that the device has.
    pub(crate) fn of_device(&self, superblock: &Superblock) -> impl Iterator<Item = &[u8]> {
        self.copies(superblock).take(self.of_device)
    }

    /// Adds a copy that no disk has: the first one, but for `bytes` from `start` on. Gives its number.
    pub(crate) fn add(
        &mut self,
        superblock: &Superblock,
        start: usize,
        bytes: &[u8],
    ) -> Result<usize, MountError> {
        let mut batch = Buffer::zeroed(superblock.segment_blocks as usize)?;
        let target = batch.bytes_mut();
        let first = self.copies(superblock).next().unwrap_or_default();
        for (at, from) in [(0, first), (start, bytes)] {
            let place = target.get_mut(at..at + from.len());
            place.ok_or(DeviceError::OutOfRange)?.copy_from_slice(from);
        }
        // One at a time is of use.
        self.copies.truncate(self.of_device);
        self.copies.push(Part {
            batch: Rc::new(batch),
            start: 0,
        });
        Ok(self.of_device)
    }
}

/// See the module.
#[derive(Default)]
pub(crate) struct ReadAhead {
    /// From the segment last asked for on.
    batch: VecDeque<LoadedSegment>,
    /// How many segments the last request was for, and where they ended.
    count: u32,
    end: u32,
    pub(crate) bytes_read: u64,
}

impl ReadAhead {
    /// A segment, of as many as there are.
    ///
    /// # Errors
    /// When no copy can be read, or memory does not suffice.
    pub(crate) async fn segment<D: BlockDevice>(
        &mut self,
        device: &D,
        superblock: &Superblock,
        id: SegmentId,
        segment_count: u32,
    ) -> Result<LoadedSegment, MountError> {
        if let Some(at) = self.batch.iter().position(|loaded| loaded.id == id) {
            self.batch.drain(..at);
        } else {
            self.batch.clear();
            let there = segment_count.saturating_sub(id.0);
            let count = self.next_count(superblock, id).min(there).max(1);
            if self.read_run(device, superblock, id, count).await.is_err() {
                // Of what is not needed nothing need be readable.
                self.read_run(device, superblock, id, 1).await?;
            }
        }
        self.batch.front().cloned().ok_or(MountError::OutOfMemory)
    }

    /// How many segments to read from `id` on.
    fn next_count(&self, superblock: &Superblock, id: SegmentId) -> u32 {
        let close =
            self.count > 0 && (self.end..=self.end.saturating_add(self.count)).contains(&id.0);
        let wanted = if close {
            self.count.saturating_mul(2)
        } else {
            1
        };
        let at_once = (READ_AHEAD_BYTES / superblock.segment_bytes()).max(1);
        wanted.min(u32::try_from(at_once).unwrap_or(1))
    }

    /// Reads neighbours; a segment alone as far as any copy can be read.
    async fn read_run<D: BlockDevice>(
        &mut self,
        device: &D,
        superblock: &Superblock,
        first: SegmentId,
        count: u32,
    ) -> Result<(), MountError> {
        (self.count, self.end) = (count, first.0.saturating_add(count));
        let start = superblock.segment_start(first);
        let blocks = (superblock.segment_blocks * count) as usize;
        let mut copies = Vec::new();
        // Blocks that none has given so far.
        let mut lost: Option<Vec<usize>> = None;
        for copy in 0..device.copies() {
            self.bytes_read += (blocks * BLOCK_SIZE) as u64;
            let buffer = if count > 1 || device.copies() == 1 {
                let buffer = Buffer::zeroed(blocks)?;
                let (buffer, read) = device.read_copy(copy, start, buffer).await;
                read?;
                lost = Some(Vec::new());
                buffer
            } else {
                let read = read_in_part(device, copy, start, blocks).await;
                let (buffer, unread) = read.ok_or(MountError::OutOfMemory)?;
                let before = lost.take();
                let also = |block: &usize| before.as_ref().is_none_or(|lost| lost.contains(block));
                lost = Some(unread.into_iter().filter(also).collect());
                buffer
            };
            copies.push(Rc::new(buffer));
        }
        if lost.is_none_or(|lost| !lost.is_empty()) {
            return Err(DeviceError::Io.into());
        }
        let segment_bytes = superblock.segment_bytes();
        for (id, start) in (first.0..self.end).zip((0..).step_by(segment_bytes)) {
            let parts = copies.iter().map(|copy| Part {
                batch: Rc::clone(copy),
                start,
            });
            self.batch.push_back(LoadedSegment {
                id: SegmentId(id),
                copies: parts.collect(),
                of_device: copies.len(),
            });
        }
        Ok(())
    }
}

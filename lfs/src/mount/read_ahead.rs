//! Segments of the log for replay, read before they are asked for.
//!
//! The log takes free segments in the order of their numbers, so the next one is mostly a neighbour, or close. As
//! long as that proves true, twice as many segments are read in one request each time, up to [`READ_AHEAD_BYTES`]; one that is
//! larger than that is a large request by itself. Where it is not true, reading ahead begins anew. So what is read in
//! vain is no more than what was of use.
//!
//! Bound: two batches in memory, of each copy: the one that holds the segment at hand, and the one that holds the next. A batch
//! is [`READ_AHEAD_BYTES`] or one segment, whichever is more.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;

use crate::disk::superblock::{SegmentId, Superblock};
use crate::{BLOCK_SIZE, BlockDevice, Buffer, MountError};

/// Log that is read at once.
const READ_AHEAD_BYTES: usize = 1 << 20;

/// A segment in memory, as each copy of the device has it.
#[derive(Clone)]
pub(crate) struct LoadedSegment {
    id: SegmentId,
    copies: Vec<Part>,
}

/// A segment's part of what one request read; nothing, where that failed.
#[derive(Clone)]
struct Part {
    batch: Rc<Buffer>,
    start: usize,
}

impl LoadedSegment {
    /// What each copy has, by their numbers; nothing of one that could not be read.
    pub(crate) fn copies(&self, superblock: &Superblock) -> impl Iterator<Item = &[u8]> {
        let len = superblock.segment_bytes();
        self.copies.iter().map(move |part| {
            let bytes = part.batch.bytes().get(part.start..).unwrap_or_default();
            bytes.get(..len).unwrap_or_default()
        })
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

    /// Reads neighbours; all that could be read, when it is but one.
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
        let mut failed = Ok(());
        for copy in 0..device.copies() {
            let buffer = Buffer::zeroed(blocks)?;
            self.bytes_read += (blocks * BLOCK_SIZE) as u64;
            let (mut buffer, read) = device.read_copy(copy, start, buffer).await;
            if let Err(error) = read {
                if count > 1 {
                    return Err(error.into());
                }
                // Nothing is found in it, and its number stays its own.
                buffer.truncate(0);
                failed = Err(error);
            }
            copies.push(Rc::new(buffer));
        }
        if copies.iter().all(|copy| copy.is_empty()) {
            failed?;
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
            });
        }
        Ok(())
    }
}

//! Growing with the device (DESIGN.md, "Growing").
//!
//! How many segments there are is said by checkpoints and nothing else: a checkpoint that says more, with blocks of the
//! segment table that describe them as free, is all there is to it. Until it is durable nothing is written behind the
//! old end, so that whatever the power leaves is the file system as it was or as it is to be.
//!
//! Never here: becoming smaller, and larger segments. The segment table and the slots were made for sixteen times as many
//! segments as there were at first; beyond that the rest of a device is not used.

use embassy_futures::select::select;

use crate::checkpoint::Turn;
use crate::{BLOCK_SIZE, BlockDevice, CheckpointError, Clock, FileSystem};

/// How long to wait after a failure that may pass.
const RETRY_MS: u64 = 1000;

/// How a file system and its device compare in size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Bytes, from the device's start, that the file system takes.
    pub bytes: u64,
    /// Bytes it can come to take.
    pub bytes_max: u64,
    /// Bytes on the device that it may use, as of now.
    pub device_bytes: u64,
}

impl<D: BlockDevice> FileSystem<D> {
    /// How much of the device the file system spans, and could.
    pub fn span(&self) -> Span {
        let block = BLOCK_SIZE as u64;
        let blocks_for = |count| self.superblock.blocks_for(count);
        Span {
            bytes: blocks_for(self.segments.borrow().count()) * block,
            bytes_max: blocks_for(self.superblock.segment_count_max) * block,
            device_bytes: self.device.geometry().block_count.saturating_mul(block),
        }
    }

    /// Takes in what the device has become larger by, as far as the file system can grow; does nothing when there is not a
    /// whole segment more. True when it grew: durable on return. Costs a checkpoint. [`run`](Self::run) calls it at its
    /// start and whenever the device says that it has grown.
    ///
    /// # Errors
    /// It is as large as before then; see [`CheckpointError`].
    pub async fn grow(&self, clock: &impl Clock) -> Result<bool, CheckpointError> {
        if self.segments_possible() <= self.segments.borrow().count() {
            return Ok(false);
        }
        let _turn = Turn::take(self).await;
        let count = self.segments_possible();
        {
            let mut segments = self.segments.borrow_mut();
            if count <= segments.count() {
                return Ok(false);
            }
            if !segments.make_room(count) {
                return Err(CheckpointError::TooLarge);
            }
        }
        let layer = self.layer.borrow().clone();
        self.make_checkpoint(layer, count, clock).await?;
        Ok(true)
    }

    /// Segments that the device has room for, and the table.
    fn segments_possible(&self) -> u32 {
        let block_count = self.device.geometry().block_count;
        self.superblock.segments_on(block_count)
    }

    /// Grows now, and whenever the device has.
    pub(crate) async fn grow_loop(&self, clock: &impl Clock) {
        while !self.is_ending() {
            let known = self.device.geometry().block_count;
            if self.grow(clock).await.is_err() {
                self.pause(clock, RETRY_MS).await;
                continue;
            }
            let ending = self.changed.until(|| self.is_ending().then_some(()));
            select(self.device.resized(known), ending).await;
        }
    }
}

//! Writing anew what is believed for being the newest there is (DESIGN.md, "Blocks that cannot be read").
//!
//! Data, nodes and objects are verified against what names them, so what is stale shows. Superblock, key slots, checkpoints, blocks
//! of the segment table and the end of the log are not: of those, the newest valid one counts. A device on which something older may
//! have been left there asks for all of them to be written again, before it is relied on.

use embassy_futures::select::{Either, select};

use super::unlock::{damaged_copies, slots_block};
use crate::disk::superblock::{KEY_SLOT_BLOCKS, Superblock, table_blocks_for};
use crate::{BlockDevice, Buffer, CheckpointError, Clock, FileSystem};

/// How long to wait after a failure that may pass.
const RETRY_MS: u64 = 1000;

impl<D: BlockDevice> FileSystem<D> {
    /// Does so whenever the device asks for it.
    pub(crate) async fn renewal_loop(&self, clock: &impl Clock) {
        while !self.is_ending() {
            let ending = self.changed.until(|| self.is_ending().then_some(()));
            let Either::First(number) = select(self.device.renewal_wanted(), ending).await else {
                return;
            };
            match self.renew(clock).await {
                Ok(()) => self.device.renewed(number),
                Err(_) => self.pause(clock, RETRY_MS).await,
            }
        }
    }

    /// Writes superblock, key slots and the whole segment table again, and a checkpoint that names the newest group: before
    /// that the log does not end any more. Durable on return.
    async fn renew(&self, clock: &impl Clock) -> Result<(), CheckpointError> {
        for block in Superblock::copy_blocks() {
            let mut buffer = Buffer::zeroed(1).map_err(|_| CheckpointError::TooLarge)?;
            self.superblock.encode(block, &mut buffer);
            self.write(block, buffer).await?;
            self.log.barrier(clock.sleep_ms(0), || true).await?;
        }
        // Where none is left to write again, an older one on the other copy is what still opens it.
        if self.superblock.suite.is_some()
            && let Some((slots, bad)) = damaged_copies(&self.device, &self.superblock).await
        {
            // One block is right at any time: the one that is not comes first, and is durable before the other is written.
            let mut blocks = KEY_SLOT_BLOCKS;
            blocks.sort_by_key(|block| !bad.contains(&Some(*block)));
            for block in blocks {
                let buffer = slots_block(&slots, block).ok_or(CheckpointError::TooLarge)?;
                self.write(block, buffer).await?;
                self.log.barrier(clock.sleep_ms(0), || true).await?;
            }
        }
        {
            let mut segments = self.segments.borrow_mut();
            let used = table_blocks_for(segments.count());
            segments.mark_changed(0..used);
        }
        self.checkpoint_trees(clock).await
    }
}

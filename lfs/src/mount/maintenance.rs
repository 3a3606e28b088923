//! What goes on in the background: the log's writer, checkpoints, orphans.

use alloc::boxed::Box;

use embassy_futures::join::{join4, join5};
use embassy_futures::select::select;

use crate::{BlockDevice, Clock, FileError, FileSystem};

/// Commits that nobody waits for become durable within about this time.
const IDLE_COMMIT_MS: u64 = 1000;
/// How long to wait after a failure that may pass.
const RETRY_MS: u64 = 200;
/// Most bytes of a file's data that are freed in one transaction.
const RECLAIM_BYTES_MAX: u64 = 16 << 20;
/// Segments that a checkpoint is made for, unless there will be no more of them.
pub(crate) const SEGMENTS_PER_CHECKPOINT: u32 = 2;
/// A checkpoint is made for emptied segments that are this part, one in so many, of what may be garbage.
const EMPTIED_PART: u64 = 8;
/// Changed nodes that make a checkpoint, at most: where there may be more, others may change while it is made.
const NODES_PER_CHECKPOINT: usize = 1024;

/// Orphans looked at in one go.
const ORPHANS_AT_ONCE: usize = 16;

impl<D: BlockDevice> FileSystem<D> {
    /// Writes commit groups, makes checkpoints, cleans, frees what lost its last name, and [grows](Self::grow) with the
    /// device, until
    /// [`stop`](Self::stop) or a failure. Run exactly once.
    pub async fn run(&self, clock: &impl Clock) {
        join4(
            self.log.run(&self.device),
            self.checkpoint_loop(clock),
            self.clean_loop(clock),
            self.idle_loops(clock),
        )
        .await;
    }

    /// Makes everything durable and a last checkpoint, and ends [`run`](Self::run). For a file system without a
    /// layer above.
    ///
    /// # Errors
    /// When not all that was committed became durable.
    pub async fn shutdown(&self, clock: &impl Clock) -> Result<(), crate::ReadOnly> {
        self.close();
        let durable = self.wait_durable(self.appended()).await;
        if durable.is_ok() && self.is_dirty() {
            // Everything is in the log: without it the next mount only takes longer.
            let _ = self.checkpoint_trees(clock).await;
        }
        self.stop();
        durable
    }

    fn is_dirty(&self) -> bool {
        self.volume.borrow().dirty_nodes() > 0 || self.appended() > self.layer.borrow().horizon
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.closing.get() || self.is_failed()
    }

    /// Waits for a while, or until the end.
    pub(crate) async fn pause(&self, clock: &impl Clock, ms: u64) {
        let ending = self.changed.until(|| self.is_ending().then_some(()));
        select(clock.sleep_ms(ms), ending).await;
    }

    async fn checkpoint_loop(&self, clock: &impl Clock) {
        loop {
            self.log
                .until(|| (self.is_ending() || self.wants_own_checkpoint()).then_some(()))
                .await;
            if self.is_ending() {
                return;
            }
            self.checkpoint_due.set(false);
            let made = self.checkpoint_trees(clock).await;
            self.log.nudge();
            if made.is_err() {
                self.pause(clock, RETRY_MS).await;
            }
        }
    }

    /// Has a checkpoint made in the background, and waits until that was tried, or the end.
    pub(crate) async fn ask_for_checkpoint(&self) {
        self.checkpoint_due.set(true);
        self.log.nudge();
        let tried = || !self.checkpoint_due.get() && !self.checkpointing.get();
        self.log
            .until(|| (tried() || self.is_ending()).then_some(()))
            .await;
    }

    /// Whether a checkpoint should be made for the trees' or the log's sake.
    fn wants_own_checkpoint(&self) -> bool {
        // One that is under way may bring that; and while the layer above waits for its turn, its own does, which would have to wait for two.
        if self.checkpointing.get() || self.checkpoints_waiting.get() > 0 {
            return false;
        }
        let dirty = self.volume.borrow().dirty_nodes();
        // While the layer above has not moved its state on, the log stays as long as it is.
        let log = self.log.wants_checkpoint() && !self.layer_pins_log();
        let many = (self.reserves().dirty_nodes_max() / 8 * 7).min(NODES_PER_CHECKPOINT);
        let crowded = dirty >= many || (dirty > 0 && !self.has_nodes_for(self.nodes_wanted.get()));
        log || crowded || self.checkpoint_due.get() || self.wants_segments()
    }

    /// Whether a checkpoint would bring free segments that are needed, or that data should not be spread over.
    fn wants_segments(&self) -> bool {
        let wanted =
            self.reserves().segments_needed(self.log.commit_segments()) + self.segments_promised();
        let free = self.segments.borrow().free();
        let enough = if self.cleans_in_vain() {
            1
        } else {
            SEGMENTS_PER_CHECKPOINT
        };
        let emptied = self.segments_emptied();
        let bytes = u64::from(emptied) * self.superblock.segment_bytes() as u64;
        // What is emptied takes room as well.
        let much = bytes > self.garbage_bytes_max() / EMPTIED_PART;
        (free <= wanted || much) && emptied >= enough
    }

    async fn idle_loops(&self, clock: &impl Clock) {
        join5(
            self.grow_loop(clock),
            self.commit_loop(clock),
            self.orphan_loop(clock),
            self.history_loop(clock),
            // It is at work once in a mirror's life, if ever: its checkpoint is not to make everybody's future larger.
            Box::pin(self.renewal_loop(clock)),
        )
        .await;
    }

    /// Makes commits durable that nobody waits for.
    async fn commit_loop(&self, clock: &impl Clock) {
        while !self.is_ending() {
            self.changed
                .until(|| (self.is_ending() || self.appended() > self.durable()).then_some(()))
                .await;
            self.pause(clock, IDLE_COMMIT_MS).await;
            let _ = self.wait_durable(self.appended()).await;
        }
    }

    /// Frees what lost its last name and is not open.
    async fn orphan_loop(&self, clock: &impl Clock) {
        while !self.is_ending() {
            self.changed
                .until(|| {
                    let due = self.orphans_due.get() && !self.restoring.get();
                    (self.is_ending() || due).then_some(())
                })
                .await;
            self.orphans_due.set(false);
            if self.is_ending() {
                return;
            }
            self.reclaiming.set(true);
            let reclaimed = self.reclaim_orphans(clock).await;
            self.reclaiming.set(false);
            self.changed.notify();
            if reclaimed.is_err() && !self.is_ending() {
                self.pause(clock, RETRY_MS).await;
                self.orphans_due.set(true);
            }
        }
    }

    async fn reclaim_orphans(&self, clock: &impl Clock) -> Result<(), FileError> {
        let now_ns = clock.unix_us().saturating_mul(1000);
        // Even of a file in pieces of a block each, they are in few enough nodes for a checkpoint.
        let mut reclaim_bytes =
            (self.reserves().dirty_nodes_max() as u64 * (64 << 10)).min(RECLAIM_BYTES_MAX);
        let mut after = 0;
        loop {
            let orphans = self
                .read(|transaction| transaction.files().orphans(after, ORPHANS_AT_ONCE))
                .await?;
            let Some(last) = orphans.last() else {
                return Ok(());
            };
            after = last.id;
            for orphan in orphans {
                let held = || {
                    let held = self.held_inodes.borrow();
                    orphan
                        .nameless
                        .is_some_and(|inode| held.contains_key(&inode.0))
                };
                while !held() && !self.is_ending() {
                    let step = self.transact_tidying(now_ns, |transaction| {
                        transaction.files().reclaim_orphan(orphan.id, reclaim_bytes)
                    });
                    match step.await {
                        Ok(true) => break,
                        Ok(false) => {}
                        // What it touches is in too many nodes: less of it at once, in the end a single item.
                        Err(FileError::TransactionTooLarge) if reclaim_bytes > 1 => {
                            reclaim_bytes /= 4;
                        }
                        Err(error) => return Err(error),
                    }
                    embassy_futures::yield_now().await;
                }
            }
        }
    }
}

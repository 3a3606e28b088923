//! Letting go of what only deleted snapshots saw.
//!
//! An item of the history tree is seen by the snapshots of commits from its birth up to its death. When the last of them is
//! deleted, the item stays until a walk through the history comes by; then it is removed, and what it accounts for in its
//! segment with it. As with what the cleaner moves, the log need not tell: until a checkpoint holds it, the
//! next mount finds the item again and begins a walk of its own.
//!
//! Bound: a step looks at [`ITEMS_PER_STEP`] items, and waits while too many nodes are changed.

use alloc::vec::Vec;

use crate::extent::Piece;
use crate::tree::{Item, Key};
use crate::volume::{Volume, after};
use crate::write_set::Loaded;
use crate::{BlockDevice, Clock, Fault, FileError, FileSystem, ItemKind};

/// Items looked at before others get a turn.
const ITEMS_PER_STEP: usize = 64;
/// How long to wait after a failure that may pass.
const RETRY_MS: u64 = 200;

impl<D: BlockDevice> FileSystem<D> {
    /// Walks through the history whenever a snapshot was deleted, and once after the mount.
    pub(crate) async fn history_loop(&self, clock: &impl Clock) {
        while !self.is_ending() {
            self.changed
                .until(|| (self.is_ending() || self.history_due.get()).then_some(()))
                .await;
            self.history_due.set(false);
            if self.walk_history().await.is_err() && !self.is_ending() {
                self.history_due.set(true);
                self.pause(clock, RETRY_MS).await;
            }
        }
    }

    async fn walk_history(&self) -> Result<(), FileError> {
        let mut next = Some(Key::MIN);
        let mut loaded = Loaded::default();
        while let Some(from) = next {
            if self.is_ending() {
                return Ok(());
            }
            let step = self.volume.borrow_mut().forget_unseen(from);
            match step {
                Ok(found) => {
                    next = found;
                    loaded = Loaded::default();
                    self.log.nudge();
                    self.changed.notify();
                    embassy_futures::yield_now().await;
                }
                Err(fault) => self.load(fault, &mut loaded).await?,
            }
            self.log
                .until(|| (self.may_dirty_more() || self.is_ending()).then_some(()))
                .await;
        }
        Ok(())
    }
}

impl Volume {
    /// Removes of the next items of the history those that no snapshot sees; where to go on, if there are more.
    fn forget_unseen(&mut self, from: Key) -> Result<Option<Key>, Fault> {
        let mut unseen: Vec<(Key, Item)> = Vec::new();
        let mut next = Some(from);
        for _ in 0..ITEMS_PER_STEP {
            let Some(at) = next else { break };
            let found = self.history.first_from(&at)?;
            next = found.as_ref().map(|(key, _)| after(key));
            if let Some((key, item)) = found
                && !self.is_seen(item.birth, key.version)
            {
                unseen.push((key, item));
            }
        }
        for (key, _) in &unseen {
            self.history.prepare(key)?;
        }
        for (key, item) in unseen {
            let done = self.history.remove(&key);
            debug_assert!(done.is_ok(), "prepared");
            if key.kind == ItemKind::Extent
                && let Some(piece) = Piece::decode(&item.value)
                && let Some(segment) = self.superblock.segment_of(piece.address)
            {
                let share = u64::from(piece.stored_share());
                self.segments.borrow_mut().remove_live(segment, share);
            }
        }
        Ok(next)
    }

    /// Whether a snapshot shows what was written by commit `birth` and removed by commit `death`.
    fn is_seen(&self, birth: u64, death: u64) -> bool {
        let commits = crate::CommitNumber(birth)..crate::CommitNumber(death);
        birth < death && self.snapshots.range(commits).next().is_some()
    }
}

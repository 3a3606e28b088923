//! Letting go of what only deleted snapshots, and transactions that are over, saw.
//!
//! An item of the history tree is seen by the snapshots of commits from its birth up to its death. When the last of them is
//! deleted, the item stays until a walk through the history comes by; then it is removed, and what it accounts for in its
//! segment with it. As with what the cleaner moves, the log need not tell: until a checkpoint holds it, the
//! next mount finds the item again and begins a walk of its own.
//!
//! What was kept for open transactions alone is listed (`transaction::open`), and let go of without a walk.
//!
//! Bound: a step looks at [`ITEMS_PER_STEP`] items and changes no more nodes than there is room for; it waits while too many are changed.

use alloc::vec::Vec;

use crate::extent::Piece;
use crate::transaction::{KeptItem, Loaded, Volume, after};
use crate::tree::{Item, Key, Touched};
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
                .until(|| (self.is_ending() || self.is_history_due()).then_some(()))
                .await;
            if self.let_go_of_kept().await.is_err() && !self.is_ending() {
                // Something cannot be read: as with what a snapshot leaves behind, the next mount tries again.
                self.open.borrow_mut().kept.give_up();
            }
            self.changed.notify();
            let walk_due = core::mem::take(&mut self.open.borrow_mut().walk_due);
            if !self.history_due.replace(false) && !walk_due {
                continue;
            }
            let walked = self.walk_history().await;
            // What cannot be read now may never be: nobody waits for that.
            self.forgetting.set(self.history_due.get());
            self.changed.notify();
            if walked.is_err() && !self.is_ending() {
                self.history_due.set(true);
                self.pause(clock, RETRY_MS).await;
            }
        }
    }

    fn is_history_due(&self) -> bool {
        let open = self.open.borrow();
        self.history_due.get() || open.walk_due || open.kept.has_loose()
    }

    /// Lets go of what was kept for transactions that are over.
    async fn let_go_of_kept(&self) -> Result<(), FileError> {
        let mut loaded = Loaded::default();
        while self.open.borrow().kept.has_loose() && !self.is_ending() {
            let nodes_max = self.nodes_left();
            let step = self.volume.borrow_mut().forget_kept(nodes_max);
            match step {
                Ok(()) => {
                    loaded = Loaded::default();
                    self.log.nudge();
                    self.changed.notify();
                    embassy_futures::yield_now().await;
                }
                Err(fault) => self.load(fault, &mut loaded).await?,
            }
            self.may_go_on().await;
        }
        Ok(())
    }

    /// Waits while too many nodes are changed.
    pub(crate) async fn may_go_on(&self) {
        if !self.may_dirty_more() {
            // A checkpoint that gave way is awaited now.
            self.log.nudge();
            self.log.until(|| self.may_dirty_more().then_some(())).await;
        }
    }

    async fn walk_history(&self) -> Result<(), FileError> {
        let mut next = Some(Key::MIN);
        let mut loaded = Loaded::default();
        while let Some(from) = next {
            if self.is_ending() {
                return Ok(());
            }
            let nodes_max = self.nodes_left();
            let step = self.volume.borrow_mut().forget_unseen(from, nodes_max);
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
            self.may_go_on().await;
        }
        Ok(())
    }
}

impl Volume {
    /// Removes of the next items of the history those that no snapshot sees, one or as many as change at most `nodes_max` nodes; where to go
    /// on, if there are more.
    fn forget_unseen(&mut self, from: Key, nodes_max: usize) -> Result<Option<Key>, Fault> {
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
        let mut touched = Touched::default();
        let mut ready = 0;
        for (key, _) in &unseen {
            self.history.prepare_counted(key, None, &mut touched)?;
            if ready > 0 && touched.nodes().changed > nodes_max {
                next = Some(*key);
                break;
            }
            ready += 1;
        }
        for (key, _) in unseen.iter().take(ready) {
            self.forget(key);
        }
        Ok(next)
    }

    /// Goes through some items that were kept for transactions which are over, and removes those that nobody sees, one or as many as change at
    /// most `nodes_max` nodes.
    fn forget_kept(&mut self, nodes_max: usize) -> Result<(), Fault> {
        let items = self.open.borrow_mut().kept.take_loose(ITEMS_PER_STEP);
        // One that a snapshot sees by now stays for that.
        let unseen = |item: &&KeptItem| !self.is_shown(item.birth, item.key.version);
        let mut unseen = items.iter().filter(unseen).copied().collect::<Vec<_>>();
        let mut touched = Touched::default();
        let mut ready = 0;
        for item in &unseen {
            let prepared = self.history.prepare_counted(&item.key, None, &mut touched);
            if let Err(fault) = prepared {
                self.open.borrow_mut().kept.put_back(items);
                return Err(fault);
            }
            if ready > 0 && touched.nodes().changed > nodes_max {
                break;
            }
            ready += 1;
        }
        let later = unseen.split_off(ready);
        if !later.is_empty() {
            self.open.borrow_mut().kept.put_back(later);
        }
        for item in unseen {
            let mut open = self.open.borrow_mut();
            if let Some(pin) = open.newest_pin_in(item.birth, item.key.version) {
                open.kept.note(pin, item);
            } else {
                drop(open);
                self.forget(&item.key);
            }
        }
        Ok(())
    }

    /// Removes an item of the history that is [prepared](crate::tree::Tree::prepare), if it is there, with what it accounts for.
    fn forget(&mut self, key: &Key) {
        let removed = self.history.remove(key);
        debug_assert!(removed.is_ok(), "prepared");
        let Ok(Some(item)) = removed else { return };
        if key.kind == ItemKind::Extent
            && let Some(piece) = Piece::decode(&item.value)
            && let Some(segment) = self.superblock.segment_of(piece.address)
        {
            let share = u64::from(piece.stored_share());
            self.segments.borrow_mut().remove_live(segment, share);
        }
    }

    /// Whether a snapshot or an open transaction shows what was written by commit `birth` and removed by commit `death`.
    fn is_seen(&self, birth: u64, death: u64) -> bool {
        if self.is_shown(birth, death) {
            return true;
        }
        let mut open = self.open.borrow_mut();
        let pinned = open.newest_pin_in(birth, death).is_some();
        if pinned {
            // It may not be listed, if it was kept for a snapshot so far.
            open.kept.note_unlisted();
        }
        pinned
    }

    /// Whether a snapshot shows that.
    fn is_shown(&self, birth: u64, death: u64) -> bool {
        let commits = crate::CommitNumber(birth)..crate::CommitNumber(death);
        birth < death && self.snapshots.range(commits).next().is_some()
    }
}

//! What the store has in memory of everything that is stored, and what it knows of it. Not here: the disk.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use core::cell::{Cell, RefCell};

use super::cache::{Cache, PolicyKind};
use super::cached::CacheEntry;
use super::counts::Counts;
use super::loads::{Loads, Wanted};
use super::manifest::Manifest;
use super::memtable::RANGE_DELETES_MAX;
use super::pool::ChunkPool;
use super::recount::Recounts;
use super::timeline::Timeline;
use super::tree::{FROZEN_MAX, Tree};
use crate::Timestamp;
use crate::expiry::ExpiryQueue;
use crate::scan_cursors::ScanCursors;
use crate::snapshot::{Pins, Snapshot};
use crate::transactions::changes::Digests;
use crate::transactions::locks::{LockTable, Owner};
use crate::transactions::registry::{LockOwner, Registry};
use crate::watch::Watches;

/// Everything but the disk. Nothing is borrowed across an await.
pub(crate) struct Engine {
    /// Memtables and runs.
    pub(crate) tree: RefCell<Tree>,
    /// What was read of runs and large values.
    pub(crate) cache: RefCell<Cache<CacheEntry>>,
    /// What that may take.
    pub(crate) cache_bytes_max: Cell<usize>,
    /// The same where memtables have all that they may.
    pub(crate) cache_bytes_sure: Cell<usize>,
    /// What is read to find out whether a key that is written was there.
    pub(crate) probed: Cell<Wanted>,
    /// What is being read of them.
    pub(crate) loads: Loads,
    /// How many keys there are.
    pub(crate) counts: RefCell<Counts>,
    /// Of which databases that has to be found out anew.
    pub(crate) recounts: RefCell<Recounts>,
    /// Who still sees which commit.
    pub(crate) pins: Rc<Pins>,
    /// Snapshots that are kept on the disk: their pins, by commit.
    kept: RefCell<BTreeMap<Timestamp, Snapshot>>,
    /// When commits were.
    pub(crate) timeline: RefCell<Timeline>,
    /// History behind this commit is kept.
    pub(crate) floor: Cell<Timestamp>,
    /// For how long history is kept, in milliseconds.
    pub(crate) history_ms: Cell<i64>,
    /// Bytes of the disk that history may take; 0: a part of it.
    pub(crate) history_bytes_max: Cell<u64>,
    /// Whether there is history that is kept.
    pub(crate) keeps_history: Cell<bool>,
    /// The next slot of the value file.
    pub(crate) next_slot: Cell<u64>,
    /// The newest commit that took something away: what a reply that finds nothing depends on.
    pub(crate) last_removal: Cell<Timestamp>,
    /// Keys that expire soonest.
    pub(crate) expiries: RefCell<ExpiryQueue>,
    /// Who wants to know that a key was written.
    pub(crate) watches: Rc<RefCell<Watches>>,
    /// Transactions that are open.
    pub(crate) open: Rc<Registry>,
    /// What was written since the oldest state that one of them sees, as far as memtables do not say it any more.
    pub(crate) digests: RefCell<Digests>,
    /// Keys that are locked.
    pub(crate) locks: Rc<RefCell<LockTable>>,
    /// The next number of somebody who locks, or waits.
    next_owner: Cell<u64>,
    /// What SCAN's cursors stand for.
    pub(crate) cursors: RefCell<ScanCursors>,
    /// The active memtable has something that takes the place of something else.
    pub(crate) has_garbage: Cell<bool>,
    /// Keys removed because their time had come.
    pub(crate) expired_keys: Cell<u64>,
    /// Bytes of keys and values that were committed.
    pub(crate) written_bytes: Cell<u64>,
    /// Memory of the memtables.
    pub(crate) pool: Rc<ChunkPool>,
    /// What memtables may take now, all together.
    pub(crate) memtables_bytes_max: Cell<usize>,
    /// What the active one may take before it is frozen, now, ...
    pub(crate) memtable_bytes: Cell<usize>,
    /// ... and at most, whatever memory there is.
    pub(crate) memtable_bytes_max: Cell<usize>,
    /// What was loaded for transactions under way.
    pub(crate) loaded_bytes: Rc<Cell<usize>>,
    /// Nobody's to guess.
    pub(crate) hash_seed: u64,
}

impl Engine {
    /// What `manifest` says is there, which holds all commits up to `horizon`.
    pub(crate) fn new(manifest: Manifest, horizon: Timestamp, hash_seed: u64) -> Self {
        let pool = ChunkPool::new(0);
        let has_runs = !manifest.runs.is_empty();
        Self {
            tree: RefCell::new(Tree::new(
                Rc::clone(&pool),
                hash_seed,
                manifest.runs,
                horizon,
            )),
            cache: RefCell::new(Cache::new(PolicyKind::default(), 0, hash_seed)),
            cache_bytes_max: Cell::new(0),
            cache_bytes_sure: Cell::new(0),
            probed: Cell::new(Wanted::None),
            loads: Loads::default(),
            counts: RefCell::new(Counts::new(manifest.counts)),
            recounts: RefCell::new(Recounts::new(manifest.uncertain)),
            pins: Rc::default(),
            kept: RefCell::default(),
            timeline: RefCell::new(manifest.timeline),
            floor: Cell::new(manifest.floor),
            history_ms: Cell::new(0),
            history_bytes_max: Cell::new(0),
            keeps_history: Cell::new(false),
            next_slot: Cell::new(manifest.next_slot),
            last_removal: Cell::new(Timestamp(0)),
            expiries: RefCell::new(ExpiryQueue::new(if has_runs { i64::MIN } else { i64::MAX })),
            watches: Rc::default(),
            open: Rc::default(),
            digests: RefCell::default(),
            locks: Rc::default(),
            next_owner: Cell::new(1),
            cursors: RefCell::new(ScanCursors::new(hash_seed.rotate_left(17))),
            has_garbage: Cell::new(false),
            expired_keys: Cell::new(0),
            written_bytes: Cell::new(0),
            pool,
            memtables_bytes_max: Cell::new(0),
            memtable_bytes: Cell::new(0),
            memtable_bytes_max: Cell::new(usize::MAX),
            loaded_bytes: Rc::default(),
            hash_seed,
        }
    }

    /// Somebody new who may lock and wait.
    pub(crate) fn new_owner(&self) -> LockOwner {
        let owner = self.next_owner.get();
        self.next_owner.set(owner + 1);
        LockOwner::new(&self.locks, Owner(owner))
    }

    /// Lets go of digests that nobody asks for any more.
    pub(crate) fn forget_digests(&self) {
        self.digests.borrow_mut().forget(self.open.oldest());
    }

    /// Sets for how long history is kept, in milliseconds. `newest`: what there is of it, if none was kept so far, begins with that commit.
    pub(crate) fn set_history(&self, ms: i64, newest: Timestamp) {
        self.history_ms.set(ms);
        let keeps = ms > 0;
        if !self.keeps_history.replace(keeps) && keeps {
            self.floor.set(newest);
        }
    }

    /// A power cut took what was committed behind `last`: other commits will have these numbers.
    pub(crate) fn forget_behind(&self, last: Timestamp) {
        self.timeline.borrow_mut().forget_behind(last);
        self.floor.set(self.floor.get().min(last));
    }

    /// Whether the state of commit `at` can be seen still.
    pub(crate) fn is_retained(&self, at: Timestamp, newest: Timestamp) -> bool {
        let is_kept = self.kept.borrow().contains_key(&at);
        is_kept || (at >= self.oldest_retained(newest) && at <= newest)
    }

    /// The oldest state that can be seen, beside those of snapshots.
    pub(crate) fn oldest_retained(&self, newest: Timestamp) -> Timestamp {
        if self.keeps_history.get() {
            self.floor.get().min(newest)
        } else {
            newest
        }
    }

    /// Pins these commits, which snapshots on the disk show, and no others of that kind.
    pub(crate) fn keep_snapshots(&self, commits: impl Iterator<Item = Timestamp>) {
        let mut before = self.kept.take();
        let pin = |commit| {
            let kept = before.remove(&commit);
            (
                commit,
                kept.unwrap_or_else(|| Snapshot::new(&self.pins, commit)),
            )
        };
        let kept = commits.map(pin).collect();
        *self.kept.borrow_mut() = kept;
    }

    /// Whether no memtable can take a commit until one of them is flushed.
    pub(crate) fn are_memtables_full(&self) -> bool {
        let tree = self.tree.borrow();
        tree.frozen_count() >= FROZEN_MAX && self.is_active_full(&tree)
    }

    /// Freezes the active memtable if it is full, which has all commits up to `last`. Whether it did.
    pub(crate) fn freeze_if_full(&self, last: Timestamp) -> bool {
        let is_full = self.is_active_full(&self.tree.borrow());
        is_full && self.freeze(last)
    }

    /// Freezes the active memtable, if it has anything, and there may be one more. Whether it did.
    pub(crate) fn freeze(&self, last: Timestamp) -> bool {
        // Without memory for it, it goes on to fill.
        let is_frozen = self.tree.borrow_mut().freeze(last) == Ok(true);
        if is_frozen {
            self.counts.borrow_mut().freeze();
            self.has_garbage.set(false);
        }
        is_frozen
    }

    fn is_active_full(&self, tree: &Tree) -> bool {
        let active = tree.active();
        active.memory_bytes() >= self.memtable_bytes.get()
            || active.ranges().len() >= RANGE_DELETES_MAX
    }
}

/// What one memtable may take of what there is for all of them.
pub(crate) fn memtable_bytes_of(all: usize) -> usize {
    all / (FROZEN_MAX + 1)
}

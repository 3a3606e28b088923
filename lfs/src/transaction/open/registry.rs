//! The open transactions of a mount: the states they pin, what that keeps, and how much memory they take.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::ops::RangeBounds;

use super::Isolation;
use super::kept::Kept;
use super::merge::InodeChange;
use super::recent::{RECENT_MAX, Recent};
use crate::notify::Notify;
use crate::{CommitNumber, FileError, ItemKey};

/// Transactions that can be open at once.
pub const OPEN_TRANSACTIONS_MAX: usize = 1024;

/// Memory for the changes and reads of all of them when nobody says otherwise.
const MEMORY_BYTES_MAX: usize = 16 << 20;

pub(crate) type SharedRegistry = Rc<RefCell<Registry>>;

/// Number of an open transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId(pub u64);

/// A transaction that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenTransactionInfo {
    /// Its number.
    pub id: TransactionId,
    /// What it is kept apart from.
    pub isolation: Isolation,
    /// The last commit it sees.
    pub sees: CommitNumber,
    /// When it began, in nanoseconds since the Unix epoch.
    pub begun_ns: i64,
    /// Memory for what it changed and read, roughly.
    pub memory_bytes: usize,
    /// Bytes of the disk that are kept for the state it sees, and that no newer transaction sees.
    pub kept_bytes: u64,
}

/// What open transactions take, all together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenTransactions {
    /// How many there are.
    pub count: usize,
    /// Memory for what they changed and read, roughly.
    pub memory_bytes: usize,
    /// Bytes of the disk that are kept for them.
    pub kept_bytes: u64,
    /// Items that are kept for them, or about to be let go of.
    pub kept_items: usize,
    /// Changes by others that are remembered to compare with.
    pub remembered_changes: usize,
    /// Transactions of this mount that were ended for want of space or memory.
    pub ended: u64,
}

struct Open {
    isolation: Isolation,
    /// The last commit it sees; `None` when it was ended.
    pin: Option<u64>,
    begun_ns: i64,
    memory_bytes: usize,
}

/// See the module.
pub(crate) struct Registry {
    open: BTreeMap<TransactionId, Open>,
    /// The states that are seen, and by how many.
    pins: BTreeMap<u64, usize>,
    pub(crate) recent: Recent,
    pub(crate) kept: Kept,
    /// Something was let go of that is not listed.
    pub(crate) walk_due: bool,
    /// The one that is about to commit: for what it sees nothing need be kept any more.
    committing: Option<TransactionId>,
    next: u64,
    memory_bytes: usize,
    memory_bytes_max: usize,
    ended: u64,
    changed: Rc<Notify>,
}

impl Registry {
    /// Nobody is open. What changes about that is told to `changed`.
    pub(crate) fn new(changed: Rc<Notify>) -> Self {
        Self {
            open: BTreeMap::new(),
            pins: BTreeMap::new(),
            recent: Recent::default(),
            kept: Kept::default(),
            walk_due: false,
            committing: None,
            next: 1,
            memory_bytes: 0,
            memory_bytes_max: MEMORY_BYTES_MAX,
            ended: 0,
            changed,
        }
    }

    /// Who is told of changes.
    pub(crate) fn changed(&self) -> Rc<Notify> {
        Rc::clone(&self.changed)
    }

    pub(super) fn begin(
        &mut self,
        isolation: Isolation,
        at: u64,
        begun_ns: i64,
    ) -> Result<TransactionId, FileError> {
        if self.open.len() >= OPEN_TRANSACTIONS_MAX {
            return Err(FileError::TooManyTransactions);
        }
        let id = TransactionId(self.next);
        self.next += 1;
        let open = Open {
            isolation,
            pin: None,
            begun_ns,
            memory_bytes: 0,
        };
        self.open.insert(id, open);
        self.pin(id, at);
        Ok(id)
    }

    /// The last commit that a transaction sees; `None` when it was ended.
    pub(super) fn pin_of(&self, id: TransactionId) -> Option<u64> {
        self.open.get(&id)?.pin
    }

    /// A transaction that sees nothing now sees the state after the newest commit.
    fn pin(&mut self, id: TransactionId, newest: u64) {
        if let Some(open) = self.open.get_mut(&id) {
            debug_assert!(open.pin.is_none(), "one state at a time");
            open.pin = Some(newest);
            *self.pins.entry(newest).or_default() += 1;
        }
    }

    /// A transaction goes on to the state after the newest commit.
    pub(super) fn move_pin(&mut self, id: TransactionId, newest: u64) {
        if self.end(id) {
            self.pin(id, newest);
        }
    }

    /// From here on, in the same step, a transaction commits: what its commit replaces need not be kept for it, and it is
    /// not ended for want of space. In the end either [`commit_taken`](Self::commit_taken) or
    /// [`commit_refused`](Self::commit_refused).
    pub(super) fn begin_commit(&mut self, id: TransactionId) {
        self.committing = Some(id);
    }

    /// If a transaction was committing, it is over.
    pub(crate) fn commit_taken(&mut self) {
        if let Some(id) = self.committing.take() {
            self.end(id);
        }
    }

    /// It is as it was.
    pub(super) fn commit_refused(&mut self) {
        self.committing = None;
    }

    /// The state that only the committing transaction sees.
    fn seen_by_committing(&self) -> Option<u64> {
        let pin = self.pin_of(self.committing?)?;
        (self.pins.get(&pin) == Some(&1)).then_some(pin)
    }

    /// A transaction sees nothing from now on. False when that was so.
    pub(super) fn end(&mut self, id: TransactionId) -> bool {
        let Some(pin) = self.open.get_mut(&id).and_then(|open| open.pin.take()) else {
            return false;
        };
        if let Some(count) = self.pins.get_mut(&pin) {
            *count -= 1;
            if *count == 0 {
                self.pins.remove(&pin);
                self.walk_due |= self.kept.let_go(pin);
                self.recent.forget(self.oldest_pin().unwrap_or(u64::MAX));
                self.changed.notify();
            }
        }
        true
    }

    /// A transaction is over.
    pub(super) fn close(&mut self, id: TransactionId) {
        self.end(id);
        if let Some(open) = self.open.remove(&id) {
            self.memory_bytes -= open.memory_bytes;
        }
    }

    /// Ends the transactions that see the oldest state, but the one that is committing; false when there are none.
    fn end_oldest(&mut self) -> bool {
        let alone = self.seen_by_committing();
        let Some(oldest) = self.pins.keys().copied().find(|pin| Some(*pin) != alone) else {
            return false;
        };
        let of_it = |(id, open): &(&TransactionId, &Open)| {
            open.pin == Some(oldest) && Some(**id) != self.committing
        };
        let ids = self.open.iter().filter(of_it);
        for id in ids.map(|(&id, _)| id).collect::<Vec<_>>() {
            self.end(id);
            self.ended += 1;
        }
        true
    }

    /// The disk is full: ends transactions, the oldest first, until something is let go of that was kept for them.
    pub(crate) fn end_oldest_for_space(&mut self) {
        let own = self.committing.and_then(|id| self.pin_of(id));
        while !self.gives_back() && self.kept.is_worth_ending(own) && self.end_oldest() {}
    }

    /// Whether what was kept for transactions that are over is being let go of.
    pub(crate) fn gives_back(&self) -> bool {
        self.walk_due || self.kept.has_loose()
    }

    /// Notes how much memory a transaction takes.
    ///
    /// # Errors
    /// [`FileError::OutOfMemory`] when that is too much for all together; it is noted all the same.
    pub(super) fn account(&mut self, id: TransactionId, bytes: usize) -> Result<(), FileError> {
        let Some(open) = self.open.get_mut(&id) else {
            return Ok(());
        };
        let grows = bytes > open.memory_bytes;
        self.memory_bytes = self.memory_bytes - open.memory_bytes + bytes;
        open.memory_bytes = bytes;
        if grows && self.memory_bytes > self.memory_bytes_max {
            return Err(FileError::OutOfMemory);
        }
        Ok(())
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    pub(super) fn set_memory_max(&mut self, bytes: usize) {
        self.memory_bytes_max = bytes;
    }

    /// Whether anybody needs to know what is changed.
    pub(crate) fn is_watching(&self) -> bool {
        !self.pins.is_empty()
    }

    /// Notes a change by the newest commit.
    pub(crate) fn note(&mut self, commit: u64, key: ItemKey, change: InodeChange) {
        if !self.is_watching() {
            return;
        }
        self.recent.note(commit, key, change);
        while self.recent.len() > RECENT_MAX && self.end_oldest() {}
    }

    /// The newest state that is seen, and will be when what is committing is done.
    pub(crate) fn newest_pin(&self) -> Option<u64> {
        self.newest_pin_within(..)
    }

    fn newest_pin_within(&self, states: impl RangeBounds<u64>) -> Option<u64> {
        let alone = self.seen_by_committing();
        let mut pins = self.pins.range(states).rev().map(|(&pin, _)| pin);
        pins.find(|pin| Some(*pin) != alone)
    }

    fn oldest_pin(&self) -> Option<u64> {
        self.pins.keys().next().copied()
    }

    /// All states that are seen.
    #[cfg(feature = "sim")]
    pub(crate) fn pins(&self) -> impl Iterator<Item = u64> {
        self.pins.keys().copied()
    }

    /// The newest state that sees what commit `birth` wrote and commit `death` removed.
    pub(crate) fn newest_pin_in(&self, birth: u64, death: u64) -> Option<u64> {
        if birth >= death {
            return None;
        }
        self.newest_pin_within(birth..death)
    }

    pub(super) fn list(&self) -> Vec<OpenTransactionInfo> {
        let open = self.open.iter().filter_map(|(&id, open)| {
            Some(OpenTransactionInfo {
                id,
                isolation: open.isolation,
                sees: CommitNumber(open.pin?),
                begun_ns: open.begun_ns,
                memory_bytes: open.memory_bytes,
                kept_bytes: self.kept.bytes_of(open.pin?),
            })
        });
        let mut open = open.collect::<Vec<_>>();
        open.sort_by_key(|info| (info.sees, info.id));
        open
    }

    pub(super) fn usage(&self) -> OpenTransactions {
        OpenTransactions {
            count: self.open.len(),
            memory_bytes: self.memory_bytes,
            kept_bytes: self.kept.bytes(),
            kept_items: self.kept.len(),
            remembered_changes: self.recent.len(),
            ended: self.ended,
        }
    }
}

//! The transactions that are open, their limits, and who waits for locks.
//!
//! A transaction's state is here, so that it can be ended by others than its owner: what is past a limit is ended at once, its pins, locks and
//! writes are gone, and its owner hears of it with the next command.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use super::locks::{LockTable, Owner};
use super::open::State;
use crate::Timestamp;

/// Transactions that are open at once.
pub(crate) const OPEN_MAX: usize = 1024;

/// What transactions may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransactionLimits {
    /// Milliseconds without a command.
    pub idle_ms: i64,
    /// Milliseconds from its begin.
    pub age_ms: i64,
    /// Bytes of what one has written and read.
    pub bytes: usize,
}

impl Default for TransactionLimits {
    fn default() -> Self {
        Self {
            idle_ms: 60_000,
            age_ms: 600_000,
            bytes: 4 << 20,
        }
    }
}

/// What became of transactions since the store was opened, and those there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct OpenTransactions {
    /// That are open.
    pub open: usize,
    /// That were begun.
    pub begun: u64,
    /// That were committed.
    pub committed: u64,
    /// That lost a race.
    pub conflicts: u64,
    /// That would have waited for each other for ever.
    pub deadlocks: u64,
    /// That were ended for being past a limit.
    pub expired: u64,
    /// What they have written and read.
    pub bytes: usize,
}

/// A state that others can take away.
pub(crate) type Shared = Rc<RefCell<Option<State>>>;

/// The transactions that are open.
#[derive(Default)]
pub(crate) struct Registry {
    open: RefCell<BTreeMap<Owner, Shared>>,
    limits: Cell<TransactionLimits>,
    pub(crate) counts: Cell<OpenTransactions>,
    /// What they have written and read, all together, and what that may come to.
    bytes: Cell<usize>,
    bytes_max: Cell<usize>,
}

impl Registry {
    pub(crate) fn set_limits(&self, limits: TransactionLimits) {
        self.limits.set(limits);
    }

    pub(crate) fn limits(&self) -> TransactionLimits {
        self.limits.get()
    }

    /// Adds one; `None` when there are too many.
    pub(crate) fn add(&self, owner: Owner, state: State) -> Option<Shared> {
        let mut open = self.open.borrow_mut();
        if open.len() >= OPEN_MAX {
            return None;
        }
        let shared = Rc::new(RefCell::new(Some(state)));
        open.insert(owner, Rc::clone(&shared));
        self.count(|counts| counts.begun += 1);
        Some(shared)
    }

    /// It is over.
    pub(crate) fn remove(&self, owner: Owner) {
        let removed = self.open.borrow_mut().remove(&owner);
        if let Some(state) = removed.and_then(|shared| shared.borrow_mut().take()) {
            self.bytes.set(self.bytes.get() - state.rest.counted_bytes);
        }
    }

    /// What all together have written and read.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// Sets what all together may take, in bytes.
    pub(crate) fn set_bytes_max(&self, bytes: usize) {
        self.bytes_max.set(bytes);
    }

    /// One of them takes `bytes` now, where `counted` were known. False if all together would take too much by that: `counted` is as it was.
    pub(crate) fn count_bytes(&self, counted: &mut usize, bytes: usize) -> bool {
        let all = self.bytes.get() - *counted + bytes;
        if bytes > *counted && all > self.bytes_max.get() {
            return false;
        }
        self.bytes.set(all);
        *counted = bytes;
        true
    }

    /// The oldest state that somebody sees who will ask what was written since.
    pub(crate) fn oldest(&self) -> Option<Timestamp> {
        let open = self.open.borrow();
        let states = open.values().filter_map(|shared| {
            let state = shared.try_borrow().ok()?;
            state.as_ref()?.rest.validated_since()
        });
        states.min()
    }

    /// Those that are past a limit at `now_ms`.
    ///
    /// Who `waits` is not idle.
    pub(crate) fn past_limits(&self, now_ms: i64, waits: impl Fn(Owner) -> bool) -> Vec<Owner> {
        let limits = self.limits.get();
        let open = self.open.borrow();
        let past = open.iter().filter(|(owner, shared)| {
            let state = shared.try_borrow();
            let past = |state: &State| state.rest.is_past(&limits, now_ms, waits(**owner));
            state.is_ok_and(|state| state.as_ref().is_some_and(past))
        });
        past.map(|(owner, _)| *owner).collect()
    }

    /// Those that see a state older than `at` and would ask what was written since.
    pub(crate) fn older_than(&self, at: Timestamp) -> Vec<Owner> {
        let open = self.open.borrow();
        let older = open.iter().filter(|(_, shared)| {
            let state = shared.try_borrow().ok();
            let since = state.and_then(|state| state.as_ref()?.rest.validated_since());
            since.is_some_and(|since| since < at)
        });
        older.map(|(owner, _)| *owner).collect()
    }

    pub(crate) fn count(&self, change: impl FnOnce(&mut OpenTransactions)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }

    pub(crate) fn stats(&self) -> OpenTransactions {
        let open = self.open.borrow();
        OpenTransactions {
            open: open.len(),
            bytes: self.bytes.get(),
            ..self.counts.get()
        }
    }
}

/// Somebody who waits for locks or holds turns, until this is dropped.
pub(crate) struct LockOwner {
    locks: Rc<RefCell<LockTable>>,
    owner: Owner,
}

impl LockOwner {
    pub(crate) fn new(locks: &Rc<RefCell<LockTable>>, owner: Owner) -> Self {
        Self {
            locks: Rc::clone(locks),
            owner,
        }
    }

    pub(crate) fn owner(&self) -> Owner {
        self.owner
    }
}

impl Drop for LockOwner {
    fn drop(&mut self) {
        self.locks.borrow_mut().release_all(self.owner);
    }
}

//! Items of the history tree that are there only because transactions are open.
//!
//! Each is listed under the newest state that sees it, so that ending a transaction lets go of a whole list at once, and what an
//! older one still sees is listed there in its turn. Where there are too many to list, a walk through the whole history finds
//! them when the next transaction ends: slower, and as exact.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use crate::tree::Key;

/// Items that are listed, at 48 bytes each.
const LISTED_MAX: usize = 65_536;

/// An item of the history tree.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeptItem {
    pub key: Key,
    pub birth: u64,
    /// What it accounts for on the disk.
    pub bytes: u32,
}

/// Items listed under one state.
#[derive(Default)]
struct List {
    items: Vec<KeptItem>,
    bytes: u64,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Kept {
    lists: BTreeMap<u64, List>,
    /// Lists that were let go of and have not been gone through.
    loose: VecDeque<Vec<KeptItem>>,
    /// Items in all of them.
    count: usize,
    /// There is more than what is listed.
    unlisted: bool,
}

impl Kept {
    /// Bytes of the disk kept for the state after commit `pin` and none after it.
    pub(super) fn bytes_of(&self, pin: u64) -> u64 {
        self.lists.get(&pin).map_or(0, |list| list.bytes)
    }

    /// Bytes of the disk kept for all.
    pub(super) fn bytes(&self) -> u64 {
        self.lists.values().map(|list| list.bytes).sum()
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Whether ending transactions gives anything back, but those that see one state.
    pub(super) fn is_worth_ending(&self, but: Option<u64>) -> bool {
        let mut others = self.lists.iter().filter(|(pin, _)| Some(**pin) != but);
        self.unlisted || others.any(|(_, list)| list.bytes > 0)
    }

    /// Lists an item under the newest state that sees it.
    pub(crate) fn note(&mut self, pin: u64, item: KeptItem) {
        if self.count >= LISTED_MAX {
            self.unlisted = true;
            return;
        }
        self.count += 1;
        let list = self.lists.entry(pin).or_default();
        list.bytes += u64::from(item.bytes);
        list.items.push(item);
    }

    /// Lists an item that nobody sees already.
    pub(crate) fn note_loose(&mut self, item: KeptItem) {
        self.count += 1;
        match self.loose.back_mut() {
            Some(list) => list.push(item),
            None => self.loose.push_back(alloc::vec![item]),
        }
    }

    /// Notes that there is an item kept for a transaction which is not listed.
    pub(crate) fn note_unlisted(&mut self) {
        self.unlisted = true;
    }

    /// No transaction sees that state any more. True when the whole history has to be gone through.
    #[must_use]
    pub(super) fn let_go(&mut self, pin: u64) -> bool {
        if let Some(list) = self.lists.remove(&pin) {
            self.loose.push_back(list.items);
        }
        core::mem::take(&mut self.unlisted)
    }

    /// Whether there are items to go through.
    pub(crate) fn has_loose(&self) -> bool {
        !self.loose.is_empty()
    }

    /// Takes up to `limit` items that were let go of.
    pub(crate) fn take_loose(&mut self, limit: usize) -> Vec<KeptItem> {
        let Some(list) = self.loose.front_mut() else {
            return Vec::new();
        };
        let taken = list.split_off(list.len().saturating_sub(limit));
        if list.is_empty() {
            self.loose.pop_front();
        }
        self.count -= taken.len();
        taken
    }

    /// Gives back what was [taken](Self::take_loose) and could not be gone through yet.
    pub(crate) fn put_back(&mut self, items: Vec<KeptItem>) {
        self.count += items.len();
        self.loose.push_front(items);
    }

    /// Gives up on what was let go of: something about it cannot be read. The next mount tries again.
    pub(crate) fn give_up(&mut self) {
        let items = self.loose.drain(..).map(|list| list.len());
        self.count -= items.sum::<usize>();
    }
}

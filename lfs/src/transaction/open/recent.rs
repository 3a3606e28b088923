//! What was changed since the oldest open transaction began, by which commit last.
//!
//! This is what makes a comparison at commit cost what the transaction costs: one look-up for each thing it changed or
//! read. Memory is bounded by [`RECENT_MAX`]; beyond, transactions are ended, the oldest first, until it suffices.

use alloc::collections::{BTreeMap, VecDeque};

use super::merge::InodeChange;
use crate::ItemKey;

/// Changes that are remembered, at some 100 bytes each.
pub(super) const RECENT_MAX: usize = 65_536;

/// The last commits that changed an item: at all, so that it can be seen, and in what ways through it depend on.
#[derive(Clone, Copy, Default)]
struct Changed {
    written: u64,
    seen: u64,
    passage: u64,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Recent {
    items: BTreeMap<ItemKey, Changed>,
    /// All changes, oldest first: an item is forgotten with its last one.
    order: VecDeque<(u64, ItemKey)>,
}

impl Recent {
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// Notes a change by the newest commit.
    pub(super) fn note(&mut self, commit: u64, key: ItemKey, change: InodeChange) {
        let item = self.items.entry(key).or_default();
        item.written = commit;
        if change >= InodeChange::Seen {
            item.seen = commit;
        }
        if change >= InodeChange::Passage {
            item.passage = commit;
        }
        self.order.push_back((commit, key));
    }

    /// Forgets what commits up to that one have changed.
    pub(super) fn forget(&mut self, up_to: u64) {
        while let Some(&(commit, key)) = self.order.front()
            && commit <= up_to
        {
            self.order.pop_front();
            if self
                .items
                .get(&key)
                .is_some_and(|item| item.written == commit)
            {
                self.items.remove(&key);
            }
        }
    }

    /// The commit after `at` that last changed an item, if one did.
    pub(super) fn written_since(&self, key: ItemKey, at: u64) -> Option<u64> {
        let item = self.items.get(&key)?;
        Some(item.written).filter(|&commit| commit > at)
    }

    /// The same, of an inode's being there and where.
    pub(super) fn moved_since(&self, key: ItemKey, at: u64) -> Option<u64> {
        let item = self.items.get(&key)?;
        Some(item.passage).filter(|&commit| commit > at)
    }

    /// The first item from `first` to `last` that a commit after `at` changed so that it can be seen.
    pub(super) fn seen_since(
        &self,
        first: ItemKey,
        last: ItemKey,
        at: u64,
    ) -> Option<(ItemKey, u64)> {
        let mut items = self.items.range(first..=last);
        let found = items.find(|(_, item)| item.seen > at);
        found.map(|(&key, item)| (key, item.seen))
    }
}

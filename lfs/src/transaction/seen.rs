//! What a state shows of the trees, some items at a time.
//!
//! The newest state is the live tree. An older one, which a snapshot or an open transaction sees, is what is old enough in the
//! live tree, and in the history what had not ended. What such a state does *not* show lies in between, and there
//! can be any amount of it: all that was made, changed and removed since. So whoever looks for the next thing that is shown may
//! pass by much without finding anything.
//!
//! Bound: a [`Seen`] that passed by [`UNSEEN_MAX`] items in a row returns [`Fault::Unseen`], as if something were missing in
//! memory. Whoever runs the operation lets others have their turn and notes in [`Loaded`] up to where nothing is
//! shown, and the next run begins behind that. It stays true: what a state shows does not change.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::ControlFlow;

use super::volume::Volume;
use super::write_set::Loaded;
use crate::tree::{Item, Key};
use crate::{CommitNumber, Fault, ItemKey};

/// Most items of each tree that are looked at in one go.
const LOOKS_AT_ONCE: usize = 256;

/// Items passed by in a row that the state does not show, before others have their turn.
const UNSEEN_MAX: usize = 2048;

/// Versions of an item looked at one after the other, before the rest is skipped.
const VERSIONS_IN_A_ROW: usize = 8;

/// Which state of the trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    Newest,
    /// As it was after that commit, which a snapshot or an open transaction shows.
    Snapshot(CommitNumber),
}

/// A range of items that a state does not show, from the first up to, but without, the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unseen {
    at: CommitNumber,
    from: ItemKey,
    to: ItemKey,
}

/// What was found to hold nothing that a state shows. Ranges that touch are one; each has cost passing by [`UNSEEN_MAX`]
/// items.
#[derive(Default)]
pub(crate) struct UnseenRanges {
    at: CommitNumber,
    ranges: BTreeMap<ItemKey, ItemKey>,
}

impl UnseenRanges {
    pub(crate) fn note(&mut self, unseen: Unseen) {
        if self.at != unseen.at {
            self.ranges.clear();
            self.at = unseen.at;
        }
        let (mut from, mut to) = (unseen.from, unseen.to);
        if let Some((&before, &end)) = self.ranges.range(..=from).next_back()
            && end >= from
        {
            (from, to) = (before, to.max(end));
        }
        self.ranges.insert(from, to);
    }

    /// The first item at or behind `key` that the state may show.
    fn behind(&self, at: CommitNumber, key: ItemKey) -> ItemKey {
        let mut key = key;
        while self.at == at
            && let Some((_, &end)) = self.ranges.range(..=key).next_back()
            && end > key
        {
            key = end;
        }
        key
    }
}

/// Items that a state shows, in the order of their keys.
pub(crate) struct Batch {
    pub items: Vec<(ItemKey, Item)>,
    /// All from here on …
    pub from: ItemKey,
    /// … up to, but without, this one are there; `None`: all there are.
    pub next: Option<ItemKey>,
}

/// The way through the items of one kind and object that a state shows.
pub(crate) struct Seen<'t> {
    volume: &'t Volume,
    at: At,
    loaded: &'t Loaded,
    next: Option<ItemKey>,
    to: ItemKey,
    looks: usize,
    looked: usize,
    /// From where on nothing has been shown, and how much was looked at since.
    unseen: (ItemKey, usize),
}

impl<'t> Seen<'t> {
    /// From `from` to `to`. At first about `looks` items are looked at, then twice as many each time.
    pub(crate) fn new(
        (volume, at, loaded): (&'t Volume, At, &'t Loaded),
        (from, to): (ItemKey, ItemKey),
        looks: usize,
    ) -> Self {
        Self {
            volume,
            at,
            loaded,
            next: Some(from).filter(|from| *from <= to),
            to,
            looks: looks.clamp(1, LOOKS_AT_ONCE),
            looked: 0,
            unseen: (from, 0),
        }
    }

    /// Items looked at so far, about.
    pub(crate) fn looked(&self) -> usize {
        self.looked
    }

    /// The next of them, perhaps none; `None` at the end.
    ///
    /// # Errors
    /// What must be loaded first.
    pub(crate) fn next(&mut self) -> Result<Option<Batch>, Fault> {
        let Some(from) = self.next else {
            return Ok(None);
        };
        let mut first = from;
        if let At::Snapshot(at) = self.at {
            first = self.loaded.unseen.behind(at, from);
            if self.unseen.1 >= UNSEEN_MAX && self.unseen.0 < from {
                return Err(Fault::Unseen(Unseen {
                    at,
                    from: self.unseen.0,
                    to: from,
                }));
            }
        }
        let mut batch = Batch {
            items: Vec::new(),
            from,
            next: None,
        };
        if first <= self.to {
            let range = (first, self.to);
            let next = self
                .volume
                .items_at(self.at, range, self.looks, &mut batch.items)?;
            batch.next = next.filter(|next| *next <= self.to);
            self.looked += self.looks;
            self.unseen.1 += self.looks;
        }
        if let Some((last, _)) = batch.items.last() {
            self.unseen = (behind(*last).unwrap_or(self.to), 0);
        }
        self.looks = (self.looks * 2).min(LOOKS_AT_ONCE);
        self.next = batch.next;
        Ok(Some(batch))
    }
}

/// The item that comes after `key`, of the same kind and object.
pub(crate) fn behind(key: ItemKey) -> Option<ItemKey> {
    let position = key.position.checked_add(1)?;
    Some(ItemKey { position, ..key })
}

/// The item that comes before `key`, of the same kind and object.
pub(crate) fn before(key: ItemKey) -> Option<ItemKey> {
    let position = key.position.checked_sub(1)?;
    Some(ItemKey { position, ..key })
}

impl Volume {
    /// The item that a state shows.
    ///
    /// # Errors
    /// What must be loaded first.
    pub(crate) fn item_at(&self, at: At, key: ItemKey) -> Result<Option<Item>, Fault> {
        let live = || self.live.get(&Key::live(key));
        let At::Snapshot(commit) = at else {
            return live();
        };
        let died = self.history.first_from(&Key::dead(key, commit.0 + 1))?;
        let item = match died.filter(|(found, _)| found.item_key() == key) {
            Some((_, item)) => Some(item),
            None => live()?,
        };
        Ok(item.filter(|item| item.birth <= commit.0))
    }

    /// The first items in a range of one kind and object that a state shows; looks at `looks` of each tree. Up to, but without,
    /// what is returned all are there; `None`: to the range's end.
    fn items_at(
        &self,
        at: At,
        (from, to): (ItemKey, ItemKey),
        looks: usize,
        items: &mut Vec<(ItemKey, Item)>,
    ) -> Result<Option<ItemKey>, Fault> {
        let commit = match at {
            At::Newest => u64::MAX,
            At::Snapshot(commit) => commit.0,
        };
        let mut left = looks;
        let mut last = from;
        let range = Key::live(from)..=Key::dead(to, u64::MAX);
        self.live.for_each_in(&range, |key, item| {
            last = key.item_key();
            if item.birth <= commit {
                items.push((last, item.to_item()));
            }
            go_on(&mut left)
        })?;
        let live_next = behind(last).filter(|_| left == 0);
        if at == At::Newest {
            return Ok(live_next);
        }
        let dead_next = self.dead_at(commit, (from, to), looks, items)?;
        let next = live_next.into_iter().chain(dead_next).min();
        items.retain(|(key, _)| next.is_none_or(|next| *key < next));
        items.sort_unstable_by_key(|(key, _)| *key);
        Ok(next)
    }

    /// Of the history what the state after `commit` shows. Of the versions of an item that is only the first that ended
    /// after it, if any: those that ended later were born later.
    fn dead_at(
        &self,
        commit: u64,
        (from, to): (ItemKey, ItemKey),
        looks: usize,
        items: &mut Vec<(ItemKey, Item)>,
    ) -> Result<Option<ItemKey>, Fault> {
        let mut left = looks;
        let mut next = Some(from);
        while let Some(from) = next.filter(|_| left > 0) {
            let range = Key::dead(from, commit + 1)..=Key::dead(to, u64::MAX);
            let mut in_a_row = 0;
            let mut last = from;
            next = None;
            self.history.for_each_in(&range, |key, item| {
                let item_key = key.item_key();
                in_a_row = if item_key == last { in_a_row + 1 } else { 0 };
                last = item_key;
                let ended_after = key.version > commit;
                if ended_after && item.birth <= commit {
                    items.push((item_key, item.to_item()));
                }
                if go_on(&mut left).is_continue() && in_a_row < VERSIONS_IN_A_ROW {
                    return ControlFlow::Continue(());
                }
                next = if ended_after {
                    behind(item_key)
                } else {
                    Some(item_key)
                };
                ControlFlow::Break(())
            })?;
        }
        Ok(next)
    }
}

/// Counts one down.
fn go_on(left: &mut usize) -> ControlFlow<()> {
    *left = left.saturating_sub(1);
    if *left == 0 {
        ControlFlow::Break(())
    } else {
        ControlFlow::Continue(())
    }
}

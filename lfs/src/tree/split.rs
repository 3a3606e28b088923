//! Splitting nodes that are too large, and joining small ones.
//!
//! Where to split decides how full nodes are. Items of files that grow come one behind the other, at the
//! end of the tree or in its midst; there the part before them is left full. Elsewhere the two halves
//! take the same room.

use alloc::vec::Vec;

use super::codec::{self, NODE_PAYLOAD_BYTES};
use super::key::Key;
use super::node::{Node, entries_max};

/// Insertions one behind the other after which more of them are expected.
const RUN_MIN: u8 = 4;

impl Node {
    /// Splits until every part fits; returns the parts after this one. Where entries come one behind
    /// the other, the part before the latest stays full and more of them find room behind it.
    pub(super) fn split(&mut self) -> Vec<Self> {
        let mut parts = Vec::new();
        if !self.fits() {
            self.split_at(self.split_point(), &mut parts);
        }
        parts
    }

    fn split_at(&mut self, index: usize, parts: &mut Vec<Self>) {
        let mut right = self.split_off(index);
        if !self.fits() && self.len() > 1 {
            self.split_at(self.middle(), parts);
        }
        let mut rest = Vec::new();
        if !right.fits() && right.len() > 1 {
            right.split_at(right.middle(), &mut rest);
        }
        parts.push(right);
        parts.append(&mut rest);
    }

    /// Whether entries come one behind the other.
    pub(super) fn is_run(&self) -> bool {
        self.run >= RUN_MIN || self.last_insert.checked_add(1) == Some(self.len())
    }

    fn split_point(&self) -> usize {
        let latest = self.last_insert;
        if latest.checked_add(1) == Some(self.len()) {
            return latest.max(1);
        }
        if self.run >= RUN_MIN && latest < self.len() {
            let left = (0..=latest).map(|index| self.edge(index)).sum::<usize>();
            let room = left <= NODE_PAYLOAD_BYTES && latest < entries_max();
            return if room { latest + 1 } else { latest.max(1) };
        }
        self.middle()
    }

    /// The index, neither first nor behind the last, that halves the node best.
    fn middle(&self) -> usize {
        let mut left = 0;
        for index in 0..self.len() {
            let edge = self.edge(index);
            // The entry across the middle goes to the side that has more of it.
            if left + edge / 2 >= self.size / 2 {
                return index.clamp(1, self.len() - 1);
            }
            left += edge;
        }
        self.len() - 1
    }

    fn split_off(&mut self, index: usize) -> Self {
        let mut right = Self::empty(self.tree, self.level);
        right.entries = self.entries.split_off(index);
        if self.level == 0 {
            right.values.clone_from(&self.values);
            right.compact();
            self.compact();
        } else {
            right.children = self.children.split_off(index.min(self.children.len()));
        }
        if let Some(latest) = self.last_insert.checked_sub(index) {
            (right.last_insert, right.run) = (latest, self.run);
            self.last_insert = usize::MAX;
        }
        self.entries.shrink_to(index + 16);
        self.recount();
        right.recount();
        right
    }

    /// What this node and `right` would take together.
    pub(super) fn joined_size(&self, right: &Self) -> usize {
        // The entry at the seam is coded relative to another one than before.
        let base = self.base.min(right.base);
        self.size_with(base) + right.size_with(base) + codec::ENTRY_OVERHEAD_BYTES_MAX
    }

    /// Appends the entries of `right`, whose keys are all above these. `low` is the key that `right` had in
    /// the parent.
    pub(super) fn join(&mut self, mut right: Self, low: Key) {
        if self.level == 0 {
            self.compact();
            right.compact();
            let start = u16::try_from(self.values.len()).unwrap_or(u16::MAX);
            for entry in &mut right.entries {
                entry.offset = entry.offset.saturating_add(start);
            }
        } else if let Some(first) = right.entries.first_mut() {
            // Keys from there on belong below it; one of them may be prepared.
            first.set_key(low);
        }
        self.entries.append(&mut right.entries);
        self.values.append(&mut right.values);
        self.children.append(&mut right.children);
        (self.last_insert, self.run) = (usize::MAX, 0);
        self.recount();
    }
}

//! Putting and removing items.
//!
//! A node that gets too large is split, one that gets small is joined with a neighbour if that one is
//! in memory and both fit into one. A leaf that has become empty stays until the next step: another prepared key
//! may belong there, and the neighbour that takes its range over need not be in memory. No empty node is ever written.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::ops::Add;

use super::codec::{self, NODE_PAYLOAD_BYTES};
use super::key::{Expected, Item, Key};
use super::node::{Child, Node, entries_max};
use super::{Ledger, Tree};
use crate::{BlockIndex, Fault, ITEM_BYTES_MAX};

/// A node smaller than this is joined with a neighbour.
const JOIN_BELOW_BYTES: usize = NODE_PAYLOAD_BYTES / 4;
/// Unless the two together take more than this.
const JOINED_BYTES_MAX: usize = NODE_PAYLOAD_BYTES / 8 * 7;

/// Two neighbours are evened out when one is too large and they take no more than this together.
const EVENED_BYTES_MAX: usize = NODE_PAYLOAD_BYTES / 8 * 15;

/// Nodes that a split made, with the keys at which they begin.
type Parts = Vec<(Key, Child)>;

/// Children that an interior node has at least when one too large was halved.
const HALVED_CHILDREN: usize = NODE_PAYLOAD_BYTES / 2 / (codec::ENTRY_OVERHEAD_BYTES_MAX + 12);
/// Bytes by which an entry and the next can grow when another item takes the place of one.
const REPLACED_BYTES_MAX: usize = 24;

/// What a step that is being [prepared](Tree::prepare_counted) does to the nodes of a tree.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    /// Nodes that have not changed since they were written.
    stored: BTreeSet<BlockIndex>,
    /// Leaves that get something, by the first key that belongs there.
    leaves: BTreeMap<Key, Grown>,
    /// Levels of the tree above the leaves.
    levels: usize,
    /// There is no leaf so far.
    is_first: bool,
}

/// A leaf and what a step adds to it.
#[derive(Debug, Clone, Copy)]
struct Grown {
    bytes: Growth,
    entries: Growth,
    /// Bytes of the largest entry that is added.
    largest: usize,
    /// Places between the entries that are there at which some are added, and the last of them.
    gaps: usize,
    last_gap: usize,
}

/// How much is there, and how much is added.
#[derive(Debug, Clone, Copy)]
struct Growth {
    before: usize,
    added: usize,
}

impl Growth {
    /// By how much it is more than `max` in the end. What gets more than a little may have been evened out with a neighbour
    /// before, and then was as full as that makes it; what gets little fits even so.
    fn over(self, max: usize) -> Option<usize> {
        let evened = if self.added > max / 32 {
            max / 16 * 15
        } else {
            0
        };
        (self.before.max(evened) + self.added).checked_sub(max + 1)
    }
}

impl Grown {
    fn of(leaf: &Node) -> Self {
        let growth = |before| Growth { before, added: 0 };
        Self {
            bytes: growth(leaf.size()),
            entries: growth(leaf.len()),
            largest: 0,
            gaps: 0,
            last_gap: usize::MAX,
        }
    }

    /// Nodes that it is split into, less one. Items come in the order of their keys: of those that come one behind the other a
    /// split leaves a node behind that is full but for one entry, of others two that are half of that. Evening out two nodes
    /// makes neither so full that the sum of what they have beyond their halves became more, so it delays splits and causes none
    /// but of what [`Growth::over`] counts.
    fn splits(&self) -> usize {
        let parts = |over: Option<usize>, full: usize| match over {
            Some(over) => (over / full + self.gaps.max(1)).min((2 * over).div_ceil(full) + 1),
            None => 0,
        };
        let full = NODE_PAYLOAD_BYTES - self.largest.max(REPLACED_BYTES_MAX);
        let bytes = parts(self.bytes.over(NODE_PAYLOAD_BYTES), full);
        bytes.max(parts(self.entries.over(entries_max()), entries_max()))
    }
}

/// By how many nodes become more in a step, at most.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct MoreNodes {
    /// Changed ones, with those that are new.
    pub changed: usize,
    /// All: what they take on the disk is not instead of anything.
    pub new: usize,
}

impl Add for MoreNodes {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            changed: self.changed + other.changed,
            new: self.new + other.new,
        }
    }
}

impl Touched {
    /// By how many nodes become more.
    pub(crate) fn nodes(&self) -> MoreNodes {
        let halves = self.leaves.values().map(Grown::splits).sum::<usize>();
        // A node is halved where an entry ends: the larger half is the next to be too large.
        let splits = halves + halves.div_ceil(2);
        let above = match splits {
            0 => 0,
            _ => self.levels + 1 + splits / HALVED_CHILDREN,
        };
        let new = usize::from(self.is_first) + splits + above;
        let changed = self.stored.len() + new;
        MoreNodes { changed, new }
    }

    /// Notes an item that is put into a leaf.
    fn grow(&mut self, low: Key, leaf: &Node, key: &Key, put: Put) {
        let grown = self.leaves.entry(low).or_insert_with(|| Grown::of(leaf));
        // Births are kept relative to the least.
        grown.bytes.added += leaf.size_with(leaf.base().min(put.birth)) - leaf.size();
        match leaf.search(key) {
            Ok(index) => {
                let old = leaf.item(index).map_or(0, |(_, item)| item.value.len());
                grown.bytes.added += put.value_bytes.saturating_sub(old) + REPLACED_BYTES_MAX;
                grown.largest = grown.largest.max(put.value_bytes);
            }
            Err(gap) => {
                let bytes = put.value_bytes + codec::ENTRY_OVERHEAD_BYTES_MAX;
                grown.bytes.added += bytes;
                grown.entries.added += 1;
                grown.largest = grown.largest.max(bytes);
                grown.gaps += usize::from(gap != grown.last_gap);
                grown.last_gap = gap;
            }
        }
    }
}

/// An item that is about to be put.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Put {
    pub birth: u64,
    pub value_bytes: usize,
}

impl Tree {
    /// Makes sure that `key` can be put or removed. Every key of a step is prepared before the first is put or removed.
    ///
    /// # Errors
    /// What must be loaded first.
    pub(crate) fn prepare(&mut self, key: &Key) -> Result<(), Fault> {
        self.tidy();
        self.leaf_of(key).map(drop)
    }

    /// The same, for a step whose changes are counted: `put` or, without it, a removal.
    ///
    /// # Errors
    /// What must be loaded first.
    pub(crate) fn prepare_counted(
        &mut self,
        key: &Key,
        put: Option<Put>,
        touched: &mut Touched,
    ) -> Result<(), Fault> {
        self.tidy();
        touched.levels = usize::from(self.level);
        let stored = &mut touched.stored;
        let leaf = self.go_down(key, |pointer| {
            stored.insert(pointer.block);
        })?;
        if let Some(put) = put {
            touched.is_first = leaf.is_none();
            let (low, leaf) = leaf.unwrap_or_else(|| {
                let empty = Node::empty(self.ledger.kind, 0);
                (Key::MIN, Rc::new(empty))
            });
            touched.grow(low, &leaf, key, put);
        }
        Ok(())
    }

    /// Sets the item under `key`; returns what was there.
    ///
    /// # Errors
    /// What must be loaded first: never after [`prepare`](Self::prepare). Nothing has been changed then.
    ///
    /// # Panics
    /// When the value is larger than [`ITEM_BYTES_MAX`]: a mistake of the caller's.
    pub(crate) fn put(&mut self, key: Key, item: &Item) -> Result<Option<Item>, Fault> {
        assert!(
            item.value.len() <= ITEM_BYTES_MAX,
            "an item too large for a node"
        );
        if self.root.is_none() {
            self.level = 0;
        }
        let mut place = self.ledger.root_place(self.level);
        let root = self.root.get_or_insert_with(|| {
            self.ledger.dirty_nodes += 1;
            Child::Dirty(Rc::new(Node::empty(self.ledger.kind, 0)))
        });
        let old = self.ledger.put(root, &place, key, item)?;
        while let Some(Child::Dirty(root)) = &self.root
            && !root.fits()
        {
            place.level += 1;
            let mut node = Node::empty(self.ledger.kind, place.level);
            if let Some(root) = self.root.take() {
                node.insert_child(0, Key::MIN, root);
            }
            self.ledger.relieve(&mut node, 0);
            self.ledger.dirty_nodes += 1;
            self.root = Some(Child::Dirty(Rc::new(node)));
            self.level = place.level;
        }
        Ok(old)
    }

    /// Removes the item under `key`; returns it.
    ///
    /// # Errors
    /// What must be loaded first: never after [`prepare`](Self::prepare). Nothing has been changed then.
    pub(crate) fn remove(&mut self, key: &Key) -> Result<Option<Item>, Fault> {
        if self.get(key)?.is_none() {
            return Ok(None);
        }
        let place = self.ledger.root_place(self.level);
        let Some(root) = &mut self.root else {
            return Ok(None);
        };
        let old = self.ledger.remove(root, &place, key, &mut self.emptied)?;
        self.lower_root();
        Ok(old)
    }

    /// Makes the next checkpoint write the node at `block` to another place, if it is a node of this
    /// tree; returns whether it was. `level` and `first_key` are what the node says of itself. The
    /// block is free once a checkpoint that was frozen after this is in force.
    ///
    /// # Errors
    /// What must be loaded first.
    pub(crate) fn redirty(
        &mut self,
        block: BlockIndex,
        level: u8,
        first_key: &Key,
    ) -> Result<bool, Fault> {
        // Until then nodes that the newest checkpoint has just written count as changed.
        self.settle_all();
        self.tidy();
        let place = self.ledger.root_place(self.level);
        let Some(root) = &mut self.root else {
            return Ok(false);
        };
        let ledger = &mut self.ledger;
        if level > place.level || !ledger.is_current(root, &place, (block, level), first_key)? {
            return Ok(false);
        }
        ledger.dirty_path(root, &place, level, first_key)?;
        Ok(true)
    }

    /// Takes out the leaves that have become empty. Only between steps.
    pub(super) fn tidy(&mut self) {
        for key in core::mem::take(&mut self.emptied) {
            let empty = |tree: &Self| {
                tree.leaf_of(&key)
                    .ok()
                    .flatten()
                    .is_some_and(|leaf| leaf.is_empty())
            };
            if !empty(self) {
                continue;
            }
            let place = self.ledger.root_place(self.level);
            if let Some(root) = &mut self.root
                && self.ledger.prune(root, &place, &key)
            {
                self.root = None;
                self.level = 0;
            }
            self.lower_root();
        }
    }

    /// A root with one child gives way to it.
    fn lower_root(&mut self) {
        while let Some(Child::Dirty(root)) = &mut self.root
            && root.level() > 0
            && root.len() == 1
            && let Some(child) = root.child(0).cloned()
        {
            self.root = Some(child);
            self.level -= 1;
            self.ledger.dirty_nodes -= 1;
        }
    }
}

impl Ledger {
    /// Puts an item below `child`, which may be too large then.
    fn put(
        &mut self,
        child: &mut Child,
        place: &Expected,
        key: Key,
        item: &Item,
    ) -> Result<Option<Item>, Fault> {
        let node = self.dirty(child, place)?;
        if node.level() == 0 {
            return Ok(node.put(key, item));
        }
        node.lower_first(&key, place.range.low);
        let index = node.route(&key);
        let below = Self::below(node, index, place);
        let Some(child) = node.child_mut(index) else {
            return Ok(None);
        };
        let old = self.put(child, &below, key, item)?;
        self.relieve(node, index);
        Ok(old)
    }

    /// If child `index` of `node` is too large, evens it out with a neighbour that is changed as well and has room, or
    /// splits it.
    fn relieve(&mut self, node: &mut Node, index: usize) {
        let crowded =
            |child: Option<&Child>| matches!(child, Some(Child::Dirty(child)) if !child.fits());
        if !crowded(node.child(index)) {
            return;
        }
        let mut at = index;
        if let Some(left) = Self::pair_with_room(node, index)
            && let Some((low, Child::Dirty(right))) = node.remove_child(left + 1)
            && let Some(Child::Dirty(into)) = node.child_mut(left)
        {
            self.dirty_nodes -= 1;
            Rc::make_mut(into).join(Rc::unwrap_or_clone(right), low);
            at = left;
        }
        let Some(Child::Dirty(child)) = node.child_mut(at) else {
            return;
        };
        let parts = self.split(Rc::make_mut(child));
        for (offset, (low, part)) in parts.into_iter().enumerate() {
            node.insert_child(at + 1 + offset, low, part);
        }
    }

    /// The left one of child `index` and a neighbour with which it can share its entries so that neither is full.
    fn pair_with_room(node: &Node, index: usize) -> Option<usize> {
        let changed = |index: usize| match node.child(index) {
            Some(Child::Dirty(child)) => Some(child),
            _ => None,
        };
        if changed(index)?.is_run() {
            return None;
        }
        let room = |left: &usize| {
            let (Some(first), Some(second)) = (changed(*left), changed(left + 1)) else {
                return false;
            };
            first.joined_size(second) <= EVENED_BYTES_MAX
                && first.len() + second.len() <= entries_max() / 8 * 15
        };
        [Some(index), index.checked_sub(1)]
            .into_iter()
            .flatten()
            .find(room)
    }

    /// Splits a node that is too large.
    fn split(&mut self, node: &mut Node) -> Parts {
        let rights = node.split();
        self.dirty_nodes += rights.len();
        let mut last = node.key(node.len().saturating_sub(1));
        let mut parts = Vec::with_capacity(rights.len());
        for right in rights {
            if let (Some(left), Some(first)) = (last, right.key(0)) {
                let interior = right.level() > 0;
                let low = if interior {
                    first
                } else {
                    Key::separator(&left, &first)
                };
                last = right.key(right.len().saturating_sub(1));
                parts.push((low, Child::Dirty(Rc::new(right))));
            }
        }
        parts
    }

    fn remove(
        &mut self,
        child: &mut Child,
        place: &Expected,
        key: &Key,
        emptied: &mut Vec<Key>,
    ) -> Result<Option<Item>, Fault> {
        let node = self.dirty(child, place)?;
        if node.level() == 0 {
            let old = node.remove(key);
            if node.is_empty() {
                emptied.push(*key);
            }
            return Ok(old);
        }
        let index = node.route(key);
        let below = Self::below(node, index, place);
        let Some(child) = node.child_mut(index) else {
            return Ok(None);
        };
        let old = self.remove(child, &below, key, emptied)?;
        self.join_small(node, index, place);
        Ok(old)
    }

    /// Takes out the empty leaf of `key` and the nodes above it that become empty by that; returns
    /// whether `child` is to be taken out.
    fn prune(&mut self, child: &mut Child, place: &Expected, key: &Key) -> bool {
        let Child::Dirty(node) = child else {
            return false;
        };
        if node.level() > 0 {
            let node = Rc::make_mut(node);
            let index = node.route(key);
            let below = Self::below(node, index, place);
            if let Some(child) = node.child_mut(index)
                && self.prune(child, &below, key)
            {
                node.remove_child(index);
            } else {
                self.join_small(node, index, place);
            }
        }
        let gone = node.is_empty();
        self.dirty_nodes -= usize::from(gone);
        gone
    }

    /// Whether the node at `block` is the one at `level` that `first_key` leads to.
    fn is_current(
        &self,
        child: &Child,
        place: &Expected,
        (block, level): (BlockIndex, u8),
        first_key: &Key,
    ) -> Result<bool, Fault> {
        if place.level == level {
            let found = matches!(child, Child::Stored(pointer) if pointer.block == block);
            if found {
                self.load(child, place)?;
            }
            return Ok(found);
        }
        let node = self.load(child, place)?;
        let index = node.route(first_key);
        let below = Self::below(&node, index, place);
        node.child(index).map_or(Ok(false), |child| {
            self.is_current(child, &below, (block, level), first_key)
        })
    }

    /// Makes the node at `level` that `key` leads to dirty, and so all above it.
    fn dirty_path(
        &mut self,
        child: &mut Child,
        place: &Expected,
        level: u8,
        key: &Key,
    ) -> Result<(), Fault> {
        let node = self.dirty(child, place)?;
        let index = node.route(key);
        let below = Self::below(node, index, place);
        match node.child_mut(index) {
            Some(child) if place.level > level => self.dirty_path(child, &below, level, key),
            _ => Ok(()),
        }
    }

    /// Joins child `index` of `node`, which is at `place`, with a neighbour if it is small.
    fn join_small(&mut self, node: &mut Node, index: usize, place: &Expected) {
        let Some(Child::Dirty(child)) = node.child(index) else {
            return;
        };
        if child.is_empty() || child.size() >= JOIN_BELOW_BYTES {
            return;
        }
        let sides = [index.checked_sub(1), Some(index)];
        // A neighbour that has to be written anyway comes first.
        for dirty in [true, false] {
            for left in sides.into_iter().flatten() {
                let neighbour = if left == index { index + 1 } else { left };
                let is_dirty = matches!(node.child(neighbour), Some(Child::Dirty(_)));
                if is_dirty == dirty && self.join(node, left, place) {
                    return;
                }
            }
        }
    }

    /// Joins children `left` and `left + 1` if both are in memory and fit into one node.
    fn join(&mut self, node: &mut Node, left: usize, place: &Expected) -> bool {
        let right = left + 1;
        let load = |index| {
            let place = Self::below(node, index, place);
            let child = node.child(index).filter(|child| self.is_in_memory(child));
            child.and_then(|child| self.load(child, &place).ok())
        };
        let (Some(first), Some(second)) = (load(left), load(right)) else {
            return false;
        };
        if first.joined_size(&second) > JOINED_BYTES_MAX
            || first.len() + second.len() > entries_max() / 8 * 7
        {
            return false;
        }
        drop((first, second));
        let places = [left, right].map(|index| Self::below(node, index, place));
        let [left_place, right_place] = &places;
        // Both are in memory, so neither of these fails.
        for (index, place) in [(left, left_place), (right, right_place)] {
            if let Some(child) = node.child_mut(index)
                && self.dirty(child, place).is_err()
            {
                return false;
            }
        }
        let Some((low, Child::Dirty(taken))) = node.remove_child(right) else {
            return false;
        };
        self.dirty_nodes -= 1;
        if let Some(Child::Dirty(into)) = node.child_mut(left) {
            Rc::make_mut(into).join(Rc::unwrap_or_clone(taken), low);
        }
        true
    }

    fn is_in_memory(&self, child: &Child) -> bool {
        match child {
            Child::Dirty(_) => true,
            Child::Stored(pointer) => self.cache.borrow().contains(*pointer),
        }
    }

    /// Makes the node at `place` changeable: in memory only, and nobody else's.
    fn dirty<'c>(&mut self, child: &'c mut Child, place: &Expected) -> Result<&'c mut Node, Fault> {
        if let Child::Stored(pointer) = *child {
            let node = self.load(child, place)?;
            self.cache.borrow_mut().remove(pointer);
            self.freed.push(pointer.block);
            self.dirty_nodes += 1;
            *child = Child::Dirty(node);
        }
        match child {
            Child::Dirty(node) => Ok(Rc::make_mut(node)),
            Child::Stored(pointer) => Err(Fault::Node(*pointer)),
        }
    }
}

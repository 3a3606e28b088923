//! A node in memory: a sorted array of entries, and for leaves one arena with all their values.
//!
//! Invariants: keys ascend strictly; an interior node has as many children as entries, a leaf none;
//! `size` is what the entries take on disk with births relative to `base`, and `base` is at most every
//! birth, so a node never grows when it is encoded with the least birth itself. The key of an interior
//! entry is at most every key below it. The parent may send smaller ones here: they belong below the
//! first entry.
//!
//! A node knows nothing of its tree: which node to change, and what then becomes of its neighbours, is
//! decided in `change`; how one becomes several, or two one, is in `split`.

use alloc::rc::Rc;
use alloc::vec::Vec;

use super::codec::{self, NODE_PAYLOAD_BYTES};
use super::key::{Item, ItemRef, Key, KeyRange, TreeKind};
use crate::{ItemKind, NodePointer};

/// Most entries of a node: a few more than it holds pieces of one file, which are the smallest. Bounds the memory of a
/// node, 20 KiB.
pub(crate) const NODE_ENTRIES_MAX: usize = 384;

/// [`NODE_ENTRIES_MAX`], but that tests grow high trees from few items.
#[cfg(not(test))]
pub(super) fn entries_max() -> usize {
    NODE_ENTRIES_MAX
}
#[cfg(test)]
pub(super) use super::tests::entries_max;

/// Dead bytes in a leaf's arena at which it is rebuilt.
const DEAD_BYTES_MAX: usize = 2048;

/// One entry. Leaves use `birth`, `offset` and `len`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub object: u64,
    pub position: u64,
    pub version: u64,
    pub birth: u64,
    pub offset: u16,
    pub len: u16,
    pub kind: ItemKind,
}

impl Entry {
    pub(super) fn interior(key: Key) -> Self {
        Self::leaf(key, 0, 0, 0)
    }

    pub(super) fn leaf(key: Key, birth: u64, offset: u16, len: u16) -> Self {
        Self {
            object: key.object,
            position: key.position,
            version: key.version,
            birth,
            offset,
            len,
            kind: key.kind,
        }
    }

    pub(super) fn key(&self) -> Key {
        Key {
            object: self.object,
            kind: self.kind,
            position: self.position,
            version: self.version,
        }
    }

    pub(super) fn set_key(&mut self, key: Key) {
        *self = Self::leaf(key, self.birth, self.offset, self.len);
    }
}

/// A node below another one, or the root.
#[derive(Debug, Clone)]
pub(super) enum Child {
    /// As it is on the disk; maybe in the cache too.
    Stored(NodePointer),
    /// Changed since the last checkpoint; only in memory.
    Dirty(Rc<Node>),
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(super) tree: TreeKind,
    pub(super) level: u8,
    /// How many of the latest insertions came one behind the other.
    pub(super) run: u8,
    /// Where the latest insertion was.
    pub(super) last_insert: usize,
    /// At most the least birth.
    pub(super) base: u64,
    /// Bytes of the entries on disk.
    pub(super) size: usize,
    /// Bytes of `values` that no entry uses.
    pub(super) dead: usize,
    pub(super) entries: Vec<Entry>,
    pub(super) values: Vec<u8>,
    pub(super) children: Vec<Child>,
}

impl Node {
    /// A node without entries.
    pub(super) fn empty(tree: TreeKind, level: u8) -> Self {
        Self {
            tree,
            level,
            run: 0,
            last_insert: usize::MAX,
            base: 0,
            size: 0,
            dead: 0,
            entries: Vec::new(),
            values: Vec::new(),
            children: Vec::new(),
        }
    }

    /// A node made of parts that fit each other: see the module's invariants.
    pub(super) fn from_parts(
        tree: TreeKind,
        level: u8,
        entries: Vec<Entry>,
        values: Vec<u8>,
        children: Vec<Child>,
    ) -> Self {
        let mut node = Self::empty(tree, level);
        (node.entries, node.values, node.children) = (entries, values, children);
        node.recount();
        node
    }

    pub(super) fn tree(&self) -> TreeKind {
        self.tree
    }

    /// Distance from the leaves.
    pub(crate) fn level(&self) -> u8 {
        self.level
    }

    /// Entries.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry; on disk there always is.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What it takes in memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.entries.capacity() * size_of::<Entry>()
            + self.values.capacity()
            + self.children.capacity() * size_of::<Child>()
    }

    /// Bytes that the entries take on disk, or a few more.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn base(&self) -> u64 {
        self.base
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(super) fn fits(&self) -> bool {
        self.size <= NODE_PAYLOAD_BYTES && self.len() <= entries_max()
    }

    /// Entry `index`'s key.
    pub(crate) fn key(&self, index: usize) -> Option<Key> {
        self.entries.get(index).map(Entry::key)
    }

    /// The item of entry `index` of a leaf.
    pub(crate) fn item(&self, index: usize) -> Option<(Key, ItemRef<'_>)> {
        let entry = self.entries.get(index)?;
        let value = self.value(entry);
        let birth = entry.birth;
        Some((entry.key(), ItemRef { birth, value }))
    }

    pub(super) fn value(&self, entry: &Entry) -> &[u8] {
        let start = usize::from(entry.offset);
        let range = start..start + usize::from(entry.len);
        self.values.get(range).unwrap_or_default()
    }

    pub(super) fn child(&self, index: usize) -> Option<&Child> {
        self.children.get(index)
    }

    pub(super) fn child_mut(&mut self, index: usize) -> Option<&mut Child> {
        self.children.get_mut(index)
    }

    pub(super) fn children(&self) -> &[Child] {
        &self.children
    }

    /// The same node with each changed child replaced by where `pointers` say it was written.
    pub(super) fn with_stored(&self, pointers: &[NodePointer]) -> Self {
        let mut pointers = pointers.iter();
        let children = self.children.iter().map(|child| match child {
            Child::Dirty(_) => pointers
                .next()
                .map_or_else(|| child.clone(), |&pointer| Child::Stored(pointer)),
            Child::Stored(_) => child.clone(),
        });
        let children = children.collect();
        Self::from_parts(
            self.tree,
            self.level,
            self.entries.clone(),
            Vec::new(),
            children,
        )
    }

    /// Whether all keys are in `range`.
    pub(super) fn is_within(&self, range: &KeyRange) -> bool {
        let ends = [self.entries.first(), self.entries.last()];
        ends.into_iter()
            .flatten()
            .all(|entry| range.contains(&entry.key()))
    }

    /// Index of the first entry whose key is not below `key`.
    pub(super) fn lower_bound(&self, key: &Key) -> usize {
        self.entries.partition_point(|entry| entry.key() < *key)
    }

    /// Where `key` is, or else where it would be.
    pub(super) fn search(&self, key: &Key) -> Result<usize, usize> {
        self.entries.binary_search_by(|entry| entry.key().cmp(key))
    }

    /// The child below which `key` is. 0 when there is none.
    pub(super) fn route(&self, key: &Key) -> usize {
        let above = self.entries.partition_point(|entry| entry.key() <= *key);
        above.saturating_sub(1)
    }

    /// The keys below child `index` of a node that holds those of `range`.
    pub(super) fn child_range(&self, index: usize, range: &KeyRange) -> KeyRange {
        let low = if index == 0 { None } else { self.key(index) };
        KeyRange {
            low: low.unwrap_or(range.low),
            high: self.key(index + 1).or(range.high),
        }
    }
}

/// Changing a leaf.
impl Node {
    /// Sets an item; returns what was there.
    pub(super) fn put(&mut self, key: Key, item: &Item) -> Option<Item> {
        if self.is_empty() || item.birth < self.base {
            self.size = self.size_with(item.birth);
            self.base = item.birth;
        }
        match self.search(&key) {
            Ok(index) => {
                let old = self.item(index)?.1.to_item();
                let before = self.edges(index);
                let stored = self.restore(index, &item.value);
                let entry = self.entries.get_mut(index)?;
                *entry = Entry::leaf(key, item.birth, stored.0, stored.1);
                self.size = self.size + self.edges(index) - before;
                Some(old)
            }
            Err(index) => {
                let (offset, len) = self.store(&item.value);
                self.insert_entry(index, Entry::leaf(key, item.birth, offset, len));
                None
            }
        }
    }

    /// Removes an item; returns it.
    pub(super) fn remove(&mut self, key: &Key) -> Option<Item> {
        let index = self.search(key).ok()?;
        let old = self.item(index)?.1.to_item();
        self.dead += old.value.len();
        self.remove_entry(index);
        Some(old)
    }

    /// Puts `value` where that of entry `index` is if it is as long, or else behind the others.
    fn restore(&mut self, index: usize, value: &[u8]) -> (u16, u16) {
        let Some(entry) = self.entries.get_mut(index) else {
            return (0, 0);
        };
        let (offset, len) = (entry.offset, entry.len);
        if usize::from(len) == value.len() {
            let start = usize::from(offset);
            if let Some(place) = self.values.get_mut(start..start + value.len()) {
                place.copy_from_slice(value);
            }
            return (offset, len);
        }
        entry.len = 0;
        self.dead += usize::from(len);
        self.store(value)
    }

    fn store(&mut self, value: &[u8]) -> (u16, u16) {
        if self.dead > DEAD_BYTES_MAX {
            self.compact();
        }
        let offset = self.values.len();
        if self.values.capacity() < offset + value.len() {
            self.values.reserve_exact(value.len() + 256);
        }
        self.values.extend_from_slice(value);
        // What lives in a node is at most a block and a value, what is dead at most two values more.
        let narrow = |number| u16::try_from(number).unwrap_or(u16::MAX);
        (narrow(offset), narrow(value.len()))
    }

    /// Rebuilds the arena without dead bytes.
    pub(super) fn compact(&mut self) {
        let live = self
            .entries
            .iter()
            .map(|entry| usize::from(entry.len))
            .sum();
        let mut values = Vec::with_capacity(live);
        for entry in &mut self.entries {
            let start = usize::from(entry.offset);
            let value = self.values.get(start..start + usize::from(entry.len));
            entry.offset = u16::try_from(values.len()).unwrap_or(u16::MAX);
            values.extend_from_slice(value.unwrap_or_default());
        }
        self.values = values;
        self.dead = 0;
    }
}

/// Changing an interior node.
impl Node {
    /// Adds a child whose keys begin at `low`.
    pub(super) fn insert_child(&mut self, index: usize, low: Key, child: Child) {
        self.insert_entry(index, Entry::interior(low));
        if self.children.len() == self.children.capacity() {
            self.children.reserve_exact(16);
        }
        let index = index.min(self.children.len());
        self.children.insert(index, child);
    }

    /// Makes the first entry's key a bound of `key` too, which is about to be put below it and is at
    /// least `low`. It may be above: nodes take over the range of those before them that are taken out.
    pub(super) fn lower_first(&mut self, key: &Key, low: Key) {
        if self.key(0).is_some_and(|first| *key < first) {
            let before = self.edges(0);
            if let Some(first) = self.entries.first_mut() {
                first.set_key(low);
            }
            self.size = self.size + self.edges(0) - before;
        }
    }

    /// Takes a child out; what was below it then belongs to the one before it, or to the next if it was
    /// the first. Returns its key too.
    pub(super) fn remove_child(&mut self, index: usize) -> Option<(Key, Child)> {
        let key = self.key(index)?;
        self.remove_entry(index);
        Some((key, self.children.remove(index)))
    }
}

/// Keeping count.
impl Node {
    fn insert_entry(&mut self, index: usize, entry: Entry) {
        let index = index.min(self.entries.len());
        if self.entries.len() == self.entries.capacity() {
            self.entries.reserve_exact(16);
        }
        let before = self.edge(index);
        self.entries.insert(index, entry);
        self.size = self.size + self.edges(index) - before;
        let follows = self.last_insert.checked_add(1) == Some(index);
        self.run = if follows {
            self.run.saturating_add(1)
        } else {
            0
        };
        self.last_insert = index;
    }

    fn remove_entry(&mut self, index: usize) {
        let before = self.edges(index);
        self.entries.remove(index);
        self.size = self.size + self.edge(index) - before;
        (self.last_insert, self.run) = (usize::MAX, 0);
    }

    /// Bytes on disk of entry `index`; 0 when there is none.
    pub(super) fn edge(&self, index: usize) -> usize {
        self.edge_with(index, self.base)
    }

    /// Bytes on disk of what a change of entry `index` changes: it and the next.
    fn edges(&self, index: usize) -> usize {
        self.edge(index) + self.edge(index + 1)
    }

    fn edge_with(&self, index: usize, base: u64) -> usize {
        let previous = index
            .checked_sub(1)
            .and_then(|index| self.entries.get(index));
        let entry = self.entries.get(index);
        entry.map_or(0, |entry| {
            codec::entry_bytes(self.level, base, previous, entry)
        })
    }

    pub(super) fn size_with(&self, base: u64) -> usize {
        if base == self.base {
            return self.size;
        }
        (0..self.len())
            .map(|index| self.edge_with(index, base))
            .sum()
    }

    pub(super) fn recount(&mut self) {
        self.base = self
            .entries
            .iter()
            .map(|entry| entry.birth)
            .min()
            .unwrap_or(0);
        self.size = (0..self.len()).map(|index| self.edge(index)).sum();
    }
}

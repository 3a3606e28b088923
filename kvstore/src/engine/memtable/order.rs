//! Keys in order: a B+ tree in the arena, whose leaves lead to each other.
//!
//! An entry of a leaf is a record (`keys`). One of an inner node is a record, whose key parts what is on both sides of it, and the node behind it. A node is
//! `entries ‖ prefix` (two bytes each) `‖ link`, which is the next leaf, or the node before the first entry, `‖ heads ‖ records`, and in an inner node `‖ nodes` (four bytes each).
//!
//! All keys of a node begin with the same bytes, as many as `prefix` says, and heads are the four behind those. So few comparisons look at a key, which is somewhere else in memory.
//!
//! Nothing is removed. Which keys come, and in which order, others choose: that can make nodes half full, and the tree by so much higher.

use core::cmp::Ordering;

use super::arena::{Arena, Handle};
use super::keys;
use crate::engine::types::shared_bytes;

/// Bytes of a node: few lines of a processor's cache, so that one is soon gone through, and an entry soon put in.
pub(super) const NODE_BYTES: usize = 512;

const PREFIX_AT: usize = 2;
const LINK_AT: usize = 4;
const ARRAYS_AT: usize = 8;

/// Inner nodes from the root to a leaf, at most: each has 20 below it at least, and a handle has 32 bits.
const HEIGHT_MAX: usize = 8;

/// What there is room for in a node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Leaf,
    Inner,
}

impl Kind {
    const fn of_level(level: usize) -> Self {
        if level == 0 { Self::Leaf } else { Self::Inner }
    }

    const fn entries_max(self) -> usize {
        let of_four_bytes = (NODE_BYTES - ARRAYS_AT) / 4;
        match self {
            Self::Leaf => of_four_bytes / 2,
            Self::Inner => of_four_bytes / 3,
        }
    }

    /// Entries that halves of a node can take before they are split again, at least.
    const fn room_in_half(self) -> usize {
        self.entries_max() / 2 - 1
    }

    const fn head_at(index: usize) -> usize {
        ARRAYS_AT + 4 * index
    }

    const fn record_at(self, index: usize) -> usize {
        ARRAYS_AT + 4 * (self.entries_max() + index)
    }

    const fn child_at(self, index: usize) -> usize {
        ARRAYS_AT + 4 * (2 * self.entries_max() + index)
    }

    /// Where the arrays of four bytes each begin.
    fn arrays(self) -> impl Iterator<Item = usize> {
        let count = if self == Self::Leaf { 2 } else { 3 };
        (0..count).map(move |array| ARRAYS_AT + 4 * array * self.entries_max())
    }
}

/// What a node can get: keys not before the one and not behind the other, where there is one.
#[derive(Clone, Copy)]
struct Bounds {
    low: Handle,
    high: Handle,
}

impl Bounds {
    const NONE: Self = Self {
        low: Handle::NONE,
        high: Handle::NONE,
    };

    /// Then what is common to both is common to all keys that can be asked for, and the node's prefix is a part of that.
    fn are_known(self) -> bool {
        self.low.is_some() && self.high.is_some()
    }
}

/// A node on the way to a key, and the first entry in it that is not before the key.
#[derive(Clone, Copy)]
struct Step {
    node: Handle,
    index: usize,
    bounds: Bounds,
}

/// What is put into a node: a leaf's has no node behind it.
#[derive(Clone, Copy)]
struct Entry {
    record: Handle,
    child: Handle,
}

/// Where a key is in the order, until another is put in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    leaf: Handle,
    index: usize,
}

impl Place {
    pub(super) const NONE: Self = Self {
        leaf: Handle::NONE,
        index: 0,
    };
}

pub(super) struct Order {
    root: Handle,
    /// Inner nodes from the root to a leaf.
    height: usize,
    leaves: usize,
    inner_nodes: usize,
}

impl Order {
    pub(super) const fn new() -> Self {
        Self {
            root: Handle::NONE,
            height: 0,
            leaves: 0,
            inner_nodes: 0,
        }
    }

    /// Bytes of the nodes that so many keys more take, at most.
    ///
    /// A leaf that there is now is split for any key in the worst case. What comes of that, and what keys in order fill up, only after some more. The
    /// same holds for each level above, and one key may split a node of each. (Proof: a leaf of `e` entries has `(e - 33) / 30` of a split, the last one up to two; a key adds
    /// 1/30 at most, a split takes one away. So there are at most `(30 (leaves + 1) + keys) / 31` of them; of inner nodes in the same way, with 22 and 20, and a root for each level.)
    pub(super) fn bytes_for(&self, keys: usize) -> usize {
        let splits =
            |kind: Kind, nodes: usize, entries: usize| nodes + entries / kind.room_in_half() + 2;
        let leaves = keys.min(splits(Kind::Leaf, self.leaves, keys));
        let levels = self.height + 1;
        let in_all = splits(Kind::Inner, self.inner_nodes, leaves) + HEIGHT_MAX;
        let inner_nodes = (leaves * levels).min(in_all);
        (leaves + inner_nodes) * NODE_BYTES
    }

    /// The first key that is not before `key`.
    pub(super) fn at_or_behind(&self, arena: &Arena, key: &[u8]) -> Place {
        let leaf = self.descend(arena, key, |_, _| {});
        settle(arena, leaf.node, leaf.index)
    }

    /// The last one that is before `key`, or the last of all.
    pub(super) fn last_before(&self, arena: &Arena, key: Option<&[u8]>) -> Place {
        let (leaf, behind) = if let Some(key) = key {
            let leaf = self.descend(arena, key, |_, _| {});
            (leaf.node, leaf.index)
        } else {
            let mut node = self.root;
            for _ in 0..self.height {
                node = child_behind(arena, node, count_of(arena, node));
            }
            (node, count_of(arena, node))
        };
        // A leaf begins with what parts it from those before it, and what is not behind that is looked for there.
        match behind.checked_sub(1) {
            Some(index) => Place { leaf, index },
            None => Place::NONE,
        }
    }

    /// The key before the one at `place`.
    pub(super) fn before(&self, arena: &Arena, place: Place) -> Place {
        match place.index.checked_sub(1) {
            Some(index) => Place { index, ..place },
            None => self.last_before(arena, Some(keys::key_of(arena, record_at(arena, place)))),
        }
    }

    /// Adds the key of `record`, which is not there; the arena has room for [`bytes_for`](Self::bytes_for) it.
    pub(super) fn insert(&mut self, arena: &mut Arena, key: &[u8], record: Handle) {
        if !self.root.is_some() {
            self.root = new_node(arena, Handle::NONE);
            self.leaves = 1;
        }
        let nowhere = Step {
            node: Handle::NONE,
            index: 0,
            bounds: Bounds::NONE,
        };
        let mut path = [nowhere; HEIGHT_MAX + 1];
        self.descend(arena, key, |level, step| {
            if let Some(place) = path.get_mut(level) {
                *place = step;
            }
        });
        let mut entry = Entry {
            record,
            child: Handle::NONE,
        };
        for (level, step) in path.into_iter().enumerate().take(self.height + 1) {
            match self.add(arena, Kind::of_level(level), step, entry) {
                None => return,
                Some(behind) => entry = behind,
            }
        }
        let root = new_node(arena, self.root);
        put(arena, Kind::Inner, root, 0, entry);
        set_heads(arena, Kind::Inner, root, Bounds::NONE);
        self.root = root;
        self.height += 1;
        self.inner_nodes += 1;
    }

    /// The first place in a leaf that is not before `key`. `each` is told of every node on the way, with its height above leaves.
    fn descend(&self, arena: &Arena, key: &[u8], mut each: impl FnMut(usize, Step)) -> Step {
        let mut node = self.root;
        let mut bounds = Bounds::NONE;
        let mut level = self.height;
        loop {
            let kind = Kind::of_level(level);
            let index = first_from(arena, kind, node, key, bounds);
            let step = Step {
                node,
                index,
                bounds,
            };
            each(level, step);
            if level == 0 {
                return step;
            }
            level -= 1;
            if index > 0 {
                bounds.low = record_of(arena, kind, node, index - 1);
            }
            if index < count_of(arena, node) {
                bounds.high = record_of(arena, kind, node, index);
            }
            node = child_behind(arena, node, index);
        }
    }

    /// Puts `entry` in where `step` is. If the node had to be split for it: what the one above gets.
    fn add(&mut self, arena: &mut Arena, kind: Kind, step: Step, entry: Entry) -> Option<Entry> {
        let Step {
            node,
            index,
            bounds,
        } = step;
        let count = count_of(arena, node);
        if count < kind.entries_max() {
            let fits = bounds.are_known() || begins_as_all(arena, kind, node, entry.record);
            put(arena, kind, node, index, entry);
            if !fits {
                set_heads(arena, kind, node, bounds);
            }
            return None;
        }
        let is_inner = kind == Kind::Inner;
        *if is_inner {
            &mut self.inner_nodes
        } else {
            &mut self.leaves
        } += 1;
        let link = arena.handle_at(node, LINK_AT);
        let right = new_node(arena, link);
        if !is_inner && index == count && !bounds.high.is_some() {
            // Keys that come in their order fill leaf by leaf.
            arena.write(node, LINK_AT, &right.to_bytes());
            put(arena, kind, right, 0, entry);
            let low = entry.record;
            set_heads(arena, kind, right, Bounds { low, ..bounds });
            // What comes between the two leaves begins as both do.
            if !begins_as_all(arena, kind, node, low) {
                set_heads(
                    arena,
                    kind,
                    node,
                    Bounds {
                        high: low,
                        ..bounds
                    },
                );
            }
            return Some(Entry {
                record: low,
                child: right,
            });
        }
        let middle = count / 2;
        let parting = record_of(arena, kind, node, middle);
        if is_inner {
            // What parts them goes up, and the node behind it becomes the first of the right one.
            let first = child_behind(arena, node, middle + 1);
            arena.write(right, LINK_AT, &first.to_bytes());
            move_end(arena, kind, node, middle + 1, right);
            set_count(arena, node, middle);
        } else {
            arena.write(node, LINK_AT, &right.to_bytes());
            move_end(arena, kind, node, middle, right);
        }
        if index <= middle {
            put(arena, kind, node, index, entry);
        } else {
            let gone = middle + usize::from(is_inner);
            put(arena, kind, right, index - gone, entry);
        }
        let (low, high) = (bounds.low, bounds.high);
        set_heads(arena, kind, node, Bounds { low, high: parting });
        set_heads(arena, kind, right, Bounds { low: parting, high });
        Some(Entry {
            record: parting,
            child: right,
        })
    }
}

/// The record of the key at `place`, if there is one.
pub(super) fn record_at(arena: &Arena, place: Place) -> Handle {
    if place.leaf.is_some() {
        record_of(arena, Kind::Leaf, place.leaf, place.index)
    } else {
        Handle::NONE
    }
}

/// The key behind the one at `place`.
pub(super) fn behind(arena: &Arena, place: Place) -> Place {
    settle(arena, place.leaf, place.index + 1)
}

/// The key at `index` of this leaf, or the first one of the next.
fn settle(arena: &Arena, leaf: Handle, index: usize) -> Place {
    if index < count_of(arena, leaf) {
        return Place { leaf, index };
    }
    let leaf = arena.handle_at(leaf, LINK_AT);
    Place { leaf, index: 0 }
}

/// A node without entries.
fn new_node(arena: &mut Arena, link: Handle) -> Handle {
    let node = arena.allocate(NODE_BYTES);
    arena.write(node, 0, &[0; LINK_AT]);
    arena.write(node, LINK_AT, &link.to_bytes());
    node
}

/// None in nothing.
fn count_of(arena: &Arena, node: Handle) -> usize {
    half_at(arena, node, 0)
}

fn set_count(arena: &mut Arena, node: Handle, count: usize) {
    let count = u16::try_from(count).unwrap_or(u16::MAX);
    arena.write(node, 0, &count.to_le_bytes());
}

/// How many bytes all keys of a node begin with.
fn prefix_of(arena: &Arena, node: Handle) -> usize {
    half_at(arena, node, PREFIX_AT)
}

fn half_at(arena: &Arena, node: Handle, at: usize) -> usize {
    let bytes = arena.from(node).get(at..).and_then(<[u8]>::first_chunk);
    bytes.map_or(0, |bytes| u16::from_le_bytes(*bytes).into())
}

fn record_of(arena: &Arena, kind: Kind, node: Handle, index: usize) -> Handle {
    arena.handle_at(node, kind.record_at(index))
}

/// The node behind so many entries of an inner one.
fn child_behind(arena: &Arena, node: Handle, entries: usize) -> Handle {
    match entries.checked_sub(1) {
        Some(index) => arena.handle_at(node, Kind::Inner.child_at(index)),
        None => arena.handle_at(node, LINK_AT),
    }
}

/// The first bytes of what is behind the prefix, as a number in the order of keys.
fn head_of(key: &[u8], prefix: usize) -> u32 {
    let rest = key.get(prefix..).unwrap_or_default();
    let head = rest.first_chunk().copied().unwrap_or_else(|| {
        let mut head = [0; 4];
        for (byte, from) in head.iter_mut().zip(rest) {
            *byte = *from;
        }
        head
    });
    u32::from_be_bytes(head)
}

/// How many entries of a node are before `key`.
fn first_from(arena: &Arena, kind: Kind, node: Handle, key: &[u8], bounds: Bounds) -> usize {
    let (count, prefix) = (count_of(arena, node), prefix_of(arena, node));
    if prefix > 0 && !bounds.are_known() {
        let first = keys::key_of(arena, record_of(arena, kind, node, 0));
        let common = first.get(..prefix).unwrap_or(first);
        match key.get(..prefix).unwrap_or(key).cmp(common) {
            Ordering::Less => return 0,
            Ordering::Greater => return count,
            Ordering::Equal => {}
        }
    }
    let head = head_of(key, prefix);
    let heads = arena.from(node).get(ARRAYS_AT..).unwrap_or_default();
    let heads = heads.get(..4 * count).unwrap_or_default();
    let (heads, _) = heads.as_chunks::<4>();
    let number = |bytes: &[u8; 4]| u32::from_le_bytes(*bytes);
    let mut first = heads.partition_point(|bytes| number(bytes) < head);
    let alike = heads.get(first..).unwrap_or_default();
    let mut left = alike.partition_point(|bytes| number(bytes) == head);
    // Those look at keys.
    while left > 0 {
        let half = left / 2;
        if keys::key_of(arena, record_of(arena, kind, node, first + half)) < key {
            first += half + 1;
            left -= half + 1;
        } else {
            left = half;
        }
    }
    first
}

/// Whether the key of `record` begins as all that are in the node.
fn begins_as_all(arena: &Arena, kind: Kind, node: Handle, record: Handle) -> bool {
    let prefix = prefix_of(arena, node);
    if prefix == 0 {
        return true;
    }
    let first = keys::key_of(arena, record_of(arena, kind, node, 0));
    first.get(..prefix) == keys::key_of(arena, record).get(..prefix)
}

/// Puts an entry in before the one at `index`; there is room in the node.
fn put(arena: &mut Arena, kind: Kind, node: Handle, index: usize, entry: Entry) {
    let (count, prefix) = (count_of(arena, node), prefix_of(arena, node));
    let head = head_of(keys::key_of(arena, entry.record), prefix);
    let bytes = arena.bytes_mut(node, NODE_BYTES);
    for array in kind.arrays() {
        let (from, end) = (array + 4 * index, array + 4 * count);
        bytes.copy_within(from..end, from + 4);
    }
    arena.write(node, Kind::head_at(index), &head.to_le_bytes());
    arena.write(node, kind.record_at(index), &entry.record.to_bytes());
    if kind == Kind::Inner {
        arena.write(node, kind.child_at(index), &entry.child.to_bytes());
    }
    set_count(arena, node, count + 1);
}

/// Moves the entries from `first` on to `to`, which is empty.
fn move_end(arena: &mut Arena, kind: Kind, node: Handle, first: usize, to: Handle) {
    let count = count_of(arena, node);
    let mut from = [0; NODE_BYTES];
    from.copy_from_slice(arena.bytes_mut(node, NODE_BYTES));
    for array in kind.arrays() {
        let moved = from.get(array + 4 * first..array + 4 * count);
        arena.write(to, array, moved.unwrap_or_default());
    }
    set_count(arena, to, count - first);
    set_count(arena, node, first);
}

/// Finds out what all keys of a node begin with, and so its heads.
fn set_heads(arena: &mut Arena, kind: Kind, node: Handle, bounds: Bounds) {
    let count = count_of(arena, node);
    let or_own = |bound: Handle, index| {
        let is_bound = bound.is_some();
        let own = || record_of(arena, kind, node, index);
        keys::key_of(arena, if is_bound { bound } else { own() })
    };
    let (low, high) = (
        or_own(bounds.low, 0),
        or_own(bounds.high, count.saturating_sub(1)),
    );
    let prefix = shared_bytes(low, high).min(u16::MAX.into());
    let short = u16::try_from(prefix).unwrap_or(u16::MAX);
    arena.write(node, PREFIX_AT, &short.to_le_bytes());
    for index in 0..count {
        let record = record_of(arena, kind, node, index);
        let head = head_of(keys::key_of(arena, record), prefix);
        arena.write(node, Kind::head_at(index), &head.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeSet;
    use alloc::format;
    use alloc::rc::Rc;
    use alloc::vec::Vec;
    use core::ops::Bound;

    use super::*;
    use crate::engine::pool::ChunkPool;
    use crate::engine::testing::{Random, random_key, seed};

    struct Tree {
        pool: Rc<ChunkPool>,
        arena: Arena,
        order: Order,
        keys: BTreeSet<Vec<u8>>,
    }

    impl Tree {
        fn new() -> Self {
            let pool = ChunkPool::new(0);
            Self {
                arena: Arena::new(Rc::clone(&pool)),
                pool,
                order: Order::new(),
                keys: BTreeSet::new(),
            }
        }

        /// Puts all in that are not there, and sees to it that no more nodes were made than there was room taken for.
        fn insert(&mut self, keys: Vec<Vec<u8>>) {
            let nodes = |order: &Order| order.leaves + order.inner_nodes;
            let (before, room) = (nodes(&self.order), self.order.bytes_for(keys.len()));
            let beside = |key: &Vec<u8>| key.len() + keys::RECORD_BYTES;
            let longest = keys.iter().map(Vec::len).max().unwrap_or(0);
            let total = room + keys.iter().map(beside).sum::<usize>();
            self.pool.set_limit(usize::MAX);
            self.arena.reserve(total, longest.max(NODE_BYTES)).unwrap();
            // From here on nothing is to be had.
            self.pool.set_limit(0);
            for key in keys {
                if !self.keys.contains(&key) {
                    let record = keys::store(&mut self.arena, &key);
                    self.order.insert(&mut self.arena, &key, record);
                    self.keys.insert(key);
                }
            }
            let made = nodes(&self.order) - before;
            assert!(made * NODE_BYTES <= room, "{made} nodes in {room} bytes");
        }

        fn key_at(&self, place: Place) -> Option<&[u8]> {
            let record = record_at(&self.arena, place);
            assert_eq!(record.is_some(), place != Place::NONE);
            record.is_some().then(|| keys::key_of(&self.arena, record))
        }

        fn looks_around(&self, key: &[u8]) {
            let (arena, order) = (&self.arena, &self.order);
            let from = (Bound::Included(key), Bound::Unbounded);
            let until = (Bound::Unbounded, Bound::Excluded(key));
            let mut keys_behind = self.keys.range::<[u8], _>(from).map(|key| &key[..]);
            let mut keys_before = self.keys.range::<[u8], _>(until).map(|key| &key[..]);
            let mut place = order.at_or_behind(arena, key);
            for _ in 0..3 {
                assert_eq!(self.key_at(place), keys_behind.next(), "from {key:?}");
                place = behind(arena, place);
            }
            let mut place = order.last_before(arena, Some(key));
            for _ in 0..3 {
                assert_eq!(
                    self.key_at(place),
                    keys_before.next_back(),
                    "before {key:?}"
                );
                if place != Place::NONE {
                    place = order.before(arena, place);
                }
            }
        }

        /// Whether every key can be found by what nodes say of their keys; `behind` and `until`: those of the node's bounds.
        fn check_node(&self, kind_level: usize, node: Handle, bounds: Bounds) {
            let (arena, kind) = (&self.arena, Kind::of_level(kind_level));
            let key_of = |record: Handle| keys::key_of(arena, record);
            let (count, prefix) = (count_of(arena, node), prefix_of(arena, node));
            assert!((1..=kind.entries_max()).contains(&count), "{count}");
            if bounds.are_known() {
                let (low, high) = (key_of(bounds.low), key_of(bounds.high));
                assert!(shared_bytes(low, high) >= prefix, "{low:?} to {high:?}");
            }
            let first = key_of(record_of(arena, kind, node, 0));
            for index in 0..count {
                let key = key_of(record_of(arena, kind, node, index));
                assert_eq!(key.get(..prefix), first.get(..prefix));
                let head = arena.from(node).get(Kind::head_at(index)..).unwrap();
                assert_eq!(head[..4], head_of(key, prefix).to_le_bytes());
            }
            for index in 0..=count {
                let mut bounds = bounds;
                if index > 0 {
                    bounds.low = record_of(arena, kind, node, index - 1);
                }
                if index < count {
                    bounds.high = record_of(arena, kind, node, index);
                }
                if kind == Kind::Inner {
                    self.check_node(kind_level - 1, child_behind(arena, node, index), bounds);
                }
            }
        }

        fn is_whole(&self) {
            self.check_node(self.order.height, self.order.root, Bounds::NONE);
            let mut place = self.order.at_or_behind(&self.arena, &[]);
            for key in &self.keys {
                assert_eq!(self.key_at(place), Some(&key[..]));
                place = behind(&self.arena, place);
            }
            assert_eq!(place, Place::NONE);
            let last = self.order.last_before(&self.arena, None);
            assert_eq!(self.key_at(last), self.keys.last().map(|key| &key[..]));
        }
    }

    /// The `number`th key of a row.
    type Row = fn(&mut Random, usize) -> Vec<u8>;

    const ROWS: [Row; 9] = [
        // In order, but that some come late.
        |random, number| {
            let late = if random.one_in(20) {
                random.index(200)
            } else {
                0
            };
            format!("{:08}", number.saturating_sub(late) * 7).into_bytes()
        },
        |random, number| {
            let row = [b'a', b'c', b'b'][(number / 63 / 30).min(2)];
            let number = number * 10 + random.index(10);
            [&[row][..], format!("{number:06}").as_bytes()].concat()
        },
        |random, _| random_key(random),
        |random, _| random.next_u64().to_le_bytes().to_vec(),
        |_, number| format!("user:{number:08}").into_bytes(),
        |_, number| format!("user:{:08}", 99_999_999 - number).into_bytes(),
        |random, _| format!("{:0300}", random.index(100_000)).into_bytes(),
        // Each is a part of others.
        |random, _| alloc::vec![random.index(2).to_le_bytes()[0]; random.index(3000)],
        // From both ends to the middle, between what is there.
        |_, number| {
            let number = u32::try_from(number).unwrap();
            let number = if number % 2 == 0 {
                number
            } else {
                u32::MAX - number
            };
            number.to_be_bytes().to_vec()
        },
    ];

    #[test]
    fn keys_are_found_from_both_sides_in_whichever_order_they_came() {
        let mut random = Random::new(seed(14));
        for row in ROWS {
            let mut tree = Tree::new();
            tree.looks_around(b"a");
            let mut number = 0;
            while number < 12_000 {
                let most = [1, 60, 4000][random.index(3)];
                let count = 1 + random.index(most);
                let keys = (number..number + count).map(|number| row(&mut random, number));
                let keys = keys.collect::<Vec<_>>();
                number += count;
                tree.insert(keys.clone());
                for key in keys.iter().take(60) {
                    tree.looks_around(key);
                    let cut = random.index(key.len() + 1);
                    tree.looks_around(&key[..cut]);
                    tree.looks_around(
                        &[&key[..cut], &[random.next_u64().to_le_bytes()[0]]].concat(),
                    );
                }
            }
            tree.is_whole();
        }
    }

    /// A leaf that was full, and of which the next one was begun by a key that begins otherwise, took keys in between for smaller than all of its own.
    #[test]
    fn a_key_between_a_full_leaf_and_the_next_is_behind_those_of_the_first() {
        let mut tree = Tree::new();
        let full = 2 * Kind::Leaf.entries_max();
        tree.insert(
            (0..full)
                .map(|n| format!("a:{n:03}").into_bytes())
                .collect(),
        );
        tree.insert(alloc::vec![b"c".to_vec()]);
        tree.looks_around(b"b");
        tree.insert(alloc::vec![b"b".to_vec()]);
        tree.looks_around(b"b");
        tree.is_whole();
    }

    #[test]
    fn keys_in_order_fill_leaves_and_all_of_them_may_have_to_be_split_at_once() {
        let mut tree = Tree::new();
        let key = |number: u32, behind: &str| format!("{number:08}{behind}").into_bytes();
        let count = u32::try_from(Kind::Leaf.entries_max()).unwrap() * 3000;
        tree.insert((0..count).map(|number| key(number, "")).collect());
        assert_eq!(tree.order.leaves, 3000);
        assert!(tree.order.height >= 2);
        let step = Kind::Leaf.entries_max();
        tree.insert(
            (0..count)
                .step_by(step)
                .map(|number| key(number, "+"))
                .collect(),
        );
        assert_eq!(tree.order.leaves, 6000);
        tree.is_whole();
        // None of them alone takes room for all.
        assert!(tree.order.bytes_for(1) <= 3 * (tree.order.height + 2) * NODE_BYTES);
    }
}

//! Keys in order: a B+ tree in the arena, whose leaves lead to each other.
//!
//! An entry of a leaf is a record (`keys`). One of an inner node is a record, whose key parts what is on both sides of it, and the node behind it (`node`).
//!
//! Nothing is removed. Which keys come, and in which order, others choose: that can make nodes half full, and the tree by so much higher.

use super::arena::{Arena, Handle};
use super::keys;
use super::node::{Bounds, Entry, Kind, NODE_BYTES, Node};

/// Inner nodes from the root to a leaf, at most: each has 20 below it at least, and a handle has 32 bits.
const HEIGHT_MAX: usize = 8;

/// A node on the way to a key, and the first entry in it that is not before the key.
#[derive(Clone, Copy)]
struct Step {
    node: Node,
    index: usize,
    bounds: Bounds,
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

    /// The key at `index` of this leaf, or the first one of the next.
    fn settled(arena: &Arena, leaf: Handle, index: usize) -> Self {
        let node = Node::of_level(0, leaf);
        if index < node.len(arena) {
            return Self { leaf, index };
        }
        Self {
            leaf: node.link(arena),
            index: 0,
        }
    }

    /// The record of the key, if there is one.
    pub(super) fn record(self, arena: &Arena) -> Handle {
        if self.leaf.is_some() {
            Node::of_level(0, self.leaf).record(arena, self.index)
        } else {
            Handle::NONE
        }
    }

    /// Of the key behind this one.
    pub(super) fn behind(self, arena: &Arena) -> Self {
        Self::settled(arena, self.leaf, self.index + 1)
    }
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
        Place::settled(arena, leaf.node.at, leaf.index)
    }

    /// The last one that is before `key`, or the last of all.
    pub(super) fn last_before(&self, arena: &Arena, key: Option<&[u8]>) -> Place {
        let (leaf, behind) = if let Some(key) = key {
            let leaf = self.descend(arena, key, |_, _| {});
            (leaf.node.at, leaf.index)
        } else {
            let node = self.last_leaf(arena);
            (node.at, node.len(arena))
        };
        // A leaf begins with what parts it from those before it, and what is not behind that is looked for there.
        match behind.checked_sub(1) {
            Some(index) => Place { leaf, index },
            None => Place::NONE,
        }
    }

    fn last_leaf(&self, arena: &Arena) -> Node {
        let mut at = self.root;
        for level in (1..=self.height).rev() {
            let node = Node::of_level(level, at);
            at = node.child_behind(arena, node.len(arena));
        }
        Node::of_level(0, at)
    }

    /// The key before the one at `place`.
    pub(super) fn before(&self, arena: &Arena, place: Place) -> Place {
        match place.index.checked_sub(1) {
            Some(index) => Place { index, ..place },
            None => self.last_before(arena, Some(keys::key_of(arena, place.record(arena)))),
        }
    }

    /// Adds the key of `record`, which is not there; the arena has room for [`bytes_for`](Self::bytes_for) it.
    pub(super) fn insert(&mut self, arena: &mut Arena, key: &[u8], record: Handle) {
        if !self.root.is_some() {
            self.root = Node::new(arena, Kind::Leaf, Handle::NONE).at;
            self.leaves = 1;
        }
        let nowhere = Step {
            node: Node::of_level(0, Handle::NONE),
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
        for step in path.into_iter().take(self.height + 1) {
            match self.add(arena, step, entry) {
                None => return,
                Some(behind) => entry = behind,
            }
        }
        let root = Node::new(arena, Kind::Inner, self.root);
        root.put(arena, 0, entry);
        root.set_heads(arena, Bounds::NONE);
        self.root = root.at;
        self.height += 1;
        self.inner_nodes += 1;
    }

    /// The first place in a leaf that is not before `key`. `each` is told of every node on the way, with its height above leaves.
    fn descend(&self, arena: &Arena, key: &[u8], mut each: impl FnMut(usize, Step)) -> Step {
        let mut level = self.height;
        let mut node = Node::of_level(level, self.root);
        let mut bounds = Bounds::NONE;
        loop {
            let index = node.first_from(arena, key, bounds);
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
                bounds.low = node.record(arena, index - 1);
            }
            if index < node.len(arena) {
                bounds.high = node.record(arena, index);
            }
            node = Node::of_level(level, node.child_behind(arena, index));
        }
    }

    /// Puts `entry` in where `step` is. If the node had to be split for it: what the one above gets.
    fn add(&mut self, arena: &mut Arena, step: Step, entry: Entry) -> Option<Entry> {
        let Step {
            node,
            index,
            bounds,
        } = step;
        let len = node.len(arena);
        if len < node.kind.entries_max() {
            let fits = bounds.are_known() || node.begins_with(arena, entry.record);
            node.put(arena, index, entry);
            if !fits {
                node.set_heads(arena, bounds);
            }
            return None;
        }
        let (parting, right) = match node.kind {
            // Keys that come in their order fill leaf by leaf.
            Kind::Leaf if index == len && !bounds.high.is_some() => {
                let right = self.leaf_behind(arena, node);
                right.put(arena, 0, entry);
                (entry.record, right)
            }
            Kind::Leaf => {
                let middle = len / 2;
                let parting = node.record(arena, middle);
                let right = self.leaf_behind(arena, node);
                node.move_end(arena, middle, right);
                if index <= middle {
                    node.put(arena, index, entry);
                } else {
                    right.put(arena, index - middle, entry);
                }
                (parting, right)
            }
            // What parts them goes up, and the node behind it becomes the first of the right one.
            Kind::Inner => {
                let middle = len / 2;
                let parting = node.record(arena, middle);
                let first = node.child_behind(arena, middle + 1);
                let right = Node::new(arena, Kind::Inner, first);
                self.inner_nodes += 1;
                node.move_end(arena, middle + 1, right);
                node.set_len(arena, middle);
                if index <= middle {
                    node.put(arena, index, entry);
                } else {
                    right.put(arena, index - middle - 1, entry);
                }
                (parting, right)
            }
        };
        // Both have a bound more, and what comes between begins as that allows.
        let (low, high) = (bounds.low, bounds.high);
        node.set_heads(arena, Bounds { low, high: parting });
        right.set_heads(arena, Bounds { low: parting, high });
        Some(Entry {
            record: parting,
            child: right.at,
        })
    }

    /// An empty leaf behind `leaf`.
    fn leaf_behind(&mut self, arena: &mut Arena, leaf: Node) -> Node {
        self.leaves += 1;
        let right = Node::new(arena, Kind::Leaf, leaf.link(arena));
        leaf.set_link(arena, right.at);
        right
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
            let record = place.record(&self.arena);
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
                place = place.behind(arena);
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

        fn check_from(&self, level: usize, at: Handle, bounds: Bounds) {
            let arena = &self.arena;
            let node = Node::of_level(level, at);
            node.check(arena, bounds);
            if level == 0 {
                return;
            }
            for index in 0..=node.len(arena) {
                let mut bounds = bounds;
                if index > 0 {
                    bounds.low = node.record(arena, index - 1);
                }
                if index < node.len(arena) {
                    bounds.high = node.record(arena, index);
                }
                self.check_from(level - 1, node.child_behind(arena, index), bounds);
            }
        }

        fn is_whole(&self) {
            self.check_from(self.order.height, self.order.root, Bounds::NONE);
            let mut place = self.order.at_or_behind(&self.arena, &[]);
            for key in &self.keys {
                assert_eq!(self.key_at(place), Some(&key[..]));
                place = place.behind(&self.arena);
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

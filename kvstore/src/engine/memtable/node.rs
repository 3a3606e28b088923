//! Nodes of the tree that keeps keys in order (`order`): their bytes in the arena, and where a key is among what one has.
//!
//! A node is `entries ‖ prefix` (two bytes each) `‖ link`, which is the next leaf, or the node before the first entry, `‖ heads ‖ records`, and in an inner node `‖ nodes` (four bytes each).
//!
//! All keys of a node begin with the same bytes, as many as `prefix` says, and heads are the four behind those. So few comparisons look at a key, which is somewhere else in memory.

use core::cmp::Ordering;

use super::arena::{Arena, Handle};
use super::keys;
use crate::engine::types::shared_bytes;

/// Bytes of a node: few lines of a processor's cache, so that one is soon gone through, and an entry soon put in.
pub(super) const NODE_BYTES: usize = 512;

const PREFIX_AT: usize = 2;
const LINK_AT: usize = 4;
const ARRAYS_AT: usize = 8;

/// What there is room for in a node.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Entries are records.
    Leaf,
    /// Entries are records that part keys, and the nodes behind them.
    Inner,
}

impl Kind {
    /// Entries of a node, at most.
    pub(super) const fn entries_max(self) -> usize {
        let of_four_bytes = (NODE_BYTES - ARRAYS_AT) / 4;
        match self {
            Self::Leaf => of_four_bytes / 2,
            Self::Inner => of_four_bytes / 3,
        }
    }

    /// Entries that halves of a node can take before they are split again, at least.
    pub(super) const fn room_in_half(self) -> usize {
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
pub(super) struct Bounds {
    pub(super) low: Handle,
    pub(super) high: Handle,
}

impl Bounds {
    pub(super) const NONE: Self = Self {
        low: Handle::NONE,
        high: Handle::NONE,
    };

    /// Then what is common to both is common to all keys that can be asked for, and the node's prefix is a part of that.
    pub(super) fn are_known(self) -> bool {
        self.low.is_some() && self.high.is_some()
    }
}

/// What is put into a node: a leaf's has no node behind it.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub(super) record: Handle,
    pub(super) child: Handle,
}

/// Where a node is, and of which kind. One that is nowhere has no entries.
#[derive(Clone, Copy)]
pub(super) struct Node {
    pub(super) at: Handle,
    pub(super) kind: Kind,
}

impl Node {
    /// The one at `at`, so many levels above leaves.
    pub(super) const fn of_level(level: usize, at: Handle) -> Self {
        let kind = if level == 0 { Kind::Leaf } else { Kind::Inner };
        Self { at, kind }
    }

    /// One without entries, for which the arena has room.
    pub(super) fn new(arena: &mut Arena, kind: Kind, link: Handle) -> Self {
        let at = arena.allocate(NODE_BYTES);
        arena.write(at, 0, &[0; LINK_AT]);
        let node = Self { at, kind };
        node.set_link(arena, link);
        node
    }

    /// Entries there are.
    pub(super) fn len(self, arena: &Arena) -> usize {
        self.half_at(arena, 0)
    }

    /// How many bytes all keys begin with.
    fn prefix(self, arena: &Arena) -> usize {
        self.half_at(arena, PREFIX_AT)
    }

    /// The next leaf, or the node before the first entry.
    pub(super) fn link(self, arena: &Arena) -> Handle {
        arena.handle_at(self.at, LINK_AT)
    }

    pub(super) fn set_link(self, arena: &mut Arena, link: Handle) {
        arena.write(self.at, LINK_AT, &link.to_bytes());
    }

    pub(super) fn record(self, arena: &Arena, index: usize) -> Handle {
        arena.handle_at(self.at, self.kind.record_at(index))
    }

    /// The node behind so many entries of an inner one.
    pub(super) fn child_behind(self, arena: &Arena, entries: usize) -> Handle {
        match entries.checked_sub(1) {
            Some(index) => arena.handle_at(self.at, self.kind.child_at(index)),
            None => self.link(arena),
        }
    }

    /// How many entries are before `key`, which is within the bounds.
    pub(super) fn first_from(self, arena: &Arena, key: &[u8], bounds: Bounds) -> usize {
        let (len, prefix) = (self.len(arena), self.prefix(arena));
        if prefix > 0 && !bounds.are_known() {
            let first = keys::key_of(arena, self.record(arena, 0));
            let common = first.get(..prefix).unwrap_or(first);
            match key.get(..prefix).unwrap_or(key).cmp(common) {
                Ordering::Less => return 0,
                Ordering::Greater => return len,
                Ordering::Equal => {}
            }
        }
        let head = head_of(key, prefix);
        let heads = arena.from(self.at).get(ARRAYS_AT..).unwrap_or_default();
        let heads = heads.get(..4 * len).unwrap_or_default();
        let (heads, _) = heads.as_chunks::<4>();
        let number = |bytes: &[u8; 4]| u32::from_le_bytes(*bytes);
        let mut first = heads.partition_point(|bytes| number(bytes) < head);
        let alike = heads.get(first..).unwrap_or_default();
        let mut left = alike.partition_point(|bytes| number(bytes) == head);
        // Those look at keys.
        while left > 0 {
            let half = left / 2;
            if keys::key_of(arena, self.record(arena, first + half)) < key {
                first += half + 1;
                left -= half + 1;
            } else {
                left = half;
            }
        }
        first
    }

    /// Whether the key of `record` begins as all that are here.
    pub(super) fn begins_with(self, arena: &Arena, record: Handle) -> bool {
        let prefix = self.prefix(arena);
        if prefix == 0 {
            return true;
        }
        let first = keys::key_of(arena, self.record(arena, 0));
        first.get(..prefix) == keys::key_of(arena, record).get(..prefix)
    }

    /// Puts an entry in before the one at `index`; there is room for it.
    pub(super) fn put(self, arena: &mut Arena, index: usize, entry: Entry) {
        let (len, prefix) = (self.len(arena), self.prefix(arena));
        let head = head_of(keys::key_of(arena, entry.record), prefix);
        let bytes = arena.bytes_mut(self.at, NODE_BYTES);
        for array in self.kind.arrays() {
            let (from, end) = (array + 4 * index, array + 4 * len);
            bytes.copy_within(from..end, from + 4);
        }
        arena.write(self.at, Kind::head_at(index), &head.to_le_bytes());
        let record = entry.record.to_bytes();
        arena.write(self.at, self.kind.record_at(index), &record);
        if self.kind == Kind::Inner {
            let child = entry.child.to_bytes();
            arena.write(self.at, self.kind.child_at(index), &child);
        }
        self.set_len(arena, len + 1);
    }

    /// Moves the entries from `first` on to `to`, which is empty.
    pub(super) fn move_end(self, arena: &mut Arena, first: usize, to: Self) {
        let len = self.len(arena);
        let mut from = [0; NODE_BYTES];
        from.copy_from_slice(arena.bytes_mut(self.at, NODE_BYTES));
        for array in self.kind.arrays() {
            let moved = from.get(array + 4 * first..array + 4 * len);
            arena.write(to.at, array, moved.unwrap_or_default());
        }
        to.set_len(arena, len - first);
        self.set_len(arena, first);
    }

    /// Keeps so many entries.
    pub(super) fn set_len(self, arena: &mut Arena, len: usize) {
        let len = u16::try_from(len).unwrap_or(u16::MAX);
        arena.write(self.at, 0, &len.to_le_bytes());
    }

    /// Finds out what all keys begin with that are here and can come, and so their heads.
    pub(super) fn set_heads(self, arena: &mut Arena, bounds: Bounds) {
        let len = self.len(arena);
        let key_at = |bound: Handle, index| {
            let is_bound = bound.is_some();
            let own = || self.record(arena, index);
            keys::key_of(arena, if is_bound { bound } else { own() })
        };
        let (low, high) = (key_at(bounds.low, 0), key_at(bounds.high, len - 1));
        let prefix = u16::try_from(shared_bytes(low, high)).unwrap_or(u16::MAX);
        arena.write(self.at, PREFIX_AT, &prefix.to_le_bytes());
        for index in 0..len {
            let key = keys::key_of(arena, self.record(arena, index));
            let head = head_of(key, prefix.into());
            arena.write(self.at, Kind::head_at(index), &head.to_le_bytes());
        }
    }

    fn half_at(self, arena: &Arena, at: usize) -> usize {
        let bytes = arena.from(self.at).get(at..);
        let half = bytes.and_then(<[u8]>::first_chunk);
        half.map_or(0, |half| u16::from_le_bytes(*half).into())
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

#[cfg(test)]
impl Node {
    /// Sees to it that prefix and heads are right, for all that is here and can come.
    pub(super) fn check(self, arena: &Arena, bounds: Bounds) {
        let (len, prefix) = (self.len(arena), self.prefix(arena));
        assert!((1..=self.kind.entries_max()).contains(&len), "{len}");
        if bounds.are_known() {
            let [low, high] = [bounds.low, bounds.high].map(|bound| keys::key_of(arena, bound));
            assert!(shared_bytes(low, high) >= prefix, "{low:?} to {high:?}");
        }
        for index in 0..len {
            let record = self.record(arena, index);
            assert!(self.begins_with(arena, record), "{index}");
            let head = &arena.from(self.at)[Kind::head_at(index)..][..4];
            let key = keys::key_of(arena, record);
            assert_eq!(head, head_of(key, prefix).to_le_bytes(), "{key:?}");
        }
    }
}

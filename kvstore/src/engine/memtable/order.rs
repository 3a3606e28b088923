//! Keys in order: a skip list in the arena.
//!
//! A node is `key handle ‖ key length and height ‖ newest version ‖ next node of each level`, four bytes each. Heights
//! come from the key's hash, which nobody can choose.

use super::arena::{Arena, Handle};

/// Levels; each has a quarter of the nodes of the one below.
const LEVELS: usize = 12;

const LEN_AT: usize = 4;
const NEWEST_AT: usize = 8;
const LINKS_AT: usize = 12;

/// Bytes of a node, at most.
pub(super) const NODE_BYTES_MAX: usize = node_bytes(LEVELS);

const fn node_bytes(height: usize) -> usize {
    LINKS_AT + 4 * height
}

/// How many levels the node of a key with this hash is on. The hash table uses other bits.
fn height_of(hash: u64) -> usize {
    let zeros = (hash >> 8).trailing_zeros() as usize;
    1 + (zeros / 2).min(LEVELS - 1)
}

/// Bytes of the node of a key with this hash.
pub(super) fn node_bytes_of(hash: u64) -> usize {
    node_bytes(height_of(hash))
}

pub(super) struct Order {
    /// The first node of each level.
    first: [Handle; LEVELS],
}

impl Order {
    pub(super) fn new() -> Self {
        Self {
            first: [Handle::NONE; LEVELS],
        }
    }

    /// The first node whose key is not before `key`.
    pub(super) fn at_or_behind(&self, arena: &Arena, key: &[u8]) -> Handle {
        let last = self.before(arena, key, |_, _| {});
        self.next(arena, last, 0)
    }

    /// The last node whose key is before `key`, or the last of all.
    pub(super) fn last_before(&self, arena: &Arena, key: Option<&[u8]>) -> Handle {
        if let Some(key) = key {
            return self.before(arena, key, |_, _| {});
        }
        let mut node = Handle::NONE;
        for level in (0..LEVELS).rev() {
            let mut next = self.next(arena, node, level);
            while next.is_some() {
                node = next;
                next = self.next(arena, node, level);
            }
        }
        node
    }

    /// The node behind this one.
    pub(super) fn behind(&self, arena: &Arena, node: Handle) -> Handle {
        self.next(arena, node, 0)
    }

    /// Adds `key`, which is not there and is stored at `stored`, without a version yet; the arena has room for the node.
    pub(super) fn insert(
        &mut self,
        arena: &mut Arena,
        key: &[u8],
        stored: Handle,
        hash: u64,
    ) -> Handle {
        let height = height_of(hash);
        let node = arena.allocate(node_bytes(height));
        let mut before = [Handle::NONE; LEVELS];
        self.before(arena, key, |level, last| {
            if let Some(place) = before.get_mut(level) {
                *place = last;
            }
        });
        let len = u32::try_from(key.len()).unwrap_or(u32::MAX) & 0xFF_FFFF;
        let height_bits = u32::try_from(height).unwrap_or(0) << 24;
        arena.write(node, 0, &stored.to_bytes());
        arena.write(node, LEN_AT, &(height_bits | len).to_le_bytes());
        arena.write(node, NEWEST_AT, &Handle::NONE.to_bytes());
        for (level, last) in before.into_iter().enumerate().take(height) {
            let next = self.next(arena, last, level);
            arena.write(node, LINKS_AT + 4 * level, &next.to_bytes());
            if last.is_some() {
                arena.write(last, LINKS_AT + 4 * level, &node.to_bytes());
            } else if let Some(first) = self.first.get_mut(level) {
                *first = node;
            }
        }
        node
    }

    /// The last node whose key is before `key`; `each` is told that of every level, from the top.
    fn before(&self, arena: &Arena, key: &[u8], mut each: impl FnMut(usize, Handle)) -> Handle {
        let mut node = Handle::NONE;
        // What was not before the key on a level need not be compared again on the next one.
        let mut behind = Handle::NONE;
        for level in (0..LEVELS).rev() {
            loop {
                let next = self.next(arena, node, level);
                if !next.is_some() || next == behind || key_of(arena, next) >= key {
                    behind = next;
                    break;
                }
                node = next;
            }
            each(level, node);
        }
        node
    }

    fn next(&self, arena: &Arena, node: Handle, level: usize) -> Handle {
        if node.is_some() {
            arena.handle_at(node, LINKS_AT + 4 * level)
        } else {
            self.first.get(level).copied().unwrap_or(Handle::NONE)
        }
    }
}

pub(super) fn key_of(arena: &Arena, node: Handle) -> &[u8] {
    let bytes = arena.from(node);
    let Some([k0, k1, k2, k3, l0, l1, l2, _]) = bytes.first_chunk::<8>() else {
        return &[];
    };
    let len = u32::from_le_bytes([*l0, *l1, *l2, 0]) as usize;
    let key = arena.from(Handle::from_bytes([*k0, *k1, *k2, *k3]));
    key.get(..len).unwrap_or_default()
}

pub(super) fn newest_of(arena: &Arena, node: Handle) -> Handle {
    arena.handle_at(node, NEWEST_AT)
}

pub(super) fn set_newest(arena: &mut Arena, node: Handle, newest: Handle) {
    arena.write(node, NEWEST_AT, &newest.to_bytes());
}

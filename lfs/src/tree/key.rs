//! What a tree holds: items under keys, and the ranges of keys that nodes stand for.

use alloc::rc::Rc;

use crate::{BlockIndex, ItemKey, ItemKind};

/// Which of the two trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum TreeKind {
    /// The newest state. Versions are 0.
    Live = 1,
    /// What only snapshots still see. The version of a key is the commit at which the item died.
    History = 2,
}

impl TreeKind {
    /// The tree with this number on disk.
    pub(super) fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Live,
            2 => Self::History,
            _ => return None,
        })
    }
}

/// Where an item is in a tree. Ordered by its fields, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// See [`ItemKey::object`].
    pub object: u64,
    /// See [`ItemKey::kind`].
    pub kind: ItemKind,
    /// See [`ItemKey::position`].
    pub position: u64,
    /// 0 in the live tree; in the history tree the commit at which the item died.
    pub version: u64,
}

impl Key {
    /// No key is smaller.
    pub(crate) const MIN: Self = Self {
        object: 0,
        kind: ItemKind::Inode,
        position: 0,
        version: 0,
    };

    /// The key of `item` in the live tree.
    pub(crate) const fn live(item: ItemKey) -> Self {
        Self::dead(item, 0)
    }

    /// The key of `item` in the history tree when it died at commit `version`.
    pub(crate) const fn dead(item: ItemKey, version: u64) -> Self {
        Self {
            object: item.object,
            kind: item.kind,
            position: item.position,
            version,
        }
    }

    /// The key without its version.
    pub(crate) const fn item_key(&self) -> ItemKey {
        ItemKey::new(self.object, self.kind, self.position)
    }

    /// The shortest key that is above `left` and at most `right`, where `left < right`.
    pub(super) fn separator(left: &Self, right: &Self) -> Self {
        let mut separator = *right;
        if left.item_key() != right.item_key() {
            separator.version = 0;
            if (left.object, left.kind) != (right.object, right.kind) {
                separator.position = 0;
                if left.object != right.object {
                    separator.kind = Self::MIN.kind;
                }
            }
        }
        separator
    }
}

/// What is stored under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    /// The commit that wrote it.
    pub birth: u64,
    /// At most [`ITEM_BYTES_MAX`](crate::ITEM_BYTES_MAX) bytes.
    pub value: Rc<[u8]>,
}

impl Item {
    /// An item.
    pub(crate) fn new(birth: u64, value: &[u8]) -> Self {
        Self {
            birth,
            value: Rc::from(value),
        }
    }
}

/// An item where it lies in its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ItemRef<'n> {
    /// The commit that wrote it.
    pub birth: u64,
    /// Its value.
    pub value: &'n [u8],
}

impl ItemRef<'_> {
    /// A copy that outlives the node.
    pub(crate) fn to_item(self) -> Item {
        Item::new(self.birth, self.value)
    }
}

/// The keys a node may hold: from `low` up to, but without, `high`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyRange {
    /// The first key that belongs here.
    pub low: Key,
    /// The first key that does not; `None` when there is no end.
    pub high: Option<Key>,
}

impl KeyRange {
    /// All keys.
    pub(crate) const ALL: Self = Self {
        low: Key::MIN,
        high: None,
    };

    /// Whether `key` belongs here.
    pub(crate) fn contains(&self, key: &Key) -> bool {
        self.low <= *key && self.high.is_none_or(|high| *key < high)
    }
}

/// What a node must be to stand at its place. Together with the pointer it says all that can be
/// known about a node before reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expected {
    /// The tree it belongs to.
    pub tree: TreeKind,
    /// Its distance from the leaves, which are at level 0.
    pub level: u8,
    /// The keys it may hold.
    pub range: KeyRange,
}

/// What is wrong with a block that should be a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Defect {
    /// It is no node at all.
    #[error("it is no tree node")]
    NotANode,
    /// A checksum does not match: the header's or that of the pointer.
    #[error("its checksum is wrong")]
    Checksum,
    /// Its checksum is right, but it was not sealed with this file system's key.
    #[error("its seal is broken")]
    Seal,
    /// It belongs to another file system.
    #[error("it belongs to another file system")]
    OtherFileSystem,
    /// It was written for another block.
    #[error("it belongs to another place")]
    OtherPlace,
    /// It belongs to the other tree.
    #[error("it belongs to another tree")]
    OtherTree,
    /// It is not as far from the leaves as it should be.
    #[error("it is at another level of the tree")]
    OtherLevel,
    /// It holds keys that its parent does not send there.
    #[error("its keys are out of range")]
    OutOfRange,
    /// Its entries are not coded as they must be.
    #[error("its entries are malformed")]
    Malformed,
}

/// A block that is not the node it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("tree node at block {}: {defect}", block.0)]
pub(crate) struct Damaged {
    /// Where it is.
    pub block: BlockIndex,
    /// What is wrong with it.
    pub defect: Defect,
}

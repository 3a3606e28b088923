//! Items: everything the file system knows besides file data is an item under a key.
//!
//! A key names an object, what is said of it, and a place: `(object, kind, position)`. Objects are inodes,
//! and object 0, which stands for the file system itself. Keys sort by object first, so all that belongs
//! to one file or directory lies together.

use crate::disk::layout::VALUE_OBJECT;

/// What an item says of its object, and what its position means there (SPEC.md, "Items").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ItemKind {
    /// The inode itself; position 0.
    Inode = 1,
    /// The content of a small file or the target of a symbolic link; position 0.
    Inline = 2,
    /// A directory's entry; position: hash of the name.
    Entry = 3,
    /// An extended attribute; position: hash of the name.
    Attribute = 4,
    /// A piece of a file's data; position: offset in the file in bytes, a multiple of the block size.
    Extent = 5,
    /// Of object 0: an inode with no name left or with data to free; position: its number.
    Orphan = 6,
    /// Of object 0: a snapshot; position: its number.
    Snapshot = 7,
    /// Of object 0: a single value of the file system's; position: which.
    Property = 8,
}

impl ItemKind {
    /// The kind with this number on disk.
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Inode,
            2 => Self::Inline,
            3 => Self::Entry,
            4 => Self::Attribute,
            5 => Self::Extent,
            6 => Self::Orphan,
            7 => Self::Snapshot,
            8 => Self::Property,
            _ => return None,
        })
    }
}

/// Where an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemKey {
    /// The inode it belongs to, or 0.
    pub object: u64,
    /// What it says.
    pub kind: ItemKind,
    /// Its place among those of its kind.
    pub position: u64,
}

impl ItemKey {
    /// A key.
    pub const fn new(object: u64, kind: ItemKind, position: u64) -> Self {
        Self {
            object,
            kind,
            position,
        }
    }

    /// Whether the numbers in it are such as are given out.
    pub(crate) const fn is_possible(&self) -> bool {
        let numbered = matches!(self.kind, ItemKind::Orphan | ItemKind::Snapshot);
        let is_value = self.object == VALUE_OBJECT && matches!(self.kind, ItemKind::Extent);
        (self.object < VALUE_OBJECT || is_value) && !(numbered && self.position >= VALUE_OBJECT)
    }
}

/// Largest value of an item in bytes, so that at least three of them fit into a tree node.
pub const ITEM_BYTES_MAX: usize = 1200;

/// Largest content that is kept as an item instead of an extent.
pub(crate) const INLINE_BYTES_MAX: u64 = 1024;

//! What an item of the namespace says, in words: for whoever checks or shows a whole file system.
//!
//! One item is looked at by itself. What items say of each other (SPEC.md, "Items") is up to the caller: links and
//! entries are to be counted, and objects to belong to one owner.

use alloc::vec::Vec;

use super::attributes::{Value, decode_attribute};
use super::directory::decode_entry;
use super::inode::Inode;
use super::named::{SLOT_BITS, bucket};
use super::orphan::State;
use super::types::{FileKind, InodeNumber};
use crate::{FileError, ItemKey, ItemKind};

/// What one item says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Description {
    /// An inode.
    Inode {
        /// What it is.
        kind: FileKind,
        /// Its names; of a directory 2 and one for each directory in it; 0: it must have an orphan item.
        links: u32,
        /// Bytes of content, or entries of a directory.
        size: u64,
        /// The directory a directory is in; 0 for others.
        parent: InodeNumber,
        /// The object that holds its content; 0 for what has none.
        data_object: u64,
        /// How large that object is: at least as large as the content.
        data_bytes: u64,
        /// The room that the object's data take.
        allocated_bytes: u64,
        /// What the names of its attributes take, one byte more for each.
        attribute_names_bytes: u32,
        /// It has ranges to free: with links it must have an orphan item.
        has_cuts: bool,
    },
    /// An entry of a directory.
    Entry {
        /// Its name.
        name: Vec<u8>,
        /// What it names.
        inode: InodeNumber,
        /// As which kind.
        kind: FileKind,
    },
    /// An extended attribute.
    Attribute {
        /// Its name.
        name: Vec<u8>,
        /// Bytes of its value.
        value_bytes: u64,
        /// The object that holds the value, if it is not in the item.
        object: Option<u64>,
    },
    /// An inode that has no name; of a directory, an empty one.
    Nameless(InodeNumber),
    /// A directory that has no name, but entries.
    Tree(InodeNumber),
    /// An inode with ranges to free.
    Cuts(InodeNumber),
    /// An object to free.
    Freeing {
        /// Its number.
        object: u64,
        /// Its size in bytes.
        data_bytes: u64,
    },
}

/// Says what an item of the kinds inode, entry, attribute and orphan says; `None` for other kinds.
///
/// # Errors
/// [`FileError::Damaged`] when it says what cannot be.
pub fn describe_item(key: ItemKey, value: &[u8]) -> Result<Option<Description>, FileError> {
    Ok(Some(match key.kind {
        ItemKind::Inode => describe_inode(key, &Inode::decode(value)?),
        ItemKind::Entry => {
            let (name, named) = decode_entry(value)?;
            Description::Entry {
                name: name.to_vec(),
                inode: named.inode,
                kind: named.kind,
            }
        }
        ItemKind::Attribute => {
            let (name, value) = decode_attribute(value)?;
            let (value_bytes, object) = match value {
                Value::Inline(bytes) => (bytes.len() as u64, None),
                Value::Stored { object, size } => (size, Some(object)),
            };
            Description::Attribute {
                name: name.to_vec(),
                value_bytes,
                object,
            }
        }
        ItemKind::Orphan => {
            let inode = InodeNumber(key.position);
            match State::decode(value)? {
                State::Nameless => Description::Nameless(inode),
                State::Tree => Description::Tree(inode),
                State::Cuts => Description::Cuts(inode),
                State::Data { object, size, .. } => Description::Freeing {
                    object,
                    data_bytes: size,
                },
            }
        }
        _ => return Ok(None),
    }))
}

fn describe_inode(key: ItemKey, inode: &Inode) -> Description {
    let has_data = matches!(inode.kind, FileKind::File | FileKind::Symlink);
    let data_object = inode.data(InodeNumber(key.object));
    Description::Inode {
        kind: inode.kind,
        links: inode.links,
        size: inode.size,
        parent: InodeNumber(inode.parent),
        data_object: if has_data { data_object } else { 0 },
        data_bytes: if has_data { inode.data_size() } else { 0 },
        allocated_bytes: inode.allocated,
        attribute_names_bytes: inode.attribute_names_bytes,
        has_cuts: !inode.cuts.is_empty(),
    }
}

/// Whether an entry or attribute can be at `position`, when its name has this hash: elsewhere nobody finds it.
pub fn is_position_of(position: u64, hash: u64) -> bool {
    position >> SLOT_BITS << SLOT_BITS == bucket(hash)
}

//! Files and directories: inodes, names, links, paths, content and extended attributes, as POSIX has them.
//!
//! Everything here is plain code over a [`View`]: it sees one state, and nothing happens in between. Two
//! kinds of errors come out of it:
//!
//! - What the namespace itself decides ([`FileError::NotFound`], [`FileError::Exists`] and so on): nothing
//!   has been changed, and the transaction may go on with other operations.
//! - What the view reports ([`FileError::Fault`], [`FileError::Device`], [`FileError::NoSpace`] …) and
//!   [`FileError::Damaged`]: the operation may be half done in this view, which must not be committed.
//!
//! The bytes of every item are in SPEC.md, "Items"; nothing read from an item is trusted.
//!
//! What is not here: permissions (mode bits, owners and the sticky bit are kept, not enforced; clearing
//! set-user-id on writes and taking over the group of a set-group-id directory are up to the caller), open
//! files (an inode without a name stays until [`Namespace::reclaim_orphan`], which whoever runs the
//! transactions calls once nobody has it open), locks, and access times (kept, but reading does not change
//! them). Numbers 0 and 1 are never given out by [`View::new_object`]: 0 stands for the file system, 1 is the
//! root directory.
//!
//! - `types`: what callers hand in and get back;
//! - `codec`, `inode`, `cuts`, `named`: items and their bytes;
//! - `directory`, `link`, `rename`, `path`: names;
//! - `data`: content; `attributes`: extended attributes;
//! - `orphan`, `tree`: what has lost its name; removing whole trees;
//! - `describe`: what an item says, for whoever checks or shows a file system.

mod attributes;
mod codec;
mod cuts;
mod data;
mod describe;
mod directory;
mod inode;
mod link;
mod named;
mod orphan;
mod path;
mod rename;
mod tree;
mod types;

pub use describe::{Description, describe_item, is_position_of};
pub use types::{
    ATTRIBUTE_BYTES_MAX, ATTRIBUTE_NAMES_BYTES_MAX, DirectoryEntry, FILE_BYTES_MAX, FileKind,
    InodeNumber, LINKS_MAX, Listing, NAME_BYTES_MAX, NewInode, Orphan, PATH_BYTES_MAX, ROOT,
    RenameFlags, SetAttributes, Sought, Stat, XattrMode,
};

pub(crate) use attributes::{Value as AttributeValue, decode_attribute};
pub(crate) use directory::decode_entry;
pub(crate) use inode::Inode;
pub(crate) use orphan::State as OrphanState;

use crate::{FileError, ItemKind, View};

/// The name in the value of an entry or attribute.
pub(crate) fn split_name(value: &[u8]) -> Result<&[u8], FileError> {
    named::split(value).map(|(name, _)| name)
}

/// Whether `object` has an entry or attribute of this name, and where it is or can be put; nowhere, when as many names have its
/// hash as there are places.
pub(crate) fn find_name(
    view: &mut impl View,
    object: u64,
    kind: ItemKind,
    name: &[u8],
) -> Result<(bool, Option<u64>), FileError> {
    Ok(match named::find(view, object, kind, name)? {
        named::Place::Taken(position, _) => (true, Some(position)),
        named::Place::Free(position) => (false, position),
    })
}

/// The bucket of a name with this hash, and the first and last position in it.
pub(crate) fn bucket_of(hash: u64) -> (u64, u64, u64) {
    let first = named::bucket(hash);
    (first, first, first + (1 << named::SLOT_BITS) - 1)
}

/// The files and directories that a view holds.
pub struct Namespace<'a, V> {
    view: &'a mut V,
    limits: data::Limits,
}

impl<'a, V: View> Namespace<'a, V> {
    /// What `view` holds. It costs nothing: make one for each operation.
    pub fn new(view: &'a mut V) -> Self {
        Self {
            view,
            limits: data::Limits::USUAL,
        }
    }

    /// What `view` holds, with everything that is bounded by an amount of data bounded by a few blocks, for
    /// tests on small files.
    #[cfg(feature = "sim")]
    pub fn with_small_limits(view: &'a mut V) -> Self {
        Self {
            view,
            limits: data::Limits::SMALL,
        }
    }
}

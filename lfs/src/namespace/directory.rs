//! Directories: finding, listing and making entries.

use alloc::vec::Vec;

use super::Namespace;
use super::codec::{DAMAGED, Reader, put_varint};
use super::inode::Inode;
use super::named::{self, Place};
use super::types::{
    DirectoryEntry, FileKind, InodeNumber, LINKS_MAX, Listing, NAME_BYTES_MAX, NewInode,
    PATH_BYTES_MAX,
};
use crate::{FileError, ItemKey, ItemKind, View};

/// Entries that are listed at once.
const LISTED_MAX: usize = 4096;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) inode: InodeNumber,
    pub(crate) kind: FileKind,
}

impl Named {
    pub(super) fn is_directory(self) -> bool {
        self.kind == FileKind::Directory
    }

    fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(10);
        out.push(self.kind as u8);
        put_varint(&mut out, self.inode.0);
        out
    }

    fn decode(payload: &[u8]) -> Result<Self, FileError> {
        let mut reader = Reader::new(payload);
        let mut read = || {
            let kind = FileKind::from_number(reader.byte()?)?;
            let inode = InodeNumber(reader.object()?);
            reader.end()?;
            Some(Self { inode, kind })
        };
        read().ok_or(DAMAGED)
    }
}

/// An entry as an item holds it.
///
/// # Errors
/// [`FileError::Damaged`], also for names that cannot be.
pub(crate) fn decode_entry(value: &[u8]) -> Result<(&[u8], Named), FileError> {
    let (name, payload) = named::split(value)?;
    check_name(name).map_err(|_| DAMAGED)?;
    Ok((name, Named::decode(payload)?))
}

/// Whether `name` can be that of an entry.
pub(super) fn check_name(name: &[u8]) -> Result<(), FileError> {
    if name.len() > NAME_BYTES_MAX {
        return Err(FileError::NameTooLong);
    }
    let reserved = matches!(name, b"" | b"." | b"..");
    if reserved || name.iter().any(|byte| matches!(byte, b'/' | 0)) {
        return Err(FileError::Invalid);
    }
    Ok(())
}

/// An entry, or the place where it could be put.
pub(super) enum Slot {
    Taken(u64, Named),
    Free(Option<u64>),
}

impl Slot {
    pub(super) fn named(&self) -> Option<Named> {
        match self {
            Self::Taken(_, named) => Some(*named),
            Self::Free(_) => None,
        }
    }

    /// Its position, for a new entry too.
    pub(super) fn position(&self) -> Result<u64, FileError> {
        match self {
            Self::Taken(position, _) | Self::Free(Some(position)) => Ok(*position),
            Self::Free(None) => Err(FileError::NoSpace),
        }
    }
}

impl<V: View> Namespace<'_, V> {
    /// The inode that `name` stands for in `directory`.
    ///
    /// # Errors
    /// [`FileError::NotFound`], [`FileError::NotADirectory`], [`FileError::NameTooLong`] above 255 bytes,
    /// [`FileError::Invalid`] for a name that cannot be one: empty, `.` or `..`, or with `/` or NUL.
    pub fn lookup(
        &mut self,
        directory: InodeNumber,
        name: &[u8],
    ) -> Result<InodeNumber, FileError> {
        let slot = self.find(directory, name)?;
        let named = slot.named().ok_or(FileError::NotFound)?;
        Ok(named.inode)
    }

    /// Creates a file, directory, symbolic link or special file under a new name.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup); [`FileError::NotFound`] also when the directory has been removed;
    /// [`FileError::Exists`]; [`FileError::TooManyLinks`] for one directory more than the directory may
    /// hold; for a symbolic link [`FileError::NotFound`], [`FileError::NameTooLong`] or
    /// [`FileError::Invalid`] when its target is empty, above 4095 bytes or with NUL;
    /// [`FileError::NoSpace`] when 4096 names in the directory have the same hash.
    pub fn create(
        &mut self,
        directory: InodeNumber,
        name: &[u8],
        new: &NewInode,
    ) -> Result<InodeNumber, FileError> {
        let (parent, slot) = self.find_in_live(directory, name)?;
        if slot.named().is_some() {
            return Err(FileError::Exists);
        }
        let position = slot.position()?;
        let subdirectory = new.kind == FileKind::Directory;
        if subdirectory && parent.links >= LINKS_MAX {
            return Err(FileError::TooManyLinks);
        }
        if new.kind == FileKind::Symlink {
            check_target(&new.target)?;
        }
        let (number, mut inode) = self.new_inode(directory, new);
        if new.kind == FileKind::Symlink {
            let room = self.view.write_data(number.0, 0, 0, &new.target)?;
            inode.takes_more(room);
            inode.size = new.target.len() as u64;
        }
        self.store(number, &inode);
        let named = Named {
            inode: number,
            kind: new.kind,
        };
        self.put_entry(directory, position, name, named);
        self.count_entries(directory, 1, i32::from(subdirectory))?;
        Ok(number)
    }

    /// Up to `limit` entries of a directory, at most 4,096 and perhaps fewer, behind `after`: 0, where an earlier listing said to
    /// go on, or the cookie of an entry. There are none only when there are no more. Who goes through a directory while it
    /// changes sees each entry that is there all the time exactly once. `.` and `..` are not among them.
    ///
    /// # Errors
    /// [`FileError::NotFound`] for the inode, [`FileError::NotADirectory`].
    pub fn read_dir(
        &mut self,
        directory: InodeNumber,
        after: u64,
        limit: usize,
    ) -> Result<Listing, FileError> {
        if self.load_directory(directory)?.links == 0 {
            return Ok(Listing::default());
        }
        let limit = limit.min(LISTED_MAX);
        let (items, next) = named::some(self.view, directory.0, ItemKind::Entry, after, limit)?;
        let entries = items.into_iter().map(|(cookie, value)| {
            let (name, named) = decode_entry(&value)?;
            Ok(DirectoryEntry {
                cookie,
                name: name.to_vec(),
                inode: named.inode,
                kind: named.kind,
            })
        });
        let entries = entries.collect::<Result<_, FileError>>()?;
        Ok(Listing { entries, next })
    }

    /// The directory that a directory is in; the root is in itself.
    ///
    /// # Errors
    /// [`FileError::NotFound`] also when it has been removed, [`FileError::NotADirectory`].
    pub fn parent(&mut self, directory: InodeNumber) -> Result<InodeNumber, FileError> {
        let found = self.load_directory(directory)?;
        if found.links == 0 {
            return Err(FileError::NotFound);
        }
        Ok(InodeNumber(found.parent))
    }

    /// A name in a directory. A removed one holds none.
    pub(super) fn find(&mut self, directory: InodeNumber, name: &[u8]) -> Result<Slot, FileError> {
        self.load_directory(directory)
            .and_then(|found| self.find_in(directory, &found, name))
    }

    /// A name in a directory that has not been removed, to put an entry there.
    pub(super) fn find_in_live(
        &mut self,
        directory: InodeNumber,
        name: &[u8],
    ) -> Result<(Inode, Slot), FileError> {
        let found = self.load_directory(directory)?;
        let slot = self.find_in(directory, &found, name)?;
        if found.links == 0 {
            return Err(FileError::NotFound);
        }
        Ok((found, slot))
    }

    fn find_in(
        &mut self,
        directory: InodeNumber,
        found: &Inode,
        name: &[u8],
    ) -> Result<Slot, FileError> {
        check_name(name)?;
        if found.links == 0 {
            return Ok(Slot::Free(None));
        }
        let place = named::find(self.view, directory.0, ItemKind::Entry, name)?;
        Ok(match place {
            Place::Taken(position, payload) => Slot::Taken(position, Named::decode(&payload)?),
            Place::Free(position) => Slot::Free(position),
        })
    }

    pub(super) fn put_entry(
        &mut self,
        directory: InodeNumber,
        position: u64,
        name: &[u8],
        named: Named,
    ) {
        let key = ItemKey::new(directory.0, ItemKind::Entry, position);
        self.view.put(key, named::join(name, &named.encode()));
    }

    pub(super) fn remove_entry(&mut self, directory: InodeNumber, position: u64) {
        let key = ItemKey::new(directory.0, ItemKind::Entry, position);
        self.view.remove(key);
    }

    /// Notes in a directory that it has changed: by so many entries, and directories among them.
    pub(super) fn count_entries(
        &mut self,
        directory: InodeNumber,
        entries: i32,
        subdirectories: i32,
    ) -> Result<(), FileError> {
        let mut inode = self.glance_named(directory)?;
        let size = inode.size.checked_add_signed(entries.into());
        inode.size = size.ok_or(DAMAGED)?;
        if inode.links != 0 {
            let links = inode.links.checked_add_signed(subdirectories);
            inode.links = links.filter(|&links| links >= 2).ok_or(DAMAGED)?;
        }
        inode.mtime_ns = self.view.now_ns();
        inode.ctime_ns = inode.mtime_ns;
        self.store(directory, &inode);
        Ok(())
    }
}

fn check_target(target: &[u8]) -> Result<(), FileError> {
    if target.is_empty() {
        Err(FileError::NotFound)
    } else if target.len() > PATH_BYTES_MAX {
        Err(FileError::NameTooLong)
    } else if target.contains(&0) {
        Err(FileError::Invalid)
    } else {
        Ok(())
    }
}

//! Hard links, and taking names away.

use super::Namespace;
use super::codec::DAMAGED;
use super::directory::Named;
use super::types::{InodeNumber, LINKS_MAX};
use crate::{FileError, View};

impl<V: View> Namespace<'_, V> {
    /// Gives an inode that is not a directory one name more.
    ///
    /// # Errors
    /// [`FileError::NotFound`] when there is no such inode, it has no name left, or the directory has been
    /// removed; [`FileError::NotPermitted`] for a directory; [`FileError::TooManyLinks`] beyond 65,000;
    /// for the new name as [`create`](Self::create).
    pub fn link(
        &mut self,
        inode: InodeNumber,
        directory: InodeNumber,
        name: &[u8],
    ) -> Result<(), FileError> {
        let mut found = self.load(inode)?;
        if found.is_directory() {
            return Err(FileError::NotPermitted);
        }
        if found.links == 0 {
            return Err(FileError::NotFound);
        }
        let (_, slot) = self.find_in_live(directory, name)?;
        if slot.named().is_some() {
            return Err(FileError::Exists);
        }
        let position = slot.position()?;
        if found.links >= LINKS_MAX {
            return Err(FileError::TooManyLinks);
        }
        found.links += 1;
        found.ctime_ns = self.view.now_ns();
        self.store(inode, &found);
        let named = Named {
            inode,
            kind: found.kind,
        };
        self.put_entry(directory, position, name, named);
        self.count_entries(directory, 1, 0)
    }

    /// Takes away a name of what is not a directory. With its last name gone the inode becomes an orphan:
    /// it and its content stay until [`reclaim_orphan`](Self::reclaim_orphan).
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup); [`FileError::IsADirectory`].
    pub fn unlink(&mut self, directory: InodeNumber, name: &[u8]) -> Result<(), FileError> {
        let slot = self.find(directory, name)?;
        let named = slot.named().ok_or(FileError::NotFound)?;
        if named.is_directory() {
            return Err(FileError::IsADirectory);
        }
        self.take_away(directory, slot.position()?, named)
    }

    /// Removes an empty directory. Its inode becomes an orphan, as a file's does.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup); [`FileError::NotADirectory`] also for what the name stands for;
    /// [`FileError::NotEmpty`].
    pub fn rmdir(&mut self, directory: InodeNumber, name: &[u8]) -> Result<(), FileError> {
        let slot = self.find(directory, name)?;
        let named = slot.named().ok_or(FileError::NotFound)?;
        if !named.is_directory() {
            return Err(FileError::NotADirectory);
        }
        if self.load_named(named.inode)?.size != 0 {
            return Err(FileError::NotEmpty);
        }
        self.take_away(directory, slot.position()?, named)
    }

    /// Removes the entry at `position`, and what it stands for loses a name.
    pub(super) fn take_away(
        &mut self,
        directory: InodeNumber,
        position: u64,
        named: Named,
    ) -> Result<(), FileError> {
        self.remove_entry(directory, position);
        self.count_entries(directory, -1, -i32::from(named.is_directory()))?;
        self.lose_name(named)
    }

    /// Notes that an entry for `named` is gone.
    pub(super) fn lose_name(&mut self, named: Named) -> Result<(), FileError> {
        let mut inode = self.load_named(named.inode)?;
        if inode.kind != named.kind || inode.links == 0 {
            return Err(DAMAGED);
        }
        inode.links = if named.is_directory() {
            0
        } else {
            inode.links - 1
        };
        inode.ctime_ns = self.view.now_ns();
        if named.is_directory() && inode.size != 0 {
            self.note_tree(named.inode);
        } else if inode.links == 0 {
            self.note_nameless(named.inode);
        }
        self.store(named.inode, &inode);
        Ok(())
    }
}

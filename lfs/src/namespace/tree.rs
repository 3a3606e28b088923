//! Removing whole trees, for layers that offer it. POSIX has no such operation.

use super::Namespace;
use super::directory::{Named, decode_entry};
use super::named;
use super::types::InodeNumber;
use crate::{FileError, ItemKind, View};

/// Deepest directory that [`Namespace::remove_some`] walks down to; what is deeper is removed at once.
const DEPTH_MAX: usize = 1000;

impl<V: View> Namespace<'_, V> {
    /// Removes what `name` stands for, with all that is in it, at once, whatever its size: one entry is
    /// removed, and the rest is left to [`reclaim_orphan`](Self::reclaim_orphan), which gives each file
    /// and directory in it the same treatment. Until it gets there, a file that is also named outside
    /// counts its names inside as links, and who holds a directory in it by number still sees its content.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup).
    pub fn remove_tree(&mut self, directory: InodeNumber, name: &[u8]) -> Result<(), FileError> {
        let slot = self.find(directory, name)?;
        let named = slot.named().ok_or(FileError::NotFound)?;
        self.take_away(directory, slot.position()?, named)
    }

    /// Removes up to `budget` names of what `name` stands for and all that is in it, from below; true when
    /// all is removed. Unlike [`remove_tree`](Self::remove_tree) every link count is right after each call, but
    /// several calls are not one atomic step. (What is more than 1000 levels below goes at once with
    /// the directory it is in.)
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup).
    pub fn remove_some(
        &mut self,
        directory: InodeNumber,
        name: &[u8],
        budget: usize,
    ) -> Result<bool, FileError> {
        let slot = self.find(directory, name)?;
        let named = slot.named().ok_or(FileError::NotFound)?;
        let mut way = alloc::vec![(directory, slot.position()?, named)];
        let mut left = budget.max(1);
        while let Some(&(parent, position, named)) = way.last() {
            if way.len() <= DEPTH_MAX
                && let Some(child) = self.first_child(named)?
            {
                way.push(child);
                continue;
            }
            if left == 0 {
                return Ok(false);
            }
            left -= 1;
            self.take_away(parent, position, named)?;
            way.pop();
        }
        Ok(true)
    }

    fn first_child(
        &mut self,
        parent: Named,
    ) -> Result<Option<(InodeNumber, u64, Named)>, FileError> {
        if !parent.is_directory() {
            return Ok(None);
        }
        let first = named::next(self.view, parent.inode.0, ItemKind::Entry, None)?;
        let Some((position, value)) = first else {
            return Ok(None);
        };
        let (_, named) = decode_entry(&value)?;
        Ok(Some((parent.inode, position, named)))
    }
}

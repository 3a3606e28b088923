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
        let mut way = alloc::vec![Step {
            parent: directory,
            position: slot.position()?,
            named,
            emptied_to: 0,
        }];
        let mut left = budget.max(1);
        while let Some(step) = way.last() {
            if way.len() <= DEPTH_MAX
                && let Some(child) = self.next_child(step)?
            {
                way.push(child);
                continue;
            }
            if left == 0 {
                return Ok(false);
            }
            left -= 1;
            self.take_away(step.parent, step.position, step.named)?;
            let emptied_to = step.position;
            way.pop();
            if let Some(above) = way.last_mut() {
                above.emptied_to = emptied_to;
            }
        }
        Ok(true)
    }

    fn next_child(&mut self, of: &Step) -> Result<Option<Step>, FileError> {
        if !of.named.is_directory() {
            return Ok(None);
        }
        let parent = of.named.inode;
        let next = named::next(self.view, parent.0, ItemKind::Entry, of.emptied_to)?;
        let Some((position, value)) = next else {
            return Ok(None);
        };
        let (_, named) = decode_entry(&value)?;
        Ok(Some(Step {
            parent,
            position,
            named,
            emptied_to: 0,
        }))
    }
}

/// An entry on the way down.
struct Step {
    parent: InodeNumber,
    position: u64,
    named: Named,
    /// Of a directory, up to where its entries are gone.
    emptied_to: u64,
}

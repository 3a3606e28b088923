//! Renaming: one atomic step from an old name to a new one, whatever is there.

use super::Namespace;
use super::codec::DAMAGED;
use super::directory::{Named, Slot};
use super::types::{InodeNumber, LINKS_MAX, ROOT, RenameFlags};
use crate::{FileError, View};

/// Deepest directory that something can be moved into. Each level is an inode to look at.
const DEPTH_MAX: u32 = 65_536;

/// One side of a rename.
struct Side<'n> {
    directory: InodeNumber,
    name: &'n [u8],
    slot: Slot,
}

impl<V: View> Namespace<'_, V> {
    /// Renames what `name` stands for. What has the new name loses it in the same step, as by
    /// [`unlink`](Self::unlink) or [`rmdir`](Self::rmdir). When both names stand for the same inode nothing
    /// happens, and both stay.
    ///
    /// # Errors
    /// For both names as [`lookup`](Self::lookup), and as for [`create`](Self::create) for the new one.
    /// [`FileError::Invalid`] when a directory would come into itself or below, or for both flags at once.
    /// [`FileError::NotFound`] when the new directory, or one that it is in, has been removed.
    /// [`FileError::NotADirectory`] for a directory over something else, [`FileError::IsADirectory`] for
    /// something else over a directory, [`FileError::NotEmpty`] over a directory that is not empty;
    /// with `no_replace` [`FileError::Exists`] for all of these.
    /// [`FileError::NameTooLong`] into a directory more than 65,536 levels deep.
    pub fn rename(
        &mut self,
        directory: InodeNumber,
        name: &[u8],
        new_directory: InodeNumber,
        new_name: &[u8],
        flags: RenameFlags,
    ) -> Result<(), FileError> {
        if flags.no_replace && flags.exchange {
            return Err(FileError::Invalid);
        }
        let (_, slot) = self.find_in_live(directory, name)?;
        let (new_parent, new_slot) = self.find_in_live(new_directory, new_name)?;
        let moved = slot.named().ok_or(FileError::NotFound)?;
        let replaced = new_slot.named();
        if flags.exchange && replaced.is_none() {
            return Err(FileError::NotFound);
        }
        if flags.no_replace && replaced.is_some() {
            return Err(FileError::Exists);
        }
        if replaced.is_some_and(|other| other.inode == moved.inode) {
            return Ok(());
        }
        if directory != new_directory {
            self.check_not_within(moved, new_directory)?;
            if let (true, Some(other)) = (flags.exchange, replaced) {
                self.check_not_within(other, directory)?;
            }
        }
        let exchanged = replaced.filter(|_| flags.exchange);
        let lost = replaced.filter(|_| !flags.exchange);
        if let Some(lost) = lost {
            self.check_replaceable(moved, lost)?;
        }
        new_slot.position()?;
        let (old, new) = (
            Side {
                directory,
                name,
                slot,
            },
            Side {
                directory: new_directory,
                name: new_name,
                slot: new_slot,
            },
        );
        if directory != new_directory {
            let old_parent = self.load_directory(directory)?;
            let leaves = replaced.is_some_and(Named::is_directory);
            check_room(new_parent.links, moved.is_directory(), leaves)?;
            if exchanged.is_some() {
                check_room(old_parent.links, leaves, moved.is_directory())?;
            }
        }
        if let Some(other) = exchanged {
            self.exchange(&old, moved, &new, other)
        } else {
            self.replace(&old, moved, &new, lost)
        }
    }

    fn replace(
        &mut self,
        old: &Side<'_>,
        moved: Named,
        new: &Side<'_>,
        lost: Option<Named>,
    ) -> Result<(), FileError> {
        let moved_directory = i32::from(moved.is_directory());
        self.remove_entry(old.directory, old.slot.position()?);
        self.count_entries(old.directory, -1, -moved_directory)?;
        self.put_entry(new.directory, new.slot.position()?, new.name, moved);
        let lost_directory = i32::from(lost.is_some_and(Named::is_directory));
        self.count_entries(
            new.directory,
            i32::from(lost.is_none()),
            moved_directory - lost_directory,
        )?;
        if let Some(lost) = lost {
            self.lose_name(lost)?;
        }
        self.note_moved(moved, new.directory)
    }

    fn exchange(
        &mut self,
        old: &Side<'_>,
        moved: Named,
        new: &Side<'_>,
        other: Named,
    ) -> Result<(), FileError> {
        self.put_entry(old.directory, old.slot.position()?, old.name, other);
        self.put_entry(new.directory, new.slot.position()?, new.name, moved);
        let difference = i32::from(moved.is_directory()) - i32::from(other.is_directory());
        self.count_entries(old.directory, 0, -difference)?;
        self.count_entries(new.directory, 0, difference)?;
        self.note_moved(moved, new.directory)?;
        self.note_moved(other, old.directory)
    }

    /// Notes in an inode that its name has changed.
    fn note_moved(&mut self, moved: Named, directory: InodeNumber) -> Result<(), FileError> {
        let mut inode = self.glance_named(moved.inode)?;
        if inode.kind != moved.kind {
            return Err(DAMAGED);
        }
        if inode.is_directory() {
            inode.parent = directory.0;
        }
        inode.ctime_ns = self.view.now_ns();
        self.store(moved.inode, &inode);
        Ok(())
    }

    fn check_replaceable(&mut self, moved: Named, lost: Named) -> Result<(), FileError> {
        match (moved.is_directory(), lost.is_directory()) {
            (true, false) => Err(FileError::NotADirectory),
            (false, true) => Err(FileError::IsADirectory),
            (true, true) if self.load_named(lost.inode)?.size != 0 => Err(FileError::NotEmpty),
            _ => Ok(()),
        }
    }

    /// Walks from `directory` up to the root and refuses what is moved on the way; and a directory that is
    /// no longer below the root, because what is moved there would be lost. On a damaged image the way can
    /// be a loop: the one who walks meets a mark that is left behind at ever longer distances.
    fn check_not_within(&mut self, moved: Named, directory: InodeNumber) -> Result<(), FileError> {
        let mut here = directory;
        let mut mark = InodeNumber(0);
        for step in 1..=DEPTH_MAX {
            if here == moved.inode {
                return Err(FileError::Invalid);
            }
            if here == mark {
                return Err(DAMAGED);
            }
            if step.is_power_of_two() {
                mark = here;
            }
            let found = self.glance_named(here)?;
            if !found.is_directory() {
                return Err(DAMAGED);
            }
            if found.links == 0 {
                return Err(FileError::NotFound);
            }
            if here == ROOT {
                return Ok(());
            }
            here = InodeNumber(found.parent);
        }
        Err(FileError::NameTooLong)
    }
}

/// Whether a directory may get one more directory, when perhaps another leaves it.
fn check_room(links: u32, comes: bool, leaves: bool) -> Result<(), FileError> {
    if comes && !leaves && links >= LINKS_MAX {
        return Err(FileError::TooManyLinks);
    }
    Ok(())
}

//! Paths.

use alloc::vec::Vec;

use super::Namespace;
use super::codec::DAMAGED;
use super::directory::check_name;
use super::types::{FileKind, InodeNumber, PATH_BYTES_MAX, ROOT};
use crate::{FileError, View};

/// Most symbolic links that one path may lead through.
const SYMLINKS_MAX: u32 = 40;

impl<V: View> Namespace<'_, V> {
    /// The inode a path leads to, from the root, whether or not it begins with `/`. Symbolic links are
    /// followed; the last part only with `follow_last` or with a slash behind it. A slash at the end
    /// asks for a directory.
    ///
    /// # Errors
    /// [`FileError::NotFound`], also for the empty path; [`FileError::NotADirectory`];
    /// [`FileError::LinkLoop`] beyond 40 symbolic links; [`FileError::NameTooLong`] above 4095 bytes, or 255
    /// in a part; [`FileError::Invalid`] with NUL.
    pub fn resolve(&mut self, path: &[u8], follow_last: bool) -> Result<InodeNumber, FileError> {
        self.resolve_from(ROOT, path, follow_last)
    }

    /// As [`resolve`](Self::resolve), with relative paths from `start` on.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub fn resolve_from(
        &mut self,
        start: InodeNumber,
        path: &[u8],
        follow_last: bool,
    ) -> Result<InodeNumber, FileError> {
        check_path(path)?;
        let mut here = if path.starts_with(b"/") { ROOT } else { start };
        let mut left = path.to_vec();
        let mut symlinks = 0;
        while let Some((part, rest)) = first_part(&left) {
            let last = rest.iter().all(|&byte| byte == b'/');
            let directory = match self.load_directory(here) {
                // An entry or a directory has led here.
                Err(FileError::NotFound) if here != start => return Err(DAMAGED),
                other => other?,
            };
            match part {
                b"." => left = rest.to_vec(),
                b".." => {
                    if directory.links == 0 {
                        return Err(FileError::NotFound);
                    }
                    here = InodeNumber(directory.parent);
                    left = rest.to_vec();
                }
                name => {
                    let slot = self.find(here, name)?;
                    let named = slot.named().ok_or(FileError::NotFound)?;
                    if named.kind == FileKind::Symlink && (follow_last || !last || !rest.is_empty())
                    {
                        symlinks += 1;
                        if symlinks > SYMLINKS_MAX {
                            return Err(FileError::LinkLoop);
                        }
                        let target = self.read_link(named.inode)?;
                        if target.starts_with(b"/") {
                            here = ROOT;
                        }
                        left = [&target, rest].concat();
                    } else {
                        if last && !rest.is_empty() && !named.is_directory() {
                            return Err(FileError::NotADirectory);
                        }
                        here = named.inode;
                        left = rest.to_vec();
                    }
                }
            }
        }
        Ok(here)
    }

    /// The directory in which the last part of a path is or would be, and that part, which is not looked
    /// up further. A slash at the end is allowed, but when something other than a directory has the
    /// name, that is an error; who is about to create something else than a directory refuses it.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve) for what is before the last part; [`FileError::Invalid`] when the path
    /// has no parts, or the last one is `.` or `..`.
    pub fn resolve_parent<'p>(
        &mut self,
        path: &'p [u8],
    ) -> Result<(InodeNumber, &'p [u8]), FileError> {
        self.resolve_parent_from(ROOT, path)
    }

    /// As [`resolve_parent`](Self::resolve_parent), with relative paths from `start` on.
    ///
    /// # Errors
    /// As [`resolve_parent`](Self::resolve_parent).
    pub fn resolve_parent_from<'p>(
        &mut self,
        start: InodeNumber,
        path: &'p [u8],
    ) -> Result<(InodeNumber, &'p [u8]), FileError> {
        check_path(path)?;
        let end = path.iter().rposition(|&byte| byte != b'/');
        let (trimmed, slashes) = path.split_at(end.map_or(0, |end| end + 1));
        let slash = trimmed.iter().rposition(|&byte| byte == b'/');
        let (before, name) = trimmed.split_at(slash.map_or(0, |slash| slash + 1));
        let directory = if before.is_empty() {
            start
        } else {
            self.resolve_from(start, before, true)?
        };
        check_name(name)?;
        let slot = self.find(directory, name)?;
        if !slashes.is_empty() && slot.named().is_some_and(|named| !named.is_directory()) {
            return Err(FileError::NotADirectory);
        }
        Ok((directory, name))
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// [`FileError::NotFound`]; [`FileError::Invalid`] when the inode is something else.
    pub fn read_link(&mut self, inode: InodeNumber) -> Result<Vec<u8>, FileError> {
        let found = self.load(inode)?;
        if found.kind != FileKind::Symlink {
            return Err(FileError::Invalid);
        }
        let size = usize::try_from(found.size).unwrap_or(usize::MAX);
        if size == 0 || size > PATH_BYTES_MAX || !found.cuts.is_empty() {
            // What has been removed may have lost its content already.
            return Err(if found.links == 0 {
                FileError::NotFound
            } else {
                DAMAGED
            });
        }
        let mut target = alloc::vec![0; size];
        self.view
            .read_data(found.data(inode), found.size, 0, &mut target)?;
        if target.contains(&0) {
            return Err(DAMAGED);
        }
        Ok(target)
    }
}

fn check_path(path: &[u8]) -> Result<(), FileError> {
    if path.is_empty() {
        Err(FileError::NotFound)
    } else if path.len() > PATH_BYTES_MAX {
        Err(FileError::NameTooLong)
    } else if path.contains(&0) {
        Err(FileError::Invalid)
    } else {
        Ok(())
    }
}

/// The first part of a path and what comes behind it, from the next slash on.
fn first_part(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let start = path.iter().position(|&byte| byte != b'/')?;
    let (_, path) = path.split_at(start);
    let end = path.iter().position(|&byte| byte == b'/');
    Some(path.split_at(end.unwrap_or(path.len())))
}

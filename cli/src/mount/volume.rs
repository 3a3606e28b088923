//! What each request does to the file system.
//!
//! Every function is one request: one transaction or one look, an error number when it fails. Whether the caller
//! may do it has been decided by the kernel (`default_permissions`), which also clears set-user-id bits on
//! writes, truncations and changes of owner; what it leaves to a file system is here: the group of something new in a
//! set-group-id directory.
//!
//! **Inodes the kernel knows.** Each reply that names an inode counts; the kernel takes the counts back with
//! `forget`, and not before the last user of the inode has closed it. As long as the count is not zero the inode is
//! held, so that it outlives its last name.
//!
//! **Durability.** A write is in the file system (and seen by all) when it returns; it survives a power cut after the
//! next `fsync`, of whatever file, because commits become durable in order. The kernel's write-back cache is
//! not used: it would answer writes before the file system has seen them, a full disk would be reported when it is too
//! late, and its own idea of times would replace ours. Pages written through `mmap` come when the kernel
//! writes them, at the latest with `msync` or `fsync`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use fuser::Errno;
use lfs::host::now_ns;
use lfs::{
    DirectoryEntry, FileError, FileKind, InodeNumber, NewInode, ROOT, RenameFlags, SetAttributes,
    Sought, Stat, Transaction, XattrMode,
};

use super::attributes::inherit;
use super::errno::errno;
use crate::image::{Tree, Volume, piece_bytes};

/// What a request comes to.
pub(super) type Reply<T> = Result<T, Errno>;

/// Most bytes that one request copies; the kernel asks again for the rest.
const COPY_BYTES_MAX: u64 = 8 << 20;

/// Bytes of a file's data that one transaction frees.
const FREE_BYTES: u64 = 16 << 20;

/// The mounted file system.
pub(super) struct Mounted {
    volume: Rc<Volume>,
    tree: Tree,
    read_only: bool,
    /// How often the kernel was told of each inode.
    lookups: RefCell<HashMap<InodeNumber, u64>>,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Mounted {
    pub(super) fn new(volume: Rc<Volume>, tree: Tree, read_only: bool) -> Self {
        Self {
            volume,
            tree,
            read_only,
            lookups: RefCell::default(),
        }
    }

    async fn read<T>(
        &self,
        body: impl FnMut(&mut Transaction<'_>) -> Result<T, FileError>,
    ) -> Reply<T> {
        self.tree.read(body).await.map_err(|error| errno(&error))
    }

    async fn change<T>(
        &self,
        body: impl FnMut(&mut Transaction<'_>) -> Result<T, FileError>,
    ) -> Reply<T> {
        if self.read_only {
            return Err(Errno::EROFS);
        }
        match self.volume.transact(now_ns(), body).await {
            Ok((result, _)) => Ok(result),
            Err(error) => Err(errno(&error)),
        }
    }

    /// As [`change`](Self::change), for what changes the content of a file: pieces that a large truncation left to
    /// be freed later can be in the way, and then have to be freed first.
    async fn change_content<T>(
        &self,
        inode: InodeNumber,
        mut body: impl FnMut(&mut Transaction<'_>) -> Result<T, FileError>,
    ) -> Reply<T> {
        match self.change(&mut body).await {
            Err(Errno::E2BIG) => {}
            done => return done,
        }
        while !self
            .change(|tx| tx.files().free_cuts(inode, FREE_BYTES))
            .await?
        {}
        self.change(body).await
    }

    /// Counts a reply that names the inode. Nothing may wait between finding the inode and this.
    pub(super) fn remember(&self, inode: InodeNumber) {
        if inode == ROOT {
            return;
        }
        let mut lookups = self.lookups.borrow_mut();
        let count = lookups.entry(inode).or_insert(0);
        if *count == 0 && !self.read_only {
            self.volume.hold(inode.0);
        }
        *count += 1;
    }

    pub(super) fn forget(&self, inode: InodeNumber, times: u64) {
        let mut lookups = self.lookups.borrow_mut();
        if let Some(count) = lookups.get_mut(&inode) {
            *count = count.saturating_sub(times);
            if *count == 0 {
                lookups.remove(&inode);
                if !self.read_only {
                    self.volume.unhold(inode.0);
                }
            }
        }
    }

    /// The kernel is gone, and does not take back what it was told.
    pub(super) fn forget_all(&self) {
        for (inode, _) in self.lookups.take() {
            if !self.read_only {
                self.volume.unhold(inode.0);
            }
        }
    }

    /// The inode that a name stands for; none when there is none, which the kernel may remember, too.
    pub(super) async fn lookup(&self, parent: InodeNumber, name: &[u8]) -> Reply<Option<Stat>> {
        let found = self.read(|tx| {
            let mut files = tx.files();
            match files.lookup(parent, name) {
                Ok(inode) => files.stat(inode).map(Some),
                Err(FileError::NotFound) => {
                    // Of a directory that is gone nothing is remembered.
                    files.stat(parent)?;
                    Ok(None)
                }
                Err(error) => Err(error),
            }
        });
        let found = found.await?;
        if let Some(stat) = &found {
            self.remember(stat.inode);
        }
        Ok(found)
    }

    pub(super) async fn stat(&self, inode: InodeNumber) -> Reply<Stat> {
        self.read(|tx| tx.files().stat(inode)).await
    }

    pub(super) async fn set_attributes(
        &self,
        inode: InodeNumber,
        attributes: SetAttributes,
    ) -> Reply<Stat> {
        self.change_content(inode, |tx| {
            tx.files().set_attributes(inode, &attributes)?;
            tx.files().stat(inode)
        })
        .await
    }

    pub(super) async fn read_link(&self, inode: InodeNumber) -> Reply<Vec<u8>> {
        self.read(|tx| tx.files().read_link(inode)).await
    }

    /// Makes something new. The kernel has applied the umask.
    pub(super) async fn create(
        &self,
        parent: InodeNumber,
        name: &[u8],
        new: NewInode,
    ) -> Reply<Stat> {
        let made = self.change(|tx| {
            let mut files = tx.files();
            let (mode, gid) = inherit(&files.stat(parent)?, new.kind, new.mode, new.gid);
            let new = NewInode {
                mode,
                gid,
                ..new.clone()
            };
            let inode = files.create(parent, name, &new)?;
            files.stat(inode)
        });
        let stat = made.await?;
        self.remember(stat.inode);
        Ok(stat)
    }

    pub(super) async fn link(
        &self,
        inode: InodeNumber,
        parent: InodeNumber,
        name: &[u8],
    ) -> Reply<Stat> {
        let linked = self.change(|tx| {
            tx.files().link(inode, parent, name)?;
            tx.files().stat(inode)
        });
        let stat = linked.await?;
        self.remember(inode);
        Ok(stat)
    }

    pub(super) async fn unlink(&self, parent: InodeNumber, name: &[u8]) -> Reply<()> {
        self.change(|tx| tx.files().unlink(parent, name)).await
    }

    pub(super) async fn rmdir(&self, parent: InodeNumber, name: &[u8]) -> Reply<()> {
        self.change(|tx| tx.files().rmdir(parent, name)).await
    }

    pub(super) async fn rename(
        &self,
        from: (InodeNumber, &[u8]),
        to: (InodeNumber, &[u8]),
        flags: fuser::RenameFlags,
    ) -> Reply<()> {
        let known = fuser::RenameFlags::RENAME_NOREPLACE | fuser::RenameFlags::RENAME_EXCHANGE;
        if !known.contains(flags) {
            return Err(Errno::EINVAL);
        }
        let flags = RenameFlags {
            no_replace: flags.contains(fuser::RenameFlags::RENAME_NOREPLACE),
            exchange: flags.contains(fuser::RenameFlags::RENAME_EXCHANGE),
        };
        self.change(|tx| tx.files().rename(from.0, from.1, to.0, to.1, flags))
            .await
    }

    pub(super) async fn read_data(
        &self,
        inode: InodeNumber,
        offset: u64,
        len: u32,
    ) -> Reply<Vec<u8>> {
        let len = usize::try_from(len).map_err(|_| Errno::EINVAL)?;
        self.read(|tx| tx.files().read(inode, offset, len)).await
    }

    /// Writes all of `bytes`, in one transaction unless the log of a small image takes no such large ones.
    pub(super) async fn write_data(
        &self,
        inode: InodeNumber,
        offset: u64,
        bytes: &[u8],
    ) -> Reply<u32> {
        let mut at = offset;
        for piece in bytes.chunks(piece_bytes(&self.volume)) {
            let written = self
                .change_content(inode, |tx| tx.files().write(inode, at, piece))
                .await;
            match written {
                Ok(()) => at += piece.len() as u64,
                // A part is a result; the next write gets the error.
                Err(_) if at > offset => break,
                Err(error) => return Err(error),
            }
        }
        u32::try_from(at - offset).map_err(|_| Errno::EINVAL)
    }

    pub(super) async fn fallocate(
        &self,
        inode: InodeNumber,
        offset: u64,
        length: u64,
        mode: i32,
    ) -> Reply<()> {
        const KEEP_SIZE: i32 = 1;
        const PUNCH_HOLE: i32 = 2;
        const ZERO_RANGE: i32 = 16;
        let keep_size = mode & KEEP_SIZE != 0;
        match mode & !KEEP_SIZE {
            0 => {
                self.change_content(inode, |tx| {
                    tx.files().allocate(inode, offset, length, keep_size)
                })
                .await
            }
            PUNCH_HOLE if keep_size => {
                self.change_content(inode, |tx| tx.files().punch(inode, offset, length))
                    .await
            }
            ZERO_RANGE => {
                self.change_content(inode, |tx| {
                    tx.files().punch(inode, offset, length)?;
                    tx.files().allocate(inode, offset, length, keep_size)
                })
                .await
            }
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    /// `lseek` to data or to a hole.
    pub(super) async fn seek(&self, inode: InodeNumber, offset: i64, data: bool) -> Reply<i64> {
        let mut from = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
        loop {
            match self.read(|tx| tx.files().seek(inode, from, data)).await? {
                Sought::At(place) => return i64::try_from(place).map_err(|_| Errno::ENXIO),
                Sought::Nowhere => return Err(Errno::ENXIO),
                Sought::Further(place) => from = place,
            }
            tokio::task::yield_now().await;
        }
    }

    pub(super) async fn copy_range(
        &self,
        from: (InodeNumber, u64),
        to: (InodeNumber, u64),
        len: u64,
    ) -> Reply<u32> {
        let len = len.min(COPY_BYTES_MAX);
        let piece = piece_bytes(&self.volume);
        let mut copied = 0;
        while copied < len {
            let count = usize::try_from(len - copied).unwrap_or(piece).min(piece);
            let step = self.change_content(to.0, |tx| {
                let bytes = tx.files().read(from.0, from.1 + copied, count)?;
                tx.files().write(to.0, to.1 + copied, &bytes)?;
                Ok(bytes.len() as u64)
            });
            match step.await {
                Ok(0) => break,
                Ok(count) => copied += count,
                Err(_) if copied > 0 => break,
                Err(error) => return Err(error),
            }
        }
        u32::try_from(copied).map_err(|_| Errno::EINVAL)
    }

    /// Entries of a directory behind `after`, what each stands for if `stats` are wanted, and where to go on.
    pub(super) async fn list(
        &self,
        directory: InodeNumber,
        after: u64,
        limit: usize,
        stats: bool,
    ) -> Reply<(Vec<(DirectoryEntry, Option<Stat>)>, Option<u64>)> {
        self.read(|tx| {
            let mut files = tx.files();
            let listing = files.read_dir(directory, after, limit)?;
            let entries = listing
                .entries
                .into_iter()
                .map(|entry| {
                    if !stats {
                        return Ok((entry, None));
                    }
                    let stat = match files.stat(entry.inode) {
                        Ok(stat) => Some(stat),
                        // Its name is still there; who asks for more will hear of it.
                        Err(FileError::Damaged { .. } | FileError::NotFound) => None,
                        Err(error) => return Err(error),
                    };
                    Ok((entry, stat))
                })
                .collect::<Result<_, FileError>>()?;
            Ok((entries, listing.next))
        })
        .await
    }

    pub(super) async fn parent(&self, directory: InodeNumber) -> Reply<InodeNumber> {
        match self.read(|tx| tx.files().parent(directory)).await {
            // Somebody still has a directory open that is gone.
            Err(Errno::ENOENT) => Ok(directory),
            other => other,
        }
    }

    /// Makes everything durable that was done before.
    pub(super) async fn sync(&self) -> Reply<()> {
        if self.read_only {
            return Ok(());
        }
        self.volume
            .wait_durable(self.volume.appended())
            .await
            .map_err(|_| Errno::EIO)
    }

    pub(super) async fn get_xattr(&self, inode: InodeNumber, name: &[u8]) -> Reply<Vec<u8>> {
        check_attribute(name)?;
        self.read(|tx| tx.files().get_xattr(inode, name)).await
    }

    pub(super) async fn set_xattr(
        &self,
        inode: InodeNumber,
        name: &[u8],
        value: &[u8],
        flags: i32,
    ) -> Reply<()> {
        check_attribute(name)?;
        let mode = match flags {
            0 => XattrMode::Any,
            1 => XattrMode::Create,
            2 => XattrMode::Replace,
            _ => return Err(Errno::EINVAL),
        };
        self.change(|tx| tx.files().set_xattr(inode, name, value, mode))
            .await
    }

    /// The names, each followed by a zero byte.
    pub(super) async fn list_xattrs(&self, inode: InodeNumber) -> Reply<Vec<u8>> {
        let names = self.read(|tx| tx.files().list_xattrs(inode)).await?;
        Ok(names
            .into_iter()
            .flat_map(|name| name.into_iter().chain([0]))
            .collect())
    }

    pub(super) async fn remove_xattr(&self, inode: InodeNumber, name: &[u8]) -> Reply<()> {
        check_attribute(name)?;
        self.change(|tx| tx.files().remove_xattr(inode, name)).await
    }

    pub(super) fn volume(&self) -> &Volume {
        &self.volume
    }
}

/// Access control lists are kept in attributes that the kernel would have to obey. It does not, so none are taken.
fn check_attribute(name: &[u8]) -> Reply<()> {
    if name.starts_with(b"system.") {
        return Err(Errno::EOPNOTSUPP);
    }
    Ok(())
}

/// What `mkdir`, `mknod`, `create` and `symlink` make for a caller.
pub(super) fn new_inode(kind: FileKind, mode: u16, caller: Caller) -> NewInode {
    NewInode {
        uid: caller.uid,
        gid: caller.gid,
        ..NewInode::new(kind, mode)
    }
}

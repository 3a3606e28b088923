//! From the kernel's requests, which arrive on fuser's thread, to the executor's.
//!
//! Each request becomes a closure in a channel; the executor runs each as a task of its own, so that an `fsync` that
//! waits for the disk does not hold up others. The channel is bounded: when the executor falls behind, fuser's
//! thread waits, and then the kernel does. A request that never gets to the executor, because it has ended, is
//! answered with `EIO` when its reply is dropped.

use std::ffi::OsStr;
use std::future::Future;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use lfs::{BLOCK_SIZE, FileKind, InodeNumber, NAME_BYTES_MAX, NewInode, SetAttributes, Stat};
use tokio::sync::mpsc::Sender;

use super::attributes::{
    device_number, file_attr, file_type, inode_of, kind_of_mode, permissions, time_ns, unknown,
};
use super::volume::{Caller, Mounted, Reply, new_inode};

/// Nobody but the kernel changes the files while they are mounted: what it knows stays right.
const REMEMBERED: Duration = Duration::from_hours(1);

/// Inode numbers are never used twice.
const GENERATION: Generation = Generation(0);

/// Every file is open under the same handle: inodes say all.
const HANDLE: FileHandle = FileHandle(0);

/// Largest piece that the kernel writes at once.
const WRITE_BYTES_MAX: u32 = 1 << 20;

/// Requests that the kernel has under way without anybody waiting for them, such as read-ahead.
const BACKGROUND_MAX: u16 = 64;

/// What `lseek` is asked for, in numbers of Linux.
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

/// Entries of a directory that one look into the tree takes.
const LIST_BATCH: usize = 128;

/// `.` and `..` are not in the tree. Their places in a listing come before all others.
const COOKIE_DOT: u64 = 1;
const COOKIE_DOT_DOT: u64 = 2;

/// What the executor does for one request.
pub(super) type Job =
    Box<dyn FnOnce(Rc<Mounted>) -> Pin<Box<dyn Future<Output = ()>>> + Send + 'static>;

/// The kernel's side of a mount.
pub(super) struct Bridge {
    jobs: Sender<Job>,
}

impl Bridge {
    pub(super) fn new(jobs: Sender<Job>) -> Self {
        Self { jobs }
    }

    fn send<F>(&self, job: impl FnOnce(Rc<Mounted>) -> F + Send + 'static)
    where
        F: Future<Output = ()> + 'static,
    {
        // An error drops the job, and with it the reply.
        let _ = self
            .jobs
            .blocking_send(Box::new(|mounted| Box::pin(job(mounted))));
    }
}

impl Filesystem for Bridge {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        for wanted in [
            InitFlags::FUSE_ASYNC_READ,
            InitFlags::FUSE_BIG_WRITES,
            InitFlags::FUSE_NO_OPEN_SUPPORT,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_CACHE_SYMLINKS,
        ] {
            // Each is only quicker where the kernel has it.
            let _ = config.add_capabilities(wanted);
        }
        let _ = config.set_max_write(WRITE_BYTES_MAX);
        let _ = config.set_max_background(BACKGROUND_MAX);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.as_bytes().to_vec();
        self.send(move |mounted| async move {
            match mounted.lookup(inode_of(parent), &name).await {
                Ok(Some(stat)) => reply.entry(&REMEMBERED, &file_attr(&stat), GENERATION),
                Ok(None) => {
                    let nothing = unknown(InodeNumber(0), FileKind::File);
                    reply.entry(&REMEMBERED, &nothing, GENERATION);
                }
                Err(error) => reply.error(error),
            }
        });
    }

    fn forget(&self, _: &Request, inode: INodeNo, times: u64) {
        self.send(move |mounted| async move { mounted.forget(inode_of(inode), times) });
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.send(move |mounted| async move { attr(reply, mounted.stat(inode_of(inode)).await) });
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let attributes = SetAttributes {
            mode: mode.map(permissions),
            uid,
            gid,
            size,
            atime_ns: atime.map(time_ns),
            mtime_ns: mtime.map(time_ns),
        };
        self.send(move |mounted| async move {
            attr(
                reply,
                mounted.set_attributes(inode_of(inode), attributes).await,
            );
        });
    }

    fn readlink(&self, _: &Request, inode: INodeNo, reply: ReplyData) {
        self.send(
            move |mounted| async move { data(reply, mounted.read_link(inode_of(inode)).await) },
        );
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let Some(kind) = kind_of_mode(mode) else {
            return reply.error(Errno::EINVAL);
        };
        let new = NewInode {
            device: device_number(rdev),
            ..new_inode(kind, permissions(mode), caller(request))
        };
        self.make(parent, name, new, reply);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let new = new_inode(FileKind::Directory, permissions(mode), caller(request));
        self.make(parent, name, new, reply);
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let new = NewInode {
            target: target.as_os_str().as_bytes().to_vec(),
            ..new_inode(FileKind::Symlink, 0o777, caller(request))
        };
        self.make(parent, name, new, reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes().to_vec();
        self.send(move |mounted| async move {
            empty(reply, mounted.unlink(inode_of(parent), &name).await);
        });
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes().to_vec();
        self.send(move |mounted| async move {
            empty(reply, mounted.rmdir(inode_of(parent), &name).await);
        });
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let name = name.as_bytes().to_vec();
        let new_name = new_name.as_bytes().to_vec();
        self.send(move |mounted| async move {
            let from = (inode_of(parent), name.as_slice());
            let to = (inode_of(new_parent), new_name.as_slice());
            empty(reply, mounted.rename(from, to, flags).await);
        });
    }

    fn link(
        &self,
        _: &Request,
        inode: INodeNo,
        new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        let name = new_name.as_bytes().to_vec();
        self.send(move |mounted| async move {
            let linked = mounted.link(inode_of(inode), inode_of(new_parent), &name);
            entry(reply, linked.await);
        });
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Opening needs nothing. Told so, the kernel does not ask again, and keeps what it has in its cache. It truncates
        // by itself, after it has made sure that it may: a program that runs is not truncated.
        reply.error(Errno::ENOSYS);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let name = name.as_bytes().to_vec();
        let new = new_inode(FileKind::File, permissions(mode), caller(request));
        self.send(move |mounted| async move {
            match mounted.create(inode_of(parent), &name, new).await {
                Ok(stat) => {
                    let attr = file_attr(&stat);
                    let flags = FopenFlags::FOPEN_KEEP_CACHE;
                    reply.created(&REMEMBERED, &attr, GENERATION, HANDLE, flags);
                }
                Err(error) => reply.error(error),
            }
        });
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.send(move |mounted| async move {
            data(
                reply,
                mounted.read_data(inode_of(inode), offset, size).await,
            );
        });
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        bytes: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let bytes = bytes.to_vec();
        self.send(move |mounted| async move {
            match mounted.write_data(inode_of(inode), offset, &bytes).await {
                Ok(count) => reply.written(count),
                Err(error) => reply.error(error),
            }
        });
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // Nothing is held back for close(). Told so, the kernel does not ask again.
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.send(move |mounted| async move { empty(reply, mounted.sync().await) });
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.send(move |mounted| async move { empty(reply, mounted.sync().await) });
    }

    fn readdir(
        &self,
        _: &Request,
        directory: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.send(move |mounted| async move {
            let listed = list(&mounted, inode_of(directory), offset, false, |entry| {
                reply.add(
                    INodeNo(entry.inode.0),
                    entry.cookie,
                    file_type(entry.kind),
                    OsStr::from_bytes(entry.name),
                )
            });
            match listed.await {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(error),
            }
        });
    }

    fn readdirplus(
        &self,
        _: &Request,
        directory: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        self.send(move |mounted| async move {
            let listed = list(&mounted, inode_of(directory), offset, true, |entry| {
                let (inode, attr) = match entry.stat {
                    Some(stat) => (entry.inode, file_attr(&stat)),
                    // A name without an inode that the kernel should remember.
                    None => (InodeNumber(0), unknown(entry.inode, entry.kind)),
                };
                let name = OsStr::from_bytes(entry.name);
                let inode_number = INodeNo(inode.0);
                let full = reply.add(
                    inode_number,
                    entry.cookie,
                    name,
                    &REMEMBERED,
                    &attr,
                    GENERATION,
                );
                if !full && entry.stat.is_some() {
                    mounted.remember(inode);
                }
                full
            });
            match listed.await {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(error),
            }
        });
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        self.send(move |mounted| async move {
            let usage = mounted.volume().usage();
            let block = BLOCK_SIZE as u64;
            let blocks = usage.capacity_bytes / block;
            let free = blocks.saturating_sub(usage.live_bytes.div_ceil(block));
            #[expect(clippy::cast_possible_truncation, reason = "both are small")]
            let (block, name_max) = (block as u32, NAME_BYTES_MAX as u32);
            // Inodes take what room they need; there is no number of them that is free.
            reply.statfs(blocks, free, free, 0, 0, block, name_max, block);
        });
    }

    fn setxattr(
        &self,
        _: &Request,
        inode: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        let (name, value) = (name.as_bytes().to_vec(), value.to_vec());
        self.send(move |mounted| async move {
            let set = mounted.set_xattr(inode_of(inode), &name, &value, flags);
            empty(reply, set.await);
        });
    }

    fn getxattr(&self, _: &Request, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = name.as_bytes().to_vec();
        self.send(move |mounted| async move {
            xattr(reply, size, mounted.get_xattr(inode_of(inode), &name).await);
        });
    }

    fn listxattr(&self, _: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        self.send(move |mounted| async move {
            xattr(reply, size, mounted.list_xattrs(inode_of(inode)).await);
        });
    }

    fn removexattr(&self, _: &Request, inode: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes().to_vec();
        self.send(move |mounted| async move {
            empty(reply, mounted.remove_xattr(inode_of(inode), &name).await);
        });
    }

    fn fallocate(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.send(move |mounted| async move {
            let done = mounted.fallocate(inode_of(inode), offset, length, mode);
            empty(reply, done.await);
        });
    }

    fn lseek(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let data = match whence {
            SEEK_DATA => true,
            SEEK_HOLE => false,
            _ => return reply.error(Errno::EINVAL),
        };
        self.send(move |mounted| async move {
            match mounted.seek(inode_of(inode), offset, data).await {
                Ok(offset) => reply.offset(offset),
                Err(error) => reply.error(error),
            }
        });
    }

    fn copy_file_range(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        to: INodeNo,
        _: FileHandle,
        to_offset: u64,
        len: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        self.send(move |mounted| async move {
            let (from, to) = ((inode_of(inode), offset), (inode_of(to), to_offset));
            match mounted.copy_range(from, to, len).await {
                Ok(count) => reply.written(count),
                Err(error) => reply.error(error),
            }
        });
    }
}

impl Bridge {
    fn make(&self, parent: INodeNo, name: &OsStr, new: NewInode, reply: ReplyEntry) {
        let name = name.as_bytes().to_vec();
        self.send(move |mounted| async move {
            entry(reply, mounted.create(inode_of(parent), &name, new).await);
        });
    }
}

/// One line of a listing.
struct Listed<'a> {
    cookie: u64,
    name: &'a [u8],
    inode: InodeNumber,
    kind: FileKind,
    stat: Option<Stat>,
}

/// Hands entries behind `offset` to `add` until that says that there is no room for one.
async fn list(
    mounted: &Mounted,
    directory: InodeNumber,
    offset: u64,
    stats: bool,
    mut add: impl FnMut(Listed<'_>) -> bool,
) -> Reply<()> {
    if offset < COOKIE_DOT_DOT {
        let parent = mounted.parent(directory).await?;
        for (cookie, name, inode) in [
            (COOKIE_DOT, b".".as_slice(), directory),
            (COOKIE_DOT_DOT, b"..".as_slice(), parent),
        ] {
            let dots = Listed {
                cookie,
                name,
                inode,
                kind: FileKind::Directory,
                stat: None,
            };
            if offset < cookie && add(dots) {
                return Ok(());
            }
        }
    }
    let mut after = Some(if offset <= COOKIE_DOT_DOT { 0 } else { offset });
    while let Some(cookie) = after {
        let (batch, next) = mounted.list(directory, cookie, LIST_BATCH, stats).await?;
        after = next;
        for (entry, stat) in &batch {
            let full = add(Listed {
                cookie: entry.cookie,
                name: &entry.name,
                inode: entry.inode,
                kind: entry.kind,
                stat: *stat,
            });
            if full {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn caller(request: &Request) -> Caller {
    Caller {
        uid: request.uid(),
        gid: request.gid(),
    }
}

fn empty(reply: ReplyEmpty, outcome: Reply<()>) {
    match outcome {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

fn entry(reply: ReplyEntry, outcome: Reply<Stat>) {
    match outcome {
        Ok(stat) => reply.entry(&REMEMBERED, &file_attr(&stat), GENERATION),
        Err(error) => reply.error(error),
    }
}

fn attr(reply: ReplyAttr, outcome: Reply<Stat>) {
    match outcome {
        Ok(stat) => reply.attr(&REMEMBERED, &file_attr(&stat)),
        Err(error) => reply.error(error),
    }
}

fn data(reply: ReplyData, outcome: Reply<Vec<u8>>) {
    match outcome {
        Ok(bytes) => reply.data(&bytes),
        Err(error) => reply.error(error),
    }
}

/// Of size 0 is asked how long the answer would be.
fn xattr(reply: ReplyXattr, size: u32, outcome: Reply<Vec<u8>>) {
    match outcome {
        Ok(bytes) => match u32::try_from(bytes.len()) {
            Ok(len) if size == 0 => reply.size(len),
            Ok(len) if len <= size => reply.data(&bytes),
            _ => reply.error(Errno::ERANGE),
        },
        Err(error) => reply.error(error),
    }
}

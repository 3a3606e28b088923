//! What `lfs` says of files in the kernel's words, and the other way round.

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};
use lfs::host::{now_ns, since_epoch_ns};
use lfs::{BLOCK_SIZE, FileKind, InodeNumber, Stat};

use crate::clock::system_time;

const SET_GROUP_ID: u16 = 0o2000;

/// The type bits of a mode.
const TYPE_BITS: u32 = 0o170_000;

pub(super) fn inode_of(number: INodeNo) -> InodeNumber {
    InodeNumber(number.0)
}

pub(super) fn file_attr(stat: &Stat) -> FileAttr {
    FileAttr {
        ino: INodeNo(stat.inode.0),
        size: stat.size,
        blocks: stat.allocated_bytes.div_ceil(512),
        atime: system_time(stat.atime_ns),
        mtime: system_time(stat.mtime_ns),
        ctime: system_time(stat.ctime_ns),
        crtime: system_time(stat.btime_ns),
        kind: file_type(stat.kind),
        perm: stat.mode,
        nlink: stat.links,
        uid: stat.uid,
        gid: stat.gid,
        rdev: kernel_device(stat.device),
        #[expect(clippy::cast_possible_truncation, reason = "a block is 4096 bytes")]
        blksize: BLOCK_SIZE as u32,
        flags: 0,
    }
}

/// Attributes of nothing that is known but number and kind; number 0 says that there is no such name, which the kernel
/// remembers for as long as an entry.
pub(super) fn unknown(inode: InodeNumber, kind: FileKind) -> FileAttr {
    FileAttr {
        ino: INodeNo(inode.0),
        size: 0,
        blocks: 0,
        atime: system_time(0),
        mtime: system_time(0),
        ctime: system_time(0),
        crtime: system_time(0),
        kind: file_type(kind),
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

pub(super) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

/// The kind that `mknod` asks for.
pub(super) fn kind_of_mode(mode: u32) -> Option<FileKind> {
    Some(match mode & TYPE_BITS {
        0o100_000 | 0 => FileKind::File,
        0o010_000 => FileKind::Fifo,
        0o140_000 => FileKind::Socket,
        0o020_000 => FileKind::CharDevice,
        0o060_000 => FileKind::BlockDevice,
        _ => return None,
    })
}

pub(super) fn permissions(mode: u32) -> u16 {
    u16::try_from(mode & 0o7777).unwrap_or_default()
}

/// Mode and group of something new in a directory: with its set-group-id bit set, the group is the directory's, and
/// directories hand the bit down.
pub(super) fn inherit(parent: &Stat, kind: FileKind, mode: u16, gid: u32) -> (u16, u32) {
    if parent.mode & SET_GROUP_ID == 0 {
        return (mode, gid);
    }
    let handed_down = if kind == FileKind::Directory {
        SET_GROUP_ID
    } else {
        0
    };
    (mode | handed_down, parent.gid)
}

/// `rdev` as FUSE sends it (`new_encode_dev`: 12 bits of major, 20 of minor) to a number as `makedev` makes it.
pub(super) fn device_number(rdev: u32) -> u64 {
    let major = (rdev & 0xfff00) >> 8;
    let minor = (rdev & 0xff) | ((rdev >> 12) & 0xfff00);
    rustix::fs::makedev(major, minor)
}

fn kernel_device(device: u64) -> u32 {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xfff00) << 12)
}

pub(super) fn time_ns(time: TimeOrNow) -> i64 {
    match time {
        TimeOrNow::SpecificTime(time) => since_epoch_ns(time),
        TimeOrNow::Now => now_ns(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_there_and_back() {
        for (major, minor) in [(0, 0), (1, 3), (8, 17), (4095, 0xfffff), (259, 300)] {
            let device = rustix::fs::makedev(major, minor);
            assert_eq!(device_number(kernel_device(device)), device);
        }
    }
}

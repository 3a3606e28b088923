//! Directories, links, and what a file is: FS.STAT, FS.SETATTR, FS.LS, FS.MKDIR, FS.RM, FS.MV, FS.LINK, FS.SYMLINK,
//! FS.READLINK.

use alloc::vec::Vec;

use lfs::{
    BlockDevice, FileError, FileKind, InodeNumber, NewInode, ROOT, RenameFlags, SetAttributes, Stat,
};

use super::{Files, existing, optional, signed};
use crate::command::failure::{self, Failure};
use crate::command::{Data, Outcome, integer, is};

/// Permission bits of a directory that a command creates.
const DIRECTORY_MODE: u16 = 0o755;
/// Names of one FS.LS when nobody says how many.
const COUNT_DEFAULT: usize = 100;
/// Names of one FS.LS at most, whatever its COUNT.
const COUNT_MAX: usize = 4096;

/// `FS.STAT path [NOFOLLOW]`
pub(super) fn stat<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let path = data.args.at(1);
    let follow = !flag(data, 2, "nofollow")?;
    let stat = data.files(|files| {
        let inode = files.resolve(path, follow)?;
        files.stat(inode)
    })?;
    reply_stat(data, &stat);
    Ok(())
}

fn reply_stat<D: BlockDevice>(data: &mut Data<'_, '_, D>, stat: &Stat) {
    let seconds = stat.mtime_ns.div_euclid(1_000_000_000);
    let numbers = [
        ("inode", signed(stat.inode.0)),
        ("size", signed(stat.size)),
        ("allocated", signed(stat.allocated_bytes)),
        ("mode", i64::from(stat.mode)),
        ("uid", i64::from(stat.uid)),
        ("gid", i64::from(stat.gid)),
        ("links", i64::from(stat.links)),
        ("device", stat.device.cast_signed()),
        ("mtime", seconds),
        ("atime_ns", stat.atime_ns),
        ("mtime_ns", stat.mtime_ns),
        ("ctime_ns", stat.ctime_ns),
        ("btime_ns", stat.btime_ns),
    ];
    let reply = &mut data.reply;
    reply.map(1 + numbers.len());
    reply.bulk(b"type");
    reply.bulk(kind_name(stat.kind).as_bytes());
    for (name, value) in numbers {
        reply.bulk(name.as_bytes());
        reply.integer(value);
    }
}

fn kind_name(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symlink",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
        FileKind::CharDevice => "chardevice",
        FileKind::BlockDevice => "blockdevice",
    }
}

/// `FS.SETATTR path [MODE octal] [UID n] [GID n] [ATIME ns] [MTIME ns]`
pub(super) fn set_attributes<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let path = data.args.at(1);
    let mut set = SetAttributes::default();
    let mut index = 2;
    while let Some(word) = data.args.get(index) {
        let value = data.args.get(index + 1).ok_or(failure::SYNTAX)?;
        let id = || u32::try_from(integer(value)?).map_err(|_| failure::NOT_AN_INTEGER);
        match () {
            () if is(word, "mode") => set.mode = Some(mode(value)?),
            () if is(word, "uid") => set.uid = Some(id()?),
            () if is(word, "gid") => set.gid = Some(id()?),
            () if is(word, "atime") => set.atime_ns = Some(integer(value)?),
            () if is(word, "mtime") => set.mtime_ns = Some(integer(value)?),
            () => return Err(failure::SYNTAX),
        }
        index += 2;
    }
    data.files(|files| {
        let inode = existing(files, path)?;
        files.set_attributes(inode, &set)
    })?;
    data.reply.ok();
    Ok(())
}

/// Permission bits in octal, as chmod has them.
fn mode(bytes: &[u8]) -> Result<u16, Failure> {
    let digits = core::str::from_utf8(bytes).ok();
    digits
        .filter(|digits| !digits.starts_with('+'))
        .and_then(|digits| u16::from_str_radix(digits, 8).ok())
        .filter(|mode| *mode <= 0o7777)
        .ok_or(Failure::of("ERR mode is not an octal number up to 7777"))
}

/// `FS.LS path [CURSOR cursor] [COUNT count]`
pub(super) fn list<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let path = data.args.at(1);
    let mut cursor = 0;
    let mut count = COUNT_DEFAULT;
    let mut index = 2;
    while let Some(word) = data.args.get(index) {
        let value = data.args.get(index + 1).ok_or(failure::SYNTAX)?;
        if is(word, "cursor") {
            let number = core::str::from_utf8(value).ok();
            let number = number.and_then(|number| number.parse::<u64>().ok());
            cursor = number.ok_or(Failure::of("ERR invalid cursor"))?;
        } else if is(word, "count") {
            let hint = integer(value)?;
            if hint < 1 {
                return Err(failure::SYNTAX);
            }
            count = usize::try_from(hint).unwrap_or(COUNT_MAX).min(COUNT_MAX);
        } else {
            return Err(failure::SYNTAX);
        }
        index += 2;
    }
    let listing = data.files(|files| {
        let directory = existing(files, path)?;
        files.read_dir(directory, cursor, count)
    })?;
    let next = listing.next.unwrap_or(0);
    let reply = &mut data.reply;
    reply.array(2);
    reply.bulk(itoa::Buffer::new().format(next).as_bytes());
    reply.array(listing.entries.len());
    for entry in &listing.entries {
        reply.bulk(&entry.name);
    }
    Ok(())
}

/// `FS.MKDIR path [PARENTS]`
pub(super) fn make_directory<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let path = data.args.at(1);
    let parents = flag(data, 2, "parents")?;
    data.files(|files| {
        if parents {
            return make_directories(files, path);
        }
        let (directory, name) = files.resolve_parent(path)?;
        create_directory(files, directory, name)?;
        Ok(())
    })?;
    data.reply.ok();
    Ok(())
}

fn create_directory(
    files: &mut Files<'_, '_>,
    directory: InodeNumber,
    name: &[u8],
) -> Result<InodeNumber, FileError> {
    let new = NewInode::new(FileKind::Directory, DIRECTORY_MODE);
    files.create(directory, name, &new)
}

/// Creates what is missing of a path, part by part.
fn make_directories(files: &mut Files<'_, '_>, path: &[u8]) -> Result<(), FileError> {
    let mut here = ROOT;
    // Empty paths, and those that are too long, are refused as everywhere.
    optional(files.resolve(path, true))?;
    if path.is_empty() {
        return Err(FileError::NotFound);
    }
    for part in path.split(|&byte| byte == b'/') {
        if part.is_empty() {
            continue;
        }
        here = match optional(files.resolve_from(here, part, true))? {
            Some(inode) => inode,
            None => create_directory(files, here, part)?,
        };
    }
    match files.kind(here)? {
        FileKind::Directory => Ok(()),
        _ => Err(FileError::Exists),
    }
}

/// `FS.RM path [RECURSIVE]`
pub(super) fn remove<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let path = data.args.at(1);
    let recursive = flag(data, 2, "recursive")?;
    data.files(|files| {
        let (directory, name) = files.resolve_parent(path)?;
        if recursive {
            return files.remove_tree(directory, name);
        }
        match files.unlink(directory, name) {
            Err(FileError::IsADirectory) => files.rmdir(directory, name),
            result => result,
        }
    })?;
    data.reply.ok();
    Ok(())
}

/// `FS.MV from to [NX | EXCHANGE]`
pub(super) fn rename<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let (from, to) = (data.args.at(1), data.args.at(2));
    let mut flags = RenameFlags::default();
    match (data.args.len(), data.args.get(3)) {
        (3, _) => {}
        (4, Some(word)) if is(word, "nx") => flags.no_replace = true,
        (4, Some(word)) if is(word, "exchange") => flags.exchange = true,
        _ => return Err(failure::SYNTAX),
    }
    data.files(|files| {
        let (directory, name) = files.resolve_parent(from)?;
        let (new_directory, new_name) = files.resolve_parent(to)?;
        if to.ends_with(b"/") {
            let inode = files.lookup(directory, name)?;
            if files.kind(inode)? != FileKind::Directory {
                return Err(FileError::NotADirectory);
            }
        }
        files.rename(directory, name, new_directory, new_name, flags)
    })?;
    data.reply.ok();
    Ok(())
}

/// `FS.LINK path new`
pub(super) fn link<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let (path, new) = (data.args.at(1), data.args.at(2));
    data.files(|files| {
        let inode = files.resolve(path, false)?;
        let (directory, name) = files.resolve_parent(new)?;
        if new.ends_with(b"/") {
            return Err(FileError::NotFound);
        }
        files.link(inode, directory, name)
    })?;
    data.reply.ok();
    Ok(())
}

/// `FS.SYMLINK target path`
pub(super) fn symlink<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let (target, path) = (data.args.at(1), data.args.at(2));
    data.files(|files| {
        let (directory, name) = files.resolve_parent(path)?;
        if path.ends_with(b"/") {
            return Err(FileError::NotFound);
        }
        files.create(directory, name, &NewInode::symlink(target))
    })?;
    data.reply.ok();
    Ok(())
}

/// `FS.READLINK path`
pub(super) fn read_link<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let path = data.args.at(1);
    let target: Vec<u8> = data.files(|files| {
        let inode = files.resolve(path, false)?;
        files.read_link(inode)
    })?;
    data.reply.bulk(&target);
    Ok(())
}

/// Whether argument `index`, the last one there may be, is there and is `word`.
fn flag<D: BlockDevice>(data: &Data<'_, '_, D>, index: usize, word: &str) -> Result<bool, Failure> {
    match (data.args.len().checked_sub(index), data.args.get(index)) {
        (Some(0) | None, _) => Ok(false),
        (Some(1), Some(given)) if is(given, word) => Ok(true),
        _ => Err(failure::SYNTAX),
    }
}

//! What is in files: FS.PUT, FS.GET, FS.READ, FS.WRITE, FS.APPEND, FS.TRUNCATE.

use alloc::vec::Vec;

use lfs::{BlockDevice, FileError, FileKind, InodeNumber, NewInode, ROOT};

use super::{Files, existing, offset, optional, signed};
use crate::command::failure::Failure;
use crate::command::{Data, Outcome};

/// Permission bits of a file that a command creates.
const FILE_MODE: u16 = 0o644;

/// Most symbolic links that the last part of a new file's path may lead through.
const SYMLINKS_MAX: u32 = 40;

const READ_TOO_LONG: Failure =
    Failure::of("ERR length exceeds maximum allowed size (proto-max-bulk-len)");
const GET_TOO_LONG: Failure = Failure::of(
    "EFBIG file exceeds maximum allowed size (proto-max-bulk-len), read it in parts with FS.READ",
);

/// `FS.PUT path data`
pub(super) fn put<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let (path, bytes) = (data.args.at(1), data.args.at(2));
    data.files(|files| {
        let inode = open_or_create(files, path)?;
        files.truncate(inode, 0)?;
        files.write(inode, 0, bytes)
    })?;
    data.reply.ok();
    Ok(())
}

/// `FS.GET path`
pub(super) fn get<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let path = data.args.at(1);
    let Some((inode, size)) = data.files(|files| {
        let Some(inode) = optional(existing(files, path))? else {
            return Ok(None);
        };
        Ok(Some((inode, files.size(inode)?)))
    })?
    else {
        data.reply.null();
        return Ok(());
    };
    let len = usize::try_from(size).unwrap_or(usize::MAX);
    if len > data.env.value_bytes_max() {
        return Err(GET_TOO_LONG);
    }
    reply_content(data, inode, 0, len)
}

/// `FS.READ path offset length`
pub(super) fn read<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let path = data.args.at(1);
    let (at, len) = (offset(data.args.at(2))?, offset(data.args.at(3))?);
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    if len > data.env.value_bytes_max() {
        return Err(READ_TOO_LONG);
    }
    let Some(inode) = data.files(|files| optional(existing(files, path)))? else {
        data.reply.null();
        return Ok(());
    };
    reply_content(data, inode, at, len)
}

/// Replies with a part of a file, unless the client may not be sent as much: then it need not be read at all.
fn reply_content<D: BlockDevice>(
    data: &mut Data<'_, '_, D>,
    inode: InodeNumber,
    at: u64,
    len: usize,
) -> Outcome {
    let room = data.reply.room();
    let Some(bytes) = data.files(|files| {
        let left = files.size(inode)?.saturating_sub(at);
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(len);
        if len > room {
            return Ok(None);
        }
        Ok(Some(files.read(inode, at, len)?))
    })?
    else {
        data.reply.overflow();
        return Ok(());
    };
    data.reply.bulk(&bytes);
    Ok(())
}

/// `FS.WRITE path offset data`
pub(super) fn write<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let (path, bytes) = (data.args.at(1), data.args.at(3));
    let at = offset(data.args.at(2))?;
    let size = data.files(|files| {
        let inode = open_or_create(files, path)?;
        files.write(inode, at, bytes)?;
        files.size(inode)
    })?;
    data.reply.integer(signed(size));
    Ok(())
}

/// `FS.APPEND path data`
pub(super) fn append<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let (path, bytes) = (data.args.at(1), data.args.at(2));
    let size = data.files(|files| {
        let inode = open_or_create(files, path)?;
        let size = files.size(inode)?;
        files.write(inode, size, bytes)?;
        files.size(inode)
    })?;
    data.reply.integer(signed(size));
    Ok(())
}

/// `FS.TRUNCATE path size`
pub(super) fn truncate<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let path = data.args.at(1);
    let size = offset(data.args.at(2))?;
    data.files(|files| {
        let inode = existing(files, path)?;
        files.truncate(inode, size)
    })?;
    data.reply.ok();
    Ok(())
}

/// The file that a path leads to; it is created when there is none, also where a symbolic link points at nothing.
fn open_or_create(files: &mut Files<'_, '_>, path: &[u8]) -> Result<InodeNumber, FileError> {
    let mut start = ROOT;
    let mut path = Vec::from(path);
    for _ in 0..SYMLINKS_MAX {
        if let Some(inode) = optional(files.resolve_from(start, &path, true))? {
            return Ok(inode);
        }
        let (directory, name) = files.resolve_parent_from(start, &path)?;
        let Some(link) = optional(files.lookup(directory, name))? else {
            if path.ends_with(b"/") {
                return Err(FileError::IsADirectory);
            }
            return files.create(directory, name, &NewInode::new(FileKind::File, FILE_MODE));
        };
        // A symbolic link to what is not there.
        path = files.read_link(link)?;
        start = directory;
    }
    Err(FileError::LinkLoop)
}

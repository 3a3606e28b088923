//! Extended attributes: FS.SETXATTR, FS.GETXATTR, FS.LISTXATTR, FS.DELXATTR.

use lfs::{BlockDevice, FileError, XattrMode};

use super::existing;
use crate::command::{Data, Outcome, failure, is};

/// `FS.SETXATTR path name value [NX | XX]`
pub(super) fn set<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let (path, name, value) = (data.args.at(1), data.args.at(2), data.args.at(3));
    let mode = match (data.args.len(), data.args.get(4)) {
        (4, _) => XattrMode::Any,
        (5, Some(word)) if is(word, "nx") => XattrMode::Create,
        (5, Some(word)) if is(word, "xx") => XattrMode::Replace,
        _ => return Err(failure::SYNTAX),
    };
    let set = data.files(|files| {
        let inode = existing(files, path)?;
        match files.set_xattr(inode, name, value, mode) {
            Ok(()) => Ok(true),
            Err(FileError::Exists | FileError::NoAttribute) => Ok(false),
            Err(error) => Err(error),
        }
    })?;
    if set {
        data.reply.ok();
    } else {
        data.reply.null();
    }
    Ok(())
}

/// `FS.GETXATTR path name`
pub(super) fn get<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let (path, name) = (data.args.at(1), data.args.at(2));
    let value = data.files(|files| {
        let inode = existing(files, path)?;
        match files.get_xattr(inode, name) {
            Err(FileError::NoAttribute) => Ok(None),
            value => value.map(Some),
        }
    })?;
    match value {
        Some(value) => data.reply.bulk(&value),
        None => data.reply.null(),
    }
    Ok(())
}

/// `FS.LISTXATTR path`
pub(super) fn list<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let path = data.args.at(1);
    let names = data.files(|files| {
        let inode = existing(files, path)?;
        files.list_xattrs(inode)
    })?;
    data.reply.array(names.len());
    for name in &names {
        data.reply.bulk(name);
    }
    Ok(())
}

/// `FS.DELXATTR path name [name ...]`
pub(super) fn remove<D: BlockDevice>(data: &mut Data<'_, '_, D>) -> Outcome {
    let (path, args) = (data.args.at(1), data.args);
    let removed = data.files(|files| {
        let inode = existing(files, path)?;
        let mut removed = 0;
        for name in args.from(2) {
            match files.remove_xattr(inode, name) {
                Ok(()) => removed += 1,
                Err(FileError::NoAttribute) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    })?;
    data.reply.count(removed);
    Ok(())
}

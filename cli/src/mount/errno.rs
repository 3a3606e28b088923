//! What the kernel is told when something does not work: one table.

use fuser::Errno;
use lfs::FileError;

/// The number of an error.
pub(super) fn errno(error: &FileError) -> Errno {
    match error {
        FileError::NotFound => Errno::ENOENT,
        FileError::Exists => Errno::EEXIST,
        FileError::NotADirectory => Errno::ENOTDIR,
        FileError::IsADirectory => Errno::EISDIR,
        FileError::NotEmpty => Errno::ENOTEMPTY,
        FileError::NameTooLong => Errno::ENAMETOOLONG,
        FileError::Invalid => Errno::EINVAL,
        FileError::LinkLoop => Errno::ELOOP,
        FileError::TooManyLinks => Errno::EMLINK,
        FileError::NotPermitted => Errno::EPERM,
        FileError::FileTooLarge => Errno::EFBIG,
        FileError::NoAttribute => Errno::ENODATA,
        FileError::AttributeTooLarge => Errno::ERANGE,
        FileError::NoSpace => Errno::ENOSPC,
        FileError::TransactionTooLarge => Errno::E2BIG,
        FileError::Conflict => Errno::EAGAIN,
        FileError::ReadOnly => Errno::EROFS,
        FileError::OutOfMemory => Errno::ENOMEM,
        // Damage, a failed device, a fault nobody resolved, and whatever else there may be one day.
        _ => Errno::EIO,
    }
}

//! What can go wrong.

use alloc::boxed::Box;
use alloc::vec::Vec;

use lfs::{MountError, ObjectId, ObjectReadError};

use crate::{Fault, Timestamp};

/// Why a commit was refused. Nothing of it happened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// The memory limit is reached and the transaction would grow the data. Deletes still commit.
    #[error("the memory limit is reached")]
    OutOfMemory,
    /// The disk has no room for it. Deletes still commit.
    #[error("no space left on the device")]
    DiskFull,
    /// The disk has no room for what files would grow by. Removing files still commits.
    #[error("no space left on the device for files")]
    FilesFull,
    /// Something must be loaded first ([`Store::load_all`](crate::Store::load_all)); then run the transaction again.
    #[error("something is not in memory")]
    Fault(Vec<Fault>),
    /// Only with files: what the commit touches cannot be read.
    #[error(transparent)]
    Files(Box<lfs::FileError>),
    /// The transaction is larger than [`Limits::commit_bytes_max`](crate::Limits::commit_bytes_max).
    #[error("the transaction is too large")]
    TooLarge,
    /// The log is busy: wait with [`Store::admit`](crate::Store::admit) and run the transaction again.
    #[error("the log has no room at the moment")]
    Busy,
    /// Another transaction committed since this one began, which its caller held over an await.
    #[error("another transaction committed first")]
    Conflict,
    /// A write or flush failed earlier, or the store is closing; nothing more is taken until it is
    /// opened anew.
    #[error("the store is read-only")]
    ReadOnly,
}

/// Durability cannot be had: a write or flush failed. What was not durable by then is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("durability was lost: a write or flush failed")]
pub struct DurabilityLost;

/// Why a store could not be opened. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file system could not be mounted.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// A sorted run could not be read.
    #[error(transparent)]
    Run(#[from] ObjectReadError),
    /// The list of sorted runs is not one.
    #[error("the checkpoint's list of sorted runs is damaged")]
    DamagedManifest,
    /// A sorted run is intact, but what it holds makes no sense.
    #[error("sorted run {} holds what no run can hold", .0.0)]
    DamagedRun(ObjectId),
    /// A commit is intact, but what it holds makes no sense.
    #[error("commit {} holds what no commit can hold", .0.0)]
    DamagedCommit(Timestamp),
    /// The log does not go back to the commit that was asked for, or not on to it.
    #[error("the log keeps the states from commit {} to {} only", oldest.0, newest.0)]
    NotRetained {
        /// The oldest commit whose state it has.
        oldest: Timestamp,
        /// The newest one.
        newest: Timestamp,
    },
    /// The data needs more memory than [`Options::open_memory_bytes_max`](crate::Options::open_memory_bytes_max).
    #[error("the data needs more than the {limit} bytes of memory there are for it")]
    OutOfMemory {
        /// The limit.
        limit: usize,
    },
}

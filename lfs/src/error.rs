//! What can go wrong, one enum per operation: the caller's mistake, the environment, or damage.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use crate::{BlockIndex, CommitNumber, DeviceError, ItemKey, ItemKind, KeyError, ObjectId};

/// The log takes no more commits: a write or flush failed, or the file system is closing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the log is read-only until the next mount")]
pub struct ReadOnly;

/// Why a commit was not taken. Nothing of it happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// Larger than [`FileSystem::commit_bytes_max`](crate::FileSystem::commit_bytes_max).
    #[error("the commit is larger than the log takes at once")]
    TooLarge,
    /// The log has no room at the moment; [`FileSystem::admit`](crate::FileSystem::admit) waits for some.
    #[error("the log has no room until a checkpoint is made")]
    NoRoom,
    /// Not enough memory to queue it.
    #[error("not enough memory to queue the commit")]
    OutOfMemory,
    /// See [`ReadOnly`].
    #[error("the log is read-only until the next mount")]
    ReadOnly,
}

/// Why an object could not be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectWriteError {
    /// No free segment is left for objects.
    #[error("no space left on the device")]
    Full,
    /// Not enough memory for a chunk or a write.
    #[error("not enough memory to write an object")]
    OutOfMemory,
    /// A chunk of nothing, or of more than [`CHUNK_BYTES_MAX`](crate::CHUNK_BYTES_MAX): a mistake of the caller's.
    #[error("a chunk holds 1 to 131072 bytes")]
    ChunkLength,
    /// The device failed; the log is read-only from here on.
    #[error("the device failed: {0}")]
    Device(DeviceError),
    /// An earlier write of this object was abandoned or failed.
    #[error("an earlier write of this object failed")]
    Failed,
}

/// Why an object, or a chunk of it, could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectReadError {
    /// No checkpoint names it.
    #[error("no such object")]
    NotFound,
    /// A chunk cannot be there in this object, whatever is on the disk: whoever named it is mistaken, or was told so by what is damaged.
    #[error("the object has no such chunk")]
    NoChunk,
    /// The device failed.
    #[error("the device failed: {0}")]
    Device(DeviceError),
    /// What is on the disk is not what was written.
    #[error("object {} is damaged at block {}", object.0, block.0)]
    Damaged {
        /// The object.
        object: ObjectId,
        /// Where the bad chunk begins.
        block: BlockIndex,
    },
    /// Not enough memory for a chunk.
    #[error("not enough memory to read an object")]
    OutOfMemory,
}

/// Why a checkpoint was not made. The one before stays in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The horizon is beyond what is durable, or an object is unknown: a mistake of the caller's.
    #[error("the checkpoint names something that is not there")]
    Invalid,
    /// It does not fit into its slot, or memory did not suffice to build it.
    #[error("the checkpoint is too large")]
    TooLarge,
    /// There is no free segment for tree nodes.
    #[error("no free segment for tree nodes")]
    NoSpace,
    /// See [`ReadOnly`].
    #[error("the log is read-only until the next mount")]
    ReadOnly,
}

impl From<ReadOnly> for CheckpointError {
    fn from(_: ReadOnly) -> Self {
        Self::ReadOnly
    }
}

/// Why a device cannot be formatted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// Smaller than [`DEVICE_BYTES_MIN`](crate::DEVICE_BYTES_MIN), or the options do not fit it.
    #[error("the device is too small for these options (at least 8 MiB are needed)")]
    TooSmall,
    /// The log between two checkpoints would be smaller or larger than it can be, or more than a third of the device.
    #[error(
        "the replay window must be {bytes_min} to {bytes_max} bytes with these segments, and at most a third of the device"
    )]
    ReplayWindow {
        /// The smallest there can be with segments of that size.
        bytes_min: u64,
        /// The largest.
        bytes_max: u64,
    },
    /// The device failed.
    #[error("the device failed: {0}")]
    Device(DeviceError),
    /// Not enough memory.
    #[error("not enough memory")]
    OutOfMemory,
    /// The key cannot be one.
    #[error("key: {0}")]
    Key(KeyError),
}

impl From<DeviceError> for ObjectReadError {
    fn from(error: DeviceError) -> Self {
        Self::Device(error)
    }
}

impl From<DeviceError> for FormatError {
    fn from(error: DeviceError) -> Self {
        Self::Device(error)
    }
}

/// A structure on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Structure {
    /// Both copies of the superblock.
    Superblock,
    /// Both checkpoints, or what a valid one says.
    Checkpoint,
    /// A commit group that is known to have been durable.
    CommitGroup,
    /// A node of the tree.
    Node,
    /// An item in a node that is itself intact.
    Item,
    /// A piece of file data.
    Extent,
    /// A block of the segment table.
    SegmentTable,
    /// A record of a backup.
    Backup,
    /// Both copies of the key slots.
    KeySlots,
}

impl core::fmt::Display for Structure {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Superblock => "superblock",
            Self::Checkpoint => "checkpoint",
            Self::CommitGroup => "commit group",
            Self::Node => "tree node",
            Self::Item => "item",
            Self::Extent => "file data",
            Self::SegmentTable => "segment table",
            Self::Backup => "backup",
            Self::KeySlots => "key slots",
        })
    }
}

/// Why a device cannot be mounted. Nothing was written to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// There is no file system of ours on it.
    #[error("no Siltstone file system on this device")]
    NotFound,
    /// It is ours, but of a version or with features this code does not know.
    #[error("format version {version} (features {features:#x}) is not known")]
    Unknown {
        /// Format version found.
        version: u32,
        /// Feature bits that must be known to go on.
        features: u64,
    },
    /// Acknowledged data is damaged. Mounting would lose it silently, so it is refused.
    #[error("damaged {structure} at block {}", block.0)]
    Damaged {
        /// What is damaged.
        structure: Structure,
        /// Where.
        block: BlockIndex,
    },
    /// The device failed.
    #[error("the device failed: {0}")]
    Device(DeviceError),
    /// The device has become smaller than the file system on it, or is a copy that was cut short.
    #[error(
        "the device is smaller than the file system on it: {device_bytes} bytes, where {needed_bytes} are needed"
    )]
    DeviceTooSmall {
        /// Bytes that the file system spans.
        needed_bytes: u64,
        /// Bytes there are.
        device_bytes: u64,
    },
    /// Not enough memory.
    #[error("not enough memory to mount")]
    OutOfMemory,
    /// It opens only with its key, and that was not given.
    #[error("{0}")]
    Key(KeyError),
}

/// Why the secrets of a file system could not be told or changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyAccessError {
    /// It cannot be unlocked or read.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The change cannot be made.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl From<DeviceError> for MountError {
    fn from(error: DeviceError) -> Self {
        Self::Device(error)
    }
}

impl From<crate::BufferAllocError> for MountError {
    fn from(_: crate::BufferAllocError) -> Self {
        Self::OutOfMemory
    }
}

/// What a transaction that lost a race has to do with what the winner changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConflictKind {
    /// It changed it, too.
    Write,
    /// It read it, or found nothing there.
    Read,
    /// It came through that directory, which has been removed or moved since.
    Passage,
}

/// Why an open transaction cannot be committed: something that others changed since it began.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Conflict {
    /// What it has to do with that.
    pub kind: ConflictKind,
    /// What was changed. Its object is an inode: of a name ([`ItemKind::Entry`]) the directory.
    pub key: ItemKey,
    /// The name, if it is one and known.
    pub name: Option<Vec<u8>>,
    /// The commit that changed it last.
    pub by: CommitNumber,
}

impl Conflict {
    pub(crate) fn new(kind: ConflictKind, key: ItemKey, by: CommitNumber) -> Self {
        Self {
            kind,
            key,
            name: None,
            by,
        }
    }
}

impl core::fmt::Display for Conflict {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let object = self.key.object;
        f.write_str("another transaction got there first: ")?;
        match (&self.name, self.key.kind) {
            (Some(name), _) => {
                let name = String::from_utf8_lossy(name);
                write!(f, "name {name:?} in directory {object}")?;
            }
            (None, ItemKind::Entry) => write!(f, "a name in directory {object}")?,
            _ => write!(f, "inode {object}")?,
        }
        write!(f, " was changed by commit {}", self.by.0)
    }
}

/// Why an operation on files did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// Something has to be loaded first; not an error to report. See [`Fault`](crate::Fault).
    #[error("something is not in memory")]
    Fault(crate::Fault),
    /// `ENOENT`.
    #[error("no such file or directory")]
    NotFound,
    /// `EEXIST`.
    #[error("file exists")]
    Exists,
    /// `ENOTDIR`.
    #[error("not a directory")]
    NotADirectory,
    /// `EISDIR`.
    #[error("is a directory")]
    IsADirectory,
    /// `ENOTEMPTY`.
    #[error("directory not empty")]
    NotEmpty,
    /// `ENAMETOOLONG`.
    #[error("name or path too long")]
    NameTooLong,
    /// `EINVAL`: a name that cannot be one, a directory moved into itself, an offset out of range.
    #[error("invalid argument")]
    Invalid,
    /// `ELOOP`.
    #[error("too many levels of symbolic links")]
    LinkLoop,
    /// `EMLINK`.
    #[error("too many links")]
    TooManyLinks,
    /// `EPERM`: what is not allowed, such as a hard link to a directory.
    #[error("operation not permitted")]
    NotPermitted,
    /// `EFBIG`.
    #[error("file too large")]
    FileTooLarge,
    /// `ENODATA`: no such extended attribute.
    #[error("no such attribute")]
    NoAttribute,
    /// `ERANGE` / `E2BIG`: an attribute larger than attributes may be.
    #[error("attribute too large")]
    AttributeTooLarge,
    /// `ENOSPC`.
    #[error("no space left on the device")]
    NoSpace,
    /// The transaction holds more than one commit takes, or touches more of the trees than may change between two checkpoints.
    #[error("the transaction is larger than the log takes at once, or touches too much")]
    TransactionTooLarge,
    /// Somebody else committed something this transaction depends on.
    #[error("another transaction got there first")]
    Conflict,
    /// The same, of an open transaction, with what it was.
    #[error("{0}")]
    ConflictOn(Box<Conflict>),
    /// An open transaction was ended, for want of space or memory or because somebody said so. What it did is gone.
    #[error("the transaction was ended")]
    TransactionEnded,
    /// No more transactions can be open at once.
    #[error("too many open transactions")]
    TooManyTransactions,
    /// `EROFS`: see [`ReadOnly`]; also writes to a snapshot.
    #[error("read-only file system")]
    ReadOnly,
    /// The state of that commit is not kept: it is neither the newest nor a snapshot's.
    #[error("the files of that commit are not kept")]
    NotRetained,
    /// `ENOMEM`.
    #[error("not enough memory")]
    OutOfMemory,
    /// `EIO`: the device failed.
    #[error("the device failed: {0}")]
    Device(DeviceError),
    /// `EIO`: what is on the disk is not what was written.
    #[error("damaged {structure} at block {}", block.0)]
    Damaged {
        /// What is damaged.
        structure: Structure,
        /// Where.
        block: BlockIndex,
    },
    /// `EIO`: bytes of what is read are not what was written. All others can be read.
    #[error("damaged file data, bytes {} to {}, block {}", bytes.start, bytes.end, block.0)]
    DamagedData {
        /// The first damaged bytes that the read meets, in whole units of 4 KiB where these can be told apart.
        bytes: Range<u64>,
        /// Where what holds them begins.
        block: BlockIndex,
    },
}

impl From<crate::Fault> for FileError {
    fn from(fault: crate::Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<ReadOnly> for FileError {
    fn from(_: ReadOnly) -> Self {
        Self::ReadOnly
    }
}

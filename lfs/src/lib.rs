//! The log-structured file system of Siltstone.
//!
//! One log on one device, or on two that mirror each other, holds everything. From the bottom up:
//!
//! - [`BlockDevice`], [`Buffer`], [`Mirror`]: the disk as we assume it, memory it may work on, and two disks as one;
//! - `layout`, [`FileSystemId`], `superblock`: every fixed structure on disk (`SPEC.md` has the tables);
//! - `seal`, `compress`, [`Compression`], `extent_codec`: what is stored, checked, encrypted, and smaller;
//! - `segments`, `heads`: which parts of the disk are free, and where what is written next;
//! - `group`, `gather`, `cursor`, `log`: commits become groups, one write and one flush each;
//! - `object`: immutable streams that own whole segments, for sorted runs of the layer above;
//! - `tree`, `volume`: the trees of items, and how commits change them;
//! - `checkpoint`, `checkpointing`, [`Recovery`]: where replay begins, and how a mount tells a torn tail from damage;
//! - `cleaner`, `cold`, `history`: space comes back;
//! - [`Transaction`], `files`: what one sees and changes, and its commit; [`Namespace`]: files and directories on that;
//! - `open`: transactions that stay open while others commit, and what they conflict on;
//! - `seal`, `unlock`: checksums, encryption, and who may open what;
//! - [`FileSystem`]: all of it, mounted;
//! - [`check()`], [`repair()`], [`dump()`]: all of it, looked at from outside; [`FileSystem::scrub`] verifies it in use;
//! - `backup`: a snapshot as a stream, and back.
//!
//! `DESIGN.md` says why it is so and argues each crash case.
//!
//! Not here: keys, the network, ArceOS. Time and randomness come in as
//! arguments. Everything runs on one thread and waits only in futures.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

#[cfg(feature = "sim")]
mod audit;
mod backup;
mod buffer;
mod changes;
mod check;
mod checkpoint;
mod checkpointing;
mod cleaner;
mod cold;
mod compress;
mod compression;
mod copies;
mod cursor;
mod device;
mod dump;
mod error;
mod extent;
mod extent_codec;
mod fault;
mod files;
mod filesystem;
mod format;
mod gather;
mod group;
mod growth;
mod heads;
mod history;
mod item;
mod layout;
mod log;
mod maintenance;
mod mending;
mod mirror;
mod namespace;
mod notify;
mod object;
mod open;
mod read_ahead;
mod record;
mod recovery;
mod replay;
mod scrub;
mod seal;
mod segments;
#[cfg(feature = "sim")]
pub mod sim;
mod superblock;
mod transaction;
mod tree;
mod unlock;
mod varint;
mod view;
mod volume;
mod write_set;

#[cfg(feature = "sim")]
pub use audit::{Audit, Contradiction};
pub use backup::{
    BackupError, BackupFrame, BackupId, BackupPosition, BackupRange, BackupSection, BackupToken,
    BackupVerifier, FRAME_HEADER_BYTES, FRAME_PAYLOAD_BYTES_MAX, encode_frame, frame_bytes,
};
pub use buffer::{BLOCK_SIZE, Buffer, BufferAllocError};
pub use changes::FileChanges;
pub use check::{
    CheckEvent, CheckOptions, Finding, NodeDefect, Part as CheckedPart, Problem, Repair,
    RepairError, RepairOutcome, Severity, Summary as CheckSummary, check, repair,
};
pub use compress::{Algorithm, DecompressError, compress, decompress, decompress_into};
pub use compression::Compression;
pub use device::{Advice, BlockDevice, BlockIndex, Clock, DeviceError, DeviceGeometry};
pub use dump::{DumpEvent, DumpOptions, DumpRecord, dump};
pub use error::{
    AppendError, CheckpointError, Conflict, ConflictKind, FileError, FormatError, KeyAccessError,
    MountError, ObjectReadError, ObjectWriteError, ReadOnly, Structure,
};
pub use extent_codec::{
    EXTENT_BYTES_MAX, Encoding, ExtentCut, ExtentError, ExtentIdentity, ExtentRanges, ExtentShape,
    StoredExtent, UNIT_BYTES, encode as encode_extent,
};
pub use fault::{Fault, NodePointer, StoredRange, SuspectData};
pub use files::CommitStop;
pub use filesystem::FileSystem;
pub use format::{
    Content, DEVICE_BYTES_MIN, FormatOptions, finish_format, format, format_encrypted,
    format_encrypted_unfinished, format_unfinished, probe,
};
pub use growth::Span;
pub use item::{ITEM_BYTES_MAX, ItemKey, ItemKind};
pub use mirror::{CommonPart, MemberState, Mirror, MirrorError, MirrorStatus, Side};
pub use namespace::{
    ATTRIBUTE_BYTES_MAX, ATTRIBUTE_NAMES_BYTES_MAX, Description, DirectoryEntry, FILE_BYTES_MAX,
    FileKind, InodeNumber, LINKS_MAX, NAME_BYTES_MAX, Namespace, NewInode, Orphan, PATH_BYTES_MAX,
    ROOT, RenameFlags, SetAttributes, Stat, XattrMode, describe_item, is_position_of,
};
pub use notify::Notify;
pub use object::{ObjectReader, ObjectWriter};
pub use open::{
    Isolation, OPEN_TRANSACTIONS_MAX, OpenTransaction, OpenTransactionInfo, OpenTransactions,
    TransactionId,
};
pub use recovery::Recovery;
pub use scrub::{ScrubError, ScrubOptions, ScrubStatus};
pub use seal::{
    DataKey, KEY_SLOT_BYTES, KEY_SLOT_COUNT, KdfCost, KeyError, KeySlots, Purpose, Random, Seal,
    SealDamaged, Sealer, Secret, Suite,
};
pub use superblock::FileSystemId;
pub use transaction::{SnapshotId, SnapshotInfo, Transaction};
pub use unlock::{
    Encryption, Entropy, KeyChange, KeySlotInfo, Unlock, change_keys, key_slots, verify_key,
};
pub use view::View;
pub use write_set::Loaded;

/// Number of a commit: its place in the log. The first one is 1; 0 means "before everything".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct CommitNumber(pub u64);

/// Number of an object. Never used twice in the life of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(pub u64);

/// What a mounted file system has done since it was mounted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Commits taken.
    pub commits: u64,
    /// Commit groups that became durable.
    pub groups: u64,
    /// Flushes sent to the device.
    pub flushes: u64,
    /// Bytes written to the device: groups, objects, checkpoints.
    pub bytes_written: u64,
    /// Bytes read to replay the log.
    pub bytes_read: u64,
    /// Checkpoints made.
    pub checkpoints: u64,
    /// Commits replayed at the mount.
    pub replayed_commits: u64,
    /// Segments that the cleaner went through.
    pub segments_cleaned: u64,
    /// Bytes the cleaner read.
    pub bytes_cleaned_read: u64,
    /// Bytes the cleaner wrote; part of `bytes_written`.
    pub bytes_cleaned_written: u64,
    /// Bytes by which cold data became smaller when the cleaner moved them.
    pub bytes_saved_cold: u64,
}

/// How a device is divided up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Objects take whole segments of this size.
    pub segment_bytes: u64,
    /// Room for objects, used or not.
    pub object_bytes_max: u64,
    /// Room for objects that is free.
    pub object_bytes_free: u64,
    /// Room set aside for the log.
    pub log_bytes_max: u64,
    /// What the log holds at most when a checkpoint is made: an object that takes over what it says
    /// is no larger but for what its own form adds.
    pub replay_bytes_max: u64,
    /// Bytes that are meant: objects, files, and the trees.
    pub live_bytes: u64,
    /// What `live_bytes` may come to.
    pub capacity_bytes: u64,
}

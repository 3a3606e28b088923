//! The log-structured file system of Siltstone.
//!
//! One log on one device, or on two that mirror each other, holds everything. The folders, from the bottom up:
//!
//! - `disk`: the disk as we assume it ([`BlockDevice`]), memory it may work on ([`Buffer`]), every fixed structure on it
//!   (`SPEC.md` has the tables), and two disks as one ([`Mirror`]);
//! - `seal`: checksums, encryption, and what opens it;
//! - `extent`: file data as they are stored, checked and compressed;
//! - `space`: which parts of the disk are free, where what is written next, and how space comes back (`space::cleaner`);
//! - `log`: commits become groups, one write and one flush each, and come back out of them in replay;
//! - `tree`: the trees of items;
//! - `checkpoint`: where replay begins; `object`: objects of the layer above, immutable rows of chunks, which it names;
//! - `transaction`: what one sees and changes ([`Transaction`]), and how its commit changes the trees;
//!   `transaction::open`: those that stay open while others commit, and what they conflict on;
//! - `namespace`: files and directories on that ([`Namespace`]);
//! - `mount`: a file system is made, unlocked, and mounted ([`Recovery`] tells a torn tail from damage); [`FileSystem`]:
//!   all of it, mounted, and what it does in the background;
//! - `check`: all of it, looked at from outside ([`check()`], [`repair()`], [`dump()`]) and verified in use
//!   ([`FileSystem::scrub`]);
//! - `backup`: a snapshot as a stream, and back;
//! - `host` (a feature): images on Linux, for programs that work on them there;
//! - `sim`: a disk that loses its power, and a seeded executor, for tests of every layer.
//!
//! Beside them is what all of them share: `error`, `fault` (what has to be done before an operation can go on), `notify`,
//! `together` (futures under way at once), [`varint`].
//!
//! `DESIGN.md` says why it is so and argues each crash case.
//!
//! Not here: keys, the network, ArceOS. Time and randomness come in as
//! arguments. Everything runs on one thread and waits only in futures.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(feature = "host")]
extern crate std;

mod backup;
mod check;
mod checkpoint;
mod counted;
mod disk;
mod error;
mod extent;
mod fault;
#[cfg(feature = "host")]
pub mod host;
mod log;
mod mount;
mod namespace;
mod notify;
mod object;
mod queue;
mod seal;
#[cfg(feature = "sim")]
pub mod sim;
mod space;
mod together;
mod transaction;
mod tree;
pub mod varint;

pub use backup::{
    BackupError, BackupFrame, BackupId, BackupPosition, BackupRange, BackupSection, BackupToken,
    BackupVerifier, FRAME_HEADER_BYTES, FRAME_PAYLOAD_BYTES_MAX, encode_frame, frame_bytes,
};
#[cfg(feature = "sim")]
pub use check::{Audit, Contradiction};
pub use check::{
    CheckEvent, CheckOptions, DumpEvent, DumpField, DumpFields, DumpOptions, DumpRecord, Finding,
    NodeDefect, Part as CheckedPart, Problem, Repair, RepairError, RepairOutcome, ScrubError,
    ScrubOptions, ScrubStatus, Severity, Summary as CheckSummary, check, dump, repair,
};
pub use checkpoint::Haste;
pub use disk::{
    Advice, BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, BufferAllocError, Clock, CommonPart,
    DeviceError, DeviceGeometry, Durable, FileSystemId, MemberState, Mirror, MirrorError,
    MirrorStatus, Side,
};
pub use error::{
    AppendError, CheckpointError, Conflict, ConflictKind, FileError, FormatError, KeyAccessError,
    MountError, ObjectReadError, ObjectWriteError, ReadOnly, Structure,
};
pub use extent::codec::{
    EXTENT_BYTES_MAX, Encoding, ExtentCut, ExtentError, ExtentIdentity, ExtentRanges, ExtentShape,
    StoredExtent, UNIT_BYTES, encode as encode_extent,
};
pub use extent::{Algorithm, Compression, DecompressError, compress, decompress, decompress_into};
pub use fault::{Fault, NodePointer, StoredRange, SuspectData};
pub use log::RoomWanted;
pub use mount::{
    Content, DEVICE_BYTES_MIN, Encryption, Entropy, FileSystem, FormatOptions, KeyChange,
    KeySlotInfo, Recovery, Unlock, change_keys, finish_format, format, format_encrypted,
    format_encrypted_unfinished, format_unfinished, key_slots, probe, verify_key,
};
pub use namespace::{
    ATTRIBUTE_BYTES_MAX, ATTRIBUTE_NAMES_BYTES_MAX, Description, DirectoryEntry, FILE_BYTES_MAX,
    FileKind, InodeNumber, LINKS_MAX, Listing, NAME_BYTES_MAX, Namespace, NewInode, Orphan,
    PATH_BYTES_MAX, ROOT, RenameFlags, SetAttributes, Sought, Stat, XattrMode, describe_item,
    is_position_of,
};
pub use notify::Notify;
pub use object::{CHUNK_BYTES_MAX, CHUNK_HEAD_BYTES_MAX, ChunkRef, ObjectScan, ObjectWriter};
pub use queue::{First, Queue};
pub use seal::{
    DataKey, KEY_SLOT_BYTES, KEY_SLOT_COUNT, KdfCost, KeyError, KeySlots, Purpose, Random, Seal,
    SealDamaged, Sealer, Secret, Suite,
};
pub use space::Span;
pub use together::together;
pub use transaction::{
    CommitStop, FileChanges, Isolation, Loaded, OPEN_TRANSACTIONS_MAX, OpenTransaction,
    OpenTransactionInfo, OpenTransactions, SnapshotId, SnapshotInfo, SomeItems, Transaction,
    TransactionId, Unseen, VALUE_OFFSETS, View,
};
pub use tree::{ITEM_BYTES_MAX, ItemKey, ItemKind, NODE_CACHE_BYTES_MIN};

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
    /// Bytes of the segments that something is in, needed or not.
    pub taken_bytes: u64,
}

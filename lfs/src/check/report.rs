//! What a check finds, as values: what is wrong, how bad it is, where, and what can be done about it.

use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use crate::disk::layout::VALUE_OBJECT;
use crate::{BlockIndex, CommitNumber, DeviceError, InodeNumber, ItemKind, MountError, ObjectId};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Nothing is wrong; worth knowing.
    Note,
    /// Something is wrong, but all content is there: a spare copy is damaged, or space is miscounted.
    Warning,
    /// Content is lost or contradicts itself.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// The part of the file system that a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Part {
    /// A copy of the superblock.
    Superblock,
    /// A copy of the key slots.
    KeySlots,
    /// A checkpoint slot.
    Checkpoint,
    /// The segment table.
    SegmentTable,
    /// The log since the checkpoint.
    Log,
    /// The tree of the newest state.
    LiveTree,
    /// The tree of what only snapshots see.
    HistoryTree,
    /// Files and directories.
    Files,
    /// The bytes of files.
    Data,
    /// Objects of the layer above.
    Objects,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Superblock => "superblock",
            Self::KeySlots => "key slots",
            Self::Checkpoint => "checkpoint",
            Self::SegmentTable => "segment table",
            Self::Log => "log",
            Self::LiveTree => "tree",
            Self::HistoryTree => "history tree",
            Self::Files => "files",
            Self::Data => "file data",
            Self::Objects => "objects",
        })
    }
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The device does not read there.
    #[error("cannot be read: {0}")]
    Unreadable(DeviceError),
    /// Memory did not suffice to check this.
    #[error("not enough memory to check it")]
    OutOfMemory,
    /// Neither copy of the superblock is one.
    #[error("no Siltstone file system: neither copy of the superblock is valid")]
    NoFileSystem,
    /// A format did not get to its end.
    #[error("formatting did not get to its end: there is no file system yet")]
    FormatUnfinished,
    /// Not for this code.
    #[error("format version {version} with features {features:#x} is not known to this program")]
    Unknown {
        /// Format version.
        version: u32,
        /// Features that must be known.
        features: u64,
    },
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
    /// One copy of the superblock is damaged.
    #[error("this copy of the superblock is damaged or out of date; the other one is good")]
    SuperblockCopy,
    /// It opens only with its key, or the key slots are damaged.
    #[error("cannot be unlocked: {0}")]
    Locked(MountError),
    /// One copy of the key slots is damaged.
    #[error("this copy of the key slots is damaged or out of date; the other one is good")]
    KeySlotsCopy,
    /// A slot holds no valid checkpoint.
    #[error(
        "no valid checkpoint in this slot: none was written there yet, or a power cut tore one; \
         the other slot is in force"
    )]
    SlotEmpty,
    /// Neither slot holds one.
    #[error("neither slot holds a valid checkpoint: nothing says where the files are")]
    NoCheckpoint,
    /// A checkpoint that is valid contradicts itself or the segment table.
    #[error("the checkpoint contradicts itself or the segment table")]
    CheckpointNonsense,
    /// A block of the segment table that the checkpoint names.
    #[error("a block of the segment table is damaged: segments {first} to {last}")]
    TableBlock {
        /// First segment it describes.
        first: u32,
        /// Last one.
        last: u32,
    },
    /// What the table says of a segment is not what is in it.
    #[error(
        "segment {segment} holds {counted} bytes in use, but the segment table says {recorded}"
    )]
    LiveBytes {
        /// The segment.
        segment: u32,
        /// What the table says.
        recorded: u64,
        /// What trees and objects come to.
        counted: u64,
    },
    /// Commits after the checkpoint that were found and taken into account.
    #[error("{commits} commits after the checkpoint are in the log, up to {last}; they count here", last = last.0)]
    LogReplayed {
        /// How many.
        commits: u64,
        /// The newest.
        last: CommitNumber,
    },
    /// A group that was durable is gone.
    #[error(
        "a commit group that was durable is damaged: commits after {last} are lost", last = last.0
    )]
    LogDamaged {
        /// The last commit that can be replayed.
        last: CommitNumber,
    },
    /// A newer checkpoint was durable and is not valid any more.
    #[error("the log was written under a newer checkpoint, which is damaged now")]
    NewerCheckpointLost,
    /// A node of a tree.
    #[error(
        "a tree node at level {level} is damaged ({reason}): what belongs to objects {first} to {last} is lost in part"
    )]
    Node {
        /// Distance from the leaves.
        level: u8,
        /// What is wrong with the block.
        reason: NodeDefect,
        /// First object it can hold something of.
        first: u64,
        /// Last one.
        last: u64,
    },
    /// A node lies where none should be.
    #[error("a tree node lies in segment {segment}, which holds no nodes by the segment table")]
    NodeSegment {
        /// The segment.
        segment: u32,
    },
    /// An item's bytes.
    #[error("{} is not as one must be", item_name(*.0))]
    ItemMalformed(ItemKind),
    /// An item where none of its kind may be.
    #[error("{} stands where there cannot be one", item_name(*.0))]
    ItemMisplaced(ItemKind),
    /// Birth or death of an item is not possible.
    #[error("an item says it was written by commit {birth}, which is later than it can be")]
    ItemFromFuture {
        /// The commit it names.
        birth: u64,
    },
    /// A name under another name's place.
    #[error("a name is not in the place that its hash says: it cannot be found")]
    NameMisplaced,
    /// A name twice in one directory.
    #[error("a name is there twice")]
    NameTwice,
    /// Something belongs to an inode that does not exist.
    #[error("there is content of an inode, but no inode and nothing that names it")]
    NoInode,
    /// An entry or orphan item names an inode that does not exist.
    #[error("inode {target} is named here but does not exist")]
    DanglingName {
        /// The inode named.
        target: u64,
    },
    /// The kind in an entry is not that of the inode.
    #[error("a directory entry says another kind of file than its inode")]
    KindContradicted,
    /// More or fewer names than links.
    #[error("the inode says it has {recorded} links, but {counted} were found")]
    Links {
        /// In the inode.
        recorded: u32,
        /// Found.
        counted: u64,
    },
    /// A directory has another number of entries than it says.
    #[error("the directory says it has {recorded} entries, but {counted} were found")]
    Entries {
        /// In the inode.
        recorded: u64,
        /// Found.
        counted: u64,
    },
    /// The names of its attributes take other bytes than the inode says.
    #[error("the names of attributes take {counted} bytes, but the inode says {recorded}")]
    AttributeNames {
        /// In the inode.
        recorded: u32,
        /// Found.
        counted: u64,
    },
    /// A directory is not in the directory it says.
    #[error("the directory says it is in directory {recorded}, but directory {found} names it")]
    Parent {
        /// In the inode.
        recorded: u64,
        /// Where it was found.
        found: u64,
    },
    /// No name leads to it and no orphan item says so.
    #[error("nothing names it: it cannot be reached and will not be freed")]
    Unreachable,
    /// The root directory is not there.
    #[error("there is no root directory")]
    NoRoot,
    /// The room that an inode's data take.
    #[error("the inode says that its data take {recorded} bytes, but they take {counted}")]
    Allocated {
        /// In the inode.
        recorded: u64,
        /// What the pieces of its data come to.
        counted: u64,
    },
    /// A directory that cannot be reached from the root.
    #[error("the directory cannot be reached from the root: it is in a circle of directories")]
    DirectoryCircle,
    /// Two things have the same data.
    #[error("the data of object {object} belongs to {owners} owners")]
    DataOwners {
        /// The object.
        object: u64,
        /// How many name it.
        owners: u64,
    },
    /// Pieces of a file overlap.
    #[error("two pieces of the file hold the same range")]
    ExtentsOverlap,
    /// Content both in an item and in extents, or behind its end.
    #[error("there is data behind the end of the file, or in two forms at once")]
    DataBeyondEnd,
    /// An extent's address.
    #[error("a piece of the file lies outside of segments that hold data")]
    ExtentSegment,
    /// Stored bytes are not what was written.
    #[error("bytes of the file are damaged")]
    DataDamaged,
    /// An old item that no snapshot sees.
    #[error("{count} old items are kept that no snapshot sees; their space is not free yet")]
    HistoryUnused {
        /// How many.
        count: u64,
    },
    /// An object of the layer above.
    #[error("object {id} is damaged", id = id.0)]
    ObjectDamaged {
        /// The object.
        id: ObjectId,
    },
    /// What was not checked, and why.
    #[error(
        "there are more directories than memory for {max}: circles among them were not looked for"
    )]
    CirclesUnchecked {
        /// How many there was memory for.
        max: usize,
    },
}

fn item_name(kind: ItemKind) -> &'static str {
    match kind {
        ItemKind::Inode => "an inode",
        ItemKind::Inline => "the content of a small file",
        ItemKind::Entry => "a directory entry",
        ItemKind::Attribute => "an extended attribute",
        ItemKind::Extent => "a piece of file data",
        ItemKind::Orphan => "an orphan item",
        ItemKind::Snapshot => "a snapshot",
        ItemKind::Property => "a property",
    }
}

/// What is wrong with a block that should be a tree node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NodeDefect(pub(crate) crate::tree::Defect);

impl Problem {
    /// How bad it is.
    pub fn severity(&self) -> Severity {
        match self {
            // Space that a removed snapshot leaves is freed in the background, while the image is in use.
            Self::SlotEmpty
            | Self::LogReplayed { .. }
            | Self::CirclesUnchecked { .. }
            | Self::HistoryUnused { .. } => Severity::Note,
            Self::SuperblockCopy
            | Self::KeySlotsCopy
            | Self::LiveBytes { .. }
            | Self::Allocated { .. } => Severity::Warning,
            _ => Severity::Error,
        }
    }
}

/// What [`repair`](super::repair()) does about a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Repair {
    /// Writes the copy of the superblock again from the good one.
    Superblock,
    /// Writes the copy of the key slots again from the good one.
    KeySlots,
    /// Writes the block of the segment table again from what trees, objects and segments hold.
    TableBlock,
    /// Counts a segment's bytes again, in a new checkpoint.
    LiveBytes,
    /// Sets an inode's number of links to that of its names, in an ordinary commit.
    Links,
    /// Sets a directory's number of entries to what is there, in an ordinary commit.
    Entries,
    /// Sets the bytes of an inode's attribute names to what is there, in an ordinary commit.
    AttributeNames,
    /// Sets the room that an inode's data take to what they take, in an ordinary commit.
    Allocated,
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Superblock | Self::KeySlots => "write it again from the other copy",
            Self::TableBlock => "write it again from what the segments hold",
            Self::LiveBytes => "count it again",
            Self::Links => "set the number of links",
            Self::Entries => "set the number of entries",
            Self::AttributeNames => "set the bytes of names",
            Self::Allocated => "set the room that the data take",
        })
    }
}

/// One thing that a check found. As text: what it is about, where, and what is wrong in plain words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Which part of the file system it is about.
    pub part: Part,
    /// What is wrong.
    pub problem: Problem,
    /// Where on the device, if it has a place there.
    pub block: Option<BlockIndex>,
    /// The file or directory, if known.
    pub inode: Option<InodeNumber>,
    /// A path of it from the root, if known. Bytes: names need not be UTF-8.
    pub path: Option<Vec<u8>>,
    /// The bytes of the file or object, if it is about some.
    pub bytes: Option<Range<u64>>,
    /// What can be done, if something can.
    pub repair: Option<Repair>,
}

impl Finding {
    pub(crate) fn new(part: Part, problem: Problem) -> Self {
        Self {
            severity: problem.severity(),
            part,
            problem,
            block: None,
            inode: None,
            path: None,
            bytes: None,
            repair: None,
        }
    }

    pub(crate) fn at(self, block: BlockIndex) -> Self {
        Self {
            block: Some(block),
            ..self
        }
    }

    pub(crate) fn of(self, inode: u64) -> Self {
        Self {
            inode: Some(InodeNumber(inode)),
            ..self
        }
    }

    pub(crate) fn bytes(self, bytes: Range<u64>) -> Self {
        Self {
            bytes: Some(bytes),
            ..self
        }
    }

    pub(crate) fn by(self, repair: Repair) -> Self {
        Self {
            repair: Some(repair),
            ..self
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.severity, self.part)?;
        if let Some(path) = &self.path {
            // Names are bytes that anybody may have chosen: nothing that a terminal obeys.
            f.write_str(" of ")?;
            for chunk in path.utf8_chunks() {
                for c in chunk.valid().chars() {
                    let c = if c.is_control() { '?' } else { c };
                    write!(f, "{c}")?;
                }
                if !chunk.invalid().is_empty() {
                    f.write_str("?")?;
                }
            }
        }
        match self.inode {
            Some(InodeNumber(VALUE_OBJECT)) => f.write_str(" (value file)")?,
            Some(inode) => write!(f, " (inode {})", inode.0)?,
            None => {}
        }
        if let Some(bytes) = &self.bytes {
            write!(f, ", bytes {} to {}", bytes.start, bytes.end)?;
        }
        if let Some(block) = self.block {
            write!(f, ", block {}", block.0)?;
        }
        write!(f, ": {}", self.problem)?;
        if let Some(repair) = self.repair {
            write!(f, " (repair: {repair})")?;
        }
        Ok(())
    }
}

/// What a check came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Findings of each severity.
    pub notes: u64,
    /// See [`Severity::Warning`].
    pub warnings: u64,
    /// See [`Severity::Error`].
    pub errors: u64,
    /// Of warnings and errors, those that a repair is known for.
    pub repairable: u64,
    /// Inodes seen.
    pub inodes: u64,
    /// Of these, directories.
    pub directories: u64,
    /// Items in both trees.
    pub items: u64,
    /// Nodes of both trees.
    pub nodes: u64,
    /// Nodes read from the device; the others were in memory after replay.
    pub nodes_read: u64,
    /// Pieces of file data.
    pub extents: u64,
    /// Bytes in use.
    pub live_bytes: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// Commits replayed from the log.
    pub replayed_commits: u64,
    /// How often the tree was gone through: once as long as memory holds what is known of all inodes.
    pub passes: u32,
    /// Most bytes that the tables of inodes and names took.
    pub table_bytes_max: usize,
    /// Whether there is a file system that mounts.
    pub mounts: bool,
}

impl Summary {
    /// Whether there is nothing but notes.
    pub fn is_clean(&self) -> bool {
        self.warnings + self.errors == 0
    }

    pub(crate) fn count(&mut self, finding: &Finding) {
        match finding.severity {
            Severity::Note => self.notes += 1,
            Severity::Warning => self.warnings += 1,
            Severity::Error => self.errors += 1,
        }
        if finding.severity > Severity::Note && finding.repair.is_some() {
            self.repairable += 1;
        }
    }
}

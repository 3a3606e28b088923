//! What the callers of a namespace hand in and get back.

use alloc::vec::Vec;

/// Number of an inode: a file, directory, link or special file. Never used twice in the life of a file
/// system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InodeNumber(pub u64);

/// The root directory. It is its own parent.
pub const ROOT: InodeNumber = InodeNumber(1);

/// Longest name in bytes, of an entry or of an extended attribute.
pub const NAME_BYTES_MAX: usize = 255;

/// Longest path and longest target of a symbolic link in bytes.
pub const PATH_BYTES_MAX: usize = 4095;

/// Most names of a file, and most links of a directory (two, and one for each directory in it).
pub const LINKS_MAX: u32 = 65_000;

/// Largest size of a file in bytes, and largest offset.
pub const FILE_BYTES_MAX: u64 = i64::MAX as u64;

/// Largest value of an extended attribute in bytes.
pub const ATTRIBUTE_BYTES_MAX: usize = 65_536;

/// What the names of an inode's extended attributes may take together in bytes, one more for each.
pub const ATTRIBUTE_NAMES_BYTES_MAX: usize = 65_536;

/// What an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum FileKind {
    /// A regular file.
    File = 1,
    /// A directory.
    Directory = 2,
    /// A symbolic link.
    Symlink = 3,
    /// A named pipe.
    Fifo = 4,
    /// A socket.
    Socket = 5,
    /// A character device.
    CharDevice = 6,
    /// A block device.
    BlockDevice = 7,
}

impl FileKind {
    /// It in a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Directory => "directory",
            Self::Symlink => "symlink",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
            Self::CharDevice => "char-device",
            Self::BlockDevice => "block-device",
        }
    }

    /// The kind with this number on disk.
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::File,
            2 => Self::Directory,
            3 => Self::Symlink,
            4 => Self::Fifo,
            5 => Self::Socket,
            6 => Self::CharDevice,
            7 => Self::BlockDevice,
            _ => return None,
        })
    }
}

/// A part of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listing {
    /// Entries, in an order of the directory's own.
    pub entries: Vec<DirectoryEntry>,
    /// Where to go on; `None` when it is known that these are the last.
    pub next: Option<u64>,
}

/// What `stat` says of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Its number.
    pub inode: InodeNumber,
    /// What it is.
    pub kind: FileKind,
    /// Permission bits, 0 … 0o7777.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names; of a directory 2 and one for each directory in it. 0 when it has been removed.
    pub links: u32,
    /// Bytes of content; of a directory the number of its entries, of a symbolic link the bytes of its
    /// target.
    pub size: u64,
    /// Of a device its number as the creator gave it, else 0.
    pub device: u64,
    /// Last access as somebody set it; reading does not change it.
    pub atime_ns: i64,
    /// Last change of the content, in nanoseconds since the Unix epoch, as the other times.
    pub mtime_ns: i64,
    /// Last change of anything about it.
    pub ctime_ns: i64,
    /// Creation.
    pub btime_ns: i64,
    /// Room that its content takes: whole blocks of 4 KiB as far as there are data in them, however well those
    /// compress; of content of up to 1 KiB that is kept with the inode its bytes. What a truncation has left for later counts
    /// until it is free.
    pub allocated_bytes: u64,
}

/// Where a search for data, or for a hole, came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sought {
    /// Here is the first.
    At(u64),
    /// There is none.
    Nowhere,
    /// There is none before this place. It took long enough: ask again from here.
    Further(u64),
}

/// What to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewInode {
    /// What it is.
    pub kind: FileKind,
    /// Permission bits; others are dropped.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of a device; of other kinds not looked at.
    pub device: u64,
    /// Target of a symbolic link, 1 … [`PATH_BYTES_MAX`] bytes without NUL; of other kinds not looked at.
    pub target: Vec<u8>,
}

impl NewInode {
    /// A kind that needs neither device number nor target, owned by user and group 0.
    pub const fn new(kind: FileKind, mode: u16) -> Self {
        Self {
            kind,
            mode,
            uid: 0,
            gid: 0,
            device: 0,
            target: Vec::new(),
        }
    }

    /// A symbolic link to `target`, owned by user and group 0.
    pub fn symlink(target: &[u8]) -> Self {
        Self {
            target: target.to_vec(),
            ..Self::new(FileKind::Symlink, 0o777)
        }
    }
}

/// What to change of an inode; `None` leaves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetAttributes {
    /// Permission bits; others are dropped.
    pub mode: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes, of regular files.
    pub size: Option<u64>,
    /// Last access.
    pub atime_ns: Option<i64>,
    /// Last change of the content.
    pub mtime_ns: Option<i64>,
}

/// How to rename; both at once is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RenameFlags {
    /// Fail when the new name is taken.
    pub no_replace: bool,
    /// Both names must be there; what they name changes places.
    pub exchange: bool,
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// Where listing goes on behind it: at least 4096 and below 2⁶³, and its own as long as the entry is
    /// there.
    pub cookie: u64,
    /// Its name: 1 … 255 bytes without `/` and NUL, not necessarily UTF-8.
    pub name: Vec<u8>,
    /// What it names.
    pub inode: InodeNumber,
    /// What that is.
    pub kind: FileKind,
}

/// How to set an extended attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XattrMode {
    /// Whether it is there or not.
    Any,
    /// Only when it is not there.
    Create,
    /// Only when it is there.
    Replace,
}

/// Something left to free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Orphan {
    /// Number for [`Namespace::reclaim_orphan`](crate::Namespace::reclaim_orphan).
    pub id: u64,
    /// An inode without a name: it must not be reclaimed while somebody has it open. Other orphans may
    /// be reclaimed at any time.
    pub nameless: Option<InodeNumber>,
}

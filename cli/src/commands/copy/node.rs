//! The two ends of a copy.

use lfs::FileKind;

use crate::error::Outcome;

/// What a copy keeps of a file.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) kind: FileKind,
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    pub(super) device: u64,
    pub(super) atime_ns: i64,
    pub(super) mtime_ns: i64,
    /// Number of its names; more than one asks for hard links.
    pub(super) links: u64,
    /// The same for two names of one file, and for nothing else.
    pub(super) identity: (u64, u64),
    /// Extended attributes in the user namespace.
    pub(super) attributes: Vec<(Vec<u8>, Vec<u8>)>,
    /// Of a symbolic link.
    pub(super) target: Vec<u8>,
}

/// Where copies come from.
pub(super) trait Source {
    /// Names a file.
    type Node: Clone;
    /// An open file.
    type Reader;

    /// All that is known of a file but its content.
    async fn look(&self, node: &Self::Node) -> Outcome<Node>;

    /// What is in a directory.
    async fn children(&self, node: &Self::Node) -> Outcome<Vec<(Vec<u8>, Self::Node)>>;

    /// Opens a regular file.
    async fn open(&self, node: &Self::Node) -> Outcome<Self::Reader>;

    /// The next range with data at or behind `offset`; none when only a hole is left.
    async fn next_data(
        &self,
        reader: &mut Self::Reader,
        offset: u64,
    ) -> Outcome<Option<(u64, u64)>>;

    /// Up to `len` bytes from `offset` on; none at the end.
    async fn read(&self, reader: &mut Self::Reader, offset: u64, len: usize) -> Outcome<Vec<u8>>;

    /// For messages.
    fn shown(&self, node: &Self::Node) -> String;
}

/// Where copies go.
pub(super) trait Target {
    /// Names a directory.
    type Directory: Clone;
    /// Names a file that was copied.
    type File: Clone;
    /// A file that is being copied, and has no name of its own yet.
    type Writer;

    /// A directory of that name: a new one, which only its owner may use until it is finished, or the one that is there.
    async fn make_directory(
        &self,
        parent: &Self::Directory,
        name: &[u8],
    ) -> Outcome<Self::Directory>;

    /// What would be the [identity](Node::identity) of a directory, were it copied in the same run.
    async fn identity(&self, directory: &Self::Directory) -> Option<(u64, u64)>;

    /// Gives a directory what a copy keeps of it.
    async fn finish_directory(&self, directory: &Self::Directory, node: &Node) -> Outcome<()>;

    /// Begins a regular file.
    async fn start_file(&self, parent: &Self::Directory, name: &[u8]) -> Outcome<Self::Writer>;

    /// Bytes that one write takes at best.
    fn piece_bytes(&self) -> usize;

    /// Writes a piece of data. Pieces come in the order of their offsets; between them are holes.
    async fn write(&self, writer: &mut Self::Writer, offset: u64, bytes: Vec<u8>) -> Outcome<()>;

    /// Gives the file its size, what a copy keeps of it, and its name.
    async fn finish_file(&self, writer: Self::Writer, node: &Node) -> Outcome<Self::File>;

    /// Makes what is neither a regular file nor a directory.
    async fn make_special(
        &self,
        parent: &Self::Directory,
        name: &[u8],
        node: &Node,
    ) -> Outcome<Self::File>;

    /// Gives a file that was copied another name.
    async fn link(&self, file: &Self::File, parent: &Self::Directory, name: &[u8]) -> Outcome<()>;
}

/// The beginning of the name that a file has while it is copied.
pub(super) const TEMPORARY_PREFIX: &str = ".siltstone-";

/// A name for a file that is not whole yet.
pub(super) fn temporary_name() -> Vec<u8> {
    // Without randomness the name may be taken, which is an error and no harm.
    let random = u64::from_le_bytes(lfs::host::random().unwrap_or_default());
    format!("{TEMPORARY_PREFIX}{random:016x}").into_bytes()
}

//! Operations on files that follow a seed; what they do on a namespace, and what can be seen of it.
//!
//! The same operations go to the model in `posix.rs`. Nothing here depends on what is below the namespace,
//! so the tests of the real file system use it, too.
#![allow(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test may panic, and its numbers are small"
)]

use std::collections::{BTreeMap, VecDeque};

use lfs::sim::Random;
use lfs::{
    FileError, FileKind, InodeNumber, Namespace, NewInode, ROOT, RenameFlags, SetAttributes, View,
    XattrMode,
};

/// Inodes that can be open at the same time.
pub const HANDLES: usize = 4;

/// What is open.
pub type Handles = [Option<InodeNumber>; HANDLES];

/// A path from the root, or from an open directory.
#[derive(Debug, Clone)]
pub struct TreePath {
    pub base: Option<usize>,
    pub bytes: Vec<u8>,
}

/// What an operation is about.
#[derive(Debug, Clone)]
pub enum Target {
    /// Where a path leads.
    Path(TreePath),
    /// The same, but a symbolic link at its end is meant itself.
    Link(TreePath),
    /// Something open.
    Handle(usize),
}

#[derive(Debug, Clone)]
pub enum Operation {
    Create {
        path: TreePath,
        new: NewInode,
    },
    Link {
        from: Target,
        to: TreePath,
    },
    Unlink {
        path: TreePath,
    },
    Rmdir {
        path: TreePath,
    },
    RemoveTree {
        path: TreePath,
    },
    RemoveSome {
        path: TreePath,
    },
    Rename {
        from: TreePath,
        to: TreePath,
        flags: RenameFlags,
    },
    Open {
        target: Target,
        handle: usize,
    },
    Close {
        handle: usize,
    },
    ReadLink {
        path: TreePath,
    },
    Read {
        target: Target,
        offset: u64,
        len: usize,
    },
    Write {
        target: Target,
        offset: u64,
        bytes: Vec<u8>,
    },
    Truncate {
        target: Target,
        size: u64,
    },
    Punch {
        target: Target,
        offset: u64,
        len: u64,
    },
    Allocate {
        target: Target,
        offset: u64,
        len: u64,
        keep_size: bool,
    },
    Seek {
        target: Target,
        offset: u64,
        data: bool,
    },
    SetAttributes {
        target: Target,
        change: SetAttributes,
    },
    GetXattr {
        target: Target,
        name: Vec<u8>,
    },
    SetXattr {
        target: Target,
        name: Vec<u8>,
        value: Vec<u8>,
        mode: XattrMode,
    },
    RemoveXattr {
        target: Target,
        name: Vec<u8>,
    },
}

/// What an operation answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Bytes(Vec<u8>),
    Offset(Option<u64>),
    /// What was opened; the model's own are another kind of number.
    Opened(InodeNumber),
    /// Said by the model: any offset will do that is right for this content.
    SeekIn {
        content: Vec<u8>,
        offset: u64,
        data: bool,
    },
}

impl Outcome {
    /// Whether the model says that this is right.
    pub fn is_as(&self, model: &Self) -> bool {
        match (self, model) {
            (Self::Opened(_), Self::Done) => true,
            (
                Self::Offset(found),
                Self::SeekIn {
                    content,
                    offset,
                    data,
                },
            ) => {
                let size = content.len() as u64;
                let zeros = |from: u64, to: u64| {
                    let range = from.min(size) as usize..to.min(size) as usize;
                    content[range].iter().all(|&byte| byte == 0)
                };
                match *found {
                    _ if *offset >= size => found.is_none(),
                    Some(at) if *data => (*offset..size).contains(&at) && zeros(*offset, at),
                    Some(at) => {
                        let block = (at / 4096 + 1) * 4096;
                        (*offset..=size).contains(&at) && zeros(at, block.min(at + 1))
                    }
                    None => *data && zeros(*offset, size),
                }
            }
            _ => self == model,
        }
    }
}

/// What can be seen of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    pub path: Vec<u8>,
    /// The same for names of the same inode: how many others come before.
    pub number: usize,
    pub kind: FileKind,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub links: u32,
    pub size: u64,
    pub device: u64,
    pub times: [i64; 4],
    /// Of a file, or a link's target; at the first of its names.
    pub content: Option<Vec<u8>>,
    pub attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    pub parent: Option<usize>,
}

impl Observed {
    /// The same without the bytes of content and attributes, to be shown.
    pub fn brief(&self) -> String {
        let sum = |bytes: &[u8]| bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>();
        let path = String::from_utf8_lossy(&self.path).into_owned();
        let content = self.content.as_ref().map(|bytes| (bytes.len(), sum(bytes)));
        let attributes = self.attributes.iter();
        let attributes: Vec<_> = attributes
            .map(|(name, value)| (String::from_utf8_lossy(name), value.len(), sum(value)))
            .collect();
        let plain = Self {
            path: Vec::new(),
            content: None,
            attributes: BTreeMap::new(),
            ..self.clone()
        };
        format!("{path}: {plain:?}\n content {content:?} attributes {attributes:?}")
    }
}

fn start(handles: &Handles, path: &TreePath) -> Result<InodeNumber, FileError> {
    match path.base {
        None => Ok(ROOT),
        Some(handle) => handles[handle].ok_or(FileError::NotFound),
    }
}

/// Does an operation on a namespace.
///
/// # Errors
/// What the namespace says.
#[allow(clippy::too_many_lines, reason = "one arm for each operation")]
pub fn apply<V: View>(
    files: &mut Namespace<'_, V>,
    handles: &Handles,
    operation: &Operation,
) -> Result<Outcome, FileError> {
    let find = |files: &mut Namespace<'_, V>, target: &Target| match target {
        Target::Path(path) => files.resolve_from(start(handles, path)?, &path.bytes, true),
        Target::Link(path) => files.resolve_from(start(handles, path)?, &path.bytes, false),
        Target::Handle(handle) => handles[*handle].ok_or(FileError::NotFound),
    };
    macro_rules! parent {
        ($path:expr) => {
            files.resolve_parent_from(start(handles, $path)?, &$path.bytes)?
        };
    }
    macro_rules! target {
        ($target:expr) => {
            find(files, $target)?
        };
    }
    match operation {
        Operation::Create { path, new } => {
            let (directory, name) = parent!(path);
            files.create(directory, name, new)?;
        }
        Operation::Link { from, to } => {
            let inode = target!(from);
            let (directory, name) = parent!(to);
            files.link(inode, directory, name)?;
        }
        Operation::Unlink { path } => {
            let (directory, name) = parent!(path);
            files.unlink(directory, name)?;
        }
        Operation::Rmdir { path } => {
            let (directory, name) = parent!(path);
            files.rmdir(directory, name)?;
        }
        Operation::RemoveTree { path } => {
            let (directory, name) = parent!(path);
            files.remove_tree(directory, name)?;
        }
        Operation::RemoveSome { path } => {
            let (directory, name) = parent!(path);
            while !files.remove_some(directory, name, 2)? {}
        }
        Operation::Rename { from, to, flags } => {
            let (old, old_name) = parent!(from);
            let (new, new_name) = parent!(to);
            files.rename(old, old_name, new, new_name, *flags)?;
        }
        Operation::Open { target, .. } => return Ok(Outcome::Opened(target!(target))),
        Operation::Close { .. } => {}
        Operation::ReadLink { path } => {
            let inode = files.resolve_from(start(handles, path)?, &path.bytes, false)?;
            return Ok(Outcome::Bytes(files.read_link(inode)?));
        }
        Operation::Read {
            target,
            offset,
            len,
        } => {
            let inode = target!(target);
            return Ok(Outcome::Bytes(files.read(inode, *offset, *len)?));
        }
        Operation::Write {
            target,
            offset,
            bytes,
        } => {
            let inode = target!(target);
            files.write(inode, *offset, bytes)?;
        }
        Operation::Truncate { target, size } => {
            let inode = target!(target);
            files.truncate(inode, *size)?;
        }
        Operation::Punch {
            target,
            offset,
            len,
        } => {
            let inode = target!(target);
            files.punch(inode, *offset, *len)?;
        }
        Operation::Allocate {
            target,
            offset,
            len,
            keep_size,
        } => {
            let inode = target!(target);
            files.allocate(inode, *offset, *len, *keep_size)?;
        }
        Operation::Seek {
            target,
            offset,
            data,
        } => {
            let inode = target!(target);
            return Ok(Outcome::Offset(files.seek(inode, *offset, *data)?));
        }
        Operation::SetAttributes { target, change } => {
            let inode = target!(target);
            files.set_attributes(inode, change)?;
        }
        Operation::GetXattr { target, name } => {
            let inode = target!(target);
            return Ok(Outcome::Bytes(files.get_xattr(inode, name)?));
        }
        Operation::SetXattr {
            target,
            name,
            value,
            mode,
        } => {
            let inode = target!(target);
            files.set_xattr(inode, name, value, *mode)?;
        }
        Operation::RemoveXattr { target, name } => {
            let inode = target!(target);
            files.remove_xattr(inode, name)?;
        }
    }
    Ok(Outcome::Done)
}

/// Notes what an operation that succeeded has opened or closed.
pub fn note_handles(handles: &mut Handles, operation: &Operation, outcome: &Outcome) {
    match (operation, outcome) {
        (Operation::Open { handle, .. }, Outcome::Opened(inode)) => handles[*handle] = Some(*inode),
        (Operation::Close { handle }, _) => handles[*handle] = None,
        _ => {}
    }
}

/// Everything there is to see in a namespace.
///
/// # Errors
/// What the namespace says.
pub fn observe<V: View>(
    files: &mut Namespace<'_, V>,
    handles: &Handles,
) -> Result<Vec<Observed>, FileError> {
    let mut seen = Vec::new();
    let mut numbers = BTreeMap::new();
    let mut left = VecDeque::from([(b"/".to_vec(), ROOT)]);
    for (handle, inode) in handles.iter().enumerate() {
        left.extend(inode.map(|inode| (format!("handle {handle}").into_bytes(), inode)));
    }
    while let Some((path, inode)) = left.pop_front() {
        let stat = files.stat(inode)?;
        assert_eq!(stat.inode, inode);
        let count = numbers.len();
        let first = !numbers.contains_key(&inode);
        let number = *numbers.entry(inode).or_insert(count);
        if first && stat.kind == FileKind::Directory {
            for (name, child) in list(files, inode)? {
                left.push_back(([&path[..], b"/", &name].concat(), child));
            }
        }
        let content = match stat.kind {
            FileKind::File => files.read(inode, 0, usize::MAX)?,
            FileKind::Symlink => files.read_link(inode)?,
            _ => Vec::new(),
        };
        let mut attributes = BTreeMap::new();
        for name in files.list_xattrs(inode)? {
            let value = files.get_xattr(inode, &name)?;
            assert!(attributes.insert(name, value).is_none(), "listed twice");
        }
        let parent = if stat.kind == FileKind::Directory && stat.links > 0 {
            let parent = files.parent(inode)?;
            numbers.get(&parent).copied()
        } else {
            None
        };
        seen.push(Observed {
            path,
            number,
            kind: stat.kind,
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            links: stat.links,
            size: stat.size,
            device: stat.device,
            times: [stat.atime_ns, stat.mtime_ns, stat.ctime_ns, stat.btime_ns],
            content: first.then_some(content),
            attributes,
            parent,
        });
    }
    Ok(seen)
}

/// The entries of a directory by name, listed in small steps.
fn list<V: View>(
    files: &mut Namespace<'_, V>,
    directory: InodeNumber,
) -> Result<BTreeMap<Vec<u8>, InodeNumber>, FileError> {
    let mut entries = BTreeMap::new();
    let mut after = 0;
    loop {
        let some = files.read_dir(directory, after, 3)?;
        let Some(last) = some.last() else {
            return Ok(entries);
        };
        assert!(last.cookie > after && last.cookie < 1 << 63);
        after = last.cookie;
        for entry in some {
            assert_eq!(files.lookup(directory, &entry.name)?, entry.inode);
            assert_eq!(files.stat(entry.inode)?.kind, entry.kind);
            assert!(
                entries.insert(entry.name, entry.inode).is_none(),
                "listed twice"
            );
        }
    }
}

/// Makes up operations over few names, so that they meet; most of them on what is there.
pub struct Generator {
    random: Random,
    /// Paths of what is there.
    known: Vec<(TreePath, FileKind)>,
}

/// More names than this are not made.
const NAMES_MAX: usize = 40;

impl Generator {
    /// One that follows a seed.
    pub fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            known: Vec::new(),
        }
    }

    /// Says what is there.
    pub fn note(&mut self, seen: &[Observed]) {
        let tree_path = |path: &[u8]| {
            let open = path.strip_prefix(b"handle ")?;
            let (handle, rest) = open.split_first()?;
            Some(TreePath {
                base: Some(usize::from(handle - b'0')),
                bytes: rest.strip_prefix(b"/").unwrap_or(b".").to_vec(),
            })
        };
        let known = seen.iter().map(|seen| {
            let whole = TreePath {
                base: None,
                bytes: seen.path.clone(),
            };
            (tree_path(&seen.path).unwrap_or(whole), seen.kind)
        });
        self.known = known.collect();
    }

    fn one_of<'t, T>(&mut self, from: &'t [T]) -> &'t T {
        &from[self.random.index(from.len())]
    }

    /// The path of something of this kind.
    fn known(&mut self, kind: FileKind) -> Option<TreePath> {
        let mut paths: Vec<_> = self.known.iter().filter(|known| known.1 == kind).collect();
        let index = self.random.index(paths.len());
        (!paths.is_empty()).then(|| paths.swap_remove(index).0.clone())
    }

    fn name(&mut self) -> Vec<u8> {
        if self.random.one_in(40) {
            return match self.random.below(7) {
                0 => b".".to_vec(),
                1 => b"..".to_vec(),
                2 => vec![b'n'; 255],
                3 => vec![b'n'; 256],
                4 => vec![0xFF, 0xFE],
                5 => b"nul\0".to_vec(),
                _ => "größe".into(),
            };
        }
        self.one_of(&["a", "b", "c", "d", "e", "dir", "link"])
            .as_bytes()
            .to_vec()
    }

    /// Any path.
    fn path(&mut self) -> TreePath {
        let base = self.random.one_in(6).then(|| self.random.index(HANDLES));
        let mut bytes = Vec::new();
        if base.is_none() || self.random.one_in(10) {
            bytes.push(b'/');
        }
        for part in 0..=self.random.below(3) {
            if part > 0 {
                let slashes: &[&[u8]] = &[b"/", b"/", b"/", b"/", b"//", b"/./", b"/../"];
                bytes.extend(*self.one_of(slashes));
            }
            bytes.extend(self.name());
        }
        match self.random.below(150) {
            0 => bytes.clear(),
            1 => bytes = b"/".to_vec(),
            2 => bytes = b"/a".repeat(2048),
            3..10 => bytes.push(b'/'),
            _ => {}
        }
        TreePath { base, bytes }
    }

    /// A path that mostly leads to something of this kind.
    fn path_of(&mut self, kind: FileKind) -> TreePath {
        let known = self.known(kind).filter(|_| !self.random.one_in(8));
        let mut path = known.unwrap_or_else(|| self.path());
        if self.random.one_in(20) {
            path.bytes.push(b'/');
        }
        path
    }

    fn any_path(&mut self) -> TreePath {
        let kind = self.any_kind();
        self.path_of(kind)
    }

    fn any_kind(&mut self) -> FileKind {
        let kinds = [
            FileKind::File,
            FileKind::File,
            FileKind::Directory,
            FileKind::Directory,
            FileKind::Symlink,
            FileKind::Fifo,
        ];
        *self.one_of(&kinds)
    }

    /// A path that is mostly in something that is there.
    fn new_path(&mut self) -> TreePath {
        let mut path = self.path_of(FileKind::Directory);
        let deep = path.bytes.split(|&byte| byte == b'/').count() > 4;
        if deep {
            return self.path();
        }
        path.bytes.push(b'/');
        path.bytes.extend(self.name());
        path
    }

    fn target(&mut self, kind: FileKind) -> Target {
        match self.random.below(12) {
            0..2 => Target::Handle(self.random.index(HANDLES)),
            2 => Target::Link(self.path_of(FileKind::Symlink)),
            3 => Target::Path(self.path_of(FileKind::Symlink)),
            _ => Target::Path(self.path_of(kind)),
        }
    }

    fn any_target(&mut self) -> Target {
        let kind = self.any_kind();
        self.target(kind)
    }

    fn new_inode(&mut self) -> NewInode {
        let kinds = [
            FileKind::File,
            FileKind::File,
            FileKind::Directory,
            FileKind::Directory,
            FileKind::Directory,
            FileKind::Symlink,
            FileKind::Fifo,
            FileKind::CharDevice,
        ];
        let kind = *self.one_of(&kinds);
        NewInode {
            kind,
            mode: self.random.below(1 << 16) as u16,
            uid: self.random.below(3) as u32,
            gid: self.random.next_u64() as u32,
            device: self.random.below(1000),
            target: if kind == FileKind::Symlink {
                self.any_path().bytes
            } else {
                Vec::new()
            },
        }
    }

    fn offset(&mut self) -> u64 {
        match self.random.below(4) {
            0 => self.random.below(200),
            1 => self.random.below(12) * 4096,
            _ => self.random.below(48_000),
        }
    }

    fn bytes(&mut self, max: u64) -> Vec<u8> {
        let len = self.random.below(max) as usize;
        let mut bytes = vec![0; len];
        for chunk in bytes.chunks_mut(8) {
            let number = self.random.next_u64().to_le_bytes();
            chunk.copy_from_slice(&number[..chunk.len()]);
        }
        bytes
    }

    fn write_len_max(&mut self) -> u64 {
        *self.one_of(&[10, 1000, 9000, 40_000])
    }

    fn time(&mut self) -> Option<i64> {
        let any = self.random.next_u64().cast_signed();
        self.random.one_in(2).then_some(any)
    }

    fn attribute_name(&mut self) -> Vec<u8> {
        match self.random.below(30) {
            0 => Vec::new(),
            1 => vec![b'x'; 255],
            2 => vec![b'x'; 256],
            3 => b"user.\0".to_vec(),
            _ => self
                .one_of(&["user.a", "user.a", "user.a", "user.b", "user.dd"])
                .as_bytes()
                .to_vec(),
        }
    }

    fn content_operation(&mut self) -> Operation {
        let target = self.target(FileKind::File);
        let offset = self.offset();
        match self.random.below(14) {
            0..2 => Operation::Read {
                target,
                offset,
                len: self.random.index(50_000),
            },
            2..8 => {
                let max = self.write_len_max();
                Operation::Write {
                    target,
                    offset,
                    bytes: self.bytes(max),
                }
            }
            8..10 => {
                let far = [u64::MAX, i64::MAX as u64 + 1, 0, 0, 0, 0];
                let size = if self.random.one_in(4) {
                    *self.one_of(&far)
                } else {
                    offset
                };
                Operation::Truncate { target, size }
            }
            10 => Operation::Punch {
                target,
                offset,
                len: 1 + self.random.below(40_000),
            },
            11 => {
                let keep_size = self.random.one_in(2);
                Operation::Allocate {
                    target,
                    offset,
                    len: 1 + offset / 2,
                    keep_size,
                }
            }
            _ => Operation::Seek {
                target,
                offset,
                data: self.random.one_in(2),
            },
        }
    }

    fn attribute_operation(&mut self) -> Operation {
        let target = self.any_target();
        let name = self.attribute_name();
        match self.random.below(6) {
            0 => Operation::GetXattr { target, name },
            1 => Operation::RemoveXattr { target, name },
            2..5 => {
                let max = *self.one_of(&[3, 30, 1200, 3000, 66_000]);
                let mode = [
                    XattrMode::Any,
                    XattrMode::Any,
                    XattrMode::Create,
                    XattrMode::Replace,
                ];
                Operation::SetXattr {
                    target,
                    name,
                    value: self.bytes(max),
                    mode: *self.one_of(&mode),
                }
            }
            _ => {
                let set = |yes: bool, value: u64| yes.then_some(value);
                let change = SetAttributes {
                    mode: set(self.random.one_in(2), self.random.below(65_536)).map(|m| m as u16),
                    uid: set(self.random.one_in(3), 7).map(|id| id as u32),
                    gid: set(self.random.one_in(3), 8).map(|id| id as u32),
                    size: set(self.random.one_in(4), self.offset()),
                    atime_ns: self.time(),
                    mtime_ns: self.time(),
                };
                Operation::SetAttributes { target, change }
            }
        }
    }

    /// The next operation.
    pub fn next(&mut self) -> Operation {
        let choice = match self.random.below(100) {
            0..32 if self.known.len() > NAMES_MAX => 35 + self.random.below(15),
            choice => choice,
        };
        match choice {
            0..26 => Operation::Create {
                path: self.new_path(),
                new: self.new_inode(),
            },
            26..32 => Operation::Link {
                from: self.target(FileKind::File),
                to: self.new_path(),
            },
            32..38 => Operation::Unlink {
                path: self.path_of(FileKind::File),
            },
            38..40 => Operation::Unlink {
                path: self.path_of(FileKind::Symlink),
            },
            40..44 => Operation::Rmdir {
                path: self.path_of(FileKind::Directory),
            },
            44 => match self.random.below(3) {
                0 => Operation::RemoveTree {
                    path: self.any_path(),
                },
                1 => Operation::RemoveSome {
                    path: self.any_path(),
                },
                _ => Operation::Unlink {
                    path: self.path_of(FileKind::Fifo),
                },
            },
            45..57 => {
                let flags = RenameFlags {
                    no_replace: self.random.one_in(6),
                    exchange: self.random.one_in(4),
                };
                let to = if self.random.one_in(2) || flags.exchange {
                    self.any_path()
                } else {
                    self.new_path()
                };
                Operation::Rename {
                    from: self.any_path(),
                    to,
                    flags,
                }
            }
            57..60 => {
                let handle = self.random.index(HANDLES);
                Operation::Open {
                    target: self.any_target(),
                    handle,
                }
            }
            60 => Operation::Close {
                handle: self.random.index(HANDLES),
            },
            61 => Operation::ReadLink {
                path: self.path_of(FileKind::Symlink),
            },
            62..85 => self.content_operation(),
            _ => self.attribute_operation(),
        }
    }
}

//! Operations on files: what they do on a namespace, and what can be seen of it.
//!
//! The same operations go to the model in `posix.rs`; `generator.rs` makes them up. Nothing here depends on what is below the namespace,
//! so the tests of the real file system use it, too.

use std::collections::{BTreeMap, VecDeque};

use lfs::{
    FileError, FileKind, InodeNumber, Namespace, NewInode, ROOT, RenameFlags, SetAttributes,
    Sought, View, XattrMode,
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

impl Operation {
    /// Its name.
    pub fn kind(&self) -> String {
        /// Takes what is written up to the first space, and no more: there may be many bytes behind.
        struct Word(String);

        impl std::fmt::Write for Word {
            fn write_str(&mut self, text: &str) -> std::fmt::Result {
                let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
                self.0.push_str(word);
                if rest.is_empty() && word.len() == text.len() {
                    Ok(())
                } else {
                    Err(std::fmt::Error)
                }
            }
        }

        let mut word = Word(String::new());
        let _ = std::fmt::Write::write_fmt(&mut word, format_args!("{self:?}"));
        word.0
    }
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
            let mut from = *offset;
            return Ok(Outcome::Offset(loop {
                match files.seek(inode, from, *data)? {
                    Sought::At(place) => break Some(place),
                    Sought::Nowhere => break None,
                    Sought::Further(place) => {
                        assert!(place > from);
                        from = place;
                    }
                }
            }));
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
    let mut observer = Observer::new(handles);
    while observer.step(files)? {}
    Ok(observer.seen)
}

/// Looks at a namespace name by name. Whoever does each step in a transaction of its own never reads anything twice for
/// what a later step has to load; nothing may change meanwhile.
pub struct Observer {
    pub seen: Vec<Observed>,
    numbers: BTreeMap<InodeNumber, usize>,
    left: VecDeque<(Vec<u8>, InodeNumber)>,
}

impl Observer {
    pub fn new(handles: &Handles) -> Self {
        let mut left = VecDeque::from([(b"/".to_vec(), ROOT)]);
        for (handle, inode) in handles.iter().enumerate() {
            left.extend(inode.map(|inode| (format!("handle {handle}").into_bytes(), inode)));
        }
        Self {
            seen: Vec::new(),
            numbers: BTreeMap::new(),
            left,
        }
    }

    /// Looks at the next name; false when there is none left.
    ///
    /// # Errors
    /// What the namespace says; the name is still the next.
    pub fn step<V: View>(&mut self, files: &mut Namespace<'_, V>) -> Result<bool, FileError> {
        let Some(&(ref path, inode)) = self.left.front() else {
            return Ok(false);
        };
        let stat = files.stat(inode)?;
        assert_eq!(stat.inode, inode);
        let known = self.numbers.get(&inode).copied();
        let number = known.unwrap_or(self.numbers.len());
        let mut children = Vec::new();
        if known.is_none() && stat.kind == FileKind::Directory {
            for (name, child) in list(files, inode)? {
                children.push(([path, &b"/"[..], &name].concat(), child));
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
            Some(files.parent(inode)?)
        } else {
            None
        };
        self.numbers.insert(inode, number);
        self.seen.push(Observed {
            path: path.clone(),
            number,
            kind: stat.kind,
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            links: stat.links,
            size: stat.size,
            device: stat.device,
            times: [stat.atime_ns, stat.mtime_ns, stat.ctime_ns, stat.btime_ns],
            content: known.is_none().then_some(content),
            attributes,
            parent: parent.and_then(|parent| self.numbers.get(&parent).copied()),
        });
        self.left.pop_front();
        self.left.extend(children);
        Ok(true)
    }
}

/// The entries of a directory by name, listed in small steps.
fn list<V: View>(
    files: &mut Namespace<'_, V>,
    directory: InodeNumber,
) -> Result<BTreeMap<Vec<u8>, InodeNumber>, FileError> {
    let mut entries = BTreeMap::new();
    let mut after = Some(0);
    while let Some(cookie) = after {
        let some = files.read_dir(directory, cookie, 3)?;
        assert!(!some.entries.is_empty() || some.next.is_none());
        after = some.next;
        assert!(after.is_none_or(|next| next > cookie && next < 1 << 63));
        for entry in some.entries {
            assert!(entry.cookie > cookie && after.is_none_or(|next| entry.cookie <= next));
            assert_eq!(files.lookup(directory, &entry.name)?, entry.inode);
            assert_eq!(files.stat(entry.inode)?.kind, entry.kind);
            assert!(
                entries.insert(entry.name, entry.inode).is_none(),
                "listed twice"
            );
        }
    }
    Ok(entries)
}

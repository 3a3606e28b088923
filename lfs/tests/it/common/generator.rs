//! Operations on files that follow a seed.

use lfs::sim::Random;
use lfs::{FileKind, NewInode, RenameFlags, SetAttributes, XattrMode};

use super::operation::{HANDLES, Observed, Operation, Target, TreePath};

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

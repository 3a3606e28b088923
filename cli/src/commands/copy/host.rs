//! The host as an end of a copy.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, FileTypeExt as _, MetadataExt as _};
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};

use lfs::FileKind;
use rustix::fs::{
    self as host, AtFlags, CWD, FileType, Mode, OFlags, SeekFrom, Timespec, Timestamps,
};
use rustix::io::Errno;

use super::node::{Node, Source, Target, temporary_name};
use crate::error::{About as _, Error, Outcome};

/// Bytes of a file that are read or written at once.
const PIECE_BYTES: usize = 1 << 20;

/// The host to copy from. Nodes are paths.
pub(super) struct HostSource;

impl Source for HostSource {
    type Node = PathBuf;
    type Reader = (File, PathBuf);

    async fn look(&self, path: &PathBuf) -> Outcome<Node> {
        look(path).about(&path.display())
    }

    async fn children(&self, path: &PathBuf) -> Outcome<Vec<(Vec<u8>, PathBuf)>> {
        let list = || -> io::Result<_> {
            let mut children = Vec::new();
            for entry in fs::read_dir(path)? {
                let entry = entry?;
                children.push((entry.file_name().into_vec(), entry.path()));
            }
            Ok(children)
        };
        list().about(&path.display())
    }

    async fn open(&self, path: &PathBuf) -> Outcome<Self::Reader> {
        // What was a file when it was looked at may be a FIFO by now.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
        Ok((file.about(&path.display())?, path.clone()))
    }

    async fn next_data(
        &self,
        (file, path): &mut Self::Reader,
        offset: u64,
    ) -> Outcome<Option<(u64, u64)>> {
        let range = match host::seek(&*file, SeekFrom::Data(offset)) {
            Ok(start) => host::seek(&*file, SeekFrom::Hole(start)).map(|end| Some((start, end))),
            Err(Errno::NXIO) => Ok(None),
            Err(error) => Err(error),
        };
        range.map_err(io::Error::from).about(&path.display())
    }

    async fn read(
        &self,
        (file, path): &mut Self::Reader,
        offset: u64,
        len: usize,
    ) -> Outcome<Vec<u8>> {
        let mut bytes = vec![0; len];
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).about(&path.display()),
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    fn shown(&self, path: &PathBuf) -> String {
        path.display().to_string()
    }
}

fn look(path: &Path) -> io::Result<Node> {
    let found = fs::symlink_metadata(path)?;
    let kind = found.file_type();
    let kind = match kind {
        _ if kind.is_file() => FileKind::File,
        _ if kind.is_dir() => FileKind::Directory,
        _ if kind.is_symlink() => FileKind::Symlink,
        _ if kind.is_fifo() => FileKind::Fifo,
        _ if kind.is_socket() => FileKind::Socket,
        _ if kind.is_char_device() => FileKind::CharDevice,
        _ => FileKind::BlockDevice,
    };
    let nanos =
        |seconds: i64, nanos: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
    Ok(Node {
        kind,
        mode: u16::try_from(found.mode() & 0o7777).unwrap_or_default(),
        uid: found.uid(),
        gid: found.gid(),
        size: found.size(),
        device: found.rdev(),
        atime_ns: nanos(found.atime(), found.atime_nsec()),
        mtime_ns: nanos(found.mtime(), found.mtime_nsec()),
        links: found.nlink(),
        identity: (found.dev(), found.ino()),
        attributes: attributes(path)?,
        target: match kind {
            FileKind::Symlink => fs::read_link(path)?.into_os_string().into_vec(),
            _ => Vec::new(),
        },
    })
}

/// The extended attributes in the user namespace.
fn attributes(path: &Path) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    // As large as the kernel lets them be.
    let mut names = vec![0; 65_536];
    let len = match host::llistxattr(path, &mut names[..]) {
        Ok(len) => len,
        // A file system without them.
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    names.truncate(len);
    let mut attributes = Vec::new();
    for name in names.split(|&byte| byte == 0) {
        if !name.starts_with(b"user.") {
            continue;
        }
        let mut value = vec![0; 65_536];
        let len = host::lgetxattr(path, name, &mut value[..])?;
        value.truncate(len);
        attributes.push((name.to_vec(), value));
    }
    Ok(attributes)
}

/// The host to copy to.
pub(super) struct HostTarget {
    /// Only root gives files away.
    keep_owner: bool,
    /// What the copy is to become, if it has been said: a device or FIFO there, such as `/dev/stdout`, is written to and not
    /// replaced. Anywhere else one may be there because the image says so.
    named: Option<PathBuf>,
    /// The images that are copied from, by device and inode: what is in them does not take their place.
    images: Vec<(u64, u64)>,
}

/// A file on its way to the host.
pub(super) struct HostWriter {
    path: PathBuf,
    /// What it is called until it is whole; none when it is written where it is.
    temporary: Option<Temporary>,
    file: File,
}

/// A file that goes away unless it gets a name of its own.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a rename it is not there.
        let _ = fs::remove_file(&self.0);
    }
}

impl HostTarget {
    pub(super) fn new<'i>(named: Option<PathBuf>, images: impl Iterator<Item = &'i Path>) -> Self {
        let images = images.filter_map(|image| fs::metadata(image).ok());
        Self {
            keep_owner: rustix::process::geteuid().is_root(),
            named,
            images: images.map(|found| (found.dev(), found.ino())).collect(),
        }
    }

    /// Gives what is whole its name, in the place of what has that.
    fn replace(&self, temporary: &Temporary, path: &Path) -> io::Result<()> {
        let is_image = |found: fs::Metadata| self.images.contains(&(found.dev(), found.ino()));
        if fs::symlink_metadata(path).is_ok_and(is_image) {
            return Err(io::Error::other("it is the image that is copied from"));
        }
        fs::rename(&temporary.0, path)
    }

    /// The permissions that a copy of this gets. A program that runs as its owner or group does not become one that runs as
    /// whoever copies it.
    fn mode(&self, node: &Node) -> Mode {
        let mode = Mode::from_raw_mode(u32::from(node.mode));
        if self.keep_owner || node.kind == FileKind::Directory {
            return mode;
        }
        let mut kept = mode;
        kept.set(
            Mode::SUID,
            mode.contains(Mode::SUID) && node.uid == rustix::process::geteuid().as_raw(),
        );
        kept.set(
            Mode::SGID,
            mode.contains(Mode::SGID) && node.gid == rustix::process::getegid().as_raw(),
        );
        kept
    }

    /// Gives the file at `path` what a copy keeps.
    fn keep(&self, path: &Path, node: &Node) -> io::Result<()> {
        if self.keep_owner {
            let uid = rustix::fs::Uid::from_raw(node.uid);
            let gid = rustix::fs::Gid::from_raw(node.gid);
            host::chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        for (name, value) in &node.attributes {
            match host::lsetxattr(path, name.as_slice(), value, host::XattrFlags::empty()) {
                Ok(()) | Err(Errno::NOTSUP) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if node.kind != FileKind::Symlink {
            host::chmodat(CWD, path, self.mode(node), AtFlags::empty())?;
        }
        let times = Timestamps {
            last_access: timespec(node.atime_ns),
            last_modification: timespec(node.mtime_ns),
        };
        host::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    /// Runs `make` for a temporary name beside `path`, and gives what it made the name `path`.
    fn put(
        &self,
        path: &Path,
        node: &Node,
        make: impl FnOnce(&Path) -> io::Result<()>,
    ) -> io::Result<()> {
        let temporary = Temporary(beside(path));
        make(&temporary.0)?;
        self.keep(&temporary.0, node)?;
        self.replace(&temporary, path)
    }
}

impl Target for HostTarget {
    type Directory = PathBuf;
    type File = PathBuf;
    type Writer = HostWriter;

    async fn make_directory(&self, parent: &PathBuf, name: &[u8]) -> Outcome<PathBuf> {
        let path = child(parent, name)?;
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Not through a symbolic link: that would leave the place that was named.
                let found = fs::symlink_metadata(&path).about(&path.display())?;
                if !found.is_dir() {
                    return Err(Error::new(path.display(), "not a directory"));
                }
            }
            made => made.about(&path.display())?,
        }
        Ok(path)
    }

    async fn identity(&self, _: &PathBuf) -> Option<(u64, u64)> {
        // Nothing is copied from the host to the host.
        None
    }

    async fn finish_directory(&self, path: &PathBuf, node: &Node) -> Outcome<()> {
        self.keep(path, node).about(&path.display())
    }

    async fn start_file(&self, parent: &PathBuf, name: &[u8]) -> Outcome<HostWriter> {
        let path = child(parent, name)?;
        let special = self.named.as_ref() == Some(&path)
            && fs::metadata(&path).is_ok_and(|found| !found.is_file() && !found.is_dir());
        let (temporary, file) = if special {
            let path = path.clone();
            let open = move || OpenOptions::new().write(true).open(path);
            (None, blocking(open).await)
        } else {
            let temporary = beside(&path);
            let file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&temporary);
            (Some(temporary), file)
        };
        let file = file.about(&path.display())?;
        Ok(HostWriter {
            path,
            temporary: temporary.map(Temporary),
            file,
        })
    }

    fn piece_bytes(&self) -> usize {
        PIECE_BYTES
    }

    async fn write(&self, writer: &mut HostWriter, offset: u64, bytes: Vec<u8>) -> Outcome<()> {
        let written = if writer.temporary.is_some() {
            writer.file.write_all_at(&bytes, offset)
        } else {
            let file = writer.file.try_clone();
            blocking(move || io::Write::write_all(&mut file?, &bytes)).await
        };
        match written {
            // The reader of a pipe has gone.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Error::OutputClosed),
            written => written.about(&writer.path.display()),
        }
    }

    async fn finish_file(&self, writer: HostWriter, node: &Node) -> Outcome<PathBuf> {
        let HostWriter {
            path,
            temporary,
            file,
        } = writer;
        let finish = || -> io::Result<()> {
            let Some(temporary) = &temporary else {
                return Ok(());
            };
            file.set_len(node.size)?;
            self.keep(&temporary.0, node)?;
            self.replace(temporary, &path)
        };
        finish().about(&path.display())?;
        Ok(path)
    }

    async fn make_special(&self, parent: &PathBuf, name: &[u8], node: &Node) -> Outcome<PathBuf> {
        let path = child(parent, name)?;
        let kind = match node.kind {
            FileKind::Fifo => FileType::Fifo,
            FileKind::Socket => FileType::Socket,
            FileKind::CharDevice => FileType::CharacterDevice,
            _ => FileType::BlockDevice,
        };
        self.put(&path, node, |temporary| match node.kind {
            FileKind::Symlink => symlink(OsStr::from_bytes(&node.target), temporary),
            _ => Ok(host::mknodat(
                CWD,
                temporary,
                kind,
                self.mode(node),
                node.device,
            )?),
        })
        .about(&path.display())?;
        Ok(path)
    }

    async fn link(&self, file: &PathBuf, parent: &PathBuf, name: &[u8]) -> Outcome<()> {
        let path = child(parent, name)?;
        let temporary = Temporary(beside(&path));
        fs::hard_link(file, &temporary.0)
            .and_then(|()| self.replace(&temporary, &path))
            .about(&path.display())
    }
}

/// Does what waits for others, such as for the reader of a pipe, while signals are heard.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// The path of an entry. Names come from an image, which may be anybody's: none may lead elsewhere.
fn child(parent: &Path, name: &[u8]) -> Outcome<PathBuf> {
    let path = parent.join(OsStr::from_bytes(name));
    let harmless = !name.is_empty()
        && name != b"."
        && name != b".."
        && !name.contains(&b'/')
        && !name.contains(&0);
    if harmless {
        Ok(path)
    } else {
        Err(Error::new(path.display(), "not a name"))
    }
}

fn beside(path: &Path) -> PathBuf {
    path.with_file_name(OsStr::from_bytes(&temporary_name()))
}

fn timespec(since_epoch_ns: i64) -> Timespec {
    Timespec {
        tv_sec: since_epoch_ns.div_euclid(1_000_000_000),
        tv_nsec: since_epoch_ns.rem_euclid(1_000_000_000),
    }
}

//! Locks that keep two programs from working on one image.
//!
//! Two kinds, because there are two kinds of others. A lock on the whole file (`flock`) is what the host tool and the
//! hosted server agree on. QEMU marks an image with locks of its open file description on single bytes: byte
//! 100 + P says "I use permission P", byte 200 + P "I do not share P with others". Each is a shared lock that is set
//! first; then one asks whether somebody else's mark contradicts. Doing the same keeps QEMU out, too.
//!
//! A loop device takes no lock on its file. So whoever wants to write to a file that one is made of is refused.

use alloc::format;
use alloc::string::String;
use std::fs::{File, Metadata, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use super::Access;

/// QEMU's permissions, by bit number.
const CONSISTENT_READ: i64 = 0;
const WRITE: i64 = 1;
const WRITE_UNCHANGED: i64 = 2;
const RESIZE: i64 = 3;

const USED_BASE: i64 = 100;
const UNSHARED_BASE: i64 = 200;

/// Locks `file`, which has this metadata, until it is closed.
///
/// # Errors
/// When somebody has it open in a way that excludes `access`.
pub(super) fn take(file: &File, found: &Metadata, access: Access) -> io::Result<()> {
    if access == Access::Write
        && found.is_file()
        && let Some(device) = loop_device(found)
    {
        return Err(in_use(&format!("the loop device {device}")));
    }
    let whole = match access {
        Access::Read => file.try_lock_shared(),
        Access::Write => file.try_lock(),
    };
    whole.map_err(|error| match error {
        TryLockError::Error(error) => error,
        TryLockError::WouldBlock => in_use("another process"),
    })?;
    let (used, unshared): (&[i64], &[i64]) = match access {
        Access::Read => (&[CONSISTENT_READ], &[WRITE, RESIZE]),
        Access::Write => {
            const ALL: &[i64] = &[CONSISTENT_READ, WRITE, WRITE_UNCHANGED, RESIZE];
            (ALL, ALL)
        }
    };
    for permission in used {
        mark(file, USED_BASE + permission)?;
    }
    for permission in unshared {
        mark(file, UNSHARED_BASE + permission)?;
    }
    let contradicted = used
        .iter()
        .map(|permission| UNSHARED_BASE + permission)
        .chain(unshared.iter().map(|permission| USED_BASE + permission));
    for byte in contradicted {
        if is_marked_by_others(file, byte)? {
            return Err(in_use("a running machine"));
        }
    }
    Ok(())
}

pub(super) fn in_use(by: &str) -> io::Error {
    io::Error::new(io::ErrorKind::ResourceBusy, format!("in use by {by}"))
}

/// The loop device that this file is under, if the kernel tells of one.
fn loop_device(found: &Metadata) -> Option<String> {
    std::fs::read_dir("/sys/block")
        .ok()?
        .flatten()
        .find_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            // Other devices have none.
            let file = std::fs::read_to_string(entry.path().join("loop/backing_file")).ok()?;
            let under = std::fs::metadata(file.trim_end_matches('\n')).ok()?;
            let same = (under.dev(), under.ino()) == (found.dev(), found.ino());
            same.then(|| format!("/dev/{name}"))
        })
}

fn mark(file: &File, byte: i64) -> io::Result<()> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&range(libc::F_RDLCK, byte))) {
        Ok(_) => Ok(()),
        Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => {
            Err(in_use("another process"))
        }
        Err(error) => Err(error.into()),
    }
}

fn is_marked_by_others(file: &File, byte: i64) -> io::Result<bool> {
    let mut found = range(libc::F_WRLCK, byte);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut found))?;
    Ok(i32::from(found.l_type) != libc::F_UNLCK)
}

fn range(kind: i32, byte: i64) -> libc::flock {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "kinds of locks and SEEK_SET are small numbers"
    )]
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte,
        l_len: 1,
        // Required to be zero for locks of an open file description.
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString as _;
    use std::fs::OpenOptions;
    use std::path::Path;

    use super::*;

    fn take(file: &File, access: Access) -> io::Result<()> {
        super::take(file, &file.metadata().expect("it tells"), access)
    }

    fn open(path: &Path) -> File {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        options.open(path).expect("opens")
    }

    #[test]
    fn many_read_or_one_writes() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("image");
        let first = open(&path);
        take(&first, Access::Read).expect("free");
        let second = open(&path);
        take(&second, Access::Read).expect("readers share");
        let writer = take(&open(&path), Access::Write).expect_err("read by others");
        assert_eq!(writer.kind(), io::ErrorKind::ResourceBusy);
        drop((first, second));
        let writer = open(&path);
        take(&writer, Access::Write).expect("free again");
        for access in [Access::Read, Access::Write] {
            let error = take(&open(&path), access).expect_err("written by another");
            assert!(error.to_string().contains("in use"), "{error}");
        }
    }

    /// What QEMU does with an image it writes: the marks alone, without the lock on the whole file.
    #[test]
    fn a_machine_keeps_us_out_and_we_keep_it_out() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("image");
        let machine = open(&path);
        for byte in [100, 101, 103, 201, 203] {
            mark(&machine, byte).expect("marks");
        }
        for access in [Access::Read, Access::Write] {
            let error = take(&open(&path), access).expect_err("a machine has it");
            assert!(error.to_string().contains("machine"), "{error}");
        }
        drop(machine);
        let ours = open(&path);
        take(&ours, Access::Read).expect("free");
        let machine = open(&path);
        mark(&machine, USED_BASE + WRITE).expect("marks");
        assert!(is_marked_by_others(&machine, UNSHARED_BASE + WRITE).expect("asks"));
    }
}

//! Durable writes past the host's memory (`O_DIRECT` and `O_DSYNC`): they wait for no other write to the same file.
//!
//! It is for speed alone: where the host has no such writes, or not of our blocks, that is found out once, and nothing is written this way any more.

use alloc::format;
use core::sync::atomic::{AtomicBool, Ordering};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::sync::OnceLock;

use rustix::fs::OFlags;

/// The way there, once it was asked for.
#[derive(Debug, Default)]
pub(super) struct Direct {
    file: OnceLock<Option<File>>,
    /// The host has it, but does not write our blocks this way.
    is_refused: AtomicBool,
}

impl Direct {
    /// Writes whole blocks to `file`, always the same one, so that they are durable when this returns: whether the host can. If not, they may be written in part.
    ///
    /// # Errors
    /// What the host says. What is there then is unknown.
    pub(super) fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<bool> {
        if self.is_refused.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let Some(direct) = self.file.get_or_init(|| open(file).ok()) else {
            return Ok(false);
        };
        match direct.write_all_at(bytes, offset) {
            Ok(()) => Ok(true),
            // Its blocks may be larger than ours.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                self.is_refused.store(true, Ordering::Relaxed);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// With the way to another file, for what the host says there.
    #[cfg(test)]
    pub(super) fn to(&self, other: File) {
        self.file.set(Some(other)).expect("nothing was written");
    }

    /// Whether the host was found not to write our blocks this way.
    #[cfg(test)]
    pub(super) fn is_refused(&self) -> bool {
        self.is_refused.load(Ordering::Relaxed)
    }

    /// Whether something can be written this way to a file like that.
    #[cfg(test)]
    pub(super) fn is_there(file: &File, block: &[u8]) -> bool {
        Self::default().write(file, block, 0).expect("written")
    }
}

/// Opens a file once more. Not a block device: where others write to the host's memory of the same blocks meanwhile, nothing there keeps the two apart.
fn open(file: &File) -> io::Result<File> {
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let flags = OFlags::DIRECT | OFlags::DSYNC;
    OpenOptions::new()
        .write(true)
        .custom_flags(flags.bits().cast_signed())
        .open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

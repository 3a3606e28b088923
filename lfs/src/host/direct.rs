//! Durable writes past the host's memory (`O_DIRECT` and `O_DSYNC`): they wait for no other write to the same file.
//!
//! It is for speed alone: where the host has no such writes, or not of our blocks, that is found out once, and nothing is written this way any more.

use alloc::format;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::sync::OnceLock;

use rustix::fs::OFlags;
use rustix::io::{Errno, pwritev};

/// Written as often as it takes: a page of the host's and more, at a place that it writes from.
pub(super) static ZEROS: Zeros = Zeros([0; ZEROS_BYTES]);

#[repr(align(4096))]
pub(super) struct Zeros(pub(super) [u8; ZEROS_BYTES]);

const ZEROS_BYTES: usize = 64 << 10;

/// Times they are written in one request: a MiB.
const ZEROS_AT_ONCE: usize = 16;

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
        let Some(direct) = self.way_to(file) else {
            return Ok(false);
        };
        self.unless_refused(direct.write_all_at(bytes, offset))
    }

    /// Writes zeros to whole blocks of `file`, always the same one, so that they are durable when this returns: whether the host can. If not, they may be written in part.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub(super) fn write_zeros(&self, file: &File, mut range: Range<u64>) -> io::Result<bool> {
        while !range.is_empty() {
            let Some(direct) = self.way_to(file) else {
                return Ok(false);
            };
            let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
            let mut zeros = [IoSlice::new(&ZEROS.0); ZEROS_AT_ONCE];
            let (whole, rest) = (len / ZEROS_BYTES, len % ZEROS_BYTES);
            let mut count = whole.min(ZEROS_AT_ONCE);
            if let Some(last) = zeros.get_mut(whole)
                && rest > 0
            {
                *last = IoSlice::new(ZEROS.0.get(..rest).unwrap_or_default());
                count += 1;
            }
            match pwritev(direct, zeros.get(..count).unwrap_or_default(), range.start) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => range.start += written as u64,
                Err(Errno::INTR) => {}
                Err(error) => return self.unless_refused(Err(error.into())),
            }
        }
        Ok(true)
    }

    /// The file for that, unless there is none or it was found to be of no use.
    fn way_to(&self, file: &File) -> Option<&File> {
        let is_refused = self.is_refused.load(Ordering::Relaxed);
        let direct = self.file.get_or_init(|| open(file).ok()).as_ref();
        direct.filter(|_| !is_refused)
    }

    /// Whether that was `written`. The host's blocks may be larger than ours: then it is not, and never will be.
    fn unless_refused(&self, written: io::Result<()>) -> io::Result<bool> {
        match written {
            Ok(()) => Ok(true),
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

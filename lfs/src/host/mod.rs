//! Linux under the file system: what programs that work on images there have in common (feature `host`).
//!
//! - [`FileDevice`]: a file or block device as the disk, locked (`lock`) against other programs and machines, its blocks made ready (`ahead`) for
//!   small durable writes, which go past the host's memory (`direct`), by a thread that stands by for them (`standby`, `handover`), and how it is read without one (`reading`);
//! - [`HostClock`], [`entropy`]: time and chance;
//! - [`run`], [`interrupted`]: the executor, on tokio's runtime, and the signals that end a program;
//! - [`read_secret`], [`parse_size`]: what such programs are told on their command lines.
//!
//! One thread runs everything that touches a file system; requests to devices run on the runtime's blocking threads.
//!
//! Not here: what a program does with all that. The rest of this crate knows nothing of it.

mod ahead;
mod clock;
mod device;
mod direct;
mod handover;
mod lock;
mod reading;
mod standby;

/// Those of [`handover`].
mod atomics {
    pub(super) use core::sync::atomic::{AtomicBool, Ordering};
    pub(super) use std::sync::{Mutex, MutexGuard};
}

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::future::pending;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use embassy_futures::select::select;
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;
use zeroize::Zeroizing;

pub use self::clock::{HostClock, now_ns, since_epoch_ns};
pub use self::device::{Access, FileDevice, sync_directory_of};

/// Requests to devices that run at the same time.
const BLOCKING_THREADS_MAX: usize = 64;

/// One more than a secret may have, so that longer ones show.
const SECRET_BYTES_READ: u64 = 64 * 1024 + 1;

/// Whether there is more than one processor: where one waits without sleeping, others go on.
fn has_more_processors() -> bool {
    std::thread::available_parallelism().is_ok_and(|processors| processors.get() > 1)
}

/// Runs `program` to its end on this thread, with what devices, clocks and signals need.
///
/// # Errors
/// When the host gives no runtime.
pub fn run<T>(program: impl Future<Output = T>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .build()?;
    let result = LocalSet::new().block_on(&runtime, program);
    // What nobody waited for, such as for the reader of a pipe, does not hold up the end.
    runtime.shutdown_background();
    Ok(result)
}

/// Completes on Ctrl-C or a request to terminate.
pub async fn interrupted() {
    let signals = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    );
    match signals {
        (Ok(mut interrupt), Ok(mut terminate)) => {
            select(interrupt.recv(), terminate.recv()).await;
        }
        // Without handlers the signals end the process, which an image survives.
        _ => pending().await,
    }
}

/// Random bytes from the kernel.
///
/// # Errors
/// When it has none to give.
pub fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    fill(&mut bytes)?;
    Ok(bytes)
}

/// Fills `bytes` from the kernel's generator, for [`Unlock`](crate::Unlock) and [`Encryption`](crate::Encryption).
///
/// # Panics
/// When the kernel has none to give. Going on would give away what is encrypted.
pub fn entropy(bytes: &mut [u8]) {
    let filled = fill(bytes);
    assert!(filled.is_ok(), "no random bytes from the kernel");
}

fn fill(mut bytes: &mut [u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match getrandom(&mut *bytes, GetRandomFlags::empty()) {
            Ok(len) => bytes = bytes.get_mut(len..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The content of the file at `path`, as far as a secret may be long. Wiped when dropped.
///
/// # Errors
/// When it cannot be read.
pub fn read_secret(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut content = Zeroizing::new(Vec::new());
    // All at once: growing would leave copies behind.
    content.reserve_exact(usize::try_from(SECRET_BYTES_READ).unwrap_or(usize::MAX));
    File::open(path)?
        .take(SECRET_BYTES_READ)
        .read_to_end(&mut content)?;
    Ok(content)
}

/// A size such as `4096`, `64K`, `256M` or `1GiB`, in powers of two.
///
/// # Errors
/// A text that says what is wrong with it.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = text.get(digits.len()..).unwrap_or_default();
    let shift = match unit.to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        "T" | "TB" | "TIB" => 40,
        _ => return Err(format!("'{unit}' is no unit of size")),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("'{digits}' is no number"))?;
    number
        .checked_mul(1 << shift)
        // What the host's file sizes can be.
        .filter(|&bytes| i64::try_from(bytes).is_ok())
        .ok_or_else(|| "too large".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("256M"), Ok(256 << 20));
        assert_eq!(parse_size("1GiB"), Ok(1 << 30));
        assert_eq!(parse_size("2t"), Ok(2 << 40));
        for bad in [
            "",
            "M",
            "-1",
            "1.5G",
            "3X",
            "99999999999999999999",
            "8388608T",
        ] {
            parse_size(bad).expect_err(bad);
        }
    }
}

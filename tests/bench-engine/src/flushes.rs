//! How often a process asks for durability: every engine here is linked into this program, so its calls of the C library's
//! functions for that come here first.
//!
//! Each is counted and carried out by the kernel, as the library's own would. But for one: `sync_file_range` starts and
//! awaits write-back, and neither makes a file's size durable nor empties the disk's cache, so a store that acknowledges after it
//! promises less than the others. Here it is `fdatasync`, so that all promise the same.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::atomic::{AtomicU64, Ordering};

static FLUSHES: AtomicU64 = AtomicU64::new(0);

/// Flushes of this process so far.
pub fn count() -> u64 {
    FLUSHES.load(Ordering::Relaxed)
}

/// Counts a flush that comes in another guise, such as a write to a file that was opened with `O_DSYNC`.
pub fn note() {
    FLUSHES.fetch_add(1, Ordering::Relaxed);
}

/// Asks the kernel. Like the C library, it leaves the reason of a failure in `errno`.
fn ask(call: libc::c_long, file: c_int) -> c_int {
    note();
    // SAFETY: the call takes one number, which the kernel checks, and touches no memory of this process.
    let answer = unsafe { libc::syscall(call, file) };
    c_int::from(answer == 0) - 1
}

#[unsafe(no_mangle)]
extern "C" fn fsync(file: c_int) -> c_int {
    ask(libc::SYS_fsync, file)
}

#[unsafe(no_mangle)]
extern "C" fn fdatasync(file: c_int) -> c_int {
    ask(libc::SYS_fdatasync, file)
}

#[unsafe(no_mangle)]
extern "C" fn sync_file_range(file: c_int, _: i64, _: i64, _: c_uint) -> c_int {
    ask(libc::SYS_fdatasync, file)
}

#[unsafe(no_mangle)]
extern "C" fn msync(start: *mut c_void, len: usize, flags: c_int) -> c_int {
    note();
    // SAFETY: the kernel checks the range and the flags, and changes no byte of it.
    let answer = unsafe { libc::syscall(libc::SYS_msync, start, len, flags) };
    c_int::from(answer == 0) - 1
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd as _;

    use super::count;

    /// Were the C library's own functions called, all columns of flushes would say 0.
    #[test]
    fn calls_of_others_are_counted() {
        let file = tempfile::tempfile().expect("a file");
        let mut before = count();
        let mut counted = |what: &str| {
            let now = count();
            assert!(now > before, "{what}");
            before = now;
        };
        file.sync_data().expect("synced");
        counted("the standard library's sync_data");
        file.sync_all().expect("synced");
        counted("its sync_all");
        // SAFETY: the descriptor is open.
        let synced = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, 0) };
        assert_eq!(synced, 0);
        counted("sync_file_range");
    }

    #[test]
    fn a_failure_is_told() {
        let (reader, _writer) = std::io::pipe().expect("a pipe");
        let error = File::from(std::os::fd::OwnedFd::from(reader)).sync_all();
        let error = error.expect_err("a pipe cannot be flushed");
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
}

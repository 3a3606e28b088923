//! What a process and its files take, as the kernel tells.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::fs::{Advice, fadvise};

/// Of a block of `st_blocks`.
const SECTOR_BYTES: u64 = 512;

/// Bytes that this process caused to be written to a disk: pages of files when they became dirty, less those that were cut off
/// before they were written.
pub fn bytes_written() -> u64 {
    let [written, cancelled] = ["write_bytes:", "cancelled_write_bytes:"].map(io);
    written.saturating_sub(cancelled)
}

/// Bytes that this process caused to be read from a disk, because the kernel had them not in memory.
pub fn bytes_read() -> u64 {
    io("read_bytes:")
}

fn io(field: &str) -> u64 {
    let io = fs::read_to_string("/proc/self/io").expect("the kernel counts a process's bytes");
    let line = io.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|number| number.trim().parse().ok())
        .expect("a number")
}

/// The most memory that was resident at any time, in bytes.
pub fn memory_bytes_peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kibibytes.expect("a number") << 10
}

/// What the files in a directory take on the disk, holes not included.
pub fn disk_bytes(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else {
        // Compactions remove directories, too.
        return 0;
    };
    let bytes = entries.map_while(Result::ok).map(|entry| {
        match entry.metadata() {
            Ok(found) if found.is_dir() => disk_bytes(&entry.path()),
            Ok(found) => found.blocks() * SECTOR_BYTES,
            // It is gone by now.
            Err(_) => 0,
        }
    });
    bytes.sum()
}

/// Makes all files in a directory durable and lets the kernel forget what it holds of them in memory, so that they are read
/// from the disk again. What is mapped stays.
pub fn drop_page_cache(directory: &Path) {
    // Only clean pages can go.
    for_each_file(directory, &mut |file| _ = file.sync_all());
    forget(directory);
}

fn forget(directory: &Path) {
    for_each_file(directory, &mut |file| {
        _ = fadvise(file, 0, None, Advice::DontNeed);
    });
}

/// Of files that are gone by then nothing is in memory.
fn for_each_file(directory: &Path, each: &mut dyn FnMut(&File)) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            for_each_file(&path, each);
        } else if let Ok(file) = File::open(&path) {
            each(&file);
        }
    }
}

/// As long as this is there the kernel forgets every [`FORGET_INTERVAL`] what it holds of the files in a directory in memory, as one that had other uses for it would. What
/// is mapped stays, and what is not yet written does until the next time.
pub struct Forgetting {
    ends: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

/// Short beside the time in which all data are read: 400 blocks in it where a disk reads 40,000 in a second.
const FORGET_INTERVAL: Duration = Duration::from_millis(10);

impl Forgetting {
    pub fn begin(directory: &Path) -> Self {
        let (ends, ended) = mpsc::channel();
        let directory = directory.to_path_buf();
        let thread = thread::spawn(move || {
            while ended.recv_timeout(FORGET_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                forget(&directory);
            }
        });
        Self {
            ends,
            thread: Some(thread),
        }
    }
}

impl Drop for Forgetting {
    fn drop(&mut self) {
        let _ = self.ends.send(());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("it forgets");
        }
    }
}

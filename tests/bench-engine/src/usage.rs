//! What a process and its files take, as the kernel tells.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{Advice, fadvise};

/// Of a block of `st_blocks`.
const SECTOR_BYTES: u64 = 512;

/// Bytes that this process caused to be written to a disk: pages of files when they became dirty, less those that were cut off
/// before they were written.
pub fn bytes_written() -> u64 {
    let io = fs::read_to_string("/proc/self/io").expect("the kernel counts a process's bytes");
    let field = |name: &str| -> u64 {
        let line = io.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|number| number.trim().parse().ok())
            .expect("a number")
    };
    field("write_bytes:").saturating_sub(field("cancelled_write_bytes:"))
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
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            drop_page_cache(&path);
        } else if let Ok(file) = File::open(&path) {
            // Only clean pages can go.
            let _ = file.sync_all();
            let _ = fadvise(&file, 0, None, Advice::DontNeed);
        }
    }
}

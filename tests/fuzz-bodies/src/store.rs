//! A store on a simulated disk, as both bodies use it.

use std::rc::Rc;

use kvstore::{OpenError, Options, Store};
use lfs::sim::{Executor, SimClock, SimDisk};
use lfs::{FileSystemId, FormatOptions, format};

/// Blocks of a disk that a few hundred commits fit on: small, so that damage meets something.
const DISK_BLOCKS: usize = 1024;
const OPTIONS: Options = Options {
    memory_bytes_max: 4 << 20,
    open_memory_bytes_max: 8 << 20,
    hash_seed: 1,
    history_ms: 0,
};

/// An empty file system.
pub(crate) fn formatted_disk() -> SimDisk {
    let disk = SimDisk::new(DISK_BLOCKS, 1);
    let formatted = disk.clone();
    Executor::new(1).run(async move {
        let options = FormatOptions {
            segment_bytes: 32 << 10,
            log_segments: 16,
            created_ns: 0,
        };
        format(&formatted, options, FileSystemId([7; 16]))
            .await
            .expect("it fits");
    });
    disk
}

/// Opens the disk's store and runs `session` beside its background work.
pub(crate) fn with_store<T: 'static>(
    disk: &SimDisk,
    session: impl AsyncFnOnce(Rc<Store<SimDisk>>, SimClock) -> T + 'static,
) -> Result<T, OpenError> {
    let mut executor = Executor::new(2);
    let disk = disk.clone();
    let store = Rc::new(executor.run(async move { Store::open(disk, OPTIONS).await })?);
    let (background, clock) = (Rc::clone(&store), executor.clock());
    executor.spawn(async move { background.run(&clock).await });
    let clock = executor.clock();
    Ok(executor.run(session(store, clock)))
}

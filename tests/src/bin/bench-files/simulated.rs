//! The file system, used through its library, on a counted disk in simulated time.

use std::rc::Rc;

use lfs::sim::{Executor, Random, SimClock};
use lfs::{
    FileKind, FileSystem, FileSystemId, FormatOptions, InodeNumber, NewInode, ROOT, Recovery,
};

use crate::disk::CountedDisk;

pub type Counted = FileSystem<CountedDisk>;

/// What new files are.
pub const FILE: NewInode = NewInode::new(FileKind::File, 0o644);

/// A mounted file system whose background work goes on.
pub struct Simulated {
    pub executor: Executor,
    pub filesystem: Rc<Counted>,
    pub disk: CountedDisk,
}

impl Simulated {
    /// On a new disk in memory.
    pub fn new(bytes: u64) -> Self {
        let executor = Executor::new(1);
        let disk = CountedDisk::new(bytes, &executor.clock());
        Self::format(executor, disk, bytes)
    }

    /// On `disk`, whatever is on it.
    pub fn format(mut executor: Executor, disk: CountedDisk, bytes: u64) -> Self {
        let target = disk.clone();
        executor.run(async move {
            let options = FormatOptions::for_device_bytes(bytes);
            lfs::format(&target, options, FileSystemId([1; 16]))
                .await
                .unwrap();
        });
        Self::mount(executor, disk)
    }

    pub fn mount(mut executor: Executor, disk: CountedDisk) -> Self {
        let device = disk.clone();
        let filesystem = executor.run(async move {
            let mut recovery = Recovery::open(device).await.unwrap();
            while recovery.next_commit().await.unwrap().is_some() {}
            Rc::new(recovery.finish().await.unwrap())
        });
        let (running, clock) = (Rc::clone(&filesystem), executor.clock());
        executor.spawn(async move { running.run(&clock).await });
        Self {
            executor,
            filesystem,
            disk,
        }
    }

    /// Runs `work` to its end.
    pub fn run<T: 'static, F: Future<Output = T> + 'static>(
        &mut self,
        work: impl FnOnce(Rc<Counted>, SimClock) -> F,
    ) -> T {
        let (filesystem, clock) = (Rc::clone(&self.filesystem), self.executor.clock());
        self.executor.run(work(filesystem, clock))
    }

    /// Makes all durable, with a last checkpoint, and unmounts.
    pub fn shut_down(mut self) -> (Executor, CountedDisk) {
        self.run(|filesystem, clock| async move { filesystem.shutdown(&clock).await.unwrap() });
        (self.executor, self.disk)
    }
}

/// A new file in the root.
pub async fn create(filesystem: &Counted, name: &str) -> InodeNumber {
    let created = filesystem.transact(1, |transaction| {
        transaction.files().create(ROOT, name.as_bytes(), &FILE)
    });
    created.await.unwrap().0
}

/// Bytes that no compression makes smaller.
pub fn random_bytes(random: &mut Random, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&random.next_u64().to_le_bytes()[..chunk.len()]);
    }
    bytes
}

/// Writes `len` random bytes to a file from its start on, a few at a time.
pub async fn fill(filesystem: &Counted, inode: InodeNumber, len: u64, random: &mut Random) {
    const STEP: u64 = 64 << 10;
    let mut offset = 0;
    while offset < len {
        let bytes = random_bytes(random, STEP.min(len - offset));
        let written = filesystem.transact(1, |transaction| {
            transaction.files().write(inode, offset, &bytes)
        });
        written.await.unwrap();
        offset += STEP;
    }
}

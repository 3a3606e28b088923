//! What overwriting costs on a file system that is full to some part: device bytes per new byte, and how long the
//! longest wait of one operation was, in blocks written by the cleaner meanwhile.
//!
//!     cargo run --release -p lfs --features sim --example write-cost -- [MiB]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "a tool for the terminal"
)]

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use lfs::sim::{Executor, Random};
use lfs::{
    BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, Clock, DeviceError, DeviceGeometry, FileKind,
    FileSystem, FileSystemId, FormatOptions, NewInode, ROOT, Recovery,
};

/// A disk in memory that counts.
#[derive(Clone)]
struct RamDisk(Rc<Inner>);

struct Inner {
    blocks: RefCell<Vec<u8>>,
    written: Cell<u64>,
    flushes: Cell<u64>,
}

impl RamDisk {
    fn new(bytes: usize) -> Self {
        Self(Rc::new(Inner {
            blocks: RefCell::new(vec![0; bytes]),
            written: Cell::new(0),
            flushes: Cell::new(0),
        }))
    }
}

impl BlockDevice for RamDisk {
    fn geometry(&self) -> DeviceGeometry {
        DeviceGeometry {
            block_count: (self.0.blocks.borrow().len() / BLOCK_SIZE) as u64,
            discard: false,
        }
    }

    async fn read(
        &self,
        start: BlockIndex,
        mut buffer: Buffer,
    ) -> (Buffer, Result<(), DeviceError>) {
        let at = usize::try_from(start.0).unwrap() * BLOCK_SIZE;
        let len = buffer.bytes().len();
        buffer
            .bytes_mut()
            .copy_from_slice(&self.0.blocks.borrow()[at..at + len]);
        (buffer, Ok(()))
    }

    async fn write(&self, start: BlockIndex, buffer: Buffer) -> (Buffer, Result<(), DeviceError>) {
        let at = usize::try_from(start.0).unwrap() * BLOCK_SIZE;
        let len = buffer.bytes().len();
        self.0.blocks.borrow_mut()[at..at + len].copy_from_slice(buffer.bytes());
        self.0.written.set(self.0.written.get() + len as u64);
        embassy_futures::yield_now().await;
        (buffer, Ok(()))
    }

    async fn flush(&self) -> Result<(), DeviceError> {
        self.0.flushes.set(self.0.flushes.get() + 1);
        embassy_futures::yield_now().await;
        Ok(())
    }

    async fn discard(&self, _: BlockIndex, _: u64) -> Result<(), DeviceError> {
        Err(DeviceError::Unsupported)
    }
}

#[derive(Clone, Copy)]
enum Load {
    Uniform,
    /// Nine in ten overwrites go to a tenth of the data.
    Skewed,
}

const UNIT: u64 = 4096;
const BATCH: u64 = 16;

async fn overwrite(
    filesystem: &FileSystem<RamDisk>,
    inode: lfs::InodeNumber,
    units: u64,
    random: &mut Random,
    load: Load,
) {
    let mut last = filesystem.appended();
    for _ in 0..BATCH {
        let unit = match load {
            Load::Uniform => random.below(units),
            Load::Skewed if random.one_in(10) => units / 10 + random.below(units - units / 10),
            Load::Skewed => random.below(units / 10),
        };
        let mut bytes = vec![0; UNIT as usize];
        for chunk in bytes.chunks_exact_mut(8) {
            chunk.copy_from_slice(&random.next_u64().to_le_bytes());
        }
        let ((), commit) = filesystem
            .transact(1, |transaction| {
                transaction.files().write(inode, unit * UNIT, &bytes)
            })
            .await
            .unwrap();
        last = commit;
    }
    filesystem.wait_durable(last).await.unwrap();
}

fn measure(disk_bytes: u64, percent: u64, load: Load) {
    let disk = RamDisk::new(usize::try_from(disk_bytes).unwrap());
    let mut executor = Executor::new(1);
    let target = disk.clone();
    let options = FormatOptions::for_device_bytes(disk_bytes);
    let filesystem = executor.run(async move {
        lfs::format(&target, options, FileSystemId([1; 16]))
            .await
            .unwrap();
        let mut recovery = Recovery::open(target).await.unwrap();
        while recovery.next_commit().await.unwrap().is_some() {}
        Rc::new(recovery.finish().await.unwrap())
    });
    let running = Rc::clone(&filesystem);
    let clock = executor.clock();
    executor.spawn(async move { running.run(&clock).await });
    let (working, clock) = (Rc::clone(&filesystem), executor.clock());
    let counted = disk.clone();
    executor.run(async move {
        let filesystem = working;
        let capacity = filesystem.usage().capacity_bytes;
        let units = capacity * percent / 100 / (UNIT + 4);
        let mut random = Random::new(7);
        let new = NewInode::new(FileKind::File, 0o644);
        let (inode, _) = filesystem
            .transact(1, |transaction| {
                transaction.files().create(ROOT, b"data", &new)
            })
            .await
            .unwrap();
        let mut unit = 0;
        while unit < units {
            let count = 16.min(units - unit);
            let mut bytes = vec![0; (count * UNIT) as usize];
            for chunk in bytes.chunks_exact_mut(8) {
                chunk.copy_from_slice(&random.next_u64().to_le_bytes());
            }
            filesystem
                .transact(1, |transaction| {
                    transaction.files().write(inode, unit * UNIT, &bytes)
                })
                .await
                .unwrap();
            unit += count;
        }
        // Until it is in balance: three times the data.
        for _ in 0..3 * units / BATCH {
            overwrite(&filesystem, inode, units, &mut random, load).await;
            clock.sleep_ms(1).await;
        }
        let before = (counted.0.written.get(), filesystem.counters());
        let rounds = units / BATCH;
        for _ in 0..rounds {
            overwrite(&filesystem, inode, units, &mut random, load).await;
            clock.sleep_ms(1).await;
        }
        let after = (counted.0.written.get(), filesystem.counters());
        let new_bytes = (rounds * BATCH * UNIT) as f64;
        let cleaned = after.1.bytes_cleaned_written - before.1.bytes_cleaned_written;
        println!(
            "{percent:3} % {}: {:.3} device bytes per new byte ({:.3} by the cleaner), {} checkpoints, {} segments cleaned, live {:.3} of capacity",
            match load { Load::Uniform => "uniform", Load::Skewed => "90/10  " },
            (after.0 - before.0) as f64 / new_bytes,
            cleaned as f64 / new_bytes,
            after.1.checkpoints - before.1.checkpoints,
            after.1.segments_cleaned - before.1.segments_cleaned,
            filesystem.usage().live_bytes as f64 / capacity as f64,
        );
    });
}

fn main() {
    let mib = std::env::args()
        .nth(1)
        .map_or(256, |mib| mib.parse().unwrap());
    for load in [Load::Uniform, Load::Skewed] {
        for percent in [50, 70, 80, 90] {
            measure(mib << 20, percent, load);
        }
    }
}

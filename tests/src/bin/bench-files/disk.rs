//! A disk that counts what is asked of it.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;

use lfs::sim::SimClock;
use lfs::{BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, Clock, DeviceError, DeviceGeometry};
use tests::qmp::BlockCounts;

/// What a write or a flush takes where time passes, whatever its size; many may be in flight.
const REQUEST_MS: u64 = 1;

/// Shared: every clone is the same disk.
#[derive(Clone)]
pub struct CountedDisk {
    shared: Rc<Shared>,
    clock: SimClock,
}

struct Shared {
    bytes: RefCell<Vec<u8>>,
    counts: Cell<BlockCounts>,
}

impl CountedDisk {
    /// A blank disk in memory, of which only what is written takes any.
    pub fn new(bytes: u64, clock: &SimClock) -> Self {
        let shared = Shared {
            bytes: RefCell::new(vec![0; bytes as usize]),
            counts: Cell::default(),
        };
        Self {
            shared: Rc::new(shared),
            clock: clock.clone(),
        }
    }

    /// The same disk in another simulation.
    pub fn with_clock(&self, clock: &SimClock) -> Self {
        Self {
            shared: Rc::clone(&self.shared),
            clock: clock.clone(),
        }
    }

    /// Writes its content to a new file, with holes where nothing was written.
    pub fn save(&self, path: &Path) -> std::io::Result<()> {
        let bytes = self.shared.bytes.borrow();
        let file = File::create_new(path)?;
        file.set_len(bytes.len() as u64)?;
        for (block, at) in bytes.chunks(BLOCK_SIZE).zip((0..).step_by(BLOCK_SIZE)) {
            if block.iter().any(|&byte| byte != 0) {
                file.write_all_at(block, at)?;
            }
        }
        Ok(())
    }

    /// What was asked of it so far.
    pub fn counts(&self) -> BlockCounts {
        self.shared.counts.get()
    }

    fn count(&self, count: impl FnOnce(&mut BlockCounts)) {
        let mut counts = self.shared.counts.get();
        count(&mut counts);
        self.shared.counts.set(counts);
    }
}

impl BlockDevice for CountedDisk {
    fn geometry(&self) -> DeviceGeometry {
        DeviceGeometry {
            block_count: (self.shared.bytes.borrow().len() / BLOCK_SIZE) as u64,
            discard: false,
        }
    }

    async fn read(
        &self,
        start: BlockIndex,
        mut buffer: Buffer,
    ) -> (Buffer, Result<(), DeviceError>) {
        let (at, len) = (start.0 as usize * BLOCK_SIZE, buffer.bytes().len());
        self.count(|counts| {
            counts.reads += 1;
            counts.bytes_read += len as u64;
        });
        let bytes = self.shared.bytes.borrow();
        buffer.bytes_mut().copy_from_slice(&bytes[at..at + len]);
        (buffer, Ok(()))
    }

    async fn write(&self, start: BlockIndex, buffer: Buffer) -> (Buffer, Result<(), DeviceError>) {
        let (at, len) = (start.0 as usize * BLOCK_SIZE, buffer.bytes().len());
        self.count(|counts| {
            counts.writes += 1;
            counts.bytes_written += len as u64;
        });
        self.shared.bytes.borrow_mut()[at..at + len].copy_from_slice(buffer.bytes());
        self.clock.sleep_ms(REQUEST_MS).await;
        (buffer, Ok(()))
    }

    async fn flush(&self) -> Result<(), DeviceError> {
        self.count(|counts| counts.flushes += 1);
        self.clock.sleep_ms(REQUEST_MS).await;
        Ok(())
    }

    async fn discard(&self, _: BlockIndex, _: u64) -> Result<(), DeviceError> {
        Err(DeviceError::Unsupported)
    }
}

//! A disk that counts what is asked of it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use lfs::sim::SimClock;
use lfs::{BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, Clock, DeviceError, DeviceGeometry};
use tests::qmp::BlockCounts;

/// What a write or a flush takes where time passes, whatever its size; many may be in flight.
const REQUEST_MS: u64 = 1;

/// Shared: every clone is the same disk.
#[derive(Clone)]
pub struct CountedDisk(Rc<Inner>);

struct Inner {
    bytes: RefCell<Vec<u8>>,
    clock: SimClock,
    counts: Cell<BlockCounts>,
}

impl CountedDisk {
    /// A blank disk in memory, of which only what is written takes any.
    pub fn new(bytes: u64, clock: &SimClock) -> Self {
        Self(Rc::new(Inner {
            bytes: RefCell::new(vec![0; bytes as usize]),
            clock: clock.clone(),
            counts: Cell::default(),
        }))
    }

    /// What was asked of it so far.
    pub fn counts(&self) -> BlockCounts {
        self.0.counts.get()
    }

    fn count(&self, count: impl FnOnce(&mut BlockCounts)) {
        let mut counts = self.0.counts.get();
        count(&mut counts);
        self.0.counts.set(counts);
    }
}

impl BlockDevice for CountedDisk {
    fn geometry(&self) -> DeviceGeometry {
        DeviceGeometry {
            block_count: (self.0.bytes.borrow().len() / BLOCK_SIZE) as u64,
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
        let bytes = self.0.bytes.borrow();
        buffer.bytes_mut().copy_from_slice(&bytes[at..at + len]);
        (buffer, Ok(()))
    }

    async fn write(&self, start: BlockIndex, buffer: Buffer) -> (Buffer, Result<(), DeviceError>) {
        let (at, len) = (start.0 as usize * BLOCK_SIZE, buffer.bytes().len());
        self.count(|counts| {
            counts.writes += 1;
            counts.bytes_written += len as u64;
        });
        self.0.bytes.borrow_mut()[at..at + len].copy_from_slice(buffer.bytes());
        self.0.clock.sleep_ms(REQUEST_MS).await;
        (buffer, Ok(()))
    }

    async fn flush(&self) -> Result<(), DeviceError> {
        self.count(|counts| counts.flushes += 1);
        self.0.clock.sleep_ms(REQUEST_MS).await;
        Ok(())
    }

    async fn discard(&self, _: BlockIndex, _: u64) -> Result<(), DeviceError> {
        Err(DeviceError::Unsupported)
    }
}

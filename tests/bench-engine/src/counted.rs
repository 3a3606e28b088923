//! The hosted device, with a count of what it is asked to do.

use std::cell::Cell;
use std::rc::Rc;

use ::tests::qmp::BlockCounts;
use lfs::host::FileDevice;
use lfs::{BlockDevice, BlockIndex, Buffer, DeviceError, DeviceGeometry, Durable};

use crate::flushes;

/// Clones share their count.
#[derive(Clone)]
pub struct CountedDevice {
    device: FileDevice,
    counts: Rc<Cell<BlockCounts>>,
}

impl CountedDevice {
    pub fn new(device: FileDevice) -> Self {
        Self {
            device,
            counts: Rc::default(),
        }
    }

    /// What was asked of it so far.
    pub fn counts(&self) -> BlockCounts {
        self.counts.get()
    }

    fn count(&self, count: impl FnOnce(&mut BlockCounts)) {
        let mut counts = self.counts.get();
        count(&mut counts);
        self.counts.set(counts);
    }
}

impl BlockDevice for CountedDevice {
    fn geometry(&self) -> DeviceGeometry {
        self.device.geometry()
    }

    async fn resized(&self, block_count: u64) {
        self.device.resized(block_count).await;
    }

    async fn read(&self, start: BlockIndex, buffer: Buffer) -> (Buffer, Result<(), DeviceError>) {
        self.count(|counts| {
            counts.reads += 1;
            counts.bytes_read += buffer.bytes().len() as u64;
        });
        self.device.read(start, buffer).await
    }

    async fn write(&self, start: BlockIndex, buffer: Buffer) -> (Buffer, Result<(), DeviceError>) {
        self.count(|counts| {
            counts.writes += 1;
            counts.bytes_written += buffer.bytes().len() as u64;
        });
        self.device.write(start, buffer).await
    }

    async fn flush(&self) -> Result<(), DeviceError> {
        self.count(|counts| counts.flushes += 1);
        self.device.flush().await
    }

    async fn write_durable(
        &self,
        start: BlockIndex,
        buffer: Buffer,
        least: Durable,
        ahead: u64,
    ) -> (Buffer, Result<Durable, DeviceError>) {
        let bytes = buffer.bytes().len() as u64;
        let written = self.device.write_durable(start, buffer, least, ahead);
        let (buffer, written) = written.await;
        if written == Ok(Durable::Written) {
            // No call of the C library's says so.
            flushes::note();
        }
        self.count(|counts| {
            counts.writes += 1;
            counts.bytes_written += bytes;
            counts.flushes += u64::from(written.is_ok_and(|done| done > Durable::Nothing));
        });
        (buffer, written)
    }

    async fn discard(&self, start: BlockIndex, count: u64) -> Result<(), DeviceError> {
        self.device.discard(start, count).await
    }
}

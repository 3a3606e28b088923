//! A disk that counts how its reads overlap.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use lfs::sim::SimDisk;
use lfs::{BlockDevice, BlockIndex, Buffer, DeviceError, DeviceGeometry};

/// What it counted of small requests: nodes of trees, and what is read first of groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reads {
    pub requests: usize,
    pub blocks: usize,
    /// Moments at which nobody read, and then somebody did: how often one waits for the disk.
    pub rounds: usize,
    /// Most that were under way at once.
    pub at_once: usize,
}

/// See the module; clones are the same disk.
#[derive(Clone)]
pub struct CountingDisk {
    disk: SimDisk,
    under_way: Rc<Cell<usize>>,
    reads: Rc<RefCell<Reads>>,
    /// Requests of more blocks are not counted.
    blocks_max: usize,
    /// As many as it says that it has of everything.
    copies: u8,
}

impl CountingDisk {
    pub fn new(disk: SimDisk, blocks_max: usize) -> Self {
        Self {
            disk,
            under_way: Rc::default(),
            reads: Rc::default(),
            blocks_max,
            copies: 1,
        }
    }

    /// The same, which passes for a mirror.
    pub fn of_copies(self, copies: u8) -> Self {
        Self { copies, ..self }
    }

    /// What was counted since this was last asked.
    pub fn take(&self) -> Reads {
        self.reads.take()
    }
}

impl BlockDevice for CountingDisk {
    fn geometry(&self) -> DeviceGeometry {
        self.disk.geometry()
    }

    async fn read(&self, start: BlockIndex, buffer: Buffer) -> (Buffer, Result<(), DeviceError>) {
        if buffer.len_blocks() > self.blocks_max {
            return self.disk.read(start, buffer).await;
        }
        let now = self.under_way.get() + 1;
        self.under_way.set(now);
        {
            let reads = &mut *self.reads.borrow_mut();
            reads.requests += 1;
            reads.blocks += buffer.len_blocks();
            reads.rounds += usize::from(now == 1);
            reads.at_once = reads.at_once.max(now);
        }
        let read = self.disk.read(start, buffer).await;
        self.under_way.set(self.under_way.get() - 1);
        read
    }

    fn copies(&self) -> u8 {
        self.copies
    }

    async fn write(&self, start: BlockIndex, buffer: Buffer) -> (Buffer, Result<(), DeviceError>) {
        self.disk.write(start, buffer).await
    }

    async fn flush(&self) -> Result<(), DeviceError> {
        self.disk.flush().await
    }

    async fn discard(&self, start: BlockIndex, count: u64) -> Result<(), DeviceError> {
        self.disk.discard(start, count).await
    }
}

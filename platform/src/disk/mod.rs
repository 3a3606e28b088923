//! virtio-blk as an [`lfs::BlockDevice`] (virtio 1.2, section 5.2).
//!
//! - **A request owns its buffer** until the device is done with it: the buffer lives in the request's slot,
//!   whatever becomes of the future that started it.
//! - Reads, writes, FLUSH and DISCARD are all just requests; [`REQUESTS_MAX`] of them can be in flight, and
//!   none waits for another. More wait in the order they came.
//! - The interrupt wakes [`Disk::run`], which completes what the device has returned and wakes whoever waits
//!   for it. When it says that the configuration changed, the size is read again.
//! - Nothing the device writes is trusted: a token that is not in flight, or a read that is said to be
//!   shorter than asked for, ends the device ([`DeviceError::Gone`]) or the request ([`DeviceError::Io`]),
//!   never the machine.
//!
//! What it does not do: order requests, cache, retry.

mod config;
mod request;
mod size;
mod slots;

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use lfs::{BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, DeviceError, DeviceGeometry};
use virtio_drivers::transport::DeviceType;

use self::config::Limits;
use self::request::{Operation, Request};
use self::size::Size;
use self::slots::Slots;
use crate::interrupt::Source;
use crate::machine;
use crate::virtio::{self, Transport};

pub use self::config::OpenError;
pub use self::slots::REQUESTS_MAX;

/// Sectors, the unit of virtio-blk whatever the disk's own, in a block.
const SECTORS_PER_BLOCK: u64 = (BLOCK_SIZE / SECTOR_SIZE) as u64;
const SECTOR_SIZE: usize = 512;

/// Disks that are looked for: a mirror has two.
pub const DISKS_MAX: usize = 2;

/// A disk of the machine. Clones are handles of the same one.
#[derive(Clone)]
pub struct Disk {
    shared: Rc<Shared>,
}

struct Shared {
    slots: RefCell<Box<Slots>>,
    source: Source,
    limits: Limits,
    size: Size,
}

impl Disk {
    /// Opens the first virtio-blk device.
    ///
    /// # Errors
    /// When there is none, or it cannot be used for a store that keeps its word; see [`OpenError`].
    pub fn open() -> Result<Self, OpenError> {
        let (transport, slot) = virtio::open(DeviceType::Block, 0).ok_or(OpenError::Missing)?;
        Self::with(transport, &slot)
    }

    /// Opens the first [`DISKS_MAX`] virtio-blk devices, in the order of their slots.
    ///
    /// # Errors
    /// As [`open`](Self::open), of any of them.
    pub fn open_all() -> Result<Vec<Self>, OpenError> {
        let mut disks = Vec::new();
        while disks.len() < DISKS_MAX
            && let Some((transport, slot)) = virtio::open(DeviceType::Block, disks.len())
        {
            disks.push(Self::with(transport, &slot)?);
        }
        if disks.is_empty() {
            return Err(OpenError::Missing);
        }
        Ok(disks)
    }

    fn with(mut transport: Transport, slot: &machine::Transport) -> Result<Self, OpenError> {
        let (limits, block_count) = config::negotiate(&mut transport)?;
        let slots = Slots::new(transport, limits)?;
        let source = Source::new(slot).ok_or(OpenError::Broken)?;
        Ok(Self {
            shared: Rc::new(Shared {
                slots: RefCell::new(slots),
                source,
                limits,
                size: Size::new(block_count),
            }),
        })
    }

    /// Completes requests, and notices when the host makes the disk larger, for ever. Nothing does while this future is not
    /// polled; spawn it once.
    pub async fn run(&self) -> ! {
        loop {
            self.shared.source.wait().await;
            let mut slots = self.shared.slots.borrow_mut();
            slots.complete();
            if self.shared.source.take_configuration_change()
                && let Some(block_count) = slots.block_count()
            {
                drop(slots);
                self.shared.size.update(block_count);
            }
        }
    }

    /// Bytes on the device.
    pub fn size_bytes(&self) -> u64 {
        self.shared.size.block_count() * BLOCK_SIZE as u64
    }

    fn check(&self, start: BlockIndex, count: u64) -> Result<u64, DeviceError> {
        let end = start.0.checked_add(count).ok_or(DeviceError::OutOfRange)?;
        if count == 0 || end > self.shared.size.block_count() {
            return Err(DeviceError::OutOfRange);
        }
        Ok(start.0 * SECTORS_PER_BLOCK)
    }

    async fn transfer(
        &self,
        start: BlockIndex,
        buffer: Buffer,
        operation: Operation,
    ) -> (Buffer, Result<(), DeviceError>) {
        match self.check(start, buffer.len_blocks() as u64) {
            Ok(sector) => Request::new(&self.shared, operation, sector, buffer).await,
            Err(error) => (buffer, Err(error)),
        }
    }
}

impl BlockDevice for Disk {
    fn geometry(&self) -> DeviceGeometry {
        DeviceGeometry {
            block_count: self.shared.size.block_count(),
            discard: self.shared.limits.discard.is_some(),
        }
    }

    fn resized(&self, block_count: u64) -> impl Future<Output = ()> {
        self.shared.size.differs_from(block_count)
    }

    fn read(
        &self,
        start: BlockIndex,
        buffer: Buffer,
    ) -> impl Future<Output = (Buffer, Result<(), DeviceError>)> {
        self.transfer(start, buffer, Operation::Read)
    }

    fn write(
        &self,
        start: BlockIndex,
        buffer: Buffer,
    ) -> impl Future<Output = (Buffer, Result<(), DeviceError>)> {
        self.transfer(start, buffer, Operation::Write)
    }

    async fn flush(&self) -> Result<(), DeviceError> {
        if !self.shared.limits.flush {
            return Ok(()); // a write-through device: what has completed is durable
        }
        Request::new(&self.shared, Operation::Flush, 0, Buffer::default())
            .await
            .1
    }

    async fn discard(&self, start: BlockIndex, count: u64) -> Result<(), DeviceError> {
        let Some(limits) = self.shared.limits.discard else {
            return Err(DeviceError::Unsupported);
        };
        let sector = self.check(start, count)?;
        let (mut position, end) = limits.align(sector, sector + count * SECTORS_PER_BLOCK);
        while position < end {
            let sectors = limits
                .sectors_max
                .min(u32::try_from(end - position).unwrap_or(u32::MAX));
            let operation = Operation::Discard { sectors };
            Request::new(&self.shared, operation, position, Buffer::default())
                .await
                .1?;
            position += u64::from(sectors);
        }
        Ok(())
    }
}

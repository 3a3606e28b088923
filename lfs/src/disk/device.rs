//! The seam to hardware: one trait for disks, and one for clocks.

use core::future::Future;

use crate::{Buffer, MirrorStatus};

/// Position of a block on a device, counted in [`BLOCK_SIZE`](crate::BLOCK_SIZE) units from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockIndex(pub u64);

/// What a device is, as far as the file system needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceGeometry {
    /// Whole blocks on the device; a shorter rest is not used. Becomes more when the device grows, and never fewer while
    /// it is open.
    pub block_count: u64,
    /// Whether [`BlockDevice::discard`] does anything.
    pub discard: bool,
}

/// A request that did not succeed. It says nothing about what is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The device reported an input/output error.
    #[error("input/output error")]
    Io,
    /// The request reaches past the end of the device, or is empty.
    #[error("request outside the device")]
    OutOfRange,
    /// The device does not know this request.
    #[error("request not supported by the device")]
    Unsupported,
    /// The device is gone or no longer answers as specified.
    #[error("device gone")]
    Gone,
}

/// What a write has made durable when it returns; more comes later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durable {
    /// Nothing.
    Nothing,
    /// What it wrote.
    Written,
    /// That, and every write that completed before it was asked for, as a flush does.
    All,
}

/// A disk.
///
/// Many requests may be in flight; they may complete in any order and none waits for another.
/// A request **owns its buffer** until it completes: a future that is dropped leaves the request
/// running, and the device's driver keeps the memory until the device is done with it.
///
/// Durability: a completed write is durable only once a [`flush`](BlockDevice::flush) that was
/// *started after* the write completed has returned `Ok`. What an error leaves on the disk is unknown.
pub trait BlockDevice {
    /// Size and abilities. Nothing but the size changes while the device is open.
    fn geometry(&self) -> DeviceGeometry;

    /// Completes when [`geometry`](Self::geometry) says other than `block_count` blocks. Never, of a device that does not
    /// notice that it grows.
    fn resized(&self, block_count: u64) -> impl Future<Output = ()> {
        let _ = block_count;
        core::future::pending()
    }

    /// Reads `buffer.len_blocks()` blocks starting at `start`.
    fn read(
        &self,
        start: BlockIndex,
        buffer: Buffer,
    ) -> impl Future<Output = (Buffer, Result<(), DeviceError>)>;

    /// Writes the whole buffer starting at `start`. Not durable on return.
    fn write(
        &self,
        start: BlockIndex,
        buffer: Buffer,
    ) -> impl Future<Output = (Buffer, Result<(), DeviceError>)>;

    /// Makes every write that completed before this call durable.
    ///
    /// # Errors
    /// On an error none of those writes may be taken for durable.
    fn flush(&self) -> impl Future<Output = Result<(), DeviceError>>;

    /// As [`write`](Self::write), where `least` is to be durable soon: a device that can sees to it in the same request. What it says is durable when this returns; where that is less,
    /// a flush is still to be asked for. The next such writes go to the `ahead` blocks behind the buffer's: nothing in these is meant, and nobody else
    /// asks for them, so a device may make them ready.
    ///
    /// # Errors
    /// As of a failed flush.
    fn write_durable(
        &self,
        start: BlockIndex,
        buffer: Buffer,
        least: Durable,
        ahead: u64,
    ) -> impl Future<Output = (Buffer, Result<Durable, DeviceError>)> {
        let _ = (least, ahead);
        async move {
            let (buffer, written) = self.write(start, buffer).await;
            (buffer, written.map(|()| Durable::Nothing))
        }
    }

    /// Tells the device that the content of `count` blocks is of no more use. A hint.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] where [`DeviceGeometry::discard`] is false.
    fn discard(
        &self,
        start: BlockIndex,
        count: u64,
    ) -> impl Future<Output = Result<(), DeviceError>>;

    /// How many copies of everything can be read apart at the moment: more than one of a mirror.
    fn copies(&self) -> u8 {
        1
    }

    /// As [`read`](Self::read), from one of the [`copies`](Self::copies) and no other.
    fn read_copy(
        &self,
        copy: u8,
        start: BlockIndex,
        buffer: Buffer,
    ) -> impl Future<Output = (Buffer, Result<(), DeviceError>)> {
        let _ = copy;
        self.read(start, buffer)
    }

    /// Writes the bytes at `address` again where other copies differ: `good` was found right in `copy`. True when something
    /// was written; not durable on return.
    ///
    /// # Errors
    /// When other copies may still differ: that copy no longer holds it, or cannot be asked, or the write failed.
    fn mend(
        &self,
        copy: u8,
        address: u64,
        good: &[u8],
    ) -> impl Future<Output = Result<bool, DeviceError>> {
        let _ = (copy, address, good);
        async { Ok(false) }
    }

    /// Completes when the file system is to write anew what is believed for being the newest there is: superblock, key slots,
    /// segment table and slot. A copy may hold older ones, and the newest be lost. Gives the number of that wish, for
    /// [`renewed`](Self::renewed).
    fn renewal_wanted(&self) -> impl Future<Output = u64> {
        core::future::pending()
    }

    /// That was done, and is durable.
    fn renewed(&self, number: u64) {
        let _ = number;
    }

    /// What the file system knows of blocks that a device which keeps several copies cannot.
    fn advise(&self, start: BlockIndex, count: u64, advice: Advice) {
        let _ = (start, count, advice);
    }

    /// How a mirror is doing; `None` when it is none.
    fn mirror_status(&self) -> Option<MirrorStatus> {
        None
    }
}

/// What a file system can say of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// Nothing in them is meant: copies may differ.
    Unneeded,
    /// A copy that was away may hold something here that must not be taken for what this one holds.
    Doubtful,
}

impl<D: BlockDevice> BlockDevice for &D {
    fn geometry(&self) -> DeviceGeometry {
        (**self).geometry()
    }

    fn resized(&self, block_count: u64) -> impl Future<Output = ()> {
        (**self).resized(block_count)
    }

    fn read(
        &self,
        start: BlockIndex,
        buffer: Buffer,
    ) -> impl Future<Output = (Buffer, Result<(), DeviceError>)> {
        (**self).read(start, buffer)
    }

    fn write(
        &self,
        start: BlockIndex,
        buffer: Buffer,
    ) -> impl Future<Output = (Buffer, Result<(), DeviceError>)> {
        (**self).write(start, buffer)
    }

    fn flush(&self) -> impl Future<Output = Result<(), DeviceError>> {
        (**self).flush()
    }

    fn write_durable(
        &self,
        start: BlockIndex,
        buffer: Buffer,
        least: Durable,
        ahead: u64,
    ) -> impl Future<Output = (Buffer, Result<Durable, DeviceError>)> {
        (**self).write_durable(start, buffer, least, ahead)
    }

    fn discard(
        &self,
        start: BlockIndex,
        count: u64,
    ) -> impl Future<Output = Result<(), DeviceError>> {
        (**self).discard(start, count)
    }

    fn copies(&self) -> u8 {
        (**self).copies()
    }

    fn read_copy(
        &self,
        copy: u8,
        start: BlockIndex,
        buffer: Buffer,
    ) -> impl Future<Output = (Buffer, Result<(), DeviceError>)> {
        (**self).read_copy(copy, start, buffer)
    }

    fn mend(
        &self,
        copy: u8,
        address: u64,
        good: &[u8],
    ) -> impl Future<Output = Result<bool, DeviceError>> {
        (**self).mend(copy, address, good)
    }

    fn renewal_wanted(&self) -> impl Future<Output = u64> {
        (**self).renewal_wanted()
    }

    fn renewed(&self, number: u64) {
        (**self).renewed(number);
    }

    fn advise(&self, start: BlockIndex, count: u64, advice: Advice) {
        (**self).advise(start, count, advice);
    }

    fn mirror_status(&self) -> Option<MirrorStatus> {
        (**self).mirror_status()
    }
}

/// Time, as the layers above see it.
pub trait Clock {
    /// Microseconds since an arbitrary moment; never goes back.
    fn monotonic_us(&self) -> u64;

    /// Microseconds since the Unix epoch. May jump.
    fn unix_us(&self) -> i64;

    /// Completes no earlier than `duration_ms` milliseconds from now.
    fn sleep_ms(&self, duration_ms: u64) -> impl Future<Output = ()>;

    /// Milliseconds since the Unix epoch. May jump.
    fn unix_ms(&self) -> i64 {
        self.unix_us().div_euclid(1000)
    }
}

//! What the device offers, and whether that is enough.

use lfs::BLOCK_SIZE;
use virtio_drivers::transport::Transport as _;

use super::{SECTOR_SIZE, SECTORS_PER_BLOCK};
use crate::virtio::Transport;

/// Feature bits (virtio 1.2, 5.2.3 and 6).
mod feature {
    pub(super) const SIZE_MAX: u64 = 1 << 1;
    pub(super) const SEG_MAX: u64 = 1 << 2;
    pub(super) const RO: u64 = 1 << 5;
    pub(super) const FLUSH: u64 = 1 << 9;
    pub(super) const CONFIG_WCE: u64 = 1 << 11;
    pub(super) const DISCARD: u64 = 1 << 13;
    pub(super) const VERSION_1: u64 = 1 << 32;
}

/// Offsets in the device's configuration (virtio 1.2, 5.2.4).
mod offset {
    pub(super) const CAPACITY: usize = 0x00;
    pub(super) const SIZE_MAX: usize = 0x08;
    pub(super) const SEG_MAX: usize = 0x0c;
    pub(super) const WRITEBACK: usize = 0x20;
    pub(super) const MAX_DISCARD_SECTORS: usize = 0x24;
    pub(super) const DISCARD_SECTOR_ALIGNMENT: usize = 0x2c;
}

/// Why a disk cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenError {
    /// The machine has no virtio-blk device.
    Missing,
    /// It cannot be written.
    ReadOnly,
    /// It has no FLUSH and does not say that it writes through.
    NoFlush,
    /// Its queue has too few places.
    QueueTooSmall,
    /// It has not a single block.
    Empty,
    /// Not enough memory for the driver.
    OutOfMemory,
    /// It does not do what virtio 1.x asks of it.
    Broken,
}

impl core::fmt::Display for OpenError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Missing => {
                "no virtio-blk device (QEMU: -drive if=none,id=disk,file=... -device virtio-blk-device,drive=disk)"
            }
            Self::ReadOnly => "the disk is read-only",
            Self::NoFlush => {
                "the disk has a write cache of unknown behaviour and no FLUSH: a store on it would lose \
                 acknowledged writes when the power fails"
            }
            Self::QueueTooSmall => "the disk's queue has too few places",
            Self::Empty => "the disk has no room for a single block",
            Self::OutOfMemory => "not enough memory for the disk driver",
            Self::Broken => "the disk does not behave as a virtio 1.x block device",
        })
    }
}

impl core::error::Error for OpenError {}

/// What requests have to respect.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Whether FLUSH is there, and therefore a cache that needs it.
    pub(super) flush: bool,
    /// Largest piece of memory in one descriptor.
    pub(super) segment_bytes_max: usize,
    /// Pieces of memory in one request.
    pub(super) segments_max: usize,
    pub(super) discard: Option<DiscardLimits>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct DiscardLimits {
    pub(super) sectors_max: u32,
    alignment: u32,
}

impl DiscardLimits {
    /// The part of a range of sectors that the device can discard; perhaps nothing.
    pub(super) fn align(self, start: u64, end: u64) -> (u64, u64) {
        let alignment = u64::from(self.alignment.max(1));
        let start = start.next_multiple_of(alignment);
        (start, end - end % alignment)
    }
}

/// Most bytes one request transfers: keeps one request from occupying the host for long. The file system's
/// segments are smaller.
const REQUEST_BYTES_MAX: usize = 4 << 20;
/// Pieces a request has at most, whatever the device would take: a request with all of them still leaves
/// most of the queue to others.
pub(super) const SEGMENTS_MAX: usize = 32;

/// Agrees on features and reads the configuration: what requests have to respect, and blocks there are. The device is not
/// running yet.
pub(super) fn negotiate(transport: &mut Transport) -> Result<(Limits, u64), OpenError> {
    use virtio_drivers::transport::DeviceStatus as Status;

    transport.set_status(Status::empty());
    transport.set_status(Status::ACKNOWLEDGE | Status::DRIVER);
    let offered = transport.read_device_features();
    let has = |bit: u64| offered & bit != 0;
    if !has(feature::VERSION_1) {
        return Err(OpenError::Broken);
    }
    if has(feature::RO) {
        return Err(OpenError::ReadOnly);
    }
    let flush = has(feature::FLUSH);
    let wanted = feature::VERSION_1
        | feature::SIZE_MAX
        | feature::SEG_MAX
        | feature::FLUSH
        | feature::DISCARD
        // Only to read how a device without FLUSH caches.
        | if flush { 0 } else { feature::CONFIG_WCE };
    transport.write_driver_features(offered & wanted);
    transport.set_status(Status::ACKNOWLEDGE | Status::DRIVER | Status::FEATURES_OK);
    if !transport.get_status().contains(Status::FEATURES_OK) {
        return Err(OpenError::Broken);
    }

    let transport = &*transport;
    let broken = |_| OpenError::Broken;
    let read32 = |offset| transport.read_config_space::<u32>(offset).map_err(broken);
    if !flush {
        // Without FLUSH only a device that states it writes through can be believed.
        let states = has(feature::CONFIG_WCE);
        let writeback = transport
            .read_config_space::<u8>(offset::WRITEBACK)
            .map_err(broken)?;
        if !states || writeback != 0 {
            return Err(OpenError::NoFlush);
        }
    }
    let block_count = block_count(transport).ok_or(OpenError::Broken)?;
    if block_count == 0 {
        return Err(OpenError::Empty);
    }
    let segment_bytes_max = if has(feature::SIZE_MAX) {
        // Whole sectors, so that a request can end at any segment's end.
        let bytes = read32(offset::SIZE_MAX)? as usize;
        bytes & !(SECTOR_SIZE - 1)
    } else {
        REQUEST_BYTES_MAX
    };
    let segments_max = if has(feature::SEG_MAX) {
        (read32(offset::SEG_MAX)? as usize).clamp(1, SEGMENTS_MAX)
    } else {
        1
    };
    if segment_bytes_max == 0 {
        return Err(OpenError::Broken);
    }
    let discard = if has(feature::DISCARD) {
        let sectors_max = read32(offset::MAX_DISCARD_SECTORS)?;
        let alignment = read32(offset::DISCARD_SECTOR_ALIGNMENT)?;
        (sectors_max > 0).then_some(DiscardLimits {
            // A multiple of the alignment, so that every piece but the last stays aligned.
            sectors_max: sectors_max - sectors_max % alignment.clamp(1, sectors_max),
            alignment,
        })
    } else {
        None
    };
    let limits = Limits {
        flush,
        segment_bytes_max: segment_bytes_max.min(REQUEST_BYTES_MAX),
        segments_max,
        discard,
    };
    Ok((limits, block_count))
}

/// Whole blocks on the device, as its configuration says now; `None` where that cannot be read.
pub(super) fn block_count(transport: &Transport) -> Option<u64> {
    let capacity =
        transport.read_consistent(|| transport.read_config_space::<[u32; 2]>(offset::CAPACITY));
    let [low, high] = capacity.ok()?;
    Some((u64::from(high) << 32 | u64::from(low)) / SECTORS_PER_BLOCK)
}

impl Limits {
    /// Descriptors one request takes at most: its data, its header and its status.
    pub(super) fn descriptors_max(&self) -> usize {
        2 + self
            .segments_max
            .min(REQUEST_BYTES_MAX.div_ceil(self.segment_bytes_max))
    }

    /// Bytes of a transfer of `rest` bytes that fit into one request: whole blocks unless the device takes
    /// less than one at a time.
    pub(super) fn request_bytes(&self, rest: usize) -> usize {
        let bytes = self
            .segment_bytes_max
            .saturating_mul(self.segments_max)
            .min(REQUEST_BYTES_MAX);
        let whole = bytes - bytes % BLOCK_SIZE;
        rest.min(if whole == 0 { bytes } else { whole })
    }
}

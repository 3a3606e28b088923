//! Making a file system, and telling what is on a device.
//!
//! A format that is cut short leaves the first superblock in state `Formatting`, or nothing: both are
//! recognised by [`probe`] as [`Content::Blank`], so the machine simply formats again.

use crate::checkpoint::{Checkpoint, ReplayStart};
use crate::superblock::{
    FileSystemId, LOG_SEGMENTS_MAX, LOG_SEGMENTS_MIN, SEGMENT_BLOCKS_MIN, SegmentId, State,
    Superblock, SuperblockFault,
};
use crate::{BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, CommitNumber, DeviceError, FormatError};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// Smallest device that is formatted with default options.
pub const DEVICE_BYTES_MIN: u64 = 8 << 20;

/// How a new file system is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FormatOptions {
    /// Bytes of a segment, a power of two of at least 32 KiB; aligned to the device's erase block at best.
    pub segment_bytes: u32,
    /// Segments the log may use between two checkpoints: bounds replay. At least 12.
    pub log_segments: u32,
}

impl FormatOptions {
    /// What suits a device of this size: 1 MiB segments, less on devices below 256 MiB, so that the
    /// log takes no larger part of them.
    pub fn for_device_bytes(bytes: u64) -> Self {
        let segment = (bytes / 256).clamp(64 << 10, 1 << 20);
        let segment = 1_u64 << segment.ilog2();
        Self {
            segment_bytes: u32::try_from(segment).unwrap_or(1 << 20),
            log_segments: 26,
        }
    }
}

/// What a device holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Nothing, as far as a look at its start, its end and places between tells; or a format cut short.
    Blank,
    /// A Siltstone file system (of this version or another; [`Recovery::open`](crate::Recovery::open) tells).
    FileSystem,
    /// Something else.
    Unknown,
}

/// Blocks at each end of a device that [`probe`] reads in full.
const PROBE_EDGE_BLOCKS: u64 = 256;
/// Blocks between the ends that [`probe`] looks at.
const PROBE_SAMPLES: u64 = 64;

/// Finds out what is on `device`. Reads at most 2 MiB and 64 blocks in between; writes nothing.
///
/// # Errors
/// When the device fails to read.
pub async fn probe<D: BlockDevice>(device: &D) -> Result<Content, DeviceError> {
    let blocks = device.geometry().block_count;
    match read_superblock(device).await? {
        Ok(superblock) if superblock.state == State::Formatting => return Ok(Content::Blank),
        Ok(_) | Err(SuperblockFault::Unknown { .. }) => return Ok(Content::FileSystem),
        Err(SuperblockFault::Invalid) => {}
    }
    let edge = PROBE_EDGE_BLOCKS.min(blocks);
    let between = blocks.saturating_sub(2 * edge);
    let stride = (between / PROBE_SAMPLES).max(1);
    let samples = (0..PROBE_SAMPLES.min(between)).map(|i| edge + i * stride);
    for block in (0..edge).chain(samples).chain(blocks - edge..blocks) {
        let buffer = Buffer::zeroed(1).map_err(|_| DeviceError::Io)?;
        let (buffer, read) = device.read(BlockIndex(block), buffer).await;
        read?;
        if buffer.bytes().iter().any(|&byte| byte != 0) {
            return Ok(Content::Unknown);
        }
    }
    Ok(Content::Blank)
}

/// Makes an empty file system on `device`. What was there is gone. Durable on return.
///
/// # Errors
/// When the device is too small or fails; then it holds no file system.
pub async fn format<D: BlockDevice>(
    device: &D,
    options: FormatOptions,
    id: FileSystemId,
) -> Result<(), FormatError> {
    let mut superblock = plan(device.geometry().block_count, options, id)?;
    let [first, second] = superblock.copy_blocks();
    superblock.state = State::Formatting;
    write_superblock(device, &superblock, first).await?;
    device.flush().await?;

    let log_segments = (0..superblock.log_segments)
        .map(SegmentId)
        .collect::<Vec<_>>();
    let checkpoint = Checkpoint {
        sequence: 1,
        horizon: CommitNumber(0),
        durable_group: 0,
        start: ReplayStart {
            group: 1,
            commit: 1,
            continued: false,
            previous_checksum: 0,
        },
        log_segments,
        next_object: 1,
        objects: BTreeMap::new(),
        manifest: Vec::new(),
    };
    let slot = superblock.slot_block(Checkpoint::slot(checkpoint.sequence));
    let buffer = checkpoint
        .encode(&superblock, slot)
        .map_err(|_| FormatError::TooSmall)?;
    device.write(slot, buffer).await.1?;
    // An older file system's checkpoint has another id; still, leave nothing that looks like one.
    let other = superblock.slot_block(Checkpoint::slot(checkpoint.sequence + 1));
    device.write(other, zero_block()?).await.1?;
    device.flush().await?;

    superblock.state = State::Ready;
    write_superblock(device, &superblock, second).await?;
    device.flush().await?;
    write_superblock(device, &superblock, first).await?;
    device.flush().await?;
    Ok(())
}

fn plan(
    block_count: u64,
    options: FormatOptions,
    id: FileSystemId,
) -> Result<Superblock, FormatError> {
    let block_size = u32::try_from(BLOCK_SIZE).map_err(|_| FormatError::TooSmall)?;
    let segment_blocks = options.segment_bytes / block_size;
    if !options.segment_bytes.is_power_of_two()
        || !(SEGMENT_BLOCKS_MIN..=1 << 16).contains(&segment_blocks)
        || !(LOG_SEGMENTS_MIN..=LOG_SEGMENTS_MAX).contains(&options.log_segments)
    {
        return Err(FormatError::TooSmall);
    }
    let upper = u32::try_from(block_count / u64::from(segment_blocks)).unwrap_or(u32::MAX);
    let slot_blocks = Checkpoint::slot_blocks(upper);
    let head = 2 + 2 * u64::from(slot_blocks);
    let first_segment_block = head.next_multiple_of(u64::from(segment_blocks));
    let area = block_count.saturating_sub(first_segment_block);
    let segment_count = u32::try_from(area / u64::from(segment_blocks)).unwrap_or(u32::MAX);
    if segment_count / 3 < options.log_segments {
        return Err(FormatError::TooSmall);
    }
    Ok(Superblock {
        id,
        state: State::Ready,
        block_count,
        segment_blocks,
        segment_count,
        first_segment_block,
        slot_blocks,
        log_segments: options.log_segments,
    })
}

fn zero_block() -> Result<Buffer, FormatError> {
    Buffer::zeroed(1).map_err(|_| FormatError::OutOfMemory)
}

async fn write_superblock<D: BlockDevice>(
    device: &D,
    superblock: &Superblock,
    block: BlockIndex,
) -> Result<(), FormatError> {
    let mut buffer = zero_block()?;
    superblock.encode(block, &mut buffer);
    Ok(device.write(block, buffer).await.1?)
}

/// The superblock, from its first copy or else the second, whose place follows from the geometry a
/// format with some segment size gives it.
pub(crate) async fn read_superblock<D: BlockDevice>(
    device: &D,
) -> Result<Result<Superblock, SuperblockFault>, DeviceError> {
    let device_blocks = device.geometry().block_count;
    let first = read_copy(device, BlockIndex(0), device_blocks).await?;
    match first {
        Ok(superblock) if superblock.state == State::Ready => return Ok(first),
        // What it says is right, if not for this code: the second copy may be older.
        Err(SuperblockFault::Unknown { .. }) => return Ok(first),
        _ => {}
    }
    // Without the first copy the segment size is not known: try each that a format could have used.
    for shift in SEGMENT_BLOCKS_MIN.ilog2()..=16 {
        let segment_blocks = 1_u64 << shift;
        let segments = u32::try_from(device_blocks / segment_blocks).unwrap_or(u32::MAX);
        let head = 2 + 2 * u64::from(Checkpoint::slot_blocks(segments));
        let block = BlockIndex(head.next_multiple_of(segment_blocks) - 1);
        if block.0 < device_blocks {
            let copy = read_copy(device, block, device_blocks).await?;
            // While a format is under way the second copy may still be the older file system's.
            let of_this = |found: &Superblock| first.map_or(true, |first| first.id == found.id);
            if copy.is_ok_and(|found| of_this(&found)) {
                return Ok(copy);
            }
        }
    }
    Ok(first)
}

async fn read_copy<D: BlockDevice>(
    device: &D,
    block: BlockIndex,
    device_blocks: u64,
) -> Result<Result<Superblock, SuperblockFault>, DeviceError> {
    let buffer = Buffer::zeroed(1).map_err(|_| DeviceError::Io)?;
    let (buffer, read) = device.read(block, buffer).await;
    read?;
    Ok(Superblock::decode(buffer.bytes(), block, device_blocks))
}

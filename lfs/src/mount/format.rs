//! Making a file system, and telling what is on a device.
//!
//! A format that is cut short leaves the first superblock in state `Formatting`, or nothing: both are
//! recognised by [`probe`] as [`Content::Blank`], so the machine simply formats again.

use super::unlock::{Encryption, Lock};
use crate::checkpoint::{Checkpoint, ReplayStart};
use crate::disk::superblock::{
    FileSystemId, LOG_SEGMENTS_MAX, LOG_SEGMENTS_MIN, SECOND_COPY_BLOCK, SEGMENT_BLOCKS_MIN, State,
    Superblock, SuperblockFault, table_blocks_for,
};
use crate::disk::{RECORD_BLOCKS, read_checked};
use crate::log::{AHEAD, Change};
use crate::seal::{SharedVault, Vault};
use crate::space::{SegmentKind, Segments};
use crate::transaction::{At, Loaded, Volume};
use crate::tree::TreeRoot;
use crate::{
    BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, CommitNumber, DeviceError, FormatError, ROOT,
    Transaction,
};
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

/// How many times larger than at its making a file system can become.
const GROWTH_MAX: u32 = 16;

/// Smallest device that is formatted with default options.
pub const DEVICE_BYTES_MIN: u64 = 8 << 20;

/// How a new file system is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FormatOptions {
    /// Bytes of a segment, a power of two of at least 32 KiB; aligned to the device's erase block at best.
    pub segment_bytes: u32,
    /// Segments the log may go through between two checkpoints: bounds replay. 16 to 1,024, and at most a third of those
    /// of the device. A commit takes an eighth of them at most.
    pub log_segments: u32,
    /// The time of the root directory, in nanoseconds since the Unix epoch.
    pub created_ns: i64,
}

impl FormatOptions {
    /// What suits a device of this size: some five hundred segments of 64 KiB to 4 MiB, of which the log takes an eighth
    /// between two checkpoints, but at most 32 MiB.
    pub fn for_device_bytes(bytes: u64) -> Self {
        let segment = (bytes / 512).clamp(64 << 10, 4 << 20);
        let segment = 1_u64 << segment.ilog2();
        let log = (bytes / 8).min(32 << 20) / segment;
        Self {
            segment_bytes: u32::try_from(segment).unwrap_or(4 << 20),
            log_segments: u32::try_from(log)
                .unwrap_or(LOG_SEGMENTS_MAX)
                .clamp(LOG_SEGMENTS_MIN, LOG_SEGMENTS_MAX),
            created_ns: 0,
        }
    }

    /// The same with segments of another size, and a log of about as many bytes.
    #[must_use]
    pub fn with_segment_bytes(self, segment_bytes: u32) -> Self {
        let window_bytes = u64::from(self.segment_bytes) * u64::from(self.log_segments);
        let log = window_bytes / u64::from(segment_bytes.max(1));
        Self {
            segment_bytes,
            log_segments: u32::try_from(log)
                .unwrap_or(LOG_SEGMENTS_MAX)
                .clamp(LOG_SEGMENTS_MIN, LOG_SEGMENTS_MAX),
            ..self
        }
    }

    /// The same with a log of so many bytes between two checkpoints, in whole segments: what a mount has to read of it after a power
    /// cut. What is not allowed is refused when the device is formatted.
    #[must_use]
    pub fn with_replay_window_bytes(self, bytes: u64) -> Self {
        let log = bytes.div_ceil(u64::from(self.segment_bytes.max(1)));
        Self {
            log_segments: u32::try_from(log).unwrap_or(u32::MAX),
            ..self
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
    format_any(device, options, id, None).await?;
    finish_format(device).await
}

/// As [`format`], encrypted: it opens only with the secret of `key`, or with those that take its place later.
///
/// # Errors
/// [`FormatError::Key`] when the secret cannot be one; nothing was written then. Else as [`format`].
pub async fn format_encrypted<D: BlockDevice>(
    device: &D,
    options: FormatOptions,
    id: FileSystemId,
    key: &Encryption<'_>,
) -> Result<(), FormatError> {
    format_any(device, options, id, Some(key)).await?;
    finish_format(device).await
}

/// As [`format`], but for its last step: until [`finish_format`] the device holds no file system, for [`probe`] and for
/// [`Recovery::open`](crate::Recovery::open). Only [`Recovery::open_unfinished`](crate::Recovery::open_unfinished) mounts
/// it, so that a file system can be filled that is there as a whole or not at all.
///
/// # Errors
/// As [`format`].
pub async fn format_unfinished<D: BlockDevice>(
    device: &D,
    options: FormatOptions,
    id: FileSystemId,
) -> Result<(), FormatError> {
    format_any(device, options, id, None).await
}

/// As [`format_unfinished`], encrypted.
///
/// # Errors
/// As [`format_encrypted`].
pub async fn format_encrypted_unfinished<D: BlockDevice>(
    device: &D,
    options: FormatOptions,
    id: FileSystemId,
    key: &Encryption<'_>,
) -> Result<(), FormatError> {
    format_any(device, options, id, Some(key)).await
}

/// Everything but the last step.
async fn format_any<D: BlockDevice>(
    device: &D,
    options: FormatOptions,
    id: FileSystemId,
    key: Option<&Encryption<'_>>,
) -> Result<(), FormatError> {
    let (mut superblock, segment_count) = plan(device.geometry().block_count, options, id)?;
    superblock.suite = key.map(|key| key.suite);
    let lock = key.map(|key| Lock::new(id, key)).transpose()?;
    let [first, _] = Superblock::copy_blocks();
    superblock.state = State::Formatting;
    write_superblock(device, &superblock, first).await?;
    for block in RECORD_BLOCKS {
        // What this disk was of a mirror, it is no longer.
        device.write(block, zero_block()?).await.1?;
    }
    device.flush().await?;

    let vault = match lock {
        Some(lock) => lock.write(device).await?,
        None => Vault::plain(id),
    };
    let mut segments = Segments::new(&superblock, segment_count).ok_or(FormatError::OutOfMemory)?;
    let log_segments = (0..=AHEAD)
        .filter_map(|_| segments.allocate(SegmentKind::Log, 0))
        .collect::<Vec<_>>();
    let mut checkpoint = Checkpoint {
        sequence: 1,
        horizon: CommitNumber(0),
        tree_commit: CommitNumber(0),
        durable_group: 0,
        start: ReplayStart {
            group: 1,
            commit: 1,
            continued: false,
            previous_checksum: 0,
        },
        log_segments,
        ahead_count: AHEAD,
        segment_count,
        log_blocks: 0,
        live_root: None,
        history_root: None,
        next_inode: ROOT.0 + 1,
        table_homes: Vec::new(),
        next_object: 1,
        objects: BTreeMap::new(),
        manifest: Vec::new(),
    };
    let segments = Rc::new(RefCell::new(segments));
    let (root, block, node) = root_directory(&superblock, &vault, &segments, &checkpoint, options)
        .ok_or(FormatError::OutOfMemory)?;
    checkpoint.live_root = Some(root);
    device.write(block, node).await.1?;
    let table = segments
        .borrow_mut()
        .changed_blocks(&superblock, &vault, 1, &[]);
    let table = table.ok_or(FormatError::OutOfMemory)?;
    let indexes = table.iter().map(|block| block.index);
    checkpoint.table_homes = segments.borrow().homes_with(indexes);
    for block in table {
        device.write(block.block, block.buffer).await.1?;
    }
    let slot = superblock.slot_block(Checkpoint::slot(checkpoint.sequence));
    let buffer = checkpoint
        .encode(&superblock, &vault, slot)
        .map_err(|_| FormatError::TooSmall)?;
    device.write(slot, buffer).await.1?;
    // An older file system's checkpoint has another id; still, leave nothing that looks like one.
    let other = superblock.slot_block(Checkpoint::slot(checkpoint.sequence + 1));
    device.write(other, zero_block()?).await.1?;
    device.flush().await?;
    Ok(())
}

/// The last step of a format: the file system on `device` is there from now on. Durable on return.
///
/// # Errors
/// When there is none that only lacks this step, or the device fails.
pub async fn finish_format<D: BlockDevice>(device: &D) -> Result<(), FormatError> {
    let Ok(mut superblock) = read_superblock(device).await? else {
        return Err(FormatError::Device(DeviceError::Gone));
    };
    let [first, second] = Superblock::copy_blocks();
    superblock.state = State::Ready;
    write_superblock(device, &superblock, second).await?;
    device.flush().await?;
    write_superblock(device, &superblock, first).await?;
    device.flush().await?;
    Ok(())
}

/// How a new file system is laid out, and how many segments it has.
fn plan(
    block_count: u64,
    options: FormatOptions,
    id: FileSystemId,
) -> Result<(Superblock, u32), FormatError> {
    let block_size = u32::try_from(BLOCK_SIZE).map_err(|_| FormatError::TooSmall)?;
    let segment_blocks = options.segment_bytes / block_size;
    if !options.segment_bytes.is_power_of_two()
        || !(SEGMENT_BLOCKS_MIN..=1 << 16).contains(&segment_blocks)
    {
        return Err(FormatError::TooSmall);
    }
    let window = FormatError::ReplayWindow {
        bytes_min: u64::from(LOG_SEGMENTS_MIN) * u64::from(options.segment_bytes),
        bytes_max: u64::from(LOG_SEGMENTS_MAX) * u64::from(options.segment_bytes),
    };
    if !(LOG_SEGMENTS_MIN..=LOG_SEGMENTS_MAX).contains(&options.log_segments) {
        return Err(window);
    }
    let upper = u32::try_from(block_count / u64::from(segment_blocks)).unwrap_or(u32::MAX);
    let segment_count_max = upper.saturating_mul(GROWTH_MAX);
    let mut superblock = Superblock {
        id,
        state: State::Ready,
        segment_blocks,
        first_segment_block: 0,
        slot_blocks: Checkpoint::slot_blocks(segment_count_max),
        log_segments: options.log_segments,
        table_blocks: table_blocks_for(segment_count_max),
        segment_count_max,
        suite: None,
    };
    let head = superblock.head_blocks();
    superblock.first_segment_block = head.next_multiple_of(u64::from(segment_blocks));
    let segment_count = superblock.segments_on(block_count);
    if segment_count / 3 < options.log_segments {
        let least = options.log_segments == LOG_SEGMENTS_MIN;
        let least = least || options == defaults(block_count, options);
        return Err(if least { FormatError::TooSmall } else { window });
    }
    Ok((superblock, segment_count))
}

/// The options that would have been taken for the device.
fn defaults(block_count: u64, options: FormatOptions) -> FormatOptions {
    FormatOptions {
        created_ns: options.created_ns,
        ..FormatOptions::for_device_bytes(block_count * BLOCK_SIZE as u64)
    }
}

/// The tree of an empty file system: its root, and the one node that holds the root directory.
fn root_directory(
    superblock: &Superblock,
    vault: &SharedVault,
    segments: &Rc<RefCell<Segments>>,
    checkpoint: &Checkpoint,
    options: FormatOptions,
) -> Option<(TreeRoot, BlockIndex, Buffer)> {
    let mut volume = Volume::new(
        *superblock,
        Rc::clone(vault),
        Rc::clone(segments),
        checkpoint,
    )
    .ok()?;
    let loaded = Loaded::default();
    let no_log = |_| None;
    let mut transaction =
        Transaction::new(&volume, At::Newest, &loaded, &no_log, options.created_ns);
    let (mode, owner) = (0o755, 0);
    transaction.files().create_root(mode, owner, owner).ok()?;
    let items = transaction.into_set().items.into_iter();
    let changes = items.filter_map(|(key, value)| Some(Change::Put(key, value?)));
    let plan = volume.plan(0, &changes.collect::<Vec<_>>()).ok()?;
    volume.prepare(&plan).ok()?;
    volume.apply(plan, &[]);

    let segment = segments.borrow_mut().allocate(SegmentKind::Nodes, 0)?;
    segments.borrow_mut().add_live(segment, BLOCK_SIZE as u64);
    let block = superblock.segment_start(segment);
    let mut buffer = Buffer::zeroed(1).ok()?;
    let mut frozen = volume.live.freeze(checkpoint.sequence);
    let write = |_, bytes: &[u8; BLOCK_SIZE]| buffer.bytes_mut().copy_from_slice(bytes);
    frozen.next_batch(2, || Some(block), write).ok()?;
    Some((frozen.root()?, block, buffer))
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

/// The superblock, from its first copy or else the second.
pub(crate) async fn read_superblock<D: BlockDevice>(
    device: &D,
) -> Result<Result<Superblock, SuperblockFault>, DeviceError> {
    let first = read_copy(device, BlockIndex(0)).await?;
    match first {
        Ok(superblock) if superblock.state == State::Ready => return Ok(first),
        // What it says is right, if not for this code: the second copy may be older.
        Err(SuperblockFault::Unknown { .. }) => return Ok(first),
        _ => {}
    }
    let second = read_copy(device, SECOND_COPY_BLOCK).await?;
    // While a format is under way the second copy may still be the older file system's.
    let of_this = |found: &Superblock| first.map_or(true, |first| first.id == found.id);
    Ok(second.ok().filter(of_this).map_or(first, Ok))
}

async fn read_copy<D: BlockDevice>(
    device: &D,
    block: BlockIndex,
) -> Result<Result<Superblock, SuperblockFault>, DeviceError> {
    if block.0 >= device.geometry().block_count {
        // Too small for one, and nothing that failed.
        return Ok(Err(SuperblockFault::Invalid));
    }
    let buffer = Buffer::zeroed(1).map_err(|_| DeviceError::Io)?;
    let decode = |bytes: &[u8]| match Superblock::decode(bytes, block) {
        Err(SuperblockFault::Invalid) => Err(SuperblockFault::Invalid),
        known => Ok(known),
    };
    let (_, decoded) = read_checked(device, block, buffer, decode).await;
    Ok(decoded?.unwrap_or_else(Err))
}

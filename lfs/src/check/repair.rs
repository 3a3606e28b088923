//! Repairs that cannot make anything worse: what is written follows from what is intact.
//!
//! - A damaged copy of the superblock is written again from the good one.
//! - A damaged block of the segment table is written again, in place, when all tree nodes are intact: they say what
//!   each segment holds.
//! - Links, entry counts, attribute sizes and the room of data that do not fit what is there are set in ordinary commits, and the space
//!   of segments is counted again in an ordinary checkpoint: a power cut in between leaves a file system
//!   that is repaired in part.
//!
//! What is not repaired, because something would have to be guessed or given up: damaged nodes and data, names that lead
//! nowhere, inodes without names, circles of directories, a damaged log, lost checkpoints.

use alloc::boxed::Box;
use alloc::vec::Vec;

use embassy_futures::join::join;

use super::report::{Finding, Problem, Repair, Severity};
use super::{CheckEvent, CheckOptions, Found, Sink, Summary, check_all};
use crate::disk::superblock::{SegmentId, TABLE_ENTRIES};
use crate::log::{GroupHeader, GroupKind};
use crate::mount::{Unlock, damaged_copies, slots_block};
use crate::namespace::Inode;
use crate::space::{Segment, SegmentKind};
use crate::{
    BlockDevice, BlockIndex, Buffer, CheckpointError, Clock, DeviceError, FileError, FileSystem,
    ItemKey, ItemKind, MountError, Recovery, View,
};

/// Repairs done in one go.
const REPAIRS_MAX: usize = 65_536;

/// Why a repair could not go on. What was repaired before stays so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RepairError {
    /// The device failed.
    #[error("the device failed: {0}")]
    Device(#[from] DeviceError),
    /// It does not mount, although it should.
    #[error("cannot be mounted for the repair: {0}")]
    Mount(#[from] MountError),
    /// A commit of the repair was refused.
    #[error("a repair was refused: {0}")]
    Refused(#[from] FileError),
    /// The checkpoint in the end was not made.
    #[error("the checkpoint after the repair was not made: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// Not enough memory.
    #[error("not enough memory")]
    OutOfMemory,
}

/// What a repair did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RepairOutcome {
    /// What a check came to before.
    pub before: Summary,
    /// What was repaired.
    pub repaired: Vec<Finding>,
    /// What a check comes to now.
    pub after: Summary,
}

/// Checks the file system on `device` and repairs what can be repaired safely; see the module's list. What is found
/// before and what is left goes to `events`. Durable on return.
///
/// # Errors
/// See [`RepairError`].
pub async fn repair<D: BlockDevice>(
    device: &D,
    clock: &impl Clock,
    options: CheckOptions<'_>,
    events: &mut dyn FnMut(CheckEvent<'_>),
) -> Result<RepairOutcome, RepairError> {
    let mut repaired = Vec::new();
    let (before, mut found, mut findings) = look(device, options, events).await;
    let mut after = before;
    if let Some(found) = &found
        && repair_in_place(device, found, &findings, &mut repaired).await?
    {
        device.flush().await?;
    }
    if !repaired.is_empty() {
        let again = look(device, options, &mut |_| ()).await;
        (after, found, findings) = again;
    }
    if let Some(found) = found
        && after.mounts
        && findings.iter().any(by_mounting)
    {
        let ground = (options.key, &after, &found);
        let mounted = repair_mounted(device, clock, ground, &findings, &mut repaired);
        Box::pin(mounted).await?;
    }
    if !repaired.is_empty() {
        (after, ..) = look(device, options, events).await;
    }
    Ok(RepairOutcome {
        before,
        repaired,
        after,
    })
}

/// A check that keeps the findings with a repair.
async fn look<D: BlockDevice>(
    device: &D,
    options: CheckOptions<'_>,
    events: &mut dyn FnMut(CheckEvent<'_>),
) -> (Summary, Option<Found>, Vec<Finding>) {
    let mut findings = Vec::new();
    let mut keep = |event: CheckEvent<'_>| {
        if let CheckEvent::Finding(finding) = event
            && finding.repair.is_some()
            && findings.len() < REPAIRS_MAX
        {
            findings.push(finding.clone());
        }
        events(event);
    };
    let mut sink = Sink::new(&mut keep);
    let found = check_all(device, options, &mut sink).await;
    for finding in core::mem::take(&mut sink.pending) {
        sink.emit(&finding);
    }
    let summary = sink.summary;
    (summary, found, findings)
}

fn by_mounting(finding: &Finding) -> bool {
    !matches!(
        finding.repair,
        None | Some(Repair::Superblock | Repair::KeySlots | Repair::TableBlock)
    )
}

/// Writes again what the mount needs. True when something was written.
async fn repair_in_place<D: BlockDevice>(
    device: &D,
    found: &Found,
    findings: &[Finding],
    repaired: &mut Vec<Finding>,
) -> Result<bool, RepairError> {
    for finding in findings {
        let Some(block) = finding.block else { continue };
        match finding.repair {
            Some(Repair::Superblock) => {
                let mut buffer = Buffer::zeroed(1).map_err(|_| RepairError::OutOfMemory)?;
                found.superblock.encode(block, &mut buffer);
                device.write(block, buffer).await.1?;
            }
            Some(Repair::KeySlots) => {
                let good = damaged_copies(device, &found.superblock).await;
                let Some((slots, _)) = good else { continue };
                let buffer = slots_block(&slots, block).ok_or(RepairError::OutOfMemory)?;
                device.write(block, buffer).await.1?;
            }
            Some(Repair::TableBlock) => {
                let Some(buffer) = table_block(device, found, block).await? else {
                    continue;
                };
                device.write(block, buffer).await.1?;
            }
            _ => continue,
        }
        repaired.push(finding.clone());
    }
    Ok(!repaired.is_empty())
}

/// The block of the segment table that belongs at `own`, from what the segments hold; `None` when that is not known.
async fn table_block<D: BlockDevice>(
    device: &D,
    found: &Found,
    own: BlockIndex,
) -> Result<Option<Buffer>, RepairError> {
    let superblock = &found.superblock;
    let Some(counted) = &found.counted else {
        return Ok(None);
    };
    let home = |index: u32| {
        let home = found.checkpoint.table_homes.get(index as usize).copied();
        superblock.table_block(index, home.unwrap_or(0))
    };
    let index = found.damaged_table.iter().copied();
    let Some(index) = index.into_iter().find(|&index| home(index) == own) else {
        return Ok(None);
    };
    let mut table = found.table.clone();
    let first = index * TABLE_ENTRIES;
    let last = (first + TABLE_ENTRIES).min(table.count());
    for id in (first..last).map(SegmentId) {
        let live = counted.get(id.0 as usize).copied().unwrap_or(0);
        let kind = if of_object(found, id) {
            SegmentKind::Object
        } else if found.node_segments.binary_search(&id).is_ok() {
            SegmentKind::Nodes
        } else if found.checkpoint.log_segments.contains(&id) {
            SegmentKind::Log
        } else if live > 0 {
            data_kind(device, found, id).await?
        } else {
            SegmentKind::Free
        };
        let live_bytes = u32::try_from(live).unwrap_or(u32::MAX);
        let mut segment = Segment::new(kind, found.checkpoint.log_blocks);
        segment.live_bytes = live_bytes;
        table.restore(id, segment);
    }
    let sequence = found.checkpoint.sequence;
    let block = table.encoded_block(superblock, &found.vault, index, own, sequence);
    Ok(Some(block.ok_or(RepairError::OutOfMemory)?))
}

fn of_object(found: &Found, id: SegmentId) -> bool {
    let mut objects = found.checkpoint.objects.values();
    objects.any(|object| object.segments.contains(&id))
}

/// Whether data in a segment were written by commits or by the cleaner: its first group says so.
async fn data_kind<D: BlockDevice>(
    device: &D,
    found: &Found,
    id: SegmentId,
) -> Result<SegmentKind, RepairError> {
    let start = found.superblock.segment_start(id);
    let buffer = Buffer::zeroed(1).map_err(|_| RepairError::OutOfMemory)?;
    let (buffer, read) = device.read(start, buffer).await;
    read?;
    let survivors = GroupHeader::decode(
        GroupKind::Survivors,
        found.superblock.id,
        start,
        buffer.bytes(),
    );
    Ok(match survivors {
        Some(_) => SegmentKind::Survivors,
        None => SegmentKind::Log,
    })
}

/// Repairs through commits and a checkpoint.
async fn repair_mounted<D: BlockDevice>(
    device: &D,
    clock: &impl Clock,
    (key, summary, found): (Option<Unlock<'_>>, &Summary, &Found),
    findings: &[Finding],
    repaired: &mut Vec<Finding>,
) -> Result<(), RepairError> {
    let mut recovery = Recovery::open_with(device, key.as_ref()).await?;
    while recovery.next_commit().await?.is_some() {}
    let filesystem = recovery.finish().await?;
    // Space that something damaged takes is not given away: it may still be wanted.
    let errors_left = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .count() as u64;
    let recount = summary.errors <= errors_left;
    let work = async {
        let done = repair_files(&filesystem, found, findings, recount, repaired).await;
        let checkpoint = match done {
            Ok(()) => filesystem.checkpoint_trees(clock).await.map_err(Into::into),
            Err(error) => Err(error),
        };
        let ended = filesystem.shutdown(clock).await;
        checkpoint.and(ended.map_err(|_| RepairError::Refused(FileError::ReadOnly)))
    };
    join(filesystem.run(clock), work).await.1
}

async fn repair_files<D: BlockDevice>(
    filesystem: &FileSystem<D>,
    found: &Found,
    findings: &[Finding],
    recount: bool,
    repaired: &mut Vec<Finding>,
) -> Result<(), RepairError> {
    // First, before anything else is counted.
    for finding in findings.iter().filter(|_| recount) {
        if let Problem::LiveBytes {
            segment, counted, ..
        } = finding.problem
            && found.counted.is_some()
        {
            let mut segments = filesystem.segments.borrow_mut();
            let id = SegmentId(segment);
            let recorded = segments.get(id).map_or(0, |s| u64::from(s.live_bytes));
            segments.remove_live(id, recorded.saturating_sub(counted));
            segments.add_live(id, counted.saturating_sub(recorded));
            repaired.push(finding.clone());
        }
    }
    for finding in findings {
        let (Some(inode), Some(_)) = (finding.inode, finding.repair) else {
            continue;
        };
        let key = ItemKey::new(inode.0, ItemKind::Inode, 0);
        let problem = &finding.problem;
        let change = filesystem.transact(0, |transaction| {
            let value = transaction.get(key)?.ok_or(FileError::NotFound)?;
            let mut inode = Inode::decode(&value)?;
            let narrow = |count: u64| u32::try_from(count).map_err(|_| FileError::Invalid);
            match *problem {
                Problem::Links { counted, .. } => inode.links = narrow(counted)?,
                Problem::Entries { counted, .. } => inode.size = counted,
                Problem::AttributeNames { counted, .. } => {
                    inode.attribute_names_bytes = narrow(counted)?;
                }
                Problem::Allocated { counted, .. } => inode.allocated = counted,
                _ => return Ok(false),
            }
            let value = inode.encode();
            // It must be one that can be.
            Inode::decode(&value)?;
            transaction.put(key, value);
            Ok(true)
        });
        match change.await {
            Ok((true, _)) => repaired.push(finding.clone()),
            // Not everything that was counted can be: it stays as it is.
            Ok((false, _)) | Err(FileError::Invalid | FileError::Damaged { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

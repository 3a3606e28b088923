//! The fixed structures at the start of a device: superblock, slots, segment table.

use alloc::vec::Vec;

use super::Sink;
use super::report::{Finding, Part, Problem, Repair};
use crate::checkpoint::{Checkpoint, read_slot};
use crate::disk::superblock::{
    State, Superblock, SuperblockFault, TABLE_ENTRIES, table_blocks_for,
};
use crate::mount::{Unlock, damaged_copies, unlock};
use crate::seal::{SharedVault, Vault};
use crate::space::Segments;
use crate::{BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, MountError};

/// Blocks of the segment table that one request reads.
const TABLE_BLOCKS_AT_ONCE: u32 = 64;

/// What could be read of them.
pub(super) struct Head {
    pub superblock: Superblock,
    pub vault: SharedVault,
    pub checkpoint: Option<Checkpoint>,
    pub segments: Option<Segments>,
    /// Blocks of the table, by index, that are damaged; what they say counts as free.
    pub damaged_table: Vec<u32>,
}

/// Reads `blocks` blocks; reports when that fails.
pub(super) async fn read<D: BlockDevice>(
    device: &D,
    start: BlockIndex,
    blocks: usize,
    part: Part,
    sink: &mut Sink<'_>,
) -> Option<Buffer> {
    let Ok(buffer) = Buffer::zeroed(blocks) else {
        sink.report(Finding::new(part, Problem::OutOfMemory).at(start));
        return None;
    };
    let (buffer, read) = device.read(start, buffer).await;
    if let Err(error) = read {
        sink.report(Finding::new(part, Problem::Unreadable(error)).at(start));
        return None;
    }
    Some(buffer)
}

/// Reads and checks all of it. `None`: there is no file system to check.
pub(super) async fn check<D: BlockDevice>(
    device: &D,
    key: Option<&Unlock<'_>>,
    sink: &mut Sink<'_>,
) -> Option<Head> {
    let superblock = check_superblock(device, sink).await?;
    if !fits(device, superblock.blocks_min(), sink) {
        return None;
    }
    let vault = match unlock(device, &superblock, key).await {
        Ok(vault) => vault,
        Err(error) => {
            sink.report(Finding::new(Part::KeySlots, Problem::Locked(error)));
            return None;
        }
    };
    if superblock.suite.is_some()
        && let Some((_, bad)) = damaged_copies(device, &superblock).await
    {
        for block in bad.into_iter().flatten() {
            let finding = Finding::new(Part::KeySlots, Problem::KeySlotsCopy);
            sink.report(finding.at(block).by(Repair::KeySlots));
        }
    }
    let checkpoint = check_slots(device, &superblock, &vault, sink).await;
    let mut head = Head {
        superblock,
        vault,
        checkpoint,
        segments: None,
        damaged_table: Vec::new(),
    };
    if let Some(checkpoint) = &head.checkpoint {
        head.segments = check_table(
            device,
            &superblock,
            &head.vault,
            checkpoint,
            &mut head.damaged_table,
            sink,
        )
        .await;
    }
    Some(head)
}

async fn check_superblock<D: BlockDevice>(device: &D, sink: &mut Sink<'_>) -> Option<Superblock> {
    let device_blocks = device.geometry().block_count;
    let mut found = Vec::new();
    for block in Superblock::copy_blocks() {
        let decoded = if block.0 < device_blocks {
            let buffer = read(device, block, 1, Part::Superblock, sink).await;
            buffer.map(|buffer| Superblock::decode(buffer.bytes(), block))
        } else {
            None
        };
        found.push((block, decoded.unwrap_or(Err(SuperblockFault::Invalid))));
    }
    let &[(first_block, first), (second_block, second)] = found.as_slice() else {
        return None;
    };
    let ready = |copy: Result<Superblock, _>| copy.ok().filter(|copy| copy.state == State::Ready);
    let damaged = |block| {
        Finding::new(Part::Superblock, Problem::SuperblockCopy)
            .at(block)
            .by(Repair::Superblock)
    };
    if let Err(SuperblockFault::Unknown { version, features }) = first {
        let problem = Problem::Unknown { version, features };
        sink.report(Finding::new(Part::Superblock, problem).at(first_block));
        return None;
    }
    if let Some(superblock) = ready(first) {
        if second != first {
            sink.report(damaged(second_block));
        }
        return Some(superblock);
    }
    // While a format is under way the second copy may still be the older file system's.
    if let Some(superblock) = ready(second)
        && first.map_or(true, |first| first.id == superblock.id)
    {
        sink.report(damaged(first_block));
        return Some(superblock);
    }
    let problem = match (first, second) {
        (Ok(_), _) => Problem::FormatUnfinished,
        (_, Err(SuperblockFault::Unknown { version, features })) => {
            Problem::Unknown { version, features }
        }
        _ => Problem::NoFileSystem,
    };
    sink.report(Finding::new(Part::Superblock, problem).at(first_block));
    None
}

/// Whether the device has `blocks` blocks; reports when it has not.
fn fits<D: BlockDevice>(device: &D, blocks: u64, sink: &mut Sink<'_>) -> bool {
    let device_blocks = device.geometry().block_count;
    if blocks > device_blocks {
        let problem = Problem::DeviceTooSmall {
            needed_bytes: blocks.saturating_mul(BLOCK_SIZE as u64),
            device_bytes: device_blocks.saturating_mul(BLOCK_SIZE as u64),
        };
        sink.report(Finding::new(Part::Superblock, problem).at(BlockIndex(0)));
    }
    blocks <= device_blocks
}

async fn check_slots<D: BlockDevice>(
    device: &D,
    superblock: &Superblock,
    vault: &Vault,
    sink: &mut Sink<'_>,
) -> Option<Checkpoint> {
    let mut newest: Option<Checkpoint> = None;
    let mut empty = Vec::new();
    for slot in 0..2 {
        let own = superblock.slot_block(slot);
        let buffer = match read_slot(device, superblock, own, 0).await {
            Ok(buffer) => buffer,
            Err(error) => {
                let problem = match error {
                    MountError::Device(error) => Problem::Unreadable(error),
                    _ => Problem::OutOfMemory,
                };
                sink.report(Finding::new(Part::Checkpoint, problem).at(own));
                continue;
            }
        };
        if let Some(head) = Checkpoint::head_of(superblock, own, buffer.bytes())
            && superblock.allows(head.segment_count)
            && !fits(device, superblock.blocks_for(head.segment_count), sink)
        {
            return None;
        }
        let device_blocks = device.geometry().block_count;
        match Checkpoint::decode(superblock, vault, own, buffer.bytes(), device_blocks) {
            Some(found) => {
                if newest
                    .as_ref()
                    .is_none_or(|newest| found.sequence > newest.sequence)
                {
                    newest = Some(found);
                }
            }
            None => empty.push(own),
        }
    }
    if newest.is_none() {
        let own = superblock.slot_block(0);
        sink.report(Finding::new(Part::Checkpoint, Problem::NoCheckpoint).at(own));
    } else if newest.as_ref().is_some_and(|newest| newest.sequence > 1) {
        for own in empty {
            sink.report(Finding::new(Part::Checkpoint, Problem::SlotEmpty).at(own));
        }
    }
    newest
}

async fn check_table<D: BlockDevice>(
    device: &D,
    superblock: &Superblock,
    vault: &Vault,
    checkpoint: &Checkpoint,
    damaged: &mut Vec<u32>,
    sink: &mut Sink<'_>,
) -> Option<Segments> {
    let Some(mut segments) = Segments::new(superblock, checkpoint.segment_count) else {
        sink.report(Finding::new(Part::SegmentTable, Problem::OutOfMemory));
        return None;
    };
    let used = table_blocks_for(checkpoint.segment_count);
    for first in (0..used).step_by(TABLE_BLOCKS_AT_ONCE as usize) {
        let count = TABLE_BLOCKS_AT_ONCE.min(used - first);
        let start = superblock.table_block(first, 0);
        let blocks = 2 * count as usize;
        let buffer = read(device, start, blocks, Part::SegmentTable, sink).await;
        for index in first..first + count {
            let home = checkpoint.table_homes.get(index as usize).copied();
            let home = home.unwrap_or(0);
            let at = (2 * (index - first) + u32::from(home)) as usize * BLOCK_SIZE;
            let bytes = buffer
                .as_ref()
                .and_then(|b| b.bytes().get(at..at + BLOCK_SIZE));
            let loaded = bytes
                .is_some_and(|bytes| segments.load_block(superblock, vault, index, home, bytes));
            if !loaded {
                damaged.push(index);
                let first = index * TABLE_ENTRIES;
                let last = (first + TABLE_ENTRIES).min(checkpoint.segment_count) - 1;
                let problem = Problem::TableBlock { first, last };
                let finding = Finding::new(Part::SegmentTable, problem)
                    .at(superblock.table_block(index, home))
                    .by(Repair::TableBlock);
                sink.report(finding);
            }
        }
    }
    Some(segments)
}

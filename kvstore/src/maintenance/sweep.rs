//! Sweeps: what tables list as dropped is freed in the value file (`ENGINE.md`, section 6).
//!
//! The checkpoint that names a table has made its list true, so all that is listed may be freed, in any order, and again after a crash: slots are never used
//! twice. That it was freed is said by the next manifest, which is durable only when the commits are that freed it.
//!
//! To free is a change of a leaf of the value file's tree. So lists wait until there are some entries for each leaf, the disk is short, or nothing is going on; and of the lists
//! of several tables slots are freed in their order, so that each leaf changes once.

use alloc::vec::Vec;
use core::ops::Range;

use lfs::{BlockDevice, Clock, FileError};

use super::chunks::Chunks;
use super::compact::next_turn;
use super::install::Turn;
use super::{JobError, flush_goes_before};
use crate::engine::table::{Cached, ChunkKind, Dropped, TableRef};
use crate::engine::types::SLOT_BYTES;
use crate::store::Store;

/// Ranges that are freed in one commit, and slots of them.
const RANGES_PER_COMMIT: usize = 64;
const SLOTS_PER_COMMIT: u64 = 16 << 10;

/// Ranges that are in memory at once, unless one table lists more.
const RANGES_MAX: usize = 64 << 10;

/// Slots that are listed are freed when they are this part of what values take: some entries for each leaf of the tree.
const PENDING_PART: u64 = 12;

/// Bytes of work that freeing a range counts as: what a leaf takes, of which it is not the only one.
const RANGE_WORK: u64 = 512;

/// Whether a table lists slots that are not free.
pub(super) fn is_pending(table: &TableRef) -> bool {
    table.dropped == Dropped::Pending && table.stats.dropped_slots > 0
}

/// Slots that tables list and that are not free.
pub(crate) fn pending_slots<D: BlockDevice>(store: &Store<D>) -> u64 {
    let tree = store.engine.tree.borrow();
    let tables = tree.runs().iter().flat_map(|run| &run.tables);
    let slots = tables.filter(|table| is_pending(table));
    slots.map(|table| table.stats.dropped_slots).sum()
}

/// Whether it is worth it now.
pub(super) fn is_due<D: BlockDevice>(store: &Store<D>) -> bool {
    let pending = pending_slots(store);
    let large_bytes = {
        let tree = store.engine.tree.borrow();
        let tables = tree.runs().iter().flat_map(|run| &run.tables);
        tables.fold(0_u64, |sum, table| {
            sum.saturating_add(table.stats.large_bytes)
        })
    };
    let is_urgent = store.compaction.is_urgent();
    pending > 0 && (is_urgent || pending > least_pending(large_bytes))
}

/// Slots that are listed before they are freed, where there are values of so many bytes.
fn least_pending(large_bytes: u64) -> u64 {
    large_bytes / SLOT_BYTES / PENDING_PART
}

/// Frees what some tables list: of as many as fit into memory.
pub(super) async fn sweep<D: BlockDevice>(
    store: &Store<D>,
    clock: &impl Clock,
) -> Result<(), JobError> {
    let mut tables = Vec::new();
    {
        let tree = store.engine.tree.borrow();
        let all = tree.runs().iter().flat_map(|run| &run.tables);
        let mut slots = 0_u64;
        for table in all.filter(|table| is_pending(table)) {
            // A range has one slot at least.
            slots = slots.saturating_add(table.stats.dropped_slots);
            if slots > RANGES_MAX as u64 && !tables.is_empty() {
                break;
            }
            tables.push(table.clone());
        }
    }
    sweep_tables(store, clock, &tables).await
}

/// Frees what these tables list.
pub(super) async fn sweep_tables<D: BlockDevice>(
    store: &Store<D>,
    clock: &impl Clock,
    tables: &[TableRef],
) -> Result<(), JobError> {
    let mut slots = listed(store, tables).await?;
    slots.sort_unstable_by_key(|slots| slots.start);
    free(store, clock, join(slots)).await?;
    let mut objects: Vec<_> = tables.iter().map(|table| table.object).collect();
    objects.sort_unstable();
    // Not while somebody is about to put runs there that do not say so.
    let _turn = Turn::take(store).await;
    store.engine.tree.borrow_mut().mark_swept(&objects);
    Ok(())
}

pub(super) async fn listed<D: BlockDevice>(
    store: &Store<D>,
    tables: &[TableRef],
) -> Result<Vec<Range<u64>>, JobError> {
    let chunks = Chunks::new(store);
    let mut all = Vec::new();
    for table in tables {
        let head = chunks
            .get(table.object, table.head.at(), ChunkKind::Head)
            .await?;
        let Cached::Head(head) = head else { continue };
        for at in head.dropped() {
            let list = chunks.get(table.object, *at, ChunkKind::Dropped).await?;
            let Cached::Dropped(list) = list else {
                continue;
            };
            for slots in list.iter() {
                all.try_reserve(1).map_err(|_| JobError::OutOfMemory)?;
                all.push(slots);
            }
            embassy_futures::yield_now().await;
        }
    }
    Ok(all)
}

/// Those that meet or overlap become one; they are in order.
fn join(mut slots: Vec<Range<u64>>) -> Vec<Range<u64>> {
    slots.dedup_by(|next, before| {
        let meets = next.start <= before.end;
        if meets {
            before.end = before.end.max(next.end);
        }
        meets
    });
    slots
}

/// Takes ranges off the front, so many slots at most: the last one may be a part of what is left of it.
fn take_batch(slots: &mut Vec<Range<u64>>, limits: &Limits, batch: &mut Vec<Range<u64>>) {
    batch.clear();
    let mut left = limits.slots;
    while batch.len() < limits.ranges
        && left > 0
        && let Some(next) = slots.last_mut()
    {
        let end = next.end.min(next.start.saturating_add(left));
        batch.push(next.start * SLOT_BYTES..end * SLOT_BYTES);
        left -= end - next.start;
        next.start = end;
        if next.start >= next.end {
            slots.pop();
        }
    }
}

/// What one commit frees, at most.
struct Limits {
    ranges: usize,
    slots: u64,
}

/// Frees ranges that are in order.
pub(super) async fn free<D: BlockDevice>(
    store: &Store<D>,
    clock: &impl Clock,
    mut slots: Vec<Range<u64>>,
) -> Result<(), JobError> {
    // Taken from the end.
    slots.reverse();
    let mut limits = Limits {
        ranges: RANGES_PER_COMMIT,
        slots: SLOTS_PER_COMMIT,
    };
    let mut batch = Vec::new();
    while !slots.is_empty() {
        next_turn(store, clock, RANGE_WORK * batch.len() as u64).await;
        // However far behind merges are, no commit waits for it.
        flush_goes_before(store, || false).await;
        if store.is_ending() {
            return Err(JobError::Closing);
        }
        take_batch(&mut slots, &limits, &mut batch);
        match store.filesystem.free_values(&batch).await {
            Ok(()) => store.compaction.pace.swept(RANGE_WORK * batch.len() as u64),
            // It touches too many nodes: less of it at once, in the end a single slot.
            Err(FileError::TransactionTooLarge) if limits.slots > 1 => {
                let again = batch.iter().rev();
                slots.extend(again.map(|bytes| bytes.start / SLOT_BYTES..bytes.end / SLOT_BYTES));
                limits.ranges = (limits.ranges / 2).max(1);
                limits.slots = (limits.slots / 4).max(1);
            }
            Err(FileError::ReadOnly) => return Err(JobError::Closing),
            Err(FileError::OutOfMemory) => return Err(JobError::OutOfMemory),
            Err(error) => return Err(JobError::Values(error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_freed_in_order_and_so_many_slots_at_once() {
        let listed = [0..2, 1..3, 3..4, 10..500, 600..601, 601..602, 700..702];
        let mut slots = join(listed.to_vec());
        assert_eq!(slots, [0..4, 10..500, 600..602, 700..702]);
        slots.reverse();
        let limits = Limits {
            ranges: 2,
            slots: 300,
        };
        let mut batches = Vec::new();
        while !slots.is_empty() {
            let mut batch = Vec::new();
            take_batch(&mut slots, &limits, &mut batch);
            let in_slots = |bytes: &Range<u64>| bytes.start / SLOT_BYTES..bytes.end / SLOT_BYTES;
            batches.push(batch.iter().map(in_slots).collect::<Vec<_>>());
        }
        let last = core::slice::from_ref(&(700..702));
        let expected = [&[0..4, 10..306], &[306..500, 600..602], last];
        assert_eq!(batches, expected);
    }

    #[test]
    fn lists_wait_until_they_are_worth_a_change_of_the_tree() {
        assert_eq!(least_pending(0), 0);
        assert_eq!(least_pending(4096 * 12 * 100), 100);
        assert_eq!(least_pending(u64::MAX), u64::MAX / 4096 / 12);
    }
}

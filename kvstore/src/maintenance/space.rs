//! What has to stay free, so that flushes and steps of compaction always have room (`ENGINE.md`, section 5, "A nearly full disk").
//!
//! Objects must be able to take all runs there are, what is in memtables, the output of a step, and of each run a table that is used in part
//! ([`pick::reserve`]). Files may not grow into that, and data may not grow beyond it. Overwrites of a size and deletes go on: the log has its
//! room, a flush finds its own or waits for steps, and a step always finds it, since a flush leaves it.

use lfs::{BlockDevice, Clock, Usage};

use super::install::vouch;
use super::shape::{Shapes, space_of};
use crate::engine::manifest::{RUNS_MAX, RunRef};
use crate::engine::pick;
use crate::store::{LARGE_VALUE_BYTES_MIN, Store};
use crate::transaction::Growth;

/// A table has the fewest segments that take so much, or less on small disks.
const TABLE_BYTES: u64 = 2 << 20;

/// A table takes at most this part of the room for objects, or a segment.
const TABLE_PART: u64 = 128;

/// Runs from which on flushes wait: steps that have begun make one more each.
const RUNS_FOR_FLUSHES: usize = RUNS_MAX - 16;

/// Bytes that values take beyond their own: items of the tree, checks, and a part that the cleaner works in.
const VALUE_PART: u64 = 8;

/// Of the room for data, what overwrites have for themselves, at most.
const OVERWRITE_PART: u64 = 48;

/// What the item of a large value comes to take beyond the 12 bytes that it takes among many others: nodes are joined when they are a quarter full. Pieces behind the first
/// are not counted.
const SPARSE_ITEM_BYTES: u64 = 36;

/// Bytes that a whole table takes.
pub(super) fn table_bytes(usage: &Usage) -> u64 {
    let segment = usage.segment_bytes.max(1);
    let bytes = (usage.object_bytes_max / TABLE_PART).clamp(segment, TABLE_BYTES.max(segment));
    bytes.next_multiple_of(segment)
}

/// Room that a flush leaves for the step that may come after it: its output, one table more that it may have begun, and manifests.
fn step_room(usage: &Usage, table_bytes: u64) -> u64 {
    pick::step_bytes(usage, table_bytes) + table_bytes + 4 * usage.segment_bytes
}

/// Whether a flush that takes `bytes` leaves room for a step.
pub(super) fn may_flush(usage: &Usage, table_bytes: u64, bytes: u64, runs: usize) -> bool {
    let bytes = space_of(bytes, usage.segment_bytes) + usage.segment_bytes;
    runs < RUNS_FOR_FLUSHES && usage.object_bytes_free >= bytes + step_room(usage, table_bytes)
}

/// Room for large values that are written over others: what the log takes until there is a flush, or less on small disks but the largest commit, before those are found to be
/// needed by nobody and freed; and what their items come to take. Growth leaves it of the room for data and of that for objects: where there is none left, overwrites wait until
/// something was freed.
fn overwrite_room(usage: &Usage, commit_bytes_max: u64, runs: &[RunRef]) -> u64 {
    let part = usage.capacity_bytes / OVERWRITE_PART;
    let until_flush = part.min(usage.replay_bytes_max).max(commit_bytes_max);
    let tables = runs.iter().flat_map(|run| &run.tables);
    tables.fold(until_flush, |room, table| {
        let stats = &table.stats;
        let items = stats
            .entries
            .min(stats.large_bytes / LARGE_VALUE_BYTES_MIN as u64);
        room.saturating_add(items.saturating_mul(SPARSE_ITEM_BYTES))
    })
}

/// What growth leaves.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Reserved {
    /// Bytes that objects must be able to take, with those there are, for the runs there are.
    objects: u64,
    /// And for what was in memtables at the last look, and what the active one may come to hold before the next: what it holds now would count twice.
    memtables: u64,
    /// Bytes for values that are written over others: see [`overwrite_room`].
    overwrites: u64,
}

/// Whether data may grow by that.
fn may_grow(usage: &Usage, reserved: &Reserved, growth: &Growth) -> bool {
    let positive = |bytes: i64| u64::try_from(bytes).unwrap_or(0);
    let with_part = |bytes: u64| bytes.saturating_add(bytes / VALUE_PART);
    let values = with_part(positive(growth.values));
    if growth.values > 0 {
        let live = usage.live_bytes.saturating_add(values);
        if live.saturating_add(reserved.overwrites) > usage.capacity_bytes {
            return false;
        }
    }
    // Of what is new in the index there is a second copy for as long as it is merged.
    let index = positive(growth.index).saturating_mul(2);
    let needed = reserved
        .objects
        .saturating_add(reserved.memtables)
        .saturating_add(index)
        .saturating_add(values)
        .saturating_add(with_part(reserved.overwrites));
    needed <= usage.object_bytes_max
}

/// Sees to it that there is more room for objects: waits for the cleaner, and makes the checkpoint that frees what it has emptied. False if there is
/// nothing to be had in this way: then the cleaner finds nothing to gain.
pub(super) async fn make_room<D: BlockDevice>(store: &Store<D>, clock: &impl Clock) -> bool {
    store.filesystem.clean_for_objects().await && vouch(store, clock).await.is_ok()
}

impl<D: BlockDevice> Store<D> {
    /// Looks at the runs there are: what has to stay free, and how far compaction is behind. To be called when they have changed.
    pub(crate) fn share_space(&self) {
        let usage = self.filesystem.usage();
        let shapes = Shapes::of(self, &usage);
        let table_bytes = table_bytes(&usage);
        // What comes until the next look goes into the active memtable.
        let memtable = self.memtable_bytes_most() as u64;
        self.share_memory();
        self.engine.set_probed();
        let tree = self.engine.tree.borrow();
        let commit_bytes_max = self.filesystem.commit_bytes_max() as u64;
        let reserved = Reserved {
            objects: pick::reserve(&usage, &shapes.runs, table_bytes, 0),
            memtables: tree.memtable_bytes() as u64 + memtable,
            overwrites: overwrite_room(&usage, commit_bytes_max, tree.runs()),
        };
        drop(tree);
        let compaction = &self.compaction;
        compaction.reserved.set(reserved);
        compaction.table_bytes.set(shapes.bytes());
        compaction
            .pace
            .set_debt(shapes.debt(self, &usage), memtable);
        let objects = reserved.objects.saturating_add(reserved.memtables);
        self.filesystem.reserve_for_objects(objects);
        // Where files are all there is, keys still have room for a memtable.
        let values = reserved.overwrites.saturating_add(memtable);
        self.filesystem.reserve_for_values(values);
    }

    /// Whether there is room for data to grow so much.
    pub(crate) fn has_space_for(&self, growth: &Growth) -> bool {
        let memtables = self.engine.tree.borrow().memtable_bytes() as u64;
        let mut reserved = self.compaction.reserved.get();
        reserved.memtables = reserved.memtables.max(memtables);
        may_grow(&self.filesystem.usage(), &reserved, growth)
    }

    /// Bytes that data takes on the disk: what lives of files and values, and tables.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.filesystem.usage().live_bytes
    }

    /// What that may become.
    pub(crate) fn disk_bytes_max(&self) -> u64 {
        self.filesystem.usage().capacity_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn usage(object_mib: u64, free_mib: u64) -> Usage {
        Usage {
            segment_bytes: MIB,
            object_bytes_max: object_mib * MIB,
            object_bytes_free: free_mib * MIB,
            log_bytes_max: 0,
            replay_bytes_max: 0,
            live_bytes: 0,
            capacity_bytes: object_mib * MIB,
            taken_bytes: 0,
        }
    }

    #[test]
    fn tables_have_whole_segments_and_are_small_on_small_disks() {
        let bytes = |object_mib, segment_bytes| {
            table_bytes(&Usage {
                segment_bytes,
                ..usage(object_mib, 0)
            })
        };
        assert_eq!(bytes(1 << 20, MIB), 2 * MIB);
        assert_eq!(bytes(1 << 20, 3 * MIB), 3 * MIB);
        assert_eq!(bytes(1 << 20, 32 << 10), 2 * MIB);
        assert_eq!(bytes(100, 32 << 10), 800 << 10);
        assert_eq!(bytes(100, MIB), MIB);
        assert_eq!(bytes(0, MIB), MIB);
    }

    #[test]
    fn a_flush_leaves_room_for_a_step_and_no_more_runs_than_there_can_be() {
        // A step of a 64th, a table, four segments.
        let may = |free, mib: u64, runs| may_flush(&usage(64 * 16, free), 2 * MIB, mib * MIB, runs);
        assert!(may(16 + 2 + 4 + 6, 5, 0));
        assert!(!may(16 + 2 + 4 + 5, 5, 0));
        assert!(may(1000, 5, RUNS_FOR_FLUSHES - 1));
        assert!(!may(1000, 5, RUNS_FOR_FLUSHES));
    }

    #[test]
    fn data_grows_up_to_what_is_reserved_and_shrinks_beyond() {
        let may = |index: i64, values: i64, objects: u64| {
            let reserved = Reserved {
                objects: objects - MIB,
                memtables: MIB,
                overwrites: 8 * MIB,
            };
            may_grow(&usage(100, 0), &reserved, &Growth { index, values })
        };
        let mib = 1 << 20;
        assert!(may(mib, 8 * mib, 80 * MIB));
        assert!(!may(mib, 8 * mib + 8, 80 * MIB));
        assert!(!may(mib + 1, 8 * mib, 80 * MIB));
        assert!(may(-1, 0, 91 * MIB));
        assert!(!may(i64::MAX, i64::MAX, MIB));
    }
}

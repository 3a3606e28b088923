//! What has to stay free, so that flushes and steps of compaction always have room (`ENGINE.md`, section 5, "A nearly full disk").
//!
//! Objects must be able to take all runs there are, what is in memtables, the output of a step, and of each run a table that is used in part
//! ([`pick::reserve`]). Files may not grow into that, and data may not grow beyond it. Overwrites of a size and deletes go on: the log has its
//! room, a flush finds its own or waits for steps, and a step always finds it, since a flush leaves it.

use lfs::{BlockDevice, Clock, Usage};

use super::install::vouch;
use super::shape::{Shapes, space_of};
use crate::engine::manifest::RUNS_MAX;
use crate::engine::pick;
use crate::store::Store;
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
const OVERWRITE_PART: u64 = 16;

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

/// Room for values that are written over others, before those are found to be needed by nobody and freed: what the log takes until there is a flush, or less on small disks.
fn overwrite_room(usage: &Usage) -> u64 {
    usage
        .replay_bytes_max
        .min(usage.capacity_bytes / OVERWRITE_PART)
}

/// Whether data may grow by that, where objects have to be able to take `reserved_bytes` without it.
fn may_grow(usage: &Usage, reserved_bytes: u64, growth: &Growth) -> bool {
    let positive = |bytes: i64| u64::try_from(bytes).unwrap_or(0);
    let values = positive(growth.values);
    if growth.values > 0 {
        let live = usage
            .live_bytes
            .saturating_add(values + values / VALUE_PART);
        if live.saturating_add(overwrite_room(usage)) > usage.capacity_bytes {
            return false;
        }
    }
    // Of what is new in the index there is a second copy for as long as it is merged.
    let index = positive(growth.index).saturating_mul(2);
    let needed = reserved_bytes
        .saturating_add(index)
        .saturating_add(values + values / VALUE_PART);
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
        let reserved = pick::reserve(&usage, &shapes.runs, table_bytes, 0);
        let memtables = self.engine.tree.borrow().memtable_bytes() as u64;
        let memtable = self.memtable_bytes_most() as u64;
        self.share_memory();
        self.engine.set_probed();
        let compaction = &self.compaction;
        compaction.reserved_bytes.set(reserved);
        compaction.table_bytes.set(shapes.bytes());
        compaction
            .pace
            .set_debt(shapes.debt(self, &usage), memtable);
        // What comes until the next look goes into the active memtable.
        let reserved = reserved.saturating_add(memtables).saturating_add(memtable);
        self.filesystem.reserve_for_objects(reserved);
        self.filesystem.reserve_for_values(overwrite_room(&usage));
    }

    /// Whether there is room for data to grow so much.
    pub(crate) fn has_space_for(&self, growth: &Growth) -> bool {
        let memtables = self.engine.tree.borrow().memtable_bytes() as u64;
        let reserved = self
            .compaction
            .reserved_bytes
            .get()
            .saturating_add(memtables);
        may_grow(&self.filesystem.usage(), reserved, growth)
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
        let may = |index: i64, values: i64, reserved: u64| {
            let growth = Growth { index, values };
            may_grow(&usage(100, 0), reserved, &growth)
        };
        let mib = 1 << 20;
        assert!(may(mib, 8 * mib, 89 * MIB));
        assert!(!may(mib, 8 * mib + 8, 89 * MIB));
        assert!(!may(mib + 1, 8 * mib, 89 * MIB));
        assert!(may(-1, 0, 100 * MIB));
        assert!(!may(i64::MAX, i64::MAX, 0));
    }
}

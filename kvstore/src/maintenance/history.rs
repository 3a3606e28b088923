//! How far back history goes: the floor, behind which what was overwritten is kept (`ENGINE.md`, section 1, "Horizon, floor, pins").
//!
//! It follows the time. It goes further when history takes more of the disk than it may, so that the oldest is let go of; and to the newest commit while a flush or a commit finds
//! no room. What is let go of goes as tables are merged; while history takes too much, tables of the base that have much of it are written anew for that alone.
//!
//! A table says how much in it was followed behind the floor that it was written with, and what its newest commit is: in between it is taken to be spread evenly. Where it is not, too little
//! goes, or too much. But what remains of a table was followed behind the floor that it is written with the next time, which is later: so it gets nearer to what is so, and none is written in vain for long.
//!
//! Not counted is what is in memtables, which have their own bound, and what is not known to be history: a version and what followed it have not met in a merge.

use lfs::{BlockDevice, Clock, Usage};

use super::shape::{part_of, space_of};
use crate::Timestamp;
use crate::engine::table::TableRef;
use crate::store::Store;

/// History may take this part of what the disk can hold, unless it is set otherwise.
const HISTORY_PART: u64 = 4;

/// Beyond what it may take it is brought to less, by this part, so that it is not beyond again at once.
const SLACK_PART: u64 = 8;

/// The floor is looked for so many times, each time in one half of what is left.
const LOOKS: u32 = 10;

/// Moves the floor, behind which history is kept, and says where it is.
pub(super) fn raise_floor<D: BlockDevice>(store: &Store<D>, clock: &impl Clock) -> Timestamp {
    let engine = &store.engine;
    // It never goes back: what is behind it may have been dropped.
    let floor = if engine.keeps_history.get() && !store.compaction.is_urgent() {
        let since_ms = clock.unix_ms().saturating_sub(engine.history_ms.get());
        let by_time = engine.timeline.borrow().before(since_ms);
        let usage = store.filesystem.usage();
        let tree = engine.tree.borrow();
        let tables = tree.runs().iter().flat_map(|run| &run.tables);
        let most = bytes_max(store, &usage);
        floor_within(
            most,
            &tables,
            usage.segment_bytes,
            by_time.max(engine.floor.get()),
        )
    } else {
        store.committed().max(engine.floor.get())
    };
    engine.floor.set(floor);
    floor
}

/// The floor from which on history takes no more than `most` bytes, `floor` at least.
fn floor_within<'t>(
    most: u64,
    tables: &(impl Iterator<Item = &'t TableRef> + Clone),
    segment_bytes: u64,
    floor: Timestamp,
) -> Timestamp {
    let retained = |floor| {
        let bytes = tables
            .clone()
            .map(|table| retained_in(table, segment_bytes, floor));
        bytes.fold(0, u64::saturating_add)
    };
    if retained(floor) <= most {
        return floor;
    }
    let newest = tables.clone().map(|table| table.stats.greatest_timestamp);
    let (mut low, mut high) = (floor, newest.fold(floor, Timestamp::max));
    for _ in 0..LOOKS {
        let middle = Timestamp(low.0 + (high.0 - low.0) / 2);
        if retained(middle) <= most - most / SLACK_PART {
            high = middle;
        } else {
            low = middle;
        }
    }
    high
}

/// What history takes of the disk.
pub(crate) fn history_bytes<D: BlockDevice>(store: &Store<D>) -> u64 {
    let segment_bytes = store.filesystem.usage().segment_bytes;
    sum(store, |table| history_in(table, segment_bytes))
}

/// What it may take.
pub(crate) fn history_bytes_max<D: BlockDevice>(store: &Store<D>) -> u64 {
    bytes_max(store, &store.filesystem.usage())
}

/// Whether what was let go of has to be dropped, since there is more history than there may be.
pub(super) fn is_history_over<D: BlockDevice>(store: &Store<D>) -> bool {
    let usage = store.filesystem.usage();
    let retained = |table: &TableRef| retained_in(table, usage.segment_bytes, table.stats.floor);
    store.engine.keeps_history.get() && sum(store, retained) > bytes_max(store, &usage)
}

fn bytes_max<D: BlockDevice>(store: &Store<D>, usage: &Usage) -> u64 {
    match store.engine.history_bytes_max.get() {
        0 => usage.capacity_bytes / HISTORY_PART,
        bytes => bytes,
    }
}

fn sum<D: BlockDevice>(store: &Store<D>, bytes: impl Fn(&TableRef) -> u64) -> u64 {
    let tree = store.engine.tree.borrow();
    let tables = tree.runs().iter().flat_map(|run| &run.tables);
    tables.map(bytes).fold(0, u64::saturating_add)
}

/// What history takes of a table, and of the values that it names.
pub(super) fn history_in(table: &TableRef, segment_bytes: u64) -> u64 {
    on_disk(table, segment_bytes, table.stats.history_bytes)
}

/// The same of what was followed behind `floor`.
pub(super) fn retained_in(table: &TableRef, segment_bytes: u64, floor: Timestamp) -> u64 {
    let stats = &table.stats;
    let bytes = on_disk(table, segment_bytes, stats.retained_bytes);
    let (first, last) = (stats.floor.0, stats.greatest_timestamp.0);
    let behind = last.saturating_sub(floor.0.max(first));
    part_of(bytes, behind, last.saturating_sub(first))
}

/// What so many bytes of keys and values take, which are a part of the table's.
fn on_disk(table: &TableRef, segment_bytes: u64, bytes: u64) -> u64 {
    let stats = &table.stats;
    let small = stats.key_bytes.saturating_add(stats.inline_bytes);
    let all = small.saturating_add(stats.large_bytes);
    let whole = space_of(table.bytes, segment_bytes).saturating_add(stats.large_bytes);
    part_of(whole, bytes.min(all), all)
}

#[cfg(test)]
mod tests {
    use super::super::step::tests::table;
    use super::*;
    use crate::engine::table::TableStats;

    const SEGMENT: u64 = 1000;

    /// A table of 1,000 bytes, which only history has, of commits behind `floor`.
    fn of_history(floor: u64, newest: u64) -> TableRef {
        TableRef {
            stats: TableStats {
                entries: 10,
                inline_bytes: 500,
                history_bytes: 500,
                retained_bytes: 500,
                floor: Timestamp(floor),
                greatest_timestamp: Timestamp(newest),
                ..TableStats::default()
            },
            ..table(1, "a", "b", 1000)
        }
    }

    #[test]
    fn history_is_spread_from_the_floor_to_the_newest_commit() {
        let table = of_history(100, 300);
        let behind = |floor| retained_in(&table, SEGMENT, Timestamp(floor));
        assert_eq!([0, 100, 150].map(behind), [1000, 1000, 750]);
        assert_eq!([299, 300, u64::MAX].map(behind), [5, 0, 0]);
        // What pins alone keep is no history to be let go of.
        let stats = TableStats {
            retained_bytes: 0,
            ..table.stats
        };
        let pinned = TableRef { stats, ..table };
        assert_eq!(retained_in(&pinned, SEGMENT, Timestamp(0)), 0);
        assert_eq!(history_in(&pinned, SEGMENT), 1000);
    }

    #[test]
    fn the_oldest_goes_when_there_is_too_much() {
        let tables = [
            of_history(0, 1000),
            of_history(1000, 2000),
            of_history(3000, 3000),
        ];
        let within = |most, floor| floor_within(most, &tables.iter(), SEGMENT, Timestamp(floor)).0;
        assert_eq!([0, 700].map(|floor| within(2000, floor)), [0, 700]);
        assert_eq!(within(1300, 700), 700);
        // An eighth less than there may be.
        let floor = within(1200, 0);
        assert!((950..=960).contains(&floor), "{floor}");
        assert_eq!(within(1200, floor), floor);
        assert_eq!(within(0, 0), 2000);
    }
}

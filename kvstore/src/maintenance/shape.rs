//! What `pick` has to know of the runs.
//!
//! A job into the base has two runs of the base's tier: in front of its inputs what has been written, behind them what has not been reached. For `pick` they
//! are one, and the last.

use alloc::vec::Vec;
use core::ops::Range;

use lfs::{BlockDevice, Usage};

use super::history::{history_in, retained_in};
use super::space::table_bytes;
use super::step::commits_overlap;
use crate::Timestamp;
use crate::engine::manifest::{BASE, RunRef};
use crate::engine::pick::{
    self, BaseTable, Job, Pressure, RunStats, Shape, Tuning, debt, step_bytes,
};
use crate::engine::table::{Dropped, TableRef, TableStats};
use crate::store::Store;

/// The runs as `pick` sees them.
pub(super) struct Shapes {
    /// Newest first, then the base.
    pub(super) runs: Vec<RunStats>,
    /// Where those above the base are in the tree.
    places: Vec<usize>,
    base_tables: Vec<BaseTable>,
    ahead_bytes: u64,
}

/// Bytes that an object of `bytes` takes.
pub(super) fn space_of(bytes: u64, segment_bytes: u64) -> u64 {
    bytes
        .div_ceil(segment_bytes.max(1))
        .saturating_mul(segment_bytes.max(1))
}

fn stats_of(run: &RunRef, segment_bytes: u64) -> RunStats {
    let space = |table: &TableRef| space_of(table.bytes, segment_bytes);
    RunStats {
        tier: run.tier,
        bytes: run.tables.iter().map(space).sum(),
        tables: run.tables.len(),
        large_bytes: sum_of(run, |stats| stats.large_bytes),
        first: run.first,
        last: run.last,
        job: run.job,
    }
}

/// What the tables of a run have of something, together.
fn sum_of(run: &RunRef, of: impl Fn(&TableStats) -> u64) -> u64 {
    let all = run.tables.iter().map(|table| of(&table.stats));
    all.fold(0, u64::saturating_add)
}

impl Shapes {
    /// Of what there is now.
    pub(super) fn of<D: BlockDevice>(store: &Store<D>, usage: &Usage) -> Self {
        Self::of_runs(store.engine.tree.borrow().runs(), usage.segment_bytes)
    }

    fn of_runs(runs: &[RunRef], segment_bytes: u64) -> Self {
        let mut shapes = Self {
            runs: Vec::new(),
            places: Vec::new(),
            base_tables: Vec::new(),
            ahead_bytes: 0,
        };
        let has_begun = runs.iter().any(|run| run.job == Some(BASE));
        let mut base = None::<RunStats>;
        for (place, run) in runs.iter().enumerate() {
            let stats = stats_of(run, segment_bytes);
            if run.tier < BASE {
                shapes.runs.push(stats);
                shapes.places.push(place);
                continue;
            }
            if has_begun && place + 1 == runs.len() {
                shapes.ahead_bytes = stats.bytes;
            }
            base = Some(match base {
                None => stats,
                Some(before) => RunStats {
                    bytes: before.bytes + stats.bytes,
                    tables: before.tables + stats.tables,
                    large_bytes: before.large_bytes.saturating_add(stats.large_bytes),
                    first: before.first.min(stats.first),
                    ..before
                },
            });
        }
        shapes.runs.extend(base);
        shapes
    }

    /// Also large values of the base that tombstones stand for, if all there are of one size: each of a key of its own there, and not more of them than it has.
    fn with_hidden(mut self, runs: &[RunRef]) -> Self {
        let Some((base, above)) = self.runs.split_last_mut() else {
            return self;
        };
        let of_base = runs.iter().filter(|run| run.tier == BASE);
        let entries = of_base.map(|run| sum_of(run, |stats| stats.entries)).sum();
        let mut left = entries;
        for (stats, run) in above.iter_mut().zip(&self.places) {
            let tombstones = runs
                .get(*run)
                .map(|run| sum_of(run, |stats| stats.tombstones));
            let hide = tombstones.unwrap_or(0).min(left);
            left -= hide;
            let hidden = part_of(base.large_bytes, hide, entries);
            stats.large_bytes = stats.large_bytes.saturating_add(hidden);
        }
        self
    }

    /// Also what there is to drop in the base's tables.
    fn with_base_tables(mut self, runs: &[RunRef], segment_bytes: u64, now: &Now<'_>) -> Self {
        let base = runs.last().filter(|run| run.tier == BASE);
        let tables = base.map(|base| &base.tables[..]).unwrap_or_default();
        self.base_tables = tables
            .iter()
            .map(|table| BaseTable {
                bytes: space_of(table.bytes, segment_bytes),
                droppable_bytes: droppable_bytes(table, segment_bytes, now),
            })
            .collect();
        self
    }

    /// Bytes that all tables take.
    pub(super) fn bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.bytes).sum()
    }

    fn shape(&self) -> Shape<'_> {
        Shape {
            runs: &self.runs,
            base_tables: &self.base_tables,
            ahead_bytes: self.ahead_bytes,
        }
    }

    /// How far compaction is behind.
    pub(super) fn debt<D: BlockDevice>(&self, store: &Store<D>, usage: &Usage) -> u64 {
        debt(
            &self.shape(),
            &pressure(store, usage, self),
            &Tuning::default(),
        )
    }
}

/// How much room there is.
fn pressure<D: BlockDevice>(store: &Store<D>, usage: &Usage, shapes: &Shapes) -> Pressure {
    let table_bytes = table_bytes(usage);
    let memtables = store.engine.tree.borrow().memtable_bytes() as u64;
    let reserve = pick::reserve(usage, &shapes.runs, table_bytes, memtables);
    Pressure {
        free_bytes: usage.object_bytes_free,
        // What has to stay free beside the runs there are.
        reserve_bytes: reserve.saturating_sub(shapes.bytes()),
        table_bytes,
        step_bytes: step_bytes(usage, table_bytes),
    }
}

/// What decides what can be dropped.
pub(super) struct Now<'p> {
    pub(super) unix_ms: i64,
    pub(super) floor: Timestamp,
    pub(super) pins: &'p [Timestamp],
    /// History takes more than it may.
    pub(super) is_history_over: bool,
}

/// What a job is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Work {
    /// Runs of the tree, neighbours, newest first.
    pub(super) inputs: Range<usize>,
    /// The tier that they move to; [`BASE`] also when tables of the base are written anew.
    pub(super) into: u8,
    /// Only these tables of the one run.
    pub(super) tables: Option<Range<usize>>,
}

/// What compaction does next.
pub(super) fn next_work<D: BlockDevice>(store: &Store<D>, now: &Now<'_>) -> Option<Work> {
    let usage = store.filesystem.usage();
    let mut shapes = Shapes::of(store, &usage);
    let mut pressure = pressure(store, &usage, &shapes);
    if store.compaction.help.get() == super::Help::Wanted || store.compaction.is_room_wanted() {
        // A flush, or a commit, finds no room, whatever the figures say.
        pressure.free_bytes = 0;
    }
    let tree = store.engine.tree.borrow();
    shapes = shapes.with_base_tables(tree.runs(), usage.segment_bytes, now);
    let tuning = if store.compaction.pace.is_idle() {
        shapes = shapes.with_hidden(tree.runs());
        Tuning::at_rest()
    } else {
        Tuning::default()
    };
    let job = pick::pick(&shapes.shape(), &pressure, &tuning);
    let job = job.or_else(|| hidden_by_ranges(store, tree.runs(), &shapes))?;
    work_of(tree.runs(), &shapes, &job)
}

/// When nothing is committed: what range deletes hide goes when they meet it.
fn hidden_by_ranges<D: BlockDevice>(
    store: &Store<D>,
    runs: &[RunRef],
    shapes: &Shapes,
) -> Option<Job> {
    let above = shapes.runs.iter().filter(|run| run.tier != BASE).count();
    let places = shapes.places.get(..above)?.iter();
    let mut tables = places
        .filter_map(|place| runs.get(*place))
        .flat_map(|run| &run.tables);
    let hides = tables.any(|table| table.stats.range_deletes > 0);
    let runs = 0..above;
    // If nothing is below them, they have done their work.
    let has_base = above < shapes.runs.len();
    (hides && has_base && store.compaction.pace.is_idle()).then_some(Job::Base { runs })
}

fn work_of(runs: &[RunRef], shapes: &Shapes, job: &Job) -> Option<Work> {
    let (picked, into) = match job {
        Job::Tier { runs, into } => (runs, *into),
        Job::Base { runs } => (runs, BASE),
        Job::Reclaim { tables } => {
            return Some(Work {
                inputs: runs.len().checked_sub(1)?..runs.len(),
                into: BASE,
                tables: Some(tables.clone()),
            });
        }
    };
    let place = |at: usize| shapes.places.get(at).copied();
    let first = place(picked.start)?;
    let mut end = place(picked.end.checked_sub(1)?)? + 1;
    // Neighbours, or what is written would not be where they were.
    let is_row = end - first == picked.len();
    if into == BASE && runs.get(end).is_some_and(|run| run.tier == BASE) {
        end += 1;
    }
    is_row.then_some(Work {
        inputs: first..end,
        into,
        tables: None,
    })
}

/// The run that what a job has written so far is in, if it is there: right in front of the inputs, with commits that they have, too.
pub(super) fn output_of(runs: &[RunRef], inputs: &Range<usize>, into: u8) -> Option<usize> {
    let place = inputs.start.checked_sub(1)?;
    let before = runs.get(place).filter(|run| run.tier == into)?;
    let inputs = runs.get(inputs.clone())?;
    let is_output = inputs.iter().any(|input| commits_overlap(before, input));
    is_output.then_some(place)
}

/// What of a base table's bytes, and of the values that it names, would go if it were written anew. It is never more than goes for certain, but for what
/// expires, and for history where that takes more than it may; both are taken to be spread evenly: so no table is written again and again in vain.
fn droppable_bytes(table: &TableRef, segment_bytes: u64, now: &Now<'_>) -> u64 {
    let stats = &table.stats;
    let bytes = space_of(table.bytes, segment_bytes);
    if stats.entries == 0 {
        // Nothing is in it, but what it lists.
        let is_needed = stats.range_deletes > 0
            || (stats.dropped_slots > 0 && table.dropped == Dropped::Pending);
        return if is_needed { 0 } else { bytes };
    }
    let whole = bytes.saturating_add(stats.large_bytes);
    let expired = part_of(whole, expired_entries(stats, now.unix_ms), stats.entries);
    let history = if is_pinned(stats, now.pins) {
        0
    } else if stats.greatest_timestamp <= now.floor {
        history_in(table, segment_bytes)
    } else if now.is_history_over {
        let retained = |floor| retained_in(table, segment_bytes, floor);
        retained(stats.floor) - retained(stats.floor.max(now.floor))
    } else {
        0
    };
    whole.min(expired.saturating_add(history))
}

fn expired_entries(stats: &TableStats, now_ms: i64) -> u64 {
    let (least, greatest) = (stats.least_expiry_ms, stats.greatest_expiry_ms);
    if stats.expiring == 0 || now_ms < least {
        return 0;
    }
    let span = i128::from(greatest) - i128::from(least) + 1;
    let over = i128::from(now_ms.min(greatest)) - i128::from(least) + 1;
    let expired = i128::from(stats.expiring) * over / span.max(1);
    u64::try_from(expired).unwrap_or(0).min(stats.expiring)
}

/// Whether somebody may see what something else in the table followed.
fn is_pinned(stats: &TableStats, pins: &[Timestamp]) -> bool {
    let first = pins.partition_point(|pin| *pin < stats.least_timestamp);
    pins.get(first)
        .is_some_and(|pin| *pin < stats.greatest_timestamp)
}

/// `whole · part / of`.
pub(super) fn part_of(whole: u64, part: u64, of: u64) -> u64 {
    let part = u128::from(whole) * u128::from(part) / u128::from(of.max(1));
    u64::try_from(part).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::step::tests::{run, table};
    use super::*;

    const SEGMENT: u64 = 1000;

    const NOW: Now<'_> = Now {
        unix_ms: 1000,
        floor: Timestamp(50),
        pins: &[],
        is_history_over: false,
    };

    fn droppable(stats: TableStats, dropped: Dropped, now: &Now<'_>) -> u64 {
        let table = TableRef {
            stats,
            dropped,
            ..table(1, "a", "b", 1500)
        };
        droppable_bytes(&table, SEGMENT, now)
    }

    #[test]
    fn what_has_expired_can_be_dropped() {
        let stats = TableStats {
            entries: 100,
            expiring: 50,
            least_expiry_ms: 901,
            greatest_expiry_ms: 1100,
            ..TableStats::default()
        };
        let at = |now_ms| {
            droppable(
                stats,
                Dropped::Pending,
                &Now {
                    unix_ms: now_ms,
                    ..NOW
                },
            )
        };
        assert_eq!(at(900), 0);
        assert_eq!(at(1000), 2000 * 25 / 100);
        assert_eq!(at(1100), 1000);
        assert_eq!(at(i64::MAX), 1000);
        let large = TableStats {
            large_bytes: 8000,
            ..stats
        };
        assert_eq!(
            droppable(
                large,
                Dropped::Pending,
                &Now {
                    unix_ms: 1100,
                    ..NOW
                }
            ),
            5000
        );
    }

    #[test]
    fn history_can_be_dropped_when_nobody_sees_it() {
        let stats = TableStats {
            entries: 10,
            key_bytes: 600,
            inline_bytes: 400,
            history_bytes: 500,
            least_timestamp: Timestamp(20),
            greatest_timestamp: Timestamp(50),
            ..TableStats::default()
        };
        let with = |floor, pins: &[u64]| {
            let pins: Vec<_> = pins.iter().map(|pin| Timestamp(*pin)).collect();
            let now = Now {
                floor: Timestamp(floor),
                pins: &pins,
                ..NOW
            };
            droppable(stats, Dropped::Pending, &now)
        };
        assert_eq!(with(50, &[]), 1000);
        assert_eq!(with(49, &[]), 0);
        assert_eq!(with(50, &[1, 19, 50, 60]), 1000);
        assert_eq!(with(50, &[20]), 0);
        assert_eq!(with(50, &[1, 49]), 0);
        // Some of it is over. That counts where history takes more than it may.
        let retained = TableStats {
            retained_bytes: 500,
            floor: Timestamp(30),
            ..stats
        };
        let over = |floor, is_history_over| {
            let now = Now {
                floor: Timestamp(floor),
                is_history_over,
                ..NOW
            };
            droppable(retained, Dropped::Pending, &now)
        };
        assert_eq!(over(40, false), 0);
        assert_eq!(over(40, true), 500);
        assert_eq!(
            (over(29, true), over(30, true), over(50, true)),
            (0, 0, 1000)
        );
    }

    #[test]
    fn a_table_that_holds_nothing_goes_when_its_list_is_swept() {
        let empty = TableStats {
            dropped_slots: 9,
            ..TableStats::default()
        };
        assert_eq!(droppable(empty, Dropped::Pending, &NOW), 0);
        assert_eq!(droppable(empty, Dropped::Swept, &NOW), 2000);
        let ranges = TableStats {
            range_deletes: 1,
            ..TableStats::default()
        };
        assert_eq!(droppable(ranges, Dropped::Swept, &NOW), 0);
    }

    #[test]
    fn the_two_parts_of_the_base_are_one_for_pick() {
        let begun = |first, last| RunRef {
            job: Some(BASE),
            ..run(1, first, last, &[("m", "z")])
        };
        let runs = [
            run(0, 90, 99, &[("a", "z")]),
            run(BASE, 1, 89, &[("a", "g"), ("g", "m")]),
            begun(70, 89),
            begun(50, 69),
            run(BASE, 1, 49, &[("m", "z")]),
        ];
        let shapes = Shapes::of_runs(&runs, SEGMENT);
        let tiers: Vec<_> = shapes.runs.iter().map(|run| run.tier).collect();
        assert_eq!(tiers, [0, 1, 1, BASE]);
        assert_eq!(shapes.runs[3].tables, 3);
        assert_eq!(shapes.ahead_bytes, shapes.runs[3].bytes / 3);
        let job = Job::Base { runs: 1..3 };
        let work = work_of(&runs, &shapes, &job).unwrap();
        assert_eq!((work.inputs.clone(), work.into), (2..5, BASE));
        assert_eq!(output_of(&runs, &work.inputs, BASE), Some(1));
        // The old base is used up.
        let runs = &runs[..4];
        let shapes = Shapes::of_runs(runs, SEGMENT);
        assert_eq!((shapes.ahead_bytes, shapes.runs.len()), (0, 4));
        assert_eq!(work_of(runs, &shapes, &job).unwrap().inputs, 2..4);
        // Before the first step there is only the old one.
        let runs = [begun(70, 89), run(BASE, 1, 49, &[("m", "z")])];
        let shapes = Shapes::of_runs(&runs, SEGMENT);
        assert_eq!(shapes.ahead_bytes, shapes.runs[1].bytes);
        assert_eq!(output_of(&runs, &(0..2), BASE), None);
    }

    #[test]
    fn a_tombstone_counts_for_a_large_value_of_the_base() {
        let with = |mut run: RunRef, stats| {
            run.tables[0].stats = stats;
            run
        };
        let deletes = |tombstones| TableStats {
            entries: tombstones,
            tombstones,
            ..TableStats::default()
        };
        let values = TableStats {
            entries: 300,
            large_bytes: 300 << 10,
            ..TableStats::default()
        };
        let large_bytes_of = |runs: &[RunRef]| {
            let shapes = Shapes::of_runs(runs, SEGMENT).with_hidden(runs);
            shapes
                .runs
                .iter()
                .rev()
                .skip(1)
                .map(|run| run.large_bytes)
                .sum::<u64>()
        };
        let large_bytes = |tombstones| {
            let runs = [
                with(run(0, 90, 99, &[("a", "z")]), deletes(tombstones)),
                with(run(BASE, 1, 89, &[("a", "z")]), values),
            ];
            large_bytes_of(&runs)
        };
        assert_eq!(large_bytes(0), 0);
        assert_eq!(large_bytes(200), 200 << 10);
        // They may be of one key.
        assert_eq!(large_bytes(1000), 300 << 10);
        let twice = [
            with(run(0, 95, 99, &[("a", "z")]), deletes(200)),
            with(run(0, 90, 94, &[("a", "z")]), deletes(200)),
            with(run(BASE, 1, 89, &[("a", "z")]), values),
        ];
        assert_eq!(large_bytes_of(&twice), 300 << 10);
        let no_base = [
            with(run(0, 95, 99, &[("a", "z")]), deletes(5)),
            with(run(0, 90, 94, &[("a", "z")]), deletes(5)),
        ];
        assert_eq!(large_bytes_of(&no_base), 0);
    }

    #[test]
    fn runs_that_are_no_neighbours_are_not_merged() {
        let runs = [
            run(0, 90, 99, &[("a", "z")]),
            run(BASE, 1, 9, &[("a", "g")]),
            run(0, 80, 89, &[("h", "z")]),
        ];
        let shapes = Shapes::of_runs(&runs, SEGMENT);
        let job = Job::Base { runs: 0..2 };
        assert_eq!(work_of(&runs, &shapes, &job), None);
    }
}

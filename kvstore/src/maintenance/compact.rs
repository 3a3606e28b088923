//! Compaction: jobs that `pick` picks, step by step (`ENGINE.md`, section 5).
//!
//! Before each step it is asked anew what is most urgent; a step ends with a checkpoint, and what readers see is right after each. Between steps and between their turns it keeps
//! to its [pace](super::pace). A step reads tables of about as many bytes as it may write, and of each further input one in part; of range deletes it takes no more than
//! fit into memory, so many that cover one key that no step could be smaller aside.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use lfs::{BlockDevice, Clock};

use super::chunks::{Chunks, Newer};
use super::history::{is_history_over, raise_floor};
use super::install::{Change, CountsBy, install};
use super::shape::{Now, Work, next_work};
use super::space::{make_room, table_bytes};
use super::step::{Done, Part, Plan, Sizes, carry_out, plan};
use super::tables::{self, Turns, Written};
use super::{Help, JOB_RETRY_MS, JobError, RETRY_MS, Room, flush_goes_first, pause, sweep};
use crate::engine::keep::Rules;
use crate::engine::manifest::RunRef;
use crate::engine::merge::{Merge, Source};
use crate::engine::pick::step_bytes;
use crate::engine::range_set::RangeSet;
use crate::engine::recount::Corrections;
use crate::engine::rewrite::Rewrite;
use crate::engine::table::{Cached, ChunkKind, RunCursor, TableRef};
use crate::engine::types::RangeDelete;
use crate::store::Store;
use crate::{Key, Timestamp};

/// How often to look for something to do when nothing has changed: values expire, and the clock alone brings that about.
const LOOK_MS: u64 = 5000;

/// The same as long as there have been commits.
const IDLE_MS: u64 = 1000;

/// How long to wait for tokens, or to find that nothing is committed.
const TOKENS_MS: u64 = 20;

/// Bytes of range deletes that a step has in memory.
const RANGES_BYTES_MAX: usize = 4 << 20;

/// The same where all of them cover the first key of the step, so that no smaller step has fewer.
const NESTED_BYTES_MAX: usize = 64 << 20;

/// Dropped slots of a step's inputs from which on they are freed before it, rather than listed again.
const HANDED_ON_MAX: u64 = 32 << 10;

pub(super) async fn run<D: BlockDevice>(store: &Store<D>, clock: &impl Clock) {
    let compaction = &store.compaction;
    let mut haste = None;
    while !store.is_ending() {
        // Nobody commits whose flush a checkpoint could share.
        haste = if compaction.pace.is_idle() {
            haste.or_else(|| Some(store.filesystem.hasten_checkpoints()))
        } else {
            None
        };
        let changes = compaction.changes.get();
        let done = next(store, clock).await;
        // Whatever it waits for now, commits do not.
        compaction.pace.set_working(false);
        let answer = match &done {
            Ok(true) => Help::Given,
            Ok(false) | Err(_) => Help::InVain,
        };
        if compaction.help.get() == Help::Wanted {
            compaction.help.set(answer);
        }
        if compaction.is_room_wanted() {
            match &done {
                Ok(true) => compaction.room.set(Room::Enough),
                // What a flush brings to light is still to come.
                _ if is_flush_to_come(store) => {}
                _ => compaction.room.set(Room::Exhausted),
            }
        }
        store.changed.notify();
        let is_wanted = || {
            let for_commits = compaction.is_room_wanted() && !is_flush_to_come(store);
            compaction.help.get() == Help::Wanted || for_commits
        };
        match done {
            Ok(true) => {
                compaction.failure.take();
                if store.stuck.get() {
                    // A flush may find room now.
                    store.filesystem.nudge();
                }
            }
            Ok(false) => {
                compaction.pace.rest();
                let has_changed = || compaction.changes.get() != changes || is_wanted();
                rest(store, clock, has_changed).await;
            }
            Err(_) if store.is_ending() => return,
            Err(error) if error.is_for_want_of_room() && make_room(store, clock).await => {}
            Err(error) => {
                let ms = if error.is_for_want_of_room() {
                    RETRY_MS
                } else {
                    JOB_RETRY_MS
                };
                compaction.failure.replace(Some(error));
                pause(store, clock, ms, is_wanted).await;
            }
        }
    }
}

/// Whether a memtable is flushed, or is going to be.
fn is_flush_to_come<D: BlockDevice>(store: &Store<D>) -> bool {
    let frozen = store.engine.tree.borrow().frozen_count() > 0;
    store.flush_due.get() || store.compaction.is_flushing.get() || frozen
}

/// Waits for something to do, and finds out whether nothing is committed.
async fn rest<D: BlockDevice>(store: &Store<D>, clock: &impl Clock, or_until: impl Fn() -> bool) {
    let pace = &store.compaction.pace;
    let commits = pace.commits();
    // There is more to do when nothing is committed.
    let ms = if pace.is_idle() { LOOK_MS } else { IDLE_MS };
    let since_us = clock.monotonic_us();
    pause(store, clock, ms, or_until).await;
    if clock.monotonic_us().saturating_sub(since_us) >= ms * 1000 {
        pace.note_idle(commits);
        store.bound_garbage();
        if pace.is_idle() && store.engine.has_garbage.get() {
            // What it takes the place of is found by a flush.
            store.flush_due.set(true);
            store.filesystem.nudge();
        }
    }
}

/// Does the next thing; false if there is none.
async fn next<D: BlockDevice>(store: &Store<D>, clock: &impl Clock) -> Result<bool, JobError> {
    let mut swept = Ok(());
    if sweep::is_due(store) {
        swept = sweep::sweep(store, clock).await;
        if swept.is_ok() {
            return Ok(true);
        }
    }
    let work = {
        let pins = store.engine.pins.timestamps()?;
        let now = Now {
            unix_ms: now_ms(store, clock),
            floor: raise_floor(store, clock),
            pins: &pins,
            is_history_over: is_history_over(store),
        };
        next_work(store, &now)
    };
    if let Some(work) = work {
        carry_out_step(store, clock, &work).await?;
        return Ok(true);
    }
    swept?;
    let compaction = &store.compaction;
    if (compaction.pace.is_idle() || compaction.is_urgent()) && sweep::pending_slots(store) > 0 {
        sweep::sweep(store, clock).await?;
        return Ok(true);
    }
    Ok(false)
}

/// The time by which what expires is judged: what the clock says, and no later than what the store was told, by which others judge.
pub(super) fn now_ms<D: BlockDevice>(store: &Store<D>, clock: &impl Clock) -> i64 {
    clock.unix_ms().min(store.now_ms.get())
}

/// Makes a step of a job.
async fn carry_out_step<D: BlockDevice>(
    store: &Store<D>,
    clock: &impl Clock,
    work: &Work,
) -> Result<(), JobError> {
    let (inputs, bottom) = {
        let tree = store.engine.tree.borrow();
        let runs = tree.runs();
        let inputs = runs.get(work.inputs.clone()).ok_or(JobError::Disorder)?;
        (inputs.to_vec(), work.inputs.end == runs.len())
    };
    let usage = store.filesystem.usage();
    let table = table_bytes(&usage);
    let step = step_bytes(&usage, table);
    let planned = match &work.tables {
        Some(tables) => rewrite_of(&inputs, tables)?,
        None => plan(&inputs, work.into, Sizes { step, table })?,
    };
    let Plan {
        moved: mut tables,
        rewritten,
    } = planned;
    let mut cut = None;
    let mut handed_on = Vec::new();
    let mut new = None;
    let counts = CountsBy::begin(store);
    if let Some(mut part) = rewritten {
        let chunks = Chunks::new(store);
        let ranges = ranges_of(&chunks, &inputs, &mut part).await?;
        let inputs = Inputs {
            tables: inputs.iter().map(|run| within(run, &part)).collect(),
            runs: &inputs,
            ranges: &ranges,
            bottom,
            found: counts.found(),
        };
        handed_on = lists_to_hand_on(store, clock, &inputs).await?;
        let turns = Paced { store, clock };
        let written = write(&turns, &chunks, &inputs, &part, &handed_on, step).await;
        if store.compaction.pace.set_working(false) {
            store.changed.notify();
        }
        let written = written?;
        tables
            .try_reserve(written.tables.tables().len())
            .map_err(|_| JobError::OutOfMemory)?;
        tables.extend_from_slice(written.tables.tables());
        cut = written.end;
        new = Some(written.tables);
    }
    let done = Done {
        inputs: &inputs,
        work,
        tables,
        cut,
        handed_on,
    };
    let change = Change::Runs {
        runs: |runs: &mut Vec<RunRef>| carry_out(runs, done).map_err(|_| JobError::Disorder),
        counts,
    };
    install(store, clock, change).await?;
    if let Some(new) = new {
        new.keep();
    }
    Ok(())
}

/// Some tables of a run are written anew.
fn rewrite_of(inputs: &[RunRef], tables: &core::ops::Range<usize>) -> Result<Plan, JobError> {
    let run = inputs.first().ok_or(JobError::Disorder)?;
    let tables = run.tables.get(tables.clone()).ok_or(JobError::Disorder)?;
    let (first, last) = tables
        .first()
        .zip(tables.last())
        .ok_or(JobError::Disorder)?;
    Ok(Plan {
        moved: Vec::new(),
        rewritten: Some(Part {
            from: Key::clone(&first.from),
            to: last.to.clone(),
        }),
    })
}

/// What a step reads.
struct Inputs<'i> {
    runs: &'i [RunRef],
    /// Of each run the tables, cut to the keys of the step.
    tables: Vec<Vec<TableRef>>,
    ranges: &'i RangeSet,
    /// The oldest run of all is among them.
    bottom: bool,
    /// Where what is found out of numbers of keys goes.
    found: Rc<RefCell<Corrections>>,
}

/// The tables of a run, cut to what a part has of them.
fn within(run: &RunRef, part: &Part) -> Vec<TableRef> {
    let cut = |table: &TableRef| {
        let mut table = table.clone();
        if table.from < part.from {
            table.from = Key::clone(&part.from);
        }
        if let Some(to) = &part.to
            && table.to.as_ref().is_none_or(|end| end > to)
        {
            table.to = Some(Key::clone(to));
        }
        let is_empty = table.to.as_ref().is_some_and(|to| *to <= table.from);
        (!is_empty).then_some(table)
    };
    let first = run
        .tables
        .partition_point(|table| table.to.as_ref().is_some_and(|to| *to <= part.from));
    let tables = run.tables.iter().skip(first);
    let begins_before = |table: &&TableRef| part.to.as_ref().is_none_or(|to| table.from < *to);
    tables.take_while(begins_before).filter_map(cut).collect()
}

/// The range deletes of inputs in a part, which becomes shorter where they would be too many.
async fn ranges_of<D: BlockDevice>(
    chunks: &Chunks<'_, D>,
    inputs: &[RunRef],
    part: &mut Part,
) -> Result<RangeSet, JobError> {
    let mut all = RangeSet::default();
    for run in inputs {
        for table in within(run, part) {
            if table.stats.range_deletes == 0 {
                continue;
            }
            let head = chunks
                .get(table.object, table.head.at(), ChunkKind::Head)
                .await?;
            let Cached::Head(head) = head else { continue };
            for refs in head.ranges() {
                if refs.ends_before(&part.from) {
                    continue;
                }
                if part.to.as_ref().is_some_and(|to| refs.from() >= &to[..]) {
                    break;
                }
                let ranges = chunks
                    .get(table.object, refs.chunk().at(), ChunkKind::Ranges)
                    .await?;
                let Cached::Ranges(ranges) = ranges else {
                    continue;
                };
                let here = within_table(&table, part);
                all.insert_all(ranges.iter().filter_map(|range| clip(range, here)))?;
                if all.memory_bytes() > RANGES_BYTES_MAX {
                    all = shorten(all, part)?;
                }
                embassy_futures::yield_now().await;
            }
        }
    }
    Ok(all)
}

/// Bounds of what a table has of a part, which may have become shorter since the table was cut to it.
fn within_table<'t>(table: &'t TableRef, part: &'t Part) -> (&'t [u8], Option<&'t [u8]>) {
    let ends = table.to.iter().chain(&part.to).map(|to| &to[..]);
    (&table.from, ends.min())
}

/// What there is of a range delete between two keys.
fn clip<'r>(
    range: RangeDelete<'r>,
    (from, to): (&'r [u8], Option<&'r [u8]>),
) -> Option<RangeDelete<'r>> {
    let start = range.start.max(from);
    let end = to.map_or(range.end, |to| range.end.min(to));
    (start < end).then_some(RangeDelete {
        start,
        end,
        ..range
    })
}

/// Leaves about half of those that begin in the part, which ends before the others.
fn shorten(all: RangeSet, part: &mut Part) -> Result<RangeSet, JobError> {
    let behind = || {
        all.iter()
            .map(|range| range.start)
            .filter(|start| *start > &part.from[..])
    };
    let count = behind().count();
    let Some(end) = behind().nth(count / 2).map(Key::from) else {
        // They are nested around one key.
        return if all.memory_bytes() > NESTED_BYTES_MAX {
            Err(JobError::OutOfMemory)
        } else {
            Ok(all)
        };
    };
    let mut left = RangeSet::default();
    left.insert_all(
        all.iter()
            .filter_map(|range| clip(range, (&part.from, Some(&end)))),
    )?;
    part.to = Some(end);
    Ok(left)
}

/// The inputs whose dropped slots are not free yet, in the order of their numbers: what is written is to list them. Where there are many they are freed first, and
/// there is none.
async fn lists_to_hand_on<D: BlockDevice>(
    store: &Store<D>,
    clock: &impl Clock,
    inputs: &Inputs<'_>,
) -> Result<Vec<lfs::ObjectId>, JobError> {
    let lists = || {
        let tables = inputs.tables.iter().flatten();
        tables.filter(|table| sweep::is_pending(table))
    };
    if lists().map(|table| table.stats.dropped_slots).sum::<u64>() > HANDED_ON_MAX {
        for table in lists() {
            sweep::sweep_tables(store, clock, core::slice::from_ref(table)).await?;
        }
        return Ok(Vec::new());
    }
    let mut objects: Vec<_> = lists().map(|table| table.object).collect();
    objects.sort_unstable();
    Ok(objects)
}

async fn write<'s, D: BlockDevice, C: Clock>(
    turns: &Paced<'s, D, C>,
    chunks: &Chunks<'s, D>,
    inputs: &Inputs<'_>,
    part: &Part,
    handed_on: &[lfs::ObjectId],
    step_bytes: u64,
) -> Result<Written<'s, D>, JobError> {
    let (store, clock) = (turns.store, turns.clock);
    let last = inputs.runs.iter().map(|run| run.last).max();
    let last = last.ok_or(JobError::Disorder)?;
    // What is seen is as it is in this step; who begins to see something later sees what is committed by then.
    let pins = store.engine.pins.timestamps()?;
    let rules = Rules {
        pins: &pins,
        floor: raise_floor(store, clock),
        now_ms: now_ms(store, clock),
        bottom: inputs.bottom,
    };
    let no_ranges = RangeSet::default();
    let sources = inputs
        .tables
        .iter()
        .zip(inputs.runs)
        .map(|(tables, run)| Source {
            cursor: Box::new(RunCursor::new(tables, chunks)),
            // What they hide is asked for by key, of all at once.
            ranges: Box::new(&no_ranges),
            last: run.last,
        });
    let mut merge = Merge::new(sources.collect(), Timestamp(u64::MAX));
    chunks.loaded(|| merge.seek(&part.from)).await?;
    let newer = Newer::than(store, chunks, last);
    let (ranges, seed) = (inputs.ranges, store.engine.hash_seed);
    let found = Rc::clone(&inputs.found);
    let mut rewrite = Rewrite::new(merge, rules, ranges, newer, &part.from, seed, found)?;
    for table in inputs.tables.iter().flatten() {
        if handed_on.binary_search(&table.object).is_ok() {
            hand_on(chunks, &mut rewrite, table).await?;
        }
    }
    // From here on it goes on in turns, each of which commits can wait for.
    store.compaction.pace.set_working(true);
    tables::write(
        store,
        &mut rewrite,
        chunks,
        part.to.as_ref(),
        step_bytes,
        turns,
    )
    .await
}

/// Lists what a table lists.
async fn hand_on<D: BlockDevice>(
    chunks: &Chunks<'_, D>,
    rewrite: &mut Rewrite<'_>,
    table: &TableRef,
) -> Result<(), JobError> {
    let head = chunks
        .get(table.object, table.head.at(), ChunkKind::Head)
        .await?;
    let Cached::Head(head) = head else {
        return Ok(());
    };
    for at in head.dropped() {
        let list = chunks.get(table.object, *at, ChunkKind::Dropped).await?;
        if let Cached::Dropped(list) = list {
            for slots in list.iter() {
                rewrite.drop_slots(slots)?;
            }
        }
    }
    Ok(())
}

/// Compaction keeps to its pace.
struct Paced<'s, D: BlockDevice, C> {
    store: &'s Store<D>,
    clock: &'s C,
}

impl<D: BlockDevice, C: Clock> Turns for Paced<'_, D, C> {
    fn goes_on(&self) -> bool {
        !self.store.is_ending()
    }

    fn made(&self, bytes: u64) {
        if self.store.compaction.pace.worked(bytes) {
            self.store.changed.notify();
        }
    }

    async fn next(&self, bytes: u64) {
        next_turn(self.store, self.clock, bytes).await;
    }
}

/// Waits until there may be another turn, after one of so many bytes.
pub(super) async fn next_turn<D: BlockDevice>(store: &Store<D>, clock: &impl Clock, bytes: u64) {
    let pace = &store.compaction.pace;
    let is_waited_for = || !store.compaction_allows() || store.compaction.is_urgent();
    store.filesystem.take_turn(bytes, is_waited_for).await;
    flush_goes_first(store).await;
    let may_work = || pace.may_work() || store.compaction.is_urgent();
    while !may_work() && !store.is_ending() {
        let commits = pace.commits();
        pause(store, clock, TOKENS_MS, may_work).await;
        pace.note_idle(commits);
        store.bound_garbage();
        if pace.is_idle() && store.engine.has_garbage.get() {
            // What it takes the place of is found by a flush.
            store.flush_due.set(true);
            store.filesystem.nudge();
        }
    }
}

//! The walk for keys that expire: it puts into the queue of the soonest ([`ExpiryQueue`](crate::expiry::ExpiryQueue)) what runs have of them.
//!
//! Commits note what they make expire. What was in runs when the store was opened, and what had no room in the queue, is found again here: the queue says up to when it has
//! all, and when the clock gets there a walk goes once through the keys of memtables and of tables of which something expires within [`NEAR_MS`]. Others are not
//! read. It goes by key, at the newest state of each turn, so flushes and merges meanwhile neither hide anything from it nor make it begin anew. It finds what has been
//! overwritten in a table that it does not read as well; whoever deletes looks before.
//!
//! It has all the time there is: in a turn of a few hundred versions nothing else is done, then others have a hundredth of a second, and between two walks there is ten times as
//! long as one took. What it is late for is invisible to readers, and goes with merges.
//!
//! A table that cannot be read is left out from the key on at which that shows: what expires of the rest of it is found by the next walk for which it can be read.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use lfs::{BlockDevice, Clock, ObjectId};

use super::chunks::Chunks;
use super::compact::now_ms;
use super::{JobError, pause};
use crate::engine::merge::{Merge, ScanStep, Source};
use crate::engine::table::{RunCursor, RunRanges, TableRef};
use crate::engine::types::Missing;
use crate::store::Store;
use crate::{Key, Timestamp};

/// What expires within this time is looked for.
const NEAR_MS: i64 = 3_600_000;

/// Versions that are looked at in a turn.
const VERSIONS_PER_TURN: usize = 256;

/// How long others have between two turns.
const REST_MS: u64 = 10;

/// Walks take this part of the time at most, but for those that take longer than [`BETWEEN_MS_MAX`] says.
const PART: u64 = 10;

/// Between two walks, at least and at most.
const BETWEEN_MS_MIN: u64 = 1000;
const BETWEEN_MS_MAX: u64 = 3_600_000;

/// Tables of each run that a turn has at hand.
const TABLES_PER_TURN: usize = 2;

/// Tables that a walk can leave out.
const LEFT_OUT_MAX: usize = 1024;

pub(super) async fn run<D: BlockDevice>(store: &Store<D>, clock: &impl Clock) {
    while !store.is_ending() {
        let since_us = clock.monotonic_us();
        if is_due(store, clock) {
            // Without memory for it, or with more damage than it can go around, it is tried again.
            let _ = walk(store, clock).await;
        }
        let took_ms = clock.monotonic_us().saturating_sub(since_us) / 1000;
        let ms = took_ms.saturating_mul(PART);
        let ms = ms.clamp(BETWEEN_MS_MIN, BETWEEN_MS_MAX);
        pause(store, clock, ms, || false).await;
    }
}

/// Whether something may have expired that the queue does not know of.
fn is_due<D: BlockDevice>(store: &Store<D>, clock: &impl Clock) -> bool {
    // Before anybody has said what time it is, it is very early.
    let known_until = store.engine.expiries.borrow().known_until();
    known_until < now_ms(store, clock)
}

/// Where a walk is.
struct Walk {
    /// All before this key has been looked at.
    from: Vec<u8>,
    /// What expires up to then is looked for.
    until_ms: i64,
    /// Tables that cannot be read.
    left_out: BTreeSet<ObjectId>,
}

/// Notes all keys that expire soon.
async fn walk<D: BlockDevice>(store: &Store<D>, clock: &impl Clock) -> Result<(), JobError> {
    let mut walk = Walk {
        from: Vec::new(),
        until_ms: now_ms(store, clock).saturating_add(NEAR_MS),
        left_out: BTreeSet::new(),
    };
    store.engine.expiries.borrow_mut().begin_walk();
    let mut chunks = Chunks::new(store);
    loop {
        if store.is_ending() {
            return Err(JobError::Closing);
        }
        let changes = store.compaction.changes.get();
        match chunks.loaded(|| turn(store, &chunks, &walk)).await {
            Ok(Some(next)) => walk.from = next,
            Ok(None) => break,
            Err(JobError::OutOfMemory) => return Err(JobError::OutOfMemory),
            Err(error) => {
                let have_changed = store.compaction.changes.get() != changes;
                let is_replaced = have_changed || store.checkpointing.get();
                if !is_replaced {
                    let failed = chunks.failed().ok_or(error)?;
                    if walk.left_out.len() >= LEFT_OUT_MAX || !walk.left_out.insert(failed) {
                        return Err(JobError::DamagedTable(failed));
                    }
                }
                // Tables that were replaced meanwhile may be gone.
                chunks = Chunks::new(store);
            }
        }
        pause(store, clock, REST_MS, || false).await;
    }
    store.engine.expiries.borrow_mut().end_walk(walk.until_ms);
    Ok(())
}

/// Makes a turn; where to go on, if there is more.
fn turn<D: BlockDevice>(
    store: &Store<D>,
    chunks: &Chunks<'_, D>,
    walk: &Walk,
) -> Result<Option<Vec<u8>>, Missing> {
    let tree = store.engine.tree.borrow();
    // Up to here all tables that are near are at hand; without it, to the end.
    let (mut runs, mut to) = (Vec::new(), None::<Key>);
    for run in tree.runs() {
        let (tables, end) = walk.tables_of(&run.tables);
        if end.is_some() && to.as_ref().is_none_or(|to| end.as_ref() < Some(to)) {
            to = end;
        }
        runs.push((tables, run.last));
    }
    let mut sources = Vec::new();
    sources.extend(tree.memtables().map(|memtable| Source {
        cursor: alloc::boxed::Box::new(memtable.cursor()),
        ranges: alloc::boxed::Box::new(memtable.ranges()),
        last: memtable.last(),
    }));
    sources.extend(runs.iter().map(|(tables, last)| Source {
        cursor: alloc::boxed::Box::new(RunCursor::new(tables, chunks)),
        ranges: alloc::boxed::Box::new(RunRanges {
            tables,
            source: chunks,
            since: None,
        }),
        last: *last,
    }));
    let mut merge = Merge::new(sources, Timestamp(u64::MAX));
    merge.seek(&walk.from)?;
    let (mut looks, mut key) = (VERSIONS_PER_TURN, Vec::new());
    loop {
        let found = match merge.next_visible(&mut looks, &mut key)? {
            ScanStep::Key(version) => Some(version.expires_at_ms),
            ScanStep::More => None,
            ScanStep::End => return Ok(to.map(|to| to.to_vec())),
        };
        if let Some(to) = to.as_ref().filter(|to| key[..] >= to[..]) {
            return Ok(Some(to.to_vec()));
        }
        let Some(expires_at_ms) = found else {
            return Ok(Some(key));
        };
        if expires_at_ms <= walk.until_ms {
            let mut expiries = store.engine.expiries.borrow_mut();
            expiries.note(expires_at_ms, &key);
        }
    }
}

impl Walk {
    /// The next tables of a run of which something expires soon, and up to where there are no others.
    fn tables_of(&self, tables: &[TableRef]) -> (Vec<TableRef>, Option<Key>) {
        let first = tables.partition_point(|table| {
            let to = table.to.as_ref();
            to.is_some_and(|to| to[..] <= self.from[..])
        });
        let mut near = tables.iter().skip(first).filter(|table| {
            let is_near = table.stats.expiring > 0 && table.stats.least_expiry_ms <= self.until_ms;
            is_near && !self.left_out.contains(&table.object)
        });
        let taken: Vec<_> = near.by_ref().take(TABLES_PER_TURN).cloned().collect();
        let end = near
            .next()
            .and(taken.last())
            .and_then(|last| last.to.clone());
        (taken, end)
    }
}

//! Work in the background: flushes, merges, garbage.
//!
//! - A **flush** writes the dirty keys as a run and makes a checkpoint, so the log before it is free.
//!   It starts when the log wants a checkpoint.
//! - A **merge** replaces neighbouring runs by one, when newer runs together have grown as large as
//!   the one before them, or when more than half of what the runs hold is garbage.
//! - Both go on at the same time: a long merge does not hold up a flush, on which the log's room
//!   depends. They take turns only for the checkpoint itself.
//!
//! Bounds: each run is larger than all newer ones together, so there are at most about
//! log2(disk / segment) runs; between them they hold at most twice the largest. While more than
//! [`RUNS_MAX`] wait to be merged, flushes wait too, and with them writers.

use alloc::vec::Vec;

use embassy_futures::join::join4;
use lfs::{BlockDevice, CheckpointError, Clock, CommitNumber, ObjectId, ObjectWriteError};

use crate::Timestamp;
use crate::run::{self, Run, RunError, encode_manifest};
use crate::snapshot::Snapshot;
use crate::store::Store;

/// Runs at which flushes wait for a merge.
const RUNS_MAX: usize = 24;

/// Entries of garbage freed before others get a turn.
const GARBAGE_PER_STEP: usize = 64;

/// How long to wait before trying again when memory or space did not suffice.
const RETRY_MS: u64 = 200;

/// How often to look for garbage while there is some that a snapshot holds on to.
const GARBAGE_MS: u64 = 100;

/// Runs everything in the background until the store is closed or failed.
pub(crate) async fn run<D: BlockDevice>(store: &Store<D>, clock: &impl Clock) {
    join4(
        store.filesystem.run_log(),
        flush_loop(store, clock),
        merge_loop(store, clock),
        garbage_loop(store, clock),
    )
    .await;
}

async fn flush_loop<D: BlockDevice>(store: &Store<D>, clock: &impl Clock) {
    loop {
        store
            .filesystem
            .checkpoint_wanted(|| store.is_ending())
            .await;
        let closing = store.is_closing();
        if store.filesystem.is_failed() {
            break;
        }
        match flush(store, clock).await {
            Ok(()) if closing => break,
            Ok(()) => store.stuck.set(false),
            Err(_) if store.filesystem.is_failed() => break,
            // Closing without a last checkpoint is safe: the log has everything.
            Err(_) if closing => break,
            Err(_) => {
                // No space or memory for the run. Merges may bring some; until then writers are told.
                store.stuck.set(true);
                store.filesystem.nudge();
                store.changed.notify();
                clock.sleep_ms(RETRY_MS).await;
            }
        }
        if closing {
            break;
        }
        store
            .changed
            .until(|| (store.runs.borrow().len() < RUNS_MAX || store.is_ending()).then_some(()))
            .await;
    }
    store.filesystem.stop();
    store.ended.set(true);
    store.changed.notify();
}

/// Writes what is dirty as a run and moves the replay horizon up to here.
async fn flush<D: BlockDevice>(store: &Store<D>, clock: &impl Clock) -> Result<(), RunError> {
    // Everything in this step sees one state: snapshot and dirty set belong together.
    let timestamp = store.committed();
    let snapshot = Snapshot::new(&store.index.borrow().pins, timestamp);
    let dirty = store.index.borrow_mut().take_dirty();

    let written = match store
        .filesystem
        .wait_durable(CommitNumber(timestamp.0))
        .await
    {
        Ok(()) => run::write_dirty(&store.filesystem, &store.index, &dirty, timestamp).await,
        Err(_) => Err(RunError::Closing),
    };
    drop(snapshot);
    store.changed.notify();
    let result = match written {
        Ok(run) => {
            let runs = |runs: &mut Vec<Run>| runs.extend(run);
            checkpoint(store, clock, Some(timestamp), runs)
                .await
                .inspect_err(|_| {
                    discard(store, run);
                })
        }
        Err(error) => Err(error),
    };
    if result.is_err() {
        store.index.borrow_mut().return_dirty(dirty);
    }
    result
}

async fn merge_loop<D: BlockDevice>(store: &Store<D>, clock: &impl Clock) {
    loop {
        let plan = store.changed.until(|| {
            if store.is_ending() {
                Some(None)
            } else {
                plan_merge(store).map(Some)
            }
        });
        let Some(plan) = plan.await else { return };
        if merge(store, clock, &plan).await.is_err() {
            let sleep = clock.sleep_ms(RETRY_MS);
            let ending = store.changed.until(|| store.is_ending().then_some(()));
            embassy_futures::select::select(sleep, ending).await;
        }
    }
}

/// Neighbouring runs to be merged: the first is at `start`.
struct MergePlan {
    start: usize,
    runs: Vec<Run>,
}

fn plan_merge<D: BlockDevice>(store: &Store<D>) -> Option<MergePlan> {
    let runs = store.runs.borrow();
    let sizes = runs.iter().map(|run| run.len_bytes).collect::<Vec<_>>();
    let live = store.index.borrow().live_run_bytes();
    let start = merge_start(&sizes, live, store.filesystem.usage().segment_bytes)?;
    Some(MergePlan {
        start,
        runs: runs.get(start..)?.to_vec(),
    })
}

/// Where a merge of all newer runs should begin, if one should be made. `sizes`: oldest first.
fn merge_start(sizes: &[u64], live_bytes: u64, segment_bytes: u64) -> Option<usize> {
    let total = sizes.iter().sum::<u64>();
    if total > 2 * live_bytes + 4 * segment_bytes {
        return Some(0);
    }
    let mut newer = 0;
    let mut start = None;
    for (at, &size) in sizes.iter().enumerate().rev() {
        // A run takes whole segments, so one smaller than that is as costly as one.
        if newer > 0 && size.max(segment_bytes) <= newer {
            start = Some(at);
        }
        newer += size.max(segment_bytes);
    }
    start
}

async fn merge<D: BlockDevice>(
    store: &Store<D>,
    clock: &impl Clock,
    plan: &MergePlan,
) -> Result<(), RunError> {
    let merged = run::merge(&store.filesystem, &plan.runs, plan.start == 0, || {
        store.is_ending()
    })
    .await?;
    // Flushes may have added runs meanwhile; those merged are still where they were.
    let end = plan.start + plan.runs.len();
    let replace = |runs: &mut Vec<Run>| {
        runs.splice(plan.start..end, merged);
    };
    checkpoint(store, clock, None, replace)
        .await
        .inspect_err(|_| {
            discard(store, merged);
        })
}

/// Makes a checkpoint in which the runs are as `change` makes them. `horizon`: all commits up to
/// there are in the runs; without one it stays as it is.
async fn checkpoint<D: BlockDevice>(
    store: &Store<D>,
    clock: &impl Clock,
    horizon: Option<Timestamp>,
    change: impl FnOnce(&mut Vec<Run>),
) -> Result<(), RunError> {
    let _turn = Turn::take(store).await;
    let mut runs = store.runs.borrow().clone();
    change(&mut runs);
    let horizon = horizon.unwrap_or(store.horizon.get());
    let keep = runs.iter().map(|run| run.object).collect::<Vec<ObjectId>>();
    let manifest = encode_manifest(&runs);
    let made = store
        .filesystem
        .checkpoint(CommitNumber(horizon.0), &keep, &manifest, clock)
        .await;
    made.map_err(|error| match error {
        CheckpointError::ReadOnly => RunError::Closing,
        _ => RunError::Write(ObjectWriteError::Full),
    })?;
    store.horizon.set(horizon);
    *store.runs.borrow_mut() = runs;
    store.changed.notify();
    Ok(())
}

/// Gives up a run that no checkpoint came to name.
fn discard<D: BlockDevice>(store: &Store<D>, run: Option<Run>) {
    if let Some(run) = run {
        store.filesystem.discard_object(run.object);
    }
}

/// The right to make a checkpoint.
struct Turn<'s, D: BlockDevice>(&'s Store<D>);

impl<'s, D: BlockDevice> Turn<'s, D> {
    async fn take(store: &'s Store<D>) -> Self {
        store
            .changed
            .until(|| (!store.checkpointing.replace(true)).then_some(()))
            .await;
        Self(store)
    }
}

impl<D: BlockDevice> Drop for Turn<'_, D> {
    fn drop(&mut self) {
        self.0.checkpointing.set(false);
        self.0.changed.notify();
    }
}

async fn garbage_loop<D: BlockDevice>(store: &Store<D>, clock: &impl Clock) {
    while !store.is_ending() {
        if store.index.borrow_mut().collect_garbage(GARBAGE_PER_STEP) {
            embassy_futures::yield_now().await;
        } else if store.index.borrow().has_garbage() {
            let sleep = clock.sleep_ms(GARBAGE_MS);
            let ending = store.changed.until(|| store.is_ending().then_some(()));
            embassy_futures::select::select(sleep, ending).await;
        } else {
            let some = || store.is_ending() || store.index.borrow().has_garbage();
            store.changed.until(|| some().then_some(())).await;
        }
    }
}

/// Bytes that live data may take in runs, so that a merge of everything always finds room: the runs
/// hold at most twice the data, a merge of all needs room for the data once more, and while it goes
/// on flushes add at most what the log holds, each run rounded up to whole segments.
pub(crate) fn live_run_bytes_max(usage: &lfs::Usage) -> u64 {
    let slack = usage.log_bytes_max + RUNS_MAX as u64 * usage.segment_bytes / 2;
    usage.object_bytes_max.saturating_sub(slack) / 3
}

#[cfg(test)]
mod tests {
    use super::merge_start;

    #[test]
    fn runs_are_merged_when_newer_ones_have_grown_as_large() {
        let start = |sizes: &[u64]| merge_start(sizes, 1 << 20, 10);
        assert_eq!(start(&[]), None);
        assert_eq!(start(&[100]), None);
        assert_eq!(start(&[100, 50]), None);
        assert_eq!(start(&[100, 50, 50]), Some(0));
        assert_eq!(start(&[1000, 50, 50]), Some(1));
        assert_eq!(
            start(&[1000, 100, 1, 1]),
            Some(2),
            "small runs cost a segment each"
        );
    }

    #[test]
    fn runs_that_are_mostly_garbage_are_merged() {
        assert_eq!(merge_start(&[1000], 100, 10), Some(0));
        assert_eq!(merge_start(&[1000], 500, 10), None);
    }
}

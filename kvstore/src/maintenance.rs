//! Work in the background: flushes, merges, garbage.
//!
//! - A **flush** writes the dirty keys as a run and makes a checkpoint, so the log before it is free.
//!   It starts when the log wants a checkpoint.
//! - A **merge** replaces neighbouring runs by one, when what newer runs hide takes too much space, or
//!   when there are too many runs.
//! - Both go on at the same time: a long merge does not hold up a flush, on which the log's room
//!   depends. They take turns only for the checkpoint itself.
//!
//! What a flush may take and when merges are due is in `space`. A flush that would take what a merge
//! of everything needs waits for merges, and with it writers.

use alloc::vec::Vec;

use embassy_futures::join::join4;
use lfs::{BlockDevice, CheckpointError, Clock, CommitNumber, ObjectId, ObjectWriteError};

use crate::Timestamp;
use crate::dirty::Dirty;
use crate::run::{self, Run, RunError, encode_manifest};
use crate::snapshot::Snapshot;
use crate::space;
use crate::store::Store;

/// Entries of garbage freed before others get a turn.
pub(crate) const GARBAGE_PER_STEP: usize = 64;

/// How long to wait before trying again when memory or space did not suffice.
const RETRY_MS: u64 = 200;

/// How long to wait before a merge that failed is tried again: it may have met damage, which stays.
const MERGE_RETRY_MS: u64 = 10_000;

/// How often to look for garbage while there is some that a snapshot holds on to.
const GARBAGE_MS: u64 = 100;

/// Runs everything in the background until the store is closed or failed.
pub(crate) async fn run<D: BlockDevice>(store: &Store<D>, clock: &impl Clock) {
    join4(
        store.filesystem.run(clock),
        flush_loop(store, clock),
        merge_loop(store, clock),
        garbage_loop(store, clock),
    )
    .await;
}

async fn flush_loop<D: BlockDevice>(store: &Store<D>, clock: &impl Clock) {
    let mut merged_in_vain = false;
    loop {
        store
            .filesystem
            .checkpoint_wanted(|| store.is_ending() || store.flush_due.get())
            .await;
        let closing = store.is_closing();
        if store.filesystem.is_failed() {
            break;
        }
        let flushed = flush(store, clock).await;
        let no_room = flushed == Err(RunError::NoRoom);
        let in_vain = core::mem::replace(&mut merged_in_vain, no_room) && no_room;
        match flushed {
            Ok(()) if closing => break,
            Ok(()) => store.stuck.set(false),
            Err(_) if store.filesystem.is_failed() => break,
            // The log has everything; this checkpoint only vouches for its last group.
            Err(_) if closing => {
                let _ = checkpoint(store, clock, None, |_| ()).await;
                break;
            }
            Err(RunError::NoRoom) if !in_vain => {
                store.flush_waits.set(true);
                store.changed.notify();
                let merged = || !store.flush_waits.get() || store.is_ending();
                store.changed.until(|| merged().then_some(())).await;
            }
            Err(_) => {
                // No memory for the run, or no room even after a merge of everything: writers are told
                // until it works.
                get_stuck(store);
                clock.sleep_ms(RETRY_MS).await;
            }
        }
    }
    store.filesystem.stop();
    store.ended.set(true);
    store.changed.notify();
}

/// The log cannot move on until a merge or memory lets a flush through: writers hear of it, and do not wait.
fn get_stuck<D: BlockDevice>(store: &Store<D>) {
    store.stuck.set(true);
    store.filesystem.nudge();
    store.changed.notify();
}

/// Writes what is dirty as a run and moves the replay horizon up to here.
async fn flush<D: BlockDevice>(store: &Store<D>, clock: &impl Clock) -> Result<(), RunError> {
    // Everything in this step sees one state: snapshot and dirty set belong together.
    let timestamp = store.committed();
    let snapshot = Snapshot::new(&store.index.borrow().pins, timestamp);
    let dirty = store.index.borrow_mut().take_dirty();
    let live_bytes = store.index.borrow().live_run_bytes();
    store.share_space(live_bytes);
    store.flush_due.set(false);
    store.flushing.set(true);

    let written = write_run(store, &dirty, timestamp, live_bytes).await;
    drop(snapshot);
    store.changed.notify();
    let result = match written {
        Ok(run) => {
            let add = |runs: &mut Vec<Run>| runs.extend(run);
            let made = checkpoint(store, clock, Some(timestamp), add).await;
            made.inspect_err(|_| discard(store, run))
        }
        Err(error) => Err(error),
    };
    if result.is_err() {
        store.index.borrow_mut().return_dirty(dirty);
    } else {
        store.flushed_live_bytes.set(live_bytes);
        store.index.borrow_mut().bury(dirty);
    }
    store.flushing.set(false);
    store.changed.notify();
    result
}

async fn write_run<D: BlockDevice>(
    store: &Store<D>,
    dirty: &Dirty,
    timestamp: Timestamp,
    live_bytes: u64,
) -> Result<Option<Run>, RunError> {
    let durable = store.filesystem.wait_durable(CommitNumber(timestamp.0));
    durable.await.map_err(|_| RunError::Closing)?;
    let usage = store.filesystem.usage();
    if !space::may_flush(
        &usage,
        live_bytes,
        space::flush_bytes_max(&usage, live_bytes),
    ) {
        // The bound is far above what most flushes take: measure this one.
        let bytes = run::dirty_bytes(&store.index, dirty, timestamp).await;
        if !space::may_flush(&usage, live_bytes, bytes) {
            return Err(RunError::NoRoom);
        }
    }
    run::write_dirty(&store.filesystem, &store.index, dirty, timestamp).await
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
        let merged = merge(store, clock, &plan).await;
        let flush_waited = store.flush_waits.replace(false);
        match merged {
            Ok(()) => store.stuck.set(false),
            Err(_) if store.is_ending() => return,
            Err(_) => {
                if flush_waited {
                    get_stuck(store);
                }
                let sleep = clock.sleep_ms(MERGE_RETRY_MS);
                let ending = store.changed.until(|| store.is_ending().then_some(()));
                embassy_futures::select::select(sleep, ending).await;
            }
        }
        store.changed.notify();
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
    let usage = store.filesystem.usage();
    // What the runs hold is what was live at the last flush.
    let live_bytes = store.flushed_live_bytes.get();
    let start = if store.flush_waits.get() {
        Some(0)
    } else {
        space::merge_start(&sizes, live_bytes, &usage)
    };
    let live_now = store.index.borrow().live_run_bytes();
    let flush_helps = start.is_none() && !store.flushing.get() && !store.flush_due.get();
    if flush_helps && space::merge_start(&sizes, live_now, &usage) == Some(0) {
        // Much was deleted since: once a run says so, a merge will bring the space back.
        store.flush_due.set(true);
        store.filesystem.nudge();
    }
    let start = start?;
    Some(MergePlan {
        start,
        runs: runs.get(start..)?.to_vec(),
    })
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

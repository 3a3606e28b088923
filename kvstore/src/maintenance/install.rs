//! The one way to make a checkpoint.
//!
//! Its manifest says what the engine is at this moment, with a change applied; when it is durable, the change holds in memory as well. Only one is made at a time, so a
//! change builds on all that were made before.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use lfs::{BlockDevice, Clock, CommitNumber, ObjectId};

use super::{JobError, flush_goes_first};
use crate::engine::counts::{ByDatabase, sum_of};
use crate::engine::manifest::{Count, INLINE_BYTES_MAX, Manifest, Place, RUNS_MAX, RunRef};
use crate::engine::recount::Corrections;
use crate::engine::state::Engine;
use crate::store::Store;
use crate::{DATABASE_COUNT, Timestamp};

/// Bytes of a manifest that are one chunk of its object.
const MANIFEST_CHUNK_BYTES: usize = 64 << 10;

/// What is to become different.
pub(super) enum Change<F> {
    /// The oldest frozen memtable is in runs, with all commits up to there.
    Flush {
        until: Timestamp,
        runs: F,
        counts: CountsBy,
    },
    /// Runs take the place of others.
    Runs { runs: F, counts: CountsBy },
    /// Nothing: the checkpoint vouches for what there is.
    Nothing,
}

/// By how much numbers of keys are to change, found out since a job began. Of a database that was emptied since it is an answer about what is not there any more, and none.
pub(super) struct CountsBy {
    found: Rc<RefCell<Corrections>>,
    clears: [u64; DATABASE_COUNT],
}

impl CountsBy {
    /// Of a job that begins now: by nothing.
    pub(super) fn begin<D: BlockDevice>(store: &Store<D>) -> Self {
        Self {
            found: store.engine.recounts.borrow_mut().begin_job(),
            clears: store.engine.counts.borrow().clears(),
        }
    }

    /// Where what is found out goes.
    pub(super) fn found(&self) -> Rc<RefCell<Corrections>> {
        Rc::clone(&self.found)
    }

    /// Databases, by bit, that were not emptied since.
    fn valid<D: BlockDevice>(&self, store: &Store<D>) -> u16 {
        let now = store.engine.counts.borrow().clears();
        let same = self
            .clears
            .iter()
            .zip(&now)
            .map(|(before, now)| before == now);
        same.rev().fold(0, |bits, same| bits << 1 | u16::from(same))
    }

    fn by<D: BlockDevice>(&self, store: &Store<D>) -> ByDatabase {
        let (valid, mut by) = (self.valid(store), self.found.borrow().by());
        for (db, count) in by.iter_mut().enumerate() {
            if valid >> db & 1 == 0 {
                *count = Count::default();
            }
        }
        by
    }
}

/// The right to make a checkpoint, or to keep others from changing the runs.
pub(crate) struct Turn<'s, D: BlockDevice>(&'s Store<D>);

impl<'s, D: BlockDevice> Turn<'s, D> {
    pub(crate) async fn take(store: &'s Store<D>) -> Self {
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

/// Makes a checkpoint that no change comes with.
pub(super) async fn vouch<D: BlockDevice>(
    store: &Store<D>,
    clock: &impl Clock,
) -> Result<(), JobError> {
    type NoRuns = fn(&mut Vec<RunRef>) -> Result<(), JobError>;
    install(store, clock, Change::<NoRuns>::Nothing).await
}

/// Makes a checkpoint with a change, which holds when this returns. The runs are given as they are at that time; what was written and is not among them then is
/// for the caller to give up if this fails. A flush that commits wait for [goes first](flush_goes_first).
pub(super) async fn install<D: BlockDevice>(
    store: &Store<D>,
    clock: &impl Clock,
    change: Change<impl FnOnce(&mut Vec<RunRef>) -> Result<(), JobError>>,
) -> Result<(), JobError> {
    if !matches!(change, Change::Flush { .. }) {
        flush_goes_first(store).await;
    }
    let turn = Turn::take(store).await;
    let engine = &store.engine;
    let mut runs = Vec::new();
    {
        let tree = engine.tree.borrow();
        let room = runs.try_reserve(tree.runs().len() + 1);
        room.map_err(|_| JobError::OutOfMemory)?;
        runs.extend_from_slice(tree.runs());
    }
    let (mut horizon, mut counts, mut is_flush) = (store.horizon.get(), None, false);
    match change {
        Change::Flush {
            until,
            runs: add,
            counts: by,
        } => {
            add(&mut runs)?;
            (horizon, counts, is_flush) = (until, Some(by), true);
        }
        Change::Runs {
            runs: replace,
            counts: by,
        } => {
            replace(&mut runs)?;
            counts = Some(by);
        }
        Change::Nothing => {}
    }
    // A database may be emptied, or counted, while the checkpoint is made: it is so whatever that says.
    let counts_now = || {
        let counts_there = engine.counts.borrow();
        let mut all = counts_there.of_runs();
        if is_flush {
            all = sum_of(&all, &counts_there.of_oldest_frozen());
        }
        let by = counts.as_ref().map(|by| by.by(store));
        by.map_or(all, |by| sum_of(&all, &by))
    };
    let doubtful = counts
        .as_ref()
        .map_or(0, |by| by.found.borrow().doubtful() & by.valid(store));
    if runs.len() > RUNS_MAX {
        return Err(JobError::TooManyRuns);
    }
    engine.timeline.borrow_mut().forget(engine.floor.get());
    let manifest = Manifest {
        floor: engine.floor.get(),
        next_slot: engine.next_slot.get(),
        timeline: engine.timeline.borrow().clone(),
        counts: counts_now(),
        uncertain: engine.recounts.borrow().uncertain_at(horizon) | doubtful,
        runs,
    };
    name(store, clock, &manifest, horizon).await?;

    store.horizon.set(horizon);
    forget_replaced(engine, &manifest.runs);
    let (runs, counts_then) = (manifest.runs, counts_now());
    if let Some(by) = &counts {
        let mut recounts = engine.recounts.borrow_mut();
        recounts.install(&by.found.borrow(), by.valid(store));
    }
    if is_flush {
        let flushed = engine.tree.borrow_mut().flushed_into(runs);
        engine.counts.borrow_mut().flushed(counts_then);
        store.retired.borrow_mut().extend(flushed);
    } else {
        engine.tree.borrow_mut().install(runs);
        engine.counts.borrow_mut().set_runs(counts_then);
    }
    let changes = &store.compaction.changes;
    changes.set(changes.get().wrapping_add(1));
    store.compaction.note_garbage();
    drop(turn);
    store.share_space();
    // Writers may wait for a memtable, or for the log.
    store.filesystem.nudge();
    store.changed.notify();
    Ok(())
}

/// What the cache has of tables that are not in `runs` is of no use from now on. Without memory to find out it goes when it is the oldest.
fn forget_replaced(engine: &Engine, runs: &[RunRef]) {
    fn objects(runs: &[RunRef]) -> impl Iterator<Item = ObjectId> {
        let tables = runs.iter().flat_map(|run| &run.tables);
        tables.map(|table| table.object)
    }
    let mut kept = Vec::new();
    if kept.try_reserve_exact(objects(runs).count()).is_err() {
        return;
    }
    kept.extend(objects(runs));
    kept.sort_unstable();
    let tree = engine.tree.borrow();
    let mut cache = engine.cache.borrow_mut();
    for object in objects(tree.runs()).filter(|object| kept.binary_search(object).is_err()) {
        cache.forget_table(object);
    }
}

/// Makes the checkpoint that says so.
async fn name<D: BlockDevice>(
    store: &Store<D>,
    clock: &impl Clock,
    manifest: &Manifest,
    horizon: Timestamp,
) -> Result<(), JobError> {
    let mut body = Vec::new();
    manifest.encode(&mut body)?;
    let tables = || manifest.runs.iter().flat_map(|run| &run.tables);
    let mut keep: Vec<ObjectId> = Vec::new();
    let room = keep.try_reserve_exact(tables().count() + 1);
    room.map_err(|_| JobError::OutOfMemory)?;
    keep.extend(tables().map(|table| table.object));
    let mut said = Vec::new();
    let mut object = NewObject(store, None);
    if body.len() <= INLINE_BYTES_MAX {
        Place::Inline(&body).encode(&mut said)?;
    } else {
        let id = write_manifest(store, &body).await?;
        object.1 = Some(id);
        keep.push(id);
        Place::Object(id, body.len() as u64).encode(&mut said)?;
    }
    drop(body);
    let filesystem = &store.filesystem;
    let commit = CommitNumber(horizon.0);
    let made = filesystem.checkpoint(commit, &keep, &said, clock).await;
    if made.is_ok() {
        object.1 = None;
    }
    Ok(made?)
}

/// An object that no checkpoint names yet: given up when dropped.
struct NewObject<'s, D: BlockDevice>(&'s Store<D>, Option<ObjectId>);

impl<D: BlockDevice> Drop for NewObject<'_, D> {
    fn drop(&mut self) {
        if let Some(object) = self.1 {
            self.0.filesystem.discard_object(object);
        }
    }
}

async fn write_manifest<D: BlockDevice>(
    store: &Store<D>,
    body: &[u8],
) -> Result<ObjectId, JobError> {
    let mut writer = store.filesystem.create_object()?;
    for chunk in body.chunks(MANIFEST_CHUNK_BYTES) {
        writer.put(chunk)?;
        writer.write_full().await?;
    }
    Ok(writer.finish().await?)
}

//! Work in the background: flushes, compaction, sweeps, memory that is given back.
//!
//! - `flush`: the oldest frozen memtable becomes a run, so that the log before it is free;
//! - `compact`: runs are merged, step by step; `shape`: what `pick` has to know of them; `step`: how far a step goes, and what comes of it;
//! - `sweep`: what nobody needs of the value file is freed;
//! - `count`: keys are counted anew where a range delete has made their number uncertain;
//! - `expire`: keys that expire soon are found in runs;
//! - `tables`: sources become tables, in turns; `chunks`: what is read for that; `install`: the one way to make a checkpoint;
//! - `history`: how far back history goes, and what it takes;
//! - `pace`: how much compaction does for what is committed, and when commits wait for it; `space`: what has to stay free.
//!
//! Flushes and compaction go on at the same time: a long step does not hold up a flush, on which writers depend. They take turns for the
//! checkpoint; while commits wait for a flush, what else goes on waits with them, unless it is far behind. Nothing is borrowed across an await, and whatever was written and is not named by a checkpoint is given up when it is dropped.
//!
//! What fails is tried again, and the store goes on serving meanwhile: a damaged table holds up the job that needs it, and no flush.

mod chunks;
mod compact;
mod count;
mod expire;
mod flush;
mod history;
mod install;
mod pace;
mod shape;
mod space;
mod step;
mod sweep;
mod tables;
#[cfg(test)]
mod tests;

use alloc::rc::Rc;
use core::cell::{Cell, RefCell};

use embassy_futures::join::{join, join5};
use embassy_futures::select::select;
use lfs::{
    BlockDevice, CheckpointError, Clock, FileError, ObjectId, ObjectReadError, ObjectWriteError,
};

pub(crate) use self::history::{history_bytes, history_bytes_max};
use self::pace::Pace;
use self::space::Reserved;
pub(crate) use self::sweep::pending_slots;
use crate::engine::memtable::Memtable;
use crate::engine::types::OutOfMemory;
use crate::store::Store;

/// Chunks of a memtable that are given back before others get a turn.
const CHUNKS_PER_TURN: usize = 16;

/// Entries of the cache that are evicted, or taken over by another policy, before others get a turn.
const ENTRIES_PER_TURN: usize = 256;

/// Garbage that the disk may hold for a hundred bytes of what is meant, unless [`Store::set_garbage_percent_max`] says otherwise.
pub(crate) const GARBAGE_PERCENT: u32 = 20;

/// How long to wait before trying again when memory or space did not suffice.
const RETRY_MS: u64 = 200;

/// How long to wait before a job that failed is tried again: it may have met damage, which stays.
const JOB_RETRY_MS: u64 = 10_000;

/// How often to look whether a memtable that somebody holds on to is free.
const GARBAGE_MS: u64 = 100;

/// Why something in the background did not come about. What it wrote is given up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JobError {
    /// A table cannot be read.
    #[error(transparent)]
    Read(#[from] ObjectReadError),
    /// A table is intact, but what it holds makes no sense.
    #[error("table {} holds what no table can hold", .0.0)]
    DamagedTable(ObjectId),
    /// Tables cannot be written.
    #[error(transparent)]
    Write(#[from] ObjectWriteError),
    /// The checkpoint was not made.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Values cannot be freed.
    #[error(transparent)]
    Values(#[from] FileError),
    /// There is no memory.
    #[error("not enough memory")]
    OutOfMemory,
    /// There are as many runs as there can be.
    #[error("too many runs")]
    TooManyRuns,
    /// It would take room that is set aside for what comes after it.
    #[error("no space left on the device")]
    NoRoom,
    /// The runs are not what they were when it began.
    #[error("the runs are not in the order in which they were made")]
    Disorder,
    /// What is to be written is not in the order of keys, as it would be read.
    #[error("keys are out of their order, and nothing is written of them")]
    KeysOutOfOrder,
    /// The store is closing, or has failed.
    #[error("the store is closing")]
    Closing,
}

impl From<OutOfMemory> for JobError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

impl JobError {
    /// Whether compaction would make it possible.
    fn is_for_want_of_room(&self) -> bool {
        matches!(
            self,
            Self::NoRoom
                | Self::TooManyRuns
                | Self::Write(ObjectWriteError::Full)
                | Self::Checkpoint(CheckpointError::NoSpace)
        )
    }
}

/// What a flush without room has of compaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Help {
    /// It needs none.
    #[default]
    None,
    /// It waits for a step.
    Wanted,
    /// One was made.
    Given,
    /// There is none that could be made now.
    InVain,
}

/// What a commit without room has of flushes, compaction and sweeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Room {
    /// It has not been asked for.
    #[default]
    Enough,
    /// Commits wait until what is not needed was found and freed.
    Wanted,
    /// There is nothing that could be freed now.
    Exhausted,
}

/// What compaction does, and owes.
#[derive(Default)]
pub(crate) struct Compaction {
    pace: Pace,
    /// How often the runs have changed.
    changes: Cell<u64>,
    help: Cell<Help>,
    room: Cell<Room>,
    /// A memtable is being flushed.
    is_flushing: Cell<bool>,
    /// What growth leaves, for what is in memtables besides.
    reserved: Cell<Reserved>,
    /// Bytes that tables take.
    table_bytes: Cell<u64>,
    /// Why the last job failed, until one succeeds.
    failure: RefCell<Option<JobError>>,
}

impl Compaction {
    /// A commit was made, of so many bytes, and so many of large values besides. True if the next ones have to wait from here on.
    pub(crate) fn committed(&self, bytes: u64, value_bytes: u64) -> bool {
        self.pace.committed(bytes, value_bytes)
    }

    /// Whether something may be freed that a commit without room waits for.
    pub(crate) fn is_room_wanted(&self) -> bool {
        self.room.get() == Room::Wanted
    }

    /// Whether a flush waits for a step, or commits for what may be freed.
    fn is_urgent(&self) -> bool {
        self.help.get() == Help::Wanted || self.is_room_wanted()
    }

    /// Something that was there is not needed any more.
    pub(crate) fn note_garbage(&self) {
        if self.room.get() == Room::Exhausted {
            self.room.set(Room::Enough);
        }
    }

    /// Why compaction does not get on, if it does not.
    pub(crate) fn failure(&self) -> Option<JobError> {
        self.failure.borrow().clone()
    }
}

impl<D: BlockDevice> Store<D> {
    /// Whether a commit may go ahead as far as compaction is concerned: see `pace` for how long one can wait. One that found no room waits until
    /// what nobody needs was freed: a flush, and what compaction and sweeps find, which is at most the whole of the runs.
    pub(crate) fn compaction_allows(&self) -> bool {
        let compaction = &self.compaction;
        (compaction.pace.allows() && !compaction.is_room_wanted()) || self.is_ending()
    }

    /// Says how much on the disk may be garbage at the moment.
    pub(crate) fn bound_garbage(&self) {
        let most = self.garbage_percent_max.get();
        let percent = if self.compaction.pace.is_idle() {
            // What is cleaned then costs nobody anything.
            most - most / 3
        } else {
            most
        };
        self.filesystem
            .set_garbage_max((most > 0).then_some(percent));
    }

    /// A commit found no room. True: what nobody needs is freed now, and it is to be tried again; false when there is nothing of that kind.
    pub(crate) fn make_room(&self) -> bool {
        let compaction = &self.compaction;
        if compaction.room.get() == Room::Exhausted || self.stuck.get() || self.is_ending() {
            return false;
        }
        compaction.room.set(Room::Wanted);
        self.flush_due.set(true);
        self.filesystem.nudge();
        self.changed.notify();
        true
    }
}

/// Runs everything in the background until the store is closed or failed.
pub(crate) async fn run<D: BlockDevice>(store: &Store<D>, clock: &impl Clock) {
    join5(
        store.filesystem.run(clock),
        flush::run(store, clock),
        compact::run(store, clock),
        join(count::run(store, clock), expire::run(store, clock)),
        join(garbage_loop(store, clock), settle_cache(store)),
    )
    .await;
}

/// The log cannot move on until a step or memory lets a flush through: writers hear of it, and do not wait.
fn get_stuck<D: BlockDevice>(store: &Store<D>) {
    store.stuck.set(true);
    store.filesystem.nudge();
    store.changed.notify();
}

/// Waits while commits wait for a flush that is under way, and for nothing else: what is done besides only makes it take longer.
async fn flush_goes_first<D: BlockDevice>(store: &Store<D>) {
    // Commits may be so large that there is nothing but flushes.
    flush_goes_before(store, || store.compaction.pace.is_far_behind()).await;
}

/// The same for something that may go on beside it where it `hurries`.
async fn flush_goes_before<D: BlockDevice>(store: &Store<D>, hurries: impl Fn() -> bool) {
    let compaction = &store.compaction;
    let is_awaited = || store.filesystem.is_log_full() || store.engine.are_memtables_full();
    let may = || compaction.is_urgent() || hurries();
    let is_first = || compaction.is_flushing.get() && is_awaited() && !may();
    let is_over = || (!is_first() || store.is_ending()).then_some(());
    store.changed.until(is_over).await;
}

/// Waits for a while, or until the end, or until that holds.
async fn pause<D: BlockDevice>(
    store: &Store<D>,
    clock: &impl Clock,
    ms: u64,
    or_until: impl Fn() -> bool,
) {
    let woken = || (store.is_ending() || or_until()).then_some(());
    select(clock.sleep_ms(ms), store.changed.until(woken)).await;
}

/// Gives back the memory of memtables that were flushed.
async fn garbage_loop<D: BlockDevice>(store: &Store<D>, clock: &impl Clock) {
    while !store.is_ending() {
        let retired = || {
            let memtable = store.retired.borrow_mut().pop();
            memtable
                .map(Some)
                .or_else(|| store.is_ending().then_some(None))
        };
        let Some(memtable) = store.changed.until(retired).await else {
            return;
        };
        match Rc::try_unwrap(memtable) {
            Ok(memtable) => {
                store.dismantling.set(true);
                dismantle(store, memtable).await;
                store.dismantling.set(false);
                store.memory_wanted.set(false);
                store.share_memory();
                store.changed.notify();
            }
            Err(held) => {
                store.retired.borrow_mut().push(held);
                pause(store, clock, GARBAGE_MS, || false).await;
            }
        }
    }
}

/// Has the cache give back what it may not have any more, forget tables that are gone, and a new policy take over what it holds: some entries in a step.
async fn settle_cache<D: BlockDevice>(store: &Store<D>) {
    let cache = &store.engine.cache;
    while !store.is_ending() {
        let is_due = || !cache.borrow().is_settled() || store.is_ending();
        store.changed.until(|| is_due().then_some(())).await;
        {
            let mut cache = cache.borrow_mut();
            cache.take_over(ENTRIES_PER_TURN);
            cache.forget(ENTRIES_PER_TURN);
            cache.resize(store.engine.cache_bytes_max.get(), ENTRIES_PER_TURN);
        }
        embassy_futures::yield_now().await;
    }
}

async fn dismantle<D: BlockDevice>(store: &Store<D>, memtable: Memtable) {
    let mut left = Some(memtable);
    while let Some(memtable) = left
        && !store.is_ending()
    {
        left = memtable.dismantle(CHUNKS_PER_TURN);
        embassy_futures::yield_now().await;
    }
}

//! Counting keys anew after a range delete (`recount`).
//!
//! The walk goes through the keys of one database, some hundred versions at a turn, each turn at the newest state of its moment; databases that somebody waits for
//! come first, and without a pause between turns but for flushes that commits wait for. What it knows is in memory alone: after a restart it begins anew, which the manifest's bit says. When the
//! number is known a checkpoint takes the bit away, if no commit that is only in the log is needed for it; else the next flush's does.
//!
//! **A table that cannot be read**, or memory that is wanting, makes the walk stop where it stands, and it is tried again from there now and then. Nobody waits meanwhile, or for a
//! database that is large, or while range deletes come faster than the walk gets on: who asks is told the number that there is, without what range deletes took away.

use lfs::{BlockDevice, Clock};

use super::chunks::Chunks;
use super::install::vouch;
use super::{JOB_RETRY_MS, JobError, pause};
use crate::DatabaseIndex;
use crate::engine::shares::{Shares, shares};
use crate::engine::types::{Missing, OutOfMemory};
use crate::store::Store;

/// Versions that are looked at before others get a turn.
const VERSIONS_PER_TURN: usize = 256;

/// How long others have between two turns when nobody waits.
const REST_MS: u64 = 2;

/// What a turn came to.
enum Turned {
    More,
    /// The number is known, by counting or because the database was emptied.
    Known,
}

pub(super) async fn run<D: BlockDevice>(store: &Store<D>, clock: &impl Clock) {
    let recounts = &store.engine.recounts;
    let has_next = || recounts.borrow().next().is_some();
    let has_stuck = || recounts.borrow().stuck().next().is_some();
    let (mut chunks, mut tried_us) = (None, 0);
    while !store.is_ending() {
        let has_any = || (has_next() || has_stuck() || store.is_ending()).then_some(());
        store.changed.until(has_any).await;
        let since_ms = clock.monotonic_us().saturating_sub(tried_us) / 1000;
        if !has_stuck() {
            tried_us = clock.monotonic_us();
        } else if since_ms >= JOB_RETRY_MS {
            try_again(store, clock).await;
            tried_us = clock.monotonic_us();
        } else if !has_next() {
            chunks = None;
            pause(store, clock, JOB_RETRY_MS - since_ms, has_next).await;
        }
        let next = recounts.borrow().next();
        if let Some(db) = next {
            let reading = chunks.get_or_insert_with(|| Chunks::new(store));
            if !go_on(store, clock, reading, db).await {
                chunks = None;
            }
        }
    }
}

/// Tries those again that cannot be counted for now. Until one has got on nobody waits for it.
async fn try_again<D: BlockDevice>(store: &Store<D>, clock: &impl Clock) {
    let stuck = store.engine.recounts.borrow().stuck();
    for db in stuck {
        if store.is_ending() {
            return;
        }
        go_on(store, clock, &Chunks::new(store), db).await;
    }
}

/// Counts a bit more of a database; false if what has been read is of no further use.
async fn go_on<D: BlockDevice>(
    store: &Store<D>,
    clock: &impl Clock,
    chunks: &Chunks<'_, D>,
    db: DatabaseIndex,
) -> bool {
    let recounts = &store.engine.recounts;
    let changes = store.compaction.changes.get();
    let turned = turn(store, chunks, db).await;
    let is_replaced = || {
        let have_changed = store.compaction.changes.get() != changes;
        have_changed || store.checkpointing.get()
    };
    match turned {
        Ok(Turned::More) => {
            recounts.borrow_mut().set_stuck(db, false);
            if recounts.borrow().is_waited_for(db) {
                // It may not be worth it any more.
                store.changed.notify();
                embassy_futures::yield_now().await;
            } else {
                clock.sleep_ms(REST_MS).await;
            }
            true
        }
        Ok(Turned::Known) => {
            store.changed.notify();
            let is_known = recounts.borrow().is_known_at(db, store.horizon.get());
            if is_known && !store.is_ending() {
                // Without it the keys are counted once more after a restart, and that is all.
                let _ = vouch(store, clock).await;
            }
            false
        }
        // Tables that were replaced meanwhile may be gone.
        Err(error) if error != JobError::OutOfMemory && is_replaced() => {
            embassy_futures::yield_now().await;
            false
        }
        Err(_) => {
            recounts.borrow_mut().set_stuck(db, true);
            store.changed.notify();
            false
        }
    }
}

/// Makes a turn.
async fn turn<D: BlockDevice>(
    store: &Store<D>,
    chunks: &Chunks<'_, D>,
    db: DatabaseIndex,
) -> Result<Turned, JobError> {
    let engine = &store.engine;
    let counted = chunks.loaded(|| {
        // What is counted, and what it is noted as, is of one moment.
        let mut recounts = engine.recounts.borrow_mut();
        let Some(recount) = recounts.of(db) else {
            return Ok(Ok(Turned::Known));
        };
        let (mut looks, mut known) = (VERSIONS_PER_TURN, recount.total());
        if let Some((from, to)) = recount.next() {
            let tree = engine.tree.borrow();
            let sources = match tree.sources(chunks, None) {
                Ok(sources) => sources,
                Err(OutOfMemory) => return Ok(Err(JobError::OutOfMemory)),
            };
            let Shares { count, to } = shares(sources, from, to, &mut looks)?;
            recount.counted(&to, count, (VERSIONS_PER_TURN - looks) as u64);
            known = recount.total();
        }
        let Some(total) = known else {
            return Ok(Ok(Turned::More));
        };
        recounts.end(db);
        engine.counts.borrow_mut().set(db, total);
        Ok::<_, Missing>(Ok(Turned::Known))
    });
    counted.await?
}

/// Somebody waits until a database is counted.
pub(crate) struct Waiting<'s, D: BlockDevice>(&'s Store<D>, DatabaseIndex);

impl<D: BlockDevice> Drop for Waiting<'_, D> {
    fn drop(&mut self) {
        self.0.engine.recounts.borrow_mut().wait(self.1, false);
    }
}

impl<D: BlockDevice> Store<D> {
    /// Whether the number of keys of `db` is going to be known soon, and is not yet.
    pub(crate) fn is_being_counted(&self, db: DatabaseIndex) -> bool {
        let engine = &self.engine;
        let keys = engine.counts.borrow().keys(db);
        let is_worth_it = engine.recounts.borrow().is_worth_waiting_for(db, keys);
        is_worth_it && !self.only_read && !self.is_ending()
    }

    /// Waits until the number of keys of `db` is known, or nobody is to wait for it.
    pub(crate) async fn counted(&self, db: DatabaseIndex) {
        self.engine.recounts.borrow_mut().wait(db, true);
        let _waiting = Waiting(self, db);
        self.changed.notify();
        let known = || (!self.is_being_counted(db)).then_some(());
        self.changed.until(known).await;
    }
}

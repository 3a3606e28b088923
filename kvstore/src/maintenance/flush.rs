//! Flushes: the oldest frozen memtable becomes a run of tier 0, and the log before it is free.
//!
//! A memtable is frozen when it is full, by the commit that fills it; when the log wants a checkpoint; when somebody asks for it; and in the end. A flush that finds no
//! room waits for steps of compaction, and with it writers; if none can be made, they are told, until it works.

use alloc::boxed::Box;
use alloc::rc::Rc;

use lfs::{BlockDevice, Clock, CommitNumber};

use super::chunks::{Chunks, Newer};
use super::history::raise_floor;
use super::install::{Change, CountsBy, install, vouch};
use super::space::{make_room, may_flush, table_bytes};
use super::tables::{self, Turns, Written};
use super::{Help, JobError, RETRY_MS, compact, get_stuck, pause};
use crate::engine::budget::Share;
use crate::engine::keep::Rules;
use crate::engine::manifest::RunRef;
use crate::engine::memtable::Memtable;
use crate::engine::merge::{Merge, Source};
use crate::engine::rewrite::Rewrite;
use crate::engine::types::{Cursor as _, ENGINE_KEY_BYTES_MAX, OutOfMemory};
use crate::store::Store;
use crate::transactions::changes::Digesting;
use crate::transactions::digest::Digest;
use crate::{Key, Timestamp};

/// Keys of a digest that are noted before others get a turn.
const KEYS_PER_TURN: usize = 256;

/// Digests take this part of what transactions have in any case: a 32nd of all memory.
const DIGESTS_PART: usize = 2;

pub(super) async fn run<D: BlockDevice>(store: &Store<D>, clock: &impl Clock) {
    loop {
        store
            .filesystem
            .checkpoint_wanted(|| store.is_ending() || is_due(store))
            .await;
        let closing = store.is_closing();
        if store.filesystem.is_failed() {
            break;
        }
        match flush(store, clock).await {
            Ok(()) => {
                store.stuck.set(false);
                store.changed.notify();
                if closing && is_all_flushed(store) {
                    break;
                }
            }
            Err(_) if store.filesystem.is_failed() => break,
            Err(_) if closing => {
                // The log has everything; this checkpoint only vouches for its last group.
                let _ = vouch(store, clock).await;
                break;
            }
            Err(error) => {
                let is_short = error.is_for_want_of_room();
                let helped = is_short && (make_room(store, clock).await || is_helped(store).await);
                if !helped {
                    get_stuck(store);
                    pause(store, clock, RETRY_MS, || false).await;
                }
            }
        }
    }
    store.filesystem.stop();
    store.ended.set(true);
    store.changed.notify();
}

/// Whether there is something to flush, though the log does not want it.
fn is_due<D: BlockDevice>(store: &Store<D>) -> bool {
    store.flush_due.get() || store.engine.tree.borrow().frozen_count() > 0
}

/// Whether runs have all that is committed.
pub(super) fn is_all_flushed<D: BlockDevice>(store: &Store<D>) -> bool {
    let tree = store.engine.tree.borrow();
    let active = tree.active();
    tree.frozen_count() == 0 && active.entries() == 0 && active.ranges().is_empty()
}

/// Waits until a step of compaction was made; false if there is none that could be.
async fn is_helped<D: BlockDevice>(store: &Store<D>) -> bool {
    let help = &store.compaction.help;
    help.set(Help::Wanted);
    store.filesystem.nudge();
    store.changed.notify();
    let answered = || (help.get() != Help::Wanted || store.is_ending()).then_some(());
    store.changed.until(answered).await;
    help.replace(Help::None) == Help::Given
}

/// Flushes the oldest frozen memtable; the active one, if no other is.
async fn flush<D: BlockDevice>(store: &Store<D>, clock: &impl Clock) -> Result<(), JobError> {
    store.flush_due.set(false);
    if store.engine.tree.borrow().frozen_count() == 0 {
        // All of what is committed is in it: that is one step.
        let frozen = store.engine.tree.borrow_mut().freeze(store.committed())?;
        if frozen {
            store.engine.counts.borrow_mut().freeze();
            store.engine.has_garbage.set(false);
        }
    }
    let oldest = {
        let tree = store.engine.tree.borrow();
        tree.to_flush().zip(tree.to_flush_until())
    };
    let Some((memtable, until)) = oldest else {
        return Ok(());
    };
    let durable = store.filesystem.wait_durable(CommitNumber(until.0));
    durable.await.map_err(|_| JobError::Closing)?;
    store.compaction.is_flushing.set(true);
    let flushed = flush_memtable(store, clock, &memtable, until).await;
    store.compaction.is_flushing.set(false);
    store.changed.notify();
    if flushed.is_ok() {
        // Whoever asked meanwhile asked for this one.
        store.flush_due.set(false);
    }
    flushed
}

async fn flush_memtable<D: BlockDevice>(
    store: &Store<D>,
    clock: &impl Clock,
    memtable: &Rc<Memtable>,
    until: Timestamp,
) -> Result<(), JobError> {
    let counts = CountsBy::begin(store);
    if memtable.entries() == 0 && memtable.ranges().is_empty() {
        let change = Change::Flush {
            until,
            runs: |_: &mut _| Ok(()),
            counts,
        };
        return install(store, clock, change).await;
    }
    let usage = store.filesystem.usage();
    let runs = store.engine.tree.borrow().runs().len();
    let bytes = memtable.memory_bytes() as u64;
    if !may_flush(&usage, table_bytes(&usage), bytes, runs) {
        return Err(JobError::NoRoom);
    }
    let Written { tables, .. } = write_run(store, clock, memtable, &counts).await?;
    let digest = digest_of(store, memtable).await;
    let run = RunRef {
        tier: 0,
        job: None,
        first: Timestamp(memtable.first().0 + 1),
        last: memtable.last(),
        tables: tables.tables().to_vec(),
    };
    let change = Change::Flush {
        until,
        runs: |runs: &mut alloc::vec::Vec<RunRef>| {
            if !run.tables.is_empty() {
                runs.insert(0, run);
            }
            Ok(())
        },
        counts,
    };
    install(store, clock, change).await?;
    // In the step in which the memtable went: who asks what was written finds it in the one or the other.
    keep_digest(store, digest);
    tables.keep();
    Ok(())
}

/// What open transactions have to know of a memtable, if there are some whose state is older than what is in it. That goes by what is known now: who begins
/// later sees all of it.
async fn digest_of<D: BlockDevice>(
    store: &Store<D>,
    memtable: &Rc<Memtable>,
) -> Result<Option<Digest>, OutOfMemory> {
    let oldest = store.engine.open.oldest();
    if oldest.is_none_or(|oldest| oldest >= memtable.last()) {
        return Ok(None);
    }
    let Some(mut digesting) = Digesting::new(Rc::clone(memtable)) else {
        return Ok(None);
    };
    while !digesting.step(KEYS_PER_TURN)? {
        embassy_futures::yield_now().await;
    }
    digesting.finish().map(Some)
}

/// Keeps a digest, and no more of them than there may be: whose state is older than what there is no memory for, is ended.
fn keep_digest<D: BlockDevice>(store: &Store<D>, digest: Result<Option<Digest>, OutOfMemory>) {
    let engine = &store.engine;
    match digest {
        Ok(None) => {}
        // Without memory there is none, and none of those before: whoever needs them finds that out.
        Ok(Some(digest)) => _ = engine.digests.borrow_mut().keep(digest),
        Err(OutOfMemory) => engine.digests.borrow_mut().clear(),
    }
    engine.forget_digests();
    let most = store.budget.get().floor(Share::Transactions) / DIGESTS_PART;
    let forget_first = || {
        let mut digests = engine.digests.borrow_mut();
        (digests.memory_bytes() > most).then(|| digests.forget_first())?
    };
    while let Some(last) = forget_first() {
        for owner in engine.open.older_than(last) {
            engine.open.count(|counts| counts.expired += 1);
            store.end(owner);
        }
    }
    store.share_memory();
}

async fn write_run<'s, D: BlockDevice>(
    store: &'s Store<D>,
    clock: &impl Clock,
    memtable: &Memtable,
    counts: &CountsBy,
) -> Result<Written<'s, D>, JobError> {
    // What is seen, and what is older, is as it is in this step.
    let pins = store.engine.pins.timestamps()?;
    let rules = Rules {
        pins: &pins,
        floor: raise_floor(store, clock),
        now_ms: compact::now_ms(store, clock),
        bottom: store.engine.tree.borrow().runs().is_empty(),
    };
    let chunks = Chunks::of_flush(store);
    let newer = Newer::than(store, &chunks, memtable.last());
    let source = Source {
        cursor: Box::new(memtable.cursor()),
        ranges: Box::new(memtable.ranges()),
        last: memtable.last(),
    };
    let (from, to) = bounds(memtable);
    let mut merge = Merge::new(alloc::vec![source], Timestamp(u64::MAX));
    chunks.loaded(|| merge.seek(&from)).await?;
    let ranges = memtable.ranges();
    let seed = store.engine.hash_seed;
    let found = counts.found();
    let mut rewrite = Rewrite::new(merge, rules, ranges, newer, &from, seed, found)?;
    let (to, turns) = (to.as_ref(), Hurried(store));
    tables::write(store, &mut rewrite, &chunks, to, u64::MAX, &turns).await
}

/// From where to where a memtable has something: where it has nothing, tables of other runs need not be merged with its own.
fn bounds(memtable: &Memtable) -> (Key, Option<Key>) {
    let mut cursor = memtable.cursor();
    // All is in memory.
    let _ = cursor.seek(&[], Timestamp(u64::MAX));
    let first = cursor.current().map(|(key, _)| key);
    let starts = memtable.ranges().iter().map(|range| range.start);
    let from = Key::from(first.into_iter().chain(starts).min().unwrap_or_default());
    let _ = cursor.seek_back(None);
    let last = match cursor.current() {
        Some((key, _)) => match behind(key) {
            Some(behind) => behind,
            None => return (from, None),
        },
        None => alloc::vec::Vec::new(),
    };
    let ends = memtable.ranges().iter().map(|range| range.end);
    let to = ends.max().unwrap_or_default().max(&last[..]).into();
    (from, Some(to))
}

/// A key behind `key`, if there is one.
fn behind(key: &[u8]) -> Option<alloc::vec::Vec<u8>> {
    let mut behind = key.to_vec();
    if key.len() < ENGINE_KEY_BYTES_MAX {
        behind.push(0);
        return Some(behind);
    }
    while let Some(last) = behind.pop() {
        if let Some(next) = last.checked_add(1) {
            behind.push(next);
            return Some(behind);
        }
    }
    None
}

/// Writers depend on it: it waits for nobody, but lets others go first.
struct Hurried<'s, D: BlockDevice>(&'s Store<D>);

impl<D: BlockDevice> Turns for Hurried<'_, D> {
    fn goes_on(&self) -> bool {
        !self.0.filesystem.is_failed()
    }

    fn made(&self, _bytes: u64) {}

    async fn next(&self, _bytes: u64) {
        self.0.filesystem.give_way().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_key_behind_the_longest_unless_it_is_the_last() {
        assert_eq!(behind(b"a").as_deref(), Some(&b"a\0"[..]));
        let longest = |end: &[u8]| {
            let mut key = alloc::vec![0xFF; ENGINE_KEY_BYTES_MAX];
            key[..end.len()].copy_from_slice(end);
            key
        };
        assert_eq!(behind(&longest(b"ab")).as_deref(), Some(&b"ac"[..]));
        assert_eq!(behind(&longest(&[])), None);
    }
}

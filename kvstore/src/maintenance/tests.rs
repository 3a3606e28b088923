//! The store on a simulated disk, against a model, with memtables so small that everything in the background goes on all the time.
//!
//! Invariants: at any time what is read is what the model holds, whatever is flushed, merged or swept meanwhile, and after any power cut; counts are right; a snapshot sees
//! its moment; in the end the value file holds what is named and nothing else.

extern crate std;

mod counting;
mod expiring;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::pin::pin;
use std::println;

use embassy_futures::poll_once;
use lfs::sim::{Executor, Random, Request, SimClock, SimDisk};
use lfs::{Clock as _, FileSystemId, FormatOptions, ObjectReadError};

use super::chunks::Chunks;
use super::{Help, JobError, compact, sweep};
use crate::engine::manifest::BASE;
use crate::engine::table::{ChunkKind, RunCursor};
use crate::engine::types::{Content, Cursor as _, Piece, SLOT_BYTES};
use crate::testing::random;
use crate::{
    CommitError, DatabaseIndex, Key, Loaded, Options, Snapshot, Store, Timestamp, TransactError,
    Transaction, View, Walk,
};

type TestStore = Store<SimDisk>;
/// A database and a key.
type Place = (u8, Vec<u8>);
type Model = BTreeMap<Place, Vec<u8>>;

/// What a transaction does to the model: databases that it empties, then values that it puts or takes away.
#[derive(Default)]
struct Changes {
    cleared: Option<u8>,
    written: Vec<(Place, Option<Vec<u8>>)>,
}

impl Changes {
    fn apply(self, model: &mut Model) {
        if let Some(cleared) = self.cleared {
            model.retain(|(db, _), _| *db != cleared);
        }
        for (key, value) in self.written {
            match value {
                Some(value) => model.insert(key, value),
                None => model.remove(&key),
            };
        }
    }
}

const FORMAT: FormatOptions = FormatOptions {
    segment_bytes: 32 << 10,
    log_segments: 16,
    created_ns: 0,
};

const OPTIONS: Options = Options {
    memory_bytes_max: 4 << 20,
    open_memory_bytes_max: 16 << 20,
    hash_seed: 1,
    history_ms: 0,
};

fn formatted(segments: usize, seed: u64) -> SimDisk {
    let disk = SimDisk::new(segments * 8, seed);
    let target = disk.clone();
    Executor::new(seed).run(async move {
        let id = FileSystemId([0xA5; 16]);
        lfs::format(&target, FORMAT, id).await.unwrap();
    });
    disk.snapshot(seed)
}

/// Opens the store and lets it run, with memtables of some tens of KiB.
fn open(executor: &mut Executor, disk: &SimDisk) -> Rc<TestStore> {
    let disk = disk.clone();
    let opened = executor.run(async move { Store::open(disk, OPTIONS).await });
    let store = Rc::new(opened.unwrap());
    store.engine.memtable_bytes_max.set(MEMTABLE_BYTES);
    let (running, clock) = (Rc::clone(&store), executor.clock());
    executor.spawn(async move { running.run(&clock).await });
    store
}

/// With the arena's chunks some 100 KiB.
const MEMTABLE_BYTES: usize = 100 << 10;

fn key(random: &mut Random, keys: u64) -> Vec<u8> {
    alloc::format!("key{:05}", random.below(keys)).into_bytes()
}

fn value(random: &mut Random) -> Vec<u8> {
    let bytes = match random.below(20) {
        0 => 3000 + random.below(12_000),
        1..=5 => 512 + random.below(2000),
        _ => random.below(500),
    };
    self::bytes(random, usize::try_from(bytes).unwrap())
}

/// So many bytes, half of which do not compress.
fn bytes(random: &mut Random, len: usize) -> Vec<u8> {
    let mut bytes = alloc::vec![0; len];
    for byte in bytes.iter_mut().step_by(2) {
        *byte = random.next_u64().to_le_bytes()[0];
    }
    bytes
}

/// One random commit.
async fn commit(store: &TestStore, random: &mut Random, model: &mut Model, keys: u64) {
    let start = random.clone();
    let attempt = |transaction: &mut Transaction<'_, SimDisk>| {
        *random = start.clone();
        write(transaction, random, keys)
    };
    transact(store, attempt).await.apply(model);
}

/// Commits what `attempt` writes, which may run several times.
async fn transact(
    store: &TestStore,
    mut attempt: impl FnMut(&mut Transaction<'_, SimDisk>) -> Changes,
) -> Changes {
    loop {
        store.admit().await;
        match store
            .transact(0, 0, |transaction| Ok(attempt(transaction)))
            .await
        {
            Ok((changes, _)) => return changes,
            Err(TransactError::Commit(CommitError::Busy)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn write(transaction: &mut Transaction<'_, SimDisk>, random: &mut Random, keys: u64) -> Changes {
    let mut changes = Changes::default();
    if random.one_in(1500) {
        transaction.clear(DatabaseIndex(1));
        changes.cleared = Some(1);
    }
    for _ in 0..=random.below(4) {
        let (db, key) = (u8::from(random.one_in(2)), key(random, keys));
        if random.one_in(4) {
            let _ = transaction.delete(DatabaseIndex(db), &key);
            changes.written.push(((db, key), None));
        } else {
            let value = value(random);
            transaction.put(DatabaseIndex(db), &key, value.clone(), None);
            changes.written.push(((db, key), Some(value)));
        }
    }
    changes
}

/// All that a store shows of two databases.
async fn contents(store: &TestStore) -> Model {
    let mut model = Model::new();
    let snapshot = store.snapshot();
    for db in [DatabaseIndex(0), DatabaseIndex(1)] {
        let keys = keys_of(store, &snapshot, db).await;
        // Of what could not be found out some is assumed, until the base has it.
        let count = count(store, db).await;
        let slack = 50 + keys.len() as u64 / 50;
        assert!(
            count.abs_diff(keys.len() as u64) <= slack,
            "{count} of {}",
            keys.len()
        );
        for keys in keys.chunks(64) {
            let read = |transaction: &mut Transaction<'_, SimDisk>| {
                let mut entries = Vec::new();
                for key in keys {
                    let entry = transaction.get(db, key)?.unwrap();
                    entries.push(((db.0, key.to_vec()), entry.value.to_vec()));
                }
                Ok(entries)
            };
            model.extend(store.transact(0, 0, read).await.unwrap().0);
        }
    }
    model
}

async fn count(store: &TestStore, db: DatabaseIndex) -> u64 {
    let count = |transaction: &mut Transaction<'_, SimDisk>| transaction.count(db);
    store.transact(0, 0, count).await.unwrap().0
}

/// The keys that a snapshot shows.
async fn keys_of(store: &TestStore, snapshot: &Snapshot, db: DatabaseIndex) -> Vec<Key> {
    let (view, mut keys) = (View::Snapshot(snapshot), Vec::new());
    let mut walk = Walk::new(view, db, Vec::new(), None);
    while store.walk_step(&mut walk, 200, 0, &mut keys).await.unwrap() {}
    keys
}

fn assert_same(found: &Model, expected: &Model) {
    let differ: Vec<_> = found
        .iter()
        .filter(|(key, value)| expected.get(*key) != Some(value))
        .chain(expected.iter().filter(|(key, _)| !found.contains_key(*key)))
        .map(|(key, _)| {
            (
                key.0,
                std::string::String::from_utf8_lossy(&key.1).into_owned(),
            )
        })
        .collect();
    assert!(differ.is_empty(), "{differ:?}");
}

/// What a snapshot shows.
async fn check_snapshot(store: &TestStore, snapshot: &Snapshot, expected: &Model) {
    let keys = keys_of(store, snapshot, DatabaseIndex(0)).await;
    let found: Vec<_> = keys.iter().map(|key| key.to_vec()).collect();
    let expected = expected.keys().filter(|(db, _)| *db == 0);
    assert_eq!(
        found,
        expected.map(|(_, key)| key.clone()).collect::<Vec<_>>()
    );
}

/// Virtual time passes only while nobody can do anything. Compaction that had done all it might was not told that commits had begun to wait for it, and all waited for its timer.
#[test]
fn compaction_goes_on_at_once_when_commits_begin_to_wait_for_it() {
    let mut random = random(53);
    let disk = formatted(400, 53);
    let mut executor = Executor::new(53);
    let store = open(&mut executor, &disk);
    let clock = executor.clock();
    // Its own compaction finds nothing to do.
    executor.run(async move { clock.sleep_ms(1).await });
    let (worker, clock) = (Rc::clone(&store), executor.clock());
    let works = Rc::new(Cell::new(true));
    let working = Rc::clone(&works);
    store.compaction.pace.set_debt(10 << 20, 1 << 20);
    store.compaction.pace.set_working(true);
    executor.spawn(async move {
        worker.compaction.pace.worked(1 << 20);
        compact::next_turn(&worker, &clock, 1 << 20).await;
        working.set(false);
    });
    let clock = executor.clock();
    executor.run(async move {
        let since_us = clock.monotonic_us();
        while store.compaction_allows() {
            assert!(works.get());
            let value = bytes(&mut random, 100);
            let put = |transaction: &mut Transaction<'_, SimDisk>| {
                transaction.put(DatabaseIndex(0), b"key", value.as_slice(), None);
                Changes::default()
            };
            transact(&store, put).await;
        }
        for _ in 0..100 {
            embassy_futures::yield_now().await;
        }
        assert_eq!((works.get(), clock.monotonic_us()), (false, since_us));
    });
}

/// Who had just been through came before those who waited, again and again: some waited for half a second.
#[test]
fn commits_that_wait_for_room_have_it_in_the_order_of_coming() {
    let disk = formatted(400, 56);
    let mut executor = Executor::new(56);
    let store = open(&mut executor, &disk);
    store.memory_wanted.set(true);
    let (came, went) = (
        Rc::new(RefCell::new(Vec::new())),
        Rc::new(RefCell::new(Vec::new())),
    );
    for number in 0..5 {
        let (store, came, went) = (Rc::clone(&store), Rc::clone(&came), Rc::clone(&went));
        executor.spawn(async move {
            loop {
                came.borrow_mut().push(number);
                store.admit().await;
                went.borrow_mut().push(number);
                // It leaves no room to others, and comes again.
                store.memory_wanted.set(true);
            }
        });
    }
    executor.run(async move {
        for done in 0..20 {
            for _ in 0..20 {
                embassy_futures::yield_now().await;
            }
            assert_eq!(*went.borrow(), came.borrow()[..done]);
            store.memory_wanted.set(false);
            assert!(store.has_room() && store.must_wait(), "who comes now waits");
            store.changed.notify();
        }
    });
}

/// Virtual time passes only while nobody can do anything. A checkpoint waited for a commit's flush to come, while commits waited for the memory that it brings.
#[test]
fn a_checkpoint_that_commits_wait_for_memory_for_waits_for_no_timer() {
    let disk = formatted(400, 58);
    let mut executor = Executor::new(58);
    let store = open(&mut executor, &disk);
    let clock = executor.clock();
    executor.run(async move {
        clock.sleep_ms(1).await;
        for memory_wanted in [false, true] {
            store.memory_wanted.set(memory_wanted);
            let mut admitted = pin!(store.admit());
            assert_eq!(poll_once(admitted.as_mut()).is_pending(), memory_wanted);
            let since_us = clock.monotonic_us();
            super::install::vouch(&store, &clock).await.unwrap();
            let took_us = clock.monotonic_us() - since_us;
            assert_eq!(took_us == 0, memory_wanted, "{took_us} us");
        }
    });
}

/// What a step read before its first turn made commits wait longer that waited for the flush.
#[test]
fn nothing_but_the_flush_reads_while_commits_wait_for_it() {
    let mut random = random(54);
    let disk = formatted(400, 54);
    let mut executor = Executor::new(54);
    let store = open(&mut executor, &disk);
    let clock = executor.clock();
    executor.run(async move {
        for _ in 0..50 {
            commit(&store, &mut random, &mut Model::new(), 100).await;
        }
        flush_all(&store, &clock).await;
        let table = store.engine.tree.borrow().runs()[0].tables[0].clone();
        store.engine.cache.borrow_mut().resize(0, usize::MAX);
        // The flush of what is committed from here on is always under way.
        disk.set_holds(|request| matches!(request, Request::Write(..)));
        store.compaction.is_flushing.set(true);
        store.engine.memtable_bytes_max.set(0);
        while !store.engine.are_memtables_full() {
            let put = |transaction: &mut Transaction<'_, SimDisk>| {
                transaction.put(DatabaseIndex(0), b"key", b"value".as_slice(), None);
                Ok(())
            };
            store.transact(0, 0, put).await.unwrap();
        }
        let (others, flush) = (Chunks::new(&store), Chunks::of_flush(&store));
        let hurried = Chunks::new(&store);
        let head = |chunks| Chunks::get(chunks, table.object, table.head.at(), ChunkKind::Head);
        assert!(head(&flush).await.is_ok());
        let mut reading = pin!(head(&others));
        assert!(poll_once(reading.as_mut()).is_pending());
        clock.sleep_ms(1000).await;
        assert!(poll_once(reading.as_mut()).is_pending());
        // Far behind merges do not wait: there may be nothing but flushes. A sweep does, for which nobody waits.
        store.compaction.pace.set_debt(16 << 20, 1 << 20);
        assert!(head(&hurried).await.is_ok());
        let mut swept = pin!(sweep::free(&store, &clock, [0..1, 2..3].into()));
        for _ in 0..100 {
            assert!(poll_once(swept.as_mut()).is_pending());
            clock.sleep_ms(10).await;
        }
        store.compaction.pace.set_debt(0, 1 << 20);
        assert!(poll_once(reading.as_mut()).is_pending());
        store.compaction.is_flushing.set(false);
        store.changed.notify();
        assert!(reading.await.is_ok());
        assert_eq!(swept.await, Ok(()));
        disk.set_holds(|_| false);
        disk.release();
    });
}

/// Flushes all that is committed.
async fn flush_all(store: &TestStore, clock: &SimClock) {
    while !super::flush::is_all_flushed(store) {
        store.flush_due.set(true);
        store.filesystem.nudge();
        clock.sleep_ms(100).await;
    }
}

/// All that is committed is in the base, and all is freed that nobody needs: then nothing is assumed any more.
async fn settle(store: &TestStore, clock: &SimClock, model: &Model) {
    flush_all(store, clock).await;
    let is_settled = || {
        let tree = store.engine.tree.borrow();
        let is_base = tree.runs().iter().all(|run| run.tier == BASE);
        is_base && tree.runs().len() <= 1
    };
    while !is_settled() || sweep::pending_slots(store) > 0 {
        store.compaction.help.set(Help::Wanted);
        store.changed.notify();
        clock.sleep_ms(100).await;
        assert_eq!(store.compaction.failure(), None);
    }
    for db in 0..2 {
        let keys = model.keys().filter(|(of, _)| *of == db).count() as u64;
        assert_eq!(count(store, DatabaseIndex(db)).await, keys);
    }
    let there = store.filesystem.values(0, 1 << 20).await.unwrap();
    let there = there.iter().map(|range| range.end - range.start);
    let large = model.values().map(Vec::len).filter(|bytes| *bytes >= 512);
    assert_eq!(there.sum::<u64>(), large.sum::<usize>() as u64);
}

/// What is there of values is named by something that was not dropped, or listed as dropped.
async fn check_values(store: &TestStore, clock: &SimClock) {
    flush_all(store, clock).await;
    let mut expected = BTreeSet::new();
    let runs = store.engine.tree.borrow().runs().to_vec();
    let chunks = Chunks::new(store);
    for run in &runs {
        let mut cursor = RunCursor::new(&run.tables, &chunks);
        let newest = Timestamp(u64::MAX);
        chunks.loaded(|| cursor.seek(&[], newest)).await.unwrap();
        while let Some((_, version)) = cursor.current() {
            if let Content::Large(large) = version.content {
                let slots = |piece: Piece| piece.slot..piece.slot + piece.slots();
                expected.extend(large.pieces().into_iter().flat_map(slots));
            }
            chunks.loaded(|| cursor.next()).await.unwrap();
        }
    }
    let tables: Vec<_> = runs.iter().flat_map(|run| &run.tables).cloned().collect();
    let pending: Vec<_> = tables.into_iter().filter(sweep::is_pending).collect();
    for slots in sweep::listed(store, &pending).await.unwrap() {
        expected.extend(slots);
    }
    let there = store.filesystem.values(0, 1 << 20).await.unwrap();
    let there = there.iter().map(|range| range.start / SLOT_BYTES);
    let leaked: Vec<_> = there.filter(|slot| !expected.contains(slot)).collect();
    assert!(leaked.is_empty(), "{leaked:?}");
}

/// Runs there are: of each tier how many, and tables.
fn shape(store: &TestStore) -> (BTreeMap<u8, usize>, usize) {
    let tree = store.engine.tree.borrow();
    let mut tiers = BTreeMap::new();
    for run in tree.runs() {
        *tiers.entry(run.tier).or_default() += 1;
    }
    (tiers, tree.runs().iter().map(|run| run.tables.len()).sum())
}

/// Puts so many keys, in order.
async fn load(store: &TestStore, random: &mut Random, model: &mut Model, keys: u64) {
    for number in 0..keys / 50 {
        let start = random.clone();
        let attempt = |transaction: &mut Transaction<'_, SimDisk>| {
            *random = start.clone();
            let mut changes = Changes::default();
            for key in number * 50..(number + 1) * 50 {
                let key = alloc::format!("key{key:05}").into_bytes();
                let len = random.index(400);
                let value = bytes(random, len);
                transaction.put(DatabaseIndex(0), &key, value.clone(), None);
                changes.written.push(((0, key), Some(value)));
            }
            changes
        };
        transact(store, attempt).await.apply(model);
    }
}

#[test]
fn tables_that_take_the_place_of_others_cost_writers_no_reads() {
    let disk = formatted(600, 1);
    let mut executor = Executor::new(230);
    let store = open(&mut executor, &disk);
    let (clock, counted) = (executor.clock(), disk.clone());
    executor.run(async move {
        let put = |number: u64| {
            let key = counting::number_key(number);
            let store = &store;
            async move {
                let write = |transaction: &mut Transaction<'_, SimDisk>| {
                    transaction.put(DatabaseIndex(0), &key, &[7; 90][..], None);
                    Changes::default()
                };
                transact(store, write).await;
            }
        };
        for number in 0..5000 {
            put(number % 3000).await;
        }
        counting::rest(&store, &clock).await;
        let reads = Rc::new(core::cell::Cell::new(0));
        let count = Rc::clone(&reads);
        counted.set_faults(move |request| {
            count.set(count.get() + u32::from(matches!(request, Request::Read(..))));
            None
        });
        for number in (0..3000).step_by(10) {
            put(number).await;
        }
        assert_eq!(reads.get(), 0);
        assert_eq!(self::count(&store, DatabaseIndex(0)).await, 3000);
    });
}

#[test]
fn readers_see_what_was_committed_through_flushes_steps_sweeps_and_power_cuts() {
    let mut random = random(200);
    for round in 0..2 {
        let mut disk = formatted(600, random.next_u64());
        let mut model = Model::new();
        let mut seen = BTreeSet::new();
        for boot in 0..3 {
            let mut executor = Executor::new(random.next_u64());
            let store = open(&mut executor, &disk);
            let (working, mut inner, before) = (Rc::clone(&store), random.clone(), model.clone());
            let clock = executor.clock();
            let tiers;
            (model, tiers) = executor.run(async move {
                assert_same(&contents(&working).await, &before);
                let (mut model, mut tiers) = (before, BTreeSet::new());
                if boot == 0 {
                    load(&working, &mut inner, &mut model, 20_000).await;
                    assert_same(&contents(&working).await, &model);
                }
                let mut snapshots: Vec<(Snapshot, Model)> = Vec::new();
                for _ in 0..1500 {
                    commit(&working, &mut inner, &mut model, 20_000).await;
                    if inner.one_in(300) {
                        snapshots.push((working.snapshot(), model.clone()));
                    }
                    if inner.one_in(300) && !snapshots.is_empty() {
                        snapshots.swap_remove(inner.index(snapshots.len()));
                    }
                    tiers.extend(shape(&working).0.into_keys());
                }
                assert_same(&contents(&working).await, &model);
                for (snapshot, expected) in &snapshots {
                    check_snapshot(&working, snapshot, expected).await;
                }
                working.wait_durable(working.committed()).await.unwrap();
                if inner.one_in(2) {
                    check_values(&working, &clock).await;
                }
                drop(snapshots);
                if boot == 2 {
                    settle(&working, &clock, &model).await;
                    assert_same(&contents(&working).await, &model);
                }
                (model, tiers)
            });
            let (runs, tables) = shape(&store);
            println!("round {round}, boot {boot}: {runs:?}, {tables} tables");
            seen.extend(tiers);
            assert_eq!(store.compaction.failure(), None);
            random.next_u64();
            disk = disk.snapshot(random.next_u64());
        }
        assert!(
            [0, 1, BASE].iter().all(|tier| seen.contains(tier)),
            "{seen:?}"
        );
    }
}

#[test]
fn in_the_end_the_value_file_holds_what_is_named_and_nothing_else() {
    let mut random = random(201);
    let disk = formatted(600, random.next_u64());
    let mut executor = Executor::new(random.next_u64());
    let store = open(&mut executor, &disk);
    let (working, clock, mut inner) = (Rc::clone(&store), executor.clock(), random.clone());
    executor.run(async move {
        let mut model = Model::new();
        for _ in 0..3000 {
            commit(&working, &mut inner, &mut model, 200).await;
        }
        // All of it meets in the base: nothing is left that only its successor's merge finds out.
        for db in 0..2 {
            let mut loaded = Loaded::default();
            working.admit().await;
            let mut transaction = working.transaction(0, 0, &mut loaded);
            transaction.clear(DatabaseIndex(db));
            transaction.commit().unwrap();
        }
        model.clear();
        for _ in 0..1000 {
            commit(&working, &mut inner, &mut model, 200).await;
        }
        flush_all(&working, &clock).await;
        clock.sleep_ms(60_000).await;
        check_values(&working, &clock).await;
        assert_same(&contents(&working).await, &model);
        settle(&working, &clock, &model).await;
    });
    assert_eq!(store.compaction.failure(), None);
}

#[test]
fn tables_that_cannot_be_read_hold_up_compaction_and_nothing_else() {
    let mut random = random(202);
    // Room for all that comes while nothing can be read, and so nothing is freed.
    let disk = formatted(800, random.next_u64());
    let mut executor = Executor::new(random.next_u64());
    let store = open(&mut executor, &disk);
    let (working, clock, mut inner) = (Rc::clone(&store), executor.clock(), random.clone());
    let failing = disk.clone();
    executor.run(async move {
        let mut model = Model::new();
        load(&working, &mut inner, &mut model, 5000).await;
        flush_all(&working, &clock).await;
        failing.set_faults(|request| {
            matches!(request, Request::Read(..)).then_some(lfs::DeviceError::Io)
        });
        let (horizon, runs) = (working.horizon.get(), shape(&working).0);
        for _ in 0..4 {
            load(&working, &mut inner, &mut model, 5000).await;
        }
        flush_all(&working, &clock).await;
        assert!(working.horizon.get() > horizon);
        let added = shape(&working).0.values().sum::<usize>() - runs.values().sum::<usize>();
        assert!(added > 5, "{added} runs more");
        let failure = working.compaction.failure();
        let is_read = matches!(failure, Some(JobError::Read(ObjectReadError::Device(_))));
        assert!(is_read, "{failure:?}");
        failing.clear_faults();
        clock.sleep_ms(60_000).await;
        assert_eq!(working.compaction.failure(), None);
        settle(&working, &clock, &model).await;
        assert_same(&contents(&working).await, &model);
        working.shutdown().await.unwrap();
        assert_eq!(working.horizon.get(), working.committed());
    });
    let mut executor = Executor::new(1);
    let store = open(&mut executor, &disk.snapshot(1));
    assert_eq!(
        store.stats().replayed_commits,
        0,
        "the last checkpoint has all of it"
    );
}

//! Numbers of keys through range deletes, emptied databases, flushes, merges, expiries and power cuts.
//!
//! Invariants: whoever asks for a number and waits is told what a model says, where nothing had to be assumed; what had to be is right at rest. Nobody waits for ever.

use super::*;

pub(super) const DBS: [DatabaseIndex; 2] = [DatabaseIndex(0), DatabaseIndex(1)];

/// When a key expires, if it does.
pub(super) type Keys = BTreeMap<(u8, Vec<u8>), Option<i64>>;

pub(super) fn number_key(number: u64) -> Vec<u8> {
    alloc::format!("key{number:05}").into_bytes()
}

pub(super) struct Load {
    pub(super) keys: u64,
    /// Part of writes that expire soon.
    pub(super) expiring: bool,
    pub(super) clock: SimClock,
}

/// One random commit.
pub(super) async fn change(store: &TestStore, random: &mut Random, model: &mut Keys, load: &Load) {
    let start = random.clone();
    store.admit().await;
    let now_ms = load.clock.unix_ms();
    let attempt = |transaction: &mut Transaction<'_, SimDisk>| {
        *random = start.clone();
        let mut changes = Vec::new();
        let db = u8::from(random.one_in(2));
        let index = DatabaseIndex(db);
        if random.one_in(400) {
            transaction.clear(index);
            changes.push(Change::Delete(Vec::new(), None));
        }
        if random.one_in(60) {
            let from = random.below(load.keys);
            let most = if random.one_in(3) { load.keys } else { 50 };
            let (from, to) = (number_key(from), number_key(from + random.below(most)));
            transaction.delete_range(index, &from, &to);
            changes.push(Change::Delete(from, Some(to)));
        }
        for _ in 0..=random.below(12) {
            let key = number_key(random.below(load.keys));
            if random.one_in(4) {
                transaction.delete(index, &key)?;
                let behind = [&key[..], &[0]].concat();
                changes.push(Change::Delete(key, Some(behind)));
                continue;
            }
            let expires = (load.expiring && random.one_in(3))
                .then(|| now_ms + 1 + i64::try_from(random.below(2000)).unwrap());
            let len = random.index(300);
            transaction.put(index, &key, bytes(random, len), expires);
            changes.push(Change::Put(key, expires));
        }
        Ok((db, changes))
    };
    let ((db, changes), _) = store.transact(now_ms, 0, attempt).await.unwrap();
    for change in changes {
        match change {
            Change::Put(key, expires) => _ = model.insert((db, key), expires),
            Change::Delete(from, to) => {
                let end = to.map_or((db + 1, Vec::new()), |to| (db, to));
                let range = (db, from)..end;
                let gone: Vec<_> = if range.is_empty() {
                    Vec::new()
                } else {
                    model.range(range).map(|(key, _)| key.clone()).collect()
                };
                for key in gone {
                    model.remove(&key);
                }
            }
        }
    }
}

/// What a commit changes, in its order.
enum Change {
    Put(Vec<u8>, Option<i64>),
    /// From here to there, or to the end.
    Delete(Vec<u8>, Option<Vec<u8>>),
}

pub(super) fn live(model: &Keys, db: DatabaseIndex, now_ms: i64) -> u64 {
    let of_db = model.iter().filter(|((of, _), _)| *of == db.0);
    let live = of_db.filter(|(_, at)| at.is_none_or(|at| at > now_ms));
    live.count() as u64
}

fn uncertain(store: &TestStore) -> u16 {
    store.engine.recounts.borrow().uncertain()
}

/// All that is committed is in the base.
pub(super) async fn rest(store: &TestStore, clock: &SimClock) {
    flush_all(store, clock).await;
    let is_settled = || {
        let tree = store.engine.tree.borrow();
        tree.runs().len() <= 1 && tree.runs().iter().all(|run| run.tier == BASE)
    };
    while !is_settled() {
        store.compaction.help.set(Help::Wanted);
        store.changed.notify();
        clock.sleep_ms(100).await;
        assert_eq!(store.compaction.failure(), None);
    }
}

#[test]
fn numbers_are_right_whatever_is_deleted_by_ranges_and_emptied_meanwhile() {
    let mut random = random(210);
    let mut walks = 0;
    for _ in 0..3 {
        let mut disk = formatted(600, random.next_u64());
        let mut model = Keys::new();
        for _boot in 0..3 {
            let mut executor = Executor::new(random.next_u64());
            let store = open(&mut executor, &disk);
            let (working, mut inner, mut keys) = (Rc::clone(&store), random.clone(), model.clone());
            let load = Load {
                keys: 3000,
                expiring: false,
                clock: executor.clock(),
            };
            let counted;
            (model, counted) = executor.run(async move {
                let mut counted = 0;
                for db in DBS {
                    assert_eq!(
                        count(&working, db).await,
                        live(&keys, db, 0),
                        "after opening"
                    );
                }
                for _ in 0..1000 {
                    change(&working, &mut inner, &mut keys, &load).await;
                    if inner.one_in(30) {
                        counted += u64::from(uncertain(&working) != 0);
                        for db in DBS {
                            assert_eq!(count(&working, db).await, live(&keys, db, 0));
                        }
                        assert_eq!(uncertain(&working), 0);
                    }
                }
                working.wait_durable(working.committed()).await.unwrap();
                (keys, counted)
            });
            walks += counted;
            random.next_u64();
            disk = disk.snapshot(random.next_u64());
        }
    }
    assert!(walks > 50, "{walks} were counted anew");
}

#[test]
fn at_rest_numbers_are_right_though_keys_expired_while_they_were_counted() {
    let mut random = random(211);
    for _ in 0..2 {
        let disk = formatted(600, random.next_u64());
        let mut executor = Executor::new(random.next_u64());
        let store = open(&mut executor, &disk);
        let (working, mut inner) = (Rc::clone(&store), random.clone());
        let clock = executor.clock();
        let load = Load {
            keys: 6000,
            expiring: true,
            clock: executor.clock(),
        };
        executor.run(async move {
            let mut keys = Keys::new();
            for round in 0..6 {
                for _ in 0..500 {
                    change(&working, &mut inner, &mut keys, &load).await;
                    if inner.one_in(20) {
                        clock.sleep_ms(inner.below(100)).await;
                    }
                }
                if round % 2 == 0 {
                    // Nobody waits: it goes on beside what comes next.
                    continue;
                }
                // Later than all of them.
                clock.sleep_ms(5000).await;
                let now_ms = clock.unix_ms();
                working.store_time(now_ms);
                rest(&working, &clock).await;
                rest_base(&working, &clock, now_ms).await;
                for db in DBS {
                    assert_eq!(count(&working, db).await, live(&keys, db, now_ms));
                }
            }
        });
        random.next_u64();
    }
}

impl TestStore {
    /// The store is told what time it is.
    fn store_time(&self, now_ms: i64) {
        self.now_ms.set(self.now_ms.get().max(now_ms));
    }
}

/// Nothing that has expired is left in tables.
async fn rest_base(store: &TestStore, clock: &SimClock, now_ms: i64) {
    let has_expired = || {
        let tree = store.engine.tree.borrow();
        let mut tables = tree.runs().iter().flat_map(|run| &run.tables);
        tables.any(|table| table.stats.expiring > 0 && table.stats.least_expiry_ms <= now_ms)
    };
    while has_expired() {
        while store.reclaim_expired(now_ms, 64).await.unwrap() > 0 {}
        rest(store, clock).await;
        clock.sleep_ms(5000).await;
    }
}

#[test]
fn after_a_power_cut_at_any_time_numbers_are_those_of_the_keys_there_are() {
    let mut random = random(212);
    let disk = formatted(300, random.next_u64());
    let mut executor = Executor::new(random.next_u64());
    let store = open(&mut executor, &disk);
    let (working, mut inner) = (Rc::clone(&store), random.clone());
    let load = Load {
        keys: 1500,
        expiring: false,
        clock: executor.clock(),
    };
    executor.run(async move {
        let mut keys = Keys::new();
        for _ in 0..400 {
            change(&working, &mut inner, &mut keys, &load).await;
            if inner.one_in(40) {
                count(&working, DatabaseIndex(0)).await;
            }
        }
    });
    let (events, mut uncertain_ones) = (disk.event_count(), 0);
    for _ in 0..60 {
        let crash = disk.crash_at(random.index(events));
        let survives = random.next_u64();
        let disk = crash.disk(|sector| survives >> (sector % 64) & 1 != 0, survives);
        let mut executor = Executor::new(random.next_u64());
        let store = open(&mut executor, &disk);
        uncertain_ones += u32::from(uncertain(&store) != 0);
        let working = Rc::clone(&store);
        executor.run(async move {
            for db in DBS {
                let snapshot = working.snapshot();
                let keys = keys_of(&working, &snapshot, db).await.len() as u64;
                assert_eq!(count(&working, db).await, keys);
            }
        });
    }
    assert!(uncertain_ones > 5, "{uncertain_ones} had to be counted");
}

/// A store with so many keys in tables and none in memory, a tenth of which has been deleted by a range.
fn with_range_deleted(executor: &mut Executor, disk: &SimDisk, keys: u64) -> Rc<TestStore> {
    let store = open(executor, disk);
    let (working, clock) = (Rc::clone(&store), executor.clock());
    executor.run(async move {
        let mut model = Model::new();
        load(&working, &mut Random::new(1), &mut model, keys).await;
        flush_all(&working, &clock).await;
        let delete = |transaction: &mut Transaction<'_, SimDisk>| {
            let (from, to) = (number_key(0), number_key(keys / 10));
            transaction.delete_range(DatabaseIndex(0), &from, &to);
            Ok(())
        };
        let ((), deleted) = working.transact(0, 0, delete).await.unwrap();
        working.wait_durable(deleted).await.unwrap();
    });
    store
}

#[test]
fn nobody_waits_for_what_cannot_be_read_and_it_is_counted_when_it_can_be() {
    let disk = formatted(600, 1);
    let mut executor = Executor::new(213);
    drop(with_range_deleted(&mut executor, &disk, 20_000));
    // Nothing is in memory any more.
    let disk = disk.snapshot(1);
    let mut executor = Executor::new(1);
    let store = open(&mut executor, &disk);
    let (working, clock, failing) = (Rc::clone(&store), executor.clock(), disk.clone());
    failing
        .set_faults(|request| matches!(request, Request::Read(..)).then_some(lfs::DeviceError::Io));
    executor.run(async move {
        assert_eq!(working.stats().keys_estimated, 1);
        assert_eq!(count(&working, DatabaseIndex(0)).await, 20_000);
        assert_eq!(working.stats().keys_estimated, 1);
        failing.clear_faults();
        clock.sleep_ms(30_000).await;
        assert_eq!(working.stats().keys_estimated, 0);
        assert_eq!(count(&working, DatabaseIndex(0)).await, 18_000);
    });
}

#[test]
fn a_walk_stops_for_shutdown_and_whoever_waits_is_let_go() {
    let disk = formatted(600, 1);
    let mut executor = Executor::new(214);
    let store = with_range_deleted(&mut executor, &disk, 20_000);
    let (working, waiting) = (Rc::clone(&store), Rc::clone(&store));
    let counted = Rc::new(core::cell::Cell::new(None));
    let told = Rc::clone(&counted);
    disk.set_holds(|request| matches!(request, Request::Read(..)));
    executor.spawn(async move { told.set(Some(count(&waiting, DatabaseIndex(0)).await)) });
    let (clock, held) = (executor.clock(), disk.clone());
    executor.run(async move {
        clock.sleep_ms(10).await;
        // What is being read comes to its end.
        held.set_holds(|_| false);
        held.release();
        working.shutdown().await.unwrap();
        clock.sleep_ms(1).await;
    });
    assert!(counted.get().is_some());
    // It is known, or noted that it is not.
    let mut executor = Executor::new(1);
    let store = open(&mut executor, &disk.snapshot(1));
    let number = executor.run(async move { count(&store, DatabaseIndex(0)).await });
    assert_eq!(number, 18_000);
}

#[test]
fn a_number_that_was_found_out_need_not_be_after_a_restart() {
    let disk = formatted(600, 1);
    let mut executor = Executor::new(215);
    let store = with_range_deleted(&mut executor, &disk, 5000);
    let (working, clock) = (Rc::clone(&store), executor.clock());
    executor.run(async move {
        assert_eq!(count(&working, DatabaseIndex(0)).await, 4500);
        // The range delete is in the log alone.
        assert_ne!(
            working
                .engine
                .recounts
                .borrow()
                .uncertain_at(working.horizon.get()),
            0
        );
        flush_all(&working, &clock).await;
    });
    let mut executor = Executor::new(1);
    let store = open(&mut executor, &disk.snapshot(1));
    assert_eq!(uncertain(&store), 0);
    let number = executor.run(async move { count(&store, DatabaseIndex(0)).await });
    assert_eq!(number, 4500);
}

#[test]
fn keys_are_counted_while_range_deletes_come() {
    let disk = formatted(600, 1);
    let mut executor = Executor::new(216);
    let store = with_range_deleted(&mut executor, &disk, 10_000);
    let working = Rc::clone(&store);
    let (deleting, done) = (Rc::clone(&store), Rc::new(core::cell::Cell::new(false)));
    let (is_done, clock) = (Rc::clone(&done), executor.clock());
    executor.spawn(async move {
        let mut random = Random::new(3);
        while !is_done.get() {
            deleting.admit().await;
            let delete = |transaction: &mut Transaction<'_, SimDisk>| {
                let from = random.below(10_000);
                let (from, to) = (number_key(from), number_key(from + 2));
                transaction.delete_range(DatabaseIndex(0), &from, &to);
                Ok(())
            };
            deleting.transact(0, 0, delete).await.unwrap();
            clock.sleep_ms(1).await;
        }
    });
    executor.run(async move {
        for _ in 0..20 {
            assert!(count(&working, DatabaseIndex(0)).await <= 9000);
        }
        done.set(true);
        let snapshot = working.snapshot();
        let keys = keys_of(&working, &snapshot, DatabaseIndex(0)).await;
        assert_eq!(count(&working, DatabaseIndex(0)).await, keys.len() as u64);
    });
}

//! Keys that expire, wherever they are.
//!
//! Invariants: what has expired is deleted though nobody asks for it, also after a restart, when the queue had no room for it, and behind what cannot be read; what does not
//! expire soon is not read for that.

use core::cell::RefCell;

use super::counting::{DBS, number_key};
use super::*;

/// Puts keys that expire at `at_ms` and a bit later, so many in a commit.
async fn put_expiring(store: &TestStore, numbers: core::ops::Range<u64>, at_ms: i64) {
    let numbers: Vec<_> = numbers.collect();
    for numbers in numbers.chunks(100) {
        store.admit().await;
        let put = |transaction: &mut Transaction<'_, SimDisk>| {
            for number in numbers {
                let expires = Some(at_ms + i64::try_from(*number).unwrap() % 100);
                transaction.put(
                    DatabaseIndex(0),
                    &number_key(*number),
                    &[7; 90][..],
                    expires,
                );
            }
            Ok(())
        };
        store.transact(0, 0, put).await.unwrap();
    }
}

/// Lets time go by, and deletes what has expired, as a server does; how many keys it deleted.
async fn go_on(store: &TestStore, clock: &SimClock, ms: u64) -> u64 {
    let before = store.stats().expired_keys;
    let end_ms = clock.unix_ms() + i64::try_from(ms).unwrap();
    while clock.unix_ms() < end_ms {
        clock.sleep_ms(100).await;
        loop {
            store.admit().await;
            if store.reclaim_expired(clock.unix_ms(), 64).await.unwrap() < 64 {
                break;
            }
        }
    }
    store.stats().expired_keys - before
}

/// How many keys there are, when all is where it is not assumed what is below.
async fn settled_count(store: &TestStore, clock: &SimClock) -> u64 {
    let snapshot = store.snapshot();
    let keys = keys_of(store, &snapshot, DatabaseIndex(0)).await.len() as u64;
    counting::rest(store, clock).await;
    assert_eq!(count(store, DatabaseIndex(0)).await, keys);
    keys
}

/// A disk with keys in runs that all expire at that time, and as many that never do.
fn with_expiring(keys: u64, at_ms: i64) -> SimDisk {
    let disk = formatted(600, 1);
    let mut executor = Executor::new(220);
    let store = open(&mut executor, &disk);
    let clock = executor.clock();
    executor.run(async move {
        put_expiring(&store, 0..keys, clock.unix_ms() + at_ms).await;
        let mut model = Model::new();
        load(&store, &mut Random::new(1), &mut model, 50).await;
        flush_all(&store, &clock).await;
        store.shutdown().await.unwrap();
    });
    disk.snapshot(1)
}

#[test]
fn after_a_restart_keys_in_runs_expire() {
    let disk = with_expiring(5000, 20_000);
    let mut executor = Executor::new(221);
    let store = open(&mut executor, &disk);
    let clock = executor.clock();
    assert_eq!(store.stats().replayed_commits, 0, "they are in runs");
    executor.run(async move {
        // Some merge may have dropped others.
        let deleted = go_on(&store, &clock, 21_000).await;
        assert!((4500..=5000).contains(&deleted), "{deleted}");
        assert_eq!(settled_count(&store, &clock).await, 50);
        assert!(store.engine.expiries.borrow().known_until() > clock.unix_ms());
        assert_eq!(store.engine.expiries.borrow().next(), None);
    });
}

#[test]
fn a_walk_finds_all_that_expires_soon_in_memtables_and_tables() {
    let disk = formatted(600, 1);
    let mut executor = Executor::new(229);
    let store = open(&mut executor, &disk);
    let clock = executor.clock();
    executor.run(async move {
        let now_ms = clock.unix_ms();
        put_expiring(&store, 0..20_000, now_ms + 3_000_000).await;
        counting::rest(&store, &clock).await;
        // Some other tables of the same keys, and memtables.
        put_expiring(&store, 5000..9000, now_ms + 2_000_000).await;
        put_expiring(&store, 12_000..12_500, now_ms + 100 * 3_600_000).await;
        put_expiring(&store, 20_000..20_100, now_ms + 1_000_000).await;
        let tables = shape(&store).1;
        assert!(tables > 5, "{tables} tables");
        for moves in [false, true] {
            *store.engine.expiries.borrow_mut() = crate::expiry::ExpiryQueue::new(i64::MIN);
            // What time it is a store is told.
            assert_eq!(store.reclaim_expired(clock.unix_ms(), 64).await, Ok(0));
            clock.sleep_ms(1500).await;
            if moves {
                counting::rest(&store, &clock).await;
            }
            while store.engine.expiries.borrow().known_until() < now_ms {
                clock.sleep_ms(100).await;
            }
            let expiries = store.engine.expiries.borrow();
            let known = expiries.due(i64::MAX);
            let known: BTreeSet<_> = known.map(|(at, key)| (at, key.to_vec())).collect();
            for number in (0..20_100).filter(|number| !(12_000..12_500).contains(number)) {
                let key = [&[0][..], &number_key(number)].concat();
                let at = now_ms + i64::try_from(number % 100).unwrap();
                let at = match number {
                    5000..9000 => at + 2_000_000,
                    20_000.. => at + 1_000_000,
                    _ => at + 3_000_000,
                };
                assert!(known.contains(&(at, key)), "key {number}, {moves}");
            }
        }
    });
}

#[test]
fn what_expires_late_is_not_read_for_it() {
    let disk = with_expiring(5000, 24 * 3_600_000);
    let mut executor = Executor::new(222);
    let store = open(&mut executor, &disk);
    let (clock, failing) = (executor.clock(), disk.clone());
    let reads = Rc::new(core::cell::Cell::new(0));
    let count = Rc::clone(&reads);
    executor.run(async move {
        // What an opening leaves to be done is done.
        clock.sleep_ms(5000).await;
        failing.set_faults(move |request| {
            count.set(count.get() + u32::from(matches!(request, Request::Read(..))));
            None
        });
        assert_eq!(go_on(&store, &clock, 10_000).await, 0);
        assert_eq!(reads.get(), 0);
        assert!(store.engine.expiries.borrow().known_until() > clock.unix_ms());
        failing.clear_faults();
        assert!(go_on(&store, &clock, 25 * 3_600_000).await > 1000);
        assert_eq!(settled_count(&store, &clock).await, 50);
    });
}

#[test]
fn keys_that_had_no_room_in_the_queue_expire_after_all() {
    let disk = formatted(2000, 1);
    let mut executor = Executor::new(223);
    let store = open(&mut executor, &disk);
    let clock = executor.clock();
    executor.run(async move {
        let keys = 80_000;
        put_expiring(&store, 0..keys, clock.unix_ms() + 100_000).await;
        let expiries = &store.engine.expiries;
        assert!(
            expiries.borrow().known_until() < clock.unix_ms() + 200_000,
            "some had none"
        );
        let deleted = go_on(&store, &clock, 400_000).await;
        // Merges have dropped the others.
        let keys_there = count(&store, DatabaseIndex(0)).await;
        assert_eq!(keys_there, 0, "{deleted} deleted");
    });
}

#[test]
fn what_cannot_be_read_holds_up_nothing_behind_it() {
    let disk = formatted(600, 1);
    let mut executor = Executor::new(224);
    let store = open(&mut executor, &disk);
    let (clock, failing) = (executor.clock(), disk.clone());
    executor.run(async move {
        let now_ms = clock.unix_ms();
        put_expiring(&store, 0..500, now_ms + 1000).await;
        flush_all(&store, &clock).await;
        // These are in memory.
        put_expiring(&store, 500..600, now_ms + 5000).await;
        store.engine.cache.borrow_mut().resize(0, usize::MAX);
        failing.set_faults(|request| {
            matches!(request, Request::Read(..)).then_some(lfs::DeviceError::Io)
        });
        let deleted = go_on(&store, &clock, 20_000).await;
        assert_eq!(deleted, 100);
        failing.clear_faults();
        let deleted = go_on(&store, &clock, 200_000).await;
        assert_eq!(deleted, 500, "they are tried again");
        assert_eq!(count(&store, DatabaseIndex(0)).await, 0);
    });
}

#[test]
fn a_walk_goes_around_tables_that_cannot_be_read() {
    let disk = with_expiring(20_000, 20_000);
    // Which blocks are read by a walk.
    let read = Rc::new(RefCell::new(BTreeSet::new()));
    let (noted, tried) = (Rc::clone(&read), disk.snapshot(2));
    let mut executor = Executor::new(225);
    let store = open(&mut executor, &tried);
    let clock = executor.clock();
    tried.set_faults(move |request| {
        if let Request::Read(block, count) = request {
            noted
                .borrow_mut()
                .extend((0..count as u64).map(|at| block.0 + at));
        }
        None
    });
    executor.run(async move { go_on(&store, &clock, 10_000).await });
    let read: Vec<_> = read.borrow().iter().copied().collect();
    assert!(read.len() > 30, "{} blocks", read.len());
    // One of them, far inside a table: about as many keys are before it as blocks.
    let bad = read[read.len() / 4 * 3];
    let mut executor = Executor::new(226);
    let store = open(&mut executor, &disk);
    let clock = executor.clock();
    disk.set_faults(move |request| {
        let Request::Read(block, count) = request else {
            return None;
        };
        let has_bad = (block.0..block.0 + count as u64).contains(&bad);
        has_bad.then_some(lfs::DeviceError::Io)
    });
    let healed = disk.clone();
    executor.run(async move {
        let deleted = go_on(&store, &clock, 120_000).await;
        let known_until = store.engine.expiries.borrow().known_until();
        assert!(known_until > clock.unix_ms(), "it came to its end");
        assert!((10_000..19_950).contains(&deleted), "{deleted}");
        healed.clear_faults();
        go_on(&store, &clock, 8_000_000).await;
        assert_eq!(settled_count(&store, &clock).await, 50);
    });
}

#[test]
fn a_walk_for_expiries_stops_for_shutdown() {
    let disk = with_expiring(20_000, 20_000);
    let mut executor = Executor::new(227);
    let store = open(&mut executor, &disk);
    let clock = executor.clock();
    executor.run(async move {
        store.reclaim_expired(clock.unix_ms(), 1).await.unwrap();
        // It has begun.
        clock.sleep_ms(200).await;
        assert_eq!(store.engine.expiries.borrow().known_until(), i64::MIN);
        assert!(store.engine.expiries.borrow().next().is_some());
        let since_us = clock.monotonic_us();
        store.shutdown().await.unwrap();
        assert!(clock.monotonic_us() - since_us < 500_000);
    });
}

#[test]
fn keys_expire_while_all_is_moved_about_and_deleted_by_ranges() {
    let disk = formatted(600, 1);
    let mut executor = Executor::new(228);
    let store = open(&mut executor, &disk);
    let clock = executor.clock();
    executor.run(async move {
        let mut random = Random::new(5);
        let mut model = counting::Keys::new();
        let load = counting::Load {
            keys: 4000,
            expiring: true,
            clock: clock.clone(),
        };
        for _ in 0..800 {
            counting::change(&store, &mut random, &mut model, &load).await;
            if random.one_in(50) {
                // As if it had been opened now.
                *store.engine.expiries.borrow_mut() = crate::expiry::ExpiryQueue::new(i64::MIN);
            }
            if random.one_in(10) {
                store.reclaim_expired(clock.unix_ms(), 64).await.unwrap();
                clock.sleep_ms(random.below(60)).await;
            }
        }
        go_on(&store, &clock, 60_000).await;
        // What is there still to be set right is.
        counting::rest(&store, &clock).await;
        for db in DBS {
            let live = counting::live(&model, db, clock.unix_ms());
            assert_eq!(count(&store, db).await, live);
        }
    });
}

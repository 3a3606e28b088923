//! Memory full, disk full, device failing: an error to the caller, nothing lost, deletes go on.

use crate::common;

use std::cell::Cell;
use std::rc::Rc;

use crate::common::{
    all_in, contents, formatted, formatted_of_any_kind, open, put, seed, transact, value_of,
};
use kvstore::{CommitError, DatabaseIndex, Loaded, View, Walk};
use lfs::sim::{Executor, Random, Request};
use lfs::{Clock, DeviceError};

const DB: DatabaseIndex = DatabaseIndex(0);

async fn delete(store: &common::TestStore, number: u32) {
    let done = transact(store, 0, |transaction| {
        transaction.delete(DB, &number.to_be_bytes())
    });
    assert!(done.await.unwrap().0);
}

#[test]
fn a_full_disk_refuses_growth_keeps_everything_and_takes_deletes() {
    let seed = seed(41);
    let disk = formatted(256, seed);
    let mut executor = Executor::new(seed);
    let store = open(&mut executor, &disk).unwrap();
    let (working, clock) = (Rc::clone(&store), executor.clock());
    let expected = executor.run(async move {
        for round in 0..5 {
            let mut count = 0;
            while put(&working, count, 1000).await.is_ok() {
                count += 1;
            }
            assert!(count > 50, "round {round}: {count}");
            assert_eq!(put(&working, count, 1000).await, Err(CommitError::DiskFull));
            // Overwriting with the same size is no growth: it goes on for ever.
            for number in 0..2000 {
                put(&working, number % count, 1000).await.unwrap();
            }
            assert_eq!(working.stats().keys[0], u64::from(count));
            for number in 0..count - 10 {
                delete(&working, number).await;
            }
            clock.sleep_ms(60_000).await;
            for number in count - 10..count {
                delete(&working, number).await;
            }
        }
        put(&working, 1, 1000).await.unwrap();
        working.wait_durable(working.committed()).await.unwrap();
        all_in(&working).await
    });
    let mut executor = Executor::new(seed);
    let store = open(&mut executor, &disk.snapshot(0)).unwrap();
    assert!(contents(&mut executor, &store) == expected);
}

#[test]
fn a_full_disk_takes_overwrites_of_keys_that_are_not_in_memory() {
    let seed = seed(44);
    let disk = formatted(1500, seed);
    let mut executor = Executor::new(seed);
    let store = open(&mut executor, &disk).unwrap();
    store.set_memory_bytes_max(kvstore::MEMORY_BYTES_MIN);
    executor.run(async move {
        let mut count = 0;
        while put(&store, count, 1000).await.is_ok() {
            count += 1;
        }
        assert!(count > 20_000, "{count}");
        let mut random = Random::new(seed);
        for done in 0..2 * count {
            let number = random.below(u64::from(count)) as u32;
            let put = put(&store, number, 1000).await;
            assert!(put.is_ok(), "{put:?} after {done} of {count} keys");
        }
        assert_eq!(put(&store, count, 1000).await, Err(CommitError::DiskFull));
        assert_eq!(store.stats().keys[0], u64::from(count));
    });
}

/// Virtual time passes only while nobody can do anything. The disk of the test takes none, so whoever waits does so for a timer, which is there for those who are in no hurry.
#[test]
fn who_waits_for_room_waits_for_the_disk_and_for_no_timer() {
    let seed = seed(45);
    let disk = formatted(512, seed);
    let mut executor = Executor::new(seed);
    let store = open(&mut executor, &disk).unwrap();
    let clock = executor.clock();
    executor.run(async move {
        let mut longest_us = 0;
        let mut timed = async |number| {
            let before_us = clock.monotonic_us();
            let put = put(&store, number, 1000).await;
            longest_us = longest_us.max(clock.monotonic_us() - before_us);
            put
        };
        let mut count = 0;
        while timed(count).await.is_ok() {
            count += 1;
        }
        assert!(count > 1000, "{count}");
        for number in 0..2000 {
            timed(number % count).await.unwrap();
        }
        assert_eq!(longest_us, 0);
    });
}

#[test]
fn data_is_larger_than_memory_by_any_factor_and_memory_stays_within_its_limit() {
    const MEMORY: usize = 2 << 20;
    let seed = seed(42);
    let disk = formatted(2000, seed);
    let mut executor = Executor::new(seed);
    let store = open(&mut executor, &disk).unwrap();
    store.set_memory_bytes_max(MEMORY);
    let working = Rc::clone(&store);
    executor.run(async move {
        for number in 0..40_000 {
            put(&working, number, 300).await.unwrap();
            let used = working.stats().memory_bytes;
            assert!(used <= MEMORY, "{used}");
        }
        // Where it is not known without reading whether a key is there, it is taken to be.
        let count = working.stats().keys[0];
        assert!((38_000..=40_000).contains(&count), "{count}");
        let mut random = Random::new(seed);
        for _ in 0..2000 {
            let number = random.below(50_000) as u32;
            let found = value_of(&working, DB, &number.to_be_bytes()).await;
            assert_eq!(
                found.map(|entry| entry.value.len()),
                (number < 40_000).then_some(300)
            );
            let used = working.stats().memory_bytes;
            assert!(used <= MEMORY, "{used}");
        }
        working.wait_durable(working.committed()).await.unwrap();
    });
    let mut executor = Executor::new(0);
    let store = open(&mut executor, &disk.snapshot(0)).unwrap();
    executor.run(async move {
        let (snapshot, mut keys) = (store.snapshot(), Vec::new());
        let mut walk = Walk::new(View::Snapshot(&snapshot), DB, Vec::new(), None);
        while store
            .walk_step(&mut walk, 1000, 0, &mut keys)
            .await
            .unwrap()
        {}
        assert_eq!(keys.len(), 40_000);
    });
}

#[test]
fn a_transaction_past_the_limit_is_refused_whole() {
    let disk = formatted(128, 1);
    let mut executor = Executor::new(1);
    let store = open(&mut executor, &disk).unwrap();
    let max = store.limits().commit_bytes_max;
    let mut loaded = Loaded::default();
    let mut transaction = store.transaction(0, 0, &mut loaded);
    transaction.put(DB, b"small", &b"1"[..], None);
    transaction.put(DB, b"large", vec![0; max], None);
    assert_eq!(transaction.commit(), Err(CommitError::TooLarge));
    assert!(contents(&mut executor, &store).is_empty());
    let mut loaded = Loaded::default();
    let mut transaction = store.transaction(0, 0, &mut loaded);
    transaction.put(DB, b"large", vec![0; max - 64], None);
    assert!(transaction.commit().is_ok());
}

#[test]
fn a_failing_device_loses_nothing_acknowledged_and_reads_go_on() {
    let seed = seed(43);
    for round in 0..40 {
        let mut random = Random::new(seed + round);
        let disk = formatted_of_any_kind(128, random.next_u64());
        let mut executor = Executor::new(random.next_u64());
        let store = open(&mut executor, &disk).unwrap();
        let fail_after = random.below(200);
        let requests = Cell::new(0);
        disk.set_faults(move |request| {
            let counts = !matches!(request, Request::Read(..));
            requests.set(requests.get() + u64::from(counts));
            (counts && requests.get() > fail_after).then_some(DeviceError::Io)
        });
        let working = Rc::clone(&store);
        let acknowledged = executor.run(async move {
            let mut acknowledged = 0;
            for number in 0.. {
                if put(&working, number, 2000).await.is_err() {
                    break;
                }
                if working.wait_durable(working.committed()).await.is_err() {
                    break;
                }
                acknowledged = number + 1;
            }
            assert_eq!(put(&working, 0, 1).await, Err(CommitError::ReadOnly));
            assert!(working.stats().read_only);
            for number in 0..acknowledged {
                let key = u32::to_be_bytes(number);
                assert!(value_of(&working, DB, &key).await.is_some());
            }
            assert!(working.shutdown().await.is_err() || working.durable() == working.committed());
            acknowledged
        });
        disk.clear_faults();
        let crash = disk.crash_at(disk.event_count());
        let after = crash.disk(|_| random.one_in(2), 0);
        let store = open(&mut Executor::new(0), &after).unwrap();
        assert!(
            store.stats().keys[0] >= u64::from(acknowledged),
            "round {round}"
        );
    }
}

#[test]
fn expired_keys_vanish_at_once_and_are_reclaimed_in_batches() {
    let disk = formatted(128, 1);
    let mut executor = Executor::new(1);
    let store = open(&mut executor, &disk).unwrap();
    let mut loaded = Loaded::default();
    let mut transaction = store.transaction(0, 0, &mut loaded);
    for number in 0..100_u8 {
        transaction.put(DB, &[number], &b"v"[..], Some(1000 + i64::from(number)));
    }
    transaction.put(DB, b"dead on arrival", &b"v"[..], Some(0));
    transaction.commit().unwrap();
    let mut loaded = Loaded::default();
    let mut transaction = store.transaction(1050, 0, &mut loaded);
    assert!(transaction.get(DB, &[50]).unwrap().is_none());
    assert!(transaction.get(DB, &[51]).unwrap().is_some());
    assert_eq!(transaction.count(DB), Ok(100));
    let mut keys = Vec::new();
    transaction.keys_after(DB, None, 1000, &mut keys).unwrap();
    assert_eq!(keys.len(), 49);
    drop(transaction);
    let working = Rc::clone(&store);
    executor.run(async move {
        assert_eq!(working.reclaim_expired(1050, 30).await, Ok(30));
        assert_eq!(working.reclaim_expired(1050, 30).await, Ok(21));
        assert_eq!(working.reclaim_expired(1050, 30).await, Ok(0));
    });
    assert_eq!(
        (store.stats().keys[0], store.stats().expired_keys),
        (49, 51)
    );
}

#[test]
fn a_transaction_that_was_overtaken_is_refused() {
    let disk = formatted(128, 1);
    let mut executor = Executor::new(1);
    let store = open(&mut executor, &disk).unwrap();
    let mut first_loaded = Loaded::default();
    let mut first = store.transaction(0, 0, &mut first_loaded);
    first.put(DB, b"k", &b"first"[..], None);
    let mut second_loaded = Loaded::default();
    let mut second = store.transaction(0, 0, &mut second_loaded);
    second.put(DB, b"k", &b"second"[..], None);
    second.commit().unwrap();
    // Whatever else is asked of the store while a transaction lives is answered.
    assert_eq!(store.stats().keys[0], 1);
    assert_eq!(first.commit(), Err(CommitError::Conflict));
}

#[test]
fn a_scan_sees_what_its_transaction_did() {
    let disk = formatted(128, 1);
    let mut executor = Executor::new(1);
    let store = open(&mut executor, &disk).unwrap();
    let mut loaded = Loaded::default();
    let mut transaction = store.transaction(0, 0, &mut loaded);
    for key in [b"a", b"b", b"c"] {
        transaction.put(DB, key, &b"1"[..], None);
    }
    transaction.commit().unwrap();
    let mut loaded = Loaded::default();
    let mut transaction = store.transaction(0, 0, &mut loaded);
    transaction.delete(DB, b"a").unwrap();
    transaction.put(DB, b"b", &b"2"[..], None);
    transaction.put(DB, b"d", &b"2"[..], None);
    let (mut keys, mut cursor) = (Vec::new(), 0);
    loop {
        cursor = transaction.scan(DB, cursor, 1, &mut keys).unwrap();
        if cursor == 0 {
            break;
        }
    }
    keys.sort();
    assert_eq!(
        keys.iter().map(|key| &key[..]).collect::<Vec<_>>(),
        [b"b", b"c", b"d"]
    );
    transaction.clear(DB);
    transaction.put(DB, b"e", &b"2"[..], None);
    keys.clear();
    assert_eq!(transaction.scan(DB, 0, 10, &mut keys), Ok(0));
    assert_eq!(keys.iter().map(|key| &key[..]).collect::<Vec<_>>(), [b"e"]);
}

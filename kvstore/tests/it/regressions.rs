//! Faults there once were; each test is named for what went wrong.

use crate::common;

use std::rc::Rc;

use crate::common::{formatted, open, put, transact};
use kvstore::{CommitError, DatabaseIndex, Loaded, Transaction};
use lfs::sim::{Executor, Random, SimDisk};
use lfs::{Clock, FileSystemId, FormatOptions};

const DB: DatabaseIndex = DatabaseIndex(0);

async fn clear(store: &common::TestStore) {
    let clear = |transaction: &mut Transaction<'_, SimDisk>| {
        transaction.clear(DB);
        Ok(())
    };
    let ((), timestamp) = transact(store, 0, clear).await.unwrap();
    store.wait_durable(timestamp).await.unwrap();
}

/// A disk with segments of 256 KiB, for commits that the smallest ones do not take.
fn large() -> SimDisk {
    let disk = SimDisk::new(256 * 64, 1);
    let target = disk.clone();
    Executor::new(1).run(async move {
        let options = FormatOptions {
            segment_bytes: 256 << 10,
            log_segments: 26,
            created_ns: 0,
        };
        lfs::format(&target, options, FileSystemId([0xA5; 16]))
            .await
            .unwrap();
    });
    disk
}

#[test]
fn a_key_rewritten_with_the_expiry_it_had_was_never_reclaimed() {
    let disk = formatted(128, 1);
    let mut executor = Executor::new(1);
    let store = open(&mut executor, &disk).unwrap();
    for value in [b"1", b"2"] {
        let mut loaded = Loaded::default();
        let mut transaction = store.transaction(0, 0, &mut loaded);
        transaction.put(DB, b"counter", &value[..], Some(1000));
        transaction.commit().unwrap();
    }
    assert_eq!(store.stats().keys_with_expiry[0], 1);
    let working = Rc::clone(&store);
    let reclaimed = executor.run(async move { working.reclaim_expired(2000, 10).await });
    assert_eq!(reclaimed, Ok(1));
    assert_eq!(store.stats().keys[0], 0);
}

#[test]
fn after_a_clear_an_idle_store_rewrote_its_runs_for_ever() {
    let disk = formatted(440, 1);
    let mut executor = Executor::new(1);
    let store = open(&mut executor, &disk).unwrap();
    let (working, clock) = (Rc::clone(&store), executor.clock());
    let written = executor.run(async move {
        for number in 0..1000 {
            put(&working, number, 3000).await.unwrap();
        }
        clear(&working).await;
        clock.sleep_ms(60_000).await;
        let before = working.stats();
        clock.sleep_ms(60_000).await;
        working.stats().device_bytes_written - before.device_bytes_written
    });
    assert_eq!(written, 0);
    assert_eq!(store.stats().run_bytes, 0, "{:?}", store.stats());
}

#[test]
fn expiries_set_on_a_full_disk_took_the_room_that_a_merge_needs() {
    let disk = formatted(256, 1);
    let mut executor = Executor::new(1);
    let store = open(&mut executor, &disk).unwrap();
    let (working, clock) = (Rc::clone(&store), executor.clock());
    executor.run(async move {
        let mut count = 0;
        while put(&working, count, 8000).await.is_ok() {
            count += 1;
        }
        clock.sleep_ms(60_000).await;
        // Small in the log, but each makes a whole value dirty.
        for round in 0..50_000 {
            let key = (round % count).to_be_bytes();
            let expiry = Some(1_000_000 + i64::from(round));
            let change = |transaction: &mut Transaction<'_, SimDisk>| {
                transaction.set_expiry(DB, &key, expiry)
            };
            let (there, timestamp) = transact(&working, 0, change).await.unwrap();
            assert!(there);
            if round % 3000 == 0 {
                working.wait_durable(timestamp).await.unwrap();
            }
        }
        clear(&working).await;
    });
}

#[test]
fn restarts_on_a_full_disk_took_the_room_that_a_merge_needs() {
    for seed in 80..84 {
        let mut random = Random::new(seed);
        let mut disk = formatted(256, random.next_u64());
        let mut count = 0;
        for boot in 0..60 {
            let mut executor = Executor::new(random.next_u64());
            let store = open(&mut executor, &disk).unwrap();
            let working = Rc::clone(&store);
            let mut inner = Random::new(random.next_u64());
            count = executor.run(async move {
                if boot == 0 {
                    while put(&working, count, 7000).await.is_ok() {
                        count += 1;
                    }
                }
                for _ in 0..inner.below(60) {
                    let number = inner.below(u64::from(count)) as u32;
                    put(&working, number, 7000).await.unwrap();
                }
                if inner.one_in(2) {
                    working.shutdown().await.unwrap();
                }
                count
            });
            assert_eq!(
                store.stats().keys[0],
                u64::from(count),
                "seed {seed}, boot {boot}"
            );
            drop(store);
            disk = disk.snapshot(random.next_u64());
        }
    }
}

#[test]
fn what_was_cleared_counted_as_memory_when_the_log_was_replayed() {
    let disk = large();
    let mut executor = Executor::new(1);
    let store = open(&mut executor, &disk).unwrap();
    let (working, running, clock) = (Rc::clone(&store), disk.clone(), executor.clock());
    // A power cut after each round: how much is replayed depends on where the last checkpoint was.
    let cuts = executor.run(async move {
        let mut cuts = Vec::new();
        for _ in 0..12 {
            for batch in 0..200_u32 {
                let fill = |transaction: &mut Transaction<'_, SimDisk>| {
                    for number in 0..100 {
                        let key = (batch * 100 + number).to_be_bytes();
                        transaction.put(DB, &key, &b"v"[..], None);
                    }
                    Ok(())
                };
                transact(&working, 0, fill).await.unwrap();
            }
            clear(&working).await;
            // The running store frees what was emptied; a replay has to do so, too.
            clock.sleep_ms(1000).await;
            cuts.push(running.snapshot(0));
        }
        cuts
    });
    for (round, disk) in cuts.iter().enumerate() {
        let opened = open(&mut Executor::new(2), disk);
        assert!(opened.is_ok(), "round {round}: {:?}", opened.err());
    }
}

#[test]
fn a_key_too_long_made_a_store_that_never_opened_again() {
    let disk = large();
    let mut executor = Executor::new(1);
    let store = open(&mut executor, &disk).unwrap();
    let mut loaded = Loaded::default();
    let mut transaction = store.transaction(0, 0, &mut loaded);
    transaction.put(DB, &vec![b'k'; 65_536], &b"v"[..], None);
    assert_eq!(transaction.commit(), Err(CommitError::TooLarge));
    let mut loaded = Loaded::default();
    let mut transaction = store.transaction(0, 0, &mut loaded);
    transaction.put(DB, &vec![b'k'; 65_535], &b"v"[..], None);
    assert!(transaction.commit().is_ok());
}

#[test]
fn overwriting_under_snapshots_and_clearing_in_a_loop_took_memory_without_bound() {
    const MEMORY: usize = 2 << 20;
    let disk = formatted(1000, 1);
    let mut executor = Executor::new(1);
    let store = open(&mut executor, &disk).unwrap();
    store.set_memory_bytes_max(MEMORY);
    let working = Rc::clone(&store);
    executor.run(async move {
        let mut snapshots = Vec::new();
        for _ in 0..20 {
            for number in 0..100 {
                put(&working, number, 2000).await.unwrap();
            }
            snapshots.push(working.snapshot());
        }
        for _ in 0..300 {
            put(&working, 1, 10).await.unwrap();
            clear(&working).await;
            snapshots.push(working.snapshot());
            let used = working.stats().memory_bytes;
            assert!(used <= MEMORY, "{used}");
        }
    });
}

#[test]
fn keys_that_are_gone_before_their_time_ended_the_search_for_those_that_are_due() {
    let disk = formatted(128, 1);
    let mut executor = Executor::new(1);
    let store = open(&mut executor, &disk).unwrap();
    executor.run(async move {
        let put = |transaction: &mut Transaction<'_, SimDisk>| {
            for number in 0..100_u8 {
                transaction.put(DB, &[b'k', number], &b"1"[..], Some(1000));
            }
            Ok(())
        };
        transact(&store, 0, put).await.unwrap();
        clear(&store).await;
        let put = |transaction: &mut Transaction<'_, SimDisk>| {
            transaction.put(DB, b"due", &b"1"[..], Some(1500));
            Ok(())
        };
        transact(&store, 0, put).await.unwrap();
        for _ in 0..10 {
            store.reclaim_expired(2000, 64).await.unwrap();
        }
        let stats = store.stats();
        assert_eq!((stats.expired_keys, stats.keys[0]), (1, 0));
    });
}

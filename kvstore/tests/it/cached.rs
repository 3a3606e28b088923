//! Large values of the newest state are in the cache with the rows of their keys, and once.

use std::pin::pin;
use std::rc::Rc;

use embassy_futures::poll_once;
use kvstore::{CacheStats, DatabaseIndex, Isolation, Loaded, Transaction};
use lfs::sim::{Executor, SimDisk};

use crate::common::{TestStore, formatted, open, open_keeping, put, value_of};
use crate::transactions::{begin, of_level, run};

const DB: DatabaseIndex = DatabaseIndex(0);

/// Up to this a value is with its row.
const WITH_ROW_BYTES_MAX: usize = 4096;

/// A store with values of so many bytes.
async fn filled(store: &TestStore, len: usize) {
    // The last ones may be in memtables, the first ones are not.
    for number in 0..4000 {
        put(store, number, len).await.unwrap();
    }
    assert!(store.stats().runs > 0);
}

async fn read(store: &TestStore, number: u32) -> usize {
    let entry = value_of(store, DB, &number.to_be_bytes()).await;
    entry.map_or(0, |entry| entry.value.len())
}

/// What the cache was asked for by `work`, and found.
async fn asked(store: &TestStore, work: impl AsyncFn()) -> [(u64, u64); 3] {
    let counts = |stats: &CacheStats| [stats.rows, stats.chunks, stats.values];
    let before = store.stats().cache;
    work().await;
    let after = store.stats().cache;
    let pairs = counts(&before).into_iter().zip(counts(&after));
    let change =
        pairs.map(|(before, after)| (after.hits - before.hits, after.misses - before.misses));
    change.collect::<Vec<_>>().try_into().unwrap()
}

fn with_store(len: usize, test: impl AsyncFnOnce(Rc<TestStore>) + 'static) {
    let disk = formatted(3000, 1);
    let mut executor = Executor::new(1);
    let store = open(&mut executor, &disk).unwrap();
    executor.run(async move {
        filled(&store, len).await;
        test(store).await;
    });
}

#[test]
fn a_value_is_found_with_its_row() {
    with_store(3000, async |store| {
        let store = &*store;
        assert_eq!(read(store, 7).await, 3000);
        let before = store.stats().cache;
        let again = asked(store, async || assert_eq!(read(store, 7).await, 3000)).await;
        assert_eq!(again, [(1, 0), (0, 0), (0, 0)], "one search, and no more");
        // A walk finds it there as well.
        let walk = |transaction: &mut Transaction<'_, SimDisk>| {
            let (from, to) = (7_u32.to_be_bytes(), 8_u32.to_be_bytes());
            transaction.range(DB, &from, &to, false, 10, true)
        };
        let walked = asked(store, async || {
            let (pairs, _) = store.transact(0, 0, walk).await.unwrap();
            assert_eq!(pairs[0].1.as_ref().unwrap().value.len(), 3000);
        });
        let [rows, _, values] = walked.await;
        assert_eq!((rows, values), ((1, 0), (0, 0)));
        // Who writes the key lets go of both.
        put(store, 7, 10).await.unwrap();
        let after = store.stats().cache;
        assert!(after.bytes + 3000 <= before.bytes, "{before:?} {after:?}");
    });
}

/// What was read as an older state saw it, or by a walk, is there for itself until the row takes it.
#[test]
fn a_row_takes_the_value_that_is_there_for_itself() {
    with_store(3000, async |store| {
        let store = &*store;
        let walk = |transaction: &mut Transaction<'_, SimDisk>| {
            let (from, to) = (7_u32.to_be_bytes(), 8_u32.to_be_bytes());
            transaction.range(DB, &from, &to, false, 10, true)
        };
        store.transact(0, 0, walk).await.unwrap();
        let walked = store.stats().cache;
        let read_it = async || assert_eq!(read(store, 7).await, 3000);
        let [rows, _, values] = asked(store, read_it).await;
        assert_eq!((rows, values), ((0, 1), (1, 0)));
        let read = store.stats().cache;
        // The row is of the key and where the value is, some bytes.
        assert!(read.bytes < walked.bytes + 100, "{walked:?} {read:?}");
        assert_eq!(asked(store, read_it).await[2], (0, 0));
        // Who walks from now on finds it with the row.
        let walk = async || _ = store.transact(0, 0, walk).await.unwrap();
        let [rows, _, values] = asked(store, walk).await;
        assert_eq!((rows, values), ((1, 0), (0, 0)));
    });
}

#[test]
fn a_value_that_is_too_large_for_a_row_is_there_for_itself() {
    with_store(WITH_ROW_BYTES_MAX + 1, async |store| {
        let store = &*store;
        let read_it = async || assert_eq!(read(store, 7).await, WITH_ROW_BYTES_MAX + 1);
        read_it().await;
        let again = asked(store, read_it).await;
        assert_eq!(again, [(1, 0), (0, 0), (1, 0)]);
    });
}

/// Whoever sees an older state, or asks for history, is not given the value of the newest one, and the other way round.
#[test]
fn a_value_with_its_row_is_of_one_version() {
    let disk = formatted(3000, 1);
    let mut executor = Executor::new(1);
    let store = open_keeping(&mut executor, &disk, i64::MAX / 4).unwrap();
    executor.run(async move {
        let store = &*store;
        put(store, 7, 3000).await.unwrap();
        let open = begin(store, of_level(Isolation::Snapshot));
        put(store, 7, 2500).await.unwrap();
        for number in 100..3000 {
            put(store, number, 3000).await.unwrap();
        }
        for _ in 0..2 {
            assert_eq!(read(store, 7).await, 2500);
            let old = run(store, &open, |transaction| {
                let key = 7_u32.to_be_bytes();
                let walked = transaction.range(DB, &key, &8_u32.to_be_bytes(), false, 1, true)?;
                let got = transaction.get(DB, &key)?;
                Ok([walked[0].1.clone(), got].map(|entry| entry.unwrap().value.len()))
            });
            assert_eq!(old.await, [3000, 3000]);
            let key = 7_u32.to_be_bytes();
            let history =
                |transaction: &mut Transaction<'_, SimDisk>| transaction.history(DB, &key, 10);
            let (versions, _) = store.transact(0, 0, history).await.unwrap();
            let lens = versions.into_iter().map(|(_, value)| value.unwrap().len());
            assert_eq!(lens.collect::<Vec<_>>(), [2500, 3000]);
        }
        // With its row the newest one was found, so it is there once.
        let history = async || {
            let key = 7_u32.to_be_bytes();
            let newest =
                |transaction: &mut Transaction<'_, SimDisk>| transaction.history(DB, &key, 1);
            _ = store.transact(0, 0, newest).await.unwrap();
        };
        let [rows, _, values] = asked(store, history).await;
        assert_eq!((rows, values), ((1, 0), (0, 0)));
    });
}

/// In one transaction a key can be found again after its value was read.
#[test]
fn a_row_keeps_the_value_that_one_transaction_read_before() {
    with_store(3000, async |store| {
        let store = &*store;
        let [one, other, end] = [7_u32, 8, 9].map(u32::to_be_bytes);
        // Values are in the cache, rows are not.
        let walk = |transaction: &mut Transaction<'_, SimDisk>| {
            transaction.range(DB, &one, &end, false, 10, true)
        };
        store.transact(0, 0, walk).await.unwrap();
        let again = |transaction: &mut Transaction<'_, SimDisk>| {
            transaction.get(DB, &one)?;
            transaction.get(DB, &other)?;
            transaction.want(DB, &mut [&one[..]].into_iter());
            Ok(())
        };
        store.transact(0, 0, again).await.unwrap();
        let again = asked(store, async || assert_eq!(read(store, 7).await, 3000)).await;
        assert_eq!(again, [(1, 0), (0, 0), (0, 0)]);
    });
}

/// What a transaction finds in a memtable is not of a row: it would be looked for where it is not.
#[test]
fn a_value_of_a_memtable_stays_there_for_itself() {
    with_store(3000, async |store| {
        let store = &*store;
        put(store, 7, 3000).await.unwrap();
        let read_it = async || assert_eq!(read(store, 7).await, 3000);
        read_it().await;
        for _ in 0..2 {
            let again = asked(store, read_it).await;
            assert_eq!(again, [(0, 0), (0, 0), (1, 0)]);
        }
    });
}

/// It was put into the cache for itself, and taken out again when the row was there.
#[test]
fn a_value_that_will_be_with_its_row_is_not_put_into_the_cache_before() {
    with_store(3000, async |store| {
        let store = &*store;
        // What finds it is there, and the row.
        let look = |transaction: &mut Transaction<'_, SimDisk>| {
            transaction.want(DB, &mut [&7_u32.to_be_bytes()[..]].into_iter());
            Ok(())
        };
        store.transact(0, 0, look).await.unwrap();
        let mut loaded = Loaded::default();
        let bytes = || store.stats().cache.bytes;
        let before = bytes();
        let mut transaction = store.transaction(0, 0, &mut loaded);
        assert!(transaction.get(DB, &7_u32.to_be_bytes()).is_err());
        let faults = transaction.take_faults();
        drop(transaction);
        store.load_all(faults, &mut loaded).await.unwrap();
        assert_eq!(bytes(), before);
        let mut transaction = store.transaction(0, 0, &mut loaded);
        let found = transaction.get(DB, &7_u32.to_be_bytes()).unwrap();
        assert_eq!(found.unwrap().value.len(), 3000);
        transaction.commit().unwrap();
        assert!((before + 3000..before + 3100).contains(&bytes()));
    });
}

/// A transaction notes some rows for the cache; values of others are there for themselves.
#[test]
fn values_of_more_rows_than_a_transaction_notes_are_in_the_cache_as_well() {
    with_store(1000, async |store| {
        let store = &*store;
        let read_all = |transaction: &mut Transaction<'_, SimDisk>| {
            let mut missing = None;
            for number in 0..100_u32 {
                if let Err(one) = transaction.get(DB, &number.to_be_bytes()) {
                    missing = Some(one);
                }
            }
            missing.map_or(Ok(()), Err)
        };
        let read_them = async || _ = store.transact(0, 0, read_all).await.unwrap();
        read_them().await;
        let [_, _, (_, misses)] = asked(store, read_them).await;
        assert_eq!(misses, 0);
    });
}

/// A commit would not be sent before who reads from the cache has come to an end.
#[test]
fn a_read_gives_way_while_somebody_waits_for_a_commit_and_else_does_not() {
    with_store(100, async |store| {
        let store = &*store;
        assert_eq!(read(store, 7).await, 100);
        let get = |transaction: &mut Transaction<'_, SimDisk>| {
            transaction.get(DB, &7_u32.to_be_bytes()).map(drop)
        };
        store.wait_durable(store.committed()).await.unwrap();
        let gives_way = || poll_once(pin!(store.transact(0, 0, get))).is_pending();
        assert!(!gives_way());
        let write = |transaction: &mut Transaction<'_, SimDisk>| {
            transaction.put(DB, b"key", &b"value"[..], None);
            Ok(())
        };
        let ((), committed) = store.transact(0, 0, write).await.unwrap();
        let mut durable = pin!(store.wait_durable(committed));
        assert!(poll_once(durable.as_mut()).is_pending());
        assert!(gives_way());
        durable.await.unwrap();
        assert!(!gives_way());
    });
}

//! The store against a model: random transactions, snapshots, reboots.
//!
//! Invariants: what a transaction reads is what the model holds; a snapshot sees its moment whatever
//! comes later; after any reboot everything is there; memory that nothing holds comes back.

use crate::common;

use std::rc::Rc;

use crate::common::{
    DATABASES, Model, contents, formatted, open, put, random_writes, seed, transact, value_of,
};
use kvstore::{CommitError, DatabaseIndex, Loaded, Snapshot, Transaction, View, Walk};
use lfs::Clock;
use lfs::sim::{Executor, Random, SimDisk};

#[test]
fn random_transactions_snapshots_and_reboots_agree_with_a_model() {
    let seed = seed(1);
    for round in 0..20 {
        let mut random = Random::new(seed + round);
        let mut disk = formatted(128, random.next_u64());
        let mut model = Model::new();
        for _boot in 0..4 {
            let mut executor = Executor::new(random.next_u64());
            let store = open(&mut executor, &disk).unwrap();
            assert_eq!(
                contents(&mut executor, &store),
                model,
                "after a reboot (round {round})"
            );
            let clean = random.one_in(2);
            let mut inner = random.clone();
            let mut inner_model = model.clone();
            let working = Rc::clone(&store);
            model = executor.run(async move {
                let mut snapshots: Vec<(Snapshot, Model)> = Vec::new();
                for _ in 0..300 {
                    working.admit().await;
                    let mut loaded = Loaded::default();
                    let start = inner.clone();
                    loop {
                        let mut transaction = working.transaction(0, 0, &mut loaded);
                        inner = start.clone();
                        let mut next = inner_model.clone();
                        let _ = random_writes(&mut inner, &mut transaction, &mut next, 6, 3000);
                        if inner.one_in(10) {
                            break;
                        }
                        match transaction.commit() {
                            Ok(_) => {
                                inner_model = next;
                                break;
                            }
                            Err(CommitError::Fault(faults)) => {
                                working.load_all(faults, &mut loaded).await.unwrap();
                            }
                            Err(error) => panic!("{error}"),
                        }
                    }
                    if inner.one_in(20) {
                        snapshots.push((working.snapshot(), inner_model.clone()));
                    }
                    if inner.one_in(20) && !snapshots.is_empty() {
                        snapshots.swap_remove(inner.index(snapshots.len()));
                    }
                    for (snapshot, expected) in &snapshots {
                        check_snapshot(&working, snapshot, expected).await;
                    }
                    if inner.one_in(4) {
                        working.wait_durable(working.committed()).await.unwrap();
                    }
                }
                drop(snapshots);
                working.wait_durable(working.committed()).await.unwrap();
                if clean {
                    working.shutdown().await.unwrap();
                }
                inner_model
            });
            assert_eq!(contents(&mut executor, &store), model);
            random.next_u64();
            disk = disk.snapshot(random.next_u64());
        }
    }
}

async fn check_snapshot(store: &common::TestStore, snapshot: &Snapshot, expected: &Model) {
    for db in 0..DATABASES {
        let (view, mut keys) = (View::Snapshot(snapshot), Vec::new());
        let mut walk = Walk::new(view, DatabaseIndex(db), Vec::new(), None);
        while store.walk_step(&mut walk, 5, 0, &mut keys).await.unwrap() {}
        let found = keys.iter().map(|key| key.to_vec()).collect::<Vec<_>>();
        let wanted = expected
            .keys()
            .filter(|(of, _)| *of == db)
            .map(|(_, key)| key.clone());
        assert_eq!(found, wanted.collect::<Vec<_>>());
    }
}

#[test]
fn overwriting_one_key_for_ever_takes_bounded_space_and_replay() {
    let seed = seed(2);
    let disk = formatted(100, seed);
    let mut executor = Executor::new(seed);
    let store = open(&mut executor, &disk).unwrap();
    let working = Rc::clone(&store);
    // 20,000 groups of a block each: forty times the disk.
    executor.run(async move {
        for number in 0..20_000_u32 {
            let set = |transaction: &mut Transaction<'_, SimDisk>| {
                let value = &number.to_le_bytes()[..];
                transaction.put(DatabaseIndex(0), b"counter", value, None);
                Ok(())
            };
            let ((), timestamp) = transact(&working, 0, set).await.unwrap();
            working.wait_durable(timestamp).await.unwrap();
        }
    });
    let stats = store.stats();
    assert!(stats.checkpoints > 100, "{stats:?}");
    assert!(stats.flushes <= 20_000 + 4 * stats.checkpoints, "{stats:?}");
    let per_set = stats.device_bytes_written as f64 / 20_000.0;
    // With the smallest segments there is a checkpoint each 2 segments of 8 groups.
    assert!(per_set < 2.0 * 4096.0, "{per_set} bytes per SET");
    let mut executor = Executor::new(seed);
    let store = open(&mut executor, &disk.snapshot(seed)).unwrap();
    assert!(
        store.stats().replayed_commits <= 12 * 8,
        "{:?}",
        store.stats()
    );
    let entry = executor.run(async move { value_of(&store, DatabaseIndex(0), b"counter").await });
    let entry = entry.unwrap();
    assert_eq!(&entry.value[..], 19_999_u32.to_le_bytes());
}

#[test]
fn what_is_deleted_gives_its_memory_and_space_back() {
    let seed = seed(3);
    let disk = formatted(136, seed);
    let mut executor = Executor::new(seed);
    let store = open(&mut executor, &disk).unwrap();
    let (working, clock) = (Rc::clone(&store), executor.clock());
    executor.run(async move {
        for round in 0..10_u32 {
            for number in 0..300_u32 {
                put(&working, round * 1000 + number, 1000).await.unwrap();
            }
            let remove = |transaction: &mut Transaction<'_, SimDisk>| {
                if round % 2 == 0 {
                    transaction.clear(DatabaseIndex(0));
                    return Ok(());
                }
                for number in 0..300_u32 {
                    let key = (round * 1000 + number).to_be_bytes();
                    transaction.delete(DatabaseIndex(0), &key)?;
                }
                Ok(())
            };
            transact(&working, 0, remove).await.unwrap();
        }
        working.wait_durable(working.committed()).await.unwrap();
        // Until all background work has come to rest.
        clock.sleep_ms(60_000).await;
    });
    let stats = store.stats();
    assert_eq!(stats.keys[0], 0, "{stats:?}");
    // The trees, and what the last keys were that were deleted one by one: that is not worth a merge.
    assert!(stats.disk_bytes < 256 << 10, "{stats:?}");
    assert!(stats.pool_chunks_in_use <= 2, "{stats:?}");
    assert!(stats.run_bytes <= 16 * 8 * 4096, "{stats:?}");
}

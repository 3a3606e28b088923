//! Walks through keys, in steps: of snapshots and of transactions that stay open.
//!
//! Invariants: a walk shows one state, whatever others commit between its steps; of an open transaction it is what one statement would have seen, and notes what
//! that would have noted; however many keys there are, and however long they are, no step loads more than is allowed.

use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;

use kvstore::{
    BeginOptions, CommitStop, Conflict, DatabaseIndex, Isolation, Key, LOADED_KEY_BYTES_MAX,
    LoadError, Loaded, OpenTransaction, Transaction, View, Walk, WalkError,
};
use lfs::sim::{Executor, Random, SimDisk};

use crate::common::{DATABASES, Model, TestStore, formatted, open, random_writes, seed, transact};
use crate::transactions::{begin, commit, of_level, run, set, set_in};

const DB: DatabaseIndex = DatabaseIndex(0);

/// Keys one step gives at most.
const STEP: usize = 256;

/// Together they take more than may be loaded at once.
const KEYS: u32 = 10_000;
const KEY_BYTES: usize = 1000;

type Keys = BTreeSet<Vec<u8>>;

fn key(number: u32) -> Vec<u8> {
    let mut key = format!("{number:05}").into_bytes();
    // What would compress, or could be left out of an index, is behind what tells them apart.
    key.resize(KEY_BYTES, b'.');
    key
}

fn keys(numbers: Range<u32>) -> Keys {
    numbers.map(key).collect()
}

/// A store with these keys, most of which are on the disk only.
async fn fill(store: &TestStore, keys: &Keys) {
    let all: Vec<_> = keys.iter().collect();
    let longest = keys.iter().map(Vec::len).max().unwrap_or(1);
    for some in all.chunks((20_000 / longest).max(1)) {
        let put = |transaction: &mut Transaction<'_, SimDisk>| {
            for key in some {
                transaction.put(DB, key, &b"v"[..], None);
            }
            Ok(())
        };
        transact(store, 0, put).await.unwrap();
    }
}

fn with_store<T: 'static>(body: impl AsyncFnOnce(Rc<TestStore>) -> T + 'static) -> T {
    let mut executor = Executor::new(1);
    let store = open(&mut executor, &formatted(4096, 1)).unwrap();
    executor.run(async move { body(store).await })
}

/// All that a walk shows; `between` happens after each step.
async fn walk(
    store: &TestStore,
    mut walk: Walk<'_>,
    limit: usize,
    mut between: impl AsyncFnMut(usize),
) -> Result<Vec<Vec<u8>>, WalkError> {
    let (mut found, mut step, mut steps) = (Vec::new(), Vec::<Key>::new(), 0);
    loop {
        step.clear();
        let is_more = store.walk_step(&mut walk, limit, 0, &mut step).await?;
        assert!(step.len() <= limit);
        found.extend(step.iter().map(|key| key.to_vec()));
        if !is_more {
            return Ok(found);
        }
        steps += 1;
        between(steps).await;
    }
}

async fn nothing(_: usize) {}

async fn all_of(store: &TestStore, open: &OpenTransaction) -> Keys {
    let all = Walk::new(View::Open(open), DB, Vec::new(), None);
    let found = walk(store, all, STEP, nothing).await.unwrap();
    assert!(found.is_sorted());
    found.into_iter().collect()
}

async fn delete(store: &TestStore, key: &[u8]) {
    let delete = transact(store, 0, |transaction| transaction.delete(DB, key));
    delete.await.unwrap();
}

#[test]
fn an_open_transaction_walks_more_keys_than_may_be_loaded_at_once() {
    const { assert!(KEYS as usize * KEY_BYTES > LOADED_KEY_BYTES_MAX) };
    with_store(async |store| {
        store.set_history_retention(1_000_000);
        let mut there = keys(0..KEYS);
        fill(&store, &there).await;
        for isolation in [
            Isolation::Serializable,
            Isolation::Snapshot,
            Isolation::ReadCommitted,
        ] {
            let open = begin(&store, of_level(isolation));
            // As one statement it is too much.
            let mut loaded = Loaded::default();
            let refused = loop {
                let mut one = store.resume(&open, 0, 0, &mut loaded).unwrap();
                assert!(one.count_range(DB, b"", None).is_err());
                let faults = one.take_faults();
                one.suspend(false).unwrap();
                if let Err(error) = store.load_all(faults, &mut loaded).await {
                    break error;
                }
            };
            assert_eq!(refused, LoadError::OutOfMemory);
            drop(loaded);

            let mut expected = there.clone();
            // Own inserts, before, between and behind what there is, an overwrite and deletes, ...
            for new in [&b"!"[..], b"00017!", b"07000!", b"~"] {
                set_in(&store, &open, new, b"own").await;
                expected.insert(new.to_vec());
            }
            set_in(&store, &open, &key(18), b"own").await;
            for number in [0, 19, 20, KEYS - 1] {
                run(&store, &open, |one| one.delete(DB, &key(number))).await;
                expected.remove(&key(number));
            }
            // ... and ranges, in one of which something is written again.
            for (start, end) in [(1000, 4000), (4000, 4001), (6999, 7002)] {
                run(&store, &open, |one| {
                    one.delete_range(DB, &key(start), &key(end));
                    Ok(())
                })
                .await;
                expected.retain(|of| *of < key(start) || *of >= key(end));
            }
            set_in(&store, &open, &key(2000), b"own").await;
            expected.insert(key(2000));
            assert!(all_of(&store, &open).await == expected, "{isolation:?}");

            // What others commit between the steps is not in it, on either side.
            let part = Walk::new(View::Open(&open), DB, key(10), Some(key(9000)));
            let found = walk(&store, part, STEP, async |step| {
                if step % 8 == 0 {
                    for at in [100, 5000, 8999] {
                        set(&store, &[&key(at)[..], b"new"].concat(), b"other").await;
                        delete(&store, &key(at + 20)).await;
                    }
                }
            });
            let found: Keys = found.await.unwrap().into_iter().collect();
            expected.retain(|of| *of >= key(10) && *of < key(9000));
            assert!(found == expected, "{isolation:?}");
            for at in [100, 5000, 8999] {
                there.insert([&key(at)[..], b"new"].concat());
                there.remove(&key(at + 20));
            }
        }
        let at = store.committed();
        delete(&store, &key(1)).await;
        let options = BeginOptions {
            as_of: Some(at),
            ..BeginOptions::default()
        };
        assert!(all_of(&store, &begin(&store, options)).await == there);
    });
}

#[test]
fn long_keys_are_walked_in_smaller_steps() {
    const LONG: usize = 60_000;
    with_store(async |store| {
        let long = |number: u8| [&[number][..], &[b'.'; LONG]].concat();
        let there: Keys = (0..200).map(long).collect();
        fill(&store, &there).await;
        let snapshot = store.snapshot();
        let all = Walk::new(View::Snapshot(&snapshot), DB, Vec::new(), None);
        let found = walk(&store, all, STEP, nothing).await.unwrap();
        assert!(found.into_iter().collect::<Keys>() == there);
        let open = begin(&store, of_level(Isolation::Snapshot));
        assert!(all_of(&store, &open).await == there);
    });
}

#[test]
fn a_step_with_many_own_deletes_is_bounded() {
    with_store(async |store| {
        let open = begin(&store, BeginOptions::default());
        run(&store, &open, |one| {
            (0..1000_u32).for_each(|number| one.put(DB, &number.to_be_bytes(), &b"v"[..], None));
            Ok(())
        })
        .await;
        run(&store, &open, |one| {
            (0..1000_u32).try_for_each(|number| one.delete(DB, &number.to_be_bytes()).map(drop))
        })
        .await;
        let all = Walk::new(View::Open(&open), DB, Vec::new(), None);
        let mut steps = 0;
        let found = walk(&store, all, STEP, async |step| steps = step).await;
        assert_eq!(found, Ok(Vec::new()));
        assert_eq!(steps, 3);
    });
}

#[test]
fn a_walk_at_read_committed_shows_what_there_was_when_it_began() {
    with_store(async |store| {
        let mut there: Keys = (b'a'..=b'j').map(|letter| vec![letter]).collect();
        fill(&store, &there).await;
        let open = begin(&store, of_level(Isolation::ReadCommitted));
        for new in [b"ia", b"ib"] {
            let all = Walk::new(View::Open(&open), DB, Vec::new(), None);
            let found = walk(&store, all, 2, async |step| {
                if step == 2 {
                    set(&store, new, b"other").await;
                }
            });
            let found: Keys = found.await.unwrap().into_iter().collect();
            assert_eq!(found, there);
            // The next one shows it.
            there.insert(new.to_vec());
        }
        assert_eq!(all_of(&store, &open).await, there);
    });
}

/// What others do to the keys while a serializable transaction walks through `b` to `m`, and whether they touch what it has read.
async fn walked_while(store: &TestStore, others: &[u8], step: usize, has_read: bool) {
    let open = begin(store, BeginOptions::default());
    let part = Walk::new(View::Open(&open), DB, b"b".to_vec(), Some(b"m".to_vec()));
    let found = walk(store, part, 2, async |at| {
        if at == step {
            set(store, others, b"other").await;
        }
    });
    let found = found.await.unwrap();
    assert!(!found.contains(&others.to_vec()));
    if step == 0 {
        set(store, others, b"other").await;
    }
    set_in(store, &open, b"zz", b"own").await;
    match commit(store, &open, None).await {
        Ok(_) => assert!(!has_read, "{others:?} at step {step}"),
        Err(CommitStop::Conflict(Conflict::Key(_, key, _))) => {
            assert!(
                has_read && *key == *others,
                "{others:?} at step {step}: {key:?}"
            );
        }
        other => panic!("{other:?}"),
    }
    delete(store, others).await;
}

#[test]
fn a_key_that_comes_into_what_was_walked_is_a_conflict() {
    with_store(async |store| {
        fill(&store, &(b'a'..=b'z').map(|letter| vec![letter]).collect()).await;
        // While it walks, before and behind where it is, and after that.
        for step in [1, 3, 5, 0] {
            for new in [&b"b!"[..], b"c!", b"g!", b"l!", b"l~~"] {
                walked_while(&store, new, step, true).await;
            }
            for outside in [&b"a!"[..], b"m!", b"y!"] {
                walked_while(&store, outside, step, false).await;
            }
        }
        // What was not come to was not read.
        let open = begin(&store, BeginOptions::default());
        let mut part = Walk::new(View::Open(&open), DB, b"b".to_vec(), None);
        let mut step = Vec::new();
        assert_eq!(store.walk_step(&mut part, 2, 0, &mut step).await, Ok(true));
        set(&store, b"g!", b"other").await;
        set_in(&store, &open, b"zz", b"own").await;
        commit(&store, &open, None).await.unwrap();
    });
}

#[test]
fn a_walk_shows_locked_keys_as_they_are_now() {
    with_store(async |store| {
        let mut there: Keys = (b'a'..=b'j').map(|letter| vec![letter]).collect();
        fill(&store, &there).await;
        let open = begin(&store, BeginOptions::default());
        for new in [b"dd", b"ee"] {
            set(&store, new, b"other").await;
        }
        for gone in [b"f", b"h"] {
            delete(&store, gone).await;
        }
        for key in [&b"dd"[..], b"f", b"zz"] {
            store.try_lock(&open, DB, key, 0).unwrap();
        }
        there.remove(&b"f"[..]);
        there.insert(b"dd".to_vec());
        for limit in 1..5 {
            let all = Walk::new(View::Open(&open), DB, Vec::new(), None);
            let found = walk(&store, all, limit, nothing).await.unwrap();
            assert!(found.into_iter().eq(there.iter().cloned()), "{limit}");
        }
    });
}

#[test]
fn a_transaction_that_ends_between_two_steps_ends_the_walk() {
    with_store(async |store| {
        fill(&store, &(b'a'..=b'z').map(|letter| vec![letter]).collect()).await;
        let open = begin(&store, of_level(Isolation::Snapshot));
        let all = Walk::new(View::Open(&open), DB, Vec::new(), None);
        let found = walk(&store, all, 5, async |step| {
            if step == 3 {
                store.expire_transactions(i64::MAX);
            }
        });
        assert!(matches!(found.await, Err(WalkError::Ended(_))));
        assert!(open.is_ended());
    });
}

#[test]
fn walks_agree_with_a_model() {
    let seed = seed(71);
    for round in 0..30 {
        let mut random = Random::new(seed + round);
        let mut executor = Executor::new(random.next_u64());
        let store = open(&mut executor, &formatted(128, random.next_u64())).unwrap();
        if random.one_in(2) {
            store.miss_at_random(random.next_u64());
        }
        executor.run(async move {
            let mut model = Model::new();
            for _ in 0..20 {
                for _ in 0..random.index(4) {
                    let (from, before) = (Random::new(random.next_u64()), model.clone());
                    let write = |transaction: &mut Transaction<'_, SimDisk>| {
                        model.clone_from(&before);
                        random_writes(&mut from.clone(), transaction, &mut model, 10, 40)
                    };
                    transact(&store, 0, write).await.unwrap();
                }
                let level = [
                    Isolation::Serializable,
                    Isolation::Snapshot,
                    Isolation::ReadCommitted,
                ][random.index(3)];
                let (open, mut view) = (begin(&store, of_level(level)), model.clone());
                for _ in 0..random.index(3) {
                    let (from, before) = (Random::new(random.next_u64()), view.clone());
                    run(&store, &open, |one| {
                        view.clone_from(&before);
                        random_writes(&mut from.clone(), one, &mut view, 10, 40)
                    })
                    .await;
                }
                for _ in 0..3 {
                    let db = random.below(u64::from(DATABASES)) as u8;
                    let mut place = || format!("key{}", random.below(12)).into_bytes();
                    let (start, end) = (place(), place());
                    let expected = view
                        .keys()
                        .filter(|(of, key)| *of == db && *key >= start && *key < end);
                    let expected: Vec<_> = expected.map(|(_, key)| key.clone()).collect();
                    let limit = 1 + random.index(7);
                    let part = Walk::new(View::Open(&open), DatabaseIndex(db), start, Some(end));
                    assert_eq!(walk(&store, part, limit, nothing).await, Ok(expected));
                }
            }
        });
    }
}

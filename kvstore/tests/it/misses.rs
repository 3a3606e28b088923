//! Reads of keys that miss: whoever runs transactions as they have to be run notices nothing.
//!
//! Invariants:
//! - a transaction in which something was missing does not commit, whatever else it did;
//! - what was loaded for a transaction stays there for it, so every attempt gets further and the last one ends;
//! - a transaction that was run several times did what it did once, and read one state, whoever came in between;
//! - writes that read nothing never miss.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use crate::common::{
    Model, TestStore, contents_of, formatted, open, put, random_writes, seed, value_of,
};
use kvstore::{
    CommitError, DatabaseIndex, FAULTS_MAX, Fault, LOADED_KEY_BYTES_MAX, LoadError, Loaded,
    Missing, TransactError, Transaction,
};
use lfs::sim::{Executor, Random, Request, SimDisk};
use lfs::{DeviceError, FileError, FileKind, NewInode, ROOT};

const DB: DatabaseIndex = DatabaseIndex(0);

/// A store with a thousand keys, whose reads miss.
fn missing(executor: &mut Executor, seed: u64) -> Rc<TestStore> {
    let store = open(executor, &formatted(128, seed)).unwrap();
    let filling = Rc::clone(&store);
    executor.run(async move {
        for hundred in 0..10_u32 {
            filling.admit().await;
            let fill = |transaction: &mut Transaction<'_, SimDisk>| {
                for number in hundred * 100..(hundred + 1) * 100 {
                    transaction.put(
                        DB,
                        &number.to_be_bytes(),
                        number.to_be_bytes().to_vec(),
                        None,
                    );
                }
                Ok(())
            };
            filling.transact(0, 0, fill).await.unwrap();
        }
    });
    store.miss_at_random(seed);
    store
}

#[test]
fn random_transactions_whose_reads_miss_agree_with_a_model() {
    let seed = seed(50);
    let mut again = 0;
    for round in 0..10 {
        let mut random = Random::new(seed + round);
        let mut executor = Executor::new(random.next_u64());
        let store = open(&mut executor, &formatted(128, random.next_u64())).unwrap();
        store.miss_at_random(random.next_u64());
        // Several at a time: others come while one loads.
        let state = Rc::new(RefCell::new(Model::new()));
        let (left, attempts) = (Rc::new(Cell::new(4)), Rc::new(Cell::new(0_u32)));
        for _ in 0..4 {
            let (store, state, left) = (Rc::clone(&store), Rc::clone(&state), Rc::clone(&left));
            let attempts = Rc::clone(&attempts);
            let mut random = Random::new(random.next_u64());
            executor.spawn(async move {
                for _ in 0..100 {
                    change(&store, &state, random.next_u64(), &attempts).await;
                }
                left.set(left.get() - 1);
            });
        }
        let clock = executor.clock();
        let working = Rc::clone(&store);
        executor.run(async move {
            while left.get() > 0 {
                lfs::Clock::sleep_ms(&clock, 1).await;
            }
            working.wait_durable(working.committed()).await.unwrap();
            let (found, _) = working.transact(0, 0, contents_of).await.unwrap();
            assert_eq!(found, *state.borrow(), "round {round}");
        });
        again += attempts.get() - 400;
    }
    println!("{again} attempts in vain");
    assert!(again > 1000, "{again} attempts in vain");
}

/// A random transaction, run until nothing is missing, in the store and in the model.
async fn change(store: &TestStore, state: &RefCell<Model>, start: u64, attempts: &Cell<u32>) {
    let mut loaded = Loaded::default();
    loop {
        store.admit().await;
        let (mut random, mut next) = (Random::new(start), state.borrow().clone());
        let mut transaction = store.transaction(0, 0, &mut loaded);
        let done = random_writes(&mut random, &mut transaction, &mut next, 6, 500);
        assert_eq!(done.is_err(), transaction.is_in_vain());
        match transaction.commit() {
            Ok(_) => {
                attempts.set(attempts.get() + 1);
                state.replace(next);
                return;
            }
            // Others took the room while something was loaded.
            Err(CommitError::Busy) => {}
            Err(CommitError::Fault(faults)) => {
                attempts.set(attempts.get() + 1);
                assert!(done.is_err() && faults.len() == 1);
                store.load_all(faults, &mut loaded).await.unwrap();
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn each_attempt_gets_further() {
    let seed = seed(51);
    let mut executor = Executor::new(seed);
    let store = missing(&mut executor, seed);
    executor.run(async move {
        let (mut loaded, mut known) = (Loaded::default(), BTreeSet::new());
        let keys = (0..1000_u32).map(u32::to_be_bytes).collect::<Vec<_>>();
        for attempt in 1.. {
            let mut transaction = store.transaction(0, 0, &mut loaded);
            let read = keys.iter().try_for_each(|key| {
                let entry = transaction.get(DB, key)?.expect("it is there");
                assert_eq!(&entry.value[..], key);
                Ok::<_, Missing>(())
            });
            if read.is_ok() {
                println!("{attempt} attempts");
                // Asked for one by one, it would be half a thousand.
                assert!((1000 / FAULTS_MAX / 2..60).contains(&attempt), "{attempt}");
                break;
            }
            transaction.want(DB, &mut keys.iter().map(|key| &key[..]));
            let faults = transaction.take_faults();
            assert!(!faults.is_empty() && faults.len() <= FAULTS_MAX);
            drop(transaction);
            for fault in faults {
                assert!(known.insert(format!("{fault:?}")), "{fault:?} was loaded");
                store.load_all(vec![fault], &mut loaded).await.unwrap();
            }
        }
        assert!(loaded.memory_bytes() > 0);
        loaded.forget();
        assert_eq!(loaded.memory_bytes(), 0);
    });
}

#[test]
fn what_is_missing_is_never_committed_and_what_reads_nothing_never_misses() {
    let seed = seed(52);
    let mut executor = Executor::new(seed);
    let store = missing(&mut executor, seed);
    let before = store.committed();
    for number in 0..200_u32 {
        let mut loaded = Loaded::default();
        let mut transaction = store.transaction(0, 0, &mut loaded);
        transaction.put(DB, b"new", b"1".as_slice(), None);
        // Has expired already: this deletes.
        transaction.put(DB, &number.to_be_bytes(), b"1".as_slice(), Some(0));
        transaction.clear(DatabaseIndex(1));
        assert!(!transaction.is_in_vain(), "nothing was read");
        // Own writes are seen without reading.
        assert!(transaction.get(DB, b"new").unwrap().is_some());
        assert!(transaction.get(DatabaseIndex(1), b"x").unwrap().is_none());
        transaction.want(DB, &mut [b"new".as_slice()].into_iter());
        assert!(!transaction.is_in_vain(), "nothing was read");
        let mut misses = 0;
        for key in 300..310_u32 {
            misses += usize::from(transaction.get(DB, &key.to_be_bytes()).is_err());
        }
        if misses == 0 {
            continue;
        }
        // What it says after that is of no use, what it took is of no effect.
        let taken = number % 2 == 0;
        if taken {
            assert_eq!(transaction.take_faults().len(), misses);
        }
        let faults = match transaction.commit() {
            Err(CommitError::Fault(faults)) => faults,
            done => panic!("{done:?}"),
        };
        assert_eq!(faults.len(), if taken { 0 } else { misses });
        assert!(faults.iter().all(|fault| matches!(fault, Fault::Keys(_))));
        assert_eq!(store.committed(), before);
    }
}

#[test]
fn what_was_rehearsed_is_found_again_in_the_same_step() {
    let seed = seed(53);
    let mut executor = Executor::new(seed);
    let store = missing(&mut executor, seed);
    executor.run(async move {
        let read = |transaction: &mut Transaction<'_, SimDisk>| {
            for key in 0..20_u32 {
                transaction.get(DB, &key.to_be_bytes())?;
            }
            transaction.count(DB)?;
            transaction.keys_after(DB, None, 10, &mut Vec::new())
        };
        let mut loaded = Loaded::default();
        for attempt in 0.. {
            assert!(attempt < 50);
            let mut transaction = store.transaction(0, 0, &mut loaded);
            let _ = read(&mut transaction);
            match transaction.rehearse() {
                Ok(()) => break,
                Err(CommitError::Fault(faults)) => {
                    store.load_all(faults, &mut loaded).await.unwrap();
                }
                Err(error) => panic!("{error}"),
            }
        }
        for _ in 0..20 {
            let mut transaction = store.transaction(0, 0, &mut loaded);
            read(&mut transaction).unwrap();
            transaction.commit().unwrap();
        }
    });
}

#[test]
fn keys_of_more_than_the_bound_are_refused() {
    const LONG: usize = 60_000;
    let seed = seed(54);
    let mut executor = Executor::new(seed);
    let store = missing(&mut executor, seed);
    let key = |number: u8| vec![number; LONG];
    executor.run(async move {
        let (mut loaded, mut attempts) = (Loaded::default(), 0);
        let refused = loop {
            attempts += 1;
            let mut transaction = store.transaction(0, 0, &mut loaded);
            let read = (0..200).try_for_each(|number| transaction.get(DB, &key(number)).map(drop));
            assert!(read.is_err(), "two hundred long keys were loaded");
            let faults = transaction.take_faults();
            drop(transaction);
            if let Err(error) = store.load_all(faults, &mut loaded).await {
                break error;
            }
        };
        assert_eq!(refused, LoadError::OutOfMemory);
        assert!(attempts > LOADED_KEY_BYTES_MAX / LONG, "{attempts}");
        assert!(loaded.memory_bytes() <= LOADED_KEY_BYTES_MAX);
        assert!(loaded.memory_bytes() > LOADED_KEY_BYTES_MAX - 2 * LONG);
        let read = |transaction: &mut Transaction<'_, SimDisk>| {
            (0..255).try_for_each(|number| transaction.get(DB, &key(number)).map(drop))
        };
        let refused = store.transact(0, 0, read).await;
        assert_eq!(refused, Err(TransactError::Load(LoadError::OutOfMemory)));
    });
}

#[test]
fn a_random_key_is_the_same_in_every_attempt() {
    let seed = seed(55);
    let mut executor = Executor::new(seed);
    let store = missing(&mut executor, seed);
    executor.run(async move {
        let mut random = Random::new(seed);
        let (mut found, mut again) = (BTreeSet::new(), 0);
        for _ in 0..200 {
            let (mut loaded, mut first) = (Loaded::default(), None);
            loop {
                let mut transaction = store.transaction(0, 0, &mut loaded);
                let read = transaction
                    .random_key(DB, random.next_u64())
                    .and_then(|key| {
                        if let Some(before) = &first {
                            assert_eq!(*before, key, "another attempt found another one");
                            again += 1;
                        }
                        first = Some(key);
                        transaction.random_key(DB, random.next_u64())
                    });
                // The second is not the first.
                if let Ok(second) = read {
                    found.insert((first.take(), second));
                    break;
                }
                let faults = transaction.take_faults();
                drop(transaction);
                store.load_all(faults, &mut loaded).await.unwrap();
            }
        }
        let different = found
            .iter()
            .filter(|(first, second)| Some(second) != first.as_ref());
        assert!(
            again > 20 && different.count() > 180,
            "{again}, {}",
            found.len()
        );
    });
}

/// Files and keys in one transaction, with both missing.
#[test]
fn keys_and_files_miss_in_one_transaction() {
    let seed = seed(56);
    let mut executor = Executor::new(seed);
    let store = missing(&mut executor, seed);
    executor.run(async move {
        for number in 0..50_u32 {
            store.admit().await;
            let (key, name) = (number.to_be_bytes(), format!("f{number}").into_bytes());
            let create = |transaction: &mut Transaction<'_, SimDisk>| {
                let file = NewInode::new(FileKind::File, 0o600);
                let value = transaction.get(DB, &key)?.expect("it is there").value;
                let made = transaction.files(|tx| {
                    let inode = tx.files().create(ROOT, &name, &file)?;
                    tx.files().write(inode, 0, &value)
                });
                transaction.delete(DB, &key)?;
                Ok(made)
            };
            store.transact(0, 0, create).await.unwrap().0.unwrap();
        }
        let count = |transaction: &mut Transaction<'_, SimDisk>| {
            let names = transaction.files(|tx| tx.files().read_dir(ROOT, 0, 1000));
            Ok((
                transaction.count(DB)?,
                names.map(|names| names.entries.len()),
            ))
        };
        let (counts, _) = store.transact(0, 0, count).await.unwrap();
        assert_eq!(counts, (950, Ok(50)));
    });
}

/// Blocks that are read for the value of a key, in a store that was just opened.
fn blocks_of(disk: &SimDisk, number: u32) -> BTreeSet<u64> {
    let mut executor = Executor::new(1);
    let store = open(&mut executor, disk).unwrap();
    let read = Rc::new(RefCell::new(BTreeSet::new()));
    let noted = Rc::clone(&read);
    disk.set_faults(move |request| {
        if let Request::Read(block, count) = request {
            noted.borrow_mut().extend(block.0..block.0 + count as u64);
        }
        None
    });
    let value = executor.run(async move { value_of(&store, DB, &number.to_be_bytes()).await });
    assert!(value.is_some());
    disk.clear_faults();
    read.take()
}

#[test]
fn what_cannot_be_read_fails_who_needs_it_and_nobody_who_only_might_have() {
    const FIRST: u32 = 3;
    const SECOND: u32 = 90;
    let disk = formatted(256, 1);
    let mut executor = Executor::new(1);
    let store = open(&mut executor, &disk).unwrap();
    executor.run(async move {
        for number in 0..100 {
            put(&store, number, 3000).await.unwrap();
        }
        store.shutdown().await.unwrap();
    });
    let others = blocks_of(&disk.snapshot(1), FIRST);
    let bad = &blocks_of(&disk.snapshot(2), SECOND) - &others;
    assert!(!bad.is_empty());
    let mut executor = Executor::new(1);
    let store = open(&mut executor, &disk).unwrap();
    disk.set_faults(move |request| {
        let Request::Read(block, count) = request else {
            return None;
        };
        let is_bad = bad.range(block.0..block.0 + count as u64).next().is_some();
        is_bad.then_some(DeviceError::Io)
    });
    executor.run(async move {
        let [first, second] = [FIRST, SECOND].map(u32::to_be_bytes);
        // Both are asked for at once; with the first at hand the second is not needed.
        let mut guessed = 0;
        let either = |transaction: &mut Transaction<'_, SimDisk>| match transaction.get(DB, &first)
        {
            Ok(found) => Ok(found),
            Err(missing) => {
                guessed += u32::from(transaction.get(DB, &second).is_err());
                Err(missing)
            }
        };
        let (found, _) = store.transact(0, 0, either).await.unwrap();
        assert!(found.is_some() && guessed > 0);
        for keys in [[first, second], [second, first]] {
            let both = |transaction: &mut Transaction<'_, SimDisk>| {
                let found = keys.map(|key| transaction.get(DB, &key));
                found.into_iter().collect::<Result<Vec<_>, _>>()
            };
            let failed = store.transact(0, 0, both).await;
            let is_right = matches!(
                failed,
                Err(TransactError::Load(LoadError::File(FileError::Device(_))))
            );
            assert!(is_right, "{failed:?}");
        }
    });
}

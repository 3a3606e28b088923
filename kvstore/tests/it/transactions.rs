//! Transactions that stay open, beside others.

use std::rc::Rc;

use kvstore::{
    BeginOptions, CommitStop, Committed, Conflict, DatabaseIndex, Isolation, Loaded, LockStop,
    Missing, OpenTransaction, Timestamp, Transaction,
};
use lfs::sim::{Executor, SimDisk};

use crate::common::{TestStore, formatted, open, transact, value_of};

const DB: DatabaseIndex = DatabaseIndex(0);

/// More than what is kept among keys.
const LARGE: usize = 5000;

pub fn of_level(isolation: Isolation) -> BeginOptions {
    BeginOptions {
        isolation,
        ..BeginOptions::default()
    }
}

pub fn begin(store: &TestStore, options: BeginOptions) -> OpenTransaction {
    store.begin(options, 0, 0).unwrap()
}

/// A statement of an open transaction, run until nothing is missing.
pub async fn run<T>(
    store: &TestStore,
    open: &OpenTransaction,
    mut body: impl FnMut(&mut Transaction<'_, SimDisk>) -> Result<T, Missing>,
) -> T {
    let mut loaded = Loaded::default();
    loop {
        let mut transaction = store.resume(open, 0, 0, &mut loaded).unwrap();
        let result = body(&mut transaction);
        let faults = transaction.take_faults();
        transaction.suspend(result.is_ok()).unwrap();
        if let Ok(value) = result {
            return value;
        }
        store.load_all(faults, &mut loaded).await.unwrap();
    }
}

pub async fn commit(
    store: &TestStore,
    open: &OpenTransaction,
    token: Option<&[u8]>,
) -> Result<Committed, CommitStop> {
    let token = token.map(|token| (token, i64::MAX));
    let mut loaded = Loaded::default();
    loop {
        match store.try_commit(open, token, 0, 0, &mut loaded) {
            Err(CommitStop::Fault(faults)) => store.load_all(faults, &mut loaded).await.unwrap(),
            done => return done,
        }
    }
}

pub async fn set(store: &TestStore, key: &[u8], value: &[u8]) -> Timestamp {
    let put = |transaction: &mut Transaction<'_, SimDisk>| {
        transaction.put(DB, key, value, None);
        Ok(())
    };
    transact(store, 0, put).await.unwrap().1
}

async fn get(store: &TestStore, key: &[u8]) -> Option<Vec<u8>> {
    let entry = value_of(store, DB, key).await;
    entry.map(|entry| entry.value.to_vec())
}

async fn get_in(store: &TestStore, open: &OpenTransaction, key: &[u8]) -> Option<Vec<u8>> {
    let entry = run(store, open, |transaction| transaction.get(DB, key)).await;
    entry.map(|entry| entry.value.to_vec())
}

pub async fn set_in(store: &TestStore, open: &OpenTransaction, key: &[u8], value: &[u8]) {
    run(store, open, |transaction| {
        transaction.put(DB, key, value, None);
        Ok(())
    })
    .await;
}

fn with_store<T>(body: impl AsyncFnOnce(Rc<TestStore>) -> T + 'static) -> T
where
    T: 'static,
{
    let disk = formatted(128, 1);
    let mut executor = Executor::new(1);
    let store = open_store(&mut executor, &disk);
    executor.run(async move { body(store).await })
}

fn open_store(executor: &mut Executor, disk: &SimDisk) -> Rc<TestStore> {
    open(executor, disk).unwrap()
}

const ONE_STATE: [Isolation; 2] = [Isolation::Serializable, Isolation::Snapshot];

#[test]
fn a_lock_after_a_read_of_what_has_changed_since_is_a_conflict() {
    with_store(async |store| {
        for isolation in ONE_STATE {
            set(&store, b"k", b"1").await;
            let open = begin(&store, of_level(isolation));
            assert_eq!(get_in(&store, &open, b"k").await.unwrap(), b"1");
            set(&store, b"k", b"2").await;
            let locked = store.try_lock(&open, DB, b"k", 0);
            assert!(
                matches!(locked, Err(LockStop::Conflict(Conflict::Key(..)))),
                "{isolation:?}: {locked:?}"
            );
            assert!(open.is_ended());
        }
    });
}

#[test]
fn a_lock_after_a_scan_of_what_has_changed_since_is_a_conflict() {
    with_store(async |store| {
        for isolation in ONE_STATE {
            set(&store, b"k", b"1").await;
            let open = begin(&store, of_level(isolation));
            run(&store, &open, |transaction| {
                transaction.range(DB, b"a", b"z", false, 10, true)
            })
            .await;
            set(&store, b"k", b"2").await;
            let locked = store.try_lock(&open, DB, b"k", 0);
            assert!(
                matches!(locked, Err(LockStop::Conflict(_))),
                "{isolation:?}"
            );
        }
    });
}

#[test]
fn a_value_that_grew_before_its_lock_took_away_pieces_of_it() {
    with_store(async |store| {
        for isolation in ONE_STATE {
            set(&store, b"k", &[1; LARGE]).await;
            let open = begin(&store, of_level(isolation));
            run(&store, &open, |transaction| {
                transaction.append(DB, b"k", b"tail")
            })
            .await;
            set(&store, b"k", b"other").await;
            let locked = store.try_lock(&open, DB, b"k", 0);
            assert!(
                matches!(locked, Err(LockStop::Conflict(_))),
                "{isolation:?}"
            );
            assert_eq!(get(&store, b"k").await.unwrap(), b"other");
        }
    });
}

#[test]
fn after_a_lock_reads_and_scans_see_the_newest_commit_of_the_key() {
    with_store(async |store| {
        for isolation in ONE_STATE {
            set(&store, b"a", b"1").await;
            set(&store, b"k", b"1").await;
            let open = begin(&store, of_level(isolation));
            set(&store, b"a", b"2").await;
            set(&store, b"k", b"2").await;
            store.try_lock(&open, DB, b"k", 0).unwrap();
            assert_eq!(get_in(&store, &open, b"k").await.unwrap(), b"2");
            assert_eq!(get_in(&store, &open, b"a").await.unwrap(), b"1");
            for reverse in [false, true] {
                let found = run(&store, &open, |transaction| {
                    transaction.range(DB, b"a", b"z", reverse, 10, true)
                });
                let found = found.await.into_iter();
                let mut found: Vec<_> = found
                    .map(|(key, entry)| (key.to_vec(), entry.unwrap().value.to_vec()))
                    .collect();
                if reverse {
                    found.reverse();
                }
                let expected = [
                    (b"a".to_vec(), b"1".to_vec()),
                    (b"k".to_vec(), b"2".to_vec()),
                ];
                assert_eq!(found, expected, "{isolation:?} {reverse}");
            }
            let after = run(&store, &open, |transaction| {
                let mut keys = Vec::new();
                transaction.keys_after(DB, Some(b"a"), 10, &mut keys)?;
                Ok(keys)
            });
            assert_eq!(after.await, [(*b"k").into()]);
        }
        let open = begin(&store, of_level(Isolation::Snapshot));
        store.try_lock(&open, DB, b"new", 0).unwrap();
        drop(open);

        // What was deleted before the lock is gone, what came is there.
        let open = begin(&store, of_level(Isolation::Snapshot));
        let gone = transact(&store, 0, |transaction| transaction.delete(DB, b"k"));
        gone.await.unwrap();
        set(&store, b"new", b"1").await;
        for key in [&b"k"[..], b"new", b"zz"] {
            store.try_lock(&open, DB, key, 0).unwrap();
        }
        set_in(&store, &open, b"m", b"own").await;
        let keys = run(&store, &open, |transaction| {
            transaction.range(DB, b"b", b"zzz", false, 10, false)
        });
        let keys: Vec<_> = keys
            .await
            .into_iter()
            .map(|(key, _)| key.to_vec())
            .collect();
        assert_eq!(keys, [b"m".to_vec(), b"new".to_vec()]);
        commit(&store, &open, None).await.unwrap();
    });
}

#[test]
fn a_transaction_that_only_reads_locks_nothing() {
    with_store(async |store| {
        let at = set(&store, b"k", b"1").await;
        for as_of in [None, Some(at)] {
            let options = BeginOptions {
                read_only: true,
                as_of,
                ..BeginOptions::default()
            };
            let open = begin(&store, options);
            assert_eq!(store.try_lock(&open, DB, b"k", 0), Err(LockStop::ReadOnly));
            assert!(!open.is_ended());
        }
    });
}

#[test]
fn a_token_of_a_transaction_that_wrote_nothing_meets_no_conflict() {
    with_store(async |store| {
        store.set_history_retention(1_000_000);
        let at = set(&store, b"k", b"1").await;
        let mut options = [BeginOptions::default(); 3];
        options[1].read_only = true;
        options[2].as_of = Some(at);
        for (number, options) in options.into_iter().enumerate() {
            let token = [b't', number as u8];
            let open = begin(&store, options);
            assert_eq!(get_in(&store, &open, b"k").await.unwrap(), b"1");
            set(&store, b"k", b"2").await;
            let committed = commit(&store, &open, Some(&token)).await.unwrap();
            assert!(!committed.repeated);
            let open = begin(&store, BeginOptions::default());
            set_in(&store, &open, b"k", b"lost").await;
            let committed = commit(&store, &open, Some(&token)).await.unwrap();
            assert!(committed.repeated);
            assert_eq!(get(&store, b"k").await.unwrap(), b"2");
            set(&store, b"k", b"1").await;
        }
    });
}

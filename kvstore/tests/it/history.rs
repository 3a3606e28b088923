//! History: what the past was, over reboots and power cuts.
//!
//! Invariants: of whatever state the store says that it is kept it shows just that state, as AS OF and as HISTORY; it refuses all others. Where nothing bounds history,
//! all of it is kept, whatever is flushed and merged and however often the power is cut.

use std::collections::BTreeMap;
use std::rc::Rc;

use kvstore::{BeginError, BeginOptions, DatabaseIndex, Options, Store, Timestamp, Transaction};
use lfs::sim::{Executor, Random, SimDisk};
use lfs::{Clock, FormatOptions};

use crate::common::{
    DATABASES, FORMAT, KEYS, Model, OPTIONS, TestStore, contents_of, formatted, formatted_as,
    formatted_of_any_kind, open, open_keeping, random_writes, seed, transact,
};
use crate::transactions::run;

/// Longer than any test.
pub const FOR_EVER: i64 = i64::MAX;

/// The state after each commit of a transaction.
pub type States = BTreeMap<Timestamp, Model>;

/// The store shows the past as it was, from the oldest commit on that it says it keeps, and refuses what is older. Gives that commit.
pub async fn check(store: &TestStore, states: &States, context: &str) -> Timestamp {
    let newest = store.committed();
    for (at, state) in states.range(..=newest) {
        let is_kept = *at >= store.stats().floor;
        match as_of(store, *at).await {
            Ok(seen) => assert!(is_kept && seen == *state, "{context}: at {at:?}"),
            Err(error) => {
                let floor = store.stats().floor;
                assert_eq!(error, BeginError::NotRetained(floor.0), "{context}: {at:?}");
                // What is kept becomes less with time.
                assert!(*at < floor, "{context}: {at:?}");
            }
        }
    }
    for db in 0..DATABASES {
        for key in 0..KEYS {
            let place = (db, format!("key{key}").into_bytes());
            check_key(store, states, &place, context).await;
        }
    }
    store.stats().floor
}

/// HISTORY tells of a key what the states had, as far back as they are kept.
async fn check_key(store: &TestStore, states: &States, place: &(u8, Vec<u8>), context: &str) {
    let history = store.transact(0, 0, |transaction| {
        transaction.history(DatabaseIndex(place.0), &place.1, usize::MAX)
    });
    let (history, _) = history.await.unwrap();
    assert!(history.is_sorted_by(|(newer, _), (older, _)| newer > older));
    for (at, state) in states.range(store.stats().floor..=store.committed()) {
        let pair = history.iter().find(|(commit, _)| commit <= at);
        let told = pair.and_then(|(_, value)| value.as_ref().map(|value| value.to_vec()));
        assert!(
            told.as_ref() == state.get(place),
            "{context}: {place:?} at {at:?}"
        );
    }
}

/// All that was there after a commit.
async fn as_of(store: &TestStore, at: Timestamp) -> Result<Model, BeginError> {
    let options = BeginOptions {
        as_of: Some(at),
        ..BeginOptions::default()
    };
    let open = store.begin(options, 0, 0)?;
    Ok(run(store, &open, contents_of).await)
}

/// Makes some commits, and notes what each left.
async fn work(
    store: &TestStore,
    clock: &impl Clock,
    random: &mut Random,
    states: &mut States,
    commits: u64,
) {
    for _ in 0..commits {
        let (start, before) = (random.clone(), states.last_key_value().unwrap().1.clone());
        let (mut after, mut wrote) = (Model::new(), false);
        let attempt = |transaction: &mut Transaction<'_, SimDisk>| {
            *random = start.clone();
            after = before.clone();
            random_writes(random, transaction, &mut after, 4, 1500)?;
            wrote = !transaction.is_read_only();
            Ok(())
        };
        let ((), at) = transact(store, clock.unix_ms(), attempt).await.unwrap();
        if wrote {
            states.insert(at, after);
        }
        if random.one_in(3) {
            store.wait_durable(at).await.unwrap();
        }
        if random.one_in(8) {
            clock.sleep_ms(random.below(400)).await;
        }
    }
}

/// The disk as it is after a power cut now, and the states that were not lost by that.
fn cut(disk: &SimDisk, random: &mut Random) -> SimDisk {
    let crash = disk.crash_at(disk.event_count());
    let (keep, seed) = (random.below(3), random.next_u64());
    crash.disk(|_| keep == 1 || keep == 2 && random.one_in(2), seed)
}

#[test]
fn history_reaches_back_over_reboots_and_power_cuts() {
    let seed = seed(31);
    for round in 0..3 {
        let mut random = Random::new(seed + round);
        let mut disk = formatted_of_any_kind(400, random.next_u64());
        let mut states = States::from([(Timestamp(0), Model::new())]);
        for boot in 0..6 {
            let mut executor = Executor::new(random.next_u64());
            let store = open_keeping(&mut executor, &disk, FOR_EVER).unwrap();
            store.set_memtable_bytes_max(100 << 10);
            // What the power cut took.
            states.split_off(&Timestamp(store.committed().0 + 1));
            let (clock, clean) = (executor.clock(), random.one_in(2));
            let (mut inner, mut past) = (random.clone(), states);
            (random, states) = executor.run(async move {
                let context = format!("round {round}, boot {boot}");
                assert_eq!(check(&store, &past, &context).await, Timestamp(0));
                let commits = inner.below(250);
                work(&store, &clock, &mut inner, &mut past, commits).await;
                assert_eq!(check(&store, &past, &context).await, Timestamp(0));
                if clean {
                    store.shutdown().await.unwrap();
                }
                (inner, past)
            });
            disk = cut(&disk, &mut random);
        }
    }
}

#[test]
fn what_is_said_to_be_kept_is_whatever_retention_is_set_to() {
    let seed = seed(32);
    for round in 0..8 {
        let mut random = Random::new(seed + round);
        let mut disk = formatted_of_any_kind(200, random.next_u64());
        let mut states = States::from([(Timestamp(0), Model::new())]);
        for boot in 0..6 {
            let retention = |random: &mut Random| [0, 0, 500, 5000, FOR_EVER][random.index(5)];
            let mut executor = Executor::new(random.next_u64());
            let store = open_keeping(&mut executor, &disk, retention(&mut random)).unwrap();
            store.set_memtable_bytes_max(100 << 10);
            // What the power cut took.
            states.split_off(&Timestamp(store.committed().0 + 1));
            let (clock, clean) = (executor.clock(), random.one_in(2));
            let (mut inner, mut past) = (random.clone(), states);
            (random, states) = executor.run(async move {
                for part in 0..4 {
                    let context = format!("round {round}, boot {boot}, part {part}");
                    check(&store, &past, &context).await;
                    let commits = inner.below(80);
                    work(&store, &clock, &mut inner, &mut past, commits).await;
                    if inner.one_in(3) {
                        store.set_history_retention(retention(&mut inner));
                    }
                }
                if clean {
                    store.shutdown().await.unwrap();
                }
                (inner, past)
            });
            disk = cut(&disk, &mut random);
        }
    }
}

/// Overwrites some keys with values that do not compress, so many bytes long; the state after each tenth commit.
async fn overwrite(store: &TestStore, commits: u64, len: usize) -> States {
    let (mut states, mut model) = (States::new(), Model::new());
    let mut random = Random::new(5);
    for number in 0..commits {
        let value = (0..len).map(|_| random.next_u64().to_le_bytes()[0]);
        let (key, value) = (format!("key{}", number % KEYS), value.collect::<Vec<_>>());
        let put = |transaction: &mut Transaction<'_, SimDisk>| {
            transaction.put(DatabaseIndex(0), key.as_bytes(), &value[..], None);
            Ok(())
        };
        let ((), at) = transact(store, 0, put).await.unwrap();
        model.insert((0, key.clone().into_bytes()), value.clone());
        if number % 10 == 0 {
            states.insert(at, model.clone());
        }
    }
    states
}

#[test]
fn of_history_beyond_its_bytes_the_oldest_goes() {
    const MOST: u64 = 1 << 20;
    // Among keys, and in the value file.
    for (len, commits) in [(400, 12_000), (3000, 3000)] {
        let disk = formatted(1000, 1);
        let mut executor = Executor::new(1);
        let store = open_keeping(&mut executor, &disk, FOR_EVER).unwrap();
        store.set_memtable_bytes_max(100 << 10);
        store.set_history_bytes_max(MOST);
        let (working, clock) = (Rc::clone(&store), executor.clock());
        let (oldest, newest) = executor.run(async move {
            let states = overwrite(&working, commits, len).await;
            // Until what was let go of is gone.
            clock.sleep_ms(60_000).await;
            let oldest = check(&working, &states, "some of it").await;
            (oldest.0, working.committed().0)
        });
        let stats = store.stats();
        assert_eq!(stats.history_bytes_max, MOST);
        // Tables that have little to be dropped keep it until they are merged.
        let bytes = stats.history_bytes;
        assert!(bytes <= MOST + MOST / 2, "{bytes} bytes");
        // Most of what it may take it takes.
        let kept = (newest - oldest) * len as u64;
        assert!(kept > MOST / 2, "{kept} bytes, from {oldest} to {newest}");
        assert!(stats.disk_bytes < 4 * MOST, "{} bytes", stats.disk_bytes);
        // Less is kept, and no more of it comes back, when it may take less; after a restart as well.
        let (working, clock) = (Rc::clone(&store), executor.clock());
        executor.run(async move {
            working.set_history_bytes_max(MOST / 4);
            clock.sleep_ms(60_000).await;
            working.shutdown().await.unwrap();
        });
        let less = store.stats();
        let bytes = less.history_bytes;
        assert!(bytes <= MOST / 2, "{bytes} bytes");
        assert!(less.floor.0 > oldest);
        let mut executor = Executor::new(2);
        let store = open_keeping(&mut executor, &disk.snapshot(1), FOR_EVER).unwrap();
        assert_eq!(store.stats().floor, less.floor);
    }
}

#[test]
fn a_full_disk_lets_history_go_before_it_refuses_writes() {
    let disk = formatted(200, 1);
    let mut executor = Executor::new(1);
    let store = open_keeping(&mut executor, &disk, FOR_EVER).unwrap();
    store.set_memtable_bytes_max(100 << 10);
    store.set_history_bytes_max(u64::MAX);
    let working = Rc::clone(&store);
    executor.run(async move {
        // Four times the disk.
        let states = overwrite(&working, 9000, 3000).await;
        assert!(check(&working, &states, "what there is room for").await > Timestamp(0));
    });
}

#[test]
fn history_for_which_memory_does_not_suffice_begins_with_the_opening() {
    let format = FormatOptions {
        log_segments: 64,
        ..FORMAT
    };
    let disk = formatted_as(format, 800, 1);
    let mut executor = Executor::new(1);
    let store = open(&mut executor, &disk).unwrap();
    // No history: one version in memory. In the log they are all, and compressed.
    let states = executor.run(async move {
        let mut states = States::from([(Timestamp(0), Model::new())]);
        for number in 0..2500_u32 {
            let value = [&number.to_be_bytes()[..], &[b'x'; 400]].concat();
            let put = |transaction: &mut Transaction<'_, SimDisk>| {
                transaction.put(DatabaseIndex(0), b"key0", &value[..], None);
                Ok(())
            };
            let ((), at) = transact(&store, 0, put).await.unwrap();
            if number % 100 == 0 {
                states.insert(at, Model::from([((0, b"key0".to_vec()), value)]));
            }
        }
        store.wait_durable(store.committed()).await.unwrap();
        assert_eq!(store.stats().runs, 0);
        states
    });
    let disk = disk.snapshot(1);
    let opened = |open_memory_bytes_max| {
        let (states, disk) = (states.clone(), disk.snapshot(1));
        let mut executor = Executor::new(1);
        let options = Options {
            open_memory_bytes_max,
            history_ms: FOR_EVER,
            ..OPTIONS
        };
        executor.run(async move {
            let store = Store::open(disk, options).await.unwrap();
            let oldest = check(&store, &states, "opened").await;
            (oldest, store.committed())
        })
    };
    let (oldest, _) = opened(16 << 20);
    assert_eq!(oldest, Timestamp(0));
    let (oldest, newest) = opened(2 << 20);
    assert_eq!(oldest, newest);
}

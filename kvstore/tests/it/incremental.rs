//! Incremental backups of keys.
//!
//! Invariants: a full backup and the incremental ones behind it give each of the states that they were made of, whatever was written before, between
//! and since, wherever it is by now: in memtables, runs, or merged with what is older. An incremental one says what has changed and no more, and does not read what has not.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use kvstore::{
    BackupReadError, BackupSource, CommitError, DATABASE_COUNT, DatabaseIndex, Missing, Transaction,
};
use lfs::sim::{Executor, Random, Request, SimDisk};
use lfs::{BackupSection, BackupToken, BackupVerifier, Clock};

use crate::backup::{decoded, read, restored, source};
use crate::common::{TestStore, formatted, open, seed, transact};

const DB: DatabaseIndex = DatabaseIndex(0);

/// A clock that no test comes to the end of.
const NOW_MS: i64 = 1_000_000;

/// For each database and key the value and when it expires.
type Entries = BTreeMap<(u8, Vec<u8>), (Vec<u8>, Option<i64>)>;

/// Everything in `store`.
async fn entries_of(store: &TestStore) -> Entries {
    let all = |transaction: &mut Transaction<'_, SimDisk>| {
        let mut entries = Entries::new();
        for db in 0..DATABASE_COUNT as u8 {
            let mut keys = Vec::new();
            transaction.keys_after(DatabaseIndex(db), None, usize::MAX / 2, &mut keys)?;
            for key in keys {
                let entry = transaction.get(DatabaseIndex(db), &key)?.unwrap();
                let value = entry.value.to_vec();
                entries.insert((db, key.to_vec()), (value, entry.expires_at_ms));
            }
        }
        Ok(entries)
    };
    store.transact(NOW_MS, 0, all).await.unwrap().0
}

fn entries_on(disk: &SimDisk) -> Entries {
    let mut executor = Executor::new(7);
    let store = open(&mut executor, disk).unwrap();
    executor.run(async move { entries_of(&store).await })
}

fn random_key(random: &mut Random) -> Vec<u8> {
    let mut key = format!("{:03}", random.below(300)).into_bytes();
    if random.one_in(40) {
        key.resize(3 + random.index(30_000), b'k');
    }
    key
}

/// A random transaction.
fn write(random: &mut Random, transaction: &mut Transaction<'_, SimDisk>) -> Result<(), Missing> {
    for _ in 0..=random.below(6) {
        let db = DatabaseIndex([0, 0, 0, 1, 15][random.index(5)]);
        let key = random_key(random);
        match random.below(40) {
            0 => transaction.clear(db),
            1..=3 => {
                let (one, other) = (key, random_key(random));
                transaction.delete_range(
                    db,
                    one.clone().min(other.clone()).as_slice(),
                    &one.max(other),
                );
            }
            4..=12 => _ = transaction.delete(db, &key)?,
            13..=15 => _ = transaction.append(db, &key, &[b'a'; 700][..random.index(700)])?,
            16..=18 => {
                let at = NOW_MS + 1 + random.below(9).cast_signed();
                let at = (!random.one_in(3)).then_some(at);
                transaction.set_expiry(db, &key, at)?;
            }
            19 => {
                // Its time comes before the next commit.
                let value = [b'e'; 10];
                transaction.put(db, &key, &value[..], Some(NOW_MS));
            }
            _ => {
                let most = [60, 3000][random.index(2)];
                let value = vec![random.below(256) as u8; random.index(most)];
                transaction.put(db, &key, value, None);
            }
        }
    }
    Ok(())
}

async fn write_some(store: &TestStore, random: &mut Random, commits: u64) {
    for _ in 0..random.below(commits) {
        let start = random.next_u64();
        let done = transact(store, NOW_MS - 1, |transaction| {
            write(&mut Random::new(start), transaction)
        });
        // Of several long keys.
        let done = done.await.map(|_| ());
        assert!(
            matches!(done, Ok(()) | Err(CommitError::TooLarge)),
            "{done:?}"
        );
    }
}

#[test]
fn each_state_is_there_with_the_backups_up_to_it() {
    let seed = seed(71);
    for round in 0..5 {
        let mut random = Random::new(seed + round);
        let mut disk = formatted(2500, random.next_u64());
        let mut executor = Executor::new(random.next_u64());
        let mut store = open(&mut executor, &disk).unwrap();
        let (mut streams, mut states) = (Vec::new(), Vec::new());
        let names: Vec<String> = (0..6).map(|at| format!("{at}")).collect();
        for (at, name) in names.iter().enumerate() {
            let since = at.checked_sub(1).map(|before| names[before].clone());
            let bytes_max = [1, 20_000, 1 << 20][random.index(3)];
            let (working, name, clock) = (Rc::clone(&store), name.clone(), executor.clock());
            let (start, reopens) = (random.next_u64(), random.below(3));
            let (frames, entries) = executor.run(async move {
                let mut random = Random::new(start);
                write_some(&working, &mut random, 150).await;
                // Merges go on while nobody does anything.
                clock.sleep_ms(random.below(3) * 5000).await;
                working.create_snapshot(&name, 0).await.unwrap();
                let entries = entries_of(&working).await;
                write_some(&working, &mut random, 80).await;
                clock.sleep_ms(random.below(3) * 5000).await;
                let source = source(&name, since.as_deref());
                let frames = read(&working, source, bytes_max).await.unwrap();
                if reopens == 0 {
                    working.shutdown().await.unwrap();
                }
                (frames, entries)
            });
            streams.push(frames);
            states.push(entries);
            if reopens < 2 {
                drop(store);
                drop(executor);
                disk = disk.snapshot(random.next_u64());
                executor = Executor::new(random.next_u64());
                store = open(&mut executor, &disk).unwrap();
            }
        }
        for (at, expected) in states.iter().enumerate() {
            let found = entries_on(&restored(&streams[..=at], 2500));
            assert!(found == *expected, "round {round}, state {at}");
        }
        // Over several states at once, now that all is long ago.
        let (first, last) = (random.index(2), 4 + random.index(2));
        let (since, name) = (names[first].clone(), names[last].clone());
        let frames = executor.run(async move {
            let source = source(&name, Some(&since));
            read(&store, source, 9000).await.unwrap()
        });
        let mut all = streams[..=first].to_vec();
        all.push(frames);
        let found = entries_on(&restored(&all, 2500));
        assert!(
            found == states[last],
            "round {round}, from {first} to {last}"
        );
    }
}

async fn put_numbered(store: &TestStore, numbers: std::ops::Range<u32>, value: &[u8]) {
    for number in numbers {
        let put = |transaction: &mut Transaction<'_, SimDisk>| {
            transaction.put(DB, &number.to_be_bytes(), value, None);
            Ok(())
        };
        transact(store, 0, put).await.unwrap();
    }
}

#[test]
fn an_incremental_backup_says_what_has_changed_and_reads_no_more() {
    let mut executor = Executor::new(1);
    let disk = formatted(2000, 1);
    let store = open(&mut executor, &disk).unwrap();
    executor.run(async move {
        put_numbered(&store, 0..8000, &[1; 300]).await;
        store.create_snapshot("old", 0).await.unwrap();
        store.shutdown().await.unwrap();
    });
    let disk = disk.snapshot(2);
    let mut executor = Executor::new(2);
    let store = open(&mut executor, &disk).unwrap();
    let clock = executor.clock();
    let reads = Rc::new(Cell::new(0));
    let counted = Rc::clone(&reads);
    disk.set_faults(move |request| {
        if let Request::Read(_, blocks) = request {
            counted.set(counted.get() + blocks);
        }
        None
    });
    executor.run(async move {
        let change = |transaction: &mut Transaction<'_, SimDisk>| {
            transaction.put(DB, &7_u32.to_be_bytes(), &b"new"[..], Some(77));
            transaction.delete(DB, &9_u32.to_be_bytes())?;
            transaction.delete_range(DB, &100_u32.to_be_bytes(), &200_u32.to_be_bytes());
            transaction.delete_range(DB, &200_u32.to_be_bytes(), &300_u32.to_be_bytes());
            transaction.put(DB, &150_u32.to_be_bytes(), &b"back"[..], None);
            transaction.clear(DatabaseIndex(4));
            Ok(())
        };
        transact(&store, 0, change).await.unwrap();
        store.create_snapshot("new", 0).await.unwrap();
        // What was deleted is counted in the background, which reads all keys.
        while store.stats().keys_estimated > 0 {
            clock.sleep_ms(100).await;
        }
        reads.set(0);
        let frames = read(&store, source("new", Some("old")), 1).await.unwrap();
        let of_changes = reads.get();
        let frames = decoded(&frames).into_iter();
        let keys = frames.filter(|frame| frame.section == BackupSection::Layer);
        let keys: Vec<u8> = keys.flat_map(|frame| frame.payload).collect();
        let expected = [
            &[8, 0, 4, 0, 4, 0, 0, 0, 0, 0, 0, 100, 0, 0, 1, 44][..],
            &[8, 4, 0, 0, 0, 0, 0, 0],
            &[2, 0, 4, 0, 77, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 7],
            b"new",
            &[3, 0, 4, 0, 0, 0, 0, 9],
            &[1, 0, 4, 0, 4, 0, 0, 0, 0, 0, 0, 150],
            b"back",
        ];
        assert_eq!(keys, expected.concat());
        reads.set(0);
        read(&store, source("new", None), 1 << 20).await.unwrap();
        let of_all = reads.get();
        println!("{of_changes} blocks read of changes, {of_all} of all");
        assert!(of_changes * 10 < of_all, "{of_changes} of {of_all}");
    });
}

#[test]
fn of_what_was_merged_tables_without_a_change_are_not_read() {
    let mut executor = Executor::new(1);
    let disk = formatted(4000, 1);
    let store = open(&mut executor, &disk).unwrap();
    let put_random = async |store: &TestStore, keys: u32, seed: u64| {
        let mut random = Random::new(seed);
        for at in (0..keys).step_by(50) {
            let start = random.next_u64();
            let put = |transaction: &mut Transaction<'_, SimDisk>| {
                let mut random = Random::new(start);
                for number in at..at + 50 {
                    // That does not compress.
                    let words: [u64; 50] = std::array::from_fn(|_| random.next_u64());
                    let value = words.map(u64::to_le_bytes).concat();
                    transaction.put(DB, &number.to_be_bytes(), value, None);
                }
                Ok(())
            };
            transact(store, 0, put).await.unwrap();
        }
    };
    let (reads, clock) = (Rc::new(Cell::new(0)), executor.clock());
    let counted = Rc::clone(&reads);
    disk.set_faults(move |request| {
        if let Request::Read(_, blocks) = request {
            counted.set(counted.get() + blocks);
        }
        None
    });
    executor.run(async move {
        put_random(&store, 40_000, 1).await;
        store.create_snapshot("old", 0).await.unwrap();
        clock.sleep_ms(600_000).await;
        put_random(&store, 10_000, 2).await;
        // It is flushed, and becomes a part of the base.
        clock.sleep_ms(600_000).await;
        store.create_snapshot("new", 0).await.unwrap();
        reads.set(0);
        read(&store, source("new", Some("old")), 1 << 20)
            .await
            .unwrap();
        let of_changes = reads.get();
        reads.set(0);
        read(&store, source("new", None), 1 << 20).await.unwrap();
        let of_all = reads.get();
        println!("{of_changes} blocks read of changes, {of_all} of all");
        assert!(of_changes * 2 < of_all, "{of_changes} of {of_all}");
    });
}

#[test]
fn what_is_being_read_stays_when_its_snapshot_is_deleted() {
    for show_since in [None, Some("since")] {
        let mut executor = Executor::new(3);
        let disk = formatted(1500, 1);
        let store = open(&mut executor, &disk).unwrap();
        executor.run(async move {
            store.create_snapshot("since", 0).await.unwrap();
            // Each is read from the disk.
            put_numbered(&store, 0..200, &[1; 4000]).await;
            store.create_snapshot("shown", 0).await.unwrap();
            store.shutdown().await.unwrap();
        });
        let disk = disk.snapshot(2);
        let mut executor = Executor::new(4);
        let store = open(&mut executor, &disk).unwrap();
        let (deleting, clock) = (Rc::clone(&store), executor.clock());
        let (left, deleted) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
        let (reads, is_deleted, held) = (Rc::clone(&left), Rc::clone(&deleted), disk.clone());
        // One read of a value, until all the rest is over.
        disk.set_holds(move |request| {
            let is_read = matches!(request, Request::Read(..)) && reads.get() > 0;
            is_read && reads.replace(reads.get() - 1) == 1
        });
        executor.spawn(async move {
            while held.held_count() == 0 {
                clock.sleep_ms(1).await;
            }
            for name in ["shown", "since"] {
                deleting.delete_snapshot(name).await.unwrap();
            }
            for value in [2, 3] {
                put_numbered(&deleting, 0..200, &[value; 4000]).await;
                clock.sleep_ms(60_000).await;
            }
            is_deleted.set(true);
            held.release();
        });
        executor.run(async move {
            let source = source("shown", show_since);
            let mut verifier = BackupVerifier::default();
            let header = store.read_backup(source, verifier.next(), 1).await;
            verifier.accept(&header.unwrap()).unwrap();
            left.set(100);
            let token = verifier.next().clone();
            let keys = store.read_backup(source, &token, 1 << 20).await.unwrap();
            assert!(deleted.get(), "nothing happened meanwhile");
            let frame = verifier.accept(&keys).unwrap();
            let ones = frame.payload.split(|byte| *byte == 1).count();
            assert!(ones >= 200 * 4000, "{ones} bytes");
            let gone = store.read_backup(source, verifier.next(), 1).await;
            assert!(
                matches!(gone, Err(BackupReadError::NotFound(_))),
                "{gone:?}"
            );
        });
    }
}

#[test]
fn places_of_one_kind_of_backup_are_none_of_the_other() {
    let mut executor = Executor::new(1);
    let store = open(&mut executor, &formatted(300, 1)).unwrap();
    executor.run(async move {
        for name in ["1", "2"] {
            store.create_snapshot(name, 0).await.unwrap();
        }
        let at = |cursor: &[u8]| BackupToken {
            sequence: 1,
            cursor: cursor.to_vec(),
            ..BackupToken::default()
        };
        let read = async |since, cursor: &[u8]| {
            let source = BackupSource {
                show: Ok("2"),
                since,
            };
            store.read_backup(source, &at(cursor), 1).await.is_ok()
        };
        for (cursor, in_full) in [
            (&[0, 0][..], true),
            (&[0, 1, 255], true),
            (&[0, 4, 255, b't'], true),
            (&[0, 5, 3, b'k'], false),
        ] {
            assert_eq!(read(None, cursor).await, in_full, "{cursor:?}");
            assert!(read(Some("1"), cursor).await, "{cursor:?}");
        }
        for nonsense in [
            &[0, 5, 255][..],
            &[0, 1, 16],
            &[0, 6, 0],
            &[0, 3, 255, 0, 0, 0, 0, 0, 0, 0, 0],
        ] {
            assert!(!read(None, nonsense).await && !read(Some("1"), nonsense).await);
        }
    });
}

#[test]
fn deleted_ranges_that_meet_fit_into_the_commits_that_restore_them() {
    let mut executor = Executor::new(1);
    let store = open(&mut executor, &formatted(900, 1)).unwrap();
    let mut streams = Vec::new();
    for (at, middle) in [&b"m"[..], &[b'm'; 9000]].into_iter().enumerate() {
        let running = Rc::clone(&store);
        streams.push(executor.run(async move {
            // A commit can take one of them, and what they have in common with the other one.
            let len = running.limits().commit_bytes_max - middle.len() - 100;
            let long = |last: &[u8]| {
                let mut key = middle[..middle.len() - 1].to_vec();
                key.extend_from_slice(last);
                key.resize(len.min(65_000), b'0');
                key
            };
            let (start, end) = (long(b"a"), long(b"x"));
            put_numbered(&running, 0..10, b"v").await;
            let names = [format!("{at}-1"), format!("{at}-2")];
            let put = |transaction: &mut Transaction<'_, SimDisk>| {
                for key in [&b"a"[..], middle, b"y"] {
                    transaction.put(DB, key, &b"v"[..], None);
                }
                Ok(())
            };
            transact(&running, 0, put).await.unwrap();
            running.create_snapshot(&names[0], 0).await.unwrap();
            for (start, end) in [(&start[..], middle), (middle, &end)] {
                let delete = |transaction: &mut Transaction<'_, SimDisk>| {
                    transaction.delete_range(DB, start, end);
                    Ok(())
                };
                transact(&running, 0, delete).await.unwrap();
            }
            running.create_snapshot(&names[1], 0).await.unwrap();
            let base = read(&running, source(&names[0], None), 1).await.unwrap();
            let changes = source(&names[1], Some(&names[0]));
            let changes = read(&running, changes, 1).await.unwrap();
            ([base, changes], entries_of(&running).await)
        }));
    }
    for (streams, expected) in streams {
        assert!(entries_on(&restored(&streams, 900)) == expected);
    }
}

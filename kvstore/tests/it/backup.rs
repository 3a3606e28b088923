//! Backups of keys and files together, and the states that the log retains.
//!
//! Invariants: what is restored equals one commit, keys and files alike, whatever was committed while the backup was read, from
//! wherever the reading went on, on disks of other sizes; an incremental backup brings both up to date (`incremental` is about keys alone).
//! A token that was committed before a backup is not committed again after its restore. What no backup says is refused, and nothing else.
//! Of the log every commit behind the last checkpoint can be seen again, and no other.
#![allow(
    clippy::single_match_else,
    clippy::too_many_lines,
    reason = "a test tells its story in one go"
)]

use std::cell::Cell;
use std::rc::Rc;

use crate::common::{
    FORMAT, Model, OPTIONS, TestStore, all_in, contents, formatted, open, random_writes, seed,
    transact, value_of,
};
use kvstore::{
    BackupReadError, BackupSource, BeginOptions, CommitStop, Committed, DatabaseIndex, Loaded,
    OpenError, RestoreError, Store, Timestamp, Transaction,
};
use lfs::sim::{Executor, Random, SimDisk};
use lfs::{
    BackupFrame, BackupId, BackupSection, BackupToken, BackupVerifier, Clock, CommitNumber,
    FileError, FileKind, FileSystemId, NewInode, ROOT,
};

const DB: DatabaseIndex = DatabaseIndex(0);

/// Sets the key `count` and the content of the file `/count` to the same, in one commit.
async fn count(store: &TestStore, number: u64) -> Timestamp {
    let new = NewInode {
        kind: FileKind::File,
        mode: 0o600,
        uid: 0,
        gid: 0,
        device: 0,
        target: Vec::new(),
    };
    let text = format!("{number:09}").repeat(500);
    store.admit().await;
    let done = store.transact(0, 1, |transaction| {
        transaction.put(DB, b"count", text.as_bytes(), None);
        Ok(transaction.files(|tx| {
            let mut files = tx.files();
            let file = match files.lookup(ROOT, b"count") {
                Err(FileError::NotFound) => files.create(ROOT, b"count", &new)?,
                found => found?,
            };
            files.write(file, 0, text.as_bytes())
        }))
    });
    let (written, timestamp) = done.await.unwrap();
    written.unwrap();
    timestamp
}

/// What the file `/count` says.
async fn counted(store: &TestStore) -> Option<Vec<u8>> {
    let done = store.transact(0, 1, |transaction| {
        Ok(transaction.files(|tx| {
            let mut files = tx.files();
            match files.lookup(ROOT, b"count") {
                Err(FileError::NotFound) => Ok(None),
                found => Ok(Some(files.read(found?, 0, usize::MAX)?)),
            }
        }))
    });
    done.await.unwrap().0.unwrap()
}

pub fn source<'a>(name: &'a str, since: Option<&'a str>) -> BackupSource<'a> {
    BackupSource {
        show: Ok(name),
        since,
    }
}

/// All frames; the token goes through its text each time, as between a server and its clients.
pub async fn read(
    store: &TestStore,
    source: BackupSource<'_>,
    bytes_max: usize,
) -> Result<Vec<Vec<u8>>, BackupReadError> {
    let mut verifier = BackupVerifier::default();
    let mut frames = Vec::new();
    while !verifier.is_complete() {
        let text = verifier.next().to_text();
        let token = BackupToken::from_text(text.as_bytes()).unwrap();
        let bytes = store.read_backup(source, &token, bytes_max).await?;
        assert_eq!(
            store.read_backup(source, &token, bytes_max).await.as_ref(),
            Ok(&bytes)
        );
        verifier.accept(&bytes).unwrap();
        frames.push(bytes);
    }
    Ok(frames)
}

pub fn decoded(frames: &[Vec<u8>]) -> Vec<BackupFrame> {
    let mut verifier = BackupVerifier::default();
    let frames = frames.iter().map(|bytes| verifier.accept(bytes).unwrap());
    frames.collect()
}

/// A disk with what the streams say, each on top of the one before.
pub fn restored(streams: &[Vec<Vec<u8>>], segments: usize) -> SimDisk {
    let streams = streams.iter().map(|frames| decoded(frames));
    let frames = streams.flatten().collect::<Vec<_>>();
    let (disk, done) = restored_frames(frames, segments);
    done.unwrap();
    disk
}

/// The same, of frames that may say anything, and whether all of it was carried out.
fn restored_frames(
    frames: Vec<BackupFrame>,
    segments: usize,
) -> (SimDisk, Result<(), RestoreError>) {
    let mut executor = Executor::new(5);
    let disk = SimDisk::new(segments * 8, 5);
    let target = disk.clone();
    let store = Rc::new(executor.run(async move {
        let id = FileSystemId([0x5A; 16]);
        lfs::format_unfinished(&target, FORMAT, id).await.unwrap();
        let opened = Store::open(target.clone(), OPTIONS).await;
        assert!(matches!(
            opened,
            Err(OpenError::Mount(lfs::MountError::NotFound))
        ));
        Store::open_unfinished(target, OPTIONS, None).await.unwrap()
    }));
    let (running, clock) = (Rc::clone(&store), executor.clock());
    executor.spawn(async move { running.run(&clock).await });
    let device = disk.clone();
    let done = executor.run(async move {
        store.set_restoring(true);
        let mut done = Ok(());
        for frame in &frames {
            done = store.restore_frame(frame).await;
            if done.is_err() {
                break;
            }
        }
        store.set_restoring(false);
        store.shutdown().await.unwrap();
        lfs::finish_format(&device).await.unwrap();
        done
    });
    (disk.snapshot(6), done)
}

/// What a store on `disk` holds.
fn held(disk: &SimDisk) -> (Model, Option<Vec<u8>>) {
    let mut executor = Executor::new(7);
    let store = open(&mut executor, disk).unwrap();
    let keys = contents(&mut executor, &store);
    let counted = executor.run(async move { counted(&store).await });
    (keys, counted)
}

/// Both or neither.
fn assert_one_commit(keys: &Model, counted: Option<&Vec<u8>>) {
    assert_eq!(keys.get(&(0, b"count".to_vec())), counted);
}

#[test]
fn keys_and_files_of_one_commit_are_restored_whatever_goes_on_meanwhile() {
    let seed = seed(31);
    for round in 0..6 {
        let mut random = Random::new(seed + round);
        let mut executor = Executor::new(random.next_u64());
        let store = open(&mut executor, &formatted(900, 1)).unwrap();
        let mut model = Model::new();
        let bytes_max = [1, 20_000, 1 << 20][random.index(3)];
        let mut streams = Vec::new();
        let mut expected = Model::new();
        let names = ["one", "two", "three"];
        for (at, name) in names.into_iter().enumerate() {
            let since = at.checked_sub(1).map(|before| names[before]);
            for _ in 0..random.below(60) {
                let admitting = Rc::clone(&store);
                let (start, before) = (random.next_u64(), model.clone());
                model = executor.run(async move {
                    let done = transact(&admitting, 0, |transaction| {
                        let (mut random, mut model) = (Random::new(start), before.clone());
                        random_writes(&mut random, transaction, &mut model, 8, 900)?;
                        Ok(model)
                    });
                    done.await.unwrap().0
                });
            }
            let stop = Rc::new(Cell::new(false));
            let (counting, stopped, clock) =
                (Rc::clone(&store), Rc::clone(&stop), executor.clock());
            executor.spawn(async move {
                for number in (at as u64 * 1_000_000).. {
                    if stopped.get() {
                        break;
                    }
                    count(&counting, number).await;
                    clock.sleep_ms(1).await;
                }
            });
            let (reading, clock) = (Rc::clone(&store), executor.clock());
            let (frames, keys) = executor.run(async move {
                clock.sleep_ms(20).await;
                reading.create_snapshot(name, 1_000_000).await.unwrap();
                let source = source(name, since);
                let frames = read(&reading, source, bytes_max).await.unwrap();
                (frames, all_in(&reading).await)
            });
            stop.set(true);
            expected = keys;
            streams.push(frames);
        }
        for segments in [300, 2000] {
            let (keys, counted) = held(&restored(&streams, segments));
            assert_one_commit(&keys, counted.as_ref());
            // All else rested while the last backup was made.
            let without = |keys: &Model| {
                let mut keys = keys.clone();
                keys.remove(&(0, b"count".to_vec()));
                keys
            };
            assert_eq!(without(&keys), without(&expected), "round {round}");
            let text = counted.unwrap();
            assert!(text.starts_with(b"002"), "{text:?}");
        }
    }
}

#[test]
fn odd_keys_large_values_and_expiries_come_back() {
    let mut executor = Executor::new(1);
    let store = open(&mut executor, &formatted(3000, 1)).unwrap();
    let large = (0..700_000_u32)
        .map(|at| (at % 251) as u8)
        .collect::<Vec<_>>();
    let (writing, value) = (Rc::clone(&store), large.clone());
    let frames = executor.run(async move {
        for piece in value.chunks(20_000) {
            let append = |transaction: &mut Transaction<'_, SimDisk>| {
                transaction.append(DatabaseIndex(15), b"", piece)
            };
            transact(&writing, 0, append).await.unwrap();
        }
        let put = |transaction: &mut Transaction<'_, SimDisk>| {
            transaction.put(DB, &vec![b'k'; 20_000], b"".as_slice(), Some(77));
            transaction.put(DatabaseIndex(3), b"\0", b"v".as_slice(), Some(i64::MAX - 1));
            Ok(())
        };
        transact(&writing, 0, put).await.unwrap();
        writing.create_snapshot("odd", 0).await.unwrap();
        read(&writing, source("odd", None), 1).await.unwrap()
    });
    let disk = restored(&[frames], 4000);
    let mut executor = Executor::new(2);
    let store = open(&mut executor, &disk).unwrap();
    assert_eq!(contents(&mut executor, &store).len(), 3);
    executor.run(async move {
        let entry = value_of(&store, DatabaseIndex(15), b"").await.unwrap();
        assert!(*entry.value == *large && entry.expires_at_ms.is_none());
        let entry = value_of(&store, DB, &vec![b'k'; 20_000]).await.unwrap();
        assert_eq!((entry.value.len(), entry.expires_at_ms), (0, Some(77)));
        let entry = value_of(&store, DatabaseIndex(3), b"\0").await.unwrap();
        assert_eq!(entry.expires_at_ms, Some(i64::MAX - 1));
    });
}

/// What expires is written anew when something is appended to it: in parts it would not fit into a commit at some point.
#[test]
fn large_values_that_expire_come_back() {
    let mut executor = Executor::new(1);
    let store = open(&mut executor, &formatted(3000, 1)).unwrap();
    let lens = [100_000, 300_000, 600_000];
    let frames = executor.run(async move {
        for len in lens {
            let key = len.to_string();
            for at in (0..len).step_by(20_000) {
                let append = |transaction: &mut Transaction<'_, SimDisk>| {
                    transaction.append(DB, key.as_bytes(), &[(at % 251) as u8; 20_000])
                };
                transact(&store, 0, append).await.unwrap();
            }
            let expire = |transaction: &mut Transaction<'_, SimDisk>| {
                transaction.set_expiry(DB, key.as_bytes(), Some(77))
            };
            assert!(transact(&store, 0, expire).await.unwrap().0);
        }
        store.create_snapshot("large", 0).await.unwrap();
        read(&store, source("large", None), 1).await.unwrap()
    });
    let disk = restored(&[frames], 4000);
    let mut executor = Executor::new(2);
    let store = open(&mut executor, &disk).unwrap();
    executor.run(async move {
        for len in lens {
            let entry = value_of(&store, DB, len.to_string().as_bytes())
                .await
                .unwrap();
            assert_eq!((entry.value.len(), entry.expires_at_ms), (len, Some(77)));
            let starts = (0..len).step_by(20_000);
            assert!(
                starts
                    .into_iter()
                    .all(|at| entry.value[at] == (at % 251) as u8)
            );
        }
    });
}

#[test]
fn a_backup_goes_on_after_a_power_cut_whatever_was_written_since() {
    let mut executor = Executor::new(1);
    let disk = formatted(900, 1);
    let store = open(&mut executor, &disk).unwrap();
    let running = Rc::clone(&store);
    let frames = executor.run(async move {
        for number in 0..20 {
            count(&running, number).await;
        }
        for name in ["first", "2", "3", "4", "5"] {
            running.create_snapshot(name, 0).await.unwrap();
        }
        let missing = read(&running, source("none", None), 1).await;
        assert_eq!(missing, Err(BackupReadError::NotFound("none".into())));
        let newer = read(&running, source("first", Some("2")), 1).await;
        assert_eq!(newer, Err(BackupReadError::NotOlder));
        for number in 20..400 {
            let commit = count(&running, number).await;
            running.wait_durable(commit).await.unwrap();
        }
        assert!(running.stats().checkpoints > 2);
        let frames = read(&running, source("first", None), 1).await.unwrap();
        let keys = decoded(&frames)
            .into_iter()
            .filter(|frame| frame.section == BackupSection::Layer);
        let keys = keys.flat_map(|frame| frame.payload).collect::<Vec<_>>();
        let last = format!("{:09}", 19);
        assert!(keys.ends_with(last.as_bytes()), "{keys:?}");
        frames
    });
    drop(executor);
    let mut executor = Executor::new(2);
    let store = open(&mut executor, &disk.snapshot(2)).unwrap();
    executor.run(async move {
        let mut verifier = BackupVerifier::default();
        for expected in &frames {
            let token = verifier.next().clone();
            let found = store.read_backup(source("first", None), &token, 1).await;
            let frame = verifier.accept(expected).unwrap();
            match frame.section {
                // It says how full the source is.
                BackupSection::Header => assert!(found.is_ok()),
                _ => assert_eq!(found.as_ref(), Ok(expected)),
            }
        }
        let nonsense = BackupToken {
            sequence: 1,
            cursor: vec![9, 9],
            ..BackupToken::default()
        };
        let read = store.read_backup(source("first", None), &nonsense, 1).await;
        assert_eq!(read, Err(BackupReadError::NoSuchPlace));
    });
}

#[test]
fn every_commit_that_the_log_retains_can_be_seen_and_restored() {
    let mut executor = Executor::new(1);
    let disk = formatted(900, 1);
    let store = open(&mut executor, &disk).unwrap();
    let running = Rc::clone(&store);
    let states = executor.run(async move {
        let mut states = Vec::new();
        for number in 0..30 {
            let commit = count(&running, number).await;
            running.wait_durable(commit).await.unwrap();
            states.push((commit, all_in(&running).await, counted(&running).await));
        }
        states
    });
    drop(executor);
    let image = disk.snapshot(3);
    for (at, (commit, keys, text)) in states.iter().enumerate() {
        let (commit, device) = (*commit, image.clone());
        let frames = Executor::new(4).run(async move {
            let store = Store::open_at(device, OPTIONS, None, commit).await.unwrap();
            assert_eq!(all_in(&store).await.len(), 1);
            let source = BackupSource {
                show: Err(commit),
                since: None,
            };
            read(&store, source, 5000).await.unwrap()
        });
        if at % 7 == 0 {
            let found = held(&restored(&[frames], 600));
            assert_eq!((&found.0, &found.1), (keys, text), "{commit:?}");
        }
    }
    let newest = states.last().unwrap().0;
    let beyond = Timestamp(newest.0 + 1);
    let opened = Executor::new(5).run(Store::open_at(image, OPTIONS, None, beyond));
    match opened.map(|_| ()) {
        Err(OpenError::NotRetained {
            oldest,
            newest: last,
        }) => {
            assert!(
                oldest < states[0].0 && last == newest,
                "{oldest:?} {last:?}"
            );
        }
        other => panic!("{other:?}"),
    }
}

/// Commits a transaction with a token, which sets the key `by` to it.
async fn commit_with(store: &TestStore, token: &[u8], now_ms: i64, until_ms: i64) -> Committed {
    let mut loaded = Loaded::default();
    let open = store.begin(BeginOptions::default(), now_ms, 0).unwrap();
    let mut transaction = store.resume(&open, now_ms, 0, &mut loaded).unwrap();
    transaction.put(DB, b"by", token, None);
    transaction.suspend(true).unwrap();
    loop {
        match store.try_commit(&open, Some((token, until_ms)), now_ms, 0, &mut loaded) {
            Err(CommitStop::Fault(faults)) => store.load_all(faults, &mut loaded).await.unwrap(),
            done => return done.unwrap(),
        }
    }
}

/// Whether a token is known at that time.
async fn knows(store: &TestStore, token: &[u8], now_ms: i64) -> bool {
    let mut loaded = Loaded::default();
    loop {
        match store.token(token, now_ms, &mut loaded) {
            Ok((there, _)) => return there,
            Err(faults) => store.load_all(faults, &mut loaded).await.unwrap(),
        }
    }
}

#[test]
fn what_was_committed_once_is_not_committed_again_after_a_restore() {
    let long = [7; 255];
    let mut executor = Executor::new(1);
    let store = open(&mut executor, &formatted(900, 1)).unwrap();
    let running = Rc::clone(&store);
    let streams = executor.run(async move {
        commit_with(&running, b"a", 0, 5000).await;
        commit_with(&running, &long, 0, i64::MAX).await;
        commit_with(&running, b"late", 0, 9000).await;
        running.create_snapshot("1", 0).await.unwrap();
        // Not in the first one.
        commit_with(&running, b"b", 1000, 8000).await;
        let first = read(&running, source("1", None), 1).await.unwrap();
        assert_eq!(running.reclaim_expired(6000, 10).await, Ok(1));
        running.create_snapshot("2", 0).await.unwrap();
        let second = read(&running, source("2", Some("1")), 1).await.unwrap();
        [first, second]
    });
    drop(executor);
    let first = restored(&streams[..1], 900);
    let both = restored(&streams, 900);
    for (disk, b_is_known) in [(first, false), (both, true)] {
        let mut executor = Executor::new(2);
        let store = open(&mut executor, &disk).unwrap();
        executor.run(async move {
            assert_eq!(knows(&store, b"a", 4999).await, !b_is_known);
            assert!(!knows(&store, b"a", 5000).await);
            assert!(knows(&store, &long, i64::MAX - 1).await);
            assert!(knows(&store, b"late", 8999).await && !knows(&store, b"late", 9000).await);
            assert_eq!(knows(&store, b"b", 7999).await, b_is_known);
            assert!(!knows(&store, b"c", 0).await);
            assert!(commit_with(&store, b"late", 7000, 20_000).await.repeated);
            let by = value_of(&store, DB, b"by").await.unwrap();
            assert_eq!(*by.value, *if b_is_known { &b"b"[..] } else { b"late" });
            let again = commit_with(&store, b"b", 7000, 20_000).await;
            assert_eq!(again.repeated, b_is_known);
        });
    }
}

/// A record as SPEC.md says: of kind, database, key, expiry and value, as far as the kind has them.
fn record(kind: u8, db: u8, key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, db];
    bytes.extend_from_slice(&u16::try_from(key.len()).unwrap().to_le_bytes());
    if matches!(kind, 2 | 5) {
        bytes.extend_from_slice(&77_i64.to_le_bytes());
    }
    if matches!(kind, 1 | 2 | 4 | 8) {
        bytes.extend_from_slice(&u32::try_from(value.len()).unwrap().to_le_bytes());
    }
    bytes.extend_from_slice(key);
    if matches!(kind, 1 | 2 | 4 | 8) {
        bytes.extend_from_slice(value);
    }
    bytes
}

#[test]
fn what_no_backup_says_is_refused_and_nothing_else() {
    let (token, longest, time) = (b"tid", [b't'; 256], 9_i64.to_le_bytes());
    let too_long = [b't'; 257];
    // What it says, and whether a full one and an incremental one may.
    let cases: [(&str, Vec<u8>, bool, bool); 34] = [
        ("a put", record(1, 15, b"k", b"v"), true, true),
        ("an expiring put", record(2, 0, b"k", b"v"), true, true),
        ("a delete", record(3, 0, b"k", b""), false, true),
        ("an append", record(4, 0, b"k", b"v"), true, true),
        ("an expiry", record(5, 0, b"k", b""), true, true),
        ("no expiry", record(6, 0, b"k", b""), false, false),
        ("a clear", record(7, 0, b"", b""), true, true),
        ("a clear of a key", record(7, 0, b"k", b""), false, false),
        ("a range", record(8, 0, b"k", b"l"), false, true),
        ("a range to the end", record(8, 0, b"k", b""), false, true),
        ("all keys", record(8, 0, b"", b""), false, true),
        ("an empty range", record(8, 0, b"k", b"k"), false, false),
        ("a range backward", record(8, 0, b"k", b"a"), false, false),
        ("an unknown kind", record(9, 0, b"k", b""), false, false),
        ("kind 0", record(0, 0, b"k", b""), false, false),
        ("database 16", record(1, 16, b"k", b"v"), false, false),
        ("database 254", record(1, 254, b"tid", &time), false, false),
        ("a token", record(2, 255, token, &time), true, true),
        ("one for ever", record(1, 255, token, &time), true, true),
        ("a long token", record(2, 255, &longest, &time), true, true),
        (
            "a longer one",
            record(2, 255, &too_long, &time),
            false,
            false,
        ),
        ("one of no name", record(2, 255, b"t", &time), false, false),
        ("another key", record(2, 255, b"u1", &time), false, false),
        ("an empty key", record(2, 255, b"", &time), false, false),
        ("a token's value", record(1, 255, token, b"v"), false, false),
        (
            "too long a value",
            record(1, 255, token, &[0; 9]),
            false,
            false,
        ),
        ("a token's end", record(3, 255, token, b""), false, true),
        (
            "another key's end",
            record(3, 255, b"u1", b""),
            false,
            false,
        ),
        ("a longer token", record(4, 255, token, b"v"), false, false),
        ("a token's expiry", record(5, 255, token, b""), false, false),
        ("a token for ever", record(6, 255, token, b""), false, false),
        ("no tokens", record(7, 255, b"", b""), false, false),
        (
            "a range of tokens",
            record(8, 255, b"t", b"u"),
            false,
            false,
        ),
        (
            "half a record",
            record(1, 0, b"k", b"v")[..7].to_vec(),
            false,
            false,
        ),
    ];
    for (what, payload, in_full, in_incremental) in cases {
        for (since, is_possible) in [(0, in_full), (5, in_incremental)] {
            let frame = BackupFrame {
                id: BackupId {
                    lineage: [1; 16],
                    at: CommitNumber(9),
                    since: CommitNumber(since),
                },
                section: BackupSection::Layer,
                payload: payload.clone(),
            };
            let (disk, done) = restored_frames(vec![frame], 100);
            let expected = if is_possible {
                Ok(())
            } else {
                Err(RestoreError::Malformed)
            };
            assert_eq!(done, expected, "{what}, since {since}");
            let mut executor = Executor::new(2);
            let store = open(&mut executor, &disk).unwrap();
            let puts_it = [1, 2].map(|kind| record(kind, 255, token, &time));
            let is_known = puts_it.contains(&payload);
            executor.run(async move {
                assert_eq!(knows(&store, b"id", 76).await, is_known, "{what}");
                let stays = is_known && what == "one for ever";
                assert_eq!(knows(&store, b"id", 77).await, stays, "{what}");
            });
        }
    }
}

//! Files and keys in one transaction: against a model, across reboots and power cuts.
//!
//! Invariants:
//! - a transaction sees its own changes to files as to keys; an operation that fails changes nothing, and the
//!   transaction goes on;
//! - after a power cut at any point, keys and files together are exactly as after some commit, which is not older
//!   than any that was acknowledged;
//! - what is not in memory is loaded and the transaction begins again: nobody sees an attempt.
#![allow(clippy::too_many_lines, reason = "a test tells its story in one go")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::common::{
    Acknowledged, Model, TestStore, contents, formatted, formatted_of_any_kind,
    newest_acknowledged, open, random_writes, seed,
};
use kvstore::{CommitError, DatabaseIndex, Timestamp, TransactError, Transaction};
use lfs::sim::{Executor, Random, SimDisk};
use lfs::{
    BlockDevice, Clock, FileError, FileKind, InodeNumber, Namespace, NewInode, ROOT, RenameFlags,
};

/// Directories and files by path: `None` is a directory.
type Tree = BTreeMap<String, Option<Vec<u8>>>;

#[derive(Debug, Clone, Default, PartialEq)]
struct World {
    keys: Model,
    files: Tree,
}

/// Runs `body` until nothing is missing, and commits.
async fn transact<D: BlockDevice, T>(
    store: &kvstore::Store<D>,
    mut body: impl FnMut(&mut Transaction<'_, D>) -> T,
) -> Result<(T, Timestamp), CommitError> {
    loop {
        store.admit().await;
        let done = store.transact(0, 1, |transaction| Ok(body(transaction)));
        match done.await {
            Ok(done) => return Ok(done),
            // Others took the room while something was loaded.
            Err(TransactError::Commit(CommitError::Busy)) => {}
            Err(TransactError::Commit(error)) => return Err(error),
            Err(TransactError::Load(error)) => panic!("{error}"),
        }
    }
}

type Files<'a, 'v> = Namespace<'a, lfs::Transaction<'v>>;

/// All files and directories.
fn walk(
    files: &mut Files<'_, '_>,
    directory: InodeNumber,
    path: &str,
    tree: &mut Tree,
) -> Result<(), FileError> {
    for entry in files.read_dir(directory, 0, usize::MAX)?.entries {
        let path = format!("{path}/{}", String::from_utf8_lossy(&entry.name));
        if entry.kind == FileKind::Directory {
            tree.insert(path.clone(), None);
            walk(files, entry.inode, &path, tree)?;
        } else {
            let content = files.read(entry.inode, 0, usize::MAX)?;
            tree.insert(path, Some(content));
        }
    }
    Ok(())
}

fn tree(transaction: &mut Transaction<'_, SimDisk>) -> Result<Tree, FileError> {
    transaction.files(|transaction| {
        let mut found = Tree::new();
        walk(&mut transaction.files(), ROOT, "", &mut found)?;
        Ok(found)
    })
}

fn world(executor: &mut Executor, store: &Rc<TestStore>) -> World {
    let keys = contents(executor, store);
    let store = Rc::clone(store);
    let files = executor.run(async move { transact(&store, tree).await.unwrap().0.unwrap() });
    World { keys, files }
}

fn path(random: &mut Random) -> String {
    let name = format!("/f{}", random.below(5));
    match random.below(3) {
        0 => name,
        directory => format!("/d{directory}{name}"),
    }
}

/// One operation on files, and what the model makes of it. Both must agree on whether it fails.
fn operate(
    random: &mut Random,
    transaction: &mut Transaction<'_, SimDisk>,
    tree: &mut Tree,
    bytes_max: u64,
) -> Result<(), FileError> {
    let (from, to) = (path(random), path(random));
    let parent_of = |path: &str| path.rsplit_once('/').unwrap().0.to_owned();
    let has_parent =
        |tree: &Tree, path: &str| parent_of(path).is_empty() || tree.contains_key(&parent_of(path));
    let bytes = vec![random.next_u64().to_le_bytes()[0]; random.below(bytes_max) as usize];
    let kind = random.below(20);
    let offset = random.below(bytes_max);
    let directory = format!("/d{}", 1 + random.below(2));
    let wanted = match kind {
        // Whole content, a part, the end, the size.
        0..=9 => has_parent(tree, &from).then_some(()),
        10..=12 => tree.contains_key(&from).then_some(()),
        13..=14 => (tree.contains_key(&from) && has_parent(tree, &to)).then_some(()),
        15..=17 => (!tree.contains_key(&directory)).then_some(()),
        _ => tree.contains_key(&directory).then_some(()),
    };
    let result = transaction.files(|transaction| {
        let mut files = transaction.files();
        let open = |files: &mut Files<'_, '_>| match files.resolve(from.as_bytes(), true) {
            Err(FileError::NotFound) => {
                let (directory, name) = files.resolve_parent(from.as_bytes())?;
                files.create(directory, name, &NewInode::new(FileKind::File, 0o644))
            }
            found => found,
        };
        match kind {
            0..=4 => {
                let inode = open(&mut files)?;
                files.truncate(inode, 0)?;
                files.write(inode, 0, &bytes)
            }
            5..=7 => {
                let inode = open(&mut files)?;
                let size = files.size(inode)?;
                files.write(inode, size, &bytes)
            }
            8..=9 => {
                let inode = open(&mut files)?;
                files.write(inode, offset, &bytes)
            }
            10..=11 => {
                let inode = files.resolve(from.as_bytes(), true)?;
                files.truncate(inode, offset)
            }
            12 => {
                let (directory, name) = files.resolve_parent(from.as_bytes())?;
                files.unlink(directory, name)
            }
            13..=14 => {
                let (directory, name) = files.resolve_parent(from.as_bytes())?;
                let (new_directory, new_name) = files.resolve_parent(to.as_bytes())?;
                let flags = RenameFlags::default();
                files.rename(directory, name, new_directory, new_name, flags)
            }
            15..=17 => {
                let new = NewInode::new(FileKind::Directory, 0o755);
                files.create(ROOT, &directory.as_bytes()[1..], &new)?;
                Ok(())
            }
            _ => files.remove_tree(ROOT, &directory.as_bytes()[1..]),
        }
    });
    if let Err(error @ (FileError::Fault(_) | FileError::TransactionTooLarge)) = result {
        return Err(error);
    }
    assert_eq!(
        result.is_ok(),
        wanted.is_some(),
        "operation {kind} on {from}: {result:?}"
    );
    if result.is_err() {
        return Ok(());
    }
    match kind {
        0..=4 => drop(tree.insert(from, Some(bytes))),
        5..=9 => {
            let content = tree.entry(from).or_insert_with(|| Some(Vec::new()));
            let content = content.as_mut().unwrap();
            let at = if kind < 8 {
                content.len()
            } else {
                offset as usize
            };
            if !bytes.is_empty() {
                content.resize(content.len().max(at + bytes.len()), 0);
                content[at..at + bytes.len()].copy_from_slice(&bytes);
            }
        }
        10..=11 => {
            let content = tree.get_mut(&from).unwrap().as_mut().unwrap();
            content.resize(offset as usize, 0);
        }
        12 => drop(tree.remove(&from)),
        13..=14 => {
            let content = tree.remove(&from).unwrap();
            tree.insert(to, content);
        }
        15..=17 => drop(tree.insert(directory, None)),
        _ => {
            tree.retain(|path, _| {
                *path != directory && !path.starts_with(&format!("{directory}/"))
            });
        }
    }
    Ok(())
}

/// A random transaction over keys and files, applied to `world` as well. False when it was in vain: something
/// has to be loaded, or it became too large.
fn random_transaction(
    random: &mut Random,
    transaction: &mut Transaction<'_, SimDisk>,
    world: &mut World,
    ops: u64,
    bytes_max: u64,
) -> bool {
    for _ in 0..=random.below(ops) {
        if random.one_in(3) {
            let keys = &mut world.keys;
            if random_writes(random, transaction, keys, 1, bytes_max / 4).is_err() {
                return false;
            }
        }
        if operate(random, transaction, &mut world.files, bytes_max).is_err() {
            return false;
        }
    }
    if random.one_in(4) {
        match tree(transaction) {
            Ok(found) => assert_eq!(found, world.files, "own changes are seen"),
            Err(_) => return false,
        }
    }
    true
}

/// Runs a random transaction and commits it; the state after it, and its commit. `None`: nothing was changed.
async fn change(
    store: &TestStore,
    random: &mut Random,
    world: &RefCell<World>,
    ops: u64,
    bytes_max: u64,
) -> Option<(World, Timestamp)> {
    let start = random.next_u64();
    let done = transact(store, |transaction| {
        // Other transactions may have come in between.
        let (mut random, mut next) = (Random::new(start), world.borrow().clone());
        let whole = random_transaction(&mut random, transaction, &mut next, ops, bytes_max);
        (whole, transaction.is_read_only(), next)
    });
    match done.await {
        Ok(((true, false, next), timestamp)) => Some((next, timestamp)),
        Ok(((false, ..), _)) => panic!("half a transaction was committed"),
        // What only read tells what it depends on, not of a commit of its own.
        Ok(((true, true, _), _))
        | Err(CommitError::TooLarge | CommitError::FilesFull | CommitError::DiskFull) => None,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn random_transactions_over_keys_and_files_agree_with_a_model() {
    let seed = seed(31);
    for round in 0..30 {
        let mut random = Random::new(seed + round);
        let mut disk = formatted(256, random.next_u64());
        let mut model = World::default();
        for _boot in 0..4 {
            let mut executor = Executor::new(random.next_u64());
            let store = open(&mut executor, &disk).unwrap();
            assert_eq!(
                world(&mut executor, &store),
                model,
                "round {round}, after a reboot"
            );
            let clean = random.one_in(2);
            let (working, mut inner) = (Rc::clone(&store), random.clone());
            model = executor.run(async move {
                let current = RefCell::new(model);
                for _ in 0..150 {
                    let done = change(&working, &mut inner, &current, 5, 6000).await;
                    if let Some((next, _)) = done {
                        current.replace(next);
                    }
                    if inner.one_in(4) {
                        working.wait_durable(working.committed()).await.unwrap();
                    }
                }
                working.wait_durable(working.committed()).await.unwrap();
                if clean {
                    working.shutdown().await.unwrap();
                }
                current.into_inner()
            });
            if !clean {
                assert_eq!(world(&mut executor, &store), model, "round {round}");
            }
            random.next_u64();
            disk = disk.snapshot(random.next_u64());
        }
    }
}

/// What a workload did, as far as a crash may show.
#[derive(Default)]
struct History {
    /// The state after each commit of a transaction.
    states: BTreeMap<Timestamp, World>,
    acknowledged: Vec<Acknowledged>,
}

fn run(disk: &SimDisk, commits: u64, ops: u64, bytes_max: u64, seed: u64) -> History {
    let mut random = Random::new(seed);
    let mut executor = Executor::new(seed);
    let store = open(&mut executor, disk).unwrap();
    let history = Rc::new(RefCell::new(History {
        states: BTreeMap::from([(Timestamp(0), World::default())]),
        acknowledged: Vec::new(),
    }));
    let (kept, disk) = (Rc::clone(&history), disk.clone());
    executor.run(async move {
        let world = RefCell::new(World::default());
        for _ in 0..commits {
            let Some((next, timestamp)) = change(&store, &mut random, &world, ops, bytes_max).await
            else {
                continue;
            };
            world.replace(next.clone());
            kept.borrow_mut().states.insert(timestamp, next);
            if random.one_in(2) {
                store.wait_durable(timestamp).await.unwrap();
                let events = disk.event_count();
                kept.borrow_mut()
                    .acknowledged
                    .push(Acknowledged { timestamp, events });
            }
        }
    });
    history.take()
}

/// Checks what recovery makes of some outcomes of a power cut after `events`; how many it checked.
fn crash(disk: &SimDisk, history: &History, events: usize, random: &mut Random) -> usize {
    const SAMPLES: usize = 6;
    let crash = disk.crash_at(events);
    let sectors = crash.open_sectors();
    for sample in 0..SAMPLES {
        let cut = random.index(sectors + 1);
        let after = crash.disk(
            |sector| match sample {
                0 => false,
                1 => true,
                2 => sector < cut,
                3 => sector >= cut,
                _ => random.one_in(2),
            },
            0,
        );
        let context = format!("event {events}, {sectors} open sectors, sample {sample}");
        let mut executor = Executor::new(events as u64);
        let store =
            open(&mut executor, &after).unwrap_or_else(|error| panic!("{context}: {error}"));
        let recovered = store.committed();
        let newest = newest_acknowledged(&history.acknowledged, events);
        assert!(
            recovered >= newest,
            "{context}: {newest:?} was acknowledged"
        );
        // Commits in between free what was removed: they change nothing that shows.
        let (_, expected) = history.states.range(..=recovered).next_back().unwrap();
        assert!(
            &world(&mut executor, &store) == expected,
            "{context}: not the state after {recovered:?}"
        );
    }
    SAMPLES
}

#[test]
fn keys_and_files_of_a_transaction_survive_a_power_cut_together_or_not_at_all() {
    let seed = seed(32);
    let mut recoveries = 0;
    for round in 0..60 {
        let mut random = Random::new(seed + round);
        let disk = formatted_of_any_kind(128, random.next_u64());
        let history = run(&disk, 8, 4, 3000, random.next_u64());
        for events in 0..=disk.event_count() {
            recoveries += crash(&disk, &history, events, &mut random);
        }
    }
    println!("{recoveries} recoveries");
    assert!(recoveries > 2000);
}

#[test]
fn long_mixed_workloads_survive_power_cuts_at_random_points() {
    let seed = seed(33);
    let mut recoveries = 0;
    for round in 0..20 {
        let mut random = Random::new(seed + round);
        let disk = formatted_of_any_kind(256, random.next_u64());
        let history = run(&disk, 250, 5, 9000, random.next_u64());
        for _ in 0..30 {
            let events = random.index(disk.event_count() + 1);
            recoveries += crash(&disk, &history, events, &mut random);
        }
    }
    println!("{recoveries} recoveries");
    assert!(recoveries > 3000);
}

#[test]
fn an_operation_that_fails_leaves_the_rest_of_its_transaction_alone() {
    let disk = formatted(128, 1);
    let mut executor = Executor::new(1);
    let store = open(&mut executor, &disk).unwrap();
    let working = Rc::clone(&store);
    executor.run(async move {
        let (results, _) = transact(&working, |transaction| {
            transaction.put(DatabaseIndex(0), b"k", &b"v"[..], None);
            let file = NewInode::new(FileKind::File, 0o644);
            let made = transaction.files(|tx| tx.files().create(ROOT, b"kept", &file).map(drop));
            // Half done when it fails.
            let failed = transaction.files(|tx| {
                let inode = tx.files().create(ROOT, b"gone", &file)?;
                tx.files().write(inode, 0, &[1; 5000])?;
                tx.files().lookup(inode, b"x").map(drop)
            });
            (made, failed)
        })
        .await
        .unwrap();
        assert_eq!(results, (Ok(()), Err(FileError::NotADirectory)));
    });
    let world = world(&mut executor, &store);
    assert_eq!(world.files.keys().collect::<Vec<_>>(), ["/kept"]);
    assert_eq!(world.keys.len(), 1);
}

/// Sets a key.
async fn set(store: &TestStore, key: u32, value: &[u8]) -> Result<Timestamp, CommitError> {
    let ((), timestamp) = transact(store, |transaction| {
        transaction.put(DatabaseIndex(0), &key.to_le_bytes(), value, None);
    })
    .await?;
    store.wait_durable(timestamp).await.unwrap();
    Ok(timestamp)
}

/// Sets the content of a file.
async fn put(store: &TestStore, number: u32, bytes: &[u8]) -> Result<Timestamp, CommitError> {
    let name = format!("file{number}");
    let ((), timestamp) = transact(store, |transaction| {
        let done = transaction.files(|tx| {
            let mut files = tx.files();
            let inode = match files.lookup(ROOT, name.as_bytes()) {
                Err(FileError::NotFound) => {
                    files.create(ROOT, name.as_bytes(), &NewInode::new(FileKind::File, 0o644))?
                }
                found => found?,
            };
            files.truncate(inode, 0)?;
            files.write(inode, 0, bytes)
        });
        assert!(
            matches!(done, Ok(()) | Err(FileError::Fault(_))),
            "{done:?}"
        );
    })
    .await?;
    store.wait_durable(timestamp).await.unwrap();
    Ok(timestamp)
}

#[test]
fn files_that_fill_the_disk_leave_keys_what_they_need_and_keys_leave_files_theirs() {
    let seed = seed(34);
    let disk = formatted(256, seed);
    let mut executor = Executor::new(seed);
    let store = open(&mut executor, &disk).unwrap();
    let clock = executor.clock();
    executor.run(async move {
        for key in 0..100 {
            set(&store, key, &[1; 2000]).await.unwrap();
        }
        let mut random = Random::new(seed);
        let mut noise = |len: usize| -> Vec<u8> {
            (0..len)
                .map(|_| random.next_u64().to_le_bytes()[0])
                .collect()
        };
        let mut count = 0;
        let full = loop {
            match put(&store, count, &noise(20_000)).await {
                Ok(_) => count += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(full, CommitError::FilesFull);
        assert!(count > 60, "{count} files on 8 MiB");
        // Keys are overwritten and flushed as if nothing were the matter; new ones have hardly any room.
        for round in 0..4000 {
            set(&store, round % 100, &noise(2000)).await.unwrap();
        }
        let mut more = 0;
        let full = loop {
            match set(&store, 1000 + more, &noise(60_000)).await {
                Ok(_) => more += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(full, CommitError::DiskFull);
        assert!(more <= 5, "{more} values of 60,000 bytes");
        // Removing always works, and gives room to both.
        for number in 0..count {
            let name = format!("file{number}");
            let ((), timestamp) = transact(&store, |transaction| {
                let gone = transaction.files(|tx| tx.files().unlink(ROOT, name.as_bytes()));
                assert!(
                    matches!(gone, Ok(()) | Err(FileError::Fault(_))),
                    "{gone:?}"
                );
            })
            .await
            .unwrap();
            store.wait_durable(timestamp).await.unwrap();
        }
        clock.sleep_ms(10_000).await;
        set(&store, 1000, &[1; 60_000]).await.unwrap();
        let mut keys = 2000;
        let full = loop {
            match set(&store, keys, &noise(20_000)).await {
                Ok(_) => keys += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(full, CommitError::DiskFull);
        let mut number = 0;
        let full = loop {
            match put(&store, number, &noise(20_000)).await {
                Ok(_) => number += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(full, CommitError::FilesFull);
        assert!(
            number < count / 4,
            "{number} files beside keys that fill the disk"
        );
        store.shutdown().await.unwrap();
    });
    let mut executor = Executor::new(seed);
    open(&mut executor, &disk.snapshot(seed)).unwrap();
}

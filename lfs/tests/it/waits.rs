//! How often one waits for the disk where it is known what will be read.
//!
//! Invariants: what is known to be wanted together is read together, a bounded number of requests at once; so the
//! number of waits is a small part of the number of reads.

use crate::common;

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;

use embassy_futures::join::{join, join3};
use embassy_futures::poll_once;
use embassy_futures::yield_now;

use crate::common::counting::{CountingDisk, Reads};
use crate::common::world::random_bytes;
use crate::common::{FORMAT, ID, TestFileSystem, mount};
use lfs::sim::{Executor, Random, Request, SimDisk};
use lfs::{
    BlockDevice, Clock, CommitNumber, DeviceError, FileError, FileKind, FileSystem, FormatOptions,
    InodeNumber, ItemKey, ItemKind, NewInode, ROOT, SetAttributes, Transaction, View,
};

/// Requests under way at once, at most.
const AT_ONCE_MAX: usize = 16;
/// Blocks within which nodes are read in one request.
const NEAR_BLOCKS: usize = 16;
/// Files on the disk, four of them in a leaf.
const FILES: usize = 600;
/// Of which so many are touched, each in a leaf of its own.
const TOUCHED: usize = 60;

fn name(number: usize) -> Vec<u8> {
    format!("file {number}").into_bytes()
}

/// A disk with many files, shut down.
fn disk_with_files() -> SimDisk {
    let disk = SimDisk::new(200 * 32, 1);
    let target = disk.clone();
    let options = FormatOptions {
        segment_bytes: 32 * 4096,
        ..FORMAT
    };
    let mut executor = Executor::new(1);
    executor.run(async move { common::key::format(&target, options, ID).await.unwrap() });
    let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
    let clock = executor.clock();
    executor.run(async move {
        for number in 0..FILES {
            create(&filesystem, &name(number), &[7; 900]).await;
        }
        filesystem.shutdown(&clock).await.unwrap();
    });
    disk.snapshot(1)
}

async fn create(filesystem: &TestFileSystem, name: &[u8], content: &[u8]) {
    let new = NewInode::new(FileKind::File, 0o600);
    let make = filesystem.transact(1, |transaction| {
        let file = transaction.files().create(ROOT, name, &new)?;
        transaction.files().write(file, 0, content)
    });
    make.await.unwrap();
}

/// The files that are touched.
fn touched(transaction: &mut Transaction<'_>) -> Result<Vec<InodeNumber>, FileError> {
    let spread = FILES / TOUCHED;
    (0..TOUCHED)
        .map(|number| transaction.files().lookup(ROOT, &name(number * spread)))
        .collect()
}

async fn mount_counting<D: BlockDevice>(disk: D) -> FileSystem<D> {
    let mut recovery = common::key::open(disk).await.unwrap();
    while recovery.next_commit().await.unwrap().is_some() {}
    recovery.finish().await.unwrap()
}

fn assert_together(what: &str, reads: Reads, least: usize) {
    println!("{what}: {reads:?}");
    assert!(reads.blocks >= least, "{what}: {reads:?}");
    assert!(reads.rounds * 5 <= reads.blocks, "{what}: {reads:?}");
    assert!(reads.rounds * 2 <= reads.requests, "{what}: {reads:?}");
    assert!(
        (2..=AT_ONCE_MAX).contains(&reads.at_once),
        "{what}: {reads:?}"
    );
}

#[test]
fn replay_of_commits_all_over_a_tree_waits_for_many_nodes_at_once() {
    let disk = disk_with_files();
    let mut executor = Executor::new(2);
    let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
    executor.run(async move {
        let files = filesystem.read(touched).await.unwrap();
        for file in files {
            let change = SetAttributes {
                mode: Some(0o640),
                ..SetAttributes::default()
            };
            let change = filesystem.transact(2, |tx| tx.files().set_attributes(file, &change));
            let ((), commit) = change.await.unwrap();
            filesystem.wait_durable(commit).await.unwrap();
        }
        assert_eq!(filesystem.counters().checkpoints, 0, "nothing to replay");
    });
    // And then the power fails.
    let disk = CountingDisk::new(disk.snapshot(1), NEAR_BLOCKS);
    let counted = disk.clone();
    let reads = executor.run(async move {
        mount_counting(disk).await;
        counted.take()
    });
    assert_together("replay", reads, TOUCHED);
}

/// What a commit all over a tree reads, on a disk of so many copies, with such faults.
fn reads_of_a_commit(
    copies: u8,
    faults: impl Fn(Request) -> Option<DeviceError> + 'static,
) -> Reads {
    let disk = disk_with_files();
    let mut executor = Executor::new(2);
    let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
    let items = executor.run(async move {
        let read = filesystem.read(|transaction| {
            let keys = touched(transaction)?.into_iter();
            let keys = keys.map(|file| ItemKey::new(file.0, ItemKind::Inode, 0));
            keys.map(|key| Ok((key, transaction.get(key)?.unwrap())))
                .collect::<Result<Vec<_>, FileError>>()
        });
        read.await.unwrap()
    });
    let disk = disk.snapshot(1);
    let counted = CountingDisk::new(disk.clone(), NEAR_BLOCKS).of_copies(copies);
    executor.run(async move {
        let filesystem = mount_counting(counted.clone()).await;
        counted.take();
        disk.set_faults(faults);
        // What is overwritten need not be read before, but for where it is.
        let write = filesystem.transact(3, |transaction| {
            for (key, value) in &items {
                transaction.put(*key, value.clone());
            }
            Ok(())
        });
        write.await.unwrap();
        counted.take()
    })
}

/// They are as the checkpoint has written them: in the order of their keys.
#[test]
fn a_commit_all_over_a_tree_waits_for_many_nodes_at_once_and_reads_neighbours_in_one_request() {
    let reads = reads_of_a_commit(1, |_| None);
    assert_together("commit", reads, TOUCHED);
    assert!(reads.requests * 4 <= reads.blocks, "{reads:?}");
}

/// What is between nodes may be what cannot be read.
#[test]
fn nodes_are_read_by_themselves_where_they_cannot_be_read_together() {
    let reads = reads_of_a_commit(1, |request| {
        let is_of_several = matches!(request, Request::Read(_, blocks) if blocks > 1);
        is_of_several.then_some(DeviceError::Io)
    });
    println!("{reads:?}");
    assert!(reads.requests >= TOUCHED, "{reads:?}");
}

/// On a mirror that would count against a disk that has all that is needed.
#[test]
fn what_is_between_nodes_is_not_read_of_a_mirror() {
    let reads = reads_of_a_commit(2, |_| None);
    println!("{reads:?}");
    assert_eq!(reads.requests, reads.blocks);
    assert!(reads.requests >= TOUCHED, "{reads:?}");
}

#[test]
fn reading_a_file_waits_for_many_extents_at_once() {
    let disk = disk_with_files();
    let mut executor = Executor::new(2);
    let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
    let clock = executor.clock();
    let content = random_bytes(&mut Random::new(1), 40 * 4096);
    let written = Rc::new(content);
    let expected = Rc::clone(&written);
    executor.run(async move {
        create(&filesystem, b"large", &[]).await;
        for (number, block) in written.chunks(4096).enumerate() {
            let offset = number as u64 * 4096;
            let write = filesystem.transact(2, |transaction| {
                let file = transaction.files().lookup(ROOT, b"large")?;
                transaction.files().write(file, offset, block)
            });
            write.await.unwrap();
        }
        filesystem.shutdown(&clock).await.unwrap();
    });
    let disk = CountingDisk::new(disk.snapshot(1), 2);
    let counted = disk.clone();
    let reads = executor.run(async move {
        let filesystem = mount_counting(disk).await;
        let find = filesystem.read(|tx| tx.files().lookup(ROOT, b"large"));
        let file = find.await.unwrap();
        let size = expected.len();
        counted.take();
        let content = filesystem.read(|tx| tx.files().read(file, 0, size));
        assert!(content.await.unwrap() == *expected);
        counted.take()
    });
    assert_together("file", reads, 40);
}

/// How long a checkpoint would wait for a commit, to share its flush.
const PATIENCE_US: i64 = 1_000_000;

/// Who waits until nodes may change again waits for a checkpoint. That does not wait for somebody's commit then, for which all would wait in
/// vain.
#[test]
fn a_checkpoint_that_is_waited_for_waits_for_nobody() {
    let disk = disk_with_files();
    let mut executor = Executor::new(3);
    let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
    let clock = executor.clock();
    let counted = Rc::clone(&filesystem);
    let longest = executor.run(async move {
        let mut longest = 0;
        for round in 0..100 {
            let before = clock.unix_us();
            let change = SetAttributes {
                mode: Some(0o600 + round),
                ..SetAttributes::default()
            };
            let all_over = filesystem.transact(2, |transaction| {
                for number in 0..TOUCHED {
                    let number = number * (FILES / TOUCHED) + round as usize % 10;
                    let file = transaction.files().lookup(ROOT, &name(number))?;
                    transaction.files().set_attributes(file, &change)?;
                }
                Ok(())
            });
            let ((), commit) = all_over.await.unwrap();
            filesystem.wait_durable(commit).await.unwrap();
            longest = longest.max(clock.unix_us() - before);
        }
        longest
    });
    let checkpoints = counted.counters().checkpoints;
    println!("{longest} us at most, {checkpoints} checkpoints");
    assert!(checkpoints > 20);
    assert!(longest < PATIENCE_US);
}

/// Who has no room waits for the checkpoint under way, which may bring some, and is not kept waiting by it.
#[test]
fn who_finds_no_room_is_not_kept_waiting_by_a_checkpoint() {
    let disk = disk_with_files();
    let mut executor = Executor::new(4);
    let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
    let mut random = Random::new(5);
    let filling = Rc::clone(&filesystem);
    let (inode, mut offset) = executor.run(async move {
        let new = NewInode::new(FileKind::File, 0o600);
        let create = filling.transact(3, |tx| tx.files().create(ROOT, b"new", &new));
        let (inode, _) = create.await.unwrap();
        let mut offset = 0;
        loop {
            let bytes = random_bytes(&mut random, 1 << 15);
            let write = filling.transact(3, |tx| tx.files().write(inode, offset, &bytes));
            match write.await {
                Ok(_) => offset += bytes.len() as u64,
                Err(FileError::NoSpace) => return (inode, offset),
                Err(error) => panic!("{error}"),
            }
        }
    });
    offset += 1 << 20;
    let (mut waited, mut longest) = (0, 0);
    for round in 0..20 {
        let (maker, clock) = (Rc::clone(&filesystem), executor.clock());
        executor.spawn(async move {
            let made = maker.checkpoint(maker.durable(), &[], &[], &clock);
            made.await.unwrap();
        });
        let (writer, clock) = (Rc::clone(&filesystem), executor.clock());
        let (checkpoints, took_us) = executor.run(async move {
            let (before, begun) = (writer.counters().checkpoints, clock.unix_us());
            // However the two take turns.
            for _ in 0..round {
                yield_now().await;
            }
            let bytes = random_bytes(&mut Random::new(round), 1 << 15);
            let write = writer.transact(4, |tx| tx.files().write(inode, offset, &bytes));
            assert_eq!(write.await.map(drop), Err(FileError::NoSpace));
            let made = writer.counters().checkpoints - before;
            let took_us = clock.unix_us() - begun;
            clock.sleep_ms(10_000).await;
            (made, took_us)
        });
        waited += checkpoints;
        longest = longest.max(took_us);
    }
    println!("{longest} us at most, {waited} waited for");
    assert!(waited > 2);
    assert!(longest < PATIENCE_US);
}

/// What goes on in the background waits while there are too many changed nodes. A checkpoint that gave way to others has to hear of that, or all would wait for each other.
#[test]
fn who_waits_until_nodes_may_change_says_so() {
    /// Blocks of the slots of checkpoints, and before.
    const SLOTS_END: u64 = 32;
    let disk = disk_with_files();
    let mut executor = Executor::new(3);
    let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
    let (asked, done) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let (asking, counting) = (Rc::clone(&filesystem), Rc::clone(&asked));
    executor.spawn(async move {
        let ask = || {
            counting.set(counting.get() + 1);
            false
        };
        asking.checkpoint_wanted(ask).await;
    });
    // None comes to its end.
    disk.set_holds(|request| matches!(request, Request::Write(start, _) if start.0 < SLOTS_END));
    let (writer, counted) = (Rc::clone(&filesystem), Rc::clone(&done));
    executor.spawn(async move {
        for number in (0..).map(|round| round * 7 % FILES) {
            let change = SetAttributes {
                mode: Some(0o640),
                ..SetAttributes::default()
            };
            let change = writer.transact(2, |transaction| {
                let file = transaction.files().lookup(ROOT, &name(number))?;
                transaction.files().set_attributes(file, &change)
            });
            change.await.unwrap();
            counted.set(counted.get() + 1);
        }
    });
    executor.run(async move {
        let mut before = (usize::MAX, usize::MAX);
        while before != (done.get(), asked.get()) {
            before = (done.get(), asked.get());
            for _ in 0..1000 {
                yield_now().await;
            }
        }
        assert!(!filesystem.has_room(), "{before:?}");
        let range = 0..4096;
        let mut freed = pin!(filesystem.free_values(std::slice::from_ref(&range)));
        assert!(poll_once(freed.as_mut()).is_pending());
        for _ in 0..100 {
            yield_now().await;
        }
        assert!(asked.get() > before.1, "{before:?}");
        disk.set_holds(|_| false);
        disk.release();
        freed.await.unwrap();
    });
}

/// While a group is being written, work in the background goes on for as many bytes as are allowed beside a small one, and as far as it likes where somebody waits for it.
#[test]
fn work_beside_a_group_ends_when_it_was_enough() {
    const TURN_BYTES: u64 = 8 << 10;
    const ALLOWED_BYTES: u64 = 32 << 10;
    const TURNS: u64 = 10;
    let disk = disk_with_files();
    let mut executor = Executor::new(3);
    let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
    let clock = executor.clock();
    executor.run(async move {
        for is_waited_for in [false, true] {
            disk.set_holds(|request| matches!(request, Request::Write(..)));
            let written = filesystem.transact(0, |transaction| {
                let file = touched(transaction)?[0];
                transaction.files().write(file, 0, b"changed")
            });
            let ((), commit) = written.await.unwrap();
            let turns = Cell::new(0);
            let work = async {
                // The group is on its way.
                clock.sleep_ms(10).await;
                assert_eq!(disk.held_count(), 1);
                for _ in 0..TURNS {
                    filesystem.take_turn(TURN_BYTES, || is_waited_for).await;
                    turns.set(turns.get() + 1);
                }
            };
            let look = async {
                clock.sleep_ms(100).await;
                let allowed = ALLOWED_BYTES / TURN_BYTES - 1;
                let expected = if is_waited_for { TURNS } else { allowed };
                assert_eq!(turns.get(), expected, "waited for: {is_waited_for}");
                disk.set_holds(|_| false);
                disk.release();
            };
            let (durable, ..) = join3(filesystem.wait_durable(commit), work, look).await;
            durable.unwrap();
            assert_eq!(turns.get(), TURNS);
        }
    });
}

/// The file system's own came first, one after the other, while writers waited for one that the layer above was to make.
#[test]
fn a_checkpoint_that_is_asked_for_waits_for_none_that_nobody_asks_for() {
    for seed in 0..20 {
        let disk = common::formatted(200, seed);
        let mut executor = Executor::new(seed);
        let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
        let clock = executor.clock();
        let writes = Rc::clone(&filesystem);
        let before = executor.run(async move {
            create(&writes, b"file", b"something to be written").await;
            writes.wait_durable(writes.appended()).await.unwrap();
            writes.counters().checkpoints
        });
        disk.set_holds(|request| matches!(request, Request::Write(..)));
        let (first, of) = (Rc::clone(&filesystem), clock.clone());
        executor.spawn(async move {
            let made = first.checkpoint(CommitNumber(0), &[], &[], &of).await;
            made.unwrap();
        });
        let made = executor.run(async move {
            while disk.held_count() == 0 {
                yield_now().await;
            }
            // From here on it is only the first that is held. Meanwhile the log becomes long.
            disk.set_holds(|_| false);
            for number in 0..80 {
                create(&filesystem, &name(number), b"").await;
                let commit = filesystem.appended();
                filesystem.wait_durable(commit).await.unwrap();
            }
            let second = filesystem.checkpoint(CommitNumber(0), &[], &[], &clock);
            let (made, ()) = join(second, async { disk.release() }).await;
            made.unwrap();
            filesystem.counters().checkpoints - before
        });
        assert_eq!(made, 2, "seed {seed}");
    }
}

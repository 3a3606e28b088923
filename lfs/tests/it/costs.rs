//! What things cost that are promised to cost little.
//!
//! Invariants: a snapshot costs the same whatever there is: reads, writes, flushes. A small file and a small directory take no block
//! of their own. A backup takes no room on its source but what its snapshot keeps. All of it is counted; nothing is timed.

use crate::common;

use std::cell::RefCell;
use std::rc::Rc;

use crate::common::world::random_bytes;
use crate::common::{ID, TestFileSystem, mount};
use lfs::sim::{Executor, Random, Request, SimClock, SimDisk};
use lfs::{
    BLOCK_SIZE, BackupPosition, BackupRange, CommitNumber, FileKind, FormatOptions, InodeNumber,
    NewInode, ROOT, Usage,
};

const DISK_BYTES: u64 = 128 << 20;

/// What files are made in one commit.
const BATCH: u64 = 50;

struct Machine {
    executor: Executor,
    filesystem: Rc<TestFileSystem>,
    /// What the disk was asked for.
    requests: Rc<RefCell<Vec<Request>>>,
}

impl Machine {
    /// On an empty disk.
    fn new() -> Self {
        let disk = SimDisk::new((DISK_BYTES / BLOCK_SIZE as u64) as usize, 1);
        let (target, options) = (disk.clone(), FormatOptions::for_device_bytes(DISK_BYTES));
        let mut executor = Executor::new(1);
        executor.run(async move { common::key::format(&target, options, ID).await.unwrap() });
        let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
        let requests = Rc::new(RefCell::new(Vec::new()));
        let noted = Rc::clone(&requests);
        disk.set_faults(move |request| {
            noted.borrow_mut().push(request);
            None
        });
        Self {
            executor,
            filesystem,
            requests,
        }
    }

    /// Runs something with the file system to its end.
    fn run<T: 'static>(
        &mut self,
        body: impl AsyncFnOnce(Rc<TestFileSystem>, SimClock) -> T + 'static,
    ) -> T {
        let (filesystem, clock) = (Rc::clone(&self.filesystem), self.executor.clock());
        self.executor
            .run(async move { body(filesystem, clock).await })
    }

    /// Makes everything durable, with a checkpoint behind it.
    fn checkpoint(&mut self) {
        self.run(async |fs, clock| {
            let made = fs.checkpoint(CommitNumber(0), &[], &[], &clock);
            made.await.unwrap();
        });
    }

    /// Live bytes once all is in the trees.
    fn live_bytes(&mut self) -> u64 {
        self.checkpoint();
        self.filesystem.usage().live_bytes
    }
}

fn name(number: u64) -> Vec<u8> {
    format!("name-{number}").into_bytes()
}

/// Files below the root directory with content of `len` bytes that does not compress.
async fn make_files(fs: &TestFileSystem, numbers: core::ops::Range<u64>, len: usize) {
    let new = NewInode::new(FileKind::File, 0o644);
    for first in numbers.clone().step_by(BATCH as usize) {
        let some = first..numbers.end.min(first + BATCH);
        let made = fs.transact(1, |tx| {
            for number in some.clone() {
                let file = tx.files().create(ROOT, &name(number), &new)?;
                let content = random_bytes(&mut Random::new(number), len);
                tx.files().write(file, 0, &content)?;
            }
            Ok(())
        });
        made.await.unwrap();
    }
    fs.wait_durable(fs.appended()).await.unwrap();
}

/// Reads, blocks read, writes, blocks written, flushes.
fn count(requests: &[Request]) -> [usize; 5] {
    let mut counts = [0; 5];
    for request in requests {
        match request {
            Request::Read(_, blocks) => {
                counts[0] += 1;
                counts[1] += blocks;
            }
            Request::Write(_, blocks) => {
                counts[2] += 1;
                counts[3] += blocks;
            }
            Request::Flush => counts[4] += 1,
        }
    }
    counts
}

#[test]
fn a_snapshot_costs_the_same_whatever_there_is() {
    let mut machine = Machine::new();
    let mut costs = Vec::new();
    let mut made = 0;
    for files in [100, 1000, 10_000] {
        machine.run(async move |fs, _| make_files(&fs, made..files, 300).await);
        made = files;
        machine.checkpoint();
        machine.requests.borrow_mut().clear();
        machine.run(async move |fs, _| {
            let snapshot = format!("at {files:05}");
            fs.create_snapshot(&snapshot, 1).await.unwrap();
        });
        let to_make = count(&machine.requests.borrow());
        // And what it changed in the trees.
        machine.checkpoint();
        let in_all = count(&machine.requests.borrow());
        let seen = machine.run(async move |fs, _| {
            let id = fs.snapshots().last().unwrap().id;
            let list = |tx: &mut lfs::Transaction<'_>| tx.files().stat(ROOT);
            fs.read_snapshot(id, list).await.unwrap().size
        });
        assert_eq!(seen, files);
        println!("{files} files: {to_make:?}, with a checkpoint {in_all:?}");
        costs.push((to_make, in_all));
    }
    // One group, of one block, and its flush: nothing is read, nothing copied.
    let group = [0, 0, 1, 1, 1];
    assert!(costs.iter().all(|cost| cost.0 == group), "{costs:?}");
    // Of the trees the way to one leaf, which has one level more where there is a hundred times as much.
    let blocks = costs.iter().map(|cost| cost.1[3]);
    let (least, most) = (blocks.clone().min().unwrap(), blocks.max().unwrap());
    assert!(most <= least + 2, "{costs:?}");
}

/// Of them a block has room for four at least.
const SMALL_BYTES_MAX: u64 = 1000;
const SMALL: u64 = 1000;

#[test]
fn small_files_take_no_block_of_their_own() {
    let mut machine = Machine::new();
    let before = machine.live_bytes();
    machine.run(async |fs, _| make_files(&fs, 0..SMALL, 100).await);
    let each = (machine.live_bytes() - before) / SMALL;
    println!("a file of 100 bytes takes {each} bytes");
    // No less than what is in it.
    assert!((100..SMALL_BYTES_MAX).contains(&each), "{each}");
    let right = machine.run(async |fs, _| {
        let read = fs.read(|tx| {
            let file = tx.files().lookup(ROOT, &name(SMALL / 2))?;
            tx.files().read(file, 0, BLOCK_SIZE)
        });
        read.await.unwrap() == random_bytes(&mut Random::new(SMALL / 2), 100)
    });
    assert!(right);
}

#[test]
fn small_directories_take_no_block_of_their_own() {
    let mut machine = Machine::new();
    machine.run(async |fs, _| make_files(&fs, 0..1, 100).await);
    let before = machine.live_bytes();
    machine.run(async |fs, _| {
        let new = NewInode::new(FileKind::Directory, 0o755);
        for number in 1..=SMALL {
            // The one name in it is one of a file that is there, so that there is no more than that to count.
            let made = fs.transact(1, |tx| {
                let directory = tx.files().create(ROOT, &name(number), &new)?;
                let file = tx.files().lookup(ROOT, &name(0))?;
                tx.files().link(file, directory, b"the only one")
            });
            made.await.unwrap();
        }
        let one = fs.read(|tx| {
            let directory = tx.files().lookup(ROOT, &name(SMALL))?;
            tx.files().stat(directory)
        });
        assert_eq!(one.await.unwrap().size, 1);
    });
    let each = (machine.live_bytes() - before) / SMALL;
    println!("a directory with one name takes {each} bytes");
    assert!((20..SMALL_BYTES_MAX).contains(&each), "{each}");
}

/// Files of the file system that is backed up, and their size.
const FILES: u64 = 200;
const FILE_BYTES: usize = 40_000;

/// Backs up a file system, in parts of 256 KiB, and overwrites a file behind each of the first parts. What its usage was with the
/// snapshot made, behind each part, and at the end. Without `reads` all is the same but that nothing is backed up.
fn usage_of_backup(reads: bool, overwrites: bool) -> Vec<Usage> {
    const PARTS: u64 = 20;
    let mut machine = Machine::new();
    machine.run(async |fs, _| make_files(&fs, 0..FILES, FILE_BYTES).await);
    machine.checkpoint();
    machine.run(async move |fs, clock| {
        let at = fs.create_snapshot("backup", 1).await.unwrap().commit;
        let checkpoint = async || {
            let made = fs.checkpoint(CommitNumber(0), &[], &[], &clock);
            made.await.unwrap();
            fs.usage()
        };
        let mut seen = vec![checkpoint().await];
        let mut position = BackupPosition::START;
        let mut bytes = 0;
        for number in 0..PARTS {
            while reads && position != BackupPosition::END {
                let range = BackupRange {
                    at: Some(at),
                    since: None,
                };
                let part = fs.backup_part(range, position, 256 << 10).await;
                let (part, next) = part.unwrap();
                bytes += part.len();
                position = next;
                if number + 1 < PARTS {
                    break;
                }
            }
            if overwrites {
                let content = random_bytes(&mut Random::new(FILES + number), FILE_BYTES);
                let write = fs.transact(2, |tx| {
                    let file: InodeNumber = tx.files().lookup(ROOT, &name(number))?;
                    tx.files().write(file, 0, &content)
                });
                let ((), commit) = write.await.unwrap();
                fs.wait_durable(commit).await.unwrap();
                seen.push(checkpoint().await);
            } else {
                // As it is, without anything being tidied up.
                seen.push(fs.usage());
            }
        }
        assert_eq!(bytes > FILES as usize * FILE_BYTES, reads, "{bytes}");
        seen
    })
}

#[test]
fn a_backup_takes_no_room_on_its_source() {
    let usage = usage_of_backup(true, false);
    assert!(usage.iter().all(|at| *at == usage[0]), "{usage:?}");
    // What is overwritten meanwhile the snapshot keeps, whether it is read or not.
    let usage = usage_of_backup(true, true);
    let unread = usage_of_backup(false, true);
    assert_eq!(usage, unread);
    let kept = usage.last().unwrap().live_bytes - usage[0].live_bytes;
    println!("the snapshot keeps {kept} bytes of what was overwritten");
    assert!(kept >= 20 * FILE_BYTES as u64);
}

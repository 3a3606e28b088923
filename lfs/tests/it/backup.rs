//! Backups of files: what a stream says, carried out on another file system, is what the snapshot shows.
//!
//! Invariants: after a restore of a full backup and any number of incremental ones everything that can be seen, of the first
//! to the last byte, is as in the last snapshot, whatever the disks' sizes and whatever else was done while the backup
//! was read; nothing contradicts; what had lost its last name is freed. An incremental backup says nothing of data that did not
//! change. A file system that is being restored does not exist before the end.

use crate::common;

use std::cell::Cell;
use std::hash::Hasher;
use std::rc::Rc;

use crate::common::check::check;
use crate::common::operation::{HANDLES, Observed, observe};
use crate::common::world::{Machine, random_bytes, same};
use crate::common::{FORMAT, SEGMENT_BLOCKS, TestFileSystem, formatted, seed};
use embassy_futures::select::{Either, select};
use lfs::sim::{Executor, Random, SimClock, SimDisk};
use lfs::{
    BackupPosition, BackupRange, Clock, CommitNumber, Content, FileError, FileKind, FileSystemId,
    FormatOptions, ItemKind, MountError, NewInode, ROOT, Recovery,
};
use siphasher::sip::SipHasher24;

const OTHER_ID: FileSystemId = FileSystemId([0x5A; 16]);

fn hash_name(name: &[u8]) -> u64 {
    let mut hasher = SipHasher24::new_with_key(&OTHER_ID.0);
    hasher.write(name);
    hasher.finish()
}

/// A file system that is being restored.
struct Target {
    executor: Executor,
    disk: SimDisk,
    filesystem: Rc<TestFileSystem>,
}

impl Target {
    fn new(segments: usize, segment_bytes: u32) -> Self {
        let mut executor = Executor::new(1);
        let disk = SimDisk::new(segments * SEGMENT_BLOCKS, 1);
        let target = disk.clone();
        let options = FormatOptions {
            segment_bytes,
            ..FORMAT
        };
        let filesystem = executor.run(async move {
            lfs::format_unfinished(&target, options, OTHER_ID)
                .await
                .unwrap();
            assert_eq!(lfs::probe(&target).await, Ok(Content::Blank));
            let opened = Recovery::open(target.clone()).await;
            assert_eq!(opened.err(), Some(MountError::NotFound));
            let mut recovery = Recovery::open_unfinished(target).await.unwrap();
            while recovery.next_commit().await.unwrap().is_some() {}
            Rc::new(recovery.finish().await.unwrap())
        });
        filesystem.set_restoring(true);
        let (running, clock) = (Rc::clone(&filesystem), executor.clock());
        executor.spawn(async move { running.run(&clock).await });
        Self {
            executor,
            disk,
            filesystem,
        }
    }

    fn restore(&mut self, parts: Vec<Vec<u8>>) {
        let filesystem = Rc::clone(&self.filesystem);
        self.executor.run(async move {
            for part in parts {
                filesystem.restore_part(&part).await.unwrap();
            }
        });
    }

    /// What is there after the end of the restore and a boot.
    fn finish(self) -> Vec<Observed> {
        let Self {
            mut executor,
            disk,
            filesystem,
        } = self;
        let (clock, device) = (executor.clock(), disk.clone());
        executor.run(async move {
            filesystem.shutdown(&clock).await.unwrap();
            drop(filesystem);
            assert_eq!(lfs::probe(&device).await, Ok(Content::Blank));
            lfs::finish_format(&device).await.unwrap();
            assert_eq!(lfs::probe(&device).await, Ok(Content::FileSystem));
        });
        drop(executor);
        let mut executor = Executor::new(2);
        let filesystem = common::mount(&mut executor, &disk.snapshot(2))
            .unwrap()
            .filesystem;
        let clock = executor.clock();
        executor.run(async move {
            let left = |filesystem: Rc<TestFileSystem>| async move {
                let orphans = filesystem.read(|tx| tx.files().orphans(0, usize::MAX));
                orphans.await.unwrap().len()
            };
            for round in 0.. {
                if left(Rc::clone(&filesystem)).await == 0 {
                    break;
                }
                assert!(round < 600, "orphans are left");
                clock.sleep_ms(100).await;
            }
            let audit = filesystem.audit().await.unwrap();
            assert_eq!(audit.contradictions, []);
            let described = [
                ItemKind::Inode,
                ItemKind::Entry,
                ItemKind::Attribute,
                ItemKind::Orphan,
            ];
            let items = audit.items.iter().map(|(key, value)| (*key, &value[..]));
            let items = items.filter(|(key, _)| described.contains(&key.kind));
            check(items, audit.data.clone().into_iter(), hash_name);
            let seen = filesystem.read(|tx| observe(&mut tx.files(), &[None; HANDLES]));
            seen.await.unwrap()
        })
    }
}

/// All parts of a backup, read in pieces of about `bytes_max`, each place having been written down in between.
async fn read(
    filesystem: &TestFileSystem,
    range: BackupRange,
    bytes_max: usize,
) -> Result<Vec<Vec<u8>>, FileError> {
    let mut parts = Vec::new();
    let mut position = BackupPosition::START;
    while position != BackupPosition::END {
        let (part, next) = filesystem.backup_part(range, position, bytes_max).await?;
        assert!(part.len() <= bytes_max + (66 << 10));
        parts.push(part);
        let mut written = Vec::new();
        next.encode(&mut written);
        position = BackupPosition::decode(&written).unwrap();
    }
    Ok(parts)
}

fn snapshot(machine: &mut Machine, name: &'static str) -> CommitNumber {
    let filesystem = Rc::clone(&machine.filesystem);
    machine.run(async move { filesystem.create_snapshot(name, 7).await.unwrap().commit })
}

/// What a snapshot shows.
fn seen(machine: &mut Machine, name: &'static str) -> Vec<Observed> {
    let filesystem = Rc::clone(&machine.filesystem);
    machine.run(async move {
        let all = filesystem.snapshots();
        let id = all.iter().find(|info| info.name == name).unwrap().id;
        let seen = |tx: &mut lfs::Transaction<'_>| observe(&mut tx.files(), &[None; HANDLES]);
        filesystem.read_snapshot(id, seen).await.unwrap()
    })
}

/// Reads a backup while others work.
fn read_beside(machine: &mut Machine, range: BackupRange, bytes_max: usize) -> Vec<Vec<u8>> {
    let stop = Rc::new(Cell::new(false));
    let ended = Rc::new(Cell::new(false));
    let worker = machine.worker();
    let (stopped, ending) = (Rc::clone(&stop), Rc::clone(&ended));
    machine.executor.spawn(async move {
        while !stopped.get() {
            worker.transactions(1).await;
        }
        ending.set(true);
    });
    let filesystem = Rc::clone(&machine.filesystem);
    let clock: SimClock = machine.executor.clock();
    machine.run(async move {
        let parts = read(&filesystem, range, bytes_max).await.unwrap();
        stop.set(true);
        while !ended.get() {
            clock.sleep_ms(1).await;
        }
        parts
    })
}

const NAMES: [&str; 4] = ["backup 0", "backup 1", "backup 2", "backup 3"];

fn round_trip(seed: u64, segments: usize) {
    let mut random = Random::new(seed);
    let mut machine = Machine::new(formatted(segments, seed), random.next_u64());
    let bytes_max = [1, 4096, 100_000][random.index(3)];
    // Smaller in all than what was worked on, or larger, with other segments.
    let (room, segment_bytes) =
        [(segments / 2, 32 << 10), (segments * 3, 64 << 10)][random.index(2)];
    let mut target = Target::new(room, segment_bytes);
    let mut since = None;
    for name in NAMES {
        for _ in 0..random.below(4) {
            let workers = 1 + random.index(3);
            machine.work(workers, 25);
        }
        let at = snapshot(&mut machine, name);
        let range = BackupRange {
            at: Some(at),
            since,
        };
        let parts = if random.one_in(2) {
            let filesystem = Rc::clone(&machine.filesystem);
            machine.run(async move { read(&filesystem, range, bytes_max).await.unwrap() })
        } else {
            read_beside(&mut machine, range, bytes_max)
        };
        let again = random.one_in(3).then(|| parts.clone());
        target.restore(parts);
        if let Some(parts) = again {
            target.restore(parts);
        }
        since = Some(at);
    }
    let expected = seen(&mut machine, NAMES[3]);
    same(&target.finish(), &expected, &format!("seed {seed}"));
}

#[test]
fn what_was_backed_up_in_several_steps_is_restored_on_other_disks() {
    let seed = seed(600);
    for round in 0..12 {
        round_trip(seed + round, 900);
    }
}

#[test]
fn an_incremental_backup_says_nothing_of_what_did_not_change() {
    let mut machine = Machine::new(formatted(600, 1), 1);
    let filesystem = Rc::clone(&machine.filesystem);
    let (full, small) = machine.run(async move {
        let new = NewInode {
            kind: FileKind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            device: 0,
            target: Vec::new(),
        };
        let mut random = Random::new(3);
        let bytes = random_bytes(&mut random, 48 << 10);
        for number in 0..100 {
            let create = |tx: &mut lfs::Transaction<'_>| {
                let file = tx
                    .files()
                    .create(ROOT, format!("{number}").as_bytes(), &new)?;
                tx.files().write(file, 0, &bytes)
            };
            filesystem.transact(1, create).await.unwrap();
        }
        let first = filesystem.create_snapshot("first", 1).await.unwrap().commit;
        let change = |tx: &mut lfs::Transaction<'_>| {
            let file = tx.files().lookup(ROOT, b"50")?;
            tx.files().write(file, 8192, b"changed")
        };
        filesystem.transact(2, change).await.unwrap();
        let second = filesystem
            .create_snapshot("second", 1)
            .await
            .unwrap()
            .commit;
        let range = |at, since| BackupRange {
            at: Some(at),
            since,
        };
        let full = read(&filesystem, range(second, None), 1 << 20)
            .await
            .unwrap();
        let small = read(&filesystem, range(second, Some(first)), 1 << 20)
            .await
            .unwrap();
        let changed = filesystem.changed_inodes(range(second, Some(first)));
        assert_eq!(changed.await.unwrap().len(), 1);
        (full.concat().len(), small.concat().len())
    });
    assert!(full > 100 * (48 << 10), "{full}");
    assert!(small < 4096 + 200, "{small}");
}

#[test]
fn a_restore_that_does_not_fit_says_so() {
    let mut machine = Machine::new(formatted(900, 1), 1);
    let filesystem = Rc::clone(&machine.filesystem);
    let parts = machine.run(async move {
        let mut random = Random::new(3);
        let file = NewInode {
            kind: FileKind::File,
            mode: 0,
            uid: 0,
            gid: 0,
            device: 0,
            target: Vec::new(),
        };
        for number in 0..100 {
            let bytes = random_bytes(&mut random, 40 << 10);
            let create = |tx: &mut lfs::Transaction<'_>| {
                let file = tx
                    .files()
                    .create(ROOT, format!("{number}").as_bytes(), &file)?;
                tx.files().write(file, 0, &bytes)
            };
            filesystem.transact(1, create).await.unwrap();
        }
        let at = filesystem.create_snapshot("now", 1).await.unwrap().commit;
        let range = BackupRange {
            at: Some(at),
            since: None,
        };
        read(&filesystem, range, 1 << 20).await.unwrap()
    });
    let mut target = Target::new(100, 32 << 10);
    let (filesystem, clock) = (Rc::clone(&target.filesystem), target.executor.clock());
    let restored = target.executor.run(async move {
        let restore = async {
            for part in &parts {
                filesystem.restore_part(part).await?;
            }
            Ok(())
        };
        match select(restore, clock.sleep_ms(3_600_000)).await {
            Either::First(restored) => restored,
            Either::Second(()) => panic!("stuck"),
        }
    });
    assert_eq!(restored, Err(FileError::NoSpace));
}

#[test]
fn a_backup_of_a_snapshot_that_is_gone_is_refused() {
    let mut machine = Machine::new(formatted(300, 1), 1);
    machine.work(1, 50);
    let at = snapshot(&mut machine, "gone");
    let filesystem = Rc::clone(&machine.filesystem);
    machine.run(async move {
        filesystem.delete_snapshot("gone").await.unwrap();
        let now = filesystem.appended();
        for (at, since) in [(at, None), (now, None), (now, Some(at))] {
            let range = BackupRange {
                at: Some(at),
                since,
            };
            let read = read(&filesystem, range, 4096).await;
            assert_eq!(read.err(), Some(FileError::NotFound));
        }
    });
}

#[test]
fn nonsense_is_refused_and_nothing_panics() {
    let mut machine = Machine::new(formatted(600, 1), 1);
    machine.work(2, 60);
    let at = snapshot(&mut machine, "now");
    let filesystem = Rc::clone(&machine.filesystem);
    let range = BackupRange {
        at: Some(at),
        since: None,
    };
    let part = machine.run(async move { read(&filesystem, range, 2000).await.unwrap().concat() });
    let mut random = Random::new(seed(9));
    let mut refused = 0;
    for _ in 0..300 {
        let mut part = part.clone();
        for _ in 0..=random.below(3) {
            let at = random.index(part.len());
            part[at] ^= 1 << random.below(8);
        }
        let from = random.index(part.len());
        let to = part.len().min(from + random.index(5000));
        let mut target = Target::new(600, 32 << 10);
        let filesystem = Rc::clone(&target.filesystem);
        let bytes = if random.one_in(2) {
            part
        } else {
            part[from..to].to_vec()
        };
        let restored = target
            .executor
            .run(async move { filesystem.restore_part(&bytes).await });
        refused += u32::from(restored.is_err());
    }
    assert!(refused > 100, "{refused}");
}

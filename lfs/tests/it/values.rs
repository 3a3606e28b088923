//! The value file: what the layer above keeps where its commits wrote it.
//!
//! - A value is there with the record that names it or not at all, wherever the power fails, and stays while the cleaner moves it.
//! - What is freed gives room again, whatever snapshots there are.
//! - It belongs to no file: no backup has it, no file can reach it, and a check of the disk finds nothing wrong with it.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use crate::common::world::random_bytes;
use crate::common::{Mounted, TestFileSystem, formatted, formatted_of_any_kind, key, mount, seed};
use lfs::sim::{Executor, Random, SimClock, SimDisk};
use lfs::{
    BackupPosition, BackupRange, BlockIndex, CheckEvent, CheckOptions, CommitNumber, CommitStop,
    FileError, FileKind, Loaded, NewInode, ROOT, VALUE_OFFSETS,
};

const BLOCK: u64 = 4096;

/// What a layer above records: that there is a value, or is one no more.
#[derive(Clone, Copy)]
enum Said {
    Put { offset: u64, len: u32, seed: u64 },
    Drop { offset: u64 },
}

impl Said {
    fn encode(self) -> Vec<u8> {
        let (kind, offset, len, seed) = match self {
            Self::Put { offset, len, seed } => (1, offset, len, seed),
            Self::Drop { offset } => (2, offset, 0, 0),
        };
        let mut bytes = vec![kind];
        bytes.extend_from_slice(&offset.to_le_bytes());
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(&seed.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Self {
        let offset = u64::from_le_bytes(bytes[1..9].try_into().unwrap());
        let len = u32::from_le_bytes(bytes[9..13].try_into().unwrap());
        let seed = u64::from_le_bytes(bytes[13..21].try_into().unwrap());
        match bytes[0] {
            1 => Self::Put { offset, len, seed },
            _ => Self::Drop { offset },
        }
    }
}

/// The values that there are, each with its length and what its bytes are made from.
#[derive(Clone, Default)]
struct Values {
    named: BTreeMap<u64, (u32, u64)>,
    next: u64,
}

impl Values {
    fn take(&mut self, said: Said) {
        match said {
            Said::Put { offset, len, seed } => {
                self.named.insert(offset, (len, seed));
                let end = offset + u64::from(len);
                self.next = self.next.max((end / BLOCK + 1) * BLOCK);
            }
            Said::Drop { offset } => drop(self.named.remove(&offset)),
        }
    }

    /// For the manifest.
    fn encode(&self) -> Vec<u8> {
        let put = |(&offset, &(len, seed))| Said::Put { offset, len, seed }.encode();
        self.named.iter().flat_map(put).collect()
    }

    fn of(mounted: &Mounted) -> Self {
        let mut values = Self::default();
        for said in mounted.manifest.chunks_exact(21) {
            values.take(Said::decode(said));
        }
        for (number, payload) in &mounted.commits {
            if *number > mounted.horizon && !payload.is_empty() {
                values.take(Said::decode(payload));
            }
        }
        values
    }
}

/// Half of them compress.
fn bytes_of(seed: u64, len: u32) -> Vec<u8> {
    let len = len as usize;
    if seed.is_multiple_of(2) {
        random_bytes(&mut Random::new(seed), len)
    } else {
        seed.to_le_bytes().into_iter().cycle().take(len).collect()
    }
}

/// Commits a record, and the value that it names.
async fn say(filesystem: &TestFileSystem, said: Said) -> Result<CommitNumber, FileError> {
    let mut loaded = Loaded::default();
    loop {
        filesystem.admit(|| false).await;
        let mut changes = filesystem.begin_changes(0, &mut loaded);
        let written = filesystem.change_files(&mut changes, &loaded, |tx| match said {
            Said::Put { offset, len, seed } => tx.write_value(offset, &bytes_of(seed, len)),
            Said::Drop { .. } => Ok(()),
        });
        written?;
        match filesystem.commit(changes, &said.encode()) {
            Ok(number) => return Ok(number),
            Err(CommitStop::Fault(fault)) => filesystem.load(fault, &mut loaded).await?,
            Err(CommitStop::NoRoom | CommitStop::NoRoomToShrink(_)) => {
                // Others are to have their turn.
                embassy_futures::yield_now().await;
            }
            Err(CommitStop::Error(error)) => return Err(error),
        }
    }
}

async fn read(filesystem: &TestFileSystem, offset: u64, len: usize) -> Result<Vec<u8>, FileError> {
    let mut loaded = Loaded::default();
    loop {
        match filesystem.read_value(offset, len, &loaded) {
            Err(FileError::Fault(fault)) => filesystem.load(fault, &mut loaded).await?,
            read => return read,
        }
    }
}

async fn assert_there(filesystem: &TestFileSystem, values: &Values) {
    for (&offset, &(len, seed)) in &values.named {
        let found = read(filesystem, offset, len as usize).await;
        assert!(found == Ok(bytes_of(seed, len)), "{offset}, {len} bytes");
    }
}

/// Makes a checkpoint, as the layer above does when the log wants one.
async fn checkpoint(filesystem: &TestFileSystem, values: &Values, clock: &SimClock) {
    filesystem
        .wait_durable(filesystem.appended())
        .await
        .unwrap();
    let manifest = values.encode();
    let horizon = filesystem.durable();
    let made = filesystem.checkpoint(horizon, &[], &manifest, clock);
    made.await.unwrap();
}

fn random_put(random: &mut Random, values: &Values) -> Said {
    let most = [100, 5000, 20_000][random.index(3)];
    Said::Put {
        offset: values.next,
        len: 1 + random.below(most) as u32,
        seed: random.next_u64(),
    }
}

fn pick(random: &mut Random, values: &Values) -> Option<u64> {
    let count = values.named.len();
    (count > 0).then(|| *values.named.keys().nth(random.index(count)).unwrap())
}

fn range_of(offset: u64, len: u32) -> core::ops::Range<u64> {
    offset..(offset + u64::from(len)).next_multiple_of(BLOCK)
}

fn assert_clean(disk: &SimDisk) {
    let disk = disk.snapshot(1);
    Executor::new(0).run(async move {
        let mut found = Vec::new();
        let mut note = |event: CheckEvent<'_>| {
            if let CheckEvent::Finding(finding) = event {
                found.push(finding.to_string());
            }
        };
        let options = CheckOptions {
            key: key::key(),
            data: true,
            ..CheckOptions::default()
        };
        let summary = lfs::check(&disk, options, &mut note).await;
        assert!(summary.is_clean(), "{found:?}");
    });
}

#[test]
fn a_value_is_there_with_its_record_or_not_at_all() {
    let mut random = Random::new(seed(31));
    let mut disk = formatted_of_any_kind(72, random.next_u64());
    let (mut kept, mut lost, mut cleaned) = (0, 0, 0);
    for boot in 0..40 {
        let mut executor = Executor::new(boot);
        let mounted = mount(&mut executor, &disk).unwrap();
        let mut values = Values::of(&mounted);
        let filesystem = Rc::clone(&mounted.filesystem);
        let (clock, mut steps) = (executor.clock(), Random::new(random.next_u64()));
        let witness = disk.clone();
        let (acknowledged, dropped, segments) = executor.run(async move {
            assert_there(&filesystem, &values).await;
            // After so many events of the disk this was durable.
            let mut acknowledged = vec![(0, values.named.clone())];
            let (mut dropped, mut unneeded) = (BTreeSet::new(), Vec::new());
            for _ in 0..40 {
                let said = match pick(&mut steps, &values) {
                    Some(offset) if values.named.len() > 40 || steps.one_in(3) => {
                        let (len, _) = values.named[&offset];
                        dropped.insert(offset);
                        unneeded.push(range_of(offset, len));
                        Said::Drop { offset }
                    }
                    _ => random_put(&mut steps, &values),
                };
                let number = match say(&filesystem, said).await {
                    Ok(number) => number,
                    // What was dropped is not free yet.
                    Err(FileError::NoSpace) => continue,
                    Err(error) => panic!("{error}"),
                };
                values.take(said);
                if steps.one_in(3) {
                    filesystem.wait_durable(number).await.unwrap();
                    acknowledged.push((witness.event_count(), values.named.clone()));
                }
                if steps.one_in(6) {
                    checkpoint(&filesystem, &values, &clock).await;
                    filesystem.free_values(&unneeded).await.unwrap();
                    unneeded.clear();
                }
            }
            let cleaned = filesystem.counters().segments_cleaned;
            (acknowledged, dropped, cleaned)
        });
        cleaned += segments;
        let end = disk.event_count();
        let events = end - random.index(end.min(60));
        let crash = disk.crash_at(events);
        disk = crash.disk(|_| random.one_in(2), boot);
        let known = acknowledged.iter().rev().find(|(at, _)| *at <= events);
        let mounted = mount(&mut Executor::new(0), &disk).unwrap();
        let found = Values::of(&mounted).named;
        for (offset, value) in &known.unwrap().1 {
            let is_there = found.get(offset) == Some(value);
            assert!(
                is_there || dropped.contains(offset),
                "{offset} was acknowledged"
            );
        }
        kept += found.len();
        lost += usize::from(events < end);
        assert_clean(&disk);
    }
    assert!(
        kept > 400 && lost > 20 && cleaned > 20,
        "{kept} {lost} {cleaned}"
    );
}

#[test]
fn what_is_freed_gives_room_again() {
    let disk = formatted(160, 1);
    let mut executor = Executor::new(1);
    let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
    let clock = executor.clock();
    let counts = executor.run(async move {
        let mut random = Random::new(3);
        let mut values = Values::default();
        let mut counts = Vec::new();
        for round in 0..12 {
            // A snapshot does not keep what is freed.
            let name = format!("snapshot {round}");
            filesystem.create_snapshot(&name, 0).await.unwrap();
            let mut count = 0;
            loop {
                let said = Said::Put {
                    offset: values.next,
                    len: 20_000,
                    seed: random.next_u64() & !1,
                };
                match say(&filesystem, said).await {
                    Ok(_) => values.take(said),
                    Err(FileError::NoSpace) => break,
                    Err(error) => panic!("{error}"),
                }
                count += 1;
                if count % 8 == 0 {
                    checkpoint(&filesystem, &values, &clock).await;
                }
            }
            counts.push(count);
            assert_there(&filesystem, &values).await;
            // All but each fourth, so that the cleaner has something to do.
            let mut freed = Vec::new();
            let offsets: Vec<_> = values.named.keys().copied().collect();
            for (at, offset) in offsets.into_iter().enumerate() {
                if at % 4 != round % 4 {
                    let (len, _) = values.named[&offset];
                    say(&filesystem, Said::Drop { offset }).await.unwrap();
                    values.take(Said::Drop { offset });
                    freed.push(range_of(offset, len));
                }
            }
            checkpoint(&filesystem, &values, &clock).await;
            for some in freed.chunks(16) {
                filesystem.free_values(some).await.unwrap();
            }
            checkpoint(&filesystem, &values, &clock).await;
            assert_there(&filesystem, &values).await;
        }
        filesystem.shutdown(&clock).await.unwrap();
        counts
    });
    println!("{counts:?} values a round");
    let first = counts[0];
    assert!(first > 60, "{counts:?}");
    assert!(
        counts[1..].iter().all(|count| *count * 3 > first),
        "{counts:?}"
    );
    assert_clean(&disk);
}

#[test]
fn values_belong_to_no_file() {
    let disk = formatted(96, 1);
    let mut executor = Executor::new(1);
    let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
    let clock = executor.clock();
    executor.run(async move {
        let file = NewInode::new(FileKind::File, 0o644);
        let create = |tx: &mut lfs::Transaction<'_>| {
            let inode = tx.files().create(ROOT, b"file", &file)?;
            tx.files().write(inode, 0, &[7; 10_000])
        };
        let ((), created) = filesystem.transact(0, create).await.unwrap();
        assert_eq!(filesystem.file_commit(), created);
        let said = Said::Put {
            offset: 0,
            len: 30_000,
            seed: 4,
        };
        let number = say(&filesystem, said).await.unwrap();
        // Who looks at files does not depend on it.
        assert!(number > created && filesystem.file_commit() == created);
        let snapshot = filesystem.create_snapshot("all", 0).await.unwrap();
        let range = BackupRange {
            at: Some(snapshot.commit),
            since: None,
        };
        let (mut position, mut bytes) = (BackupPosition::START, 0);
        while position != BackupPosition::END {
            let part = filesystem.backup_part(range, position, 1 << 16).await;
            let (records, next) = part.unwrap();
            (position, bytes) = (next, bytes + records.len());
        }
        assert!(
            (10_000..20_000).contains(&bytes),
            "{bytes} bytes in a backup"
        );
        let inodes = filesystem.changed_inodes(range).await.unwrap();
        assert_eq!(inodes.len(), 2, "{inodes:?}");

        // What is not there, or not all of it, is not zeros.
        assert_eq!(read(&filesystem, 0, 30_000).await, Ok(bytes_of(4, 30_000)));
        assert_eq!(read(&filesystem, 4096, 5000).await.unwrap().len(), 5000);
        for (offset, len) in [(0, 30_001), (1 << 40, 1), (28_672, 4096)] {
            let found = read(&filesystem, offset, len).await;
            assert_eq!(found, Err(FileError::NotFound), "{offset}, {len}");
        }
        let invalid = [(1, 10), (0, 0), (VALUE_OFFSETS, 1), (u64::MAX - 4095, 10)];
        for (offset, len) in invalid {
            let bytes = vec![1; len];
            let write = filesystem.transact(0, |tx| tx.write_value(offset, &bytes));
            assert_eq!(write.await.err(), Some(FileError::Invalid), "{offset}");
        }
        for range in [0..1, 1..4096, 4096..4096, 0..VALUE_OFFSETS + 4096] {
            let freed = filesystem.free_values(std::slice::from_ref(&range)).await;
            assert_eq!(freed, Err(FileError::Invalid), "{range:?}");
        }
        let there = filesystem.values(0, 100).await.unwrap();
        let bytes: u64 = there.iter().map(|range| range.end - range.start).sum();
        assert_eq!(bytes, 30_000, "{there:?}");
        let first = filesystem.values(0, 1).await.unwrap();
        assert_eq!(first, there[..1]);
        assert_eq!(
            filesystem.values(first[0].end, 100).await.unwrap(),
            there[1..]
        );
        let all = [range_of(0, 30_000)];
        filesystem.free_values(&all).await.unwrap();
        assert_eq!(read(&filesystem, 0, 1).await, Err(FileError::NotFound));
        // To free it again is no change.
        filesystem.free_values(&all).await.unwrap();
        filesystem.shutdown(&clock).await.unwrap();
    });
    assert_clean(&disk);
}

#[test]
fn a_damaged_value_is_said_and_others_can_be_read() {
    // With a key its bytes are not to be found.
    key::choose(None);
    let disk = formatted(96, 1);
    let mut executor = Executor::new(1);
    let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
    let clock = executor.clock();
    executor.run(async move {
        for (offset, seed) in [(0, 2), (8192, 4), (16_384, 6)] {
            let said = Said::Put {
                offset,
                len: 4096,
                seed,
            };
            let number = say(&filesystem, said).await.unwrap();
            filesystem.wait_durable(number).await.unwrap();
        }
        filesystem.shutdown(&clock).await.unwrap();
    });
    let wanted = &bytes_of(4, 4096)[..64];
    let image = disk.to_bytes();
    let at = image.windows(64).position(|bytes| bytes == wanted);
    let at = at.unwrap();
    let damaged = disk.snapshot(1);
    damaged.flip_bit(BlockIndex(at as u64 / BLOCK), (at % BLOCK as usize) * 8 + 3);
    let mut executor = Executor::new(2);
    let filesystem = mount(&mut executor, &damaged).unwrap().filesystem;
    executor.run(async move {
        let found = read(&filesystem, 8192, 4096).await;
        assert!(
            matches!(found, Err(FileError::DamagedData { .. })),
            "{found:?}"
        );
        assert_eq!(read(&filesystem, 0, 4096).await, Ok(bytes_of(2, 4096)));
        assert_eq!(read(&filesystem, 16_384, 4096).await, Ok(bytes_of(6, 4096)));
    });
}

/// What lies between ranges that one commit frees, or writes, is not gone through.
#[test]
fn a_change_far_apart_costs_what_it_changes() {
    const VALUES: u64 = 4000;
    let disk = formatted(256, 1);
    let mut executor = Executor::new(1);
    let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
    let clock = executor.clock();
    executor.run(async move {
        for first in (0..VALUES).step_by(100) {
            let write = |tx: &mut lfs::Transaction<'_>| {
                // Apart, so that each is a piece of its own.
                let mut slots = (first..first + 100).map(|slot| 2 * slot * BLOCK);
                slots.try_for_each(|at| tx.write_value(at, &[1; 600]))
            };
            filesystem.transact(0, write).await.unwrap();
        }
        let looks = || filesystem.read(|tx| Ok(tx.looks()));
        let before = looks().await.unwrap();
        let apart =
            [0, VALUES / 2, VALUES - 1].map(|slot| 2 * slot * BLOCK..(2 * slot + 1) * BLOCK);
        filesystem.free_values(&apart).await.unwrap();
        let cost = looks().await.unwrap() - before;
        assert!(cost < 200, "{cost} looks at the tree to free three values");
        let there = filesystem.values(0, 10_000).await.unwrap();
        assert_eq!(there.len() as u64, VALUES - 3);
        filesystem.shutdown(&clock).await.unwrap();
    });
    assert_clean(&disk);
}

//! Two disks in one file system.
//!
//! Invariants:
//! - What was acknowledged is there whatever one disk does: fails at any request, vanishes, comes back stale, rots;
//!   and after a power cut at any request of either, with any of what each had not flushed.
//! - A disk that was in when the power went serves alone, with everything acknowledged.
//! - A disk that came back holds everything once the mirror is whole again, and only what it lacked was copied.
//! - Disks that were written apart are refused, and so is a disk that holds something else; neither is changed.

use crate::common;

mod keyed;
mod late;
mod mending;
mod spec;
mod standing;
mod unreadable;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use embassy_futures::select::{Either3, select3};
use lfs::sim::{Executor, Flushing, Random, SimClock, SimDisk, seed_from};
use lfs::{
    BlockDevice, BlockIndex, Buffer, CheckOptions, Clock, DeviceError, FileError, FileKind,
    FileSystem, FileSystemId, FormatOptions, InodeNumber, MemberState, Mirror, MirrorError,
    MirrorStatus, MountError, NewInode, ROOT, Recovery, ScrubOptions, ScrubStatus, Side, Suite,
};

const SEGMENT_BLOCKS: usize = 8;
const FORMAT: FormatOptions = FormatOptions {
    segment_bytes: 8 * 4096,
    log_segments: 16,
    created_ns: 0,
};
/// Blocks of the disks here.
const BLOCKS: usize = 96 * SEGMENT_BLOCKS;
/// Bytes of the larger file: more than an item, less than a group.
const BYTES: usize = 6000;

type Disks = [SimDisk; 2];

fn seed(default: u64) -> u64 {
    let seed = seed_from(std::env::var("SILTSTONE_SEED").ok().as_deref(), default);
    println!("SILTSTONE_SEED={seed}");
    seed
}

/// A file system that runs on a mirror.
struct Machine {
    executor: Executor,
    mirror: Mirror<SimDisk>,
    filesystem: Rc<FileSystem<Mirror<SimDisk>>>,
    clock: SimClock,
}

fn open(disks: &[SimDisk], id: u8) -> Result<Mirror<SimDisk>, MirrorError> {
    let disks = disks.to_vec();
    Executor::new(0).run(async move { Mirror::open(disks, [id; 16]).await })
}

impl Machine {
    fn boot(disks: &[SimDisk], seed: u64) -> Result<Self, String> {
        let mut executor = Executor::new(seed);
        let disks = disks.to_vec();
        let opened = executor.run(async move {
            let id = u8::try_from(seed % 251).unwrap();
            let opened = Mirror::open(disks, [id; 16]).await;
            let mirror = opened.map_err(|error| error.to_string())?;
            let opened = common::key::open(mirror.clone()).await;
            let mut recovery = opened.map_err(|error| error.to_string())?;
            loop {
                let next = recovery.next_commit().await;
                if next.map_err(|error| error.to_string())?.is_none() {
                    break;
                }
            }
            let finished = recovery.finish().await;
            Ok::<_, String>((mirror, finished.map_err(|error| error.to_string())?))
        });
        let (mirror, filesystem) = opened?;
        let filesystem = Rc::new(filesystem);
        let clock = executor.clock();
        let (running, of) = (Rc::clone(&filesystem), clock.clone());
        executor.spawn(async move { Box::pin(running.run(&of)).await });
        let (running, of) = (mirror.clone(), clock.clone());
        executor.spawn(async move { running.run(&of).await });
        Ok(Self {
            executor,
            mirror,
            filesystem,
            clock,
        })
    }

    /// Writes a version, which is durable on return.
    fn put(&mut self, version: u64) -> Result<(), FileError> {
        let filesystem = Rc::clone(&self.filesystem);
        self.executor
            .run(async move { put(&filesystem, version).await })
    }

    /// Makes a file, which is durable on return.
    fn make(&mut self, name: &str, content: &[u8]) -> InodeNumber {
        let filesystem = Rc::clone(&self.filesystem);
        let (name, content) = (name.to_owned(), content.to_vec());
        self.executor.run(async move {
            let made = filesystem.transact(1, |transaction| {
                let mut files = transaction.files();
                let new = NewInode::new(FileKind::File, 0o644);
                let inode = files.create(ROOT, name.as_bytes(), &new)?;
                files.write(inode, 0, &content)?;
                Ok(inode)
            });
            let (inode, commit) = made.await.unwrap();
            filesystem.wait_durable(commit).await.unwrap();
            inode
        })
    }

    fn read(&mut self, inode: InodeNumber, len: usize) -> Result<Vec<u8>, FileError> {
        let filesystem = Rc::clone(&self.filesystem);
        self.executor.run(async move {
            let read = filesystem.read(|transaction| transaction.files().read(inode, 0, len));
            read.await
        })
    }

    fn get(&mut self) -> Result<u64, FileError> {
        let filesystem = Rc::clone(&self.filesystem);
        self.executor.run(async move { get(&filesystem).await })
    }

    fn checkpoint(&mut self) {
        let (filesystem, clock) = (Rc::clone(&self.filesystem), self.clock.clone());
        let made = self.executor.run(async move {
            filesystem
                .checkpoint(lfs::CommitNumber(0), &[], &[], &clock)
                .await
        });
        made.unwrap();
    }

    fn scrub(&mut self) -> ScrubStatus {
        let (filesystem, clock) = (Rc::clone(&self.filesystem), self.clock.clone());
        self.executor.run(async move {
            let options = ScrubOptions::default();
            let mut report = |finding: &lfs::Finding, _| println!("{finding}");
            let scrub = filesystem.scrub(&clock, options, &mut report);
            scrub.await.unwrap()
        })
    }

    fn status(&self) -> MirrorStatus {
        self.mirror.mirror_status().unwrap()
    }

    /// Lets so many seconds pass.
    fn rest(&mut self, seconds: u64) {
        let clock = self.clock.clone();
        self.executor
            .run(async move { clock.sleep_ms(seconds * 1000).await });
    }

    /// Waits until both disks have everything.
    fn whole(&mut self) {
        let (mirror, clock) = (self.mirror.clone(), self.clock.clone());
        self.executor.run(async move {
            let waited =
                embassy_futures::select::select(mirror.whole(), clock.sleep_ms(600_000)).await;
            let whole = matches!(waited, embassy_futures::select::Either::First(()));
            assert!(whole, "not whole: {:?}", mirror.mirror_status());
        });
    }

    fn shutdown(mut self) {
        let (filesystem, clock) = (Rc::clone(&self.filesystem), self.clock.clone());
        let ended = self
            .executor
            .run(async move { filesystem.shutdown(&clock).await });
        ended.unwrap();
    }

    fn behind_bytes(&self) -> u64 {
        self.status().behind_bytes
    }
}

fn content(version: u64) -> Vec<u8> {
    let words = version.to_le_bytes();
    words.into_iter().cycle().take(BYTES).collect()
}

async fn put(fs: &FileSystem<Mirror<SimDisk>>, version: u64) -> Result<(), FileError> {
    let made = fs.transact(1, |transaction| {
        let mut files = transaction.files();
        let large = files.lookup(ROOT, b"large")?;
        files.write(large, 0, &content(version))?;
        let small = files.lookup(ROOT, b"small")?;
        files.write(small, 0, &version.to_le_bytes())
    });
    let ((), commit) = made.await?;
    let durable = fs.wait_durable(commit).await;
    durable.map_err(|_| FileError::ReadOnly)
}

/// The version that the files have, both the same.
async fn get(fs: &FileSystem<Mirror<SimDisk>>) -> Result<u64, FileError> {
    let (large, small) = fs
        .read(|transaction| {
            let mut files = transaction.files();
            let large = files.lookup(ROOT, b"large")?;
            let small = files.lookup(ROOT, b"small")?;
            Ok((files.read(large, 0, BYTES)?, files.read(small, 0, 8)?))
        })
        .await?;
    let version = u64::from_le_bytes(small.try_into().unwrap());
    assert!(large == content(version), "the files are of two versions");
    Ok(version)
}

/// A formatted disk with version 0.
fn first_disk(seed: u64) -> SimDisk {
    let disk = SimDisk::new(BLOCKS, seed);
    let target = disk.clone();
    let id = FileSystemId([0xA5; 16]);
    Executor::new(seed).run(async move {
        let made = common::key::format(&target, FORMAT, id).await;
        made.unwrap();
    });
    let mut machine = Machine::boot(std::slice::from_ref(&disk), seed).unwrap();
    let filesystem = Rc::clone(&machine.filesystem);
    machine.executor.run(async move {
        let made = filesystem.transact(1, |transaction| {
            let mut files = transaction.files();
            for name in [&b"large"[..], b"small"] {
                let new = NewInode {
                    kind: FileKind::File,
                    mode: 0o644,
                    uid: 0,
                    gid: 0,
                    device: 0,
                    target: Vec::new(),
                };
                files.create(ROOT, name, &new)?;
            }
            Ok(())
        });
        made.await.unwrap();
        put(&filesystem, 0).await.unwrap();
    });
    machine.shutdown();
    disk.snapshot(seed)
}

/// Two disks that hold the same.
fn pair(seed: u64) -> Disks {
    let disks = [first_disk(seed), SimDisk::new(BLOCKS, seed + 1)];
    let mut machine = Machine::boot(&disks, seed).unwrap();
    machine.whole();
    machine.shutdown();
    let [one, two] = disks;
    [one.snapshot(seed + 2), two.snapshot(seed + 3)]
}

/// Bytes that no compression makes smaller.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..len).map(|_| random.index(256) as u8).collect()
}

/// Writes a block to one disk, past the mirror.
fn write_block(disk: &SimDisk, block: u64, bytes: &[u8]) {
    let disk = disk.clone();
    let mut buffer = Buffer::zeroed(1).unwrap();
    buffer.bytes_mut().copy_from_slice(bytes);
    let written =
        Executor::new(0).run(async move { disk.write(BlockIndex(block), buffer).await.1 });
    written.unwrap();
}

fn block_of(disk: &SimDisk, block: u64) -> Vec<u8> {
    let at = usize::try_from(block).unwrap() * 4096;
    disk.to_bytes()[at..at + 4096].to_vec()
}

fn snapshots(disks: &Disks, seed: u64) -> Disks {
    [disks[0].snapshot(seed), disks[1].snapshot(seed + 1)]
}

/// A check of one disk alone finds nothing.
fn assert_clean(disk: &SimDisk, what: &str) {
    let disk = disk.snapshot(0);
    let what = what.to_owned();
    Executor::new(0).run(async move {
        let mut events = |event: lfs::CheckEvent<'_>| {
            if let lfs::CheckEvent::Finding(finding) = event {
                println!("{what}: {finding}");
            }
        };
        let options = CheckOptions {
            key: common::key::key(),
            data: true,
            ..CheckOptions::default()
        };
        let summary = lfs::check(&disk, options, &mut events).await;
        assert!(summary.is_clean(), "{what}: {summary:?}");
    });
}

/// Both disks have `version`, each alone.
fn assert_each_has(disks: &Disks, version: u64, what: &str) {
    for (number, disk) in disks.iter().enumerate() {
        let alone = disk.snapshot(7);
        let mut machine = Machine::boot(&[alone], 7)
            .unwrap_or_else(|error| panic!("{what}: disk {number} alone: {error}"));
        assert_eq!(machine.get(), Ok(version), "{what}: disk {number} alone");
        assert_clean(disk, &format!("{what}: disk {number}"));
    }
}

#[test]
fn a_blank_disk_becomes_the_mirror_of_the_other_and_gets_only_what_is_in_use() {
    for swapped in [false, true] {
        let mut disks = [first_disk(1), SimDisk::new(BLOCKS, 2)];
        if swapped {
            disks.reverse();
        }
        let mut machine = Machine::boot(&disks, 3).unwrap();
        machine.put(1).unwrap();
        machine.whole();
        let status = machine.status();
        assert_eq!(status.members, [MemberState::In; 2]);
        assert!(status.resynced_bytes >= 10 * 4096);
        let half = BLOCKS as u64 * 4096 / 2;
        assert!(status.resynced_bytes < half, "{status:?}");
        machine.put(2).unwrap();
        machine.shutdown();
        assert_each_has(&disks, 2, "whole");
    }
}

#[test]
fn a_disk_alone_takes_writes_and_the_other_one_gets_them_when_it_is_back() {
    for away in [0, 1] {
        let disks = pair(10);
        let mut machine = Machine::boot(&[disks[1 - away].clone()], 11).unwrap();
        assert_eq!(machine.get(), Ok(0));
        machine.put(5).unwrap();
        machine.shutdown();
        let mut machine = Machine::boot(&disks, 12).unwrap();
        assert_eq!(machine.get(), Ok(5), "the stale disk is not read");
        let behind = machine.behind_bytes();
        assert!(
            behind > 0 && behind < BLOCKS as u64 * 4096 / 3,
            "only what changed: {behind}"
        );
        machine.put(6).unwrap();
        machine.whole();
        assert_eq!(machine.behind_bytes(), 0);
        machine.put(7).unwrap();
        machine.shutdown();
        assert_each_has(&disks, 7, "back");
    }
}

#[test]
fn disks_written_apart_are_refused_and_not_changed() {
    let disks = pair(20);
    for (disk, version) in disks.iter().zip(1..) {
        let mut machine = Machine::boot(std::slice::from_ref(disk), 21).unwrap();
        machine.put(version).unwrap();
        machine.shutdown();
    }
    let before = [disks[0].to_bytes(), disks[1].to_bytes()];
    assert_eq!(open(&disks, 1).err(), Some(MirrorError::SplitBrain));
    assert!([disks[0].to_bytes(), disks[1].to_bytes()] == before);
    // Blanked, one of them is taken in again.
    let disks = [disks[0].clone(), SimDisk::new(BLOCKS, 22)];
    let mut machine = Machine::boot(&disks, 23).unwrap();
    machine.whole();
    machine.shutdown();
    assert_each_has(&disks, 1, "blanked");
}

#[test]
fn a_disk_that_holds_something_else_is_refused_and_not_changed() {
    let ours = first_disk(30);
    let mut other_bytes = vec![0; BLOCKS * 4096];
    other_bytes[5000] = 1;
    let foreign = SimDisk::from_bytes(&other_bytes, 0);
    let single = SimDisk::new(BLOCKS, 0);
    let target = single.clone();
    let id = FileSystemId([0x11; 16]);
    Executor::new(0).run(async move { lfs::format(&target, FORMAT, id).await.unwrap() });
    let mirrored = pair(31);
    let cases = [
        (&ours, &foreign, MirrorError::Foreign(Side::Second)),
        (&foreign, &ours, MirrorError::Foreign(Side::First)),
        (&ours, &single, MirrorError::Stranger(Side::Second)),
        (&mirrored[0], &single, MirrorError::Stranger(Side::Second)),
        (&mirrored[0], &ours, MirrorError::Stranger(Side::Second)),
    ];
    for (one, two, expected) in cases {
        let before = [one.to_bytes(), two.to_bytes()];
        assert_eq!(open(&[one.clone(), two.clone()], 3).err(), Some(expected));
        assert!([one.to_bytes(), two.to_bytes()] == before);
    }
    // A copy of a disk is not its mirror, however alike they are.
    let twin = mirrored[0].snapshot(1);
    let twins = [mirrored[0].clone(), twin];
    assert!(open(&twins, 3).is_err());
    let small = [ours.clone(), SimDisk::new(BLOCKS / 2, 0)];
    assert_eq!(
        open(&small, 3).err(),
        Some(MirrorError::TooSmall(Side::Second))
    );
}

#[test]
fn an_old_copy_of_a_disk_gets_everything() {
    let disks = pair(40);
    let old = disks[1].snapshot(41);
    for boot in 0..2 {
        let mut machine = Machine::boot(&disks, 42).unwrap();
        machine.put(boot + 1).unwrap();
        machine.shutdown();
    }
    let disks = [disks[0].clone(), old];
    let mut machine = Machine::boot(&disks, 43).unwrap();
    assert_eq!(machine.get(), Ok(2));
    machine.whole();
    machine.shutdown();
    assert_each_has(&disks, 2, "an old copy");
}

/// Lets `disk` fail every request from the `first` on, for as long as `failing` says.
fn fail_from(disk: &SimDisk, first: usize, failing: &Rc<Cell<bool>>) -> Rc<Cell<usize>> {
    let count = Rc::new(Cell::new(0));
    let (counted, failing) = (Rc::clone(&count), Rc::clone(failing));
    disk.set_faults(move |_| {
        counted.set(counted.get() + 1);
        (failing.get() && counted.get() > first).then_some(DeviceError::Io)
    });
    count
}

#[test]
fn a_disk_may_fail_at_any_request_and_comes_back_while_running() {
    let base = pair(50);
    for failed in [0, 1] {
        let mut first = 0;
        let mut outages = 0;
        loop {
            let disks = snapshots(&base, first as u64);
            let failing = Rc::new(Cell::new(true));
            // From after the mount on.
            let mut machine = Machine::boot(&disks, first as u64).unwrap();
            let count = fail_from(&disks[failed], first, &failing);
            for version in 1..=4 {
                machine.put(version).unwrap();
                if version == 2 {
                    machine.checkpoint();
                }
            }
            let reached = count.get() > first;
            let what = format!("disk {failed} fails from request {first} on");
            assert_eq!(machine.get(), Ok(4), "{what}");
            let status = machine.status();
            if status.failures > 0 {
                outages += 1;
                assert_eq!(status.members[1 - failed], MemberState::In, "{what}");
            }
            failing.set(false);
            machine.whole();
            let status = machine.status();
            assert!(
                status.resynced_bytes < BLOCKS as u64 * 4096 / 3,
                "{what}: {status:?}"
            );
            machine.put(5).unwrap();
            machine.shutdown();
            disks[failed].clear_faults();
            assert_each_has(&disks, 5, &what);
            if !reached {
                break;
            }
            first += 1;
        }
        assert!(outages > 5, "disk {failed} went out {outages} times");
    }
}

#[test]
fn a_disk_that_loses_what_it_had_not_flushed_when_it_goes_gets_it_again() {
    let seed = seed(60);
    let base = pair(60);
    let mut random = Random::new(seed);
    for round in 0..40 {
        let disks = snapshots(&base, round);
        let failed = random.index(2);
        let failing = Rc::new(Cell::new(true));
        let mut machine = Machine::boot(&disks, round).unwrap();
        fail_from(&disks[failed], random.index(20), &failing);
        for version in 1..=4 {
            machine.put(version).unwrap();
        }
        let gone = machine.status().failures > 0;
        machine.shutdown();
        if !gone {
            continue;
        }
        let crash = disks[failed].crash_at(disks[failed].event_count());
        let lost = crash.disk(|_| random.one_in(2), round);
        let mut back = disks.clone();
        back[failed] = lost;
        back[1 - failed].clear_faults();
        let mut machine = Machine::boot(&back, round).unwrap();
        machine.whole();
        assert_eq!(machine.get(), Ok(4));
        machine.shutdown();
        assert_each_has(&back, 4, &format!("round {round}"));
    }
}

/// One that is no part of a mirror is passed through, and so is what it makes durable in the request that writes.
#[test]
fn a_disk_alone_may_fail_at_any_request() {
    let mut random = Random::new(seed(65));
    let base = first_disk(65);
    for flushing in Flushing::ALL {
        for first in 0.. {
            let disk = [base.snapshot(first)];
            disk[0].set_flushing(flushing);
            let mut machine = Machine::boot(&disk, first).unwrap();
            fail_from(&disk[0], first as usize, &Rc::new(Cell::new(true)));
            let durable = (1..=4).take_while(|&version| machine.put(version).is_ok());
            let acknowledged = durable.count() as u64;
            drop(machine);
            disk[0].clear_faults();
            disk[0].power_cycle(|_| random.one_in(2));
            let found = Machine::boot(&disk, first).unwrap().get().unwrap();
            assert!(
                (acknowledged..=acknowledged + 1).contains(&found),
                "request {first} fails, {flushing:?}: {acknowledged}, {found}"
            );
            if acknowledged == 4 {
                // Where a write is durable by itself, each commit is one request.
                let least = if flushing == Flushing::Alone { 4 } else { 7 };
                assert!(first >= least, "{flushing:?}: {first}");
                break;
            }
        }
    }
}

/// Moments of two disks: how many events each had.
type Timeline = Rc<RefCell<Vec<[usize; 2]>>>;

fn trace(disks: &Disks) -> Timeline {
    let timeline = Timeline::default();
    for disk in disks {
        let (both, noted) = (disks.clone(), Rc::clone(&timeline));
        disk.set_faults(move |_| {
            let now = [both[0].event_count(), both[1].event_count()];
            let mut timeline = noted.borrow_mut();
            if timeline.last() != Some(&now) {
                timeline.push(now);
            }
            None
        });
    }
    timeline
}

/// The disks after a power cut at a moment, each with some of what it had not flushed.
fn cut(disks: &Disks, at: [usize; 2], random: &mut Random) -> Disks {
    let style = random.index(4);
    let mut number = 0;
    disks.each_ref().map(|disk| {
        number += 1;
        let crash = disk.crash_at(at[number - 1]);
        crash.disk(
            |_| match style {
                0 => false,
                1 => number == 1,
                2 => number == 2,
                _ => random.one_in(2),
            },
            0,
        )
    })
}

#[test]
fn a_power_cut_at_any_moment_loses_nothing_whichever_disks_come_back() {
    let seed = seed(70);
    let mut random = Random::new(seed);
    let base = pair(70);
    let mut states = 0;
    for round in 0..3 {
        let disks = snapshots(&base, round);
        let timeline = trace(&disks);
        let mut acknowledged = vec![(0, 0)];
        let mut machine = Machine::boot(&disks, round + seed).unwrap();
        for version in 1..=5 {
            machine.put(version).unwrap();
            acknowledged.push((timeline.borrow().len(), version));
            if version == 3 {
                machine.checkpoint();
            }
        }
        machine.shutdown();
        let timeline = timeline.borrow().clone();
        for (moment, at) in timeline.into_iter().enumerate() {
            let promised = acknowledged
                .iter()
                .rev()
                .find(|(since, _)| *since <= moment);
            let promised = promised.unwrap().1;
            for _ in 0..3 {
                states += 1;
                let left = cut(&disks, at, &mut random);
                let what = format!("round {round}, moment {moment}, {at:?}");
                power_cut_survived(&left, promised, &mut random, &what);
            }
        }
    }
    println!("{states} states");
    assert!(states > 300);
}

/// Boots both, or one and then both, and works on.
fn power_cut_survived(left: &Disks, promised: u64, random: &mut Random, what: &str) {
    let mut expected = None;
    let alone = random.index(4);
    if let Some(disk) = left.get(alone) {
        let mut machine = Machine::boot(std::slice::from_ref(disk), 1)
            .unwrap_or_else(|error| panic!("{what}: disk {alone} alone: {error}"));
        let found = machine.get().unwrap();
        assert!(
            (promised..=promised + 1).contains(&found),
            "{what}: {found}, {promised}"
        );
        if random.one_in(2) {
            machine.put(100).unwrap();
            expected = Some(100);
        } else {
            expected = Some(found);
        }
        machine.shutdown();
    }
    let mut machine =
        Machine::boot(left, 2).unwrap_or_else(|error| panic!("{what}, alone {alone}: {error}"));
    let found = machine
        .get()
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    match expected {
        Some(expected) => assert_eq!(found, expected, "{what}"),
        None => assert!(
            (promised..=promised + 1).contains(&found),
            "{what}: {found}"
        ),
    }
    if random.one_in(2) {
        machine.put(200).unwrap();
    }
    machine.whole();
    machine.put(201).unwrap();
    machine.shutdown();
    assert_each_has(left, 201, what);
}

#[test]
fn a_resync_that_is_cut_short_goes_on_and_its_disk_is_of_no_use_alone() {
    let seed = seed(80);
    let mut random = Random::new(seed);
    let base = pair(80);
    let mut machine = Machine::boot(&[base[0].clone()], 1).unwrap();
    for version in 1..=30 {
        machine.put(version).unwrap();
    }
    machine.shutdown();
    let disks = snapshots(&base, 3);
    let timeline = trace(&disks);
    let mut machine = Machine::boot(&disks, 5).unwrap();
    machine.put(31).unwrap();
    let acknowledged = timeline.borrow().len();
    machine.whole();
    machine.shutdown();
    let timeline = timeline.borrow().clone();
    let mut refused = 0;
    for (moment, at) in timeline.into_iter().enumerate() {
        let left = cut(&disks, at, &mut random);
        let what = format!("moment {moment}, {at:?}");
        match Machine::boot(&[left[1].snapshot(0)], 1) {
            // It was not begun yet: the state it had; or it had everything.
            Ok(mut machine) => {
                let found = machine.get().unwrap();
                assert!([0, 30, 31].contains(&found), "{what}: {found}");
            }
            Err(error) => {
                assert!(error.contains("not complete"), "{what}: {error}");
                refused += 1;
            }
        }
        let mut machine = Machine::boot(&left, 2).unwrap_or_else(|e| panic!("{what}: {e}"));
        machine.whole();
        let found = machine.get().unwrap();
        let least = if moment >= acknowledged { 31 } else { 30 };
        assert!((least..=31).contains(&found), "{what}: {found}");
        machine.shutdown();
        assert_each_has(&left, found, &what);
    }
    assert!(refused > 5, "{refused}");
}

/// Where a disk keeps what it knows of the other one.
const RECORDS: [u64; 2] = [7, 8];

/// Blocks that hold something on a disk, the same on both.
fn used_blocks(disk: &SimDisk) -> Vec<u64> {
    let bytes = disk.to_bytes();
    let blocks = bytes.chunks_exact(4096).zip(0..);
    let used = blocks.filter(|(bytes, _)| bytes.iter().any(|byte| *byte != 0));
    used.map(|(_, block)| block)
        .filter(|block| !RECORDS.contains(block))
        .collect()
}

/// What is on the disks of a machine that has put six versions; every second one was shut down then, the others lost power.
fn with_six_versions(base: &Disks, round: u64) -> Disks {
    let mut machine = Machine::boot(base, round).unwrap();
    for version in 1..=6 {
        machine.put(version).unwrap();
        if version == 3 {
            machine.checkpoint();
        }
    }
    if round.is_multiple_of(2) {
        machine.shutdown();
    }
    snapshots(base, round)
}

fn rot(disks: &Disks, random: &mut Random) {
    for block in used_blocks(&disks[0]) {
        // Each block on one of them.
        let disk = &disks[random.index(2)];
        disk.flip_bit(BlockIndex(block), random.index(4096 * 8));
        disk.flip_bit(BlockIndex(block), random.index(512 * 8));
    }
}

#[test]
fn what_rots_on_one_disk_is_read_from_the_other_and_written_again() {
    let seed = seed(90);
    let mut random = Random::new(seed);
    for round in 0..20 {
        let base = pair(90 + round);
        let disks = with_six_versions(&base, round);
        rot(&disks, &mut random);
        let mut machine = Machine::boot(&disks, round).unwrap();
        assert_eq!(machine.get(), Ok(6), "round {round}");
        let status = machine.scrub();
        assert_eq!(status.unrepairable, 0, "round {round}: {status:?}");
        let repaired = machine.status().repaired;
        assert!(repaired > 0, "round {round}");
        machine.put(7).unwrap();
        machine.shutdown();
        assert_each_has(&disks, 7, &format!("round {round}"));
    }
}

impl Machine {
    /// Bytes that the file system spans when nothing more comes of it for a while.
    fn span_bytes(&mut self) -> u64 {
        let (filesystem, clock) = (Rc::clone(&self.filesystem), self.clock.clone());
        self.executor.run(async move {
            clock.sleep_ms(30_000).await;
            filesystem.span().bytes
        })
    }
}

/// Bytes of so many segments.
fn segments(count: usize) -> u64 {
    (count * SEGMENT_BLOCKS * 4096) as u64
}

fn resize(disk: &SimDisk, segments: usize) {
    disk.resize(segments * SEGMENT_BLOCKS);
}

#[test]
fn a_mirror_grows_to_the_smaller_of_both_once_both_are_larger() {
    let disks = pair(70);
    let mut machine = Machine::boot(&disks, 71).unwrap();
    let before = machine.span_bytes();
    assert_eq!(before, segments(96));
    resize(&disks[0], 200);
    assert_eq!(machine.span_bytes(), before, "one of them is not larger");
    let status = machine.status();
    assert_eq!(status.member_bytes, [segments(200), before]);
    resize(&disks[1], 150);
    assert_eq!(machine.span_bytes(), segments(150));
    machine.put(1).unwrap();
    machine.shutdown();
    assert_each_has(&disks, 1, "grown");

    // The other way round, between boots.
    resize(&disks[1], 400);
    let mut machine = Machine::boot(&disks, 72).unwrap();
    assert_eq!(machine.span_bytes(), segments(200));
    machine.put(2).unwrap();
    machine.shutdown();
    assert_each_has(&disks, 2, "grown again");
}

#[test]
fn a_disk_alone_does_not_outgrow_the_one_that_is_away() {
    for away in [0, 1] {
        let disks = pair(73);
        let alone = std::slice::from_ref(&disks[1 - away]);
        resize(&disks[1 - away], 200);
        let mut machine = Machine::boot(alone, 74).unwrap();
        assert_eq!(machine.span_bytes(), segments(96), "the other one is away");
        machine.put(1).unwrap();
        machine.shutdown();
        let mut machine = Machine::boot(&disks, 75).unwrap();
        machine.whole();
        assert_eq!(
            machine.span_bytes(),
            segments(96),
            "the other one is smaller"
        );
        machine.shutdown();

        // It comes back larger, and stale: first it gets what it lacks, then both grow.
        let mut machine = Machine::boot(alone, 76).unwrap();
        machine.put(2).unwrap();
        machine.shutdown();
        resize(&disks[away], 120);
        let mut machine = Machine::boot(&disks, 77).unwrap();
        assert_eq!(machine.filesystem.span().bytes, segments(96));
        machine.whole();
        assert_eq!(machine.span_bytes(), segments(120));
        machine.put(3).unwrap();
        machine.shutdown();
        assert_each_has(&disks, 3, "both larger");
    }
}

#[test]
fn a_disk_too_small_for_what_the_other_one_grew_to_is_refused() {
    let one = first_disk(78);
    resize(&one, 200);
    let mut machine = Machine::boot(std::slice::from_ref(&one), 78).unwrap();
    assert_eq!(machine.span_bytes(), segments(200));
    machine.shutdown();
    let small = SimDisk::new(199 * SEGMENT_BLOCKS, 79);
    let expected = Some(MirrorError::TooSmall(Side::Second));
    assert_eq!(open(&[one.clone(), small.clone()], 1).err(), expected);
    assert!(small.to_bytes().iter().all(|byte| *byte == 0));
    let disks = [one, SimDisk::new(200 * SEGMENT_BLOCKS, 80)];
    let mut machine = Machine::boot(&disks, 81).unwrap();
    machine.whole();
    machine.put(1).unwrap();
    machine.shutdown();
    assert_each_has(&disks, 1, "as large as the other");
}

#[test]
fn a_power_cut_while_a_mirror_grows_loses_nothing_whichever_disks_come_back() {
    let mut random = Random::new(seed(82));
    let disks = pair(82);
    let disks = snapshots(&disks, 83);
    let timeline = trace(&disks);
    let mut machine = Machine::boot(&disks, 83).unwrap();
    for disk in &disks {
        resize(disk, 200);
    }
    let mut acknowledged = vec![(0, [0, 0])];
    for version in 1..6 {
        machine.put(version).unwrap();
        if version == 2 {
            assert_eq!(machine.span_bytes(), segments(200));
        }
        acknowledged.push((version, disks.each_ref().map(SimDisk::event_count)));
    }
    let moments = timeline.borrow().clone();
    let mut sizes = [0; 2];
    for at in moments {
        let left = cut(&disks, at, &mut random);
        let large = |disk: &SimDisk| disk.geometry().block_count == segments(200) / 4096;
        if !left.iter().all(large) {
            continue;
        }
        let what = format!("{at:?}");
        let mut machine = Machine::boot(&left, 84).unwrap();
        sizes[usize::from(machine.filesystem.span().bytes == segments(200))] += 1;
        let past = acknowledged.iter().rev();
        let promised = past
            .clone()
            .find(|(_, then)| then[0] <= at[0] && then[1] <= at[1]);
        assert!(
            machine.get().ok() >= promised.map(|(version, _)| *version),
            "{what}"
        );
        machine.whole();
        assert_eq!(machine.span_bytes(), segments(200), "{what}");
        machine.put(9).unwrap();
        machine.shutdown();
        assert_each_has(&left, 9, &what);
    }
    assert!(sizes.iter().all(|count| *count > 3), "{sizes:?}");
}

/// Opening two disks and being refused for want of the key left a new disk with a record on it, and the other one with
/// word of it.
#[test]
fn a_wrong_key_leaves_both_disks_as_they_are() {
    let key = common::key::encryption(Suite::XChaCha20Poly1305);
    let encrypted = SimDisk::new(BLOCKS, 90);
    let target = encrypted.clone();
    let id = FileSystemId([0xA5; 16]);
    Executor::new(90).run(async move {
        let made = lfs::format_encrypted(&target, FORMAT, id, &key).await;
        made.unwrap();
    });
    for swapped in [false, true] {
        let mut disks = [encrypted.snapshot(91), SimDisk::new(BLOCKS, 92)];
        if swapped {
            disks.reverse();
        }
        let before = disks.each_ref().map(SimDisk::to_bytes);
        for wrong in [None, Some(&[9; 32])] {
            let both = disks.to_vec();
            let refused = Executor::new(93).run(async move {
                let mirror = Mirror::open(both, [4; 16]).await.unwrap();
                let key = wrong.map(|content| common::key::with_key_file(content));
                Recovery::open_with(mirror, key.as_ref()).await.err()
            });
            assert!(matches!(refused, Some(MountError::Key(_))), "{refused:?}");
            assert!(disks.each_ref().map(SimDisk::to_bytes) == before);
        }
        // With the right one the blank disk becomes the mirror.
        let (both, mut executor) = (disks.to_vec(), Executor::new(94));
        let clock = executor.clock();
        let whole = executor.run(async move {
            let mirror = Mirror::open(both, [5; 16]).await.unwrap();
            let key = common::key::with_key_file(&common::key::KEY_FILE);
            let mut recovery = Recovery::open_with(mirror.clone(), Some(&key))
                .await
                .unwrap();
            while recovery.next_commit().await.unwrap().is_some() {}
            recovery.finish().await.unwrap();
            let waiting = select3(mirror.run(&clock), mirror.whole(), clock.sleep_ms(60_000));
            matches!(waiting.await, Either3::Second(()))
        });
        assert!(whole);
    }
}

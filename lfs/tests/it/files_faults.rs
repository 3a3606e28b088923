//! Files on a device that fails, forgets, or writes to the wrong place.
//!
//! Invariants: a read that fails is reported and harms nothing. After a write or flush that fails nothing more is
//! acknowledged, and the next mount finds all that was. Whatever a device did to what was written, each mount and each
//! read gives what was written or an error, never other bytes; commits that are missing without a word are the last ones, of
//! each of which the device has spoiled something. What is not damaged stays usable.

use crate::common;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use crate::common::operation::{HANDLES, Observed, Operation, Target, TreePath, observe};
use crate::common::posix::Model;
use crate::common::world::{Machine, World, is_fault, random_bytes, same};
use crate::common::{SEGMENT_BLOCKS, TestFileSystem, formatted_of_any_kind, seed, try_mount};
use lfs::sim::{Executor, Fate, Random, Request, SimDisk};
use lfs::{BLOCK_SIZE, BlockIndex, CommitNumber, DeviceError, FileError, FileKind, NewInode, ROOT};

const SEGMENTS: usize = 200;

fn work(machine: &mut Machine, transactions: u64) {
    let worker = machine.worker();
    machine.run(async move { worker.transactions(transactions).await });
}

/// A machine that has worked for a while and is about to go on.
fn machine(seed: u64) -> Machine {
    let mut machine = Machine::new(formatted_of_any_kind(SEGMENTS, seed), seed);
    work(&mut machine, 40);
    let machine = machine.reboot(seed);
    machine.world.borrow_mut().faulty = true;
    machine
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Flush,
}

/// Lets the request of a kind with this number fail, and all after it if `for_good`.
fn fail(disk: &SimDisk, kind: Kind, number: u64, for_good: bool) -> Rc<Cell<u64>> {
    let count = Rc::new(Cell::new(0));
    let counting = Rc::clone(&count);
    disk.set_faults(move |request| {
        let of_kind = match request {
            Request::Read(..) => Kind::Read,
            Request::Write(..) => Kind::Write,
            Request::Flush => Kind::Flush,
        };
        if of_kind != kind {
            return None;
        }
        counting.set(counting.get() + 1);
        let due = counting.get() == number + 1 || (for_good && counting.get() > number);
        due.then_some(DeviceError::Io)
    });
    count
}

#[test]
fn a_request_that_fails_loses_nothing_that_was_acknowledged() {
    let seed = seed(61);
    let mut failed = 0;
    for (kind, numbers) in [(Kind::Read, 60), (Kind::Write, 80), (Kind::Flush, 40)] {
        for number in 0..numbers {
            for for_good in [false, true] {
                let seed = seed + number;
                let mut machine = machine(seed);
                let count = fail(&machine.disk, kind, number, for_good);
                work(&mut machine, 40);
                machine.disk.clear_faults();
                let reached = count.get() > number;
                failed += u64::from(reached);
                let latched = machine.filesystem.is_failed();
                assert_eq!(
                    latched,
                    reached && kind != Kind::Read,
                    "{kind:?} {number}, seed {seed}"
                );
                if !latched {
                    machine.world.borrow_mut().faulty = false;
                    work(&mut machine, 5);
                    machine.compare(&format!("{kind:?} {number}, seed {seed}"));
                }
                let mut machine = machine.lose_power(seed);
                machine.world.borrow_mut().faulty = false;
                machine.compare(&format!("{kind:?} {number}, seed {seed}, mounted"));
            }
        }
    }
    println!("{failed} requests failed");
    assert!(failed > 200);
}

/// Whether mount and reads say that something is wrong; what they show instead is right.
fn is_reported(disk: &SimDisk, world: &World, what: &str) -> bool {
    let mut executor = Executor::new(3);
    let mounted = disk.clone();
    let mounted = executor.run(async move {
        let mut recovery = common::key::open(mounted).await?;
        while recovery.next_commit().await?.is_some() {}
        recovery.finish().await
    });
    let Ok(filesystem) = mounted.map(Rc::new) else {
        return true;
    };
    let found = filesystem.appended();
    let reading = Rc::clone(&filesystem);
    let tree = executor.run(async move {
        reading
            .read(|transaction| observe(&mut transaction.files(), &[None; HANDLES]))
            .await
    });
    let first = world.states.keys().next().copied().unwrap();
    let state = world.states.range(..=found.max(first)).next_back();
    let reported = match tree {
        Ok(tree) => {
            assert!(
                found >= first,
                "{what}: back before the last mount, {found:?}"
            );
            let mut model = Model::clone(state.unwrap().1);
            for handle in 0..HANDLES {
                model.apply(&Operation::Close { handle }).unwrap();
            }
            same(&tree, &model.observe(), what);
            false
        }
        Err(_) => true,
    };
    // In the background nothing panics either.
    let (running, clock) = (Rc::clone(&filesystem), executor.clock());
    executor.spawn(async move { running.run(&clock).await });
    let clock = executor.clock();
    executor.run(async move { lfs::Clock::sleep_ms(&clock, 3000).await });
    reported
}

#[test]
fn a_flipped_bit_is_reported_or_does_not_matter() {
    let seed = seed(62);
    let mut random = Random::new(seed);
    let mut reported = 0;
    for round in 0..10 {
        let machine = machine(seed + round);
        let blocks = SEGMENTS * SEGMENT_BLOCKS;
        let disk = machine.disk.snapshot(0);
        let bytes = disk.to_bytes();
        let used = (0..blocks).filter(|block| {
            bytes[block * BLOCK_SIZE..][..BLOCK_SIZE]
                .iter()
                .any(|&b| b != 0)
        });
        let used = used.collect::<Vec<_>>();
        for _ in 0..100 {
            let damaged = disk.snapshot(0);
            let block = used[random.index(used.len())];
            let bit = random.index(BLOCK_SIZE * 8);
            damaged.flip_bit(BlockIndex(block as u64), bit);
            let what = format!("seed {}, block {block}, bit {bit}", seed + round);
            reported += u64::from(is_reported(&damaged, &machine.world.borrow(), &what));
        }
    }
    println!("{reported} of 1000 reported");
    assert!(reported > 200);
}

#[test]
fn torn_lost_and_misdirected_writes_are_reported_or_do_not_matter() {
    let seed = seed(63);
    let mut reported = 0;
    let rounds = 250;
    for round in 0..rounds {
        let seed = seed + round;
        let mut machine = machine(seed);
        let mut random = Random::new(seed);
        let wrong_at = random.below(60);
        let number = Cell::new(0);
        machine.disk.set_fates(move |_, blocks| {
            number.set(number.get() + 1);
            if number.get() != wrong_at + 1 {
                return Fate::Written;
            }
            let elsewhere = BlockIndex(random.below((SEGMENTS * SEGMENT_BLOCKS) as u64));
            match random.below(3) {
                0 => Fate::Lost,
                1 => Fate::Torn(random.index(blocks * 8)),
                _ => Fate::Misdirected(elsewhere),
            }
        });
        work(&mut machine, 40);
        machine.disk.clear_fates();
        let disk = machine.disk.snapshot(0);
        let what = format!("seed {seed}");
        reported += u64::from(is_reported(&disk, &machine.world.borrow(), &what));
    }
    println!("{reported} of {rounds} reported");
    assert!(reported > rounds / 20);
}

/// What can go wrong in one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Mishap {
    Rot,
    Torn,
    Lost,
    Misdirected,
    IoError,
    Full,
}

const MISHAPS: [Mishap; 6] = [
    Mishap::Rot,
    Mishap::Torn,
    Mishap::Lost,
    Mishap::Misdirected,
    Mishap::IoError,
    Mishap::Full,
];

/// Segments of a disk that is full most of the time.
const FEW_SEGMENTS: usize = 60;

/// One in so many writes is not what the disk says it is.
const SPOILED_ONCE_IN: u64 = 120;

/// One in so many reads fails.
const UNREAD_ONCE_IN: u64 = 150;

/// Boots of a run.
const BOOTS: u64 = 6;

/// What a disk has done since the boot: so that what is missing can be told from what it spoiled.
#[derive(Default)]
struct Deeds {
    /// The event that last wrote a block.
    writers: BTreeMap<u64, usize>,
    /// Events whose writes are not on the disk as they were sent.
    spoiled: BTreeSet<usize>,
    /// The same of something that was written before.
    spoiled_earlier: bool,
    /// Bits that flipped in what is still there.
    flipped: BTreeSet<(u64, usize)>,
    counts: BTreeMap<Mishap, u64>,
}

/// What does not leave what was written as it was.
const SPOILING: [Mishap; 4] = [Mishap::Rot, Mishap::Torn, Mishap::Lost, Mishap::Misdirected];

impl Deeds {
    fn has_spoiled(&self) -> bool {
        SPOILING.iter().any(|kind| self.counts.contains_key(kind))
    }

    fn count(&mut self, mishap: Mishap) {
        *self.counts.entry(mishap).or_default() += 1;
    }

    fn write(&mut self, event: usize, blocks: std::ops::Range<u64>) {
        self.flipped.retain(|(block, _)| !blocks.contains(block));
        self.writers.extend(blocks.map(|block| (block, event)));
    }

    fn spoil(&mut self, block: u64) {
        match self.writers.get(&block) {
            Some(&event) => _ = self.spoiled.insert(event),
            None => self.spoiled_earlier = true,
        }
    }

    /// Whether all that was acknowledged and is not in `found` was spoiled. A worker that waits for a commit waits for all
    /// before it: what the next one promises was written after, or with it.
    fn explain(&self, found: CommitNumber, acknowledged: &[(CommitNumber, usize)]) -> bool {
        let mut since = (CommitNumber(0), 0);
        let mut from = 0;
        acknowledged.iter().all(|&(commit, at)| {
            let (before, last) = std::mem::replace(&mut since, (commit, at));
            if at > last {
                from = last;
            }
            let is_there = commit <= found || commit <= before;
            let is_spoiled = if at == 0 {
                self.spoiled_earlier
            } else {
                self.spoiled.range(from..at).next().is_some()
            };
            is_there || is_spoiled
        })
    }
}

/// From now on the disk does what it should not, until it is told otherwise.
fn misbehave(disk: &SimDisk, mishaps: &[Mishap], seed: u64) -> Rc<RefCell<Deeds>> {
    let deeds = Rc::new(RefCell::new(Deeds::default()));
    let kinds = [Mishap::Torn, Mishap::Lost, Mishap::Misdirected];
    let kinds = kinds.into_iter().filter(|kind| mishaps.contains(kind));
    let kinds = kinds.collect::<Vec<_>>();
    let block_count = disk.to_bytes().len() / BLOCK_SIZE;
    let mut random = Random::new(seed);
    let (noted, events) = (Rc::clone(&deeds), disk.clone());
    disk.set_fates(move |start, blocks| {
        let deeds = &mut *noted.borrow_mut();
        let event = events.event_count();
        let to = |start: BlockIndex| start.0..start.0 + blocks as u64;
        if kinds.is_empty() || !random.one_in(SPOILED_ONCE_IN) {
            deeds.write(event, to(start));
            return Fate::Written;
        }
        deeds.spoiled.insert(event);
        // What it was to replace is missed by nobody, or it is what is missing.
        let kind = kinds[random.index(kinds.len())];
        deeds.count(kind);
        match kind {
            Mishap::Torn => {
                deeds.write(event, to(start));
                Fate::Torn(random.index(blocks * 8))
            }
            Mishap::Lost => Fate::Lost,
            _ => {
                let elsewhere = BlockIndex(random.below(block_count as u64));
                to(elsewhere).for_each(|block| deeds.spoil(block));
                deeds.write(event, to(elsewhere));
                Fate::Misdirected(elsewhere)
            }
        }
    });
    if mishaps.contains(&Mishap::IoError) {
        let mut random = Random::new(seed + 1);
        let noted = Rc::clone(&deeds);
        // After it nothing more is written.
        let mut until_failure = random.below(600);
        disk.set_faults(move |request| {
            let fails = if matches!(request, Request::Read(..)) {
                random.one_in(UNREAD_ONCE_IN)
            } else {
                until_failure = until_failure.wrapping_sub(1);
                until_failure == 0
            };
            fails.then(|| {
                noted.borrow_mut().count(Mishap::IoError);
                DeviceError::Io
            })
        });
    }
    deeds
}

/// Flips a bit in what is in use, or in what was written last.
fn rot(disk: &SimDisk, deeds: &mut Deeds, random: &mut Random) {
    let newest = deeds.writers.iter().max_by_key(|(_, event)| **event);
    let block = match newest {
        Some((block, _)) if random.one_in(3) => *block,
        _ => {
            let bytes = disk.to_bytes();
            let blocks = bytes.chunks_exact(BLOCK_SIZE).zip(0..);
            let used = blocks.filter(|(bytes, _)| bytes.iter().any(|byte| *byte != 0));
            let used = used.map(|(_, block)| block).collect::<Vec<_>>();
            used[random.index(used.len())]
        }
    };
    let bit = random.index(BLOCK_SIZE * 8);
    disk.flip_bit(BlockIndex(block), bit);
    deeds.spoil(block);
    deeds.count(Mishap::Rot);
    if !deeds.flipped.remove(&(block, bit)) {
        deeds.flipped.insert((block, bit));
    }
}

/// The disk as the next boot finds it: all that it has, or after a power cut.
fn left_of(disk: &SimDisk, deeds: &Deeds, random: &mut Random) -> SimDisk {
    disk.clear_faults();
    disk.clear_fates();
    let seed = random.next_u64();
    if random.one_in(2) {
        return disk.snapshot(seed);
    }
    let crash = disk.crash_at(disk.event_count());
    let left = crash.disk(|_| random.one_in(2), seed);
    for &(block, bit) in &deeds.flipped {
        left.flip_bit(BlockIndex(block), bit);
    }
    left
}

/// How runs went.
#[derive(Debug, Default)]
struct Tally {
    boots: u64,
    /// Those of disks that had spoiled nothing.
    sound: u64,
    /// Mounts that were refused, commits that were missing, names and files that could not be read.
    refused: u64,
    missing: u64,
    unreadable: u64,
    readable: u64,
    /// Whether something new could be written at the end, and was there after that.
    usable: u64,
    unusable: u64,
    full: u64,
    counts: BTreeMap<Mishap, u64>,
}

/// Boots from what is left, if it is not refused; what is there then is right, or it is said that it cannot be read.
fn boot(
    machine: Machine,
    deeds: &Deeds,
    left: SimDisk,
    tally: &mut Tally,
    what: &str,
) -> Option<Machine> {
    tally.boots += 1;
    if try_mount(&left.snapshot(0)).is_err() {
        tally.refused += 1;
        return None;
    }
    let world = machine.world;
    let mut machine = Machine::boot(left, Rc::clone(&world), tally.boots);
    let found = machine.filesystem.appended();
    {
        let world = &mut *world.borrow_mut();
        let newest = world.acknowledged.iter().map(|(commit, _)| *commit).max();
        tally.missing += u64::from(newest > Some(found));
        assert!(
            deeds.explain(found, &world.acknowledged),
            "{what}: {found:?} of {:?}, spoiled {:?}",
            world.acknowledged,
            deeds.spoiled
        );
        // What is gone may be more next time.
        let mut states = world.states.clone();
        world.go_back_to(found, &[]);
        states.split_off(&found);
        world.states.append(&mut states);
    }
    let expected = world.borrow().model.observe();
    let (filesystem, what) = (Rc::clone(&machine.filesystem), what.to_owned());
    let (readable, unreadable) = machine.run(async move {
        let mut counts = (0, 0);
        for observed in &expected {
            if is_right(&filesystem, observed, &what).await {
                counts.0 += 1;
            } else {
                counts.1 += 1;
            }
        }
        counts
    });
    tally.readable += readable;
    tally.unreadable += unreadable;
    Some(machine)
}

/// Whether a name is there, and all that is to be known of it; if not, that must be said.
async fn is_right(filesystem: &TestFileSystem, expected: &Observed, what: &str) -> bool {
    let what = format!("{what}: {}", expected.brief());
    let stat = filesystem.read(|transaction| {
        let mut files = transaction.files();
        let inode = files.resolve_from(ROOT, &expected.path, false)?;
        let mut attributes = BTreeMap::new();
        for name in files.list_xattrs(inode)? {
            let value = files.get_xattr(inode, &name)?;
            attributes.insert(name, value);
        }
        Ok((files.stat(inode)?, attributes))
    });
    let (stat, attributes) = match stat.await {
        Err(error) if is_fault(&error) => return false,
        found => found.unwrap_or_else(|error| panic!("{what}: {error}")),
    };
    let found = (
        stat.kind, stat.mode, stat.uid, stat.gid, stat.links, stat.size,
    );
    let Observed {
        kind,
        mode,
        uid,
        gid,
        links,
        size,
        ..
    } = *expected;
    assert_eq!(found, (kind, mode, uid, gid, links, size), "{what}");
    assert!(attributes == expected.attributes, "{what}: attributes");
    let read = async |len: usize| {
        let read = filesystem.read(|transaction| {
            let mut files = transaction.files();
            match kind {
                FileKind::File => files.read(stat.inode, 0, len),
                FileKind::Symlink => files.read_link(stat.inode),
                _ => Ok(Vec::new()),
            }
        });
        read.await
    };
    let Some(content) = &expected.content else {
        return true;
    };
    match read(usize::MAX).await {
        Ok(found) => assert!(found == *content, "{what}: content"),
        Err(FileError::DamagedData { bytes, .. }) => {
            let before = usize::try_from(bytes.start).unwrap();
            let found = read(before).await;
            let found = found.unwrap_or_else(|error| panic!("{what}, before {before}: {error}"));
            assert!(
                found == content[..before],
                "{what}: content before {before}"
            );
            return false;
        }
        Err(error) => {
            assert!(is_fault(&error), "{what}: {error}");
            return false;
        }
    }
    true
}

/// Whether something new can be written, now that the disk does as it should.
fn is_usable(machine: &mut Machine, random: &mut Random) -> bool {
    let path = || TreePath {
        base: None,
        bytes: b"/new".to_vec(),
    };
    let write = Operation::Write {
        target: Target::Path(path()),
        offset: 0,
        bytes: random_bytes(random, 5000),
    };
    let new = NewInode::new(FileKind::File, 0o644);
    let operations = [Operation::Create { path: path(), new }, write];
    let worker = machine.worker();
    machine.run(async move {
        let made = worker.transact(&operations).await;
        let commit = worker.filesystem.appended();
        let durable = worker.filesystem.wait_durable(commit).await;
        if durable.is_ok() {
            worker.wait_durable(commit).await;
        }
        made.is_ok() && durable.is_ok()
    })
}

/// Works with several mishaps until there were so many boots, or a mount is refused.
fn mixed(seed: u64, tally: &mut Tally) {
    let mut random = Random::new(seed);
    let mut mishaps = MISHAPS.to_vec();
    for _ in 0..random.below(MISHAPS.len() as u64 - 1) {
        mishaps.swap_remove(random.index(mishaps.len()));
    }
    let what = format!("seed {seed}, {mishaps:?}");
    let segments = if mishaps.contains(&Mishap::Full) {
        FEW_SEGMENTS
    } else {
        SEGMENTS
    };
    let mut machine = Machine::new(formatted_of_any_kind(segments, seed), seed);
    let mut spoiled = false;
    work(&mut machine, 40);
    machine.world.borrow_mut().faulty = true;
    for number in 0..BOOTS {
        let what = format!("{what}, boot {number}");
        let deeds = misbehave(&machine.disk, &mishaps, random.next_u64());
        for _ in 0..4 {
            work(&mut machine, 15);
            if mishaps.contains(&Mishap::Rot) && random.one_in(3) {
                rot(&machine.disk, &mut deeds.borrow_mut(), &mut random);
            }
        }
        tally.full += std::mem::take(&mut machine.world.borrow_mut().full);
        let left = left_of(&machine.disk, &deeds.borrow(), &mut random);
        let deeds = deeds.take();
        for (mishap, count) in &deeds.counts {
            *tally.counts.entry(*mishap).or_default() += count;
        }
        spoiled |= deeds.has_spoiled();
        let unreadable = tally.unreadable;
        let next = boot(machine, &deeds, left, tally, &what);
        // A disk that merely failed, was full, or lost its power has all that it promised.
        if !spoiled {
            tally.sound += 1;
            assert!(next.is_some(), "{what}: refused");
            assert_eq!(tally.unreadable, unreadable, "{what}");
        }
        let Some(next) = next else {
            return;
        };
        machine = next;
    }
    if !is_usable(&mut machine, &mut random) {
        // Where nothing is damaged there is only one reason.
        assert!(spoiled || mishaps.contains(&Mishap::Full), "{what}");
        tally.unusable += 1;
        return;
    }
    let (deeds, left) = (Deeds::default(), machine.disk.snapshot(seed));
    let what = format!("{what}, at the end");
    assert!(
        boot(machine, &deeds, left, tally, &what).is_some(),
        "{what}"
    );
    tally.usable += 1;
}

#[test]
fn several_kinds_of_faults_in_one_run_are_reported_or_do_not_matter() {
    let seed = seed(64);
    let mut tally = Tally::default();
    for round in 0..40 {
        mixed(seed + round, &mut tally);
    }
    println!("{tally:?}");
    assert!(MISHAPS[..5].iter().all(|mishap| tally.counts[mishap] > 10));
    assert!(tally.full > 20 && tally.refused > 4 && tally.unreadable > 20);
    assert!(tally.sound > 20);
    assert!(tally.boots > 100 && tally.readable > 1000 && tally.usable > 5);
}

//! A file system whose device becomes larger.
//!
//! Invariants:
//! - At the next mount, or at once where the device says so, there is as much more room as the device has, up to the bound.
//! - Whatever the power leaves while it grows, with either copy of the superblock damaged or none: the size is the old
//!   one or the new one, a check finds nothing, and everything acknowledged is there. The same with a key.
//! - A failed request while it grows costs nothing but the mount.
//! - A device that is smaller than the file system is told from one that holds none, and refused.

use crate::common;

use std::cell::Cell;
use std::rc::Rc;

use crate::common::{
    SEGMENT_BLOCKS, TestFileSystem, formatted, formatted_of_any_kind, mount, try_mount,
};
use embassy_futures::select::{Either, select};
use lfs::sim::{Crash, Executor, Random, SimClock, SimDisk};
use lfs::{
    BlockDevice, BlockIndex, CheckOptions, CheckSummary, Clock, CommitNumber, DeviceError,
    FileError, FileKind, InodeNumber, MountError, NewInode, ROOT, Structure, Suite,
};

/// Segments of the disk at first, the head included, and when it has grown.
const BEFORE: usize = 96;
const AFTER: usize = 400;
const SEGMENT_BYTES: u64 = SEGMENT_BLOCKS as u64 * 4096;

fn blocks(segments: usize) -> usize {
    segments * SEGMENT_BLOCKS
}

/// Bytes that a file system spans on a disk of so many segments.
fn span_on(segments: usize) -> u64 {
    segments as u64 * SEGMENT_BYTES
}

/// A mounted file system with one file in it.
struct Machine {
    executor: Executor,
    clock: SimClock,
    filesystem: Rc<TestFileSystem>,
}

impl Machine {
    fn boot(disk: &SimDisk, seed: u64) -> Result<Self, MountError> {
        let mut executor = Executor::new(seed);
        let filesystem = mount(&mut executor, disk)?.filesystem;
        let clock = executor.clock();
        Ok(Self {
            executor,
            clock,
            filesystem,
        })
    }

    /// Waits until the file system spans so many bytes; it must before long.
    fn await_span(&mut self, bytes: u64) {
        let (filesystem, clock) = (Rc::clone(&self.filesystem), self.clock.clone());
        self.executor.run(async move {
            let grown = async {
                while filesystem.span().bytes != bytes {
                    // Simulated time: a checkpoint takes some.
                    clock.sleep_ms(10).await;
                }
            };
            let waited = select(grown, clock.sleep_ms(60_000)).await;
            assert!(
                matches!(waited, Either::First(())),
                "{:?} instead of {bytes}",
                filesystem.span()
            );
        });
    }

    /// Appends to a file until the disk is full; how many bytes it took.
    fn fill(&mut self, name: &'static [u8]) -> u64 {
        let filesystem = Rc::clone(&self.filesystem);
        self.executor.run(async move {
            let inode = create(&filesystem, name).await;
            let mut offset = 0;
            loop {
                let piece = piece(offset);
                let write = filesystem.transact(0, |tx| tx.files().write(inode, offset, &piece));
                match write.await {
                    Ok(_) => offset += piece.len() as u64,
                    Err(FileError::NoSpace) => return offset,
                    Err(error) => panic!("{error}"),
                }
            }
        })
    }

    /// Reads all of what [`fill`](Self::fill) wrote.
    fn verify(&mut self, name: &'static [u8], bytes: u64) {
        let filesystem = Rc::clone(&self.filesystem);
        self.executor.run(async move {
            for offset in (0..bytes).step_by(PIECE_BYTES) {
                let read = filesystem.read(|tx| {
                    let inode = tx.files().lookup(ROOT, name)?;
                    tx.files().read(inode, offset, PIECE_BYTES)
                });
                assert!(read.await.unwrap() == piece(offset), "at {offset}");
            }
        });
    }

    fn shutdown(mut self) {
        let (filesystem, clock) = (self.filesystem, self.clock);
        let ended = self
            .executor
            .run(async move { filesystem.shutdown(&clock).await });
        ended.unwrap();
    }
}

const PIECE_BYTES: usize = 6000;

/// What is written at an offset: it does not compress.
fn piece(offset: u64) -> Vec<u8> {
    let mut random = Random::new(offset);
    let words = std::iter::repeat_with(|| random.next_u64().to_le_bytes());
    words.flatten().take(PIECE_BYTES).collect()
}

async fn create(filesystem: &TestFileSystem, name: &[u8]) -> InodeNumber {
    let new = NewInode::new(FileKind::File, 0o644);
    let create = filesystem.transact(0, |tx| tx.files().create(ROOT, name, &new));
    create.await.unwrap().0
}

fn check(disk: &SimDisk) -> CheckSummary {
    let disk = disk.snapshot(0);
    Executor::new(0).run(async move {
        let options = CheckOptions {
            key: common::key::key(),
            data: true,
            ..CheckOptions::default()
        };
        let mut show = |event: lfs::CheckEvent<'_>| {
            if let lfs::CheckEvent::Finding(finding) = event {
                println!("{finding}");
            }
        };
        lfs::check(&disk, options, &mut show).await
    })
}

#[test]
fn a_disk_that_grew_between_mounts_is_full_later() {
    let disk = formatted(BEFORE, 1);
    let mut machine = Machine::boot(&disk, 1).unwrap();
    let before = machine.fill(b"before");
    assert_eq!(machine.filesystem.span().bytes, span_on(BEFORE));
    machine.shutdown();

    disk.resize(blocks(AFTER) + 3);
    let mut machine = Machine::boot(&disk, 2).unwrap();
    machine.await_span(span_on(AFTER));
    let more = machine.fill(b"after");
    let capacity = machine.filesystem.usage().capacity_bytes;
    assert!(capacity > 3 * before, "{capacity} bytes for files");
    assert!(before + more > capacity / 10 * 9, "{more} bytes more");
    machine.verify(b"before", before);
    machine.verify(b"after", more);
    machine.shutdown();
    assert!(check(&disk).is_clean());

    // It is as large as it is: the next mount has nothing to do.
    let mut machine = Machine::boot(&disk, 3).unwrap();
    let (filesystem, clock) = (Rc::clone(&machine.filesystem), machine.clock.clone());
    let grew = machine
        .executor
        .run(async move { filesystem.grow(&clock).await });
    assert_eq!(grew, Ok(false));
    machine.verify(b"after", more);
}

#[test]
fn a_full_disk_that_grows_while_it_is_used_takes_more() {
    let disk = formatted(BEFORE, 4);
    let mut machine = Machine::boot(&disk, 4).unwrap();
    let mut filled = Vec::new();
    for (name, segments) in [(&b"one"[..], 150), (b"two", 151), (b"three", AFTER)] {
        filled.push((name, machine.fill(name)));
        disk.resize(blocks(segments));
        machine.await_span(span_on(segments));
    }
    filled.push((b"four", machine.fill(b"four")));
    for (name, bytes) in filled {
        machine.verify(name, bytes);
    }
    let usage = machine.filesystem.usage();
    assert!(
        usage.live_bytes > usage.capacity_bytes / 10 * 9,
        "{usage:?}"
    );
    assert!(usage.capacity_bytes > span_on(AFTER) / 10 * 6, "{usage:?}");
    machine.shutdown();
    assert!(check(&disk).is_clean());
}

#[test]
fn less_than_a_segment_more_is_no_growth() {
    let disk = formatted(BEFORE, 5);
    disk.resize(blocks(BEFORE) + SEGMENT_BLOCKS - 1);
    let mut machine = Machine::boot(&disk, 5).unwrap();
    let (filesystem, clock) = (Rc::clone(&machine.filesystem), machine.clock.clone());
    let events = disk.event_count();
    let grew = machine
        .executor
        .run(async move { filesystem.grow(&clock).await });
    assert_eq!((grew, disk.event_count()), (Ok(false), events));
}

/// A commit, growth and commits side by side, with how many disk events there had been when each was durable.
struct Story {
    disk: SimDisk,
    acknowledged: Vec<(u64, usize)>,
}

async fn put(filesystem: &TestFileSystem, value: u64) -> CommitNumber {
    let made = filesystem.transact(1, |tx| {
        let inode = match tx.files().lookup(ROOT, b"value") {
            Err(FileError::NotFound) => {
                let new = NewInode::new(FileKind::File, 0o644);
                tx.files().create(ROOT, b"value", &new)?
            }
            found => found?,
        };
        tx.files().write(inode, 0, &value.to_le_bytes())?;
        tx.files().write(inode, 4096, &piece(value))
    });
    made.await.unwrap().1
}

async fn get(filesystem: &TestFileSystem) -> Result<u64, FileError> {
    let read = filesystem.read(|tx| {
        let inode = tx.files().lookup(ROOT, b"value")?;
        Ok((
            tx.files().read(inode, 0, 8)?,
            tx.files().read(inode, 4096, PIECE_BYTES)?,
        ))
    });
    let (value, rest) = read.await?;
    let value = u64::from_le_bytes(value.try_into().unwrap());
    assert!(rest == piece(value), "a part of one commit");
    Ok(value)
}

fn story(seed: u64) -> Story {
    let disk = formatted_of_any_kind(BEFORE, seed);
    let mut machine = Machine::boot(&disk, seed).unwrap();
    let filesystem = Rc::clone(&machine.filesystem);
    machine.executor.run(async move {
        let commit = put(&filesystem, 0).await;
        filesystem.wait_durable(commit).await.unwrap();
    });
    machine.shutdown();
    let disk = disk.snapshot(seed);
    let mut machine = Machine::boot(&disk, seed).unwrap();
    disk.resize(blocks(AFTER));
    let (filesystem, device) = (Rc::clone(&machine.filesystem), disk.clone());
    let acknowledged = machine.executor.run(async move {
        let mut acknowledged = vec![(0, 0)];
        for value in 1..4 {
            let commit = put(&filesystem, value).await;
            filesystem.wait_durable(commit).await.unwrap();
            acknowledged.push((value, device.event_count()));
        }
        acknowledged
    });
    machine.await_span(span_on(AFTER));
    Story { disk, acknowledged }
}

/// What a crash at an event left must be the file system before or after it grew; then it grows, and goes on.
fn recover(
    story: &Story,
    events: usize,
    disk: &SimDisk,
    damage: Option<u64>,
    sizes: &mut [u32; 2],
) {
    let what = format!("after event {events}, superblock {damage:?} damaged");
    if let Some(block) = damage {
        disk.flip_bit(BlockIndex(block), 8 * 60);
    } else {
        assert!(check(disk).is_clean(), "{what}");
    }
    let mut recovery = Executor::new(0);
    let found = disk.clone();
    let filesystem = recovery.run(async move {
        let mut recovery = common::key::open(found).await.unwrap();
        while recovery.next_commit().await.unwrap().is_some() {}
        Rc::new(recovery.finish().await.unwrap())
    });
    let size = filesystem.span().bytes;
    sizes[usize::from(size == span_on(AFTER))] += 1;
    assert!([span_on(BEFORE), span_on(AFTER)].contains(&size), "{what}");
    drop(filesystem);

    let mut machine = Machine::boot(disk, 7).unwrap();
    let filesystem = Rc::clone(&machine.filesystem);
    let value = machine
        .executor
        .run(async move { get(&filesystem).await })
        .unwrap();
    let acknowledged = story.acknowledged.iter().rev();
    let newest = acknowledged.clone().find(|(_, at)| *at <= events);
    assert!(Some(value) >= newest.map(|(value, _)| *value), "{what}");
    machine.await_span(span_on(AFTER));
    let filesystem = Rc::clone(&machine.filesystem);
    machine.executor.run(async move {
        put(&filesystem, 9).await;
    });
    machine.shutdown();
    let mut machine = Machine::boot(disk, 8).unwrap();
    let filesystem = Rc::clone(&machine.filesystem);
    assert_eq!(
        machine.executor.run(async move { get(&filesystem).await }),
        Ok(9)
    );
    assert_eq!(machine.filesystem.span().bytes, span_on(AFTER), "{what}");
}

/// Subsets of the open sectors: all where they are few, else none, all, each prefix, all but one, and some at random.
fn subsets(crash: &Crash, random: &mut Random) -> Vec<Vec<bool>> {
    let open = crash.open_sectors();
    if open <= 4 {
        let bits = 0..1_u32 << open;
        return bits
            .map(|bits| (0..open).map(|at| bits >> at & 1 == 1).collect())
            .collect();
    }
    let mut subsets = vec![vec![false; open], vec![true; open]];
    for _ in 0..4 {
        let cut = random.index(open);
        subsets.push((0..open).map(|at| at < cut).collect());
        subsets.push((0..open).map(|at| at != cut).collect());
        subsets.push((0..open).map(|_| random.one_in(2)).collect());
    }
    subsets
}

fn every_crash(seed: u64) {
    let seed = common::seed(seed);
    let story = story(seed);
    let mut random = Random::new(seed);
    let (mut sizes, mut states) = ([0; 2], 0_u64);
    for events in 0..=story.disk.event_count() {
        let crash = story.disk.crash_at(events);
        for subset in subsets(&crash, &mut random) {
            let left = crash.disk(|sector| subset[sector], seed);
            // Before the disk grew there is nothing to be seen of it.
            if left.geometry().block_count == blocks(BEFORE) as u64 {
                continue;
            }
            let damage = [None, Some(0), Some(15)][usize::try_from(states % 3).unwrap()];
            recover(&story, events, &left, damage, &mut sizes);
            states += 1;
        }
    }
    println!(
        "{states} states: {} as before, {} grown",
        sizes[0], sizes[1]
    );
    assert!(sizes.iter().all(|count| *count > 10), "{sizes:?}");
}

#[test]
fn a_power_cut_while_it_grows_leaves_the_old_size_or_the_new() {
    common::key::choose(None);
    every_crash(11);
}

#[test]
fn a_power_cut_while_it_grows_is_no_worse_with_a_key() {
    common::key::choose(Some(Suite::XChaCha20Poly1305));
    every_crash(12);
}

#[test]
fn a_request_that_fails_while_it_grows_costs_no_more_than_the_mount() {
    for number in 0..64 {
        let disk = formatted(BEFORE, 20);
        disk.resize(blocks(AFTER));
        let mut machine = Machine::boot(&disk, 20).unwrap();
        let left = Cell::new(number);
        let failing = Rc::new(Cell::new(false));
        let hit = Rc::clone(&failing);
        disk.set_faults(move |_| {
            left.set(left.get() - 1);
            hit.set(hit.get() || left.get() == -1);
            (left.get() == -1).then_some(DeviceError::Io)
        });
        let (filesystem, clock) = (Rc::clone(&machine.filesystem), machine.clock.clone());
        let grew = machine
            .executor
            .run(async move { filesystem.grow(&clock).await });
        disk.clear_faults();
        if !failing.get() {
            assert!(number > 3, "{number} requests in a checkpoint");
            return;
        }
        assert!(grew.is_err() || machine.filesystem.is_failed(), "{number}");
        let after = disk.snapshot(21);
        assert!(check(&after).is_clean(), "request {number}");
        let mut machine = Machine::boot(&after, 22).unwrap();
        machine.await_span(span_on(AFTER));
        machine.shutdown();
        assert!(check(&after).is_clean(), "request {number}");
    }
    panic!("growing takes more requests than it should");
}

#[test]
fn growing_ends_at_sixteen_times_the_first_size_and_a_checkpoint_still_fits() {
    let disk = formatted(BEFORE, 30);
    disk.resize(blocks(20 * BEFORE));
    let mut machine = Machine::boot(&disk, 30).unwrap();
    let span = machine.filesystem.span();
    assert!(span.bytes_max < span.device_bytes, "{span:?}");
    machine.await_span(span.bytes_max);
    let filesystem = Rc::clone(&machine.filesystem);
    let clock = machine.clock.clone();
    let kept = machine.executor.run(async move {
        // Two objects that take turns, so that each segment is a run of its own in the checkpoint.
        let mut one = filesystem.create_object().unwrap();
        let mut two = filesystem.create_object().unwrap();
        let bytes = vec![0x5A; usize::try_from(SEGMENT_BYTES).unwrap() / 10 * 9];
        let usage = filesystem.usage();
        while filesystem.usage().object_bytes_free > 16 * SEGMENT_BYTES {
            common::put_all(&mut one, &bytes).await.unwrap();
            common::put_all(&mut two, &bytes).await.unwrap();
        }
        let kept = [one.finish().await.unwrap(), two.finish().await.unwrap()];
        let made = filesystem.checkpoint(CommitNumber(0), &kept, &[7; 4096], &clock);
        made.await.unwrap();
        assert!(usage.object_bytes_free > 0);
        kept
    });
    machine.shutdown();
    assert!(check(&disk).is_clean());
    let mounted = try_mount(&disk).unwrap();
    assert_eq!(mounted.manifest, [7; 4096]);
    for object in kept {
        assert!(mounted.filesystem.object_len_bytes(object) > Some(span.bytes_max / 3));
    }
}

#[test]
fn a_device_that_became_smaller_is_refused_by_its_name() {
    let disk = formatted(BEFORE, 40);
    disk.resize(blocks(AFTER));
    let mut machine = Machine::boot(&disk, 40).unwrap();
    machine.await_span(span_on(AFTER));
    machine.shutdown();
    for size in [blocks(AFTER) - 1, blocks(BEFORE), blocks(10), 64, 17, 16] {
        let short = disk.snapshot(41);
        short.resize(size);
        let refused = try_mount(&short).err();
        let expected = matches!(
            refused,
            Some(MountError::DeviceTooSmall { device_bytes, needed_bytes })
                if device_bytes == size as u64 * 4096 && needed_bytes > device_bytes
        );
        assert!(expected, "{size} blocks: {refused:?}");
        let summary = check(&short);
        assert!(!summary.mounts && summary.errors > 0, "{summary:?}");
    }
    // Nothing was written: as large as it was, it is what it was.
    let whole = disk.snapshot(42);
    assert!(try_mount(&whole).is_ok());
}

#[test]
fn of_two_checkpoints_the_smaller_older_one_is_not_believed_once_the_log_went_on() {
    let disk = formatted(BEFORE, 50);
    disk.resize(blocks(AFTER));
    let mut machine = Machine::boot(&disk, 50).unwrap();
    machine.await_span(span_on(AFTER));
    // After a format comes checkpoint 2, in the first slot.
    let quiet = disk.snapshot(51);
    let filesystem = Rc::clone(&machine.filesystem);
    machine.executor.run(async move {
        let commit = put(&filesystem, 1).await;
        filesystem.wait_durable(commit).await.unwrap();
    });
    for disk in [&quiet, &disk] {
        disk.flip_bit(BlockIndex(16), 8 * 100);
    }
    // Nothing happened since: the older one says the same but for the size.
    let mut machine = Machine::boot(&quiet, 52).unwrap();
    machine.await_span(span_on(AFTER));
    let refused = try_mount(&disk).err();
    let expected = matches!(
        refused,
        Some(MountError::Damaged {
            structure: Structure::Checkpoint,
            ..
        })
    );
    assert!(expected, "{refused:?}");
}

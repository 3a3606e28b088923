//! What the cleaner leaves behind, and what it takes along.

use crate::common;

use std::cell::Cell;
use std::rc::Rc;

use embassy_futures::yield_now;
use lfs::sim::{Executor, Random, Request, SimDisk};
use lfs::{
    BlockDevice as _, Clock, Counters, DeviceError, FileKind, FormatOptions, InodeNumber, NewInode,
    ROOT,
};

const DISK_BYTES: u64 = 128 << 20;
const UNIT: u64 = 4096;
/// Of a disk with segments of that size.
const UNITS_PER_EXTENT: u64 = 8;
const SEGMENT_BYTES: u32 = 512 << 10;

/// Bytes of a unit, of which `random_bytes` of every 64 do not compress.
fn unit_bytes(random: &mut Random, random_bytes: usize) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    for chunk in bytes.chunks_exact_mut(64) {
        for byte in &mut chunk[..random_bytes] {
            *byte = random.next_u64().to_le_bytes()[0];
        }
    }
    bytes
}

/// Fills four fifths of a disk with large extents and overwrites three quarters of each, a unit here, a unit there: no
/// extent is dead, but most of what they hold.
fn overwrite_here_and_there(random_bytes: usize) {
    let disk = SimDisk::new(usize::try_from(DISK_BYTES / UNIT).unwrap(), 1);
    let mut executor = Executor::new(1);
    let target = disk.clone();
    let options = FormatOptions {
        segment_bytes: SEGMENT_BYTES,
        log_segments: 32,
        created_ns: 0,
    };
    executor.run(async move {
        let formatted = common::key::format(&target, options, common::ID);
        formatted.await.unwrap();
    });
    let filesystem = common::mount(&mut executor, &disk).unwrap().filesystem;
    executor.run(async move {
        let mut random = Random::new(1);
        let new = NewInode::new(FileKind::File, 0o644);
        let create = filesystem.transact(0, |tx| tx.files().create(ROOT, b"data", &new));
        let (inode, _) = create.await.unwrap();
        let mut units = 0;
        while filesystem.usage().live_bytes < filesystem.usage().capacity_bytes * 4 / 5 {
            let bytes = (0..UNITS_PER_EXTENT).map(|_| unit_bytes(&mut random, random_bytes));
            let bytes = bytes.collect::<Vec<_>>().concat();
            let write = filesystem.transact(0, |tx| tx.files().write(inode, units * UNIT, &bytes));
            write.await.unwrap();
            units += UNITS_PER_EXTENT;
        }
        let mut expected = vec![None; usize::try_from(units).unwrap()];
        let overwritten = [1, 3, 5, 6, 7, 2];
        let extents = || (0..units).step_by(usize::try_from(UNITS_PER_EXTENT).unwrap());
        for unit in overwritten
            .into_iter()
            .flat_map(|unit| extents().map(move |first| first + unit))
        {
            let bytes = unit_bytes(&mut random, random_bytes);
            let write = filesystem.transact(0, |tx| tx.files().write(inode, unit * UNIT, &bytes));
            write.await.unwrap();
            expected[usize::try_from(unit).unwrap()] = Some(bytes);
        }
        assert!(filesystem.counters().segments_cleaned > 0);
        for (unit, expected) in (0..).zip(expected) {
            let read = filesystem.read(|tx| tx.files().read(inode, unit * UNIT, 4096));
            let found = read.await.unwrap();
            assert!(expected.is_none_or(|bytes| bytes == found), "unit {unit}");
        }
    });
}

#[test]
fn what_is_dead_within_an_extent_is_left_behind() {
    overwrite_here_and_there(64);
}

#[test]
fn what_is_dead_within_a_compressed_extent_is_left_behind() {
    overwrite_here_and_there(32);
}

/// A file system of `DISK_BYTES` with one file, which takes `percent` of the capacity.
struct Filled {
    executor: Executor,
    disk: SimDisk,
    filesystem: Rc<common::TestFileSystem>,
    inode: InodeNumber,
    units: u64,
}

fn filled(options: FormatOptions, percent: u64) -> Filled {
    let disk = SimDisk::new(usize::try_from(DISK_BYTES / UNIT).unwrap(), 1);
    let mut executor = Executor::new(1);
    let target = disk.clone();
    executor.run(async move {
        let formatted = common::key::format(&target, options, common::ID);
        formatted.await.unwrap();
    });
    let filesystem = common::mount(&mut executor, &disk).unwrap().filesystem;
    let units = filesystem.usage().capacity_bytes * percent / 100 / (UNIT + 4);
    let empty = Rc::clone(&filesystem);
    let inode = executor.run(async move {
        let new = NewInode::new(FileKind::File, 0o644);
        let create = empty.transact(0, |tx| tx.files().create(ROOT, b"data", &new));
        let (inode, _) = create.await.unwrap();
        let mut random = Random::new(1);
        for unit in 0..units {
            let bytes = unit_bytes(&mut random, 64);
            let write = empty.transact(0, |tx| tx.files().write(inode, unit * UNIT, &bytes));
            write.await.unwrap();
        }
        inode
    });
    Filled {
        executor,
        disk,
        filesystem,
        inode,
        units,
    }
}

/// Overwrites units at random, each durable: the most that is taken meanwhile, and the most that was copied while one was waited for.
async fn overwrite_at_random(
    filesystem: &common::TestFileSystem,
    (inode, units): (InodeNumber, u64),
    count: u64,
    seed: u64,
) -> (u64, u64) {
    let mut random = Random::new(seed);
    let (mut most, mut longest) = (0, 0);
    let cleaned = || filesystem.counters().bytes_cleaned_written;
    for _ in 0..count {
        let unit = random.below(units);
        let bytes = unit_bytes(&mut random, 64);
        let before = cleaned();
        let write = filesystem.transact(0, |tx| tx.files().write(inode, unit * UNIT, &bytes));
        let ((), commit) = write.await.unwrap();
        longest = longest.max(cleaned() - before);
        filesystem.wait_durable(commit).await.unwrap();
        most = most.max(filesystem.usage().taken_bytes);
    }
    (most, longest)
}

/// What may be taken with so much garbage: that, four segments of it in any case, and an eighth for those that are emptied; what the log needs; open segments.
fn taken_max(filesystem: &common::TestFileSystem, percent: u32) -> u64 {
    let usage = filesystem.usage();
    let garbage = usage.live_bytes * u64::from(percent) / 100 + 4 * usage.segment_bytes;
    usage.live_bytes + garbage * 9 / 8 + usage.log_bytes_max + 12 * usage.segment_bytes
}

/// Who writes alone on a file system that is full to nine tenths waits for no segment to be cleaned. Segments are not the smallest:
/// what the cleaner does while a checkpoint is made grows with them.
#[test]
fn nobody_waits_for_a_segment_to_be_cleaned() {
    const BLOCKS_PER_SEGMENT: u64 = SEGMENT_BYTES as u64 / UNIT;
    let options = FormatOptions {
        segment_bytes: SEGMENT_BYTES,
        log_segments: 32,
        created_ns: 0,
    };
    let Filled {
        mut executor,
        filesystem,
        inode,
        units,
        ..
    } = filled(options, 90);
    let (longest, cleaned) = executor.run(async move {
        let (_, longest) = overwrite_at_random(&filesystem, (inode, units), units * 2, 2).await;
        (longest / UNIT, filesystem.counters().segments_cleaned)
    });
    println!("{longest} blocks while one waited, {cleaned} segments cleaned");
    assert!(cleaned > 200);
    assert!(longest < BLOCKS_PER_SEGMENT);
}

/// What many at once overwrite, nine in ten times a tenth of the data, on a file system that is full to four fifths of its
/// capacity: they share groups and do not fall apart into parties, and what is cold is not copied with what is hot.
#[test]
fn hot_and_cold_data_are_kept_apart() {
    const AT_ONCE: u64 = 16;
    let Filled {
        mut executor,
        filesystem,
        inode,
        units,
        ..
    } = filled(FormatOptions::for_device_bytes(DISK_BYTES), 80);
    let mut overwrite = |count: u64| {
        let before = filesystem.counters();
        let done = Rc::new(Cell::new(0));
        for worker in 0..AT_ONCE {
            let (filesystem, done) = (Rc::clone(&filesystem), Rc::clone(&done));
            let mut random = Random::new(count + worker);
            executor.spawn(async move {
                for _ in 0..count / AT_ONCE {
                    let unit = match random.below(10) {
                        0 => random.below(units),
                        _ => random.below(units / 10),
                    };
                    let bytes = unit_bytes(&mut random, 64);
                    let write =
                        filesystem.transact(0, |tx| tx.files().write(inode, unit * UNIT, &bytes));
                    let ((), commit) = write.await.unwrap();
                    filesystem.wait_durable(commit).await.unwrap();
                }
                done.set(done.get() + 1);
            });
        }
        let clock = executor.clock();
        executor.run(async move {
            while done.get() < AT_ONCE {
                clock.sleep_ms(10).await;
            }
        });
        let after = filesystem.counters();
        let of = |figure: fn(&Counters) -> u64| figure(&after) - figure(&before);
        let commits = of(|counters| counters.commits);
        (
            commits * 100 / of(|counters| counters.groups),
            of(|counters| counters.bytes_written) * 100 / (commits * UNIT),
        )
    };
    overwrite(units * 2);
    let (commits_per_group, bytes_per_byte) = overwrite(units);
    println!(
        "hundredths: {commits_per_group} commits in a group, {bytes_per_byte} device bytes per new byte"
    );
    assert!(commits_per_group >= 1200);
    assert!(bytes_per_byte <= 170);
}

/// On a disk that is nearly empty nothing makes the cleaner work but how much is garbage: while there are commits it keeps to the bound, and nobody waits for
/// a segment to be cleaned; when there are none, to a lower one, with nobody's help.
#[test]
fn garbage_is_bounded_whatever_room_there_is() {
    const PERCENT: u32 = 25;
    const PERCENT_AT_REST: u32 = 10;
    let Filled {
        mut executor,
        filesystem,
        inode,
        units,
        ..
    } = filled(FormatOptions::for_device_bytes(DISK_BYTES), 20);
    let clock = executor.clock();
    executor.run(async move {
        let segment_bytes = filesystem.usage().segment_bytes;
        let bound = |percent| taken_max(&filesystem, percent);
        let data = (inode, units);
        let (most, _) = overwrite_at_random(&filesystem, data, 2 * units, 2).await;
        assert_eq!(filesystem.counters().segments_cleaned, 0);
        assert!(most > bound(PERCENT), "{most} bytes taken without a bound");
        filesystem.set_garbage_max(Some(PERCENT));
        // It is met in steps.
        overwrite_at_random(&filesystem, data, 3 * units, 3).await;
        let (most, longest) = overwrite_at_random(&filesystem, data, 3 * units, 4).await;
        println!(
            "{most} of {} bytes taken, {longest} copied while one waited",
            bound(PERCENT)
        );
        assert!(most <= bound(PERCENT), "{most} bytes taken");
        assert!(
            longest < segment_bytes,
            "{longest} bytes copied while one waited"
        );
        filesystem.set_garbage_max(Some(PERCENT_AT_REST));
        clock.sleep_ms(20_000).await;
        let taken = filesystem.usage().taken_bytes;
        println!("{taken} of {} bytes taken at rest", bound(PERCENT_AT_REST));
        assert!(
            taken <= bound(PERCENT_AT_REST),
            "{taken} bytes taken at rest"
        );
    });
}

/// A file system on `disk` with a file of so many extents, each hardly anything when it is compressed, and not to be joined with others.
fn with_small_extents(
    executor: &mut Executor,
    disk: &SimDisk,
    extents: u64,
) -> Rc<common::TestFileSystem> {
    let target = disk.clone();
    executor.run(async move {
        let options = FormatOptions::for_device_bytes(target.geometry().block_count * UNIT);
        let formatted = common::key::format(&target, options, common::ID);
        formatted.await.unwrap();
    });
    let filesystem = common::mount(executor, disk).unwrap().filesystem;
    let target = Rc::clone(&filesystem);
    executor.run(async move {
        let new = NewInode::new(FileKind::File, 0o644);
        let create = target.transact(0, |tx| tx.files().create(ROOT, b"data", &new));
        let (inode, _) = create.await.unwrap();
        for number in 0..extents {
            let at = number * 2 * UNIT;
            let write = target.transact(0, |tx| tx.files().write(inode, at, &[7; 4096]));
            write.await.unwrap();
        }
    });
    filesystem
}

/// A group of the largest disks has some thousand extents: commits waited until all of them were dealt with.
#[test]
fn others_go_first_while_the_extents_of_a_victim_are_dealt_with() {
    const EXTENTS: u64 = 30_000;
    let disk = SimDisk::new(8192, 1);
    let mut executor = Executor::new(1);
    let filesystem = with_small_extents(&mut executor, &disk, EXTENTS);
    disk.be_prompt(true);
    executor.run(async move {
        filesystem.set_garbage_max(Some(5));
        let cleaned = || filesystem.counters().segments_cleaned;
        let mut turns = 0;
        while cleaned() < 2 {
            yield_now().await;
            turns += 1;
        }
        // It took a single one; thousands of extents are in each of them.
        assert!(turns > 200, "{turns} turns");
    });
}

/// Groups of victims counted when they were through, and segments of nodes were gone through without a break.
#[test]
fn commits_wait_for_a_part_of_a_victim_and_others_for_no_more() {
    const GROUP_BLOCKS: u64 = 256;
    let options = FormatOptions {
        segment_bytes: u32::try_from(2 * GROUP_BLOCKS * UNIT).unwrap(),
        log_segments: 16,
        created_ns: 0,
    };
    let Filled {
        mut executor,
        disk,
        filesystem,
        inode,
        units,
    } = filled(options, 40);
    filesystem.set_garbage_max(Some(10));
    disk.be_prompt(true);
    let (turn, copied, cleaned) = executor.run(async move {
        let mut random = Random::new(2);
        let counters = || filesystem.counters();
        let (mut turn, mut copied) = (0, 0);
        for number in 0..units * 4 {
            let (unit, bytes) = (random.below(units), unit_bytes(&mut random, 64));
            // Here and there, so that the nodes that change are many.
            let at = if number % 2 == 0 {
                unit
            } else {
                units + unit * 300
            };
            let before = counters();
            // Nobody waits until it is durable, so it is the cleaner that commits wait for.
            let write = filesystem.transact(0, |tx| tx.files().write(inode, at * UNIT, &bytes));
            write.await.unwrap();
            let now = counters();
            copied = copied.max(now.bytes_cleaned_written - before.bytes_cleaned_written);
            if number % 16 == 0 {
                yield_now().await;
                turn = turn.max(counters().bytes_cleaned_read - now.bytes_cleaned_read);
            }
        }
        (turn / UNIT, copied / UNIT, counters().segments_cleaned)
    });
    println!(
        "{copied} blocks copied while one waited, {turn} read in a turn, {cleaned} segments cleaned"
    );
    assert!(cleaned > 50);
    assert!(copied > 0 && copied < GROUP_BLOCKS);
    assert!(turn < 2 * GROUP_BLOCKS);
}

/// What survivors take besides themselves is much where they are small, and comes out of each victim as it went in: a cleaner that worked for it would never end.
#[test]
fn garbage_that_cannot_be_cleaned_up_is_left_alone() {
    const PERCENT: u32 = 5;
    const DISK_BYTES: u64 = 32 << 20;
    const EXTENTS: u64 = 30_000;
    let disk = SimDisk::new(usize::try_from(DISK_BYTES / UNIT).unwrap(), 1);
    let mut executor = Executor::new(1);
    let filesystem = with_small_extents(&mut executor, &disk, EXTENTS);
    let clock = executor.clock();
    executor.run(async move {
        filesystem.set_garbage_max(Some(PERCENT));
        clock.sleep_ms(60_000).await;
        let before = filesystem.counters().segments_cleaned;
        assert!(before > 0);
        clock.sleep_ms(600_000).await;
        assert_eq!(filesystem.counters().segments_cleaned, before);
    });
}

/// Blocks that cannot be read keep the segments that they are in from being cleaned, and no others: the victim that would bring most was tried again and again.
#[test]
fn blocks_that_cannot_be_read_do_not_stop_the_cleaner() {
    const PERCENT: u32 = 25;
    const UNREADABLE: usize = 40;
    let Filled {
        mut executor,
        disk,
        filesystem,
        inode,
        units,
    } = filled(FormatOptions::for_device_bytes(DISK_BYTES), 20);
    executor.run(async move {
        let written = DISK_BYTES / UNIT / 10;
        let bad = (1..=UNREADABLE as u64).map(|number| written / 48 * number);
        let bad = bad.collect::<Vec<_>>();
        disk.set_faults(move |request| {
            let Request::Read(start, blocks) = request else {
                return None;
            };
            let range = start.0..start.0 + blocks as u64;
            let is_bad = bad.iter().any(|block| range.contains(block));
            is_bad.then_some(DeviceError::Io)
        });
        filesystem.set_garbage_max(Some(PERCENT));
        let data = (inode, units);
        overwrite_at_random(&filesystem, data, 3 * units, 3).await;
        let before = filesystem.counters().segments_cleaned;
        let (most, _) = overwrite_at_random(&filesystem, data, 3 * units, 4).await;
        let cleaned = filesystem.counters().segments_cleaned - before;
        let bound = taken_max(&filesystem, PERCENT);
        let bound = bound + UNREADABLE as u64 * filesystem.usage().segment_bytes;
        println!("{most} of {bound} bytes taken, {cleaned} cleaned");
        assert!(most <= bound, "{most} bytes taken");
        // All that was written, or nearly, had to be made room for.
        assert!(
            cleaned * filesystem.usage().segment_bytes > 2 * units * UNIT,
            "{cleaned} cleaned"
        );
    });
}

/// With the log full the cleaner leaves its victims as they are, but for who needs the room that they give: a flush was told that there was none, and the log would have stayed as it was.
#[test]
fn who_needs_room_gets_that_of_victims_though_the_log_is_full() {
    let Filled {
        mut executor,
        disk,
        filesystem,
        inode,
        units,
    } = filled(FormatOptions::for_device_bytes(DISK_BYTES), 20);
    let clock = executor.clock();
    executor.run(async move {
        overwrite_at_random(&filesystem, (inode, units), units / 2, 3).await;
        disk.set_holds(|request| matches!(request, Request::Read(..)));
        filesystem.set_garbage_max(Some(1));
        while disk.held_count() == 0 {
            clock.sleep_ms(1).await;
        }
        // Nothing of it is in a checkpoint.
        while !filesystem.is_log_full() {
            let commit = filesystem.append(&[7; 1 << 15]).unwrap();
            filesystem.wait_durable(commit).await.unwrap();
        }
        disk.release();
        clock.sleep_ms(1000).await;
        let cleaned = filesystem.counters().segments_cleaned;
        clock.sleep_ms(60_000).await;
        assert_eq!(filesystem.counters().segments_cleaned, cleaned, "it rests");
        assert!(filesystem.clean_for_objects().await, "there was none");
        assert!(filesystem.counters().segments_cleaned > cleaned);
    });
}

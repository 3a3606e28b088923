//! Damage and failing devices.
//!
//! Invariants: a bit that flips in what was acknowledged is reported, or does not matter; it never
//! makes commits vanish silently (except the very last group, which no later one vouches for). After
//! a failed write or flush nothing more is acknowledged until the next mount, which finds all that was.

use crate::common;

use std::cell::Cell;
use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::rc::Rc;

use crate::common::{SEGMENT_BLOCKS, formatted, formatted_of_any_kind, mount, seed, try_mount};
use lfs::sim::{Executor, Random, Request, SimDisk};
use lfs::{
    AppendError, BLOCK_SIZE, BlockIndex, CheckpointError, CommitNumber, DeviceError, FileKind,
    MountError, NewInode, ObjectReadError, ObjectWriteError, ROOT, Structure,
};

/// Makes `count` commits, each a group of its own, and returns the blocks their groups begin at.
fn one_group_each(disk: &SimDisk, count: u64, size: usize) -> Vec<u64> {
    let mut executor = Executor::new(1);
    let filesystem = mount(&mut executor, disk).unwrap().filesystem;
    let writes = Rc::new(std::cell::RefCell::new(Vec::new()));
    let seen = Rc::clone(&writes);
    disk.set_faults(move |request| {
        if let Request::Write(block, _) = request {
            seen.borrow_mut().push(block.0);
        }
        None
    });
    executor.run(async move {
        for number in 0..count {
            let commit = filesystem.append(&vec![number as u8; size]).unwrap();
            filesystem.wait_durable(commit).await.unwrap();
        }
    });
    disk.clear_faults();
    writes.take()
}

#[test]
fn damage_to_any_group_but_the_last_is_reported() {
    for size in [100, 9000] {
        // Two whole segments and a part of the third.
        let count = if size == 100 { 20 } else { 5 };
        let disk = formatted(72, 1);
        let blocks = one_group_each(&disk, count, size);
        assert_eq!(blocks.len() as u64, count);
        let bits = [3, 40 * 8, 85 * 8];
        for (number, &block) in blocks.iter().enumerate() {
            for bit in bits {
                let damaged = disk.snapshot(0);
                damaged.flip_bit(BlockIndex(block), bit);
                let result = try_mount(&damaged);
                if number + 1 == blocks.len() {
                    let commits = result.unwrap().commits.len();
                    assert_eq!(commits, blocks.len() - 1, "taken for a torn tail");
                } else {
                    // A group that begins a segment could have been meant for the end of the one
                    // before, and is reported missing there.
                    let Err(MountError::Damaged {
                        structure,
                        block: at,
                    }) = result
                    else {
                        panic!("group {number}, bit {bit}: not reported");
                    };
                    assert_eq!(structure, Structure::CommitGroup);
                    assert!(
                        at.0 <= block && block <= at.0 + 2,
                        "{at:?} instead of {block}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_group_that_begins_a_segment_and_is_wiped_with_its_whole_segment_is_reported() {
    let disk = formatted(72, 1);
    let blocks = one_group_each(&disk, 30, 100);
    // The second segment, whole: its groups' successors begin in the third.
    let first = blocks[SEGMENT_BLOCKS];
    let mut bytes = disk.to_bytes();
    let start = first as usize * BLOCK_SIZE;
    bytes[start..start + SEGMENT_BLOCKS * BLOCK_SIZE].fill(0);
    let result = try_mount(&SimDisk::from_bytes(&bytes, 0));
    let expected = MountError::Damaged {
        structure: Structure::CommitGroup,
        block: BlockIndex(first),
    };
    assert_eq!(result.err(), Some(expected));
}

#[test]
fn after_a_clean_checkpoint_even_the_last_group_is_vouched_for() {
    let disk = formatted(72, 1);
    let blocks = one_group_each(&disk, 3, 100);
    let mut executor = Executor::new(2);
    let mounted = mount(&mut executor, &disk).unwrap();
    let clock = executor.clock();
    executor.run(async move {
        // The horizon stays behind, as when the layer above has not taken the commits over.
        let horizon = CommitNumber(0);
        mounted
            .filesystem
            .checkpoint(horizon, &[], &[], &clock)
            .await
            .unwrap();
    });
    disk.flip_bit(BlockIndex(blocks[2]), 800);
    let expected = MountError::Damaged {
        structure: Structure::CommitGroup,
        block: BlockIndex(blocks[2]),
    };
    assert_eq!(try_mount(&disk).err(), Some(expected));
}

#[test]
fn no_flipped_bit_makes_the_mount_panic_or_lose_commits_silently() {
    let seed = seed(31);
    let mut random = Random::new(seed);
    let disk = formatted(72, seed);
    let blocks = one_group_each(&disk, 25, 500);
    let last = *blocks.last().unwrap();
    let bits = disk.to_bytes().len() * 8;
    let mut reported = 0;
    for _ in 0..3000 {
        // Half of them where it matters most: superblocks, slots, log.
        let range = if random.one_in(2) { bits / 8 } else { bits };
        let bit = random.index(range);
        let block = (bit / 8 / BLOCK_SIZE) as u64;
        let damaged = disk.snapshot(0);
        damaged.flip_bit(BlockIndex(block), bit % (BLOCK_SIZE * 8));
        match try_mount(&damaged) {
            Err(_) => reported += 1,
            Ok(mounted) => {
                let found = mounted.commits.len();
                assert!(
                    found == 25 || (found == 24 && block == last),
                    "bit {bit}: {found}"
                );
            }
        }
    }
    println!("{reported} of 3000 reported");
    assert!(reported > 50);
}

#[test]
fn arbitrary_bytes_never_make_the_mount_panic() {
    let seed = seed(32);
    let mut random = Random::new(seed);
    let good = formatted(72, seed).to_bytes();
    for _ in 0..500 {
        let mut bytes = good.clone();
        for _ in 0..random.below(40) {
            let at = random.index(bytes.len() / 10);
            let len = random.index(200).min(bytes.len() - at);
            let value = random.next_u64().to_le_bytes()[0];
            bytes[at..at + len].fill(value);
        }
        let cut = if random.one_in(4) {
            random.index(bytes.len())
        } else {
            bytes.len()
        };
        let _ = try_mount(&SimDisk::from_bytes(&bytes[..cut], 0));
    }
}

#[test]
fn the_second_superblock_stands_in_for_the_first() {
    let disk = formatted(72, 1);
    one_group_each(&disk, 3, 100);
    disk.flip_bit(BlockIndex(0), 100);
    assert_eq!(try_mount(&disk).unwrap().commits.len(), 3);
}

#[test]
fn after_a_failed_write_or_flush_nothing_more_is_acknowledged_and_nothing_is_lost() {
    let seed = seed(33);
    for round in 0..200 {
        let mut random = Random::new(seed + round);
        let disk = formatted_of_any_kind(72, random.next_u64());
        let mut executor = Executor::new(random.next_u64());
        let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
        let fail_after = random.below(30);
        let only_flushes = random.one_in(2);
        let requests = Cell::new(0);
        disk.set_faults(move |request| {
            let counts = !matches!(request, Request::Read(..))
                && (!only_flushes || request == Request::Flush);
            requests.set(requests.get() + u64::from(counts));
            (counts && requests.get() > fail_after).then_some(DeviceError::Io)
        });
        let clock = executor.clock();
        let working = Rc::clone(&filesystem);
        let acknowledged = executor.run(async move {
            let mut acknowledged = CommitNumber(0);
            while let Ok(number) = working.append(&[7; 600]) {
                if working.wait_durable(number).await.is_err() {
                    break;
                }
                acknowledged = number;
                if number.0 % 5 == 0 {
                    let _ = working.checkpoint(CommitNumber(0), &[], &[], &clock).await;
                }
            }
            // From here on everything is refused, at once and for ever.
            assert!(working.is_failed());
            assert_eq!(working.append(b"more"), Err(AppendError::ReadOnly));
            assert!(
                working
                    .wait_durable(CommitNumber(acknowledged.0 + 1))
                    .await
                    .is_err()
            );
            assert!(working.wait_durable(acknowledged).await.is_ok());
            working.admit(|| false).await;
            let checkpoint = working.checkpoint(acknowledged, &[], &[], &clock).await;
            assert_eq!(checkpoint, Err(CheckpointError::ReadOnly));
            acknowledged
        });
        disk.clear_faults();
        // What the failed requests left is open.
        let crash = disk.crash_at(disk.event_count());
        for _ in 0..4 {
            let after = crash.disk(|_| random.one_in(2), 0);
            let commits = try_mount(&after).unwrap().commits.len() as u64;
            assert!(
                commits >= acknowledged.0,
                "round {round}: {commits} of {acknowledged:?}"
            );
        }
    }
}

#[test]
fn a_failed_object_write_latches_and_a_failed_read_does_not() {
    let disk = formatted(72, 1);
    let mut executor = Executor::new(1);
    let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
    let working = Rc::clone(&filesystem);
    let faulty = disk.clone();
    executor.run(async move {
        let mut object = working.create_object().unwrap();
        common::put_all(&mut object, &[1; 50_000]).await.unwrap();
        let id = object.finish().await.unwrap();
        faulty
            .set_faults(|request| matches!(request, Request::Read(..)).then_some(DeviceError::Io));
        let read = common::read_object(&working, id).await;
        assert_eq!(read, Err(ObjectReadError::Device(DeviceError::Io)));
        assert!(!working.is_failed());
        faulty
            .set_faults(|request| matches!(request, Request::Write(..)).then_some(DeviceError::Io));
        let mut object = working.create_object().unwrap();
        let written = common::put_all(&mut object, &[1; 50_000]).await;
        assert_eq!(written, Err(ObjectWriteError::Device(DeviceError::Io)));
        assert!(working.is_failed());
    });
}

#[test]
fn a_device_that_cannot_be_read_is_not_mounted() {
    let disk = formatted(72, 1);
    one_group_each(&disk, 12, 100);
    for failing in 0..8 {
        let disk = disk.snapshot(0);
        let reads = Cell::new(0);
        disk.set_faults(move |_| {
            reads.set(reads.get() + 1);
            (reads.get() == failing + 1).then_some(DeviceError::Io)
        });
        match try_mount(&disk) {
            Err(error) => assert_eq!(error, MountError::Device(DeviceError::Io)),
            Ok(mounted) => assert_eq!(mounted.commits.len(), 12, "there are fewer reads"),
        }
    }
}

#[test]
fn the_log_never_waits_for_room_it_promised() {
    // Commits of every size, as many as are admitted, and no checkpoint: all become durable.
    let seed = seed(34);
    for round in 0..50 {
        let mut random = Random::new(seed + round);
        let disk = formatted_of_any_kind(72, random.next_u64());
        let mut executor = Executor::new(random.next_u64());
        let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
        let max = filesystem.commit_bytes_max();
        executor.run(async move {
            while filesystem.has_room() {
                let size = match random.below(4) {
                    0 => max,
                    1 => random.index(max),
                    2 => random.index(16_000),
                    _ => random.index(300),
                };
                filesystem.append(&vec![1; size]).unwrap();
                if random.one_in(3) {
                    filesystem
                        .wait_durable(filesystem.appended())
                        .await
                        .unwrap();
                }
            }
            filesystem
                .wait_durable(filesystem.appended())
                .await
                .unwrap();
        });
    }
}

#[test]
fn a_rotten_newest_checkpoint_is_reported_and_loses_no_commit_silently() {
    for (before, after) in [(3, 3), (20, 10), (60, 60)] {
        let disk = formatted(72, 1);
        let mut executor = Executor::new(1);
        let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
        let clock = executor.clock();
        let working = Rc::clone(&filesystem);
        executor.run(async move {
            for number in 0..before + after {
                if number == before {
                    let horizon = working.durable();
                    let made = working.checkpoint(horizon, &[], b"m", &clock);
                    made.await.unwrap();
                }
                if let Ok(commit) = working.append(&[3; 100]) {
                    working.wait_durable(commit).await.unwrap();
                }
            }
            // On to where the checkpoint before no longer lists any segment.
            while let Ok(commit) = working.append(&[5; 20]) {
                working.wait_durable(commit).await.unwrap();
            }
        });
        // The second checkpoint is in slot 0, which begins at block 16.
        disk.flip_bit(BlockIndex(16), 8 * 60);
        let expected = MountError::Damaged {
            structure: Structure::Checkpoint,
            block: BlockIndex(16),
        };
        assert_eq!(try_mount(&disk).err(), Some(expected), "{before}, {after}");
    }
}

#[test]
fn what_cannot_be_mounted_is_not_formatted() {
    let disk = SimDisk::new(8 * 3200, 1);
    let target = disk.clone();
    let options = lfs::FormatOptions {
        segment_bytes: 8 * 4096,
        log_segments: 1025,
        created_ns: 0,
    };
    let formatted = Executor::new(1).run(async move {
        common::key::format(&target, options, lfs::FileSystemId([1; 16])).await
    });
    let refused = lfs::FormatError::ReplayWindow {
        bytes_min: 16 * 8 * 4096,
        bytes_max: 1024 * 8 * 4096,
    };
    assert_eq!(formatted, Err(refused));
}

#[test]
fn a_checkpoint_that_cannot_be_made_gives_back_what_it_took() {
    let disk = formatted(100, 1);
    let mut executor = Executor::new(1);
    let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
    let clock = executor.clock();
    executor.run(async move {
        // Items in some leaves, fewer than a checkpoint is made for.
        for number in 0..50 {
            let make = filesystem.transact(1, |transaction| {
                let new = NewInode::new(FileKind::File, 0o600);
                let name = format!("file {number}").into_bytes();
                let file = transaction.files().create(ROOT, &name, &new)?;
                transaction.files().write(file, 0, &[number; 700])
            });
            let ((), commit) = make.await.unwrap();
            filesystem.wait_durable(commit).await.unwrap();
        }
        let before = (filesystem.usage(), filesystem.counters());
        // Its nodes are written when it turns out that it does not fit into a slot.
        let manifest = vec![0; 1 << 20];
        for attempt in 0..20 {
            let horizon = CommitNumber(0);
            let made = filesystem.checkpoint(horizon, &[], &manifest, &clock);
            assert_eq!(made.await, Err(CheckpointError::TooLarge));
            let after = filesystem.usage();
            assert_eq!(after, before.0, "attempt {attempt}");
        }
        let counters = filesystem.counters();
        assert_eq!(counters.checkpoints, before.1.checkpoints);
        assert!(
            counters.bytes_written >= before.1.bytes_written + 20 * 12 * BLOCK_SIZE as u64,
            "nothing was written"
        );
        let audit = filesystem.audit().await.unwrap();
        assert!(audit.contradictions.is_empty(), "{audit:?}");
        let made = filesystem.checkpoint(CommitNumber(0), &[], b"fits", &clock);
        made.await.unwrap();
        let audit = filesystem.audit().await.unwrap();
        assert!(audit.contradictions.is_empty(), "{audit:?}");
    });
    assert_eq!(try_mount(&disk.snapshot(0)).unwrap().manifest, b"fits");
}

#[test]
fn a_checkpoint_whose_maker_is_gone_is_the_last() {
    let disk = formatted(72, 1);
    let mut executor = Executor::new(1);
    let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
    let clock = executor.clock();
    let acknowledged = executor.run(async move {
        let commit = filesystem.append(&[1; 100]).unwrap();
        filesystem.wait_durable(commit).await.unwrap();
        let checkpoint = filesystem.checkpoint(commit, &[], b"m", &clock);
        let gone = embassy_futures::yield_now();
        // One of its requests may be on its way for long, over whatever another one wrote.
        embassy_futures::select::select(gone, checkpoint).await;
        assert!(filesystem.is_failed());
        let again = filesystem.checkpoint(commit, &[], b"m", &clock).await;
        assert_eq!(again, Err(CheckpointError::ReadOnly));
        commit
    });
    assert_eq!(
        try_mount(&disk.snapshot(0)).unwrap().filesystem.durable(),
        acknowledged
    );
}

/// What an object takes that is being written, or that a checkpoint has let go of and the device is told of, was counted
/// as taken by files: the layer above found the disk full that was not.
#[test]
fn objects_that_come_and_go_take_nothing_from_the_room_for_objects() {
    let disk = formatted(72, 1);
    let mut executor = Executor::new(1);
    let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
    let room = filesystem.usage().object_bytes_max;
    let clock = executor.clock();
    let seen = executor.run(async move {
        let work = async {
            for _ in 0..3 {
                let mut object = filesystem.create_object().unwrap();
                let bytes = vec![1; 8 * SEGMENT_BLOCKS * BLOCK_SIZE];
                common::put_all(&mut object, &bytes).await.unwrap();
                let kept = [object.finish().await.unwrap()];
                let made = filesystem.checkpoint(CommitNumber(0), &kept, &[], &clock);
                made.await.unwrap();
            }
        };
        // Whenever something that it waited for is over.
        let mut seen = Vec::new();
        let mut work = pin!(work);
        poll_fn(|context| {
            seen.push(filesystem.usage().object_bytes_max);
            work.as_mut().poll(context)
        })
        .await;
        seen
    });
    assert!(seen.len() > 24, "{}", seen.len());
    assert!(seen.iter().all(|&bytes| bytes == room), "{room}: {seen:?}");
}

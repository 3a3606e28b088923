//! What is written again from the other disk: that it stays, and that each part is taken from where it is right.

use embassy_futures::select::select;
use lfs::sim::Request;
use lfs::{CHUNK_BYTES_MAX, ObjectId};

use super::unreadable::bad_blocks;
use super::*;

/// Lets a disk fail every request from the `first` write or flush on.
fn fail_writing_from(disk: &SimDisk, first: usize) {
    let mut count = 0;
    disk.set_faults(move |request| {
        count += usize::from(!matches!(request, Request::Read(..)));
        (count > first).then_some(DeviceError::Io)
    });
}

/// A mend was not noted as written: a disk that went out with it, and lost it, did not get it again.
#[test]
fn a_mend_that_its_disk_lost_on_the_way_out_is_made_again() {
    let content = noise(100, 12_000);
    let base = pair(100);
    let mut machine = Machine::boot(&base, 100).unwrap();
    let (inode, blocks) = make_file(&mut machine, &base[0], &content);
    // The log goes on elsewhere.
    for version in 1..=12 {
        machine.put(version).unwrap();
    }
    machine.shutdown();
    for mended in [0, 1] {
        for block in &blocks {
            let what = format!("block {block} of disk {mended}");
            let mut disks = snapshots(&base, 101);
            // Who leads is read first.
            if mended == 1 {
                disks.reverse();
            }
            disks[0].flip_bit(BlockIndex(*block), 1000 * 8);
            let mut machine = Machine::boot(&disks, *block).unwrap();
            assert!(machine.read(inode, content.len()).unwrap() == content);
            assert_eq!(machine.status().repaired, 1, "{what}");
            fail_writing_from(&disks[0], 0);
            machine.put(13).unwrap();
            assert_eq!(machine.status().failures, 1, "{what}");
            disks[0].power_cycle(|_| false);
            disks[0].clear_faults();
            machine.whole();
            machine.shutdown();
            assert_each_has(&disks, 13, &what);
        }
    }
}

/// The newest group of a power cut, given to the disk that lacked it, was not noted as written.
#[test]
fn a_group_given_to_the_disk_that_lacked_it_is_not_lost_with_that_disk() {
    let mut given = 0;
    for lacking in [0, 1] {
        let disks = snapshots(&pair(110), 111);
        let timeline = trace(&disks);
        let mut machine = Machine::boot(&disks, 112).unwrap();
        for version in 1..=3 {
            machine.put(version).unwrap();
        }
        let timeline = timeline.borrow().clone();
        for (moment, at) in timeline.into_iter().enumerate() {
            for failing in 0..4 {
                let mut number = 0;
                let left = disks.each_ref().map(|disk| {
                    number += 1;
                    let crash = disk.crash_at(at[number - 1]);
                    crash.disk(|_| number - 1 != lacking, 0)
                });
                let what = format!("moment {moment}, request {failing}, disk {lacking}");
                fail_writing_from(&left[lacking], failing);
                // It may be the only one with everything: then nothing can be done without it.
                let found = Machine::boot(&left, 113).ok().map(|mut machine| {
                    given += machine.status().repaired;
                    let found = machine.get().unwrap();
                    machine.shutdown();
                    found
                });
                left[lacking].power_cycle(|_| false);
                left[lacking].clear_faults();
                let mut machine = Machine::boot(&left, 114).unwrap();
                machine.whole();
                let after = machine.get().unwrap();
                assert_eq!(after, found.unwrap_or(after), "{what}");
                machine.shutdown();
                assert_each_has(&left, after, &what);
            }
        }
    }
    assert!(given > 5, "{given}");
}

/// What was copied to a disk that failed before a flush was taken for copied when it was back.
#[test]
fn what_was_copied_to_a_disk_that_lost_it_is_copied_again() {
    let seed = seed(120);
    let mut random = Random::new(seed);
    let base = pair(120);
    let mut machine = Machine::boot(&[base[0].clone()], 1).unwrap();
    for version in 1..=30 {
        machine.put(version).unwrap();
    }
    machine.shutdown();
    let mut failures = 0;
    for first in 1.. {
        let disks = snapshots(&base, 121 + first as u64);
        let failing = Rc::new(Cell::new(true));
        let mut machine = Machine::boot(&disks, first as u64).unwrap();
        let count = fail_from(&disks[1], first, &failing);
        let clock = machine.clock.clone();
        let (back, failing) = (disks[1].clone(), Rc::clone(&failing));
        let style = random.index(3);
        let mut lost = Random::new(random.next_u64());
        machine.executor.spawn(async move {
            while count.get() <= first {
                clock.sleep_ms(1).await;
            }
            back.power_cycle(|_| style == 1 || style == 2 && lost.one_in(2));
            failing.set(false);
        });
        machine.whole();
        let failed = machine.status().failures;
        failures += failed;
        machine.shutdown();
        assert_each_has(&disks, 30, &format!("request {first} fails"));
        // It was whole before.
        if failed == 0 && first > 20 {
            break;
        }
    }
    assert!(failures > 10, "{failures}");
}

/// A mend whose reader went away let go of its blocks while the write was still on its way: it could arrive over what was
/// written there since.
#[test]
fn a_mend_that_nobody_waits_for_any_more_does_not_overtake_what_is_written_after_it() {
    let disks = pair(130);
    let mut machine = Machine::boot(&disks, 131).unwrap();
    let block = BlockIndex(BLOCKS as u64 - 3);
    let filled = |byte: u8| {
        let mut buffer = Buffer::zeroed(1).unwrap();
        buffer.bytes_mut().fill(byte);
        buffer
    };
    let (mirror, clock) = (machine.mirror.clone(), machine.clock.clone());
    machine.executor.run(async move {
        assert_eq!(mirror.write(block, filled(1)).await.1, Ok(()));
        mirror.flush().await.unwrap();
        clock.sleep_ms(1).await;
    });
    disks[1].flip_bit(block, 5);
    disks[1].set_holds(move |request| request == Request::Write(block, 1));
    let (mirror, clock) = (machine.mirror.clone(), machine.clock.clone());
    machine.executor.run(async move {
        let good = filled(1);
        let address = block.0 * 4096;
        let mend = mirror.mend(0, address, good.bytes());
        select(mend, clock.sleep_ms(100)).await;
    });
    assert_eq!(disks[1].held_count(), 1);
    let mirror = machine.mirror.clone();
    machine
        .executor
        .spawn(async move { assert_eq!(mirror.write(block, filled(2)).await.1, Ok(())) });
    machine.rest(1);
    disks[1].release();
    machine.rest(1);
    for disk in &disks {
        let bytes = disk.to_bytes();
        let at = block.0 as usize * 4096;
        assert!(bytes[at..at + 4096].iter().all(|byte| *byte == 2));
    }
}

/// Who read from a disk that had gone out by the time of the mend was told that all copies have that, though the one that was left
/// did not: a mount went on with a checkpoint that was lost.
#[test]
fn a_mend_from_a_disk_that_is_out_tells_whether_the_other_one_has_that() {
    for lacking in [false, true] {
        let disks = pair(135);
        let mut machine = Machine::boot(&disks, 136).unwrap();
        let block = BlockIndex(BLOCKS as u64 - 3);
        let mirror = machine.mirror.clone();
        let written = machine.executor.run(async move {
            let mut buffer = Buffer::zeroed(1).unwrap();
            buffer.bytes_mut().fill(7);
            let written = mirror.write(block, buffer).await.1;
            mirror.flush().await.unwrap();
            written
        });
        assert_eq!(written, Ok(()));
        if lacking {
            disks[1].flip_bit(block, 5);
        }
        disks[0].set_faults(|_| Some(DeviceError::Io));
        machine.put(1).unwrap();
        assert_eq!(machine.status().members[0], MemberState::Out);
        let mirror = machine.mirror.clone();
        let address = block.0 * 4096;
        let mended = machine
            .executor
            .run(async move { mirror.mend(0, address, &[7; 4096]).await });
        let expected = if lacking {
            Err(DeviceError::Gone)
        } else {
            Ok(false)
        };
        assert_eq!(mended, expected);
    }
}

/// Rots one sector of a block on the first disk and another one on the second.
/// Mounts a mirror and changes nothing else.
fn mount(disks: &Disks, seed: u64) -> Result<(), MountError> {
    let disks = disks.to_vec();
    Executor::new(seed).run(async move {
        let mirror = Mirror::open(disks, [9; 16]).await.unwrap();
        let mut recovery = crate::common::key::open(mirror).await?;
        while recovery.next_commit().await?.is_some() {}
        recovery.finish().await.map(drop)
    })
}

/// Homes of the two slots.
const SLOTS: [u64; 2] = [16, 24];

/// One bit on one disk made a slot claim to be newer than the one in force, and the good copy on the other disk was overwritten with it.
#[test]
fn a_slot_that_claims_too_much_on_one_disk_is_mended_from_the_other() {
    let base = pair(400);
    for slot in SLOTS {
        for bit in (0..64 * 8).filter(|bit| bit % 3 == 0) {
            let what = format!("slot {slot}, bit {bit}");
            let disks = snapshots(&base, 401);
            disks[bit % 2].flip_bit(BlockIndex(slot), bit);
            mount(&disks, 402).unwrap();
            for slot in SLOTS {
                let good = block_of(&disks[1 - bit % 2], slot);
                assert!(good == block_of(&base[1 - bit % 2], slot), "{what}");
            }
            // The power fails, and what is left is the same.
            let disks = snapshots(&disks, 403);
            assert_each_has(&disks, 0, &what);
        }
    }
}

/// The slot that no disk could read may have been the newest: it was passed over, and what it names overwritten.
#[test]
fn a_slot_that_neither_disk_can_read_is_not_passed_over() {
    let base = pair(410);
    for slot in SLOTS {
        let disks = snapshots(&base, 411);
        for disk in &disks {
            bad_blocks(disk, [slot].into());
        }
        assert!(matches!(mount(&disks, 412), Err(MountError::Device(_))));
        for disk in &disks {
            disk.clear_faults();
        }
        assert_each_has(&disks, 0, "readable again");
    }
}

/// A whole checkpoint that was never in force, on the disk that could not be read for a moment, was believed later.
#[test]
fn what_one_disk_may_have_in_the_other_slot_is_written_over() {
    let base = pair(415);
    // The next checkpoint, as the disks would have it.
    let later = snapshots(&base, 416);
    let mut machine = Machine::boot(&later, 416).unwrap();
    machine.put(1).unwrap();
    machine.checkpoint();
    let changed = |slot: &u64| block_of(&later[0], *slot) != block_of(&base[0], *slot);
    let slot = SLOTS.into_iter().find(changed).unwrap();
    for member in [0, 1] {
        let disks = snapshots(&base, 417);
        write_block(&disks[member], slot, &block_of(&later[member], slot));
        bad_blocks(&disks[member], [slot].into());
        mount(&disks, 418).unwrap();
        for disk in &disks {
            disk.clear_faults();
        }
        let there = disks.each_ref().map(|disk| block_of(disk, slot));
        assert!(there[0] == there[1], "disk {member}");
        assert_each_has(&snapshots(&disks, 419), 0, "written over");
    }
}

/// Two disks of which the first lost the newest checkpoint, in the slot at the block that is returned; version 2 came after it.
fn first_lost_a_checkpoint(base: &Disks) -> (Disks, u64) {
    let disks = snapshots(base, 431);
    let mut machine = Machine::boot(&disks, 432).unwrap();
    machine.put(1).unwrap();
    machine.checkpoint();
    let changed = |slot: &u64| block_of(&disks[0], *slot) != block_of(&base[0], *slot);
    let slot = SLOTS.into_iter().find(changed).unwrap();
    machine.put(2).unwrap();
    let disks = snapshots(&disks, 433);
    (disks, slot)
}

/// It was overwritten with an older one before the log showed that there was a newer one.
#[test]
fn a_checkpoint_that_one_disk_lost_and_the_other_cannot_read_just_now_stays() {
    let base = pair(430);
    for spoilt in [false, true] {
        let (disks, slot) = first_lost_a_checkpoint(&base);
        if spoilt {
            disks[0].flip_bit(BlockIndex(slot), 100 * 8);
        } else {
            write_block(&disks[0], slot, &block_of(&base[0], slot));
        }
        let before = disks.each_ref().map(|disk| block_of(disk, slot));
        bad_blocks(&disks[1], [slot].into());
        assert!(mount(&disks, 435).is_err(), "spoilt: {spoilt}");
        disks[1].clear_faults();
        let after = disks.each_ref().map(|disk| block_of(disk, slot));
        assert!(before == after, "spoilt: {spoilt}");
        let mut machine = Machine::boot(&disks, 436).unwrap();
        assert_eq!(machine.get(), Ok(2), "spoilt: {spoilt}");
    }
}

/// A flush that failed was told to whoever asked, such as a scrub; the log asked next, and was told that all is well.
#[test]
fn after_a_flush_of_the_last_disk_failed_none_goes_well() {
    for alone in [false, true] {
        let disks = pair(425);
        let which = if alone { &disks[..1] } else { &disks[..] };
        let mut machine = Machine::boot(which, 426).unwrap();
        machine.put(1).unwrap();
        if !alone {
            disks[1].set_faults(|_| Some(DeviceError::Io));
            machine.put(2).unwrap();
            assert_eq!(machine.status().members[1], MemberState::Out);
        }
        let mut failed = false;
        disks[0].set_faults(move |request| {
            let fails = request == Request::Flush && !core::mem::replace(&mut failed, true);
            fails.then_some(DeviceError::Io)
        });
        let mirror = machine.mirror.clone();
        let flushed = machine.executor.run(async move {
            let first = mirror.flush().await;
            (first, mirror.flush().await)
        });
        assert_eq!(flushed, (Err(DeviceError::Io), Err(DeviceError::Io)));
        assert!(machine.put(3).is_err(), "nothing is promised any more");
    }
}

/// An extent shares its last block with another one. That was taken from the disk on which it had rotted, because a third block could not be
/// read on the one that had it.
#[test]
fn a_mend_leaves_what_its_disk_can_read_of_the_blocks_around() {
    let disks = pair(420);
    let mut machine = Machine::boot(&disks, 421).unwrap();
    let first = BLOCKS as u64 - 6;
    let content = |fill: u8| [fill; 3 * 4096];
    let mirror = machine.mirror.clone();
    machine.executor.run(async move {
        let mut buffer = Buffer::zeroed(3).unwrap();
        buffer.bytes_mut().copy_from_slice(&content(7));
        mirror.write(BlockIndex(first), buffer).await.1.unwrap();
        mirror.flush().await.unwrap();
    });
    // The first disk's last block rots where the neighbour is; the second cannot read the one in the middle.
    disks[0].flip_bit(BlockIndex(first + 2), 4000 * 8);
    bad_blocks(&disks[1], [first + 1].into());
    let mirror = machine.mirror.clone();
    let mended = machine.executor.run(async move {
        mirror
            .mend(0, first * 4096, &content(7)[..2 * 4096 + 100])
            .await
    });
    assert_eq!(mended, Ok(true));
    disks[1].clear_faults();
    for block in first..first + 3 {
        assert!(block_of(&disks[1], block) == [7; 4096], "block {block}");
    }
}

fn rot_apart(disks: &Disks, block: u64, sectors: [usize; 2], random: &mut Random) {
    for (disk, sector) in disks.iter().zip(sectors) {
        let bit = sector * 512 * 8 + random.index(512 * 8);
        disk.flip_bit(BlockIndex(block), bit);
    }
}

/// Blocks that were damaged on both disks, each in another place, were lost, but for data of files.
#[test]
pub(crate) fn what_is_damaged_on_both_disks_in_different_places_is_put_together() {
    let mut random = Random::new(seed(140));
    for round in 0..12 {
        let base = pair(140 + round);
        let disks = with_six_versions(&base, round);
        for block in used_blocks(&disks[0]) {
            let one = random.index(8);
            let two = (one + 1 + random.index(7)) % 8;
            rot_apart(&disks, block, [one, two], &mut random);
        }
        let what = format!("round {round}");
        let mut machine =
            Machine::boot(&disks, round).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(machine.get(), Ok(6), "{what}");
        let status = machine.scrub();
        assert_eq!(status.unrepairable, 0, "{what}: {status:?}");
        machine.shutdown();
        assert_each_has(&disks, 6, &what);
    }
}

/// Disks of segments so large that extents have units.
fn large_pair(seed: u64) -> Disks {
    const LARGE: FormatOptions = FormatOptions {
        segment_bytes: 128 * 4096,
        log_segments: 16,
        created_ns: 0,
    };
    let blocks = 64 * 128;
    let disks = [SimDisk::new(blocks, seed), SimDisk::new(blocks, seed + 1)];
    let target = disks[0].clone();
    let id = FileSystemId([0xA5; 16]);
    Executor::new(seed).run(async move {
        let made = crate::common::key::format(&target, LARGE, id).await;
        made.unwrap();
    });
    let mut machine = Machine::boot(&disks, seed).unwrap();
    machine.whole();
    machine.shutdown();
    snapshots(&disks, seed)
}

/// Blocks in which a disk differs from an earlier image of it.
fn changed(before: &[u8], disk: &SimDisk) -> Vec<u64> {
    let after = disk.to_bytes();
    let blocks = before.chunks_exact(4096).zip(after.chunks_exact(4096));
    let differ = blocks.zip(0..).filter(|((one, two), _)| one != two);
    differ.map(|(_, block)| block).collect()
}

/// Makes a file of `bytes`, durable in one group. Gives it, and the blocks that hold data of it and nothing else.
fn make_file(machine: &mut Machine, disk: &SimDisk, bytes: &[u8]) -> (InodeNumber, Vec<u64>) {
    let before = disk.to_bytes();
    let inode = machine.make("file", bytes);
    let mut blocks = changed(&before, disk);
    blocks.retain(|block| !RECORDS.contains(block));
    // Header and records are in these two.
    blocks.remove(0);
    blocks.pop();
    assert!(blocks.len() >= bytes.len() / 4096 - 1, "{blocks:?}");
    (inode, blocks)
}

#[test]
pub(crate) fn an_extent_is_mended_unit_by_unit() {
    let content = noise(150, 128 << 10);
    let base = large_pair(150);
    let mut machine = Machine::boot(&base, 150).unwrap();
    let (inode, blocks) = make_file(&mut machine, &base[0], &content);
    machine.shutdown();
    for (round, unreadable) in [false, false, true].into_iter().enumerate() {
        let disks = snapshots(&base, 151);
        // Every other block on each of them.
        for (number, block) in blocks.iter().enumerate() {
            disks[(number + round) % 2].flip_bit(BlockIndex(*block), 900 * 8);
        }
        if unreadable {
            let first = blocks.iter().copied().step_by(2).collect();
            unreadable::bad_blocks(&disks[round % 2], first);
        }
        let mut machine = Machine::boot(&disks, 152).unwrap();
        let found = machine.read(inode, content.len()).unwrap();
        assert!(found == content, "round {round}");
        let status = machine.scrub();
        assert_eq!(status.unrepairable, 0, "{status:?}");
        machine.shutdown();
        for disk in &disks {
            disk.clear_faults();
            assert_clean(disk, "mended");
            let mut machine = Machine::boot(std::slice::from_ref(disk), 153).unwrap();
            assert!(machine.read(inode, content.len()).unwrap() == content);
        }
    }
}

#[test]
pub(crate) fn an_object_is_mended_block_by_block() {
    let content = noise(160, 3 * CHUNK_BYTES_MAX);
    let base = large_pair(160);
    let mut machine = Machine::boot(&base, 161).unwrap();
    let before = base[0].to_bytes();
    let (filesystem, clock) = (Rc::clone(&machine.filesystem), machine.clock.clone());
    let (bytes, disk) = (content.clone(), base[0].clone());
    let (object, blocks) = machine.executor.run(async move {
        let mut object = filesystem.create_object().unwrap();
        for chunk in bytes.chunks(CHUNK_BYTES_MAX) {
            object.put(chunk).unwrap();
        }
        let object = object.finish().await.unwrap();
        let blocks = changed(&before, &disk);
        let commit = filesystem.appended();
        let kept = [object];
        let made = filesystem.checkpoint(commit, &kept, b"manifest", &clock);
        made.await.unwrap();
        (object, blocks)
    });
    machine.shutdown();
    assert!(blocks.len() > 90, "{blocks:?}");
    for scrubbed in [false, true] {
        let disks = snapshots(&base, 162);
        // In each chunk of 32 blocks some on either.
        for (number, block) in blocks.iter().enumerate().step_by(8) {
            disks[number / 8 % 2].flip_bit(BlockIndex(*block), 901 * 8);
        }
        let mut machine = Machine::boot(&disks, 163).unwrap();
        if scrubbed {
            let status = machine.scrub();
            assert_eq!(status.unrepairable, 0, "{status:?}");
        }
        assert!(read_object(&mut machine, object) == content, "{scrubbed}");
        machine.shutdown();
        for disk in &disks {
            assert_clean(disk, "mended");
        }
    }
}

fn read_object(machine: &mut Machine, object: ObjectId) -> Vec<u8> {
    let filesystem = Rc::clone(&machine.filesystem);
    machine
        .executor
        .run(async move { common::read_object(&filesystem, object).await.unwrap() })
}

/// Flips a bit of a byte on one disk.
fn flip(disk: &SimDisk, at: u64) {
    disk.flip_bit(BlockIndex(at / 4096), (at % 4096 * 8) as usize);
}

/// The other one may be damaged there on the disk that is read, and nowhere else.
#[test]
fn what_shares_a_block_with_a_chunk_that_is_mended_is_left_as_it_is() {
    let base = large_pair(180);
    let mut machine = Machine::boot(&base, 181).unwrap();
    let before = base[0].to_bytes();
    let (filesystem, clock) = (Rc::clone(&machine.filesystem), machine.clock.clone());
    let disk = base[0].clone();
    let contents = (0..4)
        .map(|number| noise(182 + number, 1000))
        .collect::<Vec<_>>();
    let put = contents.clone();
    let (object, chunks, block) = machine.executor.run(async move {
        let mut object = filesystem.create_object().unwrap();
        let chunks = put.iter().map(|content| object.put(content).unwrap());
        let chunks = chunks.collect::<Vec<_>>();
        let object = object.finish().await.unwrap();
        let block = changed(&before, &disk)[0];
        let commit = filesystem.appended();
        let kept = [object];
        let made = filesystem.checkpoint(commit, &kept, b"manifest", &clock);
        made.await.unwrap();
        (object, chunks, block)
    });
    machine.shutdown();
    let place = |number: usize| block * 4096 + chunks[number].offset;
    // The second one has no good copy, or one; each time the third one has a good copy where the second one is mended.
    for together in [false, true] {
        let disks = snapshots(&base, 183);
        let [one, two] = &disks;
        flip(one, place(1) + 60);
        if together {
            flip(two, place(2) - 20);
            // In the sector in which the second one ends.
            flip(one, place(2) + 1);
        } else {
            flip(two, place(2) + 1);
        }
        let mut machine = Machine::boot(&disks, 184).unwrap();
        let (filesystem, chunk) = (Rc::clone(&machine.filesystem), chunks[1]);
        let read = async move { filesystem.read_chunk(object, chunk).await };
        assert!(machine.executor.run(read).as_ref() == Ok(&contents[1]));
        if !together {
            assert_clean(one, "as it was, and mended");
        }
        let status = machine.scrub();
        assert_eq!((status.repaired, status.unrepairable), (1, 0), "{together}");
        assert!(read_object(&mut machine, object) == contents.concat());
        machine.shutdown();
        for disk in &disks {
            assert_clean(disk, "mended");
        }
    }
}

/// What was tried for the one was taken for the other one as well, and written over what was good of it.
#[test]
fn what_shares_a_block_with_data_that_are_put_together_is_left_as_it_is() {
    crate::common::key::choose(None);
    let contents = [noise(190, 9000), noise(191, 9000)];
    let base = large_pair(192);
    let mut machine = Machine::boot(&base, 193).unwrap();
    let (filesystem, written) = (Rc::clone(&machine.filesystem), contents.clone());
    let inodes = machine.executor.run(async move {
        let made = filesystem.transact(1, |transaction| {
            let mut files = transaction.files();
            let mut inodes = Vec::new();
            for (name, content) in ["one", "two"].iter().zip(&written) {
                let new = NewInode::new(FileKind::File, 0o644);
                let inode = files.create(ROOT, name.as_bytes(), &new)?;
                files.write(inode, 0, content)?;
                inodes.push(inode);
            }
            Ok(inodes)
        });
        made.await.unwrap().0
    });
    machine.shutdown();
    let bytes = base[0].to_bytes();
    let place = |wanted: &[u8]| {
        let mut places = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(wanted));
        places.next().unwrap() as u64
    };
    let [first, end, second] = [
        place(&contents[0][..64]),
        place(&contents[0][8900..]) + 100,
        place(&contents[1][..64]),
    ];
    assert!(
        end <= second && end / 4096 == second / 4096,
        "{end}, {second}"
    );
    let disks = snapshots(&base, 194);
    let mut machine = Machine::boot(&disks, 195).unwrap();
    // Behind the mount, which would mend what it replays.
    flip(&disks[0], first + 100);
    flip(&disks[1], first + 1500);
    flip(&disks[0], second + 10);
    let status = machine.scrub();
    assert_eq!((status.repaired, status.unrepairable), (2, 0));
    for (inode, content) in inodes.into_iter().zip(&contents) {
        assert!(machine.read(inode, content.len()).as_ref() == Ok(content));
    }
    machine.shutdown();
    for disk in &disks {
        assert_clean(disk, "mended");
    }
}

/// A group of the log that is damaged on both disks, each in another block, ended the log or the mount.
#[test]
pub(crate) fn a_group_is_put_together_at_replay() {
    let content = noise(170, 100_000);
    let base = large_pair(170);
    let mut machine = Machine::boot(&base, 171).unwrap();
    // No checkpoint: the log alone has it, and nothing comes behind it.
    let (inode, blocks) = make_file(&mut machine, &base[0], &content);
    let disks = snapshots(&base, 172);
    for (number, block) in blocks.iter().enumerate().step_by(5) {
        disks[number / 5 % 2].flip_bit(BlockIndex(*block), 902 * 8);
    }
    let mut machine = Machine::boot(&disks, 173).unwrap();
    assert!(machine.read(inode, content.len()).unwrap() == content);
    machine.shutdown();
    for disk in &disks {
        assert_clean(disk, "mended");
        let mut machine = Machine::boot(std::slice::from_ref(disk), 174).unwrap();
        assert!(machine.read(inode, content.len()).unwrap() == content);
    }
}

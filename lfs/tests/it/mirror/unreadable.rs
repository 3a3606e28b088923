//! Blocks of the disk with everything that cannot be read when the other one is to be brought up to date.
//!
//! - What the other one has there, which may be the last good copy, stays.
//! - Nothing stale is ever taken for right because of that.
//! - Everything else becomes whole, and somebody is told.

use std::collections::BTreeSet;

use crate::common::world::is_fault;
use lfs::sim::Request;

use super::*;

/// Blocks of `disk` that cannot be read until they are written.
pub(crate) fn bad_blocks(disk: &SimDisk, blocks: BTreeSet<u64>) -> Rc<RefCell<BTreeSet<u64>>> {
    let bad = Rc::new(RefCell::new(blocks));
    let left = Rc::clone(&bad);
    disk.set_faults(move |request| match request {
        Request::Read(start, count) => {
            let left = left.borrow();
            let mut hit = left.range(start.0..start.0 + count as u64);
            hit.next().map(|_| DeviceError::Io)
        }
        Request::Write(start, count) => {
            let written = start.0..start.0 + count as u64;
            left.borrow_mut().retain(|block| !written.contains(block));
            None
        }
        Request::Flush => None,
    });
    bad
}

/// What nobody has written, on a disk that holds something else.
const PLANTED: [u8; 4096] = [0x5A; 4096];
/// Files that are made while both disks are there, and as many when the second one is away.
const FILES: u64 = 8;
const FILE_BYTES: usize = 5000;

/// Two disks of which the second was away while the first took half of the files and five versions; with the files' inodes.
fn stale_pair(seed: u64) -> (Disks, Vec<InodeNumber>) {
    let disks = pair(seed);
    let mut machine = Machine::boot(&disks, seed).unwrap();
    let mut inodes = Vec::new();
    let make = |machine: &mut Machine, number: u64| {
        machine.make(&number.to_string(), &noise(number, FILE_BYTES))
    };
    inodes.extend((0..FILES).map(|number| make(&mut machine, number)));
    machine.shutdown();
    let mut machine = Machine::boot(&[disks[0].clone()], seed).unwrap();
    for version in 1..=5 {
        machine.put(version).unwrap();
        if version == 3 {
            machine.checkpoint();
        }
    }
    inodes.extend((FILES..2 * FILES).map(|number| make(&mut machine, number)));
    machine.shutdown();
    (snapshots(&disks, seed), inodes)
}

/// Blocks of the first disk in use that are the same, or not, on the second.
fn blocks(disks: &Disks, same: bool) -> Vec<u64> {
    let bytes = disks.each_ref().map(SimDisk::to_bytes);
    let mut blocks = used_blocks(&disks[0]);
    blocks.retain(|block| {
        let at = *block as usize * 4096;
        (bytes[0][at..at + 4096] == bytes[1][at..at + 4096]) == same
    });
    blocks
}

/// How much could be read, which is right; all of the rest said that it is damaged.
fn readable(machine: &mut Machine, inodes: &[InodeNumber], what: &str) -> usize {
    let damaged = |error: FileError| {
        assert!(is_fault(&error), "{what}: {error}");
    };
    let mut right = 0;
    match machine.get() {
        Ok(version) => {
            assert_eq!(version, 5, "{what}");
            right += 1;
        }
        Err(error) => damaged(error),
    }
    for (number, inode) in (0..).zip(inodes) {
        match machine.read(*inode, FILE_BYTES) {
            Ok(content) => {
                assert!(
                    content == noise(number, FILE_BYTES),
                    "{what}: file {number}"
                );
                right += 1;
            }
            Err(error) => damaged(error),
        }
    }
    right
}

/// Zeros were written over what the other disk had, though it was right.
#[test]
fn the_only_good_copy_stays_where_the_other_disk_cannot_be_read() {
    let (base, inodes) = stale_pair(300);
    let mut unread = 0;
    for block in blocks(&base, true) {
        let what = format!("block {block}");
        let disks = snapshots(&base, block);
        let mut machine = Machine::boot(&disks, block).unwrap();
        bad_blocks(&disks[0], [block].into());
        machine.whole();
        let status = machine.status();
        unread += status.unread_blocks;
        // A scrub mends what the first disk has not got, if nothing else has before.
        let scrubbed = machine.scrub();
        assert_eq!(scrubbed.unrepairable, 0, "{what}: {scrubbed:?}");
        let right = readable(&mut machine, &inodes, &what);
        assert_eq!(right, inodes.len() + 1, "{what}");
        machine.shutdown();
        for disk in &disks {
            disk.clear_faults();
        }
        assert_each_has(&disks, 5, &what);
    }
    assert!(unread > 2, "{unread}");
}

/// Whatever cannot be read on the first disk, and is stale on the second: what that one gives is right or damaged, and a
/// mount that finds both never goes back.
#[test]
fn nothing_stale_is_taken_for_right_where_the_other_disk_cannot_be_read() {
    let (base, inodes) = stale_pair(310);
    let all = inodes.len() + 1;
    let (mut right, mut damaged, mut refused, mut unread) = (0, 0, 0, 0);
    for block in blocks(&base, false) {
        let disks = snapshots(&base, block);
        let mut machine = Machine::boot(&disks, block).unwrap();
        let bad = bad_blocks(&disks[0], [block].into());
        machine.whole();
        unread += machine.status().unread_blocks;
        // The power goes at once. The first disk still cannot be read there, or is lost.
        for alone in [false, true] {
            let left = disks.each_ref().map(|disk| {
                let crash = disk.crash_at(disk.event_count());
                crash.disk(|_| false, 1)
            });
            bad_blocks(&left[0], bad.borrow().clone());
            let what = format!("block {block}, alone {alone}");
            let which = if alone { &left[1..] } else { &left[..] };
            let booted = Machine::boot(which, 3);
            match booted.map(|mut machine| readable(&mut machine, &inodes, &what)) {
                Ok(found) if found == all => right += 1,
                // What this block had is lost, and that is said.
                Ok(_) => damaged += 1,
                Err(error) => {
                    let said = error.contains("damaged") || error.contains("input/output");
                    assert!(said, "{what}: {error}");
                    refused += 1;
                }
            }
        }
    }
    println!("right {right}, damaged {damaged}, refused {refused}; {unread} blocks");
    assert!(unread > 10 && right > 5 && damaged > 5);
}

/// What a disk that has never had everything holds, from an earlier life, is none of ours.
#[test]
fn a_new_disk_keeps_nothing_of_an_earlier_life() {
    let ours = first_disk(320);
    let mut cleared = 0;
    for block in used_blocks(&ours) {
        let disks = [ours.snapshot(block), SimDisk::new(BLOCKS, block)];
        let mut machine = Machine::boot(&disks, 321).unwrap();
        bad_blocks(&disks[0], [block].into());
        // Blank is what looks blank: not every block is looked at.
        write_block(&disks[1], block, &PLANTED);
        machine.whole();
        // Free ones are not copied.
        if machine.status().unread_blocks == 0 {
            continue;
        }
        cleared += 1;
        assert!(block_of(&disks[1], block) != PLANTED, "block {block}");
    }
    assert!(cleared > 5, "{cleared}");
}

/// A disk that is not known to hold an earlier state of the same was taken for one that does from the second attempt to fill it on.
#[test]
fn what_is_not_ours_is_not_at_a_second_attempt_either() {
    #[derive(Clone, Copy, PartialEq)]
    enum Phase {
        Away,
        /// One home of its record cannot be read, and after some writes none goes well.
        Half(usize),
        There,
    }
    let base = pair(340);
    let block = *used_blocks(&base[0]).last().unwrap();
    let disks = snapshots(&base, 341);
    let mut machine = Machine::boot(&disks, 342).unwrap();
    write_block(&disks[1], block, &PLANTED);
    let phase = Rc::new(Cell::new(Phase::Away));
    let of_disk = Rc::clone(&phase);
    disks[1].set_faults(move |request| {
        let fails = match (of_disk.get(), request) {
            (Phase::Away, _) => true,
            (Phase::Half(_), Request::Read(start, count)) => {
                (start.0..start.0 + count as u64).contains(&7)
            }
            (Phase::Half(0), Request::Write(..)) => {
                of_disk.set(Phase::There);
                true
            }
            (Phase::Half(left), Request::Write(..)) => {
                of_disk.set(Phase::Half(left - 1));
                false
            }
            _ => false,
        };
        fails.then_some(DeviceError::Io)
    });
    machine.put(1).unwrap();
    assert_eq!(machine.status().members[1], MemberState::Out);
    bad_blocks(&disks[0], [block].into());
    phase.set(Phase::Half(3));
    machine.whole();
    assert!(
        phase.get() == Phase::There,
        "the first attempt was cut short"
    );
    assert!(machine.status().unread_blocks > 0);
    assert!(block_of(&disks[1], block) != PLANTED);
}

/// Copies of both disks were used together for a while. One of them, put beside a disk of the mirror itself, was taken for an earlier state of it.
#[test]
fn what_went_its_own_way_is_not_ours() {
    let base = pair(350);
    let copies = snapshots(&base, 353);
    let mut machine = Machine::boot(&copies, 353).unwrap();
    machine.put(2).unwrap();
    machine.shutdown();
    for boot in 0..2 {
        let mut machine = Machine::boot(&base, 355 + boot).unwrap();
        machine.put(3 + boot).unwrap();
        machine.shutdown();
    }
    let disks = [base[0].snapshot(357), copies[1].snapshot(358)];
    let block = *used_blocks(&disks[0]).last().unwrap();
    let mut machine = Machine::boot(&disks, 359).unwrap();
    write_block(&disks[1], block, &PLANTED);
    bad_blocks(&disks[0], [block].into());
    machine.whole();
    assert!(machine.status().unread_blocks > 0);
    assert!(block_of(&disks[1], block) != PLANTED);
}

/// From a disk that can hardly be read nothing becomes whole: then its copy would be taken for one.
#[test]
fn a_disk_that_can_hardly_be_read_is_no_source() {
    let (disks, _) = stale_pair(330);
    let mut machine = Machine::boot(&disks, 331).unwrap();
    let all = (16..BLOCKS as u64).collect();
    let bad = bad_blocks(&disks[0], all);
    machine.rest(300);
    let status = machine.status();
    assert_eq!(
        status.members,
        [MemberState::In, MemberState::Out],
        "{status:?}"
    );
    assert!(
        status.behind_bytes > 0 && status.unread_blocks > 0,
        "{status:?}"
    );
    // Once it can be read again, it is.
    bad.borrow_mut().clear();
    machine.whole();
    assert_eq!(machine.status().unread_blocks, 0);
    machine.shutdown();
    assert_each_has(&disks, 5, "readable again");
}

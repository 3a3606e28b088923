//! Which of two disks counts, when one of them cannot quite be read, has changed places, or belongs elsewhere.

use lfs::sim::Request;

use super::*;

#[test]
fn it_does_not_matter_which_disk_is_the_first() {
    let mut random = Random::new(seed(400));
    let mut disks = pair(400);
    let mut expected = 0;
    for round in 1..=24 {
        disks.reverse();
        let which = match random.index(4) {
            0 => &disks[..1],
            1 => &disks[1..],
            _ => &disks[..],
        };
        let what = format!("round {round}, {} disks", which.len());
        let mut machine =
            Machine::boot(which, round).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(machine.get(), Ok(expected), "{what}");
        machine.put(round).unwrap();
        expected = round;
        // At times the power goes.
        if random.one_in(2) {
            machine.shutdown();
        }
        let mut machine = Machine::boot(&disks, round).unwrap();
        assert_eq!(machine.get(), Ok(expected), "{what}, both");
        machine.whole();
        machine.shutdown();
        assert_each_has(&disks, expected, &what);
        disks = snapshots(&disks, round);
    }
}

#[test]
fn disks_of_two_mirrors_are_refused_and_not_changed() {
    let one = pair(410);
    // Of one file system: the second disk was replaced.
    let new = SimDisk::new(BLOCKS, 411);
    let replaced = [one[0].snapshot(1), new];
    let mut machine = Machine::boot(&replaced, 412).unwrap();
    machine.whole();
    machine.put(1).unwrap();
    machine.shutdown();
    // Of another one.
    let other = pair(413);
    let mixed = [
        [one[1].clone(), replaced[1].clone()],
        [replaced[1].clone(), one[1].clone()],
        [one[0].clone(), other[0].clone()],
        [one[0].clone(), other[1].clone()],
        [one[1].clone(), other[0].clone()],
    ];
    for disks in mixed {
        let before = disks.each_ref().map(SimDisk::to_bytes);
        assert!(open(&disks, 1).is_err());
        assert!(disks.each_ref().map(SimDisk::to_bytes) == before);
    }
}

/// A disk that was being made the mirror of one disk became that of another one when it was attached to that.
#[test]
fn a_disk_that_another_one_was_filling_is_refused_and_not_changed() {
    let one = pair(420);
    let new = SimDisk::new(BLOCKS, 421);
    let filling = [one[0].snapshot(1), new];
    let machine = Machine::boot(&filling, 422).unwrap();
    let timeline = trace(&filling);
    let mut machine = machine;
    machine.whole();
    let moments = timeline.borrow().clone();
    let mut refused = 0;
    for at in moments {
        let [_, part] = cut(&filling, at, &mut Random::new(1));
        let alone = Machine::boot(&[part.snapshot(0)], 1).err();
        if !alone.is_some_and(|error| error.contains("not complete")) {
            continue;
        }
        for mut disks in [[one[1].snapshot(2), part.snapshot(3)]] {
            for _ in 0..2 {
                let before = disks.each_ref().map(SimDisk::to_bytes);
                let error = open(&disks, 1).err();
                assert!(matches!(error, Some(MirrorError::Stranger(_))), "{error:?}");
                assert!(disks.each_ref().map(SimDisk::to_bytes) == before);
                disks.reverse();
                refused += 1;
            }
        }
    }
    assert!(refused > 5, "{refused}");
}

/// The power goes while a new disk becomes the mirror of `leader`: what is on that, and on the new one, which is not complete.
fn half_filled(leader: &SimDisk, seed: u64) -> (SimDisk, SimDisk) {
    let filling = [leader.snapshot(seed), SimDisk::new(BLOCKS, seed + 1)];
    let mut machine = Machine::boot(&filling, seed).unwrap();
    machine.whole();
    let half = incomplete(&filling[1]);
    // The leader as it was when it had named the new one and that one was not in.
    let named = (0..filling[0].event_count()).rev().find_map(|events| {
        let disk = filling[0].crash_at(events).disk(|_| true, seed);
        let pair = [disk.snapshot(1), half.snapshot(1)];
        let status = open(&pair, 7).ok()?.mirror_status()?;
        (status.members[0] == MemberState::In && status.members[1] != MemberState::In)
            .then_some(disk)
    });
    (named.unwrap(), half)
}

/// A disk as it was when it first said that it was not complete.
fn incomplete(disk: &SimDisk) -> SimDisk {
    let moments = 0..disk.event_count();
    let found = moments.into_iter().find_map(|events| {
        let then = disk.crash_at(events).disk(|_| true, 1);
        let alone = Machine::boot(&[then.snapshot(0)], 1).err();
        let refused = alone.is_some_and(|error| error.contains("not complete"));
        refused.then_some(then)
    });
    found.unwrap()
}

/// A disk was being filled, then its leader was given another new one, then the first again: it was tried again and again, and never came in.
#[test]
fn a_disk_that_was_half_filled_is_taken_in_after_another_one_was() {
    let leader = first_disk(440);
    let (named, first) = half_filled(&leader, 441);
    let (left, second) = half_filled(&named, 444);
    for new in [first, second] {
        let disks = [left.snapshot(450), new.snapshot(451)];
        let mut machine = Machine::boot(&disks, 452).unwrap();
        machine.whole();
        machine.put(1).unwrap();
        machine.shutdown();
        assert_each_has(&disks, 1, "taken in");
    }
}

/// A disk with everything, of which the record could not be read, was left out: the stale one served, and took writes.
#[test]
fn a_stale_disk_does_not_lead_because_the_other_ones_record_cannot_be_read() {
    for stale in [0, 1] {
        let disks = pair(430);
        let mut machine = Machine::boot(std::slice::from_ref(&disks[1 - stale]), 431).unwrap();
        for version in 1..=3 {
            machine.put(version).unwrap();
        }
        machine.shutdown();
        for bad in [vec![7], vec![8], vec![7, 8], vec![0], vec![15], vec![0, 15]] {
            let disks = snapshots(&disks, 432);
            unreadable::bad_blocks(&disks[1 - stale], bad.iter().copied().collect());
            let what = format!("stale {stale}, unreadable {bad:?}");
            match Machine::boot(&disks, 433) {
                Ok(mut machine) => {
                    assert_eq!(machine.get(), Ok(3), "{what}");
                    machine.put(4).unwrap();
                    machine.whole();
                    machine.shutdown();
                    disks[1 - stale].clear_faults();
                    assert_each_has(&disks, 4, &what);
                }
                Err(error) => assert!(error.contains("input/output"), "{what}: {error}"),
            }
        }
    }
}

/// One bad sector must not cost the service, where both disks had everything.
#[test]
fn a_record_that_cannot_be_read_is_written_again() {
    for damaged in [0, 1] {
        for bad in [7, 8] {
            let disks = pair(440);
            unreadable::bad_blocks(&disks[damaged], [bad].into());
            let what = format!("block {bad} of disk {damaged}");
            let mut machine =
                Machine::boot(&disks, 441).unwrap_or_else(|error| panic!("{what}: {error}"));
            machine.put(1).unwrap();
            machine.whole();
            machine.shutdown();
            let mut machine = Machine::boot(&disks, 442).unwrap();
            machine.whole();
            assert_eq!(machine.get(), Ok(1), "{what}");
            machine.shutdown();
            disks[damaged].clear_faults();
            assert_each_has(&disks, 1, &what);
        }
    }
}

/// Both disks fail, one after the other, at any requests: an error at worst, and everything acknowledged is there
/// afterwards.
#[test]
fn both_disks_may_fail_one_after_the_other() {
    let mut random = Random::new(seed(450));
    let base = pair(450);
    let mut errors = 0;
    for round in 0..80 {
        let disks = snapshots(&base, round);
        let failing = Rc::new(Cell::new(true));
        let mut machine = Machine::boot(&disks, round).unwrap();
        for disk in &disks {
            fail_from(disk, random.index(30), &failing);
        }
        let mut acknowledged = 0;
        for version in 1..=12 {
            if machine.put(version).is_err() {
                errors += 1;
                break;
            }
            acknowledged = version;
            if version == 4 {
                machine.rest(1);
            }
        }
        drop(machine);
        for disk in &disks {
            disk.clear_faults();
            disk.power_cycle(|_| random.one_in(2));
        }
        let what = format!("round {round}");
        let mut machine =
            Machine::boot(&disks, round).unwrap_or_else(|error| panic!("{what}: {error}"));
        let found = machine.get().unwrap();
        assert!(
            (acknowledged..=acknowledged + 1).contains(&found),
            "{what}: {found}"
        );
        machine.whole();
        machine.shutdown();
        assert_each_has(&disks, found, &what);
    }
    assert!(errors > 5, "{errors}");
}

/// The disk that leads failed when both were about to begin, once. It was taken for in although the other one had put it out,
/// and got everything at the next start.
#[test]
fn a_disk_that_fails_when_both_begin_is_out_and_gets_what_it_lacks() {
    for failed in [0, 1] {
        for first in 0..5 {
            let disks = pair(460);
            let mut count = 0;
            disks[failed].set_faults(move |request| {
                let counts = !matches!(request, Request::Read(..));
                count += usize::from(counts);
                (counts && count == first + 1).then_some(DeviceError::Io)
            });
            let what = format!("disk {failed}, request {first}");
            // They begin with the first flush, at the end of the mount.
            let mut machine = Machine::boot(&disks, 461).unwrap();
            machine.put(1).unwrap();
            let status = machine.status();
            assert_eq!(status.failures, 1, "{what}");
            let is_in = status.members[failed] == MemberState::In;
            assert!(!is_in || status.resynced_bytes > 0, "{what}: {status:?}");
            machine.whole();
            machine.put(2).unwrap();
            drop(machine);
            let mut machine = Machine::boot(&disks, 462).unwrap();
            assert_eq!(machine.status().behind_bytes, 0, "{what}");
            assert_eq!(machine.get(), Ok(2), "{what}");
            machine.shutdown();
            assert_each_has(&disks, 2, &what);
        }
    }
}

/// What is behind the end of a disk that comes back smaller cannot be copied there.
#[test]
fn a_disk_that_comes_back_smaller_is_not_taken_in() {
    let disks = pair(470);
    let mut machine = Machine::boot(&disks, 471).unwrap();
    let failing = Rc::new(Cell::new(true));
    fail_from(&disks[1], 0, &failing);
    machine.put(1).unwrap();
    let size = disks[1].geometry().block_count as usize;
    // The log goes through all segments.
    for version in 2..=200 {
        machine.put(version).unwrap();
    }
    disks[1].resize(size / 2);
    failing.set(false);
    machine.rest(200);
    let status = machine.status();
    assert_ne!(status.members[1], MemberState::In, "{status:?}");
    machine.put(201).unwrap();
    disks[1].resize(size);
    machine.whole();
    machine.shutdown();
    assert_each_has(&disks, 201, "as large as before");
}

/// Who fills a disk says so first, so somebody else was filling that one; it was taken, and never became part of the mirror.
#[test]
fn a_copy_from_before_there_was_a_mirror_does_not_take_a_disk_that_is_being_filled() {
    let before = first_disk(460);
    let (_, half) = half_filled(&before, 461);
    for disks in [[&before, &half], [&half, &before]] {
        let disks = disks.map(|disk| disk.snapshot(465));
        let bytes = disks.each_ref().map(SimDisk::to_bytes);
        assert!(matches!(open(&disks, 3), Err(MirrorError::Stranger(_))));
        assert!(disks.each_ref().map(SimDisk::to_bytes) == bytes);
    }
}

/// A disk that was not complete, being filled from a third one, led whoever it had been filling itself once.
#[test]
fn of_two_disks_that_are_not_complete_neither_leads() {
    let (left, half) = half_filled(&first_disk(470), 471);
    let disks = [left, SimDisk::new(BLOCKS, 474)];
    let mut machine = Machine::boot(&disks, 475).unwrap();
    machine.whole();
    machine.shutdown();
    let mut machine = Machine::boot(&disks[1..], 476).unwrap();
    machine.put(1).unwrap();
    machine.shutdown();
    let disks = snapshots(&disks, 477);
    let mut machine = Machine::boot(&disks, 479).unwrap();
    machine.whole();
    let left = incomplete(&disks[0]);
    for disks in [[&left, &half], [&half, &left]] {
        let disks = disks.map(|disk| disk.snapshot(480));
        let bytes = disks.each_ref().map(SimDisk::to_bytes);
        assert!(open(&disks, 3).is_err());
        assert!(disks.each_ref().map(SimDisk::to_bytes) == bytes);
    }
}

/// With an id that all such disks had in common, a disk that one of them had lacked nothing of passed for another one.
#[test]
fn a_look_at_both_takes_no_disk_in() {
    let (named, first) = half_filled(&first_disk(490), 491);
    let (left, _) = half_filled(&named, 494);
    let disks = [left.snapshot(497), first.snapshot(498)];
    let bytes = disks.each_ref().map(SimDisk::to_bytes);
    let both = disks.clone();
    let opened = Executor::new(1).run(async move { Mirror::open_copies(both).await.map(drop) });
    assert_eq!(opened, Err(MirrorError::Stranger(Side::Second)));
    assert!(disks.each_ref().map(SimDisk::to_bytes) == bytes);
    assert!(open(&disks, 3).is_ok());
}

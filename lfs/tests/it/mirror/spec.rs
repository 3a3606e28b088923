//! The reader of `examples/dump`, written from SPEC.md alone, and the library say the same of two disks: what is on
//! each, which one counts, and what the other lacks.

use super::*;
use crate::dump::{Counts, Lacks, Member, counts, lacks};
use crate::spec::reader;

/// The version that the files of one disk have.
fn version(disk: &SimDisk) -> u64 {
    let reader = reader(disk);
    let state = reader.state(None);
    let files = state.files().unwrap();
    let content_of = |path: &[u8]| {
        let found = files.iter().find(|found| found.path == path);
        state.content(found.unwrap().inode).unwrap()
    };
    let version = u64::from_le_bytes(content_of(b"/small")[..].try_into().unwrap());
    assert!(content_of(b"/large") == content(version));
    version
}

fn members(disks: &Disks) -> [Member; 2] {
    let newest = |disk: &SimDisk| Member::newest(&disk.to_bytes()).unwrap().unwrap();
    disks.each_ref().map(newest)
}

/// What both say of the disks, which is the same.
fn compared(disks: &Disks, what: &str) -> Counts {
    let members = members(disks);
    let counted = counts(&members[0], &members[1]);
    let opened = open(&snapshots(disks, 1), 7).map(|mirror| mirror.mirror_status().unwrap());
    let leader = match counted {
        Counts::Neither => {
            assert!(opened.is_err(), "{what}: {opened:?}");
            return counted;
        }
        Counts::Both => {
            let status = opened.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(status.members, [MemberState::In; 2], "{what}");
            assert_eq!(status.behind_bytes, 0, "{what}");
            return counted;
        }
        Counts::First => 0,
        Counts::Second => 1,
    };
    let status = opened.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(status.members[leader], MemberState::In, "{what}");
    assert_ne!(status.members[1 - leader], MemberState::In, "{what}");
    let [leading, other] = [&members[leader], &members[1 - leader]];
    let behind = match lacks(leading, other) {
        Lacks::Marked => (0..BLOCKS as u64)
            .filter(|block| leading.marks(*block))
            .count(),
        Lacks::Everything => BLOCKS,
    };
    assert_eq!(
        status.behind_bytes,
        behind as u64 * 4096,
        "{what}: {leading}; {other}"
    );
    counted
}

#[test]
fn the_reader_and_the_library_say_the_same_of_two_disks() {
    for suite in [
        None,
        Some(Suite::XChaCha20Poly1305),
        Some(Suite::Aes256GcmSiv),
    ] {
        crate::common::key::choose(suite);
        let disks = pair(600);
        assert_eq!(compared(&disks, "whole"), Counts::Both);
        assert_eq!(disks.each_ref().map(version), [0, 0]);
        for away in [0, 1] {
            let left = snapshots(&disks, 601);
            let mut machine = Machine::boot(&[left[1 - away].clone()], 602).unwrap();
            machine.put(5).unwrap();
            machine.shutdown();
            let counting = [Counts::Second, Counts::First][away];
            assert_eq!(compared(&left, "one was away"), counting);
            let members = members(&left);
            assert_eq!(lacks(&members[1 - away], &members[away]), Lacks::Marked);
            assert!(members[1 - away].marked() > 0);
            let mut expected = [5, 5];
            expected[away] = 0;
            assert_eq!(left.each_ref().map(version), expected);

            let mut machine = Machine::boot(&left, 603).unwrap();
            machine.whole();
            machine.put(6).unwrap();
            machine.shutdown();
            assert_eq!(compared(&left, "whole again"), Counts::Both);
            assert_eq!(left.each_ref().map(version), [6, 6]);
        }
        // One went on alone, and the other one too, but after both had begun once more.
        let [early, late] = [605, 606].map(|seed| snapshots(&disks, seed));
        for which in [&early[..1], &late[..], &late[1..]] {
            let mut machine = Machine::boot(which, 607).unwrap();
            machine.put(7).unwrap();
            machine.shutdown();
        }
        let mut mixed = [early[0].clone(), late[1].clone()];
        for _ in 0..2 {
            assert_eq!(
                compared(&mixed, "apart since different epochs"),
                Counts::Neither
            );
            mixed.reverse();
        }
        for (disk, version) in disks.iter().zip(1..) {
            let mut machine = Machine::boot(std::slice::from_ref(disk), 604).unwrap();
            machine.put(version).unwrap();
            machine.shutdown();
        }
        assert_eq!(compared(&disks, "written apart"), Counts::Neither);
        assert_eq!(disks.each_ref().map(version), [1, 2]);
    }
}

/// Of a disk of which the newest record is damaged, the one before counts.
#[test]
fn the_reader_and_the_library_say_the_same_where_a_record_is_damaged() {
    let whole = pair(620);
    let apart = [0, 1].map(|away| {
        let left = snapshots(&whole, 621);
        let mut machine = Machine::boot(&[left[1 - away].clone()], 622).unwrap();
        machine.put(5).unwrap();
        machine.shutdown();
        left
    });
    let [first_away, second_away] = apart;
    for (disks, what) in [
        (whole, "whole"),
        (first_away, "the first was away"),
        (second_away, "the second was away"),
    ] {
        for (number, home) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let damaged = snapshots(&disks, 623);
            let before = members(&damaged)[number].generation;
            damaged[number].flip_bit(BlockIndex(RECORDS[home]), 100 * 8);
            let is_older = before % 2 == home as u64;
            assert_eq!(members(&damaged)[number].generation < before, is_older);
            compared(&damaged, &format!("{what}, disk {number}, home {home}"));
        }
        // Nor need a superblock be readable.
        let counted = compared(&disks, what);
        for disk in [0, 1] {
            let damaged = snapshots(&disks, 624);
            for block in [0, 15] {
                damaged[disk].flip_bit(BlockIndex(block), 100 * 8);
            }
            let what = format!("{what}, superblocks of disk {disk}");
            assert_eq!(compared(&damaged, &what), counted, "{what}");
        }
    }
}

/// Also after a power cut at any moment: a disk goes away, comes back, and gets what it lacks; another one gets everything.
#[test]
fn the_reader_and_the_library_say_the_same_after_a_power_cut() {
    let mut random = Random::new(seed(610));
    let base = pair(610);
    let mut said = std::collections::BTreeMap::new();
    for away in [0, 1] {
        let disks = snapshots(&base, 611);
        let timeline = trace(&disks);
        let mut machine = Machine::boot(&[disks[1 - away].clone()], 612).unwrap();
        machine.put(1).unwrap();
        machine.shutdown();
        let mut machine = Machine::boot(&disks, 613).unwrap();
        machine.put(2).unwrap();
        machine.whole();
        machine.put(3).unwrap();
        machine.shutdown();
        let timeline = timeline.borrow().clone();
        for (moment, at) in timeline.into_iter().enumerate() {
            let left = cut(&disks, at, &mut random);
            let what = format!("away {away}, moment {moment}, {at:?}");
            *said
                .entry(format!("{:?}", compared(&left, &what)))
                .or_insert(0) += 1;
            // A disk from another time: of before, or of an earlier moment.
            let mut mixed = left;
            mixed[random.index(2)] = base[random.index(2)].snapshot(1);
            *said
                .entry(format!("{:?}", compared(&mixed, &what)))
                .or_insert(0) += 1;
        }
    }
    println!("{said:?}");
    assert!(
        said.len() == 4 && said.values().all(|times| *times > 5),
        "{said:?}"
    );
}

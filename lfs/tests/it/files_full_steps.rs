//! Every operation on a disk that is full, full but for one block, full but for two, and so on until it succeeds.
//!
//! Invariants: an operation is done, or it says that there is no space and nothing of it shows; it never says
//! anything else and never waits for ever. The tree is that of the model then, an audit finds no contradiction, and
//! neither does a check of the image. What takes something away always succeeds. When the files that fill the disk
//! are gone, so is the error.
//!
//! This is so with and without a snapshot that keeps what was there, where the blocks that were freed lie together
//! and where only the cleaner can make segments of them, and where the cleaner cannot, because its reads fail.

use crate::common::full::{Case, Full, Setting, UNITS_MAX, cases, check, full};
use crate::common::seed;
use lfs::FileError;

/// Does `case` with more and more space until it is done; how many units that took.
fn enumerate(full: &Full, setting: Setting, case: &Case) -> usize {
    for units in (0..=UNITS_MAX).chain([3 * UNITS_MAX]) {
        let what = format!("{} with {units} units, {setting:?}", case.name);
        let mut machine = full.boot(setting, units);
        let worker = machine.worker();
        let operations = case.operations.clone();
        let result = machine.run(async move { worker.transact(&operations).await });
        machine.disk.clear_faults();
        machine.compare(&what);
        check(&mut machine, &what);
        match result {
            Ok(()) => return units,
            Err(error) => {
                assert_eq!(error, FileError::NoSpace, "{what}");
                assert!(!case.always, "{what}");
            }
        }
    }
    panic!("{}: no space on an empty disk, {setting:?}", case.name);
}

fn enumerate_all(snapshot: bool, scattered: bool, cleaner: bool) {
    let setting = Setting { scattered, cleaner };
    let full = full(snapshot, seed(7));
    let refused = cases().into_iter().map(|case| {
        let units = enumerate(&full, setting, &case);
        println!("{}: {units} units", case.name);
        usize::from(units > 0)
    });
    // Else the disk was not full.
    assert!(refused.sum::<usize>() > 10);
}

#[test]
fn every_operation_at_every_step_of_a_full_disk() {
    enumerate_all(false, false, true);
}

#[test]
fn every_operation_where_only_the_cleaner_brings_space() {
    enumerate_all(false, true, true);
}

#[test]
fn every_operation_where_the_cleaner_cannot_read() {
    enumerate_all(false, true, false);
}

#[test]
fn every_operation_at_every_step_of_a_full_disk_with_a_snapshot() {
    enumerate_all(true, false, true);
}

#[test]
fn every_operation_where_only_the_cleaner_brings_space_with_a_snapshot() {
    enumerate_all(true, true, true);
}

#[test]
fn every_operation_where_the_cleaner_cannot_read_with_a_snapshot() {
    enumerate_all(true, true, false);
}

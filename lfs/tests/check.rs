//! Checking and repairing images.
//!
//! - What the real code leaves, in order or by a power cut, is clean.
//! - Every kind of damage that can be made here is found, said with the file it hits, and does not keep the rest
//!   from being checked.
//! - A repair leaves an image that is clean and holds the same files.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test may panic"
)]

mod common;

use common::images::{Recipe, contents, image};
use common::{mount, seed};
use lfs::sim::{Executor, Random, SimDisk};
use lfs::{
    BLOCK_SIZE, BlockIndex, CheckEvent, CheckOptions, CheckSummary, Finding, Problem, Repair,
    RepairOutcome, Severity,
};

const RECIPE: Recipe = Recipe {
    segments: 320,
    steps: 400,
    orderly: true,
    seed: 1,
};

fn check_with(disk: &SimDisk, options: CheckOptions) -> (CheckSummary, Vec<Finding>) {
    let disk = disk.clone();
    Executor::new(0).run(async move {
        let mut findings = Vec::new();
        let mut note = |event: CheckEvent<'_>| {
            if let CheckEvent::Finding(finding) = event {
                findings.push(finding.clone());
            }
        };
        let summary = lfs::check(&disk, options, &mut note).await;
        (summary, findings)
    })
}

fn check(disk: &SimDisk) -> (CheckSummary, Vec<Finding>) {
    let data = true;
    let options = CheckOptions {
        data,
        ..CheckOptions::default()
    };
    check_with(disk, options)
}

fn repair(disk: &SimDisk) -> RepairOutcome {
    let disk = disk.clone();
    let mut executor = Executor::new(0);
    let clock = executor.clock();
    executor
        .run(async move { lfs::repair(&disk, &clock, CheckOptions::default(), &mut |_| ()).await })
        .unwrap()
}

#[test]
fn what_the_file_system_leaves_is_clean() {
    let first = seed(100);
    for round in 0..12 {
        let recipe = Recipe {
            orderly: round % 2 == 0,
            steps: 100 + 60 * round,
            seed: first + round as u64,
            ..RECIPE
        };
        let (disk, contents) = image(recipe);
        let (summary, findings) = check(&disk);
        for finding in &findings {
            println!("{finding}");
        }
        assert!(
            summary.is_clean() && summary.mounts,
            "{recipe:?}: {summary:?}"
        );
        assert!(summary.inodes as usize > contents.len() / 2);
    }
}

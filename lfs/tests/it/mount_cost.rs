//! What a mount after a power cut reads.
//!
//! Invariants: of the log at most twice the replay window and what was decided on ahead, whatever else is on the disk, and in
//! requests that grow; of the trees only what the replayed commits touch.

use crate::common;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::common::world::random_bytes;
use crate::common::{FORMAT, ID, SEGMENT_BLOCKS, mount};
use lfs::sim::{Executor, Random, Request, SimDisk};
use lfs::{CommitNumber, FileKind, FormatOptions, NewInode, ROOT};

/// Segments of the disk.
const SEGMENTS: usize = 800;
/// Blocks before the first segment.
const HEAD_BLOCKS: u64 = 136;

/// What a mount read.
#[derive(Debug)]
struct Cost {
    requests: usize,
    blocks: usize,
    /// Requests and blocks of whole segments.
    log_requests: usize,
    log_blocks: usize,
    /// Commits that were replayed.
    commits: usize,
}

/// The cost of a mount with a window of so many segments, `files` of 20 KiB on the disk, and all the log since the
/// last checkpoint that the window allows without another one.
fn cost_of_mount(window: u32, files: u64) -> Cost {
    let disk = SimDisk::new(SEGMENTS * SEGMENT_BLOCKS, 1);
    let target = disk.clone();
    let options = FormatOptions {
        log_segments: window,
        ..FORMAT
    };
    let mut executor = Executor::new(1);
    executor.run(async move { common::key::format(&target, options, ID).await.unwrap() });
    let fs = mount(&mut executor, &disk).unwrap().filesystem;
    let clock = executor.clock();
    let events = Rc::new(Cell::new(0));
    let (noted, written) = (Rc::clone(&events), disk.clone());
    executor.run(async move {
        let mut random = Random::new(1);
        let write = |name: String, bytes: Vec<u8>| {
            let fs = Rc::clone(&fs);
            async move {
                let write = fs.transact(5, |transaction| {
                    let mut files = transaction.files();
                    let inode = match files.lookup(ROOT, name.as_bytes()) {
                        Ok(inode) => inode,
                        Err(lfs::FileError::NotFound) => {
                            let new = NewInode::new(FileKind::File, 0o644);
                            files.create(ROOT, name.as_bytes(), &new)?
                        }
                        Err(error) => return Err(error),
                    };
                    files.write(inode, 0, &bytes)
                });
                let ((), commit) = write.await.unwrap();
                fs.wait_durable(commit).await.unwrap();
            }
        };
        for number in 0..files {
            write(format!("file {number}"), random_bytes(&mut random, 20_000)).await;
        }
        fs.checkpoint(CommitNumber(0), &[], &[], &clock)
            .await
            .unwrap();
        // The last moment before the log has become so long that another checkpoint was made.
        let made = fs.counters().checkpoints;
        let mut number = 0;
        loop {
            let name = format!("file {}", number % 10);
            write(name, random_bytes(&mut random, 6_000)).await;
            if fs.counters().checkpoints > made {
                break;
            }
            noted.set(written.event_count());
            number += 1;
        }
    });
    let disk = disk.crash_at(events.get()).disk(|_| false, 1);
    let reads = Rc::new(RefCell::new(Vec::new()));
    let noted = Rc::clone(&reads);
    disk.set_faults(move |request| {
        if let Request::Read(start, blocks) = request {
            noted.borrow_mut().push((start.0, blocks));
        }
        None
    });
    let mut recovering = Executor::new(2);
    let commits = recovering.run(async move {
        let mut recovery = common::key::open(disk).await.unwrap();
        let mut commits = 0;
        while recovery.next_commit().await.unwrap().is_some() {
            commits += 1;
        }
        recovery.finish().await.unwrap();
        commits
    });
    let reads = reads.borrow();
    let log = |read: &&(u64, usize)| read.0 >= HEAD_BLOCKS && read.1.is_multiple_of(SEGMENT_BLOCKS);
    Cost {
        requests: reads.len(),
        blocks: reads.iter().map(|read| read.1).sum(),
        log_requests: reads.iter().filter(log).count(),
        log_blocks: reads.iter().filter(log).map(|read| read.1).sum(),
        commits,
    }
}

#[test]
fn a_mount_reads_the_window_in_few_requests_whatever_is_on_the_disk() {
    let mut costs = Vec::new();
    for (window, files) in [(16, 30), (16, 300), (64, 30), (64, 300)] {
        let cost = cost_of_mount(window, files);
        println!("window of {window}, {files} files: {cost:?}");
        // The window and the two segments decided on, and as much read ahead.
        let most = 2 * (window as usize + 2) * SEGMENT_BLOCKS;
        assert!(cost.log_blocks <= most, "{cost:?}");
        assert!(
            cost.log_blocks * 3 >= window as usize * SEGMENT_BLOCKS,
            "{cost:?}"
        );
        assert!(cost.commits >= window as usize, "{cost:?}");
        // One, two, four … segments, up to a MiB; and where the log jumps, again.
        let segments = cost.log_blocks / SEGMENT_BLOCKS;
        assert!(cost.log_requests <= 4 + segments / 4, "{cost:?}");
        assert!(cost.requests <= cost.log_requests + 24, "{cost:?}");
        costs.push(cost);
    }
    for pair in costs.chunks(2) {
        let more = pair[1].blocks.abs_diff(pair[0].blocks);
        assert!(more <= pair[0].blocks / 5 + 12, "{pair:?}");
    }
    let (small, large) = (costs[1].log_blocks, costs[3].log_blocks);
    assert!((small * 3..=small * 5).contains(&large), "{small}, {large}");
}

//! A directory of a million names.
//!
//! Invariants: what a name costs does not depend on how many there are, but for the height of the tree: nodes read to find it,
//! blocks written to make or remove it. Going through all of them reads each node once. A power cut loses none that was
//! acknowledged. All of it is counted; nothing is timed.

use crate::common;

use std::cell::Cell;
use std::rc::Rc;

use crate::common::key::key;
use crate::common::{ID, TestFileSystem, mount, seed};
use lfs::sim::{Executor, Random, Request, SimDisk};
use lfs::{
    BLOCK_SIZE, CheckOptions, FileKind, FormatOptions, InodeNumber, NewInode, ROOT, Transaction,
};

const NAMES: u64 = 1_000_000;

/// Names created between two mounts: a simulated disk remembers all that was written to it.
const NAMES_PER_MOUNT: u64 = 50_000;

/// Names in one commit: it runs again for each node that is not in memory.
const BATCH: u64 = 10;

const DISK_BYTES: u64 = 4 << 30;

/// Levels of the tree at most, the leaves included: of nodes that are half full with the shortest entries.
const LEVELS_MAX: u64 = 4;

struct Machine {
    executor: Executor,
    disk: SimDisk,
    filesystem: Rc<TestFileSystem>,
    reads: Rc<Cell<u64>>,
}

impl Machine {
    fn boot(disk: SimDisk, seed: u64) -> Self {
        let mut executor = Executor::new(seed);
        let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
        let reads = Rc::new(Cell::new(0));
        let counted = Rc::clone(&reads);
        disk.set_faults(move |request| {
            if let Request::Read(_, blocks) = request {
                counted.set(counted.get() + blocks as u64);
            }
            None
        });
        Self {
            executor,
            disk,
            filesystem,
            reads,
        }
    }

    /// Shuts down and starts again.
    fn reboot(mut self, seed: u64) -> Self {
        let (fs, clock) = (Rc::clone(&self.filesystem), self.executor.clock());
        self.executor
            .run(async move { fs.shutdown(&clock).await.unwrap() });
        Self::boot(self.disk.snapshot(seed), seed)
    }

    /// Blocks written so far.
    fn written(&self) -> u64 {
        self.filesystem.counters().bytes_written / BLOCK_SIZE as u64
    }

    /// Does something with each of these numbers, `BATCH` in a commit; durable on return.
    fn change(
        &mut self,
        numbers: impl Iterator<Item = u64> + 'static,
        change: impl Fn(&mut Transaction<'_>, &[u8]) -> Result<(), lfs::FileError> + 'static,
    ) {
        let fs = Rc::clone(&self.filesystem);
        self.executor.run(async move {
            let numbers = numbers.collect::<Vec<_>>();
            for some in numbers.chunks(BATCH as usize) {
                let done = fs.transact(0, |tx| {
                    let mut names = some.iter().map(|number| name(*number));
                    names.try_for_each(|name| change(tx, &name))
                });
                done.await.unwrap();
            }
            fs.wait_durable(fs.appended()).await.unwrap();
        });
    }

    /// Whether each of these numbers has a name, each looked up by itself; and the most blocks that one read.
    fn look_up(&mut self, numbers: Vec<u64>) -> (Vec<bool>, u64) {
        let (fs, reads) = (Rc::clone(&self.filesystem), Rc::clone(&self.reads));
        self.executor.run(async move {
            let (mut found, mut most) = (Vec::new(), 0);
            for number in numbers {
                let before = reads.get();
                let lookup = fs.read(|tx| tx.files().lookup(directory(), &name(number)));
                found.push(lookup.await.is_ok());
                most = most.max(reads.get() - before);
            }
            (found, most)
        })
    }
}

fn directory() -> InodeNumber {
    InodeNumber(ROOT.0 + 1)
}

fn name(number: u64) -> Vec<u8> {
    format!("name-{number}").into_bytes()
}

#[test]
fn a_million_names_cost_a_million_times_what_one_costs() {
    let seed = seed(12);
    let mut random = Random::new(seed);
    let disk = SimDisk::new((DISK_BYTES / BLOCK_SIZE as u64) as usize, seed);
    let (target, options) = (disk.clone(), FormatOptions::for_device_bytes(DISK_BYTES));
    Executor::new(seed).run(async move {
        common::key::format(&target, options, ID).await.unwrap();
    });
    let mut machine = Machine::boot(disk.snapshot(seed), seed);
    machine.change(std::iter::once(0), |tx, _| {
        let new = NewInode::new(FileKind::Directory, 0o755);
        tx.files().create(ROOT, b"large", &new).map(drop)
    });

    // Made, while the directory becomes larger and larger.
    let file = NewInode::new(FileKind::File, 0o644);
    let mut blocks_per_name = Vec::new();
    for first in (0..NAMES).step_by(NAMES_PER_MOUNT as usize) {
        let new = file.clone();
        machine.change(first..first + NAMES_PER_MOUNT, move |tx, name| {
            tx.files().create(directory(), name, &new).map(drop)
        });
        blocks_per_name.push(machine.written() as f64 / NAMES_PER_MOUNT as f64);
        machine = machine.reboot(seed + first);
    }
    println!("blocks written for each name made: {blocks_per_name:.2?}");
    assert!(blocks_per_name.iter().all(|&blocks| blocks < 1.5));

    // Looked up, with nothing in memory: a way down, and no more.
    let numbers = (0..2000).map(|_| random.below(2 * NAMES));
    let numbers = numbers.collect::<Vec<_>>();
    let expected = numbers.iter().map(|&number| number < NAMES);
    let expected = expected.collect::<Vec<_>>();
    let before = machine.reads.get();
    let (found, most) = machine.look_up(numbers);
    assert_eq!(found, expected);
    let each = (machine.reads.get() - before) as f64 / found.len() as f64;
    println!("blocks read for each name looked up: {each:.2}, at most {most}");
    assert!(most <= 2 * LEVELS_MAX && each < 3.0);

    // Listed to the end, each once; each leaf is read once, but for those that lie between two parts.
    let (fs, before) = (Rc::clone(&machine.filesystem), machine.reads.get());
    let listed = machine.executor.run(async move {
        let mut listed = vec![0_u8; NAMES as usize];
        let mut after = Some(0);
        while let Some(cookie) = after {
            let some = fs.read(|tx| tx.files().read_dir(directory(), cookie, 1000));
            let some = some.await.unwrap();
            for entry in some.entries {
                let number = String::from_utf8(entry.name).unwrap();
                let number = number.strip_prefix("name-").unwrap();
                listed[number.parse::<usize>().unwrap()] += 1;
            }
            after = some.next;
        }
        listed
    });
    assert!(listed.iter().all(|&times| times == 1));
    let each = (machine.reads.get() - before) as f64 / NAMES as f64;
    println!("blocks read for each name listed: {each:.3}");
    assert!(each < 0.02);

    // Some are removed.
    let before = machine.written();
    let removed = (0..NAMES).step_by(50).collect::<Vec<_>>();
    let count = removed.len() as u64;
    machine.change(removed.into_iter(), |tx, name| {
        tx.files().unlink(directory(), name)
    });
    let each = (machine.written() - before) as f64 / count as f64;
    println!("blocks written for each name removed: {each:.2}");
    assert!(each < 6.0);

    // The plug is pulled: what was acknowledged is there, and so is all that was there before.
    let crash = machine.disk.crash_at(machine.disk.event_count());
    let disk = crash.disk(|_| random.one_in(2), seed);
    let mut machine = Machine::boot(disk, seed);
    let numbers = (0..2000).map(|_| random.below(NAMES)).collect::<Vec<_>>();
    let expected = numbers.iter().map(|&number| number % 50 != 0);
    let expected = expected.collect::<Vec<_>>();
    assert_eq!(machine.look_up(numbers).0, expected);
    let fs = Rc::clone(&machine.filesystem);
    let size = machine
        .executor
        .run(async move { fs.read(|tx| tx.files().stat(directory())).await });
    assert_eq!(size.unwrap().size, NAMES - count);

    let machine = machine.reboot(seed);
    let disk = machine.disk.snapshot(seed);
    let summary = Executor::new(seed).run(async move {
        let options = CheckOptions {
            key: key(),
            ..CheckOptions::default()
        };
        lfs::check(&disk, options, &mut |event| {
            if let lfs::CheckEvent::Finding(finding) = event {
                println!("{finding}");
            }
        })
        .await
    });
    assert!(summary.is_clean() && summary.mounts, "{summary:?}");
    assert_eq!(summary.passes, 1);
}

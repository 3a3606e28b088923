//! How a scrub treats those who use the file system meanwhile.
//!
//! - It reads no faster than its rate, whatever the sizes of what it reads, and the rate can be changed on the way.
//! - While others wait for the disk it is one step in a tenth of a second; it goes on all the same.

use std::cell::Cell;
use std::rc::Rc;

use crate::common::{TestFileSystem, formatted, mount};
use embassy_futures::select::{Either, select};
use lfs::sim::{Executor, Random, Request, SimClock, SimDisk};
use lfs::{Clock, FileKind, NewInode, ROOT, ScrubOptions, ScrubStatus};

/// Bytes of files that are scrubbed.
const BYTES: usize = 1 << 20;

struct Machine {
    executor: Executor,
    filesystem: Rc<TestFileSystem>,
    clock: SimClock,
    disk: SimDisk,
}

impl Machine {
    fn new() -> Self {
        let disk = formatted(128, 1);
        let mut executor = Executor::new(1);
        let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
        let clock = executor.clock();
        let mut machine = Self {
            executor,
            filesystem,
            clock,
            disk,
        };
        let mut random = Random::new(1);
        for number in 0..BYTES >> 14 {
            let content = (0..1 << 14).map(|_| random.next_u64() as u8);
            machine.write(number, content.collect());
        }
        machine
    }

    fn write(&mut self, number: usize, content: Vec<u8>) {
        let filesystem = Rc::clone(&self.filesystem);
        self.executor.run(async move {
            let made = filesystem.transact(0, |transaction| {
                let mut files = transaction.files();
                let new = NewInode::new(FileKind::File, 0o644);
                let file = files.create(ROOT, number.to_string().as_bytes(), &new)?;
                files.write(file, 0, &content)
            });
            let ((), commit) = made.await.unwrap();
            filesystem.wait_durable(commit).await.unwrap();
        });
    }

    /// Scrubs for at most so long; how far it came, and after how long it ended.
    fn scrub(&mut self, rate: Option<u64>, ms: u64) -> (ScrubStatus, Option<u64>) {
        let (filesystem, clock) = (Rc::clone(&self.filesystem), self.clock.clone());
        self.executor.run(async move {
            let started = clock.monotonic_us();
            let options = ScrubOptions {
                bytes_per_second: rate,
                read_only: false,
            };
            let mut report = |finding: &lfs::Finding, _| panic!("{finding}");
            let scrub = filesystem.scrub(&clock, options, &mut report);
            let ended = match select(scrub, clock.sleep_ms(ms)).await {
                Either::First(ended) => {
                    ended.unwrap();
                    Some((clock.monotonic_us() - started) / 1000)
                }
                Either::Second(()) => None,
            };
            (filesystem.scrub_status(), ended)
        })
    }
}

/// What took less than a millisecond by the rate was read as fast as it went, and that was nearly everything.
#[test]
fn a_scrub_keeps_to_its_rate() {
    let mut machine = Machine::new();
    let (status, _) = machine.scrub(None, 1000);
    assert!(status.done_bytes >= BYTES as u64);
    for rate in [100_000, 1 << 20, 64 << 20] {
        let (status, ended) = machine.scrub(Some(rate), 60_000);
        let expected_ms = status.done_bytes * 1000 / rate;
        let ended_ms = ended.unwrap();
        // It does not rest behind the last step, and catches up on a tenth of a second.
        assert!(
            ended_ms + 150 + expected_ms / 20 >= expected_ms,
            "{rate}: {ended_ms} ms"
        );
        assert!(
            ended_ms <= expected_ms + expected_ms / 20 + 5,
            "{rate}: {ended_ms} ms"
        );
    }
}

/// A scrub that was resting slept on by the rate it had, be that for days.
#[test]
fn a_rate_counts_from_when_it_is_set() {
    let mut machine = Machine::new();
    // A step takes hours.
    for slow in [1, 1000] {
        let (filesystem, clock) = (Rc::clone(&machine.filesystem), machine.clock.clone());
        machine.executor.spawn(async move {
            clock.sleep_ms(10_000).await;
            filesystem.set_scrub_rate(Some(1 << 30));
        });
        let (_, ended) = machine.scrub(Some(slow), 36_000_000);
        let ended_ms = ended.unwrap();
        assert!((10_000..12_000).contains(&ended_ms), "{ended_ms} ms");
    }
}

#[test]
fn a_scrub_lets_those_go_first_who_wait_for_the_disk() {
    for reader in [false, true] {
        let mut machine = Machine::new();
        let reads = Rc::new(Cell::new(0));
        let counted = Rc::clone(&reads);
        machine.disk.set_faults(move |request| {
            counted.set(counted.get() + usize::from(matches!(request, Request::Read(..))));
            None
        });
        // Somebody waits, and goes on waiting.
        let mut taken = false;
        machine.disk.set_holds(move |request| {
            let wanted = match request {
                Request::Read(..) => reader,
                Request::Write(..) => false,
                Request::Flush => !reader,
            };
            wanted && !core::mem::replace(&mut taken, true)
        });
        let filesystem = Rc::clone(&machine.filesystem);
        machine.executor.spawn(async move {
            if reader {
                let read = filesystem.read(|transaction| {
                    let file = transaction.files().lookup(ROOT, b"1")?;
                    transaction.files().read(file, 0, 1)
                });
                read.await.unwrap();
            } else {
                let commit = filesystem.append(b"somebody waits for this").unwrap();
                filesystem.wait_durable(commit).await.unwrap();
            }
        });
        let clock = machine.clock.clone();
        machine.executor.run(async move { clock.sleep_ms(1).await });
        assert_eq!(machine.disk.held_count(), 1);
        reads.set(0);
        let (status, ended) = machine.scrub(None, 10_000);
        assert!(ended.is_none(), "{status:?}");
        // A step in 100 ms: no more, and no less.
        assert!((95..=101).contains(&reads.get()), "{} reads", reads.get());
        machine.disk.release();
        let (status, ended) = machine.scrub(None, 1000);
        assert!(ended.is_some() && status.unrepairable == 0, "{status:?}");
    }
}

//! Power cuts under commits, objects and checkpoints on a disk that is nearly full.
//!
//! Invariants, checked after each recovery: the mount succeeds; the commits found are those that were
//! made, in order, up to one that is not older than any acknowledged; every object that the recovered
//! checkpoint names reads back as it was written. And a format that is cut short is begun anew.

use crate::common;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::common::{
    FORMAT, ID, SEGMENT_BLOCKS, TestFileSystem, formatted, formatted_of_any_kind, mount, seed,
    try_mount,
};
use lfs::sim::{Crash, Executor, Random, Request, SimClock, SimDisk};
use lfs::{Clock, CommitNumber, Content, Notify, ObjectId, ObjectWriteError};

/// What a workload did, as far as a crash may show.
#[derive(Default)]
struct History {
    payloads: BTreeMap<CommitNumber, Vec<u8>>,
    /// Durable commits, with the number of disk events after which they were known to be.
    acknowledged: Vec<(CommitNumber, usize)>,
    /// Content of every object ever finished.
    objects: BTreeMap<ObjectId, Vec<u8>>,
}

fn payload(random: &mut Random, max: u64) -> Vec<u8> {
    let byte = random.next_u64().to_le_bytes()[0];
    vec![byte; usize::try_from(random.below(max)).unwrap()]
}

/// Commits at random, and waits for some of them.
async fn commit(
    filesystem: Rc<TestFileSystem>,
    disk: SimDisk,
    history: Rc<RefCell<History>>,
    seed: u64,
) {
    let mut random = Random::new(seed);
    for _ in 0..120 {
        filesystem.admit(|| false).await;
        let size = if random.one_in(12) { 40_000 } else { 1500 };
        let payload = payload(&mut random, size);
        let number = filesystem.append(&payload).unwrap();
        history.borrow_mut().payloads.insert(number, payload);
        if random.one_in(2) {
            filesystem.wait_durable(number).await.unwrap();
            history
                .borrow_mut()
                .acknowledged
                .push((number, disk.event_count()));
        }
    }
}

/// Writes objects until the disk is full, drops some, makes checkpoints; for ever.
async fn churn(
    filesystem: Rc<TestFileSystem>,
    history: Rc<RefCell<History>>,
    clock: SimClock,
    seed: u64,
) {
    let mut random = Random::new(seed);
    let mut kept: Vec<ObjectId> = Vec::new();
    loop {
        while kept.len() > 3 || (!kept.is_empty() && random.one_in(3)) {
            kept.swap_remove(random.index(kept.len()));
        }
        for _ in 0..=random.below(3) {
            let bytes = payload(&mut random, 120_000);
            let mut object = filesystem.create_object().unwrap();
            match common::put_all(&mut object, &bytes).await {
                Ok(_) => {}
                Err(ObjectWriteError::Full) => break,
                Err(error) => panic!("{error}"),
            }
            match object.finish().await {
                Ok(id) => {
                    history.borrow_mut().objects.insert(id, bytes);
                    kept.push(id);
                }
                Err(ObjectWriteError::Full) => break,
                Err(error) => panic!("{error}"),
            }
        }
        let horizon = filesystem.durable();
        let manifest = kept
            .iter()
            .flat_map(|id| id.0.to_le_bytes())
            .collect::<Vec<_>>();
        filesystem
            .checkpoint(horizon, &kept, &manifest, &clock)
            .await
            .unwrap();
    }
}

fn check(disk: &SimDisk, history: &History, events: usize, context: &str) {
    let mut executor = Executor::new(events as u64);
    let mounted = mount(&mut executor, disk).unwrap_or_else(|error| panic!("{context}: {error}"));
    let mut expected = history
        .payloads
        .range(CommitNumber(mounted.horizon.0 + 1)..);
    for (number, payload) in &mounted.commits {
        assert_eq!(expected.next(), Some((number, payload)), "{context}");
    }
    let last = mounted
        .commits
        .last()
        .map_or(mounted.horizon, |(number, _)| *number);
    assert_eq!(mounted.filesystem.durable(), last, "{context}");
    let acknowledged = history.acknowledged.iter().filter(|(_, at)| *at <= events);
    let newest = acknowledged
        .map(|(number, _)| *number)
        .max()
        .unwrap_or_default();
    assert!(
        last >= newest,
        "{context}: {newest:?} was acknowledged, found {last:?}"
    );
    let ids = mounted
        .manifest
        .chunks_exact(8)
        .map(|id| ObjectId(u64::from_le_bytes(id.try_into().unwrap())));
    for id in ids {
        let filesystem = Rc::clone(&mounted.filesystem);
        let bytes =
            executor.run(async move { common::read_object(&filesystem, id).await.unwrap() });
        assert!(
            history.objects.get(&id) == Some(&bytes),
            "{context}: {id:?} is not as written"
        );
    }
}

/// Calls `check` with a choice of what `crash` can leave; how often.
fn outcomes(crash: &Crash, random: &mut Random, mut check: impl FnMut(SimDisk, String)) -> usize {
    let sectors = crash.open_sectors();
    check(crash.disk(|_| false, 0), "none".into());
    check(crash.disk(|_| true, 0), "all".into());
    for sample in 0..8 {
        let cut = random.index(sectors.max(1));
        let name = format!("sample {sample}, cut {cut} of {sectors}");
        let disk = match sample % 4 {
            0 => crash.disk(|sector| sector < cut, 0),
            1 => crash.disk(|sector| sector >= cut, 0),
            2 => crash.disk(|sector| sector / 8 != cut / 8, 0),
            _ => crash.disk(|_| random.one_in(2), 0),
        };
        check(disk, name);
    }
    10
}

#[test]
fn commits_objects_and_checkpoints_survive_power_cuts_on_a_nearly_full_disk() {
    let seed = seed(21);
    let mut recoveries = 0;
    for round in 0..6 {
        let mut random = Random::new(seed + round);
        let disk = formatted_of_any_kind(72, random.next_u64());
        let mut executor = Executor::new(random.next_u64());
        let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
        let history = Rc::new(RefCell::new(History::default()));
        let clock = executor.clock();
        let churn = churn(
            Rc::clone(&filesystem),
            Rc::clone(&history),
            clock,
            random.next_u64(),
        );
        executor.spawn(churn);
        for _ in 0..2 {
            let next = random.next_u64();
            let writer = commit(
                Rc::clone(&filesystem),
                disk.clone(),
                Rc::clone(&history),
                next,
            );
            executor.run(writer);
        }
        assert!(
            filesystem.counters().checkpoints > 10,
            "{:?}",
            filesystem.counters()
        );
        let history = history.borrow();
        for _ in 0..150 {
            let events = random.index(disk.event_count() + 1);
            let crash = disk.crash_at(events);
            recoveries += outcomes(&crash, &mut random, |disk, name| {
                check(
                    &disk,
                    &history,
                    events,
                    &format!("round {round}, event {events}, {name}"),
                );
            });
        }
    }
    println!("{recoveries} recoveries");
    assert!(recoveries >= 9000);
}

#[test]
fn a_format_that_is_cut_short_is_begun_anew() {
    let seed = seed(22);
    let mut random = Random::new(seed);
    for older in [false, true] {
        let disk = if older {
            formatted(68, seed)
        } else {
            SimDisk::new(68 * 8, seed)
        };
        let target = disk.clone();
        let id = lfs::FileSystemId([1; 16]);
        let formatting = async move { common::key::format(&target, FORMAT, id).await.unwrap() };
        Executor::new(seed).run(formatting);
        let done = disk.event_count();
        for events in 0..=done {
            outcomes(&disk.crash_at(events), &mut random, |disk, name| {
                let probed = disk.clone();
                let content =
                    Executor::new(0).run(async move { lfs::probe(&probed).await.unwrap() });
                let place = format!("older {older}, event {events}, {name}");
                match content {
                    Content::Blank => assert!(events < done, "{place}"),
                    Content::FileSystem => {
                        let mounted = try_mount(&disk);
                        assert!(mounted.is_ok(), "{place}: {:?}", mounted.err());
                    }
                    Content::Unknown => panic!("{place}: neither blank nor a file system"),
                }
            });
        }
    }
    assert_ne!(ID, lfs::FileSystemId([1; 16]));
}

/// A clock on which nothing but a checkpoint sleeps: it says when one does, and how long is the test's to say.
#[derive(Default)]
struct Held {
    asleep: Cell<u32>,
    awake: Cell<u32>,
    changed: Notify,
}

impl Held {
    /// Waits until somebody sleeps.
    async fn somebody_sleeps(&self) {
        let sleeps = || (self.asleep.get() > self.awake.get()).then_some(());
        self.changed.until(sleeps).await;
    }

    fn wake(&self) {
        self.awake.set(self.asleep.get());
        self.changed.notify();
    }
}

impl Clock for Held {
    fn monotonic_us(&self) -> u64 {
        0
    }

    fn unix_us(&self) -> i64 {
        0
    }

    async fn sleep_ms(&self, _: u64) {
        self.asleep.set(self.asleep.get() + 1);
        let number = self.asleep.get();
        self.changed.notify();
        let over = || (self.awake.get() >= number).then_some(());
        self.changed.until(over).await;
    }
}

/// Blocks of segments in the order in which a disk's next objects of a segment each would be written there, once around.
async fn round_of_segments(filesystem: &TestFileSystem, writes: &RefCell<Vec<u64>>) -> Vec<u64> {
    let mut round = Vec::new();
    loop {
        let segment = one_segment(filesystem, writes).await;
        if round.first() == Some(&segment) {
            return round;
        }
        round.push(segment);
    }
}

/// Writes an object of one segment and gives it up: where it was.
async fn one_segment(filesystem: &TestFileSystem, writes: &RefCell<Vec<u64>>) -> u64 {
    let mut object = filesystem.create_object().unwrap();
    common::put_all(&mut object, &[1; 100]).await.unwrap();
    writes.borrow_mut().clear();
    let id = object.finish().await.unwrap();
    filesystem.discard_object(id);
    writes.borrow()[0]
}

/// The table was written with the segment as an object's; when the slot was, the log had it.
#[test]
fn a_segment_that_an_object_gave_up_while_a_checkpoint_was_written_may_be_the_logs() {
    let disk = formatted(72, 1);
    let mut executor = Executor::new(1);
    let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
    let writes = Rc::new(RefCell::new(Vec::new()));
    let seen = Rc::clone(&writes);
    disk.set_faults(move |request| {
        if let Request::Write(block, _) = request {
            seen.borrow_mut().push(block.0);
        }
        None
    });
    let noted = Rc::clone(&writes);
    let (given_up, acknowledged) = executor.run(async move {
        // Segments are taken in turn. One that an object is being written to, so that it comes next when that is given up.
        let mut object = filesystem.create_object().unwrap();
        common::put_all(&mut object, &[2; SEGMENT_BLOCKS * 4096])
            .await
            .unwrap();
        let given_up = noted.borrow()[0];
        let round = round_of_segments(&filesystem, &noted).await;
        for _ in 1..round.len() {
            one_segment(&filesystem, &noted).await;
        }
        let clock = Held::default();
        let checkpoint = filesystem.checkpoint(CommitNumber(0), &[], &[], &clock);
        let meanwhile = async {
            clock.somebody_sleeps().await;
            drop(object);
            let mut newest = CommitNumber(0);
            let mut random = Random::new(1);
            for _ in 0..12 {
                let payload = common::world::random_bytes(&mut random, 10_000);
                newest = filesystem.append(&payload).unwrap();
            }
            clock.wake();
            newest
        };
        let (made, newest) = embassy_futures::join::join(checkpoint, meanwhile).await;
        made.unwrap();
        filesystem.wait_durable(newest).await.unwrap();
        (given_up, newest)
    });
    assert!(
        writes.borrow().contains(&given_up),
        "the log did not come to segment at {given_up}"
    );
    let mounted = try_mount(&disk.snapshot(1)).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(mounted.filesystem.durable(), acknowledged);
}

//! Every workload of up to three operations on a small tree, cut short at every point, with any of what was not
//! flushed on the disk.
//!
//! Invariants, checked for each state that a power cut can leave: the mount succeeds; tree and snapshots are as after some commit
//! not older than any that was acknowledged; an audit finds nothing. Of some states: the file system goes on from
//! there, and the next mount finds what was done.
//!
//! `make test` takes all workloads of up to two operations and some of three. `make crash-campaign` takes all, with
//! other sectors each time, until `SILTSTONE_CRASH_STATES` states were seen, beginning with workload `SILTSTONE_CRASH_FROM`, on
//! `SILTSTONE_CRASH_JOBS` threads. Both follow `SILTSTONE_SEED`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic, and its numbers are small"
)]

mod common;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use common::check::check;
use common::operation::{HANDLES, Observed, Operation, Target, TreePath, observe};
use common::posix::Model;
use common::world::{Machine, Worker, World, hash_name, random_bytes, same};
use common::{formatted, seed};
use lfs::sim::{Crash, Executor, Random, SimDisk};
use lfs::{CommitNumber, FileKind, Isolation, ItemKind, NewInode, ROOT, RenameFlags, XattrMode};

/// Something a workload is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Create,
    Mkdir,
    Symlink,
    Overwrite,
    OverwriteInside,
    Append,
    WriteSmall,
    WriteMuch,
    WriteSparse,
    TruncateDown,
    TruncateToNothing,
    TruncateUp,
    Punch,
    RenameOver,
    RenameDirectory,
    Exchange,
    Link,
    Unlink,
    UnlinkMuch,
    Rmdir,
    SetXattr,
    SetLargeXattr,
    SetAttributes,
    Several,
    CreateSnapshot,
    DeleteSnapshot,
    Fsync,
    Checkpoint,
}

const ACTS: [Act; 28] = [
    Act::Create,
    Act::Mkdir,
    Act::Symlink,
    Act::Overwrite,
    Act::OverwriteInside,
    Act::Append,
    Act::WriteSmall,
    Act::WriteMuch,
    Act::WriteSparse,
    Act::TruncateDown,
    Act::TruncateToNothing,
    Act::TruncateUp,
    Act::Punch,
    Act::RenameOver,
    Act::RenameDirectory,
    Act::Exchange,
    Act::Link,
    Act::Unlink,
    Act::UnlinkMuch,
    Act::Rmdir,
    Act::SetXattr,
    Act::SetLargeXattr,
    Act::SetAttributes,
    Act::Several,
    Act::CreateSnapshot,
    Act::DeleteSnapshot,
    Act::Fsync,
    Act::Checkpoint,
];

fn at(path: &str) -> TreePath {
    TreePath {
        base: None,
        bytes: path.into(),
    }
}

fn new(kind: FileKind, target: &str) -> NewInode {
    NewInode {
        kind,
        mode: 0o644,
        uid: 1,
        gid: 2,
        device: 0,
        target: target.into(),
    }
}

fn create(path: &str, kind: FileKind) -> Operation {
    Operation::Create {
        path: at(path),
        new: new(kind, "a/f"),
    }
}

fn write(path: &str, offset: u64, len: usize, random: &mut Random) -> Operation {
    Operation::Write {
        target: Target::Path(at(path)),
        offset,
        bytes: random_bytes(random, len),
    }
}

fn rename(from: &str, to: &str, exchange: bool) -> Operation {
    Operation::Rename {
        from: at(from),
        to: at(to),
        flags: RenameFlags {
            no_replace: false,
            exchange,
        },
    }
}

fn truncate(size: u64) -> Operation {
    Operation::Truncate {
        target: Target::Path(at("/a/f")),
        size,
    }
}

/// The operations of an act on files, in one transaction.
fn operations(act: Act, number: usize, random: &mut Random) -> Vec<Operation> {
    let target = Target::Path(at("/a/f"));
    let xattr = |len| Operation::SetXattr {
        target: Target::Path(at("/a/f")),
        name: b"user.x".to_vec(),
        value: vec![7; len],
        mode: XattrMode::Any,
    };
    vec![match act {
        Act::Create => create(&format!("/a/n{number}"), FileKind::File),
        Act::Mkdir => create(&format!("/b/d{number}"), FileKind::Directory),
        Act::Symlink => create(&format!("/b/s{number}"), FileKind::Symlink),
        Act::Overwrite => write("/a/f", 0, 4096, random),
        Act::OverwriteInside => write("/a/f", 4000, 300, random),
        Act::Append => write("/a/f", 9000, 5000, random),
        Act::WriteSmall => write("/g", 10, 200, random),
        Act::WriteMuch => write("/a/f", 2000, 40_000, random),
        Act::WriteSparse => write("/a/f", 150_000, 10, random),
        Act::TruncateDown => truncate(100),
        Act::TruncateToNothing => truncate(0),
        Act::TruncateUp => truncate(20_000),
        Act::Punch => Operation::Punch {
            target,
            offset: 1000,
            len: 6000,
        },
        Act::RenameOver => rename("/g", "/a/f", false),
        Act::RenameDirectory => rename("/a", "/b/c", false),
        Act::Exchange => rename("/a/f", "/g", true),
        Act::Link => Operation::Link {
            from: target,
            to: at(&format!("/b/l{number}")),
        },
        Act::Unlink => Operation::Unlink { path: at("/a/f") },
        Act::UnlinkMuch => Operation::Unlink { path: at("/much") },
        Act::Rmdir => Operation::Rmdir { path: at("/b") },
        Act::SetXattr => xattr(20),
        Act::SetLargeXattr => xattr(5000),
        Act::SetAttributes => Operation::SetAttributes {
            target,
            change: lfs::SetAttributes {
                mode: Some(0o600),
                ..lfs::SetAttributes::default()
            },
        },
        _ => {
            let temporary = format!("/a/t{number}");
            return vec![
                create(&temporary, FileKind::File),
                write(&temporary, 0, 6000, random),
                rename(&temporary, "/a/f", false),
                truncate(5000),
            ];
        }
    }]
}

async fn perform(worker: &Worker, act: Act, number: usize) {
    match act {
        Act::CreateSnapshot => worker.create_snapshot_named(format!("s{number}")).await,
        Act::DeleteSnapshot => {
            let first = {
                let world = worker.world.borrow();
                let kept = world.snapshots.iter().find(|s| s.deleted.is_none());
                kept.map(|s| s.name.clone())
            };
            if let Some(name) = first {
                worker.delete_snapshot_named(&name).await;
            }
        }
        Act::Fsync => worker.wait_durable(worker.filesystem.appended()).await,
        Act::Checkpoint => {
            let (horizon, clock) = (CommitNumber(0), &worker.clock);
            let made = worker.filesystem.checkpoint(horizon, &[], &[], clock);
            made.await.unwrap();
        }
        act => {
            let operations = operations(act, number, &mut worker.world.borrow_mut().random);
            // What the workload did before may have made it impossible.
            let _ = worker.transact(&operations).await;
        }
    }
}

/// The tree that workloads begin with, and what is known of it.
fn base(seed: u64) -> (SimDisk, World) {
    let mut machine = Machine::new(formatted(64, seed), seed);
    let worker = machine.worker();
    machine.run(async move {
        for operation in [
            create("/a", FileKind::Directory),
            create("/b", FileKind::Directory),
            create("/a/f", FileKind::File),
            write("/a/f", 0, 9000, &mut Random::new(1)),
            create("/g", FileKind::File),
            write("/g", 0, 100, &mut Random::new(2)),
            create("/much", FileKind::File),
            write("/much", 0, 30_000, &mut Random::new(3)),
            write("/much", 30_000, 30_000, &mut Random::new(4)),
        ] {
            worker.transact(&[operation]).await.unwrap();
        }
        worker.create_snapshot_named("base".to_owned()).await;
    });
    let machine = machine.reboot(seed);
    let world = machine.world.borrow().fork();
    (machine.disk.snapshot(seed), world)
}

/// A workload that was run, and what it promised.
struct Run {
    disk: SimDisk,
    world: World,
    what: String,
    /// What there is to see after each commit, once it was asked for.
    seen: RefCell<BTreeMap<CommitNumber, Rc<Vec<Observed>>>>,
}

/// Runs a workload; with `open`, while one transaction stays open all the time and others come and go.
fn run(base: &(SimDisk, World), acts: &[Act], seed: u64, open: bool) -> Run {
    let mut world = base.1.fork();
    world.random = Random::new(seed);
    let disk = base.0.snapshot(seed);
    let mut machine = Machine::boot(disk, Rc::new(RefCell::new(world)), seed);
    let worker = machine.worker();
    let performed = acts.to_vec();
    machine.run(async move {
        let filesystem = Rc::clone(&worker.filesystem);
        let begun = open.then(|| filesystem.begin(Isolation::Snapshot, 0).unwrap());
        for (number, act) in performed.into_iter().enumerate() {
            perform(&worker, act, number).await;
            if open {
                worker.open_transaction().await;
            }
        }
        worker.wait_durable(worker.filesystem.appended()).await;
        drop(begun);
    });
    let world = machine.world.borrow().fork();
    Run {
        disk: machine.disk.clone(),
        world,
        what: format!("{acts:?}, seed {seed}, open: {open}"),
        seen: RefCell::default(),
    }
}

impl Run {
    fn seen_at(&self, commit: CommitNumber) -> Rc<Vec<Observed>> {
        let (&commit, state) = self.world.states.range(..=commit).next_back().unwrap();
        let mut seen = self.seen.borrow_mut();
        let seen = seen
            .entry(commit)
            .or_insert_with(|| Rc::new(Model::observe(state)));
        Rc::clone(seen)
    }

    /// Checks every state of interest; how many there were.
    fn check_all(&self, random: &mut Random, singles: usize) -> u64 {
        let mut states = 0;
        for events in 0..=self.disk.event_count() {
            let crash = self.disk.crash_at(events);
            for survivors in subsets(&crash, random, singles) {
                let disk = crash.disk(|sector| survivors.contains(sector), 0);
                let what = || format!("{}, event {events}, survivors {survivors:?}", self.what);
                let acknowledged = self.world.acknowledged_at(events);
                self.check(&disk, acknowledged, random.one_in(32), &what);
                states += 1;
            }
        }
        states
    }

    fn check(
        &self,
        disk: &SimDisk,
        acknowledged: CommitNumber,
        go_on: bool,
        what: &dyn Fn() -> String,
    ) {
        let mut executor = Executor::new(0);
        let mounted = disk.clone();
        let mounted = executor.run(async move {
            let mut recovery = common::key::open(mounted).await?;
            while recovery.next_commit().await?.is_some() {}
            recovery.finish().await
        });
        let filesystem = Rc::new(mounted.unwrap_or_else(|error| panic!("{}: {error}", what())));
        let found = filesystem.appended();
        assert!(
            found >= acknowledged,
            "{}: {found:?}, but {acknowledged:?} was promised",
            what()
        );
        let reading = Rc::clone(&filesystem);
        let (tree, snapshots, audit) = executor.run(async move {
            let none = [None; HANDLES];
            let tree = reading.read(|t| observe(&mut t.files(), &none)).await;
            let mut snapshots = Vec::new();
            for info in reading.snapshots() {
                let of = reading.read_snapshot(info.id, |t| observe(&mut t.files(), &none));
                snapshots.push((info.name, of.await));
            }
            (tree, snapshots, reading.audit().await)
        });
        let tree = tree.unwrap_or_else(|error| panic!("{}: {error}", what()));
        let expected = self.seen_at(found);
        if tree != *expected {
            same(&tree, &expected, &what());
        }
        for pinned in &self.world.snapshots {
            let shown = snapshots.iter().find(|(name, _)| *name == pinned.name);
            if let Some(expected) = pinned.is_there(found) {
                assert_eq!(shown.is_some(), expected, "{}: {}", what(), pinned.name);
            }
            if let Some((name, shown)) = shown {
                let shown = shown.as_ref().unwrap_or_else(|e| panic!("{}: {e}", what()));
                let expected = self.seen_at(pinned.commit);
                if pinned.commit > CommitNumber(0) && *shown != pinned.model.observe() {
                    same(shown, &expected, &format!("{}: {name}", what()));
                }
            }
        }
        assert!(snapshots.len() <= self.world.snapshots.len(), "{}", what());
        let audit = audit.unwrap_or_else(|error| panic!("{}: {error}", what()));
        assert_eq!(audit.contradictions, [], "{}", what());
        let items = audit.items.iter().filter(|(key, _)| {
            use ItemKind::{Attribute, Entry, Inode, Orphan};
            [Inode, Entry, Attribute, Orphan].contains(&key.kind)
        });
        let items = items.map(|(key, value)| (*key, &value[..]));
        check(items, audit.data.clone().into_iter(), hash_name);
        if go_on {
            goes_on(&mut executor, filesystem, disk, tree, what);
        }
    }
}

/// Works on from a state, and mounts again.
fn goes_on(
    executor: &mut Executor,
    filesystem: Rc<common::TestFileSystem>,
    disk: &SimDisk,
    mut tree: Vec<Observed>,
    what: &dyn Fn() -> String,
) {
    let (running, clock) = (Rc::clone(&filesystem), executor.clock());
    executor.spawn(async move { running.run(&clock).await });
    let content = random_bytes(&mut Random::new(9), 10_000);
    let written = content.clone();
    executor.run(async move {
        let made = filesystem.transact(5, |transaction| {
            let mut files = transaction.files();
            let inode = files.create(ROOT, b"zzz", &new(FileKind::File, ""))?;
            files.write(inode, 0, &written)
        });
        let ((), commit) = made.await.unwrap();
        filesystem.wait_durable(commit).await.unwrap();
    });
    let mut executor = Executor::new(1);
    let mounted = common::mount(&mut executor, &disk.snapshot(0));
    let filesystem = mounted.unwrap_or_else(|error| panic!("{}, again: {error}", what()));
    let filesystem = filesystem.filesystem;
    let (mut after, audit) = executor.run(async move {
        let none = [None; HANDLES];
        let after = filesystem.read(|t| observe(&mut t.files(), &none)).await;
        (after.unwrap(), filesystem.audit().await.unwrap())
    });
    assert_eq!(audit.contradictions, [], "{}, again", what());
    let new = after.iter().position(|seen| seen.path == b"//zzz").unwrap();
    assert!(after.remove(new).content == Some(content), "{}", what());
    assert_eq!(after.len(), tree.len(), "{}", what());
    for (after, before) in after.iter_mut().zip(&mut tree) {
        // Its times and size have changed, and all numbers behind the new one.
        assert_eq!(
            (&after.path, &after.content),
            (&before.path, &before.content),
            "{}",
            what()
        );
    }
}

/// Which of the open sectors survive.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Survivors(Vec<u64>);

impl Survivors {
    fn new(sectors: usize, survives: impl FnMut(&usize) -> bool) -> Self {
        let mut bits = vec![0; sectors.div_ceil(64)];
        for sector in (0..sectors).filter(survives) {
            bits[sector / 64] |= 1 << (sector % 64);
        }
        Self(bits)
    }

    fn contains(&self, sector: usize) -> bool {
        self.0[sector / 64] >> (sector % 64) & 1 == 1
    }
}

/// None, all, the first so many, single ones, all but single ones, random ones.
fn subsets(crash: &Crash, random: &mut Random, singles: usize) -> BTreeSet<Survivors> {
    let sectors = crash.open_sectors();
    let mut subsets = BTreeSet::from([
        Survivors::new(sectors, |_| false),
        Survivors::new(sectors, |_| true),
    ]);
    if sectors == 0 {
        return subsets;
    }
    let chosen = (0..singles.min(sectors)).map(|number| {
        if sectors <= singles {
            number
        } else {
            random.index(sectors)
        }
    });
    for chosen in chosen.collect::<Vec<_>>() {
        subsets.insert(Survivors::new(sectors, |&sector| sector == chosen));
        subsets.insert(Survivors::new(sectors, |&sector| sector != chosen));
        subsets.insert(Survivors::new(sectors, |&sector| sector < chosen));
    }
    for _ in 0..4 {
        subsets.insert(Survivors::new(sectors, |_| random.one_in(2)));
    }
    subsets
}

/// The workload with this number: first those of one act, then of two, then of three.
fn workload(mut number: usize) -> Option<Vec<Act>> {
    for len in 1..=3 {
        let count = ACTS.len().pow(len);
        if number < count {
            let acts = (0..len).map(|place| ACTS[number / ACTS.len().pow(place) % ACTS.len()]);
            return Some(acts.collect());
        }
        number -= count;
    }
    None
}

const UP_TO_TWO: usize = ACTS.len() + ACTS.len() * ACTS.len();
const UP_TO_THREE: usize = UP_TO_TWO + ACTS.len() * ACTS.len() * ACTS.len();

fn explore(base: &(SimDisk, World), number: usize, seed: u64, singles: usize) -> u64 {
    let acts = workload(number).unwrap();
    let mut random = Random::new(seed ^ number as u64);
    run(base, &acts, random.next_u64(), false).check_all(&mut random, singles)
}

#[test]
fn workloads_of_up_to_two_operations_survive_power_cuts() {
    let seed = seed(51);
    let base = base(seed);
    let states = (0..UP_TO_TWO).map(|number| explore(&base, number, seed, 40));
    let states = states.sum::<u64>();
    println!("{states} states of {UP_TO_TWO} workloads");
    assert!(states >= 55_000, "{states}");
}

#[test]
fn some_workloads_of_three_operations_survive_power_cuts() {
    let seed = seed(52);
    let base = base(seed);
    let mut random = Random::new(seed);
    let mut states = 0;
    for _ in 0..800 {
        let number = UP_TO_TWO + random.index(UP_TO_THREE - UP_TO_TWO);
        states += explore(&base, number, seed, 24);
    }
    println!("{states} states of 800 workloads");
    assert!(states >= 50_000, "{states}");
}

#[test]
fn workloads_among_open_transactions_survive_power_cuts() {
    let seed = seed(54);
    let base = base(seed);
    let mut random = Random::new(seed);
    let mut states = 0;
    for _ in 0..60 {
        let mut acts = workload(random.index(UP_TO_TWO)).unwrap();
        // What is kept for those that are open gets to the disk.
        acts.insert(1, Act::Checkpoint);
        acts.push(ACTS[random.index(ACTS.len())]);
        let run = run(&base, &acts, random.next_u64(), true);
        states += run.check_all(&mut random, 6);
    }
    println!("{states} states of 60 workloads among open transactions");
    assert!(states >= 8_000, "{states}");
}

/// As long as it is told to, on all processors: `make crash-campaign`.
///
/// Its pieces are workloads, numbered on through all seeds from the first. Which are taken follows from the seed
/// alone, whoever takes them. One that was stopped goes on from the number it printed; several machines share the work
/// with different seeds.
#[cfg(feature = "campaign")]
mod campaign {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
    use std::time::Instant;

    use super::{UP_TO_THREE, base, explore};

    /// A number from the environment.
    fn setting(name: &str, default: u64) -> u64 {
        let text = std::env::var(name).ok().filter(|text| !text.is_empty());
        let number = |text: String| text.parse().unwrap_or_else(|_| panic!("{name}: {text}"));
        text.map_or(default, number)
    }

    struct Campaign {
        first_seed: u64,
        wanted: u64,
        jobs: u64,
        next: AtomicU64,
        states: AtomicU64,
        failed: AtomicBool,
        begun: Instant,
    }

    /// Tells the others when one does not survive.
    struct Alarm<'c>(&'c AtomicBool);

    impl Drop for Alarm<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                self.0.store(true, Relaxed);
            }
        }
    }

    impl Campaign {
        fn is_over(&self) -> bool {
            self.failed.load(Relaxed) || self.states.load(Relaxed) >= self.wanted
        }

        fn work(&self) {
            let _alarm = Alarm(&self.failed);
            let mut known = None;
            while !self.is_over() {
                let number = self.next.fetch_add(1, Relaxed);
                let seed = self.first_seed + number / UP_TO_THREE as u64;
                let workload = usize::try_from(number % UP_TO_THREE as u64).unwrap();
                let same = known.take().filter(|(of, _)| *of == seed);
                let (_, base) = known.insert(same.unwrap_or_else(|| (seed, base(seed))));
                let found = explore(base, workload, seed, 64);
                self.states.fetch_add(found, Relaxed);
                if number.is_multiple_of(500) {
                    self.report(number);
                }
            }
        }

        fn report(&self, number: u64) {
            let states = self.states.load(Relaxed);
            let seconds = self.begun.elapsed().as_secs().max(1);
            let from = number.saturating_sub(self.jobs);
            println!(
                "{states} of {} states, {} a second, workload {number}; to go on from here: CRASH_FROM={from}",
                self.wanted,
                states / seconds,
            );
        }
    }

    #[test]
    fn campaign() {
        let processors = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
        let campaign = Campaign {
            first_seed: super::seed(53),
            wanted: setting("SILTSTONE_CRASH_STATES", 10_000_000),
            jobs: setting("SILTSTONE_CRASH_JOBS", processors).max(1),
            next: AtomicU64::new(setting("SILTSTONE_CRASH_FROM", 0)),
            states: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            begun: Instant::now(),
        };
        std::thread::scope(|scope| {
            for _ in 0..campaign.jobs {
                scope.spawn(|| campaign.work());
            }
        });
        // A thread that panicked has ended the scope with a panic.
        let (states, workloads) = (campaign.states.load(Relaxed), campaign.next.load(Relaxed));
        let seconds = campaign.begun.elapsed().as_secs_f64();
        println!("{states} states, up to workload {workloads}, none violating, in {seconds:.0} s");
        assert!(states >= campaign.wanted);
    }
}

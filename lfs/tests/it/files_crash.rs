//! Every workload of up to three operations on a small tree, cut short at every point, with any of what was not
//! flushed on the disk.
//!
//! Invariants, checked for each state that a power cut can leave: the mount succeeds; tree and snapshots are as after some commit
//! not older than any that was acknowledged; an audit finds nothing. Of some states: the file system goes on from
//! there, and the next mount finds what was done.
//!
//! The same on a mirror of two disks, of which each loses something else. Of some states, besides: either disk alone shows all
//! that was acknowledged, and no more than both together; a mount with both leaves what it found on each; and one goes on alone, and then
//! with the other again, which gets what it missed.
//!
//! `make test` takes all workloads of up to two operations and some of three, and on a mirror all of one and some of two.
//! `make crash-campaign` takes all, one in four on a mirror as well, with other sectors each time, until
//! `SILTSTONE_CRASH_STATES` states were seen, beginning with workload `SILTSTONE_CRASH_FROM`, on `SILTSTONE_CRASH_JOBS` threads.
//! Both follow `SILTSTONE_SEED`.

use crate::common;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use embassy_futures::select::{Either, select};

use crate::common::check::check;
use crate::common::disks::{Cut, Disks, Mirrored};
use crate::common::operation::{HANDLES, Observed, Observer, Operation, Target, TreePath};
use crate::common::posix::Model;
use crate::common::world::{Machine, Worker, World, hash_name, random_bytes, same};
use crate::common::{SEGMENT_BLOCKS, TestFileSystem, seed};
use lfs::sim::{Executor, Random, SimDisk};
use lfs::{
    Audit, BLOCK_SIZE, BlockDevice, CHUNK_HEAD_BYTES_MAX, Clock, CommitNumber, FileError, FileKind,
    Isolation, ItemKind, MirrorError, MountError, NewInode, RenameFlags, SnapshotId, SnapshotInfo,
    Transaction, XattrMode,
};

/// From one in so many states the file system goes on.
const GOES_ON_ONCE_IN: u64 = 32;

/// In the mount of one in so many states the power fails again, if it writes anything.
const MOUNT_CUT_ONCE_IN: u64 = 16;

/// At so many moments at most.
const MOUNT_CUTS_MAX: usize = 6;

/// Of one in so many states of several disks each is mounted alone, as it was left and after a mount with all.
const APART_ONCE_IN: u64 = 4;

/// Virtual time after which all disks have everything.
const WHOLE_MS: u64 = 600_000;

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
    Churn,
    Grow,
}

const ACTS: [Act; 30] = [
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
    Act::Churn,
    Act::Grow,
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

async fn perform<D: Disks>(worker: &Worker<D>, act: Act, number: usize) {
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
            let kept = worker.world.borrow().kept.clone();
            // So that a slot takes several sectors, some the same as of other checkpoints.
            let manifest = vec![u8::from(worker.world.borrow_mut().random.one_in(3)); 1200];
            let made = worker
                .filesystem
                .checkpoint(horizon, &kept, &manifest, clock);
            made.await.unwrap();
        }
        // On a cramped disk the cleaner has to make room for it.
        Act::Churn => {
            for part in 0..4 {
                let writes = {
                    let world = &mut *worker.world.borrow_mut();
                    let offset = part * 2000 + world.random.below(4096);
                    let block = world.random.below(16) * 4096;
                    // One stays while all around it goes.
                    [
                        write("/much", offset, 20_000, &mut world.random),
                        write("/scattered", block, 4096, &mut world.random),
                    ]
                };
                let _ = worker.transact(&writes).await;
                worker.wait_durable(worker.filesystem.appended()).await;
            }
        }
        Act::Grow => {
            worker.disk.enlarge(8 * SEGMENT_BLOCKS);
            // Or in the background, at the same time.
            worker.filesystem.grow(&worker.clock).await.unwrap();
        }
        act => {
            let operations = operations(act, number, &mut worker.world.borrow_mut().random);
            // What the workload did before may have made it impossible.
            let _ = worker.transact(&operations).await;
        }
    }
}

/// The tree that workloads begin with, on a disk with room or on one where the cleaner is at work.
fn base<D: Disks>(seed: u64, cramped: bool) -> Base<D> {
    let disks = D::formatted(if cramped { 56 } else { 64 }, seed);
    let mut machine = Machine::new(disks, seed);
    machine.run(D::whole(&machine.device));
    let worker = machine.worker();
    // Of another seed other bytes, so that no image is like one of another seed.
    let mut random = Random::new(seed);
    machine.run(async move {
        for operation in [
            create("/a", FileKind::Directory),
            create("/b", FileKind::Directory),
            create("/a/f", FileKind::File),
            write("/a/f", 0, 9000, &mut random),
            create("/g", FileKind::File),
            write("/g", 0, 100, &mut random),
            create("/much", FileKind::File),
            write("/much", 0, 10_000, &mut random),
            write("/much", 10_000, 10_000, &mut random),
            create("/scattered", FileKind::File),
        ] {
            worker.transact(&[operation]).await.unwrap();
        }
        worker.create_snapshot_named("base".to_owned()).await;
        if !cramped {
            return;
        }
        // What else there is in an object, which is looked at by nobody.
        let mut object = worker.filesystem.create_object().unwrap();
        let segment = vec![7; SEGMENT_BLOCKS * BLOCK_SIZE - CHUNK_HEAD_BYTES_MAX];
        for _ in 0..12 {
            object.put(&segment).unwrap();
            object.write_full().await.unwrap();
        }
        let object = object.finish().await.unwrap();
        worker.world.borrow_mut().kept.push(object);
        perform(&worker, Act::Checkpoint, 0).await;
        for round in 0.. {
            if worker.filesystem.counters().segments_cleaned > 0 {
                break;
            }
            assert!(
                round < 100,
                "there is room: {:?}",
                worker.filesystem.usage()
            );
            perform(&worker, Act::Churn, 0).await;
        }
    });
    let machine = machine.reboot(seed);
    let world = machine.world.borrow().fork();
    Base {
        disk: machine.disk.snapshot(seed),
        world,
    }
}

/// The images that were mounted and checked.
#[derive(Default)]
struct States {
    known: Mutex<HashSet<u64>>,
    /// How often there was one to look at, known or not.
    raw: AtomicU64,
    /// Those of both disks of a mirror, or of one of them.
    mirrored: AtomicU64,
    /// Of one disk alone: as a power cut left it, and after a mount with both.
    alone: AtomicU64,
    evened: AtomicU64,
}

impl States {
    /// There was this image.
    fn note(&self, image: u64, mirrored: bool) {
        self.again();
        let is_new = self.known.lock().unwrap().insert(image);
        self.mirrored
            .fetch_add(u64::from(is_new && mirrored), Relaxed);
    }

    /// There was one that needed no look.
    fn again(&self) {
        self.raw.fetch_add(1, Relaxed);
    }

    /// How many there were, how many of mirrors, and how many with what came again.
    fn count(&self) -> [u64; 3] {
        let distinct = self.known.lock().unwrap().len() as u64;
        let others = [&self.mirrored, &self.raw].map(|count| count.load(Relaxed));
        [distinct, others[0], others[1]]
    }
}

impl Drop for States {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the last of {:?} states", self.count());
        }
    }
}

/// Where workloads begin: what is on the disk, and what is known of it.
struct Base<D = SimDisk> {
    disk: D,
    world: World,
}

/// A workload that was run, and what it promised.
struct Run<'s, D> {
    disk: D,
    world: World,
    /// Events of the disk when the mount was done.
    booted: usize,
    what: String,
    states: &'s States,
    /// What there is to see after each commit, once it was asked for.
    seen: RefCell<BTreeMap<CommitNumber, Rc<Vec<Observed>>>>,
    /// Images that were mounted, and what was promised of them.
    known: RefCell<HashSet<(u64, CommitNumber)>>,
    /// What was looked at name by name: see [`everything`].
    looked_at: RefCell<HashSet<u64>>,
}

/// What is done, the first act by the name of this number; with `open`, while one transaction stays open all the time and others
/// come and go.
struct Workload {
    acts: Vec<Act>,
    first: usize,
    open: bool,
}

impl Workload {
    /// Does it on a copy of the base, which flushes in one of the ways there are, as the seed says.
    fn run<'s, D: Disks>(self, base: &Base<D>, seed: u64, states: &'s States) -> Run<'s, D> {
        let disk = base.disk.snapshot(seed);
        disk.flush_by(seed);
        self.run_on(disk, base.world.fork(), seed, states)
    }

    fn run_on<D: Disks>(self, disk: D, mut world: World, seed: u64, states: &States) -> Run<'_, D> {
        let Self { acts, first, open } = self;
        world.random = Random::new(seed);
        let what = format!("{acts:?}, seed {seed}, open: {open}");
        let mut machine = Machine::boot(disk, Rc::new(RefCell::new(world)), seed);
        let booted = machine.disk.event_count();
        let worker = machine.worker();
        machine.run(async move {
            let filesystem = Rc::clone(&worker.filesystem);
            let begun = open.then(|| filesystem.begin(Isolation::Snapshot, 0).unwrap());
            for (act, number) in acts.into_iter().zip(first..) {
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
            booted,
            what,
            states,
            seen: RefCell::default(),
            known: RefCell::default(),
            looked_at: RefCell::default(),
        }
    }
}

/// What a mount of a state has found.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    commit: CommitNumber,
    snapshots: Vec<String>,
}

impl<D: Disks> Run<'_, D> {
    fn seen_at(&self, commit: CommitNumber) -> Rc<Vec<Observed>> {
        let (&commit, state) = self.world.states.range(..=commit).next_back().unwrap();
        self.seen_in(commit, state)
    }

    /// What there is to see in the state after `commit`, which is `model`.
    fn seen_in(&self, commit: CommitNumber, model: &Model) -> Rc<Vec<Observed>> {
        let mut seen = self.seen.borrow_mut();
        let seen = seen
            .entry(commit)
            .or_insert_with(|| Rc::new(model.observe()));
        Rc::clone(seen)
    }

    /// Checks every state of interest, and some that come of going on from there.
    fn check_all(&self, random: &mut Random, singles: usize) {
        for events in 0..=self.disk.event_count() {
            let cut = self.disk.cut_at(events);
            for survivors in subsets(&cut, random, singles) {
                let Some((disk, found)) = self.check(&cut, events, &survivors) else {
                    continue;
                };
                if random.one_in(MOUNT_CUT_ONCE_IN) {
                    self.check_mount(&disk, events, random);
                }
                if random.one_in(GOES_ON_ONCE_IN) {
                    let what = format!("{}, event {events}, survivors {survivors:?}", self.what);
                    self.go_on(disk, &found, &what, random);
                    if D::COUNT > 1 {
                        let left = cut.disks(|sector| survivors.contains(sector), events as u64);
                        self.go_on_apart(&left, events, &what, random);
                    }
                    let all = Survivors::new(cut.open_sectors(), |_| true);
                    if survivors == all {
                        // The machine begins anew, but the disk keeps its power: all can be read, and lost later.
                        let what = format!("{}, event {events}, reset", self.what);
                        self.go_on(cut.reset(events as u64), &found, &what, random);
                    }
                }
            }
        }
    }

    /// A mount may have written, and the power may have failed again.
    fn check_mount(&self, disk: &D, events: usize, random: &mut Random) {
        let moments = disk.event_count().saturating_sub(1);
        for number in 1..=moments.min(MOUNT_CUTS_MAX) {
            // Of a mirror there are many, most of them the same each time.
            let of_mount = if moments <= MOUNT_CUTS_MAX {
                number
            } else {
                1 + random.index(moments)
            };
            let cut = disk.cut_at(of_mount);
            for survivors in subsets(&cut, random, 2) {
                self.check(&cut, events, &survivors);
            }
        }
    }

    /// Works on from a state and loses power again at some moments, the last one too.
    fn go_on(&self, disk: D, found: &Found, what: &str, random: &mut Random) -> Run<'_, D> {
        let mut world = self.world.fork();
        world.go_back_to(found.commit, &found.snapshots);
        let mut acts = vec![ACTS[random.index(ACTS.len())], Act::Create];
        if random.one_in(2) {
            acts.insert(random.index(3), Act::Checkpoint);
        }
        let workload = Workload {
            acts,
            first: 10,
            open: false,
        };
        let mut run = workload.run_on(disk, world, random.next_u64(), self.states);
        run.what = format!("{what}, then {}", run.what);
        let end = run.disk.event_count();
        let last = run.disk.cut_at(end);
        run.check(&last, end, &Survivors::new(last.open_sectors(), |_| true));
        for _ in 0..8 {
            let events = run.booted + random.index(end - run.booted);
            let cut = run.disk.cut_at(events);
            let subsets = subsets(&cut, random, 8);
            let chosen = random.index(subsets.len());
            let survivors = subsets.iter().nth(chosen).unwrap();
            run.check(&cut, events, survivors);
        }
        run
    }

    /// Works on with one disk of those that were left, and then with both: the other one gets what it missed.
    fn go_on_apart(&self, left: &D, events: usize, what: &str, random: &mut Random) {
        let mut all = left.all().to_vec();
        let complete = D::complete(&left.open().unwrap());
        let first = random.index(all.len());
        let number = if complete[first] { first } else { 1 - first };
        let what = format!("{what}, disk {number} alone");
        let acknowledged = self.world.acknowledged_at(events);
        let alone = D::of(vec![all[number].snapshot(events as u64)]);
        let found = self.mounted(&alone, acknowledged, &|| what.clone());
        let run = self.go_on(alone, &found, &what, random);
        all[number] = run.disk.all()[0].snapshot(1);
        let acknowledged = run.world.acknowledged_at(run.disk.event_count());
        let what = format!("{}, then together", run.what);
        let together = D::of(all);
        let found = run.mounted(&together, acknowledged, &|| what.clone());
        run.check_each(&together, &found, &|| what.clone());
    }

    /// Mounts one state and looks at everything, unless that was done before; of some, each disk alone, too.
    fn check(&self, cut: &Cut, events: usize, survivors: &Survivors) -> Option<(D, Found)> {
        // Its seed says how long requests take if it is gone on with.
        let disk: D = cut.disks(|sector| survivors.contains(sector), events as u64);
        let acknowledged = self.world.acknowledged_at(events);
        let what = || format!("{}, event {events}, survivors {survivors:?}", self.what);
        let image = self.new_image(&disk, acknowledged)?;
        let left = disk.snapshot(0);
        let found = self.mounted(&disk, acknowledged, &what);
        if disk.all().len() > 1 && image.is_multiple_of(APART_ONCE_IN) {
            self.check_apart(&left, acknowledged, &found, &what);
            self.check_each(&disk, &found, &what);
        }
        Some((disk, found))
    }

    /// Each of those that were left serves alone. One that did not have everything may be refused.
    fn check_apart(
        &self,
        left: &D,
        acknowledged: CommitNumber,
        found: &Found,
        what: &dyn Fn() -> String,
    ) {
        let complete = D::complete(&left.open().unwrap());
        for (number, disk) in left.all().iter().enumerate() {
            let alone = D::of(vec![disk.snapshot(0)]);
            let refused = matches!(alone.open(), Err(MirrorError::Incomplete(_)));
            if (refused && !complete[number]) || self.new_image(&alone, acknowledged).is_none() {
                continue;
            }
            self.states.alone.fetch_add(1, Relaxed);
            let what = || format!("{}, disk {number} alone", what());
            let commit = self.mounted(&alone, acknowledged, &what).commit;
            // What only a disk has that is to get everything from the other one goes.
            let is_newer = commit > found.commit && !complete.contains(&false);
            assert!(!is_newer, "{}: {commit:?}, both {:?}", what(), found.commit);
        }
    }

    /// A mount with all disks leaves on each what it found, whichever of them is there after the next power cut.
    fn check_each(&self, disk: &D, found: &Found, what: &dyn Fn() -> String) {
        let mut executor = Executor::new(0);
        let device = disk
            .open()
            .unwrap_or_else(|error| panic!("{}: {error}", what()));
        let mounting = device.clone();
        let mounted = executor.run(async move { mount_to_look(mounting).await });
        let filesystem = mounted.unwrap_or_else(|error| panic!("{}: {error}", what()));
        assert_eq!(filesystem.appended(), found.commit, "{}", what());
        D::attend(&device, &mut executor);
        let (whole, clock) = (D::whole(&device), executor.clock());
        let in_time = executor.run(async move {
            let waited = select(whole, clock.sleep_ms(WHOLE_MS)).await;
            matches!(waited, Either::First(()))
        });
        assert!(in_time, "{}: not whole", what());
        for (number, alone) in disk.all().iter().enumerate() {
            let crash = alone.crash_at(alone.event_count());
            let alone = D::of(vec![crash.disk(|_| false, 0)]);
            let what = || format!("{}, mounted, then disk {number} alone", what());
            if self.new_image(&alone, found.commit).is_some() {
                self.states.evened.fetch_add(1, Relaxed);
                let shown = self.mounted(&alone, found.commit, &what);
                assert_eq!(shown, *found, "{}", what());
            }
        }
    }

    /// The image of the disks, if it was not seen yet with this promise.
    fn new_image(&self, disk: &D, acknowledged: CommitNumber) -> Option<u64> {
        let image = disk.fingerprint();
        if !self.known.borrow_mut().insert((image, acknowledged)) {
            self.states.again();
            return None;
        }
        self.states.note(image, D::COUNT > 1);
        Some(image)
    }

    /// Mounts and looks at everything.
    fn mounted(&self, disk: &D, acknowledged: CommitNumber, what: &dyn Fn() -> String) -> Found {
        let mut executor = Executor::new(0);
        let image = disk.fingerprint();
        disk.be_prompt(true);
        let device = disk
            .open()
            .unwrap_or_else(|error| panic!("{}: {error}", what()));
        let mounted = executor.run(async move {
            let filesystem = mount_to_look(device).await.map_err(|e| e.to_string())?;
            let audit = filesystem.audit().await.map_err(|e| e.to_string())?;
            Ok::<_, String>((Rc::new(filesystem), audit))
        });
        let (filesystem, audit) = mounted.unwrap_or_else(|error| panic!("{}: {error}", what()));
        assert_eq!(audit.contradictions, [], "{}", what());
        let commit = filesystem.appended();
        assert!(
            commit >= acknowledged,
            "{}: {commit:?}, but {acknowledged:?} was promised",
            what()
        );
        let snapshots = filesystem.snapshots();
        for pinned in &self.world.snapshots {
            let shown = snapshots.iter().any(|info| info.name == pinned.name);
            if let Some(expected) = pinned.is_there(commit) {
                assert_eq!(shown, expected, "{}: {}", what(), pinned.name);
            }
        }
        let few = snapshots.len() <= self.world.snapshots.len();
        assert!(few, "{}: {snapshots:?}", what());
        let everything = everything(commit, &snapshots, &audit, disk);
        // Some that need not be looked at are, to see that they need not.
        if self.looked_at.borrow_mut().insert(everything) || image.is_multiple_of(64) {
            self.look(&mut executor, &filesystem, &audit, what);
        }
        disk.be_prompt(false);
        let snapshots = snapshots.into_iter().map(|info| info.name).collect();
        Found { commit, snapshots }
    }

    /// Looks at a mounted file system name by name.
    fn look(
        &self,
        executor: &mut Executor,
        filesystem: &Rc<TestFileSystem<D::Device>>,
        audit: &Audit,
        what: &dyn Fn() -> String,
    ) {
        let reading = Rc::clone(filesystem);
        let shown = executor.run(async move {
            let tree = observed(&reading, None).await?;
            let mut snapshots = Vec::new();
            for info in reading.snapshots() {
                snapshots.push((observed(&reading, Some(info.id)).await?, info.name));
            }
            Ok::<_, FileError>((tree, snapshots))
        });
        let (tree, snapshots) = shown.unwrap_or_else(|error| panic!("{}: {error}", what()));
        let expected = self.seen_at(filesystem.appended());
        if tree != *expected {
            same(&tree, &expected, &what());
        }
        for (shown, name) in snapshots {
            let pinned = self.world.snapshots.iter().find(|s| s.name == name);
            let pinned = pinned.unwrap_or_else(|| panic!("{}: {name}", what()));
            let expected = self.seen_in(pinned.commit, &pinned.model);
            if shown != *expected {
                same(&shown, &expected, &format!("{}: {name}", what()));
            }
        }
        let items = audit.items.iter().filter(|(key, _)| {
            use ItemKind::{Attribute, Entry, Inode, Orphan};
            [Inode, Entry, Attribute, Orphan].contains(&key.kind)
        });
        let items = items.map(|(key, value)| (*key, &value[..]));
        let data = audit.data.iter().map(|(&object, &end)| (object, end));
        check(items, data, hash_name);
    }
}

/// A hash of all that what is seen comes from: the items of both trees, the snapshots, and the blocks with data. States of
/// one run where it is the same look the same, name by name.
fn everything(
    commit: CommitNumber,
    snapshots: &[SnapshotInfo],
    audit: &Audit,
    disk: &impl Disks,
) -> u64 {
    let mut hasher = DefaultHasher::new();
    (commit, audit.fingerprint).hash(&mut hasher);
    for SnapshotInfo {
        id, name, commit, ..
    } in snapshots
    {
        (id.0, name, commit).hash(&mut hasher);
    }
    let blocks = audit.extents.iter().flat_map(|&(address, len_bytes)| {
        let block = |address: u64| usize::try_from(address / BLOCK_SIZE as u64).unwrap();
        block(address)..=block(address + len_bytes - 1)
    });
    for disk in disk.all() {
        disk.fingerprint_of(blocks.clone()).hash(&mut hasher);
    }
    hasher.finish()
}

/// Mounts without anything that goes on in the background: nothing changes.
async fn mount_to_look<A: BlockDevice>(device: A) -> Result<TestFileSystem<A>, MountError> {
    let mut recovery = common::key::open(device).await?;
    while recovery.next_commit().await?.is_some() {}
    recovery.finish().await
}

/// Everything there is to see in the newest state, or in a snapshot, name by name.
async fn observed<A: BlockDevice>(
    filesystem: &TestFileSystem<A>,
    snapshot: Option<SnapshotId>,
) -> Result<Vec<Observed>, FileError> {
    let mut observer = Observer::new(&[None; HANDLES]);
    loop {
        let step = |t: &mut Transaction<'_>| observer.step(&mut t.files());
        let more = match snapshot {
            None => filesystem.read(step).await?,
            Some(id) => filesystem.read_snapshot(id, step).await?,
        };
        if !more {
            return Ok(observer.seen);
        }
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

/// None, all, all of one disk, the first so many, single ones, all but single ones, random ones; and whole writes in any
/// combination.
fn subsets(cut: &Cut, random: &mut Random, singles: usize) -> BTreeSet<Survivors> {
    let sectors = cut.open_sectors();
    let mut subsets = BTreeSet::from([
        Survivors::new(sectors, |_| false),
        Survivors::new(sectors, |_| true),
    ]);
    if sectors == 0 {
        return subsets;
    }
    let mut first = 0;
    for count in cut.open_of_each() {
        let of = first..first + count;
        subsets.insert(Survivors::new(sectors, |sector| of.contains(sector)));
        first += count;
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
    let writes = cut.open_writes();
    for number in 0..16_u64.min(1 << writes.len().min(4)) {
        // All combinations of four, or as many of more.
        let whole = if writes.len() > 4 {
            random.next_u64()
        } else {
            number
        };
        let of = |sector: &usize| writes.partition_point(|end| end <= sector);
        subsets.insert(Survivors::new(sectors, |sector| {
            whole >> (of(sector) % 64) & 1 == 1
        }));
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

fn explore<D: Disks>(base: &Base<D>, number: usize, seed: u64, singles: usize, states: &States) {
    let mut random = Random::new(seed ^ number as u64);
    let workload = Workload {
        acts: workload(number).unwrap(),
        first: 0,
        open: false,
    };
    let run = workload.run(base, random.next_u64(), states);
    run.check_all(&mut random, singles);
}

/// Workloads of two operations that are run on a mirror.
const MIRRORED_OF_TWO: usize = 70;

/// Says how many states there were, and sees to it that they are not few.
fn report(states: &States, workloads: usize, least: u64) {
    let [distinct, _, raw] = states.count();
    println!("{distinct} states ({raw} with what came again) of {workloads} workloads");
    assert!(distinct >= least, "{distinct}");
}

#[test]
fn workloads_of_up_to_two_operations_survive_power_cuts() {
    let seed = seed(51);
    let (base, states) = (base::<SimDisk>(seed, false), States::default());
    for number in 0..UP_TO_TWO {
        explore(&base, number, seed, 40, &states);
    }
    report(&states, UP_TO_TWO, 55_000);
}

#[test]
fn some_workloads_of_three_operations_survive_power_cuts() {
    let seed = seed(52);
    let (base, states) = (base::<SimDisk>(seed, false), States::default());
    let mut random = Random::new(seed);
    for _ in 0..800 {
        let number = UP_TO_TWO + random.index(UP_TO_THREE - UP_TO_TWO);
        explore(&base, number, seed, 24, &states);
    }
    report(&states, 800, 50_000);
}

#[test]
fn workloads_on_a_cramped_disk_survive_power_cuts() {
    let seed = seed(55);
    let (base, states) = (base::<SimDisk>(seed, true), States::default());
    let mut random = Random::new(seed);
    for _ in 0..60 {
        let mut acts = workload(random.index(UP_TO_TWO)).unwrap();
        acts.insert(random.index(acts.len() + 1), Act::Churn);
        let workload = Workload {
            acts,
            first: 0,
            open: false,
        };
        let run = workload.run(&base, random.next_u64(), &states);
        run.check_all(&mut random, 4);
    }
    report(&states, 60, 4_000);
}

#[test]
fn workloads_among_open_transactions_survive_power_cuts() {
    let seed = seed(54);
    let (base, states) = (base::<SimDisk>(seed, false), States::default());
    let mut random = Random::new(seed);
    for _ in 0..60 {
        let mut acts = workload(random.index(UP_TO_TWO)).unwrap();
        // What is kept for those that are open gets to the disk.
        acts.insert(1, Act::Checkpoint);
        acts.push(ACTS[random.index(ACTS.len())]);
        let workload = Workload {
            acts,
            first: 0,
            open: true,
        };
        let run = workload.run(&base, random.next_u64(), &states);
        run.check_all(&mut random, 10);
    }
    report(&states, 60, 4_000);
}

#[test]
fn workloads_on_a_mirror_survive_power_cuts() {
    let seed = seed(56);
    let bases = [false, true].map(|cramped| base::<Mirrored>(seed, cramped));
    let states = States::default();
    let mut random = Random::new(seed);
    let some = (0..MIRRORED_OF_TWO).map(|_| ACTS.len() + random.index(UP_TO_TWO - ACTS.len()));
    let numbers = (0..ACTS.len()).chain(some).collect::<Vec<_>>();
    for (at, &number) in numbers.iter().enumerate() {
        explore(&bases[usize::from(at % 8 == 7)], number, seed, 6, &states);
    }
    report(&states, numbers.len(), 12_000);
    let [alone, evened] = [&states.alone, &states.evened].map(|count| count.load(Relaxed));
    println!("of one disk alone {alone}, and after a mount with both {evened}");
    assert!(alone > 2_000 && evened > 2_000, "{alone}, {evened}");
}

/// As long as it is told to, on all processors: `make crash-campaign`.
///
/// Its pieces are workloads, numbered on through all seeds from the first. Which are taken follows from the seed
/// alone, whoever takes them. One that was stopped goes on from the number it printed; several machines share the work
/// with different seeds.
#[cfg(feature = "campaign")]
mod campaign {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
    use std::sync::{Arc, Mutex};
    use std::time::Instant;

    use super::{Base, Disks, Mirrored, SimDisk, States, UP_TO_THREE, base, explore};

    /// Sectors of a crash that are tried one by one.
    const SINGLES: usize = 24;

    /// One in so many workloads runs on a mirror as well; with the next seed others do.
    const MIRRORED_ONCE_IN: u64 = 4;

    /// A number from the environment.
    fn setting(name: &str, default: u64) -> u64 {
        let text = std::env::var(name).ok().filter(|text| !text.is_empty());
        let number = |text: String| text.parse().unwrap_or_else(|_| panic!("{name}: {text}"));
        text.map_or(default, number)
    }

    /// Where workloads begin, each on a disk with room and on a cramped one.
    struct Bases {
        single: [Base; 2],
        mirrored: [Base<Mirrored>; 2],
    }

    impl Bases {
        fn new(seed: u64) -> Self {
            fn both<D: Disks>(seed: u64) -> [Base<D>; 2] {
                [false, true].map(|cramped| base(seed, cramped))
            }
            Self {
                single: both::<SimDisk>(seed),
                mirrored: both::<Mirrored>(seed),
            }
        }
    }

    struct Campaign {
        first_seed: u64,
        wanted: u64,
        jobs: u64,
        next: AtomicU64,
        /// Of the last two seeds: an image of one seed is never like one of another.
        states: Mutex<BTreeMap<u64, Arc<States>>>,
        /// What was counted of the seeds before.
        before: [AtomicU64; 3],
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
            self.failed.load(Relaxed) || self.count()[0] >= self.wanted
        }

        fn states_of(&self, seed: u64) -> Arc<States> {
            let mut all = self.states.lock().unwrap();
            let states = Arc::clone(all.entry(seed).or_default());
            while all.len() > 2 {
                let (_, gone) = all.pop_first().unwrap();
                for (sum, count) in self.before.iter().zip(gone.count()) {
                    sum.fetch_add(count, Relaxed);
                }
            }
            states
        }

        /// As [`States::count`], so far.
        fn count(&self) -> [u64; 3] {
            let all = self.states.lock().unwrap();
            let before = self.before.each_ref().map(|sum| sum.load(Relaxed));
            let counts = all.values().map(|states| states.count());
            counts.fold(before, |sum, count| {
                [0, 1, 2].map(|which| sum[which] + count[which])
            })
        }

        fn work(&self) {
            let _alarm = Alarm(&self.failed);
            let mut known: Option<(u64, Bases, Arc<States>)> = None;
            while !self.is_over() {
                let number = self.next.fetch_add(1, Relaxed);
                // Each workload on each of two disks.
                let cramped = usize::from(!number.is_multiple_of(2));
                let workload = usize::try_from(number / 2 % UP_TO_THREE as u64).unwrap();
                let seed = self.first_seed + number / 2 / UP_TO_THREE as u64;
                let same = known.take().filter(|(of, ..)| *of == seed);
                let begin = || (seed, Bases::new(seed), self.states_of(seed));
                let (_, bases, states) = known.insert(same.unwrap_or_else(begin));
                explore(&bases.single[cramped], workload, seed, SINGLES, states);
                if (workload as u64 + seed).is_multiple_of(MIRRORED_ONCE_IN) {
                    let mirrored = &bases.mirrored[cramped];
                    explore(mirrored, workload, seed, SINGLES, states);
                }
                if number.is_multiple_of(500) {
                    self.report(number);
                }
            }
        }

        fn report(&self, number: u64) {
            let [states, mirrored, raw] = self.count();
            let seconds = self.begun.elapsed().as_secs().max(1);
            let from = number.saturating_sub(self.jobs);
            println!(
                "{states} of {} states, {mirrored} of mirrors ({raw} with what came again), {} a second, workload {number}; to go on from here: CRASH_FROM={from}",
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
            states: Mutex::default(),
            before: Default::default(),
            failed: AtomicBool::new(false),
            begun: Instant::now(),
        };
        std::thread::scope(|scope| {
            for _ in 0..campaign.jobs {
                scope.spawn(|| campaign.work());
            }
        });
        // A thread that panicked has ended the scope with a panic.
        let ([states, mirrored, raw], workloads) = (campaign.count(), campaign.next.load(Relaxed));
        let seconds = campaign.begun.elapsed().as_secs_f64();
        println!(
            "{states} states, {mirrored} of mirrors ({raw} with what came again), up to workload {workloads}, none violating, in {seconds:.0} s"
        );
        assert!(states >= campaign.wanted);
    }
}

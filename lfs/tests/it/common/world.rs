//! A file system on a simulated disk beside a model of it, and what was promised so far.
//!
//! A transaction is applied to the model in the step in which it commits, so the model follows the order of
//! commits also when several tasks are at work.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hash::Hasher;
use std::rc::Rc;

use embassy_futures::select::{Either, select};
use lfs::sim::{Executor, Random, SimClock, SimDisk};
use lfs::{Clock, CommitNumber, FileError, ItemKind, Namespace, ObjectId, SnapshotId, Transaction};

use super::check::check;
use super::disks::Disks;
use super::generator::Generator;
use super::operation::{HANDLES, Handles, Operation, apply, note_handles, observe};
use super::posix::Model;
use super::{ID, TestFileSystem, mount_device};

/// Virtual time after which something that should end has not.
const PATIENCE_MS: u64 = 3_600_000;

/// A snapshot as the test knows it.
#[derive(Clone)]
pub struct Pinned {
    pub name: String,
    pub id: SnapshotId,
    pub commit: CommitNumber,
    /// If it was deleted: a commit at which it was still there, and one at which it was not.
    pub deleted: Option<(CommitNumber, CommitNumber)>,
    pub model: Rc<Model>,
}

/// What is known beside the file system.
pub struct World {
    pub model: Model,
    pub handles: Handles,
    pub random: Random,
    pub generator: Generator,
    /// The state after each commit since the last mount.
    pub states: BTreeMap<CommitNumber, Rc<Model>>,
    /// Whether all of those are kept, not the newest alone: for who cuts the power.
    pub keeps_states: bool,
    /// Commits known to be durable, and after how many events of the disk.
    pub acknowledged: Vec<(CommitNumber, usize)>,
    pub snapshots: Vec<Pinned>,
    /// Objects that checkpoints are to keep.
    pub kept: Vec<ObjectId>,
    /// How often operations of each kind failed and were done.
    pub kinds: BTreeMap<String, [u64; 2]>,
    pub full: u64,
    /// The time that was last asked for.
    pub last_ns: i64,
    /// The device may fail: transactions may, too, and promises are not given then.
    pub faulty: bool,
}

impl Pinned {
    /// Whether it is there after `commit`, as far as that is known.
    pub fn is_there(&self, commit: CommitNumber) -> Option<bool> {
        if commit < self.commit {
            return Some(false);
        }
        match self.deleted {
            None => Some(true),
            Some((there, _)) if commit <= there => Some(true),
            Some((_, gone)) if commit >= gone => Some(false),
            Some(_) => None,
        }
    }
}

/// A machine that runs.
pub struct Machine<D: Disks = SimDisk> {
    pub executor: Executor,
    pub disk: D,
    pub device: D::Device,
    pub filesystem: Rc<TestFileSystem<D::Device>>,
    pub world: Rc<RefCell<World>>,
}

impl<D: Disks> Machine<D> {
    /// Boots from a formatted disk on which nothing was done.
    pub fn new(disk: D, seed: u64) -> Self {
        let mut model = Model::new(0, 0o755);
        model.now = 0;
        let mut random = Random::new(seed);
        let world = World {
            states: BTreeMap::from([(CommitNumber(0), Rc::new(model.clone()))]),
            keeps_states: true,
            model,
            handles: [None; HANDLES],
            generator: Generator::new(random.next_u64()),
            random,
            acknowledged: Vec::new(),
            snapshots: Vec::new(),
            kept: Vec::new(),
            kinds: BTreeMap::new(),
            full: 0,
            last_ns: 0,
            faulty: false,
        };
        Self::boot(disk, Rc::new(RefCell::new(world)), seed)
    }

    /// Boots where everything is known.
    pub fn boot(disk: D, world: Rc<RefCell<World>>, seed: u64) -> Self {
        let mut executor = Executor::new(seed);
        let device = disk.open().unwrap_or_else(|error| panic!("{error}"));
        let mounted = mount_device(&mut executor, device.clone());
        let filesystem = mounted.unwrap_or_else(|error| panic!("{error}")).filesystem;
        D::attend(&device, &mut executor);
        Self {
            executor,
            disk,
            device,
            filesystem,
            world,
        }
    }

    /// Runs until `main` is through.
    pub fn run<T: 'static>(&mut self, main: impl Future<Output = T> + 'static) -> T {
        let clock = self.executor.clock();
        let filesystem = Rc::clone(&self.filesystem);
        self.executor.run(async move {
            match select(main, clock.sleep_ms(PATIENCE_MS)).await {
                Either::First(value) => value,
                Either::Second(()) => panic!(
                    "stuck: {:?}, {:?}, failed: {}",
                    filesystem.usage(),
                    filesystem.counters(),
                    filesystem.is_failed()
                ),
            }
        })
    }

    /// A task of this machine.
    pub fn worker(&mut self) -> Worker<D> {
        Worker {
            filesystem: Rc::clone(&self.filesystem),
            world: Rc::clone(&self.world),
            disk: self.disk.clone(),
            clock: self.executor.clock(),
        }
    }

    /// Several workers at once, each with so many transactions.
    pub fn work(&mut self, workers: usize, transactions: u64) {
        let done = Rc::new(RefCell::new(0));
        for _ in 0..workers {
            let (worker, done) = (self.worker(), Rc::clone(&done));
            self.executor.spawn(async move {
                for _ in 0..transactions {
                    worker.step().await;
                }
                *done.borrow_mut() += 1;
            });
        }
        let clock = self.executor.clock();
        self.run(async move {
            while *done.borrow() < workers {
                clock.sleep_ms(10).await;
            }
        });
    }

    /// Compares everything there is with the model, snapshots included, and audits.
    pub fn compare(&mut self, what: &str) {
        let worker = self.worker();
        let what = what.to_owned();
        self.run(async move {
            worker.settle().await;
            worker.compare(&what).await;
        });
    }

    /// Shuts down and boots again.
    pub fn reboot(self, seed: u64) -> Self {
        let Self {
            mut executor,
            disk,
            filesystem,
            world,
            ..
        } = self;
        let clock = executor.clock();
        executor.run(async move { filesystem.shutdown(&clock).await.unwrap() });
        drop(executor);
        world.borrow_mut().forget_open();
        Self::boot(disk.snapshot(seed), world, seed).after_boot(CommitNumber(0))
    }

    /// Loses power at some moment since the last boot, with some of what was not flushed, and boots again.
    pub fn lose_power(self, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let end = self.disk.event_count();
        let events = end - random.index(end.min(400) + 1);
        let crash = self.disk.cut_at(events);
        let cut = random.index(crash.open_sectors().max(1));
        let disk = match random.below(5) {
            0 => crash.disks(|_| false, seed),
            1 => crash.disks(|_| true, seed),
            2 => crash.disks(|sector| sector < cut, seed),
            3 => crash.disks(|sector| sector / 8 != cut / 8, seed),
            _ => crash.disks(|_| random.one_in(2), seed),
        };
        let acknowledged = self.world.borrow().acknowledged_at(events);
        Self::boot(disk, Rc::clone(&self.world), seed).after_boot(acknowledged)
    }

    fn after_boot(self, acknowledged: CommitNumber) -> Self {
        let found = self.filesystem.appended();
        assert!(
            found >= acknowledged,
            "{acknowledged:?} was acknowledged, {found:?} was found"
        );
        let names = self.filesystem.snapshots().into_iter();
        let names = names.map(|info| info.name).collect::<Vec<_>>();
        self.world.borrow_mut().go_back_to(found, &names);
        self
    }
}

impl World {
    /// A world that knows the same and is about to be another one.
    pub fn fork(&self) -> Self {
        Self {
            model: self.model.clone(),
            handles: self.handles,
            random: self.random.clone(),
            generator: Generator::new(0),
            states: self.states.clone(),
            keeps_states: self.keeps_states,
            acknowledged: self.acknowledged.clone(),
            snapshots: self.snapshots.clone(),
            kept: self.kept.clone(),
            kinds: BTreeMap::new(),
            full: 0,
            last_ns: self.last_ns,
            faulty: self.faulty,
        }
    }

    /// The newest commit known to be durable after so many events of the disk.
    pub fn acknowledged_at(&self, events: usize) -> CommitNumber {
        let known = self.acknowledged.iter().filter(|(_, at)| *at <= events);
        known.map(|(commit, _)| *commit).max().unwrap_or_default()
    }

    fn forget_open(&mut self) {
        for handle in 0..HANDLES {
            self.model.apply(&Operation::Close { handle }).unwrap();
            self.handles[handle] = None;
        }
    }

    /// The machine booted with everything up to `commit`.
    pub fn go_back_to(&mut self, commit: CommitNumber, snapshots: &[String]) {
        let (_, state) = self.states.range(..=commit).next_back().unwrap();
        self.model = Model::clone(state);
        self.forget_open();
        self.snapshots
            .retain_mut(|pinned| match pinned.is_there(commit) {
                Some(there) => there,
                None => snapshots.contains(&pinned.name),
            });
        for pinned in &mut self.snapshots {
            pinned.deleted = None;
        }
        let mut known = self.snapshots.iter().map(|s| &s.name).collect::<Vec<_>>();
        let mut found = snapshots.iter().collect::<Vec<_>>();
        known.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, known);
        self.states = BTreeMap::from([(commit, Rc::new(self.model.clone()))]);
        self.acknowledged = vec![(commit, 0)];
    }
}

/// A task that works on files.
pub struct Worker<D: Disks = SimDisk> {
    pub filesystem: Rc<TestFileSystem<D::Device>>,
    pub world: Rc<RefCell<World>>,
    pub disk: D,
    pub clock: SimClock,
}

impl<D: Disks> Worker<D> {
    /// One random thing.
    pub async fn step(&self) {
        let choice = self.world.borrow_mut().random.below(100);
        match choice {
            0..2 => self.create_snapshot().await,
            2..4 => self.delete_snapshot().await,
            4 => self.compare("in between").await,
            5..10 => self.fill().await,
            10..20 => {
                let commit = self.filesystem.appended();
                self.wait_durable(commit).await;
            }
            21..28 => self.open_transaction().await,
            20 => {
                let pause = self.world.borrow_mut().random.below(3000);
                self.clock.sleep_ms(pause).await;
            }
            _ => {
                let operations = self.world.borrow_mut().operations();
                let _ = self.transact(&operations).await;
            }
        }
    }

    /// Some random transactions and large files; now and then waits for them.
    pub async fn transactions(&self, count: u64) {
        for _ in 0..count {
            let choice = self.world.borrow_mut().random.below(10);
            match choice {
                0 => self.fill().await,
                1..4 => self.wait_durable(self.filesystem.appended()).await,
                _ => {
                    let operations = self.world.borrow_mut().operations();
                    let _ = self.transact(&operations).await;
                }
            }
        }
    }

    pub async fn wait_durable(&self, commit: CommitNumber) {
        let durable = self.filesystem.wait_durable(commit).await;
        if durable.is_err() && self.world.borrow().faulty {
            return;
        }
        durable.unwrap();
        let events = self.disk.event_count();
        self.world.borrow_mut().acknowledged.push((commit, events));
    }

    /// Now; no two transactions are given the same time. One that sets the time that is there already is taken to have
    /// left it alone when two transactions' changes of a directory are merged, which the model cannot know.
    pub fn now_ns(&self) -> i64 {
        let world = &mut *self.world.borrow_mut();
        world.last_ns = (self.clock.unix_us() * 1000).max(world.last_ns + 1);
        world.last_ns
    }

    /// Does operations in one transaction, here and in the model; whether they were done.
    pub async fn transact(&self, operations: &[Operation]) -> Result<(), FileError> {
        let now = self.now_ns();
        let small = self.world.borrow_mut().random.one_in(2);
        let world = Rc::clone(&self.world);
        let mut failed_at = 0;
        let body = |transaction: &mut Transaction<'_>| {
            let mut handles = world.borrow().handles;
            let mut outcomes = Vec::new();
            for (at, operation) in operations.iter().enumerate() {
                failed_at = at;
                let mut files = if small {
                    Namespace::with_small_limits(transaction)
                } else {
                    Namespace::new(transaction)
                };
                let outcome = apply(&mut files, &handles, operation)?;
                note_handles(&mut handles, operation, &outcome);
                outcomes.push(outcome);
            }
            Ok((outcomes, handles))
        };
        let result = self.filesystem.transact(now, body).await;
        // No await from here on: this is the moment of the commit.
        let world = &mut *self.world.borrow_mut();
        let mut model = world.model.clone();
        model.now = now;
        let mut expected = Vec::new();
        let mut error = None;
        for operation in operations {
            match model.apply(operation) {
                Ok(outcome) => expected.push(outcome),
                Err(found) => {
                    error = Some(found);
                    break;
                }
            }
        }
        let what = || brief(operations);
        match result {
            Ok(((outcomes, handles), commit)) => {
                assert_eq!(error, None, "{}\nfound {outcomes:?}", what());
                for (found, expected) in outcomes.iter().zip(&expected) {
                    assert!(found.is_as(expected), "{}\n{found:?}\n{expected:?}", what());
                }
                for inode in handles.iter().flatten() {
                    self.filesystem.hold(inode.0);
                }
                for inode in world.handles.iter().flatten() {
                    self.filesystem.unhold(inode.0);
                }
                world.handles = handles;
                world.model = model;
                if !world.keeps_states {
                    world.states.clear();
                }
                world.states.insert(commit, Rc::new(world.model.clone()));
                for operation in operations {
                    world.count(operation, true);
                }
                Ok(())
            }
            Err(FileError::NoSpace) => {
                world.full += 1;
                let usage = self.filesystem.usage();
                assert!(
                    usage.live_bytes * 10 > usage.capacity_bytes * 6,
                    "{}\nfull with {usage:?}",
                    what()
                );
                let gives = |operation: &Operation| {
                    matches!(
                        operation,
                        Operation::Unlink { .. } | Operation::Rmdir { .. }
                    )
                };
                assert!(!operations.iter().all(gives), "{}: full", what());
                Err(FileError::NoSpace)
            }
            Err(error) if is_fault(&error) && world.faulty => Err(error),
            Err(FileError::TransactionTooLarge) => {
                let bytes = operations.iter().map(payload_bytes).sum::<usize>();
                assert!(bytes > 24_000, "{}: too large", what());
                Err(FileError::TransactionTooLarge)
            }
            Err(found) => {
                let (last, at) = (error, expected.len());
                assert_eq!((Some(&found), failed_at), (last.as_ref(), at), "{}", what());
                world.count(&operations[at], false);
                Err(found)
            }
        }
    }

    /// Writes a large file, so that the disk is nearly full most of the time.
    async fn fill(&self) {
        let usage = self.filesystem.usage();
        if usage.live_bytes * 20 > usage.capacity_bytes * 19 {
            return;
        }
        let number = self.world.borrow_mut().random.below(6);
        let path = super::operation::TreePath {
            base: None,
            bytes: format!("/fill{number}").into_bytes(),
        };
        let create = Operation::Create {
            path: path.clone(),
            new: lfs::NewInode {
                kind: lfs::FileKind::File,
                mode: 0o600,
                uid: 0,
                gid: 0,
                device: 0,
                target: Vec::new(),
            },
        };
        let _ = self.transact(&[create]).await;
        for part in 0..8 {
            let (offset, bytes) = {
                let world = &mut *self.world.borrow_mut();
                let bytes = random_bytes(&mut world.random, 20_000);
                (part * 20_000 + world.random.below(3), bytes)
            };
            let target = super::operation::Target::Path(path.clone());
            let write = Operation::Write {
                target,
                offset,
                bytes,
            };
            if self.transact(&[write]).await.is_err() {
                return;
            }
        }
    }

    async fn create_snapshot(&self) {
        let name = {
            let world = &mut *self.world.borrow_mut();
            let kept = world.snapshots.iter().filter(|s| s.deleted.is_none());
            if kept.count() >= 3 {
                return;
            }
            format!("snapshot {}", world.random.next_u64())
        };
        self.create_snapshot_named(name).await;
    }

    pub async fn create_snapshot_named(&self, name: String) {
        let now = self.now_ns();
        let made = match self.filesystem.create_snapshot(&name, now).await {
            Ok(made) => made,
            Err(FileError::NoSpace) => return,
            Err(error) => panic!("{error}"),
        };
        let events = self.disk.event_count();
        let world = &mut *self.world.borrow_mut();
        world.acknowledged.push((made.commit, events));
        let (_, state) = world.states.range(..=made.commit).next_back().unwrap();
        world.snapshots.push(Pinned {
            name,
            id: made.id,
            commit: made.commit,
            deleted: None,
            model: Rc::clone(state),
        });
    }

    async fn delete_snapshot(&self) {
        let name = {
            let world = &mut *self.world.borrow_mut();
            let kept = world.snapshots.iter_mut().filter(|s| s.deleted.is_none());
            let mut kept = kept.collect::<Vec<_>>();
            let index = world.random.index(kept.len());
            let Some(pinned) = kept.get_mut(index) else {
                return;
            };
            pinned.name.clone()
        };
        self.delete_snapshot_named(&name).await;
    }

    pub async fn delete_snapshot_named(&self, name: &str) {
        let there = self.filesystem.appended();
        let set = |gone| {
            let world = &mut *self.world.borrow_mut();
            for pinned in &mut world.snapshots {
                if pinned.name == name {
                    pinned.deleted = Some((there, gone));
                }
            }
        };
        // From here on it may be gone.
        set(CommitNumber(u64::MAX));
        self.filesystem.delete_snapshot(name).await.unwrap();
        let commit = self.filesystem.durable();
        set(commit);
        let events = self.disk.event_count();
        let world = &mut *self.world.borrow_mut();
        world.acknowledged.push((commit, events));
    }

    /// Compares the newest state and every snapshot with the model.
    pub async fn compare(&self, what: &str) {
        let world = Rc::clone(&self.world);
        let found = self
            .filesystem
            .read(|transaction| {
                let handles = world.borrow().handles;
                observe(&mut transaction.files(), &handles)
            })
            .await;
        let expected = self.world.borrow().model.observe();
        same(&found.unwrap(), &expected, what);
        let snapshots = self.world.borrow().snapshots.clone();
        for pinned in snapshots {
            let found = self
                .filesystem
                .read_snapshot(pinned.id, |transaction| {
                    observe(&mut transaction.files(), &[None; HANDLES])
                })
                .await;
            let mut model = Model::clone(&pinned.model);
            for handle in 0..HANDLES {
                model.apply(&Operation::Close { handle }).unwrap();
            }
            let name = &pinned.name;
            match found {
                Ok(found) => same(&found, &model.observe(), &format!("{what}, {name}")),
                Err(FileError::NotFound) => {
                    let world = self.world.borrow();
                    let now = world.snapshots.iter().find(|s| s.name == *name);
                    assert!(
                        now.is_none_or(|now| now.deleted.is_some()),
                        "{what}: {name}"
                    );
                }
                Err(error) => panic!("{what}: {name}: {error}"),
            }
        }
    }

    /// Waits until nothing goes on in the background, and audits.
    pub async fn settle(&self) {
        for round in 0_u64.. {
            let handles = self.world.borrow().handles;
            let open = |inode| handles.contains(&Some(inode));
            let orphans = self
                .filesystem
                .read(|transaction| transaction.files().orphans(0, usize::MAX))
                .await
                .unwrap();
            let left = orphans.iter().filter(|o| !o.nameless.is_some_and(open));
            let audit = self.filesystem.audit().await.unwrap();
            assert_eq!(audit.contradictions, []);
            let items = audit.items.iter().map(|(key, value)| (*key, &value[..]));
            let described = |key: &lfs::ItemKey| {
                let kinds = [
                    ItemKind::Inode,
                    ItemKind::Entry,
                    ItemKind::Attribute,
                    ItemKind::Orphan,
                ];
                kinds.contains(&key.kind)
            };
            let items = items.filter(|(key, _)| described(key));
            check(items, audit.data.clone().into_iter(), hash_name);
            if left.count() == 0 && audit.unseen.is_empty() {
                return;
            }
            assert!(round < 600, "left: {orphans:?}, unseen {:?}", audit.unseen);
            self.clock.sleep_ms(100).await;
        }
    }
}

impl World {
    /// Some operations for one transaction.
    fn operations(&mut self) -> Vec<Operation> {
        self.generator.note(&self.model.observe());
        let count = match self.random.below(4) {
            0 => 2 + self.random.below(4),
            _ => 1,
        };
        (0..count)
            .map(|_| match self.generator.next() {
                // What is in a removed tree is freed, and loses its names, in the background.
                Operation::RemoveTree { path } => Operation::RemoveSome { path },
                operation => operation,
            })
            .collect()
    }

    fn count(&mut self, operation: &Operation, done: bool) {
        self.kinds.entry(operation.kind()).or_default()[usize::from(done)] += 1;
    }
}

/// What `observe` found must be what the model says.
pub fn same(
    found: &[super::operation::Observed],
    expected: &[super::operation::Observed],
    what: &str,
) {
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            found == expected,
            "{what}\nfound {}\nmodel {}",
            found.brief(),
            expected.brief()
        );
    }
    assert_eq!(found.len(), expected.len(), "{what}");
}

/// Whether an error is what a faulty disk may lead to.
pub fn is_fault(error: &FileError) -> bool {
    matches!(
        error,
        FileError::Device(_)
            | FileError::ReadOnly
            | FileError::Damaged { .. }
            | FileError::DamagedData { .. }
    )
}

/// Bytes that do not compress.
pub fn random_bytes(random: &mut Random, len: usize) -> Vec<u8> {
    let numbers = (0..len.div_ceil(8)).flat_map(|_| random.next_u64().to_le_bytes());
    let mut bytes = numbers.collect::<Vec<_>>();
    bytes.truncate(len);
    bytes
}

fn payload_bytes(operation: &Operation) -> usize {
    match operation {
        Operation::Write { bytes, .. } => bytes.len(),
        Operation::SetXattr { value, .. } => value.len(),
        // They free what may be scattered widely.
        Operation::RemoveSome { .. } => 1 << 20,
        _ => 0,
    }
}

fn brief(operations: &[Operation]) -> String {
    let texts = operations.iter().map(|operation| {
        let mut text = format!("{operation:?}");
        text.truncate(300);
        text
    });
    texts.collect::<Vec<_>>().join("\n")
}

/// How this file system hashes names.
pub fn hash_name(name: &[u8]) -> u64 {
    let mut hasher = siphasher::sip::SipHasher24::new_with_key(&ID.0);
    hasher.write(name);
    hasher.finish()
}

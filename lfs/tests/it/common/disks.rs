//! What the file system of a machine lies on: one disk, or the two of a mirror.
//!
//! All of them lose their power at one moment; which of what they had not flushed survives is another matter on each.

use std::cell::RefCell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

use lfs::sim::{Crash, Executor, SimDisk};
use lfs::{BlockDevice, MemberState, Mirror, MirrorError};

use super::{SEGMENT_BLOCKS, formatted};

/// The disks of a machine; clones are the same disks. An event of any of them is an event of all.
pub trait Disks: Clone + 'static {
    /// What is mounted.
    type Device: BlockDevice + Clone + 'static;

    /// How many there are when none is away.
    const COUNT: usize;

    fn of(disks: Vec<SimDisk>) -> Self;

    fn all(&self) -> &[SimDisk];

    /// How many events each had when all together had so many.
    fn moment(&self, events: usize) -> Vec<usize>;

    fn open(&self) -> Result<Self::Device, MirrorError>;

    /// Which disks had everything when this was opened.
    fn complete(device: &Self::Device) -> Vec<bool>;

    /// Lets run what has to run beside a file system.
    fn attend(device: &Self::Device, executor: &mut Executor);

    /// Waits until every disk has everything.
    fn whole(device: &Self::Device) -> impl Future<Output = ()> + 'static;

    /// So many segments on each; only one of them is formatted.
    fn formatted(segments: usize, seed: u64) -> Self {
        let blank = |number| SimDisk::new(segments * SEGMENT_BLOCKS, seed + number);
        let others = (1..Self::COUNT as u64).map(blank);
        let first = formatted(segments, seed);
        Self::of([first].into_iter().chain(others).collect())
    }

    fn event_count(&self) -> usize {
        self.all().iter().map(SimDisk::event_count).sum()
    }

    /// A power cut after so many events.
    fn cut_at(&self, events: usize) -> Cut {
        let disks = self.all().iter().zip(self.moment(events));
        Cut(disks.map(|(disk, at)| disk.crash_at(at)).collect())
    }

    /// See [`SimDisk::snapshot`].
    fn snapshot(&self, seed: u64) -> Self {
        let disks = self.all().iter().zip(seed..);
        Self::of(disks.map(|(disk, seed)| disk.snapshot(seed)).collect())
    }

    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for disk in self.all() {
            disk.fingerprint().hash(&mut hasher);
        }
        hasher.finish()
    }

    /// See [`SimDisk::be_prompt`].
    fn be_prompt(&self, prompt: bool) {
        for disk in self.all() {
            disk.be_prompt(prompt);
        }
    }

    /// See [`SimDisk::flush_by`].
    fn flush_by(&self, seed: u64) {
        for disk in self.all() {
            disk.flush_by(seed);
        }
    }

    /// Makes each larger by so many blocks.
    fn enlarge(&self, blocks: usize) {
        for disk in self.all() {
            let now = usize::try_from(disk.geometry().block_count).unwrap();
            disk.resize(now + blocks);
        }
    }
}

impl Disks for SimDisk {
    type Device = Self;

    const COUNT: usize = 1;

    fn of(disks: Vec<SimDisk>) -> Self {
        let [disk] = disks.try_into().ok().unwrap();
        disk
    }

    fn all(&self) -> &[SimDisk] {
        std::slice::from_ref(self)
    }

    fn moment(&self, events: usize) -> Vec<usize> {
        vec![events]
    }

    fn open(&self) -> Result<Self, MirrorError> {
        Ok(self.clone())
    }

    fn complete(_: &Self) -> Vec<bool> {
        vec![true]
    }

    fn attend(_: &Self, _: &mut Executor) {}

    fn whole(_: &Self) -> impl Future<Output = ()> + 'static {
        std::future::ready(())
    }
}

/// Both disks of a mirror, or one of them alone.
#[derive(Clone)]
pub struct Mirrored {
    disks: Rc<[SimDisk]>,
    /// Whose each event was.
    order: Rc<RefCell<Vec<usize>>>,
}

impl Disks for Mirrored {
    type Device = Mirror<SimDisk>;

    const COUNT: usize = 2;

    fn of(disks: Vec<SimDisk>) -> Self {
        // What happened to them before, perhaps under another machine.
        let before = |(number, disk): (usize, &SimDisk)| vec![number; disk.event_count()];
        let before = disks.iter().enumerate().flat_map(before).collect();
        let order: Rc<RefCell<Vec<usize>>> = Rc::new(RefCell::new(before));
        for (number, disk) in disks.iter().enumerate() {
            let order = Rc::clone(&order);
            disk.set_witness(move || order.borrow_mut().push(number));
        }
        let disks = disks.into();
        Self { disks, order }
    }

    fn all(&self) -> &[SimDisk] {
        &self.disks
    }

    fn moment(&self, events: usize) -> Vec<usize> {
        let order = self.order.borrow();
        let of = |number| order[..events].iter().filter(|of| **of == number).count();
        (0..self.disks.len()).map(of).collect()
    }

    fn open(&self) -> Result<Self::Device, MirrorError> {
        let disks = self.disks.to_vec();
        Executor::new(0).run(async move { Mirror::open(disks, [1; 16]).await })
    }

    fn complete(device: &Self::Device) -> Vec<bool> {
        let status = device.mirror_status();
        let members = status.map(|status| status.members.map(|state| state == MemberState::In));
        members.into_iter().flatten().collect()
    }

    fn attend(device: &Self::Device, executor: &mut Executor) {
        let (mirror, clock) = (device.clone(), executor.clock());
        executor.spawn(async move { mirror.run(&clock).await });
    }

    fn whole(device: &Self::Device) -> impl Future<Output = ()> + 'static {
        let mirror = device.clone();
        async move { mirror.whole().await }
    }
}

/// What a power cut leaves of all disks. Open sectors are numbered through, those of the first disk first.
pub struct Cut(Vec<Crash>);

impl Cut {
    /// See [`Crash::open_sectors`].
    pub fn open_sectors(&self) -> usize {
        self.0.iter().map(Crash::open_sectors).sum()
    }

    /// See [`Crash::open_writes`].
    pub fn open_writes(&self) -> Vec<usize> {
        let mut ends = Vec::new();
        for crash in &self.0 {
            let before = ends.last().copied().unwrap_or(0);
            ends.extend(crash.open_writes().iter().map(|end| before + end));
        }
        ends
    }

    /// The number of open sectors of each disk.
    pub fn open_of_each(&self) -> impl Iterator<Item = usize> {
        self.0.iter().map(Crash::open_sectors)
    }

    /// See [`Crash::disk`].
    pub fn disks<D: Disks>(&self, mut survives: impl FnMut(usize) -> bool, seed: u64) -> D {
        let mut before = 0;
        let disks = self.0.iter().zip(seed..).map(|(crash, seed)| {
            let disk = crash.disk(|sector| survives(before + sector), seed);
            before += crash.open_sectors();
            disk
        });
        D::of(disks.collect())
    }

    /// See [`Crash::reset`].
    pub fn reset<D: Disks>(&self, seed: u64) -> D {
        let disks = self.0.iter().zip(seed..);
        D::of(disks.map(|(crash, seed)| crash.reset(seed)).collect())
    }
}

//! A disk in memory that remembers every write, discard and flush, can lose its power at any of them, and
//! can lie: about what it wrote, and where. It can also keep requests to itself for as long as a test likes.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell, RefMut};
use core::hash::BuildHasher;

use super::Random;
use crate::disk::layout::SECTOR_SIZE;
use crate::{
    BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, DeviceError, DeviceGeometry, Durable, Notify,
};

type Block = Rc<Bytes>;
/// Blocks are shared between images, so that taking one costs no more than a list.
type Image = Vec<Block>;

const SECTORS: usize = BLOCK_SIZE / SECTOR_SIZE;

/// What is in a block.
#[derive(Clone)]
struct Bytes {
    bytes: Vec<u8>,
    /// Once it was asked for.
    hash: Cell<Option<u64>>,
}

impl Bytes {
    fn new(bytes: Vec<u8>) -> Block {
        let hash = Cell::new(None);
        Rc::new(Self { bytes, hash })
    }

    fn filled(byte: u8) -> Block {
        Self::new(alloc::vec![byte; BLOCK_SIZE])
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.hash.set(None);
        &mut self.bytes
    }

    fn hash(&self) -> u64 {
        let hash = self.hash.get().unwrap_or_else(|| hash_of(&self.bytes));
        self.hash.set(Some(hash));
        hash
    }
}

/// The same for the same bytes in every run.
fn hash_of(bytes: &[u8]) -> u64 {
    foldhash::fast::FixedState::default().hash_one(bytes)
}

/// What a fault plan is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// A read of that many blocks from there.
    Read(BlockIndex, usize),
    /// A write of that many blocks to there.
    Write(BlockIndex, usize),
    /// A flush.
    Flush,
}

type FaultPlan = Box<dyn FnMut(Request) -> Option<DeviceError>>;

/// What becomes of a write that the disk calls done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is where it belongs.
    Written,
    /// Only its first sectors are; the others are as before.
    Torn(usize),
    /// Nothing was written.
    Lost,
    /// It is there instead, as far as the disk goes.
    Misdirected(BlockIndex),
}

type Fates = Box<dyn FnMut(BlockIndex, usize) -> Fate>;
type Holds = Box<dyn FnMut(Request) -> bool>;
type Witness = Box<dyn FnMut()>;

/// A request that the disk keeps to itself. It is the disk's: whoever sent it may be gone.
struct Held {
    write: Option<Write>,
    /// Once it is released: the number of its write, or, of another request, of some.
    done: Rc<Cell<Option<usize>>>,
}

/// A simulated disk; clones are the same disk.
#[derive(Clone)]
pub struct SimDisk {
    inner: Rc<Inner>,
}

struct Inner {
    image: RefCell<Rc<Image>>,
    /// The image before the first event of `events`.
    origin: Rc<Image>,
    events: RefCell<Vec<Event>>,
    witness: RefCell<Option<Witness>>,
    writes: Cell<usize>,
    completed: RefCell<Vec<usize>>,
    faults: RefCell<Option<FaultPlan>>,
    fates: RefCell<Option<Fates>>,
    holds: RefCell<Option<Holds>>,
    held: RefCell<Vec<Held>>,
    released: Notify,
    random: RefCell<Random>,
    prompt: Cell<bool>,
    flushing: Cell<Flushing>,
    /// How often it lost its power.
    cycles: Cell<u64>,
    resized: Notify,
}

/// What can change which images a power cut leaves.
enum Event {
    /// A write, or a discard, was issued: from here on its sectors may be on the disk.
    Write(Rc<Write>),
    /// A flush returned: these writes, by their number, are on the disk.
    Flushed(Vec<usize>),
    /// This one is, whatever becomes of others, and of those before that wrote to the same blocks.
    Durable(usize),
    /// It has so many blocks from here on.
    Resized(usize),
    /// It lost its power and got it back: this is what was left.
    Cycled(Image),
}

#[derive(Clone)]
struct Write {
    start: u64,
    blocks: Vec<Block>,
    /// Of the sectors, how many reach the disk at most.
    sectors: usize,
}

impl Write {
    fn to(&self) -> core::ops::Range<u64> {
        self.start..self.start + self.blocks.len() as u64
    }

    /// The blocks of which all reaches the disk.
    fn whole(&self) -> core::ops::Range<u64> {
        self.start
            ..self
                .to()
                .end
                .min(self.start + (self.sectors / SECTORS) as u64)
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.start < other.to().end && other.start < self.to().end
    }

    /// What of it is not in `covers`, block by block.
    fn without(&self, covers: &[core::ops::Range<u64>]) -> impl Iterator<Item = Self> {
        let left = self.blocks.iter().zip(self.start..).enumerate();
        let left = left.filter(|(_, (_, at))| !covers.iter().any(|cover| cover.contains(at)));
        left.map(|(number, (block, at))| Self {
            start: at,
            blocks: alloc::vec![Rc::clone(block)],
            sectors: self.sectors.saturating_sub(number * SECTORS).min(SECTORS),
        })
    }
}

/// How a disk makes durable what is written for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Flushing {
    /// With a flush that is a request of its own.
    #[default]
    Apart,
    /// [`write_durable`](BlockDevice::write_durable) flushes as well.
    Combined,
    /// It makes durable what it writes and nothing else, if no more is asked for.
    Alone,
}

impl Flushing {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Apart, Self::Combined, Self::Alone];
}

impl SimDisk {
    /// A disk of `blocks` zero blocks. How long requests take follows from `seed`.
    pub fn new(blocks: usize, seed: u64) -> Self {
        Self::with_image(alloc::vec![Bytes::filled(0); blocks], seed)
    }

    fn with_image(image: Image, seed: u64) -> Self {
        Self::with_shared_image(Rc::new(image), seed)
    }

    fn with_shared_image(image: Rc<Image>, seed: u64) -> Self {
        let inner = Inner {
            origin: Rc::clone(&image),
            image: RefCell::new(image),
            events: RefCell::default(),
            witness: RefCell::new(None),
            writes: Cell::new(0),
            completed: RefCell::default(),
            faults: RefCell::new(None),
            fates: RefCell::new(None),
            holds: RefCell::new(None),
            held: RefCell::default(),
            released: Notify::default(),
            random: RefCell::new(Random::new(seed)),
            prompt: Cell::new(false),
            flushing: Cell::default(),
            cycles: Cell::new(0),
            resized: Notify::default(),
        };
        Self {
            inner: Rc::new(inner),
        }
    }

    /// A disk with these bytes, cut to whole blocks.
    pub fn from_bytes(bytes: &[u8], seed: u64) -> Self {
        let image = bytes
            .chunks_exact(BLOCK_SIZE)
            .map(|block| Bytes::new(block.to_vec()))
            .collect();
        Self::with_image(image, seed)
    }

    /// The image, its own from here on if it was shared.
    fn image_mut(&self) -> RefMut<'_, Image> {
        RefMut::map(self.inner.image.borrow_mut(), Rc::make_mut)
    }

    /// Makes the disk larger, or smaller, which only an image that nobody uses can become. New blocks hold anything.
    pub fn resize(&self, blocks: usize) {
        self.image_mut().resize(blocks, Bytes::filled(GARBAGE));
        self.happened(Event::Resized(blocks));
        self.inner.resized.notify();
    }

    /// A new disk with the present content, as after a clean power-off.
    #[must_use]
    pub fn snapshot(&self, seed: u64) -> Self {
        let image = Rc::clone(&self.inner.image.borrow());
        Self::with_shared_image(image, seed).flushing_as(self.flushing())
    }

    /// All bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.inner
            .image
            .borrow()
            .iter()
            .flat_map(|block| block.bytes.iter().copied())
            .collect()
    }

    /// A hash of all bytes: the same for the same content. Blocks that images share are looked at once.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint_of(0..self.inner.image.borrow().len())
    }

    /// The same of some blocks.
    pub fn fingerprint_of(&self, blocks: impl Iterator<Item = usize>) -> u64 {
        let image = self.inner.image.borrow();
        let hashes = blocks.map(|block| image.get(block).map(|block| block.hash()));
        foldhash::fast::FixedState::default().hash_one(hashes.collect::<Vec<_>>())
    }

    /// Flips one bit, silently.
    pub fn flip_bit(&self, block: BlockIndex, bit: usize) {
        let mut image = self.image_mut();
        if let Some(found) = usize::try_from(block.0)
            .ok()
            .and_then(|at| image.get_mut(at))
            && let Some(byte) = Rc::make_mut(found).bytes_mut().get_mut(bit / 8)
        {
            *byte ^= 1 << (bit % 8);
        }
    }

    /// From now on requests take no time, or take some again.
    pub fn be_prompt(&self, prompt: bool) {
        self.inner.prompt.set(prompt);
    }

    /// From now on it flushes like that. Faults and holds are asked of a write, and of the flush when that is through. A disk that is made of this one does as this one.
    pub fn set_flushing(&self, flushing: Flushing) {
        self.inner.flushing.set(flushing);
    }

    /// The same as `seed` says, each of them a third of all.
    pub fn flush_by(&self, seed: u64) {
        let kind = Random::new(!seed).index(Flushing::ALL.len());
        self.set_flushing(Flushing::ALL.get(kind).copied().unwrap_or_default());
    }

    /// How it flushes.
    pub fn flushing(&self) -> Flushing {
        self.inner.flushing.get()
    }

    fn flushing_as(self, flushing: Flushing) -> Self {
        self.set_flushing(flushing);
        self
    }

    /// Asks `plan` about every request from now on; it may let it fail. A failed write may still have
    /// reached the disk, in part or whole.
    pub fn set_faults(&self, plan: impl FnMut(Request) -> Option<DeviceError> + 'static) {
        *self.inner.faults.borrow_mut() = Some(Box::new(plan));
    }

    /// No more faults.
    pub fn clear_faults(&self) {
        *self.inner.faults.borrow_mut() = None;
    }

    /// Asks `fates` from now on what becomes of every write that succeeds.
    pub fn set_fates(&self, fates: impl FnMut(BlockIndex, usize) -> Fate + 'static) {
        *self.inner.fates.borrow_mut() = Some(Box::new(fates));
    }

    /// Every write is done as asked again.
    pub fn clear_fates(&self) {
        *self.inner.fates.borrow_mut() = None;
    }

    /// Asks `holds` from now on which requests neither complete nor fail until [`release`](Self::release). A write that
    /// is held reaches the disk then and not before, also when nobody waits for it any more.
    pub fn set_holds(&self, holds: impl FnMut(Request) -> bool + 'static) {
        *self.inner.holds.borrow_mut() = Some(Box::new(holds));
    }

    /// How many requests are held.
    pub fn held_count(&self) -> usize {
        self.inner.held.borrow().len()
    }

    /// Holds no more requests, and carries out those that are held, in any order.
    pub fn release(&self) {
        *self.inner.holds.borrow_mut() = None;
        let mut held = self.inner.held.take();
        while !held.is_empty() {
            let next = self.inner.random.borrow_mut().index(held.len());
            let Held { write, done } = held.swap_remove(next);
            let number = write.map(|write| self.carry_out(write, |_| true));
            self.inner.completed.borrow_mut().extend(number);
            done.set(Some(number.unwrap_or_default()));
        }
        self.inner.released.notify();
    }

    /// Loses its power and has it back at once, while whoever uses it goes on: of what no flush covers those sectors survive
    /// for which `survives` says so, see [`Crash::disk`].
    pub fn power_cycle(&self, survives: impl FnMut(usize) -> bool) {
        let crash = self.crash_at(self.event_count());
        let image = crash.image_with(survives);
        self.inner.image.replace(Rc::new(image.clone()));
        self.inner.completed.borrow_mut().clear();
        self.inner.cycles.set(self.inner.cycles.get() + 1);
        self.happened(Event::Cycled(image));
    }

    /// Number of events so far: every write and discard issued and every flush returned. A power cut happens
    /// between two of them.
    pub fn event_count(&self) -> usize {
        self.inner.events.borrow().len()
    }

    /// Calls `witness` after every event from now on, so that the order of events of several disks can be told.
    pub fn set_witness(&self, witness: impl FnMut() + 'static) {
        *self.inner.witness.borrow_mut() = Some(Box::new(witness));
    }

    fn happened(&self, event: Event) {
        self.inner.events.borrow_mut().push(event);
        if let Some(witness) = &mut *self.inner.witness.borrow_mut() {
            witness();
        }
    }

    /// What a power cut after the first `events` events can leave.
    pub fn crash_at(&self, events: usize) -> Crash {
        let log = self.inner.events.borrow();
        let (mut durable, mut alone) = (BTreeSet::new(), Vec::new());
        let mut writes = Vec::new();
        let mut count = 0;
        let mut origin: &Image = &self.inner.origin;
        let mut size = origin.len();
        for event in log.iter().take(events) {
            match event {
                Event::Write(write) => {
                    writes.push((count, write));
                    count += 1;
                }
                Event::Flushed(covered) => durable.extend(covered.iter().copied()),
                Event::Durable(number) => {
                    durable.insert(*number);
                    alone.push(*number);
                }
                Event::Resized(blocks) => size = *blocks,
                Event::Cycled(image) => {
                    writes.clear();
                    (origin, size) = (image, image.len());
                }
            }
        }
        let mut image = origin.clone();
        image.resize(size, Bytes::filled(GARBAGE));
        let mut open = Vec::new();
        for &(number, write) in &writes {
            if durable.contains(&number) {
                apply(&mut image, write, |_| true);
                continue;
            }
            // What is durable there is newer.
            let newer = alone.iter().filter(|newer| **newer > number);
            let newer = writes
                .iter()
                .filter(|(other, _)| newer.clone().any(|newer| newer == other));
            let covers = newer.filter(|(_, newer)| newer.overlaps(write));
            let covers: Vec<_> = covers.map(|(_, newer)| newer.whole()).collect();
            if covers.is_empty() {
                open.push(Rc::clone(write));
            } else {
                open.extend(write.without(&covers).map(Rc::new));
            }
        }
        let flushing = self.flushing();
        Crash {
            image,
            open,
            flushing,
        }
    }

    fn fault(&self, request: Request) -> Result<(), DeviceError> {
        let fault = self
            .inner
            .faults
            .borrow_mut()
            .as_mut()
            .and_then(|plan| plan(request));
        fault.map_or(Ok(()), Err)
    }

    /// Writes, and gives the number of the write, unless it was held.
    async fn write_numbered(
        &self,
        start: BlockIndex,
        buffer: Buffer,
    ) -> (Buffer, Result<usize, DeviceError>) {
        if self.in_range(start, buffer.len_blocks()).is_none() {
            return (buffer, Err(DeviceError::OutOfRange));
        }
        let request = Request::Write(start, buffer.len_blocks());
        let result = self.fault(request);
        let blocks = buffer.bytes().chunks_exact(BLOCK_SIZE);
        let blocks = blocks.map(|block| Bytes::new(block.to_vec()));
        let mut write = Write {
            start: start.0,
            blocks: blocks.collect(),
            sectors: buffer.len_blocks() * SECTORS,
        };
        let failed = result.is_err();
        if !failed && let Some(fates) = &mut *self.inner.fates.borrow_mut() {
            match fates(start, buffer.len_blocks()) {
                Fate::Written => {}
                Fate::Torn(sectors) => write.sectors = write.sectors.min(sectors),
                Fate::Lost => write.sectors = 0,
                Fate::Misdirected(elsewhere) => write.start = elsewhere.0,
            }
        }
        if !failed && let Some(number) = self.hold(request, || Some(write.clone())).await {
            return (buffer, Ok(number));
        }
        let random = &self.inner.random;
        let number = self.carry_out(write, |_| !failed || random.borrow_mut().one_in(2));
        self.take_time().await;
        if !failed {
            self.inner.completed.borrow_mut().push(number);
        }
        (buffer, result.map(|()| number))
    }

    /// Waits for the release of a request that is held, which says what number its write has; nothing for one that is not. `write` gives what it writes.
    async fn hold(&self, request: Request, write: impl FnOnce() -> Option<Write>) -> Option<usize> {
        let held = {
            let mut holds = self.inner.holds.borrow_mut();
            holds.as_mut().is_some_and(|holds| holds(request))
        };
        if !held {
            return None;
        }
        let done = Rc::new(Cell::new(None));
        let held = Held {
            write: write(),
            done: Rc::clone(&done),
        };
        self.inner.held.borrow_mut().push(held);
        Some(self.inner.released.until(|| done.get()).await)
    }

    /// Lets a write reach the disk, as far as `survives` says, and gives its number.
    fn carry_out(&self, write: Write, survives: impl FnMut(usize) -> bool) -> usize {
        apply(&mut self.image_mut(), &write, survives);
        self.happened(Event::Write(Rc::new(write)));
        self.inner.writes.replace(self.inner.writes.get() + 1)
    }

    /// Lets the others run for a while, so requests overlap and complete in any order.
    async fn take_time(&self) {
        if self.inner.prompt.get() {
            return;
        }
        let rounds = self.inner.random.borrow_mut().below(4);
        for _ in 0..rounds {
            embassy_futures::yield_now().await;
        }
    }

    fn in_range(&self, start: BlockIndex, blocks: usize) -> Option<core::ops::Range<usize>> {
        let start = usize::try_from(start.0).ok()?;
        let end = start.checked_add(blocks)?;
        (blocks > 0 && end <= self.inner.image.borrow().len()).then_some(start..end)
    }
}

/// What blocks that were never written are full of.
const GARBAGE: u8 = 0xA7;

/// What a power cut leaves: an image, and writes of which any subset of sectors survives.
pub struct Crash {
    image: Image,
    open: Vec<Rc<Write>>,
    flushing: Flushing,
}

impl Crash {
    /// Sectors whose fate is open.
    pub fn open_sectors(&self) -> usize {
        self.open.iter().map(|write| write.sectors).sum()
    }

    /// Where each of the writes that they belong to ends, as a number of open sectors.
    pub fn open_writes(&self) -> Vec<usize> {
        let ends = self.open.iter().scan(0, |end, write| {
            *end += write.sectors;
            Some(*end)
        });
        ends.collect()
    }

    /// The disk when of the open sectors, in the order they were written, those survive for which
    /// `survives` says so (it is called once for each).
    pub fn disk(&self, survives: impl FnMut(usize) -> bool, seed: u64) -> SimDisk {
        let disk = SimDisk::with_image(self.image_with(survives), seed);
        disk.flushing_as(self.flushing)
    }

    fn image_with(&self, mut survives: impl FnMut(usize) -> bool) -> Image {
        let mut image = self.image.clone();
        let mut number = 0;
        for write in &self.open {
            apply(&mut image, write, |_| {
                number += 1;
                survives(number - 1)
            });
        }
        image
    }

    /// The disk when it keeps its power and only the machine begins anew: everything can be read, and the fate of the open
    /// sectors is open until the next flush.
    pub fn reset(&self, seed: u64) -> SimDisk {
        let disk = SimDisk::with_image(self.image.clone(), seed);
        disk.set_flushing(self.flushing);
        for write in &self.open {
            apply(&mut disk.image_mut(), write, |_| true);
        }
        let events = self.open.iter().map(|write| Event::Write(Rc::clone(write)));
        disk.inner.events.borrow_mut().extend(events);
        disk.inner.writes.set(self.open.len());
        disk.inner.completed.borrow_mut().extend(0..self.open.len());
        disk
    }
}

/// Writes those sectors for which `survives` (asked in order) says so.
fn apply(image: &mut Image, write: &Write, mut survives: impl FnMut(usize) -> bool) {
    for (number, block) in write.blocks.iter().enumerate() {
        let first = number * SECTORS;
        let mut kept = [false; SECTORS];
        let reach = write.sectors.saturating_sub(first).min(SECTORS);
        for (sector, kept) in (first..).zip(kept.iter_mut().take(reach)) {
            *kept = survives(sector);
        }
        let target = usize::try_from(write.start).ok();
        let Some(target) = target.and_then(|start| image.get_mut(start + number)) else {
            continue;
        };
        if kept == [true; SECTORS] {
            *target = Rc::clone(block);
        } else if kept != [false; SECTORS] {
            let sectors = block.bytes.chunks_exact(SECTOR_SIZE);
            let targets = Rc::make_mut(target).bytes_mut();
            let targets = targets.chunks_exact_mut(SECTOR_SIZE);
            for ((to, from), kept) in targets.zip(sectors).zip(kept) {
                if kept {
                    to.copy_from_slice(from);
                }
            }
        }
    }
}

impl BlockDevice for SimDisk {
    fn geometry(&self) -> DeviceGeometry {
        let block_count = self.inner.image.borrow().len() as u64;
        DeviceGeometry {
            block_count,
            discard: true,
        }
    }

    async fn resized(&self, block_count: u64) {
        let other = || (self.geometry().block_count != block_count).then_some(());
        self.inner.resized.until(other).await;
    }

    async fn read(
        &self,
        start: BlockIndex,
        mut buffer: Buffer,
    ) -> (Buffer, Result<(), DeviceError>) {
        let Some(range) = self.in_range(start, buffer.len_blocks()) else {
            return (buffer, Err(DeviceError::OutOfRange));
        };
        let request = Request::Read(start, buffer.len_blocks());
        let result = self.fault(request);
        self.hold(request, || None).await;
        self.take_time().await;
        if result.is_ok() {
            let image = self.inner.image.borrow();
            let blocks = image.get(range).unwrap_or_default();
            for (target, block) in buffer.bytes_mut().chunks_exact_mut(BLOCK_SIZE).zip(blocks) {
                target.copy_from_slice(&block.bytes);
            }
        }
        (buffer, result)
    }

    async fn write(&self, start: BlockIndex, buffer: Buffer) -> (Buffer, Result<(), DeviceError>) {
        let (buffer, written) = self.write_numbered(start, buffer).await;
        (buffer, written.map(drop))
    }

    async fn flush(&self) -> Result<(), DeviceError> {
        let result = self.fault(Request::Flush);
        self.hold(Request::Flush, || None).await;
        let covered = core::mem::take(&mut *self.inner.completed.borrow_mut());
        self.take_time().await;
        if result.is_ok() {
            self.happened(Event::Flushed(covered));
        }
        result
    }

    async fn write_durable(
        &self,
        start: BlockIndex,
        buffer: Buffer,
        least: Durable,
        _ahead: u64,
    ) -> (Buffer, Result<Durable, DeviceError>) {
        let cycles = self.inner.cycles.get();
        let (buffer, written) = self.write_numbered(start, buffer).await;
        let number = match written {
            Ok(number) => number,
            Err(error) => return (buffer, Err(error)),
        };
        let done = match self.flushing() {
            Flushing::Apart => Ok(Durable::Nothing),
            // What it had is gone.
            Flushing::Alone if self.inner.cycles.get() != cycles => Err(DeviceError::Io),
            Flushing::Alone if least < Durable::All => {
                self.happened(Event::Durable(number));
                Ok(Durable::Written)
            }
            _ => self.flush().await.map(|()| Durable::All),
        };
        (buffer, done)
    }

    async fn discard(&self, start: BlockIndex, count: u64) -> Result<(), DeviceError> {
        let count = usize::try_from(count).map_err(|_| DeviceError::OutOfRange)?;
        if self.in_range(start, count).is_none() {
            return Err(DeviceError::OutOfRange);
        }
        // What a discarded block reads as is open: what it was, zeros, or anything. Like a write it takes
        // effect for good with a flush, and before it perhaps.
        let fill = match self.inner.random.borrow_mut().below(4) {
            0 => None,
            1 => Some(0),
            _ => Some(0xD5),
        };
        let blocks = fill.map_or(Vec::new(), |fill| alloc::vec![Bytes::filled(fill); count]);
        let write = Write {
            start: start.0,
            sectors: blocks.len() * SECTORS,
            blocks,
        };
        let number = self.carry_out(write, |_| true);
        self.take_time().await;
        self.inner.completed.borrow_mut().push(number);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use core::pin::pin;
    use core::task::Poll;

    use embassy_futures::poll_once;

    use super::*;
    use crate::sim::Executor;

    const FIRST: BlockIndex = BlockIndex(1);

    fn disk(flushing: Flushing) -> SimDisk {
        SimDisk::new(4, 1).flushing_as(flushing)
    }

    /// Two blocks of ones.
    async fn write_durable(disk: &SimDisk, least: Durable) -> Result<Durable, DeviceError> {
        let mut buffer = Buffer::zeroed(2).expect("there is memory");
        buffer.bytes_mut().fill(1);
        disk.write_durable(FIRST, buffer, least, 0).await.1
    }

    /// What of it a power cut can take.
    fn open_sectors(disk: &SimDisk) -> usize {
        disk.crash_at(disk.event_count()).open_sectors()
    }

    #[test]
    fn what_is_to_be_durable_is_once_that_is_said_and_not_before() {
        for flushing in Flushing::ALL {
            let disk = disk(flushing).snapshot(1);
            disk.be_prompt(true);
            disk.set_holds(|request| request == Request::Flush);
            let mut writing = pin!(write_durable(&disk, Durable::All));
            let done = poll_once(writing.as_mut());
            assert_eq!(open_sectors(&disk), 2 * SECTORS);
            if flushing == Flushing::Apart {
                assert_eq!(done, Poll::Ready(Ok(Durable::Nothing)));
                continue;
            }
            assert_eq!(done, Poll::Pending);
            disk.release();
            assert_eq!(poll_once(writing), Poll::Ready(Ok(Durable::All)));
            assert_eq!(open_sectors(&disk), 0);
            let after_cut = disk.crash_at(1).disk(|_| false, 1);
            assert_eq!(after_cut.flushing(), flushing);
        }
    }

    #[test]
    fn a_durable_write_is_and_others_are_not() {
        let disk = disk(Flushing::Alone);
        let target = disk.clone();
        Executor::new(1).run(async move {
            let block = |byte| {
                let mut buffer = Buffer::zeroed(2).expect("there is memory");
                buffer.bytes_mut().fill(byte);
                buffer
            };
            // Blocks 0 and 1, then 1 and 2.
            target
                .write(BlockIndex(0), block(1))
                .await
                .1
                .expect("written");
            let least = Durable::Written;
            let (_, written) = target
                .write_durable(BlockIndex(1), block(2), least, 0)
                .await;
            assert_eq!(written, Ok(Durable::Written));
        });
        assert_eq!(open_sectors(&disk), SECTORS);
        let first_of = |disk: SimDisk| {
            let bytes = disk.to_bytes();
            [0, 1, 2].map(|block| bytes[block * BLOCK_SIZE])
        };
        let crash = disk.crash_at(disk.event_count());
        assert_eq!(first_of(crash.disk(|_| false, 1)), [0, 2, 2]);
        assert_eq!(first_of(crash.disk(|_| true, 1)), [1, 2, 2]);
    }

    #[test]
    fn either_part_of_a_durable_write_may_fail() {
        for fails in [Request::Write(FIRST, 2), Request::Flush] {
            let disk = disk(Flushing::Combined);
            let target = disk.clone();
            let asked = Rc::new(RefCell::new(Vec::new()));
            let noted = Rc::clone(&asked);
            disk.set_faults(move |request| {
                noted.borrow_mut().push(request);
                (request == fails).then_some(DeviceError::Io)
            });
            let done =
                Executor::new(1).run(async move { write_durable(&target, Durable::All).await });
            assert_eq!(done, Err(DeviceError::Io));
            assert_eq!(asked.borrow().last(), Some(&fails));
            assert_eq!(open_sectors(&disk), 2 * SECTORS);
        }
    }
}

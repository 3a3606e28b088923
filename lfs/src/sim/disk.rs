//! A disk in memory that remembers every write and flush, and can lose its power at any of them.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use super::Random;
use crate::layout::SECTOR_SIZE;
use crate::{BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, DeviceError, DeviceGeometry};

type Image = Vec<Rc<Vec<u8>>>;

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

/// A simulated disk; clones are the same disk.
#[derive(Clone)]
pub struct SimDisk {
    inner: Rc<Inner>,
}

struct Inner {
    image: RefCell<Image>,
    /// The image before the first event of `events`.
    origin: Image,
    events: RefCell<Vec<Event>>,
    writes: Cell<usize>,
    completed: RefCell<Vec<usize>>,
    faults: RefCell<Option<FaultPlan>>,
    random: RefCell<Random>,
}

/// What can change which images a power cut leaves.
enum Event {
    /// A write was issued: from here on its sectors may be on the disk.
    Write { start: u64, bytes: Vec<u8> },
    /// A flush returned: these writes, by their number, are on the disk.
    Flushed(Vec<usize>),
}

impl SimDisk {
    /// A disk of `blocks` zero blocks. How long requests take follows from `seed`.
    pub fn new(blocks: usize, seed: u64) -> Self {
        let zero = Rc::new(alloc::vec![0; BLOCK_SIZE]);
        Self::with_image(alloc::vec![zero; blocks], seed)
    }

    fn with_image(image: Image, seed: u64) -> Self {
        let inner = Inner {
            origin: image.clone(),
            image: RefCell::new(image),
            events: RefCell::default(),
            writes: Cell::new(0),
            completed: RefCell::default(),
            faults: RefCell::new(None),
            random: RefCell::new(Random::new(seed)),
        };
        Self {
            inner: Rc::new(inner),
        }
    }

    /// A disk with these bytes, cut to whole blocks.
    pub fn from_bytes(bytes: &[u8], seed: u64) -> Self {
        let image = bytes
            .chunks_exact(BLOCK_SIZE)
            .map(|block| Rc::new(block.to_vec()))
            .collect();
        Self::with_image(image, seed)
    }

    /// A new disk with the present content, as after a clean power-off.
    #[must_use]
    pub fn snapshot(&self, seed: u64) -> Self {
        Self::with_image(self.inner.image.borrow().clone(), seed)
    }

    /// All bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.inner
            .image
            .borrow()
            .iter()
            .flat_map(|block| block.iter().copied())
            .collect()
    }

    /// Flips one bit, silently.
    pub fn flip_bit(&self, block: BlockIndex, bit: usize) {
        let mut image = self.inner.image.borrow_mut();
        if let Some(found) = usize::try_from(block.0)
            .ok()
            .and_then(|at| image.get_mut(at))
            && let Some(byte) = Rc::make_mut(found).get_mut(bit / 8)
        {
            *byte ^= 1 << (bit % 8);
        }
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

    /// Number of events so far: every write issued and every flush returned. A power cut happens
    /// between two of them.
    pub fn event_count(&self) -> usize {
        self.inner.events.borrow().len()
    }

    /// What a power cut after the first `events` events can leave.
    pub fn crash_at(&self, events: usize) -> Crash {
        let log = self.inner.events.borrow();
        let mut durable = BTreeSet::new();
        let mut writes = Vec::new();
        for event in log.iter().take(events) {
            match event {
                Event::Write { start, bytes } => writes.push((*start, bytes.clone())),
                Event::Flushed(covered) => durable.extend(covered.iter().copied()),
            }
        }
        let mut image = self.inner.origin.clone();
        let mut open = Vec::new();
        for (number, (start, bytes)) in writes.into_iter().enumerate() {
            if durable.contains(&number) {
                apply(&mut image, start, &bytes, |_| true);
            } else {
                open.push((start, bytes));
            }
        }
        Crash { image, open }
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

    /// Lets the others run for a while, so requests overlap and complete in any order.
    async fn take_time(&self) {
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

/// What a power cut leaves: an image, and writes of which any subset of sectors survives.
pub struct Crash {
    image: Image,
    open: Vec<(u64, Vec<u8>)>,
}

impl Crash {
    /// Sectors whose fate is open.
    pub fn open_sectors(&self) -> usize {
        self.open
            .iter()
            .map(|(_, bytes)| bytes.len() / SECTOR_SIZE)
            .sum()
    }

    /// The disk when of the open sectors, in the order they were written, those survive for which
    /// `survives` says so (it is called once for each).
    pub fn disk(&self, mut survives: impl FnMut(usize) -> bool, seed: u64) -> SimDisk {
        let mut image = self.image.clone();
        let mut number = 0;
        for (start, bytes) in &self.open {
            apply(&mut image, *start, bytes, |_| {
                number += 1;
                survives(number - 1)
            });
        }
        SimDisk::with_image(image, seed)
    }
}

/// Writes those sectors of `bytes` for which `survives` (asked in order) says so.
fn apply(image: &mut Image, start: u64, bytes: &[u8], mut survives: impl FnMut(usize) -> bool) {
    const SECTORS: usize = BLOCK_SIZE / SECTOR_SIZE;
    for (number, sector) in bytes.chunks_exact(SECTOR_SIZE).enumerate() {
        if !survives(number) {
            continue;
        }
        let Ok(block) = usize::try_from(start).map(|start| start + number / SECTORS) else {
            return;
        };
        let from = number % SECTORS * SECTOR_SIZE;
        if let Some(block) = image.get_mut(block)
            && let Some(target) = Rc::make_mut(block).get_mut(from..from + SECTOR_SIZE)
        {
            target.copy_from_slice(sector);
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

    async fn read(
        &self,
        start: BlockIndex,
        mut buffer: Buffer,
    ) -> (Buffer, Result<(), DeviceError>) {
        let Some(range) = self.in_range(start, buffer.len_blocks()) else {
            return (buffer, Err(DeviceError::OutOfRange));
        };
        let result = self.fault(Request::Read(start, buffer.len_blocks()));
        self.take_time().await;
        if result.is_ok() {
            let image = self.inner.image.borrow();
            let blocks = image.get(range).unwrap_or_default();
            for (target, block) in buffer.bytes_mut().chunks_exact_mut(BLOCK_SIZE).zip(blocks) {
                target.copy_from_slice(block);
            }
        }
        (buffer, result)
    }

    async fn write(&self, start: BlockIndex, buffer: Buffer) -> (Buffer, Result<(), DeviceError>) {
        if self.in_range(start, buffer.len_blocks()).is_none() {
            return (buffer, Err(DeviceError::OutOfRange));
        }
        let result = self.fault(Request::Write(start, buffer.len_blocks()));
        let number = self.inner.writes.get();
        self.inner.writes.set(number + 1);
        let bytes = buffer.bytes().to_vec();
        let failed = result.is_err();
        apply(&mut self.inner.image.borrow_mut(), start.0, &bytes, |_| {
            !failed || self.inner.random.borrow_mut().one_in(2)
        });
        self.inner.events.borrow_mut().push(Event::Write {
            start: start.0,
            bytes,
        });
        self.take_time().await;
        if !failed {
            self.inner.completed.borrow_mut().push(number);
        }
        (buffer, result)
    }

    async fn flush(&self) -> Result<(), DeviceError> {
        let result = self.fault(Request::Flush);
        let covered = core::mem::take(&mut *self.inner.completed.borrow_mut());
        self.take_time().await;
        if result.is_ok() {
            self.inner.events.borrow_mut().push(Event::Flushed(covered));
        }
        result
    }

    async fn discard(&self, start: BlockIndex, count: u64) -> Result<(), DeviceError> {
        let count = usize::try_from(count).map_err(|_| DeviceError::OutOfRange)?;
        if self.in_range(start, count).is_none() {
            return Err(DeviceError::OutOfRange);
        }
        // What a discarded block reads as is open; the worst for us is something that looks alive.
        self.take_time().await;
        Ok(())
    }
}

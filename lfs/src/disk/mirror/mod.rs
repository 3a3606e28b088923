//! A mirror: two disks that hold the same, as one [`BlockDevice`] (DESIGN.md, "Mirror").
//!
//! - [`Mirror::open`] (`open`): what the two disks are to each other, from their member records, and who leads;
//! - `state`: who is in, and which regions the other lacks;
//! - here: requests. Writes go to both, a flush is acknowledged when every disk that is in has flushed; a disk that
//!   fails is out, which the other one's record says before anything more is acknowledged;
//! - [`Mirror::run`] (`resync`): brings a disk back that answers again, copying only what it lacks;
//! - `mend`: writes again on one disk what is right on the other;
//! - `record`, `regions`: the member record on the disk (SPEC.md, "Member record").
//!
//! Invariants:
//! - The disk that leads has everything that was acknowledged. While the other one is not in, the leader's record
//!   durably marks a region before anything is written there.
//! - A disk that is being brought up to date says so in its own record before its first block is touched, and
//!   is never read from until it is in.
//! - Whoever copies or mends blocks has them to himself: writes there wait. Mends are carried out by [`Mirror::run`], as copies
//!   are: who asked for one may go away, and the write would be on its way still when the blocks are let go.
//! - A disk that went out is not taken back as long as a write that was sent to it may still arrive.
//!
//! - No more is used of the disks than both have. When both have become larger, and have everything, the mirror does; one
//!   that is alone keeps the size that the file system on it has, so that the other one still fits when it is back.
//!
//! Whoever writes, discards or flushes waits until that has ended; where the leader's record was being written and nobody waits
//! any more, the mirror takes that for a failure.
//!
//! One disk alone that is no part of a mirror is passed through. Not here: what is right and what is
//! damaged (those who read know, and call [`BlockDevice::mend`]); more than two disks; a disk that neither
//! completes nor fails a request comes back at the next start only.

mod mend;
mod open;
mod record;
mod regions;
mod resync;
mod state;

use alloc::rc::Rc;
use core::cell::{Cell, RefCell};
use core::ops::Range;

use embassy_futures::join::join;
use embassy_futures::select::{Either, select, select3};

use self::mend::Order;
pub use self::open::{CommonPart, MirrorError, Side};
pub(crate) use self::record::RECORD_BLOCKS;
use self::state::{Request, Standing, State};
use crate::{
    Advice, BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, DeviceError, DeviceGeometry, Durable,
    Notify,
};

/// Failed reads in a row after which a disk is given up.
const READ_ERRORS_MAX: u32 = 8;

/// One or two disks as one. Clones are handles of the same.
pub struct Mirror<A> {
    inner: Rc<Inner<A>>,
}

impl<A> Clone for Mirror<A> {
    fn clone(&self) -> Self {
        Self {
            inner: Rc::clone(&self.inner),
        }
    }
}

struct Inner<A> {
    /// By member number.
    devices: [Option<A>; 2],
    /// Blocks that are used of each disk: both have them, and the other one will when it is away.
    block_count: Cell<u64>,
    read_only: bool,
    state: RefCell<State>,
    /// Something in the state changed.
    changed: Notify,
    /// A disk went out: who waits for it need not any more.
    gone: Notify,
    /// Whether [`Mirror::run`] carries out mends, and the one it is to carry out; with it goes the right to its blocks.
    mends: Cell<bool>,
    order: RefCell<Option<Order>>,
}

/// How a disk of a mirror stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberState {
    /// It is not attached.
    Absent,
    /// It has everything and takes part in everything.
    In,
    /// It failed; it is tried again from time to time.
    Out,
    /// It is being brought up to date.
    Resync,
}

/// How a mirror is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MirrorStatus {
    /// The disks, in the order given.
    pub members: [MemberState; 2],
    /// Bytes on each of them; 0 of one that is not attached. What one has more than the other is not used.
    pub member_bytes: [u64; 2],
    /// Bytes that the disk which is not in still lacks.
    pub behind_bytes: u64,
    /// Bytes copied to bring a disk up to date, since the start.
    pub resynced_bytes: u64,
    /// Damaged places written again from the other disk, since the start.
    pub repaired: u64,
    /// Times that a disk went out, since the start.
    pub failures: u64,
    /// Blocks that could not be read from the disk with everything when the other one was last brought up to date.
    pub unread_blocks: u64,
}

impl<A: BlockDevice> Mirror<A> {
    fn device(&self, member: usize) -> Option<&A> {
        self.inner.devices.get(member).and_then(Option::as_ref)
    }

    fn state<T>(&self, body: impl FnOnce(&mut State) -> T) -> T {
        body(&mut self.inner.state.borrow_mut())
    }

    /// Blocks that could be used: those that all disks have, if none is away or lacks something. Else no more than are.
    fn block_count_next(&self) -> u64 {
        let used = self.inner.block_count.get();
        if !self.state(|state| state.may_grow()) {
            return used;
        }
        let devices = self.inner.devices.iter().flatten();
        let sizes = devices.map(|device| device.geometry().block_count);
        sizes.min().unwrap_or(used).max(used)
    }

    /// Goes on with all that both disks have by now.
    fn grow(&self) {
        let block_count = self.block_count_next();
        if block_count > self.inner.block_count.get() {
            self.state(|state| state.grow(block_count));
            self.inner.block_count.set(block_count);
        }
    }

    /// Waits for a request to one disk. `None`: it was not waited for to its end, because the disk is out, and if the
    /// request changes something, will not be taken back.
    async fn on_member<T>(
        &self,
        member: usize,
        kind: Request,
        request: impl Future<Output = T>,
    ) -> Option<T> {
        let departures = || self.state(|state| state.departures(member));
        let before = departures();
        let _counted = Counted {
            mirror: self,
            member,
            number: self.state(|state| state.begin_request(member, kind)),
        };
        let given_up = self.inner.gone.until(|| {
            let asked = kind == Request::Asks && departures() != before;
            (asked || self.state(|state| state.is_silent(member))).then_some(())
        });
        match select(given_up, request).await {
            Either::First(()) => None,
            Either::Second(value) => Some(value),
        }
    }

    /// The disk failed: it is out, unless it is the last. True when it was put out.
    fn fail(&self, member: usize) -> bool {
        let out = self.state(|state| state.fail(member));
        if out {
            self.inner.gone.notify();
            self.inner.changed.notify();
        }
        out
    }

    /// Waits until nobody copies these blocks, and keeps copiers away until the guard goes.
    async fn enter(&self, start: BlockIndex, count: u64) -> Writing<'_, A> {
        let blocks = start.0..start.0.saturating_add(count);
        let begin = || self.state(|state| state.begin_write(&blocks));
        let number = self.inner.changed.until(begin).await;
        Writing {
            mirror: self,
            number,
        }
    }

    /// Has these blocks to itself until the guard goes: writes under way are waited for, others wait.
    async fn lock(&self, blocks: Range<u64>) -> Locked<'_, A> {
        let take = || self.state(|state| state.lock(&blocks).then_some(()));
        self.inner.changed.until(take).await;
        let locked = Locked { mirror: self };
        let drained = || self.state(|state| (!state.writes_in(&blocks)).then_some(()));
        self.inner.changed.until(drained).await;
        locked
    }

    /// Notes a write by whoever has the blocks to himself, until the guard goes.
    fn note(&self, start: BlockIndex, count: u64) -> Writing<'_, A> {
        let blocks = start.0..start.0.saturating_add(count);
        Writing {
            mirror: self,
            number: self.state(|state| state.note_write(blocks)),
        }
    }

    /// Begins the epoch of two disks that start together, once, before anything else is written.
    async fn begin_together(&self) -> Result<(), DeviceError> {
        let due = self
            .inner
            .changed
            .until(|| self.state(State::take_epoch))
            .await;
        if !due {
            return Ok(());
        }
        let mut turn = EpochTurn {
            mirror: self,
            begun: false,
        };
        self.begin_epoch().await?;
        turn.begun = true;
        Ok(())
    }

    /// Sees to it that the leader's record says what it must before `blocks` are written, or, without blocks, before
    /// anything is acknowledged.
    async fn settle(&self, blocks: Option<&Range<u64>>) -> Result<(), DeviceError> {
        loop {
            let settled = || {
                self.state(|state| {
                    if state.is_settled(blocks) {
                        return Some(Ok(None));
                    }
                    if let Some(error) = state.broken() {
                        return Some(Err(error));
                    }
                    state.begin_record(blocks).map(|begun| Ok(Some(begun)))
                })
            };
            let Some(writing) = self.inner.changed.until(settled).await? else {
                return Ok(());
            };
            let mut busy = RecordBusy {
                mirror: self,
                ended: false,
            };
            let (member, record) = (writing.member, &writing.record);
            let written = match self.device(member) {
                Some(device) => {
                    let write = record.write(device);
                    self.on_member(member, Request::Changes, write).await
                }
                None => None,
            };
            busy.ended = true;
            let written = written.unwrap_or(Err(DeviceError::Gone));
            if written.is_err() {
                // Where the other one has everything too, it leads from here on.
                self.fail(member);
            }
            self.state(|state| state.end_record(writing, written));
            drop(busy);
        }
    }

    /// Sends a write to every disk in use.
    async fn write_members(
        &self,
        start: BlockIndex,
        buffer: Buffer,
    ) -> (Buffer, Result<(), DeviceError>) {
        let write = async |member: usize, buffer: Buffer| {
            let gone = (Buffer::default(), Err(DeviceError::Gone));
            let Some(device) = self.device(member) else {
                return gone;
            };
            let write = device.write(start, buffer);
            let done = self.on_member(member, Request::Changes, write).await;
            done.unwrap_or(gone)
        };
        let targets = self.state(|state| state.written_members());
        let (first, second) = match targets {
            [Some(first), Some(second)] => (first, second),
            [Some(member), None] | [None, Some(member)] => return write(member, buffer).await,
            [None, None] => return (buffer, Err(DeviceError::Gone)),
        };
        let Ok(mut twin) = Buffer::zeroed(buffer.len_blocks()) else {
            // No memory to write to both at once: one after the other.
            let (buffer, first_written) = write(first, buffer).await;
            let still = self.state(|state| state.written_members().contains(&Some(second)));
            let (buffer, second_written) = if still && !buffer.is_empty() {
                write(second, buffer).await
            } else {
                (buffer, Err(DeviceError::Gone))
            };
            let result = self.outcome([(first, first_written), (second, second_written)]);
            return (buffer, result);
        };
        twin.bytes_mut().copy_from_slice(buffer.bytes());
        let ((one, first_written), (two, second_written)) =
            join(write(first, buffer), write(second, twin)).await;
        let buffer = if one.is_empty() { two } else { one };
        let result = self.outcome([(first, first_written), (second, second_written)]);
        (buffer, result)
    }

    /// What the results of the same request on two disks come to: whoever failed is out.
    fn outcome(&self, results: [(usize, Result<(), DeviceError>); 2]) -> Result<(), DeviceError> {
        let mut failed = Ok(());
        for (member, result) in results {
            if let Err(error) = result {
                // One that was put out meanwhile is none of our business any more.
                let matters = self.state(|state| state.standing(member) != Standing::Out);
                if matters && !self.fail(member) {
                    failed = Err(error);
                }
            }
        }
        failed
    }

    /// Reads from one disk and notes how that went.
    async fn read_member(
        &self,
        member: usize,
        start: BlockIndex,
        buffer: Buffer,
    ) -> (Buffer, Result<(), DeviceError>) {
        let blocks = buffer.len_blocks();
        let Some(device) = self.device(member) else {
            return (buffer, Err(DeviceError::Gone));
        };
        let read = device.read(start, buffer);
        match self.on_member(member, Request::Asks, read).await {
            Some((buffer, Ok(()))) => {
                self.state(|state| state.read_well(member));
                (buffer, Ok(()))
            }
            Some((buffer, Err(error))) => {
                if error != DeviceError::OutOfRange
                    && self.state(|state| state.read_badly(member)) >= READ_ERRORS_MAX
                {
                    self.fail(member);
                }
                (buffer, Err(error))
            }
            None => match Buffer::zeroed(blocks) {
                Ok(buffer) => (buffer, Err(DeviceError::Gone)),
                Err(_) => (Buffer::default(), Err(DeviceError::Gone)),
            },
        }
    }
}

/// A write under way.
struct Writing<'m, A: BlockDevice> {
    mirror: &'m Mirror<A>,
    number: u64,
}

impl<A: BlockDevice> Drop for Writing<'_, A> {
    fn drop(&mut self) {
        self.mirror.state(|state| state.end_write(self.number));
        self.mirror.inner.changed.notify();
    }
}

/// Blocks that only one may write.
struct Locked<'m, A: BlockDevice> {
    mirror: &'m Mirror<A>,
}

impl<A: BlockDevice> Locked<'_, A> {
    /// Somebody else lets go of the blocks.
    fn hand_over(self) {
        core::mem::forget(self);
    }
}

impl<A: BlockDevice> Drop for Locked<'_, A> {
    fn drop(&mut self) {
        self.mirror.state(State::unlock);
        self.mirror.inner.changed.notify();
    }
}

/// A request that counts as under way.
struct Counted<'m, A: BlockDevice> {
    mirror: &'m Mirror<A>,
    member: usize,
    number: u64,
}

impl<A: BlockDevice> Drop for Counted<'_, A> {
    fn drop(&mut self) {
        let (member, number) = (self.member, self.number);
        let is_out = self.mirror.state(|state| {
            state.end_request(member, number);
            state.standing(member) == Standing::Out
        });
        if is_out {
            // It may have been the last one that kept it from being taken back.
            self.mirror.inner.changed.notify();
        }
    }
}

/// A flush under way.
struct Flushing<'m, A: BlockDevice> {
    mirror: &'m Mirror<A>,
    number: u64,
    /// Every disk in use has completed it.
    covered: bool,
}

impl<A: BlockDevice> Drop for Flushing<'_, A> {
    fn drop(&mut self) {
        let (number, covered) = (self.number, self.covered);
        self.mirror.state(|state| state.end_flush(number, covered));
    }
}

/// The right to begin an epoch.
struct EpochTurn<'m, A: BlockDevice> {
    mirror: &'m Mirror<A>,
    begun: bool,
}

impl<A: BlockDevice> Drop for EpochTurn<'_, A> {
    fn drop(&mut self) {
        let begun = self.begun;
        self.mirror.state(|state| state.release_epoch(begun));
        self.mirror.inner.changed.notify();
    }
}

/// The right to write the leader's record.
struct RecordBusy<'m, A: BlockDevice> {
    mirror: &'m Mirror<A>,
    /// It was waited for to its end.
    ended: bool,
}

impl<A: BlockDevice> Drop for RecordBusy<'_, A> {
    fn drop(&mut self) {
        let ended = self.ended;
        self.mirror.state(|state| state.release_record(ended));
        self.mirror.inner.changed.notify();
    }
}

impl<A: BlockDevice> BlockDevice for Mirror<A> {
    fn geometry(&self) -> DeviceGeometry {
        let devices = self.inner.devices.iter().flatten();
        let mut abilities = devices.map(BlockDevice::geometry);
        DeviceGeometry {
            block_count: self.inner.block_count.get(),
            discard: abilities.any(|geometry| geometry.discard),
        }
    }

    async fn resized(&self, block_count: u64) {
        loop {
            self.grow();
            if self.inner.block_count.get() != block_count {
                return;
            }
            // Larger disks are of use once both are, and have everything.
            let level = || (self.block_count_next() > block_count).then_some(());
            let of = async |member: usize| match self.device(member) {
                Some(device) => device.resized(device.geometry().block_count).await,
                None => core::future::pending().await,
            };
            select3(of(0), of(1), self.inner.changed.until(level)).await;
        }
    }

    async fn read(&self, start: BlockIndex, buffer: Buffer) -> (Buffer, Result<(), DeviceError>) {
        let mut buffer = buffer;
        let mut failed = DeviceError::Gone;
        let mut asked = [false; 2];
        loop {
            // Who is in can change while one is being read.
            let members = self.state(|state| state.read_members());
            let mut members = members.into_iter().flatten();
            let next = members.find(|member| asked.get(*member) == Some(&false));
            let Some(member) = next else {
                return (buffer, Err(failed));
            };
            if let Some(asked) = asked.get_mut(member) {
                *asked = true;
            }
            let read;
            (buffer, read) = self.read_member(member, start, buffer).await;
            match read {
                Ok(()) => return (buffer, Ok(())),
                Err(error) => failed = error,
            }
        }
    }

    async fn write(&self, start: BlockIndex, buffer: Buffer) -> (Buffer, Result<(), DeviceError>) {
        if self.inner.read_only {
            return (buffer, Err(DeviceError::Unsupported));
        }
        let count = buffer.len_blocks() as u64;
        let end = start.0.saturating_add(count);
        if count == 0 || end > self.inner.block_count.get() {
            return (buffer, Err(DeviceError::OutOfRange));
        }
        if let Err(error) = self.begin_together().await {
            return (buffer, Err(error));
        }
        let _writing = self.enter(start, count).await;
        if let Err(error) = self.settle(Some(&(start.0..end))).await {
            return (buffer, Err(error));
        }
        self.write_members(start, buffer).await
    }

    async fn flush(&self) -> Result<(), DeviceError> {
        if self.inner.read_only {
            return Ok(());
        }
        self.begin_together().await?;
        let mut flushing = Flushing {
            mirror: self,
            number: self.state(State::begin_flush),
            covered: false,
        };
        let targets = self.state(|state| state.written_members());
        let [first, second] = targets;
        let flush_of = async |member: Option<usize>| {
            let member = member?;
            let device = self.device(member)?;
            let flush = device.flush();
            let flushed = self.on_member(member, Request::Asks, flush).await;
            Some((member, flushed.unwrap_or(Err(DeviceError::Gone))))
        };
        let results = join(flush_of(first), flush_of(second)).await;
        let result = match results {
            (Some(one), Some(two)) => self.outcome([one, two]),
            (Some((_, result)), None) | (None, Some((_, result))) => result,
            (None, None) => Err(DeviceError::Gone),
        };
        let all = [results.0, results.1];
        flushing.covered = all.iter().flatten().all(|(_, result)| result.is_ok());
        drop(flushing);
        if let Err(error) = result {
            // Whoever asked, another may rely on what it has lost.
            self.state(|state| state.break_with(error));
        }
        if let Some(error) = self.state(|state| state.broken()) {
            return Err(error);
        }
        self.settle(None).await
    }

    async fn write_durable(
        &self,
        start: BlockIndex,
        buffer: Buffer,
        least: Durable,
        ahead: u64,
    ) -> (Buffer, Result<Durable, DeviceError>) {
        let member = self.state(|state| state.lead());
        let is_alone = self.state(|state| state.is_alone()) && !self.inner.read_only;
        let Some(device) = self.device(member).filter(|_| is_alone) else {
            let (buffer, written) = self.write(start, buffer).await;
            return (buffer, written.map(|()| Durable::Nothing));
        };
        let end = start.0.saturating_add(buffer.len_blocks() as u64);
        if buffer.is_empty() || end > self.inner.block_count.get() {
            return (buffer, Err(DeviceError::OutOfRange));
        }
        let ahead = ahead.min(self.inner.block_count.get() - end);
        let write = device.write_durable(start, buffer, least, ahead);
        let done = self.on_member(member, Request::Changes, write).await;
        let gone = || (Buffer::default(), Err(DeviceError::Gone));
        let (buffer, mut written) = done.unwrap_or_else(gone);
        if let Err(error) = written {
            // It may have been the flush.
            self.state(|state| state.break_with(error));
        }
        if let Some(error) = self.state(|state| state.broken()) {
            written = Err(error);
        }
        (buffer, written)
    }

    async fn discard(&self, start: BlockIndex, count: u64) -> Result<(), DeviceError> {
        if self.inner.read_only {
            return Err(DeviceError::Unsupported);
        }
        self.begin_together().await?;
        let _writing = self.enter(start, count).await;
        self.state(|state| state.forget(start, count));
        // A hint: who cannot or will not is no worse for it.
        let targets = self.state(|state| state.written_members());
        for member in targets.into_iter().flatten() {
            if let Some(device) = self.device(member)
                && device.geometry().discard
            {
                let discard = device.discard(start, count);
                let _ = self.on_member(member, Request::Changes, discard).await;
            }
        }
        Ok(())
    }

    fn copies(&self) -> u8 {
        let members = self.state(|state| state.read_members());
        u8::try_from(members.iter().flatten().count().max(1)).unwrap_or(1)
    }

    async fn read_copy(
        &self,
        copy: u8,
        start: BlockIndex,
        buffer: Buffer,
    ) -> (Buffer, Result<(), DeviceError>) {
        let members = self.state(|state| state.read_members());
        match members.into_iter().flatten().nth(usize::from(copy)) {
            Some(member) => self.read_member(member, start, buffer).await,
            None => (buffer, Err(DeviceError::Gone)),
        }
    }

    async fn mend(&self, copy: u8, address: u64, good: &[u8]) -> Result<bool, DeviceError> {
        self.mend_other(copy, address, good).await
    }

    async fn renewal_wanted(&self) -> u64 {
        let wanted = || self.state(|state| state.renewal());
        self.inner.changed.until(wanted).await
    }

    fn renewed(&self, number: u64) {
        self.state(|state| state.renewed(number));
        self.inner.changed.notify();
    }

    fn advise(&self, start: BlockIndex, count: u64, advice: Advice) {
        self.state(|state| match advice {
            Advice::Unneeded => state.forget(start, count),
            Advice::Doubtful => state.doubt(start, count),
        });
    }

    fn mirror_status(&self) -> Option<MirrorStatus> {
        let mut status = self.state(|state| state.status())?;
        for (bytes, device) in status.member_bytes.iter_mut().zip(&self.inner.devices) {
            let blocks = device.as_ref().map(|device| device.geometry().block_count);
            *bytes = blocks.unwrap_or(0).saturating_mul(BLOCK_SIZE as u64);
        }
        Some(status)
    }
}

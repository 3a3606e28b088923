//! Requests in flight, and the queue they share with the device.
//!
//! Invariants:
//! - A slot's buffer, header and status belong to the device from [`VirtQueue::add`] until the token it
//!   returned has been popped. Until then nothing here reads or writes them, and none is freed.
//! - Every token in flight belongs to exactly one slot (`by_token`).
//! - A slot is free, or running, or ended with its result waiting for its future.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::task::Waker;

use lfs::{Buffer, DeviceError};
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::{DeviceStatus, Transport as _};
use zerocopy::{Immutable, IntoBytes, KnownLayout};

use super::SECTOR_SIZE;
use super::config::{self, Limits, OpenError, SEGMENTS_MAX};
use super::request::Operation;
use crate::virtio::{DmaHal, Transport};

/// Descriptors of the queue: QEMU's default, and what other hosts offer.
const QUEUE_SIZE: usize = 256;
const QUEUE: u16 = 0;

/// Requests in flight at most: three descriptors each leave a few unused. Fewer when the device wants large
/// requests cut into many segments, so that there is a descriptor whenever there is a slot.
pub const REQUESTS_MAX: usize = 80;

/// Header of a request (virtio 1.2, 5.2.6).
#[derive(Default, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    kind: u32,
    reserved: u32,
    sector: u64,
}

/// Body of a DISCARD.
#[derive(Default, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct DiscardRange {
    sector: u64,
    sectors: u32,
    flags: u32,
}

/// Segments of a request and its header or status.
const PARTS_MAX: usize = SEGMENTS_MAX + 1;

const KIND_READ: u32 = 0;
const KIND_WRITE: u32 = 1;
const KIND_FLUSH: u32 = 4;
const KIND_DISCARD: u32 = 11;

const STATUS_OK: u8 = 0;
const STATUS_UNSUPPORTED: u8 = 2;
/// Not a value a device may write.
const STATUS_NONE: u8 = 0xff;

/// What a slot shares with the device besides the buffer. In memory that never moves.
#[derive(Default)]
struct Shared {
    header: Header,
    range: DiscardRange,
    status: u8,
}

/// The part of a transfer that is with the device.
#[derive(Debug, Clone, Copy, Default)]
struct Piece {
    start: usize,
    len: usize,
}

enum Content {
    Free,
    Running {
        operation: Operation,
        /// First sector of the whole transfer.
        sector: u64,
        buffer: Buffer,
        piece: Piece,
        /// Whom to wake; `None` when the future is gone.
        waiter: Option<Waker>,
    },
    Ended(Buffer, Result<(), DeviceError>),
}

struct Slot {
    shared: Box<Shared>,
    content: Content,
    /// Told apart from earlier requests in the same slot.
    generation: u64,
}

/// A running request, to its future.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Handle {
    index: usize,
    generation: u64,
}

/// A place in the line for a slot.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ticket(u64);

pub(super) enum Progress {
    Running,
    Ended(Buffer, Result<(), DeviceError>),
}

pub(super) struct Slots {
    transport: Transport,
    queue: VirtQueue<DmaHal, QUEUE_SIZE>,
    entries: Vec<Slot>,
    free: Vec<usize>,
    /// Slot of each token in flight.
    by_token: [Option<usize>; QUEUE_SIZE],
    /// Those for whom there was no slot or no descriptor, in the order they came.
    line: VecDeque<(u64, Waker)>,
    next_ticket: u64,
    limits: Limits,
    /// The device broke the rules or was reset: no request will complete any more.
    gone: bool,
}

impl Slots {
    /// Sets up the queue and starts the device, which has been negotiated with.
    pub(super) fn new(mut transport: Transport, limits: Limits) -> Result<Box<Self>, OpenError> {
        let queue =
            VirtQueue::new(&mut transport, QUEUE, false, false).map_err(|error| match error {
                virtio_drivers::Error::InvalidParam => OpenError::QueueTooSmall,
                virtio_drivers::Error::DmaError => OpenError::OutOfMemory,
                _ => OpenError::Broken,
            })?;
        transport.finish_init();
        let count = REQUESTS_MAX.min(QUEUE_SIZE / limits.descriptors_max());
        Ok(Box::new(Self {
            transport,
            queue,
            entries: (0..count)
                .map(|_| Slot {
                    shared: Box::default(),
                    content: Content::Free,
                    generation: 0,
                })
                .collect(),
            free: (0..count).rev().collect(),
            by_token: [None; QUEUE_SIZE],
            line: VecDeque::new(),
            next_ticket: 0,
            limits,
            gone: false,
        }))
    }

    /// Whole blocks that the device says it has; `None` when it does not say any more.
    pub(super) fn block_count(&self) -> Option<u64> {
        config::block_count(&self.transport).filter(|_| !self.gone)
    }

    /// Whether it is the caller's turn to start a request; otherwise its place in the line, where it is woken.
    pub(super) fn take_turn(
        &mut self,
        ticket: Option<Ticket>,
        waker: &Waker,
    ) -> Result<(), Ticket> {
        let first = match (&ticket, self.line.front()) {
            (_, None) => true,
            (Some(ticket), Some((first, _))) => ticket.0 == *first,
            (None, Some(_)) => false,
        };
        if self.gone || (first && !self.free.is_empty()) {
            if let Some(ticket) = ticket {
                self.line.retain(|(number, _)| *number != ticket.0);
            }
            return Ok(());
        }
        let ticket = ticket.unwrap_or_else(|| {
            self.next_ticket += 1;
            Ticket(self.next_ticket)
        });
        match self.line.iter_mut().find(|(number, _)| *number == ticket.0) {
            Some((_, registered)) => registered.clone_from(waker),
            None => self.line.push_back((ticket.0, waker.clone())),
        }
        Err(ticket)
    }

    /// Leaves the line.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a ticket that was given up is of no more use"
    )]
    pub(super) fn give_up_turn(&mut self, ticket: Ticket) {
        self.line.retain(|(number, _)| *number != ticket.0);
        self.call_next();
    }

    /// Wakes the first in the line if there is a slot for it.
    fn call_next(&mut self) {
        if (self.gone || !self.free.is_empty())
            && let Some((_, waker)) = self.line.front()
        {
            waker.wake_by_ref();
        }
    }

    /// Hands a request to the device. The caller's turn has come ([`take_turn`](Self::take_turn)).
    pub(super) fn start(
        &mut self,
        operation: Operation,
        sector: u64,
        buffer: Buffer,
        waker: &Waker,
    ) -> Result<Handle, (Buffer, DeviceError)> {
        if self.gone {
            return Err((buffer, DeviceError::Gone));
        }
        let Some(index) = self.free.pop() else {
            return Err((buffer, DeviceError::Gone));
        };
        let Some(slot) = self.entries.get_mut(index) else {
            return Err((buffer, DeviceError::Gone));
        };
        slot.generation += 1;
        let handle = Handle {
            index,
            generation: slot.generation,
        };
        let piece = Piece {
            start: 0,
            len: self.limits.request_bytes(buffer.bytes().len()),
        };
        let waiter = Some(waker.clone());
        slot.content = Content::Running {
            operation,
            sector,
            buffer,
            piece,
            waiter,
        };
        self.submit(index);
        self.call_next();
        if self.gone {
            // `submit` could not; everything has been ended, this one too.
            return match self.progress(handle, waker) {
                Progress::Ended(buffer, _) => Err((buffer, DeviceError::Gone)),
                Progress::Running => Err((Buffer::default(), DeviceError::Gone)),
            };
        }
        Ok(handle)
    }

    /// The state of a request; ends it for good if it has ended.
    pub(super) fn progress(&mut self, handle: Handle, waker: &Waker) -> Progress {
        let gone = || Progress::Ended(Buffer::default(), Err(DeviceError::Gone));
        let Some(slot) = self.entries.get_mut(handle.index) else {
            return gone();
        };
        if slot.generation != handle.generation {
            return gone();
        }
        match &mut slot.content {
            Content::Running { waiter, .. } => {
                if !waiter
                    .as_ref()
                    .is_some_and(|waiter| waiter.will_wake(waker))
                {
                    *waiter = Some(waker.clone());
                }
                Progress::Running
            }
            Content::Ended(..) | Content::Free => {
                match core::mem::replace(&mut slot.content, Content::Free) {
                    Content::Ended(buffer, result) => {
                        self.release(handle.index);
                        Progress::Ended(buffer, result)
                    }
                    _ => gone(),
                }
            }
        }
    }

    /// The future of a request was dropped: the device goes on, and what it needs stays until it is done.
    pub(super) fn abandon(&mut self, handle: Handle) {
        let Some(slot) = self.entries.get_mut(handle.index) else {
            return;
        };
        if slot.generation != handle.generation {
            return;
        }
        match &mut slot.content {
            Content::Running { waiter, .. } => *waiter = None,
            Content::Ended(..) => {
                slot.content = Content::Free;
                self.release(handle.index);
            }
            Content::Free => {}
        }
    }

    fn release(&mut self, index: usize) {
        self.free.push(index);
        self.call_next();
    }

    /// Gives the piece of a running slot to the device.
    fn submit(&mut self, index: usize) {
        let Some(slot) = self.entries.get_mut(index) else {
            return;
        };
        slot.prepare();
        let queue = &mut self.queue;
        let token = slot.with_memory(self.limits.segment_bytes_max, |inputs, outputs| {
            // SAFETY: the slot is running, so nothing touches this memory or frees it until `complete` has
            // popped the token (module documentation).
            unsafe { queue.add(inputs, outputs) }
        });
        let place = match token {
            Some(Ok(token)) => self.by_token.get_mut(usize::from(token)),
            Some(Err(_)) | None => None,
        };
        let Some(place) = place else {
            self.end_device();
            return;
        };
        *place = Some(index);
        if self.queue.should_notify() {
            self.transport.notify(QUEUE);
        }
    }

    /// Takes back what the device is done with.
    pub(super) fn complete(&mut self) {
        while !self.gone
            && let Some(token) = self.queue.peek_used()
        {
            let running = self
                .by_token
                .get_mut(usize::from(token))
                .and_then(Option::take);
            let Some(index) = running else {
                self.end_device();
                return;
            };
            let Some(slot) = self.entries.get_mut(index) else {
                return;
            };
            let queue = &mut self.queue;
            let popped = slot.with_memory(self.limits.segment_bytes_max, |inputs, outputs| {
                // SAFETY: `submit` added the same memory when it got this token.
                unsafe { queue.pop_used(token, inputs, outputs) }
            });
            let Some(Ok(written_bytes)) = popped else {
                // The device changed its mind between two reads of the ring.
                if let Some(place) = self.by_token.get_mut(usize::from(token)) {
                    *place = Some(index);
                }
                self.end_device();
                return;
            };
            match slot.finish_piece(written_bytes as usize, &self.limits) {
                Finished::More => self.submit(index),
                Finished::Whole => {}
                Finished::Unwatched => self.release(index),
            }
        }
    }

    /// Resets a device that broke the rules and ends every request.
    fn end_device(&mut self) {
        self.gone = true;
        self.transport.set_status(DeviceStatus::empty());
        // After the reset the device touches no memory of ours. One that does not even reset keeps it.
        let reset = (0..1_000_000).any(|_| self.transport.get_status().is_empty());
        for slot in &mut self.entries {
            if let Content::Running { waiter, buffer, .. } = &mut slot.content {
                let waiter = waiter.take();
                let mut buffer = core::mem::take(buffer);
                if !reset {
                    core::mem::forget(core::mem::take(&mut buffer));
                    core::mem::forget(core::mem::take(&mut slot.shared));
                }
                slot.content = Content::Ended(buffer, Err(DeviceError::Gone));
                if let Some(waiter) = waiter {
                    waiter.wake();
                }
            }
        }
        for (_, waker) in &self.line {
            waker.wake_by_ref();
        }
    }
}

/// Moves `parts` into `slots` and says how many there were.
fn fill<T>(slots: &mut [T], parts: impl Iterator<Item = T>) -> usize {
    let mut count = 0;
    for (slot, part) in slots.iter_mut().zip(parts) {
        *slot = part;
        count += 1;
    }
    count
}

/// What became of a slot when a piece of its transfer was done.
enum Finished {
    /// There is another piece.
    More,
    /// The request has ended and its future was woken.
    Whole,
    /// The request has ended and nobody asks for the result: the slot is free.
    Unwatched,
}

impl Slot {
    /// Writes the header of the current piece.
    fn prepare(&mut self) {
        let Content::Running {
            operation,
            sector,
            piece,
            ..
        } = &self.content
        else {
            return;
        };
        let shared = &mut *self.shared;
        let (kind, first) = match operation {
            Operation::Read => (KIND_READ, *sector + (piece.start / SECTOR_SIZE) as u64),
            Operation::Write => (KIND_WRITE, *sector + (piece.start / SECTOR_SIZE) as u64),
            Operation::Flush => (KIND_FLUSH, 0),
            Operation::Discard { sectors } => {
                shared.range = DiscardRange {
                    sector: *sector,
                    sectors: *sectors,
                    flags: 0,
                };
                (KIND_DISCARD, 0)
            }
        };
        shared.header = Header {
            kind,
            reserved: 0,
            sector: first,
        };
        shared.status = STATUS_NONE;
    }

    /// Calls `f` with what the device reads and what it writes; `None` when nothing is running.
    fn with_memory<R>(
        &mut self,
        segment_bytes_max: usize,
        f: impl for<'a> FnOnce(&'a [&'a [u8]], &'a mut [&'a mut [u8]]) -> R,
    ) -> Option<R> {
        let Content::Running {
            operation,
            buffer,
            piece,
            ..
        } = &mut self.content
        else {
            return None;
        };
        let shared = &mut *self.shared;
        let header = shared.header.as_bytes();
        let status = core::slice::from_mut(&mut shared.status);
        let end = piece.start + piece.len;
        match operation {
            Operation::Read => {
                let data = buffer.bytes_mut().get_mut(piece.start..end)?;
                let inputs = [header];
                let mut outputs = [(); PARTS_MAX].map(|()| -> &mut [u8] { &mut [] });
                let parts = data.chunks_mut(segment_bytes_max).chain([status]);
                let count = fill(&mut outputs, parts);
                Some(f(&inputs, outputs.get_mut(..count)?))
            }
            Operation::Write => {
                let data = buffer.bytes().get(piece.start..end)?;
                let mut inputs = [(); PARTS_MAX].map(|()| -> &[u8] { &[] });
                let parts = [header].into_iter().chain(data.chunks(segment_bytes_max));
                let count = fill(&mut inputs, parts);
                Some(f(inputs.get(..count)?, &mut [status]))
            }
            Operation::Flush => Some(f(&[header], &mut [status])),
            Operation::Discard { .. } => Some(f(&[header, shared.range.as_bytes()], &mut [status])),
        }
    }

    /// Judges a piece the device is done with. `written_bytes`: what it says it wrote, the status included.
    fn finish_piece(&mut self, written_bytes: usize, limits: &Limits) -> Finished {
        let status = self.shared.status;
        let Content::Running {
            operation,
            buffer,
            piece,
            waiter,
            ..
        } = &mut self.content
        else {
            return Finished::Whole;
        };
        let short = *operation == Operation::Read && written_bytes < piece.len + size_of::<u8>();
        let result = match status {
            STATUS_OK if !short => Ok(()),
            STATUS_UNSUPPORTED => Err(DeviceError::Unsupported),
            _ => Err(DeviceError::Io),
        };
        let next = piece.start + piece.len;
        let rest = buffer.bytes().len() - next;
        if result.is_ok() && rest > 0 {
            *piece = Piece {
                start: next,
                len: limits.request_bytes(rest),
            };
            return Finished::More;
        }
        let buffer = core::mem::take(buffer);
        if let Some(waiter) = waiter.take() {
            waiter.wake();
            self.content = Content::Ended(buffer, result);
            Finished::Whole
        } else {
            self.content = Content::Free;
            Finished::Unwatched
        }
    }
}

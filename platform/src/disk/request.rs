//! A request as its caller sees it: a future that yields the buffer and the result.

use alloc::rc::Rc;
use core::pin::Pin;
use core::task::{Context, Poll};

use lfs::{Buffer, DeviceError};

use super::Shared;
use super::slots::{Handle, Progress, Ticket};

/// What to do with the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Read,
    Write,
    Flush,
    Discard { sectors: u32 },
}

enum State {
    /// Not with the device: waiting for a place, holding the buffer.
    Queued {
        buffer: Buffer,
        ticket: Option<Ticket>,
    },
    /// With the device, which has the buffer.
    Running(Handle),
    Done,
}

/// One operation on the disk. Starts when first polled; dropped before its turn has come it never happens,
/// dropped later it happens and nobody learns of it.
#[must_use = "a future does nothing unless it is awaited"]
pub(super) struct Request {
    shared: Rc<Shared>,
    operation: Operation,
    sector: u64,
    state: State,
}

impl Request {
    pub(super) fn new(
        shared: &Rc<Shared>,
        operation: Operation,
        sector: u64,
        buffer: Buffer,
    ) -> Self {
        Self {
            shared: Rc::clone(shared),
            operation,
            sector,
            state: State::Queued {
                buffer,
                ticket: None,
            },
        }
    }
}

impl Future for Request {
    type Output = (Buffer, Result<(), DeviceError>);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let mut slots = this.shared.slots.borrow_mut();
        match core::mem::replace(&mut this.state, State::Done) {
            State::Queued { buffer, ticket } => {
                if let Err(ticket) = slots.take_turn(ticket, context.waker()) {
                    this.state = State::Queued {
                        buffer,
                        ticket: Some(ticket),
                    };
                    return Poll::Pending;
                }
                match slots.start(this.operation, this.sector, buffer, context.waker()) {
                    Ok(handle) => {
                        this.state = State::Running(handle);
                        Poll::Pending
                    }
                    Err((buffer, error)) => Poll::Ready((buffer, Err(error))),
                }
            }
            State::Running(handle) => match slots.progress(handle, context.waker()) {
                Progress::Running => {
                    this.state = State::Running(handle);
                    Poll::Pending
                }
                Progress::Ended(buffer, result) => Poll::Ready((buffer, result)),
            },
            // Polled after it was ready, which callers must not.
            State::Done => Poll::Pending,
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let mut slots = self.shared.slots.borrow_mut();
        match core::mem::replace(&mut self.state, State::Done) {
            State::Queued {
                ticket: Some(ticket),
                ..
            } => slots.give_up_turn(ticket),
            State::Running(handle) => slots.abandon(handle),
            State::Queued { ticket: None, .. } | State::Done => {}
        }
    }
}

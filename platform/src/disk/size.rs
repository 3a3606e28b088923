//! How large the disk is, which its host may change while it runs (virtio 1.2, 5.2.4 and 2.3).
//!
//! It only ever becomes larger here: of a disk that was cut short, what is gone fails when it is asked for.

use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::task::{Poll, Waker};

pub(super) struct Size {
    block_count: Cell<u64>,
    /// Who waits for another size: one task at a time.
    waiter: RefCell<Option<Waker>>,
}

impl Size {
    pub(super) fn new(block_count: u64) -> Self {
        Self {
            block_count: Cell::new(block_count),
            waiter: RefCell::default(),
        }
    }

    pub(super) fn block_count(&self) -> u64 {
        self.block_count.get()
    }

    /// The device says that it has so many blocks by now.
    pub(super) fn update(&self, block_count: u64) {
        if block_count > self.block_count.get() {
            self.block_count.set(block_count);
            if let Some(waker) = self.waiter.take() {
                waker.wake();
            }
        }
    }

    /// Completes when there are other than `known` blocks. For one task.
    pub(super) fn differs_from(&self, known: u64) -> impl Future<Output = ()> + '_ {
        poll_fn(move |context| {
            if self.block_count.get() != known {
                return Poll::Ready(());
            }
            self.waiter.replace(Some(context.waker().clone()));
            Poll::Pending
        })
    }
}

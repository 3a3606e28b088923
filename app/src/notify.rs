//! Wakes tasks of the one executor when something they wait for may have happened.
//!
//! Invariants: everything runs on one thread, so a waiter checks its condition and registers in one
//! step and no wake-up can be lost. A notification carries no value: waiters look at shared state again.

use alloc::vec::Vec;
use core::cell::RefCell;
use core::future::poll_fn;
use core::task::{Context, Poll, Waker};

/// A set of tasks waiting for a condition over shared state.
#[derive(Debug, Default)]
pub(crate) struct Notify {
    waiting: RefCell<Vec<Waker>>,
}

impl Notify {
    /// Completes once `condition` holds; it is looked at now and after every [`Notify::notify`].
    pub(crate) async fn until(&self, mut condition: impl FnMut() -> bool) {
        poll_fn(|context| {
            if condition() {
                return Poll::Ready(());
            }
            self.register(context);
            Poll::Pending
        })
        .await;
    }

    /// Lets every waiter look again.
    pub(crate) fn notify(&self) {
        // Taken out first: a waker may run code that registers again.
        let waiting = core::mem::take(&mut *self.waiting.borrow_mut());
        for waker in waiting {
            waker.wake();
        }
    }

    fn register(&self, context: &Context<'_>) {
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
            waiting.push(context.waker().clone());
        }
    }
}

//! Waiting for a condition on one thread.
//!
//! State lives in cells; whoever changes it calls [`Notify::notify`], and every task waiting in
//! [`Notify::until`] looks again. A waiter occupies one slot however often it is polled, so the list
//! is bounded by the number of waiting tasks.

use alloc::vec::Vec;
use core::cell::RefCell;
use core::future::poll_fn;
use core::task::{Poll, Waker};

/// A condition that tasks of one thread wait for.
#[derive(Default)]
pub struct Notify {
    waiters: RefCell<Waiters>,
}

#[derive(Default)]
struct Waiters {
    /// Counts notifications; a slot number is only meaningful within one round.
    round: u64,
    wakers: Vec<Waker>,
}

impl Notify {
    /// Makes every waiter look at its condition again.
    pub fn notify(&self) {
        let woken = {
            let mut waiters = self.waiters.borrow_mut();
            waiters.round += 1;
            core::mem::take(&mut waiters.wakers)
        };
        woken.into_iter().for_each(Waker::wake);
    }

    /// Waits until `condition` yields a value; it is asked now and after every notification.
    pub async fn until<T>(&self, mut condition: impl FnMut() -> Option<T>) -> T {
        let mut slot = None;
        poll_fn(|context| {
            if let Some(value) = condition() {
                return Poll::Ready(value);
            }
            let mut waiters = self.waiters.borrow_mut();
            let round = waiters.round;
            match slot {
                Some((seen, index)) if seen == round => {
                    if let Some(waker) = waiters.wakers.get_mut(index) {
                        Waker::clone_from(waker, context.waker());
                    }
                }
                _ => {
                    slot = Some((round, waiters.wakers.len()));
                    waiters.wakers.push(context.waker().clone());
                }
            }
            Poll::Pending
        })
        .await
    }
}

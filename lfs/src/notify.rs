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
    /// `None` where a waiter has gone.
    wakers: Vec<Option<Waker>>,
}

impl Notify {
    /// Makes every waiter look at its condition again.
    pub fn notify(&self) {
        let woken = {
            let mut waiters = self.waiters.borrow_mut();
            waiters.round += 1;
            core::mem::take(&mut waiters.wakers)
        };
        woken.into_iter().flatten().for_each(Waker::wake);
    }

    /// Waits until `condition` yields a value; it is asked now and after every notification.
    pub async fn until<T>(&self, mut condition: impl FnMut() -> Option<T>) -> T {
        let mut waiter = Waiter {
            notify: self,
            slot: None,
        };
        poll_fn(|context| {
            if let Some(value) = condition() {
                return Poll::Ready(value);
            }
            waiter.wait(context.waker());
            Poll::Pending
        })
        .await
    }
}

/// A task in [`Notify::until`]; leaves its slot when it goes.
struct Waiter<'n> {
    notify: &'n Notify,
    /// The round it registered in, and its slot.
    slot: Option<(u64, usize)>,
}

impl Waiter<'_> {
    fn wait(&mut self, waker: &Waker) {
        let mut waiters = self.notify.waiters.borrow_mut();
        let round = waiters.round;
        match self.slot {
            Some((seen, index)) if seen == round => {
                if let Some(Some(registered)) = waiters.wakers.get_mut(index) {
                    registered.clone_from(waker);
                }
            }
            _ => {
                self.slot = Some((round, waiters.wakers.len()));
                waiters.wakers.push(Some(waker.clone()));
            }
        }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut waiters = self.notify.waiters.borrow_mut();
        let Some((round, index)) = self.slot else {
            return;
        };
        if round == waiters.round {
            if let Some(slot) = waiters.wakers.get_mut(index) {
                *slot = None;
            }
            // Slots behind others stay until the next round; they are as many as waiters there were
            // at once.
            while waiters.wakers.last().is_some_and(Option::is_none) {
                waiters.wakers.pop();
            }
        }
    }
}

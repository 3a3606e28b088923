//! How a request is given to a thread that stands by for it.
//!
//! It is taken once: by whoever stands by, whether the request comes first or that thread's end, or it is back with whoever would have given it. None is left
//! behind for the next one to stand by.
//!
//! Its atomics are those of the module that it is in: with loom's, `tests` goes through all orders in which this can happen.

use core::mem;
use std::sync::PoisonError;

use super::atomics::{AtomicBool, Mutex, MutexGuard, Ordering};

/// Who carries out the next request.
enum Next<R> {
    /// A thread that is woken for it.
    Woken,
    /// One that stands by.
    Standby,
    /// One that stands by, and this is the request.
    Given(R),
}

pub(super) struct Handover<R> {
    next: Mutex<Next<R>>,
    /// Whether a request is given.
    is_given: AtomicBool,
}

impl<R> Handover<R> {
    pub(super) fn new() -> Self {
        Self {
            next: Mutex::new(Next::Woken),
            is_given: AtomicBool::new(false),
        }
    }

    /// Gives `request` to whoever stands by.
    ///
    /// # Errors
    /// It is back when nobody does, or there is one already.
    pub(super) fn give(&self, request: R) -> Result<(), R> {
        let mut next = self.next();
        let Next::Standby = *next else {
            return Err(request);
        };
        *next = Next::Given(request);
        self.is_given.store(true, Ordering::Release);
        Ok(())
    }

    /// Stands by from now on; false when another one does: one is enough.
    pub(super) fn begin(&self) -> bool {
        let mut next = self.next();
        let is_first = matches!(*next, Next::Woken);
        if is_first {
            *next = Next::Standby;
        }
        is_first
    }

    /// Whether there is a request: for who stands by.
    pub(super) fn is_given(&self) -> bool {
        self.is_given.load(Ordering::Acquire)
    }

    /// Stands by no more, and takes the request if there is one.
    pub(super) fn end(&self) -> Option<R> {
        let mut next = self.next();
        self.is_given.store(false, Ordering::Relaxed);
        match mem::replace(&mut *next, Next::Woken) {
            Next::Given(request) => Some(request),
            Next::Standby | Next::Woken => None,
        }
    }

    fn next(&self) -> MutexGuard<'_, Next<R>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

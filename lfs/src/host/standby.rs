//! A thread that stands by for a short while after a request, for the next one.
//!
//! To wake a thread takes as long as part of a durable write. Whoever commits one after the other asks for the next write soon after the last one: a
//! thread that still looks for it begins at once. It does so while requests come sooner than [`AWAKE`] one after the other, and for no longer than that:
//! it keeps a processor no busier than waking it would. Where there is one processor alone it would be in the way of whoever is to ask.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::mem;
use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

/// How long a thread looks for the next request.
const AWAKE: Duration = Duration::from_micros(50);

type Request = Box<dyn FnOnce() + Send>;

/// Who carries out the next request.
enum Next {
    /// A thread that is woken for it.
    Woken,
    /// One that stands by.
    Standby,
    /// One that stands by, and this is the request.
    Given(Request),
}

struct State {
    next: Next,
    /// When the last request was through.
    ended: Option<Instant>,
}

/// Carries out requests, on a thread that stands by if there is one.
pub(super) struct Standby {
    state: Mutex<State>,
    /// Whether a request is given.
    is_given: AtomicBool,
    /// Whether there is more than one processor.
    is_of_use: bool,
}

impl Standby {
    pub(super) fn new() -> Self {
        let state = State {
            next: Next::Woken,
            ended: None,
        };
        Self {
            state: Mutex::new(state),
            is_given: AtomicBool::new(false),
            is_of_use: available_parallelism().is_ok_and(|processors| processors.get() > 1),
        }
    }

    /// Carries out `request` on a thread of the runtime, which may block.
    pub(super) fn run(self: &Arc<Self>, request: Request) {
        let mut state = self.state();
        if let Next::Standby = state.next {
            state.next = Next::Given(request);
            self.is_given.store(true, Ordering::Release);
            return;
        }
        let is_soon = state.ended.is_some_and(|ended| ended.elapsed() < AWAKE);
        drop(state);
        let own = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            request();
            let mut since = own.note_end();
            while is_soon && let Some(request) = own.stand_by(since) {
                request();
                since = own.note_end();
            }
        });
    }

    fn note_end(&self) -> Instant {
        let now = Instant::now();
        self.state().ended = Some(now);
        now
    }

    /// The next request, if it is given soon.
    fn stand_by(&self, since: Instant) -> Option<Request> {
        {
            let mut state = self.state();
            let Next::Woken = state.next else {
                // One is enough.
                return None;
            };
            if !self.is_of_use {
                return None;
            }
            state.next = Next::Standby;
        }
        while !self.is_given.load(Ordering::Acquire) && since.elapsed() < AWAKE {
            core::hint::spin_loop();
        }
        let mut state = self.state();
        self.is_given.store(false, Ordering::Relaxed);
        match mem::replace(&mut state.next, Next::Woken) {
            Next::Given(request) => Some(request),
            Next::Standby | Next::Woken => None,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Standby {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Standby").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;
    use std::sync::mpsc;

    use super::*;

    /// Asks for `count` requests, each when the one before is through; the threads they ran on.
    fn one_by_one(count: usize, is_of_use: bool) -> Vec<std::thread::ThreadId> {
        let standby = Arc::new(Standby {
            is_of_use,
            ..Standby::new()
        });
        let program = async move {
            let (sender, through) = mpsc::channel();
            let mut threads = Vec::new();
            for _ in 0..count {
                let sender = sender.clone();
                standby.run(Box::new(move || {
                    let _ = sender.send(std::thread::current().id());
                }));
                threads.push(through.recv().expect("carried out"));
            }
            threads
        };
        super::super::run(program).expect("a runtime")
    }

    #[test]
    fn every_request_is_carried_out_by_a_thread_of_its_own_or_one_that_stands_by() {
        let own = std::thread::current().id();
        for is_of_use in [true, false] {
            let threads = one_by_one(2000, is_of_use);
            assert_eq!(threads.len(), 2000);
            assert!(threads.iter().all(|thread| *thread != own));
        }
    }

    #[test]
    fn requests_of_many_at_once_are_carried_out() {
        let standby = Arc::new(Standby::new());
        let (sender, through) = mpsc::channel();
        let program = async move {
            for number in 0..500 {
                let sender = sender.clone();
                standby.run(Box::new(move || _ = sender.send(number)));
            }
            drop(sender);
            let mut all = through.iter().collect::<Vec<_>>();
            all.sort_unstable();
            assert!(all.into_iter().eq(0..500));
        };
        super::super::run(program).expect("a runtime");
    }

    #[test]
    fn whoever_stands_by_takes_the_next_request_and_is_the_only_one() {
        let standby = Standby {
            is_of_use: true,
            ..Standby::new()
        };
        let long_ago = Instant::now()
            .checked_sub(AWAKE)
            .expect("it is not that early");
        assert!(standby.stand_by(long_ago).is_none(), "nobody asked");
        standby.state().next = Next::Standby;
        assert!(
            standby.stand_by(Instant::now()).is_none(),
            "another one does"
        );
        let next = &mut standby.state().next;
        assert!(matches!(next, Next::Standby), "and still does");
    }
}

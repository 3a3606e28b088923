//! A thread that stands by for a short while after a request, for the next one.
//!
//! To wake a thread takes as long as part of a durable write, or of a read. While requests come one soon after the other, within [`SOON`], and take no longer than that, nobody
//! sleeps in between: one thread that has carried out a request looks for the next for as long as [`AWAKE`], and whoever asked looks whether it is done, as often as
//! others let it, for as long as [`SOON`]. Where there is one processor alone they would be in each other's way.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot::{self, error::TryRecvError};

use super::handover::Handover;
use super::has_more_processors;

/// How long a thread looks for the next request.
const AWAKE: Duration = Duration::from_micros(100);

/// What comes or ends sooner is looked for: some times as long as a good disk takes for a durable write.
const SOON: Duration = Duration::from_micros(250);

/// When a request was through, and how long it took.
type Last = (Instant, Duration);

type Request = Box<dyn FnOnce() -> Last + Send>;

/// Carries out requests, on a thread that stands by if there is one.
pub(super) struct Standby {
    handover: Handover<Request>,
    last: Mutex<Option<Last>>,
    /// Whether there is more than one processor.
    is_of_use: bool,
}

impl Standby {
    pub(super) fn new() -> Self {
        Self {
            handover: Handover::new(),
            last: Mutex::new(None),
            is_of_use: has_more_processors(),
        }
    }

    /// Carries out `request` on a thread of the runtime, which may block, and waits until it is done. None when a panic or the end of the runtime keeps it from that.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        request: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (sender, mut done) = oneshot::channel();
        let own = Arc::clone(self);
        let is_soon = self.start(Box::new(move || {
            let began = Instant::now();
            let answer = request();
            let (ended, took) = own.note(began);
            // Nobody may wait for it any more.
            let _ = sender.send(answer);
            (ended, took)
        }));
        let began = Instant::now();
        while is_soon && began.elapsed() < SOON {
            match done.try_recv() {
                Err(TryRecvError::Empty) => tokio::task::yield_now().await,
                done => return done.ok(),
            }
        }
        done.await.ok()
    }

    /// Has `request` carried out: whether it will be soon, if it is like the last one.
    fn start(self: &Arc<Self>, request: Request) -> bool {
        let is_quick = |(ended, took): Last| ended.elapsed() < SOON && took < SOON;
        let is_soon = self.is_of_use && self.last().is_some_and(is_quick);
        let Err(request) = self.handover.give(request) else {
            return is_soon;
        };
        let own = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let (mut ended, mut took) = request();
            while is_soon
                && took < SOON
                && let Some(request) = own.stand_by(ended)
            {
                (ended, took) = request();
            }
        });
        is_soon
    }

    /// A request is through that began then. Whoever asked looks at that for its next one.
    fn note(&self, began: Instant) -> Last {
        let ended = Instant::now();
        let last = (ended, ended - began);
        *self.last() = Some(last);
        last
    }

    /// The next request, if it is given soon.
    fn stand_by(&self, since: Instant) -> Option<Request> {
        // One is enough.
        if !self.handover.begin() {
            return None;
        }
        while !self.handover.is_given() && since.elapsed() < AWAKE {
            core::hint::spin_loop();
        }
        self.handover.end()
    }

    fn last(&self) -> MutexGuard<'_, Option<Last>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Standby {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Standby").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_is_carried_out_by_a_thread_of_its_own_or_one_that_stands_by() {
        let own = std::thread::current().id();
        for is_of_use in [true, false] {
            let standby = Arc::new(Standby {
                is_of_use,
                ..Standby::new()
            });
            let program = async move {
                for number in 0..2000 {
                    let request = move || (number, std::thread::current().id());
                    let (done, thread) = standby.run(request).await.expect("carried out");
                    assert_eq!(done, number);
                    assert_ne!(thread, own);
                }
            };
            super::super::run(program).expect("a runtime");
        }
    }

    #[test]
    fn requests_of_many_at_once_are_carried_out() {
        let standby = Arc::new(Standby::new());
        let program = async move {
            let all = (0..500).map(|number| standby.run(move || number));
            let all = crate::together(all).await;
            assert!(all.into_iter().eq((0..500).map(Some)));
        };
        super::super::run(program).expect("a runtime");
    }

    #[test]
    fn what_panics_is_lost_and_no_more_than_that() {
        let standby = Arc::new(Standby::new());
        let program = async move {
            for number in 0..200 {
                let request = move || assert_ne!(number % 50, 49, "as is meant");
                let done = standby.run(request).await;
                assert_eq!(done.is_some(), number % 50 != 49);
            }
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
        assert!(standby.handover.begin());
        assert!(
            standby.stand_by(Instant::now()).is_none(),
            "another one does"
        );
        let given = standby.handover.give(Box::new(|| (Instant::now(), SOON)));
        assert!(given.is_ok(), "and still does");
    }
}

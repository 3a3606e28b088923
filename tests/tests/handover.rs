//! How a request is given to a thread that stands by, in all orders in which that can happen.

mod atomics {
    pub use loom::sync::atomic::{AtomicBool, Ordering};
    pub use loom::sync::{Mutex, MutexGuard};
}

#[path = "../../lfs/src/host/handover.rs"]
mod handover;

use loom::sync::Arc;
use loom::thread;

use atomics::{AtomicBool, Ordering};
use handover::Handover;

/// Nobody stands by, and nothing is left for who does next.
fn assert_over(handover: &Handover<u32>) {
    assert_eq!(handover.give(9), Err(9));
    assert!(handover.begin() && !handover.is_given());
    assert_eq!(handover.end(), None);
}

#[test]
fn a_request_is_taken_once_whether_it_comes_before_the_end_of_standing_by_or_after() {
    loom::model(|| {
        let handover = Arc::new(Handover::new());
        let own = Arc::clone(&handover);
        let standby = thread::spawn(move || {
            assert!(own.begin());
            // As often as it looks, its time may be over.
            let seen = own.is_given();
            let taken = own.end();
            assert!(taken.is_some() || !seen);
            taken
        });
        let own = Arc::clone(&handover);
        let other = thread::spawn(move || own.give(1).err());
        let second = handover.give(2).err();
        let first = other.join().unwrap();
        let taken = standby.join().unwrap();
        let mut all = [first, second, taken];
        all.sort_unstable();
        assert_eq!(all, [None, Some(1), Some(2)]);
        assert_over(&handover);
    });
}

#[test]
fn whoever_stands_by_sees_that_a_request_is_given() {
    loom::model(|| {
        let handover = Arc::new(Handover::new());
        assert!(handover.begin());
        let own = Arc::clone(&handover);
        let standby = thread::spawn(move || {
            while !own.is_given() {
                thread::yield_now();
            }
            own.end()
        });
        assert_eq!(handover.give(1), Ok(()));
        assert_eq!(standby.join().unwrap(), Some(1));
        assert_over(&handover);
    });
}

#[test]
fn one_at_a_time_stands_by() {
    loom::model(|| {
        let handover = Arc::new(Handover::new());
        let stands_by = Arc::new(AtomicBool::new(false));
        let take_turn = |handover: &Handover<u32>, stands_by: &AtomicBool| {
            handover.begin().then(|| {
                assert!(!stands_by.swap(true, Ordering::Relaxed));
                stands_by.store(false, Ordering::Relaxed);
                handover.end()
            })
        };
        let (own, noted) = (Arc::clone(&handover), Arc::clone(&stands_by));
        let other = thread::spawn(move || take_turn(&own, &noted));
        let own = Arc::clone(&handover);
        let giver = thread::spawn(move || own.give(1).err());
        let taken = [take_turn(&handover, &stands_by), other.join().unwrap()];
        let taken = taken.into_iter().flatten().flatten();
        let back = giver.join().unwrap();
        assert_eq!(taken.chain(back).collect::<Vec<_>>(), [1]);
        assert_over(&handover);
    });
}

//! What interrupt handlers of the image tell its executor, in all orders in which that can happen.

mod atomics {
    pub use loom::sync::atomic::{AtomicU32, Ordering};
}

#[path = "../../platform/src/signals.rs"]
mod signals;

use loom::sync::Arc;
use loom::thread;

use atomics::AtomicU32;
use signals::Signals;

const DISK: u32 = 1;
const NETWORK: u32 = 2;

fn nothing() -> Arc<Signals> {
    Arc::new(Signals {
        fired: AtomicU32::new(0),
        configured: AtomicU32::new(0),
    })
}

/// Runs a handler at any time.
fn interrupt(signals: &Arc<Signals>, handler: fn(&Signals)) -> thread::JoinHandle<()> {
    let signals = Arc::clone(signals);
    thread::spawn(move || handler(&signals))
}

#[test]
fn what_fires_is_taken_once() {
    loom::model(|| {
        let signals = nothing();
        let handlers = [
            interrupt(&signals, |signals| signals.fire(DISK)),
            interrupt(&signals, |signals| signals.fire(NETWORK)),
        ];
        let first = signals.take_fired();
        for handler in handlers {
            handler.join().unwrap();
        }
        assert_eq!(signals.are_pending(), first != DISK | NETWORK);
        let second = signals.take_fired();
        assert_eq!((first | second, first & second), (DISK | NETWORK, 0));
        assert!(!signals.are_pending());
    });
}

#[test]
fn who_takes_that_a_device_fired_sees_that_its_configuration_has_changed() {
    loom::model(|| {
        let signals = nothing();
        let handler = interrupt(&signals, |signals| {
            signals.note_configuration(DISK);
            signals.fire(DISK);
        });
        let seen = signals.take_fired() == DISK && {
            assert!(signals.take_configuration(DISK));
            true
        };
        handler.join().unwrap();
        assert!(!signals.take_configuration(NETWORK));
        assert_eq!(signals.take_configuration(DISK), !seen);
        assert!(!signals.take_configuration(DISK));
    });
}

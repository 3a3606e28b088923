//! What interrupt handlers tell the executor: bits, and nothing else.
//!
//! A handler runs between any two instructions of the executor. No bit that it sets is lost, none is taken twice, and what it has noted of a configuration is there for whoever
//! has taken that it fired.
//!
//! Its atomics are those of the crate that it is a module of: with loom's, `tests` goes through all orders in which this can happen.

use crate::atomics::{AtomicU32, Ordering};

/// One bit for each source, in either.
pub(crate) struct Signals {
    /// Sources that fired since the executor looked.
    pub(crate) fired: AtomicU32,
    /// Those whose configuration changed since somebody asked.
    pub(crate) configured: AtomicU32,
}

impl Signals {
    /// A source fired. In a handler.
    pub(crate) fn fire(&self, bit: u32) {
        self.fired.fetch_or(bit, Ordering::Release);
    }

    /// The configuration of a source has changed. In a handler, before it [fires](Self::fire).
    pub(crate) fn note_configuration(&self, bit: u32) {
        self.configured.fetch_or(bit, Ordering::Release);
    }

    /// Whether something fired that was not taken.
    pub(crate) fn are_pending(&self) -> bool {
        self.fired.load(Ordering::Acquire) != 0
    }

    /// Takes what fired.
    pub(crate) fn take_fired(&self) -> u32 {
        self.fired.swap(0, Ordering::Acquire)
    }

    /// Takes that a configuration has changed.
    pub(crate) fn take_configuration(&self, bit: u32) -> bool {
        self.configured.load(Ordering::Relaxed) & bit != 0
            && self.configured.fetch_and(!bit, Ordering::Acquire) & bit != 0
    }
}

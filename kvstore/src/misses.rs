//! Reads of keys that miss at random: for tests of those who run transactions.
//!
//! All keys are in memory, so none of their reads ever misses by itself. Told to (`Store::miss_at_random`, feature
//! `sim`), each read of a transaction misses with a probability of a half unless it was loaded for that transaction:
//! every attempt gets further.
//! Without the feature nothing of this is left of a read.

use core::cell::Cell;

/// How often those who load give way to others at most.
const WAITS_MAX: u64 = 3;

/// Whether reads miss, and which.
#[derive(Default)]
pub(crate) struct Misses {
    /// 0: none does.
    state: Cell<u64>,
}

impl Misses {
    /// From now on reads miss at random.
    #[cfg(feature = "sim")]
    pub(crate) fn begin(&self, seed: u64) {
        self.state.set(mix(seed).max(1));
    }

    /// Whether any read misses.
    pub(crate) fn are_on(&self) -> bool {
        cfg!(feature = "sim") && self.state.get() != 0
    }

    /// Whether the next read does.
    pub(crate) fn next(&self) -> bool {
        self.draw().is_multiple_of(2)
    }

    /// Others come in between, as when the disk is waited for.
    pub(crate) async fn take_time(&self) {
        if !self.are_on() {
            return;
        }
        for _ in 0..self.draw() % (WAITS_MAX + 1) {
            embassy_futures::yield_now().await;
        }
    }

    fn draw(&self) -> u64 {
        let state = self.state.get().wrapping_add(0x9E37_79B9_7F4A_7C15).max(1);
        self.state.set(state);
        mix(state)
    }
}

/// A number that has nothing to do with `number` but is the same for it every time (`SplitMix64`).
pub(crate) fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

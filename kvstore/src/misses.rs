//! Reads of keys that miss at random: for tests of those who run transactions.
//!
//! What was written lately is in memory, so tests of commands would hardly ever miss anything. Told to (`Store::miss_at_random`, feature `sim`), each read of
//! a transaction misses with a probability of a half unless it was loaded for that transaction: every attempt gets further.
//! Without the feature nothing of this is left of a read.

use alloc::collections::BTreeSet;
use core::cell::Cell;

use crate::fault::{LOADED_KEY_BYTES_MAX, LoadError};
use crate::{DatabaseIndex, Key};

/// What one read of keys keeps in a [`LoadedKeys`] beyond the key.
const READ_BYTES: usize = 64;

/// A read of keys, as far as it matters for what it needs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum KeysRead {
    Key(DatabaseIndex, Key),
    Count(DatabaseIndex),
    From(DatabaseIndex, Key),
    Random(DatabaseIndex),
}

/// Reads of keys that cannot miss any more.
#[derive(Default)]
pub(crate) struct LoadedKeys {
    reads: BTreeSet<KeysRead>,
    bytes: usize,
    /// Reads that found what they need in memory since the last load: it is there until the next one.
    found: BTreeSet<KeysRead>,
    /// What was found is all that is read: the transaction was rehearsed.
    rehearsed: bool,
}

impl LoadedKeys {
    /// Memory that they take.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.bytes
    }

    /// Whether `read` has what it needs.
    pub(crate) fn holds(&self, read: &KeysRead) -> bool {
        self.reads.contains(read) || (self.rehearsed && self.found.contains(read))
    }

    /// `read` found what it needs in memory.
    pub(crate) fn note_found(&mut self, read: KeysRead) {
        self.found.insert(read);
    }

    /// The transaction found everything in memory: run again without an await in between, it will do so again.
    pub(crate) fn note_rehearsed(&mut self) {
        self.rehearsed = true;
    }

    /// `read` was loaded.
    pub(crate) fn keep(&mut self, read: KeysRead) -> Result<(), LoadError> {
        let key_bytes = match &read {
            KeysRead::Key(_, key) | KeysRead::From(_, key) => key.len(),
            _ => 0,
        };
        let bytes = self.bytes + READ_BYTES + key_bytes;
        if bytes > LOADED_KEY_BYTES_MAX {
            return Err(LoadError::OutOfMemory);
        }
        if self.reads.insert(read) {
            self.bytes = bytes;
        }
        Ok(())
    }

    /// Others had their turn: what was in memory may be gone.
    pub(crate) fn begin_load(&mut self) {
        self.found.clear();
        self.rehearsed = false;
    }
}

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

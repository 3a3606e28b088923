//! Filling the index from sorted runs.
//!
//! Runs are taken newest first: the first record that is seen of a key is the one that counts, and older
//! ones cost a look-up and no memory. The ordered map is built once, at the end, from runs that are
//! nearly in order already.

use crate::index::Index;
use crate::per_database::PerDatabase;
use crate::record::{Change, Malformed, Record};
use crate::version::Version;
use crate::{Timestamp, Value};

pub(crate) struct Loader {
    index: Index,
    cleared: PerDatabase<Cleared>,
}

/// What newer runs say of a database as a whole.
#[derive(Default)]
struct Cleared {
    /// A newer run emptied it: what older ones say no longer matters.
    before: bool,
    /// The run at hand empties it before what it says itself.
    here: bool,
}

impl Loader {
    /// `hash_seed`: see [`Index::new`].
    pub(crate) fn new(hash_seed: u64) -> Self {
        Self {
            index: Index::new(hash_seed),
            cleared: PerDatabase::default(),
        }
    }

    /// Bytes of memory in use, as estimated.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.index.memory_bytes()
    }

    /// Begins the next older run.
    pub(crate) fn begin_run(&mut self) {
        for cleared in self.cleared.iter_mut() {
            cleared.before |= core::mem::take(&mut cleared.here);
        }
    }

    /// Takes the next record of the run at hand.
    pub(crate) fn add(
        &mut self,
        timestamp: Timestamp,
        record: &Record<'_>,
    ) -> Result<(), Malformed> {
        let cleared = self.cleared.of_mut(record.db);
        let space = self.index.loading(record.db);
        match record.change {
            _ if cleared.before => {}
            Change::Clear => cleared.here = true,
            Change::Put { .. } | Change::Delete if space.contains(record.key) => {}
            Change::Put {
                value,
                expires_at_ms,
            } => {
                let version = Version::new(timestamp, Value::from(value), expires_at_ms);
                space.load(record.key, version);
            }
            Change::Delete => space.load(record.key, Version::tombstone(timestamp)),
            Change::Append { .. } | Change::Expire { .. } => return Err(Malformed),
        }
        Ok(())
    }

    /// The index with all that was loaded, none of it dirty.
    pub(crate) fn finish(mut self) -> Index {
        for (db, _) in PerDatabase::<Cleared>::default().iter() {
            self.index.loading(db).finish_loading();
        }
        // What is written from here on is dirty.
        self.index.take_dirty();
        self.index
    }
}

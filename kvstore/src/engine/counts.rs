//! How many keys there are: what runs hold, and by how much each memtable changes that.
//!
//! A commit changes the number by `live − below` of each version that it writes (`VersionRef::below`). A flush adds its memtable's number to that of the runs;
//! merges set right what had been assumed. What a range delete took away nobody knows: then keys are counted (`recount`).

use alloc::collections::VecDeque;

use super::manifest::Count;
use crate::{DATABASE_COUNT, DatabaseIndex};

/// One for each database.
pub(crate) type ByDatabase = [Count; DATABASE_COUNT];

/// The counts of all sources.
#[derive(Default)]
pub(crate) struct Counts {
    runs: ByDatabase,
    /// Of frozen memtables, the newest first: [`FROZEN_MAX`](super::tree::FROZEN_MAX) at most.
    frozen: VecDeque<ByDatabase>,
    active: ByDatabase,
    /// How often each database was emptied.
    clears: [u64; DATABASE_COUNT],
}

impl Counts {
    /// Of runs that hold so many, and an empty memtable.
    pub(crate) fn new(runs: ByDatabase) -> Self {
        Self {
            runs,
            ..Self::default()
        }
    }

    /// Keys of `db`, expired ones that are not reclaimed included.
    pub(crate) fn keys(&self, db: DatabaseIndex) -> u64 {
        u64::try_from(self.sum(db).keys).unwrap_or(0)
    }

    /// Those of them that expire, about.
    pub(crate) fn expiring(&self, db: DatabaseIndex) -> u64 {
        let expiring = u64::try_from(self.sum(db).expiring).unwrap_or(0);
        expiring.min(self.keys(db))
    }

    /// A commit changes how many there are.
    pub(crate) fn change(&mut self, db: DatabaseIndex, by: Count) {
        if let Some(count) = self.active.get_mut(usize::from(db.0)) {
            add(count, &by);
        }
    }

    /// A commit empties `db`.
    pub(crate) fn clear(&mut self, db: DatabaseIndex) {
        let all = self.sum(db);
        if let Some(clears) = self.clears.get_mut(usize::from(db.0)) {
            *clears += 1;
        }
        self.change(
            db,
            Count {
                keys: -all.keys,
                expiring: -all.expiring,
            },
        );
    }

    /// How often each database was emptied: what somebody has found out of its keys before that is of no use after it.
    pub(crate) fn clears(&self) -> [u64; DATABASE_COUNT] {
        self.clears
    }

    /// The active memtable was frozen.
    pub(crate) fn freeze(&mut self) {
        let full = core::mem::take(&mut self.active);
        self.frozen.push_front(full);
    }

    /// What runs hold.
    pub(crate) fn of_runs(&self) -> ByDatabase {
        self.runs
    }

    /// What the oldest frozen memtable changes.
    pub(crate) fn of_oldest_frozen(&self) -> ByDatabase {
        self.frozen.back().copied().unwrap_or_default()
    }

    /// The oldest frozen memtable is in runs now, which hold so many.
    pub(crate) fn flushed(&mut self, runs: ByDatabase) {
        self.frozen.pop_back();
        self.runs = runs;
    }

    /// Runs hold so many now.
    pub(crate) fn set_runs(&mut self, runs: ByDatabase) {
        self.runs = runs;
    }

    /// There are so many keys in `db`: they have been counted. What memtables change is as it was.
    pub(crate) fn set(&mut self, db: DatabaseIndex, to: Count) {
        let all = self.sum(db);
        let by = Count {
            keys: to.keys.saturating_sub(all.keys),
            expiring: to.expiring.saturating_sub(all.expiring),
        };
        if let Some(count) = self.runs.get_mut(usize::from(db.0)) {
            add(count, &by);
        }
    }

    fn sum(&self, db: DatabaseIndex) -> Count {
        let mut sum = Count::default();
        let sources = [&self.runs, &self.active];
        for source in sources.into_iter().chain(&self.frozen) {
            if let Some(count) = source.get(usize::from(db.0)) {
                add(&mut sum, count);
            }
        }
        sum
    }
}

/// Adds up two counts of each database.
pub(crate) fn sum_of(one: &ByDatabase, other: &ByDatabase) -> ByDatabase {
    let mut sum = *one;
    for (count, by) in sum.iter_mut().zip(other) {
        add(count, by);
    }
    sum
}

pub(super) fn add(count: &mut Count, by: &Count) {
    count.keys = count.keys.saturating_add(by.keys);
    count.expiring = count.expiring.saturating_add(by.expiring);
}

#[cfg(test)]
mod tests {
    use super::*;

    const DB: DatabaseIndex = DatabaseIndex(3);

    fn keys(keys: i64) -> Count {
        Count { keys, expiring: 0 }
    }

    #[test]
    fn what_a_memtable_changes_goes_to_the_runs_with_it() {
        let mut counts = Counts::default();
        counts.change(DB, keys(5));
        counts.freeze();
        counts.change(DB, keys(2));
        assert_eq!(counts.keys(DB), 7);
        let runs = sum_of(&counts.of_runs(), &counts.of_oldest_frozen());
        counts.flushed(runs);
        assert_eq!((counts.keys(DB), counts.of_runs()[3]), (7, keys(5)));
        counts.clear(DB);
        assert_eq!((counts.keys(DB), counts.of_runs()[3]), (0, keys(5)));
        counts.change(DB, keys(1));
        counts.freeze();
        let runs = sum_of(&counts.of_runs(), &counts.of_oldest_frozen());
        counts.flushed(runs);
        assert_eq!((counts.keys(DB), counts.of_runs()[3]), (1, keys(1)));
    }

    #[test]
    fn what_was_assumed_too_high_is_no_negative_number() {
        let mut counts = Counts::default();
        counts.change(DB, keys(-3));
        assert_eq!(counts.keys(DB), 0);
        counts.change(
            DB,
            Count {
                keys: 4,
                expiring: 9,
            },
        );
        assert_eq!((counts.keys(DB), counts.expiring(DB)), (1, 1));
    }
}

//! One budget for memory, shared by owners (`ENGINE.md`, section 7).
//!
//! Each owner has a floor, that it always gets, and most of them a share that is the most they may take. The cache has what others do not use, and gives it back at once:
//! whoever grows takes from it. Amounts move in steps of 64 KiB, so that the cache is not asked for each byte.
//!
//! The sum of what owners may take never exceeds the budget: whoever was refused waits for a flush, or answers that there is no memory.

/// Amounts that are moved between owners.
pub const STEP_BYTES: usize = 64 << 10;

/// Memory of the memtables below which no flush is worth it.
const MEMTABLES_FLOOR: usize = 3 << 19;

/// Who has memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// Active and frozen ones: pool chunks.
    Memtables,
    /// Rows, chunks, values, heads. Never asks; it has what is left.
    Cache,
    /// Open ones, digests, what was loaded, locks, watches.
    Transactions,
    /// The file system: nodes, groups.
    FileSystem,
    /// Manifest, bounds of runs, timeline, cursors, expiries: what they are.
    Tables,
}

const SHARES: usize = 5;

/// There is no memory for it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoMemory;

/// Who has how much of it.
#[derive(Debug)]
pub struct Budget {
    max: usize,
    used: [usize; SHARES],
}

impl Budget {
    /// A budget of `max` bytes.
    pub fn new(max: usize) -> Self {
        Self {
            max,
            used: [0; SHARES],
        }
    }

    /// It has `max` bytes from now on. Who has more than that leaves keeps it until it gives it back.
    pub fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    /// All of it.
    pub fn max(&self) -> usize {
        self.max
    }

    /// `share` takes `bytes`; the cache has to shrink to its [`limit`](Self::limit) then.
    ///
    /// # Errors
    /// When it would be more than it may have; nothing was taken.
    pub fn take(&mut self, share: Share, bytes: usize) -> Result<(), NoMemory> {
        let used = self.used(share).checked_add(bytes).ok_or(NoMemory)?;
        if used > self.limit(share) {
            return Err(NoMemory);
        }
        *self.of(share) = used;
        Ok(())
    }

    /// `share` gives `bytes` back.
    pub fn give(&mut self, share: Share, bytes: usize) {
        let used = self.of(share);
        debug_assert!(*used >= bytes, "more than was taken");
        *used = used.saturating_sub(bytes);
    }

    /// `share` uses just `bytes`, whatever it may: for what is as large as it is, and for the cache.
    pub fn set_used(&mut self, share: Share, bytes: usize) {
        *self.of(share) = bytes;
    }

    /// What `share` uses.
    pub fn used(&self, share: Share) -> usize {
        self.used.get(share as usize).copied().unwrap_or(0)
    }

    /// What all use.
    pub fn used_by_all(&self) -> usize {
        self.used.iter().sum()
    }

    /// What `share` may use now, all in all.
    pub fn limit(&self, share: Share) -> usize {
        let others = [
            Share::Memtables,
            Share::Cache,
            Share::Transactions,
            Share::FileSystem,
            Share::Tables,
        ];
        let others = others.into_iter().filter(|other| *other != share);
        let taken = others.fold(0_usize, |sum, other| {
            let has = match other {
                // It gives back what is above its floor.
                Share::Cache => 0,
                _ => self.used(other).next_multiple_of(STEP_BYTES),
            };
            sum.saturating_add(has.max(self.floor(other)))
        });
        let left = self.max.saturating_sub(taken);
        left.min(self.most(share)).max(self.floor(share))
    }

    /// What `share` always gets.
    fn floor(&self, share: Share) -> usize {
        match share {
            // Hardly any budget, and nobody can be refused all of it.
            Share::Memtables => MEMTABLES_FLOOR.min(self.max / 4),
            Share::Cache => self.max / 8,
            Share::Transactions | Share::FileSystem => self.max / 16,
            Share::Tables => 0,
        }
    }

    /// The most that `share` may take, whatever others leave.
    fn most(&self, share: Share) -> usize {
        match share {
            Share::Memtables => (self.max / 8 * 3).max(self.floor(share)),
            Share::Transactions => self.max / 4,
            Share::FileSystem => self.max / 8,
            Share::Cache | Share::Tables => self.max,
        }
    }

    #[expect(clippy::indexing_slicing, reason = "there is one for each")]
    fn of(&mut self, share: Share) -> &mut usize {
        &mut self.used[share as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;

    const ALL: [Share; SHARES] = [
        Share::Memtables,
        Share::Cache,
        Share::Transactions,
        Share::FileSystem,
        Share::Tables,
    ];

    /// Whatever is taken and given: all together stay within the budget, the cache keeping to its limit, and floors are there.
    #[test]
    fn nobody_takes_more_than_there_is_or_less_than_its_floor() {
        let mut random = random(17);
        for _ in 0..200 {
            let max = (1 << 20) + random.index(64 << 20);
            let mut budget = Budget::new(max);
            for _ in 0..2000 {
                let share = ALL[random.index(SHARES)];
                if share == Share::Cache {
                    let limit = budget.limit(share);
                    budget.set_used(share, random.index(limit + 1));
                } else if random.one_in(2) {
                    let (bytes, before) = (random.index(max / 8), budget.used(share));
                    if budget.take(share, bytes).is_err() {
                        assert_eq!(budget.used(share), before);
                        assert!(before + bytes > budget.floor(share), "its floor is its own");
                    }
                } else {
                    let used = budget.used(share);
                    budget.give(share, random.index(used + 1));
                }
                // What the store does after each `take`.
                let limit = budget.limit(Share::Cache);
                let cached = budget.used(Share::Cache).min(limit);
                budget.set_used(Share::Cache, cached);
                assert!(budget.used_by_all() <= max, "{budget:?}");
                assert!(limit >= max / 8);
            }
        }
    }

    #[test]
    fn the_cache_has_what_others_leave() {
        const MAX: usize = 30 << 20;
        let mut budget = Budget::new(MAX);
        let all = budget.limit(Share::Cache);
        assert_eq!(all, MAX - MEMTABLES_FLOOR - 2 * (MAX / 16));
        budget.take(Share::Memtables, MEMTABLES_FLOOR).unwrap();
        assert_eq!(budget.limit(Share::Cache), all, "it had that anyway");
        budget.take(Share::Memtables, 1).unwrap();
        assert_eq!(budget.limit(Share::Cache), all - STEP_BYTES);
        budget.take(Share::Memtables, STEP_BYTES - 1).unwrap();
        assert_eq!(budget.limit(Share::Cache), all - STEP_BYTES);
        assert_eq!(budget.take(Share::Memtables, MAX / 8 * 3), Err(NoMemory));
        budget.give(Share::Memtables, STEP_BYTES);
        assert_eq!(budget.limit(Share::Cache), all);
        assert_eq!(budget.limit(Share::Memtables), MAX / 8 * 3);
    }

    #[test]
    fn a_smaller_budget_holds_for_whoever_wants_more() {
        let mut budget = Budget::new(32 << 20);
        budget.take(Share::Transactions, 6 << 20).unwrap();
        budget.set_max(8 << 20);
        assert_eq!(budget.take(Share::Transactions, 1), Err(NoMemory));
        assert_eq!(budget.limit(Share::Cache), 1 << 20);
        budget.give(Share::Transactions, 5 << 20);
        budget.take(Share::Transactions, 1 << 19).unwrap();
    }
}

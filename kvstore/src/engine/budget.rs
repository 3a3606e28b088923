//! One budget for memory, shared by owners (`ENGINE.md`, section 7).
//!
//! Each owner has a floor, that it always gets, and a share that is the most it may take. The cache has what others do not use, and gives it back at once:
//! whoever grows takes from it. Nothing is counted here: limits follow from what owners use just now.
//!
//! As long as each keeps to its limit when it grows, all together stay within the budget: whoever was refused waits for a flush, or answers that there is no memory.

/// The smallest budget: with less, memtables would not be worth a flush, and floors would exceed it.
pub const MEMORY_BYTES_MIN: usize = 2 << 20;

/// Memory of the memtables below which no flush is worth it.
const MEMTABLES_FLOOR: usize = 3 << 19;

/// Who has memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// Active and frozen ones, and those that are being given back.
    Memtables,
    /// Rows, chunks, values. Never asks; it has what is left.
    Cache,
    /// Open ones, digests, what is loaded for those under way, locks, watches.
    Transactions,
    /// What the layer above has for its clients.
    Connections,
    /// Nodes of the file system's trees, beyond what is theirs whatever the budget is.
    Nodes,
}

impl Share {
    const ALL: [Self; 5] = [
        Self::Memtables,
        Self::Cache,
        Self::Transactions,
        Self::Connections,
        Self::Nodes,
    ];
}

/// Who uses how much, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct MemoryUse {
    /// The newest commits.
    pub memtables: usize,
    /// What was read.
    pub cache: usize,
    /// Transactions that are open or under way, and locks and watches.
    pub transactions: usize,
    /// What the layer above has for its clients.
    pub connections: usize,
    /// What nodes of the file system's trees may take beyond [`NODE_CACHE_BYTES_MIN`](lfs::NODE_CACHE_BYTES_MIN).
    pub nodes: usize,
}

impl MemoryUse {
    /// What all use.
    pub fn total(&self) -> usize {
        let of = |share: &Share| self.of(*share);
        Share::ALL.iter().map(of).fold(0, usize::saturating_add)
    }

    fn of(&self, share: Share) -> usize {
        match share {
            Share::Memtables => self.memtables,
            Share::Cache => self.cache,
            Share::Transactions => self.transactions,
            Share::Connections => self.connections,
            Share::Nodes => self.nodes,
        }
    }
}

/// What there is for all of them.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    max: usize,
}

impl Budget {
    /// A budget of `max` bytes; of [`MEMORY_BYTES_MIN`] if that is more.
    pub fn new(max: usize) -> Self {
        Self {
            max: max.max(MEMORY_BYTES_MIN),
        }
    }

    /// All of it.
    pub fn max(&self) -> usize {
        self.max
    }

    /// What `share` may use now, all in all, when that is what is used. Who has more keeps it until it gives it back, and gets no more.
    pub fn limit(&self, share: Share, used: &MemoryUse) -> usize {
        let others = Share::ALL.into_iter().filter(|other| *other != share);
        let taken = others.fold(0_usize, |sum, other| {
            let has = match other {
                // It gives back what is above its floor.
                Share::Cache => 0,
                _ => used.of(other),
            };
            sum.saturating_add(has.max(self.floor(other)))
        });
        let left = self.max.saturating_sub(taken);
        match share {
            // Its floor is what others are not given; who has more than it may nonetheless has it from there.
            Share::Cache => left,
            _ => left.min(self.most(share)).max(self.floor(share)),
        }
    }

    /// What `share` always gets, as long as all keep to their limits.
    pub fn floor(&self, share: Share) -> usize {
        match share {
            Share::Memtables => MEMTABLES_FLOOR.min(self.most(share)),
            Share::Cache => self.max / 8,
            Share::Transactions | Share::Connections => self.max / 16,
            Share::Nodes => 0,
        }
    }

    /// The most that `share` may take, whatever others leave.
    pub fn most(&self, share: Share) -> usize {
        match share {
            Share::Memtables => self.max / 8 * 3,
            Share::Transactions => self.max / 4,
            Share::Connections => self.max / 2,
            Share::Nodes => self.max / 8,
            Share::Cache => self.max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;

    fn set(used: &mut MemoryUse, share: Share, bytes: usize) {
        *match share {
            Share::Memtables => &mut used.memtables,
            Share::Cache => &mut used.cache,
            Share::Transactions => &mut used.transactions,
            Share::Connections => &mut used.connections,
            Share::Nodes => &mut used.nodes,
        } = bytes;
    }

    /// Whatever is taken and given: all together stay within the budget, the cache keeping to its limit, and floors are there.
    #[test]
    fn nobody_takes_more_than_there_is_or_less_than_its_floor() {
        let mut random = random(17);
        for _ in 0..200 {
            let max = MEMORY_BYTES_MIN + random.index(64 << 20);
            let (budget, mut used) = (Budget::new(max), MemoryUse::default());
            for _ in 0..2000 {
                let share = Share::ALL[random.index(Share::ALL.len())];
                let has = used.of(share);
                let limit = budget.limit(share, &used);
                assert!(limit >= budget.floor(share), "its floor is its own");
                assert!(limit <= budget.most(share));
                if share == Share::Cache {
                    set(&mut used, share, random.index(limit + 1));
                } else if random.one_in(2) {
                    let wanted = has + random.index(max / 8);
                    if wanted <= limit {
                        set(&mut used, share, wanted);
                    }
                } else {
                    set(&mut used, share, random.index(has + 1));
                }
                // What the store does whenever somebody has grown.
                let limit = budget.limit(Share::Cache, &used);
                used.cache = used.cache.min(limit);
                assert!(used.total() <= max, "{used:?}");
                assert!(limit >= max / 8);
            }
        }
    }

    #[test]
    fn the_cache_has_what_others_leave() {
        const MAX: usize = 32 << 20;
        let (budget, mut used) = (Budget::new(MAX), MemoryUse::default());
        let all = MAX - MEMTABLES_FLOOR - 2 * (MAX / 16);
        assert_eq!(budget.limit(Share::Cache, &used), all);
        used.memtables = MEMTABLES_FLOOR;
        assert_eq!(budget.limit(Share::Cache, &used), all, "they had that");
        used.memtables += 1;
        assert_eq!(budget.limit(Share::Cache, &used), all - 1);
        used.connections = MAX / 2;
        used.transactions = MAX / 8;
        used.cache = MAX / 8;
        assert_eq!(budget.limit(Share::Memtables, &used), MAX / 4);
        assert_eq!(
            budget.limit(Share::Cache, &used),
            MAX / 8 * 3 - MEMTABLES_FLOOR - 1
        );
    }

    #[test]
    fn a_smaller_budget_holds_for_whoever_wants_more() {
        let used = MemoryUse {
            transactions: 6 << 20,
            ..MemoryUse::default()
        };
        let budget = Budget::new(8 << 20);
        assert_eq!(budget.limit(Share::Transactions, &used), 2 << 20);
        assert_eq!(budget.limit(Share::Cache, &used), 0);
        assert_eq!(budget.limit(Share::Memtables, &used), MEMTABLES_FLOOR);
    }

    #[test]
    fn floors_fit_into_the_smallest_budget() {
        let budget = Budget::new(0);
        assert_eq!(budget.max(), MEMORY_BYTES_MIN);
        let floors = Share::ALL.map(|share| budget.floor(share));
        assert!(floors.iter().sum::<usize>() <= MEMORY_BYTES_MIN);
    }
}

//! Who has how much memory just now, and what follows from it (`ENGINE.md`, section 7).
//!
//! What owners use is asked for, not told: it is known to each of them at any time. Whoever grows, or gives much back, calls [`Store::share_memory`], which sets what
//! others may take, and has the cache give back what it may not have any more, in the same step.
//!
//! What is read for a transaction under way is the cache's loss, and is bounded by nothing but what one transaction may have loaded: it ends soon.
//! Not here: what the file system has but for its nodes beyond 4 MiB, and compaction for the tables it writes, which have bounds of their own.

use lfs::{BlockDevice, NODE_CACHE_BYTES_MIN};

use crate::engine::budget::{Budget, MemoryUse, Share};
use crate::engine::cache::{ENTRY_BYTES, PolicyKind};
use crate::engine::pool::CHUNK_BYTES;
use crate::engine::state::memtable_bytes_of;
use crate::store::Store;

/// A memtable takes at most this part of the room for tables, ...
const MEMTABLE_PART: u64 = 16;

/// ... which is never less than that.
const MEMTABLE_BYTES_MIN: usize = 256 << 10;

/// What nodes may grow by before the cache has to give them more: they do so while they are read, and nobody says.
const NODES_STEP: usize = 256 << 10;

/// Entries that the cache evicts in one step, beside those that make room for what others have taken in it.
const VICTIMS_MAX: usize = 256;

impl<D: BlockDevice> Store<D> {
    /// Sets the memory limit in bytes (`maxmemory`), which memtables, the cache, transactions and what
    /// [`set_connection_bytes`](Self::set_connection_bytes) says share. Less than [`MEMORY_BYTES_MIN`](crate::MEMORY_BYTES_MIN) is taken for that.
    ///
    /// What is above a lower limit is given back in steps, at once by the cache, after the next flush by memtables.
    pub fn set_memory_bytes_max(&self, bytes: usize) {
        self.budget.set(Budget::new(bytes));
        let usage = self.filesystem.usage();
        // What is in the log, and what the disk has room for beside.
        let each = usage
            .replay_bytes_max
            .min(usage.object_bytes_max / MEMTABLE_PART);
        let each = usize::try_from(each).unwrap_or(usize::MAX);
        let engine = &self.engine;
        engine.memtable_bytes_max.set(each.max(MEMTABLE_BYTES_MIN));
        self.share_memory();
        engine.set_probed();
        engine.freeze_if_full(self.committed());
        self.filesystem.nudge();
        self.changed.notify();
    }

    /// Says what the layer above has for its clients: it is part of what is shared.
    pub fn set_connection_bytes(&self, bytes: usize) {
        if self.connection_bytes.replace(bytes) != bytes {
            self.share_memory();
        }
    }

    /// What that may be now. Who would exceed it is to be refused; what is there already may be more, when there has become less for it.
    pub fn connection_bytes_max(&self) -> usize {
        self.budget.get().limit(Share::Connections, &self.memory())
    }

    /// Sets who decides what leaves the cache. What is in it stays, and is taken over step by step.
    pub fn set_cache_policy(&self, policy: PolicyKind) {
        self.engine.cache.borrow_mut().set_policy(policy);
        self.changed.notify();
    }

    /// Who uses how much.
    pub(crate) fn memory(&self) -> MemoryUse {
        let engine = &self.engine;
        MemoryUse {
            memtables: engine.pool.memory_bytes(),
            cache: engine.cache.borrow().bytes(),
            transactions: engine.open.bytes()
                + engine.loaded_bytes.get()
                + engine.digests.borrow().memory_bytes()
                + engine.locks.borrow().memory_bytes()
                + engine.watches.borrow().memory_bytes()
                + self.filesystem.transaction_memory_bytes(),
            connections: self.connection_bytes.get(),
            nodes: self.node_bytes_max.get().max(self.node_bytes()),
        }
    }

    /// What nodes of the file system's trees take beyond what is theirs.
    fn node_bytes(&self) -> usize {
        let bytes = self.filesystem.node_cache_bytes();
        bytes.saturating_sub(NODE_CACHE_BYTES_MIN)
    }

    /// The most that a memtable takes before it is frozen.
    pub(crate) fn memtable_bytes_most(&self) -> usize {
        let all = self.budget.get().most(Share::Memtables);
        memtable_bytes_of(all).min(self.engine.memtable_bytes_max.get())
    }

    /// Somebody has more than before, or much less: sets what each may take from now on.
    pub(crate) fn share_memory(&self) {
        let (engine, budget) = (&self.engine, self.budget.get());
        let nodes = self.filesystem.node_cache_bytes() + NODES_STEP;
        let nodes = nodes.saturating_sub(NODE_CACHE_BYTES_MIN);
        let nodes = nodes.min(budget.limit(Share::Nodes, &self.memory()));
        self.node_bytes_max.set(nodes);
        self.filesystem
            .set_node_cache_bytes_max(NODE_CACHE_BYTES_MIN + nodes);

        let used = self.memory();
        let memtables = budget.limit(Share::Memtables, &used);
        engine.memtables_bytes_max.set(memtables);
        let each = memtable_bytes_of(memtables).min(engine.memtable_bytes_max.get());
        engine.memtable_bytes.set(each);
        let floor = budget.floor(Share::Memtables);
        engine.pool.set_keep(floor / CHUNK_BYTES);

        let transactions = budget.limit(Share::Transactions, &used);
        let room = transactions.saturating_sub(used.transactions);
        engine.open.set_bytes_max(engine.open.bytes() + room);
        let mut locks = engine.locks.borrow_mut();
        let bytes = locks.memory_bytes();
        locks.set_bytes_max(bytes + room);
        let mut watches = engine.watches.borrow_mut();
        let bytes = watches.memory_bytes();
        watches.set_bytes_max(bytes + room);
        let bytes = self.filesystem.transaction_memory_bytes();
        self.filesystem.set_transaction_memory(bytes + room);

        let cached = budget.limit(Share::Cache, &used);
        engine.cache_bytes_max.set(cached);
        let crowded = MemoryUse {
            memtables: budget.most(Share::Memtables),
            ..used
        };
        let sure = budget.limit(Share::Cache, &crowded);
        engine.cache_bytes_sure.set(sure);
        let others = used.total() - used.cache;
        let grown = others.saturating_sub(self.shared_bytes.replace(others));
        let mut cache = engine.cache.borrow_mut();
        if cache.resize(cached, VICTIMS_MAX + grown / ENTRY_BYTES) {
            self.changed.notify();
        }
    }
}

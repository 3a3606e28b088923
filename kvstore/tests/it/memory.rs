//! One budget for all memory: whoever needs more has it from who needs less, all together never have more, and the limit
//! can be changed at any time.

use std::rc::Rc;

use kvstore::{
    BeginOptions, CachePolicy, CommitError, DatabaseIndex, Loaded, MEMORY_BYTES_MIN,
    OpenTransaction, Watch,
};
use lfs::Clock;
use lfs::sim::{Executor, Random};

use crate::common::{TestStore, formatted, open, put, seed, value_of};

const DB: DatabaseIndex = DatabaseIndex(0);
const MIB: usize = 1 << 20;
const POLICIES: [CachePolicy; 3] = [CachePolicy::S3Fifo, CachePolicy::Lru, CachePolicy::Lfu];

/// What somebody does for a while, in parts of all that is done.
#[derive(Clone, Copy)]
struct Needs {
    writes: u64,
    reads: u64,
    transactions: u64,
    connections: u64,
}

impl Needs {
    /// Some of it much, some not at all.
    fn random(random: &mut Random) -> Self {
        let mut part = || [0, 1, 10][random.index(3)];
        Self {
            writes: part(),
            reads: 1 + part(),
            transactions: part(),
            connections: part(),
        }
    }
}

/// Who uses the store, and what they hold.
struct Users {
    store: Rc<TestStore>,
    random: Random,
    open: Vec<OpenTransaction>,
    watches: Vec<Watch>,
    /// What some of them were refused.
    refused: u32,
}

impl Users {
    async fn do_something(&mut self, needs: Needs) {
        let all = needs.writes + needs.reads + needs.transactions + needs.connections;
        let mut what = self.random.below(all);
        let number = self.random.below(20_000) as u32;
        if what < needs.writes {
            let len = [10, 300, 300, 3000][self.random.index(4)];
            // Whatever others have: what is to be flushed waits, and one commit has its room.
            put(&self.store, number, len).await.unwrap();
            return;
        }
        what -= needs.writes;
        if what < needs.reads {
            value_of(&self.store, DB, &number.to_be_bytes()).await;
            return;
        }
        what -= needs.reads;
        if what < needs.transactions {
            self.use_transactions();
            return;
        }
        let max = self.store.connection_bytes_max();
        assert!(max >= self.store.stats().memory_bytes_max / 16);
        self.store.set_connection_bytes(self.random.index(max + 1));
    }

    fn use_transactions(&mut self) {
        match self.random.below(10) {
            0..=2 => {
                let begun = self.store.begin(BeginOptions::default(), 0, 0);
                self.open.extend(begun);
            }
            3..=7 if !self.open.is_empty() => {
                let at = self.random.index(self.open.len());
                let mut loaded = Loaded::default();
                let open = &self.open[at];
                let Ok(mut statement) = self.store.resume(open, 0, 0, &mut loaded) else {
                    // It was too old for what there is memory for.
                    self.open.swap_remove(at);
                    return;
                };
                let key = self.random.next_u64().to_be_bytes();
                let len = self.random.index(60_000);
                statement.put(DB, &key, vec![7; len], None);
                match statement.suspend(true) {
                    Ok(_) => {}
                    Err(CommitError::OutOfMemory | CommitError::TooLarge) => self.refused += 1,
                    Err(error) => panic!("{error}"),
                }
                // Locks count as well.
                let lock = [&key[..], &vec![1; self.random.index(9000)]].concat();
                _ = self.store.try_lock(&self.open[at], DB, &lock, 0);
            }
            8 => {
                let watch = self.store.new_watch();
                let key = vec![2; self.random.index(20_000)];
                self.refused += u32::from(watch.add(DB, &key).is_err());
                self.watches.push(watch);
            }
            _ => self.end_some(),
        }
    }

    fn end_some(&mut self) {
        self.open.truncate(self.random.index(self.open.len() + 1));
        self.watches
            .truncate(self.random.index(self.watches.len() + 1));
        self.store.expire_transactions(0);
    }

    /// All together are within the limit.
    fn check(&self) {
        let stats = self.store.stats();
        let (used, max) = (stats.memory, stats.memory_bytes_max);
        assert!(used.total() <= max, "{max}: {used:?}");
    }
}

#[test]
fn needs_vary_and_memory_is_never_above_its_limit() {
    let seed = seed(61);
    let mut random = Random::new(seed);
    let disk = formatted(3000, seed);
    let mut executor = Executor::new(seed);
    let store = open(&mut executor, &disk).unwrap();
    let clock = executor.clock();
    // So that writers wait for no cleaner, and memtables fill while others are flushed.
    store.set_garbage_percent_max(0);
    executor.run(async move {
        let mut users = Users {
            store: Rc::clone(&store),
            random: Random::new(random.next_u64()),
            open: Vec::new(),
            watches: Vec::new(),
            refused: 0,
        };
        for number in 0..20_000 {
            put(&store, number, 300).await.unwrap();
        }
        let (mut most, mut lowered) = (kvstore::MemoryUse::default(), 0);
        for _ in 0..30 {
            let max = MEMORY_BYTES_MIN + random.index(6 * MIB);
            lowered += u32::from(max < store.stats().memory_bytes_max);
            store.set_memory_bytes_max(max);
            // What is above the new limit is given back by those who have it.
            users.open.clear();
            users.watches.clear();
            store.set_connection_bytes(store.connection_bytes_max().min(MIB / 2));
            store.expire_transactions(0);
            let mut waited = 0;
            while store.stats().memory_bytes > max {
                clock.sleep_ms(10).await;
                waited += 1;
                assert!(waited < 100, "{max}: {:?}", store.stats().memory);
            }
            // The cache has all that nobody else needs.
            let reads_only = Needs {
                writes: 0,
                reads: 1,
                transactions: 0,
                connections: 0,
            };
            for _ in 0..1000 {
                users.do_something(reads_only).await;
                users.check();
            }
            let needs = Needs::random(&mut random);
            for _ in 0..400 {
                users.do_something(needs).await;
                users.check();
                if random.one_in(100) {
                    store.set_cache_policy(POLICIES[random.index(3)]);
                }
            }
            let used = store.stats().memory;
            most.memtables = most.memtables.max(used.memtables);
            most.cache = most.cache.max(used.cache);
            most.transactions = most.transactions.max(used.transactions);
            most.connections = most.connections.max(used.connections);
        }
        // It was about something.
        assert!(lowered > 5);
        assert!(most.memtables > MIB / 2 && most.cache > MIB, "{most:?}");
        assert!(
            most.transactions > MIB / 4 && most.connections > MIB,
            "{most:?}"
        );
        assert!(users.refused > 0);
    });
}

#[test]
fn the_cache_has_what_others_do_not_need_and_gives_it_back() {
    const MEMORY: usize = 8 * MIB;
    let disk = formatted(3000, 1);
    let mut executor = Executor::new(1);
    let store = open(&mut executor, &disk).unwrap();
    store.set_memory_bytes_max(MEMORY);
    executor.run(async move {
        for number in 0..30_000 {
            put(&store, number, 300).await.unwrap();
        }
        let read_all = async || {
            for number in 0..30_000_u32 {
                let found = value_of(&store, DB, &number.to_be_bytes()).await;
                assert_eq!(found.map(|entry| entry.value.len()), Some(300));
            }
        };
        read_all().await;
        let idle = store.stats().memory.cache;
        assert!(idle > MEMORY / 2, "{idle}");
        // In the step in which others take it.
        let taken = store.connection_bytes_max();
        assert!(taken > MEMORY / 4, "{taken}");
        store.set_connection_bytes(taken);
        let stats = store.stats();
        assert!(stats.memory_bytes <= MEMORY, "{stats:?}");
        assert!(stats.memory.cache >= MEMORY / 8 - 1024, "{stats:?}");
        store.set_connection_bytes(0);
        read_all().await;
        let again = store.stats().memory.cache;
        assert!(again > MEMORY / 2, "{again}");
    });
}

#[test]
fn less_than_the_least_memory_is_taken_for_that() {
    let disk = formatted(1000, 1);
    let mut executor = Executor::new(1);
    let store = open(&mut executor, &disk).unwrap();
    store.set_memory_bytes_max(1000);
    assert_eq!(store.stats().memory_bytes_max, MEMORY_BYTES_MIN);
    executor.run(async move {
        for number in 0..3000 {
            put(&store, number, 400).await.unwrap();
            let used = store.stats().memory_bytes;
            assert!(used <= MEMORY_BYTES_MIN, "{used}");
        }
        // Even with keys of which one nearly fills a chunk.
        for number in 0..100_u8 {
            let key = vec![number; 60_000];
            let put = |transaction: &mut kvstore::Transaction<'_, _>| {
                transaction.put(DB, &key, &b"v"[..], None);
                Ok(())
            };
            crate::common::transact(&store, 0, put).await.unwrap();
            let used = store.stats().memory_bytes;
            assert!(used <= MEMORY_BYTES_MIN, "{used}");
        }
    });
}

#[test]
fn a_policy_can_be_chosen_while_it_is_used() {
    let disk = formatted(1000, 1);
    let mut executor = Executor::new(1);
    let store = open(&mut executor, &disk).unwrap();
    store.set_memory_bytes_max(4 * MIB);
    let clock = executor.clock();
    executor.run(async move {
        for number in 0..12_000 {
            put(&store, number, 300).await.unwrap();
        }
        for (round, policy) in POLICIES.into_iter().cycle().take(7).enumerate() {
            let before = store.stats().cache.entries;
            store.set_cache_policy(policy);
            assert_eq!(store.stats().cache_policy, policy);
            assert_eq!(store.stats().cache.entries, before, "all stay");
            if round % 2 == 0 {
                clock.sleep_ms(100).await;
            }
            for number in (0..12_000_u32).step_by(5) {
                let found = value_of(&store, DB, &number.to_be_bytes()).await;
                assert!(found.is_some());
                let used = store.stats().memory_bytes;
                assert!(used <= 4 * MIB, "{used}");
            }
        }
    });
}

#[test]
fn nodes_have_more_memory_where_more_values_are_read_and_give_it_back() {
    const MEMORY: usize = 16 * MIB;
    const VALUES: u32 = 100_000;
    const BATCH: u32 = 50;
    let disk = formatted(8000, 1);
    let mut executor = Executor::new(1);
    let store = open(&mut executor, &disk).unwrap();
    store.set_memory_bytes_max(MEMORY);
    executor.run(async move {
        let check = |max: usize| {
            let stats = store.stats();
            assert!(stats.memory_bytes <= max, "{:?}", stats.memory);
            assert!(stats.memory.nodes <= max / 8, "{:?}", stats.memory);
        };
        assert_eq!(store.stats().memory.nodes, 0, "there are none");
        for first in (0..VALUES).step_by(BATCH as usize) {
            let put = |transaction: &mut kvstore::Transaction<'_, _>| {
                for number in first..first + BATCH {
                    let value = [number as u8; 512];
                    transaction.put(DB, &number.to_be_bytes(), &value[..], None);
                }
                Ok(())
            };
            crate::common::transact(&store, 0, put).await.unwrap();
            check(MEMORY);
        }
        for number in (0..VALUES).step_by(10) {
            let found = value_of(&store, DB, &number.to_be_bytes()).await;
            assert_eq!(found.map(|entry| entry.value.len()), Some(512));
            check(MEMORY);
        }
        let nodes = store.stats().memory.nodes;
        assert!(nodes > MIB / 2, "{nodes}");
        let less = 2 * MEMORY_BYTES_MIN;
        store.set_memory_bytes_max(less);
        // In steps.
        for step in 0..=nodes / MIB {
            store.set_connection_bytes(step);
        }
        assert_eq!(store.stats().memory.nodes, less / 8);
    });
}

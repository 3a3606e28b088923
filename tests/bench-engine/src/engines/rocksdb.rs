//! RocksDB: commits that wait at once share a flush; transactions are validated when they commit.

use std::path::Path;

use rocksdb::{
    BlockBasedOptions, Cache, Direction, ErrorKind, IteratorMode, OptimisticTransactionDB,
    OptimisticTransactionOptions, Options, ReadOptions, SingleThreaded, WriteBatchWithTransaction,
    WriteOptions,
};

use super::{copy, size};
use crate::data::Key;
use crate::engine::{Peer, Sizes};

/// As its guide for tuning says.
const FILTER_BITS: f64 = 10.0;

pub struct RocksDb(OptimisticTransactionDB<SingleThreaded>);

impl RocksDb {
    pub fn open(directory: &Path, sizes: Sizes) -> Self {
        let mut blocks = BlockBasedOptions::default();
        let cache = Cache::new_lru_cache(size(sizes.memory_bytes / 2));
        blocks.set_block_cache(&cache);
        blocks.set_bloom_filter(FILTER_BITS, false);
        // Indexes and filters are part of what it may take.
        blocks.set_cache_index_and_filter_blocks(true);
        blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_block_based_table_factory(&blocks);
        // Half of it for two memtables, and for one more that was written and stays for transactions to be validated against.
        options.set_write_buffer_size(size(sizes.memory_bytes / 6));
        options.set_max_write_buffer_number(2);
        let opened = OptimisticTransactionDB::open(&options, directory.join("rocksdb"));
        Self(opened.expect("RocksDB opens"))
    }
}

fn durable() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    options
}

impl Peer for RocksDb {
    fn put(&self, entries: &[(Key, Vec<u8>)]) {
        let mut batch = WriteBatchWithTransaction::<true>::default();
        for (key, value) in entries {
            batch.put(key, value);
        }
        self.0.write_opt(batch, &durable()).expect("commits");
    }

    fn get(&self, key: &Key, value: &mut Vec<u8>) -> bool {
        let found = self.0.get_pinned(key).expect("reads");
        found.map(|found| copy(&found, value)).is_some()
    }

    fn scan(&self, from: &Key, limit: usize, each: &mut dyn FnMut(&[u8], &[u8])) {
        let mode = IteratorMode::From(from, Direction::Forward);
        let pairs = self.0.iterator_opt(mode, ReadOptions::default());
        for pair in pairs.take(limit) {
            let (key, value) = pair.expect("reads");
            each(&key, &value);
        }
    }

    fn delete(&self, key: &Key) {
        self.0.delete_opt(key, &durable()).expect("commits");
    }

    fn update(&self, keys: &[Key; 2], change: &mut dyn FnMut(&mut [Vec<u8>; 2])) -> u64 {
        for attempt in 1.. {
            let mut options = OptimisticTransactionOptions::default();
            options.set_snapshot(true);
            let transaction = self.0.transaction_opt(&durable(), &options);
            let mut values = keys.map(|key| {
                let found = transaction.get_for_update(key, true).expect("reads");
                found.expect("it is there")
            });
            change(&mut values);
            for (key, value) in keys.iter().zip(values) {
                transaction.put(key, value).expect("puts");
            }
            match transaction.commit() {
                Err(error) if matches!(error.kind(), ErrorKind::Busy | ErrorKind::TryAgain) => {}
                done => {
                    done.expect("commits");
                    return attempt;
                }
            }
        }
        unreachable!("attempts do not end")
    }

    fn close(self: Box<Self>) {
        self.0.cancel_all_background_work(true);
    }
}

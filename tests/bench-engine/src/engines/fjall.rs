//! fjall: commits append to a journal one after the other; transactions are validated when they commit.

use std::path::Path;

use fjall::{
    KeyspaceCreateOptions, OptimisticTxDatabase, OptimisticTxKeyspace, PersistMode, Readable as _,
};

use super::copy;
use crate::data::Key;
use crate::engine::{Peer, Sizes};

/// `fdatasync`, as everybody.
const DURABLE: Option<PersistMode> = Some(PersistMode::SyncData);

/// The least it takes.
const JOURNAL_BYTES_MAX: u64 = 64 << 20;

pub struct Fjall {
    database: OptimisticTxDatabase,
    keyspace: OptimisticTxKeyspace,
}

impl Fjall {
    pub fn open(directory: &Path, sizes: Sizes) -> Self {
        let database = OptimisticTxDatabase::builder(directory.join("fjall"))
            .cache_size(sizes.memory_bytes / 2)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .open()
            .expect("fjall opens");
        let options = KeyspaceCreateOptions::default().max_memtable_size(sizes.memory_bytes / 4);
        let keyspace = database.keyspace("data", || options).expect("a keyspace");
        Self { database, keyspace }
    }
}

impl Peer for Fjall {
    fn put(&self, entries: &[(Key, Vec<u8>)]) {
        let mut batch = self.database.inner().batch().durability(DURABLE);
        for (key, value) in entries {
            batch.insert(self.keyspace.inner(), *key, value.as_slice());
        }
        batch.commit().expect("commits");
    }

    fn get(&self, key: &Key, value: &mut Vec<u8>) -> bool {
        let found = self.keyspace.get(key).expect("reads");
        found.map(|found| copy(&found, value)).is_some()
    }

    fn scan(&self, from: &Key, limit: usize, each: &mut dyn FnMut(&[u8], &[u8])) {
        for pair in self.keyspace.inner().range(from.as_slice()..).take(limit) {
            let (key, value) = pair.into_inner().expect("reads");
            each(&key, &value);
        }
    }

    fn delete(&self, key: &Key) {
        let mut batch = self.database.inner().batch().durability(DURABLE);
        batch.remove(self.keyspace.inner(), *key);
        batch.commit().expect("commits");
    }

    fn update(&self, keys: &[Key; 2], change: &mut dyn FnMut(&mut [Vec<u8>; 2])) -> u64 {
        for attempt in 1.. {
            let transaction = self.database.write_tx().expect("begins");
            let mut transaction = transaction.durability(DURABLE);
            let mut values = keys.map(|key| {
                let found = transaction.get(&self.keyspace, key).expect("reads");
                found.expect("it is there").to_vec()
            });
            change(&mut values);
            for (key, value) in keys.iter().zip(values) {
                transaction.insert(&self.keyspace, *key, value);
            }
            if transaction.commit().expect("commits").is_ok() {
                return attempt;
            }
        }
        unreachable!("attempts do not end")
    }

    fn close(self: Box<Self>) {
        self.database
            .persist(PersistMode::SyncAll)
            .expect("persists");
    }
}

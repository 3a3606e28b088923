//! sled: writes go to pages in memory and a log; a flush makes all before it durable.
//!
//! Its log waits for `sync_file_range`, which is no promise; here that is `fdatasync` (see `flushes`).

use std::path::Path;

use sled::transaction::ConflictableTransactionError;
use sled::{Batch, Config, Db};

use super::copy;
use crate::data::Key;
use crate::engine::{Peer, Sizes};

pub struct Sled(Db);

impl Sled {
    pub fn open(directory: &Path, sizes: Sizes) -> Self {
        let database = Config::new()
            .path(directory.join("sled"))
            .cache_capacity(sizes.memory_bytes)
            .flush_every_ms(None)
            .open();
        Self(database.expect("sled opens"))
    }

    fn flush(&self) {
        self.0.flush().expect("flushes");
    }
}

impl Peer for Sled {
    fn put(&self, entries: &[(Key, Vec<u8>)]) {
        if let [(key, value)] = entries {
            self.0.insert(key, value.as_slice()).expect("inserts");
        } else {
            let mut batch = Batch::default();
            for (key, value) in entries {
                batch.insert(key.as_slice(), value.as_slice());
            }
            self.0.apply_batch(batch).expect("inserts");
        }
        self.flush();
    }

    fn get(&self, key: &Key, value: &mut Vec<u8>) -> bool {
        let found = self.0.get(key).expect("reads");
        found.map(|found| copy(&found, value)).is_some()
    }

    fn scan(&self, from: &Key, limit: usize, each: &mut dyn FnMut(&[u8], &[u8])) {
        for pair in self.0.range(from.as_slice()..).take(limit) {
            let (key, value) = pair.expect("reads");
            each(&key, &value);
        }
    }

    fn delete(&self, key: &Key) {
        self.0.remove(key).expect("removes");
        self.flush();
    }

    fn update(&self, keys: &[Key; 2], change: &mut dyn FnMut(&mut [Vec<u8>; 2])) -> u64 {
        let attempts = std::cell::Cell::new(0);
        let change = std::cell::RefCell::new(change);
        let done = self.0.transaction(|transaction| {
            attempts.set(attempts.get() + 1);
            let mut values = [Vec::new(), Vec::new()];
            for (key, value) in keys.iter().zip(&mut values) {
                *value = transaction.get(key)?.expect("it is there").to_vec();
            }
            (*change.borrow_mut())(&mut values);
            for (key, value) in keys.iter().zip(values) {
                transaction.insert(key.as_slice(), value)?;
            }
            Ok::<_, ConflictableTransactionError>(())
        });
        done.expect("commits");
        self.flush();
        attempts.get()
    }

    fn close(self: Box<Self>) {
        self.flush();
    }
}

//! redb: one writer at a time; a commit writes new pages, flushes, and switches.

use std::path::Path;

use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};

use super::{copy, size};
use crate::data::Key;
use crate::engine::{Peer, Sizes};

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("data");

pub struct Redb(Database);

impl Redb {
    pub fn open(directory: &Path, sizes: Sizes) -> Self {
        let database = Database::builder()
            .set_cache_size(size(sizes.memory_bytes))
            .create(directory.join("redb"))
            .expect("redb opens");
        let transaction = database.begin_write().expect("begins");
        transaction.open_table(TABLE).expect("a table");
        transaction.commit().expect("commits");
        Self(database)
    }
}

impl Peer for Redb {
    fn put(&self, entries: &[(Key, Vec<u8>)]) {
        let transaction = self.0.begin_write().expect("begins");
        let mut table = transaction.open_table(TABLE).expect("a table");
        for (key, value) in entries {
            table
                .insert(key.as_slice(), value.as_slice())
                .expect("inserts");
        }
        drop(table);
        transaction.commit().expect("commits");
    }

    fn get(&self, key: &Key, value: &mut Vec<u8>) -> bool {
        let transaction = self.0.begin_read().expect("begins");
        let table = transaction.open_table(TABLE).expect("a table");
        let found = table.get(key.as_slice()).expect("reads");
        found.map(|found| copy(found.value(), value)).is_some()
    }

    fn scan(&self, from: &Key, limit: usize, each: &mut dyn FnMut(&[u8], &[u8])) {
        let transaction = self.0.begin_read().expect("begins");
        let table = transaction.open_table(TABLE).expect("a table");
        for pair in table.range(from.as_slice()..).expect("a range").take(limit) {
            let (key, value) = pair.expect("reads");
            each(key.value(), value.value());
        }
    }

    fn delete(&self, key: &Key) {
        let transaction = self.0.begin_write().expect("begins");
        let mut table = transaction.open_table(TABLE).expect("a table");
        table.remove(key.as_slice()).expect("removes");
        drop(table);
        transaction.commit().expect("commits");
    }

    fn update(&self, keys: &[Key; 2], change: &mut dyn FnMut(&mut [Vec<u8>; 2])) -> u64 {
        let transaction = self.0.begin_write().expect("begins");
        let mut table = transaction.open_table(TABLE).expect("a table");
        let mut values = keys.map(|key| {
            let found = table.get(key.as_slice()).expect("reads");
            found.expect("it is there").value().to_vec()
        });
        change(&mut values);
        for (key, value) in keys.iter().zip(&values) {
            table
                .insert(key.as_slice(), value.as_slice())
                .expect("inserts");
        }
        drop(table);
        transaction.commit().expect("commits");
        1
    }

    fn close(self: Box<Self>) {
        self.0.close().expect("closes");
    }
}

//! LMDB: one writer at a time; the file is mapped, and what is in memory of it is the kernel's business.

use std::fs;
use std::ops::Bound;
use std::path::Path;

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvOpenOptions, RwTxn};

use super::{copy, size};
use crate::data::Key;
use crate::engine::{Peer, Sizes};
use crate::flushes;

/// Addresses for each byte of data. They cost nothing.
const MAP_PER_DATA: u64 = 64;

/// More than there are clients.
const READERS_MAX: u32 = 512;

pub struct Lmdb {
    environment: Env,
    database: Database<'static, Bytes, Bytes>,
}

impl Lmdb {
    pub fn open(directory: &Path, sizes: Sizes) -> Self {
        let directory = directory.join("lmdb");
        fs::create_dir_all(&directory).expect("a directory");
        let mut options = EnvOpenOptions::new();
        options.map_size(size(sizes.data_bytes * MAP_PER_DATA).max(1 << 30));
        options.max_readers(READERS_MAX);
        // SAFETY: the directory is this process's own; nobody changes its files while they are mapped.
        let environment = unsafe { options.open(&directory) };
        let environment = environment.expect("LMDB opens");
        let transaction = environment.write_txn().expect("begins");
        let created: heed::Result<_> =
            environment.create_databases_and_commit(transaction, |opener, transaction| {
                let options = opener.database_options().types::<Bytes, Bytes>();
                options
                    .create(transaction)
                    .map(CommitOrAbort::<_, ()>::Commit)
            });
        let database = created.expect("a database").unwrap_commit();
        Self {
            environment,
            database,
        }
    }

    fn begin(&self) -> RwTxn<'_> {
        self.environment.write_txn().expect("begins")
    }
}

fn commit(transaction: RwTxn<'_>) {
    transaction.commit().expect("commits");
    // `mdb_env_write_meta` writes to a descriptor that was opened with O_DSYNC, behind an fdatasync of the pages.
    flushes::note();
}

impl Peer for Lmdb {
    fn put(&self, entries: &[(Key, Vec<u8>)]) {
        let mut transaction = self.begin();
        for (key, value) in entries {
            let put = self.database.put(&mut transaction, key, value);
            put.expect("puts");
        }
        commit(transaction);
    }

    fn get(&self, key: &Key, value: &mut Vec<u8>) -> bool {
        let transaction = self.environment.read_txn().expect("begins");
        let found = self.database.get(&transaction, key).expect("reads");
        found.map(|found| copy(found, value)).is_some()
    }

    fn scan(&self, from: &Key, limit: usize, each: &mut dyn FnMut(&[u8], &[u8])) {
        let transaction = self.environment.read_txn().expect("begins");
        let bounds = (Bound::Included(from.as_slice()), Bound::Unbounded);
        let range = self.database.range(&transaction, &bounds);
        for pair in range.expect("a range").take(limit) {
            let (key, value) = pair.expect("reads");
            each(key, value);
        }
    }

    fn delete(&self, key: &Key) {
        let mut transaction = self.begin();
        let deleted = self.database.delete(&mut transaction, key);
        deleted.expect("deletes");
        commit(transaction);
    }

    fn update(&self, keys: &[Key; 2], change: &mut dyn FnMut(&mut [Vec<u8>; 2])) -> u64 {
        let mut transaction = self.begin();
        let mut values = keys.map(|key| {
            let found = self.database.get(&transaction, &key).expect("reads");
            found.expect("it is there").to_vec()
        });
        change(&mut values);
        for (key, value) in keys.iter().zip(&values) {
            let put = self.database.put(&mut transaction, key, value);
            put.expect("puts");
        }
        commit(transaction);
        1
    }

    fn close(self: Box<Self>) {
        self.environment.prepare_for_closing().wait();
    }
}

//! surrealkv: commits that wait at once share a flush; transactions are validated when they commit.

use std::path::Path;

use surrealkv::{
    Durability, Error, LSMIterator as _, Mode, Options, Transaction, Tree, TreeBuilder,
};
use tokio::runtime::Runtime;

use super::{copy, size};
use crate::data::Key;
use crate::engine::{Peer, Sizes};

pub struct SurrealKv {
    tree: Tree,
    runtime: Runtime,
}

impl SurrealKv {
    pub fn open(directory: &Path, sizes: Sizes) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let options = Options::new()
            .with_path(directory.join("surrealkv"))
            .with_block_cache_capacity(sizes.memory_bytes / 2)
            .with_max_memtable_size(size(sizes.memory_bytes / 4));
        let opened = runtime.block_on(TreeBuilder::with_options(options).build_async());
        Self {
            tree: opened.expect("surrealkv opens"),
            runtime,
        }
    }

    fn begin(&self, mode: Mode) -> Transaction {
        let transaction = self.tree.begin_with_mode(mode).expect("begins");
        transaction.with_durability(Durability::Immediate)
    }

    fn commit(&self, mut transaction: Transaction) -> Result<(), Error> {
        self.runtime.block_on(transaction.commit())
    }
}

impl Peer for SurrealKv {
    fn put(&self, entries: &[(Key, Vec<u8>)]) {
        // Blind writes of the same key at once are a conflict here, too.
        loop {
            let mut transaction = self.begin(Mode::WriteOnly);
            for (key, value) in entries {
                transaction.set(key, value).expect("sets");
            }
            match self.commit(transaction) {
                Err(Error::TransactionWriteConflict | Error::TransactionRetry) => {}
                done => return done.expect("commits"),
            }
        }
    }

    fn get(&self, key: &Key, value: &mut Vec<u8>) -> bool {
        let found = self.begin(Mode::ReadOnly).get(key).expect("reads");
        found.map(|found| copy(&found, value)).is_some()
    }

    fn scan(&self, from: &Key, limit: usize, each: &mut dyn FnMut(&[u8], &[u8])) {
        let transaction = self.begin(Mode::ReadOnly);
        let mut pairs = transaction.scan(from..).expect("a range");
        pairs.seek_first().expect("reads");
        for _ in 0..limit {
            if !pairs.valid() {
                break;
            }
            let value = pairs.value().expect("reads");
            each(pairs.key().user_key(), &value);
            pairs.next().expect("reads");
        }
    }

    fn delete(&self, key: &Key) {
        loop {
            let mut transaction = self.begin(Mode::WriteOnly);
            transaction.delete(key).expect("deletes");
            match self.commit(transaction) {
                Err(Error::TransactionWriteConflict | Error::TransactionRetry) => {}
                done => return done.expect("commits"),
            }
        }
    }

    fn update(&self, keys: &[Key; 2], change: &mut dyn FnMut(&mut [Vec<u8>; 2])) -> u64 {
        for attempt in 1.. {
            let mut transaction = self.begin(Mode::ReadWrite);
            let mut values = [Vec::new(), Vec::new()];
            for (key, value) in keys.iter().zip(&mut values) {
                let found = transaction.get_for_update(key).expect("reads");
                copy(&found.expect("it is there"), value);
            }
            change(&mut values);
            for (key, value) in keys.iter().zip(values) {
                transaction.set(key, value).expect("sets");
            }
            match self.commit(transaction) {
                Err(Error::TransactionWriteConflict | Error::TransactionRetry) => {}
                done => {
                    done.expect("commits");
                    return attempt;
                }
            }
        }
        unreachable!("attempts do not end")
    }

    fn close(self: Box<Self>) {
        self.runtime.block_on(self.tree.close()).expect("closes");
    }
}

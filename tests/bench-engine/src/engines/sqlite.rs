//! SQLite: a write-ahead log, one writer at a time; each thread that reads has a connection.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OptionalExtension as _, ToSql, Transaction, TransactionBehavior};

use super::copy;
use crate::data::Key;
use crate::engine::{Peer, Sizes};

/// Each connection has a page cache of its own: a half of the memory is the writer's, the other one that of so many readers.
const READERS: u64 = 16;

pub struct Sqlite {
    path: PathBuf,
    memory_bytes: u64,
    /// Whoever writes takes turns here, because SQLite would let them wait by sleeping.
    writer: Mutex<Connection>,
    /// Those that nobody is using.
    readers: Mutex<Vec<Connection>>,
}

impl Sqlite {
    pub fn open(directory: &Path, sizes: Sizes) -> Self {
        let path = directory.join("sqlite");
        let writer = connect(&path, sizes.memory_bytes / 2);
        let table =
            "CREATE TABLE IF NOT EXISTS data (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID";
        writer.execute(table, []).expect("a table");
        Self {
            path,
            memory_bytes: sizes.memory_bytes,
            writer: Mutex::new(writer),
            readers: Mutex::default(),
        }
    }

    fn write(&self, body: impl FnOnce(&Transaction<'_>)) {
        let mut connection = lock(&self.writer);
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let transaction = transaction.expect("begins");
        body(&transaction);
        transaction.commit().expect("commits");
    }

    fn read<T>(&self, body: impl FnOnce(&Connection) -> T) -> T {
        let free = lock(&self.readers).pop();
        let memory_bytes = self.memory_bytes / 2 / READERS;
        let connection = free.unwrap_or_else(|| connect(&self.path, memory_bytes));
        let result = body(&connection);
        lock(&self.readers).push(connection);
        result
    }
}

fn connect(path: &Path, cache_bytes: u64) -> Connection {
    let connection = Connection::open(path).expect("SQLite opens");
    let kibibytes = i64::try_from(cache_bytes >> 10).expect("a size");
    let set = |name, setting: &dyn ToSql| {
        let set = connection.pragma_update(None, name, setting);
        set.expect("a setting");
    };
    set("journal_mode", &"WAL");
    // Every commit flushes the log.
    set("synchronous", &"FULL");
    // Negative: not pages but KiB.
    set("cache_size", &-kibibytes.max(64));
    connection
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn put(transaction: &Transaction<'_>, key: &Key, value: &[u8]) {
    let statement = transaction.prepare_cached("INSERT OR REPLACE INTO data VALUES (?, ?)");
    let put = statement.expect("a statement").execute((key, value));
    put.expect("puts");
}

fn get(connection: &Connection, key: &Key, value: &mut Vec<u8>) -> bool {
    let statement = connection.prepare_cached("SELECT value FROM data WHERE key = ?");
    let found = statement.expect("a statement").query_row([key], |row| {
        copy(row.get_ref(0)?.as_blob()?, value);
        Ok(())
    });
    found.optional().expect("reads").is_some()
}

impl Peer for Sqlite {
    fn put(&self, entries: &[(Key, Vec<u8>)]) {
        self.write(|transaction| {
            for (key, value) in entries {
                put(transaction, key, value);
            }
        });
    }

    fn get(&self, key: &Key, value: &mut Vec<u8>) -> bool {
        self.read(|connection| get(connection, key, value))
    }

    fn scan(&self, from: &Key, limit: usize, each: &mut dyn FnMut(&[u8], &[u8])) {
        let text = "SELECT key, value FROM data WHERE key >= ? ORDER BY key LIMIT ?";
        self.read(|connection| {
            let mut statement = connection.prepare_cached(text).expect("a statement");
            let limit = i64::try_from(limit).expect("a limit");
            let mut rows = statement.query((from, limit)).expect("a query");
            while let Some(row) = rows.next().expect("reads") {
                let column = |index| {
                    let column = row.get_ref(index).expect("a column");
                    column.as_blob().expect("bytes")
                };
                each(column(0), column(1));
            }
        });
    }

    fn delete(&self, key: &Key) {
        self.write(|transaction| {
            let statement = transaction.prepare_cached("DELETE FROM data WHERE key = ?");
            let deleted = statement.expect("a statement").execute([key]);
            deleted.expect("deletes");
        });
    }

    fn update(&self, keys: &[Key; 2], change: &mut dyn FnMut(&mut [Vec<u8>; 2])) -> u64 {
        self.write(|transaction| {
            let mut values = [Vec::new(), Vec::new()];
            for (key, value) in keys.iter().zip(&mut values) {
                assert!(get(transaction, key, value), "it is there");
            }
            change(&mut values);
            for (key, value) in keys.iter().zip(&values) {
                put(transaction, key, value);
            }
        });
        1
    }

    fn close(self: Box<Self>) {
        lock(&self.readers).clear();
        let writer = self.writer.into_inner();
        let writer = writer.unwrap_or_else(PoisonError::into_inner);
        writer.close().map_err(|(_, error)| error).expect("closes");
    }
}

//! What is asked of every engine, and how clients get at it: of a peer as threads, of ours as tasks of one thread.
//!
//! An error of an engine ends the process that measures it; the message says what was asked.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use ::tests::qmp::BlockCounts;

use crate::data::Key;
use crate::engines;

/// Whoever is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    Ours,
    Redb,
    Fjall,
    Sled,
    Lmdb,
    Sqlite,
    SurrealKv,
    RocksDb,
}

impl Name {
    /// In the order of tables, and of runs.
    pub const ALL: [Self; 8] = [
        Self::Ours,
        Self::Redb,
        Self::Fjall,
        Self::Sled,
        Self::Lmdb,
        Self::Sqlite,
        Self::SurrealKv,
        Self::RocksDb,
    ];

    pub fn text(self) -> &'static str {
        match self {
            Self::Ours => "siltstone",
            Self::Redb => "redb",
            Self::Fjall => "fjall",
            Self::Sled => "sled",
            Self::Lmdb => "lmdb",
            Self::Sqlite => "sqlite",
            Self::SurrealKv => "surrealkv",
            Self::RocksDb => "rocksdb",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|name| name.text() == text)
    }

    /// An LSM tree beside ours.
    pub fn is_lsm_peer(self) -> bool {
        matches!(self, Self::Fjall | Self::SurrealKv | Self::RocksDb)
    }

    /// Whether what it has in memory are the kernel's pages of its files.
    pub fn maps_files(self) -> bool {
        self == Self::Lmdb
    }

    /// Whether it is in this program.
    pub fn is_built(self) -> bool {
        self != Self::RocksDb || cfg!(feature = "rocksdb")
    }
}

/// How much memory an engine is told to take, and for how much data.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub memory_bytes: u64,
    pub data_bytes: u64,
}

/// An engine as a client sees it. What writes returns when it is durable.
pub trait Engine {
    /// Writes all of it as one commit.
    fn put(&self, entries: &[(Key, Vec<u8>)]) -> impl Future<Output = ()>;

    /// Puts the value of `key` into `value`; whether there is one.
    fn get(&self, key: &Key, value: &mut Vec<u8>) -> impl Future<Output = bool>;

    /// Goes through up to `limit` pairs from `from` on, in order.
    fn scan(
        &self,
        from: &Key,
        limit: usize,
        each: &mut dyn FnMut(&[u8], &[u8]),
    ) -> impl Future<Output = ()>;

    fn delete(&self, key: &Key) -> impl Future<Output = ()>;

    /// Reads two values that are there, lets `change` change them, and writes both, as one serializable transaction, however
    /// often that has to be tried; how often it was.
    fn update(
        &self,
        keys: &[Key; 2],
        change: &mut dyn FnMut(&mut [Vec<u8>; 2]),
    ) -> impl Future<Output = u64>;

    /// What its disk was asked to do, if it can tell.
    fn disk_counts(&self) -> Option<BlockCounts> {
        None
    }
}

/// An engine that blocks its caller, who is one of many threads. The methods are those of [`Engine`].
pub trait Peer: Sync {
    fn put(&self, entries: &[(Key, Vec<u8>)]);
    fn get(&self, key: &Key, value: &mut Vec<u8>) -> bool;
    fn scan(&self, from: &Key, limit: usize, each: &mut dyn FnMut(&[u8], &[u8]));
    fn delete(&self, key: &Key);
    fn update(&self, keys: &[Key; 2], change: &mut dyn FnMut(&mut [Vec<u8>; 2])) -> u64;
    /// Ends it in order.
    fn close(self: Box<Self>);
}

impl Engine for dyn Peer + '_ {
    async fn put(&self, entries: &[(Key, Vec<u8>)]) {
        Peer::put(self, entries);
    }

    async fn get(&self, key: &Key, value: &mut Vec<u8>) -> bool {
        Peer::get(self, key, value)
    }

    async fn scan(&self, from: &Key, limit: usize, each: &mut dyn FnMut(&[u8], &[u8])) {
        Peer::scan(self, from, limit, each);
    }

    async fn delete(&self, key: &Key) {
        Peer::delete(self, key);
    }

    async fn update(&self, keys: &[Key; 2], change: &mut dyn FnMut(&mut [Vec<u8>; 2])) -> u64 {
        Peer::update(self, keys, change)
    }
}

/// How many clients of an engine do their work at once.
pub trait Host: Sized {
    type Engine: Engine + ?Sized;

    /// Opens it on the files in `directory`, if there are any.
    async fn open(name: Name, directory: &Path, sizes: Sizes) -> Self;

    /// For what one client does alone.
    fn engine(&self) -> &Self::Engine;

    /// Runs all of them to their ends, at once.
    async fn run<C: Client>(&self, clients: Vec<C>) -> Vec<C>;

    /// Leaves it alone for so long. The time is what is asked about, what an engine does when nobody asks for anything, and all have the same: no engine here tells when it is through.
    async fn rest(&self, time: Duration);

    async fn close(self);
}

/// Somebody who has work for an engine.
pub trait Client: Send + 'static {
    async fn run<E: Engine + ?Sized>(&mut self, engine: &E);
}

/// Threads.
pub struct Threads(Box<dyn Peer>);

impl Host for Threads {
    type Engine = dyn Peer;

    async fn open(name: Name, directory: &Path, sizes: Sizes) -> Self {
        Self(engines::open(name, directory, sizes))
    }

    fn engine(&self) -> &(dyn Peer + 'static) {
        &*self.0
    }

    async fn run<C: Client>(&self, clients: Vec<C>) -> Vec<C> {
        let engine = self.engine();
        std::thread::scope(|scope| {
            let work = |mut client: C| {
                scope.spawn(move || {
                    embassy_futures::block_on(client.run(engine));
                    client
                })
            };
            let threads = clients.into_iter().map(work).collect::<Vec<_>>();
            let ended = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
            ended
                .map(|client| client.expect("a client is through"))
                .collect()
        })
    }

    async fn rest(&self, time: Duration) {
        std::thread::sleep(time);
    }

    async fn close(self) {
        self.0.close();
    }
}

//! The engines. Each is told how much memory it may take and to make every commit durable; all else is as it comes.
//!
//! An LSM tree is given a half of its memory as its block cache and a quarter as its memtable, since there are two of those while
//! one is flushed.

mod fjall;
mod lmdb;
pub mod ours;
mod redb;
#[cfg(feature = "rocksdb")]
mod rocksdb;
mod sled;
mod sqlite;
mod surrealkv;

use std::path::Path;

use crate::engine::{Name, Peer, Sizes};

/// Opens a peer.
pub fn open(name: Name, directory: &Path, sizes: Sizes) -> Box<dyn Peer> {
    match name {
        Name::Ours => unreachable!("ours is no peer of its own"),
        Name::Redb => Box::new(redb::Redb::open(directory, sizes)),
        Name::Fjall => Box::new(fjall::Fjall::open(directory, sizes)),
        Name::Sled => Box::new(sled::Sled::open(directory, sizes)),
        Name::Lmdb => Box::new(lmdb::Lmdb::open(directory, sizes)),
        Name::Sqlite => Box::new(sqlite::Sqlite::open(directory, sizes)),
        Name::SurrealKv => Box::new(surrealkv::SurrealKv::open(directory, sizes)),
        #[cfg(feature = "rocksdb")]
        Name::RocksDb => Box::new(rocksdb::RocksDb::open(directory, sizes)),
        #[cfg(not(feature = "rocksdb"))]
        Name::RocksDb => panic!("built without the feature rocksdb"),
    }
}

/// Puts a copy of `found` into `value`.
fn copy(found: &[u8], value: &mut Vec<u8>) {
    value.clear();
    value.extend_from_slice(found);
}

/// A size as engines take them.
fn size(bytes: u64) -> usize {
    usize::try_from(bytes).expect("memory of this machine")
}

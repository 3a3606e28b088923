//! From a key to its slot, by hash.
//!
//! Point reads and writes go through here and need one comparison where the ordered map needs dozens.
//! The table is made of many small ones, each of which grows on its own, so no step ever rehashes more
//! than a small part of all keys.

use alloc::vec::Vec;
use core::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

/// Small tables that make up one. With a million keys each holds 4,096.
const SHARDS: usize = 256;

pub(crate) struct KeyTable {
    /// None until the first key comes.
    shards: Vec<HashTable<u32>>,
    hasher: FixedState,
}

impl KeyTable {
    /// An empty table. `seed` should be nobody's to guess, so nobody can choose keys that collide.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            shards: Vec::new(),
            hasher: FixedState::with_seed(seed),
        }
    }

    /// The slot of `key`, which is the one for which `is_key` holds.
    pub(crate) fn find(&self, key: &[u8], is_key: impl Fn(u32) -> bool) -> Option<u32> {
        let hash = self.hasher.hash_one(key);
        self.shards
            .get(shard(hash))?
            .find(hash, |&slot| is_key(slot))
            .copied()
    }

    /// Adds `key`, which is not there, at `slot`. `key_of` tells a slot's key; it is asked when a
    /// small table grows.
    pub(crate) fn insert<'k>(&mut self, key: &[u8], slot: u32, key_of: impl Fn(u32) -> &'k [u8]) {
        if self.shards.is_empty() {
            self.shards.resize_with(SHARDS, HashTable::new);
        }
        let (hash, hasher) = (self.hasher.hash_one(key), &self.hasher);
        if let Some(table) = self.shards.get_mut(shard(hash)) {
            table.insert_unique(hash, slot, |&slot| hasher.hash_one(key_of(slot)));
        }
    }

    /// Removes `key` at `slot`.
    pub(crate) fn remove(&mut self, key: &[u8], slot: u32) {
        let hash = self.hasher.hash_one(key);
        if let Some(table) = self.shards.get_mut(shard(hash))
            && let Ok(entry) = table.find_entry(hash, |&found| found == slot)
        {
            entry.remove();
        }
    }
}

/// Which small table a hash belongs to. Bits from the middle: the small tables use both ends.
fn shard(hash: u64) -> usize {
    usize::try_from(hash >> 40).unwrap_or_default() % SHARDS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_inserted_and_not_removed() {
        let keys = (0..10_000_u32).map(u32::to_le_bytes).collect::<Vec<_>>();
        let mut table = KeyTable::new(1);
        let key_of = |slot: u32| &keys[slot as usize][..];
        for slot in 0..10_000 {
            table.insert(key_of(slot), slot, key_of);
        }
        for slot in (0..10_000).step_by(3) {
            table.remove(key_of(slot), slot);
        }
        for slot in 0..10_000 {
            let found = table.find(key_of(slot), |at| key_of(at) == key_of(slot));
            assert_eq!(found, (slot % 3 != 0).then_some(slot));
        }
        assert_eq!(table.find(b"absent", |at| key_of(at) == b"absent"), None);
    }
}

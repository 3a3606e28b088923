//! From a key to its slot, by hash.
//!
//! Point reads and writes go through here and need one comparison where the ordered map needs dozens.
//! The table is made of many small ones, each of which grows on its own, so no step ever rehashes more
//! than a small part of all keys.

use alloc::vec::Vec;
use core::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

/// Small tables that make up a large one. With a million keys each holds 4,096.
const SHARDS: usize = 256;

/// Keys from which on there is more than one small table.
const SPLIT_KEYS: usize = 1024;

pub(crate) struct KeyTable {
    /// One, or [`SHARDS`].
    shards: Vec<HashTable<u32>>,
    len: usize,
    hasher: FixedState,
}

impl KeyTable {
    /// An empty table. `seed` should be nobody's to guess, so nobody can choose keys that collide.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            shards: Vec::new(),
            len: 0,
            hasher: FixedState::with_seed(seed),
        }
    }

    /// The slot of `key`, which is the one for which `is_key` holds.
    pub(crate) fn find(&self, key: &[u8], is_key: impl Fn(u32) -> bool) -> Option<u32> {
        let hash = self.hasher.hash_one(key);
        self.shard(hash)?.find(hash, |&slot| is_key(slot)).copied()
    }

    /// Adds `key`, which is not there, at `slot`. `key_of` tells a slot's key; it is asked when a
    /// small table grows.
    pub(crate) fn insert<'k>(&mut self, key: &[u8], slot: u32, key_of: impl Fn(u32) -> &'k [u8]) {
        let hasher = &self.hasher;
        let hash_of = |slot: &u32| hasher.hash_one(key_of(*slot));
        if self.shards.is_empty() {
            self.shards.push(HashTable::new());
        } else if self.shards.len() == 1 && self.len >= SPLIT_KEYS {
            let whole = core::mem::take(&mut self.shards);
            self.shards.resize_with(SHARDS, HashTable::new);
            for slot in whole.into_iter().flatten() {
                let hash = hash_of(&slot);
                if let Some(table) = self.shards.get_mut(hash_shard(hash) % SHARDS) {
                    table.insert_unique(hash, slot, hash_of);
                }
            }
        }
        self.len += 1;
        let hash = hasher.hash_one(key);
        let at = hash_shard(hash) % self.shards.len();
        if let Some(table) = self.shards.get_mut(at) {
            table.insert_unique(hash, slot, hash_of);
        }
    }

    /// Removes `key` at `slot`.
    pub(crate) fn remove(&mut self, key: &[u8], slot: u32) {
        let hash = self.hasher.hash_one(key);
        let at = hash_shard(hash).checked_rem(self.shards.len());
        if let Some(table) = at.and_then(|at| self.shards.get_mut(at))
            && let Ok(entry) = table.find_entry(hash, |&found| found == slot)
        {
            entry.remove();
            self.len -= 1;
        }
    }

    fn shard(&self, hash: u64) -> Option<&HashTable<u32>> {
        self.shards
            .get(hash_shard(hash).checked_rem(self.shards.len())?)
    }
}

/// What tells the small table of a hash: bits from the middle, since the tables use both ends.
fn hash_shard(hash: u64) -> usize {
    usize::try_from((hash >> 40) & 0xFF_FFFF).unwrap_or_default()
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

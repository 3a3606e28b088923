//! The versions of the newest commits, by key and in order.
//!
//! Keys, versions and the tree that keeps keys in order are in an arena of chunks (`arena`, `keys`, `node`, `order`, `versions`); small
//! hash tables find a key's record. Room is taken before a commit is written, so that what was written can always be put
//! in. Nothing is removed: a memtable is flushed, and then goes as a whole, some chunks in a step.

mod arena;
mod keys;
mod node;
mod order;
mod versions;

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use self::arena::{Arena, Handle};
use self::keys::RECORD_BYTES;
use self::node::NODE_BYTES;
use self::order::{Order, Place};
use self::versions::VERSION_BYTES_MAX;
use super::pool::ChunkPool;
use super::range_set::RangeSet;
use super::types::{
    Content, Cursor, ENGINE_KEY_BYTES_MAX, INLINE_BYTES_MAX, Missing, OutOfMemory, VersionRef,
};
use crate::Timestamp;

/// Hash tables; each grows on its own, so a small commit never rehashes more than a few of them.
const SHARDS: usize = 64;

/// Range deletes from which on a memtable should be flushed.
pub const RANGE_DELETES_MAX: usize = 1024;

/// Places of a hash table that are looked at for a key at random.
const RANDOM_TRIES: u32 = 8;

/// The versions and range deletes of some commits in a row.
pub struct Memtable {
    arena: Arena,
    order: Order,
    shards: Vec<HashTable<u32>>,
    /// Memory of `shards`.
    shard_bytes: usize,
    /// What the pool knows of that, and of ranges.
    beside_bytes: usize,
    hasher: FixedState,
    ranges: RangeSet,
    entries: usize,
    after: Timestamp,
    last: Timestamp,
}

impl Memtable {
    /// An empty memtable for the commits after `after`. `hash_seed` should be nobody's to guess.
    pub fn new(pool: Rc<ChunkPool>, hash_seed: u64, after: Timestamp) -> Self {
        Self {
            arena: Arena::new(pool),
            order: Order::new(),
            shards: Vec::new(),
            shard_bytes: 0,
            beside_bytes: 0,
            hasher: FixedState::with_seed(hash_seed),
            ranges: RangeSet::default(),
            entries: 0,
            after,
            last: after,
        }
    }

    /// Makes room for a commit: for versions of these keys, with so many bytes of content each
    /// ([`Content::bytes`]), and for range deletes with these starts and ends. Then putting them in, and any part of
    /// them, cannot fail.
    ///
    /// # Errors
    /// There is not so much memory; or a key or content is longer than any can be. What was taken so far remains for
    /// the next attempt.
    pub fn reserve<'k>(
        &mut self,
        entries: impl Iterator<Item = (&'k [u8], usize)>,
        ranges: impl Iterator<Item = (&'k [u8], &'k [u8])>,
    ) -> Result<(), OutOfMemory> {
        let reserved = self.reserve_all(entries, ranges);
        self.count_beside();
        reserved
    }

    fn reserve_all<'k>(
        &mut self,
        entries: impl Iterator<Item = (&'k [u8], usize)>,
        ranges: impl Iterator<Item = (&'k [u8], &'k [u8])>,
    ) -> Result<(), OutOfMemory> {
        let (mut total, mut largest) = (0_usize, NODE_BYTES);
        let (mut count, mut counts) = (0, [0_usize; SHARDS]);
        for (key, content_bytes) in entries {
            if key.len() > ENGINE_KEY_BYTES_MAX || content_bytes > INLINE_BYTES_MAX {
                return Err(OutOfMemory);
            }
            let hash = self.hasher.hash_one(key);
            let version = VERSION_BYTES_MAX + content_bytes;
            largest = largest.max(key.len()).max(version);
            total = total.saturating_add(RECORD_BYTES + key.len() + version);
            count += 1;
            if let Some(count) = counts.get_mut(shard_of(hash)) {
                *count += 1;
            }
        }
        let total = total.saturating_add(self.order.bytes_for(count));
        self.arena.reserve(total, largest)?;
        if self.shards.is_empty() {
            self.shards.try_reserve_exact(SHARDS)?;
            self.shards.resize_with(SHARDS, HashTable::new);
        }
        let (arena, hasher) = (&self.arena, &self.hasher);
        for (shard, count) in self.shards.iter_mut().zip(counts) {
            let before = shard.allocation_size();
            let grown = shard.try_reserve(count, |record| hash_of(arena, hasher, *record));
            self.shard_bytes += shard.allocation_size() - before;
            grown.map_err(|_| OutOfMemory)?;
        }
        let (mut count, mut key_bytes) = (0, 0_usize);
        for (start, end) in ranges {
            count += 1;
            key_bytes = key_bytes.saturating_add(start.len() + end.len());
        }
        self.ranges.reserve(count, key_bytes)
    }

    fn count_beside(&mut self) {
        let now = self.shard_bytes + self.ranges.memory_bytes();
        self.arena.pool().count_beside(self.beside_bytes, now);
        self.beside_bytes = now;
    }

    /// Gives back what was reserved for a commit that does not come, as far as nothing is in it.
    pub fn give_back_reserved(&mut self) {
        self.arena.give_back_spare();
        if self.is_empty() {
            self.shards = Vec::new();
            self.shard_bytes = 0;
            self.ranges = RangeSet::default();
            self.count_beside();
        }
    }

    /// Puts a version in, for which there is room; its commit is not older than any here. True if it took the place of
    /// the newest one.
    ///
    /// `reuse`: nobody sees the version that this one follows. Then it is replaced, if neither is large: the pieces of
    /// a large one have to be given up by a flush. What replaces it says about `below` what it said, so that the two
    /// together count what they counted.
    ///
    /// # Panics
    /// There is no room.
    pub fn insert(&mut self, key: &[u8], version: &VersionRef<'_>, reuse: bool) -> bool {
        debug_assert!(
            version.timestamp >= self.last,
            "commits come in their order"
        );
        self.last = self.last.max(version.timestamp);
        let hash = self.hasher.hash_one(key);
        let Some(record) = self.find(hash, key) else {
            let record = keys::store(&mut self.arena, key);
            let newest = versions::push(&mut self.arena, None, version);
            keys::set_newest(&mut self.arena, record, newest);
            self.order.insert(&mut self.arena, key, record);
            let (arena, hasher) = (&self.arena, &self.hasher);
            if let Some(shard) = self.shards.get_mut(shard_of(hash)) {
                let number = record.number();
                shard.insert_unique(hash, number, |record| hash_of(arena, hasher, *record));
            }
            self.entries += 1;
            return false;
        };
        let newest = keys::newest_of(&self.arena, record);
        let replaced = versions::read(&self.arena, newest)
            .filter(|old| reuse && !is_large(old) && !is_large(version))
            .map(|old| (old.timestamp, old.below));
        let placed = if let Some((timestamp, below)) = replaced {
            // A range delete in between counted the old one off.
            let hidden = self.ranges.next_covering(key, timestamp).is_some();
            let version = VersionRef {
                below: if hidden { version.below } else { below },
                ..*version
            };
            versions::replace(&mut self.arena, newest, &version)
        } else {
            self.entries += 1;
            versions::push(&mut self.arena, Some(newest), version)
        };
        keys::set_newest(&mut self.arena, record, placed);
        replaced.is_some()
    }

    /// Puts a range delete in, for which there is room.
    pub fn delete_range(&mut self, start: &[u8], end: &[u8], at: Timestamp) {
        self.last = self.last.max(at);
        self.ranges.insert(start, end, at);
    }

    /// The newest version of `key` that is not newer than `at`, hidden by a range delete or not.
    pub fn get(&self, key: &[u8], at: Timestamp) -> Option<VersionRef<'_>> {
        let record = self.find(self.hasher.hash_one(key), key)?;
        let newest = keys::newest_of(&self.arena, record);
        versions::read(&self.arena, versions::at(&self.arena, newest, at)?)
    }

    /// When `key` was last written.
    pub fn newest(&self, key: &[u8]) -> Option<Timestamp> {
        let record = self.find(self.hasher.hash_one(key), key)?;
        Some(self.newest_timestamp(record))
    }

    /// The range deletes.
    pub fn ranges(&self) -> &RangeSet {
        &self.ranges
    }

    /// The first key in `[start, end)` that was written after `than`, and when it last was. Looks at every key from
    /// `start` to there.
    pub fn first_newer_in(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        than: Timestamp,
    ) -> Option<(&[u8], Timestamp)> {
        let mut place = self.order.at_or_behind(&self.arena, start);
        while place != Place::NONE {
            let record = place.record(&self.arena);
            let key = keys::key_of(&self.arena, record);
            if end.is_some_and(|end| key >= end) {
                return None;
            }
            let newest = self.newest_timestamp(record);
            if newest > than {
                return Some((key, newest));
            }
            place = place.behind(&self.arena);
        }
        None
    }

    /// A key, about uniformly at random as `random` is; none if the places that it says are free.
    pub fn random_key(&self, random: u64) -> Option<&[u8]> {
        let shard = self.shards.get(shard_of(random))?;
        let buckets = shard.num_buckets();
        for try_number in 0..RANDOM_TRIES {
            let place = random
                .rotate_left(7 * try_number)
                .wrapping_add(try_number.into());
            let bucket = usize::try_from(place % (buckets.max(1) as u64)).ok()?;
            if let Some(record) = shard.get_bucket(bucket) {
                return Some(keys::key_of(&self.arena, Handle::of_number(*record)));
            }
        }
        None
    }

    /// A walk over all versions. It goes on in a later step, when others have put something in, by the key that it
    /// came to.
    pub fn cursor(&self) -> MemCursor<'_> {
        MemCursor {
            memtable: self,
            place: Place::NONE,
            record: Handle::NONE,
            version: Handle::NONE,
        }
    }

    /// Memory that it takes.
    pub fn memory_bytes(&self) -> usize {
        self.arena.memory_bytes() + self.shard_bytes + self.ranges.memory_bytes()
    }

    /// Whether nothing was written to it.
    pub fn is_empty(&self) -> bool {
        self.entries() == 0 && self.ranges().len() == 0
    }

    /// How many versions there are.
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// It holds the commits after this one.
    pub fn first(&self) -> Timestamp {
        self.after
    }

    /// The last commit that wrote something here.
    pub fn last(&self) -> Timestamp {
        self.last
    }

    /// Gives back up to so many chunks of memory; `None` when all is given back.
    pub fn dismantle(mut self, chunks: usize) -> Option<Self> {
        self.arena.give_back(chunks).then_some(self)
    }

    fn find(&self, hash: u64, key: &[u8]) -> Option<Handle> {
        let is_key = |record: &u32| keys::key_of(&self.arena, Handle::of_number(*record)) == key;
        let found = self.shards.get(shard_of(hash))?.find(hash, is_key)?;
        Some(Handle::of_number(*found))
    }

    fn newest_timestamp(&self, record: Handle) -> Timestamp {
        versions::timestamp_of(&self.arena, keys::newest_of(&self.arena, record))
    }
}

impl Drop for Memtable {
    fn drop(&mut self) {
        self.arena.pool().count_beside(self.beside_bytes, 0);
    }
}

fn is_large(version: &VersionRef<'_>) -> bool {
    matches!(version.content, Content::Large(_))
}

fn hash_of(arena: &Arena, hasher: &FixedState, record: u32) -> u64 {
    hasher.hash_one(keys::key_of(arena, Handle::of_number(record)))
}

/// Which small table a hash belongs to: by bits from the middle, since the tables use both ends.
fn shard_of(hash: u64) -> usize {
    usize::try_from(hash >> 40).unwrap_or(0) % SHARDS
}

/// A walk over all versions of a memtable.
pub struct MemCursor<'m> {
    memtable: &'m Memtable,
    place: Place,
    /// The record there.
    record: Handle,
    version: Handle,
}

impl MemCursor<'_> {
    fn stand_on(&mut self, place: Place) {
        let arena = &self.memtable.arena;
        self.place = place;
        self.record = place.record(arena);
        self.version = keys::newest_of(arena, self.record);
    }
}

impl Cursor for MemCursor<'_> {
    fn seek(&mut self, key: &[u8], at: Timestamp) -> Result<(), Missing> {
        let (arena, order) = (&self.memtable.arena, &self.memtable.order);
        self.stand_on(order.at_or_behind(arena, key));
        if self.key() == Some(key) {
            match versions::at(arena, self.version, at) {
                Some(version) => self.version = version,
                None => self.stand_on(self.place.behind(arena)),
            }
        }
        Ok(())
    }

    fn seek_back(&mut self, key: Option<&[u8]>) -> Result<(), Missing> {
        let (arena, order) = (&self.memtable.arena, &self.memtable.order);
        self.stand_on(order.last_before(arena, key));
        Ok(())
    }

    fn next(&mut self) -> Result<(), Missing> {
        let arena = &self.memtable.arena;
        if !self.record.is_some() {
            return Ok(());
        }
        match versions::older(arena, self.version) {
            Some(version) => self.version = version,
            None => self.stand_on(self.place.behind(arena)),
        }
        Ok(())
    }

    fn previous_key(&mut self) -> Result<(), Missing> {
        let (arena, order) = (&self.memtable.arena, &self.memtable.order);
        self.stand_on(if self.record.is_some() {
            order.before(arena, self.place)
        } else {
            order.last_before(arena, None)
        });
        Ok(())
    }

    fn current(&self) -> Option<(&[u8], VersionRef<'_>)> {
        let version = versions::read(&self.memtable.arena, self.version)?;
        Some((self.key()?, version))
    }

    fn key(&self) -> Option<&[u8]> {
        let arena = &self.memtable.arena;
        let is_there = self.record.is_some();
        is_there.then(|| keys::key_of(arena, self.record))
    }
}

#[cfg(test)]
mod tests;

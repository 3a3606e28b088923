//! One database's keys, from when it was last emptied.
//!
//! An entry is found by hash, walked in order of keys, or visited by slot number (SCAN).
//!
//! Invariants: of a key's versions, those are kept that are the newest or that a snapshot sees; a
//! tombstone is kept as long as a snapshot is older than it, so WATCH can tell that a key came and
//! went. `slots`, `table` and `order` hold the same keys. `Tally` counts exactly the newest versions.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::ops::Bound;

use crate::Key;
use crate::Timestamp;
use crate::record::RUN_RECORD_BYTES_MAX;
use crate::slots::Slots;
use crate::snapshot::Pins;
use crate::table::KeyTable;
use crate::version::{NEVER, OLDER_VERSION_BYTES, Round, Version, Versions};

/// Memory of an entry beyond the bytes of its key and value: slot, table, node of the ordered map,
/// reference counts, allocator overhead. An estimate on the high side.
pub(crate) const ENTRY_BYTES: usize = 240;

/// Memory of a key space with any entry: its first chunk of slots, its hash tables.
const BASE_BYTES: usize = 2 << 10;

/// Memory of an entry in `expiries`.
const EXPIRY_BYTES: usize = 48;

pub(crate) struct Keyspace {
    slots: Slots<Slot>,
    table: KeyTable,
    order: BTreeMap<Key, u32>,
    /// Keys with older versions or a tombstone, to be looked at again when snapshots have gone.
    garbage: VecDeque<Key>,
    tally: Tally,
}

struct Slot {
    key: Key,
    versions: Versions,
}

/// What is counted about a key space.
#[derive(Default)]
struct Tally {
    /// Newest versions that are values with an expiry.
    expiries: BTreeSet<(i64, Key)>,
    /// Keys whose newest version is a value.
    live: u64,
    /// Bytes those take in a sorted run.
    live_run_bytes: u64,
    memory_bytes: usize,
}

impl Tally {
    /// Counts a version that becomes its key's newest.
    fn count(&mut self, key: &Key, version: &Version) {
        self.memory_bytes += version.value_bytes();
        if version.value.is_some() {
            self.live += 1;
            self.live_run_bytes += run_bytes(key, version);
            if version.expires_at_ms != NEVER {
                self.expiries
                    .insert((version.expires_at_ms, Key::clone(key)));
                self.memory_bytes += EXPIRY_BYTES;
            }
        }
    }

    /// A version is its key's newest no more. Its value's memory is the caller's to count.
    fn discount(&mut self, key: &Key, version: &Version) {
        if version.value.is_some() {
            self.live -= 1;
            self.live_run_bytes -= run_bytes(key, version);
            if version.expires_at_ms != NEVER {
                self.expiries
                    .remove(&(version.expires_at_ms, Key::clone(key)));
                self.memory_bytes -= EXPIRY_BYTES;
            }
        }
    }
}

impl Keyspace {
    /// An empty one. `hash_seed`: see [`KeyTable::new`].
    pub(crate) fn new(hash_seed: u64) -> Self {
        Self {
            slots: Slots::default(),
            table: KeyTable::new(hash_seed),
            order: BTreeMap::new(),
            garbage: VecDeque::new(),
            tally: Tally::default(),
        }
    }

    pub(crate) fn live_count(&self) -> u64 {
        self.tally.live
    }

    pub(crate) fn expiring_count(&self) -> u64 {
        self.tally.expiries.len() as u64
    }

    pub(crate) fn live_run_bytes(&self) -> u64 {
        self.tally.live_run_bytes
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let base = if self.is_empty() { 0 } else { BASE_BYTES };
        self.tally.memory_bytes + base
    }

    /// Whether it has no entry at all, not even a tombstone.
    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    pub(crate) fn newest(&self, key: &[u8]) -> Option<&Version> {
        self.slots
            .get(self.slot_of(key)?)
            .map(|slot| &slot.versions.newest)
    }

    pub(crate) fn at(&self, key: &[u8], timestamp: Timestamp) -> Option<&Version> {
        self.slots.get(self.slot_of(key)?)?.versions.at(timestamp)
    }

    /// Makes `version` the newest of `key`. True when this is the key's first change in `round`.
    pub(crate) fn write(&mut self, key: &Key, version: Version, round: Round, pins: &Pins) -> bool {
        let timestamp = version.timestamp;
        let Some(slot) = self.slot_of(key) else {
            self.tally.count(key, &version);
            if version.value.is_some() || pins.any_before(timestamp) {
                self.insert(key, Versions::new(version, round));
            }
            return true;
        };
        let Some(Slot { versions, .. }) = self.slots.get_mut(slot) else {
            return true;
        };
        // In this order: both may have the same expiry, which is known once.
        self.tally.discount(key, &versions.newest);
        self.tally.count(key, &version);
        let old = core::mem::replace(&mut versions.newest, version);
        if pins.any_in(old.timestamp, timestamp) {
            versions.older.push(old);
            self.tally.memory_bytes += OLDER_VERSION_BYTES;
        } else {
            self.tally.memory_bytes -= old.value_bytes();
        }
        self.tally.memory_bytes -= versions.prune(pins);
        let is_first = core::mem::replace(&mut versions.changed, round) != round;
        if versions.is_removable(pins) {
            self.remove(key, slot);
        } else if versions.is_garbage() && !versions.queued {
            versions.queued = true;
            self.garbage.push_back(Key::clone(key));
        }
        is_first
    }

    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        self.slot_of(key).is_some()
    }

    /// Adds a key that is not there, as it was found in a run. Until
    /// [`finish_loading`](Self::finish_loading) nothing is in order.
    pub(crate) fn load(&mut self, key: &[u8], version: Version) {
        let key = Key::from(key);
        self.tally.count(&key, &version);
        self.insert_unordered(&key, Versions::new(version, Round::default()));
    }

    /// Brings what was loaded in order; tombstones have done their work.
    pub(crate) fn finish_loading(&mut self) {
        let tombstones = self.slots.iter();
        let tombstones = tombstones.filter(|(_, slot)| slot.versions.newest.value.is_none());
        let tombstones = tombstones.map(|(number, slot)| (Key::clone(&slot.key), number));
        for (key, slot) in tombstones.collect::<Vec<_>>() {
            self.remove(&key, slot);
        }
        let slots = self.slots.iter();
        self.order = slots
            .map(|(number, slot)| (Key::clone(&slot.key), number))
            .collect();
    }

    /// Appends `tail` to the newest value of `key` as of `timestamp`. Nothing happens without one.
    /// True when this is the key's first change in `round`.
    pub(crate) fn append(
        &mut self,
        key: &Key,
        timestamp: Timestamp,
        tail: &[u8],
        round: Round,
        pins: &Pins,
    ) -> bool {
        let slot = self.slot_of(key).and_then(|slot| self.slots.get_mut(slot));
        let Some(Slot { versions, .. }) = slot else {
            return false;
        };
        let newest = &mut versions.newest;
        let Some(value) = newest.value.as_mut() else {
            return false;
        };
        if pins.any_in(newest.timestamp, timestamp) {
            let mut longer = value.clone();
            longer.append(tail);
            let version = Version {
                timestamp,
                value: Some(longer),
                ..newest.clone()
            };
            self.write(key, version, round, pins)
        } else {
            value.append(tail);
            newest.timestamp = timestamp;
            self.tally.memory_bytes += tail.len();
            self.tally.live_run_bytes += tail.len() as u64;
            core::mem::replace(&mut versions.changed, round) != round
        }
    }

    /// Looks at up to `limit` keys with garbage; what no snapshot needs goes. Returns whether any
    /// of it went, so a caller that gets `false` has nothing to do until a snapshot goes.
    pub(crate) fn collect_garbage(&mut self, limit: usize, pins: &Pins) -> bool {
        let mut progress = false;
        for _ in 0..limit.min(self.garbage.len()) {
            let Some(key) = self.garbage.pop_front() else {
                break;
            };
            let Some(slot) = self.slot_of(&key) else {
                continue;
            };
            let Some(Slot { versions, .. }) = self.slots.get_mut(slot) else {
                continue;
            };
            let before = versions.older.len();
            self.tally.memory_bytes -= versions.prune(pins);
            progress |= versions.older.len() < before;
            if versions.is_removable(pins) {
                progress = true;
                self.remove(&key, slot);
            } else if versions.is_garbage() {
                self.garbage.push_back(key);
            } else {
                versions.queued = false;
            }
        }
        progress
    }

    pub(crate) fn garbage_count(&self) -> usize {
        self.garbage.len()
    }

    /// Frees up to `left` entries and counts them off; true when nothing is left. For key spaces nobody
    /// sees any more: nothing else may be asked of this one afterwards.
    pub(crate) fn dismantle(&mut self, left: &mut usize) -> bool {
        while *left > 0 {
            *left -= 1;
            self.garbage.pop_front();
            self.tally.expiries.pop_first();
            self.order.pop_first();
            if let Some(Slot { key, versions }) = self.slots.pop() {
                let older = versions.older.iter();
                let older = older.map(|version| version.value_bytes() + OLDER_VERSION_BYTES);
                let bytes =
                    ENTRY_BYTES + key.len() + versions.newest.value_bytes() + older.sum::<usize>();
                self.tally.memory_bytes = self.tally.memory_bytes.saturating_sub(bytes);
            } else if self.tally.expiries.is_empty() && self.garbage.is_empty() {
                self.tally.memory_bytes = 0;
                return true;
            }
        }
        false
    }

    /// Keys after `after` in order, each with the version that a snapshot at `timestamp` sees.
    pub(crate) fn range_at(
        &self,
        after: Option<&[u8]>,
        timestamp: Timestamp,
    ) -> impl Iterator<Item = (&Key, &Version)> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let range = self.order.range::<[u8], _>((start, Bound::Unbounded));
        range.filter_map(move |(key, &slot)| {
            Some((key, self.slots.get(slot)?.versions.at(timestamp)?))
        })
    }

    /// See [`Slots::scan`].
    pub(crate) fn scan(
        &self,
        cursor: u64,
        count: usize,
        now_ms: i64,
        mut visit: impl FnMut(&Key),
    ) -> u64 {
        self.slots.scan(cursor, count, |slot| {
            if slot.versions.newest.is_live_at(now_ms) {
                visit(&slot.key);
            }
        })
    }

    /// A live key, about uniformly at random while at least one slot in 64 holds one; else the
    /// first in order among a bounded number.
    pub(crate) fn random_key(&self, random: u64, now_ms: i64) -> Option<Key> {
        let in_order = self
            .order
            .values()
            .take(1024)
            .filter_map(|&slot| self.slots.get(slot));
        let mut tried = self.slots.random(random).chain(in_order);
        let found = tried.find(|slot| slot.versions.newest.is_live_at(now_ms))?;
        Some(Key::clone(&found.key))
    }

    /// Keys whose time has come, soonest first.
    pub(crate) fn expired(&self, now_ms: i64) -> impl Iterator<Item = &Key> {
        self.tally
            .expiries
            .iter()
            .take_while(move |(at, _)| *at <= now_ms)
            .map(|(_, key)| key)
    }

    fn slot_of(&self, key: &[u8]) -> Option<u32> {
        let is_key = |slot| self.slots.get(slot).is_some_and(|slot| *slot.key == *key);
        self.table.find(key, is_key)
    }

    fn insert(&mut self, key: &Key, mut versions: Versions) {
        versions.queued = versions.is_garbage();
        if versions.queued {
            self.garbage.push_back(Key::clone(key));
        }
        let slot = self.insert_unordered(key, versions);
        self.order.insert(Key::clone(key), slot);
    }

    fn insert_unordered(&mut self, key: &Key, versions: Versions) -> u32 {
        self.tally.memory_bytes += ENTRY_BYTES + key.len();
        let slot = self.slots.insert(Slot {
            key: Key::clone(key),
            versions,
        });
        let slots = &self.slots;
        let key_of = |slot| slots.get(slot).map_or(&[][..], |slot| &slot.key);
        self.table.insert(key, slot, key_of);
        slot
    }

    fn remove(&mut self, key: &Key, slot: u32) {
        self.tally.memory_bytes -= ENTRY_BYTES + key.len();
        self.table.remove(key, slot);
        self.order.remove(key);
        self.slots.remove(slot);
    }
}

/// Bytes of `key` and `version` in a sorted run, at most.
fn run_bytes(key: &Key, version: &Version) -> u64 {
    (RUN_RECORD_BYTES_MAX + key.len() + version.value_bytes()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Value;
    use crate::snapshot::Snapshot;
    use alloc::rc::Rc;

    const ROUND: Round = Round(1);

    fn key(name: &str) -> Key {
        Key::from(name.as_bytes())
    }

    fn version(timestamp: u64, text: &str) -> Version {
        Version::new(Timestamp(timestamp), Value::from(text.as_bytes()), None)
    }

    fn seen(space: &Keyspace, timestamp: u64) -> Option<Vec<u8>> {
        let version = space.at(b"k", Timestamp(timestamp))?;
        version.value.as_ref().map(|value| value.to_vec())
    }

    #[test]
    fn versions_live_as_long_as_a_snapshot_sees_them() {
        let pins = Rc::new(Pins::default());
        let mut space = Keyspace::new(1);
        let empty = space.memory_bytes();
        space.write(&key("k"), version(1, "one"), ROUND, &pins);
        let first = Snapshot::new(&pins, Timestamp(1));
        space.write(&key("k"), version(2, "two"), ROUND, &pins);
        space.write(&key("k"), version(3, "three"), ROUND, &pins);
        assert_eq!(seen(&space, 1), Some(b"one".to_vec()));
        assert_eq!(seen(&space, 2), Some(b"one".to_vec()), "nobody pinned 2");
        space.write(&key("k"), Version::tombstone(Timestamp(4)), ROUND, &pins);
        assert_eq!((seen(&space, 4), space.live_count()), (None, 0));
        drop(first);
        assert!(space.collect_garbage(10, &pins));
        assert!(space.newest(b"k").is_none());
        assert_eq!((space.memory_bytes(), space.live_run_bytes()), (empty, 0));
    }

    #[test]
    fn a_tombstone_stays_while_a_snapshot_is_older() {
        let pins = Rc::new(Pins::default());
        let mut space = Keyspace::new(1);
        let watch = Snapshot::new(&pins, Timestamp(1));
        space.write(&key("k"), version(2, "came"), ROUND, &pins);
        space.write(&key("k"), Version::tombstone(Timestamp(3)), ROUND, &pins);
        assert_eq!(space.newest(b"k").map(|v| v.timestamp), Some(Timestamp(3)));
        assert!(!space.collect_garbage(10, &pins));
        drop(watch);
        assert!(space.collect_garbage(10, &pins));
        assert_eq!(
            (space.newest(b"k").is_none(), space.memory_bytes()),
            (true, 0)
        );
    }

    #[test]
    fn append_leaves_a_pinned_version_alone() {
        let pins = Rc::new(Pins::default());
        let mut space = Keyspace::new(1);
        space.write(&key("k"), version(1, "a"), ROUND, &pins);
        space.append(&key("k"), Timestamp(2), b"b", ROUND, &pins);
        let snapshot = Snapshot::new(&pins, Timestamp(2));
        space.append(&key("k"), Timestamp(3), b"c", ROUND, &pins);
        assert_eq!(seen(&space, 2), Some(b"ab".to_vec()));
        assert_eq!(seen(&space, 3), Some(b"abc".to_vec()));
        drop(snapshot);
        space.collect_garbage(10, &pins);
        while !space.dismantle(&mut 1) {}
        assert_eq!(space.memory_bytes(), 0);
    }
}

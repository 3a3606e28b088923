//! The versions of one database's keys, from when it was last emptied.
//!
//! Invariants: of a key's versions, those are kept that are the newest or that a snapshot sees; a
//! tombstone is kept as long as a snapshot is older than it, so WATCH can tell that a key came and
//! went. `Tally` counts exactly the newest versions.

use alloc::collections::btree_map as map;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::ops::Bound;

use crate::record::RUN_RECORD_BYTES_MAX;
use crate::slots::Slots;
use crate::snapshot::Pins;
use crate::{Entry, Key, Timestamp, Value};

/// Stands for "never" where an expiry is kept as a number.
const NEVER: i64 = i64::MAX;

/// Memory of an entry beyond the bytes of its key and value: node of the map, slot, reference
/// counts, allocator overhead. An estimate on the high side.
pub(crate) const ENTRY_BYTES: usize = 160 + Slots::BYTES;

/// Memory of an entry in `expiries`.
const EXPIRY_BYTES: usize = 48;

/// What a key was from `timestamp` on: a value, or nothing (a tombstone).
#[derive(Debug, Clone)]
pub(crate) struct Version {
    pub timestamp: Timestamp,
    pub value: Option<Value>,
    expires_at_ms: i64,
}

struct Versions {
    newest: Version,
    /// Older versions that snapshots see, oldest first. Nearly always empty.
    older: Vec<Version>,
    slot: u32,
    /// Whether the key is in `garbage`.
    queued: bool,
    /// When it was last changed.
    changed: Round,
}

/// Counts flushes: tells whether a key was changed since the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Round(pub u32);

#[derive(Default)]
pub(crate) struct Keyspace {
    entries: BTreeMap<Key, Versions>,
    slots: Slots,
    /// Keys with older versions or a tombstone, to be looked at again when snapshots have gone.
    garbage: VecDeque<Key>,
    tally: Tally,
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

impl Version {
    pub(crate) fn new(timestamp: Timestamp, value: Value, expires_at_ms: Option<i64>) -> Self {
        let expires_at_ms = expires_at_ms.unwrap_or(NEVER);
        Self {
            timestamp,
            value: Some(value),
            expires_at_ms,
        }
    }

    pub(crate) fn tombstone(timestamp: Timestamp) -> Self {
        Self {
            timestamp,
            value: None,
            expires_at_ms: NEVER,
        }
    }

    pub(crate) fn expires_at_ms(&self) -> Option<i64> {
        (self.expires_at_ms != NEVER).then_some(self.expires_at_ms)
    }

    /// The value, unless there is none or its time has come.
    pub(crate) fn live_at(&self, now_ms: i64) -> Option<Entry> {
        let value = self
            .value
            .as_ref()
            .filter(|_| self.expires_at_ms > now_ms)?;
        Some(Entry {
            value: value.clone(),
            expires_at_ms: self.expires_at_ms(),
        })
    }

    pub(crate) fn is_live_at(&self, now_ms: i64) -> bool {
        self.value.is_some() && self.expires_at_ms > now_ms
    }

    fn value_bytes(&self) -> usize {
        self.value.as_ref().map_or(0, |value| value.len())
    }
}

impl Versions {
    /// The version a snapshot at `timestamp` sees.
    fn at(&self, timestamp: Timestamp) -> Option<&Version> {
        let newest_first = core::iter::once(&self.newest).chain(self.older.iter().rev());
        newest_first
            .into_iter()
            .find(|version| version.timestamp <= timestamp)
    }

    /// Drops older versions that no snapshot sees; returns the bytes of their values.
    fn prune(&mut self, pins: &Pins) -> usize {
        let mut freed = 0;
        let mut successor = self.newest.timestamp;
        for index in (0..self.older.len()).rev() {
            let Some(version) = self.older.get(index) else {
                continue;
            };
            let from = version.timestamp;
            if !pins.any_in(from, successor) {
                freed += version.value_bytes() + ENTRY_BYTES / 2;
                self.older.remove(index);
            }
            successor = from;
        }
        freed
    }

    /// Whether it is a tombstone that nobody needs.
    fn is_removable(&self, pins: &Pins) -> bool {
        self.newest.value.is_none()
            && self.older.is_empty()
            && !pins.any_before(self.newest.timestamp)
    }

    fn is_garbage(&self) -> bool {
        !self.older.is_empty() || self.newest.value.is_none()
    }
}

impl Keyspace {
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
        self.tally.memory_bytes
    }

    pub(crate) fn newest(&self, key: &[u8]) -> Option<&Version> {
        self.entries.get(key).map(|versions| &versions.newest)
    }

    pub(crate) fn at(&self, key: &[u8], timestamp: Timestamp) -> Option<&Version> {
        self.entries.get(key)?.at(timestamp)
    }

    /// Makes `version` the newest of `key`. True when this is the key's first change in `round`.
    pub(crate) fn write(&mut self, key: &Key, version: Version, round: Round, pins: &Pins) -> bool {
        self.tally.count(key, &version);
        let is_value = version.value.is_some();
        let timestamp = version.timestamp;
        match self.entries.entry(Key::clone(key)) {
            map::Entry::Vacant(place) => {
                if is_value || pins.any_before(timestamp) {
                    let slot = self.slots.insert(Key::clone(key));
                    self.tally.memory_bytes += ENTRY_BYTES + key.len();
                    let queued = !is_value;
                    place.insert(Versions {
                        newest: version,
                        older: Vec::new(),
                        slot,
                        queued,
                        changed: round,
                    });
                    if queued {
                        self.garbage.push_back(Key::clone(key));
                    }
                }
                true
            }
            map::Entry::Occupied(mut place) => {
                let versions = place.get_mut();
                let old = core::mem::replace(&mut versions.newest, version);
                self.tally.discount(key, &old);
                if pins.any_in(old.timestamp, timestamp) {
                    versions.older.push(old);
                    self.tally.memory_bytes += ENTRY_BYTES / 2;
                } else {
                    self.tally.memory_bytes -= old.value_bytes();
                }
                self.tally.memory_bytes -= versions.prune(pins);
                let is_first = core::mem::replace(&mut versions.changed, round) != round;
                if versions.is_removable(pins) {
                    self.slots.remove(versions.slot);
                    place.remove();
                    self.tally.memory_bytes -= ENTRY_BYTES + key.len();
                } else if versions.is_garbage() && !versions.queued {
                    versions.queued = true;
                    self.garbage.push_back(Key::clone(key));
                }
                is_first
            }
        }
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
        let Some(versions) = self.entries.get_mut(key) else {
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
            let Some(versions) = self.entries.get_mut(&key) else {
                continue;
            };
            let before = versions.older.len();
            self.tally.memory_bytes -= versions.prune(pins);
            progress |= versions.older.len() < before;
            if versions.is_removable(pins) {
                progress = true;
                self.slots.remove(versions.slot);
                self.entries.remove(&key);
                self.tally.memory_bytes -= ENTRY_BYTES + key.len();
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

    /// Frees up to `limit` entries; false when nothing is left. For key spaces nobody sees any more.
    pub(crate) fn dismantle(&mut self, limit: usize) -> bool {
        for _ in 0..limit {
            self.garbage.pop_front();
            self.tally.expiries.pop_first();
            match self.entries.pop_first() {
                Some((key, versions)) => {
                    self.slots.remove(versions.slot);
                    let older = versions.older.iter();
                    let older = older.map(|version| version.value_bytes() + ENTRY_BYTES / 2);
                    let bytes = ENTRY_BYTES
                        + key.len()
                        + versions.newest.value_bytes()
                        + older.sum::<usize>();
                    self.tally.memory_bytes = self.tally.memory_bytes.saturating_sub(bytes);
                }
                None if self.tally.expiries.is_empty() && self.garbage.is_empty() => {
                    self.tally.memory_bytes = 0;
                    return false;
                }
                None => {}
            }
        }
        true
    }

    /// Keys after `after` in order, each with the version that a snapshot at `timestamp` sees.
    pub(crate) fn range_at(
        &self,
        after: Option<&[u8]>,
        timestamp: Timestamp,
    ) -> impl Iterator<Item = (&Key, &Version)> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let range = self.entries.range::<[u8], _>((start, Bound::Unbounded));
        range.filter_map(move |(key, versions)| Some((key, versions.at(timestamp)?)))
    }

    /// See [`Slots::scan`].
    pub(crate) fn scan(
        &self,
        cursor: u64,
        count: usize,
        now_ms: i64,
        mut visit: impl FnMut(&Key),
    ) -> u64 {
        self.slots.scan(cursor, count, |key| {
            if self
                .newest(key)
                .is_some_and(|version| version.is_live_at(now_ms))
            {
                visit(key);
            }
        })
    }

    /// A live key, about uniformly at random while at least one slot in 64 holds one; else the
    /// first in order among a bounded number.
    pub(crate) fn random_key(&self, random: u64, now_ms: i64) -> Option<Key> {
        let is_live = |key: &&Key| {
            self.newest(key)
                .is_some_and(|version| version.is_live_at(now_ms))
        };
        let in_order = self.entries.keys().take(1024);
        self.slots
            .random(random)
            .chain(in_order)
            .find(is_live)
            .cloned()
    }

    /// Keys whose time has come, soonest first.
    pub(crate) fn expired(&self, now_ms: i64) -> impl Iterator<Item = &Key> {
        self.tally
            .expiries
            .iter()
            .take_while(move |(at, _)| *at <= now_ms)
            .map(|(_, key)| key)
    }
}

/// Bytes of `key` and `version` in a sorted run, at most.
fn run_bytes(key: &Key, version: &Version) -> u64 {
    (RUN_RECORD_BYTES_MAX + key.len() + version.value_bytes()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
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
        let mut space = Keyspace::default();
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
        let mut space = Keyspace::default();
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
        let mut space = Keyspace::default();
        space.write(&key("k"), version(1, "a"), ROUND, &pins);
        space.append(&key("k"), Timestamp(2), b"b", ROUND, &pins);
        let snapshot = Snapshot::new(&pins, Timestamp(2));
        space.append(&key("k"), Timestamp(3), b"c", ROUND, &pins);
        assert_eq!(seen(&space, 2), Some(b"ab".to_vec()));
        assert_eq!(seen(&space, 3), Some(b"abc".to_vec()));
        drop(snapshot);
        space.collect_garbage(10, &pins);
        while space.dismantle(1) {}
        assert_eq!(space.memory_bytes(), 0);
    }
}

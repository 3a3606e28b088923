//! Whether something was written since a commit: asked in the step in which a transaction commits (`ENGINE.md`, section 4).
//!
//! Memtables tell, and digests of those that were flushed while somebody's state was older. The cost is that of what is asked for: a lookup in each of them for
//! a key, a walk through what was written there for a range.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;

use super::digest::Digest;
use super::reads::Read;
use crate::engine::memtable::Memtable;
use crate::engine::range_set::RangeSet;
use crate::engine::tree::Tree;
use crate::engine::types::{Cursor as _, OutOfMemory};
use crate::{Key, Timestamp};

/// A key that was written since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key, or where what was deleted begins.
    pub key: Key,
    /// By this commit.
    pub commit: Timestamp,
}

/// What was written since some commit.
#[derive(Clone, Copy)]
pub struct Changes<'c> {
    /// The memtables are in it.
    pub tree: &'c Tree,
    /// Those before them.
    pub digests: &'c Digests,
}

impl Changes<'_> {
    /// Whether all is known that was written after `than`. If not, whoever asks cannot be answered any more.
    pub fn reach(&self, than: Timestamp) -> bool {
        let first = self.digests.kept.front().map(Digest::first);
        let oldest = self.tree.memtables().last();
        let memtable = oldest.map_or(Timestamp(0), Memtable::first);
        than >= first.map_or(memtable, |first| Timestamp(first.0.saturating_sub(1)))
    }

    /// Something within `read` that was written after `than`.
    pub fn since(&self, read: Read<'_>, than: Timestamp) -> Option<Change> {
        let newer = |last: Timestamp| last > than;
        for memtable in self.tree.memtables().filter(|one| newer(one.last())) {
            let found = match read {
                Read::Point(key) => memtable
                    .newest(key)
                    .filter(|at| newer(*at))
                    .map(|at| (key, at)),
                Read::Range(start, end) => memtable.first_newer_in(start, Some(end), than),
            };
            let found = found.map(|(key, commit)| (Key::from(key), commit));
            let found = found.or_else(|| deleted(memtable.ranges(), read, than));
            if let Some((key, commit)) = found {
                return Some(Change { key, commit });
            }
        }
        for digest in self.digests.kept.iter().rev() {
            if !newer(digest.last()) {
                break;
            }
            let found = match read {
                Read::Point(key) => {
                    let newest = digest.newest(key).filter(|at| newer(*at));
                    newest.map(|at| (Key::from(key), at))
                }
                Read::Range(start, end) => digest.first_newer_in(start, Some(end), than),
            };
            let found = found.or_else(|| deleted(digest.range_deletes(), read, than));
            if let Some((key, commit)) = found {
                return Some(Change { key, commit });
            }
        }
        None
    }
}

/// A range delete after `than` that takes something of `read` away.
fn deleted(ranges: &RangeSet, read: Read<'_>, than: Timestamp) -> Option<(Key, Timestamp)> {
    match read {
        Read::Point(key) => {
            let newest = ranges.newest_covering(key, Timestamp(u64::MAX));
            let newest = newest.filter(|newest| *newest > than);
            newest.map(|newest| (Key::from(key), newest))
        }
        Read::Range(start, end) => {
            let range = ranges.overlaps_newer(start, Some(end), than)?;
            Some((Key::from(range.start.max(start)), range.timestamp))
        }
    }
}

/// Digests of flushed memtables, for those whose state is older.
#[derive(Debug, Default)]
pub struct Digests {
    /// Oldest first. All that was written since the first of them is in them or in memtables.
    kept: VecDeque<Digest>,
    bytes: usize,
}

impl Digests {
    /// Keeps the digest of the memtable that was flushed now.
    ///
    /// # Errors
    /// There is no memory for it. Then none is kept: what is behind a gap is of no use.
    pub fn keep(&mut self, digest: Digest) -> Result<(), OutOfMemory> {
        if self.kept.try_reserve(1).is_err() {
            self.clear();
            return Err(OutOfMemory);
        }
        debug_assert!(
            self.kept
                .back()
                .is_none_or(|last| last.last() < digest.first()),
            "in the order of commits"
        );
        self.bytes += digest.memory_bytes();
        self.kept.push_back(digest);
        Ok(())
    }

    /// Lets go of those that nobody asks for whose state is `oldest` or newer; without one of all.
    pub fn forget(&mut self, oldest: Option<Timestamp>) {
        let Some(oldest) = oldest else {
            self.clear();
            return;
        };
        while let Some(digest) = self.kept.pop_front_if(|digest| digest.last() <= oldest) {
            self.bytes -= digest.memory_bytes();
        }
    }

    /// Lets go of the oldest one. Who sees a state that is older than its last commit, which is given, cannot be answered any more.
    pub fn forget_first(&mut self) -> Option<Timestamp> {
        let digest = self.kept.pop_front()?;
        self.bytes -= digest.memory_bytes();
        Some(digest.last())
    }

    /// Lets go of all.
    pub fn clear(&mut self) {
        self.kept.clear();
        self.bytes = 0;
    }

    /// Memory that they take.
    pub fn memory_bytes(&self) -> usize {
        self.bytes
    }
}

/// A digest that is being made.
pub struct Digesting {
    memtable: Rc<Memtable>,
    digest: Digest,
    /// From where on keys are missing.
    next: Vec<u8>,
}

impl Digesting {
    /// Of a memtable to which nothing is added any more; `None` if nothing ever was.
    pub fn new(memtable: Rc<Memtable>) -> Option<Self> {
        let (first, last) = (Timestamp(memtable.first().0 + 1), memtable.last());
        (first <= last).then(|| Self {
            digest: Digest::begin(first, last),
            memtable,
            next: Vec::new(),
        })
    }

    /// Takes up to `keys` keys more; true when that was all.
    ///
    /// # Errors
    /// There is no memory for it; the digest is of no use then.
    pub fn step(&mut self, keys: usize) -> Result<bool, OutOfMemory> {
        let mut cursor = self.memtable.cursor();
        let everything = Timestamp(u64::MAX);
        for _ in 0..keys {
            // All is in memory.
            let _ = cursor.seek(&self.next, everything);
            let Some((key, version)) = cursor.current() else {
                return Ok(true);
            };
            self.digest.push(key, version.timestamp)?;
            self.next.clear();
            self.next.try_reserve(key.len() + 1)?;
            self.next.extend_from_slice(key);
            self.next.push(0);
        }
        Ok(false)
    }

    /// The digest, when all keys are in it.
    ///
    /// # Errors
    /// There is no memory for the range deletes.
    pub fn finish(mut self) -> Result<Digest, OutOfMemory> {
        let mut ranges = RangeSet::default();
        let key_bytes = |bytes, (start, end): (usize, usize)| bytes + start + end;
        let all = self.memtable.ranges();
        let lens = all.iter().map(|range| (range.start.len(), range.end.len()));
        ranges.reserve(all.len(), lens.fold(0, key_bytes))?;
        for range in all.iter() {
            ranges.insert(range.start, range.end, range.timestamp);
        }
        self.digest.ranges(ranges);
        Ok(self.digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::{Random, random_key, seed};
    use crate::engine::tree::tests::World;

    /// What is known of everything that was written: from where to where (`None`: this key), by which commit.
    type Written = Vec<(Vec<u8>, Option<Vec<u8>>, u64)>;

    fn written(world: &World) -> Written {
        let keys = world
            .model
            .keys()
            .map(|(key, at)| (key.clone(), None, at.0.0));
        let ranges = world.ranges.iter();
        let ranges = ranges.map(|range| {
            (
                range.start.to_vec(),
                Some(range.end.to_vec()),
                range.timestamp.0,
            )
        });
        keys.chain(ranges).collect()
    }

    #[test]
    fn what_was_written_since_is_found_and_nothing_else() {
        let mut random = Random::new(seed(90));
        let (mut found, mut not_found) = (0, 0);
        for _ in 0..60 {
            let (mut world, mut digests) = (World::new(), Digests::default());
            let oldest = Timestamp(random.below(60));
            for _ in 0..150 {
                match random.below(25) {
                    0 => {
                        world.tree.freeze(Timestamp(world.newest)).unwrap();
                    }
                    1 => {
                        let flushed = world.tree.to_flush();
                        world.flush(&mut random);
                        let wanted = flushed.filter(|memtable| memtable.last() > oldest);
                        if let Some(mut digesting) = wanted.and_then(Digesting::new) {
                            while !digesting.step(1 + random.index(20)).unwrap() {}
                            digests.keep(digesting.finish().unwrap()).unwrap();
                        }
                    }
                    _ => world.commit(&mut random),
                }
            }
            let changes = Changes {
                tree: &world.tree,
                digests: &digests,
            };
            assert!(changes.reach(oldest));
            let written = written(&world);
            for _ in 0..300 {
                let than = Timestamp(oldest.0 + random.below(world.newest + 2));
                let (one, other) = (random_key(&mut random), random_key(&mut random));
                let (start, end) = (one.clone().min(other.clone()), one.max(other));
                // What is read is never an empty range.
                let read = if start == end || random.one_in(2) {
                    Read::Point(&start)
                } else {
                    Read::Range(&start, &end)
                };
                let is_within = |key: &[u8]| match read {
                    Read::Point(start) => key == start,
                    Read::Range(start, end) => start <= key && key < end,
                };
                let overlaps = |from: &[u8], to: &[u8]| match read {
                    Read::Point(key) => from <= key && key < to,
                    Read::Range(start, end) => from < end && start < to && from < to,
                };
                let is_newer = |(from, to, at): &&(Vec<u8>, Option<Vec<u8>>, u64)| {
                    *at > than.0
                        && to
                            .as_ref()
                            .map_or_else(|| is_within(from), |to| overlaps(from, to))
                };
                let expected = written.iter().find(is_newer).is_some();
                let change = changes.since(read, than);
                assert_eq!(
                    change.is_some(),
                    expected,
                    "{read:?} after {than:?}: {change:?}"
                );
                if let Some(change) = change {
                    assert!(change.commit > than && is_within(&change.key));
                    let is_it = |(from, to, at): &(Vec<u8>, Option<Vec<u8>>, u64)| {
                        *at == change.commit.0
                            && to.as_ref().map_or(*from == *change.key, |to| {
                                from[..] <= *change.key && *change.key < to[..]
                            })
                    };
                    assert!(written.iter().any(is_it), "{change:?}");
                    found += 1;
                } else {
                    not_found += 1;
                }
            }
        }
        assert!(found > 1000 && not_found > 1000);
    }

    #[test]
    fn digests_that_nobody_asks_for_go() {
        let mut random = Random::new(1);
        let (mut world, mut digests) = (World::new(), Digests::default());
        let mut lasts = Vec::new();
        for _ in 0..4 {
            for _ in 0..10 {
                world.commit(&mut random);
            }
            world.tree.freeze(Timestamp(world.newest)).unwrap();
            let mut digesting = Digesting::new(world.tree.to_flush().unwrap()).unwrap();
            while !digesting.step(3).unwrap() {}
            digests.keep(digesting.finish().unwrap()).unwrap();
            world.flush(&mut random);
            lasts.push(Timestamp(world.newest));
        }
        let reach = |digests: &Digests, than| {
            let tree = &world.tree;
            Changes { tree, digests }.reach(than)
        };
        assert!(reach(&digests, Timestamp(0)));
        digests.forget(Some(lasts[0]));
        assert!(reach(&digests, lasts[0]) && !reach(&digests, Timestamp(lasts[0].0 - 1)));
        assert_eq!(digests.forget_first(), Some(lasts[1]));
        assert!(reach(&digests, lasts[1]) && !reach(&digests, lasts[0]));
        assert!(digests.memory_bytes() > 0);
        digests.forget(None);
        assert_eq!(digests.memory_bytes(), 0);
        assert!(reach(&digests, lasts[3]) && !reach(&digests, lasts[2]));
    }
}

//! All that is committed: memtables and runs, newest first.
//!
//! Commits go into the active memtable. Frozen ones wait for a flush, or are in one, and become runs. Each source holds commits
//! that are older than those of the sources before it, so the first one that has a version of a key has the newest.
//!
//! Not here: where runs are read from (a [`ChunkSource`]), and when something is frozen, flushed or merged.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;

use lfs::ObjectId;

use super::manifest::RunRef;
use super::memtable::Memtable;
use super::merge::{Merge, Source};
use super::pool::ChunkPool;
use super::range_set::Covering as _;
use super::table::{
    ChunkSource, Dropped, Found, RunCursor, RunRanges, TableRanges, TableRef, table_get,
    table_holding,
};
use super::types::{Missing, OutOfMemory, VersionRef};
use crate::Timestamp;

/// Memtables that wait for a flush, at most, with the one that is in it: then writers wait.
pub const FROZEN_MAX: usize = 2;

/// Memtables and runs.
pub struct Tree {
    pool: Rc<ChunkPool>,
    hash_seed: u64,
    active: Memtable,
    /// Newest first.
    frozen: Vec<Rc<Memtable>>,
    /// Newest first.
    runs: Vec<RunRef>,
}

/// A version that was found, and what it is in.
pub enum Seen<'t> {
    /// A memtable.
    InMemory(VersionRef<'t>),
    /// A block of a table.
    InTable(Found),
}

/// What memtables say of a key.
pub enum InMemtables<'t> {
    /// It has this value, expired or not.
    Value(VersionRef<'t>),
    /// It has none since this commit.
    Nothing(Timestamp),
    /// They have no version of it; of what is older, all before this commit is hidden.
    Older(Option<Timestamp>),
}

impl Seen<'_> {
    /// The version.
    pub fn version(&self) -> VersionRef<'_> {
        match self {
            Self::InMemory(version) => *version,
            Self::InTable(found) => found.version(),
        }
    }
}

impl Tree {
    /// Of these runs, newest first, which hold all commits up to `horizon`. `hash_seed` should be nobody's to guess.
    pub fn new(pool: Rc<ChunkPool>, hash_seed: u64, runs: Vec<RunRef>, horizon: Timestamp) -> Self {
        Self {
            active: Memtable::new(Rc::clone(&pool), hash_seed, horizon),
            pool,
            hash_seed,
            frozen: Vec::new(),
            runs,
        }
    }

    /// The memtable that commits go into.
    pub fn active(&self) -> &Memtable {
        &self.active
    }

    /// The same, to put one in.
    pub fn active_mut(&mut self) -> &mut Memtable {
        &mut self.active
    }

    /// All memtables, newest first.
    pub fn memtables(&self) -> impl Iterator<Item = &Memtable> {
        let frozen = self.frozen.iter().map(Rc::as_ref);
        core::iter::once(&self.active).chain(frozen)
    }

    /// How many memtables wait for a flush.
    pub fn frozen_count(&self) -> usize {
        self.frozen.len()
    }

    /// The runs, newest first.
    pub fn runs(&self) -> &[RunRef] {
        &self.runs
    }

    /// Memory of the memtables.
    pub fn memtable_bytes(&self) -> usize {
        self.memtables().map(Memtable::memory_bytes).sum()
    }

    /// Puts the active memtable, which has all commits up to `last`, to those that wait for a flush; false if as many as there may be
    /// wait already.
    ///
    /// # Errors
    /// There is no memory to do so.
    pub fn freeze(&mut self, last: Timestamp) -> Result<bool, OutOfMemory> {
        if self.frozen.len() >= FROZEN_MAX {
            return Ok(false);
        }
        self.frozen.try_reserve(1)?;
        let new = Memtable::new(Rc::clone(&self.pool), self.hash_seed, last);
        let mut full = core::mem::replace(&mut self.active, new);
        full.give_back_reserved();
        self.frozen.insert(0, Rc::new(full));
        Ok(true)
    }

    /// The memtable to be flushed next.
    pub fn to_flush(&self) -> Option<Rc<Memtable>> {
        self.frozen.last().map(Rc::clone)
    }

    /// What [`to_flush`](Self::to_flush) gave is in `run` now, if anything of it is to be kept. The memtable is given back, to be dismantled.
    ///
    /// # Errors
    /// There is no memory to do so; then nothing changed.
    pub fn flushed(&mut self, run: Option<RunRef>) -> Result<Option<Rc<Memtable>>, OutOfMemory> {
        self.runs.try_reserve(1)?;
        if let Some(run) = run {
            self.runs.insert(0, run);
        }
        Ok(self.frozen.pop())
    }

    /// As [`flushed`](Self::flushed), with all runs there are then.
    pub fn flushed_into(&mut self, runs: Vec<RunRef>) -> Option<Rc<Memtable>> {
        self.runs = runs;
        self.frozen.pop()
    }

    /// The dropped slots that these tables list are free. They are in the order of their numbers.
    pub fn mark_swept(&mut self, objects: &[ObjectId]) {
        let tables = self.runs.iter_mut().flat_map(|run| &mut run.tables);
        for table in tables.filter(|table| objects.binary_search(&table.object).is_ok()) {
            table.dropped = Dropped::Swept;
        }
    }

    /// Up to where the memtable that [`to_flush`](Self::to_flush) gives has all commits.
    pub fn to_flush_until(&self) -> Option<Timestamp> {
        let newer = self.memtables().map(Memtable::first);
        newer.take(self.frozen.len()).last()
    }

    /// Puts other runs in the place of those there are: what a step of a compaction came to. They hold the same commits.
    pub fn install(&mut self, runs: Vec<RunRef>) {
        self.runs = runs;
    }

    /// What a reader at `at` sees of `key`: the newest version that is not newer, if it is a value, expired or not, that no range delete hides.
    ///
    /// # Errors
    /// Something is not in memory.
    pub fn get<S: ChunkSource>(
        &self,
        source: &S,
        key: &[u8],
        at: Timestamp,
    ) -> Result<Option<Seen<'_>>, Missing> {
        match self.get_newest(key, at) {
            InMemtables::Value(version) => Ok(Some(Seen::InMemory(version))),
            InMemtables::Nothing(_) => Ok(None),
            InMemtables::Older(hidden_below) => {
                let found = self.get_in_runs(source, key, at, hidden_below)?;
                Ok(found.map(Seen::InTable))
            }
        }
    }

    /// What memtables say of that.
    pub fn get_newest(&self, key: &[u8], at: Timestamp) -> InMemtables<'_> {
        // All that is older is hidden.
        let mut hidden_below = None;
        for memtable in self.memtables() {
            if let Some(below) = hidden_below
                && below > memtable.last()
            {
                return InMemtables::Nothing(below);
            }
            hidden_below = hidden_below.max(memtable.ranges().newest_covering(key, at));
            if let Some(version) = memtable.get(key, at) {
                return match hidden_below {
                    Some(below) if version.timestamp < below => InMemtables::Nothing(below),
                    _ if version.is_value() => InMemtables::Value(version),
                    _ => InMemtables::Nothing(version.timestamp),
                };
            }
        }
        InMemtables::Older(hidden_below)
    }

    /// What runs say of it, when memtables have no version of it, but hide what is older than `hidden_below`.
    ///
    /// # Errors
    /// Something is not in memory.
    pub fn get_in_runs<S: ChunkSource>(
        &self,
        source: &S,
        key: &[u8],
        at: Timestamp,
        mut hidden_below: Option<Timestamp>,
    ) -> Result<Option<Found>, Missing> {
        for run in &self.runs {
            if hidden_below > Some(run.last) {
                return Ok(None);
            }
            let Some(table) = table_holding(&run.tables, key) else {
                continue;
            };
            hidden_below = hidden_below.max(newest_covering(table, source, key, at)?);
            if let Some(found) = table_get(table, source, key, at)? {
                let version = found.version();
                let is_hidden = hidden_below.is_some_and(|below| version.timestamp < below);
                let is_shown = version.is_value() && !is_hidden;
                return Ok(is_shown.then_some(found));
            }
        }
        Ok(None)
    }

    /// When `key` was deleted with a range for the last time up to `at`.
    ///
    /// # Errors
    /// Something is not in memory.
    pub fn deleted_at<S: ChunkSource>(
        &self,
        source: &S,
        key: &[u8],
        at: Timestamp,
    ) -> Result<Option<Timestamp>, Missing> {
        let in_memory = self.memtables();
        let mut newest = in_memory
            .filter_map(|memtable| memtable.ranges().newest_covering(key, at))
            .max();
        for run in &self.runs {
            if newest >= Some(run.last) {
                break;
            }
            if let Some(table) = table_holding(&run.tables, key) {
                newest = newest.max(newest_covering(table, source, key, at)?);
            }
        }
        Ok(newest)
    }

    /// All sources as one, as a reader at `at` sees them.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn merge<'t, S: ChunkSource>(
        &'t self,
        source: &'t S,
        at: Timestamp,
    ) -> Result<Merge<'t>, OutOfMemory> {
        Ok(Merge::new(self.sources(source, None)?, at))
    }

    /// How what a reader at `at` sees differs from what one at `since` does, which is pinned. What is older is not read, as far as whole tables are.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn changed<'t, S: ChunkSource>(
        &'t self,
        source: &'t S,
        since: Timestamp,
        at: Timestamp,
    ) -> Result<Merge<'t>, OutOfMemory> {
        let sources = self.sources(source, Some(since))?;
        Ok(Merge::changed(sources, since, at))
    }

    /// All sources, newest first; of those that have something newer than `since` only, where one is given.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn sources<'t, S: ChunkSource>(
        &'t self,
        source: &'t S,
        since: Option<Timestamp>,
    ) -> Result<Vec<Source<'t>>, OutOfMemory> {
        let is_newer = |last: Timestamp| since.is_none_or(|since| last > since);
        let mut sources = Vec::new();
        sources.try_reserve_exact(1 + self.frozen.len() + self.runs.len())?;
        let memtables = self
            .memtables()
            .filter(|memtable| is_newer(memtable.last()));
        sources.extend(memtables.map(|memtable| Source {
            cursor: Box::new(memtable.cursor()),
            ranges: Box::new(memtable.ranges()),
            last: memtable.last(),
        }));
        let runs = self.runs.iter().filter(|run| is_newer(run.last));
        sources.extend(runs.map(|run| {
            let tables = &run.tables[..];
            let cursor = match since {
                None => RunCursor::new(tables, source),
                Some(since) => RunCursor::changed(tables, source, since),
            };
            Source {
                cursor: Box::new(cursor),
                ranges: Box::new(RunRanges {
                    tables,
                    source,
                    since,
                }),
                last: run.last,
            }
        }));
        Ok(sources)
    }
}

/// The newest range delete of a table that covers `key` at that time.
fn newest_covering<S: ChunkSource>(
    table: &TableRef,
    source: &S,
    key: &[u8],
    at: Timestamp,
) -> Result<Option<Timestamp>, Missing> {
    if table.stats.range_deletes == 0 {
        return Ok(None);
    }
    let (newest, _) = TableRanges { table, source }.covering_until(key, at, &mut Vec::new())?;
    Ok(newest)
}

#[cfg(test)]
pub(crate) mod tests {
    use core::cmp::Reverse;

    use super::*;
    use crate::engine::merge::ScanStep;
    use crate::engine::range_set::RangeSet;
    use crate::engine::table::tests::{Chunks, part_of, retried};
    use crate::engine::testing::{Model, Owned, Random, random_key, seed};
    use crate::engine::types::{Content, Cursor as _};

    /// A tree, and what is in it.
    pub(crate) struct World {
        pub(crate) chunks: Chunks,
        pub(crate) tree: Tree,
        pub(crate) model: Model,
        pub(crate) ranges: RangeSet,
        pub(crate) newest: u64,
    }

    impl World {
        pub(crate) fn new() -> Self {
            Self {
                chunks: Chunks::new(),
                tree: Tree::new(ChunkPool::new(4), 1, Vec::new(), Timestamp(0)),
                model: Model::new(),
                ranges: RangeSet::default(),
                newest: 0,
            }
        }

        pub(crate) fn commit(&mut self, random: &mut Random) {
            self.newest += 1;
            let (at, memtable) = (Timestamp(self.newest), self.tree.active_mut());
            if random.one_in(12) {
                let (one, other) = (random_key(random), random_key(random));
                let (start, end) = (one.clone().min(other.clone()), one.max(other));
                let range = core::iter::once((&start[..], &end[..]));
                memtable.reserve(core::iter::empty(), range).unwrap();
                memtable.delete_range(&start, &end, at);
                self.ranges.reserve(1, start.len() + end.len()).unwrap();
                self.ranges.insert(&start, &end, at);
            }
            let (key, version) = (random_key(random), Owned::random(random, at.0));
            let entry = core::iter::once((&key[..], version.bytes.len()));
            memtable.reserve(entry, core::iter::empty()).unwrap();
            memtable.insert(&key, &version.as_ref(), false);
            self.model.insert((key, Reverse(at)), version);
        }

        /// The oldest frozen memtable becomes a run of some tables.
        pub(crate) fn flush(&mut self, random: &mut Random) {
            let Some(memtable) = self.tree.to_flush() else {
                return;
            };
            let mut versions = Model::new();
            let mut cursor = memtable.cursor();
            cursor.seek(&[], Timestamp(u64::MAX)).unwrap();
            while let Some((key, version)) = cursor.current() {
                let at = (key.to_vec(), Reverse(version.timestamp));
                versions.insert(at, Owned::of(&version));
                cursor.next().unwrap();
            }
            let cut = random_key(random);
            let tables = [(&[][..], Some(&cut[..])), (&cut[..], None)];
            let table = |(from, to)| part_of(&self.chunks, &versions, memtable.ranges(), from, to);
            let run = RunRef {
                tier: 0,
                job: None,
                first: Timestamp(memtable.first().0 + 1),
                last: memtable.last(),
                tables: tables.into_iter().map(table).collect(),
            };
            self.tree.flushed(Some(run)).unwrap();
        }

        /// A reader at that time sees of the key what the model shows.
        pub(crate) fn check(&self, key: &[u8], at: Timestamp) {
            let found = retried(&self.chunks, 100, || {
                let seen = self.tree.get(&self.chunks, key, at)?;
                Ok(seen.map(|seen| Owned::of(&seen.version())))
            });
            let expected = self.expected(key, at);
            // Whose the pieces of a large value are is not for readers.
            let shown = |version: &Owned| match version.as_ref().content {
                Content::Large(large) => (version.timestamp, Ok(large.pieces())),
                content => (version.timestamp, Err(content.bytes().to_vec())),
            };
            assert_eq!(found.as_ref().map(shown), expected.map(shown));
        }

        fn expected(&self, key: &[u8], at: Timestamp) -> Option<&Owned> {
            let newest = (key.to_vec(), Reverse(at));
            let ((of, timestamp), version) = self.model.range(newest..).next()?;
            let below = self.ranges.newest_covering(key, at);
            let shown = of == key && below.is_none_or(|below| timestamp.0 >= below);
            (shown && version.kind > 0).then_some(version)
        }
    }

    #[test]
    fn readers_see_what_the_model_shows_wherever_it_is() {
        let mut random = Random::new(seed(70));
        for _ in 0..40 {
            let mut world = World::new();
            for _ in 0..200 {
                match random.below(30) {
                    0 => {
                        let waits = world.tree.frozen.len();
                        let frozen = world.tree.freeze(Timestamp(world.newest));
                        assert_eq!(frozen, Ok(waits < FROZEN_MAX));
                    }
                    1 => world.flush(&mut random),
                    _ => world.commit(&mut random),
                }
            }
            world.chunks.evict();
            for _ in 0..200 {
                let at = Timestamp(random.below(world.newest + 2));
                world.check(&random_key(&mut random), at);
            }
            let at = Timestamp(random.below(world.newest + 2));
            let mut merge = world.tree.merge(&world.chunks, at).unwrap();
            let (mut seen, mut key) = (Vec::new(), Vec::new());
            retried(&world.chunks, 1000, || merge.seek(&[]));
            loop {
                let step = retried(&world.chunks, 1000, || {
                    let step = merge.next_visible(&mut 1000, &mut key)?;
                    Ok(match step {
                        ScanStep::Key(version) => Some(Owned::of(&version)),
                        ScanStep::More => panic!("there are fewer"),
                        ScanStep::End => None,
                    })
                });
                let Some(version) = step else {
                    break;
                };
                seen.push((key.clone(), version));
            }
            let mut expected: Vec<_> = world.model.keys().map(|(key, _)| key).collect();
            expected.dedup();
            let expected = expected.into_iter().filter_map(|key| {
                let version = world.expected(key, at)?;
                Some((key.clone(), version.clone()))
            });
            assert_eq!(seen, expected.collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_changed_between_two_commits_is_what_tells_them_apart() {
        let mut random = Random::new(seed(71));
        for _ in 0..60 {
            let mut world = World::new();
            for _ in 0..200 {
                match random.below(30) {
                    0 => _ = world.tree.freeze(Timestamp(world.newest)).unwrap(),
                    1 => world.flush(&mut random),
                    _ => world.commit(&mut random),
                }
            }
            world.chunks.evict();
            let since = Timestamp(random.below(world.newest + 1));
            let at = Timestamp(since.0 + random.below(world.newest - since.0 + 2));
            let mut merge = world.tree.changed(&world.chunks, since, at).unwrap();
            let mut keys: Vec<_> = world.model.keys().map(|(key, _)| key.clone()).collect();
            keys.dedup();
            // From place to place, with what holds up to the next one.
            let (mut place, mut deleted) = (Vec::new(), Vec::new());
            loop {
                let (is_deleted, until) =
                    retried(&world.chunks, 1000, || merge.deleted_from(&place));
                let from = core::mem::take(&mut place);
                deleted.push((from, is_deleted));
                let Some(until) = until else {
                    break;
                };
                assert!(until > deleted.last().unwrap().0);
                place = until;
            }
            for key in &keys {
                let place = deleted.partition_point(|(from, _)| from <= key);
                let covering = world.ranges.newest_covering(key, at);
                assert_eq!(deleted[place - 1].1, covering > Some(since), "{key:?}");
            }
            let (mut changed, mut key) = (Vec::new(), Vec::new());
            retried(&world.chunks, 1000, || merge.seek(&[]));
            loop {
                let step = retried(&world.chunks, 1000, || {
                    let step = merge.next_visible(&mut 1000, &mut key)?;
                    Ok(match step {
                        ScanStep::Key(version) => Some(Owned::of(&version)),
                        ScanStep::More => panic!("there are fewer"),
                        ScanStep::End => None,
                    })
                });
                let Some(version) = step else {
                    break;
                };
                changed.push((key.clone(), version));
            }
            let expected = keys.into_iter().filter_map(|key| {
                let newest = (key.clone(), Reverse(at));
                let ((of, timestamp), version) = world.model.range(newest..).next()?;
                let below = world.ranges.newest_covering(&key, at);
                let is_hidden = below.is_some_and(|below| timestamp.0 < below);
                let is_changed = *of == key && timestamp.0 > since && !is_hidden;
                is_changed.then(|| (key, version.clone()))
            });
            assert_eq!(changed, expected.collect::<Vec<_>>());
        }
    }
}

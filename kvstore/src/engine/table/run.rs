//! Runs: tables in key order without overlap, as one source of versions.

use alloc::vec::Vec;

use super::{ChunkSource, TableCursor, TableRanges, TableRef};
use crate::Timestamp;
use crate::engine::range_set::Covering;
use crate::engine::types::{Cursor, Missing, VersionRef};

/// The table that has what there is of `key`, range deletes included.
pub fn table_holding<'t>(tables: &'t [TableRef], key: &[u8]) -> Option<&'t TableRef> {
    let table = tables.get(first_ending_behind(tables, key));
    table.filter(|table| table.has(key))
}

/// The first table that does not end before `key` or at it.
fn first_ending_behind(tables: &[TableRef], key: &[u8]) -> usize {
    tables.partition_point(|table| table.to.as_ref().is_some_and(|to| **to <= *key))
}

/// A walk over the versions of a run. It has one table open at a time.
pub struct RunCursor<'t, S> {
    tables: &'t [TableRef],
    source: &'t S,
    /// Tables that have nothing newer are passed over unread.
    since: Option<Timestamp>,
    /// The table in which it stands on something.
    open: Option<(usize, TableCursor<'t, S>)>,
}

impl<'t, S: ChunkSource> RunCursor<'t, S> {
    /// A cursor that stands nowhere yet.
    pub fn new(tables: &'t [TableRef], source: &'t S) -> Self {
        Self {
            tables,
            source,
            since: None,
            open: None,
        }
    }

    /// The same, of tables that have something newer than `since`.
    pub fn changed(tables: &'t [TableRef], source: &'t S, since: Timestamp) -> Self {
        Self {
            since: Some(since),
            ..Self::new(tables, source)
        }
    }

    /// The first version at or behind (`key`, `at`), sought from table `from` on, with its table.
    fn first_from(
        &self,
        from: usize,
        key: &[u8],
        at: Timestamp,
        ahead: u32,
    ) -> Result<Option<(usize, TableCursor<'t, S>)>, Missing> {
        let tables = self.tables.iter().enumerate().skip(from);
        for (number, table) in tables.filter(|(_, table)| table.has_newer_than(self.since)) {
            let mut cursor = TableCursor::new(table, self.source);
            cursor.seek(key, at)?;
            cursor.ahead = ahead;
            if cursor.current().is_some() {
                return Ok(Some((number, cursor)));
            }
        }
        Ok(None)
    }

    /// The newest version of the last key before `key`, sought from the last of `count` tables down, with its table.
    fn last_before(
        &self,
        count: usize,
        key: Option<&[u8]>,
    ) -> Result<Option<(usize, TableCursor<'t, S>)>, Missing> {
        let tables = self.tables.iter().enumerate().take(count).rev();
        for (number, table) in tables.filter(|(_, table)| table.has_newer_than(self.since)) {
            let mut cursor = TableCursor::new(table, self.source);
            cursor.seek_back(key)?;
            if cursor.current().is_some() {
                return Ok(Some((number, cursor)));
            }
        }
        Ok(None)
    }
}

impl<S: ChunkSource> Cursor for RunCursor<'_, S> {
    fn seek(&mut self, key: &[u8], at: Timestamp) -> Result<(), Missing> {
        let from = first_ending_behind(self.tables, key);
        self.open = self.first_from(from, key, at, 0)?;
        Ok(())
    }

    fn seek_back(&mut self, key: Option<&[u8]>) -> Result<(), Missing> {
        let tables = self.tables;
        let begin_before = |key: &[u8]| tables.partition_point(|table| *table.from < *key);
        let count = key.map_or(tables.len(), begin_before);
        self.open = self.last_before(count, key)?;
        Ok(())
    }

    fn next(&mut self) -> Result<(), Missing> {
        let Some((number, cursor)) = &mut self.open else {
            return Ok(());
        };
        if !cursor.advance()? {
            let (behind, ahead) = (*number + 1, cursor.ahead);
            self.open = self.first_from(behind, &[], Timestamp(u64::MAX), ahead)?;
        }
        Ok(())
    }

    fn previous_key(&mut self) -> Result<(), Missing> {
        let Some((number, cursor)) = &mut self.open else {
            return self.seek_back(None);
        };
        if !cursor.retreat_key()? {
            let before = *number;
            self.open = self.last_before(before, None)?;
        }
        Ok(())
    }

    fn current(&self) -> Option<(&[u8], VersionRef<'_>)> {
        self.open.as_ref()?.1.current()
    }

    fn key(&self) -> Option<&[u8]> {
        self.open.as_ref()?.1.key()
    }
}

/// The range deletes of a run.
pub struct RunRanges<'t, S> {
    /// Its tables.
    pub tables: &'t [TableRef],
    /// What has their chunks.
    pub source: &'t S,
    /// Tables that have nothing newer count as if they had none.
    pub since: Option<Timestamp>,
}

impl<S: ChunkSource> Covering for RunRanges<'_, S> {
    fn covering_until(
        &self,
        key: &[u8],
        at: Timestamp,
        until: &mut Vec<u8>,
    ) -> Result<(Option<Timestamp>, bool), Missing> {
        let tables = self.tables.iter();
        let mut tables = tables.skip(first_ending_behind(self.tables, key));
        // Of those that have none nothing need be read.
        let has_some =
            |table: &&TableRef| table.stats.range_deletes > 0 && table.has_newer_than(self.since);
        let Some(table) = tables.find(has_some) else {
            return Ok((None, false));
        };
        if *table.from > *key {
            until.clear();
            until.extend_from_slice(&table.from);
            return Ok((None, true));
        }
        let source = self.source;
        TableRanges { table, source }.covering_until(key, at, until)
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeSet;
    use core::cmp::Reverse;

    use super::*;
    use crate::engine::range_set::RangeSet;
    use crate::engine::table::table_get;
    use crate::engine::table::tests::{Chunks, part_of, random_model, retried};
    use crate::engine::testing::{Model, Owned, Random, random_key, seed, walks_as_the_model};

    struct Run {
        chunks: Chunks,
        tables: Vec<TableRef>,
        /// What is in them.
        model: Model,
        ranges: RangeSet,
    }

    /// A run of some tables, with gaps between them.
    fn run(random: &mut Random, newest: u64) -> Run {
        let entries = [1, 100, 3000][random.index(3)];
        let mut model = random_model(random, entries, newest);
        let mut bounds: BTreeSet<Vec<u8>> =
            (0..random.index(8)).map(|_| random_key(random)).collect();
        bounds.insert(Vec::new());
        let mut all = RangeSet::default();
        for _ in 0..random.index(20) {
            let (one, other) = (random_key(random), random_key(random));
            let (start, end) = (one.clone().min(other.clone()), one.max(other));
            all.reserve(1, start.len() + end.len()).unwrap();
            all.insert(&start, &end, Timestamp(1 + random.below(newest)));
        }
        let chunks = Chunks::new();
        let (mut tables, mut ranges) = (Vec::new(), RangeSet::default());
        let bounds: Vec<_> = bounds.into_iter().collect();
        for (at, from) in bounds.iter().enumerate() {
            let to = bounds.get(at + 1).map(|to| &to[..]);
            if random.one_in(5) {
                model.retain(|(key, _), _| key < from || to.is_some_and(|to| &key[..] >= to));
                continue;
            }
            let table = part_of(&chunks, &model, &all, from, to);
            for range in all.iter() {
                let start = range.start.max(from);
                let end = to.map_or(range.end, |to| range.end.min(to));
                ranges.reserve(1, start.len() + end.len()).unwrap();
                ranges.insert(start, end, range.timestamp);
            }
            tables.push(table);
        }
        Run {
            chunks,
            tables,
            model,
            ranges,
        }
    }

    #[test]
    fn walks_and_finds_as_a_map_when_everything_misses() {
        let mut random = Random::new(seed(41));
        for _ in 0..60 {
            let newest = [20, 100_000][random.index(2)];
            let run = run(&mut random, newest);
            for _ in 0..20 {
                run.chunks.evict();
                let mut cursor = RunCursor::new(&run.tables, &run.chunks);
                walks_as_the_model(&mut random, &run.model, &mut cursor, 20, newest);
            }
            for _ in 0..50 {
                let (key, at) = (random_key(&mut random), Timestamp(random.below(newest + 2)));
                let found = retried(&run.chunks, 8, || {
                    let table = table_holding(&run.tables, &key);
                    table.map_or(Ok(None), |table| table_get(table, &run.chunks, &key, at))
                });
                let found = found.map(|found| Owned::of(&found.version()));
                let expected = run.model.range((key.clone(), Reverse(at))..).next();
                let expected = expected.filter(|((of, _), _)| *of == key);
                assert_eq!(found.as_ref(), expected.map(|(_, version)| version));
            }
        }
    }

    #[test]
    fn range_deletes_of_all_tables_are_found() {
        let mut random = Random::new(seed(42));
        for _ in 0..60 {
            let run = run(&mut random, 50);
            let ranges = RunRanges {
                tables: &run.tables,
                source: &run.chunks,
                since: None,
            };
            for _ in 0..50 {
                let (key, at) = (random_key(&mut random), Timestamp(random.below(52)));
                let mut until = Vec::new();
                let (newest, is_bounded) = retried(&run.chunks, 8, || {
                    ranges.covering_until(&key, at, &mut until)
                });
                assert_eq!(newest, run.ranges.newest_covering(&key, at));
                // It holds up to there.
                assert!(!is_bounded || until > key);
                let other = random_key(&mut random);
                if key <= other && (!is_bounded || other < until) {
                    assert_eq!(newest, run.ranges.newest_covering(&other, at));
                }
            }
        }
    }
}

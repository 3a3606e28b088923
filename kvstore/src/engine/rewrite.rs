//! Writes what some sources hold anew, as tables, without what nobody needs: what flushes and compactions have in common.
//!
//! It goes on in steps of some versions and waits for nothing: whoever has it carried out writes full buffers of the sink between steps, loads
//! what was missing, and ends tables. A step that ended with [`StepError::Missing`] is made again.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::cmp::Ordering;
use core::ops::Range;

use super::keep::{Keeper, Met, Rules};
use super::manifest::Count;
use super::merge::Merge;
use super::range_set::{Covering, RangeSet};
use super::recount::Corrections;
use super::table::{ChunkSink, Pushed, TableBuilder, TableSummary, separator};
use super::types::{Content, Missing, OutOfMemory, Piece};
use crate::{Key, Timestamp};

/// Bytes that a range delete takes in a table, about, and those of all that a table keeps room for.
const RANGE_BYTES: usize = 24;
const RANGES_BYTES_MAX: usize = 64 << 10;

/// What a step came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// There is more.
    More,
    /// The table is full, and to be ended.
    Full,
    /// That was all: the last table is to be ended.
    Done,
}

/// Why a step was not made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StepError {
    /// Something is not in memory, which is noted. The step can be made again.
    Missing,
    /// There is no memory. All is to be given up.
    OutOfMemory,
    /// A key came after a greater one: what is written of such keys could not be read. All is to be given up.
    OutOfOrder,
}

impl From<Missing> for StepError {
    fn from(_: Missing) -> Self {
        Self::Missing
    }
}

impl From<OutOfMemory> for StepError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// A table that was ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ended {
    /// The first key that it would have.
    pub from: Key,
    /// The first one behind it that it would not have.
    pub to: Option<Key>,
    /// What the rest of its entry in the manifest says.
    pub table: TableSummary,
}

/// Sources that become tables.
#[expect(
    clippy::struct_excessive_bools,
    reason = "where it stands in a key, of which each says something else"
)]
pub struct Rewrite<'r> {
    merge: Merge<'r>,
    keeper: Keeper<'r>,
    /// The range deletes of the sources.
    ranges: &'r RangeSet,
    /// Those of them that are written again.
    kept_ranges: RangeSet,
    /// The range deletes of all that is newer than the sources.
    newer: Vec<Box<dyn Covering + 'r>>,
    hash_seed: u64,
    floor: Timestamp,
    builder: TableBuilder,
    /// Where the table begins.
    from: Vec<u8>,
    /// The key whose versions are being met, if there is one.
    key: Vec<u8>,
    has_key: bool,
    /// Up to where something newer hides it.
    hidden_below: Option<Timestamp>,
    /// The version on which the merge stands was met.
    is_met: bool,
    /// What the keeper gave last is not in a table yet.
    is_unwritten: bool,
    unsettled: Unsettled,
    /// The last key of which nothing was left, if it is behind all that the table has.
    vanished: Vec<u8>,
    /// The table is full because of what it lists, and ends behind the last key that was met.
    ends_behind_last: bool,
    met_bytes: u64,
    /// What is found out of numbers of keys, and range deletes that there had been when the key was met.
    found: Rc<RefCell<Corrections>>,
    deletes: u64,
}

/// What came of a key of which nothing is in a table yet. If the table is full all may end before this key, and whoever goes on from there meets it
/// once more: until then it is as if it had not been met.
#[derive(Default)]
struct Unsettled {
    dropped: Vec<Piece>,
    by: Count,
    /// A version of the key is in a table: nothing has to wait.
    is_settled: bool,
}

impl<'r> Rewrite<'r> {
    /// Of all that `merge` has from `from` on, where it has to stand. `ranges`: the range deletes of its sources. `newer`: those of all that is
    /// newer; they are told to `found` as well, which takes what is found out of numbers of keys before the end of the last table. Nobody should be able to guess
    /// `hash_seed`.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn new(
        merge: Merge<'r>,
        rules: Rules<'r>,
        ranges: &'r RangeSet,
        newer: Vec<Box<dyn Covering + 'r>>,
        from: &[u8],
        hash_seed: u64,
        found: Rc<RefCell<Corrections>>,
    ) -> Result<Self, OutOfMemory> {
        let mut kept_ranges = RangeSet::default();
        kept_ranges.insert_all(ranges.iter().filter(|range| rules.keeps_range(range)))?;
        let mut first = Vec::new();
        first.try_reserve_exact(from.len())?;
        first.extend_from_slice(from);
        let floor = rules.floor;
        let builder = new_table(hash_seed, floor, &kept_ranges);
        Ok(Self {
            merge,
            keeper: Keeper::new(rules),
            floor,
            ranges,
            kept_ranges,
            newer,
            hash_seed,
            builder,
            from: first,
            key: Vec::new(),
            has_key: false,
            hidden_below: None,
            is_met: false,
            is_unwritten: false,
            unsettled: Unsettled::default(),
            vanished: Vec::new(),
            ends_behind_last: false,
            met_bytes: 0,
            found,
            deletes: 0,
        })
    }

    /// Goes through up to `versions` versions.
    ///
    /// # Errors
    /// See [`StepError`].
    pub fn step(
        &mut self,
        sink: &mut impl ChunkSink,
        versions: usize,
    ) -> Result<Progress, StepError> {
        let mut left = versions;
        loop {
            if self.is_unwritten && !self.write(sink)? {
                return Ok(Progress::Full);
            }
            let is_between = !self.has_key && self.merge.version().is_some();
            if is_between && self.builder.lists_many() {
                // Nothing may be left of any number of keys: what they give up ends a table, too.
                self.ends_behind_last = true;
                return Ok(Progress::Full);
            }
            if left == 0 {
                return Ok(Progress::More);
            }
            if self.is_met {
                self.merge.next_version()?;
                self.is_met = false;
            }
            let next = self.merge.version();
            let next_key = next.map_or(Ordering::Greater, |(_, key, _)| key.cmp(&self.key[..]));
            if self.has_key && next_key.is_lt() {
                return Err(StepError::OutOfOrder);
            }
            if self.has_key && next_key.is_gt() {
                self.end_key()?;
            } else if next.is_some() {
                self.meet()?;
                left -= 1;
            } else {
                return Ok(Progress::Done);
            }
        }
    }

    /// Meets the version on which the merge stands.
    fn meet(&mut self) -> Result<(), StepError> {
        let Some((source, key, version)) = self.merge.version() else {
            return Ok(());
        };
        if !self.has_key {
            let (mut below, mut until) = (None, Vec::new());
            for newer in &self.newer {
                let (covering, _) = newer.covering_until(key, Timestamp(u64::MAX), &mut until)?;
                below = below.max(covering);
            }
            self.hidden_below = below;
            self.key.clear();
            self.key.try_reserve(key.len()).map_err(OutOfMemory::from)?;
            self.key.extend_from_slice(key);
            self.has_key = true;
            self.unsettled.is_settled = false;
            self.deletes = self.found.borrow().deletes(key);
        }
        self.met_bytes += (key.len() + version.content.bytes().len()) as u64;
        let emitted = self.keeper.meet(&Met {
            version,
            source,
            covered_by: self.ranges.next_covering(key, version.timestamp),
            hidden: self.hidden_below > Some(version.timestamp),
        })?;
        self.is_unwritten = emitted.is_some();
        self.is_met = true;
        Ok(self.take_dropped()?)
    }

    fn end_key(&mut self) -> Result<(), StepError> {
        let end = self.keeper.end_key()?;
        self.has_key = false;
        self.is_unwritten = end.kept.is_some();
        self.unsettled.by = Count {
            keys: end.count,
            expiring: -i64::from(end.expired),
        };
        self.take_dropped()?;
        if !self.is_unwritten && !self.unsettled.is_settled {
            self.vanished.clear();
            self.vanished
                .try_reserve(self.key.len())
                .map_err(OutOfMemory::from)?;
            self.vanished.extend_from_slice(&self.key);
        }
        if !self.is_unwritten {
            self.settle()?;
        }
        Ok(())
    }

    fn take_dropped(&mut self) -> Result<(), OutOfMemory> {
        for piece in self.keeper.take_dropped() {
            if self.unsettled.is_settled {
                self.builder.drop_pieces(&[piece])?;
            } else {
                self.unsettled.dropped.try_reserve(1)?;
                self.unsettled.dropped.push(piece);
            }
        }
        Ok(())
    }

    /// What came of the key counts from now on.
    fn settle(&mut self) -> Result<(), OutOfMemory> {
        self.unsettled.is_settled = true;
        self.builder.drop_pieces(&self.unsettled.dropped)?;
        self.unsettled.dropped.clear();
        let by = core::mem::take(&mut self.unsettled.by);
        self.found.borrow_mut().note(&self.key, by, self.deletes);
        Ok(())
    }

    /// Puts what the keeper gave last into the table; false if that is full.
    fn write(&mut self, sink: &mut impl ChunkSink) -> Result<bool, OutOfMemory> {
        let kept = self.keeper.emitted();
        let is_taken = self.builder.push(sink, &self.key, &kept.version)? == Pushed::Taken;
        if is_taken {
            self.is_unwritten = false;
            if let Some(ended) = kept.ended {
                let value = match kept.version.content {
                    Content::Large(large) => large.own_bytes(),
                    content => content.bytes().len() as u64,
                };
                self.builder
                    .note_history(self.key.len() as u64 + value, ended);
            }
            self.settle()?;
        }
        Ok(is_taken)
    }

    /// Ends the table: a full one before the key that did not fit any more, the last one at `to`. `None` if nothing need be written: then
    /// `sink` is as it was.
    ///
    /// # Errors
    /// There is no memory. All is to be given up.
    pub fn end_table(
        &mut self,
        sink: &mut impl ChunkSink,
        to: Option<&[u8]>,
    ) -> Result<Option<Ended>, OutOfMemory> {
        // All that has come to its end is before the table's, also keys of which nothing was left.
        let last = self.builder.last_key().max(&self.vanished[..]);
        let to = if self.is_unwritten {
            Some(separator(last, &self.key))
        } else if core::mem::take(&mut self.ends_behind_last) {
            self.merge
                .version()
                .map(|(_, next, _)| separator(last, next))
        } else {
            to
        };
        let is_nowhere = to.is_some_and(|to| to <= &self.from[..]);
        let has_ranges = self
            .kept_ranges
            .overlaps_newer(&self.from, to, Timestamp(0));
        if is_nowhere || (self.builder.is_empty() && has_ranges.is_none()) {
            return Ok(None);
        }
        let next = new_table(self.hash_seed, self.floor, &self.kept_ranges);
        let full = core::mem::replace(&mut self.builder, next);
        let table = full.finish(sink, &self.from, to, &self.kept_ranges)?;
        let ended = Ended {
            from: self.from.as_slice().into(),
            to: to.map(Key::from),
            table,
        };
        self.from.clear();
        if let Some(to) = to {
            self.from.try_reserve(to.len())?;
            self.from.extend_from_slice(to);
        }
        Ok(Some(ended))
    }

    /// Lists slots that a table among the sources had listed, and that are not free yet.
    ///
    /// # Errors
    /// There is no memory. All is to be given up.
    pub fn drop_slots(&mut self, slots: Range<u64>) -> Result<(), OutOfMemory> {
        self.builder.drop_slots(slots)
    }

    /// Bytes of keys and values that were met so far.
    pub fn met_bytes(&self) -> u64 {
        self.met_bytes
    }
}

fn new_table(hash_seed: u64, floor: Timestamp, ranges: &RangeSet) -> TableBuilder {
    let mut builder = TableBuilder::new(hash_seed, true);
    builder.set_floor(floor);
    builder.reserve_bytes((ranges.len() * RANGE_BYTES).min(RANGES_BYTES_MAX));
    builder
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::manifest::RunRef;
    use crate::engine::memtable::Memtable;
    use crate::engine::merge::Source;
    use crate::engine::pool::ChunkPool;
    use crate::engine::table::tests::{Segments, retried};
    use crate::engine::table::{Dropped, RunCursor, RunRanges, TableRef};
    use crate::engine::testing::{Random, random_key, seed};
    use crate::engine::tree::tests::World;
    use crate::engine::types::{Cursor, LargeRef, NEVER, Piece, VersionRef};

    /// Runs, and what is in the memtable.
    fn world(random: &mut Random) -> World {
        let mut world = World::new();
        for _ in 0..=random.index(5) {
            for _ in 0..=random.index(80) {
                world.commit(random);
            }
            world.tree.freeze(Timestamp(world.newest)).unwrap();
            world.flush(random);
        }
        for _ in 0..random.index(20) {
            world.commit(random);
        }
        world
    }

    /// Which runs are merged, and for what.
    struct Job<'j> {
        first: usize,
        end: usize,
        pins: &'j [Timestamp],
        floor: Timestamp,
    }

    /// The tables that come of it, and up to where they have all.
    fn written(random: &mut Random, world: &World, job: &Job<'_>) -> (Vec<TableRef>, Option<Key>) {
        let (runs, chunks) = (world.tree.runs(), &world.chunks);
        let (newer, merged) = (&runs[..job.first], &runs[job.first..job.end]);
        // Of the model's range deletes those of the commits that are merged.
        let oldest = merged.iter().map(|run| run.first).min().unwrap();
        let commits = oldest..=merged[0].last;
        let mut ranges = RangeSet::default();
        for range in world.ranges.iter() {
            if commits.contains(&range.timestamp) {
                ranges
                    .reserve(1, range.start.len() + range.end.len())
                    .unwrap();
                ranges.insert(range.start, range.end, range.timestamp);
            }
        }
        let ranges_of = |run: &'_ RunRef| RunRanges {
            tables: Vec::leak(run.tables.clone()),
            source: chunks,
            since: None,
        };
        let mut newer_ranges: Vec<Box<dyn Covering>> = Vec::new();
        newer_ranges.push(Box::new(world.tree.active().ranges()));
        for run in newer {
            newer_ranges.push(Box::new(ranges_of(run)));
        }
        let sources = merged.iter().map(|run| Source {
            cursor: Box::new(RunCursor::new(&run.tables, chunks)),
            ranges: Box::new(ranges_of(run)),
            last: run.last,
        });
        let mut merge = Merge::new(sources.collect(), Timestamp(u64::MAX));
        retried(chunks, 1000, || merge.seek(&[]));
        let rules = Rules {
            pins: job.pins,
            floor: job.floor,
            now_ms: i64::MIN,
            bottom: job.end == runs.len(),
        };
        let mut rewrite =
            Rewrite::new(merge, rules, &ranges, newer_ranges, &[], 7, Rc::default()).unwrap();
        let mut tables = Vec::new();
        loop {
            let mut sink = Segments::new(4 << 10, 1 + random.index(2));
            let progress = loop {
                if random.one_in(20) {
                    chunks.evict();
                }
                match rewrite.step(&mut sink, 1 + random.index(30)) {
                    Ok(Progress::More) | Err(StepError::Missing) => {}
                    Ok(progress) => break progress,
                    Err(error) => panic!("{error:?}"),
                }
            };
            if let Some(ended) = rewrite.end_table(&mut sink, None).unwrap() {
                assert!(ended.to.as_ref().is_none_or(|to| ended.from < *to));
                tables.push(TableRef {
                    object: chunks.add(sink),
                    bytes: 0,
                    head: ended.table.head.into(),
                    from: ended.from,
                    to: ended.to,
                    stats: ended.table.stats,
                    dropped: Dropped::Pending,
                });
            }
            if progress == Progress::Done {
                return (tables, None);
            }
            if random.one_in(5) {
                let cut = tables.last().and_then(|table| table.to.clone());
                return (tables, cut);
            }
        }
    }

    /// Puts tables in the place of what they were made of.
    fn install(world: &mut World, job: &Job<'_>, tables: Vec<TableRef>, cut: Option<Key>) {
        let runs = world.tree.runs().to_vec();
        let (newer, merged) = (&runs[..job.first], &runs[job.first..job.end]);
        let mut after = newer.to_vec();
        if !tables.is_empty() {
            after.push(RunRef {
                tier: 1,
                job: None,
                first: merged.iter().map(|run| run.first).min().unwrap(),
                last: merged[0].last,
                tables,
            });
        }
        if let Some(cut) = cut {
            for run in merged {
                let mut rest = run.clone();
                rest.tables
                    .retain(|table| table.to.as_ref().is_none_or(|to| *to > cut));
                for table in &mut rest.tables {
                    table.from = table.from.clone().max(cut.clone());
                }
                if !rest.tables.is_empty() {
                    after.push(rest);
                }
            }
        }
        after.extend_from_slice(&runs[job.end..]);
        world.tree.install(after);
    }

    #[test]
    fn who_may_see_something_sees_it_after_as_before() {
        let mut random = Random::new(seed(80));
        let mut most = 0;
        for _ in 0..60 {
            let mut world = world(&mut random);
            let floor = Timestamp(random.below(world.newest + 1));
            let pin = |random: &mut Random| Timestamp(random.below(world.newest + 1));
            let mut pins: Vec<_> = (0..random.index(4)).map(|_| pin(&mut random)).collect();
            pins.sort_unstable();
            for _ in 0..3 {
                let count = world.tree.runs().len();
                if count == 0 {
                    break;
                }
                let first = random.index(count);
                let job = Job {
                    first,
                    end: first + 1 + random.index(count - first),
                    pins: &pins,
                    floor,
                };
                let (tables, cut) = written(&mut random, &world, &job);
                most = most.max(tables.len());
                install(&mut world, &job, tables, cut);
                for _ in 0..100 {
                    let key = random_key(&mut random);
                    let since = floor.0 + random.below(world.newest + 1 - floor.0);
                    world.check(&key, Timestamp(since));
                    if !pins.is_empty() {
                        world.check(&key, pins[random.index(pins.len())]);
                    }
                }
            }
        }
        assert!(most > 2, "{most} tables at most");
    }

    /// What the tables list as dropped, and by how much counts change, when the work begins anew behind each table as often as `random` says.
    fn counted(memtable: &Memtable, random: &mut Random, stops: bool) -> (Vec<u64>, i64, usize) {
        let (none, mut from, mut tables) = (RangeSet::default(), Vec::new(), 0);
        let (mut dropped, mut keys) = (Vec::new(), 0);
        loop {
            let source = Source {
                cursor: Box::new(memtable.cursor()),
                ranges: Box::new(&none),
                last: memtable.last(),
            };
            let mut merge = Merge::new(alloc::vec![source], Timestamp(u64::MAX));
            merge.seek(&from).unwrap();
            let rules = Rules {
                pins: &[],
                floor: Timestamp(u64::MAX),
                now_ms: 0,
                bottom: true,
            };
            let found = Rc::<RefCell<Corrections>>::default();
            let mut rewrite =
                Rewrite::new(merge, rules, &none, Vec::new(), &from, 7, Rc::clone(&found)).unwrap();
            let cut = loop {
                let mut sink = Segments::new(4 << 10, 1);
                let progress = loop {
                    match rewrite.step(&mut sink, 1 + random.index(30)).unwrap() {
                        Progress::More => {}
                        progress => break progress,
                    }
                };
                let ended = rewrite.end_table(&mut sink, None).unwrap();
                let to = ended.as_ref().and_then(|ended| ended.to.clone());
                if let Some(ended) = ended {
                    dropped.push(ended.table.stats.dropped_slots);
                    tables += 1;
                }
                if progress == Progress::Done {
                    break None;
                }
                if stops && random.one_in(2) {
                    break to;
                }
            };
            keys += found.borrow().by()[5].keys;
            let Some(cut) = cut else {
                return (dropped, keys, tables);
            };
            from = cut.to_vec();
        }
    }

    #[test]
    fn what_comes_of_a_key_counts_once_wherever_a_step_ends() {
        let mut random = Random::new(seed(81));
        for _ in 0..20 {
            let mut memtable = Memtable::new(ChunkPool::new(4), 1, Timestamp(0));
            let mut keys: Vec<Vec<u8>> = Vec::new();
            for _ in 0..200 {
                let letters = (0..=random.index(9)).map(|_| b"ab"[random.index(2)]);
                keys.push(core::iter::once(b'\x05').chain(letters).collect());
            }
            keys.sort();
            keys.dedup();
            let mut put = |key: &[u8], at: u64, content: Content<'_>| {
                let entry = core::iter::once((key, content.bytes().len()));
                memtable.reserve(entry, core::iter::empty()).unwrap();
                let version = VersionRef {
                    timestamp: Timestamp(at),
                    expires_at_ms: NEVER,
                    below: true,
                    content,
                };
                memtable.insert(key, &version, false);
            };
            // Each key's share is wrong by one, and each has replaced a large value of one slot, far from all others.
            for (slot, key) in (0..).zip(&keys) {
                let mut large = Vec::new();
                let piece = Piece {
                    slot: slot * 10,
                    bytes: 1000,
                };
                LargeRef::encode(&[piece], 0, &mut large);
                put(key, 1, Content::Large(LargeRef::parse(&large).unwrap()));
            }
            for key in &keys {
                let value = alloc::vec![random.next_u64().to_le_bytes()[0]; random.index(300)];
                let gone = random.one_in(3);
                put(
                    key,
                    2,
                    if gone {
                        Content::Tombstone
                    } else {
                        Content::Inline(&value)
                    },
                );
            }
            let (whole, count, tables) = counted(&memtable, &mut random, false);
            assert!(tables > 3, "{tables} tables");
            assert_eq!(count, i64::try_from(keys.len()).unwrap());
            assert_eq!(whole.iter().sum::<u64>(), keys.len() as u64);
            let (parts, count, _) = counted(&memtable, &mut random, true);
            assert_eq!(count, i64::try_from(keys.len()).unwrap());
            assert_eq!(parts.iter().sum::<u64>(), keys.len() as u64);
        }
    }

    /// Tells of keys in whichever order it has them.
    struct Told<'t> {
        keys: &'t [&'t [u8]],
        at: usize,
    }

    impl Cursor for Told<'_> {
        fn seek(&mut self, _: &[u8], _: Timestamp) -> Result<(), Missing> {
            Ok(())
        }

        fn seek_back(&mut self, _: Option<&[u8]>) -> Result<(), Missing> {
            Err(Missing)
        }

        fn next(&mut self) -> Result<(), Missing> {
            self.at += 1;
            Ok(())
        }

        fn previous_key(&mut self) -> Result<(), Missing> {
            Err(Missing)
        }

        fn current(&self) -> Option<(&[u8], VersionRef<'_>)> {
            let version = VersionRef {
                timestamp: Timestamp(1),
                expires_at_ms: NEVER,
                below: false,
                content: Content::Inline(b"value"),
            };
            Some((self.key()?, version))
        }

        fn key(&self) -> Option<&[u8]> {
            self.keys.get(self.at).copied()
        }
    }

    /// A table of such keys could not be read, and what it was made of would be gone.
    #[test]
    fn nothing_is_written_of_keys_that_are_out_of_their_order() {
        let rewritten = |keys: &[&[u8]]| {
            let ranges = RangeSet::default();
            let source = Source {
                cursor: Box::new(Told { keys, at: 0 }),
                ranges: Box::new(&ranges),
                last: Timestamp(1),
            };
            let mut merge = Merge::new(Vec::from([source]), Timestamp(u64::MAX));
            merge.seek(&[]).unwrap();
            let rules = Rules {
                pins: &[],
                floor: Timestamp(1),
                now_ms: i64::MIN,
                bottom: true,
            };
            let (kept, found) = (RangeSet::default(), Rc::default());
            let rewrite = Rewrite::new(merge, rules, &kept, Vec::new(), &[], 7, found);
            let mut sink = Segments::new(64 << 10, 4);
            rewrite.unwrap().step(&mut sink, 100)
        };
        assert_eq!(rewritten(&[b"a", b"b", b"c"]), Ok(Progress::Done));
        assert_eq!(rewritten(&[b"a", b"c", b"b"]), Err(StepError::OutOfOrder));
    }
}

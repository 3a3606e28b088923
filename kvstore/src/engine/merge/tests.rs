//! Merges against an ordered map and a list of range deletes.

use alloc::rc::Rc;
use core::cmp::Reverse;

use super::*;
use crate::engine::memtable::Memtable;
use crate::engine::pool::ChunkPool;
use crate::engine::range_set::RangeSet;
use crate::engine::table::tests::{Chunks, table_of};
use crate::engine::table::{TableCursor, TableRanges, TableRef};
use crate::engine::testing::{Model, Owned, Random, random_key, seed};

/// What there is: some sources, and all of it.
struct World {
    chunks: Chunks,
    /// Newest first: as a memtable or as a table, with the last commit.
    parts: Vec<(Part, Timestamp)>,
    model: Model,
    /// For each version the number of its source.
    source_of: alloc::collections::BTreeMap<(Vec<u8>, Reverse<Timestamp>), usize>,
    ranges: Vec<(Vec<u8>, Vec<u8>, u64)>,
    newest: u64,
}

enum Part {
    Memtable(Box<Memtable>),
    Table(Box<TableRef>),
}

fn world(random: &mut Random) -> World {
    let chunks = Chunks::new();
    let mut parts = Vec::new();
    let (mut model, mut source_of) = (Model::new(), alloc::collections::BTreeMap::new());
    let mut all_ranges = Vec::new();
    let mut commit = 0;
    let count = 1 + random.index(5);
    for number in (0..count).rev() {
        let mut memtable = Memtable::new(ChunkPool::new(0), 1, Timestamp(commit));
        let (mut part, mut ranges) = (Model::new(), RangeSet::default());
        for _ in 0..=random.index(59) {
            commit += 1;
            if random.one_in(12) {
                let (one, other) = (random_key(random), random_key(random));
                let (start, end) = (one.clone().min(other.clone()), one.max(other));
                ranges.reserve(1, start.len() + end.len()).unwrap();
                ranges.insert(&start, &end, Timestamp(commit));
                let entry = core::iter::once((&start[..], &end[..]));
                memtable.reserve(core::iter::empty(), entry).unwrap();
                memtable.delete_range(&start, &end, Timestamp(commit));
                all_ranges.push((start, end, commit));
            }
            // A put after a range delete has its timestamp, and is not hidden.
            for _ in 0..=random.index(1) {
                let key = random_key(random);
                let version = Owned::random(random, commit);
                let at = (key, Reverse(version.timestamp));
                if model.contains_key(&at) {
                    continue;
                }
                let entry = core::iter::once((&at.0[..], version.bytes.len()));
                memtable.reserve(entry, core::iter::empty()).unwrap();
                memtable.insert(&at.0, &version.as_ref(), false);
                source_of.insert(at.clone(), number);
                part.insert(at.clone(), version.clone());
                model.insert(at, version);
            }
        }
        let last = Timestamp(commit);
        let part = if random.one_in(2) {
            Part::Memtable(Box::new(memtable))
        } else {
            Part::Table(Box::new(table_of(&chunks, &part, &ranges)))
        };
        parts.insert(0, (part, last));
    }
    World {
        chunks,
        parts,
        model,
        source_of,
        ranges: all_ranges,
        newest: commit,
    }
}

impl World {
    fn merge(&self, at: u64) -> Merge<'_> {
        let mut sources = Vec::new();
        for (part, last) in &self.parts {
            sources.push(match part {
                Part::Memtable(memtable) => Source {
                    cursor: Box::new(memtable.cursor()),
                    ranges: Box::new(memtable.ranges()),
                    last: *last,
                },
                Part::Table(table) => Source {
                    cursor: Box::new(TableCursor::new(table, &self.chunks)),
                    ranges: Box::new(TableRanges {
                        table,
                        source: &self.chunks,
                    }),
                    last: *last,
                },
            });
        }
        Merge::new(sources, Timestamp(at))
    }

    /// What is seen at that time, in order.
    fn visible(&self, at: u64) -> Vec<(Vec<u8>, Owned)> {
        let mut visible: Vec<(Vec<u8>, Owned)> = Vec::new();
        let mut last = None;
        for ((key, Reverse(timestamp)), version) in &self.model {
            if timestamp.0 > at || last == Some(key) {
                continue;
            }
            last = Some(key);
            let hidden = self.ranges.iter().any(|(start, end, by)| {
                start <= key && key < end && timestamp.0 < *by && *by <= at
            });
            if !hidden && version.kind != 0 {
                visible.push((key.clone(), version.clone()));
            }
        }
        visible
    }
}

#[test]
fn what_is_seen_is_what_the_model_shows_in_both_directions() {
    let mut random = Random::new(seed(60));
    for _ in 0..400 {
        let world = world(&mut random);
        for _ in 0..4 {
            let at = random.below(world.newest + 2);
            let backward = random.one_in(2);
            let bound = (!random.one_in(3)).then(|| random_key(&mut random));
            let mut expected = world.visible(at);
            if backward {
                expected.retain(|(key, _)| bound.as_ref().is_none_or(|bound| key < bound));
                expected.reverse();
            } else {
                expected.retain(|(key, _)| bound.as_ref().is_none_or(|bound| key >= bound));
            }
            let mut merge = world.merge(at);
            let mut resume = bound;
            let seek = |merge: &mut Merge<'_>, resume: &Option<Vec<u8>>| {
                let mut left = 500;
                loop {
                    let sought = match (backward, resume) {
                        (true, bound) => merge.seek_back(bound.as_deref()),
                        (false, bound) => merge.seek(bound.as_deref().unwrap_or_default()),
                    };
                    left -= 1;
                    assert!(left > 0);
                    if sought.is_ok() {
                        break;
                    }
                }
            };
            seek(&mut merge, &resume);
            let (mut found, mut out, mut steps) = (Vec::new(), Vec::new(), 0);
            loop {
                steps += 1;
                assert!(steps < 20_000);
                let mut look = random.index(6);
                match merge.next_visible(&mut look, &mut out) {
                    Ok(ScanStep::Key(version)) => {
                        found.push((out.clone(), Owned::of(&version)));
                        let mut next = out.clone();
                        if !backward {
                            next.push(0);
                        }
                        resume = Some(next);
                    }
                    Ok(ScanStep::More) => {
                        resume = Some(out.clone());
                        // The same scan goes on, or another one from there.
                        if random.one_in(2) {
                            seek(&mut merge, &resume);
                        }
                    }
                    Ok(ScanStep::End) => break,
                    Err(Missing) if random.one_in(2) => seek(&mut merge, &resume),
                    Err(Missing) => {}
                }
                if random.one_in(20) {
                    world.chunks.evict();
                    seek(&mut merge, &resume);
                }
            }
            assert_eq!(found, expected, "at {at}, backward: {backward}");
        }
    }
}

#[test]
fn all_versions_come_in_order_with_their_source_whatever_misses() {
    let mut random = Random::new(seed(61));
    for _ in 0..300 {
        let world = world(&mut random);
        world.chunks.evict();
        let mut merge = world.merge(u64::MAX);
        assert!(merge.version().is_none());
        let from = random_key(&mut random);
        while merge.seek(&from).is_err() {}
        for (at, version) in world.model.range((from, Reverse(Timestamp(u64::MAX)))..) {
            let (source, key, found) = merge.version().unwrap();
            assert_eq!((key, Owned::of(&found)), (&at.0[..], version.clone()));
            assert_eq!(source, world.source_of[at]);
            // Each block is missing once.
            let mut left = 10;
            while merge.next_version().is_err() {
                left -= 1;
                assert!(left > 0);
            }
        }
        assert!(merge.version().is_none());
        assert_eq!(merge.next_version(), Ok(()));
    }
}

#[test]
fn what_a_newer_range_delete_hides_is_jumped_over() {
    let pool = ChunkPool::new(0);
    let mut old = Memtable::new(Rc::clone(&pool), 1, Timestamp(0));
    let version = |at| Owned {
        kind: 1,
        bytes: b"v".to_vec(),
        expires_at_ms: crate::engine::types::NEVER,
        ..Owned::random(&mut Random::new(1), at)
    };
    for number in 0..100_000_u32 {
        let key = number.to_be_bytes();
        let entry = core::iter::once((&key[..], 1));
        old.reserve(entry, core::iter::empty()).unwrap();
        old.insert(&key, &version(1).as_ref(), false);
    }
    let mut new = Memtable::new(pool, 1, Timestamp(1));
    let (start, end) = (5_u32.to_be_bytes(), 99_990_u32.to_be_bytes());
    let range = core::iter::once((&start[..], &end[..]));
    new.reserve(core::iter::empty(), range).unwrap();
    new.delete_range(&start, &end, Timestamp(2));
    let source = |memtable: &'static Memtable, last| Source {
        cursor: Box::new(memtable.cursor()),
        ranges: Box::new(memtable.ranges()),
        last: Timestamp(last),
    };
    let (new, old): (&'static _, &'static _) = (Box::leak(Box::new(new)), Box::leak(Box::new(old)));
    let mut merge = Merge::new(alloc::vec![source(new, 2), source(old, 1)], Timestamp(9));
    merge.seek(&[]).unwrap();
    let (mut look, mut out, mut seen) = (20, Vec::new(), 0);
    while let ScanStep::Key(_) = merge.next_visible(&mut look, &mut out).unwrap() {
        seen += 1;
    }
    assert_eq!(seen, 15, "20 looks were enough for all");
    // Seen from before it, they are there.
    let mut merge = Merge::new(alloc::vec![source(new, 2), source(old, 1)], Timestamp(1));
    merge.seek(&start).unwrap();
    assert!(matches!(
        merge.next_visible(&mut 1, &mut out),
        Ok(ScanStep::Key(_))
    ));
    assert_eq!(out, start);
}

/// Only the source that shows the key was counted: who bounds what is read by looks read as many values of each other source besides.
#[test]
fn all_that_is_gone_through_for_a_key_is_looked_at() {
    let pool = ChunkPool::new(0);
    let memtables: Vec<_> = (1..=10_u64)
        .map(|at| {
            let mut memtable = Memtable::new(Rc::clone(&pool), 1, Timestamp(at - 1));
            for key in [b"a", b"b", b"c"] {
                let version = Owned {
                    kind: 1,
                    bytes: alloc::vec![b'v'; 3 * LOOK_BYTES],
                    expires_at_ms: crate::engine::types::NEVER,
                    ..Owned::random(&mut Random::new(1), at)
                };
                let entry = core::iter::once((&key[..], version.bytes.len()));
                memtable.reserve(entry, core::iter::empty()).unwrap();
                memtable.insert(key, &version.as_ref(), false);
            }
            memtable
        })
        .collect();
    let sources = memtables.iter().rev().map(|memtable| Source {
        cursor: Box::new(memtable.cursor()),
        ranges: Box::new(memtable.ranges()),
        last: memtable.last(),
    });
    let mut merge = Merge::new(sources.collect(), Timestamp(9));
    merge.seek(&[]).unwrap();
    // Ten sources, each with a key and three times as much of a value.
    let (mut look, mut out) = (100, Vec::new());
    for left in [60, 20, 0] {
        let step = merge.next_visible(&mut look, &mut out).unwrap();
        assert!(matches!(step, ScanStep::Key(version) if version.timestamp == Timestamp(9)));
        assert_eq!(look, left);
    }
}

//! One key's life, split into runs and merged in every way, against what it was.
//!
//! - What a pin or anybody from the floor on sees is the same after each merge.
//! - A piece that somebody sees is never given up; in the end every piece is, once.
//! - When everything was merged, the count is right.

use alloc::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::engine::testing::{Owned, Random, seed};
use crate::engine::types::Pieces;

/// A run: versions of the key, newest first, and the commits of its range deletes.
#[derive(Clone, Default, Debug)]
struct Run {
    versions: Vec<Owned>,
    ranges: Vec<u64>,
}

/// Everything that was ever written, and what was given up.
struct Life {
    versions: Vec<Owned>,
    ranges: Vec<u64>,
    pieces: BTreeSet<u64>,
    given_up: BTreeSet<u64>,
    count: i64,
    next_slot: u64,
}

fn large(pieces: &[Piece], inherited: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    LargeRef::encode(pieces, u8::try_from(inherited).unwrap(), &mut bytes);
    bytes
}

fn pieces_of(version: &Owned) -> Pieces {
    match version.as_ref().content {
        Content::Large(large) => large.pieces(),
        _ => Pieces::new(),
    }
}

fn version(timestamp: u64, kind: u8, bytes: Vec<u8>) -> Owned {
    Owned {
        timestamp: Timestamp(timestamp),
        expires_at_ms: NEVER,
        below: false,
        kind,
        bytes,
    }
}

impl Life {
    fn new() -> Self {
        Self {
            versions: Vec::new(),
            ranges: Vec::new(),
            pieces: BTreeSet::new(),
            given_up: BTreeSet::new(),
            count: 0,
            next_slot: 0,
        }
    }

    fn piece(&mut self, bytes: u32) -> Piece {
        let piece = Piece {
            slot: self.next_slot,
            bytes,
        };
        self.next_slot += piece.slots();
        self.pieces.insert(piece.slot);
        piece
    }

    /// The newest version that no range delete hides.
    fn newest(&self) -> Option<&Owned> {
        let newest = self.versions.last()?;
        let hidden = self
            .ranges
            .last()
            .is_some_and(|by| *by > newest.timestamp.0);
        (!hidden).then_some(newest)
    }

    /// What is seen at commit `at` by the clock of `now_ms`: the commit that wrote it.
    fn seen(&self, at: u64, now_ms: i64) -> Option<&Owned> {
        let newest = self
            .versions
            .iter()
            .rev()
            .find(|version| version.timestamp.0 <= at)?;
        let hidden = |by: &u64| *by > newest.timestamp.0 && *by <= at;
        let shows = !self.ranges.iter().any(hidden) && newest.as_ref().is_live_at(now_ms);
        shows.then_some(newest)
    }

    /// One more commit, at the time of its number; returns the run's part of it.
    fn commit(&mut self, random: &mut Random, at: u64, memtable: &mut Run, newest_run: bool) {
        let now_ms = i64::try_from(at).unwrap();
        if random.one_in(12) {
            self.ranges.push(at);
            memtable.ranges.push(at);
            self.count = 0;
            return;
        }
        let before = self.newest().filter(|version| version.kind != 0).cloned();
        let live = before
            .clone()
            .filter(|version| version.as_ref().is_live_at(now_ms));
        let pieces = live.as_ref().map(pieces_of).unwrap_or_default();
        let lasting = live
            .as_ref()
            .is_some_and(|version| version.expires_at_ms == NEVER);
        let mut next = match random.below(7) {
            0 => version(at, 0, Vec::new()),
            1 => version(at, 1, alloc::vec![1]),
            // APPEND.
            2 | 3 if !pieces.is_empty() => {
                let mut pieces = pieces;
                let mut inherited = if lasting { pieces.len() } else { 0 };
                // Written anew, or the last ones joined, now and then.
                if inherited == 0 {
                    pieces = Pieces::from_elem(self.piece(50), 1);
                } else if random.one_in(4) || pieces.len() == 16 {
                    inherited = random.index(inherited);
                    pieces.truncate(inherited);
                }
                pieces.push(self.piece(9));
                version(at, 2, large(&pieces, inherited))
            }
            // EXPIRE, PERSIST.
            4 | 5 if live.is_some() => {
                let mut next = live.unwrap();
                next.timestamp = Timestamp(at);
                if next.kind == 2 {
                    next.bytes = if lasting {
                        large(&pieces, pieces.len())
                    } else {
                        large(&[self.piece(77)], 0)
                    };
                }
                let expires = random.one_in(2);
                next.expires_at_ms = if expires {
                    now_ms + i64::try_from(random.below(60)).unwrap()
                } else {
                    NEVER
                };
                next
            }
            _ => version(at, 2, large(&[self.piece(5000)], 0)),
        };
        // What is in the memtable is known; what is in runs may be taken for there.
        let known = !memtable.versions.is_empty() || !memtable.ranges.is_empty() || newest_run;
        next.below = before.is_some() || !known && random.one_in(3);
        self.count += i64::from(next.kind != 0) - i64::from(next.below);
        self.versions.push(next.clone());
        memtable.versions.insert(0, next);
    }

    /// Merges these runs, newest first, under newer ones that have these range deletes.
    fn merge(&mut self, runs: &[Run], newer_ranges: &[u64], rules: &Rules<'_>) -> Run {
        let mut merged = Run::default();
        let ranges = runs.iter().flat_map(|run| run.ranges.iter().copied());
        let ranges = ranges.collect::<Vec<_>>();
        let mut keeper = Keeper::new(*rules);
        for (source, run) in runs.iter().enumerate() {
            for version in &run.versions {
                let newer = ranges.iter().filter(|by| **by > version.timestamp.0);
                let met = Met {
                    version: version.as_ref(),
                    source,
                    covered_by: newer.min().map(|by| Timestamp(*by)),
                    hidden: newer_ranges.iter().any(|by| *by > version.timestamp.0),
                };
                if let Some(kept) = keeper.meet(&met).unwrap() {
                    merged.versions.push(Owned::of(&kept.version));
                }
            }
        }
        let end = keeper.end_key().unwrap();
        self.count += end.count;
        merged
            .versions
            .extend(end.kept.map(|kept| Owned::of(&kept.version)));
        for piece in keeper.take_dropped() {
            assert!(
                self.given_up.insert(piece.slot),
                "given up twice: {piece:?}"
            );
        }
        let keeps = |by: &u64| {
            rules.keeps_range(&RangeDelete {
                start: &[0],
                end: &[1],
                timestamp: Timestamp(*by),
            })
        };
        merged.ranges = ranges.into_iter().filter(keeps).collect();
        merged
    }

    /// What is seen at `at` through the runs.
    fn seen_in(runs: &[Run], at: u64, now_ms: i64) -> Option<&Owned> {
        let mut versions = runs.iter().flat_map(|run| run.versions.iter());
        let newest = versions.find(|version| version.timestamp.0 <= at)?;
        let mut ranges = runs.iter().flat_map(|run| run.ranges.iter());
        let hidden = ranges.any(|by| *by > newest.timestamp.0 && *by <= at);
        (!hidden && newest.as_ref().is_live_at(now_ms)).then_some(newest)
    }

    fn check(&self, runs: &[Run], rules: &Rules<'_>, newest: u64) {
        let pins = rules.pins.iter().map(|pin| pin.0);
        for at in pins.chain(rules.floor.0..=newest + 1) {
            let expected = self.seen(at, rules.now_ms);
            let found = Self::seen_in(runs, at, rules.now_ms);
            assert_eq!(
                found.map(|version| version.timestamp),
                expected.map(|version| version.timestamp),
                "seen at {at}"
            );
            if let (Some(found), Some(expected)) = (found, expected) {
                assert_eq!(
                    (found.kind, pieces_of(found)),
                    (expected.kind, pieces_of(expected))
                );
                for piece in pieces_of(found) {
                    assert!(
                        !self.given_up.contains(&piece.slot),
                        "{piece:?} is seen at {at}"
                    );
                }
            }
        }
    }
}

#[test]
fn what_is_seen_stays_and_every_piece_goes_once() {
    let mut random = Random::new(seed(70));
    for _ in 0..20_000 {
        let mut life = Life::new();
        let mut runs: Vec<Run> = Vec::new();
        let newest = 1 + random.below(40);
        let mut memtable = Run::default();
        let share = 1 + random.below(12);
        for at in 1..=newest {
            life.commit(&mut random, at, &mut memtable, runs.is_empty());
            if random.one_in(share) {
                runs.insert(0, core::mem::take(&mut memtable));
            }
        }
        runs.insert(0, memtable);
        let mut pins = (1..=newest)
            .filter(|_| random.one_in(5))
            .map(Timestamp)
            .collect::<Vec<_>>();
        let mut floor = random.below(newest + 2);
        let mut now_ms = i64::try_from(newest).unwrap();
        for _ in 0..12 {
            // Pins go, the floor rises, time passes.
            if random.one_in(3) && !pins.is_empty() {
                pins.remove(random.index(pins.len()));
            }
            floor += random.below(4);
            now_ms += i64::try_from(random.below(8)).unwrap();
            let from = random.index(runs.len());
            let to = from + 1 + random.index(runs.len() - from);
            let rules = Rules {
                pins: &pins,
                floor: Timestamp(floor),
                now_ms,
                bottom: to == runs.len(),
            };
            let newer = runs[..from]
                .iter()
                .flat_map(|run| run.ranges.iter().copied());
            let newer = newer.collect::<Vec<_>>();
            let merged = life.merge(&runs[from..to], &newer, &rules);
            runs.splice(from..to, [merged]);
            life.check(&runs, &rules, newest);
        }
        // All of it at once: the count is right.
        let rules = Rules {
            pins: &pins,
            floor: Timestamp(floor),
            now_ms,
            bottom: true,
        };
        let all = life.merge(&runs, &[], &rules);
        life.check(core::slice::from_ref(&all), &rules, newest);
        let is_there = life.seen(u64::MAX, now_ms).is_some();
        assert_eq!(life.count, i64::from(is_there));
        // Deleted, and seen by nobody, nothing is left of it.
        let mut delete = version(newest + 1, 0, Vec::new());
        delete.below = is_there;
        life.count -= i64::from(is_there);
        let last = Run {
            versions: alloc::vec![delete],
            ranges: Vec::new(),
        };
        let rules = Rules {
            pins: &[],
            floor: Timestamp(newest + 1),
            now_ms,
            bottom: true,
        };
        let nothing = life.merge(&[last, all], &[], &rules);
        assert!(
            nothing.versions.is_empty() && nothing.ranges.is_empty(),
            "{nothing:?}"
        );
        assert_eq!((&life.given_up, life.count), (&life.pieces, 0));
    }
}

fn rules(pins: &[Timestamp], floor: u64, bottom: bool) -> Rules<'_> {
    Rules {
        pins,
        floor: Timestamp(floor),
        now_ms: 1000,
        bottom,
    }
}

#[test]
fn a_piece_that_an_older_version_owns_is_not_given_up() {
    // v1 [p], v2 [p, q], v3 "x"; a pin sees v1.
    let mut life = Life::new();
    let (p, q) = (life.piece(10), life.piece(10));
    let v1 = version(1, 2, large(&[p], 0));
    let v2 = version(2, 2, large(&[p, q], 1));
    let v3 = version(3, 1, b"x".to_vec());
    let run = |versions| Run {
        versions,
        ranges: Vec::new(),
    };
    let pins = [Timestamp(1)];
    let upper = life.merge(
        &[run(alloc::vec![v3]), run(alloc::vec![v2])],
        &[],
        &rules(&pins, 9, false),
    );
    assert_eq!(life.given_up, BTreeSet::from([q.slot]));
    let runs = [upper, run(alloc::vec![v1])];
    assert_eq!(
        Life::seen_in(&runs, 1, 0).map(pieces_of),
        Some(Pieces::from_elem(p, 1))
    );
    // When the pin is gone, the merge with v1 gives up the rest.
    life.merge(&runs, &[], &rules(&[], 9, true));
    assert_eq!(life.given_up, life.pieces);
}

#[test]
fn what_persists_a_value_that_expires_has_pieces_of_its_own() {
    // v1 [p] expires; v2, in a newer run, is the same value for ever. The clock drops v1 alone.
    let mut life = Life::new();
    let (p, own) = (life.piece(10), life.piece(10));
    let mut v1 = version(1, 2, large(&[p], 0));
    v1.expires_at_ms = 500;
    let v2 = version(2, 2, large(&[own], 0));
    let run = |version| Run {
        versions: alloc::vec![version],
        ranges: Vec::new(),
    };
    let lower = life.merge(&[run(v1)], &[], &rules(&[], 9, false));
    assert_eq!(life.given_up, BTreeSet::from([p.slot]));
    // It is a tombstone, since it hides what may be older.
    assert_eq!(lower.versions, [version(1, 0, Vec::new())]);
    let all = life.merge(&[run(v2.clone()), lower], &[], &rules(&[], 9, true));
    assert_eq!(all.versions, [v2]);
    assert_eq!(life.given_up, BTreeSet::from([p.slot]));
}

#[test]
fn pieces_pass_to_the_heir_in_the_same_merge() {
    // v1 [p], v2 [p, q], v3 [p, q, r]: v3 is all that is needed, and owns what they leave it.
    let mut life = Life::new();
    let (p, q, r) = (life.piece(1), life.piece(2), life.piece(3));
    let run = |version| Run {
        versions: alloc::vec![version],
        ranges: Vec::new(),
    };
    let v1 = run(version(1, 2, large(&[p], 0)));
    let v2 = run(version(2, 2, large(&[p, q], 1)));
    let v3 = run(version(3, 2, large(&[p, q, r], 2)));
    let upper = life.merge(&[v3, v2], &[], &rules(&[], 9, false));
    assert_eq!(upper.versions, [version(3, 2, large(&[p, q, r], 1))]);
    let all = life.merge(&[upper, v1], &[], &rules(&[], 9, true));
    assert_eq!(all.versions, [version(3, 2, large(&[p, q, r], 0))]);
    assert!(life.given_up.is_empty());
}

#[test]
fn keys_under_a_range_delete_that_is_not_in_the_merge_are_not_counted_off() {
    // FLUSHDB made the number 0; the value that it hides expires in the base.
    let mut life = Life::new();
    let mut expiring = version(1, 1, b"x".to_vec());
    expiring.expires_at_ms = 500;
    let run = Run {
        versions: alloc::vec![expiring],
        ranges: Vec::new(),
    };
    let base = life.merge(core::slice::from_ref(&run), &[2], &rules(&[], 0, true));
    assert_eq!((life.count, base.versions.len()), (0, 0));
    // Without it, it is counted off.
    life.merge(&[run], &[], &rules(&[], 0, true));
    assert_eq!(life.count, -1);
}

#[test]
fn history_says_so_and_expiry_too() {
    let keep = |floor| {
        let mut keeper = Keeper::new(rules(&[], floor, true));
        let met = |version: &Owned| -> Met<'static> {
            let leaked: &'static Owned =
                alloc::boxed::Box::leak(alloc::boxed::Box::new(version.clone()));
            Met {
                version: leaked.as_ref(),
                source: 0,
                covered_by: None,
                hidden: false,
            }
        };
        let mut kept = BTreeMap::new();
        for at in [3, 2, 1] {
            let mut version = version(at, 1, Vec::new());
            version.below = at > 1;
            if let Some(found) = keeper.meet(&met(&version)).unwrap() {
                kept.insert(found.version.timestamp.0, found.ended.is_some());
            }
        }
        let end = keeper.end_key().unwrap();
        kept.extend(
            end.kept
                .map(|kept| (kept.version.timestamp.0, kept.ended.is_some())),
        );
        assert_eq!((end.count, end.expired), (0, false));
        kept
    };
    assert_eq!(keep(3), BTreeMap::from([(3, false)]));
    assert_eq!(keep(2), BTreeMap::from([(2, true), (3, false)]));
    assert_eq!(keep(0), BTreeMap::from([(1, true), (2, true), (3, false)]));
}

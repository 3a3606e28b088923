//! Memtables against an ordered map.

use core::cmp::Reverse;

use super::*;
use crate::engine::testing::{Model, Owned, Random, random_key, seed, walks_as_the_model};
use crate::engine::types::NEVER;

fn memtable(pool: &Rc<ChunkPool>) -> Memtable {
    Memtable::new(Rc::clone(pool), 7, Timestamp(0))
}

fn none<'k>() -> impl Iterator<Item = (&'k [u8], &'k [u8])> {
    core::iter::empty()
}

/// Puts one version in, for which it makes room.
fn put(memtable: &mut Memtable, key: &[u8], version: &Owned, reuse: bool) -> bool {
    let bytes = version.bytes.len();
    memtable
        .reserve(core::iter::once((key, bytes)), none())
        .unwrap();
    memtable.insert(key, &version.as_ref(), reuse)
}

fn value(timestamp: u64, bytes: &[u8], below: bool) -> Owned {
    Owned {
        timestamp: Timestamp(timestamp),
        expires_at_ms: NEVER,
        below,
        kind: 1,
        bytes: bytes.to_vec(),
    }
}

/// What the model's versions of `key` at `at` are, as [`Memtable::get`] says it.
fn expected(model: &Model, key: &[u8], at: u64) -> Option<Owned> {
    let first = (key.to_vec(), Reverse(Timestamp(at)));
    let found = model.range(first..).next();
    found
        .filter(|((of, _), _)| of == key)
        .map(|(_, version)| version.clone())
}

#[test]
fn answers_as_a_map_at_every_time() {
    let mut random = Random::new(seed(10));
    for round in 0..12 {
        let pool = ChunkPool::new(4);
        let mut memtable = memtable(&pool);
        let mut model = Model::new();
        let commits = [30, 300, 2000][round % 3];
        for commit in 1..=commits {
            let mut entries = alloc::collections::BTreeMap::new();
            for _ in 0..random.index(6) {
                entries.insert(random_key(&mut random), Owned::random(&mut random, commit));
            }
            let lens = entries
                .iter()
                .map(|(key, version)| (&key[..], version.bytes.len()));
            memtable.reserve(lens, none()).unwrap();
            // From here on nothing is to be had.
            pool.set_limit(0);
            for (key, version) in entries {
                assert!(!memtable.insert(&key, &version.as_ref(), false));
                model.insert((key, Reverse(version.timestamp)), version);
            }
            pool.set_limit(usize::MAX);
            if commit % 64 == 0 {
                walks_as_the_model(&mut random, &model, &mut memtable.cursor(), 20, commit);
            }
        }
        assert_eq!(memtable.entries(), model.len());
        for _ in 0..300 {
            let (key, at) = (random_key(&mut random), random.below(commits + 2));
            let found = memtable
                .get(&key, Timestamp(at))
                .map(|version| Owned::of(&version));
            assert_eq!(found, expected(&model, &key, at));
            let newest = expected(&model, &key, u64::MAX).map(|version| version.timestamp);
            assert_eq!(memtable.newest(&key), newest);
            let end = (!random.one_in(3)).then(|| random_key(&mut random));
            let newer = memtable.first_newer_in(&key, end.as_deref(), Timestamp(at));
            let mut keys = model.iter().filter(|((of, Reverse(timestamp)), _)| {
                *of >= key && end.as_ref().is_none_or(|end| of < end) && timestamp.0 > at
            });
            // The first one of a key is its newest.
            let first = keys.next().map(|((key, Reverse(at)), _)| (&key[..], *at));
            assert_eq!(newer, first);
        }
        walks_as_the_model(&mut random, &model, &mut memtable.cursor(), 400, commits);
        let mut left = Some(memtable);
        let mut steps = 0;
        while let Some(memtable) = left.take() {
            left = memtable.dismantle(2);
            steps += 1;
            assert!(steps < 10_000);
        }
        assert_eq!((pool.in_use(), pool.kept()), (0, pool.kept().min(4)));
    }
}

#[test]
fn a_walk_goes_on_by_key_while_others_put_in() {
    let mut random = Random::new(seed(11));
    let pool = ChunkPool::new(0);
    let mut memtable = memtable(&pool);
    let mut model = Model::new();
    let mut at = alloc::vec![0_u8];
    for commit in 1..5000 {
        let (key, version) = (random_key(&mut random), Owned::random(&mut random, commit));
        put(&mut memtable, &key, &version, false);
        model.insert((key, Reverse(version.timestamp)), version);
        let mut cursor = memtable.cursor();
        cursor.seek(&at, Timestamp(u64::MAX)).unwrap();
        let next = model
            .range((at.clone(), Reverse(Timestamp(u64::MAX)))..)
            .next();
        let found = cursor.current().map(|(key, _)| key.to_vec());
        assert_eq!(found, next.map(|((key, _), _)| key.clone()));
        at = found.map_or(alloc::vec![0], |mut key| {
            key.push(0);
            key
        });
    }
}

#[test]
fn what_nobody_sees_is_replaced_and_counts_as_before() {
    let mut random = Random::new(seed(12));
    let pool = ChunkPool::new(0);
    let mut memtable = memtable(&pool);
    // For each key: the share of the count that was told, and its versions, newest first.
    let mut told = alloc::collections::BTreeMap::<Vec<u8>, (i64, Vec<Owned>)>::new();
    for commit in 1..20_000 {
        let key = alloc::vec![random.next_u64().to_le_bytes()[0] % 8];
        let mut version = Owned::random(&mut random, commit);
        version
            .bytes
            .truncate(if version.kind == 1 { 40 } else { 300 });
        let (share, versions) = told.entry(key.clone()).or_default();
        let live = |version: &Owned| i64::from(version.kind != 0);
        version.below = versions
            .first()
            .map_or(random.one_in(2), |newest| newest.kind != 0);
        *share += live(&version) - i64::from(version.below);
        let reuse = random.one_in(2);
        let in_place =
            reuse && version.kind != 2 && versions.first().is_some_and(|old| old.kind != 2);
        assert_eq!(put(&mut memtable, &key, &version, reuse), in_place);
        if in_place {
            version.below = versions.remove(0).below;
        }
        versions.insert(0, version);
        assert_eq!(
            live(&versions[0]) - i64::from(versions.last().unwrap().below),
            *share
        );
        let at = random.below(commit + 2);
        let seen = versions.iter().find(|version| version.timestamp.0 <= at);
        let found = memtable
            .get(&key, Timestamp(at))
            .map(|version| Owned::of(&version));
        assert_eq!(found.as_ref(), seen);
    }
    let count = told
        .values()
        .map(|(_, versions)| versions.len())
        .sum::<usize>();
    assert_eq!(memtable.entries(), count);
}

#[test]
fn a_counter_that_nobody_looks_back_at_fills_no_memory() {
    let pool = ChunkPool::new(0);
    let mut memtable = memtable(&pool);
    put(&mut memtable, b"\x00n", &value(1, b"00000000", true), true);
    let before = memtable.memory_bytes();
    for commit in 2..100_000 {
        let bytes = alloc::format!("{commit:08}");
        assert!(put(
            &mut memtable,
            b"\x00n",
            &value(commit, bytes.as_bytes(), true),
            true
        ));
    }
    assert_eq!((memtable.memory_bytes(), memtable.entries()), (before, 1));
    assert_eq!(memtable.last(), Timestamp(99_999));
}

#[test]
fn a_version_behind_a_range_delete_says_itself_what_is_below() {
    let pool = ChunkPool::new(0);
    let mut memtable = memtable(&pool);
    put(&mut memtable, b"\x00k", &value(1, b"a", true), true);
    let ranges = core::iter::once((&b"\x00"[..], &b"\x01"[..]));
    memtable.reserve(core::iter::empty(), ranges).unwrap();
    memtable.delete_range(b"\x00", b"\x01", Timestamp(2));
    assert!(put(&mut memtable, b"\x00k", &value(3, b"b", false), true));
    assert!(!memtable.get(b"\x00k", Timestamp(3)).unwrap().below);
    assert_eq!(
        memtable.ranges().newest_covering(b"\x00k", Timestamp(9)),
        Some(Timestamp(2))
    );
    assert_eq!(
        (memtable.first(), memtable.last()),
        (Timestamp(0), Timestamp(3))
    );
}

#[test]
fn the_longest_keys_and_values_fit() {
    let pool = ChunkPool::new(0);
    let mut memtable = memtable(&pool);
    let key = |fill| alloc::vec![fill; ENGINE_KEY_BYTES_MAX];
    for fill in 0..5_u8 {
        let version = value(u64::from(fill) + 1, &[fill; INLINE_BYTES_MAX], false);
        put(&mut memtable, &key(fill), &version, false);
    }
    for fill in 0..5_u8 {
        let found = memtable.get(&key(fill), Timestamp(9)).unwrap();
        assert_eq!(found.content.bytes(), [fill; INLINE_BYTES_MAX]);
    }
    let too_long = alloc::vec![0; ENGINE_KEY_BYTES_MAX + 1];
    let entry = core::iter::once((&too_long[..], 0));
    assert_eq!(memtable.reserve(entry, none()), Err(OutOfMemory));
    let entry = core::iter::once((&b"k"[..], INLINE_BYTES_MAX + 1));
    assert_eq!(memtable.reserve(entry, none()), Err(OutOfMemory));
}

#[test]
fn a_commit_that_has_no_room_changes_nothing() {
    let pool = ChunkPool::new(0);
    for limit in 0..40 {
        pool.set_limit(limit);
        let mut memtable = memtable(&pool);
        let version = value(1, &[5; 1000], false);
        let keys = (0..2000_u32).map(u32::to_le_bytes).collect::<Vec<_>>();
        let entries = keys.iter().map(|key| (&key[..], 1000));
        let room = memtable.reserve(entries, none());
        // 2,000 × (1,000 bytes, key, heads) are a little more than 32 chunks.
        assert!(
            if limit < 32 {
                room.is_err()
            } else {
                limit < 35 || room.is_ok()
            },
            "{limit}"
        );
        if room.is_ok() {
            for key in &keys {
                memtable.insert(key, &version.as_ref(), false);
            }
            assert_eq!(memtable.entries(), 2000);
        } else {
            assert_eq!(memtable.entries(), 0);
            assert_eq!(memtable.get(&keys[0], Timestamp(1)), None);
            // A smaller one may have it, from what was taken.
            let one = memtable.reserve(core::iter::once((&b"k"[..], 5)), none());
            assert_eq!(one.is_ok(), limit > 0);
            assert_eq!(pool.used_bytes(), memtable.memory_bytes());
            memtable.give_back_reserved();
            assert_eq!((pool.used_bytes(), memtable.memory_bytes()), (0, 0));
        }
        drop(memtable);
        assert_eq!((pool.in_use(), pool.used_bytes()), (0, 0));
    }
}

#[test]
fn any_of_very_many_versions_is_found_in_few_steps() {
    let pool = ChunkPool::new(0);
    let mut memtable = memtable(&pool);
    let count = 100_000;
    for commit in 1..=count {
        put(
            &mut memtable,
            b"\x00n",
            &value(2 * commit, b"", true),
            false,
        );
    }
    // One by one, 20,000 lookups would go through 10⁹ versions.
    let mut random = Random::new(seed(13));
    for _ in 0..20_000 {
        let at = random.below(2 * count + 3);
        let found = memtable
            .get(b"\x00n", Timestamp(at))
            .map(|version| version.timestamp.0);
        assert_eq!(found, (at >= 2).then_some((at / 2 * 2).min(2 * count)));
    }
}

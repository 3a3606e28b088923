//! Each policy against a slow one written plainly; the cache against a map; hit ratios.

extern crate std;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use lfs::sim::Random;

use super::lfu::Lfu;
use super::sketch::Sketch;
use super::*;
use crate::testing::{random, short_key};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sized {
    number: u64,
    bytes: usize,
}

impl Cost for Sized {
    fn memory_bytes(&self) -> usize {
        self.bytes
    }
}

/// The slow policies: lists are vectors, oldest first.
trait Plain {
    fn inserted(&mut self, slot: u32, hash: u64, cost: u64);
    fn touched(&mut self, slot: u32);
    fn removed(&mut self, slot: u32);
    fn victim(&mut self) -> Option<u32>;
    fn queues(&mut self) -> Vec<&mut Queue>;

    fn moved(&mut self, from: u32, to: u32) {
        for entry in self.queues().into_iter().flatten() {
            if entry.slot == from {
                entry.slot = to;
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Entry {
    slot: u32,
    hash: u64,
    cost: u64,
    uses: u8,
}

type Queue = Vec<Entry>;

fn take(queue: &mut Queue, slot: u32) -> Option<Entry> {
    let at = queue.iter().position(|entry| entry.slot == slot)?;
    Some(queue.remove(at))
}

fn total(queue: &Queue) -> u64 {
    queue.iter().map(|entry| entry.cost).sum()
}

#[derive(Default)]
struct PlainLru(Queue);

impl Plain for PlainLru {
    fn inserted(&mut self, slot: u32, hash: u64, cost: u64) {
        self.0.push(Entry {
            slot,
            hash,
            cost,
            uses: 0,
        });
    }

    fn touched(&mut self, slot: u32) {
        let entry = take(&mut self.0, slot).unwrap();
        self.0.push(entry);
    }

    fn removed(&mut self, slot: u32) {
        take(&mut self.0, slot).unwrap();
    }

    fn victim(&mut self) -> Option<u32> {
        (!self.0.is_empty()).then(|| self.0.remove(0).slot)
    }

    fn queues(&mut self) -> Vec<&mut Queue> {
        alloc::vec![&mut self.0]
    }
}

#[derive(Default)]
struct PlainS3Fifo {
    small: Queue,
    main: Queue,
    /// All hashes that ever left, newest last.
    ghosts: Vec<u64>,
}

impl Plain for PlainS3Fifo {
    fn inserted(&mut self, slot: u32, hash: u64, cost: u64) {
        let remembered = self.main.len().max(self.small.len());
        let ghost = self
            .ghosts
            .iter()
            .rev()
            .take(remembered)
            .any(|ghost| *ghost == hash);
        let queue = if ghost {
            &mut self.main
        } else {
            &mut self.small
        };
        queue.push(Entry {
            slot,
            hash,
            cost,
            uses: 0,
        });
    }

    fn touched(&mut self, slot: u32) {
        let mut all = self.small.iter_mut().chain(&mut self.main);
        let entry = all.find(|entry| entry.slot == slot).unwrap();
        entry.uses = (entry.uses + 1).min(3);
    }

    fn removed(&mut self, slot: u32) {
        if take(&mut self.small, slot).is_none() {
            self.ghosts.push(take(&mut self.main, slot).unwrap().hash);
        }
    }

    fn victim(&mut self) -> Option<u32> {
        loop {
            let (small, main) = (total(&self.small), total(&self.main));
            if self.main.is_empty() || (!self.small.is_empty() && small * 10 >= small + main) {
                if self.small.is_empty() {
                    return None;
                }
                let mut oldest = self.small.remove(0);
                if oldest.uses == 0 {
                    self.ghosts.push(oldest.hash);
                    return Some(oldest.slot);
                }
                oldest.uses = 0;
                self.main.push(oldest);
            } else {
                let mut oldest = self.main.remove(0);
                if oldest.uses == 0 {
                    return Some(oldest.slot);
                }
                oldest.uses -= 1;
                self.main.push(oldest);
            }
        }
    }

    fn queues(&mut self) -> Vec<&mut Queue> {
        alloc::vec![&mut self.small, &mut self.main]
    }
}

#[derive(Default)]
struct PlainLfu {
    window: Queue,
    probation: Queue,
    protected: Queue,
    /// Held against exact counts in its own tests.
    sketch: Sketch,
}

impl Plain for PlainLfu {
    fn inserted(&mut self, slot: u32, hash: u64, cost: u64) {
        let entries = self.window.len() + self.probation.len() + self.protected.len();
        self.sketch.make_room(entries + 1);
        self.sketch.add(hash);
        let main = total(&self.probation) + total(&self.protected);
        let all = main + total(&self.window);
        while !self.window.is_empty() && total(&self.window) * 100 >= all {
            let oldest = self.window.remove(0);
            self.probation.push(oldest);
        }
        self.window.push(Entry {
            slot,
            hash,
            cost,
            uses: 0,
        });
    }

    fn touched(&mut self, slot: u32) {
        if let Some(entry) = take(&mut self.window, slot) {
            self.sketch.add(entry.hash);
            self.window.push(entry);
            return;
        }
        if let Some(entry) = take(&mut self.protected, slot) {
            self.sketch.add(entry.hash);
            self.protected.push(entry);
            return;
        }
        let entry = take(&mut self.probation, slot).unwrap();
        self.sketch.add(entry.hash);
        self.protected.push(entry);
        while total(&self.protected) * 5 > (total(&self.probation) + total(&self.protected)) * 4 {
            let oldest = self.protected.remove(0);
            self.probation.push(oldest);
        }
    }

    fn removed(&mut self, slot: u32) {
        assert!(
            self.queues()
                .into_iter()
                .any(|queue| take(queue, slot).is_some())
        );
    }

    fn victim(&mut self) -> Option<u32> {
        let main = total(&self.probation) + total(&self.protected);
        let oldest = self.probation.first().or(self.protected.first()).copied();
        let window = total(&self.window);
        let candidate = self.window.first().copied();
        let candidate = candidate.filter(|_| main == 0 || window * 100 >= window + main);
        let victim = match (candidate, oldest) {
            (Some(candidate), Some(oldest)) => {
                if self.sketch.count(candidate.hash) > self.sketch.count(oldest.hash) {
                    let candidate = self.window.remove(0);
                    self.probation.push(candidate);
                    oldest
                } else {
                    candidate
                }
            }
            (candidate, oldest) => candidate.or(oldest)?,
        };
        self.removed(victim.slot);
        Some(victim.slot)
    }

    fn queues(&mut self) -> Vec<&mut Queue> {
        alloc::vec![&mut self.window, &mut self.probation, &mut self.protected]
    }
}

fn agree(random: &mut Random, policy: &mut dyn Policy, plain: &mut dyn Plain) {
    let mut free: Vec<u32> = (0..60).rev().collect();
    let mut used = Vec::new();
    let mut victims = 0;
    for _ in 0..6000 {
        match random.below(10) {
            0..=3 if !free.is_empty() => {
                let slot = free.pop().unwrap();
                // Few hashes, so that they come back; spread so that each ghost has its place.
                let hash = random.below(120) * ((1 << 32) + 1);
                let cost = 1 + u32::try_from(random.below(40)).unwrap();
                assert!(policy.inserted(slot, hash, cost));
                plain.inserted(slot, hash, u64::from(cost));
                used.push(slot);
            }
            4..=6 if !used.is_empty() => {
                let slot = used[random.index(used.len())];
                policy.touched(slot);
                plain.touched(slot);
            }
            7 if !used.is_empty() => {
                let slot = used.swap_remove(random.index(used.len()));
                policy.removed(slot);
                plain.removed(slot);
                free.push(slot);
            }
            8 if !used.is_empty() && !free.is_empty() => {
                let (from, to) = (random.index(used.len()), random.index(free.len()));
                if free[to] < used[from] {
                    policy.moved(used[from], free[to]);
                    plain.moved(used[from], free[to]);
                    core::mem::swap(&mut used[from], &mut free[to]);
                }
            }
            _ => {
                let victim = policy.victim();
                assert_eq!(victim, plain.victim());
                assert_eq!(victim.is_none(), used.is_empty());
                if let Some(slot) = victim {
                    victims += 1;
                    used.retain(|used| *used != slot);
                    free.push(slot);
                }
            }
        }
    }
    assert!(victims > 500);
}

#[test]
fn policies_agree_with_plain_ones() {
    let mut random = random(9);
    for _ in 0..20 {
        agree(&mut random, &mut Lru::default(), &mut PlainLru::default());
        agree(
            &mut random,
            &mut S3Fifo::default(),
            &mut PlainS3Fifo::default(),
        );
        agree(&mut random, &mut Lfu::default(), &mut PlainLfu::default());
    }
}

fn any_policy(random: &mut Random) -> PolicyKind {
    [PolicyKind::S3Fifo, PolicyKind::Lru, PolicyKind::Lfu][random.index(3)]
}

/// What is found is what was put in last and not removed or hidden since; what it takes is what entries take, and never too much.
#[test]
fn finds_what_was_put_in_and_stays_within_its_bound() {
    let mut random = random(10);
    for _ in 0..40 {
        let mut bytes_max = random.index(40_000);
        let mut cache = Cache::new(any_policy(&mut random), bytes_max, random.next_u64());
        let mut model = BTreeMap::<(u8, Vec<u8>), Sized>::new();
        // Shared by some keys, so they are right, wrong, and behind the end.
        let hinting = [(); 16].map(|()| Hint::default());
        let (mut hits, mut by_hint, mut kept) = (0, 0, 0);
        for step in 0..4000 {
            let name = (
                random.next_u64().to_le_bytes()[0] % 3,
                short_key(&mut random, 4),
            );
            let number = name
                .1
                .iter()
                .fold(0, |sum, byte| sum * 8 + u64::from(*byte % 8));
            let key = match name.0 {
                0 => CacheKey::Row(&name.1),
                1 => CacheKey::Chunk(ObjectId(number / 7), number % 7),
                _ => CacheKey::Value(number),
            };
            match random.below(20) {
                0..=8 => {
                    let most = if random.one_in(50) { 60_000 } else { 600 };
                    let bytes = random.index(most);
                    let entry = Sized {
                        number: step,
                        bytes,
                    };
                    cache.insert(&key, entry);
                    model.insert(name, entry);
                }
                9..=16 => {
                    let peeked = cache.peek(&key).copied();
                    let hint = &hinting[usize::try_from(number).unwrap() % hinting.len()];
                    let place = cache.find(&key);
                    by_hint += usize::from(place == Some(hint.0.get()));
                    let found = cache.get_at(&key, hint).copied();
                    assert_eq!(found, peeked);
                    assert!(found.is_none() || place == Some(hint.0.get()));
                    if let Some(found) = found {
                        assert_eq!(Some(&found), model.get(&name));
                        hits += 1;
                    }
                }
                17 => {
                    cache.remove(&key);
                    assert_eq!(cache.peek(&key), None);
                    model.remove(&name);
                }
                18 if random.one_in(4) => {
                    let end = short_key(&mut random, 4);
                    cache.hide_rows(&name.1, &end);
                    model.retain(|(kind, key), _| *kind != 0 || *key < name.1 || *key >= end);
                }
                _ => match random.below(40) {
                    0 => {
                        cache.forget_rows();
                        model.retain(|(kind, _), _| *kind != 0);
                    }
                    1 => {
                        bytes_max = random.index(40_000);
                        while cache.resize(bytes_max, 3) {}
                    }
                    2..=4 => {
                        let entries = cache.stats().entries;
                        let kind = any_policy(&mut random);
                        cache.set_policy(kind);
                        assert_eq!((cache.policy(), cache.stats().entries), (kind, entries));
                        kept += entries;
                    }
                    _ => {}
                },
            }
            let stats = cache.stats();
            assert!(stats.bytes <= bytes_max, "{} of {bytes_max}", stats.bytes);
            if step % 64 == 0 {
                let used = (0..).map_while(|slot| cache.slots.get(slot));
                let costs = used.fold((0, 0), |(entries, bytes), used| {
                    (entries + 1, bytes + used.cost as usize)
                });
                assert_eq!(costs, (stats.entries, stats.bytes));
                assert_eq!(cache.slots.len() as usize, stats.entries);
                assert_eq!(
                    cache.shards.iter().map(HashTable::len).sum::<usize>(),
                    stats.entries
                );
            }
        }
        assert!(bytes_max < 2000 || hits > 0);
        assert!(bytes_max < 2000 || kept > 0);
        assert!(bytes_max < 2000 || by_hint > 0);
        while cache.resize(0, 100) {}
        assert_eq!((cache.stats().entries, cache.stats().bytes), (0, 0));
    }
}

#[test]
fn entries_outlive_a_change_of_policy() {
    for (from, to) in [
        (PolicyKind::S3Fifo, PolicyKind::Lru),
        (PolicyKind::Lru, PolicyKind::Lfu),
    ] {
        let mut cache = Cache::new(from, 1 << 20, 1);
        for number in 0..1000 {
            cache.insert(&CacheKey::Value(number), Sized { number, bytes: 100 });
        }
        cache.set_policy(to);
        assert!(cache.take_over(10) && !cache.is_settled());
        for number in 0..1000 {
            assert!(cache.get(&CacheKey::Value(number)).is_some());
        }
        assert!(!cache.take_over(1000) && cache.is_settled());
        cache.set_policy(from);
        cache.take_over(10);
        // Before the last change is through.
        cache.set_policy(to);
        assert_eq!((cache.policy(), cache.kind), (to, from));
        while cache.take_over(100) {}
        assert_eq!((cache.policy(), cache.kind), (to, to));
        for number in 0..1000 {
            assert!(cache.peek(&CacheKey::Value(number)).is_some());
        }
    }
}

#[test]
fn rows_that_were_not_checked_for_too_long_are_gone() {
    let mut cache = Cache::new(PolicyKind::Lru, 1 << 20, 1);
    let entry = Sized {
        number: 0,
        bytes: 10,
    };
    let keys: [&[u8]; 2] = [b"x1", b"x2"];
    for key in keys {
        cache.insert(&CacheKey::Row(key), entry);
    }
    cache.insert(&CacheKey::Value(1), entry);
    for _ in 0..HIDDEN_MAX {
        cache.hide_rows(b"a", b"b");
    }
    assert!(cache.get(&CacheKey::Row(keys[0])).is_some());
    cache.hide_rows(b"a", b"b");
    assert!(cache.get(&CacheKey::Row(keys[0])).is_some());
    assert!(cache.get(&CacheKey::Row(keys[1])).is_none());
    let long = alloc::vec![b'a'; 60_000];
    for _ in 0..100 {
        cache.hide_rows(&long, b"b");
    }
    assert!(cache.hidden.bytes <= HIDDEN_BYTES_MAX);
    assert!(cache.get(&CacheKey::Row(keys[0])).is_none());
    assert!(cache.get(&CacheKey::Value(1)).is_some(), "only rows");
}

#[test]
fn a_step_evicts_no_more_than_it_may() {
    let mut cache = Cache::new(PolicyKind::S3Fifo, 1 << 20, 1);
    let small = Sized {
        number: 0,
        bytes: 0,
    };
    for number in 0..5000 {
        cache.insert(&CacheKey::Value(number), small);
    }
    let large = Sized {
        number: 1,
        bytes: 1 << 19,
    };
    cache.insert(&CacheKey::Value(9999), large);
    assert_eq!(cache.stats().evicted, VICTIMS_MAX as u64);
    assert!(cache.peek(&CacheKey::Value(9999)).is_none());
    // The next ones go on making room.
    while cache.peek(&CacheKey::Value(9999)).is_none() {
        cache.insert(&CacheKey::Value(9999), large);
    }
}

/// Keys to ask for, by number.
type Trace = Vec<u64>;

/// Zipf's law: the key of rank r is asked for in proportion to 1/r^0.99.
fn zipf(random: &mut Random, keys: u64, count: usize) -> Trace {
    let mut sum = 0.0;
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    let sums: Vec<f64> = (1..=keys)
        .map(|rank| {
            sum += (rank as f64).powf(-0.99);
            sum
        })
        .collect();
    let mut trace = Vec::with_capacity(count);
    for _ in 0..count {
        #[expect(clippy::cast_precision_loss, reason = "any number will do")]
        let at = random.below(1 << 52) as f64 / (1_u64 << 52) as f64 * sum;
        trace.push(sums.partition_point(|sum| *sum < at) as u64);
    }
    trace
}

/// The share of `trace` that a cache of `entries` entries has, per mille.
fn hits(kind: PolicyKind, entries: usize, trace: &Trace) -> u64 {
    let mut cache = Cache::new(kind, entries * (ENTRY_BYTES + 100), 1);
    for number in trace {
        let key = CacheKey::Value(*number);
        if cache.get(&key).is_none() {
            let entry = Sized {
                number: *number,
                bytes: 100,
            };
            cache.insert(&key, entry);
        }
    }
    cache.stats().values.hits * 1000 / trace.len() as u64
}

/// Ten thousand keys, room for a tenth of them. Prints the table that `ENGINE.md` has.
#[test]
fn hit_ratios_are_as_expected() {
    const KEYS: u64 = 10_000;
    const ROOM: usize = 1000;
    const COUNT: usize = 200_000;
    let mut random = random(11);
    let plain = zipf(&mut random, KEYS, COUNT);
    let mut scans = Trace::new();
    for (at, key) in plain.iter().enumerate() {
        if at % 10_000 == 0 {
            // 2,000 keys, each of which is asked for once.
            let first = KEYS + at as u64;
            scans.extend(first..first + 2000);
        }
        scans.push(*key);
    }
    let looped = (0..COUNT as u64).map(|at| at % 1500).collect::<Trace>();
    // Each tenth of the time other keys are hot: 500 of them, four times in five.
    let moving = (0..COUNT).map(|at| {
        if random.below(5) < 4 {
            (at * 10 / COUNT) as u64 * 500 + random.below(500)
        } else {
            random.below(KEYS)
        }
    });
    let moving = moving.collect::<Trace>();
    let mut table = BTreeMap::new();
    let traces = [
        ("Zipf", &plain),
        ("Zipf and scans", &scans),
        ("loop", &looped),
        ("moving", &moving),
    ];
    std::println!("| hits in thousandths | S3-FIFO | LRU | LFU |");
    for (name, trace) in traces {
        let of = |kind| hits(kind, ROOM, trace);
        let [s3fifo, lru, lfu] = [PolicyKind::S3Fifo, PolicyKind::Lru, PolicyKind::Lfu].map(of);
        std::println!("| {name} | {s3fifo} | {lru} | {lfu} |");
        table.insert(name, (s3fifo, lru, lfu));
    }
    // Belady's bound for the law itself: the thousand most frequent keys.
    let hot = plain.iter().filter(|key| **key < ROOM as u64).count() * 1000 / COUNT;
    std::println!("| Zipf, the hottest kept | {hot} |");
    let (s3fifo, lru, lfu) = table["Zipf"];
    assert!(s3fifo > lru && lfu > lru && lfu <= hot as u64);
    let (s3fifo, lru, lfu) = table["Zipf and scans"];
    assert!(s3fifo > lru + 20 && lfu > lru + 20);
    let (s3fifo, lru, lfu) = table["loop"];
    assert!(lru == 0 && lfu > 300 && s3fifo >= lru);
    let (s3fifo, lru, _) = table["moving"];
    assert!(s3fifo + 30 > lru);
    let used: BTreeSet<&u64> = plain.iter().collect();
    assert!(used.len() > 5 * ROOM, "the trace is larger than the cache");
}

/// What entries are found by and kept in order by goes with them: else a cache would hand on only a part of what it gives up.
#[test]
fn a_cache_that_shrinks_gives_all_memory_back() {
    for kind in [PolicyKind::S3Fifo, PolicyKind::Lru, PolicyKind::Lfu] {
        let mut cache = Cache::new(kind, 16 << 20, 1);
        for number in 0..50_000 {
            cache.insert(&CacheKey::Value(number), Sized { number, bytes: 0 });
        }
        let places = |cache: &Cache<Sized>| {
            let listed = cache.shards.iter().map(HashTable::capacity);
            (cache.slots.len() as usize, listed.sum::<usize>())
        };
        let (slots, listed) = places(&cache);
        assert_eq!(slots, 50_000);
        assert!(listed >= slots);
        cache.resize(100 * ENTRY_BYTES, usize::MAX);
        let (slots, listed) = places(&cache);
        assert_eq!(slots, 100);
        // Of each of the small tables a few places stay.
        assert!(listed < 8 * SHARDS, "{listed}");
        for number in 0..50_000 {
            if let Some(entry) = cache.get(&CacheKey::Value(number)) {
                assert_eq!(entry.number, number);
            }
        }
        assert_eq!(cache.stats().values.hits, 100);
    }
}

/// Chunks of a replaced table that were used often would stay longer than those of the table that took its place, which are asked for.
#[test]
fn chunks_of_tables_that_are_gone_are_removed_and_no_others() {
    let mut random = random(23);
    for kind in [PolicyKind::S3Fifo, PolicyKind::Lru, PolicyKind::Lfu] {
        let mut cache = Cache::new(kind, 1 << 20, 7);
        let key_of = |number: u64| match number % 4 {
            0 => CacheKey::Value(number),
            table => CacheKey::Chunk(ObjectId(table), number),
        };
        let mut add = |cache: &mut Cache<Sized>, number| {
            let bytes = random.index(100);
            cache.insert_used(&key_of(number), Sized { number, bytes });
        };
        (0..1000).for_each(|number| add(&mut cache, number));
        assert!(!cache.forget(1), "nothing is gone");
        cache.forget_table(ObjectId(1));
        let mut steps = 0;
        while cache.forget(16) {
            steps += 1;
            // One more goes, and others come, while it is being looked.
            if steps == 20 {
                cache.forget_table(ObjectId(2));
            }
            add(&mut cache, 1000 + 4 * steps);
            assert!(steps < 200 && !cache.is_settled());
        }
        assert!(steps >= 20 && cache.is_settled());
        for number in 0..1000 {
            let is_gone = matches!(number % 4, 1 | 2);
            assert_eq!(cache.peek(&key_of(number)).is_none(), is_gone, "{number}");
        }
    }
}

/// Who could as well ask for something else misses nothing, and what is looked for ahead is not used by that.
#[test]
fn looking_is_no_use_and_no_miss() {
    let mut cache = Cache::new(PolicyKind::Lru, 10 * ENTRY_BYTES, 7);
    for number in 0..10 {
        cache.insert(&CacheKey::Value(number), Sized { number, bytes: 0 });
    }
    let looked = core::cell::RefCell::new(Vec::new());
    let keys = (0..20).rev().map(CacheKey::Value);
    cache.look_ahead(keys, |entry| {
        looked.borrow_mut().push(entry.number);
        0
    });
    assert_eq!(looked.into_inner(), (0..10).rev().collect::<Vec<_>>());
    let mut found = |number, is_wanted| {
        let entry = cache.get_if(&CacheKey::Value(number), |_| is_wanted);
        entry.map(|entry| entry.number)
    };
    assert_eq!(found(0, true), Some(0));
    assert_eq!(found(1, false), None);
    assert_eq!(found(50, true), None);
    assert_eq!(cache.stats().values, Asked { hits: 1, misses: 0 });
    // The one that was used stays.
    cache.insert(
        &CacheKey::Value(10),
        Sized {
            number: 10,
            bytes: 0,
        },
    );
    let is_there = |number| cache.peek(&CacheKey::Value(number)).is_some();
    assert!(is_there(0) && !is_there(1));
}

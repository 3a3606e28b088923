//! Tables against an ordered map, through a source that misses.

use core::cell::{Cell, RefCell};
use core::cmp::Reverse;
use core::ops::Range;
use std::collections::HashMap;

extern crate std;

use super::*;
use crate::engine::testing::{Model, Owned, Random, random_key, seed, walks_as_the_model};
use crate::engine::types::{
    Content, Cursor, ENGINE_KEY_BYTES_MAX, Malformed, NEVER, Piece, VersionRef,
};

/// Objects, and which of their chunks are in memory.
pub(crate) struct Chunks {
    objects: RefCell<Vec<Vec<u8>>>,
    cache: RefCell<HashMap<(u64, u64), Cached>>,
    misses: Cell<usize>,
    most_ahead: Cell<u32>,
}

impl Chunks {
    pub(crate) fn new() -> Self {
        Self {
            objects: RefCell::default(),
            cache: RefCell::default(),
            misses: Cell::new(0),
            most_ahead: Cell::new(0),
        }
    }

    /// From now on everything is missing.
    pub(crate) fn evict(&self) {
        self.cache.borrow_mut().clear();
    }

    /// Takes in what was written.
    pub(crate) fn add(&self, sink: Segments) -> ObjectId {
        let mut objects = self.objects.borrow_mut();
        objects.push(sink.bytes);
        ObjectId(objects.len() as u64 - 1)
    }

    fn read(&self, table: ObjectId, at: ChunkRef) -> Vec<u8> {
        let objects = self.objects.borrow();
        let start = usize::try_from(at.offset).unwrap();
        objects[usize::try_from(table.0).unwrap()][start..start + at.len as usize].to_vec()
    }
}

impl ChunkSource for Chunks {
    fn chunk(
        &self,
        table: ObjectId,
        chunk: &ListedChunk,
        kind: ChunkKind,
        ahead: u32,
    ) -> Result<Cached, Missing> {
        let at = chunk.at();
        if let Some(chunk) = self.cache.borrow().get(&(table.0, at.offset)) {
            return Ok(chunk.clone());
        }
        self.misses.set(self.misses.get() + 1);
        self.most_ahead.set(self.most_ahead.get().max(ahead));
        // It is there for the next attempt.
        let chunk = Cached::parse(kind, self.read(table, at)).unwrap();
        assert!(chunk.memory_bytes() <= 1 << 20);
        self.cache.borrow_mut().insert((table.0, at.offset), chunk);
        Err(Missing)
    }
}

/// An object of whole segments, of which a table should fill some.
pub(crate) struct Segments {
    bytes: Vec<u8>,
    segment: usize,
    wanted: usize,
}

impl Segments {
    pub(crate) fn new(segment: usize, wanted: usize) -> Self {
        Self {
            bytes: Vec::new(),
            segment,
            wanted,
        }
    }

    fn count(&self) -> usize {
        self.bytes.len().div_ceil(self.segment)
    }
}

impl ChunkSink for Segments {
    fn put(&mut self, _: ChunkKind, bytes: &[u8]) -> Result<ChunkRef, OutOfMemory> {
        assert!(
            (1..=CHUNK_BYTES_MAX).contains(&bytes.len()),
            "{}",
            bytes.len()
        );
        let left = self.segment - self.bytes.len() % self.segment;
        let len = bytes.len() + 8;
        if len > left && len <= self.segment {
            self.bytes.resize(self.bytes.len() + left, 0);
        }
        self.bytes.extend_from_slice(&[0; 8]);
        let offset = self.bytes.len() as u64;
        self.bytes.extend_from_slice(bytes);
        let len = u32::try_from(bytes.len()).unwrap();
        Ok(ChunkRef { offset, len })
    }

    fn room(&self) -> u64 {
        let end = self.count().max(self.wanted) * self.segment;
        (end - self.bytes.len()) as u64
    }
}

/// Ends a table, which is then one of `chunks`.
pub(crate) fn finished(
    chunks: &Chunks,
    mut sink: Segments,
    builder: TableBuilder,
    from: &[u8],
    to: Option<&[u8]>,
    ranges: &RangeSet,
) -> TableRef {
    let summary = builder.finish(&mut sink, from, to, ranges).unwrap();
    TableRef {
        object: chunks.add(sink),
        bytes: 0,
        head: summary.head.into(),
        from: from.into(),
        to: to.map(Into::into),
        stats: summary.stats,
        dropped: Dropped::Pending,
    }
}

/// One table of all of `model`, as long as it gets.
pub(crate) fn table_of(chunks: &Chunks, model: &Model, ranges: &RangeSet) -> TableRef {
    part_of(chunks, model, ranges, &[], None)
}

/// As [`table_of`], of what is between two keys, with nothing else in it.
pub(crate) fn part_of(
    chunks: &Chunks,
    model: &Model,
    ranges: &RangeSet,
    from: &[u8],
    to: Option<&[u8]>,
) -> TableRef {
    let mut sink = Segments::new(4 << 20, 1000);
    let mut builder = TableBuilder::new(5, true);
    for ((key, _), version) in model {
        if from <= &key[..] && to.is_none_or(|to| &key[..] < to) {
            let pushed = builder.push(&mut sink, key, &version.as_ref()).unwrap();
            assert_eq!(pushed, Pushed::Taken);
        }
    }
    finished(chunks, sink, builder, from, to, ranges)
}

pub(crate) fn random_model(random: &mut Random, entries: usize, newest: u64) -> Model {
    let mut model = Model::new();
    for _ in 0..entries {
        let timestamp = 1 + random.below(newest);
        let version = Owned::random(random, timestamp);
        // Some keys have very many versions.
        let key = if random.one_in(3) {
            alloc::vec![b'a']
        } else {
            random_key(random)
        };
        model.insert((key, Reverse(version.timestamp)), version);
    }
    model
}

/// The call's answer once everything is there, which takes few attempts.
pub(crate) fn retried<T>(
    chunks: &Chunks,
    attempts: usize,
    mut call: impl FnMut() -> Result<T, Missing>,
) -> T {
    for _ in 0..attempts {
        if let Ok(answer) = call() {
            return answer;
        }
    }
    panic!("{} misses and no end", chunks.misses.get());
}

#[test]
fn answers_as_a_map_when_everything_misses() {
    let mut random = Random::new(seed(40));
    for round in 0..40 {
        let entries = [1, 50, 1000, 6000][round % 4];
        let newest = [20, 100_000][random.index(2)];
        let mut model = random_model(&mut random, entries, newest);
        let chunks = Chunks::new();
        let table = {
            let mut table = table_of(&chunks, &model, &RangeSet::default());
            // Some of it may have moved.
            if random.one_in(2) {
                let (one, other) = (random_key(&mut random), random_key(&mut random));
                let (from, to) = (one.clone().min(other.clone()), one.max(other));
                model.retain(|(key, _), _| from <= *key && *key < to);
                (table.from, table.to) = (from.into(), Some(to.into()));
            }
            table
        };
        for _ in 0..100 {
            if random.one_in(4) {
                chunks.evict();
            }
            let (key, at) = (random_key(&mut random), Timestamp(random.below(newest + 2)));
            // Head, filter, partition, block; and where the key goes on, those of the next one.
            let found = retried(&chunks, 8, || table_get(&table, &chunks, &key, at));
            let found = found.map(|found| Owned::of(&found.version()));
            let expected = model.range((key.clone(), Reverse(at))..).next();
            let expected = expected.filter(|((of, _), _)| *of == key);
            assert_eq!(found.as_ref(), expected.map(|(_, version)| version));
        }
        chunks.evict();
        for _ in 0..20 {
            let mut cursor = TableCursor::new(&table, &chunks);
            assert!(cursor.current().is_none());
            walks_as_the_model(&mut random, &model, &mut cursor, 40, newest);
            if random.one_in(3) {
                chunks.evict();
            }
        }
    }
}

#[test]
fn a_scan_through_all_of_it_reads_ahead_and_gives_all_of_it() {
    let mut random = Random::new(seed(41));
    let model = random_model(&mut random, 30_000, 1 << 40);
    let chunks = Chunks::new();
    let table = table_of(&chunks, &model, &RangeSet::default());
    let mut cursor = TableCursor::new(&table, &chunks);
    retried(&chunks, 8, || cursor.seek(&[], Timestamp(u64::MAX)));
    for ((key, _), version) in &model {
        let (found, here) = cursor.current().unwrap();
        assert_eq!((found, Owned::of(&here)), (&key[..], version.clone()));
        retried(&chunks, 8, || cursor.next());
    }
    assert!(cursor.current().is_none());
    assert_eq!(chunks.most_ahead.get(), 32);
    let head = Head::parse(&chunks.read(table.object, table.head.at())).unwrap();
    assert_eq!(head.stats(), &table.stats);
    assert_eq!(table.stats.entries, model.len() as u64);
    let tombstones = model.values().filter(|version| version.kind == 0).count();
    assert_eq!(table.stats.tombstones, tombstones as u64);
    let expiries = model.values().map(|version| version.expires_at_ms);
    let expiring = expiries.clone().filter(|at| *at != NEVER);
    assert_eq!(table.stats.expiring, expiring.clone().count() as u64);
    assert_eq!(table.stats.least_expiry_ms, expiring.min().unwrap());
    let by_database = head.expiring().iter().map(|(_, count)| count).sum::<u64>();
    assert_eq!(by_database, table.stats.expiring);
    let times = model.keys().map(|(_, Reverse(timestamp))| *timestamp);
    assert_eq!(table.stats.greatest_timestamp, times.clone().max().unwrap());
    assert_eq!(table.stats.least_timestamp, times.min().unwrap());
}

#[test]
fn tables_fill_whole_segments_and_are_cut_between_keys() {
    let mut random = Random::new(seed(42));
    for (segment, wanted) in [(32 << 10, 1), (32 << 10, 16), (256 << 10, 2), (2 << 20, 1)] {
        let chunks = Chunks::new();
        let mut sink = Segments::new(segment, wanted);
        let mut builder = TableBuilder::new(1, false);
        let mut cut: Vec<(Segments, Vec<u8>, Vec<u8>)> = Vec::new();
        let mut last = Vec::new();
        for number in 0..(segment * wanted / 10) as u64 {
            let key = [&[0][..], &number.to_be_bytes()].concat();
            for version in 0..=random.below(2) {
                let mut version = Owned::random(&mut random, 10 - version);
                version
                    .bytes
                    .truncate(if version.kind == 1 { 100 } else { 300 });
                if builder.push(&mut sink, &key, &version.as_ref()).unwrap() == Pushed::Full {
                    assert_ne!(builder.last_key(), key, "a key is in one table");
                    let bound = separator(builder.last_key(), &key).to_vec();
                    let full = core::mem::replace(&mut builder, TableBuilder::new(1, false));
                    let mut object = core::mem::replace(&mut sink, Segments::new(segment, wanted));
                    full.finish(&mut object, &[], None, &RangeSet::default())
                        .unwrap();
                    cut.push((object, last, bound.clone()));
                    last = bound;
                    builder.push(&mut sink, &key, &version.as_ref()).unwrap();
                }
            }
        }
        assert!(!cut.is_empty());
        for (object, from, to) in &cut {
            assert_eq!(object.count(), wanted, "none goes on in a segment more");
            assert!(from < to);
            let unused = wanted * segment - object.bytes.len();
            // A block, what is set aside for the gap before a chunk, and for separators.
            assert!(unused <= 16 << 10, "{unused} of {segment}");
        }
        drop(chunks);
    }
}

/// Says of each block whether it is compressed.
#[derive(Default)]
struct Compressed(Vec<bool>);

impl ChunkSink for Compressed {
    fn put(&mut self, kind: ChunkKind, bytes: &[u8]) -> Result<ChunkRef, OutOfMemory> {
        if kind == ChunkKind::Block {
            self.0.push(bytes[0] != lfs::Algorithm::None.number());
        }
        Ok(ChunkRef { offset: 0, len: 1 })
    }

    fn room(&self) -> u64 {
        u64::MAX
    }
}

/// Few of many blocks that cannot be compressed are tried, and soon after them those that can be are found.
#[test]
fn compression_is_given_up_and_taken_up_again() {
    let mut random = Random::new(seed(46));
    let (mut sink, mut builder) = (Compressed::default(), TableBuilder::new(1, true));
    let mut of = Vec::new();
    // Whether they can be, and how many blocks, of one value each.
    for (can_be, blocks) in [
        (true, 20),
        (false, 100),
        (true, 100),
        (false, 3),
        (true, 20),
    ] {
        for _ in 0..blocks {
            let mut bytes = alloc::vec![b'a'; 8000];
            if !can_be {
                bytes.fill_with(|| random.next_u64().to_le_bytes()[0]);
            }
            let version = VersionRef {
                timestamp: Timestamp(1),
                expires_at_ms: NEVER,
                below: false,
                content: Content::Inline(&bytes),
            };
            let key = u32::try_from(of.len()).unwrap().to_be_bytes();
            builder.push(&mut sink, &key, &version).unwrap();
            of.push(can_be);
        }
    }
    builder
        .finish(&mut sink, &[], None, &RangeSet::default())
        .unwrap();
    assert_eq!(sink.0.len(), of.len());
    let stretch = |from: usize, blocks: usize| &sink.0[from..from + blocks];
    let count = |blocks: &[bool]| blocks.iter().filter(|is| **is).count();
    assert_eq!(count(stretch(0, 20)), 20);
    assert_eq!(count(stretch(20, 100)), 0);
    let after = stretch(120, 100);
    let first = after.iter().position(|is| *is).unwrap();
    assert!((1..8).contains(&first), "{first}: it was given up");
    assert_eq!(count(after), 100 - first);
    // A few are no reason to give up.
    assert_eq!(count(stretch(223, 20)), 20);
}

#[test]
fn a_key_of_very_many_versions_is_one_table() {
    let chunks = Chunks::new();
    let mut model = Model::new();
    for timestamp in 1..=10_000 {
        let version = Owned {
            timestamp: Timestamp(timestamp),
            expires_at_ms: NEVER,
            below: true,
            kind: 1,
            bytes: alloc::vec![1; 400],
        };
        model.insert((b"\x00n".to_vec(), Reverse(version.timestamp)), version);
    }
    let mut sink = Segments::new(32 << 10, 1);
    let mut builder = TableBuilder::new(1, false);
    for ((key, _), version) in &model {
        let pushed = builder.push(&mut sink, key, &version.as_ref()).unwrap();
        assert_eq!(pushed, Pushed::Taken);
    }
    // It has the rest of its segment filled, and is full then.
    let mut others = 0_u32;
    let other = Owned::random(&mut Random::new(1), 1);
    while builder.push(
        &mut sink,
        &[b"\x00o", &others.to_be_bytes()[..]].concat(),
        &other.as_ref(),
    ) == Ok(Pushed::Taken)
    {
        others += 1;
    }
    assert!(others < 32 << 10);
    let table = finished(&chunks, sink, builder, &[], None, &RangeSet::default());
    for at in (0..=10_001).step_by(7) {
        let found = retried(&chunks, 8, || {
            table_get(&table, &chunks, b"\x00n", Timestamp(at))
        });
        let found = found.map(|found| found.version().timestamp.0);
        assert_eq!(found, (at > 0).then_some(at.min(10_000)));
    }
    // Warm, a read needs none of the blocks but its own; cold, four chunks.
    chunks.evict();
    chunks.misses.set(0);
    retried(&chunks, 8, || {
        table_get(&table, &chunks, b"\x00n", Timestamp(5000))
    });
    assert_eq!(chunks.misses.get(), 4);
    // Of one that is not there, the filter is all that is asked for.
    retried(&chunks, 8, || {
        table_get(&table, &chunks, b"\x00m", Timestamp(5000))
    });
    assert_eq!(chunks.misses.get(), 5);
}

#[test]
fn the_longest_keys_make_tables() {
    // Keys that share nearly all, nearly nothing, or by turns.
    for shape in 0..3_u8 {
        let chunks = Chunks::new();
        let mut model = Model::new();
        for number in 0..60_u8 {
            let mut key = alloc::vec![7; ENGINE_KEY_BYTES_MAX];
            match shape {
                0 => key[ENGINE_KEY_BYTES_MAX - 1] = number,
                1 => key[1] = number,
                _ => {
                    key[1] = number / 2;
                    key[ENGINE_KEY_BYTES_MAX - 2] = number;
                }
            }
            let version = Owned::random(&mut Random::new(u64::from(number)), u64::from(number));
            model.insert((key, Reverse(version.timestamp)), version);
        }
        let mut tables = Vec::new();
        let mut from = Vec::new();
        let new = || (Segments::new(2 << 20, 1), TableBuilder::new(3, true));
        let (mut sink, mut builder) = new();
        for ((key, _), version) in &model {
            if builder.push(&mut sink, key, &version.as_ref()).unwrap() == Pushed::Full {
                let to = separator(builder.last_key(), key).to_vec();
                tables.push(finished(
                    &chunks,
                    sink,
                    builder,
                    &from,
                    Some(&to),
                    &RangeSet::default(),
                ));
                from = to;
                (sink, builder) = new();
                let pushed = builder.push(&mut sink, key, &version.as_ref()).unwrap();
                assert_eq!(pushed, Pushed::Taken);
            }
        }
        tables.push(finished(
            &chunks,
            sink,
            builder,
            &from,
            None,
            &RangeSet::default(),
        ));
        // A head has no room for many long separators that share nothing.
        let most = [4, 4, 32][usize::from(shape)];
        assert!(tables.len() <= most, "{shape}: {}", tables.len());
        for ((key, Reverse(at)), version) in &model {
            let table = tables.iter().find(|table| table.has(key)).unwrap();
            let found = retried(&chunks, 8, || table_get(table, &chunks, key, *at));
            assert_eq!(Owned::of(&found.unwrap().version()), *version);
        }
    }
}

#[test]
fn range_deletes_are_those_between_the_bounds() {
    let mut random = Random::new(seed(43));
    for round in 0..60 {
        let mut ranges = RangeSet::default();
        for _ in 0..[0, 1, 20, 3000][round % 4] {
            let (one, other) = (random_key(&mut random), random_key(&mut random));
            let (start, end) = (one.clone().min(other.clone()), one.max(other));
            ranges.reserve(1, start.len() + end.len()).unwrap();
            ranges.insert(&start, &end, Timestamp(1 + random.below(50)));
        }
        let chunks = Chunks::new();
        let (from, to) = (random_key(&mut random), random_key(&mut random));
        let (from, to) = (from.clone().min(to.clone()), from.max(to));
        let sink = Segments::new(2 << 20, 1);
        let table = finished(
            &chunks,
            sink,
            TableBuilder::new(1, true),
            &from,
            Some(&to),
            &ranges,
        );
        let covering = TableRanges {
            table: &table,
            source: &chunks,
        };
        let keys = (0..40).map(|_| random_key(&mut random)).collect::<Vec<_>>();
        for key in &keys {
            let at = Timestamp(random.below(52));
            let mut until = Vec::new();
            let expected = |key: &[u8]| ranges.newest_covering(key, at).filter(|_| table.has(key));
            let (newest, bounded) = retried(&chunks, 200, || {
                covering.covering_until(key, at, &mut until)
            });
            assert_eq!(newest, expected(key));
            for other in &keys {
                if key <= other && table.has(other) && !(bounded && *other >= until) {
                    assert_eq!(expected(other), newest);
                }
            }
            assert!(!bounded || !table.has(key) || until > *key);
        }
    }
}

#[test]
fn dropped_slots_are_listed_in_order_and_joined() {
    let mut random = Random::new(seed(44));
    for round in 0..30 {
        let mut slots = Vec::new();
        let mut next = random.below(1000);
        for _ in 0..[0, 1, 100, 20_000][round % 4] {
            let bytes = 1 + u32::try_from(random.below(300_000)).unwrap();
            let piece = Piece { slot: next, bytes };
            slots.push(piece);
            next += piece.slots() + random.below(3);
        }
        let mut expected: Vec<Range<u64>> = Vec::new();
        for piece in &slots {
            let end = piece.slot + piece.slots();
            match expected.last_mut() {
                Some(last) if last.end == piece.slot => last.end = end,
                _ => expected.push(piece.slot..end),
            }
        }
        let mut builder = TableBuilder::new(1, true);
        while !slots.is_empty() {
            let piece = slots.swap_remove(random.index(slots.len()));
            builder.drop_pieces(&[piece]).unwrap();
        }
        assert_eq!(builder.is_empty(), expected.is_empty());
        let chunks = Chunks::new();
        let sink = Segments::new(2 << 20, 1);
        let table = finished(&chunks, sink, builder, &[], None, &RangeSet::default());
        let head = Head::parse(&chunks.read(table.object, table.head.at())).unwrap();
        let mut found: Vec<Range<u64>> = Vec::new();
        for at in head.dropped() {
            let dropped = DroppedSlots::parse(chunks.read(table.object, *at)).unwrap();
            found.extend(dropped.iter());
        }
        assert_eq!(found, expected);
        let count = expected
            .iter()
            .map(|slots| slots.end - slots.start)
            .sum::<u64>();
        assert_eq!(table.stats.dropped_slots, count);
    }
}

#[test]
fn hostile_chunks_are_refused_or_bounded() {
    let mut random = Random::new(seed(45));
    let model = random_model(&mut random, 3000, 1000);
    let mut ranges = RangeSet::default();
    ranges.reserve(1, 2).unwrap();
    ranges.insert(b"a", b"b", Timestamp(7));
    let chunks = Chunks::new();
    let mut sink = Segments::new(4 << 20, 1);
    let mut builder = TableBuilder::new(5, true);
    for ((key, _), version) in &model {
        builder.push(&mut sink, key, &version.as_ref()).unwrap();
    }
    for slot in 0..50 {
        builder
            .drop_pieces(&[Piece {
                slot: 5 * slot,
                bytes: 9,
            }])
            .unwrap();
    }
    let table = finished(&chunks, sink, builder, &[], None, &ranges);
    let good = Head::parse(&chunks.read(table.object, table.head.at())).unwrap();
    let partitions = good.partitions.as_ref().unwrap();
    let [partition, _] = partitions.chunks(0);
    for (kind, at) in [
        (ChunkKind::Head, table.head.at()),
        (ChunkKind::Partition, partition.at()),
        (ChunkKind::Ranges, good.ranges()[0].chunk().at()),
        (ChunkKind::Dropped, good.dropped()[0]),
    ] {
        let bytes = chunks.read(table.object, at);
        assert!(Cached::parse(kind, bytes.clone()).is_ok());
        let look = |bytes: Vec<u8>| {
            if let Ok(chunk) = Cached::parse(kind, bytes) {
                assert!(chunk.memory_bytes() <= 1 << 20);
                if let Cached::Dropped(dropped) = chunk {
                    assert!(dropped.iter().all(|slots| slots.start < slots.end));
                }
            }
        };
        for cut in 0..bytes.len() {
            look(bytes[..cut].to_vec());
            for bit in 0..8 {
                let mut bent = bytes.clone();
                bent[cut] ^= 1 << bit;
                look(bent);
            }
        }
    }
    // A count that nothing stands behind.
    let mut bytes = chunks.read(table.object, table.head.at());
    bytes.truncate(9 + 13);
    bytes[9..].fill(0);
    bytes.extend_from_slice(&[0xFF, 0xFF, 0xFF, 0xFF, 0x0F]);
    assert_eq!(Head::parse(&bytes).err(), Some(Malformed.into()));
}

#[test]
fn walks_over_chunks_that_do_not_agree_end() {
    let mut random = Random::new(seed(46));
    let model = random_model(&mut random, 3000, 1000);
    let chunks = Chunks::new();
    let table = table_of(&chunks, &model, &RangeSet::default());
    // Read all of it, then let every chunk of a kind be any other of that kind.
    let mut cursor = TableCursor::new(&table, &chunks);
    retried(&chunks, 8, || cursor.seek(&[], Timestamp(u64::MAX)));
    while cursor.current().is_some() {
        retried(&chunks, 8, || cursor.next());
    }
    for _ in 0..40 {
        {
            let mut cache = chunks.cache.borrow_mut();
            for kind in [ChunkKind::Block, ChunkKind::Partition] {
                let of_kind = cache.values().filter(|chunk| chunk.kind() == kind);
                let of_kind = of_kind.cloned().collect::<Vec<_>>();
                for chunk in cache.values_mut().filter(|chunk| chunk.kind() == kind) {
                    *chunk = of_kind[random.index(of_kind.len())].clone();
                }
            }
        }
        let mut steps = 0;
        retried(&chunks, 8, || {
            cursor.seek(&random_key(&mut random), Timestamp(500))
        });
        while cursor.current().is_some() {
            retried(&chunks, 8, || cursor.next());
            steps += 1;
            assert!(steps < 1_000_000);
        }
        retried(&chunks, 8, || cursor.seek_back(None));
        while cursor.current().is_some() {
            retried(&chunks, 8, || cursor.previous_key());
            steps += 1;
            assert!(steps < 1_000_000);
        }
        let key = random_key(&mut random);
        retried(&chunks, 12, || {
            table_get(&table, &chunks, &key, Timestamp(500)).map(drop)
        });
    }
}

//! Range deletes: which is the newest one that covers a key.
//!
//! Sorted by start, they are an interval tree that needs no pointers: the root of a part of the array is the middle of
//! it, and notes the greatest end, the newest and the oldest timestamp of the part. The newest `TAIL_MAX` are searched
//! one by one before they are sorted in.
//!
//! A lookup goes through the ranges that cover the key and could still be better than the best so far: O(log n), unless
//! very many are nested and what is asked for is none of the newest.

use alloc::vec::Vec;
use core::cmp::Reverse;
use core::ops::Range;

use super::types::{
    BlockError, ENGINE_KEY_BYTES_MAX, Malformed, Missing, OutOfMemory, RangeDelete, shared_bytes,
};
use super::varint::{put_varint, take_bytes, take_len, take_varint};
use crate::Timestamp;

/// Range deletes that are not sorted yet, at most.
const TAIL_MAX: usize = 256;

/// Range deletes of one encoded chunk, at most.
pub const RANGES_PER_CHUNK_MAX: usize = 4096;

/// Bytes of keys of one encoded chunk before they are coded, at most.
const CHUNK_KEY_BYTES_MAX: usize = 256 << 10;

/// Bytes of an encoded chunk from which on the next range goes into another one.
const CHUNK_BYTES: usize = 32 << 10;

/// Ranges behind a key that are looked at for how long an answer holds.
const STARTS_LOOKED_AT: usize = 8;

/// Range deletes.
#[derive(Debug, Default)]
pub struct RangeSet {
    /// All starts and ends.
    keys: Vec<u8>,
    /// The first `sorted` are a tree.
    items: Vec<Item>,
    sorted: usize,
}

#[derive(Debug, Clone, Copy)]
struct Item {
    start: Span,
    end: Span,
    timestamp: Timestamp,
    part: Part,
}

/// Bytes of `keys`.
#[derive(Debug, Clone, Copy)]
struct Span {
    at: u32,
    len: u32,
}

/// What there is in the part of the tree of which an item is the root.
#[derive(Debug, Clone, Copy)]
struct Part {
    /// The greatest end.
    end: Span,
    newest: Timestamp,
    oldest: Timestamp,
}

/// What a search in the tree wants: timestamps in `(after, until]`.
struct Window {
    after: Timestamp,
    until: Timestamp,
}

impl RangeSet {
    /// Makes room for so many ranges more, whose starts and ends have so many bytes.
    ///
    /// # Errors
    /// There is not so much memory; or keys would take more than 4 GiB.
    pub fn reserve(&mut self, ranges: usize, key_bytes: usize) -> Result<(), OutOfMemory> {
        let total = self.keys.len().checked_add(key_bytes).ok_or(OutOfMemory)?;
        u32::try_from(total).map_err(|_| OutOfMemory)?;
        self.keys.try_reserve(key_bytes)?;
        self.items.try_reserve(ranges)?;
        Ok(())
    }

    /// Adds one, for which there is room. An empty one says nothing, and is left out.
    pub fn insert(&mut self, start: &[u8], end: &[u8], at: Timestamp) {
        if start >= end {
            return;
        }
        self.push(start, end, at);
        if self.items.len() - self.sorted >= TAIL_MAX {
            self.settle();
        }
    }

    /// Adds many at once, and takes the room for them.
    ///
    /// # Errors
    /// There is not so much memory. Some may be in.
    pub fn insert_all<'r>(
        &mut self,
        ranges: impl Iterator<Item = RangeDelete<'r>>,
    ) -> Result<(), OutOfMemory> {
        for range in ranges.filter(|range| range.start < range.end) {
            self.reserve(1, range.start.len() + range.end.len())?;
            self.push(range.start, range.end, range.timestamp);
        }
        self.settle();
        Ok(())
    }

    fn push(&mut self, start: &[u8], end: &[u8], timestamp: Timestamp) {
        let (start, end) = (self.keep(start), self.keep(end));
        self.items.push(Item {
            start,
            end,
            timestamp,
            part: Part {
                end,
                newest: timestamp,
                oldest: timestamp,
            },
        });
    }

    fn keep(&mut self, key: &[u8]) -> Span {
        let span = Span {
            // `reserve` has seen to it.
            at: u32::try_from(self.keys.len()).unwrap_or(u32::MAX),
            len: u32::try_from(key.len()).unwrap_or(u32::MAX),
        };
        self.keys.extend_from_slice(key);
        span
    }

    /// Sorts all of them in.
    fn settle(&mut self) {
        let keys = &self.keys;
        self.items.sort_unstable_by(|one, other| {
            let (one, other) = (order_of(keys, one), order_of(keys, other));
            one.cmp(&other)
        });
        self.sorted = self.items.len();
        self.note_parts(0..self.sorted);
    }

    /// Works out the notes of the part; they are those of its root.
    fn note_parts(&mut self, part: Range<usize>) -> Option<Part> {
        let (left, root, right) = halves(&part)?;
        let left = self.note_parts(left);
        let right = self.note_parts(right);
        let item = self.items.get(root)?;
        let mut noted = Part {
            end: item.end,
            newest: item.timestamp,
            oldest: item.timestamp,
        };
        for other in [left, right].into_iter().flatten() {
            if self.bytes(other.end) > self.bytes(noted.end) {
                noted.end = other.end;
            }
            noted.newest = noted.newest.max(other.newest);
            noted.oldest = noted.oldest.min(other.oldest);
        }
        self.items.get_mut(root)?.part = noted;
        Some(noted)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Memory that they take.
    pub fn memory_bytes(&self) -> usize {
        self.keys.capacity() + self.items.capacity() * size_of::<Item>()
    }

    /// The greatest timestamp `≤ at` of those that cover `key`.
    pub fn newest_covering(&self, key: &[u8], at: Timestamp) -> Option<Timestamp> {
        self.find_newest(key, at).map(|item| item.timestamp)
    }

    /// The least timestamp `> after` of those that cover `key`: when a version of that time came to its end.
    pub fn next_covering(&self, key: &[u8], after: Timestamp) -> Option<Timestamp> {
        let mut window = Window {
            after,
            until: Timestamp(u64::MAX),
        };
        let mut found = None;
        self.search(key, &mut window, &mut |window, item| {
            found = Some(item.timestamp);
            // There is something behind `after`, so this is not 0.
            window.until = Timestamp(item.timestamp.0 - 1);
        });
        found
    }

    /// As [`newest_covering`](Self::newest_covering), and a key up to which (not included) the answer holds; `None`:
    /// to the end.
    pub fn covering_until(&self, key: &[u8], at: Timestamp) -> (Option<Timestamp>, Option<&[u8]>) {
        let best = self.find_newest(key, at);
        let newest = best.map(|item| item.timestamp);
        let mut until = best.map(|item| self.bytes(item.end));
        let mut shorten = |start| {
            until = Some(until.map_or(start, |until| until.min(start)));
        };
        // Those that begin behind the key and are newer than the answer; the last one looked at counts whatever it is.
        let (tree, tail) = self.items.split_at(self.sorted);
        let behind = tree.partition_point(|item| self.bytes(item.start) <= key);
        let next = tree.get(behind..).unwrap_or_default();
        for (looked, item) in next.iter().take(STARTS_LOOKED_AT).enumerate() {
            let better = Some(item.timestamp) > newest && item.timestamp <= at;
            if better || looked + 1 == STARTS_LOOKED_AT {
                shorten(self.bytes(item.start));
                break;
            }
        }
        for item in tail {
            let start = self.bytes(item.start);
            if start > key && Some(item.timestamp) > newest && item.timestamp <= at {
                shorten(start);
            }
        }
        (newest, until)
    }

    /// One that overlaps `[start, end)` and is newer than that.
    pub fn overlaps_newer(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        than: Timestamp,
    ) -> Option<RangeDelete<'_>> {
        let (_, tail) = self.items.split_at(self.sorted);
        let found = tail.iter().find(|item| {
            item.timestamp > than
                && self.bytes(item.end) > start
                && end.is_none_or(|end| self.bytes(item.start) < end)
        });
        found
            .or_else(|| self.overlapping_in(0..self.sorted, start, end, than))
            .map(|item| self.range_delete(item))
    }

    fn overlapping_in(
        &self,
        part: Range<usize>,
        start: &[u8],
        end: Option<&[u8]>,
        than: Timestamp,
    ) -> Option<&Item> {
        let (left, root, right) = halves(&part)?;
        let item = self.items.get(root)?;
        if self.bytes(item.part.end) <= start || item.part.newest <= than {
            return None;
        }
        if let Some(found) = self.overlapping_in(left, start, end, than) {
            return Some(found);
        }
        if end.is_some_and(|end| self.bytes(item.start) >= end) {
            return None;
        }
        if item.timestamp > than && self.bytes(item.end) > start {
            return Some(item);
        }
        self.overlapping_in(right, start, end, than)
    }

    /// All of them, by start, then timestamp descending.
    pub fn iter(&self) -> impl Iterator<Item = RangeDelete<'_>> {
        let (tree, tail) = self.items.split_at(self.sorted);
        let mut order = [0_usize; TAIL_MAX];
        let order_len = tail.len().min(TAIL_MAX);
        for (number, place) in order.iter_mut().take(order_len).enumerate() {
            *place = number;
        }
        if let Some(order) = order.get_mut(..order_len) {
            order.sort_unstable_by(|one, other| {
                let of = |at: &usize| tail.get(*at).map(|item| order_of(&self.keys, item));
                of(one).cmp(&of(other))
            });
        }
        let mut tree = tree.iter().peekable();
        let mut tail = order
            .into_iter()
            .take(order_len)
            .filter_map(move |at| tail.get(at))
            .peekable();
        core::iter::from_fn(move || {
            let from_tree = match (tree.peek(), tail.peek()) {
                (Some(one), Some(other)) => {
                    order_of(&self.keys, one) <= order_of(&self.keys, other)
                }
                (one, _) => one.is_some(),
            };
            let item = if from_tree { tree.next() } else { tail.next() }?;
            Some(self.range_delete(item))
        })
    }

    /// What they are between `from` and `to`, in chunks that can each be decoded; `each` is given one after the other.
    ///
    /// A range whose coded keys are too long for a chunk becomes two that meet.
    ///
    /// # Errors
    /// Those of `each`, and if there is no memory for a chunk.
    pub fn encode<E: From<OutOfMemory>>(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut chunk = Encoder::default();
        for range in self.iter() {
            let start = range.start.max(from);
            let end = to.map_or(range.end, |to| range.end.min(to));
            if start >= end {
                continue;
            }
            let shared = shared_bytes(start, end);
            // The shortest key behind `start` and not behind `end`: it shares nearly all it has with either.
            let middle = end.get(..=shared).unwrap_or(end);
            let parts = if start.len() + end.len() - shared > ENGINE_KEY_BYTES_MAX + CHUNK_BYTES
                && middle < end
            {
                [(start, middle), (middle, end)]
            } else {
                [(start, end), (end, end)]
            };
            for (start, end) in parts {
                if start >= end {
                    continue;
                }
                if !chunk.has_room_for(start, end) {
                    each(&chunk.bytes)?;
                    chunk.clear();
                }
                chunk.push(start, end, range.timestamp)?;
            }
        }
        if chunk.count > 0 {
            each(&chunk.bytes)?;
        }
        Ok(())
    }

    /// The range deletes of a chunk. Allocates for keys at most twice what a chunk may have of them, 256 KiB, and for
    /// twice [`RANGES_PER_CHUNK_MAX`] ranges.
    ///
    /// # Errors
    /// The bytes are no such chunk, or there is no memory.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, BlockError> {
        let mut set = Self::default();
        let (mut start, mut end) = (Vec::new(), Vec::new());
        while !bytes.is_empty() {
            if set.items.len() >= RANGES_PER_CHUNK_MAX {
                return Err(Malformed.into());
            }
            take_key(&mut bytes, &mut start)?;
            let before = set.items.last().map(|item| set.bytes(item.start));
            if before.is_some_and(|before| before > &start[..]) {
                return Err(Malformed.into());
            }
            end.clear();
            end.extend_from_slice(&start);
            take_key(&mut bytes, &mut end)?;
            let timestamp = take_varint(&mut bytes).ok_or(Malformed)?;
            let key_bytes = start.len() + end.len();
            if start >= end || set.keys.len() + key_bytes > CHUNK_KEY_BYTES_MAX {
                return Err(Malformed.into());
            }
            set.reserve(1, key_bytes)?;
            set.push(&start, &end, Timestamp(timestamp));
        }
        set.settle();
        Ok(set)
    }

    fn find_newest(&self, key: &[u8], at: Timestamp) -> Option<&Item> {
        let mut window = Window {
            after: Timestamp(0),
            until: at,
        };
        let mut found = None;
        self.search(key, &mut window, &mut |window, item| {
            found = Some(item);
            window.after = item.timestamp;
        });
        found
    }

    /// Calls `take` for ranges that cover `key` and are in the window, which it narrows.
    fn search<'s>(
        &'s self,
        key: &[u8],
        window: &mut Window,
        take: &mut dyn FnMut(&mut Window, &'s Item),
    ) {
        let (_, tail) = self.items.split_at(self.sorted);
        for item in tail {
            if window.has(item.timestamp) && self.covers(item, key) {
                take(window, item);
            }
        }
        self.search_in(0..self.sorted, key, window, take);
    }

    fn search_in<'s>(
        &'s self,
        part: Range<usize>,
        key: &[u8],
        window: &mut Window,
        take: &mut dyn FnMut(&mut Window, &'s Item),
    ) {
        let Some((left, root, right)) = halves(&part) else {
            return;
        };
        let Some(item) = self.items.get(root) else {
            return;
        };
        if !window.meets(&item.part) || self.bytes(item.part.end) <= key {
            return;
        }
        if self.bytes(item.start) <= key {
            if window.has(item.timestamp) && self.covers(item, key) {
                take(window, item);
            }
            self.search_in(right, key, window, take);
        }
        self.search_in(left, key, window, take);
    }

    fn covers(&self, item: &Item, key: &[u8]) -> bool {
        self.bytes(item.start) <= key && key < self.bytes(item.end)
    }

    fn range_delete(&self, item: &Item) -> RangeDelete<'_> {
        RangeDelete {
            start: self.bytes(item.start),
            end: self.bytes(item.end),
            timestamp: item.timestamp,
        }
    }

    fn bytes(&self, span: Span) -> &[u8] {
        bytes_of(&self.keys, span)
    }
}

/// Range deletes, wherever they are.
pub trait Covering {
    /// The newest timestamp `≤ at` of those that cover `key`, and whether this holds only up to the key that is put
    /// into `until`; else it holds for all keys behind.
    ///
    /// # Errors
    /// Something is not in memory.
    fn covering_until(
        &self,
        key: &[u8],
        at: Timestamp,
        until: &mut Vec<u8>,
    ) -> Result<(Option<Timestamp>, bool), Missing>;
}

impl Covering for &RangeSet {
    fn covering_until(
        &self,
        key: &[u8],
        at: Timestamp,
        until: &mut Vec<u8>,
    ) -> Result<(Option<Timestamp>, bool), Missing> {
        let (newest, end) = RangeSet::covering_until(self, key, at);
        until.clear();
        until.extend_from_slice(end.unwrap_or_default());
        Ok((newest, end.is_some()))
    }
}

impl Window {
    fn has(&self, timestamp: Timestamp) -> bool {
        self.after < timestamp && timestamp <= self.until
    }

    fn meets(&self, part: &Part) -> bool {
        self.after < part.newest && part.oldest <= self.until
    }
}

/// What is left of the root of a part of the tree, the root, and what is right of it.
fn halves(part: &Range<usize>) -> Option<(Range<usize>, usize, Range<usize>)> {
    let root = part.start + part.len() / 2;
    (!part.is_empty()).then_some((part.start..root, root, root + 1..part.end))
}

fn bytes_of(keys: &[u8], span: Span) -> &[u8] {
    let at = span.at as usize;
    keys.get(at..at + span.len as usize).unwrap_or_default()
}

fn order_of<'k>(keys: &'k [u8], item: &Item) -> (&'k [u8], Reverse<Timestamp>, &'k [u8]) {
    let (start, end) = (bytes_of(keys, item.start), bytes_of(keys, item.end));
    (start, Reverse(item.timestamp), end)
}

/// Takes a key off `bytes` that shares its start with `key`, which it becomes.
fn take_key(bytes: &mut &[u8], key: &mut Vec<u8>) -> Result<(), BlockError> {
    let shared = take_len(bytes).ok_or(Malformed)?;
    let unshared = take_len(bytes).ok_or(Malformed)?;
    let suffix = take_bytes(bytes, unshared).ok_or(Malformed)?;
    if shared > key.len() || shared + unshared > ENGINE_KEY_BYTES_MAX {
        return Err(Malformed.into());
    }
    key.truncate(shared);
    key.try_reserve(unshared).map_err(OutOfMemory::from)?;
    key.extend_from_slice(suffix);
    Ok(())
}

/// A chunk that is being made: for each range its start by what it has in common with the one before, its end by
/// what it has in common with the start, and its timestamp.
#[derive(Default)]
struct Encoder {
    bytes: Vec<u8>,
    start: Vec<u8>,
    count: usize,
    key_bytes: usize,
}

impl Encoder {
    fn has_room_for(&self, start: &[u8], end: &[u8]) -> bool {
        self.count == 0
            || self.bytes.len() < CHUNK_BYTES
                && self.count < RANGES_PER_CHUNK_MAX
                && self.key_bytes + start.len() + end.len() <= CHUNK_KEY_BYTES_MAX
                && self.bytes.len() + start.len() + end.len() <= ENGINE_KEY_BYTES_MAX
    }

    fn push(&mut self, start: &[u8], end: &[u8], at: Timestamp) -> Result<(), OutOfMemory> {
        let room = start.len() + end.len() + 40;
        self.bytes.try_reserve(room)?;
        self.start.try_reserve(start.len())?;
        let shared = shared_bytes(&self.start, start);
        self.put(start, shared);
        self.put(end, shared_bytes(start, end));
        put_varint(&mut self.bytes, at.0);
        self.start.clear();
        self.start.extend_from_slice(start);
        self.count += 1;
        self.key_bytes += start.len() + end.len();
        Ok(())
    }

    fn put(&mut self, key: &[u8], shared: usize) {
        put_varint(&mut self.bytes, shared as u64);
        put_varint(&mut self.bytes, (key.len() - shared) as u64);
        let suffix = key.get(shared..).unwrap_or_default();
        self.bytes.extend_from_slice(suffix);
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.start.clear();
        (self.count, self.key_bytes) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::{Random, random_key, seed};

    type Ranges = Vec<(Vec<u8>, Vec<u8>, u64)>;

    fn random_ranges(random: &mut Random, count: usize) -> Ranges {
        let mut ranges = Ranges::new();
        for _ in 0..count {
            let (one, other) = (random_key(random), random_key(random));
            let at = 1 + random.below(50);
            ranges.push((one.clone().min(other.clone()), one.max(other), at));
        }
        ranges
    }

    fn set_of(ranges: &Ranges) -> RangeSet {
        let mut set = RangeSet::default();
        for (start, end, at) in ranges {
            set.reserve(1, start.len() + end.len()).unwrap();
            set.insert(start, end, Timestamp(*at));
        }
        set
    }

    fn covering<'r>(ranges: &'r Ranges, key: &'r [u8]) -> impl Iterator<Item = u64> + 'r {
        let covers =
            move |(start, end, _): &&(Vec<u8>, Vec<u8>, u64)| &start[..] <= key && key < &end[..];
        ranges.iter().filter(covers).map(|(_, _, at)| *at)
    }

    fn newest(ranges: &Ranges, key: &[u8], at: u64) -> Option<Timestamp> {
        let known = covering(ranges, key).filter(|timestamp| *timestamp <= at);
        known.max().map(Timestamp)
    }

    fn check(random: &mut Random, ranges: &Ranges, set: &RangeSet) {
        let keys = (0..30).map(|_| random_key(random)).collect::<Vec<_>>();
        for key in &keys {
            let at = random.below(52);
            assert_eq!(
                set.newest_covering(key, Timestamp(at)),
                newest(ranges, key, at)
            );
            let next = covering(ranges, key).filter(|timestamp| *timestamp > at);
            let next = next.min().map(Timestamp);
            assert_eq!(set.next_covering(key, Timestamp(at)), next);
            let (same, until) = set.covering_until(key, Timestamp(at));
            assert_eq!(same, newest(ranges, key, at));
            assert!(until.is_none_or(|until| until > &key[..]));
            for other in &keys {
                if key <= other && until.is_none_or(|until| &other[..] < until) {
                    assert_eq!(newest(ranges, other, at), same, "holds until {until:?}");
                }
            }
            let end = (!random.one_in(4)).then(|| random_key(random));
            let overlaps = |(start, to, timestamp): &&(Vec<u8>, Vec<u8>, u64)| {
                *timestamp > at
                    && start < to
                    && to > key
                    && end.as_ref().is_none_or(|end| start < end)
            };
            // An empty range, or one that is asked for, overlaps nothing.
            if end.as_ref().is_none_or(|end| key < end) {
                let found = set.overlaps_newer(key, end.as_deref(), Timestamp(at));
                assert_eq!(found.is_some(), ranges.iter().any(|range| overlaps(&range)));
                if let Some(found) = found {
                    let found = (found.start.to_vec(), found.end.to_vec(), found.timestamp.0);
                    assert!(overlaps(&&found) && ranges.contains(&found));
                }
            }
        }
    }

    #[test]
    fn answers_as_a_list_of_ranges() {
        let mut random = Random::new(seed(3));
        for round in 0..300 {
            let count = [0, 1, 5, 40, 255, 256, 700][round % 7];
            let ranges = random_ranges(&mut random, count);
            let set = set_of(&ranges);
            let mut sorted = ranges
                .iter()
                .filter(|(start, end, _)| start < end)
                .cloned()
                .collect::<Vec<_>>();
            assert_eq!(set.len(), sorted.len());
            sorted.sort_by_key(|(start, end, at)| (start.clone(), Reverse(*at), end.clone()));
            let listed = set
                .iter()
                .map(|range| (range.start.to_vec(), range.end.to_vec(), range.timestamp.0));
            assert_eq!(listed.collect::<Vec<_>>(), sorted);
            check(&mut random, &ranges, &set);
        }
    }

    /// All chunks, decoded, as one list.
    fn through_chunks(set: &RangeSet, from: &[u8], to: Option<&[u8]>) -> (Vec<Vec<u8>>, Ranges) {
        let mut chunks = Vec::new();
        set.encode(from, to, |chunk| {
            chunks.push(chunk.to_vec());
            Ok::<_, OutOfMemory>(())
        })
        .unwrap();
        let mut ranges = Ranges::new();
        for chunk in &chunks {
            assert!(chunk.len() <= 128 << 10);
            let set = RangeSet::decode(chunk).unwrap();
            ranges.extend(
                set.iter()
                    .map(|range| (range.start.to_vec(), range.end.to_vec(), range.timestamp.0)),
            );
        }
        (chunks, ranges)
    }

    #[test]
    fn is_the_same_between_its_bounds_after_a_round_trip() {
        let mut random = Random::new(seed(4));
        for round in 0..150 {
            let ranges = random_ranges(&mut random, [0, 3, 100, 2000][round % 4]);
            let set = set_of(&ranges);
            let from = if random.one_in(2) {
                random_key(&mut random)
            } else {
                Vec::new()
            };
            let to = random.one_in(2).then(|| random_key(&mut random));
            let (_, clipped) = through_chunks(&set, &from, to.as_deref());
            for _ in 0..60 {
                let (key, at) = (random_key(&mut random), random.below(52));
                let inside = from <= key && to.as_ref().is_none_or(|to| key < *to);
                let expected = newest(&ranges, &key, at).filter(|_| inside);
                assert_eq!(newest(&clipped, &key, at), expected);
            }
        }
    }

    #[test]
    fn the_longest_keys_fit_into_chunks() {
        let key = |first: u8, fill: u8| {
            let mut key = alloc::vec![fill; ENGINE_KEY_BYTES_MAX];
            key[0] = first;
            key
        };
        let ranges = alloc::vec![
            (key(1, 7), key(2, 9), 5),
            (key(1, 8), key(1, 9), 6),
            (alloc::vec![3], key(4, 1), 7),
            (key(4, 1), alloc::vec![5], 8),
        ];
        let (chunks, decoded) = through_chunks(&set_of(&ranges), &[], None);
        assert!(chunks.len() > 1 && decoded.len() > ranges.len());
        for probe in [
            key(1, 6),
            key(1, 7),
            key(1, 8),
            key(1, 9),
            key(2, 8),
            key(2, 9),
            key(4, 0),
            key(4, 1),
        ] {
            assert_eq!(newest(&decoded, &probe, 99), newest(&ranges, &probe, 99));
        }
    }

    #[test]
    fn hostile_bytes_are_refused_or_are_ranges() {
        let mut random = Random::new(seed(5));
        let ranges = random_ranges(&mut random, 40);
        let (chunks, _) = through_chunks(&set_of(&ranges), &[], None);
        let good = &chunks[0];
        let look = |bytes: &[u8], random: &mut Random| {
            if let Ok(set) = RangeSet::decode(bytes) {
                assert!(set.len() <= RANGES_PER_CHUNK_MAX);
                assert!(set.keys.len() <= CHUNK_KEY_BYTES_MAX);
                assert!(set.iter().all(|range| range.start < range.end));
                set.covering_until(&random_key(random), Timestamp(random.below(60)));
            }
        };
        for cut in 0..good.len() {
            look(&good[..cut], &mut random);
            for bit in 0..8 {
                let mut bent = good.clone();
                bent[cut] ^= 1 << bit;
                look(&bent, &mut random);
            }
        }
        // Very little that would become very much.
        let mut bomb = Vec::new();
        put_varint(&mut bomb, 0);
        put_varint(&mut bomb, 60_000);
        bomb.resize(bomb.len() + 60_000, 1);
        let entry = |shared: u64, bomb: &mut Vec<u8>| {
            put_varint(bomb, shared);
            bomb.extend_from_slice(&[1, 200, 9]);
        };
        entry(60_000, &mut bomb);
        for _ in 0..1000 {
            put_varint(&mut bomb, 60_000);
            bomb.push(0);
            entry(60_000, &mut bomb);
        }
        assert_eq!(RangeSet::decode(&bomb).err(), Some(Malformed.into()));
    }
}

//! Indexes: blocks whose entries say where chunks are. Their keys are separators, their inline values some places each.
//!
//! A search goes by numbers: of each key the eight bytes behind what all keys of the index begin with. Only where they do not decide, separators
//! are looked at.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cmp::Ordering;

use super::{CHUNK_BYTES_MAX, ListedChunk};
use crate::Timestamp;
use crate::engine::block::{Block, BlockCursor};
use crate::engine::types::{
    BlockError, ChunkRef, Content, Cursor as _, Malformed, OutOfMemory, shared_bytes,
};
use crate::engine::varint::{put_varint, take_len, take_varint};

/// An index of `R` chunks for each separator. It has at least one.
#[derive(Debug)]
pub struct Index<const R: usize> {
    block: Rc<Block>,
    /// What all keys begin with.
    common: Box<[u8]>,
    /// What comes behind that, of each key.
    starts: Box<[u64]>,
    /// Whether newer versions of the separator's key are before it.
    goes_on: Box<[bool]>,
    chunks: Box<[[ListedChunk; R]]>,
}

impl<const R: usize> Index<R> {
    pub(super) fn parse(stored: &[u8]) -> Result<Self, BlockError> {
        let block = Rc::new(Block::parse(stored)?);
        let mut cursor = BlockCursor::new(Rc::clone(&block));
        cursor.last();
        let last = cursor.key().unwrap_or_default().to_vec();
        cursor.first();
        let common = shared_bytes(cursor.key().unwrap_or_default(), &last);
        let common = last.get(..common).unwrap_or_default();
        let (mut starts, mut goes_on, mut chunks) = (Vec::new(), Vec::new(), Vec::new());
        while let Some((key, version)) = cursor.version() {
            starts.try_reserve(1).map_err(OutOfMemory::from)?;
            goes_on.try_reserve(1).map_err(OutOfMemory::from)?;
            chunks.try_reserve(1).map_err(OutOfMemory::from)?;
            starts.push(start_of(key.get(common.len()..).unwrap_or_default()));
            goes_on.push(version.timestamp != Timestamp(u64::MAX));
            let refs = decode_refs::<R>(version.content).ok_or(Malformed)?;
            chunks.push(refs.map(ListedChunk::from));
            cursor.advance();
        }
        Ok(Self {
            block,
            common: common.into(),
            starts: starts.into(),
            goes_on: goes_on.into(),
            chunks: chunks.into(),
        })
    }

    /// Separators there are.
    pub(super) fn len(&self) -> usize {
        self.chunks.len()
    }

    /// The chunks of a separator, which is there.
    pub(super) fn chunks(&self, entry: usize) -> &[ListedChunk; R] {
        match self.chunks.get(entry) {
            Some(chunks) => chunks,
            None => unreachable!("nobody counts further than there are"),
        }
    }

    /// The separator behind which (`key`, `at`) is, if it is not the first of what is behind the next one: the last one at it or before it, or else the first.
    pub(super) fn entry_of(&self, key: &[u8], at: Timestamp) -> usize {
        let entry = self.last_to(key, |timestamp| timestamp >= at);
        entry.unwrap_or(0)
    }

    /// The last separator before all versions of `key`, if there is one.
    pub(super) fn last_before(&self, key: &[u8]) -> Option<usize> {
        self.last_to(key, |_| false)
    }

    /// Whether newer versions of a separator's key are before it.
    pub(super) fn goes_on(&self, entry: usize) -> bool {
        self.goes_on.get(entry).copied().unwrap_or(false)
    }

    /// Whether it is a separator of `key`.
    pub(super) fn is_of(&self, entry: usize, key: &[u8]) -> bool {
        let separator = self.block.numbered(entry);
        separator.is_some_and(|(separator, _)| *separator == *key)
    }

    /// The last separator whose key is before `key`, or is it and has a timestamp that `is_before` says so of.
    fn last_to(&self, key: &[u8], is_before: impl Fn(Timestamp) -> bool) -> Option<usize> {
        let Some(rest) = key.strip_prefix(&*self.common) else {
            let is_behind_all = *key > *self.common;
            return is_behind_all.then(|| self.len() - 1);
        };
        let start = start_of(rest);
        let behind = self.starts.partition_point(|other| *other <= start);
        let mut before = behind;
        while before > 0 && self.starts.get(before - 1) == Some(&start) {
            before -= 1;
        }
        // Of those between, the first bytes say nothing.
        let is_passed = |entry: usize| {
            let separator = self.block.numbered(entry);
            separator.is_some_and(|(separator, timestamp)| match (*separator).cmp(key) {
                Ordering::Less => true,
                Ordering::Equal => is_before(timestamp),
                Ordering::Greater => false,
            })
        };
        let (mut low, mut high) = (before, behind);
        while low < high {
            let middle = low.midpoint(high);
            if is_passed(middle) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low.checked_sub(1)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let (starts, chunks) = (&*self.starts, &*self.chunks);
        self.block.memory_bytes()
            + self.common.len()
            + size_of_val(starts)
            + self.goes_on.len()
            + size_of_val(chunks)
    }
}

/// A separator of an index.
#[derive(Clone)]
pub(super) struct IndexCursor<const R: usize> {
    index: Rc<Index<R>>,
    entry: usize,
}

impl<const R: usize> IndexCursor<R> {
    /// On a separator that there is.
    pub(super) fn new(index: Rc<Index<R>>, entry: usize) -> Self {
        debug_assert!(entry < index.len());
        Self { index, entry }
    }

    /// On the first one.
    pub(super) fn first(index: Rc<Index<R>>) -> Self {
        Self::new(index, 0)
    }

    /// On the last one.
    pub(super) fn last(index: Rc<Index<R>>) -> Self {
        let last = index.len().saturating_sub(1);
        Self::new(index, last)
    }

    /// On the next one.
    pub(super) fn next(&self) -> Option<Self> {
        let entry = self.entry + 1;
        let index = (entry < self.index.len()).then(|| Rc::clone(&self.index))?;
        Some(Self { index, entry })
    }

    /// On the one before.
    pub(super) fn before(&self) -> Option<Self> {
        let entry = self.entry.checked_sub(1)?;
        let index = Rc::clone(&self.index);
        Some(Self { index, entry })
    }

    pub(super) fn chunks(&self) -> &[ListedChunk; R] {
        self.index.chunks(self.entry)
    }

    pub(super) fn goes_on(&self) -> bool {
        self.index.goes_on(self.entry)
    }

    pub(super) fn is_of(&self, key: &[u8]) -> bool {
        self.index.is_of(self.entry, key)
    }
}

/// The first eight bytes as a number that sorts as they do, but for zeros at the end.
fn start_of(bytes: &[u8]) -> u64 {
    if let Some(start) = bytes.first_chunk() {
        return u64::from_be_bytes(*start);
    }
    let mut start = [0; 8];
    for (place, byte) in start.iter_mut().zip(bytes) {
        *place = *byte;
    }
    u64::from_be_bytes(start)
}

pub(super) fn put_ref(target: &mut Vec<u8>, chunk: ChunkRef) {
    put_varint(target, chunk.offset);
    put_varint(target, u64::from(chunk.len));
}

pub(super) fn take_ref(bytes: &mut &[u8]) -> Option<ChunkRef> {
    let offset = take_varint(bytes)?;
    let len = take_len(bytes).filter(|len| *len <= CHUNK_BYTES_MAX)?;
    let len = u32::try_from(len).ok()?;
    Some(ChunkRef { offset, len })
}

fn decode_refs<const R: usize>(content: Content<'_>) -> Option<[ChunkRef; R]> {
    let Content::Inline(mut bytes) = content else {
        return None;
    };
    let mut refs = [ChunkRef { offset: 0, len: 0 }; R];
    for place in &mut refs {
        *place = take_ref(&mut bytes)?;
    }
    bytes.is_empty().then_some(refs)
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeSet;
    use core::cmp::Reverse;

    use super::*;
    use crate::engine::block::BlockBuilder;
    use crate::engine::testing::{Random, seed};
    use crate::engine::types::{NEVER, VersionRef};

    /// A key behind `prefix` that is like others in its first bytes, and may end with zeros.
    fn key(random: &mut Random, prefix: &[u8]) -> Vec<u8> {
        let mut key = prefix.to_vec();
        for _ in 0..random.index(12) {
            key.push([0, 0, 1, 0xFF][random.index(4)]);
        }
        key
    }

    /// The separators that are found are those that come before in order, also where keys begin alike, end within the bytes that go for a number, have
    /// several timestamps, or are outside of what all begin with.
    #[test]
    fn finds_what_is_before_in_order() {
        let mut random = Random::new(seed(44));
        let mut decided = 0;
        for round in 0..300 {
            let prefix = &b"\x00common"[..[0, 1, 7][round % 3]];
            let separators: BTreeSet<_> = (0..=random.index(70))
                .map(|_| {
                    let at = [u64::MAX, u64::MAX, 3, 2][random.index(4)];
                    (key(&mut random, prefix), Reverse(at))
                })
                .collect();
            let mut builder = BlockBuilder::new();
            for (offset, (key, Reverse(at))) in (1..).zip(&separators) {
                let mut refs = Vec::new();
                put_ref(&mut refs, ChunkRef { offset, len: 9 });
                let version = VersionRef {
                    timestamp: Timestamp(*at),
                    expires_at_ms: NEVER,
                    below: false,
                    content: Content::Inline(&refs),
                };
                builder.push(key, &version).unwrap();
            }
            let mut stored = Vec::new();
            builder.finish(false, &mut stored).unwrap();
            let index = Index::<1>::parse(&stored).unwrap();
            assert_eq!(index.len(), separators.len());
            for _ in 0..100 {
                let beside = [&b""[..], b"\x00cz", b"\x00a", b"\x01"][random.index(4)];
                let prefix = if random.one_in(4) { beside } else { prefix };
                let sought = key(&mut random, prefix);
                let at = [2, 3, u64::MAX][random.index(3)];
                let place = (sought.clone(), Reverse(at));
                let to = separators.iter().filter(|one| **one <= place).count();
                let entry = index.entry_of(&sought, Timestamp(at));
                assert_eq!(entry, to.saturating_sub(1), "{sought:?}");
                let [chunk] = index.chunks(entry);
                assert_eq!(chunk.at().offset, entry as u64 + 1);
                let before = separators.iter().filter(|(key, _)| *key < sought).count();
                assert_eq!(index.last_before(&sought), before.checked_sub(1));
                let (own, Reverse(at)) = separators.iter().nth(entry).unwrap();
                assert_eq!(index.is_of(entry, &sought), *own == sought);
                assert_eq!(index.goes_on(entry), *at != u64::MAX);
                decided += usize::from(index.starts.binary_search(&start_of(&sought)).is_err());
            }
        }
        assert!(decided > 10_000, "{decided}");
    }

    #[test]
    fn a_cursor_goes_from_end_to_end() {
        let mut builder = BlockBuilder::new();
        for number in 0..40 {
            let mut refs = Vec::new();
            let offset = u64::from(number);
            put_ref(&mut refs, ChunkRef { offset, len: 9 });
            let version = VersionRef {
                timestamp: Timestamp(u64::MAX),
                expires_at_ms: NEVER,
                below: false,
                content: Content::Inline(&refs),
            };
            builder.push(&[number], &version).unwrap();
        }
        let mut stored = Vec::new();
        builder.finish(false, &mut stored).unwrap();
        let index = Rc::new(Index::<1>::parse(&stored).unwrap());
        let offset = |cursor: &IndexCursor<1>| cursor.chunks()[0].at().offset;
        let first = IndexCursor::first(Rc::clone(&index));
        let upwards = core::iter::successors(Some(first), IndexCursor::next);
        assert!(upwards.map(|cursor| offset(&cursor)).eq(0..40));
        let last = IndexCursor::last(index);
        let downwards = core::iter::successors(Some(last), IndexCursor::before);
        assert!(downwards.map(|cursor| offset(&cursor)).eq((0..40).rev()));
    }
}

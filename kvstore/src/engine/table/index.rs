//! Indexes: blocks whose entries say where chunks are. Their keys are separators, their inline values some places each.
//!
//! A search goes by numbers: of each key the eight bytes behind what all keys of the index begin with. Only where they do not decide, separators
//! are looked at.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;

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
    /// What all keys begin with, but for the first if that is empty, as that of a table's first block is.
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
        let is_open = cursor.key() == Some(&[]);
        if is_open {
            cursor.advance();
        }
        let common = shared_bytes(cursor.key().unwrap_or_default(), &last);
        let common = last.get(..common).unwrap_or_default();
        cursor.first();
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

    /// The chunks of the separator of this number, which is there.
    pub(super) fn chunks(&self, number: usize) -> &[ListedChunk; R] {
        match self.chunks.get(number) {
            Some(chunks) => chunks,
            None => unreachable!("nobody counts further than there are"),
        }
    }

    /// The separator behind which (`key`, `at`) is, if it is not the first of what is behind the next one: the last one at it or before it, or else the first.
    pub(super) fn number_of(&self, key: &[u8], at: Timestamp) -> usize {
        let rank = self.rank(key, |timestamp| timestamp >= at);
        rank.saturating_sub(1)
    }

    /// The last separator before all versions of `key`, if there is one.
    pub(super) fn last_before(&self, key: &[u8]) -> Option<usize> {
        self.rank(key, |_| false).checked_sub(1)
    }

    /// Whether newer versions of a separator's key are before it.
    pub(super) fn goes_on(&self, number: usize) -> bool {
        self.goes_on.get(number).copied().unwrap_or(false)
    }

    /// Whether it is a separator of `key`.
    pub(super) fn is_of(&self, number: usize, key: &[u8]) -> bool {
        // It is behind all that are before `key`, and not behind all that are not behind it.
        (self.block.rank(key, |_| false)..self.block.rank(key, |_| true)).contains(&number)
    }

    /// How many separators have a key before `key`, or it and a timestamp that `is_before` says so of.
    fn rank(&self, key: &[u8], is_before: impl Fn(Timestamp) -> bool) -> usize {
        let rest = match key.strip_prefix(&*self.common) {
            Some(rest) => rest,
            None if *key > *self.common => return self.len(),
            None => return self.block.rank(key, is_before),
        };
        let start = start_of(rest);
        let rank = self.starts.partition_point(|other| *other <= start);
        let before = rank.checked_sub(1).and_then(|last| self.starts.get(last));
        if before == Some(&start) {
            // The first bytes do not tell.
            return self.block.rank(key, is_before);
        }
        rank
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let (starts, chunks) = (&*self.starts, &*self.chunks);
        size_of::<Self>()
            + self.block.memory_bytes()
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
    number: usize,
}

impl<const R: usize> IndexCursor<R> {
    /// On a separator that there is.
    pub(super) fn new(index: Rc<Index<R>>, number: usize) -> Self {
        debug_assert!(number < index.len());
        Self { index, number }
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
        let number = self.number + 1;
        let index = (number < self.index.len()).then(|| Rc::clone(&self.index))?;
        Some(Self { index, number })
    }

    /// On the one before.
    pub(super) fn before(&self) -> Option<Self> {
        let number = self.number.checked_sub(1)?;
        let index = Rc::clone(&self.index);
        Some(Self { index, number })
    }

    pub(super) fn chunks(&self) -> &[ListedChunk; R] {
        self.index.chunks(self.number)
    }

    pub(super) fn goes_on(&self) -> bool {
        self.index.goes_on(self.number)
    }

    pub(super) fn is_of(&self, key: &[u8]) -> bool {
        self.index.is_of(self.number, key)
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
            let mut separators: BTreeSet<_> = (0..=random.index(70))
                .map(|_| {
                    let at = [u64::MAX, u64::MAX, 3, 2][random.index(4)];
                    (key(&mut random, prefix), Reverse(at))
                })
                .collect();
            if random.one_in(2) {
                // As in the first partition of a table.
                separators.insert((Vec::new(), Reverse(u64::MAX)));
            }
            let mut builder = BlockBuilder::new();
            for (offset, (key, Reverse(at))) in (1..).zip(&separators) {
                let mut refs = Vec::new();
                put_ref(&mut refs, ChunkRef { offset, len: 9 });
                let version = VersionRef {
                    timestamp: Timestamp(*at),
                    ..newest(&refs)
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
                let number = index.number_of(&sought, Timestamp(at));
                assert_eq!(number, to.saturating_sub(1), "{sought:?}");
                let [chunk] = index.chunks(number);
                assert_eq!(chunk.at().offset, number as u64 + 1);
                let before = separators.iter().filter(|(key, _)| *key < sought).count();
                assert_eq!(index.last_before(&sought), before.checked_sub(1));
                let other = random.index(index.len());
                let (own, Reverse(at)) = separators.iter().nth(other).unwrap();
                assert!(index.is_of(other, own));
                assert_eq!(index.is_of(other, &sought), *own == sought);
                assert_eq!(index.goes_on(other), *at != u64::MAX);
                let rest = sought.strip_prefix(&*index.common);
                let is_decided = |rest| index.starts.binary_search(&start_of(rest)).is_err();
                decided += usize::from(rest.is_some_and(is_decided));
            }
        }
        assert!(decided > 5_000, "{decided}");
    }

    /// It was empty where the first key is, as in each head, so keys that begin alike were never told apart by number.
    #[test]
    fn what_keys_begin_with_is_left_out_behind_an_empty_one() {
        let keys = [
            &b""[..],
            b"\x00user:0001",
            b"\x00user:0002",
            b"\x00user:0007",
        ];
        let mut builder = BlockBuilder::new();
        for key in keys {
            let mut refs = Vec::new();
            put_ref(&mut refs, ChunkRef { offset: 1, len: 9 });
            builder.push(key, &newest(&refs)).unwrap();
        }
        let mut stored = Vec::new();
        builder.finish(false, &mut stored).unwrap();
        let index = Index::<1>::parse(&stored).unwrap();
        assert_eq!(*index.common, *b"\x00user:000");
        let number = |key: &[u8]| index.number_of(key, Timestamp(5));
        let sought = [
            &b""[..],
            b"\x00a",
            b"\x00user:0001",
            b"\x00user:0003",
            b"\x00v",
        ];
        assert_eq!(sought.map(number), [0, 0, 1, 2, 3]);
        assert_eq!(index.last_before(b""), None);
    }

    fn newest(refs: &[u8]) -> VersionRef<'_> {
        VersionRef {
            timestamp: Timestamp(u64::MAX),
            expires_at_ms: NEVER,
            below: false,
            content: Content::Inline(refs),
        }
    }

    #[test]
    fn a_cursor_goes_from_end_to_end() {
        let mut builder = BlockBuilder::new();
        for number in 0..40 {
            let mut refs = Vec::new();
            let offset = u64::from(number);
            put_ref(&mut refs, ChunkRef { offset, len: 9 });
            builder.push(&[number], &newest(&refs)).unwrap();
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

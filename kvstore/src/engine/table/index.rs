//! Indexes: blocks whose entries say where chunks are. Their keys are separators, their inline values some places each.
//!
//! A search goes by numbers: of each key the eight bytes behind what all keys of the index begin with. Only where they do not decide, the block is
//! searched.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;

use super::{CHUNK_BYTES_MAX, ListedChunk};
use crate::Timestamp;
use crate::engine::block::{Block, BlockCursor};
use crate::engine::types::{
    BlockError, ChunkRef, Content, Cursor as _, Malformed, OutOfMemory, VersionRef, shared_bytes,
};
use crate::engine::varint::{put_varint, take_len, take_varint};

/// An index of `R` places for each separator.
#[derive(Debug)]
pub struct Index<const R: usize> {
    block: Rc<Block>,
    /// What all keys begin with.
    common: Box<[u8]>,
    /// What comes behind that, of each key.
    starts: Box<[u64]>,
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
        let (mut starts, mut chunks) = (Vec::new(), Vec::new());
        while let Some((key, version)) = cursor.version() {
            starts.try_reserve(1).map_err(OutOfMemory::from)?;
            chunks.try_reserve(1).map_err(OutOfMemory::from)?;
            starts.push(start_of(key.get(common.len()..).unwrap_or_default()));
            let refs = decode_refs::<R>(version.content).ok_or(Malformed)?;
            chunks.push(refs.map(ListedChunk::from));
            cursor.advance();
        }
        Ok(Self {
            block,
            common: common.into(),
            starts: starts.into(),
            chunks: chunks.into(),
        })
    }

    pub(super) fn cursor(&self) -> BlockCursor {
        BlockCursor::new(Rc::clone(&self.block))
    }

    /// What has (`key`, `at`), if it is not the first of what comes next.
    pub(super) fn chunks_of(&self, key: &[u8], at: Timestamp) -> Cow<'_, [ListedChunk; R]> {
        let by_start = self.last_to(key).and_then(|entry| self.chunks.get(entry));
        by_start.map_or_else(
            || {
                let entry = self.block.last_to(key, at);
                let refs = refs_in(entry.map(|entry| self.block.version(&entry)));
                Cow::Owned(refs.map(ListedChunk::from))
            },
            Cow::Borrowed,
        )
    }

    /// The last entry before `key`, or else the first one; `None` if there is one that begins as `key` does.
    fn last_to(&self, key: &[u8]) -> Option<usize> {
        let Some(rest) = key.strip_prefix(&*self.common) else {
            let last = self.starts.len().checked_sub(1)?;
            return Some(if *key < *self.common { 0 } else { last });
        };
        let start = start_of(rest);
        let behind = self.starts.partition_point(|other| *other <= start);
        let Some(before) = behind.checked_sub(1) else {
            return Some(0);
        };
        (self.starts.get(before) != Some(&start)).then_some(before)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let (starts, chunks) = (&*self.starts, &*self.chunks);
        self.block.memory_bytes() + self.common.len() + size_of_val(starts) + size_of_val(chunks)
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

/// The places that an entry of an index has.
pub(super) fn refs_in<const R: usize>(version: Option<VersionRef<'_>>) -> [ChunkRef; R] {
    let refs = version.and_then(|version| decode_refs(version.content));
    // Whoever parsed the index has seen them; there is an entry, and a cursor that is asked stands on one.
    refs.unwrap_or([ChunkRef { offset: 0, len: 0 }; R])
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

    /// The number that goes for eight bytes leads where a search of the block does, also where keys begin alike, end within them, or are outside of
    /// what all begin with.
    #[test]
    fn numbers_lead_to_the_same_entry_as_the_block() {
        let mut random = Random::new(seed(44));
        let mut by_number = 0;
        for round in 0..300 {
            let prefix = &b"\x00common"[..[0, 1, 7][round % 3]];
            let keys: BTreeSet<_> = (0..=random.index(70))
                .map(|_| key(&mut random, prefix))
                .collect();
            let mut builder = BlockBuilder::new();
            for (number, key) in (1..).zip(&keys) {
                let mut refs = Vec::new();
                put_ref(
                    &mut refs,
                    ChunkRef {
                        offset: number,
                        len: 9,
                    },
                );
                let version = VersionRef {
                    timestamp: Timestamp(u64::MAX),
                    expires_at_ms: NEVER,
                    below: false,
                    content: Content::Inline(&refs),
                };
                builder.push(key, &version).unwrap();
            }
            let mut stored = Vec::new();
            builder.finish(false, &mut stored).unwrap();
            let index = Index::<1>::parse(&stored).unwrap();
            for _ in 0..100 {
                let beside = [&b""[..], b"\x00cz", b"\x00a", b"\x01"][random.index(4)];
                let prefix = if random.one_in(4) { beside } else { prefix };
                let sought = key(&mut random, prefix);
                let at = Timestamp([3, u64::MAX][random.index(2)]);
                let entry = index.block.last_to(&sought, at).unwrap();
                let expected: [ChunkRef; 1] = refs_in(Some(index.block.version(&entry)));
                let found = index.chunks_of(&sought, at);
                assert_eq!(found[0].at(), expected[0], "{sought:?}");
                by_number += usize::from(index.last_to(&sought).is_some());
            }
        }
        assert!(by_number > 10_000, "{by_number}");
    }
}

//! Indexes: blocks whose entries say where chunks are. Their keys are separators, their inline values some places each.
//!
//! A search goes by numbers: of each key the eight bytes behind what all keys of the index begin with. Only where they do not decide, the block is
//! searched.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;

use super::CHUNK_BYTES_MAX;
use crate::Timestamp;
use crate::engine::block::{Block, BlockCursor};
use crate::engine::types::{
    BlockError, ChunkRef, Content, Malformed, OutOfMemory, VersionRef, shared_bytes,
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
    refs: Box<[[ChunkRef; R]]>,
}

impl<const R: usize> Index<R> {
    pub(super) fn parse(stored: &[u8]) -> Result<Self, BlockError> {
        let block = Rc::new(Block::parse(stored)?);
        let mut cursor = BlockCursor::new(Rc::clone(&block));
        cursor.last();
        let last = cursor.key().to_vec();
        cursor.first();
        let common = last.get(..shared_bytes(cursor.key(), &last));
        let common = common.unwrap_or_default();
        let (mut starts, mut refs) = (Vec::new(), Vec::new());
        while let Some((key, version)) = cursor.version() {
            starts.try_reserve(1).map_err(OutOfMemory::from)?;
            refs.try_reserve(1).map_err(OutOfMemory::from)?;
            starts.push(start_of(key.get(common.len()..).unwrap_or_default()));
            refs.push(decode_refs::<R>(version.content).ok_or(Malformed)?);
            cursor.advance();
        }
        Ok(Self {
            block,
            common: common.into(),
            starts: starts.into(),
            refs: refs.into(),
        })
    }

    pub(super) fn cursor(&self) -> BlockCursor {
        BlockCursor::new(Rc::clone(&self.block))
    }

    /// The places of what has (`key`, `at`), if it is not the first of what comes next.
    pub(super) fn refs_of(&self, key: &[u8], at: Timestamp) -> [ChunkRef; R] {
        let by_start = self.last_to(key).and_then(|entry| self.refs.get(entry));
        by_start.copied().unwrap_or_else(|| {
            let entry = self.block.last_to(key, at);
            refs_in(entry.map(|entry| self.block.version(&entry)))
        })
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
        let (starts, refs) = (&*self.starts, &*self.refs);
        self.block.memory_bytes() + self.common.len() + size_of_val(starts) + size_of_val(refs)
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

//! Bytes in chunks of a pool, found by handles of 32 bits. Nothing is given back but all of it.

use alloc::rc::Rc;
use alloc::vec::Vec;

use crate::engine::pool::{CHUNK_BYTES, ChunkPool, PoolChunk};
use crate::engine::types::OutOfMemory;

/// Chunks of an arena, at most: the last number is not used, so that there is a handle of nothing.
const CHUNKS_MAX: usize = (1 << 16) - 1;

/// Where some bytes begin: the chunk in the upper half, the byte in it in the lower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Handle(u32);

impl Handle {
    pub(super) const NONE: Self = Self(u32::MAX);

    fn new(chunk: usize, byte: usize) -> Self {
        let half = |number| u32::try_from(number).unwrap_or(u32::MAX) & 0xFFFF;
        Self(half(chunk) << 16 | half(byte))
    }

    pub(super) fn from_bytes(bytes: [u8; 4]) -> Self {
        Self(u32::from_le_bytes(bytes))
    }

    pub(super) fn to_bytes(self) -> [u8; 4] {
        self.0.to_le_bytes()
    }

    pub(super) fn number(self) -> u32 {
        self.0
    }

    pub(super) fn of_number(number: u32) -> Self {
        Self(number)
    }

    pub(super) fn is_some(self) -> bool {
        self != Self::NONE
    }
}

pub(super) struct Arena {
    pool: Rc<ChunkPool>,
    chunks: Vec<PoolChunk>,
    /// Reserved, not in use yet.
    spare: Vec<PoolChunk>,
    /// The chunk that is filled, and how far it is.
    current: usize,
    used: usize,
}

impl Arena {
    pub(super) fn new(pool: Rc<ChunkPool>) -> Self {
        Self {
            pool,
            chunks: Vec::new(),
            spare: Vec::new(),
            current: 0,
            used: CHUNK_BYTES,
        }
    }

    /// Sees to it that pieces of `total` bytes, of `largest` at most, have room, and any part of them, in any order.
    ///
    /// A piece that does not fit into what is left of the chunk takes a new one, and whichever has more left is filled
    /// from then on. So if no piece has more than half a chunk, all chunks that are left have less than `largest` free;
    /// if some have more, two chunks that were begun one after the other hold more than one full one.
    pub(super) fn reserve(&mut self, total: usize, largest: usize) -> Result<(), OutOfMemory> {
        if largest > CHUNK_BYTES {
            return Err(OutOfMemory);
        }
        if total <= CHUNK_BYTES - self.used {
            return Ok(());
        }
        let filled = (CHUNK_BYTES - largest).max(CHUNK_BYTES / 2);
        let chunks = if total <= CHUNK_BYTES {
            1
        } else {
            total.div_ceil(filled)
        };
        if self.chunks.len() + chunks > CHUNKS_MAX {
            return Err(OutOfMemory);
        }
        self.chunks.try_reserve(chunks)?;
        let missing = chunks.saturating_sub(self.spare.len());
        self.spare.try_reserve(missing)?;
        while self.spare.len() < chunks {
            self.spare.push(self.pool.take()?);
        }
        Ok(())
    }

    /// Room for a piece of `len` bytes, which was reserved.
    ///
    /// # Panics
    /// It was not.
    pub(super) fn allocate(&mut self, len: usize) -> Handle {
        if len > CHUNK_BYTES - self.used {
            let chunk = self
                .spare
                .pop()
                .expect("room is reserved before anything is inserted");
            self.chunks.push(chunk);
            let opened = self.chunks.len() - 1;
            if len > self.used {
                // The other one has more left.
                return Handle::new(opened, 0);
            }
            (self.current, self.used) = (opened, 0);
        }
        let handle = Handle::new(self.current, self.used);
        self.used += len;
        handle
    }

    /// From `handle` on to the end of its chunk.
    pub(super) fn from(&self, handle: Handle) -> &[u8] {
        let (chunk, byte) = (handle.0 >> 16, handle.0 & 0xFFFF);
        let chunk = self.chunks.get(chunk as usize);
        chunk
            .and_then(|chunk| chunk.get(byte as usize..))
            .unwrap_or_default()
    }

    /// The `len` bytes from `handle` on, or none if the chunk ends before.
    pub(super) fn bytes_mut(&mut self, handle: Handle, len: usize) -> &mut [u8] {
        self.part_mut(handle, 0, len).unwrap_or_default()
    }

    /// Writes `bytes`, `offset` bytes behind `handle`.
    pub(super) fn write(&mut self, handle: Handle, offset: usize, bytes: &[u8]) {
        if let Some(place) = self.part_mut(handle, offset, bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    fn part_mut(&mut self, handle: Handle, offset: usize, len: usize) -> Option<&mut [u8]> {
        let (chunk, byte) = (handle.0 >> 16, handle.0 & 0xFFFF);
        let at = byte as usize + offset;
        let chunk = self.chunks.get_mut(chunk as usize);
        chunk.and_then(|chunk| chunk.get_mut(at..at + len))
    }

    /// The handle that is stored `offset` bytes behind `handle`.
    pub(super) fn handle_at(&self, handle: Handle, offset: usize) -> Handle {
        let bytes = self.from(handle).get(offset..);
        let handle = bytes.and_then(|bytes| bytes.first_chunk());
        handle.map_or(Handle::NONE, |bytes| Handle::from_bytes(*bytes))
    }

    pub(super) fn memory_bytes(&self) -> usize {
        (self.chunks.len() + self.spare.len()) * CHUNK_BYTES
    }

    pub(super) fn pool(&self) -> &ChunkPool {
        &self.pool
    }

    /// Gives back what is reserved and not in use.
    pub(super) fn give_back_spare(&mut self) {
        self.spare = Vec::new();
    }

    /// Gives back up to so many chunks, and says whether there are more. What was in them is gone.
    pub(super) fn give_back(&mut self, mut chunks: usize) -> bool {
        self.used = CHUNK_BYTES;
        while chunks > 0 && (self.spare.pop().is_some() || self.chunks.pop().is_some()) {
            chunks -= 1;
        }
        !self.chunks.is_empty() || !self.spare.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::{Random, seed};

    #[test]
    fn what_is_reserved_has_room_in_any_order() {
        let mut random = Random::new(seed(6));
        for _ in 0..200 {
            let mut arena = Arena::new(ChunkPool::new(0));
            for _ in 0..=random.index(2) {
                let bound = [20, 500, 30_000, 40_000, CHUNK_BYTES as u64][random.index(5)];
                let mut pieces = Vec::new();
                for _ in 0..random.index(60) {
                    let len = if random.one_in(3) {
                        bound
                    } else {
                        random.below(bound)
                    };
                    pieces.push(1 + usize::try_from(len).unwrap().min(CHUNK_BYTES - 1));
                }
                let total = pieces.iter().sum();
                let largest = pieces.iter().max().copied().unwrap_or(0);
                arena.reserve(total, largest).unwrap();
                let mut written = Vec::new();
                while !pieces.is_empty() {
                    let len = pieces.swap_remove(random.index(pieces.len()));
                    // Some are not needed in the end.
                    if random.one_in(4) {
                        continue;
                    }
                    let handle = arena.allocate(len);
                    let byte = random.next_u64().to_le_bytes()[0];
                    arena.write(handle, 0, &alloc::vec![byte; len]);
                    written.push((handle, len, byte));
                }
                for (handle, len, byte) in written {
                    assert!(arena.from(handle)[..len].iter().all(|found| *found == byte));
                }
            }
        }
    }

    #[test]
    fn no_more_is_taken_than_there_is() {
        let pool = ChunkPool::new(0);
        pool.set_limit(2);
        let mut arena = Arena::new(Rc::clone(&pool));
        assert_eq!(
            arena.reserve(CHUNK_BYTES + 1, CHUNK_BYTES + 1),
            Err(OutOfMemory)
        );
        assert_eq!(arena.reserve(3 * CHUNK_BYTES, 1), Err(OutOfMemory));
        assert!(arena.reserve(CHUNK_BYTES, CHUNK_BYTES).is_ok());
        arena.allocate(CHUNK_BYTES);
        assert_eq!(pool.in_use(), 2);
        assert!(arena.give_back(1));
        assert!(!arena.give_back(1));
        assert_eq!(pool.in_use(), 0);
    }
}

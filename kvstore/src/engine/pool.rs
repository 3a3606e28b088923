//! Memory in chunks of one size, which is what keeps a heap from fragmenting when much of it comes and goes.
//!
//! A pool holds on to some chunks that nobody uses, counts those in use, and never gives out more than its limit. It counts as well what its users have beside.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::ops::{Deref, DerefMut};

use super::types::OutOfMemory;

/// Bytes of a chunk.
pub const CHUNK_BYTES: usize = 64 << 10;

/// Chunks for several users, who share it.
#[derive(Debug)]
pub struct ChunkPool {
    free: RefCell<Vec<Box<[u8]>>>,
    keep: Cell<usize>,
    in_use: Cell<usize>,
    limit: Cell<usize>,
    beside: Cell<usize>,
}

impl ChunkPool {
    /// An empty pool, which holds on to chunks that nobody uses as long as there are at most `keep` with those in use.
    pub fn new(keep: usize) -> Rc<Self> {
        Rc::new(Self {
            free: RefCell::default(),
            keep: Cell::new(keep),
            in_use: Cell::new(0),
            limit: Cell::new(usize::MAX),
            beside: Cell::new(0),
        })
    }

    /// How many chunks there may be from now on for it to hold on to one, with those in use.
    pub fn set_keep(&self, keep: usize) {
        self.keep.set(keep);
        let mut free = self.free.borrow_mut();
        free.truncate(keep.saturating_sub(self.in_use.get()));
    }

    /// From now on nobody gets a chunk while `chunks` or more are in use.
    pub fn set_limit(&self, chunks: usize) {
        self.limit.set(chunks);
    }

    /// A chunk; what is in it is arbitrary.
    ///
    /// # Errors
    /// The limit is reached, or the heap has none.
    pub fn take(self: &Rc<Self>) -> Result<PoolChunk, OutOfMemory> {
        if self.in_use.get() >= self.limit.get() {
            return Err(OutOfMemory);
        }
        let kept = self.free.borrow_mut().pop();
        let bytes = match kept {
            Some(bytes) => bytes,
            None => allocate()?,
        };
        self.in_use.set(self.in_use.get() + 1);
        Ok(PoolChunk {
            bytes,
            pool: Rc::clone(self),
        })
    }

    /// Chunks that somebody has.
    pub fn in_use(&self) -> usize {
        self.in_use.get()
    }

    /// Chunks that are held on to.
    pub fn kept(&self) -> usize {
        self.free.borrow().len()
    }

    /// A user has `now` bytes beside its chunks, where `before` were known.
    pub fn count_beside(&self, before: usize, now: usize) {
        self.beside.set(self.beside.get() - before + now);
    }

    /// Bytes that users have beside their chunks.
    pub fn beside_bytes(&self) -> usize {
        self.beside.get()
    }

    /// Memory of users.
    pub fn used_bytes(&self) -> usize {
        self.in_use() * CHUNK_BYTES + self.beside.get()
    }

    /// Memory of users, and of what is held on to.
    pub fn memory_bytes(&self) -> usize {
        self.used_bytes() + self.kept() * CHUNK_BYTES
    }
}

fn allocate() -> Result<Box<[u8]>, OutOfMemory> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(CHUNK_BYTES)?;
    bytes.resize(CHUNK_BYTES, 0);
    Ok(bytes.into_boxed_slice())
}

/// [`CHUNK_BYTES`] bytes, which go back to their pool when this is dropped.
#[derive(Debug)]
pub struct PoolChunk {
    bytes: Box<[u8]>,
    pool: Rc<ChunkPool>,
}

impl Deref for PoolChunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for PoolChunk {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for PoolChunk {
    fn drop(&mut self) {
        self.pool.in_use.set(self.pool.in_use.get() - 1);
        let mut free = self.pool.free.borrow_mut();
        let all = free.len() + self.pool.in_use.get();
        if all < self.pool.keep.get() && free.try_reserve(1).is_ok() {
            free.push(core::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::{Random, seed};

    #[test]
    fn chunks_come_and_go_and_are_counted() {
        let mut random = Random::new(seed(2));
        let pool = ChunkPool::new(5);
        let mut taken: Vec<PoolChunk> = Vec::new();
        let mut kept = 0;
        for _ in 0..2000 {
            if random.one_in(2) && taken.len() < 20 {
                let mut chunk = pool.take().unwrap();
                assert_eq!(chunk.len(), CHUNK_BYTES);
                chunk[random.index(CHUNK_BYTES)] = 1;
                taken.push(chunk);
                kept = usize::saturating_sub(kept, 1);
            } else if !taken.is_empty() {
                taken.swap_remove(random.index(taken.len()));
                kept += usize::from(kept + taken.len() < 5);
            }
            assert_eq!((pool.in_use(), pool.kept()), (taken.len(), kept));
            assert_eq!(pool.memory_bytes(), (taken.len() + kept) * CHUNK_BYTES);
        }
        taken.truncate(2);
        pool.set_keep(3);
        assert!(pool.in_use() <= 2 && pool.in_use() + pool.kept() <= 3);
        pool.count_beside(0, 70);
        pool.count_beside(50, 20);
        assert_eq!(pool.used_bytes(), pool.in_use() * CHUNK_BYTES + 40);
    }

    #[test]
    fn nobody_gets_more_than_the_limit() {
        let pool = ChunkPool::new(1);
        pool.set_limit(2);
        let (one, two) = (pool.take().unwrap(), pool.take().unwrap());
        assert_eq!(pool.take().err(), Some(OutOfMemory));
        drop(one);
        assert!(pool.take().is_ok());
        pool.set_limit(0);
        assert_eq!(pool.take().err(), Some(OutOfMemory));
        drop(two);
        assert_eq!((pool.in_use(), pool.kept()), (0, 1));
    }
}

//! Memory in chunks of one size, which is what keeps a heap from fragmenting when much of it comes and goes.
//!
//! A pool holds on to some chunks that nobody uses, counts those in use, and never gives out more than its limit.

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
    keep: usize,
    in_use: Cell<usize>,
    limit: Cell<usize>,
}

impl ChunkPool {
    /// An empty pool, which holds on to at most `keep` chunks that nobody uses.
    pub fn new(keep: usize) -> Rc<Self> {
        Rc::new(Self {
            free: RefCell::default(),
            keep,
            in_use: Cell::new(0),
            limit: Cell::new(usize::MAX),
        })
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
        if free.len() < self.pool.keep && free.try_reserve(1).is_ok() {
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
        let pool = ChunkPool::new(3);
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
                kept = usize::min(kept + 1, 3);
            }
            assert_eq!((pool.in_use(), pool.kept()), (taken.len(), kept));
        }
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

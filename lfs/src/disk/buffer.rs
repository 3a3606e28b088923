//! Memory that a device may read or write while a request is in flight.
//!
//! A [`Buffer`] is a whole number of [`BLOCK_SIZE`] blocks, aligned to a block, so a driver can hand
//! it to a DMA engine as it is. Requests own their buffer until they complete and then give it back.

use alloc::vec::Vec;
use core::cell::RefCell;

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::BlockIndex;

/// Bytes in a block, the unit of every address and every transfer.
pub const BLOCK_SIZE: usize = 4096;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone)]
#[repr(C, align(4096))]
struct Block([u8; BLOCK_SIZE]);

/// A whole number of blocks of memory, aligned to [`BLOCK_SIZE`].
#[derive(Default)]
pub struct Buffer {
    blocks: Vec<Block>,
}

/// There was not enough memory for a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not enough memory for a buffer")]
pub struct BufferAllocError;

impl Buffer {
    /// A buffer of `blocks` blocks, all zero.
    ///
    /// # Errors
    /// When the allocator has no room for it.
    pub fn zeroed(blocks: usize) -> Result<Self, BufferAllocError> {
        let blocks = Block::new_vec_zeroed(blocks).map_err(|_| BufferAllocError)?;
        Ok(Self { blocks })
    }

    /// An empty buffer that can [`grow`](Self::grow) to `blocks` blocks without allocating.
    ///
    /// # Errors
    /// When the allocator has no room for it.
    pub fn with_capacity(blocks: usize) -> Result<Self, BufferAllocError> {
        let mut buffer = Self::zeroed(blocks)?;
        buffer.truncate(0);
        Ok(buffer)
    }

    /// Makes the buffer `blocks` blocks long; new blocks are zero. Shorter or equal is a no-op.
    ///
    /// # Errors
    /// When the capacity does not suffice and the allocator has no room for more.
    pub fn grow(&mut self, blocks: usize) -> Result<(), BufferAllocError> {
        let more = blocks.saturating_sub(self.blocks.len());
        self.blocks
            .try_reserve(more)
            .map_err(|_| BufferAllocError)?;
        self.blocks
            .extend((0..more).map(|_| Block([0; BLOCK_SIZE])));
        Ok(())
    }

    /// Length in blocks.
    pub fn len_blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Whether it holds no block at all.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Shortens the buffer to `blocks` blocks, keeping its memory; longer or equal is a no-op.
    pub fn truncate(&mut self, blocks: usize) {
        self.blocks.truncate(blocks);
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.blocks.as_bytes()
    }

    /// The bytes of one block of the disk, if it is among those that were read from `start` on.
    pub(crate) fn block(&self, start: BlockIndex, block: BlockIndex) -> Option<&[u8]> {
        let index = block.0.checked_sub(start.0)?;
        let index = usize::try_from(index).ok()?;
        self.blocks.get(index).map(IntoBytes::as_bytes)
    }

    /// The bytes, writable.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.blocks.as_mut_bytes()
    }
}

/// Buffers of requests that are through, for the next ones: small ones, and few.
#[derive(Default)]
pub(crate) struct SpareBuffers(RefCell<Vec<Buffer>>);

/// Blocks of a buffer that is kept, and buffers that are, at most: 128 KiB.
const SPARE_BLOCKS_MAX: usize = 2;
const SPARE_MAX: usize = 16;

impl SpareBuffers {
    /// A buffer of `blocks` blocks to be read into: there can be anything in it.
    pub(crate) fn take(&self, blocks: usize) -> Result<Buffer, BufferAllocError> {
        let mut spare = self.0.borrow_mut();
        let found = spare
            .iter()
            .rposition(|buffer| buffer.len_blocks() == blocks);
        match found {
            Some(found) => Ok(spare.swap_remove(found)),
            None => Buffer::zeroed(blocks),
        }
    }

    /// Keeps a buffer for the next request.
    pub(crate) fn give_back(&self, buffer: Buffer) {
        let mut spare = self.0.borrow_mut();
        let is_small = (1..=SPARE_BLOCKS_MAX).contains(&buffer.len_blocks());
        if is_small && spare.len() < SPARE_MAX && spare.try_reserve(1).is_ok() {
            spare.push(buffer);
        }
    }
}

impl core::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Buffer({} blocks)", self.blocks.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_buffers_are_kept_for_the_next_reads_and_few_of_them() {
        let spare = SpareBuffers::default();
        let mut written = spare.take(2).expect("memory");
        written.bytes_mut().fill(7);
        spare.give_back(written);
        assert_eq!(spare.take(1).expect("memory").bytes(), [0; BLOCK_SIZE]);
        let again = spare.take(2).expect("memory");
        assert_eq!(again.bytes(), [7; 2 * BLOCK_SIZE]);
        for blocks in [0, SPARE_BLOCKS_MAX + 1] {
            spare.give_back(Buffer::zeroed(blocks).expect("memory"));
        }
        assert_eq!(spare.0.borrow().len(), 0);
        for _ in 0..2 * SPARE_MAX {
            spare.give_back(Buffer::zeroed(1).expect("memory"));
        }
        assert_eq!(spare.0.borrow().len(), SPARE_MAX);
    }
}

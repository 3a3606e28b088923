//! Memory that a device may read or write while a request is in flight.
//!
//! A [`Buffer`] is a whole number of [`BLOCK_SIZE`] blocks, aligned to a block, so a driver can hand
//! it to a DMA engine as it is. Requests own their buffer until they complete and then give it back.

use alloc::vec::Vec;

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

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

    /// The bytes, writable.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.blocks.as_mut_bytes()
    }
}

impl core::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Buffer({} blocks)", self.blocks.len())
    }
}

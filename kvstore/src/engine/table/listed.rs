//! A chunk, as what finds it lists it.

use crate::engine::cache::Hint;
use crate::engine::types::ChunkRef;

/// Where a chunk is, and where the cache had it when it was asked for the last time: 16 bytes, of which an index has many.
#[derive(Debug, Clone)]
pub struct ListedChunk {
    offset: u64,
    len: u32,
    hint: Hint,
}

impl ListedChunk {
    /// Where it is.
    pub fn at(&self) -> ChunkRef {
        ChunkRef {
            offset: self.offset,
            len: self.len,
        }
    }

    /// Where the cache had it.
    pub fn hint(&self) -> &Hint {
        &self.hint
    }
}

impl From<ChunkRef> for ListedChunk {
    fn from(at: ChunkRef) -> Self {
        Self {
            offset: at.offset,
            len: at.len,
            hint: Hint::default(),
        }
    }
}

/// Where the cache had it does not matter.
impl PartialEq for ListedChunk {
    fn eq(&self, other: &Self) -> bool {
        self.at() == other.at()
    }
}

impl Eq for ListedChunk {}

//! Objects: immutable rows of chunks that own whole segments (SPEC.md, "Objects of the layer above").
//!
//! An object is written once, front to back, and named by a checkpoint from then on. Each chunk has a checksum, and a seal where
//! there is a key, of its own, which covers where it belongs: so one is read with one request, and proves by itself that it is the one that was
//! asked for. Deleting an object frees its segments; there is never anything to copy.
//!
//! - `chunk`: how a chunk looks, and where the next one begins;
//! - `blocks`: an object's segments as one device;
//! - `writer`, `scan`: a whole object, front to back; this file: one chunk.
//!
//! Invariants:
//! - Nothing that is read is believed before its checksum and seal are right for this object, this place and this length.
//! - A length from the disk leads nowhere outside the object, and a walk goes on at the next segment at the latest.
//!
//! Not here: which objects there are (`checkpoint`), and what is in their chunks.

mod blocks;
mod chunk;
mod scan;
mod writer;

use alloc::vec::Vec;

pub(crate) use blocks::ObjectBlocks;
pub(crate) use chunk::Form;
pub use scan::ObjectScan;
pub(crate) use scan::{Outline, ScanStep};
pub use writer::ObjectWriter;

use chunk::Unopened;

use crate::checkpoint::ObjectInfo;
use crate::disk::superblock::{SegmentId, Superblock};
use crate::disk::{SpareBuffers, read_checked_within};
use crate::seal::SharedVault;
use crate::{BLOCK_SIZE, BlockDevice, BlockIndex, ObjectId, ObjectReadError};

/// Bytes that a chunk holds, at most.
pub const CHUNK_BYTES_MAX: usize = 128 << 10;

/// Bytes that a chunk takes besides what it holds, at most: with a key. 8 without.
pub const CHUNK_HEAD_BYTES_MAX: usize = chunk::HEAD_BYTES + crate::disk::layout::SEAL_BYTES;

/// A chunk of an object: where it begins, and how much it holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub struct ChunkRef {
    /// Bytes from the object's start.
    pub offset: u64,
    /// Bytes that were put, 1 to [`CHUNK_BYTES_MAX`].
    pub len: u32,
}

/// Segments that the first `len_bytes` of an object take.
pub(crate) fn segments_for(superblock: &Superblock, len_bytes: u64) -> u64 {
    len_bytes.div_ceil(superblock.segment_bytes() as u64)
}

/// A chunk, and where it is: all that is needed to read it.
pub(crate) struct Located {
    superblock: Superblock,
    vault: SharedVault,
    id: ObjectId,
    chunk: ChunkRef,
    /// The number of the first of `segments` in the object.
    first_segment: u64,
    /// Those that it is in. Nearly always one.
    segments: Vec<SegmentId>,
}

impl Located {
    /// Where `chunk` of an object is.
    pub(crate) fn new(
        superblock: Superblock,
        vault: SharedVault,
        id: ObjectId,
        info: &ObjectInfo,
        chunk: ChunkRef,
    ) -> Result<Self, ObjectReadError> {
        let form = Form::new(&superblock, &vault);
        let end = form.end(chunk.offset, chunk.len, info.len_bytes);
        let end = end.ok_or(ObjectReadError::NoChunk)?;
        let segment_bytes = superblock.segment_bytes() as u64;
        let first_segment = chunk.offset / segment_bytes;
        let segments = first_segment..end.div_ceil(segment_bytes);
        let segments = usize::try_from(segments.start)
            .and_then(|first| Ok(first..usize::try_from(segments.end)?));
        let segments = segments.map_err(|_| ObjectReadError::NoChunk)?;
        let segments = info
            .segments
            .get(segments)
            .ok_or(ObjectReadError::NoChunk)?;
        Ok(Self {
            superblock,
            vault,
            id,
            chunk,
            first_segment,
            segments: segments.to_vec(),
        })
    }

    /// What the chunk holds: with one request, unless it is damaged in the copy that is read, or goes on in another segment.
    pub(crate) async fn read(
        &self,
        device: &impl BlockDevice,
        spare: &SpareBuffers,
    ) -> Result<Vec<u8>, ObjectReadError> {
        let blocks = ObjectBlocks::new(device, self.superblock, self.first_segment, &self.segments);
        let form = Form::new(&self.superblock, &self.vault);
        let mut bytes = Vec::new();
        read_one(&blocks, &form, spare, self.id, self.chunk, &mut bytes).await?;
        Ok(bytes)
    }
}

/// Appends what a chunk holds to `bytes`, from whichever copy has it; what others have of it is mended.
async fn read_one<D: BlockDevice>(
    blocks: &ObjectBlocks<'_, D>,
    form: &Form<'_>,
    spare: &SpareBuffers,
    id: ObjectId,
    chunk: ChunkRef,
    bytes: &mut Vec<u8>,
) -> Result<(), ObjectReadError> {
    let block = BLOCK_SIZE as u64;
    let first = chunk.offset / block;
    let (Ok(at), Ok(len), Ok(count)) = (
        usize::try_from(chunk.offset % block),
        usize::try_from(form.stored_bytes(chunk.len)),
        usize::try_from((chunk.offset + form.stored_bytes(chunk.len)).div_ceil(block) - first),
    ) else {
        return Err(ObjectReadError::OutOfMemory);
    };
    let within = at..at + len;
    let check = |read: &[u8]| {
        let stored = read.get(within.clone()).unwrap_or_default();
        form.open(id, chunk.offset, stored, bytes)
    };
    let buffer = spare.take(count);
    let buffer = buffer.map_err(|_| ObjectReadError::OutOfMemory)?;
    let start = BlockIndex(first);
    let (buffer, found) = read_checked_within(blocks, start, buffer, within.clone(), check).await;
    spare.give_back(buffer);
    match found.map_err(ObjectReadError::Device)? {
        Ok(()) => Ok(()),
        Err(Unopened::OutOfMemory) => Err(ObjectReadError::OutOfMemory),
        Err(Unopened::Damaged) => Err(ObjectReadError::Damaged {
            object: id,
            block: blocks.place(start).unwrap_or(BlockIndex(0)),
        }),
    }
}

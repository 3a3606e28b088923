//! Writing an object, front to back.
//!
//! Chunks are made in memory as they are put, one behind the other, and written in pieces that end where 128 KiB or the
//! segment end: each block once.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::chunk::{Form, Leaves};
use super::{CHUNK_BYTES_MAX, ChunkRef};
use crate::checkpoint::ObjectInfo;
use crate::mount::FileSystem;
use crate::{BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, ObjectId, ObjectWriteError};

/// What one request writes or reads, at most.
pub(super) const PIECE_BYTES: u64 = 128 << 10;

/// Writes one object, front to back.
///
/// Dropped before [`finish`](Self::finish) it gives its segments back, unless a write is still under
/// way in them: then they stay unused until the next mount.
pub struct ObjectWriter<'f, D: BlockDevice> {
    filesystem: &'f FileSystem<D>,
    id: ObjectId,
    info: ObjectInfo,
    /// Bytes of the object from `written` on.
    pending: Vec<u8>,
    /// Where what is pending begins: at a piece's start.
    written: u64,
    /// Where chunks end of segments that are not filled, as far as these are pending.
    gaps: VecDeque<u64>,
    /// Memory for the next write.
    buffer: Buffer,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Taking,
    /// The device has a part of it, or had when whoever waited for that went away.
    Writing,
    Failed,
    Finished,
}

impl<'f, D: BlockDevice> ObjectWriter<'f, D> {
    pub(crate) fn new(filesystem: &'f FileSystem<D>, id: ObjectId) -> Self {
        Self {
            filesystem,
            id,
            info: ObjectInfo::default(),
            pending: Vec::new(),
            written: 0,
            gaps: VecDeque::new(),
            buffer: Buffer::default(),
            state: State::Taking,
        }
    }

    fn form(&self) -> Form<'f> {
        Form::new(self.filesystem.superblock(), &self.filesystem.vault)
    }

    /// Adds a chunk that holds `bytes`, of which there are 1 to [`CHUNK_BYTES_MAX`], and says where it is. In memory: whoever puts
    /// much calls [`write_full`](Self::write_full) in between.
    ///
    /// # Errors
    /// Nothing was added then; see [`ObjectWriteError`].
    pub fn put(&mut self, bytes: &[u8]) -> Result<ChunkRef, ObjectWriteError> {
        if self.state != State::Taking {
            return Err(ObjectWriteError::Failed);
        }
        let len = u32::try_from(bytes.len()).map_err(|_| ObjectWriteError::ChunkLength)?;
        if bytes.is_empty() || bytes.len() > CHUNK_BYTES_MAX {
            return Err(ObjectWriteError::ChunkLength);
        }
        let form = self.form();
        let end = self.len_bytes();
        let placed = form.place(end, len);
        let behind = placed.at + form.stored_bytes(len);
        let more = usize::try_from(behind - end).map_err(|_| ObjectWriteError::OutOfMemory)?;
        let reserved = self.pending.try_reserve(more);
        reserved.map_err(|_| ObjectWriteError::OutOfMemory)?;
        let reserved = self.gaps.try_reserve(1);
        reserved.map_err(|_| ObjectWriteError::OutOfMemory)?;

        if let Some(leaves) = placed.leaves {
            if leaves == Leaves::Room {
                self.push(&form, &[]);
            }
            self.gaps.push_back(self.len_bytes());
            let gap = usize::try_from(placed.at - self.len_bytes()).unwrap_or(0);
            self.pending.resize(self.pending.len() + gap, 0);
        }
        self.push(&form, bytes);
        Ok(ChunkRef {
            offset: placed.at,
            len,
        })
    }

    /// Adds a chunk for which there is memory where what is pending ends.
    fn push(&mut self, form: &Form<'_>, bytes: &[u8]) {
        let (at, start) = (self.len_bytes(), self.pending.len());
        self.pending.resize(start + form.head_bytes(), 0);
        self.pending.extend_from_slice(bytes);
        let stored = self.pending.get_mut(start..).unwrap_or_default();
        form.close(self.id, at, stored);
    }

    /// The number of the object, which no other ever has while the file system is mounted.
    pub fn id(&self) -> ObjectId {
        self.id
    }

    /// Bytes of the object so far.
    pub fn len_bytes(&self) -> u64 {
        self.written + self.pending.len() as u64
    }

    /// Segments that it takes so far.
    pub fn segments(&self) -> u64 {
        super::segments_for(self.filesystem.superblock(), self.len_bytes())
    }

    /// Bytes that are left in these: a chunk takes what it holds and up to
    /// [`CHUNK_HEAD_BYTES_MAX`](crate::CHUNK_HEAD_BYTES_MAX).
    pub fn room_in_segment(&self) -> u64 {
        self.segments() * self.form().segment_bytes() - self.len_bytes()
    }

    /// Writes what fills requests of 128 KiB. What is put less often takes more memory.
    ///
    /// # Errors
    /// The object cannot be finished then.
    pub async fn write_full(&mut self) -> Result<(), ObjectWriteError> {
        while let Some(len) = self.full_piece() {
            self.write_piece(len).await?;
        }
        Ok(())
    }

    /// Writes what is left and ends the object. Durable, and there after the next mount, only once a
    /// checkpoint that adds it is.
    ///
    /// # Errors
    /// As [`write_full`](Self::write_full); the object is gone then.
    pub async fn finish(mut self) -> Result<ObjectId, ObjectWriteError> {
        let len_bytes = self.len_bytes();
        self.write_full().await?;
        if !self.pending.is_empty() {
            self.write_piece(self.pending.len()).await?;
        }
        if self.state != State::Taking {
            return Err(ObjectWriteError::Failed);
        }
        self.state = State::Finished;
        self.info.len_bytes = len_bytes;
        let info = core::mem::take(&mut self.info);
        self.filesystem.add_object(self.id, info);
        Ok(self.id)
    }

    /// Bytes of the next piece, if all of it is pending.
    fn full_piece(&self) -> Option<usize> {
        let end = self.form().next_segment(self.written);
        let len = usize::try_from(PIECE_BYTES.min(end - self.written)).ok()?;
        (self.pending.len() >= len).then_some(len)
    }

    /// Writes the first `len` bytes of what is pending, which are within a segment.
    async fn write_piece(&mut self, len: usize) -> Result<(), ObjectWriteError> {
        if self.state != State::Taking {
            return Err(ObjectWriteError::Failed);
        }
        // Until it has worked.
        self.state = State::Failed;
        let superblock = self.filesystem.superblock();
        let segment_bytes = self.form().segment_bytes();
        let index = usize::try_from(self.written / segment_bytes);
        let index = index.map_err(|_| ObjectWriteError::OutOfMemory)?;
        if index >= self.info.segments.len() {
            let segment = self.filesystem.allocate_segment();
            self.info
                .segments
                .push(segment.ok_or(ObjectWriteError::Full)?);
        }
        let segment = self.info.segments.get(index);
        let segment = *segment.ok_or(ObjectWriteError::Failed)?;
        let start = superblock.segment_start(segment).0;
        let block = BlockIndex(start + self.written % segment_bytes / BLOCK_SIZE as u64);
        let used = self.used_bytes(len);
        if used > 0 {
            let blocks = used.div_ceil(BLOCK_SIZE);
            let mut buffer = core::mem::take(&mut self.buffer);
            buffer.truncate(blocks);
            let grown = buffer.grow(blocks);
            grown.map_err(|_| ObjectWriteError::OutOfMemory)?;
            let (head, tail) = buffer.bytes_mut().split_at_mut(used);
            head.copy_from_slice(self.pending.get(..used).unwrap_or_default());
            tail.fill(0);
            self.state = State::Writing;
            let (buffer, written) = self.filesystem.device().write(block, buffer).await;
            self.state = State::Failed;
            self.buffer = buffer;
            self.filesystem.count_written(blocks);
            written.map_err(|error| self.filesystem.write_failed(error))?;
        }
        self.pending.drain(..len);
        self.written += len as u64;
        let form = self.form();
        let is_written = |gap: &u64| form.next_segment(gap.saturating_sub(1)) <= self.written;
        while self.gaps.front().is_some_and(is_written) {
            self.gaps.pop_front();
        }
        self.state = State::Taking;
        Ok(())
    }

    /// How many of the first `len` bytes of what is pending are to be written: not those behind a segment's last chunk.
    fn used_bytes(&self, len: usize) -> usize {
        let segment_end = self.form().next_segment(self.written);
        let ends = self.gaps.front().filter(|gap| **gap <= segment_end);
        let used = ends.map(|end| end.saturating_sub(self.written));
        used.and_then(|used| usize::try_from(used).ok())
            .map_or(len, |used| used.min(len))
    }
}

impl<D: BlockDevice> Drop for ObjectWriter<'_, D> {
    fn drop(&mut self) {
        if !matches!(self.state, State::Finished | State::Writing) {
            self.filesystem.release_segments(&self.info.segments);
        }
    }
}

//! Reading an object front to back, chunk by chunk, in requests of 128 KiB.
//!
//! Where a chunk is damaged, nothing says whether its length is. What follows is found again by going on as the lengths say
//! until a chunk is right, at the next segment at the latest: a chunk is right in its own place alone, so what lies before it is
//! lost, and no more.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::ops::Range;

use super::chunk::{Form, Unopened};
use super::writer::PIECE_BYTES;
use super::{ChunkRef, ObjectBlocks, read_one};
use crate::checkpoint::ObjectInfo;
use crate::disk::SpareBuffers;
use crate::disk::superblock::Superblock;
use crate::seal::SharedVault;
use crate::{BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, ObjectId, ObjectReadError};

/// An object, as far as it is known without reading it.
#[derive(Clone)]
pub(crate) struct Outline {
    pub superblock: Superblock,
    pub vault: SharedVault,
    pub id: ObjectId,
    pub info: Rc<ObjectInfo>,
}

impl Outline {
    pub(crate) fn new(
        superblock: Superblock,
        vault: SharedVault,
        id: ObjectId,
        info: ObjectInfo,
    ) -> Self {
        Self {
            superblock,
            vault,
            id,
            info: Rc::new(info),
        }
    }

    pub(crate) fn form(&self) -> Form<'_> {
        Form::new(&self.superblock, &self.vault)
    }

    pub(crate) fn blocks<'d, D: BlockDevice>(&'d self, device: &'d D) -> ObjectBlocks<'d, D> {
        ObjectBlocks::new(device, self.superblock, 0, &self.info.segments)
    }

    /// Where the object ends.
    pub(crate) fn end(&self) -> u64 {
        self.info.len_bytes
    }

    fn damaged(&self, at: u64) -> ObjectReadError {
        ObjectReadError::Damaged {
            object: self.id,
            block: self.block(at),
        }
    }

    /// The block on the disk that a byte of the object is in.
    pub(crate) fn block(&self, at: u64) -> BlockIndex {
        let segment_bytes = self.superblock.segment_bytes() as u64;
        let segment = usize::try_from(at / segment_bytes).ok();
        let segment = segment.and_then(|segment| self.info.segments.get(segment));
        let start = segment.map_or(0, |segment| self.superblock.segment_start(*segment).0);
        BlockIndex(start + at % segment_bytes / BLOCK_SIZE as u64)
    }
}

/// Reads one object front to back, in requests of 128 KiB.
pub struct ObjectScan {
    outline: Outline,
    /// Where the next chunk begins.
    at: u64,
    /// Bytes of the object from `window_at` on. They end with a block.
    window: Vec<u8>,
    window_at: u64,
    read_bytes: u64,
}

/// What is found next in an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScanStep {
    Chunk(ChunkRef),
    /// It goes on at the next segment.
    NextSegment,
    End,
}

impl ObjectScan {
    pub(crate) fn new(outline: Outline) -> Self {
        Self {
            outline,
            at: 0,
            window: Vec::new(),
            window_at: 0,
            read_bytes: 0,
        }
    }

    /// Goes on with this chunk, which was put into this object.
    pub fn seek(&mut self, chunk: ChunkRef) {
        self.at = chunk.offset;
    }

    /// Appends what the next chunk holds to `bytes`, and says where it is; `None` at the end.
    ///
    /// # Errors
    /// [`ObjectReadError::Damaged`] when no copy has a chunk here: the same call finds the same again.
    pub async fn next(
        &mut self,
        device: &impl BlockDevice,
        bytes: &mut Vec<u8>,
    ) -> Result<Option<ChunkRef>, ObjectReadError> {
        loop {
            match self.step(device, bytes).await? {
                ScanStep::Chunk(chunk) => return Ok(Some(chunk)),
                ScanStep::NextSegment => {}
                ScanStep::End => return Ok(None),
            }
        }
    }

    /// Where it stands.
    pub(crate) fn position(&self) -> u64 {
        self.at
    }

    /// The block on the disk where it stands.
    pub(crate) fn block(&self) -> BlockIndex {
        self.outline.block(self.at)
    }

    pub(crate) fn go_to(&mut self, at: u64) {
        self.at = at;
    }

    /// Bytes that were read from the device since this was asked last.
    pub(crate) fn take_read_bytes(&mut self) -> u64 {
        core::mem::take(&mut self.read_bytes)
    }

    /// As [`next`](Self::next), and also stops where the object goes on at the next segment.
    pub(crate) async fn step(
        &mut self,
        device: &impl BlockDevice,
        bytes: &mut Vec<u8>,
    ) -> Result<ScanStep, ObjectReadError> {
        self.at = self.outline.form().settle(self.at);
        if self.at >= self.outline.end() {
            return Ok(ScanStep::End);
        }
        let found = match self.step_in_window(device, bytes).await {
            Err(ObjectReadError::OutOfMemory) => return Err(ObjectReadError::OutOfMemory),
            // What was read is all there is.
            Err(damaged @ ObjectReadError::Damaged { .. }) if device.copies() <= 1 => {
                return Err(damaged);
            }
            // One request may have met something bad far behind the chunk; or another copy has it.
            // Boxed, as is all that is large and hardly ever needed: whoever reads would have to have room for it.
            Err(_) => Box::pin(self.step_alone(device, bytes)).await?,
            Ok(len) => len,
        };
        let at = self.at;
        let next = self.outline.form().behind(at, found, self.outline.end());
        self.at = next.ok_or_else(|| self.outline.damaged(at))?;
        if found == 0 {
            return Ok(ScanStep::NextSegment);
        }
        Ok(ScanStep::Chunk(ChunkRef {
            offset: at,
            len: found,
        }))
    }

    /// The length of the chunk here, which is then in `bytes`; from the copy that the device reads.
    async fn step_in_window(
        &mut self,
        device: &impl BlockDevice,
        bytes: &mut Vec<u8>,
    ) -> Result<u32, ObjectReadError> {
        let at = self.at;
        let damaged = self.outline.damaged(at);
        let len = self.said_len(device).await?.ok_or(damaged)?;
        let stored_bytes = self.outline.form().stored_bytes(len);
        self.fill(device, stored_bytes).await?;
        let stored = self.in_window(stored_bytes).ok_or(damaged)?;
        let opened = self.outline.form().open(self.outline.id, at, stored, bytes);
        opened.map_err(|error| match error {
            Unopened::Damaged => damaged,
            Unopened::OutOfMemory => ObjectReadError::OutOfMemory,
        })?;
        Ok(len)
    }

    /// What the copy that the device reads says is the length here, if it can be.
    pub(crate) async fn said_len(
        &mut self,
        device: &impl BlockDevice,
    ) -> Result<Option<u32>, ObjectReadError> {
        let head_bytes = self.outline.form().head_bytes() as u64;
        self.fill(device, head_bytes).await?;
        let len = self.in_window(head_bytes).and_then(Form::said_len);
        Ok(len.filter(|len| self.is_possible(*len)))
    }

    /// The same without reading ahead, where that meets what cannot be read.
    async fn said_len_alone(
        &mut self,
        device: &impl BlockDevice,
    ) -> Result<Option<u32>, ObjectReadError> {
        let outline = self.outline.clone();
        let len = self.len_of_copy(&outline.blocks(device), 0).await?;
        Ok(len.filter(|len| self.is_possible(*len)))
    }

    fn is_possible(&self, len: u32) -> bool {
        let form = self.outline.form();
        form.behind(self.at, len, self.outline.end()).is_some()
    }

    /// The same from whichever copy has it, without reading ahead.
    async fn step_alone(
        &mut self,
        device: &impl BlockDevice,
        bytes: &mut Vec<u8>,
    ) -> Result<u32, ObjectReadError> {
        let (outline, at) = (self.outline.clone(), self.at);
        let blocks = outline.blocks(device);
        let mut error = outline.damaged(at);
        let mut tried = None;
        for copy in 0..device.copies() {
            let len = match self.len_of_copy(&blocks, copy).await {
                Ok(len) => len,
                Err(failed) => {
                    error = failed;
                    continue;
                }
            };
            let Some(len) = len.filter(|len| Some(*len) != tried && self.is_possible(*len)) else {
                continue;
            };
            tried = Some(len);
            let chunk = ChunkRef { offset: at, len };
            match read_one(
                &blocks,
                &outline.form(),
                &SpareBuffers::default(),
                outline.id,
                chunk,
                bytes,
            )
            .await
            {
                Ok(()) => return Ok(len),
                Err(ObjectReadError::OutOfMemory) => return Err(ObjectReadError::OutOfMemory),
                Err(failed) => error = failed,
            }
        }
        Err(error)
    }

    /// What one copy says is the length here.
    async fn len_of_copy<D: BlockDevice>(
        &mut self,
        blocks: &ObjectBlocks<'_, D>,
        copy: u8,
    ) -> Result<Option<u32>, ObjectReadError> {
        let head_bytes = self.outline.form().head_bytes();
        let block = BLOCK_SIZE as u64;
        let within = usize::try_from(self.at % block).unwrap_or(0);
        let count = (within + head_bytes).div_ceil(BLOCK_SIZE);
        let buffer = Buffer::zeroed(count).map_err(|_| ObjectReadError::OutOfMemory)?;
        let start = BlockIndex(self.at / block);
        let (buffer, read) = blocks.read_copy(copy, start, buffer).await;
        self.read_bytes += (count * BLOCK_SIZE) as u64;
        read.map_err(ObjectReadError::Device)?;
        Ok(buffer.bytes().get(within..).and_then(Form::said_len))
    }

    /// Goes to where the object goes on behind a chunk that is damaged here. Gives the bytes that are lost.
    pub(crate) async fn pass_damage(
        &mut self,
        device: &impl BlockDevice,
    ) -> Result<Range<u64>, ObjectReadError> {
        let (from, end) = (self.at, self.outline.end());
        let segment_end = self.outline.form().next_segment(from).min(end);
        // What lies behind, as the lengths say, in this segment.
        let mut behind = self.place_behind(device).await?;
        while let Some(next) = behind.filter(|next| *next < segment_end) {
            if self.is_chunk(device, next).await? {
                return Ok(from..next);
            }
            behind = self.place_behind(device).await?;
        }
        // A chunk that is larger than a segment goes on in the next one. If it does not, there is one.
        let beyond = behind.filter(|next| *next > segment_end);
        if let Some(next) = beyond
            && !self.is_chunk(device, segment_end).await?
            && (next >= end || self.is_chunk(device, next).await?)
        {
            self.at = next.min(end);
            return Ok(from..self.at);
        }
        self.at = segment_end;
        Ok(from..segment_end)
    }

    /// Where the next chunk is by what is said to be the length of this one; `None` if that cannot be, or there is nothing more in this
    /// segment.
    async fn place_behind(
        &mut self,
        device: &impl BlockDevice,
    ) -> Result<Option<u64>, ObjectReadError> {
        let said = match self.said_len(device).await {
            Err(ObjectReadError::Device(_)) => self.said_len_alone(device).await,
            said => said,
        };
        match said {
            Err(ObjectReadError::OutOfMemory) => Err(ObjectReadError::OutOfMemory),
            said => {
                let len = said.ok().flatten().filter(|len| *len > 0);
                let behind = |len| self.outline.form().behind(self.at, len, self.outline.end());
                Ok(len.and_then(behind))
            }
        }
    }

    /// Goes to a place, and tells whether there is a chunk that is right.
    async fn is_chunk(
        &mut self,
        device: &impl BlockDevice,
        at: u64,
    ) -> Result<bool, ObjectReadError> {
        self.at = at;
        let mut bytes = Vec::new();
        let found = match self.step_in_window(device, &mut bytes).await {
            Err(ObjectReadError::Device(_)) => Box::pin(self.step_alone(device, &mut bytes)).await,
            found => found,
        };
        match found {
            Err(ObjectReadError::OutOfMemory) => Err(ObjectReadError::OutOfMemory),
            found => Ok(found.is_ok()),
        }
    }

    /// Reads on until `len` bytes from here on are there.
    async fn fill(&mut self, device: &impl BlockDevice, len: u64) -> Result<(), ObjectReadError> {
        let window_end = |scan: &Self| scan.window_at + scan.window.len() as u64;
        if self.at < self.window_at || self.at >= window_end(self) {
            self.window.clear();
            self.window_at = self.at - self.at % BLOCK_SIZE as u64;
        }
        let wanted = self.at.saturating_add(len);
        if wanted > window_end(self) {
            let gone = usize::try_from(self.at - self.window_at).unwrap_or(0);
            self.window.drain(..gone.min(self.window.len()));
            self.window_at = if self.window.is_empty() {
                self.window_at
            } else {
                self.at
            };
        }
        while window_end(self) < wanted {
            let start = window_end(self);
            let stop = (start - start % PIECE_BYTES + PIECE_BYTES)
                .min(self.outline.form().next_segment(start))
                .min(self.outline.end().next_multiple_of(BLOCK_SIZE as u64));
            let Some(count) = stop.checked_sub(start).filter(|count| *count > 0) else {
                return Err(self.outline.damaged(self.at));
            };
            let out_of_memory = ObjectReadError::OutOfMemory;
            let count = usize::try_from(count).map_err(|_| out_of_memory)?;
            let reserved = self.window.try_reserve(count);
            reserved.map_err(|_| out_of_memory)?;
            let buffer = Buffer::zeroed(count / BLOCK_SIZE).map_err(|_| out_of_memory)?;
            let outline = self.outline.clone();
            let block = BlockIndex(start / BLOCK_SIZE as u64);
            let (buffer, read) = outline.blocks(device).read(block, buffer).await;
            self.read_bytes += count as u64;
            read.map_err(ObjectReadError::Device)?;
            self.window.extend_from_slice(buffer.bytes());
        }
        Ok(())
    }

    fn in_window(&self, len: u64) -> Option<&[u8]> {
        let start = usize::try_from(self.at.checked_sub(self.window_at)?).ok()?;
        let end = start.checked_add(usize::try_from(len).ok()?)?;
        self.window.get(start..end)
    }
}

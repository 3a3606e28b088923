//! The value file: data that the layer above keeps where its commits wrote them (SPEC.md, "The value file").
//!
//! It is the data of one object without an inode, endless and sparse. Values are written with the commit that records them, stored like file data, and
//! moved, verified and mended like these. Whoever names them decides who still sees them: there is no history of
//! them, no backup has them, and open transactions see what is there now.

use alloc::vec::Vec;
use core::ops::Range;

use super::files::Loading;
use super::volume::after;
use super::write_set::{Loaded, Staged};
use super::{At, Run, piece_of};
use crate::disk::layout::VALUE_OBJECT;
use crate::tree::Key;
use crate::{
    BLOCK_SIZE, BlockDevice, FileError, FileSystem, ItemKey, ItemKind, StoredRange, Transaction,
};

/// Offsets in the value file are below this.
pub const VALUE_OFFSETS: u64 = 1 << 62;

impl Transaction<'_> {
    /// Writes `bytes` at `offset` of the value file, where nothing was ever written; a multiple of 4096. They are extents of at most 64 KiB. Two values
    /// between which there is not a byte may become one extent.
    ///
    /// # Errors
    /// [`FileError::Invalid`] for another offset, or no bytes; [`FileError::TransactionTooLarge`].
    pub fn write_value(&mut self, offset: u64, bytes: &[u8]) -> Result<(), FileError> {
        let end = offset.checked_add(bytes.len() as u64);
        let fits = end.is_some_and(|end| end <= VALUE_OFFSETS);
        if !fits || bytes.is_empty() || !offset.is_multiple_of(BLOCK_SIZE as u64) {
            return Err(FileError::Invalid);
        }
        self.stage_data(VALUE_OBJECT, offset, bytes)
    }
}

impl<D: BlockDevice> FileSystem<D> {
    /// The `len` bytes of the value file from `offset` on.
    ///
    /// # Errors
    /// [`FileError::Fault`] when they have to be loaded; [`FileError::NotFound`] when not all of them are there; [`FileError::DamagedData`];
    /// [`FileError::OutOfMemory`].
    pub fn read_value(
        &self,
        offset: u64,
        len: usize,
        loaded: &Loaded,
    ) -> Result<Vec<u8>, FileError> {
        let unwritten = |range| self.log.copy_unwritten(range);
        let volume = self.volume.borrow();
        let transaction = Transaction::new(&volume, At::Newest, loaded, &unwritten, 0);
        let end = offset.saturating_add(len as u64);
        let runs = transaction.layout(VALUE_OBJECT, offset, end)?;
        let there = runs.iter().map(Run::range).map(|(start, end)| end - start);
        if there.sum::<u64>() != len as u64 {
            return Err(FileError::NotFound);
        }
        let mut bytes = Vec::new();
        bytes
            .try_reserve_exact(len)
            .map_err(|_| FileError::OutOfMemory)?;
        bytes.resize(len, 0);
        transaction.read_runs(runs, VALUE_OBJECT, offset, &mut bytes)?;
        Ok(bytes)
    }

    /// The same, read from the device where it is not in memory: what was written there once is never anything else.
    ///
    /// # Errors
    /// Those of [`read_value`](Self::read_value) but for faults, and those of [`load`](Self::load).
    pub async fn load_value(&self, offset: u64, len: usize) -> Result<Vec<u8>, FileError> {
        let _counted = Loading::begin(self);
        let mut loaded = Loaded::default();
        loop {
            // Nearly always it is all of one extent, and right.
            if loaded.data.is_empty()
                && let Some(bytes) = self.load_whole(offset, len).await
            {
                return Ok(bytes);
            }
            self.refresh(&mut loaded);
            match self.read_value(offset, len, &loaded) {
                Err(FileError::Fault(fault)) => self.load(fault, &mut loaded).await?,
                read => return read,
            }
        }
    }

    /// A value that is all of one extent, opened where it was read; `None` if it is not, or something is missing or wrong.
    async fn load_whole(&self, offset: u64, len: usize) -> Option<Vec<u8>> {
        let key = ItemKey::new(VALUE_OBJECT, ItemKind::Extent, offset);
        let item = self.volume.borrow().live.get(&Key::live(key)).ok()?;
        let at = piece_of(key, &item?).ok()?;
        let range = StoredRange {
            address: at.piece.address,
            len_bytes: at.piece.stored_len,
        };
        if at.piece.len as usize != len {
            return None;
        }
        let identity = at.piece.identity(VALUE_OBJECT, offset, at.birth);
        let open = |stored: &[u8]| {
            let sealer = self.vault.sealer();
            at.piece.read(sealer, identity, stored, &(0..len as u64))
        };
        self.open_stored(range, open).await.ok()?.ok()
    }

    /// Lets go of what of `loaded` may have moved since it was loaded: before it is read from again, when something was awaited in between.
    pub fn refresh(&self, loaded: &mut Loaded) {
        loaded.refresh(&self.volume.borrow());
    }

    /// Frees ranges of the value file, which begin and end at multiples of 4096, in one commit that never finds the disk full. What is free already stays so.
    /// **Not durable** on return: a crash may bring back what was freed.
    ///
    /// # Errors
    /// [`FileError::Invalid`] for other ranges; [`FileError::TransactionTooLarge`] when they touch too much for one commit; else what could not be read,
    /// and [`FileError::ReadOnly`].
    pub async fn free_values(&self, ranges: &[Range<u64>]) -> Result<(), FileError> {
        let is_whole = |at: u64| at.is_multiple_of(BLOCK_SIZE as u64) && at <= VALUE_OFFSETS;
        let is_possible = |range: &Range<u64>| {
            is_whole(range.start) && is_whole(range.end) && range.start < range.end
        };
        if !ranges.iter().all(is_possible) {
            return Err(FileError::Invalid);
        }
        let free = |transaction: &mut Transaction<'_>| {
            for range in ranges {
                let hole = Staged {
                    len: range.end - range.start,
                    data: None,
                };
                transaction.set.stage(VALUE_OBJECT, range.start, hole);
            }
            Ok(())
        };
        self.transact_tidying(0, free).await
    }

    /// Where there is something in the value file, from the byte `from` on: up to `limit` ranges of bytes, in order, none when there are no
    /// more. For whoever compares them with what is named.
    ///
    /// # Errors
    /// What could not be read.
    pub async fn values(&self, from: u64, limit: usize) -> Result<Vec<Range<u64>>, FileError> {
        let some = |transaction: &mut Transaction<'_>| {
            let mut values = Vec::new();
            let mut next = transaction.volume.first_piece_over(VALUE_OBJECT, from)?;
            while let Some((key, item)) = next
                && values.len() < limit
            {
                let piece = piece_of(key.item_key(), &item)?;
                values.push(piece.position..piece.end());
                next = transaction.volume.piece_from(&after(&key))?;
            }
            Ok(values)
        };
        self.read_at(At::Newest, some).await
    }
}

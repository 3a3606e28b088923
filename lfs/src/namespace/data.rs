//! Content of files: reading, writing, truncating, holes.
//!
//! **Large truncations.** Freeing data takes time in proportion to its pieces, and a transaction must not
//! take long. So a transaction frees up to 64 chunks that hold data (16 MiB at most) at once; of
//! more the inode only notes that the range is *cut*: it reads as zeros from then on, and
//! [`reclaim_orphan`](Namespace::reclaim_orphan) frees what is in it. A file that is truncated to nothing
//! gets a new, empty data object instead, and the old one becomes an orphan. Either way the truncation is
//! atomic and takes effect at once, but for the space. A write into a cut takes its range out of the cut;
//! an inode has at most 32 of them (`cuts`).

use alloc::vec::Vec;

use super::Namespace;
use super::cuts::{CUTS_MAX, Cuts};
use super::inode::Inode;
use super::types::{FILE_BYTES_MAX, FileKind, InodeNumber, Sought};
use crate::{FileError, View};

/// Bounds of the work that one operation does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Data is counted, and freed in the background, in pieces of a file of this many bytes.
    pub(super) chunk_bytes: u64,
    /// Most chunks with data that a transaction frees at once.
    pub(super) chunks_freed_max: u64,
}

impl Limits {
    /// 16 MiB of 256 KiB.
    pub(super) const USUAL: Self = Self {
        chunk_bytes: 256 << 10,
        chunks_freed_max: 64,
    };

    /// For tests.
    #[cfg(feature = "sim")]
    pub(super) const SMALL: Self = Self {
        chunk_bytes: 4096,
        chunks_freed_max: 2,
    };

    /// Where the chunk that `offset` is in ends.
    pub(super) fn chunk_end(self, offset: u64) -> u64 {
        (offset / self.chunk_bytes + 1) * self.chunk_bytes
    }
}

impl<V: View> Namespace<'_, V> {
    /// Bytes of content of a file. Unlike [`stat`](Self::stat) it looks at the inode only.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn size(&mut self, inode: InodeNumber) -> Result<u64, FileError> {
        Ok(self.load_file(inode)?.size)
    }

    /// Up to `len` bytes of a file from `offset` on; fewer at its end, none behind it.
    ///
    /// # Errors
    /// [`FileError::NotFound`]; [`FileError::IsADirectory`]; [`FileError::Invalid`] for special files and
    /// symbolic links; [`FileError::OutOfMemory`].
    pub fn read(
        &mut self,
        inode: InodeNumber,
        offset: u64,
        len: usize,
    ) -> Result<Vec<u8>, FileError> {
        let found = self.load_file(inode)?;
        let left = found.size.saturating_sub(offset);
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(len);
        let mut bytes = Vec::new();
        bytes
            .try_reserve_exact(len)
            .map_err(|_| FileError::OutOfMemory)?;
        bytes.resize(len, 0);
        self.read_around_cuts(inode, &found, offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads the parts of `target` that no cut covers; the others are zeros already.
    fn read_around_cuts(
        &mut self,
        inode: InodeNumber,
        found: &Inode,
        mut offset: u64,
        mut target: &mut [u8],
    ) -> Result<(), FileError> {
        let (object, size) = (found.data(inode), found.data_size());
        while !target.is_empty() {
            let end = offset + target.len() as u64;
            let (low, high) = found.cuts.at_or_after(offset).unwrap_or((end, end));
            let (data, cut) = (low.min(end), high.min(end));
            let (plain, rest) = split_front(target, data.saturating_sub(offset));
            if !plain.is_empty() {
                self.view.read_data(object, size, offset, plain)?;
            }
            let covered = cut - data.max(offset);
            (_, target) = split_front(rest, covered);
            offset = cut;
        }
        Ok(())
    }

    /// Writes all of `bytes` into a file from `offset` on; it grows as needed. Writing nothing changes
    /// nothing.
    ///
    /// # Errors
    /// As [`read`](Self::read); [`FileError::FileTooLarge`] when it would end behind 2⁶³ − 1;
    /// [`FileError::TransactionTooLarge`], also when a large truncation shortly before left more than 32
    /// separate ranges to free: then [`free_cuts`](Self::free_cuts), in transactions of its own, until it
    /// says that it is done, and try again.
    pub fn write(
        &mut self,
        inode: InodeNumber,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), FileError> {
        let mut found = self.load_file(inode)?;
        let end = end_of(offset, bytes.len() as u64)?;
        if bytes.is_empty() {
            return Ok(());
        }
        if !found.cuts.is_empty() {
            let mut cuts = found.cuts.clone();
            cuts.subtract(offset, end);
            self.free_small_cuts(inode, &mut found, &mut cuts)?;
            found.cuts = cuts;
        }
        let (object, size) = (found.data(inode), found.data_size());
        let room = self.view.write_data(object, size, offset, bytes)?;
        found.takes_more(room);
        found.size = found.size.max(end);
        self.store_changed(inode, &mut found);
        Ok(())
    }

    /// Sets the size of a file. What is cut off is gone, what is added reads as zeros.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn truncate(&mut self, inode: InodeNumber, size: u64) -> Result<(), FileError> {
        let mut found = self.load_file(inode)?;
        if size > FILE_BYTES_MAX {
            return Err(FileError::FileTooLarge);
        }
        if size < found.size {
            let end = found.size;
            if size == 0 && self.is_much(found.data(inode), found.data_size(), 0, end)? {
                self.note_data_to_free(found.data(inode), found.data_size());
                found.data_object = self.view.new_object();
                found.cuts = Cuts::default();
                found.allocated = 0;
            } else {
                self.cut(inode, &mut found, size, end)?;
            }
        }
        found.size = size;
        self.store_changed(inode, &mut found);
        Ok(())
    }

    /// Makes a hole: the range reads as zeros and takes no space. The size stays.
    ///
    /// # Errors
    /// As [`write`](Self::write); [`FileError::Invalid`] for an empty range.
    pub fn punch(&mut self, inode: InodeNumber, offset: u64, len: u64) -> Result<(), FileError> {
        let mut found = self.load_file(inode)?;
        if len == 0 {
            return Err(FileError::Invalid);
        }
        let end = end_of(offset, len)?.min(found.size);
        if offset < end {
            self.cut(inode, &mut found, offset, end)?;
        }
        self.store_changed(inode, &mut found);
        Ok(())
    }

    /// Makes a file at least as large as the range, unless `keep_size`. It does not set space aside: a log
    /// writes every change to a new place, so no place can be kept for it.
    ///
    /// # Errors
    /// As [`punch`](Self::punch).
    pub fn allocate(
        &mut self,
        inode: InodeNumber,
        offset: u64,
        len: u64,
        keep_size: bool,
    ) -> Result<(), FileError> {
        let mut found = self.load_file(inode)?;
        if len == 0 {
            return Err(FileError::Invalid);
        }
        let end = end_of(offset, len)?;
        if !keep_size {
            found.size = found.size.max(end);
        }
        self.store_changed(inode, &mut found);
        Ok(())
    }

    /// The first offset at or behind `offset` where the file has data, or a hole; its end is a hole. Nowhere, when there is
    /// no more data, or `offset` is not within the file. In a file of very many pieces the search goes in steps.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn seek(
        &mut self,
        inode: InodeNumber,
        offset: u64,
        data: bool,
    ) -> Result<Sought, FileError> {
        let found = self.load_file(inode)?;
        let (object, size) = (found.data(inode), found.data_size());
        if offset >= found.size {
            return Ok(Sought::Nowhere);
        }
        if !data {
            let cut = found.cuts.at_or_after(offset);
            let hole = cut.map_or(found.size, |(low, _)| low.clamp(offset, found.size));
            return Ok(match self.view.seek_data(object, size, offset, false)? {
                Sought::Further(place) if place < hole => Sought::Further(place),
                Sought::At(place) => Sought::At(place.min(hole)),
                _ => Sought::At(hole),
            });
        }
        let mut from = offset;
        while from < found.size {
            let place = match self.view.seek_data(object, size, from, true)? {
                Sought::At(place) if place < found.size => place,
                Sought::Further(place) if place < found.size => return Ok(Sought::Further(place)),
                _ => break,
            };
            match found.cuts.at_or_after(place) {
                Some((low, high)) if low <= place => from = high,
                _ => return Ok(Sought::At(place)),
            }
        }
        Ok(Sought::Nowhere)
    }

    /// Takes the data of `from..to` out of a file, at once or later. The inode is not stored, and when `to`
    /// is its end the caller sets its size to `from`.
    fn cut(
        &mut self,
        inode: InodeNumber,
        found: &mut Inode,
        from: u64,
        to: u64,
    ) -> Result<(), FileError> {
        let (object, size) = (found.data(inode), found.data_size());
        let mut cuts = found.cuts.clone();
        if self.is_much(object, size, from, to)? {
            cuts.add(from, to);
            self.free_small_cuts(inode, found, &mut cuts)?;
            if found.links > 0 {
                self.note_cuts(inode);
            }
        } else {
            cuts.subtract(from, to);
            let size = self.free_small_cuts(inode, found, &mut cuts)?;
            let shrinks = to == found.size && cuts.end() <= from;
            let bound = (!shrinks).then_some(to);
            let room = self.view.free_data(object, size, from, bound)?;
            found.takes_more(room);
        }
        found.cuts = cuts;
        Ok(())
    }

    /// Frees cuts that are shorter than a chunk, and the shortest ones when there are too many. Returns
    /// the size of the data after that.
    fn free_small_cuts(
        &mut self,
        inode: InodeNumber,
        found: &mut Inode,
        cuts: &mut Cuts,
    ) -> Result<u64, FileError> {
        let (object, size) = (found.data(inode), found.data_size());
        let mut freed = Vec::new();
        for &(low, high) in cuts.ranges() {
            if high - low < self.limits.chunk_bytes {
                freed.push((low, high));
            }
        }
        if let Some(more) = (cuts.ranges().len() - freed.len()).checked_sub(CUTS_MAX)
            && more > 0
        {
            let mut others: Vec<_> = cuts.ranges().to_vec();
            others.retain(|range| !freed.contains(range));
            others.sort_unstable_by_key(|&(low, high)| high - low);
            for &(low, high) in others.iter().take(more) {
                if self.is_much(object, size, low, high)? {
                    return Err(FileError::TransactionTooLarge);
                }
                freed.push((low, high));
            }
        }
        for (low, high) in freed {
            found.takes_more(self.view.free_data(object, size, low, Some(high))?);
            cuts.subtract(low, high);
        }
        let size_now = found.size.max(cuts.end());
        if size_now < size {
            found.takes_more(self.view.free_data(object, size, size_now, None)?);
        }
        Ok(size_now)
    }

    /// Whether more data is in the range than a transaction frees at once, with what it has freed already.
    fn is_much(&mut self, object: u64, size: u64, from: u64, to: u64) -> Result<bool, FileError> {
        let limits = self.limits;
        let freed = self.view.freed_bytes().div_ceil(limits.chunk_bytes);
        let chunks_max = limits.chunks_freed_max.saturating_sub(freed);
        if to - from <= limits.chunk_bytes * chunks_max {
            return Ok(false);
        }
        let mut at = from;
        for _ in 0..chunks_max {
            match self.view.seek_data(object, size, at, true)? {
                Sought::At(place) if place < to => at = limits.chunk_end(place),
                // Much to look at, whether or not there is anything to free.
                Sought::Further(place) if place < to => return Ok(true),
                _ => return Ok(false),
            }
            if at >= to {
                return Ok(false);
            }
        }
        let next = self.view.seek_data(object, size, at, true)?;
        Ok(matches!(next, Sought::At(place) | Sought::Further(place) if place < to))
    }

    fn load_file(&mut self, inode: InodeNumber) -> Result<Inode, FileError> {
        let found = self.load(inode)?;
        match found.kind {
            FileKind::File => Ok(found),
            FileKind::Directory => Err(FileError::IsADirectory),
            _ => Err(FileError::Invalid),
        }
    }

    /// Stores an inode whose content has changed.
    fn store_changed(&mut self, inode: InodeNumber, found: &mut Inode) {
        found.mtime_ns = self.view.now_ns();
        found.ctime_ns = found.mtime_ns;
        self.store(inode, found);
    }
}

fn end_of(offset: u64, len: u64) -> Result<u64, FileError> {
    let end = offset.checked_add(len);
    end.filter(|&end| end <= FILE_BYTES_MAX)
        .ok_or(FileError::FileTooLarge)
}

/// The first `count` bytes and the rest.
fn split_front(bytes: &mut [u8], count: u64) -> (&mut [u8], &mut [u8]) {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let len = bytes.len();
    bytes.split_at_mut(count.min(len))
}

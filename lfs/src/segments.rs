//! Which segments are free.
//!
//! A segment is used by the log, by one object, or free. Nothing on disk says "free": after a mount,
//! free is what the checkpoint names neither as log nor as part of an object. A segment that the
//! newest checkpoint does name is not reused before a checkpoint that no longer names it is durable;
//! the callers see to that by freeing only then.
//!
//! The log keeps a reserve: while a checkpoint is written, old log segments are still named by the
//! durable one and the new list needs fresh ones. Objects cannot take the last `reserve` segments.

use alloc::vec::Vec;

use crate::superblock::SegmentId;

pub(crate) struct Segments {
    used: Vec<bool>,
    free: u32,
    /// Where the next search begins: allocation goes round the disk, which spreads wear.
    cursor: u32,
    /// Free segments that only the log may take.
    reserve: u32,
}

impl Segments {
    /// All `count` segments free, `reserve` of them for the log alone. `None` without enough memory: a
    /// disk may say what it likes about its size.
    pub(crate) fn new(count: u32, reserve: u32) -> Option<Self> {
        let mut used = Vec::new();
        used.try_reserve_exact(count as usize).ok()?;
        used.resize(count as usize, false);
        Some(Self {
            used,
            free: count,
            cursor: 0,
            reserve,
        })
    }

    /// Takes a segment named by a checkpoint. False when it does not exist or is taken already.
    #[must_use]
    pub(crate) fn claim(&mut self, segment: SegmentId) -> bool {
        match self.used.get_mut(segment.0 as usize) {
            Some(used) if !*used => {
                *used = true;
                self.free -= 1;
                true
            }
            _ => false,
        }
    }

    /// A free segment for an object, or `None` when only the log's reserve is left.
    pub(crate) fn allocate(&mut self) -> Option<SegmentId> {
        if self.free <= self.reserve {
            None
        } else {
            self.take()
        }
    }

    /// A free segment for the log.
    pub(crate) fn allocate_for_log(&mut self) -> Option<SegmentId> {
        self.take()
    }

    /// Gives a segment back.
    pub(crate) fn release(&mut self, segment: SegmentId) {
        if let Some(used) = self.used.get_mut(segment.0 as usize)
            && *used
        {
            *used = false;
            self.free += 1;
        }
    }

    /// Free segments that objects may take.
    pub(crate) fn available(&self) -> u32 {
        self.free.saturating_sub(self.reserve)
    }

    fn take(&mut self) -> Option<SegmentId> {
        if self.free == 0 {
            return None;
        }
        let count = u32::try_from(self.used.len()).unwrap_or(u32::MAX);
        let (cursor, end) = (self.cursor as usize, self.used.len());
        let found = (cursor..end)
            .chain(0..cursor)
            .find(|&i| self.used.get(i) == Some(&false))?;
        let segment = SegmentId(u32::try_from(found).ok()?);
        self.cursor = (segment.0 + 1) % count;
        self.claim(segment).then_some(segment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_leave_the_reserve_to_the_log() {
        let mut segments = Segments::new(4, 2).unwrap();
        assert!(segments.allocate().is_some());
        assert!(segments.allocate().is_some());
        assert_eq!((segments.allocate(), segments.available()), (None, 0));
        assert!(segments.allocate_for_log().is_some());
        assert!(segments.allocate_for_log().is_some());
        assert_eq!(segments.allocate_for_log(), None);
        segments.release(SegmentId(1));
        segments.release(SegmentId(1));
        assert_eq!(segments.allocate_for_log(), Some(SegmentId(1)));
    }

    #[test]
    fn a_segment_is_claimed_once_and_must_exist() {
        let mut segments = Segments::new(2, 0).unwrap();
        assert!(segments.claim(SegmentId(1)));
        assert!(!segments.claim(SegmentId(1)));
        assert!(!segments.claim(SegmentId(2)));
        assert_eq!(segments.allocate(), Some(SegmentId(0)));
    }
}

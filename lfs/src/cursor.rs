//! Where the log is: the listed segments, the one being written, and the chain's last link.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::checkpoint::ReplayStart;
use crate::superblock::{SegmentId, Superblock};
use crate::{BlockIndex, CommitNumber};

#[derive(Debug, Clone, Copy)]
pub(crate) struct LogSegment {
    pub id: SegmentId,
    /// The group it begins with; `None` until one is written there.
    pub start: Option<ReplayStart>,
}

/// Invariant: `current` is an index into `listed`, and every segment up to it has a start, except
/// the current one while `next_block` is 0.
#[derive(Debug, Clone)]
pub(crate) struct LogCursor {
    pub listed: VecDeque<LogSegment>,
    pub current: usize,
    pub next_block: u32,
    /// Sequence number of the next group.
    pub sequence: u64,
    /// Checksum of the last group, which the next one chains to.
    pub previous_checksum: u32,
}

impl LogCursor {
    /// The log of a fresh checkpoint: at the start of the first of `segments`.
    pub(crate) fn at_start(segments: &[SegmentId], start: ReplayStart) -> Self {
        Self {
            listed: segments
                .iter()
                .map(|&id| LogSegment { id, start: None })
                .collect(),
            current: 0,
            next_block: 0,
            sequence: start.group,
            previous_checksum: start.previous_checksum,
        }
    }

    /// Blocks left in the current segment.
    pub(crate) fn blocks_left(&self, superblock: &Superblock) -> u32 {
        superblock.segment_blocks.saturating_sub(self.next_block)
    }

    /// Listed segments after the current one.
    pub(crate) fn segments_left(&self) -> usize {
        self.listed.len().saturating_sub(self.current + 1)
    }

    /// Goes on to the next listed segment; false at the end of the list.
    #[must_use]
    pub(crate) fn advance(&mut self) -> bool {
        if self.segments_left() == 0 {
            return false;
        }
        self.current += 1;
        self.next_block = 0;
        true
    }

    /// The block the next group goes to, or `None` when nothing is listed.
    pub(crate) fn block(&self, superblock: &Superblock) -> Option<BlockIndex> {
        let segment = self.listed.get(self.current)?;
        Some(BlockIndex(
            superblock.segment_start(segment.id).0 + u64::from(self.next_block),
        ))
    }

    /// Notes a group of `blocks` blocks at the current place and steps behind it.
    pub(crate) fn step(&mut self, blocks: u32, commit: u64, continued: bool, checksum: u32) {
        let start = ReplayStart {
            group: self.sequence,
            commit,
            continued,
            previous_checksum: self.previous_checksum,
        };
        if self.next_block == 0
            && let Some(segment) = self.listed.get_mut(self.current)
        {
            segment.start = Some(start);
        }
        self.next_block += blocks;
        self.sequence += 1;
        self.previous_checksum = checksum;
    }

    /// Index of the last segment from which replay still finds all of commit `next` and later ones,
    /// and the start recovery needs there. `unwritten` is the commit the next group begins with, and
    /// whether it begins inside it.
    pub(crate) fn replay_start(
        &self,
        next: CommitNumber,
        (commit, continued): (u64, bool),
    ) -> (usize, ReplayStart) {
        let unwritten = ReplayStart {
            group: self.sequence,
            commit,
            continued,
            previous_checksum: self.previous_checksum,
        };
        let mut found = (
            0,
            self.listed
                .front()
                .and_then(|s| s.start)
                .unwrap_or(unwritten),
        );
        for (index, segment) in self.listed.iter().enumerate().take(self.current + 1) {
            let start = segment.start.unwrap_or(unwritten);
            if start.commit < next.0 || (start.commit == next.0 && !start.continued) {
                found = (index, start);
            }
        }
        found
    }

    /// Forgets the first `dropped` segments and lists `more` behind the others; returns the dropped.
    pub(crate) fn relist(&mut self, dropped: usize, more: &[SegmentId]) -> Vec<SegmentId> {
        let dropped = dropped.min(self.current);
        let gone = self
            .listed
            .drain(..dropped)
            .map(|segment| segment.id)
            .collect();
        self.current -= dropped;
        self.listed
            .extend(more.iter().map(|&id| LogSegment { id, start: None }));
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor() -> LogCursor {
        let start = ReplayStart {
            group: 1,
            commit: 1,
            continued: false,
            previous_checksum: 0,
        };
        LogCursor::at_start(&[5, 6, 7, 8].map(SegmentId), start)
    }

    #[test]
    fn replay_starts_at_the_last_segment_that_holds_all_that_is_needed() {
        let mut cursor = cursor();
        cursor.step(1, 1, false, 11);
        cursor.step(1, 2, false, 12); // commit 2 begins here and ends in the next segment
        assert!(cursor.advance());
        cursor.step(1, 2, true, 13);
        cursor.step(1, 3, false, 14);
        assert!(cursor.advance());
        let start_of = |next, unwritten| {
            cursor
                .replay_start(CommitNumber(next), (unwritten, false))
                .0
        };
        assert_eq!(
            [
                start_of(1, 4),
                start_of(2, 4),
                start_of(3, 4),
                start_of(4, 4)
            ],
            [0, 0, 1, 2]
        );
    }

    #[test]
    fn dropped_segments_leave_the_list_and_new_ones_come_behind() {
        let mut cursor = cursor();
        assert!(cursor.advance() && cursor.advance());
        assert_eq!(
            cursor.relist(2, &[SegmentId(9)]),
            [SegmentId(5), SegmentId(6)]
        );
        assert_eq!((cursor.current, cursor.segments_left()), (0, 2));
    }
}

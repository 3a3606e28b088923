//! Where the log writes next, the segments it went through since the last checkpoint, and those it will
//! go through next.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::checkpoint::ReplayStart;
use crate::disk::superblock::{SegmentId, Superblock};
use crate::{BlockIndex, CommitNumber};

#[derive(Debug, Clone, Copy)]
pub(crate) struct LogSegment {
    pub id: SegmentId,
    /// The group it begins with; `None` until one is written there.
    pub start: Option<ReplayStart>,
}

/// Segments that the log decides on before it needs them, so that the groups of a segment can name those
/// that follow: recovery looks there for proof of damage.
pub(crate) const AHEAD: usize = 2;

/// Invariant: `window` is not empty, and every segment in it has a start but the last one while
/// `next_block` is 0.
#[derive(Debug, Clone)]
pub(crate) struct LogCursor {
    /// Segments from the start of replay to the current one, which is the last.
    pub window: VecDeque<LogSegment>,
    /// Those that follow, decided but not used.
    pub ahead: VecDeque<SegmentId>,
    pub next_block: u32,
    /// Sequence number of the next group.
    pub sequence: u64,
    /// Checksum of the last group, which the next one chains to.
    pub previous_checksum: u32,
}

impl LogCursor {
    /// The log at the start of `first`.
    pub(crate) fn at_start(first: SegmentId, start: ReplayStart) -> Self {
        Self {
            window: [LogSegment {
                id: first,
                start: None,
            }]
            .into(),
            ahead: VecDeque::new(),
            next_block: 0,
            sequence: start.group,
            previous_checksum: start.previous_checksum,
        }
    }

    /// The segment at hand.
    pub(crate) fn current(&self) -> SegmentId {
        self.window
            .back()
            .map_or(SegmentId(0), |segment| segment.id)
    }

    /// Blocks left in the current segment.
    pub(crate) fn blocks_left(&self, superblock: &Superblock) -> u32 {
        superblock.segment_blocks.saturating_sub(self.next_block)
    }

    /// Goes on to the next segment; false when none was decided on.
    #[must_use]
    pub(crate) fn advance(&mut self) -> bool {
        let Some(id) = self.ahead.pop_front() else {
            return false;
        };
        self.window.push_back(LogSegment { id, start: None });
        self.next_block = 0;
        true
    }

    /// The block the next group goes to.
    pub(crate) fn block(&self, superblock: &Superblock) -> BlockIndex {
        BlockIndex(superblock.segment_start(self.current()).0 + u64::from(self.next_block))
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
            && let Some(segment) = self.window.back_mut()
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
            self.window
                .front()
                .and_then(|s| s.start)
                .unwrap_or(unwritten),
        );
        for (index, segment) in self.window.iter().enumerate() {
            let start = segment.start.unwrap_or(unwritten);
            if start.commit < next.0 || (start.commit == next.0 && !start.continued) {
                found = (index, start);
            }
        }
        found
    }

    /// Forgets the first `dropped` segments, but never the current one, and returns them.
    pub(crate) fn drop_front(&mut self, dropped: usize) -> Vec<SegmentId> {
        let dropped = dropped.min(self.window.len() - 1);
        self.window
            .drain(..dropped)
            .map(|segment| segment.id)
            .collect()
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
        let mut cursor = LogCursor::at_start(SegmentId(5), start);
        cursor.ahead = [6, 7].map(SegmentId).into();
        cursor
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
    fn dropped_segments_leave_the_window_but_never_the_current_one() {
        let mut cursor = cursor();
        assert!(cursor.advance() && cursor.advance() && !cursor.advance());
        assert_eq!(cursor.drop_front(2), [SegmentId(5), SegmentId(6)]);
        assert_eq!(cursor.drop_front(9), []);
        assert_eq!(cursor.current(), SegmentId(7));
    }
}

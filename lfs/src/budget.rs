//! How much of the log may be used before what: when sessions wait, when a checkpoint is wanted, and
//! how many free segments the log keeps beside those listed.
//!
//! Invariant: commits are only taken while the segments listed suffice for everything queued, whatever
//! the sizes of the commits. So whatever was taken becomes durable *without* a checkpoint, and a
//! checkpoint may wait for durability without waiting for itself.

use crate::BLOCK_SIZE;
use crate::group::COMMIT_FRAME_BYTES;
use crate::superblock::Superblock;

#[derive(Debug, Clone, Copy)]
pub(crate) struct LogBudget {
    segment_bytes: usize,
    /// Bytes of the largest group.
    pub group_bytes_max: usize,
    /// Queued bytes at which sessions are made to wait.
    queue_bytes_soft_max: usize,
    commit_bytes_max: usize,
    /// Segments that a full list has beside the current one.
    listed: usize,
}

impl LogBudget {
    pub(crate) fn new(superblock: &Superblock) -> Self {
        let group_bytes_max = superblock.group_blocks_max() as usize * BLOCK_SIZE;
        Self {
            segment_bytes: superblock.segment_bytes(),
            group_bytes_max,
            queue_bytes_soft_max: 2 * group_bytes_max,
            commit_bytes_max: superblock.commit_bytes_max(),
            listed: superblock.log_segments as usize - 1,
        }
    }

    /// Whether `queued` bytes of commits can all be written into `segments_left` segments.
    ///
    /// Commits that fit into a group can leave up to half a segment unused before them, hence twice;
    /// the parts of larger ones fill segments to the end but for headers (less than a sixteenth).
    pub(crate) fn fits(&self, segments_left: usize, queued: usize) -> bool {
        let small = queued.min(self.queue_bytes_soft_max + self.group_bytes_max);
        let needed = 2 * small + queued + queued / 16;
        segments_left * self.segment_bytes >= needed
    }

    /// Whether a commit of any size may be added to `queued` bytes.
    pub(crate) fn has_room(&self, segments_left: usize, queued: usize) -> bool {
        queued < self.queue_bytes_soft_max && segments_left >= self.segments_for_a_full_queue()
    }

    /// Whether a checkpoint should be made now: two thirds of what can be used are. The rest is for
    /// what comes while it is being made.
    pub(crate) fn wants_checkpoint(&self, segments_left: usize) -> bool {
        segments_left <= self.listed - (self.segments_usable() * 2 / 3).max(1)
    }

    /// Free segments that the log needs at a checkpoint, which lists fresh ones while those it drops
    /// are still named by the checkpoint before.
    pub(crate) fn segments_in_reserve(&self) -> usize {
        self.segments_usable() + 2
    }

    /// Segments that are used before room is gone: what is replayed after a crash, at most, but for
    /// the commits that were already taken then.
    pub(crate) fn segments_usable(&self) -> usize {
        self.listed.saturating_sub(self.segments_for_a_full_queue())
    }

    fn segments_for_a_full_queue(&self) -> usize {
        let queued = self.queue_bytes_soft_max + self.commit_bytes_max + COMMIT_FRAME_BYTES;
        (1..self.listed)
            .find(|&segments| self.fits(segments, queued))
            .unwrap_or(self.listed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::superblock::tests::example;

    #[test]
    fn a_checkpoint_is_wanted_before_room_is_gone_and_always_when_it_is() {
        for log_segments in 12..64 {
            let budget = LogBudget::new(&Superblock {
                log_segments,
                ..example()
            });
            assert!(budget.segments_usable() >= 2, "{budget:?}");
            assert!(budget.has_room(budget.listed, 0), "{budget:?}");
            assert!(!budget.wants_checkpoint(budget.listed), "{budget:?}");
            for left in 0..budget.listed {
                assert!(
                    budget.has_room(left, 0) || budget.wants_checkpoint(left),
                    "{budget:?}"
                );
            }
        }
    }
}

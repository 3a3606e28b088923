//! Commits that wait for their group: the head of the commit stream that is not on its way yet.
//!
//! Bound: [`CommitQueue::len_bytes`] never exceeds the log's soft limit by more than one commit of
//! the largest size (`Log::append` refuses earlier).

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::group::{COMMIT_FRAME_BYTES, GROUP_HEADER_BYTES};
use crate::{BLOCK_SIZE, Buffer};

#[derive(Default)]
pub(crate) struct CommitQueue {
    /// Framed commits, one after the other; the first may be partly written already.
    stream: Vec<u8>,
    /// Bytes of each commit still in `stream`.
    commits: VecDeque<usize>,
    /// Number of the first commit in `stream`.
    first: u64,
    /// Whether the first commit's beginning has left in an earlier group.
    front_split: bool,
}

/// What [`CommitQueue::fill`] put into a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Filled {
    pub first_commit: u64,
    pub commits_ending: u32,
    pub continued: bool,
    pub continues: bool,
    pub payload_len: usize,
}

/// There was not enough memory to keep the commit.
pub(crate) struct OutOfMemory;

impl CommitQueue {
    /// An empty queue whose first commit will be `first`.
    pub(crate) fn new(first: u64) -> Self {
        Self {
            first,
            ..Self::default()
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.commits.is_empty()
    }

    pub(crate) fn len_bytes(&self) -> usize {
        self.stream.len()
    }

    /// The commit that the next group begins with, and whether it begins inside it.
    pub(crate) fn front(&self) -> (u64, bool) {
        (self.first, self.front_split)
    }

    /// Adds a commit and returns its number.
    pub(crate) fn push(&mut self, payload: &[u8]) -> Result<u64, OutOfMemory> {
        let len = u32::try_from(payload.len()).map_err(|_| OutOfMemory)?;
        let framed = COMMIT_FRAME_BYTES + payload.len();
        self.stream.try_reserve(framed).map_err(|_| OutOfMemory)?;
        self.commits.try_reserve(1).map_err(|_| OutOfMemory)?;
        self.stream.extend_from_slice(&len.to_le_bytes());
        self.stream.extend_from_slice(payload);
        let number = self.first + self.commits.len() as u64;
        self.commits.push_back(framed);
        Ok(number)
    }

    /// Moves as much as fits into `group`, behind the header, and grows it to whole blocks.
    ///
    /// A group gets whole commits, as many as fit into both `group_blocks_max` and the
    /// `segment_blocks_left`; only a commit larger than the largest group is split. `None`: nothing
    /// fits into what is left of the segment (or the queue is empty, or `group` cannot grow).
    pub(crate) fn fill(
        &mut self,
        group: &mut Buffer,
        group_blocks_max: u32,
        segment_blocks_left: u32,
    ) -> Option<Filled> {
        let payload_max =
            |blocks: u32| (blocks as usize * BLOCK_SIZE).saturating_sub(GROUP_HEADER_BYTES);
        let capacity = payload_max(group_blocks_max.min(segment_blocks_left));
        let front = *self.commits.front()?;
        let continued = self.front_split;
        let first_commit = self.first;

        let (payload_len, whole) = if continued || front > payload_max(group_blocks_max) {
            let part = front.min(capacity);
            (part, usize::from(part == front))
        } else {
            let mut len = 0;
            let fits = |&&commit: &&usize| {
                let more = len + commit <= capacity;
                len += if more { commit } else { 0 };
                more
            };
            let whole = self.commits.iter().take_while(fits).count();
            (len, whole)
        };
        if payload_len == 0 {
            return None;
        }
        let bytes = GROUP_HEADER_BYTES + payload_len;
        group.grow(bytes.div_ceil(BLOCK_SIZE)).ok()?;
        let target = group.bytes_mut().get_mut(GROUP_HEADER_BYTES..bytes)?;
        target.copy_from_slice(self.stream.get(..payload_len)?);

        self.stream.drain(..payload_len);
        self.commits.drain(..whole);
        self.first += whole as u64;
        self.front_split = whole == 0;
        if let (0, Some(front)) = (whole, self.commits.front_mut()) {
            *front -= payload_len;
        }
        Some(Filled {
            first_commit,
            commits_ending: u32::try_from(whole).unwrap_or(u32::MAX),
            continued,
            continues: whole == 0,
            payload_len,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(queue: &mut CommitQueue, left: u32) -> Option<Filled> {
        queue.fill(&mut Buffer::default(), 4, left)
    }

    #[test]
    fn groups_hold_whole_commits_as_many_as_fit() {
        let mut queue = CommitQueue::new(7);
        for size in [4000, 4000, 9000] {
            assert!(queue.push(&alloc::vec![1; size]).is_ok());
        }
        assert_eq!(fill(&mut queue, 0), None);
        let first = fill(&mut queue, 8).unwrap();
        assert_eq!((first.first_commit, first.commits_ending), (7, 2));
        assert!(!first.continued && !first.continues);
        // 9000 bytes fit into a group, so they are not split over the rest of a segment.
        assert_eq!(fill(&mut queue, 2), None);
        let second = fill(&mut queue, 3).unwrap();
        assert_eq!((second.first_commit, second.commits_ending), (9, 1));
        assert!(queue.is_empty() && queue.len_bytes() == 0);
    }

    #[test]
    fn a_commit_larger_than_a_group_is_split_and_stays_alone() {
        let mut queue = CommitQueue::new(1);
        assert!(queue.push(&alloc::vec![1; 20_000]).is_ok());
        assert!(queue.push(b"next").is_ok());
        let parts = [fill(&mut queue, 1).unwrap(), fill(&mut queue, 9).unwrap()];
        assert!(!parts[0].continued && parts[0].continues && parts[0].payload_len == 4016);
        assert!(parts[1].continued && !parts[1].continues && parts[1].payload_len == 15_988);
        assert_eq!((parts[1].first_commit, parts[1].commits_ending), (1, 1));
        assert_eq!(
            fill(&mut queue, 9).map(|f| (f.first_commit, f.commits_ending)),
            Some((2, 1))
        );
    }
}

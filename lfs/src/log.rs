//! The log writer: commits in, one write and one flush per group out.
//!
//! Commits that arrive while a group is being written and flushed form the next group. Group n+1 is
//! written only after the flush of group n returned, so a valid group proves that all before it were
//! durable (DESIGN.md, "Torn tail or damage"). Nothing is reported durable before its flush returned.
//!
//! A write or flush that fails latches the log: it takes no more commits until the file system is
//! mounted anew, and whoever waits for durability gets an error. There is no retry.
//!
//! Without anybody waiting the log gathers until a group is full; [`Log::wait_durable`] hurries it.

use core::cell::RefCell;

use crate::budget::LogBudget;
use crate::checkpoint::ReplayStart;
use crate::cursor::LogCursor;
use crate::group::{COMMIT_FRAME_BYTES, GROUP_HEADER_BYTES, GroupHeader};
use crate::layout::checksum;
use crate::notify::Notify;
use crate::queue::{CommitQueue, Filled};
use crate::superblock::{SegmentId, Superblock};
use crate::{
    AppendError, BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, BufferAllocError, CommitNumber,
    Counters, ReadOnly,
};
use alloc::vec::Vec;

pub(crate) struct Log {
    superblock: Superblock,
    budget: LogBudget,
    state: RefCell<State>,
    /// Durability moved on, room came free, a flush ended, or the log failed.
    progress: Notify,
    /// Something for the writer to do.
    work: Notify,
}

struct State {
    cursor: LogCursor,
    queue: CommitQueue,
    /// Memory for the group being written; `None` while the device has it.
    buffer: Option<Buffer>,
    appended: u64,
    durable: u64,
    durable_group: u64,
    /// The newest commit somebody waits for.
    wanted: u64,
    /// Sequence number of the checkpoint in force.
    checkpoint: u64,
    flushes_started: u64,
    flushes_done: u64,
    /// A flush at least this recent is wanted even if no group needs one.
    flush_wanted: u64,
    condition: Condition,
    counters: Counters,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Condition {
    Running,
    /// No more commits are taken; what was taken is made durable.
    Closing,
    /// The writer has ended.
    Stopped,
    /// A write or flush failed.
    Failed,
}

enum Step {
    Group(GroupWrite),
    Flush,
    Stop,
}

struct GroupWrite {
    block: BlockIndex,
    buffer: Buffer,
    last_commit: u64,
    sequence: u64,
}

/// Where a checkpoint lets replay begin, and what the log looks like from there.
pub(crate) struct LogView {
    /// Listed segments before the start.
    pub dropped: usize,
    pub start: ReplayStart,
    pub segments: Vec<SegmentId>,
    pub durable_group: u64,
}

impl Log {
    /// A log that goes on at `cursor`, after commit `last`, under the checkpoint with that sequence
    /// number; everything up to there is durable.
    pub(crate) fn new(
        superblock: Superblock,
        cursor: LogCursor,
        last: CommitNumber,
        checkpoint: u64,
        counters: Counters,
    ) -> Result<Self, BufferAllocError> {
        let buffer = Buffer::with_capacity(superblock.group_blocks_max() as usize)?;
        let state = State {
            durable_group: cursor.sequence.saturating_sub(1),
            cursor,
            queue: CommitQueue::new(last.0 + 1),
            buffer: Some(buffer),
            appended: last.0,
            durable: last.0,
            wanted: last.0,
            checkpoint,
            flushes_started: 0,
            flushes_done: 0,
            flush_wanted: 0,
            condition: Condition::Running,
            counters,
        };
        Ok(Self {
            superblock,
            budget: LogBudget::new(&superblock),
            state: RefCell::new(state),
            progress: Notify::default(),
            work: Notify::default(),
        })
    }

    pub(crate) fn appended(&self) -> CommitNumber {
        CommitNumber(self.state.borrow().appended)
    }

    pub(crate) fn durable(&self) -> CommitNumber {
        CommitNumber(self.state.borrow().durable)
    }

    pub(crate) fn is_failed(&self) -> bool {
        self.state.borrow().condition == Condition::Failed
    }

    pub(crate) fn counters(&self) -> Counters {
        self.state.borrow().counters
    }

    pub(crate) fn count(&self, update: impl FnOnce(&mut Counters)) {
        update(&mut self.state.borrow_mut().counters);
    }

    /// Queues a commit and gives it the next number. Not durable on return.
    pub(crate) fn append(&self, payload: &[u8]) -> Result<CommitNumber, AppendError> {
        let mut state = self.state.borrow_mut();
        if state.condition != Condition::Running {
            return Err(AppendError::ReadOnly);
        }
        if payload.len() > self.superblock.commit_bytes_max() {
            return Err(AppendError::TooLarge);
        }
        let queued = state.queue.len_bytes() + COMMIT_FRAME_BYTES + payload.len();
        if !self.budget.fits(state.cursor.segments_left(), queued) {
            return Err(AppendError::NoRoom);
        }
        let number = state
            .queue
            .push(payload)
            .map_err(|_| AppendError::OutOfMemory)?;
        state.appended = number;
        state.counters.commits += 1;
        let pressed = state.queue.len_bytes() >= self.budget.group_bytes_max;
        drop(state);
        if pressed {
            self.work.notify();
        }
        Ok(CommitNumber(number))
    }

    /// Whether a commit of any size would be taken now.
    pub(crate) fn has_room(&self) -> bool {
        self.room(&self.state.borrow())
    }

    /// Waits until a commit of any size would be taken, none ever will, or `or_else`; that is asked
    /// again after every [`nudge`](Self::nudge).
    pub(crate) async fn admit(&self, or_else: impl Fn() -> bool) {
        if !self.has_room() {
            // The queue may be full of commits nobody waits for.
            self.hurry(self.appended());
            self.progress
                .until(|| (self.has_room() || or_else()).then_some(()))
                .await;
        }
    }

    /// Waits until `commit` is durable.
    pub(crate) async fn wait_durable(&self, commit: CommitNumber) -> Result<(), ReadOnly> {
        self.hurry(commit);
        self.progress
            .until(|| {
                let state = self.state.borrow();
                if state.durable >= commit.0 {
                    return Some(Ok(()));
                }
                let ended = matches!(state.condition, Condition::Failed | Condition::Stopped);
                ended.then_some(Err(ReadOnly))
            })
            .await
    }

    fn hurry(&self, commit: CommitNumber) {
        let mut state = self.state.borrow_mut();
        let wanted = commit.0.min(state.appended);
        if wanted > state.wanted {
            state.wanted = wanted;
            drop(state);
            self.work.notify();
        }
    }

    /// Waits until everything the device completed before this call is durable: for a group's flush
    /// if one comes before `patience` ends or the log runs out of room, else for one of its own.
    pub(crate) async fn barrier(&self, patience: impl Future<Output = ()>) -> Result<(), ReadOnly> {
        let target = self.state.borrow().flushes_started + 1;
        let settled = |in_haste: bool| {
            let state = self.state.borrow();
            if state.flushes_done >= target {
                Some(Ok(()))
            } else if matches!(state.condition, Condition::Failed | Condition::Stopped) {
                Some(Err(ReadOnly))
            } else if in_haste && (!self.room(&state) || state.condition == Condition::Closing) {
                Some(Ok(()))
            } else {
                None
            }
        };
        embassy_futures::select::select(self.progress.until(|| settled(true)), patience).await;
        self.state.borrow_mut().flush_wanted = target;
        if settled(false).is_none() {
            self.work.notify();
        }
        self.progress.until(|| settled(false)).await
    }

    /// Takes no more commits, but goes on making durable what was taken.
    pub(crate) fn close(&self) {
        self.enter(Condition::Closing, |now| now == Condition::Running);
    }

    /// Ends [`run`](Self::run). What is not durable by now will not be.
    pub(crate) fn stop(&self) {
        self.enter(Condition::Stopped, |now| now != Condition::Failed);
    }

    /// Latches the log read-only: a write outside it failed.
    pub(crate) fn fail(&self) {
        self.enter(Condition::Failed, |_| true);
    }

    fn enter(&self, next: Condition, allowed: impl Fn(Condition) -> bool) {
        let condition = &mut self.state.borrow_mut().condition;
        if allowed(*condition) {
            *condition = next;
        }
        self.work.notify();
        self.progress.notify();
    }

    /// Whether so much of the list is used that a checkpoint should be made.
    pub(crate) fn wants_checkpoint(&self) -> bool {
        self.budget
            .wants_checkpoint(self.state.borrow().cursor.segments_left())
    }

    /// Waits until [`wants_checkpoint`](Self::wants_checkpoint) or `or_else`.
    pub(crate) async fn checkpoint_wanted(&self, or_else: impl Fn() -> bool) {
        self.progress
            .until(|| (self.wants_checkpoint() || or_else()).then_some(()))
            .await;
    }

    /// Makes waiters look at their conditions again.
    pub(crate) fn nudge(&self) {
        self.progress.notify();
    }

    /// The log as a checkpoint with this horizon has to describe it.
    pub(crate) fn view(&self, horizon: CommitNumber) -> LogView {
        let state = self.state.borrow();
        let next = CommitNumber(horizon.0 + 1);
        let (dropped, start) = state.cursor.replay_start(next, state.queue.front());
        let segments = state
            .cursor
            .listed
            .iter()
            .skip(dropped)
            .map(|s| s.id)
            .collect();
        LogView {
            dropped,
            start,
            segments,
            durable_group: state.durable_group,
        }
    }

    /// The checkpoint with this sequence number is durable: the first `dropped` segments are no longer
    /// needed and `more` may be used. Returns the segments dropped.
    pub(crate) fn relist(
        &self,
        checkpoint: u64,
        dropped: usize,
        more: &[SegmentId],
    ) -> Vec<SegmentId> {
        let mut state = self.state.borrow_mut();
        state.checkpoint = checkpoint;
        let gone = state.cursor.relist(dropped, more);
        drop(state);
        self.work.notify();
        self.progress.notify();
        gone
    }

    /// Writes groups until [`stop`](Self::stop). Run exactly once, beside everything else.
    pub(crate) async fn run(&self, device: &impl BlockDevice) {
        loop {
            match self.work.until(|| self.next_step()).await {
                Step::Group(group) => self.write_group(device, group).await,
                Step::Flush => {
                    let _ = self.flush(device).await;
                }
                Step::Stop => return,
            }
        }
    }

    async fn write_group(&self, device: &impl BlockDevice, group: GroupWrite) {
        let blocks = group.buffer.len_blocks();
        let (mut buffer, written) = device.write(group.block, group.buffer).await;
        buffer.truncate(0);
        self.state.borrow_mut().buffer = Some(buffer);
        if written.is_err() {
            return self.fail();
        }
        if self.flush(device).await.is_err() {
            return;
        }
        let mut state = self.state.borrow_mut();
        state.durable = state.durable.max(group.last_commit);
        state.durable_group = group.sequence;
        state.counters.groups += 1;
        state.counters.bytes_written += (blocks * BLOCK_SIZE) as u64;
        drop(state);
        self.progress.notify();
    }

    async fn flush(&self, device: &impl BlockDevice) -> Result<(), ReadOnly> {
        let number = {
            let mut state = self.state.borrow_mut();
            state.flushes_started += 1;
            state.counters.flushes += 1;
            state.flushes_started
        };
        if device.flush().await.is_err() {
            self.fail();
            return Err(ReadOnly);
        }
        self.state.borrow_mut().flushes_done = number;
        self.progress.notify();
        Ok(())
    }

    /// What the writer should do now, if anything.
    fn next_step(&self) -> Option<Step> {
        let state = &mut *self.state.borrow_mut();
        if matches!(state.condition, Condition::Failed | Condition::Stopped) {
            return Some(Step::Stop);
        }
        let due = state.wanted > state.durable
            || state.condition == Condition::Closing
            || state.queue.len_bytes() >= self.budget.group_bytes_max;
        if due
            && !state.queue.is_empty()
            && let Some(group) = self.next_group(state)
        {
            return Some(Step::Group(group));
        }
        if state.flush_wanted > state.flushes_started {
            return Some(Step::Flush);
        }
        None
    }

    /// Takes the next group off the queue. `None` when the listed segments are used up: the next
    /// checkpoint brings more.
    fn next_group(&self, state: &mut State) -> Option<GroupWrite> {
        let mut buffer = state.buffer.take()?;
        let Some(filled) = self.fill(state, &mut buffer) else {
            state.buffer = Some(buffer);
            return None;
        };
        let cursor = &mut state.cursor;
        let block = cursor.block(&self.superblock)?;
        let payload_end = GROUP_HEADER_BYTES + filled.payload_len;
        let payload = buffer
            .bytes()
            .get(GROUP_HEADER_BYTES..payload_end)
            .unwrap_or_default();
        let header = GroupHeader {
            sequence: cursor.sequence,
            first_commit: filled.first_commit,
            commits_ending: filled.commits_ending,
            continued: filled.continued,
            continues: filled.continues,
            previous_checksum: cursor.previous_checksum,
            // A group is at most half a segment, far below 4 GiB.
            payload_len: u32::try_from(filled.payload_len).unwrap_or(u32::MAX),
            payload_checksum: checksum(payload),
            checkpoint: state.checkpoint,
        };
        let sum = header.encode(self.superblock.id, block, buffer.bytes_mut());
        cursor.step(header.blocks(), filled.first_commit, filled.continued, sum);
        Some(GroupWrite {
            block,
            buffer,
            last_commit: (filled.first_commit + u64::from(filled.commits_ending)).saturating_sub(1),
            sequence: header.sequence,
        })
    }

    fn fill(&self, state: &mut State, buffer: &mut Buffer) -> Option<Filled> {
        let group_max = self.superblock.group_blocks_max();
        loop {
            let left = state.cursor.blocks_left(&self.superblock);
            if let Some(filled) = state.queue.fill(buffer, group_max, left) {
                return Some(filled);
            }
            if left == self.superblock.segment_blocks || !state.cursor.advance() {
                return None;
            }
        }
    }

    fn room(&self, state: &State) -> bool {
        match state.condition {
            Condition::Running => self
                .budget
                .has_room(state.cursor.segments_left(), state.queue.len_bytes()),
            // Whoever asks shall go on and meet the error.
            _ => true,
        }
    }
}

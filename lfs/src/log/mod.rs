//! The log: takes commits, writes them as groups, one write and one flush each, and knows what is durable.
//!
//! Invariants: group n+1 is written only after the flush of group n returned. Whatever was taken has its place:
//! it becomes durable without a checkpoint and without free space. After a failed write or flush nothing more
//! is taken and nobody is told "durable" (DESIGN.md, "Errors").
//!
//! A group is written as soon as somebody waits for one of its commits; while it is under way the next one
//! gathers. Without anybody waiting, commits gather until a group is full; [`Log::wait_durable`] hurries it.
//!
//! - `record`: what a commit says; `group`: what is written; `gather`: how commits become groups;
//! - `cursor`: where the log is; this file: writing it; `replay`: commits out of groups again.
//!
//! Not here: how much log there may be before a checkpoint is made (`mount::maintenance` asks), and where replay begins.

mod cursor;
mod gather;
mod group;
mod record;
mod replay;

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

pub(crate) use cursor::{AHEAD, LogCursor};
pub(crate) use gather::{Chain, FRAME_BYTES_MAX, OpenGroup, Part, capacity_bytes, framed_bytes};
pub(crate) use group::{GROUP_HEADER_BYTES, GroupHeader, GroupKind};
pub(crate) use record::{ExtentRecord, RECORD_HEAD_BYTES_MAX, Record};
pub(crate) use replay::{Change, Commit, Replay, ReplayFault, take_frame};

use crate::checkpoint::ReplayStart;
use crate::disk::layout::NUMBER_MAX;
use crate::disk::superblock::{SegmentId, Superblock};
use crate::notify::Notify;
use crate::seal::SharedVault;
use crate::space::{SegmentKind, Segments};
use crate::{
    AppendError, BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, BufferAllocError, CommitNumber,
    Counters, Durable, ReadOnly, StoredRange,
};
use gather::SealedGroup;

/// Turns that others have before the next group is written, and how many of them may bring nothing: in the first its
/// task may come before theirs.
const TURNS_MAX: usize = 8;
const TURNS_IDLE: usize = 2;

/// Bytes of work in the background that go ahead while a group is written, if the group has fewer: what is done
/// meanwhile makes those wait who wait for the group.
const WORK_PER_GROUP: u64 = 32 << 10;

/// Segments that commits of ordinary size may take.
const COMMIT_SEGMENTS: usize = AHEAD;

/// Buffers of written groups kept for the next ones.
const BUFFERS_KEPT: usize = 3;

/// Numbers that groups of what was taken may still need.
const GROUPS_KEPT: u64 = 1 << 32;

/// The clock that segments age by, when the log has written `blocks` more. Only a disk that lies gets it to its end.
pub(crate) fn clock_after(log_blocks: u64, blocks: u32) -> u64 {
    (log_blocks + u64::from(blocks)).min(NUMBER_MAX - 1)
}

pub(crate) struct Log {
    superblock: Superblock,
    segments: Rc<RefCell<Segments>>,
    vault: SharedVault,
    state: RefCell<State>,
    /// Blocks that the device is writing for the log.
    in_flight: RefCell<Option<core::ops::Range<u64>>>,
    /// Commits go into the next group before anything else is done: a few turns.
    is_letting_in: Cell<bool>,
    /// A group is being written, or flushed.
    is_writing: Cell<bool>,
    /// Commits that wait until there is room for them.
    admissions: Cell<u32>,
    /// Bytes of work in the background that may go ahead meanwhile.
    work_left: Cell<u64>,
    /// Durability moved on, room came free, a flush ended, or the log failed.
    progress: Notify,
    /// Something for the writer to do.
    work: Notify,
}

struct State {
    cursor: LogCursor,
    /// What commits are added to.
    open: Option<OpenGroup>,
    /// Groups that are complete, in order.
    sealed: VecDeque<SealedGroup>,
    sealed_bytes: usize,
    buffers: Vec<Buffer>,
    appended: u64,
    durable: u64,
    durable_group: u64,
    /// The newest commit somebody waits for.
    wanted: u64,
    /// Sequence number of the checkpoint in force.
    checkpoint: u64,
    /// Blocks of groups ever written: the clock that segments age by.
    log_blocks: u64,
    flushes_started: u64,
    flushes_done: u64,
    /// A flush at least this recent is wanted even if no group needs one.
    flush_wanted: u64,
    /// The same, where one that comes with a group is waited for.
    flush_hoped: u64,
    /// Segments that the next commit may take.
    commit_segments: usize,
    condition: Condition,
    counters: Counters,
}

/// Room that a commit needs and the log did not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoomWanted {
    /// Segments that it goes on to.
    segments: usize,
    /// It frees more than it takes, and may use what others leave to tidying.
    shrinking: bool,
}

impl RoomWanted {
    /// Whether it is what a full disk has for commits that free space.
    pub(crate) fn is_set_aside(self) -> bool {
        self.shrinking && self.segments <= 1
    }
}

/// Why the log did not take a commit. Nothing of it happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    TooLarge,
    NoRoom(RoomWanted),
    OutOfMemory,
    ReadOnly,
}

impl From<Refused> for AppendError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::TooLarge => Self::TooLarge,
            Refused::NoRoom(_) => Self::NoRoom,
            Refused::OutOfMemory => Self::OutOfMemory,
            Refused::ReadOnly => Self::ReadOnly,
        }
    }
}

impl From<BufferAllocError> for Refused {
    fn from(_: BufferAllocError) -> Self {
        Self::OutOfMemory
    }
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
    Group(SealedGroup),
    Flush,
    Stop,
}

/// Where a checkpoint lets replay begin, and what the log looks like from there.
pub(crate) struct LogView {
    /// Segments of the window before the start.
    pub dropped: usize,
    pub start: ReplayStart,
    /// Those from the start to the current one, then those decided on.
    pub segments: Vec<SegmentId>,
    pub ahead_count: usize,
    pub durable_group: u64,
    pub log_blocks: u64,
}

/// How a commit is spread over groups.
struct Plan {
    /// Parts that still go to the open group.
    begun: usize,
    /// Parts that go to one new group each, in order.
    chunks: Vec<Chunk>,
    advances: usize,
}

struct Chunk {
    parts: core::ops::Range<usize>,
    /// Begin the next segment first.
    advance: bool,
    /// Blocks from the group's start to the end of its segment.
    left: u32,
}

/// How many parts fit into `room` bytes, and what they take.
fn fitting(parts: &[Part<'_>], room: usize) -> (usize, usize) {
    let mut bytes = FRAME_BYTES_MAX;
    let fits = |part: &&Part<'_>| {
        bytes += part.len_bytes();
        bytes <= room
    };
    let count = parts.iter().take_while(fits).count();
    (count, framed_bytes(parts.get(..count).unwrap_or_default()))
}

impl Log {
    /// A log that goes on at `cursor`, after commit `last`, under the checkpoint with that sequence
    /// number; everything up to there is durable.
    pub(crate) fn new(
        superblock: Superblock,
        (segments, vault): (Rc<RefCell<Segments>>, SharedVault),
        cursor: LogCursor,
        last: CommitNumber,
        checkpoint: u64,
        log_blocks: u64,
        counters: Counters,
    ) -> Self {
        segments.borrow_mut().set_clock(log_blocks);
        let state = State {
            durable_group: cursor.sequence.saturating_sub(1),
            cursor,
            open: None,
            sealed: VecDeque::new(),
            sealed_bytes: 0,
            buffers: Vec::new(),
            appended: last.0,
            durable: last.0,
            wanted: last.0,
            checkpoint,
            log_blocks,
            flushes_started: 0,
            flushes_done: 0,
            flush_wanted: 0,
            flush_hoped: 0,
            commit_segments: COMMIT_SEGMENTS,
            condition: Condition::Running,
            counters,
        };
        Self {
            superblock,
            segments,
            vault,
            state: RefCell::new(state),
            in_flight: RefCell::new(None),
            is_letting_in: Cell::new(false),
            is_writing: Cell::new(false),
            admissions: Cell::new(0),
            work_left: Cell::new(0),
            progress: Notify::default(),
            work: Notify::default(),
        }
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

    /// Whether the writer has ended, or is about to: nothing more becomes durable.
    pub(crate) fn has_ended(&self) -> bool {
        let condition = self.state.borrow().condition;
        matches!(condition, Condition::Failed | Condition::Stopped)
    }

    pub(crate) fn counters(&self) -> Counters {
        self.state.borrow().counters
    }

    pub(crate) fn count(&self, update: impl FnOnce(&mut Counters)) {
        update(&mut self.state.borrow_mut().counters);
    }

    /// Blocks of groups ever written: the clock that segments age by.
    pub(crate) fn log_blocks(&self) -> u64 {
        self.state.borrow().log_blocks
    }

    /// Takes a commit and gives it the next number; `addresses` gets where each part that has data will be.
    /// Not durable on return.
    ///
    /// `shrinking`: it frees more than it takes, and may use what others leave to tidying: on a full disk it is how
    /// there comes to be room again.
    pub(crate) fn append(
        &self,
        parts: &[Part<'_>],
        addresses: &mut Vec<u64>,
        shrinking: bool,
    ) -> Result<CommitNumber, Refused> {
        let state = &mut *self.state.borrow_mut();
        if state.condition != Condition::Running {
            return Err(Refused::ReadOnly);
        }
        let wanted = |segments| RoomWanted {
            segments,
            shrinking,
        };
        let bytes = framed_bytes(parts);
        if bytes > self.superblock.commit_bytes_max() {
            return Err(Refused::TooLarge);
        }
        let number = state.appended + 1;
        if number >= NUMBER_MAX || state.cursor.sequence >= NUMBER_MAX - GROUPS_KEPT {
            return Err(Refused::ReadOnly);
        }
        let fits = |open: &&mut OpenGroup| bytes <= open.room_bytes();
        if let Some(open) = state.open.as_mut().filter(fits) {
            open.reserve(parts)?;
            open.add(parts, |address| addresses.push(address));
            open.commits_ending += 1;
        } else {
            if bytes <= capacity_bytes(self.superblock.group_blocks_max()) {
                // How long a group is, is known once its records are compressed; what follows goes right behind it.
                let _ = self.decide_ahead(state, wanted(0));
                self.seal(state);
            }
            let plan = self.plan(state, parts, bytes)?;
            let wanted = wanted(plan.advances);
            if let Err(no_room) = self.decide_ahead(state, wanted) {
                // From here on there is only room when there is for this one.
                state.commit_segments = state.commit_segments.max(wanted.segments + AHEAD);
                return Err(no_room);
            }
            if wanted.segments + AHEAD >= state.commit_segments {
                state.commit_segments = COMMIT_SEGMENTS;
            }
            let fresh = self.build(state, parts, number, &plan)?;
            if let Some(open) = state.open.as_mut().filter(|_| plan.begun > 0) {
                let begun = parts.get(..plan.begun).unwrap_or_default();
                open.reserve(begun)?;
                open.add(begun, |address| addresses.push(address));
                open.continues = true;
            }
            if let Some(open) = &mut state.open {
                open.keeps_length = true;
            }
            for (chunk, (group, at)) in plan.chunks.iter().zip(fresh) {
                self.seal(state);
                if chunk.advance && !state.cursor.advance() {
                    // `decide_ahead` has seen to it that there is a next segment.
                    return Err(Refused::NoRoom(wanted));
                }
                state.open = Some(group);
                addresses.extend(at);
            }
        }
        state.appended = number;
        state.counters.commits += 1;
        if self.is_pressed(state) {
            self.work.notify();
        }
        Ok(CommitNumber(number))
    }

    /// How to spread a commit that does not fit into the open group.
    fn plan(&self, state: &State, parts: &[Part<'_>], bytes: usize) -> Result<Plan, Refused> {
        let group_max = self.superblock.group_blocks_max();
        let blocks_for =
            |bytes: usize| u32::try_from((GROUP_HEADER_BYTES + bytes).div_ceil(BLOCK_SIZE));
        let blocks_for = |bytes| blocks_for(bytes).map_err(|_| Refused::TooLarge);
        let open = state.open.as_ref();
        let open_blocks = open.map_or(Ok(0), |open| blocks_for(open.len_bytes()))?;
        let mut left = state
            .cursor
            .blocks_left(&self.superblock)
            .saturating_sub(open_blocks);
        let mut plan = Plan {
            begun: 0,
            chunks: Vec::new(),
            advances: 0,
        };
        let segment_blocks = self.superblock.segment_blocks;
        let mut advance = false;
        if bytes <= capacity_bytes(group_max) {
            if blocks_for(bytes)? > left {
                (left, advance, plan.advances) = (segment_blocks, true, 1);
            }
            plan.chunks.push(Chunk {
                parts: 0..parts.len(),
                advance,
                left,
            });
            return Ok(plan);
        }
        let room = open.map_or(0, OpenGroup::room_bytes);
        plan.begun = fitting(parts, room).0;
        let begun = parts.get(..plan.begun).unwrap_or_default();
        if plan.begun > 0 {
            let gathered = open.map_or(0, OpenGroup::len_bytes) + framed_bytes(begun);
            left = (left + open_blocks).saturating_sub(blocks_for(gathered)?);
        }
        let mut next = plan.begun;
        while next < parts.len() {
            let room = capacity_bytes(group_max.min(left));
            let rest = parts.get(next..).unwrap_or_default();
            let (count, bytes) = fitting(rest, room);
            if count == 0 {
                if left == segment_blocks {
                    return Err(Refused::TooLarge);
                }
                plan.advances += 1;
                (left, advance) = (segment_blocks, true);
                continue;
            }
            plan.chunks.push(Chunk {
                parts: next..next + count,
                advance,
                left,
            });
            left = left.saturating_sub(blocks_for(bytes)?);
            advance = false;
            next += count;
        }
        Ok(plan)
    }

    /// The new groups of a commit, filled, before anything of it shows.
    fn build(
        &self,
        state: &mut State,
        parts: &[Part<'_>],
        number: u64,
        plan: &Plan,
    ) -> Result<Vec<(OpenGroup, Vec<u64>)>, Refused> {
        let group_max = self.superblock.group_blocks_max();
        let mut ahead = state.cursor.ahead.iter();
        let mut segment = state.cursor.current();
        let mut groups = Vec::new();
        let last = plan.chunks.len().saturating_sub(1);
        for (at, chunk) in plan.chunks.iter().enumerate() {
            if chunk.advance {
                // As many as were decided on.
                segment = *ahead.next().ok_or(Refused::TooLarge)?;
            }
            let end = self.superblock.segment_start(segment).0
                + u64::from(self.superblock.segment_blocks);
            let block = BlockIndex(end - u64::from(chunk.left));
            let parts = parts.get(chunk.parts.clone()).unwrap_or_default();
            let buffer = state.buffers.pop().unwrap_or_default();
            let mut group = OpenGroup::new(
                block,
                group_max.min(chunk.left),
                buffer,
                number,
                at > 0 || plan.begun > 0,
            )?;
            group.reserve(parts)?;
            let mut addresses = Vec::new();
            group.add(parts, |address| addresses.push(address));
            group.commits_ending = u32::from(at == last);
            group.continues = at != last;
            group.keeps_length = at != last;
            groups.push((group, addresses));
        }
        Ok(groups)
    }

    /// Whether a commit of any size would be taken now.
    pub(crate) fn has_room(&self) -> bool {
        self.room(&self.state.borrow())
    }

    /// Segments that there have to be free for the next commit.
    pub(crate) fn commit_segments(&self) -> u32 {
        u32::try_from(self.state.borrow().commit_segments).unwrap_or(u32::MAX)
    }

    /// Whether a commit that needs such room would find it, or would meet another error.
    pub(crate) fn has_room_for(&self, wanted: RoomWanted) -> bool {
        let state = self.state.borrow();
        self.may_advance(&state, wanted) || state.condition != Condition::Running
    }

    /// Whether there are segments to go on to, and one more, so that groups can say where the log goes on.
    fn may_advance(&self, state: &State, wanted: RoomWanted) -> bool {
        let window = state.cursor.window.len() + wanted.segments;
        let free = self.segments.borrow().free();
        let free = free.saturating_sub(self.segments_left(wanted.shrinking)) as usize;
        window <= self.superblock.log_segments as usize
            && state.cursor.ahead.len() + free > wanted.segments
    }

    /// Free segments that commits leave to others.
    fn segments_left(&self, shrinking: bool) -> u32 {
        let reserves = self.segments.borrow().reserves();
        if shrinking {
            reserves.segments_for_cleaning()
        } else {
            reserves.segments_for_tidying()
        }
    }

    /// Waits until a commit of any size would be taken and `also` holds, or `or_else` does; they are asked
    /// again after every [`nudge`](Self::nudge).
    pub(crate) async fn admit(&self, also: impl Fn() -> bool, or_else: impl Fn() -> bool) {
        /// One of the commits that wait.
        struct Waiting<'l>(&'l Log);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.admissions.update(|count| count - 1);
                // Others went behind it. It may have been given up, and then no group comes of it.
                self.0.progress.notify();
            }
        }
        let admitted = || (self.has_room() && also()) || or_else();
        if !admitted() {
            self.admissions.update(|count| count + 1);
            let _waiting = Waiting(self);
            // A checkpoint that waited for a flush to come is awaited now.
            self.progress.notify();
            // The log may be full of commits nobody waits for.
            self.hurry(self.appended());
            self.progress.until(|| admitted().then_some(())).await;
        }
    }

    /// Whether a commit waits for room.
    pub(crate) fn is_admission_wanted(&self) -> bool {
        self.admissions.get() > 0
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

    /// Whether somebody waits for a commit to become durable.
    pub(crate) fn is_waited_for(&self) -> bool {
        let state = self.state.borrow();
        state.wanted > state.durable
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
    /// if one comes before `patience` ends, the log runs out of room, or it is `awaited`, which is asked again after every
    /// [`nudge`](Self::nudge); else for one of its own.
    pub(crate) async fn barrier(
        &self,
        patience: impl Future<Output = ()>,
        awaited: impl Fn() -> bool,
    ) -> Result<(), ReadOnly> {
        let target = {
            let mut state = self.state.borrow_mut();
            let target = state.flushes_started + 1;
            state.flush_hoped = state.flush_hoped.max(target);
            target
        };
        let settled = |in_haste: bool| {
            let state = self.state.borrow();
            if state.flushes_done >= target {
                Some(Ok(()))
            } else if matches!(state.condition, Condition::Failed | Condition::Stopped) {
                Some(Err(ReadOnly))
            } else if in_haste
                && (!self.room(&state) || state.condition == Condition::Closing || awaited())
            {
                Some(Ok(()))
            } else {
                None
            }
        };
        embassy_futures::select::select(self.progress.until(|| settled(true)), patience).await;
        {
            let mut state = self.state.borrow_mut();
            // Another one that waits may want a later flush.
            state.flush_wanted = state.flush_wanted.max(target);
        }
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

    /// Whether the log is so long that a checkpoint should be made.
    pub(crate) fn wants_checkpoint(&self) -> bool {
        self.state.borrow().cursor.window.len() > self.window_usable() * 2 / 3
    }

    /// Whether it is so long that the layer above should begin what it does before a checkpoint: there is as much left for commits meanwhile.
    pub(crate) fn is_half_full(&self) -> bool {
        self.state.borrow().cursor.window.len() > self.window_usable() / 2
    }

    /// Whether commits wait for a checkpoint, or may be about to: the log is as long as replay may become.
    pub(crate) fn is_window_full(&self) -> bool {
        self.state.borrow().cursor.window.len() > self.window_usable()
    }

    /// Makes waiters look at their conditions again.
    pub(crate) fn nudge(&self) {
        self.progress.notify();
    }

    /// Waits until `condition` yields something; it is asked whenever the log moves on.
    pub(crate) async fn until<T>(&self, condition: impl FnMut() -> Option<T>) -> T {
        self.progress.until(condition).await
    }

    /// The log as a checkpoint has to describe it after which replay begins behind `horizon`.
    pub(crate) fn view(&self, horizon: CommitNumber) -> LogView {
        let state = self.state.borrow();
        let next = CommitNumber(horizon.0 + 1);
        let unwritten = match &state.open {
            Some(open) => (open.first_commit, open.continued),
            None => (state.appended + 1, false),
        };
        let (dropped, start) = state.cursor.replay_start(next, unwritten);
        let window = state.cursor.window.iter().skip(dropped).map(|s| s.id);
        LogView {
            dropped,
            start,
            segments: window.chain(state.cursor.ahead.iter().copied()).collect(),
            ahead_count: state.cursor.ahead.len(),
            durable_group: state.durable_group,
            log_blocks: state.log_blocks,
        }
    }

    /// How many of the log's segments hold nothing but what replay may need, the last of them and those only decided on
    /// left out.
    pub(crate) fn segments_only_log(&self) -> u32 {
        let kept = self.state.borrow().cursor.ahead.len() + 1;
        let kept = u32::try_from(kept).unwrap_or(u32::MAX);
        self.segments.borrow().only_log_count().saturating_sub(kept)
    }

    /// The checkpoint with this sequence number is durable: the first `dropped` segments are not needed for
    /// replay any more.
    pub(crate) fn shorten(&self, checkpoint: u64, dropped: usize) {
        let mut state = self.state.borrow_mut();
        state.checkpoint = checkpoint;
        let gone = state.cursor.drop_front(dropped);
        drop(state);
        let mut segments = self.segments.borrow_mut();
        for segment in gone {
            segments.set_pinned(segment, false);
        }
        drop(segments);
        self.work.notify();
        self.progress.notify();
    }

    /// A copy of bytes that are not written yet; `None` when they are not in memory.
    pub(crate) fn copy_unwritten(&self, range: StoredRange) -> Option<Rc<[u8]>> {
        self.unwritten(range, |bytes| Rc::from(bytes))
    }

    /// What `look` makes of bytes that are not written yet; `None` when they are not in memory.
    pub(crate) fn unwritten<T>(
        &self,
        range: StoredRange,
        look: impl FnOnce(&[u8]) -> T,
    ) -> Option<T> {
        let (address, len) = (range.address, range.len_bytes as usize);
        let state = self.state.borrow();
        let mut sealed = state.sealed.iter();
        let open = state.open.as_ref();
        let bytes = sealed.find_map(|group| group.get(address, len));
        let bytes = bytes.or_else(|| open.and_then(|group| group.get(address, len)));
        bytes.map(look)
    }

    /// Waits until no write is under way that contains the byte at `address`.
    pub(crate) async fn settled(&self, address: u64) {
        let block = address / BLOCK_SIZE as u64;
        self.progress
            .until(|| {
                let in_flight = self.in_flight.borrow();
                let busy = in_flight
                    .as_ref()
                    .is_some_and(|blocks| blocks.contains(&block));
                (!busy).then_some(())
            })
            .await;
    }

    /// Writes groups until [`stop`](Self::stop). Run exactly once, beside everything else.
    pub(crate) async fn run(&self, device: &impl BlockDevice) {
        loop {
            match self.work.until(|| self.next_step()).await {
                Step::Group(group) => {
                    let bytes = group.buffer.bytes().len() as u64;
                    self.work_left.set(bytes.max(WORK_PER_GROUP));
                    self.is_writing.set(true);
                    self.write_group(device, group).await;
                    self.is_writing.set(false);
                    self.progress.notify();
                    self.let_in().await;
                }
                Step::Flush => {
                    let _ = self.flush(device).await;
                }
                Step::Stop => return,
            }
        }
    }

    /// Lets those go on who waited for the last group, as long as they have more: what they commit goes into the next one.
    /// Without that there would soon be several parties that take turns, each with a flush of its own.
    async fn let_in(&self) {
        self.is_letting_in.set(true);
        let mut idle = 0;
        for _ in 0..TURNS_MAX {
            let before = self.appended();
            embassy_futures::yield_now().await;
            idle = if self.appended() == before {
                idle + 1
            } else {
                0
            };
            if idle == TURNS_IDLE {
                break;
            }
        }
        self.is_letting_in.set(false);
    }

    /// Gives way to others; while commits are let in, for as many turns as that may take: what is not urgent makes none of them wait longer.
    pub(crate) async fn give_way(&self) {
        embassy_futures::yield_now().await;
        for _ in 0..TURNS_MAX {
            if !self.is_letting_in.get() {
                break;
            }
            embassy_futures::yield_now().await;
        }
    }

    /// Gives way after a turn of work in the background. When that was enough beside one group it waits until that is written and commits do
    /// not wait for something else besides, unless somebody waits for the work: then who waited would come too late for the next group as well.
    pub(crate) async fn take_turn(
        &self,
        bytes: u64,
        is_waited_for: impl Fn() -> bool,
        wait_for_else: impl Fn() -> bool,
    ) {
        if !is_waited_for() {
            let left = self.work_left.get();
            self.work_left.set(left.saturating_sub(bytes));
        }
        let may = || {
            !(self.is_writing.get() || wait_for_else())
                || self.work_left.get() > 0
                || is_waited_for()
                || self.has_ended()
        };
        loop {
            self.give_way().await;
            if may() {
                return;
            }
            // Then those who waited for the same come first.
            self.progress.until(|| may().then_some(())).await;
        }
    }

    async fn write_group(&self, device: &impl BlockDevice, group: SealedGroup) {
        let blocks = group.buffer.len_blocks();
        let end = group.block.0 + blocks as u64;
        self.in_flight.replace(Some(group.block.0..end));
        let flush = self.number_flush();
        let ahead = self.superblock.blocks_left_behind(end);
        // It names nothing that was written otherwise and is not durable yet.
        let least = if self.is_flush_hoped_for() {
            Durable::All
        } else {
            Durable::Written
        };
        let written = device.write_durable(group.block, group.buffer, least, ahead);
        let (buffer, written) = written.await;
        self.in_flight.replace(None);
        let Ok(durable) = written else {
            return self.fail();
        };
        self.keep_buffer(buffer);
        match durable {
            Durable::All => self.flushed(flush),
            // As good as a flush, to this group alone.
            Durable::Written if least == Durable::Written => {
                self.count(|counters| counters.flushes += 1);
            }
            _ if self.flush(device).await.is_err() => return,
            _ => {}
        }
        let mut state = self.state.borrow_mut();
        state.durable = state.durable.max(group.last_commit);
        state.durable_group = group.sequence;
        state.counters.groups += 1;
        state.counters.bytes_written += (blocks * BLOCK_SIZE) as u64;
        drop(state);
        self.progress.notify();
    }

    fn keep_buffer(&self, buffer: Buffer) {
        let buffers = &mut self.state.borrow_mut().buffers;
        if buffers.len() < BUFFERS_KEPT {
            buffers.push(buffer);
        }
    }

    async fn flush(&self, device: &impl BlockDevice) -> Result<(), ReadOnly> {
        let number = self.number_flush();
        if device.flush().await.is_err() {
            self.fail();
            return Err(ReadOnly);
        }
        self.flushed(number);
        Ok(())
    }

    /// The number of a flush that begins now: it covers what the device has completed by then.
    fn number_flush(&self) -> u64 {
        let mut state = self.state.borrow_mut();
        state.flushes_started += 1;
        state.flushes_started
    }

    /// Whether somebody waits for a flush that covers what else was written.
    fn is_flush_hoped_for(&self) -> bool {
        let state = self.state.borrow();
        state.flush_hoped > state.flushes_done
    }

    /// The flush of this number has returned, and with it those before.
    fn flushed(&self, number: u64) {
        let mut state = self.state.borrow_mut();
        state.flushes_done = number;
        state.counters.flushes += 1;
        drop(state);
        self.progress.notify();
    }

    /// What the writer should do now, if anything.
    fn next_step(&self) -> Option<Step> {
        let state = &mut *self.state.borrow_mut();
        if matches!(state.condition, Condition::Failed | Condition::Stopped) {
            return Some(Step::Stop);
        }
        let due = state.wanted > state.durable
            || state.condition == Condition::Closing
            || self.is_pressed(state);
        if due {
            if state.sealed.is_empty() {
                self.seal(state);
            }
            if let Some(group) = state.sealed.pop_front() {
                state.sealed_bytes -= group.buffer.bytes().len();
                return Some(Step::Group(group));
            }
        }
        (state.flush_wanted > state.flushes_started).then_some(Step::Flush)
    }

    /// Whether so much has gathered that it should be written, waited for or not.
    fn is_pressed(&self, state: &State) -> bool {
        let full = capacity_bytes(self.superblock.group_blocks_max()) / 8 * 7;
        !state.sealed.is_empty() || state.open.as_ref().is_some_and(|o| o.len_bytes() >= full)
    }

    /// Ends the open group, if there is one.
    fn seal(&self, state: &mut State) {
        let Some(group) = state.open.take() else {
            return;
        };
        debug_assert_eq!(group.block(), state.cursor.block(&self.superblock));
        let mut ahead = state.cursor.ahead.iter().copied();
        let chain = Chain {
            sequence: state.cursor.sequence,
            previous_checksum: state.cursor.previous_checksum,
            checkpoint: state.checkpoint,
            next_segments: [ahead.next(), ahead.next()],
        };
        let (commit, continued) = (group.first_commit, group.continued);
        let (group, sum, blocks) = group.seal(GroupKind::Commits, &self.vault, chain);
        state.cursor.step(blocks, commit, continued, sum);
        state.log_blocks = clock_after(state.log_blocks, blocks);
        self.segments.borrow_mut().set_clock(state.log_blocks);
        state.sealed_bytes += group.buffer.bytes().len();
        state.sealed.push_back(group);
    }

    /// Decides on the segments that the next steps need, and those that groups then announce.
    fn decide_ahead(&self, state: &mut State, wanted: RoomWanted) -> Result<(), Refused> {
        if !self.may_advance(state, wanted) {
            return Err(Refused::NoRoom(wanted));
        }
        let left = self.segments_left(wanted.shrinking);
        let mut segments = self.segments.borrow_mut();
        while state.cursor.ahead.len() < wanted.segments + AHEAD && segments.free() > left {
            let Some(id) = segments.allocate(SegmentKind::Log, state.log_blocks) else {
                break;
            };
            state.cursor.ahead.push_back(id);
        }
        Ok(())
    }

    /// Segments of commits that a checkpoint takes over at most.
    pub(crate) fn replay_segments_max(&self) -> u64 {
        self.window_usable() as u64 + 1
    }

    /// Segments that replay may come to span before commits wait for a checkpoint.
    fn window_usable(&self) -> usize {
        (self.superblock.log_segments as usize)
            .saturating_sub(self.superblock.commit_segments_max())
    }

    fn room(&self, state: &State) -> bool {
        match state.condition {
            Condition::Running => {
                let queued =
                    state.sealed_bytes + state.open.as_ref().map_or(0, OpenGroup::len_bytes);
                let commit = state.commit_segments;
                let ahead = state.cursor.ahead.len();
                let free = self.segments.borrow().free();
                let free = free.saturating_sub(self.segments_left(false));
                queued < 2 * capacity_bytes(self.superblock.group_blocks_max())
                    && state.cursor.window.len() <= self.window_usable()
                    && ahead + free as usize > commit
            }
            // Whoever asks shall go on and meet the error.
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use core::pin::pin;

    use embassy_futures::poll_once;

    use super::*;
    use crate::disk::superblock::tests::example;
    use crate::seal::Vault;
    use crate::sim::{Flushing, Random, Request, SimDisk, seed_from};

    /// A log at `cursor`.
    fn log_at(superblock: Superblock, segments: Segments, cursor: LogCursor) -> Log {
        let vault = Vault::plain(superblock.id);
        let segments = Rc::new(RefCell::new(segments));
        let counters = Counters::default();
        let (last, checkpoint, log_blocks) = (CommitNumber(1), 1, 0);
        Log::new(
            superblock,
            (segments, vault),
            cursor,
            last,
            checkpoint,
            log_blocks,
            counters,
        )
    }

    fn take(segments: &mut Segments) -> SegmentId {
        segments.allocate(SegmentKind::Log, 0).unwrap()
    }

    /// Where a log begins, with that commit.
    fn beginning(superblock: &Superblock, commit: u64) -> (Segments, LogCursor) {
        let mut segments = Segments::new(superblock, 100).unwrap();
        let start = ReplayStart {
            group: 1,
            commit,
            continued: false,
            previous_checksum: 0,
        };
        let cursor = LogCursor::at_start(take(&mut segments), start);
        (segments, cursor)
    }

    /// A log of which only little is left, in one way or another.
    fn nearly_full(random: &mut Random) -> Log {
        let superblock = example();
        let (mut segments, mut cursor) = beginning(&superblock, 1);
        let mut take = || take(&mut segments);
        for _ in 0..random.below(16) {
            cursor.step(1, 1, false, 0);
            cursor.ahead.push_back(take());
            assert!(cursor.advance());
        }
        if let blocks @ 1.. = random.below(9) {
            cursor.step(u32::try_from(blocks).unwrap(), 1, false, 0);
        }
        // Groups always could say where the log goes on.
        for _ in 0..=random.below(3) {
            cursor.ahead.push_back(take());
        }
        let left = segments.reserves().segments_for_cleaning() - 1;
        let left = left + u32::try_from(random.below(8)).unwrap();
        while segments.free() > left {
            segments.allocate(SegmentKind::Object, 0).unwrap();
        }
        log_at(superblock, segments, cursor)
    }

    /// The one that ended first took back the flush that the other waits for.
    #[test]
    fn of_two_barriers_each_has_its_flush() {
        let superblock = example();
        let (mut segments, mut cursor) = beginning(&superblock, 2);
        cursor.ahead.extend([(); 2].map(|()| take(&mut segments)));
        let log = log_at(superblock, segments, cursor);
        let disk = SimDisk::new(2000, 1);
        disk.set_flushing(Flushing::Combined);
        disk.set_holds(|request| matches!(request, Request::Write(..)));

        let mut writer = pin!(log.run(&disk));
        let mut patient = pin!(log.barrier(core::future::pending(), || false));
        assert!(poll_once(patient.as_mut()).is_pending());
        let part = Part {
            head: &[7; 500],
            body: &[],
            data: &[],
        };
        let commit = log.append(&[part], &mut Vec::new(), false).unwrap();
        let mut durable = pin!(log.wait_durable(commit));
        assert!(poll_once(durable.as_mut()).is_pending());
        // Its group is on its way: it is the flush of the first, and too early for the second.
        assert!(poll_once(writer.as_mut()).is_pending());
        assert_eq!(disk.held_count(), 1);
        let mut hasty = pin!(log.barrier(core::future::ready(()), || true));
        assert!(poll_once(hasty.as_mut()).is_pending());
        disk.release();
        let mut is_patient = true;
        let ended = (0..100).any(|_| {
            assert!(poll_once(writer.as_mut()).is_pending());
            if is_patient {
                is_patient = poll_once(patient.as_mut()).is_pending();
            }
            !is_patient && poll_once(hasty.as_mut()).is_ready()
        });
        assert!(ended, "it waits for ever");
    }

    /// Whoever waited for room that was there would never wait, and never come through.
    #[test]
    fn what_a_refused_commit_waits_for_is_not_there() {
        let text = std::env::var("SILTSTONE_SEED").ok();
        let seed = seed_from(text.as_deref(), 5);
        std::println!("SILTSTONE_SEED={seed}");
        let mut random = Random::new(seed);
        let mut refused = [0; 2];
        for round in 0..4000 {
            let log = nearly_full(&mut random);
            let shrinking = random.one_in(2);
            let head = [7; 500];
            let part = Part {
                head: &head,
                body: &[],
                data: &[],
            };
            for _ in 0..20 {
                let parts = alloc::vec![part; 1 + random.index(120)];
                match log.append(&parts, &mut Vec::new(), shrinking) {
                    Ok(_) => {}
                    Err(Refused::NoRoom(wanted)) => {
                        assert!(!log.has_room_for(wanted), "round {round}: {wanted:?}");
                        refused[usize::from(shrinking)] += 1;
                    }
                    Err(other) => panic!("{other:?}"),
                }
            }
        }
        assert!(refused.iter().all(|&count| count > 1000), "{refused:?}");
    }
}

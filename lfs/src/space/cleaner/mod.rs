//! The cleaner: makes segments empty that are mostly not meant any more (DESIGN.md, "Cleaner").
//!
//! A victim's extents that are still meant are copied to a segment of survivors, tree nodes are written anew by the next
//! checkpoint; after a checkpoint the victim is free. Copying needs no log record: until the checkpoint is
//! durable the old place holds, and replay of commits does not depend on where data are.
//!
//! Victims are chosen by what they bring and how old they are. What has survived more often goes to segments of
//! its own, so that old data are not copied along with young.
//!
//! Bounds: one group is in memory at a time, read and written, and as many blocks as the largest has that were read ahead. Whoever waits for space waits for at most four times as
//! many bytes to be freed as it writes, not for a victim to be done (see [`FileSystem::pace`]). Who waits for a checkpoint does not
//! wait for the cleaner besides (see [`FileSystem::checkpoint_first`]).

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::rc::Rc;

use self::survivors::Pending;
use crate::counted::Counted;
use crate::disk::read_checked;
use crate::disk::superblock::SegmentId;
use crate::mount::SEGMENTS_PER_CHECKPOINT;
use crate::space::heads::SURVIVOR_HEADS;
use crate::space::segments::{Segment, SegmentKind};
use crate::transaction::Loaded;
use crate::tree::{Key, NodeHeader, TreeKind, inspect};
use crate::{BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, Clock, Fault, FileError, FileSystem};

mod cold;
mod survivors;

const BLOCK: u64 = BLOCK_SIZE as u64;

/// Blocks of a segment of nodes that are read at once.
const NODE_BLOCKS_AT_ONCE: u32 = 32;

/// The part of what the cleaner goes through, one byte in so many, that counts as work beside commits: most of it is read and no more.
const WORK_PART: u64 = 8;

/// The part of what commits may be ahead of the cleaner by that it catches up before they go on: each alone would have a group of its own.
const CATCH_UP_PART: u64 = 16;

/// A segment is worth cleaning when at least this part of it, one in so many, could be used better.
const WORTH_ONE_IN: u32 = 16;

/// Victims whose survivors may wait for more of their kind although segments are short: so many give half a segment at least, and less than a block
/// is lost to each kind that is written early.
const HELD_UP_MAX: u32 = WORTH_ONE_IN / 2;

/// Steps between segments that are few and hardly any.
const PACE_STEPS: u64 = 64;

/// Segments that may be garbage however little data there is: what the cleaner leaves of each victim, and more, is lost in them.
const GARBAGE_SEGMENTS: u64 = 4;

/// So many victims must give more than one segment, all together, where only garbage is what the cleaner works for.
const GARBAGE_VICTIMS: u32 = WORTH_ONE_IN;

/// What the cleaner remembers.
#[derive(Default)]
pub(crate) struct CleanerState {
    /// Segments that could not be cleaned: what is in them is damaged and stays where it is.
    refused: BTreeSet<SegmentId>,
    /// Segments that the device could not read: they are tried again when room is wanted and there are no others.
    unreadable: BTreeSet<SegmentId>,
    /// Segments of nodes whose nodes the next checkpoint writes elsewhere.
    awaiting: BTreeSet<SegmentId>,
    /// Victims, and what is left to do with each: survivors to be written, and one more while it is gone through.
    in_work: BTreeMap<SegmentId, usize>,
    /// Survivors to be written, by generation.
    pending: [Pending; SURVIVOR_HEADS],
    /// Bytes that were made free since the mount, credited as the cleaner goes through a victim.
    pub freed_bytes: u64,
    /// Bytes that commits took since segments became few or garbage much, and more than that where they are very few or it is very much.
    pub taken_bytes: u64,
    /// Commits are ahead of it by as much as they may be: they wait until it has caught up by some commits' worth.
    is_behind: bool,
    /// Bytes that the victims of this run gave.
    pub given_bytes: u64,
    /// Bytes that their survivors took.
    pub spent_bytes: u64,
    /// Whether it last found nothing to gain, or could not go on: then it is not worth waiting for.
    pub in_vain: bool,
    /// Garbage that came out again as it went in, for 1,024 bytes that are meant: what survivors take besides themselves, which is much where they are small.
    lasting_garbage: u64,
}

impl<D: BlockDevice> FileSystem<D> {
    pub(crate) async fn clean_loop(&self, clock: &impl Clock) {
        loop {
            self.changed
                .until(|| {
                    let wanted = self.is_pressed() || self.wants_room_for_objects();
                    (self.is_ending() || wanted).then_some(())
                })
                .await;
            if self.is_ending() {
                return;
            }
            let cleaned = self.clean_some().await;
            self.cleaner.borrow_mut().in_vain = cleaned != Ok(true);
            self.log.nudge();
            match cleaned {
                Ok(true) => {}
                // Nothing to gain before something changes.
                Ok(false) => {
                    let pressing = self.wants_cleaning() || self.objects_wait.get() > 0;
                    self.pause(clock, if pressing { 50 } else { 1000 }).await;
                }
                Err(_) if self.is_ending() => return,
                Err(_) => self.pause(clock, 50).await,
            }
            self.log.nudge();
            embassy_futures::yield_now().await;
        }
    }

    /// Cleans until there are enough segments, and writes all survivors; false when there was nothing to gain.
    async fn clean_some(&self) -> Result<bool, FileError> {
        {
            let mut state = self.cleaner.borrow_mut();
            (state.given_bytes, state.spent_bytes) = (0, 0);
        }
        let cleaned = self.clean_victims().await;
        let mut state = self.cleaner.borrow_mut();
        // Survivors can take what their victims gave.
        let cleaned = cleaned.map(|()| state.given_bytes > state.spent_bytes);
        // Of those that something kept from being cleaned.
        for victim in core::mem::take(&mut state.in_work).into_keys() {
            self.segments.borrow_mut().set_pinned(victim, false);
        }
        state.pending = Default::default();
        cleaned
    }

    /// Of what is to be done with a victim, one thing is. When it was the last, the victim is let go.
    fn done_with(&self, victim: SegmentId) {
        let mut state = self.cleaner.borrow_mut();
        let Some(left) = state.in_work.get_mut(&victim) else {
            return;
        };
        *left -= 1;
        if *left > 0 {
            return;
        }
        state.in_work.remove(&victim);
        let mut segments = self.segments.borrow_mut();
        segments.set_pinned(victim, false);
        if state.unreadable.contains(&victim) {
            return;
        }
        // All survivors are written: what is still meant is told of by no group there.
        let of_extents = |kind| matches!(kind, SegmentKind::Log | SegmentKind::Survivors);
        let left = segments.get(victim);
        if left.is_some_and(|s| of_extents(s.kind) && s.live_bytes > 0) {
            state.refused.insert(victim);
        }
    }

    async fn clean_victims(&self) -> Result<(), FileError> {
        let wants_room = || self.wants_more_cleaning() || self.wants_room_for_objects();
        // Below what it began at: several victims fill the groups of their survivors.
        let is_littered = || self.garbage_bytes() > self.garbage_bytes_max() / 8 * 7;
        // Victims that only garbage was the reason for, and what all had brought before them.
        let (mut of_garbage, mut brought) = (0, self.brought());
        while (wants_room() || is_littered()) && !self.is_ending() {
            if wants_room() {
                of_garbage = 0;
            } else if of_garbage == GARBAGE_VICTIMS {
                self.write_all_survivors().await?;
                let before = core::mem::replace(&mut brought, self.brought());
                let segment = i64::try_from(self.superblock.segment_bytes()).unwrap_or(i64::MAX);
                if brought.saturating_sub(before) <= segment {
                    self.note_lasting_garbage();
                    break;
                }
                of_garbage = 0;
                self.cleaner.borrow_mut().lasting_garbage = 0;
            }
            self.checkpoint_first().await;
            if self.holds_up() {
                self.write_all_survivors().await?;
            }
            let Some((victim, segment)) = self.pick_victim() else {
                if wants_room() {
                    self.cleaner.borrow_mut().unreadable.clear();
                }
                break;
            };
            let dead = self.superblock.segment_bytes() as u64 - u64::from(segment.live_bytes);
            // It may become empty on the way, and must not be used anew under the cleaner's eyes.
            self.segments.borrow_mut().set_pinned(victim, true);
            self.cleaner.borrow_mut().in_work.insert(victim, 1);
            let cleaned = match segment.kind {
                SegmentKind::Nodes => self.clean_nodes(victim, dead).await,
                _ => self.clean_extents(victim, &segment, dead).await,
            };
            match cleaned {
                Ok(()) => {
                    of_garbage += 1;
                    self.log.count(|counters| counters.segments_cleaned += 1);
                    let nodes = segment.kind == SegmentKind::Nodes;
                    let live = if nodes { segment.live_bytes } else { 0 };
                    let given = self.superblock.segment_bytes() as u64 - u64::from(live);
                    let mut state = self.cleaner.borrow_mut();
                    state.given_bytes += given;
                    // As long as it brings something it is worth waiting for.
                    state.in_vain &= state.given_bytes <= state.spent_bytes;
                }
                Err(FileError::Damaged { .. }) => {
                    self.cleaner.borrow_mut().refused.insert(victim);
                }
                Err(FileError::Device(_)) => {
                    {
                        let mut state = self.cleaner.borrow_mut();
                        state.unreadable.insert(victim);
                        // A disk takes its time over what it cannot read: no commit waits for that.
                        state.in_vain |= state.given_bytes <= state.spent_bytes;
                    }
                    embassy_futures::yield_now().await;
                }
                Err(error) => return Err(error),
            }
            self.done_with(victim);
            self.log.nudge();
        }
        self.write_all_survivors().await
    }

    /// What the victims of this run have given, less what their survivors took.
    fn brought(&self) -> i64 {
        let state = self.cleaner.borrow();
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        signed(state.given_bytes) - signed(state.spent_bytes)
    }

    /// The garbage that there is comes out of victims as it went in: it is left alone until there is more, for what is meant.
    fn note_lasting_garbage(&self) {
        let live_bytes = self.segments.borrow().live_bytes().max(1);
        let lasting = self.garbage_bytes().saturating_mul(1024) / live_bytes;
        self.cleaner.borrow_mut().lasting_garbage = lasting;
    }

    async fn write_all_survivors(&self) -> Result<(), FileError> {
        for generation in 0..SURVIVOR_HEADS {
            while self.write_survivors(generation).await? {}
        }
        Ok(())
    }

    /// Whether commits are about to wait for segments that are held by survivors which wait for more of their kind.
    fn holds_up(&self) -> bool {
        let needed = self.reserves().segments_needed(self.log.commit_segments());
        self.segments.borrow().free() <= needed
            && self.segments_emptied() < SEGMENTS_PER_CHECKPOINT
            && self.segments_in_work() >= HELD_UP_MAX
    }

    /// Waits while a checkpoint is under way that frees what commits are about to wait for: cleaning would make it take longer, and take
    /// segments that they could have. As long as they do have some, it goes on where even with those that are coming
    /// there are few. Waits as well while commits wait for the log to become shorter, if there are segments enough.
    async fn checkpoint_first(&self) {
        let near = || {
            let commit = self.log.commit_segments();
            let reserves = self.reserves();
            let (free, due) = (self.segments.borrow().free(), self.segments_due.get());
            due > 0
                && free <= reserves.segments_needed(commit)
                && free + due >= reserves.segments_for_tidying() + commit
                && !(self.wants_cleaning() && self.log.has_room())
        };
        let is_wanted = || {
            self.wants_cleaning() || self.wants_room_for_objects() || self.objects_wait.get() > 0
        };
        let near = || near() || (self.log.is_window_full() && !is_wanted());
        if near() {
            let _haste = self.hasten_checkpoints();
            self.log
                .until(|| (!near() || self.is_ending()).then_some(()))
                .await;
        }
    }

    /// Whether free segments, and those that the next checkpoint frees, are few.
    pub(crate) fn wants_cleaning(&self) -> bool {
        self.segments.borrow().free() + self.segments_coming()
            < self.reserves().segments_few(self.log.commit_segments())
    }

    /// Bytes of garbage that the cleaner could still make room of.
    fn garbage_bytes(&self) -> u64 {
        let segments = self.segments.borrow();
        let state = self.cleaner.borrow();
        let given_up = state.refused.iter().chain(&state.unreadable);
        let others = given_up.chain(&state.awaiting);
        let others = others.filter_map(|id| segments.get(*id));
        let others = others.filter(|segment| segment.is_cleanable());
        let size = self.superblock.segment_bytes() as u64;
        let dead = others.map(|segment| size - u64::from(segment.live_bytes));
        segments.garbage_bytes().saturating_sub(dead.sum())
    }

    /// As many bytes of garbage as [may be](Self::set_garbage_max).
    pub(crate) fn garbage_bytes_max(&self) -> u64 {
        let Some(percent) = self.garbage_percent_max.get() else {
            return u64::MAX;
        };
        let live_bytes = self.segments.borrow().live_bytes();
        let segments = GARBAGE_SEGMENTS * self.superblock.segment_bytes() as u64;
        let lasting = self.cleaner.borrow().lasting_garbage;
        // An eighth more than what came out again, or it would be tried again at once.
        let lasting = (live_bytes / 1024).saturating_mul(lasting + lasting / 4);
        let wanted = (live_bytes / 100).saturating_mul(percent.into());
        wanted.max(lasting) + segments
    }

    /// Whether commits pay for the cleaner's work: segments are few, or more is garbage than may be.
    fn is_pressed(&self) -> bool {
        self.wants_cleaning() || self.garbage_bytes() > self.garbage_bytes_max()
    }

    /// Lets so many hundredths of what is meant be garbage, besides, whatever room there is; without a number, what there is room for. Beyond, the cleaner works, and commits wait
    /// for as much of its work as they cause, and up to twice that where it is half as much again. What the log still needs for replay, and what segments are open for, does not count.
    pub fn set_garbage_max(&self, percent: Option<u32>) {
        if self.garbage_percent_max.replace(percent) != percent {
            self.changed.notify();
            self.log.nudge();
        }
    }

    /// Whether the cleaner goes on once it has begun: several victims at once fill the groups of their survivors.
    fn wants_more_cleaning(&self) -> bool {
        self.segments.borrow().free() + self.segments_coming()
            < self.reserves().segments_low(self.log.commit_segments())
    }

    /// Whether free segments are fewer than were promised to objects. Commits do not wait for these.
    pub(crate) fn wants_room_for_objects(&self) -> bool {
        let promised = self.segments_promised();
        let low = self.reserves().segments_low(self.log.commit_segments());
        // Only what is free beyond those is for objects.
        let kept = self.reserves().segments_kept_from_objects();
        let wanted = low.max(kept) + promised;
        promised > 0 && self.segments.borrow().free() + self.segments_coming() < wanted
    }

    /// Waits for the cleaner, if it can make room for objects: true if the next checkpoint brings some, false if none will come by itself.
    pub async fn clean_for_objects(&self) -> bool {
        let found = || match self.segments_emptied() {
            // Victims that it is at count as room already, and give it when it is through with them.
            0 if self.segments_in_work() == 0 && !self.wants_room_for_objects() => Some(false),
            0 if self.cleans_in_vain() || self.is_ending() => Some(false),
            0 => None,
            _ => Some(true),
        };
        let _waits = Counted::among(&self.objects_wait);
        // What it found before is of before.
        self.cleaner.borrow_mut().in_vain = false;
        self.changed.notify();
        self.log.nudge();
        self.log.until(found).await
    }

    /// Whether the cleaner last found nothing to gain.
    pub(crate) fn cleans_in_vain(&self) -> bool {
        self.cleaner.borrow().in_vain
    }

    /// Whether there is no room, and none will come by itself.
    pub(crate) fn is_full(&self) -> bool {
        self.cleans_in_vain()
            && self.wants_cleaning()
            && !self.log.has_room()
            && !self.log.wants_checkpoint()
            && self.segments_coming() == 0
    }

    /// Segments that checkpoints are going to free, those included that the cleaner is at.
    pub(crate) fn segments_coming(&self) -> u32 {
        self.segments_emptied() + self.segments_in_work()
    }

    /// Segments that the next checkpoint frees, or the one after it: of the log's, it lets go at the first.
    pub(crate) fn segments_emptied(&self) -> u32 {
        let segments = self.segments.borrow();
        let state = self.cleaner.borrow();
        let count = |count| u32::try_from(count).unwrap_or(u32::MAX);
        let of_log = if self.layer_pins_log() {
            0
        } else {
            // A victim that is empty by now passes for one.
            let passes = |id: &&SegmentId| segments.get(**id).is_some_and(Segment::is_only_log);
            let victims = state.in_work.keys().filter(passes).count();
            let only_log = self.log.segments_only_log();
            only_log.saturating_sub(count(victims))
        };
        segments.emptied_count() + of_log + count(state.awaiting.len())
    }

    fn segments_in_work(&self) -> u32 {
        u32::try_from(self.cleaner.borrow().in_work.len()).unwrap_or(u32::MAX)
    }

    /// A checkpoint is in force that was frozen when these nodes were already on their way elsewhere.
    pub(crate) fn forget_awaiting(&self, moved: &BTreeSet<SegmentId>) {
        let mut state = self.cleaner.borrow_mut();
        state.awaiting.retain(|segment| !moved.contains(segment));
    }

    /// Segments of nodes that a checkpoint frozen now will empty.
    pub(crate) fn awaiting(&self) -> BTreeSet<SegmentId> {
        self.cleaner.borrow().awaiting.clone()
    }

    /// The segment that brings most for what it costs, (1 - u) · √calm / (1 + u), and will not bring more soon: calm is how long
    /// its last losses took. The root keeps calm segments that are nearly full from being copied again and again.
    fn pick_victim(&self) -> Option<(SegmentId, Segment)> {
        let scarce = self.scarcity() > PACE_STEPS / 2;
        let segments = self.segments.borrow();
        let state = self.cleaner.borrow();
        let now = self.log.log_blocks();
        let size = u64::try_from(self.superblock.segment_bytes()).unwrap_or(u64::MAX);
        let score = |segment: &Segment| {
            let live = u64::from(segment.live_bytes).min(size);
            // Where there is hardly room to work in, what brings most comes first.
            let calm = if scarce { 1 } else { segment.calm(now) + 1 };
            u128::from(size - live) * u128::from(calm.isqrt()) * 1024 / u128::from(size + live)
        };
        let full = self.superblock.segment_capacity_bytes();
        let worth = |segment: &Segment| {
            u64::from(segment.live_bytes) + size / u64::from(WORTH_ONE_IN) <= full
        };
        segments
            .iter()
            .filter(|(id, segment)| {
                segment.is_cleanable()
                    && worth(segment)
                    && !state.refused.contains(id)
                    && !state.unreadable.contains(id)
                    && !state.awaiting.contains(id)
                    && !state.in_work.contains_key(id)
            })
            .max_by_key(|(_, segment)| score(segment))
            .map(|(id, segment)| (id, *segment))
    }

    /// Makes the next checkpoint write the nodes in a segment elsewhere.
    async fn clean_nodes(&self, victim: SegmentId, dead: u64) -> Result<(), FileError> {
        let start = self.superblock.segment_start(victim).0;
        let count = self.superblock.segment_blocks;
        let mut loaded = Loaded::default();
        for first in (0..count).step_by(NODE_BLOCKS_AT_ONCE as usize) {
            self.checkpoint_first().await;
            let blocks = NODE_BLOCKS_AT_ONCE.min(count - first);
            let at = BlockIndex(start + u64::from(first));
            let buffer = self.read_blocks(at, blocks as usize).await?;
            for (bytes, block) in buffer.bytes().chunks_exact(BLOCK_SIZE).zip(at.0..) {
                let own = BlockIndex(block);
                let mut found = inspect(bytes, &self.vault, own);
                if found.is_none() && self.device.copies() > 1 {
                    found = self.inspect_copies(own).await?;
                }
                let Some((header, first_key)) = found else {
                    continue;
                };
                self.may_go_on().await;
                while let Err(fault) = self.redirty(&header, &first_key) {
                    if self.is_ending() {
                        return Err(FileError::ReadOnly);
                    }
                    if !self.take_node(&fault, at, &buffer, &mut loaded) {
                        self.load(fault, &mut loaded).await?;
                    }
                }
            }
            self.credit(dead * u64::from(blocks) / u64::from(count));
            self.take_turn_at_cleaning(buffer.bytes().len() as u64)
                .await;
        }
        self.cleaner.borrow_mut().awaiting.insert(victim);
        Ok(())
    }

    /// Lets others go first after so many bytes were gone through, and a group that is being written unless somebody waits for room.
    async fn take_turn_at_cleaning(&self, bytes: u64) {
        let is_waited_for = || self.log.is_admission_wanted() || self.objects_wait.get() > 0;
        let turn = self
            .log
            .take_turn(bytes / WORK_PART, is_waited_for, || false);
        turn.await;
    }

    /// Takes in the node that is asked for from blocks that were read already, beginning at `start`, if it is among them, and as it should be.
    fn take_node(
        &self,
        fault: &Fault,
        start: BlockIndex,
        blocks: &Buffer,
        loaded: &mut Loaded,
    ) -> bool {
        let Fault::Node(pointer) = fault else {
            return false;
        };
        let Some(block) = blocks.block(start, pointer.block) else {
            return false;
        };
        let cache = Rc::clone(&self.volume.borrow().cache);
        let taken = cache.borrow_mut().insert(*pointer, block);
        taken.map(|node| loaded.nodes.hold(node)).is_ok()
    }

    /// The node at `own`, from whichever copy has one there.
    async fn inspect_copies(
        &self,
        own: BlockIndex,
    ) -> Result<Option<(NodeHeader, Key)>, FileError> {
        let buffer = Buffer::zeroed(1).map_err(|_| FileError::OutOfMemory)?;
        let look = |bytes: &[u8]| inspect(bytes, &self.vault, own).ok_or(());
        let (_, found) = read_checked(&self.device, own, buffer, look).await;
        Ok(found.map_err(FileError::Device)?.ok())
    }

    fn redirty(&self, header: &NodeHeader, first_key: &Key) -> Result<bool, Fault> {
        let volume = &mut *self.volume.borrow_mut();
        let tree = match header.tree {
            TreeKind::Live => &mut volume.live,
            TreeKind::History => &mut volume.history,
        };
        tree.redirty(header.block, header.level, first_key)
    }

    /// Counts bytes as made free.
    fn credit(&self, bytes: u64) {
        let ahead_max = self.ahead_max();
        let mut state = self.cleaner.borrow_mut();
        state.freed_bytes += bytes;
        let ahead = state.taken_bytes.saturating_sub(state.freed_bytes);
        if state.is_behind && ahead <= ahead_max - ahead_max / CATCH_UP_PART {
            state.is_behind = false;
        }
        drop(state);
        self.log.nudge();
    }

    /// Bytes that commits may have taken and the cleaner not freed: a group's worth.
    fn ahead_max(&self) -> u64 {
        u64::from(self.superblock.group_blocks_max()) * BLOCK
    }

    /// Segments by which those that are free or coming are fewer than the cleaner keeps, up to `PACE_STEPS`
    /// where they are as few as commits may leave.
    fn scarcity(&self) -> u64 {
        let level = self.segments.borrow().free() + self.segments_coming();
        let low = self.reserves().segments_few(self.log.commit_segments());
        let span = low - self.reserves().segments_for_tidying();
        let short = low.saturating_sub(level).min(span);
        u64::from(short) * PACE_STEPS / u64::from(span.max(1))
    }

    /// How much more is garbage than may be, up to a third of `PACE_STEPS` where that is half as much again: a commit waits for twice as much to be freed as it writes, at most.
    fn litter(&self) -> u64 {
        let most = self.garbage_bytes_max();
        let over = self.garbage_bytes().saturating_sub(most);
        let span = (most / 2).max(1);
        over.min(span) / (span / (PACE_STEPS / 3)).max(1)
    }

    /// Counts a commit of `bytes` bytes against what the cleaner frees: up to fourfold, so that segments become
    /// more again whatever trees and survivors take besides.
    pub(crate) fn charge(&self, bytes: u64) {
        let steps = self.scarcity().max(self.litter()).min(PACE_STEPS);
        let charged = bytes + bytes * 3 * steps / PACE_STEPS;
        let (is_pressed, ahead_max) = (self.is_pressed(), self.ahead_max());
        let mut state = self.cleaner.borrow_mut();
        if is_pressed {
            state.taken_bytes += charged;
            state.is_behind |= state.taken_bytes > state.freed_bytes + ahead_max;
        } else {
            state.taken_bytes = state.freed_bytes;
            state.is_behind = false;
        }
        drop(state);
        self.changed.notify();
    }

    /// Whether commits wait for the cleaner, and for nothing that a checkpoint brings: there are segments, and too much of them is garbage.
    pub(crate) fn is_cleaner_awaited(&self) -> bool {
        let awaits_more =
            || !self.log.has_room() || !self.may_dirty_more() || self.wants_cleaning();
        self.log.is_admission_wanted() && !self.pace() && !awaits_more()
    }

    /// Whether a commit may go ahead: while segments are few, or too much is garbage, commits take no more than the cleaner has freed, but for
    /// a group's worth, and then wait until it has caught up by a part of that. So each waits for the cleaning of at most four times what it writes, and of no segment as a whole.
    pub(crate) fn pace(&self) -> bool {
        let credit = {
            let state = self.cleaner.borrow();
            state.in_vain || !state.is_behind
        };
        credit || !self.is_pressed() || self.is_ending()
    }
}

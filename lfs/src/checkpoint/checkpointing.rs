//! Making checkpoints (DESIGN.md, "Checkpoints"): freeze, write what changed, flush, write the slot, flush.
//!
//! Commits go on meanwhile. What a checkpoint holds is the state of the moment it was frozen; replay begins there
//! or, when the layer above is behind, at its horizon.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::{Checkpoint, ObjectInfo};
use crate::counted::Counted;
use crate::disk::layout::NUMBER_MAX;
use crate::disk::superblock::SegmentId;
use crate::log::Log;
use crate::mount::LayerState;
use crate::space::{Head, SegmentKind};
use crate::tree::Frozen;
use crate::{
    BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, CheckpointError, Clock, CommitNumber, FileSystem,
    ObjectId,
};

/// How long a checkpoint waits for a commit's flush to cover its own writes before it makes one.
const BARRIER_PATIENCE_MS: u64 = 100;

/// What a node takes in its segment.
const NODE_BYTES: i64 = 4096;

/// Nodes written before others get a turn.
const NODES_PER_STEP: usize = 64;

/// The moment that a checkpoint holds.
struct Moment {
    live: Frozen,
    history: Frozen,
    tree_commit: CommitNumber,
    next_inode: u64,
    /// Nothing in these is meant any more.
    emptied: Vec<SegmentId>,
    /// Where the node before its first went.
    head: Option<Head>,
    /// Segments of the nodes that it wrote, one for each.
    written: Vec<SegmentId>,
    /// Segments that it began for nodes.
    begun: Vec<SegmentId>,
    /// Node segments that were filled on the way.
    filled: Vec<SegmentId>,
    /// Segments that the cleaner has made this checkpoint empty.
    cleaned: BTreeSet<SegmentId>,
    /// Its slot may be on the disk, and with it all that it names.
    said: bool,
}

/// The right to make a checkpoint.
pub(crate) struct Turn<'f, D: BlockDevice>(&'f FileSystem<D>);

impl<'f, D: BlockDevice> Turn<'f, D> {
    pub(crate) async fn take(filesystem: &'f FileSystem<D>) -> Self {
        let _waiting = Waiting {
            log: &filesystem.log,
            _counted: Counted::among(&filesystem.checkpoints_waiting),
        };
        let free = || (!filesystem.checkpointing.replace(true)).then_some(());
        filesystem.changed.until(free).await;
        Self(filesystem)
    }
}

/// Somebody waits for that right: checkpoints that nobody asked for come after it.
struct Waiting<'f> {
    log: &'f Log,
    _counted: Counted<'f>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // Whoever looks does so in a later step, when it is counted no more.
        self.log.nudge();
    }
}

/// Latches the log if it is dropped: whoever made a checkpoint is gone, and a write of it may be under way.
struct Abandoned<'l>(Option<&'l Log>);

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        if let Some(log) = self.0 {
            log.fail();
        }
    }
}

impl<D: BlockDevice> Drop for Turn<'_, D> {
    fn drop(&mut self) {
        self.0.segments.borrow_mut().thaw();
        self.0.checkpointing.set(false);
        self.0.segments_due.set(0);
        self.0.changed.notify();
        self.0.log.nudge();
    }
}

/// As long as there is one, checkpoints wait for no commit.
pub struct Haste<'f> {
    _counted: Counted<'f>,
}

impl<D: BlockDevice> FileSystem<D> {
    /// Says that somebody waits for checkpoints, until what this returns is dropped: they are flushed at once then, rather than with a commit that comes soon, which may be
    /// the one that waits.
    pub fn hasten_checkpoints(&self) -> Haste<'_> {
        let haste = Haste {
            _counted: Counted::among(&self.checkpoint_awaited),
        };
        self.log.nudge();
        haste
    }

    /// Makes a checkpoint in which the layer above has all up to `horizon` in the objects `keep`, exactly those
    /// exist, and `manifest` is handed to the next mount. Log segments before the horizon and
    /// objects not kept become free. Durable on return, kept objects included.
    ///
    /// Costs what changed since the last one, one slot write and two flushes, which commits' flushes stand in for
    /// when there are some within a tenth of a second and nobody [waits for it](Self::hasten_checkpoints). Several at once wait for each other. Dropped before it is through it leaves the file system
    /// read-only until the next mount, as a failed write does.
    ///
    /// # Errors
    /// The checkpoint before stays in force, and what this one took is given back; see [`CheckpointError`].
    pub async fn checkpoint(
        &self,
        horizon: CommitNumber,
        keep: &[ObjectId],
        manifest: &[u8],
        clock: &impl Clock,
    ) -> Result<(), CheckpointError> {
        if horizon > self.log.durable() {
            return Err(CheckpointError::Invalid);
        }
        let _turn = Turn::take(self).await;
        let layer = LayerState {
            // It moves on by itself while there is nothing to replay.
            horizon: horizon.max(self.layer.borrow().horizon),
            keep: keep.to_vec(),
            manifest: manifest.to_vec(),
        };
        let count = self.segments.borrow().count();
        self.make_checkpoint(layer, count, clock).await
    }

    /// Makes a checkpoint that leaves the layer above as it is.
    pub(crate) async fn checkpoint_trees(&self, clock: &impl Clock) -> Result<(), CheckpointError> {
        let _turn = Turn::take(self).await;
        let layer = self.layer.borrow().clone();
        let count = self.segments.borrow().count();
        self.make_checkpoint(layer, count, clock).await
    }

    /// Makes a checkpoint which says that there are `segment_count` segments, not fewer than there are. To be called by whose
    /// [`Turn`] it is.
    pub(crate) async fn make_checkpoint(
        &self,
        mut layer: LayerState,
        segment_count: u32,
        clock: &impl Clock,
    ) -> Result<(), CheckpointError> {
        let sequence = self.checkpoint_sequence.get() + 1;
        // One after which none could come would not be mounted.
        if sequence + 1 >= NUMBER_MAX {
            return Err(CheckpointError::TooLarge);
        }
        let objects = self.name_objects(&layer.keep)?;
        if self.layer_commit.get() <= layer.horizon {
            // The layer above recorded nothing since: it does not need the log.
            layer.horizon = layer.horizon.max(self.log.appended());
        }
        let mut abandoned = Abandoned(Some(&self.log));
        let mut moment = self.freeze(sequence);
        let written = self
            .write_checkpoint(
                &mut moment,
                &layer,
                objects,
                (sequence, segment_count),
                clock,
            )
            .await;
        let made = match written {
            Ok((objects, homes, dropped)) => {
                // Durably said: from here on something may be written there.
                self.segments
                    .borrow_mut()
                    .grow(&self.superblock, segment_count);
                self.install(moment, layer, &objects, homes, sequence, dropped)
                    .await;
                Ok(())
            }
            Err(error) => {
                self.give_up(&moment);
                Err(error)
            }
        };
        abandoned.0 = None;
        made
    }

    /// What there is to say of objects, which are not given up before it is said or the checkpoint has failed.
    fn name_objects(
        &self,
        keep: &[ObjectId],
    ) -> Result<BTreeMap<ObjectId, ObjectInfo>, CheckpointError> {
        let mut objects = self.objects.borrow_mut();
        let named = keep
            .iter()
            .map(|id| Some((*id, objects.get(id)?.info.clone())))
            .collect::<Option<BTreeMap<_, _>>>()
            .ok_or(CheckpointError::Invalid)?;
        for id in named.keys() {
            if let Some(object) = objects.get_mut(id) {
                object.being_named = true;
            }
        }
        Ok(named)
    }

    /// A checkpoint that was to name objects has failed.
    fn unname_objects(&self) {
        let mut gone = Vec::new();
        self.objects.borrow_mut().retain(|_, object| {
            object.being_named = false;
            if object.given_up {
                gone.append(&mut object.info.segments);
            }
            !object.given_up
        });
        self.release_segments(&gone);
    }

    /// Takes the state of this moment.
    fn freeze(&self, sequence: u64) -> Moment {
        self.checkpoint_due.set(false);
        let mut volume = self.volume.borrow_mut();
        let mut segments = self.segments.borrow_mut();
        let moment = Moment {
            live: volume.live.freeze(sequence),
            history: volume.history.freeze(sequence),
            tree_commit: self.log.appended(),
            next_inode: volume.next_object.get(),
            emptied: Vec::new(),
            head: self.heads.borrow().nodes,
            written: Vec::new(),
            begun: Vec::new(),
            filled: Vec::new(),
            cleaned: self.awaiting(),
            said: false,
        };
        segments.freeze();
        for freed in moment.live.freed().iter().chain(moment.history.freed()) {
            let address = freed.0 * BLOCK_SIZE as u64;
            if let Some(segment) = self.superblock.segment_of(address) {
                segments.add_frozen(segment, -(NODE_BYTES));
            }
        }
        // Not what only the log needs as yet: should the checkpoint not be readable one day, the one before finds in the
        // log after it that there was another.
        let emptied = segments.emptied();
        let due = u32::try_from(emptied.len()).unwrap_or(u32::MAX);
        self.segments_due.set(due);
        Moment { emptied, ..moment }
    }

    /// Gives back what a checkpoint that failed has taken, and takes back what it has counted.
    fn give_up(&self, moment: &Moment) {
        if moment.said {
            // Whether the disk has it is not known, so all that it names stays as it is. The log has ended: no other one follows.
            return;
        }
        self.unname_objects();
        {
            let mut volume = self.volume.borrow_mut();
            volume.live.give_up_freeze();
            volume.history.give_up_freeze();
        }
        let mut segments = self.segments.borrow_mut();
        for freed in moment.live.freed().iter().chain(moment.history.freed()) {
            let address = freed.0 * BLOCK_SIZE as u64;
            if let Some(segment) = self.superblock.segment_of(address) {
                segments.add_frozen(segment, NODE_BYTES);
            }
        }
        for &segment in &moment.written {
            segments.add_frozen(segment, -(NODE_BYTES));
        }
        for &segment in &moment.filled {
            segments.set_pinned(segment, false);
        }
        // Nothing on the disk names what it wrote, and none of its writes is under way.
        for &segment in &moment.begun {
            segments.release(segment);
        }
        self.heads.borrow_mut().nodes = moment.head;
        if let Some(head) = moment.head {
            segments.set_pinned(head.segment, true);
        }
        drop(segments);
        self.log.nudge();
    }

    /// Writes everything; durable on return. Gives the objects named, the homes of the segment table, and how many
    /// segments of the log are not needed for replay any more.
    async fn write_checkpoint(
        &self,
        moment: &mut Moment,
        layer: &LayerState,
        objects: BTreeMap<ObjectId, ObjectInfo>,
        (sequence, segment_count): (u64, u32),
        clock: &impl Clock,
    ) -> Result<(BTreeMap<ObjectId, ObjectInfo>, Vec<u8>, usize), CheckpointError> {
        // The trees must not be ahead of the log.
        self.log.wait_durable(moment.tree_commit).await?;
        self.write_nodes(moment).await?;
        let table = {
            let mut segments = self.segments.borrow_mut();
            segments.prepare_growth(segment_count);
            let superblock = &self.superblock;
            segments.changed_blocks(superblock, &self.vault, sequence, &moment.emptied)
        };
        let table = table.ok_or(CheckpointError::TooLarge)?;
        let indexes = table.iter().map(|block| block.index).collect::<Vec<_>>();
        let homes = self.segments.borrow().homes_with(indexes.iter().copied());
        let result = async {
            for block in table {
                self.write(block.block, block.buffer).await?;
            }
            self.flush_with_commits(clock).await?;
            let view = self.log.view(layer.horizon.min(moment.tree_commit));
            let checkpoint = Checkpoint {
                sequence,
                horizon: layer.horizon,
                tree_commit: moment.tree_commit,
                durable_group: view.durable_group,
                start: view.start,
                log_segments: view.segments,
                ahead_count: view.ahead_count,
                segment_count,
                log_blocks: view.log_blocks,
                live_root: moment.live.root(),
                history_root: moment.history.root(),
                next_inode: moment.next_inode,
                table_homes: homes.clone(),
                next_object: self.next_object.get(),
                objects,
                manifest: layer.manifest.clone(),
            };
            let slot = self.superblock.slot_block(Checkpoint::slot(sequence));
            let buffer = checkpoint
                .encode(&self.superblock, &self.vault, slot)
                .map_err(|_| CheckpointError::TooLarge)?;
            moment.said = true;
            self.write(slot, buffer).await?;
            self.flush_with_commits(clock).await?;
            Ok((checkpoint.objects, view.dropped))
        };
        match result.await {
            Ok((objects, dropped)) => Ok((objects, homes, dropped)),
            Err(error) => {
                self.segments.borrow_mut().mark_changed(indexes.into_iter());
                Err(error)
            }
        }
    }

    /// Makes durable what the checkpoint has written: with the flush of a commit if one comes soon, and at once if somebody
    /// waits for this checkpoint: that commit may be the one that would come.
    async fn flush_with_commits(&self, clock: &impl Clock) -> Result<(), CheckpointError> {
        let patience = clock.sleep_ms(BARRIER_PATIENCE_MS);
        Ok(self
            .log
            .barrier(patience, || self.is_checkpoint_awaited())
            .await?)
    }

    /// Whether somebody waits for what a checkpoint brings.
    fn is_checkpoint_awaited(&self) -> bool {
        let by_commits = || self.log.is_admission_wanted() && !self.is_cleaner_awaited();
        self.checkpoint_awaited.get() > 0 || !self.may_dirty_more() || by_commits()
    }

    /// Writes the changed nodes of both trees, neighbours in one request.
    async fn write_nodes(&self, moment: &mut Moment) -> Result<(), CheckpointError> {
        loop {
            let batch = self.next_nodes(moment)?;
            if batch.is_empty() {
                return Ok(());
            }
            for (start, buffer) in batch {
                let bytes = buffer.bytes().len() as u64;
                self.write(start, buffer).await?;
                self.take_turn(bytes, || self.is_checkpoint_awaited()).await;
            }
        }
    }

    /// The next nodes to write, put together where they follow each other.
    fn next_nodes(
        &self,
        moment: &mut Moment,
    ) -> Result<Vec<(BlockIndex, Buffer)>, CheckpointError> {
        let log_blocks = self.log.log_blocks();
        let mut segments = self.segments.borrow_mut();
        let mut heads = self.heads.borrow_mut();
        let Moment {
            live,
            history,
            written,
            begun,
            filled,
            ..
        } = moment;
        let mut batch: Vec<(BlockIndex, Buffer)> = Vec::new();
        let mut out_of_memory = false;
        let allocate = || {
            let before = heads.nodes.map(|head| head.segment);
            let (segment, block) = Head::take(
                &mut heads.nodes,
                &self.superblock,
                &mut segments,
                0,
                (SegmentKind::Nodes, log_blocks),
                1,
            )?;
            if before != Some(segment) {
                begun.push(segment);
                // Not to be cleaned before this checkpoint is in force.
                if let Some(left) = before {
                    segments.set_pinned(left, true);
                    filled.push(left);
                }
            }
            segments.add_frozen(segment, NODE_BYTES);
            written.push(segment);
            Some(block)
        };
        let write = |block: BlockIndex, bytes: &[u8; BLOCK_SIZE]| {
            let follows = batch
                .last()
                .is_some_and(|(start, buffer)| start.0 + buffer.len_blocks() as u64 == block.0);
            if !follows {
                batch.push((block, Buffer::default()));
            }
            let Some((_, buffer)) = batch.last_mut() else {
                return;
            };
            let at = buffer.len_blocks();
            if buffer.grow(at + 1).is_err() {
                out_of_memory = true;
                return;
            }
            if let Some(target) = buffer.bytes_mut().get_mut(at * BLOCK_SIZE..) {
                target.copy_from_slice(bytes);
            }
        };
        let frozen = if live.is_written() { history } else { live };
        if !frozen.is_written() {
            let more = frozen.next_batch(NODES_PER_STEP, allocate, write);
            more.map_err(|_| CheckpointError::NoSpace)?;
        }
        if out_of_memory {
            return Err(CheckpointError::TooLarge);
        }
        Ok(batch)
    }

    /// The checkpoint is in force.
    async fn install(
        &self,
        moment: Moment,
        layer: LayerState,
        objects: &BTreeMap<ObjectId, ObjectInfo>,
        homes: Vec<u8>,
        sequence: u64,
        dropped: usize,
    ) {
        self.checkpoint_sequence.set(sequence);
        self.log.count(|counters| counters.checkpoints += 1);
        *self.layer.borrow_mut() = layer;
        {
            let mut volume = self.volume.borrow_mut();
            volume.live.settle(moment.live);
            volume.history.settle(moment.history);
        }
        {
            let mut segments = self.segments.borrow_mut();
            segments.set_homes(homes);
            segments.thaw();
            for &segment in &moment.filled {
                segments.set_pinned(segment, false);
            }
        }
        // Before any of them is free: the log lets go of its segments by number.
        self.log.shorten(sequence, dropped);
        for segment in moment.emptied {
            self.discard(segment).await;
            self.segments.borrow_mut().release(segment);
            self.segments_due
                .set(self.segments_due.get().saturating_sub(1));
            self.log.nudge();
        }
        self.forget_awaiting(&moment.cleaned);
        self.log.nudge();
        self.replace_objects(objects).await;
        loop {
            let more = {
                let mut volume = self.volume.borrow_mut();
                volume.live.settle_step(NODES_PER_STEP)
                    || volume.history.settle_step(NODES_PER_STEP)
            };
            if !more {
                break;
            }
            embassy_futures::yield_now().await;
        }
        self.changed.notify();
        self.log.nudge();
    }

    /// The checkpoint in force names `kept`: what older ones named besides is free.
    async fn replace_objects(&self, kept: &BTreeMap<ObjectId, ObjectInfo>) {
        let mut gone = Vec::new();
        self.objects.borrow_mut().retain(|id, object| {
            let keep = kept.contains_key(id);
            if !keep && object.in_checkpoint {
                gone.append(&mut object.info.segments);
                return false;
            }
            object.in_checkpoint |= keep;
            (object.being_named, object.given_up) = (false, false);
            true
        });
        for segment in gone {
            self.discard(segment).await;
            self.release_segments(&[segment]);
        }
    }

    /// Tells the device that a segment is about to be free. Before it is: a discard must not meet new data. It is
    /// a hint; failing is no harm.
    async fn discard(&self, segment: SegmentId) {
        if self.device.geometry().discard {
            self.segments.borrow_mut().end_use(segment);
            let start = self.superblock.segment_start(segment);
            let count = u64::from(self.superblock.segment_blocks);
            let _ = self.device.discard(start, count).await;
        }
    }

    /// Writes outside the log. Not durable on return. A failure latches the file system.
    pub(crate) async fn write(
        &self,
        start: BlockIndex,
        buffer: Buffer,
    ) -> Result<(), CheckpointError> {
        if self.log.has_ended() {
            // What became durable before that is not known: it may name the place that is written here.
            return Err(CheckpointError::ReadOnly);
        }
        let blocks = buffer.len_blocks();
        let (_, written) = self.device.write(start, buffer).await;
        self.count_written(blocks);
        written.map_err(|error| {
            self.write_failed(error);
            CheckpointError::ReadOnly
        })
    }
}

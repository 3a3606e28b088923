//! The mounted file system: joins log, trees, objects and checkpoints, and owns the device.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use crate::checkpoint::{Checkpoint, ObjectInfo};
use crate::disk::SpareBuffers;
use crate::disk::layout::NUMBER_MAX;
use crate::disk::superblock::{Reserves, SegmentId, Superblock};
use crate::log::{Log, Part, Record};
use crate::notify::Notify;
use crate::object::{Located, ObjectScan, ObjectWriter, Outline};
use crate::seal::SharedVault;
use crate::space::{CleanerState, Heads, SegmentKind, Segments};
use crate::transaction::{SharedRegistry, Volume};
use crate::{
    AppendError, BLOCK_SIZE, BackupId, BlockDevice, ChunkRef, CommitNumber, Counters, DeviceError,
    NODE_CACHE_BYTES_MIN, ObjectId, ObjectReadError, ObjectWriteError, ReadOnly, ScrubStatus,
    Suite, Usage,
};

/// Nodes that leave memory at most when their bound is set.
const NODES_SHRUNK: usize = 64;

/// A mounted file system.
///
/// One task runs [`run`](Self::run); everything else may be called from any task of the same
/// thread. Nothing here is durable before the method that says so has returned.
pub struct FileSystem<D: BlockDevice> {
    pub(crate) device: D,
    pub(crate) superblock: Superblock,
    pub(crate) vault: SharedVault,
    pub(crate) log: Log,
    pub(crate) segments: Rc<RefCell<Segments>>,
    pub(crate) volume: RefCell<Volume>,
    pub(crate) objects: RefCell<BTreeMap<ObjectId, Object>>,
    pub(crate) next_object: Cell<u64>,
    pub(crate) checkpoint_sequence: Cell<u64>,
    /// What the layer above last said in a checkpoint.
    pub(crate) layer: RefCell<LayerState>,
    /// The newest commit in which the layer above recorded something.
    pub(crate) layer_commit: Cell<CommitNumber>,
    /// The newest commit that changed files.
    pub(crate) file_commit: Cell<CommitNumber>,
    pub(crate) heads: RefCell<Heads>,
    pub(crate) cleaner: RefCell<CleanerState>,
    /// Bytes that files leave to objects, those there are included.
    pub(crate) object_reserve: Cell<u64>,
    /// How many wait for room for objects.
    pub(crate) objects_wait: Cell<u32>,
    /// What files may not grow into: see [`FileSystem::reserve_for_values`].
    pub(crate) value_reserve: Cell<u64>,
    /// Somebody makes a checkpoint.
    pub(crate) checkpointing: Cell<bool>,
    /// How many wait until they may.
    pub(crate) checkpoints_waiting: Cell<u32>,
    /// Segments that it frees.
    pub(crate) segments_due: Cell<u32>,
    /// How many can go on only after it.
    pub(crate) checkpoint_awaited: Cell<u32>,
    /// Somebody wants one to be made in the background.
    pub(crate) checkpoint_due: Cell<bool>,
    /// By how many nodes somebody waits to change more than is possible before the next one.
    pub(crate) nodes_wanted: Cell<usize>,
    /// See [`set_garbage_max`](Self::set_garbage_max).
    pub(crate) garbage_percent_max: Cell<Option<u32>>,
    /// Inodes that somebody has open, and how often.
    pub(crate) held_inodes: RefCell<BTreeMap<u64, u64>>,
    /// Inodes that may have lost their last name, or other work in the background.
    pub(crate) orphans_due: Cell<bool>,
    /// A backup is being restored: nothing is freed meanwhile that it may say more of.
    pub(crate) restoring: Cell<bool>,
    /// What lost its last name is being freed.
    pub(crate) reclaiming: Cell<bool>,
    /// A snapshot was deleted: there may be history that none sees.
    pub(crate) history_due: Cell<bool>,
    /// That is being let go of for the first time, or is about to be.
    pub(crate) forgetting: Cell<bool>,
    /// Something above changed.
    pub(crate) changed: Rc<Notify>,
    /// The transactions that are open.
    pub(crate) open: SharedRegistry,
    pub(crate) closing: Cell<bool>,
    pub(crate) scrub: RefCell<ScrubStatus>,
    /// Bytes in a second that a scrub reads at most.
    pub(crate) scrub_rate: Cell<Option<u64>>,
    /// How many are loading something from the device.
    pub(crate) loading: Cell<u32>,
    /// Buffers that reads are done with.
    pub(crate) spare_buffers: SpareBuffers,
}

pub(crate) struct Object {
    pub info: ObjectInfo,
    /// Whether the checkpoint in force names it.
    pub in_checkpoint: bool,
    /// Whether one that is being made does: its segments are not to be given away meanwhile.
    pub being_named: bool,
    /// It was given up while it was being named.
    pub given_up: bool,
}

impl Object {
    fn new(info: ObjectInfo, in_checkpoint: bool) -> Self {
        Self {
            info,
            in_checkpoint,
            being_named: false,
            given_up: false,
        }
    }
}

/// What the layer above keeps in a checkpoint.
#[derive(Clone, Default)]
pub(crate) struct LayerState {
    pub horizon: CommitNumber,
    pub keep: Vec<ObjectId>,
    pub manifest: Vec<u8>,
}

impl<D: BlockDevice> FileSystem<D> {
    pub(crate) fn new(
        device: D,
        superblock: Superblock,
        segments: Rc<RefCell<Segments>>,
        volume: Volume,
        log: Log,
        layer_commit: CommitNumber,
        checkpoint: Checkpoint,
    ) -> Self {
        let layer = LayerState {
            horizon: checkpoint.horizon,
            keep: checkpoint.objects.keys().copied().collect(),
            manifest: checkpoint.manifest,
        };
        let objects = checkpoint.objects.into_iter();
        let objects = objects.map(|(id, info)| (id, Object::new(info, true)));
        let open = Rc::clone(&volume.open);
        let changed = open.borrow().changed();
        Self {
            device,
            superblock,
            vault: Rc::clone(&volume.vault),
            log,
            segments,
            objects: RefCell::new(objects.collect()),
            next_object: Cell::new(checkpoint.next_object),
            checkpoint_sequence: Cell::new(checkpoint.sequence),
            layer: RefCell::new(layer),
            layer_commit: Cell::new(layer_commit),
            file_commit: Cell::default(),
            heads: RefCell::default(),
            cleaner: RefCell::default(),
            object_reserve: Cell::new(0),
            objects_wait: Cell::new(0),
            value_reserve: Cell::new(0),
            checkpointing: Cell::new(false),
            checkpoints_waiting: Cell::new(0),
            segments_due: Cell::new(0),
            checkpoint_awaited: Cell::new(0),
            checkpoint_due: Cell::new(false),
            nodes_wanted: Cell::new(0),
            garbage_percent_max: Cell::new(None),
            held_inodes: RefCell::default(),
            orphans_due: Cell::new(true),
            restoring: Cell::new(false),
            reclaiming: Cell::new(false),
            history_due: Cell::new(true),
            forgetting: Cell::new(true),
            changed,
            open,
            closing: Cell::new(false),
            scrub: RefCell::default(),
            scrub_rate: Cell::default(),
            loading: Cell::default(),
            spare_buffers: SpareBuffers::default(),
            volume: RefCell::new(volume),
        }
    }

    /// The device, for [`ObjectScan::next`].
    pub fn device(&self) -> &D {
        &self.device
    }

    /// What names a backup of this file system that shows commit `at`, and builds on one that shows `since`, or 0.
    pub fn backup_id(&self, at: CommitNumber, since: CommitNumber) -> BackupId {
        BackupId::new(&self.superblock.id, at, since)
    }

    /// Largest payload of one commit in bytes.
    pub fn commit_bytes_max(&self) -> usize {
        // Records and frames around the payload, in each of the pieces it is cut into.
        self.superblock.commit_bytes_max() / 64 * 63
    }

    /// Queues `payload` as the next commit and returns its number. **Not durable on return**: see
    /// [`wait_durable`](Self::wait_durable). Commits become durable in order, each all or nothing.
    ///
    /// # Errors
    /// Nothing happened then; see [`AppendError`].
    pub fn append(&self, payload: &[u8]) -> Result<CommitNumber, AppendError> {
        let mut heads = Vec::new();
        let chunk_max = self.layer_chunk_bytes();
        let mut ranges = Vec::new();
        for chunk in payload.chunks(chunk_max) {
            let start = heads.len();
            Record::Layer(chunk).encode_head(&mut heads);
            ranges.push((start..heads.len(), chunk));
        }
        let parts = ranges
            .iter()
            .map(|(head, chunk)| Part {
                head: heads.get(head.clone()).unwrap_or_default(),
                body: chunk,
                data: &[],
            })
            .collect::<Vec<_>>();
        let number = self.log.append(&parts, &mut Vec::new(), false)?;
        self.layer_commit.set(number);
        self.charge(payload.len() as u64);
        self.changed.notify();
        Ok(number)
    }

    /// Bytes of the layer above that one record takes: records are not split.
    pub(crate) fn layer_chunk_bytes(&self) -> usize {
        self.superblock.group_blocks_max() as usize * BLOCK_SIZE / 8
    }

    /// Whether the log would take a commit of any size right now.
    pub fn has_room(&self) -> bool {
        self.log.has_room() && self.may_dirty_more() && self.pace()
    }

    /// Waits until the log would take a commit of any size, is read-only, or `or_else` holds; that is
    /// asked again whenever the log moves on and after every [`nudge`](Self::nudge).
    pub async fn admit(&self, or_else: impl Fn() -> bool) {
        self.log
            .admit(|| self.may_dirty_more() && self.pace(), or_else)
            .await;
    }

    /// Whether the trees may get more changed nodes before a checkpoint: its room is bounded. Not while somebody waits who needs more than
    /// there is: otherwise others would always be there first.
    pub(crate) fn may_dirty_more(&self) -> bool {
        let dirty = self.volume.borrow().dirty_nodes();
        let wanted = self.nodes_wanted.get();
        (dirty < self.reserves().dirty_nodes_max() && self.has_nodes_for(wanted))
            || self.is_ending()
    }

    /// By how many the changed nodes may become more before a checkpoint.
    pub(crate) fn nodes_left(&self) -> usize {
        let dirty = self.volume.borrow().dirty_nodes();
        self.reserves().dirty_nodes_limit().saturating_sub(dirty)
    }

    /// Whether so many more nodes may change before a checkpoint.
    pub(crate) fn has_nodes_for(&self, nodes: usize) -> bool {
        nodes <= self.nodes_left()
    }

    /// Waits until so many more nodes may change, or the end. Others that change nodes wait meanwhile.
    pub(crate) async fn wait_for_nodes(&self, nodes: usize) {
        /// Who waited needs no more.
        struct Waiting<'f, D: BlockDevice>(&'f FileSystem<D>);
        impl<D: BlockDevice> Drop for Waiting<'_, D> {
            fn drop(&mut self) {
                // Others that wait say so again.
                self.0.nodes_wanted.set(0);
                self.0.log.nudge();
            }
        }
        let _waiting = Waiting(self);
        embassy_futures::yield_now().await;
        self.log
            .until(|| {
                let may = self.has_nodes_for(nodes) || self.is_ending();
                if !may && self.nodes_wanted.get() < nodes {
                    self.nodes_wanted.set(nodes);
                    // Whoever makes checkpoints looks again.
                    self.log.nudge();
                }
                may.then_some(())
            })
            .await;
    }

    /// What unchanged nodes of the trees take in memory.
    pub fn node_cache_bytes(&self) -> usize {
        self.volume.borrow().cache.borrow().memory_bytes()
    }

    /// Sets what unchanged nodes may take in memory, in bytes: [`NODE_CACHE_BYTES_MIN`], at least, and when nobody says otherwise. Of what is too much some goes at once,
    /// and the rest when nodes are read or this is called again; nodes that an operation has in hand stay until it is through.
    pub fn set_node_cache_bytes_max(&self, bytes: usize) {
        let volume = self.volume.borrow();
        let mut cache = volume.cache.borrow_mut();
        cache.set_memory_bytes_max(bytes.max(NODE_CACHE_BYTES_MIN));
        cache.shrink(NODES_SHRUNK);
    }

    /// The newest commit taken.
    pub fn appended(&self) -> CommitNumber {
        self.log.appended()
    }

    /// Every commit up to this one survives a power cut.
    pub fn durable(&self) -> CommitNumber {
        self.log.durable()
    }

    /// Whether somebody waits for a commit to become durable.
    pub fn is_commit_waited_for(&self) -> bool {
        self.log.is_waited_for()
    }

    /// Gives way to others, and to commits that are just being let into the next group, which is a few turns at most: for work that nobody waits for.
    pub async fn give_way(&self) {
        self.log.give_way().await;
    }

    /// The same after a turn of work of so many bytes: while commits are being written, or wait for the cleaner alone, as much goes ahead as the last group has, or 32 KiB, until
    /// the next one, unless somebody waits for the work. That is asked again after every [`nudge`](Self::nudge).
    pub async fn take_turn(&self, bytes: u64, is_waited_for: impl Fn() -> bool) {
        self.log
            .take_turn(bytes, is_waited_for, || self.is_cleaner_awaited())
            .await;
    }

    /// Waits until `commit` is durable, and makes the log write it now rather than gather more.
    ///
    /// # Errors
    /// When it will not become durable in this mount. Whether it is there after the next is unknown.
    pub async fn wait_durable(&self, commit: CommitNumber) -> Result<(), ReadOnly> {
        self.log.wait_durable(commit).await
    }

    /// Waits until the log is so long that a checkpoint of the layer above should be made, or `or_else` holds; asked
    /// again whenever the log moves on and after every [`nudge`](Self::nudge).
    pub async fn checkpoint_wanted(&self, or_else: impl Fn() -> bool) {
        self.log
            .until(|| (self.wants_checkpoint() || or_else()).then_some(()))
            .await;
    }

    /// Whether the log is so long that commits wait for a checkpoint, or the next ones will.
    pub fn is_log_full(&self) -> bool {
        self.log.is_window_full()
    }

    /// Whether the log is so long, or room so scarce, that a checkpoint of the layer above should be made.
    pub fn wants_checkpoint(&self) -> bool {
        let enough =
            self.reserves().segments_needed(self.log.commit_segments()) + self.segments_promised();
        let short = || self.segments.borrow().free() <= enough && self.log.segments_only_log() > 1;
        self.layer_pins_log() && (self.log.is_half_full() || short())
    }

    /// Whether the layer above still needs the log.
    pub(crate) fn layer_pins_log(&self) -> bool {
        self.layer_commit.get() > self.layer.borrow().horizon
    }

    /// Makes tasks in [`checkpoint_wanted`](Self::checkpoint_wanted) and [`admit`](Self::admit) look
    /// again.
    pub fn nudge(&self) {
        self.log.nudge();
        self.changed.notify();
    }

    /// Takes no more commits; those taken still become durable, and checkpoints can be made.
    pub fn close(&self) {
        self.closing.set(true);
        self.log.close();
        self.changed.notify();
    }

    /// Ends [`run`](Self::run).
    pub fn stop(&self) {
        self.closing.set(true);
        self.log.stop();
        self.changed.notify();
    }

    /// Whether a write or flush failed: the file system is read-only until the next mount.
    pub fn is_failed(&self) -> bool {
        self.log.is_failed()
    }

    /// What has been done so far, in counts.
    pub fn counters(&self) -> Counters {
        self.log.counters()
    }

    /// How much of the device is in use.
    pub fn usage(&self) -> Usage {
        let segments = self.segments.borrow();
        let segment_bytes = self.superblock.segment_bytes() as u64;
        let window = u64::from(self.superblock.log_segments);
        let reserved = u64::from(self.reserves().segments_reserved());
        let count = u64::from(segments.count());
        let of_objects = u64::from(segments.of_objects());
        let live_files = segments
            .live_bytes()
            .saturating_sub(of_objects * segment_bytes);
        // Files leave to objects what they do not take, and a part of it to be cleaned in.
        let of_files = (live_files + live_files / 8).div_ceil(segment_bytes);
        let room = count.saturating_sub(reserved + window + of_files);
        let free = u64::from(segments.free());
        let free = free.saturating_sub(u64::from(self.reserves().segments_kept_from_objects()));
        Usage {
            segment_bytes,
            object_bytes_max: room * segment_bytes,
            object_bytes_free: room.saturating_sub(of_objects).min(free) * segment_bytes,
            log_bytes_max: window * segment_bytes,
            replay_bytes_max: self.log.replay_segments_max() * segment_bytes,
            live_bytes: segments.live_bytes(),
            capacity_bytes: count.saturating_sub(reserved)
                * self.superblock.segment_capacity_bytes(),
            taken_bytes: (count - u64::from(segments.free())) * segment_bytes,
        }
    }

    /// Sets aside `bytes` for objects, those there are included: files may not grow into that, and the cleaner sees
    /// to it that what objects do not take of it yet is free. Not kept on the disk.
    pub fn reserve_for_objects(&self, bytes: u64) {
        if self.object_reserve.replace(bytes) < bytes {
            self.changed.notify();
        }
    }

    /// Sets aside `bytes` for the value file, of the room for data and of that for objects: files may not grow into that. Not kept on the disk.
    pub fn reserve_for_values(&self, bytes: u64) {
        self.value_reserve.set(bytes);
    }

    /// Segments that are wanted free for objects, beyond those that the file system needs itself.
    pub(crate) fn segments_promised(&self) -> u32 {
        let reserve = self.object_reserve.get();
        if reserve == 0 {
            return 0;
        }
        let taken = self.segments.borrow().of_objects();
        let promised = reserve.div_ceil(self.superblock.segment_bytes() as u64);
        u32::try_from(promised.saturating_sub(taken.into())).unwrap_or(u32::MAX)
    }

    /// Begins a new object.
    ///
    /// # Errors
    /// [`ObjectWriteError::Full`] when there is no number left, which only a disk that lies makes happen.
    pub fn create_object(&self) -> Result<ObjectWriter<'_, D>, ObjectWriteError> {
        let id = self.next_object.get();
        if id >= NUMBER_MAX {
            return Err(ObjectWriteError::Full);
        }
        self.next_object.set(id + 1);
        Ok(ObjectWriter::new(self, ObjectId(id)))
    }

    /// What a chunk of an object that was finished holds: with one request, unless it is damaged in the copy that is read, or goes on in
    /// another segment. Copies that have it otherwise are mended.
    ///
    /// # Errors
    /// [`ObjectReadError::NotFound`] also if the object has gone meanwhile.
    pub async fn read_chunk(
        &self,
        id: ObjectId,
        chunk: ChunkRef,
    ) -> Result<Vec<u8>, ObjectReadError> {
        let located = {
            let objects = self.objects.borrow();
            let object = objects.get(&id).ok_or(ObjectReadError::NotFound)?;
            let vault = Rc::clone(&self.vault);
            Located::new(self.superblock, vault, id, &object.info, chunk)?
        };
        let read = located.read(&self.device, &self.spare_buffers).await;
        read.map_err(|error| match error {
            // Its segments may be somebody else's by now.
            ObjectReadError::Damaged { .. } if !self.objects.borrow().contains_key(&id) => {
                ObjectReadError::NotFound
            }
            error => error,
        })
    }

    /// Begins to read an object that was finished.
    ///
    /// # Errors
    /// [`ObjectReadError::NotFound`].
    pub fn scan_object(&self, id: ObjectId) -> Result<ObjectScan, ObjectReadError> {
        let outline = self.outline(id).ok_or(ObjectReadError::NotFound)?;
        Ok(ObjectScan::new(outline))
    }

    pub(crate) fn outline(&self, id: ObjectId) -> Option<Outline> {
        let objects = self.objects.borrow();
        let info = objects.get(&id)?.info.clone();
        Some(Outline::new(
            self.superblock,
            Rc::clone(&self.vault),
            id,
            info,
        ))
    }

    /// Length of an object in bytes: where its last chunk ends.
    pub fn object_len_bytes(&self, id: ObjectId) -> Option<u64> {
        self.objects
            .borrow()
            .get(&id)
            .map(|object| object.info.len_bytes)
    }

    /// Gives up a finished object that no checkpoint named yet; others are left alone. One that is being named is given up if that fails.
    pub fn discard_object(&self, id: ObjectId) {
        let mut objects = self.objects.borrow_mut();
        let Some(object) = objects.get_mut(&id).filter(|object| !object.in_checkpoint) else {
            return;
        };
        if object.being_named {
            object.given_up = true;
        } else if let Some(object) = objects.remove(&id) {
            self.release_segments(&object.info.segments);
        }
    }

    /// The cipher that everything is encrypted with; `None` without a key.
    pub fn suite(&self) -> Option<Suite> {
        self.superblock.suite
    }

    /// How free segments are divided.
    pub(crate) fn reserves(&self) -> Reserves {
        self.segments.borrow().reserves()
    }

    pub(crate) fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// A free segment for an object.
    pub(crate) fn allocate_segment(&self) -> Option<SegmentId> {
        let mut segments = self.segments.borrow_mut();
        if segments.free() <= segments.reserves().segments_for_tidying() {
            return None;
        }
        segments.allocate(SegmentKind::Object, self.log.log_blocks())
    }

    pub(crate) fn release_segments(&self, segments: &[SegmentId]) {
        let mut table = self.segments.borrow_mut();
        for &segment in segments {
            table.release(segment);
        }
    }

    pub(crate) fn add_object(&self, id: ObjectId, info: ObjectInfo) {
        let object = Object::new(info, false);
        self.objects.borrow_mut().insert(id, object);
    }

    pub(crate) fn count_written(&self, blocks: usize) {
        self.log
            .count(|counters| counters.bytes_written += (blocks * BLOCK_SIZE) as u64);
    }

    /// A write outside the log failed: nothing more is promised until the next mount.
    pub(crate) fn write_failed(&self, error: DeviceError) -> ObjectWriteError {
        self.log.fail();
        ObjectWriteError::Device(error)
    }
}

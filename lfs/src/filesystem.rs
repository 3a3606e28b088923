//! The mounted file system: joins log, objects and checkpoints, and owns the device.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use crate::budget::LogBudget;
use crate::checkpoint::{Checkpoint, ObjectInfo};
use crate::log::Log;
use crate::object::{ObjectReader, ObjectWriter};
use crate::segments::Segments;
use crate::superblock::{SegmentId, Superblock};
use crate::{
    AppendError, BLOCK_SIZE, BlockDevice, CheckpointError, Clock, CommitNumber, Counters,
    DeviceError, ObjectId, ObjectReadError, ObjectWriteError, ReadOnly, Usage,
};

/// How long a checkpoint waits for a commit's flush to cover its own writes before it makes one.
const BARRIER_PATIENCE_MS: u64 = 1000;

/// A mounted file system.
///
/// One task runs [`run_log`](Self::run_log); everything else may be called from any task of the same
/// thread. Nothing here is durable before the method that says so has returned.
pub struct FileSystem<D: BlockDevice> {
    device: D,
    superblock: Superblock,
    log: Log,
    segments: RefCell<Segments>,
    objects: RefCell<BTreeMap<ObjectId, Object>>,
    next_object: Cell<u64>,
    checkpoint_sequence: Cell<u64>,
}

struct Object {
    info: ObjectInfo,
    /// Whether the checkpoint in force names it.
    in_checkpoint: bool,
}

impl<D: BlockDevice> FileSystem<D> {
    pub(crate) fn new(
        device: D,
        superblock: Superblock,
        segments: Segments,
        log: Log,
        checkpoint: Checkpoint,
    ) -> Self {
        let objects = checkpoint.objects.into_iter();
        let objects = objects.map(|(id, info)| {
            (
                id,
                Object {
                    info,
                    in_checkpoint: true,
                },
            )
        });
        Self {
            device,
            superblock,
            log,
            segments: RefCell::new(segments),
            objects: RefCell::new(objects.collect()),
            next_object: Cell::new(checkpoint.next_object),
            checkpoint_sequence: Cell::new(checkpoint.sequence),
        }
    }

    /// The device, for [`ObjectReader::next_frame`].
    pub fn device(&self) -> &D {
        &self.device
    }

    /// Largest payload of one commit in bytes.
    pub fn commit_bytes_max(&self) -> usize {
        self.superblock.commit_bytes_max()
    }

    /// Queues `payload` as the next commit and returns its number. **Not durable on return**: see
    /// [`wait_durable`](Self::wait_durable). Commits become durable in order, each all or nothing.
    ///
    /// # Errors
    /// Nothing happened then; see [`AppendError`].
    pub fn append(&self, payload: &[u8]) -> Result<CommitNumber, AppendError> {
        self.log.append(payload)
    }

    /// Whether the log would take a commit of any size right now.
    pub fn has_room(&self) -> bool {
        self.log.has_room()
    }

    /// Waits until the log would take a commit of any size, is read-only, or `or_else` holds; that is
    /// asked again whenever the log moves on and after every [`nudge`](Self::nudge).
    pub async fn admit(&self, or_else: impl Fn() -> bool) {
        self.log.admit(or_else).await;
    }

    /// The newest commit taken.
    pub fn appended(&self) -> CommitNumber {
        self.log.appended()
    }

    /// Every commit up to this one survives a power cut.
    pub fn durable(&self) -> CommitNumber {
        self.log.durable()
    }

    /// Waits until `commit` is durable, and makes the log write it now rather than gather more.
    ///
    /// # Errors
    /// When it will not become durable in this mount. Whether it is there after the next is unknown.
    pub async fn wait_durable(&self, commit: CommitNumber) -> Result<(), ReadOnly> {
        self.log.wait_durable(commit).await
    }

    /// Writes commit groups until [`stop`](Self::stop) or a failure. Run exactly once.
    pub async fn run_log(&self) {
        self.log.run(&self.device).await;
    }

    /// Waits until the log is so long that a checkpoint should be made, or `or_else` holds; asked
    /// again whenever the log moves on and after every [`nudge`](Self::nudge).
    pub async fn checkpoint_wanted(&self, or_else: impl Fn() -> bool) {
        self.log.checkpoint_wanted(or_else).await;
    }

    /// Whether the log is so long that a checkpoint should be made.
    pub fn wants_checkpoint(&self) -> bool {
        self.log.wants_checkpoint()
    }

    /// Makes tasks in [`checkpoint_wanted`](Self::checkpoint_wanted) and [`admit`](Self::admit) look
    /// again.
    pub fn nudge(&self) {
        self.log.nudge();
    }

    /// Takes no more commits; those taken still become durable, and checkpoints can be made.
    pub fn close(&self) {
        self.log.close();
    }

    /// Ends [`run_log`](Self::run_log).
    pub fn stop(&self) {
        self.log.stop();
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
        let segment_bytes = self.superblock.segment_bytes() as u64;
        let budget = LogBudget::new(&self.superblock);
        let log = u64::from(self.superblock.log_segments) + budget.segments_in_reserve() as u64;
        let total = u64::from(self.superblock.segment_count).saturating_sub(log);
        Usage {
            segment_bytes,
            object_bytes_max: total * segment_bytes,
            object_bytes_free: u64::from(self.segments.borrow().available()) * segment_bytes,
            log_bytes_max: log * segment_bytes,
            replay_bytes_max: (budget.segments_usable() as u64 + 1) * segment_bytes,
        }
    }

    /// Begins a new object.
    ///
    /// # Errors
    /// [`ObjectWriteError::OutOfMemory`].
    pub fn create_object(&self) -> Result<ObjectWriter<'_, D>, ObjectWriteError> {
        let id = self.next_object.get();
        self.next_object.set(id + 1);
        ObjectWriter::new(self, ObjectId(id))
    }

    /// Opens an object that was finished.
    ///
    /// # Errors
    /// [`ObjectReadError::NotFound`].
    pub fn open_object(&self, id: ObjectId) -> Result<ObjectReader, ObjectReadError> {
        let objects = self.objects.borrow();
        let object = objects.get(&id).ok_or(ObjectReadError::NotFound)?;
        Ok(ObjectReader::new(self.superblock, id, object.info.clone()))
    }

    /// Length of an object in bytes.
    pub fn object_len_bytes(&self, id: ObjectId) -> Option<u64> {
        self.objects
            .borrow()
            .get(&id)
            .map(|object| object.info.len_bytes)
    }

    /// Gives up a finished object that no checkpoint named yet; others are left alone.
    pub fn discard_object(&self, id: ObjectId) {
        let mut objects = self.objects.borrow_mut();
        if objects.get(&id).is_some_and(|object| !object.in_checkpoint)
            && let Some(object) = objects.remove(&id)
        {
            self.release_segments(&object.info.segments);
        }
    }

    /// Makes a checkpoint: replay begins after `horizon` from now on, exactly the objects in `keep`
    /// exist, and `manifest` is handed to the next mount. Log segments before the horizon and
    /// objects not kept become free. Durable on return, kept objects included.
    ///
    /// Costs one slot write and two flushes, which commits' flushes stand in for when there are some
    /// within a second. One checkpoint at a time.
    ///
    /// # Errors
    /// The checkpoint before stays in force; see [`CheckpointError`].
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
        let objects = keep
            .iter()
            .map(|id| Some((*id, self.objects.borrow().get(id)?.info.clone())))
            .collect::<Option<BTreeMap<_, _>>>()
            .ok_or(CheckpointError::Invalid)?;
        self.log
            .barrier(clock.sleep_ms(BARRIER_PATIENCE_MS))
            .await?;

        let view = self.log.view(horizon);
        let wanted = self.superblock.log_segments as usize;
        let fresh = (view.segments.len()..wanted)
            .map_while(|_| self.segments.borrow_mut().allocate_for_log())
            .collect::<Vec<_>>();
        let checkpoint = Checkpoint {
            sequence: self.checkpoint_sequence.get() + 1,
            horizon,
            durable_group: view.durable_group,
            start: view.start,
            log_segments: view.segments.iter().chain(&fresh).copied().collect(),
            next_object: self.next_object.get(),
            objects,
            manifest: manifest.to_vec(),
        };
        let slot = self
            .superblock
            .slot_block(Checkpoint::slot(checkpoint.sequence));
        let Ok(buffer) = checkpoint.encode(&self.superblock, slot) else {
            self.release_segments(&fresh);
            return Err(CheckpointError::TooLarge);
        };
        let blocks = buffer.len_blocks();
        if let (_, Err(error)) = self.device.write(slot, buffer).await {
            self.write_failed(error);
            return Err(CheckpointError::ReadOnly);
        }
        self.count_written(blocks);
        self.log
            .barrier(clock.sleep_ms(BARRIER_PATIENCE_MS))
            .await?;

        self.checkpoint_sequence.set(checkpoint.sequence);
        self.log.count(|counters| counters.checkpoints += 1);
        let log_segments = self.log.relist(checkpoint.sequence, view.dropped, &fresh);
        self.release_segments(&log_segments);
        self.replace_objects(&checkpoint.objects).await;
        Ok(())
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
            object.in_checkpoint = keep;
            true
        });
        for segment in gone {
            // Before it is free: a discard must not meet new data. It is a hint; failing is no harm.
            if self.device.geometry().discard {
                let start = self.superblock.segment_start(segment);
                let count = u64::from(self.superblock.segment_blocks);
                let _ = self.device.discard(start, count).await;
            }
            self.release_segments(&[segment]);
        }
    }

    pub(crate) fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    pub(crate) fn allocate_segment(&self) -> Option<SegmentId> {
        self.segments.borrow_mut().allocate()
    }

    pub(crate) fn release_segments(&self, segments: &[SegmentId]) {
        let mut table = self.segments.borrow_mut();
        for &segment in segments {
            table.release(segment);
        }
    }

    pub(crate) fn add_object(&self, id: ObjectId, info: ObjectInfo) {
        self.objects.borrow_mut().insert(
            id,
            Object {
                info,
                in_checkpoint: false,
            },
        );
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

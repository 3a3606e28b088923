//! Running transactions over files, and committing them.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;

use super::At;
use super::volume::{Plan, Volume, encode_snapshot};
use super::write_set::{Loaded, Staged, WriteSet};
use crate::check::{PieceAt, damaged_bytes};
use crate::counted::Counted;
use crate::disk::layout::VALUE_OBJECT;
use crate::extent::codec::{ExtentIdentity, encode};
use crate::fault::SuspectData;
use crate::log::{Change, ExtentRecord, Part, Record, Refused, RoomWanted};
use crate::together::together;
use crate::tree::MoreNodes;
use crate::{
    BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, CommitNumber, DeviceError, Fault, FileError,
    FileSystem, ItemKey, ItemKind, NodePointer, SnapshotId, SnapshotInfo, StoredRange, Transaction,
    View,
};

/// Why a transaction was not committed at once. Nothing has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommitStop {
    /// Something is missing in memory: [`FileSystem::load`] it and run the transaction again.
    Fault(Fault),
    /// The log has no room at the moment; [`FileSystem::admit`] waits for some.
    NoRoom,
    /// The same of a commit that frees space: sooner or later there is room for those.
    NoRoomToShrink(RoomWanted),
    /// It cannot be committed.
    Error(FileError),
}

impl From<FileError> for CommitStop {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Fault(fault) => Self::Fault(fault),
            error => Self::Error(error),
        }
    }
}

/// Nodes for which there must be room when a snapshot is made.
const SNAPSHOT_NODES: u64 = 2;

/// Snapshots there may be at once.
const SNAPSHOTS_MAX: usize = 1000;
/// Bytes of a snapshot's name at most.
const SNAPSHOT_NAME_BYTES_MAX: usize = 255;
/// Most bytes of data in a commit that counts as freeing space: what is left of a block that was cut, as stored.
const SHRINKING_DATA_BYTES_MAX: usize = BLOCK_SIZE + 512;

impl<D: BlockDevice> FileSystem<D> {
    /// Runs `body` in a transaction and commits what it changed; `body` runs again whenever something it needs has to
    /// be loaded first, on a fresh view. Returns its result and the commit that the result depends on: **not durable**
    /// before [`wait_durable`](Self::wait_durable) of that.
    ///
    /// # Errors
    /// What `body` returns, and what keeps the commit from being taken; nothing has happened then.
    pub async fn transact<T>(
        &self,
        now_ns: i64,
        mut body: impl FnMut(&mut Transaction<'_>) -> Result<T, FileError>,
    ) -> Result<(T, CommitNumber), FileError> {
        let mut loaded = Loaded::default();
        loop {
            self.admit(|| self.is_full()).await;
            match self.try_transact(now_ns, false, &loaded, &mut body) {
                Ok(done) => return Ok(done),
                Err(stop) => self.get_past(stop, &mut loaded).await?,
            }
        }
    }

    /// Does or waits for what makes it worth while to try again what was not committed.
    ///
    /// # Errors
    /// Nothing does.
    pub(crate) async fn get_past(
        &self,
        stop: CommitStop,
        loaded: &mut Loaded,
    ) -> Result<(), FileError> {
        match stop {
            CommitStop::Fault(fault) => self.load(fault, loaded).await,
            CommitStop::NoRoom if self.is_full() => Err(FileError::NoSpace),
            CommitStop::NoRoom => {
                if self.is_ending() {
                    return Err(FileError::ReadOnly);
                }
                self.make_room(|| self.log.has_room() || self.is_full())
                    .await;
                Ok(())
            }
            // More than is set aside for those that free space may never come.
            CommitStop::NoRoomToShrink(wanted) if !wanted.is_set_aside() && self.is_full() => {
                Err(FileError::NoSpace)
            }
            CommitStop::NoRoomToShrink(wanted) => {
                let in_vain = || !wanted.is_set_aside() && self.is_full();
                self.make_room_to_shrink(wanted, in_vain).await
            }
            CommitStop::Error(FileError::NoSpace)
                if self.checkpointing.get() && !loaded.after_checkpoint =>
            {
                loaded.after_checkpoint = true;
                self.checkpoint_under_way().await;
                Ok(())
            }
            CommitStop::Error(FileError::NoSpace) if self.frees_space() => {
                let over = || !self.frees_space() || self.is_ending();
                self.changed.until(|| over().then_some(())).await;
                Ok(())
            }
            CommitStop::Error(error) => Err(error),
        }
    }

    /// As [`transact`](Self::transact), for what comes after something was removed: it never finds the disk full.
    pub(crate) async fn transact_tidying<T>(
        &self,
        now_ns: i64,
        mut body: impl FnMut(&mut Transaction<'_>) -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        let mut loaded = Loaded::default();
        loop {
            self.may_go_on().await;
            match self.try_transact(now_ns, true, &loaded, &mut body) {
                Ok((done, _)) => return Ok(done),
                Err(CommitStop::Fault(fault)) => self.load(fault, &mut loaded).await?,
                Err(CommitStop::NoRoomToShrink(wanted)) => {
                    self.make_room_to_shrink(wanted, || false).await?;
                }
                Err(CommitStop::NoRoom) => return Err(FileError::NoSpace),
                Err(CommitStop::Error(error)) => return Err(error),
            }
        }
    }

    /// Waits for the end of the checkpoint under way, or of the mount. Meanwhile nodes that it has written count twice: as what is there, and
    /// as what changed.
    async fn checkpoint_under_way(&self) {
        let _haste = self.hasten_checkpoints();
        let before = self.checkpoint_sequence.get();
        let over = || {
            let made = self.checkpoint_sequence.get() != before;
            let clean = made && self.volume.borrow().is_settled();
            clean || !self.checkpointing.get() || self.is_ending()
        };
        self.changed.until(|| over().then_some(())).await;
    }

    /// Whether space is coming back from what lost its last name, or its last snapshot.
    fn frees_space(&self) -> bool {
        let due = self.orphans_due.get() && !self.restoring.get();
        let kept = self.open.borrow().gives_back();
        (due || self.reclaiming.get() || self.forgetting.get() || kept) && !self.is_ending()
    }

    fn try_transact<T>(
        &self,
        now_ns: i64,
        tidying: bool,
        loaded: &Loaded,
        body: &mut impl FnMut(&mut Transaction<'_>) -> Result<T, FileError>,
    ) -> Result<(T, CommitNumber), CommitStop> {
        let unwritten = |range| self.log.copy_unwritten(range);
        let (value, mut set) = {
            let volume = self.volume.borrow();
            let mut transaction = Transaction::new(&volume, At::Newest, loaded, &unwritten, now_ns);
            let value = body(&mut transaction)?;
            (value, transaction.into_set())
        };
        set.tidying = tidying;
        let commit = if set.is_empty() {
            self.appended()
        } else {
            self.commit_set(&mut set, &[])?
        };
        Ok((value, commit))
    }

    /// Runs `body` over the newest state; it must not change anything.
    ///
    /// # Errors
    /// What `body` returns, or what could not be read.
    pub async fn read<T>(
        &self,
        body: impl FnMut(&mut Transaction<'_>) -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        self.read_at(At::Newest, body).await
    }

    /// Runs `body` over what a snapshot shows; it must not change anything.
    ///
    /// # Errors
    /// [`FileError::NotFound`] when there is no such snapshot; else as [`read`](Self::read).
    pub async fn read_snapshot<T>(
        &self,
        snapshot: SnapshotId,
        body: impl FnMut(&mut Transaction<'_>) -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        let at = self
            .snapshots()
            .into_iter()
            .find(|info| info.id == snapshot);
        let at = at.ok_or(FileError::NotFound)?.commit;
        self.read_at(At::Snapshot(at), body).await
    }

    pub(crate) async fn read_at<T>(
        &self,
        at: At,
        mut body: impl FnMut(&mut Transaction<'_>) -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        let mut loaded = Loaded::default();
        let unwritten = |range| self.log.copy_unwritten(range);
        loop {
            let result = {
                let volume = self.volume.borrow();
                // It may have been deleted since the last run, and then parts of what it shows are gone.
                if matches!(at, At::Snapshot(commit) if !volume.snapshots.contains_key(&commit)) {
                    return Err(FileError::NotFound);
                }
                let mut transaction = Transaction::new(&volume, at, &loaded, &unwritten, 0);
                let result = body(&mut transaction);
                if result.is_ok() && !transaction.into_set().is_empty() {
                    return Err(FileError::ReadOnly);
                }
                result
            };
            match result {
                Err(FileError::Fault(fault)) => self.load(fault, &mut loaded).await?,
                result => return result,
            }
        }
    }

    /// Reads what several faults ask for, of a kind at once. Only the first is sure to be needed: what is wrong with others shows when one of them is the first.
    ///
    /// # Errors
    /// Those of [`load`](Self::load), for the first.
    pub async fn load_all(
        &self,
        faults: impl IntoIterator<Item = Fault>,
        loaded: &mut Loaded,
    ) -> Result<(), FileError> {
        for (number, fault) in Fault::gathered(faults).into_iter().enumerate() {
            match self.load(fault, loaded).await {
                Err(error) if number == 0 => return Err(error),
                Err(_) => break,
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// Reads what a fault asks for. While it does, the cleaner may move that elsewhere and its segment be used for
    /// something else: then nothing is found out, and who asked will ask for the new place. Of several ranges or nodes only the first is sure to be read.
    ///
    /// # Errors
    /// [`FileError::Device`], [`FileError::Damaged`], [`FileError::OutOfMemory`].
    pub async fn load(&self, fault: Fault, loaded: &mut Loaded) -> Result<(), FileError> {
        let _counted = Loading::begin(self);
        let use_of = |address| self.volume.borrow().use_of(address);
        match fault {
            Fault::Node(pointer) => self.load_nodes(&[pointer], loaded).await,
            Fault::Nodes(pointers) => self.load_nodes(&pointers, loaded).await,
            Fault::Changes(nodes) => {
                self.wait_for_nodes(nodes).await;
                Ok(())
            }
            Fault::Data(ranges) => {
                let reads = ranges.into_iter().map(|range| {
                    let asked_in = use_of(range.address);
                    async move { (range, asked_in, self.read_stored(range).await) }
                });
                let mut first = Ok(());
                for (number, (range, asked_in, bytes)) in
                    together(reads).await.into_iter().enumerate()
                {
                    match bytes {
                        Ok(bytes) => loaded.keep(range, asked_in, bytes),
                        Err(error) if number == 0 => first = Err(error),
                        // It shows when it is asked for.
                        Err(_) => {}
                    }
                }
                first
            }
            Fault::Suspect(SuspectData(at)) => {
                let range = StoredRange {
                    address: at.piece.address,
                    len_bytes: at.piece.stored_len,
                };
                let asked_in = use_of(range.address);
                let bytes = self.read_verified(range, &at).await?;
                loaded.keep(range, asked_in, bytes);
                loaded.verified.insert(range);
                Ok(())
            }
            Fault::Unseen(unseen) => {
                loaded.unseen.note(unseen);
                // What was gone through is not needed again; what is comes with the next run.
                loaded.nodes.clear();
                embassy_futures::yield_now().await;
                Ok(())
            }
        }
    }

    /// Loads nodes, of which the first is needed.
    async fn load_nodes(
        &self,
        pointers: &[NodePointer],
        loaded: &mut Loaded,
    ) -> Result<(), FileError> {
        let address = |pointer: &NodePointer| pointer.block.0.saturating_mul(BLOCK_SIZE as u64);
        let use_of = |pointer| self.volume.borrow().use_of(address(pointer));
        let asked_in = pointers.first().map(use_of);
        let cache = Rc::clone(&self.volume.borrow().cache);
        let mut found = Volume::load_nodes(&cache, &self.device, pointers)
            .await
            .into_iter();
        let first = found.next();
        // What is wrong with the others shows when they are asked for.
        found.flatten().for_each(|node| loaded.nodes.hold(node));
        match first {
            Some(Ok(node)) => loaded.nodes.hold(node),
            Some(Err(FileError::Damaged { .. })) if pointers.first().map(use_of) != asked_in => {}
            Some(Err(error)) => return Err(error),
            None => {}
        }
        Ok(())
    }

    /// Whether somebody waits for the device: work in the background lets them go first.
    pub fn is_waited_for(&self) -> bool {
        self.loading.get() > 0 || self.log.is_waited_for()
    }

    /// Reads bytes of the log that were found damaged, from a copy that has them right if one does.
    async fn read_verified(&self, range: StoredRange, at: &PieceAt) -> Result<Rc<[u8]>, FileError> {
        let mut found = Err(FileError::Device(DeviceError::Gone));
        for copy in 0..self.device.copies() {
            let bytes = self.read_stored_copy(range, copy).await;
            let good = bytes
                .as_ref()
                .is_ok_and(|bytes| damaged_bytes(self.vault.sealer(), at, bytes).is_empty());
            if good && let Ok(bytes) = &bytes {
                let _ = self.device.mend(copy, range.address, bytes).await;
                return Ok(Rc::clone(bytes));
            }
            found = found.or(bytes);
        }
        // Each may be damaged in another place.
        if self.device.copies() > 1 && self.mend_units(range, at).await {
            for copy in 0..self.device.copies() {
                let bytes = self.read_stored_copy(range, copy).await;
                let damaged = |bytes: &[u8]| damaged_bytes(self.vault.sealer(), at, bytes);
                if bytes.as_ref().is_ok_and(|bytes| damaged(bytes).is_empty()) {
                    return bytes;
                }
                found = found.or(bytes);
            }
        }
        found
    }

    /// As [`read_stored`](Self::read_stored), of what is on the device from one copy.
    pub(crate) async fn read_stored_from(
        &self,
        range: StoredRange,
        copy: u8,
    ) -> Result<Rc<[u8]>, FileError> {
        self.log.settled(range.address).await;
        if let Some(bytes) = self.log.copy_unwritten(range) {
            return Ok(bytes);
        }
        self.read_stored_copy(range, copy).await
    }

    /// Reads bytes that one copy of the device holds.
    pub(crate) async fn read_stored_copy(
        &self,
        range: StoredRange,
        copy: u8,
    ) -> Result<Rc<[u8]>, FileError> {
        let read = |start, buffer| self.device.read_copy(copy, start, buffer);
        self.open_blocks(range, read, |bytes| Rc::from(bytes)).await
    }

    /// Reads bytes of the log, wherever they are by now.
    pub(crate) async fn read_stored(&self, range: StoredRange) -> Result<Rc<[u8]>, FileError> {
        self.open_stored(range, |bytes| Rc::from(bytes)).await
    }

    /// What `open` makes of bytes of the log, wherever they are by now.
    pub(crate) async fn open_stored<T>(
        &self,
        range: StoredRange,
        open: impl Fn(&[u8]) -> T,
    ) -> Result<T, FileError> {
        self.log.settled(range.address).await;
        if let Some(opened) = self.log.unwritten(range, &open) {
            return Ok(opened);
        }
        let read = |start, buffer| self.device.read(start, buffer);
        self.open_blocks(range, read, open).await
    }

    /// What `open` makes of the bytes of a range, out of the whole blocks that `read` gives.
    async fn open_blocks<F, T>(
        &self,
        range: StoredRange,
        read: impl FnOnce(BlockIndex, Buffer) -> F,
        open: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, FileError>
    where
        F: Future<Output = (Buffer, Result<(), DeviceError>)>,
    {
        let len = range.len_bytes as usize;
        let block = BLOCK_SIZE as u64;
        let first = range.address / block;
        let end = range.address.saturating_add(len as u64).div_ceil(block);
        let blocks = usize::try_from(end - first).map_err(|_| FileError::OutOfMemory)?;
        let buffer = self.spare_buffers.take(blocks);
        let buffer = buffer.map_err(|_| FileError::OutOfMemory)?;
        let (buffer, read) = read(BlockIndex(first), buffer).await;
        read.map_err(FileError::Device)?;
        let at = usize::try_from(range.address - first * block).unwrap_or(usize::MAX);
        let found = buffer.bytes().get(at..at.saturating_add(len));
        let opened = open(found.unwrap_or_default());
        self.spare_buffers.give_back(buffer);
        Ok(opened)
    }

    /// Commits what a transaction changed, with what the layer above records, in this step or not at all; then `set` is
    /// as it was.
    pub(crate) fn commit_set(
        &self,
        set: &mut WriteSet,
        layer: &[u8],
    ) -> Result<CommitNumber, CommitStop> {
        let items = core::mem::take(&mut set.items);
        let mut changes = Vec::with_capacity(items.len());
        for (key, value) in items {
            changes.push(match value {
                Some(value) => Change::Put(key, value),
                None => Change::Remove(key),
            });
        }
        let committed = self.commit_changes(set, &mut changes, layer);
        if committed.is_err() {
            for change in changes {
                match change {
                    Change::Put(key, value) => drop(set.items.insert(key, Some(value))),
                    Change::Remove(key) => drop(set.items.insert(key, None)),
                    Change::Write(..) | Change::Free { .. } => {}
                }
            }
        }
        committed
    }

    /// Commits `changes` of items and what `set` says of data, which are added to them.
    fn commit_changes(
        &self,
        set: &WriteSet,
        changes: &mut Vec<Change>,
        layer: &[u8],
    ) -> Result<CommitNumber, CommitStop> {
        let number = CommitNumber(self.appended().0 + 1);
        let extents = self.encode_data(set, number, changes)?;
        changes.extend(freed_ranges(set));

        let data_bytes = extents.iter().map(Vec::len).sum::<usize>();
        let (plan, nodes) = self.planned(number.0, changes)?;
        self.admit_nodes(nodes.changed)?;
        let taken = {
            let volume = self.volume.borrow();
            let items = changes.iter().map(|change| volume.growth_bytes(change));
            data_bytes + items.sum::<usize>()
        };
        let growing = !set.tidying && taken as u64 > plan.freed_bytes();
        // On a full disk it may use what is left to commits that free space: it takes hardly anything.
        let takes_little = layer.is_empty() && data_bytes <= SHRINKING_DATA_BYTES_MAX;
        let shrinking = set.tidying || (!growing && takes_little);
        let grown = taken + changes.len() * 64;
        let with_nodes = grown + nodes.new * BLOCK_SIZE;
        let mut kept_free = if changes.iter().all(Change::is_of_values) {
            0
        } else {
            self.value_reserve.get()
        };
        let snapshot = |change: &Change| matches!(change, Change::Put(key, _) if key.kind == ItemKind::Snapshot);
        if changes.iter().any(snapshot) {
            // What it shows is kept when it is deleted, which is refused nobody, even what was deleted before and is not reclaimed yet: that may take a new
            // node of the history, where what it takes the place of is not free before the node is there.
            kept_free += SNAPSHOT_NODES * BLOCK_SIZE as u64;
        }
        if growing && !self.has_space_for(with_nodes as u64, kept_free) {
            self.open.borrow_mut().end_oldest_for_space();
            return Err(CommitStop::Error(FileError::NoSpace));
        }
        let mut addresses = Vec::new();
        let layer_records = layer.chunks(self.layer_chunk_bytes());
        let appended = append_changes(
            &self.log,
            shrinking,
            changes,
            &extents,
            layer_records,
            &mut addresses,
        );
        appended.map_err(|error| match error {
            Refused::NoRoom(wanted) if shrinking => CommitStop::NoRoomToShrink(wanted),
            Refused::NoRoom(_) => CommitStop::NoRoom,
            Refused::TooLarge => CommitStop::Error(FileError::TransactionTooLarge),
            Refused::OutOfMemory => CommitStop::Error(FileError::OutOfMemory),
            Refused::ReadOnly => CommitStop::Error(FileError::ReadOnly),
        })?;
        self.open.borrow_mut().commit_taken();
        if !layer.is_empty() {
            self.layer_commit.set(number);
        }
        if !changes.iter().all(Change::is_of_values) {
            self.file_commit.set(number);
        }
        self.charge((grown + layer.len()) as u64);
        let mut volume = self.volume.borrow_mut();
        volume.note_changes(number.0, changes, set.tidying);
        volume.apply(plan, &addresses);
        let next_object = volume.next_object.get().max(set.next_object);
        volume.next_object.set(next_object.min(VALUE_OBJECT));
        drop(volume);
        let orphan =
            |change: &Change| matches!(change, Change::Put(key, _) if key.kind == ItemKind::Orphan);
        if changes.iter().any(orphan) {
            self.orphans_due.set(true);
        }
        let deleted = |change: &Change| matches!(change, Change::Remove(key) if key.kind == ItemKind::Snapshot);
        if changes.iter().any(deleted) {
            self.history_due.set(true);
            self.forgetting.set(true);
        }
        self.changed.notify();
        Ok(number)
    }

    /// The data of `set` as commit `number` stores them; what it says of them is added to `changes`, in their order.
    fn encode_data(
        &self,
        set: &WriteSet,
        number: CommitNumber,
        changes: &mut Vec<Change>,
    ) -> Result<Vec<Vec<u8>>, CommitStop> {
        let mut extents = Vec::new();
        let extent_max = self.superblock.extent_bytes_max() as usize;
        for run in coalesce(&set.data, extent_max) {
            let Run {
                object,
                offset,
                bytes,
            } = run;
            let identity = ExtentIdentity {
                object,
                offset,
                birth: number,
            };
            let stored = encode(
                self.vault.sealer(),
                identity,
                &bytes,
                self.vault.algorithm(),
                &mut |bytes| self.vault.draw(bytes),
            );
            let stored = stored.map_err(|_| FileError::OutOfMemory)?;
            let record = ExtentRecord {
                object,
                offset,
                len: stored.shape.len(),
                encoding: stored.shape.encoding().number(),
                stored_len: stored.shape.stored_len(),
                birth: number.0,
                unit_first: 0,
            };
            changes.push(Change::Write(record, 0));
            extents.push(stored.bytes);
        }
        Ok(extents)
    }

    /// Finds out whether all that a commit of `set` touches is in memory.
    pub(crate) fn rehearse_set(&self, set: &WriteSet) -> Result<(), CommitStop> {
        let number = self.appended().0 + 1;
        let mut changes = Vec::new();
        for (key, value) in &set.items {
            changes.push(match value {
                Some(value) => Change::Put(*key, value.clone()),
                None => Change::Remove(*key),
            });
        }
        let extent_max = self.superblock.extent_bytes_max() as usize;
        for run in coalesce(&set.data, extent_max) {
            let record = ExtentRecord {
                object: run.object,
                offset: run.offset,
                len: u32::try_from(run.bytes.len()).unwrap_or(u32::MAX),
                encoding: 0,
                stored_len: 0,
                birth: number,
                unit_first: 0,
            };
            changes.push(Change::Write(record, 0));
        }
        changes.extend(freed_ranges(set));
        let (_, nodes) = self.planned(number, &changes)?;
        self.admit_nodes(nodes.changed)
    }

    /// What commit `number` with these changes does, all of which is in memory, and by how many nodes become more.
    fn planned(&self, number: u64, changes: &[Change]) -> Result<(Plan, MoreNodes), FileError> {
        let volume = &mut *self.volume.borrow_mut();
        let prepared = volume.plan(number, changes).and_then(|plan| {
            let nodes = volume.prepare(&plan)?;
            Ok((plan, nodes))
        });
        prepared.map_err(|error| match error {
            FileError::Fault(fault) => volume.with_others(fault, number, changes).into(),
            error => error,
        })
    }

    /// Whether so many more nodes may change.
    fn admit_nodes(&self, nodes: usize) -> Result<(), CommitStop> {
        if self.is_ending() || self.has_nodes_for(nodes) {
            return Ok(());
        }
        // Not even after a checkpoint.
        if nodes > self.reserves().dirty_nodes_limit() {
            return Err(CommitStop::Error(FileError::TransactionTooLarge));
        }
        Err(CommitStop::Fault(Fault::Changes(nodes)))
    }

    /// Whether data may grow by `bytes` and leave `kept_free` besides.
    fn has_space_for(&self, bytes: u64, kept_free: u64) -> bool {
        let usage = self.usage();
        let volume = self.volume.borrow();
        let dirty = volume.dirty_nodes();
        let freed = volume.live.freed_since_freeze() + volume.history.freed_since_freeze();
        let in_blocks = |blocks: usize| (blocks * BLOCK_SIZE) as u64;
        // What the next checkpoint writes, and what it takes the place of: that still counts as live.
        let (more, less) = (bytes + in_blocks(dirty), in_blocks(freed));
        let net = more.saturating_sub(less);
        // As files are counted in what there is for objects.
        let in_room = net + kept_free;
        let objects_keep = self.object_reserve.get() + in_room + in_room / 8;
        usage.live_bytes + more + kept_free <= usage.capacity_bytes + less
            && (self.object_reserve.get() == 0 || usage.object_bytes_max >= objects_keep)
    }

    /// Waits until a commit that frees space would be taken, or `in_vain` holds.
    async fn make_room_to_shrink(
        &self,
        wanted: RoomWanted,
        in_vain: impl Fn() -> bool,
    ) -> Result<(), FileError> {
        if self.is_ending() {
            return Err(FileError::ReadOnly);
        }
        self.make_room(|| self.log.has_room_for(wanted) || in_vain())
            .await;
        Ok(())
    }

    /// Waits until `made` or the end, and sees to it that all that can make room goes on.
    async fn make_room(&self, made: impl Fn() -> bool) {
        self.changed.notify();
        self.log.nudge();
        let appended = self.appended();
        let _ = self.log.wait_durable(appended).await;
        // Whatever is waited for, others have their turn.
        embassy_futures::yield_now().await;
        self.log
            .until(|| (made() || self.is_ending()).then_some(()))
            .await;
    }

    /// Somebody has the inode open: it stays as it is when it loses its last name.
    pub fn hold(&self, inode: u64) {
        *self.held_inodes.borrow_mut().entry(inode).or_default() += 1;
    }

    /// Takes one [`hold`](Self::hold) back.
    pub fn unhold(&self, inode: u64) {
        let mut held = self.held_inodes.borrow_mut();
        if let Some(count) = held.get_mut(&inode) {
            *count -= 1;
            if *count == 0 {
                held.remove(&inode);
                self.orphans_due.set(true);
                self.changed.notify();
            }
        }
    }

    /// The snapshots, oldest first.
    pub fn snapshots(&self) -> Vec<SnapshotInfo> {
        self.volume.borrow().snapshots.values().cloned().collect()
    }

    /// How many snapshots there are.
    pub fn snapshot_count(&self) -> usize {
        self.volume.borrow().snapshots.len()
    }

    /// Makes a snapshot of all files as they are now. Costs one small commit, whatever there is. Durable on return.
    ///
    /// # Errors
    /// [`FileError::Exists`], [`FileError::Invalid`] (a name that is empty, has more than 255 bytes, or `/` or
    /// control characters in it), [`FileError::NoSpace`] (also for more than 1,000 snapshots), [`FileError::ReadOnly`].
    pub async fn create_snapshot(
        &self,
        name: &str,
        now_ns: i64,
    ) -> Result<SnapshotInfo, FileError> {
        let commit = self.begin_snapshot(name, now_ns).await?;
        self.wait_durable(commit).await?;
        let made = self.snapshots().into_iter().find(|info| info.name == name);
        made.ok_or(FileError::NotFound)
    }

    /// As [`create_snapshot`](Self::create_snapshot), but **not durable on return**. It returns in the step in which the
    /// commit is taken, so that whoever awaits it can act on the very state that the snapshot shows.
    ///
    /// # Errors
    /// As [`create_snapshot`](Self::create_snapshot).
    pub async fn begin_snapshot(&self, name: &str, now_ns: i64) -> Result<CommitNumber, FileError> {
        let odd = |c: char| c == '/' || c == '@' || c.is_control();
        if name.is_empty() || name.len() > SNAPSHOT_NAME_BYTES_MAX || name.contains(odd) {
            return Err(FileError::Invalid);
        }
        let ((), commit) = self
            .transact(now_ns, |transaction| {
                let snapshots = self.snapshots();
                if snapshots.iter().any(|info| info.name == name) {
                    return Err(FileError::Exists);
                }
                if snapshots.len() >= SNAPSHOTS_MAX {
                    return Err(FileError::NoSpace);
                }
                let id = transaction.new_object();
                let key = ItemKey::new(0, ItemKind::Snapshot, id);
                transaction.put(key, encode_snapshot(name, now_ns));
                Ok(())
            })
            .await?;
        Ok(commit)
    }

    /// Deletes a snapshot. What only it needed is freed in the background. Durable on return.
    ///
    /// # Errors
    /// [`FileError::NotFound`], [`FileError::ReadOnly`].
    pub async fn delete_snapshot(&self, name: &str) -> Result<(), FileError> {
        let ((), commit) = self
            .transact(0, |transaction| {
                let found = self.snapshots().into_iter().find(|info| info.name == name);
                let id = found.ok_or(FileError::NotFound)?.id;
                transaction.remove(ItemKey::new(0, ItemKind::Snapshot, id.0));
                Ok(())
            })
            .await?;
        self.wait_durable(commit).await?;
        Ok(())
    }
}

/// Something that is being loaded.
pub(super) struct Loading<'f, D: BlockDevice> {
    filesystem: &'f FileSystem<D>,
    _counted: Counted<'f>,
}

impl<'f, D: BlockDevice> Loading<'f, D> {
    pub(super) fn begin(filesystem: &'f FileSystem<D>) -> Self {
        Self {
            filesystem,
            _counted: Counted::among(&filesystem.loading),
        }
    }
}

impl<D: BlockDevice> Drop for Loading<'_, D> {
    fn drop(&mut self) {
        if self.filesystem.scrub_status().running {
            // It waits until nobody else does, and looks in a later step.
            self.filesystem.log.nudge();
        }
    }
}

/// The ranges that hold no data any more.
fn freed_ranges(set: &WriteSet) -> impl Iterator<Item = Change> {
    let freed = set.data.iter().filter(|(_, staged)| staged.data.is_none());
    freed.map(|(&(object, from), staged)| {
        let to = from.checked_add(staged.len).filter(|&to| to != u64::MAX);
        Change::Free { object, from, to }
    })
}

/// Data of a file that follow each other.
struct Run {
    object: u64,
    offset: u64,
    bytes: Vec<u8>,
}

/// Neighbouring data put together into extents of at most `len_max` bytes.
fn coalesce(data: &BTreeMap<(u64, u64), Staged>, len_max: usize) -> Vec<Run> {
    let mut extents: Vec<Run> = Vec::new();
    for (&(object, offset), staged) in data {
        let Some(bytes) = staged.bytes() else {
            continue;
        };
        if let Some(last) = extents.last_mut()
            && last.object == object
            && last.offset + last.bytes.len() as u64 == offset
            && last.bytes.len() + bytes.len() <= len_max
        {
            last.bytes.extend_from_slice(bytes);
        } else {
            extents.push(Run {
                object,
                offset,
                bytes: bytes.to_vec(),
            });
        }
    }
    extents
}

/// Appends changes, with the stored extents of those that write, and records of the layer above as one commit.
fn append_changes<'r>(
    log: &crate::log::Log,
    shrinking: bool,
    changes: &'r [Change],
    extents: &'r [Vec<u8>],
    layer: impl Iterator<Item = &'r [u8]>,
    addresses: &mut Vec<u64>,
) -> Result<CommitNumber, Refused> {
    let mut heads = Vec::new();
    let mut ends = Vec::new();
    let mut extents = extents.iter();
    let mut pieces: Vec<(&[u8], &[u8])> = Vec::new();
    for change in changes {
        let (record, data) = match change {
            Change::Put(key, value) => (Record::Put { key: *key, value }, &[][..]),
            Change::Remove(key) => (Record::Remove { key: *key }, &[][..]),
            Change::Write(extent, _) => {
                let stored = extents.next().map(Vec::as_slice);
                (Record::Write(*extent), stored.unwrap_or_default())
            }
            Change::Free { object, from, to } => {
                let record = Record::Free {
                    object: *object,
                    from: *from,
                    to: *to,
                };
                (record, &[][..])
            }
        };
        record.encode_head(&mut heads);
        ends.push(heads.len());
        pieces.push((record.body(), data));
    }
    for chunk in layer {
        Record::Layer(chunk).encode_head(&mut heads);
        ends.push(heads.len());
        pieces.push((chunk, &[]));
    }
    let mut start = 0;
    let parts = ends
        .iter()
        .zip(&pieces)
        .map(|(&end, &(body, data))| {
            let head = heads.get(start..end).unwrap_or_default();
            start = end;
            Part { head, body, data }
        })
        .collect::<Vec<_>>();
    log.append(&parts, addresses, shrinking)
}

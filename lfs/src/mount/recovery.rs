//! Mounting: the newest valid checkpoint, then the log from there (SPEC.md, "Recovery").
//!
//! The layer above drives it: it looks at the manifest, reads its objects, then takes the commits
//! after the horizon one by one with [`Recovery::next_commit`], and [`Recovery::finish`]es. What commits say
//! of files is applied to the trees on the way.
//!
//! **Torn tail or damage.** The log ends at the first place where the next group of the chain is not
//! valid. Since a group is written only after the one before it was durable, a header with a *higher*
//! sequence number anywhere ahead proves that the missing group was durable, and maybe acknowledged:
//! that is damage, and the mount is refused. Otherwise the group was never acknowledged, and the log
//! ends before it. The checkpoint also names a group known to be durable: ending before it is damage.
//!
//! **What was dropped stays dropped.** What is written next to the place of a torn group, or of a torn slot, may be torn as
//! well, and what survives of it may be just what was lacking. So the head of either is overwritten, before anything else is.
//!
//! Nothing is written to the device before [`Recovery::finish`], which flushes. Where the device keeps two copies,
//! what is read is taken from whichever proves right, or put together from both, and both get it (DESIGN.md, "Mirror"): structures at
//! once, as nothing else can be right in their place; groups and slots in `finish`, as only the end of the log tells which were the newest. A mount
//! fails rather than go on with what one copy may still lack.

use alloc::collections::BTreeSet;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::ops::Range;

use super::filesystem::FileSystem;
use super::format::read_superblock;
use super::read_ahead::{LoadedSegment, ReadAhead};
use super::unlock::{Unlock, unlock};
use crate::checkpoint::{Checkpoint, read_slot};
use crate::disk::layout::{NUMBER_MAX, SECTOR_SIZE, VALUE_OBJECT, checksum};
use crate::disk::superblock::{SegmentId, State, Superblock, SuperblockFault};
use crate::disk::{SpareBuffers, put_together, read_checked, read_together};
use crate::log::{
    Commit, GroupHeader, GroupKind, Log, LogCursor, Replay, ReplayFault, clock_after,
};
use crate::object::{Located, ObjectScan, Outline, segments_for};
use crate::seal::{SharedVault, Vault};
use crate::space::{Segment, SegmentKind, Segments};
use crate::transaction::Volume;
use crate::tree::{Held, Missing};
use crate::{
    Advice, BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, ChunkRef, CommitNumber, Counters,
    DeviceError, Fault, FileError, MountError, ObjectId, ObjectReadError, Structure,
};

/// The log is replayed this many changes, or a commit, at a time: the nodes that they ask for are loaded together.
const CHANGES_AHEAD: usize = 64;
/// Bytes of the layer above for which no more changes are waited for.
const BYTES_AHEAD: usize = 64 << 10;
/// Nodes that are loaded together at most, but for one round.
const NODES_AHEAD: usize = 256;

/// A mount under way.
pub struct Recovery<D: BlockDevice> {
    device: D,
    superblock: Superblock,
    checkpoint: Checkpoint,
    vault: SharedVault,
    segments: Rc<RefCell<Segments>>,
    volume: Volume,
    cursor: LogCursor,
    read_ahead: ReadAhead,
    /// The segment the cursor is in, once it was looked at.
    current: Option<LoadedSegment>,
    /// Groups and slots that not all copies have as the one that was believed.
    uneven: Vec<Uneven>,
    /// Heads of what is not whole and will be written over: groups where the log goes on, and a slot.
    torn: Vec<BlockIndex>,
    replay: Replay,
    /// How the log ends, once that was seen.
    end: Option<Result<(), MountError>>,
    /// Commits, of those that replay has ready, whose nodes were loaded ahead.
    ahead: usize,
    /// And are held until they are applied.
    held_ahead: Held,
    layer: Vec<u8>,
    /// The newest commit in which the layer above recorded something, or its horizon.
    layer_commit: CommitNumber,
    log_blocks: u64,
    counters: Counters,
}

struct Group {
    header: GroupHeader,
    checksum: u32,
    /// Which of the segment's copies has it.
    copy: usize,
    /// Whether its data are right.
    whole: bool,
}

/// Bytes of a group that was believed which not all copies have, and one that does.
#[derive(Clone, Copy)]
struct Uneven {
    address: u64,
    len: usize,
    copy: usize,
    checksum: u32,
}

impl<D: BlockDevice> Recovery<D> {
    /// Reads superblock, checkpoint and segment table and prepares to replay.
    ///
    /// # Errors
    /// When there is no file system, or one that must not be mounted; see [`MountError`].
    pub async fn open(device: D) -> Result<Self, MountError> {
        Self::open_in(device, State::Ready, None).await
    }

    /// As [`open`](Self::open), with what opens a file system that has a key. One without a key is refused then.
    ///
    /// # Errors
    /// [`MountError::Key`] if the key is wrong or missing; else as [`open`](Self::open).
    pub async fn open_with(device: D, key: Option<&Unlock<'_>>) -> Result<Self, MountError> {
        Self::open_in(device, State::Ready, key).await
    }

    /// As [`open`](Self::open), for a file system that [`format_unfinished`](crate::format_unfinished) made and nobody else
    /// can mount yet.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_unfinished(device: D) -> Result<Self, MountError> {
        Self::open_in(device, State::Formatting, None).await
    }

    /// As [`open_unfinished`](Self::open_unfinished), of what
    /// [`format_encrypted_unfinished`](crate::format_encrypted_unfinished) made.
    ///
    /// # Errors
    /// As [`open_with`](Self::open_with).
    pub async fn open_unfinished_with(
        device: D,
        key: Option<&Unlock<'_>>,
    ) -> Result<Self, MountError> {
        Self::open_in(device, State::Formatting, key).await
    }

    async fn open_in(
        device: D,
        state: State,
        key: Option<&Unlock<'_>>,
    ) -> Result<Self, MountError> {
        let superblock = match read_superblock(&device).await? {
            Ok(superblock) if superblock.state == state => superblock,
            Ok(_) | Err(SuperblockFault::Invalid) => return Err(MountError::NotFound),
            Err(SuperblockFault::Unknown { version, features }) => {
                return Err(MountError::Unknown { version, features });
            }
        };
        require(&device, superblock.blocks_min())?;
        let vault = unlock(&device, &superblock, key).await?;
        let Checkpoints {
            newest: checkpoint,
            uneven,
            torn,
        } = read_checkpoints(&device, &superblock, &vault).await?;
        let segments = read_table(&device, &superblock, &vault, &checkpoint).await?;
        let mut recovery = Self::begin(device, superblock, vault, checkpoint, segments).await?;
        recovery.uneven.extend(uneven);
        recovery.torn.extend(torn);
        Ok(recovery)
    }

    /// As [`open`](Self::open), with what it reads first.
    pub(crate) async fn begin(
        device: D,
        superblock: Superblock,
        vault: SharedVault,
        checkpoint: Checkpoint,
        mut segments: Segments,
    ) -> Result<Self, MountError> {
        let Some(cursor) = claim_segments(&superblock, &checkpoint, &mut segments) else {
            return Err(MountError::Damaged {
                structure: Structure::Checkpoint,
                block: superblock.slot_block(Checkpoint::slot(checkpoint.sequence)),
            });
        };
        let segments = Rc::new(RefCell::new(segments));
        let horizon = checkpoint.horizon.min(checkpoint.tree_commit);
        let volume = Volume::new(
            superblock,
            Rc::clone(&vault),
            Rc::clone(&segments),
            &checkpoint,
        );
        let mut recovery = Self {
            volume: volume.map_err(|damaged| MountError::Damaged {
                structure: Structure::Node,
                block: damaged.block,
            })?,
            cursor,
            read_ahead: ReadAhead::default(),
            current: None,
            uneven: Vec::new(),
            torn: Vec::new(),
            replay: Replay::new(
                checkpoint.start.commit,
                checkpoint.start.continued,
                horizon.0,
                superblock.commit_bytes_max(),
            ),
            end: None,
            ahead: 0,
            held_ahead: Held::default(),
            layer: Vec::new(),
            layer_commit: checkpoint.horizon,
            log_blocks: checkpoint.log_blocks,
            counters: Counters::default(),
            device,
            superblock,
            vault,
            checkpoint,
            segments,
        };
        recovery.load_snapshots().await?;
        recovery.load_compression().await?;
        Ok(recovery)
    }

    /// What the layer above left in the checkpoint; empty after a format.
    pub fn manifest(&self) -> &[u8] {
        &self.checkpoint.manifest
    }

    /// The last commit that is in the objects; replay yields those after it.
    pub fn horizon(&self) -> CommitNumber {
        self.checkpoint.horizon
    }

    /// The last commit of the oldest state that can be seen on the way: the replay of the log brings back every one from
    /// there on.
    pub fn oldest_state(&self) -> CommitNumber {
        self.checkpoint.horizon.max(self.checkpoint.tree_commit)
    }

    /// The device, for [`ObjectScan::next`].
    pub fn device(&self) -> &D {
        &self.device
    }

    /// What a chunk of an object of the checkpoint holds; as [`FileSystem::read_chunk`].
    ///
    /// # Errors
    /// [`ObjectReadError::NotFound`] when the checkpoint does not name the object.
    pub async fn read_chunk(
        &self,
        id: ObjectId,
        chunk: ChunkRef,
    ) -> Result<Vec<u8>, ObjectReadError> {
        let info = self.checkpoint.objects.get(&id);
        let info = info.ok_or(ObjectReadError::NotFound)?;
        let vault = Rc::clone(&self.vault);
        let located = Located::new(self.superblock, vault, id, info, chunk)?;
        located.read(&self.device, &SpareBuffers::default()).await
    }

    /// Begins to read an object of the checkpoint.
    ///
    /// # Errors
    /// [`ObjectReadError::NotFound`] when the checkpoint does not name it.
    pub fn scan_object(&self, id: ObjectId) -> Result<ObjectScan, ObjectReadError> {
        let info = self.checkpoint.objects.get(&id);
        let info = info.ok_or(ObjectReadError::NotFound)?.clone();
        let vault = Rc::clone(&self.vault);
        Ok(ObjectScan::new(Outline::new(
            self.superblock,
            vault,
            id,
            info,
        )))
    }

    /// Length of an object of the checkpoint in bytes: where its last chunk ends.
    pub fn object_len_bytes(&self, id: ObjectId) -> Option<u64> {
        let object = self.checkpoint.objects.get(&id)?;
        Some(object.len_bytes)
    }

    /// The next commit after the horizon: its number and what the layer above recorded in it (nothing, when it
    /// was only about files), or `None` at the log's end.
    ///
    /// # Errors
    /// [`MountError::Damaged`] when commits that were acknowledged cannot be read any more.
    pub async fn next_commit(&mut self) -> Result<Option<(CommitNumber, &[u8])>, MountError> {
        loop {
            if self.ahead == 0 {
                self.look_ahead().await;
                self.load_ahead().await;
            }
            if let Some(commit) = self.replay.take() {
                self.ahead = self.ahead.saturating_sub(1);
                let number = CommitNumber(commit.number);
                if number > self.checkpoint.tree_commit {
                    self.apply(&commit).await?;
                }
                if number <= self.checkpoint.horizon {
                    continue;
                }
                self.counters.replayed_commits += 1;
                if !commit.layer.is_empty() {
                    self.layer_commit = number;
                }
                self.layer = commit.layer;
                return Ok(Some((number, &self.layer)));
            }
            if let Some(end) = self.end {
                return end.map(|()| None);
            }
        }
    }

    /// Takes the groups that say the next few commits, or notes how the log ends: what comes before that is not lost with it.
    async fn look_ahead(&mut self) {
        while self.end.is_none() && self.replay.has_room(CHANGES_AHEAD, BYTES_AHEAD) {
            self.end = match self.next_commits().await {
                Ok(true) => None,
                Ok(false) => Some(Ok(())),
                Err(error) => Some(Err(error)),
            };
        }
    }

    /// Takes the next group; false at the log's end.
    async fn next_commits(&mut self) -> Result<bool, MountError> {
        let Some(group) = self.next_group().await? else {
            self.check_end().await?;
            return Ok(false);
        };
        self.take_group(&group)?;
        Ok(true)
    }

    /// The trees, with what was replayed so far.
    pub(crate) fn volume(&self) -> &Volume {
        &self.volume
    }

    /// The last commit that was found in the log so far.
    pub fn last_commit(&self) -> CommitNumber {
        CommitNumber(self.replay.next_number().saturating_sub(1))
    }

    fn take_group(&mut self, group: &Group) -> Result<(), MountError> {
        let header = &group.header;
        if header.checkpoint > self.checkpoint.sequence {
            // There was a newer checkpoint, and what it no longer named may be overwritten.
            return Err(self.newer_checkpoint(header.checkpoint));
        }
        let start = self.cursor.next_block as usize * BLOCK_SIZE;
        let current = self.current.clone();
        let copies = || {
            let current = current.iter();
            current.flat_map(|segment| segment.copies(&self.superblock))
        };
        let believed = copies().nth(group.copy);
        let bytes = believed
            .and_then(|bytes| bytes.get(start..))
            .unwrap_or_default();
        // Where data are damaged on both, each may have what the other lacks: who reads them puts them together.
        if header.has_data(bytes) {
            let len = header.blocks() as usize * BLOCK_SIZE;
            let of_device = current
                .iter()
                .flat_map(|segment| segment.of_device(&self.superblock));
            let of_device = of_device.map(|copy| copy.get(start..).unwrap_or_default());
            let address = self.cursor.block(&self.superblock).0 * BLOCK_SIZE as u64;
            let bytes = bytes.get(..len).unwrap_or_default();
            note_uneven(
                &mut self.uneven,
                address,
                bytes,
                &of_device.collect::<Vec<_>>(),
            );
        }
        let block = self.cursor.block(&self.superblock);
        // The checksum of what is stored was right: what does not open now was not written by this file system.
        let records = header.records(&self.superblock, &self.vault, block, bytes);
        let Some(records) = records else {
            return Err(self.damaged_group());
        };
        let taken = self.replay.push(block, header, &records);
        taken.map_err(|fault| match fault {
            ReplayFault::Broken => self.damaged_group(),
            ReplayFault::OutOfMemory => MountError::OutOfMemory,
        })?;
        if !self.take_announcement(header) {
            return Err(self.damaged_group());
        }
        self.cursor.step(
            header.blocks(),
            header.first_commit,
            header.continued,
            group.checksum,
        );
        self.log_blocks = clock_after(self.log_blocks, header.blocks());
        Ok(())
    }

    /// Notes which segments the log goes to next; false when that contradicts what is known.
    fn take_announcement(&mut self, header: &GroupHeader) -> bool {
        for (at, next) in header.next_segments.iter().enumerate() {
            let Some(next) = *next else { return true };
            match self.cursor.ahead.get(at) {
                Some(known) if *known == next => {}
                Some(_) => return false,
                None => {
                    let mut segments = self.segments.borrow_mut();
                    if !segments.claim(next, SegmentKind::Log, self.log_blocks)
                        && !take(&mut segments, next, SegmentKind::Log)
                    {
                        return false;
                    }
                    self.cursor.ahead.push_back(next);
                }
            }
        }
        true
    }

    /// Applies what a commit says of files.
    async fn apply(&mut self, commit: &Commit) -> Result<(), MountError> {
        let mut held = Held::default();
        let (number, changes) = (commit.number, &commit.changes);
        loop {
            let prepared = self.volume.plan(number, changes).and_then(|plan| {
                self.volume.prepare(&plan)?;
                Ok(plan)
            });
            match prepared {
                Ok(plan) => {
                    self.volume.apply(plan, &[]);
                    return Ok(());
                }
                Err(FileError::Fault(fault)) => {
                    let fault = self.volume.with_others(fault, number, changes);
                    self.load(fault.into(), &mut held).await?;
                }
                Err(error) => return Err(mount_error(error)),
            }
        }
    }

    /// Loads what the next commits will ask for: their keys are known, and one wait does for many. What cannot be read shows when it is
    /// asked for.
    async fn load_ahead(&mut self) {
        let mut changes = 0;
        let few = |commit: &&Commit| {
            let first = changes == 0;
            changes += commit.changes.len().max(1);
            first || changes <= CHANGES_AHEAD
        };
        self.ahead = self.replay.waiting().take_while(few).count();
        self.held_ahead.clear();
        let mut asked = BTreeSet::new();
        while asked.len() < NODES_AHEAD {
            let mut missing = Missing::default();
            for commit in self.replay.waiting().take(self.ahead) {
                if commit.number > self.checkpoint.tree_commit.0 {
                    self.volume
                        .note_missing(commit.number, &commit.changes, &mut missing);
                }
            }
            let mut pointers = missing.into_pointers();
            // Each once, whatever it turns out to be.
            pointers.retain(|pointer| asked.insert(pointer.block));
            if pointers.is_empty() {
                return;
            }
            self.counters.bytes_read += (pointers.len() * BLOCK_SIZE) as u64;
            let loaded = Volume::load_nodes(&self.volume.cache, &self.device, &pointers).await;
            let nodes = loaded.into_iter().flatten();
            nodes.for_each(|node| self.held_ahead.hold(node));
        }
    }

    /// The commits that snapshots show, oldest first, as far as the log was replayed.
    pub fn snapshot_commits(&self) -> impl ExactSizeIterator<Item = CommitNumber> {
        self.volume.snapshots.keys().copied()
    }

    async fn load_snapshots(&mut self) -> Result<(), MountError> {
        let mut held = Held::default();
        while let Err(error) = self.volume.load_snapshots() {
            self.load(error, &mut held).await?;
        }
        Ok(())
    }

    async fn load_compression(&mut self) -> Result<(), MountError> {
        let mut held = Held::default();
        while let Err(error) = self.volume.load_compression() {
            self.load(error, &mut held).await?;
        }
        Ok(())
    }

    /// Loads what a fault asks for; other errors end the mount.
    async fn load(&mut self, error: FileError, held: &mut Held) -> Result<(), MountError> {
        let pointers = match error {
            FileError::Fault(Fault::Node(pointer)) => alloc::vec![pointer],
            FileError::Fault(Fault::Nodes(pointers)) => pointers,
            error => return Err(mount_error(error)),
        };
        self.counters.bytes_read += (pointers.len() * BLOCK_SIZE) as u64;
        let loaded = Volume::load_nodes(&self.volume.cache, &self.device, &pointers).await;
        let mut loaded = loaded.into_iter();
        // What is wrong with others than the first shows when they are asked for.
        if let Some(first) = loaded.next() {
            held.hold(first.map_err(mount_error)?);
        }
        loaded.flatten().for_each(|node| held.hold(node));
        Ok(())
    }

    /// Ends the mount: from here on the log goes on after the last commit found.
    ///
    /// What was replayed is made durable first: after a crash of the machine but not of the disk, a
    /// group can be readable that no flush covered yet. Of what was not whole the head is overwritten.
    ///
    /// # Errors
    /// When the flush fails, or memory does not suffice. Must follow a `next_commit` that was `None`.
    pub async fn finish(self) -> Result<FileSystem<D>, MountError> {
        self.even_out().await?;
        self.bury_torn().await?;
        self.advise();
        self.device.flush().await?;
        Ok(self.finish_without_writing())
    }

    /// Gives all copies the groups that were believed: after a power cut the newest may be on one only.
    async fn even_out(&self) -> Result<(), MountError> {
        for uneven in &self.uneven {
            let mut done = self.spread(uneven).await;
            if done.is_err() {
                // A disk that has gone out since is no longer counted, and the copies have other numbers.
                done = self.spread(uneven).await;
            }
            done?;
        }
        Ok(())
    }

    /// Overwrites the heads of what was dropped: nothing that is written later makes it whole.
    async fn bury_torn(&self) -> Result<(), MountError> {
        for &block in &self.torn {
            let (_, written) = self.device.write(block, Buffer::zeroed(1)?).await;
            written?;
        }
        Ok(())
    }

    /// Gives all copies what one has, whichever that is by now.
    async fn spread(&self, uneven: &Uneven) -> Result<(), MountError> {
        let block = BLOCK_SIZE as u64;
        let first = BlockIndex(uneven.address / block);
        let at = usize::try_from(uneven.address % block).unwrap_or(0);
        let end = at + uneven.len;
        let own = u8::try_from(uneven.copy).unwrap_or(u8::MAX);
        let mut failed = DeviceError::Gone;
        for copy in [own].into_iter().chain(0..self.device.copies()) {
            let buffer = Buffer::zeroed(end.div_ceil(BLOCK_SIZE))?;
            let (buffer, read) = self.device.read_copy(copy, first, buffer).await;
            let good = buffer.bytes().get(at..end).unwrap_or_default();
            match read {
                Ok(()) if checksum(good) == uneven.checksum => {
                    self.device.mend(copy, uneven.address, good).await?;
                    return Ok(());
                }
                Ok(()) => {}
                Err(error) => failed = error,
            }
        }
        Err(failed.into())
    }

    /// Tells a mirror what it need not copy, and where a disk that is away may have a group that this one does not.
    fn advise(&self) {
        let superblock = &self.superblock;
        let blocks = u64::from(superblock.segment_blocks);
        let segments = self.segments.borrow();
        let free = |(_, segment): &(SegmentId, &Segment)| {
            segment.kind == SegmentKind::Free && !segment.pinned
        };
        for (id, _) in segments.iter().filter(free) {
            let start = superblock.segment_start(id);
            self.device.advise(start, blocks, Advice::Unneeded);
        }
        let next = [
            Some(self.cursor.current()),
            self.cursor.ahead.front().copied(),
        ];
        for id in next.into_iter().flatten() {
            let start = superblock.segment_start(id);
            self.device.advise(start, blocks, Advice::Doubtful);
        }
    }

    /// As [`finish`](Self::finish), for a device that must not be written: only reads may follow.
    pub fn finish_without_writing(self) -> FileSystem<D> {
        // Of a mount that ends early, the last that was handed out.
        let next = self.replay.waiting().next();
        let last = next.map_or(self.last_commit(), |next| CommitNumber(next.number - 1));
        let log = Log::new(
            self.superblock,
            (Rc::clone(&self.segments), self.vault),
            self.cursor,
            last,
            self.checkpoint.sequence,
            self.log_blocks,
            self.counters,
        );
        FileSystem::new(
            self.device,
            self.superblock,
            self.segments,
            self.volume,
            log,
            self.layer_commit,
            self.checkpoint,
        )
    }

    /// The next group of the chain, with the cursor moved to where it begins.
    async fn next_group(&mut self) -> Result<Option<Group>, MountError> {
        let current = match self.current.take() {
            Some(loaded) => loaded,
            None => self.read_segment(&self.cursor.clone()).await?,
        };
        let (current, found) = self.find_group(&self.cursor, current).await?;
        self.current = Some(current);
        if let Some(group) = found {
            return Ok(Some(group));
        }
        let mut next = self.cursor.clone();
        let full = next.window.len() >= self.superblock.log_segments as usize;
        // A segment is only left for the next once it has a group, and the next one did not fit.
        if self.cursor.next_block == 0 || !next.advance() {
            return Ok(None);
        }
        let ahead = self.read_segment(&next).await?;
        let (ahead, found) = self.find_group(&next, ahead).await?;
        let Some(group) = found else {
            return Ok(None);
        };
        if full {
            // There is more log than there can be: a checkpoint had let go of some.
            return Err(self.newer_checkpoint(group.header.checkpoint));
        }
        self.current = Some(ahead);
        self.cursor = next;
        Ok(Some(group))
    }

    /// The group at the cursor, from a copy or put together from two; that is one copy more then.
    async fn find_group(
        &self,
        cursor: &LogCursor,
        mut segment: LoadedSegment,
    ) -> Result<(LoadedSegment, Option<Group>), MountError> {
        let found = self.group_at_cursor(cursor, &segment);
        if found.as_ref().is_some_and(|found| found.whole) {
            return Ok((segment, found));
        }
        let start = cursor.next_block as usize * BLOCK_SIZE;
        let together = {
            let copies = segment.of_device(&self.superblock).collect::<Vec<_>>();
            let [one, two] = copies.as_slice() else {
                return Ok((segment, found));
            };
            let headers = [one, two].map(|bytes| self.header_at(cursor, bytes));
            let Some((header, _)) = headers.into_iter().flatten().next() else {
                return Ok((segment, found));
            };
            let bytes = start..start + header.blocks() as usize * BLOCK_SIZE;
            let (Some(one_group), Some(two_group)) =
                (one.get(bytes.clone()), two.get(bytes.clone()))
            else {
                return Ok((segment, found));
            };
            let check = |group: &[u8]| {
                let header = self.decode_header(cursor, group);
                let whole = header
                    .filter(|(header, _)| header.has_records(group) && header.has_data(group));
                whole.map(|_| ()).ok_or(())
            };
            put_together([one_group, two_group], check).await
        };
        let Some(together) = together else {
            return Ok((segment, found));
        };
        let copy = segment.add(&self.superblock, start, &together.bytes)?;
        let mut copies = segment.copies(&self.superblock);
        let group = copies
            .nth(copy)
            .and_then(|bytes| self.group_in(cursor, copy, bytes, true));
        drop(copies);
        Ok((segment, group.or(found)))
    }

    /// The group at the cursor from the copy that has all of it, else from one of which only data are damaged.
    fn group_at_cursor(&self, cursor: &LogCursor, segment: &LoadedSegment) -> Option<Group> {
        let copies = || segment.copies(&self.superblock).enumerate();
        let whole = copies().find_map(|(copy, bytes)| self.group_in(cursor, copy, bytes, true));
        whole.or_else(|| {
            copies().find_map(|(copy, bytes)| self.group_in(cursor, copy, bytes, false))
        })
    }

    fn group_in(
        &self,
        cursor: &LogCursor,
        copy: usize,
        segment: &[u8],
        with_data: bool,
    ) -> Option<Group> {
        let start = cursor.next_block as usize * BLOCK_SIZE;
        let bytes = segment.get(start..)?;
        let (header, checksum) = self.decode_header(cursor, bytes)?;
        let whole = header.has_data(bytes);
        // Of a group that is known to have been durable, damaged data are no torn tail: they are damaged data,
        // which shows where they are read.
        let vouched_for = !with_data && header.sequence <= self.checkpoint.durable_group;
        let valid = header.has_records(bytes) && (whole || vouched_for);
        valid.then_some(Group {
            header,
            checksum,
            copy,
            whole,
        })
    }

    /// The header at the cursor in what a copy has of its segment.
    fn header_at(&self, cursor: &LogCursor, segment: &[u8]) -> Option<(GroupHeader, u32)> {
        let start = cursor.next_block as usize * BLOCK_SIZE;
        self.decode_header(cursor, segment.get(start..)?)
    }

    /// The header of `group`, if it is of the next one of the chain.
    fn decode_header(&self, cursor: &LogCursor, group: &[u8]) -> Option<(GroupHeader, u32)> {
        let block = cursor.block(&self.superblock);
        let found = GroupHeader::decode(GroupKind::Commits, self.superblock.id, block, group);
        found.filter(|(header, _)| {
            header.sequence == cursor.sequence
                && header.previous_checksum == cursor.previous_checksum
        })
    }

    /// The chain ends at the cursor: makes sure that nothing acknowledged lies behind.
    async fn check_end(&mut self) -> Result<(), MountError> {
        let damaged = Err(self.damaged_group());
        let vouched_for = self.checkpoint.horizon.max(self.checkpoint.tree_commit);
        if self.cursor.sequence <= self.checkpoint.durable_group || self.last_commit() < vouched_for
        {
            return damaged;
        }
        let (id, first) = (self.cursor.current(), self.cursor.next_block);
        let current = self.current.iter();
        let later = current
            .flat_map(|segment| segment.copies(&self.superblock))
            .any(|copy| self.has_later_group(id, first, copy));
        if later {
            return damaged;
        }
        let current = self.current.as_ref();
        let torn = current.and_then(|segment| self.torn_at(&self.cursor, segment));
        self.torn.extend(torn);
        let mut next = self.cursor.clone();
        if next.advance() {
            let segment = self.read_segment(&next).await?;
            let mut copies = segment.copies(&self.superblock);
            if copies.any(|copy| self.has_later_group(next.current(), 0, copy)) {
                return damaged;
            }
            self.torn.extend(self.torn_at(&next, &segment));
        }
        for id in next.ahead {
            // Only its first block: a segment is filled from there, and a first group that is
            // damaged has its successor in the same or, seen above, the segment before.
            let copies = self.read_first_block(id).await?;
            let mut copies = copies.iter().map(Buffer::bytes);
            if copies.any(|copy| self.has_later_group(id, 0, copy)) {
                return damaged;
            }
        }
        Ok(())
    }

    /// Where, on any copy, a group has its head that would be next if it were whole.
    fn torn_at(&self, cursor: &LogCursor, segment: &LoadedSegment) -> Option<BlockIndex> {
        let block = cursor.block(&self.superblock);
        let start = cursor.next_block as usize * BLOCK_SIZE;
        let mut heads = segment.copies(&self.superblock).filter_map(|copy| {
            let bytes = copy.get(start..)?;
            GroupHeader::decode(GroupKind::Commits, self.superblock.id, block, bytes)
        });
        let torn = heads.any(|(header, _)| header.sequence == self.cursor.sequence);
        torn.then_some(block)
    }

    /// Whether what a copy has of a segment holds, from the segment's block `first` on, a header after the one that is missing.
    fn has_later_group(&self, id: SegmentId, first: u32, copy: &[u8]) -> bool {
        let start = self.superblock.segment_start(id).0;
        let blocks = copy.chunks_exact(BLOCK_SIZE).zip(start..);
        let mut behind = blocks.skip(first as usize);
        behind.any(|(bytes, block)| {
            let own = BlockIndex(block);
            GroupHeader::decode(GroupKind::Commits, self.superblock.id, own, bytes)
                .is_some_and(|(header, _)| header.sequence > self.cursor.sequence)
        })
    }

    /// The checkpoint with this number was in force, and is not there.
    fn newer_checkpoint(&self, sequence: u64) -> MountError {
        MountError::Damaged {
            structure: Structure::Checkpoint,
            block: self.superblock.slot_block(Checkpoint::slot(sequence)),
        }
    }

    fn damaged_group(&self) -> MountError {
        MountError::Damaged {
            structure: Structure::CommitGroup,
            block: self.cursor.block(&self.superblock),
        }
    }

    /// The segment that `cursor` is in.
    async fn read_segment(&mut self, cursor: &LogCursor) -> Result<LoadedSegment, MountError> {
        let before = self.read_ahead.bytes_read;
        let count = self.segments.borrow().count();
        let (device, superblock) = (&self.device, &self.superblock);
        let read = self
            .read_ahead
            .segment(device, superblock, cursor.current(), count);
        let loaded = read.await;
        self.counters.bytes_read += self.read_ahead.bytes_read - before;
        loaded
    }

    /// The first block of a segment, of all copies that can be read.
    async fn read_first_block(&mut self, id: SegmentId) -> Result<Vec<Buffer>, MountError> {
        let start = self.superblock.segment_start(id);
        let mut copies = Vec::new();
        let mut failed = Ok(());
        for copy in 0..self.device.copies() {
            self.counters.bytes_read += BLOCK_SIZE as u64;
            let buffer = Buffer::zeroed(1)?;
            match self.device.read_copy(copy, start, buffer).await {
                (buffer, Ok(())) => copies.push(buffer),
                (_, Err(error)) => failed = Err(error),
            }
        }
        if copies.is_empty() {
            failed?;
        }
        Ok(copies)
    }
}

/// Notes in which sectors what was believed of a group is not what all `copies` have.
fn note_uneven(uneven: &mut Vec<Uneven>, address: u64, believed: &[u8], copies: &[&[u8]]) {
    let mut run: Option<(usize, Range<usize>)> = None;
    let mut runs = Vec::new();
    for (sector, start) in believed.chunks(SECTOR_SIZE).zip((0..).step_by(SECTOR_SIZE)) {
        let end = start + sector.len();
        let has = |copy: &&[u8]| copy.get(start..end) == Some(sector);
        let source = copies.iter().position(has);
        let source = source.filter(|_| !copies.iter().all(has));
        match (&mut run, source) {
            (Some((copy, bytes)), Some(source)) if *copy == source => bytes.end = end,
            (_, source) => {
                runs.extend(run.take());
                run = source.map(|source| (source, start..end));
            }
        }
    }
    runs.extend(run);
    uneven.extend(runs.into_iter().map(|(copy, bytes)| Uneven {
        address: address + bytes.start as u64,
        len: bytes.len(),
        copy,
        checksum: checksum(believed.get(bytes).unwrap_or_default()),
    }));
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn mount_error(error: FileError) -> MountError {
    match error {
        FileError::Damaged { structure, block } => MountError::Damaged { structure, block },
        FileError::Device(error) => MountError::Device(error),
        _ => MountError::OutOfMemory,
    }
}

/// Refuses a device that has fewer than `blocks` blocks.
fn require<D: BlockDevice>(device: &D, blocks: u64) -> Result<(), MountError> {
    let device_blocks = device.geometry().block_count;
    if blocks > device_blocks {
        return Err(MountError::DeviceTooSmall {
            needed_bytes: blocks.saturating_mul(BLOCK_SIZE as u64),
            device_bytes: device_blocks.saturating_mul(BLOCK_SIZE as u64),
        });
    }
    Ok(())
}

/// What the checkpoint slots hold.
struct Checkpoints {
    /// The valid one with the highest sequence number.
    newest: Checkpoint,
    /// Slots that are valid and may not be so on all copies.
    uneven: Vec<Uneven>,
    /// Slots that are not, and begin as if they had a newer one.
    torn: Vec<BlockIndex>,
}

/// A checkpoint slot.
struct Slot {
    own: BlockIndex,
    /// The highest sequence number that a copy of it claims or, where one cannot be read, may claim.
    claimed: Option<u64>,
    /// With where it is from.
    valid: Option<(Checkpoint, Uneven)>,
}

async fn read_checkpoints<D: BlockDevice>(
    device: &D,
    superblock: &Superblock,
    vault: &Vault,
) -> Result<Checkpoints, MountError> {
    let mut slots = [
        read_either(device, superblock, vault, 0).await?,
        read_either(device, superblock, vault, 1).await?,
    ];
    slots.sort_by_key(|slot| slot.valid.as_ref().map(|(found, _)| found.sequence));
    let [other, newest] = slots;
    let Some((newest, place)) = newest.valid else {
        return Err(MountError::Damaged {
            structure: Structure::Checkpoint,
            block: superblock.slot_block(0),
        });
    };
    let (mut uneven, mut torn) = (Vec::new(), Vec::new());
    if device.copies() > 1 {
        // It may be whole on one copy only; all it names was durable on both before.
        uneven.push(place);
    }
    if other.claimed > Some(newest.sequence) {
        match other.valid {
            // One copy is torn, or nobody knows, and that one is whole.
            Some((_, place)) => uneven.push(place),
            None => torn.push(other.own),
        }
    }
    Ok(Checkpoints {
        newest,
        uneven,
        torn,
    })
}

/// Reads slot `slot` from whichever copy has the newest checkpoint in it.
///
/// # Errors
/// When it cannot be read: it may be the newest. Where one copy can be read and another cannot, if the first does not tell: if it has neither a valid
/// checkpoint nor none.
async fn read_either<D: BlockDevice>(
    device: &D,
    superblock: &Superblock,
    vault: &Vault,
    slot: u8,
) -> Result<Slot, MountError> {
    let own = superblock.slot_block(slot);
    let decode = |bytes: &[u8]| {
        let device_blocks = device.geometry().block_count;
        Checkpoint::decode(superblock, vault, own, bytes, device_blocks)
    };
    let place = |copy: u8, bytes: &[u8]| {
        let len = Checkpoint::len_blocks(superblock, bytes) * BLOCK_SIZE;
        let bytes = bytes.get(..len).unwrap_or(bytes);
        Uneven {
            address: own.0 * BLOCK_SIZE as u64,
            len: bytes.len(),
            copy: copy.into(),
            checksum: checksum(bytes),
        }
    };
    let mut valid: Option<(Checkpoint, Uneven)> = None;
    let (mut unread, mut spoilt) = (None, false);
    let (mut blocks, mut claimed) = (0, None);
    // Of a mirror, a disk that does not have all that was acknowledged is not asked.
    for copy in 0..device.copies() {
        let buffer = match read_slot(device, superblock, own, copy).await {
            Ok(buffer) => buffer,
            Err(MountError::Device(error)) => {
                unread = Some(error);
                continue;
            }
            Err(error) => return Err(error),
        };
        let bytes = buffer.bytes();
        blocks = blocks.max(Checkpoint::len_blocks(superblock, bytes));
        if let Some(head) = Checkpoint::head_of(superblock, own, bytes)
            && superblock.allows(head.segment_count)
        {
            // Not one to pass over for an older one that may have been smaller.
            require(device, superblock.blocks_for(head.segment_count))?;
        }
        claimed = claimed.max(Checkpoint::claimed_sequence(superblock, own, bytes));
        match decode(bytes) {
            Some(found) => {
                let newer = |(than, _): &(Checkpoint, _)| found.sequence > than.sequence;
                if valid.as_ref().is_none_or(newer) {
                    valid = Some((found, place(copy, bytes)));
                }
            }
            // What was never written, or was buried, begins with zeros.
            None => spoilt |= bytes.iter().take(BLOCK_SIZE).any(|byte| *byte != 0),
        }
    }
    if valid.is_none() && device.copies() > 1 {
        // Torn or damaged in different places. How long it is, is not known where no copy can be read as a whole.
        if blocks == 0 {
            spoilt = true;
            blocks = superblock.slot_blocks as usize;
        }
        let check = |bytes: &[u8]| decode(bytes).ok_or(());
        let together = read_together(device, own, blocks, 0..blocks * BLOCK_SIZE, check).await;
        valid = together.map(|(buffer, found)| (found, place(0, buffer.bytes())));
    }
    match unread {
        Some(error) if valid.is_none() && (spoilt || device.copies() == 1) => Err(error.into()),
        Some(_) => Ok(Slot {
            own,
            claimed: Some(u64::MAX),
            valid,
        }),
        None => Ok(Slot {
            own,
            claimed,
            valid,
        }),
    }
}

/// Blocks of the segment table that one request reads.
const TABLE_BLOCKS_AT_ONCE: u32 = 64;

/// The segment table as the checkpoint says it is.
async fn read_table<D: BlockDevice>(
    device: &D,
    superblock: &Superblock,
    vault: &Vault,
    checkpoint: &Checkpoint,
) -> Result<Segments, MountError> {
    let count = checkpoint.segment_count;
    let mut segments = Segments::new(superblock, count).ok_or(MountError::OutOfMemory)?;
    let used = crate::disk::superblock::table_blocks_for(count);
    for first in (0..used).step_by(TABLE_BLOCKS_AT_ONCE as usize) {
        let count = TABLE_BLOCKS_AT_ONCE.min(used - first);
        let buffer = Buffer::zeroed(2 * count as usize)?;
        let start = superblock.table_block(first, 0);
        let (buffer, read) = device.read(start, buffer).await;
        read?;
        for index in first..first + count {
            let home = checkpoint.table_homes.get(index as usize).copied();
            let home = home.unwrap_or(0);
            let at = (2 * (index - first) + u32::from(home)) as usize * BLOCK_SIZE;
            let bytes = buffer.bytes().get(at..at + BLOCK_SIZE).unwrap_or_default();
            if !segments.load_block(superblock, vault, index, home, bytes) {
                let block = superblock.table_block(index, home);
                let load = |bytes: &[u8]| {
                    let loaded = segments.load_block(superblock, vault, index, home, bytes);
                    loaded.then_some(()).ok_or(())
                };
                let (_, loaded) = read_checked(device, block, Buffer::zeroed(1)?, load).await;
                loaded?.map_err(|()| MountError::Damaged {
                    structure: Structure::SegmentTable,
                    block,
                })?;
            }
        }
    }
    Ok(segments)
}

/// Compares the segments that a checkpoint names with the table, and gives the log as it begins; `None` when
/// they contradict each other.
fn claim_segments(
    superblock: &Superblock,
    checkpoint: &Checkpoint,
    segments: &mut Segments,
) -> Option<LogCursor> {
    let start = &checkpoint.start;
    let numbers = [
        // Another one must be able to follow.
        checkpoint.sequence.saturating_add(1),
        checkpoint.horizon.0,
        checkpoint.tree_commit.0,
        checkpoint.durable_group,
        start.group,
        start.commit,
        checkpoint.log_blocks,
        // What is given out next may be the first that is not.
        checkpoint.next_object.saturating_sub(1),
    ];
    let are_possible = numbers.iter().all(|number| *number < NUMBER_MAX);
    if !are_possible || checkpoint.next_inode > VALUE_OBJECT {
        return None;
    }
    // Replay must not begin behind what it is to bring back.
    let next = checkpoint.horizon.min(checkpoint.tree_commit).0 + 1;
    let sane = (1..=superblock.log_segments as usize + crate::log::AHEAD)
        .contains(&checkpoint.log_segments.len())
        && checkpoint.ahead_count < checkpoint.log_segments.len()
        && start.group > 0
        && start.commit > 0
        && (start.commit < next || (start.commit == next && !start.continued))
        && checkpoint.segment_count == segments.count();
    if !sane {
        return None;
    }
    for (id, object) in &checkpoint.objects {
        let whole = object.segments.len() as u64 == segments_for(superblock, object.len_bytes)
            && id.0 < checkpoint.next_object;
        let all = object
            .segments
            .iter()
            .all(|&id| take(segments, id, SegmentKind::Object));
        if !whole || !all {
            return None;
        }
    }
    // Objects that were being written when the checkpoint was made do not exist. Before the log's: one may have been given up
    // while the checkpoint was being written, and the log have decided on its segment.
    let lost = segments
        .iter()
        .filter(|(_, segment)| segment.kind == SegmentKind::Object && !segment.pinned);
    for id in lost.map(|(id, _)| id).collect::<Vec<_>>() {
        segments.release(id);
    }
    for &id in &checkpoint.log_segments {
        // Free in the table: the log decided on it while the checkpoint was being written.
        let taken = segments.claim(id, SegmentKind::Log, checkpoint.log_blocks)
            || take(segments, id, SegmentKind::Log);
        if !taken {
            return None;
        }
    }
    let (&first, rest) = checkpoint.log_segments.split_first()?;
    let mut cursor = LogCursor::at_start(first, checkpoint.start);
    cursor.ahead = rest.iter().copied().collect();
    Some(cursor)
}

/// Pins a segment that must be of this kind and must not be taken yet.
fn take(segments: &mut Segments, id: SegmentId, kind: SegmentKind) -> bool {
    let fits = segments
        .get(id)
        .is_some_and(|segment| segment.kind == kind && !segment.pinned);
    segments.set_pinned(id, true);
    fits
}

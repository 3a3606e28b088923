//! Scrubbing: everything in use is read from the disk and verified, in the background of a mounted file system.
//!
//! What the file system still has in memory or can write anew is repaired: copies of the superblock, the slot, blocks of
//! the segment table, tree nodes that are cached. What is lost on the only copy is reported with the file and range it hits; the
//! rest stays usable. Of a mirror both copies are verified, and what is damaged on one is written again from the other.
//!
//! A step is what is read at once of one copy: a block, a piece of 64 KiB, 128 KiB of an object, a slot. After each the scrub rests as
//! the rate set for it says, and lets everybody go first who waits for the disk, for at most [`GIVE_WAY_MS`]: so it
//! takes little from others however busy they are, and comes to its end all the same. The trees change meanwhile: what
//! seems damaged is only so if it is still in use after it was read.
//!
//! Dropped, it leaves nothing half done but its own reads: what it writes are single blocks as they were, mends are the device's, and
//! checkpoints [`FileSystem::run`]'s.
//!
//! Not here: free space, and what only older checkpoints name.

use alloc::rc::Rc;
use alloc::vec::Vec;

use embassy_futures::select::select;

use super::{Finding, Part, PieceAt, Problem, Repair, damaged_bytes, node_finding};
use crate::checkpoint::Checkpoint;
use crate::disk::superblock::{KEY_SLOT_BLOCKS, Superblock, table_blocks_for};
use crate::disk::{OneCopy, read_together};
use crate::extent::Piece;
use crate::mount::{damaged_copies, slots_block};
use crate::namespace::{Inode, decode_entry};
use crate::object::{ObjectScan, Outline, ScanStep};
use crate::space::is_table_block;
use crate::transaction::Volume;
use crate::tree::{Held, Key, Place, Tree, TreeKind, Walk, items_of};
use crate::{
    BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, Clock, Fault, FileSystem, InodeNumber, ItemKind,
    MountError, ObjectId, ObjectReadError, ROOT, StoredRange, Structure,
};

/// How often a leaf that changes under way is looked at again.
const TRIES_MAX: u32 = 8;
/// Damaged files that are looked for: each search goes through the tree, for the owner of the data and for each name of a path.
const PATHS_MAX: u32 = 64;
/// Names in a path at most.
const DEPTH_MAX: usize = 256;

/// How long a step waits while others wait for the disk.
const GIVE_WAY_MS: u64 = 100;
/// How long a scrub rests before it looks whether its rate has changed.
const REST_MS_MAX: u64 = 1000;
/// How far a scrub that was slow for a while may run ahead of its rate to make up for it.
const CATCH_UP_US: u64 = 100_000;

/// How to scrub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScrubOptions {
    /// Bytes read in a second at most, of all copies together; without, as fast as the device goes. See also
    /// [`FileSystem::set_scrub_rate`].
    pub bytes_per_second: Option<u64>,
    /// Only report; write nothing. For a file system that was mounted without writing.
    pub read_only: bool,
}

/// How far a scrub is, or how the last one ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScrubStatus {
    /// Whether one is under way.
    pub running: bool,
    /// Bytes verified.
    pub done_bytes: u64,
    /// Bytes in use when it began, or more where they have become more. As much as was verified once it has gone through all.
    pub total_bytes: u64,
    /// Damaged places that were written again.
    pub repaired: u64,
    /// Damaged places that could not be repaired.
    pub unrepairable: u64,
}

/// Why a scrub did not go to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScrubError {
    /// Another one is under way.
    #[error("a scrub is under way already")]
    Running,
    /// The file system is closing or has failed.
    #[error("the file system is closing")]
    Ending,
    /// Not enough memory.
    #[error("not enough memory")]
    OutOfMemory,
}

/// A scrub under way.
struct Scrub<'f, 'r, D: BlockDevice, C> {
    filesystem: &'f FileSystem<D>,
    clock: &'f C,
    options: ScrubOptions,
    report: &'r mut dyn FnMut(&Finding, bool),
    /// A checkpoint will write again what was found damaged.
    checkpoint_due: bool,
    paths_left: u32,
    /// Whose data were found damaged last: damage comes in rows.
    last_owner: Option<(TreeKind, u64, Owner)>,
    /// When what was read so far should have been, by the rate.
    due_us: u64,
}

impl<D: BlockDevice, C> Drop for Scrub<'_, '_, D, C> {
    fn drop(&mut self) {
        self.filesystem.scrub.borrow_mut().running = false;
    }
}

impl<D: BlockDevice> FileSystem<D> {
    /// How far the scrub is that runs, or how the last one since the mount ended.
    pub fn scrub_status(&self) -> ScrubStatus {
        *self.scrub.borrow()
    }

    /// Verifies everything in use, beside everything else; damage goes to `report`, with file and range, and whether it was
    /// repaired. Runs beside [`run`](Self::run), which it needs for repairs. Dropped, it ends where it is.
    ///
    /// # Errors
    /// See [`ScrubError`].
    pub async fn scrub(
        &self,
        clock: &impl Clock,
        options: ScrubOptions,
        report: &mut dyn FnMut(&Finding, bool),
    ) -> Result<ScrubStatus, ScrubError> {
        if self.scrub_status().running {
            return Err(ScrubError::Running);
        }
        let head_blocks = 2 + table_blocks_for(self.segments.borrow().count());
        *self.scrub.borrow_mut() = ScrubStatus {
            running: true,
            total_bytes: self.segments.borrow().live_bytes()
                + u64::from(head_blocks) * BLOCK_SIZE as u64,
            ..ScrubStatus::default()
        };
        self.set_scrub_rate(options.bytes_per_second);
        let mut scrub = Scrub {
            filesystem: self,
            clock,
            options,
            report,
            checkpoint_due: false,
            paths_left: PATHS_MAX,
            last_owner: None,
            due_us: clock.monotonic_us(),
        };
        scrub.superblocks().await?;
        scrub.key_slots().await?;
        scrub.slot().await?;
        scrub.table().await?;
        scrub.tree(TreeKind::Live).await?;
        scrub.tree(TreeKind::History).await?;
        scrub.objects().await?;
        if scrub.checkpoint_due && !self.is_ending() {
            // Not here: a scrub may be dropped at any time, and a checkpoint must not.
            self.ask_for_checkpoint().await;
        }
        drop(scrub);
        // What was freed meanwhile, and what objects do not fill of their segments, is not there to be verified.
        let mut status = self.scrub.borrow_mut();
        status.total_bytes = status.done_bytes;
        Ok(*status)
    }

    /// Sets the rate of the scrub under way: bytes read in a second at most, or as fast as the device goes.
    pub fn set_scrub_rate(&self, bytes_per_second: Option<u64>) {
        self.scrub_rate.set(bytes_per_second);
    }

    fn tree_of(volume: &Volume, kind: TreeKind) -> &Tree {
        match kind {
            TreeKind::Live => &volume.live,
            TreeKind::History => &volume.history,
        }
    }
}

impl<D: BlockDevice, C: Clock> Scrub<'_, '_, D, C> {
    /// Reads all copies of blocks, keeping to the pace. `None` for one that cannot be read.
    async fn read_copies(
        &mut self,
        start: BlockIndex,
        blocks: usize,
    ) -> Result<Vec<Option<Buffer>>, ScrubError> {
        self.read_copies_on(&self.filesystem.device, start, blocks)
            .await
    }

    /// The same of a device that is a part of it.
    async fn read_copies_on(
        &mut self,
        device: &impl BlockDevice,
        start: BlockIndex,
        blocks: usize,
    ) -> Result<Vec<Option<Buffer>>, ScrubError> {
        let mut copies = Vec::new();
        for copy in 0..device.copies() {
            copies.push(self.read(device, copy, start, blocks).await?);
        }
        Ok(copies)
    }

    /// Reads blocks and keeps to the pace. `Ok(None)` when they cannot be read.
    async fn read(
        &mut self,
        device: &impl BlockDevice,
        copy: u8,
        start: BlockIndex,
        blocks: usize,
    ) -> Result<Option<Buffer>, ScrubError> {
        if self.filesystem.is_ending() {
            return Err(ScrubError::Ending);
        }
        let buffer = Buffer::zeroed(blocks).map_err(|_| ScrubError::OutOfMemory)?;
        let (buffer, read) = device.read_copy(copy, start, buffer).await;
        self.rest((blocks * BLOCK_SIZE) as u64).await;
        Ok(read.is_ok().then_some(buffer))
    }

    /// Rests after a step that has read so many bytes.
    async fn rest(&mut self, bytes: u64) {
        let filesystem = self.filesystem;
        if let Some(rate) = filesystem.scrub_rate.get() {
            let earliest_us = self.clock.monotonic_us().saturating_sub(CATCH_UP_US);
            let cost_us = bytes.saturating_mul(1_000_000) / rate.max(1);
            self.due_us = self.due_us.max(earliest_us).saturating_add(cost_us);
            self.rest_until_due(rate).await;
        }
        embassy_futures::yield_now().await;
        if filesystem.is_waited_for() {
            let done = || !filesystem.is_waited_for() || filesystem.is_ending();
            let idle = filesystem.log.until(|| done().then_some(()));
            select(idle, self.clock.sleep_ms(GIVE_WAY_MS)).await;
        }
    }

    /// Rests until what was read by this rate is due, or another rate holds, or the end.
    async fn rest_until_due(&mut self, rate: u64) {
        let filesystem = self.filesystem;
        loop {
            let now_us = self.clock.monotonic_us();
            if filesystem.scrub_rate.get() != Some(rate) {
                self.due_us = now_us;
            }
            // What is less than a millisecond adds up.
            let rest_ms = self.due_us.saturating_sub(now_us) / 1000;
            if rest_ms == 0 || filesystem.is_ending() {
                return;
            }
            self.clock.sleep_ms(rest_ms.min(REST_MS_MAX)).await;
        }
    }

    /// Writes bytes again where a copy is damaged, from one that is not, or from both where either has other parts right;
    /// what lies beside them may be good there and not here. True when all copies are good then.
    async fn mend(&mut self, address: u64, len: usize, is_good: impl Fn(&[u8]) -> bool) -> bool {
        let device = &self.filesystem.device;
        self.mend_on(device, address, len, is_good).await
    }

    /// The same on a device that is a part of it.
    async fn mend_on(
        &mut self,
        device: &impl BlockDevice,
        address: u64,
        len: usize,
        is_good: impl Fn(&[u8]) -> bool,
    ) -> bool {
        if self.options.read_only || device.copies() <= 1 {
            return false;
        }
        let block = BLOCK_SIZE as u64;
        let first = BlockIndex(address / block);
        let Some(end) = address.checked_add(len as u64) else {
            return false;
        };
        let blocks = end.div_ceil(block) - first.0;
        let (Ok(blocks), Ok(at)) = (
            usize::try_from(blocks),
            usize::try_from(address - first.0 * block),
        ) else {
            return false;
        };
        let is_good = |blocks: &[u8]| blocks.get(at..at + len).is_some_and(&is_good);
        let Ok(copies) = self.read_copies_on(device, first, blocks).await else {
            return false;
        };
        let good = (0..).zip(&copies).find_map(|(copy, buffer)| {
            let bytes = buffer.as_ref()?.bytes();
            is_good(bytes).then(|| bytes.get(at..at + len).map(|good| (copy, good)))?
        });
        if let Some((copy, good)) = good {
            // Others may have done so meanwhile: what counts is what is there then.
            let _ = device.mend(copy, address, good).await;
        } else {
            let check = |bytes: &[u8]| is_good(bytes).then_some(()).ok_or(());
            let together = read_together(device, first, blocks, at..at + len, check).await;
            if together.is_none() {
                return false;
            }
        }
        if device.flush().await.is_err() {
            return false;
        }
        let copies = self.read_copies_on(device, first, blocks).await;
        copies.is_ok_and(|copies| all_good(&copies, is_good))
    }

    fn advance(&self, bytes: u64) {
        let mut status = self.filesystem.scrub.borrow_mut();
        status.done_bytes += bytes;
        status.total_bytes = status.total_bytes.max(status.done_bytes);
    }

    fn found(&mut self, finding: &Finding, repaired: bool) {
        {
            let mut status = self.filesystem.scrub.borrow_mut();
            if repaired {
                status.repaired += 1;
            } else {
                status.unrepairable += 1;
            }
        }
        (self.report)(finding, repaired);
    }

    async fn superblocks(&mut self) -> Result<(), ScrubError> {
        let superblock = self.filesystem.superblock;
        for block in Superblock::copy_blocks() {
            let copies = self.read_copies(block, 1).await?;
            let is_good = |bytes: &[u8]| Superblock::decode(bytes, block) == Ok(superblock);
            let good = all_good(&copies, is_good);
            self.advance(BLOCK_SIZE as u64);
            if good {
                continue;
            }
            let mut repaired = false;
            if !self.options.read_only
                && let Ok(mut buffer) = Buffer::zeroed(1)
            {
                superblock.encode(block, &mut buffer);
                let device = &self.filesystem.device;
                repaired =
                    device.write(block, buffer).await.1.is_ok() && device.flush().await.is_ok();
            }
            let finding = Finding::new(Part::Superblock, Problem::SuperblockCopy).at(block);
            self.found(&finding.by(Repair::Superblock), repaired);
        }
        Ok(())
    }

    /// Both copies of the key slots, where there is a key.
    async fn key_slots(&mut self) -> Result<(), ScrubError> {
        let filesystem = self.filesystem;
        if filesystem.superblock.suite.is_none() {
            return Ok(());
        }
        if filesystem.is_ending() {
            return Err(ScrubError::Ending);
        }
        let found = damaged_copies(&filesystem.device, &filesystem.superblock).await;
        let Some((slots, bad)) = found else {
            // Mounted is as good as it gets: what would open it next time is gone.
            let damaged = MountError::Damaged {
                structure: Structure::KeySlots,
                block: KEY_SLOT_BLOCKS[0],
            };
            self.found(
                &Finding::new(Part::KeySlots, Problem::Locked(damaged)),
                false,
            );
            return Ok(());
        };
        for block in bad.into_iter().flatten() {
            let mut repaired = false;
            if !self.options.read_only
                && let Some(buffer) = slots_block(&slots, block)
            {
                let device = &filesystem.device;
                repaired =
                    device.write(block, buffer).await.1.is_ok() && device.flush().await.is_ok();
            }
            let finding = Finding::new(Part::KeySlots, Problem::KeySlotsCopy).at(block);
            self.found(&finding.by(Repair::KeySlots), repaired);
        }
        Ok(())
    }

    /// Blocks of the slot at `own` that its checkpoint takes, as any copy says.
    async fn slot_len_blocks(&mut self, own: BlockIndex) -> Result<usize, ScrubError> {
        let superblock = self.filesystem.superblock;
        let copies = self.read_copies(own, 1).await?;
        let heads = copies.iter().flatten();
        let blocks = heads.map(|head| Checkpoint::len_blocks(&superblock, head.bytes()));
        Ok(blocks.max().unwrap_or(1))
    }

    /// The slot in force.
    async fn slot(&mut self) -> Result<(), ScrubError> {
        let superblock = self.filesystem.superblock;
        for _ in 0..TRIES_MAX {
            let sequence = self.filesystem.checkpoint_sequence.get();
            let own = superblock.slot_block(Checkpoint::slot(sequence));
            let blocks = self.slot_len_blocks(own).await?;
            let device_blocks = self.filesystem.device.geometry().block_count;
            let is_good = |bytes: &[u8]| {
                let vault = &self.filesystem.vault;
                let decoded = Checkpoint::decode(&superblock, vault, own, bytes, device_blocks);
                decoded.is_some_and(|found| found.sequence == sequence)
            };
            let copies = self.read_copies(own, blocks).await?;
            if all_good(&copies, is_good) {
                self.advance((blocks * BLOCK_SIZE) as u64);
                return Ok(());
            }
            // Two checkpoints later the slot is written again.
            if self.filesystem.checkpoint_sequence.get() == sequence {
                let address = own.0 * BLOCK_SIZE as u64;
                let mut repaired = self.mend(address, blocks * BLOCK_SIZE, is_good).await;
                if !repaired {
                    repaired = !self.options.read_only;
                    self.checkpoint_due |= repaired;
                }
                let problem = Problem::CheckpointNonsense;
                self.found(&Finding::new(Part::Checkpoint, problem).at(own), repaired);
                return Ok(());
            }
        }
        Ok(())
    }

    async fn table(&mut self) -> Result<(), ScrubError> {
        let superblock = self.filesystem.superblock;
        let count = self.filesystem.segments.borrow().count();
        for index in 0..table_blocks_for(count) {
            for _ in 0..TRIES_MAX {
                let home = |scrub: &Self| {
                    let segments = scrub.filesystem.segments.borrow();
                    segments.homes().get(index as usize).copied().unwrap_or(0)
                };
                let before = home(self);
                let block = superblock.table_block(index, before);
                let vault = &self.filesystem.vault;
                let is_good =
                    |bytes: &[u8]| is_table_block(&superblock, vault, index, before, bytes);
                let copies = self.read_copies(block, 1).await?;
                let good = all_good(&copies, is_good);
                if !good && home(self) != before {
                    continue;
                }
                self.advance(BLOCK_SIZE as u64);
                if !good {
                    let address = block.0 * BLOCK_SIZE as u64;
                    let mended = self.mend(address, BLOCK_SIZE, is_good).await;
                    let repaired = !self.options.read_only;
                    if repaired && !mended {
                        let mut segments = self.filesystem.segments.borrow_mut();
                        segments.mark_changed([index].into_iter());
                        self.checkpoint_due = true;
                    }
                    let first = index * crate::disk::superblock::TABLE_ENTRIES;
                    let last = first + crate::disk::superblock::TABLE_ENTRIES - 1;
                    let last = last.min(count - 1);
                    let problem = Problem::TableBlock { first, last };
                    let finding = Finding::new(Part::SegmentTable, problem).at(block);
                    self.found(&finding.by(Repair::TableBlock), repaired);
                }
                break;
            }
        }
        Ok(())
    }

    /// All nodes of a tree and all data that its items name, leaf by leaf.
    async fn tree(&mut self, kind: TreeKind) -> Result<(), ScrubError> {
        let mut key = Key::MIN;
        // The way to the leaf before: parents are not read again for each child.
        let mut verified = Vec::new();
        let mut tries = 0;
        loop {
            let Some(leaf) = self.leaf(kind, &key, &mut verified).await? else {
                return Ok(());
            };
            let mut again = false;
            for at in &leaf.pieces {
                again |= self.piece(kind, at).await?;
            }
            tries += 1;
            if again && tries < TRIES_MAX {
                continue;
            }
            tries = 0;
            let Some(next) = leaf.next else {
                return Ok(());
            };
            key = next;
        }
    }

    /// Verifies the nodes on the way to the leaf that `key` leads to. `None`: there is no tree.
    async fn leaf(
        &mut self,
        kind: TreeKind,
        key: &Key,
        verified: &mut Vec<Place>,
    ) -> Result<Option<Leaf>, ScrubError> {
        let mut held = Held::default();
        let mut mended = 0;
        loop {
            let (path, missing) = {
                let volume = self.filesystem.volume.borrow();
                FileSystem::<D>::tree_of(&volume, kind).descend(key)
            };
            let on_way = |place: &Place| {
                let mut places = path.iter().filter_map(|node| node.place);
                places.any(|on_way| on_way == *place) || missing == Some(*place)
            };
            verified.retain(on_way);
            let mut unverified = path.iter().filter_map(|node| node.place).chain(missing);
            if let Some(place) = unverified.find(|place| !verified.contains(place)) {
                let copies = self.read_copies(place.pointer.block, 1).await?;
                let vault = &self.filesystem.vault;
                let check = |buffer: &Buffer| {
                    let mut walk = Walk::new(kind, None, Rc::clone(vault));
                    walk.enter(&place, buffer.bytes()).map(|_| ())
                };
                // Of several copies the first that is damaged counts.
                let is_damaged = |copy: &&Option<Buffer>| {
                    copy.as_ref().is_none_or(|buffer| check(buffer).is_err())
                };
                let worst = copies.iter().find(is_damaged).or(copies.first());
                let buffer = worst.and_then(Option::as_ref);
                let checked = buffer.map(check);
                if let (Some(Ok(())), Some(buffer)) = (&checked, buffer) {
                    if missing == Some(place) {
                        let cache = Rc::clone(&self.filesystem.volume.borrow().cache);
                        let taken = cache.borrow_mut().insert(place.pointer, buffer.bytes());
                        if let Ok(handle) = taken {
                            held.hold(handle);
                        }
                    }
                    verified.push(place);
                    self.advance(BLOCK_SIZE as u64);
                    continue;
                }
                if !self.is_current(kind, &place, key) {
                    continue;
                }
                let defect = checked.and_then(Result::err).map(|damaged| damaged.defect);
                // A place that stays bad whatever is written there is given up.
                mended += 1;
                let repaired = mended <= TRIES_MAX && self.rewrite_node(kind, &place, key).await;
                self.found(&node_finding(kind, &place, defect), repaired);
                if repaired {
                    continue;
                }
                if missing == Some(place) {
                    return Ok(Some(Leaf {
                        pieces: Vec::new(),
                        next: place.range.high,
                    }));
                }
                // It is in memory as long as it is: on with what is below it.
                verified.push(place);
                continue;
            }
            let Some(last) = path.last() else {
                return Ok(None);
            };
            let items = items_of(&last.node).filter(|(at, _)| at >= key);
            let pieces = items
                .filter(|(at, _)| at.kind == ItemKind::Extent)
                .filter_map(|(at, item)| {
                    let piece = Piece::decode(item.value)?;
                    Some((at, item.birth, piece))
                });
            return Ok(Some(Leaf {
                pieces: pieces.collect(),
                next: last.range.high,
            }));
        }
    }

    /// Whether a place is still on the way to `key`.
    fn is_current(&self, kind: TreeKind, place: &Place, key: &Key) -> bool {
        let volume = self.filesystem.volume.borrow();
        let (path, missing) = FileSystem::<D>::tree_of(&volume, kind).descend(key);
        missing == Some(*place) || path.iter().any(|node| node.place == Some(*place))
    }

    /// Lets the next checkpoint write a node that is in memory to another place.
    async fn rewrite_node(&mut self, kind: TreeKind, place: &Place, key: &Key) -> bool {
        if self.options.read_only {
            return false;
        }
        let vault = Rc::clone(&self.filesystem.vault);
        let is_good = |bytes: &[u8]| {
            let mut walk = Walk::new(kind, None, Rc::clone(&vault));
            walk.enter(place, bytes).is_ok()
        };
        // What the node above says may be any number.
        let address = place.pointer.block.0.checked_mul(BLOCK_SIZE as u64);
        if let Some(address) = address
            && self.mend(address, BLOCK_SIZE, is_good).await
        {
            return true;
        }
        let volume = &mut *self.filesystem.volume.borrow_mut();
        let tree = match kind {
            TreeKind::Live => &mut volume.live,
            TreeKind::History => &mut volume.history,
        };
        let (path, _) = tree.descend(key);
        let node = path.iter().find(|node| node.place == Some(*place));
        let first = node.and_then(|node| node.node.key(0));
        let moved = first.is_some_and(|first| {
            let moved = tree.redirty(place.pointer.block, place.level, &first);
            moved.unwrap_or(false)
        });
        self.checkpoint_due |= moved;
        moved
    }

    /// Verifies a piece of data. True when it was moved meanwhile: then its new place is to be looked at.
    async fn piece(
        &mut self,
        kind: TreeKind,
        (key, birth, piece): &(Key, u64, Piece),
    ) -> Result<bool, ScrubError> {
        let range = StoredRange {
            address: piece.address,
            len_bytes: piece.stored_len,
        };
        let at = PieceAt {
            object: key.object,
            position: key.position,
            birth: *birth,
            piece: *piece,
        };
        if self.filesystem.is_ending() {
            return Err(ScrubError::Ending);
        }
        let share = u64::from(piece.stored_share());
        let filesystem = self.filesystem;
        let is_good =
            |stored: &[u8]| damaged_bytes(filesystem.vault.sealer(), &at, stored).is_empty();
        let mut stored = filesystem.read_stored_from(range, 0).await;
        self.rest(share).await;
        for copy in 1..filesystem.device.copies() {
            if stored.as_ref().is_ok_and(|stored| is_good(stored)) {
                stored = filesystem.read_stored_from(range, copy).await;
                self.rest(share).await;
            }
        }
        let bad = match &stored {
            Ok(stored) => damaged_bytes(self.filesystem.vault.sealer(), &at, stored),
            Err(_) => alloc::vec![at.position..at.end()],
        };
        if bad.is_empty() {
            self.advance(share);
            return Ok(false);
        }
        if !self.is_meant(kind, key, piece).await {
            return Ok(true);
        }
        self.advance(share);
        let block = BlockIndex(piece.address / BLOCK_SIZE as u64);
        let len = piece.stored_len as usize;
        let mut repaired = self.mend(piece.address, len, is_good).await;
        if !repaired && !self.options.read_only && filesystem.device.copies() > 1 {
            // Neither copy is whole, but what is damaged may be elsewhere in each.
            repaired = filesystem.mend_units(range, &at).await;
            for copy in 0..filesystem.device.copies() {
                let mended = filesystem.read_stored_copy(range, copy).await;
                repaired &= mended.is_ok_and(|stored| is_good(&stored));
            }
            repaired &= filesystem.device.flush().await.is_ok();
        }
        let owner = self.owner_of(kind, key.object).await?;
        for bytes in bad {
            let part = match kind {
                TreeKind::Live => Part::Data,
                TreeKind::History => Part::HistoryTree,
            };
            let mut finding = Finding::new(part, Problem::DataDamaged);
            finding.path.clone_from(&owner.path);
            self.found(&finding.of(owner.inode).at(block).bytes(bytes), repaired);
        }
        Ok(false)
    }

    /// Whether the tree still names this piece there.
    async fn is_meant(&self, kind: TreeKind, key: &Key, piece: &Piece) -> bool {
        let mut held = Held::default();
        loop {
            let (found, cache) = {
                let volume = self.filesystem.volume.borrow();
                let found = FileSystem::<D>::tree_of(&volume, kind).get(key);
                (found, Rc::clone(&volume.cache))
            };
            match found {
                Ok(item) => {
                    return item.is_some_and(|item| Piece::decode(&item.value) == Some(*piece));
                }
                Err(Fault::Node(pointer)) => {
                    let device = &self.filesystem.device;
                    let loaded = Volume::load_node(&cache, device, pointer, &mut held).await;
                    if loaded.is_err() {
                        return true;
                    }
                }
                Err(_) => return true,
            }
        }
    }

    /// Whose data an object holds. Beyond [`PATHS_MAX`] it is taken for an inode's own, and no path is looked for.
    async fn owner_of(&mut self, kind: TreeKind, object: u64) -> Result<Owner, ScrubError> {
        if let Some((in_kind, of, owner)) = &self.last_owner
            && (*in_kind, *of) == (kind, object)
        {
            return Ok(owner.clone());
        }
        let mut owner = Owner {
            inode: object,
            path: None,
        };
        if self.paths_left > 0 {
            self.paths_left -= 1;
            // A file that was emptied has what was written since under another number than its inode's.
            let inode_with = self.find(ItemKind::Inode, |at, value| {
                let number = at.object;
                let is_data_of = |inode: Inode| inode.data(InodeNumber(number)) == object;
                let was_data = kind == TreeKind::History && number == object;
                (was_data || Inode::decode(value).is_ok_and(is_data_of)).then_some(number)
            });
            if let Some(inode) = inode_with.await? {
                owner.inode = inode;
                owner.path = self.path_of(inode).await?;
            }
        }
        self.last_owner = Some((kind, object, owner.clone()));
        Ok(owner)
    }

    /// A path to an inode, found by going through all entries; `None` when there is none.
    async fn path_of(&self, inode: u64) -> Result<Option<Vec<u8>>, ScrubError> {
        let mut names: Vec<Vec<u8>> = Vec::new();
        let mut at = inode;
        while at != ROOT.0 && names.len() < DEPTH_MAX {
            let found = self.find(ItemKind::Entry, |entry, value| {
                let (name, child) = decode_entry(value).ok()?;
                (child.inode.0 == at).then(|| (entry.object, name.to_vec()))
            });
            let Some((directory, name)) = found.await? else {
                return Ok(None);
            };
            names.push(name);
            at = directory;
        }
        let parts = names.iter().rev().flat_map(|name| [&b"/"[..], name]);
        Ok(Some(parts.collect::<Vec<_>>().concat()))
    }

    /// What `wanted` makes of the first item of a kind that it takes, in the newest state.
    async fn find<T>(
        &self,
        kind: ItemKind,
        wanted: impl Fn(Key, &[u8]) -> Option<T>,
    ) -> Result<Option<T>, ScrubError> {
        let mut key = Key::MIN;
        let mut held = Held::default();
        loop {
            if self.filesystem.is_ending() {
                return Err(ScrubError::Ending);
            }
            let (path, missing, cache) = {
                let volume = self.filesystem.volume.borrow();
                let (path, missing) = volume.live.descend(&key);
                (path, missing, Rc::clone(&volume.cache))
            };
            let next = if let Some(place) = missing {
                let device = &self.filesystem.device;
                let loaded = Volume::load_node(&cache, device, place.pointer, &mut held).await;
                if loaded.is_ok() {
                    continue;
                }
                place.range.high
            } else {
                held.clear();
                let Some(leaf) = path.last() else {
                    return Ok(None);
                };
                let mut items = items_of(&leaf.node).filter(|(at, _)| at.kind == kind);
                if let Some(found) = items.find_map(|(at, item)| wanted(at, item.value)) {
                    return Ok(Some(found));
                }
                leaf.range.high
            };
            let Some(next) = next else {
                return Ok(None);
            };
            key = next;
            embassy_futures::yield_now().await;
        }
    }

    async fn objects(&mut self) -> Result<(), ScrubError> {
        let ids = {
            let objects = self.filesystem.objects.borrow();
            objects.keys().copied().collect::<Vec<_>>()
        };
        for id in ids {
            if let Some(outline) = self.filesystem.outline(id) {
                self.object(id, &outline).await?;
            }
        }
        Ok(())
    }

    /// Goes through the chunks of an object, in all copies at once.
    async fn object(&mut self, id: ObjectId, outline: &Outline) -> Result<(), ScrubError> {
        let device = &self.filesystem.device;
        let mut copies = (0..device.copies())
            .map(|copy| (OneCopy(device, copy), ObjectScan::new(outline.clone())))
            .collect::<Vec<_>>();
        let (mut at, mut bytes) = (0, Vec::new());
        loop {
            if self.filesystem.is_ending() {
                return Err(ScrubError::Ending);
            }
            let mut found = None;
            let mut all_good = true;
            for (copy, scan) in &mut copies {
                scan.go_to(at);
                bytes.clear();
                match scan.step(copy, &mut bytes).await {
                    Ok(step) => found = found.or(Some((step, scan.position()))),
                    Err(ObjectReadError::OutOfMemory) => return Err(ScrubError::OutOfMemory),
                    Err(_) => all_good = false,
                }
                let read = scan.take_read_bytes();
                if read > 0 {
                    self.rest(read).await;
                }
            }
            let next = match found {
                Some((ScanStep::End, _)) => return Ok(()),
                Some((_, next)) if all_good => next,
                // The object has gone, and what is here now is somebody else's.
                _ if !self.filesystem.objects.borrow().contains_key(&id) => return Ok(()),
                _ => {
                    let found = found.map(|(step, next)| match step {
                        ScanStep::Chunk(chunk) => (chunk.len, next),
                        ScanStep::NextSegment | ScanStep::End => (0, next),
                    });
                    let settled = outline.form().settle(at);
                    self.damaged_chunk(outline, settled, &mut copies, found)
                        .await?
                }
            };
            self.advance(next - at);
            at = next;
        }
    }

    /// Mends the chunk at `at` of an object, if it can be, and tells of it. `found`: its length, and where the next one begins, if one copy
    /// is right. Gives where to go on.
    async fn damaged_chunk(
        &mut self,
        outline: &Outline,
        at: u64,
        copies: &mut [(OneCopy<'_, D>, ObjectScan)],
        found: Option<(u32, u64)>,
    ) -> Result<u64, ScrubError> {
        let (form, device) = (outline.form(), &self.filesystem.device);
        let mut lens = Vec::new();
        for (copy, scan) in copies.iter_mut().filter(|_| found.is_none()) {
            scan.go_to(at);
            let said = scan.said_len(copy).await.ok().flatten();
            lens.extend(said.filter(|len| !lens.contains(len)));
        }
        lens.extend(found.map(|(len, _)| len));
        let mut mended = None;
        for len in lens {
            let stored_bytes = usize::try_from(form.stored_bytes(len)).unwrap_or(usize::MAX);
            let is_good =
                |stored: &[u8]| form.open(outline.id, at, stored, &mut Vec::new()).is_ok();
            let blocks = outline.blocks(device);
            if self.mend_on(&blocks, at, stored_bytes, is_good).await {
                mended = form.behind(at, len, outline.end());
                break;
            }
        }
        let mut next = mended.or(found.map(|(_, next)| next));
        if next.is_none() {
            for (copy, scan) in copies {
                let lost = scan.pass_damage(copy).await;
                let lost = lost.map_err(|_| ScrubError::OutOfMemory)?;
                next = Some(next.map_or(lost.end, |next| next.min(lost.end)));
            }
        }
        let next = next.unwrap_or(outline.end());
        let problem = Problem::ObjectDamaged { id: outline.id };
        let finding = Finding::new(Part::Objects, problem).at(outline.block(at));
        self.found(&finding.bytes(at..next), mended.is_some());
        Ok(next)
    }
}

/// Whether every copy could be read and is good.
fn all_good(copies: &[Option<Buffer>], is_good: impl Fn(&[u8]) -> bool) -> bool {
    let mut copies = copies.iter();
    copies.all(|copy| copy.as_ref().is_some_and(|buffer| is_good(buffer.bytes())))
}

/// Whose data are damaged.
#[derive(Clone)]
struct Owner {
    inode: u64,
    /// If one leads there, and was looked for.
    path: Option<Vec<u8>>,
}

/// What a leaf names.
struct Leaf {
    pieces: Vec<(Key, u64, Piece)>,
    /// Where the next leaf begins.
    next: Option<Key>,
}

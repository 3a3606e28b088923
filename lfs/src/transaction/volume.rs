//! The state of the file system in memory: the trees, the snapshots, and how commits change them.
//!
//! A commit is applied in one step, by the same code when it is made and when it is replayed: [`Volume::plan`]
//! works out every change of the trees and may meet a [`Fault`]; [`Volume::apply`] cannot fail.
//!
//! What a snapshot still sees is moved to the history tree when it is overwritten or removed; everything else is
//! gone at once. Each stored extent is accounted for in its segment by the pieces that name it, wherever
//! they are.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::cmp::Ordering;

use super::open::{InodeChange, KeptItem, Registry, SharedRegistry, change_of};
use super::{SnapshotId, SnapshotInfo};
use crate::checkpoint::Checkpoint;
use crate::disk::layout::VALUE_OBJECT;
use crate::disk::read_checked;
use crate::disk::superblock::Superblock;
use crate::extent::{COMPRESSION_PROPERTY, Compression, Piece};
use crate::log::{Change, ExtentRecord};
use crate::namespace::Inode;
use crate::seal::SharedVault;
use crate::space::{SegmentKind, Segments};
use crate::together::together;
use crate::tree::{
    Damaged, Held, Item, Key, Missing, MoreNodes, NodeCache, NodeHandle, Put, SharedCache, Touched,
    Tree, TreeKind,
};
use crate::{
    BlockDevice, BlockIndex, Buffer, CommitNumber, Description, Fault, FileError, ItemKey,
    ItemKind, NODE_CACHE_BYTES_MIN, NodePointer, Structure, describe_item,
};

/// Bytes of an extent item's value at most.
const PIECE_BYTES_MAX: usize = 32;

/// Blocks of nodes, and between them, that are read at once, at most: as many as the largest extent has.
const NODE_BLOCKS_PER_READ: u64 = 16;

pub(crate) struct Volume {
    pub superblock: Superblock,
    pub segments: Rc<RefCell<Segments>>,
    pub live: Tree,
    pub history: Tree,
    pub cache: SharedCache,
    /// Snapshots by the commit they show.
    pub snapshots: BTreeMap<CommitNumber, SnapshotInfo>,
    /// The number of the next object of the trees.
    pub next_object: Cell<u64>,
    /// Who else sees an older state than the newest.
    pub open: SharedRegistry,
    /// Seals and opens what is stored.
    pub vault: SharedVault,
}

/// What a commit does to the trees, and how much room that takes.
pub(crate) struct Plan {
    commit: u64,
    mutations: Vec<Mutation>,
    /// Pieces of data that new extents replace, with what they account for.
    freed: Vec<(u64, u32)>,
    /// Pieces that were cut into such small ones that these account for more.
    grown: Vec<(u64, u32)>,
    /// Objects and offsets where data are replaced that the cleaner has moved before.
    outlived: Vec<(u64, u64)>,
    next_object: u64,
}

enum Mutation {
    Live(Key, Option<Item>),
    History(Key, Item),
    /// The next extent written, whole, under this key.
    Extent(Key, ExtentRecord, u64),
}

impl Plan {
    /// Bytes of the disk that it frees at once; what a snapshot sees stays.
    pub(crate) fn freed_bytes(&self) -> u64 {
        self.freed.iter().map(|(_, bytes)| u64::from(*bytes)).sum()
    }
}

impl Volume {
    /// The volume as `checkpoint` has it.
    pub(crate) fn new(
        superblock: Superblock,
        vault: SharedVault,
        segments: Rc<RefCell<Segments>>,
        checkpoint: &Checkpoint,
    ) -> Result<Self, Damaged> {
        let cache = NodeCache::shared(Rc::clone(&vault), NODE_CACHE_BYTES_MIN);
        let tree = |kind, root| Tree::open(kind, root, Rc::clone(&cache));
        Ok(Self {
            live: tree(TreeKind::Live, checkpoint.live_root)?,
            history: tree(TreeKind::History, checkpoint.history_root)?,
            cache,
            superblock,
            segments,
            snapshots: BTreeMap::new(),
            next_object: Cell::new(checkpoint.next_inode),
            open: Rc::new(RefCell::new(Registry::new(Rc::default()))),
            vault,
        })
    }

    /// Which use this is of the segment that the byte at `address` is in.
    pub(crate) fn use_of(&self, address: u64) -> u32 {
        self.segments.borrow().use_of(&self.superblock, address)
    }

    /// Reads the list of snapshots from the tree.
    pub(crate) fn load_snapshots(&mut self) -> Result<(), FileError> {
        let mut found = BTreeMap::new();
        let (mut next, last) = kind_range(0, ItemKind::Snapshot);
        while let Some((key, item)) = self.live.first_from(&next)? {
            if key > last {
                break;
            }
            let info = decode_snapshot(key.position, item.birth, &item.value);
            let info = info.ok_or(damaged_item())?;
            found.insert(info.commit, info);
            next = after(&key);
        }
        self.snapshots = found;
        Ok(())
    }

    /// Reads from the tree how things are to be compressed.
    pub(crate) fn load_compression(&mut self) -> Result<(), FileError> {
        let item = self.live.get(&Key::live(COMPRESSION_PROPERTY))?;
        self.note_property(&COMPRESSION_PROPERTY, item.as_ref());
        Ok(())
    }

    /// The newest commit that a snapshot shows.
    fn newest_snapshot(&self) -> Option<u64> {
        let newest = self.snapshots.keys().next_back();
        newest.map(|commit| commit.0)
    }

    /// The newest commit that a snapshot or an open transaction shows.
    fn newest_shown(&self) -> Option<u64> {
        self.newest_snapshot().max(self.open.borrow().newest_pin())
    }

    /// Works out what `changes` of commit `commit` do. Nothing is changed.
    pub(crate) fn plan(&self, commit: u64, changes: &[Change]) -> Result<Plan, FileError> {
        let mut plan = Plan {
            commit,
            mutations: Vec::new(),
            freed: Vec::new(),
            grown: Vec::new(),
            outlived: Vec::new(),
            next_object: self.next_object.get(),
        };
        let mut ranges: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
        for change in changes {
            let object = match change {
                Change::Put(key, value) => {
                    self.plan_item(&mut plan, *key)?;
                    key.object.max(number_in(*key, value))
                }
                Change::Remove(key) => {
                    self.plan_item(&mut plan, *key)?;
                    key.object
                }
                Change::Write(extent, _) => {
                    let end = extent.offset + u64::from(extent.len);
                    let ranges = ranges.entry(extent.object).or_default();
                    ranges.push((extent.offset, end));
                    extent.object
                }
                Change::Free { object, from, to } => {
                    let ranges = ranges.entry(*object).or_default();
                    ranges.push((*from, to.unwrap_or(u64::MAX)));
                    *object
                }
            };
            if change.is_of_values() {
                continue;
            }
            if object >= VALUE_OBJECT {
                // Numbers have come to their end: the disk said that they begin there.
                return Err(FileError::NoSpace);
            }
            plan.next_object = plan.next_object.max(object + 1);
        }
        for (object, mut ranges) in ranges {
            ranges.sort_unstable();
            self.plan_free(&mut plan, object, &ranges)?;
        }
        for change in changes {
            match change {
                Change::Put(key, value) => {
                    let item = Item::new(commit, value);
                    plan.mutations
                        .push(Mutation::Live(Key::live(*key), Some(item)));
                }
                Change::Remove(key) => {
                    plan.mutations.push(Mutation::Live(Key::live(*key), None));
                }
                Change::Write(extent, address) => {
                    let key = extent_key(extent.object, extent.offset);
                    plan.mutations
                        .push(Mutation::Extent(key, *extent, *address));
                }
                Change::Free { .. } => {}
            }
        }
        Ok(plan)
    }

    /// Makes sure that all that a plan touches is in memory; gives by how many nodes become more when it is carried out.
    pub(crate) fn prepare(&mut self, plan: &Plan) -> Result<MoreNodes, Fault> {
        let [mut live, mut history] = [Touched::default(), Touched::default()];
        for mutation in &plan.mutations {
            let (tree, key, value_bytes, touched) = match mutation {
                Mutation::Live(key, item) => {
                    let bytes = item.as_ref().map(|item| (item.birth, item.value.len()));
                    (&mut self.live, key, bytes, &mut live)
                }
                Mutation::Extent(key, ..) => {
                    let bytes = Some((plan.commit, PIECE_BYTES_MAX));
                    (&mut self.live, key, bytes, &mut live)
                }
                Mutation::History(key, item) => {
                    let bytes = Some((item.birth, item.value.len()));
                    (&mut self.history, key, bytes, &mut history)
                }
            };
            let put = value_bytes.map(|(birth, value_bytes)| Put { birth, value_bytes });
            tree.prepare_counted(key, put, touched)?;
        }
        Ok(live.nodes() + history.nodes())
    }

    /// Nodes that are not in memory, of those that planning and preparing `changes` look at. What else they ask for shows when
    /// those are there.
    pub(crate) fn note_missing(&self, commit: u64, changes: &[Change], missing: &mut Missing) {
        let kept = self.newest_shown().is_some();
        for change in changes {
            if missing.is_full() {
                return;
            }
            let (first, last) = match change {
                Change::Put(key, _) | Change::Remove(key) => (*key, *key),
                Change::Write(extent, _) => {
                    let end = extent.offset + u64::from(extent.len);
                    let at = |offset| ItemKey::new(extent.object, ItemKind::Extent, offset);
                    (at(extent.offset), at(end))
                }
                Change::Free { object, from, to } => {
                    let at = |offset| ItemKey::new(*object, ItemKind::Extent, offset);
                    (at(*from), at(to.unwrap_or(u64::MAX)))
                }
            };
            let live = Key::live(first)..=Key::live(last);
            self.live.note_missing(&live, missing);
            if kept {
                let dead = Key::dead(first, commit)..=Key::dead(last, commit);
                self.history.note_missing(&dead, missing);
            }
        }
    }

    /// The same fault, and what else `changes` will ask for with it.
    pub(crate) fn with_others(&self, fault: Fault, commit: u64, changes: &[Change]) -> Fault {
        let Fault::Node(first) = fault else {
            return fault;
        };
        let mut missing = Missing::default();
        missing.note(first);
        self.note_missing(commit, changes, &mut missing);
        Fault::Nodes(missing.into_pointers())
    }

    /// Nodes that the next checkpoint has to write, at most.
    pub(crate) fn dirty_nodes(&self) -> usize {
        self.live.dirty_nodes() + self.history.dirty_nodes()
    }

    /// Whether all nodes of the newest checkpoint are clean, or changed again.
    pub(crate) fn is_settled(&self) -> bool {
        self.live.is_settled() && self.history.is_settled()
    }

    /// An item is about to be replaced or removed: snapshots may still see it.
    fn plan_item(&self, plan: &mut Plan, key: ItemKey) -> Result<(), FileError> {
        if let Some(newest) = self.newest_shown()
            && let Some(old) = self.live.get(&Key::live(key))?
            && old.birth <= newest
        {
            let dead = Key::dead(key, plan.commit);
            plan.mutations.push(Mutation::History(dead, old));
        }
        Ok(())
    }

    /// By how many bytes more items are kept after a change. An item that a snapshot or an open transaction sees stays beside the
    /// one that takes its place; but what an inode says does not count where something was taken away that it tells of. What the change
    /// touches is in memory.
    pub(crate) fn growth_bytes(&self, change: &Change) -> usize {
        let Change::Put(key, value) = change else {
            return 0;
        };
        let old = self.live.get(&Key::live(*key)).ok().flatten();
        let stays = |old: &Item| {
            self.newest_shown()
                .is_some_and(|newest| old.birth <= newest)
        };
        // An item without content is one more all the same.
        let whole = value.len().max(1);
        match (key.kind, old) {
            (ItemKind::Inode, Some(old)) if stays(&old) && !takes_away(&old.value, value) => whole,
            (ItemKind::Inode | ItemKind::Orphan | ItemKind::Extent | ItemKind::Property, _) => 0,
            (_, Some(old)) if !stays(&old) => value.len().saturating_sub(old.value.len()),
            _ => whole,
        }
    }

    /// The data of `object` in `ranges` (sorted, without overlap) is about to be replaced or removed. What lies between them is not looked at.
    fn plan_free(
        &self,
        plan: &mut Plan,
        object: u64,
        mut ranges: &[(u64, u64)],
    ) -> Result<(), FileError> {
        // No data are older than the first commit; and who sees values, the layer above says.
        let newest = self.newest_shown().filter(|_| object != VALUE_OBJECT);
        let newest = newest.unwrap_or(0);
        let behind = |ranges: &[(u64, u64)], end| ranges.partition_point(|range| range.1 <= end);
        let mut next = None;
        while let Some(&(from, _)) = ranges.first() {
            let found = match next.take() {
                Some(key) => self.piece_from(&key)?,
                None => self.first_piece_over(object, from)?,
            };
            let Some((key, item)) = found else {
                break;
            };
            let piece = Piece::decode(&item.value).ok_or(damaged_item())?;
            let start = key.position;
            let end = start.saturating_add(u64::from(piece.len));
            ranges = ranges.get(behind(ranges, start)..).unwrap_or_default();
            let within = ranges.partition_point(|range| range.0 < end);
            let within = ranges.get(..within).unwrap_or_default();
            if self.is_survivor(&piece) {
                let at = |range: &(u64, u64)| (object, start.max(range.0));
                plan.outlived.extend(within.iter().map(at));
            }
            cut(plan, &key, &item, &piece, (start, end), within, newest);
            ranges = ranges.get(behind(ranges, end)..).unwrap_or_default();
            let goes_on = ranges.first().is_some_and(|range| range.0 < end);
            next = goes_on.then(|| after(&key));
        }
        Ok(())
    }

    /// Whether the cleaner moved a piece where it is.
    fn is_survivor(&self, piece: &Piece) -> bool {
        let segments = self.segments.borrow();
        let segment = self.superblock.segment_of(piece.address);
        let segment = segment.and_then(|segment| segments.get(segment));
        segment.is_some_and(|segment| segment.kind == SegmentKind::Survivors)
    }

    /// The piece of `object` that holds the byte at `offset`, or else the first one behind it.
    pub(crate) fn first_piece_over(
        &self,
        object: u64,
        offset: u64,
    ) -> Result<Option<(Key, Item)>, FileError> {
        let key = extent_key(object, offset);
        if let Some((before, item)) = self.live.last_before(&key)?
            && before.object == object
            && before.kind == ItemKind::Extent
        {
            let piece = Piece::decode(&item.value).ok_or(damaged_item())?;
            if before.position.saturating_add(u64::from(piece.len)) > offset {
                return Ok(Some((before, item)));
            }
        }
        self.piece_from(&key)
    }

    /// The first piece of the same object at or after `key`.
    pub(crate) fn piece_from(&self, key: &Key) -> Result<Option<(Key, Item)>, FileError> {
        let found = self.live.first_from(key)?;
        Ok(found.filter(|(found, _)| found.object == key.object && found.kind == ItemKind::Extent))
    }

    /// Carries out a plan that was [`prepare`](Self::prepare)d in the same step. `addresses`: where the extents it writes are, in their order, if they were not
    /// known when it was made.
    pub(crate) fn apply(&mut self, plan: Plan, addresses: &[u64]) {
        let mut addresses = addresses.iter();
        let segments = Rc::clone(&self.segments);
        let mut segments = segments.borrow_mut();
        for (address, bytes) in &plan.grown {
            if let Some(segment) = self.superblock.segment_of(*address) {
                segments.add_live(segment, u64::from(*bytes));
            }
        }
        for (address, bytes) in &plan.freed {
            if let Some(segment) = self.superblock.segment_of(*address) {
                segments.remove_live(segment, u64::from(*bytes));
            }
        }
        for mutation in plan.mutations {
            match mutation {
                Mutation::Live(key, item) => {
                    match key.kind {
                        ItemKind::Snapshot => self.note_snapshot(&key, item.as_ref()),
                        ItemKind::Property => self.note_property(&key.item_key(), item.as_ref()),
                        _ => {}
                    }
                    let done = match item {
                        Some(item) => self.live.put(key, &item),
                        None => self.live.remove(&key),
                    };
                    debug_assert!(done.is_ok(), "prepared");
                }
                Mutation::History(key, item) => {
                    self.note_kept(key, &item);
                    let done = self.history.put(key, &item);
                    debug_assert!(done.is_ok(), "prepared");
                }
                Mutation::Extent(key, extent, address) => {
                    let address = addresses.next().copied().unwrap_or(address);
                    let end = extent.offset + u64::from(extent.len);
                    let at = plan
                        .outlived
                        .partition_point(|at| *at < (extent.object, extent.offset));
                    let outlived = plan.outlived.get(at);
                    let piece = Piece {
                        lasting: outlived.is_some_and(|at| *at < (extent.object, end)),
                        ..Piece::whole(&extent, address)
                    };
                    let item = Item::new(plan.commit, &piece.encode());
                    let done = self.live.put(key, &item);
                    debug_assert!(done.is_ok(), "prepared");
                    if let Some(segment) = self.superblock.segment_of(address) {
                        segments.add_live(segment, u64::from(extent.stored_len));
                    }
                }
            }
        }
        drop(segments);
        self.next_object.set(plan.next_object);
    }

    /// Notes for open transactions what the newest commit is about to change. What its [plan](Self::plan) touches is in
    /// memory. `tidying`: it only frees what nobody sees, or takes names from what lost its last one.
    pub(crate) fn note_changes(&self, commit: u64, changes: &[Change], tidying: bool) {
        let mut open = self.open.borrow_mut();
        if !open.is_watching() {
            return;
        }
        for change in changes {
            let (key, new) = match change {
                Change::Put(key, value) => (*key, Some(value.as_slice())),
                Change::Remove(key) => (*key, None),
                // Whoever changes data changes the inode, too.
                Change::Write(..) | Change::Free { .. } => continue,
            };
            let old = self.live.get(&Key::live(key));
            let old = old.as_ref().map(|old| old.as_ref().map(|old| &*old.value));
            let change = match old {
                // It came and went within the transaction.
                Ok(None) if new.is_none() => continue,
                Ok(old) if key.kind == ItemKind::Inode => match change_of(old, new) {
                    // A write can leave the inode as it was, when time stands still.
                    InodeChange::Hidden if !tidying => InodeChange::Seen,
                    change => change,
                },
                _ => InodeChange::Passage,
            };
            open.note(commit, key, change);
        }
    }

    /// Notes what moves to the history only because a transaction is open.
    fn note_kept(&self, key: Key, item: &Item) {
        if self
            .newest_snapshot()
            .is_some_and(|newest| item.birth <= newest)
        {
            return;
        }
        let mut open = self.open.borrow_mut();
        let kept = KeptItem {
            key,
            birth: item.birth,
            bytes: share_of(key.kind, &item.value),
        };
        match open.newest_pin_in(item.birth, key.version) {
            Some(pin) => open.kept.note(pin, kept),
            // It was ended since the plan was made.
            None => open.kept.note_loose(kept),
        }
    }

    /// Follows a change of the list of snapshots.
    fn note_snapshot(&mut self, key: &Key, item: Option<&Item>) {
        self.snapshots.retain(|_, info| info.id.0 != key.position);
        let info = item.and_then(|item| decode_snapshot(key.position, item.birth, &item.value));
        if let Some(info) = info {
            self.snapshots.insert(info.commit, info);
        }
    }

    /// Follows a change of a property. What it says nothing sensible of is as if it were not there.
    fn note_property(&self, key: &ItemKey, item: Option<&Item>) {
        if *key == COMPRESSION_PROPERTY {
            let setting = item.and_then(|item| Compression::decode(&item.value));
            self.vault.set_compression(setting.unwrap_or_default());
        }
    }

    /// Loads a node and keeps it in memory as long as `held` lives.
    pub(crate) async fn load_node(
        cache: &SharedCache,
        device: &impl BlockDevice,
        pointer: NodePointer,
        held: &mut Held,
    ) -> Result<(), FileError> {
        held.hold(Self::read_node(cache, device, pointer).await?);
        Ok(())
    }

    /// Loads nodes together, those in one request that are near each other: a checkpoint writes them in the order of their keys. Who holds the handles keeps them in memory.
    pub(crate) async fn load_nodes(
        cache: &SharedCache,
        device: &impl BlockDevice,
        pointers: &[NodePointer],
    ) -> Vec<Result<NodeHandle, FileError>> {
        let mut ordered = pointers.iter().copied().zip(0..).collect::<Vec<_>>();
        ordered.sort_unstable_by_key(|(pointer, _)| pointer.block);
        // What is between them may be what a disk cannot read: of a mirror it would count as damaged.
        let blocks_max = if device.copies() > 1 {
            1
        } else {
            NODE_BLOCKS_PER_READ
        };
        let mut rest = &ordered[..];
        let reads = core::iter::from_fn(|| {
            let (first, _) = rest.first()?;
            let is_near =
                |(pointer, _): &(NodePointer, usize)| pointer.block.0 - first.block.0 < blocks_max;
            let (near, others) = rest.split_at(rest.partition_point(is_near));
            rest = others;
            Some(Self::read_near(cache, device, near))
        });
        let read = together(reads).await;
        let mut found = read.into_iter().flatten().zip(&ordered).collect::<Vec<_>>();
        found.sort_unstable_by_key(|(_, (_, number))| *number);
        found.into_iter().map(|(node, _)| node).collect()
    }

    /// Reads nodes that are near each other, in the order of their blocks, in one request. What is not as it should be is read again by itself.
    async fn read_near(
        cache: &SharedCache,
        device: &impl BlockDevice,
        near: &[(NodePointer, usize)],
    ) -> Vec<Result<NodeHandle, FileError>> {
        let mut start = BlockIndex(0);
        let mut read = Buffer::default();
        if let [(first, _), .., (last, _)] = near
            && let Ok(blocks) = usize::try_from(last.block.0 - first.block.0 + 1)
            && let Ok(buffer) = Buffer::zeroed(blocks)
            && let (buffer, Ok(())) = device.read(first.block, buffer).await
        {
            (start, read) = (first.block, buffer);
        }
        let mut nodes = Vec::new();
        for (pointer, _) in near {
            let block = read.block(start, pointer.block);
            let inserted = block.map(|block| cache.borrow_mut().insert(*pointer, block));
            nodes.push(match inserted {
                Some(Ok(node)) => Ok(node),
                _ => Self::read_node(cache, device, *pointer).await,
            });
        }
        nodes
    }

    async fn read_node(
        cache: &SharedCache,
        device: &impl BlockDevice,
        pointer: NodePointer,
    ) -> Result<NodeHandle, FileError> {
        let buffer = Buffer::zeroed(1).map_err(|_| FileError::OutOfMemory)?;
        let insert = |bytes: &[u8]| cache.borrow_mut().insert(pointer, bytes);
        let (_, inserted) = read_checked(device, pointer.block, buffer, insert).await;
        inserted
            .map_err(FileError::Device)?
            .map_err(|damaged| FileError::Damaged {
                structure: Structure::Node,
                block: damaged.block,
            })
    }
}

/// Cuts `ranges` out of one piece.
fn cut(
    plan: &mut Plan,
    key: &Key,
    item: &Item,
    piece: &Piece,
    (start, end): (u64, u64),
    ranges: &[(u64, u64)],
    newest: u64,
) {
    let part = |from: u64, to: u64| {
        // Within the piece, which is at most an extent long.
        let len = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
        piece.part(len(from - start), len(to - from))
    };
    let mut kept_first = false;
    let mut at = start;
    let mut touched = false;
    // What all that is left of it accounts for.
    let mut left = 0;
    let keep = |plan: &mut Plan, from: u64, to: u64| {
        let kept = part(from, to);
        let item = Item::new(item.birth, &kept.encode());
        let key = extent_key(key.object, from);
        plan.mutations.push(Mutation::Live(key, Some(item)));
        kept.stored_share()
    };
    for &(from, to) in ranges {
        if from >= end {
            break;
        }
        let (from, to) = (from.max(at), to.min(end));
        if from >= to {
            continue;
        }
        touched = true;
        if from > at {
            kept_first |= at == start;
            left += keep(plan, at, from);
        }
        if item.birth <= newest {
            let gone = part(from, to);
            left += gone.stored_share();
            let dead = Key {
                position: from,
                version: plan.commit,
                ..*key
            };
            let item = Item::new(item.birth, &gone.encode());
            plan.mutations.push(Mutation::History(dead, item));
        }
        at = to;
    }
    if !touched {
        return;
    }
    if at < end {
        left += keep(plan, at, end);
        kept_first |= at == start;
    }
    let before = piece.stored_share();
    match left.cmp(&before) {
        Ordering::Less => plan.freed.push((piece.address, before - left)),
        Ordering::Equal => {}
        Ordering::Greater => plan.grown.push((piece.address, left - before)),
    }
    if !kept_first {
        plan.mutations.push(Mutation::Live(*key, None));
    }
}

/// Whether an inode tells of less than before: it was a removal, or a truncation.
fn takes_away(old: &[u8], new: &[u8]) -> bool {
    match (Inode::decode(old), Inode::decode(new)) {
        (Ok(old), Ok(new)) => new.tells_of_less_than(&old),
        _ => false,
    }
}

/// What an item of the history accounts for on the disk: data by their share, others by their length.
fn share_of(kind: ItemKind, value: &[u8]) -> u32 {
    match Piece::decode(value) {
        Some(piece) if kind == ItemKind::Extent => piece.stored_share(),
        _ => u32::try_from(value.len()).unwrap_or(u32::MAX),
    }
}

/// The key of the piece of `object` that begins at `offset`.
pub(crate) fn extent_key(object: u64, offset: u64) -> Key {
    Key::live(ItemKey::new(object, ItemKind::Extent, offset))
}

/// The first and the last key of a kind of an object.
pub(crate) fn kind_range(object: u64, kind: ItemKind) -> (Key, Key) {
    (
        Key::live(ItemKey::new(object, kind, 0)),
        Key::live(ItemKey::new(object, kind, u64::MAX)),
    )
}

/// The key that follows `key` in the live tree.
pub(crate) fn after(key: &Key) -> Key {
    Key {
        version: key.version + 1,
        ..*key
    }
}

/// The highest number of an object that an item is the first to name, so that nobody else gets it after a replay.
fn number_in(key: ItemKey, value: &[u8]) -> u64 {
    match key.kind {
        // Numbered like objects.
        ItemKind::Orphan | ItemKind::Snapshot => key.position,
        // Its data may be an object that holds nothing yet.
        ItemKind::Inode => match describe_item(key, value) {
            Ok(Some(Description::Inode { data_object, .. })) => data_object,
            _ => 0,
        },
        _ => 0,
    }
}

/// An item does not say what an item of its kind must say.
pub(crate) fn damaged_item() -> FileError {
    FileError::Damaged {
        structure: Structure::Item,
        block: BlockIndex(0),
    }
}

/// The value of a snapshot's item.
pub(crate) fn encode_snapshot(name: &str, created_ns: i64) -> Vec<u8> {
    let mut value = created_ns.to_le_bytes().to_vec();
    value.extend_from_slice(name.as_bytes());
    value
}

/// The snapshot in such a value.
pub(crate) fn decode_snapshot(id: u64, birth: u64, value: &[u8]) -> Option<SnapshotInfo> {
    let (created, name) = value.split_first_chunk::<8>()?;
    Some(SnapshotInfo {
        id: SnapshotId(id),
        name: String::from(core::str::from_utf8(name).ok()?),
        commit: CommitNumber(birth),
        created_ns: i64::from_le_bytes(*created),
    })
}

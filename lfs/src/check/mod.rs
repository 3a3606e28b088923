//! Checking a file system that is not mounted, and repairing what can be repaired safely.
//!
//! [`check`] only reads. It goes through superblock, slots, segment table, the log, both trees and all their items,
//! and compares what they say of each other: what is on the disk, and the state after the log is replayed in
//! memory. Whatever is on the disk, it ends, does not panic, and takes no more memory than a mount and
//! [`CheckOptions::table_bytes_max`]. What is damaged in one place does not keep it from checking the rest.
//!
//! - `report`: findings; `head`: the structures at the start of the device;
//! - `items`: what is told from an object's own items; `graph`: links, names and parents;
//! - this file: the way through the trees; `repair`.
//!
//! Each node is read once, unless there are more inodes than the tables hold: then the tree is read once
//! for each part of them. With [`CheckOptions::data`] each stored extent is read once for each piece that names it.
//!
//! Not here: whether what snapshots show hangs together as directories do; whether the content of files makes sense.

mod graph;
mod head;
mod items;
mod repair;
mod report;

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::ops::Range;

pub use repair::{RepairError, RepairOutcome, repair};
pub use report::{Finding, NodeDefect, Part, Problem, Repair, Severity, Summary};

use crate::checkpoint::Checkpoint;
use crate::extent::Piece;
use crate::namespace::decode_entry;
use crate::object::ObjectReader;
use crate::seal::Sealer;
use crate::segments::{SegmentKind, Segments};
use crate::superblock::{SegmentId, Superblock};
use crate::tree::{Defect, Held, Key, Place, Step, TreeKind, Walk, items_of};
use crate::volume::Volume;
use crate::{
    BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, CommitNumber, Fault, ItemKey, ItemKind,
    MountError, ROOT, Recovery, Structure,
};
use graph::Graph;
use head::Head;
pub(crate) use items::PieceAt;
use items::{Ground, Scan, Space};

/// Findings kept back until a path can be said with them.
const PENDING_MAX: usize = 4096;
/// Damaged ranges of objects that are told apart.
const DAMAGED_RANGES_MAX: usize = 1024;
/// Longest path that is said with a finding.
const PATH_BYTES_MAX: usize = 8192;

/// What to check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckOptions {
    /// Also read and verify all file data and objects.
    pub data: bool,
    /// Memory for the tables of inodes and names. 64 bytes suffice for a file, so the default holds a million files; with
    /// more, the tree is gone through more than once. Another quarter of it is for directories.
    pub table_bytes_max: usize,
}

impl Default for CheckOptions {
    fn default() -> Self {
        Self {
            data: false,
            table_bytes_max: 128 << 20,
        }
    }
}

/// What a check says on its way.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum CheckEvent<'e> {
    /// Something was found.
    Finding(&'e Finding),
    /// So far: bytes of `total` gone through, as far as that is known.
    Progress {
        /// Bytes gone through.
        done: u64,
        /// Of so many.
        total: u64,
    },
}

/// Where findings go.
pub(crate) struct Sink<'e> {
    events: &'e mut dyn FnMut(CheckEvent<'_>),
    pub(crate) summary: Summary,
    /// Findings that wait for their path.
    pending: Vec<Finding>,
    /// Objects of which something cannot be read, as ranges.
    damaged: Vec<(u64, u64)>,
    done: u64,
    total: u64,
}

impl<'e> Sink<'e> {
    fn new(events: &'e mut dyn FnMut(CheckEvent<'_>)) -> Self {
        Self {
            events,
            summary: Summary::default(),
            pending: Vec::new(),
            damaged: Vec::new(),
            done: 0,
            total: 0,
        }
    }

    fn report(&mut self, finding: Finding) {
        self.summary.count(&finding);
        if finding.inode.is_some() && self.pending.len() < PENDING_MAX {
            self.pending.push(finding);
        } else {
            (self.events)(CheckEvent::Finding(&finding));
        }
    }

    fn emit(&mut self, finding: &Finding) {
        (self.events)(CheckEvent::Finding(finding));
    }

    fn advance(&mut self, bytes: u64) {
        self.done += bytes;
        self.total = self.total.max(self.done);
        (self.events)(CheckEvent::Progress {
            done: self.done,
            total: self.total,
        });
    }

    /// What belongs to these objects cannot be read in part.
    fn note_damage(&mut self, first: u64, last: u64) {
        if self.damaged.len() >= DAMAGED_RANGES_MAX {
            self.damaged.clear();
            self.damaged.push((0, u64::MAX));
            return;
        }
        self.damaged.push((first, last));
    }

    /// Whether something of this object may be missing.
    fn is_damaged(&self, object: u64) -> bool {
        let within = |&(first, last): &(u64, u64)| (first..=last).contains(&object);
        self.damaged.iter().any(within)
    }

    /// Whether anything may be missing: names, among others.
    fn has_damage(&self) -> bool {
        !self.damaged.is_empty()
    }
}

/// Checks the file system on `device`, which must not be mounted for writing; nothing is written. What is found goes
/// to `events`, in no particular order.
pub async fn check<D: BlockDevice>(
    device: &D,
    options: CheckOptions,
    events: &mut dyn FnMut(CheckEvent<'_>),
) -> Summary {
    let mut sink = Sink::new(events);
    let found = check_all(device, options, &mut sink).await;
    for finding in core::mem::take(&mut sink.pending) {
        sink.emit(&finding);
    }
    drop(found);
    sink.summary
}

/// What a check knows in the end that a repair needs.
pub(crate) struct Found {
    pub superblock: Superblock,
    pub checkpoint: Checkpoint,
    pub table: Segments,
    pub damaged_table: Vec<u32>,
    /// What the segments were found to hold; `None` when not all could be counted.
    pub counted: Option<Vec<u64>>,
    /// Segments that nodes were found in.
    pub node_segments: Vec<SegmentId>,
}

async fn check_all<D: BlockDevice>(
    device: &D,
    options: CheckOptions,
    sink: &mut Sink<'_>,
) -> Option<Found> {
    let Head {
        superblock,
        checkpoint,
        segments,
        damaged_table,
    } = head::check(device, sink).await?;
    let (checkpoint, table) = (checkpoint?, segments?);
    let recovery = if damaged_table.is_empty() {
        replay(device, &superblock, &checkpoint, &table, sink).await
    } else {
        None
    };
    // Without a replay: the trees of the checkpoint, as they are on the disk.
    let bare;
    let (volume, last_commit) = match &recovery {
        Some(recovery) => {
            let last = recovery.last_commit().max(checkpoint.tree_commit);
            (recovery.volume(), last)
        }
        None => {
            bare = bare_volume(&superblock, &checkpoint, sink)?;
            // What the log has after it is not known.
            (&bare, CommitNumber(u64::MAX))
        }
    };
    let whole = recovery.is_some() && sink.summary.mounts;
    let mut checker = Checker {
        device,
        volume,
        table: damaged_table.is_empty().then_some(&table),
        space: Space::new(&superblock)?,
        node_segments: Vec::new(),
        data: options.data,
        last_commit,
        nodes_counted: true,
    };
    // Those that the log took since are not in the table on the disk.
    let replayed = volume.segments.borrow();
    if checker.table.is_some() && recovery.is_some() {
        checker.table = Some(&replayed);
    }
    sink.total = expected_bytes(&replayed, &table, options.data);
    checker.count_objects(&checkpoint);
    checker.trees(options, sink).await;
    if options.data {
        checker.objects(&superblock, &checkpoint, sink).await;
    }
    let counted = checker.nodes_counted.then_some(checker.space.0);
    let node_segments = checker.node_segments;
    if let Some(counted) = &counted
        && whole
    {
        compare_space(&superblock, &replayed, counted, sink);
    }
    sink.summary.live_bytes = replayed.live_bytes();
    drop(replayed);
    Some(Found {
        superblock,
        checkpoint,
        table,
        damaged_table,
        counted,
        node_segments,
    })
}

fn expected_bytes(replayed: &Segments, table: &Segments, data: bool) -> u64 {
    let nodes = |segments: &Segments| {
        let of_nodes = segments
            .iter()
            .filter(|(_, s)| s.kind == SegmentKind::Nodes);
        of_nodes.map(|(_, s)| u64::from(s.live_bytes)).sum::<u64>()
    };
    if data {
        replayed.live_bytes().max(table.live_bytes())
    } else {
        nodes(replayed).max(nodes(table))
    }
}

/// Replays the log in memory; says what is wrong with it. What there is when it ends early is the state as far as
/// it could be replayed.
async fn replay<'d, D: BlockDevice>(
    device: &'d D,
    superblock: &Superblock,
    checkpoint: &Checkpoint,
    table: &Segments,
    sink: &mut Sink<'_>,
) -> Option<Recovery<&'d D>> {
    let begun = Recovery::begin(device, *superblock, checkpoint.clone(), table.clone()).await;
    let mut recovery = match begun {
        Ok(recovery) => recovery,
        Err(error) => {
            let slot = superblock.slot_block(Checkpoint::slot(checkpoint.sequence));
            let problem = match error {
                MountError::Device(error) => Problem::Unreadable(error),
                MountError::OutOfMemory => Problem::OutOfMemory,
                // The walk through the trees says where.
                MountError::Damaged {
                    structure: Structure::Node | Structure::Item,
                    ..
                } => return None,
                _ => Problem::CheckpointNonsense,
            };
            sink.report(Finding::new(Part::Checkpoint, problem).at(slot));
            return None;
        }
    };
    let mut commits = 0;
    let ended = loop {
        match recovery.next_commit().await {
            Ok(Some(_)) => commits += 1,
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    let last = recovery.last_commit();
    if commits > 0 {
        sink.summary.replayed_commits = commits;
        sink.report(Finding::new(
            Part::Log,
            Problem::LogReplayed { commits, last },
        ));
    }
    match ended {
        Ok(()) => sink.summary.mounts = true,
        Err(MountError::Damaged { structure, block }) => {
            let problem = match structure {
                Structure::CommitGroup => Some(Problem::LogDamaged { last }),
                Structure::Checkpoint => Some(Problem::NewerCheckpointLost),
                // The walk through the trees says where.
                _ => None,
            };
            if let Some(problem) = problem {
                sink.report(Finding::new(Part::Log, problem).at(block));
            }
        }
        Err(MountError::Device(error)) => {
            sink.report(Finding::new(Part::Log, Problem::Unreadable(error)));
        }
        Err(_) => sink.report(Finding::new(Part::Log, Problem::OutOfMemory)),
    }
    Some(recovery)
}

/// The trees of the checkpoint without anything else.
fn bare_volume(
    superblock: &Superblock,
    checkpoint: &Checkpoint,
    sink: &mut Sink<'_>,
) -> Option<Volume> {
    let Some(segments) = Segments::new(superblock) else {
        sink.report(Finding::new(Part::SegmentTable, Problem::OutOfMemory));
        return None;
    };
    let segments = Rc::new(RefCell::new(segments));
    match Volume::new(*superblock, segments, checkpoint) {
        Ok(volume) => Some(volume),
        Err(damaged) => {
            let problem = Problem::Node {
                level: u8::MAX,
                reason: NodeDefect(damaged.defect),
                first: 0,
                last: u64::MAX,
            };
            sink.report(Finding::new(Part::LiveTree, problem).at(damaged.block));
            None
        }
    }
}

fn compare_space(
    superblock: &Superblock,
    replayed: &Segments,
    counted: &[u64],
    sink: &mut Sink<'_>,
) {
    for ((id, segment), &counted) in replayed.iter().zip(counted) {
        let recorded = u64::from(segment.live_bytes);
        if recorded != counted {
            let problem = Problem::LiveBytes {
                segment: id.0,
                recorded,
                counted,
            };
            let finding = Finding::new(Part::SegmentTable, problem)
                .at(superblock.segment_start(id))
                .by(Repair::LiveBytes);
            sink.report(finding);
        }
    }
}

/// A way through the trees.
struct Checker<'c, D: BlockDevice> {
    device: &'c D,
    volume: &'c Volume,
    table: Option<&'c Segments>,
    space: Space,
    node_segments: Vec<SegmentId>,
    data: bool,
    last_commit: CommitNumber,
    /// No node is missing, so that all that is in use was counted.
    nodes_counted: bool,
}

impl<'c, D: BlockDevice> Checker<'c, D> {
    fn ground(&self) -> Ground<'c> {
        Ground {
            superblock: self.volume.superblock,
            table: self.table,
            last_commit: self.last_commit.0,
            next_object: match self.last_commit.0 {
                // The log may have given out more.
                u64::MAX => u64::MAX,
                _ => self.volume.next_object,
            },
        }
    }

    fn count_objects(&mut self, checkpoint: &Checkpoint) {
        let superblock = &self.volume.superblock;
        let bytes = superblock.segment_bytes() as u64;
        for segment in checkpoint.objects.values().flat_map(|o| &o.segments) {
            let address = superblock.segment_start(*segment).0 * BLOCK_SIZE as u64;
            self.space.add(superblock, address, bytes);
        }
    }

    async fn trees(&mut self, options: CheckOptions, sink: &mut Sink<'_>) {
        let superblock = self.volume.superblock;
        for tree in [&self.volume.live, &self.volume.history] {
            for block in tree.freed_blocks() {
                let address = block.0 * BLOCK_SIZE as u64;
                self.space.add(&superblock, address, BLOCK_SIZE as u64);
            }
        }
        let mut graph = Graph::new(options.table_bytes_max);
        let mut first = true;
        let mut snapshots = Vec::new();
        loop {
            sink.summary.passes += 1;
            let ground = self.ground();
            let mut scan = Scan::new(&ground, first);
            self.live(&mut scan, &mut graph, first, sink).await;
            if first {
                snapshots = core::mem::take(&mut scan.snapshots);
                if !scan.has_root && !sink.is_damaged(ROOT.0) {
                    sink.report(Finding::new(Part::Files, Problem::NoRoot).of(ROOT.0));
                }
            }
            let more = graph.compare(sink);
            self.say_paths(&graph, sink).await;
            if !more {
                break;
            }
            graph.next_pass();
            first = false;
        }
        sink.summary.table_bytes_max = graph.bytes_peak;
        snapshots.sort_unstable();
        self.history(&snapshots, sink).await;
    }

    async fn live(
        &mut self,
        scan: &mut Scan<'_>,
        graph: &mut Graph,
        first: bool,
        sink: &mut Sink<'_>,
    ) {
        let mut walk = Walk::over(&self.volume.live);
        let mut pieces = Vec::new();
        while let Some(step) = walk.next_step() {
            let Some((block, node)) = self
                .enter(&mut walk, step, Part::LiveTree, first, sink)
                .await
            else {
                continue;
            };
            for item in items_of_either(&node) {
                if first {
                    sink.summary.items += 1;
                }
                let piece = scan.live(block, item, graph, sink);
                pieces.extend(piece.filter(|_| first));
            }
            self.pieces(&mut pieces, Part::Data, sink).await;
        }
        scan.finish(graph, sink);
    }

    async fn history(&mut self, snapshots: &[u64], sink: &mut Sink<'_>) {
        let mut walk = Walk::over(&self.volume.history);
        let mut pieces = Vec::new();
        let mut unused = 0;
        while let Some(step) = walk.next_step() {
            let Some((block, node)) = self
                .enter(&mut walk, step, Part::HistoryTree, true, sink)
                .await
            else {
                continue;
            };
            let ground = self.ground();
            for item in items_of_either(&node) {
                sink.summary.items += 1;
                let piece = items::history(&ground, snapshots, block, item, &mut unused, sink);
                pieces.extend(piece);
            }
            self.pieces(&mut pieces, Part::HistoryTree, sink).await;
        }
        if unused > 0 {
            let problem = Problem::HistoryUnused { count: unused };
            sink.report(Finding::new(Part::HistoryTree, problem));
        }
    }

    /// The node at this step, read if need be, and its block.
    async fn enter(
        &mut self,
        walk: &mut Walk,
        step: Step,
        part: Part,
        first: bool,
        sink: &mut Sink<'_>,
    ) -> Option<(Option<BlockIndex>, Entered)> {
        let place = match step {
            Step::Here(pointer, node) => {
                if first {
                    sink.summary.nodes += 1;
                    if let Some(pointer) = pointer {
                        self.count_node(pointer.block, part, sink);
                    }
                }
                return Some((pointer.map(|pointer| pointer.block), Entered::Memory(node)));
            }
            Step::Read(place) => place,
        };
        let block = place.pointer.block;
        let Ok(buffer) = Buffer::zeroed(1) else {
            self.node_damage(&place, part, Problem::OutOfMemory, sink);
            return None;
        };
        let (buffer, read) = self.device.read(block, buffer).await;
        sink.summary.nodes_read += 1;
        if let Err(error) = read {
            self.node_damage(&place, part, Problem::Unreadable(error), sink);
            return None;
        }
        match walk.enter(&place, buffer.bytes()) {
            Ok(visited) => {
                if first {
                    sink.summary.nodes += 1;
                    self.count_node(block, part, sink);
                }
                Some((Some(block), Entered::Disk(visited)))
            }
            Err(damaged) => {
                let (first, last) = objects_of(&place);
                let problem = Problem::Node {
                    level: place.level,
                    reason: NodeDefect(damaged.defect),
                    first,
                    last,
                };
                self.node_damage(&place, part, problem, sink);
                None
            }
        }
    }

    fn node_damage(&mut self, place: &Place, part: Part, problem: Problem, sink: &mut Sink<'_>) {
        self.nodes_counted = false;
        let (first, last) = objects_of(place);
        if part == Part::LiveTree {
            sink.note_damage(first, last);
        }
        let mut finding = Finding::new(part, problem).at(place.pointer.block);
        if first == last && first != 0 {
            finding = finding.of(first);
        }
        sink.report(finding);
    }

    fn count_node(&mut self, block: BlockIndex, part: Part, sink: &mut Sink<'_>) {
        let superblock = &self.volume.superblock;
        let address = block.0.saturating_mul(BLOCK_SIZE as u64);
        self.space.add(superblock, address, BLOCK_SIZE as u64);
        sink.advance(BLOCK_SIZE as u64);
        let Some(segment) = superblock.segment_of(address) else {
            let problem = Problem::NodeSegment { segment: u32::MAX };
            sink.report(Finding::new(part, problem).at(block));
            return;
        };
        if let Err(at) = self.node_segments.binary_search(&segment) {
            self.node_segments.insert(at, segment);
        }
        if !self.ground().is_of(segment, &[SegmentKind::Nodes]) {
            let segment = segment.0;
            let problem = Problem::NodeSegment { segment };
            sink.report(Finding::new(part, problem).at(block));
        }
    }

    /// Counts pieces of data, and verifies them if that is wanted.
    async fn pieces(&mut self, pieces: &mut Vec<PieceAt>, part: Part, sink: &mut Sink<'_>) {
        for at in pieces.drain(..) {
            sink.summary.extents += 1;
            let share = u64::from(at.piece.stored_share());
            self.space
                .add(&self.volume.superblock, at.piece.address, share);
            if !self.data {
                continue;
            }
            sink.advance(share);
            let block = BlockIndex(at.piece.address / BLOCK_SIZE as u64);
            let finding = |problem| Finding::new(part, problem).of(at.object).at(block);
            match read_piece(self.device, &at.piece).await {
                Err(problem) => {
                    let end = at.position + u64::from(at.piece.len);
                    sink.report(finding(problem).bytes(at.position..end));
                }
                Ok(stored) => {
                    for bytes in damaged_bytes(&self.volume.sealer, &at, &stored) {
                        sink.report(finding(Problem::DataDamaged).bytes(bytes));
                    }
                }
            }
        }
    }

    async fn objects(&self, superblock: &Superblock, checkpoint: &Checkpoint, sink: &mut Sink<'_>) {
        for (&id, info) in &checkpoint.objects {
            let mut reader = ObjectReader::new(*superblock, id, info.clone());
            let mut bytes = Vec::new();
            let mut at = 0;
            loop {
                bytes.clear();
                match reader.next_frame(self.device, &mut bytes).await {
                    Ok(true) => {
                        at += bytes.len() as u64;
                        sink.advance(bytes.len() as u64);
                    }
                    Ok(false) => break,
                    Err(_) => {
                        let problem = Problem::ObjectDamaged { id, at };
                        sink.report(Finding::new(Part::Objects, problem));
                        break;
                    }
                }
            }
        }
    }

    /// Says the findings that wait for a path, as far as this pass knows one.
    async fn say_paths(&self, graph: &Graph, sink: &mut Sink<'_>) {
        for mut finding in core::mem::take(&mut sink.pending) {
            if let Some(inode) = finding.inode {
                finding.path = self.path_of(inode.0, graph).await;
            }
            sink.emit(&finding);
        }
    }

    async fn path_of(&self, inode: u64, graph: &Graph) -> Option<Vec<u8>> {
        let mut names = Vec::new();
        let (mut at, mut bytes) = (inode, 0);
        while at != ROOT.0 {
            let (directory, position) = graph.name_of(at)?;
            let key = Key::live(ItemKey::new(directory, ItemKind::Entry, position));
            let value = self.get(&key).await?;
            let (name, _) = decode_entry(&value).ok()?;
            bytes += name.len() + 1;
            if bytes > PATH_BYTES_MAX {
                return None;
            }
            names.push(name.to_vec());
            at = directory;
        }
        if names.is_empty() {
            return Some(b"/".to_vec());
        }
        let parts = names.iter().rev().flat_map(|name| [&b"/"[..], name]);
        Some(parts.collect::<Vec<_>>().concat())
    }

    async fn get(&self, key: &Key) -> Option<Rc<[u8]>> {
        let mut held = Held::default();
        loop {
            match self.volume.live.get(key) {
                Ok(item) => return item.map(|item| item.value),
                Err(Fault::Node(pointer)) => {
                    let cache = &self.volume.cache;
                    let loaded = Volume::load_node(cache, self.device, pointer, &mut held).await;
                    loaded.ok()?;
                }
                Err(Fault::Data(_)) => return None,
            }
        }
    }
}

/// A node, from where it came.
enum Entered {
    Memory(Rc<crate::tree::Node>),
    Disk(crate::tree::Visited),
}

fn items_of_either(
    node: &Entered,
) -> alloc::boxed::Box<dyn Iterator<Item = (Key, crate::tree::ItemRef<'_>)> + '_> {
    match node {
        Entered::Memory(node) => alloc::boxed::Box::new(items_of(node)),
        Entered::Disk(visited) => alloc::boxed::Box::new(visited.items()),
    }
}

/// A damaged node, as a finding; without a defect it could not be read.
pub(crate) fn node_finding(kind: TreeKind, place: &Place, defect: Option<Defect>) -> Finding {
    let (first, last) = objects_of(place);
    let problem = match defect {
        Some(defect) => Problem::Node {
            level: place.level,
            reason: NodeDefect(defect),
            first,
            last,
        },
        None => Problem::Unreadable(crate::DeviceError::Io),
    };
    let part = match kind {
        TreeKind::Live => Part::LiveTree,
        TreeKind::History => Part::HistoryTree,
    };
    Finding::new(part, problem).at(place.pointer.block)
}

/// The first and last object that a node can hold something of.
fn objects_of(place: &Place) -> (u64, u64) {
    let last = place.range.high.map_or(u64::MAX, |high| {
        let begins = high.kind == ItemKind::Inode && high.position == 0 && high.version == 0;
        high.object.saturating_sub(u64::from(begins))
    });
    (place.range.low.object, last.max(place.range.low.object))
}

/// The stored extent that a piece is of.
async fn read_piece<D: BlockDevice>(device: &D, piece: &Piece) -> Result<Vec<u8>, Problem> {
    let block = BLOCK_SIZE as u64;
    let first = piece.address / block;
    let end = (piece.address + u64::from(piece.stored_len)).div_ceil(block);
    let blocks = usize::try_from(end - first).map_err(|_| Problem::OutOfMemory)?;
    let buffer = Buffer::zeroed(blocks).map_err(|_| Problem::OutOfMemory)?;
    let (buffer, read) = device.read(BlockIndex(first), buffer).await;
    read.map_err(Problem::Unreadable)?;
    let at = usize::try_from(piece.address - first * block).unwrap_or(usize::MAX);
    let stored = buffer.bytes().get(at..).unwrap_or_default();
    let stored = stored.get(..piece.stored_len as usize).unwrap_or_default();
    Ok(stored.to_vec())
}

/// The bytes of the file that are damaged, as ranges.
pub(crate) fn damaged_bytes(sealer: &Sealer, at: &PieceAt, stored: &[u8]) -> Vec<Range<u64>> {
    let PieceAt { piece, .. } = at;
    let identity = piece.identity(at.object, at.position, at.birth);
    let is_good = |from: u64, to: u64| piece.read(sealer, identity, stored, &(from..to)).is_ok();
    let len = u64::from(piece.len);
    if is_good(0, len) {
        return Vec::new();
    }
    let unit = crate::UNIT_BYTES as u64;
    let mut bad: Vec<Range<u64>> = Vec::new();
    let mut from = 0;
    while from < len {
        // Units begin with the stored extent, not with the piece.
        let skipped = u64::from(piece.skip) + from;
        let to = ((skipped / unit + 1) * unit - u64::from(piece.skip)).min(len);
        if !is_good(from, to) {
            let (start, end) = (at.position + from, at.position + to);
            match bad.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => bad.push(start..end),
            }
        }
        from = to;
    }
    bad
}

//! The way through both trees: every node once, what is in it handed on, and data verified where that is wanted.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::ops::Range;

use super::graph::Graph;
use super::items::{self, Ground, PieceAt, Scan, Space};
use super::report::{Finding, NodeDefect, Part, Problem};
use super::{CheckOptions, Sink};
use crate::checkpoint::Checkpoint;
use crate::disk::superblock::{SegmentId, Superblock};
use crate::extent::Piece;
use crate::namespace::decode_entry;
use crate::object::{ObjectScan, Outline, ScanStep};
use crate::seal::Sealer;
use crate::space::{SegmentKind, Segments};
use crate::transaction::Volume;
use crate::tree::{Defect, Held, Key, Place, Step, TreeKind, Walk, items_of};
use crate::{
    BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, CommitNumber, Fault, ItemKey, ItemKind, ObjectId,
    ObjectReadError, ROOT,
};

/// Longest path that is said with a finding.
const PATH_BYTES_MAX: usize = 8192;

/// A way through the trees.
pub(super) struct Checker<'c, D: BlockDevice> {
    pub device: &'c D,
    pub volume: &'c Volume,
    pub table: Option<&'c Segments>,
    pub space: Space,
    pub node_segments: Vec<SegmentId>,
    pub data: bool,
    pub last_commit: CommitNumber,
    /// No node is missing, so that all that is in use was counted.
    pub nodes_counted: bool,
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
                _ => self.volume.next_object.get(),
            },
        }
    }

    pub(super) fn count_objects(&mut self, checkpoint: &Checkpoint) {
        let superblock = &self.volume.superblock;
        let bytes = superblock.segment_bytes() as u64;
        for segment in checkpoint.objects.values().flat_map(|o| &o.segments) {
            let address = superblock.segment_start(*segment).0 * BLOCK_SIZE as u64;
            self.space.add(superblock, address, bytes);
        }
    }

    pub(super) async fn trees(&mut self, options: CheckOptions<'_>, sink: &mut Sink<'_>) {
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
                    sink.report(finding(problem).bytes(at.position..at.end()));
                }
                Ok(stored) => {
                    for bytes in damaged_bytes(self.volume.vault.sealer(), &at, &stored) {
                        sink.report(finding(Problem::DataDamaged).bytes(bytes));
                    }
                }
            }
        }
    }

    pub(super) async fn objects(
        &self,
        superblock: &Superblock,
        checkpoint: &Checkpoint,
        sink: &mut Sink<'_>,
    ) {
        for (&id, info) in &checkpoint.objects {
            let vault = Rc::clone(&self.volume.vault);
            let outline = Outline::new(*superblock, vault, id, info.clone());
            let mut scan = ObjectScan::new(outline);
            if self.object(id, &mut scan, sink).await.is_err() {
                sink.report(Finding::new(Part::Objects, Problem::OutOfMemory));
                return;
            }
        }
    }

    /// Goes through one object. It ends without memory alone.
    async fn object(
        &self,
        id: ObjectId,
        scan: &mut ObjectScan,
        sink: &mut Sink<'_>,
    ) -> Result<(), ObjectReadError> {
        let mut bytes = Vec::new();
        let mut done = 0;
        loop {
            bytes.clear();
            let step = scan.step(self.device, &mut bytes).await;
            match step {
                Ok(ScanStep::End) => break,
                Ok(ScanStep::Chunk(_) | ScanStep::NextSegment) => {}
                Err(ObjectReadError::OutOfMemory) => return Err(ObjectReadError::OutOfMemory),
                Err(_) => {
                    let block = scan.block();
                    let lost = scan.pass_damage(self.device).await?;
                    let finding = Finding::new(Part::Objects, Problem::ObjectDamaged { id });
                    sink.report(finding.at(block).bytes(lost));
                }
            }
            if scan.take_read_bytes() > 0 {
                sink.advance(scan.position() - core::mem::replace(&mut done, scan.position()));
            }
        }
        sink.advance(scan.position() - done);
        Ok(())
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
                Err(_) => return None,
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
            // Of a damaged item they may be beyond the greatest number.
            let [start, end] = [from, to].map(|bytes| at.position.saturating_add(bytes));
            match bad.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => bad.push(start..end),
            }
        }
        from = to;
    }
    bad
}

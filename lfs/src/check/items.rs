//! What the items say, one object after the other as the trees have them: everything that can be told
//! from an object's own items, and what the [graph](super::graph) of all objects needs to know.
//!
//! Bound: the names of one bucket, at most 4,096 of 255 bytes.

use alloc::vec::Vec;
use core::ops::Range;

use super::Sink;
use super::graph::{Class, Entity, Graph, Reference};
use super::report::{Finding, Part, Problem, Repair};
use crate::disk::layout::VALUE_OBJECT;
use crate::disk::superblock::{SegmentId, Superblock};
use crate::extent::{COMPRESSION_PROPERTY, Compression, Piece};
use crate::namespace::{
    AttributeValue, Inode, OrphanState, bucket_of, decode_attribute, decode_entry,
};
use crate::space::{SegmentKind, Segments};
use crate::transaction::{decode_snapshot, hash_name};
use crate::tree::{ItemRef, Key};
use crate::{BLOCK_SIZE, BlockIndex, FileKind, ItemKind};

/// What is known before the trees are gone through.
pub(super) struct Ground<'c> {
    pub superblock: Superblock,
    /// The table; without blocks that are damaged.
    pub table: Option<&'c Segments>,
    pub last_commit: u64,
    pub next_object: u64,
}

impl Ground<'_> {
    /// Whether all of these bytes are in one segment of one of these kinds; yes, when the table does not tell.
    fn lies_in(&self, address: u64, len: u64, kinds: &[SegmentKind]) -> bool {
        let Some(first) = self.superblock.segment_of(address) else {
            return false;
        };
        let last = address.saturating_add(len.saturating_sub(1));
        self.superblock.segment_of(last) == Some(first) && self.is_of(first, kinds)
    }

    pub(super) fn is_of(&self, segment: SegmentId, kinds: &[SegmentKind]) -> bool {
        self.table.is_none_or(|table| {
            let segment = table.get(segment);
            segment.is_some_and(|segment| kinds.contains(&segment.kind))
        })
    }
}

/// Bytes in use of each segment, as counted.
pub(super) struct Space(pub Vec<u64>);

impl Space {
    /// Nothing counted yet; `None` without memory.
    pub(super) fn new(segment_count: u32) -> Option<Self> {
        let mut counts = Vec::new();
        let count = segment_count as usize;
        counts.try_reserve_exact(count).ok()?;
        counts.resize(count, 0);
        Some(Self(counts))
    }

    pub(super) fn add(&mut self, superblock: &Superblock, address: u64, bytes: u64) {
        if let Some(segment) = superblock.segment_of(address)
            && let Some(count) = self.0.get_mut(segment.0 as usize)
        {
            *count = count.saturating_add(bytes);
        }
    }
}

/// What a piece of data is, for those who read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PieceAt {
    pub object: u64,
    pub position: u64,
    pub birth: u64,
    pub piece: Piece,
}

impl PieceAt {
    /// Where its data end in the file.
    pub(crate) fn end(&self) -> u64 {
        self.position.saturating_add(u64::from(self.piece.len))
    }
}

/// The object whose items come at the moment.
#[derive(Default)]
struct Current {
    object: u64,
    inode: Option<Inode>,
    entries: u64,
    subdirectories: u64,
    attribute_bytes: u64,
    inline_bytes: Option<u64>,
    data_end: u64,
    /// The room that extents take.
    room: u64,
    has_extents: bool,
    has_names: bool,
    bucket: u64,
    bucket_names: Vec<Vec<u8>>,
}

/// Goes through the items of the live tree.
pub(super) struct Scan<'s> {
    ground: &'s Ground<'s>,
    current: Current,
    /// In the first pass everything is reported and counted, in later ones only the graph is fed.
    first: bool,
    /// The snapshots' commits.
    pub snapshots: Vec<u64>,
    pub has_root: bool,
}

impl<'s> Scan<'s> {
    pub(super) fn new(ground: &'s Ground<'s>, first: bool) -> Self {
        Self {
            ground,
            current: Current::default(),
            first,
            snapshots: Vec::new(),
            has_root: false,
        }
    }

    fn report(&self, sink: &mut Sink<'_>, finding: Finding) {
        if self.first {
            sink.report(finding);
        }
    }

    /// Takes the next item; gives the piece of data it names, if it does.
    pub(super) fn live(
        &mut self,
        block: Option<BlockIndex>,
        (key, item): (Key, ItemRef<'_>),
        graph: &mut Graph,
        sink: &mut Sink<'_>,
    ) -> Option<PieceAt> {
        if key.object != self.current.object {
            self.finish(graph, sink);
            self.current = Current {
                object: key.object,
                ..Current::default()
            };
            if key.object >= self.ground.next_object && key.object != VALUE_OBJECT {
                let problem = Problem::ItemMisplaced(key.kind);
                self.report(sink, Finding::new(Part::Files, problem).of(key.object));
            }
        }
        let place = |problem| {
            let mut finding = Finding::new(Part::Files, problem);
            finding.block = block;
            if key.object == 0 {
                finding
            } else {
                finding.of(key.object)
            }
        };
        if item.birth > self.ground.last_commit {
            let birth = item.birth;
            self.report(sink, place(Problem::ItemFromFuture { birth }));
        }
        let of_the_whole = matches!(
            key.kind,
            ItemKind::Orphan | ItemKind::Snapshot | ItemKind::Property
        );
        let single = matches!(key.kind, ItemKind::Inode | ItemKind::Inline);
        if of_the_whole != (key.object == 0) || (single && key.position != 0) || key.version != 0 {
            self.report(sink, place(Problem::ItemMisplaced(key.kind)));
            return None;
        }
        let numbered = matches!(key.kind, ItemKind::Orphan | ItemKind::Snapshot);
        if numbered && key.position >= self.ground.next_object {
            // The number would be given out again.
            self.report(sink, place(Problem::ItemMisplaced(key.kind)));
        }
        let malformed = |scan: &Self, sink: &mut Sink<'_>| {
            scan.report(sink, place(Problem::ItemMalformed(key.kind)));
        };
        match key.kind {
            ItemKind::Inode => match Inode::decode(item.value) {
                Ok(inode) => self.current.inode = Some(inode),
                Err(_) => malformed(self, sink),
            },
            ItemKind::Inline => self.current.inline_bytes = Some(item.value.len() as u64),
            ItemKind::Entry => self.entry(&key, item, &place, graph, sink),
            ItemKind::Attribute => self.attribute(&key, item, &place, graph, sink),
            ItemKind::Extent => return self.extent(&key, item, &place, sink),
            ItemKind::Orphan => match OrphanState::decode(item.value) {
                Ok(state) => {
                    let (target, class) = match state {
                        OrphanState::Nameless | OrphanState::Tree => {
                            (key.position, Class::Nameless)
                        }
                        OrphanState::Cuts => (key.position, Class::Cuts),
                        OrphanState::Data { object, .. } => (object, Class::Data),
                    };
                    graph.refer(Reference {
                        target,
                        from: 0,
                        position: key.position,
                        class,
                    });
                }
                Err(_) => malformed(self, sink),
            },
            ItemKind::Snapshot => match decode_snapshot(key.position, item.birth, item.value) {
                Some(info) => {
                    if self.first {
                        sink.summary.snapshots += 1;
                    }
                    if self.snapshots.try_reserve(1).is_ok() {
                        self.snapshots.push(info.commit.0);
                    }
                }
                None => malformed(self, sink),
            },
            ItemKind::Property => {
                if !is_property(key.position, item.value) {
                    malformed(self, sink);
                }
            }
        }
        None
    }

    fn entry(
        &mut self,
        key: &Key,
        item: ItemRef<'_>,
        place: &impl Fn(Problem) -> Finding,
        graph: &mut Graph,
        sink: &mut Sink<'_>,
    ) {
        self.current.entries += 1;
        self.current.has_names = true;
        let Ok((name, named)) = decode_entry(item.value) else {
            self.report(sink, place(Problem::ItemMalformed(key.kind)));
            return;
        };
        self.check_name(key, name, place, sink);
        self.current.subdirectories += u64::from(named.kind == FileKind::Directory);
        graph.refer(Reference {
            target: named.inode.0,
            from: key.object,
            position: key.position,
            class: Class::Name(named.kind as u8),
        });
    }

    fn attribute(
        &mut self,
        key: &Key,
        item: ItemRef<'_>,
        place: &impl Fn(Problem) -> Finding,
        graph: &mut Graph,
        sink: &mut Sink<'_>,
    ) {
        let Ok((name, value)) = decode_attribute(item.value) else {
            self.report(sink, place(Problem::ItemMalformed(key.kind)));
            return;
        };
        self.check_name(key, name, place, sink);
        self.current.attribute_bytes += name.len() as u64 + 1;
        self.current.has_names = true;
        if let AttributeValue::Stored { object, .. } = value {
            graph.refer(Reference {
                target: object,
                from: key.object,
                position: key.position,
                class: Class::Data,
            });
        }
    }

    /// A name must be in its bucket, once.
    fn check_name(
        &mut self,
        key: &Key,
        name: &[u8],
        place: &impl Fn(Problem) -> Finding,
        sink: &mut Sink<'_>,
    ) {
        let (bucket, first, last) = bucket_of(hash_name(&self.ground.superblock.id, name));
        if !(first..=last).contains(&key.position) {
            self.report(sink, place(Problem::NameMisplaced));
            return;
        }
        // Entries and attributes may have the same bucket; kinds follow each other.
        let tag = bucket ^ (u64::from(key.kind as u8) << 60);
        if self.current.bucket != tag {
            self.current.bucket = tag;
            self.current.bucket_names.clear();
        }
        if self.current.bucket_names.iter().any(|known| known == name) {
            self.report(sink, place(Problem::NameTwice));
        } else if self.current.bucket_names.try_reserve(1).is_ok() {
            self.current.bucket_names.push(name.to_vec());
        }
    }

    fn extent(
        &mut self,
        key: &Key,
        item: ItemRef<'_>,
        place: &impl Fn(Problem) -> Finding,
        sink: &mut Sink<'_>,
    ) -> Option<PieceAt> {
        let start = key.position;
        let piece = Piece::decode(item.value).filter(|piece| {
            piece.shape().is_some()
                && start.is_multiple_of(BLOCK_SIZE as u64)
                && start.checked_add(u64::from(piece.len)).is_some()
        });
        let Some(piece) = piece else {
            self.report(sink, place(Problem::ItemMalformed(key.kind)));
            return None;
        };
        let end = start + u64::from(piece.len);
        if start < self.current.data_end {
            self.report(sink, place(Problem::ExtentsOverlap).bytes(start..end));
        }
        self.current.has_extents = true;
        self.current.data_end = self.current.data_end.max(end);
        let blocks = u64::from(piece.len).div_ceil(BLOCK_SIZE as u64);
        self.current.room += blocks * BLOCK_SIZE as u64;
        let kinds = [SegmentKind::Log, SegmentKind::Survivors];
        if !self
            .ground
            .lies_in(piece.address, piece.stored_len.into(), &kinds)
        {
            self.report(sink, place(Problem::ExtentSegment).bytes(start..end));
            return None;
        }
        Some(PieceAt {
            object: key.object,
            position: start,
            birth: item.birth,
            piece,
        })
    }

    /// The object at hand is through.
    pub(super) fn finish(&mut self, graph: &mut Graph, sink: &mut Sink<'_>) {
        let current = core::mem::take(&mut self.current);
        let object = current.object;
        let has_data = current.has_extents || current.inline_bytes.is_some();
        let room = current.room + current.inline_bytes.unwrap_or(0);
        // What belongs to the whole, and what the layer above keeps.
        if object == 0 || object == VALUE_OBJECT {
            return;
        }
        let finding = |problem| Finding::new(Part::Files, problem).of(object);
        if current.has_extents && current.inline_bytes.is_some() {
            self.report(sink, finding(Problem::DataBeyondEnd));
        }
        let Some(inode) = current.inode else {
            if current.has_names && !sink.is_damaged(object) {
                self.report(sink, finding(Problem::NoInode));
            }
            if has_data {
                graph.add(Entity::data_only(object, room));
            }
            return;
        };
        if self.first {
            sink.summary.inodes += 1;
            sink.summary.directories += u64::from(inode.is_directory());
        }
        self.has_root |= object == crate::ROOT.0 && inode.is_directory();
        if inode.data_object != 0 {
            graph.refer(Reference {
                target: inode.data_object,
                from: object,
                position: inode.allocated,
                class: Class::Content,
            });
        } else if has_data {
            let end = current.data_end.max(current.inline_bytes.unwrap_or(0));
            let may = matches!(inode.kind, FileKind::File | FileKind::Symlink);
            if !may || end > inode.data_size() {
                self.report(sink, finding(Problem::DataBeyondEnd));
            }
        }
        graph.add(Entity {
            number: object,
            parent: inode.parent,
            links: inode.links,
            kind: inode.kind as u8,
            has_data,
            own_data: inode.data_object == 0,
            has_cuts: !inode.cuts.is_empty(),
            room,
        });
        if sink.is_damaged(object) {
            return;
        }
        if u64::from(inode.attribute_names_bytes) != current.attribute_bytes {
            let problem = Problem::AttributeNames {
                recorded: inode.attribute_names_bytes,
                counted: current.attribute_bytes,
            };
            self.report(sink, finding(problem).by(Repair::AttributeNames));
        }
        if inode.data_object == 0 && inode.allocated != room {
            let problem = Problem::Allocated {
                recorded: inode.allocated,
                counted: room,
            };
            self.report(sink, finding(problem).by(Repair::Allocated));
        }
        if !inode.is_directory() {
            if current.entries > 0 {
                let problem = Problem::ItemMisplaced(ItemKind::Entry);
                self.report(sink, finding(problem));
            }
            return;
        }
        if inode.size != current.entries {
            let problem = Problem::Entries {
                recorded: inode.size,
                counted: current.entries,
            };
            self.report(sink, finding(problem).by(Repair::Entries));
        }
        // A removed directory counts no links any more.
        if inode.links != 0 && u64::from(inode.links) != 2 + current.subdirectories {
            let problem = Problem::Links {
                recorded: inode.links,
                counted: 2 + current.subdirectories,
            };
            self.report(sink, finding(problem).by(Repair::Links));
        }
    }
}

/// Takes an item of the history tree; gives the piece of data it names, if it does.
pub(super) fn history(
    ground: &Ground<'_>,
    snapshots: &[u64],
    block: Option<BlockIndex>,
    (key, item): (Key, ItemRef<'_>),
    unused: &mut u64,
    sink: &mut Sink<'_>,
) -> Option<PieceAt> {
    let place = |problem| {
        let mut finding = Finding::new(Part::HistoryTree, problem);
        finding.block = block;
        finding.of(key.object)
    };
    let lifetime: Range<u64> = item.birth..key.version;
    if lifetime.is_empty() || key.version > ground.last_commit {
        let birth = item.birth.max(key.version);
        sink.report(place(Problem::ItemFromFuture { birth }));
    }
    // Sorted.
    let next = snapshots.partition_point(|&commit| commit < lifetime.start);
    if snapshots
        .get(next)
        .is_none_or(|&commit| commit >= lifetime.end)
    {
        *unused += 1;
    }
    let fine = match key.kind {
        ItemKind::Inode => Inode::decode(item.value).is_ok(),
        ItemKind::Entry => decode_entry(item.value).is_ok(),
        ItemKind::Attribute => decode_attribute(item.value).is_ok(),
        ItemKind::Orphan => OrphanState::decode(item.value).is_ok(),
        ItemKind::Snapshot => decode_snapshot(key.position, item.birth, item.value).is_some(),
        ItemKind::Inline => true,
        ItemKind::Property => is_property(key.position, item.value),
        ItemKind::Extent => {
            let piece = Piece::decode(item.value).filter(|piece| piece.shape().is_some());
            let Some(piece) = piece else {
                sink.report(place(Problem::ItemMalformed(key.kind)));
                return None;
            };
            let kinds = [SegmentKind::Log, SegmentKind::Survivors];
            if !ground.lies_in(piece.address, piece.stored_len.into(), &kinds) {
                let end = key.position.saturating_add(piece.len.into());
                sink.report(place(Problem::ExtentSegment).bytes(key.position..end));
                return None;
            }
            return Some(PieceAt {
                object: key.object,
                position: key.position,
                birth: item.birth,
                piece,
            });
        }
    };
    if !fine {
        sink.report(place(Problem::ItemMalformed(key.kind)));
    }
    None
}

/// Whether a property says something that a property of that number can say.
fn is_property(position: u64, value: &[u8]) -> bool {
    position == COMPRESSION_PROPERTY.position && Compression::decode(value).is_some()
}

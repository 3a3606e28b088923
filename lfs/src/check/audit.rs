//! Recounts a mounted file system: does what is counted, summed up and remembered agree with what the trees say?
//!
//! For tests. It needs no reading of data, holds every node in memory at once, and sees one state: the trees
//! with all commits taken so far, and the segment table as it is in memory.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::hash::{BuildHasher, Hash, Hasher};

use foldhash::fast::{FixedState, FoldHasher};

use crate::checkpoint::Turn;
use crate::extent::Piece;
use crate::space::SegmentKind;
use crate::transaction::Loaded;
use crate::tree::{ItemRef, Key, Tree};
use crate::{BLOCK_SIZE, BlockDevice, Fault, FileError, FileSystem, ItemKey, ItemKind};

const BLOCK: u64 = BLOCK_SIZE as u64;

/// Two things that cannot both be true.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Contradiction {
    /// The trees account for another number of bytes in a segment than the table says.
    LiveBytes {
        /// The segment.
        segment: u32,
        /// What the trees and objects account for.
        counted: u64,
        /// What the table says.
        recorded: u64,
    },
    /// A sum over all segments is not what was summed up on the way.
    Sum {
        /// Of what.
        what: &'static str,
        /// What it is.
        counted: u64,
        /// What was summed up.
        recorded: u64,
    },
    /// Something that is meant lies outside the segments, or in one that is free or of another kind.
    Misplaced {
        /// Its first byte.
        address: u64,
    },
    /// Two different things lie in the same bytes, or two pieces name the same bytes of an extent.
    Shared {
        /// The first byte of one.
        first: u64,
        /// The first byte of the other.
        second: u64,
    },
    /// Two pieces of a file, as one state has it, overlap.
    Overlapping {
        /// The file's object.
        object: u64,
        /// Where the second one begins.
        offset: u64,
    },
    /// An item cannot be what it is, or was born after its death or in the future.
    Impossible(ItemKey),
}

/// What an audit found.
#[derive(Debug, Clone, Default)]
pub struct Audit {
    /// What cannot be.
    pub contradictions: Vec<Contradiction>,
    /// Items of history that no snapshot and no open transaction sees.
    pub unseen: Vec<ItemKey>,
    /// All items of the newest state but pieces of data.
    pub items: Vec<(ItemKey, Vec<u8>)>,
    /// Objects of the newest state that have data, and the room that they take: see
    /// [`Stat::allocated_bytes`](crate::Stat::allocated_bytes).
    pub data: BTreeMap<u64, u64>,
    /// Where stored extents are, the first byte of each and how many: with `fingerprint` and what is there, all that
    /// anything shows.
    pub extents: Vec<(u64, u64)>,
    /// A hash of all items, those of history too.
    pub fingerprint: u64,
}

impl<D: BlockDevice> FileSystem<D> {
    /// Recounts everything, between two checkpoints.
    ///
    /// # Errors
    /// What could not be read.
    pub async fn audit(&self) -> Result<Audit, FileError> {
        let _turn = Turn::take(self).await;
        let mut loaded = Loaded::default();
        loop {
            match self.try_audit() {
                Ok(found) => return Ok(found),
                Err(fault) => self.load(fault, &mut loaded).await?,
            }
        }
    }

    fn try_audit(&self) -> Result<Audit, Fault> {
        let volume = self.volume.borrow();
        let mut count = Count::default();
        for tree in [&volume.live, &volume.history] {
            count.nodes(tree)?;
        }
        let newest = self.appended().0;
        let snapshots = volume.snapshots.keys().map(|commit| commit.0);
        let open = volume.open.borrow();
        let snapshots = snapshots.chain(open.pins()).collect::<Vec<_>>();
        visit(&volume.live, |key, item| {
            count.hash_item(key, item);
            count.live(key, item);
            if key.version != 0 || item.birth > newest {
                count.impossible(key);
            }
        })?;
        visit(&volume.history, |key, item| {
            count.hash_item(key, item);
            count.history(key, item);
            if item.birth >= key.version || key.version > newest {
                count.impossible(key);
            }
            if !snapshots
                .iter()
                .any(|at| (item.birth..key.version).contains(at))
            {
                count.found.unseen.push(key.item_key());
            }
        })?;
        count.overlaps(&snapshots);
        self.compare(&mut count);
        let extents = count.stored.iter().filter(|(_, stored)| !stored.is_node);
        count.found.extents = extents
            .map(|(&at, stored)| (at, stored.len_bytes))
            .collect();
        count.found.fingerprint = count.hash.finish();
        Ok(count.found)
    }

    /// Compares what was counted with the segment table.
    fn compare(&self, count: &mut Count) {
        let mut counted = BTreeMap::new();
        let mut end: Option<(u64, u64)> = None;
        let segments = self.segments.borrow();
        let mut found = core::mem::take(&mut count.found.contradictions);
        for (&address, stored) in &count.stored {
            if let Some((before, end)) = end
                && address < end
            {
                found.push(Contradiction::Shared {
                    first: before,
                    second: address,
                });
            }
            end = Some((address, address + stored.len_bytes));
            let segment = self.superblock.segment_of(address);
            let last = address + stored.len_bytes.saturating_sub(1);
            let holder = segment.filter(|_| self.superblock.segment_of(last) == segment);
            let kind = holder.and_then(|id| segments.get(id)).map(|s| s.kind);
            let fits = match kind {
                Some(SegmentKind::Nodes) => stored.is_node,
                Some(SegmentKind::Log | SegmentKind::Survivors) => !stored.is_node,
                _ => false,
            };
            match segment.filter(|_| fits) {
                Some(segment) => *counted.entry(segment).or_default() += stored.share,
                None => found.push(Contradiction::Misplaced { address }),
            }
        }
        let segment_bytes = self.superblock.segment_bytes() as u64;
        let (mut live, mut free, mut emptied) = (0, 0, 0);
        let (mut only_log, mut of_objects) = (0, 0);
        for (id, segment) in segments.iter() {
            let mut bytes = counted.get(&id).copied().unwrap_or(0);
            if segment.kind == SegmentKind::Object {
                bytes = segment_bytes;
            }
            if bytes != u64::from(segment.live_bytes) {
                found.push(Contradiction::LiveBytes {
                    segment: id.0,
                    counted: bytes,
                    recorded: u64::from(segment.live_bytes),
                });
            }
            live += u64::from(segment.live_bytes);
            let is_free = segment.kind == SegmentKind::Free;
            free += u64::from(is_free);
            let idle = !segment.pinned && segment.live_bytes == 0;
            emptied += u64::from(idle && !is_free && segment.kind != SegmentKind::Object);
            let held = segment.pinned && segment.live_bytes == 0;
            only_log += u64::from(held && segment.kind == SegmentKind::Log);
            of_objects += u64::from(segment.kind == SegmentKind::Object);
        }
        for (what, counted, recorded) in [
            ("live bytes", live, segments.live_bytes()),
            ("free segments", free, u64::from(segments.free())),
            (
                "emptied segments",
                emptied,
                u64::from(segments.emptied_count()),
            ),
            (
                "segments of log alone",
                only_log,
                u64::from(segments.only_log_count()),
            ),
            (
                "segments of objects",
                of_objects,
                u64::from(segments.of_objects()),
            ),
        ] {
            if counted != recorded {
                found.push(Contradiction::Sum {
                    what,
                    counted,
                    recorded,
                });
            }
        }
        let volume = self.volume.borrow();
        for (what, tree, counted) in [
            ("changed nodes", &volume.live, count.dirty.first()),
            (
                "changed nodes of history",
                &volume.history,
                count.dirty.get(1),
            ),
        ] {
            let (counted, recorded) = (counted.copied().unwrap_or(0), tree.dirty_nodes());
            if counted != recorded {
                found.push(Contradiction::Sum {
                    what,
                    counted: counted as u64,
                    recorded: recorded as u64,
                });
            }
        }
        count.found.contradictions = found;
    }
}

/// Something on the disk that is meant.
struct Stored {
    len_bytes: u64,
    /// What of it pieces account for.
    share: u64,
    is_node: bool,
    /// What pieces say of the extent, and which parts of it they name.
    identity: Option<(u64, u64, u32)>,
    parts: Vec<(u32, u32)>,
}

struct Count {
    hash: FoldHasher<'static>,
    stored: BTreeMap<u64, Stored>,
    dirty: Vec<usize>,
    /// Pieces of files: object, offset, end, birth, death.
    pieces: Vec<(u64, u64, u64, u64, u64)>,
    found: Audit,
}

impl Default for Count {
    fn default() -> Self {
        Self {
            // The same for the same items in every run.
            hash: FixedState::default().build_hasher(),
            stored: BTreeMap::new(),
            dirty: Vec::new(),
            pieces: Vec::new(),
            found: Audit::default(),
        }
    }
}

impl Count {
    fn hash_item(&mut self, key: Key, item: ItemRef<'_>) {
        (key, item.birth, item.value).hash(&mut self.hash);
    }

    /// Counts the blocks of nodes, used or to be freed by the next checkpoint, and the changed nodes.
    fn nodes(&mut self, tree: &Tree) -> Result<(), Fault> {
        let mut dirty = 0;
        let mut blocks = tree.freed_blocks().to_vec();
        tree.for_each_node(&mut |block| match block {
            Some(block) => blocks.push(block),
            None => dirty += 1,
        })?;
        self.dirty.push(dirty);
        for block in blocks {
            let node = Stored {
                len_bytes: BLOCK,
                share: BLOCK,
                is_node: true,
                identity: None,
                parts: Vec::new(),
            };
            let address = block.0 * BLOCK;
            if self.stored.insert(address, node).is_some() {
                self.found.contradictions.push(Contradiction::Shared {
                    first: address,
                    second: address,
                });
            }
        }
        Ok(())
    }

    fn live(&mut self, key: Key, item: ItemRef<'_>) {
        if key.kind == ItemKind::Extent {
            self.piece(key, item, u64::MAX);
        } else {
            self.found.items.push((key.item_key(), item.value.to_vec()));
            if key.kind == ItemKind::Inline {
                self.takes(key.object, item.value.len() as u64);
            }
        }
    }

    fn history(&mut self, key: Key, item: ItemRef<'_>) {
        if key.kind == ItemKind::Extent {
            self.piece(key, item, key.version);
        }
    }

    fn takes(&mut self, object: u64, room: u64) {
        *self.found.data.entry(object).or_default() += room;
    }

    fn piece(&mut self, key: Key, item: ItemRef<'_>, death: u64) {
        let Some(piece) = Piece::decode(item.value) else {
            return self.impossible(key);
        };
        let end = key.position.saturating_add(u64::from(piece.len));
        if death == u64::MAX {
            self.takes(key.object, u64::from(piece.len).div_ceil(BLOCK) * BLOCK);
        }
        self.pieces
            .push((key.object, key.position, end, item.birth, death));
        let whole = piece.identity(key.object, key.position, item.birth);
        let identity = (whole.object, whole.offset, piece.extent_len);
        let stored = self.stored.entry(piece.address).or_insert(Stored {
            len_bytes: u64::from(piece.stored_len),
            share: 0,
            is_node: false,
            identity: Some(identity),
            parts: Vec::new(),
        });
        let part = (piece.skip, piece.skip + piece.len);
        let taken = |&(from, to): &(u32, u32)| from < part.1 && part.0 < to;
        if stored.identity != Some(identity)
            || stored.len_bytes != u64::from(piece.stored_len)
            || stored.parts.iter().any(taken)
        {
            self.found.contradictions.push(Contradiction::Shared {
                first: piece.address,
                second: piece.address,
            });
        }
        stored.parts.push(part);
        stored.share += u64::from(piece.stored_share());
    }

    /// Looks for pieces of one object that overlap in the newest state or in what a snapshot shows.
    fn overlaps(&mut self, snapshots: &[u64]) {
        self.pieces.sort_unstable();
        let states = snapshots.iter().copied().chain([u64::MAX - 1]);
        for at in states {
            let mut last = (0, 0);
            for &(object, offset, end, birth, death) in &self.pieces {
                if !(birth..death).contains(&at) {
                    continue;
                }
                if last.0 == object && offset < last.1 {
                    self.found
                        .contradictions
                        .push(Contradiction::Overlapping { object, offset });
                }
                last = (object, end);
            }
        }
    }

    fn impossible(&mut self, key: Key) {
        self.found
            .contradictions
            .push(Contradiction::Impossible(key.item_key()));
    }
}

fn visit(tree: &Tree, mut each: impl FnMut(Key, ItemRef<'_>)) -> Result<(), Fault> {
    let last = Key {
        object: u64::MAX,
        kind: ItemKind::Property,
        position: u64::MAX,
        version: u64::MAX,
    };
    tree.for_each_in(&(Key::MIN..=last), |key, item| {
        each(key, item);
        core::ops::ControlFlow::Continue(())
    })
}

//! Transactions over files: a consistent view with changes on top, and what is needed to commit them.
//!
//! - this file: one transaction; `view`: what an operation sees; `write_set`: what it changes and has loaded;
//! - `volume`: the state that transactions see and commits change; `seen`: what a state shows, some items at a time;
//! - `files`: running and committing them; `changes`: the same for a layer above that commits records of its own along;
//! - `values`: data of the layer above, which belong to no file;
//! - `open`: transactions that stay open while others commit, and what they conflict on.
//!
//! Invariant: an operation sees one state, and what it does is committed as a whole or not at all.
//!
//! Not here: what the items of files and directories mean (`namespace`), and how commits become durable (`log`).

mod changes;
mod files;
mod open;
mod seen;
mod values;
mod view;
mod volume;
mod write_set;

use alloc::borrow::Cow;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::hash::Hasher;
use core::ops::Range;

use siphasher::sip::SipHasher24;

pub use changes::FileChanges;
pub use files::CommitStop;
pub use open::{
    Isolation, OPEN_TRANSACTIONS_MAX, OpenTransaction, OpenTransactionInfo, OpenTransactions,
    TransactionId,
};
pub(crate) use open::{KeptItem, SharedRegistry};
pub(crate) use seen::At;
pub use seen::Unseen;
pub use values::VALUE_OFFSETS;
pub use view::{SomeItems, View};
pub(crate) use volume::{Volume, after, damaged_item, decode_snapshot, extent_key};
pub use write_set::Loaded;

use crate::check::{PieceAt, damaged_bytes};
use crate::disk::layout::VALUE_OBJECT;
use crate::extent::{EXTENT_BYTES_MAX, FILE_BYTES_MAX, Piece};
use crate::fault::SuspectData;
use crate::tree::{INLINE_BYTES_MAX, Item};
use crate::{
    BLOCK_SIZE, CommitNumber, Fault, FileError, ItemKey, ItemKind, Namespace, Sought, StoredRange,
};
use open::ReadSet;
use seen::{Seen, before, behind};
use write_set::{Staged, WriteSet};

const BLOCK: u64 = BLOCK_SIZE as u64;

/// Room that a transaction frees at most: a commit goes through all pieces in it, each a block perhaps. Larger ranges are freed in
/// the background anyway.
const FREED_BYTES_MAX: u64 = 64 << 20;

/// Items that are handed out at once.
const SOME_MAX: usize = 4096;

/// Items looked at besides, before fewer than were asked for are handed out.
const SOME_LOOKS_MAX: usize = 1024;

/// Items looked at, at first, where data are looked for: those that may reach there from before, and one more.
const PIECES_AT_FIRST: usize = (EXTENT_BYTES_MAX as u64 / BLOCK) as usize;

/// Items looked at in one search for data or a hole.
const SEEK_LOOKS_MAX: usize = 1024;

/// Number of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(pub u64);

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Its number.
    pub id: SnapshotId,
    /// Its name.
    pub name: String,
    /// The last commit it shows: the one that made it.
    pub commit: CommitNumber,
    /// When it was made, in nanoseconds since the Unix epoch.
    pub created_ns: i64,
}

/// A transaction: sees one state and its own changes.
pub struct Transaction<'v> {
    volume: &'v Volume,
    at: At,
    loaded: &'v Loaded,
    /// Bytes of data that were appended but not written yet.
    unwritten: &'v dyn Fn(StoredRange) -> Option<Rc<[u8]>>,
    set: WriteSet,
    /// What was read, of a transaction that stays open.
    reads: Option<ReadSet>,
    now_ns: i64,
    bytes_max: usize,
}

impl<'v> Transaction<'v> {
    pub(crate) fn new(
        volume: &'v Volume,
        at: At,
        loaded: &'v Loaded,
        unwritten: &'v dyn Fn(StoredRange) -> Option<Rc<[u8]>>,
        now_ns: i64,
    ) -> Self {
        Self {
            volume,
            at,
            loaded,
            unwritten,
            set: WriteSet::new(volume.next_object.get()),
            reads: None,
            now_ns,
            bytes_max: volume.superblock.commit_bytes_max(),
        }
    }

    /// The same, with the changes of `set` made already.
    pub(crate) fn with_set(mut self, set: WriteSet) -> Self {
        self.set = set;
        self
    }

    /// The same, for a transaction that stays open: it notes what is read, and has numbers for objects that nobody
    /// else gets.
    pub(crate) fn with_reads(mut self, reads: ReadSet) -> Self {
        self.reads = Some(reads);
        self
    }

    /// Whether it has changed anything.
    pub fn has_changes(&self) -> bool {
        !self.set.is_empty()
    }

    pub(crate) fn into_set(self) -> WriteSet {
        self.set
    }

    /// What was changed, and what was read.
    pub(crate) fn into_parts(self) -> (WriteSet, ReadSet) {
        (self.set, self.reads.unwrap_or_default())
    }

    /// Notes that all items from the first to the last were seen.
    fn note_read(&mut self, first: ItemKey, last: ItemKey) -> Result<(), FileError> {
        match &mut self.reads {
            Some(reads) => reads.add(first, last),
            None => Ok(()),
        }
    }

    /// Nodes of the trees met and items handed out since the mount, by whomever: what looking into them has cost.
    #[cfg(feature = "sim")]
    pub fn looks(&self) -> u64 {
        self.volume.live.looks() + self.volume.history.looks()
    }

    /// Files and directories as this transaction sees them.
    pub fn files(&mut self) -> Namespace<'_, Self> {
        Namespace::new(self)
    }

    /// The item in the state below this transaction's changes.
    pub(crate) fn below(&self, key: ItemKey) -> Result<Option<Item>, FileError> {
        Ok(self.volume.item_at(self.at, key)?)
    }

    /// The way through the state below this transaction's changes.
    fn seen(&self, from: ItemKey, to: ItemKey, looks: usize) -> Seen<'v> {
        Seen::new((self.volume, self.at, self.loaded), (from, to), looks)
    }

    /// The way through the pieces of `object` in the state below that may overlap `from..to`.
    fn seen_pieces(&self, object: u64, from: u64, to: u64) -> Seen<'v> {
        // The first one begins within an extent's length before; in the history not always at a block's start.
        let first = from.saturating_sub(u64::from(EXTENT_BYTES_MAX) - 1);
        let key = |position| ItemKey::new(object, ItemKind::Extent, position);
        self.seen(key(first), key(to.saturating_sub(1)), PIECES_AT_FIRST)
    }

    /// The pieces of `object` that overlap `from..to` in the state below, in order.
    fn base_pieces(&self, object: u64, from: u64, to: u64) -> Result<Vec<PieceAt>, FileError> {
        // Most often it is one, which begins there: so it is with whatever is read as it was written.
        let key = ItemKey::new(object, ItemKind::Extent, from);
        if let Some(item) = self.below(key)? {
            let piece = piece_of(key, &item)?;
            if piece.end() >= to {
                return Ok(alloc::vec![piece]);
            }
        }
        let mut pieces = Vec::new();
        let mut seen = self.seen_pieces(object, from, to);
        while let Some(batch) = seen.next()? {
            for (key, item) in batch.items {
                let piece = piece_of(key, &item)?;
                if piece.position < to && piece.end() > from {
                    pieces.push(piece);
                }
            }
        }
        Ok(pieces)
    }

    /// What of `from..to` a reader finds: staged ranges, and pieces below where nothing is staged.
    fn layout(&self, object: u64, from: u64, to: u64) -> Result<Vec<Run<'_>>, FileError> {
        let mut runs = Vec::new();
        let mut gaps = Vec::new();
        let before = self
            .set
            .data
            .range((object, 0)..=(object, from))
            .next_back()
            .map_or(from, |(&(_, at), _)| at);
        let mut at = from;
        for (&(_, offset), staged) in self.set.data.range((object, before)..(object, to)) {
            let end = offset.saturating_add(staged.len);
            if end <= from {
                continue;
            }
            if offset > at {
                gaps.push((at, offset));
            }
            let start = offset.max(from);
            if let Some(bytes) = staged.bytes() {
                let skip = usize::try_from(start - offset).unwrap_or(usize::MAX);
                let len = usize::try_from(end.min(to) - start).unwrap_or(usize::MAX);
                let bytes = bytes.get(skip..skip.saturating_add(len));
                runs.push(Run::Staged(start, bytes.unwrap_or_default()));
            }
            at = end.min(to);
        }
        if at < to {
            gaps.push((at, to));
        }
        for (from, to) in gaps {
            for at in self.base_pieces(object, from, to)? {
                let (start, end) = (at.position.max(from), at.end().min(to));
                runs.push(Run::Stored { start, end, at });
            }
        }
        Ok(runs)
    }

    /// Reads from data that are extents.
    pub(crate) fn read_extents(
        &self,
        object: u64,
        offset: u64,
        target: &mut [u8],
    ) -> Result<(), FileError> {
        let end = offset.saturating_add(target.len() as u64);
        let runs = self.layout(object, offset, end)?;
        self.read_runs(runs, object, offset, target)
    }

    /// The same, where it is known what there is.
    fn read_runs(
        &self,
        runs: Vec<Run<'_>>,
        object: u64,
        offset: u64,
        target: &mut [u8],
    ) -> Result<(), FileError> {
        target.fill(0);
        let mut missing = Vec::new();
        for run in runs {
            let (start, bytes) = match run {
                Run::Staged(start, bytes) => (start, Cow::Borrowed(bytes)),
                Run::Stored { start, end, at } => {
                    let PieceAt {
                        position,
                        birth,
                        piece,
                        ..
                    } = at;
                    let range = StoredRange {
                        address: piece.address,
                        len_bytes: piece.stored_len,
                    };
                    let Some(bytes) = self.stored(range) else {
                        missing.push(range);
                        continue;
                    };
                    let identity = piece.identity(object, position, birth);
                    let wanted = start - position..end - position;
                    let read = piece.read(self.volume.vault.sealer(), identity, &bytes, &wanted);
                    let read = read.map_err(|error| match error {
                        FileError::Damaged { .. } if !self.loaded.verified.contains(&range) => {
                            FileError::Fault(Fault::Suspect(SuspectData(at)))
                        }
                        FileError::Damaged { block, .. } => {
                            let damaged = damaged_bytes(self.volume.vault.sealer(), &at, &bytes);
                            let met = |bytes: &Range<u64>| bytes.end > start && bytes.start < end;
                            let bytes = damaged.into_iter().find(met).unwrap_or(start..end);
                            FileError::DamagedData { bytes, block }
                        }
                        error => error,
                    });
                    (start, Cow::Owned(read?))
                }
            };
            let at = usize::try_from(start - offset).unwrap_or(usize::MAX);
            if let Some(place) = target.get_mut(at..at.saturating_add(bytes.len())) {
                place.copy_from_slice(&bytes);
            }
        }
        if missing.is_empty() {
            Ok(())
        } else {
            Err(FileError::Fault(Fault::Data(missing)))
        }
    }

    fn stored(&self, range: StoredRange) -> Option<Rc<[u8]>> {
        if let Some((read_in, bytes)) = self.loaded.data.get(&range)
            && *read_in == self.volume.use_of(range.address)
        {
            return Some(Rc::clone(bytes));
        }
        (self.unwritten)(range)
    }

    /// Stages that `object` has no data from one block's start up to that of another.
    pub(crate) fn stage_hole(&mut self, object: u64, from: u64, to: u64) {
        let len = to.saturating_sub(from);
        self.set.stage(object, from, Staged { len, data: None });
    }

    /// Stages data from a block's start on, cut into extents.
    pub(crate) fn stage_data(
        &mut self,
        object: u64,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), FileError> {
        if bytes.len() > self.bytes_max {
            return Err(FileError::TransactionTooLarge);
        }
        let extent = self.volume.superblock.extent_bytes_max() as usize;
        let mut at = offset;
        for chunk in bytes.chunks(extent) {
            let staged = Staged {
                len: chunk.len() as u64,
                data: Some((Rc::from(chunk), 0)),
            };
            self.set.stage(object, at, staged);
            at += chunk.len() as u64;
        }
        if self.set.bytes > self.bytes_max {
            return Err(FileError::TransactionTooLarge);
        }
        Ok(())
    }

    /// The room that the data of `object` take from `from` up to `to`: whole blocks. Work in proportion to the pieces there.
    fn room_of(&self, object: u64, from: u64, to: u64) -> Result<i64, FileError> {
        let runs = self.layout(object, from, to)?;
        let mut runs = runs.iter().map(Run::range).collect::<Vec<_>>();
        runs.sort_unstable();
        let (mut blocks, mut counted_to) = (0, 0);
        for (start, end) in runs {
            let (first, last) = ((start / BLOCK).max(counted_to), end.div_ceil(BLOCK));
            blocks += last.saturating_sub(first);
            counted_to = last.max(counted_to);
        }
        Ok(bytes_of(blocks * BLOCK))
    }

    /// Writes to data that are, or are about to be, extents. Returns by how much room more they take.
    fn write_extents(
        &mut self,
        object: u64,
        size: u64,
        offset: u64,
        bytes: &[u8],
    ) -> Result<i64, FileError> {
        let end = offset + bytes.len() as u64;
        let first = offset / BLOCK * BLOCK;
        // Up to the end of its block, if the file goes on there.
        let last = if end < size {
            end.next_multiple_of(BLOCK).min(size)
        } else {
            end
        };
        let behind = last.next_multiple_of(BLOCK);
        let room = bytes_of(behind - first) - self.room_of(object, first, behind)?;
        if first == offset && last == end {
            self.stage_data(object, offset, bytes)?;
            return Ok(room);
        }
        let len = usize::try_from(last - first).map_err(|_| FileError::TransactionTooLarge)?;
        let mut whole = Vec::new();
        whole
            .try_reserve_exact(len)
            .map_err(|_| FileError::OutOfMemory)?;
        whole.resize(len, 0);
        let head = usize::try_from(offset - first).unwrap_or(0);
        let tail = head + bytes.len();
        // Both edges before anything is missing twice.
        let mut missing = Vec::new();
        let edges = [(first, 0..head), (end, tail..len)];
        for (at, range) in edges {
            let target = whole.get_mut(range).unwrap_or_default();
            let within = usize::try_from(size.saturating_sub(at)).unwrap_or(usize::MAX);
            let within = within.min(target.len());
            let target = target.get_mut(..within).unwrap_or_default();
            match self.read_extents(object, at, target) {
                Err(FileError::Fault(Fault::Data(ranges))) => missing.extend(ranges),
                other => other?,
            }
        }
        if !missing.is_empty() {
            return Err(FileError::Fault(Fault::Data(missing)));
        }
        if let Some(target) = whole.get_mut(head..tail) {
            target.copy_from_slice(bytes);
        }
        self.stage_data(object, first, &whole)?;
        Ok(room)
    }

    /// Writes zeros to what of `from..to` is not zero already; both within one block, which keeps its room.
    fn zero(&mut self, object: u64, size: u64, from: u64, to: u64) -> Result<(), FileError> {
        let to = to.min(size);
        if from >= to {
            return Ok(());
        }
        let mut bytes = alloc::vec![0; usize::try_from(to - from).unwrap_or(0)];
        self.read_extents(object, from, &mut bytes)?;
        if bytes.iter().any(|&byte| byte != 0) {
            bytes.fill(0);
            self.write_extents(object, size, from, &bytes)?;
        }
        Ok(())
    }

    /// Notes that so much room was freed; by how much more is taken.
    fn note_freed(&mut self, room: i64) -> Result<i64, FileError> {
        self.set.freed += room.unsigned_abs();
        if self.set.freed > FREED_BYTES_MAX {
            return Err(FileError::TransactionTooLarge);
        }
        Ok(-room)
    }

    /// Content that is kept as an item.
    fn inline(&mut self, object: u64) -> Result<Option<Vec<u8>>, FileError> {
        self.get(ItemKey::new(object, ItemKind::Inline, 0))
    }
}

/// A part of a file that is not zero.
enum Run<'t> {
    Staged(u64, &'t [u8]),
    Stored {
        start: u64,
        end: u64,
        /// The piece that it is a part of.
        at: PieceAt,
    },
}

impl Run<'_> {
    /// From its first byte up to, but without, the one behind its last.
    fn range(&self) -> (u64, u64) {
        match self {
            Self::Staged(start, bytes) => (*start, start + bytes.len() as u64),
            Self::Stored { start, end, .. } => (*start, *end),
        }
    }
}

impl View for Transaction<'_> {
    fn get(&mut self, key: ItemKey) -> Result<Option<Vec<u8>>, FileError> {
        if let Some(own) = self.set.items.get(&key) {
            return Ok(own.clone());
        }
        self.note_read(key, key)?;
        Ok(self.below(key)?.map(|item| item.value.to_vec()))
    }

    fn glance(&mut self, key: ItemKey) -> Result<Option<Vec<u8>>, FileError> {
        if let Some(reads) = &mut self.reads {
            reads.add_passage(key)?;
        }
        if let Some(own) = self.set.items.get(&key) {
            return Ok(own.clone());
        }
        Ok(self.below(key)?.map(|item| item.value.to_vec()))
    }

    fn some(&mut self, from: ItemKey, to: ItemKey, limit: usize) -> Result<SomeItems, FileError> {
        let limit = limit.clamp(1, SOME_MAX);
        let mut found = Vec::new();
        // One more tells whether there are more.
        let mut seen = self.seen(from, to, limit + 1);
        while let Some(batch) = seen.next()? {
            // Where it is the end, this was all; else all up to here.
            let reached = batch.next.and_then(before).unwrap_or(to);
            let mut base = batch.items.into_iter().peekable();
            let mut own = self.set.items.range(batch.from..=reached).peekable();
            while found.len() < limit {
                let own_first = own.peek().map(|(key, _)| **key);
                let base_first = base.peek().map(|(key, _)| *key);
                if own_first.is_some_and(|own| base_first.is_none_or(|base| own <= base)) {
                    if own_first == base_first {
                        base.next();
                    }
                    if let Some((&key, Some(value))) = own.next() {
                        found.push((key, value.clone()));
                    }
                } else if let Some((key, item)) = base.next() {
                    found.push((key, item.value.to_vec()));
                } else {
                    break;
                }
            }
            let more = base.peek().is_some() || own.peek().is_some();
            if more {
                let last = found.last().map_or(reached, |(key, _)| *key);
                self.note_read(batch.from, last)?;
                return Ok((found, behind(last)));
            }
            self.note_read(batch.from, reached)?;
            let takes_long = !found.is_empty() && seen.looked() >= limit + SOME_LOOKS_MAX;
            if found.len() >= limit || takes_long {
                return Ok((found, batch.next));
            }
        }
        Ok((found, None))
    }

    fn put(&mut self, key: ItemKey, value: Vec<u8>) {
        debug_assert!(value.len() <= crate::ITEM_BYTES_MAX && key.kind != ItemKind::Extent);
        self.set.set_item(key, Some(value));
    }

    fn remove(&mut self, key: ItemKey) {
        self.set.set_item(key, None);
    }

    fn new_object(&mut self) -> u64 {
        let next = &self.volume.next_object;
        if self.reads.is_some() {
            return next.replace((next.get() + 1).min(VALUE_OBJECT));
        }
        let object = self.set.next_object;
        self.set.next_object += 1;
        object
    }

    fn now_ns(&self) -> i64 {
        self.now_ns
    }

    fn hash_name(&self, name: &[u8]) -> u64 {
        hash_name(&self.volume.superblock.id, name)
    }

    fn read_data(
        &mut self,
        object: u64,
        _size: u64,
        offset: u64,
        target: &mut [u8],
    ) -> Result<(), FileError> {
        if target.is_empty() {
            return Ok(());
        }
        if let Some(content) = self.inline(object)? {
            target.fill(0);
            let offset = usize::try_from(offset).unwrap_or(usize::MAX);
            let content = content.get(offset..).unwrap_or_default();
            let len = content.len().min(target.len());
            for (to, from) in target.iter_mut().zip(content.iter().take(len)) {
                *to = *from;
            }
            return Ok(());
        }
        self.read_extents(object, offset, target)
    }

    fn write_data(
        &mut self,
        object: u64,
        size: u64,
        offset: u64,
        bytes: &[u8],
    ) -> Result<i64, FileError> {
        let end = offset
            .checked_add(bytes.len() as u64)
            .filter(|&end| end <= FILE_BYTES_MAX)
            .ok_or(FileError::FileTooLarge)?;
        if bytes.is_empty() {
            return Ok(0);
        }
        let old = self.inline(object)?;
        if old.is_none() && size > 0 {
            return self.write_extents(object, size, offset, bytes);
        }
        let mut content = old.unwrap_or_default();
        let before = content.len() as u64;
        let key = ItemKey::new(object, ItemKind::Inline, 0);
        if end.max(size) <= INLINE_BYTES_MAX {
            let (from, to) = (
                usize::try_from(offset).unwrap_or(0),
                usize::try_from(end).unwrap_or(0),
            );
            content.resize(content.len().max(to), 0);
            if let Some(target) = content.get_mut(from..to) {
                target.copy_from_slice(bytes);
            }
            let room = bytes_of(content.len() as u64) - bytes_of(before);
            self.put(key, content);
            return Ok(room);
        }
        // It outgrows its item.
        if !content.is_empty() {
            self.remove(key);
            self.stage_data(object, 0, &content)?;
            let room = self.write_extents(object, before, offset, bytes)?;
            return Ok(bytes_of(BLOCK) - bytes_of(before) + room);
        }
        self.write_extents(object, size, offset, bytes)
    }

    fn free_data(
        &mut self,
        object: u64,
        size: u64,
        from: u64,
        to: Option<u64>,
    ) -> Result<i64, FileError> {
        if let Some(mut content) = self.inline(object)? {
            let before = bytes_of(content.len() as u64);
            let from = usize::try_from(from).unwrap_or(usize::MAX);
            let key = ItemKey::new(object, ItemKind::Inline, 0);
            match to {
                None => content.truncate(from),
                Some(to) => {
                    let to = usize::try_from(to).unwrap_or(usize::MAX).min(content.len());
                    content.get_mut(from..to).unwrap_or_default().fill(0);
                }
            }
            let after = bytes_of(content.len() as u64);
            if to.is_none() && from == 0 {
                self.remove(key);
            } else {
                self.put(key, content);
            }
            return Ok(after - before);
        }
        let hole = |len| Staged { len, data: None };
        let Some(to) = to else {
            // What is left of its first block takes room as before.
            let room = self.room_of(object, from.next_multiple_of(BLOCK), u64::MAX)?;
            self.set.stage(object, from, hole(u64::MAX - from));
            return self.note_freed(room);
        };
        if from >= to {
            return Ok(0);
        }
        let inner = from.next_multiple_of(BLOCK);
        // The last block of the file is whole when all of it that there is goes.
        let inner_end = if to >= size {
            to.max(size).next_multiple_of(BLOCK)
        } else {
            to / BLOCK * BLOCK
        };
        if inner > inner_end {
            self.zero(object, size, from, to)?;
            return Ok(0);
        }
        self.zero(object, size, from, inner.min(to))?;
        let mut room = 0;
        if inner < inner_end {
            room = self.room_of(object, inner, inner_end)?;
            self.set.stage(object, inner, hole(inner_end - inner));
        }
        self.zero(object, size, inner_end.max(from), to)?;
        self.note_freed(room)
    }

    fn freed_bytes(&self) -> u64 {
        self.set.freed
    }

    fn seek_data(
        &mut self,
        object: u64,
        size: u64,
        offset: u64,
        data: bool,
    ) -> Result<Sought, FileError> {
        if offset >= size {
            return Ok(Sought::Nowhere);
        }
        if let Some(content) = self.inline(object)? {
            let end = content.len() as u64;
            let here = offset < end;
            return Ok(match (data, here) {
                (true, true) | (false, false) => Sought::At(offset),
                (true, false) => Sought::Nowhere,
                (false, true) => Sought::At(end),
            });
        }
        let mut at = offset;
        let mut left = SEEK_LOOKS_MAX;
        while at < size {
            if left == 0 {
                return Ok(Sought::Further(at));
            }
            left -= 1;
            if let Some((end, is_data)) = self.set.staged_at(object, at) {
                if is_data == data {
                    return Ok(Sought::At(at));
                }
                at = end;
                continue;
            }
            let end = self.set.staged_behind(object, at).unwrap_or(size);
            match self.seek_below(object, (at, end.min(size)), data, &mut left)? {
                Sought::Nowhere => at = end,
                found => return Ok(found),
            }
        }
        Ok(if data {
            Sought::Nowhere
        } else {
            Sought::At(size)
        })
    }
}

/// An amount of bytes, to be reckoned with.
fn bytes_of(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

/// The hash of a name: keyed, so that nobody can choose names that collide.
pub(crate) fn hash_name(id: &crate::FileSystemId, name: &[u8]) -> u64 {
    let mut hasher = SipHasher24::new_with_key(&id.0);
    hasher.write(name);
    hasher.finish()
}

impl Transaction<'_> {
    /// The first place in a range where there are data, or none, in the state below. Counts down what was looked at.
    fn seek_below(
        &self,
        object: u64,
        (from, to): (u64, u64),
        data: bool,
        left: &mut usize,
    ) -> Result<Sought, FileError> {
        let mut at = from;
        let mut seen = self.seen_pieces(object, from, to);
        let looks = *left;
        while let Some(batch) = seen.next()? {
            for (key, item) in batch.items {
                let piece = piece_of(key, &item)?;
                if piece.end() <= at {
                    continue;
                }
                let is_hole = piece.position > at;
                if is_hole != data {
                    return Ok(Sought::At(at));
                }
                if is_hole {
                    return Ok(Sought::At(piece.position));
                }
                at = piece.end();
            }
            // What begins before that is known.
            let known = batch.next.map_or(to, |next| next.position);
            if known > at {
                if !data {
                    return Ok(Sought::At(at));
                }
                at = known;
            }
            *left = looks.saturating_sub(seen.looked());
            if *left == 0 && at < to {
                return Ok(Sought::Further(at));
            }
        }
        Ok(Sought::Nowhere)
    }
}

/// The piece of data that an item names.
fn piece_of(key: ItemKey, item: &Item) -> Result<PieceAt, FileError> {
    let piece = Piece::decode(&item.value).ok_or(damaged_item())?;
    Ok(PieceAt {
        object: key.object,
        position: key.position,
        birth: item.birth,
        piece,
    })
}

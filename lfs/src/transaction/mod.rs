//! Transactions over files: a consistent view with changes on top, and what is needed to commit them.
//!
//! - this file: one transaction; `view`: what an operation sees; `write_set`: what it changes and has loaded;
//! - `volume`: the state that transactions see and commits change;
//! - `files`: running and committing them; `changes`: the same for a layer above that commits records of its own along;
//! - `open`: transactions that stay open while others commit, and what they conflict on.
//!
//! Invariant: an operation sees one state, and what it does is committed as a whole or not at all.
//!
//! Not here: what the items of files and directories mean (`namespace`), and how commits become durable (`log`).

mod changes;
mod files;
mod open;
mod view;
mod volume;
mod write_set;

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::hash::Hasher;
use core::ops::{ControlFlow, RangeInclusive};

use siphasher::sip::SipHasher24;

pub use changes::FileChanges;
pub use files::CommitStop;
pub use open::{
    Isolation, OPEN_TRANSACTIONS_MAX, OpenTransaction, OpenTransactionInfo, OpenTransactions,
    TransactionId,
};
pub(crate) use open::{KeptItem, SharedRegistry};
pub use view::View;
pub(crate) use volume::{Volume, after, damaged_item, decode_snapshot, extent_key};
pub use write_set::Loaded;

use crate::check::PieceAt;
use crate::disk::layout::NUMBER_MAX;
use crate::extent::{FILE_BYTES_MAX, Piece};
use crate::fault::SuspectData;
use crate::tree::{Item, Key, Tree};
use crate::{
    BLOCK_SIZE, CommitNumber, Fault, FileError, ItemKey, ItemKind, Namespace, StoredRange,
};
use open::ReadSet;
use write_set::{Staged, WriteSet};

/// Largest content that is kept as an item instead of an extent.
const INLINE_BYTES_MAX: u64 = 1024;

const BLOCK: u64 = BLOCK_SIZE as u64;

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

/// Which state a transaction sees below its own changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    Newest,
    /// As it was after that commit, which a snapshot shows.
    Snapshot(CommitNumber),
}

/// A transaction: sees one state and its own changes.
pub struct Transaction<'v> {
    volume: &'v Volume,
    at: At,
    loaded: &'v Loaded,
    /// Bytes of data that were appended but not written yet.
    peek: &'v dyn Fn(u64, &mut [u8]) -> bool,
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
        peek: &'v dyn Fn(u64, &mut [u8]) -> bool,
        now_ns: i64,
    ) -> Self {
        Self {
            volume,
            at,
            loaded,
            peek,
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

    /// Files and directories as this transaction sees them.
    pub fn files(&mut self) -> Namespace<'_, Self> {
        Namespace::new(self)
    }

    /// The item in the state below this transaction's changes.
    pub(crate) fn below(&self, key: ItemKey) -> Result<Option<Item>, FileError> {
        let live = || Ok(self.volume.live.get(&Key::live(key))?);
        let At::Snapshot(commit) = self.at else {
            return live();
        };
        let seen = |item: &Item| item.birth <= commit.0;
        let died = self
            .volume
            .history
            .first_from(&Key::dead(key, commit.0 + 1))?;
        match died.filter(|(found, _)| found.item_key() == key) {
            Some((_, item)) => Ok(Some(item).filter(seen)),
            None => Ok(live()?.filter(seen)),
        }
    }

    /// The first item from `from` to `to` in the state below this transaction's changes.
    fn first_below(
        &self,
        from: ItemKey,
        to: ItemKey,
    ) -> Result<Option<(ItemKey, Item)>, FileError> {
        let last = |item| Key::dead(item, u64::MAX);
        let first_in =
            |tree: &Tree, range: RangeInclusive<Key>, seen: &dyn Fn(&Key, u64) -> bool| {
                let mut found = None;
                tree.for_each_in(&range, |key, item| {
                    if seen(&key, item.birth) {
                        found = Some((key.item_key(), item.to_item()));
                        return ControlFlow::Break(());
                    }
                    ControlFlow::Continue(())
                })?;
                Ok::<_, Fault>(found)
            };
        let range = Key::live(from)..=last(to);
        let At::Snapshot(commit) = self.at else {
            return Ok(first_in(&self.volume.live, range, &|_, _| true)?);
        };
        let old = |birth: u64| birth <= commit.0;
        let live = first_in(&self.volume.live, range, &|_, birth| old(birth))?;
        let to = live.as_ref().map_or(to, |(key, _)| *key);
        let died = |key: &Key, birth: u64| old(birth) && key.version > commit.0;
        let dead = first_in(&self.volume.history, Key::live(from)..=last(to), &died)?;
        Ok(dead.or(live))
    }

    /// The pieces of `object` that overlap `from..to` in the state below, in order.
    fn base_pieces(
        &self,
        object: u64,
        from: u64,
        to: u64,
    ) -> Result<Vec<(u64, u64, Piece)>, FileError> {
        let mut pieces = Vec::new();
        let mut add = |key: &Key, item: &Item| -> Result<(), FileError> {
            let piece = Piece::decode(&item.value).ok_or(damaged_item())?;
            let end = key.position.saturating_add(u64::from(piece.len));
            if key.position < to && end > from {
                pieces.push((key.position, item.birth, piece));
            }
            Ok(())
        };
        let mut next = self.volume.first_piece_over(object, from)?;
        while let Some((key, item)) = next.take().filter(|(key, _)| key.position < to) {
            if !matches!(self.at, At::Snapshot(commit) if item.birth > commit.0) {
                add(&key, &item)?;
            }
            next = self.volume.piece_from(&after(&key))?;
        }
        if let At::Snapshot(commit) = self.at {
            let reach = from.saturating_sub(u64::from(crate::extent::EXTENT_BYTES_MAX));
            let mut next = extent_key(object, reach);
            while let Some((key, item)) = self.volume.history.first_from(&next)? {
                let of_this = key.object == object && key.kind == ItemKind::Extent;
                if !of_this || key.position >= to {
                    break;
                }
                if item.birth <= commit.0 && commit.0 < key.version {
                    add(&key, &item)?;
                }
                next = after(&key);
            }
            pieces.sort_unstable_by_key(|(position, ..)| *position);
        }
        Ok(pieces)
    }

    /// What of `from..to` a reader finds: staged ranges, and pieces below where nothing is staged.
    fn layout(&self, object: u64, from: u64, to: u64) -> Result<Vec<Run>, FileError> {
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
                runs.push(Run::Staged(start, bytes.unwrap_or_default().to_vec()));
            }
            at = end.min(to);
        }
        if at < to {
            gaps.push((at, to));
        }
        for (from, to) in gaps {
            for (position, birth, piece) in self.base_pieces(object, from, to)? {
                let start = position.max(from);
                let end = (position + u64::from(piece.len)).min(to);
                runs.push(Run::Stored {
                    start,
                    end,
                    position,
                    birth,
                    piece,
                });
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
        target.fill(0);
        let end = offset.saturating_add(target.len() as u64);
        let mut missing = Vec::new();
        for run in self.layout(object, offset, end)? {
            let (start, bytes) = match run {
                Run::Staged(start, bytes) => (start, bytes),
                Run::Stored {
                    start,
                    end,
                    position,
                    birth,
                    piece,
                } => {
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
                    let suspect = matches!(read, Err(FileError::Damaged { .. }))
                        && !self.loaded.verified.contains(&range);
                    if suspect {
                        let at = PieceAt {
                            object,
                            position,
                            birth,
                            piece,
                        };
                        return Err(FileError::Fault(Fault::Suspect(SuspectData(at))));
                    }
                    (start, read?)
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
        let mut bytes = alloc::vec![0; range.len_bytes as usize];
        (self.peek)(range.address, &mut bytes).then(|| Rc::from(bytes))
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

    /// Writes to data that are, or are about to be, extents.
    fn write_extents(
        &mut self,
        object: u64,
        size: u64,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), FileError> {
        let end = offset + bytes.len() as u64;
        let first = offset / BLOCK * BLOCK;
        // Up to the end of its block, if the file goes on there.
        let last = if end < size {
            end.next_multiple_of(BLOCK).min(size)
        } else {
            end
        };
        if first == offset && last == end {
            return self.stage_data(object, offset, bytes);
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
        self.stage_data(object, first, &whole)
    }

    /// Writes zeros to what of `from..to` is not zero already; both within one block.
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

    /// Content that is kept as an item.
    fn inline(&mut self, object: u64) -> Result<Option<Vec<u8>>, FileError> {
        self.get(ItemKey::new(object, ItemKind::Inline, 0))
    }
}

/// A part of a file that is not zero.
enum Run {
    Staged(u64, Vec<u8>),
    Stored {
        start: u64,
        end: u64,
        /// Where the piece begins in the file.
        position: u64,
        birth: u64,
        piece: Piece,
    },
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

    fn first(
        &mut self,
        from: ItemKey,
        to: ItemKey,
    ) -> Result<Option<(ItemKey, Vec<u8>)>, FileError> {
        let mut next = from;
        loop {
            if next > to {
                return Ok(None);
            }
            let base = self.first_below(next, to)?;
            let seen_to = base.as_ref().map_or(to, |(key, _)| *key);
            self.note_read(next, seen_to)?;
            let own = self.set.items.range(next..=to).next();
            let (key, value) = match (own, base) {
                (None, None) => return Ok(None),
                (Some((&key, value)), base) if base.as_ref().is_none_or(|b| key <= b.0) => {
                    (key, value.clone())
                }
                (_, Some((key, item))) => (key, Some(item.value.to_vec())),
                // Covered by the arm before the last.
                (Some((&key, value)), None) => (key, value.clone()),
            };
            if let Some(value) = value {
                return Ok(Some((key, value)));
            }
            // Removed by this transaction.
            next = match key.position.checked_add(1) {
                Some(position) => ItemKey { position, ..key },
                None => return Ok(None),
            };
        }
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
            return next.replace((next.get() + 1).min(NUMBER_MAX));
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
    ) -> Result<(), FileError> {
        let end = offset
            .checked_add(bytes.len() as u64)
            .filter(|&end| end <= FILE_BYTES_MAX)
            .ok_or(FileError::FileTooLarge)?;
        if bytes.is_empty() {
            return Ok(());
        }
        let old = self.inline(object)?;
        if old.is_none() && size > 0 {
            return self.write_extents(object, size, offset, bytes);
        }
        let mut content = old.unwrap_or_default();
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
            self.put(key, content);
            return Ok(());
        }
        // It outgrows its item.
        if !content.is_empty() {
            self.remove(key);
            let size = content.len() as u64;
            self.stage_data(object, 0, &content)?;
            return self.write_extents(object, size, offset, bytes);
        }
        self.write_extents(object, size, offset, bytes)
    }

    fn free_data(
        &mut self,
        object: u64,
        size: u64,
        from: u64,
        to: Option<u64>,
    ) -> Result<(), FileError> {
        if let Some(mut content) = self.inline(object)? {
            let from = usize::try_from(from).unwrap_or(usize::MAX);
            let key = ItemKey::new(object, ItemKind::Inline, 0);
            match to {
                None => content.truncate(from),
                Some(to) => {
                    let to = usize::try_from(to).unwrap_or(usize::MAX).min(content.len());
                    content.get_mut(from..to).unwrap_or_default().fill(0);
                }
            }
            if to.is_none() && from == 0 {
                self.remove(key);
            } else {
                self.put(key, content);
            }
            return Ok(());
        }
        let hole = |len| Staged { len, data: None };
        let Some(to) = to else {
            self.set.stage(object, from, hole(u64::MAX - from));
            return Ok(());
        };
        if from >= to {
            return Ok(());
        }
        let inner = from.next_multiple_of(BLOCK);
        // The last block of the file is whole when all of it that there is goes.
        let inner_end = if to >= size {
            to.max(size).next_multiple_of(BLOCK)
        } else {
            to / BLOCK * BLOCK
        };
        if inner > inner_end {
            return self.zero(object, size, from, to);
        }
        self.zero(object, size, from, inner.min(to))?;
        if inner < inner_end {
            self.set.stage(object, inner, hole(inner_end - inner));
        }
        self.zero(object, size, inner_end.max(from), to)
    }

    fn seek_data(
        &mut self,
        object: u64,
        size: u64,
        offset: u64,
        data: bool,
    ) -> Result<Option<u64>, FileError> {
        if offset >= size {
            return Ok(None);
        }
        if let Some(content) = self.inline(object)? {
            let end = content.len() as u64;
            let here = offset < end;
            return Ok(match (data, here) {
                (true, true) | (false, false) => Some(offset),
                (true, false) => None,
                (false, true) => Some(end),
            });
        }
        // Window by window, so that a sparse giant costs no more memory than its pieces.
        let mut at = offset;
        while at < size {
            let end = at.saturating_add(SEEK_WINDOW).min(size);
            let mut runs = self
                .layout(object, at, end)?
                .into_iter()
                .map(|run| match run {
                    Run::Staged(start, bytes) => (start, start + bytes.len() as u64),
                    Run::Stored { start, end, .. } => (start, end),
                })
                .collect::<Vec<_>>();
            runs.sort_unstable();
            if data {
                if let Some((start, _)) = runs.first() {
                    return Ok(Some(*start));
                }
                // Nothing here: on to the next piece, wherever it is.
                at = match self.next_data_after(object, end, size)? {
                    Some(next) => next,
                    None => return Ok(None),
                };
            } else {
                for (start, end) in runs {
                    if start > at {
                        return Ok(Some(at));
                    }
                    at = at.max(end);
                }
                if at < end {
                    return Ok(Some(at));
                }
            }
        }
        Ok((!data).then_some(size))
    }

    fn stored_bytes(&mut self, object: u64) -> Result<u64, FileError> {
        let mut bytes = 0;
        for (_, _, piece) in self.base_pieces(object, 0, u64::MAX)? {
            bytes += u64::from(piece.stored_share());
        }
        Ok(bytes)
    }
}

/// The hash of a name: keyed, so that nobody can choose names that collide.
pub(crate) fn hash_name(id: &crate::FileSystemId, name: &[u8]) -> u64 {
    let mut hasher = SipHasher24::new_with_key(&id.0);
    hasher.write(name);
    hasher.finish()
}

/// Bytes of a file that a search for data or holes looks at in one go.
const SEEK_WINDOW: u64 = 64 << 20;

impl Transaction<'_> {
    /// Where the next data at or after `offset` may begin.
    fn next_data_after(
        &self,
        object: u64,
        offset: u64,
        size: u64,
    ) -> Result<Option<u64>, FileError> {
        let staged = self
            .set
            .data
            .range((object, offset)..(object, size))
            .find(|(_, staged)| staged.data.is_some())
            .map(|(&(_, at), _)| at);
        let covering = self.layout(object, offset, offset.saturating_add(1).min(size))?;
        if !covering.is_empty() {
            return Ok(Some(offset));
        }
        let live = self.volume.first_piece_over(object, offset)?;
        let live = live.map(|(key, _)| key.position);
        let dead = match self.at {
            At::Newest => None,
            At::Snapshot(_) => {
                let found = self
                    .volume
                    .history
                    .first_from(&extent_key(object, offset))?;
                found
                    .filter(|(key, _)| key.object == object && key.kind == ItemKind::Extent)
                    .map(|(key, _)| key.position)
            }
        };
        let next = [staged, live, dead].into_iter().flatten().min();
        Ok(next.map(|at| at.max(offset)).filter(|&at| at < size))
    }
}

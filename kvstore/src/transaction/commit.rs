//! What becomes of a transaction's writes: entries of the log, values in the value file, and what readers see.

use alloc::vec::Vec;
use core::mem;

use lfs::{BlockDevice, FileError};

use super::Transaction;
use crate::engine::look_up::Probe;
use crate::engine::memtable::RANGE_DELETES_MAX;
use crate::engine::payload::{ENTRY_BYTES_MAX, Entry as LogEntry};
use crate::engine::types::{
    Content, ENGINE_KEY_BYTES_MAX, LARGE_REF_BYTES_MAX, LargeRef, NEVER, Piece, SLOT_COUNT,
    engine_key,
};
use crate::fault::Fault;
use crate::transactions::locks::Locked;
use crate::write_set::{Write, WriteSet};
use crate::{CommitError, DatabaseIndex, KEY_BYTES_MAX, Key, Timestamp};

/// What a piece of a large value takes among keys.
const PIECE_BYTES: usize = 16;

/// What a commit does to the size of the data, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Growth {
    /// By how much keys, and what is stored with them, grow.
    pub(crate) index: i64,
    /// By how much large values do.
    pub(crate) values: i64,
}

impl<D: BlockDevice> Transaction<'_, D> {
    /// Commits: the writes are visible to everybody, and the result says what a reply about this
    /// transaction depends on. The reply may leave once that is durable. What only read depends on
    /// the newest commit among those it read from.
    ///
    /// # Errors
    /// Nothing happened then; see [`CommitError`].
    pub fn commit(mut self) -> Result<Timestamp, CommitError> {
        if self.is_in_vain() {
            return Err(CommitError::Fault(self.take_faults()));
        }
        if self.is_read_only() {
            self.remember();
            return Ok(self.depends_on);
        }
        if self.begun != self.store.committed() {
            return Err(CommitError::Conflict);
        }
        let store = self.store;
        let mut payload = store.payload.take();
        payload.clear();
        let committed = self.commit_with(&mut payload);
        // A large commit must not keep its memory for ever.
        payload.shrink_to(64 << 10);
        *store.payload.borrow_mut() = payload;
        committed
    }

    fn commit_with(&mut self, payload: &mut Vec<u8>) -> Result<Timestamp, CommitError> {
        let store = self.store;
        let prepared = self.prepare_commit(payload)?;
        self.remember();
        self.check_locks()?;
        self.check_room(&prepared)?;
        store.reserve(payload)?;
        let files = self.files.take().filter(|files| !files.is_empty());
        let timestamp = match files {
            None => store.append(payload)?,
            Some(files) => match store.commit_files(files, payload) {
                // It was for values.
                Err(CommitError::FilesFull) if !self.touches_files => {
                    return Err(store.no_room(CommitError::DiskFull));
                }
                Err(CommitError::FilesFull) => return Err(store.no_room(CommitError::FilesFull)),
                committed => committed?,
            },
        };
        if self.touches_files {
            store.compaction.note_garbage();
        }
        store.committed_with(timestamp, self.now_ms, payload, prepared.next_slot);
        Ok(timestamp)
    }

    /// Of one by itself: waits, as for a fault, while others have locked what it writes.
    fn check_locks(&mut self) -> Result<(), CommitError> {
        let locks = &self.store.engine.locks;
        if locks.borrow().is_empty() {
            return Ok(());
        }
        let (keys, ranges) = self.written();
        let owner = self.loaded.owner(&self.store.engine);
        let mut keys = keys.iter().map(|key| &key[..]);
        match locks.borrow_mut().check_write(owner, 0, &mut keys, &ranges) {
            Locked::Taken => Ok(()),
            Locked::Wait(ticket) => Err(CommitError::Fault(alloc::vec![Fault::Lock(ticket)])),
            // It holds no lock: it cannot be in a deadlock.
            Locked::Deadlock(_) => Err(CommitError::Busy),
            Locked::TooMany => Err(CommitError::OutOfMemory),
        }
    }

    /// Refuses what would grow the data beyond what the disk has room for.
    pub(crate) fn check_room(&mut self, prepared: &Prepared) -> Result<(), CommitError> {
        let growth = &prepared.growth;
        if growth.index + growth.values <= 0 || self.store.has_space_for(growth) {
            return Ok(());
        }
        if prepared.is_assumed && self.loaded.chunks.probe_all() {
            // What was taken for growth may be an overwrite: now it matters.
            return Err(CommitError::Fault(alloc::vec![Fault::Room]));
        }
        Err(self.store.no_room(CommitError::DiskFull))
    }

    /// Engine keys that are written, and ranges that are deleted.
    pub(crate) fn written(&self) -> (Vec<Key>, Vec<(Key, Key)>) {
        let (mut keys, mut ranges) = (Vec::new(), Vec::new());
        for (db, writes) in self.writes.iter() {
            let written = writes.iter().map(|(key, _)| engine_key(db, key));
            keys.extend(written.map(|key| Key::from(&key[..])));
            ranges.extend(writes.deleted().iter().map(|(start, end)| {
                let end = match end {
                    Some(end) => engine_key(db, end),
                    None => engine_key(DatabaseIndex(db.0 + 1), &[]),
                };
                (Key::from(&engine_key(db, start)[..]), Key::from(&end[..]))
            }));
        }
        (keys, ranges)
    }

    /// Encodes what is written, and hands large values to the file system's part of the transaction.
    pub(crate) fn prepare_commit(
        &mut self,
        payload: &mut Vec<u8>,
    ) -> Result<Prepared, CommitError> {
        if self.is_in_vain() {
            return Err(CommitError::Fault(self.take_faults()));
        }
        let writes = mem::take(&mut *self.writes);
        let prepared = self.prepare_writes(&writes, payload);
        *self.writes = writes;
        let prepared = prepared?;
        if self.is_in_vain() {
            return Err(CommitError::Fault(self.take_faults()));
        }
        Ok(prepared)
    }

    fn prepare_writes(
        &mut self,
        writes: &WriteSet,
        payload: &mut Vec<u8>,
    ) -> Result<Prepared, CommitError> {
        let bytes = writes.iter().fold(0_usize, |bytes, (_, writes)| {
            let keys = writes.iter().map(|(key, write)| entry_bytes(key, write));
            let ranges = writes.deleted().iter();
            let ranges = ranges
                .map(|(start, end)| ENTRY_BYTES_MAX + 2 + start.len() + end.map_or(0, <[u8]>::len));
            bytes + keys.chain(ranges).sum::<usize>()
        });
        if bytes > self.store.filesystem.commit_bytes_max() {
            return Err(CommitError::TooLarge);
        }
        let mut prepared = Prepared {
            next_slot: self.store.engine.next_slot.get(),
            growth: Growth::default(),
            is_assumed: false,
        };
        let out_of_memory = |_| CommitError::OutOfMemory;
        for (db, writes) in writes.iter() {
            if writes.deleted().len() > RANGE_DELETES_MAX {
                return Err(CommitError::TooLarge);
            }
            for (start, end) in writes.deleted().iter() {
                let end = match end {
                    Some(end) => engine_key(db, end),
                    None => engine_key(DatabaseIndex(db.0 + 1), &[]),
                };
                let start = &engine_key(db, start);
                if start.len().max(end.len()) > ENGINE_KEY_BYTES_MAX {
                    return Err(CommitError::TooLarge);
                }
                let entry = LogEntry::RangeDelete { start, end: &end };
                entry.encode(payload).map_err(out_of_memory)?;
            }
            for (key, write) in writes.iter() {
                if key.len() > KEY_BYTES_MAX {
                    return Err(CommitError::TooLarge);
                }
                let hidden = writes.hides(key);
                self.prepare(db, key, write, hidden, &mut prepared, payload)?;
            }
        }
        Ok(prepared)
    }

    fn prepare(
        &mut self,
        db: DatabaseIndex,
        key: &[u8],
        write: &Write,
        hidden: bool,
        prepared: &mut Prepared,
        payload: &mut Vec<u8>,
    ) -> Result<(), CommitError> {
        let key = engine_key(db, key);
        let engine = &self.store.engine;
        let (below, old) = if hidden {
            (false, Growth::default())
        } else {
            match engine.probe(&key, &self.loaded.chunks, &self.chunk_faults) {
                Ok(Probe::Known(row)) => (row.is_value(), row.bytes(key.len())),
                Ok(Probe::Assumed) => {
                    prepared.is_assumed = true;
                    (true, Growth::default())
                }
                Err(_) => {
                    self.miss();
                    return Ok(());
                }
            }
        };
        let mut coded = Vec::new();
        let (content, expires_at_ms) = match write {
            Write::Delete => (Content::Tombstone, None),
            Write::Put(value, at) if value.len() < self.store.large_value_bytes.get() => {
                (Content::Inline(value), *at)
            }
            Write::Put(value, at) => {
                let piece = self.write_piece(value, prepared)?;
                LargeRef::encode(&[piece], 0, &mut coded);
                (Content::Large(parsed(&coded)?), *at)
            }
            Write::Grown(grown) => {
                let mut pieces = grown.pieces.clone();
                let inherited = u8::try_from(pieces.len()).unwrap_or(u8::MAX);
                if !grown.tail.is_empty() {
                    pieces.push(self.write_piece(&grown.tail, prepared)?);
                }
                LargeRef::encode(&pieces, inherited, &mut coded);
                (Content::Large(parsed(&coded)?), grown.expires_at_ms)
            }
        };
        let new = content_growth(&content, key.len());
        prepared.growth.index += new.index - old.index;
        prepared.growth.values += new.values - old.values;
        let entry = LogEntry::Version {
            key: &key,
            expires_at_ms: expires_at_ms.unwrap_or(NEVER),
            below,
            content,
        };
        entry.encode(payload).map_err(|_| CommitError::OutOfMemory)
    }

    /// Hands bytes of a large value to the file system's part of the transaction: where they will be.
    fn write_piece(&mut self, bytes: &[u8], prepared: &mut Prepared) -> Result<Piece, CommitError> {
        let len = u32::try_from(bytes.len()).map_err(|_| CommitError::TooLarge)?;
        let piece = Piece {
            slot: prepared.next_slot,
            bytes: len,
        };
        let end = piece.slot.saturating_add(piece.slots());
        if end > SLOT_COUNT {
            return Err(CommitError::DiskFull);
        }
        prepared.next_slot = end;
        let mut rest = bytes;
        for (offset, len) in piece.extents() {
            let (extent, behind) = rest.split_at(len.min(rest.len()));
            rest = behind;
            let written = self.change_files(|files| files.write_value(offset, extent));
            written.map_err(|error| match error {
                FileError::TransactionTooLarge => CommitError::TooLarge,
                FileError::OutOfMemory => CommitError::OutOfMemory,
                error => CommitError::Files(alloc::boxed::Box::new(error)),
            })?;
        }
        Ok(piece)
    }
}

/// What was found out of a commit before it is made.
pub(crate) struct Prepared {
    /// The first slot behind its large values.
    pub(crate) next_slot: u64,
    /// What it does to the size of the data, ...
    pub(crate) growth: Growth,
    /// ... or less, as keys are assumed to be there, and to take nothing.
    pub(crate) is_assumed: bool,
}

fn parsed(coded: &[u8]) -> Result<LargeRef<'_>, CommitError> {
    // Pieces are in order and as many as there may be: it is one.
    LargeRef::parse(coded).map_err(|_| CommitError::TooLarge)
}

/// Bytes of an entry and its value, at most.
fn entry_bytes(key: &[u8], write: &Write) -> usize {
    let value = match write {
        Write::Put(value, _) => value.len(),
        Write::Grown(grown) => {
            LARGE_REF_BYTES_MAX.min(15 + 13 * (grown.pieces.len() + 1)) + grown.tail.len()
        }
        Write::Delete => 0,
    };
    ENTRY_BYTES_MAX + 1 + key.len() + value
}

/// What a version adds to the data.
pub(crate) fn content_growth(content: &Content<'_>, key_bytes: usize) -> Growth {
    // Where a large value is takes more or fewer bytes from one to the next: that is no growth.
    let index = match content {
        Content::Tombstone => 0,
        Content::Inline(bytes) => ENTRY_BYTES_MAX + key_bytes + bytes.len(),
        Content::Large(large) => ENTRY_BYTES_MAX + key_bytes + PIECE_BYTES * large.pieces().len(),
    };
    let values = match content {
        Content::Large(large) => u64::from(large.total()),
        _ => 0,
    };
    Growth {
        index: i64::try_from(index).unwrap_or(i64::MAX),
        values: i64::try_from(values).unwrap_or(i64::MAX),
    }
}

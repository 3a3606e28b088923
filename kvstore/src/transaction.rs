//! Transactions: what commands read from and write to.
//!
//! There are two kinds. One **by itself** ([`Store::transaction`]) reads the newest state and lives within one step of one task: nothing else runs between its
//! begin and its commit, so what it read is what it commits on; a caller that awaits in between and is overtaken
//! gets [`CommitError::Conflict`]. The other is a **statement** of a transaction that stays open ([`Store::resume`]): it reads the state that that one
//! sees, and ends with [`suspend`](Transaction::suspend) (`transactions::open`). Writes are seen by the transaction itself at once and by
//! everybody else after the commit, all together.
//!
//! It may change files too ([`Transaction::files`]): they are part of the same commit.
//!
//! What it reads may have to be loaded from the disk first. Then it is in vain, and run again from the start (`fault`).

use alloc::vec::Vec;
use core::cell::{RefCell, RefMut};
use core::ops::{Deref, DerefMut};

use lfs::{BlockDevice, FileChanges, FileError};

use crate::engine::cache::CacheKey;
use crate::engine::cached::{CacheEntry, Row, RowContent, may_be_with_row};
use crate::engine::loads::{ChunkFault, Wanted};
use crate::engine::look_up::{InCache, LookedUp, Probe};
use crate::engine::state::Engine;
use crate::engine::types::{LargeRef, Missing as NotInMemory, Piece, Pieces, engine_key};
use crate::fault::{FAULTS_MAX, Fault, KeysFault, LoadError, Loaded, Missing};
use crate::misses::KeysRead;
use crate::store::Store;
use crate::transactions::open::Rest;
use crate::transactions::reads::TooLarge;
use crate::values::{ValueFault, cached_as, len_of};
use crate::write_set::{Grown, Write, WriteSet};
use crate::{CommitError, DatabaseIndex, Entry, KEY_BYTES_MAX, Key, Timestamp, Value};

mod commit;
mod scan;

pub(crate) use commit::{Growth, content_growth};

/// Entries of the cache that a transaction makes of what it read, at most.
const FOUND_MAX: usize = 64;

/// What reads at the newest state read at.
const NEWEST: Timestamp = Timestamp(u64::MAX);

/// A set of reads and writes that becomes one commit, or part of one, or nothing when dropped.
///
/// A read returns [`Missing`] when something has to be loaded first; what, is noted. The transaction will not commit
/// then: other reads may still tell what they will need, [`take_faults`](Self::take_faults) says what that is, and once it
/// is loaded ([`Store::load_all`]) the transaction is run again from the start.
pub struct Transaction<'s, D: BlockDevice> {
    pub(crate) store: &'s Store<D>,
    /// The newest commit when it began; still so when it commits, unless the caller awaited in between.
    begun: Timestamp,
    pub(crate) now_ms: i64,
    file_time_ns: i64,
    pub(crate) writes: Held<'s, WriteSet>,
    /// The newest commit that what was read depends on.
    pub(crate) depends_on: Timestamp,
    /// Of one by itself, once files, or large values, are touched.
    files: Option<FileChanges>,
    touches_files: bool,
    /// The one that stays open, of which this is a statement.
    pub(crate) open: Option<RefMut<'s, Rest>>,
    pub(crate) loaded: &'s mut Loaded,
    /// What was found missing.
    faults: Vec<Fault>,
    /// Of it, chunks of tables.
    chunk_faults: RefCell<Vec<ChunkFault>>,
    /// Something was: what was read is not all there is, and nothing may come of it.
    in_vain: bool,
    /// What was read of keys, for the cache. It goes there at the end, so that nothing that was found leaves the cache meanwhile.
    found: Vec<(Key, Row)>,
    /// Random keys that were asked for.
    draws: u64,
}

/// Its own, or somebody else's.
pub(crate) enum Held<'s, T> {
    Own(T),
    Lent(RefMut<'s, T>),
}

impl<T> Deref for Held<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Self::Own(own) => own,
            Self::Lent(lent) => lent,
        }
    }
}

impl<T> DerefMut for Held<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        match self {
            Self::Own(own) => own,
            Self::Lent(lent) => lent,
        }
    }
}

impl<'s, D: BlockDevice> Transaction<'s, D> {
    pub(crate) fn new(
        store: &'s Store<D>,
        now_ms: i64,
        file_time_ns: i64,
        loaded: &'s mut Loaded,
        open: Option<(RefMut<'s, WriteSet>, RefMut<'s, Rest>)>,
    ) -> Self {
        // What was loaded has to be of this state.
        store.filesystem.refresh(&mut loaded.files);
        let (writes, open) = match open {
            None => (Held::Own(WriteSet::default()), None),
            Some((writes, rest)) => (Held::Lent(writes), Some(rest)),
        };
        Self {
            begun: store.committed(),
            store,
            now_ms,
            file_time_ns,
            writes,
            depends_on: Timestamp::default(),
            files: None,
            touches_files: false,
            open,
            loaded,
            faults: Vec::new(),
            chunk_faults: RefCell::default(),
            in_vain: false,
            found: Vec::new(),
            draws: 0,
        }
    }

    /// Runs `body` on the files as this transaction sees them. When it fails, nothing it did stays, and the transaction
    /// can go on; but for [`FileError::Fault`], which puts it in vain.
    ///
    /// # Errors
    /// What `body` returns. In an open transaction besides: [`FileError::NotPermitted`] for changes of one that only reads, [`FileError::NotRetained`] when the files of
    /// the time that it sees are not kept, and what ends it: [`FileError::ConflictOn`], [`FileError::TransactionEnded`].
    pub fn files<T>(
        &mut self,
        body: impl FnOnce(&mut lfs::Transaction<'_>) -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        let commit = Timestamp(self.store.filesystem.file_commit().0);
        self.depends_on = self.depends_on.max(commit.min(self.at()));
        self.touches_files = true;
        self.change_files(body)
    }

    fn change_files<T>(
        &mut self,
        body: impl FnOnce(&mut lfs::Transaction<'_>) -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        let filesystem = &self.store.filesystem;
        let loaded = &mut self.loaded.files;
        let result = if let Some(open) = &mut self.open {
            open.change_files(filesystem, self.file_time_ns, loaded, body)
        } else {
            let begin = || filesystem.begin_changes(self.file_time_ns, loaded);
            let changes = self.files.get_or_insert_with(begin);
            filesystem.change_files(changes, &self.loaded.files, body)
        };
        if let Err(FileError::Fault(fault)) = &result {
            let fault = Fault::File(fault.clone());
            self.note(fault);
        }
        result
    }

    /// The commit that it reads at.
    fn at(&self) -> Timestamp {
        self.open.as_ref().map_or(NEWEST, |open| open.at())
    }

    /// Whether something that was read is missing: this transaction will not commit.
    pub fn is_in_vain(&self) -> bool {
        self.in_vain
    }

    /// Whether as much is noted as missing as there can be: no need to read on in vain.
    pub fn has_all_faults(&self) -> bool {
        self.faults.len() + self.chunk_faults.borrow().len() >= FAULTS_MAX
    }

    /// What has to be loaded before this transaction can be run; what is needed first comes first. Nothing unless it
    /// [is in vain](Self::is_in_vain).
    pub fn take_faults(&mut self) -> Vec<Fault> {
        // The next attempt need not look for it again.
        self.remember();
        let mut faults = core::mem::take(&mut self.faults);
        let chunks = self.chunk_faults.take();
        faults.extend(
            chunks
                .into_iter()
                .map(|fault| Fault::Keys(KeysFault::chunk(fault))),
        );
        faults
    }

    /// Asks for several keys at once that will be read: what they need is noted as missing, unless it is there.
    pub fn want(&mut self, db: DatabaseIndex, keys: &mut dyn Iterator<Item = &[u8]>) {
        for key in keys {
            if self.has_all_faults() {
                break;
            }
            let writes = self.writes.of(db);
            let hidden =
                writes.is_some_and(|writes| writes.get(key).is_some() || writes.hides(key));
            if !hidden {
                // Whether it is missing is noted either way.
                let _ = self.stored(db, key);
            }
        }
    }

    /// Drops the transaction, but finds out first whether a commit would ask for something to be loaded. If not, the
    /// same transaction, run again with no await in between, finds everything in memory.
    ///
    /// # Errors
    /// [`CommitError::Fault`], or what cannot be read.
    pub fn rehearse(mut self) -> Result<(), CommitError> {
        self.found.clear();
        self.prepare_commit(&mut Vec::new())?;
        if let Some(changes) = &self.files {
            self.store.rehearse_files(changes)?;
        }
        self.loaded.keys.note_rehearsed();
        Ok(())
    }

    /// The time that decides what is expired, in Unix milliseconds.
    pub fn now_ms(&self) -> i64 {
        self.now_ms
    }

    /// The live value of `key`, own writes included.
    ///
    /// # Errors
    /// Something has to be loaded first.
    pub fn get(&mut self, db: DatabaseIndex, key: &[u8]) -> Result<Option<Entry>, Missing> {
        let own = self.writes.of(db);
        let grown = match own.and_then(|writes| writes.get(key)) {
            Some(Write::Put(value, expires_at_ms)) => {
                return Ok(Some(Entry {
                    value: value.clone(),
                    expires_at_ms: *expires_at_ms,
                }));
            }
            Some(Write::Delete) => return Ok(None),
            Some(Write::Grown(grown)) => Some((grown.pieces.clone(), grown.expires_at_ms)),
            None => None,
        };
        if let Some((pieces, expires_at_ms)) = grown {
            let mut value = self.read_pieces(&pieces, cached_as(&pieces))?;
            let own = self.writes.of(db);
            if let Some(Write::Grown(grown)) = own.and_then(|writes| writes.get(key)) {
                value.append(&grown.tail);
            }
            return Ok(Some(Entry {
                value,
                expires_at_ms,
            }));
        }
        let Some(LookedUp { mut row, in_cache }) = self.live(db, key)? else {
            return Ok(None);
        };
        let value = self.value_of(&row, in_cache)?;
        let expires_at_ms = row.expiry();
        if in_cache != InCache::Never && row.keep_large_value(&value) {
            self.note_found(&engine_key(db, key), row);
        }
        Ok(Some(Entry {
            value,
            expires_at_ms,
        }))
    }

    /// Overwrites value and expiry of `key`, of at most [`KEY_BYTES_MAX`]
    /// bytes. An expiry that has passed deletes it.
    pub fn put(
        &mut self,
        db: DatabaseIndex,
        key: &[u8],
        value: impl Into<Value>,
        expires_at_ms: Option<i64>,
    ) {
        if expires_at_ms.is_some_and(|at| at <= self.now_ms) {
            self.write(db, key, Write::Delete);
        } else {
            self.write(db, key, Write::Put(value.into(), expires_at_ms));
        }
    }

    /// Appends `tail` to the live value of `key`, which keeps its expiry, or creates it. Returns the
    /// new length. Of a large value that never expires only the tail is written.
    ///
    /// # Errors
    /// Something has to be loaded first.
    pub fn append(&mut self, db: DatabaseIndex, key: &[u8], tail: &[u8]) -> Result<usize, Missing> {
        if let Some(len) = self.writes.append(db, key, tail) {
            return Ok(len);
        }
        let own = self.writes.of(db).and_then(|writes| writes.get(key));
        let stored = match own {
            Some(_) => None,
            None => self.live(db, key)?,
        };
        let Some(LookedUp { row, .. }) = stored else {
            self.put(db, key, tail, None);
            return Ok(tail.len());
        };
        let expires_at_ms = row.expiry();
        let (write, len) = match row.large() {
            Some(large) if expires_at_ms.is_none() && self.may_share() => {
                let grown = self.grow(&large, tail)?;
                let len = grown.len();
                (Write::Grown(grown), len)
            }
            _ => {
                let mut value = self.value_of(&row, InCache::Never)?;
                value.append(tail);
                let len = value.len();
                (Write::Put(value, expires_at_ms), len)
            }
        };
        self.write(db, key, write);
        Ok(len)
    }

    /// A large value with `tail` behind it. Its last pieces that are not longer than what follows them are written anew,
    /// so that there are few, and each byte is written a logarithmic number of times.
    fn grow(&mut self, large: &LargeRef<'_>, tail: &[u8]) -> Result<Grown, Missing> {
        let mut pieces = large.pieces();
        let mut behind = tail.len();
        let mut joined = Pieces::new();
        while let Some(last) = pieces.last()
            && last.bytes as usize <= behind
            && behind + last.bytes as usize <= self.store.filesystem.commit_bytes_max() / 2
        {
            behind += last.bytes as usize;
            joined.insert(0, *last);
            pieces.pop();
        }
        let mut bytes = Vec::new();
        if bytes.try_reserve_exact(behind).is_err() {
            return Err(self.fail(LoadError::OutOfMemory));
        }
        if !joined.is_empty() {
            bytes.extend_from_slice(&self.loaded_part(&joined, None)?);
        }
        bytes.extend_from_slice(tail);
        Ok(Grown {
            pieces,
            tail: bytes,
            expires_at_ms: None,
        })
    }

    /// Deletes `key`; whether there was a live value.
    ///
    /// # Errors
    /// Something has to be loaded first.
    pub fn delete(&mut self, db: DatabaseIndex, key: &[u8]) -> Result<bool, Missing> {
        let own = self.writes.of(db);
        match own.and_then(|writes| writes.get(key)) {
            Some(Write::Delete) => return Ok(false),
            Some(_) => {
                self.write(db, key, Write::Delete);
                return Ok(true);
            }
            None if own.is_some_and(|writes| writes.hides(key)) => return Ok(false),
            None => {}
        }
        let row = self.stored(db, key)?.row;
        // An expired value not yet reclaimed is as good as gone, and goes.
        if row.is_value() {
            self.write(db, key, Write::Delete);
        }
        Ok(row.is_live_at(self.now_ms))
    }

    /// Changes only the expiry of `key`; false when there is no live value. One that has passed
    /// deletes it.
    ///
    /// # Errors
    /// Something has to be loaded first.
    pub fn set_expiry(
        &mut self,
        db: DatabaseIndex,
        key: &[u8],
        expires_at_ms: Option<i64>,
    ) -> Result<bool, Missing> {
        let is_past = expires_at_ms.is_some_and(|at| at <= self.now_ms);
        match self.writes.of(db).and_then(|writes| writes.get(key)) {
            Some(Write::Delete) => return Ok(false),
            Some(_) if is_past => {
                self.write(db, key, Write::Delete);
                return Ok(true);
            }
            Some(_) => return Ok(self.writes.expire(db, key, expires_at_ms)),
            None => {}
        }
        let Some(LookedUp { row, .. }) = self.live(db, key)? else {
            return Ok(false);
        };
        let write = match row.large() {
            _ if is_past => Write::Delete,
            // What never expires can be shared.
            Some(large) if row.expiry().is_none() && self.may_share() => Write::Grown(Grown {
                pieces: large.pieces(),
                tail: Vec::new(),
                expires_at_ms,
            }),
            _ => Write::Put(self.value_of(&row, InCache::Never)?, expires_at_ms),
        };
        self.write(db, key, write);
        Ok(true)
    }

    /// Empties one database. Constant time; the memory comes back in the background.
    pub fn clear(&mut self, db: DatabaseIndex) {
        self.writes.delete_range(db, &[], None);
    }

    /// Deletes every key from `start` on, up to `end`, not included. Constant time.
    pub fn delete_range(&mut self, db: DatabaseIndex, start: &[u8], end: &[u8]) {
        if start < end {
            self.writes.delete_range(db, start, Some(end));
        }
    }

    /// Whether nothing was written so far.
    pub fn is_read_only(&self) -> bool {
        let no_files = match &self.open {
            Some(open) => open.has_no_files(),
            None => self.files.as_ref().is_none_or(FileChanges::is_empty),
        };
        self.writes.is_empty() && no_files
    }

    /// Whether a new version may name pieces of the stored one: nothing may come in between before it is committed.
    fn may_share(&self) -> bool {
        self.open.as_ref().is_none_or(|open| open.sees_one_state())
    }

    /// Whether a stored value of `key` counts as a key, as far as that is known.
    fn is_there(&self, db: DatabaseIndex, key: &[u8]) -> Result<bool, NotInMemory> {
        let engine = &self.store.engine;
        let key = engine_key(db, key);
        match engine.probe(&key, &self.loaded.chunks, &self.chunk_faults)? {
            Probe::Known(row) => Ok(row.is_value()),
            Probe::Assumed => Ok(true),
        }
    }

    /// What the store has of `key`, if that is live and this transaction has not deleted it.
    fn live(&mut self, db: DatabaseIndex, key: &[u8]) -> Result<Option<LookedUp>, Missing> {
        if self.writes.of(db).is_some_and(|writes| writes.hides(key)) {
            return Ok(None);
        }
        let found = self.stored(db, key)?;
        Ok(found.row.is_live_at(self.now_ms).then_some(found))
    }

    /// What the store has of `key` at the state that is seen, and the dependency on it.
    fn stored(&mut self, db: DatabaseIndex, key: &[u8]) -> Result<LookedUp, Missing> {
        if key.len() > KEY_BYTES_MAX {
            return Ok(LookedUp::NOTHING);
        }
        self.need(|| KeysRead::Key(db, key.into()))?;
        let key = engine_key(db, key);
        let at = match &mut self.open {
            None => NEWEST,
            Some(open) => match open.note_read(&key) {
                Ok(at) => at,
                Err(TooLarge) => return Err(self.fail(LoadError::TransactionTooLarge)),
            },
        };
        self.look_up(&key, at)
    }

    /// What the store has of `key` now, whatever the transaction sees.
    pub(crate) fn newest(&mut self, db: DatabaseIndex, key: &[u8]) -> Result<Row, Missing> {
        Ok(self.look_up(&engine_key(db, key), NEWEST)?.row)
    }

    fn look_up(&mut self, key: &[u8], at: Timestamp) -> Result<LookedUp, Missing> {
        let engine = &self.store.engine;
        let (loaded, faults) = (&self.loaded.chunks, &self.chunk_faults);
        let Ok(found) = engine.look_up(key, at, loaded, faults, Wanted::All) else {
            return Err(self.miss());
        };
        let since = if found.row.is_value() {
            found.row.timestamp
        } else {
            engine.last_removal.get().min(at)
        };
        self.depends_on = self.depends_on.max(since);
        if found.in_cache == InCache::NotYet {
            self.note_found(key, found.row.clone());
        }
        Ok(found)
    }

    /// A row for the cache: one for each key, with the value if that was read.
    fn note_found(&mut self, key: &[u8], row: Row) {
        let noted = self.found.iter_mut().rev().find(|(of, _)| **of == *key);
        if let Some((_, noted)) = noted {
            if noted.large_value().is_none() {
                *noted = row;
            }
        } else if self.found.len() < FOUND_MAX {
            self.found.push((Key::from(key), row));
        }
    }

    /// The value of a row; in the cache for itself, if it was loaded, unless it will be there with the row.
    fn value_of(&mut self, row: &Row, in_cache: InCache) -> Result<Value, Missing> {
        match &row.content {
            RowContent::Absent => Ok(Value::default()),
            RowContent::Inline(value)
            | RowContent::Large {
                value: Some(value), ..
            } => Ok(value.clone()),
            RowContent::Large { value: None, .. } => {
                let pieces = row.large().map(|large| large.pieces()).unwrap_or_default();
                // Of what there is no more room for here no row will be there.
                let has_row = in_cache != InCache::Never && self.found.len() < FOUND_MAX;
                let is_with_row = has_row && may_be_with_row(len_of(&pieces));
                let cached_as = cached_as(&pieces).filter(|_| !is_with_row);
                self.read_pieces(&pieces, cached_as)
            }
        }
    }

    /// The first pieces of a large value.
    fn read_pieces(&mut self, pieces: &[Piece], cached_as: Option<u64>) -> Result<Value, Missing> {
        match cached_value(&self.store.engine, pieces) {
            Some(value) => Ok(value),
            None => self.loaded_part(pieces, cached_as),
        }
    }

    /// The large value of a version.
    fn large_value(
        &mut self,
        db: DatabaseIndex,
        key: &[u8],
        version: Timestamp,
        pieces: &[Piece],
    ) -> Result<Value, Missing> {
        match cached_large(&self.store.engine, db, key, version, pieces) {
            Some(value) => Ok(value),
            None => self.loaded_part(pieces, cached_as(pieces)),
        }
    }

    /// Some pieces in a row of a large value, as they were loaded.
    fn loaded_part(&mut self, pieces: &[Piece], cached_as: Option<u64>) -> Result<Value, Missing> {
        match self.loaded.values.get(pieces) {
            Some(Ok(value)) => Ok(value.clone()),
            Some(Err(error)) => {
                let error = LoadError::File(error.clone());
                Err(self.fail(error))
            }
            None => {
                self.in_vain = true;
                if !self.has_all_faults() {
                    let fault = ValueFault::new(pieces, cached_as);
                    self.faults.push(Fault::Keys(KeysFault::value(fault)));
                }
                Err(Missing::new())
            }
        }
    }

    /// Whether what `read` needs is there, if a test wants it otherwise (`misses`).
    #[inline]
    fn need(&mut self, read: impl FnOnce() -> KeysRead) -> Result<(), Missing> {
        if !self.store.misses.are_on() {
            return Ok(());
        }
        let read = read();
        if self.loaded.keys.holds(&read) {
            return Ok(());
        }
        if !self.store.misses.next() {
            self.loaded.keys.note_found(read);
            return Ok(());
        }
        self.note(Fault::Keys(KeysFault::simulated(read)));
        Err(Missing::new())
    }

    fn note(&mut self, fault: Fault) {
        self.in_vain = true;
        if !self.has_all_faults() && !self.faults.contains(&fault) {
            self.faults.push(fault);
        }
    }

    fn miss(&mut self) -> Missing {
        self.in_vain = true;
        Missing::new()
    }

    /// What would be read cannot be: whoever loads it is told so.
    fn fail(&mut self, error: LoadError) -> Missing {
        self.in_vain = true;
        self.faults.insert(0, Fault::Keys(KeysFault::failed(error)));
        Missing::new()
    }

    pub(crate) fn write(&mut self, db: DatabaseIndex, key: &[u8], write: Write) {
        self.writes.insert(db, Key::from(key), write);
    }
}

impl<D: BlockDevice> Transaction<'_, D> {
    /// Puts what was read into the cache.
    fn remember(&mut self) {
        // It is of the newest state as long as nothing was committed since.
        if self.found.is_empty() || self.begun != self.store.committed() {
            return;
        }
        let mut cache = self.store.engine.cache.borrow_mut();
        for (key, row) in self.found.drain(..) {
            let large = row.large().filter(|_| row.large_value().is_some());
            if let Some(slot) = large.and_then(|large| cached_as(&large.pieces())) {
                // It is there with the row from now on.
                cache.remove(&CacheKey::Value(slot));
            }
            cache.insert(&CacheKey::Row(&key), CacheEntry::Row(row));
        }
    }
}

/// The large value of a version, with its pieces, if it is in the cache: with the row of its key, or for itself.
fn cached_large(
    engine: &Engine,
    db: DatabaseIndex,
    key: &[u8],
    version: Timestamp,
    pieces: &[Piece],
) -> Option<Value> {
    if may_be_with_row(len_of(pieces)) {
        let mut cache = engine.cache.borrow_mut();
        let row = engine_key(db, key);
        let found = cache.get_if(&CacheKey::Row(&row), |entry| {
            entry.has_large_value_of(version)
        });
        if let Some(CacheEntry::Row(row)) = found {
            return row.large_value().cloned();
        }
    }
    cached_value(engine, pieces)
}

/// The first pieces of a large value, if they are in the cache for themselves.
fn cached_value(engine: &Engine, pieces: &[Piece]) -> Option<Value> {
    if pieces.is_empty() {
        return Some(Value::default());
    }
    let slot = cached_as(pieces)?;
    match engine.cache.borrow_mut().get(&CacheKey::Value(slot)) {
        Some(CacheEntry::Value(value)) => Some(value.clone()),
        _ => None,
    }
}

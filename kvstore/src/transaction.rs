//! Transactions: reads at the newest state, writes kept aside until they commit as one.
//!
//! A transaction lives within one step of one task: nothing else runs between its begin and its
//! commit, so what it read is what it commits on; a caller that awaits in between and is overtaken
//! gets [`CommitError::Conflict`]. Its writes are seen by itself at once and by
//! everybody else after the commit, all together.
//!
//! It may change files too ([`Transaction::files`]): they are part of the same commit.
//!
//! What it reads may have to be loaded from the disk first. Then it is in vain, and run again from the start (`fault`).

use alloc::vec::Vec;
use core::cell::Ref;

use lfs::{BlockDevice, FileChanges, FileError};

use crate::fault::{FAULTS_MAX, Fault, KeysFault, KeysRead, Loaded, Missing};
use crate::index::{Applied, Index};
use crate::keyspace::ENTRY_BYTES;
use crate::record::{Change, RECORD_BYTES_MAX, RUN_RECORD_BYTES_MAX, Record};
use crate::store::Store;
use crate::version::{OLDER_VERSION_BYTES, Version};
use crate::write_set::{Write, WriteSet};
use crate::{
    CommitError, DATABASE_COUNT, DatabaseIndex, Entry, KEY_BYTES_MAX, Key, Timestamp, Value,
};

/// A set of reads and writes that becomes one commit, or nothing when dropped.
///
/// A read returns [`Missing`] when something has to be loaded first; what, is noted. The transaction will not commit
/// then: other reads may still tell what they will need, [`take_faults`](Self::take_faults) says what that is, and once it
/// is loaded ([`Store::load_all`]) the transaction is run again from the start.
pub struct Transaction<'s, D: BlockDevice> {
    store: &'s Store<D>,
    /// The newest commit when it began; still so when it commits, unless the caller awaited in between.
    begun: Timestamp,
    now_ms: i64,
    file_time_ns: i64,
    writes: WriteSet,
    /// The newest commit that what was read depends on.
    depends_on: Timestamp,
    /// None until files are touched.
    files: Option<FileChanges>,
    loaded: &'s mut Loaded,
    /// What was found missing.
    faults: Vec<Fault>,
    /// Something was: what was read is not all there is, and nothing may come of it.
    in_vain: bool,
    /// Random keys that were asked for.
    draws: u64,
}

/// What a commit would take, and do to the size of the data, in bytes.
#[derive(Default)]
pub(crate) struct Growth {
    /// The encoded commit, at most.
    pub payload: usize,
    /// By how much memory grows.
    pub memory: i64,
    /// Memory that comes free later, when snapshots go that still see what is overwritten.
    pub kept: i64,
    /// A key is longer than there can be.
    pub key_too_long: bool,
    /// By how much a run of all live data grows.
    pub run: i64,
}

impl<'s, D: BlockDevice> Transaction<'s, D> {
    pub(crate) fn new(
        store: &'s Store<D>,
        now_ms: i64,
        file_time_ns: i64,
        loaded: &'s mut Loaded,
    ) -> Self {
        Self {
            begun: store.committed(),
            store,
            now_ms,
            file_time_ns,
            writes: WriteSet::default(),
            depends_on: Timestamp::default(),
            files: None,
            loaded,
            faults: Vec::new(),
            in_vain: false,
            draws: 0,
        }
    }

    /// Runs `body` on the files as this transaction sees them. When it fails, nothing it did stays, and the transaction
    /// can go on; but for [`FileError::Fault`], which puts it in vain.
    ///
    /// # Errors
    /// What `body` returns.
    pub fn files<T>(
        &mut self,
        body: impl FnOnce(&mut lfs::Transaction<'_>) -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        let filesystem = &self.store.filesystem;
        let begin = || filesystem.begin_changes(self.file_time_ns, &mut self.loaded.files);
        let changes = self.files.get_or_insert_with(begin);
        self.depends_on = self.depends_on.max(Timestamp(filesystem.file_commit().0));
        let result = filesystem.change_files(changes, &self.loaded.files, body);
        if let Err(FileError::Fault(fault)) = &result {
            let fault = Fault::File(fault.clone());
            self.note(fault);
        }
        result
    }

    /// Whether something that was read is missing: this transaction will not commit.
    pub fn is_in_vain(&self) -> bool {
        self.in_vain
    }

    /// Whether as much is noted as missing as there can be: no need to read on in vain.
    pub fn has_all_faults(&self) -> bool {
        self.faults.len() >= FAULTS_MAX
    }

    /// What has to be loaded before this transaction can be run; what is needed first comes first. Nothing unless it
    /// [is in vain](Self::is_in_vain).
    pub fn take_faults(&mut self) -> Vec<Fault> {
        core::mem::take(&mut self.faults)
    }

    /// Asks for several keys at once that will be read: what they need is noted as missing, unless it is there.
    pub fn want(&mut self, db: DatabaseIndex, keys: &mut dyn Iterator<Item = &[u8]>) {
        for key in keys {
            if self.has_all_faults() {
                break;
            }
            let writes = self.writes.of(db);
            let hidden = writes.is_some_and(|writes| match writes.get(key) {
                Some(Write::Put(..) | Write::Delete) => true,
                Some(Write::Append(_) | Write::Expire(_)) => false,
                None => writes.cleared,
            });
            if !hidden {
                // Whether it is missing is noted either way.
                let _ = self.need(|| KeysRead::Key(db, Key::from(key)));
            }
        }
    }

    /// Drops the transaction, but finds out first whether a commit would ask for something to be loaded. If not, the
    /// same transaction, run again with no await in between, finds everything in memory.
    ///
    /// # Errors
    /// [`CommitError::Fault`], or what cannot be read.
    pub fn rehearse(mut self) -> Result<(), CommitError> {
        if self.in_vain {
            return Err(CommitError::Fault(self.take_faults()));
        }
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
        if let Some(writes) = self.writes.of(db) {
            match writes.get(key) {
                Some(Write::Put(value, expires_at_ms)) => {
                    return Ok(Some(Entry {
                        value: value.clone(),
                        expires_at_ms: *expires_at_ms,
                    }));
                }
                Some(Write::Delete) => return Ok(None),
                None if writes.cleared => return Ok(None),
                // What is stored, or that with a change.
                Some(Write::Append(_) | Write::Expire(_)) | None => {}
            }
        }
        let Some(mut entry) = self.stored(db, key)? else {
            return Ok(None);
        };
        match self.writes.of(db).and_then(|writes| writes.get(key)) {
            Some(Write::Append(tail)) => entry.value.append(tail),
            Some(Write::Expire(expires_at_ms)) => entry.expires_at_ms = *expires_at_ms,
            _ => {}
        }
        Ok(Some(entry))
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
            self.write_delete(db, key);
        } else {
            self.write(db, key, Write::Put(value.into(), expires_at_ms));
        }
    }

    /// Appends `tail` to the live value of `key`, which keeps its expiry, or creates it. Returns the
    /// new length. Only the tail goes to the log.
    ///
    /// # Errors
    /// Something has to be loaded first.
    pub fn append(&mut self, db: DatabaseIndex, key: &[u8], tail: &[u8]) -> Result<usize, Missing> {
        let Some(mut entry) = self.get(db, key)? else {
            self.put(db, key, tail, None);
            return Ok(tail.len());
        };
        let len = entry.value.len() + tail.len();
        let own_write = self.writes.of_mut(db).get_mut(key);
        match own_write {
            None => self.write(db, key, Write::Append(tail.to_vec())),
            Some(Write::Append(own_tail)) => own_tail.extend_from_slice(tail),
            Some(own_write) => {
                entry.value.append(tail);
                *own_write = Write::Put(entry.value, entry.expires_at_ms);
            }
        }
        Ok(len)
    }

    /// Deletes `key`; whether there was a live value.
    ///
    /// # Errors
    /// Something has to be loaded first.
    pub fn delete(&mut self, db: DatabaseIndex, key: &[u8]) -> Result<bool, Missing> {
        let existed = self.get(db, key)?.is_some();
        self.write_delete(db, key);
        Ok(existed)
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
        let Some(entry) = self.get(db, key)? else {
            return Ok(false);
        };
        if expires_at_ms.is_some_and(|at| at <= self.now_ms) {
            self.write(db, key, Write::Delete);
        } else if self
            .writes
            .of(db)
            .is_some_and(|w| w.cleared || w.get(key).is_some())
        {
            self.write(db, key, Write::Put(entry.value, expires_at_ms));
        } else {
            self.write(db, key, Write::Expire(expires_at_ms));
        }
        Ok(true)
    }

    /// Empties one database. Constant time; the memory comes back in the background.
    pub fn clear(&mut self, db: DatabaseIndex) {
        self.writes.of_mut(db).clear();
    }

    /// Number of keys, own writes included. Expired ones that are not yet reclaimed count, as in Redis.
    ///
    /// # Errors
    /// Something has to be loaded first.
    pub fn count(&mut self, db: DatabaseIndex) -> Result<u64, Missing> {
        self.need(|| KeysRead::Count(db))?;
        self.depends_on = self.store.committed();
        let index = self.index();
        let space = index.live(db);
        let Some(writes) = self.writes.of(db) else {
            return Ok(space.live_count());
        };
        let stored = |key: &Key| {
            !writes.cleared
                && space
                    .newest(key)
                    .is_some_and(|version| version.value.is_some())
        };
        let base = if writes.cleared {
            0
        } else {
            space.live_count()
        };
        let count = |count, (key, write): (&Key, &Write)| match (write, stored(key)) {
            (Write::Put(..), false) => count + 1,
            (Write::Delete, true) => count - 1,
            _ => count,
        };
        Ok(writes.iter().fold(base, count))
    }

    /// Visits about `count` keys from `cursor` (0 begins) and returns the next cursor (0 ends).
    ///
    /// SCAN's guarantee: a key that is there from the beginning to the end of a walk is visited.
    /// Expired keys are left out; keys that this transaction created come with the last step.
    ///
    /// # Errors
    /// Something has to be loaded first.
    pub fn scan(
        &mut self,
        db: DatabaseIndex,
        cursor: u64,
        count: usize,
        keys: &mut Vec<Key>,
    ) -> Result<u64, Missing> {
        self.need(|| KeysRead::Scan(db, cursor))?;
        self.depends_on = self.store.committed();
        let index = self.index();
        let space = index.live(db);
        let Some(own) = self.writes.of(db) else {
            let push = |key: &Key| keys.push(Key::clone(key));
            return Ok(space.scan(cursor, count, self.now_ms, push));
        };
        let next = if own.cleared {
            0
        } else {
            space.scan(cursor, count, self.now_ms, |key| {
                if !matches!(own.get(key), Some(Write::Delete)) {
                    keys.push(Key::clone(key));
                }
            })
        };
        if next == 0 {
            let stored = |key: &Key| {
                let newest = space.newest(key).filter(|_| !own.cleared);
                newest.is_some_and(|version| version.is_live_at(self.now_ms))
            };
            let created = own
                .iter()
                .filter(|(key, write)| !matches!(write, Write::Delete) && !stored(key));
            keys.extend(created.map(|(key, _)| Key::clone(key)));
        }
        Ok(next)
    }

    /// Appends up to `limit` live keys in order after `after` to `keys`, own writes included.
    ///
    /// # Errors
    /// Something has to be loaded first.
    pub fn keys_after(
        &mut self,
        db: DatabaseIndex,
        after: Option<&[u8]>,
        limit: usize,
        keys: &mut Vec<Key>,
    ) -> Result<(), Missing> {
        self.need(|| KeysRead::After(db, after.map(Key::from)))?;
        self.depends_on = self.store.committed();
        let now_ms = self.now_ms;
        let own = self.writes.of(db);
        let cleared = own.is_some_and(|writes| writes.cleared);
        let live = |version: &Version| !cleared && version.is_live_at(now_ms);
        let index = self.index();
        let stored = index.live(db).range_at(after, Timestamp(u64::MAX));
        let mut stored = stored
            .filter(|(_, version)| live(version))
            .map(|(key, _)| key)
            .peekable();
        let written = own.map(|writes| writes.range(after));
        let mut written = written.into_iter().flatten().peekable();
        let end = keys.len() + limit;
        while keys.len() < end {
            // The smaller key comes next; an own write hides the stored one.
            let own_first = match (stored.peek(), written.peek()) {
                (None, None) => return Ok(()),
                (Some(stored_key), Some((own_key, _))) => own_key <= stored_key,
                (None, Some(_)) => true,
                (Some(_), None) => false,
            };
            if !own_first {
                keys.extend(stored.next().map(Key::clone));
            } else if let Some((key, write)) = written.next() {
                stored.next_if(|stored_key| *stored_key == key);
                if !matches!(write, Write::Delete) {
                    keys.push(Key::clone(key));
                }
            }
        }
        Ok(())
    }

    /// A live key, about uniformly at random as `random` is. Own writes are seen. When the transaction is run again,
    /// the number given first counts: another one would have other keys be missing each time.
    ///
    /// # Errors
    /// Something has to be loaded first.
    pub fn random_key(&mut self, db: DatabaseIndex, random: u64) -> Result<Option<Key>, Missing> {
        let random = self.loaded.random(self.draws, random);
        self.draws += 1;
        self.need(|| KeysRead::Random(db))?;
        self.depends_on = self.store.committed();
        if self.writes.of(db).is_some() {
            let mut keys = Vec::new();
            self.keys_after(db, None, 64, &mut keys)?;
            let at = random.checked_rem(keys.len() as u64);
            let at = at.and_then(|at| usize::try_from(at).ok());
            return Ok(at.and_then(|at| keys.get(at).cloned()));
        }
        Ok(self.index().live(db).random_key(random, self.now_ms))
    }

    /// Deletes up to `limit` keys whose time has come; how many.
    pub(crate) fn delete_expired(&mut self, limit: usize) -> Result<usize, Missing> {
        let mut count = 0;
        for db in (0..).map(DatabaseIndex).take(DATABASE_COUNT) {
            let index = self.index();
            let expired = index.live(db).expired(self.now_ms).take(limit - count);
            let expired = expired.cloned().collect::<Vec<_>>();
            count += expired.len();
            self.want(db, &mut expired.iter().map(|key| &**key));
            for key in expired {
                // Whether it has still expired is for what is stored to say.
                self.need(|| KeysRead::Key(db, Key::clone(&key)))?;
                self.writes.of_mut(db).insert(key, Write::Delete);
            }
        }
        Ok(count)
    }

    /// Whether nothing was written so far.
    pub fn is_read_only(&self) -> bool {
        self.writes.is_empty() && self.files.as_ref().is_none_or(FileChanges::is_empty)
    }

    /// Commits: the writes are visible to everybody, and the result says what a reply about this
    /// transaction depends on. The reply may leave once that is durable. What only read depends on
    /// the newest commit among those it read from.
    ///
    /// # Errors
    /// Nothing happened then; see [`CommitError`]. One that is in vain is a [`CommitError::Fault`].
    pub fn commit(mut self) -> Result<Timestamp, CommitError> {
        if self.in_vain {
            return Err(CommitError::Fault(self.take_faults()));
        }
        if self.is_read_only() {
            return Ok(self.depends_on);
        }
        let growth = self.growth();
        if self.begun != self.store.committed() {
            return Err(CommitError::Conflict);
        }
        if growth.key_too_long {
            return Err(CommitError::TooLarge);
        }
        self.store.check_room(&self.index(), &growth)?;
        let files = self.files.take();
        let encode = |payload: &mut Vec<u8>| self.encode(payload);
        let timestamp = match files.filter(|files| !files.is_empty()) {
            None => self.store.append(growth.payload, encode)?,
            Some(files) => self.store.commit_files(files, &growth, encode)?,
        };
        let mut index = self.store.index.borrow_mut();
        let nothing = Key::from([].as_slice());
        for (db, writes) in core::mem::take(&mut self.writes).into_iter() {
            if writes.cleared {
                index.apply(timestamp, db, &nothing, Applied::Clear);
                // There is garbage now.
                self.store.changed.notify();
            }
            for (key, write) in writes.into_iter() {
                let change = match write {
                    Write::Put(value, expires_at_ms) => Applied::Put(value, expires_at_ms),
                    Write::Delete => Applied::Delete,
                    Write::Append(ref tail) => Applied::Append(tail),
                    Write::Expire(expires_at_ms) => Applied::Expire(expires_at_ms),
                };
                index.apply(timestamp, db, &key, change);
            }
        }
        Ok(timestamp)
    }

    fn encode(&self, payload: &mut Vec<u8>) {
        for (db, writes) in self.writes.iter() {
            if writes.cleared {
                Record {
                    db,
                    key: &[],
                    change: Change::Clear,
                }
                .encode(payload);
            }
            for (key, write) in writes.iter() {
                let change = match write {
                    Write::Put(value, at) => Change::Put {
                        value,
                        expires_at_ms: *at,
                    },
                    Write::Delete => Change::Delete,
                    Write::Append(tail) => Change::Append { tail },
                    Write::Expire(at) => Change::Expire { expires_at_ms: *at },
                };
                Record { db, key, change }.encode(payload);
            }
        }
    }

    fn growth(&self) -> Growth {
        let mut growth = Growth::default();
        let index = self.index();
        for (db, writes) in self.writes.iter() {
            let space = index.live(db);
            if writes.cleared {
                growth.payload += RECORD_BYTES_MAX;
                growth.run -= signed(space.live_run_bytes());
            }
            for (key, write) in writes.iter() {
                let newest = space.newest(key);
                let stored = newest.and_then(|version| version.value.as_ref());
                let stored = stored.filter(|_| !writes.cleared);
                let old = stored.map_or(0, |value| entry_bytes(key, value.len()));
                let new = match (write, stored) {
                    (Write::Put(value, _), _) => entry_bytes(key, value.len()),
                    (Write::Delete, _) => 0,
                    (Write::Append(tail), _) => old + signed(tail.len() as u64),
                    (Write::Expire(_), _) => old,
                };
                let logged = match write {
                    Write::Put(value, _) => value.len(),
                    Write::Append(tail) => tail.len(),
                    Write::Delete | Write::Expire(_) => 0,
                };
                growth.payload += RECORD_BYTES_MAX + key.len() + logged;
                growth.key_too_long |= key.len() > KEY_BYTES_MAX;
                if newest.is_some_and(|version| {
                    index.pins.any_in(version.timestamp, Timestamp(u64::MAX))
                }) {
                    growth.kept += old + signed(OLDER_VERSION_BYTES as u64);
                }
                growth.memory += new - old;
                growth.memory += match (new > 0, old > 0) {
                    (true, false) => signed(ENTRY_BYTES as u64),
                    (false, true) => -signed(ENTRY_BYTES as u64),
                    _ => 0,
                };
                growth.run += new - old;
            }
        }
        growth
    }

    /// The live value in the store, and the dependency on it.
    fn stored(&mut self, db: DatabaseIndex, key: &[u8]) -> Result<Option<Entry>, Missing> {
        self.need(|| KeysRead::Key(db, Key::from(key)))?;
        let index = self.index();
        let version = index.live(db).newest(key);
        let read_from = version.map_or(index.last_removal(), |version| version.timestamp);
        let entry = version.and_then(|version| version.live_at(self.now_ms));
        self.depends_on = self.depends_on.max(read_from);
        Ok(entry)
    }

    /// Whether what `read` needs is in memory. Everything is, unless a test wants it otherwise (`misses`).
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
        self.note(Fault::Keys(KeysFault(read)));
        Err(Missing(()))
    }

    fn note(&mut self, fault: Fault) {
        self.in_vain = true;
        if !self.has_all_faults() && !self.faults.contains(&fault) {
            self.faults.push(fault);
        }
    }

    /// Deletes `key` unless nothing of it is there. An expired value not yet reclaimed is as good as gone; deleting it
    /// is the reclaimer's work.
    fn write_delete(&mut self, db: DatabaseIndex, key: &[u8]) {
        let writes = self.writes.of(db);
        if writes.is_some_and(|writes| writes.get(key).is_some())
            || self.index().live(db).newest(key).is_some()
        {
            self.write(db, key, Write::Delete);
        }
    }

    fn index(&self) -> Ref<'s, Index> {
        self.store.index.borrow()
    }

    fn write(&mut self, db: DatabaseIndex, key: &[u8], write: Write) {
        self.writes.of_mut(db).insert(Key::from(key), write);
    }
}

fn entry_bytes(key: &Key, value_len: usize) -> i64 {
    signed((RUN_RECORD_BYTES_MAX + key.len() + value_len) as u64)
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

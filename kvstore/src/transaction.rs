//! Transactions: reads at the newest state, writes kept aside until they commit as one.
//!
//! A transaction lives within one step of one task: nothing else runs between its begin and its
//! commit, so what it read is what it commits on; a caller that awaits in between and is overtaken
//! gets [`CommitError::Conflict`]. Its writes are seen by itself at once and by
//! everybody else after the commit, all together.
//!
//! It may change files too ([`Transaction::files`]): they are part of the same commit. Then something may have to be
//! loaded from the disk first, and the whole transaction is run again (`files`).

use alloc::vec::Vec;
use core::cell::Ref;

use lfs::{BlockDevice, Fault, FileError, Loaded};

use crate::files::FilePart;
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
pub struct Transaction<'s, D: BlockDevice> {
    store: &'s Store<D>,
    /// The newest commit when it began; still so when it commits, unless the caller awaited in between.
    begun: Timestamp,
    now_ms: i64,
    writes: WriteSet,
    /// The newest commit that what was read depends on.
    depends_on: Timestamp,
    /// None for transactions of keys only.
    files: Option<FilePart<'s>>,
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
    pub(crate) fn new(store: &'s Store<D>, now_ms: i64) -> Self {
        Self {
            begun: store.committed(),
            store,
            now_ms,
            writes: WriteSet::default(),
            depends_on: Timestamp::default(),
            files: None,
        }
    }

    /// With files as well: `file_time_ns` (Unix nanoseconds) is the time their changes get.
    pub(crate) fn with_files(
        store: &'s Store<D>,
        now_ms: i64,
        file_time_ns: i64,
        loaded: &'s mut Loaded,
    ) -> Self {
        Self {
            files: Some(FilePart::new(&store.filesystem, file_time_ns, loaded)),
            ..Self::new(store, now_ms)
        }
    }

    /// Runs `body` on the files as this transaction sees them. When it fails, nothing it did stays, and the transaction
    /// can go on; but for [`FileError::Fault`], which ends it: drop it, [`Store::load`] what
    /// [`take_fault`](Self::take_fault) says, and run it again.
    ///
    /// # Errors
    /// What `body` returns; [`FileError::ReadOnly`] in a transaction begun without files.
    pub fn files<T>(
        &mut self,
        body: impl FnOnce(&mut lfs::Transaction<'_>) -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        let files = self.files.as_mut().ok_or(FileError::ReadOnly)?;
        let filesystem = &self.store.filesystem;
        self.depends_on = self.depends_on.max(Timestamp(filesystem.file_commit().0));
        files.run(filesystem, body)
    }

    /// What has to be loaded before this transaction can be run, if something turned out to be missing.
    pub fn take_fault(&mut self) -> Option<Fault> {
        self.files.as_mut()?.take_fault()
    }

    /// Drops the transaction, but finds out first whether a commit of its files would ask for something to be loaded.
    ///
    /// # Errors
    /// [`CommitError::Fault`], or what cannot be read.
    pub fn rehearse(self) -> Result<(), CommitError> {
        match &self.files {
            Some(files) => files.rehearse(&self.store.filesystem),
            None => Ok(()),
        }
    }

    /// The time that decides what is expired, in Unix milliseconds.
    pub fn now_ms(&self) -> i64 {
        self.now_ms
    }

    /// The live value of `key`, own writes included.
    pub fn get(&mut self, db: DatabaseIndex, key: &[u8]) -> Option<Entry> {
        let Some(writes) = self.writes.of(db) else {
            return self.stored(db, key);
        };
        match writes.get(key) {
            Some(Write::Put(value, expires_at_ms)) => Some(Entry {
                value: value.clone(),
                expires_at_ms: *expires_at_ms,
            }),
            Some(Write::Delete) => None,
            Some(Write::Append(tail)) => {
                let mut entry = self.index().live(db).newest(key)?.live_at(self.now_ms)?;
                entry.value.append(tail);
                Some(entry)
            }
            Some(Write::Expire(expires_at_ms)) => {
                let entry = self.index().live(db).newest(key)?.live_at(self.now_ms)?;
                Some(Entry {
                    expires_at_ms: *expires_at_ms,
                    ..entry
                })
            }
            None if writes.cleared => None,
            None => self.stored(db, key),
        }
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
            self.delete(db, key);
        } else {
            self.write(db, key, Write::Put(value.into(), expires_at_ms));
        }
    }

    /// Appends `tail` to the live value of `key`, which keeps its expiry, or creates it. Returns the
    /// new length. Only the tail goes to the log.
    pub fn append(&mut self, db: DatabaseIndex, key: &[u8], tail: &[u8]) -> usize {
        let Some(mut entry) = self.get(db, key) else {
            self.put(db, key, tail, None);
            return tail.len();
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
        len
    }

    /// Deletes `key`; whether there was a live value.
    pub fn delete(&mut self, db: DatabaseIndex, key: &[u8]) -> bool {
        let existed = self.get(db, key).is_some();
        // An expired value not yet reclaimed is as good as gone; deleting it is the reclaimer's work.
        if existed || self.index().live(db).newest(key).is_some() {
            self.write(db, key, Write::Delete);
        }
        existed
    }

    /// Changes only the expiry of `key`; false when there is no live value. One that has passed
    /// deletes it.
    pub fn set_expiry(
        &mut self,
        db: DatabaseIndex,
        key: &[u8],
        expires_at_ms: Option<i64>,
    ) -> bool {
        let Some(entry) = self.get(db, key) else {
            return false;
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
        true
    }

    /// Empties one database. Constant time; the memory comes back in the background.
    pub fn clear(&mut self, db: DatabaseIndex) {
        self.writes.of_mut(db).clear();
    }

    /// Number of keys, own writes included. Expired ones that are not yet reclaimed count, as in Redis.
    pub fn count(&mut self, db: DatabaseIndex) -> u64 {
        self.depends_on = self.store.committed();
        let index = self.index();
        let space = index.live(db);
        let Some(writes) = self.writes.of(db) else {
            return space.live_count();
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
        writes
            .iter()
            .fold(base, |count, (key, write)| match (write, stored(key)) {
                (Write::Put(..), false) => count + 1,
                (Write::Delete, true) => count - 1,
                _ => count,
            })
    }

    /// Visits about `count` keys from `cursor` (0 begins) and returns the next cursor (0 ends).
    ///
    /// SCAN's guarantee: a key that is there from the beginning to the end of a walk is visited.
    /// Expired keys are left out; keys that this transaction created come with the last step.
    pub fn scan(
        &mut self,
        db: DatabaseIndex,
        cursor: u64,
        count: usize,
        keys: &mut Vec<Key>,
    ) -> u64 {
        self.depends_on = self.store.committed();
        let index = self.index();
        let space = index.live(db);
        let Some(own) = self.writes.of(db) else {
            let push = |key: &Key| keys.push(Key::clone(key));
            return space.scan(cursor, count, self.now_ms, push);
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
        next
    }

    /// Appends up to `limit` live keys in order after `after` to `keys`, own writes included.
    pub fn keys_after(
        &mut self,
        db: DatabaseIndex,
        after: Option<&[u8]>,
        limit: usize,
        keys: &mut Vec<Key>,
    ) {
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
                (None, None) => return,
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
    }

    /// A live key, about uniformly at random as `random` is. Own writes are seen.
    pub fn random_key(&mut self, db: DatabaseIndex, random: u64) -> Option<Key> {
        self.depends_on = self.store.committed();
        if self.writes.of(db).is_some() {
            let mut keys = Vec::new();
            self.keys_after(db, None, 64, &mut keys);
            let at = random.checked_rem(keys.len() as u64)?;
            return keys.get(usize::try_from(at).ok()?).cloned();
        }
        self.index().live(db).random_key(random, self.now_ms)
    }

    /// Deletes up to `limit` keys whose time has come; how many.
    pub(crate) fn delete_expired(&mut self, limit: usize) -> usize {
        let mut count = 0;
        for db in (0..).map(DatabaseIndex).take(DATABASE_COUNT) {
            let index = self.index();
            let expired = index.live(db).expired(self.now_ms).take(limit - count);
            let expired = expired.cloned().collect::<Vec<_>>();
            count += expired.len();
            for key in expired {
                self.writes.of_mut(db).insert(key, Write::Delete);
            }
        }
        count
    }

    /// Whether nothing was written so far.
    pub fn is_read_only(&self) -> bool {
        self.writes.is_empty() && self.files.as_ref().is_none_or(FilePart::is_empty)
    }

    /// Commits: the writes are visible to everybody, and the result says what a reply about this
    /// transaction depends on. The reply may leave once that is durable. What only read depends on
    /// the newest commit among those it read from.
    ///
    /// # Errors
    /// Nothing happened then; see [`CommitError`].
    pub fn commit(mut self) -> Result<Timestamp, CommitError> {
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
    fn stored(&mut self, db: DatabaseIndex, key: &[u8]) -> Option<Entry> {
        let index = self.index();
        let version = index.live(db).newest(key);
        let read_from = version.map_or(index.last_removal(), |version| version.timestamp);
        let entry = version.and_then(|version| version.live_at(self.now_ms));
        self.depends_on = self.depends_on.max(read_from);
        entry
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

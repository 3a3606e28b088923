//! Keys in order, as a transaction sees them: the store's, with its own writes laid over them; and what has to do with many keys.

use alloc::vec::Vec;
use core::cmp::Ordering;
use core::iter;

use lfs::BlockDevice;

use smallvec::SmallVec;

use super::{NEWEST, Transaction};
use crate::engine::cache::CacheKey;
use crate::engine::cached::{CacheEntry, Row};
use crate::engine::loads::{Reader, Wanted};
use crate::engine::look_up::InCache;
use crate::engine::merge::{ScanStep, looks_for};
use crate::engine::table::table_random_key;
use crate::engine::types::{
    Content, Missing as NotInMemory, OutOfMemory, Pieces, VersionRef, engine_key,
};
use crate::fault::{Fault, LOADED_KEY_BYTES_MAX, LoadError, Missing};
use crate::misses::KeysRead;
use crate::values::cached_as;
use crate::write_set::{Write, Writes};
use crate::{DatabaseIndex, Entry, Key, Timestamp, Value};

/// Entries that a step of SCAN looks at, for each key that was asked for, and at least.
const LOOKS_PER_KEY: usize = 4;
const LOOKS_MIN: usize = 256;

/// Random places that are tried before the first live key will do.
const RANDOM_TRIES: usize = 16;

/// Keys of a range for which there is room from the beginning, at most.
const RANGE_RESERVED: usize = 128;

/// Pairs of a key's history, at most.
const HISTORY_MAX: usize = 65_536;

/// What part of a database is walked through, and which way.
#[derive(Clone, Copy)]
struct Part<'k> {
    db: DatabaseIndex,
    /// The first key that belongs to it.
    from: &'k [u8],
    /// The first one behind it; without one it goes to the last key.
    end: Option<&'k [u8]>,
    reverse: bool,
}

/// Who has a key.
enum Held {
    /// The transaction has written it.
    Own,
    /// The store, so.
    Stored(Row),
}

impl Held {
    fn stored(&self) -> Option<VersionRef<'_>> {
        match self {
            Self::Own => None,
            Self::Stored(row) => Some(row.version()),
        }
    }
}

/// What takes a key that a walk gives, and what the store has of it, unless the transaction has written it.
type Give<'g> = dyn FnMut(&[u8], Option<VersionRef<'_>>) -> Result<(), OutOfMemory> + 'g;

/// A key of a range whose value is not there yet.
struct Pending {
    place: usize,
    /// The version, and where its value is, unless the transaction has written it.
    stored: Option<(Timestamp, Pieces)>,
}

/// Large values of a range that are looked for in the cache together.
const LOOKED_AHEAD: usize = 32;

/// Where a walk has come to.
enum Walked {
    /// There are no more keys.
    End,
    /// It goes on: from this key, or, in reverse, with those before it.
    More(Key),
}

impl<D: BlockDevice> Transaction<'_, D> {
    /// Number of keys, own writes included. Expired ones that are not yet reclaimed count, as in Redis. In an open
    /// transaction of what others have committed as well. After a range delete it is the number without what that took away, until keys have been counted
    /// anew: above a million of them; where they cannot be, or range deletes keep on coming; and in a store that is only read.
    ///
    /// # Errors
    /// Something has to be loaded first, or keys be counted.
    pub fn count(&mut self, db: DatabaseIndex) -> Result<u64, Missing> {
        match self.known_count(db)? {
            Some(count) => Ok(count),
            None => self.count_range(db, &[], None),
        }
    }

    /// The same where it costs nothing to tell. `None` where each key would have to be looked at: of a state that is not the newest, or with range
    /// deletes of its own.
    ///
    /// # Errors
    /// Something has to be loaded first, or keys be counted.
    pub fn known_count(&mut self, db: DatabaseIndex) -> Result<Option<u64>, Missing> {
        self.need(|| KeysRead::Count(db))?;
        self.depend_on_all();
        self.note_range(db, &[], None)?;
        if self.open.as_ref().is_some_and(|open| !open.sees_newest()) {
            // There is no number of what it sees.
            return Ok(None);
        }
        let own = self.writes.of(db);
        let is_emptied = own.is_some_and(has_all);
        if own.is_some_and(|writes| writes.deleted().len() > 0) && !is_emptied {
            // How many go with what it deleted is not known before it has been committed.
            return Ok(None);
        }
        if !is_emptied && self.store.is_being_counted(db) {
            self.note(Fault::Count(db));
            return Err(Missing::new());
        }
        match self.count_now(db) {
            Ok(count) => Ok(Some(count)),
            Err(NotInMemory) => Err(self.miss()),
        }
    }

    fn count_now(&self, db: DatabaseIndex) -> Result<u64, NotInMemory> {
        let stored = self.store.engine.counts.borrow().keys(db);
        let Some(writes) = self.writes.of(db) else {
            return Ok(stored);
        };
        let all = has_all(writes);
        let mut count = if all { 0 } else { stored };
        for (key, write) in writes.iter() {
            let is_there = !all && self.is_there(db, key)?;
            match (write, is_there) {
                (Write::Delete, true) => count = count.saturating_sub(1),
                (Write::Delete, false) | (_, true) => {}
                (_, false) => count += 1,
            }
        }
        Ok(count)
    }

    /// How many live keys there are from `start` on, up to `end`, not included: by looking at each.
    ///
    /// # Errors
    /// Something has to be loaded first.
    pub fn count_range(
        &mut self,
        db: DatabaseIndex,
        start: &[u8],
        end: Option<&[u8]>,
    ) -> Result<u64, Missing> {
        let mut count = 0;
        let part = Part {
            db,
            from: start,
            end,
            reverse: false,
        };
        self.walk(part, usize::MAX, &mut { usize::MAX }, &mut |_, _| {
            count += 1;
            Ok(())
        })?;
        Ok(count)
    }

    /// Visits about `count` keys from `cursor` (0 begins) and returns the next cursor (0 ends).
    ///
    /// SCAN's guarantee: a key that is there from the beginning to the end of a walk is visited. Expired keys are left out.
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
        let cursors = &self.store.engine.cursors;
        let found = match cursor {
            0 => None,
            cursor => cursors.borrow_mut().key_of(cursor),
        };
        // One that is not known goes on from the start.
        let from = found.filter(|(of, _)| *of == db).map(|(_, key)| key);
        let looks = count.saturating_mul(LOOKS_PER_KEY).max(LOOKS_MIN);
        let part = Part {
            db,
            from: from.as_deref().unwrap_or_default(),
            end: None,
            reverse: false,
        };
        match self.keys_of(part, count.max(1), looks, keys)? {
            Walked::End => Ok(0),
            Walked::More(key) => {
                let cursors = &self.store.engine.cursors;
                Ok(cursors.borrow_mut().cursor_for(db, &key))
            }
        }
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
        let from = after.map(behind);
        let part = Part {
            db,
            from: from.as_deref().unwrap_or_default(),
            end: None,
            reverse: false,
        };
        self.keys_of(part, limit, usize::MAX, keys)?;
        Ok(())
    }

    /// One step of a walk: appends live keys from `from` on, up to `end`, not included, in order to `keys`, own writes included: up to `limit`, and what
    /// is among the next entries. Where to go on, or `None` at the end.
    pub(crate) fn keys_step(
        &mut self,
        db: DatabaseIndex,
        from: &[u8],
        end: Option<&[u8]>,
        limit: usize,
        keys: &mut Vec<Key>,
    ) -> Result<Option<Key>, Missing> {
        let part = Part {
            db,
            from,
            end,
            reverse: false,
        };
        match self.keys_of(part, limit, LOOKS_MIN, keys)? {
            Walked::End => Ok(None),
            Walked::More(key) => Ok(Some(key)),
        }
    }

    /// Appends live keys of `part` to `keys`, up to `limit`, looking at `looks` entries at most.
    fn keys_of(
        &mut self,
        part: Part<'_>,
        limit: usize,
        mut looks: usize,
        keys: &mut Vec<Key>,
    ) -> Result<Walked, Missing> {
        self.walk(part, limit, &mut looks, &mut |key, _| {
            keys.try_reserve(1)?;
            keys.push(key.into());
            Ok(())
        })
    }

    /// Up to `limit` live keys from `start` on, up to `end`, not included, in order or from the end, with what they have if that
    /// is asked for. Own writes are included.
    ///
    /// # Errors
    /// Something has to be loaded first; or what is found takes more than [`LOADED_KEY_BYTES_MAX`].
    pub fn range(
        &mut self,
        db: DatabaseIndex,
        start: &[u8],
        end: &[u8],
        reverse: bool,
        limit: usize,
        with_values: bool,
    ) -> Result<Vec<(Key, Option<Entry>)>, Missing> {
        if start >= end {
            return Ok(Vec::new());
        }
        let (mut entries, mut bytes) = (Vec::new(), 0);
        if entries.try_reserve(limit.min(RANGE_RESERVED)).is_err() {
            return Err(self.fail(LoadError::OutOfMemory));
        }
        let mut pending: Vec<Pending> = Vec::new();
        let part = Part {
            db,
            from: start,
            end: Some(end),
            reverse,
        };
        self.walk(part, limit, &mut { usize::MAX }, &mut |key, version| {
            bytes += key.len();
            let mut entry = None;
            if with_values {
                let mut later = |stored| -> Result<_, OutOfMemory> {
                    let place = entries.len();
                    pending.try_reserve(1)?;
                    pending.push(Pending { place, stored });
                    Ok(Value::default())
                };
                let value = match version.map(|version| (version.content, version.timestamp)) {
                    None => later(None)?,
                    Some((Content::Tombstone, _)) => Value::default(),
                    Some((Content::Inline(inline), _)) => {
                        bytes += inline.len();
                        Value::from(inline)
                    }
                    Some((Content::Large(large), at)) => {
                        bytes += large.total() as usize;
                        later(Some((at, large.pieces())))?
                    }
                };
                entry = Some(Entry {
                    value,
                    expires_at_ms: version.and_then(|version| version.expiry()),
                });
            }
            if bytes > LOADED_KEY_BYTES_MAX {
                return Err(OutOfMemory);
            }
            entries.try_reserve(1)?;
            entries.push((Key::from(key), entry));
            Ok(())
        })?;
        self.resolve(db, &pending, &mut entries)?;
        Ok(entries)
    }

    /// Puts values into their places.
    fn resolve(
        &mut self,
        db: DatabaseIndex,
        pending: &[Pending],
        entries: &mut [(Key, Option<Entry>)],
    ) -> Result<(), Missing> {
        let mut missing = None;
        for together in pending.chunks(LOOKED_AHEAD) {
            self.look_ahead(db, together, entries);
            for Pending { place, stored } in together {
                let Some((key, entry)) = entries.get_mut(*place) else {
                    continue;
                };
                let found = match (stored, &mut *entry) {
                    (Some((version, pieces)), Some(entry)) => {
                        let value = self.large_value(db, key, *version, pieces);
                        value.map(|value| entry.value = value)
                    }
                    _ => self.get(db, key).map(|own| *entry = own),
                };
                // The others tell what they will need.
                if let Err(one) = found {
                    missing = Some(one);
                }
                if self.has_all_faults() {
                    return missing.map_or(Ok(()), Err);
                }
            }
        }
        missing.map_or(Ok(()), Err)
    }

    /// Has the cache look for large values that will be asked for.
    fn look_ahead(&self, db: DatabaseIndex, pending: &[Pending], entries: &[(Key, Option<Entry>)]) {
        let key_of = |pending: &Pending| Some(engine_key(db, &entries.get(pending.place)?.0));
        let mut keys = SmallVec::<[_; LOOKED_AHEAD]>::new();
        keys.extend(pending.iter().filter_map(key_of));
        let rows = keys.iter().map(|key| CacheKey::Row(key));
        let slot_of = |pending: &Pending| cached_as(&pending.stored.as_ref()?.1);
        let values = pending.iter().filter_map(slot_of).map(CacheKey::Value);
        let cache = self.store.engine.cache.borrow();
        cache.look_ahead(rows.chain(values), CacheEntry::value_byte);
    }

    /// What `key` had, newest first, up to where history is kept: the commit that made it so, and the value, or nothing. What
    /// has expired is nothing. Own writes are not in it.
    ///
    /// # Errors
    /// Something has to be loaded first.
    pub fn history(
        &mut self,
        db: DatabaseIndex,
        key: &[u8],
        limit: usize,
    ) -> Result<Vec<(Timestamp, Option<Value>)>, Missing> {
        self.depend_on_all();
        self.note_range(db, key, Some(&behind(key)))?;
        if limit == 0 {
            return Ok(Vec::new());
        }
        let versions_of = engine_key(db, key);
        let is_locked = self.open.as_ref();
        let is_locked = is_locked.is_some_and(|open| open.has_locked(&versions_of));
        let at = if is_locked { NEWEST } else { self.at() };
        let rows = match self.versions(&versions_of, at, limit.min(HISTORY_MAX)) {
            Ok(rows) => rows,
            Err(Stopped::Missing) => return Err(self.miss()),
            Err(Stopped::OutOfMemory) => return Err(self.fail(LoadError::OutOfMemory)),
        };
        let mut history = Vec::new();
        let mut missing = None;
        for row in rows {
            let value = match row.large() {
                _ if !row.is_live_at(self.now_ms) => Ok(None),
                Some(large) => {
                    let pieces = large.pieces();
                    let value = self.large_value(db, key, row.timestamp, &pieces);
                    value.map(Some)
                }
                None => self.value_of(&row, InCache::Never).map(Some),
            };
            match value {
                Ok(value) => history.push((row.timestamp, value)),
                Err(one) => missing = Some(one),
            }
            if self.has_all_faults() {
                break;
            }
        }
        missing.map_or(Ok(history), Err)
    }

    /// The versions of a key that are kept, newest first; a range delete is one without a value.
    fn versions(&self, key: &[u8], at: Timestamp, limit: usize) -> Result<Vec<Row>, Stopped> {
        let engine = &self.store.engine;
        let floor = engine.floor.get();
        let tree = engine.tree.borrow();
        let reader = self.reader();
        let mut merge = tree.merge(&reader, at).map_err(Stopped::from)?;
        merge.seek(key)?;
        let (mut rows, mut bytes): (Vec<Row>, _) = (Vec::new(), 0);
        // Up to where range deletes have been looked for.
        let mut until = at;
        loop {
            let version = merge.version().filter(|(_, of, _)| *of == key);
            let version = version.map(|(_, _, version)| version);
            if version.is_some_and(|version| version.timestamp > at) {
                merge.next_version()?;
                continue;
            }
            let since = version.map_or(Timestamp(0), |version| version.timestamp);
            while let Some(deleted) = tree.deleted_at(&reader, key, until)?
                && deleted > since
            {
                rows.try_reserve(1).map_err(|_| Stopped::OutOfMemory)?;
                rows.push(Row {
                    timestamp: deleted,
                    ..Row::ABSENT
                });
                if rows.len() >= limit || deleted <= floor {
                    return Ok(rows);
                }
                until = Timestamp(deleted.0.saturating_sub(1));
            }
            let Some(version) = version else {
                return Ok(rows);
            };
            let row = Row {
                timestamp: version.timestamp,
                ..Row::of(&version)
            };
            bytes += row.value_len();
            if bytes > LOADED_KEY_BYTES_MAX {
                return Err(Stopped::OutOfMemory);
            }
            rows.try_reserve(1).map_err(|_| Stopped::OutOfMemory)?;
            rows.push(row);
            if rows.len() >= limit || version.timestamp <= floor {
                return Ok(rows);
            }
            until = Timestamp(version.timestamp.0.saturating_sub(1));
            merge.next_version()?;
        }
    }

    /// Gives live keys of `part`, up to `limit`, looking at `looks` entries at most, of the store's and of its own.
    fn walk(
        &mut self,
        part: Part<'_>,
        limit: usize,
        looks: &mut usize,
        give: &mut Give<'_>,
    ) -> Result<Walked, Missing> {
        self.depend_on_all();
        if limit == 0 {
            return Ok(Walked::End);
        }
        self.need(|| KeysRead::From(part.db, part.from.into()))?;
        let walked = match self.walk_stored(part, limit, looks, give) {
            Ok(walked) => walked,
            Err(Stopped::Missing) => return Err(self.miss()),
            Err(Stopped::OutOfMemory) => return Err(self.fail(LoadError::OutOfMemory)),
        };
        let (from, end) = match &walked {
            Walked::End => (part.from, part.end),
            Walked::More(key) if part.reverse => (&key[..], part.end),
            Walked::More(key) => (part.from, Some(&key[..])),
        };
        self.note_range(part.db, from, end)?;
        Ok(walked)
    }

    fn walk_stored(
        &self,
        part: Part<'_>,
        limit: usize,
        looks: &mut usize,
        give: &mut Give<'_>,
    ) -> Result<Walked, Stopped> {
        let Part { db, from, end, .. } = part;
        let own = self.writes.of(db);
        let hides = |key: &[u8]| own.is_some_and(|writes| writes.hides(key));
        let engine_end = match end {
            Some(end) => engine_key(db, end),
            None => engine_key(DatabaseIndex(db.0 + 1), &[]),
        };
        let written = own.into_iter().flat_map(|writes| writes.range(from, end));
        let written = written.map(|(key, write)| (&**key, Laid::Written(write)));
        let start = engine_key(db, from);
        let open = self.open.as_ref().into_iter();
        let locked = open.flat_map(|open| open.locked_in(&start, &engine_end));
        let locked = locked.filter_map(|(key, _)| Some((key.get(1..)?, Laid::Locked)));
        let mut laid = merged(
            directed(written, part.reverse),
            directed(locked, part.reverse),
            part.reverse,
        );
        let mut over = laid.next();
        let tree = self.store.engine.tree.borrow();
        let reader = self.reader();
        let mut merge = tree.merge(&reader, self.at()).map_err(Stopped::from)?;
        if part.reverse {
            merge.seek_back(Some(&engine_end))?;
        } else {
            merge.seek(&start)?;
        }
        let goes_on = |key: &[u8]| {
            if part.reverse {
                Key::from(key)
            } else {
                behind(key).into()
            }
        };
        let (mut given, mut found) = (0, Vec::new());
        loop {
            let (mut live, mut is_more) = (None, false);
            match merge.next_visible(looks, &mut found)? {
                ScanStep::Key(version) if version.is_live_at(self.now_ms) => live = Some(version),
                ScanStep::Key(_) => {}
                ScanStep::More => is_more = true,
                ScanStep::End => found.clear(),
            }
            let here = found.split_first().filter(|(of, _)| **of == db.0);
            let here = here.map(|(_, key)| key);
            let here = here.filter(|key| *key >= from && end.is_none_or(|end| *key < end));
            // What is laid over what is stored comes first, up to there.
            let comes_first = |key: &[u8]| {
                here.is_none_or(|here| if part.reverse { key > here } else { key < here })
            };
            while let Some((key, what)) = over.filter(|(key, _)| comes_first(key)) {
                over = laid.next();
                if let Some(held) = self.laid(db, key, what)? {
                    give(key, held.stored())?;
                    given += 1;
                }
                *looks = looks.saturating_sub(looks_for(key));
                if given >= limit || *looks == 0 {
                    return Ok(Walked::More(goes_on(key)));
                }
            }
            let Some(here) = here else {
                return Ok(Walked::End);
            };
            if is_more {
                return Ok(Walked::More(here.into()));
            }
            let before = given;
            if let Some((key, what)) = over.filter(|(key, _)| *key == here) {
                over = laid.next();
                if let Some(held) = self.laid(db, key, what)? {
                    give(here, held.stored())?;
                    given += 1;
                }
            } else if live.is_some() && !hides(here) {
                give(here, live)?;
                given += 1;
            }
            if given > before && given >= limit {
                return Ok(Walked::More(goes_on(here)));
            }
        }
    }

    /// Who has a key that is laid over what is stored, if it is there.
    fn laid(
        &self,
        db: DatabaseIndex,
        key: &[u8],
        what: Laid<'_>,
    ) -> Result<Option<Held>, NotInMemory> {
        match what {
            Laid::Written(Write::Delete) => Ok(None),
            Laid::Written(_) => Ok(Some(Held::Own)),
            Laid::Locked if self.writes.of(db).is_some_and(|own| own.hides(key)) => Ok(None),
            Laid::Locked => {
                let (engine, loaded) = (&self.store.engine, &self.loaded.chunks);
                let (key, faults) = (engine_key(db, key), &self.chunk_faults);
                let found = engine.look_up(&key, NEWEST, loaded, faults, Wanted::All)?;
                let row = Some(found.row).filter(|row| row.is_live_at(self.now_ms));
                Ok(row.map(Held::Stored))
            }
        }
    }

    /// What was found depends on all that is seen, and on what is locked as it is now.
    fn depend_on_all(&mut self) {
        let newest = self.store.committed();
        let locks = self.open.as_ref().is_some_and(|open| open.sees_locked());
        let all = if locks { newest } else { newest.min(self.at()) };
        self.depends_on = self.depends_on.max(all);
    }

    fn reader(&self) -> Reader<'_> {
        let (engine, loaded) = (&self.store.engine, &self.loaded.chunks);
        Reader::new(engine, loaded, &self.chunk_faults, Wanted::All)
    }

    /// Keys from `start` on, up to `end`, not included, were read.
    fn note_range(
        &mut self,
        db: DatabaseIndex,
        start: &[u8],
        end: Option<&[u8]>,
    ) -> Result<(), Missing> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        let end = match end {
            Some(end) => engine_key(db, end),
            None => engine_key(DatabaseIndex(db.0 + 1), &[]),
        };
        match open.note_range(&engine_key(db, start), &end) {
            Ok(()) => Ok(()),
            Err(_) => Err(self.fail(LoadError::TransactionTooLarge)),
        }
    }

    /// A live key, about uniformly at random as `random` is. Own writes are seen.
    ///
    /// # Errors
    /// Something has to be loaded first.
    pub fn random_key(&mut self, db: DatabaseIndex, random: u64) -> Result<Option<Key>, Missing> {
        self.need(|| KeysRead::Random(db))?;
        // A further attempt has to look for the same.
        let mut random = self.loaded.random(self.draws, random);
        self.draws += 1;
        self.note_range(db, &[], None)?;
        self.depend_on_all();
        if self.writes.of(db).is_some() || self.at() != NEWEST {
            let mut keys = Vec::new();
            self.keys_after(db, None, 64, &mut keys)?;
            let at = random.checked_rem(keys.len() as u64).unwrap_or(0);
            return Ok(usize::try_from(at)
                .ok()
                .and_then(|at| keys.get(at).cloned()));
        }
        for _ in 0..RANDOM_TRIES {
            let key = match self.random_place(db, random) {
                Ok(key) => key,
                Err(NotInMemory) => return Err(self.miss()),
            };
            random = random.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
            let Some(key) = key else { continue };
            let user_key = key.get(1..).unwrap_or_default();
            if self.live(db, user_key)?.is_some() {
                return Ok(Some(user_key.into()));
            }
        }
        let mut keys = Vec::new();
        self.keys_after(db, None, 1, &mut keys)?;
        Ok(keys.pop())
    }

    /// Some key of `db` that was written at some time, if there is one where `random` says.
    fn random_place(&self, db: DatabaseIndex, random: u64) -> Result<Option<Key>, NotInMemory> {
        let engine = &self.store.engine;
        let tree = engine.tree.borrow();
        let tables = || {
            let tables = tree.runs().iter().flat_map(|run| &run.tables);
            tables.filter(|table| table.may_have_of(db))
        };
        let in_memory = tree.memtables().map(|memtable| memtable.entries() as u64);
        let in_tables = tables().map(|table| table.stats.entries);
        let all = in_memory.sum::<u64>() + in_tables.sum::<u64>();
        let Some(mut place) = random.checked_rem(all) else {
            return Ok(None);
        };
        // The lower bits have decided where; others decide what there.
        let within = random.rotate_left(32);
        let of_db = |key: &[u8]| (key.first() == Some(&db.0)).then(|| Key::from(key));
        for memtable in tree.memtables() {
            let entries = memtable.entries() as u64;
            if place < entries {
                return Ok(memtable.random_key(within).and_then(of_db));
            }
            place -= entries;
        }
        for table in tables() {
            if place < table.stats.entries {
                let key = table_random_key(table, &self.reader(), within)?;
                return Ok(key.and_then(|key| of_db(&key)));
            }
            place -= table.stats.entries;
        }
        Ok(None)
    }

    /// Deletes those of the keys that have expired, which they did at these times; how many. Others have been written since.
    ///
    /// # Errors
    /// Something has to be loaded first.
    pub(crate) fn delete_expired(&mut self, due: &[(i64, Key)]) -> Result<usize, Missing> {
        let (mut count, mut missing) = (0, None);
        for (_, key) in due {
            let Some((db, user_key)) = key.split_first() else {
                continue;
            };
            let row = match self.stored(DatabaseIndex(*db), user_key) {
                Ok(found) => found.row,
                // The others tell what they will need.
                Err(one) if !self.has_all_faults() => {
                    missing = Some(one);
                    continue;
                }
                Err(one) => return Err(one),
            };
            if row.is_value() && row.expires_at_ms <= self.now_ms {
                self.write(DatabaseIndex(*db), user_key, Write::Delete);
                count += 1;
            }
        }
        missing.map_or(Ok(count), Err)
    }
}

/// What is laid over what the store has of a key at the state that is seen.
#[derive(Clone, Copy)]
enum Laid<'w> {
    /// The transaction has written it.
    Written(&'w Write),
    /// It has locked it, and sees it as it is now.
    Locked,
}

/// Whether all keys of the database were deleted.
fn has_all(writes: &Writes) -> bool {
    writes.deleted().iter().any(|range| range == (&[], None))
}

/// From the end, if that is asked for.
fn directed<T>(
    mut items: impl DoubleEndedIterator<Item = T>,
    reverse: bool,
) -> impl Iterator<Item = T> {
    iter::from_fn(move || {
        if reverse {
            items.next_back()
        } else {
            items.next()
        }
    })
}

/// Both in order, or from the end; of what is in both, the first one's.
fn merged<'k, T>(
    first: impl Iterator<Item = (&'k [u8], T)>,
    second: impl Iterator<Item = (&'k [u8], T)>,
    reverse: bool,
) -> impl Iterator<Item = (&'k [u8], T)> {
    let (mut first, mut second) = (first.peekable(), second.peekable());
    iter::from_fn(move || {
        let (Some((one, _)), Some((other, _))) = (first.peek(), second.peek()) else {
            return first.next().or_else(|| second.next());
        };
        match if reverse {
            other.cmp(one)
        } else {
            one.cmp(other)
        } {
            Ordering::Less => first.next(),
            Ordering::Greater => second.next(),
            Ordering::Equal => {
                second.next();
                first.next()
            }
        }
    })
}

/// Why a walk did not get further.
enum Stopped {
    Missing,
    OutOfMemory,
}

impl From<OutOfMemory> for Stopped {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

impl From<NotInMemory> for Stopped {
    fn from(_: NotInMemory) -> Self {
        Self::Missing
    }
}

/// The first key behind `key`.
fn behind(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

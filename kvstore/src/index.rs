//! All key spaces in memory, what snapshots still see of emptied ones, and what is dirty.
//!
//! *Dirty* is what was changed since the last flush to a sorted run: those keys, and the databases
//! that were emptied. A flush takes the dirty set and writes, for every key in it, the version that a
//! snapshot taken at the same moment sees.

use alloc::collections::{BTreeSet, VecDeque};
use alloc::rc::Rc;
use core::cell::Cell;

use crate::keyspace::Keyspace;
use crate::record::{Change, Record};
use crate::snapshot::{Pins, Snapshot};
use crate::version::{Round, Version};
use crate::{DATABASE_COUNT, DatabaseIndex, Key, Timestamp, Value};

/// Memory of a key in the dirty set.
const DIRTY_KEY_BYTES: usize = 48;

pub(crate) struct Index {
    databases: PerDatabase<Database>,
    dirty: Dirty,
    hash_seed: u64,
    /// Counts dirty sets, so that a key is put into each only once.
    round: Round,
    /// The newest commit that removed something: a read that finds nothing depends on it.
    last_removal: Timestamp,
    pub(crate) pins: Rc<Pins>,
    pub(crate) expired_keys: Cell<u64>,
}

struct Database {
    live: Keyspace,
    /// Emptied key spaces, oldest first, each with the commit that emptied it.
    retired: VecDeque<(Keyspace, Timestamp)>,
}

/// One `T` for each database.
#[derive(Default)]
struct PerDatabase<T>([T; DATABASE_COUNT]);

impl<T> PerDatabase<T> {
    #[expect(clippy::indexing_slicing, reason = "the remainder is in range")]
    fn of(&self, db: DatabaseIndex) -> &T {
        &self.0[usize::from(db.0) % DATABASE_COUNT]
    }

    #[expect(clippy::indexing_slicing, reason = "the remainder is in range")]
    fn of_mut(&mut self, db: DatabaseIndex) -> &mut T {
        &mut self.0[usize::from(db.0) % DATABASE_COUNT]
    }
}

/// Changes since the last flush.
#[derive(Default)]
pub(crate) struct Dirty {
    databases: PerDatabase<DirtyDatabase>,
    key_count: usize,
}

#[derive(Default)]
pub(crate) struct DirtyDatabase {
    pub cleared: bool,
    pub keys: BTreeSet<Key>,
}

impl Dirty {
    fn add(&mut self, db: DatabaseIndex, key: &Key) {
        let is_new = self.databases.of_mut(db).keys.insert(Key::clone(key));
        self.key_count += usize::from(is_new);
    }

    fn clear(&mut self, db: DatabaseIndex) {
        let database = self.databases.of_mut(db);
        self.key_count -= database.keys.len();
        *database = DirtyDatabase {
            cleared: true,
            keys: BTreeSet::new(),
        };
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.key_count == 0 && !self.databases.0.iter().any(|database| database.cleared)
    }

    pub(crate) fn databases(&self) -> impl Iterator<Item = (DatabaseIndex, &DirtyDatabase)> {
        (0..).map(DatabaseIndex).zip(&self.databases.0)
    }
}

impl Index {
    /// An empty index. `hash_seed` should be nobody's to guess.
    pub(crate) fn new(hash_seed: u64) -> Self {
        Self {
            databases: PerDatabase(core::array::from_fn(|_| Database {
                live: Keyspace::new(hash_seed),
                retired: VecDeque::new(),
            })),
            dirty: Dirty::default(),
            hash_seed,
            round: Round(0),
            last_removal: Timestamp::default(),
            pins: Rc::default(),
            expired_keys: Cell::new(0),
        }
    }

    /// The key space of `db` as it is now.
    pub(crate) fn live(&self, db: DatabaseIndex) -> &Keyspace {
        &self.database(db).live
    }

    /// The key space of `db` that a snapshot at `timestamp` sees.
    pub(crate) fn at(&self, db: DatabaseIndex, timestamp: Timestamp) -> &Keyspace {
        let database = self.database(db);
        let retired = database
            .retired
            .iter()
            .find(|(_, until)| timestamp < *until);
        retired.map_or(&database.live, |(space, _)| space)
    }

    pub(crate) fn last_removal(&self) -> Timestamp {
        self.last_removal
    }

    /// Bytes of memory in use, as estimated.
    pub(crate) fn memory_bytes(&self) -> usize {
        let spaces = self.databases.0.iter().flat_map(|database| {
            core::iter::once(&database.live).chain(database.retired.iter().map(|(space, _)| space))
        });
        spaces.map(Keyspace::memory_bytes).sum::<usize>() + self.dirty.key_count * DIRTY_KEY_BYTES
    }

    /// Bytes that the live values of all databases take in sorted runs.
    pub(crate) fn live_run_bytes(&self) -> u64 {
        self.databases
            .0
            .iter()
            .map(|database| database.live.live_run_bytes())
            .sum()
    }

    /// Makes a committed change visible. `key` is the record's key, shared.
    pub(crate) fn apply(
        &mut self,
        timestamp: Timestamp,
        db: DatabaseIndex,
        key: &Key,
        change: Applied<'_>,
    ) {
        let is_clear = matches!(change, Applied::Clear);
        let is_first = self.change(timestamp, db, key, change);
        if is_clear {
            self.dirty.clear(db);
        } else if is_first {
            self.dirty.add(db, key);
        }
    }

    /// Applies a record read from the log.
    pub(crate) fn apply_record(&mut self, timestamp: Timestamp, record: &Record<'_>) {
        self.apply(
            timestamp,
            record.db,
            &Key::from(record.key),
            Applied::from(record.change),
        );
    }

    /// Applies a record read from a sorted run: it is not dirty. Runs come oldest first.
    pub(crate) fn load_record(&mut self, timestamp: Timestamp, record: &Record<'_>) {
        self.change(
            timestamp,
            record.db,
            &Key::from(record.key),
            Applied::from(record.change),
        );
    }

    /// True when it is the key's first change since the last flush.
    fn change(
        &mut self,
        timestamp: Timestamp,
        db: DatabaseIndex,
        key: &Key,
        change: Applied<'_>,
    ) -> bool {
        let database = self.databases.of_mut(db);
        let space = &mut database.live;
        let version = match change {
            Applied::Put(value, expires_at_ms) => Version::new(timestamp, value, expires_at_ms),
            Applied::Delete => {
                self.last_removal = timestamp;
                Version::tombstone(timestamp)
            }
            Applied::Append(tail) => {
                return space.append(key, timestamp, tail, self.round, &self.pins);
            }
            Applied::Expire(expires_at_ms) => {
                let value = space.newest(key).and_then(|version| version.value.clone());
                let Some(value) = value else { return false };
                Version::new(timestamp, value, expires_at_ms)
            }
            Applied::Clear => {
                self.last_removal = timestamp;
                let emptied = core::mem::replace(space, Keyspace::new(self.hash_seed));
                database.retired.push_back((emptied, timestamp));
                return false;
            }
        };
        space.write(key, version, self.round, &self.pins)
    }

    /// Whether `key` changed after `snapshot`, in content or by losing its whole database.
    pub(crate) fn changed_since(&self, snapshot: &Snapshot, db: DatabaseIndex, key: &[u8]) -> bool {
        let since = snapshot.timestamp();
        let newer = |space: &Keyspace| space.newest(key).is_some_and(|v| v.timestamp > since);
        let database = self.database(db);
        if newer(&database.live) {
            return true;
        }
        // Spaces that were emptied after the snapshot: a key that was in one then, or came later, is
        // gone with it.
        let emptied = database.retired.iter().filter(|(_, until)| *until > since);
        emptied.into_iter().any(|(space, _)| {
            newer(space)
                || space
                    .at(key, since)
                    .is_some_and(|version| version.value.is_some())
        })
    }

    /// Takes the dirty set; from now on another one gathers.
    pub(crate) fn take_dirty(&mut self) -> Dirty {
        self.round.0 = self.round.0.wrapping_add(1);
        core::mem::take(&mut self.dirty)
    }

    /// Gives a dirty set back that could not be flushed.
    pub(crate) fn return_dirty(&mut self, returned: Dirty) {
        for (db, database) in (0..).map(DatabaseIndex).zip(returned.databases.0) {
            let now = self.dirty.databases.of_mut(db);
            if now.cleared {
                // Everything before was emptied since.
                continue;
            }
            now.cleared = database.cleared;
            for key in database.keys {
                self.dirty.add(db, &key);
            }
        }
    }

    /// Frees up to `limit` entries of what nobody sees any more; false when there is nothing (left)
    /// to do until a snapshot goes.
    pub(crate) fn collect_garbage(&mut self, limit: usize) -> bool {
        let mut progress = false;
        for database in &mut self.databases.0 {
            progress |= database.live.collect_garbage(limit, &self.pins);
            if let Some((space, until)) = database.retired.front_mut()
                && !self.pins.any_before(*until)
            {
                progress = true;
                if !space.dismantle(limit) {
                    database.retired.pop_front();
                }
            }
        }
        progress
    }

    /// Entries that wait for snapshots to go.
    pub(crate) fn has_garbage(&self) -> bool {
        let waits =
            |database: &Database| database.live.garbage_count() > 0 || !database.retired.is_empty();
        self.databases.0.iter().any(waits)
    }

    fn database(&self, db: DatabaseIndex) -> &Database {
        self.databases.of(db)
    }
}

/// A change on its way into the index, with values shared where they can be.
pub(crate) enum Applied<'b> {
    Put(Value, Option<i64>),
    Delete,
    Append(&'b [u8]),
    Expire(Option<i64>),
    Clear,
}

impl<'b> From<Change<'b>> for Applied<'b> {
    fn from(change: Change<'b>) -> Self {
        match change {
            Change::Put {
                value,
                expires_at_ms,
            } => Self::Put(Value::from(value), expires_at_ms),
            Change::Delete => Self::Delete,
            Change::Append { tail } => Self::Append(tail),
            Change::Expire { expires_at_ms } => Self::Expire(expires_at_ms),
            Change::Clear => Self::Clear,
        }
    }
}

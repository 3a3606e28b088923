//! All key spaces in memory, what snapshots still see of emptied ones, and what is dirty.
//!
//! *Dirty* is what was changed since the last flush to a sorted run: those keys, and the databases
//! that were emptied. A flush takes the dirty set and writes, for every key in it, the version that a
//! snapshot taken at the same moment sees.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::Cell;

use crate::dirty::Dirty;
use crate::keyspace::Keyspace;
use crate::per_database::PerDatabase;
use crate::record::{Change, Record};
use crate::snapshot::{Pins, Snapshot};
use crate::version::{Round, Version};
use crate::{DatabaseIndex, Key, Timestamp, Value};

pub(crate) struct Index {
    databases: PerDatabase<Database>,
    dirty: Dirty,
    /// Keys that are only waiting to be freed.
    buried: Vec<Vec<Key>>,
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
    /// The commit that last emptied it.
    emptied: Timestamp,
    /// Emptied key spaces, oldest first.
    retired: VecDeque<Retired>,
    /// Snapshots before this are too old to tell what came and went since.
    forgotten: Timestamp,
}

/// A key space from one commit that emptied its database to the next.
struct Retired {
    space: Keyspace,
    since: Timestamp,
    until: Timestamp,
}

impl Index {
    /// An empty index. `hash_seed` should be nobody's to guess.
    pub(crate) fn new(hash_seed: u64) -> Self {
        Self {
            databases: PerDatabase::from_fn(|| Database {
                live: Keyspace::new(hash_seed),
                emptied: Timestamp::default(),
                retired: VecDeque::new(),
                forgotten: Timestamp::default(),
            }),
            dirty: Dirty::default(),
            buried: Vec::new(),
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
        let sees = |retired: &&Retired| (retired.since..retired.until).contains(&timestamp);
        let retired = database.retired.iter().find(sees);
        retired.map_or(&database.live, |retired| &retired.space)
    }

    pub(crate) fn last_removal(&self) -> Timestamp {
        self.last_removal
    }

    /// Bytes of memory in use, as estimated.
    pub(crate) fn memory_bytes(&self) -> usize {
        let spaces = self.databases.iter().flat_map(|(_, database)| {
            core::iter::once(&database.live)
                .chain(database.retired.iter().map(|retired| &retired.space))
        });
        spaces.map(Keyspace::memory_bytes).sum::<usize>() + self.dirty.memory_bytes()
    }

    /// Bytes that the live values of all databases take in sorted runs.
    pub(crate) fn live_run_bytes(&self) -> u64 {
        self.databases
            .iter()
            .map(|(_, database)| database.live.live_run_bytes())
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
            let cleared = self.dirty.clear(db);
            self.buried.extend(cleared);
        } else if is_first {
            self.dirty.add(db, Key::clone(key));
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

    /// The key space of `db`, to be filled from sorted runs.
    pub(crate) fn loading(&mut self, db: DatabaseIndex) -> &mut Keyspace {
        &mut self.databases.of_mut(db).live
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
                if !space.is_empty() {
                    let space = core::mem::replace(space, Keyspace::new(self.hash_seed));
                    let since = core::mem::replace(&mut database.emptied, timestamp);
                    database.retired.push_back(Retired {
                        space,
                        since,
                        until: timestamp,
                    });
                }
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
        if newer(&database.live) || since < database.forgotten {
            return true;
        }
        // Spaces that were emptied after the snapshot: a key that was in one then, or came later, is
        // gone with it.
        let emptied = database
            .retired
            .iter()
            .filter(|retired| retired.until > since);
        emptied.into_iter().any(|Retired { space, .. }| {
            newer(space)
                || space
                    .at(key, since)
                    .is_some_and(|version| version.value.is_some())
        })
    }

    /// Takes the dirty set; from now on another one gathers.
    pub(crate) fn take_dirty(&mut self) -> Dirty {
        self.round.0 = self.round.0.wrapping_add(1);
        let mut taken = core::mem::take(&mut self.dirty);
        taken.seal();
        taken
    }

    /// A dirty set was flushed: frees it step by step.
    pub(crate) fn bury(&mut self, flushed: Dirty) {
        self.buried.extend(flushed.into_chunks());
    }

    /// Gives a dirty set back that could not be flushed.
    pub(crate) fn return_dirty(&mut self, returned: Dirty) {
        self.dirty.merge_older(returned);
    }

    /// Frees up to `limit` entries of what nobody sees any more; false when there is nothing (left)
    /// to do until a snapshot goes.
    pub(crate) fn collect_garbage(&mut self, limit: usize) -> bool {
        let mut progress = self.buried.pop().is_some();
        for database in self.databases.iter_mut() {
            progress |= database.live.collect_garbage(limit, &self.pins);
            // Each costs a step more than its entries, so that many small ones are bounded, too.
            let mut left = limit;
            while left > 0 {
                let unseen = |retired: &Retired| !self.pins.any_in(retired.since, retired.until);
                let Some(at) = database.retired.iter().position(unseen) else {
                    break;
                };
                let Some(retired) = database.retired.get_mut(at) else {
                    break;
                };
                progress = true;
                database.forgotten = database.forgotten.max(retired.until);
                let before = left;
                if retired.space.dismantle(&mut left) {
                    database.retired.remove(at);
                    left = left.saturating_sub(1);
                }
                if left == before {
                    break;
                }
            }
        }
        progress
    }

    /// Entries that wait for snapshots to go.
    pub(crate) fn has_garbage(&self) -> bool {
        let waits = |(_, database): (_, &Database)| {
            database.live.garbage_count() > 0 || !database.retired.is_empty()
        };
        !self.buried.is_empty() || self.databases.iter().any(waits)
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

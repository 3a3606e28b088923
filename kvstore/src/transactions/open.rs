//! Transactions that stay open: what they see, their statements and savepoints (`ENGINE.md`, section 4).

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefMut;
use core::future::poll_fn;
use core::ops::Bound;

use lfs::{BlockDevice, CommitNumber, FileError, FileSystem};

use super::commit::Conflict;
use super::locks::{Cycle, Locked, Owner, Ticket};
use super::reads::{Read, ReadSet, TooLarge};
use super::registry::{LockOwner, Shared, TransactionLimits};
use crate::engine::types::engine_key;
use crate::fault::Loaded;
use crate::snapshot::Snapshot;
use crate::store::Store;
use crate::transaction::Transaction;
use crate::write_set::{Mark, WriteSet};
use crate::{CommitError, DatabaseIndex, KEY_BYTES_MAX, Key, Timestamp};

/// Savepoints that one has at most: the file system allows 1,024, of which each statement needs one.
const SAVEPOINTS_MAX: usize = 1023;

/// Bytes of the name of one.
const SAVEPOINT_NAME_BYTES_MAX: usize = 255;

/// Memory of a savepoint beside its name, and of a locked key beside it.
const SAVEPOINT_BYTES: usize = 64;
const LOCKED_BYTES: usize = 64;

/// How transactions that run at the same time are kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// As if each happened at once, when it committed; in the order in which they did.
    #[default]
    Serializable,
    /// Each sees one state; of two that write the same, the first to commit wins.
    Snapshot,
    /// Each statement sees what is committed.
    ReadCommitted,
}

/// How a transaction is begun.
#[derive(Debug, Clone, Copy, Default)]
pub struct BeginOptions {
    /// How it is kept apart from others.
    pub isolation: Isolation,
    /// It writes nothing.
    pub read_only: bool,
    /// It sees the state of this commit, and writes nothing.
    pub as_of: Option<Timestamp>,
    /// Whose it is: what a deadlock is told with.
    pub client: u64,
}

/// Why none was begun.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BeginError {
    /// That commit has not been made yet.
    #[error("commit {0} is in the future")]
    Future(u64),
    /// What was then is not kept any more.
    #[error("the state of that commit is not kept: the oldest that is, is that of commit {0}")]
    NotRetained(u64),
    /// There are too many.
    #[error("too many transactions are open")]
    TooMany,
}

/// Why a lock was not had at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LockStop {
    /// Wait ([`Store::locked`]), then ask again.
    Wait(Ticket),
    /// It would be waited for for ever. The transaction is rolled back.
    Deadlock(Cycle),
    /// The transaction has read or written the key, and others have changed it since. It is over.
    Conflict(Conflict),
    /// There are too many locks, or they take too much memory.
    TooMany,
    /// It only reads.
    ReadOnly,
    /// The transaction was ended.
    Ended,
}

/// A transaction was ended by others: it was past a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the transaction was ended")]
pub struct Ended;

/// A transaction that is open. Dropping it takes everything back.
pub struct OpenTransaction {
    pub(super) state: Shared,
    registry: Rc<super::registry::Registry>,
    locks: LockOwner,
    pub(super) client: u64,
}

impl OpenTransaction {
    pub(super) fn owner(&self) -> Owner {
        self.locks.owner()
    }

    /// Whether others have ended it.
    pub fn is_ended(&self) -> bool {
        self.state.borrow().is_none()
    }
}

impl Drop for OpenTransaction {
    fn drop(&mut self) {
        self.registry.remove(self.owner());
    }
}

/// What a transaction has done so far.
pub(crate) struct State {
    pub(crate) writes: WriteSet,
    pub(crate) rest: Rest,
}

/// All but the writes.
pub(crate) struct Rest {
    pub(super) isolation: Isolation,
    pub(super) read_only: bool,
    begun_ms: i64,
    used_ms: i64,
    /// What it sees.
    pub(super) pin: Snapshot,
    /// `None` if the files of that time are not kept.
    pub(super) files: Option<lfs::OpenTransaction>,
    /// What it has read, if all its statements see one state and it may write: a serializable one is asked at its commit whether it has changed
    /// since, any of them when it locks a key. `None` as well for one that has read more than can be remembered.
    pub(super) reads: Option<ReadSet>,
    /// Keys that it has locked, and the newest commit at that time: it sees them as they are. None of them was read or written
    /// before, unless nobody had changed it.
    pub(super) locked: BTreeMap<Key, Timestamp>,
    /// Memory that names of savepoints and of locked keys take.
    names_bytes: usize,
    /// Memory of it that all together are counted with.
    pub(super) counted_bytes: usize,
    savepoints: Vec<Savepoint>,
    /// The statement that is being run.
    statement: Option<Statement>,
    /// What it has read and written depends on this.
    pub(super) depends_on: Timestamp,
}

struct Savepoint {
    name: Box<[u8]>,
    keys: Mark,
    files: Option<usize>,
}

/// Where a statement began.
struct Statement {
    keys: Mark,
    files: Option<usize>,
}

impl Rest {
    /// The commit that it reads at.
    pub(crate) fn at(&self) -> Timestamp {
        self.pin.timestamp()
    }

    /// Whether that is the newest one, whatever is committed.
    pub(crate) fn sees_newest(&self) -> bool {
        self.isolation == Isolation::ReadCommitted
    }

    /// Whether all its statements see one state.
    pub(crate) fn sees_one_state(&self) -> bool {
        self.isolation != Isolation::ReadCommitted
    }

    /// Whether nothing was done to files.
    pub(crate) fn has_no_files(&self) -> bool {
        self.files
            .as_ref()
            .is_none_or(lfs::OpenTransaction::is_empty)
    }

    /// From which commit on it will ask what was written, if it will.
    pub(crate) fn validated_since(&self) -> Option<Timestamp> {
        let asks = !self.read_only && self.isolation != Isolation::ReadCommitted;
        asks.then(|| self.at())
    }

    pub(crate) fn is_past(&self, limits: &TransactionLimits, now_ms: i64, waits: bool) -> bool {
        now_ms.saturating_sub(self.used_ms) > limits.idle_ms && !waits
            || now_ms.saturating_sub(self.begun_ms) > limits.age_ms
    }

    /// Whether what it has read must not have changed at its commit.
    pub(super) fn validates_reads(&self) -> bool {
        self.isolation == Isolation::Serializable && !self.read_only
    }

    fn note(
        &mut self,
        add: impl FnOnce(&mut ReadSet) -> Result<(), TooLarge>,
    ) -> Result<(), TooLarge> {
        let Some(reads) = &mut self.reads else {
            return Ok(());
        };
        match add(reads) {
            Err(TooLarge) if !self.validates_reads() => {
                self.reads = None;
                Ok(())
            }
            noted => noted,
        }
    }

    /// Whether it may have read the key (engine key).
    fn may_have_read(&self, key: &[u8]) -> bool {
        self.reads.as_ref().is_none_or(|reads| reads.has(key))
    }

    /// A key (engine key) is read: at which commit.
    pub(crate) fn note_read(&mut self, key: &[u8]) -> Result<Timestamp, TooLarge> {
        self.note(|reads| reads.add_point(key))?;
        Ok(if self.has_locked(key) {
            Timestamp(u64::MAX)
        } else {
            self.at()
        })
    }

    /// Keys (engine keys) from `start` on, up to `end`, not included, are read.
    pub(crate) fn note_range(&mut self, start: &[u8], end: &[u8]) -> Result<(), TooLarge> {
        self.note(|reads| reads.add(start, end))
    }

    /// Whether it sees some keys as they are now.
    pub(crate) fn sees_locked(&self) -> bool {
        !self.locked.is_empty()
    }

    /// Whether it sees the key (engine key) as it is now.
    pub(crate) fn has_locked(&self, key: &[u8]) -> bool {
        !self.locked.is_empty() && self.locked.contains_key(key)
    }

    /// Keys (engine keys) from `start` on, up to `end`, not included, that are seen as they are now, and the newest commit when they were locked.
    pub(crate) fn locked_in(
        &self,
        start: &[u8],
        end: &[u8],
    ) -> impl DoubleEndedIterator<Item = (&Key, Timestamp)> {
        let bounds = (Bound::Included(start), Bound::Excluded(end.max(start)));
        let locked = self.locked.range::<[u8], _>(bounds);
        locked.map(|(key, since)| (key, *since))
    }

    pub(crate) fn change_files<D: BlockDevice, T>(
        &mut self,
        filesystem: &FileSystem<D>,
        file_time_ns: i64,
        loaded: &lfs::Loaded,
        body: impl FnOnce(&mut lfs::Transaction<'_>) -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        let files = self.files.as_mut().ok_or(FileError::NotRetained)?;
        if let Some(statement) = &mut self.statement
            && statement.files.is_none()
        {
            if self.isolation == Isolation::ReadCommitted {
                filesystem.try_advance(files)?;
            }
            statement.files = Some(files.savepoint()?);
        }
        let read_only = self.read_only;
        filesystem.try_step(files, file_time_ns, loaded, |transaction| {
            let value = body(transaction)?;
            if read_only && transaction.has_changes() {
                return Err(FileError::NotPermitted);
            }
            Ok(value)
        })
    }

    /// The statement is over.
    fn end_statement(&mut self, writes: &mut WriteSet, keep: bool) {
        let Some(Statement { keys, files }) = self.statement.take() else {
            return;
        };
        if !keep {
            writes.roll_back(keys);
        }
        writes.release(keys);
        if let (Some(place), Some(open)) = (files, &mut self.files) {
            // It may have been ended; then there is nothing to take back.
            if !keep {
                let _ = open.roll_back_to(place);
            }
            let _ = open.release_savepoint(place);
        }
    }
}

impl<D: BlockDevice> Store<D> {
    /// Begins a transaction that stays open. Times are those of [`transaction`](Self::transaction).
    ///
    /// # Errors
    /// See [`BeginError`].
    pub fn begin(
        &self,
        options: BeginOptions,
        now_ms: i64,
        file_time_ns: i64,
    ) -> Result<OpenTransaction, BeginError> {
        let (engine, newest) = (&self.engine, self.committed());
        let at = options.as_of.unwrap_or(newest);
        if at > newest {
            return Err(BeginError::Future(at.0));
        }
        if !engine.is_retained(at, newest) {
            return Err(BeginError::NotRetained(engine.oldest_retained(newest).0));
        }
        let isolation = match options.isolation {
            Isolation::Serializable => lfs::Isolation::Serializable,
            Isolation::Snapshot | Isolation::ReadCommitted => lfs::Isolation::Snapshot,
        };
        let files = if at == newest {
            self.filesystem.begin(isolation, file_time_ns).map(Some)
        } else {
            let begun = self.filesystem.begin_read(CommitNumber(at.0), file_time_ns);
            begun.map(Some).or_else(|error| match error {
                FileError::NotRetained => Ok(None),
                error => Err(error),
            })
        };
        let files = files.map_err(|_| BeginError::TooMany)?;
        let read_only = options.read_only || options.as_of.is_some();
        let notes_reads = options.isolation != Isolation::ReadCommitted && !read_only;
        let rest = Rest {
            isolation: options.isolation,
            read_only,
            begun_ms: now_ms,
            used_ms: now_ms,
            pin: Snapshot::new(&engine.pins, at),
            files,
            reads: notes_reads.then(ReadSet::default),
            locked: BTreeMap::new(),
            names_bytes: 0,
            counted_bytes: 0,
            savepoints: Vec::new(),
            statement: None,
            depends_on: Timestamp(0),
        };
        let (locks, writes) = (engine.new_owner(), WriteSet::default());
        let state = engine.open.add(locks.owner(), State { writes, rest });
        Ok(OpenTransaction {
            state: state.ok_or(BeginError::TooMany)?,
            registry: Rc::clone(&engine.open),
            locks,
            client: options.client,
        })
    }

    /// Begins a statement of an open transaction. It ends with [`Transaction::suspend`]; if it does not, it is taken back.
    ///
    /// # Errors
    /// The transaction was ended.
    pub fn resume<'s>(
        &'s self,
        open: &'s OpenTransaction,
        now_ms: i64,
        file_time_ns: i64,
        loaded: &'s mut Loaded,
    ) -> Result<Transaction<'s, D>, Ended> {
        self.resume_at(open, false, now_ms, file_time_ns, loaded)
    }

    /// The same; but if it `goes_on`, with what the statement before has seen.
    pub(crate) fn resume_at<'s>(
        &'s self,
        open: &'s OpenTransaction,
        goes_on: bool,
        now_ms: i64,
        file_time_ns: i64,
        loaded: &'s mut Loaded,
    ) -> Result<Transaction<'s, D>, Ended> {
        let mut state =
            RefMut::filter_map(open.state.borrow_mut(), Option::as_mut).map_err(|_| Ended)?;
        let State { writes, rest } = &mut *state;
        rest.end_statement(writes, false);
        rest.used_ms = now_ms;
        if rest.isolation == Isolation::ReadCommitted && !goes_on {
            rest.pin = Snapshot::new(&self.engine.pins, self.committed());
        }
        rest.statement = Some(Statement {
            keys: writes.mark(),
            files: None,
        });
        let parts = RefMut::map_split(state, |state| (&mut state.writes, &mut state.rest));
        self.now_ms.set(self.now_ms.get().max(now_ms));
        Ok(Transaction::new(
            self,
            now_ms,
            file_time_ns,
            loaded,
            Some(parts),
        ))
    }

    /// Makes a savepoint of that name; one of the same name is hidden by it.
    ///
    /// # Errors
    /// [`SavepointError::TooMany`] beyond 1,023, [`SavepointError::NameTooLong`] for a name beyond 255 bytes.
    pub fn savepoint(&self, open: &OpenTransaction, name: &[u8]) -> Result<(), SavepointError> {
        let mut state = open.state.borrow_mut();
        let State { writes, rest } = state.as_mut().ok_or(SavepointError::Ended)?;
        rest.end_statement(writes, false);
        if name.len() > SAVEPOINT_NAME_BYTES_MAX {
            return Err(SavepointError::NameTooLong);
        }
        if rest.savepoints.len() >= SAVEPOINTS_MAX {
            return Err(SavepointError::TooMany);
        }
        let files = rest.files.as_mut().map(lfs::OpenTransaction::savepoint);
        let files = files.transpose().map_err(|_| SavepointError::TooMany)?;
        rest.names_bytes += SAVEPOINT_BYTES + name.len();
        rest.savepoints.push(Savepoint {
            name: name.into(),
            keys: writes.mark(),
            files,
        });
        Ok(())
    }

    /// Takes back what was changed since that savepoint. Later ones are gone, it stays; what was read stays read, and locks are held.
    ///
    /// # Errors
    /// There is no such savepoint: nothing has changed.
    pub fn roll_back_to(&self, open: &OpenTransaction, name: &[u8]) -> Result<(), SavepointError> {
        let mut state = open.state.borrow_mut();
        let State { writes, rest } = state.as_mut().ok_or(SavepointError::Ended)?;
        rest.end_statement(writes, false);
        let found = rest.savepoints.iter().rposition(|one| *one.name == *name);
        let place = found.ok_or(SavepointError::Unknown)?;
        let Some(Savepoint { keys, files, .. }) = rest.savepoints.get(place) else {
            return Err(SavepointError::Unknown);
        };
        if let (Some(place), Some(open)) = (*files, &mut rest.files) {
            open.roll_back_to(place)
                .map_err(|_| SavepointError::Ended)?;
        }
        writes.roll_back(*keys);
        for later in rest.savepoints.drain(place + 1..).rev() {
            rest.names_bytes -= SAVEPOINT_BYTES + later.name.len();
            writes.release(later.keys);
        }
        Ok(())
    }

    /// Locks a key: from now on nobody else writes it, and the transaction sees what it is. The lock ends with the transaction. What it has
    /// read or written of the key before must still be so.
    ///
    /// # Errors
    /// See [`LockStop`].
    pub fn try_lock(
        &self,
        open: &OpenTransaction,
        db: DatabaseIndex,
        key: &[u8],
        now_ms: i64,
    ) -> Result<(), LockStop> {
        let engine = &self.engine;
        {
            let mut state = open.state.borrow_mut();
            let State { rest, .. } = state.as_mut().ok_or(LockStop::Ended)?;
            if rest.read_only {
                return Err(LockStop::ReadOnly);
            }
            rest.used_ms = now_ms;
        }
        if key.len() > KEY_BYTES_MAX {
            return Err(LockStop::TooMany);
        }
        let user_key = key;
        let key = engine_key(db, key);
        self.share_memory();
        let locked = engine
            .locks
            .borrow_mut()
            .lock(open.owner(), open.client, &key);
        self.share_memory();
        match locked {
            Locked::Taken => {
                let taken = self.see_locked(open, db, user_key, &key);
                match &taken {
                    Err(LockStop::Conflict(_)) => {
                        engine.open.count(|counts| counts.conflicts += 1);
                        self.end(open.owner());
                    }
                    Err(LockStop::Ended) => self.end(open.owner()),
                    _ => {}
                }
                taken
            }
            Locked::Wait(ticket) => Err(LockStop::Wait(ticket)),
            Locked::Deadlock(cycle) => {
                engine.open.count(|counts| counts.deadlocks += 1);
                self.end(open.owner());
                Err(LockStop::Deadlock(cycle))
            }
            Locked::TooMany => Err(LockStop::TooMany),
        }
    }

    /// From now on a key that was locked is seen as it is.
    fn see_locked(
        &self,
        open: &OpenTransaction,
        db: DatabaseIndex,
        user_key: &[u8],
        key: &[u8],
    ) -> Result<(), LockStop> {
        let mut state = open.state.borrow_mut();
        let State { writes, rest } = state.as_mut().ok_or(LockStop::Ended)?;
        if rest.locked.contains_key(key) || !rest.sees_one_state() {
            return Ok(());
        }
        let of_db = writes.of(db);
        let is_written =
            of_db.is_some_and(|of_db| of_db.get(user_key).is_some() || of_db.hides(user_key));
        if is_written || rest.may_have_read(key) {
            match self.changed_since(rest.at(), Read::Point(key)) {
                Ok(None) => {}
                Ok(Some(conflict)) => return Err(LockStop::Conflict(conflict)),
                Err(Ended) => return Err(LockStop::Ended),
            }
        }
        rest.names_bytes += LOCKED_BYTES + key.len();
        rest.locked.insert(Key::from(key), self.committed());
        Ok(())
    }

    /// Waits until it is the turn of `ticket`, or never will be; then ask again. Dropping this gives up.
    pub async fn locked(&self, ticket: Ticket) {
        let waiting = Waiting(&self.engine.locks, ticket);
        poll_fn(|context| waiting.0.borrow_mut().poll(ticket, context.waker())).await;
    }

    /// Ends transactions that are past a limit.
    pub fn expire_transactions(&self, now_ms: i64) {
        let locks = self.engine.locks.borrow();
        let expired = self
            .engine
            .open
            .past_limits(now_ms, |owner| locks.waits(owner));
        drop(locks);
        for owner in expired {
            self.engine.open.count(|counts| counts.expired += 1);
            self.end(owner);
        }
        // What transactions have given back meanwhile is the cache's.
        self.share_memory();
    }

    /// Sets what transactions may take.
    pub fn set_transaction_limits(&self, limits: TransactionLimits) {
        self.engine.open.set_limits(limits);
    }

    /// Ends a transaction at once.
    pub(crate) fn end(&self, owner: Owner) {
        self.engine.open.remove(owner);
        self.engine.locks.borrow_mut().release_all(owner);
        self.engine.forget_digests();
        self.changed.notify();
    }
}

/// Why there is no savepoint, or not the one that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SavepointError {
    /// There are too many.
    #[error("too many savepoints")]
    TooMany,
    /// Its name is too long.
    #[error("the name of a savepoint is longer than 255 bytes")]
    NameTooLong,
    /// There is none of that name.
    #[error("no such savepoint")]
    Unknown,
    /// The transaction was ended.
    #[error("the transaction was ended")]
    Ended,
}

/// A place in a queue, which is given up when this is dropped.
struct Waiting<'l>(&'l Rc<core::cell::RefCell<super::locks::LockTable>>, Ticket);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.borrow_mut().give_up(self.1);
    }
}

impl<D: BlockDevice> Transaction<'_, D> {
    /// Ends a statement: what it wrote is kept, or taken back. What a reply about it depends on.
    ///
    /// # Errors
    /// [`CommitError::TooLarge`]: the transaction takes more than it may, and the statement was taken back;
    /// [`CommitError::OutOfMemory`]: all that are open take more than they may, and it was taken back;
    /// [`CommitError::Fault`] for one that is in vain; [`CommitError::ReadOnly`] for one that wrote in a transaction that only reads.
    pub fn suspend(mut self, keep: bool) -> Result<Timestamp, CommitError> {
        let faults = self.take_faults();
        let store = self.store;
        let registry = &store.engine.open;
        let limit = registry.limits().bytes;
        store.share_memory();
        let depends_on = self.depends_on;
        let Some(rest) = &mut self.open else {
            return Ok(depends_on);
        };
        let mut reads = rest.reads.as_ref().map_or(0, ReadSet::memory_bytes);
        let others = self.writes.memory_bytes() + rest.names_bytes;
        if others + reads > limit && !rest.validates_reads() {
            (rest.reads, reads) = (None, 0);
        }
        let refused = if !faults.is_empty() {
            Some(CommitError::Fault(faults))
        } else if rest.read_only && !self.writes.is_empty() {
            Some(CommitError::ReadOnly)
        } else if others + reads > limit {
            Some(CommitError::TooLarge)
        } else if keep && !registry.count_bytes(&mut rest.counted_bytes, others + reads) {
            Some(CommitError::OutOfMemory)
        } else {
            None
        };
        rest.end_statement(&mut self.writes, keep && refused.is_none());
        // What was taken back is free again.
        let reads = rest.reads.as_ref().map_or(0, ReadSet::memory_bytes);
        let left = self.writes.memory_bytes() + rest.names_bytes + reads;
        registry.count_bytes(&mut rest.counted_bytes, left);
        store.share_memory();
        rest.depends_on = rest.depends_on.max(depends_on);
        match refused {
            Some(error) if keep => Err(error),
            _ => Ok(depends_on),
        }
    }
}

//! Transactions that stay open across awaits and other people's commits (DESIGN.md, "Open transactions").
//!
//! [`FileSystem::begin`] pins the state after the newest commit, in memory and in constant time: what is overwritten from then
//! on moves to the history tree, as for a snapshot. Each [`step`](FileSystem::step) is a closure over that state and the
//! transaction's own changes; one that fails leaves nothing behind. [`FileSystem::commit_open`] compares what was
//! changed (and, for [`Isolation::Serializable`], what was read) with what others committed since, in memory and in time that
//! depends on the transaction alone, and commits or names a [`Conflict`].
//!
//! - `registry`: who is open, what they pin, what that keeps;
//! - `recent`: what was changed since the oldest of them began;
//! - `reads`: what a transaction has read; `merge`: directories that two change at once.
//!
//! Bounds: [`OPEN_TRANSACTIONS_MAX`] at once; changes of one as a commit, see
//! [`FileSystem::commit_bytes_max`]; 65,536 reads; memory of all together as set by
//! [`FileSystem::set_transaction_memory`]. Whoever keeps too much is ended, the oldest first, rather than let
//! a disk fill up or memory grow.
//!
//! Not here: anything on the disk. After a power cut no transaction is open.

mod kept;
mod merge;
mod reads;
mod recent;
mod registry;

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;

pub(crate) use kept::KeptItem;
pub(crate) use merge::{InodeChange, change_of};
pub(crate) use reads::ReadSet;
pub use registry::{OPEN_TRANSACTIONS_MAX, OpenTransactionInfo, OpenTransactions, TransactionId};
pub(crate) use registry::{Registry, SharedRegistry};

use crate::namespace::Inode;
use crate::transaction::At;
use crate::transaction::volume::{Volume, damaged_item};
use crate::transaction::write_set::{Loaded, Mark, Versions, WriteSet};
use crate::tree::Key;
use crate::{
    BlockDevice, CommitNumber, CommitStop, Conflict, ConflictKind, FileError, FileSystem, ItemKey,
    ItemKind, Transaction,
};

/// Savepoints that a transaction may have at once.
const SAVEPOINTS_MAX: usize = 1024;

/// What a transaction is kept apart from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// It sees one state. Of two that change the same thing, the first to commit wins. What it has only read may have
    /// changed when it commits.
    Snapshot,
    /// As if it had happened all at once when it committed: what it has read, and where it found nothing, is still so.
    Serializable,
}

/// A transaction that is open. Dropping it takes everything back.
pub struct OpenTransaction {
    id: TransactionId,
    registry: SharedRegistry,
    isolation: Isolation,
    set: WriteSet,
    reads: ReadSet,
    savepoints: Vec<Mark>,
}

impl Drop for OpenTransaction {
    fn drop(&mut self) {
        self.registry.borrow_mut().close(self.id);
    }
}

impl OpenTransaction {
    /// Its number: none is used twice in a mount.
    pub fn id(&self) -> TransactionId {
        self.id
    }

    /// What it is kept apart from.
    pub fn isolation(&self) -> Isolation {
        self.isolation
    }

    /// The last commit it sees; `None` when it was ended. What it has read is as durable as that commit.
    pub fn sees(&self) -> Option<CommitNumber> {
        self.registry.borrow().pin_of(self.id).map(CommitNumber)
    }

    /// Whether it has changed nothing.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// Savepoints it has.
    pub fn savepoints(&self) -> usize {
        self.savepoints.len()
    }

    /// Makes a savepoint, and gives how many there were before: its place among them.
    ///
    /// # Errors
    /// [`FileError::TransactionTooLarge`] beyond 1,024.
    pub fn savepoint(&mut self) -> Result<usize, FileError> {
        if self.savepoints.len() >= SAVEPOINTS_MAX {
            return Err(FileError::TransactionTooLarge);
        }
        self.savepoints.push(self.set.mark());
        Ok(self.savepoints.len() - 1)
    }

    /// Takes back what was changed since a savepoint. Later savepoints are gone, it stays. What was read
    /// counts as read all the same: it was seen.
    ///
    /// # Errors
    /// [`FileError::Invalid`] when there is none in that place; nothing has changed.
    pub fn roll_back_to(&mut self, place: usize) -> Result<(), FileError> {
        let mark = self.savepoints.get(place).ok_or(FileError::Invalid)?;
        self.set.roll_back(mark);
        for later in self.savepoints.drain(place + 1..) {
            self.set.release_mark(later);
        }
        self.account()
    }

    /// Gives up a savepoint and those after it; what was changed stays.
    ///
    /// # Errors
    /// [`FileError::Invalid`] when there is none in that place.
    pub fn release_savepoint(&mut self, place: usize) -> Result<(), FileError> {
        if place >= self.savepoints.len() {
            return Err(FileError::Invalid);
        }
        for mark in self.savepoints.drain(place..) {
            self.set.release_mark(mark);
        }
        self.account()
    }

    /// Tells the registry how much memory it takes.
    fn account(&self) -> Result<(), FileError> {
        let bytes = self.set.memory_bytes() + self.reads.memory_bytes();
        self.registry.borrow_mut().account(self.id, bytes)
    }
}

impl<D: BlockDevice> FileSystem<D> {
    /// Begins a transaction at the newest state. `now_ns` is only shown ([`open_transactions`](Self::open_transactions)).
    ///
    /// # Errors
    /// [`FileError::TooManyTransactions`].
    pub fn begin(&self, isolation: Isolation, now_ns: i64) -> Result<OpenTransaction, FileError> {
        let at = self.appended().0;
        let id = self.open.borrow_mut().begin(isolation, at, now_ns)?;
        Ok(OpenTransaction {
            id,
            registry: Rc::clone(&self.open),
            isolation,
            set: WriteSet::new(0),
            reads: ReadSet::new(isolation == Isolation::Serializable),
            savepoints: Vec::new(),
        })
    }

    /// Begins a transaction that only reads, at a commit that a snapshot shows, or the newest.
    ///
    /// # Errors
    /// [`FileError::NotRetained`] when no snapshot shows it; else as [`begin`](Self::begin).
    pub fn begin_read(&self, at: CommitNumber, now_ns: i64) -> Result<OpenTransaction, FileError> {
        let is_shown = self.volume.borrow().snapshots.contains_key(&at);
        if at != self.appended() && !is_shown {
            return Err(FileError::NotRetained);
        }
        let id = self
            .open
            .borrow_mut()
            .begin(Isolation::Snapshot, at.0, now_ns)?;
        Ok(OpenTransaction {
            id,
            registry: Rc::clone(&self.open),
            isolation: Isolation::Snapshot,
            set: WriteSet::new(0),
            reads: ReadSet::new(false),
            savepoints: Vec::new(),
        })
    }

    /// Runs `body` on what the transaction sees, its own changes included; it runs again, from the start, whenever
    /// something has to be loaded first. When it fails, what it changed is taken back and the transaction is as before.
    ///
    /// # Errors
    /// What `body` returns; [`FileError::TransactionEnded`]; [`FileError::TransactionTooLarge`], also for what was
    /// read; [`FileError::OutOfMemory`] when all transactions together take too much.
    pub async fn step<T>(
        &self,
        transaction: &mut OpenTransaction,
        now_ns: i64,
        mut body: impl FnMut(&mut Transaction<'_>) -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        let mut loaded = Loaded::default();
        loop {
            match self.try_step(transaction, now_ns, &loaded, &mut body) {
                Err(FileError::Fault(fault)) => self.load(fault, &mut loaded).await?,
                done => return done,
            }
        }
    }

    /// As [`step`](Self::step), in one go.
    ///
    /// # Errors
    /// As [`step`](Self::step); [`FileError::Fault`] for what must be [`load`](Self::load)ed first.
    pub fn try_step<T>(
        &self,
        transaction: &mut OpenTransaction,
        now_ns: i64,
        loaded: &Loaded,
        body: impl FnOnce(&mut Transaction<'_>) -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        let at = self.state_of(transaction)?;
        let mark = transaction.set.mark();
        let unwritten = |range| self.log.copy_unwritten(range);
        let volume = self.volume.borrow();
        let set = core::mem::take(&mut transaction.set);
        let reads = core::mem::take(&mut transaction.reads);
        let mut view = Transaction::new(&volume, at, loaded, &unwritten, now_ns)
            .with_set(set)
            .with_reads(reads);
        let result = body(&mut view);
        (transaction.set, transaction.reads) = view.into_parts();
        let fits = transaction.set.commit_bytes() <= self.superblock.commit_bytes_max();
        let result = result.and_then(|value| {
            if !fits {
                return Err(FileError::TransactionTooLarge);
            }
            transaction.account().map(|()| value)
        });
        if result.is_err() {
            transaction.set.roll_back(&mark);
        }
        transaction.set.release_mark(mark);
        if result.is_err() {
            // It takes less again; what it has read may be more.
            let _ = transaction.account();
        }
        result
    }

    /// Moves what the transaction sees on to the newest state, its own changes on top: for a level at which each statement sees what
    /// is committed. A serializable one stays serializable.
    ///
    /// # Errors
    /// [`FileError::ConflictOn`] as at a commit, and the transaction sees what it saw before;
    /// [`FileError::TransactionEnded`]; what could not be read.
    pub async fn advance(&self, transaction: &mut OpenTransaction) -> Result<(), FileError> {
        let mut loaded = Loaded::default();
        loop {
            match self.try_advance(transaction) {
                Err(FileError::Fault(fault)) => self.load(fault, &mut loaded).await?,
                done => return done,
            }
        }
    }

    /// Commits what the transaction changed and, in the same commit, what the layer above records: all or nothing, now and across
    /// a power cut. **Not durable on return**: see [`wait_durable`](Self::wait_durable). One that changed nothing has
    /// nothing to compare, and depends on the commit it saw.
    ///
    /// # Errors
    /// Nothing happened then. [`FileError::ConflictOn`]; [`FileError::TransactionEnded`];
    /// [`FileError::NoSpace`]; [`FileError::TransactionTooLarge`] with what the layer adds; [`FileError::ReadOnly`].
    pub async fn commit_open(
        &self,
        mut transaction: OpenTransaction,
        layer: &[u8],
    ) -> Result<CommitNumber, FileError> {
        let mut loaded = Loaded::default();
        loop {
            if !transaction.is_empty() || !layer.is_empty() {
                self.admit(|| self.is_full()).await;
            }
            let stop = match self.try_commit_open(&mut transaction, layer) {
                Ok(commit) => return Ok(commit),
                Err(stop) => stop,
            };
            let wants_room = matches!(
                stop,
                CommitStop::NoRoom
                    | CommitStop::NoRoomToShrink(_)
                    | CommitStop::Error(FileError::NoSpace)
            );
            if wants_room {
                // Nobody will look through it again: what is kept for that is room.
                self.advance(&mut transaction).await?;
            }
            self.get_past(stop, &mut loaded).await?;
        }
    }

    /// As [`commit_open`](Self::commit_open), in one go: a layer above that keeps more than files makes its own
    /// comparison in the same step. Done, the transaction is over.
    ///
    /// # Errors
    /// See [`CommitStop`]. [`FileError::ConflictOn`] ends the transaction: it can never be committed. Whatever else keeps it from
    /// being committed leaves it as it was, and it sees what it saw: it can go on, be committed again, or be dropped.
    /// [`FileError::NoSpace`] may be for what is kept for that; [`advance`](Self::advance) lets go of it.
    pub fn try_commit_open(
        &self,
        transaction: &mut OpenTransaction,
        layer: &[u8],
    ) -> Result<CommitNumber, CommitStop> {
        let at = self.state_of(transaction)?;
        if transaction.is_empty() && layer.is_empty() {
            let seen = match at {
                At::Newest => self.appended(),
                At::Snapshot(commit) => commit,
            };
            self.open.borrow_mut().end(transaction.id);
            return Ok(seen);
        }
        let merged = match self.merged(transaction, at) {
            Err(error @ FileError::ConflictOn(_)) => {
                self.open.borrow_mut().end(transaction.id);
                return Err(error.into());
            }
            merged => merged?,
        };
        let own = transaction.set.swap_versions(merged);
        self.open.borrow_mut().begin_commit(transaction.id);
        let committed = self.commit_set(&mut transaction.set, layer);
        if committed.is_err() {
            self.open.borrow_mut().commit_refused();
            transaction.set.swap_versions(own);
        }
        committed
    }

    /// As [`advance`](Self::advance), in one go. When it fails nothing has changed.
    ///
    /// # Errors
    /// As [`advance`](Self::advance); [`FileError::Fault`] for what must be [`load`](Self::load)ed first.
    pub fn try_advance(&self, transaction: &mut OpenTransaction) -> Result<(), FileError> {
        let at = self.state_of(transaction)?;
        let merged = self.merged(transaction, at)?;
        transaction.set.swap_versions(merged);
        let newest = self.appended().0;
        self.open.borrow_mut().move_pin(transaction.id, newest);
        // A few bytes more or less.
        let _ = transaction.account();
        Ok(())
    }

    /// Compares what the transaction did with what others have committed since, and gives what its versions of directories' inodes
    /// are on top of theirs.
    fn merged(&self, transaction: &OpenTransaction, at: At) -> Result<Versions, FileError> {
        let At::Snapshot(seen) = at else {
            return Ok(Versions::new());
        };
        let volume = self.volume.borrow();
        let together = compare(transaction, &self.open.borrow(), seen.0)
            .map_err(|found| FileError::ConflictOn(Box::new(named(found, transaction, &volume))))?;
        let keys = together.iter().map(|&(key, _)| key);
        let mut versions = transaction.set.versions_of(keys);
        for (key, by) in together {
            let versions = versions.entry(key).or_default();
            if !merge_directory(&volume, (key, at), versions)? {
                let conflict = Conflict::new(ConflictKind::Write, key, CommitNumber(by));
                return Err(FileError::ConflictOn(Box::new(conflict)));
            }
        }
        Ok(versions)
    }

    /// What a transaction sees below its own changes.
    fn state_of(&self, transaction: &OpenTransaction) -> Result<At, FileError> {
        if !Rc::ptr_eq(&transaction.registry, &self.open) {
            return Err(FileError::Invalid);
        }
        let pin = self.open.borrow().pin_of(transaction.id);
        let pin = CommitNumber(pin.ok_or(FileError::TransactionEnded)?);
        Ok(if pin == self.appended() {
            At::Newest
        } else {
            At::Snapshot(pin)
        })
    }

    /// The transactions that are open, oldest state first.
    pub fn open_transactions(&self) -> Vec<OpenTransactionInfo> {
        self.open.borrow().list()
    }

    /// What open transactions take, all together.
    pub fn transaction_usage(&self) -> OpenTransactions {
        self.open.borrow().usage()
    }

    /// What open transactions take in memory, all together.
    pub fn transaction_memory_bytes(&self) -> usize {
        self.open.borrow().memory_bytes()
    }

    /// Ends a transaction: from now on its steps and its commit say [`FileError::TransactionEnded`], and nothing is kept
    /// for it. False when it is not open.
    pub fn end_transaction(&self, id: TransactionId) -> bool {
        self.open.borrow_mut().end(id)
    }

    /// Sets how much memory the changes and reads of all open transactions may take together. 16 MiB when nobody says otherwise.
    pub fn set_transaction_memory(&self, bytes: usize) {
        self.open.borrow_mut().set_memory_max(bytes);
    }
}

/// Puts in place of a transaction's versions of a directory's inode what they are on top of the newest one; false when they do not
/// go together.
fn merge_directory(
    volume: &Volume,
    (key, seen): (ItemKey, At),
    versions: &mut [Vec<u8>],
) -> Result<bool, FileError> {
    let base = volume.item_at(seen, key)?.ok_or(damaged_item())?;
    let Some(newest) = volume.item_at(At::Newest, key)? else {
        return Ok(false);
    };
    let (base, newest) = (Inode::decode(&base.value)?, Inode::decode(&newest.value)?);
    for version in versions {
        match merge::merge(&base, &Inode::decode(version)?, &newest) {
            Some(merged) => *version = merged.encode(),
            None => return Ok(false),
        }
    }
    Ok(true)
}

/// Compares what a transaction did with what others have committed since it began. Gives the inodes of directories that both
/// have changed, with the commit that did.
fn compare(
    transaction: &OpenTransaction,
    registry: &Registry,
    seen: u64,
) -> Result<Vec<(ItemKey, u64)>, Conflict> {
    let conflict = |kind, (key, by)| Conflict::new(kind, key, CommitNumber(by));
    let recent = &registry.recent;
    if let Some(found) = transaction.reads.passage_changed(recent, seen) {
        return Err(conflict(ConflictKind::Passage, found));
    }
    let mut together = Vec::new();
    for (key, value) in &transaction.set.items {
        let Some(by) = recent.written_since(*key, seen) else {
            continue;
        };
        let directory = key.kind == ItemKind::Inode
            && value
                .as_deref()
                .is_some_and(|value| Inode::decode(value).is_ok_and(|inode| inode.is_directory()));
        if !directory {
            return Err(conflict(ConflictKind::Write, (*key, by)));
        }
        together.push((*key, by));
    }
    match transaction.reads.read_changed(recent, seen) {
        Some(found) => Err(conflict(ConflictKind::Read, found)),
        None => Ok(together),
    }
}

/// The conflict, with the name that it is about, if it is about one that can be told without loading anything.
fn named(mut conflict: Conflict, transaction: &OpenTransaction, volume: &Volume) -> Conflict {
    if conflict.key.kind == ItemKind::Entry {
        let own = transaction.set.items.get(&conflict.key).cloned().flatten();
        let value = own.or_else(|| {
            let newest = volume.live.get(&Key::live(conflict.key)).ok().flatten();
            newest.map(|item| item.value.to_vec())
        });
        let name =
            value.and_then(|value| Some(crate::namespace::split_name(&value).ok()?.to_vec()));
        conflict.name = name;
    }
    conflict
}

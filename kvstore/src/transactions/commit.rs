//! How open transactions end: what they did is compared with what others have committed since, and all of it becomes one commit
//! (`ENGINE.md`, section 4).

use alloc::boxed::Box;
use alloc::vec::Vec;

use lfs::{BlockDevice, CommitNumber, FileError};

use super::changes::{Change, Changes};
use super::locks::{Cycle, Locked, Ticket};
use super::open::{Ended, OpenTransaction};
use super::reads::Read;
use crate::engine::payload::SYSTEM_DATABASE;
use crate::fault::{Fault, Loaded, Missing};
use crate::store::Store;
use crate::transaction::Transaction;
use crate::write_set::Write;
use crate::{CommitError, DatabaseIndex, Key, Timestamp, Value};

/// Bytes of a token's identifier, at most.
pub const TOKEN_BYTES_MAX: usize = 255;

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// What a reply about it depends on.
    pub depends_on: Timestamp,
    /// Its token had been committed already: its writes were discarded.
    pub repeated: bool,
}

/// Why one was not committed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CommitStop {
    /// Load this first ([`Store::load_all`]), then commit again.
    Fault(Vec<Fault>),
    /// Wait ([`Store::locked`]), then commit again.
    Locked(Ticket),
    /// Wait ([`Store::admit`]), then commit again.
    Busy,
    /// It lost a race, and is over.
    Conflict(Conflict),
    /// Waiting would never end. It is over.
    Deadlock(Cycle),
    /// It was ended before, by others.
    Ended,
    /// It cannot be committed. It goes on: it may take something back and try again.
    Error(CommitError),
}

/// What others have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conflict {
    /// A key, with the commit that did.
    Key(DatabaseIndex, Key, Timestamp),
    /// Something of the files.
    Files(Box<lfs::Conflict>),
}

impl From<CommitError> for CommitStop {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Fault(faults) => Self::Fault(faults),
            CommitError::Busy => Self::Busy,
            CommitError::Files(error) => match *error {
                FileError::ConflictOn(conflict) => Self::Conflict(Conflict::Files(conflict)),
                FileError::TransactionEnded => Self::Ended,
                error => Self::Error(CommitError::Files(Box::new(error))),
            },
            error => Self::Error(error),
        }
    }
}

impl<D: BlockDevice> Store<D> {
    /// Commits an open transaction, in one step; with `token` (1 to 255 bytes, and until when it is kept, in Unix milliseconds) it
    /// happens once, however often it is tried. **Not durable on return.** Afterwards it is over, as it is after a conflict or deadlock.
    ///
    /// # Errors
    /// See [`CommitStop`].
    pub fn try_commit(
        &self,
        open: &OpenTransaction,
        token: Option<(&[u8], i64)>,
        now_ms: i64,
        file_time_ns: i64,
        loaded: &mut Loaded,
    ) -> Result<Committed, CommitStop> {
        let committed = self.commit_step(open, token, now_ms, file_time_ns, loaded);
        let counts = &self.engine.open;
        match &committed {
            Ok(_) => counts.count(|counts| counts.committed += 1),
            Err(CommitStop::Conflict(_)) => counts.count(|counts| counts.conflicts += 1),
            Err(CommitStop::Deadlock(_)) => counts.count(|counts| counts.deadlocks += 1),
            // It can be tried again.
            Err(_) => return committed,
        }
        self.end(open.owner());
        committed
    }

    fn commit_step(
        &self,
        open: &OpenTransaction,
        token: Option<(&[u8], i64)>,
        now_ms: i64,
        file_time_ns: i64,
        loaded: &mut Loaded,
    ) -> Result<Committed, CommitStop> {
        let resumed = self.resume(open, now_ms, file_time_ns, loaded);
        let mut transaction = resumed.map_err(|_| CommitStop::Ended)?;
        let done = self.commit_resumed(open, &mut transaction, token);
        if done.is_err() {
            // What was added for the commit is taken back.
            let faults = transaction.take_faults();
            let _ = transaction.suspend(false);
            if !faults.is_empty() {
                return Err(CommitStop::Fault(faults));
            }
        }
        done
    }

    fn commit_resumed(
        &self,
        open: &OpenTransaction,
        transaction: &mut Transaction<'_, D>,
        token: Option<(&[u8], i64)>,
    ) -> Result<Committed, CommitStop> {
        let missing = |_: Missing| CommitStop::Fault(Vec::new());
        if let Some((id, _)) = token
            && transaction.has_token(id).map_err(missing)?
        {
            return Ok(Committed {
                depends_on: transaction.depends_on,
                repeated: true,
            });
        }
        let wrote = !transaction.is_read_only();
        if wrote {
            self.check_open(open, transaction)?;
        } else if transaction
            .open
            .as_ref()
            .is_some_and(|rest| !rest.locked.is_empty())
        {
            // It saw one state, as it was at its begin; but for what it saw through locks.
            self.validate(transaction)?;
        }
        if let Some((id, until_ms)) = token {
            let value = Value::from(&transaction.now_ms.to_le_bytes()[..]);
            transaction.write(SYSTEM, &token_key(id), Write::Put(value, Some(until_ms)));
        } else if !wrote {
            let rest = transaction.open.as_ref();
            return Ok(Committed {
                depends_on: rest.map_or(Timestamp(0), |rest| rest.depends_on),
                repeated: false,
            });
        }
        let mut payload = self.payload.take();
        payload.clear();
        let committed = self.append_open(transaction, wrote, &mut payload);
        payload.shrink_to(64 << 10);
        *self.payload.borrow_mut() = payload;
        Ok(Committed {
            depends_on: committed?,
            repeated: false,
        })
    }

    /// Nobody has locked what a transaction has written, nor changed what that depends on.
    fn check_open(
        &self,
        open: &OpenTransaction,
        transaction: &Transaction<'_, D>,
    ) -> Result<(), CommitStop> {
        let (keys, ranges) = transaction.written();
        let mut written = keys.iter().map(|key| &key[..]);
        let locks = &self.engine.locks;
        if !locks.borrow().is_empty() {
            let owner = open.owner();
            let locked = locks
                .borrow_mut()
                .check_write(owner, open.client, &mut written, &ranges);
            match locked {
                Locked::Taken => {}
                Locked::Wait(ticket) => return Err(CommitStop::Locked(ticket)),
                Locked::Deadlock(cycle) => return Err(CommitStop::Deadlock(cycle)),
                Locked::TooMany => return Err(CommitError::OutOfMemory.into()),
            }
        }
        self.validate(transaction)?;
        if transaction
            .open
            .as_ref()
            .is_some_and(|rest| rest.sees_one_state())
        {
            for key in &keys {
                self.unchanged(transaction, Read::Point(key))?;
            }
            for (start, end) in &ranges {
                self.unchanged(transaction, Read::Range(start, end))?;
            }
        }
        Ok(())
    }

    fn append_open(
        &self,
        transaction: &mut Transaction<'_, D>,
        wrote: bool,
        payload: &mut Vec<u8>,
    ) -> Result<Timestamp, CommitStop> {
        let prepared = transaction.prepare_commit(payload)?;
        transaction.check_room(&prepared)?;
        self.reserve(payload)?;
        let now_ms = transaction.now_ms;
        if !wrote {
            // A token alone has nothing to do with the files that were seen.
            let timestamp = self.append(payload)?;
            self.committed_with(timestamp, now_ms, payload, prepared.next_slot);
            return Ok(timestamp);
        }
        let rest = transaction.open.as_mut().ok_or(CommitStop::Ended)?;
        let files = rest.files.as_mut().ok_or(CommitStop::Ended)?;
        let number = match self.filesystem.try_commit_open(files, payload) {
            Ok(number) => number,
            Err(lfs::CommitStop::Error(FileError::ConflictOn(conflict))) => {
                return Err(CommitStop::Conflict(Conflict::Files(conflict)));
            }
            Err(lfs::CommitStop::Error(FileError::TransactionEnded)) => {
                return Err(CommitStop::Ended);
            }
            Err(stop) => {
                let refused = self.refusal_of(stop);
                let is_full = matches!(refused, CommitError::FilesFull | CommitError::DiskFull);
                let refused = if is_full {
                    self.no_room(refused)
                } else {
                    refused
                };
                return Err(refused.into());
            }
        };
        let CommitNumber(number) = number;
        self.committed_with(Timestamp(number), now_ms, payload, prepared.next_slot);
        Ok(Timestamp(number))
    }

    /// Nothing that a serializable one has read was written by others since it read it.
    fn validate(&self, transaction: &Transaction<'_, D>) -> Result<(), CommitStop> {
        let rest = transaction.open.as_ref();
        let rest = rest.filter(|rest| rest.validates_reads());
        let Some(reads) = rest.and_then(|rest| rest.reads.as_ref()) else {
            return Ok(());
        };
        for read in reads.ranges() {
            self.unchanged(transaction, read)?;
        }
        Ok(())
    }

    /// Nobody has written there since the transaction saw it.
    fn unchanged(
        &self,
        transaction: &Transaction<'_, D>,
        read: Read<'_>,
    ) -> Result<(), CommitStop> {
        let Some(rest) = &transaction.open else {
            return Err(CommitStop::Ended);
        };
        let (start, end) = match read {
            Read::Point(key) => {
                let since = rest.locked.get(key).copied();
                return self.unchanged_since(since.unwrap_or_else(|| rest.at()), read);
            }
            Read::Range(start, end) => (start, end),
        };
        // What it has locked it saw as it was then.
        let mut from = Key::from(start);
        for (key, since) in rest.locked_in(start, end) {
            if *from < **key {
                self.unchanged_since(rest.at(), Read::Range(&from, key))?;
            }
            self.unchanged_since(since, Read::Point(key))?;
            from = [&key[..], &[0]].concat().into();
        }
        if *from < *end {
            self.unchanged_since(rest.at(), Read::Range(&from, end))?;
        }
        Ok(())
    }

    fn unchanged_since(&self, since: Timestamp, read: Read<'_>) -> Result<(), CommitStop> {
        match self.changed_since(since, read) {
            Ok(None) => Ok(()),
            Ok(Some(conflict)) => Err(CommitStop::Conflict(conflict)),
            Err(Ended) => Err(CommitStop::Ended),
        }
    }

    /// What others have written of `read` since a commit; an error if that is not known any more.
    pub(super) fn changed_since(
        &self,
        since: Timestamp,
        read: Read<'_>,
    ) -> Result<Option<Conflict>, Ended> {
        let (tree, digests) = (self.engine.tree.borrow(), self.engine.digests.borrow());
        let changes = Changes {
            tree: &tree,
            digests: &digests,
        };
        if !changes.reach(since) {
            return Err(Ended);
        }
        let change = changes.since(read, since);
        Ok(change.map(|Change { key, commit }| {
            let (db, key) = key.split_first().unwrap_or((&0, &[]));
            Conflict::Key(DatabaseIndex(*db), key.into(), commit)
        }))
    }

    /// Whether a transaction with that token was committed, and is not forgotten yet.
    ///
    /// # Errors
    /// Something has to be loaded first.
    pub fn token(
        &self,
        id: &[u8],
        now_ms: i64,
        loaded: &mut Loaded,
    ) -> Result<(bool, Timestamp), Vec<Fault>> {
        let mut transaction = self.transaction(now_ms, 0, loaded);
        match transaction.has_token(id) {
            Ok(there) => Ok((there, transaction.depends_on)),
            Err(_) => Err(transaction.take_faults()),
        }
    }
}

/// Where the store keeps what is its own.
const SYSTEM: DatabaseIndex = DatabaseIndex(SYSTEM_DATABASE);

fn token_key(id: &[u8]) -> Vec<u8> {
    [b"t", id].concat()
}

/// Whether it is where a token is kept.
pub(crate) fn is_token_key(key: &[u8]) -> bool {
    let id = key.strip_prefix(b"t");
    id.is_some_and(|id| (1..=TOKEN_BYTES_MAX).contains(&id.len()))
}

/// Whether a token has so many bytes: the time of its commit.
pub(crate) fn is_token_len(value_len: usize) -> bool {
    value_len == size_of::<i64>()
}

impl<D: BlockDevice> Transaction<'_, D> {
    /// Whether that token was committed; at the newest state, whatever the transaction sees.
    fn has_token(&mut self, id: &[u8]) -> Result<bool, Missing> {
        let row = self.newest(SYSTEM, &token_key(id))?;
        Ok(row.is_live_at(self.now_ms))
    }
}

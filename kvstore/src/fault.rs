//! Faults: what has to be loaded from the disk before a transaction can be run.
//!
//! Nothing waits within a transaction ([`Transaction`]). A read that needs what is not in memory notes a [`Fault`] in the
//! transaction and returns [`Missing`]; whoever runs the transaction drops it, has what it noted loaded
//! ([`Store::load_all`]) into its [`Loaded`], and runs it again from the start. What is in a `Loaded` stays there until the
//! transaction is through, whatever memory is needed for meanwhile, so that each attempt gets further.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::Cell;

use lfs::{BlockDevice, FileError, ObjectId, ObjectReadError};

use crate::engine::loads::{ChunkFault, LoadedChunks};
use crate::engine::state::Engine;
use crate::misses::{KeysRead, LoadedKeys, mix};
use crate::store::Store;
use crate::transactions::locks::{Owner, Ticket};
use crate::transactions::registry::LockOwner;
use crate::values::{LoadedValues, ValueFault};
use crate::{CommitError, DatabaseIndex, Timestamp, Transaction};

/// Faults that one attempt notes at most: those behind the first are a guess.
pub const FAULTS_MAX: usize = 128;

/// Bytes of tables that one transaction can have loaded. It bounds keys only: of files, and of large values, a
/// transaction has at hand what it needs, however much that is.
pub const LOADED_KEY_BYTES_MAX: usize = 8 << 20;

/// Something that has to be loaded first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// What files are made of.
    File(lfs::Fault),
    /// What keys are made of.
    Keys(KeysFault),
    /// Somebody has locked a key that is to be written: until it is its turn.
    Lock(Ticket),
    /// The disk is full, and what nobody needs is being freed.
    Room,
    /// The keys of a database are being counted.
    Count(DatabaseIndex),
}

/// Something about keys that has to be loaded first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeysFault(KeysNeed);

#[derive(Debug, Clone, PartialEq, Eq)]
enum KeysNeed {
    Chunk(ChunkFault),
    Value(ValueFault),
    /// As if it were on the disk only.
    Simulated(KeysRead),
    /// It was tried, and cannot be.
    Failed(LoadError),
}

impl KeysFault {
    pub(crate) fn chunk(fault: ChunkFault) -> Self {
        Self(KeysNeed::Chunk(fault))
    }

    pub(crate) fn value(fault: ValueFault) -> Self {
        Self(KeysNeed::Value(fault))
    }

    pub(crate) fn simulated(read: KeysRead) -> Self {
        Self(KeysNeed::Simulated(read))
    }

    pub(crate) fn failed(error: LoadError) -> Self {
        Self(KeysNeed::Failed(error))
    }
}

/// A read could not be done: what it needs is noted in the transaction, which is in vain. See the module's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("something is not in memory")]
pub struct Missing(());

impl Missing {
    pub(crate) fn new() -> Self {
        Self(())
    }
}

/// Why what a transaction needs cannot be loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// What files, or large values, are made of cannot be read.
    #[error(transparent)]
    File(FileError),
    /// What keys are made of cannot be read.
    #[error(transparent)]
    Keys(ObjectReadError),
    /// A table is intact, but what it holds makes no sense.
    #[error("table {} holds what no table can hold", .0.0)]
    DamagedTable(ObjectId),
    /// An open transaction has read more than can be remembered.
    #[error("the transaction is too large")]
    TransactionTooLarge,
    /// The keys it reads take more than [`LOADED_KEY_BYTES_MAX`].
    #[error(
        "the transaction reads more than {} bytes of keys that are not in memory",
        LOADED_KEY_BYTES_MAX
    )]
    OutOfMemory,
}

/// Why a transaction that is run until nothing is missing was not committed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransactError {
    /// What it needs cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Its commit was refused.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// What one transaction needed from the disk so far, kept from one attempt to the next. Each transaction begins with an
/// empty one.
#[derive(Default)]
pub struct Loaded {
    pub(crate) files: lfs::Loaded,
    pub(crate) chunks: LoadedChunks,
    pub(crate) values: LoadedValues,
    pub(crate) keys: LoadedKeys,
    /// Who waits for locks on its behalf, and holds turns.
    waiting: Option<LockOwner>,
    /// What the first attempt drew, so that the next looks for the same.
    random: Option<u64>,
    /// What the store knows of what it keeps.
    counted: Option<Counted>,
    used: bool,
}

/// A part of a sum, until this is dropped.
struct Counted {
    sum: Rc<Cell<usize>>,
    bytes: usize,
}

impl Counted {
    fn set(&mut self, bytes: usize) {
        self.sum.set(self.sum.get() - self.bytes + bytes);
        self.bytes = bytes;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl Loaded {
    /// Memory that it keeps.
    pub fn memory_bytes(&self) -> usize {
        let keys = self.chunks.memory_bytes() + self.keys.memory_bytes();
        self.files.memory_bytes() + keys + self.values.memory_bytes()
    }

    /// Its transaction is through: empties it. Costs nothing when nothing had to be loaded.
    pub fn forget(&mut self) {
        if self.used {
            *self = Self::default();
        }
    }

    fn count(&mut self, sum: &Rc<Cell<usize>>) {
        let bytes = self.memory_bytes();
        let counted = self.counted.get_or_insert_with(|| Counted {
            sum: Rc::clone(sum),
            bytes: 0,
        });
        counted.set(bytes);
    }

    /// As whom it waits for locks.
    pub(crate) fn owner(&mut self, engine: &Engine) -> Owner {
        self.used = true;
        let waiting = self.waiting.get_or_insert_with(|| engine.new_owner());
        waiting.owner()
    }

    /// The random number that the transaction uses as its `nth`: decided by the first that any attempt was given.
    pub(crate) fn random(&mut self, nth: u64, given: u64) -> u64 {
        self.used = true;
        let first = *self.random.get_or_insert(given);
        if nth == 0 {
            first
        } else {
            mix(first.wrapping_add(nth))
        }
    }
}

impl<D: BlockDevice> Store<D> {
    /// Loads what an attempt found missing, several at a time. Only what it found first is sure to be needed: what becomes of
    /// the others shows when they are asked for first.
    ///
    /// # Errors
    /// The first cannot be read, or is too much. What was loaded before stays of use.
    pub async fn load_all(&self, faults: Vec<Fault>, loaded: &mut Loaded) -> Result<(), LoadError> {
        loaded.used = true;
        loaded.keys.begin_load();
        let begins_with_file = matches!(faults.first(), Some(Fault::File(_)));
        let (mut files, mut chunks, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for (number, fault) in faults.into_iter().enumerate() {
            let done = match fault {
                Fault::File(fault) => {
                    files.push(fault);
                    Ok(())
                }
                Fault::Room => {
                    self.admit().await;
                    Ok(())
                }
                Fault::Count(db) => {
                    self.counted(db).await;
                    Ok(())
                }
                Fault::Lock(ticket) => {
                    self.locked(ticket).await;
                    Ok(())
                }
                Fault::Keys(KeysFault(KeysNeed::Failed(error))) => Err(error),
                Fault::Keys(KeysFault(KeysNeed::Simulated(read))) => {
                    self.misses.take_time().await;
                    loaded.keys.keep(read)
                }
                Fault::Keys(KeysFault(KeysNeed::Chunk(fault))) => {
                    chunks.push(fault);
                    Ok(())
                }
                Fault::Keys(KeysFault(KeysNeed::Value(fault))) => {
                    values.push(fault);
                    Ok(())
                }
            };
            match done {
                Err(error) if number == 0 => return Err(error),
                Err(_) => break,
                Ok(()) => {}
            }
        }
        let read = self.filesystem.load_all(files, &mut loaded.files).await;
        let done = match read {
            Err(error) if begins_with_file => Err(LoadError::File(error)),
            _ => self.load_chunks(chunks, &mut loaded.chunks).await,
        };
        if done.is_ok() && !values.is_empty() {
            self.load_values(values, &mut loaded.values).await;
        }
        loaded.count(&self.engine.loaded_bytes);
        self.share_memory();
        done
    }

    /// Runs `body` in a transaction until nothing is missing, and commits it; what `body` returned, and what that
    /// depends on. `body` may run several times, and has no effect but on its transaction. Times are those of
    /// [`transaction`](Self::transaction). One that only read gives way to others while somebody waits for a commit to become durable.
    ///
    /// # Errors
    /// Nothing happened then.
    pub async fn transact<T>(
        &self,
        now_ms: i64,
        file_time_ns: i64,
        mut body: impl FnMut(&mut Transaction<'_, D>) -> Result<T, Missing>,
    ) -> Result<(T, Timestamp), TransactError> {
        let mut loaded = self.unused.take().unwrap_or_default();
        loop {
            let mut transaction = self.transaction(now_ms, file_time_ns, &mut loaded);
            let result = body(&mut transaction);
            let faults = if let Ok(value) = result {
                let is_read_only = transaction.is_read_only();
                match transaction.commit() {
                    Ok(timestamp) => {
                        if !loaded.used && !self.misses.are_on() {
                            self.unused.set(Some(loaded));
                        }
                        if is_read_only && self.filesystem.is_commit_waited_for() {
                            // Who reads on and on would keep commits from being written, and others from hearing that they are.
                            embassy_futures::yield_now().await;
                        }
                        return Ok((value, timestamp));
                    }
                    Err(CommitError::Fault(faults)) => faults,
                    Err(error) => return Err(error.into()),
                }
            } else {
                let faults = transaction.take_faults();
                drop(transaction);
                faults
            };
            self.load_all(faults, &mut loaded).await?;
        }
    }
}

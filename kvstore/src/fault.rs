//! Faults: what has to be loaded from the disk before a transaction can be run.
//!
//! Nothing waits within a transaction ([`Transaction`]). A read that needs what is not in memory notes a [`Fault`] in the
//! transaction and returns [`Missing`]; whoever runs the transaction drops it, has what it noted loaded
//! ([`Store::load`]) into its [`Loaded`], and runs it again from the start. What is in a `Loaded` stays there until the
//! transaction is through, whatever memory is needed for meanwhile, so that each attempt gets further.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use lfs::{BlockDevice, FileError};

use crate::misses::mix;
use crate::store::Store;
use crate::{CommitError, DatabaseIndex, Key, Timestamp, Transaction};

/// Faults that one attempt notes at most: those behind the first are a guess.
pub const FAULTS_MAX: usize = 64;

/// Bytes of keys, and of what leads to them, that one transaction can have loaded. It bounds keys only: of files a
/// transaction has at hand what it needs, however much that is.
pub const LOADED_KEY_BYTES_MAX: usize = 8 << 20;

/// What one read of keys keeps in a [`Loaded`] beyond the key.
const READ_BYTES: usize = 64;

/// Something that has to be loaded first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// What files are made of.
    File(lfs::Fault),
    /// What keys are made of.
    Keys(KeysFault),
}

/// Something about keys that has to be loaded first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeysFault(pub(crate) KeysRead);

/// A read of keys, as far as it matters for what it needs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum KeysRead {
    Key(DatabaseIndex, Key),
    Count(DatabaseIndex),
    Scan(DatabaseIndex, u64),
    After(DatabaseIndex, Option<Key>),
    Random(DatabaseIndex),
}

/// A read could not be done: what it needs is noted in the transaction, which is in vain. See the module's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("something is not in memory")]
pub struct Missing(pub(crate) ());

/// Why what a transaction needs cannot be loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// What files are made of cannot be read.
    #[error(transparent)]
    File(FileError),
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
    pub(crate) keys: LoadedKeys,
    /// What the first attempt drew, so that the next looks for the same.
    random: Option<u64>,
    used: bool,
}

impl Loaded {
    /// Memory that it keeps.
    pub fn memory_bytes(&self) -> usize {
        self.files.memory_bytes() + self.keys.bytes
    }

    /// Its transaction is through: empties it. Costs nothing when nothing had to be loaded.
    pub fn forget(&mut self) {
        if self.used {
            *self = Self::default();
        }
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

/// Reads of keys that cannot miss any more.
#[derive(Default)]
pub(crate) struct LoadedKeys {
    reads: BTreeSet<KeysRead>,
    bytes: usize,
    /// Reads that found what they need in memory since the last load: it is there until the next one.
    found: BTreeSet<KeysRead>,
    /// What was found is all that is read: the transaction was rehearsed.
    rehearsed: bool,
}

impl LoadedKeys {
    /// Whether `read` has what it needs.
    pub(crate) fn holds(&self, read: &KeysRead) -> bool {
        self.reads.contains(read) || (self.rehearsed && self.found.contains(read))
    }

    /// `read` found what it needs in memory.
    pub(crate) fn note_found(&mut self, read: KeysRead) {
        self.found.insert(read);
    }

    /// The transaction found everything in memory: run again without an await in between, it will do so again.
    pub(crate) fn note_rehearsed(&mut self) {
        self.rehearsed = true;
    }

    fn keep(&mut self, read: KeysRead) -> Result<(), LoadError> {
        let key_bytes = match &read {
            KeysRead::Key(_, key) | KeysRead::After(_, Some(key)) => key.len(),
            _ => 0,
        };
        let bytes = self.bytes + READ_BYTES + key_bytes;
        if bytes > LOADED_KEY_BYTES_MAX {
            return Err(LoadError::OutOfMemory);
        }
        if self.reads.insert(read) {
            self.bytes = bytes;
        }
        Ok(())
    }

    /// Others had their turn: what was in memory may be gone.
    fn begin_load(&mut self) {
        self.found.clear();
        self.rehearsed = false;
    }
}

impl<D: BlockDevice> Store<D> {
    /// Loads what a transaction found missing.
    ///
    /// # Errors
    /// When it cannot be read, or is too much. What was loaded before stays of use.
    pub async fn load(&self, fault: Fault, loaded: &mut Loaded) -> Result<(), LoadError> {
        loaded.used = true;
        loaded.keys.begin_load();
        match fault {
            Fault::File(fault) => {
                let read = self.filesystem.load(fault, &mut loaded.files).await;
                read.map_err(LoadError::File)
            }
            Fault::Keys(KeysFault(read)) => {
                self.misses.take_time().await;
                loaded.keys.keep(read)
            }
        }
    }

    /// Loads what an attempt found missing. Only what it found first is sure to be needed: what becomes of the others
    /// shows when they are asked for first.
    ///
    /// # Errors
    /// As [`load`](Self::load), of the first.
    pub async fn load_all(&self, faults: Vec<Fault>, loaded: &mut Loaded) -> Result<(), LoadError> {
        let mut faults = faults.into_iter();
        if let Some(first) = faults.next() {
            self.load(first, loaded).await?;
        }
        for guessed in faults {
            if self.load(guessed, loaded).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Runs `body` in a transaction until nothing is missing, and commits it; what `body` returned, and what that
    /// depends on. `body` may run several times, and has no effect but on its transaction. Times are those of
    /// [`transaction`](Self::transaction).
    ///
    /// # Errors
    /// Nothing happened then.
    pub async fn transact<T>(
        &self,
        now_ms: i64,
        file_time_ns: i64,
        mut body: impl FnMut(&mut Transaction<'_, D>) -> Result<T, Missing>,
    ) -> Result<(T, Timestamp), TransactError> {
        let mut loaded = Loaded::default();
        loop {
            let mut transaction = self.transaction(now_ms, file_time_ns, &mut loaded);
            let result = body(&mut transaction);
            let faults = match result {
                Ok(value) => match transaction.commit() {
                    Ok(timestamp) => return Ok((value, timestamp)),
                    Err(CommitError::Fault(faults)) => faults,
                    Err(error) => return Err(error.into()),
                },
                Err(Missing(())) => transaction.take_faults(),
            };
            self.load_all(faults, &mut loaded).await?;
        }
    }
}

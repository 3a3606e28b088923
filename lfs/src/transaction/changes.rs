//! File operations of a layer above that commits them together with records of its own.
//!
//! [`FileSystem::transact`] runs one closure. A layer above that carries out several commands as one transaction
//! needs the changes of one command to be seen by the next, and a command that fails to leave nothing behind. So the
//! changes are a value of their own ([`FileChanges`]), which lives for one step: begin it, run operations with
//! [`FileSystem::change_files`], then [`FileSystem::commit`] it or drop it, without an await in between.
//!
//! Whatever returns [`FileError::Fault`] or [`CommitStop::Fault`] ends the step: [`FileSystem::load`] what is missing
//! and begin anew with the same [`Loaded`].

use super::At;
use super::write_set::{Loaded, WriteSet};
use crate::{BlockDevice, CommitNumber, CommitStop, FileError, FileSystem, Transaction};

/// Changes to files that are not committed yet.
pub struct FileChanges {
    set: WriteSet,
    /// The newest commit when they were begun.
    begun: CommitNumber,
    now_ns: i64,
}

impl FileChanges {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }
}

impl<D: BlockDevice> FileSystem<D> {
    /// Begins changes. Operations take `now_ns` (nanoseconds since the Unix epoch) for the time. What `loaded` holds
    /// from an earlier attempt stays of use, as far as it is still true.
    pub fn begin_changes(&self, now_ns: i64, loaded: &mut Loaded) -> FileChanges {
        loaded.refresh(&self.volume.borrow());
        FileChanges {
            set: WriteSet::new(self.volume.borrow().next_object.get()),
            begun: self.appended(),
            now_ns,
        }
    }

    /// Runs `body` on the newest state with `changes` made. When it fails, whatever it did is taken back, and
    /// `changes` are as before.
    ///
    /// # Errors
    /// What `body` returns; [`FileError::Conflict`] when something was committed since `changes` were begun.
    pub fn change_files<T>(
        &self,
        changes: &mut FileChanges,
        loaded: &Loaded,
        body: impl FnOnce(&mut Transaction<'_>) -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        if changes.begun != self.appended() {
            return Err(FileError::Conflict);
        }
        let mark = changes.set.mark();
        let unwritten = |range| self.log.copy_unwritten(range);
        let volume = self.volume.borrow();
        let set = core::mem::take(&mut changes.set);
        let mut transaction =
            Transaction::new(&volume, At::Newest, loaded, &unwritten, changes.now_ns).with_set(set);
        let result = body(&mut transaction);
        changes.set = transaction.into_set();
        if result.is_err() {
            changes.set.roll_back(&mark);
        }
        changes.set.release_mark(mark);
        result
    }

    /// Commits `changes` and, in the same commit, what the layer above records: all or nothing, now and across a
    /// power cut. **Not durable on return**: see [`wait_durable`](Self::wait_durable).
    ///
    /// # Errors
    /// Nothing happened then; see [`CommitStop`].
    pub fn commit(
        &self,
        mut changes: FileChanges,
        layer: &[u8],
    ) -> Result<CommitNumber, CommitStop> {
        if changes.begun != self.appended() {
            return Err(CommitStop::Error(FileError::Conflict));
        }
        self.commit_set(&mut changes.set, layer)
    }

    /// Finds out whether [`commit`](Self::commit) would ask for something to be loaded.
    ///
    /// # Errors
    /// [`CommitStop::Fault`], or damage that was met.
    pub fn rehearse_commit(&self, changes: &FileChanges) -> Result<(), CommitStop> {
        self.rehearse_set(&changes.set)
    }

    /// The newest commit that changed files in this mount: what a view of them depends on.
    pub fn file_commit(&self) -> CommitNumber {
        self.file_commit.get()
    }
}

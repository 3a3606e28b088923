//! What a store passes on of its file system: files within a transaction, snapshots, scrubs.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::Ref;

use lfs::{
    BlockDevice, Clock, CommitStop, FileChanges, FileError, Finding, ScrubError, ScrubOptions,
    ScrubStatus, SnapshotInfo,
};

use crate::store::{FileStats, Store};
use crate::{CommitError, Damage, Fault, Timestamp};

impl<D: BlockDevice> Store<D> {
    /// The snapshots, oldest first.
    pub fn snapshots(&self) -> Vec<SnapshotInfo> {
        self.filesystem.snapshots()
    }

    /// Makes a snapshot of all files and keys. Durable on return.
    ///
    /// # Errors
    /// See [`lfs::FileSystem::create_snapshot`].
    pub async fn create_snapshot(
        &self,
        name: &str,
        now_ns: i64,
    ) -> Result<SnapshotInfo, FileError> {
        let commit = self.filesystem.begin_snapshot(name, now_ns).await?;
        // Nothing was committed in between: keys are pinned at the very state.
        self.keep_snapshots();
        self.filesystem.wait_durable(commit).await?;
        let mut snapshots = self.snapshots().into_iter();
        let made = snapshots.find(|info| info.name == name);
        made.ok_or(FileError::NotFound)
    }

    /// Deletes a snapshot. Durable on return.
    ///
    /// # Errors
    /// See [`lfs::FileSystem::delete_snapshot`].
    pub async fn delete_snapshot(&self, name: &str) -> Result<(), FileError> {
        self.filesystem.delete_snapshot(name).await?;
        self.compaction.note_garbage();
        self.keep_snapshots();
        Ok(())
    }

    /// Pins keys at the commits that snapshots show, and at no others.
    pub(crate) fn keep_snapshots(&self) {
        let snapshots = self.filesystem.snapshots();
        let commits = snapshots.iter().map(|info| Timestamp(info.commit.0));
        self.engine.keep_snapshots(commits);
    }

    /// Verifies everything in use, files and keys, and repairs what can be; see [`lfs::FileSystem::scrub`]. What cannot be is
    /// [`damage`](Self::damage).
    ///
    /// # Errors
    /// See [`ScrubError`].
    pub async fn scrub(
        &self,
        clock: &impl Clock,
        options: ScrubOptions,
    ) -> Result<ScrubStatus, ScrubError> {
        if !self.filesystem.scrub_status().running {
            self.damage.take();
        }
        let mut report = |finding: &Finding, repaired: bool| {
            if !repaired {
                self.damage.borrow_mut().note(finding);
            }
        };
        self.filesystem.scrub(clock, options, &mut report).await
    }

    /// What the scrub under way, or the last one, found damaged and could not repair.
    pub fn damage(&self) -> Ref<'_, Damage> {
        self.damage.borrow()
    }

    /// Sets the rate of the scrub under way; see [`lfs::FileSystem::set_scrub_rate`].
    pub fn set_scrub_rate(&self, bytes_per_second: Option<u64>) {
        self.filesystem.set_scrub_rate(bytes_per_second);
    }

    pub(crate) fn file_stats(&self) -> FileStats {
        let (usage, counters) = (self.filesystem.usage(), self.filesystem.counters());
        let span = self.filesystem.span();
        FileStats {
            size_bytes: span.bytes,
            size_bytes_max: span.bytes_max,
            device_bytes: span.device_bytes,
            capacity_bytes: usage.capacity_bytes,
            live_bytes: usage.live_bytes,
            snapshots: self.filesystem.snapshot_count() as u64,
            segments_cleaned: counters.segments_cleaned,
            cleaned_bytes_read: counters.bytes_cleaned_read,
            cleaned_bytes_written: counters.bytes_cleaned_written,
            compression: self.filesystem.compression(),
            cold_bytes_saved: counters.bytes_saved_cold,
        }
    }

    /// Finds out whether a commit of `changes` would ask for something to be loaded.
    pub(crate) fn rehearse_files(&self, changes: &FileChanges) -> Result<(), CommitError> {
        let rehearsed = self.filesystem.rehearse_commit(changes);
        rehearsed.map_err(|stop| refusal(stop, false))
    }

    /// Why a commit with files did not come about.
    pub(crate) fn refusal_of(&self, stop: CommitStop) -> CommitError {
        refusal(stop, self.stuck.get())
    }

    /// Commits what a transaction does to files and large values, with what it does to keys.
    pub(crate) fn commit_files(
        &self,
        changes: FileChanges,
        payload: &[u8],
    ) -> Result<Timestamp, CommitError> {
        match self.filesystem.commit(changes, payload) {
            Ok(number) => Ok(Timestamp(number.0)),
            Err(stop) => Err(refusal(stop, self.stuck.get())),
        }
    }
}

/// Why a commit with files did not come about. `stuck`: the log cannot move on for want of space.
fn refusal(stop: CommitStop, stuck: bool) -> CommitError {
    match stop {
        CommitStop::Fault(fault) => CommitError::Fault(alloc::vec![Fault::File(fault)]),
        CommitStop::NoRoom if stuck => CommitError::DiskFull,
        CommitStop::NoRoom | CommitStop::NoRoomToShrink(_) => CommitError::Busy,
        CommitStop::Error(FileError::NoSpace) => CommitError::FilesFull,
        CommitStop::Error(FileError::TransactionTooLarge) => CommitError::TooLarge,
        CommitStop::Error(FileError::Conflict) => CommitError::Conflict,
        CommitStop::Error(FileError::ReadOnly) => CommitError::ReadOnly,
        CommitStop::Error(error) => CommitError::Files(Box::new(error)),
    }
}

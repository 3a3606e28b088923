//! Files within a transaction, and what else a store passes on of its file system.
//!
//! A transaction with files keeps their changes beside those of keys, and commits both as one commit of the file
//! system. What is not in memory is a fault, as of keys (`fault`).
//!
//! Room: a merge of all runs needs space for a copy of all keys (`space`). Files may not grow into that, and keys
//! may not grow beyond what files leave.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::Ref;

use lfs::{
    BlockDevice, Clock, CommitStop, FileChanges, FileError, Finding, ScrubError, ScrubOptions,
    ScrubStatus, SnapshotInfo,
};

use crate::store::{FileStats, Store};
use crate::transaction::Growth;
use crate::{CommitError, Damage, Fault, Timestamp};

impl<D: BlockDevice> Store<D> {
    /// Snapshots of the files, oldest first.
    pub fn file_snapshots(&self) -> Vec<SnapshotInfo> {
        self.filesystem.snapshots()
    }

    /// Makes a snapshot of all files, but not of keys. Durable on return.
    ///
    /// # Errors
    /// See [`FileSystem::create_snapshot`](lfs::FileSystem::create_snapshot).
    pub async fn create_file_snapshot(
        &self,
        name: &str,
        now_ns: i64,
    ) -> Result<SnapshotInfo, FileError> {
        self.filesystem.create_snapshot(name, now_ns).await
    }

    /// Deletes a snapshot. Durable on return.
    ///
    /// # Errors
    /// See [`FileSystem::delete_snapshot`](lfs::FileSystem::delete_snapshot).
    pub async fn delete_file_snapshot(&self, name: &str) -> Result<(), FileError> {
        self.filesystem.delete_snapshot(name).await
    }

    /// Verifies everything in use, files and keys, and repairs what can be; see
    /// [`FileSystem::scrub`](lfs::FileSystem::scrub). What cannot be is [`damage`](Self::damage).
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

    /// Sets the rate of the scrub under way; see [`FileSystem::set_scrub_rate`](lfs::FileSystem::set_scrub_rate).
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

    /// Commits what a transaction does to files, and to keys if it does.
    pub(crate) fn commit_files(
        &self,
        changes: FileChanges,
        growth: &Growth,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Timestamp, CommitError> {
        if growth.payload > self.filesystem.commit_bytes_max() {
            return Err(CommitError::TooLarge);
        }
        let mut payload = Vec::new();
        payload
            .try_reserve_exact(growth.payload)
            .map_err(|_| CommitError::OutOfMemory)?;
        encode(&mut payload);
        let live = self.index.borrow().live_run_bytes();
        self.share_space(live.saturating_add_signed(growth.run));
        let committed = self.filesystem.commit(changes, &payload);
        self.share_space(live);
        match committed {
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

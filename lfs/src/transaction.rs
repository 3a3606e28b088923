//! Transactions over files (signatures; bodies follow).
#![allow(
    missing_docs,
    clippy::todo,
    clippy::missing_errors_doc,
    unused_variables
)]

use alloc::string::String;
use alloc::vec::Vec;

use crate::{BlockDevice, Clock, CommitNumber, FileError, FileSystem, ItemKey, View};

pub struct Transaction<'v> {
    _volume: core::marker::PhantomData<&'v ()>,
}

/// Number of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotId(pub u64);

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInfo {
    pub id: SnapshotId,
    pub name: String,
    /// The last commit it shows.
    pub commit: CommitNumber,
    pub created_ns: i64,
}

impl<D: BlockDevice> FileSystem<D> {
    pub async fn transact<T>(
        &self,
        now_ns: i64,
        body: impl FnMut(&mut Transaction<'_>) -> Result<T, FileError>,
    ) -> Result<(T, CommitNumber), FileError> {
        todo!()
    }
    pub async fn read<T>(
        &self,
        body: impl FnMut(&mut Transaction<'_>) -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        todo!()
    }
    pub async fn read_snapshot<T>(
        &self,
        snapshot: SnapshotId,
        body: impl FnMut(&mut Transaction<'_>) -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        todo!()
    }
    pub fn hold(&self, inode: u64) {
        todo!()
    }
    pub fn unhold(&self, inode: u64) {
        todo!()
    }
    pub fn snapshots(&self) -> Vec<SnapshotInfo> {
        todo!()
    }
    pub async fn create_snapshot(
        &self,
        name: &str,
        now_ns: i64,
    ) -> Result<SnapshotInfo, FileError> {
        todo!()
    }
    pub async fn delete_snapshot(&self, name: &str) -> Result<(), FileError> {
        todo!()
    }
    pub async fn run(&self, clock: &impl Clock) {
        todo!()
    }
}

impl View for Transaction<'_> {
    fn get(&mut self, key: ItemKey) -> Result<Option<Vec<u8>>, FileError> {
        todo!()
    }
    fn first(
        &mut self,
        from: ItemKey,
        to: ItemKey,
    ) -> Result<Option<(ItemKey, Vec<u8>)>, FileError> {
        todo!()
    }
    fn put(&mut self, key: ItemKey, value: Vec<u8>) {
        todo!()
    }
    fn remove(&mut self, key: ItemKey) {
        todo!()
    }
    fn new_object(&mut self) -> u64 {
        todo!()
    }
    fn now_ns(&self) -> i64 {
        todo!()
    }
    fn hash_name(&self, name: &[u8]) -> u64 {
        todo!()
    }
    fn read_data(
        &mut self,
        object: u64,
        size: u64,
        offset: u64,
        target: &mut [u8],
    ) -> Result<(), FileError> {
        todo!()
    }
    fn write_data(
        &mut self,
        object: u64,
        size: u64,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), FileError> {
        todo!()
    }
    fn free_data(
        &mut self,
        object: u64,
        size: u64,
        from: u64,
        to: Option<u64>,
    ) -> Result<(), FileError> {
        todo!()
    }
    fn seek_data(
        &mut self,
        object: u64,
        size: u64,
        offset: u64,
        data: bool,
    ) -> Result<Option<u64>, FileError> {
        todo!()
    }
    fn stored_bytes(&mut self, object: u64) -> Result<u64, FileError> {
        todo!()
    }
}

//! Backups: what a snapshot shows, or how two snapshots differ, as a stream that another file system can be made of
//! (SPEC.md, "Backup streams").
//!
//! - `frame`: the stream's frames, each checked and chained to the one before; [`BackupVerifier`] takes none else;
//! - `record`: what frames say of files, logically: no address on any disk, no position that depends on one;
//! - `scan`: finding what a snapshot shows and an older one does not, and the other way round;
//! - this file: reading a part of a backup; `restore`: carrying a part out on another file system.
//!
//! Invariants:
//! - Whoever reads a backup keeps the place ([`BackupPosition`]), which says all there is to know: the source remembers
//!   nothing, and any part can be read again as long as the snapshot is there.
//! - A part costs memory in proportion to what was asked for, and other work goes on between steps of a bounded number of
//!   items, whatever happens to the newest state meanwhile.
//! - First comes what is to go, then what is to be there; each record says how something is in the end. So carrying a part out
//!   twice does no harm.
//!
//! What has lost its last name but is not freed yet is a part of what a snapshot shows, and of its backup; it is freed after the
//! restore. Not here: keys, whose part of the stream is the layer's above; files and sockets that streams go through.

mod frame;
mod record;
mod restore;
mod scan;

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use crate::extent::EXTENT_BYTES_MAX;
use crate::transaction::{At, Loaded, damaged_item};
use crate::tree::Key;
use crate::{BLOCK_SIZE, BlockDevice, CommitNumber, FileError, FileSystem, ItemKind};

pub use frame::{
    BackupError, BackupFrame, BackupId, BackupSection, BackupToken, BackupVerifier,
    FRAME_HEADER_BYTES, FRAME_PAYLOAD_BYTES_MAX, encode_frame, frame_bytes,
};
pub use scan::BackupPosition;

use record::Record;
use scan::{Found, Place, Range};

const BLOCK: u64 = BLOCK_SIZE as u64;

/// What a backup is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupRange {
    /// A snapshot: the last commit that it shows. `None` is the newest state, of which nothing may be changed until the
    /// backup is through.
    pub at: Option<CommitNumber>,
    /// An older snapshot that is known already; `None` is nothing.
    pub since: Option<CommitNumber>,
}

impl<D: BlockDevice> FileSystem<D> {
    /// A part of a backup from `position` on: about `bytes_max` bytes of records (one more at most), all of one section, and
    /// where the next part begins. It may be empty.
    ///
    /// # Errors
    /// [`FileError::NotFound`] when a snapshot is gone; else what cannot be read.
    pub async fn backup_part(
        &self,
        range: BackupRange,
        position: BackupPosition,
        bytes_max: usize,
    ) -> Result<(Vec<u8>, BackupPosition), FileError> {
        let mut records = Vec::new();
        let section = position.section();
        let mut position = position;
        while records.len() < bytes_max.max(1) && position.section() == section {
            let (found, next) = self.backup_step(range, position.0).await?;
            for found in found {
                match found {
                    Found::Extent { key, len } => {
                        if records.len() >= bytes_max {
                            return Ok((records, BackupPosition(Place::Contents(key))));
                        }
                        // What a truncation cut off begins anywhere; data are written by blocks.
                        let offset = key.position / BLOCK * BLOCK;
                        let len = u64::from(len) + (key.position - offset);
                        let data = self.backup_data(range, key.object, offset, len).await?;
                        let record = Record::Data {
                            object: key.object,
                            offset,
                            bytes: &data,
                        };
                        record.encode(&mut records)?;
                    }
                    Found::Record(record) => record.as_record().encode(&mut records)?,
                }
            }
            position = BackupPosition(next);
            if position == BackupPosition::END {
                break;
            }
            embassy_futures::yield_now().await;
        }
        Ok((records, position))
    }

    /// The inodes of which something is in `range.at` that is not in `range.since`, by their numbers. Costs memory in
    /// proportion to their number.
    ///
    /// # Errors
    /// As [`backup_part`](Self::backup_part).
    pub async fn changed_inodes(&self, range: BackupRange) -> Result<BTreeSet<u64>, FileError> {
        let mut inodes = BTreeSet::new();
        let mut position = Place::Contents(Key::MIN);
        while position != Place::End {
            let (found, next) = self.backup_step(range, position).await?;
            for found in found {
                if let Found::Record(record) = found
                    && let Record::Put { key, .. } = record.as_record()
                    && key.kind == ItemKind::Inode
                {
                    inodes.insert(key.object);
                }
            }
            position = next;
            embassy_futures::yield_now().await;
        }
        Ok(inodes)
    }

    /// What the next few items come to, and the place behind them.
    async fn backup_step(
        &self,
        range: BackupRange,
        position: Place,
    ) -> Result<(Vec<Found>, Place), FileError> {
        let mut loaded = Loaded::default();
        loop {
            let step = {
                let volume = self.volume.borrow();
                // Without it parts of what it shows may be gone.
                let gone = |commit: &CommitNumber| !volume.snapshots.contains_key(commit);
                if [range.at, range.since].iter().flatten().any(gone) {
                    return Err(FileError::NotFound);
                }
                let range = Range {
                    at: range.at.map_or(u64::MAX, |at| at.0),
                    since: range.since.map(|since| since.0),
                };
                volume.backup_step(range, position)
            };
            match step {
                Ok(step) => return Ok(step),
                Err(FileError::Fault(fault)) => self.load(fault, &mut loaded).await?,
                Err(error) => return Err(error),
            }
        }
    }

    async fn backup_data(
        &self,
        range: BackupRange,
        object: u64,
        offset: u64,
        len: u64,
    ) -> Result<Vec<u8>, FileError> {
        // A part of an extent, unless its item is damaged.
        let len = usize::try_from(len).ok();
        let len = len.filter(|&len| len <= EXTENT_BYTES_MAX as usize);
        let len = len.ok_or(damaged_item())?;
        let at = range.at.map_or(At::Newest, At::Snapshot);
        let mut data = Vec::new();
        data.try_reserve_exact(len)
            .map_err(|_| FileError::OutOfMemory)?;
        data.resize(len, 0);
        self.read_at(at, |transaction| {
            transaction.read_extents(object, offset, &mut data)
        })
        .await?;
        Ok(data)
    }
}

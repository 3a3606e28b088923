//! Carrying out what a backup says of files, on another file system.
//!
//! Objects keep their numbers; names get the places that they have here. A restore is no single transaction: until its end
//! the file system is one that does not exist yet ([`format_unfinished`](crate::format_unfinished)).

use alloc::vec::Vec;

use super::record::Record;
use crate::namespace::{find_name, split_name};
use crate::{
    BLOCK_SIZE, BlockDevice, FileError, FileSystem, ItemKey, ItemKind, Structure, Transaction, View,
};

/// Records that one transaction carries out at most: each is a step of its own.
const RECORDS_PER_COMMIT: usize = 64;

/// Bytes that a record takes in a commit beside its body, about.
const RECORD_BYTES: usize = 64;

impl<D: BlockDevice> FileSystem<D> {
    /// From now on nothing is freed in the background that lost its last name: a backup to come may say more of it. With
    /// `restoring` false it is freed again.
    pub fn set_restoring(&self, restoring: bool) {
        self.restoring.set(restoring);
        self.changed.notify();
    }

    /// Carries out what one part of a backup says. Not durable on return.
    ///
    /// # Errors
    /// [`FileError::Damaged`] when it says what no backup can say; else why it could not be done. A part of it may be.
    pub async fn restore_part(&self, records: &[u8]) -> Result<(), FileError> {
        let commit_bytes = self.commit_bytes_max() / 2;
        let piece = (commit_bytes / BLOCK_SIZE * BLOCK_SIZE).max(BLOCK_SIZE);
        let records = decode(records, piece)?;
        let mut rest = &records[..];
        let mut most = RECORDS_PER_COMMIT;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |record: &&Record<'_>| {
                bytes += RECORD_BYTES + body_bytes(record);
                bytes <= commit_bytes
            };
            let count = rest.iter().take(most).take_while(fits).count();
            let (now, later) = rest.split_at(count.max(1).min(rest.len()));
            let restored = self.transact(0, |transaction| {
                let mut records = now.iter();
                records.try_for_each(|record| transaction.restore(record))
            });
            match restored.await {
                Ok(_) => rest = later,
                // They touch more of the trees than may change at once.
                Err(FileError::TransactionTooLarge) if now.len() > 1 => most = now.len() / 2,
                Err(error) => return Err(error),
            }
            embassy_futures::yield_now().await;
        }
        Ok(())
    }
}

/// The records, with data in pieces of at most `piece` bytes.
fn decode(mut bytes: &[u8], piece: usize) -> Result<Vec<Record<'_>>, FileError> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let record = Record::take(&mut bytes).ok_or(FileError::Damaged {
            structure: Structure::Backup,
            block: crate::BlockIndex(0),
        })?;
        let Record::Data {
            object,
            mut offset,
            bytes,
        } = record
        else {
            records.push(record);
            continue;
        };
        for bytes in bytes.chunks(piece) {
            records.push(Record::Data {
                object,
                offset,
                bytes,
            });
            offset += bytes.len() as u64;
        }
    }
    Ok(records)
}

fn body_bytes(record: &Record<'_>) -> usize {
    match record {
        Record::Put { value, .. } => value.len(),
        Record::Data { bytes, .. } => bytes.len(),
        _ => 0,
    }
}

impl Transaction<'_> {
    fn restore(&mut self, record: &Record<'_>) -> Result<(), FileError> {
        match *record {
            Record::Put { key, value } => {
                let named = matches!(key.kind, ItemKind::Entry | ItemKind::Attribute);
                let position = if named {
                    let name = split_name(value)?;
                    let (_, place) = find_name(self, key.object, key.kind, name)?;
                    place.ok_or(FileError::NoSpace)?
                } else {
                    key.position
                };
                self.put(ItemKey { position, ..key }, value.to_vec());
                Ok(())
            }
            Record::Remove { key } => {
                if self.get(key)?.is_some() {
                    self.remove(key);
                }
                Ok(())
            }
            Record::RemoveName { object, kind, name } => {
                if let (true, Some(position)) = find_name(self, object, kind, name)? {
                    self.remove(ItemKey::new(object, kind, position));
                }
                Ok(())
            }
            Record::Data {
                object,
                offset,
                bytes,
            } => self.stage_data(object, offset, bytes),
            Record::Free { object, from, to } => {
                self.stage_hole(object, from, to);
                Ok(())
            }
        }
    }
}

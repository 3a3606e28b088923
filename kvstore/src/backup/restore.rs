//! Restoring what backups say. Frames come from anywhere: what no backup says is refused.

use alloc::vec::Vec;

use lfs::{BackupFrame, BackupSection, BlockDevice, FileError};

use super::RECORDS_PER_STEP;
use crate::CommitError;
use crate::engine::payload::SYSTEM_DATABASE;
use crate::engine::types::shared_bytes;
use crate::fault::TransactError;
use crate::record::{Change, RECORD_BYTES_MAX, Record, records};
use crate::store::Store;
use crate::transactions::{is_token_key, is_token_len};

/// Why a part of a backup was not restored, or not all of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// It says what no backup can say.
    #[error("it says what no backup can say")]
    Malformed,
    /// Its keys cannot be written.
    #[error(transparent)]
    Keys(#[from] TransactError),
    /// Its files cannot be written.
    #[error(transparent)]
    Files(FileError),
}

impl<D: BlockDevice> Store<D> {
    /// Says that a backup is going to be restored here, or has been.
    pub fn set_restoring(&self, restoring: bool) {
        self.filesystem.set_restoring(restoring);
    }

    /// Carries out what a frame of a backup says. Not durable on return.
    ///
    /// # Errors
    /// See [`RestoreError`]; a part of it may be done.
    pub async fn restore_frame(&self, frame: &BackupFrame) -> Result<(), RestoreError> {
        match frame.section {
            BackupSection::Layer => {
                let is_full = frame.id.since.0 == 0;
                self.restore_keys(&frame.payload, is_full).await
            }
            BackupSection::Removals | BackupSection::Contents => {
                let restored = self.filesystem.restore_part(&frame.payload).await;
                restored.map_err(|error| match error {
                    FileError::Damaged {
                        structure: lfs::Structure::Backup,
                        ..
                    } => RestoreError::Malformed,
                    error => RestoreError::Files(error),
                })
            }
            BackupSection::Header | BackupSection::Trailer => Ok(()),
        }
    }

    async fn restore_keys(&self, payload: &[u8], is_full: bool) -> Result<(), RestoreError> {
        let commit_bytes = self.limits().commit_bytes_max / 4;
        let mut batch = Vec::new();
        let mut bytes = 0;
        for record in records(payload) {
            let record = record.map_err(|_| RestoreError::Malformed)?;
            if !is_possible(&record, is_full) {
                return Err(RestoreError::Malformed);
            }
            for record in pieces(record, commit_bytes.max(1)) {
                let more = record_bytes(&record);
                let is_enough = bytes + more > commit_bytes || batch.len() >= RECORDS_PER_STEP;
                if is_enough && !batch.is_empty() {
                    self.restore_batch(&batch).await?;
                    batch.clear();
                    bytes = 0;
                }
                batch.push(record);
                bytes += more;
            }
        }
        self.restore_batch(&batch).await
    }

    async fn restore_batch(&self, batch: &[Record<'_>]) -> Result<(), RestoreError> {
        loop {
            self.admit().await;
            // Before all time: what has expired is restored, too, and expires again.
            let restored = self.transact(i64::MIN, 0, |transaction| {
                for record in batch.iter().filter(|one| one.change == Change::Delete) {
                    transaction.want(record.db, &mut core::iter::once(record.key));
                }
                for &Record { db, key, change } in batch {
                    match change {
                        Change::Put {
                            value,
                            expires_at_ms,
                        } => transaction.put(db, key, value, expires_at_ms),
                        Change::Append { tail } => {
                            transaction.append(db, key, tail)?;
                        }
                        Change::Delete => {
                            transaction.delete(db, key)?;
                        }
                        Change::DeleteRange { end } => {
                            transaction.writes.delete_range(db, key, end);
                        }
                        Change::Clear => transaction.clear(db),
                        Change::Expire { expires_at_ms } => {
                            transaction.set_expiry(db, key, expires_at_ms)?;
                        }
                    }
                }
                Ok(())
            });
            match restored.await {
                Ok(_) => break,
                Err(TransactError::Commit(CommitError::Busy)) => {
                    embassy_futures::yield_now().await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        embassy_futures::yield_now().await;
        Ok(())
    }
}

/// Whether a backup says that. A full one is restored to an empty store.
fn is_possible(record: &Record<'_>, is_full: bool) -> bool {
    let key = record.key;
    if record.db.0 == SYSTEM_DATABASE {
        return is_token_key(key)
            && match record.change {
                Change::Put { value, .. } => is_token_len(value.len()),
                Change::Delete => !is_full,
                _ => false,
            };
    }
    match record.change {
        Change::Put { .. } | Change::Append { .. } => true,
        Change::Clear => key.is_empty(),
        Change::Delete => !is_full,
        Change::DeleteRange { end } => !is_full && end.is_none_or(|end| key < end),
        // Of a value that came in parts.
        Change::Expire { expires_at_ms } => expires_at_ms.is_some(),
    }
}

/// What a record says in records that commits take: what of a value is behind `bytes_max` is appended, and its expiry comes last, since what expires is written
/// anew when something is appended to it. A range between long keys becomes two that meet: either has no more than one of its own keys and what both begin with.
fn pieces<'b>(record: Record<'b>, bytes_max: usize) -> impl Iterator<Item = Record<'b>> {
    let (mut first, mut rest, mut last) = (record, &[][..], None);
    match record.change {
        Change::Put {
            value,
            expires_at_ms,
        } if value.len() > bytes_max => {
            let (value, behind) = value.split_at(bytes_max);
            rest = behind;
            first.change = Change::Put {
                value,
                expires_at_ms: None,
            };
            last = expires_at_ms.map(|at| Record {
                change: Change::Expire {
                    expires_at_ms: Some(at),
                },
                ..record
            });
        }
        Change::Append { tail } if tail.len() > bytes_max => {
            let (tail, behind) = tail.split_at(bytes_max);
            rest = behind;
            first.change = Change::Append { tail };
        }
        Change::DeleteRange { end: Some(end) } if record.key.len() + end.len() > bytes_max => {
            // The shortest key behind the one, and not behind the other.
            let shared = shared_bytes(record.key, end);
            let middle = end.get(..=shared).unwrap_or(end);
            first.change = Change::DeleteRange { end: Some(middle) };
            last = (middle < end).then_some(Record {
                key: middle,
                ..record
            });
        }
        _ => {}
    }
    let appended = move |tail: &'b [u8]| Record {
        change: Change::Append { tail },
        ..record
    };
    let rest = rest.chunks(bytes_max).map(appended);
    core::iter::once(first).chain(rest).chain(last)
}

fn record_bytes(record: &Record<'_>) -> usize {
    let value = match record.change {
        Change::Put { value, .. } => value.len(),
        Change::Append { tail } => tail.len(),
        Change::DeleteRange { end } => end.map_or(0, <[u8]>::len),
        _ => 0,
    };
    RECORD_BYTES_MAX + record.key.len() + value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DatabaseIndex;

    #[test]
    fn a_value_in_pieces_is_the_value_and_expires_at_last() {
        let value = (0..100).collect::<Vec<u8>>();
        for bytes_max in [1, 7, 100, 200] {
            let record = Record {
                db: DatabaseIndex(0),
                key: b"k",
                change: Change::Put {
                    value: &value,
                    expires_at_ms: Some(5),
                },
            };
            let (mut whole, mut expiry) = (Vec::new(), None);
            for (at, piece) in pieces(record, bytes_max).enumerate() {
                assert_eq!(expiry, None);
                match piece.change {
                    Change::Put {
                        value,
                        expires_at_ms,
                    } => {
                        assert_eq!(at, 0);
                        whole.extend_from_slice(value);
                        expiry = expires_at_ms;
                    }
                    Change::Append { tail } => whole.extend_from_slice(tail),
                    Change::Expire { expires_at_ms } => expiry = expires_at_ms,
                    _ => unreachable!(),
                }
            }
            assert_eq!((whole, expiry), (value.clone(), Some(5)));
        }
    }

    #[test]
    fn a_range_in_pieces_is_the_range() {
        for (start, end, middle) in [
            ("abcdef", "abx", Some("abx")),
            ("abcdef", "axyzzy", Some("ax")),
            ("ab", "abcdef", Some("abc")),
            ("abcdef", "b", Some("b")),
            ("a", "b", None),
        ] {
            let range = |start: &'static str, end: &'static str| Record {
                db: DatabaseIndex(0),
                key: start.as_bytes(),
                change: Change::DeleteRange {
                    end: Some(end.as_bytes()),
                },
            };
            let expected = match middle {
                Some(middle) if middle != end => {
                    alloc::vec![range(start, middle), range(middle, end)]
                }
                _ => alloc::vec![range(start, end)],
            };
            let found = pieces(range(start, end), 4).collect::<Vec<_>>();
            assert_eq!(found, expected, "{start} {end}");
        }
    }
}

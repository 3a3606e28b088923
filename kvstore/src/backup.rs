//! Backups of keys and files together, and their restore.
//!
//! A backup shows one commit: the one that made a snapshot, of keys and files, so both belong together, and
//! `MULTI; SET …; FS.PUT …; EXEC` is in a backup with both or with neither. The stream is that of `lfs` (`../lfs/SPEC.md`,
//! "Backup streams"); its second section is keys (SPEC.md, "Backups"). Who reads the stream keeps the place in it: it can
//! be gone on with as long as there are the snapshots, across restarts. Tokens are in it as keys are: what was committed once is not committed
//! again after a restore.
//!
//! An incremental backup is what was written between two snapshots. Both are pinned, so for each key the version that either sees is there, and between
//! them a tombstone, or the range delete, that took away what the older one sees. So it is told by commits alone, and what is older than the older one is
//! not read, as far as whole tables are. A key whose time has come may be gone without a word: where the backup is restored its time has come as well.

use alloc::string::String;
use alloc::vec::Vec;

use lfs::{
    BackupError, BackupPosition, BackupRange, BackupSection, BackupToken, BlockDevice,
    CommitNumber, FileError, SnapshotInfo, encode_frame,
};

use self::place::KeyPlace;
use crate::engine::apply::databases;
use crate::engine::cached::Row;
use crate::engine::payload::SYSTEM_DATABASE;
use crate::fault::LoadError;
use crate::record::{Change, Record};
use crate::snapshot::Snapshot;
use crate::store::Store;
use crate::transactions::{is_token_key, is_token_len};
use crate::view::Seen;
use crate::{DATABASE_COUNT, DatabaseIndex, KEY_BYTES_MAX, Key, Timestamp};

mod place;
mod restore;

pub use restore::RestoreError;

/// Bytes of a part, as asked for.
const PART_BYTES_MIN: usize = 4096;
const PART_BYTES_MAX: usize = 1 << 20;

/// Largest piece of a value in one record.
const PIECE_BYTES: usize = 256 << 10;

/// Records, and bytes, that are worked on before others get a turn.
const RECORDS_PER_STEP: usize = 128;
const BYTES_PER_STEP: usize = 32 << 10;

/// Steps of a part: what did not change may be anything, and whoever asks waits for an answer.
const STEPS_PER_PART: usize = 1024;

/// What is to be read.
#[derive(Debug, Clone, Copy)]
pub struct BackupSource<'a> {
    /// The snapshot to show. Without one: the state of this commit, which is the newest and stays so.
    pub show: Result<&'a str, Timestamp>,
    /// The snapshot that is known already.
    pub since: Option<&'a str>,
}

/// Why a part of a backup cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BackupReadError {
    /// There is no such snapshot.
    #[error("no snapshot '{0}'")]
    NotFound(String),
    /// The snapshot to go on from is not older than the one to show.
    #[error("the snapshot to go on from is not older than the other one")]
    NotOlder,
    /// No frame ends there.
    #[error("no such place in a backup")]
    NoSuchPlace,
    /// What it shows of files cannot be read.
    #[error(transparent)]
    Files(FileError),
    /// What it shows of keys cannot be read.
    #[error(transparent)]
    Keys(LoadError),
    /// Not enough memory.
    #[error("not enough memory")]
    OutOfMemory,
}

impl<D: BlockDevice> Store<D> {
    /// The frame of a backup at `token`, with about `bytes_max` bytes of payload. The last one is a trailer.
    ///
    /// # Errors
    /// See [`BackupReadError`].
    pub async fn read_backup(
        &self,
        source: BackupSource<'_>,
        token: &BackupToken,
        bytes_max: usize,
    ) -> Result<Vec<u8>, BackupReadError> {
        let bytes_max = bytes_max.clamp(PART_BYTES_MIN, PART_BYTES_MAX);
        let find = |name: &str| {
            let found = self.snapshot_named(name);
            found.ok_or_else(|| BackupReadError::NotFound(String::from(name)))
        };
        let since = source.since.map(find).transpose()?;
        let since = since.map_or(CommitNumber(0), |info| info.commit);
        let shown = source.show.map(find);
        let (at, snapshot) = match shown {
            Ok(info) => {
                let info = info?;
                (info.commit, Some(info))
            }
            Err(newest) => (CommitNumber(newest.0), None),
        };
        if since >= at {
            return Err(BackupReadError::NotOlder);
        }
        let id = self.filesystem.backup_id(at, since);
        let range = BackupRange {
            at: snapshot.as_ref().map(|info| info.commit),
            since: (since.0 > 0).then_some(since),
        };
        let seen = Seen {
            at: Timestamp(at.0),
            since: range.since.map(|since| Timestamp(since.0)),
        };
        // Snapshots may be deleted while this is read.
        let pin = |at| Snapshot::new(&self.engine.pins, at);
        let _pins = (pin(seen.at), seen.since.map(pin));
        let mut cursor = Vec::new();
        let (section, payload) = match token.cursor.split_first() {
            None if token.sequence == 0 => {
                KeyPlace::Start.encode(&mut cursor);
                (BackupSection::Header, self.header(snapshot.as_ref()))
            }
            Some((0, place)) => {
                let place = KeyPlace::decode(place).ok_or(BackupReadError::NoSuchPlace)?;
                let (payload, next) = self.keys_part(seen, place, bytes_max).await?;
                match next {
                    Some(place) => place.encode(&mut cursor),
                    None => BackupPosition::START.encode(&mut cursor),
                }
                (BackupSection::Layer, payload)
            }
            _ => {
                let place = BackupPosition::decode(&token.cursor);
                let place = place.ok_or(BackupReadError::NoSuchPlace)?;
                match place.section() {
                    None => (BackupSection::Trailer, Vec::new()),
                    Some(section) => {
                        let part = self.filesystem.backup_part(range, place, bytes_max);
                        let (payload, next) = part.await.map_err(|error| match error {
                            FileError::NotFound => {
                                BackupReadError::NotFound(String::from(source.show.unwrap_or("")))
                            }
                            error => BackupReadError::Files(error),
                        })?;
                        next.encode(&mut cursor);
                        (section, payload)
                    }
                }
            }
        };
        let frame = encode_frame(&id, token, section, &payload, &cursor);
        frame.map_err(|error| match error {
            BackupError::OutOfMemory => BackupReadError::OutOfMemory,
            _ => BackupReadError::NoSuchPlace,
        })
    }

    fn snapshot_named(&self, name: &str) -> Option<SnapshotInfo> {
        let mut snapshots = self.filesystem.snapshots().into_iter();
        snapshots.find(|info| info.name == name)
    }

    fn header(&self, snapshot: Option<&SnapshotInfo>) -> Vec<u8> {
        let created_ns = snapshot.map_or(0, |info| info.created_ns);
        let mut header = created_ns.to_le_bytes().to_vec();
        header.extend_from_slice(&self.filesystem.usage().live_bytes.to_le_bytes());
        let name = snapshot.map_or("", |info| &info.name);
        header.extend_from_slice(name.as_bytes());
        header
    }

    /// Records of keys as they were at a commit, or of those that have changed, from `place` on, and where to go on.
    async fn keys_part(
        &self,
        seen: Seen,
        place: KeyPlace,
        bytes_max: usize,
    ) -> Result<(Vec<u8>, Option<KeyPlace>), BackupReadError> {
        let (mut payload, mut steps) = (Vec::new(), 0);
        let mut next = Some(place);
        while let Some(place) =
            next.take_if(|_| payload.len() < bytes_max && steps < STEPS_PER_PART)
        {
            next = match (place, seen.since) {
                (KeyPlace::Deleted(db, from), Some(since)) => {
                    self.deleted_step(since, seen.at, db, &from, &mut payload)
                        .await?
                }
                (place, _) => self.keys_step(seen, place, &mut payload).await?,
            };
            steps += 1;
            embassy_futures::yield_now().await;
            if next.is_none() {
                return Ok((payload, None));
            }
        }
        Ok((payload, next))
    }

    /// Ranges that were deleted. All of them come before the keys.
    async fn deleted_step(
        &self,
        since: Timestamp,
        at: Timestamp,
        db: DatabaseIndex,
        from: &[u8],
        payload: &mut Vec<u8>,
    ) -> Result<Option<KeyPlace>, BackupReadError> {
        let deleted = self.deleted(since, at, db, from).await;
        let deleted = deleted.map_err(BackupReadError::Keys)?;
        for (start, end) in &deleted.ranges {
            let end = end.as_deref();
            put(payload, db, start, Change::DeleteRange { end })?;
        }
        Ok(Some(match (deleted.next, next_database(db)) {
            (Some(next), _) => KeyPlace::Deleted(db, next),
            // Nothing is deleted with a range of what is the store's own.
            (None, Some(next)) if next.0 != SYSTEM_DATABASE => {
                KeyPlace::Deleted(next, Key::default())
            }
            (None, _) => KeyPlace::Database(DatabaseIndex(0)),
        }))
    }

    async fn keys_step(
        &self,
        seen: Seen,
        place: KeyPlace,
        payload: &mut Vec<u8>,
    ) -> Result<Option<KeyPlace>, BackupReadError> {
        let (db, from) = match place {
            KeyPlace::Start if seen.since.is_some() => {
                return Ok(Some(KeyPlace::Deleted(DatabaseIndex(0), Key::default())));
            }
            KeyPlace::Start => {
                for db in databases() {
                    put(payload, db, &[], Change::Clear)?;
                }
                (DatabaseIndex(0), Vec::new())
            }
            // In a full one nothing is.
            KeyPlace::Deleted(..) => return Err(BackupReadError::NoSuchPlace),
            KeyPlace::Database(db) => (db, Vec::new()),
            KeyPlace::From(db, key) => (db, key.to_vec()),
            KeyPlace::After(db, key) => (db, [&key[..], &[0]].concat()),
            KeyPlace::Within(db, key, offset) => {
                let found = self.visible(seen, db, &key, 1).await;
                let row = found.map_err(BackupReadError::Keys)?.rows.pop();
                let row = row.filter(|(of, _)| *of == key).map(|(_, row)| row);
                let (tail, is_last) = self.value_part(row.as_ref(), offset).await?;
                put(payload, db, &key, Change::Append { tail: &tail })?;
                if !is_last {
                    return Ok(Some(KeyPlace::Within(db, key, offset + tail.len())));
                }
                let expires_at_ms = match row.filter(Row::is_value) {
                    Some(row) => row.expiry(),
                    // Its time has come meanwhile: of all times this is past where it is restored.
                    None => Some(i64::MIN),
                };
                if expires_at_ms.is_some() {
                    put(payload, db, &key, Change::Expire { expires_at_ms })?;
                }
                return Ok(Some(KeyPlace::After(db, key)));
            }
        };
        let visible = self.visible(seen, db, &from, RECORDS_PER_STEP).await;
        let visible = visible.map_err(BackupReadError::Keys)?;
        let mut bytes = 0;
        for (key, row) in visible.rows {
            if db.0 == SYSTEM_DATABASE && !is_told(&key, &row) {
                continue;
            }
            let (first, is_last) = self.value_part(Some(&row), 0).await?;
            let change = if row.is_value() {
                Change::Put {
                    value: &first,
                    // Of one in parts it comes last.
                    expires_at_ms: row.expiry().filter(|_| is_last),
                }
            } else {
                Change::Delete
            };
            put(payload, db, &key, change)?;
            bytes += key.len() + first.len();
            if !is_last {
                return Ok(Some(KeyPlace::Within(db, key, first.len())));
            }
            if bytes >= BYTES_PER_STEP {
                return Ok(Some(KeyPlace::After(db, key)));
            }
        }
        if let Some(from) = visible.next {
            // What comes next is not before it: all keys that are, were looked at.
            let before = match from.split_last() {
                Some((0, key)) => KeyPlace::After(db, key.into()),
                _ => KeyPlace::From(db, from.into()),
            };
            return Ok(Some(before));
        }
        Ok(next_database(db).map(KeyPlace::Database))
    }

    /// Bytes of a value from `offset` on, at most [`PIECE_BYTES`], and whether they are its last.
    async fn value_part(
        &self,
        row: Option<&Row>,
        offset: usize,
    ) -> Result<(Vec<u8>, bool), BackupReadError> {
        let Some(row) = row else {
            return Ok((Vec::new(), true));
        };
        let part = self.value_bytes(row, offset, PIECE_BYTES).await;
        let part = part.map_err(BackupReadError::Keys)?;
        let is_last = offset + part.len() >= row.value_len();
        Ok((part, is_last))
    }
}

/// Appends a record.
fn put(
    payload: &mut Vec<u8>,
    db: DatabaseIndex,
    key: &[u8],
    change: Change<'_>,
) -> Result<(), BackupReadError> {
    payload
        .try_reserve(KEY_BYTES_MAX + PIECE_BYTES + 32)
        .map_err(|_| BackupReadError::OutOfMemory)?;
    Record { db, key, change }.encode(payload);
    Ok(())
}

/// The database whose keys come behind those of `db`: the store's own come last.
fn next_database(db: DatabaseIndex) -> Option<DatabaseIndex> {
    let next = DatabaseIndex(db.0.checked_add(1)?);
    let is_users = usize::from(next.0) < DATABASE_COUNT;
    Some(if is_users {
        next
    } else {
        DatabaseIndex(SYSTEM_DATABASE)
    })
}

/// Whether backups say anything of a key that is the store's own: tokens are all there is.
fn is_told(key: &[u8], row: &Row) -> bool {
    is_token_key(key) && (!row.is_value() || is_token_len(row.value_len()))
}

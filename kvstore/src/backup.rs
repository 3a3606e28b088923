//! Backups of keys and files together, and their restore.
//!
//! A backup shows one commit: the one that made a snapshot of the files. In the step in which that is committed the
//! keys are pinned at it, so both belong together, and `MULTI; SET …; FS.PUT …; EXEC` is in a backup with both or with
//! neither. The stream is that of `lfs` (`../lfs/SPEC.md`, "Backup streams"); its second section is all keys (SPEC.md, "Backups").
//!
//! What is pinned of the keys is in memory only. So keys come first, and the pin goes when files are asked for, when
//! nobody has asked for [`PIN_IDLE_MS`], or when others need its place; a backup that has not got its keys by then
//! has to be begun again. Files stay with their snapshot, across restarts. Who reads the stream keeps the place in it.
//!
//! An incremental backup has all keys, too.

use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;

use lfs::{
    BackupError, BackupFrame, BackupPosition, BackupRange, BackupSection, BackupToken, BlockDevice,
    CommitNumber, FileError, SnapshotInfo, encode_frame,
};

use crate::record::{Change, Record, records};
use crate::snapshot::Snapshot;
use crate::store::Store;
use crate::{
    CommitError, DATABASE_COUNT, DatabaseIndex, KEY_BYTES_MAX, Key, LoadError, Timestamp,
    TransactError, Transaction,
};

/// How long keys stay pinned for a backup of which nothing is read.
pub const PIN_IDLE_MS: i64 = 10 * 60 * 1000;

/// Backups whose keys are pinned at the same time.
const PINS_MAX: usize = 4;

/// Bytes of a part, as asked for.
const PART_BYTES_MIN: usize = 4096;
const PART_BYTES_MAX: usize = 1 << 20;

/// Largest piece of a value in one record.
const PIECE_BYTES: usize = 256 << 10;

/// Records, and bytes, that are worked on before others get a turn.
const RECORDS_PER_STEP: usize = 128;
const BYTES_PER_STEP: usize = 32 << 10;

/// What is to be read.
#[derive(Debug, Clone, Copy)]
pub struct BackupSource<'a> {
    /// The snapshot to show. Without one: the state of this commit, which is the newest and stays so.
    pub show: Result<&'a str, Timestamp>,
    /// The snapshot that is known already.
    pub since: Option<&'a str>,
    /// Unix milliseconds.
    pub now_ms: i64,
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
    /// The keys are no longer held: a backup of another snapshot has to be begun.
    #[error("the keys of this backup are no longer held: begin another one")]
    KeysGone,
    /// No frame ends there.
    #[error("no such place in a backup")]
    NoSuchPlace,
    /// What it shows cannot be read.
    #[error(transparent)]
    Files(FileError),
    /// Not enough memory.
    #[error("not enough memory")]
    OutOfMemory,
}

/// Why a part of a backup was not restored, or not all of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// It says what no backup can say.
    #[error("it says what no backup can say")]
    Malformed,
    /// Its keys cannot be written.
    #[error(transparent)]
    Keys(#[from] CommitError),
    /// Its files cannot be written.
    #[error(transparent)]
    Files(FileError),
}

impl From<TransactError> for RestoreError {
    fn from(error: TransactError) -> Self {
        match error {
            TransactError::Commit(error) => Self::Keys(error),
            TransactError::Load(LoadError::File(error)) => Self::Files(error),
            TransactError::Load(LoadError::OutOfMemory) => Self::Keys(CommitError::OutOfMemory),
        }
    }
}

/// Keys that are pinned for backups, least recently read first.
#[derive(Default)]
pub(crate) struct Pinned(RefCell<Vec<Pin>>);

struct Pin {
    keys: Snapshot,
    read_ms: i64,
}

impl Pinned {
    fn add(&self, keys: Snapshot, now_ms: i64) {
        let mut pins = self.0.borrow_mut();
        if pins.len() >= PINS_MAX {
            pins.remove(0);
        }
        pins.push(Pin {
            keys,
            read_ms: now_ms,
        });
    }

    /// Whether keys are pinned at `at`; they are in use.
    fn touch(&self, at: Timestamp, now_ms: i64) -> bool {
        let mut pins = self.0.borrow_mut();
        let found = pins.iter().position(|pin| pin.keys.timestamp() == at);
        let Some(found) = found else { return false };
        let pin = pins.remove(found);
        pins.push(Pin {
            read_ms: now_ms,
            ..pin
        });
        true
    }

    fn release(&self, at: Timestamp) {
        let mut pins = self.0.borrow_mut();
        pins.retain(|pin| pin.keys.timestamp() != at);
    }

    /// Lets go of what nobody has read from for long. Clocks may be set back.
    pub(crate) fn expire(&self, now_ms: i64) {
        let mut pins = self.0.borrow_mut();
        pins.retain(|pin| now_ms.saturating_sub(pin.read_ms).saturating_abs() < PIN_IDLE_MS);
    }

    pub(crate) fn count(&self) -> usize {
        self.0.borrow().len()
    }
}

impl<D: BlockDevice> Store<D> {
    /// Makes a snapshot of the files, and pins the keys as they are at the same commit. Durable on return.
    ///
    /// # Errors
    /// See [`lfs::FileSystem::create_snapshot`].
    pub async fn begin_backup(&self, name: &str, now_ns: i64) -> Result<SnapshotInfo, FileError> {
        let at_ms = now_ns.div_euclid(1_000_000);
        let commit = self.filesystem.begin_snapshot(name, now_ns).await?;
        // Nothing was committed in between.
        let keys = Snapshot::new(&self.index.borrow().pins, Timestamp(commit.0));
        self.pinned.expire(at_ms);
        self.pinned.add(keys, at_ms);
        self.filesystem.wait_durable(commit).await?;
        self.snapshot_named(name).ok_or(FileError::NotFound)
    }

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
        let keys_at = Timestamp(at.0);
        let mut cursor = Vec::new();
        let (section, payload) = match token.cursor.split_first() {
            None if token.sequence == 0 => {
                KeyPlace::Start.encode(&mut cursor);
                (BackupSection::Header, self.header(snapshot.as_ref()))
            }
            Some((0, place)) => {
                let place = KeyPlace::decode(place).ok_or(BackupReadError::NoSuchPlace)?;
                if snapshot.is_some() && !self.pinned.touch(keys_at, source.now_ms) {
                    return Err(BackupReadError::KeysGone);
                }
                let (payload, next) = self.keys_part(keys_at, place, bytes_max).await?;
                match next {
                    Some(place) => place.encode(&mut cursor),
                    None => BackupPosition::START.encode(&mut cursor),
                }
                (BackupSection::Layer, payload)
            }
            _ => {
                let place = BackupPosition::decode(&token.cursor);
                let place = place.ok_or(BackupReadError::NoSuchPlace)?;
                self.pinned.release(keys_at);
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

    /// Records of keys as they were at `at`, from `place` on, and where to go on.
    async fn keys_part(
        &self,
        at: Timestamp,
        place: KeyPlace,
        bytes_max: usize,
    ) -> Result<(Vec<u8>, Option<KeyPlace>), BackupReadError> {
        let mut payload = Vec::new();
        let mut next = Some(place);
        while let Some(place) = next.take_if(|_| payload.len() < bytes_max) {
            next = self.keys_step(at, place, &mut payload)?;
            embassy_futures::yield_now().await;
            if next.is_none() {
                return Ok((payload, None));
            }
        }
        Ok((payload, next))
    }

    fn keys_step(
        &self,
        at: Timestamp,
        place: KeyPlace,
        payload: &mut Vec<u8>,
    ) -> Result<Option<KeyPlace>, BackupReadError> {
        let index = self.index.borrow();
        let mut put = |db, key: &[u8], change| {
            payload
                .try_reserve(KEY_BYTES_MAX + PIECE_BYTES + 32)
                .map_err(|_| BackupReadError::OutOfMemory)?;
            Record { db, key, change }.encode(payload);
            Ok(payload.len())
        };
        let (db, after) = match place {
            KeyPlace::Start => {
                for db in databases() {
                    put(db, &[], Change::Clear)?;
                }
                (DatabaseIndex(0), None)
            }
            KeyPlace::Database(db) => (db, None),
            KeyPlace::After(db, key) => (db, Some(key)),
            KeyPlace::Within(db, key, offset) => {
                let value = index
                    .at(db, at)
                    .at(&key, at)
                    .and_then(|it| it.value.as_ref());
                let rest = value
                    .and_then(|value| value.get(offset..))
                    .unwrap_or_default();
                let (tail, left) = rest.split_at(rest.len().min(PIECE_BYTES));
                put(db, &key, Change::Append { tail })?;
                return Ok(Some(if left.is_empty() {
                    KeyPlace::After(db, key)
                } else {
                    KeyPlace::Within(db, key, offset + tail.len())
                }));
            }
        };
        let mut bytes = 0;
        let keys = index.at(db, at).range_at(after.as_deref(), at);
        for (count, (key, version)) in keys.enumerate() {
            let Some(value) = version.value.as_ref() else {
                continue;
            };
            let (first, left) = value.split_at(value.len().min(PIECE_BYTES));
            let change = Change::Put {
                value: first,
                expires_at_ms: version.expires_at_ms(),
            };
            put(db, key, change)?;
            bytes += key.len() + first.len();
            if !left.is_empty() {
                return Ok(Some(KeyPlace::Within(db, Key::clone(key), first.len())));
            }
            if count + 1 >= RECORDS_PER_STEP || bytes >= BYTES_PER_STEP {
                return Ok(Some(KeyPlace::After(db, Key::clone(key))));
            }
        }
        let next = DatabaseIndex(db.0 + 1);
        Ok((usize::from(next.0) < DATABASE_COUNT).then_some(KeyPlace::Database(next)))
    }

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
            BackupSection::Layer => self.restore_keys(&frame.payload).await,
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

    async fn restore_keys(&self, payload: &[u8]) -> Result<(), RestoreError> {
        let commit_bytes = self.limits().commit_bytes_max / 4;
        let mut batch = Vec::new();
        let mut bytes = 0;
        for record in records(payload) {
            let record = record.map_err(|_| RestoreError::Malformed)?;
            if matches!(record.change, Change::Delete | Change::Expire { .. }) {
                return Err(RestoreError::Malformed);
            }
            for record in pieces(record, commit_bytes.max(1)) {
                batch.push(record);
                bytes += record_bytes(&record);
                if bytes >= commit_bytes || batch.len() >= RECORDS_PER_STEP {
                    self.restore_batch(&batch).await?;
                    batch.clear();
                    bytes = 0;
                }
            }
        }
        self.restore_batch(&batch).await
    }

    async fn restore_batch(&self, batch: &[Record<'_>]) -> Result<(), RestoreError> {
        loop {
            self.admit().await;
            // Before all time: what has expired is restored, too, and expires again.
            let restore = |transaction: &mut Transaction<'_, D>| {
                for &Record { db, key, change } in batch {
                    match change {
                        Change::Put {
                            value,
                            expires_at_ms,
                        } => transaction.put(db, key, value, expires_at_ms),
                        Change::Append { tail } => {
                            transaction.append(db, key, tail)?;
                        }
                        Change::Clear => transaction.clear(db),
                        // Refused before.
                        Change::Delete | Change::Expire { .. } => {}
                    }
                }
                Ok(())
            };
            match self.transact(i64::MIN, 0, restore).await {
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

fn databases() -> impl Iterator<Item = DatabaseIndex> {
    (0..).map(DatabaseIndex).take(DATABASE_COUNT)
}

/// A record whose value one commit takes: what is behind `bytes_max` is appended.
fn pieces<'b>(record: Record<'b>, bytes_max: usize) -> impl Iterator<Item = Record<'b>> {
    let bytes = match record.change {
        Change::Put { value, .. } => value,
        Change::Append { tail } => tail,
        _ => &[],
    };
    let (first, rest) = bytes.split_at(bytes.len().min(bytes_max));
    let change = match record.change {
        Change::Put { expires_at_ms, .. } => Change::Put {
            value: first,
            expires_at_ms,
        },
        Change::Append { .. } => Change::Append { tail: first },
        change => change,
    };
    let appended = move |tail: &'b [u8]| Record {
        change: Change::Append { tail },
        ..record
    };
    core::iter::once(Record { change, ..record }).chain(rest.chunks(bytes_max).map(appended))
}

fn record_bytes(record: &Record<'_>) -> usize {
    let value = match record.change {
        Change::Put { value, .. } => value.len(),
        Change::Append { tail } => tail.len(),
        _ => 0,
    };
    crate::record::RECORD_BYTES_MAX + record.key.len() + value
}

/// A place among the keys (SPEC.md, "Backups").
#[derive(Debug, Clone, PartialEq, Eq)]
enum KeyPlace {
    Start,
    Database(DatabaseIndex),
    After(DatabaseIndex, Key),
    /// So many bytes of its value came before.
    Within(DatabaseIndex, Key, usize),
}

impl KeyPlace {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Start => out.extend_from_slice(&[0, 0]),
            Self::Database(db) => out.extend_from_slice(&[0, 1, db.0]),
            Self::After(db, key) => {
                out.extend_from_slice(&[0, 2, db.0]);
                out.extend_from_slice(key);
            }
            Self::Within(db, key, offset) => {
                out.extend_from_slice(&[0, 3, db.0]);
                out.extend_from_slice(&(*offset as u64).to_le_bytes());
                out.extend_from_slice(key);
            }
        }
    }

    /// Without the leading 0.
    fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes == [0] {
            return Some(Self::Start);
        }
        let (&[kind, db], rest) = bytes.split_first_chunk()?;
        let db = DatabaseIndex(db);
        let in_range = usize::from(db.0) < DATABASE_COUNT && rest.len() <= KEY_BYTES_MAX + 8;
        let place = match kind {
            1 if rest.is_empty() => Self::Database(db),
            2 if rest.len() <= KEY_BYTES_MAX => Self::After(db, Key::from(rest)),
            3 => {
                let (offset, key) = rest.split_first_chunk()?;
                let offset = usize::try_from(u64::from_le_bytes(*offset)).ok()?;
                Self::Within(db, Key::from(key), offset)
            }
            _ => return None,
        };
        in_range.then_some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_survive_a_round_trip_and_nonsense_is_refused() {
        let (db, key) = (DatabaseIndex(15), Key::from(&b"key"[..]));
        for place in [
            KeyPlace::Start,
            KeyPlace::Database(db),
            KeyPlace::After(db, Key::from(&b""[..])),
            KeyPlace::After(db, key.clone()),
            KeyPlace::Within(db, key, 1 << 40),
        ] {
            let mut bytes = Vec::new();
            place.encode(&mut bytes);
            assert_eq!(KeyPlace::decode(&bytes[1..]), Some(place));
        }
        for bad in [&[][..], &[1], &[1, 16], &[1, 0, 0], &[4, 0], &[3, 0, 1]] {
            assert_eq!(KeyPlace::decode(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_value_in_pieces_is_the_value() {
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
            let mut whole = Vec::new();
            for (at, piece) in pieces(record, bytes_max).enumerate() {
                match piece.change {
                    Change::Put {
                        value,
                        expires_at_ms,
                    } => {
                        assert_eq!((at, expires_at_ms), (0, Some(5)));
                        whole.extend_from_slice(value);
                    }
                    Change::Append { tail } => whole.extend_from_slice(tail),
                    _ => unreachable!(),
                }
            }
            assert_eq!(whole, value);
        }
    }
}

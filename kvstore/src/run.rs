//! Sorted runs: the durable form of everything the log no longer holds (SPEC.md, "Runs").
//!
//! A run is an object of the file system whose chunks, one behind the other, hold records sorted by database and key, at most one
//! for each key, a database's `Clear` before its keys. Runs are ordered by age; a newer run's record
//! hides an older one's. A flush adds a run; a merge replaces neighbours by one. When the oldest run
//! takes part in a merge, nothing older can be hidden, so tombstones and clears are left out.

use alloc::vec::Vec;

use lfs::{
    BlockDevice, CHUNK_BYTES_MAX, CHUNK_HEAD_BYTES_MAX, FileSystem, ObjectId, ObjectReadError,
    ObjectScan, ObjectWriteError, ObjectWriter,
};

use crate::dirty::Dirty;
use crate::index::Index;
use crate::record::{
    Change, Malformed, RUN_RECORD_BYTES_MAX, Record, decode_in_run, encode_in_run,
};
use crate::version::Version;
use crate::{DATABASE_COUNT, DatabaseIndex, Timestamp};

/// Bytes of records in a chunk: with its head it is one of the file system's requests.
const PIECE_BYTES: usize = CHUNK_BYTES_MAX - CHUNK_HEAD_BYTES_MAX;

/// Records that are worked on before others get a turn.
const RECORDS_PER_STEP: usize = 128;

/// A run, as the manifest lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub object: ObjectId,
    pub len_bytes: u64,
}

/// The runs in the order of their age, oldest first, as a manifest (SPEC.md, "Manifest").
pub(crate) fn encode_manifest(runs: &[Run]) -> Vec<u8> {
    let mut manifest = alloc::vec![1_u8];
    for run in runs {
        manifest.extend_from_slice(&run.object.0.to_le_bytes());
        manifest.extend_from_slice(&run.len_bytes.to_le_bytes());
    }
    manifest
}

pub(crate) fn decode_manifest(manifest: &[u8]) -> Result<Vec<Run>, Malformed> {
    match manifest.split_first() {
        None => Ok(Vec::new()),
        Some((1, list)) if list.len() % 16 == 0 => Ok(list
            .chunks_exact(16)
            .filter_map(|run| {
                let (object, len) = (run.first_chunk::<8>()?, run.last_chunk::<8>()?);
                let object = ObjectId(u64::from_le_bytes(*object));
                Some(Run {
                    object,
                    len_bytes: u64::from_le_bytes(*len),
                })
            })
            .collect()),
        Some(_) => Err(Malformed),
    }
}

/// Why a merge or flush did not come about. Its object is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunError {
    Write(ObjectWriteError),
    Read(ObjectReadError),
    Malformed,
    /// The store is closing.
    Closing,
    /// It would take the room that a merge of everything needs.
    NoRoom,
}

impl From<ObjectWriteError> for RunError {
    fn from(error: ObjectWriteError) -> Self {
        Self::Write(error)
    }
}

impl From<ObjectReadError> for RunError {
    fn from(error: ObjectReadError) -> Self {
        Self::Read(error)
    }
}

impl From<Malformed> for RunError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// Bytes of the run that [`write_dirty`] would write, at most.
pub(crate) async fn dirty_bytes(
    index: &core::cell::RefCell<Index>,
    dirty: &Dirty,
    timestamp: Timestamp,
) -> u64 {
    let mut bytes = 0;
    for (db, database) in dirty.databases() {
        bytes += RUN_RECORD_BYTES_MAX as u64;
        for (count, key) in database.keys().enumerate() {
            if count % RECORDS_PER_STEP == 0 {
                embassy_futures::yield_now().await;
            }
            let index = index.borrow();
            let version = index.at(db, timestamp).at(key, timestamp);
            let value_len = version.map_or(0, Version::value_bytes);
            bytes += (RUN_RECORD_BYTES_MAX + key.len() + value_len) as u64;
        }
    }
    bytes
}

/// Writes what a snapshot at `timestamp` sees of the dirty keys as a run; `None` when that is nothing.
///
/// `index` is asked for a few keys at a time, and others get turns in between.
pub(crate) async fn write_dirty<D: BlockDevice>(
    filesystem: &FileSystem<D>,
    index: &core::cell::RefCell<Index>,
    dirty: &Dirty,
    timestamp: Timestamp,
) -> Result<Option<Run>, RunError> {
    if dirty.is_empty() {
        return Ok(None);
    }
    let mut run = RunWriter::new(filesystem)?;
    for (db, database) in dirty.databases() {
        if database.cleared {
            let record = Record {
                db,
                key: &[],
                change: Change::Clear,
            };
            encode_in_run(timestamp, &record, &mut run.piece);
        }
        let mut keys = database.keys();
        loop {
            let mut left = RECORDS_PER_STEP;
            for key in keys.by_ref() {
                left -= 1;
                let index = index.borrow();
                let version = index.at(db, timestamp).at(key, timestamp);
                let value = version.and_then(|version| version.value.as_ref());
                let written_at = version.map_or(timestamp, |version| version.timestamp);
                let change = match (value, version) {
                    (Some(value), Some(version)) => Some(Change::Put {
                        value,
                        expires_at_ms: version.expires_at_ms(),
                    }),
                    // The run's own `Clear` says as much.
                    _ if database.cleared => None,
                    _ => Some(Change::Delete),
                };
                if let Some(change) = change {
                    encode_in_run(written_at, &Record { db, key, change }, &mut run.piece);
                }
                if left == 0 || run.is_full() {
                    break;
                }
            }
            let all_taken = left > 0 && !run.is_full();
            run.write_full().await?;
            if all_taken {
                break;
            }
            embassy_futures::yield_now().await;
        }
    }
    run.finish().await
}

/// Merges `runs`, oldest first, into one; `None` when nothing is left. `oldest`: the oldest run of
/// all is among them. `closing` ends it early.
pub(crate) async fn merge<D: BlockDevice>(
    filesystem: &FileSystem<D>,
    runs: &[Run],
    oldest: bool,
    closing: impl Fn() -> bool,
) -> Result<Option<Run>, RunError> {
    let device = filesystem.device();
    let mut readers = Vec::new();
    for run in runs {
        let mut reader = RunReader::new(filesystem.scan_object(run.object)?);
        reader.advance(device, 0).await?;
        readers.push(reader);
    }
    let mut merged = RunWriter::new(filesystem)?;
    // The newest run (by position) that has emptied each database: older runs' keys are gone.
    let mut cleared_by = [None; DATABASE_COUNT];
    let mut steps = 0_usize;
    // The smallest key comes next; of several runs that have it, the newest decides.
    while let Some(next) = smallest(&readers) {
        let Some((timestamp, record, _)) = readers
            .get(next)
            .map(RunReader::current)
            .transpose()?
            .flatten()
        else {
            return Err(RunError::Malformed);
        };
        let cleared = cleared_by
            .get_mut(usize::from(record.db.0))
            .ok_or(RunError::Malformed)?;
        let hidden = cleared.is_some_and(|by| by > next);
        let keep = match record.change {
            Change::Clear => {
                *cleared = (*cleared).max(Some(next));
                !oldest && !hidden
            }
            Change::Delete => !oldest && !hidden,
            Change::Put { .. } => !hidden,
            Change::Append { .. } | Change::Expire { .. } => return Err(RunError::Malformed),
        };
        if keep {
            encode_in_run(timestamp, &record, &mut merged.piece);
        }
        let (db, key) = (record.db, record.key.to_vec());
        let is_clear = matches!(record.change, Change::Clear);
        for reader in &mut readers {
            let Some((_, record, len)) = reader.current()? else {
                continue;
            };
            if record.db == db
                && record.key == key
                && matches!(record.change, Change::Clear) == is_clear
            {
                reader.advance(device, len).await?;
            }
        }
        steps += 1;
        if merged.is_full() || steps.is_multiple_of(RECORDS_PER_STEP) {
            merged.write_full().await?;
            embassy_futures::yield_now().await;
            if closing() {
                return Err(RunError::Closing);
            }
        }
    }
    merged.finish().await
}

/// Writes a run.
struct RunWriter<'f, D: BlockDevice> {
    object: ObjectWriter<'f, D>,
    /// Records that are in no chunk yet.
    piece: Vec<u8>,
}

impl<'f, D: BlockDevice> RunWriter<'f, D> {
    fn new(filesystem: &'f FileSystem<D>) -> Result<Self, RunError> {
        Ok(Self {
            object: filesystem.create_object()?,
            piece: Vec::new(),
        })
    }

    /// Whether there are enough records for a chunk.
    fn is_full(&self) -> bool {
        self.piece.len() >= PIECE_BYTES
    }

    /// Writes what fills chunks.
    async fn write_full(&mut self) -> Result<(), RunError> {
        self.write(PIECE_BYTES).await
    }

    /// Writes chunks until there are fewer than `least` bytes left.
    async fn write(&mut self, least: usize) -> Result<(), RunError> {
        let mut written = 0;
        while self.piece.len() - written >= least {
            let rest = self.piece.get(written..).unwrap_or_default();
            // Chunks that fill segments leave none of them empty: records go on in the next chunk.
            let room = usize::try_from(self.object.room_in_segment()).unwrap_or(usize::MAX);
            let room = match room.saturating_sub(CHUNK_HEAD_BYTES_MAX) {
                0 => PIECE_BYTES,
                room => room.min(PIECE_BYTES),
            };
            let chunk = rest.get(..room).unwrap_or(rest);
            self.object.put(chunk)?;
            written += chunk.len();
            self.object.write_full().await?;
        }
        self.piece.drain(..written);
        Ok(())
    }

    /// The run, if there is a record in it.
    async fn finish(mut self) -> Result<Option<Run>, RunError> {
        self.write(1).await?;
        let len_bytes = self.object.len_bytes();
        if len_bytes == 0 {
            return Ok(None);
        }
        Ok(Some(Run {
            object: self.object.finish().await?,
            len_bytes,
        }))
    }
}

/// Where a record stands in a run: by database, its `Clear` first, then by key.
fn position<'r>(record: &Record<'r>) -> (DatabaseIndex, bool, &'r [u8]) {
    (
        record.db,
        !matches!(record.change, Change::Clear),
        record.key,
    )
}

/// Which reader's record comes next; the newest of those that stand at the same place.
fn smallest(readers: &[RunReader]) -> Option<usize> {
    let current = readers.iter().enumerate().filter_map(|(at, reader)| {
        // What is malformed was reported when it became current.
        let (_, record, _) = reader.current().ok().flatten()?;
        Some((position(&record), core::cmp::Reverse(at)))
    });
    current.min().map(|(_, newest)| newest.0)
}

/// Reads a run record by record.
pub(crate) struct RunReader {
    object: ObjectScan,
    /// Bytes of the run, from some record's start on.
    bytes: Vec<u8>,
    /// Where in `bytes` the current record begins.
    at: usize,
    ended: bool,
}

impl RunReader {
    pub(crate) fn new(object: ObjectScan) -> Self {
        Self {
            object,
            bytes: Vec::new(),
            at: 0,
            ended: false,
        }
    }

    /// The current record, its timestamp and its length; `None` at the end.
    pub(crate) fn current(&self) -> Result<Option<(Timestamp, Record<'_>, usize)>, Malformed> {
        decode_in_run(self.bytes.get(self.at..).unwrap_or_default())
    }

    /// Steps over the current record, of `len` bytes, and has the next one ready.
    pub(crate) async fn advance(
        &mut self,
        device: &impl BlockDevice,
        len: usize,
    ) -> Result<(), RunError> {
        self.at += len;
        while !self.ended && self.current()?.is_none() {
            self.bytes.drain(..self.at);
            self.at = 0;
            self.ended = self.object.next(device, &mut self.bytes).await?.is_none();
        }
        if self.ended && self.current()?.is_none() && self.at < self.bytes.len() {
            return Err(RunError::Malformed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_survives_a_round_trip_and_nonsense_is_refused() {
        let runs = [(3, 100), (9, 7)].map(|(object, len_bytes)| Run {
            object: ObjectId(object),
            len_bytes,
        });
        assert_eq!(decode_manifest(&encode_manifest(&runs)), Ok(runs.to_vec()));
        assert_eq!(decode_manifest(&[]), Ok(Vec::new()));
        assert_eq!(decode_manifest(&[2]), Err(Malformed));
        assert_eq!(decode_manifest(&[1, 0]), Err(Malformed));
    }
}

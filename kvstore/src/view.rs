//! Views of the past: keys as a pin sees them, in steps, each of which loads what it needs.

use alloc::vec::Vec;
use core::cell::RefCell;

use lfs::{BlockDevice, FileError, together};

use crate::engine::cached::{Row, RowContent};
use crate::engine::loads::{ChunkFault, LoadedChunks, Reader, Wanted};
use crate::engine::merge::ScanStep;
use crate::engine::types::{Missing as NotInMemory, Piece, engine_key};
use crate::fault::LoadError;
use crate::snapshot::Snapshot;
use crate::store::Store;
use crate::{DatabaseIndex, Key, Timestamp};

/// Entries that one step looks at.
const LOOKS: usize = 256;

/// Keys in order, and what they have.
pub(crate) struct Visible {
    pub(crate) rows: Vec<(Key, Row)>,
    /// Where to go on; `None` at the end of the database.
    pub(crate) next: Option<Vec<u8>>,
}

impl<D: BlockDevice> Store<D> {
    /// Appends live keys of `db` from `from` on, in order, as `snapshot` sees them, to `keys`: up to `limit`, and what one step finds. Where
    /// to go on, or `None` at the end.
    ///
    /// # Errors
    /// They cannot be read.
    pub async fn keys_from(
        &self,
        snapshot: &Snapshot,
        db: DatabaseIndex,
        from: &[u8],
        limit: usize,
        now_ms: i64,
        keys: &mut Vec<Key>,
    ) -> Result<Option<Vec<u8>>, LoadError> {
        let visible = self.visible(snapshot.timestamp(), db, from, limit).await?;
        let live = visible
            .rows
            .into_iter()
            .filter(|(_, row)| row.is_live_at(now_ms));
        keys.extend(live.map(|(key, _)| key));
        Ok(visible.next)
    }

    /// What a pin at `at` sees of `db` from `from` on: up to `limit` keys, expired ones among them.
    pub(crate) async fn visible(
        &self,
        at: Timestamp,
        db: DatabaseIndex,
        from: &[u8],
        limit: usize,
    ) -> Result<Visible, LoadError> {
        let start = engine_key(db, from);
        self.reading(|reader| {
            let mut visible = Visible {
                rows: Vec::new(),
                next: None,
            };
            let tree = self.engine.tree.borrow();
            let mut merge = tree.merge(reader, at).map_err(|_| Stopped::OutOfMemory)?;
            merge.seek(&start)?;
            let (mut looks, mut found) = (LOOKS, Vec::new());
            loop {
                let row = match merge.next_visible(&mut looks, &mut found)? {
                    ScanStep::Key(version) => Some(Row::of(&version)),
                    ScanStep::More => None,
                    ScanStep::End => return Ok(visible),
                };
                let Some((_, key)) = found.split_first().filter(|(of, _)| **of == db.0) else {
                    return Ok(visible);
                };
                let Some(row) = row else {
                    visible.next = Some(key.to_vec());
                    return Ok(visible);
                };
                visible
                    .rows
                    .try_reserve(1)
                    .map_err(|_| Stopped::OutOfMemory)?;
                visible.rows.push((key.into(), row));
                if visible.rows.len() >= limit {
                    visible.next = Some([key, &[0]].concat());
                    return Ok(visible);
                }
            }
        })
        .await
    }

    /// Runs `read` until nothing is missing.
    async fn reading<T>(
        &self,
        mut read: impl FnMut(&Reader<'_>) -> Result<T, Stopped>,
    ) -> Result<T, LoadError> {
        let mut loaded = LoadedChunks::default();
        loop {
            let faults = RefCell::default();
            let reader = Reader::new(&self.engine, &loaded, &faults, Wanted::All);
            match read(&reader) {
                Ok(value) => return Ok(value),
                Err(Stopped::OutOfMemory) => return Err(LoadError::OutOfMemory),
                Err(Stopped::Missing) => {}
            }
            self.load_chunks(faults.take(), &mut loaded).await?;
        }
    }

    /// Loads chunks, several at a time. Only what was found missing first is sure to be needed.
    pub(crate) async fn load_chunks(
        &self,
        faults: Vec<ChunkFault>,
        loaded: &mut LoadedChunks,
    ) -> Result<(), LoadError> {
        let loads = faults
            .into_iter()
            .map(|fault| async move { (fault, self.load_chunk(fault).await) });
        for (number, (fault, chunk)) in together(loads).await.into_iter().enumerate() {
            let kept = chunk.and_then(|chunk| match chunk {
                Some(chunk) => loaded.insert(fault, chunk),
                None => Ok(()),
            });
            if number == 0 {
                kept?;
            } else if kept.is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Up to `len` bytes of a value from `offset` on.
    pub(crate) async fn value_bytes(
        &self,
        row: &Row,
        offset: usize,
        len: usize,
    ) -> Result<Vec<u8>, LoadError> {
        let mut bytes = Vec::new();
        let end = offset.saturating_add(len).min(row.value_len());
        let room = end.saturating_sub(offset);
        bytes
            .try_reserve_exact(room)
            .map_err(|_| LoadError::OutOfMemory)?;
        if let RowContent::Inline(value) = &row.content {
            bytes.extend_from_slice(value.get(offset..end).unwrap_or_default());
            return Ok(bytes);
        }
        let mut before = 0;
        let pieces = row.large().map(|large| large.pieces()).unwrap_or_default();
        for (at, extent_bytes) in pieces.iter().flat_map(Piece::extents) {
            let (start, behind) = (before, before + extent_bytes);
            before = behind;
            if behind <= offset || start >= end {
                continue;
            }
            let extent = self.read_extent(at, extent_bytes).await?;
            let part = offset.saturating_sub(start)..end.min(behind) - start;
            bytes.extend_from_slice(extent.get(part).unwrap_or_default());
        }
        Ok(bytes)
    }

    async fn read_extent(&self, at: u64, len: usize) -> Result<Vec<u8>, LoadError> {
        let mut loaded = lfs::Loaded::default();
        loop {
            self.filesystem.refresh(&mut loaded);
            let fault = match self.filesystem.read_value(at, len, &loaded) {
                Ok(bytes) => return Ok(bytes),
                Err(FileError::Fault(fault)) => fault,
                Err(error) => return Err(LoadError::File(error)),
            };
            let load = self.filesystem.load(fault, &mut loaded).await;
            load.map_err(LoadError::File)?;
        }
    }
}

/// Why a read did not get further.
enum Stopped {
    Missing,
    OutOfMemory,
}

impl From<NotInMemory> for Stopped {
    fn from(_: NotInMemory) -> Self {
        Self::Missing
    }
}

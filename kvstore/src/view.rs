//! Views of the past: keys with what they have as a pin sees them, or how that differs from what an older one sees, in steps, each of which loads what it needs.

use alloc::vec::Vec;
use core::cell::RefCell;

use lfs::{BlockDevice, together};

use crate::engine::cached::{Row, RowContent};
use crate::engine::loads::{ChunkFault, LoadedChunks, Reader, Wanted};
use crate::engine::merge::ScanStep;
use crate::engine::types::{Missing as NotInMemory, Piece, engine_key};
use crate::fault::LoadError;
use crate::store::Store;
use crate::{DatabaseIndex, Key, Timestamp};

/// Entries that one step looks at.
const LOOKS: usize = 256;

/// Places that a step asks about for what ranges deleted, and bytes of keys that it gives, about.
const RANGE_LOOKS: usize = 64;
const RANGE_BYTES: usize = 32 << 10;

/// A commit that is seen, or from which on another one is.
#[derive(Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) at: Timestamp,
    /// What was written up to here is known.
    pub(crate) since: Option<Timestamp>,
}

/// Keys in order, and what they have.
pub(crate) struct Visible {
    pub(crate) rows: Vec<(Key, Row)>,
    /// Where to go on; `None` at the end of the database.
    pub(crate) next: Option<Vec<u8>>,
}

/// Ranges of keys in order, from where to where; without an end to the last key.
pub(crate) struct Deleted {
    pub(crate) ranges: Vec<(Key, Option<Key>)>,
    /// Where to go on; `None` at the end of the database.
    pub(crate) next: Option<Key>,
}

impl<D: BlockDevice> Store<D> {
    /// What pins see of `db` from `from` on: up to `limit` keys, expired ones among them. What is known already is left out; keys that were deleted since are
    /// there without a value, but for those that were [with a range](Self::deleted).
    pub(crate) async fn visible(
        &self,
        seen: Seen,
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
            let merge = match seen.since {
                None => tree.merge(reader, seen.at),
                Some(since) => tree.changed(reader, since, seen.at),
            };
            let mut merge = merge.map_err(|_| Stopped::OutOfMemory)?;
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

    /// What was deleted of `db` with ranges between the two pins, from `from` on: in order, and apart from each other.
    pub(crate) async fn deleted(
        &self,
        since: Timestamp,
        at: Timestamp,
        db: DatabaseIndex,
        from: &[u8],
    ) -> Result<Deleted, LoadError> {
        let start = engine_key(db, from);
        let user_key = |key: &[u8]| Key::from(key.get(1..).unwrap_or_default());
        self.reading(|reader| {
            let tree = self.engine.tree.borrow();
            let merge = tree.changed(reader, since, at);
            let merge = merge.map_err(|_| Stopped::OutOfMemory)?;
            let (mut ranges, mut bytes): (Vec<(Key, Option<Key>)>, _) = (Vec::new(), 0);
            let (mut key, mut begun) = (start.to_vec(), None);
            for _ in 0..RANGE_LOOKS {
                let (is_deleted, until) = merge.deleted_from(&key)?;
                let until = until.filter(|until| until.first() == Some(&db.0));
                if is_deleted {
                    begun.get_or_insert_with(|| user_key(&key));
                }
                if let Some(begun) = begun.take_if(|_| !is_deleted || until.is_none()) {
                    let end = (!is_deleted).then(|| user_key(&key));
                    bytes += begun.len() + end.as_ref().map_or(0, |end| end.len());
                    ranges.try_reserve(1).map_err(|_| Stopped::OutOfMemory)?;
                    ranges.push((begun, end));
                }
                let Some(until) = until else {
                    return Ok(Deleted { ranges, next: None });
                };
                key = until;
                if bytes >= RANGE_BYTES {
                    break;
                }
            }
            if let Some(begun) = begun {
                ranges.try_reserve(1).map_err(|_| Stopped::OutOfMemory)?;
                ranges.push((begun, Some(user_key(&key))));
            }
            let next = Some(user_key(&key));
            Ok(Deleted { ranges, next })
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
            let extent = self.filesystem.load_value(at, extent_bytes).await;
            let extent = extent.map_err(LoadError::File)?;
            let part = offset.saturating_sub(start)..end.min(behind) - start;
            bytes.extend_from_slice(extent.get(part).unwrap_or_default());
        }
        Ok(bytes)
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

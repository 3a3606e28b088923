//! Large values that are not in memory: loaded for those who can be run again, and held for them until they are through.
//!
//! As long as a version that is needed names them, the bytes of a slot never change. So a value is read whenever that can be, and kept as what it is, not
//! as what it was made of on the disk. One that nobody needs any more may be gone by then: that it could not be read is kept in its place, and matters
//! only to those who still ask for it when they are run again.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use lfs::{BlockDevice, FileError, together};

use crate::Value;
use crate::engine::cache::CacheKey;
use crate::engine::cached::CacheEntry;
use crate::engine::types::{Piece, Pieces};
use crate::store::Store;

/// Large values up to this are cached.
const CACHED_VALUE_BYTES_MAX: usize = 64 << 10;

/// Values up to this are kept as one piece of memory, others as they were read.
const COPIED_BYTES_MAX: usize = 4 << 10;

/// Some pieces in a row of a large value, which have to be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ValueFault {
    pieces: Pieces,
    /// What it is cached as.
    cached_as: Option<u64>,
}

impl ValueFault {
    /// For these pieces.
    pub(crate) fn new(pieces: &[Piece], cached_as: Option<u64>) -> Self {
        Self {
            pieces: pieces.into(),
            cached_as,
        }
    }
}

/// What the first pieces of a large value are cached as: behind which pieces one comes is always the same.
pub(crate) fn cached_as(pieces: &[Piece]) -> Option<u64> {
    let last = pieces.last().map(|last| last.slot);
    last.filter(|_| len_of(pieces) <= CACHED_VALUE_BYTES_MAX)
}

/// The first slot and the last one: the pieces between them are always the same.
fn place_of(pieces: &[Piece]) -> Option<(u64, u64)> {
    Some((pieces.first()?.slot, pieces.last()?.slot))
}

/// Bytes of pieces.
pub(crate) fn len_of(pieces: &[Piece]) -> usize {
    pieces.iter().map(|piece| piece.bytes as usize).sum()
}

/// Values that were loaded for one reader, and why others could not be.
#[derive(Default)]
pub(crate) struct LoadedValues {
    values: BTreeMap<(u64, u64), Result<Value, FileError>>,
    bytes: usize,
}

impl LoadedValues {
    /// Memory that they take.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.bytes
    }

    /// What these pieces are, if they were loaded.
    pub(crate) fn get(&self, pieces: &[Piece]) -> Option<&Result<Value, FileError>> {
        self.values.get(&place_of(pieces)?)
    }

    fn insert(&mut self, pieces: &[Piece], value: Result<Value, FileError>) {
        let Some(place) = place_of(pieces) else {
            return;
        };
        self.bytes += value.as_ref().map_or(0, Value::memory_bytes);
        if let Some(Ok(before)) = self.values.insert(place, value) {
            self.bytes -= before.memory_bytes();
        }
    }
}

impl<D: BlockDevice> Store<D> {
    /// Loads values, each once and several extents at a time, and puts those into the cache that are to be there for themselves.
    pub(crate) async fn load_values(&self, mut faults: Vec<ValueFault>, loaded: &mut LoadedValues) {
        faults.sort_unstable_by_key(|fault| place_of(&fault.pieces));
        faults.dedup_by_key(|fault| place_of(&fault.pieces));
        for (fault, bytes) in self.read_all(faults).await {
            let value = bytes.map(|bytes| match bytes.len() {
                ..=COPIED_BYTES_MAX => Value::from(&bytes[..]),
                _ => Value::from(bytes),
            });
            if let (Some(slot), Ok(value)) = (fault.cached_as, &value) {
                let entry = CacheEntry::Value(value.clone());
                let mut cache = self.engine.cache.borrow_mut();
                cache.insert(&CacheKey::Value(slot), entry);
            }
            loaded.insert(&fault.pieces, value);
        }
    }

    async fn read_all(
        &self,
        mut faults: Vec<ValueFault>,
    ) -> Vec<(ValueFault, Result<Vec<u8>, FileError>)> {
        // Nearly always it is one extent of one value.
        if let [fault] = &faults[..]
            && let [piece] = fault.pieces[..]
            && let (Some((offset, len)), None) = {
                let mut extents = piece.extents();
                (extents.next(), extents.next())
            }
            && let Some(fault) = faults.pop()
        {
            let bytes = self.filesystem.load_value(offset, len).await;
            return alloc::vec![(fault, bytes)];
        }
        let pieces = faults.iter().flat_map(|fault| &fault.pieces);
        let extents = pieces.flat_map(Piece::extents);
        let reads = extents.map(|(offset, len)| self.filesystem.load_value(offset, len));
        let mut extents = together(reads).await.into_iter();
        let of_fault = |fault: ValueFault| {
            let count = fault.pieces.iter().flat_map(Piece::extents).count();
            let bytes = joined(extents.by_ref().take(count));
            (fault, bytes)
        };
        faults.into_iter().map(of_fault).collect()
    }
}

/// One behind the other, or why the first of those that could not be read could not be.
fn joined(
    mut extents: impl Iterator<Item = Result<Vec<u8>, FileError>>,
) -> Result<Vec<u8>, FileError> {
    let mut all = extents.next().unwrap_or_else(|| Ok(Vec::new()));
    // To the last, whatever becomes of it.
    for extent in extents {
        all = all.and_then(|mut bytes| {
            let extent = extent?;
            let more = bytes.try_reserve(extent.len());
            more.map_err(|_| FileError::OutOfMemory)?;
            bytes.extend_from_slice(&extent);
            Ok(bytes)
        });
    }
    all
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    #[test]
    fn extents_are_joined_up_to_the_first_that_cannot_be_read() {
        let extents = || [Ok(vec![1, 2]), Ok(vec![3])].into_iter();
        assert_eq!(joined(extents()), Ok(vec![1, 2, 3]));
        let broken = [Err(FileError::NotFound), Err(FileError::OutOfMemory)];
        let mut all = extents().chain(broken).chain(extents());
        assert_eq!(joined(all.by_ref()), Err(FileError::NotFound));
        assert_eq!(all.count(), 0, "those behind are of the next value");
    }

    #[test]
    fn what_was_loaded_is_known_by_its_first_slot_and_its_last() {
        let piece = |slot| Piece { slot, bytes: 2 };
        let mut loaded = LoadedValues::default();
        let value = |bytes: &[u8]| Ok(Value::from(bytes));
        loaded.insert(&[piece(1), piece(5)], value(&[7; 4]));
        loaded.insert(&[piece(5)], value(&[7; 2]));
        assert_eq!(loaded.memory_bytes(), 6);
        assert_eq!(loaded.get(&[piece(5)]), Some(&value(&[7; 2])));
        assert_eq!(loaded.get(&[piece(1)]), None);
        loaded.insert(&[piece(1), piece(5)], Err(FileError::NotFound));
        assert_eq!(loaded.memory_bytes(), 2);
    }
}

//! What a memtable said about when keys were written, kept when it is flushed while somebody's state is older.
//!
//! Keys with their newest timestamps, in order, prefix-coded in pieces of 4 KiB; and the range deletes. No values. Each piece knows its newest timestamp, so whoever asks
//! for what is newer passes over the others.

use alloc::vec::Vec;

use smallvec::SmallVec;

use crate::engine::range_set::RangeSet;
use crate::engine::types::OutOfMemory;
use crate::{Key, Timestamp};

/// A piece ends when the next entry would not fit; a longer one has a piece of its own.
const PIECE_BYTES: usize = 4096;

/// An entry is `shared u8 ‖ unshared u24 ‖ timestamp, less the first, u32`, and the unshared end of the key.
const HEAD_BYTES: usize = 8;

/// Shared with the key before, at most.
const SHARED_MAX: usize = 0xFF;

/// The keys of one memtable.
#[derive(Debug)]
pub struct Digest {
    first: Timestamp,
    last: Timestamp,
    pieces: Vec<Piece>,
    ranges: RangeSet,
    bytes: usize,
    /// The last key that was added.
    key: Vec<u8>,
}

#[derive(Debug)]
struct Piece {
    bytes: Vec<u8>,
    newest: Timestamp,
}

type KeyBuffer = SmallVec<[u8; 64]>;

impl Digest {
    /// An empty one, of the commits from `first` to `last`.
    pub fn begin(first: Timestamp, last: Timestamp) -> Self {
        Self {
            first,
            last,
            pieces: Vec::new(),
            ranges: RangeSet::default(),
            bytes: 0,
            key: Vec::new(),
        }
    }

    /// Adds `key`, which is greater than the last one, with the timestamp of its newest version.
    ///
    /// # Errors
    /// When there is no memory for it; the digest is of no use then.
    pub fn push(&mut self, key: &[u8], newest: Timestamp) -> Result<(), OutOfMemory> {
        debug_assert!(self.pieces.is_empty() || *self.key < *key, "in order");
        // One that is too far from the first is taken for the last: too new, which is on the safe side. (Between two flushes
        // there are fewer commits than that, since each takes some of the replay window.)
        let after = newest.0.saturating_sub(self.first.0);
        let after = u32::try_from(after).unwrap_or(u32::MAX);
        let newest = if after == u32::MAX { self.last } else { newest };
        let mut shared = common(&self.key, key);
        let fits =
            |piece: &Piece| piece.bytes.len() + HEAD_BYTES + key.len() - shared <= PIECE_BYTES;
        if !self.pieces.last().is_some_and(fits) {
            shared = 0;
            let mut bytes = Vec::new();
            let capacity = PIECE_BYTES.max(HEAD_BYTES + key.len());
            bytes.try_reserve_exact(capacity)?;
            self.pieces.try_reserve(1)?;
            self.pieces.push(Piece { bytes, newest });
            self.bytes += capacity;
        }
        let rest = key.get(shared..).unwrap_or_default();
        let piece = self.pieces.last_mut().ok_or(OutOfMemory)?;
        piece.newest = piece.newest.max(newest);
        let lens = u32::try_from(rest.len() << 8 | shared).map_err(|_| OutOfMemory)?;
        piece.bytes.extend_from_slice(&lens.to_le_bytes());
        piece.bytes.extend_from_slice(&after.to_le_bytes());
        piece.bytes.extend_from_slice(rest);
        self.key.try_reserve(rest.len())?;
        self.key.truncate(shared);
        self.key.extend_from_slice(rest);
        Ok(())
    }

    /// All of the memtable's range deletes.
    pub fn ranges(&mut self, ranges: RangeSet) {
        self.ranges = ranges;
    }

    /// The range deletes.
    pub fn range_deletes(&self) -> &RangeSet {
        &self.ranges
    }

    /// The first commit that it knows of.
    pub fn first(&self) -> Timestamp {
        self.first
    }

    /// The last one.
    pub fn last(&self) -> Timestamp {
        self.last
    }

    /// When `key` was last written, if it was. Range deletes are apart.
    pub fn newest(&self, key: &[u8]) -> Option<Timestamp> {
        let behind = self
            .pieces
            .partition_point(|piece| piece.first_key() <= key);
        let piece = self.pieces.get(behind.checked_sub(1)?)?;
        let mut entries = piece.entries();
        while let Some(after) = entries.next() {
            if *entries.key >= *key {
                return (*entries.key == *key).then(|| self.timestamp(after));
            }
        }
        None
    }

    /// The first key from `start` on, up to `end`, not included (`None`: to the end of all), that was written after `than`, and when.
    pub fn first_newer_in(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        than: Timestamp,
    ) -> Option<(Key, Timestamp)> {
        let behind = self
            .pieces
            .partition_point(|piece| piece.first_key() <= start);
        let pieces = self.pieces.get(behind.saturating_sub(1)..)?;
        let is_before_end = |key: &[u8]| end.is_none_or(|end| key < end);
        let within = pieces
            .iter()
            .take_while(|piece| is_before_end(piece.first_key()));
        for piece in within.filter(|piece| piece.newest > than) {
            let mut entries = piece.entries();
            while let Some(after) = entries.next() {
                let newest = self.timestamp(after);
                if !is_before_end(&entries.key) {
                    return None;
                }
                if *entries.key >= *start && newest > than {
                    return Some((Key::from(&*entries.key), newest));
                }
            }
        }
        None
    }

    /// Memory that it takes.
    pub fn memory_bytes(&self) -> usize {
        let pieces = self.pieces.capacity() * size_of::<Piece>();
        self.bytes + pieces + self.key.capacity() + self.ranges.memory_bytes()
    }

    fn timestamp(&self, after: u32) -> Timestamp {
        if after == u32::MAX {
            return self.last;
        }
        Timestamp(self.first.0.saturating_add(u64::from(after)))
    }
}

impl Piece {
    /// Its first key is there as a whole.
    fn first_key(&self) -> &[u8] {
        match self.bytes.split_first_chunk::<HEAD_BYTES>() {
            Some((head, rest)) => rest.get(..lens(*head).1).unwrap_or_default(),
            None => &[],
        }
    }

    fn entries(&self) -> Entries<'_> {
        Entries {
            rest: &self.bytes,
            key: KeyBuffer::new(),
        }
    }
}

/// A walk over a piece.
struct Entries<'p> {
    rest: &'p [u8],
    /// The key of the entry that was last given.
    key: KeyBuffer,
}

impl Entries<'_> {
    fn next(&mut self) -> Option<u32> {
        let (head, rest) = self.rest.split_first_chunk::<HEAD_BYTES>()?;
        let (shared, unshared) = lens(*head);
        let (suffix, rest) = rest.split_at_checked(unshared)?;
        self.rest = rest;
        self.key.truncate(shared);
        self.key.extend_from_slice(suffix);
        head.last_chunk().map(|after| u32::from_le_bytes(*after))
    }
}

/// How much of an entry's key is shared, and how much is not.
fn lens([shared, a, b, c, ..]: [u8; HEAD_BYTES]) -> (usize, usize) {
    let unshared = u32::from_le_bytes([a, b, c, 0]);
    (usize::from(shared), unshared as usize)
}

/// How many bytes both begin with, as far as it can be said in an entry.
fn common(one: &[u8], other: &[u8]) -> usize {
    let pairs = one.iter().zip(other).take(SHARED_MAX);
    pairs.take_while(|(one, other)| one == other).count()
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;

    use super::*;
    use crate::KEY_BYTES_MAX;
    use crate::testing::{random, short_key};

    /// Against a map.
    #[test]
    fn knows_what_was_put_in() {
        let mut random = random(18);
        for round in 0..60 {
            let first = random.below(1 << 40);
            let (first, last) = (first, first + random.below(5000));
            let mut model = BTreeMap::new();
            for _ in 0..random.index(if round % 4 == 0 { 3000 } else { 40 }) {
                let mut key = short_key(&mut random, 7);
                if random.one_in(100) {
                    let len = random.index(KEY_BYTES_MAX);
                    key.resize(len, b'b');
                }
                let at = Timestamp(first + random.below(last - first + 1));
                model.insert(key, at);
            }
            let mut digest = Digest::begin(Timestamp(first), Timestamp(last));
            for (key, at) in &model {
                digest.push(key, *at).unwrap();
            }
            let held = model
                .keys()
                .map(|key| key.len() + HEAD_BYTES)
                .sum::<usize>();
            let spare = PIECE_BYTES + KEY_BYTES_MAX + 100;
            assert!(digest.memory_bytes() <= 2 * held + 2 * spare, "{held}");
            for _ in 0..300 {
                let key = short_key(&mut random, 7);
                assert_eq!(digest.newest(&key), model.get(&key).copied());
                let end = Some(short_key(&mut random, 7)).filter(|_| !random.one_in(4));
                let than = Timestamp(first + random.below(last - first + 1));
                let mut behind = model.range(key.clone()..);
                let newer = behind
                    .find(|(key, at)| end.as_ref().is_some_and(|end| *key >= end) || **at > than);
                let newer = newer.filter(|(key, _)| end.as_ref().is_none_or(|end| *key < end));
                let found = digest.first_newer_in(&key, end.as_deref(), than);
                let newer = newer.map(|(key, at)| (Key::from(&key[..]), *at));
                assert_eq!(found, newer, "{key:?} to {end:?}");
            }
            for (key, at) in &model {
                assert_eq!(digest.newest(key), Some(*at));
            }
        }
    }

    #[test]
    fn the_longest_keys_and_the_farthest_commits() {
        let (first, last) = (Timestamp(5), Timestamp(1 << 50));
        let mut digest = Digest::begin(first, last);
        let long = |end: u8| {
            let mut key = alloc::vec![9; KEY_BYTES_MAX];
            key.push(end);
            key
        };
        digest.push(b"", first).unwrap();
        digest.push(&long(0), Timestamp(7)).unwrap();
        digest.push(&long(1), Timestamp(1 << 45)).unwrap();
        assert_eq!(digest.newest(b""), Some(first));
        assert_eq!(digest.newest(&long(0)), Some(Timestamp(7)));
        assert_eq!(digest.newest(&long(1)), Some(last), "rather too new");
        let newer = digest.first_newer_in(&[9], None, Timestamp(1 << 49));
        assert_eq!(newer, Some((Key::from(long(1)), last)));
    }

    #[test]
    fn has_the_range_deletes() {
        let mut digest = Digest::begin(Timestamp(1), Timestamp(9));
        assert_eq!(digest.newest(b"k"), None);
        assert_eq!(digest.first_newer_in(b"", None, Timestamp(0)), None);
        let mut ranges = RangeSet::default();
        ranges.reserve(1, 2).unwrap();
        ranges.insert(b"a", b"c", Timestamp(4));
        digest.ranges(ranges);
        let covers = digest.range_deletes().newest_covering(b"b", Timestamp(9));
        assert_eq!(covers, Some(Timestamp(4)));
    }
}

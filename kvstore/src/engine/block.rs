//! Blocks: some versions in order, prefix-coded and compressed (`ENGINE.md`, "Blocks").
//!
//! Blocks hold the entries of tables, and what finds them: a partition is a block of separators.
//!
//! Bytes are hostile: all of a block is checked when it is parsed, so that cursors cannot meet anything odd. Parsing
//! allocates at most [`PLAIN_BYTES_MAX`] and a key.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cmp::Ordering;

use lfs::{Algorithm, DecompressError};
use smallvec::SmallVec;

use super::types::{
    BlockError, Content, Cursor, ENGINE_KEY_BYTES_MAX, Malformed, Missing, NEVER, OutOfMemory,
    VersionRef, shared_bytes,
};
use super::varint::{
    put_varint, take_array, take_bytes, take_len, take_varint, unzigzag, varint_len, zigzag,
};
use crate::Timestamp;

/// Bytes of a block before it is compressed, at most. One entry always fits.
pub const PLAIN_BYTES_MAX: usize = 128 << 10;

/// Every so many entries one shares nothing with the one before it.
const RESTART_ENTRIES: usize = 16;

/// Bytes of an entry beyond key and content, at most: two lengths of three bytes, flags, timestamp, expiry, and a length
/// of two bytes; and its restart.
const ENTRY_BYTES_MAX: usize = 3 + 3 + 1 + 10 + 10 + 2 + 4;

/// Bytes behind the entries and restarts.
const TRAILER_BYTES: usize = 4 + 8 + 8;

/// A key of a block. Most take no memory of their own: a walk has a dozen of them.
pub(super) type KeyBuffer = SmallVec<[u8; 36]>;

const KIND_BITS: u8 = 3;
const EXPIRES: u8 = 1 << 2;
const BELOW: u8 = 1 << 3;

/// A block that is being made.
#[derive(Default)]
pub struct BlockBuilder {
    entries: Vec<Pushed>,
    /// Of each entry what its key does not share with the one before, and its content.
    bytes: Vec<u8>,
    key: Vec<u8>,
    /// About what the block will have.
    estimate: usize,
    plain: Vec<u8>,
    compressed: Vec<u8>,
}

struct Pushed {
    shared: usize,
    unshared: usize,
    content: usize,
    flags: u8,
    timestamp: Timestamp,
    expires_at_ms: i64,
}

impl BlockBuilder {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry, which comes behind those that are there.
    ///
    /// # Errors
    /// There is no memory for it. Then it is not there.
    pub fn push(&mut self, key: &[u8], version: &VersionRef<'_>) -> Result<(), OutOfMemory> {
        let last = self.entries.last();
        debug_assert!(
            last.is_none_or(|last| {
                &self.key[..] < key || self.key == key && last.timestamp > version.timestamp
            }),
            "entries come in order"
        );
        let content = version.content.bytes();
        self.bytes.try_reserve(key.len() + content.len())?;
        self.entries.try_reserve(1)?;
        self.key.try_reserve(key.len())?;
        let shared = if self.entries.len().is_multiple_of(RESTART_ENTRIES) {
            self.estimate += 4;
            0
        } else {
            shared_bytes(&self.key, key)
        };
        let suffix = key.get(shared..).unwrap_or_default();
        self.bytes.extend_from_slice(suffix);
        self.bytes.extend_from_slice(content);
        let expires = version.expires_at_ms != NEVER;
        let flags = version.content.kind()
            | if expires { EXPIRES } else { 0 }
            | if version.below { BELOW } else { 0 };
        let first = self
            .entries
            .first()
            .map_or(version.timestamp, |first| first.timestamp);
        let lengths = varint_len(shared as u64) + varint_len(suffix.len() as u64);
        let times = varint_len(first.0.abs_diff(version.timestamp.0)) + if expires { 5 } else { 0 };
        self.estimate += 1 + lengths + times + varint_len(content.len() as u64);
        self.estimate += suffix.len() + content.len();
        self.entries.push(Pushed {
            shared,
            unshared: suffix.len(),
            content: content.len(),
            flags,
            timestamp: version.timestamp,
            expires_at_ms: version.expires_at_ms,
        });
        self.key.truncate(shared);
        self.key.extend_from_slice(suffix);
        Ok(())
    }

    /// About how many bytes there are, before compression.
    pub fn bytes(&self) -> usize {
        self.estimate + TRAILER_BYTES
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// By how much it would grow at most if entries of these keys came next, whose contents are places of chunks.
    pub(super) fn growth(&self, keys: &[&[u8]]) -> usize {
        let (mut number, mut last, mut bytes) = (self.entries.len(), &self.key[..], 0);
        for key in keys {
            let is_restart = number.is_multiple_of(RESTART_ENTRIES);
            let shared = if is_restart {
                0
            } else {
                shared_bytes(last, key)
            };
            bytes += key.len() - shared + ENTRY_BYTES_MAX + 40;
            (number, last) = (number + 1, key);
        }
        bytes
    }

    /// Appends the block as it is stored to `out`; the builder is empty again. True if it is compressed.
    ///
    /// # Errors
    /// There is no memory for it. Then `out` and the builder are as they were.
    pub fn finish(&mut self, compress: bool, out: &mut Vec<u8>) -> Result<bool, OutOfMemory> {
        self.encode()?;
        debug_assert!(self.plain.len() <= PLAIN_BYTES_MAX);
        let smaller = compress && lfs::compress(Algorithm::Lz4, &self.plain, &mut self.compressed);
        let (algorithm, stored) = if smaller {
            (Algorithm::Lz4, &self.compressed)
        } else {
            (Algorithm::None, &self.plain)
        };
        out.try_reserve(stored.len() + 6)?;
        out.push(algorithm.number());
        put_varint(out, self.plain.len() as u64);
        out.extend_from_slice(stored);
        self.entries.clear();
        self.bytes.clear();
        self.key.clear();
        self.estimate = 0;
        Ok(smaller)
    }

    fn encode(&mut self) -> Result<(), OutOfMemory> {
        let room = self.bytes.len() + self.entries.len() * ENTRY_BYTES_MAX + TRAILER_BYTES;
        self.plain.clear();
        self.plain.try_reserve(room)?;
        let mut restarts = Vec::new();
        restarts.try_reserve(self.entries.len() / RESTART_ENTRIES + 1)?;
        let timestamps = self.entries.iter().map(|entry| entry.timestamp.0);
        let least = timestamps.min().unwrap_or(0);
        let expiries = self.entries.iter().map(|entry| entry.expires_at_ms);
        let first_expiry = expiries.into_iter().find(|at| *at != NEVER).unwrap_or(0);
        let mut bytes = &self.bytes[..];
        for (number, entry) in self.entries.iter().enumerate() {
            if number.is_multiple_of(RESTART_ENTRIES) {
                restarts.push(u32::try_from(self.plain.len()).unwrap_or(u32::MAX));
            }
            let plain = &mut self.plain;
            put_varint(plain, entry.shared as u64);
            put_varint(plain, entry.unshared as u64);
            plain.push(entry.flags);
            put_varint(plain, entry.timestamp.0 - least);
            if entry.flags & EXPIRES != 0 {
                put_varint(
                    plain,
                    zigzag(entry.expires_at_ms.wrapping_sub(first_expiry)),
                );
            }
            if entry.flags & KIND_BITS != 0 {
                put_varint(plain, entry.content as u64);
            }
            let held = take_bytes(&mut bytes, entry.unshared + entry.content);
            plain.extend_from_slice(held.unwrap_or_default());
        }
        for restart in &restarts {
            self.plain.extend_from_slice(&restart.to_le_bytes());
        }
        let count = u32::try_from(restarts.len()).unwrap_or(u32::MAX);
        self.plain.extend_from_slice(&count.to_le_bytes());
        self.plain.extend_from_slice(&least.to_le_bytes());
        self.plain.extend_from_slice(&first_expiry.to_le_bytes());
        Ok(())
    }
}

/// A block in memory, checked.
#[derive(Debug)]
pub struct Block {
    bytes: Vec<u8>,
    entries_end: usize,
    restarts: usize,
    least: u64,
    first_expiry: i64,
}

/// An entry of a block, whose bytes are where it says.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    shared: usize,
    /// The rest of its key, and behind that its content.
    suffix_at: usize,
    content_at: usize,
    end: usize,
    kind: u8,
    below: bool,
    timestamp: Timestamp,
    expires_at_ms: i64,
}

/// Between which two entries of a block a place in the order of versions is.
struct Gap {
    /// Entries before it.
    rank: usize,
    before: Option<Entry>,
    behind: Option<Entry>,
    /// The one behind is a version of the key that was sought.
    is_of_key: bool,
}

impl Block {
    /// Takes in what [`BlockBuilder::finish`] made.
    ///
    /// # Errors
    /// The bytes are no block, or there is no memory for it.
    pub fn parse(stored: &[u8]) -> Result<Self, BlockError> {
        let mut rest = stored;
        let [codec] = take_array(&mut rest).ok_or(Malformed)?;
        let len = take_len(&mut rest).ok_or(Malformed)?;
        let Some(algorithm @ (Algorithm::None | Algorithm::Lz4)) = Algorithm::from_number(codec)
        else {
            return Err(Malformed.into());
        };
        if len > PLAIN_BYTES_MAX || algorithm == Algorithm::None && rest.len() != len {
            return Err(Malformed.into());
        }
        let bytes = lfs::decompress(algorithm, rest, len).map_err(|error| match error {
            DecompressError::OutOfMemory => BlockError::OutOfMemory(OutOfMemory),
            _ => BlockError::Malformed(Malformed),
        })?;
        let (entries_end, restarts, least, first_expiry) = trailer_of(&bytes).ok_or(Malformed)?;
        let block = Self {
            bytes,
            entries_end,
            restarts,
            least,
            first_expiry,
        };
        block.check()?;
        Ok(block)
    }

    /// Every entry is whole, in order, and a restart where it has to be.
    fn check(&self) -> Result<(), BlockError> {
        let mut key = Vec::new();
        let (mut at, mut number, mut last) = (0, 0_usize, None);
        while at < self.entries_end {
            let entry = self.entry(at).ok_or(Malformed)?;
            if number.is_multiple_of(RESTART_ENTRIES) {
                let here = self.restart(number / RESTART_ENTRIES) == Some(at);
                if !here || entry.shared != 0 {
                    return Err(Malformed.into());
                }
            }
            let suffix = self.suffix(&entry);
            let shared = key.get(entry.shared..).ok_or(Malformed)?;
            let behind = match suffix.cmp(shared) {
                Ordering::Greater => true,
                Ordering::Equal => last.is_none_or(|last| last > entry.timestamp),
                Ordering::Less => false,
            };
            let len = entry.shared + suffix.len();
            let content = Content::parse(entry.kind, self.content(&entry))?;
            let lasting = entry.expires_at_ms == NEVER || content != Content::Tombstone;
            if !behind || len > ENGINE_KEY_BYTES_MAX || !lasting {
                return Err(Malformed.into());
            }
            key.try_reserve(suffix.len()).map_err(OutOfMemory::from)?;
            key.truncate(entry.shared);
            key.extend_from_slice(suffix);
            last = Some(entry.timestamp);
            at = entry.end;
            number += 1;
        }
        let restarts = number.div_ceil(RESTART_ENTRIES);
        if number == 0 || restarts != self.restarts {
            return Err(Malformed.into());
        }
        Ok(())
    }

    /// Memory that it takes.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.bytes.capacity()
    }

    /// The first entry at or behind (`key`, `at`), and whether it is a version of `key`.
    pub(super) fn first_from(&self, key: &[u8], at: Timestamp) -> Option<(Entry, bool)> {
        let gap = self.search(key, |timestamp| timestamp > at, |_| ());
        gap.behind.map(|behind| (behind, gap.is_of_key))
    }

    /// How many entries are before `key`, or are versions of it that `is_before` tells of.
    pub(super) fn rank(&self, key: &[u8], is_before: impl Fn(Timestamp) -> bool) -> usize {
        self.search(key, is_before, |_| ()).rank
    }

    /// What an entry says.
    pub(super) fn version(&self, entry: &Entry) -> VersionRef<'_> {
        VersionRef {
            timestamp: entry.timestamp,
            expires_at_ms: entry.expires_at_ms,
            below: entry.below,
            content: Content::of_checked(entry.kind, self.content(entry)),
        }
    }

    /// Seeks the place before all keys that are greater than `key`, and before all its versions but those that `is_before` tells of. `pass` is given
    /// the entries on the way there, from one that shares nothing with the one before it.
    fn search(
        &self,
        key: &[u8],
        is_before: impl Fn(Timestamp) -> bool,
        mut pass: impl FnMut(&Entry),
    ) -> Gap {
        let is_passed = |order, entry: &Entry| match order {
            Ordering::Less => true,
            Ordering::Equal => is_before(entry.timestamp),
            Ordering::Greater => false,
        };
        let (mut low, mut high) = (0, self.restarts);
        while low < high {
            let middle = low.midpoint(high);
            let entry = self.restart(middle).and_then(|at| self.entry(at));
            if entry.is_some_and(|entry| is_passed(self.suffix(&entry).cmp(key), &entry)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let from = low.saturating_sub(1);
        let mut at = self.restart(from).unwrap_or(0);
        let mut gap = Gap {
            rank: from * RESTART_ENTRIES,
            before: None,
            behind: None,
            is_of_key: false,
        };
        // Bytes that the entry before has in common with `key`.
        let mut common = 0;
        while let Some(entry) = self.entry(at) {
            // What has more in common with the entry before than `key` has is on the same side of `key`.
            let mut order = Ordering::Less;
            if gap.before.is_none() || entry.shared <= common {
                let suffix = self.suffix(&entry);
                let rest = key.get(entry.shared..).unwrap_or_default();
                let more = shared_bytes(suffix, rest);
                common = entry.shared + more;
                order = suffix.get(more).cmp(&rest.get(more));
            }
            if !is_passed(order, &entry) {
                gap.is_of_key = order == Ordering::Equal;
                gap.behind = Some(entry);
                break;
            }
            pass(&entry);
            at = entry.end;
            gap.rank += 1;
            gap.before = Some(entry);
        }
        gap
    }

    /// The entry at `at`; `None` at the end, or if there is none.
    #[inline]
    fn entry(&self, at: usize) -> Option<Entry> {
        let entries = self.bytes.get(..self.entries_end)?;
        let mut rest = entries.get(at..)?;
        let (shared, unshared, flags) = take_entry_head(&mut rest)?;
        if flags & !(KIND_BITS | EXPIRES | BELOW) != 0 {
            return None;
        }
        let timestamp = self.least.checked_add(take_varint(&mut rest)?)?;
        let mut expires_at_ms = NEVER;
        if flags & EXPIRES != 0 {
            expires_at_ms = self
                .first_expiry
                .wrapping_add(unzigzag(take_varint(&mut rest)?));
            if expires_at_ms == NEVER {
                return None;
            }
        }
        let kind = flags & KIND_BITS;
        let content = if kind == 0 { 0 } else { take_len(&mut rest)? };
        let suffix_at = entries.len() - rest.len();
        let content_at = suffix_at.checked_add(unshared)?;
        let end = content_at.checked_add(content)?;
        (end <= entries.len()).then_some(Entry {
            shared,
            suffix_at,
            content_at,
            end,
            kind,
            below: flags & BELOW != 0,
            timestamp: Timestamp(timestamp),
            expires_at_ms,
        })
    }

    /// Where the entry of a restart begins.
    fn restart(&self, number: usize) -> Option<usize> {
        let mut restart = self.bytes.get(self.entries_end + 4 * number..)?;
        (number < self.restarts).then_some(u32::from_le_bytes(take_array(&mut restart)?) as usize)
    }

    /// Makes `key`, of the entry before, that of `entry`.
    fn follow(&self, entry: &Entry, key: &mut KeyBuffer) {
        key.truncate(entry.shared);
        key.extend_from_slice(self.suffix(entry));
    }

    fn suffix(&self, entry: &Entry) -> &[u8] {
        let suffix = self.bytes.get(entry.suffix_at..entry.content_at);
        suffix.unwrap_or_default()
    }

    fn content(&self, entry: &Entry) -> &[u8] {
        let content = self.bytes.get(entry.content_at..entry.end);
        content.unwrap_or_default()
    }
}

/// Takes what an entry begins with: bytes that its key shares, bytes that it does not, flags.
#[inline]
fn take_entry_head(bytes: &mut &[u8]) -> Option<(usize, usize, u8)> {
    // Both lengths have one byte, as nearly always.
    if let [shared @ ..0x80, unshared @ ..0x80, flags, ref rest @ ..] = **bytes {
        *bytes = rest;
        return Some((shared.into(), unshared.into(), flags));
    }
    let (shared, unshared) = (take_len(bytes)?, take_len(bytes)?);
    let [flags] = take_array(bytes)?;
    Some((shared, unshared, flags))
}

/// Where the entries end, how many restarts there are, the least timestamp and the first expiry.
fn trailer_of(bytes: &[u8]) -> Option<(usize, usize, u64, i64)> {
    let at = bytes.len().checked_sub(TRAILER_BYTES)?;
    let mut trailer = bytes.get(at..)?;
    let restarts = u32::from_le_bytes(take_array(&mut trailer)?) as usize;
    let least = u64::from_le_bytes(take_array(&mut trailer)?);
    let first_expiry = i64::from_le_bytes(take_array(&mut trailer)?);
    let entries_end = at.checked_sub(restarts.checked_mul(4)?)?;
    Some((entries_end, restarts, least, first_expiry))
}

/// A walk over the entries of a block.
#[derive(Clone)]
pub struct BlockCursor {
    block: Rc<Block>,
    entry: Option<Entry>,
    key: KeyBuffer,
    /// Memory for another key.
    spare: KeyBuffer,
}

impl BlockCursor {
    /// A cursor that stands nowhere yet.
    pub fn new(block: Rc<Block>) -> Self {
        Self {
            block,
            entry: None,
            key: KeyBuffer::new(),
            spare: KeyBuffer::new(),
        }
    }

    /// To the first entry.
    pub fn first(&mut self) {
        self.stand_at(0);
    }

    /// To the last entry.
    pub fn last(&mut self) {
        let last = self.block.restarts.checked_sub(1);
        let restart = last.and_then(|last| self.block.restart(last));
        self.stand_at(restart.unwrap_or(0));
        while !self.is_last() {
            self.advance();
        }
    }

    /// To the last entry before `key`, of all its versions the oldest; false if there is none.
    pub fn seek_before(&mut self, key: &[u8]) -> bool {
        self.stand_before(key, |_| false)
    }

    /// To the entry before; false if there is none, and then nowhere.
    pub fn retreat(&mut self) -> bool {
        let Some(here) = self.entry.as_ref().map(|entry| entry.timestamp) else {
            return false;
        };
        let spare = core::mem::take(&mut self.spare);
        let key = core::mem::replace(&mut self.key, spare);
        let found = self.stand_before(&key, |timestamp| timestamp > here);
        self.spare = key;
        found
    }

    /// To the next entry; false if there is none, and then nowhere.
    pub fn advance(&mut self) -> bool {
        let end = self.entry.as_ref().map(|entry| entry.end);
        match end {
            Some(end) => self.stand_at(end),
            None => false,
        }
    }

    /// Whether there is no entry behind the one it stands on.
    pub fn is_last(&self) -> bool {
        let end = self.entry.as_ref().map(|entry| entry.end);
        end.is_none_or(|end| end >= self.block.entries_end)
    }

    /// Whether it stands on a version of the block's first key.
    pub fn is_first_key(&self) -> bool {
        let first = self.block.entry(0);
        self.entry.is_some() && first.is_some_and(|first| *self.block.suffix(&first) == *self.key)
    }

    /// The version it stands on, and its key.
    pub fn version(&self) -> Option<(&[u8], VersionRef<'_>)> {
        let entry = self.entry.as_ref()?;
        Some((&self.key, self.block.version(entry)))
    }

    /// To the first entry at or behind (`key`, `at`); false if there is none, and then nowhere.
    pub fn seek_here(&mut self, key: &[u8], at: Timestamp) -> bool {
        let (block, own) = (&*self.block, &mut self.key);
        let is_before = |timestamp| timestamp > at;
        let gap = block.search(key, is_before, |entry| block.follow(entry, own));
        self.entry = gap.behind;
        if let Some(entry) = &self.entry {
            block.follow(entry, own);
        }
        self.entry.is_some()
    }

    /// The block and the entry that it stands on, if that is a version of `key` that is not newer than `at`.
    pub(super) fn found(self, key: &[u8], at: Timestamp) -> Option<(Rc<Block>, Entry)> {
        let is_it = *self.key == *key;
        let entry = self.entry.filter(|entry| is_it && entry.timestamp <= at);
        entry.map(|entry| (self.block, entry))
    }

    /// To the newest version here of the key it stands on.
    pub(super) fn seek_newest(&mut self) {
        let spare = core::mem::take(&mut self.spare);
        let key = core::mem::replace(&mut self.key, spare);
        self.seek_here(&key, Timestamp(u64::MAX));
        self.spare = key;
    }

    fn stand_at(&mut self, at: usize) -> bool {
        self.entry = self.block.entry(at);
        if let Some(entry) = &self.entry {
            self.block.follow(entry, &mut self.key);
        }
        self.entry.is_some()
    }

    /// To the last entry whose key is before `key`, or is it and was written when `is_before` says so. False if there
    /// is none, and then nowhere.
    fn stand_before(&mut self, key: &[u8], is_before: impl Fn(Timestamp) -> bool) -> bool {
        let (block, own) = (&*self.block, &mut self.key);
        let gap = block.search(key, is_before, |entry| block.follow(entry, own));
        self.entry = gap.before;
        self.entry.is_some()
    }
}

impl Cursor for BlockCursor {
    fn seek(&mut self, key: &[u8], at: Timestamp) -> Result<(), Missing> {
        self.seek_here(key, at);
        Ok(())
    }

    fn seek_back(&mut self, key: Option<&[u8]>) -> Result<(), Missing> {
        match key {
            Some(key) => _ = self.seek_before(key),
            None => self.last(),
        }
        if self.entry.is_some() {
            self.seek_newest();
        }
        Ok(())
    }

    fn next(&mut self) -> Result<(), Missing> {
        self.advance();
        Ok(())
    }

    fn previous_key(&mut self) -> Result<(), Missing> {
        if self.entry.is_none() {
            return self.seek_back(None);
        }
        let spare = core::mem::take(&mut self.spare);
        let key = core::mem::replace(&mut self.key, spare);
        let found = self.stand_before(&key, |_| false);
        self.spare = key;
        if found {
            self.seek_newest();
        }
        Ok(())
    }

    fn current(&self) -> Option<(&[u8], VersionRef<'_>)> {
        self.version()
    }

    fn key(&self) -> Option<&[u8]> {
        self.entry.is_some().then_some(&self.key[..])
    }
}

#[cfg(test)]
mod tests {
    use core::cmp::Reverse;

    use super::*;
    use crate::engine::testing::{Model, Owned, Random, random_key, seed, walks_as_the_model};

    fn random_model(random: &mut Random, entries: usize) -> Model {
        let mut model = Model::new();
        for _ in 0..entries {
            let timestamp = random.below(200);
            let version = Owned::random(random, timestamp);
            model.insert((random_key(random), Reverse(version.timestamp)), version);
        }
        model
    }

    fn stored(model: &Model, compress: bool) -> Vec<u8> {
        let mut builder = BlockBuilder::new();
        for ((key, _), version) in model {
            builder.push(key, &version.as_ref()).unwrap();
        }
        let mut out = alloc::vec![9];
        builder.finish(compress, &mut out).unwrap();
        assert!(builder.is_empty());
        assert_eq!(builder.bytes(), TRAILER_BYTES);
        out.split_off(1)
    }

    #[test]
    fn answers_as_a_map() {
        let mut random = Random::new(seed(20));
        for round in 0..200 {
            let entries = [1, 3, 16, 17, 32, 200][round % 6];
            let model = random_model(&mut random, entries);
            let stored = stored(&model, random.one_in(2));
            let block = Rc::new(Block::parse(&stored).unwrap());
            let mut cursor = BlockCursor::new(Rc::clone(&block));
            assert_eq!(cursor.current(), None);
            walks_as_the_model(&mut random, &model, &mut cursor, 150, 200);
            for _ in 0..30 {
                let key = random_key(&mut random);
                let found = cursor.seek_before(&key);
                let expected = model
                    .range(..(key, Reverse(Timestamp(u64::MAX))))
                    .next_back();
                assert_eq!(found, expected.is_some());
            }
            cursor.last();
            let last = cursor.current().map(|(key, _)| key.to_vec());
            assert_eq!(last, model.keys().next_back().map(|(key, _)| key.clone()));
        }
    }

    #[test]
    fn extremes_survive() {
        let mut model = Model::new();
        for (timestamp, expires_at_ms) in [
            (u64::MAX, i64::MIN),
            (u64::MAX - 1, NEVER - 1),
            (1, NEVER),
            (0, 0),
        ] {
            let mut version = Owned::random(&mut Random::new(1), timestamp);
            (version.kind, version.bytes) = (1, alloc::vec![1; 4095]);
            version.expires_at_ms = expires_at_ms;
            let key = alloc::vec![timestamp.to_le_bytes()[0]; ENGINE_KEY_BYTES_MAX];
            model.insert((key, Reverse(version.timestamp)), version);
            // One entry fits, however long.
            let last = model.last_entry().unwrap().remove_entry();
            let mut one = Model::new();
            one.insert(last.0, last.1);
            let stored = stored(&one, false);
            assert!(stored.len() <= 128 << 10);
            let mut cursor = BlockCursor::new(Rc::new(Block::parse(&stored).unwrap()));
            cursor.first();
            let (key, version) = cursor.current().unwrap();
            let expected = one.first_key_value().unwrap();
            assert_eq!((key, &Owned::of(&version)), (&expected.0.0[..], expected.1));
        }
        let mut many = Model::new();
        for timestamp in [0, 1, u64::MAX - 1, u64::MAX] {
            let mut version = Owned::random(&mut Random::new(timestamp), timestamp);
            (version.kind, version.bytes) = (1, Vec::new());
            version.expires_at_ms = timestamp.cast_signed().min(NEVER - 1);
            many.insert((alloc::vec![], Reverse(version.timestamp)), version);
        }
        let mut cursor = BlockCursor::new(Rc::new(Block::parse(&stored(&many, true)).unwrap()));
        walks_as_the_model(&mut Random::new(1), &many, &mut cursor, 100, 5);
    }

    /// Whatever `bytes` are: a walk over them ends, and is in order, in both directions.
    fn look(bytes: &[u8]) -> bool {
        let Ok(block) = Block::parse(bytes) else {
            return false;
        };
        assert!(block.memory_bytes() <= PLAIN_BYTES_MAX + size_of::<Block>());
        let mut cursor = BlockCursor::new(Rc::new(block));
        cursor.first();
        let mut forward = Vec::new();
        while let Some((key, version)) = cursor.current() {
            forward.push((key.to_vec(), Reverse(version.timestamp)));
            cursor.next().unwrap();
        }
        assert!(!forward.is_empty() && forward.is_sorted_by(|one, other| one < other));
        forward.dedup_by(|other, one| one.0 == other.0);
        cursor.previous_key().unwrap();
        while let Some((key, version)) = cursor.current() {
            let here = (key.to_vec(), Reverse(version.timestamp));
            assert_eq!(forward.pop(), Some(here));
            cursor.previous_key().unwrap();
        }
        assert!(forward.is_empty());
        true
    }

    #[test]
    fn hostile_bytes_are_refused_or_are_blocks() {
        let mut random = Random::new(seed(21));
        for compress in [false, true] {
            let model = random_model(&mut random, 40);
            let good = stored(&model, compress);
            assert!(look(&good));
            for at in 0..good.len() {
                assert!(!look(&good[..at]));
                for bit in 0..8 {
                    let mut bent = good.clone();
                    bent[at] ^= 1 << bit;
                    look(&bent);
                }
            }
            assert!(!look(&[&good[..], &[0]].concat()));
        }
        for _ in 0..20_000 {
            let mut bytes = alloc::vec![u8::from(random.one_in(2)), 40];
            bytes.resize_with(42, || random.next_u64().to_le_bytes()[0] & 0x1F);
            // A plausible trailer.
            bytes[22..26].copy_from_slice(&1_u32.to_le_bytes());
            bytes[18..22].copy_from_slice(&0_u32.to_le_bytes());
            look(&bytes);
        }
        // A length that nothing stands behind, and one that is too large.
        assert!(!look(&[1, 0xFF, 0xFF, 0x03, 0]));
        let mut large = alloc::vec![0];
        put_varint(&mut large, PLAIN_BYTES_MAX as u64 + 1);
        large.resize(large.len() + PLAIN_BYTES_MAX + 1, 0);
        assert!(!look(&large));
    }

    #[test]
    fn what_is_not_as_it_is_written_is_refused() {
        let plain = |entries: &[u8], restarts: &[u32]| {
            let mut bytes = entries.to_vec();
            for restart in restarts {
                bytes.extend_from_slice(&restart.to_le_bytes());
            }
            let count = u32::try_from(restarts.len()).unwrap();
            bytes.extend_from_slice(&count.to_le_bytes());
            bytes.extend_from_slice(&[0; 16]);
            let mut stored = alloc::vec![0];
            put_varint(&mut stored, bytes.len() as u64);
            stored.extend_from_slice(&bytes);
            Block::parse(&stored)
        };
        // A tombstone of "k" at 5.
        assert!(plain(&[0, 1, 0, 5, b'k'], &[0]).is_ok());
        for (entries, restarts) in [
            // Nothing; a restart that is none; one too many.
            (&[][..], &[][..]),
            (&[0, 1, 0, 5, b'k'], &[1]),
            (&[0, 1, 0, 5, b'k'], &[0, 0]),
            // Shares with nothing; an unknown flag; an unknown kind; a tombstone that expires.
            (&[1, 1, 0, 5, b'k'], &[0]),
            (&[0, 1, 16, 5, b'k'], &[0]),
            (&[0, 1, 3, 5, 0, b'k'], &[0]),
            (&[0, 1, 4, 5, 2, b'k'], &[0]),
            // Twice the same version; an older one first; a key before the last one.
            (&[0, 1, 0, 5, b'k', 1, 0, 0, 5], &[0]),
            (&[0, 1, 0, 5, b'k', 1, 0, 0, 6], &[0]),
            (&[0, 1, 0, 5, b'k', 0, 1, 0, 5, b'j'], &[0]),
            // A large value that is none.
            (&[0, 1, 2, 5, 1, b'k', 0], &[0]),
        ] {
            let refused = plain(entries, restarts).err();
            assert_eq!(refused, Some(Malformed.into()), "{entries:?}");
        }
    }
}

//! Finds versions in a table: one, or one after the other.

use alloc::rc::Rc;

use super::index::IndexCursor;
use super::{
    ChunkSource, Head, Partition, TableRef, get_block, get_filter, get_head, get_partition,
};
use crate::engine::block::{Block, BlockCursor, Entry};
use crate::engine::filter::{filter_may_contain, key_hash};
use crate::engine::types::{Cursor, Missing, VersionRef};
use crate::{Key, Timestamp};

/// Blocks that a walk asks for ahead, at most.
const AHEAD_MAX: u32 = 32;

/// A version that was found, and the block that it is in.
pub struct Found {
    block: Rc<Block>,
    entry: Entry,
}

impl Found {
    /// The version.
    pub fn version(&self) -> VersionRef<'_> {
        self.block.version(&self.entry)
    }
}

/// The newest version of `key` in the table that is not newer than `at`.
///
/// # Errors
/// Something is not in memory: the head, the filter, the partition, or a block.
pub fn table_get<S: ChunkSource>(
    table: &TableRef,
    source: &S,
    key: &[u8],
    at: Timestamp,
) -> Result<Option<Found>, Missing> {
    if !table.has(key) {
        return Ok(None);
    }
    let reader = Reader { table, source };
    let head = reader.head()?;
    let Some(partitions) = &head.partitions else {
        return Ok(None);
    };
    let [partition, filter] = partitions.chunks(partitions.number_of(key, at));
    let filter = get_filter(source, table.object, filter, 0)?;
    if !filter_may_contain(&filter, key_hash(head.hash_seed(), key)) {
        return Ok(None);
    }
    let partition = get_partition(source, table.object, partition, 0)?;
    let [block] = partition.chunks(partition.number_of(key, at));
    let block = get_block(source, table.object, block, 0)?;
    let Some((entry, is_of_key)) = block.first_from(key, at) else {
        return reader.first_of_next(&head, key, at);
    };
    Ok(is_of_key.then_some(Found { block, entry }))
}

/// A key of the table, about uniformly at random as `random` is: of a random block of a random partition a random one.
///
/// # Errors
/// Something is not in memory.
pub fn table_random_key<S: ChunkSource>(
    table: &TableRef,
    source: &S,
    random: u64,
) -> Result<Option<Key>, Missing> {
    let reader = Reader { table, source };
    let head = reader.head()?;
    let Some(partitions) = head.partitions.as_ref() else {
        return Ok(None);
    };
    let one = |len: usize, random: u64| usize::try_from(random).unwrap_or(0) % len.max(1);
    let partition = one(partitions.len(), random & u64::from(u16::MAX));
    let partitions = IndexCursor::new(Rc::clone(partitions), partition);
    let blocks = reader.partition(&partitions)?;
    let block = one(blocks.len(), random >> 16 & u64::from(u16::MAX));
    let blocks = IndexCursor::new(blocks, block);
    let entries = one_of(reader.entries(&blocks, 0)?, random >> 32);
    let key = entries.version().map(|(key, _)| key);
    Ok(key.filter(|key| table.has(key)).map(Key::from))
}

/// Stands on one of the entries.
fn one_of(mut entries: BlockCursor, random: u64) -> BlockCursor {
    let mut count = 1;
    entries.first();
    while entries.advance() {
        count += 1;
    }
    entries.first();
    for _ in 0..random % count {
        entries.advance();
    }
    entries
}

/// Where the version at or behind (`key`, `at`) is, if it is not the first of the next partition.
fn partition_of(head: &Head, key: &[u8], at: Timestamp) -> Option<IndexCursor<2>> {
    let partitions = head.partitions.as_ref()?;
    let number = partitions.number_of(key, at);
    Some(IndexCursor::new(Rc::clone(partitions), number))
}

/// A table and what has its chunks.
struct Reader<'t, S> {
    table: &'t TableRef,
    source: &'t S,
}

/// An entry of the index of partitions, of a partition, and of a block.
struct Place {
    partitions: IndexCursor<2>,
    blocks: IndexCursor<1>,
    entries: BlockCursor,
}

impl Place {
    fn stands_on(&self, key: &[u8]) -> bool {
        self.entries.key() == Some(key)
    }

    /// Whether the block begins with a key that has newer versions in the one before.
    fn goes_on(&self) -> bool {
        self.blocks.goes_on()
    }
}

impl<S: ChunkSource> Reader<'_, S> {
    /// Whether it is within the table's bounds.
    fn is_inside(&self, place: &Place) -> bool {
        place.entries.key().is_some_and(|key| self.table.has(key))
    }

    fn head(&self) -> Result<Rc<Head>, Missing> {
        get_head(self.source, self.table.object, &self.table.head, 0)
    }

    /// The same in the partition; the cursor of the block stands nowhere.
    fn place_in(
        &self,
        partitions: IndexCursor<2>,
        key: &[u8],
        at: Timestamp,
    ) -> Result<Place, Missing> {
        let blocks = self.partition(&partitions)?;
        let block = blocks.number_of(key, at);
        let blocks = IndexCursor::new(blocks, block);
        let entries = self.entries(&blocks, 0)?;
        Ok(Place {
            partitions,
            blocks,
            entries,
        })
    }

    /// The first version in the block behind that of (`key`, `at`), if the key goes on there.
    fn first_of_next(
        &self,
        head: &Head,
        key: &[u8],
        at: Timestamp,
    ) -> Result<Option<Found>, Missing> {
        let Some(partitions) = partition_of(head, key, at) else {
            return Ok(None);
        };
        let place = self.place_in(partitions, key, at)?;
        let next = self.next_place(&place, 0, Some(key))?;
        let found = next.and_then(|next| next.entries.found(key, at));
        Ok(found.map(|(block, entry)| Found { block, entry }))
    }

    /// The first entry of the next block; if `only` is given, only if that block begins with a version of it.
    fn next_place(
        &self,
        place: &Place,
        ahead: u32,
        only: Option<&[u8]>,
    ) -> Result<Option<Place>, Missing> {
        let (partitions, blocks) = if let Some(blocks) = place.blocks.next() {
            (place.partitions.clone(), blocks)
        } else {
            let next = place.partitions.next();
            let next = next.filter(|next| only.is_none_or(|only| next.is_of(only)));
            let Some(partitions) = next else {
                return Ok(None);
            };
            let blocks = IndexCursor::first(self.partition(&partitions)?);
            (partitions, blocks)
        };
        if only.is_some_and(|only| !blocks.is_of(only)) {
            return Ok(None);
        }
        let mut entries = self.entries(&blocks, ahead)?;
        entries.first();
        Ok(Some(Place {
            partitions,
            blocks,
            entries,
        }))
    }

    /// The last entry of the block before.
    fn place_before(&self, place: &Place) -> Result<Option<Place>, Missing> {
        let (partitions, blocks) = if let Some(blocks) = place.blocks.before() {
            (place.partitions.clone(), blocks)
        } else {
            let Some(partitions) = place.partitions.before() else {
                return Ok(None);
            };
            let blocks = IndexCursor::last(self.partition(&partitions)?);
            (partitions, blocks)
        };
        let mut entries = self.entries(&blocks, 0)?;
        entries.last();
        Ok(Some(Place {
            partitions,
            blocks,
            entries,
        }))
    }

    /// What finds blocks.
    fn partition(&self, partitions: &IndexCursor<2>) -> Result<Rc<Partition>, Missing> {
        let [partition, _] = partitions.chunks();
        get_partition(self.source, self.table.object, partition, 0)
    }

    /// The block, of which `ahead` more are asked for if it is not there.
    fn entries(&self, blocks: &IndexCursor<1>, ahead: u32) -> Result<BlockCursor, Missing> {
        let block = self.block(blocks, ahead);
        if block.is_err() {
            let mut next = blocks.next();
            for _ in 0..ahead {
                let Some(blocks) = next else {
                    break;
                };
                // Whether it is there or not: it is noted.
                let _ = self.block(&blocks, 0);
                next = blocks.next();
            }
        }
        Ok(BlockCursor::new(block?))
    }

    fn block(&self, blocks: &IndexCursor<1>, ahead: u32) -> Result<Rc<Block>, Missing> {
        let [block] = blocks.chunks();
        get_block(self.source, self.table.object, block, ahead)
    }
}

/// A walk over the versions of a table, within its bounds.
pub struct TableCursor<'t, S> {
    reader: Reader<'t, S>,
    place: Option<Place>,
    /// How many blocks to ask for ahead when the next one is not there: more the longer the walk is.
    pub(super) ahead: u32,
}

impl<'t, S: ChunkSource> TableCursor<'t, S> {
    /// A cursor that stands nowhere yet.
    pub fn new(table: &'t TableRef, source: &'t S) -> Self {
        Self {
            reader: Reader { table, source },
            place: None,
            ahead: 0,
        }
    }

    /// To the next version; false if there is none, and then it stays.
    ///
    /// # Errors
    /// Something is not in memory. Then it stays as well.
    pub(super) fn advance(&mut self) -> Result<bool, Missing> {
        let Some(place) = &mut self.place else {
            return Ok(false);
        };
        if place.entries.is_last() {
            let next = self.reader.next_place(place, self.ahead, None)?;
            self.ahead = (2 * self.ahead).clamp(1, AHEAD_MAX);
            return Ok(self.stand_on(next));
        }
        place.entries.advance();
        // Keys only go up: it was inside where it stood.
        let (key, end) = (place.entries.key(), &self.reader.table.to);
        let is_inside = key.is_some_and(|key| end.as_ref().is_none_or(|end| *key < **end));
        if !is_inside {
            place.entries.retreat();
        }
        Ok(is_inside)
    }

    /// To the newest version of the key before the one it stands on; false if there is none, and then it stays.
    ///
    /// # Errors
    /// Something is not in memory. Then it stays as well.
    pub(super) fn retreat_key(&mut self) -> Result<bool, Missing> {
        let Some(place) = &mut self.place else {
            return Ok(false);
        };
        if place.entries.is_first_key() || place.goes_on() {
            let here = place.entries.version();
            let key = here.map(|(key, _)| key.to_vec()).unwrap_or_default();
            let before = self.newest_before(Some(&key))?;
            self.ahead = 0;
            return Ok(self.stand_on(before));
        }
        let here = place.entries.clone();
        place.entries.previous_key()?;
        let is_inside = self.reader.is_inside(place);
        if !is_inside {
            place.entries = here;
        }
        Ok(is_inside)
    }

    /// Stands on `place`, if it is one within the bounds; else it stays.
    fn stand_on(&mut self, place: Option<Place>) -> bool {
        let place = place.filter(|place| self.reader.is_inside(place));
        let is_one = place.is_some();
        if is_one {
            self.place = place;
        }
        is_one
    }

    /// The place of the newest version of the last key before `key`, if it is within the bounds.
    fn newest_before(&self, key: Option<&[u8]>) -> Result<Option<Place>, Missing> {
        let table = self.reader.table;
        let end = match (key, table.to.as_deref()) {
            (Some(key), Some(to)) => Some(key.min(to)),
            (key, to) => key.or(to),
        };
        let mut place = self.last_before(end)?;
        if let Some(last) = &mut place {
            last.entries.seek_newest();
            if last.goes_on() && last.entries.is_first_key() {
                let found = last.entries.version();
                let key = found.map(|(key, _)| key.to_vec()).unwrap_or_default();
                place = self.first_from(&key, Timestamp(u64::MAX))?;
                // If blocks do not agree with each other, a walk must not turn round.
                place = place.filter(|place| place.stands_on(&key));
            }
        }
        Ok(place.filter(|place| self.reader.is_inside(place)))
    }

    /// The place of the first version at or behind (`key`, `at`).
    fn first_from(&self, key: &[u8], at: Timestamp) -> Result<Option<Place>, Missing> {
        let table = self.reader.table;
        let (key, at) = if *key < *table.from {
            (&*table.from, Timestamp(u64::MAX))
        } else {
            (key, at)
        };
        if !table.has(key) {
            return Ok(None);
        }
        let head = self.reader.head()?;
        let Some(partitions) = partition_of(&head, key, at) else {
            return Ok(None);
        };
        let mut place = self.reader.place_in(partitions, key, at)?;
        if place.entries.seek_here(key, at) {
            return Ok(Some(place));
        }
        self.reader.next_place(&place, 0, None)
    }

    /// The place of the last entry before `key`, of all its versions the oldest.
    fn last_before(&self, key: Option<&[u8]>) -> Result<Option<Place>, Missing> {
        let reader = &self.reader;
        let head = reader.head()?;
        let Some(partitions) = &head.partitions else {
            return Ok(None);
        };
        let last = |len: usize| len.checked_sub(1);
        let before = match key {
            None => last(partitions.len()),
            Some(key) => partitions.last_before(key),
        };
        let Some(partition) = before else {
            return Ok(None);
        };
        let partitions = IndexCursor::new(Rc::clone(partitions), partition);
        let blocks = reader.partition(&partitions)?;
        let before = match key {
            None => last(blocks.len()),
            Some(key) => blocks.last_before(key),
        };
        let blocks = IndexCursor::new(blocks, before.unwrap_or(0));
        let before = |entries: &mut BlockCursor| {
            let Some(key) = key else {
                entries.last();
                return true;
            };
            entries.seek_before(key)
        };
        let mut entries = reader.entries(&blocks, 0)?;
        let found = before(&mut entries);
        let mut place = Place {
            partitions,
            blocks,
            entries,
        };
        if !found {
            // A separator is before the key, its block is not: then it is the one before.
            match reader.place_before(&place)? {
                Some(before) => place = before,
                None => return Ok(None),
            }
            if !before(&mut place.entries) {
                return Ok(None);
            }
        }
        Ok(Some(place))
    }
}

impl<S: ChunkSource> Cursor for TableCursor<'_, S> {
    fn seek(&mut self, key: &[u8], at: Timestamp) -> Result<(), Missing> {
        let place = self.first_from(key, at)?;
        self.ahead = 0;
        self.place = place.filter(|place| self.reader.is_inside(place));
        Ok(())
    }

    fn seek_back(&mut self, key: Option<&[u8]>) -> Result<(), Missing> {
        let place = self.newest_before(key)?;
        self.ahead = 0;
        self.place = place;
        Ok(())
    }

    fn next(&mut self) -> Result<(), Missing> {
        if !self.advance()? {
            self.place = None;
        }
        Ok(())
    }

    fn previous_key(&mut self) -> Result<(), Missing> {
        if self.place.is_none() {
            self.seek_back(None)
        } else {
            if !self.retreat_key()? {
                self.place = None;
            }
            Ok(())
        }
    }

    fn current(&self) -> Option<(&[u8], VersionRef<'_>)> {
        self.place.as_ref()?.entries.version()
    }

    fn key(&self) -> Option<&[u8]> {
        self.place.as_ref()?.entries.key()
    }
}

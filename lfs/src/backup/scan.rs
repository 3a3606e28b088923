//! Finding what is in one state and not in an older one, a bounded number of items at a time.
//!
//! A snapshot shows of the live tree what was born up to its commit, and of the history tree what was born up to it
//! and died after it. No item is written twice by one commit, so an item that two snapshots show with the same birth
//! is the same in both. That is all: what was born after the older snapshot is to be told; and what the older one shows
//! of the history tree that died up to the newer one is gone or replaced.

use alloc::vec::Vec;

use super::record::OwnedRecord;
use crate::disk::layout::VALUE_OBJECT;
use crate::extent::Piece;
use crate::namespace::split_name;
use crate::transaction::{Volume, after, damaged_item};
use crate::tree::{Item, Key, Part};
use crate::varint::{put_varint, take_byte, take_varint};
use crate::{BLOCK_SIZE, FileError, ItemKey, ItemKind};

/// Items of each tree that are looked at in one step.
const ITEMS_PER_STEP: usize = 256;

/// A place in the part of a backup that is about files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupPosition(pub(super) Place);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// At what is gone: from this key of the history tree on.
    Removals(Key),
    /// At what is there: from this key of either tree on.
    Contents(Key),
    /// Behind all.
    End,
}

impl BackupPosition {
    /// The beginning.
    pub const START: Self = Self(Place::Removals(Key::MIN));

    /// Behind all.
    pub const END: Self = Self(Place::End);

    fn phase(self) -> u8 {
        match self.0 {
            Place::Removals(_) => 1,
            Place::Contents(_) => 2,
            Place::End => 3,
        }
    }

    /// The section of the stream that a part from here on belongs to; `None` at the end.
    pub fn section(self) -> Option<super::BackupSection> {
        match self.0 {
            Place::Removals(_) => Some(super::BackupSection::Removals),
            Place::Contents(_) => Some(super::BackupSection::Contents),
            Place::End => None,
        }
    }

    /// Appends it to `out` (SPEC.md, "Backup streams").
    pub fn encode(self, out: &mut Vec<u8>) {
        out.push(self.phase());
        let (Place::Removals(key) | Place::Contents(key)) = self.0 else {
            return;
        };
        put_varint(out, key.object);
        out.push(key.kind as u8);
        put_varint(out, key.position);
        put_varint(out, key.version);
    }

    /// What [`encode`](Self::encode) made; `None` for anything else.
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        let bytes = &mut bytes;
        let phase = take_byte(bytes)?;
        let place = if phase == 3 {
            Place::End
        } else {
            let key = Key {
                object: take_varint(bytes)?,
                kind: ItemKind::from_number(take_byte(bytes)?)?,
                position: take_varint(bytes)?,
                version: take_varint(bytes)?,
            };
            match phase {
                1 => Place::Removals(key),
                2 => Place::Contents(key),
                _ => return None,
            }
        };
        bytes.is_empty().then_some(Self(place))
    }
}

/// The last commits that two states show.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    /// Above all there are for the newest state.
    pub at: u64,
    pub since: Option<u64>,
}

/// What an item comes to.
pub(super) enum Found {
    Record(OwnedRecord),
    /// Data of this length, to be read.
    Extent {
        key: Key,
        len: u32,
    },
}

impl Volume {
    /// What the items at and behind `position` come to, and where to go on.
    pub(super) fn backup_step(
        &self,
        range: Range,
        position: Place,
    ) -> Result<(Vec<Found>, Place), FileError> {
        match (position, range.since) {
            (Place::Removals(from), Some(since)) => {
                let (items, next) = self.removed(from, since, range.at)?;
                let found = items.iter().map(|(key, item)| removal(key, item));
                let next = next.map(Place::Removals);
                let next = next.unwrap_or(Place::Contents(Key::MIN));
                Ok((found.collect::<Result<_, _>>()?, next))
            }
            (Place::Removals(_), None) => Ok((Vec::new(), Place::Contents(Key::MIN))),
            (Place::Contents(from), since) => {
                let (items, next) = self.added(from, since, range.at)?;
                let found = items.iter().map(|(key, item)| addition(key, item));
                let next = next.map(Place::Contents);
                let found = found.collect::<Result<_, _>>()?;
                Ok((found, next.unwrap_or(Place::End)))
            }
            (Place::End, _) => Ok((Vec::new(), Place::End)),
        }
    }

    /// Of the next items of the history those that the state of commit `since` shows and that of `at` does not.
    fn removed(&self, from: Key, since: u64, at: u64) -> Result<Batch, FileError> {
        let mut items = Vec::new();
        let part = self.history.some_from(&from, ITEMS_PER_STEP, |key, item| {
            let died = since < key.version && key.version <= at;
            if item.birth <= since && died && is_backed_up(&key) {
                items.push((key, item.to_item()));
            }
        })?;
        Ok((items, part.next()))
    }

    /// Of the next items those that the state of commit `at` shows and that of `since` does not.
    fn added(&self, from: Key, since: Option<u64>, at: u64) -> Result<Batch, FileError> {
        let mut items = Vec::new();
        let is_new = |birth: u64| birth <= at && since.is_none_or(|since| birth > since);
        let live = self.live.some_from(&from, ITEMS_PER_STEP, |key, item| {
            if is_new(item.birth) && is_backed_up(&key) {
                items.push((key, item.to_item()));
            }
        })?;
        let history = self.history.some_from(&from, ITEMS_PER_STEP, |key, item| {
            if is_new(item.birth) && at < key.version && is_backed_up(&key) {
                items.push((key, item.to_item()));
            }
        })?;
        // Behind the place where one of them stops, items may be missing.
        let next = [live.next(), history.next()].into_iter().flatten().min();
        items.retain(|(key, _)| next.is_none_or(|next| *key < next));
        items.sort_unstable_by_key(|(key, _)| *key);
        Ok((items, next))
    }
}

/// Items in the order of their keys, and where to go on, if there may be more.
type Batch = (Vec<(Key, Item)>, Option<Key>);

impl Part {
    /// Where to go on, if there may be more.
    fn next(self) -> Option<Key> {
        match self {
            Self::All => None,
            Self::UpTo(last) => Some(after(&last)),
        }
    }
}

/// Snapshots and properties belong to a file system, not to what is in it; values are for the layer above to tell of.
fn is_backed_up(key: &Key) -> bool {
    !matches!(key.kind, ItemKind::Snapshot | ItemKind::Property) && key.object != VALUE_OBJECT
}

fn removal(key: &Key, item: &Item) -> Result<Found, FileError> {
    Ok(Found::Record(match key.kind {
        ItemKind::Extent => {
            let piece = Piece::decode(&item.value).ok_or(damaged_item())?;
            // Data begin at blocks, so there are no others in its last one.
            let end = key.position.saturating_add(u64::from(piece.len));
            let end = end
                .checked_next_multiple_of(BLOCK_SIZE as u64)
                .ok_or(damaged_item())?;
            OwnedRecord::Free {
                object: key.object,
                from: key.position,
                to: end,
            }
        }
        ItemKind::Entry | ItemKind::Attribute => OwnedRecord::RemoveName {
            object: key.object,
            kind: key.kind,
            name: split_name(&item.value)?.to_vec(),
        },
        _ => OwnedRecord::Remove {
            key: key.item_key(),
        },
    }))
}

fn addition(key: &Key, item: &Item) -> Result<Found, FileError> {
    if key.kind == ItemKind::Extent {
        let piece = Piece::decode(&item.value).ok_or(damaged_item())?;
        return Ok(Found::Extent {
            key: *key,
            len: piece.len,
        });
    }
    let named = matches!(key.kind, ItemKind::Entry | ItemKind::Attribute);
    let key = key.item_key();
    // A name's place depends on the file system.
    let position = if named { 0 } else { key.position };
    Ok(Found::Record(OwnedRecord::Put {
        key: ItemKey { position, ..key },
        value: item.value.clone(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_survive_a_round_trip_and_nonsense_is_refused() {
        let key = Key {
            object: 300,
            kind: ItemKind::Entry,
            position: u64::MAX,
            version: 7,
        };
        for position in [
            BackupPosition::START,
            BackupPosition(Place::Contents(key)),
            BackupPosition::END,
        ] {
            let mut bytes = Vec::new();
            position.encode(&mut bytes);
            assert_eq!(BackupPosition::decode(&bytes), Some(position));
            for end in 0..bytes.len() {
                assert_eq!(BackupPosition::decode(&bytes[..end]), None);
            }
            bytes.push(0);
            assert_eq!(BackupPosition::decode(&bytes), None);
        }
        assert_eq!(BackupPosition::decode(&[0]), None);
    }
}

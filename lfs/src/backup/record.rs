//! What frames of a backup say of files (SPEC.md, "Backup streams", "Records of files").

use alloc::rc::Rc;
use alloc::vec::Vec;

use crate::disk::layout::VALUE_OBJECT;
use crate::extent::{EXTENT_BYTES_MAX, FILE_BYTES_MAX};
use crate::namespace::split_name;
use crate::varint::{put_varint, take_byte, take_bytes, take_varint};
use crate::{
    BLOCK_SIZE, FileError, ITEM_BYTES_MAX, ItemKey, ItemKind, NAME_BYTES_MAX, describe_item,
};

const PUT: u8 = 1;
const REMOVE: u8 = 2;
const REMOVE_NAME: u8 = 3;
const DATA: u8 = 4;
const FREE: u8 = 5;

/// How something is in the state that the backup shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Record<'b> {
    /// This item is there. Entries and attributes are known by the name in their value; their position is 0.
    Put { key: ItemKey, value: &'b [u8] },
    /// This item is not there.
    Remove { key: ItemKey },
    /// This entry or attribute is not there.
    RemoveName {
        object: u64,
        kind: ItemKind,
        name: &'b [u8],
    },
    /// These are the data of an object from `offset` on.
    Data {
        object: u64,
        offset: u64,
        bytes: &'b [u8],
    },
    /// An object has no data there, but for what later records say.
    Free { object: u64, from: u64, to: u64 },
}

/// A record, but for data, with what it refers to.
pub(super) enum OwnedRecord {
    Put {
        key: ItemKey,
        value: Rc<[u8]>,
    },
    Remove {
        key: ItemKey,
    },
    RemoveName {
        object: u64,
        kind: ItemKind,
        name: Vec<u8>,
    },
    Free {
        object: u64,
        from: u64,
        to: u64,
    },
}

impl OwnedRecord {
    pub(super) fn as_record(&self) -> Record<'_> {
        match self {
            Self::Put { key, value } => Record::Put { key: *key, value },
            Self::Remove { key } => Record::Remove { key: *key },
            Self::RemoveName { object, kind, name } => Record::RemoveName {
                object: *object,
                kind: *kind,
                name,
            },
            Self::Free { object, from, to } => Record::Free {
                object: *object,
                from: *from,
                to: *to,
            },
        }
    }
}

impl<'b> Record<'b> {
    /// Appends it to `out`.
    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), FileError> {
        let body = match self {
            Self::Put { value, .. } => value.len(),
            Self::RemoveName { name, .. } => name.len(),
            Self::Data { bytes, .. } => bytes.len(),
            Self::Remove { .. } | Self::Free { .. } => 0,
        };
        out.try_reserve(body + 40)
            .map_err(|_| FileError::OutOfMemory)?;
        let key = |out: &mut Vec<u8>, key: &ItemKey| {
            out.push(key.kind as u8);
            put_varint(out, key.object);
            put_varint(out, key.position);
        };
        match self {
            Self::Put { key: of, value } => {
                out.push(PUT);
                key(out, of);
                put_varint(out, value.len() as u64);
                out.extend_from_slice(value);
            }
            Self::Remove { key: of } => {
                out.push(REMOVE);
                key(out, of);
            }
            Self::RemoveName { object, kind, name } => {
                out.push(REMOVE_NAME);
                out.push(*kind as u8);
                put_varint(out, *object);
                put_varint(out, name.len() as u64);
                out.extend_from_slice(name);
            }
            Self::Data {
                object,
                offset,
                bytes,
            } => {
                out.push(DATA);
                put_varint(out, *object);
                put_varint(out, *offset);
                put_varint(out, bytes.len() as u64);
                out.extend_from_slice(bytes);
            }
            Self::Free { object, from, to } => {
                out.push(FREE);
                put_varint(out, *object);
                put_varint(out, *from);
                put_varint(out, *to);
            }
        }
        Ok(())
    }

    /// Takes one off the front of `bytes`; `None` when that is none, or says what no record can say.
    pub(super) fn take(bytes: &mut &'b [u8]) -> Option<Self> {
        let tag = take_byte(bytes)?;
        let record = match tag {
            PUT => {
                let key = take_key(bytes)?;
                let len = usize::try_from(take_varint(bytes)?).ok()?;
                let value = take_bytes(bytes, len).filter(|_| len <= ITEM_BYTES_MAX)?;
                if is_named(key.kind) {
                    split_name(value).ok().filter(|_| key.position == 0)?;
                }
                describe_item(key, value).ok()?;
                Self::Put { key, value }
            }
            REMOVE => {
                let key = take_key(bytes)?;
                (!is_named(key.kind)).then_some(Self::Remove { key })?
            }
            REMOVE_NAME => {
                let kind = ItemKind::from_number(take_byte(bytes)?).filter(|&it| is_named(it))?;
                let object = take_object(bytes)?;
                let len = usize::try_from(take_varint(bytes)?).ok()?;
                let name = take_bytes(bytes, len)?;
                (1..=NAME_BYTES_MAX).contains(&len).then_some(())?;
                Self::RemoveName { object, kind, name }
            }
            DATA => {
                let object = take_object(bytes)?;
                let offset = take_offset(bytes)?;
                let len = take_varint(bytes)?;
                (1..=u64::from(EXTENT_BYTES_MAX))
                    .contains(&len)
                    .then_some(())?;
                offset
                    .checked_add(len)
                    .filter(|&end| end <= FILE_BYTES_MAX)?;
                Self::Data {
                    object,
                    offset,
                    bytes: take_bytes(bytes, usize::try_from(len).ok()?)?,
                }
            }
            FREE => {
                let object = take_object(bytes)?;
                let (from, to) = (take_varint(bytes)?, take_offset(bytes)?);
                (from < to).then_some(Self::Free { object, from, to })?
            }
            _ => return None,
        };
        Some(record)
    }
}

fn is_named(kind: ItemKind) -> bool {
    matches!(kind, ItemKind::Entry | ItemKind::Attribute)
}

fn take_key(bytes: &mut &[u8]) -> Option<ItemKey> {
    let kind = ItemKind::from_number(take_byte(bytes)?)?;
    let object = take_varint(bytes).filter(|&object| is_number(object))?;
    let position = take_varint(bytes).filter(|&position| is_number(position))?;
    let possible = match kind {
        ItemKind::Inode | ItemKind::Inline | ItemKind::Entry | ItemKind::Attribute => {
            object > 0 && position == 0
        }
        ItemKind::Orphan => object == 0 && position > 0,
        ItemKind::Extent | ItemKind::Snapshot | ItemKind::Property => false,
    };
    possible.then_some(ItemKey::new(object, kind, position))
}

/// Whether objects can have this number, so that there always is a next one.
fn is_number(number: u64) -> bool {
    number < VALUE_OBJECT
}

fn take_object(bytes: &mut &[u8]) -> Option<u64> {
    take_varint(bytes).filter(|&object| object > 0 && is_number(object))
}

fn take_offset(bytes: &mut &[u8]) -> Option<u64> {
    let aligned = |at: &u64| at.is_multiple_of(BLOCK_SIZE as u64) && *at <= 1 << 63;
    take_varint(bytes).filter(aligned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_a_round_trip_and_every_cut_is_noticed() {
        let records = [
            Record::Put {
                key: ItemKey::new(5, ItemKind::Inline, 0),
                value: b"content",
            },
            Record::Remove {
                key: ItemKey::new(0, ItemKind::Orphan, 77),
            },
            Record::RemoveName {
                object: 1,
                kind: ItemKind::Entry,
                name: b"name",
            },
            Record::Data {
                object: 5,
                offset: 8192,
                bytes: b"data",
            },
            Record::Free {
                object: 5,
                from: 4096,
                to: 1 << 40,
            },
        ];
        for record in records {
            let mut bytes = Vec::new();
            record.encode(&mut bytes).unwrap();
            let mut rest = &bytes[..];
            assert_eq!(Record::take(&mut rest), Some(record));
            assert!(rest.is_empty());
            for end in 0..bytes.len() {
                assert_eq!(Record::take(&mut &bytes[..end]), None);
            }
        }
    }

    #[test]
    fn what_no_record_can_say_is_refused() {
        let put = |key: ItemKey, value: &[u8]| {
            let mut bytes = Vec::new();
            Record::Put { key, value }.encode(&mut bytes).unwrap();
            Record::take(&mut &bytes[..]).is_some()
        };
        assert!(put(ItemKey::new(5, ItemKind::Inline, 0), b""));
        for (object, kind, position) in [
            (0, ItemKind::Inline, 0),
            (5, ItemKind::Inline, 1),
            (5, ItemKind::Extent, 0),
            (0, ItemKind::Snapshot, 5),
            (0, ItemKind::Property, 0),
            (1 << 62, ItemKind::Inline, 0),
        ] {
            assert!(!put(ItemKey::new(object, kind, position), b""), "{kind:?}");
        }
        assert!(!put(ItemKey::new(5, ItemKind::Inline, 0), &[0; 1201]));
        assert!(!put(ItemKey::new(5, ItemKind::Inode, 0), b"no inode"));
        assert!(!put(ItemKey::new(5, ItemKind::Entry, 0), b"\x01"));
    }
}

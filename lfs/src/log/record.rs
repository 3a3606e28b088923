//! What a commit says (SPEC.md, "Records"): changes of items, data of files, and what the layer above
//! records. Logical throughout: no record names a place on the disk.
//!
//! A commit's records do not depend on each other's order: each key and each byte of a file is named once.

use alloc::vec::Vec;

use crate::disk::layout::NUMBER_MAX;
use crate::varint::{put_varint, take_byte, take_bytes, take_varint, take_varint_u32};
use crate::{ITEM_BYTES_MAX, ItemKey, ItemKind};

const PUT: u8 = 1;
const REMOVE: u8 = 2;
const WRITE: u8 = 3;
const FREE: u8 = 4;
const LAYER: u8 = 5;
const MOVED: u8 = 6;

/// Bytes of the longest record without its value or layer bytes.
pub(crate) const RECORD_HEAD_BYTES_MAX: usize = 64;

/// A stored extent: what it is, and how it is encoded. Its bytes are in the data of the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ExtentRecord {
    pub object: u64,
    /// Offset of its first byte in the file; a multiple of the block size.
    pub offset: u64,
    /// Bytes of the file it holds.
    pub len: u32,
    pub encoding: u8,
    /// Bytes it takes as stored.
    pub stored_len: u32,
    /// The commit that wrote it.
    pub birth: u64,
    /// Which unit of the extent as first written its first unit was.
    pub unit_first: u32,
}

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Record<'r> {
    /// An item has this value.
    Put { key: ItemKey, value: &'r [u8] },
    /// An item is gone.
    Remove { key: ItemKey },
    /// A range of a file has this data.
    Write(ExtentRecord),
    /// A range of a file, or all from `from` on, holds nothing.
    Free {
        object: u64,
        from: u64,
        to: Option<u64>,
    },
    /// Bytes of the layer above. A commit's are put together in order.
    Layer(&'r [u8]),
    /// In segments of survivors: an extent that was moved here.
    Moved(ExtentRecord),
}

/// A record does not make sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

fn put_key(target: &mut Vec<u8>, key: ItemKey) {
    target.push(key.kind as u8);
    put_varint(target, key.object);
    put_varint(target, key.position);
}

fn take_key(bytes: &mut &[u8]) -> Option<ItemKey> {
    let kind = ItemKind::from_number(take_byte(bytes)?)?;
    let object = take_varint(bytes)?;
    let position = take_varint(bytes)?;
    let key = ItemKey::new(object, kind, position);
    key.is_possible().then_some(key)
}

impl<'r> Record<'r> {
    /// Appends the record, but for the bytes that follow it: those of a value or of the layer above.
    pub(crate) fn encode_head(&self, target: &mut Vec<u8>) {
        match *self {
            Self::Put { key, value } => {
                target.push(PUT);
                put_key(target, key);
                put_varint(target, value.len() as u64);
            }
            Self::Remove { key } => {
                target.push(REMOVE);
                put_key(target, key);
            }
            Self::Write(extent) => {
                target.push(WRITE);
                extent.encode(target);
            }
            Self::Free { object, from, to } => {
                target.push(FREE);
                put_varint(target, object);
                put_varint(target, from);
                put_varint(target, to.unwrap_or(0));
            }
            Self::Layer(bytes) => {
                target.push(LAYER);
                put_varint(target, bytes.len() as u64);
            }
            Self::Moved(extent) => {
                target.push(MOVED);
                extent.encode(target);
                put_varint(target, extent.birth);
                put_varint(target, u64::from(extent.unit_first));
            }
        }
    }

    /// The bytes that follow the head.
    pub(crate) fn body(&self) -> &'r [u8] {
        match *self {
            Self::Put { value, .. } => value,
            Self::Layer(bytes) => bytes,
            _ => &[],
        }
    }

    /// Takes the next record off the front of `bytes`; `commit` is the commit they belong to.
    pub(crate) fn take(bytes: &mut &'r [u8], commit: u64) -> Result<Option<Self>, Malformed> {
        if bytes.is_empty() {
            return Ok(None);
        }
        Self::parse(bytes, commit).map(Some).ok_or(Malformed)
    }

    fn parse(bytes: &mut &'r [u8], commit: u64) -> Option<Self> {
        Some(match take_byte(bytes)? {
            PUT => {
                let key = take_key(bytes)?;
                let len = take_varint(bytes)?;
                let len = usize::try_from(len).ok().filter(|&l| l <= ITEM_BYTES_MAX)?;
                // Extents are data of files; only `Write` and `Free` change them.
                if key.kind == ItemKind::Extent {
                    return None;
                }
                Self::Put {
                    key,
                    value: take_bytes(bytes, len)?,
                }
            }
            REMOVE => {
                let key = take_key(bytes)?;
                if key.kind == ItemKind::Extent {
                    return None;
                }
                Self::Remove { key }
            }
            WRITE => Self::Write(ExtentRecord::take(bytes, commit)?),
            FREE => {
                let object = take_varint(bytes)?;
                let from = take_varint(bytes)?;
                let to = take_varint(bytes)?;
                if to != 0 && to <= from || object >= NUMBER_MAX {
                    return None;
                }
                Self::Free {
                    object,
                    from,
                    to: (to != 0).then_some(to),
                }
            }
            LAYER => {
                let len = usize::try_from(take_varint(bytes)?).ok()?;
                Self::Layer(take_bytes(bytes, len)?)
            }
            MOVED => {
                let mut extent = ExtentRecord::take(bytes, commit)?;
                extent.birth = take_varint(bytes)?;
                extent.unit_first = take_varint_u32(bytes)?;
                if !extent.is_possible() {
                    return None;
                }
                Self::Moved(extent)
            }
            _ => return None,
        })
    }
}

impl ExtentRecord {
    fn encode(&self, target: &mut Vec<u8>) {
        put_varint(target, self.object);
        put_varint(target, self.offset);
        put_varint(target, u64::from(self.len));
        target.push(self.encoding);
        put_varint(target, u64::from(self.stored_len));
    }

    fn take(bytes: &mut &[u8], commit: u64) -> Option<Self> {
        let object = take_varint(bytes)?;
        let offset = take_varint(bytes)?;
        let len = take_varint_u32(bytes)?;
        let encoding = take_byte(bytes)?;
        let stored_len = take_varint_u32(bytes)?;
        let extent = Self {
            object,
            offset,
            len,
            encoding,
            stored_len,
            birth: commit,
            unit_first: 0,
        };
        extent.is_possible().then_some(extent)
    }

    /// Whether this can be an extent at all.
    pub(crate) fn is_possible(&self) -> bool {
        let block = crate::BLOCK_SIZE as u64;
        self.object < NUMBER_MAX
            && self.birth < NUMBER_MAX
            && (1..=crate::extent::EXTENT_BYTES_MAX).contains(&self.len)
            && self.offset.is_multiple_of(block)
            && self.offset <= crate::extent::FILE_BYTES_MAX - u64::from(self.len)
            && self.stored_len > 0
            && self.stored_len <= crate::extent::STORED_BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_a_round_trip_and_no_early_end() {
        let extent = ExtentRecord {
            object: 7,
            offset: 1 << 40,
            len: 4097,
            encoding: 1,
            stored_len: 5000,
            birth: 9,
            unit_first: 0,
        };
        let moved = ExtentRecord {
            birth: 3,
            unit_first: 5,
            ..extent
        };
        let key = ItemKey::new(1, ItemKind::Entry, u64::MAX);
        let records = [
            Record::Put {
                key,
                value: b"value",
            },
            Record::Remove { key },
            Record::Write(extent),
            Record::Free {
                object: 7,
                from: 4096,
                to: None,
            },
            Record::Free {
                object: 7,
                from: 0,
                to: Some(4096),
            },
            Record::Layer(b"above"),
            Record::Moved(moved),
        ];
        for record in records {
            let mut bytes = Vec::new();
            record.encode_head(&mut bytes);
            assert!(bytes.len() <= RECORD_HEAD_BYTES_MAX);
            bytes.extend_from_slice(record.body());
            let mut rest = &bytes[..];
            assert_eq!(Record::take(&mut rest, 9), Ok(Some(record)));
            assert_eq!(Record::take(&mut rest, 9), Ok(None));
            for end in 1..bytes.len() {
                assert_eq!(Record::take(&mut &bytes[..end], 9), Err(Malformed));
            }
        }
        let extent_item = ItemKey::new(1, ItemKind::Extent, 0);
        let mut bytes = Vec::new();
        Record::Remove { key: extent_item }.encode_head(&mut bytes);
        assert_eq!(Record::take(&mut &bytes[..], 9), Err(Malformed));
    }
}

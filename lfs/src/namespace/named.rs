//! Items that are found by a name: entries of directories, and extended attributes.
//!
//! The position of such an item is the hash of its name, 51 bits, and below it a *slot*, 12 bits. Names
//! with the same hash are told apart by their slots: each takes the lowest one that is free when it comes,
//! and keeps it. So a position belongs to one name as long as it is there, which makes it a cookie for
//! listing, and a name is found by going through its bucket, which nearly always holds one.
//!
//! A value begins with the length of the name (one byte) and the name.

use alloc::vec::Vec;

use super::codec::{DAMAGED, Reader};
use crate::{FileError, ItemKey, ItemKind, View};

/// Bits of a position below the hash.
pub(crate) const SLOT_BITS: u32 = 12;
const SLOT_MASK: u64 = (1 << SLOT_BITS) - 1;

/// Largest position: below 2⁶³, so that cookies fit the offsets of every interface.
pub(crate) const POSITION_MAX: u64 = u64::MAX >> 1;

/// Where a name is.
pub(super) enum Place {
    /// Here, with what its value says behind the name.
    Taken(u64, Vec<u8>),
    /// Nowhere, but it could be put here; `None` when as many names have its hash as there are slots.
    Free(Option<u64>),
}

/// The first position of a name's bucket; never 0.
pub(crate) fn bucket(hash: u64) -> u64 {
    (hash >> (SLOT_BITS + 1)).max(1) << SLOT_BITS
}

/// Looks for `name` among the items of `kind` that belong to `object`.
pub(super) fn find(
    view: &mut impl View,
    object: u64,
    kind: ItemKind,
    name: &[u8],
) -> Result<Place, FileError> {
    let start = bucket(view.hash_name(name));
    let last = start | SLOT_MASK;
    let mut next = start;
    let mut free = None;
    while next <= last {
        let range = (
            ItemKey::new(object, kind, next),
            ItemKey::new(object, kind, last),
        );
        let Some((key, value)) = view.first(range.0, range.1)? else {
            free = free.or(Some(next));
            break;
        };
        let (found, payload) = split(&value)?;
        if found == name {
            return Ok(Place::Taken(key.position, payload.to_vec()));
        }
        if key.position > next {
            free = free.or(Some(next));
        }
        next = key.position + 1;
    }
    Ok(Place::Free(free))
}

/// A value for `name`.
pub(super) fn join(name: &[u8], payload: &[u8]) -> Vec<u8> {
    // Names are checked before they get here; a longer one would not decode.
    let length = u8::try_from(name.len()).unwrap_or(0);
    [&[length], name, payload].concat()
}

/// The name in a value and what comes behind it.
pub(crate) fn split(value: &[u8]) -> Result<(&[u8], &[u8]), FileError> {
    let mut reader = Reader::new(value);
    let name = reader
        .byte()
        .filter(|&length| length > 0)
        .and_then(|length| reader.take(length.into()));
    Ok((name.ok_or(DAMAGED)?, reader.rest()))
}

/// The first item of `kind` behind `position`.
pub(super) fn next(
    view: &mut impl View,
    object: u64,
    kind: ItemKind,
    position: u64,
) -> Result<Option<(u64, Vec<u8>)>, FileError> {
    let (items, _) = some(view, object, kind, position, 1)?;
    Ok(items.into_iter().next())
}

/// Up to `limit` items of `kind` behind `position`, none only when there are none, each with its own; and the position
/// to go on behind, unless it is known that these are the last.
#[expect(clippy::type_complexity, reason = "a list and a number")]
pub(super) fn some(
    view: &mut impl View,
    object: u64,
    kind: ItemKind,
    position: u64,
    limit: usize,
) -> Result<(Vec<(u64, Vec<u8>)>, Option<u64>), FileError> {
    if position >= POSITION_MAX {
        return Ok((Vec::new(), None));
    }
    let key = |position| ItemKey::new(object, kind, position);
    let (items, next) = view.some(key(position + 1), key(POSITION_MAX), limit)?;
    let items = items.into_iter().map(|(key, value)| (key.position, value));
    // No position is 0.
    let next = next.map(|key| key.position.saturating_sub(1).max(1));
    Ok((items.collect(), next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_never_small_and_fit_a_signed_offset() {
        assert_eq!(bucket(0), 4096);
        assert_eq!(bucket(u64::MAX) | SLOT_MASK, POSITION_MAX);
        assert_ne!(bucket(1 << 13), bucket(2 << 13));
    }

    #[test]
    fn a_value_without_a_whole_name_is_damaged() {
        assert_eq!(
            split(&join(b"name", b"rest")),
            Ok((&b"name"[..], &b"rest"[..]))
        );
        for bad in [&[][..], &[0], &[0, 1], &[3, b'a', b'b']] {
            assert_eq!(split(bad), Err(DAMAGED));
        }
    }
}

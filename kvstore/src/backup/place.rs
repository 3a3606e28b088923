//! Places among the keys of a backup: the layer's part of a cursor (SPEC.md, "Backups").

use alloc::vec::Vec;

use crate::engine::payload::SYSTEM_DATABASE;
use crate::{DATABASE_COUNT, DatabaseIndex, KEY_BYTES_MAX, Key};

/// A place among the keys (SPEC.md, "Backups").
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum KeyPlace {
    Start,
    /// Among the ranges that were deleted, at this key or the next one.
    Deleted(DatabaseIndex, Key),
    Database(DatabaseIndex),
    After(DatabaseIndex, Key),
    From(DatabaseIndex, Key),
    /// So many bytes of its value came before.
    Within(DatabaseIndex, Key, usize),
}

impl KeyPlace {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Start => out.extend_from_slice(&[0, 0]),
            Self::Database(db) => out.extend_from_slice(&[0, 1, db.0]),
            Self::After(db, key) => {
                out.extend_from_slice(&[0, 2, db.0]);
                out.extend_from_slice(key);
            }
            Self::From(db, key) => {
                out.extend_from_slice(&[0, 4, db.0]);
                out.extend_from_slice(key);
            }
            Self::Deleted(db, key) => {
                out.extend_from_slice(&[0, 5, db.0]);
                out.extend_from_slice(key);
            }
            Self::Within(db, key, offset) => {
                out.extend_from_slice(&[0, 3, db.0]);
                out.extend_from_slice(&(*offset as u64).to_le_bytes());
                out.extend_from_slice(key);
            }
        }
    }

    /// Without the leading 0.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes == [0] {
            return Some(Self::Start);
        }
        let (&[kind, db], rest) = bytes.split_first_chunk()?;
        let db = DatabaseIndex(db);
        let is_users = usize::from(db.0) < DATABASE_COUNT;
        let in_range = is_users || (db.0 == SYSTEM_DATABASE && matches!(kind, 1 | 2 | 4));
        let place = match kind {
            1 if rest.is_empty() => Self::Database(db),
            2 if rest.len() <= KEY_BYTES_MAX => Self::After(db, Key::from(rest)),
            4 if rest.len() <= KEY_BYTES_MAX => Self::From(db, Key::from(rest)),
            5 if rest.len() <= KEY_BYTES_MAX => Self::Deleted(db, Key::from(rest)),
            3 if rest.len() <= KEY_BYTES_MAX + 8 => {
                let (offset, key) = rest.split_first_chunk()?;
                let offset = usize::try_from(u64::from_le_bytes(*offset)).ok()?;
                Self::Within(db, Key::from(key), offset)
            }
            _ => return None,
        };
        in_range.then_some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_survive_a_round_trip_and_nonsense_is_refused() {
        let (db, key) = (DatabaseIndex(15), Key::from(&b"key"[..]));
        let system = DatabaseIndex(SYSTEM_DATABASE);
        for place in [
            KeyPlace::Start,
            KeyPlace::Database(db),
            KeyPlace::After(db, Key::from(&b""[..])),
            KeyPlace::After(db, key.clone()),
            KeyPlace::From(db, key.clone()),
            KeyPlace::Within(db, key.clone(), 1 << 40),
            KeyPlace::Deleted(db, key.clone()),
            KeyPlace::Database(system),
            KeyPlace::After(system, key.clone()),
            KeyPlace::From(system, key),
        ] {
            let mut bytes = Vec::new();
            place.encode(&mut bytes);
            assert_eq!(KeyPlace::decode(&bytes[1..]), Some(place));
        }
        let bad = [&[][..], &[1], &[1, 16], &[1, 0, 0], &[6, 0], &[3, 0, 1]];
        // The store's own keys are short, and no ranges of them are deleted.
        let systems = [&[3, 255, 1, 0, 0, 0, 0, 0, 0, 0][..], &[5, 255], &[1, 254]];
        let long = [alloc::vec![4, 0], alloc::vec![0; KEY_BYTES_MAX + 1]].concat();
        for bad in bad.into_iter().chain(systems).chain([&long[..]]) {
            assert_eq!(KeyPlace::decode(bad), None, "{bad:?}");
        }
    }
}

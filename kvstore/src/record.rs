//! Records: what the keys of a backup are told in (SPEC.md, "Backups").
//!
//! They are logical: they name keys, never places on the disk, so the same bytes can be restored anywhere.

use alloc::vec::Vec;

use crate::engine::payload::SYSTEM_DATABASE;
use crate::{DATABASE_COUNT, DatabaseIndex};

const PUT: u8 = 1;
const PUT_EXPIRING: u8 = 2;
const DELETE: u8 = 3;
const APPEND: u8 = 4;
const EXPIRE: u8 = 5;
const PERSIST: u8 = 6;
const CLEAR: u8 = 7;
const DELETE_RANGE: u8 = 8;

/// Bytes of a record beyond its key and value, at most.
pub(crate) const RECORD_BYTES_MAX: usize = 16;

/// One change to one key, or to many of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record<'b> {
    pub db: DatabaseIndex,
    pub key: &'b [u8],
    pub change: Change<'b>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change<'b> {
    /// Value and expiry are now these.
    Put {
        value: &'b [u8],
        expires_at_ms: Option<i64>,
    },
    /// There is no value.
    Delete,
    /// These bytes follow the value there is; its expiry stays.
    Append { tail: &'b [u8] },
    /// Only the expiry changes.
    Expire { expires_at_ms: Option<i64> },
    /// Every key of the database is gone. Its key is empty.
    Clear,
    /// Every key from its own on is gone, up to `end`, not included; without one to the last.
    DeleteRange { end: Option<&'b [u8]> },
}

/// The bytes are not records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

impl<'b> Record<'b> {
    /// Appends the record to `out`.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let (kind, expires_at_ms, value) = match self.change {
            Change::Put {
                value,
                expires_at_ms: None,
            } => (PUT, None, Some(value)),
            Change::Put {
                value,
                expires_at_ms,
            } => (PUT_EXPIRING, expires_at_ms, Some(value)),
            Change::Delete => (DELETE, None, None),
            Change::Append { tail } => (APPEND, None, Some(tail)),
            Change::Expire {
                expires_at_ms: None,
            } => (PERSIST, None, None),
            Change::Expire { expires_at_ms } => (EXPIRE, expires_at_ms, None),
            Change::Clear => (CLEAR, None, None),
            Change::DeleteRange { end } => (DELETE_RANGE, None, Some(end.unwrap_or_default())),
        };
        // The store takes no longer keys or values.
        let key_len = u16::try_from(self.key.len()).unwrap_or(u16::MAX);
        let [low, high] = key_len.to_le_bytes();
        out.extend_from_slice(&[kind, self.db.0, low, high]);
        if let Some(at) = expires_at_ms {
            out.extend_from_slice(&at.to_le_bytes());
        }
        if let Some(value) = value {
            let value_len = u32::try_from(value.len()).unwrap_or(u32::MAX);
            out.extend_from_slice(&value_len.to_le_bytes());
        }
        out.extend_from_slice(self.key);
        out.extend_from_slice(value.unwrap_or_default());
    }

    /// Takes the first record off `bytes`. `Ok(None)`: it is not all there.
    pub(crate) fn decode(bytes: &'b [u8]) -> Result<Option<(Self, &'b [u8])>, Malformed> {
        let Some((&[kind, db, low, high], mut rest)) = bytes.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let is_known = match kind {
            // The store's own keys are put and deleted one by one.
            PUT | PUT_EXPIRING | DELETE if db == SYSTEM_DATABASE => true,
            PUT..=DELETE_RANGE => usize::from(db) < DATABASE_COUNT,
            _ => false,
        };
        if !is_known {
            return Err(Malformed);
        }
        let mut expires_at_ms = None;
        if matches!(kind, PUT_EXPIRING | EXPIRE) {
            let Some((at, after)) = rest.split_first_chunk::<8>() else {
                return Ok(None);
            };
            (expires_at_ms, rest) = (Some(i64::from_le_bytes(*at)), after);
        }
        let mut value_len = 0;
        if matches!(kind, PUT | PUT_EXPIRING | APPEND | DELETE_RANGE) {
            let Some((len, after)) = rest.split_first_chunk::<4>() else {
                return Ok(None);
            };
            (value_len, rest) = (u32::from_le_bytes(*len) as usize, after);
        }
        let key_len = usize::from(u16::from_le_bytes([low, high]));
        let Some((key, rest)) = rest.split_at_checked(key_len) else {
            return Ok(None);
        };
        let Some((value, rest)) = rest.split_at_checked(value_len) else {
            return Ok(None);
        };
        let change = match kind {
            PUT | PUT_EXPIRING => Change::Put {
                value,
                expires_at_ms,
            },
            DELETE => Change::Delete,
            APPEND => Change::Append { tail: value },
            EXPIRE | PERSIST => Change::Expire { expires_at_ms },
            DELETE_RANGE => Change::DeleteRange {
                end: Some(value).filter(|end| !end.is_empty()),
            },
            _ => Change::Clear,
        };
        Ok(Some((
            Self {
                db: DatabaseIndex(db),
                key,
                change,
            },
            rest,
        )))
    }
}

/// All records of a frame's payload.
pub(crate) fn records(mut payload: &[u8]) -> impl Iterator<Item = Result<Record<'_>, Malformed>> {
    core::iter::from_fn(move || {
        if payload.is_empty() {
            return None;
        }
        let next = Record::decode(payload).and_then(|found| found.ok_or(Malformed));
        payload = next.as_ref().map_or(&[], |(_, rest)| rest);
        Some(next.map(|(record, _)| record))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_a_round_trip_and_every_cut_is_noticed() {
        let db = DatabaseIndex(3);
        let key = b"key".as_slice();
        let changes = [
            Change::Put {
                value: b"value",
                expires_at_ms: None,
            },
            Change::Put {
                value: b"",
                expires_at_ms: Some(-5),
            },
            Change::Delete,
            Change::Append { tail: b"tail" },
            Change::Expire {
                expires_at_ms: Some(i64::MAX),
            },
            Change::Expire {
                expires_at_ms: None,
            },
            Change::Clear,
            Change::DeleteRange { end: Some(b"kez") },
            Change::DeleteRange { end: None },
        ];
        for change in changes {
            let record = Record { db, key, change };
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            let value_len = match change {
                Change::Put { value, .. } | Change::Append { tail: value } => value.len(),
                Change::DeleteRange { end } => end.map_or(0, <[u8]>::len),
                _ => 0,
            };
            assert!(bytes.len() <= RECORD_BYTES_MAX + key.len() + value_len);
            assert_eq!(Record::decode(&bytes), Ok(Some((record, &[][..]))));
            for cut in 0..bytes.len() {
                assert_eq!(Record::decode(&bytes[..cut]), Ok(None));
                let all = records(&bytes[..cut]).collect::<Vec<_>>();
                assert!(cut == 0 || all == [Err(Malformed)]);
            }
        }
        for kind in [0, 9, 255] {
            assert_eq!(Record::decode(&[kind, 0, 0, 0]), Err(Malformed));
        }
        for db in [16, 17, 254] {
            assert_eq!(Record::decode(&[1, db, 0, 0]), Err(Malformed));
        }
    }

    #[test]
    fn of_the_stores_own_keys_one_is_put_or_deleted_and_no_more() {
        for kind in PUT..=DELETE_RANGE {
            let bytes = [kind, SYSTEM_DATABASE, 0, 0];
            let is_refused = Record::decode(&bytes) == Err(Malformed);
            assert_eq!(is_refused, kind > DELETE, "{kind}");
        }
    }
}

//! What SCAN's cursors stand for: a database and the last key that was given.
//!
//! A cursor is a number; what it stands for is remembered here, for the 16,384 that were used last and at most 2 MiB. It stays good when used
//! twice. One that is not known (long unused, or from before a restart) makes a scan go on from the database's start:
//! keys come twice, none is missed. So numbers must not come again after a restart: they count up from a random one.

use alloc::collections::BTreeMap;

use crate::{DatabaseIndex, Key};

/// Cursors that are remembered.
const CURSORS_MAX: usize = 16_384;

/// Memory they may take.
const BYTES_MAX: usize = 2 << 20;

/// Memory of a cursor beyond its key: its share of two maps, and the key's counts.
const CURSOR_BYTES: usize = 112;

/// The cursors of all scans.
pub struct ScanCursors {
    /// The next number.
    next: u64,
    cursors: BTreeMap<u64, Cursor>,
    /// When each was used, to its number.
    by_use: BTreeMap<u64, u64>,
    uses: u64,
    bytes: usize,
}

struct Cursor {
    db: DatabaseIndex,
    key: Key,
    used: u64,
}

impl ScanCursors {
    /// No cursors. `random`: from where numbers count up; another one after each start.
    pub fn new(random: u64) -> Self {
        Self {
            // Clients keep cursors as signed numbers, and 0 is no cursor.
            next: (random >> 2).max(1),
            cursors: BTreeMap::new(),
            by_use: BTreeMap::new(),
            uses: 0,
            bytes: 0,
        }
    }

    /// Where the scan that was given `cursor` goes on: behind this key. `None`: from the start.
    pub fn key_of(&mut self, cursor: u64) -> Option<(DatabaseIndex, Key)> {
        let found = self.cursors.get_mut(&cursor)?;
        self.by_use.remove(&found.used);
        self.uses += 1;
        found.used = self.uses;
        self.by_use.insert(self.uses, cursor);
        Some((found.db, Key::clone(&found.key)))
    }

    /// A cursor, never 0, for a scan that has come to `key`.
    pub fn cursor_for(&mut self, db: DatabaseIndex, key: &[u8]) -> u64 {
        let cursor = self.next;
        self.next += 1;
        self.uses += 1;
        self.bytes += CURSOR_BYTES + key.len();
        let (key, used) = (Key::from(key), self.uses);
        self.cursors.insert(cursor, Cursor { db, key, used });
        self.by_use.insert(self.uses, cursor);
        while self.cursors.len() > CURSORS_MAX || self.bytes > BYTES_MAX {
            let oldest = self.by_use.pop_first();
            let Some(oldest) = oldest.and_then(|(_, cursor)| self.cursors.remove(&cursor)) else {
                break;
            };
            self.bytes -= CURSOR_BYTES + oldest.key.len();
        }
        cursor
    }

    /// Memory that they take.
    pub fn memory_bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::KEY_BYTES_MAX;
    use crate::testing::{random, short_key};

    /// Against a list in the order of use.
    #[test]
    fn remembers_those_that_were_used_last() {
        let mut random = random(1);
        let mut cursors = ScanCursors::new(random.next_u64());
        let mut model: Vec<(u64, DatabaseIndex, Vec<u8>)> = Vec::new();
        let (mut bytes, mut forgotten) = (0, Vec::new());
        for step in 0..60_000 {
            if random.one_in(3) && !model.is_empty() {
                let at = random.index(model.len());
                let (cursor, db, key) = model.remove(at);
                let found = cursors.key_of(cursor).expect("it is remembered");
                assert_eq!((found.0, &found.1[..]), (db, &key[..]));
                model.push((cursor, db, key));
            } else {
                let db = DatabaseIndex(random.next_u64().to_le_bytes()[0] % 16);
                let key = if random.one_in(400) {
                    alloc::vec![7; random.index(KEY_BYTES_MAX + 1)]
                } else {
                    short_key(&mut random, 12)
                };
                let cursor = cursors.cursor_for(db, &key);
                assert!(cursor != 0 && i64::try_from(cursor).is_ok());
                bytes += key.len() + CURSOR_BYTES;
                model.push((cursor, db, key));
                while bytes > BYTES_MAX || model.len() > CURSORS_MAX {
                    let (cursor, _, key) = model.remove(0);
                    bytes -= key.len() + CURSOR_BYTES;
                    forgotten.push(cursor);
                }
            }
            if step % 100 == 0 {
                assert_eq!(cursors.memory_bytes(), bytes);
                if let Some(&cursor) = forgotten.get(random.index(forgotten.len())) {
                    assert_eq!(cursors.key_of(cursor), None);
                }
            }
        }
        assert!(!forgotten.is_empty());
    }

    #[test]
    fn unknown_cursors_are_not_known() {
        let mut cursors = ScanCursors::new(u64::MAX);
        assert_eq!(cursors.key_of(0), None);
        let cursor = cursors.cursor_for(DatabaseIndex(3), b"k");
        assert_eq!(cursors.key_of(cursor + 1), None);
        assert_eq!(cursors.key_of(cursor), cursors.key_of(cursor));
        assert!(cursors.key_of(cursor).is_some());
        assert_ne!(ScanCursors::new(0).cursor_for(DatabaseIndex(0), b""), 0);
    }
}

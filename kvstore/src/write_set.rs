//! What a transaction leaves behind: changes by database and key.
//!
//! Most transactions write one key of one database, so one of each needs no allocation of its own.

use alloc::collections::BTreeMap;
use core::ops::Bound;

use smallvec::SmallVec;

use crate::{DatabaseIndex, Key, Value};

/// Keys that are kept in a list before a map takes over.
const FEW: usize = 4;

/// What a transaction leaves of one key.
pub(crate) enum Write {
    Put(Value, Option<i64>),
    Delete,
    /// The value there is in the store, longer by this.
    Append(alloc::vec::Vec<u8>),
    /// The value there is in the store, with this expiry.
    Expire(Option<i64>),
}

/// Changes by database; few databases are written at once.
#[derive(Default)]
pub(crate) struct WriteSet {
    databases: SmallVec<[(DatabaseIndex, Writes); 1]>,
}

/// What a transaction does to one database: maybe empties it, then changes keys.
#[derive(Default)]
pub(crate) struct Writes {
    pub cleared: bool,
    keys: Keys,
}

enum Keys {
    /// In the order in which they came.
    Few(SmallVec<[(Key, Write); 1]>),
    Many(BTreeMap<Key, Write>),
}

impl Default for Keys {
    fn default() -> Self {
        Self::Few(SmallVec::new())
    }
}

impl WriteSet {
    pub(crate) fn is_empty(&self) -> bool {
        self.databases.is_empty()
    }

    pub(crate) fn of(&self, db: DatabaseIndex) -> Option<&Writes> {
        self.databases
            .iter()
            .find(|(of, _)| *of == db)
            .map(|(_, writes)| writes)
    }

    /// The changes to `db`, begun here if there are none.
    pub(crate) fn of_mut(&mut self, db: DatabaseIndex) -> &mut Writes {
        let len = self.databases.len();
        let at = self
            .databases
            .iter()
            .position(|(of, _)| *of == db)
            .unwrap_or(len);
        if at == len {
            self.databases.push((db, Writes::default()));
        }
        #[expect(clippy::indexing_slicing, reason = "found, or pushed just now")]
        &mut self.databases[at].1
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (DatabaseIndex, &Writes)> {
        self.databases.iter().map(|(db, writes)| (*db, writes))
    }

    pub(crate) fn into_iter(self) -> impl Iterator<Item = (DatabaseIndex, Writes)> {
        self.databases.into_iter()
    }
}

impl Writes {
    /// Forgets all and empties the database.
    pub(crate) fn clear(&mut self) {
        *self = Self {
            cleared: true,
            keys: Keys::default(),
        };
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&Write> {
        match &self.keys {
            Keys::Few(few) => few
                .iter()
                .find(|(of, _)| **of == *key)
                .map(|(_, write)| write),
            Keys::Many(many) => many.get(key),
        }
    }

    pub(crate) fn get_mut(&mut self, key: &[u8]) -> Option<&mut Write> {
        match &mut self.keys {
            Keys::Few(few) => few
                .iter_mut()
                .find(|(of, _)| **of == *key)
                .map(|(_, write)| write),
            Keys::Many(many) => many.get_mut(key),
        }
    }

    pub(crate) fn insert(&mut self, key: Key, write: Write) {
        if let Some(place) = self.get_mut(&key) {
            *place = write;
            return;
        }
        match &mut self.keys {
            Keys::Few(few) if few.len() < FEW => few.push((key, write)),
            Keys::Few(few) => {
                let mut many = core::mem::take(few).into_iter().collect::<BTreeMap<_, _>>();
                many.insert(key, write);
                self.keys = Keys::Many(many);
            }
            Keys::Many(many) => {
                many.insert(key, write);
            }
        }
    }

    /// All keys, in no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Key, &Write)> {
        let (few, many) = match &self.keys {
            Keys::Few(few) => (Some(few), None),
            Keys::Many(many) => (None, Some(many)),
        };
        let few = few.into_iter().flatten().map(|(key, write)| (key, write));
        few.chain(many.into_iter().flatten())
    }

    /// Keys in order, those after `after`.
    pub(crate) fn range(&self, after: Option<&[u8]>) -> impl Iterator<Item = (&Key, &Write)> {
        let (few, many) = match &self.keys {
            Keys::Few(few) => (Some(few), None),
            Keys::Many(many) => (None, Some(many)),
        };
        let few = few.into_iter().flatten().map(|(key, write)| (key, write));
        let few = few.filter(|(key, _)| after.is_none_or(|after| ***key > *after));
        let mut few = few.collect::<SmallVec<[_; FEW]>>();
        few.sort_unstable_by_key(|(key, _)| *key);
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let many = many.map(|many| many.range::<[u8], _>((start, Bound::Unbounded)));
        few.into_iter().chain(many.into_iter().flatten())
    }

    pub(crate) fn into_iter(self) -> impl Iterator<Item = (Key, Write)> {
        let (few, many) = match self.keys {
            Keys::Few(few) => (Some(few), None),
            Keys::Many(many) => (None, Some(many)),
        };
        few.into_iter().flatten().chain(many.into_iter().flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn few_keys_and_many_behave_alike() {
        for count in [1, FEW, FEW + 1, 50] {
            let mut set = WriteSet::default();
            let db = DatabaseIndex(3);
            let key = |number: usize| Key::from(alloc::format!("{number:02}").as_bytes());
            for number in (0..count).rev() {
                set.of_mut(db).insert(key(number), Write::Delete);
                set.of_mut(db).insert(key(number), Write::Expire(None));
            }
            let writes = set.of(db).unwrap();
            assert_eq!(writes.iter().count(), count);
            assert!(
                writes
                    .iter()
                    .all(|(_, write)| matches!(write, Write::Expire(None)))
            );
            assert!(writes.get(&key(count)).is_none() && writes.get(&key(0)).is_some());
            let in_order = writes.range(None).map(|(key, _)| Key::clone(key));
            assert_eq!(
                in_order.collect::<Vec<_>>(),
                (0..count).map(key).collect::<Vec<_>>()
            );
            assert_eq!(writes.range(Some(&key(0))).count(), count - 1);
            assert!(set.of(DatabaseIndex(0)).is_none());
        }
    }
}

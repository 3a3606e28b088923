//! What a transaction leaves behind: changes by database and key.
//!
//! Most transactions write one key of one database, so one of each needs no allocation of its own. As long as there is a mark, what a
//! change replaced is kept, so that it can be taken back.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Bound;

use smallvec::SmallVec;

use crate::engine::types::Pieces;
use crate::{DatabaseIndex, Key, Value};

/// Keys that are kept in a list before a map takes over.
const FEW: usize = 4;

/// Memory of a change beyond its key and value.
const WRITE_BYTES: usize = 96;

/// What a transaction leaves of one key.
pub(crate) enum Write {
    Put(Value, Option<i64>),
    Delete,
    Grown(Grown),
}

/// A large value that begins as the stored one does.
pub(crate) struct Grown {
    /// The stored value's first pieces, which it shares with it.
    pub(crate) pieces: Pieces,
    /// What follows.
    pub(crate) tail: Vec<u8>,
    pub(crate) expires_at_ms: Option<i64>,
}

impl Grown {
    /// Bytes of the value.
    pub(crate) fn len(&self) -> usize {
        let stored = self.pieces.iter().map(|piece| piece.bytes as usize);
        stored.sum::<usize>() + self.tail.len()
    }
}

impl Write {
    fn bytes(&self) -> usize {
        match self {
            Self::Put(value, _) => value.len(),
            Self::Delete => 0,
            Self::Grown(grown) => grown.tail.len(),
        }
    }
}

/// Changes by database; few databases are written at once.
#[derive(Default)]
pub(crate) struct WriteSet {
    databases: SmallVec<[(DatabaseIndex, Writes); 1]>,
    /// How to take changes back, the last one last, with the memory that there was before; kept as long as there are marks.
    undo: Vec<(usize, Undo)>,
    marks: usize,
    bytes: usize,
}

/// A place among the changes, to which they can be taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark(usize);

enum Undo {
    /// The key had this, or nothing.
    Write(DatabaseIndex, Key, Option<Write>),
    /// Its value was so long.
    Shorten(DatabaseIndex, Key, usize),
    /// It expired then.
    Expire(DatabaseIndex, Key, Option<i64>),
    /// A range was deleted that begins here, in place of these.
    Deleted(DatabaseIndex, Key, Vec<(Key, Option<Key>)>),
}

/// What a transaction does to one database: deletes ranges of keys, then changes keys.
#[derive(Default)]
pub(crate) struct Writes {
    deleted: Deleted,
    keys: Keys,
}

/// Ranges by where they begin, to where they end; without an end to the last key. No two touch.
#[derive(Default, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Deleted(BTreeMap<Key, Option<Key>>);

impl Deleted {
    /// Whether `key` is in one.
    pub(crate) fn has(&self, key: &[u8]) -> bool {
        let up_to = (Bound::Unbounded, Bound::Included(key));
        let last = self.0.range::<[u8], _>(up_to).next_back();
        last.is_some_and(|(_, end)| end.as_ref().is_none_or(|end| *key < **end))
    }

    /// From where to where.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.0.iter().map(|(start, end)| (&**start, end.as_deref()))
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds a range, in time that goes by how many it touches: where it begins now, and those in whose place it is.
    fn add(&mut self, start: &[u8], end: Option<&[u8]>) -> (Key, Vec<(Key, Option<Key>)>) {
        let before = (Bound::Unbounded, Bound::Included(start));
        let before = self.0.range::<[u8], _>(before).next_back();
        let reaches = |until: &Option<Key>| until.as_ref().is_none_or(|until| **until >= *start);
        let first = match before {
            Some((other, until)) if reaches(until) => Key::clone(other),
            _ => Key::from(start),
        };
        let up_to = end.map_or(Bound::Unbounded, Bound::Included);
        let touched = match end {
            Some(end) if *end < *first => Vec::new(),
            _ => {
                let touched = self.0.range::<[u8], _>((Bound::Included(&*first), up_to));
                touched
                    .map(|(at, until)| (Key::clone(at), until.clone()))
                    .collect()
            }
        };
        let mut end = end.map(Key::from);
        for (at, until) in &touched {
            self.0.remove(at);
            end = match (end, until) {
                (Some(end), Some(until)) => Some(end.max(Key::clone(until))),
                _ => None,
            };
        }
        self.0.insert(Key::clone(&first), end);
        (first, touched)
    }

    /// Takes back an addition.
    fn take_back(&mut self, first: &Key, touched: Vec<(Key, Option<Key>)>) {
        self.0.remove(first);
        self.0.extend(touched);
    }
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
        let is_empty =
            |writes: &Writes| writes.deleted.len() == 0 && writes.iter().next().is_none();
        self.databases.iter().all(|(_, writes)| is_empty(writes))
    }

    /// Memory that it takes, about.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.bytes + self.undo.capacity() * size_of::<(usize, Undo)>()
    }

    pub(crate) fn of(&self, db: DatabaseIndex) -> Option<&Writes> {
        self.databases
            .iter()
            .find(|(of, _)| *of == db)
            .map(|(_, writes)| writes)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (DatabaseIndex, &Writes)> {
        self.databases.iter().map(|(db, writes)| (*db, writes))
    }

    /// What it leaves of `key` from now on.
    pub(crate) fn insert(&mut self, db: DatabaseIndex, key: Key, write: Write) {
        let bytes = self.bytes;
        self.bytes += WRITE_BYTES + key.len() + write.bytes();
        let (kept, marked) = (Key::clone(&key), self.marks > 0);
        let before = self.of_mut(db).replace(key, Some(write));
        if marked {
            // The memory that what was there took is its, as long as it may come back.
            self.undo.push((bytes, Undo::Write(db, kept, before)));
        }
    }

    /// Appends to the value that it leaves of `key`; its length, if it leaves one.
    pub(crate) fn append(&mut self, db: DatabaseIndex, key: &[u8], tail: &[u8]) -> Option<usize> {
        let writes = self.existing(db)?;
        let (before, len) = match writes.get_mut(key)? {
            Write::Put(value, _) => {
                let before = value.len();
                value.append(tail);
                (before, value.len())
            }
            Write::Grown(grown) => {
                let before = grown.tail.len();
                grown.tail.extend_from_slice(tail);
                (before, grown.len())
            }
            Write::Delete => return None,
        };
        let bytes = self.bytes;
        self.bytes += tail.len();
        if self.marks > 0 {
            self.undo
                .push((bytes, Undo::Shorten(db, key.into(), before)));
        }
        Some(len)
    }

    /// Sets the expiry of the value that it leaves of `key`; false if it leaves none.
    pub(crate) fn expire(&mut self, db: DatabaseIndex, key: &[u8], at_ms: Option<i64>) -> bool {
        let write = self.existing(db).and_then(|writes| writes.get_mut(key));
        let before = match write {
            Some(Write::Put(_, at)) => core::mem::replace(at, at_ms),
            Some(Write::Grown(grown)) => core::mem::replace(&mut grown.expires_at_ms, at_ms),
            Some(Write::Delete) | None => return false,
        };
        if self.marks > 0 {
            self.undo
                .push((self.bytes, Undo::Expire(db, key.into(), before)));
        }
        true
    }

    /// Deletes every key from `start` on, up to `end`, not included, its own changes among them.
    pub(crate) fn delete_range(&mut self, db: DatabaseIndex, start: &[u8], end: Option<&[u8]>) {
        let (bytes, marked) = (self.bytes, self.marks > 0);
        self.bytes += WRITE_BYTES + 2 * (start.len() + end.map_or(0, <[u8]>::len));
        let writes = self.of_mut(db);
        let is_in = |key: &Key| **key >= *start && end.is_none_or(|end| **key < *end);
        let keys = writes.iter().map(|(key, _)| key).filter(|key| is_in(key));
        let keys: Vec<Key> = keys.cloned().collect();
        let (first, touched) = writes.deleted.add(start, end);
        for key in keys {
            let before = self.of_mut(db).replace(Key::clone(&key), None);
            if marked {
                self.undo.push((bytes, Undo::Write(db, key, before)));
            }
        }
        if marked {
            self.undo.push((bytes, Undo::Deleted(db, first, touched)));
        }
    }

    /// A place to which changes can be taken back, until it is [released](Self::release).
    pub(crate) fn mark(&mut self) -> Mark {
        self.marks += 1;
        Mark(self.undo.len())
    }

    /// Takes back what was changed since.
    pub(crate) fn roll_back(&mut self, to: Mark) {
        while self.undo.len() > to.0 {
            let Some((bytes, undo)) = self.undo.pop() else {
                break;
            };
            self.bytes = bytes;
            match undo {
                Undo::Write(db, key, write) => _ = self.of_mut(db).replace(key, write),
                Undo::Shorten(db, key, len) => match self.of_mut(db).get_mut(&key) {
                    Some(Write::Put(value, _)) => value.truncate(len),
                    Some(Write::Grown(grown)) => grown.tail.truncate(len),
                    Some(Write::Delete) | None => {}
                },
                Undo::Expire(db, key, at_ms) => match self.of_mut(db).get_mut(&key) {
                    Some(Write::Put(_, at)) => *at = at_ms,
                    Some(Write::Grown(grown)) => grown.expires_at_ms = at_ms,
                    Some(Write::Delete) | None => {}
                },
                Undo::Deleted(db, first, touched) => {
                    self.of_mut(db).deleted.take_back(&first, touched);
                }
            }
        }
    }

    /// Nobody goes back there any more. Marks are released in the opposite order of their making, or all together.
    pub(crate) fn release(&mut self, _mark: Mark) {
        self.marks = self.marks.saturating_sub(1);
        if self.marks == 0 {
            self.undo = Vec::new();
        }
    }

    fn existing(&mut self, db: DatabaseIndex) -> Option<&mut Writes> {
        let mut databases = self.databases.iter_mut();
        databases
            .find(|(of, _)| *of == db)
            .map(|(_, writes)| writes)
    }

    /// The changes to `db`, begun here if there are none.
    fn of_mut(&mut self, db: DatabaseIndex) -> &mut Writes {
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
}

impl Writes {
    /// What is deleted before keys are changed.
    pub(crate) fn deleted(&self) -> &Deleted {
        &self.deleted
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

    /// Whether what is stored of `key` does not matter.
    pub(crate) fn hides(&self, key: &[u8]) -> bool {
        self.deleted.has(key)
    }

    fn get_mut(&mut self, key: &[u8]) -> Option<&mut Write> {
        match &mut self.keys {
            Keys::Few(few) => few
                .iter_mut()
                .find(|(of, _)| **of == *key)
                .map(|(_, write)| write),
            Keys::Many(many) => many.get_mut(key),
        }
    }

    /// Puts `write` in the place of what there is.
    fn replace(&mut self, key: Key, write: Option<Write>) -> Option<Write> {
        match (&mut self.keys, write) {
            (Keys::Many(many), Some(write)) => many.insert(key, write),
            (Keys::Many(many), None) => many.remove(&key),
            (Keys::Few(few), write) => {
                let at = few.iter().position(|(of, _)| *of == key);
                match (at, write) {
                    (None, None) => None,
                    (Some(at), None) => Some(few.remove(at).1),
                    (Some(at), Some(write)) => {
                        let (_, place) = few.get_mut(at)?;
                        Some(core::mem::replace(place, write))
                    }
                    (None, Some(write)) if few.len() < FEW => {
                        few.push((key, write));
                        None
                    }
                    (None, Some(write)) => {
                        let few = core::mem::take(few).into_iter();
                        let mut many = few.collect::<BTreeMap<_, _>>();
                        many.insert(key, write);
                        self.keys = Keys::Many(many);
                        None
                    }
                }
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

    /// Keys in order, from `from` on, up to `end`, not included.
    pub(crate) fn range(
        &self,
        from: &[u8],
        end: Option<&[u8]>,
    ) -> impl DoubleEndedIterator<Item = (&Key, &Write)> {
        let (few, many) = match &self.keys {
            Keys::Few(few) => (Some(few), None),
            Keys::Many(many) => (None, Some(many)),
        };
        let few = few.into_iter().flatten().map(|(key, write)| (key, write));
        let is_in = |key: &Key| **key >= *from && end.is_none_or(|end| **key < *end);
        let few = few.filter(|(key, _)| is_in(key));
        let mut few = few.collect::<SmallVec<[_; FEW]>>();
        few.sort_unstable_by_key(|(key, _)| *key);
        // A map refuses bounds that cross.
        let end = end.map(|end| end.max(from));
        let bounds = (
            Bound::Included(from),
            end.map_or(Bound::Unbounded, Bound::Excluded),
        );
        let many = many.map(|many| many.range::<[u8], _>(bounds));
        few.into_iter().chain(many.into_iter().flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{random, short_key};

    const DB: DatabaseIndex = DatabaseIndex(3);

    /// What is left of keys, as far as it can be compared.
    type Model = (BTreeMap<Vec<u8>, Option<(Vec<u8>, Option<i64>)>>, Deleted);

    fn all(set: &WriteSet) -> Model {
        let Some(writes) = set.of(DB) else {
            return Model::default();
        };
        let keys = writes.iter().map(|(key, write)| {
            let left = match write {
                Write::Put(value, at) => Some((value.to_vec(), *at)),
                Write::Delete => None,
                Write::Grown(grown) => Some((grown.tail.clone(), grown.expires_at_ms)),
            };
            (key.to_vec(), left)
        });
        (keys.collect(), writes.deleted.clone())
    }

    /// Against a map, of which a mark keeps a copy.
    #[test]
    fn what_is_taken_back_is_as_it_was() {
        let mut random = random(5);
        for _ in 0..300 {
            let (mut set, mut marks) = (WriteSet::default(), Vec::new());
            let mut model: BTreeMap<Vec<u8>, Option<Vec<u8>>> = BTreeMap::new();
            for _ in 0..random.index(200) {
                let key = short_key(&mut random, 2);
                match random.below(12) {
                    0..=3 => {
                        let value = short_key(&mut random, 5);
                        model.insert(key.clone(), Some(value.clone()));
                        let write = Write::Put(Value::from(value), None);
                        set.insert(DB, Key::from(&key[..]), write);
                    }
                    4 => {
                        model.insert(key.clone(), None);
                        set.insert(DB, Key::from(&key[..]), Write::Delete);
                    }
                    5 | 6 => {
                        let len = set.append(DB, &key, b"tail");
                        let value = model.get_mut(&key).and_then(Option::as_mut);
                        if let Some(value) = value {
                            value.extend_from_slice(b"tail");
                            assert_eq!(len, Some(value.len()));
                        } else {
                            assert_eq!(len, None);
                        }
                    }
                    7 => {
                        let there = model.get(&key).is_some_and(Option::is_some);
                        assert_eq!(set.expire(DB, &key, Some(7)), there);
                    }
                    8 => {
                        let end = short_key(&mut random, 2);
                        let end = (!random.one_in(3)).then_some(&end[..]);
                        if end.is_none_or(|end| *key < *end) {
                            set.delete_range(DB, &key, end);
                            model
                                .retain(|at, _| *at < key || end.is_some_and(|end| &at[..] >= end));
                            assert!(set.of(DB).unwrap().hides(&key));
                        }
                    }
                    9 | 10 => marks.push((set.mark(), all(&set), model.clone())),
                    _ => {
                        if let Some((mark, before, was)) = marks.pop() {
                            if random.one_in(2) {
                                set.roll_back(mark);
                                assert_eq!(all(&set), before);
                                model = was;
                            }
                            set.release(mark);
                        }
                    }
                }
                let (found, _) = all(&set);
                let found = found
                    .into_iter()
                    .map(|(key, left)| (key, left.map(|(value, _)| value)));
                assert_eq!(found.collect::<BTreeMap<_, _>>(), model);
            }
            if marks.is_empty() {
                assert!(set.undo.is_empty());
            }
        }
    }

    #[test]
    fn deleted_ranges_that_touch_are_one() {
        let mut deleted = Deleted::default();
        deleted.add(b"b", Some(b"d"));
        deleted.add(b"f", Some(b"h"));
        assert!(deleted.has(b"b") && !deleted.has(b"d") && deleted.has(b"g"));
        deleted.add(b"d", Some(b"f"));
        assert_eq!(
            deleted.iter().collect::<Vec<_>>(),
            [(&b"b"[..], Some(&b"h"[..]))]
        );
        deleted.add(b"a", Some(b"a0"));
        deleted.add(b"c", None);
        assert_eq!(deleted.len(), 2);
        assert!(deleted.has(b"zzz") && deleted.has(b"a") && !deleted.has(b"a0"));
        deleted.add(b"", None);
        assert_eq!(deleted.iter().collect::<Vec<_>>(), [(&b""[..], None)]);
    }

    #[test]
    fn few_keys_and_many_behave_alike() {
        for count in [1, FEW, FEW + 1, 50] {
            let mut set = WriteSet::default();
            let key = |number: usize| Key::from(alloc::format!("{number:02}").as_bytes());
            for number in (0..count).rev() {
                set.insert(DB, key(number), Write::Delete);
                set.insert(DB, key(number), Write::Put(Value::from(&b"v"[..]), None));
            }
            let writes = set.of(DB).unwrap();
            assert_eq!(writes.iter().count(), count);
            assert!(
                writes
                    .iter()
                    .all(|(_, write)| matches!(write, Write::Put(..)))
            );
            assert!(writes.get(&key(count)).is_none() && writes.get(&key(0)).is_some());
            let in_order = writes.range(&[], None).map(|(key, _)| Key::clone(key));
            assert_eq!(
                in_order.collect::<Vec<_>>(),
                (0..count).map(key).collect::<Vec<_>>()
            );
            let behind_first = [&key(0)[..], &[0]].concat();
            assert_eq!(writes.range(&behind_first, None).count(), count - 1);
            assert_eq!(writes.range(&[], Some(&key(0))).count(), 0);
            assert!(set.of(DatabaseIndex(0)).is_none());
        }
    }
}

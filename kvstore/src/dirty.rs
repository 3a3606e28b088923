//! What was changed since the last flush: keys, and databases that were emptied.
//!
//! Keys are gathered in chunks, each sorted when it is full, and merged when they are walked. Adding
//! one costs little; that is on the way of every first write to a key after a flush.

use alloc::collections::BinaryHeap;
use alloc::vec::Vec;
use core::cmp::Reverse;

use crate::per_database::PerDatabase;
use crate::{DatabaseIndex, Key};

/// Keys of a chunk: sorting one takes well below a millisecond.
const CHUNK_KEYS: usize = 512;

/// Memory of a dirty key beyond the key itself.
const KEY_BYTES: usize = 2 * size_of::<Key>();

/// Changes since the last flush.
#[derive(Default)]
pub(crate) struct Dirty {
    databases: PerDatabase<DirtyDatabase>,
    key_count: usize,
}

/// Changes to one database: maybe it was emptied, then keys were changed.
#[derive(Default)]
pub(crate) struct DirtyDatabase {
    pub cleared: bool,
    /// Sorted, all but the last. A key can occur in several.
    chunks: Vec<Vec<Key>>,
}

impl Dirty {
    pub(crate) fn add(&mut self, db: DatabaseIndex, key: Key) {
        self.key_count += 1;
        let chunks = &mut self.databases.of_mut(db).chunks;
        match chunks.last_mut() {
            Some(open) if open.len() < CHUNK_KEYS => open.push(key),
            full => {
                if let Some(full) = full {
                    full.sort_unstable();
                }
                let mut open = Vec::with_capacity(CHUNK_KEYS);
                open.push(key);
                chunks.push(open);
            }
        }
    }

    /// The database was emptied: what was changed before no longer matters. Returns it, since freeing
    /// many keys takes its time.
    #[must_use]
    pub(crate) fn clear(&mut self, db: DatabaseIndex) -> Vec<Vec<Key>> {
        let database = self.databases.of_mut(db);
        self.key_count -= database.chunks.iter().map(Vec::len).sum::<usize>();
        database.cleared = true;
        core::mem::take(&mut database.chunks)
    }

    /// All keys, to be freed step by step.
    pub(crate) fn into_chunks(self) -> impl Iterator<Item = Vec<Key>> {
        self.databases
            .into_iter()
            .flat_map(|(_, database)| database.chunks)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.key_count == 0 && !self.databases.iter().any(|(_, database)| database.cleared)
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.key_count * KEY_BYTES
    }

    /// Makes ready to be walked.
    pub(crate) fn seal(&mut self) {
        for database in self.databases.iter_mut() {
            if let Some(open) = database.chunks.last_mut() {
                open.sort_unstable();
            }
        }
    }

    pub(crate) fn databases(&self) -> impl Iterator<Item = (DatabaseIndex, &DirtyDatabase)> {
        self.databases.iter()
    }

    /// Adds `older`, which came before.
    pub(crate) fn merge_older(&mut self, older: Self) {
        for (db, database) in older.databases.into_iter() {
            let now = self.databases.of_mut(db);
            if now.cleared {
                // Everything before was emptied since.
                continue;
            }
            now.cleared = database.cleared;
            self.key_count += database.chunks.iter().map(Vec::len).sum::<usize>();
            // In front: the last chunk is the one that is still open.
            now.chunks.splice(0..0, database.chunks);
        }
    }
}

impl DirtyDatabase {
    /// The keys in order, each once. Only after [`Dirty::seal`].
    pub(crate) fn keys(&self) -> impl Iterator<Item = &Key> {
        let mut chunks = self
            .chunks
            .iter()
            .map(|chunk| chunk.iter())
            .collect::<Vec<_>>();
        let heads = chunks.iter_mut().enumerate();
        let mut heads = heads
            .filter_map(|(at, chunk)| Some(Reverse((chunk.next()?, at))))
            .collect::<BinaryHeap<_>>();
        let mut last: Option<&Key> = None;
        core::iter::from_fn(move || {
            loop {
                let mut head = heads.peek_mut()?;
                let Reverse((key, at)) = *head;
                match chunks.get_mut(at).and_then(Iterator::next) {
                    Some(next) => *head = Reverse((next, at)),
                    None => drop(alloc::collections::binary_heap::PeekMut::pop(head)),
                }
                if last != Some(key) {
                    last = Some(key);
                    return last;
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DB: DatabaseIndex = DatabaseIndex(1);

    fn key(number: usize) -> Key {
        Key::from(alloc::format!("{number:05}").as_bytes())
    }

    fn walk(dirty: &mut Dirty) -> Vec<Key> {
        dirty.seal();
        let (_, database) = dirty.databases().find(|(db, _)| *db == DB).unwrap();
        database.keys().cloned().collect()
    }

    #[test]
    fn keys_come_in_order_and_once() {
        let mut dirty = Dirty::default();
        for number in 0..3000 {
            dirty.add(DB, key(number * 7 % 2000));
        }
        assert_eq!(walk(&mut dirty), (0..2000).map(key).collect::<Vec<_>>());
        drop(dirty.clear(DB));
        assert!(walk(&mut dirty).is_empty() && !dirty.is_empty());
        assert_eq!(dirty.memory_bytes(), 0);
    }

    #[test]
    fn what_could_not_be_flushed_comes_back_unless_it_was_emptied_since() {
        let (mut older, mut newer) = (Dirty::default(), Dirty::default());
        older.add(DB, key(2));
        older.seal();
        newer.add(DB, key(1));
        newer.merge_older(older);
        newer.add(DB, key(0));
        assert_eq!(walk(&mut newer), [key(0), key(1), key(2)]);
        let mut emptied = Dirty::default();
        drop(emptied.clear(DB));
        emptied.add(DB, key(5));
        emptied.merge_older(newer);
        assert_eq!(walk(&mut emptied), [key(5)]);
    }
}

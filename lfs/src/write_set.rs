//! What a transaction changes, and what it has loaded.
//!
//! A write set that serves several operations in a row can be taken back to where one of them began
//! ([`WriteSet::mark`], [`WriteSet::roll_back`]): every change then notes what was there before. Taking back costs
//! what the changes cost.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::rc::Rc;
use alloc::vec::Vec;

use crate::tree::Held;
use crate::volume::Volume;
use crate::{ItemKey, StoredRange};

/// What a transaction has loaded; keeps it in memory until the transaction is through, so that running it again
/// gets further each time.
#[derive(Default)]
pub struct Loaded {
    pub(crate) nodes: Held,
    /// With the use of their segment that they were read in: the cleaner may have moved them meanwhile, and
    /// something else be there now.
    pub(crate) data: BTreeMap<StoredRange, (u32, Rc<[u8]>)>,
    data_bytes: usize,
    /// Data that all copies were asked for: what is wrong with them now is so everywhere.
    pub(crate) verified: BTreeSet<StoredRange>,
}

impl Loaded {
    /// Memory that it keeps.
    pub fn memory_bytes(&self) -> usize {
        self.nodes.len() * crate::BLOCK_SIZE + self.data_bytes
    }

    /// Forgets data whose place may hold something else by now.
    pub(crate) fn refresh(&mut self, volume: &Volume) {
        let data_bytes = &mut self.data_bytes;
        self.data.retain(|range, (read_in, bytes)| {
            let current = *read_in == volume.use_of(range.address);
            *data_bytes -= if current { 0 } else { bytes.len() };
            current
        });
        let data = &self.data;
        self.verified.retain(|range| data.contains_key(range));
    }

    /// Keeps data that were asked for in that use of their segment.
    pub(crate) fn keep(&mut self, range: StoredRange, asked_in: u32, bytes: Rc<[u8]>) {
        self.data_bytes += bytes.len();
        if let Some((_, before)) = self.data.insert(range, (asked_in, bytes)) {
            self.data_bytes -= before.len();
        }
    }
}

/// What a transaction changes.
#[derive(Default)]
pub(crate) struct WriteSet {
    pub items: BTreeMap<ItemKey, Option<Vec<u8>>>,
    /// New data of files by object and offset, without overlap.
    pub data: BTreeMap<(u64, u64), Staged>,
    /// Bytes of all that, roughly.
    pub bytes: usize,
    pub next_object: u64,
    /// It comes after something was removed, and never finds the disk full.
    pub tidying: bool,
    /// What changes since the mark have replaced, if there is one.
    undo: Option<Vec<Undo>>,
}

/// A change, to be taken back.
enum Undo {
    /// The set said this of an item: a value, or its removal.
    Item(ItemKey, Option<Vec<u8>>),
    /// The set said nothing of an item.
    NoItem(ItemKey),
    Data((u64, u64), Option<Staged>),
}

/// Where a write set can be taken back to.
pub(crate) struct Mark {
    bytes: usize,
    next_object: u64,
}

/// A range of a file as a transaction leaves it.
#[derive(Clone)]
pub(crate) struct Staged {
    pub len: u64,
    /// Its data, from that byte on; without, there are none.
    pub data: Option<(Rc<[u8]>, usize)>,
}

impl Staged {
    fn part(&self, from: u64, len: u64) -> Self {
        let skip = usize::try_from(from).unwrap_or(usize::MAX);
        let data = self.data.as_ref();
        Self {
            len,
            data: data.map(|(bytes, at)| (Rc::clone(bytes), at.saturating_add(skip))),
        }
    }

    /// The data; nothing where there are none.
    pub(crate) fn bytes(&self) -> Option<&[u8]> {
        let (bytes, at) = self.data.as_ref()?;
        let len = usize::try_from(self.len).ok()?;
        bytes.get(*at..at.checked_add(len)?)
    }
}

impl WriteSet {
    /// No changes; the first object created gets the number `next_object`.
    pub(crate) fn new(next_object: u64) -> Self {
        Self {
            next_object,
            ..Self::default()
        }
    }

    /// Whether it changes nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty() && self.data.is_empty()
    }

    /// From here on changes can be taken back.
    pub(crate) fn mark(&mut self) -> Mark {
        self.undo = Some(Vec::new());
        Mark {
            bytes: self.bytes,
            next_object: self.next_object,
        }
    }

    /// The changes since the mark stay.
    pub(crate) fn release_mark(&mut self) {
        self.undo = None;
    }

    /// Takes back all changes since `mark`, which is the last one made.
    pub(crate) fn roll_back(&mut self, mark: &Mark) {
        for undo in self.undo.take().into_iter().flatten().rev() {
            match undo {
                Undo::Item(key, value) => drop(self.items.insert(key, value)),
                Undo::NoItem(key) => drop(self.items.remove(&key)),
                Undo::Data(key, Some(staged)) => drop(self.data.insert(key, staged)),
                Undo::Data(key, None) => drop(self.data.remove(&key)),
            }
        }
        self.bytes = mark.bytes;
        self.next_object = mark.next_object;
    }

    /// Sets an item, or notes that it is removed.
    pub(crate) fn set_item(&mut self, key: ItemKey, value: Option<Vec<u8>>) {
        let before = self.items.insert(key, value);
        if let Some(undo) = &mut self.undo {
            undo.push(match before {
                Some(value) => Undo::Item(key, value),
                None => Undo::NoItem(key),
            });
        }
    }

    /// Sets what is staged at a place, or takes it out.
    fn set_data(&mut self, key: (u64, u64), staged: Option<Staged>) {
        let before = match staged {
            Some(staged) => self.data.insert(key, staged),
            None => self.data.remove(&key),
        };
        if let Some(undo) = &mut self.undo {
            undo.push(Undo::Data(key, before));
        }
    }

    /// Sets a range of a file, in place of whatever was staged there.
    pub(crate) fn stage(&mut self, object: u64, offset: u64, staged: Staged) {
        let end = offset.saturating_add(staged.len);
        let before = self
            .data
            .range((object, 0)..(object, offset))
            .next_back()
            .map(|(&(_, at), _)| at);
        let from = before.unwrap_or(offset).min(offset);
        let overlapped = self
            .data
            .range((object, from)..(object, end))
            .map(|(&(_, at), staged)| (at, staged.clone()))
            .filter(|(at, staged)| at.saturating_add(staged.len) > offset)
            .collect::<Vec<_>>();
        for (at, old) in overlapped {
            self.set_data((object, at), None);
            let old_end = at.saturating_add(old.len);
            if at < offset {
                self.set_data((object, at), Some(old.part(0, offset - at)));
            }
            if old_end > end {
                let rest = old.part(end - at, old_end - end);
                self.set_data((object, end), Some(rest));
            }
        }
        self.set_data((object, offset), Some(staged));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ItemKind;
    use crate::sim::Random;

    type Content = (Vec<(ItemKey, Option<Vec<u8>>)>, Vec<((u64, u64), Vec<u8>)>);

    fn content(set: &WriteSet) -> Content {
        let items = set
            .items
            .iter()
            .map(|(key, value)| (*key, value.clone()))
            .collect();
        let data = set.data.iter().map(|(key, staged)| {
            let mut bytes = staged.len.to_le_bytes().to_vec();
            bytes.extend_from_slice(staged.bytes().unwrap_or_default());
            (*key, bytes)
        });
        (items, data.collect())
    }

    fn change(set: &mut WriteSet, random: &mut Random) {
        let number = random.next_u64();
        if random.one_in(2) {
            let key = ItemKey::new(random.below(3), ItemKind::Inline, random.below(4));
            let value = random.one_in(2).then(|| number.to_le_bytes().to_vec());
            set.set_item(key, value);
        } else {
            let len = 1 + random.below(20);
            let bytes = number.to_le_bytes().repeat(4);
            let data = random.one_in(2).then(|| (Rc::from(&*bytes), 0));
            set.stage(random.below(2), random.below(40), Staged { len, data });
        }
        set.bytes += 10;
        set.next_object += 1;
    }

    #[test]
    fn changes_since_a_mark_are_taken_back_exactly_and_others_stay() {
        let mut random = Random::new(5);
        let mut set = WriteSet::new(7);
        for round in 0..500 {
            let before = (content(&set), set.bytes, set.next_object);
            let mark = set.mark();
            for _ in 0..random.below(12) {
                change(&mut set, &mut random);
            }
            if round % 3 == 0 {
                set.release_mark();
            } else {
                set.roll_back(&mark);
                assert_eq!((content(&set), set.bytes, set.next_object), before);
            }
            if round % 50 == 0 {
                set = WriteSet::new(7);
            }
        }
    }
}

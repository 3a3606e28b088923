//! What a transaction changes, and what it has loaded.
//!
//! A write set that serves several operations in a row can be taken back to where one of them began
//! ([`WriteSet::mark`], [`WriteSet::roll_back`]): while there are marks, every change notes what was there before. Marks
//! are nested. Taking back costs what the changes cost.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::rc::Rc;
use alloc::vec::Vec;

use super::seen::UnseenRanges;
use super::volume::Volume;
use crate::tree::Held;
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
    /// Where there is nothing to be seen.
    pub(crate) unseen: UnseenRanges,
    /// A checkpoint was waited for because the disk seemed full: once, however many follow.
    pub(crate) after_checkpoint: bool,
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
    /// Bytes of values and data.
    pub bytes: usize,
    /// Room that ranges without data free: a commit goes through each piece in them.
    pub freed: u64,
    pub next_object: u64,
    /// It comes after something was removed, and never finds the disk full.
    pub tidying: bool,
    /// What changes since the first mark have replaced.
    undo: Vec<Undo>,
    undo_bytes: usize,
    marks: usize,
}

/// A change, to be taken back.
enum Undo {
    /// The set said this of an item: a value, or its removal.
    Item(ItemKey, Option<Vec<u8>>),
    /// The set said nothing of an item.
    NoItem(ItemKey),
    Data((u64, u64), Option<Staged>),
}

impl Undo {
    /// What it takes in memory, roughly.
    fn memory_bytes(&self) -> usize {
        let content = match self {
            Self::Item(_, value) => value.as_ref().map_or(0, Vec::len),
            Self::NoItem(_) => 0,
            Self::Data(_, staged) => staged.as_ref().map_or(0, Staged::data_bytes),
        };
        ENTRY_BYTES + content
    }
}

/// Values of some items, of each in an order of their own.
pub(crate) type Versions = BTreeMap<ItemKey, Vec<Vec<u8>>>;

/// Where a write set can be taken back to.
#[must_use]
pub(crate) struct Mark {
    undo: usize,
    freed: u64,
    next_object: u64,
}

/// What an item or a range takes in memory besides its content, and at most in a commit, roughly.
const ENTRY_BYTES: usize = 96;

/// A range of a file as a transaction leaves it.
#[derive(Clone)]
pub(crate) struct Staged {
    pub len: u64,
    /// Its data, from that byte on; without, there are none.
    pub data: Option<(Rc<[u8]>, usize)>,
}

impl Staged {
    /// A part of it. A small part does not keep the whole in memory.
    fn part(&self, from: u64, len: u64) -> Self {
        let skip = usize::try_from(from).unwrap_or(usize::MAX);
        let part = self.data.as_ref().map(|(bytes, at)| Self {
            len,
            data: Some((Rc::clone(bytes), at.saturating_add(skip))),
        });
        let Some(part) = part else {
            return Self { len, data: None };
        };
        let whole = part.data.as_ref().map_or(0, |(bytes, _)| bytes.len());
        match part.bytes() {
            Some(bytes) if bytes.len() < whole / 2 => Self {
                len,
                data: Some((Rc::from(bytes), 0)),
            },
            _ => part,
        }
    }

    fn data_bytes(&self) -> usize {
        self.bytes().map_or(0, <[u8]>::len)
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

    /// What a commit of it takes in the log at most, roughly: of data that do not compress, with a key.
    pub(crate) fn commit_bytes(&self) -> usize {
        self.bytes + self.bytes / 128 + (self.items.len() + self.data.len()) * ENTRY_BYTES
    }

    /// What it takes in memory, roughly.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.commit_bytes() + self.undo_bytes
    }

    /// From here on changes can be taken back.
    pub(crate) fn mark(&mut self) -> Mark {
        self.marks += 1;
        Mark {
            undo: self.undo.len(),
            freed: self.freed,
            next_object: self.next_object,
        }
    }

    /// The changes since the mark stay, as far as those marks go that are left.
    pub(crate) fn release_mark(&mut self, _: Mark) {
        self.marks -= 1;
        if self.marks == 0 {
            self.undo = Vec::new();
            self.undo_bytes = 0;
        }
    }

    /// Takes back all changes since `mark`, which stays. Later marks are of no use but to be released.
    pub(crate) fn roll_back(&mut self, mark: &Mark) {
        while self.undo.len() > mark.undo
            && let Some(undo) = self.undo.pop()
        {
            self.undo_bytes -= undo.memory_bytes();
            match undo {
                Undo::Item(key, value) => drop(self.swap_item(key, Some(value))),
                Undo::NoItem(key) => drop(self.swap_item(key, None)),
                Undo::Data(key, staged) => drop(self.swap_data(key, staged)),
            }
        }
        self.freed = mark.freed;
        self.next_object = mark.next_object;
    }

    /// Sets an item, or notes that it is removed.
    pub(crate) fn set_item(&mut self, key: ItemKey, value: Option<Vec<u8>>) {
        let before = self.swap_item(key, Some(value));
        self.note(match before {
            Some(value) => Undo::Item(key, value),
            None => Undo::NoItem(key),
        });
    }

    /// Sets what is staged at a place, or takes it out.
    fn set_data(&mut self, key: (u64, u64), staged: Option<Staged>) {
        let before = self.swap_data(key, staged);
        self.note(Undo::Data(key, before));
    }

    fn note(&mut self, undo: Undo) {
        if self.marks > 0 {
            self.undo_bytes += undo.memory_bytes();
            self.undo.push(undo);
        }
    }

    /// Sets what the set says of an item: a value, its removal, or nothing.
    #[expect(clippy::option_option, reason = "as in the map")]
    fn swap_item(
        &mut self,
        key: ItemKey,
        said: Option<Option<Vec<u8>>>,
    ) -> Option<Option<Vec<u8>>> {
        let len =
            |said: &Option<Option<Vec<u8>>>| said.iter().flatten().map(Vec::len).sum::<usize>();
        self.bytes += len(&said);
        let before = match said {
            Some(value) => self.items.insert(key, value),
            None => self.items.remove(&key),
        };
        self.bytes -= len(&before);
        before
    }

    fn swap_data(&mut self, key: (u64, u64), staged: Option<Staged>) -> Option<Staged> {
        let len = |staged: &Option<Staged>| staged.as_ref().map_or(0, Staged::data_bytes);
        self.bytes += len(&staged);
        let before = match staged {
            Some(staged) => self.data.insert(key, staged),
            None => self.data.remove(&key),
        };
        self.bytes -= len(&before);
        before
    }

    /// All values of these items: of each the one it has, and then those that it gets when changes are taken back.
    pub(crate) fn versions_of(&self, keys: impl Iterator<Item = ItemKey>) -> Versions {
        let now = |key| {
            let now = self.items.get(&key).into_iter().flatten();
            (key, now.cloned().collect())
        };
        let mut versions = keys.map(now).collect::<Versions>();
        for undo in &self.undo {
            if let Undo::Item(key, Some(value)) = undo
                && let Some(versions) = versions.get_mut(key)
            {
                versions.push(value.clone());
            }
        }
        versions
    }

    /// Puts others in place of [all values of these items](Self::versions_of), in the same order; gives back those that
    /// were there.
    pub(crate) fn swap_versions(&mut self, versions: Versions) -> Versions {
        let mut before = Versions::new();
        let versions = versions.into_iter().map(|(key, of)| (key, of.into_iter()));
        let mut versions = versions.collect::<BTreeMap<_, _>>();
        for (key, versions) in &mut versions {
            if let Some(Some(value)) = self.items.get_mut(key)
                && let Some(version) = versions.next()
            {
                self.bytes = self.bytes + version.len() - value.len();
                let old = core::mem::replace(value, version);
                before.entry(*key).or_default().push(old);
            }
        }
        for undo in &mut self.undo {
            if let Undo::Item(key, Some(value)) = undo
                && let Some(version) = versions.get_mut(key).and_then(Iterator::next)
            {
                self.undo_bytes = self.undo_bytes + version.len() - value.len();
                let old = core::mem::replace(value, version);
                before.entry(*key).or_default().push(old);
            }
        }
        before
    }

    /// What is staged at a byte of an object: where that ends, and whether it is data.
    pub(crate) fn staged_at(&self, object: u64, offset: u64) -> Option<(u64, bool)> {
        let before = self.data.range((object, 0)..=(object, offset)).next_back();
        let (&(_, start), staged) = before?;
        let end = start.saturating_add(staged.len);
        (end > offset).then_some((end, staged.data.is_some()))
    }

    /// Where the next range of an object begins that is staged, behind `offset`.
    pub(crate) fn staged_behind(&self, object: u64, offset: u64) -> Option<u64> {
        let mut behind = self.data.range((object, offset)..=(object, u64::MAX));
        behind.next().map(|(&(_, start), _)| start)
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
        set.next_object += 1;
    }

    /// Bytes as they are when counted anew.
    fn counted(set: &WriteSet) -> usize {
        let items = set.items.values().flatten().map(Vec::len);
        let data = set.data.values().map(Staged::data_bytes);
        items.chain(data).sum()
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
            if round % 3 != 0 {
                set.roll_back(&mark);
                assert_eq!((content(&set), set.bytes, set.next_object), before);
            }
            set.release_mark(mark);
            assert_eq!(set.bytes, counted(&set));
            assert_eq!(set.undo_bytes, 0);
            if round % 50 == 0 {
                set = WriteSet::new(7);
            }
        }
    }

    #[test]
    fn marks_nest_and_one_that_was_rolled_back_to_serves_again() {
        let mut random = Random::new(6);
        for _ in 0..100 {
            let mut set = WriteSet::new(7);
            let mut marks: Vec<(Mark, Content)> = Vec::new();
            for _ in 0..60 {
                match random.below(8) {
                    0 => {
                        let mark = set.mark();
                        marks.push((mark, content(&set)));
                    }
                    1 if !marks.is_empty() => {
                        let place = random.index(marks.len());
                        set.roll_back(&marks[place].0);
                        assert_eq!(content(&set), marks[place].1);
                        for (later, _) in marks.drain(place + 1..) {
                            set.release_mark(later);
                        }
                    }
                    2 if !marks.is_empty() => {
                        let place = random.index(marks.len());
                        for (mark, _) in marks.drain(place..) {
                            set.release_mark(mark);
                        }
                    }
                    _ => change(&mut set, &mut random),
                }
                let undo = set.undo.iter().map(Undo::memory_bytes).sum::<usize>();
                assert_eq!((set.bytes, set.undo_bytes), (counted(&set), undo));
            }
        }
    }

    #[test]
    fn what_is_left_of_a_range_that_was_written_over_keeps_about_as_much_memory_as_it_is_long() {
        let mut set = WriteSet::new(1);
        let staged = |len: usize| Staged {
            len: len as u64,
            data: Some((Rc::from(alloc::vec![1; len]), 0)),
        };
        set.stage(1, 0, staged(65_536));
        set.stage(1, 4096, staged(61_440));
        let kept = set.data.values().filter_map(|staged| staged.data.as_ref());
        let kept = kept.map(|(bytes, _)| bytes.len()).sum::<usize>();
        assert_eq!(kept, 65_536);
    }
}

//! What a transaction has read: ranges of items, and directories it came through.
//!
//! Ranges that touch are one, so a directory listed in a thousand steps is one range. A point is a range of one item.
//! What was found and where nothing was found is the same: any change in a range counts, so names that
//! appear in it do, too.

use alloc::collections::{BTreeMap, BTreeSet};

use super::recent::Recent;
use crate::{FileError, ItemKey};

/// Ranges and directories that one transaction remembers at most.
const READS_MAX: usize = 65_536;

/// What one range takes in memory, roughly.
const READ_BYTES: usize = 64;

/// See the module.
#[derive(Default)]
pub(crate) struct ReadSet {
    /// Whether ranges are kept: for the others, nobody asks for them.
    serializable: bool,
    /// First and last item, without overlap.
    ranges: BTreeMap<ItemKey, ItemKey>,
    passages: BTreeSet<ItemKey>,
}

impl ReadSet {
    pub(crate) fn new(serializable: bool) -> Self {
        Self {
            serializable,
            ..Self::default()
        }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        (self.ranges.len() + self.passages.len()) * READ_BYTES
    }

    /// Notes that all items from the first to the last were seen, or seen not to be there.
    ///
    /// # Errors
    /// [`FileError::TransactionTooLarge`].
    pub(crate) fn add(&mut self, mut first: ItemKey, mut last: ItemKey) -> Result<(), FileError> {
        if !self.serializable || first > last {
            return Ok(());
        }
        if let Some((&before, &end)) = self.ranges.range(..=first).next_back()
            && (end >= first || follows(end, first))
        {
            if end >= last {
                return Ok(());
            }
            first = before;
        }
        while let Some((&next, &end)) = self.ranges.range(first..).next()
            && (next <= last || follows(last, next))
        {
            last = last.max(end);
            self.ranges.remove(&next);
        }
        self.check_room()?;
        self.ranges.insert(first, last);
        Ok(())
    }

    /// Notes that an inode was looked at for what it is and where.
    ///
    /// # Errors
    /// [`FileError::TransactionTooLarge`].
    pub(crate) fn add_passage(&mut self, key: ItemKey) -> Result<(), FileError> {
        if !self.passages.contains(&key) {
            self.check_room()?;
            self.passages.insert(key);
        }
        Ok(())
    }

    fn check_room(&self) -> Result<(), FileError> {
        if self.ranges.len() + self.passages.len() >= READS_MAX {
            return Err(FileError::TransactionTooLarge);
        }
        Ok(())
    }

    /// Something that was read and that a commit after `seen` changed, with that commit.
    pub(super) fn read_changed(&self, recent: &Recent, seen: u64) -> Option<(ItemKey, u64)> {
        let mut ranges = self.ranges.iter();
        ranges.find_map(|(&first, &last)| recent.seen_since(first, last, seen))
    }

    /// A directory that this came through and that is another one or elsewhere since `seen`.
    pub(super) fn passage_changed(&self, recent: &Recent, seen: u64) -> Option<(ItemKey, u64)> {
        let mut passages = self.passages.iter();
        passages.find_map(|&key| Some((key, recent.moved_since(key, seen)?)))
    }
}

/// Whether no item can be between the two.
fn follows(last: ItemKey, next: ItemKey) -> bool {
    (last.object, last.kind) == (next.object, next.kind)
        && last.position.checked_add(1) == Some(next.position)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ItemKind;
    use crate::sim::Random;

    fn key(object: u64, position: u64) -> ItemKey {
        ItemKey::new(object, ItemKind::Entry, position)
    }

    #[test]
    fn ranges_cover_what_was_added_and_nothing_else_and_never_touch() {
        let mut random = Random::new(3);
        for _ in 0..200 {
            let mut reads = ReadSet::new(true);
            let mut model = BTreeSet::new();
            for _ in 0..random.below(30) {
                let object = random.below(2);
                let first = random.below(60);
                let last = first + random.below(6);
                reads.add(key(object, first), key(object, last)).unwrap();
                model.extend((first..=last).map(|position| key(object, position)));
            }
            let mut covered = BTreeSet::new();
            let mut before: Option<ItemKey> = None;
            for (&first, &last) in &reads.ranges {
                assert!(before.is_none_or(|end| end < first && !follows(end, first)));
                before = Some(last);
                covered.extend((first.position..=last.position).map(|at| key(first.object, at)));
            }
            assert_eq!(covered, model);
        }
    }

    #[test]
    fn a_listing_in_steps_is_one_range_and_scattered_reads_are_refused_at_the_bound() {
        let mut reads = ReadSet::new(true);
        for position in 0..200_000 {
            reads.add(key(1, position), key(1, position)).unwrap();
        }
        assert_eq!(reads.ranges.len(), 1);
        for position in 1..READS_MAX as u64 {
            reads
                .add(key(2, 2 * position), key(2, 2 * position))
                .unwrap();
        }
        let more = reads.add(key(3, 0), key(3, 0));
        assert_eq!(more, Err(FileError::TransactionTooLarge));
        let more = reads.add_passage(key(3, 0));
        assert_eq!(more, Err(FileError::TransactionTooLarge));
        assert!(reads.memory_bytes() <= READS_MAX * READ_BYTES);
    }
}

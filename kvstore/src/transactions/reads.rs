//! What a serializable transaction has read: ranges of engine keys.
//!
//! A key that was asked for is a point, whether it was there or not; a scan is the range from where it began to where it ended. What touches
//! is joined. At most 65,536 of them and 4 MiB.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use core::ops::Bound;

/// Points and ranges there can be.
const READS_MAX: usize = 65_536;

/// Memory they may take.
const BYTES_MAX: usize = 4 << 20;

/// Memory of a read beyond its keys: its share of the map.
const READ_BYTES: usize = 48;

/// A transaction has read more than can be remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLarge;

/// A part of what was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read<'r> {
    /// This key.
    Point(&'r [u8]),
    /// Keys from the first on, up to the second, not included.
    Range(&'r [u8], &'r [u8]),
}

/// Everything that was read. No two parts touch.
#[derive(Debug, Default)]
pub struct ReadSet {
    /// From where each begins to where it ends; `None`: a point, that is it ends before the next possible key.
    reads: BTreeMap<Box<[u8]>, Option<Box<[u8]>>>,
    bytes: usize,
}

/// The end of a read, not included: a key, or the first one that follows a key.
#[derive(Clone, Copy)]
enum End<'k> {
    Key(&'k [u8]),
    Behind(&'k [u8]),
}

impl<'k> End<'k> {
    fn of(start: &'k [u8], end: Option<&'k [u8]>) -> Self {
        end.map_or(Self::Behind(start), Self::Key)
    }

    /// Whether a read that begins with `start` would touch or overlap what ends here.
    fn reaches(self, start: &[u8]) -> bool {
        match self {
            Self::Key(end) => start <= end,
            Self::Behind(key) => start <= key || is_next(start, key),
        }
    }

    /// Whether this is at `other` or behind it.
    fn covers(self, other: Self) -> bool {
        match (self, other) {
            (Self::Key(end), Self::Key(other)) => end >= other,
            // The next key after `other` is the first that is greater.
            (Self::Key(end), Self::Behind(other)) => end > other,
            (Self::Behind(key), End::Key(other)) => key >= other || is_next(other, key),
            (Self::Behind(key), End::Behind(other)) => key >= other,
        }
    }
}

/// Whether `next` is the first key that follows `key`.
fn is_next(next: &[u8], key: &[u8]) -> bool {
    matches!(next.split_last(), Some((0, prefix)) if prefix == key)
}

impl ReadSet {
    /// Keys from `start` on, up to `end`, not included, were read.
    ///
    /// # Errors
    /// When there is no room for it; nothing has changed then.
    pub fn add(&mut self, start: &[u8], end: &[u8]) -> Result<(), TooLarge> {
        if start >= end {
            return Ok(());
        }
        if is_next(end, start) {
            return self.add_point(start);
        }
        self.join(start, End::Key(end))
    }

    /// `key` was read.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn add_point(&mut self, key: &[u8]) -> Result<(), TooLarge> {
        self.join(key, End::Behind(key))
    }

    /// Everything that was read, in order.
    pub fn ranges(&self) -> impl Iterator<Item = Read<'_>> {
        let reads = self.reads.iter();
        reads.map(|(start, end)| match end {
            None => Read::Point(start),
            Some(end) => Read::Range(start, end),
        })
    }

    /// Whether `key` is among what was read.
    pub fn has(&self, key: &[u8]) -> bool {
        let before = (Bound::Unbounded, Bound::Included(key));
        let last = self.reads.range::<[u8], _>(before).next_back();
        last.is_some_and(|(from, to)| End::of(from, to.as_deref()).covers(End::Behind(key)))
    }

    /// Whether nothing was read.
    pub fn is_empty(&self) -> bool {
        self.reads.is_empty()
    }

    /// Memory that it takes.
    pub fn memory_bytes(&self) -> usize {
        self.bytes
    }

    fn join(&mut self, start: &[u8], end: End<'_>) -> Result<(), TooLarge> {
        let (mut first, mut last) = (start, end);
        let before = (Bound::Unbounded, Bound::Included(start));
        if let Some((from, to)) = self.reads.range::<[u8], _>(before).next_back() {
            let to = End::of(from, to.as_deref());
            if to.reaches(start) {
                if to.covers(end) {
                    return Ok(());
                }
                first = from;
            }
        }
        let (mut joined, mut freed) = (0, 0);
        let touched = (Bound::Included(first), Bound::Unbounded);
        for (from, to) in self.reads.range::<[u8], _>(touched) {
            if !last.reaches(from) && **from != *first {
                break;
            }
            let to = End::of(from, to.as_deref());
            if to.covers(last) {
                last = to;
            }
            joined += 1;
            freed += read_bytes(from, to);
        }
        let bytes = self.bytes - freed + read_bytes(first, last);
        if self.reads.len() - joined + 1 > READS_MAX || bytes > BYTES_MAX {
            return Err(TooLarge);
        }
        let first: Box<[u8]> = first.into();
        let last = match last {
            End::Key(end) => Some(end.into()),
            // A point alone, or one that joined what ends where it begins.
            End::Behind(key) if *key == *first => None,
            End::Behind(key) => {
                let mut end = alloc::vec::Vec::with_capacity(key.len() + 1);
                end.extend_from_slice(key);
                end.push(0);
                Some(end.into())
            }
        };
        for _ in 0..joined {
            let next = self
                .reads
                .range::<[u8], _>((Bound::Included(&*first), Bound::Unbounded));
            let Some(next) = next.map(|(from, _)| from.clone()).next() else {
                break;
            };
            self.reads.remove(&next);
        }
        self.reads.insert(first, last);
        self.bytes = bytes;
        Ok(())
    }
}

fn read_bytes(start: &[u8], end: End<'_>) -> usize {
    let end_bytes = match end {
        End::Key(end) => end.len(),
        End::Behind(key) if key == start => 0,
        End::Behind(key) => key.len() + 1,
    };
    READ_BYTES + start.len() + end_bytes
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeSet;
    use alloc::vec::Vec;

    use super::*;
    use crate::testing::{random, short_key};

    /// All keys of up to five letters from `\0`, `a`, `b`: the model says of each whether it was read.
    fn universe() -> Vec<Vec<u8>> {
        let mut keys = alloc::vec![Vec::new()];
        let mut longest = keys.clone();
        for _ in 0..5 {
            longest = (longest.iter())
                .flat_map(|key| b"\0ab".map(|letter| [&key[..], &[letter]].concat()))
                .collect();
            keys.extend(longest.iter().cloned());
        }
        keys
    }

    fn contains(set: &ReadSet, key: &[u8]) -> bool {
        set.ranges().any(|read| match read {
            Read::Point(point) => point == key,
            Read::Range(start, end) => start <= key && key < end,
        })
    }

    #[test]
    fn covers_what_was_read_and_no_more() {
        let mut random = random(4);
        let keys = universe();
        // Shorter keys than the universe has, so that keys between any two ends are looked at.
        let short: Vec<_> = keys.iter().filter(|key| key.len() <= 3).collect();
        for _ in 0..2000 {
            let mut set = ReadSet::default();
            let mut model = BTreeSet::new();
            for _ in 0..=random.index(12) {
                let start = short[random.index(short.len())].clone();
                let end = if random.one_in(2) {
                    set.add_point(&start).unwrap();
                    [&start[..], &[0]].concat()
                } else {
                    let end = short[random.index(short.len())].clone();
                    set.add(&start, &end).unwrap();
                    end
                };
                let covered = keys.iter().filter(|key| **key >= start && **key < end);
                model.extend(covered.cloned());
            }
            for key in &keys {
                assert_eq!(
                    contains(&set, key),
                    model.contains(key),
                    "{key:?} of {set:?}"
                );
            }
            let parts: Vec<_> = set.ranges().collect();
            for pair in parts.windows(2) {
                let (Read::Point(next) | Read::Range(next, _)) = pair[1];
                let end = match pair[0] {
                    Read::Point(key) => End::Behind(key),
                    Read::Range(_, end) => End::Key(end),
                };
                assert!(!end.reaches(next), "{pair:?} touch");
            }
            let sum = parts.iter().map(|read| match *read {
                Read::Point(key) => read_bytes(key, End::Behind(key)),
                Read::Range(start, end) => read_bytes(start, End::Key(end)),
            });
            assert_eq!(set.memory_bytes(), sum.sum::<usize>());
        }
    }

    #[test]
    fn refuses_what_is_too_much_and_stays_as_it_was() {
        let mut set = ReadSet::default();
        for number in 0..65_536_u32 {
            set.add_point(&(number * 2).to_be_bytes()).unwrap();
        }
        let bytes = set.memory_bytes();
        assert_eq!(set.add_point(&[0xff]), Err(TooLarge));
        assert_eq!(set.memory_bytes(), bytes);
        // What is there, or joins what is there, needs no room.
        set.add_point(&[0; 4]).unwrap();
        set.add(&[0; 4], &[0xff]).unwrap();
        assert_eq!(set.ranges().count(), 1);
        set.add_point(&[0xff, 0xff]).unwrap();
    }

    #[test]
    fn refuses_what_takes_too_many_bytes() {
        let mut set = ReadSet::default();
        let long = |last: u8| [&alloc::vec![1; 65_534][..], &[last, last]].concat();
        let mut added = 0;
        while set.add_point(&long(added)).is_ok() {
            added += 1;
        }
        assert_eq!(added, 63);
        assert!(set.memory_bytes() <= BYTES_MAX);
        set.add(&long(0), &long(200)).unwrap();
        assert_eq!(set.ranges().count(), 1);
    }

    #[test]
    fn an_empty_range_is_nothing() {
        let mut set = ReadSet::default();
        let key = short_key(&mut random(5), 3);
        set.add(&key, &key).unwrap();
        set.add(b"b", b"a").unwrap();
        assert!(set.is_empty());
        set.add(b"a", b"a\0").unwrap();
        assert_eq!(set.ranges().collect::<Vec<_>>(), [Read::Point(b"a")]);
    }
}

//! Cuts: ranges of a file that read as zeros although the data in them has not been freed yet.
//!
//! Freeing many pieces of data takes longer than a transaction may. So a large truncation, or a large
//! hole, only notes the range in the inode, and the pieces are freed in the background. Ranges are sorted,
//! not empty, and neither overlap nor touch.

use alloc::vec::Vec;

use super::codec::{Reader, put_varint};
use super::types::FILE_BYTES_MAX;

/// Most cuts an inode may have.
pub(crate) const CUTS_MAX: usize = 32;

/// The cuts of an inode.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Cuts(Vec<(u64, u64)>);

impl Cuts {
    /// The ranges, in order, each with its end.
    pub(crate) fn ranges(&self) -> &[(u64, u64)] {
        &self.0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Where the last one ends, or 0.
    pub(crate) fn end(&self) -> u64 {
        self.0.last().map_or(0, |&(_, end)| end)
    }

    /// Adds a range.
    pub(crate) fn add(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        let (mut start, mut end) = (from, to);
        self.0.retain(|&(low, high)| {
            let apart = high < from || to < low;
            if !apart {
                start = start.min(low);
                end = end.max(high);
            }
            apart
        });
        let place = self.0.partition_point(|&(low, _)| low < start);
        self.0.insert(place, (start, end));
    }

    /// Takes a range out: what is in it holds data again, or is free. A cut can become two.
    pub(crate) fn subtract(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        let split = |&(low, high): &(u64, u64)| {
            let before = (low, high.min(from));
            let behind = (low.max(to), high);
            [before, behind]
                .into_iter()
                .filter(|&(start, end)| start < end)
        };
        self.0 = self.0.iter().flat_map(split).collect();
    }

    /// The cut that `offset` is in, or the first one behind it.
    pub(crate) fn at_or_after(&self, offset: u64) -> Option<(u64, u64)> {
        let place = self.0.partition_point(|&(_, high)| high <= offset);
        self.0.get(place).copied()
    }

    /// Appends: how many, then for each the distance from the end of the one before and its length.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.0.len() as u64);
        let mut end = 0;
        for &(low, high) in &self.0 {
            put_varint(out, low - end);
            put_varint(out, high - low);
            end = high;
        }
    }

    /// Reads what [`encode`](Self::encode) wrote.
    pub(super) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let count = usize::try_from(reader.varint()?).ok()?;
        if count == 0 || count > CUTS_MAX {
            return None;
        }
        let mut ranges = Vec::with_capacity(count);
        let mut end = 0_u64;
        for index in 0..count {
            let low = end.checked_add(reader.varint()?)?;
            let high = low.checked_add(reader.varint()?)?;
            let touches = index > 0 && low == end;
            if touches || low == high || high > FILE_BYTES_MAX {
                return None;
            }
            ranges.push((low, high));
            end = high;
        }
        Some(Self(ranges))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cuts(ranges: &[(u64, u64)]) -> Cuts {
        Cuts(ranges.to_vec())
    }

    #[test]
    fn ranges_that_overlap_or_touch_become_one() {
        let mut cut = cuts(&[(10, 20), (30, 40), (50, 60)]);
        cut.add(20, 35);
        assert_eq!(cut, cuts(&[(10, 40), (50, 60)]));
        cut.add(0, 5);
        cut.add(45, 45);
        assert_eq!(cut, cuts(&[(0, 5), (10, 40), (50, 60)]));
        cut.add(0, 100);
        assert_eq!(cut, cuts(&[(0, 100)]));
    }

    #[test]
    fn what_is_taken_out_splits_shortens_or_removes() {
        let mut cut = cuts(&[(10, 40), (50, 60)]);
        cut.subtract(20, 30);
        assert_eq!(cut, cuts(&[(10, 20), (30, 40), (50, 60)]));
        cut.subtract(0, 35);
        assert_eq!(cut, cuts(&[(35, 40), (50, 60)]));
        assert_eq!(cut.end(), 60);
        assert_eq!(cut.at_or_after(37), Some((35, 40)));
        assert_eq!(cut.at_or_after(40), Some((50, 60)));
        cut.subtract(0, 100);
        assert!(cut.is_empty());
    }

    #[test]
    fn bytes_come_back_and_ranges_that_are_out_of_order_do_not_decode() {
        let cut = cuts(&[(0, 5), (10, 40), (FILE_BYTES_MAX - 1, FILE_BYTES_MAX)]);
        let mut bytes = Vec::new();
        cut.encode(&mut bytes);
        assert_eq!(Cuts::decode(&mut Reader::new(&bytes)), Some(cut));
        for bad in [&[0][..], &[1, 3, 0], &[2, 1, 1, 0, 1], &[33], &[2, 1, 1]] {
            assert_eq!(Cuts::decode(&mut Reader::new(bad)), None);
        }
    }
}

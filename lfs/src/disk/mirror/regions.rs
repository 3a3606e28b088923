//! Sets of regions: the device cut into equal parts, a bit each, as many as a member record has room for.

use alloc::vec::Vec;
use core::ops::Range;

use super::record::BITMAP_BYTES;
use crate::BlockIndex;

/// Regions a device is cut into at most.
const REGIONS_MAX: u64 = BITMAP_BYTES as u64 * 8;

/// How a device is cut into regions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    /// Blocks of a region: a power of two.
    pub region_blocks: u32,
    /// Blocks of the device.
    pub block_count: u64,
}

impl Cut {
    /// Regions of at least `blocks_min` blocks, a power of two, as small as the bitmap allows.
    pub(super) fn new(block_count: u64, blocks_min: u32) -> Self {
        let least = block_count.div_ceil(REGIONS_MAX).max(1).next_power_of_two();
        let least = u32::try_from(least).unwrap_or(1 << 31);
        Self {
            region_blocks: least.max(blocks_min.next_power_of_two()),
            block_count,
        }
    }

    pub(super) fn count(&self) -> u32 {
        let count = self.block_count.div_ceil(u64::from(self.region_blocks));
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// The regions that these blocks touch.
    pub(super) fn touched(&self, start: BlockIndex, count: u64) -> Range<u32> {
        let region = u64::from(self.region_blocks);
        let end = start.0.saturating_add(count).min(self.block_count);
        self.bounded(start.0 / region, end.div_ceil(region))
    }

    /// The regions that lie within these blocks whole.
    pub(super) fn inside(&self, start: BlockIndex, count: u64) -> Range<u32> {
        let region = u64::from(self.region_blocks);
        let end = start.0.saturating_add(count).min(self.block_count);
        self.bounded(start.0.div_ceil(region), end / region)
    }

    fn bounded(&self, first: u64, end: u64) -> Range<u32> {
        let bound = |at: u64| u32::try_from(at).unwrap_or(u32::MAX).min(self.count());
        bound(first)..bound(end)
    }

    /// The blocks of a region.
    pub(super) fn blocks_of(&self, region: u32) -> Range<u64> {
        let start = u64::from(region) * u64::from(self.region_blocks);
        start..(start + u64::from(self.region_blocks)).min(self.block_count)
    }
}

/// Some regions of a device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Regions {
    bits: Vec<u8>,
}

impl Regions {
    /// Those whose bits are set in `bytes`, which were cut into regions of `old_blocks` blocks.
    pub(super) fn from_bytes(bytes: &[u8], old_blocks: u32, cut: Cut) -> Self {
        let mut regions = Self::default();
        let old = Cut {
            region_blocks: old_blocks.max(1),
            ..cut
        };
        for (at, byte) in bytes.iter().enumerate().filter(|(_, byte)| **byte != 0) {
            for bit in (0..8).filter(|bit| byte & 1 << bit != 0) {
                let region = u32::try_from(at * 8 + bit).unwrap_or(u32::MAX);
                let blocks = old.blocks_of(region);
                let count = blocks.end.saturating_sub(blocks.start);
                regions.extend(cut.touched(BlockIndex(blocks.start), count));
            }
        }
        regions
    }

    /// The bits, the first region's lowest.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bits
    }

    pub(super) fn insert(&mut self, region: u32) {
        let at = region as usize / 8;
        if at >= self.bits.len() {
            self.bits.resize(at + 1, 0);
        }
        if let Some(byte) = self.bits.get_mut(at) {
            *byte |= 1 << (region % 8);
        }
    }

    pub(super) fn extend(&mut self, regions: Range<u32>) {
        regions.for_each(|region| self.insert(region));
    }

    pub(super) fn remove(&mut self, region: u32) {
        if let Some(byte) = self.bits.get_mut(region as usize / 8) {
            *byte &= !(1 << (region % 8));
        }
    }

    pub(super) fn contains(&self, region: u32) -> bool {
        let byte = self.bits.get(region as usize / 8);
        byte.is_some_and(|byte| byte & 1 << (region % 8) != 0)
    }

    pub(super) fn contains_all(&self, mut regions: Range<u32>) -> bool {
        regions.all(|region| self.contains(region))
    }

    pub(super) fn unite(&mut self, other: &Self) {
        if other.bits.len() > self.bits.len() {
            self.bits.resize(other.bits.len(), 0);
        }
        for (byte, more) in self.bits.iter_mut().zip(&other.bits) {
            *byte |= more;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bits.iter().all(|byte| *byte == 0)
    }

    pub(super) fn len(&self) -> u64 {
        let ones = self.bits.iter().map(|byte| u64::from(byte.count_ones()));
        ones.sum()
    }

    /// The first region from `from` on.
    pub(super) fn next(&self, from: u32) -> Option<u32> {
        let end = u32::try_from(self.bits.len() * 8).unwrap_or(u32::MAX);
        (from..end).find(|region| self.contains(*region))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_of_any_size_is_cut_into_as_many_regions_as_there_are_bits() {
        for blocks in [1, 2048, 65_536, 1 << 20, 1 << 28, 1 << 40] {
            let cut = Cut::new(blocks, 16);
            assert!(u64::from(cut.count()) <= REGIONS_MAX, "{blocks}");
            assert!(u64::from(cut.count()) * u64::from(cut.region_blocks) >= blocks);
            assert_eq!(cut.blocks_of(cut.count() - 1).end, blocks);
        }
    }

    #[test]
    fn touched_is_generous_and_inside_is_not() {
        let cut = Cut::new(1000, 16);
        assert_eq!(cut.touched(BlockIndex(15), 2), 0..2);
        assert_eq!(cut.inside(BlockIndex(15), 2).len(), 0);
        assert_eq!(cut.inside(BlockIndex(15), 33), 1..3);
        assert_eq!(cut.touched(BlockIndex(992), 100), 62..63);
    }

    #[test]
    fn larger_regions_take_over_what_smaller_ones_said() {
        let mut small = Regions::default();
        small.insert(3);
        small.insert(62);
        let large = Regions::from_bytes(small.bytes(), 16, Cut::new(1000, 64));
        assert_eq!(
            (large.next(0), large.next(1), large.len()),
            (Some(0), Some(15), 2)
        );
        assert!(large.contains_all(15..16) && !large.contains(1));
    }
}

//! Mending stored extents unit by unit, where a device keeps two copies: each may be damaged in another place.
//!
//! A unit of data is good if it matches its checksum (or tag) in the extent's prefix. It is put together from the blocks of both
//! copies, in every way there is while these are few (as `copies` does with what is verified as a whole); what makes it good is
//! written to the copy that has it otherwise. Of a block that one copy cannot give, the other one's is tried.

use alloc::vec::Vec;
use core::ops::Range;

use crate::check::PieceAt;
use crate::disk::{PARTS_MAX, chosen_parts, read_both, take_parts};
use crate::{BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, FileSystem, StoredRange, UNIT_BYTES};

impl<D: BlockDevice> FileSystem<D> {
    /// Gives all copies what any has right of a piece's units. True when something was written. Not durable on return.
    pub(crate) async fn mend_units(&self, range: StoredRange, at: &PieceAt) -> bool {
        let block = BLOCK_SIZE as u64;
        let first = range.address / block;
        let end = (range.address + u64::from(range.len_bytes)).div_ceil(block);
        let (Ok(blocks), Ok(within)) = (
            usize::try_from(end - first),
            usize::try_from(range.address % block),
        ) else {
            return false;
        };
        let both = read_both(&self.device, BlockIndex(first), blocks).await;
        let stored = |buffer: &Buffer| {
            let end = within + range.len_bytes as usize;
            buffer.bytes().get(within..end).map(<[u8]>::to_vec)
        };
        let Some([Some(one), Some(two)]) = both.map(|both| both.each_ref().map(stored)) else {
            return false;
        };
        let mut mended = false;
        for (copy, part) in self.good_parts(range, at, [&one, &two]).await {
            let bytes = if copy == 0 { &one } else { &two };
            let address = range.address + part.start as u64;
            if let Some(good) = bytes.get(part) {
                mended |= self.device.mend(copy, address, good).await == Ok(true);
            }
        }
        mended
    }

    /// Which parts of a stored extent are good that are not the same in both copies, and in which they are.
    async fn good_parts(
        &self,
        range: StoredRange,
        at: &PieceAt,
        [one, two]: [&[u8]; 2],
    ) -> Vec<(u8, Range<usize>)> {
        let mut parts = Vec::new();
        let Some(shape) = at.piece.shape() else {
            return parts;
        };
        let identity = at.piece.identity(at.object, at.position, at.birth);
        let unit = u32::try_from(UNIT_BYTES).unwrap_or(u32::MAX);
        let end = at.piece.skip + at.piece.len;
        let mut from = at.piece.skip;
        while from < end {
            let to = ((from / unit + 1) * unit).min(end);
            let wanted = from..to;
            from = to;
            let Some(ranges) = shape.ranges_for(&wanted) else {
                continue;
            };
            let prefix = ranges.prefix.start as usize..ranges.prefix.end as usize;
            let data = ranges.data.start as usize..ranges.data.end as usize;
            let number = (ranges.data.start - ranges.prefix.end) / unit;
            let mut differing = shape.prefix_parts(number).to_vec();
            differing.extend(by_block(range.address, data.clone()));
            differing.retain(|part| one.get(part.clone()) != two.get(part.clone()));
            if differing.len() > PARTS_MAX {
                continue;
            }
            let mut stored = one.to_vec();
            for choice in 0..1_u32 << differing.len() {
                take_parts(&mut stored, [one, two], choice, &differing);
                let sealer = self.vault.sealer();
                let pieces = stored.get(prefix.clone()).zip(stored.get(data.clone()));
                let is_good = pieces.is_some_and(|(prefix, data)| {
                    let decoded = shape.decode(sealer, identity, prefix, data, &wanted);
                    decoded.is_ok()
                });
                if is_good {
                    parts.extend(chosen_parts(choice, &differing));
                    break;
                }
                embassy_futures::yield_now().await;
            }
        }
        parts
    }
}

/// Cuts bytes of what is stored at `address` where a block of the device ends: what rots is a block, or a part of one.
fn by_block(address: u64, bytes: Range<usize>) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let mut start = bytes.start;
    while start < bytes.end {
        let within = usize::try_from((address + start as u64) % BLOCK_SIZE as u64).unwrap_or(0);
        let end = (start + BLOCK_SIZE - within).min(bytes.end);
        parts.push(start..end);
        start = end;
    }
    parts
}

//! Mending stored extents unit by unit, where a device keeps two copies: each may be damaged in another place.
//!
//! A unit of data is good if it matches its checksum (or tag) in the extent's prefix. It is put together from the blocks of both
//! copies, in every way there is while these are few; what makes it good is written to the copy that has it otherwise.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::ops::Range;

use crate::check::PieceAt;
use crate::{BLOCK_SIZE, BlockDevice, FileSystem, StoredRange, UNIT_BYTES};

impl<D: BlockDevice> FileSystem<D> {
    /// Gives all copies what any has right of a piece's units. True when something was written. Not durable on return.
    pub(crate) async fn mend_units(&self, range: StoredRange, at: &PieceAt) -> bool {
        let mut copies = Vec::new();
        for copy in 0..self.device.copies() {
            let Ok(bytes) = self.read_stored_copy(range, copy).await else {
                return false;
            };
            copies.push(bytes);
        }
        let mut mended = false;
        for (copy, part) in self.good_parts(range, at, &copies) {
            let Some(good) = copies.get(copy).and_then(|bytes| bytes.get(part.clone())) else {
                continue;
            };
            if copies
                .iter()
                .all(|other| other.get(part.clone()) == Some(good))
            {
                continue;
            }
            let copy = u8::try_from(copy).unwrap_or(u8::MAX);
            let address = range.address + part.start as u64;
            mended |= self.device.mend(copy, address, good).await;
        }
        mended
    }

    /// Which parts of a stored extent are good that are not the same in both copies, and in which they are.
    fn good_parts(
        &self,
        range: StoredRange,
        at: &PieceAt,
        copies: &[Rc<[u8]>],
    ) -> Vec<(usize, Range<usize>)> {
        let mut parts = Vec::new();
        let (Some(shape), [one, two]) = (at.piece.shape(), copies) else {
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
            let chosen = (0..1_u32 << differing.len()).find(|choice| {
                let mut stored = one.to_vec();
                for (_, part) in chosen_parts(*choice, &differing).filter(|(copy, _)| *copy == 1) {
                    if let (Some(target), Some(bytes)) =
                        (stored.get_mut(part.clone()), two.get(part))
                    {
                        target.copy_from_slice(bytes);
                    }
                }
                let (Some(prefix), Some(data)) =
                    (stored.get(prefix.clone()), stored.get(data.clone()))
                else {
                    return false;
                };
                let sealer = self.vault.sealer();
                let decoded = shape.decode(sealer, identity, prefix, data, &wanted);
                decoded.is_ok()
            });
            if let Some(choice) = chosen {
                parts.extend(chosen_parts(choice, &differing));
            }
        }
        parts
    }
}

/// Parts of a unit that may differ for it to be put together: all ways to do so are tried.
const PARTS_MAX: usize = 8;

/// Of each part the copy that a choice takes it from.
fn chosen_parts(
    choice: u32,
    parts: &[Range<usize>],
) -> impl Iterator<Item = (usize, Range<usize>)> + '_ {
    let copy = move |number: usize| usize::from(choice & 1 << number != 0);
    parts
        .iter()
        .enumerate()
        .map(move |(number, part)| (copy(number), part.clone()))
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

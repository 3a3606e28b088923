//! Reading what a device may keep several copies of: the first one that proves right counts, and those that did
//! not are written again from it. Where none is right as a whole, each may be damaged in another place: then it is put
//! together from both, in every way there is while these are few.
//!
//! Bound: 256 ways, others having their turn after each.
//!
//! Not here: looking at copies that nobody reads; that is what a scrub does. Extents, of which parts are verified one by
//! one (`mending`).

use alloc::vec::Vec;
use core::ops::Range;

use super::layout::SECTOR_SIZE;
use crate::{BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, DeviceError, DeviceGeometry};

/// Reads blocks and gives what `check` makes of them: of the first copy it accepts, else of the first one that could be
/// read.
///
/// # Errors
/// When no copy could be read.
pub(crate) async fn read_checked<D: BlockDevice, T, E>(
    device: &D,
    start: BlockIndex,
    buffer: Buffer,
    check: impl FnMut(&[u8]) -> Result<T, E>,
) -> (Buffer, Result<Result<T, E>, DeviceError>) {
    let all = 0..buffer.bytes().len();
    read_checked_within(device, start, buffer, all, check).await
}

/// The same of what `check` looks at only in part. What lies beside that in the blocks may be right there and not here: it is not
/// written again.
///
/// # Errors
/// When no copy could be read.
pub(crate) async fn read_checked_within<D: BlockDevice, T, E>(
    device: &D,
    start: BlockIndex,
    mut buffer: Buffer,
    within: Range<usize>,
    mut check: impl FnMut(&[u8]) -> Result<T, E>,
) -> (Buffer, Result<Result<T, E>, DeviceError>) {
    let copies = device.copies();
    let blocks = buffer.len_blocks();
    let mut refused = Err(DeviceError::Gone);
    for copy in 0..copies {
        let read;
        (buffer, read) = device.read_copy(copy, start, buffer).await;
        match read.map(|()| check(buffer.bytes())) {
            Ok(Ok(value)) => {
                if copy > 0 {
                    let address = start.0 * BLOCK_SIZE as u64 + within.start as u64;
                    let good = buffer.bytes().get(within).unwrap_or_default();
                    // Whoever reads has what he wants; a copy that is not mended is as it was.
                    let _ = device.mend(copy, address, good).await;
                }
                return (buffer, Ok(Ok(value)));
            }
            Ok(Err(error)) => refused = refused.or(Ok(Err(error))),
            Err(error) => refused = refused.map_err(|_| error),
        }
    }
    if copies <= 1 {
        return (buffer, refused);
    }
    if let Some((whole, value)) = read_together(device, start, blocks, within, &mut check).await {
        return (whole, Ok(Ok(value)));
    }
    if device.copies() < copies {
        // One is no longer there, and what the other one has may not have been seen.
        let read;
        (buffer, read) = device.read(start, buffer).await;
        let checked = read.map(|()| check(buffer.bytes()));
        return (buffer, checked);
    }
    (buffer, refused)
}

/// Puts blocks together that `check` accepts, of which neither of two copies is right as a whole, and gives both what is `within`
/// these bytes: all that `check` looks at.
pub(crate) async fn read_together<D: BlockDevice, T, E>(
    device: &D,
    start: BlockIndex,
    blocks: usize,
    within: Range<usize>,
    check: impl FnMut(&[u8]) -> Result<T, E>,
) -> Option<(Buffer, T)> {
    let [mut one, mut two] = read_both(device, start, blocks).await?;
    // Where the copies differ beside that, nothing is to be tried.
    for beside in [0..within.start, within.end..one.bytes().len()] {
        let (from, target) = (one.bytes(), two.bytes_mut());
        if let (Some(from), Some(target)) = (from.get(beside.clone()), target.get_mut(beside)) {
            target.copy_from_slice(from);
        }
    }
    let found = put_together([one.bytes(), two.bytes()], check).await?;
    one.bytes_mut().copy_from_slice(&found.bytes);
    for (copy, part) in found.parts {
        let part = part.start.max(within.start)..part.end.min(within.end);
        let address = start.0 * BLOCK_SIZE as u64 + part.start as u64;
        if let Some(good) = one.bytes().get(part) {
            let _ = device.mend(copy, address, good).await;
        }
    }
    Some((one, found.value))
}

/// Parts that may differ for something to be put together: all ways to do so are tried.
pub(crate) const PARTS_MAX: usize = 8;

/// What was put together.
pub(crate) struct Together<T> {
    pub bytes: Vec<u8>,
    /// The parts in which the copies differ, and which one each was taken from.
    pub parts: Vec<(u8, Range<usize>)>,
    pub value: T,
}

/// Puts bytes together that `check` accepts, from two copies of which neither is right as a whole: by sectors, or by blocks
/// where many of them differ.
pub(crate) async fn put_together<T, E>(
    [one, two]: [&[u8]; 2],
    mut check: impl FnMut(&[u8]) -> Result<T, E>,
) -> Option<Together<T>> {
    let parts = differing(one, two, SECTOR_SIZE).or_else(|| differing(one, two, BLOCK_SIZE))?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(one.len()).ok()?;
    bytes.extend_from_slice(one);
    for choice in 1..(1_u32 << parts.len()) - 1 {
        take_parts(&mut bytes, [one, two], choice, &parts);
        if let Ok(value) = check(&bytes) {
            let parts = chosen_parts(choice, &parts).collect();
            return Some(Together {
                bytes,
                parts,
                value,
            });
        }
        embassy_futures::yield_now().await;
    }
    None
}

/// The pieces of `granule` bytes in which two copies differ; `None` where these are too many.
fn differing(one: &[u8], two: &[u8], granule: usize) -> Option<Vec<Range<usize>>> {
    let pieces = one.chunks(granule).zip(two.chunks(granule));
    let differ = pieces.enumerate().filter(|(_, (one, two))| one != two);
    let mut parts = Vec::new();
    for (number, (piece, _)) in differ {
        if parts.len() == PARTS_MAX {
            return None;
        }
        parts.push(number * granule..number * granule + piece.len());
    }
    Some(parts)
}

/// Of each part the copy that a choice takes it from.
pub(crate) fn chosen_parts(
    choice: u32,
    parts: &[Range<usize>],
) -> impl Iterator<Item = (u8, Range<usize>)> + '_ {
    let copy = move |number: usize| u8::from(choice & 1 << number != 0);
    let parts = parts.iter().enumerate();
    parts.map(move |(number, part)| (copy(number), part.clone()))
}

/// Fills parts of `target` from the copies that a choice takes them from.
pub(crate) fn take_parts(
    target: &mut [u8],
    [one, two]: [&[u8]; 2],
    choice: u32,
    parts: &[Range<usize>],
) {
    for (copy, part) in chosen_parts(choice, parts) {
        let from = if copy == 0 { one } else { two };
        if let (Some(target), Some(from)) = (target.get_mut(part.clone()), from.get(part)) {
            target.copy_from_slice(from);
        }
    }
}

/// Blocks as each of two copies has them. Of a block that one cannot give it gets what the other one does not have.
pub(crate) async fn read_both<D: BlockDevice>(
    device: &D,
    start: BlockIndex,
    blocks: usize,
) -> Option<[Buffer; 2]> {
    if device.copies() != 2 {
        return None;
    }
    let (mut one, unread_one) = read_in_part(device, 0, start, blocks).await?;
    let (mut two, unread_two) = read_in_part(device, 1, start, blocks).await?;
    for block in unread_one {
        invert(&mut one, &two, block);
    }
    for block in unread_two {
        invert(&mut two, &one, block);
    }
    Some([one, two])
}

fn invert(buffer: &mut Buffer, other: &Buffer, block: usize) {
    let bytes = block * BLOCK_SIZE..(block + 1) * BLOCK_SIZE;
    let target = buffer.bytes_mut().get_mut(bytes.clone());
    let other = other.bytes().get(bytes);
    if let (Some(target), Some(other)) = (target, other) {
        for (target, other) in target.iter_mut().zip(other) {
            *target = !other;
        }
    }
}

/// Reads what one copy can give of some blocks, and tells which it cannot. `None` without memory.
pub(crate) async fn read_in_part<D: BlockDevice>(
    device: &D,
    copy: u8,
    start: BlockIndex,
    blocks: usize,
) -> Option<(Buffer, Vec<usize>)> {
    let buffer = Buffer::zeroed(blocks).ok()?;
    let (mut buffer, read) = device.read_copy(copy, start, buffer).await;
    let mut unread = Vec::new();
    if read.is_ok() {
        return Some((buffer, unread));
    }
    for (number, block) in (start.0..).take(blocks).enumerate() {
        let (bytes, read) = device
            .read_copy(copy, BlockIndex(block), Buffer::zeroed(1).ok()?)
            .await;
        let target = buffer.bytes_mut().chunks_exact_mut(BLOCK_SIZE).nth(number);
        match target {
            Some(target) if read.is_ok() => target.copy_from_slice(bytes.bytes()),
            _ => unread.push(number),
        }
    }
    Some((buffer, unread))
}

/// One copy of a device, to be read.
pub(crate) struct OneCopy<'d, D>(pub &'d D, pub u8);

impl<D: BlockDevice> BlockDevice for OneCopy<'_, D> {
    fn geometry(&self) -> DeviceGeometry {
        self.0.geometry()
    }

    fn read(
        &self,
        start: BlockIndex,
        buffer: Buffer,
    ) -> impl Future<Output = (Buffer, Result<(), DeviceError>)> {
        self.0.read_copy(self.1, start, buffer)
    }

    async fn write(&self, _: BlockIndex, buffer: Buffer) -> (Buffer, Result<(), DeviceError>) {
        (buffer, Err(DeviceError::Unsupported))
    }

    async fn flush(&self) -> Result<(), DeviceError> {
        Err(DeviceError::Unsupported)
    }

    async fn discard(&self, _: BlockIndex, _: u64) -> Result<(), DeviceError> {
        Err(DeviceError::Unsupported)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::Executor;

    /// What is right where it is 7 throughout.
    fn together(one: &[u8], two: &[u8]) -> Option<Together<()>> {
        let copies = [one.to_vec(), two.to_vec()];
        Executor::new(0).run(async move {
            let [one, two] = &copies;
            let check = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 7).then_some(()).ok_or(());
            put_together([one, two], check).await
        })
    }

    #[test]
    fn what_is_damaged_in_different_places_is_put_together_by_sectors_or_by_blocks() {
        let good = alloc::vec![7; 12 * BLOCK_SIZE];
        // Where, and how many bytes.
        let damaged = |places: &[(usize, usize)]| {
            let mut bytes = good.clone();
            for &(at, len) in places {
                bytes[at..at + len].fill(1);
            }
            bytes
        };
        // Two sectors of one block.
        let found = together(&damaged(&[(0, 1)]), &damaged(&[(600, 1)])).unwrap();
        assert_eq!(found.parts, [(1, 0..512), (0, 512..1024)]);
        assert!(found.bytes == good);
        // A whole block, and a bit.
        let block = damaged(&[(5 * BLOCK_SIZE, BLOCK_SIZE)]);
        let found = together(&block, &damaged(&[(9, 1)])).unwrap();
        assert_eq!(found.parts, [(0, 0..4096), (1, 5 * 4096..6 * 4096)]);
        // The same sector on both; more blocks than are tried.
        assert!(together(&damaged(&[(3, 1)]), &damaged(&[(90, 1)])).is_none());
        let many = |first: usize| (0..5).map(move |at| (2 * at + first) * BLOCK_SIZE);
        let places = |first| many(first).map(|at| (at, 4096)).collect::<Vec<_>>();
        assert!(together(&damaged(&places(0)), &damaged(&places(1))).is_none());
        assert!(together(&good, &good).is_none());
    }
}

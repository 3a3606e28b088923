//! Extents: where a piece of a file's data is (SPEC.md, "Extents").
//!
//! A commit stores file data as extents of at most [`EXTENT_BYTES_MAX`], each beginning at a multiple of the
//! block size in its file. An extent item names the stored extent and which part of it is still meant:
//! overwriting cuts pieces off, but never changes what is stored.
//!
//! - this file: pieces of extents, as the tree's items name them;
//! - `codec`: a stored extent, byte for byte; `compress`: what makes it smaller; `compression`: the setting;
//! - `mending`: a stored extent put together from two copies that are both damaged.
//!
//! Not here: where on the disk an extent goes (`log`, `space::cleaner`), and which pieces a file has (`transaction`).

pub(crate) mod codec;
mod compress;
mod compression;
mod mending;

use alloc::vec::Vec;
use core::ops::Range;

pub use compress::{Algorithm, DecompressError, compress, decompress, decompress_into};
pub(crate) use compress::{Pressing, kept_bytes_max};
pub(crate) use compression::COMPRESSION_PROPERTY;
pub use compression::Compression;

use crate::log::ExtentRecord;
use crate::seal::Sealer;
use crate::varint::{put_varint, take_byte, take_varint, take_varint_u32};
use crate::{BLOCK_SIZE, BlockIndex, CommitNumber, FileError, Structure};
use codec::{Encoding, ExtentError, ExtentIdentity, ExtentShape, UNIT, UNIT_BYTES};

/// Most bytes of a file in one extent.
pub(crate) const EXTENT_BYTES_MAX: u32 = 64 << 10;

/// Most bytes that a stored extent takes: its data and what verifies each unit.
pub(crate) const STORED_BYTES_MAX: u32 = EXTENT_BYTES_MAX + 1024;

/// Largest size of a file.
pub(crate) const FILE_BYTES_MAX: u64 = (1 << 63) - 1;

/// The form of an item's value: the encoding, and what is left out because it follows from that.
mod form {
    /// The stored extent holds one unit.
    pub(super) const UNIT: u8 = 4;
    /// The piece is all of an extent as first written.
    pub(super) const WHOLE: u8 = 8;
    /// See [`Piece::lasting`](super::Piece).
    pub(super) const LASTING: u8 = 16;
    pub(super) const ALL: u8 = UNIT | WHOLE | LASTING;
}

/// A piece of file data: the value of an extent item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    /// First byte of the stored extent, from the start of the device.
    pub address: u64,
    /// Bytes of the file that the stored extent holds.
    pub extent_len: u32,
    /// Bytes of the stored extent.
    pub stored_len: u32,
    pub encoding: u8,
    /// Which unit of the extent as first written its first unit was.
    pub unit_first: u32,
    /// Bytes of the extent before this piece.
    pub skip: u32,
    /// Bytes of this piece.
    pub len: u32,
    /// What its commit replaced had been moved by the cleaner before: a hint that this may last as well.
    pub lasting: bool,
}

impl Piece {
    /// All of a stored extent.
    pub(crate) fn whole(extent: &ExtentRecord, address: u64) -> Self {
        Self {
            address,
            extent_len: extent.len,
            stored_len: extent.stored_len,
            encoding: extent.encoding,
            unit_first: extent.unit_first,
            skip: 0,
            len: extent.len,
            lasting: false,
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(24);
        let whole = self.skip == 0 && self.len == self.extent_len && self.unit_first == 0;
        let unit = self.extent_len == UNIT;
        let flag = |set, flag| if set { flag } else { 0 };
        let flags = flag(unit, form::UNIT) | flag(whole, form::WHOLE);
        value.push(self.encoding | flags | flag(self.lasting, form::LASTING));
        put_varint(&mut value, self.address);
        if !unit {
            put_varint(&mut value, u64::from(self.extent_len));
        }
        if self.plain_len() != Some(self.stored_len) {
            put_varint(&mut value, u64::from(self.stored_len));
        }
        if !whole {
            put_varint(&mut value, u64::from(self.unit_first));
            put_varint(&mut value, u64::from(self.skip));
            put_varint(&mut value, u64::from(self.len));
        }
        value
    }

    /// What the stored extent takes if it is not compressed.
    fn plain_len(&self) -> Option<u32> {
        Encoding::from_number(self.encoding)?.plain_len(self.extent_len)
    }

    /// The piece in an item's value; `None` when it cannot be one.
    pub(crate) fn decode(mut value: &[u8]) -> Option<Self> {
        let bytes = &mut value;
        let form = take_byte(bytes)?;
        let address = take_varint(bytes)?;
        let unit = form & form::UNIT != 0;
        let extent_len = if unit { UNIT } else { take_varint_u32(bytes)? };
        let mut piece = Self {
            address,
            extent_len,
            stored_len: 0,
            encoding: form & !form::ALL,
            unit_first: 0,
            skip: 0,
            len: extent_len,
            lasting: form & form::LASTING != 0,
        };
        if !(1..=EXTENT_BYTES_MAX).contains(&extent_len) {
            return None;
        }
        Encoding::from_number(piece.encoding)?;
        piece.stored_len = match piece.plain_len() {
            Some(len) => len,
            None => take_varint_u32(bytes)?,
        };
        if form & form::WHOLE == 0 {
            piece.unit_first = take_varint_u32(bytes)?;
            piece.skip = take_varint_u32(bytes)?;
            piece.len = take_varint_u32(bytes)?;
        }
        let units = EXTENT_BYTES_MAX / UNIT;
        let possible = bytes.is_empty()
            && unit == (extent_len == UNIT)
            && (1..=STORED_BYTES_MAX).contains(&piece.stored_len)
            && piece.len > 0
            && piece.skip <= EXTENT_BYTES_MAX
            && piece.unit_first < units
            && piece.skip.checked_add(piece.len)? <= extent_len
            && address.checked_add(u64::from(piece.stored_len)).is_some();
        possible.then_some(piece)
    }

    /// Whose bytes the stored extent holds, given where this piece of it is.
    pub(crate) fn identity(&self, object: u64, position: u64, birth: u64) -> ExtentIdentity {
        let before = u64::from(self.skip) + u64::from(self.unit_first) * UNIT_BYTES as u64;
        ExtentIdentity {
            object,
            // Of a damaged item it is nonsense, and no checksum will match.
            offset: position.wrapping_sub(before),
            birth: CommitNumber(birth),
        }
    }

    /// The measures of the stored extent, if they fit together.
    pub(crate) fn shape(&self) -> Option<ExtentShape> {
        let encoding = Encoding::from_number(self.encoding)?;
        let first_unit = u8::try_from(self.unit_first).ok()?;
        ExtentShape::new(encoding, first_unit, self.extent_len, self.stored_len)
    }

    /// The bytes `wanted` of this piece, out of `stored`, the whole stored extent.
    pub(crate) fn read(
        &self,
        sealer: &Sealer,
        identity: ExtentIdentity,
        stored: &[u8],
        wanted: &Range<u64>,
    ) -> Result<Vec<u8>, FileError> {
        let damaged = FileError::Damaged {
            structure: Structure::Extent,
            block: BlockIndex(self.address / BLOCK_SIZE as u64),
        };
        let within = |at: u64| u32::try_from(at).ok()?.checked_add(self.skip);
        let range = |range: Range<u32>| range.start as usize..range.end as usize;
        let parts = || {
            let wanted = within(wanted.start)?..within(wanted.end)?;
            let shape = self.shape()?;
            let ranges = shape.ranges_for(&wanted)?;
            let prefix = stored.get(range(ranges.prefix))?;
            let data = stored.get(range(ranges.data))?;
            Some((shape, wanted, prefix, data))
        };
        let (shape, wanted, prefix, data) = parts().ok_or(damaged.clone())?;
        let decoded = shape.decode(sealer, identity, prefix, data, &wanted);
        decoded.map_err(|error| match error {
            ExtentError::OutOfMemory => FileError::OutOfMemory,
            _ => damaged,
        })
    }

    /// The part of this piece from `from` bytes into it, `len` bytes long.
    #[must_use]
    pub(crate) fn part(&self, from: u32, len: u32) -> Self {
        Self {
            skip: self.skip + from,
            len,
            ..*self
        }
    }

    /// Bytes on the disk this piece accounts for: its share of the stored extent, and one at least, for a segment that it is in must not pass for
    /// empty. The shares of pieces that together make up the extent add up to what it takes, and one more for each that would have none.
    pub(crate) fn stored_share(&self) -> u32 {
        let up_to = |bytes: u32| {
            u64::from(self.stored_len) * u64::from(bytes) / u64::from(self.extent_len.max(1))
        };
        let share = up_to(self.skip + self.len) - up_to(self.skip);
        // At most `stored_len`.
        u32::try_from(share).unwrap_or(u32::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Piece {
        Piece {
            address: 123_456_789,
            extent_len: 60_001,
            stored_len: 30_007,
            encoding: 2,
            unit_first: 0,
            skip: 0,
            len: 60_001,
            lasting: true,
        }
    }

    #[test]
    fn survives_a_round_trip_and_nonsense_is_refused() {
        for piece in [example(), example().part(4096, 8192)] {
            let value = piece.encode();
            assert_eq!(Piece::decode(&value), Some(piece));
            for end in 0..value.len() {
                assert_eq!(Piece::decode(&value[..end]), None);
            }
        }
        let beyond = Piece {
            skip: 57_344,
            len: 4096,
            ..example()
        };
        assert_eq!(Piece::decode(&beyond.encode()), None);
    }

    #[test]
    fn shares_of_pieces_add_up() {
        let whole = example();
        let cuts = [0, 4096, 40_960, 60_001];
        let shares = cuts
            .windows(2)
            .map(|cut| whole.part(cut[0], cut[1] - cut[0]).stored_share());
        assert_eq!(shares.sum::<u32>(), whole.stored_len);
    }

    #[test]
    fn what_is_left_of_an_extent_counts_however_little_it_is() {
        let zeros = Piece {
            extent_len: 65_536,
            stored_len: 270,
            len: 65_536,
            ..example()
        };
        assert_eq!(zeros.part(0, 11).stored_share(), 1);
        assert_eq!(zeros.part(11, 100).stored_share(), 1);
        assert_eq!(zeros.part(11, 65_525).stored_share(), 270);
    }
}

//! Bytes of items: variable-length integers, read without trust.
//!
//! A *varint* is LEB128: seven bits a byte, lowest first, the top bit set on all but the last, at most
//! ten bytes, never longer than needed. A *signed varint* is the varint of its zigzag form. Whatever was
//! not written by [`put_varint`] reads as `None`, so that what decodes encodes to the same bytes.

use alloc::vec::Vec;

use crate::disk::layout::VALUE_OBJECT;
use crate::{BlockIndex, FileError, Structure};

/// An item that says what cannot be. Items do not know which block they are in.
pub(super) const DAMAGED: FileError = FileError::Damaged {
    structure: Structure::Item,
    block: BlockIndex(0),
};

/// Appends a varint.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            out.push(low & 0x7F);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Appends a signed varint.
pub(super) fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

/// Reads from the front of some bytes.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7F);
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return (byte != 0 || shift == 0).then_some(value);
            }
        }
        None
    }

    /// The number of an inode or another object.
    pub(super) fn object(&mut self) -> Option<u64> {
        self.varint()
            .filter(|object| (1..VALUE_OBJECT).contains(object))
    }

    pub(super) fn varint_u32(&mut self) -> Option<u32> {
        u32::try_from(self.varint()?).ok()
    }

    pub(super) fn signed(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    pub(super) fn i64(&mut self) -> Option<i64> {
        let (&bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(i64::from_le_bytes(bytes))
    }

    /// All that is left.
    pub(super) fn rest(self) -> &'a [u8] {
        self.0
    }

    /// Nothing is left.
    pub(super) fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_come_back_and_only_in_their_shortest_form() {
        for value in [0, 1, 127, 128, 16_383, 16_384, 1 << 62, 1 << 63, u64::MAX] {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            let mut reader = Reader::new(&bytes);
            assert_eq!(reader.varint(), Some(value));
            assert_eq!(reader.end(), Some(()));
            bytes.pop();
            assert_eq!(Reader::new(&bytes).varint(), None, "cut short");
        }
        for bad in [
            &[0x80, 0][..],
            &[0xFF; 11],
            &[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 2],
        ] {
            assert_eq!(Reader::new(bad).varint(), None);
        }
    }

    #[test]
    fn signed_varints_are_short_for_small_distances_either_way() {
        for value in [0, -1, 1, 63, -64, i64::MAX, i64::MIN] {
            let mut bytes = Vec::new();
            put_signed(&mut bytes, value);
            assert_eq!(bytes.len() == 1, (-64..64).contains(&value));
            assert_eq!(Reader::new(&bytes).signed(), Some(value));
        }
    }
}

//! What the formats of the engine are made of: the integers of [`lfs::varint`], and what else decoders take off the front
//! of bytes.

pub(super) use lfs::varint::{put_varint, take_bytes, take_varint, varint_len};

/// Takes a length or count: one that fits into 32 bits.
#[inline]
pub(super) fn take_len(bytes: &mut &[u8]) -> Option<usize> {
    usize::try_from(u32::try_from(take_varint(bytes)?).ok()?).ok()
}

/// Takes `N` bytes off the front.
#[inline]
pub(super) fn take_array<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*taken)
}

/// A signed number as an unsigned one that is small when its absolute value is.
pub(super) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

/// The number of which [`zigzag`] made `value`.
pub(super) fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signed_numbers_survive_as_well() {
        for value in [0, -1, 1, i64::MIN, i64::MAX, -300] {
            assert_eq!(unzigzag(zigzag(value)), value);
        }
        assert_eq!((zigzag(-1), zigzag(1)), (1, 2));
    }
}

//! Integers of one to ten bytes: seven bits each, the lowest first, the top bit says that more follow; and what else
//! decoders take off the front of bytes.
//!
//! Public for the formats of the layers above, which are made of the same.

use alloc::vec::Vec;

/// Bytes of the longest one.
pub const VARINT_BYTES_MAX: usize = 10;

/// Appends `value`.
#[inline]
pub fn put_varint(target: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        // The low seven bits.
        target.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    target.push((value & 0x7f) as u8);
}

/// Bytes that `value` takes.
#[inline]
pub fn varint_len(value: u64) -> usize {
    let bits = u64::BITS - value.leading_zeros();
    bits.div_ceil(7).max(1) as usize
}

/// Takes one off the front of `bytes`. `None` when it ends early, is longer than it needs to be, or exceeds 64 bits:
/// every number has one form.
#[inline]
pub fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    // Nearly all have one byte or two.
    match **bytes {
        [byte, ref rest @ ..] if byte < 0x80 => {
            *bytes = rest;
            Some(u64::from(byte))
        }
        [low, high @ 1..0x80, ref rest @ ..] => {
            *bytes = rest;
            Some(u64::from(low & 0x7f) | u64::from(high) << 7)
        }
        _ => take_long_varint(bytes),
    }
}

fn take_long_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for (at, &byte) in bytes.iter().enumerate().take(VARINT_BYTES_MAX) {
        let bits = u64::from(byte & 0x7f);
        let shift = 7 * at;
        if bits << shift >> shift != bits {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            if byte == 0 && at > 0 {
                return None;
            }
            *bytes = bytes.get(at + 1..)?;
            return Some(value);
        }
    }
    None
}

/// Takes one that must fit into 32 bits.
pub(crate) fn take_varint_u32(bytes: &mut &[u8]) -> Option<u32> {
    take_varint(bytes)?.try_into().ok()
}

/// Takes `len` bytes off the front. `None` when there are fewer.
#[inline]
pub fn take_bytes<'b>(bytes: &mut &'b [u8], len: usize) -> Option<&'b [u8]> {
    let (taken, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(taken)
}

/// Takes one byte off the front.
pub(crate) fn take_byte(bytes: &mut &[u8]) -> Option<u8> {
    take_bytes(bytes, 1)?.first().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_a_round_trip_and_has_one_form() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            let mut rest = &bytes[..];
            assert_eq!((take_varint(&mut rest), rest.len()), (Some(value), 0));
            assert_eq!(varint_len(value), bytes.len());
            bytes.pop();
            assert_eq!(take_varint(&mut &bytes[..]), None);
        }
        assert_eq!(take_varint(&mut &[0x80, 0x00][..]), None);
        assert_eq!(take_varint(&mut &[0xff; 11][..]), None);
        let too_large = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
        assert_eq!(take_varint(&mut &too_large[..]), None);
    }
}

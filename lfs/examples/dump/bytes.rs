//! "Conventions" and "Compression" of `SPEC.md`.

use std::error::Error;

pub const BLOCK: usize = 4096;
pub type Fallible<T> = Result<T, Box<dyn Error>>;

pub fn crc(bytes: &[u8]) -> u32 {
    static TABLE: std::sync::OnceLock<[u32; 256]> = std::sync::OnceLock::new();
    let table = TABLE.get_or_init(|| {
        std::array::from_fn(|at| {
            (0..8).fold(at as u32, |crc, _| {
                (crc >> 1) ^ if crc & 1 == 1 { 0xEDB8_8320 } else { 0 }
            })
        })
    });
    !bytes.iter().fold(!0, |crc, &byte| {
        table[((crc ^ u32::from(byte)) & 0xFF) as usize] ^ (crc >> 8)
    })
}

pub fn u32_at(bytes: &[u8], at: usize) -> Fallible<u32> {
    let bytes = bytes.get(at..at + 4).ok_or("too short")?;
    Ok(u32::from_le_bytes(bytes.try_into()?))
}

pub fn u64_at(bytes: &[u8], at: usize) -> Fallible<u64> {
    let bytes = bytes.get(at..at + 8).ok_or("too short")?;
    Ok(u64::from_le_bytes(bytes.try_into()?))
}

/// Takes bytes apart from the front.
pub struct Taker<'a>(pub &'a [u8]);

impl<'a> Taker<'a> {
    pub fn bytes(&mut self, len: usize) -> Fallible<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or("ends early")?;
        self.0 = rest;
        Ok(taken)
    }

    pub fn byte(&mut self) -> Fallible<u8> {
        Ok(self.bytes(1)?[0])
    }

    pub fn u32(&mut self) -> Fallible<u32> {
        u32_at(self.bytes(4)?, 0)
    }

    pub fn u64(&mut self) -> Fallible<u64> {
        u64_at(self.bytes(8)?, 0)
    }

    pub fn varint(&mut self) -> Fallible<u64> {
        let mut value = 0_u128;
        for at in 0..10 {
            let byte = self.byte()?;
            value |= u128::from(byte & 0x7F) << (7 * at);
            if byte & 0x80 == 0 {
                if byte == 0 && at > 0 {
                    return Err("a varint is longer than needed".into());
                }
                return Ok(u64::try_from(value)?);
            }
        }
        Err("a varint does not end".into())
    }

    /// A length in one byte, and so many.
    pub fn name(&mut self) -> Fallible<&'a [u8]> {
        let len = self.byte()?;
        self.bytes(len.into())
    }

    pub fn signed(&mut self) -> Fallible<i64> {
        let value = self.varint()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }
}

/// An LZ4 block.
pub fn lz4(block: &[u8], len: usize) -> Fallible<Vec<u8>> {
    let mut taker = Taker(block);
    let mut out = Vec::new();
    let more = |taker: &mut Taker<'_>, mut count: usize| -> Fallible<usize> {
        if count == 15 {
            loop {
                let byte = taker.byte()?;
                count += usize::from(byte);
                if byte != 255 {
                    break;
                }
            }
        }
        Ok(count)
    };
    while !taker.0.is_empty() {
        let token = taker.byte()?;
        let literals = more(&mut taker, usize::from(token >> 4))?;
        out.extend_from_slice(taker.bytes(literals)?);
        if taker.0.is_empty() {
            break;
        }
        let distance = taker.bytes(2)?;
        let distance = usize::from(u16::from_le_bytes([distance[0], distance[1]]));
        let count = more(&mut taker, usize::from(token & 15))? + 4;
        let mut from = out
            .len()
            .checked_sub(distance)
            .ok_or("a match too far back")?;
        if distance == 0 || out.len() + count > len {
            return Err("damaged LZ4 block".into());
        }
        for _ in 0..count {
            out.push(out[from]);
            from += 1;
        }
    }
    if out.len() != len {
        return Err("damaged LZ4 block".into());
    }
    Ok(out)
}

//! Stored extents: up to 64 KiB of a file's data as they lie in the log (SPEC.md, "Stored extents").
//!
//! A stored extent is `prefix ‖ data`. Data that are not compressed are cut into units of 4 KiB, and the
//! prefix holds a check for each, so a unit can be read without the others, and a row of units can be
//! moved without the others. Compressed data are one piece with one check. The check is a CRC-32, or
//! with a key the tag of an authenticated cipher; it covers the unit's content, length, encoding and
//! number, and the extent's [`ExtentIdentity`].
//!
//! Invariants:
//! - What [`decode`](ExtentShape::decode) gives is what [`encode`] was given for that identity: bytes that
//!   are damaged, stale, or belong elsewhere show, unit by unit.
//! - An identity is that of the extent as first written. A piece cut out of it keeps the
//!   checks it had; it knows by its `first_unit` where in the extent it was. A piece that is encoded anew is an extent
//!   of its own, with the birth of the first and the place of its own first byte.
//! - Every shape has lengths that fit together; anything read from a disk becomes one only through
//!   [`ExtentShape::new`].
//!
//! Therefore the tree's item for a piece carries, beside its address: encoding, `first_unit`, `len`, `stored_len`,
//! and the birth of the *extent* (which is older than the item once a piece was cut or moved). If the item's key has
//! the place of the piece's first byte, the identity's offset is `position - first_unit * 4096`. Where the item shows
//! only some bytes of the piece (a compressed one, written over in part), it also carries how many to skip, and the
//! key's position is that much further on. An item under another object than wrote it would carry that object too.
//!
//! Not here: where extents lie, and how they are read.

use alloc::vec::Vec;
use core::ops::Range;

use super::compress::{Algorithm, DecompressError, compress, decompress, kept_bytes_max};
use crate::CommitNumber;
use crate::seal::{Purpose, Random, Sealer};

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers")]
mod tests;

/// Bytes under one check.
pub const UNIT_BYTES: usize = 4096;

/// Longest extent, before compression.
pub const EXTENT_BYTES_MAX: usize = 65_536;

pub(crate) const UNIT: u32 = 4096;
const UNITS_MAX: u32 = 16;
const CHECKSUM_BYTES: u32 = 4;
const TAG_BYTES: u32 = 16;
/// What the nonces of an extent's units have in common; the unit's number is the rest.
const NONCE_BASE_BYTES: u32 = 20;
const SEALED_FLAG: u8 = 0x80;

/// Whose bytes these are, since they were written: the place in the file and the commit that wrote them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ExtentIdentity {
    /// The inode they were written to.
    pub object: u64,
    /// Where in it, in bytes.
    pub offset: u64,
    /// The commit.
    pub birth: CommitNumber,
}

/// How an extent's data are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Encoding {
    /// How they are compressed.
    pub algorithm: Algorithm,
    /// Whether they are encrypted.
    pub sealed: bool,
}

impl Encoding {
    /// The number on disk.
    pub fn number(self) -> u8 {
        self.algorithm.number() | if self.sealed { SEALED_FLAG } else { 0 }
    }

    /// The encoding with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Some(Self {
            algorithm: Algorithm::from_number(number & !SEALED_FLAG)?,
            sealed: number & SEALED_FLAG != 0,
        })
    }

    pub(crate) fn is_compressed(self) -> bool {
        self.algorithm != Algorithm::None
    }

    /// What an extent of `len` bytes takes in the log if its length does not depend on its content.
    pub(crate) fn plain_len(self, len: u32) -> Option<u32> {
        (!self.is_compressed()).then(|| prefix_len(self, len) + len)
    }
}

/// Why an extent could not be made or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExtentError {
    /// What was read is not what was written under this identity, beginning with this unit of the
    /// piece; other units may be intact. A compressed extent is damaged as a whole: unit 0.
    #[error("unit {unit} is damaged")]
    Damaged {
        /// The first bad unit among those wanted, counted from the start of the piece.
        unit: u32,
    },
    /// Not 1 to 65,536 bytes, or a range that is empty or beyond the end: a mistake of the caller's.
    #[error("a length or range is out of bounds")]
    OutOfBounds,
    /// Not enough memory.
    #[error("not enough memory")]
    OutOfMemory,
}

/// An extent ready to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredExtent {
    /// What the item must say of it.
    pub shape: ExtentShape,
    /// Prefix and data.
    pub bytes: Vec<u8>,
}

/// Makes the stored form of `bytes`, compressed if that pays.
///
/// # Errors
/// If `bytes` is not 1 to 65,536 long, or memory does not suffice.
pub fn encode(
    sealer: &Sealer,
    identity: ExtentIdentity,
    bytes: &[u8],
    algorithm: Algorithm,
    random: &mut Random<'_>,
) -> Result<StoredExtent, ExtentError> {
    if !(1..=EXTENT_BYTES_MAX).contains(&bytes.len()) {
        return Err(ExtentError::OutOfBounds);
    }
    let mut compressed = Vec::new();
    let data = if compress(algorithm, bytes, &mut compressed) {
        (algorithm, &compressed[..])
    } else {
        (Algorithm::None, bytes)
    };
    store(sealer, identity, bytes.len(), data, random)
}

/// Makes the stored form of `len` bytes from what they are once compressed with that algorithm.
pub(crate) fn store(
    sealer: &Sealer,
    identity: ExtentIdentity,
    len: usize,
    (algorithm, data): (Algorithm, &[u8]),
    random: &mut Random<'_>,
) -> Result<StoredExtent, ExtentError> {
    let encoding = Encoding {
        algorithm,
        sealed: sealer.is_keyed(),
    };
    let len = to_u32(len);
    let shape = ExtentShape {
        encoding,
        first_unit: 0,
        len,
        stored_len: prefix_len(encoding, len) + to_u32(data.len()),
    };
    let mut stored = reserve(shape.stored_len as usize)?;
    stored.resize(shape.prefix_len() as usize, 0);
    stored.extend_from_slice(data);
    let (prefix, data) = stored.split_at_mut(shape.prefix_len() as usize);
    shape.seal_units(sealer, identity, prefix, data, random);
    Ok(StoredExtent {
        shape,
        bytes: stored,
    })
}

/// The measures of a stored extent or of a piece cut out of one: lengths that fit together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ExtentShape {
    encoding: Encoding,
    first_unit: u8,
    len: u32,
    stored_len: u32,
}

/// What of a stored extent must be read; byte ranges from its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtentRanges {
    /// The whole prefix.
    pub prefix: Range<u32>,
    /// Of the data, whole units.
    pub data: Range<u32>,
}

/// A row of units to be copied out of a stored extent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtentCut {
    /// What the item must say of the piece. Identity and birth stay those of the extent.
    pub shape: ExtentShape,
    /// Bytes of the stored extent that make up the piece, one range after the other: what all units
    /// share (empty without a key), their checks, their data.
    pub ranges: [Range<u32>; 3],
}

impl ExtentCut {
    /// The stored form of the piece. `None` if `stored` is not as long as the extent it was made for.
    pub fn copy_from(&self, stored: &[u8]) -> Option<Vec<u8>> {
        let mut piece = reserve(self.shape.stored_len as usize).ok()?;
        for range in &self.ranges {
            piece.extend_from_slice(stored.get(to_usize(range))?);
        }
        Some(piece)
    }
}

impl ExtentShape {
    /// A shape from what an item says; `None` if its numbers do not fit together.
    pub fn new(encoding: Encoding, first_unit: u8, len: u32, stored_len: u32) -> Option<Self> {
        let shape = Self {
            encoding,
            first_unit,
            len,
            stored_len,
        };
        let in_extent = len > 0 && u32::from(first_unit) + shape.unit_count() <= UNITS_MAX;
        let data_len = stored_len.checked_sub(prefix_len(encoding, len))?;
        let fits = if encoding.is_compressed() {
            // A compressed extent is never cut.
            first_unit == 0 && data_len > 0 && data_len as usize <= kept_bytes_max(len as usize)
        } else {
            data_len == len
        };
        (in_extent && fits).then_some(shape)
    }

    /// How the data are stored.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Number of the piece's first unit in the extent it was cut from; 0 if it is all of it.
    pub fn first_unit(&self) -> u8 {
        self.first_unit
    }

    /// Bytes of file data.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Bytes in the log: prefix and data.
    pub fn stored_len(&self) -> u32 {
        self.stored_len
    }

    /// Bytes of it before the data; at most 276.
    pub fn prefix_len(&self) -> u32 {
        prefix_len(self.encoding, self.len)
    }

    /// What of the prefix a unit needs: what all share, and its own.
    pub(crate) fn prefix_parts(&self, unit: u32) -> [Range<usize>; 2] {
        let (shared, check_len) = check_bytes(self.encoding);
        let own = shared + unit * check_len..shared + (unit + 1) * check_len;
        [to_usize(&(0..shared)), to_usize(&own)]
    }

    /// What must be read to get the bytes `wanted`, counted from the piece's first. `None` if that is
    /// empty or beyond the end.
    pub fn ranges_for(&self, wanted: &Range<u32>) -> Option<ExtentRanges> {
        let prefix_len = self.prefix_len();
        let data = if self.encoding.is_compressed() {
            (wanted.start < wanted.end && wanted.end <= self.len)
                .then_some(prefix_len..self.stored_len)?
        } else {
            let units = self.units_of(wanted)?;
            prefix_len + units.start * UNIT..prefix_len + (units.end * UNIT).min(self.len)
        };
        Some(ExtentRanges {
            prefix: 0..prefix_len,
            data,
        })
    }

    /// The bytes `wanted`, from what [`ranges_for`](Self::ranges_for) says must be read.
    ///
    /// # Errors
    /// [`ExtentError::Damaged`] if that is not what was written under `identity`, or not by this key.
    pub fn decode(
        &self,
        sealer: &Sealer,
        identity: ExtentIdentity,
        prefix: &[u8],
        data: &[u8],
        wanted: &Range<u32>,
    ) -> Result<Vec<u8>, ExtentError> {
        let ranges = self.ranges_for(wanted).ok_or(ExtentError::OutOfBounds)?;
        let first = (ranges.data.start - ranges.prefix.end) / UNIT;
        // A keyed sealer takes nothing that is merely checksummed: it may have been slipped in.
        if sealer.is_keyed() != self.encoding.sealed
            || prefix.len() != ranges.prefix.len()
            || data.len() != ranges.data.len()
        {
            return Err(ExtentError::Damaged { unit: first });
        }
        let mut bytes = reserve(data.len())?;
        bytes.extend_from_slice(data);
        for (unit, piece) in (first..).zip(bytes.chunks_mut(self.message_bytes())) {
            if !self.open_unit(sealer, identity, prefix, unit, piece) {
                return Err(ExtentError::Damaged { unit });
            }
        }
        let mut start = first * UNIT;
        if self.encoding.is_compressed() {
            start = 0;
            bytes = decompress(self.encoding.algorithm, &bytes, self.len as usize).map_err(
                |error| match error {
                    DecompressError::OutOfMemory => ExtentError::OutOfMemory,
                    DecompressError::Damaged => ExtentError::Damaged { unit: 0 },
                },
            )?;
        }
        bytes.truncate((wanted.end - start) as usize);
        bytes.drain(..(wanted.start - start) as usize);
        Ok(bytes)
    }

    /// How to copy only the units `units`, counted from the piece's first, without opening them. They can be
    /// read afterwards under the same identity. `None` if there are no such units, and for compressed
    /// data, which move whole.
    pub fn cut(&self, units: &Range<u32>) -> Option<ExtentCut> {
        if self.encoding.is_compressed() || units.is_empty() || units.end > self.unit_count() {
            return None;
        }
        let bytes = units.start * UNIT..(units.end * UNIT).min(self.len);
        let (shared, check) = check_bytes(self.encoding);
        let checks = shared + units.start * check..shared + units.end * check;
        let data = self.prefix_len() + bytes.start..self.prefix_len() + bytes.end;
        let shape = Self::new(
            self.encoding,
            self.first_unit + u8::try_from(units.start).ok()?,
            bytes.end - bytes.start,
            shared + (checks.end - checks.start) + (data.end - data.start),
        )?;
        Some(ExtentCut {
            shape,
            ranges: [0..shared, checks, data],
        })
    }

    fn unit_count(&self) -> u32 {
        self.len.div_ceil(UNIT)
    }

    fn units_of(&self, wanted: &Range<u32>) -> Option<Range<u32>> {
        (wanted.start < wanted.end && wanted.end <= self.len)
            .then(|| wanted.start / UNIT..wanted.end.div_ceil(UNIT))
    }

    /// Bytes of data that are under one check.
    fn message_bytes(&self) -> usize {
        if self.encoding.is_compressed() {
            EXTENT_BYTES_MAX
        } else {
            UNIT_BYTES
        }
    }

    fn seal_units(
        &self,
        sealer: &Sealer,
        identity: ExtentIdentity,
        prefix: &mut [u8],
        data: &mut [u8],
        random: &mut Random<'_>,
    ) {
        let (shared, check) = check_bytes(self.encoding);
        let (base, checks) = prefix.split_at_mut(shared as usize);
        random_base(sealer, base, random);
        let pieces = data.chunks_mut(self.message_bytes());
        for ((unit, piece), check) in (0..).zip(pieces).zip(checks.chunks_mut(check as usize)) {
            let context = self.context(identity, unit, piece.len());
            match sealer {
                Sealer::Plain => check.copy_from_slice(&unit_checksum(&context, piece)),
                Sealer::Keyed(keyring) => {
                    let nonce = unit_nonce(base, self.unit_in_extent(unit));
                    check.copy_from_slice(&keyring.seal(Purpose::Extent, &nonce, &context, piece));
                }
            }
        }
    }

    fn open_unit(
        &self,
        sealer: &Sealer,
        identity: ExtentIdentity,
        prefix: &[u8],
        unit: u32,
        piece: &mut [u8],
    ) -> bool {
        let (shared, check_len) = check_bytes(self.encoding);
        let (Some(base), Some(check)) = (
            prefix.get(..shared as usize),
            prefix.get(to_usize(
                &(shared + unit * check_len..shared + (unit + 1) * check_len),
            )),
        ) else {
            return false;
        };
        let context = self.context(identity, unit, piece.len());
        match sealer {
            Sealer::Plain => check == unit_checksum(&context, piece),
            Sealer::Keyed(keyring) => check.first_chunk().is_some_and(|tag| {
                let nonce = unit_nonce(base, self.unit_in_extent(unit));
                keyring
                    .open(Purpose::Extent, &nonce, &context, piece, tag)
                    .is_ok()
            }),
        }
    }

    fn unit_in_extent(&self, unit: u32) -> u32 {
        u32::from(self.first_unit) + unit
    }

    /// What a check covers beside the content.
    fn context(&self, identity: ExtentIdentity, unit: u32, unit_len: usize) -> [u8; 32] {
        let len = if self.encoding.is_compressed() {
            self.len
        } else {
            to_u32(unit_len)
        };
        let mut context = [0; 32];
        let unit =
            (self.unit_in_extent(unit) | u32::from(self.encoding.number()) << 8).to_le_bytes();
        let fields = [
            identity.object.to_le_bytes(),
            identity.offset.to_le_bytes(),
            identity.birth.0.to_le_bytes(),
        ];
        let fields = fields.as_flattened().iter().chain(&unit);
        for (to, from) in context.iter_mut().zip(fields.chain(&len.to_le_bytes())) {
            *to = *from;
        }
        context
    }
}

/// Bytes of the prefix that all units share, and bytes for each check.
fn check_bytes(encoding: Encoding) -> (u32, u32) {
    if encoding.sealed {
        (NONCE_BASE_BYTES, TAG_BYTES)
    } else {
        (0, CHECKSUM_BYTES)
    }
}

fn prefix_len(encoding: Encoding, len: u32) -> u32 {
    let (shared, check) = check_bytes(encoding);
    let checks = if encoding.is_compressed() {
        1
    } else {
        len.div_ceil(UNIT)
    };
    shared + check * checks
}

fn random_base(sealer: &Sealer, base: &mut [u8], random: &mut Random<'_>) {
    if sealer.is_keyed() {
        random(base);
    }
}

/// No two units of one extent have the same one, and two extents only if 160 random bits agree.
fn unit_nonce(base: &[u8], unit: u32) -> [u8; 24] {
    let mut nonce = [0; 24];
    let (head, tail) = nonce.split_at_mut(NONCE_BASE_BYTES as usize);
    for (to, from) in head.iter_mut().zip(base) {
        *to = *from;
    }
    tail.copy_from_slice(&unit.to_le_bytes());
    nonce
}

fn unit_checksum(context: &[u8], bytes: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(context);
    hasher.update(bytes);
    hasher.finalize().to_le_bytes()
}

fn reserve(len: usize) -> Result<Vec<u8>, ExtentError> {
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(len)
        .map_err(|_| ExtentError::OutOfMemory)?;
    Ok(bytes)
}

fn to_usize(range: &Range<u32>) -> Range<usize> {
    range.start as usize..range.end as usize
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "at most 65,536 and a prefix"
)]
fn to_u32(len: usize) -> u32 {
    len as u32
}

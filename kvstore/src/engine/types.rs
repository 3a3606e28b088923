//! What the parts of the engine share: versions and what is in them, places in tables, cursors.
//!
//! An *engine key* is one byte of database and the user's key, compared bytewise. Versions are ordered by key
//! ascending, timestamp descending; of one commit there is one version of a key.

use alloc::vec::Vec;

pub use lfs::ChunkRef;
use smallvec::SmallVec;

use super::varint::{put_varint, take_len, take_varint};
use crate::{DatabaseIndex, KEY_BYTES_MAX, Timestamp};

/// Stands for "never" where an expiry is kept as a number.
pub const NEVER: i64 = i64::MAX;

/// Bytes of the longest engine key.
pub const ENGINE_KEY_BYTES_MAX: usize = KEY_BYTES_MAX + 1;

/// Bytes of the longest value that a version has in itself: one less than the largest threshold for large values.
pub const INLINE_BYTES_MAX: usize = 4095;

/// Pieces of one large value, at most. With pieces of half a commit, the largest that are joined, it bounds what APPEND makes.
pub const PIECES_MAX: usize = 255;

/// Bytes of offsets in the value file that a slot stands for.
pub const SLOT_BYTES: u64 = 4096;

/// Slots of the value file: offsets stay below 2⁶².
pub const SLOT_COUNT: u64 = (1 << 62) / SLOT_BYTES;

/// Bytes of a piece that are one extent, at most.
const PIECE_EXTENT_BYTES: u32 = 64 << 10;

/// Bytes of a coded large value, at most: three numbers of five bytes at most, and for each piece one of eight and
/// one of five.
pub const LARGE_REF_BYTES_MAX: usize = 15 + PIECES_MAX * 13;

/// A part of a large value: bytes in a row of the value file, as extents of at most 64 KiB with a hole behind each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// The first of its slots.
    pub slot: u64,
    /// Bytes, at least one.
    pub bytes: u32,
}

impl Piece {
    /// Slots that it takes: each of its extents has one slot more than it fills.
    pub fn slots(&self) -> u64 {
        let slots_of = |bytes: u32| u64::from(bytes) / SLOT_BYTES + 1;
        let (whole, rest) = (
            self.bytes / PIECE_EXTENT_BYTES,
            self.bytes % PIECE_EXTENT_BYTES,
        );
        let rest = if rest > 0 { slots_of(rest) } else { 0 };
        u64::from(whole) * slots_of(PIECE_EXTENT_BYTES) + rest
    }

    /// Its extents in the value file: bytes from its start, and how many.
    pub fn extents(&self) -> impl Iterator<Item = (u64, usize)> {
        let slots = u64::from(PIECE_EXTENT_BYTES) / SLOT_BYTES + 1;
        let first = self.slot;
        let mut left = self.bytes;
        (0..).map_while(move |number| {
            let bytes = left.min(PIECE_EXTENT_BYTES);
            left -= bytes;
            (bytes > 0).then_some(((first + number * slots) * SLOT_BYTES, bytes as usize))
        })
    }
}

/// The pieces of a large value. Nearly always one.
pub type Pieces = SmallVec<[Piece; 1]>;

/// A large value in coded form, which was checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LargeRef<'b>(&'b [u8]);

impl<'b> LargeRef<'b> {
    /// Takes the whole of `bytes` for one.
    ///
    /// # Errors
    /// If it has no piece or more than [`PIECES_MAX`], an empty one, a sum that is not the total, one that lies outside
    /// the value file, or not behind the one before it: later pieces are written later, and slots only go up.
    pub fn parse(bytes: &'b [u8]) -> Result<Self, Malformed> {
        Self::check(bytes).ok_or(Malformed)
    }

    /// As [`parse`](Self::parse), of what was parsed before.
    pub(super) fn of_checked(bytes: &'b [u8]) -> Self {
        Self(bytes)
    }

    fn check(bytes: &'b [u8]) -> Option<Self> {
        let mut rest = bytes;
        let (total, count) = (take_len(&mut rest)?, take_len(&mut rest)?);
        let inherited = take_len(&mut rest)?;
        if !(1..=PIECES_MAX).contains(&count) || inherited > count {
            return None;
        }
        let (mut sum, mut end) = (0_usize, 0);
        for _ in 0..count {
            let piece = take_piece(&mut rest)?;
            if piece.bytes == 0 || piece.slot < end {
                return None;
            }
            end = piece.slot.checked_add(piece.slots())?;
            if end > SLOT_COUNT {
                return None;
            }
            sum = sum.checked_add(usize::try_from(piece.bytes).ok()?)?;
        }
        (sum == total && rest.is_empty()).then_some(Self(bytes))
    }

    /// Appends the coded form of the value that `pieces` make up, of which the first `inherited` belong to an older
    /// version. [`parse`](Self::parse) says what they have to be.
    pub fn encode(pieces: &[Piece], inherited: u8, out: &mut Vec<u8>) {
        let total = pieces.iter().map(|piece| u64::from(piece.bytes)).sum();
        put_varint(out, total);
        put_varint(out, pieces.len() as u64);
        put_varint(out, u64::from(inherited));
        for piece in pieces {
            put_varint(out, piece.slot);
            put_varint(out, u64::from(piece.bytes));
        }
    }

    /// The coded form.
    pub fn bytes(&self) -> &'b [u8] {
        self.0
    }

    /// Bytes of the value.
    pub fn total(&self) -> u32 {
        let mut rest = self.0;
        take_varint(&mut rest).map_or(0, |total| u32::try_from(total).unwrap_or(u32::MAX))
    }

    /// How many of its pieces, from the first, belong to an older version.
    pub fn inherited(&self) -> u8 {
        let mut rest = self.0;
        let mut take = || take_varint(&mut rest).unwrap_or(0);
        let (_, _, inherited) = (take(), take(), take());
        u8::try_from(inherited).unwrap_or(0)
    }

    /// Bytes of the pieces that belong to no older version.
    pub fn own_bytes(&self) -> u64 {
        let pieces = self.pieces();
        let own = pieces.iter().skip(usize::from(self.inherited()));
        own.map(|piece| u64::from(piece.bytes)).sum()
    }

    /// Its pieces, in the order of the value's bytes.
    pub fn pieces(&self) -> Pieces {
        let mut rest = self.0;
        for _ in 0..3 {
            take_varint(&mut rest);
        }
        let mut pieces = Pieces::new();
        while let Some(piece) = take_piece(&mut rest) {
            pieces.push(piece);
        }
        pieces
    }
}

fn take_piece(bytes: &mut &[u8]) -> Option<Piece> {
    Some(Piece {
        slot: take_varint(bytes)?,
        bytes: take_varint(bytes)?.try_into().ok()?,
    })
}

/// What a key has at a version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content<'b> {
    /// Nothing.
    Tombstone,
    /// A value, of at most [`INLINE_BYTES_MAX`].
    Inline(&'b [u8]),
    /// A value in the value file.
    Large(LargeRef<'b>),
}

impl<'b> Content<'b> {
    /// Its number on disk and in memory.
    pub(super) fn kind(&self) -> u8 {
        match self {
            Self::Tombstone => 0,
            Self::Inline(_) => 1,
            Self::Large(_) => 2,
        }
    }

    /// The bytes that stand for it: the value, or the coded form of a large one.
    pub fn bytes(&self) -> &'b [u8] {
        match self {
            Self::Tombstone => &[],
            Self::Inline(bytes) => bytes,
            Self::Large(large) => large.bytes(),
        }
    }

    /// The content of this kind that `bytes` stand for.
    ///
    /// # Errors
    /// There is none.
    pub fn parse(kind: u8, bytes: &'b [u8]) -> Result<Self, Malformed> {
        match kind {
            0 if bytes.is_empty() => Ok(Self::Tombstone),
            1 => Ok(Self::Inline(bytes)),
            2 => LargeRef::parse(bytes).map(Self::Large),
            _ => Err(Malformed),
        }
    }

    /// As [`parse`](Self::parse), of what was parsed before.
    pub(super) fn of_checked(kind: u8, bytes: &'b [u8]) -> Self {
        match kind {
            1 => Self::Inline(bytes),
            2 => Self::Large(LargeRef::of_checked(bytes)),
            _ => Self::Tombstone,
        }
    }
}

/// A version of a key: what it has from a commit on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VersionRef<'b> {
    /// The commit.
    pub timestamp: Timestamp,
    /// Unix milliseconds, or [`NEVER`]; tombstones never expire.
    pub expires_at_ms: i64,
    /// A live value of the key was visible when this was written.
    pub below: bool,
    /// What the key has.
    pub content: Content<'b>,
}

impl VersionRef<'_> {
    /// Whether it has a value, expired or not: what counts as a key.
    pub fn is_value(&self) -> bool {
        self.content != Content::Tombstone
    }

    /// When its time comes, in Unix milliseconds.
    pub fn expiry(&self) -> Option<i64> {
        (self.expires_at_ms != NEVER).then_some(self.expires_at_ms)
    }

    /// Whether it has a value whose time has not come.
    pub fn is_live_at(&self, now_ms: i64) -> bool {
        self.is_value() && !self.is_expired_at(now_ms)
    }

    /// Whether its time has come.
    pub fn is_expired_at(&self, now_ms: i64) -> bool {
        self.expires_at_ms <= now_ms
    }
}

/// Hides every version of a key in `start ≤ key < end` that is older.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RangeDelete<'b> {
    /// The first key that it covers.
    pub start: &'b [u8],
    /// The first one behind it.
    pub end: &'b [u8],
    /// The commit.
    pub timestamp: Timestamp,
}

/// Bytes that are not what they should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("malformed")]
pub struct Malformed;

/// Memory that was asked for is not to be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("out of memory")]
pub struct OutOfMemory;

impl From<alloc::collections::TryReserveError> for OutOfMemory {
    fn from(_: alloc::collections::TryReserveError) -> Self {
        Self
    }
}

/// Something is not in memory; what, is noted where the read was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not in memory")]
pub struct Missing;

/// Why bytes that were read could not be taken in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BlockError {
    /// They are not what they should be.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// There is no memory for them.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

/// A walk over versions, key ascending and timestamp descending.
///
/// After [`Missing`] it stands where it stood, and the same call can be made again when what was missing is there.
pub trait Cursor {
    /// To the first version at or behind (`key`, `at`).
    ///
    /// # Errors
    /// As all of these: something is not in memory.
    fn seek(&mut self, key: &[u8], at: Timestamp) -> Result<(), Missing>;

    /// To the newest version of the last key before `key`, or of the last one.
    ///
    /// # Errors
    /// Something is not in memory.
    fn seek_back(&mut self, key: Option<&[u8]>) -> Result<(), Missing>;

    /// To the next version, of the same key or another. At the end it stays there.
    ///
    /// # Errors
    /// Something is not in memory.
    fn next(&mut self) -> Result<(), Missing>;

    /// To the newest version of the key before the current one; behind the last key when there is no current one.
    ///
    /// # Errors
    /// Something is not in memory.
    fn previous_key(&mut self) -> Result<(), Missing>;

    /// The version it stands on; `None` before the first seek, behind the last one and before the first one.
    fn current(&self) -> Option<(&[u8], VersionRef<'_>)>;

    /// The key of that version.
    fn key(&self) -> Option<&[u8]>;
}

/// The engine's name for `key` of `db`.
pub fn engine_key(db: DatabaseIndex, key: &[u8]) -> SmallVec<[u8; 64]> {
    let mut engine_key = SmallVec::with_capacity(key.len() + 1);
    engine_key.push(db.0);
    engine_key.extend_from_slice(key);
    engine_key
}

/// Bytes that two keys have in common at their start.
pub(crate) fn shared_bytes(one: &[u8], other: &[u8]) -> usize {
    let words = one.as_chunks::<8>().0.iter().zip(other.as_chunks::<8>().0);
    let whole = 8 * words.take_while(|(one, other)| one == other).count();
    let rest = |bytes| <[u8]>::get(bytes, whole..).unwrap_or_default().iter();
    let pairs = rest(one).zip(rest(other));
    whole + pairs.take_while(|(one, other)| one == other).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::{Random, seed};

    fn encoded(pieces: &[Piece], inherited: u8) -> Vec<u8> {
        let mut bytes = Vec::new();
        LargeRef::encode(pieces, inherited, &mut bytes);
        bytes
    }

    #[test]
    fn a_large_value_says_what_it_was_made_of() {
        let mut random = Random::new(seed(1));
        for count in 1..=PIECES_MAX {
            let mut slot = random.below(SLOT_COUNT / 2);
            let mut pieces = Pieces::new();
            for _ in 0..count {
                let bytes = 1 + u32::try_from(random.below(200_000)).unwrap();
                pieces.push(Piece { slot, bytes });
                slot += Piece { slot, bytes }.slots() + random.below(3);
            }
            let inherited = u8::try_from(random.index(count + 1)).unwrap();
            let bytes = encoded(&pieces, inherited);
            assert!(bytes.len() <= LARGE_REF_BYTES_MAX);
            let large = LargeRef::parse(&bytes).unwrap();
            let total: u32 = pieces.iter().map(|piece| piece.bytes).sum();
            assert_eq!((large.total(), large.inherited()), (total, inherited));
            assert_eq!(large.pieces(), pieces);
            for cut in 0..bytes.len() {
                assert_eq!(LargeRef::parse(&bytes[..cut]), Err(Malformed));
            }
            let longer = [&bytes[..], &[0]].concat();
            assert_eq!(LargeRef::parse(&longer), Err(Malformed));
        }
    }

    #[test]
    fn what_is_no_large_value_is_refused() {
        let piece = |slot, bytes| Piece { slot, bytes };
        for (pieces, inherited) in [
            (&[][..], 0),
            (&[piece(0, 1); 17], 0),
            (&[piece(0, 1)], 2),
            (&[piece(0, 0)], 0),
            (&[piece(0, 4096), piece(1, 1)], 0),
            (&[piece(5, 1), piece(4, 1)], 0),
            (&[piece(SLOT_COUNT - 1, 4096)], 0),
            (&[piece(u64::MAX, 1)], 0),
            (&[piece(0, u32::MAX), piece(1 << 30, 1)], 0),
        ] {
            let bytes = encoded(pieces, inherited);
            assert_eq!(LargeRef::parse(&bytes), Err(Malformed), "{pieces:?}");
        }
        assert!(LargeRef::parse(&encoded(&[piece(SLOT_COUNT - 1, 4095)], 1)).is_ok());
        let mut wrong_total = encoded(&[piece(0, 9)], 0);
        wrong_total[0] = 8;
        assert_eq!(LargeRef::parse(&wrong_total), Err(Malformed));
    }

    #[test]
    fn there_is_a_hole_behind_each_extent() {
        let slots = |bytes| Piece { slot: 0, bytes }.slots();
        assert_eq!([1, 4095, 4096, 65_535].map(slots), [1, 1, 2, 16]);
        assert_eq!(
            [65_536, 65_537, 131_072, 135_168].map(slots),
            [17, 18, 34, 36]
        );
    }

    #[test]
    fn engine_keys_sort_by_database_first() {
        let key = engine_key(DatabaseIndex(3), b"ab");
        assert_eq!(&key[..], b"\x03ab");
        assert!(key < engine_key(DatabaseIndex(4), b""));
    }
}

//! Frames of a backup (SPEC.md, "Backup streams"): each says which stream it belongs to, which frame of it it is, and the
//! checksum of the one before. So what is damaged, missing, from elsewhere or in the wrong order shows at the first frame
//! that is not the next one, and a stream that lacks its end is known to.
//!
//! Nothing here reads or writes files: callers bring bytes.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;

use crate::extent::{Algorithm, compress, decompress};
use crate::{CommitNumber, FileSystemId};

/// Bytes of a frame before its cursor and payload.
pub const FRAME_HEADER_BYTES: usize = 80;

/// Most bytes of a frame's payload, before compression.
pub const FRAME_PAYLOAD_BYTES_MAX: usize = 2 << 20;

/// Most bytes of a cursor: the longest key of the layer above, and some.
const CURSOR_BYTES_MAX: usize = 66_000;

const MAGIC: &[u8; 4] = b"SiBk";

const VERSION: u16 = 1;

/// What a stream is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupId {
    /// Of the file system: the same in all its backups, and tells nothing of its id.
    pub lineage: [u8; 16],
    /// The last commit that the stream shows.
    pub at: CommitNumber,
    /// The last commit of what has to be there already; 0 when the stream is a full one.
    pub since: CommitNumber,
}

impl BackupId {
    /// A backup of the file system with this id.
    pub(crate) fn new(id: &FileSystemId, at: CommitNumber, since: CommitNumber) -> Self {
        let mut lineage = [0; 16];
        let halves = lineage.chunks_exact_mut(8);
        for (half, name) in halves.zip([b"siltstone backup 0", b"siltstone backup 1"]) {
            half.copy_from_slice(&crate::transaction::hash_name(id, name).to_le_bytes());
        }
        Self { lineage, at, since }
    }
}

/// What the frames of a stream are about, in the order in which they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum BackupSection {
    /// The first frame: what the stream is.
    Header = 1,
    /// Records of the layer above.
    Layer = 2,
    /// What is gone.
    Removals = 3,
    /// What is there.
    Contents = 4,
    /// The last frame.
    Trailer = 5,
}

impl BackupSection {
    fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Header,
            2 => Self::Layer,
            3 => Self::Removals,
            4 => Self::Contents,
            5 => Self::Trailer,
            _ => return None,
        })
    }
}

/// Where a stream goes on: all that the source needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BackupToken {
    /// Number of the next frame.
    pub sequence: u64,
    /// Checksum of the frame before it; 0 for the first.
    pub previous_checksum: u32,
    /// Bytes of payload in all frames before, before compression.
    pub payload_bytes: u64,
    /// The place in what is backed up; empty for the first.
    pub cursor: Vec<u8>,
}

impl BackupToken {
    /// As hexadecimal digits.
    pub fn to_text(&self) -> String {
        let mut text = String::with_capacity(40 + 2 * self.cursor.len());
        let (sequence, checksum, bytes) =
            (self.sequence, self.previous_checksum, self.payload_bytes);
        // Writing to a string does not fail.
        let _ = write!(text, "{sequence:016x}{checksum:08x}{bytes:016x}");
        for byte in &self.cursor {
            let _ = write!(text, "{byte:02x}");
        }
        text
    }

    /// Where the stream goes on behind `frame`, as [`encode_frame`] made it; `None` behind the last one.
    pub fn behind(frame: &[u8]) -> Option<Self> {
        let head = Head::parse(frame)?;
        let cursor = frame.get(FRAME_HEADER_BYTES..)?.get(..head.cursor_len)?;
        let trailer = head.section == BackupSection::Trailer as u8;
        (!trailer).then(|| Self {
            sequence: head.sequence.saturating_add(1),
            previous_checksum: head.checksum,
            payload_bytes: head.payload_bytes.saturating_add(head.payload_len as u64),
            cursor: cursor.to_vec(),
        })
    }

    /// What [`to_text`](Self::to_text) made; `None` for anything else.
    pub fn from_text(text: &[u8]) -> Option<Self> {
        let (head, cursor) = text.split_at_checked(40)?;
        let cursor_fits = cursor.len() <= 2 * CURSOR_BYTES_MAX && cursor.len() % 2 == 0;
        let number = |digits: Option<&[u8]>| {
            let digits = digits.filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
            u64::from_str_radix(core::str::from_utf8(digits).ok()?, 16).ok()
        };
        let bytes = cursor.chunks_exact(2).map(|pair| {
            let byte = number(Some(pair))?;
            u8::try_from(byte).ok()
        });
        Some(Self {
            sequence: number(head.get(..16))?,
            previous_checksum: u32::try_from(number(head.get(16..24))?).ok()?,
            payload_bytes: number(head.get(24..40))?,
            cursor: bytes.collect::<Option<_>>().filter(|_| cursor_fits)?,
        })
    }
}

/// Why bytes are not the next frame of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// These are no frames at all.
    #[error("it is no backup of Siltstone's")]
    NotABackup,
    /// A frame is not as it was written.
    #[error("frame {frame} is damaged")]
    Damaged {
        /// Its number, from 0.
        frame: u64,
    },
    /// It ends before its last frame.
    #[error("it is not complete: it ends before frame {frame}")]
    Short {
        /// The number of the frame that is missing.
        frame: u64,
    },
    /// A frame is intact, but not the next one of this stream.
    #[error("frame {frame} is not where it belongs")]
    OutOfOrder {
        /// The number of the frame that should be there.
        frame: u64,
    },
    /// It was made by a later version.
    #[error("its version {version} is not known")]
    Unknown {
        /// The version.
        version: u16,
    },
    /// Not enough memory for a frame.
    #[error("not enough memory")]
    OutOfMemory,
}

/// A frame that was found to be the next one of its stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupFrame {
    /// Which stream it belongs to.
    pub id: BackupId,
    /// What it is about.
    pub section: BackupSection,
    /// What it says.
    pub payload: Vec<u8>,
}

/// Makes the frame at `token`, of at most [`FRAME_PAYLOAD_BYTES_MAX`] bytes of payload. Behind it `next_cursor` is the place.
///
/// # Errors
/// [`BackupError::OutOfMemory`].
pub fn encode_frame(
    id: &BackupId,
    token: &BackupToken,
    section: BackupSection,
    payload: &[u8],
    next_cursor: &[u8],
) -> Result<Vec<u8>, BackupError> {
    debug_assert!(
        payload.len() <= FRAME_PAYLOAD_BYTES_MAX && next_cursor.len() <= CURSOR_BYTES_MAX
    );
    let mut compressed = Vec::new();
    let algorithm = if compress(Algorithm::Lz4, payload, &mut compressed) {
        Algorithm::Lz4
    } else {
        Algorithm::None
    };
    let stored = match algorithm {
        Algorithm::None => payload,
        _ => &compressed,
    };
    let mut frame = Vec::new();
    frame
        .try_reserve_exact(FRAME_HEADER_BYTES + next_cursor.len() + stored.len())
        .map_err(|_| BackupError::OutOfMemory)?;
    // All within the bounds above.
    let len = |len: usize| u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes();
    frame.extend_from_slice(MAGIC);
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(&id.lineage);
    frame.extend_from_slice(&id.at.0.to_le_bytes());
    frame.extend_from_slice(&id.since.0.to_le_bytes());
    frame.extend_from_slice(&token.sequence.to_le_bytes());
    frame.extend_from_slice(&token.payload_bytes.to_le_bytes());
    frame.extend_from_slice(&token.previous_checksum.to_le_bytes());
    frame.extend_from_slice(&VERSION.to_le_bytes());
    frame.extend_from_slice(&[section as u8, algorithm.number()]);
    frame.extend_from_slice(&len(payload.len()));
    frame.extend_from_slice(&len(stored.len()));
    frame.extend_from_slice(&len(next_cursor.len()));
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(next_cursor);
    frame.extend_from_slice(stored);
    let checksum = crc32fast::hash(frame.get(8..).unwrap_or_default());
    if let Some(place) = frame.get_mut(4..8) {
        place.copy_from_slice(&checksum.to_le_bytes());
    }
    Ok(frame)
}

/// Bytes of the frame that begins with `header`, if it is one: enough to read it, nothing is verified.
///
/// # Errors
/// [`BackupError::NotABackup`] and [`BackupError::Unknown`]; frame numbers are up to the caller.
pub fn frame_bytes(header: &[u8; FRAME_HEADER_BYTES]) -> Result<usize, BackupError> {
    let head = Head::parse(header).ok_or(BackupError::NotABackup)?;
    if head.version != VERSION {
        return Err(BackupError::Unknown {
            version: head.version,
        });
    }
    let possible = head.payload_len <= FRAME_PAYLOAD_BYTES_MAX
        && head.stored_len <= head.payload_len
        && head.cursor_len <= CURSOR_BYTES_MAX;
    possible
        .then_some(FRAME_HEADER_BYTES + head.cursor_len + head.stored_len)
        .ok_or(BackupError::NotABackup)
}

struct Head {
    checksum: u32,
    id: BackupId,
    sequence: u64,
    payload_bytes: u64,
    previous_checksum: u32,
    version: u16,
    section: u8,
    algorithm: u8,
    payload_len: usize,
    stored_len: usize,
    cursor_len: usize,
    reserved: u32,
}

impl Head {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.strip_prefix(MAGIC)?;
        let checksum = take(&mut rest).map(u32::from_le_bytes)?;
        let lineage = take(&mut rest)?;
        let mut long = || take(&mut rest).map(u64::from_le_bytes);
        let (at, since) = (CommitNumber(long()?), CommitNumber(long()?));
        let (sequence, payload_bytes) = (long()?, long()?);
        let previous_checksum = take(&mut rest).map(u32::from_le_bytes)?;
        let version = take(&mut rest).map(u16::from_le_bytes)?;
        let [section, algorithm] = take(&mut rest)?;
        let mut len = || take(&mut rest).map(|len| u32::from_le_bytes(len) as usize);
        Some(Self {
            checksum,
            id: BackupId { lineage, at, since },
            sequence,
            payload_bytes,
            previous_checksum,
            version,
            section,
            algorithm,
            payload_len: len()?,
            stored_len: len()?,
            cursor_len: len()?,
            reserved: take(&mut rest).map(u32::from_le_bytes)?,
        })
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}

/// Takes the frames of one stream, from the first to the last, and none else.
#[derive(Debug, Clone, Default)]
pub struct BackupVerifier {
    next: BackupToken,
    id: Option<BackupId>,
    section: Option<BackupSection>,
}

impl BackupVerifier {
    /// Where the stream goes on behind what was taken.
    pub fn next(&self) -> &BackupToken {
        &self.next
    }

    /// The stream that the frames so far belong to.
    pub fn id(&self) -> Option<&BackupId> {
        self.id.as_ref()
    }

    /// Whether the last frame was taken.
    pub fn is_complete(&self) -> bool {
        self.section == Some(BackupSection::Trailer)
    }

    /// The error for a stream that ends here.
    pub fn short(&self) -> BackupError {
        BackupError::Short {
            frame: self.next.sequence,
        }
    }

    /// Takes the next frame: exactly these bytes. After an error nothing has been taken.
    ///
    /// # Errors
    /// When it is not the next frame.
    pub fn accept(&mut self, bytes: &[u8]) -> Result<BackupFrame, BackupError> {
        let frame = self.next.sequence;
        let damaged = BackupError::Damaged { frame };
        let Some(header) = bytes.first_chunk::<FRAME_HEADER_BYTES>() else {
            return Err(self.short());
        };
        let whole = frame_bytes(header).map_err(|error| match error {
            BackupError::NotABackup if frame > 0 => damaged,
            error => error,
        })?;
        if bytes.len() != whole {
            return Err(damaged);
        }
        let head = Head::parse(header).ok_or(damaged)?;
        if crc32fast::hash(bytes.get(8..).unwrap_or_default()) != head.checksum {
            return Err(damaged);
        }
        let section = BackupSection::from_number(head.section).ok_or(damaged)?;
        let in_order = match self.section {
            None => section == BackupSection::Header,
            Some(BackupSection::Trailer) => false,
            Some(before) => section >= before && section > BackupSection::Header,
        };
        let of_this = self.id.is_none_or(|id| id == head.id);
        let follows = head.sequence == frame
            && head.previous_checksum == self.next.previous_checksum
            && head.payload_bytes == self.next.payload_bytes;
        if !in_order || !of_this || !follows || head.id.since >= head.id.at {
            return Err(BackupError::OutOfOrder { frame });
        }
        let body = bytes.get(FRAME_HEADER_BYTES..).unwrap_or_default();
        let (cursor, stored) = body.split_at_checked(head.cursor_len).ok_or(damaged)?;
        let algorithm = Algorithm::from_number(head.algorithm).ok_or(damaged)?;
        if head.reserved != 0
            || (algorithm == Algorithm::None && head.stored_len != head.payload_len)
        {
            return Err(damaged);
        }
        let payload = match decompress(algorithm, stored, head.payload_len) {
            Ok(payload) => payload,
            Err(crate::DecompressError::OutOfMemory) => return Err(BackupError::OutOfMemory),
            Err(_) => return Err(damaged),
        };
        self.id = Some(head.id);
        self.section = Some(section);
        self.next = BackupToken {
            sequence: frame + 1,
            previous_checksum: head.checksum,
            payload_bytes: self.next.payload_bytes.saturating_add(payload.len() as u64),
            cursor: cursor.to_vec(),
        };
        Ok(BackupFrame {
            id: head.id,
            section,
            payload,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> Vec<Vec<u8>> {
        let id = BackupId::new(&FileSystemId([7; 16]), CommitNumber(9), CommitNumber(3));
        let mut verifier = BackupVerifier::default();
        let parts: [(_, &[u8], &[u8]); 4] = [
            (BackupSection::Header, b"head", b"\0"),
            (BackupSection::Layer, b"keys", b"\x01"),
            (BackupSection::Contents, &[0; 5000], b"\x02\x09"),
            (BackupSection::Trailer, b"", b""),
        ];
        let frames = parts.map(|(section, payload, cursor)| {
            let bytes = encode_frame(&id, verifier.next(), section, payload, cursor).unwrap();
            let header = bytes.first_chunk().unwrap();
            assert_eq!(frame_bytes(header), Ok(bytes.len()));
            let frame = verifier.accept(&bytes).unwrap();
            assert_eq!((frame.section, &frame.payload[..]), (section, payload));
            assert_eq!(verifier.next().cursor, cursor);
            bytes
        });
        assert!(verifier.is_complete());
        frames.to_vec()
    }

    fn verify(frames: &[Vec<u8>]) -> Result<(), BackupError> {
        let mut verifier = BackupVerifier::default();
        for frame in frames {
            verifier.accept(frame)?;
        }
        verifier.is_complete().then_some(()).ok_or(verifier.short())
    }

    #[test]
    fn every_bit_of_a_stream_matters() {
        let frames = stream();
        assert_eq!(verify(&frames), Ok(()));
        for frame in 0..frames.len() {
            for bit in 0..frames[frame].len() * 8 {
                let mut frames = frames.clone();
                frames[frame][bit / 8] ^= 1 << (bit % 8);
                assert!(verify(&frames).is_err(), "frame {frame}, bit {bit}");
            }
        }
    }

    #[test]
    fn a_frame_that_is_missing_added_or_elsewhere_is_noticed() {
        let frames = stream();
        for at in 0..frames.len() {
            let mut without = frames.clone();
            without.remove(at);
            assert!(verify(&without).is_err(), "without {at}");
            let mut twice = frames.clone();
            twice.insert(at, frames[at].clone());
            assert!(verify(&twice).is_err(), "{at} twice");
            assert_eq!(
                verify(&frames[..at]),
                Err(BackupError::Short { frame: at as u64 })
            );
        }
        let mut swapped = frames.clone();
        swapped.swap(1, 2);
        assert_eq!(verify(&swapped), Err(BackupError::OutOfOrder { frame: 1 }));
        let id = BackupId::new(&FileSystemId([8; 16]), CommitNumber(9), CommitNumber(3));
        let mut verifier = BackupVerifier::default();
        verifier.accept(&frames[0]).unwrap();
        let other = encode_frame(&id, verifier.next(), BackupSection::Layer, b"", b"").unwrap();
        assert_eq!(
            verifier.accept(&other),
            Err(BackupError::OutOfOrder { frame: 1 })
        );
    }

    #[test]
    fn other_things_and_other_versions_are_told_apart() {
        let mut verifier = BackupVerifier::default();
        assert_eq!(verifier.accept(&[b'x'; 200]), Err(BackupError::NotABackup));
        let mut later = stream().remove(0);
        later[60] = 2;
        assert_eq!(
            verifier.accept(&later),
            Err(BackupError::Unknown { version: 2 })
        );
    }

    #[test]
    fn tokens_survive_a_round_trip_and_nonsense_is_refused() {
        let token = BackupToken {
            sequence: 12,
            previous_checksum: 0xDEAD_BEEF,
            payload_bytes: 1 << 40,
            cursor: alloc::vec![0, 255, 7],
        };
        let text = token.to_text();
        assert_eq!(BackupToken::from_text(text.as_bytes()), Some(token));
        for bad in [
            "",
            "0",
            &text[..text.len() - 1],
            &text.replace('f', "g"),
            &text.replace('f', "+"),
        ] {
            assert_eq!(BackupToken::from_text(bad.as_bytes()), None, "{bad}");
        }
    }
}

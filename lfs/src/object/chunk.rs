//! A chunk as it lies in an object, and where the next one begins.
//!
//! `length ‖ checksum ‖ [seal] ‖ what it holds`. A chunk of length 0 says that the object goes on at the next segment: it has a
//! checksum as well, and a seal, since a length that rotted to 0 would hide all chunks up to there.

use alloc::vec::Vec;

use super::CHUNK_BYTES_MAX;
use crate::ObjectId;
use crate::disk::layout::SEAL_BYTES;
use crate::disk::superblock::Superblock;
use crate::seal::{Purpose, Vault};

/// Length and checksum.
pub(super) const HEAD_BYTES: usize = 8;

/// How the chunks of one file system look.
pub(crate) struct Form<'v> {
    vault: &'v Vault,
    segment_bytes: u64,
    /// Bytes before what a chunk holds.
    head_bytes: usize,
}

/// Why a chunk did not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unopened {
    /// It is not what was written there.
    Damaged,
    OutOfMemory,
}

/// Where a chunk goes that comes behind others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Placed {
    pub at: u64,
    /// The segment before it ends here, with a chunk that says so if there is room for one.
    pub leaves: Option<Leaves>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaves {
    /// No chunk would fit there.
    Nothing,
    /// There has to be one of length 0.
    Room,
}

impl<'v> Form<'v> {
    pub(crate) fn new(superblock: &Superblock, vault: &'v Vault) -> Self {
        Self {
            vault,
            segment_bytes: superblock.segment_bytes() as u64,
            head_bytes: if vault.sealer().is_keyed() {
                HEAD_BYTES + SEAL_BYTES
            } else {
                HEAD_BYTES
            },
        }
    }

    pub(crate) fn head_bytes(&self) -> usize {
        self.head_bytes
    }

    pub(crate) fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// Bytes that a chunk of `len` takes.
    pub(crate) fn stored_bytes(&self, len: u32) -> u64 {
        self.head_bytes as u64 + u64::from(len)
    }

    /// Bytes from `at` to the end of its segment.
    pub(super) fn room(&self, at: u64) -> u64 {
        self.segment_bytes - at % self.segment_bytes
    }

    /// Where the segment behind that of `at` begins.
    pub(crate) fn next_segment(&self, at: u64) -> u64 {
        at.saturating_add(self.room(at))
    }

    /// Where a chunk begins that comes behind one that ends at `end`, unless that says otherwise: where no head fits, none is.
    pub(crate) fn settle(&self, end: u64) -> u64 {
        if self.room(end) < self.head_bytes as u64 {
            self.next_segment(end)
        } else {
            end
        }
    }

    /// Whether a chunk of `len` may begin at `at`: one that fits into a segment is in one.
    fn fits(&self, at: u64, len: u32) -> bool {
        let stored = self.stored_bytes(len);
        let room = self.room(at);
        stored <= room || (stored > self.segment_bytes && room >= self.head_bytes as u64)
    }

    /// Where the next chunk goes, of `len`, when the one before ends at `end`.
    pub(super) fn place(&self, end: u64, len: u32) -> Placed {
        if self.fits(end, len) {
            return Placed {
                at: end,
                leaves: None,
            };
        }
        let leaves = if self.settle(end) == end {
            Leaves::Room
        } else {
            Leaves::Nothing
        };
        Placed {
            at: self.next_segment(end),
            leaves: Some(leaves),
        }
    }

    /// Where a chunk of `len` at `at` ends; `None` if no chunk like that can be in an object that ends at `object_end`.
    pub(crate) fn end(&self, at: u64, len: u32, object_end: u64) -> Option<u64> {
        let possible = len > 0 && len as usize <= CHUNK_BYTES_MAX && at < object_end;
        let end = at.checked_add(self.stored_bytes(len))?;
        (possible && end <= object_end && self.fits(at, len)).then_some(end)
    }

    /// Where the walk goes on behind a chunk at `at` that says `len`; `None` if that cannot be so.
    pub(crate) fn behind(&self, at: u64, len: u32, object_end: u64) -> Option<u64> {
        if len == 0 {
            return Some(self.next_segment(at)).filter(|next| *next < object_end);
        }
        self.end(at, len, object_end).map(|end| self.settle(end))
    }

    /// Makes a chunk of what is to be one, at `at`: room for the head, then what it holds.
    pub(super) fn close(&self, object: ObjectId, at: u64, stored: &mut [u8]) {
        let head_bytes = self.head_bytes.min(stored.len());
        let (head, body) = stored.split_at_mut(head_bytes);
        // Whoever calls has looked at the length.
        let len = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let context = self.context(object, at, len);
        if let Some(target) = head.get_mut(HEAD_BYTES..).filter(|seal| !seal.is_empty()) {
            let seal = self.vault.seal(Purpose::Object, &context, body);
            target.copy_from_slice(&seal);
        }
        let sum = checksum(&context, head.get(HEAD_BYTES..).unwrap_or_default(), body);
        let (len, sum) = (len.to_le_bytes(), sum.to_le_bytes());
        if let Some(target) = head.get_mut(..HEAD_BYTES) {
            target.copy_from_slice(&[len, sum].concat());
        }
    }

    /// What the chunk at `at` says of its length.
    pub(crate) fn said_len(head: &[u8]) -> Option<u32> {
        head.first_chunk().map(|len| u32::from_le_bytes(*len))
    }

    /// Appends what `stored`, which is all of a chunk at `at`, holds.
    pub(crate) fn open(
        &self,
        object: ObjectId,
        at: u64,
        stored: &[u8],
        bytes: &mut Vec<u8>,
    ) -> Result<(), Unopened> {
        let damaged = Unopened::Damaged;
        let (head, body) = stored.split_at_checked(self.head_bytes).ok_or(damaged)?;
        let (said, seal) = head.split_at_checked(HEAD_BYTES).ok_or(damaged)?;
        let len = u32::try_from(body.len()).map_err(|_| damaged)?;
        let context = self.context(object, at, len);
        let sum = checksum(&context, seal, body);
        if *said != [len.to_le_bytes(), sum.to_le_bytes()].concat() {
            return Err(damaged);
        }
        let start = bytes.len();
        bytes
            .try_reserve(body.len())
            .map_err(|_| Unopened::OutOfMemory)?;
        bytes.extend_from_slice(body);
        if let Some(seal) = seal.first_chunk::<SEAL_BYTES>() {
            let target = bytes.get_mut(start..).unwrap_or_default();
            if !self.vault.open(Purpose::Object, &context, target, seal) {
                bytes.truncate(start);
                return Err(damaged);
            }
        }
        Ok(())
    }

    /// Makes the checksums of all chunks right to which the lengths in an object lead, without a key.
    #[cfg(feature = "sim")]
    pub(crate) fn forge(&self, id: ObjectId, object: &mut [u8]) {
        let end = object.len() as u64;
        let mut at = 0;
        while at < end {
            let place = usize::try_from(at).unwrap_or(usize::MAX);
            let len = object.get(place..).and_then(Self::said_len);
            let len = len.filter(|len| self.behind(at, *len, end).is_some());
            let stored = len.map(|len| place..place + self.head_bytes + len as usize);
            if let Some(stored) = stored.and_then(|stored| object.get_mut(stored)) {
                self.close(id, at, stored);
            }
            let next = len.and_then(|len| self.behind(at, len, end));
            at = next.unwrap_or(self.next_segment(at));
        }
    }

    /// What a chunk is, and where it belongs: not stored with it, but for the length.
    fn context(&self, object: ObjectId, at: u64, len: u32) -> [u8; 36] {
        let mut context = [0; 36];
        let id = self.vault.id();
        let parts = [
            &id.0[..],
            &object.0.to_le_bytes(),
            &at.to_le_bytes(),
            &len.to_le_bytes(),
        ];
        for (target, byte) in context.iter_mut().zip(parts.into_iter().flatten()) {
            *target = *byte;
        }
        context
    }
}

fn checksum(context: &[u8], seal: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for part in [context, seal, body] {
        hasher.update(part);
    }
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::superblock::tests::example;
    use crate::seal::{DataKey, Sealer, SharedVault, Suite, testing};

    const OBJECT: ObjectId = ObjectId(7);

    fn vaults() -> [SharedVault; 2] {
        let key = DataKey::generate(&mut testing::random(5));
        let sealer = Sealer::keyed(Suite::default(), &key);
        let id = example().id;
        [Vault::plain(id), Vault::keyed(id, sealer, [1; 32])]
    }

    fn closed(form: &Form<'_>, at: u64, body: &[u8]) -> Vec<u8> {
        let mut stored = alloc::vec![0; form.head_bytes()];
        stored.extend_from_slice(body);
        form.close(OBJECT, at, &mut stored);
        stored
    }

    #[test]
    fn a_chunk_is_right_in_its_place_alone_and_no_bit_of_it_may_change() {
        let superblock = example();
        for vault in vaults() {
            let form = Form::new(&superblock, &vault);
            for body in [&[][..], &[0], b"what it holds"] {
                let stored = closed(&form, 4096, body);
                let opens = |object, at, stored: &[u8]| {
                    let mut bytes = b"before".to_vec();
                    let opened = form.open(object, at, stored, &mut bytes);
                    assert!(bytes.starts_with(b"before"));
                    let bytes = bytes.split_off(6);
                    assert!(opened.is_ok() || bytes.is_empty());
                    opened.is_ok().then_some(bytes)
                };
                assert_eq!(opens(OBJECT, 4096, &stored).as_deref(), Some(body));
                for (object, at) in [(ObjectId(8), 4096), (OBJECT, 4097), (OBJECT, 0)] {
                    assert_eq!(opens(object, at, &stored), None);
                }
                for bit in 0..stored.len() * 8 {
                    let mut bent = stored.clone();
                    bent[bit / 8] ^= 1 << (bit % 8);
                    assert_eq!(opens(OBJECT, 4096, &bent), None, "bit {bit}");
                }
                for cut in 0..stored.len() {
                    assert_eq!(opens(OBJECT, 4096, &stored[..cut]), None);
                }
                assert_eq!(opens(OBJECT, 4096, &[&stored[..], &[0]].concat()), None);
            }
        }
    }

    /// Whoever can write the disk puts a right checksum in.
    #[test]
    fn with_a_key_a_checksum_is_not_enough() {
        let superblock = example();
        let [_, vault] = vaults();
        let form = Form::new(&superblock, &vault);
        for body in [&[][..], b"what it holds"] {
            let stored = closed(&form, 0, body);
            for byte in HEAD_BYTES..stored.len() {
                let mut bent = stored.clone();
                bent[byte] ^= 1;
                let len = u32::try_from(body.len()).unwrap();
                let context = form.context(OBJECT, 0, len);
                let (seal, body) = bent[HEAD_BYTES..].split_at(SEAL_BYTES);
                let sum = checksum(&context, seal, body).to_le_bytes();
                bent[4..8].copy_from_slice(&sum);
                let opened = form.open(OBJECT, 0, &bent, &mut Vec::new());
                assert_eq!(opened, Err(Unopened::Damaged), "byte {byte}");
            }
        }
    }

    #[test]
    fn chunks_are_within_a_segment_unless_they_are_larger() {
        let superblock = example();
        let [plain, keyed] = vaults();
        for (vault, head) in [(plain, 8), (keyed, 48)] {
            let form = Form::new(&superblock, &vault);
            let segment = form.segment_bytes();
            let whole = u32::try_from(segment - head).unwrap();
            let at = |at| Placed { at, leaves: None };
            let next = |leaves| Placed {
                at: segment,
                leaves: Some(leaves),
            };
            assert_eq!(form.place(0, whole), at(0));
            assert_eq!(form.place(1, whole), next(Leaves::Room));
            assert_eq!(form.place(segment - head - 5, 5), at(segment - head - 5));
            assert_eq!(form.place(segment - head - 4, 5), next(Leaves::Room));
            assert_eq!(form.place(segment - head, 1), next(Leaves::Room));
            assert_eq!(form.place(segment - head + 1, 1), next(Leaves::Nothing));
            assert_eq!(form.place(segment, whole), at(segment));
            // What is larger than a segment begins where there is room for its head.
            assert_eq!(form.place(segment - head, whole + 1), at(segment - head));
            let too_late = segment - head + 1;
            assert_eq!(form.place(too_late, whole + 1), next(Leaves::Nothing));

            let end = |at, len| form.end(at, len, 2 * segment);
            assert_eq!(end(0, whole), Some(segment));
            assert_eq!(end(1, whole), None);
            assert_eq!(end(segment, whole), Some(2 * segment));
            assert_eq!(end(0, whole + 1), Some(segment + 1));
            assert_eq!(end(segment, whole + 1), None);
            for (at, len) in [(0, 0), (0, u32::MAX), (2 * segment, 1), (u64::MAX, 1)] {
                assert_eq!(end(at, len), None, "{at}, {len}");
            }
            assert_eq!(form.behind(9, 0, segment + 1), Some(segment));
            assert_eq!(form.behind(9, 0, segment), None);
            assert_eq!(form.behind(u64::MAX, 0, segment), None);
            assert_eq!(form.behind(0, whole - 1, 2 * segment), Some(segment));
        }
    }
}

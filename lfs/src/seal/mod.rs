//! Seals: how anything on the disk shows that it is what was written there (SPEC.md), and how
//! it is kept secret where a key is set.
//!
//! - `cipher`: the two suites, one message at a time;
//! - `keys`: the data key, the keys drawn from it, what passphrases and key files become;
//! - `slots`: the block in which the data key lies wrapped;
//! - `vault`: how the structures of a file system carry their seals.
//!
//! [`Sealer`] is what everything else sees. Without a key a seal is a CRC-32 and the content stays
//! readable; with one it is the tag of an authenticated cipher. Callers have one code path for both.
//!
//! Invariants:
//! - A seal covers what the thing is (its [`Purpose`]), which one it is (the caller's context) and its
//!   content. Intact bytes in the wrong place do not open.
//! - A keyed sealer opens nothing that is not sealed by its key. It never falls back to checksums.
//! - No nonce is used twice under one key (`DESIGN.md`, "Nonces"): each is drawn anew from the
//!   generator the caller hands in, and none is counted up from a state on the disk.
//! - Key material is wiped when it is dropped, and no `Debug` shows it.
//!
//! Not here: where anything lies on the disk, and where chance comes from. The generator must be
//! seeded from the machine's entropy at every start, never from an image.

mod cipher;
mod keys;
mod slots;
mod vault;

use alloc::boxed::Box;

pub use cipher::Suite;
pub use keys::{DataKey, KdfCost, Secret};
pub use slots::{KEY_SLOT_BYTES, KEY_SLOT_COUNT, KeyError, KeySlots};
pub(crate) use vault::{SharedVault, Vault};

use cipher::{NONCE_BYTES, TAG_BYTES};
use keys::Keyring;

/// A cryptographic generator: fills the slice with bytes nobody can foretell.
pub type Random<'a> = dyn FnMut(&mut [u8]) + 'a;

/// What is sealed. Each purpose has a key of its own, so that nothing passes for something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Purpose {
    /// A commit group.
    Group = 1,
    /// A node of the tree.
    Node = 2,
    /// A unit of file data.
    Extent = 3,
    /// A chunk of an object.
    Object = 4,
    /// A checkpoint slot.
    Slot = 5,
    /// A block of the segment table.
    SegmentTable = 6,
    /// A frame of a backup stream.
    Backup = 7,
    /// The block of key slots itself; used by [`KeySlots`] only.
    KeySlots = 8,
}

impl Purpose {
    /// How many there are.
    pub(crate) const COUNT: usize = 8;

    /// The number on disk.
    pub const fn number(self) -> u8 {
        self as u8
    }

    const fn index(self) -> usize {
        self as usize - 1
    }
}

/// What lies beside a sealed body; 40 bytes on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seal {
    /// Drawn for this message. Zero without a key.
    pub nonce: [u8; 24],
    /// Tag of the cipher. Without a key: the CRC-32, then zeros.
    pub tag: [u8; 16],
}

impl Seal {
    /// Length on disk.
    pub const BYTES: usize = NONCE_BYTES + TAG_BYTES;

    /// As stored: nonce, tag.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let (nonce, tag) = bytes.split_at_mut(NONCE_BYTES);
        nonce.copy_from_slice(&self.nonce);
        tag.copy_from_slice(&self.tag);
        bytes
    }

    /// From what is stored.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let mut seal = Self {
            nonce: [0; NONCE_BYTES],
            tag: [0; TAG_BYTES],
        };
        let (nonce, tag) = bytes.split_at(NONCE_BYTES);
        seal.nonce.copy_from_slice(nonce);
        seal.tag.copy_from_slice(tag);
        seal
    }
}

/// What was read is not what was sealed, or was sealed for another place or by another key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the seal is broken")]
pub struct SealDamaged;

/// Seals and opens everything on one file system.
#[derive(Debug)]
pub enum Sealer {
    /// No key: checksums against accidents, none against malice, and no secrecy.
    Plain,
    /// Encrypted and authenticated.
    Keyed(Box<Keyring>),
}

impl Sealer {
    /// The sealer of an encrypted file system.
    pub fn keyed(suite: Suite, key: &DataKey) -> Self {
        Self::Keyed(Keyring::new(suite, key))
    }

    /// Whether what it seals is secret.
    pub fn is_keyed(&self) -> bool {
        matches!(self, Self::Keyed(_))
    }

    /// The suite, if there is a key.
    pub fn suite(&self) -> Option<Suite> {
        match self {
            Self::Plain => None,
            Self::Keyed(keyring) => Some(keyring.suite()),
        }
    }

    /// Seals `body` where it lies; its length stays. `context` says which of its purpose it is (number,
    /// address, length, flags that lie beside it in the clear): it is covered but not stored.
    pub fn seal_in_place(
        &self,
        purpose: Purpose,
        context: &[u8],
        body: &mut [u8],
        random: &mut Random<'_>,
    ) -> Seal {
        let mut seal = Seal {
            nonce: [0; NONCE_BYTES],
            tag: [0; TAG_BYTES],
        };
        match self {
            Self::Plain => seal.tag = checksum_tag(purpose, context, body),
            Self::Keyed(keyring) => {
                random(&mut seal.nonce);
                seal.tag = keyring.seal(purpose, &seal.nonce, context, body);
            }
        }
        seal
    }

    /// Opens what [`seal_in_place`](Self::seal_in_place) sealed, where it lies.
    ///
    /// # Errors
    /// If anything differs from what was sealed. `body` is then as it was: nothing unauthentic is decrypted.
    pub fn open_in_place(
        &self,
        purpose: Purpose,
        context: &[u8],
        body: &mut [u8],
        seal: &Seal,
    ) -> Result<(), SealDamaged> {
        match self {
            Self::Plain => {
                let intact = seal.nonce == [0; NONCE_BYTES]
                    && seal.tag == checksum_tag(purpose, context, body);
                intact.then_some(()).ok_or(SealDamaged)
            }
            Self::Keyed(keyring) => keyring.open(purpose, &seal.nonce, context, body, &seal.tag),
        }
    }
}

fn checksum_tag(purpose: Purpose, context: &[u8], body: &[u8]) -> [u8; TAG_BYTES] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[purpose.number()]);
    hasher.update(context);
    hasher.update(body);
    let mut tag = [0; TAG_BYTES];
    if let Some(sum) = tag.first_chunk_mut() {
        *sum = hasher.finalize().to_le_bytes();
    }
    tag
}

/// A generator for tests: foretellable, never the same bytes twice.
#[cfg(test)]
pub(crate) mod testing {
    /// xorshift64*, from `seed`.
    pub(crate) fn random(seed: u64) -> impl FnMut(&mut [u8]) {
        let mut state = seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15) | 1;
        move |bytes| {
            for chunk in bytes.chunks_mut(8) {
                state ^= state >> 12;
                state ^= state << 25;
                state ^= state >> 27;
                let word = state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes();
                chunk.copy_from_slice(&word[..chunk.len()]);
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers")]
mod tests {
    use alloc::collections::BTreeSet;
    use alloc::format;
    use alloc::vec;
    use alloc::vec::Vec;

    use super::*;

    pub(crate) fn sealers() -> [Sealer; 3] {
        let key = DataKey::generate(&mut testing::random(1));
        [
            Sealer::Plain,
            Sealer::keyed(Suite::XChaCha20Poly1305, &key),
            Sealer::keyed(Suite::Aes256GcmSiv, &key),
        ]
    }

    #[test]
    fn opens_what_it_sealed_and_hides_it() {
        let mut random = testing::random(2);
        for sealer in sealers() {
            for len in [0usize, 1, 15, 16, 17, 255, 4096, 100_000] {
                let mut body = vec![0; len];
                random(&mut body);
                let original = body.clone();
                let seal = sealer.seal_in_place(Purpose::Node, b"7", &mut body, &mut random);
                if len >= 15 {
                    assert_eq!(body == original, !sealer.is_keyed());
                }
                let seal = Seal::from_bytes(&seal.to_bytes());
                assert_eq!(
                    sealer.open_in_place(Purpose::Node, b"7", &mut body, &seal),
                    Ok(())
                );
                assert_eq!(body, original);
            }
        }
    }

    #[test]
    fn every_flipped_bit_shows_and_leaves_the_body_alone() {
        let mut random = testing::random(3);
        for sealer in sealers() {
            let mut body = b"forty-two bytes of a body that is sealed..".to_vec();
            let seal = sealer.seal_in_place(Purpose::Group, b"context", &mut body, &mut random);
            for bit in 0..body.len() * 8 {
                body[bit / 8] ^= 1 << (bit % 8);
                let before = body.clone();
                assert!(
                    sealer
                        .open_in_place(Purpose::Group, b"context", &mut body, &seal)
                        .is_err()
                );
                assert_eq!(body, before);
                body[bit / 8] ^= 1 << (bit % 8);
            }
            for bit in 0..Seal::BYTES * 8 {
                let mut bytes = seal.to_bytes();
                bytes[bit / 8] ^= 1 << (bit % 8);
                let bent = Seal::from_bytes(&bytes);
                assert!(
                    sealer
                        .open_in_place(Purpose::Group, b"context", &mut body, &bent)
                        .is_err(),
                    "bit {bit} of the seal does not matter"
                );
            }
            for context in [&b"contexu"[..], b"contex", b"context\0", b""] {
                assert!(
                    sealer
                        .open_in_place(Purpose::Group, context, &mut body, &seal)
                        .is_err()
                );
            }
            assert!(
                sealer
                    .open_in_place(Purpose::Node, b"context", &mut body, &seal)
                    .is_err()
            );
            for cut in 0..body.len() {
                let mut short = body[..cut].to_vec();
                assert!(
                    sealer
                        .open_in_place(Purpose::Group, b"context", &mut short, &seal)
                        .is_err()
                );
            }
        }
    }

    #[test]
    fn another_key_another_suite_or_no_key_opens_nothing() {
        let mut random = testing::random(4);
        let other = DataKey::generate(&mut random);
        for sealer in sealers() {
            let mut body = vec![7; 100];
            let seal = sealer.seal_in_place(Purpose::Slot, b"", &mut body, &mut random);
            let mut opened_by = 0;
            for opener in sealers() {
                let mut copy = body.clone();
                opened_by += usize::from(
                    opener
                        .open_in_place(Purpose::Slot, b"", &mut copy, &seal)
                        .is_ok(),
                );
            }
            assert_eq!(opened_by, 1);
            for suite in Suite::ALL {
                let stranger = Sealer::keyed(suite, &other);
                let mut copy = body.clone();
                assert!(
                    stranger
                        .open_in_place(Purpose::Slot, b"", &mut copy, &seal)
                        .is_err()
                );
            }
        }
    }

    #[test]
    fn nonces_are_drawn_anew_for_every_message() {
        let mut random = testing::random(5);
        let mut seen = BTreeSet::new();
        for sealer in sealers().iter().skip(1) {
            for _ in 0..5000 {
                let mut body = [0; 4];
                let seal = sealer.seal_in_place(Purpose::Group, b"", &mut body, &mut random);
                assert!(seen.insert(seal.nonce), "a nonce came twice");
            }
        }
    }

    #[test]
    fn a_seal_is_pinned() {
        // Computed by another implementation (Python's `cryptography`, HChaCha20 written out).
        let key = DataKey::from_bytes(core::array::from_fn(|index| index as u8));
        let expected: [(&str, &str); 2] = [
            (
                "2290871354eb488cd8e994511bcda9dee1d563",
                "bfccb6c2bc81485cbbbbcd3b10cbf6d5",
            ),
            (
                "8658eed6089b6c6caddf5158255a5a12fb7a08",
                "31923279e2fbc761e10d7bc41819ecb2",
            ),
        ];
        for (suite, (ciphertext, tag)) in Suite::ALL.into_iter().zip(expected) {
            let sealer = Sealer::keyed(suite, &key);
            let mut body = b"the body of a group".to_vec();
            let mut count = |bytes: &mut [u8]| {
                for (index, byte) in bytes.iter_mut().enumerate() {
                    *byte = 100 + index as u8;
                }
            };
            let seal = sealer.seal_in_place(Purpose::Group, b"context", &mut body, &mut count);
            assert_eq!(
                (hex(&body).as_str(), hex(&seal.tag).as_str()),
                (ciphertext, tag)
            );
        }
        let mut body = b"the body of a group".to_vec();
        let seal = Sealer::Plain.seal_in_place(Purpose::Group, b"context", &mut body, &mut |_| ());
        assert_eq!(
            seal.tag[..4],
            crc32fast::hash(b"\x01contextthe body of a group").to_le_bytes()
        );
    }

    #[test]
    fn nothing_shows_a_key() {
        let key = DataKey::from_bytes([0xab; 32]);
        let sealer = Sealer::keyed(Suite::Aes256GcmSiv, &key);
        for text in [format!("{key:?}"), format!("{sealer:?}")] {
            assert!(!text.contains("171") && !text.contains("ab"), "{text}");
        }
    }

    fn hex(bytes: &[u8]) -> alloc::string::String {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<Vec<_>>()
            .concat()
    }
}

//! What a mounted file system seals and opens its structures with: the sealer, the chance that nonces are drawn
//! from, how content is compressed before, and the one form that seals have in structures (SPEC.md, "Seals").
//!
//! A structure is `magic ‖ checksum ‖ clear head ‖ seal ‖ rest`. The checksum covers all behind it, as it lies on the
//! disk: so torn, stale and misdirected bytes are told from good ones without a key, and a mirror can mend them. With a
//! key the rest is encrypted, and its seal covers the clear head; without one the seal is zero.

use alloc::borrow::Cow;
use alloc::rc::Rc;
use core::cell::{Cell, RefCell};

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

use super::{Purpose, Seal, Sealer};
use crate::FileSystemId;
use crate::disk::layout::{SEAL_BYTES, checksum_after_head};
use crate::extent::{Algorithm, Compression};

/// The seals of one file system, shared by all parts of it.
#[derive(Debug)]
pub(crate) struct Vault {
    id: FileSystemId,
    sealer: Sealer,
    /// Nonces come from here. Unused without a key.
    random: RefCell<ChaCha20Rng>,
    /// How what is stored from here on is compressed before it is sealed.
    compression: Cell<Compression>,
}

/// A vault that the parts of a file system share.
pub(crate) type SharedVault = Rc<Vault>;

impl Vault {
    /// Of a file system without a key.
    pub(crate) fn plain(id: FileSystemId) -> SharedVault {
        Self::new(id, Sealer::Plain, [0; 32])
    }

    /// Of one with a key. `seed` is used for nothing else, ever.
    pub(crate) fn keyed(id: FileSystemId, sealer: Sealer, seed: [u8; 32]) -> SharedVault {
        Self::new(id, sealer, seed)
    }

    fn new(id: FileSystemId, sealer: Sealer, seed: [u8; 32]) -> SharedVault {
        Rc::new(Self {
            id,
            sealer,
            random: RefCell::new(ChaCha20Rng::from_seed(seed)),
            compression: Cell::default(),
        })
    }

    /// The file system whose structures these are.
    pub(crate) fn id(&self) -> FileSystemId {
        self.id
    }

    /// What extents are sealed and opened with.
    pub(crate) fn sealer(&self) -> &Sealer {
        &self.sealer
    }

    /// How what is stored is compressed.
    pub(crate) fn compression(&self) -> Compression {
        self.compression.get()
    }

    /// The file system's setting changed, or was read.
    pub(crate) fn set_compression(&self, setting: Compression) {
        self.compression.set(setting);
    }

    /// How something is compressed while somebody waits for it.
    pub(crate) fn algorithm(&self) -> Algorithm {
        match self.compression.get() {
            Compression::Off => Algorithm::None,
            Compression::Lz4 | Compression::Cold => Algorithm::Lz4,
        }
    }

    /// Bytes that nobody can foretell and that never come again; with a key only.
    pub(crate) fn draw(&self, bytes: &mut [u8]) {
        self.random.borrow_mut().fill_bytes(bytes);
    }

    /// Seals the structure that is all of `structure`, whose seal is at `seal_at`, and puts in its checksum.
    pub(crate) fn close(&self, purpose: Purpose, structure: &mut [u8], seal_at: usize) {
        if self.sealer.is_keyed() {
            let (head, rest) = structure.split_at_mut(seal_at.min(structure.len()));
            let (seal, body) = rest.split_at_mut(SEAL_BYTES.min(rest.len()));
            let sealed = self.seal(purpose, head.get(8..).unwrap_or_default(), body);
            seal.copy_from_slice(sealed.get(..seal.len()).unwrap_or_default());
        }
        let sum = checksum_after_head(structure);
        if let Some(target) = structure.get_mut(4..8) {
            target.copy_from_slice(&sum.to_le_bytes());
        }
    }

    /// The structure that is all of `structure`, opened; `None` when it is not what was sealed here.
    pub(crate) fn opened<'s>(
        &self,
        purpose: Purpose,
        structure: &'s [u8],
        seal_at: usize,
    ) -> Option<Cow<'s, [u8]>> {
        let found = structure.get(4..8)?;
        if found != checksum_after_head(structure).to_le_bytes() {
            return None;
        }
        let body_at = seal_at.checked_add(SEAL_BYTES)?;
        let seal = structure
            .get(seal_at..body_at)?
            .first_chunk::<SEAL_BYTES>()?;
        if !self.sealer.is_keyed() {
            return (*seal == [0; SEAL_BYTES]).then_some(Cow::Borrowed(structure));
        }
        let mut opened = structure.to_vec();
        let (head, rest) = opened.split_at_mut(seal_at);
        let body = rest.get_mut(SEAL_BYTES..)?;
        self.open(purpose, head.get(8..)?, body, seal)
            .then_some(Cow::Owned(opened))
    }

    /// Encrypts `body` where there is a key. Zero without.
    pub(crate) fn seal(
        &self,
        purpose: Purpose,
        context: &[u8],
        body: &mut [u8],
    ) -> [u8; SEAL_BYTES] {
        if !self.sealer.is_keyed() {
            return [0; SEAL_BYTES];
        }
        let mut draw = |bytes: &mut [u8]| self.draw(bytes);
        self.sealer
            .seal_in_place(purpose, context, body, &mut draw)
            .to_bytes()
    }

    /// Decrypts `body` where there is a key; false when it is not what was sealed, and then it is as it was.
    pub(crate) fn open(
        &self,
        purpose: Purpose,
        context: &[u8],
        body: &mut [u8],
        seal: &[u8; SEAL_BYTES],
    ) -> bool {
        if !self.sealer.is_keyed() {
            return *seal == [0; SEAL_BYTES];
        }
        let seal = Seal::from_bytes(seal);
        self.sealer
            .open_in_place(purpose, context, body, &seal)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::super::{DataKey, Suite, testing};
    use super::*;
    use crate::disk::layout::SEAL_AT;

    const ID: FileSystemId = FileSystemId([3; 16]);

    fn keyed(seed: u8) -> SharedVault {
        let key = DataKey::generate(&mut testing::random(5));
        let sealer = Sealer::keyed(Suite::default(), &key);
        Vault::keyed(ID, sealer, [seed; 32])
    }

    fn structure() -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..200).collect();
        if let Some(seal) = bytes.get_mut(SEAL_AT..SEAL_AT + SEAL_BYTES) {
            seal.fill(0);
        }
        bytes
    }

    fn mended(mut bytes: Vec<u8>) -> Vec<u8> {
        let sum = checksum_after_head(&bytes).to_le_bytes();
        if let Some(target) = bytes.get_mut(4..8) {
            target.copy_from_slice(&sum);
        }
        bytes
    }

    #[test]
    fn only_what_was_closed_opens_and_no_bit_of_it_may_change() {
        for vault in [Vault::plain(ID), keyed(1)] {
            let mut closed = structure();
            vault.close(Purpose::Node, &mut closed, SEAL_AT);
            let opened = vault.opened(Purpose::Node, &closed, SEAL_AT).unwrap();
            assert_eq!(opened.get(8..SEAL_AT), structure().get(8..SEAL_AT));
            let rest = SEAL_AT + SEAL_BYTES;
            assert_eq!(opened.get(rest..), structure().get(rest..));
            for bit in 32..closed.len() * 8 {
                let mut bent = closed.clone();
                if let Some(byte) = bent.get_mut(bit / 8) {
                    *byte ^= 1 << (bit % 8);
                }
                let opened = vault.opened(Purpose::Node, &bent, SEAL_AT);
                assert!(opened.is_none(), "bit {bit}");
                // Somebody who can write the disk mends the checksum.
                if vault.sealer().is_keyed() && bit >= 64 {
                    let bent = mended(bent);
                    let opened = vault.opened(Purpose::Node, &bent, SEAL_AT);
                    assert!(opened.is_none(), "bit {bit}, mended");
                }
            }
            for len in 0..closed.len() {
                let short = mended(closed.get(..len).unwrap_or_default().to_vec());
                let opened = vault.opened(Purpose::Node, &short, SEAL_AT);
                assert!(opened.is_none() || !vault.sealer().is_keyed(), "{len}");
            }
        }
    }

    #[test]
    fn a_structure_without_a_key_is_never_one_with_a_key_nor_the_other_way_round() {
        let (plain, keyed) = (Vault::plain(ID), keyed(1));
        for (writer, reader) in [(&plain, &keyed), (&keyed, &plain)] {
            let mut closed = structure();
            writer.close(Purpose::Slot, &mut closed, SEAL_AT);
            assert!(reader.opened(Purpose::Slot, &closed, SEAL_AT).is_none());
            assert!(writer.opened(Purpose::Slot, &closed, SEAL_AT).is_some());
            let other = Purpose::SegmentTable;
            let as_other = writer.opened(other, &closed, SEAL_AT);
            assert_eq!(as_other.is_some(), !writer.sealer().is_keyed());
        }
    }

    #[test]
    fn the_same_structure_never_looks_the_same_twice() {
        let (one, two) = (keyed(1), keyed(2));
        let closed = |vault: &Vault| {
            let mut bytes = structure();
            vault.close(Purpose::Node, &mut bytes, SEAL_AT);
            bytes
        };
        let all = [closed(&one), closed(&one), closed(&two), closed(&two)];
        for (at, bytes) in all.iter().enumerate() {
            assert!(all.iter().skip(at + 1).all(|other| other != bytes));
        }
    }
}

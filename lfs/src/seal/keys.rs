//! Keys: the one that everything hangs on, those drawn from it, and those that wrap it.
//!
//! Every type here that holds key material wipes it when dropped. A move in Rust may leave a copy on
//! the stack, so keys are made in a box, where they stay, and borrowed from there.

use alloc::boxed::Box;
use alloc::vec::Vec;

use argon2::{Argon2, Block, Params, Version};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use super::cipher::{KEY_BYTES, NONCE_BYTES, Suite, TAG_BYTES};
use super::{KeyError, Purpose, Random, SealDamaged};

const KEY_FILE_BYTES_MIN: usize = 32;
const KEY_FILE_BYTES_MAX: usize = 64 * 1024;
const PASSPHRASE_BYTES_MAX: usize = 64 * 1024;

/// The key of one file system, drawn when it is made. It never changes and never leaves memory
/// unwrapped.
pub struct DataKey(Box<[u8; KEY_BYTES]>);

impl DataKey {
    /// A new one.
    pub fn generate(random: &mut Random<'_>) -> Self {
        let mut key = Self(Box::new([0; KEY_BYTES]));
        random(&mut *key.0);
        key
    }

    /// One that is known. Wiping `bytes` where they came from is the caller's part.
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(Box::new(bytes))
    }

    pub(super) fn expose(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    pub(super) fn expose_mut(&mut self) -> &mut [u8; KEY_BYTES] {
        &mut self.0
    }

    /// The key for `purpose` under `suite`.
    pub(super) fn sub_key(&self, suite: Suite, purpose: Purpose, out: &mut [u8; KEY_BYTES]) {
        let info = [suite.number(), purpose.number()];
        derive(b"siltstone lfs 1", &*self.0, &[b"sub-key", &info], out);
    }
}

impl Drop for DataKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl core::fmt::Debug for DataKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("DataKey(..)")
    }
}

/// One key for each purpose, under one suite.
pub struct Keyring {
    suite: Suite,
    keys: [[u8; KEY_BYTES]; Purpose::COUNT],
}

impl Keyring {
    pub(super) fn new(suite: Suite, key: &DataKey) -> Box<Self> {
        let mut keyring = Box::new(Self {
            suite,
            keys: [[0; KEY_BYTES]; Purpose::COUNT],
        });
        for purpose in [
            Purpose::Group,
            Purpose::Node,
            Purpose::Extent,
            Purpose::Object,
            Purpose::Slot,
            Purpose::SegmentTable,
            Purpose::Backup,
            Purpose::KeySlots,
        ] {
            if let Some(out) = keyring.keys.get_mut(purpose.index()) {
                key.sub_key(suite, purpose, out);
            }
        }
        keyring
    }

    pub(super) fn suite(&self) -> Suite {
        self.suite
    }

    pub(crate) fn seal(
        &self,
        purpose: Purpose,
        nonce: &[u8; NONCE_BYTES],
        context: &[u8],
        body: &mut [u8],
    ) -> [u8; TAG_BYTES] {
        self.suite.seal(self.key(purpose), nonce, context, body)
    }

    pub(crate) fn open(
        &self,
        purpose: Purpose,
        nonce: &[u8; NONCE_BYTES],
        context: &[u8],
        body: &mut [u8],
        tag: &[u8; TAG_BYTES],
    ) -> Result<(), SealDamaged> {
        self.suite
            .open(self.key(purpose), nonce, context, body, tag)
    }

    #[expect(clippy::indexing_slicing, reason = "one key for each purpose")]
    fn key(&self, purpose: Purpose) -> &[u8; KEY_BYTES] {
        &self.keys[purpose.index()]
    }
}

impl Drop for Keyring {
    fn drop(&mut self) {
        self.keys.zeroize();
    }
}

impl core::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Keyring({:?}, ..)", self.suite)
    }
}

/// What the owner knows or has, that unlocks the data key.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub enum Secret<'a> {
    /// Something remembered; 1 byte to 64 KiB, taken as it is.
    Passphrase(&'a [u8]),
    /// Content of a key file; 32 bytes to 64 KiB, taken as it is, a newline at the end included. It is
    /// not stretched: it must hold at least 128 bits nobody can guess (`head -c 32 /dev/urandom`).
    KeyFile(&'a [u8]),
}

impl core::fmt::Debug for Secret<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Passphrase(_) => "Passphrase(..)",
            Self::KeyFile(_) => "KeyFile(..)",
        })
    }
}

/// What trying one passphrase costs (Argon2id, RFC 9106). Stored in the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KdfCost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes. One core works through them one after the other; more than one helps who attacks.
    pub lanes: u32,
}

impl KdfCost {
    /// 19 MiB and two passes (OWASP's least): what a machine of 64 MiB has to spare when it mounts,
    /// before its caches fill. A host may ask for more; then every machine that mounts must have it.
    pub const DEFAULT: Self = Self {
        memory_kib: 19 * 1024,
        passes: 2,
        lanes: 1,
    };

    /// No image may ask for more memory than this, whatever the caller allows.
    pub const MEMORY_KIB_MAX: u32 = 256 * 1024;

    /// KiB filled in all, at most: bounds the time (some seconds) a hostile image takes for a slot.
    const WORK_KIB_MAX: u64 = 4 * 1024 * 1024;

    const LANES_MAX: u32 = 16;

    /// Whether such a slot may exist at all: any other is damage.
    pub(super) fn is_sound(self) -> bool {
        (1..=Self::LANES_MAX).contains(&self.lanes)
            && (8 * self.lanes..=Self::MEMORY_KIB_MAX).contains(&self.memory_kib)
            && self.passes > 0
            && u64::from(self.memory_kib) * u64::from(self.passes) <= Self::WORK_KIB_MAX
    }
}

/// The key that wraps the data key: what `secret` becomes with this salt.
pub(super) fn wrapping_key(
    secret: Secret<'_>,
    cost: KdfCost,
    salt: &[u8; 32],
) -> Result<Zeroizing<[u8; KEY_BYTES]>, KeyError> {
    check(secret)?;
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    match secret {
        Secret::Passphrase(passphrase) => stretch(passphrase, cost, salt, &mut key)?,
        Secret::KeyFile(content) => derive(salt, content, &[b"siltstone lfs 1 key file"], &mut key),
    }
    Ok(key)
}

/// Whether a secret is one at all.
pub(super) fn check(secret: Secret<'_>) -> Result<(), KeyError> {
    match secret {
        Secret::Passphrase(bytes) if (1..=PASSPHRASE_BYTES_MAX).contains(&bytes.len()) => Ok(()),
        Secret::KeyFile(bytes) if bytes.len() < KEY_FILE_BYTES_MIN => {
            Err(KeyError::KeyFileTooShort)
        }
        Secret::KeyFile(bytes) if bytes.len() <= KEY_FILE_BYTES_MAX => Ok(()),
        Secret::KeyFile(_) => Err(KeyError::KeyFileTooLong),
        Secret::Passphrase(_) => Err(KeyError::Passphrase),
    }
}

fn stretch(
    passphrase: &[u8],
    cost: KdfCost,
    salt: &[u8; 32],
    out: &mut [u8; KEY_BYTES],
) -> Result<(), KeyError> {
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(KEY_BYTES))
        .map_err(|_| KeyError::Cost)?;
    let mut memory = Vec::new();
    memory
        .try_reserve_exact(params.block_count())
        .map_err(|_| KeyError::OutOfMemory)?;
    memory.resize(params.block_count(), Block::new());
    let result = Argon2::new(argon2::Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into_with_memory(passphrase, salt, out, &mut memory[..]);
    memory.zeroize();
    result.map_err(|_| KeyError::Cost)
}

/// HKDF-SHA-256 (RFC 5869).
fn derive(salt: &[u8], material: &[u8], info: &[&[u8]], out: &mut [u8; KEY_BYTES]) {
    Hkdf::<Sha256>::new(Some(salt), material)
        .expand_multi_info(info, out)
        .expect("32 bytes are no more than HKDF gives");
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers")]
mod tests {
    use super::*;

    #[test]
    fn purposes_and_suites_have_keys_of_their_own() {
        let key = DataKey::from_bytes([1; 32]);
        let mut seen = alloc::collections::BTreeSet::new();
        for suite in Suite::ALL {
            for sub_key in &Keyring::new(suite, &key).keys {
                assert!(*sub_key != [0; 32] && seen.insert(*sub_key));
            }
        }
        assert_eq!(seen.len(), 2 * Purpose::COUNT);
    }

    #[test]
    fn wrapping_keys_are_pinned() {
        let cost = KdfCost {
            memory_kib: 64,
            passes: 3,
            lanes: 1,
        };
        let salt: [u8; 32] = core::array::from_fn(|index| index as u8);
        // Computed by Python's argon2-cffi and hmac.
        for (secret, expected) in [
            (
                Secret::Passphrase(b"correct horse"),
                [
                    0x34, 0x52, 0xc9, 0xc6, 0x3d, 0x58, 0x42, 0x40, 0x7c, 0x52, 0xe4, 0x02, 0x58,
                    0xfc, 0xde, 0xb0, 0x04, 0xf9, 0x06, 0x44, 0x34, 0xde, 0xfc, 0x62, 0xc7, 0x82,
                    0xf9, 0xd5, 0x48, 0x89, 0x80, 0x93,
                ],
            ),
            (
                Secret::KeyFile(&[0x5a; 32]),
                [
                    0x0a, 0x96, 0x97, 0x48, 0xbe, 0xbc, 0xb0, 0x39, 0xc1, 0xa2, 0x46, 0x32, 0x36,
                    0xad, 0x2f, 0xea, 0x95, 0xae, 0x0e, 0xcf, 0x21, 0x0b, 0x67, 0xc6, 0x5c, 0x30,
                    0x8c, 0xb6, 0x47, 0x76, 0x8b, 0xe5,
                ],
            ),
        ] {
            let key = wrapping_key(secret, cost, &salt).unwrap();
            assert_eq!(*key, expected, "{secret:?}");
        }
    }

    #[test]
    fn costs_are_bounded() {
        let sound = |memory_kib, passes, lanes| {
            KdfCost {
                memory_kib,
                passes,
                lanes,
            }
            .is_sound()
        };
        assert!(KdfCost::DEFAULT.is_sound());
        assert!(sound(8, 1, 1) && sound(256 * 1024, 16, 1));
        assert!(!sound(7, 1, 1) && !sound(0, 0, 0) && !sound(8, 0, 1) && !sound(8, 1, 0));
        assert!(!sound(256 * 1024 + 1, 1, 1) && !sound(256 * 1024, 17, 1));
        assert!(!sound(u32::MAX, u32::MAX, u32::MAX) && !sound(8 * 16, 1, 17));
    }

    #[test]
    fn secrets_are_bounded() {
        let big = alloc::vec![1; 70_000];
        assert_eq!(check(Secret::Passphrase(b"")), Err(KeyError::Passphrase));
        assert_eq!(check(Secret::Passphrase(&big)), Err(KeyError::Passphrase));
        assert_eq!(check(Secret::KeyFile(&big)), Err(KeyError::KeyFileTooLong));
        assert_eq!(
            check(Secret::KeyFile(&big[..31])),
            Err(KeyError::KeyFileTooShort)
        );
        assert_eq!(check(Secret::KeyFile(&big[..32])), Ok(()));
    }
}

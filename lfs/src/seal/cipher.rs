//! The suites, one message at a time: 256-bit key, 192-bit nonce, 128-bit tag, for both.
//!
//! AES-256-GCM-SIV has a nonce of 96 bits, too few to draw at random for ever. So it gets what
//! `XChaCha20` gives `ChaCha20`: the first 128 bits of the nonce go into the key (HMAC-SHA-256 for AES,
//! `HChaCha20` for the other), the other 64 are the nonce under that key.

use aes_gcm_siv::Aes256GcmSiv;
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305};
use hkdf::hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::SealDamaged;

pub(super) const KEY_BYTES: usize = 32;
pub(crate) const NONCE_BYTES: usize = 24;
pub(crate) const TAG_BYTES: usize = 16;

/// Nonce bytes that go into the key.
const OUTER_BYTES: usize = 16;

/// An authenticated cipher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
#[non_exhaustive]
pub enum Suite {
    /// Fast and free of timing leaks on any processor.
    #[default]
    XChaCha20Poly1305 = 1,
    /// Where nonces could repeat after all (a running machine that was cloned), it only tells equal
    /// messages apart from unequal ones.
    Aes256GcmSiv = 2,
}

impl core::fmt::Display for Suite {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::XChaCha20Poly1305 => "XChaCha20-Poly1305",
            Self::Aes256GcmSiv => "AES-256-GCM-SIV",
        })
    }
}

impl Suite {
    /// All of them, by their number.
    pub const ALL: [Self; 2] = [Self::XChaCha20Poly1305, Self::Aes256GcmSiv];

    /// The number on disk.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The suite with this number.
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::XChaCha20Poly1305,
            2 => Self::Aes256GcmSiv,
            _ => return None,
        })
    }

    /// # Panics
    /// If `body` is longer than a cipher takes (64 GiB), which no caller's is.
    pub(super) fn seal(
        self,
        key: &[u8; KEY_BYTES],
        nonce: &[u8; NONCE_BYTES],
        context: &[u8],
        body: &mut [u8],
    ) -> [u8; TAG_BYTES] {
        let tag =
            match self {
                Self::XChaCha20Poly1305 => XChaCha20Poly1305::new(key.into())
                    .encrypt_inout_detached(nonce.into(), context, body.into()),
                Self::Aes256GcmSiv => {
                    let (key, nonce) = extend(key, nonce);
                    Aes256GcmSiv::new((&*key).into()).encrypt_inout_detached(
                        (&nonce).into(),
                        context,
                        body.into(),
                    )
                }
            };
        tag.expect("a message below 64 GiB").into()
    }

    /// On failure `body` is as it was.
    pub(super) fn open(
        self,
        key: &[u8; KEY_BYTES],
        nonce: &[u8; NONCE_BYTES],
        context: &[u8],
        body: &mut [u8],
        tag: &[u8; TAG_BYTES],
    ) -> Result<(), SealDamaged> {
        let tag = Tag::from(*tag);
        match self {
            Self::XChaCha20Poly1305 => XChaCha20Poly1305::new(key.into()).decrypt_inout_detached(
                nonce.into(),
                context,
                body.into(),
                &tag,
            ),
            Self::Aes256GcmSiv => {
                let (key, nonce) = extend(key, nonce);
                Aes256GcmSiv::new((&*key).into()).decrypt_inout_detached(
                    (&nonce).into(),
                    context,
                    body.into(),
                    &tag,
                )
            }
        }
        .map_err(|_| SealDamaged)
    }
}

/// The key and the short nonce of a message, from the long one.
fn extend(
    key: &[u8; KEY_BYTES],
    nonce: &[u8; NONCE_BYTES],
) -> (Zeroizing<[u8; KEY_BYTES]>, [u8; 12]) {
    let (outer, inner) = nonce.split_at(OUTER_BYTES);
    let mut short = [0; 12];
    for (to, from) in short.iter_mut().skip(4).zip(inner) {
        *to = *from;
    }
    (Zeroizing::new(hmac_sha256(key, &[outer])), short)
}

pub(super) fn hmac_sha256(key: &[u8; KEY_BYTES], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes any key");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

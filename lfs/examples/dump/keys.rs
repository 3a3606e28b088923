//! "Keys", "Messages", "Key slots" and "Seals" of `SPEC.md`.

use aes_gcm_siv::Aes256GcmSiv;
use aes_gcm_siv::aead::{AeadInOut, KeyInit};
use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::XChaCha20Poly1305;
use hkdf::Hkdf;
use hkdf::hmac::{Hmac, Mac};
use sha2::Sha256;

use super::bytes::{BLOCK, Fallible, crc, u32_at, u64_at};

pub const GROUP: u8 = 1;
pub const NODE: u8 = 2;
pub const UNIT: u8 = 3;
pub const OBJECT_CHUNK: u8 = 4;
pub const CHECKPOINT: u8 = 5;
pub const TABLE: u8 = 6;
const SLOTS: u8 = 8;

/// What somebody has who may read.
#[derive(Clone, Copy)]
pub enum Secret<'a> {
    Passphrase(&'a [u8]),
    KeyFile(&'a [u8]),
}

/// The keys of a file system, by purpose.
pub struct Keys {
    suite: u8,
    of_purpose: [[u8; 32]; 9],
}

impl Keys {
    /// Those that a secret opens in the key slots of an image.
    pub fn find(image: &[u8], id: &[u8; 16], suite: u8, secret: Secret<'_>) -> Fallible<Self> {
        let copies = [1, 14].into_iter();
        let copies = copies.filter_map(|block| key_slots(image, block, id));
        let newest = copies.max_by_key(|slots| u64_at(slots, 80).unwrap_or(0));
        let slots = newest.ok_or("no valid key slots")?;
        if slots[58] != suite {
            return Err("key slots of another suite than the superblock's".into());
        }
        for slot in slots[96..].chunks(128) {
            let Some(wrapping) = wrapping_key(slot, secret)? else {
                continue;
            };
            let context = [&slots[..8], id, &slot[..48]].concat();
            let mut data_key = slot[72..104].to_vec();
            let (nonce, tag) = (&slot[48..72], &slot[104..120]);
            if open(suite, &wrapping, nonce, tag, &context, &mut data_key).is_err() {
                continue;
            }
            let keys = Self::derive(suite, &data_key);
            let mac = hmac(&keys.of_purpose[usize::from(SLOTS)], &slots[56..]);
            if mac[..] != slots[24..56] {
                return Err("somebody without the key changed the key slots".into());
            }
            return Ok(keys);
        }
        Err("no key slot opens: a wrong key".into())
    }

    fn derive(suite: u8, data_key: &[u8]) -> Self {
        let of_purpose = std::array::from_fn(|purpose| {
            let info = [&b"sub-key"[..], &[suite, purpose as u8]].concat();
            hkdf(b"siltstone lfs 1", data_key, &info)
        });
        Self { suite, of_purpose }
    }

    /// Opens a message in place.
    pub fn open(
        &self,
        purpose: u8,
        nonce: &[u8],
        tag: &[u8],
        context: &[u8],
        body: &mut [u8],
    ) -> Fallible<()> {
        let key = &self.of_purpose[usize::from(purpose)];
        open(self.suite, key, nonce, tag, context, body)
    }
}

/// Opens what is behind the seal at `seal` in a structure: decrypts it, or sees that there is no seal.
pub fn unseal(keys: Option<&Keys>, purpose: u8, structure: &mut [u8], seal: usize) -> Fallible<()> {
    let (clear, rest) = structure.split_at_mut(seal + 40);
    let (head, seal) = clear.split_at(seal);
    match keys {
        Some(keys) => keys.open(purpose, &seal[..24], &seal[24..], &head[8..], rest),
        None if seal.iter().all(|byte| *byte == 0) => Ok(()),
        None => Err("sealed, in a file system without a key".into()),
    }
}

/// The key slots at `block`, if they are intact.
fn key_slots<'a>(image: &'a [u8], block: usize, id: &[u8; 16]) -> Option<&'a [u8]> {
    let slots = image.get(block * BLOCK..block * BLOCK + 1120)?;
    let intact = slots[..8] == *b"SLTKEYS\x01"
        && u32_at(slots, 8).ok()? == crc(&slots[12..])
        && u64_at(slots, 16).ok()? == block as u64
        && slots[56..58] == [1, 0]
        && slots[59] == 8
        && slots[64..80] == *id;
    intact.then_some(slots)
}

/// What the data key in a slot is encrypted with; `None` if another kind of secret opens it.
fn wrapping_key(slot: &[u8], secret: Secret<'_>) -> Fallible<Option<[u8; 32]>> {
    let salt = &slot[16..48];
    match (slot[0], secret) {
        (1, Secret::Passphrase(passphrase)) => {
            let [memory, passes, lanes] = [u32_at(slot, 4)?, u32_at(slot, 8)?, u32_at(slot, 12)?];
            let valid = (1..=16).contains(&lanes)
                && (8 * lanes..=262_144).contains(&memory)
                && passes >= 1
                && u64::from(memory) * u64::from(passes) <= 4_194_304;
            if !valid {
                return Ok(None);
            }
            let params = Params::new(memory, passes, lanes, Some(32));
            let params = params.map_err(|error| error.to_string())?;
            let mut blocks = vec![argon2::Block::default(); params.block_count()];
            let mut key = [0; 32];
            Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
                .hash_password_into_with_memory(passphrase, salt, &mut key, &mut blocks)
                .map_err(|error| error.to_string())?;
            Ok(Some(key))
        }
        (2, Secret::KeyFile(content)) if (32..=65_536).contains(&content.len()) => {
            Ok(Some(hkdf(salt, content, b"siltstone lfs 1 key file")))
        }
        _ => Ok(None),
    }
}

fn open(
    suite: u8,
    key: &[u8; 32],
    nonce: &[u8],
    tag: &[u8],
    context: &[u8],
    body: &mut [u8],
) -> Fallible<()> {
    let tag = tag.try_into()?;
    let opened = match suite {
        1 => XChaCha20Poly1305::new(key.into()).decrypt_inout_detached(
            nonce.try_into()?,
            context,
            body.into(),
            tag,
        ),
        2 => {
            let key = hmac(key, &nonce[..16]);
            let nonce = [&[0; 4], &nonce[16..]].concat();
            let nonce = nonce.as_slice().try_into()?;
            Aes256GcmSiv::new(&key.into()).decrypt_inout_detached(nonce, context, body.into(), tag)
        }
        _ => return Err("an unknown suite".into()),
    };
    opened.map_err(|_| "a message that does not open".into())
}

fn hkdf(salt: &[u8], secret: &[u8], info: &[u8]) -> [u8; 32] {
    let mut key = [0; 32];
    let expanded = Hkdf::<Sha256>::new(Some(salt), secret).expand(info, &mut key);
    expanded.expect("32 bytes are not too many");
    key
}

fn hmac(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes any key");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

//! Key slots: the data key, wrapped once for each secret that may unlock it (SPEC.md, "Key slots").
//!
//! Invariants:
//! - The block says for itself whether it is intact (CRC-32), so a wrong secret and a damaged block are
//!   told apart before a key is known. Once the data key is known, a MAC by it covers every slot: nobody
//!   without the key can add, remove or weaken one unnoticed.
//! - A slot is made or replaced without touching data: the data key stays what it is.
//! - At least one slot is in use, always.
//!
//! Not here: where copies of the block lie. Whoever writes keeps the old copy until the new one is
//! durable, and reads the intact one with the highest generation.

use hkdf::hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};
use zeroize::Zeroizing;

use super::cipher::{KEY_BYTES, NONCE_BYTES, TAG_BYTES};
use super::keys::{check, wrapping_key};
use super::{DataKey, KdfCost, Purpose, Random, Secret, Suite};
use crate::disk::layout::{NUMBER_MAX, checksum};
use crate::{BlockIndex, FileSystemId};

/// Slots in a block.
pub const KEY_SLOT_COUNT: usize = 8;

/// Length of a block of key slots on disk.
pub const KEY_SLOT_BYTES: usize = size_of::<BlockLayout>();

const MAGIC: [u8; 8] = *b"SLTKEYS\x01";
const VERSION: u16 = 1;
const KIND_EMPTY: u8 = 0;
const KIND_PASSPHRASE: u8 = 1;
const KIND_KEY_FILE: u8 = 2;

/// Where the checksummed part begins.
const CHECKED_FROM: usize = 12;
/// Where the part under the MAC begins: all that is the same in every copy.
const MAC_FROM: usize = 56;

const _: () = assert!(size_of::<SlotLayout>() == 128);
const _: () = assert!(size_of::<BlockLayout>() == 96 + 128 * KEY_SLOT_COUNT);
const _: () = assert!(size_of::<BlockLayout>() <= 3072);

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct SlotLayout {
    kind: u8,
    reserved_kind: [u8; 3],
    memory_kib: U32,
    passes: U32,
    lanes: U32,
    salt: [u8; 32],
    nonce: [u8; NONCE_BYTES],
    wrapped: [u8; KEY_BYTES],
    tag: [u8; TAG_BYTES],
    reserved: [u8; 8],
}

#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct BlockLayout {
    magic: [u8; 8],
    checksum: U32,
    reserved_head: [u8; 4],
    own_block: U64,
    mac: [u8; 32],
    version: U16,
    suite: u8,
    slot_count: u8,
    reserved_version: [u8; 4],
    filesystem_id: [u8; 16],
    generation: U64,
    reserved: [u8; 8],
    slots: [SlotLayout; KEY_SLOT_COUNT],
}

/// Why a file system could not be unlocked, or its slots not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The file system is encrypted, and there is no key.
    #[error("it is encrypted, and no key was given")]
    Missing,
    /// A key was given for a file system that has none: it is not the one that the key is for.
    #[error("it is not encrypted, but a key was given for it")]
    NotEncrypted,
    /// The block is intact, and no slot opens with this secret.
    #[error("it is encrypted, and the key is wrong")]
    WrongKey,
    /// The block is not what was written; or it was changed by somebody without the key.
    #[error("the key slots are damaged")]
    Damaged,
    /// A version or suite this code does not know.
    #[error("key slots of version {version}, suite {suite} are not known")]
    Unknown {
        /// Format version found.
        version: u16,
        /// Suite found.
        suite: u8,
    },
    /// The passphrase may be right: trying it takes more memory than was allowed.
    #[error("{memory_kib} KiB of memory are needed to try a passphrase")]
    TooCostly {
        /// Memory the cheapest such slot needs.
        memory_kib: u32,
    },
    /// A cost no slot may have.
    #[error("the cost for trying a passphrase is out of range")]
    Cost,
    /// A passphrase has 1 to 65,536 bytes.
    #[error("a passphrase has 1 to 65,536 bytes")]
    Passphrase,
    /// Fewer than 32 bytes.
    #[error("a key file has at least 32 bytes")]
    KeyFileTooShort,
    /// More than 64 KiB.
    #[error("a key file has at most 65,536 bytes")]
    KeyFileTooLong,
    /// All slots are in use.
    #[error("all key slots are in use")]
    Full,
    /// The last slot stays, or nobody could open the file system any more.
    #[error("the last key slot cannot be removed")]
    LastSlot,
    /// No such slot, or it is empty.
    #[error("no such key slot")]
    NoSuchSlot,
    /// Not enough memory to try the passphrase.
    #[error("not enough memory to try the passphrase")]
    OutOfMemory,
}

/// The slots of one file system, as they were read or made.
#[derive(Debug, Clone)]
pub struct KeySlots {
    /// Everything but magic, checksum and own block, which are filled in when a copy is written.
    layout: BlockLayout,
    suite: Suite,
}

impl KeySlots {
    /// The slots of a new file system: one, for `secret`. `cost` matters to passphrases only.
    ///
    /// # Errors
    /// If `secret` or `cost` is out of bounds, or memory does not suffice.
    pub fn create(
        id: FileSystemId,
        suite: Suite,
        key: &DataKey,
        secret: Secret<'_>,
        cost: KdfCost,
        random: &mut Random<'_>,
    ) -> Result<Self, KeyError> {
        let mut layout = BlockLayout::new_zeroed();
        layout.magic = MAGIC;
        layout.version = VERSION.into();
        layout.suite = suite.number();
        layout.slot_count = 8;
        layout.filesystem_id = id.0;
        let mut slots = Self { layout, suite };
        slots.put(0, key, secret, cost, random)?;
        Ok(slots)
    }

    /// Reads the copy found at `own_block` of the file system `id`.
    ///
    /// # Errors
    /// [`KeyError::Damaged`] or [`KeyError::Unknown`].
    pub fn decode(block: &[u8], id: FileSystemId, own_block: BlockIndex) -> Result<Self, KeyError> {
        let (layout, _) = BlockLayout::read_from_prefix(block).map_err(|_| KeyError::Damaged)?;
        if layout.magic != MAGIC
            || layout.checksum.get() != layout.sum()
            || layout.own_block.get() != own_block.0
            || layout.filesystem_id != id.0
        {
            return Err(KeyError::Damaged);
        }
        let known = Suite::from_number(layout.suite).filter(|_| layout.version.get() == VERSION);
        let Some(suite) = known else {
            return Err(KeyError::Unknown {
                version: layout.version.get(),
                suite: layout.suite,
            });
        };
        let sound = usize::from(layout.slot_count) == KEY_SLOT_COUNT
            && layout.generation.get() < NUMBER_MAX
            && layout.slots.iter().all(SlotLayout::is_sound)
            && layout.slots.iter().any(SlotLayout::is_used);
        sound
            .then_some(Self { layout, suite })
            .ok_or(KeyError::Damaged)
    }

    /// The copy that belongs at `own_block`.
    pub fn encode(&self, own_block: BlockIndex) -> [u8; KEY_SLOT_BYTES] {
        let mut layout = self.layout.clone();
        layout.own_block = own_block.0.into();
        layout.checksum = layout.sum().into();
        let mut bytes = [0; KEY_SLOT_BYTES];
        bytes.copy_from_slice(layout.as_bytes());
        bytes
    }

    /// The suite everything is sealed with.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Goes up with each change: of two intact copies the higher one counts.
    pub fn generation(&self) -> u64 {
        self.layout.generation.get()
    }

    /// Numbers of the slots in use, and whether each is for a passphrase and at which cost.
    pub fn used(&self) -> impl Iterator<Item = (usize, Option<KdfCost>)> {
        let used = self.layout.slots.iter().enumerate();
        used.filter(|(_, slot)| slot.is_used())
            .map(|(index, slot)| (index, (slot.kind == KIND_PASSPHRASE).then(|| slot.cost())))
    }

    /// The data key, and the slot that gave it. Tries each slot of the secret's kind; for passphrases each
    /// costs what it says, so keep few of them. Computes without a pause, seconds if the cost is high.
    ///
    /// # Errors
    /// [`KeyError::WrongKey`] if no slot opens; [`KeyError::TooCostly`] if none does and some would have taken
    /// more than `memory_kib_max` to try; [`KeyError::Damaged`] if one opens but the block was tampered with.
    pub fn unlock(
        &self,
        secret: Secret<'_>,
        memory_kib_max: u32,
    ) -> Result<(DataKey, usize), KeyError> {
        check(secret)?;
        let mut too_costly: Option<u32> = None;
        for (index, slot) in self.layout.slots.iter().enumerate() {
            if slot.kind != kind_of(secret) {
                continue;
            }
            let memory_kib = slot.memory_kib.get();
            if slot.kind == KIND_PASSPHRASE && memory_kib > memory_kib_max {
                too_costly = Some(too_costly.map_or(memory_kib, |other| other.min(memory_kib)));
                continue;
            }
            let wrapping = wrapping_key(secret, slot.cost(), &slot.salt)?;
            let mut key = DataKey::from_bytes(slot.wrapped);
            let opened = self.suite.open(
                &wrapping,
                &slot.nonce,
                &self.layout.slot_context(slot),
                key.expose_mut(),
                &slot.tag,
            );
            if opened.is_ok() {
                self.verify(&key)?;
                return Ok((key, index));
            }
        }
        Err(
            too_costly.map_or(KeyError::WrongKey, |memory_kib| KeyError::TooCostly {
                memory_kib,
            }),
        )
    }

    /// Lets `secret` unlock the file system as well. Gives the number of its slot.
    ///
    /// # Errors
    /// [`KeyError::Full`], or as [`create`](Self::create); [`KeyError::Damaged`] if `key` is not the one of these slots.
    pub fn add(
        &mut self,
        key: &DataKey,
        secret: Secret<'_>,
        cost: KdfCost,
        random: &mut Random<'_>,
    ) -> Result<usize, KeyError> {
        self.verify(key)?;
        let mut slots = self.layout.slots.iter();
        let index = slots
            .position(|slot| !slot.is_used())
            .ok_or(KeyError::Full)?;
        self.put(index, key, secret, cost, random)?;
        Ok(index)
    }

    /// Puts `secret` into the place of the one in slot `index`: rotation. The data key stays.
    ///
    /// # Errors
    /// As [`add`](Self::add); [`KeyError::NoSuchSlot`].
    pub fn replace(
        &mut self,
        index: usize,
        key: &DataKey,
        secret: Secret<'_>,
        cost: KdfCost,
        random: &mut Random<'_>,
    ) -> Result<(), KeyError> {
        self.verify(key)?;
        let slot = self.layout.slots.get(index);
        slot.filter(|slot| slot.is_used())
            .ok_or(KeyError::NoSuchSlot)?;
        self.put(index, key, secret, cost, random)
    }

    /// Takes slot `index` away.
    ///
    /// # Errors
    /// [`KeyError::NoSuchSlot`], [`KeyError::LastSlot`]; [`KeyError::Damaged`] if `key` is not the one of these slots.
    pub fn remove(&mut self, index: usize, key: &DataKey) -> Result<(), KeyError> {
        self.verify(key)?;
        let last = self.used().count() == 1;
        let slot = self.layout.slots.get_mut(index);
        let slot = slot
            .filter(|slot| slot.is_used())
            .ok_or(KeyError::NoSuchSlot)?;
        if last {
            return Err(KeyError::LastSlot);
        }
        *slot = SlotLayout::new_zeroed();
        self.changed(key);
        Ok(())
    }

    fn put(
        &mut self,
        index: usize,
        key: &DataKey,
        secret: Secret<'_>,
        cost: KdfCost,
        random: &mut Random<'_>,
    ) -> Result<(), KeyError> {
        check(secret)?;
        let mut slot = SlotLayout::new_zeroed();
        slot.kind = kind_of(secret);
        if slot.kind == KIND_PASSPHRASE {
            if !cost.is_sound() {
                return Err(KeyError::Cost);
            }
            slot.memory_kib = cost.memory_kib.into();
            slot.passes = cost.passes.into();
            slot.lanes = cost.lanes.into();
        }
        random(&mut slot.salt);
        random(&mut slot.nonce);
        let wrapping = wrapping_key(secret, cost, &slot.salt)?;
        let mut body = Zeroizing::new(*key.expose());
        let context = self.layout.slot_context(&slot);
        slot.tag = self
            .suite
            .seal(&wrapping, &slot.nonce, &context, &mut *body);
        slot.wrapped = *body;
        *self
            .layout
            .slots
            .get_mut(index)
            .ok_or(KeyError::NoSuchSlot)? = slot;
        self.changed(key);
        Ok(())
    }

    fn changed(&mut self, key: &DataKey) {
        self.layout.generation += 1;
        self.layout.mac = self.mac(key).finalize().into_bytes().into();
    }

    fn verify(&self, key: &DataKey) -> Result<(), KeyError> {
        let mac = self.mac(key);
        mac.verify_slice(&self.layout.mac)
            .map_err(|_| KeyError::Damaged)
    }

    fn mac(&self, key: &DataKey) -> Hmac<Sha256> {
        let mut sub_key = Zeroizing::new([0; KEY_BYTES]);
        key.sub_key(self.suite, Purpose::KeySlots, &mut sub_key);
        let mut mac = Hmac::new_from_slice(&*sub_key).expect("HMAC takes any key");
        mac.update(self.layout.as_bytes().get(MAC_FROM..).unwrap_or_default());
        mac
    }
}

impl BlockLayout {
    fn sum(&self) -> u32 {
        checksum(self.as_bytes().get(CHECKED_FROM..).unwrap_or_default())
    }

    /// What a wrapped key is bound to: file system, suite, and the slot's own head.
    fn slot_context(&self, slot: &SlotLayout) -> [u8; 72] {
        let mut context = [0; 72];
        let head = slot.as_bytes().iter().take(48);
        let parts = MAGIC.iter().chain(&self.filesystem_id).chain(head);
        for (to, from) in context.iter_mut().zip(parts) {
            *to = *from;
        }
        context
    }
}

impl SlotLayout {
    fn is_used(&self) -> bool {
        self.kind != KIND_EMPTY
    }

    fn cost(&self) -> KdfCost {
        KdfCost {
            memory_kib: self.memory_kib.get(),
            passes: self.passes.get(),
            lanes: self.lanes.get(),
        }
    }

    fn is_sound(&self) -> bool {
        match self.kind {
            KIND_EMPTY => self.as_bytes().iter().all(|byte| *byte == 0),
            KIND_PASSPHRASE => self.cost().is_sound(),
            KIND_KEY_FILE => self.memory_kib == 0 && self.passes == 0 && self.lanes == 0,
            _ => false,
        }
    }
}

fn kind_of(secret: Secret<'_>) -> u8 {
    match secret {
        Secret::Passphrase(_) => KIND_PASSPHRASE,
        Secret::KeyFile(_) => KIND_KEY_FILE,
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers")]
mod tests {
    use super::super::testing;
    use super::*;

    const ID: FileSystemId = FileSystemId([9; 16]);
    const AT: BlockIndex = BlockIndex(3);
    const CHEAP: KdfCost = KdfCost {
        memory_kib: 32,
        passes: 1,
        lanes: 1,
    };
    const FILE: Secret<'static> = Secret::KeyFile(&[0x42; 40]);
    const WORD: Secret<'static> = Secret::Passphrase(b"open sesame");

    fn made(suite: Suite, secret: Secret<'_>) -> (KeySlots, DataKey) {
        let mut random = testing::random(11);
        let key = DataKey::generate(&mut random);
        let slots = KeySlots::create(ID, suite, &key, secret, CHEAP, &mut random).unwrap();
        (slots, key)
    }

    fn reread(slots: &KeySlots) -> KeySlots {
        KeySlots::decode(&slots.encode(AT), ID, AT).unwrap()
    }

    fn unlocked(slots: &KeySlots, secret: Secret<'_>) -> Result<[u8; 32], KeyError> {
        reread(slots)
            .unlock(secret, 1024)
            .map(|(key, _)| *key.expose())
    }

    #[test]
    fn the_right_secret_gives_the_key_and_a_wrong_one_says_so() {
        for suite in Suite::ALL {
            for secret in [FILE, WORD] {
                let (slots, key) = made(suite, secret);
                assert_eq!(reread(&slots).suite(), suite);
                assert_eq!(unlocked(&slots, secret), Ok(*key.expose()));
                for wrong in [
                    Secret::Passphrase(b"open sesamf"),
                    Secret::Passphrase(&[0x42; 40]),
                    Secret::KeyFile(&[0x43; 40]),
                    Secret::KeyFile(&[0x42; 41]),
                ] {
                    assert_eq!(unlocked(&slots, wrong), Err(KeyError::WrongKey));
                }
            }
        }
    }

    #[test]
    fn rotation_keeps_the_data_key_and_ends_the_old_secret() {
        let mut random = testing::random(12);
        let (mut slots, key) = made(Suite::default(), WORD);
        let before = slots.generation();
        slots.replace(0, &key, FILE, CHEAP, &mut random).unwrap();
        assert!(slots.generation() > before);
        assert_eq!(unlocked(&slots, WORD), Err(KeyError::WrongKey));
        assert_eq!(unlocked(&slots, FILE), Ok(*key.expose()));

        assert_eq!(slots.add(&key, WORD, CHEAP, &mut random), Ok(1));
        assert_eq!(unlocked(&slots, WORD), Ok(*key.expose()));
        assert_eq!(unlocked(&slots, FILE), Ok(*key.expose()));
        assert_eq!(slots.remove(0, &key), Ok(()));
        assert_eq!(unlocked(&slots, FILE), Err(KeyError::WrongKey));
        assert_eq!(slots.remove(1, &key), Err(KeyError::LastSlot));
        assert_eq!(slots.remove(0, &key), Err(KeyError::NoSuchSlot));
        assert_eq!(slots.remove(8, &key), Err(KeyError::NoSuchSlot));
        assert_eq!(
            slots.replace(5, &key, FILE, CHEAP, &mut random),
            Err(KeyError::NoSuchSlot)
        );
        for _ in 1..KEY_SLOT_COUNT {
            slots.add(&key, FILE, CHEAP, &mut random).unwrap();
        }
        assert_eq!(
            slots.add(&key, FILE, CHEAP, &mut random),
            Err(KeyError::Full)
        );
        assert_eq!(reread(&slots).used().count(), KEY_SLOT_COUNT);
    }

    #[test]
    fn only_the_holder_of_the_key_changes_slots() {
        let mut random = testing::random(13);
        let (mut slots, _) = made(Suite::default(), FILE);
        let other = DataKey::generate(&mut random);
        assert_eq!(
            slots.add(&other, WORD, CHEAP, &mut random),
            Err(KeyError::Damaged)
        );
        assert_eq!(slots.remove(0, &other), Err(KeyError::Damaged));
    }

    #[test]
    fn every_flipped_bit_is_damage_and_never_a_wrong_key() {
        let (slots, _) = made(Suite::default(), FILE);
        let good = slots.encode(AT);
        for bit in 0..KEY_SLOT_BYTES * 8 {
            let mut block = good;
            block[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                KeySlots::decode(&block, ID, AT).err(),
                Some(KeyError::Damaged),
                "bit {bit}"
            );
        }
        for cut in 0..KEY_SLOT_BYTES {
            assert!(KeySlots::decode(&good[..cut], ID, AT).is_err());
        }
        assert!(KeySlots::decode(&good, FileSystemId([8; 16]), AT).is_err());
        assert!(KeySlots::decode(&good, ID, BlockIndex(4)).is_err());
    }

    /// Somebody who can write the disk mends the checksum.
    #[test]
    fn every_flipped_byte_under_a_mended_checksum_is_refused() {
        let (mut slots, key) = made(Suite::default(), FILE);
        let mut random = testing::random(14);
        slots.add(&key, WORD, CHEAP, &mut random).unwrap();
        let good = slots.encode(AT);
        for place in 24..KEY_SLOT_BYTES {
            for flip in [0x01u8, 0x80, 0xff] {
                let mut block = good;
                block[place] ^= flip;
                let sum = checksum(&block[CHECKED_FROM..]);
                block[8..12].copy_from_slice(&sum.to_le_bytes());
                let Ok(bent) = KeySlots::decode(&block, ID, AT) else {
                    continue;
                };
                assert!(bent.unlock(FILE, 1024).is_err(), "byte {place}");
            }
        }
    }

    #[test]
    fn a_hostile_image_cannot_ask_for_memory_or_time() {
        let (slots, _) = made(Suite::default(), WORD);
        for (memory_kib, passes, lanes, expected) in [
            (u32::MAX, 1, 1, KeyError::Damaged),
            (32, u32::MAX, 1, KeyError::Damaged),
            (32, 1, u32::MAX, KeyError::Damaged),
            (32, 1, 0, KeyError::Damaged),
            (32, 0, 1, KeyError::Damaged),
            (0, 1, 1, KeyError::Damaged),
            (
                256 * 1024,
                1,
                1,
                KeyError::TooCostly {
                    memory_kib: 262_144,
                },
            ),
        ] {
            let mut bent = slots.clone();
            bent.layout.slots[0].memory_kib = memory_kib.into();
            bent.layout.slots[0].passes = passes.into();
            bent.layout.slots[0].lanes = lanes.into();
            let result = KeySlots::decode(&bent.encode(AT), ID, AT)
                .and_then(|slots| slots.unlock(WORD, 64 * 1024));
            assert_eq!(result.err(), Some(expected));
        }
        let mut random = testing::random(15);
        for _ in 0..2000 {
            let mut block = [0; KEY_SLOT_BYTES];
            random(&mut block);
            assert!(KeySlots::decode(&block, ID, AT).is_err());
            // As far as the slots themselves.
            let good = slots.encode(AT);
            block[..96].copy_from_slice(&good[..96]);
            let sum = checksum(&block[CHECKED_FROM..]);
            block[8..12].copy_from_slice(&sum.to_le_bytes());
            if let Ok(bent) = KeySlots::decode(&block, ID, AT) {
                assert!(bent.unlock(FILE, 64).is_err());
            }
        }
    }

    #[test]
    fn an_unknown_version_is_named() {
        let (slots, _) = made(Suite::default(), FILE);
        let mut newer = slots.clone();
        newer.layout.version = 2.into();
        let mut foreign = slots;
        foreign.layout.suite = 9;
        for (slots, version, suite) in [(newer, 2, 1), (foreign, 1, 9)] {
            assert_eq!(
                KeySlots::decode(&slots.encode(AT), ID, AT).err(),
                Some(KeyError::Unknown { version, suite })
            );
        }
    }

    #[test]
    fn the_block_is_pinned() {
        let (slots, _) = made(Suite::default(), FILE);
        assert_eq!(KEY_SLOT_BYTES, 1120);
        assert_eq!(
            checksum(&slots.encode(AT)),
            1_885_090_545,
            "the format of key slots changed"
        );
    }

    #[test]
    fn a_passphrase_slot_at_the_default_cost_is_pinned() {
        // Computed by other implementations (argon2-cffi, Python's `cryptography`).
        let key = DataKey::from_bytes(core::array::from_fn(|index| index as u8));
        let mut count = |bytes: &mut [u8]| {
            for (index, byte) in bytes.iter_mut().enumerate() {
                *byte = 100 + index as u8;
            }
        };
        let id = FileSystemId([1; 16]);
        let (suite, secret) = (Suite::default(), Secret::Passphrase(b"hi"));
        let slots =
            KeySlots::create(id, suite, &key, secret, KdfCost::DEFAULT, &mut count).unwrap();
        assert_eq!(
            slots.layout.slots[0].wrapped,
            [
                0x65, 0xcc, 0x09, 0x78, 0x9e, 0xa1, 0xdd, 0xf0, 0x03, 0x65, 0x8a, 0x2d, 0x1b, 0x6f,
                0x8c, 0xe4, 0xf4, 0xc5, 0x1e, 0x14, 0xb9, 0x6d, 0x4b, 0x66, 0xfa, 0x85, 0x62, 0xf0,
                0x0a, 0xee, 0x38, 0xdf
            ]
        );
    }
}

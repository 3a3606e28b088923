//! From a secret to an open file system: where the key slots lie, who may unlock what, and how slots are changed.
//!
//! Invariants:
//! - A file system with a key opens with nothing else, and one without a key is refused when a key is given: it is
//!   not the one that the key is for.
//! - Of the two copies of the key slots one is always intact: the older one is written first, and the other only
//!   once that is durable.
//!
//! Not here: what slots look like (`seal::slots`), and where chance comes from.

use alloc::vec::Vec;

use zeroize::Zeroize;

use super::format::read_superblock;
use crate::disk::superblock::{KEY_SLOT_BLOCKS, State, Superblock, SuperblockFault};
use crate::error::KeyAccessError;
use crate::seal::{
    DataKey, KdfCost, KeyError, KeySlots, Sealer, Secret, SharedVault, Suite, Vault,
};
use crate::{BlockDevice, BlockIndex, Buffer, FileSystemId, FormatError, MountError, Structure};

/// Where bytes come from that nobody can foretell: the machine's entropy, or a generator seeded from it at this start.
/// Never a state on a disk. Each call gives others.
pub type Entropy<'k> = dyn Fn(&mut [u8]) + 'k;

/// What opens a file system that has a key.
#[derive(Clone, Copy)]
pub struct Unlock<'k> {
    /// What the owner has or knows.
    pub secret: Secret<'k>,
    /// Memory that trying a passphrase may take.
    pub memory_kib_max: u32,
    /// For the nonces of what is written.
    pub entropy: &'k Entropy<'k>,
}

impl<'k> Unlock<'k> {
    /// With the content of a key file.
    pub fn with_key_file(content: &'k [u8], entropy: &'k Entropy<'k>) -> Self {
        Self {
            secret: Secret::KeyFile(content),
            memory_kib_max: KdfCost::MEMORY_KIB_MAX,
            entropy,
        }
    }
}

impl core::fmt::Debug for Unlock<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Unlock({:?})", self.secret)
    }
}

/// The key that a new file system gets.
#[derive(Clone, Copy)]
pub struct Encryption<'k> {
    /// The cipher.
    pub suite: Suite,
    /// What will open it.
    pub secret: Secret<'k>,
    /// What trying a passphrase costs.
    pub cost: KdfCost,
    /// For the key and the nonces.
    pub entropy: &'k Entropy<'k>,
}

impl<'k> Encryption<'k> {
    /// With a key file and the default cipher.
    pub fn with_key_file(content: &'k [u8], entropy: &'k Entropy<'k>) -> Self {
        Self {
            suite: Suite::default(),
            secret: Secret::KeyFile(content),
            cost: KdfCost::DEFAULT,
            entropy,
        }
    }
}

impl core::fmt::Debug for Encryption<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Encryption({:?}, {:?})", self.suite, self.secret)
    }
}

/// A secret that opens a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeySlotInfo {
    /// Its slot.
    pub slot: usize,
    /// Of a passphrase, what trying it costs; `None` for a key file.
    pub passphrase: Option<KdfCost>,
}

/// How the slots of a file system are to change. The data key stays, so nothing else is written.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum KeyChange<'k> {
    /// This secret opens it as well.
    Add(Secret<'k>, KdfCost),
    /// This secret takes the place of the one that unlocked it.
    Replace(Secret<'k>, KdfCost),
    /// What is in this slot does not open it any more.
    Remove(usize),
}

/// The seals of the file system with this superblock. Reads only.
pub(crate) async fn unlock<D: BlockDevice>(
    device: &D,
    superblock: &Superblock,
    key: Option<&Unlock<'_>>,
) -> Result<SharedVault, MountError> {
    let key = match (superblock.suite, key) {
        (None, None) => return Ok(Vault::plain(superblock.id)),
        (None, Some(_)) => return Err(MountError::Key(KeyError::NotEncrypted)),
        (Some(_), None) => return Err(MountError::Key(KeyError::Missing)),
        (Some(_), Some(key)) => key,
    };
    let slots = read_slots(device, superblock).await?;
    let (data_key, _) = slots
        .unlock(key.secret, key.memory_kib_max)
        .map_err(key_error)?;
    Ok(vault_of(
        superblock.id,
        slots.suite(),
        &data_key,
        key.entropy,
    ))
}

fn vault_of(
    id: FileSystemId,
    suite: Suite,
    data_key: &DataKey,
    entropy: &Entropy<'_>,
) -> SharedVault {
    let mut seed = [0; 32];
    entropy(&mut seed);
    let vault = Vault::keyed(id, Sealer::keyed(suite, data_key), seed);
    seed.zeroize();
    vault
}

fn key_error(error: KeyError) -> MountError {
    match error {
        KeyError::Damaged => MountError::Damaged {
            structure: Structure::KeySlots,
            block: KEY_SLOT_BLOCKS[0],
        },
        error => MountError::Key(error),
    }
}

/// The intact copy of the slots with the highest generation, whichever disk it is on.
async fn read_slots<D: BlockDevice>(
    device: &D,
    superblock: &Superblock,
) -> Result<KeySlots, MountError> {
    let mut best: Option<KeySlots> = None;
    let mut unknown = None;
    for (block, copy) in places(device) {
        match read_copy(device, superblock, block, copy).await? {
            Ok(slots) => {
                let newer = |best: &KeySlots| slots.generation() > best.generation();
                if best.as_ref().is_none_or(newer) {
                    best = Some(slots);
                }
            }
            Err(error @ KeyError::Unknown { .. }) => unknown = Some(error),
            Err(_) => {}
        }
    }
    best.ok_or_else(|| key_error(unknown.unwrap_or(KeyError::Damaged)))
}

/// Where slots are: blocks, of each copy that the device keeps.
fn places<D: BlockDevice>(device: &D) -> impl Iterator<Item = (BlockIndex, u8)> {
    let copies = device.copies();
    let of = move |block| (0..copies).map(move |copy| (block, copy));
    KEY_SLOT_BLOCKS.into_iter().flat_map(of)
}

/// The copy at `block`, if it is one of this file system.
async fn read_copy<D: BlockDevice>(
    device: &D,
    superblock: &Superblock,
    block: BlockIndex,
    copy: u8,
) -> Result<Result<KeySlots, KeyError>, MountError> {
    let buffer = Buffer::zeroed(1)?;
    let (buffer, read) = device.read_copy(copy, block, buffer).await;
    if read.is_err() {
        // The other copy may do.
        return Ok(Err(KeyError::Damaged));
    }
    let decoded = KeySlots::decode(buffer.bytes(), superblock.id, block);
    Ok(decoded.and_then(|slots| {
        let same = superblock.suite == Some(slots.suite());
        same.then_some(slots).ok_or(KeyError::Damaged)
    }))
}

/// Which blocks do not have the slots as they should be, on any disk; with good ones to mend them from.
pub(crate) async fn damaged_copies<D: BlockDevice>(
    device: &D,
    superblock: &Superblock,
) -> Option<(KeySlots, [Option<BlockIndex>; 2])> {
    let best = read_slots(device, superblock).await.ok()?;
    let mut bad = [None; 2];
    for (bad, block) in bad.iter_mut().zip(KEY_SLOT_BLOCKS) {
        let generation = oldest_generation(device, superblock, block).await.ok()?;
        *bad = (generation != best.generation()).then_some(block);
    }
    Some((best, bad))
}

/// The generation of the slots at `block`, of the oldest on any disk; 0 where one is damaged.
async fn oldest_generation<D: BlockDevice>(
    device: &D,
    superblock: &Superblock,
    block: BlockIndex,
) -> Result<u64, MountError> {
    let mut oldest = u64::MAX;
    for copy in 0..device.copies() {
        let found = read_copy(device, superblock, block, copy).await?;
        oldest = oldest.min(found.map_or(0, |slots| slots.generation()));
    }
    Ok(oldest)
}

/// The block to write for the copy at `own`.
pub(crate) fn slots_block(slots: &KeySlots, own: BlockIndex) -> Option<Buffer> {
    let mut buffer = Buffer::zeroed(1).ok()?;
    let bytes = slots.encode(own);
    buffer
        .bytes_mut()
        .get_mut(..bytes.len())?
        .copy_from_slice(&bytes);
    Some(buffer)
}

/// The key of a file system that is being made.
pub(crate) struct Lock {
    slots: KeySlots,
    vault: SharedVault,
}

impl Lock {
    /// Draws a data key. Writes nothing.
    pub(crate) fn new(id: FileSystemId, key: &Encryption<'_>) -> Result<Self, FormatError> {
        let mut random = |bytes: &mut [u8]| (key.entropy)(bytes);
        let data_key = DataKey::generate(&mut random);
        let slots = KeySlots::create(id, key.suite, &data_key, key.secret, key.cost, &mut random);
        Ok(Self {
            slots: slots.map_err(FormatError::Key)?,
            vault: vault_of(id, key.suite, &data_key, key.entropy),
        })
    }

    /// Writes both copies of the slots; the caller flushes.
    pub(crate) async fn write<D: BlockDevice>(
        self,
        device: &D,
    ) -> Result<SharedVault, FormatError> {
        for block in KEY_SLOT_BLOCKS {
            let buffer = slots_block(&self.slots, block).ok_or(FormatError::OutOfMemory)?;
            device.write(block, buffer).await.1?;
        }
        Ok(self.vault)
    }
}

/// Whether the file system on `device` opens with this key, or without one. Reads only.
///
/// # Errors
/// [`MountError::Key`] if the key is wrong or missing, or if there should be none; other errors when that cannot be found out.
pub async fn verify_key<D: BlockDevice>(
    device: &D,
    key: Option<&Unlock<'_>>,
) -> Result<(), MountError> {
    let superblock = match read_superblock(device).await? {
        Ok(superblock) if superblock.state == State::Ready => superblock,
        _ => return Err(MountError::NotFound),
    };
    unlock(device, &superblock, key).await.map(|_| ())
}

/// The secrets that open the file system on `device`. Anybody may know that.
///
/// # Errors
/// See [`KeyAccessError`]; a file system without a key has none.
pub async fn key_slots<D: BlockDevice>(
    device: &D,
) -> Result<(Suite, Vec<KeySlotInfo>), KeyAccessError> {
    let superblock = superblock_of(device).await?;
    let slots = read_slots(device, &superblock).await?;
    let used = slots.used();
    let used = used.map(|(slot, passphrase)| KeySlotInfo { slot, passphrase });
    Ok((slots.suite(), used.collect()))
}

/// Changes the secrets that open the file system on `device`, which must not be mounted for writing. `key` is one that
/// opens it now. Gives the slot that was written or emptied. Durable on return.
///
/// # Errors
/// See [`KeyAccessError`]. After an error of the device either the old or the new secrets are in force.
pub async fn change_keys<D: BlockDevice>(
    device: &D,
    key: &Unlock<'_>,
    change: KeyChange<'_>,
) -> Result<usize, KeyAccessError> {
    let superblock = superblock_of(device).await?;
    let mut slots = read_slots(device, &superblock).await?;
    let (data_key, own) = slots
        .unlock(key.secret, key.memory_kib_max)
        .map_err(key_error)?;
    let mut random = |bytes: &mut [u8]| (key.entropy)(bytes);
    let slot = match change {
        KeyChange::Add(secret, cost) => slots.add(&data_key, secret, cost, &mut random)?,
        KeyChange::Replace(secret, cost) => {
            slots.replace(own, &data_key, secret, cost, &mut random)?;
            own
        }
        KeyChange::Remove(slot) => {
            slots.remove(slot, &data_key)?;
            slot
        }
    };
    // The one that is older, or damaged, first.
    let [first, second] = KEY_SLOT_BLOCKS;
    let first = oldest_generation(device, &superblock, first).await?;
    let second = oldest_generation(device, &superblock, second).await?;
    let mut order = KEY_SLOT_BLOCKS;
    if first > second {
        order.reverse();
    }
    for block in order {
        let buffer = slots_block(&slots, block).ok_or(MountError::OutOfMemory)?;
        let written = device.write(block, buffer).await.1;
        written.map_err(MountError::Device)?;
        device.flush().await.map_err(MountError::Device)?;
    }
    Ok(slot)
}

async fn superblock_of<D: BlockDevice>(device: &D) -> Result<Superblock, KeyAccessError> {
    let superblock = match read_superblock(device).await.map_err(MountError::Device)? {
        Ok(superblock) if superblock.state == State::Ready => superblock,
        Ok(_) | Err(SuperblockFault::Invalid) => return Err(MountError::NotFound.into()),
        Err(SuperblockFault::Unknown { version, features }) => {
            return Err(MountError::Unknown { version, features }.into());
        }
    };
    match superblock.suite {
        Some(_) => Ok(superblock),
        None => Err(KeyError::NotEncrypted.into()),
    }
}

//! Damage to the bytes of a disk, and disks that were tampered with: with checksums made right again, as somebody would
//! who knows the format (SPEC.md) but no key.

use alloc::vec::Vec;
use core::num::NonZero;
use core::ops::Range;

use crate::checkpoint::Checkpoint;
use crate::disk::superblock::Superblock;
use crate::object::Form;
use crate::seal::Vault;
use crate::{BLOCK_SIZE, BlockIndex};

/// One step of damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// Overwrites four bytes, as bit rot does.
    Bytes(usize, usize, [u8; 4]),
    /// A sector gets the content of another one, as by a misdirected write.
    Copy(usize, usize),
    /// A sector becomes zeroes.
    Zero(usize),
    /// A sector goes back to what it was earlier, as when a write is lost.
    Lost(usize),
    /// The disk ends early.
    Cut(usize),
}

impl Damage {
    /// Bytes that say one step.
    pub const BYTES: usize = 11;
    /// Bytes of what it happens to.
    pub const SECTOR: usize = 512;

    /// A step from any bytes.
    pub fn parse(bytes: [u8; Self::BYTES]) -> Self {
        let [kind, numbers @ .., b0, b1, b2, b3] = bytes;
        let (first, second) = numbers.split_at(3);
        let number = |bytes: &[u8]| {
            bytes
                .iter()
                .fold(0, |sum, byte| (sum << 8) | usize::from(*byte))
        };
        let (first, second) = (number(first), number(second));
        match kind % 5 {
            0 => Self::Bytes(first, second, [b0, b1, b2, b3]),
            1 => Self::Copy(first, second),
            2 => Self::Zero(first),
            3 => Self::Lost(first),
            _ => Self::Cut(first),
        }
    }

    /// Does it to a disk that once was `earlier`.
    pub fn apply(self, disk: &mut Vec<u8>, earlier: &[u8]) {
        let sectors = disk.len() / Self::SECTOR;
        let Some(sectors) = NonZero::new(sectors) else {
            return;
        };
        let place = |sector: usize| {
            let start = sector % sectors * Self::SECTOR;
            start..start + Self::SECTOR
        };
        match self {
            Self::Bytes(sector, offset, bytes) => {
                let sector = disk.get_mut(place(sector)).unwrap_or_default();
                let offset = offset % (Self::SECTOR - bytes.len());
                if let Some(target) = sector.get_mut(offset..offset + bytes.len()) {
                    target.copy_from_slice(&bytes);
                }
            }
            Self::Copy(from, to) => disk.copy_within(place(from), place(to).start),
            Self::Zero(sector) => disk.get_mut(place(sector)).unwrap_or_default().fill(0),
            Self::Lost(sector) => {
                let place = place(sector);
                if let (Some(target), Some(old)) = (disk.get_mut(place.clone()), earlier.get(place))
                {
                    target.copy_from_slice(old);
                }
            }
            Self::Cut(length) => disk.truncate(length % disk.len() / BLOCK_SIZE * BLOCK_SIZE),
        }
    }
}

/// Rounds in which checksums of nodes go up into the nodes that name them: as deep as trees of small disks are.
const LEVELS: usize = 6;

/// Makes the checksums of all structures of a disk without a key right, and those that name them: of groups up the chain, of
/// nodes up to the checkpoint. Those within stored extents stay as they are.
pub fn forge(disk: &mut [u8]) {
    forge_groups(disk);
    forge_nodes(disk);
    for at in (0..disk.len()).step_by(BLOCK_SIZE) {
        let rest = disk.get_mut(at..).unwrap_or_default();
        match rest.get(..4) {
            Some(b"SILT") => set_checksum(rest, 8, 12..512),
            Some(b"SiTb" | b"SiMm") => set_checksum(rest, 4, 8..BLOCK_SIZE),
            Some(b"SiCp") => {
                let end = 240_usize.saturating_add(number(rest, 40));
                set_checksum(rest, 4, 8..end);
            }
            _ => {}
        }
    }
    let _ = forge_objects(disk);
}

/// The chunks of the objects that the checkpoint in force names, as far as their lengths lead.
fn forge_objects(disk: &mut [u8]) -> Option<()> {
    let block_of = |block: BlockIndex| usize::try_from(block.0).ok()?.checked_mul(BLOCK_SIZE);
    let superblock = Superblock::copy_blocks().into_iter().find_map(|own| {
        let bytes = disk.get(block_of(own)?..)?;
        Superblock::decode(bytes, own).ok()
    })?;
    let vault = Vault::plain(superblock.id);
    let device_blocks = (disk.len() / BLOCK_SIZE) as u64;
    let checkpoints = [0, 1].into_iter().filter_map(|slot| {
        let own = superblock.slot_block(slot);
        let slot = disk.get(block_of(own)?..)?;
        Checkpoint::decode(&superblock, &vault, own, slot, device_blocks)
    });
    let checkpoint = checkpoints.max_by_key(|checkpoint| checkpoint.sequence)?;
    let form = Form::new(&superblock, &vault);
    for (id, info) in &checkpoint.objects {
        let places = info.segments.iter().filter_map(|segment| {
            let start = block_of(superblock.segment_start(*segment))?;
            Some(start..start.checked_add(superblock.segment_bytes())?)
        });
        let places = places.collect::<Vec<_>>();
        let segments = places.iter().map(|place| disk.get(place.clone()));
        let Some(segments) = segments.collect::<Option<Vec<_>>>() else {
            continue;
        };
        let mut object = segments.concat();
        form.forge(
            *id,
            object.get_mut(..usize::try_from(info.len_bytes).ok()?)?,
        );
        for (place, bytes) in places
            .into_iter()
            .zip(object.chunks(superblock.segment_bytes()))
        {
            disk.get_mut(place)?.copy_from_slice(bytes);
        }
    }
    Some(())
}

/// Groups, of which each names the one before it by its checksum, and the checkpoint the one before the first.
fn forge_groups(disk: &mut [u8]) {
    let mut groups = Vec::new();
    for at in (0..disk.len()).step_by(BLOCK_SIZE) {
        let rest = disk.get_mut(at..).unwrap_or_default();
        if let Some(b"SiGr" | b"SiSv") = rest.get(..4) {
            let (data, records) = (number(rest, 68), number(rest, 76));
            let data = 160..160_usize.saturating_add(data);
            let records = data.end..data.end.saturating_add(records);
            set_checksum(rest, 72, data);
            set_checksum(rest, 84, records);
            groups.push((number(rest, 32), at));
        }
    }
    // By their numbers, as they follow each other.
    groups.sort_unstable();
    let mut renamed = Vec::new();
    for (_, at) in groups {
        let rest = disk.get_mut(at..).unwrap_or_default();
        rename(rest, 64, &renamed);
        let before = number(rest, 4);
        set_checksum(rest, 4, 8..160);
        let after = number(rest, 4);
        if before != after {
            renamed.push((before, after));
        }
    }
    for block in disk.chunks_mut(BLOCK_SIZE) {
        if block.starts_with(b"SiCp") {
            rename(block, 108, &renamed);
        }
    }
}

/// A checksum that names a structure follows that.
fn rename(bytes: &mut [u8], at: usize, renamed: &[(usize, usize)]) {
    let named = number(bytes, at);
    let new = renamed.iter().find(|(before, _)| *before == named);
    if let (Some((_, after)), Some(target)) = (new, bytes.get_mut(at..at + 4))
        && let Ok(after) = u32::try_from(*after)
    {
        target.copy_from_slice(&after.to_le_bytes());
    }
}

fn forge_nodes(disk: &mut [u8]) {
    for _ in 0..LEVELS {
        let mut renamed = Vec::new();
        for at in (0..disk.len()).step_by(BLOCK_SIZE) {
            let node = disk.get_mut(at..at + BLOCK_SIZE).unwrap_or_default();
            if !node.starts_with(b"SiTn") {
                continue;
            }
            let mut name = ((at / BLOCK_SIZE) as u64).to_le_bytes().to_vec();
            let mut new = name.clone();
            name.extend_from_slice(node.get(4..8).unwrap_or_default());
            set_checksum(node, 4, 8..BLOCK_SIZE);
            new.extend_from_slice(node.get(4..8).unwrap_or_default());
            if name != new {
                renamed.push((name, new));
            }
        }
        if renamed.is_empty() {
            break;
        }
        for block in disk.chunks_exact_mut(BLOCK_SIZE) {
            if !(block.starts_with(b"SiTn") || block.starts_with(b"SiCp")) {
                continue;
            }
            for (name, new) in &renamed {
                let found = block.windows(12).position(|window| window == name);
                if let Some(target) = found.and_then(|at| block.get_mut(at..at + 12)) {
                    target.copy_from_slice(new);
                }
            }
        }
    }
}

fn number(bytes: &[u8], at: usize) -> usize {
    let bytes = bytes.get(at..at + 4).and_then(|bytes| bytes.first_chunk());
    bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes) as usize)
}

fn set_checksum(bytes: &mut [u8], at: usize, range: Range<usize>) {
    let Some(covered) = bytes.get(range) else {
        return;
    };
    let sum = crc32fast::hash(covered).to_le_bytes();
    if let Some(target) = bytes.get_mut(at..at + 4) {
        target.copy_from_slice(&sum);
    }
}

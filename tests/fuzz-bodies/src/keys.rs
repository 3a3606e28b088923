//! Key slots that say anything, in front of a disk with a key.
//!
//! Invariants: whatever the slots say, listing them, opening the disk and changing them end, without a panic. A disk is only ever
//! opened by the right key, and what it opens to is what was written.
//!
//! The input is a script of damage to the blocks that hold the slots, whose checksums are made right again. What they are sealed
//! with cannot be.

use std::rc::Rc;
use std::sync::OnceLock;

use lfs::sim::{Executor, SimDisk};
use lfs::{
    BLOCK_SIZE, Encryption, FileKind, FileSystem, FileSystemId, FormatOptions, KdfCost, KeyChange,
    MountError, NewInode, ROOT, Recovery, Secret, Suite, Unlock,
};

const DISK_BLOCKS: usize = 640;
/// Of the two copies of the slots.
const SLOT_BLOCKS: [usize; 2] = [1, 14];
/// Bytes of a block that mean something.
const SLOTS_BYTES: usize = 1120;
/// Steps of the script: where, and what is there instead.
const STEP_BYTES: usize = 3;

const KEY: [u8; 32] = [3; 32];
const OTHER: [u8; 32] = [4; 32];
const NAME: &[u8] = b"secret";

/// The body: see the module. Says whether the right key still opened it.
pub fn run(input: &[u8]) -> bool {
    let mut disk = disk_with_key().clone();
    for [low, high, byte] in input.as_chunks::<STEP_BYTES>().0 {
        let at = usize::from(u16::from_le_bytes([*low, *high]));
        let copy = SLOT_BLOCKS.get(at / SLOTS_BYTES % 2).copied();
        let place = copy.unwrap_or_default() * BLOCK_SIZE + at % SLOTS_BYTES;
        if let Some(target) = disk.get_mut(place) {
            *target = *byte;
        }
    }
    for block in SLOT_BLOCKS {
        let start = block * BLOCK_SIZE;
        let Some(slots) = disk.get_mut(start..start + SLOTS_BYTES) else {
            continue;
        };
        let sum = crc32(slots.get(12..).unwrap_or_default());
        if let Some(target) = slots.get_mut(8..12) {
            target.copy_from_slice(&sum.to_le_bytes());
        }
    }
    let disk = SimDisk::from_bytes(&disk, 4);
    let mut executor = Executor::new(5);
    let device = disk.clone();
    executor.run(async move {
        let _ = lfs::key_slots(&device).await;
        assert!(lfs::verify_key(&device, None).await.is_err());
        assert!(
            lfs::verify_key(&device, Some(&unlock(&OTHER)))
                .await
                .is_err()
        );
    });
    let opens = |disk: SimDisk, key: &'static [u8]| {
        Executor::new(6).run(async move { names(disk, key).await })
    };
    let opened = opens(disk.snapshot(6), &KEY);
    if let Ok(names) = &opened {
        assert_eq!(names, &[NAME], "what nobody wrote");
    }
    let device = disk.clone();
    let changed = executor.run(async move {
        let cost = KdfCost::DEFAULT;
        let added = KeyChange::Add(Secret::KeyFile(&OTHER), cost);
        let added = lfs::change_keys(&device, &unlock(&KEY), added).await;
        let replaced = KeyChange::Replace(Secret::KeyFile(&OTHER), cost);
        let replaced = lfs::change_keys(&device, &unlock(&KEY), replaced).await;
        let _ = lfs::change_keys(&device, &unlock(&KEY), KeyChange::Remove(7)).await;
        added.is_ok() || replaced.is_ok()
    });
    assert_eq!(opens(disk, &OTHER).is_ok(), changed, "{opened:?}");
    opened.is_ok()
}

fn unlock(key: &'static [u8]) -> Unlock<'static> {
    Unlock::with_key_file(key, &chance)
}

/// Enough of it for a test.
fn chance(bytes: &mut [u8]) {
    bytes.fill(9);
}

async fn mount(device: SimDisk, key: &'static [u8]) -> Result<Recovery<SimDisk>, MountError> {
    let mut recovery = Recovery::open_with(device, Some(&unlock(key))).await?;
    while recovery.next_commit().await?.is_some() {}
    Ok(recovery)
}

async fn names(device: SimDisk, key: &'static [u8]) -> Result<Vec<Vec<u8>>, MountError> {
    let filesystem = mount(device, key).await?.finish_without_writing();
    let listed = filesystem.read(|tx| tx.files().read_dir(ROOT, 0, 10)).await;
    let entries = listed.unwrap_or_default().entries.into_iter();
    Ok(entries.map(|entry| entry.name).collect())
}

fn disk_with_key() -> &'static Vec<u8> {
    static DISK: OnceLock<Vec<u8>> = OnceLock::new();
    DISK.get_or_init(|| {
        let disk = SimDisk::new(DISK_BLOCKS, 1);
        let mut executor = Executor::new(1);
        let device = disk.clone();
        let filesystem: Rc<FileSystem<SimDisk>> = executor.run(async move {
            let options = FormatOptions {
                segment_bytes: 32 << 10,
                log_segments: 16,
                created_ns: 0,
            };
            let key = Encryption {
                suite: Suite::default(),
                ..Encryption::with_key_file(&KEY, &chance)
            };
            let made = lfs::format_encrypted(&device, options, FileSystemId([7; 16]), &key).await;
            made.expect("it fits");
            let recovery = mount(device, &KEY).await.expect("what was just made");
            Rc::new(recovery.finish().await.expect("a disk that works"))
        });
        let (running, clock) = (Rc::clone(&filesystem), executor.clock());
        executor.spawn(async move { running.run(&clock).await });
        let clock = executor.clock();
        executor.run(async move {
            let new = NewInode::new(FileKind::File, 0o600);
            let made = filesystem.transact(0, |tx| tx.files().create(ROOT, NAME, &new));
            made.await.expect("it fits");
            filesystem.shutdown(&clock).await.expect("it keeps it");
        });
        disk.to_bytes()
    })
}

/// As in SPEC.md, "Conventions".
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0xEDB8_8320 } else { 0 }
        })
    })
}

//! What the cleaner leaves behind, and what it takes along.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use lfs::sim::{Executor, Random, SimDisk};
use lfs::{FileKind, FormatOptions, NewInode, ROOT};

const DISK_BYTES: u64 = 128 << 20;
const UNIT: u64 = 4096;
/// Of a disk with segments of that size.
const UNITS_PER_EXTENT: u64 = 8;
const SEGMENT_BYTES: u32 = 512 << 10;

/// Bytes of a unit, of which `random_bytes` of every 64 do not compress.
fn unit_bytes(random: &mut Random, random_bytes: usize) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    for chunk in bytes.chunks_exact_mut(64) {
        for byte in &mut chunk[..random_bytes] {
            *byte = random.next_u64().to_le_bytes()[0];
        }
    }
    bytes
}

/// Fills four fifths of a disk with large extents and overwrites three quarters of each, a unit here, a unit there: no
/// extent is dead, but most of what they hold.
fn overwrite_here_and_there(random_bytes: usize) {
    let disk = SimDisk::new(usize::try_from(DISK_BYTES / UNIT).unwrap(), 1);
    let mut executor = Executor::new(1);
    let target = disk.clone();
    let options = FormatOptions {
        segment_bytes: SEGMENT_BYTES,
        log_segments: 32,
        created_ns: 0,
    };
    executor.run(async move {
        let formatted = common::key::format(&target, options, common::ID);
        formatted.await.unwrap();
    });
    let filesystem = common::mount(&mut executor, &disk).unwrap().filesystem;
    executor.run(async move {
        let mut random = Random::new(1);
        let new = NewInode::new(FileKind::File, 0o644);
        let create = filesystem.transact(0, |tx| tx.files().create(ROOT, b"data", &new));
        let (inode, _) = create.await.unwrap();
        let mut units = 0;
        while filesystem.usage().live_bytes < filesystem.usage().capacity_bytes * 4 / 5 {
            let bytes = (0..UNITS_PER_EXTENT).map(|_| unit_bytes(&mut random, random_bytes));
            let bytes = bytes.collect::<Vec<_>>().concat();
            let write = filesystem.transact(0, |tx| tx.files().write(inode, units * UNIT, &bytes));
            write.await.unwrap();
            units += UNITS_PER_EXTENT;
        }
        let mut expected = vec![None; usize::try_from(units).unwrap()];
        let overwritten = [1, 3, 5, 6, 7, 2];
        let extents = || (0..units).step_by(usize::try_from(UNITS_PER_EXTENT).unwrap());
        for unit in overwritten
            .into_iter()
            .flat_map(|unit| extents().map(move |first| first + unit))
        {
            let bytes = unit_bytes(&mut random, random_bytes);
            let write = filesystem.transact(0, |tx| tx.files().write(inode, unit * UNIT, &bytes));
            write.await.unwrap();
            expected[usize::try_from(unit).unwrap()] = Some(bytes);
        }
        assert!(filesystem.counters().segments_cleaned > 0);
        for (unit, expected) in (0..).zip(expected) {
            let read = filesystem.read(|tx| tx.files().read(inode, unit * UNIT, 4096));
            let found = read.await.unwrap();
            assert!(expected.is_none_or(|bytes| bytes == found), "unit {unit}");
        }
    });
}

#[test]
fn what_is_dead_within_an_extent_is_left_behind() {
    overwrite_here_and_there(64);
}

#[test]
fn what_is_dead_within_a_compressed_extent_is_left_behind() {
    overwrite_here_and_there(32);
}

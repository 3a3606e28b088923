//! File systems with a key.
//!
//! - Nothing of names, content or what the layer above records can be read in an image.
//! - A wrong or missing key, and a key for an image without one, are said as that, and nothing is written.
//! - Nothing that was changed by somebody without the key is taken for good, with right checksums neither.
//! - Keys come and go without anything else being written, and a crash on the way leaves the old or the new ones.
//!
//! What holds of all file systems is tested with a key by running other tests with `SILTSTONE_TEST_KEY`.

use crate::common;

use std::collections::BTreeSet;

use crate::common::images::{Recipe, image};
use crate::common::key::{KEY_FILE, choose, with_key_file};
use crate::common::{ID, formatted, mount, try_mount};
use lfs::sim::{Executor, Random, SimDisk};
use lfs::{
    BLOCK_SIZE, BlockIndex, CheckOptions, CheckSummary, FileKind, KdfCost, KeyAccessError,
    KeyChange, KeyError, MountError, NewInode, Problem, ROOT, Recovery, Secret, Structure, Suite,
    Unlock, XattrMode,
};

const OTHER: [u8; 40] = [0x77; 40];

fn open(disk: &SimDisk, key: Option<Unlock<'static>>) -> Result<(), MountError> {
    let disk = disk.clone();
    Executor::new(0).run(async move { Recovery::open_with(disk, key.as_ref()).await.map(|_| ()) })
}

fn check(disk: &SimDisk, key: Option<Unlock<'static>>) -> (CheckSummary, Vec<Problem>) {
    let disk = disk.clone();
    Executor::new(0).run(async move {
        let options = CheckOptions {
            key,
            data: true,
            ..CheckOptions::default()
        };
        let mut problems = Vec::new();
        let mut note = |event: lfs::CheckEvent<'_>| {
            if let lfs::CheckEvent::Finding(finding) = event {
                problems.push(finding.problem.clone());
            }
        };
        let summary = lfs::check(&disk, options, &mut note).await;
        (summary, problems)
    })
}

fn change(
    disk: &SimDisk,
    key: &'static [u8],
    what: KeyChange<'static>,
) -> Result<usize, KeyAccessError> {
    let disk = disk.clone();
    Executor::new(0).run(async move { lfs::change_keys(&disk, &with_key_file(key), what).await })
}

#[test]
fn nothing_can_be_read_without_the_key() {
    const WORDS: [&[u8]; 7] = [
        b"name-of-a-file",
        b"content of a small file",
        b"content of a large file",
        b"user.attribute",
        b"value of the attribute",
        b"what the layer above records",
        b"name of a snapshot",
    ];
    for (suite, readable) in [
        (None, true),
        (Some(Suite::XChaCha20Poly1305), false),
        (Some(Suite::Aes256GcmSiv), false),
    ] {
        choose(suite);
        let disk = formatted(72, 1);
        let mut executor = Executor::new(1);
        let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
        let clock = executor.clock();
        executor.run(async move {
            let [name, small, large, attribute, value, layer, snapshot] = WORDS;
            let file = NewInode::new(FileKind::File, 0o644);
            // What repeats would be compressed, and not be found for that.
            let mut random = Random::new(1);
            let mut large = large.to_vec();
            large.extend((0..20_000).map(|_| random.next_u64() as u8));
            let ((), commit) = filesystem
                .transact(0, |tx| {
                    let one = tx.files().create(ROOT, name, &file)?;
                    tx.files().write(one, 0, small)?;
                    tx.files()
                        .set_xattr(one, attribute, value, XattrMode::Any)?;
                    let two = tx.files().create(ROOT, b"large", &file)?;
                    tx.files().write(two, 0, &large)
                })
                .await
                .unwrap();
            filesystem.append(layer).unwrap();
            let snapshot = core::str::from_utf8(snapshot).unwrap();
            filesystem.create_snapshot(snapshot, 0).await.unwrap();
            let mut object = filesystem.create_object().unwrap();
            object.append(layer).await.unwrap();
            let object = object.finish().await.unwrap();
            filesystem
                .checkpoint(commit, &[object], layer, &clock)
                .await
                .unwrap();
            filesystem.shutdown(&clock).await.unwrap();
        });
        let image = disk.to_bytes();
        for word in WORDS {
            let found = image.windows(word.len()).any(|bytes| bytes == word);
            assert_eq!(found, readable, "{suite:?}: {}", word.escape_ascii());
        }
    }
}

#[test]
fn a_wrong_or_missing_key_is_said_and_nothing_is_written() {
    choose(Some(Suite::default()));
    let disk = formatted(72, 1);
    for (key, expected) in [
        (None, KeyError::Missing),
        (Some(with_key_file(&OTHER)), KeyError::WrongKey),
        (Some(with_key_file(&[1; 31])), KeyError::KeyFileTooShort),
    ] {
        let error = MountError::Key(expected);
        assert_eq!(open(&disk, key), Err(error));
        assert!(error.to_string().contains("key"), "{error}");
        let (summary, problems) = check(&disk, key);
        assert!(
            !summary.is_clean() && problems == [Problem::Locked(error)],
            "{problems:?}"
        );
        let target = disk.clone();
        let clock = Executor::new(0).clock();
        let repaired = Executor::new(0).run(async move {
            let options = CheckOptions {
                key,
                ..CheckOptions::default()
            };
            lfs::repair(&target, &clock, options, &mut |_| ()).await
        });
        assert!(repaired.unwrap().repaired.is_empty());
    }
    let wrong = KeyChange::Add(Secret::KeyFile(&OTHER), KdfCost::DEFAULT);
    let error = MountError::Key(KeyError::WrongKey);
    assert_eq!(change(&disk, &OTHER, wrong), Err(error.into()));
    assert_eq!(disk.event_count(), 0);

    choose(None);
    let plain = formatted(72, 1);
    let error = Err(MountError::Key(KeyError::NotEncrypted));
    assert_eq!(open(&plain, Some(with_key_file(&KEY_FILE))), error);
    assert_eq!(open(&plain, None), Ok(()));
    assert_eq!(plain.event_count(), 0);
}

/// Who has the disk and not the key can make checksums right.
#[test]
fn what_was_changed_without_the_key_is_damage_also_under_right_checksums() {
    choose(Some(Suite::default()));
    let recipe = Recipe {
        segments: 160,
        steps: 150,
        orderly: false,
        seed: 5,
    };
    let good = image(recipe).0.to_bytes();
    let key = Some(with_key_file(&KEY_FILE));
    assert!(check(&SimDisk::from_bytes(&good, 0), key).0.is_clean());
    let mut random = Random::new(5);
    let mut kinds = BTreeSet::new();
    let mut found = 0;
    for start in (0..good.len()).step_by(BLOCK_SIZE) {
        // Where the structure ends, and where what is sealed begins.
        let (end, body) = match &good[start..start + 4] {
            b"SiTn" | b"SiTb" => (start + BLOCK_SIZE, 72),
            b"SiCp" => {
                let body = u32::from_le_bytes(good[start + 40..start + 44].try_into().unwrap());
                (start + 240 + body as usize, 88)
            }
            b"SiGr" => (start + 160, 32),
            _ => continue,
        };
        let mut image = good.clone();
        let at = start + body + random.index(end - start - body);
        if (4..8).contains(&(at - start)) {
            continue;
        }
        image[at] ^= 1 << random.below(8);
        let sum = crc32(&image[start + 8..end]);
        image[start + 4..start + 8].copy_from_slice(&sum.to_le_bytes());
        let disk = SimDisk::from_bytes(&image, 0);
        let (summary, problems) = check(&disk, key);
        // An older checkpoint, and blocks that are not in use any more, may be anything.
        if problems
            .iter()
            .any(|problem| problem.severity() == lfs::Severity::Error)
        {
            assert!(!summary.is_clean());
            found += 1;
            kinds.insert(good[start..start + 4].to_vec());
        } else {
            assert!(summary.mounts);
        }
    }
    assert!(found > 10 && kinds.len() == 4, "{found}, {kinds:?}");
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0xEDB8_8320 } else { 0 }
        })
    })
}

#[test]
fn no_nonce_is_there_twice() {
    choose(Some(Suite::default()));
    let recipe = Recipe {
        segments: 160,
        steps: 300,
        orderly: false,
        seed: 6,
    };
    let image = image(recipe).0.to_bytes();
    let mut nonces = BTreeSet::new();
    let mut count = 0;
    for block in image.chunks_exact(BLOCK_SIZE) {
        let at = match &block[..4] {
            b"SiTn" | b"SiTb" => 32,
            b"SiCp" => 48,
            b"SiGr" | b"SiSv" => 96,
            _ => continue,
        };
        assert_ne!(block[at..at + 24], [0; 24]);
        nonces.insert(block[at..at + 24].to_vec());
        count += 1;
    }
    assert_eq!(nonces.len(), count);
    assert!(count > 50, "{count}");
}

#[test]
fn keys_come_and_go_without_data_being_written() {
    choose(Some(Suite::default()));
    let disk = formatted(72, 1);
    let opens = |key: &'static [u8]| open(&disk, Some(with_key_file(key))).is_ok();
    let other = Secret::KeyFile(&OTHER);
    assert_eq!(
        change(&disk, &KEY_FILE, KeyChange::Add(other, KdfCost::DEFAULT)),
        Ok(1)
    );
    assert!(opens(&KEY_FILE) && opens(&OTHER));
    assert_eq!(change(&disk, &OTHER, KeyChange::Remove(0)), Ok(0));
    assert!(!opens(&KEY_FILE) && opens(&OTHER));
    let last = change(&disk, &OTHER, KeyChange::Remove(1));
    assert_eq!(last, Err(KeyError::LastSlot.into()));
    let back = KeyChange::Replace(Secret::KeyFile(&KEY_FILE), KdfCost::DEFAULT);
    assert_eq!(change(&disk, &OTHER, back), Ok(1));
    assert!(opens(&KEY_FILE) && !opens(&OTHER));
    assert!(try_mount(&disk).is_ok());
    let slots = disk.clone();
    let slots = Executor::new(0).run(async move { lfs::key_slots(&slots).await });
    assert_eq!(slots.unwrap().1.len(), 1);
}

#[test]
fn a_crash_while_keys_change_leaves_the_old_or_the_new_ones() {
    choose(Some(Suite::default()));
    let disk = formatted(72, 1);
    let rotate = KeyChange::Replace(Secret::KeyFile(&OTHER), KdfCost::DEFAULT);
    change(&disk, &KEY_FILE, rotate).unwrap();
    let mut random = Random::new(1);
    let (mut old, mut new) = (0, 0);
    for events in 0..=disk.event_count() {
        let crash = disk.crash_at(events);
        for round in 0..8 {
            let after = crash.disk(|_| round == 0 || (round > 1 && random.one_in(2)), 0);
            let opens = |key: &'static [u8]| open(&after, Some(with_key_file(key))).is_ok();
            let (first, second) = (opens(&KEY_FILE), opens(&OTHER));
            assert!(first != second, "event {events}: {first} and {second}");
            old += u32::from(first);
            new += u32::from(second);
            // What is left to do is done by a repair, whichever it was.
            let key = with_key_file(if first { &KEY_FILE } else { &OTHER });
            let (_, problems) = check(&after, Some(key));
            if problems.contains(&Problem::KeySlotsCopy) {
                let target = after.clone();
                let mut executor = Executor::new(0);
                let clock = executor.clock();
                let options = CheckOptions {
                    key: Some(key),
                    ..CheckOptions::default()
                };
                let repaired = executor
                    .run(async move { lfs::repair(&target, &clock, options, &mut |_| ()).await });
                assert!(repaired.unwrap().after.is_clean());
            }
        }
    }
    assert!(old > 0 && new > 0);
}

#[test]
fn one_copy_of_the_slots_is_enough_and_others_do_not_count() {
    choose(Some(Suite::default()));
    let disk = formatted(72, 1);
    let key = Some(with_key_file(&KEY_FILE));
    let good = disk.to_bytes();
    for copy in [1, 14] {
        let hurt = SimDisk::from_bytes(&good, 0);
        hurt.flip_bit(BlockIndex(copy), 999);
        assert_eq!(open(&hurt, key), Ok(()));
        assert!(check(&hurt, key).1.contains(&Problem::KeySlotsCopy));
        hurt.flip_bit(BlockIndex(15 - copy), 999);
        let error = MountError::Damaged {
            structure: Structure::KeySlots,
            block: BlockIndex(1),
        };
        assert_eq!(open(&hurt, key), Err(error));
    }
    // The slots of another file system, with a key of one's own, and copies in each other's place.
    let target = SimDisk::new(72 * 8, 2);
    let other = target.clone();
    Executor::new(2).run(async move {
        let id = lfs::FileSystemId([1; 16]);
        common::key::format(&other, common::FORMAT, id)
            .await
            .unwrap();
    });
    assert_ne!(ID, lfs::FileSystemId([1; 16]));
    let foreign = target.to_bytes();
    let block = |number: usize| number * BLOCK_SIZE..(number + 1) * BLOCK_SIZE;
    for (from, swap) in [(&foreign, false), (&good, true)] {
        let mut bytes = good.clone();
        for copy in [1, 14] {
            let source = if swap { 15 - copy } else { copy };
            bytes[block(copy)].copy_from_slice(&from[block(source)]);
        }
        let opened = open(&SimDisk::from_bytes(&bytes, 0), key);
        assert!(
            matches!(opened, Err(MountError::Damaged { .. })),
            "{opened:?}"
        );
    }
}

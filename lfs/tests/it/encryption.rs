//! File systems with a key.
//!
//! - Nothing of names, content or what the layer above records can be read in an image.
//! - A wrong or missing key, and a key for an image without one, are said as that, and nothing is written.
//! - Images that differ in what is secret differ nowhere else.
//! - No nonce comes twice, not where two machines go on from one image either.
//! - Nothing that was changed by somebody without the key is taken for good, with right checksums neither.
//! - Keys come and go without anything else being written, and a crash on the way leaves the old or the new ones.
//!
//! What holds of all file systems is tested with a key by running other tests with `SILTSTONE_TEST_KEY`.

use crate::common;

use std::collections::{BTreeMap, BTreeSet};

use crate::common::images::{Recipe, image};
use crate::common::key::{KEY_FILE, choose, entropy_from, with_key_file};
use crate::common::{ID, formatted, mount, try_mount};
use lfs::sim::{Executor, Random, SimDisk};
use lfs::{
    BLOCK_SIZE, BlockIndex, CheckOptions, CheckSummary, Compression, DumpEvent, DumpOptions,
    FileKind, KdfCost, KeyAccessError, KeyChange, KeyError, MountError, NewInode, Problem, ROOT,
    Recovery, Secret, Structure, Suite, Transaction, Unlock, XattrMode,
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
            common::put_all(&mut object, layer).await.unwrap();
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

/// Where the seal of the structure that begins like this is; `None` inside a structure, and where no seal is.
fn seal_at(block: &[u8]) -> Option<usize> {
    match &block[..4] {
        b"SiTn" | b"SiTb" => Some(32),
        b"SiCp" => Some(48),
        b"SiGr" | b"SiSv" => Some(96),
        _ => None,
    }
}

/// The nonces of all structures, each with the block it is in.
fn nonces(image: &[u8]) -> Vec<(&[u8], &[u8])> {
    let blocks = image.chunks_exact(BLOCK_SIZE);
    let sealed = blocks.filter_map(|block| Some((&block[seal_at(block)?..][..24], block)));
    sealed
        .inspect(|(nonce, _)| assert_ne!(*nonce, [0; 24]))
        .collect()
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
    let nonces = nonces(&image);
    let different: BTreeSet<_> = nonces.iter().map(|(nonce, _)| nonce).collect();
    assert_eq!(different.len(), nonces.len());
    assert!(nonces.len() > 50, "{}", nonces.len());
}

/// The image that a machine leaves which goes on from `disk` with entropy of its own.
fn gone_on(disk: &SimDisk, entropy: u64, text: &'static str) -> Vec<u8> {
    entropy_from(entropy);
    let disk = disk.snapshot(1);
    let mut executor = Executor::new(1);
    let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
    let clock = executor.clock();
    executor.run(async move {
        for number in 0..60 {
            let (name, file) = (format!("{text} {number}"), NewInode::new(FileKind::File, 0));
            let create = |tx: &mut Transaction<'_>| {
                let file = tx.files().create(ROOT, name.as_bytes(), &file)?;
                tx.files().write(file, 0, text.as_bytes())
            };
            let ((), commit) = filesystem.transact(0, create).await.unwrap();
            filesystem.wait_durable(commit).await.unwrap();
            let made = filesystem.checkpoint(commit, &[], &[], &clock);
            made.await.unwrap();
        }
        filesystem.shutdown(&clock).await.unwrap();
    });
    disk.to_bytes()
}

/// A copied image, a restored one, and one that has gone through a crash are the same case: nothing on it says which nonces come next.
#[test]
fn two_machines_that_go_on_from_one_image_draw_other_nonces() {
    for suite in Suite::ALL {
        choose(Some(suite));
        let disk = formatted(72, 1);
        let one = gone_on(&disk, 1 << 20, "one");
        let collisions = |other: &[u8]| {
            let known: BTreeMap<_, _> = nonces(&one).into_iter().collect();
            let others = nonces(other);
            let same = others.iter().filter(|(nonce, block)| {
                // What both have from before is no second encryption.
                known.get(nonce).is_some_and(|known| known != block)
            });
            (same.count(), others.len())
        };
        let (same, of) = collisions(&gone_on(&disk, 1 << 21, "two"));
        assert!(same == 0 && of > 20, "{same} of {of}");
        // It is entropy alone that tells them apart, and this would show it.
        let (same, of) = collisions(&gone_on(&disk, 1 << 20, "two"));
        assert!(same > 10, "{same} of {of}");
    }
}

/// What is secret of an image that [`image_with`] makes.
struct Secrets {
    name: &'static [u8],
    content: Vec<u8>,
    sparse_bytes: u64,
    attribute: (&'static [u8], &'static [u8]),
    mode: u16,
    snapshot: &'static str,
    layer: &'static [u8],
    manifest: &'static [u8],
}

fn image_with(suite: Suite, secrets: Secrets) -> Vec<u8> {
    choose(Some(suite));
    entropy_from(1);
    let disk = formatted(72, 1);
    let mut executor = Executor::new(1);
    let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
    let clock = executor.clock();
    executor.run(async move {
        filesystem.set_compression(Compression::Off).await.unwrap();
        let file = NewInode::new(FileKind::File, secrets.mode);
        let ((), commit) = filesystem
            .transact(0, |tx| {
                let one = tx.files().create(ROOT, secrets.name, &file)?;
                tx.files().write(one, 0, &secrets.content)?;
                let (name, value) = secrets.attribute;
                tx.files().set_xattr(one, name, value, XattrMode::Any)?;
                let two = tx.files().create(ROOT, b"sparse", &file)?;
                tx.files().truncate(two, secrets.sparse_bytes)
            })
            .await
            .unwrap();
        filesystem.append(secrets.layer).unwrap();
        let snapshot = filesystem.create_snapshot(secrets.snapshot, 0);
        snapshot.await.unwrap();
        let mut object = filesystem.create_object().unwrap();
        common::put_all(&mut object, secrets.layer).await.unwrap();
        let objects = [object.finish().await.unwrap()];
        let checkpoint = filesystem.checkpoint(commit, &objects, secrets.manifest, &clock);
        checkpoint.await.unwrap();
        filesystem.shutdown(&clock).await.unwrap();
    });
    disk.to_bytes()
}

/// Where objects begin.
fn object_blocks(image: &[u8]) -> Vec<usize> {
    let disk = SimDisk::from_bytes(image, 0);
    Executor::new(0).run(async move {
        let options = DumpOptions {
            key: Some(with_key_file(&KEY_FILE)),
            ..DumpOptions::default()
        };
        let mut blocks = Vec::new();
        lfs::dump(&disk, options, &mut |event| {
            if let DumpEvent::Segment { block, kind, .. } = event
                && kind == "object"
            {
                blocks.push(usize::try_from(block.0).unwrap());
            }
        })
        .await;
        blocks
    })
}

/// All that an image shows without its key (`DESIGN.md`, "What still shows"), without the checksums over what is encrypted.
fn visible(image: &[u8]) -> Vec<u8> {
    let mut shown = Vec::new();
    let objects = object_blocks(image);
    assert_eq!(objects.len(), 1);
    for (number, block) in image.chunks_exact(BLOCK_SIZE).enumerate() {
        if objects.contains(&number) {
            // The length of its first chunk, and the nonce.
            shown.extend([&block[..4], &block[8..32]].concat());
            continue;
        }
        let mut clear = match seal_at(block) {
            // With the nonce, which is drawn: the same in both by the test's own doing.
            Some(at) => block[..at + 24].to_vec(),
            None if number == 0 || block.starts_with(b"SLTKEYS") => block.to_vec(),
            // The rest of a structure, and extents: that there is something.
            None => vec![u8::from(block.iter().any(|byte| *byte != 0))],
        };
        if seal_at(block).is_some() {
            clear[4..8].fill(0);
        }
        if seal_at(block) == Some(96) {
            for sum in [64..68, 72..76, 84..88] {
                clear[sum].fill(0);
            }
        }
        shown.extend(clear);
    }
    shown
}

#[test]
fn images_that_differ_in_what_is_secret_differ_nowhere_that_can_be_read() {
    let noise = |seed, len| {
        let mut random = Random::new(seed);
        (0..len).map(|_| random.next_u64() as u8).collect()
    };
    let secrets = |content: Vec<u8>| Secrets {
        name: b"wages",
        content,
        sparse_bytes: 1 << 30,
        attribute: (b"user.one", b"first"),
        mode: 0o600,
        snapshot: "monday",
        layer: b"key and value",
        manifest: b"runs: 1",
    };
    for suite in Suite::ALL {
        let one = image_with(suite, secrets(noise(1, 20_000)));
        let two = Secrets {
            name: b"plans",
            content: noise(2, 20_000),
            sparse_bytes: 3 << 30,
            attribute: (b"user.two", b"other"),
            mode: 0o777,
            snapshot: "sunday",
            layer: b"KEY AND VALUE",
            manifest: b"runs: 9",
        };
        let two = image_with(suite, two);
        let pairs = one
            .chunks_exact(BLOCK_SIZE)
            .zip(two.chunks_exact(BLOCK_SIZE));
        let different = pairs.filter(|(one, two)| one != two);
        let different: Vec<_> = different.map(|(one, _)| one[..4].to_vec()).collect();
        let object = object_blocks(&one)[0] * BLOCK_SIZE..;
        assert!(one[object.clone()][..BLOCK_SIZE] != two[object][..BLOCK_SIZE]);
        for magic in [b"SiGr", b"SiTn", b"SiCp"] {
            let magic = magic.to_vec();
            assert!(different.contains(&magic), "{}", magic.escape_ascii());
        }
        assert!(visible(&one) == visible(&two), "{suite:?}");
        // How much was written shows, as DESIGN.md says; and so this would see what it must not.
        let longer = image_with(suite, secrets(noise(1, 20_001)));
        assert!(visible(&one) != visible(&longer), "{suite:?}");
    }
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

//! The reader of `examples/dump`, written from SPEC.md alone, and the library see the same in the same images, with and
//! without a key, and in the same backups: so SPEC.md says what is on the disk. (Mirrors: `mirror/spec.rs`.)

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use crate::common::images::{Contents, Recipe, contents_at, image};
use crate::common::key::{KEY_FILE, choose, suite, with_key_file};
use crate::common::{self, TestFileSystem, formatted, mount, seed};
use crate::dump::{Backup, Reader, Restored, Secret, State};
use lfs::sim::{Executor, SimDisk};
use lfs::{
    BLOCK_SIZE, BackupPosition, BackupRange, BackupSection, BackupToken, BlockIndex, CommitNumber,
    FileKind, KdfCost, KeyChange, ROOT, SnapshotInfo, Suite, encode_frame,
};

const SUITES: [Suite; 2] = [Suite::XChaCha20Poly1305, Suite::Aes256GcmSiv];

/// What the reader sees of an image of this run.
pub fn reader(disk: &SimDisk) -> Reader {
    let secret = suite().map(|_| Secret::KeyFile(&KEY_FILE));
    Reader::open(disk.to_bytes(), secret).unwrap()
}

/// All files of a state, as the reader sees them.
pub fn read(state: &State<'_>) -> Contents {
    let kind = |number: u8| {
        [FileKind::File, FileKind::Directory, FileKind::Symlink][usize::from(number) - 1]
    };
    let files = state.files().unwrap().into_iter().map(|found| {
        let allocated = state.inode(found.inode).unwrap().allocated;
        let room = state.room(found.inode).unwrap();
        assert_eq!(allocated, room, "inode {}", found.inode);
        let content = match kind(found.kind) {
            FileKind::Directory => Vec::new(),
            _ => state.content(found.inode).unwrap(),
        };
        (found.path, kind(found.kind), content)
    });
    files.collect()
}

/// Compares images of `rounds` recipes, and returns how much was compared: files, snapshots, groups.
fn compare_images(first: u64, rounds: usize) -> [usize; 3] {
    let (mut groups, mut snapshots, mut files) = (0, 0, 0);
    for round in 0..rounds {
        let recipe = Recipe {
            segments: 320,
            steps: 80 + 60 * round,
            orderly: round % 2 == 0,
            seed: first + round as u64,
        };
        let (disk, contents) = image(recipe);
        let reader = reader(&disk);
        groups += reader.groups;
        assert!(read(&reader.state(None)) == contents, "{recipe:?}");
        files += contents.len();

        let mut executor = Executor::new(0);
        let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
        compare_attributes(&mut executor, &filesystem, &reader.state(None));
        for info in filesystem.snapshots() {
            snapshots += 1;
            let filesystem = filesystem.clone();
            let commit = info.commit.0;
            assert!(
                reader
                    .snapshots()
                    .contains(&(commit, info.name.clone().into_bytes()))
            );
            let expected =
                executor.run(async move { contents_at(&filesystem, Some(info.id)).await });
            assert!(
                read(&reader.state(Some(commit))) == expected,
                "{recipe:?}, commit {commit}"
            );
        }
    }
    [files, snapshots, groups]
}

fn compare_attributes(executor: &mut Executor, filesystem: &Rc<TestFileSystem>, state: &State<'_>) {
    for found in state.files().unwrap() {
        let filesystem = Rc::clone(filesystem);
        let expected = executor.run(async move {
            let attributes = filesystem.read(|tx| {
                let inode = found
                    .path
                    .split(|byte| *byte == b'/')
                    .skip(1)
                    .try_fold(ROOT, |inode, name| tx.files().lookup(inode, name))?;
                let mut all = Vec::new();
                for name in tx.files().list_xattrs(inode)? {
                    let value = tx.files().get_xattr(inode, &name)?;
                    all.push((name, value));
                }
                all.sort();
                Ok(all)
            });
            attributes.await.unwrap()
        });
        assert!(state.attributes(found.inode).unwrap() == expected);
    }
}

#[test]
fn the_reader_written_from_the_spec_sees_what_the_library_sees() {
    let [files, snapshots, groups] = compare_images(seed(400), 10);
    println!("{files} files, {snapshots} snapshots, {groups} groups");
    assert!(files > 100 && snapshots > 5 && groups > 5);
}

#[test]
fn the_reader_sees_the_same_in_encrypted_images() {
    let first = seed(420);
    for suite in SUITES {
        choose(Some(suite));
        let [files, snapshots, groups] = compare_images(first, 5);
        println!("{suite:?}: {files} files, {snapshots} snapshots, {groups} groups");
        assert!(files > 50 && snapshots > 2 && groups > 3);
    }
}

#[test]
fn the_reader_is_let_in_by_each_secret_and_by_no_other() {
    const CHEAP: KdfCost = KdfCost {
        memory_kib: 64,
        passes: 2,
        lanes: 4,
    };
    const PASSPHRASE: &[u8] = b"correct horse battery staple";
    let error = |bytes: &[u8], secret| {
        let opened = Reader::open(bytes.to_vec(), secret);
        opened.err().map(|error| error.to_string())
    };
    let recipe = Recipe {
        segments: 120,
        steps: 60,
        orderly: false,
        seed: 440,
    };
    for suite in SUITES {
        choose(Some(suite));
        let (disk, contents) = image(recipe);
        let device = disk.clone();
        let added = Executor::new(0).run(async move {
            let what = KeyChange::Add(lfs::Secret::Passphrase(PASSPHRASE), CHEAP);
            lfs::change_keys(&device, &with_key_file(&KEY_FILE), what).await
        });
        assert_eq!(added, Ok(1));
        let bytes = disk.to_bytes();
        for secret in [Secret::KeyFile(&KEY_FILE), Secret::Passphrase(PASSPHRASE)] {
            let reader = Reader::open(bytes.clone(), Some(secret)).unwrap();
            assert!(read(&reader.state(None)) == contents);
        }
        let wrong = Some("no key slot opens: a wrong key".to_owned());
        for secret in [
            Secret::KeyFile(PASSPHRASE),
            Secret::KeyFile(&[7; 32]),
            Secret::Passphrase(&KEY_FILE),
            Secret::Passphrase(b"Correct horse battery staple"),
        ] {
            assert_eq!(error(&bytes, Some(secret)), wrong);
        }
        assert_eq!(error(&bytes, None), Some("there is a key".to_owned()));
        // The other copy of the key slots lets in as well.
        disk.flip_bit(BlockIndex(1), 80 * 8);
        assert_eq!(
            error(&disk.to_bytes(), Some(Secret::Passphrase(PASSPHRASE))),
            None
        );
    }
    choose(None);
    let plain = image(recipe).0.to_bytes();
    let expected = Some("there is no key".to_owned());
    assert_eq!(error(&plain, Some(Secret::KeyFile(&KEY_FILE))), expected);
}

/// Whatever is sealed is not read when it was changed, its checksums made right again.
#[test]
fn the_reader_takes_nothing_that_was_changed_by_somebody_without_the_key() {
    let recipe = Recipe {
        segments: 120,
        steps: 60,
        orderly: false,
        seed: 450,
    };
    let number = |bytes: &[u8], at: usize| {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
    };
    let set_checksum = |bytes: &mut [u8], at: usize, of: Range<usize>| {
        let sum = crc32fast::hash(&bytes[of]).to_le_bytes();
        bytes[at..at + 4].copy_from_slice(&sum);
    };
    for suite in SUITES {
        choose(Some(suite));
        let (disk, contents) = image(recipe);
        let mut bytes = disk.to_bytes();
        let open = |bytes: &[u8]| {
            let reader = Reader::open(bytes.to_vec(), Some(Secret::KeyFile(&KEY_FILE)));
            reader.map(|reader| read(&reader.state(None)))
        };
        // The checkpoint in force and no other one.
        let slots = (16..40).filter(|block| bytes[block * BLOCK_SIZE..].starts_with(b"SiCp"));
        let mut slots = slots.collect::<Vec<_>>();
        slots.sort_by_key(|block| number(&bytes, block * BLOCK_SIZE + 32));
        slots.pop();
        for block in slots {
            bytes[block * BLOCK_SIZE..][..BLOCK_SIZE].fill(0);
        }
        assert!(open(&bytes).unwrap() == contents);

        let mut refused = BTreeMap::new();
        for block in 16..bytes.len() / BLOCK_SIZE {
            let start = block * BLOCK_SIZE;
            let magic: [u8; 4] = bytes[start..start + 4].try_into().unwrap();
            let places = match &magic {
                b"SiCp" => vec![44, 120],
                b"SiTb" => vec![72, 100],
                b"SiGr" => vec![48, 160 + number(&bytes, start + 68)],
                _ => continue,
            };
            for place in places {
                let mut changed = bytes.clone();
                let structure = &mut changed[start..];
                structure[place] ^= 1;
                let end = match &magic {
                    b"SiCp" => 240 + number(structure, 40),
                    b"SiTb" => BLOCK_SIZE,
                    _ => {
                        let records = 160 + number(structure, 68);
                        let end = records + number(structure, 76);
                        set_checksum(structure, 84, records..end);
                        160
                    }
                };
                set_checksum(structure, 4, 8..end);
                // What is older than the checkpoint is not looked at.
                match open(&changed) {
                    Ok(seen) => assert!(seen == contents, "block {block}, byte {place}"),
                    Err(_) => *refused.entry(magic).or_insert(0) += 1,
                }
            }
        }
        assert!(
            refused[b"SiCp"] == 2 && refused[b"SiTb"] >= 2,
            "{refused:?}"
        );
        assert!(refused[b"SiGr"] >= 4, "{refused:?}");
    }
}

/// What the layer above keeps: objects, the manifest, and what it recorded in commits behind them.
#[test]
fn the_reader_sees_what_the_layer_above_keeps() {
    for suite in [None, Some(SUITES[0]), Some(SUITES[1])] {
        choose(suite);
        let disk = formatted(120, 460);
        let mut executor = Executor::new(460);
        let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
        let clock = executor.clock();
        let content = (0..100_000_u32).flat_map(u32::to_le_bytes);
        let content = content.collect::<Vec<_>>();
        let expected = content.clone();
        let lens = [content.len(), 5, 0, 35_001, 8 * BLOCK_SIZE - 5000 - 56];
        let horizon = executor.run(async move {
            let mut objects = Vec::new();
            for len in lens {
                let mut object = filesystem.create_object().unwrap();
                common::put_all(&mut object, &content[..len]).await.unwrap();
                objects.push(object.finish().await.unwrap());
            }
            let horizon = filesystem.append(b"before").unwrap();
            filesystem.wait_durable(horizon).await.unwrap();
            let made = filesystem.checkpoint(horizon, &objects, b"manifest", &clock);
            made.await.unwrap();
            for record in [&b"behind"[..], b"it"] {
                let commit = filesystem.append(record).unwrap();
                filesystem.wait_durable(commit).await.unwrap();
            }
            filesystem.close();
            filesystem.stop();
            horizon.0
        });
        let disk = disk.snapshot(460);
        let reader = reader(&disk);
        let seen = reader.objects.iter().map(|(_, content)| &content[..]);
        let seen = seen.collect::<Vec<_>>();
        let of_len = |len| &expected[..len];
        assert!(seen == lens.map(of_len));
        assert_eq!(reader.manifest, b"manifest");
        let behind = [
            (horizon + 1, b"behind".to_vec()),
            (horizon + 2, b"it".to_vec()),
        ];
        assert_eq!(reader.layer, behind);
        let mounted = mount(&mut Executor::new(0), &disk).unwrap().commits;
        let mounted = mounted.into_iter().map(|(commit, bytes)| (commit.0, bytes));
        let mounted = mounted.filter(|(_, bytes)| !bytes.is_empty());
        assert_eq!(mounted.collect::<Vec<_>>(), behind);
    }
}

/// A backup as a stream of small frames.
async fn stream(
    filesystem: &TestFileSystem,
    info: &SnapshotInfo,
    since: Option<CommitNumber>,
) -> Vec<u8> {
    let range = BackupRange {
        at: Some(info.commit),
        since,
    };
    let id = filesystem.backup_id(info.commit, since.unwrap_or(CommitNumber(0)));
    let mut token = BackupToken::default();
    let mut stream = Vec::new();
    let mut push = |section, payload: &[u8], cursor: &[u8]| {
        let frame = encode_frame(&id, &token, section, payload, cursor).unwrap();
        token = BackupToken::behind(&frame).unwrap_or_default();
        stream.extend(frame);
    };
    let number = [7_u64.to_le_bytes(), 9_u64.to_le_bytes()].concat();
    let header = [&number, info.name.as_bytes()].concat();
    push(BackupSection::Header, &header, &[0]);
    push(BackupSection::Layer, b"of the layer", &[0]);
    let mut position = BackupPosition::START;
    while let Some(section) = position.section() {
        let part = filesystem.backup_part(range, position, 10_000).await;
        let (part, next) = part.unwrap();
        position = next;
        let mut cursor = Vec::new();
        position.encode(&mut cursor);
        push(section, &part, &cursor);
    }
    push(BackupSection::Trailer, &[], &[]);
    stream
}

#[test]
fn the_reader_makes_of_backups_what_the_snapshots_show() {
    let first = seed(480);
    let (mut rows, mut increments) = (0, 0);
    for round in 0..8 {
        let recipe = Recipe {
            segments: 320,
            steps: 300,
            orderly: round % 2 == 0,
            seed: first + round,
        };
        let (disk, _) = image(recipe);
        let lineage = reader(&disk).lineage();
        let mut executor = Executor::new(0);
        let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
        let mut restored = Restored::default();
        let mut since = None;
        let mut snapshots = filesystem.snapshots();
        snapshots.sort_by_key(|info| info.commit);
        for info in snapshots {
            let filesystem = Rc::clone(&filesystem);
            let (commit, name, id) = (info.commit, info.name.clone(), info.id);
            let (stream, expected) = executor.run(async move {
                let stream = stream(&filesystem, &info, since).await;
                (stream, contents_at(&filesystem, Some(id)).await)
            });
            let backup = Backup::read(&stream).unwrap();
            assert_eq!(backup.lineage, lineage);
            let range = (backup.since, backup.at);
            assert_eq!(range, (since.map_or(0, |since| since.0), commit.0));
            assert_eq!(backup.snapshot, name.as_bytes());
            assert_eq!((backup.time_ns, backup.bytes_used), (7, 9));
            assert_eq!(backup.layer, b"of the layer");
            restored.apply(&backup).unwrap();
            assert!(restored.apply(&backup).is_err(), "it is there already");
            assert!(read(&restored.state()) == expected, "{recipe:?}, {name}");

            // Cut short, or with one frame changed, it is no backup.
            assert!(Backup::read(&stream[..stream.len() - 80]).is_err());
            for at in [4, 8, 40, 62, 90, stream.len() - 1] {
                let mut changed = stream.clone();
                changed[at] ^= 1;
                assert!(Backup::read(&changed).is_err(), "byte {at}");
            }
            rows += usize::from(since.is_none());
            increments += usize::from(since.is_some());
            since = Some(commit);
        }
    }
    println!("{rows} rows, {increments} incremental backups");
    assert!(rows >= 5 && increments >= 10);
}

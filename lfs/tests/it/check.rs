//! Checking and repairing images.
//!
//! - What the real code leaves, in order or by a power cut, is clean.
//! - Every kind of damage that can be made here is found, said with the file it hits, and does not keep the rest
//!   from being checked.
//! - A repair leaves an image that is clean and holds the same files.

use crate::common;

use crate::common::images::{Recipe, contents, image};
use crate::common::key::{choose, key};
use crate::common::{mount, seed};
use lfs::sim::{Executor, Random, SimDisk};
use lfs::{
    BLOCK_SIZE, BlockIndex, CheckEvent, CheckOptions, CheckSummary, Finding, Problem, Repair,
    RepairOutcome, Severity, View,
};

const RECIPE: Recipe = Recipe {
    segments: 320,
    steps: 400,
    orderly: true,
    seed: 1,
};

fn options() -> CheckOptions<'static> {
    CheckOptions {
        key: key(),
        ..CheckOptions::default()
    }
}

fn check_with(disk: &SimDisk, options: CheckOptions<'static>) -> (CheckSummary, Vec<Finding>) {
    let disk = disk.clone();
    Executor::new(0).run(async move {
        let mut findings = Vec::new();
        let mut note = |event: CheckEvent<'_>| {
            if let CheckEvent::Finding(finding) = event {
                findings.push(finding.clone());
            }
        };
        let summary = lfs::check(&disk, options, &mut note).await;
        (summary, findings)
    })
}

fn check(disk: &SimDisk) -> (CheckSummary, Vec<Finding>) {
    let data = true;
    let options = CheckOptions { data, ..options() };
    check_with(disk, options)
}

fn repair(disk: &SimDisk) -> RepairOutcome {
    let disk = disk.clone();
    let mut executor = Executor::new(0);
    let clock = executor.clock();
    executor
        .run(async move { lfs::repair(&disk, &clock, options(), &mut |_| ()).await })
        .unwrap()
}

#[test]
fn what_the_file_system_leaves_is_clean() {
    let first = seed(100);
    for round in 0..12 {
        let recipe = Recipe {
            orderly: round % 2 == 0,
            steps: 100 + 60 * round,
            seed: first + round as u64,
            ..RECIPE
        };
        let (disk, contents) = image(recipe);
        let (summary, findings) = check(&disk);
        for finding in &findings {
            println!("{finding}");
        }
        assert!(
            summary.is_clean() && summary.mounts,
            "{recipe:?}: {summary:?}"
        );
        assert!(summary.inodes as usize > contents.len() / 2);
    }
}

/// Whether there is a finding like this.
fn has(findings: &[Finding], like: impl Fn(&Finding) -> bool) -> bool {
    findings.iter().any(like)
}

fn mounted_contents(disk: &SimDisk) -> Option<common::images::Contents> {
    let mut executor = Executor::new(0);
    let filesystem = mount(&mut executor, &disk.snapshot(0)).ok()?.filesystem;
    Some(executor.run(async move { contents(&filesystem).await }))
}

fn dump_lines(disk: &SimDisk) -> Vec<String> {
    let disk = disk.clone();
    Executor::new(0).run(async move {
        let mut lines = Vec::new();
        let options = lfs::DumpOptions {
            key: key(),
            ..lfs::DumpOptions::default()
        };
        lfs::dump(&disk, options, &mut |event| lines.push(event.to_string())).await;
        lines
    })
}

const SMALL: Recipe = Recipe {
    segments: 100,
    steps: 60,
    orderly: false,
    seed: 7,
};

#[test]
fn a_flipped_bit_anywhere_is_reported_or_does_not_matter() {
    let mut random = Random::new(seed(200));
    for orderly in [false, true] {
        let (disk, contents) = image(Recipe { orderly, ..SMALL });
        let good = check(&disk);
        let bytes = disk.to_bytes();
        let used = (0..bytes.len())
            .filter(|&at| bytes[at] != 0)
            .collect::<Vec<_>>();
        let mut reported = 0;
        for _ in 0..700 {
            let at = used[random.index(used.len())];
            let block = BlockIndex((at / BLOCK_SIZE) as u64);
            let bit = at % BLOCK_SIZE * 8 + random.index(8);
            let hurt = disk.snapshot(0);
            hurt.flip_bit(block, bit);
            let found = check(&hurt);
            dump_lines(&hurt);
            if found == good {
                // Then nothing that is in use was hit.
                assert!(
                    mounted_contents(&hurt).as_ref() == Some(&contents),
                    "byte {at}"
                );
            } else {
                reported += 1;
            }
        }
        assert!(reported > 100, "{reported}");
    }
}

#[test]
fn bytes_of_any_kind_are_survived() {
    let mut random = Random::new(seed(300));
    let (disk, _) = image(SMALL);
    let good = disk.to_bytes();
    for round in 0..150 {
        let mut bytes = good.clone();
        match round % 3 {
            // Nothing of ours.
            0 => bytes
                .iter_mut()
                .for_each(|byte| *byte = random.next_u64() as u8),
            // Blocks in each other's places.
            1 => {
                for _ in 0..40 {
                    let blocks = bytes.len() / BLOCK_SIZE;
                    let (from, to) = (random.index(blocks), random.index(blocks));
                    let from = from * BLOCK_SIZE..(from + 1) * BLOCK_SIZE;
                    bytes.copy_within(from, to * BLOCK_SIZE);
                }
            }
            // An end where there should be more.
            _ => bytes.truncate(random.index(bytes.len()) / BLOCK_SIZE * BLOCK_SIZE),
        }
        let hurt = SimDisk::from_bytes(&bytes, 0);
        check(&hurt);
        dump_lines(&hurt);
    }
}

#[test]
fn damaged_data_is_reported_with_the_file_and_the_range() {
    // It looks for what it changes in the image.
    choose(None);
    let disk = common::formatted(100, 1);
    let mut executor = Executor::new(1);
    let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
    let clock = executor.clock();
    let mut random = Random::new(5);
    let noise = (0..20_000)
        .map(|_| random.next_u64() as u8)
        .collect::<Vec<_>>();
    let content = noise.clone();
    executor.run(async move {
        let new = lfs::NewInode::new(lfs::FileKind::Directory, 0o755);
        let file = lfs::NewInode::new(lfs::FileKind::File, 0o644);
        filesystem
            .transact(0, |tx| {
                let directory = tx.files().create(lfs::ROOT, b"directory", &new)?;
                let made = tx.files().create(directory, b"file", &file)?;
                tx.files().write(made, 0, &content)
            })
            .await
            .unwrap();
        filesystem.shutdown(&clock).await.unwrap();
    });
    let disk = disk.snapshot(0);
    let bytes = disk.to_bytes();
    // In the third unit.
    let needle = &noise[9000..9032];
    let at = bytes
        .windows(32)
        .position(|window| window == needle)
        .unwrap();
    disk.flip_bit(BlockIndex((at / BLOCK_SIZE) as u64), at % BLOCK_SIZE * 8);
    let (summary, findings) = check(&disk);
    assert_eq!(summary.errors, 1, "{findings:?}");
    let finding = findings
        .iter()
        .find(|f| f.severity == Severity::Error)
        .unwrap();
    assert_eq!(finding.path.as_deref(), Some(&b"/directory/file"[..]));
    assert_eq!(finding.bytes, Some(8192..12_288));
    assert_eq!(finding.problem, Problem::DataDamaged);
    let without = check_with(&disk, options());
    assert!(
        without.0.is_clean(),
        "data is only read when that is asked for"
    );

    // A scrub says the same, and the rest stays usable.
    let mut executor = Executor::new(2);
    let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
    let clock = executor.clock();
    let (status, findings, rest, damaged) = executor.run(async move {
        let mut findings = Vec::new();
        let mut report = |finding: &Finding, repaired| findings.push((finding.clone(), repaired));
        let options = lfs::ScrubOptions {
            bytes_per_second: Some(1 << 20),
            ..lfs::ScrubOptions::default()
        };
        let status = filesystem
            .scrub(&clock, options, &mut report)
            .await
            .unwrap();
        let file = filesystem
            .read(|tx| tx.files().resolve(b"/directory/file", true))
            .await
            .unwrap();
        let rest = filesystem
            .read(|tx| tx.files().read(file, 12_288, 7712))
            .await;
        let damaged = filesystem.read(|tx| tx.files().read(file, 9000, 11_000));
        let damaged = damaged.await.unwrap_err();
        (status, findings, rest.unwrap(), damaged)
    });
    let (block, bytes) = (finding.block.unwrap(), 8192..12_288);
    assert_eq!(damaged, lfs::FileError::DamagedData { bytes, block });
    assert_eq!(
        (status.repaired, status.unrepairable),
        (0, 1),
        "{findings:?}"
    );
    let [(finding, false)] = findings.as_slice() else {
        panic!("{findings:?}")
    };
    assert_eq!(finding.path.as_deref(), Some(&b"/directory/file"[..]));
    assert_eq!(finding.bytes, Some(8192..12_288));
    assert!(!status.running && status.done_bytes <= status.total_bytes);
    assert_eq!(rest, &noise[12_288..]);
}

#[test]
fn a_damaged_superblock_copy_or_table_block_is_repaired() {
    let (disk, contents) = image(RECIPE);
    let table = |disk: &SimDisk| {
        let bytes = disk.to_bytes();
        let blocks = bytes.chunks_exact(BLOCK_SIZE);
        let found = (0..)
            .zip(blocks)
            .filter(|(_, block)| block.starts_with(b"SiTb"));
        found.map(|(at, _)| at).collect::<Vec<u64>>()
    };
    let mut places = vec![0, 15];
    places.extend(table(&disk));
    let mut mounts_refused = 0;
    for block in places {
        let hurt = disk.snapshot(0);
        hurt.flip_bit(BlockIndex(block), 77);
        let (summary, findings) = check(&hurt);
        if summary.is_clean() {
            // The home of a table block that is not in force.
            continue;
        }
        assert_eq!(
            summary.repairable,
            summary.warnings + summary.errors,
            "{findings:?}"
        );
        mounts_refused += usize::from(mounted_contents(&hurt).is_none());
        let outcome = repair(&hurt);
        assert!(
            outcome.after.is_clean() && !outcome.repaired.is_empty(),
            "{outcome:?}"
        );
        assert!(check(&hurt).0.is_clean());
        assert!(
            mounted_contents(&hurt).unwrap() == contents,
            "block {block}"
        );
    }
    assert!(mounts_refused > 0);
}

#[test]
fn a_scrub_repairs_what_is_in_memory() {
    let (disk, contents) = image(RECIPE);
    let blocks = disk.to_bytes();
    let blocks = blocks.chunks_exact(BLOCK_SIZE).collect::<Vec<_>>();
    let mut repaired = 0;
    for (at, block) in blocks.iter().enumerate() {
        if !(block.starts_with(b"SiTb") || block.starts_with(b"SiTn") || at == 0 || at == 15) {
            continue;
        }
        let hurt = disk.snapshot(0);
        let mut executor = Executor::new(2);
        let filesystem = mount(&mut executor, &hurt).unwrap().filesystem;
        let clock = executor.clock();
        let device = hurt.clone();
        let status = executor.run(async move {
            // In memory by now.
            common::images::contents(&filesystem).await;
            device.flip_bit(BlockIndex(at as u64), 333);
            let status = filesystem
                .scrub(&clock, lfs::ScrubOptions::default(), &mut |_, _| ())
                .await
                .unwrap();
            filesystem.shutdown(&clock).await.unwrap();
            status
        });
        let (summary, findings) = check(&hurt);
        // Nodes that only snapshots need were not in memory.
        if status.unrepairable == 0 {
            assert!(summary.is_clean(), "block {at}: {findings:?}");
            assert!(mounted_contents(&hurt).unwrap() == contents, "block {at}");
        } else {
            assert!(!summary.is_clean());
        }
        repaired += status.repaired;
    }
    assert!(repaired > 4, "{repaired}");
}

/// Lets `change` do to the items of an image what it likes.
fn with_items(
    disk: &SimDisk,
    mut change: impl FnMut(&mut lfs::Transaction<'_>) -> Result<(), lfs::FileError> + 'static,
) -> SimDisk {
    let disk = disk.snapshot(0);
    let mut executor = Executor::new(0);
    let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
    let clock = executor.clock();
    executor.run(async move {
        filesystem.transact(0, |tx| change(tx)).await.unwrap();
        filesystem.shutdown(&clock).await.unwrap();
    });
    disk
}

fn inode_item(inode: u64) -> lfs::ItemKey {
    lfs::ItemKey::new(inode, lfs::ItemKind::Inode, 0)
}

/// A file with two names, a directory in a directory, an attribute.
fn family() -> SimDisk {
    let disk = common::formatted(100, 1);
    let mut executor = Executor::new(1);
    let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
    let clock = executor.clock();
    executor.run(async move {
        let directory = lfs::NewInode::new(lfs::FileKind::Directory, 0o755);
        let file = lfs::NewInode::new(lfs::FileKind::File, 0o644);
        filesystem
            .transact(0, |tx| {
                let outer = tx.files().create(lfs::ROOT, b"outer", &directory)?; // 2
                let inner = tx.files().create(outer, b"inner", &directory)?; // 3
                let made = tx.files().create(inner, b"file", &file)?; // 4
                tx.files().write(made, 0, &[7; 5000])?;
                tx.files().link(made, outer, b"other")?;
                tx.files().create(outer, b"third", &file)?; // 5
                tx.files()
                    .set_xattr(made, b"user.a", b"value", lfs::XattrMode::Any)
            })
            .await
            .unwrap();
        filesystem.shutdown(&clock).await.unwrap();
    });
    disk.snapshot(0)
}

/// Sets one byte of an inode: of links (7) or size (8).
fn with_inode_byte(disk: &SimDisk, inode: u64, at: usize, byte: u8) -> SimDisk {
    with_items(disk, move |tx| {
        let mut value = tx.get(inode_item(inode))?.unwrap();
        value[at] = byte;
        tx.put(inode_item(inode), value);
        Ok(())
    })
}

/// The entry of a directory that has one.
fn only_entry(
    tx: &mut lfs::Transaction<'_>,
    directory: u64,
) -> Result<(lfs::ItemKey, Vec<u8>), lfs::FileError> {
    let key = |position| lfs::ItemKey::new(directory, lfs::ItemKind::Entry, position);
    Ok(tx.first(key(0), key(u64::MAX))?.unwrap())
}

#[test]
fn wrong_counts_are_found_and_repaired() {
    let disk = family();
    assert!(check(&disk).0.is_clean());
    for (inode, at, repair_of) in [
        (4, 7, Repair::Links),
        (3, 7, Repair::Links),
        (3, 8, Repair::Entries),
        (2, 8, Repair::Entries),
    ] {
        let hurt = with_inode_byte(&disk, inode, at, 9);
        let (summary, findings) = check(&hurt);
        assert_eq!(summary.errors, 1, "{findings:?}");
        let found = |f: &Finding| {
            f.inode.map(|i| i.0) == Some(inode) && f.repair == Some(repair_of) && f.path.is_some()
        };
        assert!(has(&findings, found), "{findings:?}");
        let outcome = repair(&hurt);
        assert!(outcome.after.is_clean(), "{outcome:?}");
        assert!(mounted_contents(&hurt) == mounted_contents(&disk));
    }
}

/// Whether the data are under the inode's own number or another one, and also where there are none.
#[test]
fn room_that_is_counted_wrong_is_found_and_counted_again() {
    let disk = with_items(&family(), |tx| {
        let mut files = lfs::Namespace::with_small_limits(tx);
        let file = lfs::NewInode::new(lfs::FileKind::File, 0o644);
        // Truncated to nothing, a file that is not small gets another object.
        for name in [&b"elsewhere"[..], b"nowhere"] {
            let inode = files.create(lfs::ROOT, name, &file)?;
            files.write(inode, 0, &[7; 20_000])?;
            files.truncate(inode, 0)?;
        }
        let elsewhere = files.lookup(lfs::ROOT, b"elsewhere")?;
        files.write(elsewhere, 40_960, &[7; 5000])
    });
    assert!(check(&disk).0.is_clean());
    for (path, room) in [
        (&b"/outer/other"[..], 8192),
        (b"/outer/third", 0),
        (b"/elsewhere", 8192),
        (b"/nowhere", 0),
    ] {
        let inode = inode_of(&disk, path);
        let hurt = with_items(&disk, move |tx| {
            let mut value = tx.get(inode_item(inode))?.unwrap();
            if value[2] & 16 != 0 {
                // The varint at the end is that of 0 or of 8,192.
                value.truncate(value.len() - if room == 0 { 1 } else { 2 });
            }
            value[2] |= 16;
            value.extend([0x80, 0x60]);
            tx.put(inode_item(inode), value);
            Ok(())
        });
        let (summary, findings) = check(&hurt);
        assert_eq!((summary.errors, summary.warnings), (0, 1), "{findings:?}");
        let found = |f: &Finding| {
            let recorded = 0x60 << 7;
            f.inode.map(|i| i.0) == Some(inode)
                && f.problem
                    == Problem::Allocated {
                        recorded,
                        counted: room,
                    }
                && f.path.as_deref() == Some(path)
        };
        assert!(has(&findings, found), "{findings:?}");
        let outcome = repair(&hurt);
        assert!(outcome.after.is_clean(), "{outcome:?}");
        assert!(mounted_contents(&hurt) == mounted_contents(&disk));
    }
}

fn inode_of(disk: &SimDisk, path: &[u8]) -> u64 {
    let path = path.to_vec();
    let mut executor = Executor::new(0);
    let filesystem = mount(&mut executor, &disk.snapshot(0)).unwrap().filesystem;
    let found =
        executor.run(async move { filesystem.read(|tx| tx.files().resolve(&path, true)).await });
    found.unwrap().0
}

#[test]
fn broken_structure_is_found() {
    let disk = family();
    // An inode that is gone: two names lead nowhere, and an attribute and data belong to nobody.
    let hurt = with_items(&disk, |tx| {
        tx.remove(inode_item(4));
        Ok(())
    });
    let (_, findings) = check(&hurt);
    let dangling = |f: &&Finding| f.problem == Problem::DanglingName { target: 4 };
    assert_eq!(findings.iter().filter(dangling).count(), 2, "{findings:?}");
    for problem in [Problem::NoInode, Problem::Unreachable] {
        assert!(has(&findings, |f| f.problem == problem), "{findings:?}");
    }

    // The entry of a directory gone: what it named has one name less.
    let hurt = with_items(&disk, |tx| {
        let (key, _) = only_entry(tx, 3)?;
        tx.remove(key);
        Ok(())
    });
    let (_, findings) = check(&hurt);
    let links = Problem::Links {
        recorded: 2,
        counted: 1,
    };
    let entries = Problem::Entries {
        recorded: 1,
        counted: 0,
    };
    for problem in [links, entries] {
        assert!(has(&findings, |f| f.problem == problem), "{findings:?}");
    }

    // A directory that says it is in its own child.
    let hurt = with_items(&disk, |tx| {
        let mut value = tx.get(inode_item(2))?.unwrap();
        let parent = value.len() - 1;
        assert_eq!(value[parent], 1);
        value[parent] = 3;
        tx.put(inode_item(2), value);
        Ok(())
    });
    let (_, findings) = check(&hurt);
    let parent = Problem::Parent {
        recorded: 3,
        found: 1,
    };
    for problem in [parent, Problem::DirectoryCircle] {
        assert!(has(&findings, |f| f.problem == problem), "{findings:?}");
    }

    // A name where its hash does not lead.
    let hurt = with_items(&disk, |tx| {
        let (key, value) = only_entry(tx, 3)?;
        tx.remove(key);
        let position = key.position ^ (1 << 40);
        tx.put(lfs::ItemKey { position, ..key }, value);
        Ok(())
    });
    let (_, findings) = check(&hurt);
    assert!(
        has(&findings, |f| f.problem == Problem::NameMisplaced),
        "{findings:?}"
    );

    // Items that are none.
    let snapshot = lfs::ItemKey::new(0, lfs::ItemKind::Snapshot, 9);
    for (key, value) in [(inode_item(5), vec![9, 9, 9]), (snapshot, vec![1])] {
        let hurt = with_items(&disk, move |tx| {
            tx.put(key, value.clone());
            Ok(())
        });
        // A mount may refuse it; a check says why.
        let (_, findings) = check(&hurt);
        let malformed = Problem::ItemMalformed(key.kind);
        assert!(has(&findings, |f| f.problem == malformed), "{findings:?}");
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0xEDB8_8320 } else { 0 }
        })
    })
}

#[test]
fn miscounted_space_is_found_and_counted_again() {
    // It looks for what it changes in the image.
    choose(None);
    let (disk, contents) = image(RECIPE);
    let mut bytes = disk.to_bytes();
    for block in bytes.chunks_exact_mut(BLOCK_SIZE) {
        if !block.starts_with(b"SiTb") {
            continue;
        }
        // In both homes of the block: one of them holds.
        let mut changed = 0;
        for entry in block[96..].chunks_exact_mut(16) {
            let live = u32::from_le_bytes(entry[4..8].try_into().unwrap());
            if entry[0] == 1 && live > 100 && live < 20_000 && changed < 2 {
                entry[4..8].copy_from_slice(&(live + 50).to_le_bytes());
                changed += 1;
            }
        }
        let sum = crc32(&block[8..]);
        block[4..8].copy_from_slice(&sum.to_le_bytes());
    }
    let hurt = SimDisk::from_bytes(&bytes, 0);
    let (summary, findings) = check(&hurt);
    assert!(summary.warnings > 0 && summary.errors == 0, "{findings:?}");
    assert!(has(&findings, |f| f.repair == Some(Repair::LiveBytes)));
    let outcome = repair(&hurt);
    assert!(outcome.after.is_clean(), "{outcome:?}");
    assert!(mounted_contents(&hurt).unwrap() == contents);
}

#[test]
fn with_little_memory_the_tree_is_gone_through_more_than_once_and_the_same_is_found() {
    let disk = common::formatted(800, 1);
    let mut executor = Executor::new(1);
    let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
    let clock = executor.clock();
    executor.run(async move {
        let file = lfs::NewInode::new(lfs::FileKind::File, 0o644);
        for first in (0..4000).step_by(25) {
            filesystem
                .transact(0, |tx| {
                    for at in first..first + 25 {
                        let name = format!("file-{at}").into_bytes();
                        tx.files().create(lfs::ROOT, &name, &file)?;
                    }
                    Ok(())
                })
                .await
                .unwrap();
        }
        filesystem.shutdown(&clock).await.unwrap();
    });
    let hurt = with_inode_byte(&disk.snapshot(0), 3333, 7, 5);
    let options = CheckOptions {
        table_bytes_max: 1 << 16,
        ..options()
    };
    let (little, few) = check_with(&hurt, options);
    let (much, many) = check(&hurt);
    assert!(little.passes > 3 && much.passes == 1, "{little:?}");
    assert!(little.table_bytes_max <= 1 << 16);
    let of = |findings: &[Finding]| {
        let problems = findings.iter().map(|f| (f.inode, f.problem.clone()));
        problems.collect::<Vec<_>>()
    };
    assert_eq!(of(&few), of(&many));
    assert_eq!((little.errors, much.errors), (1, 1), "{many:?}");
    assert_eq!(many[0].path.as_deref(), Some(&b"/file-3331"[..]));
}

#[test]
fn what_only_a_deleted_snapshot_saw_is_no_damage() {
    let disk = family();
    let mut executor = Executor::new(1);
    let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
    executor.run(async move {
        filesystem.create_snapshot("before", 0).await.unwrap();
        filesystem
            .transact(0, |tx| {
                let file = tx.files().resolve(b"/outer/other", true)?;
                tx.files().write(file, 0, &[8; 4096])
            })
            .await
            .unwrap();
        filesystem.delete_snapshot("before").await.unwrap();
        filesystem.close();
        filesystem.stop();
    });
    let (summary, findings) = check(&disk);
    assert!(
        summary.is_clean() && summary.replayed_commits > 1,
        "{findings:?}"
    );
}

#[test]
fn a_dump_tells_of_every_group_and_record() {
    let disk = family();
    let lines = dump_lines(&disk).join("\n");
    for part in [
        "superblock: block 0, ready",
        "superblock: block 15, ready",
        "in force",
        "group: sequence 1, block",
        "  commit: 1,",
        "    record: put, item inode, object 4, position 0, commit 1, type file, mode 0644",
        "links 2, size 5000",
        "name \"other\", type file, inode 4",
        "record: extent, object 4, offset 0, len 4096",
        "the log ends here",
    ] {
        assert!(lines.contains(part), "no {part:?} in\n{lines}");
    }
}

//! An old image with files, directories, snapshots and survivors of the cleaner, as it was once written: it must be read in all
//! time to come, and damage in it must be found.
//!
//! `golden/files-0.deflate` is the image, `golden/files-0.txt` what is in it, and `golden/files-0-damage.txt` one bit per line that,
//! flipped, gives that finding. Unlike `golden.rs` this does not ask for the same bytes from today's code: how blocks are
//! chosen may change, what they mean may not. `SILTSTONE_BLESS=1` writes all three, only
//! for a change of the format; `SILTSTONE_BLESS=damage` the last one, when a finding is worded in another way.

use std::fmt::Write as _;
use std::path::PathBuf;

use crate::common::images::{Contents, contents_at};
use crate::common::{formatted, mount};
use crate::dump::Reader;
use lfs::sim::{Executor, Random, SimDisk};
use lfs::{
    BLOCK_SIZE, BlockIndex, CheckEvent, CheckOptions, CheckSummary, DumpOptions, FileKind,
    NewInode, ROOT, XattrMode,
};

const NOW_NS: i64 = 1_700_000_000_000_000_000;

fn golden(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    path.join("tests/golden").join(name)
}

fn lines_of(disk: &SimDisk) -> Vec<String> {
    let disk = disk.clone();
    Executor::new(0).run(async move {
        let mut lines = Vec::new();
        let options = DumpOptions::default();
        lfs::dump(&disk, options, &mut |event| lines.push(event.to_string())).await;
        lines
    })
}

fn check(disk: &SimDisk) -> (CheckSummary, Vec<String>) {
    let disk = disk.clone();
    Executor::new(0).run(async move {
        let mut lines = Vec::new();
        let mut say = |event: CheckEvent<'_>| {
            if let CheckEvent::Finding(finding) = event {
                lines.push(finding.to_string());
            }
        };
        let options = CheckOptions {
            data: true,
            ..CheckOptions::default()
        };
        let summary = lfs::check(&disk, options, &mut say).await;
        (summary, lines)
    })
}

/// Everything in it, snapshots too, as text.
fn describe(disk: &SimDisk) -> String {
    let mut text = String::new();
    let mut executor = Executor::new(0);
    let filesystem = mount(&mut executor, &disk.snapshot(0)).unwrap().filesystem;
    let reader = Reader::open(disk.to_bytes(), None).unwrap();
    let snapshots = filesystem.snapshots().into_iter();
    let states = snapshots.map(|info| (info.name.clone(), Some(info)));
    for (name, info) in states.chain([("newest".to_owned(), None)]) {
        writeln!(text, "{name}").unwrap();
        let filesystem = filesystem.clone();
        let id = info.as_ref().map(|info| info.id);
        let contents: Contents = executor.run(async move { contents_at(&filesystem, id).await });
        // The reader written from SPEC.md says the same.
        let state = reader.state(info.map(|info| info.commit.0));
        let files = state.files().unwrap();
        assert_eq!(files.len(), contents.len());
        for (found, (path, kind, content)) in files.iter().zip(&contents) {
            assert_eq!(&found.path, path);
            if *kind != FileKind::Directory {
                assert!(state.content(found.inode).unwrap() == *content);
            }
            let sum = content
                .iter()
                .fold(0xCBF2_9CE4_8422_2325_u64, |sum, &byte| {
                    (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3)
                });
            let path = path.escape_ascii();
            writeln!(text, "  {kind:?} {path} {} {sum:016x}", content.len()).unwrap();
        }
    }
    text
}

/// A disk so full that the cleaner had to work, ended by a power cut.
fn make() -> SimDisk {
    let disk = formatted(120, 9);
    let mut executor = Executor::new(9);
    let filesystem = mount(&mut executor, &disk).unwrap().filesystem;
    let clock = executor.clock();
    executor.run(async move {
        let mut random = Random::new(9);
        let file = NewInode::new(FileKind::File, 0o644);
        let directory = NewInode::new(FileKind::Directory, 0o755);
        let link = NewInode {
            target: b"small".to_vec(),
            ..NewInode::new(FileKind::Symlink, 0o777)
        };
        let mut files = Vec::new();
        let made = filesystem.transact(NOW_NS, |tx| {
            let inner = tx.files().create(ROOT, b"directory", &directory)?;
            let small = tx.files().create(inner, b"small", &file)?;
            tx.files().write(small, 0, b"a few bytes")?;
            tx.files().link(small, ROOT, b"second name")?;
            tx.files().create(inner, b"link", &link)?;
            tx.files()
                .set_xattr(small, b"user.large", &[b'x'; 5000], XattrMode::Any)?;
            let sparse = tx.files().create(ROOT, b"sparse", &file)?;
            tx.files().write(sparse, 1 << 20, b"far out")
        });
        made.await.unwrap();
        for at in 0..24 {
            let name = format!("file-{at}").into_bytes();
            let (made, _) = filesystem
                .transact(NOW_NS, |tx| tx.files().create(ROOT, &name, &file))
                .await
                .unwrap();
            files.push(made);
        }
        for round in 0..900_u64 {
            let chosen = files[random.index(files.len())];
            let offset = random.below(10) * 4096;
            // Not compressible to nothing, but it repeats.
            let content = (0..6000_u64).map(|at| (at * at + round * 7) as u8);
            let content = content.collect::<Vec<_>>();
            let written = filesystem
                .transact(NOW_NS, |tx| tx.files().write(chosen, offset, &content))
                .await;
            let ((), commit) = written.unwrap();
            filesystem.wait_durable(commit).await.unwrap();
            if round % 300 == 50 {
                let name = format!("snapshot {round}");
                filesystem.create_snapshot(&name, NOW_NS).await.unwrap();
            }
        }
        assert!(filesystem.counters().segments_cleaned > 0);
        filesystem.close();
        filesystem.stop();
        let _ = clock;
    });
    disk.snapshot(0)
}

fn flipped(image: &[u8], at: usize) -> SimDisk {
    let disk = SimDisk::from_bytes(image, 0);
    disk.flip_bit(BlockIndex((at / BLOCK_SIZE) as u64), at % BLOCK_SIZE * 8);
    disk
}

fn unpacked() -> Vec<u8> {
    let packed = std::fs::read(golden("files-0.deflate")).unwrap();
    miniz_oxide::inflate::decompress_to_vec(&packed).unwrap()
}

fn bless(what: &str) {
    if what != "damage" {
        let disk = make();
        let packed = miniz_oxide::deflate::compress_to_vec(&disk.to_bytes(), 9);
        std::fs::write(golden("files-0.deflate"), packed).unwrap();
        std::fs::write(golden("files-0.txt"), describe(&disk)).unwrap();
    }
    let image = unpacked();
    let disk = SimDisk::from_bytes(&image, 0);
    let good = check(&disk).1;
    let mut random = Random::new(3);
    let used = (0..image.len())
        .filter(|&at| image[at] != 0)
        .collect::<Vec<_>>();
    let mut text = String::new();
    let mut lines = 0;
    let head = [0, 20, 15 * BLOCK_SIZE + 40].into_iter();
    let places = head.chain((0..3000).map(|_| used[random.index(used.len())]));
    for at in places.collect::<Vec<_>>() {
        let found = check(&flipped(&image, at)).1;
        if let Some(new) = found.iter().find(|line| !good.contains(line))
            && lines < 40
        {
            writeln!(text, "{at} {new}").unwrap();
            lines += 1;
        }
    }
    std::fs::write(golden("files-0-damage.txt"), text).unwrap();
}

#[test]
fn an_old_image_with_files_is_read_and_its_damage_is_found() {
    if let Ok(what) = std::env::var("SILTSTONE_BLESS") {
        bless(&what);
    }
    let image = unpacked();
    let disk = SimDisk::from_bytes(&image, 0);
    let lines = lines_of(&disk).join("\n");
    for part in [
        ", survivors, ",
        "name \"snapshot 650\"",
        "group: sequence",
        "content log,",
        "content nodes,",
    ] {
        assert!(lines.contains(part), "{part}");
    }
    let (summary, findings) = check(&disk);
    assert!(summary.is_clean() && summary.snapshots == 3, "{findings:?}");
    assert_eq!(
        describe(&disk),
        std::fs::read_to_string(golden("files-0.txt")).unwrap()
    );

    let damage = std::fs::read_to_string(golden("files-0-damage.txt")).unwrap();
    assert!(damage.lines().count() > 20);
    for line in damage.lines() {
        let (at, finding) = line.split_once(' ').unwrap();
        let (_, found) = check(&flipped(&image, at.parse().unwrap()));
        assert!(
            found.iter().any(|line| line == finding),
            "{line}: {found:#?}"
        );
    }
}

//! Images that are damaged, or hold anything at all.
//!
//! Invariants:
//! - Every command ends, and says by its exit status how; none panics, hangs or loops. The same for a mount, whatever is asked of it.
//! - Of an image that was damaged (not tampered with), what is read is right or an error.
//! - What only reads leaves the image as it is.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::{Path, PathBuf};

use fastrand::Rng;
use lfs::sim::{Damage, forge};
use rustix::io::Errno;

use crate::harness::{Ended, Scratch, seed};

/// Damaged images of each kind.
const IMAGES: usize = 12;
const SIZE: &str = "8M";
/// Entries that a walk over a mount looks at: one that was tampered with may have no end.
const ENTRIES_MAX: usize = 400;
/// Bytes of a block.
const BLOCK: u64 = 4096;

type Contents = BTreeMap<PathBuf, Vec<u8>>;

/// An image in use, as it was early and at its end, and what its files hold.
struct Original {
    earlier: Vec<u8>,
    image: Vec<u8>,
    contents: Contents,
}

impl Original {
    /// With all kinds of things in it, and a snapshot. In the end it was closed in order, or the power failed.
    fn new(orderly: bool) -> Self {
        let scratch = Scratch::with_image(SIZE);
        let tree = scratch.path("tree");
        let mut noise = Rng::with_seed(1);
        for number in 0..24 {
            let directory = tree.join(format!("directory-{}", number % 5));
            fs::create_dir_all(&directory).expect("made");
            let mut content = vec![0; 1 << (number % 16)];
            if number % 2 == 0 {
                noise.fill(&mut content);
            }
            let file = directory.join(format!("file-{number}"));
            fs::write(&file, content).expect("written");
            let value = vec![7; 40 * number];
            let none = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(&file, "user.value", &value, none).expect("set");
        }
        fs::hard_link(tree.join("directory-0/file-0"), tree.join("link")).expect("linked");
        symlink("directory-0/file-0", tree.join("symlink")).expect("linked");
        let sparse = fs::File::create(tree.join("sparse")).expect("made");
        sparse.write_all_at(b"end", 1 << 30).expect("written");
        scratch.siltstone(["cp", "-r", "tree", "disk:/"]).ok();
        let image = || fs::read(scratch.path("disk")).expect("read");
        let earlier = image();
        scratch
            .siltstone(["snapshot", "create", "disk", "before"])
            .ok();
        let mount = scratch.mount();
        fs::remove_dir_all(mount.path("tree/directory-3")).expect("removed");
        fs::write(mount.path("tree/more"), vec![1; 100_000]).expect("written");
        let contents = contents(mount.root());
        if orderly {
            mount.unmount();
        } else {
            let root = fs::File::open(mount.root()).expect("opens");
            root.sync_all().expect("synced");
            drop(root);
            mount.kill();
        }
        Self {
            earlier,
            image: image(),
            contents,
        }
    }
}

/// What the files below a directory hold, of sparse ones only the end.
fn contents(root: &Path) -> Contents {
    let mut found = Contents::new();
    let mut walk = |path: &Path, content: io::Result<Vec<u8>>| {
        found.insert(path.to_owned(), content.expect("readable"));
    };
    visit(root, &mut |error| panic!("{error}"), &mut walk);
    found
}

/// Reads all that is below a directory, as far as it is not too much.
fn visit(
    root: &Path,
    failed: &mut dyn FnMut(io::Error),
    file: &mut dyn FnMut(&Path, io::Result<Vec<u8>>),
) {
    let mut left = vec![PathBuf::new()];
    let mut seen = 0;
    while let Some(relative) = left.pop() {
        let path = root.join(&relative);
        let mut names = vec![0; 65_536];
        let listed = rustix::fs::llistxattr(&path, &mut names[..]);
        match listed {
            Ok(len) => names.truncate(len),
            Err(error) => failed(error.into()),
        }
        for name in names
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
        {
            let mut value = vec![0; 65_536];
            if let Err(error) = rustix::fs::lgetxattr(&path, name, &mut value[..]) {
                failed(error.into());
            }
        }
        let kind = match fs::symlink_metadata(&path) {
            Ok(found) => found.file_type(),
            Err(error) => {
                failed(error);
                continue;
            }
        };
        if kind.is_symlink() {
            let _ = fs::read_link(&path).map_err(&mut *failed);
        } else if kind.is_file() {
            file(&relative, read_end(&path));
        } else if kind.is_dir() {
            let entries = match fs::read_dir(&path) {
                Ok(entries) => entries,
                Err(error) => {
                    failed(error);
                    continue;
                }
            };
            for entry in entries {
                seen += 1;
                match entry {
                    Ok(entry) if seen < ENTRIES_MAX => left.push(relative.join(entry.file_name())),
                    Ok(_) => break,
                    Err(error) => {
                        failed(error);
                        break;
                    }
                }
            }
        }
    }
}

fn read_end(path: &Path) -> io::Result<Vec<u8>> {
    const BYTES_MAX: u64 = 256 << 10;
    let file = fs::File::open(path)?;
    let len = file.metadata()?.len();
    let count = usize::try_from(len.min(BYTES_MAX)).expect("small");
    let mut bytes = vec![0; count];
    file.read_exact_at(&mut bytes, len - count as u64)?;
    Ok(bytes)
}

/// Damages an image in some places, of which more are in use than not.
fn damage(original: &Original, rng: &mut Rng, tampered: bool) -> Vec<u8> {
    let mut image = original.image.clone();
    let used: Vec<usize> = image
        .chunks_exact(512)
        .enumerate()
        .filter(|(_, sector)| sector.iter().any(|byte| *byte != 0))
        .map(|(number, _)| number)
        .collect();
    for _ in 0..rng.usize(1..8) {
        let [sector, other] = [(); 2].map(|()| *rng.choice(&used).expect("it is in use"));
        let step = match rng.u8(..10) {
            0 => Damage::Zero(sector),
            1 => Damage::Copy(other, sector),
            2 if tampered => Damage::Lost(sector),
            _ => Damage::Bytes(sector, rng.usize(..512), rng.u32(..).to_le_bytes()),
        };
        step.apply(&mut image, &original.earlier);
    }
    if tampered {
        forge(&mut image);
    }
    image
}

/// What may be asked of any image, and how that may end.
const COMMANDS: [(&[&str], &[i32]); 17] = [
    (&["info", "disk"], &[0, 1]),
    (&["ls", "-lR", "disk"], &[0, 1]),
    (&["ls", "-R", "--json", "disk@before"], &[0, 1]),
    (
        &["cat", "disk", "/tree/link", "/tree/symlink", "/tree/more"],
        &[0, 1],
    ),
    (
        &[
            "stat",
            "disk",
            "/",
            "/tree",
            "/tree/directory-1/file-6",
            "/tree/sparse",
        ],
        &[0, 1],
    ),
    (&["snapshot", "list", "disk"], &[0, 1]),
    (&["diff", "disk", "before"], &[0, 1]),
    (&["compression", "disk"], &[0, 1]),
    (&["key", "list", "disk"], &[0, 1]),
    (&["dump", "disk"], &[0, 1]),
    (&["dump", "--json", "disk"], &[0, 1]),
    (&["fsck", "disk"], &[0, 4, 8]),
    (&["fsck", "--data", "--json", "disk"], &[0, 4, 8]),
    (&["scrub", "--read-only", "disk"], &[0, 1]),
    (&["backup", "--at", "1000", "disk", "-o", "backup"], &[0, 1]),
    (&["cp", "-r", "disk@before:/", "old"], &[0, 1]),
    (&["cp", "-r", "disk:/tree", "out"], &[0, 1]),
];

/// And what changes it.
const CHANGES: [(&[&str], &[i32]); 9] = [
    (&["mkdir", "disk", "/new"], &[0, 1]),
    (&["cp", "disk", "disk:/tree/copy"], &[0, 1]),
    (&["cp", "-r", "disk:/tree", "disk:/again"], &[0, 1]),
    (&["mv", "disk", "/tree", "/moved"], &[0, 1]),
    (&["snapshot", "rm", "disk", "before"], &[0, 1]),
    (&["backup", "disk", "-o", "whole"], &[0, 1]),
    (&["rm", "-r", "disk", "/moved", "/again", "/tree"], &[0, 1]),
    (&["scrub", "disk"], &[0, 1]),
    (&["fsck", "--repair", "disk"], &[0, 1, 4, 8]),
];

/// Runs a command that must end as one of these.
fn ends(scratch: &Scratch, line: &[&str], statuses: &[i32]) {
    let output = scratch.siltstone(line);
    let status = output.status.code();
    let orderly = status.is_some_and(|status| statuses.contains(&status));
    let calm = !output.stderr.contains("panicked");
    assert!(
        orderly && calm,
        "{line:?}: {}\n{}",
        output.status,
        output.stderr
    );
}

fn ended_well(ended: &Ended) {
    let calm = matches!(ended.status.code(), Some(0 | 1)) && !ended.stderr.contains("panicked");
    assert!(calm, "{ended:?}");
}

/// The tool is there and answers; how well is another question.
fn answers(error: &io::Error) {
    let gone = [Errno::NOTCONN, Errno::CONNABORTED];
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    assert!(!code.is_some_and(|code| gone.contains(&code)), "{error}");
}

/// Does all that may be done with the image `disk`, to its end. `right` is what its files hold, if it is only damaged. Says
/// whether it mounts.
fn try_all(scratch: &Scratch, image: &[u8], right: Option<&Contents>) -> bool {
    let disk = scratch.path("disk");
    fs::write(&disk, image).expect("written");
    for (line, statuses) in COMMANDS {
        ends(scratch, line, statuses);
    }
    for copy in ["old", "out"] {
        let _ = fs::remove_dir_all(scratch.path(copy));
    }
    let mut failed = |error: io::Error| {
        answers(&error);
        assert!(
            right.is_none() || error.raw_os_error() == Some(Errno::IO.raw_os_error()),
            "{error}"
        );
    };
    let mounted = match scratch.try_mount(&["-o", "ro"]) {
        Err(ended) => {
            ended_well(&ended);
            false
        }
        Ok(mount) => {
            let mut file = |path: &Path, content: io::Result<Vec<u8>>| match (content, right) {
                (Ok(content), Some(right)) => {
                    assert!(right.get(path) == Some(&content), "{}", path.display());
                }
                (Err(error), Some(_)) => {
                    let code = error.raw_os_error();
                    assert_eq!(code, Some(Errno::IO.raw_os_error()), "{error}");
                }
                (Err(error), None) => answers(&error),
                (Ok(_), None) => {}
            };
            visit(mount.root(), &mut failed, &mut file);
            mount.unmount();
            true
        }
    };
    assert!(
        fs::read(&disk).expect("read") == image,
        "reading changed it"
    );
    if let Ok(mount) = scratch.try_mount(&[]) {
        change(mount.root());
        ended_well(&mount.unmounted());
    }
    fs::write(&disk, image).expect("written");
    for (line, statuses) in CHANGES {
        ends(scratch, line, statuses);
    }
    for left in ["backup", "whole", "whole.partial"] {
        let _ = fs::remove_file(scratch.path(left));
    }
    mounted
}

/// Changes files in every way; what comes of it only has to come.
fn change(root: &Path) {
    let path = |name: &str| root.join(name);
    let answered = |result: io::Result<()>| {
        if let Err(error) = result {
            answers(&error);
        }
    };
    answered(fs::write(path("tree/link"), vec![3; 70_000]));
    answered(fs::create_dir(path("made")));
    answered(fs::write(path("made/file"), "new"));
    answered(fs::rename(path("tree/more"), path("made/more")));
    answered(fs::hard_link(path("tree/link"), path("made/link")));
    answered(symlink("nowhere", path("made/symlink")));
    answered(fs::File::open(path("made")).and_then(|made| made.sync_all()));
    let truncate = || {
        fs::OpenOptions::new()
            .write(true)
            .open(path("tree/sparse"))?
            .set_len(5)
    };
    answered(truncate());
    answered(fs::remove_file(path("tree/symlink")));
    answered(fs::remove_dir_all(path("tree/directory-1")));
    answered(fs::remove_dir_all(path("tree/directory-2")));
    answered(fs::File::open(root).and_then(|root| root.sync_all()));
}

#[test]
fn what_is_damaged_is_right_or_an_error() {
    let mut rng = Rng::with_seed(seed());
    let original = Original::new(true);
    let scratch = Scratch::new();
    assert!(try_all(&scratch, &original.image, Some(&original.contents)));
    let mounted = (0..IMAGES).filter(|_| {
        let image = damage(&original, &mut rng, false);
        try_all(&scratch, &image, Some(&original.contents))
    });
    let mounted = mounted.count();
    println!("{mounted} of {IMAGES} mount");
    assert!(mounted > 0);
}

/// Where a dump says that nodes of trees are, or were.
fn nodes(scratch: &Scratch, image: &[u8]) -> Vec<u64> {
    let mut segment_blocks = 0;
    let mut blocks = Vec::new();
    for line in scratch.siltstone(["dump", "--json", "disk"]).ok().lines() {
        let told: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let number = |name| told.get(name).and_then(serde_json::Value::as_u64);
        let number = |name| number(name).expect("a number");
        let word = |name| told.get(name).and_then(serde_json::Value::as_str);
        if word("kind") == Some("superblock") {
            segment_blocks = number("segment_blocks");
        } else if word("kind") == Some("segment") && word("content") == Some("nodes") {
            blocks.extend(number("block")..number("block") + segment_blocks);
        }
    }
    blocks.retain(|block| {
        let at = usize::try_from(block * BLOCK).expect("small");
        image
            .get(at..)
            .is_some_and(|node| node.starts_with(b"SiTn"))
    });
    blocks
}

/// Of a directory that takes several leaves all names are listed, or the listing fails: whichever node is damaged, in the
/// command and on a mount.
#[test]
fn a_directory_that_cannot_be_read_is_not_listed_as_a_smaller_one() {
    const NAMES: usize = 600;
    let scratch = Scratch::with_image(SIZE);
    let mount = scratch.mount();
    fs::create_dir(mount.path("directory")).expect("made");
    for number in 0..NAMES {
        let name = format!("directory/{number:03}-{}", "x".repeat(60));
        fs::File::create_new(mount.path(&name)).expect("created");
    }
    mount.unmount();
    let lines: [&[&str]; 3] = [
        &["ls", "disk", "/directory"],
        &["ls", "-lR", "disk"],
        &["ls", "--json", "disk", "/directory"],
    ];
    let right = lines.map(|line| scratch.siltstone(line).ok());
    assert_eq!(right[0].lines().count(), NAMES);
    let image = fs::read(scratch.path("disk")).expect("read");
    let disk = fs::OpenOptions::new()
        .write(true)
        .open(scratch.path("disk"));
    let disk = disk.expect("opens");
    let (mut failed, mut failed_mounted) = ([0; 3], 0);
    let blocks = nodes(&scratch, &image);
    for block in &blocks {
        let at = block * BLOCK + BLOCK / 8;
        let byte = &image[usize::try_from(at).expect("small")..][..1];
        disk.write_all_at(&[!byte[0]], at).expect("written");
        for ((line, right), failed) in lines.iter().zip(&right).zip(&mut failed) {
            let output = scratch.siltstone(*line);
            match output.status.code() {
                Some(0) => assert_eq!(&output.stdout, right, "block {block}: {line:?}"),
                Some(1) => *failed += 1,
                other => panic!("block {block}: {line:?}: {other:?}"),
            }
        }
        if let Ok(mount) = scratch.try_mount(&["-o", "ro"]) {
            let names = fs::read_dir(mount.path("directory"))
                .and_then(Iterator::collect::<io::Result<Vec<_>>>);
            match names {
                Ok(names) => assert_eq!(names.len(), NAMES, "block {block}"),
                Err(error) => {
                    let code = error.raw_os_error();
                    assert_eq!(code, Some(Errno::IO.raw_os_error()), "{error}");
                    failed_mounted += 1;
                }
            }
            mount.unmount();
        }
        disk.write_all_at(byte, at).expect("written");
    }
    let count = blocks.len();
    println!("{count} nodes: {failed:?} listings fail, {failed_mounted} on mounts");
    // Its entries alone take so many leaves; others hold what a list of names does not ask for.
    let leaves = NAMES * 64 / 4096;
    let enough = |failed: &usize| (leaves..=count).contains(failed);
    assert!(failed.iter().all(enough) && enough(&failed_mounted));
    assert!(failed[0] < count);
}

#[test]
fn what_was_tampered_with_is_survived() {
    let mut rng = Rng::with_seed(seed());
    let originals = [Original::new(true), Original::new(false)];
    let scratch = Scratch::new();
    let mounted = (0..IMAGES).filter(|number| {
        let image = damage(&originals[number % 2], &mut rng, true);
        try_all(&scratch, &image, None)
    });
    let mounted = mounted.count();
    println!("{mounted} of {IMAGES} mount");
    assert!(mounted > 0);
}

#[test]
fn arbitrary_bytes_are_no_image() {
    let mut rng = Rng::with_seed(seed());
    let original = Original::new(true);
    let scratch = Scratch::new();
    for kept_blocks in [0, 1, 16, 64] {
        let mut image = original.image.clone();
        rng.fill(&mut image[kept_blocks * 4096..]);
        assert!(!try_all(&scratch, &image, None), "{kept_blocks}");
    }
    for len in [0, 1, 511, 4096, 5000, 65_536, 1 << 20] {
        let mut image = vec![0; len];
        rng.fill(&mut image);
        assert!(!try_all(&scratch, &image, None), "{len}");
        let cut = &original.image[..len];
        assert!(!try_all(&scratch, cut, None), "{len}");
    }
}

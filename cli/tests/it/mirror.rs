//! `siltstone scrub IMAGE MIRROR`: what is damaged on one of two disks is mended from the other; what is on both is reported.
#![expect(
    clippy::indexing_slicing,
    reason = "an index out of range is a finding"
)]

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::harness::{Scratch, seed};

const BLOCK: usize = 4096;
/// Where a disk of a mirror keeps what it knows of the other one, and the second copy of the superblock: without either
/// copy a disk is none of this file system.
const SPARED_BLOCKS: [usize; 3] = [7, 8, 15];
const KEY: [&str; 2] = ["--key-file", "key"];

/// Two disks that hold the same, with two files.
struct Pair {
    scratch: Scratch,
    key: &'static [&'static str],
    content: Vec<u8>,
    /// Blocks with data of the file.
    blocks: Vec<usize>,
}

impl Pair {
    fn new(rng: &mut fastrand::Rng, encrypted: bool) -> Self {
        let scratch = Scratch::new();
        let mut content = vec![0; 400_000];
        rng.fill(&mut content);
        fs::write(scratch.path("file"), &content).expect("written");
        fs::write(scratch.path("other"), "all is well").expect("written");
        fs::write(scratch.path("key"), [7; 32]).expect("written");
        let key: &[&str] = if encrypted { &KEY } else { &[] };
        let encrypt: &[&str] = if encrypted { &["--encrypt"] } else { &[] };
        let mkfs = ["mkfs", "disk", "--size", "64M"];
        scratch
            .siltstone(mkfs.iter().chain(encrypt).chain(key))
            .ok();
        let mut pair = Self {
            scratch,
            key,
            content,
            blocks: Vec::new(),
        };
        pair.run(&["cp", "other", "disk:/"]).ok();
        let before = pair.image("disk");
        pair.run(&["cp", "file", "disk:/"]).ok();
        // The longest row of blocks that changed holds nothing but the file, but for its ends.
        let after = pair.image("disk");
        let mut rows: Vec<Vec<usize>> = Vec::new();
        let blocks = before.chunks(BLOCK).zip(after.chunks(BLOCK)).enumerate();
        for (block, _) in blocks.filter(|(_, (before, after))| before != after) {
            match rows.last_mut() {
                Some(row) if row.last() == Some(&(block - 1)) => row.push(block),
                _ => rows.push(vec![block]),
            }
        }
        let longest = rows.into_iter().max_by_key(Vec::len).expect("changed");
        pair.blocks = longest[1..longest.len() - 1].to_vec();
        assert!(pair.blocks.len() > 20, "{:?}", pair.blocks);
        fs::copy(pair.scratch.path("disk"), pair.scratch.path("mirror")).expect("copied");
        pair
    }

    fn run(&self, line: &[&str]) -> crate::harness::Output {
        self.scratch.siltstone(line.iter().chain(self.key))
    }

    fn image(&self, disk: &str) -> Vec<u8> {
        fs::read(self.scratch.path(disk)).expect("read")
    }

    /// Changes a byte in each of some blocks.
    fn damage(&self, disk: &str, blocks: impl IntoIterator<Item = usize>, at: usize) {
        let mut image = self.image(disk);
        for block in blocks {
            image[block * BLOCK + at] ^= 0xff;
        }
        fs::write(self.scratch.path(disk), image).expect("written");
    }

    /// Blocks of a disk that hold anything, to be damaged.
    fn used(&self) -> Vec<usize> {
        let image = self.image("disk");
        let blocks = image.chunks(BLOCK).enumerate();
        let used = blocks.filter(|(_, block)| block.iter().any(|byte| *byte != 0));
        used.map(|(block, _)| block)
            .filter(|block| !SPARED_BLOCKS.contains(block))
            .collect()
    }

    /// Either disk alone is as it should be.
    fn assert_both_whole(&self) {
        for disk in ["disk", "mirror"] {
            self.run(&["fsck", "--data", disk]).ok();
            self.run(&["cp", &format!("{disk}:/file"), "out"]).ok();
            let out = fs::read(self.scratch.path("out")).expect("read");
            assert!(out == self.content, "{disk}");
            fs::remove_file(self.scratch.path("out")).expect("removed");
            assert_eq!(self.run(&["cat", disk, "/other"]).ok(), "all is well");
        }
    }
}

/// The number in front of a word.
fn number(said: &str, word: &str) -> u64 {
    let (before, _) = said.split_once(word).expect("the word");
    let number = before.trim_end().rsplit([' ', ',']).next();
    number.expect("a number").parse().expect("a number")
}

#[test]
fn what_is_damaged_on_one_side_is_mended_from_the_other() {
    let mut rng = fastrand::Rng::with_seed(seed());
    for encrypted in [false, true] {
        let pair = Pair::new(&mut rng, encrypted);
        let said = pair.run(&["scrub", "disk", "mirror"]).ok();
        assert_eq!(number(&said, "repaired"), 0, "{said}");
        for (damaged, other) in [("disk", "mirror"), ("mirror", "disk")] {
            let at = rng.usize(..512);
            pair.damage(damaged, pair.used(), at);
            assert_ne!(
                pair.run(&["fsck", "--data", damaged]).status.code(),
                Some(0)
            );
            pair.run(&["fsck", "--data", other]).ok();
            let said = pair.run(&["scrub", "disk", "mirror"]).ok();
            let repaired = number(&said, "repaired");
            assert!(repaired >= 5, "{said}");
            assert_eq!(number(&said, "cannot be repaired"), 0, "{said}");
            pair.assert_both_whole();
            let said = pair.run(&["scrub", "disk", "mirror"]).ok();
            assert_eq!(number(&said, "repaired"), 0, "{said}");
        }
        // Some blocks here, others there.
        let (one, two) = pair.blocks.split_at(pair.blocks.len() / 2);
        pair.damage("disk", one.iter().copied(), 2000);
        pair.damage("mirror", two.iter().copied(), 2000);
        pair.run(&["scrub", "disk", "mirror"]).ok();
        pair.assert_both_whole();
    }
}

#[test]
fn what_is_damaged_on_both_sides_is_reported_with_file_and_range() {
    let mut rng = fastrand::Rng::with_seed(seed());
    for encrypted in [false, true] {
        let pair = Pair::new(&mut rng, encrypted);
        // Near the start, so that enough of the row is beyond what is lost with it.
        let lost = pair.blocks[rng.usize(1..4)];
        for disk in ["disk", "mirror"] {
            pair.damage(disk, [lost], 100);
        }
        // What is damaged on one only is mended all the same.
        let other = pair.blocks.iter().copied();
        let other = other.filter(|block| block.abs_diff(lost) > 16);
        pair.damage("disk", other, 300);

        let output = pair.run(&["scrub", "--json", "disk", "mirror"]);
        assert_eq!(output.status.code(), Some(1), "{}", output.stderr);
        let lines = output.stdout.lines();
        let objects = lines.map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let objects = objects.collect::<Vec<_>>();
        let (summary, findings) = objects.split_last().expect("a summary");
        assert!(summary["unrepairable"].as_u64() >= Some(1), "{summary}");
        assert!(summary["repaired"].as_u64() >= Some(1), "{summary}");
        let field = |finding: &Value, name: &str| finding[name].as_u64().expect("a number");
        let mut units = BTreeSet::new();
        for finding in findings {
            assert_eq!(finding["path"], "/file", "{finding}");
            let (from, to) = (field(finding, "from_byte"), field(finding, "to_byte"));
            assert!(from < to && to <= pair.content.len() as u64, "{finding}");
            units.extend(from / 4096..to.div_ceil(4096));
        }
        assert!(!units.is_empty());

        // The same for people, and again: it stays lost, and nothing else is.
        let output = pair.run(&["scrub", "disk", "mirror"]);
        assert_eq!(output.status.code(), Some(1));
        let said = output.stdout;
        assert!(said.contains("data of /file (inode "), "{said}");
        assert!(said.contains(", bytes "), "{said}");
        assert_eq!(number(&said, "repaired"), 0, "{said}");
        assert!(number(&said, "cannot be repaired") >= 1, "{said}");
        for disk in ["disk", "mirror"] {
            assert_eq!(pair.run(&["cat", disk, "/other"]).ok(), "all is well");
            pair.run(&["cp", &format!("{disk}:/file"), "out"]).fails(1);
        }
    }
}

#[test]
fn disks_that_do_not_hold_the_same_are_refused() {
    let mut rng = fastrand::Rng::with_seed(seed());
    let pair = Pair::new(&mut rng, false);
    pair.scratch
        .siltstone(["mkfs", "stranger", "--size", "64M"])
        .ok();
    let before = [pair.image("disk"), pair.image("stranger")];
    let message = pair.run(&["scrub", "disk", "stranger"]).fails(1);
    assert!(message.contains("not the other's mirror"), "{message}");
    assert!([pair.image("disk"), pair.image("stranger")] == before);
}

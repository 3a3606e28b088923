//! Images that become larger.

use std::fs::{self, OpenOptions};

use crate::harness::{Output, Scratch, within_limit};

const MIB: u64 = 1 << 20;

fn object(output: Output) -> serde_json::Value {
    serde_json::from_str(&output.ok()).expect("JSON")
}

fn set_len(scratch: &Scratch, bytes: u64) {
    let file = OpenOptions::new().write(true).open(scratch.path("disk"));
    file.expect("an image").set_len(bytes).expect("its size");
}

/// Puts a file of so many bytes that do not compress.
fn put(scratch: &Scratch, name: &str, bytes: u64) -> Output {
    let mut content = vec![0; usize::try_from(bytes).expect("small")];
    fastrand::Rng::with_seed(bytes).fill(&mut content);
    fs::write(scratch.path(name), &content).expect("written");
    scratch.siltstone(["cp", name, "disk:/"])
}

#[test]
fn an_image_grows_and_keeps_what_it_has() {
    let scratch = Scratch::with_image("16M");
    let run = |line: &[&str]| scratch.siltstone(line);
    put(&scratch, "first", 9 * MIB).ok();
    put(&scratch, "second", 9 * MIB).fails(1);
    let told = object(run(&["grow", "disk", "--size", "64M", "--json"]));
    assert_eq!(told["size_bytes"], 64 * MIB);
    assert_eq!(told["before_bytes"], 16 * MIB);
    assert_eq!(told["spanned_bytes"], 64 * MIB);
    let info = object(run(&["info", "--json", "disk"]));
    for key in [
        "size_bytes",
        "spanned_bytes",
        "growth_bytes_max",
        "capacity_bytes",
    ] {
        assert_eq!(info[key], told[key], "{key}");
    }
    put(&scratch, "second", 30 * MIB).ok();
    for name in ["first", "second"] {
        run(&["cp", &format!("disk:/{name}"), "out"]).ok();
        let [here, there] = [name, "out"].map(|name| fs::read(scratch.path(name)).expect("read"));
        assert!(here == there, "{name}");
    }
    run(&["fsck", "--data", "disk"]).ok();
    let said = run(&["grow", "disk"]).ok();
    assert!(said.contains("64 MiB, no more than before"), "{said}");
    let said = run(&["grow", "disk", "--size", "128M"]).ok();
    assert!(said.contains("grown from 64 MiB to 128 MiB"), "{said}");
}

#[test]
fn whoever_writes_takes_in_what_a_file_has_more() {
    let scratch = Scratch::with_image("16M");
    set_len(&scratch, 48 * MIB);
    let info = |key: &str| {
        let told = object(scratch.siltstone(["info", "--json", "disk"]));
        told[key].as_u64().expect("a number")
    };
    // Those who only read leave it as it is.
    assert_eq!(
        (info("size_bytes"), info("spanned_bytes")),
        (48 * MIB, 16 * MIB)
    );
    scratch.siltstone(["mkdir", "disk", "/directory"]).ok();
    put(&scratch, "file", 30 * MIB).ok();
    assert_eq!(info("spanned_bytes"), 48 * MIB);
    scratch.siltstone(["fsck", "disk"]).ok();
}

#[test]
fn a_mount_takes_in_what_the_file_gets_more() {
    let scratch = Scratch::with_image("16M");
    let mount = scratch.mount();
    let capacity = || {
        let found = rustix::fs::statvfs(mount.root()).expect("it answers");
        found.f_blocks * found.f_frsize
    };
    let before = capacity();
    set_len(&scratch, 64 * MIB);
    within_limit(|| capacity() > 3 * before);
    let mut content = vec![0; usize::try_from(30 * MIB).expect("small")];
    fastrand::Rng::with_seed(1).fill(&mut content);
    fs::write(mount.path("file"), content).expect("there is room");
    mount.unmount();
    scratch.siltstone(["fsck", "--data", "disk"]).ok();
}

#[test]
fn growing_ends_where_the_table_does_and_says_so() {
    let scratch = Scratch::with_image("8M");
    let said = scratch.siltstone(["grow", "disk", "--size", "256M"]).ok();
    assert!(said.contains("that is the most it can have"), "{said}");
    let told = object(scratch.siltstone(["info", "--json", "disk"]));
    assert_eq!(told["spanned_bytes"], told["growth_bytes_max"]);
    assert!(told["spanned_bytes"].as_u64() > Some(120 * MIB), "{told}");
    scratch.siltstone(["fsck", "disk"]).ok();
}

#[test]
fn what_is_refused_changes_nothing_not_even_the_size() {
    let scratch = Scratch::new();
    for (name, byte) in [("key", 1), ("other", 2)] {
        fs::write(scratch.path(name), [byte; 32]).expect("written");
    }
    let with_key = ["--key-file", "key"];
    let mkfs = ["mkfs", "disk", "--size", "16M", "--encrypt"];
    scratch.siltstone(mkfs.iter().chain(&with_key)).ok();
    scratch
        .siltstone(
            ["snapshot", "create", "disk", "one"]
                .iter()
                .chain(&with_key),
        )
        .ok();
    let before = fs::read(scratch.path("disk")).expect("read");
    let refused: [(&[&str], i32, &str); 6] = [
        (
            &["grow", "disk", "--size", "64M", "--key-file", "other"],
            1,
            "key",
        ),
        (&["grow", "disk", "--size", "64M"], 1, "key"),
        (
            &["grow", "disk", "--size", "15M", "--key-file", "key"],
            1,
            "smaller",
        ),
        (
            &["grow", "disk@one", "--size", "64M", "--key-file", "key"],
            2,
            "whole image",
        ),
        (&["grow", "none", "--size", "64M"], 1, "none"),
        (&["grow", "key", "--size", "64M"], 1, "key"),
    ];
    for (line, status, word) in refused {
        let said = scratch.siltstone(line).fails(status);
        assert!(said.contains(word), "{line:?}: {said}");
        assert!(
            fs::read(scratch.path("disk")).expect("read") == before,
            "{line:?}"
        );
    }
    assert_eq!(fs::read(scratch.path("key")).expect("read"), [1; 32]);
    assert!(!scratch.path("none").exists());
    let grow = ["grow", "disk", "--size", "64M"];
    scratch.siltstone(grow.iter().chain(&with_key)).ok();
    scratch
        .siltstone(["fsck", "disk"].iter().chain(&with_key))
        .ok();
}

#[test]
fn an_image_that_was_cut_short_is_told_from_one_that_is_none() {
    let scratch = Scratch::with_image("16M");
    scratch.siltstone(["grow", "disk", "--size", "64M"]).ok();
    for bytes in [63 * MIB, 16 * MIB, MIB] {
        set_len(&scratch, bytes);
        let before = fs::read(scratch.path("disk")).expect("read");
        for (line, status) in [
            (&["ls", "disk"][..], 1),
            (&["mkdir", "disk", "/directory"], 1),
            (&["fsck", "disk"], 4),
            (&["fsck", "--repair", "disk"], 4),
            (&["mkfs", "disk"], 1),
        ] {
            let output = scratch.siltstone(line);
            let said = format!("{}{}", output.stdout, output.stderr);
            assert_eq!(output.status.code(), Some(status), "{line:?}: {said}");
            let expected = if line[0] == "mkfs" {
                "holds a Siltstone"
            } else {
                "smaller than the file system"
            };
            assert!(said.contains(expected), "{line:?}: {said}");
        }
        assert!(fs::read(scratch.path("disk")).expect("read") == before);
    }
    set_len(&scratch, 64 * MIB);
}

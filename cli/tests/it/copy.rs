//! `siltstone cp`.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags, setxattr, utimensat};

use crate::harness::{Scratch, assert_same, describe};

/// A tree with some of everything.
fn plant(root: &Path) {
    fs::create_dir_all(root.join("deep/er")).expect("made");
    fs::write(root.join("empty"), "").expect("written");
    fs::write(root.join("small"), "small").expect("written");
    let large: Vec<u8> = (0..5_000_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(root.join("deep/large"), &large).expect("written");
    fs::hard_link(root.join("small"), root.join("deep/same")).expect("linked");
    symlink("../small", root.join("deep/way")).expect("linked");
    symlink("nowhere", root.join("dangling")).expect("linked");
    let sparse = File::create(root.join("sparse")).expect("created");
    sparse.write_all_at(b"x", 3 << 20).expect("written");
    sparse.set_len(64 << 20).expect("set");
    fs::set_permissions(root.join("small"), Permissions::from_mode(0o4711)).expect("set");
    fs::set_permissions(root.join("deep/er"), Permissions::from_mode(0o500)).expect("set");
    for (name, seconds) in [("small", 1_000_000_000), ("deep", 1_234_567_890)] {
        let time = Timespec {
            tv_sec: seconds,
            tv_nsec: 123_456_789,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        utimensat(CWD, root.join(name), &times, AtFlags::empty()).expect("set");
    }
    for name in ["small", "deep", "deep/large"] {
        let path = root.join(name);
        let set = |name, value: &[u8]| setxattr(&path, name, value, XattrFlags::CREATE);
        let needed = "the file system of temporary files has attributes of users";
        set("user.note", b"kept").expect(needed);
        set("user.other", &[0, 0xff, 7]).expect(needed);
    }
}

#[test]
fn a_tree_in_and_out() {
    let scratch = Scratch::with_image("128M");
    plant(&scratch.path("tree"));
    scratch.siltstone(["cp", "-r", "tree", "disk:/"]).ok();
    scratch.siltstone(["cp", "-r", "disk:/tree", "back"]).ok();
    assert_same(
        &describe(&scratch.path("tree")),
        &describe(&scratch.path("back")),
    );
    let sparse = fs::metadata(scratch.path("back/sparse")).expect("there");
    assert!(
        sparse.blocks() * 512 < 8 << 20,
        "{} blocks",
        sparse.blocks()
    );

    // Within the image, and again onto what is there.
    scratch
        .siltstone(["cp", "-r", "disk:/tree", "disk:/second"])
        .ok();
    scratch
        .siltstone(["cp", "-r", "disk:/tree", "disk:/second"])
        .ok();
    scratch
        .siltstone(["cp", "-r", "disk:/second/tree", "again"])
        .ok();
    assert_same(
        &describe(&scratch.path("tree")),
        &describe(&scratch.path("again")),
    );
    // From one image to another.
    scratch.siltstone(["mkfs", "other", "--size", "128M"]).ok();
    scratch
        .siltstone(["cp", "-r", "disk:/tree", "other:/"])
        .ok();
    scratch.siltstone(["cp", "-r", "other:/tree", "third"]).ok();
    assert_same(
        &describe(&scratch.path("tree")),
        &describe(&scratch.path("third")),
    );
    // Nothing is left over under a temporary name.
    let names = scratch.siltstone(["ls", "-R", "disk"]).ok();
    assert!(!names.contains(".siltstone-"), "{names}");
}

#[test]
fn places() {
    let scratch = Scratch::with_image("64M");
    let run = |line: &[&str]| scratch.siltstone(line);
    fs::write(scratch.path("a"), "a").expect("written");
    fs::write(scratch.path("b"), "b").expect("written");
    fs::create_dir(scratch.path("directory")).expect("made");
    run(&["cp", "a", "disk:/name"]).ok();
    run(&["cp", "b", "disk:/name"]).ok();
    assert_eq!(run(&["cat", "disk", "/name"]).ok(), "b", "replaced");
    run(&["mkdir", "disk", "/into"]).ok();
    run(&["cp", "a", "b", "disk:/into"]).ok();
    assert_eq!(run(&["ls", "disk", "/into"]).ok(), "a\nb\n");
    run(&["cp", "disk:/into/a", "disk:/into/b", "directory"]).ok();
    assert_eq!(
        fs::read_to_string(scratch.path("directory/b")).expect("read"),
        "b"
    );
    assert_eq!(run(&["cp", "disk:/name", "/dev/stdout"]).ok(), "b");

    for (line, says) in [
        (&["cp", "a", "b", "disk:/name"][..], "not a directory"),
        (&["cp", "directory", "disk:/"], "-r"),
        (&["cp", "disk:/into", "."], "-r"),
        (&["cp", "a", "disk:/no/such"], "no such"),
        (&["cp", "absent", "disk:/"], "No such"),
        (&["cp", "disk:/absent", "."], "no such"),
        (&["cp", "-r", "disk:/into", "disk:/into"], "into itself"),
        (&["cp", "-r", "directory", "disk:/name"], "not a directory"),
    ] {
        let message = run(line).fails(1);
        assert!(message.contains(says), "{line:?}: {message}");
    }
    // The rest of a copy goes on.
    run(&["cp", "absent", "a", "disk:/"]).fails(1);
    assert_eq!(run(&["cat", "disk", "/a"]).ok(), "a");
}

//! Images that somebody made to do harm: with right checksums, and with names, links and directories that no tool of ours makes.
//!
//! Invariants: nothing outside of the place that was named is written; no walk goes on for ever; no terminal obeys a name; nobody
//! gets a program that runs as them.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use lfs::sim::forge;

use crate::harness::{Scratch, on_a_terminal, run};

const NOBODY: u32 = 65_534;

/// With an image in which names and records lie as they are.
fn scratch() -> Scratch {
    let scratch = Scratch::new();
    let line = ["mkfs", "disk", "--size", "8M", "--compress", "off"];
    scratch.siltstone(line).ok();
    scratch
}

/// Puts other bytes in the place of some in the image, wherever they are, and makes the checksums right.
fn tamper(scratch: &Scratch, replacements: &[(&[u8], &[u8])]) {
    let mut image = fs::read(scratch.path("disk")).expect("read");
    for (from, to) in replacements {
        assert_eq!(from.len(), to.len());
        let found = image.windows(from.len()).enumerate();
        let found = found.filter(|(_, bytes)| bytes == from);
        let places: Vec<usize> = found.map(|(at, _)| at).collect();
        assert!(!places.is_empty(), "{} is nowhere", from.escape_ascii());
        for at in places {
            let place = image.get_mut(at..at + to.len());
            place.expect("it was found there").copy_from_slice(to);
        }
    }
    forge(&mut image);
    fs::write(scratch.path("disk"), image).expect("written");
}

/// What there is below a directory, by name.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("listed");
    let mut names: Vec<_> = entries
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

#[test]
fn names_that_no_directory_can_hold_lead_nowhere() {
    for (from, to) in [
        ("x1y", "x/y"),
        ("x1y", "/ab"),
        ("x1y", "a/\0"),
        ("x1", ".."),
        ("x1y1escaped", "../escaped\0"),
        ("x1yescaped", "../escaped"),
    ] {
        let scratch = scratch();
        let tree = scratch.path("tree");
        fs::create_dir_all(tree.join("sub")).expect("made");
        fs::write(tree.join("sub").join(from), "payload").expect("written");
        fs::write(tree.join("sub/beside"), "fine").expect("written");
        scratch.siltstone(["cp", "-r", "tree", "disk:/"]).ok();
        fs::remove_dir_all(&tree).expect("removed");
        // As it is in an entry: behind its length.
        let [from, other] = [from, to].map(|name| {
            let len = u8::try_from(name.len()).expect("short");
            [&[len], name.as_bytes()].concat()
        });
        tamper(&scratch, &[(&from, &other)]);
        fs::create_dir(scratch.path("out")).expect("made");
        let before = names(&scratch.path("."));
        for line in [
            &["ls", "disk", "/tree/sub"][..],
            &["ls", "-R", "disk"],
            &["cp", "-r", "disk:/", "out"],
            &["cp", "-r", "disk:/tree/sub", "disk:/copy"],
        ] {
            let said = scratch.siltstone(line).fails(1);
            assert!(said.contains("damaged"), "{to:?}: {line:?}: {said}");
        }
        assert_eq!(names(&scratch.path("out/tree/sub")), [""; 0], "{to:?}");
        assert_eq!(names(&scratch.path(".")), before, "{to:?}");
        scratch.siltstone(["fsck", "disk"]).fails(4);
        let mount = scratch.mount();
        let error = fs::read_dir(mount.path("tree/sub")).and_then(|entries| {
            for entry in entries {
                entry?;
            }
            Ok(())
        });
        assert!(error.is_err(), "{to:?}");
        mount.unmount();
    }
}

/// One of two entries with one name is a link to elsewhere, and what is under the other one would go there.
#[test]
fn a_name_that_is_there_twice_leads_nowhere() {
    let scratch = scratch();
    let [tree, outside] = ["tree", "outside"].map(|name| scratch.path(name));
    fs::create_dir_all(tree.join("directory-2")).expect("made");
    fs::create_dir(&outside).expect("made");
    fs::write(tree.join("directory-2/payload"), "payload").expect("written");
    symlink(&outside, tree.join("directory-1")).expect("linked");
    // What a file is written to and not replaced.
    let fifo = outside.join("fifo");
    scratch.run("mkfifo", [&fifo]).ok();
    symlink(&fifo, tree.join("file-1")).expect("linked");
    fs::write(tree.join("file-2"), "payload").expect("written");
    scratch.siltstone(["cp", "-r", "tree", "disk:/"]).ok();
    tamper(
        &scratch,
        &[
            (b"directory-1", b"directory-3"),
            (b"directory-2", b"directory-3"),
            (b"file-1", b"file-3"),
            (b"file-2", b"file-3"),
        ],
    );
    let listed = scratch.siltstone(["ls", "disk", "/tree"]).ok();
    assert_eq!(listed, "directory-3\ndirectory-3\nfile-3\nfile-3\n");

    let mut options = fs::OpenOptions::new();
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    options.read(true).write(true).custom_flags(flags);
    let mut reader = options.open(&fifo).expect("opened");
    let said = scratch
        .siltstone(["cp", "-r", "disk:/tree", "out"])
        .fails(1);
    assert!(said.contains("directory-3"), "{said}");
    assert_eq!(names(&outside), ["fifo"]);
    let written = reader.read(&mut [0; 16]);
    assert!(written.is_err(), "{written:?} bytes went through the link");
    // Which of the two came last depends on the image's secret: that one is there, and nothing went through the other.
    let copied = scratch.path("out/file-3");
    if fs::symlink_metadata(&copied).expect("there").is_symlink() {
        assert_eq!(fs::read_link(&copied).expect("a link"), fifo);
    } else {
        assert_eq!(fs::read(&copied).expect("a file"), b"payload");
    }
}

/// What is at the destination already is not gone through either.
#[test]
fn links_at_the_destination_are_not_followed() {
    let scratch = scratch();
    let tree = scratch.path("tree");
    fs::create_dir_all(tree.join("directory")).expect("made");
    fs::write(tree.join("directory/payload"), "payload").expect("written");
    fs::write(tree.join("file"), "payload").expect("written");
    scratch.siltstone(["cp", "-r", "tree", "disk:/"]).ok();
    fs::create_dir(scratch.path("outside")).expect("made");
    fs::write(scratch.path("outside/file"), "kept").expect("written");
    fs::create_dir(scratch.path("out")).expect("made");
    symlink("../../outside", scratch.path("out/tree")).expect("linked");
    scratch
        .siltstone(["cp", "-r", "disk:/tree", "out"])
        .fails(1);
    fs::remove_file(scratch.path("out/tree")).expect("removed");
    fs::create_dir(scratch.path("out/tree")).expect("made");
    symlink("../../outside", scratch.path("out/tree/directory")).expect("linked");
    symlink("../../outside/file", scratch.path("out/tree/file")).expect("linked");
    scratch
        .siltstone(["cp", "-r", "disk:/tree", "out"])
        .fails(1);
    assert_eq!(names(&scratch.path("outside")), ["file"]);
    let kept = fs::read_to_string(scratch.path("outside/file")).expect("read");
    assert_eq!(kept, "kept");
    let copied = fs::symlink_metadata(scratch.path("out/tree/file")).expect("there");
    assert!(copied.is_file(), "replaced");
}

/// Copied to where the image is, a file with its name took its place.
#[test]
fn an_image_is_not_replaced_by_what_is_in_it() {
    let scratch = scratch();
    let tree = scratch.path("tree");
    fs::create_dir(&tree).expect("made");
    fs::write(tree.join("disk"), "payload").expect("written");
    symlink("nowhere", tree.join("link")).expect("linked");
    scratch
        .siltstone(["cp", "-r", "tree/disk", "tree/link", "disk:/"])
        .ok();
    let image = fs::read(scratch.path("disk")).expect("read");
    fs::hard_link(scratch.path("disk"), scratch.path("link")).expect("linked");
    for line in [
        &["cp", "disk:/disk", "."][..],
        &["cp", "disk:/disk", "disk"],
        &["cp", "-r", "disk:/", "."],
        &["cp", "disk:/link", "."],
    ] {
        let said = scratch.siltstone(line).fails(1);
        assert!(said.contains("copied from"), "{line:?}: {said}");
        for name in ["disk", "link"] {
            let kept = fs::read(scratch.path(name)).expect("read");
            assert!(kept == image, "{line:?}: {name}");
        }
    }
    let temporaries = names(&scratch.path("."));
    assert_eq!(temporaries, ["disk", "link", "tree"]);
}

/// A walk that follows such a directory has no end, and with two of them takes twice the time at each level.
#[test]
fn a_directory_in_itself_is_walked_once() {
    let scratch = scratch();
    for directory in ["outer/inner-1", "outer/inner-2", "other"] {
        scratch.siltstone(["mkdir", "-p", "disk", directory]).ok();
    }
    scratch
        .siltstone(["snapshot", "create", "disk", "then"])
        .ok();
    let told = scratch
        .siltstone([
            "stat",
            "--json",
            "disk",
            "outer",
            "outer/inner-1",
            "outer/inner-2",
        ])
        .ok();
    let numbers: Vec<u8> = told
        .lines()
        .map(|line| {
            let told: serde_json::Value = serde_json::from_str(line).expect("JSON");
            u8::try_from(told["inode"].as_u64().expect("a number")).expect("small")
        })
        .collect();
    // An entry: the name, what it is, its inode.
    let entry = |name: &str, inode: u8| [name.as_bytes(), &[2, inode]].concat();
    tamper(
        &scratch,
        &[
            (&entry("inner-1", numbers[1]), &entry("inner-1", numbers[0])),
            (&entry("inner-2", numbers[2]), &entry("inner-2", numbers[0])),
        ],
    );
    for (line, status) in [
        (&["ls", "-R", "disk"][..], 1),
        (&["ls", "-lR", "--json", "disk@then"], 1),
        (&["cp", "-r", "disk:/outer", "out"], 1),
        (&["cp", "-r", "disk:/", "disk:/other"], 1),
        (&["diff", "disk", "then"], 1),
        (&["fsck", "disk"], 4),
        (&["fsck", "--repair", "disk"], 4),
    ] {
        let output = scratch.siltstone(line);
        assert!(output.stdout.len() < 100_000, "{line:?}");
        let said = output.fails(status);
        assert!(
            status != 1 || said.contains("more than one place"),
            "{line:?}: {said}"
        );
    }
    let mount = scratch.mount();
    let found = scratch.run("find", [mount.root()]);
    assert!(found.stdout.len() < 100_000);
    mount.unmount();
    for path in ["/outer/inner-1", "/outer", "/other"] {
        // Whether it works does not matter.
        let _ = scratch.siltstone(["rm", "-r", "disk", path]);
    }
}

#[test]
fn no_terminal_obeys_a_name() {
    let scratch = scratch();
    let name = "a\x1b[31m\u{9b}2Jb\x07\nc\u{7f}";
    fs::write(scratch.path(name), "x").expect("written");
    symlink(name, scratch.path("link")).expect("linked");
    scratch.siltstone(["cp", name, "link", "disk:/"]).ok();
    scratch
        .siltstone(["snapshot", "create", "disk", "then"])
        .ok();
    scratch.siltstone(["rm", "disk", &format!("/{name}")]).ok();
    scratch.siltstone(["cp", name, "disk:/"]).ok();
    let obeyed = |text: &str| text.contains(['\x1b', '\x07', '\u{9b}', '\u{7f}']);
    for line in [
        "ls disk",
        "ls -lR disk",
        "ls --json disk",
        "stat disk /link",
        "stat --json disk /link",
        "diff disk then",
        "diff --json disk then",
        "dump disk",
        "dump --json disk",
    ] {
        let shown = on_a_terminal(&scratch, line, "").ok();
        assert!(!obeyed(&shown), "{line}: {}", shown.escape_debug());
    }
    // Into a pipe names go as they are; what is said of them does not, wherever it goes.
    assert!(scratch.siltstone(["ls", "disk"]).ok().contains(name));
    let missing = format!("/none/{name}");
    for line in [
        &["ls", "disk", &missing][..],
        &["cat", "disk", &missing],
        &["stat", "disk", &missing],
        &["rm", "disk", &missing],
        &["cp", &format!("disk:{missing}"), "out"],
        &["cp", &missing, "disk:/"],
        &["ls", name],
    ] {
        let said = scratch.siltstone(line).fails(1);
        assert!(!obeyed(&said), "{line:?}: {}", said.escape_debug());
        assert_eq!(said.lines().count(), 1, "{line:?}");
    }
}

/// Who copies a program of somebody else gets one that runs as nobody in particular.
#[test]
fn a_program_that_runs_as_its_owner_does_not_run_as_who_copies_it() {
    let scratch = scratch();
    for (name, mode) in [("user", 0o4755), ("group", 0o2755), ("both", 0o6755)] {
        fs::write(scratch.path(name), "program").expect("written");
        fs::set_permissions(scratch.path(name), fs::Permissions::from_mode(mode)).expect("set");
        scratch.siltstone(["cp", name, "disk:/"]).ok();
    }
    let out = scratch.path("out");
    fs::create_dir(&out).expect("made");
    for path in [&scratch.path("."), &out] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).expect("set");
    }
    let exe = scratch.path("siltstone");
    fs::copy(env!("CARGO_BIN_EXE_siltstone"), &exe).expect("copied");
    let mut command = Command::new(exe);
    command
        .args(["cp", "-r", "disk:/", "out"])
        .uid(NOBODY)
        .gid(NOBODY);
    command.current_dir(scratch.path("."));
    run(command).ok();
    for name in ["user", "group", "both"] {
        let copied = fs::metadata(out.join(name)).expect("copied");
        assert_eq!(
            (copied.uid(), copied.mode() & 0o7777),
            (NOBODY, 0o755),
            "{name}"
        );
    }
    // Root keeps owner and mode.
    scratch.siltstone(["cp", "disk:/both", "kept"]).ok();
    let kept = fs::metadata(scratch.path("kept")).expect("copied");
    assert_eq!((kept.uid(), kept.mode() & 0o7777), (0, 0o6755));
}

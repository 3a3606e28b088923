//! Commands on an image that is not mounted.

use std::fs;
use std::path::Path;

use crate::harness::Scratch;

/// The image's bytes, to show that reading does not change them.
fn bytes(scratch: &Scratch) -> Vec<u8> {
    fs::read(scratch.path("disk")).expect("read")
}

#[test]
fn wrong_usage_is_2() {
    let scratch = Scratch::with_image("64M");
    for line in [
        &["frobnicate"][..],
        &["ls"],
        &["ls", "--colour", "disk"],
        &["mkfs", "disk", "--size", "much"],
        &["cp", "one"],
        &["cp", "one", "two"],
        &["mkdir", "disk@then", "/a"],
        &["rm", "disk@then", "/a"],
        &["cp", "one", "disk@then:/"],
        &["mv", "disk", "/a"],
        &["cat", "disk"],
    ] {
        let message = scratch.siltstone(line).fails(2);
        assert!(!message.is_empty(), "{line:?}");
    }
}

#[test]
fn help_and_pages() {
    let scratch = Scratch::new();
    let help = scratch.siltstone(["--help"]).ok();
    for command in [
        "mkfs", "fsck", "scrub", "dump", "info", "ls", "cat", "stat", "cp", "mkdir", "rm", "mv",
        "snapshot", "key", "mount",
    ] {
        assert!(help.contains(command), "{command}");
        let page = scratch.siltstone([command, "--help"]).ok();
        for part in ["Usage:", "EXAMPLES", "EXIT STATUS"] {
            assert!(page.contains(part), "{command}: {part}");
        }
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            scratch
                .siltstone(["completions", shell])
                .ok()
                .contains("siltstone")
        );
    }
    assert!(scratch.siltstone(["man"]).ok().starts_with(".ie"));
    scratch.siltstone(["man", "pages"]).ok();
    assert!(scratch.path("pages/siltstone-mount.1").exists());
}

#[test]
fn mkfs_overwrites_only_what_it_may() {
    let scratch = Scratch::new();
    scratch.siltstone(["mkfs", "disk", "--size", "32M"]).ok();
    assert_eq!(bytes(&scratch).len(), 32 << 20);
    let message = scratch.siltstone(["mkfs", "disk"]).fails(1);
    assert!(message.contains("--force"), "{message}");
    scratch.siltstone(["mkdir", "disk", "/a"]).ok();
    scratch
        .siltstone(["mkfs", "--force", "disk", "--size", "16M"])
        .ok();
    assert_eq!(bytes(&scratch).len(), 16 << 20);
    assert_eq!(scratch.siltstone(["ls", "disk"]).ok(), "");

    fs::write(scratch.path("disk"), vec![b'x'; 16 << 20]).expect("written");
    let message = scratch.siltstone(["mkfs", "disk"]).fails(1);
    assert!(message.contains("not Siltstone's"), "{message}");
    assert!(
        bytes(&scratch).iter().all(|byte| *byte == b'x'),
        "left alone"
    );

    fs::write(scratch.path("disk"), "").expect("written");
    scratch.siltstone(["mkfs", "disk", "--size", "16M"]).ok();
    scratch.siltstone(["mkfs", "tiny", "--size", "1M"]).fails(1);
    assert!(!scratch.path("tiny").exists());
    scratch
        .siltstone(["mkfs", "no/such/directory", "--size", "16M"])
        .fails(1);
}

#[test]
fn what_is_no_image_is_said() {
    let scratch = Scratch::new();
    fs::write(scratch.path("text"), "hello").expect("written");
    fs::write(scratch.path("blank"), vec![0; 16 << 20]).expect("written");
    for (image, says) in [
        ("absent", "No such file"),
        ("text", "no Siltstone file system"),
        ("blank", "no Siltstone file system"),
        (".", "neither"),
        ("/dev/null", "neither"),
    ] {
        for command in ["info", "ls"] {
            let message = scratch.siltstone([command, image]).fails(1);
            assert!(message.contains(says), "{command} {image}: {message}");
        }
    }
}

#[test]
fn names() {
    let scratch = Scratch::with_image("64M");
    let run = |line: &[&str]| scratch.siltstone(line);
    run(&["mkdir", "disk", "/a"]).ok();
    assert!(run(&["mkdir", "disk", "/a"]).fails(1).contains("exists"));
    assert!(run(&["mkdir", "disk", "/x/y"]).fails(1).contains("no such"));
    run(&["mkdir", "-p", "-m", "1700", "disk", "/a/b/c", "/d//e/"]).ok();
    run(&["mkdir", "-p", "disk", "/a/b"]).ok();
    // All or none.
    run(&["mkdir", "disk", "/one", "/a"]).fails(1);
    assert_eq!(run(&["ls", "disk"]).ok(), "a\nd\n");
    assert_eq!(
        run(&["ls", "-R", "disk"]).ok(),
        "/a\n/d\n/a/b\n/a/b/c\n/d/e\n"
    );
    let long = run(&["ls", "-l", "disk", "/a/b"]).ok();
    assert!(long.starts_with("drwx-----T "), "{long}");
    assert!(
        run(&["ls", "disk", "/nowhere"])
            .fails(1)
            .contains("no such")
    );

    run(&["mv", "disk", "/a/b", "/d"]).ok();
    run(&["mv", "disk", "/d/b", "/d/f"]).ok();
    assert_eq!(
        run(&["ls", "-R", "disk"]).ok(),
        "/a\n/d\n/d/e\n/d/f\n/d/f/c\n"
    );
    assert!(
        run(&["mv", "disk", "/d", "/d/f"])
            .fails(1)
            .contains("invalid")
    );
    run(&["mv", "-n", "-T", "disk", "/a", "/d/e"]).fails(1);
    run(&["mv", "-T", "disk", "/a", "/d/e"]).ok();

    run(&["rm", "disk", "/d"]).fails(1);
    run(&["rm", "disk", "/nowhere"]).fails(1);
    run(&["rm", "-f", "disk", "/nowhere"]).ok();
    run(&["rm", "-r", "disk", "/"]).fails(1);
    run(&["rm", "-r", "disk", "/d"]).ok();
    assert_eq!(run(&["ls", "-R", "disk"]).ok(), "");
}

#[test]
fn content_and_attributes() {
    let scratch = Scratch::with_image("64M");
    fs::write(scratch.path("hello"), "hello\n").expect("written");
    std::os::unix::fs::symlink("hello", scratch.path("link")).expect("linked");
    scratch.siltstone(["cp", "hello", "link", "disk:/"]).ok();
    assert_eq!(
        scratch.siltstone(["cat", "disk", "/hello", "/link"]).ok(),
        "hello\nhello\n"
    );
    let output = scratch.siltstone(["cat", "disk", "/hello", "/nowhere", "/hello"]);
    assert_eq!(output.stdout, "hello\nhello\n");
    output.fails(1);
    scratch.siltstone(["cat", "disk", "/"]).fails(1);

    let before = bytes(&scratch);
    let object = |line: &[&str]| -> serde_json::Value {
        serde_json::from_str(&scratch.siltstone(line).ok()).expect("JSON")
    };
    let told = object(&["stat", "--json", "disk", "/link"]);
    assert_eq!(
        (&told["kind"], &told["target"]),
        (&"symlink".into(), &"hello".into())
    );
    let told = object(&["stat", "-L", "--json", "disk", "/link"]);
    assert_eq!(
        (&told["kind"], &told["size_bytes"]),
        (&"file".into(), &6.into())
    );
    let told = object(&["info", "--json", "disk"]);
    assert_eq!(told["size_bytes"], 64 << 20);
    let listed = scratch.siltstone(["ls", "--json", "disk"]).ok();
    let paths: Vec<_> = listed
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["path"].clone())
        .collect();
    assert_eq!(paths, ["/hello", "/link"]);
    assert!(
        scratch
            .siltstone(["stat", "disk", "/hello"])
            .ok()
            .contains("0644")
    );
    scratch.siltstone(["info", "disk"]).ok();
    assert!(before == bytes(&scratch), "reading changed the image");
}

#[test]
fn checks() {
    let scratch = Scratch::with_image("64M");
    let run = |line: &[&str]| scratch.siltstone(line);
    run(&["mkdir", "-p", "disk", "/a/b"]).ok();
    fs::write(scratch.path("file"), vec![b'x'; 300_000]).expect("written");
    run(&["cp", "file", "disk:/a/b"]).ok();
    let before = bytes(&scratch);
    let said = run(&["fsck", "disk"]).ok();
    assert!(said.contains("clean: 1 files, 3 directories"), "{said}");
    run(&["fsck", "--data", "disk"]).ok();
    let told = run(&["fsck", "--json", "disk"]).ok();
    let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(
        (&told["state"], &told["files"]),
        (&"clean".into(), &1.into())
    );
    assert!(before == bytes(&scratch), "a check changed the image");

    // The first copy of the superblock; the second serves instead.
    let mut damaged = before.clone();
    damaged[16..32].fill(0xff);
    fs::write(scratch.path("disk"), &damaged).expect("written");
    let output = run(&["fsck", "disk"]);
    assert!(output.stdout.contains("superblock"), "{}", output.stdout);
    output.fails(4);
    assert!(damaged == bytes(&scratch), "a check changed the image");
    let output = run(&["fsck", "--repair", "disk"]);
    assert!(output.stdout.contains("repaired: "), "{}", output.stdout);
    output.fails(1);
    run(&["fsck", "disk"]).ok();

    run(&["fsck"]).fails(16);
    run(&["fsck", "--colour", "disk"]).fails(16);
    run(&["fsck", "disk@then"]).fails(16);
    run(&["fsck", "--help"]).ok();
    run(&["fsck", "absent"]).fails(8);
    assert!(run(&["fsck", "file"]).fails(8).contains("no Siltstone"));
}

#[test]
fn scrub_and_dump() {
    let scratch = Scratch::with_image("64M");
    let run = |line: &[&str]| scratch.siltstone(line);
    let mut content = vec![0; 2_000_000];
    fastrand::Rng::with_seed(1).fill(&mut content);
    fs::write(scratch.path("file"), &content).expect("written");
    run(&["cp", "file", "disk:/"]).ok();
    let before = bytes(&scratch);
    let said = run(&["scrub", "--read-only", "disk"]).ok();
    assert!(said.contains("0 repaired, 0 cannot be repaired"), "{said}");
    let dumped = run(&["dump", "disk"]).ok();
    for part in ["superblock: block 0", "checkpoint", "commit"] {
        assert!(dumped.contains(part), "{part}");
    }
    let kinds: std::collections::BTreeSet<_> = run(&["dump", "--json", "disk"])
        .ok()
        .lines()
        .map(|line| {
            let object: serde_json::Value = serde_json::from_str(line).expect("JSON");
            object["kind"].as_str().expect("a kind").to_owned()
        })
        .collect();
    for kind in [
        "superblock",
        "checkpoint",
        "segment",
        "group",
        "commit",
        "record",
    ] {
        assert!(kinds.contains(kind), "{kind}");
    }
    assert!(before == bytes(&scratch), "reading changed the image");
    run(&["scrub", "disk"]).ok();

    // A byte of the file's data, which is stored as it is: it does not compress.
    let mut damaged = bytes(&scratch);
    let needle = &content[1_000_000..1_000_064];
    let at = damaged.windows(64).position(|window| window == needle);
    damaged[at.expect("stored as it is")] ^= 1;
    fs::write(scratch.path("disk"), &damaged).expect("written");
    let output = run(&["scrub", "--json", "disk"]);
    assert!(
        output.stdout.contains("\"path\":\"/file\""),
        "{}",
        output.stdout
    );
    output.fails(1);
    let output = run(&["fsck", "--data", "disk"]);
    assert!(output.stdout.contains("of /file"), "{}", output.stdout);
    output.fails(4);
    run(&["cat", "disk", "/file"]).fails(1);
    assert_eq!(run(&["ls", "disk"]).ok(), "file\n", "the rest stays usable");

    run(&["dump", "file"]).fails(1);
    run(&["scrub", "file"]).fails(1);
    run(&["dump", "disk@then"]).fails(2);
}

/// Fields of the JSON that are in the text, and numbers of the text that are in the JSON.
#[test]
fn a_dump_says_the_same_as_text_and_as_json() {
    let scratch = Scratch::with_image("16M");
    let mount = scratch.mount();
    fs::create_dir(mount.path("directory")).expect("made");
    for number in 0..40_usize {
        let file = mount.path(&format!("directory/file-{number}"));
        fs::write(&file, vec![b'x'; 300 * number]).expect("written");
        let value = vec![7; 100 * number];
        let none = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(&file, "user.value", &value, none).expect("set");
    }
    for (name, mode, device) in [("fifo", 0o010_640, 0), ("null", 0o020_666, 0x103)] {
        let path = mount.path(name);
        let kind = rustix::fs::FileType::from_raw_mode(mode);
        let mode = rustix::fs::Mode::from_raw_mode(mode);
        rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, device).expect("made");
    }
    std::os::unix::fs::symlink("x\x1b", mount.path("\u{fc}\x1b\"")).expect("linked");
    mount.unmount();
    scratch
        .siltstone(["snapshot", "create", "disk", "then"])
        .ok();
    scratch.siltstone(["compression", "disk", "cold"]).ok();
    let mount = scratch.mount();
    fs::remove_dir_all(mount.path("directory")).expect("removed");
    fs::write(mount.path("large"), vec![1; 1 << 20]).expect("written");
    let file = fs::File::create(mount.path("large")).expect("truncated");
    file.sync_all().expect("synced");
    drop(file);
    // With a log to replay.
    mount.kill();

    let text = scratch.siltstone(["dump", "disk"]).ok();
    let json = scratch.siltstone(["dump", "--json", "disk"]).ok();
    assert_eq!(text.lines().count(), json.lines().count());
    let mut seen = std::collections::BTreeSet::new();
    for (text, json) in text.lines().zip(json.lines()) {
        let object: serde_json::Value = serde_json::from_str(json).expect("JSON");
        let object = object.as_object().expect("an object");
        let mut leaves = Vec::new();
        for (key, value) in object {
            let words = key.replace('_', " ");
            let leaf = |value: &serde_json::Value| match value {
                serde_json::Value::String(text) => text.escape_default().to_string(),
                value => value.to_string(),
            };
            match value {
                // The exact bytes of a name that is text, too.
                serde_json::Value::Bool(yes) => {
                    assert_eq!(text.contains(&words), *yes, "{key}: {text}");
                }
                serde_json::Value::Array(values) => leaves.extend(values.iter().map(leaf)),
                value => leaves.push(leaf(value)),
            }
        }
        let (names, rest): (Vec<_>, Vec<_>) = object.keys().partition(|key| *key == "name");
        assert!(names.len() <= 1 && !rest.is_empty());
        for leaf in &leaves {
            let known = object
                .get("name")
                .is_some_and(|name| name.as_str().is_some_and(|name| !name.is_ascii()));
            assert!(
                known || text.contains(leaf.as_str()),
                "{leaf} is not in {text}"
            );
        }
        for number in text.split(|character: char| !character.is_ascii_alphanumeric()) {
            let is_number = number.bytes().all(|byte| byte.is_ascii_digit()) && !number.is_empty();
            let told = leaves.iter().any(|leaf| leaf.contains(number));
            assert!(!is_number || told, "{number} of {text} is not in {json}");
        }
        let kind = object
            .get("item")
            .or(object.get("record"))
            .or(object.get("kind"));
        seen.insert(
            kind.and_then(serde_json::Value::as_str)
                .expect("a kind")
                .to_owned(),
        );
    }
    for kind in [
        "superblock",
        "checkpoint",
        "segment",
        "group",
        "commit",
        "note",
        "inode",
        "inline",
        "entry",
        "attribute",
        "orphan",
        "snapshot",
        "property",
        "extent",
        "free",
    ] {
        assert!(seen.contains(kind), "no {kind}");
    }
}

#[test]
fn snapshots() {
    let scratch = Scratch::with_image("64M");
    let run = |line: &[&str]| scratch.siltstone(line);
    fs::write(scratch.path("file"), "before").expect("written");
    run(&["cp", "file", "disk:/"]).ok();
    run(&["snapshot", "create", "disk", "monday"]).ok();
    fs::write(scratch.path("file"), "after").expect("written");
    run(&["cp", "file", "disk:/"]).ok();
    run(&["mkdir", "disk", "/new"]).ok();

    assert_eq!(run(&["cat", "disk", "/file"]).ok(), "after");
    assert_eq!(run(&["cat", "disk@monday", "/file"]).ok(), "before");
    assert_eq!(run(&["ls", "disk@monday"]).ok(), "file\n");
    run(&["cp", "disk@monday:/file", "then"]).ok();
    assert_eq!(
        fs::read_to_string(scratch.path("then")).expect("read"),
        "before"
    );
    run(&["cp", "disk@monday:/file", "disk:/old"]).ok();
    assert_eq!(run(&["cat", "disk", "/old"]).ok(), "before");
    let listed = run(&["snapshot", "list", "--json", "disk"]).ok();
    let told: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!(told["name"], "monday");
    assert!(
        run(&["snapshot", "list", "disk"])
            .ok()
            .ends_with("monday\n")
    );
    run(&["fsck", "--data", "disk"]).ok();

    for (line, says) in [
        (
            &["snapshot", "create", "disk", "monday"][..],
            "there is a snapshot",
        ),
        (&["snapshot", "create", "disk", "a/b"], "a name has"),
        (&["snapshot", "rm", "disk", "friday"], "no snapshot"),
        (&["ls", "disk@friday"], "no snapshot"),
    ] {
        let message = run(line).fails(1);
        assert!(message.contains(says), "{line:?}: {message}");
    }
    run(&["snapshot", "rm", "disk", "monday"]).ok();
    run(&["cat", "disk@monday", "/file"]).fails(1);
    assert_eq!(run(&["snapshot", "list", "disk"]).ok(), "");
    run(&["fsck", "--data", "disk"]).ok();
}

#[test]
fn output_into_a_pipe_that_closes() {
    let scratch = Scratch::with_image("64M");
    fs::write(scratch.path("large"), vec![b'x'; 4 << 20]).expect("written");
    scratch.siltstone(["cp", "large", "disk:/"]).ok();
    let tool = Path::new(env!("CARGO_BIN_EXE_siltstone")).display();
    let line = format!("{tool} cat disk /large | head -c 1; echo \" ${{PIPESTATUS[0]}}\"");
    let output = scratch.run("bash", ["-c", &line]);
    assert_eq!(output.stderr, "");
    assert_eq!(output.ok(), "x 141\n");
}

#[test]
fn the_replay_window_is_what_mkfs_was_told() {
    let scratch = Scratch::new();
    let object = |line: &[&str]| -> serde_json::Value {
        let said = scratch.siltstone(line).ok();
        let first = said.lines().next().expect("a line");
        serde_json::from_str(first).expect("JSON")
    };
    // Without it an eighth of the disk; of what is not whole segments, all that it touches.
    for (window, bytes) in [
        (None, 8 << 20),
        (Some("2M"), 2 << 20),
        (Some("3080000"), 3 << 20),
    ] {
        let size = ["mkfs", "--force", "disk", "--size", "64M"];
        let window = window.map(|window| ["--replay-window", window]);
        let line = size.into_iter().chain(window.into_iter().flatten());
        scratch.siltstone(line).ok();
        let info = object(&["info", "--json", "disk"]);
        assert_eq!(info["log_bytes_max"], bytes);
        let text = scratch.siltstone(["info", "disk"]).ok();
        let told = format!("log:              up to {} MiB\n", bytes >> 20);
        assert!(text.contains(&told), "{told}: {text}");
        let superblock = object(&["dump", "--json", "disk"]);
        assert_eq!(superblock["kind"], "superblock");
        let number = |name: &str| superblock[name].as_u64().expect("a number");
        let segment_bytes = number("segment_blocks") * 4096;
        assert_eq!(number("log_segments") * segment_bytes, bytes);

        let mount = scratch.mount();
        fs::write(mount.path("file"), "content").expect("written");
        mount.unmount();
        assert_eq!(scratch.siltstone(["cat", "disk", "/file"]).ok(), "content");
        scratch.siltstone(["fsck", "--data", "disk"]).ok();
    }
    // Fewer than 16 segments, and more than a third of the disk.
    for window in ["64K", "32M"] {
        let line = ["mkfs", "new", "--size", "64M", "--replay-window", window];
        let message = scratch.siltstone(line).fails(1);
        assert!(message.contains("replay window"), "{message}");
        assert!(!scratch.path("new").exists());
    }
}

#[test]
fn how_an_image_is_compressed_is_set_and_kept() {
    let scratch = Scratch::new();
    scratch.siltstone(["mkfs", "plain", "--size", "16M"]).ok();
    assert_eq!(scratch.siltstone(["compression", "plain"]).ok(), "lz4\n");
    let line = ["mkfs", "disk", "--size", "16M", "--compress", "off"];
    scratch.siltstone(line).ok();
    fs::write(scratch.path("text"), "the same again ".repeat(100_000)).expect("written");
    let mut used = [0; 2];
    for (setting, used) in ["off", "cold"].into_iter().zip(&mut used) {
        scratch.siltstone(["compression", "disk", setting]).ok();
        let text = scratch.siltstone(["info", "disk"]).ok();
        assert!(text.contains(setting), "{text}");
        scratch
            .siltstone(["cp", "text", &format!("disk:/{setting}")])
            .ok();
        let text = scratch.siltstone(["info", "--json", "disk"]).ok();
        let info: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(info["compression"], setting);
        *used = info["used_bytes"].as_u64().expect("a number");
    }
    let [off, both] = used;
    assert!(both - off < off / 2, "{off}, {both}");
    scratch.siltstone(["compression", "disk", "zip"]).fails(2);
    scratch.siltstone(["fsck", "--data", "disk"]).ok();
    let line = ["mkfs", "other", "--compress", "fast"];
    scratch.siltstone(line).fails(2);
    assert!(!scratch.path("other").exists());
}

//! Encrypted images.

use std::fs;

use crate::harness::{Scratch, on_a_terminal};

/// With two key files and an encrypted image.
fn scratch() -> Scratch {
    let scratch = Scratch::new();
    fs::write(scratch.path("key"), [1; 32]).expect("written");
    fs::write(scratch.path("other"), [2; 32]).expect("written");
    let mkfs = [
        "mkfs",
        "disk",
        "--size",
        "64M",
        "--encrypt",
        "--key-file",
        "key",
    ];
    scratch.siltstone(mkfs).ok();
    scratch
}

/// All commands that open an image, and the status each ends with when it cannot.
const COMMANDS: [(&[&str], i32); 26] = [
    (&["info", "disk"], 1),
    (&["ls", "-R", "disk"], 1),
    (&["cat", "disk", "/file"], 1),
    (&["stat", "disk", "/file"], 1),
    (&["cp", "disk:/file", "out"], 1),
    (&["cp", "key", "disk:/new"], 1),
    (&["mkdir", "disk", "/directory"], 1),
    (&["rm", "disk", "/file"], 1),
    (&["mv", "disk", "/file", "/moved"], 1),
    (&["fsck", "disk"], 8),
    (&["fsck", "--repair", "disk"], 8),
    (&["dump", "disk"], 1),
    (&["scrub", "disk"], 1),
    (&["snapshot", "create", "disk", "name"], 1),
    (&["snapshot", "list", "disk"], 1),
    (&["snapshot", "rm", "disk", "before"], 1),
    (&["ls", "disk@before"], 1),
    (&["diff", "disk", "before"], 1),
    (&["backup", "disk", "-o", "out"], 1),
    (&["backup", "disk", "--since", "before", "-o", "out"], 1),
    (&["backup", "disk", "--at", "1", "-o", "out"], 1),
    (&["restore", "full", "disk"], 1),
    (&["compression", "disk"], 1),
    (&["compression", "disk", "cold"], 1),
    (&["grow", "disk", "--size", "128M"], 1),
    (&["mount", "disk", "directory"], 1),
];

#[test]
fn without_the_right_key_nothing_opens_and_nothing_changes() {
    let scratch = scratch();
    fs::create_dir(scratch.path("directory")).expect("made");
    let secret = "a-word-that-is-secret";
    fs::write(scratch.path(secret), secret.repeat(1000)).expect("written");
    let target = format!("disk:/{secret}");
    scratch
        .siltstone(["cp", secret, &target, "--key-file", "key"])
        .ok();
    let line = ["snapshot", "create", "disk", "before", "--key-file", "key"];
    scratch.siltstone(line).ok();
    let plain = Scratch::with_image("16M");
    plain.siltstone(["backup", "disk", "-o", "full"]).ok();
    fs::copy(plain.path("full"), scratch.path("full")).expect("copied");
    let image = fs::read(scratch.path("disk")).expect("read");
    let readable = image
        .windows(secret.len())
        .any(|bytes| bytes == secret.as_bytes());
    assert!(!readable);
    for (line, status) in COMMANDS {
        for (key, reason) in [
            (&[][..], "no key was given"),
            (&["--key-file", "other"], "key is wrong"),
        ] {
            let message = scratch.siltstone(line.iter().chain(key)).fails(status);
            assert!(message.contains(reason), "{line:?}: {message}");
        }
    }
    for left in ["out", "out.partial"] {
        assert!(!scratch.path(left).exists(), "{left}");
    }
    let message = scratch
        .siltstone(["ls", "disk", "--key-file", "none"])
        .fails(1);
    assert!(message.contains("key file none"), "{message}");
    assert!(
        fs::read(scratch.path("disk")).expect("read") == image,
        "not a byte may change"
    );
    let listed = scratch.siltstone(["ls", "disk", "--key-file", "key"]).ok();
    assert_eq!(listed, format!("{secret}\n"));
    let text = scratch
        .siltstone(["info", "disk", "--key-file", "key"])
        .ok();
    assert!(text.contains("XChaCha20-Poly1305"), "{text}");
    scratch
        .siltstone(["fsck", "--data", "disk", "--key-file", "key"])
        .ok();
}

#[test]
fn a_key_is_refused_where_there_is_none() {
    let scratch = scratch();
    scratch.siltstone(["mkfs", "plain", "--size", "64M"]).ok();
    let message = scratch
        .siltstone(["ls", "plain", "--key-file", "key"])
        .fails(1);
    assert!(message.contains("not encrypted"), "{message}");
    for line in [
        &["mkfs", "new", "--encrypt"][..],
        &["mkfs", "new", "--key-file", "key"],
        &["mkfs", "new", "--cipher", "aes-256-gcm-siv"],
    ] {
        scratch.siltstone(line).fails(2);
    }
    fs::write(scratch.path("short"), [1; 31]).expect("written");
    let line = ["mkfs", "new", "--encrypt", "--key-file", "short"];
    let message = scratch.siltstone(line).fails(1);
    assert!(message.contains("key"), "{message}");
    assert!(!scratch.path("new").exists());
}

#[test]
fn keys_come_and_go() {
    let scratch = scratch();
    let image = || fs::read(scratch.path("disk")).expect("read");
    let before = image();
    scratch
        .siltstone(["key", "rotate", "disk", "other", "--key-file", "key"])
        .ok();
    let after = image();
    let changed = before.iter().zip(&after).enumerate();
    let blocks = changed
        .filter(|(_, (a, b))| a != b)
        .map(|(at, _)| at / 4096);
    assert!(blocks.into_iter().all(|block| block == 1 || block == 14));
    scratch
        .siltstone(["ls", "disk", "--key-file", "key"])
        .fails(1);
    scratch
        .siltstone(["ls", "disk", "--key-file", "other"])
        .ok();
    let slot = scratch
        .siltstone(["key", "add", "disk", "key", "--key-file", "other"])
        .ok();
    assert_eq!(slot, "slot 1\n");
    assert_eq!(
        scratch.siltstone(["key", "list", "disk"]).ok(),
        "0\tkey file\n1\tkey file\n"
    );
    scratch
        .siltstone(["key", "rm", "disk", "0", "--key-file", "key"])
        .ok();
    scratch
        .siltstone(["ls", "disk", "--key-file", "other"])
        .fails(1);
    let message = scratch
        .siltstone(["key", "rm", "disk", "1", "--key-file", "key"])
        .fails(1);
    assert!(message.contains("last key"), "{message}");
    scratch.siltstone(["key", "rm", "disk", "1"]).fails(2);
}

/// Of `key add`, `key rotate` and `key rm`: only who has a key changes them. `key list` needs none.
#[test]
fn keys_are_changed_only_by_who_has_one() {
    let scratch = scratch();
    fs::write(scratch.path("new"), [3; 32]).expect("written");
    let run = |line: &[&str], key: &[&str]| scratch.siltstone(line.iter().chain(key));
    let right = &["--key-file", "key"][..];
    run(&["key", "add", "disk", "other"], right).ok();
    run(&["key", "rm", "disk", "1"], right).ok();
    run(&["key", "add", "disk", "new"], right).ok();
    let image = || fs::read(scratch.path("disk")).expect("read");
    let before = image();
    for line in [
        &["key", "add", "disk", "new"][..],
        &["key", "rotate", "disk", "new"],
        &["key", "rm", "disk", "1"],
        &["key", "rm", "disk", "0"],
    ] {
        for (key, status, reason) in [
            (&[][..], 2, "names the key that opens it"),
            (&["--key-file", "other"], 1, "key is wrong"),
            (&["--key-file", "none"], 1, "key file none"),
            (&["--passphrase-file", "key"], 1, "key is wrong"),
        ] {
            let message = run(line, key).fails(status);
            assert!(message.contains(reason), "{line:?}: {message}");
            assert!(image() == before, "{line:?} {key:?} changed a byte");
        }
    }
    for key in [right, &[], &["--key-file", "other"]] {
        let listed = run(&["key", "list", "--json", "disk"], key).ok();
        let slots = listed.lines().map(|line| {
            let slot: serde_json::Value = serde_json::from_str(line).expect("JSON");
            assert_eq!(slot["kind"], "key file");
            assert_eq!(slot["cipher"], "XChaCha20-Poly1305");
            slot["slot"].as_u64().expect("a number")
        });
        assert_eq!(slots.collect::<Vec<_>>(), [0, 1], "{key:?}");
    }
    assert!(image() == before, "a list changed a byte");
    run(&["key", "rm", "disk", "1"], right).ok();
    assert!(image() != before);
    run(&["ls", "disk"], right).ok();
    run(&["ls", "disk"], &["--key-file", "new"]).fails(1);
}

#[test]
fn a_backup_goes_from_an_encrypted_image_to_one_of_another_key() {
    let scratch = scratch();
    let run = |line: &[&str], key: &str| {
        let key = ["--key-file", key];
        scratch.siltstone(line.iter().chain(&key))
    };
    fs::write(scratch.path("file"), "before").expect("written");
    run(&["cp", "file", "disk:/"], "key").ok();
    let said = run(&["backup", "disk", "-o", "full"], "key").ok();
    let first = said.strip_prefix("snapshot: ").expect("its name").trim();
    fs::write(scratch.path("file"), "after").expect("written");
    run(&["cp", "file", "disk:/"], "key").ok();
    let said = run(&["diff", "disk", first], "key").ok();
    assert!(said.contains(" /file\n"), "{said}");
    run(&["backup", "disk", "--since", first, "-o", "one"], "key").ok();

    let restore = ["restore", "full", "one", "new", "--size", "32M"];
    let message = run(&restore, "none").fails(1);
    assert!(message.contains("key file none"), "{message}");
    assert!(!scratch.path("new").exists());
    run(&restore, "other").ok();
    assert_eq!(run(&["cat", "new", "/file"], "other").ok(), "after");
    run(&["fsck", "--data", "new"], "other").ok();
    for key in [&[][..], &["--key-file", "key"]] {
        let message = scratch.siltstone(["ls", "new"].iter().chain(key)).fails(1);
        assert!(message.contains("key"), "{message}");
    }

    // One that is there, empty and encrypted, only with its key.
    let mkfs = ["mkfs", "empty", "--size", "32M", "--encrypt"];
    run(&mkfs, "other").ok();
    let empty = fs::read(scratch.path("empty")).expect("read");
    let restore = ["restore", "full", "one", "empty"];
    let message = scratch.siltstone(restore).fails(1);
    assert!(message.contains("no key was given"), "{message}");
    let message = run(&restore, "key").fails(1);
    assert!(message.contains("key is wrong"), "{message}");
    let message = run(&restore, "none").fails(1);
    assert!(message.contains("key file none"), "{message}");
    assert!(fs::read(scratch.path("empty")).expect("read") == empty);
    run(&restore, "other").ok();
    assert_eq!(run(&["cat", "empty", "/file"], "other").ok(), "after");

    run(&["compression", "disk", "cold"], "key").ok();
    assert_eq!(run(&["compression", "disk"], "key").ok(), "cold\n");
    run(&["snapshot", "rm", "disk", first], "key").ok();
    run(&["diff", "disk", first], "key").fails(1);
}

#[test]
fn a_mount_takes_the_key() {
    let scratch = scratch();
    let mount = scratch.mount_with(&["--key-file", "key"]);
    fs::write(mount.path("file"), "through the mount").expect("written");
    mount.unmount();
    let text = scratch
        .siltstone(["cat", "disk", "/file", "--key-file", "key"])
        .ok();
    assert_eq!(text, "through the mount");
}

#[test]
fn a_passphrase_opens_an_image_as_a_key_file_does() {
    let scratch = Scratch::new();
    fs::write(scratch.path("phrase"), "correct horse\n").expect("written");
    fs::write(scratch.path("other"), "battery staple\n").expect("written");
    fs::write(scratch.path("empty"), "\n").expect("written");
    fs::write(scratch.path("key"), [1; 32]).expect("written");
    let with = |line: &[&str], phrase: &str| {
        let more = ["--passphrase-file", phrase];
        scratch.siltstone(line.iter().chain(&more))
    };
    with(&["mkfs", "disk", "--size", "64M", "--encrypt"], "phrase").ok();
    with(&["mkdir", "disk", "/directory"], "phrase").ok();
    let image = fs::read(scratch.path("disk")).expect("read");
    for (phrase, reason) in [("other", "key is wrong"), ("empty", "is empty")] {
        let message = with(&["ls", "disk"], phrase).fails(1);
        assert!(message.contains(reason), "{message}");
    }
    // The same bytes as a key file are another key.
    let message = scratch
        .siltstone(["ls", "disk", "--key-file", "key"])
        .fails(1);
    assert!(message.contains("key is wrong"), "{message}");
    assert!(fs::read(scratch.path("disk")).expect("read") == image);
    // Without its line's end, and typed in.
    fs::write(scratch.path("phrase"), "correct horse").expect("written");
    assert_eq!(with(&["ls", "disk"], "phrase").ok(), "directory\n");
    let shown = on_a_terminal(&scratch, "ls disk --passphrase", "correct horse\\n").ok();
    assert!(shown.contains("directory"), "{shown}");
    let shown = on_a_terminal(&scratch, "ls disk --passphrase", "wrong horse\\n");
    assert_eq!(shown.status.code(), Some(1), "{}", shown.stdout);

    with(&["key", "add", "disk", "key"], "phrase").ok();
    scratch.siltstone(["ls", "disk", "--key-file", "key"]).ok();
    let rotate = ["key", "rotate", "disk", "--new-passphrase-file", "other"];
    with(&rotate, "phrase").ok();
    with(&["ls", "disk"], "phrase").fails(1);
    with(&["ls", "disk"], "other").ok();
    let listed = scratch.siltstone(["key", "list", "disk"]).ok();
    assert_eq!(listed, "0\tpassphrase\n1\tkey file\n");
    let twice = "battery\\nstaple\\n";
    let line = "key add disk --new-passphrase --key-file key";
    let shown = on_a_terminal(&scratch, line, twice);
    assert!(shown.stdout.contains("not the same"), "{}", shown.stdout);
    with(&["key", "add", "disk"], "other").fails(2);
    with(&["ls", "disk", "--key-file", "key"], "other").fails(2);
}

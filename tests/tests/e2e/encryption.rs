//! A disk with a key: what opens it, what does not, that nothing in it can be read without, and that the host tool and the
//! machine work on each other's.

use std::fs;
use std::process::Command;
use std::time::Duration;

use redis::cmd;
use tests::machine::{READY, Setup, Target, host_tool};
use tests::process::Process;

const LIMIT: Duration = Duration::from_mins(1);

on!([riscv64 aarch64 hosted] {
    a_key_file_makes_and_opens_an_encrypted_disk,
    the_host_tool_and_the_machine_share_encrypted_disks,
});

/// Words that must not be found in the disk.
const SECRETS: [&str; 4] = ["mellon", "friend-enters", "greeting-file", "hello-content"];

fn a_key_file_makes_and_opens_an_encrypted_disk(target: Target) {
    let plain = Setup::new(target).with("DISK_SIZE", "64M");
    let keys = [b'a', b'b'].map(|letter| {
        let path = plain
            .directory()
            .join(format!("key-{}", char::from(letter)));
        fs::write(&path, [letter; 32]).unwrap();
        path.display().to_string()
    });
    let [right, wrong] = keys;
    let with = |key: &str| {
        Setup::new(target)
            .with("DISK_SIZE", "64M")
            .with_disk(plain.disk())
            .with("KEY_FILE", key)
    };

    let mut machine = with(&right).boot();
    let c = &mut machine.connect();
    cmd("SET").arg(SECRETS[0]).arg(SECRETS[1]).exec(c).unwrap();
    let path = format!("/{}", SECRETS[2]);
    cmd("FS.PUT").arg(&path).arg(SECRETS[3]).exec(c).unwrap();
    // Its plug is pulled: what follows has a log to replay.
    machine.power_cut();

    let disk = fs::read(plain.disk()).unwrap();
    for secret in SECRETS {
        let found = disk.windows(secret.len());
        let found = found.filter(|bytes| *bytes == secret.as_bytes()).count();
        assert_eq!(found, 0, "{secret} can be read");
    }
    for (setup, reason) in [
        (&plain, "no key was given"),
        (&with(&wrong), "key is wrong"),
    ] {
        let console = setup.boot_refused();
        assert!(!console.contains(READY), "{console}");
        assert!(console.contains(reason), "{console}");
    }
    let missing = with("/nowhere/key").boot_refused();
    assert!(missing.contains("key file"), "{missing}");
    assert!(
        fs::read(plain.disk()).unwrap() == disk,
        "not a byte may change"
    );

    let machine = with(&right).boot();
    let c = &mut machine.connect();
    let value: String = cmd("GET").arg(SECRETS[0]).query(c).unwrap();
    let content: String = cmd("FS.GET").arg(&path).query(c).unwrap();
    assert_eq!((value.as_str(), content.as_str()), (SECRETS[1], SECRETS[3]));
    machine.shutdown();

    // A disk without a key is not the one that the key is for.
    let other = Setup::new(target).with("DISK_SIZE", "64M");
    other.boot().shutdown();
    let console = with(&right).with_disk(other.disk()).boot_refused();
    assert!(console.contains("not encrypted"), "{console}");
}

fn the_host_tool_and_the_machine_share_encrypted_disks(target: Target) {
    for cipher in ["xchacha20-poly1305", "aes-256-gcm-siv"] {
        let setup = Setup::new(target);
        let directory = setup.directory().to_owned();
        let [key, new_key, file] = ["key", "new-key", "file"].map(|name| directory.join(name));
        fs::write(&key, [7; 40]).unwrap();
        fs::write(&new_key, [8; 32]).unwrap();
        fs::write(&file, "from the host".repeat(10_000)).unwrap();
        let tool = |line: &[&str]| {
            let mut command = Command::new(host_tool());
            command.current_dir(&directory).args(line);
            Process::run(command, LIMIT)
        };
        tool(&[
            "mkfs",
            "disk.img",
            "--size",
            "64M",
            "--encrypt",
            "--key-file",
            "key",
            "--cipher",
            cipher,
        ]);
        tool(&["cp", "file", "disk.img:/file", "--key-file", "key"]);
        tool(&["key", "rotate", "disk.img", "new-key", "--key-file", "key"]);

        let machine = Setup::new(target)
            .with_disk(setup.disk())
            .with("KEY_FILE", &new_key.display().to_string())
            .boot();
        let c = &mut machine.connect();
        let content: String = cmd("FS.GET").arg("/file").query(c).unwrap();
        assert!(content == "from the host".repeat(10_000));
        let text = "from the machine";
        cmd("FS.PUT").arg("/file").arg(text).exec(c).unwrap();
        machine.shutdown();

        tool(&["fsck", "disk.img", "--data", "--key-file", "new-key"]);
        let printed = tool(&["cat", "disk.img", "/file", "--key-file", "new-key"]);
        assert!(printed.contains(text), "{printed}");
    }
}

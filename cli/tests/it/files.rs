//! Operations on files of a mounted image.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, chown, symlink};

use rustix::fs::{RenameFlags, XattrFlags, getxattr, renameat_with, setxattr};
use rustix::io::Errno;
use rustix::process::Signal;

use crate::harness::Scratch;

#[test]
fn a_tree_survives_a_new_mount() {
    let scratch = Scratch::with_image("64M");
    let mount = scratch.mount();
    fs::create_dir_all(mount.path("a/b/c")).expect("made");
    fs::write(mount.path("a/b/c/file"), "content").expect("written");
    fs::hard_link(mount.path("a/b/c/file"), mount.path("a/link")).expect("linked");
    symlink("b/c", mount.path("a/way")).expect("linked");
    fs::set_permissions(mount.path("a/b"), Permissions::from_mode(0o2750)).expect("set");
    mount.unmount();

    let mount = scratch.mount();
    let read = fs::read_to_string(mount.path("a/way/file")).expect("read");
    assert_eq!(read, "content");
    let (one, other) = (mount.path("a/link"), mount.path("a/b/c/file"));
    let (one, other) = (
        fs::metadata(one).expect("there"),
        fs::metadata(other).expect("there"),
    );
    assert_eq!((one.ino(), one.nlink()), (other.ino(), 2));
    let mode = fs::metadata(mount.path("a/b")).expect("there").mode();
    assert_eq!(mode & 0o7777, 0o2750);
    mount.unmount();
}

#[test]
fn rename_replaces_and_exchanges() {
    let scratch = Scratch::with_image("64M");
    let mount = scratch.mount();
    let path = |name| mount.path(name);
    fs::write(path("new"), "new").expect("written");
    fs::write(path("old"), "old").expect("written");
    let mut old = File::open(path("old")).expect("opened");
    fs::rename(path("new"), path("old")).expect("renamed");
    assert_eq!(fs::read_to_string(path("old")).expect("read"), "new");
    assert_eq!(
        fs::metadata(path("new")).expect_err("gone").kind(),
        ErrorKind::NotFound
    );
    let mut text = String::new();
    old.read_to_string(&mut text).expect("still readable");
    assert_eq!(
        (text.as_str(), old.metadata().expect("there").nlink()),
        ("old", 0)
    );

    fs::create_dir(path("directory")).expect("made");
    let root = File::open(mount.root()).expect("opened");
    let rename = |from, to, flags| renameat_with(&root, from, &root, to, flags);
    rename("old", "directory", RenameFlags::EXCHANGE).expect("exchanged");
    assert!(fs::metadata(path("old")).expect("there").is_dir());
    assert_eq!(fs::read_to_string(path("directory")).expect("read"), "new");
    rename("old", "directory", RenameFlags::NOREPLACE).expect_err("taken");
    rename("old", "free", RenameFlags::NOREPLACE).expect("free");
    let into_itself = fs::rename(path("free"), path("free/below")).expect_err("refused");
    assert_eq!(into_itself.kind(), ErrorKind::InvalidInput);
    drop((old, root));
    mount.unmount();
}

#[test]
fn an_open_file_outlives_its_name() {
    let scratch = Scratch::with_image("64M");
    let mount = scratch.mount();
    let path = mount.path("file");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .expect("created");
    file.write_all(&vec![7; 100_000]).expect("written");
    fs::remove_file(&path).expect("removed");
    file.write_all(&vec![8; 100_000])
        .expect("written without a name");
    file.sync_all().expect("durable");
    file.seek(SeekFrom::Start(0)).expect("positioned");
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).expect("read");
    assert_eq!(bytes.len(), 200_000);
    assert!(bytes[..100_000].iter().all(|byte| *byte == 7));
    assert!(bytes[100_000..].iter().all(|byte| *byte == 8));
    // A directory, too.
    fs::create_dir(mount.path("directory")).expect("made");
    let directory = File::open(mount.path("directory")).expect("opened");
    fs::remove_dir(mount.path("directory")).expect("removed");
    assert_eq!(directory.metadata().expect("still there").nlink(), 0);
    drop((file, directory));
    mount.unmount();
    let names = scratch.siltstone(["ls", "-R", "disk"]).ok();
    assert_eq!(names, "");
}

#[test]
fn sparse_files() {
    let scratch = Scratch::with_image("64M");
    let mount = scratch.mount();
    let file = File::create_new(mount.path("sparse")).expect("created");
    // Larger than the disk.
    file.write_all_at(b"far away", 1 << 40).expect("written");
    file.write_all_at(b"near", 1 << 20).expect("written");
    let found = file.metadata().expect("there");
    assert_eq!(found.len(), (1 << 40) + 8);
    assert!(found.blocks() * 512 < 1 << 20, "{} blocks", found.blocks());
    let seek = |from| rustix::fs::seek(&file, from);
    assert_eq!(seek(rustix::fs::SeekFrom::Data(0)), Ok(1 << 20));
    assert_eq!(seek(rustix::fs::SeekFrom::Data(1 << 39)), Ok(1 << 40));
    assert_eq!(seek(rustix::fs::SeekFrom::Hole(0)), Ok(0));
    drop(file);
    let file = File::open(mount.path("sparse")).expect("opened");
    let mut bytes = [1; 16];
    file.read_exact_at(&mut bytes, 1 << 30).expect("read");
    assert_eq!(bytes, [0; 16]);
    drop(file);
    mount.unmount();
}

/// An image with a snapshot, `monday`, after which all that is in it has changed; and the image's bytes.
fn changed_since_monday() -> (Scratch, Vec<u8>) {
    let scratch = Scratch::with_image("64M");
    let mount = scratch.mount();
    fs::create_dir(mount.path("directory")).expect("made");
    fs::write(mount.path("file"), "before").expect("written");
    fs::write(mount.path("directory/removed"), "still here").expect("written");
    setxattr(
        mount.path("file"),
        "user.note",
        b"before",
        XattrFlags::CREATE,
    )
    .expect("set");
    mount.unmount();
    scratch
        .siltstone(["snapshot", "create", "disk", "monday"])
        .ok();
    let mount = scratch.mount();
    fs::write(mount.path("file"), "after that").expect("written");
    fs::set_permissions(mount.path("file"), Permissions::from_mode(0o600)).expect("set");
    setxattr(
        mount.path("file"),
        "user.note",
        b"after",
        XattrFlags::REPLACE,
    )
    .expect("set");
    fs::remove_dir_all(mount.path("directory")).expect("removed");
    fs::write(mount.path("new"), "new").expect("written");
    mount.unmount();
    let image = fs::read(scratch.path("disk")).expect("read");
    (scratch, image)
}

#[test]
fn a_mounted_snapshot_is_as_it_was_and_takes_no_change() {
    let (scratch, image) = changed_since_monday();
    // Also when it is told to be writable.
    for arguments in [&[][..], &["-o", "rw"]] {
        let mount = scratch.mount_snapshot("monday", arguments);
        let file = mount.path("file");
        assert_eq!(fs::read_to_string(&file).expect("read"), "before");
        assert_eq!(fs::metadata(&file).expect("there").mode() & 0o7777, 0o644);
        let mut value = [0; 16];
        let len = getxattr(&file, "user.note", &mut value[..]).expect("there");
        assert_eq!(&value[..len], b"before");
        let removed = mount.path("directory/removed");
        assert_eq!(fs::read_to_string(&removed).expect("read"), "still here");
        let names = fs::read_dir(mount.root()).expect("listed");
        let names = names.map(|entry| entry.expect("an entry").file_name());
        let mut names = names.collect::<Vec<_>>();
        names.sort();
        assert_eq!(names, ["directory", "file"]);

        let made = mount.path("made");
        for (what, done) in [
            ("write", fs::write(&file, "x")),
            (
                "append",
                OpenOptions::new().append(true).open(&file).map(drop),
            ),
            ("create", fs::write(&made, "x")),
            ("mkdir", fs::create_dir(&made)),
            ("unlink", fs::remove_file(&file)),
            ("rename", fs::rename(&file, &made)),
            ("link", fs::hard_link(&file, &made)),
            ("symlink", symlink("file", &made)),
            (
                "chmod",
                fs::set_permissions(&file, Permissions::from_mode(0o600)),
            ),
            ("chown", chown(&file, Some(1), Some(1))),
            (
                "setxattr",
                setxattr(&file, "user.note", b"x", XattrFlags::empty()).map_err(Into::into),
            ),
            ("rmdir", fs::remove_dir_all(mount.path("directory"))),
        ] {
            let code = done.map_err(|error| error.raw_os_error());
            assert_eq!(code, Err(Some(Errno::ROFS.raw_os_error())), "{what}");
        }
        mount.unmount();
    }
    let message = scratch
        .siltstone(["mount", "disk@friday", "mount"])
        .fails(1);
    assert!(message.contains("no snapshot"), "{message}");
    assert!(fs::read(scratch.path("disk")).expect("read") == image);
}

#[test]
fn a_snapshot_is_told_of_as_it_was() {
    let (scratch, image) = changed_since_monday();
    let object = |line: &[&str]| -> serde_json::Value {
        serde_json::from_str(&scratch.siltstone(line).ok()).expect("JSON")
    };
    for (image, size, mode, note) in [
        ("disk@monday", 6, "0644", "6265666f7265"),
        ("disk", 10, "0600", "6166746572"),
    ] {
        let told = object(&["stat", "--json", image, "/file"]);
        assert_eq!(told["size_bytes"], size, "{image}");
        assert_eq!(told["mode"], mode, "{image}");
        assert_eq!(told["attributes_hex"]["user.note"], note, "{image}");
    }
    let text = scratch.siltstone(["stat", "disk@monday", "/file"]).ok();
    assert!(text.contains("size:      6 "), "{text}");
    scratch
        .siltstone(["stat", "disk@monday", "/directory/removed"])
        .ok();
    scratch.siltstone(["stat", "disk@monday", "/new"]).fails(1);
    scratch
        .siltstone(["stat", "disk", "/directory/removed"])
        .fails(1);
    // What is told of a whole image does not depend on which state of it is looked at; that there is such a state does.
    let info = object(&["info", "--json", "disk@monday"]);
    assert_eq!(info, object(&["info", "--json", "disk"]));
    assert_eq!(info["snapshots"], 1);
    for line in [
        &["info", "disk@friday"][..],
        &["stat", "disk@friday", "/file"],
    ] {
        let message = scratch.siltstone(line).fails(1);
        assert!(message.contains("no snapshot"), "{line:?}: {message}");
    }
    assert!(
        fs::read(scratch.path("disk")).expect("read") == image,
        "not a byte may change"
    );
}

#[test]
fn a_directory_of_many() {
    const COUNT: usize = 20_000;
    let scratch = Scratch::with_image("128M");
    let mount = scratch.mount();
    for number in 0..COUNT {
        File::create_new(mount.path(&format!("file-{number}"))).expect("created");
    }
    let list = || {
        let names = fs::read_dir(mount.root()).expect("listed");
        let mut names: Vec<_> = names
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .into_string()
                    .expect("UTF-8")
            })
            .collect();
        names.sort();
        names
    };
    let mut expected: Vec<_> = (0..COUNT).map(|number| format!("file-{number}")).collect();
    expected.sort();
    assert_eq!(list(), expected);
    // Removing while listing loses none.
    for entry in fs::read_dir(mount.root()).expect("listed") {
        fs::remove_file(entry.expect("an entry").path()).expect("removed");
    }
    assert_eq!(list(), Vec::<String>::new());
    mount.unmount();
}

#[test]
fn names_are_bytes() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    let scratch = Scratch::with_image("64M");
    let mount = scratch.mount();
    let longest = "n".repeat(255);
    for name in [
        b"\xff\xfe".as_slice(),
        b" ",
        b"new\nline",
        longest.as_bytes(),
    ] {
        let path = mount.root().join(OsStr::from_bytes(name));
        fs::write(&path, name).expect("written");
        assert_eq!(fs::read(&path).expect("read"), name);
    }
    let too_long = fs::write(mount.path(&"n".repeat(256)), "").expect_err("refused");
    assert_eq!(too_long.kind(), ErrorKind::InvalidFilename);
    assert_eq!(fs::read_dir(mount.root()).expect("listed").count(), 4);
    mount.unmount();
}

#[test]
fn extended_attributes() {
    use rustix::fs::{listxattr, removexattr};
    let scratch = Scratch::with_image("64M");
    let mount = scratch.mount();
    let path = mount.path("file");
    fs::write(&path, "").expect("written");
    let large = vec![5; 60_000];
    setxattr(&path, "user.small", b"value", XattrFlags::CREATE).expect("set");
    setxattr(&path, "user.large", &large, XattrFlags::empty()).expect("set");
    let again = setxattr(&path, "user.small", b"", XattrFlags::CREATE);
    assert_eq!(again, Err(Errno::EXIST));
    let absent = setxattr(&path, "user.other", b"", XattrFlags::REPLACE);
    assert_eq!(absent, Err(Errno::NODATA));
    // Version 2, and read and write for owner, group and others.
    let acl = [
        [2, 0, 0, 0].as_slice(),
        &[1, 0, 6, 0, 255, 255, 255, 255],
        &[4, 0, 6, 0, 255, 255, 255, 255],
        &[32, 0, 6, 0, 255, 255, 255, 255],
    ];
    let acl = setxattr(
        &path,
        "system.posix_acl_access",
        &acl.concat(),
        XattrFlags::empty(),
    );
    assert_eq!(acl, Err(Errno::NOTSUP));
    mount.unmount();

    let mount = scratch.mount();
    let mut value = vec![0; 65_536];
    let len = getxattr(&path, "user.large", &mut value[..]).expect("there");
    assert!(value[..len] == large);
    assert_eq!(
        getxattr(&path, "user.small", &mut [0; 2][..]),
        Err(Errno::RANGE)
    );
    let len = listxattr(&path, &mut value[..]).expect("listed");
    let mut names: Vec<_> = value[..len].split(|byte| *byte == 0).collect();
    names.sort_unstable();
    assert_eq!(names, [b"".as_slice(), b"user.large", b"user.small"]);
    removexattr(&path, "user.small").expect("removed");
    let gone = getxattr(&path, "user.small", &mut value[..]);
    assert_eq!(gone, Err(Errno::NODATA));
    mount.unmount();
}

#[test]
fn privileges_and_groups() {
    const NOBODY: u32 = 65_534;
    let scratch = Scratch::with_image("64M");
    let mount = scratch.mount();
    let mode = |name: &str| fs::metadata(mount.path(name)).expect("there").mode() & 0o7777;
    // What is new in a set-group-id directory has its group, and directories hand it down.
    fs::create_dir(mount.path("shared")).expect("made");
    chown(mount.path("shared"), Some(0), Some(NOBODY)).expect("given");
    fs::set_permissions(mount.path("shared"), Permissions::from_mode(0o2777)).expect("set");
    fs::create_dir(mount.path("shared/below")).expect("made");
    fs::write(mount.path("shared/file"), "").expect("written");
    assert_eq!(mode("shared/below") & 0o2000, 0o2000);
    assert_eq!(
        fs::metadata(mount.path("shared/file"))
            .expect("there")
            .gid(),
        NOBODY
    );
    // A write by somebody else takes set-user-id away, and so does truncation by opening.
    for how in ["printf x >> file", ": > file"] {
        fs::write(mount.path("file"), "content").expect("written");
        fs::set_permissions(mount.path("file"), Permissions::from_mode(0o6777)).expect("set");
        fs::set_permissions(mount.root(), Permissions::from_mode(0o777)).expect("set");
        let mut shell = std::process::Command::new("sh");
        std::os::unix::process::CommandExt::uid(&mut shell, NOBODY);
        std::os::unix::process::CommandExt::gid(&mut shell, NOBODY);
        let directory = mount.root();
        let status = shell.args(["-c", how]).current_dir(directory).status();
        assert!(status.expect("runs").success(), "{how}");
        assert_eq!(mode("file"), 0o777, "{how}");
        fs::remove_file(mount.path("file")).expect("removed");
    }
    mount.unmount();
}

/// Were opening and truncating one request to the file system, the file would be empty by the time the kernel refuses.
#[test]
fn a_running_program_is_not_truncated() {
    use rustix::fs::{Mode, OFlags, open};
    use rustix::io::Errno;
    let scratch = Scratch::with_image("64M");
    let mount = scratch.mount();
    let program = mount.path("sleep");
    fs::copy("/bin/sleep", &program).expect("copied");
    let size = fs::metadata(&program).expect("there").len();
    let mut child = std::process::Command::new(&program)
        .arg("100")
        .spawn()
        .expect("runs");
    let opened = open(&program, OFlags::RDONLY | OFlags::TRUNC, Mode::empty());
    let left = fs::metadata(&program).expect("there").len();
    child.kill().expect("runs");
    child.wait().expect("ends");
    assert_eq!(opened.map(drop), Err(Errno::TXTBSY));
    assert_eq!(left, size);
    mount.unmount();
}

#[test]
fn a_full_disk_says_so_and_recovers() {
    let scratch = Scratch::with_image("16M");
    let mount = scratch.mount();
    let mut file = File::create_new(mount.path("filler")).expect("created");
    // What can be compressed takes next to nothing.
    let mut noise = fastrand::Rng::with_seed(1);
    let mut piece = vec![0; 256 << 10];
    let full = loop {
        noise.fill(&mut piece);
        match file.write_all(&piece) {
            Ok(()) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(full.kind(), ErrorKind::StorageFull);
    drop(file);
    fs::remove_file(mount.path("filler")).expect("removing always works");
    // Space comes back, if not at once.
    let again = (0..600).find_map(|_| {
        let written = fs::write(mount.path("again"), vec![1; 1 << 20]);
        if written.is_err() {
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        written.ok()
    });
    again.expect("space comes back");
    mount.unmount();
}

#[test]
fn signals_end_it_in_order() {
    let scratch = Scratch::with_image("64M");
    for (name, signal) in [("terminated", Signal::TERM), ("interrupted", Signal::INT)] {
        let mount = scratch.mount();
        fs::write(mount.path(name), name).expect("written");
        mount.signal(signal);
    }
    assert_eq!(
        scratch.siltstone(["cat", "disk", "/terminated"]).ok(),
        "terminated"
    );
    assert_eq!(
        scratch.siltstone(["cat", "disk", "/interrupted"]).ok(),
        "interrupted"
    );
}

#[test]
fn a_signal_ends_it_while_it_is_used() {
    let scratch = Scratch::with_image("64M");
    let mount = scratch.mount();
    let mut file = File::create_new(mount.path("open")).expect("created");
    file.write_all(b"before").expect("written");
    mount.signal(Signal::TERM);
    assert!(file.write_all(b"after").is_err(), "nobody is there");
    drop(file);
    assert_eq!(scratch.siltstone(["cat", "disk", "/open"]).ok(), "before");
}

#[test]
fn what_was_synchronised_survives_a_crash_of_the_tool() {
    let scratch = Scratch::with_image("64M");
    let mount = scratch.mount();
    fs::create_dir(mount.path("mail")).expect("made");
    for number in 0..50 {
        let temporary = mount.path("mail/new");
        let mut file = File::create_new(&temporary).expect("created");
        write!(file, "message {number}").expect("written");
        file.sync_all().expect("durable");
        drop(file);
        fs::rename(&temporary, mount.path(&format!("mail/{number}"))).expect("renamed");
    }
    File::open(mount.path("mail"))
        .and_then(|directory| directory.sync_all())
        .expect("durable");
    mount.kill();

    let mount = scratch.mount();
    for number in 0..50 {
        let text = fs::read_to_string(mount.path(&format!("mail/{number}"))).expect("there");
        assert_eq!(text, format!("message {number}"));
    }
    assert_eq!(
        fs::read_dir(mount.path("mail")).expect("listed").count(),
        50
    );
    mount.unmount();
}

#[test]
fn mounted_for_reading() {
    let scratch = Scratch::with_image("64M");
    let mount = scratch.mount();
    fs::write(mount.path("file"), "content").expect("written");
    mount.unmount();
    let before = fs::read(scratch.path("disk")).expect("read");
    let mount = scratch.mount_with(&["-o", "ro"]);
    assert_eq!(
        fs::read_to_string(mount.path("file")).expect("read"),
        "content"
    );
    let refused = fs::write(mount.path("other"), "").expect_err("refused");
    assert_eq!(refused.kind(), ErrorKind::ReadOnlyFilesystem);
    // Others may read at the same time.
    assert_eq!(scratch.siltstone(["ls", "disk"]).ok(), "file\n");
    mount.unmount();
    let after = fs::read(scratch.path("disk")).expect("read");
    assert!(before == after, "reading changed the image");
}

#[test]
fn an_image_in_use_is_refused() {
    let scratch = Scratch::with_image("64M");
    let mount = scratch.mount();
    for arguments in [["ls", "disk"], ["info", "disk"], ["mkfs", "disk"]] {
        let message = scratch.siltstone(arguments).fails(1);
        assert!(message.contains("in use"), "{message}");
    }
    mount.unmount();
}

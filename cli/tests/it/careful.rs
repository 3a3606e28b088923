//! What a careful user tries: files that are no images, devices, full disks, closed pipes, Ctrl-C.

use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{
    FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::OFlags;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::Signal;

use crate::harness::{Running, Scratch, run, until_mounted, within_limit};

const NOBODY: u32 = 65_534;

/// Bytes that do not compress.
fn noise(path: &Path, len: usize) {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(1).fill(&mut bytes);
    fs::write(path, bytes).expect("written");
}

fn tool(scratch: &Scratch, line: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_siltstone"));
    command.args(line).current_dir(scratch.path("."));
    command.stdout(Stdio::piped());
    command
}

/// A note of a few bytes was taken for a blank disk, and a file of some kilobytes for one that fails.
#[test]
fn small_files_are_no_blank_disks() {
    let scratch = Scratch::with_image("8M");
    scratch.siltstone(["backup", "disk", "-o", "full"]).ok();
    for len in [1, 100, 4095, 4096, 5000, 60_000, 70_000] {
        let note = vec![b'x'; len];
        fs::write(scratch.path("note"), &note).expect("written");
        for (line, says) in [
            (&["mkfs", "note"][..], "not Siltstone's"),
            (&["mkfs", "note", "--size", "16M"], "not Siltstone's"),
            (
                &["restore", "full", "note", "--size", "16M"],
                "not Siltstone's",
            ),
            (&["restore", "full", "note"], "not Siltstone's"),
            (&["info", "note"], "no Siltstone file system"),
            (&["dump", "note"], "no Siltstone file system"),
            (&["ls", "note"], "no Siltstone file system"),
            (&["key", "list", "note"], "no Siltstone file system"),
            (&["scrub", "note"], "no Siltstone file system"),
            (&["grow", "note"], "no Siltstone file system"),
            (&["backup", "note", "-o", "x"], "no Siltstone file system"),
            (&["mount", "note", "."], "no Siltstone file system"),
        ] {
            let said = scratch.siltstone(line).fails(1);
            assert!(said.contains(says), "{len}: {line:?}: {said}");
        }
        let said = scratch.siltstone(["fsck", "note"]).fails(8);
        assert!(said.contains("no Siltstone file system"), "{said}");
        assert!(
            fs::read(scratch.path("note")).expect("read") == note,
            "{len}"
        );
    }
    // What nothing came of leaves nothing behind.
    assert!(!scratch.path("x.partial").exists());
    scratch
        .siltstone(["mkfs", "note", "--force", "--size", "16M"])
        .ok();
    scratch.siltstone(["ls", "note"]).ok();
}

/// As root `backup -o /dev/null` put a file in the place of the device.
#[test]
fn a_backup_replaces_files_alone() {
    let scratch = Scratch::with_image("8M");
    scratch.run("mkfifo", ["fifo"]).ok();
    scratch.run("mknod", ["null", "c", "1", "3"]).ok();
    fs::create_dir(scratch.path("directory")).expect("made");
    for name in ["fifo", "null", "directory"] {
        let kind = fs::metadata(scratch.path(name)).expect("there").file_type();
        let said = scratch.siltstone(["backup", "disk", "-o", name]).fails(1);
        assert!(said.contains("not a file"), "{said}");
        let after = fs::metadata(scratch.path(name)).expect("there").file_type();
        assert_eq!(kind, after);
        assert!(!scratch.path(&format!("{name}.partial")).exists());
    }
    assert!(
        fs::metadata(scratch.path("null"))
            .expect("there")
            .file_type()
            .is_char_device()
    );
    // Neither does a restore wait for somebody to write to a FIFO.
    let said = scratch
        .siltstone(["restore", "fifo", "new", "--size", "16M"])
        .fails(1);
    assert!(said.contains("not a file"), "{said}");
    let said = scratch
        .siltstone(["restore", "null", "new", "--size", "16M"])
        .fails(1);
    assert!(said.contains("not a file"), "{said}");
    assert_eq!(scratch.siltstone(["snapshot", "list", "disk"]).ok(), "");
}

/// `FILE.partial` was emptied whatever it was: the image itself, what a link led to, what another backup was writing; a FIFO was
/// removed.
#[test]
fn a_backup_empties_nothing_that_is_not_its_own() {
    let scratch = Scratch::with_image("8M");
    fs::copy(scratch.path("disk"), scratch.path("full.partial")).expect("copied");
    let image = fs::read(scratch.path("disk")).expect("read");
    let unharmed = || fs::read(scratch.path("full.partial")).expect("read") == image;
    let said = scratch
        .siltstone(["backup", "full.partial", "-o", "full"])
        .fails(2);
    assert!(said.contains("does not go to its image"), "{said}");
    assert!(unharmed());

    std::os::unix::fs::symlink("full.partial", scratch.path("linked.partial")).expect("linked");
    scratch
        .siltstone(["backup", "disk", "-o", "linked"])
        .fails(1);
    assert!(unharmed());

    scratch.run("mkfifo", ["pipe.partial"]).ok();
    let said = scratch.siltstone(["backup", "disk", "-o", "pipe"]).fails(1);
    assert!(said.contains("not a file"), "{said}");
    assert!(scratch.path("pipe.partial").exists());

    let other = OpenOptions::new()
        .append(true)
        .open(scratch.path("full.partial"));
    let other = other.expect("opened");
    other.try_lock().expect("free");
    let said = scratch.siltstone(["backup", "disk", "-o", "full"]).fails(1);
    assert!(said.contains("in use by another process"), "{said}");
    assert!(unharmed());
    // One that nobody has is what an earlier backup left.
    drop(other);
    scratch.siltstone(["backup", "disk", "-o", "full"]).ok();
    assert!(!scratch.path("full.partial").exists());
}

#[test]
fn a_mount_is_over_a_directory_and_outlives_its_output() {
    let scratch = Scratch::with_image("8M");
    fs::write(scratch.path("file"), "").expect("written");
    let said = scratch.siltstone(["mount", "disk", "file"]).fails(1);
    assert!(said.contains("not a directory"), "{said}");
    let said = scratch.siltstone(["mount", "disk", "nowhere"]).fails(1);
    assert!(said.contains("No such file"), "{said}");

    // Nobody hears that it is mounted.
    fs::create_dir(scratch.path("mount")).expect("made");
    let mut command = tool(&scratch, &["mount", "disk", "mount"]);
    let full = OpenOptions::new().write(true).open("/dev/full");
    command.stdout(full.expect("the kernel has it"));
    let running = Running::start(command);
    until_mounted(&scratch.path("mount"));
    fs::write(scratch.path("mount/file"), "content").expect("written");
    unmount(scratch.path("mount"), UnmountFlags::empty()).expect("not in use");
    running.wait().ok();
    assert_eq!(scratch.siltstone(["cat", "disk", "/file"]).ok(), "content");
}

/// A file made into a device of the host.
struct Loop(PathBuf);

impl Loop {
    fn new(file: &Path) -> Self {
        let mut command = Command::new("losetup");
        command.arg("--find").arg("--show").arg(file);
        Self(PathBuf::from(run(command).ok().trim()))
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup")
            .arg("--detach")
            .arg(&self.0)
            .status();
    }
}

#[test]
fn a_block_device_is_an_image_unless_somebody_has_it() {
    let scratch = Scratch::new();
    let file = scratch.path("file");
    let made = File::create(&file).and_then(|file| file.set_len(16 << 20));
    made.expect("made");
    let device = Loop::new(&file);
    let disk = device.path();
    scratch.siltstone(["mkfs", disk]).ok();
    scratch.siltstone(["mkdir", disk, "/directory"]).ok();
    assert_eq!(scratch.siltstone(["ls", disk]).ok(), "directory\n");
    let said = scratch
        .siltstone(["mkfs", "--force", disk, "--size", "8M"])
        .fails(1);
    assert!(said.contains("the size it has"), "{said}");

    // As a mount of another file system does it.
    let mut claim = OpenOptions::new();
    claim
        .read(true)
        .custom_flags(OFlags::EXCL.bits().cast_signed());
    let claimed = claim.open(disk).expect("free");
    for line in [
        &["mkfs", "--force", disk][..],
        &["mkdir", disk, "/other"],
        &["grow", disk],
        &["fsck", "--repair", disk],
    ] {
        let said = scratch.siltstone(line);
        let status = if line[0] == "fsck" { 8 } else { 1 };
        let said = said.fails(status);
        assert!(said.contains("in use by the host"), "{line:?}: {said}");
    }
    drop(claimed);
    scratch.siltstone(["fsck", disk]).ok();

    // Nor is the file under it written to meanwhile.
    let said = scratch.siltstone(["mkdir", "file", "/other"]).fails(1);
    assert!(
        said.contains(&format!("in use by the loop device {disk}")),
        "{said}"
    );
    scratch.siltstone(["ls", "file"]).ok();
    drop(device);
    scratch.siltstone(["mkdir", "file", "/other"]).ok();
}

#[test]
fn permissions_are_those_of_the_host() {
    let scratch = Scratch::with_image("8M");
    let exe = scratch.path("siltstone");
    fs::copy(env!("CARGO_BIN_EXE_siltstone"), &exe).expect("copied");
    fs::set_permissions(scratch.path("."), fs::Permissions::from_mode(0o755)).expect("set");
    for (mode, line, status) in [
        (0o600, &["ls", "disk"][..], 1),
        (0o600, &["fsck", "disk"], 8),
        (0o600, &["mkfs", "--force", "disk"], 1),
        (0o644, &["mkdir", "disk", "/a"], 1),
        (0o644, &["mkfs", "new"], 1),
    ] {
        fs::set_permissions(scratch.path("disk"), fs::Permissions::from_mode(mode)).expect("set");
        let mut command = Command::new(&exe);
        command
            .args(line)
            .uid(NOBODY)
            .gid(NOBODY)
            .current_dir(scratch.path("."));
        let said = run(command).fails(status);
        assert!(said.contains("Permission denied"), "{line:?}: {said}");
    }
    let mut command = Command::new(&exe);
    command
        .args(["ls", "disk"])
        .uid(NOBODY)
        .gid(NOBODY)
        .current_dir(scratch.path("."));
    run(command).ok();
}

/// A file system of the host that is soon full.
struct Small(PathBuf);

impl Small {
    fn new(scratch: &Scratch) -> Self {
        let directory = scratch.path("small");
        fs::create_dir(&directory).expect("made");
        let options = c"size=4m";
        mount(
            "tmpfs",
            &directory,
            "tmpfs",
            MountFlags::empty(),
            Some(options),
        )
        .expect("mounted");
        Self(directory)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// The image is a file with holes, and what is under it has no room for them.
#[test]
fn a_full_disk_of_the_host_is_said() {
    let scratch = Scratch::with_image("64M");
    noise(&scratch.path("noise"), 8 << 20);
    scratch.siltstone(["cp", "noise", "disk:/"]).ok();
    scratch.siltstone(["backup", "disk", "-o", "full"]).ok();
    let small = Small::new(&scratch);

    let said = scratch.siltstone(["cp", "disk:/noise", "small/"]).fails(1);
    assert!(said.contains("No space left"), "{said}");
    assert_eq!(
        fs::read_dir(&small.0).expect("listed").count(),
        0,
        "nothing is left"
    );

    scratch
        .siltstone(["mkfs", "small/disk", "--size", "64M"])
        .ok();
    let said = scratch.siltstone(["cp", "noise", "small/disk:/"]).fails(1);
    assert!(
        said.contains("the disk failed (No space left on device)"),
        "{said}"
    );
    scratch.siltstone(["fsck", "--data", "small/disk"]).ok();
    let listed = scratch.siltstone(["ls", "small/disk"]).ok();
    assert!(!listed.contains("noise"), "{listed}");
    fs::remove_file(small.0.join("disk")).expect("removed");

    let restore = ["restore", "full", "small/new", "--size", "64M"];
    let said = scratch.siltstone(restore).fails(1);
    assert!(
        said.contains("the disk failed (No space left on device)"),
        "{said}"
    );
    assert!(!small.0.join("new").exists());
    let made = File::create(small.0.join("old")).and_then(|file| file.set_len(64 << 20));
    made.expect("made");
    let said = scratch.siltstone(["restore", "full", "small/old"]).fails(1);
    assert!(said.contains("holds no file system"), "{said}");
    scratch.siltstone(["ls", "small/old"]).fails(1);
    fs::remove_file(small.0.join("old")).expect("removed");

    let said = scratch
        .siltstone(["backup", "disk", "-o", "small/full"])
        .fails(1);
    assert!(said.contains("No space left"), "{said}");
    assert!(!small.0.join("full").exists());
    // It goes on once there is room.
    fs::copy(small.0.join("full.partial"), scratch.path("again.partial")).expect("copied");
    scratch.siltstone(["backup", "disk", "-o", "again"]).ok();
    scratch
        .siltstone(["restore", "again", "new", "--size", "64M"])
        .ok();
}

#[test]
fn a_reader_that_goes_away_is_no_failure_to_talk_about() {
    let scratch = Scratch::with_image("8M");
    for number in 0..2000 {
        fs::write(scratch.path(&format!("file-{number}")), "x").expect("written");
    }
    fs::remove_file(scratch.path("disk")).expect("removed");
    scratch.siltstone(["mkfs", "disk", "--size", "8M"]).ok();
    scratch
        .run("sh", ["-c", "mkdir tree && mv file-* tree"])
        .ok();
    scratch.siltstone(["cp", "-r", "tree", "disk:/"]).ok();
    for line in [
        "dump disk",
        "dump --json disk",
        "ls -lR disk",
        "backup disk",
    ] {
        let exe = env!("CARGO_BIN_EXE_siltstone");
        let line = format!("{exe} {line} | head -c 1 > /dev/null; echo ${{PIPESTATUS[0]}}");
        let output = scratch.run("bash", ["-c", &line]);
        assert_eq!(
            (output.stdout.as_str(), output.stderr.as_str()),
            ("141\n", ""),
            "{line}"
        );
    }
    // Nor is one that is full anything that it dies of.
    for line in ["dump disk", "info disk", "man", "ls -R disk"] {
        let exe = env!("CARGO_BIN_EXE_siltstone");
        let output = scratch.run("sh", ["-c", &format!("{exe} {line} > /dev/full")]);
        assert_eq!(output.status.code(), Some(1), "{line}");
        let said = output.stderr;
        assert_eq!(
            said,
            "siltstone: cannot write the output: No space left on device\n"
        );
    }
    let exe = env!("CARGO_BIN_EXE_siltstone");
    let output = scratch.run("sh", ["-c", &format!("{exe} ls none 2> /dev/full")]);
    assert_eq!(output.status.code(), Some(1));
}

/// Runs a command until `begun`, and then sends it a signal as Ctrl-C does. It has to end so, and with it what it had begun.
fn interrupt(scratch: &Scratch, line: &[&str], begun: impl Fn() -> bool) -> String {
    let running = Running::start(tool(scratch, line));
    within_limit(|| begun() && running.catches(Signal::INT));
    running.signal(Signal::INT);
    running.wait().fails(130)
}

#[test]
fn ctrl_c_ends_it_and_leaves_nothing_half_done() {
    let scratch = Scratch::with_image("256M");
    noise(&scratch.path("noise"), 64 << 20);
    let allocated =
        |name: &str| fs::metadata(scratch.path(name)).map_or(0, |found| found.blocks() * 512);
    let empty = allocated("disk");
    let said = interrupt(&scratch, &["cp", "noise", "disk:/"], || {
        allocated("disk") > empty + (2 << 20)
    });
    assert!(said.contains("interrupted"), "{said}");
    assert_eq!(scratch.siltstone(["ls", "disk"]).ok(), "");
    scratch.siltstone(["fsck", "disk"]).ok();

    scratch.siltstone(["cp", "noise", "disk:/"]).ok();
    let copying = || {
        let names = fs::read_dir(scratch.path(".")).expect("listed");
        let mut names = names.map(|entry| entry.expect("an entry"));
        names.any(|entry| {
            let name = entry.file_name();
            let copy = name.to_string_lossy().starts_with(".siltstone-");
            copy && entry.metadata().is_ok_and(|found| found.len() > 1 << 20)
        })
    };
    interrupt(&scratch, &["cp", "disk:/noise", "copy"], copying);
    assert!(!scratch.path("copy").exists() && !copying());

    scratch.siltstone(["backup", "disk", "-o", "full"]).ok();
    interrupt(
        &scratch,
        &["restore", "full", "new", "--size", "256M"],
        || allocated("new") > 2 << 20,
    );
    assert!(!scratch.path("new").exists());
    let made = File::create(scratch.path("old")).and_then(|file| file.set_len(256 << 20));
    made.expect("made");
    let said = interrupt(&scratch, &["restore", "full", "old"], || {
        allocated("old") > 2 << 20
    });
    assert!(said.contains("holds no file system"), "{said}");
    scratch.siltstone(["ls", "old"]).fails(1);

    interrupt(&scratch, &["backup", "disk", "-o", "again"], || {
        allocated("again.partial") > 1 << 20
    });
    assert!(!scratch.path("again").exists());
    scratch.siltstone(["backup", "disk", "-o", "again"]).ok();
    scratch.siltstone(["restore", "again", "old"]).ok();
    scratch.siltstone(["fsck", "--data", "old"]).ok();
}

/// Somebody reads slowly, or not at all: the copy waits, and ends when it is told to.
#[test]
fn ctrl_c_ends_a_copy_that_waits_for_a_reader() {
    let scratch = Scratch::with_image("16M");
    noise(&scratch.path("noise"), 1 << 20);
    scratch.siltstone(["cp", "noise", "disk:/"]).ok();
    scratch.run("mkfifo", ["fifo"]).ok();
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    let fifo = options.open(scratch.path("fifo")).expect("opened");
    let begun = || (&fifo).read(&mut [0]).is_ok();
    interrupt(&scratch, &["cp", "disk:/noise", "fifo"], begun);
    drop(fifo);
    // There is not even one.
    let running = Running::start(tool(&scratch, &["cp", "disk:/noise", "fifo"]));
    within_limit(|| running.catches(Signal::INT));
    running.signal(Signal::INT);
    running.wait().fails(130);
    let kind = fs::metadata(scratch.path("fifo"))
        .expect("there")
        .file_type();
    assert!(kind.is_fifo());
}

//! Disks of the host, on which the kernel counts: loop devices over files in memory.
//!
//! The files are on a ramfs, which is quick and knows no holes. Elsewhere a loop device takes "these blocks are not meant
//! any more" for a write of zeros and counts it as one.
//!
//! Nothing stays behind: all is mounted in a namespace of this process alone (see [`enter_own_namespace`]), and a loop
//! device is let go with its last user.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use tests::process::Process;
use tests::qmp::BlockCounts;

/// Says that this process is in a namespace of its own.
const IN_OWN_NAMESPACE: &str = "BENCH_IN_OWN_NAMESPACE";

/// No work in the background that would be counted with somebody's pattern; blocks as large as on large disks.
pub const EXT4_FORMAT: [&str; 4] = ["-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
/// The defaults, but for times of access, which Siltstone does not note either.
pub const EXT4_OPTIONS: &str = "noatime,data=ordered,barrier=1";

/// What a command of the system may take.
const COMMAND_LIMIT: Duration = Duration::from_mins(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Siltstone,
    Ext4,
}

/// Begins anew in a mount namespace, so that all mounts end with this process however it ends. Without the right to do so
/// all stays as it is.
pub fn enter_own_namespace() {
    if std::env::var_os(IN_OWN_NAMESPACE).is_some() || !rustix::process::geteuid().is_root() {
        return;
    }
    let Ok(own) = std::env::current_exe() else {
        return;
    };
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "--"])
        .arg(own);
    command
        .args(std::env::args_os().skip(1))
        .env(IN_OWN_NAMESPACE, "1");
    // It returns only when it could not be done, and then `obstacle` says so.
    let _ = command.exec();
}

/// Why there can be no such disks here.
pub fn obstacle() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("mounting needs root".to_owned());
    }
    if std::env::var_os(IN_OWN_NAMESPACE).is_none() {
        return Some(
            "there is no unshare(1), which mounts need that must not stay behind".to_owned(),
        );
    }
    if !Path::new("/dev/fuse").exists() {
        return Some("there is no /dev/fuse".to_owned());
    }
    let attempt = || {
        let place = RamFs::new()?;
        let file = place.directory.path().join("disk");
        File::create(&file)
            .and_then(|file| file.set_len(64 << 20))
            .map_err(|error| error.to_string())?;
        let (device, _open) = attach(&file)?;
        let mount = TempDir::new().map_err(|error| error.to_string())?;
        tool("mkfs.ext4", ["-q", "-F"], &[&device])?;
        tool("mount", ["-t", "ext4"], &[&device, mount.path()])?;
        tool("umount", [], &[mount.path()])
    };
    attempt().err()
}

/// A mounted ramfs.
struct RamFs {
    directory: TempDir,
}

impl RamFs {
    fn new() -> Result<Self, String> {
        let directory = TempDir::new().map_err(|error| error.to_string())?;
        tool("mount", ["-t", "ramfs", "none"], &[directory.path()])?;
        Ok(Self { directory })
    }
}

impl Drop for RamFs {
    fn drop(&mut self) {
        let _ = tool("umount", ["--lazy"], &[self.directory.path()]);
    }
}

/// A blank disk.
pub struct LoopDisk {
    device: PathBuf,
    _open: File,
    /// Let go after the device.
    _place: RamFs,
}

impl LoopDisk {
    pub fn new(bytes: u64) -> Self {
        let place = RamFs::new().expect("a mounted ramfs");
        let path = place.directory.path().join("disk");
        let file = File::create(&path).expect("a new file");
        file.set_len(bytes).expect("a ramfs has room");
        let (device, open) = attach(&path).expect("a loop device");
        Self {
            device,
            _open: open,
            _place: place,
        }
    }

    pub fn format(&self, kind: Kind) {
        let formatted = match kind {
            Kind::Siltstone => tool(siltstone(), ["mkfs"], &[&self.device]),
            Kind::Ext4 => {
                let words = ["-q", "-F"].into_iter().chain(EXT4_FORMAT);
                tool("mkfs.ext4", words, &[&self.device])
            }
        };
        formatted.expect("a file system");
    }

    pub fn mount(&self, kind: Kind) -> Mount {
        let directory = TempDir::new().expect("a directory");
        let server = match kind {
            Kind::Ext4 => {
                let words = ["-t", "ext4", "-o", EXT4_OPTIONS];
                tool("mount", words, &[&self.device, directory.path()]).expect("a mount");
                None
            }
            Kind::Siltstone => {
                let mut command = Command::new(siltstone());
                command.arg("mount").arg(&self.device).arg(directory.path());
                let server = Process::spawn(command);
                server.wait_for_line("siltstone: ", COMMAND_LIMIT);
                Some(server)
            }
        };
        Mount {
            directory,
            server,
            mounted: true,
        }
    }

    /// What the disk was asked to do, by the kernel's count (Documentation/block/stat.rst).
    pub fn counts(&self) -> BlockCounts {
        let name = self.device.file_name().expect("a device");
        let path = Path::new("/sys/block").join(name).join("stat");
        let stat = fs::read_to_string(path).expect("a device has counters");
        let fields = stat
            .split_whitespace()
            .map(|field| field.parse::<u64>().expect("a counter"));
        let fields = fields.collect::<Vec<_>>();
        let flushes = fields[15];
        BlockCounts {
            flushes,
            // It counts a flush as a write of nothing, too.
            writes: fields[4].saturating_sub(flushes),
            bytes_written: fields[6] * 512,
            reads: fields[0],
            bytes_read: fields[2] * 512,
        }
    }
}

/// A disk in use.
pub struct Mount {
    directory: TempDir,
    server: Option<Process>,
    mounted: bool,
}

impl Mount {
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Returns when all is on the disk.
    pub fn unmount(mut self) {
        tool("umount", [], &[self.directory()]).expect("nobody uses it");
        self.mounted = false;
        if let Some(server) = &mut self.server {
            let status = server.wait_exit(COMMAND_LIMIT);
            assert!(status.success(), "siltstone mount ended with {status}");
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.mounted {
            let _ = tool("umount", ["--lazy"], &[self.directory()]);
        }
    }
}

/// A loop device over `file`. It is let go of at once, and so exists for as long as it is open.
fn attach(file: &Path) -> Result<(PathBuf, File), String> {
    let device = tool("losetup", ["--find", "--show"], &[file])?;
    let device = PathBuf::from(device.trim());
    let open = File::open(&device).map_err(|error| format!("{}: {error}", device.display()));
    tool("losetup", ["-d"], &[&device])?;
    Ok((device, open?))
}

fn siltstone() -> PathBuf {
    tests::root().join("target/release/siltstone")
}

/// Runs a command of the system with words and then paths.
fn tool<'w>(
    program: impl AsRef<std::ffi::OsStr>,
    words: impl IntoIterator<Item = &'w str>,
    paths: &[&Path],
) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(words).args(paths);
    Process::try_run(command, COMMAND_LIMIT)
}

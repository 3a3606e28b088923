//! Scratch directories, bounded processes, and mounts that never outlive a test.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// Longer than anything takes on a slow machine that does something else, too.
const LIMIT: Duration = Duration::from_mins(3);
/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(5);

/// A directory with an image in it.
pub(crate) struct Scratch {
    directory: tempfile::TempDir,
}

/// How a tool ended that had mounted, or was to.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stderr: String,
}

/// What a process left.
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Scratch {
    /// An empty directory.
    pub(crate) fn new() -> Self {
        Self {
            directory: tempfile::tempdir().expect("a temporary directory"),
        }
    }

    /// With an empty image of `size`.
    pub(crate) fn with_image(size: &str) -> Self {
        let scratch = Self::new();
        scratch.siltstone(["mkfs", "disk", "--size", size]).ok();
        scratch
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs the tool in the directory.
    pub(crate) fn siltstone<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
    ) -> Output {
        self.run(env!("CARGO_BIN_EXE_siltstone"), arguments)
    }

    /// Runs the tool in the directory, with a terminal for its standard error: that is what was drawn there.
    pub(crate) fn on_terminal<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
    ) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_siltstone"));
        command.args(arguments).current_dir(self.directory.path());
        command.env("TERM", "xterm").stdout(Stdio::piped());
        let (mut terminal, stderr) = terminal();
        let (sender, drawn) = mpsc::channel();
        let running = Running::start_with(command, stderr.into());
        // Reads until nobody has the other end any more, which is an error.
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = terminal.read_to_end(&mut bytes);
            sender.send(bytes)
        });
        let mut output = running.wait();
        let drawn = drawn.recv_timeout(LIMIT).expect("not in time");
        output.stderr = String::from_utf8_lossy(&drawn).into_owned();
        output
    }

    /// Runs a program in the directory.
    pub(crate) fn run<A: AsRef<OsStr>>(
        &self,
        program: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Output {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.directory.path());
        run(command)
    }

    /// Mounts the image.
    pub(crate) fn mount(&self) -> Mount {
        self.mount_with(&[])
    }

    /// Mounts the image with more arguments.
    pub(crate) fn mount_with(&self, arguments: &[&str]) -> Mount {
        self.try_mount(arguments).expect("mounts")
    }

    /// Mounts a snapshot of the image with more arguments.
    pub(crate) fn mount_snapshot(&self, snapshot: &str, arguments: &[&str]) -> Mount {
        Mount::new(self, &format!("disk@{snapshot}"), arguments).expect("mounts")
    }

    /// Mounts the image, unless the tool ends before that. Then: how.
    pub(crate) fn try_mount(&self, arguments: &[&str]) -> Result<Mount, Ended> {
        Mount::new(self, "disk", arguments)
    }
}

impl Output {
    /// The standard output of what has to have succeeded.
    pub(crate) fn ok(self) -> String {
        assert!(
            self.status.success(),
            "{}\n{}\n{}",
            self.status,
            self.stdout,
            self.stderr
        );
        self.stdout
    }

    /// The standard error of what has to have failed with this status.
    pub(crate) fn fails(self, status: i32) -> String {
        assert_eq!(
            self.status.code(),
            Some(status),
            "{}\n{}",
            self.stdout,
            self.stderr
        );
        self.stderr
    }
}

/// Runs a program to its end, which has to come in time.
pub(crate) fn run(mut command: Command) -> Output {
    command.stdout(Stdio::piped());
    Running::start(command).wait()
}

/// Waits until something is so, which has to come in time. It is looked at again and again: for what the kernel announces to nobody,
/// as the size of a mounted file system and the signals that another process catches.
pub(crate) fn within_limit(mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !so() {
        assert!(Instant::now() < deadline, "not in time");
        std::thread::sleep(INTERVAL);
    }
}

/// Waits until something is mounted on a directory, which has to come in time.
pub(crate) fn until_mounted(directory: &Path) {
    let device = |path: &Path| std::fs::metadata(path).expect("there").dev();
    let parent = device(directory.parent().expect("not the root"));
    let mounts = File::open("/proc/self/mountinfo").expect("there");
    let deadline = Instant::now() + LIMIT;
    while device(directory) == parent {
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(left > Duration::ZERO, "not in time");
        let limit = Timespec::try_from(left).expect("short");
        // Somebody else's mounts wake it, too.
        let _ = poll(&mut [PollFd::new(&mounts, PollFlags::PRI)], Some(&limit));
    }
}

/// A terminal of 80 columns: the end of who looks at it, and the end of who draws.
fn terminal() -> (File, File) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&ours).expect("ours");
    unlockpt(&ours).expect("ours");
    let size = Winsize {
        ws_row: 24,
        ws_col: 80,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&ours, size).expect("a terminal");
    let path = ptsname(&ours, Vec::new()).expect("a name");
    let path = Path::new(OsStr::from_bytes(path.as_bytes()));
    let theirs = File::options().read(true).write(true).open(path);
    (ours.into(), theirs.expect("opens"))
}

/// A program that runs.
pub(crate) struct Running {
    shown: String,
    pid: Pid,
    output: mpsc::Receiver<std::io::Result<std::process::Output>>,
}

impl Running {
    /// Starts it; its standard output goes where the command says.
    pub(crate) fn start(command: Command) -> Self {
        Self::start_with(command, Stdio::piped())
    }

    fn start_with(mut command: Command, stderr: Stdio) -> Self {
        let shown = format!("{command:?}");
        command.stdin(Stdio::null()).stderr(stderr);
        let child = command.spawn().unwrap_or_else(|error| {
            panic!("{shown}: {error} (scripts/setup-test --cli installs what the tests need)")
        });
        let pid = pid_of(&child);
        let (sender, output) = mpsc::channel();
        std::thread::spawn(move || sender.send(child.wait_with_output()));
        Self { shown, pid, output }
    }

    /// Whether it has said that it looks after this signal itself.
    pub(crate) fn catches(&self, signal: Signal) -> bool {
        let path = format!("/proc/{}/status", self.pid.as_raw_nonzero());
        let status = std::fs::read_to_string(path).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        caught.is_some_and(|mask| mask >> (signal.as_raw() - 1) & 1 == 1)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).expect("runs");
    }

    /// Waits for its end, which has to come in time.
    pub(crate) fn wait(self) -> Output {
        let Ok(output) = self.output.recv_timeout(LIMIT) else {
            let _ = kill_process(self.pid, Signal::KILL);
            panic!("{}: not finished after {LIMIT:?}", self.shown);
        };
        let output = output.expect("its output");
        Output {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// The tool on a terminal on which `typed` is typed.
pub(crate) fn on_a_terminal(scratch: &Scratch, line: &str, typed: &str) -> Output {
    let tool = env!("CARGO_BIN_EXE_siltstone");
    let script = format!("printf '{typed}' | script -qec 'exec {tool} {line}' /dev/null");
    scratch.run("sh", ["-c", &script])
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// An image that is mounted.
pub(crate) struct Mount {
    directory: PathBuf,
    /// What the tool says on its standard error.
    stderr: PathBuf,
    child: Option<Child>,
    /// Ends the tool when it is not dropped in time: a program that waits for an answer from it cannot even be killed.
    watch: Option<mpsc::Sender<()>>,
}

impl Mount {
    fn new(scratch: &Scratch, image: &str, arguments: &[&str]) -> Result<Self, Ended> {
        assert!(
            rustix::process::geteuid().is_root(),
            "tests of mounts run as root"
        );
        assert!(
            Path::new("/dev/fuse").exists(),
            "there is no /dev/fuse: the kernel needs its module fuse"
        );
        let directory = scratch.path("mount");
        std::fs::create_dir_all(&directory).expect("a directory");
        let mut command = Command::new(env!("CARGO_BIN_EXE_siltstone"));
        command
            .arg("mount")
            .args(arguments)
            .arg(image)
            .arg(&directory);
        command.current_dir(scratch.directory.path());
        let stderr = scratch.path("mount.stderr");
        command.stderr(std::fs::File::create(&stderr).expect("a file"));
        let mut child = command.stdout(Stdio::piped()).spawn().expect("starts");
        let stdout = child.stdout.take().expect("piped");
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let mut stdout = BufReader::new(stdout);
            let mut line = String::new();
            let _ = stdout.read_line(&mut line);
            let _ = sender.send(line);
            // Whatever else it says has to go somewhere.
            let _ = stdout.read_to_string(&mut String::new());
        });
        let (watch, watched) = mpsc::channel::<()>();
        let pid = pid_of(&child);
        std::thread::spawn(move || {
            if watched.recv_timeout(LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("still mounted after {LIMIT:?}: ended");
                let _ = kill_process(pid, Signal::KILL);
            }
        });
        let mount = Self {
            directory,
            stderr,
            child: Some(child),
            watch: Some(watch),
        };
        let line = receiver.recv_timeout(LIMIT).expect("says that it is ready");
        if line.is_empty() {
            return Err(mount.ended());
        }
        assert!(line.contains("is mounted on"), "says {line:?}");
        Ok(mount)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.directory
    }

    /// Unmounts as `umount` does, and waits for the tool.
    pub(crate) fn unmount(self) {
        let ended = self.unmounted();
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    }

    /// As [`unmount`](Self::unmount), however the tool ends.
    pub(crate) fn unmounted(self) -> Ended {
        // A process that another test is just starting may have files open that are not its own.
        within_limit(|| {
            let unmounted = unmount(&self.directory, UnmountFlags::empty());
            assert!(
                matches!(unmounted, Ok(()) | Err(Errno::BUSY)),
                "{unmounted:?}"
            );
            unmounted.is_ok()
        });
        self.ended()
    }

    /// Sends a signal, and waits for the tool.
    pub(crate) fn signal(self, signal: Signal) {
        let pid = pid_of(self.child.as_ref().expect("runs"));
        kill_process(pid, signal).expect("runs");
        let ended = self.ended();
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    }

    /// Ends the tool without mercy, as a crash of it would.
    pub(crate) fn kill(mut self) {
        self.watch = None;
        let mut child = self.child.take().expect("runs");
        child.kill().expect("killed");
        child.wait().expect("ends");
        let _ = unmount(&self.directory, UnmountFlags::DETACH);
    }

    /// Waits for the tool to end.
    fn ended(mut self) -> Ended {
        self.watch = None;
        let child = self.child.take().expect("runs");
        let status = wait(child).expect("ends in time");
        let stderr = std::fs::read(&self.stderr).expect("it says something or nothing");
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        eprint!("{stderr}");
        Ended { status, stderr }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.watch = None;
        if let Some(child) = self.child.take() {
            let _ = unmount(&self.directory, UnmountFlags::DETACH);
            let _ = kill_process(pid_of(&child), Signal::TERM);
            let _ = wait(child);
        }
    }
}

/// Waits for a process, and kills it when it takes too long.
fn wait(mut child: Child) -> Option<ExitStatus> {
    let pid = pid_of(&child);
    let (sender, receiver) = mpsc::channel();
    let waiting = std::thread::spawn(move || sender.send(child.wait()));
    let status = receiver.recv_timeout(LIMIT);
    if status.is_err() {
        let _ = kill_process(pid, Signal::KILL);
        let _ = waiting.join();
    }
    status.ok()?.ok()
}

/// A seed, from the environment to replay a run.
pub(crate) fn seed() -> u64 {
    let seed = match std::env::var("SILTSTONE_SEED") {
        Ok(text) => text.parse().expect("SILTSTONE_SEED is a number"),
        Err(_) => fastrand::u64(..),
    };
    println!("random choices of this test: replay with SILTSTONE_SEED={seed}");
    seed
}

/// Everything below a directory, as text to compare: paths, kinds, modes, owners, times, content, links, attributes of
/// users.
pub(crate) fn describe(root: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt as _;
    let mut lines = Vec::new();
    let mut left = vec![OsString::new()];
    while let Some(relative) = left.pop() {
        let path = root.join(&relative);
        let found = std::fs::symlink_metadata(&path).expect("is there");
        let kind = found.file_type();
        let content = if kind.is_file() {
            let bytes = std::fs::read(&path).expect("readable");
            format!("{} bytes, checksum {:08x}", bytes.len(), checksum(&bytes))
        } else if kind.is_symlink() {
            format!(
                "-> {}",
                std::fs::read_link(&path).expect("a link").display()
            )
        } else {
            String::new()
        };
        let names = if kind.is_dir() { 0 } else { found.nlink() };
        if !relative.is_empty() {
            lines.push(format!(
                "{} {:o} {}:{} {} names, {}.{:09} {content} {}",
                relative.display(),
                found.mode(),
                found.uid(),
                found.gid(),
                names,
                found.mtime(),
                found.mtime_nsec(),
                attributes(&path),
            ));
        }
        if kind.is_dir() {
            for entry in std::fs::read_dir(&path).expect("a directory") {
                let name = entry.expect("an entry").file_name();
                left.push(Path::new(&relative).join(name).into_os_string());
            }
        }
    }
    lines.sort();
    lines
}

/// The attributes of a file that users give it, as text.
fn attributes(path: &Path) -> String {
    let mut names = vec![0; 65_536];
    let len = rustix::fs::llistxattr(path, &mut names[..]).expect("listed");
    names.truncate(len);
    let mut shown = Vec::new();
    for name in names.split(|byte| *byte == 0) {
        if name.starts_with(b"user.") {
            let mut value = vec![0; 65_536];
            let len = rustix::fs::lgetxattr(path, name, &mut value[..]).expect("read");
            value.truncate(len);
            let name = String::from_utf8_lossy(name);
            shown.push(format!("{name}={}", value.escape_ascii()));
        }
    }
    shown.sort();
    shown.join(" ")
}

/// Fails with the first difference of two descriptions.
pub(crate) fn assert_same(left: &[String], right: &[String]) {
    for (left, right) in left.iter().zip(right) {
        assert_eq!(left, right);
    }
    assert_eq!(left.len(), right.len(), "one has more");
}

/// FNV-1a, to show that two contents differ without printing them.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

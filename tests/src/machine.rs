//! Siltstone on a disk: boot it, cut its power, end it in order.
//!
//! A [`Setup`] is a disk and the settings of a machine; it outlives the machines booted from it. The
//! image runs through `make run`, as a user runs it; [`Target::hosted`] is the same server as a Linux
//! process, for what needs no machine.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::rc::Rc;
use std::time::Duration;

use redis::Connection;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::nbd::NbdServer;
use crate::process::Process;
use crate::qmp::{self, BlockCounts};
use crate::{client, root};

/// From start to the ready line; `make run` looks at its build first.
const READY_LIMIT: Duration = Duration::from_mins(2);
/// For an orderly end.
const END_LIMIT: Duration = Duration::from_secs(30);
/// What the console prints once connections are accepted.
pub const READY: &str = "siltstone ready";

/// What runs the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(
    non_camel_case_types,
    reason = "they name themselves in test names, as `make run ARCH=` does"
)]
pub enum Target {
    /// The image in `qemu-system-riscv64`.
    riscv64,
    /// The image in `qemu-system-aarch64`.
    aarch64,
    /// The Linux process.
    hosted,
}

impl Target {
    /// The machines, without the Linux process.
    pub const MACHINES: [Self; 2] = [Self::riscv64, Self::aarch64];

    /// Its name, as in `ARCH=`.
    pub fn name(self) -> &'static str {
        match self {
            Self::riscv64 => "riscv64",
            Self::aarch64 => "aarch64",
            Self::hosted => "hosted",
        }
    }
}

/// A disk and the settings of a machine that uses it.
pub struct Setup {
    target: Target,
    directory: Rc<TempDir>,
    disk: String,
    settings: Vec<(&'static str, String)>,
}

impl Setup {
    /// A machine with a disk that does not exist yet.
    pub fn new(target: Target) -> Self {
        let directory = Rc::new(tempfile::tempdir().expect("a temporary directory"));
        let disk = directory.path().join("disk.img").display().to_string();
        let setup = Self {
            target,
            directory,
            disk,
            settings: Vec::new(),
        };
        setup.with("DISK_SIZE", "256M").with("MEM", "128M")
    }

    /// Like [`Setup::new`], on a blank disk of the same size that can fail and forget.
    pub fn with_network_disk(target: Target) -> (Self, NbdServer) {
        let mut setup = Self::new(target);
        let server = NbdServer::start(setup.directory(), 256 << 20);
        setup.disk = server.uri();
        (setup, server)
    }

    /// Sets one of the variables of `make run`: `MEM`, `DISK_SIZE`, `QEMU_ARGS`. Of the hosted server only those of disks and
    /// keys mean something, and `CONFIG`, a parameter that it is started with.
    #[must_use]
    pub fn with(mut self, variable: &'static str, value: &str) -> Self {
        self.settings.retain(|(name, _)| *name != variable);
        self.settings.push((variable, value.to_owned()));
        self
    }

    /// Uses another disk: a path, or whatever else QEMU takes as a file.
    #[must_use]
    pub fn with_disk(mut self, disk: &str) -> Self {
        disk.clone_into(&mut self.disk);
        self
    }

    /// What runs here.
    pub fn target(&self) -> Target {
        self.target
    }

    /// A directory for this test alone.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The disk's file.
    pub fn disk(&self) -> &str {
        &self.disk
    }

    /// Boots and waits until it accepts connections.
    pub fn boot(&self) -> Machine {
        let machine = self.launch();
        machine.process.wait_for_line(READY, READY_LIMIT);
        machine
    }

    /// Boots a machine that must refuse to start; returns its console.
    pub fn boot_refused(&self) -> String {
        let mut machine = self.launch();
        let status = machine.process.wait_exit(READY_LIMIT);
        let console = machine.process.console_at_end(END_LIMIT);
        assert!(
            !status.success(),
            "it should have refused to start:\n{console}"
        );
        console
    }

    /// Starts it without waiting for anything.
    pub fn launch(&self) -> Machine {
        let port = free_port();
        self.launch_command(port, self.command(port))
    }

    /// Starts it as the leader of a process group of its own, as a shell starts a job, and waits until it is ready.
    pub fn boot_as_job(&self) -> Machine {
        let port = free_port();
        let mut command = self.command(port);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let machine = self.launch_command(port, command);
        machine.process.wait_for_line(READY, READY_LIMIT);
        machine
    }

    /// Starts it in a terminal, for typing, and waits until it is ready.
    pub fn boot_in_terminal(&self) -> Machine {
        let port = free_port();
        let run = self.command(port);
        let words: Vec<_> = [run.get_program()]
            .into_iter()
            .chain(run.get_args())
            .collect();
        let quoted = words
            .iter()
            .map(|word| format!("'{}'", word.to_string_lossy()));
        // The shell gives way to the command: dash would stay in between, and die of the Ctrl-C itself.
        let line = format!("exec {}", quoted.collect::<Vec<_>>().join(" "));
        // Ends as the command ends, and leaves no transcript.
        let mut command = Command::new("script");
        command.args(["-q", "-e", "-c", &line, "/dev/null"]);
        inherit_nothing(&mut command);
        let machine = self.launch_command(port, command);
        machine.process.wait_for_line(READY, READY_LIMIT);
        machine
    }

    fn launch_command(&self, port: u16, command: Command) -> Machine {
        Machine {
            target: self.target,
            port,
            monitor: self.monitor(),
            disks: [self.disk.clone(), self.setting("DISK2").to_owned()],
            _directory: Rc::clone(&self.directory),
            process: Process::spawn(command),
        }
    }

    fn command(&self, port: u16) -> Command {
        if self.target == Target::hosted {
            let mut command = Command::new(hosted_binary());
            command
                .arg("--disk")
                .arg(&self.disk)
                .arg("--port")
                .arg(port.to_string());
            for (variable, value) in &self.settings {
                let option = match *variable {
                    "DISK_SIZE" => "--disk-size",
                    "CONFIG" => "--config",
                    "DISK2" if !value.is_empty() => "--disk2",
                    "KEY_FILE" if !value.is_empty() => "--key-file",
                    _ => continue,
                };
                command.arg(option).arg(value);
            }
            return command;
        }
        let mut command = make();
        command.arg("run");
        let mut set = |name: &str, value: &str| {
            command.arg(format!("{name}={value}"));
        };
        set("ARCH", self.target.name());
        set("PORT", &port.to_string());
        set("DISK", &self.disk);
        set("QMP", &self.monitor().display().to_string());
        for (name, value) in &self.settings {
            set(name, value);
        }
        command
    }

    fn setting(&self, variable: &str) -> &str {
        let found = self.settings.iter().find(|(name, _)| *name == variable);
        found.map_or("", |(_, value)| value)
    }

    fn monitor(&self) -> PathBuf {
        self.directory.path().join("qmp.sock")
    }
}

/// A machine that runs. Dropping it kills it.
pub struct Machine {
    target: Target,
    port: u16,
    monitor: PathBuf,
    /// The second is empty when there is none.
    disks: [String; 2],
    process: Process,
    /// Its disk and its monitor are there.
    _directory: Rc<TempDir>,
}

impl Machine {
    /// Whether it has said so by now.
    pub fn is_ready(&self) -> bool {
        self.process.console().contains(READY)
    }

    /// The host's port, on the loopback address, that leads to the service.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `make run`, or the hosted server.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The process that is the machine: QEMU itself, or the hosted server.
    pub fn pid(&self) -> Pid {
        if self.target == Target::hosted {
            return self.process.pid();
        }
        let qemu = format!("qemu-system-{}", self.target.name());
        self.process
            .find(&qemu)
            .expect("`make run` has started QEMU")
    }

    /// A connection of redis-rs.
    pub fn connect(&self) -> Connection {
        client::connect(self.port)
    }

    /// What it asked of its disk since it started.
    pub fn block_counts(&self) -> BlockCounts {
        qmp::block_counts(&self.monitor)
    }

    /// Makes a disk larger while the machine runs: the first (1) or the second (2).
    pub fn resize_disk(&self, disk: usize, size_bytes: u64) {
        if self.target == Target::hosted {
            let file = OpenOptions::new().write(true).open(&self.disks[disk - 1]);
            let resized = file.and_then(|file| file.set_len(size_bytes));
            return resized.expect("the disk is a file");
        }
        let drive = if disk == 1 { "disk" } else { "disk2" };
        qmp::resize_drive(&self.monitor, drive, size_bytes);
    }

    /// Cuts the power: SIGKILL, no goodbye.
    pub fn power_cut(&mut self) {
        kill_process(self.pid(), Signal::KILL).expect("the machine runs");
        self.process.wait_exit(END_LIMIT);
    }

    /// Ends it with SHUTDOWN and expects success.
    pub fn shutdown(mut self) {
        let mut connection = self.connect();
        // A shutdown that works has no reply: the connection closes.
        let reply = redis::cmd("SHUTDOWN").query::<()>(&mut connection);
        assert!(
            reply
                .as_ref()
                .is_err_and(redis::RedisError::is_connection_dropped),
            "{reply:?}"
        );
        self.expect_clean_end();
    }

    /// The command line of QEMU, to start the same machine without `make` in between; its paths are
    /// relative to [`root`].
    pub fn qemu_command(&self) -> Vec<OsString> {
        let path = format!("/proc/{}/cmdline", self.pid().as_raw_nonzero());
        let words = std::fs::read_to_string(path).expect("QEMU runs");
        words
            .trim_end_matches('\0')
            .split('\0')
            .map(OsString::from)
            .collect()
    }

    /// Waits for an end that somebody else has begun, and expects success.
    pub fn expect_clean_end(&mut self) -> ExitStatus {
        let status = self.process.wait_exit(END_LIMIT);
        assert!(status.success(), "it ended with {status}");
        status
    }
}

/// `make` in the repository's root.
pub fn make() -> Command {
    let mut command = Command::new("make");
    command.arg("--no-print-directory").arg("-C").arg(root());
    inherit_nothing(&mut command);
    command
}

/// Removes what a `make` or `cargo` above the tests left in the environment.
fn inherit_nothing(command: &mut Command) {
    let left_over = |name: &OsString| {
        let name = name.to_string_lossy();
        let kept = ["CARGO_HOME", "CARGO_TARGET_DIR"].contains(&&*name);
        let inherited = [
            "CARGO",
            "RUSTUP_TOOLCHAIN",
            "RUSTC",
            "MAKE",
            "MFLAGS",
            "NEXTEST",
        ];
        !kept && inherited.iter().any(|prefix| name.starts_with(prefix))
    };
    for (name, _) in std::env::vars_os().filter(|(name, _)| left_over(name)) {
        command.env_remove(name);
    }
}

/// A port that nobody listens on. Below the range from which the kernel takes ports for outgoing
/// connections: another test opens those by the thousand.
pub fn free_port() -> u16 {
    loop {
        let port = fastrand::u16(10_000..32_000);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn hosted_binary() -> PathBuf {
    built(
        "SILTSTONE_HOSTED",
        "hosted",
        "cargo build -p app --features hosted",
    )
}

/// The host tool for images.
///
/// # Panics
/// When it was not built.
pub fn host_tool() -> PathBuf {
    built("SILTSTONE_TOOL", "siltstone", "cargo build -p cli")
}

/// A program that was built before the tests, or the one that `variable` names.
fn built(variable: &str, name: &str, how: &str) -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let binary =
        std::env::var_os(variable).map_or_else(|| target.join("debug").join(name), PathBuf::from);
    assert!(
        binary.exists(),
        "{} is missing: `make test` builds it ({how})",
        binary.display()
    );
    binary
}

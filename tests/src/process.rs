//! A child process whose console is kept, and that never outlives its guard.
//!
//! Invariants: dropping a [`Process`] ends it and everything it started, by process id; when that
//! happens in a panic, its console is printed. No wait is without a limit.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};

/// A running child and what it has printed so far.
pub struct Process {
    name: String,
    child: Child,
    console: Arc<Console>,
}

impl Process {
    /// Starts `command` with its output captured and an open standard input, see [`Process::type_in`].
    pub fn spawn(mut command: Command) -> Self {
        let words = [command.get_program()]
            .into_iter()
            .chain(command.get_args());
        let name = words
            .map(OsStr::to_string_lossy)
            .collect::<Vec<_>>()
            .join(" ");
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error} (is it installed?)"));
        Self::guard(name, child)
    }

    /// Keeps the console of a child that was started with both outputs piped.
    fn guard(name: String, mut child: Child) -> Self {
        let console = Arc::new(Console::new());
        console.follow(child.stdout.take().expect("piped"));
        console.follow(child.stderr.take().expect("piped"));
        Self {
            name,
            child,
            console,
        }
    }

    /// Runs `command` to its end and returns what it printed; panics when it fails or takes longer than `limit`.
    pub fn run(command: Command, limit: Duration) -> String {
        let mut process = Self::spawn(command);
        let status = process.wait_exit(limit);
        assert!(status.success(), "{} ended with {status}", process.name);
        process.console_at_end(limit)
    }

    /// Runs `command` to its end and returns what it printed; panics when it takes longer than `limit`.
    ///
    /// # Errors
    /// When it cannot be started or fails: why, with what it printed.
    pub fn try_run(mut command: Command, limit: Duration) -> Result<String, String> {
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{name}: {error}"))?;
        let mut process = Self::guard(name, child);
        let status = process.wait_exit(limit);
        let printed = process.console_at_end(limit);
        if status.success() {
            return Ok(printed);
        }
        Err(format!(
            "{} ended with {status}: {}",
            process.name,
            printed.trim()
        ))
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Waits until it has printed a line that begins with `prefix`, and returns that line.
    pub fn wait_for_line(&self, prefix: &str, limit: Duration) -> String {
        self.console
            .wait_for_line(prefix, limit)
            .unwrap_or_else(|state| {
                panic!(
                    "{} printed no line beginning with {prefix:?} ({state})",
                    self.name
                )
            })
    }

    /// Waits until it ends by itself.
    pub fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        self.exit_within(limit)
            .unwrap_or_else(|| panic!("{} still runs after {limit:?}", self.name))
    }

    /// Everything it has printed so far.
    pub fn console(&self) -> String {
        self.console.text()
    }

    /// Everything it ever printed: waits for its output to be closed.
    pub fn console_at_end(&self, limit: Duration) -> String {
        self.console.wait_closed(limit);
        self.console()
    }

    /// Writes to its standard input.
    pub fn type_in(&mut self, keys: &[u8]) {
        let input = self.child.stdin.as_mut().expect("piped");
        input.write_all(keys).expect("the process reads");
        input.flush().expect("the process reads");
    }

    /// Sends a signal to this process alone.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the process runs");
    }

    /// Sends a signal to its process group, as a terminal does. It must lead its own group.
    pub fn signal_group(&self, signal: Signal) {
        kill_process_group(self.pid(), signal).expect("the process leads a group");
    }

    /// The process or descendant one of whose first words on the command line ends with `program`.
    pub fn find(&self, program: &str) -> Option<Pid> {
        self.family().into_iter().find(|pid| {
            let path = format!("/proc/{}/cmdline", pid.as_raw_nonzero());
            let words = fs::read_to_string(path).unwrap_or_default();
            // Of a script the first word is its interpreter.
            words
                .split('\0')
                .take(2)
                .any(|word| word.ends_with(program))
        })
    }

    fn exit_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        if let Some(status) = self.child.try_wait().expect("own child") {
            return Some(status);
        }
        wait_for_end_of(self.pid(), limit).then(|| self.child.wait().expect("own child"))
    }

    /// This process and all its descendants, parents first.
    fn family(&self) -> Vec<Pid> {
        let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
        for entry in fs::read_dir("/proc").expect("procfs").flatten() {
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            // The second field is the name in parentheses and may hold anything; the parent is two after it.
            let parent = stat
                .rsplit(')')
                .next()
                .and_then(|rest| rest.split_whitespace().nth(1));
            let pid = entry.file_name().to_string_lossy().parse();
            if let (Ok(pid), Some(Ok(parent))) = (pid, parent.map(str::parse)) {
                children.entry(parent).or_default().push(pid);
            }
        }
        let mut family = vec![self.pid().as_raw_nonzero().get()];
        let mut next = 0;
        while let Some(pid) = family.get(next) {
            family.extend(children.remove(pid).unwrap_or_default());
            next += 1;
        }
        family.into_iter().filter_map(Pid::from_raw).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.try_wait().ok().flatten().is_none() {
            for pid in self.family() {
                // It may just have ended by itself.
                let _ = kill_process(pid, Signal::KILL);
            }
            let _ = self.child.wait();
        }
        if thread::panicking() {
            println!("--- console of {}\n{}\n---", self.name, self.console.text());
        }
    }
}

/// Waits until the process has ended; false when it still runs after `limit`.
pub fn wait_for_end_of(pid: Pid, limit: Duration) -> bool {
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else {
        return true;
    };
    let deadline = Instant::now() + limit;
    loop {
        let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).ok();
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], left.as_ref()) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("poll on a process: {error}"),
        }
    }
}

/// What a process printed on both its outputs, in the order of arrival.
struct Console {
    state: Mutex<ConsoleState>,
    changed: Condvar,
}

#[derive(Default)]
struct ConsoleState {
    bytes: Vec<u8>,
    open_outputs: usize,
}

impl Console {
    fn new() -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    fn follow(self: &Arc<Self>, mut output: impl Read + Send + 'static) {
        self.lock().open_outputs += 1;
        let console = Arc::clone(self);
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut chunk) {
                console.lock().bytes.extend_from_slice(&chunk[..count]);
                console.changed.notify_all();
            }
            console.lock().open_outputs -= 1;
            console.changed.notify_all();
        });
    }

    fn wait_for_line(&self, prefix: &str, limit: Duration) -> Result<String, &'static str> {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        loop {
            let text = String::from_utf8_lossy(&state.bytes);
            let whole_lines = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
            if let Some(line) = whole_lines.lines().find(|line| line.starts_with(prefix)) {
                return Ok(line.to_owned());
            }
            if state.open_outputs == 0 {
                return Err("its output ended");
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err("time ran out");
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .expect("no panic holds it")
                .0;
        }
    }

    fn wait_closed(&self, limit: Duration) {
        let state = self.lock();
        let (_state, wait) = self
            .changed
            .wait_timeout_while(state, limit, |state| state.open_outputs > 0)
            .expect("no panic holds it");
        assert!(!wait.timed_out(), "a console is still open after {limit:?}");
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.lock().bytes).into_owned()
    }

    fn lock(&self) -> MutexGuard<'_, ConsoleState> {
        self.state.lock().expect("no panic holds it")
    }
}

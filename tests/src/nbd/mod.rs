//! A network block device for QEMU that behaves like a bad day: it forgets unflushed writes at a
//! power cut, stops in the middle of the work, fails reads, writes or flushes on request, and
//! hangs: neither answers nor fails, and goes on later as if nothing had been.
//!
//! A SIGKILL of QEMU leaves written data in the host's page cache, so on an image file it cannot show
//! a missing FLUSH. On this disk it can.

mod disk;
mod wire;

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use fastrand::Rng;

pub use disk::{SECTOR_BYTES, VolatileDisk};
use wire::{Command, ReplyError, Request};

/// How long a client may take to let go of the disk after its end.
const RELEASE_LIMIT: Duration = Duration::from_secs(10);

/// Which requests fail with an input/output error. A failed write or flush leaves the disk as it was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// Reads fail.
    pub reads: bool,
    /// Writes fail.
    pub writes: bool,
    /// Flushes fail.
    pub flushes: bool,
    /// So many requests of these kinds still succeed first.
    pub after: u64,
}

/// The server; it serves until the test ends.
pub struct NbdServer {
    socket: PathBuf,
    shared: Arc<Shared>,
}

impl NbdServer {
    /// Serves a blank disk of `bytes` on a socket in `directory`.
    pub fn start(directory: &Path, bytes: usize) -> Self {
        let socket = directory.join("nbd.sock");
        let listener = UnixListener::bind(&socket).expect("a socket in a fresh directory");
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                disk: VolatileDisk::new(bytes),
                faults: Faults::default(),
                requests_until_stall: None,
                stalled: false,
                hangs: false,
                clients: 0,
            }),
            changed: Condvar::new(),
        });
        let server = Self { socket, shared };
        let shared = Arc::clone(&server.shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                shared.lock().clients += 1;
                thread::spawn(move || {
                    // An error is a client that was killed in the middle of a message: its end, too.
                    let _ = shared.serve(stream);
                    shared.lock().clients -= 1;
                    shared.changed.notify_all();
                });
            }
        });
        server
    }

    /// What QEMU takes in place of a file name.
    pub fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket.display())
    }

    /// Makes requests fail from now on, or no longer.
    pub fn set_faults(&self, faults: Faults) {
        self.shared.lock().faults = faults;
    }

    /// After `requests` more requests the disk stops answering, as if the power had just gone.
    pub fn stall_after(&self, requests: u64) {
        self.shared.lock().requests_until_stall = Some(requests);
    }

    /// After `requests` more requests the disk stops answering, and carries out what it was asked once it is
    /// [woken](Self::wake).
    pub fn hang_after(&self, requests: u64) {
        let mut state = self.shared.lock();
        state.requests_until_stall = Some(requests);
        state.hangs = true;
    }

    /// Ends a hang: what the disk was asked meanwhile it does now, in the order it was asked.
    pub fn wake(&self) {
        let mut state = self.shared.lock();
        state.requests_until_stall = None;
        state.stalled = false;
        state.hangs = false;
        self.shared.changed.notify_all();
    }

    /// Waits until it has stopped answering; false when it still answers after `limit`.
    pub fn wait_stalled(&self, limit: Duration) -> bool {
        let (state, _) = self
            .shared
            .changed
            .wait_timeout_while(self.shared.lock(), limit, |state| !state.stalled)
            .expect("no panic holds it");
        state.stalled
    }

    /// Draws what survives a power cut, and answers again. The machine must have been killed.
    pub fn power_cut(&self, rng: &mut Rng) {
        let (mut state, wait) = self
            .shared
            .changed
            .wait_timeout_while(self.shared.lock(), RELEASE_LIMIT, |state| state.clients > 0)
            .expect("no panic holds it");
        assert!(
            !wait.timed_out(),
            "a power cut with the machine still running"
        );
        let (unflushed, survivors) = state.disk.power_cut(rng);
        println!("power cut: {survivors} of {unflushed} unflushed sectors survive");
        state.requests_until_stall = None;
        state.stalled = false;
    }
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    disk: VolatileDisk,
    faults: Faults,
    requests_until_stall: Option<u64>,
    stalled: bool,
    /// It goes on once it is woken.
    hangs: bool,
    clients: usize,
}

impl Shared {
    fn serve(&self, mut stream: UnixStream) -> std::io::Result<()> {
        let bytes = self.lock().disk.len() as u64;
        if !wire::negotiate(&mut stream, bytes)? {
            return Ok(());
        }
        while let Some(request) = wire::read_request(&mut stream)? {
            let handle = request.handle;
            // Without an answer the client waits; it ends when the test kills it.
            if let Some(result) = self.answer(request) {
                wire::write_reply(&mut stream, handle, result)?;
            }
        }
        Ok(())
    }

    /// Carries a request out; none when the disk has stalled.
    fn answer(&self, request: Request) -> Option<Result<Vec<u8>, ReplyError>> {
        let mut state = self.lock();
        match state.requests_until_stall {
            Some(0) if state.hangs => {
                state.stalled = true;
                self.changed.notify_all();
                let hanging = |state: &mut State| state.hangs;
                let woken = self.changed.wait_while(state, hanging);
                state = woken.expect("no panic holds it");
            }
            Some(0) => {
                // A write that was on its way may reach the medium, like any other unflushed one.
                if let Command::Write(_) = &request.command {
                    let _ = state.execute(request);
                }
                state.stalled = true;
                self.changed.notify_all();
                return None;
            }
            Some(left) => state.requests_until_stall = Some(left - 1),
            None => {}
        }
        Some(state.execute(request))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic holds it")
    }
}

impl State {
    fn execute(&mut self, request: Request) -> Result<Vec<u8>, ReplyError> {
        let Request {
            offset, command, ..
        } = request;
        let (bytes, may_fail) = match &command {
            Command::Read(bytes) => (*bytes, self.faults.reads),
            Command::Write(data) => (data.len() as u32, self.faults.writes),
            Command::Flush => (0, self.faults.flushes),
            Command::Trim(bytes) => (*bytes, self.faults.writes),
            Command::Unknown => return Err(ReplyError::Invalid),
        };
        if !self.disk.holds(offset, bytes) {
            return Err(ReplyError::Invalid);
        }
        if may_fail {
            if self.faults.after == 0 {
                return Err(ReplyError::Io);
            }
            self.faults.after -= 1;
        }
        let (offset, bytes) = (offset as usize, bytes as usize);
        let mut answer = Vec::new();
        match command {
            Command::Read(_) => {
                answer.resize(bytes, 0);
                self.disk.read(offset, &mut answer);
            }
            Command::Write(data) => self.disk.write(offset, &data),
            Command::Flush => self.disk.flush(),
            Command::Trim(_) => self.disk.trim(offset, bytes),
            Command::Unknown => return Err(ReplyError::Invalid),
        }
        Ok(answer)
    }
}

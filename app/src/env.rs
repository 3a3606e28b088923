//! What all sessions and commands share, free of the types of disk and clock.

use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, Ref, RefCell, RefMut};
use core::fmt::Write as _;

use kvstore::{Damage, Stats as StoreStats, Timestamp};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

use crate::clients::Clients;
use crate::command::Failure;
use crate::command::table::COMMANDS;
use crate::config::{AppendFsync, Config, Limit, StoreSettings};
use lfs::Notify;

/// Disk and clock, as control commands need them.
pub(crate) trait Engine {
    /// Microseconds that never go back.
    fn now_us(&self) -> u64;
    /// Microseconds since the Unix epoch.
    fn unix_us(&self) -> i64;
    fn store_stats(&self) -> StoreStats;
    fn durable(&self) -> Timestamp;
    /// Bytes of memory for data; 0 for what suits the machine.
    fn set_maxmemory(&self, bytes: usize);
    /// What the store is told of the configuration.
    fn set_store(&self, settings: &StoreSettings);
    /// Bytes in a second that a scrub reads at most; 0 for as many as it can.
    fn set_scrub_rate(&self, bytes_per_second: u64);
    /// Begins a scrub in the background; false when one is under way.
    fn start_scrub(&self) -> bool;
    /// Whether a scrub is under way or about to begin.
    fn is_scrubbing(&self) -> bool;
    /// What the newest scrub found and could not repair.
    fn damage(&self) -> Ref<'_, Damage>;
}

/// Which commands a pause holds back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PauseMode {
    Write,
    All,
}

/// CLIENT PAUSE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pause {
    pub(crate) until_us: u64,
    pub(crate) mode: PauseMode,
}

/// Shared state.
pub(crate) struct Env {
    config: RefCell<Config>,
    pub(crate) clients: Clients,
    pub(crate) stats: Stats,
    random: RefCell<ChaCha8Rng>,
    /// Forty hexadecimal digits that differ from run to run.
    pub(crate) run_id: String,
    pub(crate) started_us: u64,
    pub(crate) active_expire: Cell<bool>,
    pause: Cell<Option<Pause>>,
    pausing: Cell<bool>,
    pub(crate) pause_changed: Notify,
    shutdown_requested: Cell<bool>,
    pub(crate) shutdown: Notify,
    /// Somebody wants a scrub that has not begun.
    pub(crate) scrub_wanted: Cell<bool>,
    pub(crate) scrub: Notify,
    /// No new command is executed.
    pub(crate) draining: Cell<bool>,
    /// Some session has sent everything it had.
    pub(crate) sent: Notify,
    /// The clock's last reading; good enough for measuring seconds.
    pub(crate) coarse_us: Cell<u64>,
    /// Unix seconds when everything committed was last seen durable.
    pub(crate) last_save_secs: Cell<i64>,
}

impl Env {
    pub(crate) fn new(config: Config, seed: [u8; 32], started_us: u64) -> Self {
        let mut random = ChaCha8Rng::from_seed(seed);
        let mut run_id = String::new();
        for _ in 0..5 {
            // Writing to a String cannot fail.
            let _ = write!(run_id, "{:08x}", random.next_u32());
        }
        Self {
            config: RefCell::new(config),
            clients: Clients::default(),
            stats: Stats::new(),
            random: RefCell::new(random),
            run_id,
            started_us,
            active_expire: Cell::new(true),
            pause: Cell::new(None),
            pausing: Cell::new(false),
            pause_changed: Notify::default(),
            shutdown_requested: Cell::new(false),
            shutdown: Notify::default(),
            scrub_wanted: Cell::new(false),
            scrub: Notify::default(),
            draining: Cell::new(false),
            sent: Notify::default(),
            coarse_us: Cell::new(started_us),
            last_save_secs: Cell::new(0),
        }
    }

    pub(crate) fn config(&self) -> Ref<'_, Config> {
        self.config.borrow()
    }

    pub(crate) fn config_mut(&self) -> RefMut<'_, Config> {
        self.config.borrow_mut()
    }

    /// Whether replies wait for durability.
    pub(crate) fn replies_wait(&self) -> bool {
        self.config.borrow().appendfsync() == AppendFsync::Always
    }

    /// Longest value.
    pub(crate) fn value_bytes_max(&self) -> usize {
        self.config.borrow().limit_usize(Limit::BulkBytes)
    }

    pub(crate) fn random_u64(&self) -> u64 {
        self.random.borrow_mut().next_u64()
    }

    /// Whether there is a pause; it may be over.
    pub(crate) fn is_pausing(&self) -> bool {
        self.pausing.get()
    }

    pub(crate) fn pause(&self) -> Option<Pause> {
        self.pause.get()
    }

    pub(crate) fn set_pause(&self, pause: Option<Pause>) {
        self.pause.set(pause);
        self.pausing.set(pause.is_some());
        self.pause_changed.notify();
    }

    pub(crate) fn request_shutdown(&self) {
        self.shutdown_requested.set(true);
        self.shutdown.notify();
    }

    pub(crate) fn is_shutdown_requested(&self) -> bool {
        self.shutdown_requested.get()
    }
}

/// Counters since start or CONFIG RESETSTAT.
#[derive(Debug)]
pub(crate) struct Stats {
    commands: Vec<CommandStats>,
    errors: RefCell<Vec<(Vec<u8>, u64)>>,
    pub(crate) input_bytes: Cell<u64>,
    pub(crate) output_bytes: Cell<u64>,
    pub(crate) output_limit_closed: Cell<u64>,
    pub(crate) query_limit_closed: Cell<u64>,
}

/// Counters of one command, by its index in the table.
#[derive(Debug, Default)]
pub(crate) struct CommandStats {
    pub(crate) calls: Cell<u64>,
    pub(crate) rejected: Cell<u64>,
    pub(crate) failed: Cell<u64>,
}

/// Error codes counted apart; further ones are counted as `OTHER`.
const ERROR_CODES_MAX: usize = 32;

impl Stats {
    fn new() -> Self {
        Self {
            commands: COMMANDS.iter().map(|_| CommandStats::default()).collect(),
            errors: RefCell::default(),
            input_bytes: Cell::new(0),
            output_bytes: Cell::new(0),
            output_limit_closed: Cell::new(0),
            query_limit_closed: Cell::new(0),
        }
    }

    pub(crate) fn command(&self, index: usize) -> Option<&CommandStats> {
        self.commands.get(index)
    }

    pub(crate) fn commands(&self) -> impl Iterator<Item = (&'static str, &CommandStats)> {
        COMMANDS.iter().map(|spec| spec.name).zip(&self.commands)
    }

    pub(crate) fn total_calls(&self) -> u64 {
        self.commands
            .iter()
            .map(|command| command.calls.get())
            .sum()
    }

    /// Counts an error reply.
    pub(crate) fn count_error(&self, text: &[u8]) {
        let mut errors = self.errors.borrow_mut();
        let code = Failure::code(text);
        if let Some((_, count)) = errors.iter_mut().find(|(known, _)| known == code) {
            *count += 1;
            return;
        }
        let code = if errors.len() < ERROR_CODES_MAX {
            code
        } else {
            b"OTHER"
        };
        match errors.iter_mut().find(|(known, _)| known == code) {
            Some((_, count)) => *count += 1,
            None => errors.push((code.to_vec(), 1)),
        }
    }

    pub(crate) fn errors(&self) -> Vec<(Vec<u8>, u64)> {
        self.errors.borrow().clone()
    }

    pub(crate) fn reset(&self) {
        for command in &self.commands {
            command.calls.set(0);
            command.rejected.set(0);
            command.failed.set(0);
        }
        self.errors.borrow_mut().clear();
        self.input_bytes.set(0);
        self.output_bytes.set(0);
        self.output_limit_closed.set(0);
        self.query_limit_closed.set(0);
    }
}

/// Adds to a counter.
pub(crate) fn add(counter: &Cell<u64>, amount: usize) {
    counter.set(counter.get().wrapping_add(amount as u64));
}

/// Takes what was added to a counter back.
pub(crate) fn take_back(counter: &Cell<u64>, amount: u64) {
    counter.set(counter.get().wrapping_sub(amount));
}

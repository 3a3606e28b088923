//! Whether the store keeps transactions apart: 100,000 random ones at all levels, from several clients at once, on the simulated disk and executor, while
//! memtables are flushed, tables merged, and reads miss; and what their clients saw is held against what the levels promise (`tests::history`).
//!
//! Checked for each seed:
//! - what `tests::history::recording` says of each level, real time included;
//! - nobody who does not lock anything waits for ever, and nothing is refused for another reason than a conflict, a deadlock, or old age;
//! - most transactions are committed: a store that refuses all is isolated, too;
//! - there were flushes, and transactions that lived through them.
//!
//! `ISOLATION_TRANSACTIONS` makes it more than 100,000.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test may panic, and its numbers are small"
)]

use std::cell::{Cell, RefCell};
use std::fmt::Debug;
use std::rc::Rc;
use std::time::Instant;

use embassy_futures::yield_now;
use fastrand::Rng;
use kvstore::{
    BeginOptions, CommitError, CommitStop, DatabaseIndex, Ended, Isolation, Loaded, LockStop,
    Missing, OpenTransaction, Options, SavepointError, Store, TransactError, Transaction,
    TransactionLimits,
};
use lfs::sim::{Executor, SimClock, SimDisk};
use lfs::{BLOCK_SIZE, Clock, FileSystemId, FormatOptions};
use tests::history::plan::{Plan, Planner, Step, appended, key, list_of, numbers};
use tests::history::recording::{Level, Recording, Window};
use tests::history::{Outcome, check};
use tests::seed;

type TestStore = Store<SimDisk>;

/// Clients at one time.
const CLIENTS: usize = 10;

/// Transactions of one seed.
const TRANSACTIONS: usize = 2500;

const DB: DatabaseIndex = DatabaseIndex(0);

/// The smallest segments and log there are: there is a flush every few dozen commits.
const FORMAT: FormatOptions = FormatOptions {
    segment_bytes: 8 * BLOCK_SIZE as u32,
    log_segments: 16,
    created_ns: 0,
};

/// All that is shared by those who take part.
struct World {
    store: TestStore,
    clock: SimClock,
    planner: RefCell<Planner>,
    random: RefCell<Rng>,
    history: RefCell<Vec<tests::history::Transaction>>,
    ticks: Cell<u64>,
    /// Transactions that are still to be begun.
    left: Cell<usize>,
    running: Cell<usize>,
    counts: RefCell<Counts>,
    misses: bool,
}

#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    committed: usize,
    conflicts: usize,
    deadlocks: usize,
    ended: usize,
    rolled_back: usize,
}

/// Why a transaction is over before its end.
enum Over {
    Conflict,
    Deadlock,
    Ended,
}

impl From<Ended> for Over {
    fn from(_: Ended) -> Self {
        Self::Ended
    }
}

impl World {
    fn tick(&self) -> u64 {
        self.ticks.set(self.ticks.get() + 1);
        self.ticks.get()
    }

    fn now_ms(&self) -> i64 {
        self.clock.unix_ms()
    }

    /// Lets others come in between, or not.
    async fn pause(&self) {
        let (yields, sleep_ms) = {
            let mut random = self.random.borrow_mut();
            let sleeps = random.u8(..10) == 0;
            (random.u8(..4), sleeps.then(|| random.u64(..3)))
        };
        for _ in 0..yields {
            yield_now().await;
        }
        if let Some(ms) = sleep_ms {
            self.clock.sleep_ms(ms).await;
        }
    }

    /// A statement of an open transaction.
    async fn statement<T>(
        &self,
        open: &OpenTransaction,
        mut body: impl FnMut(&mut Transaction<'_, SimDisk>) -> Result<T, Missing>,
    ) -> Result<T, Over> {
        let mut loaded = Loaded::default();
        loop {
            let mut transaction = self.store.resume(open, self.now_ms(), 0, &mut loaded)?;
            let result = body(&mut transaction);
            let faults = if let Ok(value) = result {
                match transaction.suspend(true) {
                    Ok(_) => return Ok(value),
                    Err(CommitError::Fault(faults)) => faults,
                    Err(error) => panic!("{error}"),
                }
            } else {
                let faults = transaction.take_faults();
                let _ = transaction.suspend(false);
                faults
            };
            self.store.load_all(faults, &mut loaded).await.unwrap();
        }
    }

    async fn lock(&self, open: &OpenTransaction, list: u64) -> Result<(), Over> {
        loop {
            match self
                .store
                .try_lock(open, DB, key(list).as_bytes(), self.now_ms())
            {
                Ok(()) => return Ok(()),
                Err(LockStop::Wait(ticket)) => self.store.locked(ticket).await,
                Err(LockStop::Deadlock(_)) => return Err(Over::Deadlock),
                Err(LockStop::Conflict(_)) => return Err(Over::Conflict),
                Err(LockStop::Ended) => return Err(Over::Ended),
                Err(stop) => panic!("{stop:?}"),
            }
        }
    }

    async fn commit(&self, open: &OpenTransaction) -> Result<(), Over> {
        let mut loaded = Loaded::default();
        loop {
            match self
                .store
                .try_commit(open, None, self.now_ms(), 0, &mut loaded)
            {
                Ok(_) => return Ok(()),
                Err(CommitStop::Fault(faults)) => {
                    self.store.load_all(faults, &mut loaded).await.unwrap();
                }
                Err(CommitStop::Locked(ticket)) => self.store.locked(ticket).await,
                Err(CommitStop::Busy) => self.store.admit().await,
                Err(CommitStop::Conflict(_)) => return Err(Over::Conflict),
                Err(CommitStop::Deadlock(_)) => return Err(Over::Deadlock),
                Err(CommitStop::Ended) => return Err(Over::Ended),
                Err(stop) => panic!("{stop:?}"),
            }
        }
    }

    /// Runs a transaction that stays open between its statements.
    async fn run_open(&self, plan: &Plan) {
        let isolation = match plan.level {
            Level::Serializable => Isolation::Serializable,
            Level::Snapshot => Isolation::Snapshot,
            Level::ReadCommitted | Level::Alone => Isolation::ReadCommitted,
        };
        let options = BeginOptions {
            isolation,
            ..BeginOptions::default()
        };
        let asked = self.tick();
        let open = self.store.begin(options, self.now_ms(), 0).unwrap();
        let mut recording = Recording::new(plan.level, (asked, self.tick()));
        let asked = Cell::new(0);
        let done = async {
            let mut savepoint = 0;
            for step in &plan.steps {
                self.pause().await;
                asked.set(self.tick());
                match step {
                    Step::Append { list, value } => {
                        let (key, tail) = (key(*list), appended(*value));
                        let append = |transaction: &mut Transaction<'_, SimDisk>| {
                            transaction.append(DB, key.as_bytes(), tail.as_bytes())
                        };
                        self.statement(&open, append).await?;
                        recording.append(*list, *value);
                    }
                    Step::Lock(list) => {
                        self.lock(&open, *list).await?;
                        recording.lock(*list);
                    }
                    Step::Savepoint => {
                        let made = self.store.savepoint(&open, b"s");
                        made.map_err(of_savepoint)?;
                        savepoint = recording.savepoint();
                    }
                    Step::RollBack => {
                        let rolled_back = self.store.roll_back_to(&open, b"s");
                        rolled_back.map_err(of_savepoint)?;
                        recording.roll_back_to(savepoint);
                    }
                    reading => {
                        let lists = self.statement(&open, |one| read(one, reading)).await?;
                        recording.read((asked.get(), self.tick()), lists);
                    }
                }
            }
            self.pause().await;
            asked.set(self.tick());
            if !plan.commits {
                return Ok(false);
            }
            self.commit(&open).await?;
            Ok::<bool, Over>(true)
        };
        let done = done.await;
        drop(open);
        let outcome = {
            let mut counts = self.counts.borrow_mut();
            let count = match done {
                Ok(true) => &mut counts.committed,
                Ok(false) => &mut counts.rolled_back,
                Err(Over::Conflict) => &mut counts.conflicts,
                Err(Over::Deadlock) => &mut counts.deadlocks,
                Err(Over::Ended) => &mut counts.ended,
            };
            *count += 1;
            match done {
                Ok(true) => Outcome::Committed,
                _ => Outcome::Aborted,
            }
        };
        let end = (asked.get(), self.tick());
        recording.end(end, outcome, &mut self.history.borrow_mut());
    }

    /// Runs one that is a single request.
    async fn run_alone(&self, plan: &Plan) {
        let asked = self.tick();
        let run = |transaction: &mut Transaction<'_, SimDisk>| {
            let mut recording = Recording::new(Level::Alone, (asked, asked));
            for step in &plan.steps {
                match step {
                    Step::Append { list, value } => {
                        let tail = appended(*value);
                        transaction.append(DB, key(*list).as_bytes(), tail.as_bytes())?;
                        recording.append(*list, *value);
                    }
                    reading => recording.read((asked, asked), read(transaction, reading)?),
                }
            }
            Ok(recording)
        };
        let recording = loop {
            self.store.admit().await;
            match self.store.transact(self.now_ms(), 0, run).await {
                Ok((recording, _)) => break recording,
                Err(TransactError::Commit(CommitError::Busy)) => {}
                Err(error) => panic!("{error}"),
            }
        };
        self.counts.borrow_mut().committed += 1;
        let end: Window = (asked, self.tick());
        recording.end(end, Outcome::Committed, &mut self.history.borrow_mut());
    }

    async fn client(&self) {
        while let Some(left) = self.left.get().checked_sub(1) {
            self.left.set(left);
            let plan = self.planner.borrow_mut().plan();
            self.store.admit().await;
            match plan.level {
                Level::Alone => self.run_alone(&plan).await,
                _ => self.run_open(&plan).await,
            }
            self.pause().await;
        }
        self.running.set(self.running.get() - 1);
    }

    /// Fills memtables with what is nobody's, in keys before, between and behind the lists, so that there is something to flush and to merge.
    async fn noise(&self) {
        while self.running.get() > 0 {
            let (number, len, clears) = {
                let mut random = self.random.borrow_mut();
                (random.u32(..60), random.usize(..3000), random.u8(..12) == 0)
            };
            self.store.admit().await;
            let write = |transaction: &mut Transaction<'_, SimDisk>| {
                let name = match number % 3 {
                    0 => format!("a{number}"),
                    1 => format!("list{:08}.{number}", number / 8),
                    _ => format!("z{number}"),
                };
                if clears {
                    transaction.delete_range(DB, b"z", b"zz");
                }
                transaction.put(DB, name.as_bytes(), vec![b'.'; len], None);
                Ok(())
            };
            match self.store.transact(self.now_ms(), 0, write).await {
                Ok(_) | Err(TransactError::Commit(CommitError::Busy)) => {}
                Err(error) => panic!("{error}"),
            }
            self.clock.sleep_ms(1).await;
        }
    }
}

fn of_savepoint(error: SavepointError) -> Over {
    match error {
        SavepointError::Ended => Over::Ended,
        error => panic!("{error}"),
    }
}

/// What a statement reads: lists that are not there are empty.
fn read(
    transaction: &mut Transaction<'_, SimDisk>,
    step: &Step,
) -> Result<Vec<(u64, Vec<u64>)>, Missing> {
    let (range, reverse) = match step {
        Step::Read(list) => {
            let entry = transaction.get(DB, key(*list).as_bytes())?;
            let values = entry.map(|entry| numbers(&entry.value));
            return Ok(vec![(*list, values.unwrap_or_default())]);
        }
        Step::Range(range) => (range, false),
        Step::Reverse(range) => (range, true),
        other => panic!("{other:?} reads nothing"),
    };
    let (start, end) = (key(range.start), key(range.end));
    let (start, end) = (start.as_bytes(), end.as_bytes());
    let found = transaction.range(DB, start, end, reverse, usize::MAX, true)?;
    let mut lists: Vec<_> = range.clone().map(|list| (list, Vec::new())).collect();
    for (key, entry) in found {
        if let (Some(list), Some(entry)) = (list_of(&key), entry) {
            let place = usize::try_from(list - range.start).unwrap();
            lists[place].1 = numbers(&entry.value);
        }
    }
    Ok(lists)
}

/// Plays `transactions` of these levels; how they ended, and how many flushes there were.
fn play(seed: u64, levels: &[Level], transactions: usize, misses: bool) -> (Counts, u64) {
    let disk = SimDisk::new(400 * 8, seed);
    let mut executor = Executor::new(seed);
    let target = disk.clone();
    let store = executor.run(async move {
        lfs::format(&target, FORMAT, FileSystemId([0xA5; 16]))
            .await
            .unwrap();
        let options = Options {
            memory_bytes_max: 2 << 20,
            open_memory_bytes_max: 16 << 20,
            hash_seed: 1,
            history_ms: 0,
        };
        Store::open(target, options).await.unwrap()
    });
    if misses {
        store.miss_at_random(seed);
    }
    store.set_large_value_bytes(256);
    store.set_memtable_bytes_max(100 << 10);
    let mut random = Rng::with_seed(seed);
    store.set_history_retention(if random.bool() { 20 } else { 0 });
    store.set_transaction_limits(TransactionLimits {
        age_ms: 2000,
        ..TransactionLimits::default()
    });
    let world = Rc::new(World {
        store,
        clock: executor.clock(),
        planner: RefCell::new(Planner::new(random.u64(..), levels)),
        random: RefCell::new(random),
        history: RefCell::default(),
        ticks: Cell::new(0),
        left: Cell::new(transactions),
        running: Cell::new(CLIENTS),
        counts: RefCell::default(),
        misses,
    });
    let background = Rc::clone(&world);
    executor.spawn(async move { background.store.run(&background.clock).await });
    let background = Rc::clone(&world);
    executor.spawn(async move { background.noise().await });
    for _ in 0..CLIENTS {
        let client = Rc::clone(&world);
        executor.spawn(async move { client.client().await });
    }
    let waiting = Rc::clone(&world);
    executor.run(async move {
        while waiting.running.get() > 0 {
            waiting.store.expire_transactions(waiting.now_ms());
            waiting.clock.sleep_ms(5).await;
        }
    });
    let history = world.history.take();
    let anomalies = check(&history);
    for anomaly in anomalies.iter().take(5) {
        println!("{anomaly}");
    }
    if let Some(anomaly) = anomalies.first() {
        explain(&history, anomaly);
    }
    assert!(
        anomalies.is_empty(),
        "seed {seed}, {levels:?}, misses {}",
        world.misses
    );
    let counts = *world.counts.borrow();
    (counts, world.store.stats().checkpoints)
}

/// Shows the transactions that an anomaly speaks of.
fn explain(history: &[tests::history::Transaction], anomaly: &impl Debug) {
    let text = format!("{anomaly:?}");
    let places = text
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|word| word.parse().ok());
    let mut places: Vec<usize> = places.collect();
    places.sort_unstable();
    places.dedup();
    for place in places {
        if let Some(transaction) = history.get(place) {
            println!("T{place}: {transaction:?}");
        }
    }
}

fn campaign(name: &str, levels: &[Level], part: usize) {
    let mut random = seed::rng();
    let all = std::env::var("ISOLATION_TRANSACTIONS").ok();
    let all = all.map_or(100_000, |count| count.parse().expect("a number"));
    let started = Instant::now();
    let (mut total, mut flushes) = (Counts::default(), 0);
    let rounds = (all / part).div_ceil(TRANSACTIONS);
    for round in 0..rounds {
        let (counts, written) = play(random.u64(..), levels, TRANSACTIONS, round % 2 == 1);
        total.committed += counts.committed;
        total.conflicts += counts.conflicts;
        total.deadlocks += counts.deadlocks;
        total.ended += counts.ended;
        total.rolled_back += counts.rolled_back;
        flushes += written;
    }
    println!(
        "{name}: {} transactions in {:?}: {total:?}, {flushes} flushes",
        rounds * TRANSACTIONS,
        started.elapsed()
    );
    assert!(total.committed > rounds * TRANSACTIONS / 3, "{total:?}");
    assert!(total.ended < rounds * TRANSACTIONS / 50, "{total:?}");
    // About one in each round.
    assert!(flushes * 4 > rounds as u64, "{flushes}");
}

#[test]
fn serializable() {
    campaign("serializable", &[Level::Serializable], 4);
}

#[test]
fn snapshot() {
    campaign("snapshot", &[Level::Snapshot], 4);
}

#[test]
fn read_committed() {
    campaign("read committed", &[Level::ReadCommitted], 4);
}

#[test]
fn all_levels_at_once() {
    let levels = [
        Level::Serializable,
        Level::Snapshot,
        Level::ReadCommitted,
        Level::Alone,
    ];
    campaign("all levels", &levels, 4);
}

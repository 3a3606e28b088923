//! What clients do: phases of work, and how each of them went.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::accounts;
use crate::data::{Care, Data, Key};
use crate::engine::{Client, Engine};
use crate::histogram::Histogram;
use crate::{flushes, usage};

/// Bytes of a commit while data is loaded.
const FILL_COMMIT_BYTES: u64 = 256 << 10;

/// Tasks of one thread give way after so many operations that only read: not all of them wait for a disk.
const READS_PER_TURN: u64 = 64;

/// How often room on the disk is looked at in a phase where it is.
pub const SPACE_SAMPLES: u64 = 20;

/// What is done in one go, and measured for itself.
#[derive(Debug, Clone)]
pub struct Phase {
    /// Stable, for figures.
    pub name: String,
    pub title: String,
    pub clients: u64,
    pub load: Load,
    /// It ends after so many operations of all clients together, or after this time.
    pub operations_max: u64,
    pub seconds_max: f64,
    /// Whether it begins with nothing in memory, as far as that can be had.
    pub cold: bool,
    /// Whether the kernel is to keep nothing of the files in memory: what the engine has not is read from the disk.
    pub uncached: bool,
}

/// What an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// All keys by index, many in a commit, by one client.
    Fill,
    /// New values for so many keys anywhere, as one commit.
    Put {
        batch: u64,
    },
    Delete,
    /// Each key that was loaded is read once, by one client.
    Touch,
    Mixed(Mix),
    /// From one of so many accounts to another.
    Transfer {
        accounts: u64,
    },
}

/// Operations by chance: in a hundred, so many of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mix {
    pub read: u8,
    pub update: u8,
    pub insert: u8,
    pub scan: u8,
    /// Read, then write; no transaction.
    pub modify: u8,
    pub draw: Draw,
    /// Pairs of a scan, at least and at most.
    pub scan_pairs: (usize, usize),
}

impl Mix {
    pub const NOTHING: Self = Self {
        read: 0,
        update: 0,
        insert: 0,
        scan: 0,
        modify: 0,
        draw: Draw::Zipf,
        scan_pairs: (1, 100),
    };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Draw {
    Zipf,
    Latest,
    Uniform,
}

impl Phase {
    /// So many operations load all keys.
    pub fn fill_operations(data: &Data) -> u64 {
        data.loaded().div_ceil(fill_batch(data))
    }
}

fn fill_batch(data: &Data) -> u64 {
    (FILL_COMMIT_BYTES / data.entry_bytes()).max(1)
}

/// What clients of a phase have in common.
pub struct Meter {
    taken: AtomicU64,
    operations_max: u64,
    deadline: Instant,
    gaps: Mutex<Gaps>,
    space: Option<SpaceSampling>,
}

/// Room on the disk while work goes on.
struct SpaceSampling {
    directory: PathBuf,
    step: u64,
    samples: Mutex<Vec<(u64, u64)>>,
}

impl Meter {
    /// With `directory`, room there is looked at now and then.
    pub fn new(phase: &Phase, directory: Option<PathBuf>) -> Self {
        let sampling = |directory| SpaceSampling {
            directory,
            step: (phase.operations_max / SPACE_SAMPLES).max(1),
            samples: Mutex::default(),
        };
        Self {
            taken: AtomicU64::new(0),
            operations_max: phase.operations_max,
            deadline: Instant::now() + Duration::from_secs_f64(phase.seconds_max),
            gaps: Mutex::default(),
            space: directory.map(sampling),
        }
    }

    /// The number of the next operation, if there is to be one.
    fn take(&self, now: Instant) -> Option<u64> {
        let number = self.taken.fetch_add(1, Ordering::Relaxed);
        (number < self.operations_max && now < self.deadline).then_some(number)
    }

    /// An operation is through.
    fn through(&self, number: u64) {
        let done = number + 1;
        if let Some(space) = &self.space
            && done.is_multiple_of(space.step)
        {
            let bytes = usage::disk_bytes(&space.directory);
            let samples = space.samples.lock();
            let mut samples = samples.unwrap_or_else(PoisonError::into_inner);
            samples.push((done, bytes));
        }
    }

    pub fn gaps(&self) -> Gaps {
        let gaps = self.gaps.lock();
        gaps.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Room on the disk, in bytes, after so many operations.
    pub fn space(&self) -> Vec<(u64, u64)> {
        let Some(space) = &self.space else {
            return Vec::new();
        };
        let samples = space.samples.lock();
        let mut samples = samples.unwrap_or_else(PoisonError::into_inner).clone();
        samples.sort_unstable();
        samples
    }
}

/// Between one commit and the next one that needed a flush of its own: commits that share a flush are one group.
#[derive(Debug, Clone, Default)]
pub struct Gaps {
    last: Option<Moment>,
    pub microseconds: Histogram,
    /// Requests of the disk, where they are known.
    pub requests: Histogram,
}

#[derive(Debug, Clone, Copy)]
struct Moment {
    at: Instant,
    flushes: u64,
    requests: u64,
}

impl Gaps {
    fn commit(&mut self, requests: u64) {
        let now = Moment {
            at: Instant::now(),
            flushes: flushes::count(),
            requests,
        };
        if let Some(last) = self.last
            && last.flushes != now.flushes
        {
            let gap = now.at.saturating_duration_since(last.at);
            self.microseconds.add(gap.as_micros() as u64);
            self.requests.add(requests.saturating_sub(last.requests));
        }
        self.last = Some(now);
    }
}

/// How it went for a client, or for all.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    pub operations: u64,
    pub commits: u64,
    /// Bytes of keys and values that were written.
    pub user_bytes: u64,
    /// Of transactions; as many as commits, or more.
    pub attempts: u64,
    pub nanoseconds: Histogram,
}

impl Outcome {
    pub fn merge(&mut self, other: &Self) {
        self.operations += other.operations;
        self.commits += other.commits;
        self.user_bytes += other.user_bytes;
        self.attempts += other.attempts;
        self.nanoseconds.merge(&other.nanoseconds);
    }
}

/// One of the clients of a phase.
pub struct Worker {
    number: u64,
    phase: Arc<Phase>,
    data: Arc<Data>,
    meter: Arc<Meter>,
    /// Each key is written by one client alone, and everything checked to the last byte. The distribution of keys is another then.
    exact: bool,
    rng: Rng,
    /// The next index, where they are taken in order.
    next: u64,
    /// Changes of a commit, with their indexes and versions; keeps its memory.
    batch: Vec<(Key, Vec<u8>)>,
    versions: Vec<(u64, u32)>,
    value: Vec<u8>,
    pub outcome: Outcome,
}

impl Worker {
    pub fn new(
        number: u64,
        phase: &Arc<Phase>,
        data: &Arc<Data>,
        meter: &Arc<Meter>,
        exact: bool,
        seed: u64,
    ) -> Self {
        Self {
            number,
            phase: Arc::clone(phase),
            data: Arc::clone(data),
            meter: Arc::clone(meter),
            exact,
            rng: Rng::with_seed(seed ^ (number << 32)),
            next: 0,
            batch: Vec::new(),
            versions: Vec::new(),
            value: Vec::new(),
            outcome: Outcome::default(),
        }
    }

    async fn operation<E: Engine + ?Sized>(&mut self, engine: &E) {
        match self.phase.load {
            Load::Fill => {
                let end = self.next + fill_batch(&self.data);
                let indexes = self.next..end.min(self.data.loaded());
                self.next = end;
                self.put(engine, indexes).await;
            }
            Load::Put { batch } => {
                let draws = (0..batch).map(|_| self.draw_own(Draw::Uniform));
                let indexes = draws.collect::<Vec<_>>();
                self.put(engine, indexes).await;
            }
            Load::Delete => self.delete(engine).await,
            Load::Touch => {
                self.read(engine, self.next % self.data.loaded()).await;
                self.next += 1;
            }
            Load::Mixed(mix) => self.mixed(engine, mix).await,
            Load::Transfer { accounts } => {
                let attempts = accounts::transfer(engine, accounts, &mut self.rng).await;
                self.outcome.attempts += attempts;
                self.outcome.user_bytes += accounts::TRANSFER_BYTES;
                self.committed(engine);
            }
        }
    }

    async fn mixed<E: Engine + ?Sized>(&mut self, engine: &E, mix: Mix) {
        let mut chance = self.rng.u8(..100);
        let mut is = |part: u8| {
            let is = chance < part;
            chance = chance.wrapping_sub(part);
            is
        };
        if is(mix.read) {
            let index = self.draw(mix.draw);
            self.read(engine, index).await;
        } else if is(mix.update) {
            let index = self.draw_own(mix.draw);
            self.put(engine, [index]).await;
        } else if is(mix.modify) {
            let index = self.draw_own(mix.draw);
            self.read(engine, index).await;
            self.put(engine, [index]).await;
        } else if is(mix.scan) {
            let (least, most) = mix.scan_pairs;
            let index = self.draw(mix.draw);
            let pairs = self.rng.usize(least..=most);
            self.scan(engine, index, pairs).await;
        } else if let Some(index) = self.data.give() {
            self.put(engine, [index]).await;
        } else {
            // No key is left: a new value for one does as much.
            let index = self.draw_own(mix.draw);
            self.put(engine, [index]).await;
        }
    }

    fn draw(&mut self, draw: Draw) -> u64 {
        match draw {
            Draw::Zipf => self.data.zipf(&mut self.rng),
            Draw::Latest => self.data.latest(&mut self.rng),
            Draw::Uniform => self.data.uniform(&mut self.rng),
        }
    }

    /// A key that this client may write.
    fn draw_own(&mut self, draw: Draw) -> u64 {
        let index = self.draw(draw).min(self.data.loaded() - 1);
        if !self.exact {
            return index;
        }
        let own = index - index % self.phase.clients + self.number;
        if own < self.data.loaded() {
            own
        } else {
            self.number
        }
    }

    fn care(&self, index: u64) -> Care {
        let own = index < self.data.loaded() && index % self.phase.clients == self.number;
        match (self.exact, own) {
            (false, _) => Care::Glance,
            (true, false) => Care::Bytes,
            (true, true) => Care::Exact,
        }
    }

    async fn read<E: Engine + ?Sized>(&mut self, engine: &E, index: u64) {
        let before = self.data.known(index);
        let key = self.data.key(index);
        let found = engine.get(&key, &mut self.value).await;
        let found = found.then_some(self.value.as_slice());
        self.data.check(index, before, found, self.care(index));
    }

    async fn scan<E: Engine + ?Sized>(&mut self, engine: &E, index: u64, pairs: usize) {
        let from = self.data.key(index);
        let (mut last, mut count) = (None::<Key>, 0);
        let care = if self.exact {
            Care::Bytes
        } else {
            Care::Glance
        };
        let mut check = |key: &[u8], value: &[u8]| {
            self.data.check_pair(key, value, care);
            let key = Key::try_from(key).expect("a key");
            assert!(
                key >= from && last.is_none_or(|last| key > last),
                "out of order"
            );
            last = Some(key);
            count += 1;
        };
        engine.scan(&from, pairs, &mut check).await;
        assert!(count <= pairs, "more than was asked for");
    }

    async fn put<E: Engine + ?Sized>(
        &mut self,
        engine: &E,
        indexes: impl IntoIterator<Item = u64>,
    ) {
        let mut count = 0;
        self.versions.clear();
        for index in indexes {
            if self.batch.len() == count {
                self.batch.push(<(Key, Vec<u8>)>::default());
            }
            let (key, value) = &mut self.batch[count];
            *key = self.data.key(index);
            self.versions.push((index, self.data.issue(index, value)));
            count += 1;
        }
        engine.put(&self.batch[..count]).await;
        self.outcome.user_bytes += count as u64 * self.data.entry_bytes();
        self.committed(engine);
        for &(index, version) in &self.versions {
            self.data.acknowledge(index, version, true);
        }
    }

    async fn delete<E: Engine + ?Sized>(&mut self, engine: &E) {
        // Of a key that is written while it is deleted nobody knows whether it is there, so clients share out the keys.
        let index = self.draw(Draw::Uniform);
        let clients = self.phase.clients;
        let own = index - index % clients + self.number;
        let index = if own < self.data.loaded() {
            own
        } else {
            self.number
        };
        let version = self.data.issue_delete(index);
        let key = self.data.key(index);
        engine.delete(&key).await;
        self.outcome.user_bytes += key.len() as u64;
        self.committed(engine);
        self.data.acknowledge(index, version, false);
    }

    fn committed<E: Engine + ?Sized>(&mut self, engine: &E) {
        self.outcome.commits += 1;
        let counts = engine.disk_counts();
        let requests = counts.map_or(0, |counts| counts.reads + counts.writes + counts.flushes);
        let gaps = self.meter.gaps.lock();
        gaps.unwrap_or_else(PoisonError::into_inner)
            .commit(requests);
    }
}

impl Client for Worker {
    async fn run<E: Engine + ?Sized>(&mut self, engine: &E) {
        let mut began = Instant::now();
        while let Some(number) = self.meter.take(began) {
            let commits = self.outcome.commits;
            self.operation(engine).await;
            self.outcome.operations += 1;
            let took = began.elapsed().as_nanos() as u64;
            self.outcome.nanoseconds.add(took);
            self.meter.through(number);
            // Who wrote and was answered comes behind the others, as one that has to ask again.
            let wrote = self.outcome.commits > commits;
            if wrote || self.outcome.operations.is_multiple_of(READS_PER_TURN) {
                embassy_futures::yield_now().await;
            }
            began = Instant::now();
        }
    }
}

//! Runs one case on one engine, and checks that what is there afterwards is what was promised.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::accounts;
use crate::cases::Case;
use crate::data::{Care, Data, Key};
use crate::engine::{Engine, Host, Name, Sizes, Threads};
use crate::engines::ours::Tasks;
use crate::measured::{CaseResult, GapResult, OwnCounts, PhaseResult};
use crate::settings::Settings;
use crate::work::{Load, Meter, Outcome, Phase, Worker};
use crate::{flushes, usage};

/// Keys that are looked up at the end, where not all are.
const KEYS_CHECKED: u64 = 2000;

/// Measures `case` on the engine `name`, with its files in `directory`, which is empty.
pub fn run(name: Name, case: &Case, settings: &Settings, directory: &Path) -> CaseResult {
    if name == Name::Ours {
        let run = Run::<Tasks>::new(name, case, settings, directory);
        lfs::host::run(run.case()).expect("a runtime")
    } else {
        let run = Run::<Threads>::new(name, case, settings, directory);
        embassy_futures::block_on(run.case())
    }
}

struct Run<'r, H> {
    name: Name,
    case: &'r Case,
    settings: &'r Settings,
    directory: &'r Path,
    sizes: Sizes,
    data: Arc<Data>,
    host: std::marker::PhantomData<H>,
}

impl<'r, H: Host> Run<'r, H> {
    fn new(name: Name, case: &'r Case, settings: &'r Settings, directory: &'r Path) -> Self {
        Self {
            name,
            case,
            settings,
            directory,
            sizes: Sizes {
                memory_bytes: case.memory_bytes(settings),
                data_bytes: settings.data_bytes,
            },
            data: Arc::new(case.data(settings)),
            host: std::marker::PhantomData,
        }
    }

    async fn case(self) -> CaseResult {
        let memory_before = usage::memory_bytes_peak();
        self.enter_cgroup(memory_before);
        let mut host = self.open().await;
        let mut phases = Vec::new();
        for phase in self.case.phases(self.settings, &self.data) {
            if phase.cold {
                host.close().await;
                usage::drop_page_cache(self.directory);
                host = self.open().await;
            }
            phases.push(self.phase(&host, phase).await);
        }
        let memory_bytes = usage::memory_bytes_peak().saturating_sub(memory_before);
        let mut space_at_rest = None;
        if self.case.watches_space {
            host.rest(Duration::from_secs_f64(self.settings.rest_seconds))
                .await;
            space_at_rest = Some(self.space(usage::disk_bytes(self.directory)));
        }
        self.check(host.engine()).await;
        host.close().await;
        let space_closed = self.space(usage::disk_bytes(self.directory));
        let host = self.open().await;
        self.check(host.engine()).await;
        host.close().await;
        CaseResult {
            phases,
            memory_bytes,
            space_at_rest,
            space_closed,
        }
    }

    async fn open(&self) -> H {
        H::open(self.name, self.directory, self.sizes).await
    }

    async fn phase(&self, host: &H, phase: Phase) -> PhaseResult {
        if let Load::Transfer { accounts } = phase.load {
            accounts::open(host.engine(), accounts).await;
        }
        let watched = self.case.watches_space && phase.load != Load::Fill;
        let watched = watched.then(|| self.directory.to_path_buf());
        let live_bytes = self.data.live_bytes();
        let phase = Arc::new(phase);
        let meter = Arc::new(Meter::new(&phase, watched));
        let workers = (0..phase.clients).map(|number| {
            // Another one for each phase: what one has read is not what the next one reads.
            let of_phase = phase
                .name
                .bytes()
                .fold(0_u64, |seed, byte| seed.wrapping_mul(31) ^ u64::from(byte));
            let (exact, seed) = (self.settings.smoke, self.settings.seed ^ of_phase << 16);
            Worker::new(number, &phase, &self.data, &meter, exact, seed)
        });
        let workers = workers.collect();
        let (written, read) = (usage::bytes_written(), usage::bytes_read());
        let flushes = flushes::count();
        let disk = host.engine().disk_counts();
        let forgets = phase.uncached && !self.name.maps_files();
        let forgetting = forgets.then(|| usage::Forgetting::begin(self.directory));
        let began = Instant::now();
        let workers = host.run(workers).await;
        let seconds = began.elapsed().as_secs_f64();
        drop(forgetting);
        let bytes_written = usage::bytes_written() - written;
        let bytes_read = usage::bytes_read() - read;
        let flushes = flushes::count() - flushes;
        let spent = host.engine().disk_counts().zip(disk);
        let spent = spent.map(|(after, before)| after - before);
        let mut outcome = Outcome::default();
        for worker in &workers {
            outcome.merge(&worker.outcome);
        }
        if let Load::Transfer { accounts } = phase.load {
            accounts::check(host.engine(), accounts, outcome.commits).await;
        }
        let gaps = meter.gaps();
        let bytes_per_operation = outcome.user_bytes as f64 / outcome.operations.max(1) as f64;
        let sample = |(operations, bytes): (u64, u64)| {
            let overwritten = operations as f64 * bytes_per_operation / live_bytes as f64;
            (overwritten, bytes as f64 / live_bytes as f64)
        };
        let microseconds = |nanoseconds: u64| nanoseconds as f64 / 1000.0;
        PhaseResult {
            name: phase.name.clone(),
            title: phase.title.clone(),
            seconds,
            operations: outcome.operations,
            commits: outcome.commits,
            user_bytes: outcome.user_bytes,
            attempts: outcome.attempts,
            p50_us: microseconds(outcome.nanoseconds.quantile(0.5)),
            p99_us: microseconds(outcome.nanoseconds.quantile(0.99)),
            max_us: microseconds(outcome.nanoseconds.max()),
            bytes_written,
            bytes_read,
            flushes,
            own: spent.map(|spent| OwnCounts {
                bytes_written: spent.bytes_written,
                flushes: spent.flushes,
            }),
            space: self.space(usage::disk_bytes(self.directory)),
            gaps: GapResult {
                median_us: gaps.microseconds.quantile(0.5),
                max_us: gaps.microseconds.max(),
                median_requests: gaps.requests.quantile(0.5),
                max_requests: gaps.requests.max(),
            },
            space_samples: meter.space().into_iter().map(sample).collect(),
        }
    }

    /// Room for each live byte; 0 where nothing is there that is counted.
    fn space(&self, disk_bytes: u64) -> f64 {
        match self.data.live_bytes() {
            0 => 0.0,
            live_bytes => disk_bytes as f64 / live_bytes as f64,
        }
    }

    /// Looks up all keys, or many, and goes through all, or many, in order. Nobody is writing.
    async fn check<E: Engine + ?Sized>(&self, engine: &E) {
        let all = self.settings.smoke;
        let care = if all { Care::Exact } else { Care::Bytes };
        let given = self.data.given();
        let mut rng = Rng::with_seed(self.settings.seed);
        let indexes = if all {
            (0..given).collect::<Vec<_>>()
        } else {
            (0..KEYS_CHECKED).map(|_| rng.u64(..given)).collect()
        };
        let mut value = Vec::new();
        for index in indexes {
            let known = self.data.known(index);
            let found = engine.get(&self.data.key(index), &mut value).await;
            let found = found.then_some(value.as_slice());
            self.data.check(index, known, found, care);
        }
        let limit = if all {
            u32::MAX as usize
        } else {
            KEYS_CHECKED as usize
        };
        let (mut last, mut count) = (None::<Key>, 0);
        let mut check = |key: &[u8], value: &[u8]| {
            if accounts::is_account(key) {
                return;
            }
            let index = self.data.check_pair(key, value, Care::Bytes);
            assert!(self.data.known(index).live, "key {index} was deleted");
            let key = Key::try_from(key).expect("a key");
            assert!(last.is_none_or(|last| key > last), "out of order");
            last = Some(key);
            count += 1;
        };
        engine.scan(&[b'0'; 16], limit, &mut check).await;
        let live = (0..given).filter(|&index| self.data.known(index).live);
        assert_eq!(count, live.count().min(limit), "keys of a scan");
    }

    /// Little memory is little memory for the kernel, too, which keeps files in it: twice what the engine was told, and what
    /// this process has by itself.
    fn enter_cgroup(&self, memory_before: u64) {
        let Some(cgroup) = self.settings.cgroup.as_ref().filter(|_| !self.case.fits) else {
            return;
        };
        let limit = memory_before + 2 * self.sizes.memory_bytes;
        // Version 2, and 1.
        let limits = ["memory.max", "memory.limit_in_bytes"].map(|name| cgroup.join(name));
        let file = limits.iter().find(|path| path.exists());
        let file = file.expect("BENCH_CGROUP is a directory of a memory cgroup");
        fs::write(file, limit.to_string()).expect("a limit");
        let id = std::process::id().to_string();
        fs::write(cgroup.join("cgroup.procs"), id).expect("a process of the cgroup");
    }
}

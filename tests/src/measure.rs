//! What work costs: requests per second, flushes, device bytes, processor time, memory.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Pid;

use crate::client::{BenchmarkRow, redis_benchmark};
use crate::qmp::BlockCounts;

/// A load of redis-benchmark: 100-byte values under 100,000 random keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// `set` or `get`.
    pub test: &'static str,
    /// Connections.
    pub clients: u32,
    /// Requests in flight on each.
    pub pipeline: u32,
}

impl Load {
    /// What every benchmark runs: one client, many, and many that pipeline; SET before GET.
    pub const ALL: [Self; 6] = [
        Self {
            test: "set",
            clients: 1,
            pipeline: 1,
        },
        Self {
            test: "get",
            clients: 1,
            pipeline: 1,
        },
        Self {
            test: "set",
            clients: 50,
            pipeline: 1,
        },
        Self {
            test: "get",
            clients: 50,
            pipeline: 1,
        },
        Self {
            test: "set",
            clients: 50,
            pipeline: 16,
        },
        Self {
            test: "get",
            clients: 50,
            pipeline: 16,
        },
    ];

    /// A stable name for figures.
    pub fn name(&self) -> String {
        format!("{}_c{}_p{}", self.test, self.clients, self.pipeline)
    }

    /// Runs `requests` of it against a port.
    pub fn run(&self, port: u16, requests: u64) -> BenchmarkRow {
        let (requests, clients, pipeline) = (
            requests.to_string(),
            self.clients.to_string(),
            self.pipeline.to_string(),
        );
        let mut arguments = vec![
            "-t", self.test, "-n", &requests, "-c", &clients, "-P", &pipeline,
        ];
        arguments.extend(["-d", "100", "-r", "100000"]);
        let mut rows = redis_benchmark(port, &arguments, Duration::from_mins(2));
        rows.pop().expect("one test, one row")
    }

    /// Runs it for about `duration`; `counts` reads the disk's counters before and after.
    pub fn measure(
        &self,
        port: u16,
        duration: Duration,
        counts: impl Fn() -> BlockCounts,
    ) -> LoadResult {
        // Two short runs find out how many requests fill the time: the first also warms the translator.
        let mut requests = u64::from(self.clients * self.pipeline) * 10;
        for share in [0.1, 0.2, 1.0] {
            let rate = self.run(port, requests).requests_per_second;
            requests = ((rate * duration.as_secs_f64() * share) as u64).max(100);
        }
        let before = counts();
        let row = self.run(port, requests);
        let spent = counts() - before;
        LoadResult {
            row,
            requests,
            spent,
        }
    }
}

/// How a load went.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadResult {
    /// As the client saw it.
    pub row: BenchmarkRow,
    /// How many requests.
    pub requests: u64,
    /// What they cost on the disk.
    pub spent: BlockCounts,
}

impl LoadResult {
    /// Flushes per request.
    pub fn flushes_per_request(&self) -> f64 {
        self.spent.flushes as f64 / self.requests as f64
    }

    /// Bytes written to the disk per request.
    pub fn bytes_per_request(&self) -> f64 {
        self.spent.bytes_written as f64 / self.requests as f64
    }
}

/// Processor time a process has used, in both modes.
pub fn processor_time(pid: Pid) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))
        .expect("the process runs");
    let fields: Vec<_> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ticks = |index: usize| fields[index].parse::<u64>().expect("a number of ticks");
    // utime and stime, the 14th and 15th fields; two were cut off with the name.
    Duration::from_secs(ticks(11) + ticks(12)) / rustix::param::clock_ticks_per_second() as u32
}

/// The part of one processor that a process uses over `duration`, in percent.
pub fn processor_percent(pid: Pid, duration: Duration) -> f64 {
    let (before, start) = (processor_time(pid), Instant::now());
    std::thread::sleep(duration);
    let used = processor_time(pid).saturating_sub(before);
    100.0 * used.as_secs_f64() / start.elapsed().as_secs_f64()
}

/// Memory of a process that is resident, in bytes.
pub fn resident_bytes(pid: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()))
        .expect("the process runs");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("VmRSS");
    let kibibytes: u64 = line
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .expect("a number");
    kibibytes << 10
}

//! How large, how long, how often: from the environment, so that a large machine can do more.

use std::env;
use std::path::PathBuf;

/// Less than that some engines refuse.
const MEMORY_BYTES_MIN: u64 = 4 << 20;

#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Bytes of keys and values that are loaded.
    pub data_bytes: u64,
    /// Memory of an engine where its data does not fit.
    pub small_memory_bytes: u64,
    /// Time for what is measured by rates.
    pub seconds: f64,
    /// Time for overwriting everything ten times, where an engine is slow.
    pub overwrite_seconds: f64,
    /// Time in which an engine is left alone after that.
    pub rest_seconds: f64,
    pub rounds: u64,
    pub seed: u64,
    /// Not to measure, but to see whether everything works: few operations, every byte checked.
    pub smoke: bool,
    /// A memory cgroup of the caller's that each measured process enters where its engine has little memory.
    pub cgroup: Option<PathBuf>,
    /// Where the files of the engines are.
    pub directory: PathBuf,
}

impl Settings {
    pub fn from_environment(smoke: bool) -> Self {
        if smoke {
            return Self::smoke();
        }
        let mib = number("BENCH_MIB", 64.0);
        let data_bytes = (mib * f64::from(1 << 20)) as u64;
        let memory_mib = number("BENCH_MEMORY_MIB", mib / 10.0);
        Self {
            data_bytes,
            small_memory_bytes: ((memory_mib * f64::from(1 << 20)) as u64).max(MEMORY_BYTES_MIN),
            seconds: number("BENCH_SECONDS", 0.5),
            overwrite_seconds: number("BENCH_OVERWRITE_SECONDS", 40.0),
            rest_seconds: number("BENCH_REST_SECONDS", 10.0),
            rounds: number("BENCH_ROUNDS", 3.0) as u64,
            seed: number("BENCH_SEED", 1.0) as u64,
            smoke: false,
            cgroup: env::var_os("BENCH_CGROUP").map(PathBuf::from),
            directory: directory(),
        }
    }

    pub fn smoke() -> Self {
        Self {
            data_bytes: 256 << 10,
            small_memory_bytes: MEMORY_BYTES_MIN,
            seconds: 60.0,
            overwrite_seconds: 60.0,
            rest_seconds: 0.1,
            rounds: 1,
            seed: number("BENCH_SEED", 1.0) as u64,
            smoke: true,
            cgroup: None,
            directory: directory(),
        }
    }

    /// Memory of an engine where its data fits.
    pub fn large_memory_bytes(&self) -> u64 {
        (2 * self.data_bytes).max(MEMORY_BYTES_MIN)
    }
}

fn directory() -> PathBuf {
    let given = env::var_os("BENCH_DIR").map(PathBuf::from);
    given.unwrap_or_else(|| tests::root().join("target"))
}

fn number(name: &str, default: f64) -> f64 {
    let Ok(text) = env::var(name) else {
        return default;
    };
    match text.parse() {
        Ok(number) if number >= 0.0 => number,
        _ => panic!("{name}={text} is no number"),
    }
}

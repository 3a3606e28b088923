//! What a process found out about one case on one engine, as it tells the one that started it.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CaseResult {
    pub phases: Vec<PhaseResult>,
    /// The most memory that the process had, less what it had before the engine was opened.
    pub memory_bytes: u64,
    /// Room on the disk after it was left alone for a while, where room is looked at, for each byte of keys and values that are there.
    pub space_at_rest: Option<f64>,
    /// The same after it was closed, for each byte of keys and values that are there.
    pub space_closed: f64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PhaseResult {
    pub name: String,
    pub title: String,
    pub seconds: f64,
    pub operations: u64,
    pub commits: u64,
    pub user_bytes: u64,
    /// Of transactions.
    pub attempts: u64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub max_us: f64,
    /// As the kernel counts.
    pub bytes_written: u64,
    /// The same.
    pub bytes_read: u64,
    pub flushes: u64,
    /// As the engine's disk counts, if it does.
    pub own: Option<OwnCounts>,
    /// Room on the disk for each live byte, when it had ended.
    pub space: f64,
    pub gaps: GapResult,
    /// Bytes that were written so far for each byte of data, and room on the disk for each live byte then.
    pub space_samples: Vec<(f64, f64)>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct OwnCounts {
    pub bytes_written: u64,
    pub flushes: u64,
}

/// Between groups of commits.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct GapResult {
    pub median_us: u64,
    pub max_us: u64,
    /// Requests of the disk; 0 where they are not known.
    pub median_requests: u64,
    pub max_requests: u64,
}

impl PhaseResult {
    pub fn operations_per_second(&self) -> f64 {
        self.operations as f64 / self.seconds
    }

    /// Device bytes for each byte that users wrote, if they wrote any.
    pub fn amplification(&self) -> Option<f64> {
        self.for_user_bytes(self.bytes_written)
    }

    /// The same as the engine itself counts.
    pub fn own_amplification(&self) -> Option<f64> {
        self.for_user_bytes(self.own?.bytes_written)
    }

    /// KiB that were read from a disk for each operation, where nothing was written.
    pub fn kib_read_per_operation(&self) -> Option<f64> {
        let kib = self.bytes_read as f64 / 1024.0;
        (self.user_bytes == 0 && self.operations > 0).then(|| kib / self.operations as f64)
    }

    pub fn flushes_per_commit(&self) -> Option<f64> {
        (self.commits > 0).then(|| self.flushes as f64 / self.commits as f64)
    }

    pub fn attempts_per_commit(&self) -> f64 {
        self.attempts as f64 / self.commits as f64
    }

    fn for_user_bytes(&self, bytes: u64) -> Option<f64> {
        (self.user_bytes > 0).then(|| bytes as f64 / self.user_bytes as f64)
    }
}

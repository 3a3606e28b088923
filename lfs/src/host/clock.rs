//! The host's clocks.

use std::time::{Duration, Instant, SystemTime};

use crate::Clock;

/// Monotonic time since it was made, the host's wall clock, the runtime's timers.
#[derive(Debug, Clone, Copy)]
pub struct HostClock {
    started: Instant,
}

impl HostClock {
    /// Its monotonic time begins now.
    #[expect(
        clippy::new_without_default,
        reason = "two of them are not the same: each begins when it is made"
    )]
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
        }
    }
}

impl Clock for HostClock {
    fn monotonic_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn unix_us(&self) -> i64 {
        now_ns().div_euclid(1000)
    }

    async fn sleep_ms(&self, duration_ms: u64) {
        tokio::time::sleep(Duration::from_millis(duration_ms)).await;
    }
}

/// Nanoseconds since the Unix epoch.
pub fn now_ns() -> i64 {
    since_epoch_ns(SystemTime::now())
}

/// `time` in nanoseconds since the Unix epoch; what does not fit is cut to what does.
pub fn since_epoch_ns(time: SystemTime) -> i64 {
    let nanos = |duration: Duration| i64::try_from(duration.as_nanos());
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => nanos(since).unwrap_or(i64::MAX),
        Err(before) => nanos(before.duration()).map_or(i64::MIN, |nanos| -nanos),
    }
}

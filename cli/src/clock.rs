//! The host's clocks.

use std::time::{Duration, Instant, SystemTime};

use lfs::Clock;

/// Monotonic time since it was made, the host's wall clock, the runtime's timers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HostClock {
    started: Instant,
}

impl HostClock {
    pub(crate) fn new() -> Self {
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
pub(crate) fn now_ns() -> i64 {
    since_epoch_ns(SystemTime::now())
}

/// `time` in nanoseconds since the Unix epoch; what does not fit is cut to what does.
pub(crate) fn since_epoch_ns(time: SystemTime) -> i64 {
    let nanos = |duration: Duration| i64::try_from(duration.as_nanos());
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => nanos(since).unwrap_or(i64::MAX),
        Err(before) => nanos(before.duration()).map_or(i64::MIN, |nanos| -nanos),
    }
}

/// The other way round.
pub(crate) fn system_time(since_epoch_ns: i64) -> SystemTime {
    let distance = Duration::from_nanos(since_epoch_ns.unsigned_abs());
    if since_epoch_ns < 0 {
        SystemTime::UNIX_EPOCH - distance
    } else {
        SystemTime::UNIX_EPOCH + distance
    }
}

/// `since_epoch_ns` as `2026-11-20T12:00:00.000000000Z`.
pub(crate) fn iso8601(since_epoch_ns: i64) -> String {
    match jiff::Timestamp::from_nanosecond(since_epoch_ns.into()) {
        Ok(time) => format!("{time:.9}"),
        // Its years go from -9999 to 9999; those of 64 bits of nanoseconds from 1677 to 2262.
        Err(_) => format!("{since_epoch_ns} ns after 1970"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let nanos = 1_000_000_000;
        assert_eq!(
            iso8601(951_782_400 * nanos),
            "2000-02-29T00:00:00.000000000Z"
        );
        assert_eq!(iso8601(-1), "1969-12-31T23:59:59.999999999Z");
        // Nothing a disk can say panics.
        let _ = (iso8601(i64::MIN), iso8601(i64::MAX));
    }

    #[test]
    fn times_there_and_back() {
        for ns in [0, 1, -1, 1_763_640_000_123_456_789, i64::MIN + 1, i64::MAX] {
            assert_eq!(since_epoch_ns(system_time(ns)), ns);
        }
    }
}

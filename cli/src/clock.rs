//! Points in time, as `lfs` counts them, as others do.

use std::time::{Duration, SystemTime};

/// What is so many nanoseconds after the Unix epoch.
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
    use lfs::host::since_epoch_ns;

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

//! Space for sorted runs: how much data there may be, when a flush may go ahead, what to merge.
//!
//! A merge of everything needs room for a second copy of the live data while the runs it replaces are
//! still there. That room is never given to anything else, so there is always a way back to runs that
//! hold the live data only:
//!
//! - live data takes at most a third of the room for objects, less what a flush takes besides;
//! - a flush, which can be as large as the live data, goes ahead only while it leaves room for a copy;
//! - a merge of everything is due well before that.
//!
//! Files share the disk: they may not grow into what the live data needs by these rules ([`reserve_bytes`]), and live
//! data may not grow beyond what files leave.
//!
//! Merging late costs space and time to open, merging early costs writes. Runs may hold up to four
//! times the live data while the disk has room for it.

use lfs::Usage;

/// Runs at which some are merged, whatever they hold.
const RUNS_MAX: usize = 12;

/// Segments that runs may take beyond their length: each ends within one.
const ROUNDING_SEGMENTS: u64 = RUNS_MAX as u64 + 2;

/// Segments of garbage that are never worth a merge.
const GARBAGE_SEGMENTS: u64 = 16;

/// Bytes that log and run may differ by for what a flush writes besides live values: tombstones, and
/// records that are larger in a run than in the log.
fn flush_overhead(usage: &Usage) -> u64 {
    2 * usage.replay_bytes_max
}

/// Bytes a flush may take: every live value can have changed by a little, and keys have gone.
pub(crate) fn flush_bytes_max(usage: &Usage, live_bytes: u64) -> u64 {
    live_bytes + flush_overhead(usage)
}

/// Bytes that live data may take in runs.
pub(crate) fn live_bytes_max(usage: &Usage) -> u64 {
    usage.object_bytes_max.saturating_sub(slack(usage)) / 3
}

/// Bytes that must be left to runs, so that live data of `live_bytes` may be there.
pub(crate) fn reserve_bytes(usage: &Usage, live_bytes: u64) -> u64 {
    slack(usage) + 3 * live_bytes
}

fn slack(usage: &Usage) -> u64 {
    flush_overhead(usage) + ROUNDING_SEGMENTS * usage.segment_bytes
}

/// Whether a flush of `flush_bytes` leaves room for a merge of everything.
pub(crate) fn may_flush(usage: &Usage, live_bytes: u64, flush_bytes: u64) -> bool {
    usage.object_bytes_free >= live_bytes + flush_bytes + 2 * usage.segment_bytes
}

/// Where a merge of all newer runs should begin, if one should be made. `sizes`: bytes of each run,
/// oldest first.
pub(crate) fn merge_start(sizes: &[u64], live_bytes: u64, usage: &Usage) -> Option<usize> {
    let space = |bytes: u64| bytes.next_multiple_of(usage.segment_bytes.max(1));
    let total = sizes.iter().copied().map(space).sum::<u64>();
    if total > run_bytes_max(live_bytes, usage) {
        return Some(0);
    }
    if sizes.len() <= RUNS_MAX {
        return None;
    }
    // Each byte is rewritten a logarithmic number of times when what is merged is of about one size.
    let mut newer = 0;
    let mut start = sizes.len() - 2;
    for (at, &size) in sizes.iter().enumerate().rev() {
        if newer > 0 && space(size) <= newer {
            start = start.min(at);
        }
        newer += space(size);
    }
    Some(start)
}

/// Bytes that runs may take before everything is merged.
fn run_bytes_max(live_bytes: u64, usage: &Usage) -> u64 {
    let floor = 2 * live_bytes + 4 * usage.segment_bytes;
    let ceiling = 4 * live_bytes + GARBAGE_SEGMENTS * usage.segment_bytes;
    let room = usage
        .object_bytes_max
        .saturating_sub(slack(usage) + live_bytes);
    room.clamp(floor, ceiling)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A large disk with segments of 10 bytes.
    const USAGE: Usage = Usage {
        segment_bytes: 10,
        object_bytes_max: 100_000,
        object_bytes_free: 100_000,
        log_bytes_max: 100,
        replay_bytes_max: 50,
        live_bytes: 0,
        capacity_bytes: 100_000,
    };

    #[test]
    fn everything_is_merged_when_the_runs_are_mostly_garbage() {
        let start = |sizes: &[u64]| merge_start(sizes, 1000, &USAGE);
        assert_eq!(start(&[]), None);
        assert_eq!(start(&[1000, 1000, 1000, 1000]), None);
        assert_eq!(start(&[1000, 1000, 1000, 1000, 170]), Some(0));
        assert_eq!(merge_start(&[5000], 1000, &USAGE), Some(0));
    }

    #[test]
    fn everything_is_merged_earlier_when_room_is_short() {
        let usage = Usage {
            object_bytes_max: 4000,
            ..USAGE
        };
        assert_eq!(merge_start(&[1000, 1000], 1000, &usage), None);
        assert_eq!(merge_start(&[1000, 1000, 900], 1000, &usage), Some(0));
        let live = live_bytes_max(&usage);
        assert!(live >= 1200, "{live}");
        // Even with as much live data as there may be, a flush may follow a merge of everything.
        let after = Usage {
            object_bytes_free: 4000 - live - 10,
            ..usage
        };
        assert!(may_flush(&after, live, flush_bytes_max(&after, live)));
    }

    #[test]
    fn too_many_runs_are_merged_among_those_of_a_size() {
        let start = |sizes: &[u64]| merge_start(sizes, 1_000_000, &USAGE);
        let small = [10; RUNS_MAX];
        assert_eq!(start(&small), None);
        assert_eq!(start(&[&[100_000], &small[..]].concat()), Some(1));
        // Each as large as all that are newer: the last two cost least.
        let halves = (0..=RUNS_MAX).rev().map(|power| 50 << power);
        assert_eq!(
            start(&halves.collect::<alloc::vec::Vec<_>>()),
            Some(RUNS_MAX - 1)
        );
    }
}

//! When commits were: for retention, and to tell users.
//!
//! One sample for each second in which there was a commit, with the first commit of that second; 4,096 at most. When there would be more, that one goes whose absence is the smallest
//! part of its age: half an hour is known to seconds, and whatever is older to a two-hundredth of its age. What is asked for is rounded to the sample before, so
//! that more is kept than asked for, never less. A clock that goes back adds no sample until it is past the last one.

use alloc::vec::Vec;

use super::types::{Malformed, OutOfMemory};
use super::varint::{put_varint, take_varint};
use crate::Timestamp;

/// Samples that are kept.
const SAMPLES_MAX: usize = 4096;

/// Milliseconds of a sample.
const SAMPLE_MS: i64 = 1000;

/// Samples in the order of time, which is the order of commits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Timeline {
    samples: Vec<Sample>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sample {
    ms: i64,
    commit: Timestamp,
}

impl Timeline {
    /// `commit`, the newest there is, happens at `now_ms` (Unix time).
    ///
    /// # Errors
    /// When there is no memory: it goes unnoted, which does no harm.
    pub fn note(&mut self, now_ms: i64, commit: Timestamp) -> Result<(), OutOfMemory> {
        if let Some(last) = self.samples.last()
            && (second(now_ms) <= second(last.ms) || commit <= last.commit)
        {
            return Ok(());
        }
        if self.samples.len() == SAMPLES_MAX {
            self.thin_out(now_ms);
        }
        self.samples.try_reserve(1).map_err(|_| OutOfMemory)?;
        let ms = now_ms;
        self.samples.push(Sample { ms, commit });
        Ok(())
    }

    /// A commit at or before the newest one that had happened by `ms`: all of history since then is kept for whoever looks back to `ms`. 0 when that is before
    /// everything that is known.
    pub fn before(&self, ms: i64) -> Timestamp {
        let later = self.samples.partition_point(|sample| sample.ms <= ms);
        self.sample_before(later)
            .map_or(Timestamp(0), |sample| sample.commit)
    }

    /// When `commit` happened, or some time before. `None`: before everything that is known.
    pub fn time_of(&self, commit: Timestamp) -> Option<i64> {
        let later = self
            .samples
            .partition_point(|sample| sample.commit <= commit);
        self.sample_before(later).map(|sample| sample.ms)
    }

    /// Nobody will ask for what is before `floor` any more.
    pub fn forget(&mut self, floor: Timestamp) {
        let later = self
            .samples
            .partition_point(|sample| sample.commit <= floor);
        self.samples.drain(..later.saturating_sub(1));
    }

    /// What was behind `last` has not been committed after all.
    pub fn forget_behind(&mut self, last: Timestamp) {
        let later = self.samples.partition_point(|sample| sample.commit <= last);
        self.samples.truncate(later);
    }

    /// How many samples there are.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// Appends how many there are, then of each time and commit, less those of the one before.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.samples.len() as u64);
        let (mut ms, mut commit) = (0, 0);
        for sample in &self.samples {
            put_varint(out, sample.ms.wrapping_sub(ms).cast_unsigned());
            put_varint(out, sample.commit.0.wrapping_sub(commit));
            (ms, commit) = (sample.ms, sample.commit.0);
        }
    }

    /// Takes one off the front of `bytes`.
    ///
    /// # Errors
    /// When it is none.
    pub fn decode(bytes: &mut &[u8]) -> Result<Self, Malformed> {
        let count = take_varint(bytes).ok_or(Malformed)?;
        let count = usize::try_from(count).map_err(|_| Malformed)?;
        if count > SAMPLES_MAX {
            return Err(Malformed);
        }
        let mut timeline = Self::default();
        let (mut ms, mut commit) = (0_i64, 0_u64);
        for _ in 0..count {
            let after = take_varint(bytes).ok_or(Malformed)?.cast_signed();
            ms = ms.wrapping_add(after);
            let after = take_varint(bytes).ok_or(Malformed)?;
            commit = commit.checked_add(after).ok_or(Malformed)?;
            let sample = Sample {
                ms,
                commit: Timestamp(commit),
            };
            let follows = timeline.samples.last().is_none_or(|last| {
                second(last.ms) < second(sample.ms) && last.commit < sample.commit
            });
            if !follows {
                return Err(Malformed);
            }
            timeline.samples.push(sample);
        }
        Ok(timeline)
    }

    /// Memory that it takes.
    pub fn memory_bytes(&self) -> usize {
        self.samples.capacity() * size_of::<Sample>()
    }

    /// Removes the sample that leaves the smallest gap for its age. (Once a second at most, and some microseconds.)
    fn thin_out(&mut self, now_ms: i64) {
        let mut least: Option<(usize, i128, i128)> = None;
        for (at, around) in self.samples.windows(3).enumerate() {
            let [before, sample, after] = around else {
                continue;
            };
            let gap = i128::from(after.ms) - i128::from(before.ms);
            let age = i128::from(now_ms) - i128::from(sample.ms);
            if least.is_none_or(|(_, least_gap, its_age)| gap * its_age < least_gap * age) {
                least = Some((at + 1, gap, age));
            }
        }
        if let Some((at, ..)) = least {
            self.samples.remove(at);
        }
    }

    fn sample_before(&self, later: usize) -> Option<&Sample> {
        self.samples.get(later.checked_sub(1)?)
    }
}

fn second(ms: i64) -> i64 {
    ms.div_euclid(SAMPLE_MS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;

    #[test]
    fn commits_that_a_power_cut_took_gave_their_times_to_others() {
        let mut timeline = Timeline::default();
        for (second, commit) in [(10, 1), (20, 2), (30, 7)] {
            timeline.note(second * 1000, Timestamp(commit)).unwrap();
        }
        timeline.forget_behind(Timestamp(6));
        assert_eq!(timeline.before(35_000), Timestamp(2));
        timeline.note(40_000, Timestamp(7)).unwrap();
        assert_eq!(timeline.before(39_000), Timestamp(2));
        assert_eq!(timeline.before(40_000), Timestamp(7));
    }

    /// Against the list of all commits with their times, with a clock that goes back at times.
    #[test]
    fn never_says_later_than_it_was_and_is_near() {
        let mut random = random(13);
        for round in 0..60 {
            let mut timeline = Timeline::default();
            let mut all: Vec<(i64, Timestamp)> = Vec::new();
            let (mut now, mut commit, mut floor) = (1_700_000_000_000_i64, 0, Timestamp(0));
            let back = round % 2 == 0;
            for _ in 0..20_000 {
                now +=
                    i64::try_from(random.below(if round % 3 == 0 { 100 } else { 1500 })).unwrap();
                if back && random.one_in(5000) {
                    now -= 20_000;
                }
                commit += 1 + random.below(3);
                timeline.note(now, Timestamp(commit)).unwrap();
                all.push((now, Timestamp(commit)));
                if random.one_in(3000) {
                    floor = floor.max(all[all.len() - 1 - random.index(all.len().min(500))].1);
                    timeline.forget(floor);
                }
            }
            assert!(timeline.samples.len() <= SAMPLES_MAX);
            for _ in 0..500 {
                let (ms, commit) = all[random.index(all.len())];
                let found = timeline.before(ms);
                // All that happened by then, seen by whoever looks at the clock: what came before it went back is older.
                let newest = all.iter().rev().find(|(at, _)| *at <= ms).unwrap().1;
                assert!(found <= newest);
                let latest = all
                    .iter()
                    .take_while(|(_, of)| *of <= commit)
                    .map(|(at, _)| *at);
                if let Some(time) = timeline.time_of(commit) {
                    assert!(time <= latest.max().unwrap());
                } else {
                    assert!(commit < floor);
                }
                if !back && commit > floor {
                    let exact = all.iter().position(|(_, of)| *of == newest).unwrap();
                    let age = all.last().unwrap().0 - ms;
                    let found = all.iter().position(|(_, of)| *of >= found).unwrap();
                    let gap = all[exact].0 - all[found].0;
                    assert!(gap <= 3000 + age / 200, "{gap} ms at an age of {age}");
                }
            }
            let mut bytes = Vec::new();
            timeline.encode(&mut bytes);
            let rest = &mut &bytes[..];
            assert_eq!((Timeline::decode(rest), rest.len()), (Ok(timeline), 0));
        }
    }

    #[test]
    fn knows_nothing_from_before_it_began() {
        let mut timeline = Timeline::default();
        assert_eq!(timeline.before(i64::MAX), Timestamp(0));
        assert_eq!(timeline.time_of(Timestamp(9)), None);
        timeline.note(5000, Timestamp(7)).unwrap();
        assert_eq!(timeline.before(4999), Timestamp(0));
        assert_eq!(timeline.before(5000), Timestamp(7));
        assert_eq!(timeline.time_of(Timestamp(6)), None);
        assert_eq!(timeline.time_of(Timestamp(8)), Some(5000));
        timeline.note(-5000, Timestamp(8)).unwrap();
        timeline.note(5999, Timestamp(9)).unwrap();
        timeline.note(6000, Timestamp(10)).unwrap();
        assert_eq!(timeline.samples.len(), 2);
        timeline.forget(Timestamp(9));
        assert_eq!(timeline.before(5500), Timestamp(7));
        timeline.forget(Timestamp(10));
        assert_eq!(timeline.before(5500), Timestamp(0));
    }

    #[test]
    fn hostile_bytes_are_refused() {
        let mut timeline = Timeline::default();
        for number in 0..40 {
            timeline
                .note(number * 3000, Timestamp(number.cast_unsigned() * 300 + 1))
                .unwrap();
        }
        let mut bytes = Vec::new();
        timeline.encode(&mut bytes);
        for len in 0..bytes.len() {
            assert_eq!(Timeline::decode(&mut &bytes[..len]), Err(Malformed));
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut bent = bytes.clone();
                bent[at] ^= 1 << bit;
                if let Ok(decoded) = Timeline::decode(&mut &bent[..]) {
                    let mut again = Vec::new();
                    decoded.encode(&mut again);
                    assert!(bent.starts_with(&again));
                }
            }
        }
        let mut many = Vec::new();
        put_varint(&mut many, SAMPLES_MAX as u64 + 1);
        many.resize(many.len() + 2 * SAMPLES_MAX + 2, 1);
        assert_eq!(Timeline::decode(&mut &many[..]), Err(Malformed));
    }
}

//! Which job compaction does next, and how far it is behind (`ENGINE.md`, section 5).
//!
//! Flushes add runs of tier 0. As many runs of a tier as [`Tuning::tier_runs`] become one of the next tier. When what is above the base is large compared with it, or names so many large values that what they
//! replaced takes too much room, all of it is merged into the base. Everything here is a pure function of figures; a job that was stopped half-way goes on, because its runs say so.

use core::ops::Range;

use lfs::Usage;

use super::manifest::BASE;
use crate::Timestamp;

/// Output of a step, at most; less on small disks.
const STEP_BYTES_MAX: u64 = 32 << 20;

/// A step writes at most this part of the room for objects.
const STEP_PART: u64 = 64;

/// Bytes that a table takes in a manifest, or more.
const MANIFEST_TABLE_BYTES: u64 = 256;

/// What decides when jobs are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// Runs of one tier that become one of the next.
    pub tier_runs: usize,
    /// The base is due when what is above it takes more than this part of it: one in so many.
    pub base_part: u64,
    /// Or names large values that take more than this part of what the base takes and names.
    pub large_part: u64,
    /// A table of the base is rewritten for what can be dropped of it when that is so many hundredths.
    pub reclaim_percent: u64,
}

impl Tuning {
    /// While nothing is committed: what is written then costs nobody anything, and what is not needed takes room for as long as it stays.
    #[must_use]
    pub fn at_rest() -> Self {
        Self {
            large_part: 24,
            ..Self::default()
        }
    }
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            tier_runs: 5,
            base_part: 7,
            large_part: 8,
            reclaim_percent: 30,
        }
    }
}

/// A run, as far as its next job depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunStats {
    /// How often it was merged; [`BASE`] of the base.
    pub tier: u8,
    /// What there is of it; what has moved to another run is not counted.
    pub bytes: u64,
    /// Its tables.
    pub tables: usize,
    /// Bytes of large values that it names; while nothing is committed also those of the base that its tombstones stand for.
    pub large_bytes: u64,
    /// Its commits.
    pub first: Timestamp,
    /// Up to here.
    pub last: Timestamp,
    /// The tier that a job moves it to, which has begun.
    pub job: Option<u8>,
}

/// A table of the base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseTable {
    /// What there is of it.
    pub bytes: u64,
    /// What of its bytes and of the values it names would go, were it written anew: expired, tombstones, history older than the floor, what range deletes hide.
    pub droppable_bytes: u64,
}

/// All runs.
#[derive(Debug, Clone, Copy)]
pub struct Shape<'s> {
    /// Newest first; the base, if there is one, is the last.
    pub runs: &'s [RunStats],
    /// The base's tables, in key order.
    pub base_tables: &'s [BaseTable],
    /// Bytes of the base that a job into it, if one has begun, has not come to.
    pub ahead_bytes: u64,
}

/// How much room there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pressure {
    /// Room for objects.
    pub free_bytes: u64,
    /// What has to stay free of it.
    pub reserve_bytes: u64,
    /// A whole table.
    pub table_bytes: u64,
    /// Output of a step.
    pub step_bytes: u64,
}

impl Pressure {
    /// There is hardly more room than the reserve: whatever gives some is worth writing.
    fn is_short(&self) -> bool {
        self.free_bytes < self.reserve_bytes + self.step_bytes
    }
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    /// Merge runs into one of this tier.
    Tier {
        /// Which.
        runs: Range<usize>,
        /// The tier.
        into: u8,
    },
    /// Merge these runs, all that are behind the newest of them, into the base.
    Base {
        /// Which, the base not among them. Never empty.
        runs: Range<usize>,
    },
    /// Write these tables of the base anew.
    Reclaim {
        /// Which.
        tables: Range<usize>,
    },
}

/// The job that is to be gone on with, or that is due. Asked before each step: a job with more urgency goes between two steps of another.
pub fn pick(shape: &Shape<'_>, pressure: &Pressure, tuning: &Tuning) -> Option<Job> {
    let above = shape.above();
    let begun = |into: u8| range_of(above, |run| run.job == Some(into));
    for tier in 0..BASE {
        // Tiers follow each other without gaps, but for some that are being moved.
        if tier > 0 && !above.iter().any(|run| run.tier >= tier) {
            break;
        }
        if let Some(runs) = begun(tier + 1).filter(|_| tier + 1 < BASE) {
            let into = tier + 1;
            return Some(Job::Tier { runs, into });
        }
        let runs = range_of(above, |run| run.tier == tier && run.job.is_none());
        if let Some(runs) = runs.filter(|runs| runs.len() >= tuning.tier_runs.max(2)) {
            let into = (tier + 1).min(BASE - 1);
            return Some(Job::Tier { runs, into });
        }
    }
    if let Some(runs) = begun(BASE) {
        return Some(Job::Base { runs });
    }
    if !above.is_empty() && shape.is_base_due(pressure, tuning) {
        return Some(Job::Base {
            runs: 0..above.len(),
        });
    }
    if let Some(tables) = reclaim(shape.base_tables, pressure, tuning) {
        return Some(Job::Reclaim { tables });
    }
    // What newer runs hide of the base goes when they meet.
    let runs = 0..above.len();
    (pressure.is_short() && !above.is_empty()).then_some(Job::Base { runs })
}

/// By how many bytes compaction is behind its schedule: a job has the time in which as much comes as made it due. 0: it may take its time.
pub fn debt(shape: &Shape<'_>, pressure: &Pressure, tuning: &Tuning) -> u64 {
    let above = shape.above();
    let waiting = |tier: u8| {
        let runs = above.iter();
        runs.filter(move |run| run.tier == tier && run.job.is_none())
    };
    let (mut debt, tier_runs) = (0, tuning.tier_runs.max(2) as u64);
    for tier in 0..=above.iter().map(|run| run.tier).max().unwrap_or(0) {
        let begun = above.iter().filter(|run| run.job == Some(tier + 1));
        let begun = begun.map(|run| run.bytes).sum::<u64>();
        let (runs, bytes) =
            waiting(tier).fold((0, 0), |(runs, bytes), run| (runs + 1, bytes + run.bytes));
        // While a job is under way others come, up to as many.
        let (late, work) = if begun > 0 {
            (runs, begun)
        } else {
            (runs.max(tier_runs) - tier_runs, bytes)
        };
        debt += part_of(work, late, tier_runs);
    }
    let base = shape.base().map_or(0, |base| base.bytes);
    let begun = above.iter().filter(|run| run.job == Some(BASE));
    let begun = begun.map(|run| run.bytes).sum::<u64>();
    let (come, due) = shape.against_base(pressure, tuning);
    if begun > 0 || shape.ahead_bytes > 0 {
        // Of the way through the base so much is to be done as has come of what makes it due the next time.
        let left = begun + shape.ahead_bytes;
        let on_time = part_of(base, due.saturating_sub(come.min(due)), due);
        let late = shape.ahead_bytes.saturating_sub(on_time);
        debt += part_of(left, late, shape.ahead_bytes.max(1));
    } else if come > due {
        debt += part_of(
            base + above.iter().map(|run| run.bytes).sum::<u64>(),
            come - due,
            due,
        );
    }
    debt
}

/// Output of a step, on a disk like this: enough for two tables, and little compared with the disk.
pub fn step_bytes(usage: &Usage, table_bytes: u64) -> u64 {
    let part = usage.object_bytes_max / STEP_PART;
    part.min(STEP_BYTES_MAX).max(2 * table_bytes)
}

/// Room that objects must be able to take, so that flushes and steps always have theirs: all runs, what is in memtables, a step's output, and of each run a table that is used in part.
pub fn reserve(usage: &Usage, runs: &[RunStats], table_bytes: u64, memtable_bytes: u64) -> u64 {
    let tables = runs.iter().map(|run| run.tables as u64).sum::<u64>();
    let manifest = (tables * MANIFEST_TABLE_BYTES).next_multiple_of(usage.segment_bytes.max(1));
    let parts = (runs.len() as u64 + 1) * table_bytes;
    let runs = runs.iter().map(|run| run.bytes).sum::<u64>();
    runs + memtable_bytes + step_bytes(usage, table_bytes) + parts + 2 * manifest
}

impl<'s> Shape<'s> {
    fn base(&self) -> Option<&'s RunStats> {
        self.runs.last().filter(|run| run.tier == BASE)
    }

    fn above(&self) -> &'s [RunStats] {
        match self.runs.split_last() {
            Some((last, above)) if last.tier == BASE => above,
            _ => self.runs,
        }
    }

    /// What has come above the base that no job takes to it yet, and what would make it due; of the two measures that one which is nearer.
    fn against_base(&self, pressure: &Pressure, tuning: &Tuning) -> (u64, u64) {
        let above = self.above().iter().filter(|run| run.job != Some(BASE));
        let (bytes, large) = above.fold((0, 0), |(bytes, large), run| {
            (bytes + run.bytes, large + run.large_bytes)
        });
        let (base, base_large) = self
            .base()
            .map_or((0, 0), |base| (base.bytes, base.large_bytes));
        let least = pressure.table_bytes.max(1);
        let by_bytes = (bytes, (base / tuning.base_part.max(1)).max(least));
        let by_large = (
            large,
            ((base + base_large) / tuning.large_part.max(1)).max(least),
        );
        // As fractions.
        let is_nearer = u128::from(by_large.0) * u128::from(by_bytes.1)
            > u128::from(by_bytes.0) * u128::from(by_large.1);
        if is_nearer { by_large } else { by_bytes }
    }

    fn is_base_due(&self, pressure: &Pressure, tuning: &Tuning) -> bool {
        let (come, due) = self.against_base(pressure, tuning);
        come > due
    }
}

/// The row of runs for which this holds; they are neighbours.
fn range_of(runs: &[RunStats], is: impl Fn(&RunStats) -> bool) -> Option<Range<usize>> {
    let first = runs.iter().position(&is)?;
    let len = runs.iter().skip(first).take_while(|run| is(run)).count();
    Some(first..first + len)
}

/// The table with most to drop, and its neighbours that are worth it too, as many as a step writes.
fn reclaim(tables: &[BaseTable], pressure: &Pressure, tuning: &Tuning) -> Option<Range<usize>> {
    let least = if pressure.is_short() {
        // A table that would come out nearly as large as it is gives no room.
        tuning.reclaim_percent.min(5)
    } else {
        tuning.reclaim_percent
    };
    let is_worth = |table: &BaseTable| {
        table.droppable_bytes > 0
            && u128::from(table.droppable_bytes) * 100
                >= u128::from(table.bytes) * u128::from(least)
    };
    // The first of those with most, so that its neighbours follow.
    let worth = tables.iter().enumerate().rev();
    let worth = worth.filter(|(_, table)| is_worth(table));
    let (best, _) = worth.max_by_key(|(_, table)| {
        u128::from(table.droppable_bytes) * 1000 / u128::from(table.bytes.max(1))
    })?;
    let mut left = pressure.step_bytes;
    let rest = tables.get(best..)?.iter();
    let row = rest.take_while(|table| {
        let fits = left >= table.bytes;
        left = left.saturating_sub(table.bytes);
        is_worth(table) && fits
    });
    Some(best..best + row.count().max(1))
}

/// `whole · part / of`.
fn part_of(whole: u64, part: u64, of: u64) -> u64 {
    let part = u128::from(whole) * u128::from(part) / u128::from(of.max(1));
    u64::try_from(part).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::testing::random;

    const MIB: u64 = 1 << 20;

    const ROOM: Pressure = Pressure {
        free_bytes: 1 << 40,
        reserve_bytes: 100 * MIB,
        table_bytes: 2 * MIB,
        step_bytes: 32 * MIB,
    };

    const SHORT: Pressure = Pressure {
        free_bytes: 100 * MIB,
        ..ROOM
    };

    fn run(tier: u8, mib: u64) -> RunStats {
        RunStats {
            tier,
            bytes: mib * MIB,
            tables: 1,
            large_bytes: 0,
            first: Timestamp(0),
            last: Timestamp(0),
            job: None,
        }
    }

    fn pick_of(runs: &[RunStats], base_tables: &[BaseTable], pressure: &Pressure) -> Option<Job> {
        let shape = Shape {
            runs,
            base_tables,
            ahead_bytes: 0,
        };
        pick(&shape, pressure, &Tuning::default())
    }

    fn debt_of(runs: &[RunStats], ahead_bytes: u64) -> u64 {
        let shape = Shape {
            runs,
            base_tables: &[],
            ahead_bytes,
        };
        debt(&shape, &ROOM, &Tuning::default())
    }

    #[test]
    fn a_tier_that_is_full_comes_first() {
        let mut runs = alloc::vec![run(0, 1); 4];
        runs.extend([run(1, 5), run(BASE, 1000)]);
        assert_eq!(pick_of(&runs, &[], &ROOM), None);
        assert_eq!(debt_of(&runs, 0), 0);
        runs.insert(0, run(0, 1));
        let job = Job::Tier {
            runs: 0..5,
            into: 1,
        };
        assert_eq!(pick_of(&runs, &[], &ROOM), Some(job.clone()));
        assert_eq!(debt_of(&runs, 0), 0, "there is time");
        // Even if the base is due, or on its way.
        runs[5].bytes = 500 * MIB;
        assert_eq!(pick_of(&runs, &[], &ROOM), Some(job.clone()));
        runs[5].job = Some(BASE);
        assert_eq!(pick_of(&runs, &[], &ROOM), Some(job));
    }

    #[test]
    fn what_was_begun_goes_on_with_what_it_was_begun_with() {
        let begun = |run: RunStats, job| RunStats {
            job: Some(job),
            ..run
        };
        let mut runs = alloc::vec![run(0, 1), run(0, 1)];
        runs.extend([begun(run(0, 1), 1); 5]);
        runs.push(run(BASE, 1000));
        let job = Job::Tier {
            runs: 2..7,
            into: 1,
        };
        assert_eq!(pick_of(&runs, &[], &ROOM), Some(job));
        let runs = [
            run(0, 400),
            begun(run(0, 1), BASE),
            begun(run(1, 5), BASE),
            run(BASE, 9),
        ];
        assert_eq!(pick_of(&runs, &[], &ROOM), Some(Job::Base { runs: 1..3 }));
    }

    #[test]
    fn the_base_is_due_by_bytes_or_by_what_large_values_it_names() {
        let large = |run: RunStats, mib: u64| RunStats {
            large_bytes: mib * MIB,
            ..run
        };
        let due = Some(Job::Base { runs: 0..2 });
        let at = |above: u64, above_large: u64, base: u64, base_large: u64| {
            let above = large(run(0, above), above_large);
            pick_of(
                &[run(0, 0), above, large(run(BASE, base), base_large)],
                &[],
                &ROOM,
            )
        };
        assert_eq!(at(100, 0, 700, 0), None);
        assert_eq!(at(101, 0, 700, 0), due);
        assert_eq!(at(5, 100, 100, 700), None);
        assert_eq!(at(5, 101, 100, 700), due);
        // Few large values beside a large base of small ones are not worth it.
        assert_eq!(at(5, 10, 10_000, 10), None);
        // The first tables become the base at once.
        assert_eq!(pick_of(&[run(0, 1), run(0, 2)], &[], &ROOM), due);
        assert_eq!(pick_of(&[run(0, 1), run(0, 1)], &[], &ROOM), None);
    }

    #[test]
    fn tables_are_written_anew_for_what_can_be_dropped_of_them() {
        let table = |percent: u64| BaseTable {
            bytes: 2_000_000,
            droppable_bytes: percent * 20_000,
        };
        let of = |percents: &[u64], pressure: &Pressure| {
            let tables: Vec<_> = percents.iter().map(|percent| table(*percent)).collect();
            pick_of(&[run(BASE, 100)], &tables, pressure)
        };
        let job = |tables| Some(Job::Reclaim { tables });
        assert_eq!(of(&[0, 29, 10], &ROOM), None);
        assert_eq!(of(&[0, 29, 10], &SHORT), job(1..3));
        assert_eq!(of(&[31, 0, 60, 40, 30, 29, 90, 10], &ROOM), job(6..7));
        assert_eq!(of(&[31, 0, 60, 40, 30, 29], &ROOM), job(2..5));
        assert_eq!(
            of(&[99; 100], &ROOM)
                .map(|job| matches!(job, Job::Reclaim { tables } if tables.len() == 16)),
            Some(true)
        );
        assert_eq!(of(&[0; 4], &SHORT), None, "there is nothing to be had");
        // Large values count beyond the table's own bytes.
        let names = BaseTable {
            bytes: MIB,
            droppable_bytes: 50 * MIB,
        };
        assert_eq!(pick_of(&[run(BASE, 1)], &[names], &ROOM), job(0..1));
    }

    /// Whatever there is: where room is short and newer runs hide something, or tables have something to drop, there is a job; a rewrite of tables is no larger than a step;
    /// jobs take runs that are neighbours, and into the base all that are older.
    #[test]
    fn a_short_disk_always_has_a_way_back() {
        let mut random = random(19);
        for _ in 0..20_000 {
            let mut runs = Vec::new();
            let mut tier = 0;
            for _ in 0..random.index(12) {
                tier += u8::from(random.one_in(4));
                let mut run = run(tier, random.below(300));
                run.large_bytes = random.below(1 << 34);
                runs.push(run);
            }
            let begun = random.index(runs.len() + 1);
            if random.one_in(2) {
                for run in &mut runs[begun..] {
                    run.job = Some(BASE);
                }
            }
            let above = runs.len();
            if random.one_in(8) && above == 0 {
                continue;
            }
            runs.push(run(BASE, random.below(3000)));
            let tables: Vec<_> = (0..random.index(20))
                .map(|_| {
                    let bytes = 1 + random.below(2 * MIB);
                    let droppable_bytes = if random.one_in(2) {
                        0
                    } else {
                        random.below(bytes)
                    };
                    BaseTable {
                        bytes,
                        droppable_bytes,
                    }
                })
                .collect();
            let pressure = if random.one_in(2) { SHORT } else { ROOM };
            let job = pick_of(&runs, &tables, &pressure);
            let worth = |table: &BaseTable| table.droppable_bytes * 20 >= table.bytes;
            if pressure == SHORT && (above > 0 || tables.iter().any(worth)) {
                assert!(job.is_some());
            }
            match job {
                Some(Job::Tier { runs: taken, into }) => {
                    assert!(taken.len() >= 2 && taken.end <= above);
                    assert!(
                        runs[taken]
                            .iter()
                            .all(|run| run.tier + 1 == into && run.job.is_none())
                    );
                }
                Some(Job::Base { runs: taken }) => {
                    assert!(!taken.is_empty() && taken.end == above);
                }
                Some(Job::Reclaim { tables: taken }) => {
                    let bytes = tables[taken].iter().map(|table| table.bytes).sum::<u64>();
                    assert!(bytes > 0 && bytes <= pressure.step_bytes);
                }
                None => {}
            }
        }
    }

    #[test]
    fn debt_is_what_is_behind_the_schedule() {
        // Half of the way through the base is done; what makes it due again has come by a quarter, by a half, by three.
        let begun = RunStats {
            job: Some(BASE),
            ..run(1, 50)
        };
        let with = |come: u64| debt_of(&[run(0, come), begun, run(BASE, 700)], 350 * MIB);
        assert_eq!(with(25), 0);
        assert_eq!(with(50), 0);
        // 350 are left, where 175 should be, and what goes with them of 50.
        assert_eq!(with(75), 200 * MIB);
        assert_eq!(with(300), 400 * MIB, "all that is left");
        // Nothing has been begun: a tenth too late.
        assert_eq!(debt_of(&[run(0, 110), run(BASE, 700)], 0), 81 * MIB);
        // Five runs more have come than a job takes, which has not begun.
        let late = [run(0, 1); 10];
        assert_eq!(
            debt_of(&[&late[..], &[run(BASE, 700)]].concat(), 0),
            10 * MIB
        );
    }

    #[test]
    fn room_is_set_aside_for_a_step_and_no_copy() {
        let usage = |object_bytes_max| Usage {
            segment_bytes: MIB,
            object_bytes_max,
            object_bytes_free: 0,
            log_bytes_max: 0,
            replay_bytes_max: 0,
            live_bytes: 0,
            capacity_bytes: 0,
            taken_bytes: 0,
        };
        assert_eq!(step_bytes(&usage(1 << 40), 2 * MIB), 32 * MIB);
        assert_eq!(step_bytes(&usage(640 * MIB), 2 * MIB), 10 * MIB);
        assert_eq!(step_bytes(&usage(MIB), 2 * MIB), 4 * MIB);
        let runs = [run(0, 10), run(BASE, 1000)];
        let reserve = reserve(&usage(1 << 40), &runs, 2 * MIB, 5 * MIB);
        assert_eq!(reserve, (1010 + 5 + 32 + 3 * 2 + 2) * MIB);
    }
}

//! How much compaction does for what is committed, and when commits wait for it (`ENGINE.md`, section 5, "Pace").
//!
//! Compaction works in turns of some 32 KiB. For each byte that is committed it may do so many bytes of work; how many, follows its debt: what it is behind its
//! schedule, in memtables. While nothing is committed, and from [`HARD`] memtables of debt on, it works as fast as the disk lets it.
//!
//! **From [`SOFT`] memtables of debt on commits wait for it.** Each commit of `b` bytes adds 4·b, and at most 16·b from [`HARD`] memtables on, to what is owed,
//! and while something is owed and compaction is at work, commits wait. So, since none goes ahead while something is owed: **a commit waits until 16 times
//! the bytes committed since the last one that waited have been worked on, and one turn, at most**. A turn is more than a small commit owes: what was done beyond that
//! pays for the next ones. Work is counted by what is gone through, not by what comes
//! of it, so the bound is one of reads as well as of writes. Where compaction itself waits between steps (for a checkpoint, its turn to make one, a retry), commits do not; where commits wait for a flush, compaction does as well,
//! and a turn comes after that.

use core::cell::Cell;

/// Memtables of debt below which compaction may take its time.
const LOW: u64 = 1;
/// From which on commits wait for it.
const SOFT: u64 = 4;
/// From which on they wait for as much as they ever do.
const HARD: u64 = 16;

/// Bytes of work for a committed byte, in halves: with no debt, at [`SOFT`], and at [`HARD`].
const GAINS: [u64; 3] = [1, 8, 32];

/// Work that may be saved up: some turns. More would let it go on at full speed beside commits that are few, when a burst of them is over.
const TOKENS_MAX: i64 = 1 << 20;

/// Bytes of a turn, about: so much may be done too early, and paid ahead.
const TURN: u64 = 32 << 10;

/// What compaction may do, and what commits wait for.
#[derive(Default)]
pub(super) struct Pace {
    /// What compaction is behind its schedule, and what a memtable takes.
    debt: Cell<u64>,
    unit: Cell<u64>,
    /// Work that may be done now, in halves of bytes. A turn goes on to its end, and what it does beyond is taken off what commits bring next.
    tokens: Cell<i64>,
    /// Work that commits wait for, in halves of bytes.
    owed: Cell<u64>,
    /// Work beyond what commits waited for, in halves of bytes, which is taken off what the next ones owe.
    paid: Cell<u64>,
    /// Compaction is at work, and not waiting itself.
    is_working: Cell<bool>,
    /// Nothing has been committed for a while.
    is_idle: Cell<bool>,
    /// Bytes committed so far.
    committed: Cell<u64>,
}

impl Pace {
    /// A commit was made, of so many bytes, and so many of large values besides. True if the next ones have to wait from here on.
    pub(super) fn committed(&self, bytes: u64, value_bytes: u64) -> bool {
        let went_ahead = self.allows();
        self.is_idle.set(false);
        // One that changes files alone counts as well.
        let counted = self.committed.get().wrapping_add(bytes.max(1));
        self.committed.set(counted);
        let gain = self.gain();
        let work = bytes.saturating_add(value_bytes).saturating_mul(gain);
        let tokens = self.tokens.get().saturating_add_unsigned(work);
        self.tokens.set(tokens.min(2 * TOKENS_MAX));
        if self.is_behind() && self.is_working.get() {
            let owed = bytes.saturating_mul(gain);
            let paid = self.paid.get().min(owed);
            self.paid.set(self.paid.get() - paid);
            self.owed.set(self.owed.get().saturating_add(owed - paid));
        }
        went_ahead && !self.allows()
    }

    /// So many bytes were gone through. True if commits need not wait any more that had to.
    pub(super) fn worked(&self, bytes: u64) -> bool {
        let had_to = !self.allows();
        let halves = bytes.saturating_mul(2);
        let tokens = self.tokens.get().saturating_sub_unsigned(halves);
        self.tokens.set(tokens.max(-2 * TURN.cast_signed()));
        let owed = self.owed.get();
        self.owed.set(owed.saturating_sub(halves));
        let paid = self.paid.get().saturating_add(halves.saturating_sub(owed));
        self.paid.set(paid.min(2 * TURN));
        had_to && self.allows()
    }

    /// The same for a sweep, for which commits do not wait. As far as there are tokens: commits that delete bring few, and may give much to sweep.
    pub(super) fn swept(&self, bytes: u64) {
        let tokens = self.tokens.get();
        let left = tokens.saturating_sub_unsigned(bytes.saturating_mul(2));
        self.tokens.set(left.max(tokens.min(0)));
    }

    /// Whether a commit may go ahead.
    pub(super) fn allows(&self) -> bool {
        self.owed.get() == 0 || !self.is_working.get()
    }

    /// Whether compaction may go on now.
    pub(super) fn may_work(&self) -> bool {
        let is_hurried = self.is_far_behind() || self.owed.get() > 0;
        is_hurried || self.tokens.get() > 0 || self.is_idle.get()
    }

    /// Compaction is at work from now on, or waits for something. True if commits need not wait any more that had to.
    pub(super) fn set_working(&self, is_working: bool) -> bool {
        let had_to = !self.allows();
        self.is_working.set(is_working);
        if !is_working {
            self.owed.set(0);
        }
        had_to && self.allows()
    }

    /// What compaction is behind its schedule now, with memtables of `unit` bytes.
    pub(super) fn set_debt(&self, debt: u64, unit: u64) {
        self.debt.set(debt);
        self.unit.set(unit.max(1));
    }

    /// There is nothing to do: what was saved up is of no use.
    pub(super) fn rest(&self) {
        self.tokens.set(0);
    }

    /// Bytes committed so far.
    pub(super) fn commits(&self) -> u64 {
        self.committed.get()
    }

    /// Nothing was committed for a while, if there still are `commits` bytes.
    pub(super) fn note_idle(&self, commits: u64) {
        self.is_idle.set(self.committed.get() == commits);
    }

    /// Whether nothing has been committed for a while.
    pub(super) fn is_idle(&self) -> bool {
        self.is_idle.get()
    }

    /// Whether commits wait for compaction.
    fn is_behind(&self) -> bool {
        self.owes(SOFT)
    }

    /// Whether they wait for as much as they ever do, and compaction for nothing.
    pub(super) fn is_far_behind(&self) -> bool {
        self.owes(HARD)
    }

    fn owes(&self, memtables: u64) -> bool {
        self.debt.get() >= memtables.saturating_mul(self.unit.get()) && self.unit.get() > 0
    }

    /// Halves of a byte of work for each byte committed.
    fn gain(&self) -> u64 {
        let unit = self.unit.get();
        let between = |from: u64, to: u64, least: u64, most: u64| {
            let span = u128::from(to - from) * u128::from(unit.max(1));
            let over = self.debt.get().saturating_sub(from.saturating_mul(unit));
            let part = u128::from(most - least) * u128::from(over) / span;
            most.min(least + u64::try_from(part).unwrap_or(u64::MAX / 2))
        };
        let [none, soft, hard] = GAINS;
        if self.is_behind() {
            between(SOFT, HARD, soft, hard)
        } else {
            between(LOW, SOFT, none, soft)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: u64 = 1 << 20;

    fn pace(debt: u64) -> Pace {
        let pace = Pace::default();
        pace.set_debt(debt, UNIT);
        pace
    }

    #[test]
    fn work_for_a_byte_follows_the_debt() {
        let gain = |debt| pace(debt).gain();
        assert_eq!(gain(0), 1);
        assert_eq!(gain(UNIT), 1);
        assert_eq!(gain(5 * UNIT / 2), 4);
        assert_eq!(gain(4 * UNIT), 8);
        assert_eq!(gain(10 * UNIT), 20);
        assert_eq!(gain(16 * UNIT), 32);
        assert_eq!(gain(u64::MAX), 32);
        assert_eq!(Pace::default().gain(), 1, "before anything is known");
    }

    #[test]
    fn a_commit_waits_for_sixteen_times_what_was_committed_and_no_more() {
        let pace = pace(u64::MAX);
        assert!(!pace.set_working(true));
        assert!(pace.allows(), "nothing is owed yet");
        pace.committed(1000, 0);
        pace.committed(24, 0);
        assert!(!pace.allows());
        assert!(!pace.worked(16 * 1024 - 1) && !pace.allows());
        assert!(pace.worked(1) && pace.allows());
        assert!(!pace.worked(1000), "nobody had to wait");
        pace.committed(62, 0);
        assert!(pace.allows(), "it was paid for");
        pace.committed(1, 0);
        assert!(!pace.allows());
        assert!(pace.worked(u64::MAX / 2) && pace.allows());
        pace.committed(TURN / 16, 0);
        assert!(pace.allows(), "as much is");
        pace.committed(1, 0);
        assert!(!pace.allows());
        // A checkpoint holds up compaction, and nobody else.
        assert!(pace.set_working(false) && pace.allows());
        pace.committed(1 << 30, 0);
        assert!(pace.allows());
        pace.set_working(true);
        assert!(pace.allows());
    }

    /// It went on at full speed beside a single client, whose commits had to make its writes durable as well.
    #[test]
    fn behind_its_schedule_it_still_has_no_more_than_commits_bring_unless_it_is_far_behind() {
        let behind = pace(10 * UNIT);
        behind.set_working(true);
        assert!(behind.committed(100, 0), "it has to be told");
        assert!(!behind.committed(0, 0) && behind.may_work());
        behind.worked(999);
        assert!(behind.may_work() && !behind.allows());
        behind.worked(1);
        assert!(!behind.may_work() && behind.allows());
        let far_behind = pace(16 * UNIT);
        far_behind.set_working(true);
        assert!(far_behind.may_work());
    }

    /// Each commit, however small, brought a turn of its own.
    #[test]
    fn a_turn_that_small_commits_bring_is_paid_by_as_many_of_them() {
        let pace = pace(0);
        pace.set_working(true);
        let mut turns = 0;
        for _ in 0..10_000 {
            pace.committed(100, 0);
            while pace.may_work() {
                pace.worked(4000);
                turns += 1;
            }
        }
        assert_eq!(turns, 10_000 * 100 / 2 / 4000);
        // What more than a turn did, such as while nothing was committed, is forgotten.
        pace.worked(u64::MAX);
        pace.committed(2 * TURN, 0);
        assert!(!pace.may_work());
        pace.committed(1, 0);
        assert!(pace.may_work());
    }

    /// A sweep of what many small commits had deleted kept merges waiting for hours.
    #[test]
    fn a_sweep_takes_no_more_tokens_than_there_are() {
        let pace = pace(0);
        pace.committed(100, 0);
        pace.swept(1 << 20);
        assert!(!pace.may_work());
        pace.committed(1, 0);
        assert!(pace.may_work(), "each commit lets it go on");
        pace.worked(1000);
        pace.swept(1000);
        pace.committed(2 * 999, 0);
        assert!(
            !pace.may_work(),
            "what a merge did too much is not forgotten"
        );
        pace.committed(2, 0);
        assert!(pace.may_work());
    }

    #[test]
    fn without_debt_nobody_waits_and_compaction_has_half_of_what_is_committed() {
        let pace = pace(0);
        pace.set_working(true);
        assert!(!pace.may_work());
        pace.committed(1000, 0);
        assert!(pace.allows() && pace.may_work());
        pace.worked(499);
        assert!(pace.may_work());
        pace.worked(1);
        assert!(!pace.may_work());
        // Idle, it works as fast as it can, until the next commit.
        let commits = pace.commits();
        pace.note_idle(commits);
        assert!(pace.may_work());
        pace.committed(2, 0);
        pace.worked(1);
        assert!(!pace.may_work());
        pace.note_idle(commits);
        assert!(!pace.is_idle());
        // A commit of files alone is one.
        let commits = pace.commits();
        pace.committed(0, 0);
        pace.note_idle(commits);
        assert!(!pace.is_idle());
        pace.committed(u64::MAX, 0);
        pace.rest();
        assert!(!pace.may_work());
    }
}

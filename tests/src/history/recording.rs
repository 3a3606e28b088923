//! From what a client did at some level of isolation to transactions that [`check`](super::check) knows.
//!
//! What a level promises is said by *parts*: each is a transaction by itself that happened at once, at some moment between two times. A history is one that the levels permit when all its
//! parts together are strictly serializable:
//!
//! | level | its parts |
//! |---|---|
//! | SERIALIZABLE | all that it did, at its COMMIT; of one that wrote and locked nothing what it read, at its BEGIN |
//! | SNAPSHOT | what it read, at its BEGIN; what it wrote, and what it read of keys that it had locked, at its COMMIT |
//! | READ COMMITTED | what each statement read, at that statement; what it wrote, at its COMMIT |
//! | none | all that it did, at its one request |
//!
//! So levels may be mixed in one history, and a part is held against everybody's. It finds more than the names of anomalies ask for: a SNAPSHOT that shows an older state than that of its BEGIN is found,
//! and so is a statement of READ COMMITTED that does. What a transaction that ends without a commit has read is held to the same; what it wrote must never be seen, and neither must what a savepoint took back.
//!
//! A lost update is found when both append to one list: what one of them appended is gone. READ COMMITTED does not promise that this does not happen: let it
//! lock what it appends to.

use std::collections::{BTreeMap, BTreeSet};

use super::{Operation, Outcome, Transaction};

/// How a transaction is kept apart from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// BEGIN SERIALIZABLE.
    Serializable,
    /// BEGIN SNAPSHOT.
    Snapshot,
    /// BEGIN READ COMMITTED.
    ReadCommitted,
    /// One request: a command, or MULTI … EXEC.
    Alone,
}

impl Level {
    /// How BEGIN calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Serializable => "SERIALIZABLE",
            Self::Snapshot => "SNAPSHOT",
            Self::ReadCommitted => "READ COMMITTED",
            Self::Alone => "alone",
        }
    }
}

/// When a request was sent, and when its reply was there, by a clock that all clients share and that shows no time twice.
pub type Window = (u64, u64);

/// A transaction that is going on.
#[derive(Debug, Clone)]
pub struct Recording {
    level: Level,
    begin: Window,
    reads: Vec<Read>,
    /// What it has appended and not taken back: list and number.
    appends: Vec<(u64, u64)>,
    taken_back: Vec<(u64, u64)>,
    locked: BTreeSet<u64>,
}

#[derive(Debug, Clone)]
struct Read {
    at: Window,
    /// Lists, without what the transaction had appended itself.
    lists: Vec<(u64, Vec<u64>)>,
    /// Of keys that it had locked.
    is_current: bool,
}

impl Recording {
    /// It has begun.
    pub fn new(level: Level, begin: Window) -> Self {
        Self {
            level,
            begin,
            reads: Vec::new(),
            appends: Vec::new(),
            taken_back: Vec::new(),
            locked: BTreeSet::new(),
        }
    }

    /// A number was appended to a list.
    pub fn append(&mut self, key: u64, value: u64) {
        self.appends.push((key, value));
    }

    /// A list was locked: it is seen as it is.
    pub fn lock(&mut self, key: u64) {
        self.locked.insert(key);
    }

    /// One statement read these lists.
    pub fn read(&mut self, at: Window, lists: Vec<(u64, Vec<u64>)>) {
        let mut own = BTreeMap::<u64, Vec<u64>>::new();
        for (key, value) in &self.appends {
            own.entry(*key).or_default().push(*value);
        }
        let without_own = |(key, mut values): (u64, Vec<u64>)| {
            let own = own.get(&key).map_or(&[][..], Vec::as_slice);
            // If it is not, the checker finds that it saw its own commit.
            if values.ends_with(own) {
                values.truncate(values.len() - own.len());
            }
            (key, values)
        };
        let lists: Vec<_> = lists.into_iter().map(without_own).collect();
        // A statement of READ COMMITTED is one part, whatever is locked.
        let (locked, unlocked): (Vec<_>, Vec<_>) = lists
            .into_iter()
            .partition(|(key, _)| self.level != Level::ReadCommitted && self.locked.contains(key));
        for (lists, is_current) in [(locked, true), (unlocked, false)] {
            if !lists.is_empty() {
                self.reads.push(Read {
                    at,
                    lists,
                    is_current,
                });
            }
        }
    }

    /// What to give to [`roll_back_to`](Self::roll_back_to).
    pub fn savepoint(&self) -> usize {
        self.appends.len()
    }

    /// What was appended since the savepoint is taken back.
    pub fn roll_back_to(&mut self, savepoint: usize) {
        self.taken_back.extend(self.appends.drain(savepoint..));
    }

    /// It is over: its parts go to `history`. Of one by itself the window of `end` counts.
    pub fn end(mut self, end: Window, outcome: Outcome, history: &mut Vec<Transaction>) {
        let part = |window: Window, outcome, reads: &[&Read], appends: &[(u64, u64)]| {
            let lists = reads.iter().flat_map(|read| &read.lists);
            let reads = lists.map(|(key, values)| Operation::Read {
                key: *key,
                values: values.clone(),
            });
            let appends = appends.iter().map(|(key, value)| Operation::Append {
                key: *key,
                value: *value,
            });
            Transaction {
                began: window.0,
                ended: window.1,
                outcome,
                operations: reads.chain(appends).collect(),
            }
        };
        if outcome == Outcome::Aborted {
            self.taken_back.append(&mut self.appends);
        }
        let is_committed = outcome == Outcome::Committed;
        let reads_nothing_but = self.appends.is_empty() && self.locked.is_empty();
        let reads = self.reads.iter();
        let mut parts = Vec::new();
        // What the commit is about.
        let mut at_end: Vec<&Read> = Vec::new();
        match self.level {
            Level::Alone => at_end = reads.filter(|_| is_committed).collect(),
            Level::Serializable | Level::Snapshot => {
                let at_begin: Vec<_> = reads.clone().filter(|read| !read.is_current).collect();
                let all = self.level == Level::Serializable && !reads_nothing_but;
                at_end = reads
                    .filter(|read| is_committed && (all || read.is_current))
                    .collect();
                parts.push(part(self.begin, Outcome::Committed, &at_begin, &[]));
            }
            Level::ReadCommitted => {
                parts.extend(reads.map(|read| part(read.at, Outcome::Committed, &[read], &[])));
            }
        }
        parts.push(part(end, outcome, &at_end, &self.appends));
        parts.push(part(end, Outcome::Aborted, &[], &self.taken_back));
        history.extend(parts.into_iter().filter(|part| !part.operations.is_empty()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Anomaly, check};

    const COMMITTED: Outcome = Outcome::Committed;

    /// Somebody appends 1 to lists 1 and 2 at once, between the times 30 and 40.
    fn other() -> Vec<Transaction> {
        let mut history = Vec::new();
        let mut one = Recording::new(Level::Alone, (30, 40));
        one.append(1, 1);
        one.append(2, 1);
        one.end((30, 40), COMMITTED, &mut history);
        history
    }

    /// What is found when somebody else does the same, begun before, and committed behind it.
    fn found(level: Level, run: impl FnOnce(&mut Recording)) -> Vec<&'static str> {
        let mut history = other();
        let mut one = Recording::new(level, (10, 20));
        run(&mut one);
        one.end((90, 100), COMMITTED, &mut history);
        check(&history).iter().map(Anomaly::name).collect()
    }

    #[test]
    fn each_level_is_held_to_what_it_promises() {
        let levels = [Level::Serializable, Level::Snapshot, Level::ReadCommitted];
        let is_found = |run: fn(&mut Recording)| levels.map(|level| !found(level, run).is_empty());
        // Who only reads sees the state of its begin; or of the statement.
        let old = |one: &mut Recording| one.read((50, 60), vec![(1, vec![]), (2, vec![])]);
        assert_eq!(is_found(old), [false, false, true]);
        let new = |one: &mut Recording| one.read((50, 60), vec![(1, vec![1]), (2, vec![1])]);
        assert_eq!(is_found(new), [true, true, false]);
        // Half of a commit.
        let torn = |one: &mut Recording| one.read((50, 60), vec![(1, vec![]), (2, vec![1])]);
        assert_eq!(is_found(torn), [true, true, true]);
        // Read skew.
        let skew = |one: &mut Recording| {
            one.read((21, 22), vec![(1, vec![])]);
            one.read((50, 60), vec![(2, vec![1])]);
        };
        assert_eq!(is_found(skew), [true, true, false]);
        // What it writes follows from what is not so any more.
        let stale = |one: &mut Recording| {
            one.read((21, 22), vec![(1, vec![])]);
            one.append(3, 1);
        };
        assert_eq!(is_found(stale), [true, false, false]);
        // What is locked is seen as it is.
        let locked = |one: &mut Recording| {
            one.lock(1);
            one.read((50, 60), vec![(1, vec![1])]);
            one.append(1, 2);
        };
        assert_eq!(is_found(locked), [false, false, false]);
        let locked_and_old = |one: &mut Recording| {
            one.lock(1);
            one.read((50, 60), vec![(1, vec![])]);
            one.append(1, 2);
        };
        assert_eq!(is_found(locked_and_old), [true, true, true]);
        // Its own appends are no news.
        let own = |one: &mut Recording| {
            one.append(3, 1);
            let savepoint = one.savepoint();
            one.append(3, 2);
            one.read((50, 60), vec![(3, vec![1, 2])]);
            one.roll_back_to(savepoint);
            one.read((70, 80), vec![(3, vec![1])]);
        };
        assert_eq!(is_found(own), [false, false, false]);
    }

    #[test]
    fn what_was_taken_back_must_not_be_seen() {
        for (outcome, expected) in [(COMMITTED, &[][..]), (Outcome::Aborted, &["G1a"])] {
            let mut history = Vec::new();
            let mut one = Recording::new(Level::Snapshot, (1, 2));
            one.append(1, 1);
            let savepoint = one.savepoint();
            one.append(1, 2);
            one.roll_back_to(savepoint);
            one.end((3, 4), outcome, &mut history);
            let mut reader = Recording::new(Level::Alone, (5, 6));
            reader.read((5, 6), vec![(1, vec![1])]);
            reader.end((5, 6), COMMITTED, &mut history);
            let names: Vec<_> = check(&history).iter().map(Anomaly::name).collect();
            assert_eq!(names, expected);
        }
        let mut history = Vec::new();
        let mut one = Recording::new(Level::Snapshot, (1, 2));
        let savepoint = one.savepoint();
        one.append(1, 2);
        one.roll_back_to(savepoint);
        one.end((3, 4), COMMITTED, &mut history);
        let mut reader = Recording::new(Level::Alone, (5, 6));
        reader.read((5, 6), vec![(1, vec![2])]);
        reader.end((5, 6), COMMITTED, &mut history);
        let names: Vec<_> = check(&history).iter().map(Anomaly::name).collect();
        assert_eq!(names, ["G1a"]);
    }
}

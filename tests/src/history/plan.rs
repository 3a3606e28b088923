//! What clients do, made up at random: transactions on a few lists, so that they meet.
//!
//! A list is the value of a key: its numbers in decimal, each with a space behind. When much was appended to them, new lists take their place, so that none
//! becomes long.

use std::ops::Range;

use fastrand::Rng;

use super::recording::Level;

/// Lists that are appended to at one time.
const LISTS: u64 = 6;

/// Numbers that are given out until the next list takes the place of the oldest one.
const NUMBERS_PER_LIST: u64 = 30;

/// The key of a list. They are in the order of the lists.
pub fn key(list: u64) -> String {
    format!("list{list:08}")
}

/// The list of a key.
pub fn list_of(key: &[u8]) -> Option<u64> {
    std::str::from_utf8(key)
        .ok()?
        .strip_prefix("list")?
        .parse()
        .ok()
}

/// What is appended for a number.
pub fn appended(value: u64) -> String {
    format!("{value} ")
}

/// The numbers of a list.
///
/// # Panics
/// When it has anything else in it.
pub fn numbers(list: &[u8]) -> Vec<u64> {
    let text = std::str::from_utf8(list).expect("numbers");
    let numbers = text.split_terminator(' ');
    numbers
        .map(|number| number.parse().unwrap_or_else(|_| panic!("{text:?}")))
        .collect()
}

/// A statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// APPEND.
    Append {
        /// To which list.
        list: u64,
        /// What.
        value: u64,
    },
    /// GET.
    Read(u64),
    /// RANGE … WITHVALUES, over all of these lists.
    Range(Range<u64>),
    /// The same from the end.
    Reverse(Range<u64>),
    /// LOCK.
    Lock(u64),
    /// SAVEPOINT, always of the same name.
    Savepoint,
    /// ROLLBACK TO the last savepoint. There is one.
    RollBack,
}

/// A transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// How it is begun.
    pub level: Level,
    /// What it does.
    pub steps: Vec<Step>,
    /// Whether it ends with COMMIT, or else ROLLBACK.
    pub commits: bool,
}

/// Makes up plans. All clients take from one.
pub struct Planner {
    random: Rng,
    levels: Vec<Level>,
    next_value: u64,
}

impl Planner {
    /// Of transactions at these levels.
    pub fn new(seed: u64, levels: &[Level]) -> Self {
        Self {
            random: Rng::with_seed(seed),
            levels: levels.to_vec(),
            next_value: 0,
        }
    }

    /// Lists that are of use now.
    fn lists(&self) -> Range<u64> {
        let first = self.next_value / NUMBERS_PER_LIST;
        first..first + LISTS
    }

    /// The next one.
    pub fn plan(&mut self) -> Plan {
        let lists = self.lists();
        let random = &mut self.random;
        let level = *random.choice(&self.levels).unwrap();
        let reads_only = random.u8(..8) == 0;
        let mut locked = Vec::new();
        let mut steps = Vec::new();
        let mut has_savepoint = false;
        for _ in 0..random.usize(1..7) {
            let list = random.u64(lists.clone());
            match random.u8(..20) {
                0..=7 if !reads_only => {
                    // It promises nothing of updates that others do not know of.
                    let locks = level == Level::ReadCommitted;
                    if locks && !locked.contains(&list) {
                        steps.push(Step::Lock(list));
                        locked.push(list);
                    }
                    steps.push(Step::Append {
                        list,
                        value: self.next_value,
                    });
                    self.next_value += 1;
                }
                8..=10 => {
                    let from = random.u64(lists.clone());
                    let to = random.u64(lists.clone());
                    let range = from.min(to)..from.max(to) + 1;
                    let reverse = random.u8(..3) == 0;
                    steps.push(if reverse {
                        Step::Reverse(range)
                    } else {
                        Step::Range(range)
                    });
                }
                11 if level != Level::Alone && !reads_only => {
                    steps.push(Step::Lock(list));
                    locked.push(list);
                }
                12 if level != Level::Alone => {
                    steps.push(Step::Savepoint);
                    has_savepoint = true;
                }
                13 if has_savepoint => steps.push(Step::RollBack),
                _ => steps.push(Step::Read(list)),
            }
        }
        Plan {
            level,
            steps,
            commits: level == Level::Alone || random.u8(..10) > 0,
        }
    }
}

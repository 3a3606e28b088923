//! A checker of histories: what clients saw, and whether a strictly serializable store could have shown it to them.
//!
//! Clients run transactions that append numbers to lists and read lists. A list that was read says in which order its numbers were appended, so
//! dependencies between transactions follow from what was read, without a look into the store (Kingsbury and Alvaro, "Elle: inferring isolation anomalies from experimental observations", 2020):
//!
//! - *ww*: one appended right behind what another had appended;
//! - *wr*: one read what another had appended;
//! - *rw*: one read a list as it was right before another appended;
//! - *real time*: one ended before another began.
//!
//! A history is strictly serializable when these never go in a circle, and when nothing was read that never was (Adya, "Weak consistency", 1999). A circle is named by the
//! weakest of its edges that it needs:
//!
//! | | what | forbidden at |
//! |---|---|---|
//! | G0 | *ww* alone | every level |
//! | G1a, G1b | what was rolled back, or only a part of a transaction's appends, was read | every level |
//! | G1c | *ww* and *wr* | every level |
//! | G-single | one *rw* | snapshot, serializable |
//! | G2-item | several *rw* | serializable |
//!
//! with or without real time. What clients did at other levels than serializable is made into such a history by [`recording`]; [`plan`] makes up what they do. [`check`] takes time in proportion to the history when there is nothing to find.

mod cycles;
mod order;
pub mod plan;
pub mod recording;
#[cfg(test)]
mod tests;

use std::fmt;

/// A transaction as its client saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// When it was begun, by a clock that all clients share.
    pub began: u64,
    /// When its end was known. Of one whose outcome is unknown it says nothing.
    pub ended: u64,
    /// What became of it.
    pub outcome: Outcome,
    /// What it did, in order.
    pub operations: Vec<Operation>,
}

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was acknowledged.
    Committed,
    /// It was refused or rolled back: nothing of it happened.
    Aborted,
    /// Its reply never came.
    Unknown,
}

/// A step of a transaction. No number is appended twice to one list, by anybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// A number was appended to a list.
    Append {
        /// The list.
        key: u64,
        /// The number.
        value: u64,
    },
    /// A list was read.
    Read {
        /// The list.
        key: u64,
        /// All of it.
        values: Vec<u64>,
    },
}

/// How one transaction depends on another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dependency {
    /// It appended right behind what the other had appended.
    WriteWrite,
    /// It read what the other had appended.
    WriteRead,
    /// It appended to what the other had read.
    ReadWrite,
    /// It began after the other had ended.
    RealTime,
}

/// What is wrong. Transactions are named by their place in the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Anomaly {
    /// A read found a number that nobody appended.
    Invented {
        /// Who read.
        reader: usize,
        /// Which list.
        key: u64,
        /// The number.
        value: u64,
    },
    /// A read found a number twice.
    Twice {
        /// Who read.
        reader: usize,
        /// Which list.
        key: u64,
        /// The number.
        value: u64,
    },
    /// A transaction did not see its own appends, behind all others and in order.
    Internal {
        /// Who read.
        reader: usize,
        /// Which list.
        key: u64,
    },
    /// Two reads show a list in orders of which neither goes on with the other.
    Incompatible {
        /// Who read it so.
        readers: [usize; 2],
        /// Which list.
        key: u64,
    },
    /// What a transaction had appended that was rolled back was read.
    G1a {
        /// Who appended.
        writer: usize,
        /// Who read.
        reader: usize,
        /// Which list.
        key: u64,
    },
    /// A list was read between two appends of one transaction.
    G1b {
        /// Who appended.
        writer: usize,
        /// Who read.
        reader: usize,
        /// Which list.
        key: u64,
    },
    /// Transactions depend on each other in a circle.
    Cycle(Cycle),
}

/// A circle of dependencies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cycle {
    /// Its name.
    pub kind: CycleKind,
    /// Whether it takes real time to close it.
    pub real_time: bool,
    /// Each depends on the one before by this, in this list (none for real time); the first one on the last.
    pub steps: Vec<Step>,
}

/// A transaction in a circle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Its place in the history.
    pub transaction: usize,
    /// How the next one depends on it.
    pub dependency: Dependency,
    /// By which list.
    pub key: Option<u64>,
}

/// Names of circles, the gravest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CycleKind {
    /// Of *ww* alone.
    G0,
    /// Of *ww* and *wr*.
    G1c,
    /// With one *rw*.
    GSingle,
    /// With several *rw*.
    G2Item,
}

impl Anomaly {
    /// What the tests go by: a short name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Invented { .. } => "invented",
            Self::Twice { .. } => "twice",
            Self::Internal { .. } => "internal",
            Self::Incompatible { .. } => "incompatible",
            Self::G1a { .. } => "G1a",
            Self::G1b { .. } => "G1b",
            Self::Cycle(cycle) => match (cycle.kind, cycle.real_time) {
                (CycleKind::G0, false) => "G0",
                (CycleKind::G0, true) => "G0, real time",
                (CycleKind::G1c, false) => "G1c",
                (CycleKind::G1c, true) => "G1c, real time",
                (CycleKind::GSingle, false) => "G-single",
                (CycleKind::GSingle, true) => "G-single, real time",
                (CycleKind::G2Item, false) => "G2-item",
                (CycleKind::G2Item, true) => "G2-item, real time",
            },
        }
    }
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.name())?;
        match self {
            Self::Invented { reader, key, value } => {
                write!(
                    f,
                    "T{reader} read {value} in list {key}, which nobody appended"
                )
            }
            Self::Twice { reader, key, value } => {
                write!(f, "T{reader} read {value} in list {key} twice")
            }
            Self::Internal { reader, key } => {
                write!(
                    f,
                    "T{reader} read list {key} without its own appends at the end"
                )
            }
            Self::Incompatible {
                readers: [one, other],
                key,
            } => write!(f, "T{one} and T{other} read list {key} in different orders"),
            Self::G1a {
                writer,
                reader,
                key,
            } => write!(f, "T{reader} read in list {key} what T{writer} rolled back"),
            Self::G1b {
                writer,
                reader,
                key,
            } => write!(
                f,
                "T{reader} read list {key} between two appends of T{writer}"
            ),
            Self::Cycle(cycle) => {
                for step in &cycle.steps {
                    write!(f, "T{}", step.transaction)?;
                    match (step.dependency, step.key) {
                        (Dependency::WriteWrite, Some(key)) => write!(f, " -ww {key}-> ")?,
                        (Dependency::WriteRead, Some(key)) => write!(f, " -wr {key}-> ")?,
                        (Dependency::ReadWrite, Some(key)) => write!(f, " -rw {key}-> ")?,
                        _ => write!(f, " -then-> ")?,
                    }
                }
                let first = cycle.steps.first().map_or(0, |step| step.transaction);
                write!(f, "T{first}")
            }
        }
    }
}

/// What shows that `history` is not strictly serializable; of circles, one for each group of transactions that are in circles with each other. Empty: it is.
///
/// # Panics
/// When two transactions append one number to one list: such a history says nothing.
pub fn check(history: &[Transaction]) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    let graph = order::dependencies(history, &mut anomalies);
    anomalies.extend(cycles::find(&graph).into_iter().map(Anomaly::Cycle));
    anomalies
}

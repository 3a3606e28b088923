//! From what was read to who depends on whom.

use std::collections::{HashMap, HashSet};

use super::cycles::{Edge, Graph};
use super::{Anomaly, Dependency, Operation, Outcome, Transaction};

/// A list, as far as it is known.
#[derive(Default)]
struct List<'h> {
    /// The longest that was read, less what its reader had appended itself; and who.
    order: &'h [u64],
    reader: usize,
    /// All that was read: by whom, and how much of the order.
    reads: Vec<(usize, &'h [u64])>,
    /// Who appended each number, and whether it appended another one behind it.
    appends: HashMap<u64, (usize, bool)>,
}

/// Who depends on whom, of those that are committed; what is wrong by itself goes to `anomalies`.
pub(super) fn dependencies(history: &[Transaction], anomalies: &mut Vec<Anomaly>) -> Graph {
    let mut lists = HashMap::<u64, List<'_>>::new();
    for (at, transaction) in history.iter().enumerate() {
        let mut appended = HashMap::new();
        for operation in &transaction.operations {
            if let Operation::Append { key, value } = operation {
                let list = lists.entry(*key).or_default();
                if let Some(before) = appended.insert(*key, *value) {
                    list.appends.insert(before, (at, true));
                }
                let known = list.appends.insert(*value, (at, false));
                assert!(known.is_none(), "{value} is appended to list {key} twice");
            }
        }
    }
    for (at, transaction) in history.iter().enumerate() {
        if transaction.outcome == Outcome::Committed {
            note_reads(at, transaction, &mut lists, anomalies);
        }
    }
    // Transactions without a reply count when something of theirs was read.
    let mut counts: Vec<bool> = history
        .iter()
        .map(|transaction| transaction.outcome == Outcome::Committed)
        .collect();
    for list in lists.values() {
        for value in list.order {
            if let Some((writer, _)) = list.appends.get(value) {
                counts[*writer] |= history[*writer].outcome == Outcome::Unknown;
            }
        }
    }
    // What those read is theirs to answer for as well.
    for (at, transaction) in history.iter().enumerate() {
        if counts[at] && transaction.outcome == Outcome::Unknown {
            note_reads(at, transaction, &mut lists, anomalies);
        }
    }
    let mut edges = Vec::new();
    let mut keys: Vec<_> = lists.keys().copied().collect();
    keys.sort_unstable();
    for key in keys {
        depend_by_list(key, &lists[&key], history, &counts, &mut edges, anomalies);
    }
    depend_by_time(history, &counts, edges)
}

/// Notes what a transaction read of others, and checks what it read of itself.
fn note_reads<'h>(
    at: usize,
    transaction: &'h Transaction,
    lists: &mut HashMap<u64, List<'h>>,
    anomalies: &mut Vec<Anomaly>,
) {
    let mut own = HashMap::<u64, Vec<u64>>::new();
    for operation in &transaction.operations {
        match operation {
            Operation::Append { key, value } => own.entry(*key).or_default().push(*value),
            Operation::Read { key, values } => {
                let own = own.get(key).map_or(&[][..], Vec::as_slice);
                let (key, reader) = (*key, at);
                let Some(others) = values.strip_suffix(own) else {
                    anomalies.push(Anomaly::Internal { reader, key });
                    continue;
                };
                let list = lists.entry(key).or_default();
                let mut seen = HashSet::new();
                for value in others {
                    let value = *value;
                    if !seen.insert(value) {
                        anomalies.push(Anomaly::Twice { reader, key, value });
                    }
                    match list.appends.get(&value) {
                        None => anomalies.push(Anomaly::Invented { reader, key, value }),
                        Some((writer, _)) if *writer == at => {
                            anomalies.push(Anomaly::Internal { reader, key });
                        }
                        Some(_) => {}
                    }
                }
                if others.len() > list.order.len() {
                    (list.order, list.reader) = (others, at);
                }
                list.reads.push((at, others));
            }
        }
    }
}

fn depend_by_list(
    key: u64,
    list: &List<'_>,
    history: &[Transaction],
    counts: &[bool],
    edges: &mut Vec<Edge>,
    anomalies: &mut Vec<Anomaly>,
) {
    let writer = |value: &u64| list.appends.get(value).copied();
    let mut add = |from: usize, to: usize, dependency| {
        if from != to && counts[from] && counts[to] {
            edges.push(Edge {
                from,
                to,
                dependency,
                key: Some(key),
            });
        }
    };
    let in_order: HashSet<u64> = list.order.iter().copied().collect();
    // Committed appends that nobody has read: they are behind all that was read.
    let mut unread: Vec<usize> = list
        .appends
        .iter()
        .filter(|(value, (writer, _))| counts[*writer] && !in_order.contains(value))
        .map(|(_, (writer, _))| *writer)
        .collect();
    unread.sort_unstable();
    unread.dedup();
    for pair in list.order.windows(2) {
        if let (Some((from, _)), Some((to, _))) = (writer(&pair[0]), writer(&pair[1])) {
            add(from, to, Dependency::WriteWrite);
        }
    }
    if let Some((last, _)) = list.order.last().and_then(writer) {
        for to in &unread {
            add(last, *to, Dependency::WriteWrite);
        }
    }
    let mut is_rolled_back = HashSet::new();
    for (reader, values) in &list.reads {
        let reader = *reader;
        if list.order.get(..values.len()) != Some(values) {
            let readers = [list.reader, reader];
            anomalies.push(Anomaly::Incompatible { readers, key });
            continue;
        }
        if let Some((last, more)) = values.last().and_then(writer) {
            if more && last != reader {
                anomalies.push(Anomaly::G1b {
                    writer: last,
                    reader,
                    key,
                });
            }
            add(last, reader, Dependency::WriteRead);
        }
        for writer in values.iter().filter_map(writer).map(|(writer, _)| writer) {
            // Each is told of once.
            if history[writer].outcome == Outcome::Aborted && is_rolled_back.insert(writer) {
                anomalies.push(Anomaly::G1a {
                    writer,
                    reader,
                    key,
                });
            }
        }
        match list.order.get(values.len()).and_then(writer) {
            // Between two appends of one transaction, which was told of.
            Some((next, _))
                if values
                    .last()
                    .and_then(writer)
                    .is_some_and(|last| last.0 == next) => {}
            Some((next, _)) => add(reader, next, Dependency::ReadWrite),
            None if values.len() == list.order.len() => {
                for next in &unread {
                    add(reader, *next, Dependency::ReadWrite);
                }
            }
            // Nobody appended it, which was told of, too.
            None => {}
        }
    }
}

/// Adds real time: a row of moments, one for each end. Who ends leads to its moment, each moment to the next, and to whoever begins before the next.
fn depend_by_time(history: &[Transaction], counts: &[bool], mut edges: Vec<Edge>) -> Graph {
    let mut events = Vec::new();
    for (at, transaction) in history.iter().enumerate() {
        if counts[at] {
            // What begins when another ends is not behind it.
            events.push((transaction.began, false, at));
            if transaction.outcome == Outcome::Committed {
                events.push((transaction.ended, true, at));
            }
        }
    }
    events.sort_unstable();
    let transactions = history.len();
    let mut nodes = transactions;
    let mut time = |from, to| {
        edges.push(Edge {
            from,
            to,
            dependency: Dependency::RealTime,
            key: None,
        });
    };
    for (_, is_end, at) in events {
        let latest = nodes
            .checked_sub(1)
            .filter(|latest| *latest >= transactions);
        if is_end {
            time(at, nodes);
            if let Some(latest) = latest {
                time(latest, nodes);
            }
            nodes += 1;
        } else if let Some(latest) = latest {
            time(latest, at);
        }
    }
    Graph::new(transactions, nodes, edges)
}

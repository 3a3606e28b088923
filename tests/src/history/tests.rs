//! The checker itself: planted anomalies of each kind are found and rightly named, alone and hidden in large histories; in correct histories it finds nothing; in what a
//! small store shows with a part of its isolation left out it finds what that part is for.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use fastrand::Rng;

use super::{Anomaly, Operation, Outcome, Transaction, check};
use crate::seed;

fn append(key: u64, value: u64) -> Operation {
    Operation::Append { key, value }
}

fn read(key: u64, values: &[u64]) -> Operation {
    Operation::Read {
        key,
        values: values.to_vec(),
    }
}

fn transaction(began: u64, ended: u64, operations: Vec<Operation>) -> Transaction {
    Transaction {
        began,
        ended,
        outcome: Outcome::Committed,
        operations,
    }
}

/// Committed transactions that all overlap.
fn together(transactions: Vec<Vec<Operation>>) -> Vec<Transaction> {
    let all = transactions.into_iter();
    all.map(|operations| transaction(0, 10, operations))
        .collect()
}

/// Committed transactions, each after the one before.
fn one_by_one(transactions: Vec<Vec<Operation>>) -> Vec<Transaction> {
    let all = (0..).step_by(10).zip(transactions);
    all.map(|(began, operations)| transaction(began, began + 5, operations))
        .collect()
}

fn with_outcome(mut transactions: Vec<Transaction>, outcome: Outcome) -> Vec<Transaction> {
    transactions[0].outcome = outcome;
    transactions
}

/// Small histories that show one anomaly each, all on lists from `key` on.
#[expect(clippy::too_many_lines, reason = "a list")]
fn planted(key: u64) -> Vec<(&'static str, Vec<Transaction>)> {
    let (x, y, z) = (key, key + 1, key + 2);
    vec![
        // The two lists say different orders.
        (
            "G0",
            together(vec![
                vec![append(x, 1), append(y, 1)],
                vec![append(x, 2), append(y, 2)],
                vec![read(x, &[1, 2])],
                vec![read(y, &[2, 1])],
            ]),
        ),
        (
            "G1a",
            with_outcome(
                together(vec![vec![append(x, 1)], vec![read(x, &[1])]]),
                Outcome::Aborted,
            ),
        ),
        // What was rolled back is found in the middle, too.
        (
            "G1a",
            with_outcome(
                together(vec![
                    vec![append(x, 1)],
                    vec![append(x, 2)],
                    vec![read(x, &[1, 2])],
                ]),
                Outcome::Aborted,
            ),
        ),
        (
            "G1b",
            together(vec![
                vec![append(x, 1), append(x, 2)],
                vec![read(x, &[1])],
                vec![read(x, &[1, 2])],
            ]),
        ),
        // Each read what the other wrote.
        (
            "G1c",
            together(vec![
                vec![append(x, 1), read(y, &[1])],
                vec![append(y, 1), read(x, &[1])],
            ]),
        ),
        // Read skew: before in one list, after in the other.
        (
            "G-single",
            together(vec![
                vec![append(x, 1), append(y, 1)],
                vec![read(x, &[]), read(y, &[1])],
            ]),
        ),
        // Lost update.
        (
            "G-single",
            together(vec![
                vec![read(x, &[]), append(x, 1)],
                vec![read(x, &[]), append(x, 2)],
                vec![read(x, &[1, 2])],
            ]),
        ),
        // A read that does not repeat.
        (
            "G-single",
            together(vec![vec![append(x, 1)], vec![read(x, &[]), read(x, &[1])]]),
        ),
        // Write skew.
        (
            "G2-item",
            together(vec![
                vec![read(x, &[]), read(y, &[]), append(x, 1)],
                vec![read(x, &[]), read(y, &[]), append(y, 1)],
            ]),
        ),
        // Write skew around three corners, which nobody observed: what is committed and was not read comes last.
        (
            "G2-item",
            together(vec![
                vec![read(x, &[]), append(y, 1)],
                vec![read(y, &[]), append(z, 1)],
                vec![read(z, &[]), append(x, 1)],
            ]),
        ),
        // The order of two lists' appends is against that of the clock.
        (
            "G0, real time",
            [
                one_by_one(vec![vec![append(x, 1)], vec![append(x, 2)]]),
                vec![transaction(0, 100, vec![read(x, &[2, 1])])],
            ]
            .concat(),
        ),
        // A read of what is written later.
        (
            "G1c, real time",
            one_by_one(vec![vec![read(x, &[1])], vec![append(x, 1)]]),
        ),
        // A stale read.
        (
            "G-single, real time",
            one_by_one(vec![vec![append(x, 1)], vec![read(x, &[])]]),
        ),
        // A lost append: acknowledged, and whoever looks later does not find it.
        (
            "G0, real time",
            one_by_one(vec![
                vec![append(x, 1)],
                vec![append(x, 2)],
                vec![read(x, &[2])],
            ]),
        ),
        // Two readers see two writes in different orders.
        (
            "G2-item",
            together(vec![
                vec![append(x, 1)],
                vec![append(y, 1)],
                vec![read(x, &[1]), read(y, &[])],
                vec![read(x, &[]), read(y, &[1])],
            ]),
        ),
        // It is before the one that appends to what it read, and behind one that begins when that has ended.
        (
            "G2-item, real time",
            vec![
                transaction(0, 100, vec![read(x, &[]), append(y, 1)]),
                transaction(0, 10, vec![append(x, 1)]),
                transaction(20, 30, vec![read(y, &[])]),
            ],
        ),
        (
            "incompatible",
            together(vec![
                vec![append(x, 1)],
                vec![append(x, 2)],
                vec![read(x, &[1])],
                vec![read(x, &[2])],
            ]),
        ),
        ("invented", together(vec![vec![read(x, &[7])]])),
        (
            "twice",
            together(vec![vec![append(x, 1)], vec![read(x, &[1, 1])]]),
        ),
        ("internal", together(vec![vec![append(x, 1), read(x, &[])]])),
        // It sees its own append before it made it.
        (
            "internal",
            together(vec![vec![read(x, &[1]), append(x, 1)]]),
        ),
        // A transaction without a reply that has happened.
        (
            "G-single",
            with_outcome(
                together(vec![
                    vec![append(x, 1), append(y, 1)],
                    vec![read(x, &[]), read(y, &[1])],
                ]),
                Outcome::Unknown,
            ),
        ),
    ]
}

fn names(anomalies: &[Anomaly]) -> Vec<&'static str> {
    let mut names: Vec<_> = anomalies.iter().map(Anomaly::name).collect();
    names.dedup();
    names
}

#[test]
fn each_planted_anomaly_is_found_and_named() {
    for (number, (name, history)) in planted(0).into_iter().enumerate() {
        let found = check(&history);
        println!(
            "{number}: {}",
            found
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("; ")
        );
        assert_eq!(names(&found), [name], "number {number}: {history:?}");
    }
}

#[test]
fn a_circle_tells_who_depends_on_whom() {
    let (_, history) = planted(5).swap_remove(5);
    let found = check(&history);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].to_string(), "G-single: T1 -rw 5-> T0 -wr 6-> T1");
}

#[test]
fn what_is_no_anomaly_is_not_taken_for_one() {
    let histories = [
        // Without a reply, and not seen: it may not have happened.
        with_outcome(
            one_by_one(vec![vec![append(0, 1)], vec![read(0, &[])]]),
            Outcome::Unknown,
        ),
        // Seen at any time after.
        with_outcome(
            one_by_one(vec![
                vec![append(0, 1)],
                vec![read(0, &[])],
                vec![read(0, &[1])],
            ]),
            Outcome::Unknown,
        ),
        // What was rolled back may have read anything.
        with_outcome(
            one_by_one(vec![vec![read(0, &[2])], vec![append(0, 2)]]),
            Outcome::Aborted,
        ),
        // At the same moment is not before.
        vec![
            transaction(0, 5, vec![append(0, 1)]),
            transaction(5, 9, vec![read(0, &[])]),
        ],
        // Own appends, read in between.
        together(vec![vec![
            append(0, 1),
            read(0, &[1]),
            append(0, 2),
            read(0, &[1, 2]),
        ]]),
        Vec::new(),
    ];
    for history in histories {
        assert_eq!(check(&history), [], "{history:?}");
    }
}

/// A history of a serial store whose clients see their transactions take time: as many overlap as `clients`.
fn correct(rng: &mut Rng, transactions: usize, clients: u64) -> Vec<Transaction> {
    let mut lists = HashMap::<u64, Vec<u64>>::new();
    let mut history = Vec::new();
    let (mut keys, mut value) = (10_u64, 0);
    for moment in 0..transactions {
        let moment = 1_000_000 + 10 * moment as u64;
        if rng.u64(..100) < 5 {
            // Others are in use from now on.
            keys += 1;
        }
        let outcome = match rng.u64(..20) {
            0 => Outcome::Aborted,
            1 => Outcome::Unknown,
            _ => Outcome::Committed,
        };
        let happens = outcome == Outcome::Committed || outcome == Outcome::Unknown && rng.bool();
        let mut own = BTreeMap::<u64, Vec<u64>>::new();
        let operations = (0..rng.usize(1..6)).map(|_| {
            let key = keys - rng.u64(..10);
            let is_own = own.entry(key).or_default();
            if rng.bool() {
                value += 1;
                is_own.push(value);
                append(key, value)
            } else {
                let before = lists.get(&key).map_or(&[][..], Vec::as_slice);
                read(key, &[before, is_own].concat())
            }
        });
        let operations = operations.collect();
        if happens {
            for (key, own) in own {
                lists.entry(key).or_default().extend(own);
            }
        }
        history.push(Transaction {
            began: moment - rng.u64(..10 * clients),
            ended: moment + rng.u64(..10 * clients),
            outcome,
            operations,
        });
    }
    history
}

#[test]
fn in_correct_histories_there_is_nothing() {
    let mut rng = seed::rng();
    for round in 0..60 {
        let clients = [1, 2, 8, 40][round % 4];
        let mut history = correct(&mut rng, 1000, clients);
        // In any order: transactions need not be in that of the clock.
        rng.shuffle(&mut history);
        assert_eq!(check(&history), []);
    }
}

/// Each anomaly, on lists of its own, somewhere in the midst of others.
#[test]
fn planted_anomalies_are_found_in_large_histories() {
    let mut rng = seed::rng();
    for round in 0..planted(0).len() {
        let key = 1_000_000;
        let (name, anomaly) = planted(key).swap_remove(round);
        let mut history = correct(&mut rng, 3000, 10);
        let moment = 1_000_000 + rng.u64(5000..25_000);
        history.extend(anomaly.into_iter().map(|mut transaction| {
            transaction.began += moment;
            transaction.ended += moment;
            transaction
        }));
        rng.shuffle(&mut history);
        assert_eq!(names(&check(&history)), [name], "number {round}");
    }
}

#[test]
fn a_hundred_thousand_transactions_take_seconds() {
    let mut rng = seed::rng();
    let history = correct(&mut rng, 100_000, 20);
    let began = Instant::now();
    assert_eq!(check(&history), []);
    println!("100,000 transactions: {:?}", began.elapsed());
}

/// One large circle, through all of them: named within the bound on looks.
#[test]
fn a_large_group_is_named() {
    const COUNT: u64 = 20_000;
    let ring = (0..COUNT).map(|at| vec![read(at, &[]), append((at + 1) % COUNT, 1)]);
    let found = check(&together(ring.collect()));
    assert_eq!(names(&found), ["G2-item"]);
}

/// What of its isolation a store leaves out.
#[derive(Debug, Clone, Copy, Default)]
#[expect(clippy::struct_excessive_bools, reason = "any of them can go with any")]
struct Defects {
    /// Reads are not compared at commits: snapshot isolation.
    no_read_validation: bool,
    /// Nor are writes: the last one wins.
    no_write_validation: bool,
    /// Each statement sees the newest state: read committed.
    newest_state: bool,
    /// Appends are visible before the commit, and stay when it is rolled back.
    dirty: bool,
    /// States begin some commits ago.
    stale: bool,
}

/// A store with versions of whole lists, and clients whose statements come in any order. An append is a list written whole, as `APPEND` is.
fn run(rng: &mut Rng, transactions: usize, defects: Defects) -> Vec<Transaction> {
    /// Versions of a list, with their commits.
    type Versions = Vec<(usize, Vec<u64>)>;
    struct Open {
        began: u64,
        state: usize,
        operations: Vec<Operation>,
        own: BTreeMap<u64, Vec<u64>>,
        reads: Vec<u64>,
        left: usize,
    }
    fn at(lists: &HashMap<u64, Versions>, key: u64, state: usize) -> Vec<u64> {
        let versions = lists.get(&key).map_or(&[][..], Vec::as_slice);
        let seen = versions.iter().rev().find(|(commit, _)| *commit <= state);
        seen.map_or_else(Vec::new, |(_, list)| list.clone())
    }
    let mut lists = HashMap::<u64, Versions>::new();
    let (mut history, mut commit, mut value, mut clock) = (Vec::new(), 0, 0, 0);
    let mut clients: Vec<Option<Open>> = (0..8).map(|_| None).collect();
    while history.len() < transactions {
        clock += 1;
        let client = rng.usize(..clients.len());
        let Some(open) = &mut clients[client] else {
            clients[client] = Some(Open {
                began: clock,
                state: if defects.stale {
                    commit.max(3) - 3
                } else {
                    commit
                },
                operations: Vec::new(),
                own: BTreeMap::new(),
                reads: Vec::new(),
                left: rng.usize(1..6),
            });
            continue;
        };
        let newest = |key: &u64| {
            let versions = lists.get(key).and_then(|versions| versions.last());
            versions.map_or(0, |(commit, _)| *commit)
        };
        if open.left > 0 {
            open.left -= 1;
            let key = 8 * (history.len() as u64 / 200) + rng.u64(..8);
            let state = if defects.newest_state || defects.dirty {
                commit
            } else {
                open.state
            };
            let list = open.own.get(&key).cloned();
            let mut list = list.unwrap_or_else(|| at(&lists, key, state));
            open.reads.push(key);
            if rng.bool() {
                value += 1;
                list.push(value);
                open.operations.push(append(key, value));
                if defects.dirty {
                    commit += 1;
                    lists.entry(key).or_default().push((commit, list));
                } else {
                    open.own.insert(key, list);
                }
            } else {
                open.operations.push(read(key, &list));
            }
            continue;
        }
        let state = open.state;
        let lost = |keys: &mut dyn Iterator<Item = &u64>| {
            let mut keys = keys;
            Iterator::any(&mut keys, |key| newest(key) > state)
        };
        let refused = !defects.no_write_validation && lost(&mut open.own.keys())
            || !defects.no_read_validation && lost(&mut open.reads.iter())
            || rng.u64(..20) == 0;
        let open = clients[client].take().unwrap();
        if !refused && !open.own.is_empty() {
            commit += 1;
            for (key, list) in open.own {
                lists.entry(key).or_default().push((commit, list));
            }
        }
        history.push(Transaction {
            began: open.began,
            ended: clock,
            outcome: if refused {
                Outcome::Aborted
            } else {
                Outcome::Committed
            },
            operations: open.operations,
        });
    }
    history
}

/// Of all names that are found over some seeds.
fn found_with(rng: &mut Rng, defects: Defects) -> Vec<&'static str> {
    let mut all = Vec::new();
    for _ in 0..10 {
        all.extend(names(&check(&run(rng, 2000, defects))));
    }
    all.sort_unstable();
    all.dedup();
    println!("{defects:?}: {all:?}");
    all
}

#[test]
fn a_store_that_validates_all_is_found_correct() {
    let mut rng = seed::rng();
    assert_eq!(found_with(&mut rng, Defects::default()), [""; 0]);
}

#[test]
fn what_a_store_leaves_out_is_found() {
    let mut rng = seed::rng();
    let snapshot = Defects {
        no_read_validation: true,
        ..Defects::default()
    };
    let found = found_with(&mut rng, snapshot);
    let skew = ["G2-item", "G2-item, real time"];
    assert!(found.contains(&"G2-item"));
    assert!(
        found.iter().all(|name| skew.contains(name)),
        "write skew and no more: {found:?}"
    );
    let no_writes = Defects {
        no_write_validation: true,
        ..snapshot
    };
    let found = found_with(&mut rng, no_writes);
    assert!(found.contains(&"incompatible"), "an update was lost");
    // With writes compared: where updates are lost, lists have no order to find anything else by.
    let read_committed = Defects {
        newest_state: true,
        ..snapshot
    };
    assert!(found_with(&mut rng, read_committed).contains(&"G-single"));
    let dirty = Defects {
        dirty: true,
        ..no_writes
    };
    let found = found_with(&mut rng, dirty);
    assert!(found.contains(&"G1a") && found.contains(&"G0"), "{found:?}");
    let stale = Defects {
        stale: true,
        no_read_validation: true,
        ..Defects::default()
    };
    let found = found_with(&mut rng, stale);
    assert!(found.contains(&"G-single, real time"), "{found:?}");
}

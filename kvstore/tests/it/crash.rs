//! Power cuts: every point, every outcome (up to a bound), long workloads by seed.
//!
//! Invariants, checked after each recovery:
//! - the store opens: a power cut alone is never taken for damage;
//! - what it holds is exactly the state after some commit: every transaction all or nothing, in order;
//! - that commit is not older than any that was acknowledged before the cut;
//! - where history is kept, older states are what they were as far back as it says that it goes;
//! - the recovered store works on, and a second power cut is survived as well.

use crate::common;
use crate::history as past;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::common::{
    Acknowledged, Model, contents, formatted_of_any_kind, newest_acknowledged, open_keeping,
    random_writes, seed, transact,
};
use kvstore::{CommitError, Timestamp};
use lfs::sim::{Executor, Random, SimDisk};

/// What a workload did, as far as a crash may show.
#[derive(Clone, Default)]
struct History {
    /// The state after each commit.
    states: BTreeMap<Timestamp, Model>,
    acknowledged: Vec<Acknowledged>,
    /// Milliseconds for which the store keeps them.
    kept_ms: i64,
}

impl History {
    fn starting_at(timestamp: Timestamp, model: Model, kept_ms: i64) -> Self {
        Self {
            states: BTreeMap::from([(timestamp, model)]),
            acknowledged: Vec::new(),
            kept_ms,
        }
    }

    fn last(&self) -> &Model {
        self.states
            .last_key_value()
            .expect("a history has a start")
            .1
    }
}

struct Workload {
    tasks: u64,
    /// Milliseconds of history that are kept.
    history_ms: i64,
    commits: u64,
    ops: u64,
    value_bytes_max: u64,
}

/// Runs a workload of several concurrent writers on `disk`; its events are those of `disk`.
fn run(disk: &SimDisk, workload: &Workload, start: Option<&History>, seed: u64) -> History {
    let mut random = Random::new(seed);
    let mut executor = Executor::new(seed);
    let store = open_keeping(&mut executor, disk, workload.history_ms);
    let store = store.expect("a disk that was recovered opens again");
    let model = start.map_or_else(Model::new, |history| history.last().clone());
    let history = History::starting_at(store.committed(), model, workload.history_ms);
    let history = Rc::new(RefCell::new(history));
    for _ in 1..workload.tasks {
        let writer = write(&store, disk, workload, &history, random.next_u64());
        executor.spawn(writer);
    }
    executor.run(write(&store, disk, workload, &history, random.next_u64()));
    history.take()
}

fn write(
    store: &Rc<common::TestStore>,
    disk: &SimDisk,
    workload: &Workload,
    history: &Rc<RefCell<History>>,
    seed: u64,
) -> impl Future<Output = ()> + 'static {
    let (store, disk, history) = (Rc::clone(store), disk.clone(), Rc::clone(history));
    let (commits, ops, value_bytes_max) =
        (workload.commits, workload.ops, workload.value_bytes_max);
    async move {
        let mut random = Random::new(seed);
        for _ in 0..commits {
            let start = random.next_u64();
            let (mut model, mut wrote) = (Model::new(), false);
            let done = transact(&store, 0, |transaction| {
                model = history.borrow().last().clone();
                let mut random = Random::new(start);
                random_writes(&mut random, transaction, &mut model, ops, value_bytes_max)?;
                wrote = !transaction.is_read_only();
                Ok(())
            });
            let timestamp = match done.await {
                Ok(((), timestamp)) => timestamp,
                // Several large values at once; nothing happened.
                Err(CommitError::TooLarge) => continue,
                Err(error) => panic!("{error}"),
            };
            if wrote {
                history.borrow_mut().states.insert(timestamp, model);
            }
            if random.one_in(2) {
                store.wait_durable(timestamp).await.unwrap();
                let events = disk.event_count();
                history
                    .borrow_mut()
                    .acknowledged
                    .push(Acknowledged { timestamp, events });
            }
        }
    }
}

/// Checks what recovery makes of `disk` after a power cut at `events`.
fn check(disk: &SimDisk, history: &History, events: usize, context: &str) -> Timestamp {
    let mut executor = Executor::new(events as u64);
    let store = open_keeping(&mut executor, disk, history.kept_ms)
        .unwrap_or_else(|error| panic!("{context}: {error}"));
    let recovered = store.committed();
    let newest = newest_acknowledged(&history.acknowledged, events);
    assert!(
        recovered >= newest,
        "{context}: {newest:?} was acknowledged, found {recovered:?}"
    );
    // The store's own commits, which free what nobody needs, change nothing.
    let (_, expected) = history
        .states
        .range(..=recovered)
        .next_back()
        .expect("there is a first");
    // The states are too long to print.
    assert!(
        &contents(&mut executor, &store) == expected,
        "{context}: not the state after {recovered:?}"
    );
    if history.kept_ms > 0 {
        let (states, context) = (history.states.clone(), context.to_owned());
        executor.run(async move { past::check(&store, &states, &context).await });
    }
    recovered
}

/// Every outcome for up to this many open sectors; beyond, a choice of them.
const EXHAUSTIVE_SECTORS: usize = 8;

/// Outcomes chosen at random when there are too many.
const SAMPLES: usize = 24;

/// Checks outcomes of a power cut after `events`; how many it checked.
fn crash_everywhere(disk: &SimDisk, history: &History, events: usize, seed: u64) -> usize {
    let crash = disk.crash_at(events);
    let open_sectors = crash.open_sectors();
    let mut random = Random::new(seed);
    let mut recoveries = 0;
    let mut check_outcome = |survives: &mut dyn FnMut(usize) -> bool, name: &str| {
        let context = format!("event {events}, {open_sectors} open sectors, {name}");
        check(&crash.disk(survives, 0), history, events, &context);
        recoveries += 1;
    };
    if open_sectors <= EXHAUSTIVE_SECTORS {
        for mask in 0..1_u32 << open_sectors {
            check_outcome(
                &mut |sector| mask >> sector & 1 == 1,
                &format!("mask {mask:b}"),
            );
        }
        return recoveries;
    }
    check_outcome(&mut |_| false, "none");
    check_outcome(&mut |_| true, "all");
    for sample in 0..SAMPLES {
        let cut = random.index(open_sectors);
        match sample % 4 {
            0 => check_outcome(&mut |sector| sector < cut, &format!("first {cut}")),
            1 => check_outcome(&mut |sector| sector >= cut, &format!("from {cut}")),
            2 => check_outcome(&mut |sector| sector != cut, &format!("all but {cut}")),
            _ => check_outcome(&mut |_| random.one_in(2), &format!("sample {sample}")),
        }
    }
    recoveries
}

/// Runs short workloads with that retention of history, as many as `rounds`, and cuts each at every point: how many recoveries that were.
fn crash_short_workloads(rounds: u64, history_ms: i64, seed: u64) -> usize {
    let mut recoveries = 0;
    for round in 0..rounds {
        let workload = Workload {
            tasks: 2,
            history_ms,
            commits: 4,
            ops: 2,
            value_bytes_max: 200,
        };
        let disk = formatted_of_any_kind(100, seed + round);
        let history = run(&disk, &workload, None, seed + round);
        for events in 0..=disk.event_count() {
            recoveries += crash_everywhere(&disk, &history, events, seed ^ events as u64);
        }
    }
    println!("{recoveries} recoveries");
    recoveries
}

#[test]
fn short_workloads_survive_a_power_cut_at_every_point() {
    assert!(crash_short_workloads(6, 0, seed(11)) > 1000);
}

#[test]
fn history_survives_a_power_cut_at_every_point() {
    assert!(crash_short_workloads(3, past::FOR_EVER, seed(16)) > 500);
}

#[test]
fn long_history_survives_power_cuts_at_random_points() {
    let seed = seed(17);
    let mut recoveries = 0;
    for round in 0..3 {
        let mut random = Random::new(seed + round);
        // Some of it goes where the disk is short.
        let workload = Workload {
            tasks: 2,
            history_ms: past::FOR_EVER,
            commits: 40,
            ops: 5,
            value_bytes_max: 3000,
        };
        let disk = formatted_of_any_kind(128, random.next_u64());
        let history = run(&disk, &workload, None, random.next_u64());
        for _ in 0..4 {
            let events = random.index(disk.event_count() + 1);
            recoveries += crash_everywhere(&disk, &history, events, random.next_u64());
        }
    }
    println!("{recoveries} recoveries");
    assert!(recoveries > 150);
}

#[test]
fn long_workloads_survive_power_cuts_at_random_points() {
    let seed = seed(12);
    let mut recoveries = 0;
    for round in 0..12 {
        let mut random = Random::new(seed + round);
        let workload = Workload {
            tasks: 4,
            history_ms: 0,
            commits: 150,
            ops: 5,
            value_bytes_max: 6000,
        };
        let disk = formatted_of_any_kind(128, random.next_u64());
        let history = run(&disk, &workload, None, random.next_u64());
        for _ in 0..20 {
            let events = random.index(disk.event_count() + 1);
            recoveries += crash_everywhere(&disk, &history, events, random.next_u64());
        }
    }
    println!("{recoveries} recoveries");
    assert!(recoveries > 4000);
}

#[test]
fn segments_that_are_used_again_at_once_survive_power_cuts() {
    let seed = seed(15);
    let mut recoveries = 0;
    for round in 0..4 {
        let mut random = Random::new(seed + round);
        // Many times the disk, which has hardly more segments than log and runs need.
        let workload = Workload {
            tasks: 3,
            history_ms: 0,
            commits: 600,
            ops: 6,
            value_bytes_max: 700,
        };
        let disk = formatted_of_any_kind(98, random.next_u64());
        let history = run(&disk, &workload, None, random.next_u64());
        for _ in 0..60 {
            let events = random.index(disk.event_count() + 1);
            recoveries += crash_everywhere(&disk, &history, events, random.next_u64());
        }
    }
    println!("{recoveries} recoveries");
    assert!(recoveries > 3000);
}

#[test]
fn transactions_larger_than_a_commit_group_are_all_or_nothing() {
    let seed = seed(13);
    let mut recoveries = 0;
    for round in 0..4 {
        let mut random = Random::new(seed + round);
        // A group holds 16 KiB at most here, a commit 96 KiB.
        let workload = Workload {
            tasks: 2,
            history_ms: 0,
            commits: 25,
            ops: 4,
            value_bytes_max: 20_000,
        };
        let disk = formatted_of_any_kind(128, random.next_u64());
        let history = run(&disk, &workload, None, random.next_u64());
        for events in (0..=disk.event_count()).step_by(3) {
            recoveries += crash_everywhere(&disk, &history, events, random.next_u64());
        }
    }
    println!("{recoveries} recoveries");
    assert!(recoveries > 1000);
}

#[test]
fn a_recovered_store_survives_the_next_power_cut() {
    let seed = seed(14);
    for round in 0..60 {
        let mut random = Random::new(seed + round);
        let workload = Workload {
            tasks: 3,
            history_ms: 0,
            commits: 12,
            ops: 3,
            value_bytes_max: 3000,
        };
        let mut disk = formatted_of_any_kind(128, random.next_u64());
        let mut start: Option<History> = None;
        for boot in 0..6 {
            let history = run(&disk, &workload, start.as_ref(), random.next_u64());
            let events = random.index(disk.event_count() + 1);
            let crash = disk.crash_at(events);
            let keep = random.below(4);
            let disk_seed = random.next_u64();
            let after = crash.disk(|_| keep > 0 && !random.one_in(keep + 1), disk_seed);
            let context = format!("round {round}, boot {boot}, event {events}");
            let recovered = check(&after.snapshot(0), &history, events, &context);
            let (_, model) = history.states.range(..=recovered).next_back().unwrap();
            let model = model.clone();
            start = Some(History::starting_at(recovered, model, 0));
            disk = after;
        }
    }
}

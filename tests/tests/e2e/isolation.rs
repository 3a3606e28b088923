//! Whether the levels keep their promises over connections: the plans of `tests::history` by several clients at once, and the history that they saw is checked. And the
//! examples, briefly.

use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use redis::{Connection, RedisError, RedisResult, cmd};
use tests::client::connect;
use tests::history::plan::{Plan, Planner, Step, appended, key, list_of, numbers};
use tests::history::recording::{Level, Recording};
use tests::history::{Outcome, Transaction, check};
use tests::machine::{Setup, Target};
use tests::seed;

#[path = "../../examples/bank.rs"]
#[allow(dead_code, reason = "its main")]
mod bank;
#[path = "../../examples/exactly_once.rs"]
#[allow(dead_code, reason = "its main")]
mod exactly_once;
#[path = "../../examples/flash_sale.rs"]
#[allow(dead_code, reason = "its main")]
mod flash_sale;

on!([hosted] {
    random_transactions,
    the_bank_loses_nothing,
    the_sale_sells_what_there_is,
    transfers_happen_exactly_once,
});

const CLIENTS: usize = 8;

/// What all clients share.
struct Shared {
    planner: Mutex<Planner>,
    history: Mutex<Vec<Transaction>>,
    ticks: AtomicU64,
    committed: AtomicU64,
}

fn random_transactions(target: Target) {
    let mut random = seed::rng();
    let machine = Setup::new(target).boot();
    let port = machine.port();
    let all = [
        Level::Serializable,
        Level::Snapshot,
        Level::ReadCommitted,
        Level::Alone,
    ];
    for levels in [&all[..1], &all[1..2], &all[2..3], &all] {
        cmd("FLUSHALL").exec(&mut machine.connect()).unwrap();
        let shared = Shared {
            planner: Mutex::new(Planner::new(random.u64(..), levels)),
            history: Mutex::default(),
            ticks: AtomicU64::new(0),
            committed: AtomicU64::new(0),
        };
        thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    let mut connection = connect(port);
                    for _ in 0..TRANSACTIONS {
                        let plan = shared.planner.lock().unwrap().plan();
                        shared.run(&mut connection, &plan);
                    }
                });
            }
        });
        let history = shared.history.into_inner().unwrap();
        let anomalies = check(&history);
        assert!(anomalies.is_empty(), "{levels:?}: {}", anomalies[0]);
        let committed = shared.committed.into_inner();
        let all = (CLIENTS * TRANSACTIONS) as u64;
        println!("{levels:?}: {committed} of {all} transactions committed");
        assert!(committed > all / 4, "{levels:?}: {committed}");
    }
    machine.shutdown();
}

/// Transactions of each client at each choice of levels.
const TRANSACTIONS: usize = 500;

impl Shared {
    fn tick(&self) -> u64 {
        self.ticks.fetch_add(1, Ordering::SeqCst)
    }

    fn run(&self, connection: &mut Connection, plan: &Plan) {
        let (recording, asked, done) = if plan.level == Level::Alone {
            let asked = self.tick();
            let recording = run_alone(connection, plan, asked);
            (recording, asked, Ok(true))
        } else {
            self.run_open(connection, plan)
        };
        let outcome = match done {
            Ok(true) => {
                self.committed.fetch_add(1, Ordering::Relaxed);
                Outcome::Committed
            }
            Ok(false) => Outcome::Aborted,
            Err(error) => {
                let may_happen = matches!(error.code(), Some("CONFLICT" | "DEADLOCK"));
                assert!(may_happen, "{error}");
                Outcome::Aborted
            }
        };
        let end = (asked, self.tick());
        recording.end(end, outcome, &mut self.history.lock().unwrap());
    }

    fn run_open(
        &self,
        connection: &mut Connection,
        plan: &Plan,
    ) -> (Recording, u64, RedisResult<bool>) {
        let begun = self.tick();
        let level: Vec<_> = plan.level.name().split(' ').collect();
        cmd("BEGIN").arg(level).exec(connection).unwrap();
        let mut recording = Recording::new(plan.level, (begun, self.tick()));
        let asked = Cell::new(begun);
        let mut run = || {
            let mut savepoint = 0;
            for step in &plan.steps {
                asked.set(self.tick());
                match step {
                    Step::Append { list, value } => {
                        command(step).exec(connection)?;
                        recording.append(*list, *value);
                    }
                    Step::Lock(list) => {
                        command(step).exec(connection)?;
                        recording.lock(*list);
                    }
                    Step::Savepoint => {
                        command(step).exec(connection)?;
                        savepoint = recording.savepoint();
                    }
                    Step::RollBack => {
                        command(step).exec(connection)?;
                        recording.roll_back_to(savepoint);
                    }
                    Step::Read(_) | Step::Range(_) | Step::Reverse(_) => {
                        let reply = command(step).query(connection)?;
                        recording.read((asked.get(), self.tick()), lists(step, reply));
                    }
                }
            }
            asked.set(self.tick());
            let end = if plan.commits { "COMMIT" } else { "ROLLBACK" };
            cmd(end).exec(connection)?;
            Ok::<_, RedisError>(plan.commits)
        };
        let done = run();
        (recording, asked.get(), done)
    }
}

/// A step as a command.
fn command(step: &Step) -> redis::Cmd {
    let mut command = redis::Cmd::new();
    match step {
        Step::Append { list, value } => command.arg("APPEND").arg(key(*list)).arg(appended(*value)),
        Step::Read(list) => command.arg("GET").arg(key(*list)),
        Step::Range(lists) | Step::Reverse(lists) => {
            let range = command
                .arg("RANGE")
                .arg(key(lists.start))
                .arg(key(lists.end));
            if matches!(step, Step::Reverse(_)) {
                range.arg("REV");
            }
            range.arg("WITHVALUES")
        }
        Step::Lock(list) => command.arg("LOCK").arg(key(*list)),
        Step::Savepoint => command.arg("SAVEPOINT").arg("s"),
        Step::RollBack => command.arg("ROLLBACK").arg("TO").arg("s"),
    };
    command
}

/// What a reply says of lists; those that are not there are empty.
fn lists(step: &Step, reply: redis::Value) -> Vec<(u64, Vec<u64>)> {
    match step {
        Step::Read(list) => {
            let value: Option<Vec<u8>> = redis::from_redis_value(reply).unwrap();
            vec![(*list, value.map_or_else(Vec::new, |value| numbers(&value)))]
        }
        Step::Range(range) | Step::Reverse(range) => {
            let found: Vec<(Vec<u8>, Vec<u8>)> = redis::from_redis_value(reply).unwrap();
            let numbers_of = |list: u64| {
                let pair = found.iter().find(|(key, _)| list_of(key) == Some(list));
                pair.map_or_else(Vec::new, |(_, value)| numbers(value))
            };
            range.clone().map(|list| (list, numbers_of(list))).collect()
        }
        other => panic!("{other:?} reads nothing"),
    }
}

/// Runs a transaction that is one request.
fn run_alone(connection: &mut Connection, plan: &Plan, asked: u64) -> Recording {
    let mut pipe = redis::pipe();
    pipe.atomic();
    for step in &plan.steps {
        pipe.add_command(command(step));
    }
    let replies: Vec<redis::Value> = pipe.query(connection).unwrap();
    let mut recording = Recording::new(Level::Alone, (asked, asked));
    for (step, reply) in plan.steps.iter().zip(replies) {
        match step {
            Step::Append { list, value } => recording.append(*list, *value),
            _ => recording.read((asked, asked), lists(step, reply)),
        }
    }
    recording
}

fn the_bank_loses_nothing(target: Target) {
    let machine = Setup::new(target).boot();
    bank::run(&address(machine.port()), 50);
    machine.shutdown();
}

fn the_sale_sells_what_there_is(target: Target) {
    let machine = Setup::new(target).boot();
    flash_sale::run(&address(machine.port()), 200);
    machine.shutdown();
}

fn transfers_happen_exactly_once(target: Target) {
    let machine = Setup::new(target).boot();
    exactly_once::run(&address(machine.port()), 100);
    machine.shutdown();
}

fn address(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

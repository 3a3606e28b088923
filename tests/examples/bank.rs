//! A bank: tellers move money between accounts, and auditors add it all up at the same time. Whenever they look, and whatever time they look at, not a penny is missing.
//!
//!     cargo run -p tests --example bank -- 127.0.0.1:6379
//!
//! Needs any Siltstone; it takes keys that begin with `bank:`.
//!
//! - A teller: `BEGIN`, reads two accounts, writes both, `COMMIT`. When another one was faster with one of the accounts, COMMIT answers
//!   `-CONFLICT`, nothing has happened, and the teller begins anew.
//! - An auditor: `BEGIN READ ONLY`, and walks through the accounts page by page. It sees one state, however long that takes, keeps nobody from anything, and is never refused.
//! - An auditor of the past: `BEGIN AS OF` a commit that `HISTORY` tells of.
#![allow(
    clippy::unwrap_used,
    reason = "an example says what went wrong by panicking"
)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use redis::{Connection, RedisError, RedisResult, cmd};

const ACCOUNTS: usize = 100;
const BALANCE: i64 = 1000;
const TELLERS: u64 = 8;
const AUDITORS: usize = 2;
/// Accounts that an auditor asks for at once.
const PAGE: usize = 30;

fn main() {
    let address = std::env::args().nth(1);
    let address = address.unwrap_or_else(|| "127.0.0.1:6379".to_owned());
    run(&address, 1000);
}

/// Runs it, with so many transfers of each teller.
///
/// # Panics
/// If the store breaks its promise, or cannot be reached.
pub fn run(address: &str, transfers: u64) {
    let mut connection = connect(address);
    open_accounts(&mut connection);
    let (refused, audits, past_audits) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        let tellers: Vec<_> = (0..TELLERS)
            .map(|teller| {
                let refused = &refused;
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(teller);
                    let mut connection = connect(address);
                    for _ in 0..transfers {
                        let from = random.usize(..ACCOUNTS);
                        let to = (from + random.usize(1..ACCOUNTS)) % ACCOUNTS;
                        let amount = random.i64(1..50);
                        refused.fetch_add(
                            transfer(&mut connection, from, to, amount),
                            Ordering::Relaxed,
                        );
                    }
                })
            })
            .collect();
        let are_at_work = || tellers.iter().any(|teller| !teller.is_finished());
        thread::scope(|scope| {
            for _ in 0..AUDITORS {
                scope.spawn(|| {
                    let mut connection = connect(address);
                    while are_at_work() {
                        audit(&mut connection);
                        audits.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            scope.spawn(|| {
                let mut connection = connect(address);
                while are_at_work() {
                    past_audits.fetch_add(audit_the_past(&mut connection), Ordering::Relaxed);
                }
            });
        });
    });
    audit(&mut connection);
    println!(
        "{} transfers, {} of them begun anew after a conflict; {} audits and {} of the past: all found {}",
        TELLERS * transfers,
        refused.into_inner(),
        audits.into_inner() + 1,
        past_audits.into_inner(),
        total()
    );
}

fn connect(address: &str) -> Connection {
    let client = redis::Client::open(format!("redis://{address}")).unwrap();
    client
        .get_connection()
        .unwrap_or_else(|error| panic!("{address}: {error}"))
}

fn account(number: usize) -> String {
    format!("bank:account:{number:04}")
}

fn total() -> i64 {
    i64::try_from(ACCOUNTS).unwrap() * BALANCE
}

fn open_accounts(connection: &mut Connection) {
    let mut open = cmd("MSET");
    for number in 0..ACCOUNTS {
        open.arg(account(number)).arg(BALANCE);
    }
    open.exec(connection).unwrap();
}

fn is_conflict(error: &RedisError) -> bool {
    error.code() == Some("CONFLICT")
}

/// Moves money, if there is enough; how often it was refused before.
fn transfer(connection: &mut Connection, from: usize, to: usize, amount: i64) -> u64 {
    let mut refused = 0;
    loop {
        match try_transfer(connection, from, to, amount) {
            Ok(()) => return refused,
            Err(error) if is_conflict(&error) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
}

fn try_transfer(
    connection: &mut Connection,
    from: usize,
    to: usize,
    amount: i64,
) -> RedisResult<()> {
    cmd("BEGIN").exec(connection)?;
    let balance: i64 = cmd("GET").arg(account(from)).query(connection)?;
    if balance < amount {
        return cmd("ROLLBACK").exec(connection);
    }
    let other: i64 = cmd("GET").arg(account(to)).query(connection)?;
    cmd("SET")
        .arg(account(from))
        .arg(balance - amount)
        .exec(connection)?;
    cmd("SET")
        .arg(account(to))
        .arg(other + amount)
        .exec(connection)?;
    cmd("COMMIT").exec(connection)
}

fn audit(connection: &mut Connection) {
    cmd("BEGIN")
        .arg("READ")
        .arg("ONLY")
        .exec(connection)
        .unwrap();
    let found = add_up(connection);
    cmd("COMMIT").exec(connection).unwrap();
    assert_eq!(found, total(), "an audit found something else");
}

/// Audits some moments of the past; how many.
fn audit_the_past(connection: &mut Connection) -> u64 {
    let history: Vec<(u64, Option<i64>)> = cmd("HISTORY")
        .arg(account(fastrand::usize(..ACCOUNTS)))
        .arg("LIMIT")
        .arg(20)
        .query(connection)
        .unwrap();
    let mut audits = 0;
    for (commit, balance) in history {
        let begun = cmd("BEGIN")
            .arg("AS")
            .arg("OF")
            .arg(commit)
            .exec(connection);
        match begun {
            Ok(()) => {}
            // The server keeps history for `history-retention` seconds.
            Err(error) if error.code() == Some("NOTRETAINED") => break,
            Err(error) => panic!("{error}"),
        }
        let found = add_up(connection);
        cmd("COMMIT").exec(connection).unwrap();
        assert_eq!(
            found,
            total(),
            "an audit as of commit {commit}, of {balance:?}"
        );
        audits += 1;
    }
    audits
}

/// All balances, page by page.
fn add_up(connection: &mut Connection) -> i64 {
    let (mut sum, mut accounts) = (0, 0);
    let mut from = account(0);
    loop {
        let page: Vec<(String, i64)> = cmd("RANGE")
            .arg(&from)
            .arg("bank:account:~")
            .arg("LIMIT")
            .arg(PAGE)
            .arg("WITHVALUES")
            .query(connection)
            .unwrap();
        accounts += page.len();
        sum += page.iter().map(|(_, balance)| balance).sum::<i64>();
        match page.last() {
            // The next key there can be.
            Some((last, _)) => from = format!("{last}\0"),
            None => break,
        }
    }
    assert_eq!(accounts, ACCOUNTS);
    sum
}

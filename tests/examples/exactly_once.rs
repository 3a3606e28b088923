//! A transfer that happens exactly once, though replies are lost.
//!
//!     cargo run -p tests --example exactly_once -- 127.0.0.1:6379
//!
//! Needs any Siltstone; it takes keys that begin with `once:`.
//!
//! When the connection breaks between COMMIT and its reply, nobody knows whether the transaction was committed. To do it again may do it twice; not to may
//! lose it. So each transfer has a name that its client makes up, and ends with `COMMIT TOKEN name`:
//!
//! - `COMMIT TOKEN name` on a new connection, outside a transaction, asks whether it was committed: `+OK`, or `-NOTOKEN`;
//! - a transaction that is committed with a token that was committed already changes nothing, and is answered `+OK`. So what was
//!   `-NOTOKEN` can be done again even if the first COMMIT is still on its way.
//!
//! Here every other connection breaks: before COMMIT has reached the server, behind it, or at any byte between.
#![allow(
    clippy::unwrap_used,
    reason = "an example says what went wrong by panicking"
)]

use redis::{Connection, RedisResult, cmd};

const BALANCE: i64 = 1_000_000;

fn main() {
    let address = std::env::args().nth(1);
    let address = address.unwrap_or_else(|| "127.0.0.1:6379".to_owned());
    run(&address, 1000);
}

/// What became of transfers whose reply was lost.
#[derive(Debug, Default)]
struct Lost {
    /// They had happened.
    were_committed: usize,
    /// They had not, and were done again.
    were_not: usize,
}

/// Runs it, with so many transfers.
pub fn run(address: &str, transfers: usize) {
    let mut connection = connect(address);
    cmd("MSET")
        .arg(&["once:from", &BALANCE.to_string(), "once:to", "0"])
        .exec(&mut connection)
        .unwrap();
    let mut random = fastrand::Rng::new();
    // Names that no earlier run has used.
    let names = random.u64(..);
    let mut lost = Lost::default();
    for number in 0..transfers {
        let token = format!("transfer-{names:016x}-{number}");
        transfer_once(address, &token, &mut random, &mut lost);
    }
    let (from, to): (i64, i64) = cmd("MGET")
        .arg(&["once:from", "once:to"])
        .query(&mut connection)
        .unwrap();
    println!("{transfers} transfers, of which {lost:?}: {from} and {to}");
    let moved = i64::try_from(transfers).unwrap();
    assert_eq!(
        (from, to),
        (BALANCE - moved, moved),
        "each happened exactly once"
    );
}

fn connect(address: &str) -> Connection {
    let client = redis::Client::open(format!("redis://{address}")).unwrap();
    client
        .get_connection()
        .unwrap_or_else(|error| panic!("{address}: {error}"))
}

fn transfer_once(address: &str, token: &str, random: &mut fastrand::Rng, lost: &mut Lost) {
    let mut connection = connect(address);
    transfer(&mut connection).unwrap();
    let mut commit = cmd("COMMIT");
    commit.arg("TOKEN").arg(token);
    if random.bool() {
        commit.exec(&mut connection).unwrap();
        return;
    }
    // The connection breaks: a part of the request is sent, and the reply never read.
    let packed = commit.get_packed_command();
    let sent = if random.bool() {
        packed.len()
    } else {
        random.usize(..packed.len())
    };
    // Nothing at all cannot be sent.
    if sent > 0 {
        connection.send_packed_command(&packed[..sent]).unwrap();
    }
    drop(connection);
    let mut connection = connect(address);
    let was_committed = commit.exec(&mut connection);
    match was_committed {
        Ok(()) => lost.were_committed += 1,
        Err(error) if error.code() == Some("NOTOKEN") => {
            lost.were_not += 1;
            transfer(&mut connection).unwrap();
            commit.exec(&mut connection).unwrap();
        }
        Err(error) => panic!("{error}"),
    }
}

/// All of it but the end.
fn transfer(connection: &mut Connection) -> RedisResult<()> {
    cmd("BEGIN").exec(connection)?;
    // Locked, since the transfer before may still be on its way: then this one waits for it rather than lose.
    cmd("LOCK")
        .arg(&["once:from", "once:to"])
        .exec(connection)?;
    cmd("DECR").arg("once:from").exec(connection)?;
    cmd("INCR").arg("once:to").exec(connection)
}

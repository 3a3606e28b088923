//! What must be the same after a reboot beyond plain keys: expiries, emptied databases, transactions, every database.

use std::time::{SystemTime, UNIX_EPOCH};

use redis::{Commands, ConnectionLike, Value, cmd};
use tests::client::{RawClient, info};
use tests::machine::{Setup, Target};

on!([riscv64 aarch64 hosted] {
    expiries_are_moments_not_durations,
    emptied_stays_empty,
    a_transaction_is_all_or_nothing,
    every_database_is_kept,
    relaxed_writes_are_safe_once_waited_for,
});
on!([hosted] { history_goes_back_over_restarts });

fn expiries_are_moments_not_durations(target: Target) {
    let setup = Setup::new(target);
    let mut machine = setup.boot();
    let mut connection = machine.connect();
    let now_ms = unix_ms();
    let far_ms = now_ms + 30 * 365 * 24 * 3_600_000;
    let near_ms = now_ms + 2_000;
    connection.set::<_, _, ()>("far", "1").unwrap();
    connection.pexpire_at::<_, bool>("far", far_ms).unwrap();
    redis::cmd("SET")
        .arg("near")
        .arg("2")
        .arg("PXAT")
        .arg(near_ms)
        .exec(&mut connection)
        .unwrap();
    redis::cmd("SET")
        .arg("free")
        .arg("3")
        .arg("EX")
        .arg(1)
        .exec(&mut connection)
        .unwrap();
    assert!(connection.persist::<_, bool>("free").unwrap());
    machine.power_cut();

    let machine = setup.boot();
    let mut connection = machine.connect();
    // Times out with the test when an expired key stays.
    while connection.exists("near").unwrap() {}
    let ended = unix_ms();
    assert!(
        ended >= near_ms - 50,
        "it ended {} ms early",
        near_ms - ended
    );
    assert_eq!(
        redis::cmd("PEXPIRETIME").arg("far").query(&mut connection),
        Ok(far_ms)
    );
    assert_eq!(connection.get("free"), Ok("3".to_owned()));
    assert_eq!(
        connection.ttl("free"),
        Ok(redis::IntegerReplyOrNoOp::ExistsButNotRelevant)
    );
    machine.shutdown();
}

fn emptied_stays_empty(target: Target) {
    let setup = Setup::new(target);
    let mut machine = setup.boot();
    let mut connection = machine.connect();
    let mut pipe = redis::pipe();
    for index in 0..5_000 {
        pipe.set(format!("key:{index}"), "x".repeat(100)).ignore();
    }
    pipe.exec(&mut connection).unwrap();
    redis::cmd("FLUSHALL").exec(&mut connection).unwrap();
    connection.set::<_, _, ()>("key:1", "after").unwrap();
    machine.power_cut();

    let machine = setup.boot();
    let mut connection = machine.connect();
    let keys: Vec<String> = connection.keys("*").unwrap();
    assert_eq!(keys, ["key:1"]);
    assert_eq!(connection.get("key:1"), Ok("after".to_owned()));
    machine.shutdown();
}

/// One EXEC that was acknowledged, one that was never sent, one that partly fails at run time.
fn a_transaction_is_all_or_nothing(target: Target) {
    let setup = Setup::new(target);
    let mut machine = setup.boot();
    let mut connection = machine.connect();
    let mut pipe = redis::pipe();
    pipe.atomic();
    for index in 0..1_000 {
        pipe.set(format!("all:{index}"), index).ignore();
    }
    pipe.exec(&mut connection).unwrap();

    let mut raw = RawClient::connect(machine.port());
    raw.send(b"MULTI\r\nSET text abc\r\nINCR text\r\nSET more 1\r\nEXEC\r\n");
    let replies: Vec<_> = (0..5).map(|_| raw.reply()).collect();
    let Value::Array(results) = &replies[4] else {
        panic!("{replies:?}")
    };
    assert!(
        matches!(
            results[..],
            [Value::Okay, Value::ServerError(_), Value::Okay]
        ),
        "{results:?}"
    );

    let mut raw = RawClient::connect(machine.port());
    raw.send(b"MULTI\r\nSET never 1\r\nSET more 2\r\n");
    assert_eq!(raw.bytes(23), b"+OK\r\n+QUEUED\r\n+QUEUED\r\n");
    machine.power_cut();

    let machine = setup.boot();
    let mut connection = machine.connect();
    assert_eq!(redis::cmd("DBSIZE").query(&mut connection), Ok(1_002));
    assert_eq!(connection.get("all:999"), Ok(999));
    assert_eq!(connection.get("text"), Ok("abc".to_owned()));
    assert_eq!(connection.get("more"), Ok(1));
    machine.shutdown();
}

fn every_database_is_kept(target: Target) {
    let setup = Setup::new(target);
    let mut machine = setup.boot();
    let mut connection = machine.connect();
    for database in 0..16 {
        redis::cmd("SELECT")
            .arg(database)
            .exec(&mut connection)
            .unwrap();
        connection.set::<_, _, ()>("which", database).unwrap();
    }
    machine.power_cut();

    let machine = setup.boot();
    let mut connection = machine.connect();
    for database in 0..16 {
        redis::cmd("SELECT")
            .arg(database)
            .exec(&mut connection)
            .unwrap();
        assert_eq!(connection.get("which"), Ok(database));
    }
    assert!(connection.check_connection());
    machine.shutdown();
}

/// `appendfsync no` answers at once; WAITAOF tells when it is safe.
fn relaxed_writes_are_safe_once_waited_for(target: Target) {
    let setup = Setup::new(target);
    let mut machine = setup.boot();
    let mut connection = machine.connect();
    redis::cmd("CONFIG")
        .arg(&["SET", "appendfsync", "no"])
        .exec(&mut connection)
        .unwrap();
    let mut pipe = redis::pipe();
    for index in 0..2_000 {
        pipe.set(format!("relaxed:{index}"), index).ignore();
    }
    pipe.exec(&mut connection).unwrap();
    let waited: (usize, usize) = redis::cmd("WAITAOF")
        .arg(&[1, 0, 30_000])
        .query(&mut connection)
        .unwrap();
    assert_eq!(waited, (1, 0));
    machine.power_cut();

    let machine = setup.boot();
    let mut connection = machine.connect();
    assert_eq!(redis::cmd("DBSIZE").query(&mut connection), Ok(2_000));
    let policy: (String, String) = redis::cmd("CONFIG")
        .arg(&["GET", "appendfsync"])
        .query(&mut connection)
        .unwrap();
    assert_eq!(
        policy.1, "always",
        "a switch lasts until the end of the machine"
    );
    machine.shutdown();
}

/// A clean end, then a power cut: both times the past is what it was.
fn history_goes_back_over_restarts(target: Target) {
    let setup = Setup::new(target).with("CONFIG", "history-retention=3600");
    let mut commits: Vec<(u64, i64)> = Vec::new();
    for boot in 0..3 {
        let mut machine = setup.boot();
        let mut connection = machine.connect();
        for (commit, value) in &commits {
            cmd("BEGIN")
                .arg(&["AS", "OF", &commit.to_string()])
                .exec(&mut connection)
                .unwrap();
            assert_eq!(connection.get("price"), Ok(*value), "at {commit}");
            cmd("COMMIT").exec(&mut connection).unwrap();
        }
        for _ in 0..100 {
            let value = connection.incr("price", 1).unwrap();
            commits.push((info(&mut connection, "log_committed"), value));
        }
        let history: Vec<(u64, Option<i64>)> =
            cmd("HISTORY").arg("price").query(&mut connection).unwrap();
        let newest_first = commits.iter().rev();
        let expected = newest_first.map(|(commit, value)| (*commit, Some(*value)));
        assert!(history.into_iter().eq(expected), "after {boot} restarts");
        if boot == 0 {
            machine.shutdown();
        } else {
            machine.power_cut();
        }
    }
}

fn unix_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since_epoch.as_millis()).unwrap()
}

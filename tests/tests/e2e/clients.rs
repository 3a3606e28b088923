//! Unmodified clients, and a person at `telnet`.

use std::process::Command;
use std::time::Duration;

use redis::{Commands, ExistenceCheck, RedisResult, SetExpiry, SetOptions, Value};
use tests::client::{self, RawClient, redis_benchmark, redis_cli};
use tests::machine::{Setup, Target};
use tests::process::Process;

on!([riscv64 aarch64 hosted] {
    a_person_at_telnet,
    redis_cli_tool,
    redis_cli_mass_insertion,
    redis_benchmark_tool,
    redis_py,
    redis_rs,
});

fn a_person_at_telnet(target: Target) {
    let machine = Setup::new(target).boot();
    let mut telnet = RawClient::connect(machine.port());
    for (line, answer) in [
        ("PING\r\n", "+PONG\r\n"),
        ("set greeting \"hello world\"\r\n", "+OK\r\n"),
        ("GET greeting\r\n", "$11\r\nhello world\r\n"),
        ("\r\n  incr   visits \n", ":1\r\n"),
        ("GET nothing\r\n", "$-1\r\n"),
        (
            "SET greeting\r\n",
            "-ERR wrong number of arguments for 'set' command\r\n",
        ),
        (
            "FROB x\r\n",
            "-ERR unknown command 'FROB', with args beginning with: 'x' \r\n",
        ),
    ] {
        // A terminal may send a line in pieces.
        let (first, rest) = line.split_at(line.len() / 2);
        telnet.send(first.as_bytes());
        telnet.send(rest.as_bytes());
        let found = telnet.bytes(answer.len());
        assert_eq!(String::from_utf8_lossy(&found), answer, "to {line:?}");
    }
    telnet.send(b"QUIT\r\n");
    assert_eq!(telnet.until_closed(), b"+OK\r\n");
    machine.shutdown();
}

fn redis_cli_tool(target: Target) {
    let machine = Setup::new(target).boot();
    let cli = |arguments: &[&str]| redis_cli(machine.port(), arguments).trim_end().to_owned();
    assert_eq!(cli(&["SET", "k", "v", "EX", "100"]), "OK");
    assert_eq!(cli(&["GET", "k"]), "v");
    assert_eq!(cli(&["-3", "TTL", "k"]), "100");
    assert_eq!(cli(&["MSET", "a", "1", "b", "2"]), "OK");
    assert_eq!(cli(&["-n", "3", "DBSIZE"]), "0");
    assert_eq!(cli(&["DBSIZE"]), "3");
    let scanned = cli(&["--scan", "--pattern", "[ab]"]);
    let mut scanned: Vec<_> = scanned.lines().collect();
    scanned.sort_unstable();
    assert_eq!(scanned, ["a", "b"]);
    assert!(cli(&["INFO", "server"]).contains("redis_version:"));
    machine.shutdown();
}

fn redis_cli_mass_insertion(target: Target) {
    let machine = Setup::new(target).boot();
    let mut command = Command::new("sh");
    let pipe = format!(
        "seq 1 20000 | sed 's/.*/SET mass:& value:&/' | redis-cli -h 127.0.0.1 -p {} --pipe",
        machine.port()
    );
    command.arg("-c").arg(pipe);
    let output = Process::run(command, Duration::from_mins(2));
    assert!(output.contains("errors: 0, replies: 20000"), "{output}");
    let mut connection = machine.connect();
    assert_eq!(connection.get("mass:20000"), Ok("value:20000".to_owned()));
    assert_eq!(redis::cmd("DBSIZE").query(&mut connection), Ok(20_000));
    machine.shutdown();
}

fn redis_benchmark_tool(target: Target) {
    let machine = Setup::new(target).boot();
    for (clients, pipeline, requests) in [
        ("1", "1", "200"),
        ("50", "1", "5000"),
        ("50", "16", "20000"),
    ] {
        let arguments = [
            "-t",
            "set,get,incr,mset",
            "-c",
            clients,
            "-P",
            pipeline,
            "-n",
            requests,
            "-r",
            "1000",
        ];
        let rows = redis_benchmark(machine.port(), &arguments, Duration::from_mins(2));
        let tests: Vec<_> = rows.iter().map(|row| row.test.as_str()).collect();
        assert_eq!(tests, ["SET", "GET", "INCR", "MSET (10 keys)"]);
        assert!(
            rows.iter().all(|row| row.requests_per_second > 0.0),
            "{rows:?}"
        );
    }
    machine.shutdown();
}

fn redis_py(target: Target) {
    let machine = Setup::new(target).boot();
    let output = client::script(&client::python(), "redis_py.py", machine.port());
    assert!(output.trim_end().ends_with("all well"), "{output}");
    machine.shutdown();
}

fn redis_rs(target: Target) {
    let machine = Setup::new(target).boot();
    let mut connection = machine.connect();
    let options = SetOptions::default()
        .conditional_set(ExistenceCheck::NX)
        .with_expiration(SetExpiry::EX(1000));
    let first: RedisResult<Value> = connection.set_options("lock", "mine", options.clone());
    assert_eq!(first, Ok(Value::Okay));
    let second: RedisResult<Value> = connection.set_options("lock", "theirs", options);
    assert_eq!(second, Ok(Value::Nil));

    let mut pipe = redis::pipe();
    for index in 0..1000 {
        pipe.set(format!("p:{index}"), index).ignore();
    }
    pipe.mget(&["p:0", "p:999", "p:1000"]);
    let ends: (Vec<Option<u32>>,) = pipe.query(&mut connection).unwrap();
    assert_eq!(ends.0, [Some(0), Some(999), None]);

    let keys: usize = connection
        .scan_match::<_, String>("p:99*")
        .unwrap()
        .map(Result::unwrap)
        .count();
    assert_eq!(keys, 11);

    a_transaction_retries_when_a_watched_key_changed(&machine, &mut connection);
    machine.shutdown();
}

fn a_transaction_retries_when_a_watched_key_changed(
    machine: &tests::machine::Machine,
    connection: &mut redis::Connection,
) {
    let mut other = machine.connect();
    let mut attempts = 0;
    let (sum,): (i64,) = redis::transaction(connection, &["balance"], |connection, pipe| {
        attempts += 1;
        let balance: Option<i64> = connection.get("balance")?;
        if attempts == 1 {
            other.set::<_, _, ()>("balance", 100)?;
        }
        pipe.set("balance", balance.unwrap_or(0) + 1)
            .ignore()
            .get("balance")
            .query(connection)
    })
    .unwrap();
    assert_eq!((sum, attempts), (101, 2));
}

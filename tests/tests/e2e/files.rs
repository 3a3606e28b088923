//! Files over the protocol, and their transactions with keys.

use std::collections::HashMap;
use std::thread;

use redis::{Commands, Connection, ErrorKind, RedisResult, Value, cmd};
use tests::machine::{Machine, Setup, Target};
use tests::seed;

on!([riscv64 aarch64 hosted] {
    files_from_an_ordinary_client,
    keys_and_files_survive_the_plug_together,
});

fn files_from_an_ordinary_client(target: Target) {
    let setup = Setup::new(target);
    let machine = setup.boot();
    let mut connection = machine.connect();
    let c = &mut connection;
    cmd("FS.MKDIR").arg("/a/b").arg("PARENTS").exec(c).unwrap();
    let large = "0123456789".repeat(100_000);
    cmd("FS.PUT").arg("/a/large").arg(&large).exec(c).unwrap();
    cmd("FS.PUT")
        .arg("/a/b/small")
        .arg("hello")
        .exec(c)
        .unwrap();
    cmd("FS.SYMLINK")
        .arg("b/small")
        .arg("/a/link")
        .exec(c)
        .unwrap();
    cmd("FS.SETXATTR")
        .arg("/a/link")
        .arg("user.k")
        .arg("v")
        .exec(c)
        .unwrap();
    let size: usize = cmd("FS.APPEND")
        .arg("/a/link")
        .arg(" world")
        .query(c)
        .unwrap();
    assert_eq!(size, 11);
    let missing: RedisResult<()> = cmd("FS.RM").arg("/none").query(c);
    let missing = missing.unwrap_err();
    assert_eq!(
        (missing.kind(), missing.code()),
        (ErrorKind::Extension, Some("ENOENT"))
    );
    // A directory of many, listed in steps.
    cmd("FS.MKDIR").arg("/many").exec(c).unwrap();
    let mut pipe = redis::pipe();
    for index in 0..1000 {
        pipe.cmd("FS.PUT")
            .arg(format!("/many/{index}"))
            .arg(index)
            .ignore();
    }
    pipe.exec(c).unwrap();
    cmd("SNAPSHOT").arg("CREATE").arg("before").exec(c).unwrap();
    machine.shutdown();

    let machine = setup.boot();
    let mut connection = machine.connect();
    let c = &mut connection;
    assert_eq!(cmd("FS.GET").arg("/a/large").query(c), Ok(large));
    assert_eq!(
        cmd("FS.GET").arg("/a/link").query(c),
        Ok("hello world".to_owned())
    );
    assert_eq!(
        cmd("FS.GETXATTR").arg("/a/b/small").arg("user.k").query(c),
        Ok("v".to_owned())
    );
    assert_eq!(
        cmd("FS.READ")
            .arg("/a/large")
            .arg(999_995)
            .arg(100)
            .query(c),
        Ok("56789".to_owned())
    );
    let stat: HashMap<String, Value> = cmd("FS.STAT").arg("/a/large").query(c).unwrap();
    assert_eq!(stat["size"], Value::Int(1_000_000));
    assert_eq!(stat["type"], Value::BulkString(b"file".to_vec()));
    let mut names = list_in_steps(c, "/many");
    names.sort_unstable_by_key(|name| name.parse::<u32>().unwrap());
    assert!(
        names
            .iter()
            .map(|name| name.parse::<u32>().unwrap())
            .eq(0..1000)
    );
    let snapshots: Vec<HashMap<String, Value>> = cmd("SNAPSHOT").arg("LIST").query(c).unwrap();
    assert_eq!(snapshots.len(), 1);
    cmd("FS.RM").arg("/many").arg("RECURSIVE").exec(c).unwrap();
    assert_eq!(
        cmd("FS.GET").arg("/many/1").query::<Option<String>>(c),
        Ok(None)
    );
    cmd("SNAPSHOT").arg("DELETE").arg("before").exec(c).unwrap();
    machine.shutdown();
}

/// All names in a directory, as FS.LS gives them bit by bit.
fn list_in_steps(c: &mut Connection, directory: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut cursor = 0_u64;
    loop {
        let (next, found): (u64, Vec<String>) = cmd("FS.LS")
            .arg(directory)
            .arg("CURSOR")
            .arg(cursor)
            .query(c)
            .unwrap();
        assert!(found.len() <= 100);
        names.extend(found);
        cursor = next;
        if cursor == 0 {
            break;
        }
    }
    names
}

/// Rounds of writing until the plug is pulled.
const CUTS: u64 = 5;

fn keys_and_files_survive_the_plug_together(target: Target) {
    let mut rng = seed::rng();
    let setup = Setup::new(target);
    let mut done = 0;
    for _ in 0..CUTS {
        let mut machine = setup.boot();
        done = check(&mut machine.connect(), done);
        let after = done + rng.u64(1..100);
        let mut connection = machine.connect();
        thread::scope(|scope| {
            let (acknowledged, receiver) = std::sync::mpsc::channel();
            let writer = scope.spawn(move || write(&mut connection, done, &acknowledged));
            // The writer says how far it is; the plug goes while it goes on.
            while receiver.recv().expect("the writer goes on") < after {}
            machine.power_cut();
            done = writer.join().unwrap();
        });
    }
    let machine: Machine = setup.boot();
    check(&mut machine.connect(), done);
    machine.shutdown();
}

/// Writes transactions of keys and files until the connection fails; the last one acknowledged.
fn write(connection: &mut Connection, mut done: u64, says: &std::sync::mpsc::Sender<u64>) -> u64 {
    loop {
        let next = done + 1;
        let outcome: RedisResult<()> = redis::pipe()
            .atomic()
            .set("n", next)
            .ignore()
            .cmd("FS.PUT")
            .arg("/n")
            .arg(format!("{next} ").repeat(3000))
            .ignore()
            .cmd("FS.APPEND")
            .arg("/log")
            .arg("x")
            .ignore()
            .exec(connection);
        match outcome {
            Ok(()) => done = next,
            Err(error) => {
                assert!(
                    error.is_io_error() || error.is_connection_dropped(),
                    "{error}"
                );
                return done;
            }
        }
        // Nobody may be listening any more.
        let _ = says.send(done);
    }
}

/// Keys and files agree, and nothing acknowledged is missing; how far they are.
fn check(connection: &mut Connection, done: u64) -> u64 {
    let n: u64 = connection.get::<_, Option<u64>>("n").unwrap().unwrap_or(0);
    let file: Option<String> = cmd("FS.GET").arg("/n").query(connection).unwrap();
    let log: Option<String> = cmd("FS.GET").arg("/log").query(connection).unwrap();
    println!("{n} transactions, {done} of them acknowledged");
    assert!(
        n == done || n == done + 1,
        "{done} were acknowledged, {n} are there"
    );
    let expected = (n > 0).then(|| format!("{n} ").repeat(3000));
    assert_eq!(file, expected);
    assert_eq!(log.map_or(0, |log| log.len() as u64), n);
    n
}

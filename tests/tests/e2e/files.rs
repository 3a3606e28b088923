//! Files over the protocol, and their transactions with keys.

use std::collections::HashMap;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use redis::{Commands, Connection, ErrorKind, RedisResult, Value, cmd};
use tests::machine::{Machine, Setup, Target, host_tool};
use tests::process::Process;
use tests::seed;

on!([riscv64 aarch64 hosted] {
    files_from_an_ordinary_client, the_host_tool_and_the_machine_share_a_disk,
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
    write_parts(c);
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
    check_parts(c);
    assert_eq!(
        cmd("FS.READLINK").arg("/a/link").query(c),
        Ok("b/small".to_owned())
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

/// A file that is written to from the middle on, cut, and found under other names.
fn write_parts(c: &mut Connection) {
    let size: usize = cmd("FS.WRITE")
        .arg("/a/parts")
        .arg(5)
        .arg("later")
        .query(c)
        .unwrap();
    assert_eq!(size, 10);
    let size: usize = cmd("FS.WRITE")
        .arg("/a/parts")
        .arg(0)
        .arg("first")
        .query(c)
        .unwrap();
    assert_eq!(size, 10);
    cmd("FS.TRUNCATE").arg("/a/parts").arg(8).exec(c).unwrap();
    cmd("FS.MV")
        .arg("/a/parts")
        .arg("/a/moved")
        .exec(c)
        .unwrap();
    cmd("FS.LINK")
        .arg("/a/moved")
        .arg("/a/b/same")
        .exec(c)
        .unwrap();
}

fn check_parts(c: &mut Connection) {
    for path in ["/a/moved", "/a/b/same"] {
        assert_eq!(cmd("FS.GET").arg(path).query(c), Ok("firstlat".to_owned()));
        let stat: HashMap<String, Value> = cmd("FS.STAT").arg(path).query(c).unwrap();
        assert_eq!(stat["links"], Value::Int(2));
    }
    assert_eq!(
        cmd("FS.GET").arg("/a/parts").query::<Option<String>>(c),
        Ok(None)
    );
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

/// For a run of the host tool.
const LIMIT: Duration = Duration::from_mins(1);

/// What the one writes the other reads, the machine's snapshots, too.
fn the_host_tool_and_the_machine_share_a_disk(target: Target) {
    let setup = Setup::new(target);
    let directory = setup.directory().to_owned();
    let tool = |line: &[&str]| {
        let mut command = Command::new(host_tool());
        command.current_dir(&directory).args(line);
        Process::run(command, LIMIT)
    };
    let from_the_host = "from the host ".repeat(20_000);
    fs::write(directory.join("file"), &from_the_host).unwrap();
    tool(&["mkfs", "disk.img", "--size", "64M"]);
    tool(&["mkdir", "disk.img", "/shared"]);
    tool(&["cp", "file", "disk.img:/shared/file"]);

    let machine = setup.boot();
    let c = &mut machine.connect();
    let found: String = cmd("FS.GET").arg("/shared/file").query(c).unwrap();
    assert!(found == from_the_host);
    let before = "before the snapshot ".repeat(20_000);
    let put = |c: &mut Connection, path: &str, content: &str| {
        cmd("FS.PUT").arg(path).arg(content).exec(c).unwrap();
    };
    put(c, "/shared/machine", &before);
    put(c, "/shared/removed", "was here");
    cmd("SNAPSHOT").arg("CREATE").arg("then").exec(c).unwrap();
    put(c, "/shared/machine", "after it");
    put(c, "/shared/new", "new");
    cmd("FS.RM").arg("/shared/removed").exec(c).unwrap();
    machine.shutdown();

    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let listed = tool(&["ls", "disk.img@then", "/shared"]);
    assert_eq!(lines(&listed), ["file", "machine", "removed"]);
    let listed = tool(&["ls", "disk.img", "/shared"]);
    assert_eq!(lines(&listed), ["file", "machine", "new"]);
    let listed = tool(&["snapshot", "list", "disk.img"]);
    assert!(listed.trim_end().ends_with("then"), "{listed}");
    tool(&["cp", "disk.img@then:/shared/machine", "old"]);
    assert!(fs::read_to_string(directory.join("old")).unwrap() == before);
    tool(&["cp", "disk.img:/shared/machine", "now"]);
    let now = fs::read_to_string(directory.join("now")).unwrap();
    assert_eq!(now, "after it");
    let printed = tool(&["cat", "disk.img@then", "/shared/removed"]);
    assert_eq!(lines(&printed), ["was here"]);
    tool(&["fsck", "--data", "disk.img"]);
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

//! Backups of a running machine with the host tool: pulled under load, cut short, gone on with, restored and booted.

use std::fs;
use std::io::{self, Read as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use redis::{Commands, Connection, cmd};
use tests::machine::{Machine, Setup, Target, host_tool};
use tests::process::Process;

on!([riscv64 aarch64 hosted] {
    a_backup_under_load_is_one_commit_on_another_disk,
});

/// Files that do not change, so that reading takes a while.
const FILES: usize = 40;
/// Bytes after which a backup is cut: more than a frame, and less than the files have.
const CUT_BYTES: u64 = 3_000_000;
/// How long anything may take.
const LIMIT: Duration = Duration::from_mins(1);

/// Ends the load, also when the test fails: what waits for its thread would wait for ever.
struct Stop<'f>(&'f AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Waits until the load has come to `number`.
fn wait_for_commits(connection: &mut Connection, number: u64) {
    let until = Instant::now() + LIMIT;
    while connection.get::<_, Option<u64>>("n").unwrap() < Some(number) {
        assert!(Instant::now() < until, "the load does not come to {number}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// An address that leads to `port` once, until that has sent `bytes` bytes.
fn cut_after(port: u16, bytes: u64) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        drop(listener);
        let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (mut requests, mut target) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        // Each ends when either side is gone.
        thread::spawn(move || io::copy(&mut requests, &mut target));
        let _ = io::copy(&mut (&server).take(bytes), &mut client);
        let _ = client.shutdown(Shutdown::Both);
        let _ = server.shutdown(Shutdown::Both);
    });
    address
}

fn a_backup_under_load_is_one_commit_on_another_disk(target: Target) {
    let setup = Setup::new(target);
    let machine = setup.boot();
    let mut connection = machine.connect();
    let c = &mut connection;
    for number in 0..FILES {
        let mut content = vec![0; 100_000];
        fastrand::Rng::with_seed(number as u64).fill(&mut content);
        cmd("FS.PUT")
            .arg(format!("/file {number}"))
            .arg(content)
            .exec(c)
            .unwrap();
    }
    c.set::<_, _, ()>("kept", "value").unwrap();

    let path = |name: &str| setup.directory().join(name);
    let address = format!("127.0.0.1:{}", machine.port());
    let full = path("full").display().to_string();
    let stop = AtomicBool::new(false);
    let (first, second) = thread::scope(|scope| {
        let mut writing = machine.connect();
        let stop = &stop;
        scope.spawn(move || {
            for number in 1_u64.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                write(&mut writing, number);
            }
        });
        let _stop = Stop(stop);
        wait_for_commits(c, 5);
        // Cut short, and gone on with.
        let mut command = Command::new(host_tool());
        let cut = cut_after(machine.port(), CUT_BYTES);
        command.args(["backup", &cut, "-o", &full]);
        let status = Process::spawn(command).wait_exit(LIMIT);
        assert_eq!(status.code(), Some(1), "the backup was cut");
        let partial = fs::metadata(path("full.partial")).unwrap().len();
        assert!((1..CUT_BYTES).contains(&partial), "{partial}");
        let first = name(&tool(&["backup", &address, "-o", &full]));
        assert_eq!(
            snapshots(c),
            [&first[..]],
            "it went on with the snapshot it had"
        );
        let more = c.get::<_, u64>("n").unwrap() + 5;
        wait_for_commits(c, more);
        let one = path("one").display().to_string();
        let said = tool(&["backup", &address, "--since", &first, "-o", &one]);
        (first, name(&said))
    });
    assert_eq!(snapshots(c), [first, second]);
    let newest: u64 = c.get("n").unwrap();
    machine.shutdown();

    // The incremental one has none of what did not change.
    let bytes = |name: &str| fs::metadata(path(name)).unwrap().len();
    assert!(bytes("full") > (FILES * 100_000) as u64);
    assert!(bytes("one") < bytes("full") / 4, "{}", bytes("one"));

    for (files, size) in [(&["full"][..], "64M"), (&["full", "one"], "512M")] {
        let image = path(&format!("restored {size}")).display().to_string();
        let files = files.iter().map(|name| path(name).display().to_string());
        let mut words = vec!["restore".to_owned()];
        words.extend(files);
        words.extend([image.clone(), "--size".to_owned(), size.to_owned()]);
        tool(&words.iter().map(String::as_str).collect::<Vec<_>>());
        tool(&["fsck", "--data", &image]);
        let restored = Setup::new(target).with_disk(&image).with("DISK_SIZE", size);
        let machine: Machine = restored.boot();
        let mut connection = machine.connect();
        let c = &mut connection;
        let n: u64 = c.get("n").unwrap();
        assert!((5..=newest).contains(&n), "{n}");
        let file: String = cmd("FS.GET").arg("/n").query(c).unwrap();
        assert_eq!(file, content(n));
        let log: String = cmd("FS.GET").arg("/log").query(c).unwrap();
        assert_eq!(log.len() as u64, n);
        assert_eq!(c.get("kept"), Ok("value".to_owned()));
        let names: (u64, Vec<String>) = cmd("FS.LS").arg("/").query(c).unwrap();
        assert_eq!(names.1.len(), FILES + 2);
        // It goes on from there.
        write(c, n + 1);
        machine.shutdown();
    }
}

fn content(number: u64) -> String {
    format!("{number} ").repeat(3000)
}

/// A transaction over keys and files.
fn write(connection: &mut Connection, number: u64) {
    redis::pipe()
        .atomic()
        .set("n", number)
        .ignore()
        .cmd("FS.PUT")
        .arg("/n")
        .arg(content(number))
        .ignore()
        .cmd("FS.APPEND")
        .arg("/log")
        .arg("x")
        .ignore()
        .exec(connection)
        .unwrap();
}

fn snapshots(connection: &mut Connection) -> Vec<String> {
    type Snapshot = std::collections::HashMap<String, redis::Value>;
    let snapshots: Vec<Snapshot> = cmd("SNAPSHOT").arg("LIST").query(connection).unwrap();
    let name = |snapshot: &Snapshot| redis::from_redis_value_ref(&snapshot["name"]).unwrap();
    snapshots.iter().map(name).collect()
}

fn name(said: &str) -> String {
    let name = said.strip_prefix("snapshot: ").expect("the snapshot");
    name.trim().to_owned()
}

/// Runs the host tool to its end.
fn tool(arguments: &[&str]) -> String {
    let mut command = Command::new(host_tool());
    command.args(arguments);
    Process::run(command, Duration::from_mins(2))
}

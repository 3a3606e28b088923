//! File commands on a disk that is full, full but for a little, and so on until they succeed.
//!
//! Invariants: a command is carried out, or the reply is `ENOSPC` and nothing of it shows; it says nothing else and never
//! waits for ever. Removing always succeeds. Keys go on.

use crate::support::value::Value;
use crate::support::{Client, World, seed};
use lfs::sim::{Random, Request, SimDisk};
use lfs::{DeviceError, FormatOptions};

/// Files of a block that are there to be removed.
const UNITS: usize = 40;

/// A request: its words.
type Command = Vec<String>;

/// A command, or several that are one transaction, and what takes it back when it was carried out.
struct Case {
    commands: Vec<Command>,
    undo: Vec<Command>,
    /// It takes something away and must not find the disk full.
    always: bool,
}

fn noise(len: usize) -> String {
    let mut random = Random::new(len as u64);
    let words = (0..len.div_ceil(16)).map(|_| format!("{:016x}", random.next_u64()));
    let mut text = words.collect::<String>();
    text.truncate(len);
    text
}

fn words(line: &str) -> Command {
    let word = |word: &str| match word.strip_prefix('%') {
        Some(len) => noise(len.parse().unwrap()),
        None => word.to_owned(),
    };
    line.split(' ').map(word).collect()
}

fn case(commands: &[&str], undo: &[&str]) -> Case {
    let parse = |lines: &[&str]| lines.iter().map(|line| words(line)).collect();
    Case {
        commands: parse(commands),
        undo: parse(undo),
        always: false,
    }
}

fn always(command: &str, undo: &[&str]) -> Case {
    Case {
        always: true,
        ..case(&[command], undo)
    }
}

/// `%n` stands for n characters that hardly compress.
fn cases() -> Vec<Case> {
    vec![
        case(&["FS.PUT /new %0"], &["FS.RM /new"]),
        case(&["FS.PUT /new %500"], &["FS.RM /new"]),
        case(&["FS.PUT /new %60000"], &["FS.RM /new"]),
        case(&["FS.PUT /a %30000"], &["FS.PUT /a %9000"]),
        case(&["FS.WRITE /a 5000 %100"], &[]),
        case(&["FS.WRITE /a 60000 %9000"], &["FS.TRUNCATE /a 9000"]),
        case(&["FS.APPEND /a %12000"], &["FS.TRUNCATE /a 9000"]),
        case(&["FS.APPEND /new %12000"], &["FS.RM /new"]),
        case(&["FS.TRUNCATE /a 100000"], &["FS.TRUNCATE /a 9000"]),
        case(&["FS.TRUNCATE /a 4000"], &["FS.PUT /a %9000"]),
        case(&["FS.MKDIR /x/y/z PARENTS"], &["FS.RM /x RECURSIVE"]),
        case(&["FS.MV /a /d/a"], &["FS.MV /d/a /a"]),
        case(&["FS.MV /b /a"], &["FS.PUT /a %9000", "FS.PUT /b %300"]),
        case(&["FS.LINK /a /new"], &["FS.RM /new"]),
        case(&["FS.SYMLINK %900 /new"], &["FS.RM /new"]),
        case(&["FS.SETXATTR /a user.n %900"], &["FS.DELXATTR /a user.n"]),
        case(
            &["FS.SETXATTR /a user.n %20000"],
            &["FS.DELXATTR /a user.n"],
        ),
        case(&["FS.SETATTR /a MODE 600 UID 7"], &[]),
        case(
            &[
                "SET key new",
                "FS.PUT /new %20000",
                "FS.MV /new /b",
                "FS.RM /d RECURSIVE",
                "FS.MKDIR /d",
            ],
            &["SET key old", "FS.PUT /b %300", "FS.PUT /d/1 %5000"],
        ),
        case(&["SNAPSHOT CREATE s"], &["SNAPSHOT DELETE s"]),
        always("FS.RM /b", &["FS.PUT /b %300"]),
        always("FS.RM /d RECURSIVE", &["FS.MKDIR /d", "FS.PUT /d/1 %5000"]),
        always("SNAPSHOT DELETE first", &["SNAPSHOT CREATE first"]),
    ]
}

fn unit(number: usize) -> Command {
    words(&format!("FS.PUT /unit{number} %8192"))
}

/// What can be seen of everything that the cases touch.
async fn seen(client: &mut Client) -> Vec<String> {
    let mut seen = Vec::new();
    for path in ["/a", "/b", "/d/1", "/d/a", "/new"] {
        for command in ["FS.GET", "FS.STAT", "FS.LISTXATTR", "FS.READLINK"] {
            seen.push(client.call(&[command, path]).await.to_string());
        }
    }
    for question in [&["FS.LS", "/d"][..], &["GET", "key"], &["SNAPSHOT", "LIST"]] {
        seen.push(client.call(question).await.to_string());
    }
    seen
}

async fn call(client: &mut Client, command: &Command) -> Value {
    let words = command.iter().map(String::as_str).collect::<Vec<_>>();
    client.call(&words).await
}

/// Carries out a command, or several as one transaction; whether there was space.
async fn carry_out(client: &mut Client, commands: &[Command]) -> bool {
    if let [command] = commands {
        let reply = call(client, command).await;
        let full = reply.is_error("ENOSPC no space left on device");
        assert!(full || !reply.is_error(""), "{command:?}: {reply}");
        return !full;
    }
    client.call(&["MULTI"]).await;
    for command in commands {
        call(client, command).await;
    }
    let reply = client.call(&["EXEC"]).await;
    let full = reply.is_error("EXECABORT Transaction discarded because of: ENOSPC");
    assert!(full || !reply.is_error(""), "{commands:?}: {reply}");
    !full
}

/// Makes files until there is no space, large ones first; the units that were removed among them.
async fn fill(client: &mut Client, made: &mut usize) {
    for number in 0..UNITS {
        carry_out(client, &[unit(number)]).await;
    }
    for len in [40_000, 8192, 500, 1] {
        loop {
            let command = words(&format!("FS.PUT /rest{made} %{len}"));
            if !carry_out(client, &[command]).await {
                break;
            }
            *made += 1;
        }
    }
}

fn run(with_snapshot: bool, cleaner: bool) {
    let format = FormatOptions {
        segment_bytes: 64 << 10,
        log_segments: 16,
        created_ns: 0,
    };
    let seed = seed(9);
    let disk = SimDisk::new(2048, seed);
    let mut world = World::on_disk(disk, Some(format), seed, &[]);
    let mut client = world.connect();
    let disk = world.disk.clone();
    world.run(async move {
        let base = [
            "FS.PUT /a %9000",
            "FS.PUT /b %300",
            "FS.MKDIR /d",
            "FS.PUT /d/1 %5000",
            "SET key old",
            "SNAPSHOT CREATE first",
        ];
        for command in base {
            let kept = with_snapshot || !command.starts_with("SNAPSHOT");
            assert!(!kept || carry_out(&mut client, &[words(command)]).await);
        }
        let mut made = 0;
        let mut refused = 0;
        for case in cases() {
            let deletes = case.commands.iter().flatten().any(|word| word == "DELETE");
            if deletes && !with_snapshot {
                continue;
            }
            fill(&mut client, &mut made).await;
            if !cleaner {
                disk.set_faults(|request| match request {
                    Request::Read(_, blocks) if blocks > 2 => Some(DeviceError::Io),
                    _ => None,
                });
            }
            let before = seen(&mut client).await;
            let mut units = 0;
            while !carry_out(&mut client, &case.commands).await {
                assert!(!case.always && units < UNITS, "{:?}", case.commands);
                assert_eq!(seen(&mut client).await, before, "{:?}", case.commands);
                refused += 1;
                // The last of them may not have fitted.
                let removed = call(&mut client, &words(&format!("FS.RM /unit{units}"))).await;
                assert!(removed == Value::ok() || removed.is_error("ENOENT"));
                units += 1;
            }
            assert!(carry_out(&mut client, &[words("SET alive yes")]).await);
            disk.clear_faults();
            for number in units..UNITS {
                call(&mut client, &words(&format!("FS.RM /unit{number}"))).await;
            }
            for undo in case.undo {
                assert!(carry_out(&mut client, &[undo]).await);
            }
        }
        assert!(refused > 20, "{refused}");
    });
}

#[test]
fn every_file_command_at_every_step_of_a_full_disk() {
    run(false, true);
}

#[test]
fn every_file_command_at_every_step_of_a_full_disk_with_a_snapshot() {
    run(true, true);
}

#[test]
fn every_file_command_on_a_full_disk_that_the_cleaner_cannot_read() {
    run(true, false);
}

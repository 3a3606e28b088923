//! Real programs on a mounted image.

use std::fs;
use std::path::Path;
use std::process::Command;

use rusqlite::Connection;

use crate::harness::{Mount, Scratch, assert_same, describe, run, seed};

/// Runs a program somewhere, and expects success.
fn program(directory: &std::path::Path, line: &[&str]) -> String {
    let (name, arguments) = line.split_first().expect("a program");
    let mut command = Command::new(name);
    command.args(arguments).current_dir(directory);
    command
        .env("GIT_AUTHOR_NAME", "Nobody")
        .env("GIT_AUTHOR_EMAIL", "nobody@example.org")
        .env("GIT_COMMITTER_NAME", "Nobody")
        .env("GIT_COMMITTER_EMAIL", "nobody@example.org")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1");
    run(command).ok()
}

fn remount(scratch: &Scratch, mount: Mount) -> Mount {
    mount.unmount();
    scratch.mount()
}

#[test]
fn a_git_repository() {
    let scratch = Scratch::with_image("128M");
    let origin = scratch.path("origin");
    fs::create_dir(&origin).expect("made");
    program(&origin, &["git", "init", "-q", "-b", "main"]);
    for commit in 0..20 {
        for number in 0..20 {
            let directory = origin.join(format!("part-{}", number % 5));
            fs::create_dir_all(&directory).expect("made");
            let text = format!("file {number} of commit {commit}\n").repeat(number * 20);
            fs::write(directory.join(format!("{number}.txt")), text).expect("written");
        }
        program(&origin, &["git", "add", "."]);
        program(
            &origin,
            &["git", "commit", "-q", "-m", &format!("commit {commit}")],
        );
    }

    let mount = scratch.mount();
    let from = origin.to_str().expect("UTF-8");
    program(
        mount.root(),
        &["git", "clone", "-q", "--no-local", from, "clone"],
    );
    let clone = mount.path("clone");
    program(&clone, &["git", "fsck", "--full", "--strict"]);
    fs::write(clone.join("new.txt"), "new").expect("written");
    program(&clone, &["git", "add", "."]);
    program(&clone, &["git", "commit", "-q", "-m", "on the image"]);
    program(&clone, &["git", "gc", "-q"]);

    let mount = remount(&scratch, mount);
    let clone = mount.path("clone");
    program(&clone, &["git", "fsck", "--full", "--strict"]);
    assert_eq!(program(&clone, &["git", "status", "--porcelain"]), "");
    assert_eq!(
        program(&clone, &["git", "rev-list", "--count", "HEAD"]),
        "21\n"
    );
    mount.unmount();
}

#[test]
fn rsync_there_and_back() {
    let scratch = Scratch::with_image("128M");
    let source = scratch.path("source");
    fs::create_dir_all(source.join("deep/er/still")).expect("made");
    for number in 0..200 {
        let bytes = vec![u8::try_from(number).expect("small"); number * 997];
        fs::write(source.join(format!("deep/{number}")), bytes).expect("written");
    }
    fs::hard_link(source.join("deep/7"), source.join("deep/er/seven")).expect("linked");
    std::os::unix::fs::symlink("../deep/8", source.join("deep/eight")).expect("linked");
    program(&source, &["mkfifo", "-m", "640", "pipe"]);
    // Where times are the same but for parts of a second, rsync leaves them.
    let back_then = "find . -exec touch -h -d '2020-02-20 20:20:20.123456789' {} +";
    program(&source, &["sh", "-c", back_then]);

    let mount = scratch.mount();
    let rsync = |more: &[&str], from: &Path, to: &Path| {
        let directory = |path: &Path| format!("{}/", path.display());
        let mut line = vec!["rsync", "-aHAX", "--numeric-ids"];
        line.extend_from_slice(more);
        let (from, to) = (directory(from), directory(to));
        line.extend([from.as_str(), to.as_str()]);
        program(&scratch.path("."), &line)
    };
    rsync(&[], &source, &mount.path("copy"));
    let mount = remount(&scratch, mount);
    assert_same(&describe(&source), &describe(&mount.path("copy")));
    rsync(&[], &mount.path("copy"), &mount.path("second"));
    assert_same(&describe(&source), &describe(&mount.path("second")));
    rsync(&[], &mount.path("copy"), &scratch.path("back"));
    assert_same(&describe(&source), &describe(&scratch.path("back")));
    // Nothing is left to do, whatever it compares.
    assert_eq!(rsync(&["-c", "-i"], &source, &mount.path("copy")), "");
    mount.unmount();
}

#[test]
fn an_sqlite_database() {
    for journal in ["DELETE", "WAL"] {
        let scratch = Scratch::with_image("128M");
        let mut rng = fastrand::Rng::with_seed(seed());
        let mount = scratch.mount();
        let open = |mount: &Mount| Connection::open(mount.path("database")).expect("opens");
        let database = open(&mount);
        let mode: String = database
            .query_row(&format!("PRAGMA journal_mode = {journal}"), [], |row| {
                row.get(0)
            })
            .expect("set");
        assert_eq!(mode.to_uppercase(), journal);
        // So that a rollback journal's end is durable, too, and not only what it guards.
        database
            .execute_batch(
                "PRAGMA synchronous = EXTRA;
                 CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, body BLOB);
                 CREATE INDEX by_name ON item (name);",
            )
            .expect("created");
        for round in 0..60 {
            let transaction = database.unchecked_transaction().expect("begun");
            for _ in 0..20 {
                let body = vec![rng.u8(..); rng.usize(..5000)];
                transaction
                    .execute(
                        "INSERT OR REPLACE INTO item VALUES (?1, ?2, ?3)",
                        (rng.u32(..1000), format!("name {}", rng.u32(..)), body),
                    )
                    .expect("inserted");
            }
            if round % 5 == 4 {
                transaction.rollback().expect("rolled back");
            } else {
                transaction.commit().expect("committed");
            }
        }
        let count = |database: &Connection| -> i64 {
            let query = "SELECT count(*) FROM item";
            database
                .query_row(query, [], |row| row.get(0))
                .expect("counted")
        };
        let check = |database: &Connection| {
            let query = "PRAGMA integrity_check";
            let found: String = database
                .query_row(query, [], |row| row.get(0))
                .expect("checked");
            assert_eq!(found, "ok", "{journal}");
        };
        check(&database);
        let before = count(&database);
        drop(database);
        // Committed is durable: the tool's crash takes nothing.
        mount.kill();
        let mount = scratch.mount();
        let database = open(&mount);
        check(&database);
        assert_eq!(count(&database), before);
        drop(database);
        mount.unmount();
    }
}

//! Two disks: either serves alone and the other catches up, one may vanish and return, and what rots on one is repaired.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use redis::{Commands, Connection};
use tests::client;
use tests::machine::{READY, Setup, Target};
use tests::nbd::{Faults, NbdServer};
use tests::seed;

on!([riscv64 aarch64 hosted] {
    either_disk_alone_serves_and_the_other_catches_up,
    rot_on_one_disk_is_repaired, disks_written_apart_are_refused,
});
on!([riscv64 hosted] { a_second_disk_is_made_as_large_as_the_first });
// A disk that fails on request is for QEMU.
on!([riscv64 aarch64] { a_disk_vanishes_and_returns, a_disk_hangs_and_is_given_up });

/// For a resync or a scrub of a little data.
const LIMIT: Duration = Duration::from_mins(1);
const BLOCK: usize = 4096;
/// Where a disk keeps what it knows of the other one; the rest is the same on both.
const RECORD_BLOCKS: [usize; 2] = [7, 8];

/// A field of `INFO mirror`.
fn field(connection: &mut Connection, name: &str) -> String {
    let info: String = redis::cmd("INFO").arg("mirror").query(connection).unwrap();
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {info}"))
        .to_owned()
}

/// Waits until a field has a value.
fn wait_for(connection: &mut Connection, name: &str, value: &str) {
    client::ask_until(LIMIT, || match field(connection, name) {
        found if found == value => Ok(()),
        found => Err(format!("{name} is {found}, not {value}")),
    });
}

/// A machine with two disks, each of which is a file.
fn pair(target: Target) -> (Setup, [String; 2]) {
    let setup = Setup::new(target).with("DISK_SIZE", "64M");
    let first = setup.disk().to_owned();
    let second = setup.directory().join("second.img").display().to_string();
    (setup.with("DISK2", &second), [first, second])
}

fn alone(setup: Setup, disk: &str) -> Setup {
    setup.with("DISK2", "").with_disk(disk)
}

fn either_disk_alone_serves_and_the_other_catches_up(target: Target) {
    let (setup, disks) = pair(target);
    let machine = setup.boot();
    let mut connection = machine.connect();
    connection.set::<_, _, ()>("state", "both").unwrap();
    wait_for(&mut connection, "mirror_state", "whole");
    machine.shutdown();
    let mut expected = "both".to_owned();
    let mut setup = setup;
    for disk in &disks {
        setup = alone(setup, disk);
        let machine = setup.boot();
        let mut connection = machine.connect();
        assert_eq!(connection.get("state"), Ok(expected));
        assert_eq!(field(&mut connection, "mirror_state"), "degraded");
        expected = format!("only {disk}");
        connection.set::<_, _, ()>("state", &expected).unwrap();
        machine.shutdown();

        setup = setup.with_disk(&disks[0]).with("DISK2", &disks[1]);
        let machine = setup.boot();
        let mut connection = machine.connect();
        assert_eq!(connection.get("state"), Ok(expected.clone()));
        wait_for(&mut connection, "mirror_state", "whole");
        let copied: u64 = field(&mut connection, "mirror_resynced_bytes")
            .parse()
            .unwrap();
        assert!(
            copied > 0 && copied < 8 << 20,
            "only what changed: {copied}"
        );
        machine.shutdown();
    }
    for disk in &disks {
        setup = alone(setup, disk);
        // The power goes, so that it is as it was for the other one.
        let mut machine = setup.boot();
        assert_eq!(machine.connect().get("state"), Ok(expected.clone()));
        machine.power_cut();
    }
}

/// Also when disks are to have another size since the first was made.
fn a_second_disk_is_made_as_large_as_the_first(target: Target) {
    let setup = Setup::new(target).with("DISK_SIZE", "48M");
    setup.boot().shutdown();
    let second = setup.directory().join("second.img").display().to_string();
    let setup = setup.with("DISK2", &second).with("DISK_SIZE", "32M");
    let machine = setup.boot();
    wait_for(&mut machine.connect(), "mirror_state", "whole");
    machine.shutdown();
    assert_eq!(std::fs::metadata(&second).unwrap().len(), 48 << 20);
}

fn a_disk_vanishes_and_returns(target: Target) {
    let mut rng = seed::rng();
    let setup = Setup::new(target).with("DISK_SIZE", "64M");
    let server = NbdServer::start(setup.directory(), 64 << 20);
    let setup = setup.with("DISK2", &server.uri());
    let machine = setup.boot();
    let mut connection = machine.connect();
    wait_for(&mut connection, "mirror_state", "whole");
    for round in 0..3 {
        server.set_faults(Faults {
            reads: true,
            writes: true,
            flushes: true,
            after: rng.u64(..10),
        });
        for number in 0..20 {
            let key = format!("key {round} {number}");
            connection.set::<_, _, ()>(&key, number).unwrap();
        }
        wait_for(&mut connection, "mirror_state", "degraded");
        server.set_faults(Faults::default());
        connection.set::<_, _, ()>("round", round).unwrap();
        wait_for(&mut connection, "mirror_state", "whole");
    }
    assert_eq!(field(&mut connection, "mirror_failures"), "3");
    machine.shutdown();

    // What it had not flushed when the power goes is lost; it is complete without.
    server.power_cut(&mut rng);
    let setup = alone(setup, &server.uri());
    let machine = setup.boot();
    let mut connection = machine.connect();
    for round in 0..3 {
        for number in 0..20 {
            let key = format!("key {round} {number}");
            assert_eq!(connection.get(&key), Ok(number), "{key}");
        }
    }
    machine.shutdown();
}

fn a_disk_hangs_and_is_given_up(target: Target) {
    let mut rng = seed::rng();
    let setup = Setup::new(target).with("DISK_SIZE", "64M");
    let server = NbdServer::start(setup.directory(), 64 << 20);
    let first = setup.disk().to_owned();
    let mut setup = setup.with("DISK2", &server.uri());
    let machine = setup.boot();
    let mut connection = machine.connect();
    connection.set::<_, _, ()>("key", "before").unwrap();
    wait_for(&mut connection, "mirror_state", "whole");

    server.hang_after(rng.u64(..4));
    for number in 0..20 {
        connection.set::<_, _, ()>("key", number).unwrap();
    }
    assert!(server.wait_stalled(LIMIT));
    wait_for(&mut connection, "mirror_state", "degraded");
    connection.set::<_, _, ()>("key", "without").unwrap();
    // Now it does what it was asked, late, and is not taken back for that: more may come.
    server.wake();
    for number in 0..20 {
        connection.set::<_, _, ()>("key", number).unwrap();
    }
    connection.set::<_, _, ()>("key", "after").unwrap();
    assert_eq!(field(&mut connection, "mirror_state"), "degraded");
    assert_eq!(field(&mut connection, "mirror_failures"), "1");
    machine.shutdown();

    let machine = setup.boot();
    let mut connection = machine.connect();
    assert_eq!(connection.get("key"), Ok("after".to_owned()));
    wait_for(&mut connection, "mirror_state", "whole");
    machine.shutdown();
    for disk in [server.uri(), first] {
        setup = alone(setup, &disk);
        let machine = setup.boot();
        assert_eq!(machine.connect().get("key"), Ok("after".to_owned()));
        machine.shutdown();
    }
}

fn rot_on_one_disk_is_repaired(target: Target) {
    let mut rng = seed::rng();
    let (mut setup, disks) = pair(target);
    let machine = setup.boot();
    let mut connection = machine.connect();
    let content: Vec<u8> = (0..300_000).map(|_| rng.u8(..)).collect();
    redis::cmd("FS.PUT")
        .arg("/file")
        .arg(&content)
        .query::<()>(&mut connection)
        .unwrap();
    connection.set::<_, _, ()>("key", "value").unwrap();
    wait_for(&mut connection, "mirror_state", "whole");
    machine.shutdown();

    let rotten = rng.usize(..2);
    let file = OpenOptions::new().write(true).open(&disks[rotten]).unwrap();
    let bytes = std::fs::read(&disks[rotten]).unwrap();
    let mut damaged = 0;
    for (number, block) in bytes.chunks_exact(BLOCK).enumerate() {
        if block.iter().any(|byte| *byte != 0) && !RECORD_BLOCKS.contains(&number) {
            let at = rng.usize(..BLOCK);
            let offset = (number * BLOCK + at) as u64;
            file.write_all_at(&[!block[at]], offset).unwrap();
            damaged += 1;
        }
    }
    assert!(damaged > 70, "{damaged}");

    let machine = setup.boot();
    let mut connection = machine.connect();
    let get = |connection: &mut Connection| {
        redis::cmd("FS.GET")
            .arg("/file")
            .query::<Vec<u8>>(connection)
    };
    assert_eq!(get(&mut connection).unwrap(), content);
    let status = client::scrub(&mut connection, LIMIT);
    assert_eq!(status["unrepairable"], 0, "{status:?}");
    let repaired: u64 = field(&mut connection, "mirror_repaired").parse().unwrap();
    assert!(repaired > 0);
    machine.shutdown();

    setup = alone(setup, &disks[rotten]);
    let machine = setup.boot();
    let mut connection = machine.connect();
    assert_eq!(get(&mut connection).unwrap(), content);
    assert_eq!(connection.get("key"), Ok("value".to_owned()));
    machine.shutdown();
}

fn disks_written_apart_are_refused(target: Target) {
    let (mut setup, disks) = pair(target);
    let machine = setup.boot();
    wait_for(&mut machine.connect(), "mirror_state", "whole");
    machine.shutdown();
    for disk in &disks {
        setup = alone(setup, disk);
        let machine = setup.boot();
        machine.connect().set::<_, _, ()>("disk", disk).unwrap();
        machine.shutdown();
    }
    setup = setup.with_disk(&disks[0]).with("DISK2", &disks[1]);
    let console = setup.boot_refused();
    assert!(!console.contains(READY), "{console}");
    assert!(console.contains("cannot be joined"), "{console}");
}

//! Disks that become larger: under load, while the machine is off, and one of two.

use std::fs::OpenOptions;
use std::time::Duration;

use redis::{Commands, Connection, cmd};
use tests::client;
use tests::machine::{Machine, Setup, Target};
use tests::seed;
use tests::workload::Workload;

on!([riscv64 aarch64 hosted] {
    a_disk_grows_while_clients_write, a_mirror_grows_once_both_disks_have,
});

/// For growing, which takes a checkpoint.
const LIMIT: Duration = Duration::from_mins(1);
const MIB: u64 = 1 << 20;
/// What a disk that was made with 32 MiB takes in one command.
const FILE_BYTES: u64 = 256 << 10;
const WRITERS: usize = 8;

/// A number in a section of `INFO`.
fn number(connection: &mut Connection, section: &str, name: &str) -> u64 {
    let info: String = cmd("INFO").arg(section).query(connection).unwrap();
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let line = line.unwrap_or_else(|| panic!("no {name} in {info}"));
    line.parse().unwrap()
}

/// Waits until the file system takes almost all of `size_bytes`: all but the part of a segment.
fn wait_for_size(connection: &mut Connection, size_bytes: u64) {
    let near = size_bytes - MIB..=size_bytes;
    client::ask_until(LIMIT, || {
        match number(connection, "files", "fs_size_bytes") {
            size if near.contains(&size) => Ok(()),
            size => Err(format!("{size} instead of {size_bytes}")),
        }
    });
}

/// Puts files of [`FILE_BYTES`] until there is no room for more; how many MiB that is.
fn fill(connection: &mut Connection, directory: &str) -> u64 {
    let mut content = vec![0; usize::try_from(FILE_BYTES).unwrap()];
    fastrand::Rng::with_seed(1).fill(&mut content);
    let mut count = 0;
    cmd("FS.MKDIR").arg(directory).exec(connection).unwrap();
    loop {
        let path = format!("{directory}/{count}");
        match cmd("FS.PUT").arg(path).arg(&content).exec(connection) {
            Ok(()) => count += 1,
            Err(error) => {
                assert_eq!(error.code(), Some("ENOSPC"), "{error}");
                return count * FILE_BYTES / MIB;
            }
        }
    }
}

fn a_disk_grows_while_clients_write(target: Target) {
    let mut rng = seed::rng();
    let setup = Setup::new(target).with("DISK_SIZE", "32M");
    let mut workload = Workload::new(WRITERS, &mut rng);
    let mut machine = setup.boot();
    let mut watcher = machine.connect();
    let capacity = number(&mut watcher, "files", "fs_capacity_bytes");
    let (ends, steps) = workload.run(machine.port(), |progress| {
        progress.wait_for(500);
        for (size, steps) in [(48, 1000), (64, 1500)] {
            machine.resize_disk(1, size * MIB);
            wait_for_size(&mut watcher, size * MIB);
            progress.wait_for(steps);
        }
        machine.power_cut();
    });
    assert!(steps >= 1500);
    assert!(
        ends.iter().all(redis::RedisError::is_connection_dropped),
        "{ends:?}"
    );

    let machine = setup.boot();
    let mut connection = machine.connect();
    workload.check(&mut connection);
    wait_for_size(&mut connection, 64 * MIB);
    let grown = number(&mut connection, "files", "fs_capacity_bytes");
    assert!(grown > capacity * 2, "{capacity}, then {grown}");

    // Full, it takes more as soon as there is more, and says so of keys as well.
    let before = fill(&mut connection, "/before");
    let keys_before = number(&mut connection, "persistence", "disk_bytes_max");
    machine.resize_disk(1, 96 * MIB);
    wait_for_size(&mut connection, 96 * MIB);
    let keys = number(&mut connection, "persistence", "disk_bytes_max");
    assert!(keys > keys_before, "{keys_before}, then {keys}");
    let more = fill(&mut connection, "/more");
    assert!(more > 16, "{before} MiB, then {more}");
    machine.shutdown();

    // While it is off, somebody makes the file larger.
    let file = OpenOptions::new().write(true).open(setup.disk()).unwrap();
    file.set_len(128 * MIB).unwrap();
    drop(file);
    let machine = setup.boot();
    let mut connection = machine.connect();
    wait_for_size(&mut connection, 128 * MIB);
    workload.check(&mut connection);
    assert!(fill(&mut connection, "/last") > 16);
    machine.shutdown();
    check(&setup);
}

/// Nothing is wrong with the disk.
fn check(setup: &Setup) {
    let mut fsck = std::process::Command::new(tests::machine::host_tool());
    let output = fsck.args(["fsck", setup.disk()]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn a_mirror_grows_once_both_disks_have(target: Target) {
    let setup = Setup::new(target).with("DISK_SIZE", "32M");
    let second = setup.directory().join("second.img").display().to_string();
    let setup = setup.with("DISK2", &second);
    let machine = setup.boot();
    let mut connection = machine.connect();
    let whole = |machine: &Machine| {
        let mut connection = machine.connect();
        client::ask_until(LIMIT, || {
            let info: String = cmd("INFO").arg("mirror").query(&mut connection).unwrap();
            let whole = info.contains("mirror_state:whole");
            whole.then_some(()).ok_or(info)
        });
    };
    whole(&machine);
    let before = number(&mut connection, "files", "fs_size_bytes");
    machine.resize_disk(1, 80 * MIB);
    // Which of the two a machine counts first differs.
    client::ask_until(LIMIT, || {
        let sizes = ["mirror_disk1_bytes", "mirror_disk2_bytes"]
            .map(|name| number(&mut connection, "mirror", name));
        let larger = sizes.contains(&(80 * MIB));
        larger.then_some(()).ok_or(sizes)
    });
    connection.set::<_, _, ()>("key", "value").unwrap();
    assert_eq!(number(&mut connection, "files", "fs_size_bytes"), before);
    machine.resize_disk(2, 64 * MIB);
    wait_for_size(&mut connection, 64 * MIB);
    assert!(fill(&mut connection, "/files") > 20);
    machine.shutdown();

    // Either has all of it, and does not outgrow the other.
    for disk in [setup.disk().to_owned(), second] {
        let alone = Setup::new(target).with_disk(&disk);
        let machine = alone.boot();
        let mut connection = machine.connect();
        assert_eq!(connection.get("key"), Ok("value".to_owned()));
        wait_for_size(&mut connection, 64 * MIB);
        let size: u64 = cmd("FS.GET")
            .arg("/files/0")
            .query::<Vec<u8>>(&mut connection)
            .unwrap()
            .len() as u64;
        assert_eq!(size, FILE_BYTES);
        drop(connection);
        let mut machine = machine;
        machine.power_cut();
    }
}

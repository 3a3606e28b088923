//! More data than memory, up to a full disk: an error to those who want more, and the way back by deleting.

use redis::{Commands, Connection, RedisError, cmd};
use tests::client::info;
use tests::machine::{Setup, Target};

on!([riscv64 aarch64 hosted] { more_data_than_maxmemory, full_disk });
on!([riscv64 aarch64] { more_data_than_there_is_memory });

/// A limit set by the user bounds memory, not data.
fn more_data_than_maxmemory(target: Target) {
    const VALUES: usize = 16_000;
    const MAXMEMORY: u64 = 4 << 20;
    let setup = Setup::new(target);
    let mut machine = setup.boot();
    let mut connection = machine.connect();
    cmd("CONFIG")
        .arg(&["SET", "maxmemory", "4mb"])
        .exec(&mut connection)
        .unwrap();
    for index in 0..VALUES {
        let set = connection.set::<_, _, ()>(key(index), value(index, 1000));
        set.unwrap_or_else(|error| panic!("{index} values, then: {error}"));
        if index % 1000 == 0 {
            let used = info(&mut connection, "used_memory");
            assert!(used <= MAXMEMORY, "{used} bytes after {index} values");
        }
    }
    comes_back_by_deleting(&mut connection, VALUES, 1000);
    machine.power_cut();

    let machine = setup.boot();
    holds_what_is_left(&mut machine.connect(), VALUES, 1000);
    machine.shutdown();
}

/// The memory that the machine has by itself: it never dies of it, and the disk is what limits data.
fn more_data_than_there_is_memory(target: Target) {
    let setup = Setup::new(target)
        .with("MEM", "64M")
        .with("DISK_SIZE", "256M");
    let mut machine = setup.boot();
    let written = up_to_a_full_disk(&mut machine.connect());
    assert!(written > 15_000, "{written} values of {VALUE_BYTES} bytes");
    machine.power_cut();

    let machine = setup.boot();
    holds_what_is_left(&mut machine.connect(), written, VALUE_BYTES);
    machine.shutdown();
}

fn full_disk(target: Target) {
    let setup = Setup::new(target).with("DISK_SIZE", "16M");
    let mut machine = setup.boot();
    let written = up_to_a_full_disk(&mut machine.connect());
    machine.power_cut();

    let machine = setup.boot();
    holds_what_is_left(&mut machine.connect(), written, VALUE_BYTES);
    machine.shutdown();
}

const VALUE_BYTES: usize = 10_000;

/// Fills the disk, and makes room again; how many values were taken.
fn up_to_a_full_disk(connection: &mut Connection) -> usize {
    let (written, refusal) = fill(connection);
    assert!(
        !refusal.is_io_error() && refusal.code().is_some(),
        "{refusal}"
    );
    comes_back_by_deleting(connection, written, VALUE_BYTES);
    written
}

/// Sets `key:0`, `key:1`, … until refused; returns how many were taken, and the refusal.
fn fill(connection: &mut Connection) -> (usize, RedisError) {
    for index in 0..100_000 {
        let set = connection.set::<_, _, ()>(key(index), value(index, VALUE_BYTES));
        if let Err(refusal) = set {
            println!("{index} values of {VALUE_BYTES} bytes, then: {refusal}");
            return (index, refusal);
        }
    }
    panic!("no limit in sight");
}

/// Reads go on, deletes work, and there is room.
fn comes_back_by_deleting(connection: &mut Connection, written: usize, value_bytes: usize) {
    for index in [0, written / 2, written - 1] {
        let read: Vec<u8> = connection.get(key(index)).unwrap();
        assert!(read == value(index, value_bytes), "value {index}");
    }
    for index in 0..written / 2 {
        assert_eq!(connection.del(key(index)), Ok(1), "deleting {index}");
    }
    for index in 0..written / 4 {
        connection
            .set::<_, _, ()>(key(index), "small")
            .unwrap_or_else(|error| panic!("no room after deleting half: {error}"));
    }
}

fn holds_what_is_left(connection: &mut Connection, written: usize, value_bytes: usize) {
    let expected = written / 4 + (written - written / 2);
    assert_eq!(cmd("DBSIZE").query(connection), Ok(expected));
    assert_eq!(connection.get(key(0)), Ok("small".to_owned()));
    for index in [written / 2, written - 1] {
        let read: Vec<u8> = connection.get(key(index)).unwrap();
        assert!(read == value(index, value_bytes), "value {index}");
    }
}

/// Bytes that do not compress, other ones for each index.
fn value(index: usize, bytes: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(index as u64);
    let mut value = vec![0; bytes];
    random.fill(&mut value);
    value
}

fn key(index: usize) -> String {
    format!("key:{index}")
}

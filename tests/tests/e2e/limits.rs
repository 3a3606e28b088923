//! Full: of memory, of disk. An error to those who want more, and the way back by deleting.

use redis::{Commands, Connection, RedisError, cmd};
use tests::machine::{Setup, Target};

on!([riscv64 aarch64 hosted] { memory_limit, full_disk });
on!([riscv64 aarch64] { all_the_memory_there_is });

/// A limit set by the user.
fn memory_limit(target: Target) {
    let setup = Setup::new(target);
    let mut machine = setup.boot();
    let mut connection = machine.connect();
    cmd("CONFIG")
        .arg(&["SET", "maxmemory", "4mb"])
        .exec(&mut connection)
        .unwrap();
    let (written, refusal) = fill(&mut connection, 1_000);
    assert_eq!(refusal.code(), Some("OOM"), "{refusal}");
    assert!(
        (1_000..4_300).contains(&written),
        "{written} values of 1,000 bytes in 4 MB"
    );
    comes_back_by_deleting(&mut connection, written);
    machine.power_cut();

    let machine = setup.boot();
    holds_what_is_left(&mut machine.connect(), written);
    machine.shutdown();
}

/// The limit the machine has by itself: it never dies of it.
fn all_the_memory_there_is(target: Target) {
    let setup = Setup::new(target)
        .with("MEM", "64M")
        .with("DISK_SIZE", "256M");
    let mut machine = setup.boot();
    let mut connection = machine.connect();
    let (written, refusal) = fill(&mut connection, 10_000);
    assert_eq!(refusal.code(), Some("OOM"), "{refusal}");
    comes_back_by_deleting(&mut connection, written);
    machine.power_cut();

    let machine = setup.boot();
    holds_what_is_left(&mut machine.connect(), written);
    machine.shutdown();
}

fn full_disk(target: Target) {
    let setup = Setup::new(target).with("DISK_SIZE", "16M");
    let mut machine = setup.boot();
    let mut connection = machine.connect();
    let (written, refusal) = fill(&mut connection, 10_000);
    assert!(
        !refusal.is_io_error() && refusal.code().is_some(),
        "{refusal}"
    );
    comes_back_by_deleting(&mut connection, written);
    machine.power_cut();

    let machine = setup.boot();
    holds_what_is_left(&mut machine.connect(), written);
    machine.shutdown();
}

/// Sets `key:0`, `key:1`, … until refused; returns how many were taken, and the refusal.
fn fill(connection: &mut Connection, value_bytes: usize) -> (usize, RedisError) {
    let value = vec![b'v'; value_bytes];
    for index in 0..100_000 {
        if let Err(refusal) = connection.set::<_, _, ()>(key(index), &value) {
            println!("{index} values of {value_bytes} bytes, then: {refusal}");
            return (index, refusal);
        }
    }
    panic!("no limit in sight");
}

/// At the limit: reads go on, deletes work, and make room.
fn comes_back_by_deleting(connection: &mut Connection, written: usize) {
    let last: Vec<u8> = connection.get(key(written - 1)).unwrap();
    assert!(last.iter().all(|byte| *byte == b'v'));
    for index in 0..written / 2 {
        assert_eq!(connection.del(key(index)), Ok(1), "deleting {index}");
    }
    for index in 0..written / 4 {
        connection
            .set::<_, _, ()>(key(index), "small")
            .unwrap_or_else(|error| panic!("no room after deleting half: {error}"));
    }
}

fn holds_what_is_left(connection: &mut Connection, written: usize) {
    let expected = written / 4 + (written - written / 2);
    assert_eq!(cmd("DBSIZE").query(connection), Ok(expected));
    assert_eq!(connection.get(key(0)), Ok("small".to_owned()));
    let last: Vec<u8> = connection.get(key(written - 1)).unwrap();
    assert!(last.iter().all(|byte| *byte == b'v'));
}

fn key(index: usize) -> String {
    format!("key:{index}")
}

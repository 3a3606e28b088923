//! Far more data than memory, and how long a start takes with 1, 10 and 100 times the data: `make large-data`.
//!
//! Invariants: memory stays within the budget; after a power cut all that was acknowledged is there; what a start reads is bounded by the replay window.

use std::time::Instant;

use redis::{Commands, Connection, cmd, pipe};
use tests::client::info;
use tests::machine::{Setup, Target};
use tests::report::{Report, Table, figure};

const MEM: &str = "64M";
const VALUE_BYTES: usize = 1024;
const PIPELINE: usize = 256;
/// What a start may read: a log of 32 MiB, and as much again.
const START_MIB_MAX: f64 = 64.0;
/// Values that are read at random after each start, and written over in the end.
const SAMPLES: usize = 5000;

#[test]
fn a_small_machine_holds_a_large_disk_of_data() {
    let mib = std::env::var("LARGE_MIB").map_or(2048, |mib| mib.parse().expect("a number"));
    let target = match std::env::var("LARGE_ARCH").as_deref() {
        Err(_) | Ok("riscv64") => Target::riscv64,
        Ok("aarch64") => Target::aarch64,
        Ok(other) => panic!("LARGE_ARCH is {other}"),
    };
    let values = (mib << 20) / VALUE_BYTES;
    let setup = Setup::new(target)
        .with("MEM", MEM)
        .with("DISK_SIZE", &format!("{}M", 2 * mib));
    let title = format!("{}, MEM={MEM}: a start after a power cut", target.name());
    let mut table = Table::new(
        &title,
        &[
            "values",
            "data MiB",
            "reads",
            "read MiB",
            "commits replayed",
            "seconds",
        ],
    );
    let mut starts = Vec::new();
    let (mut machine, mut there) = (setup.boot(), 0);
    for part in [100, 10, 1] {
        fill(&mut machine.connect(), there, values / part);
        there = values / part;
        machine.power_cut();
        let begun = Instant::now();
        machine = setup.boot();
        let seconds = begun.elapsed().as_secs_f64();
        let counts = machine.block_counts();
        let mut connection = machine.connect();
        let replayed = info(&mut connection, "log_replayed_commits");
        let kib = u32::try_from(counts.bytes_read >> 10).expect("less than 4 TiB");
        let read_mib = f64::from(kib) / 1024.0;
        table.row([
            there.to_string(),
            ((there * VALUE_BYTES) >> 20).to_string(),
            counts.reads.to_string(),
            figure(read_mib),
            replayed.to_string(),
            figure(seconds),
        ]);
        println!(
            "{there} values: {} reads, {read_mib:.1} MiB, {replayed} commits",
            counts.reads
        );
        starts.push(read_mib);
        holds(&mut connection, there);
    }
    Report::default().show(&table);
    for read_mib in starts {
        assert!(read_mib < START_MIB_MAX, "a start read {read_mib} MiB");
    }
    overwrite(&mut machine.connect(), values);
    machine.shutdown();
}

/// Sets values `from..to`.
fn fill(connection: &mut Connection, from: usize, to: usize) {
    for first in (from..to).step_by(PIPELINE) {
        let mut sets = pipe();
        for index in first..(first + PIPELINE).min(to) {
            sets.set(key(index), value(index, 0)).ignore();
        }
        let set = sets.query::<()>(connection);
        set.unwrap_or_else(|error| panic!("from value {first} on: {error}"));
        if first % (PIPELINE << 7) == 0 {
            is_within_budget(connection, first);
        }
    }
}

fn is_within_budget(connection: &mut Connection, values: usize) {
    let (used, most) = (
        info(connection, "used_memory"),
        info(connection, "maxmemory"),
    );
    assert!(used <= most, "{used} of {most} bytes with {values} values");
}

/// All are there, and some of them are what they should be.
fn holds(connection: &mut Connection, values: usize) {
    counts(connection, values);
    for index in samples(values) {
        let read: Vec<u8> = connection.get(key(index)).expect("a value");
        assert!(read == value(index, 0), "value {index}");
    }
    is_within_budget(connection, values);
}

/// Counted one by one it is the right number; that of `DBSIZE` may be a little off where it had to be assumed whether a key was there.
fn counts(connection: &mut Connection, values: usize) {
    let parts = (0..10).map(|digit| (format!("key:{digit}"), format!("key:{digit}:")));
    let counted = parts.map(|(start, end)| {
        let counted = cmd("COUNTRANGE")
            .arg(start)
            .arg(end)
            .query::<usize>(connection);
        counted.expect("a number")
    });
    assert_eq!(counted.sum::<usize>(), values);
    let known = cmd("DBSIZE").query::<usize>(connection).expect("a number");
    assert!(known.abs_diff(values) <= values / 100, "{known} keys");
}

/// Some values are written over, one by one.
fn overwrite(connection: &mut Connection, values: usize) {
    let samples: Vec<_> = samples(values).collect();
    for &index in &samples {
        let set = connection.set::<_, _, ()>(key(index), value(index, 1));
        set.unwrap_or_else(|error| panic!("value {index}: {error}"));
    }
    is_within_budget(connection, values);
    for index in samples {
        let read: Vec<u8> = connection.get(key(index)).expect("a value");
        assert!(read == value(index, 1), "value {index}");
    }
    counts(connection, values);
}

fn samples(values: usize) -> impl Iterator<Item = usize> {
    let mut random = fastrand::Rng::with_seed(values as u64);
    (0..SAMPLES).map(move |_| random.usize(..values))
}

/// Bytes that do not compress, other ones for each index and version.
fn value(index: usize, version: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(index as u64 ^ (version << 40));
    let mut value = vec![0; VALUE_BYTES];
    random.fill(&mut value);
    value
}

fn key(index: usize) -> String {
    format!("key:{index}")
}

//! What durability costs, counted where it cannot be disputed: at the machine's disk.

use std::time::Duration;

use redis::Commands;
use tests::machine::{Machine, Setup, Target};
use tests::measure::Load;
use tests::qmp::BlockCounts;

on!([riscv64 aarch64] { sequential_sets, fifty_clients_with_pipelines, rest });

const SETS: u64 = 200;

/// One client, one SET after the other: each waits for exactly one flush of one block.
fn sequential_sets(target: Target) {
    let machine = Setup::new(target).boot();
    let mut connection = machine.connect();
    let value = [b'v'; 100];
    for index in 0..20 {
        connection
            .set::<_, _, ()>(format!("warm:{index}"), &value[..])
            .unwrap();
    }
    let before = settled_counts(&machine);
    for index in 0..SETS {
        connection
            .set::<_, _, ()>(format!("key:{index}"), &value[..])
            .unwrap();
    }
    let spent = machine.block_counts() - before;
    assert_eq!(spent.flushes, SETS, "flushes: {spent:?}");
    let bytes_per_set = spent.bytes_written as f64 / SETS as f64;
    assert!(
        bytes_per_set <= 4.2 * 1024.0,
        "{bytes_per_set} bytes per SET"
    );
    machine.shutdown();
}

/// Fifty clients, sixteen requests deep: their SETs share flushes and blocks, checkpoints included.
fn fifty_clients_with_pipelines(target: Target) {
    let machine = Setup::new(target).boot();
    let load = Load {
        test: "set",
        clients: 50,
        pipeline: 16,
    };
    load.run(machine.port(), 10_000);
    let requests = 100_000;
    let before = settled_counts(&machine);
    load.run(machine.port(), requests);
    let spent = machine.block_counts() - before;
    let flushes_per_set = spent.flushes as f64 / requests as f64;
    let bytes_per_set = spent.bytes_written as f64 / requests as f64;
    println!("{flushes_per_set} flushes and {bytes_per_set} bytes per SET");
    assert!(flushes_per_set <= 0.05, "{flushes_per_set} flushes per SET");
    assert!(bytes_per_set <= 300.0, "{bytes_per_set} bytes per SET");
    machine.shutdown();
}

/// A machine nobody talks to leaves its disk alone.
fn rest(target: Target) {
    let machine = Setup::new(target).boot();
    settled_counts(&machine);
    machine.shutdown();
}

/// The counts once the disk has been left alone for a while.
fn settled_counts(machine: &Machine) -> BlockCounts {
    let mut counts = machine.block_counts();
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(300));
        let later = machine.block_counts();
        if later == counts {
            return counts;
        }
        counts = later;
    }
    panic!("the disk is never left alone: {counts:?}");
}

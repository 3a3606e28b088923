//! The plug is pulled, at seeded moments, while clients write; every promise is checked after every reboot.
//!
//! Invariant checked, for every writer: the state of its acknowledged steps, plus a prefix of its steps
//! in flight (see [`tests::ledger`]). A MULTI/EXEC is one step.

use std::thread::sleep;
use std::time::{Duration, Instant};

use fastrand::Rng;
use tests::machine::{Machine, Setup, Target};
use tests::seed;
use tests::workload::{Progress, Workload};

on!([riscv64 aarch64 hosted] { killed_under_load });
on!([riscv64 aarch64] { killed_on_a_disk_that_forgets, stopped_between_two_disk_requests });

const WRITERS: usize = 4;
const CUTS: usize = 12;
const STALL_LIMIT: Duration = Duration::from_mins(1);

/// SIGKILL: the machine's memory is gone, the host's page cache stays.
fn killed_under_load(target: Target) {
    let mut rng = seed::rng();
    campaign(&Setup::new(target), &mut rng, |machine, progress, rng| {
        wait_for_load(progress, rng);
        machine.power_cut();
    });
}

/// SIGKILL, and of what was not flushed the disk keeps what it likes.
fn killed_on_a_disk_that_forgets(target: Target) {
    let mut rng = seed::rng();
    let (setup, disk) = Setup::with_network_disk(target);
    campaign(&setup, &mut rng, |machine, progress, rng| {
        wait_for_load(progress, rng);
        machine.power_cut();
        disk.power_cut(rng);
    });
}

/// The power goes between two requests to the disk, wherever in a commit, a checkpoint or a recovery that is.
fn stopped_between_two_disk_requests(target: Target) {
    let mut rng = seed::rng();
    let (setup, disk) = Setup::with_network_disk(target);
    campaign(&setup, &mut rng, |machine, progress, rng| {
        progress.wait_for(1);
        disk.stall_after(rng.u64(..400));
        assert!(disk.wait_stalled(STALL_LIMIT), "the disk is not used");
        machine.power_cut();
        disk.power_cut(rng);
        if rng.bool() {
            // Recovery makes few requests: cut it early, unless it is over before.
            disk.stall_after(rng.u64(..20));
            let mut recovering = setup.launch();
            let over = Instant::now() + STALL_LIMIT;
            while !disk.wait_stalled(Duration::from_millis(100)) && !recovering.is_ready() {
                assert!(Instant::now() < over, "it neither recovers nor stalls");
            }
            recovering.power_cut();
            disk.power_cut(rng);
        }
    });
}

/// Boots, checks, writes and cuts, again and again. `cut` has the machine dead when it returns.
fn campaign(setup: &Setup, rng: &mut Rng, mut cut: impl FnMut(&mut Machine, &Progress, &mut Rng)) {
    let mut workload = Workload::new(WRITERS, rng);
    for _ in 0..CUTS {
        let mut machine = setup.boot();
        workload.check(&mut machine.connect());
        let port = machine.port();
        let (ends, steps) = workload.run(port, |progress| cut(&mut machine, progress, rng));
        println!("{steps} steps acknowledged before the cut");
        for end in ends {
            assert!(
                end.is_io_error() || end.is_connection_dropped(),
                "a refusal: {end}"
            );
        }
    }
    let machine = setup.boot();
    workload.check(&mut machine.connect());
    machine.shutdown();
}

fn wait_for_load(progress: &Progress, rng: &mut Rng) {
    progress.wait_for(rng.u64(1..2_000));
    // Not always just after an acknowledgement.
    sleep(Duration::from_micros(rng.u64(..3_000)));
}

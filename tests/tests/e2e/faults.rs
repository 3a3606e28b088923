//! A disk that fails: errors to those who write, service to those who read, nothing acknowledged lost.

use redis::Commands;
use tests::machine::{READY, Setup, Target};
use tests::nbd::Faults;
use tests::seed;
use tests::workload::Workload;

on!([riscv64 aarch64] { writes_fail, flushes_fail, everything_fails, reads_fail_at_boot });

const WRITERS: usize = 4;

fn writes_fail(target: Target) {
    fails_under_load(
        target,
        Faults {
            writes: true,
            ..Faults::default()
        },
    );
}

fn flushes_fail(target: Target) {
    fails_under_load(
        target,
        Faults {
            flushes: true,
            ..Faults::default()
        },
    );
}

fn everything_fails(target: Target) {
    fails_under_load(
        target,
        Faults {
            reads: true,
            writes: true,
            flushes: true,
            after: 0,
        },
    );
}

fn fails_under_load(target: Target, faults: Faults) {
    let mut rng = seed::rng();
    let (setup, disk) = Setup::with_network_disk(target);
    let mut machine = setup.boot();
    machine.connect().set::<_, _, ()>("before", "fine").unwrap();

    let mut workload = Workload::new(WRITERS, &mut rng);
    let after = rng.u64(..100);
    let (ends, _) = workload.run(machine.port(), |progress| {
        progress.wait_for(50);
        disk.set_faults(Faults { after, ..faults });
    });
    for end in ends {
        let refusal = end.to_string();
        assert!(refusal.contains("MISCONF"), "{refusal}");
    }

    // What was durable is there for those who read; nobody can write.
    let mut connection = machine.connect();
    assert_eq!(
        redis::cmd("PING").query(&mut connection),
        Ok("PONG".to_owned())
    );
    assert_eq!(connection.get("before"), Ok("fine".to_owned()));
    let refused = connection.set::<_, _, ()>("after", "no").unwrap_err();
    assert_eq!(refused.code(), Some("MISCONF"), "{refused}");

    machine.power_cut();
    disk.set_faults(Faults::default());
    disk.power_cut(&mut rng);
    let machine = setup.boot();
    let mut connection = machine.connect();
    assert_eq!(connection.del("before"), Ok(1));
    workload.check(&mut connection);
    connection.set::<_, _, ()>("again", "fine").unwrap();
    machine.shutdown();
}

fn reads_fail_at_boot(target: Target) {
    let (setup, disk) = Setup::with_network_disk(target);
    let machine = setup.boot();
    machine.connect().set::<_, _, ()>("kept", "yes").unwrap();
    machine.shutdown();

    disk.set_faults(Faults {
        reads: true,
        ..Faults::default()
    });
    let console = setup.boot_refused();
    assert!(!console.contains(READY), "{console}");

    disk.set_faults(Faults::default());
    let machine = setup.boot();
    assert_eq!(machine.connect().get("kept"), Ok("yes".to_owned()));
    machine.shutdown();
}

//! Boot and the end: what a machine starts on, what it refuses, and how it stops.

use std::fs;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use tests::client;
use tests::machine::{Machine, READY, Setup, Target, make};
use tests::process::Process;
use tests::root;

const END_LIMIT: Duration = Duration::from_secs(30);

on!([riscv64 aarch64 hosted] {
    formats_a_blank_disk_and_keeps_it,
    ends_well_on_an_interrupt_to_its_group,
    refuses_a_disk_it_does_not_know,
    refuses_a_disk_in_use,
});
on!([riscv64] { takes_a_disk_it_does_not_know_when_told });
on!([riscv64 aarch64] {
    ends_well_on_control_c,
    ends_well_on_an_interrupt_to_the_launcher,
    refuses_to_start_without_entropy,
    boots_in_little_and_in_much_memory,
});

fn formats_a_blank_disk_and_keeps_it(target: Target) {
    let setup = Setup::new(target);
    let machine = setup.boot();
    keep_something(&machine);
    machine.shutdown();
    ended_in_order(&setup);
}

/// Ctrl-C as a script passes it on: the whole job gets the signal.
fn ends_well_on_an_interrupt_to_its_group(target: Target) {
    let setup = Setup::new(target);
    let mut machine = setup.boot_as_job();
    keep_something(&machine);
    machine.process().signal_group(Signal::INT);
    machine.expect_clean_end();
    ended_in_order(&setup);
}

/// Ctrl-C at a terminal.
fn ends_well_on_control_c(target: Target) {
    let setup = Setup::new(target);
    let mut machine = setup.boot_in_terminal();
    keep_something(&machine);
    machine.process().type_in(b"\x03");
    machine.expect_clean_end();
    ended_in_order(&setup);
}

/// A supervisor that signals only what `make run` started.
fn ends_well_on_an_interrupt_to_the_launcher(target: Target) {
    let setup = Setup::new(target);
    let mut machine = setup.boot();
    keep_something(&machine);
    let launcher = machine
        .process()
        .find("qemu/run")
        .expect("`make run` starts qemu/run");
    kill_process(launcher, Signal::INT).unwrap();
    machine.expect_clean_end();
    ended_in_order(&setup);
}

/// After an orderly end everything is there, and nothing has to be replayed.
fn ended_in_order(setup: &Setup) {
    let machine = setup.boot();
    let mut connection = machine.connect();
    assert_eq!(
        redis::cmd("GET").arg("kept").query(&mut connection),
        Ok("yes".to_owned())
    );
    assert_eq!(client::info(&mut connection, "log_replayed_commits"), 0);
    machine.shutdown();
}

fn keep_something(machine: &Machine) {
    redis::cmd("SET")
        .arg("kept")
        .arg("yes")
        .exec(&mut machine.connect())
        .unwrap();
}

fn refuses_a_disk_it_does_not_know(target: Target) {
    let setup = Setup::new(target);
    let foreign = foreign_disk();
    fs::write(setup.disk(), &foreign).unwrap();

    let console = setup.boot_refused();
    assert!(!console.contains(READY), "{console}");
    assert!(
        console.to_lowercase().contains("disk"),
        "it says what is wrong:\n{console}"
    );
    assert!(
        fs::read(setup.disk()).unwrap() == foreign,
        "not a byte may change"
    );
}

fn takes_a_disk_it_does_not_know_when_told(target: Target) {
    let setup = Setup::new(target);
    fs::write(setup.disk(), foreign_disk()).unwrap();
    let mut mkfs = make();
    mkfs.arg("mkfs")
        .arg(format!("DISK={}", setup.disk()))
        .arg("DISK_SIZE=64M");
    Process::run(mkfs, END_LIMIT);
    setup.boot().shutdown();
}

/// Something with an ext4 superblock's magic.
fn foreign_disk() -> Vec<u8> {
    let mut disk = vec![0; 16 << 20];
    disk[..64].fill(0xa5);
    disk[1080..1082].copy_from_slice(&[0x53, 0xef]);
    disk
}

fn refuses_a_disk_in_use(target: Target) {
    let setup = Setup::new(target);
    let machine = setup.boot();
    let second = Setup::new(target).with_disk(setup.disk());
    let console = second.boot_refused();
    assert!(!console.contains(READY), "{console}");
    machine.shutdown();
}

/// Randomness comes from the virtio device alone.
fn refuses_to_start_without_entropy(target: Target) {
    let setup = Setup::new(target);
    let machine = setup.boot();
    let words = machine.qemu_command();
    machine.shutdown();

    let is_rng = |index: usize| {
        words
            .get(index)
            .is_some_and(|word| word.to_string_lossy().starts_with("virtio-rng"))
    };
    // Neither the device nor the `-device` before it.
    let kept = |index: &usize| !is_rng(*index) && !is_rng(index + 1);
    let mut command = Command::new(&words[0]);
    command
        .current_dir(root())
        .args((1..words.len()).filter(kept).map(|index| &words[index]));
    assert_eq!(
        command.get_args().count() + 3,
        words.len(),
        "one device fewer: {words:?}"
    );

    let mut process = Process::spawn(command);
    let status = process.wait_exit(Duration::from_mins(1));
    let console = process.console_at_end(Duration::from_secs(10));
    assert!(
        !status.success() && !console.contains(READY),
        "{status}\n{console}"
    );
    assert!(
        console.contains("virtio-rng"),
        "it says what is missing:\n{console}"
    );
}

fn boots_in_little_and_in_much_memory(target: Target) {
    for memory in ["64M", "1G"] {
        let setup = Setup::new(target).with("MEM", memory);
        let machine = setup.boot();
        redis::cmd("SET")
            .arg("key")
            .arg("value")
            .exec(&mut machine.connect())
            .unwrap();
        machine.shutdown();
    }
}

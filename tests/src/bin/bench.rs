//! `make bench` and `make bench-peer`: the figures that matter, as a table and as lines of JSON.
//!
//! Each figure is one line `{"name", "arch", "value", "unit"}` in `target/bench.jsonl`; names are stable.
//! With `--peer` (and `target/bench-peer.jsonl`) the same load runs by turns on Siltstone and on Linux
//! with Redis in the same emulated machine, because absolute figures shift with the host: only ratios
//! within one run mean something.
#![allow(clippy::cast_precision_loss, reason = "figures")]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use tests::client;
use tests::machine::{READY, Setup, Target, free_port};
use tests::measure::{Load, LoadResult, processor_percent, resident_bytes};
use tests::process::Process;
use tests::{figures, qmp, replay};

const LOAD_DURATION: Duration = Duration::from_secs(4);
const IDLE_DURATION: Duration = Duration::from_secs(5);
const BOOTS: usize = 5;
/// Turns that Siltstone and its peer take.
const PEER_TURNS: usize = 3;
/// Download, build and first boot of the peer.
const PEER_LIMIT: Duration = Duration::from_mins(15);

fn main() {
    let mut figures = Figures::default();
    match std::env::args().nth(1).as_deref() {
        None => {
            measure_mount(&mut figures);
            for target in Target::MACHINES {
                measure_machine(target, &mut figures);
            }
            figures.save("bench.jsonl");
        }
        Some("--peer") => {
            compare_with_peer(&mut figures);
            figures.save("bench-peer.jsonl");
        }
        Some(other) => panic!("unknown argument {other}: there is only --peer"),
    }
}

fn measure_mount(figures: &mut Figures) {
    let opened = replay::open_with_a_full_log();
    let ms = opened.duration.as_secs_f64() * 1e3;
    figures.add("mount_full_log", "host", ms, "ms");
    figures.add(
        "mount_full_log_commits",
        "host",
        opened.commits as f64,
        "commits",
    );
    figures.add(
        "mount_full_log_bytes",
        "host",
        opened.log_bytes as f64,
        "bytes",
    );
}

fn measure_machine(target: Target, figures: &mut Figures) {
    let setup = Setup::new(target).with("DISK_SIZE", "256M");
    let arch = target.name();
    // The first boot formats the disk; a user's other boots do not.
    setup.boot().shutdown();
    figures.add("boot_to_ready", arch, boot_ms(&setup), "ms");

    let machine = setup.boot();

    std::thread::sleep(Duration::from_secs(1));
    figures.add(
        "idle_cpu",
        arch,
        processor_percent(machine.pid(), IDLE_DURATION),
        "percent",
    );
    figures.add(
        "used_memory_at_rest",
        arch,
        client::info(&mut machine.connect(), "used_memory") as f64,
        "bytes",
    );
    figures.add(
        "qemu_resident_at_rest",
        arch,
        resident_bytes(machine.pid()) as f64,
        "bytes",
    );
    for load in Load::ALL {
        let result = load.measure(machine.port(), LOAD_DURATION, || machine.block_counts());
        figures.add_load(load, arch, &result);
    }
    let qemu = machine.qemu_command();
    let kernel = qemu
        .iter()
        .skip_while(|word| *word != "-kernel")
        .nth(1)
        .expect("-kernel");
    let bytes = fs::metadata(tests::root().join(kernel))
        .expect("the image")
        .len();
    figures.add("image_size", arch, bytes as f64, "bytes");
    machine.shutdown();

    figures.add("boot_to_ready_100k_keys", arch, boot_ms(&setup), "ms");
}

fn compare_with_peer(figures: &mut Figures) {
    let setup = Setup::new(Target::aarch64)
        .with("DISK_SIZE", "512M")
        .with("MEM", "256M");
    let port = free_port();
    let monitor = setup.directory().join("peer.sock");
    let mut command = Command::new(tests::root().join("scripts/peer-guest"));
    command.arg("--work").arg(tests::root().join("target/peer"));
    command
        .arg("--port")
        .arg(port.to_string())
        .arg("--qmp")
        .arg(&monitor);
    let peer = Process::spawn(command);
    println!("{}", peer.wait_for_line("peer ready", PEER_LIMIT));
    let ours = setup.boot();

    for load in Load::ALL {
        let (mut our_results, mut peer_results) = (Vec::new(), Vec::new());
        for _ in 0..PEER_TURNS {
            our_results.push(load.measure(ours.port(), LOAD_DURATION, || ours.block_counts()));
            peer_results.push(load.measure(port, LOAD_DURATION, || qmp::block_counts(&monitor)));
        }
        let mut rates = Vec::new();
        for (arch, results) in [("aarch64", our_results), ("peer-aarch64", peer_results)] {
            let result = median_by_rate(results);
            rates.push(result.row.requests_per_second);
            figures.add_load(load, arch, &result);
        }
        let ratio = rates
            .iter()
            .copied()
            .reduce(|ours, peer| ours / peer)
            .expect("two sides");
        figures.add(
            &format!("{}_ratio_to_peer", load.name()),
            "aarch64",
            ratio,
            "times",
        );
    }
    ours.shutdown();
}

/// From the start of QEMU, without `make`, to the ready line; the median of several boots.
fn boot_ms(setup: &Setup) -> f64 {
    let machine = setup.boot();
    let command = machine.qemu_command();
    machine.shutdown();
    let mut times: Vec<_> = (0..BOOTS).map(|_| time_to_ready(&command)).collect();
    times.sort_unstable();
    times.swap_remove(BOOTS / 2).as_secs_f64() * 1e3
}

fn time_to_ready(command: &[OsString]) -> Duration {
    let [program, arguments @ ..] = command else {
        panic!("an empty command line")
    };
    let mut command = Command::new(program);
    command.current_dir(tests::root()).args(arguments);
    let start = Instant::now();
    let machine = Process::spawn(command);
    machine.wait_for_line(READY, Duration::from_mins(1));
    start.elapsed()
}

fn median_by_rate(mut results: Vec<LoadResult>) -> LoadResult {
    results.sort_by(|a, b| {
        a.row
            .requests_per_second
            .total_cmp(&b.row.requests_per_second)
    });
    results.swap_remove(results.len() / 2)
}

/// Figures by name, and the value on each architecture.
#[derive(Default)]
struct Figures {
    names: Vec<(String, &'static str)>,
    values: BTreeMap<(String, &'static str), f64>,
    archs: Vec<&'static str>,
}

impl Figures {
    fn add(&mut self, name: &str, arch: &'static str, value: f64, unit: &'static str) {
        println!("{arch:>14} {name:<28} {value:>14.4} {unit}");
        if !self.names.iter().any(|(known, _)| known == name) {
            self.names.push((name.to_owned(), unit));
        }
        if !self.archs.contains(&arch) {
            self.archs.push(arch);
        }
        self.values.insert((name.to_owned(), arch), value);
    }

    fn add_load(&mut self, load: Load, arch: &'static str, result: &LoadResult) {
        let mut add = |quantity: &str, value: f64, unit: &'static str| {
            self.add(&format!("{}_{quantity}", load.name()), arch, value, unit);
        };
        add("rate", result.row.requests_per_second, "requests/s");
        add("p50", result.row.p50_ms, "ms");
        add("p99", result.row.p99_ms, "ms");
        if load.test == "set" {
            add("flushes", result.flushes_per_request(), "flushes/request");
            add("device_bytes", result.bytes_per_request(), "bytes/request");
        }
    }

    fn save(&self, file: &str) {
        let mut table = format!("\n{:<28}", "");
        for arch in &self.archs {
            let _ = write!(table, " {arch:>14}");
        }
        let mut lines = figures::Figures::default();
        for (name, unit) in &self.names {
            let _ = write!(table, "\n{name:<28}");
            for arch in &self.archs {
                let Some(value) = self.values.get(&(name.clone(), *arch)) else {
                    let _ = write!(table, " {:>14}", "");
                    continue;
                };
                let digits = if value.abs() < 10.0 { 4 } else { 1 };
                let _ = write!(table, " {value:>14.digits$}");
                lines.add(name, arch, *value, unit);
            }
            let _ = write!(table, " {unit}");
        }
        println!("{table}");
        println!("\nas lines of JSON: {}", lines.save(file).display());
    }
}

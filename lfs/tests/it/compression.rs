//! Compression: what is set, and what the cleaner makes of cold data.
//!
//! Invariants: whatever the setting is, was, and becomes, every state reads as the model has it, across power cuts and
//! with a key; the setting is that of the last commit that is there; what is made smaller is accounted for as such.

use crate::common;

use std::rc::Rc;

use crate::common::full::{at, check, create};
use crate::common::operation::Operation;
use crate::common::world::{Machine, Worker};
use crate::common::{ID, key, seed};
use lfs::sim::{Executor, Random, SimDisk};
use lfs::{CheckOptions, Compression, FileError, FileKind, FormatOptions, Suite};

/// Segments in which an extent has two units, so that pieces can be cut out of it.
const FORMAT: FormatOptions = FormatOptions {
    segment_bytes: 128 << 10,
    log_segments: 16,
    created_ns: 0,
};
const SEGMENTS: usize = 64;
const FILES: u64 = 60;
const FILE_BYTES: usize = 80_000;

fn machine(setting: Compression, seed: u64) -> Machine {
    let disk = SimDisk::new(SEGMENTS * 32, seed);
    let target = disk.clone();
    Executor::new(seed).run(async move { key::format(&target, FORMAT, ID).await.unwrap() });
    let mut machine = Machine::new(disk.snapshot(seed), seed);
    set(&mut machine, setting);
    machine
}

fn set(machine: &mut Machine, setting: Compression) {
    let filesystem = Rc::clone(&machine.filesystem);
    machine.run(async move { filesystem.set_compression(setting).await.unwrap() });
    assert_eq!(machine.filesystem.compression(), setting);
}

/// Words, which LZ4 makes smaller, and deflate still more.
fn text(random: &mut Random, len: usize) -> Vec<u8> {
    let words = [
        "segment ",
        "log ",
        "commit ",
        "checkpoint ",
        "cleaner ",
        "of ",
        "the ",
        "\n",
    ];
    let mut text = String::new();
    while text.len() < len {
        text.push_str(words[random.index(words.len())]);
        text.push_str(&(random.next_u64() % 1000).to_string());
    }
    text.truncate(len);
    text.into_bytes()
}

/// Digits, of which LZ4 makes nothing and deflate a little more than half.
fn digits(random: &mut Random, len: usize) -> Vec<u8> {
    let words = (0..len.div_ceil(16)).map(|_| format!("{:016x}", random.next_u64()));
    let mut text = words.collect::<String>();
    text.truncate(len);
    text.into_bytes()
}

fn file(number: u64) -> String {
    format!("/file{number}")
}

fn write(random: &mut Random, number: u64, offset: u64, len: usize) -> Operation {
    let bytes = match number % 3 {
        0 => digits(random, len),
        _ => text(random, len),
    };
    Operation::Write {
        target: at(&file(number)),
        offset,
        bytes,
    }
}

async fn fill(worker: &Worker, files: u64) {
    let mut random = Random::new(1);
    for number in 0..files {
        worker
            .transact(&[create(&file(number), FileKind::File)])
            .await
            .unwrap();
        for offset in (0..FILE_BYTES).step_by(40_000) {
            let write = write(&mut random, number, offset as u64, 40_000);
            if let Err(error) = worker.transact(&[write]).await {
                assert_eq!(error, FileError::NoSpace);
                return;
            }
        }
    }
}

/// Overwrites parts of few files again and again, and now and then a part of any.
async fn churn(worker: &Worker, random: &mut Random, rounds: u64) {
    for round in 0..rounds {
        let number = if random.one_in(20) {
            random.below(FILES)
        } else {
            random.below(6)
        };
        let len = 1 + random.index(20_000);
        let offset = random.below((FILE_BYTES - len) as u64);
        let write = write(random, number, offset, len);
        if let Err(error) = worker.transact(&[write]).await {
            assert!(matches!(error, FileError::NoSpace | FileError::NotFound));
        }
        if round % 50 == 0 {
            worker.wait_durable(worker.filesystem.appended()).await;
        }
    }
}

fn saved(machine: &Machine) -> u64 {
    machine.filesystem.counters().bytes_saved_cold
}

fn run(machine: &mut Machine, seed: u64, rounds: u64) {
    let worker = machine.worker();
    machine.run(async move { churn(&worker, &mut Random::new(seed), rounds).await });
}

fn filled(setting: Compression, seed: u64) -> Machine {
    let mut machine = machine(setting, seed);
    let worker = machine.worker();
    machine.run(async move { fill(&worker, FILES).await });
    machine
}

fn cold_data_become_smaller(seed: u64) {
    let mut machine = filled(Compression::Cold, seed);
    let mut boots = 0;
    let mut saved_before = 0;
    while boots < 3 {
        run(&mut machine, seed + boots, 1500);
        if boots == 1 {
            let worker = machine.worker();
            machine.run(async move { worker.create_snapshot_named("kept".to_owned()).await });
        }
        machine.compare(&format!("seed {seed}, {boots} boots, while running"));
        saved_before += saved(&machine);
        machine = if boots % 2 == 0 {
            machine.lose_power(seed + boots)
        } else {
            machine.reboot(seed + boots)
        };
        assert_eq!(machine.filesystem.compression(), Compression::Cold);
        machine.compare(&format!("seed {seed}, {boots} boots"));
        boots += 1;
    }
    println!("{saved_before} bytes saved");
    assert!(saved_before > 100_000, "{saved_before} bytes saved");
    check(&mut machine, "compressed");
    verify_data(&machine);
}

/// Every extent is what it should be, also those that only a snapshot shows.
fn verify_data(machine: &Machine) {
    let disk = machine.disk.clone();
    let summary = Executor::new(0).run(async move {
        let options = CheckOptions {
            key: key::key(),
            data: true,
            ..CheckOptions::default()
        };
        lfs::check(&disk, options, &mut |_| ()).await
    });
    assert!(summary.is_clean(), "{summary:?}");
}

#[test]
fn the_little_that_is_left_of_a_compressed_extent_keeps_its_segment() {
    let seed = seed(9);
    let mut machine = machine(Compression::Lz4, seed);
    let worker = machine.worker();
    machine.run(async move {
        for number in 0..8 {
            let name = format!("/left{number}");
            let bytes = vec![7; 65_536];
            let write = Operation::Write {
                target: at(&name),
                offset: 0,
                bytes,
            };
            let truncate = Operation::Truncate {
                target: at(&name),
                size: 11,
            };
            worker
                .transact(&[create(&name, FileKind::File)])
                .await
                .unwrap();
            worker.transact(&[write]).await.unwrap();
            worker.transact(&[truncate]).await.unwrap();
        }
        fill(&worker, 10).await;
        churn(&worker, &mut Random::new(seed), 1500).await;
    });
    machine.compare("when all around it was overwritten");
    let mut machine = machine.reboot(seed);
    machine.compare("after a reboot");
    check(&mut machine, "cut");
    verify_data(&machine);
}

#[test]
fn cold_data_become_smaller_and_read_the_same_across_boots() {
    cold_data_become_smaller(seed(3));
}

#[test]
fn cold_data_become_smaller_under_a_key() {
    key::choose(Some(Suite::XChaCha20Poly1305));
    cold_data_become_smaller(seed(4));
}

#[test]
fn cold_data_stay_as_they_are_unless_set() {
    let mut machine = filled(Compression::Lz4, seed(5));
    run(&mut machine, 5, 3000);
    assert!(machine.filesystem.counters().segments_cleaned > 100);
    assert_eq!(saved(&machine), 0);
}

/// While power is lost at every moment around a change of the setting, it is the old one or the new one, and after it is
/// acknowledged the new one.
#[test]
fn the_setting_survives_a_power_cut_once_acknowledged() {
    let mut machine = machine(Compression::Off, 6);
    let before = machine.disk.event_count();
    set(&mut machine, Compression::Cold);
    let acknowledged = machine.disk.event_count();
    assert!(acknowledged > before);
    for events in before..=acknowledged {
        for all in [false, true] {
            let disk = machine.disk.crash_at(events).disk(|_| all, 1);
            let mounted = common::mount(&mut Executor::new(1), &disk).unwrap();
            let found = mounted.filesystem.compression();
            if events == acknowledged {
                assert_eq!(found, Compression::Cold);
            }
            assert!([Compression::Off, Compression::Cold].contains(&found));
        }
    }
}

/// The commit groups on a disk: how many have compressed records (SPEC.md, "Groups"), and how many there are.
fn groups(machine: &Machine) -> (usize, usize) {
    let bytes = machine.disk.to_bytes();
    let groups = bytes
        .chunks(4096)
        .filter(|block| block.starts_with(b"SiGr"));
    let compressed = groups.clone().filter(|group| group[60] & 4 != 0);
    (compressed.count(), groups.count())
}

#[test]
fn nothing_is_compressed_where_that_is_off() {
    for setting in Compression::ALL {
        let mut machine = machine(setting, 7);
        let worker = machine.worker();
        machine.run(async move {
            fill(&worker, FILES / 2).await;
            worker.wait_durable(worker.filesystem.appended()).await;
        });
        let used = machine.filesystem.usage().live_bytes;
        let (compressed, all) = groups(&machine);
        assert!(all > 10);
        assert_eq!(compressed == 0, setting == Compression::Off);
        // Two thirds of the files are words.
        let content = FILES / 2 * FILE_BYTES as u64;
        assert_eq!(used > content, setting == Compression::Off, "{used} bytes");
        machine.compare("filled");
        // What is there stays readable whatever is set.
        for other in Compression::ALL {
            set(&mut machine, other);
            machine = machine.reboot(7);
            assert_eq!(machine.filesystem.compression(), other);
            machine.compare("set otherwise");
        }
    }
}

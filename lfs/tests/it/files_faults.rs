//! Files on a device that fails, forgets, or writes to the wrong place.
//!
//! Invariants: a read that fails is reported and harms nothing. After a write or flush that fails nothing more is
//! acknowledged, and the next mount finds all that was. Whatever a device did to what was written, each mount and each
//! read gives what was written or an error, never other bytes.

use crate::common;

use std::cell::Cell;
use std::rc::Rc;

use crate::common::operation::{HANDLES, Operation, observe};
use crate::common::posix::Model;
use crate::common::world::{Machine, World, same};
use crate::common::{SEGMENT_BLOCKS, formatted, seed};
use lfs::sim::{Executor, Fate, Random, Request, SimDisk};
use lfs::{BLOCK_SIZE, BlockIndex, DeviceError};

const SEGMENTS: usize = 200;

fn work(machine: &mut Machine, transactions: u64) {
    let worker = machine.worker();
    machine.run(async move { worker.transactions(transactions).await });
}

/// A machine that has worked for a while and is about to go on.
fn machine(seed: u64) -> Machine {
    let mut machine = Machine::new(formatted(SEGMENTS, seed), seed);
    work(&mut machine, 40);
    let machine = machine.reboot(seed);
    machine.world.borrow_mut().faulty = true;
    machine
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Flush,
}

/// Lets the request of a kind with this number fail, and all after it if `for_good`.
fn fail(disk: &SimDisk, kind: Kind, number: u64, for_good: bool) -> Rc<Cell<u64>> {
    let count = Rc::new(Cell::new(0));
    let counting = Rc::clone(&count);
    disk.set_faults(move |request| {
        let of_kind = match request {
            Request::Read(..) => Kind::Read,
            Request::Write(..) => Kind::Write,
            Request::Flush => Kind::Flush,
        };
        if of_kind != kind {
            return None;
        }
        counting.set(counting.get() + 1);
        let due = counting.get() == number + 1 || (for_good && counting.get() > number);
        due.then_some(DeviceError::Io)
    });
    count
}

#[test]
fn a_request_that_fails_loses_nothing_that_was_acknowledged() {
    let seed = seed(61);
    let mut failed = 0;
    for (kind, numbers) in [(Kind::Read, 60), (Kind::Write, 60), (Kind::Flush, 40)] {
        for number in 0..numbers {
            for for_good in [false, true] {
                let seed = seed + number;
                let mut machine = machine(seed);
                let count = fail(&machine.disk, kind, number, for_good);
                work(&mut machine, 40);
                machine.disk.clear_faults();
                let reached = count.get() > number;
                failed += u64::from(reached);
                let latched = machine.filesystem.is_failed();
                assert_eq!(
                    latched,
                    reached && kind != Kind::Read,
                    "{kind:?} {number}, seed {seed}"
                );
                if !latched {
                    machine.world.borrow_mut().faulty = false;
                    work(&mut machine, 5);
                    machine.compare(&format!("{kind:?} {number}, seed {seed}"));
                }
                let mut machine = machine.lose_power(seed);
                machine.world.borrow_mut().faulty = false;
                machine.compare(&format!("{kind:?} {number}, seed {seed}, mounted"));
            }
        }
    }
    println!("{failed} requests failed");
    assert!(failed > 200);
}

/// Whether mount and reads say that something is wrong; what they show instead is right.
fn is_reported(disk: &SimDisk, world: &World, what: &str) -> bool {
    let mut executor = Executor::new(3);
    let mounted = disk.clone();
    let mounted = executor.run(async move {
        let mut recovery = common::key::open(mounted).await?;
        while recovery.next_commit().await?.is_some() {}
        recovery.finish().await
    });
    let Ok(filesystem) = mounted.map(Rc::new) else {
        return true;
    };
    let found = filesystem.appended();
    let reading = Rc::clone(&filesystem);
    let tree = executor.run(async move {
        reading
            .read(|transaction| observe(&mut transaction.files(), &[None; HANDLES]))
            .await
    });
    let first = world.states.keys().next().copied().unwrap();
    let state = world.states.range(..=found.max(first)).next_back();
    let reported = match tree {
        Ok(tree) => {
            assert!(
                found >= first,
                "{what}: back before the last mount, {found:?}"
            );
            let mut model = Model::clone(state.unwrap().1);
            for handle in 0..HANDLES {
                model.apply(&Operation::Close { handle }).unwrap();
            }
            same(&tree, &model.observe(), what);
            false
        }
        Err(_) => true,
    };
    // In the background nothing panics either.
    let (running, clock) = (Rc::clone(&filesystem), executor.clock());
    executor.spawn(async move { running.run(&clock).await });
    let clock = executor.clock();
    executor.run(async move { lfs::Clock::sleep_ms(&clock, 3000).await });
    reported
}

#[test]
fn a_flipped_bit_is_reported_or_does_not_matter() {
    let seed = seed(62);
    let mut random = Random::new(seed);
    let mut reported = 0;
    for round in 0..10 {
        let machine = machine(seed + round);
        let blocks = SEGMENTS * SEGMENT_BLOCKS;
        let disk = machine.disk.snapshot(0);
        let bytes = disk.to_bytes();
        let used = (0..blocks).filter(|block| {
            bytes[block * BLOCK_SIZE..][..BLOCK_SIZE]
                .iter()
                .any(|&b| b != 0)
        });
        let used = used.collect::<Vec<_>>();
        for _ in 0..100 {
            let damaged = disk.snapshot(0);
            let block = used[random.index(used.len())];
            let bit = random.index(BLOCK_SIZE * 8);
            damaged.flip_bit(BlockIndex(block as u64), bit);
            let what = format!("seed {}, block {block}, bit {bit}", seed + round);
            reported += u64::from(is_reported(&damaged, &machine.world.borrow(), &what));
        }
    }
    println!("{reported} of 1000 reported");
    assert!(reported > 200);
}

#[test]
fn torn_lost_and_misdirected_writes_are_reported_or_do_not_matter() {
    let seed = seed(63);
    let mut reported = 0;
    let rounds = 250;
    for round in 0..rounds {
        let seed = seed + round;
        let mut machine = machine(seed);
        let mut random = Random::new(seed);
        let wrong_at = random.below(60);
        let number = Cell::new(0);
        machine.disk.set_fates(move |_, blocks| {
            number.set(number.get() + 1);
            if number.get() != wrong_at + 1 {
                return Fate::Written;
            }
            let elsewhere = BlockIndex(random.below((SEGMENTS * SEGMENT_BLOCKS) as u64));
            match random.below(3) {
                0 => Fate::Lost,
                1 => Fate::Torn(random.index(blocks * 8)),
                _ => Fate::Misdirected(elsewhere),
            }
        });
        work(&mut machine, 40);
        machine.disk.clear_fates();
        let disk = machine.disk.snapshot(0);
        let what = format!("seed {seed}");
        reported += u64::from(is_reported(&disk, &machine.world.borrow(), &what));
    }
    println!("{reported} of {rounds} reported");
    assert!(reported > rounds / 20);
}

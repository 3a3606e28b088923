//! Files on a simulated disk against a model of POSIX.
//!
//! Invariants: every transaction, alone or among others at the same time, answers what the model answers or says that
//! the disk is full or the transaction too large, and then has changed nothing. What is read, of the newest
//! state and of every snapshot, is what the model has: before and after every boot. After a shutdown all is
//! there; after a power cut all up to one commit, not older than any that was acknowledged. At every boot, and whenever nothing goes
//! on, an audit finds that segments hold what the table says, that nothing shares its bytes with something else, and
//! that nothing is left over. On a full disk what frees space is always done, and the space comes back.

use crate::common::world::Machine;
use crate::common::{formatted_of_any_kind, seed};
use lfs::sim::Random;

/// Works and boots until there were so many boots; how full the disk was.
fn run(seed: u64, segments: usize, boots: u64) {
    let mut random = Random::new(seed);
    let mut machine = Machine::new(formatted_of_any_kind(segments, seed), random.next_u64());
    for boot in 0..boots {
        let what = format!("seed {seed}, boot {boot}");
        machine.compare(&what);
        for _ in 0..=random.below(3) {
            let workers = 1 + random.index(3);
            machine.work(workers, 30);
            machine.compare(&format!("{what}, while running"));
        }
        let seed = random.next_u64();
        machine = if random.one_in(3) {
            machine.reboot(seed)
        } else {
            machine.lose_power(seed)
        };
    }
    machine.compare("at the end");
    let world = machine.world.borrow();
    println!(
        "{:?}, full {} times: {:?}",
        machine.filesystem.usage(),
        world.full,
        world.kinds
    );
}

#[test]
fn random_transactions_do_what_the_model_does_across_boots() {
    let seed = seed(41);
    for round in 0..8 {
        run(seed + round, 72, 12);
    }
}

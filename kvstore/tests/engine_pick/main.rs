//! Compaction as `pick` decides it, simulated with sizes: what is written, what room it takes, that it keeps up.
//!
//! What must hold (`ENGINE.md`, section 5; issue "more data than memory"), for uniform random overwrites of ten times the data:
//! - 1 KiB values: at most half of what a levelled tree writes, and 1.3 bytes of room for each live byte when commits have ended;
//! - 100-byte values: 1.3 at any time;
//! - compaction is not behind by more than the bound at which commits wait;
//! - what readers see is what was written, and no value that is seen was freed (the simulator knows).
//!
//! The simulator, and the tables that `ENGINE.md` has: `cargo run --release -p kvstore --example pick`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "a test may panic, and its numbers are small or rough"
)]

#[path = "../../examples/pick/engine.rs"]
mod engine;
#[path = "../../examples/pick/figures.rs"]
mod figures;
#[path = "../../examples/pick/levelled.rs"]
mod levelled;
#[path = "../../examples/pick/values.rs"]
mod values;

use figures::{KEYS, LARGE, SMALL, header, print, seed};
use kvstore::engine::pick::Tuning;

/// How far compaction may be behind, in flushes: the bound at which commits wait most, and a step.
const DEBT_MAX: f64 = 16.0;

#[test]
fn large_values_are_written_half_as_often_as_by_a_levelled_tree_and_take_little_room() {
    let seed = seed();
    let levelled = levelled::written(KEYS, KEYS / 80, seed);
    println!("a levelled tree, 1 KiB, a memtable of 1/80: written {levelled:.2}");
    header();
    let figures = engine::run(&LARGE, &Tuning::default(), seed);
    print("1 KiB", &figures);
    assert!(figures.written() * 2.0 <= levelled);
    assert!(figures.space_max <= 1.45 && figures.space_at_rest <= 1.3);
    assert!(figures.debt_max <= DEBT_MAX);
}

#[test]
fn small_values_take_little_room() {
    let seed = seed();
    header();
    let figures = engine::run(&SMALL, &Tuning::default(), seed);
    print("100 bytes", &figures);
    assert!(figures.space_max <= 1.3 && figures.written() < 10.0);
    assert!(figures.debt_max <= DEBT_MAX);
}

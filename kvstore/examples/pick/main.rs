//! Compaction simulated with sizes: what it writes and what room it takes under other tunings. The tables of `ENGINE.md`, section 5.
//!
//! `cargo run --release -p kvstore --example pick`
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "it may panic, and its numbers are small or rough"
)]

mod engine;
mod figures;
mod levelled;
mod values;

use engine::Setting;
use figures::{KEYS, LARGE, SMALL, header, print, seed};
use kvstore::engine::pick::Tuning;

fn main() {
    let seed = seed();
    header();
    for memtables in [40, 80, 160, 320] {
        let levelled = levelled::written(KEYS, KEYS / memtables, seed);
        println!("a levelled tree, memtable 1/{memtables}: {levelled:.2}");
    }
    let default = Tuning::default();
    for early_percent in [0, 50, 90, 100] {
        for garbage_percent in [12, 16, 20, 24] {
            let setting = Setting {
                garbage_percent,
                early_percent,
                ..LARGE
            };
            let figures = engine::run(&setting, &default, seed);
            print(
                &format!("known {early_percent} %, garbage {garbage_percent} %"),
                &figures,
            );
        }
    }
    for sweep_items in [4, 16] {
        let setting = Setting {
            sweep_items,
            ..LARGE
        };
        print(
            &format!("sweep {sweep_items}"),
            &engine::run(&setting, &default, seed),
        );
    }
    for (large_part, tier_runs) in [(8, 6), (8, 12), (4, 5), (16, 5), (24, 5)] {
        let tuning = Tuning {
            large_part,
            tier_runs,
            ..default
        };
        let figures = engine::run(&LARGE, &tuning, seed);
        print(&format!("one in {large_part}, K {tier_runs}"), &figures);
    }
    for (base_part, tier_runs) in [(4, 6), (6, 6), (7, 5), (7, 8), (8, 6)] {
        let tuning = Tuning {
            base_part,
            tier_runs,
            ..default
        };
        let figures = engine::run(&SMALL, &tuning, seed);
        print(
            &format!("100 bytes, R {base_part}, K {tier_runs}"),
            &figures,
        );
    }
}

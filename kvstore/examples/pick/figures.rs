//! What is simulated, and how its figures are printed.

use crate::engine::{Figures, Setting};

pub(crate) const KEYS: u32 = 1 << 17;

/// Values of 1 KiB, whose entries in runs take 50 bytes. A flush comes when the window is full: with 32 MiB of it and 2.5 GiB of data, after 1/125 of the keys.
pub(crate) const LARGE: Setting = Setting {
    keys: KEYS,
    flush_keys: KEYS / 125,
    key_bytes: 16,
    value_bytes: 1024,
    entry_bytes: 50,
    is_large: true,
    log_percent: 110,
    garbage_percent: 20,
    idle_garbage_percent: 12,
    sweep_items: 8,
    early_percent: 90,
};

/// Values of 100 bytes, in the runs. A memtable is a fortieth of the data.
pub(crate) const SMALL: Setting = Setting {
    flush_keys: KEYS / 40,
    value_bytes: 100,
    entry_bytes: 124,
    is_large: false,
    log_percent: 130,
    ..LARGE
};

pub(crate) fn print(name: &str, figures: &Figures) {
    println!(
        "| {name} | {:.2} | {:.2} + {:.2} + {:.2} | {:.2} | {:.2} | **{:.2}** | {:.2}, **{:.2}** | {:.3} + {:.3} | {} | {:.1} |",
        figures.log,
        figures.flushes,
        figures.tiers,
        figures.base,
        figures.tree,
        figures.cleaner,
        figures.written(),
        figures.space_max,
        figures.space_at_rest,
        figures.not_found_max,
        figures.not_swept_max,
        figures.runs_max,
        figures.debt_max,
    );
}

pub(crate) fn header() {
    println!(
        "| | log | index: flushes + tiers + base | tree | cleaner | written | room: busy, at rest | dead: not found + not swept | runs | debt, flushes |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
}

/// The seed, printed so that a run can be had again with `SILTSTONE_SEED`.
pub(crate) fn seed() -> u64 {
    let seed = lfs::sim::seed_from(std::env::var("SILTSTONE_SEED").ok().as_deref(), 1);
    println!("SILTSTONE_SEED={seed}");
    seed
}

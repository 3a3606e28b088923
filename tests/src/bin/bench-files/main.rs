//! `make bench-files`: what the file system costs, in counts, which neither an emulator nor a busy host distorts.
//!
//! The figures also go to `target/bench-files.jsonl` as `make bench` writes them.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    reason = "a benchmark reports by panicking, and its numbers are counts far inside every range"
)]

mod disk;
mod library;
mod loop_disk;
mod patterns;
mod programs;
mod report;
mod simulated;

use crate::report::Report;

fn main() {
    loop_disk::enter_own_namespace();
    let mut report = Report::default();
    patterns::measure(&mut report);
    if let Some(goals) = report.goals() {
        print!("{goals}");
    }
    println!(
        "as lines of JSON: {}",
        report.figures.save("bench-files.jsonl").display()
    );
}

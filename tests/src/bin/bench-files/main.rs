//! `make bench-files`: what the file system costs, in counts, which neither an emulator nor a busy host distorts.
//!
//! ```text
//! bench-files [--mib N] [--file PATH]… [--docs] [THEME…]
//! ```
//!
//! Without a theme all of them run. Figures also go to `target/bench-files.jsonl`, as `make bench` writes them, and the
//! picture of the cleaner's cost to `target/cleaner.svg`; with `--docs` tables and picture go to `docs/bench`.
//! `--mib` is the size of the disk that the cleaner is measured on, `--file` something more to compress.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    reason = "a benchmark reports by panicking, and its numbers are counts far inside every range"
)]

mod analysis;
mod checking;
mod cleaning;
mod codecs;
mod curve;
mod disk;
mod library;
mod loop_disk;
mod mounting;
mod patterns;
mod programs;
mod simulated;

use std::fs;
use std::time::Instant;

use tests::report::Report;

const CLEANER_DISK_MIB: u64 = 128;

const DOCS: &str = "docs/bench";

/// What can be measured, in this order.
const THEMES: [&str; 5] = ["patterns", "cleaner", "mount", "check", "codecs"];

struct Options {
    cleaner_disk_mib: u64,
    docs: bool,
    files: Vec<String>,
    themes: Vec<String>,
}

fn main() {
    let words = std::env::args().skip(1).collect::<Vec<_>>();
    if let [checking::CHECK_IMAGE, ..] = words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        checking::check_image(&words[1..]);
        return;
    }
    let options = options(words);
    loop_disk::enter_own_namespace();
    let begun = Instant::now();
    let mut report = Report::default();
    for theme in THEMES {
        if options.themes.is_empty() || options.themes.iter().any(|wanted| wanted == theme) {
            measure(theme, &options, &mut report);
        }
    }
    report.show_goals();
    let path = report.figures.save("bench-files.jsonl");
    println!("\nas lines of JSON: {}", path.display());
    println!("took {} s", begun.elapsed().as_secs());
    if options.docs {
        save_docs(&report);
    }
}

fn options(words: Vec<String>) -> Options {
    let mut options = Options {
        cleaner_disk_mib: CLEANER_DISK_MIB,
        docs: false,
        files: Vec::new(),
        themes: Vec::new(),
    };
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--mib" => {
                let mib = words.next().and_then(|mib| mib.parse().ok());
                options.cleaner_disk_mib = mib.expect("--mib takes a number");
            }
            "--file" => options
                .files
                .push(words.next().expect("--file takes a path")),
            "--docs" => options.docs = true,
            theme if THEMES.contains(&theme) => options.themes.push(word),
            other => {
                panic!("{other}: themes are {THEMES:?}, options --mib N, --file PATH and --docs")
            }
        }
    }
    options
}

fn measure(theme: &str, options: &Options, report: &mut Report) {
    match theme {
        "patterns" => patterns::measure(report),
        "cleaner" => measure_cleaner(options, report),
        "mount" => mounting::measure(report),
        "check" => checking::measure(report),
        "codecs" => codecs::measure(report, &options.files),
        _ => unreachable!("a theme of the list"),
    }
}

fn measure_cleaner(options: &Options, report: &mut Report) {
    let mib = options.cleaner_disk_mib;
    let points = cleaning::measure(report, mib);
    let directory = if options.docs { DOCS } else { "target" };
    let directory = tests::root().join(directory);
    fs::create_dir_all(&directory).unwrap();
    let path = directory.join("cleaner.svg");
    curve::draw(&points, mib, &path).expect("a picture");
    println!("   as a picture: {}", path.display());
}

fn save_docs(report: &Report) {
    let text = format!("{DOCS_HEAD}{}", report.markdown());
    fs::write(tests::root().join(DOCS).join("README.md"), text).unwrap();
}

const DOCS_HEAD: &str = "\
# What the file system costs

Made by `make bench-docs`; `DEVELOPING.md`, \"Benchmarks\", says what is measured and how. Counts, not seconds: they are the
same on any machine, but for what a scheduler decides where several programs work at once.

![The write cost of the cleaner](cleaner.svg)
";

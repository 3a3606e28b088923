//! `make bench-engine`: the key-value store beside embedded peers, in one run on one file system with the same durability.
//!
//! ```text
//! bench-engine [--docs | --smoke] [--engine NAME]… [CASE…]
//! ```
//!
//! - [`engine`], `engines`: what is asked of everybody, and who answers; `counted`: our disk;
//! - [`data`], [`accounts`]: what is stored, and how it is known whether it is right;
//! - [`work`], [`cases`], [`settings`]: what clients do, in which phases, and how long;
//! - [`child`], [`measured`], [`flushes`], [`usage`], [`histogram`]: one case on one engine, in a process of its own, so
//!   that its memory and its bytes are its own;
//! - [`rounds`], [`tables`], [`pictures`]: all of them in turns, and what came of it.
//!
//! Everybody is told to make each commit durable, and to take the same memory. Engines take turns within each round, so that what else
//! the machine does meets all of them; a ratio is one of the same round, and the median of the rounds is shown.
//!
//! After each case it is checked that the store has what was promised, before and after it is opened again. `--smoke`, and
//! `cargo test`, do little work but check every byte of it.
#![allow(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a benchmark reports by panicking, and its numbers are counts far inside every range"
)]

mod accounts;
mod cases;
mod child;
mod counted;
mod data;
mod engine;
mod engines;
mod flushes;
mod histogram;
mod measured;
mod pictures;
mod rounds;
mod settings;
mod tables;
mod usage;
mod work;

use std::fs;
use std::path::Path;
use std::time::Instant;

use ::tests::report::Report;

use crate::cases::Case;
use crate::engine::Name;
use crate::rounds::Rounds;
use crate::settings::Settings;

/// What a measured process is started with: engine, case, directory.
const CHILD: &str = "--child";

const DOCS: &str = "docs/bench";

struct Options {
    docs: bool,
    smoke: bool,
    engines: Vec<Name>,
    cases: Vec<&'static Case>,
}

fn main() {
    let words = std::env::args().skip(1).collect::<Vec<_>>();
    if let [CHILD, mode, engine, case, directory] =
        words.iter().map(String::as_str).collect::<Vec<_>>()[..]
    {
        rounds::answer(mode, engine, case, Path::new(directory));
        return;
    }
    let options = options(words);
    let settings = Settings::from_environment(options.smoke);
    let begun = Instant::now();
    let rounds = Rounds::run(&settings, &options.engines, &options.cases);
    let mut report = Report::default();
    tables::show(&rounds, &settings, &mut report);
    report.show_goals();
    if !options.smoke {
        save(&options, &rounds, &report);
    }
    println!("took {} s", begun.elapsed().as_secs());
    let failures = rounds.failures();
    assert!(failures.is_empty(), "failed: {failures:#?}");
}

fn options(words: Vec<String>) -> Options {
    let mut options = Options {
        docs: false,
        smoke: false,
        engines: Vec::new(),
        cases: Vec::new(),
    };
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--docs" => options.docs = true,
            "--smoke" => options.smoke = true,
            "--engine" => {
                let name = words.next().expect("--engine takes a name");
                let names = Name::ALL.map(Name::text);
                let engine = Name::parse(&name);
                options
                    .engines
                    .push(engine.unwrap_or_else(|| panic!("{name}: none of {names:?}")));
            }
            name => {
                let names = Case::all().map(|case| case.name).collect::<Vec<_>>();
                let case = Case::find(name);
                options.cases.push(case.unwrap_or_else(|| {
                    panic!("{name}: options are --docs, --smoke and --engine NAME, cases {names:?}")
                }));
            }
        }
    }
    if options.engines.is_empty() {
        options.engines = Name::ALL.to_vec();
    }
    if options.cases.is_empty() {
        options.cases = Case::all().collect();
    }
    options
}

fn save(options: &Options, rounds: &Rounds, report: &Report) {
    let directory = tests::root().join(if options.docs { DOCS } else { "target" });
    fs::create_dir_all(&directory).expect("a directory");
    let pictures = pictures::draw(rounds, &directory);
    for (_, file) in &pictures {
        println!("as a picture: {}", directory.join(file).display());
    }
    let path = report.figures.save("bench-engine.jsonl");
    println!("as lines of JSON: {}", path.display());
    if options.docs {
        let pictures = pictures
            .iter()
            .map(|(title, file)| format!("\n![{title}]({file})\n"));
        let text = format!(
            "{DOCS_HEAD}{}{}",
            pictures.collect::<String>(),
            report.markdown()
        );
        fs::write(directory.join("engine.md"), text).expect("docs are writable");
    }
}

const DOCS_HEAD: &str = "\
# The key-value store beside embedded peers

Made by `make bench-engine-docs`; `DEVELOPING.md`, \"Benchmarks\", says what is measured and how. Rates belong to the machine
they were measured on; ratios, bytes and flushes say more.
";

#[cfg(test)]
mod smoke {
    use super::*;

    /// Runs all cases on an engine with little work, and checks every byte of what it keeps.
    fn keeps_its_promises(name: Name) {
        let settings = Settings::smoke();
        for case in Case::all() {
            let directory = tempfile::tempdir().expect("a directory");
            let result = child::run(name, case, &settings, directory.path());
            for phase in &result.phases {
                let what = format!("{} {}: {phase:?}", case.name, phase.name);
                assert!(phase.operations > 0, "{what}");
                // Tests of other engines flush in the same process, so more is not to be said here.
                assert!(phase.commits == 0 || phase.flushes > 0, "{what}");
                assert!(
                    phase.attempts == 0 || phase.attempts >= phase.commits,
                    "{what}"
                );
            }
        }
    }

    macro_rules! engines {
        ($($test:ident: $name:ident,)*) => {
            $(
                #[test]
                fn $test() {
                    keeps_its_promises(Name::$name);
                }
            )*
        };
    }

    engines! {
        siltstone: Ours,
        redb: Redb,
        fjall: Fjall,
        sled: Sled,
        lmdb: Lmdb,
        sqlite: Sqlite,
        surrealkv: SurrealKv,
    }

    #[cfg(feature = "rocksdb")]
    engines! {
        rocksdb: RocksDb,
    }
}
